/* memory_shape.c - the memory planner without a file: bytes of a model of a given shape and of a session over it, or of
 * a number of weights or vectors alone.
 *
 * A shape becomes a model of descriptions without data, so that a session over it is measured by the code that opens
 * real ones.  Called through bitlm.h. */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "model/shapes.h"
#include "run/run.h"

#define MAX_COUNT ((int64_t)1 << 53) /* whole numbers of JSON are exact below */

typedef unsigned long long ull; /* for messages */

/* What a description says. */
typedef struct spec {
    int64_t hidden, layers, heads, kv_heads, head_dim, ffn, vocab, context, parameters, rows, dims;
    const bl_tensor_type *type, *embedding_type;
    int tied, sub_norms;
} spec;

static const struct {
    const char *name;
    size_t at;
    int64_t high;
} numbers[] = {{"hidden", offsetof(spec, hidden), 65536},     {"layers", offsetof(spec, layers), 1024},
               {"heads", offsetof(spec, heads), 1024},        {"kv_heads", offsetof(spec, kv_heads), 1024},
               {"head_dim", offsetof(spec, head_dim), 1024},  {"ffn", offsetof(spec, ffn), 1 << 20},
               {"vocab", offsetof(spec, vocab), 1 << 22},     {"context", offsetof(spec, context), 1 << 24},
               {"parameters", offsetof(spec, parameters), MAX_COUNT}, {"rows", offsetof(spec, rows), MAX_COUNT},
               {"dims", offsetof(spec, dims), 1 << 24}};

static int64_t *number_at(spec *s, size_t i) { return (int64_t *)(void *)((char *)s + numbers[i].at); }

static bitlm_status read_type(const char *key, const json_t *value, const bl_tensor_type **type, bitlm_error *error) {
    const char *name = json_string_value(value);
    *type = name ? bl_tensor_type_named(name, strlen(name)) : NULL;
    return *type ? BITLM_OK : bl_error(error, BITLM_ARG, "%s of a shape must be the name of a tensor type, such as \"i2_s\"", key);
}

static bitlm_status read_entry(const char *key, const json_t *value, spec *s, bitlm_error *error) {
    char shown[40];
    for (size_t i = 0; i < BL_COUNT(numbers); i++) {
        if (strcmp(key, numbers[i].name) != 0)
            continue;
        double x = json_number_value(value);
        if (!json_is_number(value) || !(x >= 1) || x > (double)numbers[i].high || x != (double)(int64_t)x)
            return bl_error(error, BITLM_ARG, "%s of a shape must be a whole number from 1 to %lld", key, (long long)numbers[i].high);
        *number_at(s, i) = (int64_t)x;
        return BITLM_OK;
    }
    if (strcmp(key, "type") == 0)
        return read_type(key, value, &s->type, error);
    if (strcmp(key, "embedding_type") == 0)
        return read_type(key, value, &s->embedding_type, error);
    int *flag = strcmp(key, "tied") == 0 ? &s->tied : strcmp(key, "sub_norms") == 0 ? &s->sub_norms : NULL;
    if (!flag || !json_is_boolean(value))
        return bl_error(error, BITLM_ARG, flag ? "%s of a shape must be true or false"
                                               : "a shape has no '%s'; there are hidden, layers, heads, kv_heads, head_dim, ffn, vocab, "
                                                 "context, type, embedding_type, tied and sub_norms, or parameters, or rows and dims",
                        bl_show(shown, sizeof shown, key, strlen(key)));
    *flag = json_is_true(value);
    return BITLM_OK;
}

static void take_named(const bl_shape *n, spec *s) {
    s->hidden = n->hidden;
    s->layers = n->layers;
    s->heads = n->heads;
    s->kv_heads = n->kv_heads;
    s->ffn = n->ffn;
    s->vocab = n->vocab;
    s->context = n->context;
}

