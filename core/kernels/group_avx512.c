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
 * Types whose bytes hold neighbouring weights (Q1_0, Q2_0, PQ2_0) are cut by vpmultishiftqb, which takes each byte's
 * bits from where they are; for one token, whose activations are brought into another order, by masks alone.
 *
 * Called through the table of kernels_avx512.c. */
#include "kernels/kernels_avx512.h"

#define ROWS 16
#define STEP BL_GROUP_STEP
#define BLOCK 8 /* rows of activations that meet a vector of codes together */

typedef bl_group_step step;

/* The one token whose rows are multiplied while weights are cut. */
typedef struct one {
    const int8_t *x[2];
    const meeting *with; /* of the group that goes on */
    __m512i is[2][8];    /* its sums; those that are used are added up at its end */
    __m512 acc;
} one;

/* ---- packed bytes as columns --------------------------------------------------------------------- */

/* Sixteen rows, `stride` bytes apart. */
typedef struct rows16 {
    const uint8_t *at;
    int64_t stride;
} rows16;

/* Byte `at` of rows 0, 4, 8 and 12. */
INLINE void fourths(rows16 row, int64_t at, const uint8_t **p) {
    p[0] = whole_address(row.at + at);
    p[1] = whole_address(p[0] + 4 * row.stride);
    p[2] = whole_address(p[0] + 8 * row.stride);
    p[3] = whole_address(p[1] + 8 * row.stride);
}

/* Four dwords at `at` of each row: out[i] has dword i of row r in lane r. */
INLINE void columns(rows16 row, int64_t at, __m512i *out) {
    const uint8_t *p[4];
    __m512i a[4], b[4];
    fourths(row, at, p);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) { /* quarter q: row 4q + i */
        a[i] = _mm512_castsi128_si512(load128(p[0] + i * row.stride));
        a[i] = _mm512_mask_broadcast_i32x4(a[i], 0x00f0, load128(p[1] + i * row.stride));
        a[i] = _mm512_mask_broadcast_i32x4(a[i], 0x0f00, load128(p[2] + i * row.stride));
        a[i] = _mm512_mask_broadcast_i32x4(a[i], 0xf000, load128(p[3] + i * row.stride));
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

/* Eight dwords at `at` of each row, for fewer loads a dword. */
INLINE void columns8(rows16 row, int64_t at, __m512i *out) {
    const uint8_t *p[4];
    __m512i a[8], b[8];
    fourths(row, at, p);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) { /* a half: rows i and 4 + i, or 8 + i and 12 + i */
        a[i] = _mm512_inserti64x4(_mm512_castsi256_si512(load256(p[0] + i * row.stride)),
                                  load256(p[1] + i * row.stride), 1);
        a[4 + i] = _mm512_inserti64x4(_mm512_castsi256_si512(load256(p[2] + i * row.stride)),
                                      load256(p[3] + i * row.stride), 1);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        b[2 * i] = _mm512_unpacklo_epi32(a[2 * i], a[2 * i + 1]);
        b[2 * i + 1] = _mm512_unpackhi_epi32(a[2 * i], a[2 * i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) { /* quarters: column c of four rows, column 4 + c of them, both of four more */
        a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
        a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
        a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
        a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
    }
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        out[c] = _mm512_shuffle_i32x4(a[c], a[4 + c], 0x88);
        out[4 + c] = _mm512_shuffle_i32x4(a[c], a[4 + c], 0xdd);
    }
}

/* ---- what becomes of the codes ------------------------------------------------------------------- */

/* dp with four activations, the same for all lanes. */
INLINE __m512i dp_four(__m512i acc, __m512i u, const int8_t *four) {
    typedef int32_t dword __attribute__((may_alias, aligned(1)));
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(u), "m"(*(const dword *)four));
    return acc;
}

/* Where codes go: `rows` 0: to s; 1 or 2: they meet o's rows. */
typedef struct sink {
    int rows, has_min, parts; /* sums of a group that run side by side, for their latency */
    int bits;                 /* not 0: sum p is that of codes p * bits up, or of doubled ones if `twice` */
    int twice;
    int minus;                /* taken off codes that are kept */
    step *s;
    one *o;
} sink;

INLINE void begin_group(const sink *k) {
#pragma GCC unroll 2
    for (int t = 0; t < k->rows; t++) {
        k->o->is[t][0] = k->has_min ? _mm512_setzero_si512() : _mm512_set1_epi32(k->o->with->start[t]);
#pragma GCC unroll 8
        for (int p = 1; p < k->parts; p++) {
            k->o->is[t][p] = _mm512_setzero_si512();
        }
    }
}

