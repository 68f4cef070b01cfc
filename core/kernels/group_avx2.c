/* group_avx2.c - block-quantized matrices times int8 vectors in groups, with AVX2.
 *
 * Eight rows run in the eight lanes of a vector.  A step unpacks up to 256 weights of each
 * to unsigned bytes u = code + offset and transposes them by fours:
 *
 *     vector i of a step:  row 0's bytes 4i..4i+3 | row 1's | … | row 7's
 *
 * so that vpmaddubsw with four activations broadcast to all lanes sums each row in its own
 * lane, and the chain over groups is one vector fma for eight rows.  Sums of u are corrected by
 * offset * xsums, exactly, in int32.  Only Q8_0 spans all of int8: there |w| meets x with w's sign.
 *
 * The K types are transposed while they are packed, which spares a pass over their codes.  Blocks of four rows of
 * activations meet a vector of codes together, or two vectors, of sixteen rows.
 *
 * How many products fit an int16 sum follows from the largest u: 32 for u <= 3, 8 for 15,
 * 1 for 128 (with |x| <= 127 and two products a lane); 2 for Q6_K's 63, or 4 where its offset is taken off in int16 (start_pairs).
 *
 * Called through the table of kernels_avx2.c. */
#include "kernels/kernels_avx2.h"

#define ROWS 8
#define STEP 256    /* weights of a row in a step */
#define BLOCK 4     /* rows of activations that meet a vector of codes together */
#define TOGETHER 4  /* rows of activations from which sixteen rows of weights run together, of types that can */

typedef struct step {
    uint8_t u[ROWS][STEP] BL_ALIGNED(32);           /* as unpacked: int8 for Q8_0 */
    __m256i lanes[STEP / 4];                        /* transposed */
    float d[STEP / 16][ROWS] BL_ALIGNED(32);        /* scale of a group */
    float m[STEP / 16][ROWS] BL_ALIGNED(32);        /* its minimum */
} step;

typedef struct layout {
    int32_t type, block, block_bytes, group;
} layout;

/* ---- unpacking: one block to u, and its scales to column r of d and m ------------------------- */

static float half_at(const uint8_t *p) {
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return _cvtsh_ss(h);
}

INLINE void unpack_nibbles_32(const uint8_t *in, uint8_t *u) {
    __m128i v = load128(in), mask = _mm_set1_epi8(15);
    store128(u, _mm_and_si128(v, mask));
    store128(u + 16, _mm_and_si128(_mm_srli_epi16(v, 4), mask));
}

INLINE void unpack_tq2_0(const uint8_t *block, uint8_t *u) {
    const __m256i mask = _mm256_set1_epi8(3);
    for (int h = 0; h < 2; h++) {
        __m256i v = load256(block + h * 32);
        store256(u + h * 128, _mm256_and_si256(v, mask));
        store256(u + h * 128 + 32, _mm256_and_si256(_mm256_srli_epi16(v, 2), mask));
        store256(u + h * 128 + 64, _mm256_and_si256(_mm256_srli_epi16(v, 4), mask));
        store256(u + h * 128 + 96, _mm256_and_si256(_mm256_srli_epi16(v, 6), mask));
    }
}

/* 128 bits as 0 or 2: weight = u - 1. */
INLINE void unpack_q1_0(const uint8_t *bits, uint8_t *u) {
    const __m256i spread = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2,
                                            2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201ull);
    for (int i = 0; i < 4; i++) {
        int32_t word;
        memcpy(&word, bits + i * 4, sizeof word);
        __m256i v = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(word), spread), bit);
        store256(u + i * 32, _mm256_and_si256(_mm256_cmpeq_epi8(v, bit), _mm256_set1_epi8(2)));
    }
}

/* Four codes a byte, lowest bits first: n codes, a multiple of 32. */
INLINE void unpack_quads(const uint8_t *in, int n, uint8_t *u) {
    for (int i = 0; i < n; i += 32) {
        __m256i v = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(in + i / 4)));
        v = _mm256_or_si256(v, _mm256_slli_epi32(v, 6));
        v = _mm256_or_si256(v, _mm256_slli_epi32(v, 12));
        store256(u + i, _mm256_and_si256(v, _mm256_set1_epi32(0x03030303)));
    }
}

