/* vector.c - quantized vectors: a list of numbers as one blob that knows its scheme, length and scales.
 *
 * Layout (docs/FORMATS.md): a header of 16 bytes, a float32 scale for each group, for int8_asymmetric an int32 zero
 * point for each group, then the codes.  A scheme that is a tensor type has no groups: its blocks follow the header.
 * Sums run in float64 in order and all else in float32, so the bytes are the same on every machine.
 *
 * Sources of the formulas: BitNet b1.58 (arXiv 2402.17764) for ternary, BitNet (2310.11453) for binary_mean, BitNet a4.8
 * (2411.04965) for int4, Ternary Weight Networks (1605.04711) for twn, BinaryConnect (1511.00363) for stochastic binary.
 *
 * Called by hosts through bitlm.h. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/rng.h"
#include "quant/quant.h"

#define HEADER 16
#define VERSION 1
#define TENSOR_SCHEME 128  /* + BL_TYPE_* */
#define EPSILON 1e-5f      /* of the papers: below it a scale is not taken for one */

enum { INT8, INT8_ASYMMETRIC, INT4, TERNARY, TWN, BINARY, BINARY_MEAN, THRESHOLD, N_SCHEMES };

static const struct scheme {
    const char *name;
    int bits;       /* of a code; 0: five trits a byte */
    int stochastic; /* can round so */
} schemes[N_SCHEMES] = {{"int8", 8, 1},    {"int8_asymmetric", 8, 1}, {"int4", 4, 1},        {"ternary", 0, 1},
                        {"twn", 0, 0},     {"binary", 1, 1},          {"binary_mean", 1, 0}, {"threshold", 1, 0}};

/* What a header says, checked. */
typedef struct header {
    int scheme;      /* below TENSOR_SCHEME an index of schemes[] */
    uint32_t group;  /* values that share a scale */
    uint32_t n, n_groups;
    uint64_t params, codes; /* bytes */
} header;

static bitlm_status find_scheme(const char *name, size_t length, int *scheme, bitlm_error *error) {
    const bl_tensor_type *type = bl_tensor_type_named(name, length);
    char shown[40];
    for (int i = 0; i < N_SCHEMES; i++)
        if (strlen(schemes[i].name) == length && memcmp(schemes[i].name, name, length) == 0) {
            *scheme = i;
            return BITLM_OK;
        }
    if (!type || !bl_can_encode(type->id))
        return bl_error(error, BITLM_ARG,
                        "there is no scheme '%s'; there are int8, int8_asymmetric, int4, ternary, twn, binary, binary_mean, "
                        "threshold, and the tensor types that bitlm writes, such as q8_0", bl_show(shown, sizeof shown, name, length));
    *scheme = TENSOR_SCHEME + type->id;
    return BITLM_OK;
}

/* Sizes from scheme, n and group; 0 if the scheme cannot hold n values. */
static int measure(header *h) {
    int ok = 1;
    if (h->scheme >= TENSOR_SCHEME) {
        const bl_tensor_type *type = bl_tensor_type_find(h->scheme - TENSOR_SCHEME);
        h->n_groups = 0;
        h->params = 0;
        h->codes = type ? bl_tensor_bytes(type, h->n, 1, &ok) : 0;
        return type && bl_can_encode(type->id) && ok;
    }
    int bits = schemes[h->scheme].bits;
    h->n_groups = (uint32_t)(((uint64_t)h->n + h->group - 1) / h->group);
    h->params = (uint64_t)h->n_groups * (h->scheme == INT8_ASYMMETRIC ? 8 : 4);
    h->codes = bits ? ((uint64_t)h->n * (uint64_t)bits + 7) / 8 : ((uint64_t)h->n + 4) / 5;
    return 1;
}

