/* ternary_avx2.c - ternary matrices times int8 vectors with AVX2.
 *
 * vpmaddubsw multiplies 32 codes (0..3) with 32 int8 and adds neighbours, at most 762 in
 * magnitude, so 43 of them fit an int16 sum before it is widened.
 *
 * Few tokens (decode): memory is the limit, so the packed bytes are used where they lie, row after
 * row.  A packed vector of 32 bytes holds 128 codes:
 *
 *     bits   7 6   5 4   3 2   1 0
 *     I2_S   g=0   g=1   g=2   g=3     code of weight g*32 + byte
 *     TQ2_0  g=3   g=2   g=1   g=0
 *
 * Two groups stay in place as code*4 (mask 0x0c), which saves two of three shifts; their sums are a
 * multiple of 4 and are kept apart until they are widened.  TQ1_0's trits come out by multiplying
 * bytes by 3, digit after digit.
 *
 * Six tokens to fifteen: rows are unpacked in registers, once for eight tokens.
 *
 * Many tokens (prefill): a panel of rows is expanded to a byte a code in `scratch`, in pieces of k
 * whose codes stay in the first cache, and multiplied in blocks of 2 rows x 4 tokens.
 *
 * Compiled a second time over AVX-VNNI's vpdpbusd (products_ymm.h), whose sums need no widening.
 *
 * Called through the tables of kernels_avx2.c and kernels_avxvnni.c. */
#include "kernels/products_ymm.h"

INLINE int32_t sum_epi32(__m256i v) {
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
    return _mm_cvtsi128_si32(s);
}

/* The sums of four vectors. */
INLINE __m128i sum4_epi32(__m256i a, __m256i b, __m256i c, __m256i d) {
    __m256i s = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
    return _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
}

/* Where the packed vector of 128 weights number b stands in a row: TQ2_0 has a scale after two. */
INLINE int64_t vector_at(int tq2, int64_t b) { return tq2 ? b * 32 + (b >> 1) * 2 : b * 32; }

/* ---- one token, packed bytes in place --------------------------------------------------- */

/* Bytes ahead that are asked for, into the second cache (the first may have few misses under way): the hardware's
 * own prefetch stops at each page's end. */
#define AHEAD 8192

/* The two places of unshifted and shifted codes of vector b: *sum1 gets codes, *sum4 codes*4. */
INLINE void packed_step(int tq2, const uint8_t *row, const int8_t *x, int64_t b, __m256i *sum1, __m256i *sum4) {
    const __m256i mask1 = _mm256_set1_epi8(3), mask4 = _mm256_set1_epi8(12);
    __m256i low = load256(row + vector_at(tq2, b));
    __m256i high = _mm256_srli_epi16(low, 4);
    x += b * 128;
    *sum1 = products(*sum1, _mm256_and_si256(low, mask1), load256(x + (tq2 ? 0 : 96)));
    *sum4 = products(*sum4, _mm256_and_si256(low, mask4), load256(x + (tq2 ? 32 : 64)));
    *sum1 = products(*sum1, _mm256_and_si256(high, mask1), load256(x + (tq2 ? 64 : 32)));
    *sum4 = products(*sum4, _mm256_and_si256(high, mask4), load256(x + (tq2 ? 96 : 0)));
    __asm__ volatile("" : "+x"(*sum1), "+x"(*sum4) : : "memory");
}

