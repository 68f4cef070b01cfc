/* ternary_avx512.c - ternary matrices times int8 vectors with AVX-512 VNNI.
 *
 * vpdpbusd multiplies 64 codes (unsigned) with 64 int8 and adds fours of them to int32: exact.
 *
 * Packed vectors.  64 bytes of I2_S or TQ2_0 are 256 codes in four planes of two bits:
 *
 *     bits            7 6   5 4   3 2   1 0
 *     I2_S            g=0   g=1   g=2   g=3     code of weight half*128 + g*32 + byte%32,
 *     TQ2_0           g=3   g=2   g=1   g=0     half = byte/32
 *
 * A block of TQ1_0 has 52 bytes of five or four trits; two lookups in tables of 256 turn a byte into the same
 * four planes and a fifth one (bl_trits_of_byte_avx512).
 *
 * One token (decode): memory is the limit, so the packed bytes are used where they lie.  Planes stay in their
 * bits, code * 4^p, and have sums of their own, which are shifted at the end: exact, as each is a multiple of
 * 4^p; a lane's sum overflows where the result itself would (k > 5 million).  The activations are brought into
 * the planes' order once a call, and two rows share their loads.
 *
 * A few tokens: planes are shifted down, once for all tokens, and each pair of row and token has one sum.  Five to eight
 * tokens: sixteen such sums become the lanes of one vector; a row whose activations pass the first cache is met in pieces.
 *
 * Many tokens (prefill): a panel of 64 rows is expanded to a byte a code, a piece of 256 weights at a time,
 * transposed so that the 16 lanes of a vector are 16 rows and each holds four neighbouring weights; a dword of
 * activations broadcast to all lanes meets four such vectors.  24 sums (4 vectors x 6 tokens) stay in
 * registers, and no sum across lanes is needed.
 *
 * Called through the table of kernels_avx512.c. */
#include "kernels/kernels_avx512.h"

#define FEW 8 /* most tokens that go through packed vectors */

/* Planes of 256 weights: where they lie among the permuted activations. */
INLINE int plane_count(int32_t type) { return type == BL_TYPE_TQ1_0 ? 5 : 4; }

/* ---- activations in the order of packed vectors ------------------------------------------------ */

/* 256 weights of I2_S or TQ2_0 (128 at the end of an I2_S row). */
INLINE void permute_planes(int tq2, const int8_t *x, int64_t n, int8_t *out) {
    for (int p = 0; p < 4; p++) {
        const int8_t *from = x + (tq2 ? p : 3 - p) * 32;
        store256(out + p * 64, load256(from));
        store256(out + p * 64 + 32, n == 256 ? load256(from + 128) : _mm256_setzero_si256());
    }
}

static void permute_trits(const int8_t *x, int8_t *out) {
    for (int p = 0; p < 5; p++, out += 64) {
        _mm512_store_si512(out, _mm512_setzero_si512());
        store256(out, load256(x + p * 32));
        store128(out + 32, load128(x + 160 + p * 16));
        if (p < 4) {
            memcpy(out + 48, x + 240 + p * 4, 4);
        }
    }
}

static int64_t permuted_bytes(int32_t type, int64_t k) { return (k + 255) / 256 * 64 * plane_count(type); }

static void permute(int32_t type, const int8_t *x, int64_t k, int8_t *out) {
    for (int64_t i = 0; i < k; i += 256) {
        if (type == BL_TYPE_TQ1_0) {
            permute_trits(x + i, out);
        } else {
            permute_planes(type == BL_TYPE_TQ2_0, x + i, BL_MIN(k - i, 256), out);
        }
        out += 64 * plane_count(type);
    }
}

/* ---- packed vectors ---------------------------------------------------------------------------- */

