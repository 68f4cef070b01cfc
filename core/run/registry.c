/* registry.c - models that are open in this process: built-ins and files, shared by identity.
 *
 * A list under one lock; opening the same file (device, inode, size, mtime) with the same load and
 * hidden_act again returns the model that is there.  A caller with its own allocator gets a model
 * of its own, because that allocator may die before another user of the model does. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "builtin/builtin.h"
#include "run/run.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bitlm_model *models; /* guarded by lock */

static int same_file(const bl_file_id *a, const bl_file_id *b) {
    return a->device == b->device && a->inode == b->inode && a->size == b->size && a->mtime_ns == b->mtime_ns;
}

/* Under the lock.  A built-in is its own identity: the address of its data. */
static bitlm_model *find_open(const bl_builtin *builtin, const bl_file_id *id, const bitlm_options *o) {
    for (bitlm_model *m = models; m; m = m->next) {
        if (m->load != o->load || m->hidden_act != o->hidden_act)
            continue;
        if (builtin ? m->mapping.data == builtin->data : !m->builtin && same_file(&m->mapping.id, id))
            return m;
    }
    return NULL;
}

static bitlm_status load_model(const bl_builtin *builtin, const char *path, size_t length,
                               const bitlm_options *options, const bl_alloc *alloc, bl_poll *poll,
                               bitlm_model **out, bitlm_error *error) {
    bitlm_status status;
    bitlm_model *m = bl_calloc(alloc, 1, sizeof *m);
    if (!m)
        return bl_error_nomem(error, sizeof *m, "the model");
    m->alloc = *alloc;
    m->references = 1;
    m->load = options->load;
    m->hidden_act = options->hidden_act;
    m->path = bl_malloc(alloc, length + 1);
    if (!m->path) {
        status = bl_error_nomem(error, length + 1, "the model's path");
        goto fail;
    }
    memcpy(m->path, path, length);
    m->path[length] = 0;
    if (builtin) {
        m->mapping = (bl_mapping){.data = builtin->data, .size = builtin->size, .alloc = *alloc};
        m->builtin = 1;
    } else {
        status = bl_mapping_open(path, length, options->load, alloc, poll, &m->mapping, error);
        if (status)
            goto fail;
    }
    status = bl_model_load(m, error);
    if (status)
        goto fail;
    *out = m;
    return BITLM_OK;
fail:
    bl_model_unload(m);
    bl_free(alloc, m);
    return status;
}

/* Processors without any of the instructions that kernels are written for compute right, but slowly: the host
 * gets to know, unless BITLM_CPU=ref asked for it. */
static void warn_of_plain_kernels(const bitlm_model *m, const bitlm_host *host) {
    static const char text[] = "this processor has none of the instructions that the fast kernels need (AVX2 with FMA "
                               "and F16C, or NEON; BITLM_CPU may forbid more): models run in plain C, many times slower";
    int ok;
    if (m->kernels == &bl_kernels_ref && bl_cpu_env_mask(&ok) != BL_CPU_REF && host && host->log)
        host->log(host->context, BITLM_LOG_WARNING, text, sizeof text - 1);
}