/* Vectors i .. i+3, i a multiple of 4. */
INLINE void emit4(const sink *k, int i, const __m512i *c) {
    if (k->rows == 0) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            k->s->codes[i + j] = k->minus ? _mm512_sub_epi8(c[j], _mm512_set1_epi8((char)k->minus)) : c[j];
        }
        return;
    }
#pragma GCC unroll 2
    for (int t = 0; t < k->rows; t++) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            __m512i *to = &k->o->is[t][j % k->parts];
            *to = dp_four(*to, c[j], k->o->x[t] + 4 * (i + j));
        }
    }
}

/* A vector for each sum, i .. */
INLINE void emit_planes(const sink *k, int i, const __m512i *c) {
#pragma GCC unroll 2
    for (int t = 0; t < k->rows; t++) {
#pragma GCC unroll 8
        for (int p = 0; p < k->parts; p++) {
            k->o->is[t][p] = dp_four(k->o->is[t][p], c[p], k->o->x[t] + 4 * (i + p));
        }
    }
}

/* Group g of the step is complete. */
INLINE void end_group(const sink *k, int g, __m512 d, __m512 m) {
    if (k->rows == 0) {
        k->s->d[g] = d;
        if (k->has_min) {
            k->s->m[g] = m;
        }
        return;
    }
#pragma GCC unroll 2
    for (int t = 0; t < k->rows; t++) {
        __m512i *is = k->o->is[t];
#pragma GCC unroll 8
        for (int p = 1; p < k->parts; p++) {
            is[0] = _mm512_add_epi32(is[0], k->bits ? _mm512_srai_epi32(is[p], (unsigned)(p * k->bits - k->twice)) : is[p]);
        }
        __m512 scale = _mm512_set1_ps(k->o->with->d[t]);
        k->o->acc = _mm512_fmadd_ps(_mm512_cvtepi32_ps(is[0]), _mm512_mul_ps(d, scale), k->o->acc);
        if (k->has_min) {
            k->o->acc = _mm512_fmadd_ps(_mm512_set1_ps(k->o->with->xsum[t]), _mm512_mul_ps(m, scale), k->o->acc);
        }
    }
    k->o->with++;
}

/* The half at `at` of each row. */
INLINE __m512 halves(rows16 row, int64_t at) {
    uint16_t h[ROWS] BL_ALIGNED(32);
    const uint8_t *p[4];
    fourths(row, at, p);
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++) {
        memcpy(&h[r], p[r / 4] + r % 4 * row.stride, sizeof h[r]);
    }
    return _mm512_cvtph_ps(load256(h));
}

INLINE __m512i and8(__m512i v, char mask) { return _mm512_and_si512(v, _mm512_set1_epi8(mask)); }
INLINE __m512i shift_and8(__m512i v, unsigned shift, char mask) {
    return and8(_mm512_srli_epi16(v, shift), mask);
}

/* ---- a step of each type ------------------------------------------------------------------------- */

INLINE void fill_q4(rows16 row, int n, int has_min, const sink *k) {
    int bytes = has_min ? 20 : 18;
    for (int b = 0; b < n / 32; b++) {
        __m512i c[4], low[4], high[4];
        columns(row, b * bytes + bytes - 16, c);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            low[j] = and8(c[j], 15);
            high[j] = shift_and8(c[j], 4, 15);
        }
        begin_group(k);
        emit4(k, b * 8, low);
        emit4(k, b * 8 + 4, high);
        __m512 d = halves(row, b * bytes);
        end_group(k, b, d, has_min ? halves(row, b * bytes + 2) : d);
    }
}

