/* forward.c - the one forward pass: embedding, blocks, head or pooling.
 *
 * Which norms, activation, rope pairing, mask and pooling a block has is data (bl_arch and the
 * tensors found at load).  The residual stream stays in float32; every row operation is a
 * kernel; every projection goes through linear.c.  Called by core/run. */
#include <math.h>
#include <string.h>

#include "model/forward.h"
#include "quant/quant.h"

/* ---- memory --------------------------------------------------------------------------- */

static void widen(bl_context *c, const bl_linear *l) {
    if (!l->data)
        return;
    c->act_width = BL_MAX(c->act_width, l->kind == BL_LINEAR_GROUP ? l->k * l->n_terms : l->k);
    c->max_groups = BL_MAX(c->max_groups, bl_linear_groups(l));
    if (l->norm_in)
        c->normed_width = BL_MAX(c->normed_width, l->k);
}

/* Queries, keys and values are over when attention has run, gate and up when their product is made: they share their place
 * with each other and with y, which the next layer adds to x before any of them is written.  y lies where up does, since a layer
 * of floats still reads gate while it writes y. */
static void lay_shared(bl_context *c, size_t batch, bl_arena *arena) {
    const bitlm_model *m = c->model;
    size_t attn = (size_t)(m->n_heads * m->head_dim), kv = (size_t)(m->n_kv_heads * m->head_dim);
    size_t hidden = (size_t)m->hidden_size, ffn = (size_t)m->ffn_size;
    size_t width = BL_MAX(attn + 2 * kv, ffn + BL_MAX(ffn, hidden));
    float *all = bl_arena_take(arena, batch, width * sizeof(float));
    if (!all)
        return;
    c->q = all;
    c->k = c->q + batch * attn;
    c->v = c->k + batch * kv;
    c->gate = all;
    c->up = c->y = c->gate + batch * ffn;
}

void bl_context_layout(bl_context *c, const bitlm_model *m, int64_t max_seq, int64_t capacity,
                       int32_t kv_type, int64_t max_batch, int n_threads, bl_arena *arena) {
    size_t batch = (size_t)max_batch, threads = (size_t)n_threads;
    size_t attn = (size_t)(m->n_heads * m->head_dim), kv = (size_t)(m->n_kv_heads * m->head_dim);
    size_t hidden = (size_t)m->hidden_size;
    size_t wide = BL_MAX(attn, hidden);

    c->model = m;
    c->kernels = m->kernels;
    c->max_batch = max_batch;
    c->score_len = (max_seq + 15) / 16 * 16;
    c->act_width = c->max_groups = 1;
    c->normed_width = 0;
    for (int64_t i = 0; i < m->n_layers; i++) {
        const bl_layer *l = &m->layers[i];
        const bl_linear *all[] = {&l->q,  &l->k,    &l->v,      &l->o,           &l->gate,
                                  &l->up, &l->down, &l->router, &l->shared_router};
        for (size_t j = 0; j < BL_COUNT(all); j++)
            widen(c, all[j]);
        for (int64_t j = 0; j < 3 * m->n_experts; j++)
            widen(c, &l->experts[j]);
    }
    widen(c, &m->head);
    widen(c, &m->pool_proj);

    c->kv.type = kv_type;
    c->kv.n_layers = m->causal ? m->n_layers : 1;
    c->kv.capacity = capacity;
    c->kv.bits = bl_kv_bits(kv_type);
    int scaled = c->kv.bits <= 8;
    size_t kv_rows = (size_t)c->kv.n_layers, kv_row;
    if (!bl_mul_size((size_t)capacity / 2, kv * (size_t)c->kv.bits / 4, &kv_row)) /* capacity is even */
        arena->overflow = 1, kv_row = 0;
    size_t kv_scales = scaled ? (size_t)capacity * (size_t)m->n_kv_heads * sizeof(float) : 0;
    c->kv.k = bl_arena_take(arena, kv_rows, kv_row);
    c->kv.v = bl_arena_take(arena, kv_rows, kv_row);
    c->kv.kd = bl_arena_take(arena, kv_rows, kv_scales);
    c->kv.vd = bl_arena_take(arena, kv_rows, kv_scales);

    c->x = bl_arena_take(arena, batch, hidden * sizeof(float));
    c->h = bl_arena_take(arena, batch, wide * sizeof(float));
    lay_shared(c, batch, arena);
    c->xq = bl_arena_take(arena, batch, (size_t)c->act_width);
    c->xs = bl_arena_take(arena, batch, (size_t)c->max_groups * sizeof(float));
    c->xsum = bl_arena_take(arena, batch, (size_t)c->max_groups * sizeof(int32_t));
    c->factor = bl_arena_take(arena, batch, 3 * sizeof(float));
    c->normed = bl_arena_take(arena, batch, (size_t)c->normed_width * sizeof(float));
    if (m->n_experts) {
        size_t used = (size_t)m->n_experts_used;
        c->router = bl_arena_take(arena, batch, (size_t)m->n_experts * sizeof(float));
        c->route_experts = bl_arena_take(arena, batch, used * sizeof(int32_t));
        c->route_weights = bl_arena_take(arena, batch, used * sizeof(float));
        c->gathered = bl_arena_take(arena, batch, hidden * sizeof(float));
        c->members = bl_arena_take(arena, batch, sizeof(int32_t));
        c->member_weights = bl_arena_take(arena, batch, sizeof(float));
    }
    c->cs = bl_arena_take(arena, batch, (size_t)(m->n_rot / 2) * sizeof(float));
    c->sn = bl_arena_take(arena, batch, (size_t)(m->n_rot / 2) * sizeof(float));
    c->scores = bl_arena_take(arena, threads, 8 * (size_t)c->score_len * sizeof(float));
    if (scaled) {
        size_t chunks = ((size_t)c->score_len + BL_INT_CHUNK - 1) / BL_INT_CHUNK;
        c->q8 = bl_arena_take(arena, batch, attn);
        c->qd = bl_arena_take(arena, batch, (size_t)m->n_heads * sizeof(float));
        c->probs = bl_arena_take(arena, threads, 8 * chunks * BL_INT_CHUNK);
        c->chunk_scales = bl_arena_take(arena, threads, 8 * chunks * sizeof(float));
    }
    size_t ternary = bl_ternary_scratch(c->act_width), group = bl_group_scratch(c->act_width);
    c->scratch_bytes = (BL_MAX(ternary, group) + 63) / 64 * 64;
    c->scratch = bl_arena_take(arena, threads, c->scratch_bytes);
}

