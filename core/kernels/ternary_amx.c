/* ternary_amx.c - ternary matrices times many int8 vectors with AMX's tiles.
 *
 * TDPBSUD takes 16 tokens x 64 activations, just as they lie in memory, and 64 weights of 16 rows as unsigned
 * codes by fours:
 *
 *     row j of a tile of weights:  row 0's codes 4j..4j+3 | row 1's | … | row 15's
 *
 * So the weights are what is rearranged: a panel of 32 rows is expanded into `scratch` in pieces of k, once for
 * up to 256 tokens.  A vector of packed bytes holds four codes a byte; 16 rows of them are transposed while they
 * are packed, and then spread to four rows of tiles by shifts, which costs a quarter of transposing codes.  (With
 * weights as the other operand the activations would have to be rearranged for every call, which has few rows.)
 *
 * Four sums of 16 tokens x 16 rows stay in tiles over a piece; between pieces they lie on the stack.  Fewer
 * tokens, and processes that may not use tiles, take the AVX-512 kernel.
 *
 * Called through the table of kernels_amx.c; compiled once more over tiles in software for the tests. */
#include "kernels/amx_tiles.h"
#include "kernels/kernels_amx.h"
#include "kernels/kernels_avx512.h"

#define PANEL_ROWS 32
#define PIECE_K 2560     /* a multiple of 256 */
#define PANEL_TOKENS 256 /* int32 sums of 256 x 32 live on the stack: 32 KiB */

_Static_assert(PANEL_ROWS * PIECE_K <= BL_TERNARY_SCRATCH_MIN, "a piece's tiles");

/* Numbers of the tiles: sums of token block a and row block b are SUM + 2a + b. */
#define SUM00 0
#define SUM01 1
#define SUM10 2
#define SUM11 3
#define TOKENS0 4
#define TOKENS1 5
#define WEIGHTS0 6
#define WEIGHTS1 7

/* ---- weights to tiles ------------------------------------------------------------------------ */

/* Tile number `block` of 64 weights of a panel's row block: the two alternate. */
INLINE uint8_t *tile_at(uint8_t *tiles, int64_t block) { return tiles + block * 2 * 1024; }

/* 128 or 256 weights of 16 rows from packed vectors of 32 bytes (ternary_avx2.c shows them). */
INLINE void expand_packed(int tq2, const uint8_t *const *row, int64_t at, int n, uint8_t *tiles) {
    const __m512i mask = _mm512_set1_epi8(3);
    __mmask16 dwords = n == 256 ? 0xffff : 0xff;
    __m512i v[16];
#pragma GCC unroll 16
    for (int r = 0; r < 16; r++) {
        v[r] = _mm512_maskz_loadu_epi32(dwords, row[r] + at);
    }
    transpose16(v);
    for (int j = 0; j < n / 16; j++) { /* dword j: weights 4(j%8) .. of each of four groups of 32 */
#pragma GCC unroll 4
        for (int place = 0; place < 4; place++) {
            int group = tq2 ? place : 3 - place;
            uint8_t *to = tile_at(tiles, j / 8 * 2 + group / 2) + (group % 2 * 8 + j % 8) * 64;
            _mm512_store_si512(to, _mm512_and_si512(_mm512_srli_epi16(v[j], (unsigned)(2 * place)), mask));
        }
    }
}

/* 256 weights of 16 rows of TQ1_0. */
static void expand_tq1_0(const uint8_t *const *row, int64_t at, uint8_t *tiles) {
    uint8_t codes[16][256] BL_ALIGNED(64);
    for (int r = 0; r < 16; r++) {
        bl_tq1_0_codes_avx2(row[r] + at, codes[r]);
    }
    for (int64_t block = 0; block < 4; block++) {
        __m512i v[16];
#pragma GCC unroll 16
        for (int r = 0; r < 16; r++) {
            v[r] = _mm512_load_si512(&codes[r][block * 64]);
        }
        transpose16(v);
#pragma GCC unroll 16
        for (int j = 0; j < 16; j++) {
            _mm512_store_si512(tile_at(tiles, block) + j * 64, v[j]);
        }
    }
}

/* Weights first .. first+n-1 of up to 16 rows; the rows past n_rows repeat the last. */
static void expand(int32_t type, const uint8_t *w, int64_t row_bytes, int64_t n_rows, int64_t first, int64_t n,
                   uint8_t *tiles) {
    const uint8_t *row[16];
    for (int64_t r = 0; r < 16; r++) {
        row[r] = w + BL_MIN(r, n_rows - 1) * row_bytes;
    }
    for (int64_t i = 0; i < n; i += 256, tiles = tile_at(tiles, 4)) {
        int64_t k = first + i;
        if (type == BL_TYPE_TQ1_0) {
            expand_tq1_0(row, k / 256 * 54, tiles);
        } else if (type == BL_TYPE_TQ2_0) {
            expand_packed(1, row, k / 256 * 66, 256, tiles);
        } else {
            expand_packed(0, row, k / 4, (int)BL_MIN(n - i, 256), tiles);
        }
    }
}

/* ---- products ---------------------------------------------------------------------------------- */

/* Up to 32 tokens: 16 in the first tile of each pair, unless there are fewer, the rest in the second. */
static void configure(int64_t n_tok) {
    amx_config config BL_ALIGNED(64) = {.palette = 1};
    const int64_t first = BL_MIN(n_tok, 16), second = n_tok - first;
    const uint8_t rows[8] = {(uint8_t)first, (uint8_t)first,  (uint8_t)second, (uint8_t)second,
                             (uint8_t)first, (uint8_t)second, 16,              16};
    for (int t = 0; t < 8; t++) {
        config.rows[t] = rows[t];
        config.bytes[t] = rows[t] != 0 ? 64 : 0;
    }
    tile_configure(&config);
}

