/* group_amx.c - block-quantized matrices times many int8 vectors in groups, with AMX's tiles.
 *
 * Sixteen rows of weights are cut into signed codes by group_avx512.c, whose vectors are the rows of a tile as they
 * are (row r's codes 4j..4j+3 in dword r of tile row j).  TDPBSSD multiplies them by sixteen rows of activations, which
 * lie in memory as tiles do.  A group has its own scales, so its sums leave the tiles at its end:
 *
 *     sums (row of activations, row of weights) -> acc[token] = fma(float(sum), wd * xd, acc[token])
 *
 * by AVX-512, a vector a row of activations, in the order of groups that the contract fixes.  A group shorter than 64
 * fills a part of the tiles' columns.  Two tiles of sums take turns: one group's products run while the sums of the
 * one before are added.
 *
 * Two panels of sixteen rows meet the same activations, PIECE weights at a time, so that both stay in the first cache.
 * What it should reach on hardware is counted in docs/ARCHITECTURE.md.  Few rows of either kind, and processes that may
 * not use tiles, take the AVX-512 kernel.
 *
 * Called through the table of kernels_amx.c; compiled once more over tiles in software for the tests. */
#include "kernels/amx_tiles.h"
#include "kernels/kernels_amx.h"
#include "kernels/kernels_avx512.h"

#define ROWS 16
#define PANELS 2
#define PIECE_STEPS 2
#define PIECE (PIECE_STEPS * BL_GROUP_STEP)
#define PANEL_TOKENS 256 /* their chains lie on the stack: 16 KiB a panel */

/* Numbers of the tiles; even and odd groups have their own. */
#define SUMS0 0
#define TOKENS0 1
#define WEIGHTS0 2
#define SUMS1 3
#define TOKENS1 4
#define WEIGHTS1 5

/* Up to PIECE weights of sixteen rows. */
typedef struct piece {
    bl_group_step step[PIECE_STEPS];
} piece;

/* The call's arguments that every block needs. */
typedef struct inputs {
    const int8_t *xq;
    const float *xd;
    const int32_t *xsums;
    int64_t ldx, n_groups; /* of a whole row */
    int group, shift;      /* group: 1 << shift */
} inputs;

/* `rows` rows of activations in the tiles of tokens and sums. */
static void configure(int group, int rows) {
    const int bytes = BL_MIN(group, 64);
    amx_config config BL_ALIGNED(64) = {.palette = 1};
    for (int t = 0; t < 6; t++) {
        const int weights = t == WEIGHTS0 || t == WEIGHTS1, tokens = t == TOKENS0 || t == TOKENS1;
        config.rows[t] = (uint8_t)(weights ? bytes / 4 : rows);
        config.bytes[t] = (uint16_t)(tokens ? bytes : 64);
    }
    tile_configure(&config);
}

/* The sums of the group at weight `at` of the piece to `to`; x: the first row of activations from the piece on. */
#define DEFINE_PRODUCTS(name, sums, tokens, weights)                                                           \
    INLINE void name(const piece *p, int group, unsigned at, const int8_t *x, int64_t ldx, int32_t *to) {      \
        const uint8_t *codes = (const uint8_t *)p->step[at / BL_GROUP_STEP].codes + at % BL_GROUP_STEP * ROWS; \
        tile_zero(sums);                                                                                       \
        for (int i = 0; i < group; i += 64) {                                                                  \
            tile_load(weights, codes + i * ROWS, 64);                                                          \
            tile_load(tokens, x + at + i, ldx);                                                                \
            tile_dot_ss(sums, tokens, weights);                                                                \
        }                                                                                                      \
        tile_store(sums, to, 64);                                                                              \
    }
DEFINE_PRODUCTS(products_even, SUMS0, TOKENS0, WEIGHTS0)
DEFINE_PRODUCTS(products_odd, SUMS1, TOKENS1, WEIGHTS1)

/* Goes on with the chains of rows / n_terms tokens by the sums of a group; xd, xsums: the first row's for it. */
INLINE void add_group(int rows, int n_terms, int has_min, const piece *p, int shift, unsigned at, const int32_t *sums,
                      const float *xd, const int32_t *xsums, int64_t n_groups, __m512 *acc) {
    const bl_group_step *s = &p->step[at / BL_GROUP_STEP];
    const __m512 d = s->d[at % BL_GROUP_STEP >> shift], m = has_min ? s->m[at % BL_GROUP_STEP >> shift] : d;
#pragma GCC unroll 16
    for (int j = 0; j < rows; j++) {
        const __m512 scale = _mm512_set1_ps(*xd);
        __m512 *to = &acc[j / n_terms];
        *to = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sums + j * ROWS)), _mm512_mul_ps(d, scale), *to);
        if (has_min) {
            *to = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_set1_epi32(*xsums)), _mm512_mul_ps(m, scale), *to);
            xsums = whole_address(xsums + n_groups);
        }
        xd = whole_address(xd + n_groups);
    }
}

