/* fit_lanes.h - the searches of fit_groups.c with a group in each lane, step for step, for any vectors.
 *
 * The including file (fit_*.c of an instruction set) defines LANES, the types V (floats) and M (a comparison), and:
 *   all add sub mul quotient    all(x): x in every lane
 *   at_least(a, b) at_most(a, b)  a > b ? a : b and a < b ? a : b, so b where one is no number
 *   above pick                  M of a > b; a where M, else b
 *   whole magnitude signed_half whole: toward zero; signed_half: 0.5 with the sign of its argument
 *   columns(x, stride, n, t)    t[j] = x[j], x[stride + j], ... for j < n, a multiple of 8
 *   store_rows(p, v), store_bytes(q, v): floats; whole numbers as int8
 *   NAME(f)                     the function's name there
 * Products and sums must not fuse. */
#include "kernels/kernels.h"

/* bl_level, from 0 and in general. */
INLINE V level_from_zero(V y, V hi) { return whole(add(at_most(at_least(y, all(0.0f)), hi), all(0.5f))); }

INLINE V level(V y, V lo, V hi) {
    y = at_most(at_least(y, lo), hi);
    return whole(add(y, signed_half(y)));
}

static void fit_q4_k(const float *x, float *steps, float *minima) {
    V t[32], above_lo[32], q[32];
    const V top = all(15.0f), zero = all(0.0f);
    columns(x, 32, 32, t);
    V lo = zero, hi = t[0], sx = zero;
    for (int j = 0; j < 32; j++) {
        lo = at_most(lo, t[j]);
        hi = at_least(hi, t[j]);
        sx = add(sx, t[j]);
    }
    V span = sub(hi, lo), step = quotient(span, top), minimum = sub(all(-0.0f), lo), best = zero;
    M live = above(hi, lo);
    step = pick(live, step, zero);
    for (int j = 0; j < 32; j++) {
        above_lo[j] = sub(t[j], lo);
        q[j] = level_from_zero(mul(above_lo[j], quotient(top, span)), top);
    }
    for (int j = 0; j < 32; j++) {
        V e = sub(sub(mul(step, q[j]), minimum), t[j]);
        best = add(best, mul(e, e));
    }
    for (int trial = 0; trial < 6; trial++) {
        V inv = quotient(all(15 + 0.25f * (float)(trial - 3)), span), sq = zero, sqq = zero, sqx = zero, error = zero;
        for (int j = 0; j < 32; j++) {
            q[j] = level_from_zero(mul(above_lo[j], inv), top);
            sq = add(sq, q[j]);
            sqq = add(sqq, mul(q[j], q[j]));
            sqx = add(sqx, mul(q[j], t[j]));
        }
        V det = sub(mul(all(32.0f), sqq), mul(sq, sq));
        V s = quotient(sub(mul(all(32.0f), sqx), mul(sq, sx)), det);
        V m = quotient(sub(mul(sq, sqx), mul(sqq, sx)), det);
        M below = above(zero, m);
        m = pick(below, zero, m);
        s = pick(below, quotient(sqx, sqq), s);
        for (int j = 0; j < 32; j++) {
            V e = sub(sub(mul(s, q[j]), m), t[j]);
            error = add(error, mul(e, e));
        }
        M better = both(both(above(det, zero), above(s, zero)), both(above(best, error), live));
        best = pick(better, error, best);
        step = pick(better, s, step);
        minimum = pick(better, m, minimum);
    }
    store_rows(steps, step);
    store_rows(minima, minimum);
}

void NAME(bl_fit_q4_k)(const float *x, int64_t n, float *steps, float *minima) {
    int64_t g = 0;
    for (; g + LANES <= n; g += LANES)
        fit_q4_k(x + 32 * g, steps + g, minima + g);
    NEXT(bl_fit_q4_k)(x + 32 * g, n - g, steps + g, minima + g);
}

static void fit_q6_k(const float *x, float *steps) {
    V t[16];
    const V zero = all(0.0f), lo = all(-32.0f), hi = all(31.0f);
    columns(x, 16, 16, t);
    V most = zero, largest = zero, best = zero;
    for (int j = 0; j < 16; j++) {
        V a = magnitude(t[j]);
        M greater = above(a, largest);
        largest = pick(greater, a, largest);
        most = pick(greater, t[j], most);
    }
    M live = above(largest, zero);
    V step = pick(live, quotient(most, lo), zero);
    for (int trial = 0; trial < 7; trial++) {
        V inv = quotient(all(-(32 + 0.3f * (float)(trial - 3))), most), sxq = zero, sqq = zero;
        for (int j = 0; j < 16; j++) {
            V q = level(mul(t[j], inv), lo, hi);
            sxq = add(sxq, mul(t[j], q));
            sqq = add(sqq, mul(q, q));
        }
        V gain = quotient(mul(sxq, sxq), sqq);
        M better = both(both(above(sqq, zero), above(gain, best)), live);
        best = pick(better, gain, best);
        step = pick(better, quotient(sxq, sqq), step);
    }
    store_rows(steps, step);
}

void NAME(bl_fit_q6_k)(const float *x, int64_t n, float *steps) {
    int64_t g = 0;
    for (; g + LANES <= n; g += LANES)
        fit_q6_k(x + 16 * g, steps + g);
    NEXT(bl_fit_q6_k)(x + 16 * g, n - g, steps + g);
}

void NAME(bl_round_groups)(const float *x, int64_t n, int64_t group, const float *shift, const float *inv, int lo, int hi,
                           int8_t *q) {
    const V least = all((float)lo), most = all((float)hi);
    for (int64_t i = 0; i < n; i += group) {
        const V by = all(shift[i / group]), times = all(inv[i / group]);
        for (int64_t j = i; j < i + group; j += LANES)
            store_bytes(q + j, level(mul(add(load_row(x + j), by), times), least, most));
    }
}
