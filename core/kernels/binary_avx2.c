/* binary_avx2.c - binary weights (Q1_0) against the signs of activations: XOR and popcnt, 128 at a time.
 *
 * Rows and tokens go four by four, so that the chains of products do not wait for one another; each output keeps
 * its own chain (kernels.h).  Called through the kernel table. */
#include "kernels/kernels_avx2.h"

#define BLOCK 18 /* bytes: scale in half, 128 signs */

INLINE uint64_t word(const uint8_t *p) {
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE float scale_of(const uint8_t *block) {
    uint16_t half;
    memcpy(&half, block, sizeof half);
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(half)));
}

/* n_rows x n_tokens outputs; both are constants where this is inlined. */
INLINE void tile(const uint8_t *w, int64_t row_bytes, int64_t groups, const uint8_t *bits, int64_t ldb, const float *xd,
                 int n_rows, int n_tokens, float *y, int64_t ldy) {
    float acc[4][4] = {{0}};
    for (int64_t g = 0; g < groups; g++)
        for (int r = 0; r < n_rows; r++) {
            const uint8_t *block = w + r * row_bytes + g * BLOCK;
            uint64_t low = word(block + 2), high = word(block + 10);
            float d = scale_of(block);
            for (int t = 0; t < n_tokens; t++) {
                const uint8_t *x = bits + t * ldb + g * 16;
                int differ = (int)(_mm_popcnt_u64(low ^ word(x)) + _mm_popcnt_u64(high ^ word(x + 8)));
                acc[r][t] = fma_scalar((float)(128 - 2 * differ), d * xd[t], acc[r][t]);
            }
        }
    for (int r = 0; r < n_rows; r++)
        for (int t = 0; t < n_tokens; t++)
            y[t * ldy + r] = acc[r][t];
}

void bl_binary_rows_avx2(const uint8_t *w, int64_t k, int64_t r0, int64_t r1, const uint8_t *bits, int64_t ldb,
                         const float *xd, int64_t n_tok, float *y, int64_t ldy) {
    int64_t groups = k / 128, row_bytes = groups * BLOCK;
    for (int64_t r = r0; r < r1;) {
        const uint8_t *row = w + r * row_bytes;
        int64_t rows = BL_MIN(4, r1 - r), t = 0;
        for (; rows == 4 && t + 4 <= n_tok; t += 4)
            tile(row, row_bytes, groups, bits + t * ldb, ldb, xd + t, 4, 4, y + t * ldy + r, ldy);
        for (; rows == 4 && t < n_tok; t++)
            tile(row, row_bytes, groups, bits + t * ldb, ldb, xd + t, 4, 1, y + t * ldy + r, ldy);
        if (rows < 4) {
            rows = 1;
            for (; t < n_tok; t++)
                tile(row, row_bytes, groups, bits + t * ldb, ldb, xd + t, 1, 1, y + t * ldy + r, ldy);
        }
        r += rows;
    }
}