/* `rows` rows of activations, from row `first` on, meet the n weights of a piece that begins at weight `at`. */
INLINE void block(int rows, int n_terms, int has_min, const inputs *in, int64_t first, int64_t at, int n, const piece *p,
                  __m512 *acc) {
    const int group = in->group, shift = in->shift;
    const int64_t n_groups = in->n_groups, ldx = in->ldx, g = at >> shift;
    const int8_t *x = in->xq + first * ldx + at;
    const float *xd = in->xd + first * n_groups + g;
    const int32_t *xsums = in->xsums + first * n_groups + g;
    int32_t even[ROWS * ROWS] BL_ALIGNED(64), odd[ROWS * ROWS] BL_ALIGNED(64);
    products_even(p, group, 0, x, ldx, even);
    for (int i = 0;; i += group) { /* the group whose sums are added */
        if (i + group < n) {
            products_odd(p, group, (unsigned)(i + group), x, ldx, odd);
        }
        add_group(rows, n_terms, has_min, p, shift, (unsigned)i, even, xd++, xsums++, n_groups, acc);
        i += group;
        if (i >= n) {
            return;
        }
        if (i + group < n) {
            products_even(p, group, (unsigned)(i + group), x, ldx, even);
        }
        add_group(rows, n_terms, has_min, p, shift, (unsigned)i, odd, xd++, xsums++, n_groups, acc);
        if (i + group >= n) {
            return;
        }
    }
}

/* A whole block's chains stay in registers. */
#define DEFINE_BLOCK(name, n_terms, has_min)                                                                   \
    static __attribute__((noinline)) void name(int rows, const inputs *in, int64_t first, int64_t at, int n,     \
                                               const piece *p, __m512 *acc) {                                  \
        if (rows < ROWS) {                                                                                     \
            block(rows, n_terms, has_min, in, first, at, n, p, acc);                                           \
            return;                                                                                            \
        }                                                                                                      \
        __m512 here[ROWS / n_terms];                                                                           \
        _Pragma("GCC unroll 16") for (int t = 0; t < ROWS / n_terms; t++) {                                    \
            here[t] = acc[t];                                                                                  \
        }                                                                                                      \
        block(ROWS, n_terms, has_min, in, first, at, n, p, here);                                              \
        _Pragma("GCC unroll 16") for (int t = 0; t < ROWS / n_terms; t++) {                                    \
            acc[t] = here[t];                                                                                  \
        }                                                                                                      \
    }
DEFINE_BLOCK(block_1, 1, 0)
DEFINE_BLOCK(block_2, 2, 0)
DEFINE_BLOCK(block_1_min, 1, 1)
DEFINE_BLOCK(block_2_min, 2, 1)

void AMX_NAME(bl_group_i8)(int32_t type, const uint8_t *w, int64_t k, int64_t r0, int64_t r1, const int8_t *xq,
                           int64_t ldx, const float *xd, const int32_t *xsums, int64_t n_tok, int n_terms, float *y,
                           int64_t ldy, void *scratch) {
    if (n_tok * n_terms < AMX_TOKENS || r1 - r0 < ROWS || !AMX_NAME(bl_tiles_usable)()) {
        bl_kernels_avx512.group_i8(type, w, k, r0, r1, xq, ldx, xd, xsums, n_tok, n_terms, y, ldy, scratch);
        return;
    }
    const bl_tensor_type *t = bl_tensor_type_find(type);
    const int64_t row_bytes = bl_row_bytes(type, k);
    const inputs in = {xq, xd, xsums, ldx, k / t->group, t->group, __builtin_ctz((unsigned)t->group)};
    void (*const run)(int, const inputs *, int64_t, int64_t, int, const piece *, __m512 *) =
        bl_type_has_min(type) ? n_terms == 1 ? block_1_min : block_2_min
        : n_terms == 1        ? block_1
                              : block_2;
    piece pieces[PANELS];
    __m512 acc[PANELS][PANEL_TOKENS];
    int configured = 0;
    for (int64_t turn = r0; turn < r1; turn += PANELS * ROWS) {
        const int n_panels = r1 - turn > ROWS ? PANELS : 1;
        for (int64_t t0 = 0; t0 < n_tok; t0 += PANEL_TOKENS) {
            const int64_t nt = BL_MIN(n_tok - t0, PANEL_TOKENS), n_inputs = nt * n_terms;
            memset(acc, 0, sizeof acc);
            for (int64_t at = 0; at < k; at += PIECE) {
                const int n = (int)BL_MIN(k - at, PIECE);
                for (int p = 0; p < n_panels; p++) {
                    const int64_t r = BL_MIN(turn + p * ROWS, r1 - ROWS); /* the last may overlap those before */
                    const uint8_t *from = w + r * row_bytes + at / t->block * t->block_bytes;
                    for (int i = 0; i < n; i += BL_GROUP_STEP) {
                        bl_group_step_avx512(type, from + i / t->block * t->block_bytes, row_bytes,
                                             BL_MIN(n - i, BL_GROUP_STEP), &pieces[p].step[i / BL_GROUP_STEP]);
                    }
                }
                for (int64_t j = 0; j < n_inputs; j += ROWS) {
                    const int rows = (int)BL_MIN(n_inputs - j, ROWS);
                    if (rows != configured) {
                        configure(t->group, rows);
                        configured = rows;
                    }
                    for (int p = 0; p < n_panels; p++) {
                        run(rows, &in, t0 * n_terms + j, at, n, &pieces[p], acc[p] + j / n_terms);
                    }
                }
            }
            for (int64_t j = 0; j < nt; j++) {
                for (int p = 0; p < n_panels; p++) {
                    _mm512_storeu_ps(y + (t0 + j) * ldy + BL_MIN(turn + p * ROWS, r1 - ROWS), acc[p][j]);
                }
            }
        }
    }
    tile_release(); /* before anyone else's code runs: tiles in use make a context switch save 8 KiB */
}