const uint8_t bl_trits_of_byte_avx512[2][256] BL_ALIGNED(64) = {
#define DIGIT(q, power) ((((q) * (power) & 255) * 3) >> 8)
#define FOUR(q) DIGIT(q, 1) | DIGIT(q, 3) << 2 | DIGIT(q, 9) << 4 | DIGIT(q, 27) << 6
#define FIFTH(q) DIGIT(q, 81)
#define ROW4(f, q) f(q), f(q + 1), f(q + 2), f(q + 3)
#define ROW16(f, q) ROW4(f, q), ROW4(f, q + 4), ROW4(f, q + 8), ROW4(f, q + 12)
#define ROW64(f, q) ROW16(f, q), ROW16(f, q + 16), ROW16(f, q + 32), ROW16(f, q + 48)
    {ROW64(FOUR, 0), ROW64(FOUR, 64), ROW64(FOUR, 128), ROW64(FOUR, 192)},
    {ROW64(FIFTH, 0), ROW64(FIFTH, 64), ROW64(FIFTH, 128), ROW64(FIFTH, 192)},
#undef DIGIT
#undef FOUR
#undef FIFTH
#undef ROW4
#undef ROW16
#undef ROW64
};

/* Packed vector i of a row, as four planes, and the fifth; `some`: the bytes that are there. */
INLINE __m512i packed_at(int32_t type, const trit_tables *t, const uint8_t *row, int64_t i, __mmask64 some,
                         __m512i *fifth) {
    if (type == BL_TYPE_I2_S) {
        return some == ~(__mmask64)0 ? _mm512_loadu_si512(row + i * 64) : _mm512_maskz_loadu_epi8(some, row + i * 64);
    }
    if (type == BL_TYPE_TQ2_0) {
        return _mm512_loadu_si512(row + i * 66);
    }
    __m512i q = _mm512_maskz_loadu_epi8(some, row + i * 54);
    return look_up_trits(t, q, fifth);
}

#define ALL_BYTES (~(__mmask64)0)
#define TRIT_BYTES (((__mmask64)1 << 52) - 1)

INLINE __mmask64 bytes_of(int32_t type) { return type == BL_TYPE_TQ1_0 ? TRIT_BYTES : ALL_BYTES; }
INLINE int64_t vector_bytes(int32_t type) { return type == BL_TYPE_I2_S ? 64 : type == BL_TYPE_TQ2_0 ? 66 : 54; }

/* The sums of four vectors. */
INLINE __m128i sum4(__m512i a, __m512i b, __m512i c, __m512i d) {
    __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    __m512i s = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    __m256i h = _mm256_add_epi32(_mm512_castsi512_si256(s), _mm512_extracti64x4_epi64(s, 1));
    return _mm_add_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
}

/* ---- one token --------------------------------------------------------------------------------- */

/* Bytes ahead that are asked for, into the second cache: into the first one, the few misses that it may have
 * under way cap the rate at a third of what memory gives.  The hardware's own prefetch stops at each page's end. */
#define AHEAD 8192

/* Each line must be asked for: one that is not stalls for as long as forty that are. */
INLINE void ask_ahead(int32_t type, const uint8_t *row, int64_t i) {
    _mm_prefetch((const char *)row + i * BL_MIN(vector_bytes(type), 64) + AHEAD, _MM_HINT_T1);
}

/* What ask_ahead left out of a row of n packed vectors. */
INLINE void ask_rest(const uint8_t *row, int64_t n, int64_t row_bytes) {
    for (int64_t at = n * 64; at < row_bytes; at += 64) {
        _mm_prefetch((const char *)row + at + AHEAD, _MM_HINT_T1);
    }
}

/* Goes on with a row's sums over packed vector i. */
INLINE void one_step(int32_t type, const trit_tables *t, const uint8_t *row, int64_t i, __mmask64 some, const __m512i *x,
                     __m512i *acc) {
    const __m512i mask0 = _mm512_set1_epi8(3), mask1 = _mm512_set1_epi8(12), mask2 = _mm512_set1_epi8(48),
                  mask3 = _mm512_set1_epi8(-64);
    __m512i fifth, v = packed_at(type, t, row, i, some, &fifth);
    acc[0] = dp(acc[0], _mm512_and_si512(v, mask0), x[0]);
    acc[1] = dp(acc[1], _mm512_and_si512(v, mask1), x[1]);
    acc[2] = dp(acc[2], _mm512_and_si512(v, mask2), x[2]);
    acc[3] = dp(acc[3], _mm512_and_si512(v, mask3), x[3]);
    if (type == BL_TYPE_TQ1_0) {
        acc[0] = dp(acc[0], fifth, x[4]);
    }
}

