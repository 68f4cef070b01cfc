/* hamming_avx2.c - one query against packed codes, with the popcnt instruction.
 *
 * AVX2 has no popcount of its own; up to 128 bytes a code, popcnt over 64-bit words
 * reads as fast as memory delivers on every CPU that has AVX2.  The word count
 * of the usual lengths is a constant to the compiler, so their loops unroll; longer codes go through
 * bl_hamming_avx2, whose carry-save adders win there.
 *
 * Called through the kernel table. */
#include <immintrin.h>
#include <string.h>

#include "kernels/kernels_avx2.h"

static inline __attribute__((always_inline)) int64_t below_words(const uint8_t *query, const uint8_t *codes,
                                                                 int64_t n, int64_t words, uint32_t below,
                                                                 uint32_t *rows, uint32_t *distances) {
    uint64_t q[16];
    int64_t found = 0;
    memcpy(q, query, (size_t)words * 8);
    for (int64_t i = 0; i < n; i++) {
        const uint8_t *code = codes + i * words * 8;
        uint64_t bits = 0;
#pragma GCC unroll 16
        for (int64_t w = 0; w < words; w++) {
            uint64_t v;
            memcpy(&v, code + w * 8, sizeof v);
            bits += (uint64_t)_mm_popcnt_u64(v ^ q[w]);
        }
        if (__builtin_expect(bits < below, 0)) {
            rows[found] = (uint32_t)i;
            distances[found++] = (uint32_t)bits;
        }
    }
    return found;
}

int64_t bl_hamming_below_avx2(const uint8_t *query, const uint8_t *codes, int64_t n, int64_t bytes,
                              uint32_t below, uint32_t *rows, uint32_t *distances) {
    int64_t found = 0;
    switch (bytes) {
    case 8: return below_words(query, codes, n, 1, below, rows, distances);
    case 16: return below_words(query, codes, n, 2, below, rows, distances);
    case 24: return below_words(query, codes, n, 3, below, rows, distances);
    case 32: return below_words(query, codes, n, 4, below, rows, distances);
    case 48: return below_words(query, codes, n, 6, below, rows, distances);
    case 64: return below_words(query, codes, n, 8, below, rows, distances);
    case 96: return below_words(query, codes, n, 12, below, rows, distances);
    case 128: return below_words(query, codes, n, 16, below, rows, distances);
    default: break;
    }
    for (int64_t i = 0; i < n; i++) {
        uint64_t bits = bl_hamming_avx2(query, codes + i * bytes, bytes);
        if (bits < below) {
            rows[found] = (uint32_t)i;
            distances[found++] = (uint32_t)bits;
        }
    }
    return found;
}
