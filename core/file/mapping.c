/* mapping.c - a file as read-only memory, mapped or copied, and its identity.
 *
 * The descriptor is closed before the call returns: a mapping lives on without
 * it, and a copy is a snapshot.  Whether AUTO maps or copies is decided from the
 * opened descriptor, never from the path, so that a rename in between changes
 * nothing.  Called by core/model (opening a model) and the command. */
#define _GNU_SOURCE
#include "file/mapping.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Bytes read between two polls: about 1 ms from the page cache. */
#define COPY_STEP ((size_t)1 << 20)
/* Kernels like tensors at addresses that are multiples of the file's alignment. */
#define COPY_ALIGN 64

static const uint8_t empty_file[1];

static void identity(const struct stat *st, bl_file_id *id) {
    id->device = (uint64_t)st->st_dev;
    id->inode = (uint64_t)st->st_ino;
    id->size = (uint64_t)st->st_size;
    id->mtime_ns = (int64_t)((uint64_t)st->st_mtim.tv_sec * 1000000000u + (uint64_t)st->st_mtim.tv_nsec);
}

/* The path as a C string in buffer (PATH_MAX bytes); shown gets it for messages. */
static bitlm_status c_path(const char *path, size_t length, char *buffer, char *shown, size_t shown_size,
                           bitlm_error *error) {
    bl_show(shown, shown_size, path, length);
    if (length == 0)
        return bl_error(error, BITLM_ARG, "the path of the file is empty");
    if (memchr(path, 0, length) != NULL)
        return bl_error(error, BITLM_ARG, "the path '%s' holds a NUL byte", shown);
    if (length >= PATH_MAX)
        return bl_error_io(error, ENAMETOOLONG, "cannot open '%s' (%zu bytes, at most %d)", shown, length,
                           PATH_MAX - 1);
    memcpy(buffer, path, length);
    buffer[length] = '\0';
    return BITLM_OK;
}

static bitlm_status check_regular(const struct stat *st, const char *shown, bitlm_error *error) {
    const char *what = "something else";
    if (S_ISREG(st->st_mode))
        return BITLM_OK;
    if (S_ISDIR(st->st_mode))
        return bl_error_io(error, EISDIR, "cannot read '%s'", shown);
    if (S_ISFIFO(st->st_mode))
        what = "a FIFO";
    else if (S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode))
        what = "a device";
    else if (S_ISSOCK(st->st_mode))
        what = "a socket";
    return bl_error(error, BITLM_IO, "'%s' is %s, not a regular file", shown, what);
}

/* The size, or an error if it does not fit the address space. */
static bitlm_status usable_size(const struct stat *st, const char *shown, size_t *size, bitlm_error *error) {
    if (st->st_size < 0 || (uint64_t)st->st_size > (uint64_t)PTRDIFF_MAX - COPY_ALIGN)
        return bl_error(error, BITLM_LIMIT, "'%s' has %lld bytes, more than this machine can address", shown,
                        (long long)st->st_size);
    *size = (size_t)st->st_size;
    return BITLM_OK;
}

static bitlm_status copy_file(int fd, const char *shown, const struct stat *before, size_t size,
                              const bl_alloc *alloc, bl_poll *poll, bl_mapping *mapping, bitlm_error *error) {
    bitlm_status status = BITLM_OK;
    struct stat after;
    bl_file_id id_before, id_after;
    uint8_t one_more;
    ssize_t got;
    uint8_t *memory = bl_malloc(alloc, size + COPY_ALIGN - 1);
    if (memory == NULL)
        return bl_error_nomem(error, size + COPY_ALIGN - 1, "a copy of the model file");
    uint8_t *data = memory + (-(uintptr_t)memory & (COPY_ALIGN - 1));

    for (size_t done = 0; done < size;) {
        if (bl_poll_check(poll) != BITLM_OK) {
            status = bl_poll_error(poll, error);
            goto fail;
        }
        got = pread(fd, data + done, BL_MIN(size - done, COPY_STEP), (off_t)done);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            status = bl_error_io(error, errno, "cannot read '%s'", shown);
            goto fail;
        }
        if (got == 0) {
            status = bl_error(error, BITLM_IO, "'%s' shrank from %zu to %zu bytes while it was read", shown,
                              size, done);
            goto fail;
        }
        done += (size_t)got;
    }
    do
        got = pread(fd, &one_more, 1, (off_t)size);
    while (got < 0 && errno == EINTR);
    if (got < 0 || fstat(fd, &after) != 0) {
        status = bl_error_io(error, errno, "cannot read '%s'", shown);
        goto fail;
    }
    identity(before, &id_before);
    identity(&after, &id_after);
    if (got > 0 || id_before.size != id_after.size || id_before.mtime_ns != id_after.mtime_ns) {
        status = bl_error(error, BITLM_IO, "'%s' was written to while it was read", shown);
        goto fail;
    }
    mapping->data = data;
    mapping->memory = memory;
    return BITLM_OK;

