/* encode_group.c - float32 to the block types with a scale per group: Q4_0, Q4_1, Q4_K, Q6_K, and the codes of Q2_0.
 *
 * Q4_0 and Q4_1 follow llama.cpp's writers, so that the same weights give the same bytes.  For the K types there is no
 * one rule, only the layout: a group's step is searched for (kernels/fit_groups.c), and all values are rounded again
 * under the scales as they are stored.  Called by encode.c. */
#include "kernels/kernels.h"
#include "quant/encode_private.h"

#include <string.h>

/* trunc(y) within 0 .. 15, for y >= 0. */
static int nibble(float y) { return !(y > 0) ? 0 : y >= 15 ? 15 : (int)y; }

int bl_encode_q4_0(const float *x, uint8_t *b) {
    float most = 0, largest = 0;
    for (int j = 0; j < 32; j++)
        if ((x[j] < 0 ? -x[j] : x[j]) > largest) {
            largest = x[j] < 0 ? -x[j] : x[j];
            most = x[j];
        }
    float d = most / -8, inv = bl_inverse(d);
    for (int j = 0; j < 16; j++)
        b[2 + j] = (uint8_t)(nibble(x[j] * inv + 8.5f) | nibble(x[j + 16] * inv + 8.5f) << 4);
    return bl_put_f16(b, d);
}

int bl_encode_q4_1(const float *x, uint8_t *b) {
    float lo = x[0], hi = x[0];
    for (int j = 1; j < 32; j++) {
        lo = BL_MIN(lo, x[j]);
        hi = BL_MAX(hi, x[j]);
    }
    float d = (hi - lo) / 15, inv = bl_inverse(d);
    for (int j = 0; j < 16; j++)
        b[4 + j] = (uint8_t)(nibble((x[j] - lo) * inv + 0.5f) | nibble((x[j + 16] - lo) * inv + 0.5f) << 4);
    return bl_put_f16(b, d) & bl_put_f16(b + 2, lo);
}

/* ---- Q4_K: x = step * q - minimum, q in 0 .. 15, both in 63rds of the block's largest --------------------------- */

#define BATCH 4 /* blocks whose groups are searched together: 32 of Q4_K, 64 of Q6_K */

static int put_q4_k(const bl_kernels *kernels, const float *x, const float *steps, const float *minima, uint8_t *b) {
    float most_step = 0, most_minimum = 0, shift[8], inv[8];
    int8_t q[256];
    for (int g = 0; g < 8; g++) {
        most_step = BL_MAX(most_step, steps[g]);
        most_minimum = BL_MAX(most_minimum, minima[g]);
    }
    if (!(bl_put_f16(b, most_step / 63) & bl_put_f16(b + 2, most_minimum / 63)))
        return 0;
    float d = bl_f16_to_f32(bl_read_u16(b)), dmin = bl_f16_to_f32(bl_read_u16(b + 2));
    memset(b + 4, 0, 12);
    for (int g = 0; g < 8; g++) {
        int sc = bl_level(steps[g] * bl_inverse(d), 0, 63), mn = bl_level(minima[g] * bl_inverse(dmin), 0, 63);
        if (g < 4) {
            b[4 + g] |= (uint8_t)sc;
            b[8 + g] |= (uint8_t)mn;
        } else {
            b[8 + g] = (uint8_t)((sc & 15) | (mn & 15) << 4);
            b[g] |= (uint8_t)(sc >> 4 << 6);
            b[4 + g] |= (uint8_t)(mn >> 4 << 6);
        }
        shift[g] = dmin * (float)mn;
        inv[g] = bl_inverse(d * (float)sc);
    }
    kernels->round_groups(x, 256, 32, shift, inv, 0, 15, q);
    for (int pair = 0; pair < 4; pair++)
        for (int j = 0; j < 32; j++)
            b[16 + 32 * pair + j] = (uint8_t)(q[64 * pair + j] | q[64 * pair + 32 + j] << 4);
    return 1;
}

uint64_t bl_encode_q4_k(const float *x, uint64_t n, uint8_t *out) {
    const bl_kernels *kernels = bl_kernels_usual();
    float steps[8 * BATCH], minima[8 * BATCH];
    for (uint64_t i = 0; i < n; i++) {
        uint64_t at = i % BATCH;
        if (at == 0)
            kernels->fit_q4_k(x + 256 * i, (int64_t)BL_MIN((uint64_t)BATCH, n - i) * 8, steps, minima);
        if (!put_q4_k(kernels, x + 256 * i, steps + 8 * at, minima + 8 * at, out + 144 * i))
            return i;
    }
    return n;
}

/* ---- Q6_K: x = step * q, q in -32 .. 31, the step in 128ths of the block's largest -------------------------------- */

static int put_q6_k(const bl_kernels *kernels, const float *x, const float *steps, uint8_t *b) {
    static const float none[16] = {0};
    float most = 0, largest = 0, inv[16];
    int8_t q[256];
    for (int g = 0; g < 16; g++)
        if ((steps[g] < 0 ? -steps[g] : steps[g]) > largest) {
            largest = steps[g] < 0 ? -steps[g] : steps[g];
            most = steps[g];
        }
    if (!bl_put_f16(b + 208, most / -128))
        return 0;
    float d = bl_f16_to_f32(bl_read_u16(b + 208));
    for (int g = 0; g < 16; g++) {
        int scale = bl_level(steps[g] * bl_inverse(d), -128, 127);
        b[192 + g] = (uint8_t)(int8_t)scale;
        inv[g] = bl_inverse(d * (float)scale);
    }
    kernels->round_groups(x, 256, 16, none, inv, -32, 31, q);
    for (int i = 0; i < 256; i++)
        q[i] = (int8_t)(q[i] + 32);
    for (int half = 0; half < 2; half++)
        for (int l = 0; l < 32; l++) { /* of each quarter of the half */
            const int8_t *v = q + 128 * half + l;
            b[64 * half + l] = (uint8_t)((v[0] & 15) | (v[64] & 15) << 4);
            b[64 * half + 32 + l] = (uint8_t)((v[32] & 15) | (v[96] & 15) << 4);
            b[128 + 32 * half + l] = (uint8_t)(v[0] >> 4 | v[32] >> 4 << 2 | v[64] >> 4 << 4 | v[96] >> 4 << 6);
        }
    return 1;
}

uint64_t bl_encode_q6_k(const float *x, uint64_t n, uint8_t *out) {
    const bl_kernels *kernels = bl_kernels_usual();
    float steps[16 * BATCH];
    for (uint64_t i = 0; i < n; i++) {
        uint64_t at = i % BATCH;
        if (at == 0)
            kernels->fit_q6_k(x + 256 * i, (int64_t)BL_MIN((uint64_t)BATCH, n - i) * 16, steps);
        if (!put_q6_k(kernels, x + 256 * i, steps + 16 * at, out + 210 * i))
            return i;
    }
    return n;
}

void bl_pack_q2_0(const int8_t *q, uint8_t *b) {
    for (int m = 0; m < 16; m++, q += 4)
        b[2 + m] = (uint8_t)((q[0] + 1) | (q[1] + 1) << 2 | (q[2] + 1) << 4 | (q[3] + 1) << 6);
}
