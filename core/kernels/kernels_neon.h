/* kernels_neon.h - what the NEON files share: the sum16 order in four vectors, the vector exponential,
 * the dot product of four bytes, and their kernels' declarations.
 *
 * Three sets of instructions: ARMv8-A as every 64-bit processor has it, with DOTPROD, and with I8MM.  The
 * files of integer products are compiled once for each that gains by it, under names that NEON_NAME makes.
 * Included only by core/kernels' *_neon.c, which are compiled with -ffp-contract=off. */
#ifndef BL_KERNELS_NEON_H
#define BL_KERNELS_NEON_H

#include <arm_neon.h>
#include <math.h>
#include <string.h>

#include "kernels/kernels.h"

#define INLINE static inline __attribute__((always_inline))

#if defined(__ARM_FEATURE_MATMUL_INT8)
#define NEON_NAME(name) name##_i8mm
#elif defined(__ARM_FEATURE_DOTPROD)
#define NEON_NAME(name) name##_dotprod
#else
#define NEON_NAME(name) name##_neon
#endif

/* The end of the sum16 order; v[i] holds lanes 4i .. 4i+3. */
INLINE float sum16(float32x4_t v0, float32x4_t v1, float32x4_t v2, float32x4_t v3) {
    float32x4_t v = vaddq_f32(vaddq_f32(v0, v2), vaddq_f32(v1, v3));
    float32x2_t x = vadd_f32(vget_low_f32(v), vget_high_f32(v));
    return vget_lane_f32(x, 0) + vget_lane_f32(x, 1);
}

/* bl_expf of four values, step for step. */
INLINE float32x4_t exp4(float32x4_t x) {
    uint32x4_t tiny = vcltq_f32(x, vdupq_n_f32(-87.0f));
    x = vminq_f32(x, vdupq_n_f32(88.0f)); /* a NaN stays */
    float32x4_t n = vrndnq_f32(vmulq_f32(x, vdupq_n_f32(0x1.715476p+0f)));
    float32x4_t r = vfmaq_f32(x, n, vdupq_n_f32(-0x1.63p-1f));
    r = vfmaq_f32(r, n, vdupq_n_f32(0x1.bd0106p-13f));
    float32x4_t p = vdupq_n_f32(0x1.6a23dp-10f);
    p = vfmaq_f32(vdupq_n_f32(0x1.123a2p-7f), p, r);
    p = vfmaq_f32(vdupq_n_f32(0x1.5558f2p-5f), p, r);
    p = vfmaq_f32(vdupq_n_f32(0x1.555492p-3f), p, r);
    p = vfmaq_f32(vdupq_n_f32(0x1.fffffcp-2f), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.0f), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.0f), p, r);
    int32x4_t bits = vaddq_s32(vreinterpretq_s32_f32(p), vshlq_n_s32(vcvtq_s32_f32(n), 23));
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_s32(bits), tiny));
}

INLINE float16x4_t half_bits(uint16x4_t h) { return vreinterpret_f16_u16(h); }

/* Four halves as floats. */
INLINE float32x4_t load_f16(const uint16_t *p) { return vcvt_f32_f16(half_bits(vld1_u16(p))); }

INLINE float one_f16(uint16_t h) { return vgetq_lane_f32(vcvt_f32_f16(half_bits(vdup_n_u16(h))), 0); }

/* acc + the sums of each four products; |a*b| of two neighbours together fit int16 (|x| <= 127 on one side). */
INLINE int32x4_t dot4(int32x4_t acc, int8x16_t a, int8x16_t b) {
#if defined(__ARM_FEATURE_DOTPROD)
    return vdotq_s32(acc, a, b);
#else
    int16x8_t low = vmull_s8(vget_low_s8(a), vget_low_s8(b)), high = vmull_high_s8(a, b);
    return vpadalq_s16(acc, vpaddq_s16(low, high));
#endif
}

/* Four bytes, in each dword. */
INLINE int8x16_t dword(const void *p) {
    int32_t v;
    memcpy(&v, p, sizeof v);
    return vreinterpretq_s8_s32(vdupq_n_s32(v));
}

/* Trit of each byte's leading digit: (q*3) >> 8 is (q > 85) + (q > 170), and a true compare is -1. */
INLINE uint8x16_t leading_trit(uint8x16_t q) {
    uint8x16_t one = vcgtq_u8(q, vdupq_n_u8(85)), two = vcgtq_u8(q, vdupq_n_u8(170));
    return vsubq_u8(vdupq_n_u8(0), vaddq_u8(one, two));
}

INLINE uint8x16_t times3(uint8x16_t q) { return vaddq_u8(q, vaddq_u8(q, q)); }

/* A TQ1_0 block's 48 bytes of five trits and 4 of four as 256 codes. */
INLINE void tq1_0_codes(const uint8_t *block, uint8_t *codes) {
    uint8x16_t a = vld1q_u8(block), b = vld1q_u8(block + 16), c = vld1q_u8(block + 32);
    for (int n = 0; n < 5; n++) {
        vst1q_u8(codes + n * 32, leading_trit(a));
        vst1q_u8(codes + n * 32 + 16, leading_trit(b));
        vst1q_u8(codes + 160 + n * 16, leading_trit(c));
        a = times3(a);
        b = times3(b);
        c = times3(c);
    }
    uint32_t last;
    memcpy(&last, block + 48, sizeof last);
    uint8x16_t h0 = vreinterpretq_u8_u32(vdupq_n_u32(last)), h1 = times3(h0), h2 = times3(h1), h3 = times3(h2);
    uint32x4_t h = vreinterpretq_u32_u8(h0);
    h = vcopyq_laneq_u32(h, 1, vreinterpretq_u32_u8(h1), 1);
    h = vcopyq_laneq_u32(h, 2, vreinterpretq_u32_u8(h2), 2);
    h = vcopyq_laneq_u32(h, 3, vreinterpretq_u32_u8(h3), 3);
    vst1q_u8(codes + 240, leading_trit(vreinterpretq_u8_u32(h)));
}

