/* sqlite_codes.c - the scalar functions over binary codes and float vectors.
 *
 *     bitlm_hamming(a, b)          differing bits of two codes, an INTEGER
 *     bitlm_similarity(a, b)       equal bits / bits, a REAL in [0, 1]
 *     bitlm_jaccard(a, b)          bits set in both / bits set in either, a REAL in [0, 1];
 *                                  1 if no bit is set
 *     bitlm_cosine(a, b)           cosine of two float32 BLOBs, a REAL in [-1, 1]; 0
 *                                  if either is zero
 *     bitlm_binarize(f32 [,opts])  float32 BLOB to packed bits, MSB first: a bit is
 *                                  value > {"threshold": 0}; {"order": "lsb"}: LSB first,
 *                                  as sqlite-vec's vec_quantize_binary
 *     bitlm_reverse_bits(code)     the bits of each byte the other way round: one order
 *                                  to the other
 *
 * Codes are BLOBs as bitlm_embed makes them, vectors little-endian float32 as
 * bitlm_embed_f32 makes them.  Two arguments of different length are an error: one
 * of them came from another model.  NULL in, NULL out.  All are pure: DETERMINISTIC
 * and INNOCUOUS whatever the arguments. */
#include "sqlite_adapter.h"

#include <string.h>

bitlm_status bls_blob(bls_call *call, sqlite3_value *value, const char *what, const void **data,
                         size_t *length)
{
    if (sqlite3_value_type(value) != SQLITE_BLOB)
        return bls_error(call, BITLM_ARG, "%s is %s, but must be a BLOB", what,
                         sqlite3_value_type(value) == SQLITE_TEXT ? "text" : "a number");
    /* A BLOB of no bytes is NULL by SQLite's rules. */
    *length = (size_t)sqlite3_value_bytes(value);
    *data = sqlite3_value_blob(value);
    if (*length == 0)
        *data = "";
    else if (!*data)
        return bls_error(call, BITLM_NOMEM, "out of memory");
    return BITLM_OK;
}

/* Two BLOBs of one length. */
static bitlm_status pair(bls_call *call, sqlite3_value **argv, const void *data[2], size_t *length)
{
    size_t lengths[2];
    bitlm_status status;

    if ((status = bls_blob(call, argv[0], "the first argument", &data[0], &lengths[0])) ||
        (status = bls_blob(call, argv[1], "the second argument", &data[1], &lengths[1])))
        return status;
    if (lengths[0] != lengths[1])
        return bls_error(call, BITLM_ARG,
                         "the arguments have %lld and %lld bytes, but must have the same length",
                         (sqlite3_int64)lengths[0], (sqlite3_int64)lengths[1]);
    *length = lengths[0];
    return BITLM_OK;
}

bitlm_status bls_floats(bls_call *call, const void *data, size_t length, const float **values,
                           void **copy)
{
    if (length % sizeof(float) != 0)
        return bls_error(call, BITLM_ARG,
                         "a BLOB of %lld bytes is no list of float32, which have 4 bytes each",
                         (sqlite3_int64)length);
    if ((uintptr_t)data % sizeof(float) != 0) {
        *copy = sqlite3_malloc64(length ? length : 1);
        if (!*copy)
            return bls_error(call, BITLM_NOMEM, "out of memory");
        data = memcpy(*copy, data, length);
    }
    *values = data;
    return BITLM_OK;
}

static int any_null(int argc, sqlite3_value **argv)
{
    return sqlite3_value_type(argv[0]) == SQLITE_NULL ||
           (argc > 1 && sqlite3_value_type(argv[1]) == SQLITE_NULL);
}

static void fn_hamming(sqlite3_context *context, int argc, sqlite3_value **argv)
{
    const void *data[2];
    bls_call call;
    bitlm_status status;
    size_t length;

    if (any_null(argc, argv))
        return;
    bls_begin(&call, sqlite3_user_data(context), "bitlm_hamming", NULL);
    status = pair(&call, argv, data, &length);
    if (status)
        bls_fail(&call, context, status);
    else
        sqlite3_result_int64(context, (sqlite3_int64)bitlm_hamming(data[0], data[1], length));
    bls_end(&call);
}

static void fn_similarity(sqlite3_context *context, int argc, sqlite3_value **argv)
{
    const void *data[2];
    bls_call call;
    bitlm_status status;
    size_t length;

    if (any_null(argc, argv))
        return;
    bls_begin(&call, sqlite3_user_data(context), "bitlm_similarity", NULL);
    status = pair(&call, argv, data, &length);
    if (status)
        bls_fail(&call, context, status);
    else
        sqlite3_result_double(context, bitlm_similarity(data[0], data[1], length));
    bls_end(&call);
}

