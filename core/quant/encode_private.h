/* encode_private.h - what encode.c and encode_group.c share. */
#ifndef BL_ENCODE_PRIVATE_H
#define BL_ENCODE_PRIVATE_H

#include "quant/quant.h"

/* 1/d, or 0 where there is nothing to scale: d is zero, or so small that 1/d overflows (its half float is zero
 * then). */
static inline float bl_inverse(float d) {
    float inv = d != 0 ? 1.0f / d : 0.0f;
    return inv - inv == 0 ? inv : 0.0f;
}

/* x as a half float; 0 if it is not finite there. */
static inline int bl_put_f16(uint8_t *p, float x) {
    uint16_t h = bl_f32_to_f16(x);
    p[0] = (uint8_t)h;
    p[1] = (uint8_t)(h >> 8);
    return (h & 0x7c00) != 0x7c00;
}

/* One block each; 0 if a scale does not fit its half float. */
int bl_encode_q4_0(const float *x, uint8_t *b);
int bl_encode_q4_1(const float *x, uint8_t *b);
/* n blocks: how many before the first whose scale does not fit its half float. */
uint64_t bl_encode_q4_k(const float *x, uint64_t n, uint8_t *out);
uint64_t bl_encode_q6_k(const float *x, uint64_t n, uint8_t *out);
/* 64 trits; the scale before them is the caller's. */
void bl_pack_q2_0(const int8_t *q, uint8_t *b);

#endif
