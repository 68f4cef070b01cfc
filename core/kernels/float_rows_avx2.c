/* float_rows_avx2.c - F32, F16 and BF16 matrices times float vectors, with AVX2.
 *
 * Each output has two vectors of sums (the 16 lanes of the sum16 order).  Blocks of rows x
 * tokens share their loads: 4 x 1 for one token, where memory is the limit, 2 x 3 for many.
 * Called through the table of kernels_avx2.c: heads and embeddings kept as floats. */
#include "kernels/kernels_avx2.h"

#define MAX_ROWS 4
#define MAX_TOKENS 3

INLINE __m256 load_weights(int32_t type, const uint8_t *row, int64_t i) {
    switch (type) {
    case BL_TYPE_F16:
        return _mm256_cvtph_ps(load128(row + 2 * i));
    case BL_TYPE_BF16:
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load128(row + 2 * i)), 16));
    default:
        return _mm256_castsi256_ps(load256(row + 4 * i));
    }
}

static float one_weight(int32_t type, const uint8_t *row, int64_t i) {
    uint32_t bits = 0;
    float x;
    if (type == BL_TYPE_F32) {
        memcpy(&x, row + 4 * i, sizeof x);
        return x;
    }
    uint16_t half;
    memcpy(&half, row + 2 * i, sizeof half);
    if (type == BL_TYPE_F16) {
        return _cvtsh_ss(half);
    }
    bits = (uint32_t)half << 16;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* y of nr rows and nt tokens; `row` is the first row, x and y stand at their first token and row. */
INLINE void block(int32_t type, const uint8_t *row, int64_t row_bytes, int nr, int64_t k, const float *x,
                  int64_t ldx, int nt, float *y, int64_t ldy) {
    __m256 acc[MAX_ROWS][MAX_TOKENS][2];
#pragma GCC unroll 4
    for (int r = 0; r < nr; r++) {
#pragma GCC unroll 4
        for (int t = 0; t < nt; t++) {
            acc[r][t][0] = acc[r][t][1] = _mm256_setzero_ps();
        }
    }
    int64_t i = 0;
    for (; i + 16 <= k; i += 16) {
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            __m256 w[MAX_ROWS];
#pragma GCC unroll 4
            for (int r = 0; r < nr; r++) {
                w[r] = load_weights(type, row + r * row_bytes, i + half * 8);
            }
#pragma GCC unroll 4
            for (int t = 0; t < nt; t++) {
                __m256 v = _mm256_loadu_ps(x + t * ldx + i + half * 8);
#pragma GCC unroll 4
                for (int r = 0; r < nr; r++) {
                    acc[r][t][half] = _mm256_fmadd_ps(w[r], v, acc[r][t][half]);
                }
            }
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < nr; r++) {
#pragma GCC unroll 4
        for (int t = 0; t < nt; t++) {
            if (i == k) {
                y[t * ldy + r] = sum16(acc[r][t][0], acc[r][t][1]);
                continue;
            }
            float lane[16];
            _mm256_storeu_ps(lane, acc[r][t][0]);
            _mm256_storeu_ps(lane + 8, acc[r][t][1]);
            for (int64_t j = i; j < k; j++) {
                lane[j - i] = fma_scalar(one_weight(type, row + r * row_bytes, j), x[t * ldx + j], lane[j - i]);
            }
            y[t * ldy + r] = sum16(_mm256_loadu_ps(lane), _mm256_loadu_ps(lane + 8));
        }
    }
}

INLINE void rows_of_type(int32_t type, const uint8_t *w, int64_t row_bytes, int64_t k, int64_t r0, int64_t r1,
                         const float *x, int64_t ldx, int64_t n_tok, float *y, int64_t ldy) {
    int64_t t = 0;
    for (; t + 3 <= n_tok; t += 3) {
        int64_t r = r0;
        for (; r + 2 <= r1; r += 2) {
            block(type, w + r * row_bytes, row_bytes, 2, k, x + t * ldx, ldx, 3, y + t * ldy + r, ldy);
        }
        for (; r < r1; r++) {
            block(type, w + r * row_bytes, row_bytes, 1, k, x + t * ldx, ldx, 3, y + t * ldy + r, ldy);
        }
    }
    for (; t < n_tok; t++) {
        int64_t r = r0;
        for (; r + 4 <= r1; r += 4) {
            block(type, w + r * row_bytes, row_bytes, 4, k, x + t * ldx, ldx, 1, y + t * ldy + r, ldy);
        }
        for (; r < r1; r++) {
            block(type, w + r * row_bytes, row_bytes, 1, k, x + t * ldx, ldx, 1, y + t * ldy + r, ldy);
        }
    }
}

void bl_float_rows_avx2(int32_t type, const uint8_t *w, int64_t k, int64_t r0, int64_t r1, const float *x,
                        int64_t ldx, int64_t n_tok, float *y, int64_t ldy) {
    switch (type) {
    case BL_TYPE_F16:
        rows_of_type(BL_TYPE_F16, w, 2 * k, k, r0, r1, x, ldx, n_tok, y, ldy);
        break;
    case BL_TYPE_BF16:
        rows_of_type(BL_TYPE_BF16, w, 2 * k, k, r0, r1, x, ldx, n_tok, y, ldy);
        break;
    default:
        rows_of_type(BL_TYPE_F32, w, 4 * k, k, r0, r1, x, ldx, n_tok, y, ldy);
        break;
    }
}
