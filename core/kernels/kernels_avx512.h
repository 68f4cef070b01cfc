/* kernels_avx512.h - what the AVX-512 files share: F, BW, VL, DQ, VNNI and VPOPCNTDQ may be used.
 * Included by the *_avx512.c files only. */
#ifndef BL_KERNELS_AVX512_H
#define BL_KERNELS_AVX512_H

#include "kernels/kernels_avx2.h"

/* rows_avx512.c */
float bl_quant_row_avx512(const float *x, int64_t n, int8_t *q, int32_t *sum);
void bl_quant_groups_avx512(const float *x, int64_t n, int64_t group, int8_t *q, float *d, int32_t *sums);
void bl_silu_mul_avx512(const float *gate, const float *up, int64_t n, float *out);
void bl_softmax_avx512(float *p, int64_t n, int64_t n_padded);
float bl_exp_sum_avx512(const float *l, int64_t n, float *max);

/* attention_avx512.c */
void bl_scores_f16_avx512(const float *q, int64_t ldq, int n_q, const uint16_t *tiles, int64_t n_tiles,
                          int64_t dim, float scale, float *scores, int64_t ld);
void bl_scores_f32_avx512(const float *q, int64_t ldq, int n_q, const float *tiles, int64_t n_tiles,
                          int64_t dim, float scale, float *scores, int64_t ld);
void bl_mix_f16_avx512(const float *prob, int64_t ld, int n_q, const uint16_t *v, int64_t v_stride,
                       int64_t n_pos, int64_t dim, float *out, int64_t ldo);
void bl_mix_f32_avx512(const float *prob, int64_t ld, int n_q, const float *v, int64_t v_stride,
                       int64_t n_pos, int64_t dim, float *out, int64_t ldo);

/* attention_int_avx512.c */
void bl_scores_int_avx512(int bits, const int8_t *q, int64_t ldq, const float *qd, int n_q, const uint8_t *tiles,
                          const float *kd, int64_t n_tiles, int64_t dim, float scale, float *scores, int64_t ld);
void bl_mix_int_avx512(int bits, const uint8_t *pq, int64_t ldp, const float *cd, int64_t ldc, int n_q,
                       const uint8_t *v, int64_t n_pos, int64_t dim, float *out, int64_t ldo);

/* float_rows_avx512.c */
void bl_float_rows_avx512(int32_t type, const uint8_t *w, int64_t k, int64_t r0, int64_t r1, const float *x,
                          int64_t ldx, int64_t n_tok, float *y, int64_t ldy);

/* hamming_avx512.c */
uint64_t bl_hamming_avx512(const uint8_t *a, const uint8_t *b, int64_t n);
int64_t bl_hamming_below_avx512(const uint8_t *query, const uint8_t *codes, int64_t n, int64_t bytes,
                                uint32_t below, uint32_t *rows, uint32_t *distances);

#endif
