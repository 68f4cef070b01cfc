/* shapes.h - the shapes of known models by name, for files of random weights (core/cli/synth.c) and for memory plans
 * (core/run/memory_shape.c). */
#ifndef BL_SHAPES_H
#define BL_SHAPES_H

#include <stdint.h>

typedef struct bl_shape {
    const char *name;
    uint32_t hidden, layers, heads, kv_heads, ffn, vocab, context;
    float theta;
    uint32_t experts, used; /* 0: a dense model */
} bl_shape;

const bl_shape *bl_shape_named(const char *name); /* NULL: there is none */
const char *bl_shape_names(void);                 /* "tiny, 100m, …" */

#endif
