/* ternary_neon.c - ternary matrices times int8 vectors with NEON.
 *
 * Few tokens (decode): memory is the limit, so the packed bytes are used where they lie, row after row.
 * A packed vector of 32 bytes holds 128 codes:
 *
 *     bits   7 6   5 4   3 2   1 0
 *     I2_S   g=0   g=1   g=2   g=3     code of weight g*32 + byte
 *     TQ2_0  g=3   g=2   g=1   g=0
 *
 * Many tokens (prefill): a panel of rows is expanded to a byte a code in `scratch`, in pieces of k whose
 * codes stay in the first cache, and multiplied in blocks of rows x tokens.  Rows of a panel go in pairs, 8
 * bytes of one beside 8 of the other, which is how I8MM's smmla takes them: its 2x2 sums are two rows' by
 * two tokens'.  With DOTPROD and without, the same pairs meet 8 bytes of a token, twice.
 *
 * Compiled once for each of the three sets of instructions (NEON_NAME); called through the tables of
 * kernels_neon.c. */
#include "kernels/kernels_neon.h"

/* Where the packed vector of 128 weights number b stands in a row: TQ2_0 has a scale after two. */
INLINE int64_t vector_at(int tq2, int64_t b) { return tq2 ? b * 32 + (b >> 1) * 2 : b * 32; }

/* Codes of place g (0 lowest bits) of 16 packed bytes. */
INLINE int8x16_t codes_at(uint8x16_t v, int g) {
    v = g == 0 ? v : g == 1 ? vshrq_n_u8(v, 2) : g == 2 ? vshrq_n_u8(v, 4) : vshrq_n_u8(v, 6);
    return vreinterpretq_s8_u8(g == 3 ? v : vandq_u8(v, vdupq_n_u8(3)));
}

/* ---- one token, packed bytes in place --------------------------------------------------- */

#define AHEAD 1024 /* bytes ahead that are asked for */

/* Sums of products of bytes.  Without DOTPROD they are int16 first: |code*x| <= 381, so 86 fit a lane. */
#if defined(__ARM_FEATURE_DOTPROD)
typedef int32x4_t partial;
#define PARTIAL_ZERO vdupq_n_s32(0)
INLINE partial partial_add(partial sum, int8x16_t a, int8x16_t b) { return vdotq_s32(sum, a, b); }
INLINE int32x4_t partial_fold(int32x4_t acc, partial sum) { return vaddq_s32(acc, sum); }
#else
typedef int16x8_t partial;
#define PARTIAL_ZERO vdupq_n_s16(0)
INLINE partial partial_add(partial sum, int8x16_t a, int8x16_t b) {
    return vmlal_high_s8(vmlal_s8(sum, vget_low_s8(a), vget_low_s8(b)), a, b);
}
INLINE int32x4_t partial_fold(int32x4_t acc, partial sum) { return vpadalq_s16(acc, sum); }
#endif
#define FOLD 20 /* vectors of 128 weights between folds: four sums take 4 products a lane of each */

INLINE int32_t packed_row(int tq2, const uint8_t *row, const int8_t *x, int64_t n) {
    int32x4_t acc = vdupq_n_s32(0);
    for (int64_t b = 0; b < n;) {
        partial sum[4] = {PARTIAL_ZERO, PARTIAL_ZERO, PARTIAL_ZERO, PARTIAL_ZERO};
        for (int64_t end = BL_MIN(b + FOLD, n); b < end; b++) {
            const uint8_t *at = row + vector_at(tq2, b);
            __builtin_prefetch(at + AHEAD);
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
                uint8x16_t v = vld1q_u8(at + half * 16);
#pragma GCC unroll 4
                for (int g = 0; g < 4; g++) {
                    int8x16_t c = codes_at(v, tq2 ? g : 3 - g);
                    sum[g] = partial_add(sum[g], c, vld1q_s8(x + b * 128 + g * 32 + half * 16));
                }
            }
        }
#pragma GCC unroll 4
        for (int g = 0; g < 4; g++) {
            acc = partial_fold(acc, sum[g]);
        }
    }
    return vaddvq_s32(acc);
}