fail:
    bl_free(alloc, memory);
    return status;
}

bitlm_status bl_mapping_open(const char *path, size_t length, int32_t load, const bl_alloc *alloc,
                             bl_poll *poll, bl_mapping *mapping, bitlm_error *error) {
    char name[PATH_MAX], shown[160];
    bl_mapping result = {0};
    struct stat st;
    bitlm_status status = c_path(path, length, name, shown, sizeof shown, error);
    if (status != BITLM_OK)
        return status;
    if (load != BITLM_LOAD_AUTO && load != BITLM_LOAD_MMAP && load != BITLM_LOAD_COPY)
        return bl_error(error, BITLM_ARG, "load is %d, but must be auto, mmap or copy", (int)load);
    result.alloc = alloc != NULL ? *alloc : bl_alloc_from_host(NULL);

    /* O_NONBLOCK: opening a FIFO must not wait for its writer. */
    int fd = open(name, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return bl_error_io(error, errno, "cannot open '%s'", shown);
    if (fstat(fd, &st) != 0) {
        status = bl_error_io(error, errno, "cannot open '%s'", shown);
        goto fail;
    }
    status = check_regular(&st, shown, error);
    if (status == BITLM_OK)
        status = usable_size(&st, shown, &result.size, error);
    if (status != BITLM_OK)
        goto fail;
    identity(&st, &result.id);

    if (result.size == 0) {
        result.data = empty_file; /* mmap refuses length 0 */
    } else {
        int ours = st.st_uid == 0 || st.st_uid == geteuid();
        int map = load == BITLM_LOAD_MMAP ||
                  (load == BITLM_LOAD_AUTO && ours && (st.st_mode & (S_IWGRP | S_IWOTH)) == 0);
        if (map) {
            void *memory = mmap(NULL, result.size, PROT_READ, MAP_PRIVATE, fd, 0);
            if (memory != MAP_FAILED) {
                result.data = memory;
                result.mapped = 1;
            } else if (load == BITLM_LOAD_MMAP) {
                status = bl_error_io(error, errno, "cannot map '%s' (%zu bytes)", shown, result.size);
                goto fail;
            } /* else some file systems cannot map: copy */
        }
        if (!result.mapped)
            status = copy_file(fd, shown, &st, result.size, &result.alloc, poll, &result, error);
        if (status != BITLM_OK)
            goto fail;
    }
    *mapping = result;

fail:
    close(fd);
    return status;
}

void bl_mapping_close(bl_mapping *mapping) {
    if (mapping == NULL)
        return;
    if (mapping->mapped)
        munmap((void *)(uintptr_t)mapping->data, mapping->size);
    else if (mapping->memory != NULL)
        bl_free(&mapping->alloc, mapping->memory);
    memset(mapping, 0, sizeof *mapping);
}

void bl_mapping_drop(const bl_mapping *mapping, const uint8_t *data, size_t size) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = ((uintptr_t)data + page - 1) & ~(page - 1), end = ((uintptr_t)data + size) & ~(page - 1);
    if (mapping->mapped && begin < end)
        madvise((void *)begin, end - begin, MADV_DONTNEED);
}

bitlm_status bl_mapping_identify(const char *path, size_t length, bl_file_id *id, bitlm_error *error) {
    char name[PATH_MAX], shown[160];
    struct stat st;
    bitlm_status status = c_path(path, length, name, shown, sizeof shown, error);
    if (status != BITLM_OK)
        return status;
    if (stat(name, &st) != 0)
        return bl_error_io(error, errno, "cannot open '%s'", shown);
    status = check_regular(&st, shown, error);
    if (status == BITLM_OK)
        identity(&st, id);
    return status;
}
