/* checkkernels.c - checks every kernel table that this CPU runs against plain C, bit for
 * bit; hashes their results; measures them.
 *
 *   checkkernels            compare, and check the hashes of golden_hashes.txt (beside the
 *                           program's sources, or named by --golden FILE)
 *   checkkernels --hash     print one hash a kernel, of plain C, as golden_hashes.txt holds them
 *   checkkernels --bench    rates, ratio to plain C and to the limits of the machine
 *   checkkernels --only X   one kernel
 *
 * A case makes its inputs from (kernel, number) alone, in buffers that end at an unmapped
 * page, and writes its outputs to others; a region around each output must stay untouched.
 * Cases run once by plain C and once by each other table, and the outputs must be equal (a
 * NaN equals any NaN).  A hash covers the outputs of the first cases. */
#define _GNU_SOURCE
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/rng.h"
#include "kernels/kernels.h"
#include "quant/quant.h"
#include "checkkernels_bench.h"

#if defined(AMX_SOFTWARE)
const bl_kernels *bl_kernels_amx_software(void);
#endif

#if defined(__x86_64__)
extern const bl_kernels bl_kernels_avxvnni_evex;
#endif

/* The tables that this CPU runs, plain C first; where it has AVX-512 alone, AVX-VNNI's in that form. */
const bl_kernels *table_nth(int n) {
    const bl_kernels *table = bl_kernels_nth(n);
#if defined(__x86_64__)
    uint32_t cpu = bl_cpu_detect();
    if (table == NULL && n > 0 && bl_kernels_nth(n - 1) != NULL && cpu & BL_CPU_AVX512 && !(cpu & BL_CPU_AVXVNNI)) {
        table = &bl_kernels_avxvnni_evex;
    }
#endif
    return table;
}

/* ---- random inputs ------------------------------------------------------------------ */

static uint64_t seed_now, counter_now;

static uint64_t random_u64(void) { return bl_rng_u64(seed_now, 0x6b65726e, counter_now++); }
static int64_t random_below(int64_t n) { return (int64_t)(random_u64() % (uint64_t)n); }
static float unit(void) { return (float)((int32_t)(random_u64() >> 40) - (1 << 23)) * 0x1p-23f; }

/* Floats of one temper: 0 ordinary, 1 of every finite magnitude, 2 denormal and tiny, 3 huge,
 * 4 zeros of both signs among ordinary ones, 5 halves and wholes (ties of rounding), 6 all equal. */
static void fill_floats(float *x, int64_t n, int temper) {
    float same = unit() * 3.0f;
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits = (uint32_t)random_u64();
        float v = unit() * 4.0f;
        switch (temper) {
        case 1:
            bits = (bits >> 23 & 255) == 255 ? bits & 0xff7fffffu : bits;
            memcpy(&v, &bits, sizeof v);
            break;
        case 2:
            bits &= 0x80ffffffu;
            memcpy(&v, &bits, sizeof v);
            break;
        case 3:
            v *= 0.8e38f;
            break;
        case 4:
            v = bits % 3 == 0 ? 0.0f : bits % 3 == 1 ? -0.0f : v;
            break;
        case 5:
            v = (float)(int32_t)(bits % 511) * 0.5f - 127.0f;
            break;
        case 6:
            v = same;
            break;
        default:
            break;
        }
        x[i] = v;
    }
}

static void fill_int8(int8_t *x, int64_t n, int temper) {
    for (int64_t i = 0; i < n; i++) {
        uint64_t r = random_u64();
        switch (temper) {
        case 1:
            x[i] = 127;
            break;
        case 2:
            x[i] = -127;
            break;
        case 3:
            x[i] = r & 1 ? 127 : -127;
            break;
        default:
            x[i] = (int8_t)((int)(r % 255) - 127);
            break;
        }
    }
}

static void fill_bytes(uint8_t *p, int64_t n, int temper) {
    for (int64_t i = 0; i < n; i++) {
        p[i] = temper == 1 ? 0xff : temper == 2 ? 0 : temper == 3 ? 0x80 : (uint8_t)random_u64();
    }
}

/* Halves that are finite. */
static void fill_halves(uint16_t *p, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        uint16_t h = (uint16_t)random_u64();
        p[i] = (h & 0x7c00) == 0x7c00 ? h & 0xbfff : h;
    }
}

static void store_half(uint8_t *at, float x) {
    uint16_t h = bl_f32_to_f16(x);
    memcpy(at, &h, sizeof h);
}

/* ---- guarded buffers ------------------------------------------------------------------ */

#define SLOTS 12
#define SLOT_BYTES ((size_t)8 << 20)
#define MARGIN 64

typedef struct slot {
    uint8_t *end;     /* the unmapped page begins here */
    uint8_t *output;  /* NULL if it is an input */
    size_t size;
} slot;

static slot slots[SLOTS];
static int n_slots;

static void map_slots(void) {
    for (int i = 0; i < SLOTS; i++) {
        uint8_t *p = mmap(NULL, SLOT_BYTES + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED || mprotect(p + SLOT_BYTES, 4096, PROT_NONE) != 0) {
            perror("checkkernels: mmap");
            exit(2);
        }
        slots[i].end = p + SLOT_BYTES;
    }
}

static void *take(size_t size, int output) {
    if (n_slots == SLOTS || size > SLOT_BYTES - MARGIN) {
        fprintf(stderr, "checkkernels: a case needs more than %d buffers of %zu bytes\n", SLOTS, SLOT_BYTES);
        exit(2);
    }
    slot *s = &slots[n_slots++];
    s->size = size;
    s->output = output ? s->end - size : NULL;
    if (output) {
        memset(s->end - size - MARGIN, 0xa5, size + MARGIN);
    }
    return s->end - size;
}

static void *input(size_t size) { return take(size, 0); }
static void *output(size_t size) { return take(size, 1); }
static float *floats(int64_t n, int temper) {
    float *x = input((size_t)n * sizeof *x);
    fill_floats(x, n, temper);
    return x;
}

