/* hamming_neon.c - distances of packed codes with NEON: bits counted by byte, summed in bytes for up to 31
 * vectors, then widened.  Called through the tables of kernels_neon.c. */
#include "kernels/kernels_neon.h"

INLINE uint8x16_t differ(const uint8_t *a, const uint8_t *b) {
    return vcntq_u8(veorq_u8(vld1q_u8(a), vld1q_u8(b)));
}

INLINE uint64_t distance(const uint8_t *a, const uint8_t *b, int64_t n) {
    uint64_t bits = 0;
    int64_t i = 0;
    while (i + 16 <= n) {
        uint8x16_t sum = vdupq_n_u8(0); /* a byte takes 8 a vector: 31 fit */
        int64_t end = BL_MIN(i + 31 * 16, n);
        for (; i + 16 <= end; i += 16) {
            sum = vaddq_u8(sum, differ(a + i, b + i));
        }
        bits += vaddlvq_u8(sum);
    }
    if (i + 8 <= n) {
        bits += vaddv_u8(vcnt_u8(veor_u8(vld1_u8(a + i), vld1_u8(b + i))));
        i += 8;
    }
    for (; i < n; i++) {
        bits += (uint64_t)__builtin_popcount((unsigned)(a[i] ^ b[i]));
    }
    return bits;
}

uint64_t bl_hamming_neon(const uint8_t *a, const uint8_t *b, int64_t n) { return distance(a, b, n); }

/* Codes of a length that the compiler knows, so that their loops unroll. */
INLINE int64_t below_bytes(const uint8_t *query, const uint8_t *codes, int64_t n, int64_t bytes, uint32_t below,
                           uint32_t *rows, uint32_t *distances) {
    int64_t found = 0;
    for (int64_t i = 0; i < n; i++) {
        uint64_t bits = distance(query, codes + i * bytes, bytes);
        if (BL_UNLIKELY(bits < below)) {
            rows[found] = (uint32_t)i;
            distances[found++] = (uint32_t)bits;
        }
    }
    return found;
}

int64_t bl_hamming_below_neon(const uint8_t *query, const uint8_t *codes, int64_t n, int64_t bytes,
                              uint32_t below, uint32_t *rows, uint32_t *distances) {
    switch (bytes) {
    case 16: return below_bytes(query, codes, n, 16, below, rows, distances);
    case 32: return below_bytes(query, codes, n, 32, below, rows, distances);
    case 48: return below_bytes(query, codes, n, 48, below, rows, distances);
    case 64: return below_bytes(query, codes, n, 64, below, rows, distances);
    case 96: return below_bytes(query, codes, n, 96, below, rows, distances);
    case 128: return below_bytes(query, codes, n, 128, below, rows, distances);
    default: return below_bytes(query, codes, n, bytes, below, rows, distances);
    }
}
