/* sqlite_quantize.c - quantized vectors in SQL.
 *
 *     bitlm_quantize(f32, scheme [,opts])        float32 BLOB to a BLOB that knows its scheme, length and scales
 *     bitlm_dequantize(blob)                     back to a float32 BLOB
 *     bitlm_quantize_error(f32, scheme [,opts])  JSON: what a scheme loses, and what it costs
 *
 * Schemes and formulas: bitlm.h, "quantized vectors".  NULL in, NULL out.  All are pure: DETERMINISTIC and INNOCUOUS whatever
 * the arguments (stochastic rounding depends on the seed alone). */
#include "sqlite_adapter.h"

typedef struct quantized {
    const float *values;
    void *copy;  /* of the values, if they were not aligned */
    uint8_t *out;
    size_t n, bytes;
} quantized;

static bitlm_status quantize(bls_call *call, sqlite3_value **argv, quantized *q)
{
    const void *data;
    bitlm_text scheme;
    bitlm_status status;
    bitlm_host host;
    size_t length;

    if ((status = bls_blob(call, argv[0], "the vector", &data, &length)) ||
        (status = bls_floats(call, data, length, &q->values, &q->copy)) ||
        (status = bls_text(call, argv[1], "the scheme", &scheme)))
        return status;
    q->n = length / sizeof(float);
    status = bitlm_vector_bytes(scheme.data, scheme.length, q->n, &call->options, &q->bytes, &call->error);
    if (status)
        return status;
    q->out = sqlite3_malloc64(q->bytes);
    if (!q->out)
        return bls_error(call, BITLM_NOMEM, "out of memory");
    bls_host(call->state, &host);
    bls_enter(call->state);
    status = bitlm_vector_quantize_polled(scheme.data, scheme.length, q->values, q->n, &call->options, &host, q->out, q->bytes,
                                          &call->error);
    bls_leave(call->state);
    return status;
}

static bitlm_status dequantize(bls_call *call, const void *data, size_t bytes, float *out, size_t n)
{
    bitlm_status status;
    bitlm_host host;

    bls_host(call->state, &host);
    bls_enter(call->state);
    status = bitlm_vector_dequantize_polled(data, bytes, &host, out, n, &call->error);
    bls_leave(call->state);
    return status;
}

static int any_null(int argc, sqlite3_value **argv)
{
    return sqlite3_value_type(argv[0]) == SQLITE_NULL || (argc > 1 && sqlite3_value_type(argv[1]) == SQLITE_NULL);
}

static void fn_quantize(sqlite3_context *context, int argc, sqlite3_value **argv)
{
    quantized q = {0};
    bls_call call;
    bitlm_status status;

    if (any_null(argc, argv))
        return;
    status = bls_begin(&call, sqlite3_user_data(context), "bitlm_quantize", argc > 2 ? argv[2] : NULL);
    if (status == BITLM_OK)
        status = quantize(&call, argv, &q);
    if (status == BITLM_OK) {
        sqlite3_result_blob64(context, q.out, q.bytes, sqlite3_free);
        q.out = NULL;
    } else if (!bls_forgiven(&call, status)) {
        bls_fail(&call, context, status);
    }
    sqlite3_free(q.out);
    sqlite3_free(q.copy);
    bls_end(&call);
}

static void fn_dequantize(sqlite3_context *context, int argc, sqlite3_value **argv)
{
    const void *data;
    float *out = NULL;
    size_t length, n;
    bls_call call;
    bitlm_status status;

    if (any_null(argc, argv))
        return;
    bls_begin(&call, sqlite3_user_data(context), "bitlm_dequantize", NULL);
    if ((status = bls_blob(&call, argv[0], "the quantized vector", &data, &length)) ||
        (status = bitlm_vector_length(data, length, &n, &call.error)))
        goto end;
    out = sqlite3_malloc64((sqlite3_uint64)n * sizeof *out);
    if (!out) {
        status = bls_error(&call, BITLM_NOMEM, "out of memory");
        goto end;
    }
    status = dequantize(&call, data, length, out, n);
    if (status)
        goto end;
    sqlite3_result_blob64(context, out, (sqlite3_uint64)n * sizeof *out, sqlite3_free);
    out = NULL;
end:
    sqlite3_free(out);
    if (status)
        bls_fail(&call, context, status);
    bls_end(&call);
}

static void fn_quantize_error(sqlite3_context *context, int argc, sqlite3_value **argv)
{
    quantized q = {0};
    float *approximate = NULL;
    char json[400];
    bls_call call;
    bitlm_status status;

    if (any_null(argc, argv))
        return;
    status = bls_begin(&call, sqlite3_user_data(context), "bitlm_quantize_error", argc > 2 ? argv[2] : NULL);
    if (status || (status = quantize(&call, argv, &q)))
        goto end;
    approximate = sqlite3_malloc64((sqlite3_uint64)q.n * sizeof *approximate);
    if (!approximate) {
        status = bls_error(&call, BITLM_NOMEM, "out of memory");
        goto end;
    }
    if ((status = dequantize(&call, q.out, q.bytes, approximate, q.n)) ||
        (status = bitlm_vector_report(q.values, q.out, q.bytes, approximate, q.n, json, sizeof json, &call.error)))
        goto end;
    sqlite3_result_text(context, json, -1, SQLITE_TRANSIENT);
    sqlite3_result_subtype(context, BLS_SUBTYPE_JSON);
end:
    sqlite3_free(approximate);
    sqlite3_free(q.out);
    sqlite3_free(q.copy);
    if (status && !bls_forgiven(&call, status))
        bls_fail(&call, context, status);
    bls_end(&call);
}

int bls_register_quantize(bls_state *state)
{
    int pure = SQLITE_DETERMINISTIC | SQLITE_INNOCUOUS, n, rc;

    rc = bls_function(state, "bitlm_dequantize", 1, pure, fn_dequantize);
    for (n = 2; n <= 3 && rc == SQLITE_OK; n++) {
        rc = bls_function(state, "bitlm_quantize", n, pure, fn_quantize);
        if (rc == SQLITE_OK)
            rc = bls_function(state, "bitlm_quantize_error", n, pure | bls_result_subtype(), fn_quantize_error);
    }
    return rc;
}
