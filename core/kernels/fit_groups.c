/* fit_groups.c - how the writers of Q4_K and Q6_K search a group's step: plain C, the specification.
 *
 * A step is searched around the one that spans the group's values, each candidate refined by least squares, the one with
 * the least squared error kept.  Sums run in order in float32, so the bytes of a written file are the same everywhere;
 * the vector versions (fit_lanes.h) take a group in each lane.  Called through the kernel table by core/quant. */
#include "kernels/kernels.h"

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
            float q = (float)bl_level((x[j] - lo) * inv, 0, 15);
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
            float e = s * (float)bl_level((x[j] - lo) * inv, 0, 15) - m - x[j];
            error += e * e;
        }
        if (trial < 0 || error < best) {
            best = error;
            *step = s;
            *minimum = m;
        }
    }
}

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
            float q = (float)bl_level(x[j] * inv, -32, 31);
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

void bl_fit_q4_k_ref(const float *x, int64_t n, float *steps, float *minima) {
    for (int64_t g = 0; g < n; g++)
        fit_q4_k(x + 32 * g, &steps[g], &minima[g]);
}

void bl_fit_q6_k_ref(const float *x, int64_t n, float *steps) {
    for (int64_t g = 0; g < n; g++)
        steps[g] = fit_q6_k(x + 16 * g);
}

void bl_round_groups_ref(const float *x, int64_t n, int64_t group, const float *shift, const float *inv, int lo, int hi,
                         int8_t *q) {
    for (int64_t i = 0; i < n; i++)
        q[i] = (int8_t)bl_level((x[i] + shift[i / group]) * inv[i / group], lo, hi);
}