/* ---- cases: one function a kernel --------------------------------------------------------- */

/* Sizes: every small one first, then mixed. */
static int64_t size_of_case(int number) {
    static const int64_t some[] = {127, 128, 129, 255, 257, 384, 640, 1023, 2560, 2561, 6912};
    return number < 72 ? number + 1 : some[random_below((int64_t)BL_COUNT(some))];
}

static int temper_of_case(int number) { return (int)(random_u64() % 7) * (number % 4 != 0); }

static void case_rmsnorm(const bl_kernels *k, int number) {
    int64_t n = size_of_case(number);
    float *x = floats(n, temper_of_case(number)), *w = floats(n, 0);
    float *y = output((size_t)n * sizeof *y);
    if (number % 3 == 0) {
        memcpy(y, x, (size_t)n * sizeof *x);
        x = y;
    }
    k->rmsnorm(x, w, n, 1e-5f, y);
}

static void case_quant_row(const bl_kernels *k, int number) {
    int64_t n = size_of_case(number);
    float *x = floats(n, temper_of_case(number));
    int8_t *q = output((size_t)n);
    float *s = output(sizeof *s);
    int32_t *sum = output(sizeof *sum);
    if (number % 16 == 7) { /* the contract covers these */
        x[random_below(n)] = number % 32 == 7 ? NAN : -INFINITY;
    }
    *s = k->quant_row(x, n, q, sum);
}

static void case_quant_groups(const bl_kernels *k, int number) {
    int64_t group = 16 << random_below(5), n = group * (1 + random_below(20));
    float *x = floats(n, temper_of_case(number));
    int8_t *q = output((size_t)n);
    float *d = output((size_t)(n / group) * sizeof *d);
    int32_t *sums = output((size_t)(n / group) * sizeof *sums);
    if (number % 8 == 5) {
        x[random_below(n)] = number % 16 == 5 ? NAN : INFINITY;
    }
    if (number % 8 == 6) {
        memset(x, 0, (size_t)group * sizeof *x);
    }
    k->quant_groups(x, n, group, q, d, sums);
}

static void case_residual(const bl_kernels *k, int number) {
    int64_t group = 16 << random_below(5), n = group * (1 + random_below(20));
    float *x = floats(n, temper_of_case(number)), *d = floats(n / group, 0);
    int8_t *q = input((size_t)n);
    fill_int8(q, n, 0);
    float *r = output((size_t)n * sizeof *r);
    k->residual(x, n, group, q, d, r);
}

static void two_inputs(void (*kernel)(const float *, const float *, int64_t, float *), int number) {
    int64_t n = size_of_case(number);
    float *gate = floats(n, temper_of_case(number)), *up = floats(n, 0);
    float *out = output((size_t)n * sizeof *out);
    if (number % 3 == 0) {
        memcpy(out, gate, (size_t)n * sizeof *out);
        gate = out;
    }
    if (number % 5 == 0) {
        for (int64_t i = 0; i < n; i++) {
            gate[i] *= 40.0f;
        }
    }
    kernel(gate, up, n, out);
}

static void case_relu2_mul(const bl_kernels *k, int number) { two_inputs(k->relu2_mul, number); }
static void case_silu_mul(const bl_kernels *k, int number) { two_inputs(k->silu_mul, number); }

static void case_add(const bl_kernels *k, int number) {
    int64_t n = size_of_case(number);
    float *y = floats(n, temper_of_case(number));
    float *x = output((size_t)n * sizeof *x);
    fill_floats(x, n, temper_of_case(number));
    k->add(x, y, n);
}

static void case_rope(const bl_kernels *k, int number) {
    int64_t half = number < 40 ? number + 1 : 1 + random_below(128), rest = random_below(5);
    float *cs = floats(half, 0), *sn = floats(half, 0);
    float *head = output((size_t)(2 * half + rest) * sizeof *head);
    fill_floats(head, 2 * half + rest, temper_of_case(number));
    k->rope(head, cs, sn, 2 * half, number & 1);
}

static void case_softmax(const bl_kernels *k, int number) {
    int64_t n = size_of_case(number), padded = (n + 15) / 16 * 16 + 16 * random_below(2);
    float *p = output((size_t)padded * sizeof *p);
    fill_floats(p, n, temper_of_case(number));
    for (int64_t i = 0; number % 5 == 0 && i < n; i++) {
        p[i] *= 25.0f;
    }
    k->softmax(p, n, padded);
}

static void case_exp_sum(const bl_kernels *k, int number) {
    int64_t n = size_of_case(number);
    float *l = floats(n, temper_of_case(number));
    float *out = output(2 * sizeof *out);
    for (int64_t i = 0; number % 6 == 5 && i < n; i++) { /* the largest is zero, of either sign */
        l[i] = i % 3 == number % 3 ? 0.0f : i % 3 == 1 ? -0.0f : -fabsf(l[i]);
    }
    out[0] = k->exp_sum(l, n, &out[1]);
}

static void case_store_k_f16(const bl_kernels *k, int number) {
    int64_t dim = number < 40 ? number + 1 : 64, pos = random_below(64);
    float *x = floats(dim, temper_of_case(number));
    uint16_t *tiles = output((size_t)(4 * 16 * dim) * sizeof *tiles);
    k->store_k_f16(x, dim, pos, tiles);
}

static void case_store_k_f32(const bl_kernels *k, int number) {
    int64_t dim = number < 40 ? number + 1 : 64, pos = random_below(64);
    float *x = floats(dim, temper_of_case(number));
    float *tiles = output((size_t)(4 * 16 * dim) * sizeof *tiles);
    k->store_k_f32(x, dim, pos, tiles);
}

static void case_store_v_f16(const bl_kernels *k, int number) {
    int64_t dim = number < 72 ? number + 1 : 128;
    float *x = floats(dim, number == 71 ? 5 : temper_of_case(number));
    uint16_t *out = output((size_t)dim * sizeof *out);
    if (number % 4 == 1) {
        float edge[] = {65504.0f, 65519.9f, 65520.0f, -65536.0f, 1e30f, 0x1p-25f, 0x1.8p-25f, 0x1.ffcp-15f};
        memcpy(x, edge, (size_t)BL_MIN(dim, 8) * sizeof *x);
    }
    k->store_v_f16(x, dim, out);
}

