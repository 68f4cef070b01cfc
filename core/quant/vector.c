/* vector.c - quantized vectors: a list of numbers as one blob that knows its scheme, length and scales.
 *
 * Layout (docs/FORMATS.md): a header of 16 bytes, a float32 scale for each group, for int8_asymmetric an int32 zero
 * point for each group, then the codes.  A scheme that is a tensor type has no groups: its blocks follow the header.
 * Sums run in float64 in order and all else in float32, so the bytes are the same on every machine.  Option hadamard turns
 * the values by the orthonormal Hadamard matrix of each block first (x -> Hx / sqrt(n), which is its own inverse): an
 * outlier spreads over its block.  Error feedback carries e: q = Q(x + e), e <- x + e - dequantized q, from value to value.
 *
 * Sources of the formulas: BitNet b1.58 (arXiv 2402.17764) for ternary, BitNet (2310.11453) for binary_mean, BitNet a4.8
 * (2411.04965) for int4, Ternary Weight Networks (1605.04711) for twn, BinaryConnect (1511.00363) for stochastic binary,
 * BitNet v2 (2504.18415) for the rotation, EF-SGD (1901.09847) for the feedback.
 *
 * Called by hosts through bitlm.h. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/rng.h"
#include "quant/quant.h"

#define HEADER 16
#define VERSION 2          /* written where values are rotated, else 1 */
#define MAX_ROTATION 15    /* blocks of 2^15 values */
#define PIECE ((size_t)1 << 15) /* values between two polls */
#define TENSOR_SCHEME 128  /* + BL_TYPE_* */
#define EPSILON 1e-5f      /* of the papers: below it a scale is not taken for one */

enum { INT8, INT8_ASYMMETRIC, INT4, TERNARY, TWN, BINARY, BINARY_MEAN, THRESHOLD, N_SCHEMES };

static const struct scheme {
    const char *name;
    int bits;       /* of a code; 0: five trits a byte */
    int roundings;  /* bits of 1 << BITLM_ROUND_*: ways that it rounds */
} schemes[N_SCHEMES] = {{"int8", 8, 7},    {"int8_asymmetric", 8, 7}, {"int4", 4, 7},        {"ternary", 0, 7},
                        {"twn", 0, 5},     {"binary", 1, 7},          {"binary_mean", 1, 1}, {"threshold", 1, 1}};

