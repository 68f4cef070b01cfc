/* attention.c - rotary embedding, the KV cache and attention of one layer for a batch.
 *
 * Work is cut into (block of at most 8 queries, head): the kernels take up to 8 queries that
 * share keys.  A prefill takes 8 tokens of one head, a decode step the heads of one token that
 * share a KV head; either way each query's own sums run in the same order, so how a prompt was
 * cut changes no bit.  Called by forward.c. */
#include <math.h>
#include <string.h>

#include "model/forward.h"

#define MAX_QUERIES 8

typedef struct attention_job {
    bl_context *c;
    const bl_batch *batch;
    int64_t layer;
    int64_t blocks;   /* query blocks of the batch, so tile = block * n_units + unit */
    int by_heads;     /* every sequence has one token: queries are heads, not tokens */
} attention_job;

static size_t element_size(const bl_kv_cache *kv) { return kv->type == BITLM_KV_F16 ? 2 : 4; }

static uint8_t *k_head(const bl_context *c, int64_t layer, int64_t head) {
    const bl_kv_cache *kv = &c->kv;
    if (kv->n_layers == 1)
        layer = 0;
    int64_t index = (layer * c->model->n_kv_heads + head) * kv->capacity * c->model->head_dim;
    return kv->k + (size_t)index * element_size(kv);
}

static uint8_t *v_head(const bl_context *c, int64_t layer, int64_t head) {
    return c->kv.v + (k_head(c, layer, head) - c->kv.k);
}

static void store_range(void *arg, int64_t begin, int64_t end, int thread) {
    const attention_job *job = arg;
    bl_context *c = job->c;
    const bitlm_model *m = c->model;
    int64_t dim = m->head_dim, half = m->n_rot / 2;
    int neox = m->arch->rope == BL_ROPE_NEOX;
    const bl_layer *layer = &m->layers[job->layer];
    (void)thread;
    for (int64_t t = begin; t < end; t++) {
        const float *cs = c->cs + t * half, *sn = c->sn + t * half;
        float *q = c->q + t * m->n_heads * dim;
        int64_t pos = (int64_t)job->batch->base[t] + job->batch->pos[t];
        for (int64_t h = 0; h < m->n_heads; h++) {
            if (layer->q_norm)
                c->kernels->rmsnorm(q + h * dim, layer->q_norm, dim, m->norm_eps, q + h * dim);
            c->kernels->rope(q + h * dim, cs, sn, m->n_rot, neox);
        }
        for (int64_t h = 0; h < m->n_kv_heads; h++) {
            float *k = c->k + (t * m->n_kv_heads + h) * dim;
            const float *v = c->v + (t * m->n_kv_heads + h) * dim;
            uint8_t *kt = k_head(c, job->layer, h), *vr = v_head(c, job->layer, h);
            if (layer->k_norm)
                c->kernels->rmsnorm(k, layer->k_norm, dim, m->norm_eps, k);
            c->kernels->rope(k, cs, sn, m->n_rot, neox);
            if (c->kv.type == BITLM_KV_F16) {
                c->kernels->store_k_f16(k, dim, pos, (uint16_t *)(void *)kt);
                c->kernels->store_v_f16(v, dim, (uint16_t *)(void *)vr + pos * dim);
            } else {
                c->kernels->store_k_f32(k, dim, pos, (float *)(void *)kt);
                memcpy((float *)(void *)vr + pos * dim, v, (size_t)dim * sizeof(float));
            }
        }
    }
}