static void case_scores(const bl_kernels *k, int number, int f16) {
    int64_t dim = number % 3 == 0 ? 64 : 1 + random_below(100), n_tiles = 1 + random_below(9);
    int64_t ldq = dim + random_below(4), ld = n_tiles * 16 + random_below(4);
    int n_q = 1 + number % 8;
    float *q = floats((n_q - 1) * ldq + dim, number % 5 == 4 ? 4 : 0);
    float *scores = output((size_t)((n_q - 1) * ld + n_tiles * 16) * sizeof *scores);
    int64_t n = n_tiles * 16 * dim;
    if (f16) {
        uint16_t *tiles = input((size_t)n * sizeof *tiles);
        fill_halves(tiles, n);
        k->scores_f16(q, ldq, n_q, tiles, n_tiles, dim, 0.125f, scores, ld);
    } else {
        k->scores_f32(q, ldq, n_q, floats(n, temper_of_case(number)), n_tiles, dim, 0.125f, scores, ld);
    }
}

static void case_scores_f16(const bl_kernels *k, int number) { case_scores(k, number, 1); }
static void case_scores_f32(const bl_kernels *k, int number) { case_scores(k, number, 0); }

static void case_mix(const bl_kernels *k, int number, int f16) {
    int64_t dim = number < 40 ? number + 1 : 64 * (1 + random_below(2)), n_pos = 1 + random_below(200);
    int64_t stride = dim + random_below(4), ld = n_pos + random_below(4), ldo = dim + random_below(4);
    int n_q = 1 + number % 8;
    float *prob = floats((n_q - 1) * ld + n_pos, number % 5 == 4 ? 4 : 0);
    float *out = output((size_t)((n_q - 1) * ldo + dim) * sizeof *out);
    int64_t n = (n_pos - 1) * stride + dim;
    if (f16) {
        uint16_t *v = input((size_t)n * sizeof *v);
        fill_halves(v, n);
        k->mix_f16(prob, ld, n_q, v, stride, n_pos, dim, out, ldo);
    } else {
        k->mix_f32(prob, ld, n_q, floats(n, temper_of_case(number)), stride, n_pos, dim, out, ldo);
    }
}

static void case_mix_f16(const bl_kernels *k, int number) { case_mix(k, number, 1); }
static void case_mix_f32(const bl_kernels *k, int number) { case_mix(k, number, 0); }

/* Codes of an int8 or int4 cache: no -128 and no nibble 0, which nobody stores. */
static uint8_t *cache_codes(int bits, int64_t bytes, int extreme) {
    uint8_t *codes = input((size_t)bytes);
    fill_int8((int8_t *)codes, bytes, extreme);
    for (int64_t i = 0; bits == 4 && i < bytes; i++) {
        codes[i] = (uint8_t)((codes[i] & 15 ? codes[i] & 15 : 1) | (codes[i] >> 4 ? codes[i] >> 4 : 15) << 4);
    }
    return codes;
}

static void case_scores_int(const bl_kernels *k, int number) {
    int bits = number % 2 ? 4 : 8, n_q = 1 + number / 2 % 8;
    int64_t dim = 8 * (1 + random_below(number < 40 ? 9 : 17)), n_tiles = 1 + random_below(9);
    int64_t ldq = dim + random_below(4), ld = n_tiles * 16 + random_below(4);
    int8_t *q = input((size_t)((n_q - 1) * ldq + dim));
    fill_int8(q, (n_q - 1) * ldq + dim, number % 12 == 11);
    float *qd = floats(n_q, 0), *kd = floats(n_tiles * 16, number % 7 == 6 ? 4 : 0);
    uint8_t *tiles = cache_codes(bits, n_tiles * 16 * dim * bits / 8, number % 12 == 11);
    float *scores = output((size_t)((n_q - 1) * ld + n_tiles * 16) * sizeof *scores);
    k->scores_int(bits, q, ldq, qd, n_q, tiles, kd, n_tiles, dim, 0.125f, scores, ld);
}

static void case_quant_probs(const bl_kernels *k, int number) {
    int64_t n = 1 + random_below(300), padded = (n + BL_INT_CHUNK - 1) / BL_INT_CHUNK * BL_INT_CHUNK;
    float *p = floats(n, 0), *vd = floats(n, 0);
    for (int64_t i = 0; i < n; i++) {
        p[i] = number % 6 == 5 && i < 64 ? 0.0f : fabsf(p[i]);
        vd[i] = fabsf(vd[i]);
    }
    if (number % 10 == 9) {
        vd[random_below(n)] = number % 20 == 9 ? NAN : INFINITY;
    }
    uint8_t *pq = output((size_t)padded);
    float *cd = output((size_t)(padded / BL_INT_CHUNK) * sizeof *cd);
    k->quant_probs(p, vd, n, pq, cd);
}

static void case_mix_int(const bl_kernels *k, int number) {
    int bits = number % 2 ? 4 : 8, n_q = 1 + number / 2 % 8;
    int64_t dim = 8 * (1 + random_below(17)), n_pos = 1 + random_below(200);
    int64_t chunks = (n_pos + BL_INT_CHUNK - 1) / BL_INT_CHUNK, ldc = chunks + random_below(3);
    int64_t ldp = chunks * BL_INT_CHUNK + random_below(5), ldo = dim + random_below(4);
    uint8_t *pq = input((size_t)(n_q * ldp));
    fill_int8((int8_t *)pq, n_q * ldp, number % 12 == 11);
    for (int64_t i = 0; i < n_q * ldp; i++) {
        pq[i] = i % ldp < n_pos ? pq[i] & 127 : 0;
    }
    float *cd = floats(n_q * ldc, 0);
    uint8_t *v = cache_codes(bits, (n_pos + 3) / 4 * 4 * dim * bits / 8, number % 12 == 11);
    float *out = output((size_t)((n_q - 1) * ldo + dim) * sizeof *out);
    k->mix_int(bits, pq, ldp, cd, ldc, n_q, v, n_pos, dim, out, ldo);
}