/* What a header says, checked. */
typedef struct header {
    int scheme;      /* below TENSOR_SCHEME an index of schemes[] */
    uint32_t group;  /* values that share a scale */
    uint32_t n, n_groups;
    uint64_t params, codes; /* bytes */
    int rotation;    /* values are rotated in blocks of 2^rotation; 0: not at all */
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

static rule make_rule(int scheme, const float *x, size_t n, float threshold, int stochastic, bl_poll *poll) {
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
        if (i % PIECE == PIECE - 1 && bl_poll_check(poll))
            return r;
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
        for (size_t i = 0; i < n; i++) {
            if (fabsf(x[i]) > r.limit) {
                kept += fabsf(x[i]);
                n_kept++;
            }
            if (i % PIECE == PIECE - 1 && bl_poll_check(poll))
                return r;
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

/* What a code stands for. */
static float value_of(int scheme, float scale, int32_t zero, int32_t q) {
    if (scheme == BINARY || scheme == BINARY_MEAN)
        q = 2 * q - 1;
    return (float)(q - zero) * scale;
}

/* Each block of 2^log2 values turned by the orthonormal Hadamard matrix, in place. */
static void rotate(float *x, size_t n, int log2, bl_poll *poll) {
    size_t size = (size_t)1 << log2;
    float scale = 1.0f / sqrtf((float)size);
    for (size_t at = 0; at < n && !bl_poll_check(poll); at += size)
        for (size_t half = 1; half <= size; half *= 2)
            for (size_t i = 0; i < size; i++) {
                float *a = x + at + i, *b = a + half;
                if (half == size) {
                    *a *= scale;
                } else if (!(i & half)) {
                    float sum = *a + *b, difference = *a - *b;
                    *a = sum;
                    *b = difference;
                }
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
    int shown = (int)BL_MIN(length, (size_t)40);
    if (h->scheme >= TENSOR_SCHEME ? options->rounding != BITLM_ROUND_NEAREST : !(schemes[h->scheme].roundings >> options->rounding & 1))
        return bl_error(error, BITLM_ARG, options->rounding == BITLM_ROUND_STOCHASTIC
                            ? "the scheme %.*s does not round stochastically; int8, int8_asymmetric, int4, ternary and binary do"
                            : "the scheme %.*s does not feed errors back; int8, int8_asymmetric, int4, ternary, twn and binary do",
                        shown, scheme);
    h->rotation = 0;
    while (options->hadamard > 1 << h->rotation)
        h->rotation++;
    if (options->hadamard && (options->hadamard < 2 || options->hadamard != 1 << h->rotation || h->rotation > MAX_ROTATION))
        return bl_error(error, BITLM_ARG, "option hadamard is %d, but must be 0 or a power of two from 2 to %d",
                        (int)options->hadamard, 1 << MAX_ROTATION);
    if (options->hadamard && n % (size_t)options->hadamard)
        return bl_error(error, BITLM_ARG, "%zu values are no multiple of hadamard = %d", n, (int)options->hadamard);
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

/* The codes of a group of values [first, first + count); *feedback: what the values before it leave, or NULL. */
static void encode_group(const header *h, const bitlm_options *o, const float *values, uint32_t g, uint8_t *params, double *feedback,
                         bl_poll *poll) {
    size_t first = (size_t)g * h->group, count = BL_MIN((size_t)h->group, h->n - first);
    int stochastic = o->rounding == BITLM_ROUND_STOCHASTIC, bits = schemes[h->scheme].bits;
    uint8_t *codes = params + h->params;
    rule r = make_rule(h->scheme, values + first, count, o->threshold, stochastic, poll);
    put_f32(params + 4 * (size_t)g, r.scale);
    if (h->scheme == INT8_ASYMMETRIC)
        put_u32(params + 4 * ((size_t)h->n_groups + g), (uint32_t)r.zero);
    for (size_t i = first; i < first + count; i++) {
        double u = stochastic ? bl_rng_unit(o->seed, 0, i) : 0, wanted = feedback ? values[i] + *feedback : values[i];
        int32_t q = code_of(h->scheme, &r, (float)wanted, stochastic, u);
        if (feedback)
            *feedback = wanted - (double)value_of(h->scheme, r.scale, r.zero, q);
        put_code(bits, codes, i, q);
        if (i % PIECE == PIECE - 1 && bl_poll_check(poll))
            return;
    }
}

/* Blocks of a tensor type, a piece at a time; I2_S has a scale for all, whose copy ends each piece but stays behind the last. */
static bitlm_status encode_tensor(const header *h, const float *values, uint8_t *out, bl_poll *poll, bitlm_error *error) {
    const bl_tensor_type *type = bl_tensor_type_find(h->scheme - TENSOR_SCHEME);
    float scale = 0;
    int ok;
    for (size_t i = 0; type->id == BL_TYPE_I2_S && i < h->n; i++) {
        scale = BL_MAX(scale, fabsf(values[i]));
        if (i % PIECE == PIECE - 1 && bl_poll_check(poll))
            return BITLM_OK;
    }
    for (size_t at = 0; at < h->n && !bl_poll_check(poll); at += PIECE) {
        size_t count = BL_MIN(PIECE, h->n - at);
        bitlm_status status = bl_encode(type->id, values + at, 1, count, scale, out, error);
        if (status)
            return status;
        out += type->id == BL_TYPE_I2_S ? count / 4 : bl_tensor_bytes(type, count, 1, &ok);
    }
    return BITLM_OK;
}

static bitlm_status encode(const header *h, const bitlm_options *o, const float *values, uint8_t *params, bl_poll *poll,
                           bitlm_error *error) {
    double feedback = 0;
    if (h->scheme >= TENSOR_SCHEME)
        return encode_tensor(h, values, params, poll, error);
    for (uint32_t g = 0; g < h->n_groups && !bl_poll_check(poll); g++)
        encode_group(h, o, values, g, params, o->rounding == BITLM_ROUND_FEEDBACK ? &feedback : NULL, poll);
    return BITLM_OK;
}

bitlm_status bitlm_vector_quantize_polled(const char *scheme, size_t length, const float *values, size_t n,
                                          const bitlm_options *options, const bitlm_host *host, void *out, size_t out_bytes,
                                          bitlm_error *error) {
    bl_alloc alloc = bl_alloc_from_host(host);
    header h;
    bl_float_env env;
    bl_poll poll;
    float *rotated = NULL;
    uint8_t *p = out;
    bl_error_clear(error);
    bitlm_status status = plan(scheme, length, n, options, &h, error);
    if (status)
        return status;
    if (out_bytes != HEADER + h.params + h.codes)
        return bl_error(error, BITLM_ARG, "room of %zu bytes was given, but %llu are needed", out_bytes,
                        (unsigned long long)(HEADER + h.params + h.codes));
    bl_float_enter(&env);
    bl_poll_init(&poll, host, &env, options->timeout_ms);
    for (size_t i = 0; i < n && !poll.status && !status; i++) {
        if (!isfinite(values[i]))
            status = bl_error(error, BITLM_ARG, "value %zu is not finite", i);
        if (i % PIECE == PIECE - 1)
            bl_poll_check(&poll);
    }
    if (!status && h.rotation && !(rotated = bl_malloc(&alloc, n * sizeof *rotated)))
        status = bl_error_nomem(error, n * sizeof *rotated, "the rotated values");
    if (rotated) {
        memcpy(rotated, values, n * sizeof *rotated);
        rotate(rotated, n, h.rotation, &poll);
        for (size_t i = 0; i < n && !status; i++)
            if (!isfinite(rotated[i]))
                status = bl_error(error, BITLM_ARG, "the values are too large to be rotated: value %zu becomes infinite", i);
    }
    if (!status && !poll.status) {
        memset(p, 0, out_bytes);
        memcpy(p, "bLqv", 4);
        p[4] = h.rotation ? VERSION : 1;
        p[5] = (uint8_t)h.scheme;
        p[6] = (uint8_t)h.rotation;
        put_u32(p + 8, h.group);
        put_u32(p + 12, h.n);
        status = encode(&h, options, rotated ? rotated : values, p + HEADER, &poll, error);
    }
    bl_free(&alloc, rotated);
    bl_float_leave(&env);
    return status ? status : bl_poll_error(&poll, error);
}

bitlm_status bitlm_vector_quantize(const char *scheme, size_t length, const float *values, size_t n,
                                   const bitlm_options *options, void *out, size_t out_bytes, bitlm_error *error) {
    return bitlm_vector_quantize_polled(scheme, length, values, n, options, NULL, out, out_bytes, error);
}

static bitlm_status read_header(const uint8_t *p, size_t bytes, header *h, bitlm_error *error) {
    if (bytes < HEADER || memcmp(p, "bLqv", 4) != 0)
        return bl_error(error, BITLM_ARG, "%zu bytes were given that are no quantized vector", bytes);
    if (p[4] < 1 || p[4] > VERSION)
        return bl_error(error, BITLM_UNSUPPORTED, "the quantized vector has version %d, this bitlm reads 1 to %d", p[4], VERSION);
    h->scheme = p[5];
    h->group = get_u32(p + 8);
    h->n = get_u32(p + 12);
    h->rotation = p[6];
    if ((p[4] == 1) != (p[6] == 0) || p[6] > MAX_ROTATION || h->n % (1u << (p[6] & 15)) || p[7] || (h->scheme < TENSOR_SCHEME && h->scheme >= N_SCHEMES) || h->n == 0 || h->n > INT32_MAX ||
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

bitlm_status bitlm_vector_dequantize_polled(const void *data, size_t bytes, const bitlm_host *host, float *out, size_t n,
                                            bitlm_error *error) {
    const uint8_t *params = (const uint8_t *)data + HEADER;
    header h;
    bl_float_env env;
    bl_poll poll;
    bl_error_clear(error);
    bitlm_status status = read_header(data, bytes, &h, error);
    if (status)
        return status;
    if (n != h.n)
        return bl_error(error, BITLM_ARG, "room for %zu values was given, but there are %u", n, h.n);
    bl_float_enter(&env);
    bl_poll_init(&poll, host, &env, 0);
    if (h.scheme >= TENSOR_SCHEME) {
        bl_decode_row(h.scheme - TENSOR_SCHEME, params, 1, n, 0, out);
    } else {
        const uint8_t *codes = params + h.params;
        for (size_t i = 0; i < n; i++) {
            size_t g = i / h.group;
            /* zero is -128 .. 127 in what bitlm writes */
            int32_t zero = h.scheme == INT8_ASYMMETRIC ? (int8_t)get_u32(params + 4 * ((size_t)h.n_groups + g)) : 0;
            out[i] = value_of(h.scheme, get_f32(params + 4 * g), zero, get_code(schemes[h.scheme].bits, codes, i));
            if (i % PIECE == PIECE - 1 && bl_poll_check(&poll))
                break;
        }
    }
    if (h.rotation)
        rotate(out, n, h.rotation, &poll);
    bl_float_leave(&env);
    return bl_poll_error(&poll, error);
}

bitlm_status bitlm_vector_dequantize(const void *data, size_t bytes, float *out, size_t n, bitlm_error *error) {
    return bitlm_vector_dequantize_polled(data, bytes, NULL, out, n, error);
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
    double squares = 0, errors = 0, dot = 0, other = 0, most = 0, residual = 0;
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
        residual += x - y;
        zeros += y == 0;
    }
    double bits = entropy(data, &h), cosine = squares > 0 && other > 0 ? dot / sqrt(squares) / sqrt(other) : 0;
    if (errors > 0 && squares > 0)
        snprintf(snr, sizeof snr, "%.6g", 10 * log10(squares / errors));
    if (bits == bits)
        snprintf(information, sizeof information, "%.6g", bits);
    int used = snprintf(json, capacity,
                        "{\"n\":%zu,\"bytes\":%zu,\"bits_per_value\":%.6g,\"mse\":%.9g,\"max_error\":%.9g,\"cosine\":%.9g,"
                        "\"snr_db\":%s,\"zeros\":%.6g,\"entropy\":%s,\"residual\":%.9g}",
                        n, bytes, 8.0 * (double)bytes / (double)n, errors / (double)n, most, cosine, snr,
                        (double)zeros / (double)n, information, residual);
    return used >= 0 && (size_t)used < capacity
               ? BITLM_OK
               : bl_error(error, BITLM_LIMIT, "the report does not fit %zu bytes", capacity);
}