INLINE void fill_q8_0(rows16 row, int n, const sink *k) {
    for (int b = 0; b < n / 32; b++) {
        __m512i c[8];
        columns8(row, b * 34 + 2, c);
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) {
            c[j] = _mm512_xor_si512(c[j], _mm512_set1_epi8(-128));
        }
        begin_group(k);
        emit4(k, b * 8, c);
        emit4(k, b * 8 + 4, c + 4);
        __m512 d = halves(row, b * 34);
        end_group(k, b, d, d);
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

INLINE void fill_q4_k(rows16 row, const sink *k) {
    __m512i c[8];
    columns(row, 0, c); /* d and dmin, then 12 bytes of scales and minima, 6 bits each */
    const __m512 d = low_half(c[0]), negative = _mm512_set1_ps(-0.0f);
    const __m512 dmin = low_half(_mm512_srli_epi32(c[0], 16));
    const __m512i scales[2] = {and8(c[1], 63), _mm512_or_si512(and8(c[3], 15), shift_and8(c[1], 2, 0x30))};
    const __m512i minima[2] = {and8(c[2], 63),
                               _mm512_or_si512(shift_and8(c[3], 4, 15), shift_and8(c[2], 2, 0x30))};
    for (int i = 0; i < 4; i++) { /* 32 bytes: groups 2i and 2i + 1 */
        columns8(row, 16 + i * 32, c);
#pragma GCC unroll 2
        for (int high = 0; high < 2; high++) {
            const unsigned g = (unsigned)(2 * i + high);
            __m512i v[8];
#pragma GCC unroll 8
            for (int j = 0; j < 8; j++) {
                v[j] = high ? shift_and8(c[j], 4, 15) : and8(c[j], 15);
            }
            begin_group(k);
            emit4(k, (int)g * 8, v);
            emit4(k, (int)g * 8 + 4, v + 4);
            end_group(k, (int)g, _mm512_mul_ps(d, unsigned_byte(scales[g / 4], g % 4)),
                      _mm512_xor_ps(_mm512_mul_ps(dmin, unsigned_byte(minima[g / 4], g % 4)), negative));
        }
    }
}

INLINE __m512i six_bits(__m512i low, __m512i high) {
    /* (low & 15) | (high & 0x30) */
    return _mm512_ternarylogic_epi32(low, _mm512_set1_epi8(15), and8(high, 0x30), 0xea);
}

INLINE void fill_q6_k(rows16 row, const sink *k) {
    const __m512 d = halves(row, 208);
    __m512i sc[4];
    columns(row, 192, sc);
    for (int half = 0; half < 2; half++) {
        __m512i ab[2][8], h[8];
        columns8(row, half * 64, ab[0]);
        columns8(row, half * 64 + 32, ab[1]);
        columns8(row, 128 + half * 32, h);
#pragma GCC unroll 8
        for (int part = 0; part < 8; part++) { /* 16 weights: a group */
            const unsigned g = (unsigned)(half * 8 + part);
            __m512i c[4];
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) {
                __m512i low = ab[part / 2 % 2][part % 2 * 4 + j], high = h[part % 2 * 4 + j];
                low = part < 4 ? low : _mm512_srli_epi16(low, 4);
                high = part < 2   ? _mm512_slli_epi16(high, 4)
                       : part < 4 ? _mm512_slli_epi16(high, 2)
                       : part < 6 ? high
                                  : _mm512_srli_epi16(high, 2);
                c[j] = six_bits(low, high);
            }
            begin_group(k);
            emit4(k, (int)g * 4, c);
            const __m512 scale = _mm512_mul_ps(d, signed_byte(sc[g / 4], g % 4));
            end_group(k, (int)g, scale, scale);
        }
    }
}

INLINE void fill_tq2_0(rows16 row, const sink *k) {
    begin_group(k);
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        __m512i c[8];
        columns8(row, i * 32, c);
#pragma GCC unroll 4
        for (unsigned p = 0; p < 4; p++) {
            __m512i plane[8];
#pragma GCC unroll 8
            for (int j = 0; j < 8; j++) {
                plane[j] = shift_and8(c[j], 2 * p, 3);
            }
            emit4(k, i * 32 + (int)p * 8, plane);
            emit4(k, i * 32 + (int)p * 8 + 4, plane + 4);
        }
    }
    __m512 d = halves(row, 64);
    end_group(k, 0, d, d);
}

/* 32 and 16 bytes of five trits, 4 of four: digit n of all bytes of a part stands before digit n + 1. */
INLINE void fill_tq1_0(rows16 row, const sink *k) {
    trit_tables t;
    load_trit_tables(&t);
    begin_group(k);
#pragma GCC unroll 3
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
            emit4(k, i < 2 ? (int)p * 8 + i * 4 : 40 + (int)p * 4, plane);
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
    emit4(k, 60, plane);
    __m512 d = halves(row, 52);
    end_group(k, 0, d, d);
}