/* ---- parallel rows ---------------------------------------------------------------------- */

typedef struct range_job {
    bl_range_fn fn;
    void *arg;
    int64_t n, step;
} range_job;

static void range_tile(void *arg, int64_t tile, int thread) {
    const range_job *job = arg;
    int64_t begin = tile * job->step;
    job->fn(job->arg, begin, BL_MIN(begin + job->step, job->n), thread);
}

bitlm_status bl_parallel(bl_context *c, bl_range_fn fn, void *arg, int64_t n, int64_t step) {
    range_job job = {fn, arg, n, step};
    if (n <= step) { /* not worth waking anybody */
        fn(arg, 0, n, 0);
        return bl_poll_check(c->poll);
    }
    return bl_pool_run(c->pool, range_tile, &job, (n + step - 1) / step, c->poll);
}

typedef struct row_job {
    bl_context *c;
    const bl_batch *batch;
    const float *weight;        /* (width), or NULL: no norm */
    int64_t width;
    int pending;                /* c->y is to be added to c->x first */
} row_job;

static void embed_range(void *arg, int64_t begin, int64_t end, int thread) {
    const row_job *job = arg;
    bl_context *c = job->c;
    const bitlm_model *m = c->model;
    int64_t half = m->n_rot / 2;
    (void)thread;
    for (int64_t t = begin; t < end; t++) {
        const bl_tensor *e = m->token_embd;
        bl_decode_row(e->type, e->data, e->dims[1], e->dims[0], (uint64_t)job->batch->tokens[t],
                      c->x + t * m->hidden_size);
        for (int64_t i = 0; i < half; i++) {
            double s, co;
            bl_sincos((double)job->batch->pos[t] * m->rope_freq[i], &s, &co);
            c->cs[t * half + i] = (float)(co * m->rope_scale);
            c->sn[t * half + i] = (float)(s * m->rope_scale);
        }
    }
}

