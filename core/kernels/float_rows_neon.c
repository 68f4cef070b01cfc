/* float_rows_neon.c - F32, F16 and BF16 matrices times float vectors with NEON.
 *
 * Each output has four vectors of sums (the 16 lanes of the sum16 order).  Blocks of rows x tokens share
 * their loads: 4 x 1 for one token, where memory is the limit, 2 x 3 for many.  Called through the tables of
 * kernels_neon.c. */
#include "kernels/kernels_neon.h"

#define MAX_ROWS 4
#define MAX_TOKENS 3

INLINE float32x4_t load_weights(int32_t type, const uint8_t *row, int64_t i) {
    switch (type) {
    case BL_TYPE_F16:
        return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(row + 2 * i)));
    case BL_TYPE_BF16:
        return vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(vld1_u8(row + 2 * i)), 16));
    default:
        return vreinterpretq_f32_u8(vld1q_u8(row + 4 * i));
    }
}

static float one_weight(int32_t type, const uint8_t *row, int64_t i) {
    if (type == BL_TYPE_F32) {
        return bl_read_f32(row + 4 * i);
    }
    uint16_t half = bl_read_u16(row + 2 * i);
    return type == BL_TYPE_F16 ? one_f16(half) : bl_bf16_to_f32(half);
}

/* y of nr rows and nt tokens; `row` is the first row, x and y stand at their first token and row. */
INLINE void block(int32_t type, const uint8_t *row, int64_t row_bytes, int nr, int64_t k, const float *x,
                  int64_t ldx, int nt, float *y, int64_t ldy) {
    float32x4_t acc[MAX_ROWS][MAX_TOKENS][4];
#pragma GCC unroll 4
    for (int r = 0; r < nr; r++) {
#pragma GCC unroll 4
        for (int t = 0; t < nt; t++) {
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) {
                acc[r][t][j] = vdupq_n_f32(0);
            }
        }
    }
    int64_t i = 0;
    for (; i + 16 <= k; i += 16) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            float32x4_t w[MAX_ROWS];
#pragma GCC unroll 4
            for (int r = 0; r < nr; r++) {
                w[r] = load_weights(type, row + r * row_bytes, i + j * 4);
            }
#pragma GCC unroll 4
            for (int t = 0; t < nt; t++) {
                float32x4_t v = vld1q_f32(x + t * ldx + i + j * 4);
#pragma GCC unroll 4
                for (int r = 0; r < nr; r++) {
                    acc[r][t][j] = vfmaq_f32(acc[r][t][j], w[r], v);
                }
            }
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < nr; r++) {
#pragma GCC unroll 4
        for (int t = 0; t < nt; t++) {
            if (i < k) {
                float lane[16];
                for (int j = 0; j < 4; j++) {
                    vst1q_f32(lane + 4 * j, acc[r][t][j]);
                }
                for (int64_t j = i; j < k; j++) {
                    lane[j - i] = fmaf(one_weight(type, row + r * row_bytes, j), x[t * ldx + j], lane[j - i]);
                }
                for (int j = 0; j < 4; j++) {
                    acc[r][t][j] = vld1q_f32(lane + 4 * j);
                }
            }
            y[t * ldy + r] = sum16(acc[r][t][0], acc[r][t][1], acc[r][t][2], acc[r][t][3]);
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

void bl_float_rows_neon(int32_t type, const uint8_t *w, int64_t k, int64_t r0, int64_t r1, const float *x,
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
