/* hamming_avx512.c - distances of binary codes with vpopcntq.
 *
 * One query against packed codes: each code's differing bits are counted in the eight quarters of a vector
 * (16 codes of up to 32 bytes share 8 vectors), and eight such vectors are added crosswise to one of eight
 * distances, which one comparison tests.  Sizes that the compiler knows lose their loops and masks.
 * Called through the table of kernels_avx512.c. */
#include "kernels/kernels_avx512.h"

INLINE __m512i load512(const void *p) { return _mm512_loadu_si512(p); }

INLINE __m512i load_part(const uint8_t *p, int64_t n) {
    return _mm512_maskz_loadu_epi8(n >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << n) - 1, p);
}

INLINE __m512i differing(__m512i a, __m512i b) { return _mm512_popcnt_epi64(_mm512_xor_si512(a, b)); }

uint64_t bl_hamming_avx512(const uint8_t *a, const uint8_t *b, int64_t n) {
    __m512i sum = _mm512_setzero_si512(), sum1 = sum, sum2 = sum, sum3 = sum;
    int64_t i = 0;
    for (; i + 256 <= n; i += 256) {
        sum = _mm512_add_epi64(sum, differing(load512(a + i), load512(b + i)));
        sum1 = _mm512_add_epi64(sum1, differing(load512(a + i + 64), load512(b + i + 64)));
        sum2 = _mm512_add_epi64(sum2, differing(load512(a + i + 128), load512(b + i + 128)));
        sum3 = _mm512_add_epi64(sum3, differing(load512(a + i + 192), load512(b + i + 192)));
    }
    sum = _mm512_add_epi64(_mm512_add_epi64(sum, sum1), _mm512_add_epi64(sum2, sum3));
    for (; i + 64 <= n; i += 64) {
        sum = _mm512_add_epi64(sum, differing(load512(a + i), load512(b + i)));
    }
    if (i < n) {
        sum = _mm512_add_epi64(sum, differing(load_part(a + i, n - i), load_part(b + i, n - i)));
    }
    return (uint64_t)_mm512_reduce_add_epi64(sum);
}

/* Neighbouring quarters of two vectors added: in each 128 bits one of a, one of b. */
INLINE __m512i pairs(__m512i a, __m512i b) {
    return _mm512_add_epi64(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}

/* Neighbouring 128 bits added: the two of a, then the two of b. */
INLINE __m512i halves(__m512i a, __m512i b) {
    return _mm512_add_epi64(_mm512_shuffle_i64x2(a, b, 0x88), _mm512_shuffle_i64x2(a, b, 0xdd));
}

/* Writes those of eight distances that are below; first: row of the first. */
INLINE int64_t keep(__m512i distance, __m512i below, int64_t first, uint32_t *rows, uint32_t *distances) {
    __mmask8 hits = _mm512_cmplt_epu64_mask(distance, below);
    if (__builtin_expect(hits == 0, 1)) {
        return 0;
    }
    uint64_t d[8];
    int64_t found = 0;
    _mm512_storeu_si512(d, distance);
    for (; hits; hits &= (__mmask8)(hits - 1)) {
        int i = __builtin_ctz(hits);
        rows[found] = (uint32_t)(first + i);
        distances[found++] = (uint32_t)d[i];
    }
    return found;
}

/* One code's bits in eight quarters; the query's whole vectors are in q, the rest masked in `last`. */
INLINE __m512i count(const uint8_t *code, int64_t bytes, const __m512i *q, __m512i last, __mmask64 mask) {
    __m512i sum = mask ? differing(_mm512_maskz_loadu_epi8(mask, code + bytes / 64 * 64), last)
                       : differing(load512(code), q[0]);
#pragma GCC unroll 4
    for (int64_t i = mask ? 0 : 1; i < bytes / 64; i++) {
        sum = _mm512_add_epi64(sum, differing(load512(code + i * 64), q[i]));
    }
    return sum;
}

/* Codes of 1 .. 256 bytes. */
INLINE int64_t below_by_code(const uint8_t *query, const uint8_t *codes, int64_t n, int64_t bytes, uint32_t below,
                             uint32_t *rows, uint32_t *distances) {
    __mmask64 mask = ((__mmask64)1 << bytes % 64) - 1;
    __m512i q[4], last = _mm512_maskz_loadu_epi8(mask, query + bytes / 64 * 64);
    const __m512i limit = _mm512_set1_epi64(below);
    int64_t found = 0, i = 0;
    for (int64_t j = 0; j < bytes / 64; j++) {
        q[j] = load512(query + j * 64);
    }
    for (; i + 8 <= n; i += 8) {
        __m512i v[8];
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) {
            v[j] = count(codes + (i + j) * bytes, bytes, q, last, mask);
        }
        __m512i sum = halves(halves(pairs(v[0], v[1]), pairs(v[2], v[3])),
                             halves(pairs(v[4], v[5]), pairs(v[6], v[7])));
        found += keep(sum, limit, i, rows + found, distances + found);
    }
    for (; i < n; i++) {
        uint64_t bits = (uint64_t)_mm512_reduce_add_epi64(count(codes + i * bytes, bytes, q, last, mask));
        if (bits < below) {
            rows[found] = (uint32_t)i;
            distances[found++] = (uint32_t)bits;
        }
    }
    return found;
}