INLINE int32_t tq1_row(const uint8_t *row, const int8_t *x, int64_t n_blocks) {
    int32x4_t acc = vdupq_n_s32(0);
    for (int64_t b = 0; b < n_blocks; b++) {
        uint8_t codes[256];
        partial sum[4] = {PARTIAL_ZERO, PARTIAL_ZERO, PARTIAL_ZERO, PARTIAL_ZERO};
        __builtin_prefetch(row + b * 54 + AHEAD);
        tq1_0_codes(row + b * 54, codes);
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) {
            int8x16_t c = vreinterpretq_s8_u8(vld1q_u8(codes + i * 16));
            sum[i % 4] = partial_add(sum[i % 4], c, vld1q_s8(x + b * 256 + i * 16));
        }
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            acc = partial_fold(acc, sum[i]);
        }
    }
    return vaddvq_s32(acc);
}

/* A few tokens: 16 rows at a time, which the second token finds in the cache. */
INLINE void packed(int32_t type, const uint8_t *w, int64_t row_bytes, int64_t k, int64_t r0, int64_t r1,
                   const int8_t *xq, int64_t ldx, const int32_t *xsum, const float *factor, int64_t n_tok,
                   float *y, int64_t ldy) {
    int64_t rows = n_tok == 1 ? r1 - r0 : 16;
    for (int64_t first = r0; first < r1; first += rows) {
        for (int64_t t = 0; t < n_tok; t++) {
            for (int64_t r = first; r < BL_MIN(first + rows, r1); r++) {
                const uint8_t *row = w + r * row_bytes;
                int32_t sum = type == BL_TYPE_TQ1_0 ? tq1_row(row, xq + t * ldx, k / 256)
                                                    : packed_row(type == BL_TYPE_TQ2_0, row, xq + t * ldx, k / 128);
                y[t * ldy + r] = (float)(sum - xsum[t]) * factor[t];
            }
        }
    }
}

/* ---- many tokens: panels ----------------------------------------------------------------------- */

#define MANY 6            /* tokens from which expansion pays */
#define PANEL_ROWS 16
#if defined(__ARM_FEATURE_DOTPROD)
#define PIECE_K 1280      /* a multiple of 256; 16 rows are 20 KiB (bl_ternary_scratch) */
#else
#define PIECE_K 512       /* <= 86*8: one int16 sum */
#endif
#define PANEL_TOKENS 256  /* int32 sums of 16 x 256 live on the stack: 16 KiB */

/* Codes of weights first .. first+n-1 of a row, as every second 8 bytes of `pair`; both are multiples of the
 * type's block. */
INLINE void expand(int32_t type, const uint8_t *row, int64_t first, int64_t n, uint8_t *pair) {
    if (type == BL_TYPE_TQ1_0) {
        for (int64_t i = 0; i < n; i += 256) {
            uint8_t codes[256];
            tq1_0_codes(row + (first + i) / 256 * 54, codes);
            for (int64_t j = 0; j < 256; j += 8) {
                vst1_u8(pair + 2 * (i + j), vld1_u8(codes + j));
            }
        }
        return;
    }
    int tq2 = type == BL_TYPE_TQ2_0;
    for (int64_t i = 0; i < n; i += 128) {
        const uint8_t *at = row + vector_at(tq2, (first + i) / 128);
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            uint8x16_t v = vld1q_u8(at + half * 16);
#pragma GCC unroll 4
            for (int g = 0; g < 4; g++) {
                uint8x16_t c = vreinterpretq_u8_s8(codes_at(v, tq2 ? g : 3 - g));
                uint8_t *to = pair + 2 * (i + g * 32 + half * 16);
                vst1_u8(to, vget_low_u8(c));
                vst1_u8(to + 16, vget_high_u8(c));
            }
        }
    }
}

/* Adds to sums[row][token] the products of np pairs of rows, 2*PIECE_K bytes apart, and nt tokens (an even
 * number, or 1) over n <= PIECE_K. */
