/* kernels_avx512.h - what the AVX-512 files share: F, BW, VL, DQ, VNNI, VBMI and VPOPCNTDQ may be used.
 * Included by the *_avx512.c files only. */
#ifndef BL_KERNELS_AVX512_H
#define BL_KERNELS_AVX512_H

#include "kernels/kernels_avx2.h"

void bl_binary_rows_avx512(const uint8_t *w, int64_t k, int64_t r0, int64_t r1, const uint8_t *bits, int64_t ldb,
                           const float *xd, int64_t n_tok, float *y, int64_t ldy);
/* rows_avx512.c */
float bl_quant_row_avx512(const float *x, int64_t n, int8_t *q, int32_t *sum);
void bl_quant_groups_avx512(const float *x, int64_t n, int64_t group, int8_t *q, float *d, int32_t *sums);
void bl_silu_mul_avx512(const float *gate, const float *up, int64_t n, float *out);
void bl_softmax_avx512(float *p, int64_t n, int64_t n_padded);
float bl_exp_sum_avx512(const float *l, int64_t n, float *max);

/* fit_avx512.c */
void bl_fit_q4_k_avx512(const float *x, int64_t n, float *steps, float *minima);
void bl_fit_q6_k_avx512(const float *x, int64_t n, float *steps);
void bl_round_groups_avx512(const float *x, int64_t n, int64_t group, const float *shift, const float *inv, int lo, int hi,
                           int8_t *q);

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
/* acc + products of unsigned u and signed s, by fours.  gcc 12 copies the sums of the intrinsic from register to
 * register, around each loop, and spills them; "+v" leaves them where they are. */
INLINE __m512i dp(__m512i acc, __m512i u, __m512i s) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(u), "v"(s));
    return acc;
}

/* The address, which gcc may not take apart: it would keep each of sixteen rows' in a register, and has too few. */
INLINE const void *whole_address(const void *p) {
    __asm__("" : "+r"(p));
    return p;
}

/* Trits of each byte of TQ1_0: four of them in two bits each, the first lowest, and the fifth alone. */
extern const uint8_t bl_trits_of_byte_avx512[2][256];

/* The two tables in registers. */
typedef struct trit_tables {
    __m512i four[4], fifth[4];
} trit_tables;

INLINE void load_trit_tables(trit_tables *t) {
    for (int i = 0; i < 4; i++) {
        t->four[i] = _mm512_load_si512(bl_trits_of_byte_avx512[0] + i * 64);
        t->fifth[i] = _mm512_load_si512(bl_trits_of_byte_avx512[1] + i * 64);
    }
}

INLINE __m512i look_up_trits(const trit_tables *t, __m512i q, __m512i *fifth) {
    const __mmask64 high = _mm512_movepi8_mask(q), low = _knot_mask64(high);
    __m512i f = _mm512_mask2_permutex2var_epi8(t->fifth[0], q, low, t->fifth[1]);
    q = _mm512_mask2_permutex2var_epi8(t->four[0], q, low, t->four[1]);
    *fifth = _mm512_mask2_permutex2var_epi8(t->fifth[2], f, high, t->fifth[3]);
    return _mm512_mask2_permutex2var_epi8(t->four[2], q, high, t->four[3]);
}

/* Rows of 16 dwords become columns. */
INLINE void transpose16(__m512i *v) {
    __m512i a[16];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        a[2 * i] = _mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]);
        a[2 * i + 1] = _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]);
    }
    /* v[4*i + c]: in each quarter q, column 4q + c of rows 4i .. 4i+3 */
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        v[4 * i] = _mm512_unpacklo_epi64(a[4 * i], a[4 * i + 2]);
        v[4 * i + 1] = _mm512_unpackhi_epi64(a[4 * i], a[4 * i + 2]);
        v[4 * i + 2] = _mm512_unpacklo_epi64(a[4 * i + 1], a[4 * i + 3]);
        v[4 * i + 3] = _mm512_unpackhi_epi64(a[4 * i + 1], a[4 * i + 3]);
    }
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        a[c] = _mm512_shuffle_i32x4(v[c], v[4 + c], 0x44);      /* quarters 0, 1 of rows 0..7 */
        a[4 + c] = _mm512_shuffle_i32x4(v[8 + c], v[12 + c], 0x44);
        a[8 + c] = _mm512_shuffle_i32x4(v[c], v[4 + c], 0xee);  /* quarters 2, 3 */
        a[12 + c] = _mm512_shuffle_i32x4(v[8 + c], v[12 + c], 0xee);
    }
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        v[c] = _mm512_shuffle_i32x4(a[c], a[4 + c], 0x88);
        v[4 + c] = _mm512_shuffle_i32x4(a[c], a[4 + c], 0xdd);
        v[8 + c] = _mm512_shuffle_i32x4(a[8 + c], a[12 + c], 0x88);
        v[12 + c] = _mm512_shuffle_i32x4(a[8 + c], a[12 + c], 0xdd);
    }
}

/* ternary_avx512.c, group_avx512.c */
void bl_ternary_i8_avx512(int32_t type, const uint8_t *w, int64_t k, int64_t r0, int64_t r1, const int8_t *xq,
                          int64_t ldx, const int32_t *xsum, const float *factor, int64_t n_tok, float *y, int64_t ldy,
                          void *scratch);
void bl_group_i8_avx512(int32_t type, const uint8_t *w, int64_t k, int64_t r0, int64_t r1, const int8_t *xq,
                        int64_t ldx, const float *xd, const int32_t *xsums, int64_t n_tok, int n_terms, float *y,
                        int64_t ldy, void *scratch);

/* Up to 256 weights of sixteen rows of a GROUP type as signed codes: vector i has 4i .. 4i+3 of row r in lane r, which
 * makes sixteen vectors a tile of AMX too.  w: the first row's blocks, the others' stride bytes apart; n: whole blocks. */
#define BL_GROUP_STEP 256
typedef struct bl_group_step {
    __m512i codes[BL_GROUP_STEP / 4];
    __m512 d[BL_GROUP_STEP / 16]; /* the scale of a group */
    __m512 m[BL_GROUP_STEP / 16]; /* its minimum, where the type has them */
} bl_group_step;
void bl_group_step_avx512(int32_t type, const uint8_t *w, int64_t stride, int n, bl_group_step *s);

#endif
