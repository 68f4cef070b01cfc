/* binary_neon.c - binary weights (Q1_0) against the signs of activations: XOR and counted bits, 128 at a time.
 *
 * Four rows run in the lanes of a vector, so that the chain over groups is one fma for four outputs (kernels.h).
 * Called through the tables of kernels_neon.c. */
#include "kernels/kernels_neon.h"

#define BLOCK 18  /* bytes: scale in half, 128 signs */
#define TOKENS 4  /* that share the loads of a block */

/* Bits that differ, of each of four rows' signs from x. */
INLINE int32x4_t differ(const uint8x16_t *w, uint8x16_t x) {
    uint8x16_t c[4];
#pragma GCC unroll 4
    for (int r = 0; r < 4; r++) {
        c[r] = vcntq_u8(veorq_u8(w[r], x));
    }
    uint8x16_t sums = vpaddq_u8(vpaddq_u8(c[0], c[1]), vpaddq_u8(c[2], c[3])); /* four bytes a row, up to 32 */
    return vreinterpretq_s32_u32(vpaddlq_u16(vpaddlq_u8(sums)));
}

INLINE void tile(const uint8_t *const *row, int64_t n_rows, int64_t groups, const uint8_t *bits, int64_t ldb,
                 const float *xd, int n_tokens, float *y, int64_t ldy) {
    float32x4_t acc[TOKENS];
#pragma GCC unroll 4
    for (int t = 0; t < n_tokens; t++) {
        acc[t] = vdupq_n_f32(0);
    }
    for (int64_t g = 0; g < groups; g++) {
        uint8x16_t w[4];
        uint16_t half[4];
#pragma GCC unroll 4
        for (int r = 0; r < 4; r++) {
            memcpy(&half[r], row[r] + g * BLOCK, sizeof half[r]);
            w[r] = vld1q_u8(row[r] + g * BLOCK + 2);
        }
        float32x4_t d = load_f16(half);
#pragma GCC unroll 4
        for (int t = 0; t < n_tokens; t++) {
            int32x4_t n = differ(w, vld1q_u8(bits + t * ldb + g * 16));
            n = vsubq_s32(vdupq_n_s32(128), vaddq_s32(n, n));
            acc[t] = vfmaq_f32(acc[t], vcvtq_f32_s32(n), vmulq_n_f32(d, xd[t]));
        }
    }
#pragma GCC unroll 4
    for (int t = 0; t < n_tokens; t++) {
        float lane[4];
        vst1q_f32(lane, acc[t]);
        memcpy(y + t * ldy, lane, (size_t)n_rows * sizeof *lane);
    }
}

void bl_binary_rows_neon(const uint8_t *w, int64_t k, int64_t r0, int64_t r1, const uint8_t *bits, int64_t ldb,
                         const float *xd, int64_t n_tok, float *y, int64_t ldy) {
    int64_t groups = k / 128, row_bytes = groups * BLOCK;
    for (int64_t r = r0; r < r1; r += 4) {
        int64_t n_rows = BL_MIN(r1 - r, 4), t = 0;
        const uint8_t *row[4];
        for (int64_t j = 0; j < 4; j++) { /* lanes past the end repeat the last row */
            row[j] = w + (r + BL_MIN(j, n_rows - 1)) * row_bytes;
        }
        for (; t + TOKENS <= n_tok; t += TOKENS) {
            tile(row, n_rows, groups, bits + t * ldb, ldb, xd + t, TOKENS, y + t * ldy + r, ldy);
        }
        for (; t < n_tok; t++) {
            tile(row, n_rows, groups, bits + t * ldb, ldb, xd + t, 1, y + t * ldy + r, ldy);
        }
    }
}
