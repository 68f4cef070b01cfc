/* codes.c - distances between packed binary codes and between vectors, for callers outside core.
 * The loops over bits are kernels.  Called through bitlm.h. */
#include <math.h>

#include "kernels/kernels.h"
#include "quant/quant.h"
#include "search/codes.h"
#include "search/search.h"

uint64_t bitlm_hamming(const void *a, const void *b, size_t n) {
    return n ? bl_kernels_usual()->hamming(a, b, (int64_t)n) : 0;
}

int64_t bl_codes_below(const uint8_t *query, const uint8_t *codes, int64_t n, int64_t bytes,
                       uint32_t below, uint32_t *rows, uint32_t *distances) {
    return bl_kernels_usual()->hamming_below(query, codes, n, bytes, below, rows, distances);
}

uint64_t bl_bits_set(const uint8_t *filter, uint64_t n) {
    uint64_t count = 0;
    for (uint64_t i = 0; i < n / 64; i++)
        count += (uint64_t)__builtin_popcountll(bl_read_u64(filter + i * 8));
    for (uint64_t i = n / 64 * 64; i < n; i++)
        count += filter[i / 8] >> (i % 8) & 1u;
    return count;
}

double bitlm_similarity(const void *a, const void *b, size_t n) {
    if (n == 0)
        return 1.0;
    double bits = 8.0 * (double)n;
    return (bits - (double)bitlm_hamming(a, b, n)) / bits;
}

double bitlm_jaccard(const void *a, const void *b, size_t n) {
    const uint8_t *x = a, *y = b;
    uint64_t both = 0, either = 0;
    for (; n >= 8; n -= 8, x += 8, y += 8) {
        uint64_t p = bl_read_u64(x), q = bl_read_u64(y);
        both += (uint64_t)__builtin_popcountll(p & q);
        either += (uint64_t)__builtin_popcountll(p | q);
    }
    for (; n > 0; n--, x++, y++) {
        both += (uint64_t)__builtin_popcount(*x & *y);
        either += (uint64_t)__builtin_popcount(*x | *y);
    }
    return either ? (double)both / (double)either : 1.0;
}

double bitlm_cosine(const float *a, const float *b, size_t n) {
    bl_float_env env;
    double cosine = 0.0;
    if (n == 0)
        return 0.0;
    bl_float_enter(&env);
    const bl_kernels *k = bl_kernels_usual();
    double ab = (double)k->dot_f32(a, b, (int64_t)n);
    double aa = (double)k->dot_f32(a, a, (int64_t)n), bb = (double)k->dot_f32(b, b, (int64_t)n);
    if (aa > 0.0 && bb > 0.0)
        cosine = ab / sqrt(aa * bb);
    bl_float_leave(&env);
    return cosine > 1.0 ? 1.0 : cosine < -1.0 ? -1.0 : cosine;
}

void bitlm_reverse_bits(const void *code, size_t n, uint8_t *out) {
    const uint8_t *in = code;
    for (size_t i = 0; i < n; i++) {
        uint32_t b = in[i];
        b = (b & 0xf0u) >> 4 | (b & 0x0fu) << 4;
        b = (b & 0xccu) >> 2 | (b & 0x33u) << 2;
        out[i] = (uint8_t)((b & 0xaau) >> 1 | (b & 0x55u) << 1);
    }
}

void bitlm_binarize(const float *values, size_t n, float threshold, uint8_t *out) {
    bl_binarize(values, n, threshold, out);
}
