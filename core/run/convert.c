/* convert.c - bitlm_convert: what is source, what is target, and the id that a converted model tells.
 *
 * A folder goes through file/convert_hf.c, a GGUF file through file/convert_gguf.c or, to a folder of safetensors, through
 * file/convert_export.c.  Output appears whole or not at all: the GGUF writer's file has no name until it is finished.
 * Called by the command and by hosts through bitlm.h. */
#define _GNU_SOURCE
#include "file/convert.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "model/model.h"

void bitlm_convert_options_init(bitlm_convert_options *options) {
    memset(options, 0, sizeof *options);
    options->size = sizeof *options;
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
        if (bl_ends_with(path, pickles[i]))
            return BL_PLAN_FAIL(plan, BITLM_UNSUPPORTED, "'%s' looks like a PyTorch pickle: reading one runs the code inside "
                                "it, so bitlm does not; save the model as safetensors", shown);
    if (bl_ends_with(path, ".safetensors"))
        return BL_PLAN_FAIL(plan, BITLM_ARG, "'%s' is one file of a model; give the folder, which holds config.json and the "
                            "tokenizer too", shown);
    bitlm_status status =
        bl_mapping_open(path, strlen(path), BITLM_LOAD_MMAP, &plan->alloc, plan->poll, &plan->mapping, plan->error);
    return status ? status
                  : bl_gguf_open(plan->mapping.data, plan->mapping.size, &plan->alloc, &plan->gguf, plan->error);
}

static bitlm_status to_gguf(bl_plan *plan, const char *source, const char *output, int folder) {
    bitlm_status status = bl_gguf_writer_begin(output, &plan->alloc, &plan->writer, plan->error);
    if (status)
        return status;
    if (folder)
        status = bl_convert_hf(plan, source);
    else
        status = bl_convert_gguf(plan);
    if (!status)
        status = bl_plan_check_choices(plan);
    if (!status)
        status = bl_plan_write_file_type(plan);
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
    int folder = stat(source, &st) == 0 && S_ISDIR(st.st_mode), wanted = bl_ends_with(output, ".gguf");
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
