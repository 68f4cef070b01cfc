/* group_avx512.c - block-quantized matrices times int8 vectors in groups, with AVX-512 VNNI.
 *
 * Sixteen rows run in the sixteen lanes of a vector.  A step takes up to 256 weights of each: its packed bytes
 * come as columns of dwords (row r's dword in lane r), and are cut into unsigned codes u = code + offset there:
 *
 *     vector i of a step:  row 0's codes 4i..4i+3 | row 1's | … | row 15's
 *
 * vpdpbusd with four activations broadcast to all lanes then sums each row in its own lane, exactly, and the
 * chain over groups is one vector fma for sixteen rows.  Sums of u are corrected by offset * xsums.
 *
 * One token (decode): each four vectors meet its activations as they are cut, and only the sums are kept.  More
 * tokens: the vectors are kept, and meet blocks of eight rows of activations.
 *
 * Types whose bytes hold neighbouring weights (Q1_0, Q2_0, PQ2_0) give vectors of weights 8 or 4 apart; there the
 * activations are brought into that order, 256 at a time.
 *
 * Called through the table of kernels_avx512.c. */
#include "kernels/kernels_avx512.h"

#define ROWS 16
#define STEP 256  /* weights of a row in a step */
#define TOKENS 64 /* whose sums are held at once */
#define BLOCK 8   /* rows of activations that meet a vector of codes together */

typedef struct step {
    union {
        __m512i codes[STEP / 4];
        __m512i part[STEP / 16][2]; /* one token: sums of 16 weights with each of its rows */
    };
    const int8_t *x[2];             /* those rows */
    __m512 d[STEP / 16]; /* scale of a group */
    __m512 m[STEP / 16]; /* its minimum */
} step;

/* ---- packed bytes as columns --------------------------------------------------------------------- */

/* Sixteen rows, `stride` bytes apart. */
typedef struct rows16 {
    const uint8_t *at;
    int64_t stride;
} rows16;

/* Four dwords at `at` of each row: out[i] has dword i of row r in lane r. */
INLINE void columns(rows16 row, int64_t at, __m512i *out) {
    const uint8_t *p0 = row.at + at, *p4 = p0 + 4 * row.stride, *p8 = p4 + 4 * row.stride, *p12 = p8 + 4 * row.stride;
    __m512i a[4], b[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) { /* quarter q: row 4q + i */
        a[i] = _mm512_castsi128_si512(load128(p0 + i * row.stride));
        a[i] = _mm512_mask_broadcast_i32x4(a[i], 0x00f0, load128(p4 + i * row.stride));
        a[i] = _mm512_mask_broadcast_i32x4(a[i], 0x0f00, load128(p8 + i * row.stride));
        a[i] = _mm512_mask_broadcast_i32x4(a[i], 0xf000, load128(p12 + i * row.stride));
    }
    b[0] = _mm512_unpacklo_epi32(a[0], a[1]);
    b[1] = _mm512_unpackhi_epi32(a[0], a[1]);
    b[2] = _mm512_unpacklo_epi32(a[2], a[3]);
    b[3] = _mm512_unpackhi_epi32(a[2], a[3]);
    out[0] = _mm512_unpacklo_epi64(b[0], b[2]);
    out[1] = _mm512_unpackhi_epi64(b[0], b[2]);
    out[2] = _mm512_unpacklo_epi64(b[1], b[3]);
    out[3] = _mm512_unpackhi_epi64(b[1], b[3]);
}

/* Vectors i .. i+3, i a multiple of 4: kept (rows 0), or multiplied with the token's rows (1 or 2). */
INLINE void emit4(step *s, int rows, int i, const __m512i *c) {
    if (rows == 0) {
        memcpy(s->codes + i, c, 4 * sizeof *c);
        return;
    }
#pragma GCC unroll 2
    for (int t = 0; t < rows; t++) {
        __m512i sum = _mm512_setzero_si512();
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            int32_t four;
            memcpy(&four, s->x[t] + 4 * (i + j), sizeof four);
            sum = dp(sum, c[j], _mm512_set1_epi32(four));
        }
        s->part[i / 4][t] = sum;
    }
}

/* The half at `at` of each row. */
INLINE __m512 halves(rows16 row, int64_t at) {
    uint16_t h[ROWS] BL_ALIGNED(32);
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++) {
        memcpy(&h[r], row.at + r * row.stride + at, sizeof h[r]);
    }
    return _mm512_cvtph_ps(load256(h));
}

