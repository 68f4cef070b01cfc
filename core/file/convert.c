/* convert.c - bitlm_convert: what is source, what is target, and GGUF to GGUF.
 *
 * A folder goes through convert_hf.c, a GGUF file through here (keys copied as they stand, tensors planned by their
 * names) or, to a folder of safetensors, through convert_export.c.  Output appears whole or not at all: the GGUF
 * writer's file has no name until it is finished.  Called by the command and by hosts through bitlm.h. */
#define _GNU_SOURCE
#include "file/convert.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "model/model.h"
#include "quant/quant.h"

void bitlm_convert_options_init(bitlm_convert_options *options) {
    memset(options, 0, sizeof *options);
    options->size = sizeof *options;
}

bitlm_status bl_plan_find_type(bl_plan *plan, bitlm_text name, const char *option, int32_t *type) {
    char shown[40];
    *type = -1;
    if (name.length == 0)
        return BITLM_OK;
    const bl_tensor_type *t = bl_tensor_type_named(name.data, name.length);
    if (!t || !bl_can_encode(t->id))
        return BL_PLAN_FAIL(plan, BITLM_ARG, "%s is '%s', but bitlm writes f32, f16, bf16, q8_0, q6_k, q4_k, q4_1, q4_0, q2_0, "
                            "q1_0, tq2_0, tq1_0 and i2_s", option, bl_show(shown, sizeof shown, name.data, name.length));
    *type = t->id;
    return BITLM_OK;
}