INLINE void unpack_block(int32_t type, int32_t block, const uint8_t *in, uint8_t *u, float (*d)[ROWS],
                         float (*m)[ROWS]) {
    switch (type) {
    case BL_TYPE_Q4_0:
        unpack_nibbles_32(in + 2, u);
        d[0][0] = half_at(in);
        break;
    case BL_TYPE_Q4_1:
        unpack_nibbles_32(in + 4, u);
        d[0][0] = half_at(in);
        m[0][0] = half_at(in + 2);
        break;
    case BL_TYPE_Q8_0:
        store256(u, load256(in + 2));
        d[0][0] = half_at(in);
        break;
    case BL_TYPE_TQ1_0:
        bl_tq1_0_codes_avx2(in, u);
        d[0][0] = half_at(in + 52);
        break;
    case BL_TYPE_TQ2_0:
        unpack_tq2_0(in, u);
        d[0][0] = half_at(in + 64);
        break;
    case BL_TYPE_Q1_0:
        unpack_q1_0(in + 2, u);
        d[0][0] = half_at(in);
        break;
    case BL_TYPE_PTQ1_0:
        bl_unpack_codes(type, in, 128, u);
        d[0][0] = half_at(in + 26);
        break;
    default: /* Q2_0, Q2_0_LEGACY, PQ2_0 */
        unpack_quads(in + 2, block, u);
        d[0][0] = half_at(in);
        break;
    }
}

/* Rows of 8 dwords become columns. */
INLINE void transpose_32(const uint8_t (*u)[STEP], int at, __m256i *out) {
    __m256i a[8], b[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        a[i] = load256(&u[i][at]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        b[2 * i] = _mm256_unpacklo_epi32(a[2 * i], a[2 * i + 1]);
        b[2 * i + 1] = _mm256_unpackhi_epi32(a[2 * i], a[2 * i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        a[4 * i] = _mm256_unpacklo_epi64(b[4 * i], b[4 * i + 2]);
        a[4 * i + 1] = _mm256_unpackhi_epi64(b[4 * i], b[4 * i + 2]);
        a[4 * i + 2] = _mm256_unpacklo_epi64(b[4 * i + 1], b[4 * i + 3]);
        a[4 * i + 3] = _mm256_unpackhi_epi64(b[4 * i + 1], b[4 * i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        out[i] = _mm256_permute2x128_si256(a[i], a[i + 4], 0x20);
        out[i + 4] = _mm256_permute2x128_si256(a[i], a[i + 4], 0x31);
    }
}

/* ---- the K types: packed bytes become columns before they are cut --------------------------------- */

/* Four dwords at `at` of each row. */
INLINE void columns(const uint8_t *const *row, int at, __m256i *out) {
    __m256i a[4], b[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        a[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(load128(row[i] + at)), load128(row[4 + i] + at), 1);
    }
    b[0] = _mm256_unpacklo_epi32(a[0], a[1]);
    b[1] = _mm256_unpackhi_epi32(a[0], a[1]);
    b[2] = _mm256_unpacklo_epi32(a[2], a[3]);
    b[3] = _mm256_unpackhi_epi32(a[2], a[3]);
    out[0] = _mm256_unpacklo_epi64(b[0], b[2]);
    out[1] = _mm256_unpackhi_epi64(b[0], b[2]);
    out[2] = _mm256_unpacklo_epi64(b[1], b[3]);
    out[3] = _mm256_unpackhi_epi64(b[1], b[3]);
}

INLINE __m256i and8(__m256i v, char mask) { return _mm256_and_si256(v, _mm256_set1_epi8(mask)); }

/* Byte i of each dword as a float. */
INLINE __m256 unsigned_byte(__m256i v, int i) {
    return _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(v, 8 * i), _mm256_set1_epi32(255)));
}
INLINE __m256 signed_byte(__m256i v, int i) {
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(v, 24 - 8 * i), 24));
}
/* The lower half of each dword as a float. */
INLINE __m256 low_half(__m256i v) {
    __m256i even = _mm256_and_si256(v, _mm256_set1_epi32(0xffff));
    __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(even, even), 0x08);
    return _mm256_cvtph_ps(_mm256_castsi256_si128(packed));
}

