/* embed.c - texts to vectors or codes, many in one pass.
 *
 * Texts are packed ragged: as many as fit the batch stand one after the other, each with its own
 * stretch of the KV cache, so no padding is computed and a text's result does not depend on its
 * neighbours.  Called through bitlm.h. */
#include <math.h>
#include <string.h>

#include "quant/quant.h"
#include "run/run.h"

typedef struct embed_job {
    bitlm_session *s;
    const bitlm_options *options;
    int32_t format;
    uint8_t *out;
    size_t stride;
    bitlm_status *row_status;   /* may be NULL */
    size_t *rows;               /* rows of the texts in the batch, (max_batch / 2 + 1) */
    int64_t n_tokens, n_seq, kv_used;
} embed_job;

static size_t row_bytes(const embed_job *job) {
    size_t values = (size_t)job->s->model->embedding_size;
    return job->format == BITLM_EMBED_BITS ? values / 8 : values * sizeof(float);
}

static bitlm_status run_batch(embed_job *job, bitlm_error *error) {
    bitlm_session *s = job->s;
    int64_t size = s->model->embedding_size;
    bl_batch batch = {job->n_tokens, s->batch_tokens, s->batch_pos, s->batch_base};
    if (job->n_seq == 0)
        return BITLM_OK;
    s->first[job->n_seq] = job->n_tokens;
    bitlm_status status = bl_forward(&s->context, &batch);
    if (!status)
        status = bl_forward_pool(&s->context, s->first, job->n_seq, s->pooled);
    for (int64_t i = 0; i < job->n_seq && !status; i++) {
        const float *v = s->pooled + i * size;
        uint8_t *out = job->out + job->rows[i] * job->stride;
        for (int64_t j = 0; j < size; j++)
            if (!isfinite(v[j]))
                return bl_error(error, BITLM_FORMAT, "the model's arithmetic overflowed: the embedding of text %zu is "
                                "not finite", job->rows[i]);
        if (job->format == BITLM_EMBED_BITS)
            bl_binarize(v, (size_t)size, 0.0f, out);
        else
            memcpy(out, v, (size_t)size * sizeof(float));
    }
    job->n_tokens = job->n_seq = job->kv_used = 0;
    return status;
}

/* Shortens to n_ctx, keeping the frame's first and last token. */
static void truncate_framed(bl_ids *ids, size_t n_ctx, int32_t how) {
    if (how == BITLM_TRUNCATE_END)
        ids->data[n_ctx - 1] = ids->data[ids->n - 1];
    else
        memmove(ids->data + 1, ids->data + ids->n - (n_ctx - 1), (n_ctx - 1) * sizeof *ids->data);
    ids->n = n_ctx;
}

static bitlm_status add_text(embed_job *job, size_t row, bitlm_text text, bl_ids *ids, bitlm_error *error) {
    bitlm_session *s = job->s;
    int32_t how = job->options->truncate;
    ids->n = 0;
    bitlm_status status = bl_tokenize(s->model->tokenizer, text.data, text.length, BITLM_TOKENS_FRAME,
                                      how ? 0 : (size_t)s->n_ctx, &s->poll, ids, error);
    if (status == BITLM_LIMIT)
        bl_error(error, BITLM_LIMIT, "text %zu of %zu bytes has more than n_ctx = %lld tokens; cut it with chunk or "
                 "give truncate", row, text.length, (long long)s->n_ctx);
    if (status == BITLM_LIMIT && job->row_status) {
        job->row_status[row] = BITLM_LIMIT;
        memset(job->out + row * job->stride, 0, row_bytes(job));
        bl_error_clear(error);
        return BITLM_OK;
    }
    if (status)
        return status;
    if (job->row_status)
        job->row_status[row] = BITLM_OK;
    if (ids->n > (size_t)s->n_ctx)
        truncate_framed(ids, (size_t)s->n_ctx, how);
    int64_t n = (int64_t)ids->n, padded = (n + 15) / 16 * 16;
    if (n == 0)
        return bl_error(error, BITLM_ARG, "text %zu has no tokens", row);
    if (job->n_tokens + n > s->context.max_batch || job->kv_used + padded > s->context.kv.capacity ||
        job->n_seq >= s->context.max_batch / 2) {
        status = run_batch(job, error);
        if (status)
            return status;
    }
    for (int64_t i = 0; i < n; i++) {
        s->batch_tokens[job->n_tokens + i] = ids->data[i];
        s->batch_pos[job->n_tokens + i] = (int32_t)i;
        s->batch_base[job->n_tokens + i] = (int32_t)job->kv_used;
    }
    job->rows[job->n_seq] = row;
    s->first[job->n_seq++] = job->n_tokens;
    job->n_tokens += n;
    job->kv_used += padded;
    return BITLM_OK;
}

bitlm_status bitlm_embed_batch(bitlm_session *s, const bitlm_text *texts, size_t n, int32_t format,
                               const bitlm_options *options, void *out, size_t stride,
                               bitlm_status *row_status, bitlm_error *error) {
    bitlm_options defaults;
    if (!options) {
        bitlm_options_init(&defaults);
        options = &defaults;
    }
    bitlm_status status = bl_session_enter(s, options->timeout_ms, error);
    if (status)
        return status;
    embed_job job = {.s = s, .options = options, .format = format, .out = out, .stride = stride,
                     .row_status = row_status};
    bl_ids ids = {.alloc = &s->alloc};
    bl_generation_end(s);
    s->n_cached = 0;
    if (s->model->pool == BL_POOL_NONE)
        status = bl_error(error, BITLM_UNSUPPORTED, "the model %s is a decoder: it generates, but has no embedding",
                          s->model->path);
    else if (format != BITLM_EMBED_BITS && format != BITLM_EMBED_F32)
        status = bl_error(error, BITLM_ARG, "format is %d, but must be bits (0) or f32 (1)", format);
    else if (stride < row_bytes(&job))
        status = bl_error(error, BITLM_ARG, "stride is %zu, but a row has %zu bytes", stride, row_bytes(&job));
    if (!status) {
        size_t bytes = ((size_t)s->context.max_batch / 2 + 1) * sizeof(size_t);
        job.rows = bl_malloc(&s->alloc, bytes);
        if (!job.rows)
            status = bl_error_nomem(error, bytes, "the batch");
    }
    for (size_t i = 0; i < n && !status; i++)
        status = add_text(&job, i, texts[i], &ids, error);
    if (!status)
        status = run_batch(&job, error);
    bl_ids_free(&ids);
    bl_free(&s->alloc, job.rows);
    return bl_session_leave(s, status, error);
}
