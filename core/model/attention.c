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

int32_t bl_kv_bits(int32_t kv_type) {
    switch (kv_type) {
    case BITLM_KV_INT4:
        return 4;
    case BITLM_KV_INT8:
        return 8;
    case BITLM_KV_F16:
        return 16;
    default:
        return 32;
    }
}

/* Where one head of a layer has its keys, values and their scales. */
typedef struct head_cache {
    uint8_t *k, *v;
    float *kd, *vd;
} head_cache;

/* From position `base` on, a multiple of 16. */
static head_cache cache_of(const bl_context *c, int64_t layer, int64_t head, int64_t base) {
    const bl_kv_cache *kv = &c->kv;
    int64_t row = ((kv->n_layers == 1 ? 0 : layer) * c->model->n_kv_heads + head) * kv->capacity + base;
    int64_t offset = row * c->model->head_dim / 8 * kv->bits; /* row is a multiple of 16 */
    int scaled = kv->bits <= 8;
    return (head_cache){kv->k + offset, kv->v + offset, scaled ? kv->kd + row : NULL, scaled ? kv->vd + row : NULL};
}

/* bl_quant_head; heads that quant_groups takes go through the kernel, which gives the same. */
static float quant_head(const bl_context *c, const float *x, int bits, int8_t *q) {
    int64_t dim = c->model->head_dim;
    float d;
    int32_t sum;
    if (bits != 8 || dim % 16 || dim > 256)
        return bl_quant_head(x, dim, bits, q);
    c->kernels->quant_groups(x, dim, dim, q, &d, &sum);
    return d;
}

static void store_kv(const bl_context *c, const head_cache *at, const float *k, const float *v, int64_t pos) {
    const bl_kernels *kn = c->kernels;
    int64_t dim = c->model->head_dim;
    int8_t q[BL_MAX_HEAD_DIM];
    if (c->kv.bits <= 8) {
        at->kd[pos] = quant_head(c, k, c->kv.bits, q);
        bl_store_k_int(q, dim, c->kv.bits, pos, at->k);
        at->vd[pos] = quant_head(c, v, c->kv.bits, q);
        bl_store_v_int(q, dim, c->kv.bits, pos, at->v);
    } else if (c->kv.bits == 16) {
        kn->store_k_f16(k, dim, pos, (uint16_t *)(void *)at->k);
        kn->store_v_f16(v, dim, (uint16_t *)(void *)at->v + pos * dim);
    } else {
        kn->store_k_f32(k, dim, pos, (float *)(void *)at->k);
        memcpy((float *)(void *)at->v + pos * dim, v, (size_t)dim * sizeof(float));
    }
}

/* A KV head of token t: rotates its query heads and its key, stores key and value. */
static void rotate_store(const attention_job *job, int64_t t, int64_t kv_head) {
    bl_context *c = job->c;
    const bitlm_model *m = c->model;
    const bl_layer *layer = &m->layers[job->layer];
    int64_t dim = m->head_dim, half = m->n_rot / 2, group = m->n_heads / m->n_kv_heads;
    int neox = m->arch->rope == BL_ROPE_NEOX;
    const float *cs = c->cs + t * half, *sn = c->sn + t * half;
    for (int64_t i = t * m->n_heads + kv_head * group, end = i + group; i < end; i++) {
        float *q = c->q + i * dim;
        if (layer->q_norm)
            c->kernels->rmsnorm(q, layer->q_norm, dim, m->norm_eps, q);
        c->kernels->rope(q, cs, sn, m->n_rot, neox);
        if (c->kv.bits <= 8)
            c->qd[i] = quant_head(c, q, 8, c->q8 + i * dim);
    }
    float *k = c->k + (t * m->n_kv_heads + kv_head) * dim;
    const float *v = c->v + (t * m->n_kv_heads + kv_head) * dim;
    head_cache at = cache_of(c, job->layer, kv_head, 0);
    if (layer->k_norm)
        c->kernels->rmsnorm(k, layer->k_norm, dim, m->norm_eps, k);
    c->kernels->rope(k, cs, sn, m->n_rot, neox);
    store_kv(c, &at, k, v, (int64_t)job->batch->base[t] + job->batch->pos[t]);
}

static void store_range(void *arg, int64_t begin, int64_t end, int thread) {
    const attention_job *job = arg;
    (void)thread;
    for (int64_t t = begin; t < end; t++)
        for (int64_t h = 0; h < job->c->model->n_kv_heads; h++)
            rotate_store(job, t, h);
}

/* Queries that share keys: number j < n is head first + j*step of all the batch's heads in a row, and sees
 * positions 0 .. n_pos[j]-1 of the sequence at `base`. */
typedef struct queries {
    int64_t first, step, n_pos[MAX_QUERIES];
    int n;
} queries;