/* rows_neon.c */
void bl_rmsnorm_neon(const float *x, const float *w, int64_t n, float eps, float *y);
float bl_quant_row_neon(const float *x, int64_t n, int8_t *q, int32_t *sum);
void bl_quant_groups_neon(const float *x, int64_t n, int64_t group, int8_t *q, float *d, int32_t *sums);
void bl_residual_neon(const float *x, int64_t n, int64_t group, const int8_t *q, const float *d, float *r);
void bl_relu2_mul_neon(const float *gate, const float *up, int64_t n, float *out);
void bl_silu_mul_neon(const float *gate, const float *up, int64_t n, float *out);
void bl_add_neon(float *x, const float *y, int64_t n);
void bl_rope_neon(float *head, const float *cs, const float *sn, int64_t n_rot, int neox);
void bl_softmax_neon(float *p, int64_t n, int64_t n_padded);
float bl_exp_sum_neon(const float *l, int64_t n, float *max);
float bl_dot_f32_neon(const float *a, const float *b, int64_t n);
void bl_widen_neon(int32_t type, const uint8_t *in, int64_t n, float *out);

/* hamming_neon.c */
uint64_t bl_hamming_neon(const uint8_t *a, const uint8_t *b, int64_t n);
int64_t bl_hamming_below_neon(const uint8_t *query, const uint8_t *codes, int64_t n, int64_t bytes,
                              uint32_t below, uint32_t *rows, uint32_t *distances);

/* fit_neon.c */
void bl_fit_q4_k_neon(const float *x, int64_t n, float *steps, float *minima);
void bl_fit_q6_k_neon(const float *x, int64_t n, float *steps);
void bl_round_groups_neon(const float *x, int64_t n, int64_t group, const float *shift, const float *inv, int lo, int hi,
                           int8_t *q);

/* attention_neon.c */
void bl_store_k_f32_neon(const float *k, int64_t dim, int64_t pos, float *head_tiles);
void bl_store_k_f16_neon(const float *k, int64_t dim, int64_t pos, uint16_t *head_tiles);
void bl_store_v_f16_neon(const float *v, int64_t dim, uint16_t *out);
void bl_scores_f16_neon(const float *q, int64_t ldq, int n_q, const uint16_t *tiles, int64_t n_tiles,
                        int64_t dim, float scale, float *scores, int64_t ld);
void bl_scores_f32_neon(const float *q, int64_t ldq, int n_q, const float *tiles, int64_t n_tiles,
                        int64_t dim, float scale, float *scores, int64_t ld);
void bl_mix_f16_neon(const float *prob, int64_t ld, int n_q, const uint16_t *v, int64_t v_stride,
                     int64_t n_pos, int64_t dim, float *out, int64_t ldo);
void bl_mix_f32_neon(const float *prob, int64_t ld, int n_q, const float *v, int64_t v_stride,
                     int64_t n_pos, int64_t dim, float *out, int64_t ldo);

/* binary_neon.c */
void bl_binary_rows_neon(const uint8_t *w, int64_t k, int64_t r0, int64_t r1, const uint8_t *bits, int64_t ldb,
                         const float *xd, int64_t n_tok, float *y, int64_t ldy);

/* float_rows_neon.c */
void bl_float_rows_neon(int32_t type, const uint8_t *w, int64_t k, int64_t r0, int64_t r1, const float *x,
                        int64_t ldx, int64_t n_tok, float *y, int64_t ldy);

/* attention_int_neon.c, ternary_neon.c, group_neon.c, once for each set of instructions */
void bl_quant_probs_neon(const float *p, const float *vd, int64_t n_pos, uint8_t *pq, float *cd);

#define NEON_INTEGER_KERNELS(isa)                                                                              \
    void bl_scores_int_##isa(int bits, const int8_t *q, int64_t ldq, const float *qd, int n_q,                 \
                             const uint8_t *tiles, const float *kd, int64_t n_tiles, int64_t dim, float scale, \
                             float *scores, int64_t ld);                                                       \
    void bl_mix_int_##isa(int bits, const uint8_t *pq, int64_t ldp, const float *cd, int64_t ldc, int n_q,     \
                          const uint8_t *v, int64_t n_pos, int64_t dim, float *out, int64_t ldo);              \
    void bl_ternary_i8_##isa(int32_t type, const uint8_t *w, int64_t k, int64_t r0, int64_t r1,                \
                             const int8_t *xq, int64_t ldx, const int32_t *xsum, const float *factor,          \
                             int64_t n_tok, float *y, int64_t ldy, void *scratch);                             \
    void bl_group_i8_##isa(int32_t type, const uint8_t *w, int64_t k, int64_t r0, int64_t r1,                  \
                           const int8_t *xq, int64_t ldx, const float *xd, const int32_t *xsums,               \
                           int64_t n_tok, int n_terms, float *y, int64_t ldy, void *scratch);

NEON_INTEGER_KERNELS(neon)
NEON_INTEGER_KERNELS(dotprod)
NEON_INTEGER_KERNELS(i8mm)

#endif
