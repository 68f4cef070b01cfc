/* schemes.c - numbers to blocks of weights and back, by the name of a tensor type: the public face of
 * core/quant.
 *
 * Called by hosts through bitlm.h. */
#include <string.h>

#include "kernels/kernels.h"
#include "quant/quant.h"

/* The type of a name and the bytes of (n_rows, k) in it. */
static bitlm_status find(const char *scheme, size_t length, uint64_t n_rows, uint64_t k, int encodes,
                         const bl_tensor_type **type, uint64_t *bytes, bitlm_error *error) {
    char shown[40];
    int ok = 1;
    bl_error_clear(error);
    bl_show(shown, sizeof shown, scheme, length);
    *type = bl_tensor_type_named(scheme, length);
    if (!*type || (encodes && !bl_can_encode((*type)->id)))
        return bl_error(error, *type ? BITLM_UNSUPPORTED : BITLM_ARG,
                        "%s '%s'; those written are F32, F16, BF16, Q8_0, Q6_K, Q4_K, Q4_1, Q4_0, Q2_0, Q1_0, TQ1_0, TQ2_0, I2_S",
                        *type ? "bitlm does not write the scheme" : "there is no scheme", shown);
    *bytes = bl_tensor_bytes(*type, k, n_rows, &ok);
    if (!ok || n_rows == 0 || k == 0)
        return bl_error(error, BITLM_ARG, "%llu rows of %llu values cannot be %s: %s", (unsigned long long)n_rows,
                        (unsigned long long)k, (*type)->name,
                        (*type)->id == BL_TYPE_I2_S ? "the number of values must be a multiple of 128"
                                                    : "a row must be a multiple of its block");
    return BITLM_OK;
}

bitlm_status bitlm_scheme_bytes(const char *scheme, size_t length, size_t n_rows, size_t k, size_t *bytes,
                                bitlm_error *error) {
    const bl_tensor_type *type;
    uint64_t size;
    bitlm_status status = find(scheme, length, n_rows, k, 0, &type, &size, error);
    if (!status)
        *bytes = (size_t)size;
    return status;
}

/* Room of `given` bytes must be the `needed` ones. */
static bitlm_status check_bytes(const bl_tensor_type *type, uint64_t needed, size_t given, bitlm_error *error) {
    if (needed == given)
        return BITLM_OK;
    return bl_error(error, BITLM_ARG, "%zu bytes were given, but %s has %llu here", given, type->name,
                    (unsigned long long)needed);
}

bitlm_status bitlm_quantize(const char *scheme, size_t length, const float *values, size_t n_rows, size_t k,
                            float scale, void *out, size_t out_bytes, bitlm_error *error) {
    const bl_tensor_type *type;
    uint64_t bytes;
    bl_float_env env;
    bitlm_status status = find(scheme, length, n_rows, k, 1, &type, &bytes, error);
    if (!status)
        status = check_bytes(type, bytes, out_bytes, error);
    if (status)
        return status;
    bl_float_enter(&env);
    status = bl_encode(type->id, values, n_rows, k, scale, out, error);
    bl_float_leave(&env);
    return status;
}

bitlm_status bitlm_dequantize(const char *scheme, size_t length, const void *data, size_t data_bytes, size_t n_rows,
                              size_t k, float *out, bitlm_error *error) {
    const bl_tensor_type *type;
    uint64_t bytes;
    bl_float_env env;
    bitlm_status status = find(scheme, length, n_rows, k, 0, &type, &bytes, error);
    if (!status)
        status = check_bytes(type, bytes, data_bytes, error);
    if (status)
        return status;
    bl_float_enter(&env);
    for (size_t row = 0; row < n_rows; row++)
        bl_decode_row(type->id, data, n_rows, k, row, out + row * k);
    bl_float_leave(&env);
    return BITLM_OK;
}

bitlm_status bitlm_pack(const char *scheme, size_t length, const int8_t *trits, size_t n_rows, size_t k, float scale,
                        void *out, size_t out_bytes, bitlm_error *error) {
    const bl_tensor_type *type;
    uint64_t bytes;
    bl_float_env env;
    bitlm_status status = find(scheme, length, n_rows, k, 0, &type, &bytes, error);
    if (!status && type->id != BL_TYPE_TQ1_0 && type->id != BL_TYPE_TQ2_0 && type->id != BL_TYPE_Q2_0 && type->id != BL_TYPE_I2_S)
        status = bl_error(error, BITLM_UNSUPPORTED, "trits are packed as TQ1_0, TQ2_0, Q2_0 or I2_S, not %s", type->name);
    if (!status)
        status = check_bytes(type, bytes, out_bytes, error);
    for (size_t i = 0; !status && i < n_rows * k; i++)
        if (trits[i] < -1 || trits[i] > 1)
            status = bl_error(error, BITLM_ARG, "value %zu is %d, but a trit is -1, 0 or 1", i, trits[i]);
    if (status)
        return status;
    bl_float_enter(&env);
    status = bl_pack_trits(type->id, trits, n_rows, k, scale, out, error);
    bl_float_leave(&env);
    return status;
}

bitlm_status bitlm_unpack(const char *scheme, size_t length, const void *data, size_t data_bytes, size_t n_rows,
                          size_t k, int8_t *trits, bitlm_error *error) {
    const bl_tensor_type *type;
    uint64_t bytes;
    bitlm_status status = find(scheme, length, n_rows, k, 0, &type, &bytes, error);
    if (!status && type->cls != BL_CLASS_TERNARY)
        status = bl_error(error, BITLM_UNSUPPORTED, "%s holds no trits", type->name);
    if (!status)
        status = check_bytes(type, bytes, data_bytes, error);
    if (status)
        return status;
    bl_unpack_codes(type->id, data, (int64_t)(n_rows * k), (uint8_t *)trits);
    for (size_t i = 0; i < n_rows * k; i++)
        trits[i] = (int8_t)(trits[i] - 1);
    return BITLM_OK;
}
