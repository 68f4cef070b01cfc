/* checkkernels_bench.c - rates of the kernels: GB/s of what they read, GOP/s of products (two
 * operations each), against plain C and against the machine's limits in the same run.
 *
 * One thread, timed by its own CPU clock so that other programs disturb little.  "cold" weights are walked over 256 MB, so they come from memory.  Called by
 * checkkernels --bench. */
#define _GNU_SOURCE
#include "checkkernels_bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "kernels/kernels.h"
#include "limits_avx2.h"
#include "limits_isa.h"

#define COLD_BYTES ((size_t)256 << 20)

static uint8_t *cold;           /* random bytes; every f16 in them is finite */
static float *fa, *fb, *fc;     /* fa, fb: 1 << 20 floats; fc: ROWS * TOKENS */
static int8_t *xq;
static int32_t *xsum;
static uint8_t *scratch;
static volatile float sink;

typedef struct measure {
    const char *name;
    void (*run)(const bl_kernels *kernels, int64_t turn); /* once */
    double bytes, ops;                                    /* of one turn */
    int limit;                                            /* 0 none, 1 read bandwidth, 2 int8 products */
} measure;

enum { K = 2560, ROWS = 6912, TOKENS = 256, HEAD = 2560 };

static const uint8_t *walk(int64_t turn, size_t bytes) {
    size_t n = COLD_BYTES / bytes;
    return cold + (size_t)turn % n * bytes;
}

static void ternary(const bl_kernels *k, int32_t type, int64_t turn, int64_t rows, int64_t n_tok) {
    const uint8_t *w = walk(turn, (size_t)(bl_row_bytes(type, K) * rows));
    for (int64_t r = 0; r < rows; r += 64) {
        k->ternary_i8(type, w, K, r, BL_MIN(r + 64, rows), xq, K, xsum, fb, n_tok, fc, rows, scratch);
    }
}

static void i2_s_1(const bl_kernels *k, int64_t turn) { ternary(k, BL_TYPE_I2_S, turn, ROWS, 1); }
static void i2_s_2(const bl_kernels *k, int64_t turn) { ternary(k, BL_TYPE_I2_S, turn, ROWS, 2); }
static void i2_s_4(const bl_kernels *k, int64_t turn) { ternary(k, BL_TYPE_I2_S, turn, ROWS, 4); }
static void i2_s_warm(const bl_kernels *k, int64_t turn) { ternary(k, BL_TYPE_I2_S, turn & 1, 64, 1); }
static void i2_s_8(const bl_kernels *k, int64_t turn) { ternary(k, BL_TYPE_I2_S, turn, 1024, 8); }
static void i2_s_256(const bl_kernels *k, int64_t turn) { ternary(k, BL_TYPE_I2_S, turn, 256, TOKENS); }
static void tq2_0_1(const bl_kernels *k, int64_t turn) { ternary(k, BL_TYPE_TQ2_0, turn, ROWS, 1); }
static void tq2_0_256(const bl_kernels *k, int64_t turn) { ternary(k, BL_TYPE_TQ2_0, turn, 256, TOKENS); }
static void tq1_0_1(const bl_kernels *k, int64_t turn) { ternary(k, BL_TYPE_TQ1_0, turn, ROWS, 1); }
static void tq1_0_256(const bl_kernels *k, int64_t turn) { ternary(k, BL_TYPE_TQ1_0, turn, 256, TOKENS); }

static void group(const bl_kernels *k, int32_t type, int64_t turn, int64_t rows, int64_t n_tok) {
    const uint8_t *w = walk(turn, (size_t)(bl_row_bytes(type, K) * rows));
    k->group_i8(type, w, K, 0, rows, xq, K, fa, xsum, n_tok, 1, fc, rows, scratch);
}

/* Of two rows of activations a token, as the types of 4 bits and more have them. */
static void group_2(const bl_kernels *k, int32_t type, int64_t turn, int64_t rows, int64_t n_tok) {
    const uint8_t *w = walk(turn, (size_t)(bl_row_bytes(type, K) * rows));
    k->group_i8(type, w, K, 0, rows, xq, K, fa, xsum, n_tok, 2, fc, rows, scratch);
}