#if defined(__ARM_FEATURE_MATMUL_INT8)
INLINE void panel_block(const uint8_t *pairs, int np, const int8_t *x, int64_t ldx, int nt, int64_t n,
                        int32_t (*sums)[PANEL_TOKENS]) {
    int32x4_t acc[4][2]; /* row 0 with tokens 0 and 1, row 1 with both */
    const int nu = (nt + 1) / 2;
#pragma GCC unroll 4
    for (int p = 0; p < np; p++) {
#pragma GCC unroll 2
        for (int u = 0; u < nu; u++) {
            acc[p][u] = vdupq_n_s32(0);
        }
    }
    for (int64_t i = 0; i < n; i += 16) {
        int8x16_t low[2], high[2];
#pragma GCC unroll 2
        for (int u = 0; u < nu; u++) {
            int64x2_t a = vreinterpretq_s64_s8(vld1q_s8(x + 2 * u * ldx + i));
            int64x2_t b = nt == 1 ? a : vreinterpretq_s64_s8(vld1q_s8(x + (2 * u + 1) * ldx + i));
            low[u] = vreinterpretq_s8_s64(vzip1q_s64(a, b));
            high[u] = vreinterpretq_s8_s64(vzip2q_s64(a, b));
        }
#pragma GCC unroll 4
        for (int p = 0; p < np; p++) {
            const int8_t *at = (const int8_t *)pairs + p * 2 * PIECE_K + 2 * i;
            int8x16_t c = vld1q_s8(at), d = vld1q_s8(at + 16);
#pragma GCC unroll 2
            for (int u = 0; u < nu; u++) {
                acc[p][u] = vmmlaq_s32(vmmlaq_s32(acc[p][u], c, low[u]), d, high[u]);
            }
        }
    }
#pragma GCC unroll 4
    for (int p = 0; p < np; p++) {
#pragma GCC unroll 2
        for (int u = 0; u < nu; u++) {
            int32_t s[4];
            vst1q_s32(s, acc[p][u]);
            for (int t = 2 * u; t < BL_MIN(2 * u + 2, nt); t++) {
                sums[2 * p][t] += s[t - 2 * u];
                sums[2 * p + 1][t] += s[t - 2 * u + 2];
            }
        }
    }
}
#else
INLINE void panel_block(const uint8_t *pairs, int np, const int8_t *x, int64_t ldx, int nt, int64_t n,
                        int32_t (*sums)[PANEL_TOKENS]) {
    partial acc[4][4][2]; /* a pair by a token: 8 bytes of row 0 in the low half, of row 1 in the high */
#if defined(__ARM_FEATURE_DOTPROD)
    enum { N_SUMS = 1 };
#else
    enum { N_SUMS = 2 };
#endif
#pragma GCC unroll 4
    for (int p = 0; p < np; p++) {
#pragma GCC unroll 4
        for (int t = 0; t < nt; t++) {
#pragma GCC unroll 2
            for (int s = 0; s < N_SUMS; s++) {
                acc[p][t][s] = PARTIAL_ZERO;
            }
        }
    }
    for (int64_t i = 0; i < n; i += 8) {
        int8x16_t v[4];
#pragma GCC unroll 4
        for (int t = 0; t < nt; t++) {
            int8x8_t half = vld1_s8(x + t * ldx + i);
            v[t] = vcombine_s8(half, half);
        }
#pragma GCC unroll 4
        for (int p = 0; p < np; p++) {
            int8x16_t c = vld1q_s8((const int8_t *)pairs + p * 2 * PIECE_K + 2 * i);
#pragma GCC unroll 4
            for (int t = 0; t < nt; t++) {
#if defined(__ARM_FEATURE_DOTPROD)
                acc[p][t][0] = vdotq_s32(acc[p][t][0], c, v[t]);
#else
                acc[p][t][0] = vmlal_s8(acc[p][t][0], vget_low_s8(c), vget_low_s8(v[t]));
                acc[p][t][1] = vmlal_high_s8(acc[p][t][1], c, v[t]);
#endif
            }
        }
    }
#pragma GCC unroll 4
    for (int p = 0; p < np; p++) {
#pragma GCC unroll 4
        for (int t = 0; t < nt; t++) {
#if defined(__ARM_FEATURE_DOTPROD)
            sums[2 * p][t] += vaddv_s32(vget_low_s32(acc[p][t][0]));
            sums[2 * p + 1][t] += vaddv_s32(vget_high_s32(acc[p][t][0]));
#else
            sums[2 * p][t] += vaddlvq_s16(acc[p][t][0]);
            sums[2 * p + 1][t] += vaddlvq_s16(acc[p][t][1]);
#endif
        }
    }
}
#endif

/* Pairs of rows that a block takes, so that its sums fit the registers. */
#if defined(__ARM_FEATURE_DOTPROD)
#define BLOCK_PAIRS 4
#else
#define BLOCK_PAIRS 2
#endif

/* A piece of k: n_pairs pairs of rows against n_tok tokens, tokens outermost so that four of them stay in
 * the first cache together with all the codes. */
