/* kernels_avx2.h - what the AVX2 files share: the sum16 order in two vectors, the
 * vector exponential, and their kernels' declarations.
 *
 * Included only by core/kernels' *_avx2.c, which are compiled with -mavx2 -mfma -mf16c
 * -mpopcnt -mbmi2 and -ffp-contract=off (without the last a product and a sum of
 * intrinsics would fuse). */
#ifndef BL_KERNELS_AVX2_H
#define BL_KERNELS_AVX2_H

#include <immintrin.h>
#include <string.h>

#include "kernels/kernels.h"

#define INLINE static inline __attribute__((always_inline))

/* The end of the sum16 order; lo holds lanes 0..7, hi 8..15. */
INLINE float sum16(__m256 lo, __m256 hi) {
    __m256 v = _mm256_add_ps(lo, hi);
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    x = _mm_add_ss(x, _mm_movehdup_ps(x));
    return _mm_cvtss_f32(x);
}

INLINE float fma_scalar(float a, float b, float c) {
    return _mm_cvtss_f32(_mm_fmadd_ss(_mm_set_ss(a), _mm_set_ss(b), _mm_set_ss(c)));
}

/* bl_expf of eight values, step for step. */
INLINE __m256 exp8(__m256 x) {
    __m256 tiny = _mm256_cmp_ps(x, _mm256_set1_ps(-87.0f), _CMP_LT_OQ);
    x = _mm256_min_ps(_mm256_set1_ps(88.0f), x); /* in this order a NaN stays */
    __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(0x1.715476p+0f)),
                               _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fmadd_ps(n, _mm256_set1_ps(-0x1.63p-1f), x);
    r = _mm256_fmadd_ps(n, _mm256_set1_ps(0x1.bd0106p-13f), r);
    __m256 p = _mm256_set1_ps(0x1.6a23dp-10f);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0x1.123a2p-7f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0x1.5558f2p-5f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0x1.555492p-3f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0x1.fffffcp-2f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    __m256i bits = _mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23));
    return _mm256_andnot_ps(tiny, _mm256_castsi256_ps(bits));
}

