/* kernels.h - the kernel table: everything that has a version for each
 * instruction set, and the exact arithmetic that all versions share.
 *
 * THE ARITHMETIC IS A CONTRACT.  The plain C file (kernels_ref.c) is the
 * specification; an ISA file must give the same bits for every finite input.
 * Names used below:
 *   fma(a,b,c)   one rounding (fmaf)
 *   sum16 order  16 lanes: element i goes to lane i % 16, in ascending i,
 *                lanes start at +0; then lane[j] += lane[j+8] (j<8), then +4
 *                (j<4), +2, +1; the result is lane[0]
 *   chain        one accumulator, starting at +0, ascending index
 *   rne          round to nearest, ties to even (rintf)
 * No libm but fmaf, sqrtf, rintf, fabsf; no reciprocal estimates; compiled
 * with -ffp-contract=off.
 *
 * Kernels do no checks: pointers are valid, counts positive, pairs disjoint
 * unless said.  Vectors may be unaligned; reads never pass the stated ends.
 * Called by core/model, core/run and core/search. */
#ifndef BL_KERNELS_H
#define BL_KERNELS_H

#include "base/base.h"
#include "base/tensor_type.h"

/* ---- which instructions ------------------------------------------------------ */
#define BL_CPU_REF 0u
#define BL_CPU_AVX2 1u      /* AVX2, FMA, F16C, POPCNT, BMI2 */
#define BL_CPU_AVXVNNI 2u
#define BL_CPU_AVX512 4u    /* F, BW, VL, DQ, VNNI, VBMI, VPOPCNTDQ */
#define BL_CPU_AMX 8u
#define BL_CPU_NEON 16u
#define BL_CPU_DOTPROD 32u  /* of NEON: products of four bytes */
#define BL_CPU_I8MM 64u     /* of NEON: 2x8 by 8x2 products of bytes */
#define BL_CPU_ALL 0xffffffffu

/* Detected once (CPUID, and XGETBV for the state that the OS saves; AT_HWCAP on ARM). */
uint32_t bl_cpu_detect(void);
/* The mask that environment variable BITLM_CPU names: ref | avx2 | avxvnni |
 * avx512 | amx | neon, each level including those below it (neon: DOTPROD and I8MM too); unset: ALL.
 * *ok = 0 when the value is none of these. */
uint32_t bl_cpu_env_mask(int *ok);

/* ---- a row of weights as integers --------------------------------------------- */
#define BL_MAX_GROUPS(k) ((k) / 16)