INLINE __m512i and8(__m512i v, char mask) { return _mm512_and_si512(v, _mm512_set1_epi8(mask)); }
INLINE __m512i shift_and8(__m512i v, unsigned shift, char mask) {
    return and8(_mm512_srli_epi16(v, shift), mask);
}

/* ---- a step of each type ------------------------------------------------------------------------- */

INLINE void fill_q4(rows16 row, int n, int has_min, int rows, step *s) {
    int bytes = has_min ? 20 : 18;
    for (int b = 0; b < n / 32; b++) {
        __m512i c[4], low[4], high[4];
        columns(row, b * bytes + bytes - 16, c);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            low[j] = and8(c[j], 15);
            high[j] = shift_and8(c[j], 4, 15);
        }
        emit4(s, rows, b * 8, low);
        emit4(s, rows, b * 8 + 4, high);
        s->d[b] = halves(row, b * bytes);
        if (has_min) {
            s->m[b] = halves(row, b * bytes + 2);
        }
    }
}

INLINE void fill_q8_0(rows16 row, int n, int rows, step *s) {
    for (int b = 0; b < n / 32; b++) {
        __m512i c[8];
        columns(row, b * 34 + 2, c);
        columns(row, b * 34 + 18, c + 4);
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) {
            c[j] = _mm512_xor_si512(c[j], _mm512_set1_epi8(-128));
        }
        emit4(s, rows, b * 8, c);
        emit4(s, rows, b * 8 + 4, c + 4);
        s->d[b] = halves(row, b * 34);
    }
}

/* Byte i of each dword as a float. */
INLINE __m512 unsigned_byte(__m512i v, unsigned i) {
    return _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32(v, 8 * i), _mm512_set1_epi32(255)));
}
INLINE __m512 signed_byte(__m512i v, unsigned i) {
    return _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(v, 24 - 8 * i), 24));
}
INLINE __m512 low_half(__m512i v) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(v)); }

INLINE void fill_q4_k(rows16 row, int rows, step *s) {
    __m512i c[4];
    columns(row, 0, c); /* d and dmin, then 12 bytes of scales and minima, 6 bits each */
    const __m512 d = low_half(c[0]), negative = _mm512_set1_ps(-0.0f);
    const __m512 dmin = low_half(_mm512_srli_epi32(c[0], 16));
    const __m512i scales[2] = {and8(c[1], 63), _mm512_or_si512(and8(c[3], 15), shift_and8(c[1], 2, 0x30))};
    const __m512i minima[2] = {and8(c[2], 63),
                               _mm512_or_si512(shift_and8(c[3], 4, 15), shift_and8(c[2], 2, 0x30))};
#pragma GCC unroll 8
    for (unsigned g = 0; g < 8; g++) {
        s->d[g] = _mm512_mul_ps(d, unsigned_byte(scales[g / 4], g % 4));
        s->m[g] = _mm512_xor_ps(_mm512_mul_ps(dmin, unsigned_byte(minima[g / 4], g % 4)), negative);
    }
    for (int i = 0; i < 8; i++) { /* 16 bytes: half of a chunk of 64 weights */
        __m512i low[4], high[4];
        columns(row, 16 + i * 16, c);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            low[j] = and8(c[j], 15);
            high[j] = shift_and8(c[j], 4, 15);
        }
        emit4(s, rows, i / 2 * 16 + i % 2 * 4, low);
        emit4(s, rows, i / 2 * 16 + i % 2 * 4 + 8, high);
    }
}

INLINE __m512i six_bits(__m512i low, __m512i high) {
    /* (low & 15) | (high & 0x30) */
    return _mm512_ternarylogic_epi32(low, _mm512_set1_epi8(15), and8(high, 0x30), 0xea);
}

INLINE void fill_q6_k(rows16 row, int rows, step *s) {
    for (int i = 0; i < 4; i++) { /* half i/2, its dwords i%2*4 .. +3 */
        __m512i a[4], b[4], h[4], c[4][4];
        int to = i / 2 * 32 + i % 2 * 4;
        columns(row, i / 2 * 64 + i % 2 * 16, a);
        columns(row, i / 2 * 64 + 32 + i % 2 * 16, b);
        columns(row, 128 + i / 2 * 32 + i % 2 * 16, h);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            c[0][j] = six_bits(a[j], _mm512_slli_epi16(h[j], 4));
            c[1][j] = six_bits(b[j], _mm512_slli_epi16(h[j], 2));
            c[2][j] = six_bits(_mm512_srli_epi16(a[j], 4), h[j]);
            c[3][j] = six_bits(_mm512_srli_epi16(b[j], 4), _mm512_srli_epi16(h[j], 2));
        }
#pragma GCC unroll 4
        for (int part = 0; part < 4; part++) {
            emit4(s, rows, to + part * 8, c[part]);
        }
    }
    __m512i c[4];
    columns(row, 192, c);
    const __m512 d = halves(row, 208);
