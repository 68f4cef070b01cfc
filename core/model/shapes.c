/* shapes.c - the shapes of known models. */
#include "model/shapes.h"

#include <stddef.h>
#include <string.h>

static const bl_shape shapes[] = {
    {"tiny", 256, 2, 4, 2, 768, 512, 512, 10000.0f, 0, 0},
    {"mini-2b4t", 768, 2, 6, 2, 1280, 512, 1024, 500000.0f, 0, 0},
    {"100m", 768, 12, 12, 12, 2048, 32000, 2048, 10000.0f, 0, 0},
    {"700m", 1536, 24, 16, 16, 4096, 32002, 2048, 10000.0f, 0, 0},
    {"bitnet-2b4t", 2560, 30, 20, 5, 6912, 128256, 4096, 500000.0f, 0, 0},
    {"7b", 4096, 32, 32, 8, 11008, 32000, 4096, 10000.0f, 0, 0},
    {"moe-tiny", 256, 2, 4, 2, 256, 512, 512, 10000.0f, 8, 2},
};

const bl_shape *bl_shape_named(const char *name) {
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        if (strcmp(shapes[i].name, name) == 0)
            return &shapes[i];
    return NULL;
}

const char *bl_shape_names(void) { return "tiny, mini-2b4t, 100m, 700m, bitnet-2b4t, 7b, moe-tiny"; }