static void put_u32(uint8_t *p, uint32_t x) {
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(x >> (8 * i));
}
static uint32_t get_u32(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
static void put_f32(uint8_t *p, float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    put_u32(p, bits);
}
static float get_f32(const uint8_t *p) {
    uint32_t bits = get_u32(p);
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* ---- one group ------------------------------------------------------------------------------ */

typedef struct rule {
    float scale, inverse, limit; /* limit: TWN's and the thresholds' */
    int32_t zero;
} rule;

static float clip(float x, float lo, float hi) { return x < lo ? lo : x > hi ? hi : x; }

static rule make_rule(int scheme, const float *x, size_t n, float threshold, int stochastic) {
    double sum = 0, magnitudes = 0, kept = 0;
    size_t n_kept = 0;
    float most = 0, lo = 0, hi = 0;
    rule r = {1, 1, threshold, 0};
    for (size_t i = 0; i < n; i++) {
        sum += x[i];
        magnitudes += fabsf(x[i]);
        most = BL_MAX(most, fabsf(x[i]));
        lo = BL_MIN(lo, x[i]);
        hi = BL_MAX(hi, x[i]);
    }
    float mean = (float)(magnitudes / (double)n);
    switch (scheme) {
    case INT8: r.scale = most / 127; break;
    case INT8_ASYMMETRIC:
        r.scale = hi / 255 - lo / 255; /* hi - lo may overflow */
        if (r.scale == 0)
            r.scale = 1;
        r.zero = (int32_t)clip(rintf(-128 - lo / r.scale), -128, 127);
        break;
    case INT4: r.scale = (mean + EPSILON) / sqrtf(7); break;
    case TERNARY: r.scale = BL_MAX(mean, EPSILON); break;
    case TWN:
        r.limit = 0.7f * mean;
        for (size_t i = 0; i < n; i++)
            if (fabsf(x[i]) > r.limit) {
                kept += fabsf(x[i]);
                n_kept++;
            }
        r.scale = n_kept ? (float)(kept / (double)n_kept) : 0;
        break;
    case BINARY:
        r.scale = stochastic ? most : mean;
        r.limit = 0;
        break;
    case BINARY_MEAN:
        r.scale = mean;
        r.limit = (float)(sum / (double)n);
        break;
    default: break; /* THRESHOLD: 0 and 1 */
    }
    r.inverse = r.scale > 0 ? 1 / r.scale : 0;
    if (r.inverse - r.inverse != 0)
        r.inverse = r.scale = 0; /* so small that 1/scale overflows: all zero */
    return r;
}

static int32_t code_of(int scheme, const rule *r, float x, int stochastic, double u) {
    float y = x * r->inverse;
    switch (scheme) {
    case INT8: return (int32_t)clip(stochastic ? floorf(y) + (u < (double)(y - floorf(y))) : rintf(y), -127, 127);
    case INT8_ASYMMETRIC:
        y = stochastic ? floorf(y) + (u < (double)(y - floorf(y))) : rintf(y);
        return (int32_t)clip(y + (float)r->zero, -128, 127);
    case INT4: return (int32_t)clip(stochastic ? floorf(y) + (u < (double)(y - floorf(y))) : rintf(y), -8, 7);
    case TERNARY:
        if (stochastic)
            return u < (double)fabsf(y) ? (x > 0) - (x < 0) : 0;
        return (int32_t)clip(rintf(y), -1, 1);
    case TWN: return (x > r->limit) - (x < -r->limit);
    case BINARY:
        if (stochastic)
            return u < ((double)y + 1) / 2;
        return x > 0;
    default: return x > r->limit;
    }
}

static void put_code(int bits, uint8_t *codes, size_t i, int32_t q) {
    static const uint8_t power[5] = {1, 3, 9, 27, 81};
    switch (bits) {
    case 8: codes[i] = (uint8_t)q; break;
    case 4: codes[i / 2] |= (uint8_t)((q & 15) << 4 * (i % 2)); break;
    case 1: codes[i / 8] |= (uint8_t)(q << (7 - i % 8)); break;
    default: codes[i / 5] = (uint8_t)(codes[i / 5] + (q + 1) * power[i % 5]);
    }
}

static int32_t get_code(int bits, const uint8_t *codes, size_t i) {
    static const uint8_t power[5] = {1, 3, 9, 27, 81};
    switch (bits) {
    case 8: return (int8_t)codes[i];
    case 4: return ((codes[i / 2] >> 4 * (i % 2) & 15) ^ 8) - 8;
    case 1: return codes[i / 8] >> (7 - i % 8) & 1;
    default: return codes[i / 5] / power[i % 5] % 3 - 1;
    }
}

/* ---- whole blobs -------------------------------------------------------------------------------- */

static bitlm_status plan(const char *scheme, size_t length, size_t n, const bitlm_options *options, header *h,
                         bitlm_error *error) {
    bitlm_status status = find_scheme(scheme, length, &h->scheme, error);
    if (status)
        return status;
    if (n == 0 || n > INT32_MAX)
        return bl_error(error, BITLM_ARG, "there are %zu values, but there must be 1 to 2^31-1", n);
    h->n = (uint32_t)n;
    h->group = options->group ? (uint32_t)options->group : h->n;
    if (options->rounding == BITLM_ROUND_STOCHASTIC && (h->scheme >= TENSOR_SCHEME || !schemes[h->scheme].stochastic))
        return bl_error(error, BITLM_ARG, "the scheme %.*s does not round stochastically; int8, int8_asymmetric, int4, ternary "
                        "and binary do", (int)BL_MIN(length, (size_t)40), scheme);
    if (h->scheme >= TENSOR_SCHEME && options->group)
        return bl_error(error, BITLM_ARG, "the scheme %.*s has groups of its own, so option group cannot be given",
                        (int)BL_MIN(length, (size_t)40), scheme);
    if (!measure(h))
        return bl_error(error, BITLM_ARG, "%zu values cannot be %.*s: their number must be a multiple of its block", n,
                        (int)BL_MIN(length, (size_t)40), scheme);
    return BITLM_OK;
}

bitlm_status bitlm_vector_bytes(const char *scheme, size_t length, size_t n, const bitlm_options *options, size_t *bytes,
                                bitlm_error *error) {
    header h;
    bl_error_clear(error);
    bitlm_status status = plan(scheme, length, n, options, &h, error);
    if (!status)
        *bytes = (size_t)(HEADER + h.params + h.codes);
    return status;
}

bitlm_status bitlm_vector_quantize(const char *scheme, size_t length, const float *values, size_t n,
                                   const bitlm_options *options, void *out, size_t out_bytes, bitlm_error *error) {
    header h;
    bl_float_env env;
    uint8_t *p = out, *params = p + HEADER;
    bl_error_clear(error);
    bitlm_status status = plan(scheme, length, n, options, &h, error);
    if (status)
        return status;
    if (out_bytes != HEADER + h.params + h.codes)
        return bl_error(error, BITLM_ARG, "room of %zu bytes was given, but %llu are needed", out_bytes,
                        (unsigned long long)(HEADER + h.params + h.codes));
    for (size_t i = 0; i < n; i++)
        if (!isfinite(values[i]))
            return bl_error(error, BITLM_ARG, "value %zu is not finite", i);
    int stochastic = options->rounding == BITLM_ROUND_STOCHASTIC;
    bl_float_enter(&env);
    memset(p, 0, out_bytes);
    memcpy(p, "bLqv", 4);
    p[4] = VERSION;
    p[5] = (uint8_t)h.scheme;
    put_u32(p + 8, h.group);
    put_u32(p + 12, h.n);
    if (h.scheme >= TENSOR_SCHEME) {
        status = bl_encode(h.scheme - TENSOR_SCHEME, values, 1, n, 0, params, error);
    } else {
        uint8_t *codes = params + h.params;
        for (uint32_t g = 0; g < h.n_groups; g++) {
            size_t first = (size_t)g * h.group, count = BL_MIN((size_t)h.group, n - first);
            rule r = make_rule(h.scheme, values + first, count, options->threshold, stochastic);
            put_f32(params + 4 * (size_t)g, r.scale);
            if (h.scheme == INT8_ASYMMETRIC)
                put_u32(params + 4 * ((size_t)h.n_groups + g), (uint32_t)r.zero);
            for (size_t i = first; i < first + count; i++) {
                double u = stochastic ? bl_rng_unit(options->seed, 0, i) : 0;
                put_code(schemes[h.scheme].bits, codes, i, code_of(h.scheme, &r, values[i], stochastic, u));
            }
        }
    }
    bl_float_leave(&env);
    return status;
}

static bitlm_status read_header(const uint8_t *p, size_t bytes, header *h, bitlm_error *error) {
    if (bytes < HEADER || memcmp(p, "bLqv", 4) != 0)
        return bl_error(error, BITLM_ARG, "%zu bytes were given that are no quantized vector", bytes);
    if (p[4] != VERSION)
        return bl_error(error, BITLM_UNSUPPORTED, "the quantized vector has version %d, this bitlm reads %d", p[4], VERSION);
    h->scheme = p[5];
    h->group = get_u32(p + 8);
    h->n = get_u32(p + 12);
    if (p[6] || p[7] || (h->scheme < TENSOR_SCHEME && h->scheme >= N_SCHEMES) || h->n == 0 || h->n > INT32_MAX ||
        h->group == 0 || !measure(h) || bytes != HEADER + h->params + h->codes)
        return bl_error(error, BITLM_ARG, "the quantized vector of %zu bytes is damaged", bytes);
    return BITLM_OK;
}

bitlm_status bitlm_vector_length(const void *data, size_t bytes, size_t *n, bitlm_error *error) {
    header h;
    bl_error_clear(error);
    bitlm_status status = read_header(data, bytes, &h, error);
    if (!status)
        *n = h.n;
    return status;
}

bitlm_status bitlm_vector_dequantize(const void *data, size_t bytes, float *out, size_t n, bitlm_error *error) {
    const uint8_t *params = (const uint8_t *)data + HEADER;
    header h;
    bl_float_env env;
    bl_error_clear(error);
    bitlm_status status = read_header(data, bytes, &h, error);
    if (status)
        return status;
    if (n != h.n)
        return bl_error(error, BITLM_ARG, "room for %zu values was given, but there are %u", n, h.n);
    bl_float_enter(&env);
    if (h.scheme >= TENSOR_SCHEME) {
        bl_decode_row(h.scheme - TENSOR_SCHEME, params, 1, n, 0, out);
    } else {
        const uint8_t *codes = params + h.params;
        int sign = h.scheme == BINARY || h.scheme == BINARY_MEAN;
        for (size_t i = 0; i < n; i++) {
            size_t g = i / h.group;
            int32_t q = get_code(schemes[h.scheme].bits, codes, i);
            if (h.scheme == INT8_ASYMMETRIC) /* zero is -128 .. 127 in what bitlm writes */
                q -= (int8_t)get_u32(params + 4 * ((size_t)h.n_groups + g));
            out[i] = (float)(sign ? 2 * q - 1 : q) * get_f32(params + 4 * g);
        }
    }
    bl_float_leave(&env);
    return BITLM_OK;
}

/* Bits of information in a code, by how often each occurs; NaN for a tensor type. */
static double entropy(const uint8_t *p, const header *h) {
    uint64_t seen[256] = {0};
    double bits = 0;
    if (h->scheme >= TENSOR_SCHEME)
        return NAN;
    for (size_t i = 0; i < h->n; i++)
        seen[get_code(schemes[h->scheme].bits, p + HEADER + h->params, i) & 255]++;
    for (int i = 0; i < 256; i++)
        if (seen[i])
            bits -= (double)seen[i] / h->n * log2((double)seen[i] / h->n);
    return bits;
}

bitlm_status bitlm_vector_report(const float *values, const void *data, size_t bytes, const float *approximate, size_t n,
                                 char *json, size_t capacity, bitlm_error *error) {
    double squares = 0, errors = 0, dot = 0, other = 0, most = 0;
    size_t zeros = 0;
    header h;
    char snr[32] = "null", information[32] = "null";
    bl_error_clear(error);
    bitlm_status status = read_header(data, bytes, &h, error);
    if (!status && n != h.n)
        status = bl_error(error, BITLM_ARG, "%zu values were given, but the quantized vector has %u", n, h.n);
    if (status)
        return status;
    for (size_t i = 0; i < n; i++) {
        double x = values[i], y = approximate[i];
        squares += x * x;
        other += y * y;
        dot += x * y;
        errors += (x - y) * (x - y);
        most = BL_MAX(most, fabs(x - y));
        zeros += y == 0;
    }
    double bits = entropy(data, &h), cosine = squares > 0 && other > 0 ? dot / sqrt(squares) / sqrt(other) : 0;
    if (errors > 0 && squares > 0)
        snprintf(snr, sizeof snr, "%.6g", 10 * log10(squares / errors));
    if (bits == bits)
        snprintf(information, sizeof information, "%.6g", bits);
    int used = snprintf(json, capacity,
                        "{\"n\":%zu,\"bytes\":%zu,\"bits_per_value\":%.6g,\"mse\":%.9g,\"max_error\":%.9g,\"cosine\":%.9g,"
                        "\"snr_db\":%s,\"zeros\":%.6g,\"entropy\":%s}",
                        n, bytes, 8.0 * (double)bytes / (double)n, errors / (double)n, most, cosine, snr,
                        (double)zeros / (double)n, information);
    return used >= 0 && (size_t)used < capacity
               ? BITLM_OK
               : bl_error(error, BITLM_LIMIT, "the report does not fit %zu bytes", capacity);
}