/* Weights of any type: random codes, scales that are finite. */
static uint8_t *weights(int32_t type, int64_t k, int64_t n_rows, int temper) {
    int64_t bytes = bl_row_bytes(type, k) * n_rows;
    uint8_t *w = input((size_t)bytes);
    fill_bytes(w, bytes, temper);
    const bl_tensor_type *t = bl_tensor_type_find(type);
    for (int64_t i = 0; type != BL_TYPE_I2_S && i < bytes; i += t->block_bytes) {
        int at = type == BL_TYPE_TQ1_0 ? 52 : type == BL_TYPE_TQ2_0 ? 64 : type == BL_TYPE_PTQ1_0 ? 26
                 : type == BL_TYPE_Q6_K ? 208 : 0;
        store_half(w + i + at, unit());
        if (bl_type_has_min(type)) {
            store_half(w + i + 2, unit());
        }
    }
    return w;
}

/* Every twelfth case has the largest codes meet the largest activations: sums that just fit. */
static int is_extreme(int number) { return number % 12 == 11; }

static int64_t token_count(int number) {
    static const int64_t some[] = {1, 1, 2, 3, 4, 5, 7, 8, 9, 12, 17, 33};
    return some[number % (int)BL_COUNT(some)];
}

static void ternary_case(const bl_kernels *kernels, int number, int32_t type) {
    int64_t step = type == BL_TYPE_I2_S ? 128 : 256;
    int64_t k = step * (1 + (number % 9 == 8 ? 10 + random_below(45) : random_below(12)));
    int64_t rows = 1 + random_below(37), r0 = random_below(rows), r1 = r0 + 1 + random_below(rows - r0);
    int64_t n_tok = number == 50 ? 300 : token_count(number);
    if (n_tok == 300) {
        k = step * 2;
    }
    int64_t ldx = k + random_below(5), ldy = rows + random_below(3);
    uint8_t *w = weights(type, k, rows, is_extreme(number) ? 1 : number % 5 == 4 ? 1 + (int)random_below(2) : 0);
    int8_t *xq = input((size_t)((n_tok - 1) * ldx + k));
    fill_int8(xq, (n_tok - 1) * ldx + k,
              is_extreme(number) ? 1 + number / 12 % 2 : number % 3 == 2 ? 1 + (int)random_below(3) : 0);
    int32_t *xsum = input((size_t)n_tok * sizeof *xsum);
    for (int64_t t = 0; t < n_tok; t++) {
        xsum[t] = 0;
        for (int64_t i = 0; i < k; i++) {
            xsum[t] += xq[t * ldx + i];
        }
    }
    float *factor = floats(n_tok, 0);
    float *y = output((size_t)((n_tok - 1) * ldy + rows) * sizeof *y);
    uint8_t *scratch = input((bl_ternary_scratch(k) + 63) / 64 * 64);
    kernels->ternary_i8(type, w, k, r0, r1, xq, ldx, xsum, factor, n_tok, y, ldy, scratch);
}

static void case_ternary_i2_s(const bl_kernels *k, int number) { ternary_case(k, number, BL_TYPE_I2_S); }
static void case_ternary_tq2_0(const bl_kernels *k, int number) { ternary_case(k, number, BL_TYPE_TQ2_0); }
static void case_ternary_tq1_0(const bl_kernels *k, int number) { ternary_case(k, number, BL_TYPE_TQ1_0); }

static void group_case(const bl_kernels *kernels, int number, int32_t type) {
    const bl_tensor_type *t = bl_tensor_type_find(type);
    int64_t k = t->block * (1 + random_below(number % 9 == 8 ? 24 : 9));
    int64_t rows = number < 40 ? 1 + random_below(19) : 16 + random_below(50); /* those make whole panels */
    int64_t r0 = random_below(number < 40 ? rows : rows - 15), r1 = r0 + 1 + random_below(rows - r0);
    if (number >= 40 && r1 - r0 < 16) {
        r1 = r0 + 16;
    }
    int n_terms = 1 + number / 3 % 2;
    int64_t n_tok = number == 30 ? 130 : number == 60 || number == 63 ? 270 : token_count(number), n_rows = n_tok * n_terms, n_groups = k / t->group;
    int64_t ldx = k + random_below(5), ldy = rows + random_below(3);
    uint8_t *w = weights(type, k, rows, is_extreme(number) ? (number < 48 ? 1 : 2) : number % 4 == 3 ? 1 + (int)random_below(3) : 0);
    int8_t *xq = input((size_t)((n_rows - 1) * ldx + k));
    fill_int8(xq, (n_rows - 1) * ldx + k,
              is_extreme(number) ? 1 + number / 12 % 2 : number % 3 == 2 ? 1 + (int)random_below(3) : 0);
    float *xd = floats(n_rows * n_groups, 0);
    int32_t *xsums = input((size_t)(n_rows * n_groups) * sizeof *xsums);
    for (int64_t i = 0; i < n_rows * n_groups; i++) {
        const int8_t *x = xq + i / n_groups * ldx + i % n_groups * t->group;
        xsums[i] = 0;
        for (int64_t j = 0; j < t->group; j++) {
            xsums[i] += x[j];
        }
    }
    float *y = output((size_t)((n_tok - 1) * ldy + rows) * sizeof *y);
    uint8_t *scratch = input((bl_group_scratch(k) + 63) / 64 * 64);
    kernels->group_i8(type, w, k, r0, r1, xq, ldx, xd, xsums, n_tok, n_terms, y, ldy, scratch);
}

