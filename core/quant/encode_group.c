/* encode_group.c - float32 to the block types with a scale per group: Q4_0, Q4_1, Q4_K, Q6_K, and the codes of Q2_0.
 *
 * Q4_0 and Q4_1 follow llama.cpp's writers, so that the same weights give the same bytes.  For the K types there is no
 * one rule, only the layout: a group's step is searched around the one that spans its values, each candidate refined by
 * least squares, the one with the least squared error kept, and all values are rounded again under the scales as they
 * are stored.  Sums run in order in float32, so the bytes are the same everywhere.  Called by encode.c. */
#include "quant/encode_private.h"

#include <string.h>

/* The nearest whole number within lo .. hi, half away from zero; lo for what is no number. */
static int level(float y, int lo, int hi) {
    if (!(y > (float)lo))
        return lo;
    if (!(y < (float)hi))
        return hi;
    return (int)(y < 0 ? y - 0.5f : y + 0.5f);
}

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

/* The best step and minimum (>= 0) of 32 values. */
static void fit_q4_k(const float *x, float *step, float *minimum) {
    float lo = 0, hi = x[0], best = 0;
    for (int j = 0; j < 32; j++) {
        lo = BL_MIN(lo, x[j]);
        hi = BL_MAX(hi, x[j]);
    }
    *minimum = -lo;
    *step = hi > lo ? (hi - lo) / 15 : 0;
    if (!(hi > lo))
        return;
    for (int trial = -1; trial < 6; trial++) {
        float inv = (15 + 0.25f * (float)(trial < 0 ? 0 : trial - 3)) / (hi - lo), sq = 0, sqq = 0, sx = 0, sqx = 0;
        for (int j = 0; j < 32; j++) {
            float q = (float)level((x[j] - lo) * inv, 0, 15);
            sq += q;
            sqq += q * q;
            sx += x[j];
            sqx += q * x[j];
        }
        /* Trial -1 measures the plain span; the others fit step and minimum to their levels. */
        float det = 32 * sqq - sq * sq, s = *step, m = *minimum, error = 0;
        if (trial >= 0) {
            if (!(det > 0))
                continue;
            s = (32 * sqx - sq * sx) / det;
            m = (sq * sqx - sqq * sx) / det;
            if (m < 0) {
                m = 0;
                s = sqx / sqq;
            }
            if (!(s > 0))
                continue;
        }
        for (int j = 0; j < 32; j++) {
            float e = s * (float)level((x[j] - lo) * inv, 0, 15) - m - x[j];
            error += e * e;
        }
        if (trial < 0 || error < best) {
            best = error;
            *step = s;
            *minimum = m;
        }
    }
}

int bl_encode_q4_k(const float *x, uint8_t *b) {
    float steps[8], minima[8], most_step = 0, most_minimum = 0;
    int sc[8], mn[8];
    for (int g = 0; g < 8; g++) {
        fit_q4_k(x + 32 * g, &steps[g], &minima[g]);
        most_step = BL_MAX(most_step, steps[g]);
        most_minimum = BL_MAX(most_minimum, minima[g]);
    }
    int ok = bl_put_f16(b, most_step / 63) & bl_put_f16(b + 2, most_minimum / 63);
    float d = bl_f16_to_f32(bl_read_u16(b)), dmin = bl_f16_to_f32(bl_read_u16(b + 2));
    memset(b + 4, 0, 140);
    for (int g = 0; ok && g < 8; g++) {
        sc[g] = level(steps[g] * bl_inverse(d), 0, 63);
        mn[g] = level(minima[g] * bl_inverse(dmin), 0, 63);
        if (g < 4) {
            b[4 + g] |= (uint8_t)sc[g];
            b[8 + g] |= (uint8_t)mn[g];
        } else {
            b[8 + g] = (uint8_t)((sc[g] & 15) | (mn[g] & 15) << 4);
            b[g] |= (uint8_t)(sc[g] >> 4 << 6);
            b[4 + g] |= (uint8_t)(mn[g] >> 4 << 6);
        }
        float step = d * (float)sc[g], minimum = dmin * (float)mn[g], inv = bl_inverse(step);
        for (int j = 0; j < 32; j++)
            b[16 + g / 2 * 32 + j] |= (uint8_t)(level((x[32 * g + j] + minimum) * inv, 0, 15) << (g & 1 ? 4 : 0));
    }
    return ok;
}

/* ---- Q6_K: x = step * q, q in -32 .. 31, the step in 128ths of the block's largest -------------------------------- */

static float fit_q6_k(const float *x) {
    float most = 0, largest = 0, best = 0, step;
    for (int j = 0; j < 16; j++)
        if ((x[j] < 0 ? -x[j] : x[j]) > largest) {
            largest = x[j] < 0 ? -x[j] : x[j];
            most = x[j];
        }
    if (largest == 0)
        return 0;
    step = most / -32;
    for (int trial = 0; trial < 7; trial++) {
        float inv = -(32 + 0.3f * (float)(trial - 3)) / most, sxq = 0, sqq = 0;
        for (int j = 0; j < 16; j++) {
            float q = (float)level(x[j] * inv, -32, 31);
            sxq += x[j] * q;
            sqq += q * q;
        }
        /* The squared error under the fitted step is the sum of squares less sxq * sxq / sqq. */
        if (sqq > 0 && sxq * sxq / sqq > best) {
            best = sxq * sxq / sqq;
            step = sxq / sqq;
        }
    }
    return step;
}

int bl_encode_q6_k(const float *x, uint8_t *b) {
    float steps[16], most = 0, largest = 0;
    for (int g = 0; g < 16; g++) {
        steps[g] = fit_q6_k(x + 16 * g);
        if ((steps[g] < 0 ? -steps[g] : steps[g]) > largest) {
            largest = steps[g] < 0 ? -steps[g] : steps[g];
            most = steps[g];
        }
    }
    int ok = bl_put_f16(b + 208, most / -128);
    float d = bl_f16_to_f32(bl_read_u16(b + 208));
    memset(b, 0, 208);
    for (int g = 0; ok && g < 16; g++) {
        int scale = level(steps[g] * bl_inverse(d), -128, 127), half = g / 8, quarter = g % 8 / 2;
        b[192 + g] = (uint8_t)(int8_t)scale;
        float inv = bl_inverse(d * (float)scale);
        for (int j = 0; j < 16; j++) {
            int q = level(x[16 * g + j] * inv, -32, 31) + 32, l = 16 * (g & 1) + j;
            b[64 * half + l + 32 * (quarter & 1)] |= (uint8_t)((q & 15) << (quarter < 2 ? 0 : 4));
            b[128 + 32 * half + l] |= (uint8_t)(q >> 4 << (2 * quarter));
        }
    }
    return ok;
}

void bl_pack_q2_0(const int8_t *q, uint8_t *b) {
    for (int m = 0; m < 16; m++, q += 4)
        b[2 + m] = (uint8_t)((q[0] + 1) | (q[1] + 1) << 2 | (q[2] + 1) << 4 | (q[3] + 1) << 6);
}