/* Where weights 4i .. 4i+3 of a dword begin in the qword that holds it, or, if `twice`, the bits before them. */
INLINE __m512i places(int bits, int i, int twice) {
    uint64_t low = 0;
#pragma GCC unroll 4
    for (int b = 0; b < 4; b++) {
        low |= (uint64_t)(((4 * i + b) * bits - twice) & 63) << 8 * b;
    }
    return _mm512_set1_epi64((long long)((low ^ 0x20202020) << 32 | low));
}

/* The weights of one dword of each row, 32 / bits, as vectors at i.  To be kept: in their order.  Else as planes, vector p
 * those whose bits lie p * bits up in their bytes, which stay there: that spares the shifts. */
INLINE void cut(__m512i c, int i, const sink *k) {
    const int bits = k->bits, n = 8 / bits, mask = (1 << bits) - 1;
    __m512i to[8];
#pragma GCC unroll 8
    for (int p = 0; p < n; p++) {
        if (k->rows == 0) {
            to[p] = and8(_mm512_multishift_epi64_epi8(places(bits, p, k->twice), c), (char)(mask << k->twice));
        } else if (p == 0 && k->twice) {
            to[p] = and8(_mm512_add_epi8(c, c), (char)(2 * mask));
        } else {
            to[p] = and8(c, (char)(mask << p * bits));
        }
    }
    if (k->rows > 0) {
        emit_planes(k, i, to);
    } else {
#pragma GCC unroll 2
        for (int p = 0; p < n; p += 4) {
            emit4(k, i + p, to + p);
        }
    }
}

INLINE void fill_quads(rows16 row, int n, int block, const sink *k) {
    int bytes = 2 + block / 4;
    for (int b = 0; b < n / block; b++) {
        begin_group(k);
#pragma GCC unroll 2
        for (int i = 0; i < block; i += 64) {
            __m512i c[4];
            columns(row, b * bytes + 2 + i / 4, c);
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) {
                cut(c[j], (b * block + i) / 4 + j * 4, k);
            }
        }
        __m512 d = halves(row, b * bytes);
        end_group(k, b, d, d);
    }
}

/* As 0 or 2. */
INLINE void fill_q1_0(rows16 row, int n, const sink *k) {
    for (int b = 0; b < n / 128; b++) {
        __m512i c[4];
        columns(row, b * 18 + 2, c);
        begin_group(k);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            cut(c[j], b * 32 + j * 8, k);
        }
        __m512 d = halves(row, b * 18);
        end_group(k, b, d, d);
    }
}

INLINE void fill_ptq1_0(rows16 row, int n, const sink *k) {
    uint8_t u[ROWS][128];
    for (int b = 0; b < n / 128; b++) {
        for (int r = 0; r < ROWS; r++) {
            bl_unpack_codes(BL_TYPE_PTQ1_0, row.at + r * row.stride + b * 28, 128, u[r]);
        }
        begin_group(k);
        for (int i = 0; i < 8; i++) {
            __m512i c[4];
            columns((rows16){u[0], 128}, i * 16, c);
            emit4(k, b * 32 + i * 4, c);
        }
        __m512 d = halves(row, b * 28 + 26);
        end_group(k, b, d, d);
    }
}

/* What is added to a type's codes so that they are unsigned. */
INLINE int offset_of(int32_t type) {
    return type == BL_TYPE_Q4_1 || type == BL_TYPE_Q4_K ? 0
           : type == BL_TYPE_Q4_0                       ? 8
           : type == BL_TYPE_Q6_K                       ? 32
           : type == BL_TYPE_Q8_0                       ? 128
                                                        : 1;
}