/* Four times a row's sum, in eight parts.  sum4 holds 5 vectors (5 * 2 * 3048 fits int16), sum1 20. */
INLINE __m256i packed_row(int tq2, const uint8_t *row, const int8_t *x, int64_t n) {
    __m256i acc = _mm256_setzero_si256();
    int64_t b = 0;
    while (b + 10 <= n) {
        int64_t end = BL_MIN(b + 20, n);
        __m256i sum1 = _mm256_setzero_si256();
        for (; b + 10 <= end; b += 10) {
            __m256i first = _mm256_setzero_si256(), second = first;
#pragma GCC unroll 10
            for (int i = 0; i < 10; i++) {
                if (i % 2 == 0) {
                    _mm_prefetch((const char *)row + (b + i) * 32 + AHEAD, _MM_HINT_T1);
                }
                packed_step(tq2, row, x, b + i, &sum1, i < 5 ? &first : &second);
            }
            acc = _mm256_add_epi32(acc, widened(first));
            acc = _mm256_add_epi32(acc, widened(second));
        }
        acc = _mm256_add_epi32(acc, widened4(sum1));
    }
    for (int64_t at = b * 32; at < vector_at(tq2, n); at += 64) { /* a line not asked for costs as much as forty */
        _mm_prefetch((const char *)row + at + AHEAD, _MM_HINT_T1);
    }
    while (b < n) {
        int64_t end = BL_MIN(b + 5, n);
        __m256i sum1 = _mm256_setzero_si256(), sum4 = sum1;
        for (; b < end; b++) {
            packed_step(tq2, row, x, b, &sum1, &sum4);
        }
        acc = _mm256_add_epi32(acc, widened4(sum1));
        acc = _mm256_add_epi32(acc, widened(sum4));
    }
    return acc;
}

/* ---- TQ1_0 ------------------------------------------------------------------------------------ */

/* Trit of each byte's leading digit, from bytes kept xor 0x80: that form survives times 3 (128*3
 * is 128 mod 256), and turns (q*3)>>8, that is (q > 85) + (q > 170), into signed compares. */
INLINE __m256i leading_trit(__m256i q) {
    __m256i one = _mm256_cmpgt_epi8(q, _mm256_set1_epi8(85 - 128));
    __m256i two = _mm256_cmpgt_epi8(q, _mm256_set1_epi8(170 - 128));
    return _mm256_abs_epi8(_mm256_add_epi8(one, two));
}

INLINE __m256i times3(__m256i q) { return _mm256_add_epi8(q, _mm256_add_epi8(q, q)); }
INLINE __m128i times3_128(__m128i q) { return _mm_add_epi8(q, _mm_add_epi8(q, q)); }

/* A block of 256 weights as eight vectors of codes. */
INLINE void tq1_codes(const uint8_t *block, __m256i *codes) {
    __m256i q = _mm256_xor_si256(load256(block), _mm256_set1_epi8(-128));
#pragma GCC unroll 5
    for (int n = 0; n < 5; n++) {
        codes[n] = leading_trit(q);
        q = times3(q);
    }
    /* 16 bytes of five trits: two digits fill a vector; the last shares one with the 4 bytes of four. */
    __m128i a = _mm_xor_si128(load128(block + 32), _mm_set1_epi8(-128));
    q = _mm256_set_m128i(times3_128(a), a);
    codes[5] = leading_trit(q);
    q = times3(times3(q));
    codes[6] = leading_trit(q);
    q = times3(times3(q));
    int32_t last;
    memcpy(&last, block + 48, sizeof last);
    __m128i h0 = _mm_xor_si128(_mm_set1_epi32(last), _mm_set1_epi8(-128));
    __m128i h1 = times3_128(h0), h2 = times3_128(h1), h3 = times3_128(h2);
    __m128i h = _mm_blend_epi16(_mm_blend_epi16(h0, h1, 0x0c), _mm_blend_epi16(h2, h3, 0xc0), 0xf0);
    codes[7] = leading_trit(_mm256_inserti128_si256(q, h, 1));
}

#if !BL_SUMS_32
void bl_tq1_0_codes_avx2(const uint8_t *block, uint8_t *codes) {
    __m256i v[8];
    tq1_codes(block, v);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        store256(codes + i * 32, v[i]);
    }
}
#endif

