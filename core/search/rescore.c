/* rescore.c - a float query against what a search by codes found: better order for little work.
 *
 * bitlm_query_planes gives the query 16 levels for the scan itself; bitlm_rescore takes products of the float
 * query with the candidates' codes (as +1 and -1), int8 or float vectors, in the order of sums that is
 * the same on every CPU.
 *
 * Called through bitlm.h. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "search/search.h"

/* The step of the best uniform quantizer of 16 levels for a normal variable. */
#define STEP 0.335f

void bitlm_query_planes(const float *values, size_t n, uint8_t *out) {
    bl_float_env env;
    size_t bytes = n / 8;
    bl_float_enter(&env);
    memset(out, 0, 4 * bytes);
    float mean = n ? bl_kernels_usual()->dot_f32(values, values, (int64_t)n) / (float)n : 0.0f;
    float step = sqrtf(mean) * STEP;
    for (size_t i = 0; i < bytes * 8; i++) {
        float level = values[i] / step + 8.0f; /* NaN, of a zero query too, is level 0 */
        unsigned u = level >= 15.0f ? 15u : level > 0.0f ? (unsigned)level : 0u;
        for (size_t p = 0; p < 4; p++)
            out[p * bytes + i / 8] |= (uint8_t)((u >> p & 1u) << (7 - i % 8));
    }
    bl_float_leave(&env);
}

typedef struct scored {
    float score;
    int64_t row;
} scored;

/* NaN comes last. */
static int better_first(const void *a, const void *b) {
    const scored *x = a, *y = b;
    int x_nan = x->score != x->score, y_nan = y->score != y->score;
    if (x_nan != y_nan)
        return x_nan ? 1 : -1;
    if (!x_nan && x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return x->row < y->row ? -1 : x->row > y->row;
}

static void to_floats(int32_t type, const uint8_t *vector, size_t dim, float *out) {
    if (type == BITLM_VECTOR_F32) {
        memcpy(out, vector, dim * sizeof *out);
    } else if (type == BITLM_VECTOR_INT8) {
        for (size_t i = 0; i < dim; i++)
            out[i] = (float)(int8_t)vector[i];
    } else {
        for (size_t i = 0; i < dim; i++)
            out[i] = vector[i / 8] >> (7 - i % 8) & 1 ? 1.0f : -1.0f;
    }
}

bitlm_status bitlm_rescore(int32_t type, const void *vectors, size_t n, size_t dim, const float *query,
                           const bitlm_host *host, int64_t *rows, float *scores, size_t n_rows,
                           bitlm_error *error) {
    bl_alloc alloc = bl_alloc_from_host(host);
    bl_float_env env;
    bl_poll poll;
    scored *order = NULL;
    float *vector = NULL;
    bitlm_status status = BITLM_OK;

    bl_error_clear(error);
    if (type < BITLM_VECTOR_BITS || type > BITLM_VECTOR_F32)
        return bl_error(error, BITLM_ARG, "the vectors' type is %d, but must be 0 (bits), 1 (int8) or 2 (f32)", type);
    if (dim < 8 || dim > 16384 || (type == BITLM_VECTOR_BITS && dim % 8))
        return bl_error(error, BITLM_ARG, "vectors of %zu values, but there may be 8 to 16384, of bits a multiple of 8",
                        dim);
    if (n_rows && (!vectors || !query || !rows || !scores))
        return bl_error(error, BITLM_ARG, "an argument is NULL");
    for (size_t i = 0; i < n_rows; i++) {
        if (rows[i] < 0 || (uint64_t)rows[i] >= n)
            return bl_error(error, BITLM_ARG, "row %lld, but there are %zu vectors", (long long)rows[i], n);
    }
    if (n_rows == 0)
        return BITLM_OK;
    size_t bytes = type == BITLM_VECTOR_BITS ? dim / 8 : type == BITLM_VECTOR_INT8 ? dim : dim * sizeof(float);
    order = bl_calloc(&alloc, n_rows, sizeof *order);
    vector = bl_calloc(&alloc, dim, sizeof *vector);
    if (!order || !vector) {
        status = bl_error_nomem(error, n_rows * sizeof *order, "the scores");
        goto fail;
    }
    bl_float_enter(&env);
    bl_poll_init(&poll, host, &env, 0);
    for (size_t i = 0; i < n_rows && status == BITLM_OK; i++) {
        if (i % 64 == 0)
            status = bl_poll_check(&poll);
        to_floats(type, (const uint8_t *)vectors + (size_t)rows[i] * bytes, dim, vector);
        order[i].score = bl_kernels_usual()->dot_f32(query, vector, (int64_t)dim);
        order[i].row = rows[i];
    }
    bl_float_leave(&env);
    if (status != BITLM_OK) {
        status = bl_poll_error(&poll, error);
        goto fail;
    }
    qsort(order, n_rows, sizeof *order, better_first);
    for (size_t i = 0; i < n_rows; i++) {
        rows[i] = order[i].row;
        scores[i] = order[i].score;
    }
fail:
    bl_free(&alloc, vector);
    bl_free(&alloc, order);
    return status;
}