static bitlm_status read_spec(const char *shape, size_t length, spec *s, bitlm_error *error) {
    char name[32], shown[60];
    const char *key;
    json_t *value, *object;
    bitlm_status status = BITLM_OK;
    *s = (spec){.tied = 1, .sub_norms = 1, .type = bl_tensor_type_find(BL_TYPE_I2_S),
                .embedding_type = bl_tensor_type_find(BL_TYPE_F16)};
    snprintf(name, sizeof name, "%.*s", (int)BL_MIN(length, sizeof name - 1), shape);
    const bl_shape *named = length < sizeof name ? bl_shape_named(name) : NULL;
    if (named && named->experts)
        return bl_error(error, BITLM_UNSUPPORTED, "the shape %s has experts, which are not planned without a file", name);
    if (named) {
        take_named(named, s);
        return BITLM_OK;
    }
    object = json_loadb(shape, length, JSON_REJECT_DUPLICATES, NULL);
    if (!json_is_object(object)) {
        json_decref(object);
        return bl_error(error, BITLM_ARG, "'%s' is no shape: give one of %s, or an object such as {\"hidden\":2560,\"layers\":30,"
                        "\"heads\":20,\"ffn\":6912,\"vocab\":128256} or {\"parameters\":7e9}",
                        bl_show(shown, sizeof shown, shape, length), bl_shape_names());
    }
    value = json_object_get(object, "shape");
    if (value) { /* a named one, changed by the other entries */
        named = json_is_string(value) ? bl_shape_named(json_string_value(value)) : NULL;
        if (named && !named->experts)
            take_named(named, s);
        else
            status = bl_error(error, BITLM_ARG, "shape must be one of %s, without the one of experts", bl_shape_names());
    }
    json_object_foreach(object, key, value) {
        if (!status && strcmp(key, "shape") != 0)
            status = read_entry(key, value, s, error);
    }
    json_decref(object);
    return status;
}

/* ---- numbers alone ------------------------------------------------------------------------------------- */

static bitlm_status numbers_json(const spec *s, char *json, size_t capacity, bitlm_error *error) {
    uint64_t n = (uint64_t)s->parameters;
    if (s->hidden || s->layers || (s->parameters != 0) == (s->rows != 0) || (s->rows != 0) != (s->dims != 0))
        return bl_error(error, BITLM_ARG, "give parameters alone, or rows and dims alone, or the sizes of a model");
    if (s->rows)
        n = (uint64_t)s->rows * (uint64_t)s->dims;
    if (n > (uint64_t)MAX_COUNT || (s->rows && n / (uint64_t)s->rows != (uint64_t)s->dims))
        return bl_error(error, BITLM_LIMIT, "%lld rows of %lld are more than 2^53 numbers", (long long)s->rows, (long long)s->dims);
    int used = snprintf(json, capacity,
                        "{\"n_parameters\":%" PRIu64 ",\"float_bits\":%" PRIu64 ",\"float_bytes\":%" PRIu64 ",\"int8_bytes\":%" PRIu64
                        ",\"int4_bytes\":%" PRIu64 ",\"ternary_bytes\":%" PRIu64 ",\"binary_bits\":%" PRIu64 ",\"binary_bytes\":%" PRIu64 "}",
                        n, 32 * n, 4 * n, n, (n + 1) / 2, (n + 4) / 5, n, (n + 7) / 8);
    return used >= 0 && (size_t)used < capacity ? BITLM_OK
                                                : bl_error(error, BITLM_LIMIT, "the JSON text does not fit %zu bytes", capacity);
}

/* ---- a model ------------------------------------------------------------------------------------------- */

/* A matrix of k inputs and n outputs: l (may be NULL) as a loaded one would be, its bytes added. */
static bitlm_status add_matrix(const bl_tensor_type *type, int64_t k, int64_t n, bl_linear *l, uint64_t *bytes, bitlm_error *error) {
    static const uint8_t nowhere[1];
    int ok;
    uint64_t own = bl_tensor_bytes(type, (uint64_t)k, (uint64_t)n, &ok);
    if (!ok || (type->id == BL_TYPE_I2_S && k % 128))
        return bl_error(error, BITLM_ARG, "rows of %lld weights do not fit %s", (long long)k, type->name);
    *bytes += own;
    if (l)
        *l = (bl_linear){.data = nowhere, .type = type->id, .k = k, .n = n, .group = type->group ? type->group : 32,
                         .kind = type->cls == BL_CLASS_FLOAT ? BL_LINEAR_FLOAT
                                 : type->id == BL_TYPE_I2_S  ? BL_LINEAR_TERNARY
                                                             : BL_LINEAR_GROUP,
                         .n_terms = type->cls == BL_CLASS_GROUP ? 2 : 1, .scale = 1.0f};
    return BITLM_OK;
}