INLINE __m512i one_scale(const __m512i *acc) {
    __m512i a = _mm512_add_epi32(acc[0], _mm512_srai_epi32(acc[1], 2));
    return _mm512_add_epi32(a, _mm512_add_epi32(_mm512_srai_epi32(acc[2], 4), _mm512_srai_epi32(acc[3], 6)));
}

/* The sums of two rows, in 16 parts. */
INLINE void one_block(int32_t type, const trit_tables *t, const uint8_t *const *row, int64_t k, const int8_t *xp,
                      __m512i *sums) {
    int planes = plane_count(type);
    int64_t n = k / 256;
    __m512i acc[2][4];
#pragma GCC unroll 2
    for (int r = 0; r < 2; r++) {
#pragma GCC unroll 4
        for (int p = 0; p < 4; p++) {
            acc[r][p] = _mm512_setzero_si512();
        }
    }
    for (int64_t i = 0; i < n; i++) {
        __m512i x[5];
#pragma GCC unroll 5
        for (int p = 0; p < planes; p++) {
            x[p] = _mm512_load_si512(xp + (i * planes + p) * 64);
        }
#pragma GCC unroll 2
        for (int r = 0; r < 2; r++) {
            ask_ahead(type, row[r], i);
            one_step(type, t, row[r], i, bytes_of(type), x, acc[r]);
        }
    }
    if (type == BL_TYPE_I2_S && k % 256 != 0) {
        __m512i x[4];
        for (int p = 0; p < 4; p++) {
            x[p] = _mm512_load_si512(xp + (n * 4 + p) * 64);
        }
#pragma GCC unroll 2
        for (int r = 0; r < 2; r++) {
            one_step(type, t, row[r], n, 0xffffffff, x, acc[r]);
        }
    }
#pragma GCC unroll 2
    for (int r = 0; r < 2; r++) {
        ask_rest(row[r], n, k / 128 * (vector_bytes(type) / 2));
        sums[r] = one_scale(acc[r]);
    }
}

INLINE void one_token(int32_t type, const uint8_t *w, int64_t row_bytes, int64_t k, int64_t r0, int64_t r1,
                      const int8_t *xp, int32_t xsum, float factor, float *y) {
    trit_tables t;
    if (type == BL_TYPE_TQ1_0) {
        load_trit_tables(&t);
    }
    for (int64_t r = r0; r < r1; r += 4) {
        const uint8_t *row[4];
        for (int j = 0; j < 4; j++) { /* rows past the end repeat the last */
            row[j] = w + BL_MIN(r + j, r1 - 1) * row_bytes;
        }
        __m512i s[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; j += 2) {
            one_block(type, &t, row + j, k, xp, s + j);
        }
        __m128i sum = _mm_sub_epi32(sum4(s[0], s[1], s[2], s[3]), _mm_set1_epi32(xsum));
        __m128 out = _mm_mul_ps(_mm_cvtepi32_ps(sum), _mm_set1_ps(factor));
        _mm_mask_storeu_ps(y + r, (__mmask8)((1 << BL_MIN(r1 - r, 4)) - 1), out);
    }
}

/* ---- a few tokens ------------------------------------------------------------------------------ */

INLINE __m512i plane_of(__m512i v, __m512i fifth, int p) {
    return p == 4 ? fifth : _mm512_and_si512(_mm512_srli_epi16(v, (unsigned)(2 * p)), _mm512_set1_epi8(3));
}

/* Goes on with the sums of rows x tokens over packed vector i. */
INLINE void few_step(int32_t type, int rows, int n_tok, const trit_tables *t, const uint8_t *const *row, int64_t i,
                     __mmask64 some, const int8_t *xp, int64_t ldxp, __m512i (*acc)[FEW]) {
    int planes = plane_count(type);
    __m512i v[4], fifth[4];
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) {
        v[r] = packed_at(type, t, row[r], i, some, &fifth[r]);
    }
#pragma GCC unroll 5
    for (int p = 0; p < planes; p++) {
        __m512i c[4];
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) {
            c[r] = plane_of(v[r], fifth[r], p);
        }
#pragma GCC unroll 8
        for (int j = 0; j < n_tok; j++) {
            __m512i x = _mm512_load_si512(xp + j * ldxp + (i * planes + p) * 64);
#pragma GCC unroll 4
            for (int r = 0; r < rows; r++) {
                acc[r][j] = dp(acc[r][j], c[r], x);
            }
        }
    }
}