static void q8_0_1(const bl_kernels *k, int64_t turn) { group(k, BL_TYPE_Q8_0, turn, 1024, 1); }
static void q4_0_1(const bl_kernels *k, int64_t turn) { group(k, BL_TYPE_Q4_0, turn, 1024, 1); }
static void q4_k_1(const bl_kernels *k, int64_t turn) { group(k, BL_TYPE_Q4_K, turn, 1024, 1); }
static void q6_k_1(const bl_kernels *k, int64_t turn) { group(k, BL_TYPE_Q6_K, turn, 1024, 1); }
static void q8_0_1_2(const bl_kernels *k, int64_t turn) { group_2(k, BL_TYPE_Q8_0, turn, 1024, 1); }
static void q4_k_1_2(const bl_kernels *k, int64_t turn) { group_2(k, BL_TYPE_Q4_K, turn, 1024, 1); }
static void q6_k_1_2(const bl_kernels *k, int64_t turn) { group_2(k, BL_TYPE_Q6_K, turn, 1024, 1); }
static void q4_k_8_2(const bl_kernels *k, int64_t turn) { group_2(k, BL_TYPE_Q4_K, turn, 1024, 8); }
static void q6_k_8_2(const bl_kernels *k, int64_t turn) { group_2(k, BL_TYPE_Q6_K, turn, 1024, 8); }
static void q6_k_64_2(const bl_kernels *k, int64_t turn) { group_2(k, BL_TYPE_Q6_K, turn, 64, 32); }
static void g_tq2_0_1(const bl_kernels *k, int64_t turn) { group(k, BL_TYPE_TQ2_0, turn, 1024, 1); }
static void g_q1_0_1(const bl_kernels *k, int64_t turn) { group(k, BL_TYPE_Q1_0, turn, 1024, 1); }
static void g_q2_0_1(const bl_kernels *k, int64_t turn) { group(k, BL_TYPE_Q2_0, turn, 1024, 1); }
static void q8_0_64(const bl_kernels *k, int64_t turn) { group(k, BL_TYPE_Q8_0, turn, 64, 64); }
static void q4_k_64(const bl_kernels *k, int64_t turn) { group(k, BL_TYPE_Q4_K, turn, 64, 64); }
static void q6_k_64(const bl_kernels *k, int64_t turn) { group(k, BL_TYPE_Q6_K, turn, 64, 64); }
static void g_tq2_0_64(const bl_kernels *k, int64_t turn) { group(k, BL_TYPE_TQ2_0, turn, 64, 64); }

static void binary(const bl_kernels *k, int64_t turn, int64_t rows, int64_t n_tok) {
    const uint8_t *w = walk(turn, (size_t)(bl_row_bytes(BL_TYPE_Q1_0, K) * rows));
    k->binary_rows(w, K, 0, rows, (const uint8_t *)xq, K / 8, fa, n_tok, fc, rows);
}

static void binary_1(const bl_kernels *k, int64_t turn) { binary(k, turn, 1024, 1); }
static void binary_64(const bl_kernels *k, int64_t turn) { binary(k, turn, 64, 64); }
static void g_q1_0_64(const bl_kernels *k, int64_t turn) { group(k, BL_TYPE_Q1_0, turn, 64, 64); }

static void rows_of(const bl_kernels *k, int32_t type, int64_t turn, int64_t rows, int64_t n_tok) {
    k->float_rows(type, walk(turn, (size_t)(bl_row_bytes(type, K) * rows)), K, 0, rows, fa, K, n_tok, fc, rows);
}

static void f16_1(const bl_kernels *k, int64_t turn) { rows_of(k, BL_TYPE_F16, turn, 1024, 1); }
static void bf16_1(const bl_kernels *k, int64_t turn) { rows_of(k, BL_TYPE_BF16, turn, 1024, 1); }
static void f32_1(const bl_kernels *k, int64_t turn) { rows_of(k, BL_TYPE_F32, turn, 1024, 1); }
static void f16_24(const bl_kernels *k, int64_t turn) { rows_of(k, BL_TYPE_F16, turn, 64, 24); }

