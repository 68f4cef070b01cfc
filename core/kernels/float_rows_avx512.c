/* float_rows_avx512.c - F32, F16 and BF16 matrices times float vectors, with AVX-512.
 *
 * A vector is the 16 lanes of the sum16 order.  Blocks of rows x tokens share their loads: 8 x 1 for one
 * token, where memory is the limit and the rows of the next block are asked for on the way, 4 x 6 for many.
 * Called through the table of kernels_avx512.c: heads and embeddings kept as floats. */
#include "kernels/kernels_avx512.h"

#define MAX_ROWS 8
#define MAX_TOKENS 6

INLINE __m512 load_weights(int32_t type, const uint8_t *row, int64_t i, __mmask16 mask, int full) {
    if (type == BL_TYPE_F32) {
        return full ? _mm512_loadu_ps(row + 4 * i) : _mm512_maskz_loadu_ps(mask, row + 4 * i);
    }
    __m256i half = full ? load256(row + 2 * i) : _mm256_maskz_loadu_epi16(mask, row + 2 * i);
    return type == BL_TYPE_F16 ? _mm512_cvtph_ps(half)
                               : _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

/* One vector of k: lanes outside the mask keep their sums. */
INLINE void step(int32_t type, const uint8_t *row, int64_t row_bytes, int nr, const float *x, int64_t ldx, int nt,
                 int64_t i, __mmask16 mask, int full, __m512 (*acc)[MAX_TOKENS]) {
    __m512 w[MAX_ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < nr; r++) {
        w[r] = load_weights(type, row + r * row_bytes, i, mask, full);
    }
#pragma GCC unroll 6
    for (int t = 0; t < nt; t++) {
        __m512 v = full ? _mm512_loadu_ps(x + t * ldx + i) : _mm512_maskz_loadu_ps(mask, x + t * ldx + i);
#pragma GCC unroll 8
        for (int r = 0; r < nr; r++) {
            acc[r][t] = full ? _mm512_fmadd_ps(w[r], v, acc[r][t]) : _mm512_mask3_fmadd_ps(w[r], v, acc[r][t], mask);
        }
    }
}

/* y of nr rows and nt tokens; `row` is the first row, x and y stand at their first token and row. */
INLINE void block(int32_t type, const uint8_t *row, int64_t row_bytes, int nr, int64_t k, const float *x,
                  int64_t ldx, int nt, float *y, int64_t ldy) {
    const int64_t per_line = type == BL_TYPE_F32 ? 16 : 32;
    __m512 acc[MAX_ROWS][MAX_TOKENS];
#pragma GCC unroll 8
    for (int r = 0; r < nr; r++) {
#pragma GCC unroll 6
        for (int t = 0; t < nt; t++) {
            acc[r][t] = _mm512_setzero_ps();
        }
    }
    int64_t i = 0;
    for (; i + per_line <= k; i += per_line) {
        if (nt == 1 && nr == MAX_ROWS) {
#pragma GCC unroll 8
            for (int r = 0; r < nr; r++) {
                _mm_prefetch((const char *)row + (nr + r) * row_bytes + i * 64 / per_line, _MM_HINT_T1);
            }
        }
        step(type, row, row_bytes, nr, x, ldx, nt, i, 0xffff, 1, acc);
        if (type != BL_TYPE_F32) {
            step(type, row, row_bytes, nr, x, ldx, nt, i + 16, 0xffff, 1, acc);
        }
    }
    for (; i + 16 <= k; i += 16) {
        step(type, row, row_bytes, nr, x, ldx, nt, i, 0xffff, 1, acc);
    }
    if (i < k) {
        step(type, row, row_bytes, nr, x, ldx, nt, i, (__mmask16)((1u << (k - i)) - 1), 0, acc);
    }
#pragma GCC unroll 8
    for (int r = 0; r < nr; r++) {
#pragma GCC unroll 6
        for (int t = 0; t < nt; t++) {
            y[t * ldy + r] = sum16(_mm512_castps512_ps256(acc[r][t]), _mm512_extractf32x8_ps(acc[r][t], 1));
        }
    }
}

INLINE void rows_of_tokens(int32_t type, const uint8_t *w, int64_t row_bytes, int nr, int64_t k, int64_t r0,
                           int64_t r1, const float *x, int64_t ldx, int nt, float *y, int64_t ldy) {
    int64_t r = r0;
    for (; r + nr <= r1; r += nr) {
        block(type, w + r * row_bytes, row_bytes, nr, k, x, ldx, nt, y + r, ldy);
    }
    for (; r < r1; r++) {
        block(type, w + r * row_bytes, row_bytes, 1, k, x, ldx, nt, y + r, ldy);
    }
}

INLINE void rows_of_type(int32_t type, const uint8_t *w, int64_t row_bytes, int64_t k, int64_t r0, int64_t r1,
                         const float *x, int64_t ldx, int64_t n_tok, float *y, int64_t ldy) {
    for (; n_tok > 0; n_tok -= MAX_TOKENS, x += MAX_TOKENS * ldx, y += MAX_TOKENS * ldy) {
        switch (n_tok) {
        default: rows_of_tokens(type, w, row_bytes, 4, k, r0, r1, x, ldx, 6, y, ldy); break;
        case 5: rows_of_tokens(type, w, row_bytes, 4, k, r0, r1, x, ldx, 5, y, ldy); break;
        case 4: rows_of_tokens(type, w, row_bytes, 4, k, r0, r1, x, ldx, 4, y, ldy); break;
        case 3: rows_of_tokens(type, w, row_bytes, 4, k, r0, r1, x, ldx, 3, y, ldy); break;
        case 2: rows_of_tokens(type, w, row_bytes, 4, k, r0, r1, x, ldx, 2, y, ldy); break;
        case 1: rows_of_tokens(type, w, row_bytes, 8, k, r0, r1, x, ldx, 1, y, ldy); break;
        }
    }
}

void bl_float_rows_avx512(int32_t type, const uint8_t *w, int64_t k, int64_t r0, int64_t r1, const float *x,
                          int64_t ldx, int64_t n_tok, float *y, int64_t ldy) {
    switch (type) {
    case BL_TYPE_F16: rows_of_type(BL_TYPE_F16, w, 2 * k, k, r0, r1, x, ldx, n_tok, y, ldy); break;
    case BL_TYPE_BF16: rows_of_type(BL_TYPE_BF16, w, 2 * k, k, r0, r1, x, ldx, n_tok, y, ldy); break;
    default: rows_of_type(BL_TYPE_F32, w, 4 * k, k, r0, r1, x, ldx, n_tok, y, ldy); break;
    }
}
