/* fit_neon.c - the searches of fit_lanes.h over four groups with NEON.  Called through the tables of kernels_neon.c. */
#include "kernels/kernels_neon.h"

#define LANES 4
typedef float32x4_t V;
typedef uint32x4_t M;

INLINE V all(float x) { return vdupq_n_f32(x); }
INLINE V add(V a, V b) { return vaddq_f32(a, b); }
INLINE V sub(V a, V b) { return vsubq_f32(a, b); }
INLINE V mul(V a, V b) { return vmulq_f32(a, b); }
INLINE V quotient(V a, V b) { return vdivq_f32(a, b); }
INLINE M above(V a, V b) { return vcgtq_f32(a, b); }
INLINE M both(M a, M b) { return vandq_u32(a, b); }
INLINE V pick(M m, V a, V b) { return vbslq_f32(m, a, b); }
INLINE V at_least(V a, V b) { return pick(above(a, b), a, b); } /* FMAX would hand on what is no number */
INLINE V at_most(V a, V b) { return pick(above(b, a), a, b); }
INLINE V whole(V a) { return vrndq_f32(a); }
INLINE V magnitude(V a) { return vabsq_f32(a); }
INLINE V signed_half(V a) { return vbslq_f32(vdupq_n_u32(0x80000000u), a, vdupq_n_f32(0.5f)); }
INLINE V load_row(const float *p) { return vld1q_f32(p); }
INLINE void store_rows(float *p, V v) { vst1q_f32(p, v); }

INLINE void store_bytes(int8_t *q, V v) {
    int16x4_t h = vmovn_s32(vcvtq_s32_f32(v));
    int32_t four = vget_lane_s32(vreinterpret_s32_s8(vmovn_s16(vcombine_s16(h, h))), 0);
    memcpy(q, &four, sizeof four);
}

INLINE float32x4_t low_halves(V a, V b) { return vcombine_f32(vget_low_f32(a), vget_low_f32(b)); }
INLINE float32x4_t high_halves(V a, V b) { return vcombine_f32(vget_high_f32(a), vget_high_f32(b)); }

INLINE void columns(const float *x, int64_t stride, int n, V *t) {
    for (int j = 0; j < n; j += 4) {
        V a = vld1q_f32(x + j), b = vld1q_f32(x + stride + j);
        V c = vld1q_f32(x + 2 * stride + j), d = vld1q_f32(x + 3 * stride + j);
        V even_ab = vtrn1q_f32(a, b), odd_ab = vtrn2q_f32(a, b), even_cd = vtrn1q_f32(c, d), odd_cd = vtrn2q_f32(c, d);
        t[j] = low_halves(even_ab, even_cd);
        t[j + 1] = low_halves(odd_ab, odd_cd);
        t[j + 2] = high_halves(even_ab, even_cd);
        t[j + 3] = high_halves(odd_ab, odd_cd);
    }
}

#define NAME(f) f##_neon
#define NEXT(f) f##_ref
#include "kernels/fit_lanes.h"