/* The sums of sixteen vectors, each in its own lane. */
INLINE __m512i sum16_epi32(const __m512i *v) {
    __m512i a[8], b[4], c[2];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        a[i] = _mm512_add_epi32(_mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]),
                                _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]));
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        b[i] = _mm512_add_epi32(_mm512_unpacklo_epi64(a[2 * i], a[2 * i + 1]),
                                _mm512_unpackhi_epi64(a[2 * i], a[2 * i + 1]));
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        c[i] = _mm512_add_epi32(_mm512_shuffle_i32x4(b[2 * i], b[2 * i + 1], 0x88),
                                _mm512_shuffle_i32x4(b[2 * i], b[2 * i + 1], 0xdd));
    }
    return _mm512_add_epi32(_mm512_shuffle_i32x4(c[0], c[1], 0x88), _mm512_shuffle_i32x4(c[0], c[1], 0xdd));
}

/* Sums of 16 rows x 4 tokens (of row r: quarter r/4 .. of 4 tokens each) to a vector of 16 rows for each token. */
INLINE void rows_of_tokens(__m512i *v) {
    __m512i a[4];
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        a[2 * i] = _mm512_shuffle_i32x4(v[2 * i], v[2 * i + 1], 0x44); /* tokens 0, 1 of 8 rows */
        a[2 * i + 1] = _mm512_shuffle_i32x4(v[2 * i], v[2 * i + 1], 0xee);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        v[2 * i] = _mm512_shuffle_i32x4(a[i], a[2 + i], 0x88);
        v[2 * i + 1] = _mm512_shuffle_i32x4(a[i], a[2 + i], 0xdd);
    }
}

/* y of a token's 16 rows from their sums. */
INLINE void finish16(__m512i sum, int32_t xsum, float factor, __mmask16 there, float *y) {
    sum = _mm512_sub_epi32(sum, _mm512_set1_epi32(xsum));
    _mm512_mask_storeu_ps(y, there, _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(factor)));
}

/* y of 16 rows from their sums, (row, 8 tokens). */
INLINE void finish_by_rows(int n_tok, const int32_t *sums, __mmask16 there, const int32_t *xsum, const float *factor,
                           float *y, int64_t ldy) {
    const __m512i order = _mm512_setr_epi32(0, 8, 16, 24, 1, 9, 17, 25, 2, 10, 18, 26, 3, 11, 19, 27);
    __m512i v[8];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) { /* quarter t: token t of rows 4i .. 4i+3 */
        __m512i a = _mm512_load_si512(sums + 32 * i), b = _mm512_load_si512(sums + 32 * i + 16);
        v[i] = _mm512_permutex2var_epi32(a, order, b);
        v[4 + i] = _mm512_permutex2var_epi32(a, _mm512_add_epi32(order, _mm512_set1_epi32(4)), b);
    }
    rows_of_tokens(v);
    rows_of_tokens(v + 4);
#pragma GCC unroll 8
    for (int t = 0; t < n_tok; t++) {
        finish16(v[t], xsum[t], factor[t], there, y + t * ldy);
    }
}

#define FEW_ROWS 64            /* whose sums are held at once */
#define FEW_CACHED (20 << 10)  /* bytes of activations that stay in the first cache */

