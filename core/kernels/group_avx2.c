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
 * activations meet a vector of codes together.
 *
 * How many products fit an int16 sum follows from the largest u: 32 for u <= 3, 8 for 15,
 * 2 for 63, 1 for 128 (with |x| <= 127 and two products a lane).
 *
 * Called through the table of kernels_avx2.c. */
#include "kernels/kernels_avx2.h"

#define ROWS 8
#define STEP 256    /* weights of a row in a step */
#define BLOCK 4     /* rows of activations that meet a vector of codes together */

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

/* Goes on with the chains of nr rows of activations, n_terms a token, over the step's n weights in groups of
 * 4*quads.  depth: products that fit an int16 sum.  slot: the first row's place among its eight. */
INLINE void run_block(int nr, int n_terms, int has_min, int depth, int quads, const step *s, int n, const int8_t *x,
                      int64_t ldx, const meeting *with, int slot, __m256 *acc) {
    const __m256i ones = _mm256_set1_epi16(1);
    const int chunk = BL_MIN(depth, quads), part = BL_MIN(chunk, 4);
    __m256 sum[BLOCK];
#pragma GCC unroll 4
    for (int t = 0; t < nr / n_terms; t++) {
        sum[t] = acc[t];
    }
    for (int g = 0; g < n / (4 * quads); g++, with++) {
        __m256i is[BLOCK];
#pragma GCC unroll 4
        for (int j = 0; j < nr; j++) {
            is[j] = has_min ? _mm256_setzero_si256() : _mm256_set1_epi32(with->start[slot + j]);
        }
        for (int i = 0; i < quads; i += chunk) {
            __m256i words[BLOCK];
#pragma GCC unroll 4
            for (int j = 0; j < nr; j++) {
                words[j] = _mm256_setzero_si256();
            }
            for (int e = i; e < i + chunk; e += part) {
#pragma GCC unroll 4
                for (int p = 0; p < part; p++) {
                    const int at = g * quads + e + p;
                    __m256i c = s->lanes[at], size = depth == 1 ? _mm256_abs_epi8(c) : c;
#pragma GCC unroll 4
                    for (int j = 0; j < nr; j++) {
                        int32_t four;
                        memcpy(&four, x + j * ldx + 4 * at, sizeof four);
                        __m256i v = _mm256_set1_epi32(four);
                        if (depth == 1) {
                            v = _mm256_sign_epi8(v, c);
                        }
                        words[j] = _mm256_add_epi16(words[j], _mm256_maddubs_epi16(size, v));
                    }
                }
            }
#pragma GCC unroll 4
            for (int j = 0; j < nr; j++) {
                is[j] = _mm256_add_epi32(is[j], _mm256_madd_epi16(words[j], ones));
            }
        }
#pragma GCC unroll 4
        for (int j = 0; j < nr; j++) {
            __m256 scale = _mm256_broadcast_ss(&with->d[slot + j]), *to = &sum[j / n_terms];
            *to = _mm256_fmadd_ps(_mm256_cvtepi32_ps(is[j]), _mm256_mul_ps(_mm256_load_ps(s->d[g]), scale), *to);
            if (has_min) {
                *to = _mm256_fmadd_ps(_mm256_broadcast_ss(&with->xsum[slot + j]),
                                      _mm256_mul_ps(_mm256_load_ps(s->m[g]), scale), *to);
            }
        }
    }
#pragma GCC unroll 4
    for (int t = 0; t < nr / n_terms; t++) {
        acc[t] = sum[t];
    }
}

/* Rows of activations from the weight on that a step begins with, and what they bring to its first group. */
typedef struct inputs {
    const int8_t *x;
    int64_t ldx;
    const meeting *with; /* of eight rows; `apart` further on those of the next eight */
    int64_t apart;
} inputs;