/* Four times a row's sum, as packed_row has it; trits are at most 2, so 8 blocks of 8 products fit int16. */
INLINE __m256i tq1_row(const uint8_t *row, const int8_t *x, int64_t n_blocks) {
    __m256i acc = _mm256_setzero_si256();
    for (int64_t b = 0; b < n_blocks;) {
        __m256i sum = _mm256_setzero_si256();
        for (int64_t end = BL_MIN(b + 8, n_blocks); b < end; b++) {
            __m256i v[8];
            _mm_prefetch((const char *)row + b * 54 + AHEAD, _MM_HINT_T1);
            tq1_codes(row + b * 54, v);
#pragma GCC unroll 8
            for (int i = 0; i < 8; i++) {
                sum = products(sum, v[i], load256(x + b * 256 + i * 32));
            }
        }
        acc = _mm256_add_epi32(acc, widened4(sum));
    }
    return acc;
}

/* ---- rows for one token or a few -------------------------------------------------------------- */

INLINE __m256i row_sum(int32_t type, const uint8_t *row, const int8_t *x, int64_t k) {
    return type == BL_TYPE_TQ1_0 ? tq1_row(row, x, k / 256) : packed_row(type == BL_TYPE_TQ2_0, row, x, k / 128);
}

/* Row after row: one stream through memory is read faster than several. */
INLINE void packed_rows(int32_t type, const uint8_t *w, int64_t row_bytes, int64_t k, int64_t r0, int64_t r1,
                        const int8_t *x, int32_t xsum, float factor, float *y) {
    int64_t r = r0;
    for (; r + 4 <= r1; r += 4) {
        __m256i acc[4];
        for (int i = 0; i < 4; i++) {
            acc[i] = row_sum(type, w + (r + i) * row_bytes, x, k);
        }
        __m128i sum = _mm_srai_epi32(sum4_epi32(acc[0], acc[1], acc[2], acc[3]), 2);
        sum = _mm_sub_epi32(sum, _mm_set1_epi32(xsum));
        _mm_storeu_ps(y + r, _mm_mul_ps(_mm_cvtepi32_ps(sum), _mm_set1_ps(factor)));
    }
    for (; r < r1; r++) {
        int32_t sum = sum_epi32(row_sum(type, w + r * row_bytes, x, k)) >> 2;
        y[r] = (float)(sum - xsum) * factor;
    }
}

/* Two tokens to five, and all of TQ1_0 up to its panels: 16 rows at a time, which the second token finds in the cache. */
INLINE void packed(int32_t type, const uint8_t *w, int64_t row_bytes, int64_t k, int64_t r0, int64_t r1,
                   const int8_t *xq, int64_t ldx, const int32_t *xsum, const float *factor, int64_t n_tok,
                   float *y, int64_t ldy) {
    int64_t rows = n_tok == 1 ? r1 - r0 : 16;
    for (int64_t r = r0; r < r1; r += rows) {
        for (int64_t t = 0; t < n_tok; t++) {
            packed_rows(type, w, row_bytes, k, r, BL_MIN(r + rows, r1), xq + t * ldx, xsum[t], factor[t],
                        y + t * ldy);
        }
    }
}

/* ---- six tokens to fifteen: a row unpacked once for all ------------------------------------ */

#define FEW 6
#define FEW_ROWS 16
#define FEW_VECTORS 10 /* 1,280 weights: 40 steps fit an int16 sum, eight tokens' activations the first cache */