/* rows: 4 for up to 4 tokens, else 2.  A long row is met in pieces whose activations stay in the first cache. */
INLINE void few_tokens(int32_t type, int rows, int n_tok, const uint8_t *w, int64_t row_bytes, int64_t k, int64_t r0,
                       int64_t r1, const int8_t *xp, int64_t ldxp, const int32_t *xsum, const float *factor, float *y,
                       int64_t ldy) {
    trit_tables t;
    if (type == BL_TYPE_TQ1_0) {
        load_trit_tables(&t);
    }
    const int64_t n = k / 256, most = FEW_CACHED / (64 * plane_count(type) * n_tok);
    const int64_t pieces = BL_MAX((n + most - 1) / most, 1), each = (n + pieces - 1) / pieces;
    /* To the same piece some rows later. */
    const int64_t ahead = pieces == 1 ? 0 : (AHEAD + row_bytes - 1) / row_bytes * row_bytes - AHEAD;
    int32_t sums[FEW_ROWS * FEW] BL_ALIGNED(64); /* four rows at once: (token, row), else (row, token) */
    for (int64_t chunk = r0; chunk < r1; chunk += FEW_ROWS) {
        const int64_t end = BL_MIN(chunk + FEW_ROWS, r1);
        for (int64_t begin = 0; begin == 0 || begin < n; begin += BL_MAX(each, 1)) {
            const int64_t stop = BL_MIN(begin + each, n);
            for (int64_t r = chunk; r < end; r += rows) {
                const uint8_t *row[4];
                __m512i acc[4][FEW];
#pragma GCC unroll 4
                for (int j = 0; j < rows; j++) {
                    row[j] = w + BL_MIN(r + j, r1 - 1) * row_bytes;
#pragma GCC unroll 8
                    for (int u = 0; u < n_tok; u++) {
                        acc[j][u] = _mm512_setzero_si512();
                    }
                }
                for (int64_t i = begin; i < stop; i++) {
#pragma GCC unroll 4
                    for (int j = 0; j < rows; j++) {
                        ask_ahead(type, row[j] + ahead, i);
                    }
                    few_step(type, rows, n_tok, &t, row, i, bytes_of(type), xp, ldxp, acc);
                }
                if (stop == n) {
                    if (type == BL_TYPE_I2_S && k % 256 != 0) {
                        few_step(type, rows, n_tok, &t, row, n, 0xffffffff, xp, ldxp, acc);
                    }
#pragma GCC unroll 4
                    for (int j = 0; j < rows; j++) {
                        ask_rest(row[j] + ahead, n, row_bytes);
                    }
                }
                if (rows == 4) {
#pragma GCC unroll 4
                    for (int u = 0; u < n_tok; u++) {
                        __m128i *to = (__m128i *)(sums + u * FEW_ROWS + (r - chunk));
                        __m128i sum = sum4(acc[0][u], acc[1][u], acc[2][u], acc[3][u]);
                        _mm_store_si128(to, begin == 0 ? sum : _mm_add_epi32(sum, _mm_load_si128(to)));
                    }
                } else {
                    int32_t *to = sums + (r - chunk) * FEW;
                    __m512i all[2 * FEW];
#pragma GCC unroll 16
                    for (int i = 0; i < 2 * FEW; i++) {
                        all[i] = i % FEW < n_tok ? acc[i / FEW][i % FEW] : _mm512_setzero_si512();
                    }
                    __m512i sum = sum16_epi32(all);
                    _mm512_store_si512(to, begin == 0 ? sum : _mm512_add_epi32(sum, _mm512_load_si512(to)));
                }
            }
        }
        for (int64_t r = chunk; r < end; r += 16) {
            __mmask16 there = (__mmask16)((1u << BL_MIN(end - r, 16)) - 1);
            if (rows == 4) {
#pragma GCC unroll 4
                for (int u = 0; u < n_tok; u++) {
                    __m512i sum = _mm512_load_si512(sums + u * FEW_ROWS + (r - chunk));
                    finish16(sum, xsum[u], factor[u], there, y + u * ldy + r);
                }
            } else {
                finish_by_rows(n_tok, sums + (r - chunk) * FEW, there, xsum, factor, y + r, ldy);
            }
        }
    }
}

INLINE void packed(int32_t type, const uint8_t *w, int64_t row_bytes, int64_t k, int64_t r0, int64_t r1,
                   const int8_t *xq, int64_t ldx, const int32_t *xsum, const float *factor, int64_t n_tok, float *y,
                   int64_t ldy, int8_t *xp) {
    int64_t ldxp = permuted_bytes(type, k);
    for (int64_t t = 0; t < n_tok; t++) {
        permute(type, xq + t * ldx, k, xp + t * ldxp);
    }
#define FEW_CASE(rows, n)                                                                                              \
    case n:                                                                                                            \
        few_tokens(type, rows, n, w, row_bytes, k, r0, r1, xp, ldxp, xsum, factor, y, ldy);                            \
        break
    switch (n_tok) {
    case 1:
        one_token(type, w, row_bytes, k, r0, r1, xp, xsum[0], factor[0], y);
        break;
        FEW_CASE(4, 2);
        FEW_CASE(4, 3);
        FEW_CASE(4, 4);
        FEW_CASE(2, 5);
        FEW_CASE(2, 6);
        FEW_CASE(2, 7);
        FEW_CASE(2, 8);
    }
#undef FEW_CASE
}