static void fill_q4_k(const uint8_t *const *row, step *s) {
    __m256i c[4];
    columns(row, 0, c); /* d and dmin, then 12 bytes of scales and minima, 6 bits each */
    const __m256 d = low_half(c[0]), dmin = low_half(_mm256_srli_epi32(c[0], 16)), negative = _mm256_set1_ps(-0.0f);
    const __m256i scales[2] = {and8(c[1], 63),
                               _mm256_or_si256(and8(c[3], 15), and8(_mm256_srli_epi16(c[1], 2), 0x30))};
    const __m256i minima[2] = {and8(c[2], 63), _mm256_or_si256(and8(_mm256_srli_epi16(c[3], 4), 15),
                                                               and8(_mm256_srli_epi16(c[2], 2), 0x30))};
#pragma GCC unroll 8
    for (int g = 0; g < 8; g++) {
        _mm256_store_ps(s->d[g], _mm256_mul_ps(d, unsigned_byte(scales[g / 4], g % 4)));
        _mm256_store_ps(s->m[g], _mm256_xor_ps(_mm256_mul_ps(dmin, unsigned_byte(minima[g / 4], g % 4)), negative));
    }
    for (int i = 0; i < 8; i++) { /* 16 bytes: half of a chunk of 64 weights */
        __m256i *to = s->lanes + i / 2 * 16 + i % 2 * 4;
        columns(row, 16 + i * 16, c);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            to[j] = and8(c[j], 15);
            to[8 + j] = and8(_mm256_srli_epi16(c[j], 4), 15);
        }
    }
}

INLINE __m256i six_bits(__m256i low, __m256i high) { return _mm256_or_si256(and8(low, 15), and8(high, 0x30)); }

static void fill_q6_k(const uint8_t *const *row, step *s) {
    __m256i c[4];
    float scale[ROWS] BL_ALIGNED(32);
    for (int r = 0; r < ROWS; r++) {
        scale[r] = half_at(row[r] + 208);
    }
    const __m256 d = _mm256_load_ps(scale);
    columns(row, 192, c);
#pragma GCC unroll 16
    for (int g = 0; g < 16; g++) {
        _mm256_store_ps(s->d[g], _mm256_mul_ps(d, signed_byte(c[g / 4], g % 4)));
    }
    for (int i = 0; i < 4; i++) { /* half i/2, its dwords i%2*4 .. +3 */
        __m256i a[4], b[4], h[4], *to = s->lanes + i / 2 * 32 + i % 2 * 4;
        columns(row, i / 2 * 64 + i % 2 * 16, a);
        columns(row, i / 2 * 64 + 32 + i % 2 * 16, b);
        columns(row, 128 + i / 2 * 32 + i % 2 * 16, h);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            to[j] = six_bits(a[j], _mm256_slli_epi16(h[j], 4));
            to[8 + j] = six_bits(b[j], _mm256_slli_epi16(h[j], 2));
            to[16 + j] = six_bits(_mm256_srli_epi16(a[j], 4), h[j]);
            to[24 + j] = six_bits(_mm256_srli_epi16(b[j], 4), _mm256_srli_epi16(h[j], 2));
        }
    }
}

/* ---- one step --------------------------------------------------------------------------------------- */

/* n weights of rows whose blocks start at `row`. */
INLINE void fill(const layout *l, int32_t type, const uint8_t *const *row, int n, step *s) {
    int per_block = l->block / l->group;
    for (int r = 0; r < ROWS; r++) {
        const uint8_t *in = row[r];
        for (int i = 0, g = 0; i < n; i += l->block, g += per_block, in += l->block_bytes) {
            unpack_block(type, l->block, in, &s->u[r][i], (float(*)[ROWS])&s->d[g][r],
                         (float(*)[ROWS])&s->m[g][r]);
        }
    }
    for (int i = 0; i < n; i += 32) {
        transpose_32((const uint8_t(*)[STEP])s->u, i, s->lanes + i / 4);
    }
}

/* Unpacking is expanded for each type, so that its inner loops know it. */
static void fill_any(const layout *l, const uint8_t *const *row, int n, step *s) {
    switch (l->type) {
    case BL_TYPE_Q4_0:
        fill(l, BL_TYPE_Q4_0, row, n, s);
        break;
    case BL_TYPE_Q4_1:
        fill(l, BL_TYPE_Q4_1, row, n, s);
        break;
    case BL_TYPE_Q8_0:
        fill(l, BL_TYPE_Q8_0, row, n, s);
        break;
    case BL_TYPE_Q4_K:
        fill_q4_k(row, s);
        break;
    case BL_TYPE_Q6_K:
        fill_q6_k(row, s);
        break;
    case BL_TYPE_TQ1_0:
        fill(l, BL_TYPE_TQ1_0, row, n, s);
        break;
    case BL_TYPE_TQ2_0:
        fill(l, BL_TYPE_TQ2_0, row, n, s);
        break;
    case BL_TYPE_Q1_0:
        fill(l, BL_TYPE_Q1_0, row, n, s);
        break;
    case BL_TYPE_PTQ1_0:
        fill(l, BL_TYPE_PTQ1_0, row, n, s);
        break;
    default:
        fill(l, BL_TYPE_Q2_0, row, n, s);
        break;
    }
}