static void case_q4_0(const bl_kernels *k, int number) { group_case(k, number, BL_TYPE_Q4_0); }
static void case_q4_1(const bl_kernels *k, int number) { group_case(k, number, BL_TYPE_Q4_1); }
static void case_q8_0(const bl_kernels *k, int number) { group_case(k, number, BL_TYPE_Q8_0); }
static void case_q4_k(const bl_kernels *k, int number) { group_case(k, number, BL_TYPE_Q4_K); }
static void case_q6_k(const bl_kernels *k, int number) { group_case(k, number, BL_TYPE_Q6_K); }
static void case_tq1_0(const bl_kernels *k, int number) { group_case(k, number, BL_TYPE_TQ1_0); }
static void case_tq2_0(const bl_kernels *k, int number) { group_case(k, number, BL_TYPE_TQ2_0); }
static void case_q1_0(const bl_kernels *k, int number) { group_case(k, number, BL_TYPE_Q1_0); }
static void case_q2_0(const bl_kernels *k, int number) { group_case(k, number, BL_TYPE_Q2_0); }
static void case_q2_0_legacy(const bl_kernels *k, int number) { group_case(k, number, BL_TYPE_Q2_0_LEGACY); }
static void case_pq2_0(const bl_kernels *k, int number) { group_case(k, number, BL_TYPE_PQ2_0); }
static void case_ptq1_0(const bl_kernels *k, int number) { group_case(k, number, BL_TYPE_PTQ1_0); }

static void case_binary_rows(const bl_kernels *kernels, int number) {
    int64_t k = 128 * (1 + random_below(number % 5 == 4 ? 50 : 6)), n_tok = 1 + number % 19;
    int64_t rows = 1 + random_below(11), r0 = random_below(rows), r1 = r0 + 1 + random_below(rows - r0);
    int64_t ldb = k / 8 + random_below(9), ldy = rows + random_below(3), row_bytes = bl_row_bytes(BL_TYPE_Q1_0, k);
    uint8_t *w = input((size_t)(row_bytes * rows)), *bits = input((size_t)((n_tok - 1) * ldb + k / 8));
    float *xd = floats(n_tok, temper_of_case(number));
    fill_bytes(w, row_bytes * rows, number % 7 == 5);
    fill_bytes(bits, (n_tok - 1) * ldb + k / 8, number % 11 == 3);
    for (int64_t b = 0; b < rows * k / 128; b++) {
        store_half(w + b * 18, unit() * (number % 3 == 2 ? 60000.0f : 0.1f));
    }
    float *y = output((size_t)((n_tok - 1) * ldy + rows) * sizeof *y);
    kernels->binary_rows(w, k, r0, r1, bits, ldb, xd, n_tok, y, ldy);
}

static void float_case(const bl_kernels *kernels, int number, int32_t type) {
    int64_t k = size_of_case(number), n_tok = 1 + number % 8;
    int64_t rows = 1 + random_below(11), r0 = random_below(rows), r1 = r0 + 1 + random_below(rows - r0);
    int64_t ldx = k + random_below(3), ldy = rows + random_below(3);
    int temper = temper_of_case(number);
    void *w;
    if (type == BL_TYPE_F32) {
        w = floats(k * rows, temper);
    } else {
        uint16_t *h = input((size_t)(k * rows) * sizeof *h);
        fill_halves(h, k * rows); /* finite as bfloat16 too, if anything but 0x7f80 in the exponent */
        for (int64_t i = 0; i < k * rows && type == BL_TYPE_BF16; i++) {
            h[i] = (h[i] & 0x7f80) == 0x7f80 ? h[i] & 0xbfff : h[i];
        }
        w = h;
    }
    float *x = floats((n_tok - 1) * ldx + k, temper == 3 ? 0 : temper);
    float *y = output((size_t)((n_tok - 1) * ldy + rows) * sizeof *y);
    kernels->float_rows(type, w, k, r0, r1, x, ldx, n_tok, y, ldy);
}

static void case_f32(const bl_kernels *k, int number) { float_case(k, number, BL_TYPE_F32); }
static void case_f16(const bl_kernels *k, int number) { float_case(k, number, BL_TYPE_F16); }
static void case_bf16(const bl_kernels *k, int number) { float_case(k, number, BL_TYPE_BF16); }

static void case_hamming(const bl_kernels *k, int number) {
    int64_t n = number < 72 ? number + 1 : 64 + random_below(3000);
    uint8_t *a = input((size_t)n), *b = input((size_t)n);
    uint64_t *out = output(sizeof *out);
    fill_bytes(a, n, number % 7 == 6);
    fill_bytes(b, n, number % 7 == 6 ? 2 : 0);
    *out = k->hamming(a, b, n);
}

static void case_hamming_below(const bl_kernels *k, int number) {
    static const int64_t lengths[] = {1, 7, 8, 16, 24, 32, 40, 48, 64, 96, 128, 160, 520};
    int64_t bytes = lengths[number % 13], n = 1 + random_below(70);
    uint8_t *query = input((size_t)bytes), *codes = input((size_t)(n * bytes));
    int64_t *found = output(sizeof *found);
    uint32_t *rows = output((size_t)n * sizeof *rows), *distances = output((size_t)n * sizeof *distances);
    fill_bytes(query, bytes, 0);
    fill_bytes(codes, n * bytes, 0);
    memset(rows, 0, (size_t)n * sizeof *rows);
    memset(distances, 0, (size_t)n * sizeof *distances);
    *found = k->hamming_below(query, codes, n, bytes, (uint32_t)(bytes * (number % 3 ? 4 : 9)), rows, distances);
    for (int64_t i = *found; i < n; i++) { /* what lies behind the result may differ */
        rows[i] = distances[i] = 0;
    }
}

static void case_dot_f32(const bl_kernels *k, int number) {
    int64_t n = size_of_case(number);
    float *a = floats(n, temper_of_case(number)), *b = floats(n, temper_of_case(number));
    float *out = output(sizeof *out);
    *out = k->dot_f32(a, b, n);
}