/* ---- the table ------------------------------------------------------------------ */
typedef struct bl_kernels {
    const char *name;  /* "ref", "avx2", … */
    uint32_t cpu;      /* the BL_CPU_* flags it needs */

    /* -- rows of activations ---------------------------------------------------- */

    /* y[i] = (x[i] * r) * w[i], r = 1.0f / sqrtf(fma(s, 1.0f/n, eps)) where s = Σ x[i]·x[i]
     * by fma in sum16 order, and 1.0f/n is a float division.  y may be x. */
    void (*rmsnorm)(const float *x, const float *w, int64_t n, float eps, float *y);

    /* BitNet's per-token absmax int8: m = max|x[i]| (as bit patterns, so NaN counts as
     * largest); s = 127.0f / max(m, 1e-5f); q[i] = (int8) clamp(rne(x[i]*s), -127, 127).
     * Returns s and writes *sum = Σ q[i].  If m is not finite: q = 0, *sum = 0, s = NaN. */
    float (*quant_row)(const float *x, int64_t n, int8_t *q, int32_t *sum);

    /* The same for each group of `group` values (16 … 256, divides n): m as above;
     * if m < 1e-30f: q = 0 and d[g] = 0, else s = 127.0f / m, q = clamp(rne(x*s), -127, 127),
     * d[g] = m / 127.0f.  sums[g] = Σ q of the group.  m not finite: q = 0, sums = 0, d = NaN. */
    void (*quant_groups)(const float *x, int64_t n, int64_t group, int8_t *q, float *d,
                         int32_t *sums);
    /* What that leaves: r[i] = fma(-d[g], (float)q[i], x[i]), g = i / group.  r may be x. */
    void (*residual)(const float *x, int64_t n, int64_t group, const int8_t *q, const float *d, float *r);

    /* a[i] = relu2(gate[i]) * up[i]: t = gate > 0 ? gate : 0; (t*t)*up.  out may be gate. */
    void (*relu2_mul)(const float *gate, const float *up, int64_t n, float *out);
    /* (gate / (1 + bl_expf(-gate))) * up.  out may be gate. */
    void (*silu_mul)(const float *gate, const float *up, int64_t n, float *out);
    /* x[i] += y[i] */
    void (*add)(float *x, const float *y, int64_t n);

    /* Rotary embedding of one head in place.  cs, sn: (n_rot/2) cosines and sines.
     * neox: pairs (i, i + n_rot/2), else (2i, 2i+1).  a' = fma(a, c, -(b*s)),
     * b' = fma(a, s, b*c).  Values from n_rot on are left alone. */
    void (*rope)(float *head, const float *cs, const float *sn, int64_t n_rot, int neox);

    /* p[i] = bl_expf(p[i] - max) for i < n; s = Σ in sum16 order; p[i] = p[i] * (1.0f/s).
     * p[n .. n_padded) = +0. */
    void (*softmax)(float *p, int64_t n, int64_t n_padded);
    /* *max = max l[i] (+0 if that is a zero); returns Σ bl_expf(l[i] - max) in sum16 order.  For log probabilities. */
    float (*exp_sum)(const float *l, int64_t n, float *max);

    /* -- KV cache and attention --------------------------------------------------
     * K of one head: tiles of 16 positions, element (position p, dim d) at
     * tile p/16, index d*16 + p%16.  V of one head: (position, dim) row-major, `v_stride`
     * elements apart.  f16 variants hold IEEE half, f32 variants float. */

    /* Stores are saturating: values beyond ±65504 become ±65504 (NaN stays). */
    void (*store_k_f16)(const float *k, int64_t dim, int64_t pos, uint16_t *head_tiles);
    void (*store_k_f32)(const float *k, int64_t dim, int64_t pos, float *head_tiles);
    void (*store_v_f16)(const float *v, int64_t dim, uint16_t *out);

    /* scores[j*ld + p] = chain over d of fma(q_j[d], k[p][d], acc), then * scale, for
     * j < n_q (1 .. 8) and p < n_tiles*16.  q_j = q + j*ldq.  (Positions past the end of
     * the sequence hold anything; the caller ignores them.) */
    void (*scores_f16)(const float *q, int64_t ldq, int n_q, const uint16_t *tiles, int64_t n_tiles,
                       int64_t dim, float scale, float *scores, int64_t ld);
    void (*scores_f32)(const float *q, int64_t ldq, int n_q, const float *tiles, int64_t n_tiles,
                       int64_t dim, float scale, float *scores, int64_t ld);
    /* out_j[d] = chain over p < n_pos of fma(prob[j*ld + p], v[p][d], acc), out_j = out + j*ldo,
     * j < n_q (1 .. 8). */
    void (*mix_f16)(const float *prob, int64_t ld, int n_q, const uint16_t *v, int64_t v_stride,
                    int64_t n_pos, int64_t dim, float *out, int64_t ldo);
    void (*mix_f32)(const float *prob, int64_t ld, int n_q, const float *v, int64_t v_stride,
                    int64_t n_pos, int64_t dim, float *out, int64_t ldo);

    /* -- the same over an int8 or int4 cache (bits: 8 or 4; dim a multiple of 8).  Layouts:
     * attention_int.c.  A position and head has its codes and a scale: kd, vd by position. */

    /* Queries in int8, q_j = q + j*ldq with scale qd[j].  scores[j*ld + p] = (float)Σ q_j·k[p] *
     * ((qd[j] * scale) * kd[p]), j < n_q (1 .. 8), p < n_tiles*16. */
    void (*scores_int)(int bits, const int8_t *q, int64_t ldq, const float *qd, int n_q, const uint8_t *tiles,
                       const float *kd, int64_t n_tiles, int64_t dim, float scale, float *scores, int64_t ld);
    /* Probabilities times V's scales, in chunks of BL_INT_CHUNK positions that share a scale:
     * t = p[i]*vd[i], m = the chunk's max |t|; m < 1e-30f: 0, scale 0; else pq = rne(t * (127/m)),
     * cd = m/127; m not finite: pq = 0, cd = NaN.  pq has room for n_pos rounded up to a chunk, zeros there. */
    void (*quant_probs)(const float *p, const float *vd, int64_t n_pos, uint8_t *pq, float *cd);
    /* out_j[d] = chain over chunks c of fma((float)Σ pq·v[.][d], cd[c], acc), from +0; pq_j = pq + j*ldp,
     * cd_j = cd + j*ldc, out_j = out + j*ldo, j < n_q (1 .. 8). */
    void (*mix_int)(int bits, const uint8_t *pq, int64_t ldp, const float *cd, int64_t ldc, int n_q,
                    const uint8_t *v, int64_t n_pos, int64_t dim, float *out, int64_t ldo);

    /* -- linear layers: y[t*ldy + r] for rows r0 <= r < r1 and tokens t < n_tok ----- */

    /* Per-tensor ternary.  w: row 0 of the tensor in TYPE (I2_S with k % 128 == 0, TQ2_0 or
     * TQ1_0 with k % 256 == 0); codes 0..3 mean -1, 0, 1, 2.  xq: int8 within ±127,
     * token t at xq + t*ldx; xsum[t] = Σ xq.  isum = Σ code*xq - xsum (exact int32);
     * y = (float)isum * factor[t].  scratch: at least bl_ternary_scratch(k) bytes, 64-aligned,
     * private to the thread. */
    void (*ternary_i8)(int32_t type, const uint8_t *w, int64_t k, int64_t r0, int64_t r1,
                       const int8_t *xq, int64_t ldx, const int32_t *xsum, const float *factor,
                       int64_t n_tok, float *y, int64_t ldy, void *scratch);

    /* Integer groups: rows unpacked by `unpack` (below) against int8 activations.
     * A token is the sum of n_terms (1 or 2) int8 rows: row t*n_terms + j of xq (ldx apart), with
     * its own xd and xsums, (n_tok, n_terms, k/group).  For each group g of `group` weights and in
     * it for each term: acc = fma((float)isum_g, wd[g]*xd[g], acc), and, if the type has minima,
     * acc = fma((float)xsums[g], wm[g]*xd[g], acc) right after it; one chain, starting at +0;
     * y = acc.  wm already has its sign: weight = code*wd + wm.  scratch: bl_group_scratch(k)
     * bytes. */
    void (*group_i8)(int32_t type, const uint8_t *w, int64_t k, int64_t r0, int64_t r1,
                     const int8_t *xq, int64_t ldx, const float *xd, const int32_t *xsums,
                     int64_t n_tok, int n_terms, float *y, int64_t ldy, void *scratch);

    /* Binary weights (Q1_0) against the signs of x (bl_quant_row_sign, bl_pack_signs; token t at bits + t*ldb bytes),
     * value xd[t] each: for each group of 128, acc = fma((float)(128 - 2*popcount(w ^ x)), wd[g]*xd[t], acc), one
     * chain from +0; y = acc.  The same bits as group_i8 over the signs as int8. */
    void (*binary_rows)(const uint8_t *w, int64_t k, int64_t r0, int64_t r1, const uint8_t *bits, int64_t ldb,
                        const float *xd, int64_t n_tok, float *y, int64_t ldy);

    /* F32, F16 or BF16 rows: y = Σ w·x by fma in sum16 order.  x: token t at x + t*ldx. */
    void (*float_rows)(int32_t type, const uint8_t *w, int64_t k, int64_t r0, int64_t r1,
                       const float *x, int64_t ldx, int64_t n_tok, float *y, int64_t ldy);

    /* -- codes --------------------------------------------------------------------- */
    uint64_t (*hamming)(const uint8_t *a, const uint8_t *b, int64_t n);

    /* The rows i of codes (n, bytes) whose distance to query is < below, ascending, and their
     * distances; n < 2^32; room for n of both.  Returns how many. */
    int64_t (*hamming_below)(const uint8_t *query, const uint8_t *codes, int64_t n, int64_t bytes,
                             uint32_t below, uint32_t *rows, uint32_t *distances);
    /* Σ a·b in sum16 order. */
    float (*dot_f32)(const float *a, const float *b, int64_t n);

    /* n numbers of type F32, F16 or BF16 as float32, exactly; a NaN becomes quiet from F16 and stays from the others. */
    void (*widen)(int32_t type, const uint8_t *in, int64_t n, float *out);

    /* -- writing block types (fit_groups.c) ------------------------------------------- */

    /* For n groups of 32 (Q4_K) the step and minimum, x about step*q - minimum with q in 0 .. 15; for n groups of 16 (Q6_K)
     * the step, q in -32 .. 31: of a few candidates the one with the least squared error. */
    void (*fit_q4_k)(const float *x, int64_t n, float *steps, float *minima);
    void (*fit_q6_k)(const float *x, int64_t n, float *steps);
    /* q[i] = bl_level((x[i] + shift[g]) * inv[g], lo, hi), g = i / group, group a multiple of 16 that divides n; -127 <= lo <= hi <= 127. */
    void (*round_groups)(const float *x, int64_t n, int64_t group, const float *shift, const float *inv, int lo, int hi,
                         int8_t *q);
} bl_kernels;

