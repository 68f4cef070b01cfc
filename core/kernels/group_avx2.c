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
 * How many products fit an int16 sum follows from the largest u: 32 for u <= 3, 8 for 15,
 * 2 for 63, 1 for 128 (with |x| <= 127 and two products a lane).
 *
 * Called through the table of kernels_avx2.c. */
#include "kernels/kernels_avx2.h"

#define ROWS 8
#define STEP 256    /* weights of a row in a step */
#define TOKENS 64   /* whose sums are held at once */

typedef struct step {
    uint8_t u[ROWS][STEP] BL_ALIGNED(32);           /* as unpacked: int8 for Q8_0 */
    __m256i lanes[STEP / 4];                        /* transposed */
    float d[STEP / 16][ROWS] BL_ALIGNED(32);        /* scale of a group */
    float m[STEP / 16][ROWS] BL_ALIGNED(32);        /* its minimum */
} step;

typedef struct layout {
    int32_t type, block, block_bytes, group;
    int32_t offset;  /* u = code + offset */
    int depth;       /* products that fit an int16 sum; 1 also means signed bytes */
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

INLINE void unpack_q4_k(const uint8_t *block, uint8_t *u, float (*d)[ROWS], float (*m)[ROWS]) {
    float scale = half_at(block), scale_min = half_at(block + 2);
    const uint8_t *s = block + 4;
    const __m256i mask = _mm256_set1_epi8(15);
    for (int j = 0; j < 8; j++) {
        int sc = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | ((s[j - 4] >> 6) << 4);
        int mn = j < 4 ? s[j + 4] & 63 : (s[j + 4] >> 4) | ((s[j] >> 6) << 4);
        d[j][0] = scale * (float)sc;
        m[j][0] = -(scale_min * (float)mn);
    }
    for (int j = 0; j < 4; j++) {
        __m256i v = load256(block + 16 + j * 32);
        store256(u + j * 64, _mm256_and_si256(v, mask));
        store256(u + j * 64 + 32, _mm256_and_si256(_mm256_srli_epi16(v, 4), mask));
    }
}

INLINE void unpack_q6_k(const uint8_t *block, uint8_t *u, float (*d)[ROWS]) {
    const __m256i low4 = _mm256_set1_epi8(15), high2 = _mm256_set1_epi8(0x30);
    float scale = half_at(block + 208);
    for (int half = 0; half < 2; half++) {
        __m256i a = load256(block + half * 64), b = load256(block + half * 64 + 32);
        __m256i h = load256(block + 128 + half * 32);
        __m256i h0 = _mm256_and_si256(_mm256_slli_epi16(h, 4), high2);
        __m256i h1 = _mm256_and_si256(_mm256_slli_epi16(h, 2), high2);
        __m256i h2 = _mm256_and_si256(h, high2);
        __m256i h3 = _mm256_and_si256(_mm256_srli_epi16(h, 2), high2);
        uint8_t *out = u + half * 128;
        store256(out, _mm256_or_si256(_mm256_and_si256(a, low4), h0));
        store256(out + 32, _mm256_or_si256(_mm256_and_si256(b, low4), h1));
        store256(out + 64, _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(a, 4), low4), h2));
        store256(out + 96, _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(b, 4), low4), h3));
    }
    for (int g = 0; g < 16; g++) {
        int8_t sc;
        memcpy(&sc, block + 192 + g, 1);
        d[g][0] = scale * (float)sc;
    }
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
    case BL_TYPE_Q4_K:
        unpack_q4_k(in, u, d, m);
        break;
    case BL_TYPE_Q6_K:
        unpack_q6_k(in, u, d);
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
        fill(l, BL_TYPE_Q4_K, row, n, s);
        break;
    case BL_TYPE_Q6_K:
        fill(l, BL_TYPE_Q6_K, row, n, s);
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

/* Exact sums of n vectors of a step with 4n activations, in each row's lane. */
INLINE __m256i group_sums(const __m256i *w, const int8_t *x, int n, int depth, __m256i acc) {
    const __m256i ones = _mm256_set1_epi16(1);
    int chunk = BL_MIN(depth, 4);
    for (int i = 0; i < n;) {
        __m256i sum = _mm256_setzero_si256();
        for (int end = BL_MIN(i + depth, n); i < end; i += chunk) {
#pragma GCC unroll 4
            for (int j = 0; j < chunk; j++) {
                int32_t four;
                memcpy(&four, x + 4 * (i + j), sizeof four);
                __m256i v = _mm256_set1_epi32(four), c = w[i + j];
                if (depth == 1) {
                    v = _mm256_sign_epi8(v, c);
                    c = _mm256_abs_epi8(c);
                }
                sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(c, v));
            }
        }
        acc = _mm256_add_epi32(acc, _mm256_madd_epi16(sum, ones));
    }
    return acc;
}