/* Weights of groups: ordinary, of one sign, of several sizes, equal, zero, at the ends of float's range. */
static void fill_groups(float *x, int64_t n, int64_t group, int number) {
    fill_floats(x, n, temper_of_case(number));
    for (int64_t i = 0; number % 3 == 0 && i < n; i++) {
        int64_t g = i / group % 5;
        x[i] = g == 1 ? fabsf(x[i]) : g == 2 ? x[i] * 1e-3f - 2.0f : g == 3 ? x[i / group * group] : g == 4 ? 0.0f : x[i];
    }
}

static void case_fit_q4_k(const bl_kernels *k, int number) {
    int64_t n = 1 + number % 40;
    float *x = input((size_t)(32 * n) * sizeof *x);
    float *steps = output((size_t)n * sizeof *steps), *minima = output((size_t)n * sizeof *minima);
    fill_groups(x, 32 * n, 32, number);
    k->fit_q4_k(x, n, steps, minima);
}

static void case_fit_q6_k(const bl_kernels *k, int number) {
    int64_t n = 1 + number % 40;
    float *x = input((size_t)(16 * n) * sizeof *x);
    float *steps = output((size_t)n * sizeof *steps);
    fill_groups(x, 16 * n, 16, number);
    k->fit_q6_k(x, n, steps);
}

static void case_widen(const bl_kernels *k, int number) {
    static const int32_t types[] = {BL_TYPE_F32, BL_TYPE_F16, BL_TYPE_BF16};
    int32_t type = types[number % 3];
    int64_t n = number < 66 ? number / 3 + 1 : 1 + random_below(3000);
    uint8_t *in = input((size_t)(bl_row_bytes(type, n)));
    float *out = output((size_t)n * sizeof *out);
    fill_bytes(in, bl_row_bytes(type, n), 0);
    k->widen(type, in, n, out);
}

static void case_round_groups(const bl_kernels *k, int number) {
    int64_t group = 16 * (1 + random_below(3)), n = group * (1 + random_below(20));
    int lo = number % 2 ? 0 : -32, hi = number % 2 ? 15 : 31;
    float *x = floats(n, temper_of_case(number)), *shift = floats(n / group, 0), *inv = floats(n / group, 0);
    int8_t *q = output((size_t)n);
    for (int64_t i = 0; i < n / group; i++) {
        shift[i] = number % 2 ? shift[i] : 0.0f;
        inv[i] = number % 5 == 0 ? 1.0f : number % 7 == 6 ? 3e38f : inv[i] * 8.0f; /* 1: halves, which are ties */
    }
    k->round_groups(x, n, group, shift, inv, lo, hi, q);
}

/* Not of the table, but under the same promise. */
static void case_elementary(const bl_kernels *k, int number) {
    (void)k;
    enum { N = 64 };
    float *x = floats(N, number % 7);
    float *f = output(N * sizeof *f);
    double *e = output(N * sizeof *e), *l = output(N * sizeof *l), *sc = output(2 * N * sizeof *sc);
    for (int i = 0; i < N; i++) {
        float v = number % 7 == 0 ? x[i] * 22.0f : x[i];
        f[i] = bl_expf(v);
        e[i] = bl_exp((double)v);
        l[i] = bl_log(fabs((double)v) + 1e-300);
        double angle = fmod((double)v * 1000.0, 1e7);
        bl_sincos(angle, &sc[2 * i], &sc[2 * i + 1]);
    }
}

static const struct {
    const char *name;
    void (*run)(const bl_kernels *kernels, int number);
    int count;     /* cases compared */
    int nan_free;  /* 0: outputs are bytes, compared as they are */
} cases[] = {
    {"rmsnorm", case_rmsnorm, 300, 1},
    {"quant_row", case_quant_row, 300, 0},
    {"quant_groups", case_quant_groups, 300, 0},
    {"relu2_mul", case_relu2_mul, 300, 1},
    {"silu_mul", case_silu_mul, 300, 1},
    {"add", case_add, 200, 1},
    {"rope", case_rope, 200, 1},
    {"softmax", case_softmax, 300, 1},
    {"exp_sum", case_exp_sum, 300, 1},
    {"store_k_f16", case_store_k_f16, 100, 0},
    {"store_k_f32", case_store_k_f32, 100, 0},
    {"store_v_f16", case_store_v_f16, 200, 0},
    {"scores_f16", case_scores_f16, 60, 1},
    {"scores_f32", case_scores_f32, 60, 1},
    {"mix_f16", case_mix_f16, 80, 1},
    {"mix_f32", case_mix_f32, 80, 1},
    {"ternary_i8/I2_S", case_ternary_i2_s, 120, 1},
    {"ternary_i8/TQ2_0", case_ternary_tq2_0, 120, 1},
    {"ternary_i8/TQ1_0", case_ternary_tq1_0, 120, 1},
    {"group_i8/Q4_0", case_q4_0, 90, 1},
    {"group_i8/Q4_1", case_q4_1, 90, 1},
    {"group_i8/Q8_0", case_q8_0, 80, 1},
    {"group_i8/Q4_K", case_q4_k, 90, 1},
    {"group_i8/Q6_K", case_q6_k, 90, 1},
    {"group_i8/TQ1_0", case_tq1_0, 90, 1},
    {"group_i8/TQ2_0", case_tq2_0, 90, 1},
    {"group_i8/Q1_0", case_q1_0, 90, 1},
    {"group_i8/Q2_0", case_q2_0, 90, 1},
    {"group_i8/Q2_0_LEGACY", case_q2_0_legacy, 90, 1},
    {"group_i8/PQ2_0", case_pq2_0, 90, 1},
    {"group_i8/PTQ1_0", case_ptq1_0, 90, 1},
    {"float_rows/F32", case_f32, 120, 1},
    {"float_rows/F16", case_f16, 120, 1},
    {"float_rows/BF16", case_bf16, 120, 1},
    {"hamming", case_hamming, 300, 0},
    {"dot_f32", case_dot_f32, 300, 1},
    {"elementary", case_elementary, 70, 0},
    {"residual", case_residual, 300, 0},
    {"scores_int", case_scores_int, 96, 1},
    {"quant_probs", case_quant_probs, 200, 0},
    {"mix_int", case_mix_int, 96, 1},
    {"hamming_below", case_hamming_below, 300, 0},
    {"binary_rows", case_binary_rows, 200, 1},
    {"fit_q4_k", case_fit_q4_k, 400, 1},
    {"fit_q6_k", case_fit_q6_k, 400, 1},
    {"round_groups", case_round_groups, 300, 0},
    {"widen", case_widen, 300, 0},
};