INLINE void fill(int32_t type, rows16 row, int n, int rows, int minus, step *s, one *o) {
    const int has_min = type == BL_TYPE_Q4_1 || type == BL_TYPE_Q4_K;
    const int bits = type == BL_TYPE_Q1_0 ? 1
                     : type == BL_TYPE_Q2_0 || type == BL_TYPE_Q2_0_LEGACY || type == BL_TYPE_PQ2_0 ? 2 : 0;
    const int parts = bits ? 8 / bits
                      : type == BL_TYPE_Q6_K ? 1 : has_min || type == BL_TYPE_Q4_0 || type == BL_TYPE_Q8_0 ? 2 : 4;
    const sink k = {rows, has_min, parts, bits, bits == 1, minus, s, o};
    switch (type) {
    case BL_TYPE_Q4_0:
        fill_q4(row, n, 0, &k);
        break;
    case BL_TYPE_Q4_1:
        fill_q4(row, n, 1, &k);
        break;
    case BL_TYPE_Q8_0:
        fill_q8_0(row, n, &k);
        break;
    case BL_TYPE_Q4_K:
        fill_q4_k(row, &k);
        break;
    case BL_TYPE_Q6_K:
        fill_q6_k(row, &k);
        break;
    case BL_TYPE_TQ1_0:
        fill_tq1_0(row, &k);
        break;
    case BL_TYPE_TQ2_0:
        fill_tq2_0(row, &k);
        break;
    case BL_TYPE_Q1_0:
        fill_q1_0(row, n, &k);
        break;
    case BL_TYPE_PTQ1_0:
        fill_ptq1_0(row, n, &k);
        break;
    case BL_TYPE_Q2_0:
        fill_quads(row, n, 64, &k);
        break;
    default: /* Q2_0_LEGACY, PQ2_0 */
        fill_quads(row, n, 128, &k);
        break;
    }
}

/* The type is known inside, so that sums stay in registers. */
#define EACH_TYPE(case_of)                                                                                     \
    case_of(BL_TYPE_Q4_0) case_of(BL_TYPE_Q4_1) case_of(BL_TYPE_Q8_0) case_of(BL_TYPE_Q4_K)                    \
    case_of(BL_TYPE_Q6_K) case_of(BL_TYPE_TQ1_0) case_of(BL_TYPE_TQ2_0) case_of(BL_TYPE_Q1_0)                  \
    case_of(BL_TYPE_PTQ1_0) case_of(BL_TYPE_Q2_0)

#define FILL(t)                                                                                                \
    static __attribute__((noinline)) void fill_##t(rows16 row, int n, step *s) { fill(t, row, n, 0, 0, s, NULL); } \
    static __attribute__((noinline)) void signed_##t(rows16 row, int n, step *s) {                             \
        fill(t, row, n, 0, offset_of(t), s, NULL);                                                             \
    }
EACH_TYPE(FILL)
FILL(BL_TYPE_PQ2_0)
#undef FILL

/* Codes of n weights to s. */
static void fill_codes(int32_t type, rows16 row, int n, step *s) {
    switch (type) {
#define CASE(t)                                                                                                \
    case t:                                                                                                    \
        fill_##t(row, n, s);                                                                                   \
        break;
        EACH_TYPE(CASE)
#undef CASE
    default:
        fill_BL_TYPE_PQ2_0(row, n, s);
        break;
    }
}

void bl_group_step_avx512(int32_t type, const uint8_t *w, int64_t stride, int n, bl_group_step *s) {
    const rows16 row = {w, stride};
    switch (type) {
#define CASE(t)                                                                                                \
    case t:                                                                                                    \
        signed_##t(row, n, s);                                                                                 \
        break;
        EACH_TYPE(CASE)
#undef CASE
    default:
        signed_BL_TYPE_PQ2_0(row, n, s);
        break;
    }
}

/* n weights met by the rows (1 or 2) of one token.  A function for each type: in one of all of them gcc 12 loses
 * sight of the arrays' elements and keeps them in memory. */
INLINE void meet_rows(int32_t type, rows16 row, int n, int rows, one *o) {
    one here = *o;
    fill(type, row, n, rows, 0, NULL, &here);
    o->acc = here.acc;
    o->with = here.with;
}
#define MEET(t)                                                                                                \
    static __attribute__((noinline)) void meet_1_##t(rows16 row, int n, one *o) { meet_rows(t, row, n, 1, o); } \
    static __attribute__((noinline)) void meet_2_##t(rows16 row, int n, one *o) { meet_rows(t, row, n, 2, o); }
EACH_TYPE(MEET)
MEET(BL_TYPE_PQ2_0)
#undef MEET

static void meet(int32_t type, rows16 row, int n, int rows, one *o) {
    switch (type) {
#define CASE(t)                                                                                                \
    case t:                                                                                                    \
        if (rows == 1) {                                                                                       \
            meet_1_##t(row, n, o);                                                                             \
        } else {                                                                                               \
            meet_2_##t(row, n, o);                                                                             \
        }                                                                                                      \
        break;
        EACH_TYPE(CASE)
    default:
        if (rows == 1) {
            meet_1_BL_TYPE_PQ2_0(row, n, o);
        } else {
            meet_2_BL_TYPE_PQ2_0(row, n, o);
        }
        break;
#undef CASE
    }
}