bitlm_status bitlm_model_open(const char *name_or_path, size_t length, uint32_t flags,
                              const bitlm_options *options, const bitlm_host *host, bitlm_model **model,
                              bitlm_error *error) {
    bitlm_options defaults;
    char shown[120];
    bl_error_clear(error);
    if (!options) {
        bitlm_options_init(&defaults);
        options = &defaults;
    }
    if (!name_or_path || length == 0)
        return bl_error(error, BITLM_ARG, "the model's name is empty");
    const bl_builtin *builtin = bl_builtin_find(name_or_path, length);
    if (!builtin && (flags & BITLM_OPEN_NAME_ONLY))
        return bl_error(error, BITLM_ARG, "there is no built-in model '%s': the built-ins are story and embed",
                        bl_show(shown, sizeof shown, name_or_path, length));
    bl_alloc alloc = bl_alloc_from_host(host);
    int shared = !host || !host->alloc;
    bl_float_env env;
    bl_poll poll;
    bl_file_id id;
    bitlm_status status = BITLM_OK;
    if (!builtin) {
        status = bl_mapping_identify(name_or_path, length, &id, error);
        if (status)
            return status;
    }
    if (shared) {
        pthread_mutex_lock(&lock);
        bitlm_model *found = find_open(builtin, &id, options);
        if (found)
            found->references++;
        pthread_mutex_unlock(&lock);
        if (found) {
            *model = found;
            return BITLM_OK;
        }
    }
    bitlm_model *m = NULL;
    bl_float_enter(&env);
    bl_poll_init(&poll, host, &env, options->timeout_ms);
    status = load_model(builtin, name_or_path, length, options, &alloc, &poll, &m, error);
    bl_float_leave(&env);
    if (status)
        return status;
    warn_of_plain_kernels(m, host);
    if (shared) {
        pthread_mutex_lock(&lock);
        /* Another thread may have opened it meanwhile: then ours goes. */
        bitlm_model *found = find_open(builtin, &m->mapping.id, options);
        if (found)
            found->references++;
        else {
            m->next = models;
            models = m;
            m->listed = 1;
        }
        pthread_mutex_unlock(&lock);
        if (found) {
            bl_model_unload(m);
            bl_free(&alloc, m);
            m = found;
        }
    }
    *model = m;
    return BITLM_OK;
}

void bitlm_model_retain(bitlm_model *model) {
    if (!model)
        return;
    pthread_mutex_lock(&lock);
    model->references++;
    pthread_mutex_unlock(&lock);
}

void bitlm_model_free(bitlm_model *model) {
    if (!model)
        return;
    pthread_mutex_lock(&lock);
    int last = --model->references == 0;
    if (last && model->listed) {
        bitlm_model **at = &models;
        while (*at != model)
            at = &(*at)->next;
        *at = model->next;
    }
    pthread_mutex_unlock(&lock);
    if (last) {
        bl_alloc alloc = model->alloc;
        bl_model_unload(model);
        bl_free(&alloc, model);
    }
}

bitlm_status bitlm_model_describe(const bitlm_model *m, bitlm_model_info *info, bitlm_error *error) {
    bl_error_clear(error);
    if (!m || !info || info->size < sizeof *info)
        return bl_error(error, BITLM_ARG, "bitlm_model_describe needs a model and an info whose size is set");
    bitlm_text name = {"", 0};
    bl_gguf_string(m->gguf, "general.name", &name);
    *info = (bitlm_model_info){
        .size = sizeof *info,
        .can_generate = m->head.data != NULL,
        .can_embed = m->pool != BL_POOL_NONE,
        .can_chat = m->chat != NULL,
        .vocab_size = (int32_t)m->vocab_size,
        .context_length = (int32_t)m->context_length,
        .hidden_size = (int32_t)m->hidden_size,
        .n_layers = (int32_t)m->n_layers,
        .embedding_bits = (int32_t)m->embedding_size,
        .activation = m->activation,
        .file_bytes = m->mapping.size,
        .n_parameters = m->n_parameters,
        .architecture = m->arch->name,
        .name = name.data,
        .weight_type = m->weight_type,
        .activation_why = m->activation_why,
        .path = m->path,
    };
    return BITLM_OK;
}

bitlm_status bitlm_model_id(bitlm_model *model, const bitlm_host *host, uint8_t id[16], bitlm_error *error) {
    uint8_t computed[16];
    bl_float_env env;
    bl_poll poll;
    bl_error_clear(error);
    if (!model)
        return bl_error(error, BITLM_ARG, "bitlm_model_id needs a model");
    pthread_mutex_lock(&lock);
    int known = model->id_known;
    if (known)
        memcpy(id, model->id, 16);
    pthread_mutex_unlock(&lock);
    if (known)
        return BITLM_OK;
    bitlm_status status = BITLM_OK;
    if (!bl_model_stored_id(model, computed)) {
        bl_float_enter(&env);
        bl_poll_init(&poll, host, &env, 0);
        status = bl_model_hash(model, &poll, computed, error);
        bl_float_leave(&env);
    }
    if (status)
        return status;
    pthread_mutex_lock(&lock);
    memcpy(model->id, computed, 16);
    model->id_known = 1;
    pthread_mutex_unlock(&lock);
    memcpy(id, computed, 16);
    return BITLM_OK;
}
