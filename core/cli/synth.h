/* synth.h - model files of known shapes with random weights: for speed measurements and
 * tests on a machine that has no large model. */
#ifndef BL_SYNTH_H
#define BL_SYNTH_H

#include "base/tensor_type.h"

/* What is to be written. */
typedef struct bl_synth_spec {
    const char *shape;        /* one of bl_shape_names() */
    int32_t type, embd_type;  /* BL_TYPE_* that bl_can_encode; below 0: I2_S (TQ2_0 for experts), F16 */
    uint64_t seed;
    uint32_t context;         /* tokens the file says it was made for; 0: the shape's */
    const char *architecture; /* "bitnet-b1.58", bitnet.cpp's name, or "bitnet", llama.cpp's; NULL: the first */
} bl_synth_spec;

/* The bytes of the file depend on the spec alone, and the weights on (shape, seed): every ternary
 * type of linear layers holds the same trits and scales.  progress (may be NULL) gets fractions
 * from 0 to 1.  Memory stays below 16 MiB.  ARG (unknown shape or architecture, type that is not
 * written), IO, NOMEM, CANCELED: then there is no file at `path` but the one that was there before. */
bitlm_status bl_synth(const bl_synth_spec *spec, const char *path, const bl_alloc *alloc, bl_poll *poll,
                        void (*progress)(void *context, double fraction), void *context,
                      bitlm_error *error);

#endif