#pragma GCC unroll 16
    for (unsigned g = 0; g < 16; g++) {
        s->d[g] = _mm512_mul_ps(d, signed_byte(c[g / 4], g % 4));
    }
}

INLINE void fill_tq2_0(rows16 row, int rows, step *s) {
    for (int i = 0; i < 4; i++) {
        __m512i c[4];
        columns(row, i * 16, c);
#pragma GCC unroll 4
        for (unsigned p = 0; p < 4; p++) {
            __m512i plane[4];
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) {
                plane[j] = shift_and8(c[j], 2 * p, 3);
            }
            emit4(s, rows, i / 2 * 32 + (int)p * 8 + i % 2 * 4, plane);
        }
    }
    s->d[0] = halves(row, 64);
}

/* 32 and 16 bytes of five trits, 4 of four: digit n of all bytes of a part stands before digit n + 1. */
INLINE void fill_tq1_0(rows16 row, int rows, step *s) {
    trit_tables t;
    load_trit_tables(&t);
    for (int i = 0; i < 3; i++) {
        __m512i c[4], fifth[4];
        columns(row, i * 16, c);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            c[j] = look_up_trits(&t, c[j], &fifth[j]);
        }
#pragma GCC unroll 5
        for (unsigned p = 0; p < 5; p++) {
            __m512i plane[4];
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) {
                plane[j] = p == 4 ? fifth[j] : shift_and8(c[j], 2 * p, 3);
            }
            emit4(s, rows, i < 2 ? (int)p * 8 + i * 4 : 40 + (int)p * 4, plane);
        }
    }
    int32_t last[ROWS];
    for (int r = 0; r < ROWS; r++) {
        memcpy(&last[r], row.at + r * row.stride + 48, sizeof last[r]);
    }
    __m512i fifth, four = look_up_trits(&t, _mm512_loadu_si512(last), &fifth), plane[4];
#pragma GCC unroll 4
    for (unsigned p = 0; p < 4; p++) {
        plane[p] = shift_and8(four, 2 * p, 3);
    }
    emit4(s, rows, 60, plane);
    s->d[0] = halves(row, 52);
}

/* Vector 4j + p: weights p, 4+p, 8+p and 12+p of 16. */
INLINE void fill_quads(rows16 row, int n, int block, int rows, step *s) {
    int bytes = 2 + block / 4;
    for (int i = 0; i < n; i += 64) {
        __m512i c[4];
        columns(row, i / block * bytes + 2 + i % block / 4, c);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            __m512i plane[4];
#pragma GCC unroll 4
            for (unsigned p = 0; p < 4; p++) {
                plane[p] = shift_and8(c[j], 2 * p, 3);
            }
            emit4(s, rows, i / 4 + j * 4, plane);
        }
        if (i % block == 0) {
            s->d[i / block] = halves(row, i / block * bytes);
        }
    }
}

/* Vector 8j + p: weights p, 8+p, 16+p and 24+p of 32, as 0 or 2. */
INLINE void fill_q1_0(rows16 row, int n, int rows, step *s) {
    for (int b = 0; b < n / 128; b++) {
        __m512i c[4];
        columns(row, b * 18 + 2, c);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            __m512i to[8];
            to[0] = and8(_mm512_add_epi8(c[j], c[j]), 2);
#pragma GCC unroll 7
            for (unsigned p = 1; p < 8; p++) {
                to[p] = shift_and8(c[j], p - 1, 2);
            }
            emit4(s, rows, b * 32 + j * 8, to);
            emit4(s, rows, b * 32 + j * 8 + 4, to + 4);
        }
        s->d[b] = halves(row, b * 18);
    }
}

INLINE void fill_ptq1_0(rows16 row, int n, int rows, step *s) {
    uint8_t u[ROWS][128];
    for (int b = 0; b < n / 128; b++) {
        for (int r = 0; r < ROWS; r++) {
            bl_unpack_codes(BL_TYPE_PTQ1_0, row.at + r * row.stride + b * 28, 128, u[r]);
        }
        for (int i = 0; i < 8; i++) {
            __m512i c[4];
            columns((rows16){u[0], 128}, i * 16, c);
            emit4(s, rows, b * 32 + i * 4, c);
        }
        s->d[b] = halves(row, b * 28 + 26);
    }
}