/* h = rmsnorm(x), after x += y where the block before has left y to be added. */
static void enter_range(void *arg, int64_t begin, int64_t end, int thread) {
    const row_job *job = arg;
    bl_context *c = job->c;
    (void)thread;
    for (int64_t t = begin; t < end; t++) {
        float *x = c->x + t * job->width;
        if (job->pending)
            c->kernels->add(x, c->y + t * job->width, job->width);
        if (job->weight)
            c->kernels->rmsnorm(x, job->weight, job->width, c->model->norm_eps, c->h + t * job->width);
    }
}

/* h = rmsnorm(h) */
static void sub_norm_range(void *arg, int64_t begin, int64_t end, int thread) {
    const row_job *job = arg;
    bl_context *c = job->c;
    (void)thread;
    for (int64_t t = begin; t < end; t++) {
        float *h = c->h + t * job->width;
        c->kernels->rmsnorm(h, job->weight, job->width, c->model->norm_eps, h);
    }
}

/* gate = act(gate) * up, then the sub-norm, a row at a time while it is in cache. */
static void act_range(void *arg, int64_t begin, int64_t end, int thread) {
    const row_job *job = arg;
    bl_context *c = job->c;
    int relu2 = c->model->activation == BITLM_ACT_RELU2;
    (void)thread;
    for (int64_t t = begin; t < end; t++) {
        float *gate = c->gate + t * job->width;
        const float *up = c->up + t * job->width;
        (relu2 ? c->kernels->relu2_mul : c->kernels->silu_mul)(gate, up, job->width, gate);
        if (job->weight)
            c->kernels->rmsnorm(gate, job->weight, job->width, c->model->norm_eps, gate);
    }
}

bitlm_status bl_linear_one(bl_context *c, const bl_linear *l, const float *x, int64_t n, float *y,
                           const bl_before *before) {
    return bl_linear_run(c, &l, 1, x, l->k, n, &y, &l->n, before);
}

bitlm_status bl_act_down(bl_context *c, const bl_linear *down, int64_t n, const float *sub_norm, float *y) {
    row_job job = {.c = c, .weight = sub_norm, .width = down->k};
    bl_before act = {act_range, &job, BL_OP_ACTIVATION};
    return bl_linear_one(c, down, c->gate, n, y, &act);
}

/* ---- the blocks ----------------------------------------------------------------------------
 * pending: c->y is still to be added to c->x. */

static bitlm_status attention_block(bl_context *c, const bl_batch *b, int64_t index, int pending) {
    const bitlm_model *m = c->model;
    const bl_layer *l = &m->layers[index];
    const bl_linear *qkv[] = {&l->q, &l->k, &l->v};
    float *out[] = {c->q, c->k, c->v};
    int64_t ld[] = {l->q.n, l->k.n, l->v.n};
    row_job enter = {.c = c, .weight = l->attn_norm, .width = m->hidden_size, .pending = pending};
    row_job sub_norm = {.c = c, .weight = l->attn_sub_norm, .width = m->n_heads * m->head_dim};
    bl_before norm = {enter_range, &enter, BL_OP_NORM}, sub = {sub_norm_range, &sub_norm, BL_OP_NORM};
    bl_profile_switch(&c->profile, BL_OP_QKV);
    bitlm_status status = bl_linear_run(c, qkv, 3, c->h, m->hidden_size, b->n, out, ld, &norm);
    if (!status)
        status = bl_attention_run(c, b, index);
    bl_profile_switch(&c->profile, BL_OP_O);
    return status ? status : bl_linear_one(c, &l->o, c->h, b->n, c->y, l->attn_sub_norm ? &sub : NULL);
}

/* Leaves c->y to be added, unless there are experts. */
static bitlm_status ffn_block(bl_context *c, const bl_batch *b, int64_t index) {
    const bitlm_model *m = c->model;
    const bl_layer *l = &m->layers[index];
    const bl_linear *gate_up[] = {&l->gate, &l->up};
    float *out[] = {c->gate, c->up};
    int64_t ld[] = {m->ffn_size, m->ffn_size};
    row_job enter = {.c = c, .weight = l->ffn_norm, .width = m->hidden_size, .pending = 1};
    bl_before norm = {enter_range, &enter, BL_OP_NORM};
    bl_profile_switch(&c->profile, BL_OP_GATE_UP);
    if (l->experts)
        return bl_moe_run(c, l, b->n, &norm);
    bitlm_status status = bl_linear_run(c, gate_up, 2, c->h, m->hidden_size, b->n, out, ld, &norm);
    bl_profile_switch(&c->profile, BL_OP_DOWN);
    return status ? status : bl_act_down(c, &l->down, b->n, l->ffn_sub_norm, c->y);
}

