/* builtin.c - finds a built-in model by name.
 *
 * The table and the bytes come from builtin_data.S, which incbin.sh generates
 * from the .gguf files beside it: the assembler copies them into .rodata, so
 * nothing is unpacked or copied at run time. */
#include "builtin/builtin.h"

#include <string.h>

extern const bl_builtin bl_builtin_table[]; /* ends with a NULL name */

const bl_builtin *bl_builtin_at(int i) {
    for (int j = 0; i >= 0 && bl_builtin_table[j].name; j++)
        if (j == i)
            return &bl_builtin_table[j];
    return NULL;
}

const bl_builtin *bl_builtin_find(const char *name, size_t length) {
    for (const bl_builtin *b = bl_builtin_table; b->name; b++)
        if (strlen(b->name) == length && memcmp(b->name, name, length) == 0)
            return b;
    return NULL;
}