INLINE void fill(int32_t type, rows16 row, int n, int rows, step *s) {
    switch (type) {
    case BL_TYPE_Q4_0:
        fill_q4(row, n, 0, rows, s);
        break;
    case BL_TYPE_Q4_1:
        fill_q4(row, n, 1, rows, s);
        break;
    case BL_TYPE_Q8_0:
        fill_q8_0(row, n, rows, s);
        break;
    case BL_TYPE_Q4_K:
        fill_q4_k(row, rows, s);
        break;
    case BL_TYPE_Q6_K:
        fill_q6_k(row, rows, s);
        break;
    case BL_TYPE_TQ1_0:
        fill_tq1_0(row, rows, s);
        break;
    case BL_TYPE_TQ2_0:
        fill_tq2_0(row, rows, s);
        break;
    case BL_TYPE_Q1_0:
        fill_q1_0(row, n, rows, s);
        break;
    case BL_TYPE_PTQ1_0:
        fill_ptq1_0(row, n, rows, s);
        break;
    case BL_TYPE_Q2_0:
        fill_quads(row, n, 64, rows, s);
        break;
    default: /* Q2_0_LEGACY, PQ2_0 */
        fill_quads(row, n, 128, rows, s);
        break;
    }
}

/* By the number of rows that are multiplied at once; not inlined, as each is large. */
static void fill_codes(int32_t type, rows16 row, int n, step *s) { fill(type, row, n, 0, s); }
static void fill_1(int32_t type, rows16 row, int n, step *s) { fill(type, row, n, 1, s); }
static void fill_2(int32_t type, rows16 row, int n, step *s) { fill(type, row, n, 2, s); }

/* ---- activations in the order of a step's vectors -------------------------------------------------- */

/* Byte b of vector p of 4*apart neighbouring weights: the order for 64 of them, apart 4 or 8. */
static __m512i order_of(int apart) {
    uint8_t index[64];
    for (int i = 0; i < 64; i++) {
        index[i] = (uint8_t)(i / (4 * apart) * (4 * apart) + i % 4 * apart + i % (4 * apart) / 4);
    }
    return _mm512_loadu_si512(index);
}

/* n: a multiple of 64. */
INLINE void permute(__m512i order, const int8_t *x, int n, int8_t *out) {
    for (int i = 0; i < n; i += 64) {
        _mm512_storeu_si512(out + i, _mm512_permutexvar_epi8(order, _mm512_loadu_si512(x + i)));
    }
}

/* ---- products ---------------------------------------------------------------------------------------- */

typedef struct layout {
    int32_t type, block, block_bytes, group;
    int32_t offset; /* u = code + offset */
    int has_min;
    int apart;      /* weights between those of a dword, 0 if they are neighbours */
    __m512i order;  /* that of the activations then */
} layout;

/* The activations that a step meets: token t is the rows t*n_terms .. of x, ldx apart. */
typedef struct inputs {
    const int8_t *x;
    const float *d;
    const int32_t *sums;
    int64_t ldx, n_groups;
} inputs;

/* Goes on with the chains of nt tokens of n_terms rows over the step's n weights.  Long groups of few rows keep
 * four sums each, for the products' latency. */