bitlm_status bl_forward_layers(bl_context *c, const bl_batch *batch, int64_t first, int64_t last, const float *x) {
    row_job embed = {.c = c, .batch = batch};
    int op = bl_profile_switch(&c->profile, BL_OP_EMBED), pending = 0;
    /* Also the rotation's sines and cosines, which every layer needs. */
    bitlm_status status = bl_parallel(c, embed_range, &embed, batch->n, 8);
    if (!status && x)
        memcpy(c->x, x, (size_t)(batch->n * c->model->hidden_size) * sizeof *x);
    for (int64_t i = first; i < last && !status; i++) {
        status = attention_block(c, batch, i, pending);
        if (!status)
            status = ffn_block(c, batch, i);
        pending = !c->model->layers[i].experts;
    }
    row_job leave = {.c = c, .width = c->model->hidden_size, .pending = pending};
    if (!status)
        status = bl_parallel(c, enter_range, &leave, batch->n, 8);
    bl_profile_switch(&c->profile, op);
    return status;
}

bitlm_status bl_forward(bl_context *c, const bl_batch *batch) {
    return bl_forward_layers(c, batch, 0, c->model->n_layers, NULL);
}

/* ---- what comes out -------------------------------------------------------------------------- */

void bl_head_inputs(bl_context *c, const int32_t *rows, int64_t n_rows, float *out) {
    const bitlm_model *m = c->model;
    for (int64_t i = 0; i < n_rows; i++) {
        const float *x = c->x + rows[i] * m->hidden_size;
        float *h = out + i * m->hidden_size;
        if (m->output_norm)
            c->kernels->rmsnorm(x, m->output_norm, m->hidden_size, m->norm_eps, h);
        else
            memcpy(h, x, (size_t)m->hidden_size * sizeof(float));
    }
}

bitlm_status bl_forward_logits(bl_context *c, const int32_t *rows, int64_t n_rows, float *logits) {
    int op = bl_profile_switch(&c->profile, BL_OP_HEAD);
    bl_head_inputs(c, rows, n_rows, c->h);
    bitlm_status status = bl_linear_one(c, &c->model->head, c->h, n_rows, logits, NULL);
    bl_profile_switch(&c->profile, op);
    return status;
}

bitlm_status bl_forward_pool(bl_context *c, const int64_t *first, int64_t n_seq, float *out) {
    const bitlm_model *m = c->model;
    int64_t width = m->hidden_size, size = m->embedding_size;
    bitlm_status status = BITLM_OK;
    int op = bl_profile_switch(&c->profile, BL_OP_HEAD);
    for (int64_t s = 0; s < n_seq; s++) {
        float *mean = c->h + s * width;
        int64_t begin = m->pool == BL_POOL_LAST ? first[s + 1] - 1 : first[s];
        int64_t end = m->pool == BL_POOL_CLS ? first[s] + 1 : first[s + 1];
        memset(mean, 0, (size_t)width * sizeof(float));
        for (int64_t t = begin; t < end; t++) {
            float *x = c->x + t * width;
            if (m->output_norm)
                c->kernels->rmsnorm(x, m->output_norm, width, m->norm_eps, x);
            c->kernels->add(mean, x, width);
        }
        for (int64_t i = 0; i < width && end - begin > 1; i++)
            mean[i] /= (float)(end - begin);
        if (m->pool_norm)
            c->kernels->rmsnorm(mean, m->pool_norm, width, m->norm_eps, mean);
    }
    if (m->pool_proj.data)
        status = bl_linear_one(c, &m->pool_proj, c->h, n_seq, out, NULL);
    else
        memcpy(out, c->h, (size_t)(n_seq * width) * sizeof(float));
    for (int64_t s = 0; s < n_seq && !status; s++) {
        float *v = out + s * size;
        float norm = sqrtf(c->kernels->dot_f32(v, v, size));
        for (int64_t i = 0; i < size && norm > 0.0f; i++)
            v[i] /= norm;
    }
    bl_profile_switch(&c->profile, op);
    return status;
}