static int ends_with(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* ---- GGUF to GGUF ---------------------------------------------------------------------------------------- */

/* The weights that option type means: the matrices of a block's attention and feed-forward, and the projection of an
 * encoder. */
static int role_of(const bl_tensor *t) {
    static const char *const layers[] = {".attn_q.weight", ".attn_k.weight", ".attn_v.weight", ".attn_output.weight",
                                         ".ffn_gate.weight", ".ffn_up.weight", ".ffn_down.weight",
                                         ".ffn_gate_exps.weight", ".ffn_up_exps.weight", ".ffn_down_exps.weight",
                                         ".ffn_gate_shexp.weight", ".ffn_up_shexp.weight", ".ffn_down_shexp.weight"};
    if (strcmp(t->name, "token_embd.weight") == 0 || strcmp(t->name, "output.weight") == 0)
        return BL_ROLE_EMBEDDING;
    if (strcmp(t->name, "pool_proj.weight") == 0)
        return BL_ROLE_LAYER;
    for (size_t i = 0; i < BL_COUNT(layers); i++)
        if (strncmp(t->name, "blk.", 4) == 0 && ends_with(t->name, layers[i]))
            return BL_ROLE_LAYER;
    return BL_ROLE_OTHER;
}

static bitlm_status copy_keys(bl_plan *plan) {
    static const char *const ours[] = {"general.alignment", "general.file_type", "general.quantization_version",
                                      BL_ID_KEY};
    bitlm_status status = BITLM_OK;
    for (uint64_t i = 0; i < bl_gguf_n_keys(plan->gguf) && !status; i++) {
        int32_t type;
        uint64_t size;
        int skip = 0;
        const char *key = bl_gguf_key_at(plan->gguf, i, &type);
        const uint8_t *raw = bl_gguf_raw(plan->gguf, i, &size);
        for (size_t j = 0; j < BL_COUNT(ours); j++)
            skip |= strcmp(key, ours[j]) == 0;
        if (!skip)
            status = bl_gguf_write_raw(plan->writer, key, type, raw, size);
    }
    return status;
}

bitlm_status bl_plan_add_gguf(bl_plan *plan, const bl_tensor *t, bl_planned **out) {
    bl_planned *p = bl_plan_add(plan);
    if (!p)
        return BITLM_NOMEM;
    if (strlen(t->name) >= sizeof p->name)
        return BL_PLAN_FAIL(plan, BITLM_LIMIT, "the tensor name '%.80s' has more than %zu bytes", t->name,
                            sizeof p->name - 1);
    strcpy(p->name, t->name);
    p->source_name = t->name;
    p->from = BL_FROM_GGUF;
    p->gguf = t;
    p->n_dims = t->n_dims;
    memcpy(p->dims, t->dims, sizeof p->dims);
    p->role = role_of(t);
    p->type = t->type;
    *out = p;
    return BITLM_OK;
}

static bitlm_status plan_gguf(bl_plan *plan) {
    bitlm_status status = copy_keys(plan);
    for (uint64_t i = 0; i < bl_gguf_n_tensors(plan->gguf) && !status; i++) {
        bl_planned *p;
        status = bl_plan_add_gguf(plan, bl_gguf_tensor_at(plan->gguf, i), &p);
        if (!status && p->role != BL_ROLE_OTHER)
            status = bl_plan_choose(plan, p, p->type);
    }
    return status;
}

/* ---- what llama.cpp calls the file ------------------------------------------------------------------------ */

static bitlm_status write_file_type(bl_plan *plan) {
    static const struct {
        int32_t type;
        uint32_t file_type;
    } known[] = {{BL_TYPE_F32, 0},    {BL_TYPE_F16, 1},    {BL_TYPE_Q4_0, 2},   {BL_TYPE_Q4_1, 3},
                 {BL_TYPE_Q8_0, 7},   {BL_TYPE_Q4_K, 15},  {BL_TYPE_Q6_K, 18},  {BL_TYPE_BF16, 32},
                 {BL_TYPE_TQ1_0, 36}, {BL_TYPE_TQ2_0, 37}, {BL_TYPE_I2_S, 40}};
    uint64_t most = 0, counts[BL_COUNT(known)] = {0};
    size_t best = 0;
    for (uint64_t i = 0; i < plan->n; i++)
        for (size_t j = 0; j < BL_COUNT(known); j++)
            if (plan->tensors[i].type == known[j].type && plan->tensors[i].role == BL_ROLE_LAYER)
                counts[j] += plan->tensors[i].dims[0] * plan->tensors[i].dims[1] * plan->tensors[i].dims[2];
    for (size_t j = 0; j < BL_COUNT(known); j++)
        if (counts[j] > most) {
            most = counts[j];
            best = j;
        }
    bitlm_status status = most ? bl_gguf_write_u32(plan->writer, "general.file_type", known[best].file_type) : BITLM_OK;
    return status ? status : bl_gguf_write_u32(plan->writer, "general.quantization_version", 2);
}

/* The file's own id, where bitlm can run the model: docs/FORMATS.md. */
static bitlm_status write_id(bl_plan *plan) {
    char path[PATH_MAX], text[BL_ID_KEY_BYTES + 1];
    bitlm_error why = {.size = sizeof why};
    bitlm_status status = bl_gguf_writer_path(plan->writer, path);
    if (status)
        return status;
    status = bl_model_file_id(path, &plan->alloc, plan->poll, text, &why);
    if (!status)
        return bl_gguf_write_late(plan->writer, text);
    if (status == BITLM_UNSUPPORTED || status == BITLM_FORMAT || status == BITLM_ARG || status == BITLM_IO)
        return BITLM_OK; /* no model of ours, or nobody may read the file: then it tells no id */
    return BL_PLAN_FAIL(plan, status, "%s", why.text);
}

/* ---- the call -------------------------------------------------------------------------------------------- */

static bitlm_status open_gguf(bl_plan *plan, const char *path) {
    static const char *const pickles[] = {".bin", ".pt", ".pth", ".pkl", ".ckpt"};
    char shown[160];
    bl_show(shown, sizeof shown, path, strlen(path));
    for (size_t i = 0; i < BL_COUNT(pickles); i++)
        if (ends_with(path, pickles[i]))
            return BL_PLAN_FAIL(plan, BITLM_UNSUPPORTED, "'%s' looks like a PyTorch pickle: reading one runs the code inside "
                                "it, so bitlm does not; save the model as safetensors", shown);
    if (ends_with(path, ".safetensors"))
        return BL_PLAN_FAIL(plan, BITLM_ARG, "'%s' is one file of a model; give the folder, which holds config.json and the "
                            "tokenizer too", shown);
    bitlm_status status =
        bl_mapping_open(path, strlen(path), BITLM_LOAD_MMAP, &plan->alloc, plan->poll, &plan->mapping, plan->error);
    return status ? status
                  : bl_gguf_open(plan->mapping.data, plan->mapping.size, &plan->alloc, &plan->gguf, plan->error);
}

/* Every name that was given a type of its own is a tensor that can have one. */
static bitlm_status check_choices(bl_plan *plan) {
    char shown[80];
    for (size_t i = 0; i < plan->options->n_choices && plan->n_chosen != plan->options->n_choices; i++) {
        bitlm_text name = plan->options->choices[i].name;
        int found = 0;
        for (uint64_t j = 0; j < plan->n && !found; j++)
            found = plan->tensors[j].role != BL_ROLE_OTHER && strlen(plan->tensors[j].name) == name.length &&
                    memcmp(plan->tensors[j].name, name.data, name.length) == 0;
        if (!found)
            return BL_PLAN_FAIL(plan, BITLM_ARG, "there is no layer, embedding or head '%s' that a type could be given to",
                                bl_show(shown, sizeof shown, name.data, name.length));
    }
    return BITLM_OK;
}

static bitlm_status to_gguf(bl_plan *plan, const char *source, const char *output, int folder) {
    bitlm_status status = bl_gguf_writer_begin(output, &plan->alloc, &plan->writer, plan->error);
    if (status)
        return status;
    if (folder)
        status = bl_convert_hf(plan, source);
    else
        status = plan_gguf(plan);
    if (!status)
        status = check_choices(plan);
    if (!status)
        status = write_file_type(plan);
    if (!status)
        status = bl_gguf_reserve_string(plan->writer, BL_ID_KEY, BL_ID_KEY_BYTES);
    if (!status)
        status = bl_plan_write(plan);
    if (!status)
        status = write_id(plan);
    if (status && plan->error->status == BITLM_OK) { /* the writer's own, which sticks: finish tells it */
        bitlm_status finished = bl_gguf_writer_finish(plan->writer, plan->error);
        plan->writer = NULL;
        return finished ? finished : status;
    }
    if (!status) {
        status = bl_gguf_writer_finish(plan->writer, plan->error);
        plan->writer = NULL;
    }
    return status;
}

static char *c_string(const bl_alloc *alloc, const char *text, size_t length, const char *what, bitlm_status *status,
                      bitlm_error *error) {
    char *copy = NULL;
    if (length == 0 || memchr(text, 0, length))
        *status = bl_error(error, BITLM_ARG, "the path of the %s is empty or holds a NUL byte", what);
    else if (length >= PATH_MAX)
        *status = bl_error(error, BITLM_ARG, "the path of the %s has %zu bytes, more than %d", what, length, PATH_MAX - 1);
    else if (!(copy = bl_malloc(alloc, length + 1)))
        *status = bl_error_nomem(error, length + 1, "a path");
    if (copy) {
        memcpy(copy, text, length);
        copy[length] = '\0';
        while (length > 1 && copy[length - 1] == '/') /* of a folder */
            copy[--length] = '\0';
    }
    return copy;
}

static bitlm_status run(bl_plan *plan, const char *source, const char *output) {
    struct stat st;
    char shown[160];
    int folder = stat(source, &st) == 0 && S_ISDIR(st.st_mode), wanted = ends_with(output, ".gguf");
    bitlm_status status = bl_plan_find_type(plan, plan->options->type, "type", &plan->type);
    if (!status)
        status = bl_plan_find_type(plan, plan->options->embedding_type, "embedding_type", &plan->embedding_type);
    if (!status && (plan->options->ternary < BITLM_TERNARY_ABSMEAN || plan->options->ternary > BITLM_TERNARY_TWN ||
                    plan->options->scale_per < BITLM_SCALE_TENSOR || plan->options->scale_per > BITLM_SCALE_GROUP))
        status = BL_PLAN_FAIL(plan, BITLM_ARG, "ternary is %d and scale_per %d, but must be 0 or 1, and 0 to 2",
                              (int)plan->options->ternary, (int)plan->options->scale_per);
    if (!status && plan->options->scale_per && plan->type == BL_TYPE_I2_S)
        status = BL_PLAN_FAIL(plan, BITLM_ARG, "i2_s has one scale for a tensor; tq1_0, tq2_0 and q2_0 hold one for each row or "
                              "group");
    if (status)
        return status;
    if (folder && !wanted)
        return BL_PLAN_FAIL(plan, BITLM_ARG, "the output '%s' must be named *.gguf, since the source is a folder",
                            bl_show(shown, sizeof shown, output, strlen(output)));
    if (folder)
        return to_gguf(plan, source, output, 1);
    status = open_gguf(plan, source);
    if (status)
        return status;
    return wanted ? to_gguf(plan, source, output, 0) : bl_convert_export(plan, output);
}

bitlm_status bitlm_convert(const char *source, size_t source_length, const char *output, size_t output_length,
                           const bitlm_convert_options *options, const bitlm_host *host, bitlm_error *error) {
    bitlm_convert_options defaults;
    bitlm_error inner = {.size = sizeof inner};
    bl_float_env env;
    bl_poll poll;
    bl_plan plan = {.type = -1, .embedding_type = -1, .error = &inner, .poll = &poll};
    bitlm_status status = BITLM_OK;
    bl_error_clear(error);
    bitlm_convert_options_init(&defaults);
    plan.options = options ? options : &defaults;
    if (options && options->size != sizeof *options)
        return bl_error(error, BITLM_ARG, "the size of bitlm_convert_options is %u, but must be %zu",
                        (unsigned)options->size, sizeof *options);
    plan.alloc = bl_alloc_from_host(host);
    bl_float_enter(&env);
    bl_poll_init(&poll, host, &env, 0);
    char *from = c_string(&plan.alloc, source, source_length, "source", &status, &inner), *to = NULL;
    if (!status)
        to = c_string(&plan.alloc, output, output_length, "output", &status, &inner);
    if (!status && (plan.options->threads < 0 || plan.options->threads > 256))
        status = bl_error(&inner, BITLM_ARG, "threads is %d, but must be 0 to 256", (int)plan.options->threads);
    if (!status)
        status = bl_pool_create(&plan.alloc, plan.options->threads ? plan.options->threads : bl_physical_cores(), &plan.pool,
                                &inner);
    if (!status)
        status = run(&plan, from, to);
    bl_pool_free(plan.pool);
    bl_gguf_writer_abort(plan.writer);
    for (uint64_t i = 0; i < plan.n; i++)
        bl_free(&plan.alloc, plan.tensors[i].memory);
    bl_free(&plan.alloc, plan.tensors);
    bl_gguf_free(plan.gguf);
    bl_mapping_close(&plan.mapping);
    bl_safetensors_free(plan.st);
    bl_free(&plan.alloc, from);
    bl_free(&plan.alloc, to);
    bl_float_leave(&env);
    if (status) {
        bl_error(error, status, "%s", inner.text);
        if (error)
            error->sys_errno = inner.sys_errno;
    }
    return status;
}