INLINE void run_block(const layout *l, int nt, int n_terms, int has_min, int wide, const step *s, int n,
                      const inputs *in, __m512 *acc) {
    const int rows = nt * n_terms, parts = wide && rows < 4 ? 4 : 1, quads = l->group / 4;
    int8_t permuted[BLOCK][STEP];
    const int8_t *x[BLOCK];
    __m512 sum[BLOCK];
#pragma GCC unroll 8
    for (int j = 0; j < rows; j++) {
        x[j] = in->x + j * in->ldx;
        if (wide && l->apart) {
            permute(l->order, x[j], n, permuted[j]);
            x[j] = permuted[j];
        }
    }
#pragma GCC unroll 8
    for (int t = 0; t < nt; t++) {
        sum[t] = acc[t];
    }
    for (int g = 0; g < n / l->group; g++) {
        __m512i is[BLOCK][4];
#pragma GCC unroll 8
        for (int j = 0; j < rows; j++) {
            is[j][0] = _mm512_set1_epi32(-l->offset * in->sums[j * in->n_groups + g]);
#pragma GCC unroll 4
            for (int p = 1; p < parts; p++) {
                is[j][p] = _mm512_setzero_si512();
            }
        }
        for (int i = g * quads; i < (g + 1) * quads; i += 4) {
#pragma GCC unroll 4
            for (int p = 0; p < 4; p++) {
                __m512i c = s->codes[i + p];
#pragma GCC unroll 8
                for (int j = 0; j < rows; j++) {
                    int32_t four;
                    memcpy(&four, x[j] + 4 * (i + p), sizeof four);
                    is[j][p % parts] = dp(is[j][p % parts], c, _mm512_set1_epi32(four));
                }
            }
        }
#pragma GCC unroll 8
        for (int j = 0; j < rows; j++) {
            if (parts == 4) {
                is[j][0] = _mm512_add_epi32(_mm512_add_epi32(is[j][0], is[j][1]),
                                            _mm512_add_epi32(is[j][2], is[j][3]));
            }
            __m512 scale = _mm512_set1_ps(in->d[j * in->n_groups + g]);
            __m512 *to = &sum[j / n_terms];
            *to = _mm512_fmadd_ps(_mm512_cvtepi32_ps(is[j][0]), _mm512_mul_ps(s->d[g], scale), *to);
            if (has_min) {
                __m512 xs = _mm512_set1_ps((float)in->sums[j * in->n_groups + g]);
                *to = _mm512_fmadd_ps(xs, _mm512_mul_ps(s->m[g], scale), *to);
            }
        }
    }
#pragma GCC unroll 8
    for (int t = 0; t < nt; t++) {
        acc[t] = sum[t];
    }
}

/* Goes on with the chain of one token whose rows the step has met. */
INLINE __m512 run_parts(const layout *l, int n_terms, int has_min, const step *s, int n, const inputs *in,
                        __m512 acc) {
    const int parts = l->group / 16;
    for (int g = 0; g < n / l->group; g++) {
#pragma GCC unroll 2
        for (int j = 0; j < n_terms; j++) {
            int32_t xs = in->sums[j * in->n_groups + g];
            __m512i is = _mm512_set1_epi32(-l->offset * xs);
            for (int i = g * parts; i < (g + 1) * parts; i++) {
                is = _mm512_add_epi32(is, s->part[i][j]);
            }
            __m512 scale = _mm512_set1_ps(in->d[j * in->n_groups + g]);
            acc = _mm512_fmadd_ps(_mm512_cvtepi32_ps(is), _mm512_mul_ps(s->d[g], scale), acc);
            if (has_min) {
                acc = _mm512_fmadd_ps(_mm512_set1_ps((float)xs), _mm512_mul_ps(s->m[g], scale), acc);
            }
        }
    }
    return acc;
}

/* A step of one token. */
static __m512 step_one(const layout *l, int n_terms, rows16 row, int n, step *s, const inputs *in,
                       __m512 acc) {
    int8_t permuted[2][STEP];
    for (int j = 0; j < n_terms; j++) {
        s->x[j] = in->x + j * in->ldx;
        if (l->apart) {
            permute(l->order, s->x[j], n, permuted[j]);
            s->x[j] = permuted[j];
        }
    }
    if (n_terms == 1) {
        fill_1(l->type, row, n, s);
        return l->has_min ? run_parts(l, 1, 1, s, n, in, acc) : run_parts(l, 1, 0, s, n, in, acc);
    }
    fill_2(l->type, row, n, s);
    return l->has_min ? run_parts(l, 2, 1, s, n, in, acc) : run_parts(l, 2, 0, s, n, in, acc);
}

INLINE void advance(inputs *in, int64_t rows) {
    in->x += rows * in->ldx;
    in->d += rows * in->n_groups;
    in->sums += rows * in->n_groups;
}

INLINE void run(const layout *l, int n_terms, int has_min, int wide, const step *s, int n, inputs in, int64_t n_tok,
                __m512 *acc) {
    int64_t t = 0;
    for (; t + BLOCK / n_terms <= n_tok; t += BLOCK / n_terms, advance(&in, BLOCK)) {
        run_block(l, BLOCK / n_terms, n_terms, has_min, wide, s, n, &in, acc + t);
    }
    for (; t + 2 <= n_tok; t += 2, advance(&in, 2 * n_terms)) {
        run_block(l, 2, n_terms, has_min, wide, s, n, &in, acc + t);
    }
    for (; t < n_tok; t++, advance(&in, n_terms)) {
        run_block(l, 1, n_terms, has_min, wide, s, n, &in, acc + t);
    }
}

