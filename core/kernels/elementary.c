/* elementary.c - e^x, log, sine and cosine that give the same bits on every
 * machine: libm's differ between versions and between CPUs of one version.
 *
 * Each is range reduction and a polynomial.  The float exponential uses explicit
 * fmaf, because vector versions in the ISA files repeat it step by step; the
 * double ones use only + - * /, so no compiler flag or CPU changes them (the
 * build sets -ffp-contract=off).  Their coefficients are Taylor's: the reduced
 * arguments are small enough that a few more terms cost less than a fit.
 *
 * Called by the kernels (softmax, SiLU), the RoPE tables and the sampler. */
#include <math.h>
#include <string.h>

#include "kernels/kernels.h"

static float float_from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static double double_from_bits(uint64_t bits) {
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint64_t double_bits(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

float bl_expf(float x) {
    if (x != x) {
        return x;
    }
    if (x < -87.0f) {
        return 0.0f;
    }
    if (x > 88.0f) {
        x = 88.0f;
    }
    float n = rintf(x * 0x1.715476p+0f);
    float r = fmaf(n, -0x1.63p-1f, x);
    r = fmaf(n, 0x1.bd0106p-13f, r);
    /* 1 + r + r²·q(r); q fitted on |r| <= ln2/2 so that the largest relative
     * error of the whole is smallest (2^-28). */
    float p = 0x1.6a23dp-10f;
    p = fmaf(p, r, 0x1.123a2p-7f);
    p = fmaf(p, r, 0x1.5558f2p-5f);
    p = fmaf(p, r, 0x1.555492p-3f);
    p = fmaf(p, r, 0x1.fffffcp-2f);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 1.0f);
    /* p is in [0.7, 1.42] and n in [-126, 127], where n = -126 only with p > 1:
     * the result is a normal number. */
    uint32_t bits;
    memcpy(&bits, &p, sizeof bits);
    bits += (uint32_t)(int32_t)n << 23;
    return float_from_bits(bits);
}

double bl_exp(double x) {
    /* 1/k!, highest first, down to 1/2! */
    static const double coefficient[] = {
        1.0 / 6227020800.0, 1.0 / 479001600.0, 1.0 / 39916800.0, 1.0 / 3628800.0,
        1.0 / 362880.0,     1.0 / 40320.0,     1.0 / 5040.0,     1.0 / 720.0,
        1.0 / 120.0,        1.0 / 24.0,        1.0 / 6.0,        0.5,
    };
    if (x != x) {
        return x;
    }
    if (x > 700.0) {
        x = 700.0;
    }
    if (x < -700.0) {
        x = -700.0;
    }
    double n = rint(x * 0x1.71547652b82fep+0);
    /* ln2 in two parts; the first has 40 bits, so n times it is exact. */
    double hi = x - n * 0x1.62e42fefa2p-1;
    double lo = n * 0x1.9ef35793c7673p-41;
    double r = hi - lo;
    double q = coefficient[0];
    for (size_t i = 1; i < BL_COUNT(coefficient); i++) {
        q = q * r + coefficient[i];
    }
    double tail = (hi - r) - lo;
    double p = 1.0 + (r + (r * r * q + tail));
    return p * double_from_bits((uint64_t)(1023 + (int64_t)n) << 52);
}

double bl_log(double x) {
    if (x != x || x < 0.0) {
        return double_from_bits(0x7ff8000000000000u);
    }
    if (x == 0.0) {
        return double_from_bits(0xfff0000000000000u);
    }
    int64_t k = 0;
    if (x < 0x1p-1022) {
        x *= 0x1p54;
        k = -54;
    }
    uint64_t bits = double_bits(x);
    if (bits >> 52 == 0x7ff) {
        return x;
    }
    k += (int64_t)(bits >> 52) - 1023;
    double m = double_from_bits((bits & 0xfffffffffffffu) | 0x3ff0000000000000u);
    if (m > 1.4142135623730951) {
        m *= 0.5;
        k++;
    }
    /* log(1+f) = f - (f²/2 - s(f²/2 + R)), s = f/(2+f), R = 2s²/3 + 2s⁴/5 + …: f itself is
     * exact and the rest small. */
    double f = m - 1.0;
    double s = f / (2.0 + f);
    double z = s * s;
    double series = 2.0 / 23.0;
    for (int i = 21; i >= 3; i -= 2) {
        series = series * z + 2.0 / i;
    }
    double half = 0.5 * f * f;
    double n = (double)k;
    return n * 0x1.62e42fefa2p-1 - ((half - (s * (half + series * z) + n * 0x1.9ef35793c7673p-41)) - f);
}

/* a + b = sum + error, exactly. */
static double two_sum(double a, double b, double *error) {
    double sum = a + b;
    double part = sum - a;
    *error = (a - (sum - part)) + (b - part);
    return sum;
}

void bl_sincos(double x, double *s, double *c) {
    static const double sine[] = {
        1.0 / 355687428096000.0, -1.0 / 1307674368000.0, 1.0 / 6227020800.0, -1.0 / 39916800.0,
        1.0 / 362880.0,          -1.0 / 5040.0,          1.0 / 120.0,        -1.0 / 6.0,
    };
    static const double cosine[] = {
        1.0 / 20922789888000.0, -1.0 / 87178291200.0, 1.0 / 479001600.0, -1.0 / 3628800.0,
        1.0 / 40320.0,          -1.0 / 720.0,         1.0 / 24.0,
    };
    if (!(fabs(x) <= 1e7)) {
        *s = *c = double_from_bits(0x7ff8000000000000u);
        return;
    }
    /* π/2 in three parts of 30 bits and a rest: n has at most 23 bits, so n times a
     * part is exact; y + t is x - n·π/2 to about 2^-110. */
    double n = rint(x * 0x1.45f306dc9c883p-1);
    double e1, e2;
    double r = x - n * 0x1.921fb54p+0;
    r = two_sum(r, -(n * 0x1.10b46118p-30), &e1);
    r = two_sum(r, -(n * 0x1.313198ap-61), &e2);
    double rest = e1 + e2 - n * 0x1.701b83ap-92;
    double y = r + rest;
    double t = (r - y) + rest;

    double z = y * y;
    double p = sine[0];
    for (size_t i = 1; i < BL_COUNT(sine); i++) {
        p = p * z + sine[i];
    }
    double sin_y = y + (y * z * p + t * (1.0 - 0.5 * z));
    double q = cosine[0];
    for (size_t i = 1; i < BL_COUNT(cosine); i++) {
        q = q * z + cosine[i];
    }
    double half = 0.5 * z;
    double w = 1.0 - half;
    double cos_y = w + (((1.0 - w) - half) + (z * z * q - y * t));

    switch ((int64_t)n & 3) {
    case 0:
        *s = sin_y;
        *c = cos_y;
        break;
    case 1:
        *s = cos_y;
        *c = -sin_y;
        break;
    case 2:
        *s = -sin_y;
        *c = -cos_y;
        break;
    default:
        *s = -cos_y;
        *c = sin_y;
        break;
    }
}