#define HASH_CASES 40

static void run_case(size_t i, const bl_kernels *kernels, int number) {
    seed_now = (uint64_t)i * 1000003 + (uint64_t)number;
    counter_now = 0;
    n_slots = 0;
    cases[i].run(kernels, number);
}

/* ---- comparison ------------------------------------------------------------------------------ */

static uint8_t *expected[SLOTS];

static void keep_outputs(void) {
    for (int s = 0; s < n_slots; s++) {
        if (slots[s].output != NULL) {
            memcpy(expected[s], slots[s].output - MARGIN, slots[s].size + MARGIN);
        }
    }
}

/* Byte offset of the first difference in output s, or -1. */
static int64_t difference(int s, int may_nan) {
    const uint8_t *want = expected[s], *got = slots[s].output - MARGIN;
    size_t size = slots[s].size + MARGIN;
    for (size_t i = 0; i < size; i += may_nan ? 4 : 1) {
        if (!may_nan) {
            if (want[i] != got[i]) {
                return (int64_t)i - MARGIN;
            }
            continue;
        }
        float a, b;
        memcpy(&a, want + i, sizeof a);
        memcpy(&b, got + i, sizeof b);
        if (memcmp(&a, &b, sizeof a) != 0 && !(isnan(a) && isnan(b))) {
            return (int64_t)i - MARGIN;
        }
    }
    return -1;
}

static int compare(size_t i, const bl_kernels *table) {
    for (int number = 0; number < cases[i].count; number++) {
        run_case(i, &bl_kernels_ref, number);
        keep_outputs();
        run_case(i, table, number);
        for (int s = 0; s < n_slots; s++) {
            int64_t at = slots[s].output != NULL ? difference(s, cases[i].nan_free) : -1;
            if (slots[s].output != NULL && at != -1) {
                uint32_t want, got;
                int64_t word = at & ~(int64_t)3;
                memcpy(&want, expected[s] + MARGIN + word, sizeof want);
                memcpy(&got, slots[s].output + word, BL_MIN(sizeof got, slots[s].size));
                printf("  case %d, output %d, byte %" PRId64 ": plain C %08x, %s %08x\n", number, s, at, want,
                       table->name, got);
                return 0;
            }
        }
    }
    return 1;
}

/* FNV-1a over the outputs of the first cases, NaNs as one pattern. */
static uint64_t hash_of(size_t i, const bl_kernels *table) {
    uint64_t h = 0xcbf29ce484222325u;
    for (int number = 0; number < BL_MIN(HASH_CASES, cases[i].count); number++) {
        run_case(i, table, number);
        for (int s = 0; s < n_slots; s++) {
            for (size_t b = 0; slots[s].output != NULL && b < slots[s].size; b++) {
                uint8_t byte = slots[s].output[b];
                float f;
                memcpy(&f, slots[s].output + b / 4 * 4, cases[i].nan_free ? sizeof f : 0);
                if (cases[i].nan_free && isnan(f)) {
                    byte = 0x7f;
                }
                h = (h ^ byte) * 0x100000001b3u;
            }
        }
    }
    return h;
}

/* 1: as in the file, 0: not, -1: the file has no such line. */
static int golden(FILE *file, const char *name, uint64_t hash) {
    char line[200], found[100];
    uint64_t value;
    rewind(file);
    while (fgets(line, sizeof line, file) != NULL) {
        if (sscanf(line, "%99s %" SCNx64, found, &value) == 2 && strcmp(found, name) == 0) {
            return value == hash;
        }
    }
    return -1;
}

/* ---- what has no counterpart: accuracy, and the decoders --------------------------------------- */

static double worst;

static void error_in_ulp(double got, long double want, double ulp_of_one) {
    int e;
    (void)frexp((double)want, &e);
    double ulp = ldexp(ulp_of_one, e - 1);
    double error = (double)fabsl((long double)got - want) / ulp;
    worst = error > worst || isnan(error) ? error : worst;
}

/* Against libm in long double. */
static int check_accuracy(const char *which) {
    worst = 0;
    seed_now = 77;
    counter_now = 0;
    for (int i = 0; i < 300000; i++) {
        double u = (double)(int64_t)(random_u64() >> 1) * 0x1p-62 - 1.0; /* [-1, 1) */
        if (strcmp(which, "bl_expf") == 0) {
            float x = (float)(u * 87.4 + 0.4);
            error_in_ulp((double)bl_expf(x), expl((long double)x), 0x1p-23);
        } else if (strcmp(which, "bl_exp") == 0) {
            double x = i % 2 ? u * 700.0 : u;
            error_in_ulp(bl_exp(x), expl((long double)x), 0x1p-52);
        } else if (strcmp(which, "bl_log") == 0) {
            double x = i % 3 == 0 ? ldexp(1.0 + u * 0.999, (int)(i % 2000) - 1000) : i % 3 == 1 ? 1.0 + u * 0.01 : 2.0 + 1.99 * u;
            error_in_ulp(bl_log(x), logl((long double)x), 0x1p-52);
        } else {
            double x = i % 3 == 0 ? u * 1e7 : i % 3 == 1 ? u * 4000.0 : u * 4.0, s, c;
            bl_sincos(x, &s, &c);
            error_in_ulp(s, sinl((long double)x), 0x1p-52);
            error_in_ulp(c, cosl((long double)x), 0x1p-52);
        }
    }
    printf("%-28s largest error %.3f ulp: ", which, worst);
    return worst <= 2.0;
}