/* The activations that a step meets: token t is the rows t*n_terms .. of x, ldx apart. */
typedef struct inputs {
    const int8_t *x;
    const float *d;
    const int32_t *sums;
    int64_t ldx, n_groups, n_tok;
    int n_terms;
} inputs;

/* Goes on with the chains of the tokens over the step's n weights. */
INLINE void run(const layout *l, int depth, int group, int has_min, const step *s, int n, const inputs *in,
                __m256 *acc) {
    for (int64_t t = 0; t < in->n_tok; t++) {
        __m256 sum = acc[t];
        for (int g = 0; g < n / group; g++) {
            for (int64_t j = t * in->n_terms; j < (t + 1) * in->n_terms; j++) {
                int32_t xs = in->sums[j * in->n_groups + g];
                __m256i start = _mm256_set1_epi32(-l->offset * xs);
                __m256i is = group_sums(s->lanes + g * (group / 4), in->x + j * in->ldx + g * group, group / 4,
                                        depth, start);
                __m256 scale = _mm256_broadcast_ss(in->d + j * in->n_groups + g);
                sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(is), _mm256_mul_ps(_mm256_load_ps(s->d[g]), scale),
                                      sum);
                if (has_min) {
                    sum = _mm256_fmadd_ps(_mm256_set1_ps((float)xs),
                                          _mm256_mul_ps(_mm256_load_ps(s->m[g]), scale), sum);
                }
            }
        }
        acc[t] = sum;
    }
}

static void run_any(const layout *l, const step *s, int n, const inputs *in, __m256 *acc) {
    switch (l->type) {
    case BL_TYPE_Q4_0:
        run(l, 8, 32, 0, s, n, in, acc);
        break;
    case BL_TYPE_Q4_1:
    case BL_TYPE_Q4_K:
        run(l, 8, 32, 1, s, n, in, acc);
        break;
    case BL_TYPE_Q8_0:
        run(l, 1, 32, 0, s, n, in, acc);
        break;
    case BL_TYPE_Q6_K:
        run(l, 2, 16, 0, s, n, in, acc);
        break;
    default: /* ternary and binary: u <= 3 */
        run(l, 32, l->group, 0, s, n, in, acc);
        break;
    }
}

/* ---- the kernel ----------------------------------------------------------------------------------------- */

void bl_group_i8_avx2(int32_t type, const uint8_t *w, int64_t k, int64_t r0, int64_t r1, const int8_t *xq,
                      int64_t ldx, const float *xd, const int32_t *xsums, int64_t n_tok, int n_terms,
                      float *y, int64_t ldy, void *scratch) {
    (void)scratch;
    const bl_tensor_type *t = bl_tensor_type_find(type);
    const int32_t offset = type == BL_TYPE_Q4_0 ? 8 : type == BL_TYPE_Q6_K ? 32
                           : type == BL_TYPE_Q4_1 || type == BL_TYPE_Q4_K || type == BL_TYPE_Q8_0 ? 0 : 1;
    const layout l = {type, t->block, t->block_bytes, t->group, offset, 0};
    const int64_t row_bytes = k / l.block * l.block_bytes, n_groups = k / l.group;
    step s;
    __m256 acc[TOKENS];

    for (int64_t r = r0; r < r1; r += ROWS) {
        int64_t n_rows = BL_MIN(r1 - r, ROWS);
        for (int64_t t0 = 0; t0 < n_tok; t0 += TOKENS) {
            int64_t nt = BL_MIN(n_tok - t0, TOKENS);
            const uint8_t *row[ROWS];
            for (int64_t j = 0; j < ROWS; j++) { /* lanes past the end repeat the last row */
                row[j] = w + (r + BL_MIN(j, n_rows - 1)) * row_bytes;
            }
            for (int64_t j = 0; j < nt; j++) {
                acc[j] = _mm256_setzero_ps();
            }
            for (int64_t i = 0; i < k; i += STEP) {
                int n = (int)BL_MIN(k - i, STEP);
                int64_t first = t0 * n_terms, g = first * n_groups + i / l.group;
                const inputs in = {xq + first * ldx + i, xd + g, xsums + g, ldx, n_groups, nt, n_terms};
                fill_any(&l, row, n, &s);
                run_any(&l, &s, n, &in, acc);
                for (int j = 0; j < ROWS; j++) {
                    row[j] += n / l.block * l.block_bytes;
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