INLINE void run(int n_terms, int has_min, int depth, int quads, const step *s, int n, const inputs *in, int64_t rows,
                __m256 *acc) {
    int64_t j = 0;
#define RUN_BLOCK(nr)                                                                                          \
    run_block(nr, n_terms, has_min, depth, quads, s, n, in->x + j * in->ldx, in->ldx, in->with + j / 8 * in->apart, \
              (int)(j % 8), acc + j / n_terms)
    for (; j + 4 <= rows; j += 4) {
        RUN_BLOCK(4);
    }
    if (j + 2 <= rows) {
        RUN_BLOCK(2);
        j += 2;
    }
    if (n_terms == 1 && j < rows) {
        run_block(1, 1, has_min, depth, quads, s, n, in->x + j * in->ldx, in->ldx, in->with + j / 8 * in->apart,
                  (int)(j % 8), acc + j);
    }
#undef RUN_BLOCK
}

static void run_any(const layout *l, int n_terms, const step *s, int n, const inputs *in, int64_t rows, __m256 *acc) {
#define RUN(has_min, depth, quads)                                                                             \
    do {                                                                                                       \
        if (n_terms == 1) {                                                                                    \
            run(1, has_min, depth, quads, s, n, in, rows, acc);                                                \
        } else {                                                                                               \
            run(2, has_min, depth, quads, s, n, in, rows, acc);                                                \
        }                                                                                                      \
    } while (0)
    switch (l->type) {
    case BL_TYPE_Q4_0:
        RUN(0, 8, 8);
        break;
    case BL_TYPE_Q4_1:
    case BL_TYPE_Q4_K:
        RUN(1, 8, 8);
        break;
    case BL_TYPE_Q8_0:
        RUN(0, 1, 8);
        break;
    case BL_TYPE_Q6_K:
        RUN(0, 2, 4);
        break;
    default: /* ternary and binary: u <= 3 */
        if (l->group == 64) {
            RUN(0, 32, 16);
        } else if (l->group == 128) {
            RUN(0, 32, 32);
        } else {
            RUN(0, 32, 64);
        }
        break;
    }
#undef RUN
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
    step s;
    __m256 acc[MOST_INPUTS];

    for (int64_t t0 = 0; t0 < n_tok; t0 += MOST_INPUTS / n_terms) {
        const int64_t nt = BL_MIN(n_tok - t0, MOST_INPUTS / n_terms), first = t0 * n_terms;
        prepare_meetings(offset, bl_type_has_min(type), xd + first * n_groups, xsums + first * n_groups, nt * n_terms,
                         n_groups, scratch);
        for (int64_t r = r0; r < r1; r += ROWS) {
            int64_t n_rows = BL_MIN(r1 - r, ROWS);
            /* The next eight rows are asked for while these are worked on. */
            const uint8_t *next = w + (r + ROWS) * row_bytes, *next_end = w + BL_MIN(r + 2 * ROWS, r1) * row_bytes;
            const uint8_t *row[ROWS];
            const meeting *with = scratch;
            for (int64_t j = 0; j < ROWS; j++) { /* lanes past the end repeat the last row */
                row[j] = w + (r + BL_MIN(j, n_rows - 1)) * row_bytes;
            }
            for (int64_t j = 0; j < nt; j++) {
                acc[j] = _mm256_setzero_ps();
            }
            for (int64_t i = 0; i < k; i += STEP, with += STEP / l.group) {
                int n = (int)BL_MIN(k - i, STEP);
                int64_t bytes = n / l.block * l.block_bytes;
                const uint8_t *stop = BL_MIN(next + bytes * ROWS, next_end);
                for (; next < stop; next += 64) {
                    _mm_prefetch((const char *)next, _MM_HINT_T1);
                }
                const inputs in = {xq + first * ldx + i, ldx, with, n_groups};
                fill_any(&l, row, n, &s);
                run_any(&l, n_terms, &s, n, &in, nt * n_terms, acc);
                for (int j = 0; j < ROWS; j++) {
                    row[j] += bytes;
                }
            }
            for (int64_t j = 0; j < nt; j++) {
                float lane[ROWS];
                _mm256_storeu_ps(lane, acc[j]);
                memcpy(y + (t0 + j) * ldy + r, lane, (size_t)n_rows * sizeof *lane);
            }
        }
    }
}
