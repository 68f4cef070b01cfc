/* mapping.h - a file as read-only memory, mapped or copied, and its identity.
 *
 * A mapped file that another process truncates kills the reader with SIGBUS, so
 * AUTO maps only what others may not write (owner is root or us, no group or
 * other write bit) and copies the rest. */
#ifndef BL_MAPPING_H
#define BL_MAPPING_H

#include "base/base.h"

typedef struct bl_file_id {
    uint64_t device, inode, size;
    int64_t mtime_ns;
} bl_file_id;

typedef struct bl_mapping {
    const uint8_t *data;
    size_t size;
    bl_file_id id;
    int mapped;      /* 1: munmap at close; 0: a copy, or a built-in (memory NULL) */
    void *memory;    /* the copy */
    bl_alloc alloc;
} bl_mapping;

/* path: length bytes, may not hold a NUL.  load: BITLM_LOAD_*.  Refuses directories,
 * FIFOs and devices (opened O_NONBLOCK | O_CLOEXEC), and a file that changes size while
 * it is copied.  IO, ARG, NOMEM.  poll may be NULL. */
bitlm_status bl_mapping_open(const char *path, size_t length, int32_t load, const bl_alloc *alloc,
                             bl_poll *poll, bl_mapping *mapping, bitlm_error *error);
void bl_mapping_close(bl_mapping *mapping);
/* What lies there will not be needed soon: whole pages of it stop counting as this process's memory. */
void bl_mapping_drop(const bl_mapping *mapping, const uint8_t *data, size_t size);
/* The identity a path has now, without opening it for long. */
bitlm_status bl_mapping_identify(const char *path, size_t length, bl_file_id *id,
                                 bitlm_error *error);

#endif