/* The best table for (detected flags & mask).  Never NULL: plain C at worst. */
const bl_kernels *bl_kernels_get(uint32_t mask);
/* The best for this CPU and variable BITLM_CPU, chosen once in a process: for what belongs to no model. */
const bl_kernels *bl_kernels_usual(void);
/* Table number i of those compiled in that this CPU can run, best last; NULL past the end.
 * For the checking program. */
const bl_kernels *bl_kernels_nth(int i);

extern const bl_kernels bl_kernels_ref;

/* What bl_ternary_scratch allows for: a panel with its sums, or a few tokens in another order, 5 bytes for 4. */
#define BL_TERNARY_SCRATCH_MIN (80 << 10)
#define BL_TERNARY_FEW 8
size_t bl_ternary_scratch(int64_t k);  /* bytes, for ternary_i8 on any ISA */
#define BL_GROUP_SCRATCH 32            /* bytes a weight of a row */
size_t bl_group_scratch(int64_t k);    /* for group_i8; also holds k floats */

/* ---- plain C pieces that ISA files share (kernels_ref.c) ------------------------- */

/* One row of a TERNARY-class type as codes 0..3 in order of k.  w: start of the row. */
void bl_unpack_codes(int32_t type, const uint8_t *row, int64_t k, uint8_t *codes);
/* One row of a TERNARY (block-scaled) or GROUP type as int8 with a scale per group, and a
 * minimum per group (0 where the type has none).  I2_S is not accepted. */