/* Adds the products of a row's vectors b .. end-1, at most FEW_VECTORS, and nt tokens to sums[t]. */
INLINE void few_piece(int tq2, const uint8_t *row, const int8_t *x, int64_t ldx, int nt, int64_t b, int64_t end,
                      int32_t *sums) {
    const __m256i mask = _mm256_set1_epi8(3);
    const int8_t *at0 = x + b * 128, *at3 = at0 + 3 * ldx, *at6 = at3 + 3 * ldx; /* the others by scaled offsets */
    __m256i acc[8];
#pragma GCC unroll 8
    for (int t = 0; t < nt; t++) {
        acc[t] = _mm256_setzero_si256();
    }
    for (; b < end; b++) {
        __m256i v = load256(row + vector_at(tq2, b));
        if (b % 2 == 0) { _mm_prefetch((const char *)row + b * 32 + AHEAD, _MM_HINT_T1); }
#pragma GCC unroll 4
        for (int g = 0; g < 4; g++) {
            __m256i codes = _mm256_and_si256(g ? _mm256_srli_epi16(v, 2 * g) : v, mask);
            int64_t from = (tq2 ? g : 3 - g) * 32;
            __asm__("" : "+r"(ldx)); /* or GCC keeps every place's offset in memory */
#pragma GCC unroll 8
            for (int t = 0; t < nt; t++) {
                const int8_t *at = t == 3 || t == 5 || t == 7 ? at3 + (t - 3) * ldx : t == 6 ? at6 : at0 + t * ldx;
                acc[t] = products(acc[t], codes, load256(at + from));
                __asm__("" : "+x"(acc[t]));
            }
        }
        at0 += 128;
        at3 += 128;
        at6 += 128;
        __asm__("" : "+r"(at0), "+r"(at3), "+r"(at6));
    }
#pragma GCC unroll 8
    for (int t = 0; t < nt; t++) {
        acc[t] = widened(acc[t]);
    }
    if (nt == 8) {
        store128(sums + 4, _mm_add_epi32(load128(sums + 4), sum4_epi32(acc[4], acc[5], acc[6], acc[7])));
    }
    if (nt >= 4) {
        store128(sums, _mm_add_epi32(load128(sums), sum4_epi32(acc[0], acc[1], acc[2], acc[3])));
    } else {
#pragma GCC unroll 3
        for (int t = 0; t < nt; t++) {
            sums[t] += sum_epi32(acc[t]);
        }
    }
}

/* Functions of their own, or GCC 12 keeps the sums in memory. */
#define FEW_ROWS_OF(name, tq2, nt)                                                                                  \
    static __attribute__((noinline)) void name(const uint8_t *w, int64_t row_bytes, int64_t n_rows, const int8_t *x, \
                                               int64_t ldx, int64_t b, int64_t end, int32_t (*sums)[8]) {           \
        for (int64_t j = 0; j < n_rows; j++) {                                                                      \
            few_piece(tq2, w + j * row_bytes, x, ldx, nt, b, end, sums[j]);                                         \
        }                                                                                                           \
    }
FEW_ROWS_OF(few_i2_s_1, 0, 1)
FEW_ROWS_OF(few_i2_s_2, 0, 2)
FEW_ROWS_OF(few_i2_s_3, 0, 3)
FEW_ROWS_OF(few_i2_s_4, 0, 4)
FEW_ROWS_OF(few_i2_s_8, 0, 8)
FEW_ROWS_OF(few_tq2_0_1, 1, 1)
FEW_ROWS_OF(few_tq2_0_2, 1, 2)
FEW_ROWS_OF(few_tq2_0_3, 1, 3)
FEW_ROWS_OF(few_tq2_0_4, 1, 4)
FEW_ROWS_OF(few_tq2_0_8, 1, 8)

static void few(int tq2, const uint8_t *w, int64_t row_bytes, int64_t k, int64_t r0, int64_t r1, const int8_t *xq,
                int64_t ldx, const int32_t *xsum, const float *factor, int64_t n_tok, float *y, int64_t ldy) {
    static void (*const of[2][5])(const uint8_t *, int64_t, int64_t, const int8_t *, int64_t, int64_t, int64_t,
                                  int32_t (*)[8]) = {
        {few_i2_s_1, few_i2_s_2, few_i2_s_3, few_i2_s_4, few_i2_s_8},
        {few_tq2_0_1, few_tq2_0_2, few_tq2_0_3, few_tq2_0_4, few_tq2_0_8},
    };
    for (int64_t r = r0; r < r1; r += FEW_ROWS) {
        int64_t n_rows = BL_MIN(r1 - r, FEW_ROWS);
        for (int64_t t = 0, nt; t < n_tok; t += nt) {
            int32_t sums[FEW_ROWS][8] = {{0}};
            nt = n_tok - t >= 8 ? 8 : BL_MIN(n_tok - t, 4);
            for (int64_t b = 0; b < k / 128; b += FEW_VECTORS) {
                of[tq2][nt == 8 ? 4 : nt - 1](w + r * row_bytes, row_bytes, n_rows, xq + t * ldx, ldx, b,
                                              BL_MIN(b + FEW_VECTORS, k / 128), sums);
            }
            for (int64_t u = 0; u < nt; u++) {
                for (int64_t j = 0; j < n_rows; j++) {
                    y[(t + u) * ldy + r + j] = (float)(sums[j][u] - xsum[t + u]) * factor[t + u];
                }
            }
        }
    }
}