/* ---- many tokens ------------------------------------------------------------------------------- */

#define PIECE 256         /* weights of a row in a panel */
#define PANEL 4           /* vectors of 16 rows */
#define PANEL_TOKENS 256  /* whose sums are held at once */
#define BLOCK_TOKENS 6

/* The panel's codes: (PIECE/4, PANEL) vectors of 16 rows x 4 weights: 16 KiB. */
typedef struct panel {
    __m512i codes[PIECE / 4][PANEL];
    __m512i sums[PANEL_TOKENS][PANEL]; /* (token, 16 rows): 64 KiB */
} panel;

/* Where dword j of plane p begins among the 256 weights of a packed vector. */
INLINE int first_weight(int32_t type, int j, int p) {
    if (type == BL_TYPE_TQ1_0) {
        return j < 8 ? p * 32 + j * 4 : j < 12 ? 160 + p * 16 + (j - 8) * 4 : 240 + p * 4;
    }
    return j / 8 * 128 + (type == BL_TYPE_TQ2_0 ? p : 3 - p) * 32 + j % 8 * 4;
}

/* 16 rows (the last repeated past n_rows) of n weights, from packed vector i on, to vector v of the panel. */
INLINE void expand(int32_t type, const trit_tables *t, const uint8_t *w, int64_t row_bytes, int64_t n_rows, int64_t i, int n,
                   panel *to, int v) {
    __m512i rows[16];
    __mmask64 some = n == PIECE ? bytes_of(type) : 0xffffffff;
#pragma GCC unroll 16
    for (int64_t r = 0; r < 16; r++) {
        const uint8_t *at = w + BL_MIN(r, n_rows - 1) * row_bytes + i * vector_bytes(type);
        rows[r] = _mm512_maskz_loadu_epi8(some, at);
    }
    transpose16(rows);
    int planes = plane_count(type), dwords = type == BL_TYPE_TQ1_0 ? 13 : n / 16;
    for (int j = 0; j < dwords; j++) {
        __m512i q = rows[j], fifth = q;
        if (type == BL_TYPE_TQ1_0) {
            q = look_up_trits(t, q, &fifth);
            planes = j < 12 ? 5 : 4;
        }
        for (int p = 0; p < planes; p++) {
            to->codes[first_weight(type, j, p) / 4][v] = plane_of(q, fifth, p);
        }
    }
}

/* nv vectors of rows x nt tokens over n weights, added to their sums. */
INLINE void panel_block(const panel *from, int nv, const int8_t *x, int64_t ldx, int nt, int n,
                        __m512i (*sums)[PANEL]) {
    __m512i acc[BLOCK_TOKENS][PANEL];
#pragma GCC unroll 6
    for (int t = 0; t < nt; t++) {
#pragma GCC unroll 4
        for (int v = 0; v < nv; v++) {
            acc[t][v] = sums[t][v];
        }
    }
    for (int i = 0; i < n; i += 4) {
        __m512i c[PANEL];
#pragma GCC unroll 4
        for (int v = 0; v < nv; v++) {
            c[v] = from->codes[i / 4][v];
        }
#pragma GCC unroll 6
        for (int t = 0; t < nt; t++) {
            int32_t four;
            memcpy(&four, x + t * ldx + i, sizeof four);
            __m512i b = _mm512_set1_epi32(four);
#pragma GCC unroll 4
            for (int v = 0; v < nv; v++) {
                acc[t][v] = dp(acc[t][v], c[v], b);
            }
        }
    }
#pragma GCC unroll 6
    for (int t = 0; t < nt; t++) {
#pragma GCC unroll 4
        for (int v = 0; v < nv; v++) {
            sums[t][v] = acc[t][v];
        }
    }
}

INLINE void panel_piece(panel *p, int nv, const int8_t *x, int64_t ldx, int64_t n_tok, int n) {
    int64_t t = 0;
    for (; t + 6 <= n_tok; t += 6) {
        panel_block(p, nv, x + t * ldx, ldx, 6, n, p->sums + t);
    }
    for (; t + 3 <= n_tok; t += 3) {
        panel_block(p, nv, x + t * ldx, ldx, 3, n, p->sums + t);
    }
    for (; t < n_tok; t++) {
        panel_block(p, nv, x + t * ldx, ldx, 1, n, p->sums + t);
    }
}