/* Queries j < n_q: q + j*ldq sees positions 0 .. n_pos[j]-1 of the sequence at `base`. */
static void attend(bl_context *c, int64_t layer, int64_t kv_head, int64_t base, const float *q, int64_t ldq,
                   int n_q, const int64_t *n_pos, float *out, int64_t ldo, int thread) {
    const bitlm_model *m = c->model;
    int64_t dim = m->head_dim, longest = 0, ld = c->score_len;
    float *scores = c->scores + (int64_t)thread * MAX_QUERIES * ld;
    float scale = 1.0f / sqrtf((float)dim);
    size_t es = element_size(&c->kv);
    const uint8_t *k = k_head(c, layer, kv_head) + (size_t)(base * dim) * es;
    const uint8_t *v = v_head(c, layer, kv_head) + (size_t)(base * dim) * es;
    for (int j = 0; j < n_q; j++)
        longest = BL_MAX(longest, n_pos[j]);
    int64_t n_tiles = (longest + 15) / 16;
    if (c->kv.type == BITLM_KV_F16)
        c->kernels->scores_f16(q, ldq, n_q, (const uint16_t *)(const void *)k, n_tiles, dim, scale, scores, ld);
    else
        c->kernels->scores_f32(q, ldq, n_q, (const float *)(const void *)k, n_tiles, dim, scale, scores, ld);
    for (int j = 0; j < n_q; j++)
        c->kernels->softmax(scores + j * ld, n_pos[j], longest);
    if (c->kv.type == BITLM_KV_F16)
        c->kernels->mix_f16(scores, ld, n_q, (const uint16_t *)(const void *)v, dim, longest, dim, out, ldo);
    else
        c->kernels->mix_f32(scores, ld, n_q, (const float *)(const void *)v, dim, longest, dim, out, ldo);
}

/* End of the run of tokens that belong to the sequence of token t. */
static int64_t span_end(const bl_batch *b, int64_t t) {
    int64_t end = t + 1;
    while (end < b->n && b->base[end] == b->base[t])
        end++;
    return end;
}

static void token_tile(const attention_job *job, int64_t block, int64_t head, int thread) {
    bl_context *c = job->c;
    const bitlm_model *m = c->model;
    const bl_batch *b = job->batch;
    int64_t width = m->n_heads * m->head_dim, group = m->n_heads / m->n_kv_heads;
    int64_t n_pos[MAX_QUERIES];
    int64_t t = block * MAX_QUERIES, stop = BL_MIN(t + MAX_QUERIES, b->n);
    /* A block of 8 tokens may hold the end of one sequence and the start of the next. */
    while (t < stop) {
        int64_t whole = span_end(b, t), end = BL_MIN(whole, stop);
        int64_t last = m->causal ? 0 : (int64_t)b->pos[whole - 1] + 1;
        for (int64_t i = t; i < end; i++)
            n_pos[i - t] = m->causal ? (int64_t)b->pos[i] + 1 : last;
        attend(c, job->layer, head / group, b->base[t], c->q + t * width + head * m->head_dim, width,
               (int)(end - t), n_pos, c->h + t * width + head * m->head_dim, width, thread);
        t = end;
    }
}

static void head_tile(const attention_job *job, int64_t t, int64_t kv_head, int thread) {
    bl_context *c = job->c;
    const bitlm_model *m = c->model;
    int64_t group = m->n_heads / m->n_kv_heads, dim = m->head_dim;
    int64_t n_pos[MAX_QUERIES];
    for (int64_t h = 0; h < group; h += MAX_QUERIES) {
        int n_q = (int)BL_MIN((int64_t)MAX_QUERIES, group - h);
        for (int j = 0; j < n_q; j++)
            n_pos[j] = (int64_t)job->batch->pos[t] + 1;
        int64_t offset = (t * m->n_heads + kv_head * group + h) * dim;
        attend(c, job->layer, kv_head, job->batch->base[t], c->q + offset, dim, n_q, n_pos, c->h + offset, dim,
               thread);
    }
}

static void attention_tile(void *arg, int64_t tile, int thread) {
    const attention_job *job = arg;
    const bitlm_model *m = job->c->model;
    if (job->by_heads)
        head_tile(job, tile / m->n_kv_heads, tile % m->n_kv_heads, thread);
    else
        token_tile(job, tile / m->n_heads, tile % m->n_heads, thread);
}

bitlm_status bl_attention_run(bl_context *c, const bl_batch *batch, int64_t layer) {
    const bitlm_model *m = c->model;
    attention_job job = {.c = c, .batch = batch, .layer = layer};
    bitlm_status status = bl_parallel(c, store_range, &job, batch->n, 8);
    if (status)
        return status;
    job.by_heads = m->causal;
    for (int64_t t = 1; t < batch->n && job.by_heads; t++)
        job.by_heads = batch->base[t] != batch->base[t - 1];
    job.blocks = job.by_heads ? batch->n : (batch->n + MAX_QUERIES - 1) / MAX_QUERIES;
    return bl_pool_run(c->pool, attention_tile, &job, job.blocks * (job.by_heads ? m->n_kv_heads : m->n_heads),
                       c->poll);
}
