/* quant_modes.c - inputs of linear layers in fewer bits than int8: 4-bit absmean, int8 of the larger half,
 * signs (option `activations`).
 *
 * Plain C on every processor: a row costs one pass or two beside the k*n products that follow.  Sums run in the
 * sum16 order (kernels.h), whose 16 lanes the compiler may keep in vectors.  Sources: BitNet a4.8
 * (arXiv 2411.04965, section 2.2) and XNOR-Net (arXiv 1603.05279, section 3.2).  Called by core/model/linear.c. */
#include <math.h>
#include <string.h>

#include "kernels/kernels.h"

static uint32_t magnitude_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits & 0x7fffffffu;
}

/* mean|x|, the sum in sum16 order. */
static float mean_magnitude(const float *x, int64_t n) {
    float lane[16] = {0};
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (int j = 0; j < 16; j++)
            lane[j] += fabsf(x[i + j]);
    for (int j = 0; i + j < n; j++)
        lane[j] += fabsf(x[i + j]);
    for (int half = 8; half > 0; half /= 2)
        for (int j = 0; j < half; j++)
            lane[j] += lane[j + half];
    return lane[0] * (1.0f / (float)n);
}

static float not_finite(int64_t n, int8_t *q, int32_t *sum) {
    memset(q, 0, (size_t)n);
    *sum = 0;
    return NAN;
}

float bl_quant_row_int4(const float *x, int64_t n, int8_t *q, int32_t *sum) {
    float mean = mean_magnitude(x, n);
    int32_t total = 0;
    if (!isfinite(mean))
        return not_finite(n, q, sum);
    float s = 0x1.52a7fap+1f / (mean + 1e-5f); /* sqrt(7) */
    for (int64_t i = 0; i < n; i++) {
        float v = rintf(x[i] * s);
        v = v > 7.0f ? 7.0f : v < -8.0f ? -8.0f : v;
        q[i] = (int8_t)v;
        total += q[i];
    }
    *sum = total;
    return s;
}

float bl_quant_row_sign(const float *x, int64_t n, int8_t *q, int32_t *sum) {
    float mean = mean_magnitude(x, n);
    int32_t total = 0;
    if (!isfinite(mean))
        return not_finite(n, q, sum);
    for (int64_t i = 0; i < n; i++) {
        q[i] = x[i] > 0.0f ? 1 : -1;
        total += q[i];
    }
    *sum = total;
    return 1.0f / (mean > 1e-30f ? mean : 1e-30f);
}

/* The largest t such that at least `keep` (>= 1) of |x| have bits >= t, and in *at how many of those that equal t are
 * kept: the bits of non-negative floats order as the floats do, so this is four rounds of counting bytes. */
static uint32_t threshold_bits(const float *x, int64_t n, int64_t keep, int64_t *at) {
    uint32_t prefix = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        int64_t count[256] = {0};
        uint32_t above = shift == 24 ? 0 : ~0u << (shift + 8);
        for (int64_t i = 0; i < n; i++) {
            uint32_t bits = magnitude_bits(x[i]);
            if ((bits & above) == prefix)
                count[bits >> shift & 255]++;
        }
        uint32_t byte = 255;
        while (count[byte] < keep)
            keep -= count[byte--];
        prefix |= byte << shift;
    }
    *at = keep;
    return prefix;
}

void bl_keep_larger_half(const float *x, int64_t n, int8_t *q, int32_t *sum) {
    int64_t at = 0;
    uint32_t t = threshold_bits(x, n, (n + 1) / 2, &at);
    int32_t total = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits = magnitude_bits(x[i]);
        if (bits < t || (bits == t && at-- <= 0))
            q[i] = 0;
        total += q[i];
    }
    *sum = total;
}

void bl_pack_signs(const int8_t *q, int64_t n, uint8_t *bits) {
    for (int64_t i = 0; i < n / 8; i++) {
        uint32_t byte = 0;
        for (int j = 0; j < 8; j++)
            byte |= (uint32_t)(q[i * 8 + j] > 0) << j;
        bits[i] = (uint8_t)byte;
    }
}

/* ---- binary weights against signs ---------------------------------------------------------------------------- */

void bl_binary_rows_ref(const uint8_t *w, int64_t k, int64_t r0, int64_t r1, const uint8_t *bits, int64_t ldb,
                        const float *xd, int64_t n_tok, float *y, int64_t ldy) {
    int64_t row_bytes = bl_row_bytes(BL_TYPE_Q1_0, k);
    for (int64_t r = r0; r < r1; r++)
        for (int64_t t = 0; t < n_tok; t++) {
            const uint8_t *block = w + r * row_bytes, *x = bits + t * ldb;
            float acc = 0.0f;
            for (int64_t g = 0; g < k / 128; g++, block += 18, x += 16) {
                int differ = 0;
                for (int i = 0; i < 16; i++)
                    differ += __builtin_popcount((unsigned)(block[2 + i] ^ x[i]));
                acc = fmaf((float)(128 - 2 * differ), bl_f16_to_f32(bl_read_u16(block)) * xd[t], acc);
            }
            y[t * ldy + r] = acc;
        }
}
