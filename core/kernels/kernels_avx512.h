/* kernels_avx512.h - what the AVX-512 files share: F, BW, VL, DQ, VNNI and VPOPCNTDQ may be used.
 * Included by the *_avx512.c files only. */
#ifndef BL_KERNELS_AVX512_H
#define BL_KERNELS_AVX512_H

#include "kernels/kernels_avx2.h"

void bl_binary_rows_avx512(const uint8_t *w, int64_t k, int64_t r0, int64_t r1, const uint8_t *bits, int64_t ldb,
                           const float *xd, int64_t n_tok, float *y, int64_t ldy);
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
void bl_quant_probs_avx512(const float *p, const float *vd, int64_t n_pos, uint8_t *pq, float *cd);
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