static void rmsnorm(const bl_kernels *k, int64_t turn) {
    (void)turn;
    k->rmsnorm(fa, fb, HEAD, 1e-5f, fc);
}
static void quant_row(const bl_kernels *k, int64_t turn) {
    int32_t sum;
    (void)turn;
    sink = k->quant_row(fa, HEAD, (int8_t *)scratch, &sum);
}
static void quant_groups(const bl_kernels *k, int64_t turn) {
    (void)turn;
    k->quant_groups(fa, HEAD, 32, (int8_t *)scratch, fc, (int32_t *)scratch + HEAD);
}
static void fit_q4_k(const bl_kernels *k, int64_t turn) {
    (void)turn;
    k->fit_q4_k(fa, HEAD / 32, fc, fc + HEAD);
}
static void fit_q6_k(const bl_kernels *k, int64_t turn) {
    (void)turn;
    k->fit_q6_k(fa, HEAD / 16, fc);
}
static void widen_f16(const bl_kernels *k, int64_t turn) {
    (void)turn;
    k->widen(BL_TYPE_F16, cold, HEAD, fc);
}
static void widen_bf16(const bl_kernels *k, int64_t turn) {
    (void)turn;
    k->widen(BL_TYPE_BF16, cold, HEAD, fc);
}
static void round_groups(const bl_kernels *k, int64_t turn) {
    (void)turn;
    k->round_groups(fa, HEAD, 32, fb, fb + HEAD, 0, 15, (int8_t *)scratch);
}
static void relu2_mul(const bl_kernels *k, int64_t turn) {
    (void)turn;
    k->relu2_mul(fa, fb, HEAD, fc);
}
static void silu_mul(const bl_kernels *k, int64_t turn) {
    (void)turn;
    k->silu_mul(fa, fb, HEAD, fc);
}
static void rope(const bl_kernels *k, int64_t turn) {
    (void)turn;
    memcpy(fc, fa + 512, 128 * sizeof *fc);
    k->rope(fc, fa, fb, 128, 1);
}
static void softmax(const bl_kernels *k, int64_t turn) {
    (void)turn;
    memcpy(fc, fa, 512 * sizeof *fc);
    k->softmax(fc, 500, 512);
}
static void exp_sum(const bl_kernels *k, int64_t turn) {
    float m;
    (void)turn;
    sink = k->exp_sum(fa, 32000, &m);
}
static void scores_f16(const bl_kernels *k, int64_t turn) {
    (void)turn;
    k->scores_f16(fa, 128, 4, (const uint16_t *)(const void *)cold, 32, 128, 0.1f, fc, 512);
}
static void scores_f32(const bl_kernels *k, int64_t turn) {
    (void)turn;
    k->scores_f32(fa, 128, 4, fb, 32, 128, 0.1f, fc, 512);
}
static void mix_f16(const bl_kernels *k, int64_t turn) {
    (void)turn;
    k->mix_f16(fa, 512, 4, (const uint16_t *)(const void *)cold, 128, 512, 128, fc, 128);
}
static void mix_f32(const bl_kernels *k, int64_t turn) {
    (void)turn;
    k->mix_f32(fa, 512, 4, fb, 128, 512, 128, fc, 128);
}
static void scores_i8(const bl_kernels *k, int64_t turn) {
    (void)turn;
    k->scores_int(8, xq, 128, fa, 4, cold, fb, 32, 128, 0.1f, fc, 512);
}
static void mix_i8(const bl_kernels *k, int64_t turn) {
    (void)turn;
    k->mix_int(8, (const uint8_t *)fb, 512, fa, 8, 4, cold, 512, 128, fc, 128);
}
static void scores_f16_8(const bl_kernels *k, int64_t turn) {
    (void)turn;
    k->scores_f16(fa, 128, 8, (const uint16_t *)(const void *)cold, 32, 128, 0.1f, fc, 512);
}
static void mix_f16_8(const bl_kernels *k, int64_t turn) {
    (void)turn;
    k->mix_f16(fa, 512, 8, (const uint16_t *)(const void *)cold, 128, 512, 128, fc, 128);
}
static void scores_i8_8(const bl_kernels *k, int64_t turn) {
    (void)turn;
    k->scores_int(8, xq, 128, fa, 8, cold, fb, 32, 128, 0.1f, fc, 512);
}
static void mix_i8_8(const bl_kernels *k, int64_t turn) {
    (void)turn;
    k->mix_int(8, (const uint8_t *)fb, 512, fa, 8, 8, cold, 512, 128, fc, 128);
}
static void scores_i4_8(const bl_kernels *k, int64_t turn) {
    (void)turn;
    k->scores_int(4, xq, 128, fa, 8, cold, fb, 32, 128, 0.1f, fc, 512);
}
static void mix_i4_8(const bl_kernels *k, int64_t turn) {
    (void)turn;
    k->mix_int(4, (const uint8_t *)fb, 512, fa, 8, 8, cold, 512, 128, fc, 128);
}
/* A head of a long text, one query: K and V from memory. */
static void scores_f16_cold(const bl_kernels *k, int64_t turn) {
    k->scores_f16(fa, 128, 1, (const uint16_t *)(const void *)walk(turn, 4096 * 256), 256, 128, 0.1f, fc, 4096);
}
static void mix_f16_cold(const bl_kernels *k, int64_t turn) {
    k->mix_f16(fa, 4096, 1, (const uint16_t *)(const void *)walk(turn, 4096 * 256), 128, 4096, 128, fc, 128);
}
static void scores_i8_cold(const bl_kernels *k, int64_t turn) {
    k->scores_int(8, xq, 128, fa, 4, walk(turn, 4096 * 128), fb, 256, 128, 0.1f, fc, 4096);
}
static void mix_i8_cold(const bl_kernels *k, int64_t turn) {
    k->mix_int(8, (const uint8_t *)fb, 4096, fa, 64, 4, walk(turn, 4096 * 128), 4096, 128, fc, 128);
}
static void quant_probs(const bl_kernels *k, int64_t turn) {
    (void)turn;
    k->quant_probs(fa, fb, 512, (uint8_t *)scratch, fc);
}
static void dot_f32(const bl_kernels *k, int64_t turn) {
    (void)turn;
    sink = k->dot_f32(fa, fb, HEAD);
}
static void store_v(const bl_kernels *k, int64_t turn) {
    (void)turn;
    k->store_v_f16(fa, HEAD, (uint16_t *)(void *)scratch);
}
static void hamming_48(const bl_kernels *k, int64_t turn) {
    uint64_t bits = 0;
    for (int64_t i = 0; i < 1000; i++) {
        bits += k->hamming((const uint8_t *)fa, cold + i * 48, 48);
    }
    sink = (float)(bits + (uint64_t)turn);
}
static void below_48(const bl_kernels *k, int64_t turn) {
    static uint32_t rows[1000], distances[1000];
    (void)turn;
    sink = (float)k->hamming_below((const uint8_t *)fa, cold, 1000, 48, 100, rows, distances);
}