static bitlm_status measure(const spec *s, const bitlm_options *options, bitlm_memory_parts *p, bitlm_error *error) {
    char path[] = "the shape";
    bl_layer layer = {0};
    bitlm_model m = {.path = path, .causal = 1, .vocab_size = s->vocab, .hidden_size = s->hidden, .n_layers = s->layers,
                     .n_heads = s->heads, .n_kv_heads = s->kv_heads ? s->kv_heads : s->heads, .ffn_size = s->ffn,
                     .context_length = s->context ? s->context : 4096};
    m.head_dim = s->head_dim ? s->head_dim : s->hidden / BL_MAX(s->heads, 1);
    m.n_rot = m.head_dim;
    if (!s->hidden || !s->layers || !s->heads || !s->ffn || !s->vocab || m.n_heads % m.n_kv_heads || m.head_dim < 2 || m.head_dim % 2 ||
        m.context_length < 16)
        return bl_error(error, BITLM_ARG, "a shape needs hidden, layers, heads (a multiple of kv_heads, heads of an even size), ffn and "
                        "vocab, and a context of 16 or more");
    int64_t attn = m.n_heads * m.head_dim, kv = m.n_kv_heads * m.head_dim;
    const struct {
        bl_linear *linear;
        int64_t k, n;
    } parts[] = {{&layer.q, m.hidden_size, attn},         {&layer.k, m.hidden_size, kv},           {&layer.v, m.hidden_size, kv},
                 {&layer.o, attn, m.hidden_size},         {&layer.gate, m.hidden_size, m.ffn_size}, {&layer.up, m.hidden_size, m.ffn_size},
                 {&layer.down, m.ffn_size, m.hidden_size}};
    uint64_t layer_bytes = 0, norms = (uint64_t)(2 * m.hidden_size + (s->sub_norms ? attn + m.ffn_size : 0)), weights = 0;
    bitlm_status status = BITLM_OK;
    for (size_t i = 0; i < BL_COUNT(parts) && !status; i++) {
        status = add_matrix(s->type, parts[i].k, parts[i].n, parts[i].linear, &layer_bytes, error);
        weights += (uint64_t)(parts[i].k * parts[i].n);
    }
    if (!status)
        status = add_matrix(s->embedding_type, m.hidden_size, m.vocab_size, &m.head, &p->embedding_bytes, error);
    if (status)
        return status;
    bl_alloc alloc = bl_alloc_from_host(NULL);
    m.layers = bl_malloc(&alloc, (size_t)m.n_layers * sizeof *m.layers);
    if (!m.layers)
        return bl_error_nomem(error, (size_t)m.n_layers * sizeof *m.layers, "the shape's layers");
    for (int64_t i = 0; i < m.n_layers; i++)
        m.layers[i] = layer;
    status = bl_session_measure(&m, options, p, error);
    bl_free(&alloc, m.layers);
    uint64_t layers = (uint64_t)m.n_layers, embedding = (uint64_t)(m.hidden_size * m.vocab_size);
    p->layer_bytes = layers * layer_bytes;
    if (s->type->cls == BL_CLASS_TERNARY || s->type->id == BL_TYPE_Q1_0)
        p->low_bit_bytes = p->layer_bytes;
    p->head_bytes = s->tied ? 0 : p->embedding_bytes;
    norms = layers * norms + (uint64_t)m.hidden_size;
    p->norm_bytes = 4 * norms;
    p->n_parameters = layers * weights + norms + embedding * (s->tied ? 1 : 2);
    p->float_bytes = 4 * p->n_parameters;
    p->file_bytes = p->layer_bytes + p->embedding_bytes + p->head_bytes + p->norm_bytes;
    p->total_bytes = p->file_bytes + p->kv_bytes + p->scratch_bytes + p->shortlist_bytes;
    return status;
}

bitlm_status bitlm_memory_shape_json(const char *shape, size_t length, const bitlm_options *options, char *json, size_t capacity,
                                     bitlm_error *error) {
    bitlm_options defaults;
    bitlm_memory_parts p = {.size = sizeof p};
    spec s;
    bl_error_clear(error);
    if (!options) {
        bitlm_options_init(&defaults);
        options = &defaults;
    }
    bitlm_status status = read_spec(shape, length, &s, error);
    if (status)
        return status;
    if (s.parameters || s.rows || s.dims)
        return numbers_json(&s, json, capacity, error);
    status = measure(&s, options, &p, error);
    return status ? status : bl_memory_write_json(&p, json, capacity, error);
}
