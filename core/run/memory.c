/* memory.c - the memory planner: bytes of a model and of a session over it, part by part, before there is a session.
 *
 * A tensor counts by its name and shape; the session's parts come from the same layout that bitlm_session_open
 * makes its arena by, so they are what it takes.  Called through bitlm.h. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "run/run.h"

static void count_tensor(const bl_tensor *t, bitlm_memory_parts *parts) {
    const bl_tensor_type *type = bl_tensor_type_find(t->type);
    if (strcmp(t->name, "token_embd.weight") == 0) {
        parts->embedding_bytes += t->bytes;
    } else if (strcmp(t->name, "output.weight") == 0) {
        parts->head_bytes += t->bytes;
    } else if (t->n_dims < 2) {
        parts->norm_bytes += t->bytes;
    } else {
        parts->layer_bytes += t->bytes;
        if (type && (type->cls == BL_CLASS_TERNARY || type->id == BL_TYPE_Q1_0))
            parts->low_bit_bytes += t->bytes;
    }
}

bitlm_status bitlm_memory(bitlm_model *model, const bitlm_options *options, bitlm_memory_parts *parts,
                          bitlm_error *error) {
    bitlm_options defaults;
    bitlm_memory_parts p = {.size = sizeof p};
    bl_error_clear(error);
    if (!model || !parts)
        return bl_error(error, BITLM_ARG, "bitlm_memory needs a model and room for the parts");
    if (!options) {
        bitlm_options_init(&defaults);
        options = &defaults;
    }
    bitlm_status status = bl_session_measure(model, options, &p, error);
    if (status)
        return status;
    p.n_parameters = model->n_parameters;
    p.float_bytes = 4 * p.n_parameters;
    p.file_bytes = model->mapping.size;
    for (uint64_t i = 0; i < bl_gguf_n_tensors(model->gguf); i++)
        count_tensor(bl_gguf_tensor_at(model->gguf, i), &p);
    p.total_bytes = p.file_bytes + p.kv_bytes + p.scratch_bytes + p.shortlist_bytes;
    uint32_t size = BL_MIN(parts->size, (uint32_t)sizeof p);
    memcpy(parts, &p, size);
    parts->size = size;
    return BITLM_OK;
}

bitlm_status bl_memory_write_json(const bitlm_memory_parts *p, char *json, size_t capacity, bitlm_error *error) {
    const struct {
        const char *name;
        uint64_t value;
    } rows[] = {
        {"n_parameters", p->n_parameters}, {"float_bytes", p->float_bytes},         {"layer_bytes", p->layer_bytes},
        {"low_bit_bytes", p->low_bit_bytes}, {"embedding_bytes", p->embedding_bytes}, {"head_bytes", p->head_bytes},
        {"norm_bytes", p->norm_bytes},     {"file_bytes", p->file_bytes},           {"n_ctx", (uint64_t)p->n_ctx},
        {"kv_positions", p->kv_positions}, {"kv_bytes", p->kv_bytes},               {"scratch_bytes", p->scratch_bytes},
        {"shortlist_bytes", p->shortlist_bytes}, {"total_bytes", p->total_bytes},
    };
    size_t used = 0;
    for (size_t i = 0; i < BL_COUNT(rows) && used < capacity; i++)
        used += (size_t)snprintf(json + used, capacity - used, "%s\"%s\":%" PRIu64 "%s", i ? "," : "{", rows[i].name,
                                 rows[i].value, i + 1 == BL_COUNT(rows) ? "}" : "");
    return used < capacity ? BITLM_OK
                           : bl_error(error, BITLM_LIMIT, "the JSON text of bitlm_memory does not fit %zu bytes", capacity);
}

bitlm_status bitlm_memory_json(bitlm_model *model, const bitlm_options *options, char *json, size_t capacity,
                               bitlm_error *error) {
    bitlm_memory_parts p = {.size = sizeof p};
    bitlm_status status = bitlm_memory(model, options, &p, error);
    return status ? status : bl_memory_write_json(&p, json, capacity, error);
}