static void panel_piece(const uint8_t *pairs, int64_t n_pairs, const int8_t *x, int64_t ldx, int64_t n_tok,
                        int64_t n, int32_t (*sums)[PANEL_TOKENS]) {
    for (int64_t t = 0; t < n_tok; t += n_tok - t >= 4 ? 4 : 1) {
        int64_t p = 0;
        for (; p < n_pairs; p += n_pairs - p >= BLOCK_PAIRS ? BLOCK_PAIRS : 1) {
            const uint8_t *at = pairs + p * 2 * PIECE_K;
            int32_t(*to)[PANEL_TOKENS] = (int32_t(*)[PANEL_TOKENS])&sums[2 * p][t];
            if (n_tok - t >= 4 && n_pairs - p >= BLOCK_PAIRS) {
                panel_block(at, BLOCK_PAIRS, x + t * ldx, ldx, 4, n, to);
            } else if (n_tok - t >= 4) {
                panel_block(at, 1, x + t * ldx, ldx, 4, n, to);
            } else if (n_pairs - p >= BLOCK_PAIRS) {
                panel_block(at, BLOCK_PAIRS, x + t * ldx, ldx, 1, n, to);
            } else {
                panel_block(at, 1, x + t * ldx, ldx, 1, n, to);
            }
        }
    }
}

INLINE void panels(int32_t type, const uint8_t *w, int64_t row_bytes, int64_t k, int64_t r0, int64_t r1,
                   const int8_t *xq, int64_t ldx, const int32_t *xsum, const float *factor, int64_t n_tok,
                   float *y, int64_t ldy, uint8_t *codes) {
    int32_t sums[PANEL_ROWS][PANEL_TOKENS];
    for (int64_t r = r0; r < r1; r += PANEL_ROWS) {
        int64_t n_rows = BL_MIN(r1 - r, PANEL_ROWS);
        for (int64_t t = 0; t < n_tok; t += PANEL_TOKENS) {
            int64_t nt = BL_MIN(n_tok - t, PANEL_TOKENS);
            for (int64_t j = 0; j < PANEL_ROWS; j++) {
                memset(sums[j], 0, (size_t)nt * sizeof sums[j][0]);
            }
            for (int64_t i = 0; i < k; i += PIECE_K) {
                int64_t n = BL_MIN(k - i, PIECE_K);
                if (n_rows % 2 != 0) { /* pairs take two rows: the odd one out meets zeros */
                    memset(codes + n_rows / 2 * 2 * PIECE_K, 0, (size_t)(2 * n));
                }
                for (int64_t j = 0; j < n_rows; j++) {
                    expand(type, w + (r + j) * row_bytes, i, n, codes + j / 2 * 2 * PIECE_K + j % 2 * 8);
                }
                panel_piece(codes, (n_rows + 1) / 2, xq + t * ldx + i, ldx, nt, n, sums);
            }
            for (int64_t u = 0; u < nt; u++) {
                for (int64_t j = 0; j < n_rows; j++) {
                    y[(t + u) * ldy + r + j] = (float)(sums[j][u] - xsum[t + u]) * factor[t + u];
                }
            }
        }
    }
}

void NEON_NAME(bl_ternary_i8)(int32_t type, const uint8_t *w, int64_t k, int64_t r0, int64_t r1,
                              const int8_t *xq, int64_t ldx, const int32_t *xsum, const float *factor,
                              int64_t n_tok, float *y, int64_t ldy, void *scratch) {
    int64_t row_bytes = bl_row_bytes(type, k);
    if (n_tok >= MANY) {
        panels(type, w, row_bytes, k, r0, r1, xq, ldx, xsum, factor, n_tok, y, ldy, scratch);
    } else if (type == BL_TYPE_TQ1_0) {
        packed(BL_TYPE_TQ1_0, w, row_bytes, k, r0, r1, xq, ldx, xsum, factor, n_tok, y, ldy);
    } else if (type == BL_TYPE_TQ2_0) {
        packed(BL_TYPE_TQ2_0, w, row_bytes, k, r0, r1, xq, ldx, xsum, factor, n_tok, y, ldy);
    } else {
        packed(BL_TYPE_I2_S, w, row_bytes, k, r0, r1, xq, ldx, xsum, factor, n_tok, y, ldy);
    }
}