static int check_edges(void) {
    double s, c;
    bl_sincos(0.0, &s, &c);
    int ok = s == 0.0 && c == 1.0 && bl_expf(0.0f) == 1.0f && bl_exp(0.0) == 1.0 && bl_log(1.0) == 0.0;
    ok &= bl_expf(-87.1f) == 0.0f && bl_expf(-INFINITY) == 0.0f && bl_expf(-87.0f) > 0x1p-126f;
    ok &= bl_expf(1000.0f) == bl_expf(88.0f) && isfinite(bl_expf(INFINITY)) && isnan(bl_expf(NAN));
    ok &= isnan(bl_exp(NAN)) && isnan(bl_log(-1.0)) && bl_log(0.0) == -INFINITY && isinf(bl_log(INFINITY));
    bl_sincos(INFINITY, &s, &c);
    return ok && isnan(s) && isnan(c);
}

/* bl_unpack_* against the scalar decoders of core/quant, which are checked against golden blocks. */
static int check_decoder(int32_t type) {
    const bl_tensor_type *t = bl_tensor_type_find(type);
    enum { K = 1024 };
    static float want[K], d[K / 16], m[K / 16];
    static int8_t q[K];
    seed_now = (uint64_t)type;
    counter_now = 0;
    for (int round = 0; round < 50; round++) {
        n_slots = 0;
        uint8_t *w = weights(type, K, 1, round < 4 ? round : 0);
        bl_decode_row(type, w, 1, K, 0, want);
        bl_unpack_groups(type, w, K, q, d, m);
        for (int i = 0; i < K; i++) {
            float product = d[i / t->group] * (float)q[i];
            float got = bl_type_has_min(type) ? product + m[i / t->group] : product;
            if (got != want[i]) {
                printf("  round %d, weight %d: %g, decoded as %g\n", round, i, (double)got, (double)want[i]);
                return 0;
            }
        }
    }
    return 1;
}

/* Table number n for a case: this CPU's, and the AMX kernels over tiles in software where they run. */
static const bl_kernels *table_for(size_t i, int n) {
    const bl_kernels *table = table_nth(n);
#if defined(AMX_SOFTWARE)
    const bl_kernels *software = bl_kernels_amx_software();
    const int has_tiles = strncmp(cases[i].name, "ternary_i8/", 11) == 0 || strncmp(cases[i].name, "group_i8/", 9) == 0;
    if (table == NULL && table_nth(n - 1) != NULL && has_tiles &&
        (software->cpu & bl_cpu_detect()) == software->cpu) {
        return software;
    }
#endif
    (void)i;
    return table;
}

/* ---- main ------------------------------------------------------------------------------------------ */

static int passed, failed;

static void report(int ok) {
    printf("%s\n", ok ? "OK" : "FAIL");
    passed += ok;
    failed += !ok;
}

int main(int argc, char **argv) {
    const char *only = NULL, *golden_path = NULL;
    int hash = 0, bench = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--hash") == 0) {
            hash = 1;
        } else if (strcmp(argv[i], "--bench") == 0) {
            bench = 1;
        } else if (strcmp(argv[i], "--only") == 0 && i + 1 < argc) {
            only = argv[++i];
        } else if (strcmp(argv[i], "--golden") == 0 && i + 1 < argc) {
            golden_path = argv[++i];
        } else {
            fprintf(stderr, "usage: checkkernels [--hash | --bench] [--only KERNEL] [--golden FILE]\n");
            return 2;
        }
    }
    if (bench) {
        return bench_kernels(only);
    }
    map_slots();
    for (int s = 0; s < SLOTS; s++) {
        expected[s] = malloc(SLOT_BYTES);
        if (expected[s] == NULL) {
            return 2;
        }
    }
    if (hash) {
        for (size_t i = 0; i < BL_COUNT(cases); i++) {
            printf("%s %016" PRIx64 "\n", cases[i].name, hash_of(i, &bl_kernels_ref));
        }
        return 0;
    }

    if (golden_path == NULL) {
        golden_path = access("tests/kernels/golden_hashes.txt", R_OK) == 0 ? "tests/kernels/golden_hashes.txt"
                                                                           : CHECKKERNELS_GOLDEN;
    }
    FILE *file = fopen(golden_path, "r");
    if (file == NULL) {
        fprintf(stderr, "checkkernels: cannot open '%s'; --golden names the file\n", golden_path);
        return 2;
    }
    printf("seeds: kernel number * 1000003 + case number\n");
    for (size_t i = 0; i < BL_COUNT(cases); i++) {
        if (only != NULL && strstr(cases[i].name, only) == NULL) {
            continue;
        }
        const bl_kernels *table;
        for (int n = 0; (table = table_for(i, n)) != NULL; n++) {
            int same = golden(file, cases[i].name, hash_of(i, table));
            int equal = table == &bl_kernels_ref || compare(i, table);
            printf("%-28s %s, %d cases%s: ", cases[i].name, table->name, cases[i].count,
                   same == 1 ? "" : same == 0 ? ", other hash than golden_hashes.txt" : ", not in golden_hashes.txt");
            report(equal && same == 1);
        }
    }
    fclose(file);
    static const char *const functions[] = {"bl_expf", "bl_exp", "bl_log", "bl_sincos"};
    for (size_t i = 0; only == NULL && i < BL_COUNT(functions); i++) {
        report(check_accuracy(functions[i]));
    }
    static const int32_t types[] = {BL_TYPE_Q4_0,  BL_TYPE_Q4_1,  BL_TYPE_Q8_0, BL_TYPE_Q4_K,
                                    BL_TYPE_Q6_K,  BL_TYPE_TQ1_0, BL_TYPE_TQ2_0, BL_TYPE_Q1_0,
                                    BL_TYPE_Q2_0,  BL_TYPE_PQ2_0, BL_TYPE_PTQ1_0, BL_TYPE_Q2_0_LEGACY};
    for (size_t i = 0; only == NULL && i < BL_COUNT(types); i++) {
        printf("%-28s as core/quant decodes it: ", bl_tensor_type_find(types[i])->name);
        report(check_decoder(types[i]));
    }
    if (only == NULL) {
        printf("%-28s ", "edges of elementary");
        report(check_edges());
    }
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