INLINE void panels(int32_t type, const uint8_t *w, int64_t row_bytes, int64_t k, int64_t r0, int64_t r1,
                   const int8_t *xq, int64_t ldx, const int32_t *xsum, const float *factor, int64_t n_tok, float *y,
                   int64_t ldy, panel *p) {
    trit_tables tab;
    if (type == BL_TYPE_TQ1_0) {
        load_trit_tables(&tab);
    }
    for (int64_t r = r0; r < r1; r += 16 * PANEL) {
        int64_t n_rows = BL_MIN(r1 - r, 16 * PANEL);
        int nv = (int)(n_rows + 15) / 16;
        for (int64_t t = 0; t < n_tok; t += PANEL_TOKENS) {
            int64_t nt = BL_MIN(n_tok - t, PANEL_TOKENS);
            memset(p->sums, 0, (size_t)nt * sizeof p->sums[0]);
            for (int64_t i = 0; i < k; i += PIECE) {
                int n = (int)BL_MIN(k - i, PIECE);
                for (int v = 0; v < nv; v++) {
                    expand(type, &tab, w + (r + v * 16) * row_bytes, row_bytes, n_rows - v * 16, i / 256, n, p, v);
                }
                const int8_t *x = xq + t * ldx + i;
                switch (nv) {
                case 4:
                    panel_piece(p, 4, x, ldx, nt, n);
                    break;
                case 3:
                    panel_piece(p, 3, x, ldx, nt, n);
                    break;
                case 2:
                    panel_piece(p, 2, x, ldx, nt, n);
                    break;
                default:
                    panel_piece(p, 1, x, ldx, nt, n);
                    break;
                }
            }
            for (int64_t u = 0; u < nt; u++) {
                for (int v = 0; v < nv; v++) {
                    __m512i sum = _mm512_sub_epi32(p->sums[u][v], _mm512_set1_epi32(xsum[t + u]));
                    __m512 out = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(factor[t + u]));
                    __mmask16 there = (__mmask16)((1u << BL_MIN(n_rows - v * 16, 16)) - 1);
                    _mm512_mask_storeu_ps(y + (t + u) * ldy + r + v * 16, there, out);
                }
            }
        }
    }
}

/* ---- the kernel -------------------------------------------------------------------------------- */

INLINE void ternary(int32_t type, const uint8_t *w, int64_t k, int64_t r0, int64_t r1, const int8_t *xq, int64_t ldx,
                    const int32_t *xsum, const float *factor, int64_t n_tok, float *y, int64_t ldy, void *scratch) {
    int64_t row_bytes = k / 128 * (vector_bytes(type) / 2);
    if (n_tok <= FEW) {
        packed(type, w, row_bytes, k, r0, r1, xq, ldx, xsum, factor, n_tok, y, ldy, scratch);
    } else {
        panels(type, w, row_bytes, k, r0, r1, xq, ldx, xsum, factor, n_tok, y, ldy, scratch);
    }
}

_Static_assert(sizeof(panel) <= BL_TERNARY_SCRATCH_MIN, "bl_ternary_scratch() is too small");
_Static_assert(BL_TERNARY_FEW >= FEW, "bl_ternary_scratch() is too small");

void bl_ternary_i8_avx512(int32_t type, const uint8_t *w, int64_t k, int64_t r0, int64_t r1, const int8_t *xq,
                          int64_t ldx, const int32_t *xsum, const float *factor, int64_t n_tok, float *y, int64_t ldy,
                          void *scratch) {
    if (type == BL_TYPE_TQ1_0) {
        ternary(BL_TYPE_TQ1_0, w, k, r0, r1, xq, ldx, xsum, factor, n_tok, y, ldy, scratch);
    } else if (type == BL_TYPE_TQ2_0) {
        ternary(BL_TYPE_TQ2_0, w, k, r0, r1, xq, ldx, xsum, factor, n_tok, y, ldy, scratch);
    } else {
        ternary(BL_TYPE_I2_S, w, k, r0, r1, xq, ldx, xsum, factor, n_tok, y, ldy, scratch);
    }
}
