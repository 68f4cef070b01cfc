/* builtin.h - the models linked in: read-only bytes in the library's own pages,
 * which all processes that load it share.
 *
 * Called by core/file, which maps a built-in as if it were a file. */
#ifndef BL_BUILTIN_H
#define BL_BUILTIN_H

#include <stddef.h>
#include <stdint.h>

/* The layout is known to incbin.sh, which writes the table. */
typedef struct bl_builtin {
    const char *name;    /* "story", "embed" */
    const uint8_t *data; /* a GGUF file, 64-byte aligned */
    size_t size;
} bl_builtin;

const bl_builtin *bl_builtin_find(const char *name, size_t length); /* NULL if there is none */
const bl_builtin *bl_builtin_at(int i);                             /* NULL past the end */

#endif