/* ---- expansion of rows to a byte a code ------------------------------------------------------ */

INLINE void expand_32_bytes(int tq2, const uint8_t *at, uint8_t *codes) {
    const __m256i mask = _mm256_set1_epi8(3);
    __m256i v = load256(at);
#pragma GCC unroll 4
    for (int g = 0; g < 4; g++) {
        store256(codes + (tq2 ? g : 3 - g) * 32, _mm256_and_si256(_mm256_srli_epi16(v, 2 * g), mask));
    }
}

/* Codes of weights first .. first+n-1 of a row; both are multiples of the type's block. */
INLINE void expand(int32_t type, const uint8_t *row, int64_t first, int64_t n, uint8_t *codes) {
    if (type == BL_TYPE_TQ1_0) {
        for (int64_t i = 0; i < n; i += 256) {
            bl_tq1_0_codes_avx2(row + (first + i) / 256 * 54, codes + i);
        }
        return;
    }
    int tq2 = type == BL_TYPE_TQ2_0;
    for (int64_t i = 0; i < n; i += 128) {
        expand_32_bytes(tq2, row + vector_at(tq2, (first + i) / 128), codes + i);
    }
}

/* ---- many tokens: panels ----------------------------------------------------------------------- */

#define MANY 16           /* tokens from which expansion pays; of TQ1_0 FEW */
#define PANEL_ROWS 16
#define PIECE_K 1280      /* <= 43*32, a multiple of 256: one int16 sum; 16 rows are 20 KiB (bl_ternary_scratch) */
#define PANEL_TOKENS 256  /* int32 sums of 16 x 256 live on the stack: 16 KiB */

/* The empty asm statements keep GCC 12 from three things that each cost a third of the speed: folding a
 * load into both products that use it, re-associating the sums, and hoisting loads until registers spill.
 *
 * Adds the products of nr rows of codes and nt tokens over n <= PIECE_K to sums[r][t]. */