static void run_any(const layout *l, int n_terms, const step *s, int n, inputs in, int64_t n_tok, __m512 *acc) {
    if (l->has_min) {
        if (n_terms == 1) {
            run(l, 1, 1, 0, s, n, in, n_tok, acc);
        } else {
            run(l, 2, 1, 0, s, n, in, n_tok, acc);
        }
    } else if (l->group >= 64) {
        if (n_terms == 1) {
            run(l, 1, 0, 1, s, n, in, n_tok, acc);
        } else {
            run(l, 2, 0, 1, s, n, in, n_tok, acc);
        }
    } else if (n_terms == 1) {
        run(l, 1, 0, 0, s, n, in, n_tok, acc);
    } else {
        run(l, 2, 0, 0, s, n, in, n_tok, acc);
    }
}

/* ---- the kernel ---------------------------------------------------------------------------------------- */

static layout layout_of(int32_t type) {
    const bl_tensor_type *t = bl_tensor_type_find(type);
    layout l = {type, t->block, t->block_bytes, t->group, 1, bl_type_has_min(type), 0,
                _mm512_setzero_si512()};
    switch (type) {
    case BL_TYPE_Q4_1:
    case BL_TYPE_Q4_K:
        l.offset = 0;
        break;
    case BL_TYPE_Q4_0:
        l.offset = 8;
        break;
    case BL_TYPE_Q6_K:
        l.offset = 32;
        break;
    case BL_TYPE_Q8_0:
        l.offset = 128;
        break;
    case BL_TYPE_Q1_0:
        l.apart = 8;
        l.order = order_of(8);
        break;
    case BL_TYPE_Q2_0:
    case BL_TYPE_Q2_0_LEGACY:
    case BL_TYPE_PQ2_0:
        l.apart = 4;
        l.order = order_of(4);
        break;
    default:
        break;
    }
    return l;
}

void bl_group_i8_avx512(int32_t type, const uint8_t *w, int64_t k, int64_t r0, int64_t r1, const int8_t *xq,
                        int64_t ldx, const float *xd, const int32_t *xsums, int64_t n_tok, int n_terms, float *y,
                        int64_t ldy, void *scratch) {
    if (r1 - r0 < ROWS) {
        bl_group_i8_avx2(type, w, k, r0, r1, xq, ldx, xd, xsums, n_tok, n_terms, y, ldy, scratch);
        return;
    }
    const layout l = layout_of(type);
    const int64_t row_bytes = k / l.block * l.block_bytes, n_groups = k / l.group;
    step s;
    __m512 acc[TOKENS];

    for (int64_t at = r0 * row_bytes; at < (r0 + ROWS) * row_bytes; at += 64) {
        _mm_prefetch((const char *)w + at, _MM_HINT_T1);
    }
    for (int64_t turn = r0; turn < r1; turn += ROWS) {
        const int64_t r = BL_MIN(turn, r1 - ROWS); /* the last sixteen may overlap those before */
        /* The next sixteen rows are asked for while these are worked on. */
        const uint8_t *next = w + (r + ROWS) * row_bytes;
        const uint8_t *next_end = w + BL_MIN(r + 2 * ROWS, r1) * row_bytes;
        for (int64_t t0 = 0; t0 < n_tok; t0 += TOKENS) {
            int64_t nt = BL_MIN(n_tok - t0, TOKENS);
            rows16 row = {w + r * row_bytes, row_bytes};
            for (int64_t j = 0; j < nt; j++) {
                acc[j] = _mm512_setzero_ps();
            }
            for (int64_t i = 0; i < k; i += STEP) {
                int n = (int)BL_MIN(k - i, STEP);
                int64_t first = t0 * n_terms, g = first * n_groups + i / l.group;
                int64_t bytes = n / l.block * l.block_bytes;
                const uint8_t *stop = BL_MIN(next + bytes * ROWS, next_end);
                for (; next < stop; next += 64) {
                    _mm_prefetch((const char *)next, _MM_HINT_T1);
                }
                const inputs in = {xq + first * ldx + i, xd + g, xsums + g, ldx, n_groups};
                if (nt == 1) {
                    acc[0] = step_one(&l, n_terms, row, n, &s, &in, acc[0]);
                } else {
                    fill_codes(type, row, n, &s);
                    run_any(&l, n_terms, &s, n, in, nt, acc);
                }
                row.at += bytes;
            }
            for (int64_t j = 0; j < nt; j++) {
                _mm512_storeu_ps(y + (t0 + j) * ldy + r, acc[j]);
            }
        }
    }
}