void bl_unpack_groups(int32_t type, const uint8_t *row, int64_t k, int8_t *q, float *d, float *m);
/* 1 if the type has minima (Q4_1, Q4_K). */
int bl_type_has_min(int32_t type);
/* Bytes from one row to the next (I2_S: k/4). */
int64_t bl_row_bytes(int32_t type, int64_t k);

/* ---- the integer KV cache, on every processor (attention_int.c) --------------------- */

#define BL_INT_CHUNK 64 /* positions whose probabilities share a scale */

/* Codes of a head within +-127 (bits 8) or +-7 (4); returns their scale: max|x| / 127 or / 7, 0 where
 * that is under 1e-30, NaN (and codes 0) for a value that is not finite. */
float bl_quant_head(const float *x, int64_t dim, int bits, int8_t *q);
void bl_store_k_int(const int8_t *q, int64_t dim, int bits, int64_t pos, uint8_t *head_tiles);
void bl_store_v_int(const int8_t *q, int64_t dim, int bits, int64_t pos, uint8_t *head);
/* The plain C of the table's functions of these names. */
void bl_scores_int_ref(int bits, const int8_t *q, int64_t ldq, const float *qd, int n_q, const uint8_t *tiles,
                       const float *kd, int64_t n_tiles, int64_t dim, float scale, float *scores, int64_t ld);