static void below_cold(const bl_kernels *k, int64_t turn, int64_t bytes) {
    static uint32_t rows[20000], distances[20000];
    sink = (float)k->hamming_below((const uint8_t *)fa, walk(turn, (size_t)(20000 * bytes)), 20000, bytes, 50, rows,
                                   distances);
}
static void below_32_cold(const bl_kernels *k, int64_t turn) { below_cold(k, turn, 32); }
static void below_48_cold(const bl_kernels *k, int64_t turn) { below_cold(k, turn, 48); }
static void below_96_cold(const bl_kernels *k, int64_t turn) { below_cold(k, turn, 96); }
static void below_128_cold(const bl_kernels *k, int64_t turn) { below_cold(k, turn, 128); }

static void hamming_4k(const bl_kernels *k, int64_t turn) {
    (void)turn;
    sink = (float)k->hamming((const uint8_t *)fa, (const uint8_t *)fb, 4096);
}

#define BYTES(bits, rows) ((double)(bits) / 8 * K * (rows))
#define OPS(rows, tokens) (2.0 * K * (rows) * (tokens))

static const measure measures[] = {
    {"ternary_i8/I2_S 1 token, cold", i2_s_1, BYTES(2, ROWS), OPS(ROWS, 1), 1},
    {"ternary_i8/I2_S 1 token, warm", i2_s_warm, BYTES(2, 64), OPS(64, 1), 2},
    {"ternary_i8/I2_S 2 tokens, cold", i2_s_2, BYTES(2, ROWS), OPS(ROWS, 2), 1},
    {"ternary_i8/I2_S 4 tokens, cold", i2_s_4, BYTES(2, ROWS), OPS(ROWS, 4), 1},
    {"ternary_i8/I2_S 8 tokens", i2_s_8, BYTES(2, 1024), OPS(1024, 8), 2},
    {"ternary_i8/I2_S 256 tokens", i2_s_256, BYTES(2, 256), OPS(256, TOKENS), 2},
    {"ternary_i8/TQ2_0 1 token, cold", tq2_0_1, BYTES(2.0625, ROWS), OPS(ROWS, 1), 1},
    {"ternary_i8/TQ2_0 256 tokens", tq2_0_256, BYTES(2.0625, 256), OPS(256, TOKENS), 2},
    {"ternary_i8/TQ1_0 1 token, cold", tq1_0_1, BYTES(1.6875, ROWS), OPS(ROWS, 1), 1},
    {"ternary_i8/TQ1_0 256 tokens", tq1_0_256, BYTES(1.6875, 256), OPS(256, TOKENS), 2},
    {"group_i8/Q8_0 1 token, cold", q8_0_1, BYTES(8.5, 1024), OPS(1024, 1), 1},
    {"group_i8/Q4_0 1 token, cold", q4_0_1, BYTES(4.5, 1024), OPS(1024, 1), 1},
    {"group_i8/Q4_K 1 token, cold", q4_k_1, BYTES(4.5, 1024), OPS(1024, 1), 1},
    {"group_i8/Q6_K 1 token, cold", q6_k_1, BYTES(6.5625, 1024), OPS(1024, 1), 1},
    {"group_i8/Q8_0 1 token x 2, cold", q8_0_1_2, BYTES(8.5, 1024), OPS(1024, 2), 1},
    {"group_i8/Q4_K 1 token x 2, cold", q4_k_1_2, BYTES(4.5, 1024), OPS(1024, 2), 1},
    {"group_i8/Q6_K 1 token x 2, cold", q6_k_1_2, BYTES(6.5625, 1024), OPS(1024, 2), 1},
    {"group_i8/Q4_K 8 tokens x 2", q4_k_8_2, BYTES(4.5, 1024), OPS(1024, 16), 2},
    {"group_i8/Q6_K 8 tokens x 2", q6_k_8_2, BYTES(6.5625, 1024), OPS(1024, 16), 2},
    {"group_i8/Q6_K 32 tokens x 2", q6_k_64_2, BYTES(6.5625, 64), OPS(64, 64), 2},
    {"group_i8/TQ2_0 1 token, cold", g_tq2_0_1, BYTES(2.0625, 1024), OPS(1024, 1), 1},
    {"group_i8/Q1_0 1 token, cold", g_q1_0_1, BYTES(1.125, 1024), OPS(1024, 1), 1},
    {"group_i8/Q2_0 1 token, cold", g_q2_0_1, BYTES(2.25, 1024), OPS(1024, 1), 1},
    {"group_i8/Q8_0 64 tokens", q8_0_64, BYTES(8.5, 64), OPS(64, 64), 2},
    {"group_i8/Q4_K 64 tokens", q4_k_64, BYTES(4.5, 64), OPS(64, 64), 2},
    {"group_i8/Q6_K 64 tokens", q6_k_64, BYTES(6.5625, 64), OPS(64, 64), 2},
    {"group_i8/TQ2_0 64 tokens", g_tq2_0_64, BYTES(2.0625, 64), OPS(64, 64), 2},
    {"group_i8/Q1_0 64 tokens", g_q1_0_64, BYTES(1.125, 64), OPS(64, 64), 2},
    {"binary_rows/Q1_0 1 token, cold", binary_1, BYTES(1.125, 1024), OPS(1024, 1), 1},
    {"binary_rows/Q1_0 64 tokens", binary_64, BYTES(1.125, 64), OPS(64, 64), 2},
    {"float_rows/F16 1 token, cold", f16_1, BYTES(16, 1024), OPS(1024, 1), 1},
    {"float_rows/BF16 1 token, cold", bf16_1, BYTES(16, 1024), OPS(1024, 1), 1},
    {"float_rows/F32 1 token, cold", f32_1, BYTES(32, 1024), OPS(1024, 1), 1},
    {"float_rows/F16 24 tokens", f16_24, BYTES(16, 64), OPS(64, 24), 0},
    {"rmsnorm", rmsnorm, 4.0 * HEAD * 2, 0, 0},
    {"quant_row", quant_row, 4.0 * HEAD, 0, 0},
    {"quant_groups", quant_groups, 4.0 * HEAD, 0, 0},
    {"fit_q4_k", fit_q4_k, 4.0 * HEAD, 0, 0},
    {"fit_q6_k", fit_q6_k, 4.0 * HEAD, 0, 0},
    {"widen/F16", widen_f16, 2.0 * HEAD, 0, 0},
    {"widen/BF16", widen_bf16, 2.0 * HEAD, 0, 0},
    {"round_groups", round_groups, 4.0 * HEAD, 0, 0},
    {"relu2_mul", relu2_mul, 4.0 * HEAD * 2, 0, 0},
    {"silu_mul", silu_mul, 4.0 * HEAD * 2, 0, 0},
    {"rope", rope, 4.0 * 128, 0, 0},
    {"softmax", softmax, 4.0 * 500, 0, 0},
    {"exp_sum", exp_sum, 4.0 * 32000, 0, 0},
    {"store_v_f16", store_v, 4.0 * HEAD, 0, 0},
    {"scores_f16", scores_f16, 2.0 * 512 * 128, 2.0 * 4 * 512 * 128, 0},
    {"scores_f32", scores_f32, 4.0 * 512 * 128, 2.0 * 4 * 512 * 128, 0},
    {"mix_f16", mix_f16, 2.0 * 512 * 128, 2.0 * 4 * 512 * 128, 0},
    {"scores_int, int8", scores_i8, 512 * 128, 2.0 * 4 * 512 * 128, 0},
    {"mix_int, int8", mix_i8, 512 * 128, 2.0 * 4 * 512 * 128, 0},
    {"scores_f16, 8 queries", scores_f16_8, 2.0 * 512 * 128, 2.0 * 8 * 512 * 128, 0},
    {"mix_f16, 8 queries", mix_f16_8, 2.0 * 512 * 128, 2.0 * 8 * 512 * 128, 0},
    {"scores_int, int8, 8 queries", scores_i8_8, 512 * 128, 2.0 * 8 * 512 * 128, 0},
    {"mix_int, int8, 8 queries", mix_i8_8, 512 * 128, 2.0 * 8 * 512 * 128, 0},
    {"scores_int, int4, 8 queries", scores_i4_8, 512 * 64, 2.0 * 8 * 512 * 128, 0},
    {"mix_int, int4, 8 queries", mix_i4_8, 512 * 64, 2.0 * 8 * 512 * 128, 0},
    {"scores_f16, 1 query, cold", scores_f16_cold, 2.0 * 4096 * 128, 2.0 * 4096 * 128, 1},
    {"mix_f16, 1 query, cold", mix_f16_cold, 2.0 * 4096 * 128, 2.0 * 4096 * 128, 1},
    {"scores_int, int8, cold", scores_i8_cold, 4096 * 128, 2.0 * 4 * 4096 * 128, 1},
    {"mix_int, int8, cold", mix_i8_cold, 4096 * 128, 2.0 * 4 * 4096 * 128, 1},
    {"quant_probs", quant_probs, 8.0 * 512, 0, 0},
    {"mix_f32", mix_f32, 4.0 * 512 * 128, 2.0 * 4 * 512 * 128, 0},
    {"dot_f32", dot_f32, 4.0 * HEAD * 2, 2.0 * HEAD, 0},
    {"hamming 48 bytes", hamming_48, 48.0 * 1000, 0, 0},
    {"hamming_below 48 bytes", below_48, 48.0 * 1000, 0, 0},
    {"hamming_below 32 bytes, cold", below_32_cold, 32.0 * 20000, 0, 1},
    {"hamming_below 48 bytes, cold", below_48_cold, 48.0 * 20000, 0, 1},
    {"hamming_below 96 bytes, cold", below_96_cold, 96.0 * 20000, 0, 1},
    {"hamming_below 128 bytes, cold", below_128_cold, 128.0 * 20000, 0, 1},
    {"hamming 4096 bytes", hamming_4k, 4096.0 * 2, 0, 0},
};