INLINE __m256i load256(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
INLINE __m128i load128(const void *p) { return _mm_loadu_si128((const __m128i *)p); }
INLINE void store256(void *p, __m256i v) { _mm256_storeu_si256((__m256i *)p, v); }
INLINE void store128(void *p, __m128i v) { _mm_storeu_si128((__m128i *)p, v); }

/* Eight halves as floats. */
INLINE __m256 load_f16(const uint16_t *p) { return _mm256_cvtph_ps(load128(p)); }

/* Column j of eight rows of eight floats, `stride` apart, in v[j]. */
INLINE void transpose8(const float *x, int64_t stride, __m256 *v) {
    __m256 r[8], t[8];
    for (int i = 0; i < 4; i++) { /* rows i and i + 4 side by side: columns 0..3, then 4..7 */
        r[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(x + i * stride)),
                                    _mm_loadu_ps(x + (i + 4) * stride), 1);
        r[i + 4] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(x + i * stride + 4)),
                                        _mm_loadu_ps(x + (i + 4) * stride + 4), 1);
    }
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        v[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        v[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
        v[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        v[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
}

/* What eight rows of activations bring to a group of weights. */
typedef struct meeting {
    union {
        int32_t start[8]; /* -offset * sum of the group's activations: weights are met as code + offset, */
        float xsum[8];    /* or that sum, for types with minima, which have no offset */
    };
    float d[8];
} meeting;

/* Rows of activations whose meetings, (row / 8, group), fit bl_group_scratch(). */
#define MOST_INPUTS 64
_Static_assert(MOST_INPUTS / 8 * sizeof(meeting) <= 16 * BL_GROUP_SCRATCH, "bl_group_scratch() is too small");

/* Makes those of `rows` rows with their scales and sums, n_groups each. */
INLINE void prepare_meetings(int32_t offset, int has_min, const float *d, const int32_t *sums, int64_t rows,
                             int64_t n_groups, meeting *to) {
    for (int64_t j = 0; j < rows; j++) {
        meeting *m = to + j / 8 * n_groups;
        for (int64_t g = 0; g < n_groups; g++) {
            m[g].d[j % 8] = d[j * n_groups + g];
            if (has_min) {
                m[g].xsum[j % 8] = (float)sums[j * n_groups + g];
            } else {
                m[g].start[j % 8] = -offset * sums[j * n_groups + g];
            }
        }
    }
}

/* A TQ1_0 block's 48 bytes of five trits and 4 of four as 256 codes. */
void bl_tq1_0_codes_avx2(const uint8_t *block, uint8_t *codes);

/* binary_avx2.c */
void bl_binary_rows_avx2(const uint8_t *w, int64_t k, int64_t r0, int64_t r1, const uint8_t *bits, int64_t ldb,
                         const float *xd, int64_t n_tok, float *y, int64_t ldy);

/* rows_avx2.c */
void bl_rmsnorm_avx2(const float *x, const float *w, int64_t n, float eps, float *y);
float bl_quant_row_avx2(const float *x, int64_t n, int8_t *q, int32_t *sum);
void bl_quant_groups_avx2(const float *x, int64_t n, int64_t group, int8_t *q, float *d, int32_t *sums);
void bl_residual_avx2(const float *x, int64_t n, int64_t group, const int8_t *q, const float *d, float *r);
void bl_relu2_mul_avx2(const float *gate, const float *up, int64_t n, float *out);
void bl_silu_mul_avx2(const float *gate, const float *up, int64_t n, float *out);
void bl_add_avx2(float *x, const float *y, int64_t n);
void bl_rope_avx2(float *head, const float *cs, const float *sn, int64_t n_rot, int neox);
void bl_softmax_avx2(float *p, int64_t n, int64_t n_padded);
float bl_exp_sum_avx2(const float *l, int64_t n, float *max);
uint64_t bl_hamming_avx2(const uint8_t *a, const uint8_t *b, int64_t n);
int64_t bl_hamming_below_avx2(const uint8_t *query, const uint8_t *codes, int64_t n, int64_t bytes,
                              uint32_t below, uint32_t *rows, uint32_t *distances);
float bl_dot_f32_avx2(const float *a, const float *b, int64_t n);
void bl_widen_avx2(int32_t type, const uint8_t *in, int64_t n, float *out);

/* fit_avx2.c */
void bl_fit_q4_k_avx2(const float *x, int64_t n, float *steps, float *minima);
void bl_fit_q6_k_avx2(const float *x, int64_t n, float *steps);
void bl_round_groups_avx2(const float *x, int64_t n, int64_t group, const float *shift, const float *inv, int lo, int hi,
                           int8_t *q);

/* attention_avx2.c */
void bl_store_k_f32_avx2(const float *k, int64_t dim, int64_t pos, float *head_tiles);
void bl_store_k_f16_avx2(const float *k, int64_t dim, int64_t pos, uint16_t *head_tiles);
void bl_store_v_f16_avx2(const float *v, int64_t dim, uint16_t *out);
void bl_scores_f16_avx2(const float *q, int64_t ldq, int n_q, const uint16_t *tiles, int64_t n_tiles,
                        int64_t dim, float scale, float *scores, int64_t ld);
void bl_scores_f32_avx2(const float *q, int64_t ldq, int n_q, const float *tiles, int64_t n_tiles,
                        int64_t dim, float scale, float *scores, int64_t ld);
void bl_mix_f16_avx2(const float *prob, int64_t ld, int n_q, const uint16_t *v, int64_t v_stride,
                     int64_t n_pos, int64_t dim, float *out, int64_t ldo);
void bl_mix_f32_avx2(const float *prob, int64_t ld, int n_q, const float *v, int64_t v_stride,
                     int64_t n_pos, int64_t dim, float *out, int64_t ldo);

/* attention_int_avx2.c */
void bl_scores_int_avx2(int bits, const int8_t *q, int64_t ldq, const float *qd, int n_q, const uint8_t *tiles,
                        const float *kd, int64_t n_tiles, int64_t dim, float scale, float *scores, int64_t ld);
void bl_quant_probs_avx2(const float *p, const float *vd, int64_t n_pos, uint8_t *pq, float *cd);
void bl_mix_int_avx2(int bits, const uint8_t *pq, int64_t ldp, const float *cd, int64_t ldc, int n_q,
                     const uint8_t *v, int64_t n_pos, int64_t dim, float *out, int64_t ldo);

/* ternary_avx2.c, group_avx2.c, float_rows_avx2.c */
void bl_ternary_i8_avx2(int32_t type, const uint8_t *w, int64_t k, int64_t r0, int64_t r1,
                        const int8_t *xq, int64_t ldx, const int32_t *xsum, const float *factor,
                        int64_t n_tok, float *y, int64_t ldy, void *scratch);
void bl_group_i8_avx2(int32_t type, const uint8_t *w, int64_t k, int64_t r0, int64_t r1, const int8_t *xq,
                      int64_t ldx, const float *xd, const int32_t *xsums, int64_t n_tok, int n_terms, float *y,
                      int64_t ldy, void *scratch);
void bl_float_rows_avx2(int32_t type, const uint8_t *w, int64_t k, int64_t r0, int64_t r1, const float *x,
                        int64_t ldx, int64_t n_tok, float *y, int64_t ldy);

#endif