/* Goes on with the chains of nr rows of activations, n_terms a token, over n weights of `vecs` steps of eight rows
 * each, in groups of 4*quads.  depth: products that fit an int16 sum.  paired: start is one of pairs, and with it all of
 * a group fits.  slot: the first row's place among its eight.  acc: token by token, the second step's MOST_INPUTS on. */
INLINE void run_block(int vecs, int nr, int n_terms, int has_min, int depth, int paired, int quads, const step *s, int n,
                      const int8_t *x, int64_t ldx, const meeting *with, int slot, __m256 *acc) {
    const __m256i ones = _mm256_set1_epi16(1);
    const int chunk = BL_MIN(depth, quads), part = BL_MIN(chunk, 4);
    /* Statements of asm that keep GCC 12 from re-associating sums and from loading ahead until registers spill: where that gains. */
    const int in_turn = nr == BLOCK && depth != 1 && depth < 32;
    __m256 sum[2][BLOCK];
#pragma GCC unroll 2
    for (int v = 0; v < vecs; v++) {
#pragma GCC unroll 4
        for (int t = 0; t < nr / n_terms; t++) {
            sum[v][t] = acc[v * MOST_INPUTS + t];
        }
    }
    for (int g = 0; g < n / (4 * quads); g++, with++) {
        __m256i is[2][BLOCK];
#pragma GCC unroll 4
        for (int j = 0; j < nr; j++) {
            is[0][j] = has_min || paired ? _mm256_setzero_si256() : _mm256_set1_epi32(with->start[slot + j]);
            is[1][j] = is[0][j];
        }
        for (int i = 0; i < quads; i += chunk) {
            __m256i words[2][BLOCK];
#pragma GCC unroll 4
            for (int j = 0; j < nr; j++) {
                words[0][j] = paired ? _mm256_set1_epi32(with->start[slot + j]) : _mm256_setzero_si256();
                words[1][j] = words[0][j];
            }
            for (int e = i; e < i + chunk; e += part) {
#pragma GCC unroll 4
                for (int p = 0; p < part; p++) {
                    const int at = g * quads + e + p;
                    __m256i c[2], size[2];
#pragma GCC unroll 2
                    for (int v = 0; v < vecs; v++) {
                        c[v] = s[v].lanes[at];
                        size[v] = depth == 1 ? _mm256_abs_epi8(c[v]) : c[v];
                    }
#pragma GCC unroll 4
                    for (int j = 0; j < nr; j++) {
                        int32_t four;
                        memcpy(&four, x + j * ldx + 4 * at, sizeof four);
                        __m256i quad = _mm256_set1_epi32(four);
#pragma GCC unroll 2
                        for (int v = 0; v < vecs; v++) {
                            __m256i with_sign = depth == 1 ? _mm256_sign_epi8(quad, c[v]) : quad;
                            words[v][j] = _mm256_add_epi16(words[v][j], _mm256_maddubs_epi16(size[v], with_sign));
                            if (in_turn) {
                                __asm__("" : "+x"(words[v][j]));
                            }
                        }
                    }
                    if (in_turn) {
                        __asm__ volatile("" : : : "memory");
                    }
                }
            }
#pragma GCC unroll 2
            for (int v = 0; v < vecs; v++) {
#pragma GCC unroll 4
                for (int j = 0; j < nr; j++) {
                    is[v][j] = _mm256_add_epi32(is[v][j], _mm256_madd_epi16(words[v][j], ones));
                }
            }
        }
#pragma GCC unroll 4
        for (int j = 0; j < nr; j++) {
            __m256 scale = _mm256_broadcast_ss(&with->d[slot + j]);
#pragma GCC unroll 2
            for (int v = 0; v < vecs; v++) {
                __m256 *to = &sum[v][j / n_terms];
                *to = _mm256_fmadd_ps(_mm256_cvtepi32_ps(is[v][j]), _mm256_mul_ps(_mm256_load_ps(s[v].d[g]), scale), *to);
                if (has_min) {
                    *to = _mm256_fmadd_ps(_mm256_broadcast_ss(&with->xsum[slot + j]),
                                          _mm256_mul_ps(_mm256_load_ps(s[v].m[g]), scale), *to);
                }
            }
        }
    }
#pragma GCC unroll 2
    for (int v = 0; v < vecs; v++) {
#pragma GCC unroll 4
        for (int t = 0; t < nr / n_terms; t++) {
            acc[v * MOST_INPUTS + t] = sum[v][t];
        }
    }
}