/* Nanoseconds of a turn: the best of a few stretches of 20 ms or one turn. */
static double time_of(const measure *m, const bl_kernels *kernels, int stretches) {
    double best = 1e30;
    int64_t turn = 0, batch = 1; /* turns between two looks at the clock, which takes half a microsecond itself */
    for (int i = 0; i < stretches; i++) {
        uint64_t start = limit_clock_ns(), t, last = 0;
        int64_t first = turn;
        do {
            for (int64_t j = 0; j < batch; j++) {
                m->run(kernels, turn++);
            }
            t = limit_clock_ns() - start;
            batch *= t - last < 100000 ? 2 : 1;
            last = t;
        } while (t < 20000000);
        double each = (double)t / (double)(turn - first);
        best = BL_MIN(best, each);
    }
    return best;
}

static int make_inputs(void) {
    const size_t n = (size_t)1 << 20;
    cold = malloc(COLD_BYTES);
    fa = malloc(n * sizeof *fa);
    fb = malloc(n * sizeof *fb);
    fc = calloc((size_t)ROWS * TOKENS, sizeof *fc);
    xq = malloc((size_t)K * TOKENS);
    xsum = calloc((size_t)K / 16 * TOKENS, sizeof *xsum);
    scratch = aligned_alloc(64, 1 << 20);
    if (cold == NULL || fa == NULL || fb == NULL || fc == NULL || xq == NULL || xsum == NULL || scratch == NULL) {
        return 0;
    }
    for (size_t i = 0; i < COLD_BYTES; i += 8) {
        /* Bytes below 0x40: every half anywhere is finite and below 2. */
        uint64_t r = bl_rng_u64(1, 2, i) & 0x3f3f3f3f3f3f3f3fu;
        memcpy(cold + i, &r, sizeof r);
    }
    for (size_t i = 0; i < n; i++) {
        fa[i] = (float)bl_rng_unit(2, 2, i) - 0.5f;
        fb[i] = (float)bl_rng_unit(3, 2, i) - 0.5f;
    }
    for (size_t i = 0; i < (size_t)K * TOKENS; i++) {
        xq[i] = (int8_t)((int)(bl_rng_u64(4, 2, i) % 255) - 127);
    }
    return 1;
}

