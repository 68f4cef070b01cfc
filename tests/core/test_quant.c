/* test_quant.c - tensor types: the table, half floats, every decoder and encoder.
 *
 * Golden blocks (tests/data/blocks) come from PyPI's gguf and from NumPy
 * (tests/oracle/make_golden_blocks.py): values must be equal bit by bit, encoded bytes byte by byte.
 * Random and extreme data check what goldens cannot: round trips, error bounds, refusals. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "kernels/kernels.h"
#include "quant/quant.h"
#include "test_support.h"

#define SEED 20261123

/* Check notes each passing assertion in a file: too slow for the inner loops of exhaustive tests. */
#define EXPECT(condition)                                                                                    \
    do {                                                                                                     \
        if (!(condition))                                                                                    \
            ck_abort_msg("%s", #condition);                                                                  \
    } while (0)

static const int32_t all_types[] = {
    BL_TYPE_F32,  BL_TYPE_F16,   BL_TYPE_BF16,   BL_TYPE_Q4_0,        BL_TYPE_Q4_1, BL_TYPE_Q8_0,
    BL_TYPE_Q4_K, BL_TYPE_Q6_K,  BL_TYPE_TQ1_0,  BL_TYPE_TQ2_0,       BL_TYPE_I2_S, BL_TYPE_Q1_0,
    BL_TYPE_Q2_0, BL_TYPE_PQ2_0, BL_TYPE_PTQ1_0, BL_TYPE_Q2_0_LEGACY,
};
static const int32_t encoded_types[] = {BL_TYPE_F32,   BL_TYPE_F16,   BL_TYPE_BF16, BL_TYPE_Q8_0,
                                        BL_TYPE_TQ1_0, BL_TYPE_TQ2_0, BL_TYPE_I2_S, BL_TYPE_Q1_0,
                                        BL_TYPE_Q2_0,  BL_TYPE_Q4_0,  BL_TYPE_Q4_1, BL_TYPE_Q4_K,
                                        BL_TYPE_Q6_K};
static const int32_t trit_types[] = {BL_TYPE_TQ1_0, BL_TYPE_TQ2_0, BL_TYPE_I2_S, BL_TYPE_Q2_0};

static uint64_t drawn;

static uint64_t draw(void) {
    return bl_rng_u64(SEED, 1, drawn++);
}

/* Sum of uniforms: about normal. */
static float draw_normal(void) {
    double sum = 0;
    for (int i = 0; i < 12; i++)
        sum += (double)(draw() >> 11) * 0x1p-53;
    return (float)(sum - 6);
}

static float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static const char *name_of(int32_t type) {
    return bl_tensor_type_find(type)->name;
}

/* ---- the table ----------------------------------------------------------------------- */

START_TEST(table_is_consistent) {
    for (size_t i = 0; i < BL_COUNT(all_types); i++) {
        int ok;
        const bl_tensor_type *t = bl_tensor_type_find(all_types[i]);
        ck_assert_ptr_nonnull(t);
        ck_assert_ptr_eq(bl_tensor_type_named(t->name, strlen(t->name)), t);
        uint64_t bytes = bl_tensor_bytes(t, 512, 3, &ok);
        ck_assert_int_eq(ok, 1);
        ck_assert_uint_eq(bytes, 1536u / (unsigned)t->block * (unsigned)t->block_bytes +
                                     (t->id == BL_TYPE_I2_S ? 32 : 0));
        if (t->block > 1) {
            ck_assert_uint_eq(bl_tensor_bytes(t, (uint64_t)t->block / 2, 1, &ok), 0);
            ck_assert_int_eq(ok, 0);
        }
        bl_tensor_bytes(t, (uint64_t)1 << 40, (uint64_t)1 << 40, &ok);
        ck_assert_int_eq(ok, 0);
        ck_assert_ptr_null(bl_tensor_type_refusal(t->id));
    }
    ck_assert_ptr_eq(bl_tensor_type_named("tq2_0", 5), bl_tensor_type_find(BL_TYPE_TQ2_0));
    ck_assert_ptr_null(bl_tensor_type_named("tq2_0x", 6));
    ck_assert_ptr_null(bl_tensor_type_named("", 0));
    ck_assert_ptr_null(bl_tensor_type_find(38));
    ck_assert_ptr_null(bl_tensor_type_find(-1));
    ck_assert_ptr_nonnull(strstr(bl_tensor_type_refusal(38), "convert to I2_S"));
    ck_assert_ptr_nonnull(strstr(bl_tensor_type_refusal(BL_TYPE_TL2), "convert to I2_S"));
    /* I2_S counts over the flattened tensor: 4 rows of 96 are 3 blocks, 1 row is none. */
    int ok;
    ck_assert_uint_eq(bl_tensor_bytes(bl_tensor_type_find(BL_TYPE_I2_S), 96, 4, &ok), 128);
    ck_assert_int_eq(ok, 1);
    bl_tensor_bytes(bl_tensor_type_find(BL_TYPE_I2_S), 96, 1, &ok);
    ck_assert_int_eq(ok, 0);
}
END_TEST

/* ---- half floats ----------------------------------------------------------------------- */

/* Rounding by search over all half floats: slow, and nothing like the code under test.
 * values: those of the patterns up to infinity's, which stands for where the exponent goes on. */
static uint16_t nearest(float x, const double *values, int infinity) {
    int low = 0, high = infinity;
    double a = fabs((double)x);
    while (low + 1 < high) {
        int middle = (low + high) / 2;
        if (values[middle] <= a)
            low = middle;
        else
            high = middle;
    }
    double up = values[high] - a, down = a - values[low];
    int pick = up < down || (up == down && low % 2) ? high : low;
    return (uint16_t)(pick | (signbit(x) ? 0x8000 : 0));
}

START_TEST(half_floats) {
    static double f16[0x7c01], bf16[0x7f81];
    long checked = 0;
    for (uint32_t h = 0; h < 0x7c00; h++)
        f16[h] = (double)bl_f16_to_f32((uint16_t)h);
    for (uint32_t h = 0; h < 0x7f80; h++)
        bf16[h] = (double)bl_bf16_to_f32((uint16_t)h);
    f16[0x7c00] = 65536;
    bf16[0x7f80] = 0x1p128;
    for (uint32_t h = 0; h < 65536; h++) {
        float x = bl_f16_to_f32((uint16_t)h), b = bl_bf16_to_f32((uint16_t)h);
        int exponent = (int)(h >> 10 & 31), mantissa = (int)(h & 1023);
        double expected = exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
        if (exponent == 31) {
            EXPECT(isnan(x) ? mantissa != 0 : mantissa == 0 && isinf(x));
        } else {
            EXPECT(x == (h & 0x8000 ? -expected : expected));
        }
        EXPECT((signbit(x) != 0) == (h >> 15 != 0));
        if (isnan(x))
            EXPECT(isnan(bl_f16_to_f32(bl_f32_to_f16(x))));
        else
            EXPECT(bl_f32_to_f16(x) == h);
        if (isnan(b))
            EXPECT(isnan(bl_bf16_to_f32(bl_f32_to_bf16(b))));
        else
            EXPECT(bl_f32_to_bf16(b) == h);
        if (isfinite(x) && isfinite(bl_f16_to_f32((uint16_t)(h + 1))) && (h & 0x7fff) != 0x7fff) {
            /* the midpoint to the next one, and its neighbours */
            float middle = (float)(((double)x + (double)bl_f16_to_f32((uint16_t)(h + 1))) / 2);
            for (int step = -1; step <= 1; step++, checked++) {
                float y = float_of(bits_of(middle) + (uint32_t)step);
                if (isfinite(y))
                    EXPECT(bl_f32_to_f16(y) == nearest(y, f16, 0x7c00));
            }
        }
    }
    for (int i = 0; i < 100000; i++, checked++) {
        float x = float_of((uint32_t)draw());
        if (isnan(x)) {
            EXPECT(isnan(bl_f16_to_f32(bl_f32_to_f16(x))));
            EXPECT(isnan(bl_bf16_to_f32(bl_f32_to_bf16(x))));
            continue;
        }
        if (isinf(x))
            continue;
        EXPECT(bl_f32_to_f16(x) == nearest(x, f16, 0x7c00));
        EXPECT(bl_f32_to_bf16(x) == nearest(x, bf16, 0x7f80));
    }
    ck_assert_uint_eq(bl_f32_to_f16(65519.996f), 0x7bff);
    ck_assert_uint_eq(bl_f32_to_f16(65520.0f), 0x7c00);
    ck_assert_uint_eq(bl_f32_to_f16(-INFINITY), 0xfc00);
    printf("half floats: 65536 patterns there and back, %ld roundings\n", checked);
}
END_TEST

/* ---- golden blocks ------------------------------------------------------------------------ */

typedef struct golden {
    uint8_t *file;
    uint32_t rows, k, n_bytes;
    const uint8_t *bytes;
    float *values;
} golden;

static golden open_golden(const char *name, const char *kind) {
    char path[80];
    size_t size;
    golden g;
    snprintf(path, sizeof path, "blocks/%s.%s", name, kind);
    g.file = load_file(path, &size);
    ck_assert_uint_ge(size, 12);
    g.rows = bl_read_u32(g.file);
    g.k = bl_read_u32(g.file + 4);
    g.n_bytes = bl_read_u32(g.file + 8);
    size_t n = (size_t)g.rows * g.k, values_at = strstr(kind, "encode") ? 12 : 12 + g.n_bytes;
    ck_assert_uint_eq(size, 12 + g.n_bytes + 4 * n);
    g.bytes = g.file + (strstr(kind, "encode") ? 12 + 4 * n : 12);
    g.values = malloc(4 * n);
    for (size_t i = 0; i < n; i++)
        g.values[i] = bl_read_f32(g.file + values_at + 4 * i);
    return g;
}

static void close_golden(golden *g) {
    free(g->values);
    free(g->file);
}

START_TEST(golden_decode) {
    const bl_tensor_type *t = bl_tensor_type_find(all_types[_i]);
    golden g = open_golden(t->name, "decode");
    int ok;
    ck_assert_uint_eq(bl_tensor_bytes(t, g.k, g.rows, &ok), g.n_bytes);
    float *row = malloc(4 * (size_t)g.k);
    for (uint32_t r = 0; r < g.rows; r++) {
        bl_decode_row(t->id, g.bytes, g.rows, g.k, r, row);
        for (uint32_t j = 0; j < g.k; j++)
            ck_assert_msg(bits_of(row[j]) == bits_of(g.values[r * g.k + j]),
                          "%s row %u weight %u: %a, not %a", t->name, r, j, (double)row[j],
                          (double)g.values[r * g.k + j]);
    }
    printf("decode %-11s %u of %u values equal bit by bit\n", t->name, g.rows * g.k, g.rows * g.k);
    free(row);
    close_golden(&g);
}
END_TEST

static const struct {
    const char *type, *kind;
} encode_goldens[] = {{"F32", "decode"},   {"F16", "encode"},       {"BF16", "encode"},
                      {"Q8_0", "encode"},  {"TQ1_0", "encode"},     {"TQ1_0", "raw.encode"},
                      {"TQ2_0", "encode"}, {"TQ2_0", "raw.encode"}, {"I2_S", "encode"},
                      {"Q1_0", "encode"},  {"Q2_0", "encode"},      {"Q2_0", "raw.encode"},
                      {"Q4_0", "encode"},  {"Q4_1", "encode"}};

START_TEST(golden_encode) {
    const char *name = encode_goldens[_i].type;
    const bl_tensor_type *t = bl_tensor_type_named(name, strlen(name));
    golden g = open_golden(name, encode_goldens[_i].kind);
    bitlm_error error = {sizeof error, 0, 0, ""};
    int ok;
    ck_assert_uint_eq(bl_tensor_bytes(t, g.k, g.rows, &ok), g.n_bytes);
    uint8_t *bytes = malloc(g.n_bytes);
    ck_assert_msg(bl_encode(t->id, g.values, g.rows, g.k, 0, bytes, &error) == BITLM_OK, "%s", error.text);
    for (uint32_t i = 0; i < g.n_bytes; i++)
        ck_assert_msg(bytes[i] == g.bytes[i], "%s byte %u: %d, not %d", name, i, bytes[i], g.bytes[i]);
    printf("encode %-5s (%s) %u bytes equal\n", name, encode_goldens[_i].kind, g.n_bytes);
    free(bytes);
    close_golden(&g);
}
END_TEST

/* ---- properties --------------------------------------------------------------------------- */

START_TEST(i2_s_is_flat) {
    enum { N = 640 * 4 };
    uint8_t bytes[N / 4 + 32] = {0};
    float one[N], rows[N];
    float scale = 0.3f;
    for (int i = 0; i < N / 4; i++)
        bytes[i] = (uint8_t)draw();
    memcpy(bytes + N / 4, &scale, 4);
    bl_decode_row(BL_TYPE_I2_S, bytes, 1, N, 0, one);
    /* byte 33 of block 1: weights 129, 161, 193, 225 */
    for (int g = 0; g < 4; g++)
        ck_assert_float_eq(one[129 + 32 * g], scale * (float)((bytes[33] >> (6 - 2 * g) & 3) - 1));
    static const uint64_t widths[] = {640, 32, 160, 1, 20, 1280};
    for (size_t w = 0; w < BL_COUNT(widths); w++) {
        for (uint64_t r = 0; r < N / widths[w]; r++)
            bl_decode_row(BL_TYPE_I2_S, bytes, N / widths[w], widths[w], r, rows + r * widths[w]);
        ck_assert_mem_eq(one, rows, sizeof one);
    }
}
END_TEST

START_TEST(trits_round_trip) {
    enum { ROWS = 5, K = 768, N = ROWS * K };
    static int8_t trits[N];
    static uint8_t packed[N], encoded[N];
    static float x[N], back[K];
    int32_t type = trit_types[_i];
    const float scales[] = {0.0441f, 1.0f, 6.1e-5f, 60000.0f};
    bitlm_error error = {sizeof error, 0, 0, ""};
    int ok;
    uint64_t bytes = bl_tensor_bytes(bl_tensor_type_find(type), K, ROWS, &ok);
    for (size_t s = 0; s < BL_COUNT(scales); s++) {
        float scale = type == BL_TYPE_I2_S ? scales[s] : bl_f16_to_f32(bl_f32_to_f16(scales[s]));
        for (int i = 0; i < N; i++) {
            trits[i] = (int8_t)((int)(draw() % 3) - 1);
            trits[i] = i % 256 == 0 ? 1 : trits[i]; /* no block of zeros, whose scale is lost in float */
            x[i] = scale * (float)trits[i];
        }
        ck_assert_int_eq(bl_pack_trits(type, trits, ROWS, K, scale, packed, &error), BITLM_OK);
        for (uint64_t r = 0; r < ROWS; r++) {
            bl_decode_row(type, packed, ROWS, K, r, back);
            for (int j = 0; j < K; j++)
                ck_assert_float_eq(back[j], x[r * K + (uint64_t)j]);
        }
        /* trits as float32 encode to the same bytes */
        ck_assert_int_eq(bl_encode(type, x, ROWS, K, 0, encoded, &error), BITLM_OK);
        ck_assert_mem_eq(packed, encoded, bytes);
    }
    trits[K + 7] = 2;
    ck_assert_int_eq(bl_pack_trits(type, trits, ROWS, K, 1, packed, &error), BITLM_ARG);
    ck_assert_ptr_nonnull(strstr(error.text, "weight 7 of row 1 is 2"));
    trits[K + 7] = 0;
    ck_assert_int_eq(bl_pack_trits(type, trits, ROWS, K, NAN, packed, &error), BITLM_ARG);
    ck_assert_int_eq(bl_pack_trits(type, trits, ROWS, K, -1, packed, &error), BITLM_ARG);
    ck_assert_int_eq(bl_pack_trits(type, trits, ROWS, K, 1e9f, packed, &error),
                     type == BL_TYPE_I2_S ? BITLM_OK : BITLM_ARG);
    ck_assert_int_eq(bl_pack_trits(type, trits, 1, 160, 1, packed, &error), BITLM_ARG);
    ck_assert_int_eq(bl_pack_trits(BL_TYPE_Q8_0, trits, ROWS, K, 1, packed, &error), BITLM_ARG);
}
END_TEST

START_TEST(error_is_bounded) {
    enum { N = 1 << 16 };
    static float x[N], back[N];
    static uint8_t bytes[4 * N + 32];
    double worst = 0;
    bitlm_error error = {sizeof error, 0, 0, ""};
    for (int i = 0; i < N; i++)
        x[i] = draw_normal() * ldexpf(1, (int)(i / 64 % 16) - 4);
    ck_assert_int_eq(bl_encode(BL_TYPE_Q8_0, x, 1, N, 0, bytes, &error), BITLM_OK);
    bl_decode_row(BL_TYPE_Q8_0, bytes, 1, N, 0, back);
    for (int b = 0; b < N; b += 32) {
        double most = 0;
        for (int j = 0; j < 32; j++)
            most = fmax(most, fabs((double)x[b + j]));
        for (int j = 0; j < 32; j++) /* in steps of the block: half, and the scale's own rounding */
            worst = fmax(worst, fabs((double)x[b + j] - (double)back[b + j]) / (most / 127));
    }
    printf("Q8_0: largest error %.4f steps over %d weights\n", worst, N);
    ck_assert_double_le(worst, 0.5 + 127 * 0x1p-11);
    ck_assert_double_ge(worst, 0.4); /* the measure sees something */

    /* I2_S: rounded by the given scale, half to even, clamped */
    const float probes[128] = {0.5f, 0.50001f, -0.5f, -0.50001f, 1.5f, -9, 0.49999f, 3e38f, -3e38f, 1e-45f};
    ck_assert_int_eq(bl_encode(BL_TYPE_I2_S, probes, 1, 128, 1.0f, bytes, &error), BITLM_OK);
    bl_decode_row(BL_TYPE_I2_S, bytes, 1, 128, 0, back);
    const float expected[10] = {0, 1, 0, -1, 1, -1, 0, 1, -1, 0};
    for (int i = 0; i < 10; i++)
        ck_assert_float_eq(back[i], expected[i]);
}
END_TEST

static double relative_error(int32_t type, const float *x, int n, uint8_t *bytes, float *back) {
    bitlm_error error = {sizeof error, 0, 0, ""};
    double e = 0, all = 0;
    ck_assert_msg(bl_encode(type, x, 1, (uint64_t)n, 0, bytes, &error) == BITLM_OK, "%s", error.text);
    bl_decode_row(type, bytes, 1, (uint64_t)n, 0, back);
    for (int i = 0; i < n; i++) {
        e += pow((double)back[i] - (double)x[i], 2);
        all += pow((double)x[i], 2);
    }
    return sqrt(e / all);
}

/* What the search for steps gains, on normal weights and on blocks whose groups differ in size and mean: steps in float32
 * that just span a group's values reach 0.078 in 4 bits with a minimum and 0.0187 in 6 bits (NumPy). */
START_TEST(group_errors) {
    enum { N = 1 << 16 };
    static float x[N], back[N];
    static uint8_t bytes[4 * N + 32];
    static const struct {
        int32_t type;
        double normal, mixed;
    } bounds[] = {{BL_TYPE_Q4_0, 0.092, 0.092}, {BL_TYPE_Q4_1, 0.082, 0.082}, {BL_TYPE_Q4_K, 0.0735, 0.0735},
                  {BL_TYPE_Q6_K, 0.0180, 0.0180}, {BL_TYPE_Q8_0, 0.0062, 0.0062}};
    for (size_t b = 0; b < BL_COUNT(bounds); b++) {
        for (int i = 0; i < N; i++)
            x[i] = draw_normal();
        double normal = relative_error(bounds[b].type, x, N, bytes, back);
        for (int i = 0; i < N; i++)
            x[i] = x[i] * ldexpf(1, i / 32 % 4) + (float)(i / 32 % 3) - 1;
        double mixed = relative_error(bounds[b].type, x, N, bytes, back);
        printf("%s: relative error %.4f of normal weights, %.4f of groups of several sizes\n", name_of(bounds[b].type),
               normal, mixed);
        ck_assert_double_le(normal, bounds[b].normal);
        ck_assert_double_le(mixed, bounds[b].mixed);
    }
}
END_TEST

/* Values that a K type holds exactly come back exactly: what was decoded encodes to the same values. */
START_TEST(group_types_hold_their_own) {
    enum { N = 4096 };
    static float x[N], back[N], again[N];
    static uint8_t bytes[4 * N + 32];
    static const int32_t types[] = {BL_TYPE_Q4_0, BL_TYPE_Q4_1, BL_TYPE_Q8_0, BL_TYPE_Q2_0, BL_TYPE_Q4_K, BL_TYPE_Q6_K};
    for (size_t t = 0; t < BL_COUNT(types); t++) {
        for (int i = 0; i < N; i++)
            x[i] = draw_normal();
        relative_error(types[t], x, N, bytes, back);
        double e = relative_error(types[t], back, N, bytes, again);
        printf("%s: encoding what was decoded moves it by %.5f\n", name_of(types[t]), e);
        ck_assert_double_le(e, types[t] == BL_TYPE_Q4_K ? 0.03 : types[t] == BL_TYPE_Q6_K ? 0.008 : 0.001);
    }
}
END_TEST

/* A finite number of any size up to `most`, of either sign. */
static float any_finite(float most) {
    float x;
    do {
        x = float_of((uint32_t)draw());
    } while (!(fabsf(x) <= most));
    return x;
}

/* Half floats of both kinds: no neighbour is nearer than what is written, of two that are as near it is the even one, and
 * what was read back is written as the same bits. */
START_TEST(floats_round_to_the_nearest) {
    enum { N = 1 << 16 };
    static float x[N], back[N], again[N];
    static uint8_t bytes[2 * N], second[2 * N];
    int32_t type = _i ? BL_TYPE_BF16 : BL_TYPE_F16;
    int ties = 0;
    for (int i = 0; i < N; i++) {
        if (i % 4 == 0) { /* halfway between two neighbours */
            uint16_t h = (uint16_t)(draw() % (_i ? 0x7f7f : 0x7bff));
            double a = _i ? (double)bl_bf16_to_f32(h) : (double)bl_f16_to_f32(h);
            double b = _i ? (double)bl_bf16_to_f32((uint16_t)(h + 1)) : (double)bl_f16_to_f32((uint16_t)(h + 1));
            x[i] = (float)((a + b) / 2) * (i % 8 ? 1.0f : -1.0f);
        } else {
            x[i] = i % 4 == 1 ? draw_normal() : i % 4 == 2 ? any_finite(_i ? 3e38f : 65504.0f) : ldexpf(draw_normal(), -(int)(draw() % 30));
        }
    }
    ck_assert_int_eq(bl_encode(type, x, 1, N, 0, bytes, NULL), BITLM_OK);
    bl_decode_row(type, bytes, 1, N, 0, back);
    for (int i = 0; i < N; i++) {
        uint16_t h = bl_read_u16(bytes + 2 * i);
        double error = fabs((double)back[i] - (double)x[i]);
        for (int step = -1; step <= 1; step += 2) {
            uint16_t near = (uint16_t)(h + step);
            if ((near & 0x8000) != (h & 0x8000) || (step < 0 && (h & 0x7fff) == 0))
                continue;
            double other = fabs((double)(_i ? bl_bf16_to_f32(near) : bl_f16_to_f32(near)) - (double)x[i]);
            ck_assert_msg(error < other || (error == other && !(h & 1)), "%a is written as %a", (double)x[i], (double)back[i]);
            ties += error == other;
        }
        ck_assert(back[i] == 0 || signbit(back[i]) == signbit(x[i]));
    }
    ck_assert_int_ge(ties, N / 8);
    ck_assert_int_eq(bl_encode(type, back, 1, N, 0, second, NULL), BITLM_OK);
    ck_assert_mem_eq(bytes, second, sizeof bytes);
    bl_decode_row(type, second, 1, N, 0, again);
    ck_assert_mem_eq(back, again, sizeof back);
}
END_TEST

/* Signs with a scale for 128: every weight is plus or minus the mean magnitude, which is the scale of the least squared
 * error; what was read back is written as the same bytes. */
START_TEST(signs_have_the_best_scale) {
    enum { N = 128 * 400 };
    static float x[N], back[N];
    static uint8_t bytes[N / 128 * 18], second[N / 128 * 18];
    for (int i = 0; i < N; i++) {
        int block = i / 128;
        x[i] = block % 4 == 0   ? draw_normal() * ldexpf(1, block % 20 - 15)
               : block % 4 == 1 ? (draw() % 3 ? draw_normal() : i & 1 ? 0.0f : -0.0f)
               : block % 4 == 2 ? any_finite(60000.0f)
                                : (i & 1 ? 65000.0f : -65000.0f);
    }
    ck_assert_int_eq(bl_encode(BL_TYPE_Q1_0, x, 1, N, 0, bytes, NULL), BITLM_OK);
    bl_decode_row(BL_TYPE_Q1_0, bytes, 1, N, 0, back);
    for (int b = 0; b < N; b += 128) {
        double d = fabs((double)back[b]), mean = 0, error[3] = {0};
        for (int j = b; j < b + 128; j++)
            mean += fabs((double)x[j]) / 128;
        ck_assert_double_eq_tol(d, mean, mean * 0x1p-10 + 0x1p-24);
        for (int j = b; j < b + 128; j++) {
            ck_assert_double_eq(fabs((double)back[j]), d);
            ck_assert(d == 0 || (signbit(back[j]) != 0) == (x[j] < 0)); /* -0 is not less */
            for (int k = 0; k < 3; k++)
                error[k] += pow((double)x[j] - (double)back[j] * (0.98 + 0.02 * k), 2);
        }
        ck_assert(mean < 1e-4 || (error[1] < error[0] && error[1] < error[2]));
    }
    ck_assert_int_eq(bl_encode(BL_TYPE_Q1_0, back, 1, N, 0, second, NULL), BITLM_OK);
    ck_assert_mem_eq(bytes, second, sizeof bytes);
}
END_TEST

/* Zeros, denormals and the largest numbers: values stay finite, zeros stay zeros. */
START_TEST(extremes) {
    enum { N = 512 };
    float x[N] = {0}, back[N];
    uint8_t bytes[4 * N + 32];
    bitlm_error error = {sizeof error, 0, 0, ""};
    int32_t type = encoded_types[_i];
    ck_assert_int_eq(bl_encode(type, x, 1, N, 0, bytes, &error), BITLM_OK);
    bl_decode_row(type, bytes, 1, N, 0, back);
    for (int i = 0; i < N; i++)
        ck_assert_float_eq(back[i], 0);
    for (int i = 0; i < N; i++) /* denormals of every size, in one block and alone */
        x[i] = i < 256 ? float_of((uint32_t)draw() & 0x807fffff) : i % 32 ? 0 : 1e-45f;
    ck_assert_int_eq(bl_encode(type, x, 1, N, 0, bytes, &error), BITLM_OK);
    bl_decode_row(type, bytes, 1, N, 0, back);
    for (int i = 0; i < N; i++) {
        ck_assert_msg(fabsf(back[i]) <= 2e-38f, "%s: %a of %a", name_of(type), (double)back[i], (double)x[i]);
        if (type == BL_TYPE_F32)
            ck_assert_float_eq(back[i], x[i]);
    }
    for (int i = 0; i < N; i++)
        x[i] = i & 1 ? 65000.0f : -65000.0f;
    ck_assert_int_eq(bl_encode(type, x, 1, N, 0, bytes, &error), BITLM_OK);
    bl_decode_row(type, bytes, 1, N, 0, back);
    for (int i = 0; i < N; i++)
        ck_assert_msg(fabsf(back[i] - x[i]) <= 300 + (type == BL_TYPE_Q4_0 ? 65000 / 8 : type == BL_TYPE_Q6_K ? 65000 / 32 : 0),
                      "%s: %g", name_of(type), (double)back[i]);
    x[300] = 3e38f;
    bitlm_status status = bl_encode(type, x, 1, N, 0, bytes, &error);
    if (type == BL_TYPE_F32 || type == BL_TYPE_BF16 || type == BL_TYPE_I2_S) {
        ck_assert_int_eq(status, BITLM_OK);
    } else { /* the half float would be infinite */
        ck_assert_int_eq(status, BITLM_ARG);
        ck_assert_ptr_nonnull(strstr(error.text, "too large"));
        ck_assert_ptr_nonnull(strstr(error.text, name_of(type)));
    }
    x[300] = 3.4028235e38f;
    if (type == BL_TYPE_BF16)
        ck_assert_int_eq(bl_encode(type, x, 1, N, 0, bytes, &error), BITLM_ARG);
}
END_TEST

START_TEST(refusals) {
    enum { N = 512 };
    static float x[2 * N];
    static uint8_t bytes[8 * N + 32];
    bitlm_error error = {sizeof error, 0, 0, ""};
    int32_t type = encoded_types[_i];
    const float bad[] = {NAN, -NAN, INFINITY, -INFINITY};
    const char *text[] = {"nan", "nan", "inf", "-inf"};
    for (int i = 0; i < 4; i++) {
        x[N + 130] = bad[i];
        ck_assert_int_eq(bl_encode(type, x, 2, N, 0, bytes, &error), BITLM_ARG);
        ck_assert_msg(strstr(error.text, "weight 130 of row 1 is") && strstr(error.text, text[i]), "%s",
                      error.text);
    }
    x[N + 130] = 0;
    if (bl_tensor_type_find(type)->block > 1)
        ck_assert_int_eq(bl_encode(type, x, 1, 16, 0, bytes, &error), BITLM_ARG);
    ck_assert_int_eq(bl_encode(type, x, (uint64_t)1 << 62, 512, 0, bytes, NULL), BITLM_ARG);
    if (type == BL_TYPE_I2_S) {
        ck_assert_int_eq(bl_encode(type, x, 1, N, NAN, bytes, &error), BITLM_ARG);
        ck_assert_int_eq(bl_encode(type, x, 1, N, INFINITY, bytes, &error), BITLM_ARG);
    }
}
END_TEST

START_TEST(what_is_written) {
    float x[512] = {0};
    uint8_t bytes[4096];
    bitlm_error error = {sizeof error, 0, 0, ""};
    int n = 0;
    for (size_t i = 0; i < BL_COUNT(all_types); i++) {
        bitlm_status status = bl_encode(all_types[i], x, 1, 512, 0, bytes, &error);
        ck_assert_int_eq(status, bl_can_encode(all_types[i]) ? BITLM_OK : BITLM_ARG);
        n += bl_can_encode(all_types[i]);
    }
    ck_assert_int_eq(n, (int)BL_COUNT(encoded_types));
    ck_assert_int_eq(bl_encode(38, x, 1, 512, 0, bytes, &error), BITLM_ARG);
}
END_TEST

/* Inputs in fewer bits: the formulas in double, the larger half by sorting, and binary weights against signs as
 * bits and as int8. */
static int by_magnitude(const void *a, const void *b) {
    float x = fabsf(*(const float *)a), y = fabsf(*(const float *)b);
    return (x < y) - (x > y);
}

START_TEST(activation_forms) {
    enum { MOST = 700 };
    static float x[MOST], sorted[MOST];
    static int8_t q[MOST];
    for (int64_t n = 1; n <= MOST; n += n < 40 ? 1 : 33) {
        int32_t sum, total = 0;
        double mean = 0;
        for (int64_t i = 0; i < n; i++) {
            x[i] = n % 5 == 4 ? (float)((int)(draw() % 7) - 3) : draw_normal(); /* many equal ones, or none */
            mean += fabs((double)x[i]) / (double)n;
        }
        float s = bl_quant_row_int4(x, n, q, &sum);
        ck_assert_double_eq_tol((double)s * (mean + 1e-5), sqrt(7.0), 1e-5);
        for (int64_t i = 0; i < n; i++) {
            double v = (double)x[i] * (double)s;
            EXPECT(q[i] >= -8 && q[i] <= 7 && (fabs(v - q[i]) <= 0.500001 || (q[i] == 7 && v > 7) || (q[i] == -8 && v < -8)));
            total += q[i];
        }
        ck_assert_int_eq(sum, total);

        s = bl_quant_row_sign(x, n, q, &sum);
        total = 0;
        for (int64_t i = 0; i < n; i++) {
            EXPECT(q[i] == (x[i] > 0.0f ? 1 : -1));
            total += q[i];
        }
        ck_assert_int_eq(sum, total);
        if (mean > 0)
            ck_assert_double_eq_tol((double)s * mean, 1.0, 1e-5);

        for (int64_t i = 0; i < n; i++)
            q[i] = 1;
        bl_keep_larger_half(x, n, q, &sum);
        ck_assert_int_eq(sum, (n + 1) / 2);
        memcpy(sorted, x, sizeof sorted);
        qsort(sorted, (size_t)n, sizeof *sorted, by_magnitude);
        float least = fabsf(sorted[(n + 1) / 2 - 1]);
        int dropped = 0; /* an equal one before: then none after it is kept */
        for (int64_t i = 0; i < n; i++) {
            EXPECT(fabsf(x[i]) > least ? q[i] == 1 : fabsf(x[i]) < least ? q[i] == 0 : !(dropped && q[i]));
            dropped |= fabsf(x[i]) == least && !q[i];
        }
    }
    x[5] = INFINITY;
    int32_t sum = 1;
    ck_assert(isnan(bl_quant_row_int4(x, 40, q, &sum)) && sum == 0 && q[5] == 0);
    x[5] = NAN;
    ck_assert(isnan(bl_quant_row_sign(x, 40, q, &sum)) && sum == 0 && q[5] == 0);
}
END_TEST

START_TEST(signs_as_bits_and_as_int8) {
    enum { K = 384, N = 9, T = 3 };
    static uint8_t w[K / 128 * 18 * N], bits[T * K / 8];
    static int8_t q[T * K];
    static float xd[T], xd_groups[T * K / 128], weights[N * K], a[T * N], b[T * N];
    static int32_t sums[T * K / 128];
    void *scratch = aligned_alloc(64, (bl_group_scratch(K) + 63) / 64 * 64);
    for (size_t i = 0; i < N * K; i++)
        weights[i] = draw_normal();
    ck_assert_int_eq(bl_encode(BL_TYPE_Q1_0, weights, N, K, 0.0f, w, NULL), BITLM_OK);
    for (size_t t = 0; t < T; t++) {
        xd[t] = 0.5f + (float)t;
        for (size_t i = 0; i < K; i++)
            q[t * K + i] = draw() & 1 ? 1 : -1;
        for (size_t g = 0; g < K / 128; g++)
            xd_groups[t * (K / 128) + g] = xd[t];
        bl_pack_signs(q + t * K, K, bits + t * K / 8);
    }
    bl_binary_rows_ref(w, K, 0, N, bits, K / 8, xd, T, a, N);
    bl_kernels_ref.group_i8(BL_TYPE_Q1_0, w, K, 0, N, q, K, xd_groups, sums, T, 1, b, N, scratch);
    ck_assert_mem_eq(a, b, sizeof a);
    free(scratch);
}
END_TEST

START_TEST(binarize) {
    float x[19];
    uint8_t out[4] = {0xaa, 0xaa, 0xaa, 0xaa};
    for (int i = 0; i < 19; i++)
        x[i] = i % 3 == 0 ? 1.0f : i % 3 == 1 ? 0.0f : -1.0f;
    x[6] = NAN;
    bl_binarize(x, 19, 0, out);
    /* bits 0 3 9 12 15 18, MSB first; 6 is a NaN and no number is greater */
    ck_assert_uint_eq(out[0], 0x90);
    ck_assert_uint_eq(out[1], 0x49);
    ck_assert_uint_eq(out[2], 0x20);
    ck_assert_uint_eq(out[3], 0xaa);
    bl_binarize(x, 8, -0.5f, out);
    ck_assert_uint_eq(out[0], 0xd9);
    bl_binarize(x, 0, 0, out);
    ck_assert_uint_eq(out[0], 0xd9);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("quant");
    TCase *tests = tcase_create("quant");
    printf("seed %d\n", SEED);
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, table_is_consistent);
    tcase_add_test(tests, half_floats);
    tcase_add_loop_test(tests, golden_decode, 0, (int)BL_COUNT(all_types));
    tcase_add_loop_test(tests, golden_encode, 0, (int)BL_COUNT(encode_goldens));
    tcase_add_test(tests, i2_s_is_flat);
    tcase_add_loop_test(tests, trits_round_trip, 0, (int)BL_COUNT(trit_types));
    tcase_add_test(tests, error_is_bounded);
    tcase_add_test(tests, group_errors);
    tcase_add_test(tests, group_types_hold_their_own);
    tcase_add_loop_test(tests, floats_round_to_the_nearest, 0, 2);
    tcase_add_test(tests, signs_have_the_best_scale);
    tcase_add_loop_test(tests, extremes, 0, (int)BL_COUNT(encoded_types));
    tcase_add_loop_test(tests, refusals, 0, (int)BL_COUNT(encoded_types));
    tcase_add_test(tests, what_is_written);
    tcase_add_test(tests, activation_forms);
    tcase_add_test(tests, signs_as_bits_and_as_int8);
    tcase_add_test(tests, binarize);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