INLINE void panel_block(const uint8_t *codes, int nr, const int8_t *x, int64_t ldx, int nt, int64_t n,
                        int32_t (*sums)[PANEL_TOKENS]) {
    __m256i acc[2][4];
#pragma GCC unroll 4
    for (int r = 0; r < nr; r++) {
#pragma GCC unroll 4
        for (int t = 0; t < 4; t++) {
            acc[r][t] = _mm256_setzero_si256();
        }
    }
    for (int64_t i = 0; i < n; i += 128) {
#pragma GCC unroll 4
        for (int64_t j = i; j < i + 128; j += 32) {
            __m256i c[2];
#pragma GCC unroll 4
            for (int r = 0; r < nr; r++) {
                c[r] = load256(codes + r * PIECE_K + j);
            }
#pragma GCC unroll 4
            for (int t = 0; t < nt; t++) {
                __m256i v = load256(x + t * ldx + j);
                __asm__("" : "+x"(v));
#pragma GCC unroll 4
                for (int r = 0; r < nr; r++) {
                    acc[r][t] = products(acc[r][t], c[r], v);
                    __asm__("" : "+x"(acc[r][t]));
                }
            }
            __asm__ volatile("" : : : "memory");
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < nr; r++) {
        if (nt == 4) {
            __m128i s = sum4_epi32(widened(acc[r][0]), widened(acc[r][1]),
                                   widened(acc[r][2]), widened(acc[r][3]));
            store128(sums[r], _mm_add_epi32(load128(sums[r]), s));
        } else {
#pragma GCC unroll 4
            for (int t = 0; t < nt; t++) {
                sums[r][t] += sum_epi32(widened(acc[r][t]));
            }
        }
    }
}

/* A piece of k: n_rows rows of codes against n_tok tokens, tokens outermost so that four of them stay
 * in the first cache together with all the codes. */
static void panel_piece(const uint8_t *codes, int64_t n_rows, const int8_t *x, int64_t ldx, int64_t n_tok,
                        int64_t n, int32_t (*sums)[PANEL_TOKENS]) {
    int64_t t = 0;
    for (; t + 4 <= n_tok; t += 4) {
        for (int64_t r = 0; r < n_rows; r += 2) {
            panel_block(codes + r * PIECE_K, 2, x + t * ldx, ldx, 4, n,
                        (int32_t(*)[PANEL_TOKENS])&sums[r][t]);
        }
    }
    for (int64_t r = 0; r < n_rows && t < n_tok; r += 2) {
        int32_t(*to)[PANEL_TOKENS] = (int32_t(*)[PANEL_TOKENS])&sums[r][t];
        switch (n_tok - t) {
        case 3:
            panel_block(codes + r * PIECE_K, 2, x + t * ldx, ldx, 3, n, to);
            break;
        case 2:
            panel_block(codes + r * PIECE_K, 2, x + t * ldx, ldx, 2, n, to);
            break;
        default:
            panel_block(codes + r * PIECE_K, 2, x + t * ldx, ldx, 1, n, to);
            break;
        }
    }
}

static void panels(int32_t type, const uint8_t *w, int64_t row_bytes, int64_t k, int64_t r0, int64_t r1,
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
                for (int64_t j = 0; j < n_rows; j++) {
                    expand(type, w + (r + j) * row_bytes, i, n, codes + j * PIECE_K);
                }
                if (n_rows % 2 != 0) { /* blocks take two rows: the odd one out meets zeros */
                    memset(codes + n_rows * PIECE_K, 0, (size_t)n);
                }
                panel_piece(codes, n_rows, xq + t * ldx + i, ldx, nt, n, sums);
            }
            for (int64_t u = 0; u < nt; u++) {
                for (int64_t j = 0; j < n_rows; j++) {
                    y[(t + u) * ldy + r + j] = (float)(sums[j][u] - xsum[t + u]) * factor[t + u];
                }
            }
        }
    }
}

void YMM(bl_ternary_i8)(int32_t type, const uint8_t *w, int64_t k, int64_t r0, int64_t r1, const int8_t *xq,
                        int64_t ldx, const int32_t *xsum, const float *factor, int64_t n_tok, float *y,
                        int64_t ldy, void *scratch) {
    int64_t row_bytes = type == BL_TYPE_TQ1_0 ? k / 256 * 54 : type == BL_TYPE_TQ2_0 ? k / 256 * 66 : k / 4;
    if (n_tok >= (type == BL_TYPE_TQ1_0 ? FEW : MANY)) {
        panels(type, w, row_bytes, k, r0, r1, xq, ldx, xsum, factor, n_tok, y, ldy, scratch);
    } else if (n_tok >= FEW) {
        few(type == BL_TYPE_TQ2_0, w, row_bytes, k, r0, r1, xq, ldx, xsum, factor, n_tok, y, ldy);
#if BL_SUMS_32
    } else { /* memory's limit and the longer latency of vpdpbusd leave nothing to gain */
        bl_ternary_i8_avx2(type, w, k, r0, r1, xq, ldx, xsum, factor, n_tok, y, ldy, scratch);
    }
#else
    } else if (type == BL_TYPE_TQ1_0) {
        packed(BL_TYPE_TQ1_0, w, row_bytes, k, r0, r1, xq, ldx, xsum, factor, n_tok, y, ldy);
    } else if (type == BL_TYPE_TQ2_0) {
        packed(BL_TYPE_TQ2_0, w, row_bytes, k, r0, r1, xq, ldx, xsum, factor, n_tok, y, ldy);
    } else {
        packed(BL_TYPE_I2_S, w, row_bytes, k, r0, r1, xq, ldx, xsum, factor, n_tok, y, ldy);
    }
#endif
}