/* Rows of activations from the weight on that a step begins with, and what they bring to its first group. */
typedef struct inputs {
    const int8_t *x;
    int64_t ldx;
    const meeting *with; /* of eight rows; `apart` further on those of the next eight */
    int64_t apart;
} inputs;

INLINE void run(int vecs, int n_terms, int has_min, int depth, int paired, int quads, const step *s, int n,
                const inputs *in, int64_t rows, __m256 *acc) {
    int64_t j = 0;
#define RUN_BLOCK(nr, terms)                                                                                   \
    run_block(vecs, nr, terms, has_min, depth, paired, quads, s, n, in->x + j * in->ldx, in->ldx,              \
              in->with + j / 8 * in->apart, (int)(j % 8), acc + j / n_terms)
    for (; j + 4 <= rows; j += 4) {
        RUN_BLOCK(4, n_terms);
    }
    if (j + 2 <= rows) {
        RUN_BLOCK(2, n_terms);
        j += 2;
    }
    if (n_terms == 1 && j < rows) {
        RUN_BLOCK(1, 1);
    }
#undef RUN_BLOCK
}

/* Types of which two steps may run together: in Q8_0's products the signs of weights take the registers. */
static int has_two(int32_t type) {
    return type == BL_TYPE_Q4_0 || type == BL_TYPE_Q4_1 || type == BL_TYPE_Q4_K || type == BL_TYPE_Q6_K;
}

/* One step of eight rows or two. */
static void run_any(const layout *l, int vecs, int n_terms, const step *s, int n, const inputs *in, int64_t rows,
                    __m256 *acc) {
#define RUN(vecs, has_min, depth, paired, quads)                                                               \
    do {                                                                                                       \
        if (n_terms == 1) {                                                                                    \
            run(vecs, 1, has_min, depth, paired, quads, s, n, in, rows, acc);                                  \
        } else {                                                                                               \
            run(vecs, 2, has_min, depth, paired, quads, s, n, in, rows, acc);                                  \
        }                                                                                                      \
    } while (0)
    switch (l->type) {
    case BL_TYPE_Q4_0:
        if (vecs == 2) {
            RUN(2, 0, 8, 0, 8);
        } else {
            RUN(1, 0, 8, 0, 8);
        }
        break;
    case BL_TYPE_Q4_1:
    case BL_TYPE_Q4_K:
        if (vecs == 2) {
            RUN(2, 1, 8, 0, 8);
        } else {
            RUN(1, 1, 8, 0, 8);
        }
        break;
    case BL_TYPE_Q8_0:
        RUN(1, 0, 1, 0, 8);
        break;
    case BL_TYPE_Q6_K:
        if (rows < TOGETHER) {
            RUN(1, 0, 2, 0, 4);
        } else if (vecs == 2) {
            RUN(2, 0, 4, 1, 4);
        } else {
            RUN(1, 0, 4, 1, 4);
        }
        break;
    default: /* ternary and binary: u <= 3 */
        if (l->group == 64) {
            RUN(1, 0, 32, 0, 16);
        } else if (l->group == 128) {
            RUN(1, 0, 32, 0, 32);
        } else {
            RUN(1, 0, 32, 0, 64);
        }
        break;
    }
#undef RUN
}

/* Q6_K's start of pairs: -32 times the activations that meet each half of a lane's dword.  With it the int16 sums are those
 * of signed codes: of 8 products, at most 32 * 127 each, which fit whatever the sums on the way were. */