static void fn_jaccard(sqlite3_context *context, int argc, sqlite3_value **argv)
{
    const void *data[2];
    bls_call call;
    bitlm_status status;
    size_t length;

    if (any_null(argc, argv))
        return;
    bls_begin(&call, sqlite3_user_data(context), "bitlm_jaccard", NULL);
    status = pair(&call, argv, data, &length);
    if (status)
        bls_fail(&call, context, status);
    else
        sqlite3_result_double(context, bitlm_jaccard(data[0], data[1], length));
    bls_end(&call);
}

static void fn_cosine(sqlite3_context *context, int argc, sqlite3_value **argv)
{
    const void *data[2];
    const float *a = NULL, *b = NULL;
    void *copies[2] = {NULL, NULL};
    bls_call call;
    bitlm_status status;
    size_t length;

    if (any_null(argc, argv))
        return;
    bls_begin(&call, sqlite3_user_data(context), "bitlm_cosine", NULL);
    if ((status = pair(&call, argv, data, &length)) ||
        (status = bls_floats(&call, data[0], length, &a, &copies[0])) ||
        (status = bls_floats(&call, data[1], length, &b, &copies[1])))
        bls_fail(&call, context, status);
    else
        sqlite3_result_double(context, bitlm_cosine(a, b, length / sizeof(float)));
    sqlite3_free(copies[0]);
    sqlite3_free(copies[1]);
    bls_end(&call);
}

static void fn_binarize(sqlite3_context *context, int argc, sqlite3_value **argv)
{
    const void *data;
    const float *values;
    void *copy = NULL;
    uint8_t *out = NULL;
    bls_call call;
    bitlm_status status;
    size_t length, bytes;

    if (sqlite3_value_type(argv[0]) == SQLITE_NULL)
        return;
    status = bls_begin(&call, sqlite3_user_data(context), "bitlm_binarize",
                       argc > 1 ? argv[1] : NULL);
    if (status || (status = bls_blob(&call, argv[0], "the vector", &data, &length)) ||
        (status = bls_floats(&call, data, length, &values, &copy)))
        goto end;
    bytes = (length / sizeof(float) + 7) / 8;
    if (bytes == 0) {
        sqlite3_result_zeroblob(context, 0);
        goto end;
    }
    out = sqlite3_malloc64(bytes);
    if (!out) {
        status = bls_error(&call, BITLM_NOMEM, "out of memory");
        goto end;
    }
    bitlm_binarize(values, length / sizeof(float), call.options.threshold, out);
    if (call.options.order == BITLM_ORDER_LSB)
        bitlm_reverse_bits(out, bytes, out);
    sqlite3_result_blob64(context, out, bytes, sqlite3_free);
end:
    sqlite3_free(copy);
    if (status && !bls_forgiven(&call, status))
        bls_fail(&call, context, status);
    bls_end(&call);
}

static void fn_reverse_bits(sqlite3_context *context, int argc, sqlite3_value **argv)
{
    const void *data;
    uint8_t *out;
    bls_call call;
    bitlm_status status;
    size_t length;

    if (any_null(argc, argv))
        return;
    bls_begin(&call, sqlite3_user_data(context), "bitlm_reverse_bits", NULL);
    status = bls_blob(&call, argv[0], "the code", &data, &length);
    if (status) {
        bls_fail(&call, context, status);
    } else if (length == 0) {
        sqlite3_result_zeroblob(context, 0);
    } else if ((out = sqlite3_malloc64(length)) == NULL) {
        sqlite3_result_error_nomem(context);
    } else {
        bitlm_reverse_bits(data, length, out);
        sqlite3_result_blob64(context, out, length, sqlite3_free);
    }
    bls_end(&call);
}

int bls_register_codes(bls_state *state)
{
    static const struct {
        const char *name;
        int n_arguments;
        void (*function)(sqlite3_context *, int, sqlite3_value **);
    } table[] = {
        {"bitlm_hamming", 2, fn_hamming},   {"bitlm_similarity", 2, fn_similarity},
        {"bitlm_cosine", 2, fn_cosine},     {"bitlm_binarize", 1, fn_binarize},
        {"bitlm_binarize", 2, fn_binarize}, {"bitlm_jaccard", 2, fn_jaccard},
        {"bitlm_reverse_bits", 1, fn_reverse_bits},
    };
    size_t i;
    int rc = SQLITE_OK;

    for (i = 0; i < sizeof table / sizeof table[0] && rc == SQLITE_OK; i++)
        rc = bls_function(state, table[i].name, table[i].n_arguments,
                          SQLITE_DETERMINISTIC | SQLITE_INNOCUOUS, table[i].function);
    return rc;
}