/* ---- one token's activations in the order of planes ------------------------------------------------ */

/* Byte b of vector p of the weights of a dword, `apart` places apart: the order for 64 of them, apart 4 or 8. */
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
    int apart;      /* places between one token's activations of a vector, 0 if they are neighbours */
    __m512i order;  /* theirs then */
} layout;

/* Rows of activations from the weight on that a step begins with, and what they bring to its first group. */
typedef struct inputs {
    const int8_t *x;
    int64_t ldx;
    const meeting *with; /* of eight rows; `apart` further on those of the next eight */
    int64_t apart;
} inputs;

/* Goes on with the chains of nr rows of activations, n_terms a token, over the step's n weights.  slot: the first
 * row's place among its eight.  Long groups of few rows keep four sums each, for the products' latency. */
INLINE void run_block(int nr, int n_terms, int has_min, int quads, const step *s, int n,
                      const int8_t *in, int64_t ldx, const meeting *with, int slot, __m512 *acc) {
    const int parts = quads >= 16 && nr < 4 ? 4 : 1;
    const int8_t *x[BLOCK];
    __m512 sum[BLOCK];
#pragma GCC unroll 8
    for (int j = 0; j < nr; j++) {
        x[j] = in + j * ldx;
    }
#pragma GCC unroll 8
    for (int t = 0; t < nr / n_terms; t++) {
        sum[t] = acc[t];
    }
    for (int g = 0; g < n / (4 * quads); g++, with++) {
        __m512i is[BLOCK][4];
#pragma GCC unroll 8
        for (int j = 0; j < nr; j++) {
            is[j][0] = has_min ? _mm512_setzero_si512() : _mm512_set1_epi32(with->start[slot + j]);
#pragma GCC unroll 4
            for (int p = 1; p < parts; p++) {
                is[j][p] = _mm512_setzero_si512();
            }
        }
#pragma GCC unroll 2
        for (int i = g * quads; i < (g + 1) * quads; i += 4) {
#pragma GCC unroll 4
            for (int p = 0; p < 4; p++) {
                __m512i c = s->codes[i + p];
#pragma GCC unroll 8
                for (int j = 0; j < nr; j++) {
                    is[j][p % parts] = dp_four(is[j][p % parts], c, x[j] + 4 * (i + p));
                }
            }
        }
#pragma GCC unroll 8
        for (int j = 0; j < nr; j++) {
            if (parts == 4) {
                is[j][0] = _mm512_add_epi32(_mm512_add_epi32(is[j][0], is[j][1]),
                                            _mm512_add_epi32(is[j][2], is[j][3]));
            }
            __m512 scale = _mm512_set1_ps(with->d[slot + j]);
            __m512 *to = &sum[j / n_terms];
            *to = _mm512_fmadd_ps(_mm512_cvtepi32_ps(is[j][0]), _mm512_mul_ps(s->d[g], scale), *to);
            if (has_min) {
                *to = _mm512_fmadd_ps(_mm512_set1_ps(with->xsum[slot + j]), _mm512_mul_ps(s->m[g], scale), *to);
            }
        }
    }
#pragma GCC unroll 8
    for (int t = 0; t < nr / n_terms; t++) {
        acc[t] = sum[t];
    }
}

INLINE void run(int n_terms, int has_min, int quads, const step *s, int n, const inputs *in,
                int64_t rows, __m512 *acc) {
    int64_t j = 0;
    const meeting *with = in->with;
    for (; j + 8 <= rows; j += 8, with += in->apart) {
        run_block(8, n_terms, has_min, quads, s, n, in->x + j * in->ldx, in->ldx, with, 0, acc + j / n_terms);
    }
    if (j + 4 <= rows) {
        run_block(4, n_terms, has_min, quads, s, n, in->x + j * in->ldx, in->ldx, with, 0, acc + j / n_terms);
        j += 4;
    }
    for (; j + 2 <= rows; j += 2) {
        run_block(2, n_terms, has_min, quads, s, n, in->x + j * in->ldx, in->ldx, with, (int)(j % 8),
                  acc + j / n_terms);
    }
    if (n_terms == 1 && j < rows) {
        run_block(1, 1, has_min, quads, s, n, in->x + j * in->ldx, in->ldx, with, (int)(j % 8), acc + j);
    }
}