/* Adds to sums (token, PANEL_ROWS) the products of up to 32 tokens and one or two row blocks over n weights. */
INLINE void block(const int8_t *x, int64_t ldx, int two_tokens, const uint8_t *tiles, int two_rows, int64_t n,
                  int start, int32_t *sums) {
    const int64_t stride = PANEL_ROWS * 4;
    int32_t *low = sums + 16 * PANEL_ROWS;
    if (start) {
        tile_zero(SUM00);
        if (two_rows) {
            tile_zero(SUM01);
        }
        if (two_tokens) {
            tile_zero(SUM10);
        }
        if (two_tokens && two_rows) {
            tile_zero(SUM11);
        }
    } else {
        tile_load(SUM00, sums, stride);
        if (two_rows) {
            tile_load(SUM01, sums + 16, stride);
        }
        if (two_tokens) {
            tile_load(SUM10, low, stride);
        }
        if (two_tokens && two_rows) {
            tile_load(SUM11, low + 16, stride);
        }
    }
    for (int64_t i = 0; i < n; i += 64, tiles += 2048) {
        tile_load(WEIGHTS0, tiles, 64);
        tile_load(TOKENS0, x + i, ldx);
        tile_dot_su(SUM00, TOKENS0, WEIGHTS0);
        if (two_rows) {
            tile_load(WEIGHTS1, tiles + 1024, 64);
            tile_dot_su(SUM01, TOKENS0, WEIGHTS1);
        }
        if (two_tokens) {
            tile_load(TOKENS1, x + 16 * ldx + i, ldx);
            tile_dot_su(SUM10, TOKENS1, WEIGHTS0);
        }
        if (two_tokens && two_rows) {
            tile_dot_su(SUM11, TOKENS1, WEIGHTS1);
        }
    }
    tile_store(SUM00, sums, stride);
    if (two_rows) {
        tile_store(SUM01, sums + 16, stride);
    }
    if (two_tokens) {
        tile_store(SUM10, low, stride);
    }
    if (two_tokens && two_rows) {
        tile_store(SUM11, low + 16, stride);
    }
}

static void piece(const int8_t *x, int64_t ldx, int64_t n_tok, const uint8_t *tiles, int two_rows, int64_t n,
                  int start, int32_t *sums) {
    configure(BL_MIN(n_tok, 32));
    for (int64_t t = 0; t < n_tok; t += 32) {
        int64_t left = n_tok - t;
        if (t > 0 && left < 32) {
            configure(left);
        }
        if (left > 16 && two_rows) {
            block(x + t * ldx, ldx, 1, tiles, 1, n, start, sums + t * PANEL_ROWS);
        } else if (left > 16) {
            block(x + t * ldx, ldx, 1, tiles, 0, n, start, sums + t * PANEL_ROWS);
        } else if (two_rows) {
            block(x + t * ldx, ldx, 0, tiles, 1, n, start, sums + t * PANEL_ROWS);
        } else {
            block(x + t * ldx, ldx, 0, tiles, 0, n, start, sums + t * PANEL_ROWS);
        }
    }
}

/* y of a token's rows from their sums. */
INLINE void finish(const int32_t *sums, int64_t n_rows, int32_t xsum, float factor, float *y) {
    for (int64_t j = 0; j < n_rows; j += 16) {
        __mmask16 rows = n_rows - j >= 16 ? 0xffff : (__mmask16)((1u << (n_rows - j)) - 1);
        __m512i v = _mm512_sub_epi32(_mm512_load_si512(sums + j), _mm512_set1_epi32(xsum));
        _mm512_mask_storeu_ps(y + j, rows, _mm512_mul_ps(_mm512_cvtepi32_ps(v), _mm512_set1_ps(factor)));
    }
}

void AMX_NAME(bl_ternary_i8)(int32_t type, const uint8_t *w, int64_t k, int64_t r0, int64_t r1,
                             const int8_t *xq, int64_t ldx, const int32_t *xsum, const float *factor,
                             int64_t n_tok, float *y, int64_t ldy, void *scratch) {
    if (n_tok < AMX_TOKENS || !AMX_NAME(bl_tiles_usable)()) {
        bl_kernels_avx512.ternary_i8(type, w, k, r0, r1, xq, ldx, xsum, factor, n_tok, y, ldy, scratch);
        return;
    }
    int32_t sums[PANEL_TOKENS * PANEL_ROWS] BL_ALIGNED(64);
    const int64_t row_bytes = bl_row_bytes(type, k);
    uint8_t *tiles = scratch;
    for (int64_t r = r0; r < r1; r += PANEL_ROWS) {
        int64_t n_rows = BL_MIN(r1 - r, PANEL_ROWS);
        for (int64_t t = 0; t < n_tok; t += PANEL_TOKENS) {
            int64_t nt = BL_MIN(n_tok - t, PANEL_TOKENS);
            for (int64_t i = 0; i < k; i += PIECE_K) {
                int64_t n = BL_MIN(k - i, PIECE_K);
                expand(type, w + r * row_bytes, row_bytes, BL_MIN(n_rows, 16), i, n, tiles);
                if (n_rows > 16) {
                    expand(type, w + (r + 16) * row_bytes, row_bytes, n_rows - 16, i, n, tiles + 1024);
                }
                piece(xq + t * ldx + i, ldx, nt, tiles, n_rows > 16, n, i == 0, sums);
            }
            for (int64_t u = 0; u < nt; u++) {
                finish(sums + u * PANEL_ROWS, n_rows, xsum[t + u], factor[t + u], y + (t + u) * ldy + r);
            }
        }
    }
    tile_release(); /* before anyone else's code runs: tiles in use make a context switch save 8 KiB */
}