/* GOP/s, the best of seven. */
static double vpdpbusd_rate(double (*run)(int n)) {
    double best = 0;
    for (int round = 0; round < 7; round++) {
        uint64_t start = limit_clock_ns();
        double done = run(200000);
        best = BL_MAX(best, done / (double)(limit_clock_ns() - start));
    }
    return best;
}

int bench_kernels(const char *only) {
    int result = 0;
    if (!make_inputs()) {
        fprintf(stderr, "checkkernels: out of memory\n");
        result = 2;
        goto fail;
    }
    double read_limit = limit_read_bandwidth(cold, COLD_BYTES), maddubs = limit_maddubs();
    uint32_t cpu = bl_cpu_detect();
    double vnni = cpu & (BL_CPU_AVXVNNI | BL_CPU_AVX512) ? vpdpbusd_rate(limit_run_vnni256) : 0;
    double vnni_512 = cpu & BL_CPU_AVX512 ? vpdpbusd_rate(limit_run_vnni512) : 0;
    printf("one thread; limits: read %.1f GB/s, vpmaddubsw + vpaddw %.0f GOP/s, vpdpbusd %.0f (256 bits) and %.0f "
           "(512 bits)\n", read_limit, maddubs, vnni, vnni_512);
    printf("%-32s %-7s %10s %10s %12s %10s\n", "kernel", "table", "GB/s", "GOP/s", "x plain C", "of limit");
    for (size_t i = 0; i < BL_COUNT(measures); i++) {
        const measure *m = &measures[i];
        if (only != NULL && strstr(m->name, only) == NULL) {
            continue;
        }
        double plain = 0;
        const bl_kernels *table;
        for (int n = 0; (table = table_nth(n)) != NULL; n++) {
            double t = time_of(m, table, n == 0 ? 1 : 7);
            plain = n == 0 ? t : plain;
            printf("%-32s %-7s %10.2f ", m->name, table->name, m->bytes / t);
            if (m->ops > 0) {
                printf("%10.1f ", m->ops / t);
            } else {
                printf("%10s ", "");
            }
            printf("%12.1f ", plain / t);
            double peak = table->cpu & BL_CPU_AVX512 ? vnni_512 : table->cpu & BL_CPU_AVXVNNI ? vnni : maddubs;
            double limit = m->limit == 1 ? read_limit : m->limit == 2 ? peak : 0;
            if (limit > 0) {
                printf("%9.0f%%", 100.0 * (m->limit == 2 ? m->ops : m->bytes) / t / limit);
            }
            printf("\n");
        }
    }
fail:
    free(cold);
    free(fa);
    free(fb);
    free(fc);
    free(xq);
    free(xsum);
    free(scratch);
    return result;
}