/* Codes of 32 bytes, two to a vector. */
static int64_t below_32(const uint8_t *query, const uint8_t *codes, int64_t n, uint32_t below, uint32_t *rows,
                        uint32_t *distances) {
    const __m512i q = _mm512_broadcast_i64x4(load256(query)), limit = _mm512_set1_epi64(below);
    /* Vectors a and b hold rows 0, 1 and 2, 3; adding leaves 0 2 1 3. */
    const __m512i order = _mm512_setr_epi64(0, 2, 1, 3, 4, 6, 5, 7);
    int64_t found = 0, i = 0;
    for (; i + 8 <= n; i += 8) {
        __m512i v[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            v[j] = differing(load512(codes + (i + 2 * j) * 32), q);
        }
        __m512i sum = halves(pairs(v[0], v[1]), pairs(v[2], v[3]));
        if (__builtin_expect(_mm512_cmplt_epu64_mask(sum, limit) != 0, 0)) {
            found += keep(_mm512_permutexvar_epi64(order, sum), limit, i, rows + found, distances + found);
        }
    }
    int64_t rest = below_by_code(query, codes + i * 32, n - i, 32, below, rows + found, distances + found);
    for (int64_t j = 0; j < rest; j++) {
        rows[found + j] += (uint32_t)i;
    }
    return found + rest;
}

int64_t bl_hamming_below_avx512(const uint8_t *query, const uint8_t *codes, int64_t n, int64_t bytes,
                                uint32_t below, uint32_t *rows, uint32_t *distances) {
    int64_t found = 0;
    switch (bytes) {
    case 32: return below_32(query, codes, n, below, rows, distances);
    case 48: return below_by_code(query, codes, n, 48, below, rows, distances);
    case 64: return below_by_code(query, codes, n, 64, below, rows, distances);
    case 96: return below_by_code(query, codes, n, 96, below, rows, distances);
    case 128: return below_by_code(query, codes, n, 128, below, rows, distances);
    default: break;
    }
    if (bytes <= 24 && bytes % 8 == 0) { /* a word or three: popcnt of its own register needs no adding */
        return bl_hamming_below_avx2(query, codes, n, bytes, below, rows, distances);
    }
    if (bytes <= 256) {
        return below_by_code(query, codes, n, bytes, below, rows, distances);
    }
    for (int64_t i = 0; i < n; i++) {
        uint64_t bits = bl_hamming_avx512(query, codes + i * bytes, bytes);
        if (bits < below) {
            rows[found] = (uint32_t)i;
            distances[found++] = (uint32_t)bits;
        }
    }
    return found;
}