static void attend(bl_context *c, int64_t layer, int64_t kv_head, int64_t base, const queries *qs, int thread) {
    const bl_kernels *kn = c->kernels;
    int64_t dim = c->model->head_dim, longest = 0, ld = c->score_len, ldq = qs->step * dim;
    const float *q = c->q + qs->first * dim;
    float *out = c->h + qs->first * dim, *scores = c->scores + (int64_t)thread * MAX_QUERIES * ld;
    float scale = 1.0f / sqrtf((float)dim);
    head_cache at = cache_of(c, layer, kv_head, base);
    const uint16_t *k16 = (const uint16_t *)(const void *)at.k, *v16 = (const uint16_t *)(const void *)at.v;
    const float *k32 = (const float *)(const void *)at.k, *v32 = (const float *)(const void *)at.v;
    for (int j = 0; j < qs->n; j++)
        longest = BL_MAX(longest, qs->n_pos[j]);
    int64_t n_tiles = (longest + 15) / 16;
    if (c->kv.bits <= 8) {
        float qd[MAX_QUERIES];
        for (int j = 0; j < qs->n; j++)
            qd[j] = c->qd[qs->first + j * qs->step];
        kn->scores_int(c->kv.bits, c->q8 + qs->first * dim, ldq, qd, qs->n, at.k, at.kd, n_tiles, dim, scale,
                       scores, ld);
    } else if (c->kv.bits == 16) {
        kn->scores_f16(q, ldq, qs->n, k16, n_tiles, dim, scale, scores, ld);
    } else {
        kn->scores_f32(q, ldq, qs->n, k32, n_tiles, dim, scale, scores, ld);
    }
    for (int j = 0; j < qs->n; j++)
        kn->softmax(scores + j * ld, qs->n_pos[j], longest);
    if (c->kv.bits <= 8) {
        int64_t chunks = (ld + BL_INT_CHUNK - 1) / BL_INT_CHUNK, ldp = chunks * BL_INT_CHUNK;
        uint8_t *probs = c->probs + thread * MAX_QUERIES * ldp;
        float *scales = c->chunk_scales + thread * MAX_QUERIES * chunks;
        for (int j = 0; j < qs->n; j++)
            kn->quant_probs(scores + j * ld, at.vd, longest, probs + j * ldp, scales + j * chunks);
        kn->mix_int(c->kv.bits, probs, ldp, scales, chunks, qs->n, at.v, longest, dim, out, ldq);
    } else if (c->kv.bits == 16) {
        kn->mix_f16(scores, ld, qs->n, v16, dim, longest, dim, out, ldq);
    } else {
        kn->mix_f32(scores, ld, qs->n, v32, dim, longest, dim, out, ldq);
    }
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
    int64_t group = m->n_heads / m->n_kv_heads;
    int64_t t = block * MAX_QUERIES, stop = BL_MIN(t + MAX_QUERIES, b->n);
    /* A block of 8 tokens may hold the end of one sequence and the start of the next. */
    while (t < stop) {
        int64_t whole = span_end(b, t), end = BL_MIN(whole, stop);
        int64_t last = m->causal ? 0 : (int64_t)b->pos[whole - 1] + 1;
        queries qs = {.first = t * m->n_heads + head, .step = m->n_heads, .n = (int)(end - t)};
        for (int64_t i = t; i < end; i++)
            qs.n_pos[i - t] = m->causal ? (int64_t)b->pos[i] + 1 : last;
        attend(c, job->layer, head / group, b->base[t], &qs, thread);
        t = end;
    }
}

static void head_tile(const attention_job *job, int64_t t, int64_t kv_head, int thread) {
    bl_context *c = job->c;
    const bitlm_model *m = c->model;
    int64_t group = m->n_heads / m->n_kv_heads;
    rotate_store(job, t, kv_head); /* nobody else reads these keys */
    for (int64_t h = 0; h < group; h += MAX_QUERIES) {
        queries qs = {.first = t * m->n_heads + kv_head * group + h, .step = 1,
                      .n = (int)BL_MIN((int64_t)MAX_QUERIES, group - h)};
        for (int j = 0; j < qs.n; j++)
            qs.n_pos[j] = (int64_t)job->batch->pos[t] + 1;
        attend(c, job->layer, kv_head, job->batch->base[t], &qs, thread);
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
    attention_job job = {.c = c, .batch = batch, .layer = layer, .by_heads = m->causal};
    bitlm_status status = BITLM_OK;
    for (int64_t t = 1; t < batch->n && job.by_heads; t++)
        job.by_heads = batch->base[t] != batch->base[t - 1];
    job.blocks = job.by_heads ? batch->n : (batch->n + MAX_QUERIES - 1) / MAX_QUERIES;
    if (!job.by_heads) { /* in steps of a tile of keys, so that threads share no line */
        bl_profile_switch(&c->profile, BL_OP_ROPE_STORE);
        status = bl_parallel(c, store_range, &job, batch->n, 16);
    }
    bl_profile_switch(&c->profile, BL_OP_ATTENTION);
    if (status)
        return status;
    return bl_pool_run(c->pool, attention_tile, &job, job.blocks * (job.by_heads ? m->n_kv_heads : m->n_heads),
                       c->poll);
}

/* ---- a stretch of the cache for another sequence that begins alike -------------------------- */

typedef struct copy_job {
    bl_context *c;
    int64_t from, to, n;
} copy_job;

static void copy_tile(void *arg, int64_t tile, int thread) {
    const copy_job *job = arg;
    bl_context *c = job->c;
    int64_t heads = c->model->n_kv_heads;
    head_cache from = cache_of(c, tile / heads, tile % heads, job->from);
    head_cache to = cache_of(c, tile / heads, tile % heads, job->to);
    size_t bytes = (size_t)(job->n * c->model->head_dim / 8 * c->kv.bits);
    (void)thread;
    memcpy(to.k, from.k, bytes);
    memcpy(to.v, from.v, bytes);
    if (from.kd) {
        memcpy(to.kd, from.kd, (size_t)job->n * sizeof(float));
        memcpy(to.vd, from.vd, (size_t)job->n * sizeof(float));
    }
}

bitlm_status bl_kv_copy(bl_context *c, int64_t from, int64_t to, int64_t n) {
    copy_job job = {c, from, to, (n + 15) / 16 * 16}; /* keys are in tiles of 16 */
    return bl_pool_run(c->pool, copy_tile, &job, c->kv.n_layers * c->model->n_kv_heads, c->poll);
}