static void run_any(const layout *l, int n_terms, const step *s, int n, const inputs *in, int64_t rows, __m512 *acc) {
#define RUN(has_min, quads)                                                                                    \
    do {                                                                                                       \
        if (n_terms == 1) {                                                                                    \
            run(1, has_min, quads, s, n, in, rows, acc);                                                    \
        } else {                                                                                               \
            run(2, has_min, quads, s, n, in, rows, acc);                                                    \
        }                                                                                                      \
    } while (0)
    if (l->has_min) {
        RUN(1, 8);
    } else if (l->group == 16) {
        RUN(0, 4);
    } else if (l->group == 32) {
        RUN(0, 8);
    } else if (l->group == 64) {
        RUN(0, 16);
    } else if (l->group == 128) {
        RUN(0, 32);
    } else {
        RUN(0, 64);
    }
#undef RUN
}

/* ---- the kernel ---------------------------------------------------------------------------------------- */

static layout layout_of(int32_t type) {
    const bl_tensor_type *t = bl_tensor_type_find(type);
    layout l = {type, t->block, t->block_bytes, t->group, offset_of(type), bl_type_has_min(type), 0,
                _mm512_setzero_si512()};
    if (type == BL_TYPE_Q1_0) {
        l.apart = 8;
    } else if (type == BL_TYPE_Q2_0 || type == BL_TYPE_Q2_0_LEGACY || type == BL_TYPE_PQ2_0) {
        l.apart = 4;
    }
    if (l.apart) {
        l.order = order_of(l.apart);
    }
    return l;
}

/* 16 rows from r on, and up to MOST_INPUTS rows of activations. */
static void sixteen(const layout *l, rows16 row, int64_t k, const int8_t *xq, int64_t ldx, const meeting *with,
                    int64_t n_tok, int n_terms, const uint8_t *next, const uint8_t *next_end, __m512 *acc) {
    step s;
    int8_t permuted[2][STEP];
    const int64_t n_groups = k / l->group;
    for (int64_t j = 0; j < n_tok; j++) {
        acc[j] = _mm512_setzero_ps();
    }
    for (int64_t i = 0; i < k; i += STEP) {
        int n = (int)BL_MIN(k - i, STEP);
        int64_t bytes = n / l->block * l->block_bytes;
        const uint8_t *stop = BL_MIN(next + bytes * ROWS, next_end);
        for (; next < stop; next += 64) {
            _mm_prefetch((const char *)next, _MM_HINT_T1);
        }
        if (n_tok == 1) {
            one o = {.x = {xq + i, xq + (n_terms - 1) * ldx + i}, .with = with, .acc = acc[0]};
            for (int j = 0; j < n_terms && l->apart; j++) {
                permute(l->order, o.x[j], n, permuted[j]);
                o.x[j] = permuted[j];
            }
            meet(l->type, row, n, n_terms, &o);
            acc[0] = o.acc;
        } else {
            const inputs in = {xq + i, ldx, with, n_groups};
            fill_codes(l->type, row, n, &s);
            run_any(l, n_terms, &s, n, &in, n_tok * n_terms, acc);
        }
        with += n / l->group;
        row.at += bytes;
    }
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
    __m512 acc[MOST_INPUTS];

    for (int64_t at = r0 * row_bytes; at < (r0 + ROWS) * row_bytes; at += 64) {
        _mm_prefetch((const char *)w + at, _MM_HINT_T1);
    }
    for (int64_t t0 = 0; t0 < n_tok; t0 += MOST_INPUTS / n_terms) {
        const int64_t nt = BL_MIN(n_tok - t0, MOST_INPUTS / n_terms), first = t0 * n_terms;
        prepare_meetings(l.offset, l.has_min, xd + first * n_groups, xsums + first * n_groups, nt * n_terms, n_groups,
                         scratch);
        for (int64_t turn = r0; turn < r1; turn += ROWS) {
            const int64_t r = BL_MIN(turn, r1 - ROWS); /* the last sixteen may overlap those before */
            /* The next sixteen rows are asked for while these are worked on. */
            sixteen(&l, (rows16){w + r * row_bytes, row_bytes}, k, xq + first * ldx, ldx, scratch, nt, n_terms,
                    w + (r + ROWS) * row_bytes, w + BL_MIN(r + 2 * ROWS, r1) * row_bytes, acc);
            for (int64_t j = 0; j < nt; j++) {
                _mm512_storeu_ps(y + (t0 + j) * ldy + r, acc[j]);
            }
        }
    }
}