void bl_quant_probs_ref(const float *p, const float *vd, int64_t n_pos, uint8_t *pq, float *cd);
void bl_mix_int_ref(int bits, const uint8_t *pq, int64_t ldp, const float *cd, int64_t ldc, int n_q,
                    const uint8_t *v, int64_t n_pos, int64_t dim, float *out, int64_t ldo);

/* ---- the plain C of the table's searches (fit_groups.c) ----------------------------------- */
void bl_fit_q4_k_ref(const float *x, int64_t n, float *steps, float *minima);
void bl_fit_q6_k_ref(const float *x, int64_t n, float *steps);
void bl_round_groups_ref(const float *x, int64_t n, int64_t group, const float *shift, const float *inv, int lo, int hi,
                         int8_t *q);

/* ---- inputs in fewer bits than int8, on every processor (quant_modes.c) --------------------
 * Each returns s with x about q/s and writes *sum = Σ q; a row that is not finite: q = 0, *sum = 0, s = NaN. */

/* BitNet a4.8: m = mean|x| (sum16 order, times 1.0f/n); s = sqrt(7) / (m + 1e-5f), q = clamp(rne(x*s), -8, 7). */
float bl_quant_row_int4(const float *x, int64_t n, int8_t *q, int32_t *sum);
/* q = x > 0 ? 1 : -1, s = 1 / max(mean|x|, 1e-30f). */
float bl_quant_row_sign(const float *x, int64_t n, int8_t *q, int32_t *sum);
/* Of q = quant_row(x), keeps the (n+1)/2 elements of largest |x| (of equal ones the first) and zeroes the others. */
void bl_keep_larger_half(const float *x, int64_t n, int8_t *q, int32_t *sum);
/* Bit i % 8 of byte i / 8 is q[i] > 0; n is a multiple of 8. */
void bl_pack_signs(const int8_t *q, int64_t n, uint8_t *bits);
/* The plain C of the table's binary_rows. */
void bl_binary_rows_ref(const uint8_t *w, int64_t k, int64_t r0, int64_t r1, const uint8_t *bits, int64_t ldb,
                        const float *xd, int64_t n_tok, float *y, int64_t ldy);

/* The nearest whole number within lo .. hi, half away from zero; lo for what is no number. */
static inline int bl_level(float y, int lo, int hi) {
    if (!(y > (float)lo))
        return lo;
    if (!(y < (float)hi))
        return hi;
    return (int)(y < 0 ? y - 0.5f : y + 0.5f);
}

/* ---- own elementary functions: the same bits everywhere --------------------------- */

/* e^x, float: x < -87.0f gives +0, x > 88.0f is taken as 88.0f; n = rne(x*log2e),
 * r = fma(n, -ln2_hi, x), r = fma(n, -ln2_lo, r), degree-6 Horner by fma, times 2^n by adding
 * n to the exponent.  Within 2 ulp.  NaN gives NaN. */
float bl_expf(float x);
/* Double, for tables and probabilities; plain C, within 2 ulp in the ranges used here. */
double bl_exp(double x);            /* |x| <= 700 */
double bl_log(double x);            /* x > 0, finite */
void bl_sincos(double x, double *s, double *c);  /* |x| <= 1e7: position times frequency */

#endif