static void start_pairs(const int8_t *x, int64_t ldx, int64_t rows, int64_t n_groups, meeting *to) {
    for (int64_t j = 0; j < rows; j++) {
        meeting *m = to + j / 8 * n_groups;
        for (int64_t g = 0; g < n_groups; g++) {
            __m128i p = _mm_maddubs_epi16(_mm_set1_epi8(1), load128(x + j * ldx + g * 16));
            p = _mm_add_epi16(p, _mm_shuffle_epi32(p, 0x4e));
            p = _mm_add_epi16(p, _mm_shuffle_epi32(p, 0xb1));
            m[g].start[j % 8] = _mm_cvtsi128_si32(_mm_sub_epi16(_mm_setzero_si128(), _mm_slli_epi16(p, 5)));
        }
    }
}

/* ---- the kernel ----------------------------------------------------------------------------------------- */

void bl_group_i8_avx2(int32_t type, const uint8_t *w, int64_t k, int64_t r0, int64_t r1, const int8_t *xq,
                      int64_t ldx, const float *xd, const int32_t *xsums, int64_t n_tok, int n_terms,
                      float *y, int64_t ldy, void *scratch) {
    const bl_tensor_type *t = bl_tensor_type_find(type);
    const int32_t offset = type == BL_TYPE_Q4_0 ? 8 : type == BL_TYPE_Q6_K ? 32
                           : type == BL_TYPE_Q4_1 || type == BL_TYPE_Q4_K || type == BL_TYPE_Q8_0 ? 0 : 1;
    const layout l = {type, t->block, t->block_bytes, t->group};
    const int64_t row_bytes = k / l.block * l.block_bytes, n_groups = k / l.group;
    step s[2];
    __m256 acc[2][MOST_INPUTS];

    for (int64_t t0 = 0; t0 < n_tok; t0 += MOST_INPUTS / n_terms) {
        const int64_t nt = BL_MIN(n_tok - t0, MOST_INPUTS / n_terms), first = t0 * n_terms;
        prepare_meetings(offset, bl_type_has_min(type), xd + first * n_groups, xsums + first * n_groups, nt * n_terms,
                         n_groups, scratch);
        const int together = nt * n_terms >= TOGETHER;
        const int most = together && has_two(type) ? 2 : 1; /* steps that run together */
        if (type == BL_TYPE_Q6_K && together) {
            start_pairs(xq + first * ldx, ldx, nt * n_terms, n_groups, scratch);
        }
        for (int64_t r = r0; r < r1; r += most * ROWS) {
            const int vecs = r1 - r > ROWS ? most : 1;
            const int64_t n_rows = BL_MIN(r1 - r, most * ROWS);
            /* The next rows are asked for while these are worked on. */
            const uint8_t *next = w + (r + most * ROWS) * row_bytes;
            const uint8_t *next_end = w + BL_MIN(r + 2 * most * ROWS, r1) * row_bytes;
            const uint8_t *row[2 * ROWS];
            const meeting *with = scratch;
            for (int64_t j = 0; j < vecs * ROWS; j++) { /* lanes past the end repeat the last row */
                row[j] = w + (r + BL_MIN(j, n_rows - 1)) * row_bytes;
            }
            for (int v = 0; v < vecs; v++) {
                memset(acc[v], 0, (size_t)nt * sizeof acc[v][0]);
            }
            for (int64_t i = 0; i < k; i += STEP, with += STEP / l.group) {
                int n = (int)BL_MIN(k - i, STEP);
                int64_t bytes = n / l.block * l.block_bytes;
                const uint8_t *stop = BL_MIN(next + bytes * vecs * ROWS, next_end);
                for (; next < stop; next += 64) {
                    _mm_prefetch((const char *)next, _MM_HINT_T1);
                }
                const inputs in = {xq + first * ldx + i, ldx, with, n_groups};
                for (int v = 0; v < vecs; v++) {
                    fill_any(&l, row + v * ROWS, n, &s[v]);
                }
                run_any(&l, vecs, n_terms, s, n, &in, nt * n_terms, acc[0]);
                for (int j = 0; j < vecs * ROWS; j++) {
                    row[j] += bytes;
                }
            }
            for (int64_t j = 0; j < nt; j++) {
                float lane[2 * ROWS];
                _mm256_storeu_ps(lane, acc[0][j]);
                if (vecs == 2) {
                    _mm256_storeu_ps(lane + ROWS, acc[1][j]);
                }
                memcpy(y + (t0 + j) * ldy + r, lane, (size_t)n_rows * sizeof *lane);
            }
        }
    }
}
