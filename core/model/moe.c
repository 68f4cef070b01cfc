/* moe.c - a feed-forward block of experts: a router chooses a few for each token, and their outputs are
 * added with its weights.
 *
 * Tokens are gathered by expert, so an expert's weights are read once for all of its tokens; each token adds
 * its experts in ascending order of their numbers, whatever else is in the batch, so its result does not
 * depend on it.  A shared expert, if there is one, comes last, behind a sigmoid gate.  Called by forward.c. */
#include <string.h>

#include "model/forward.h"

typedef struct route_job {
    bl_context *c;
    const bl_layer *layer;
} route_job;

/* The n_used likeliest experts (ties: the lower number) and their weights. */
static void route_range(void *arg, int64_t begin, int64_t end, int thread) {
    const route_job *job = arg;
    bl_context *c = job->c;
    const bitlm_model *m = c->model;
    int64_t n = m->n_experts, used = m->n_experts_used;
    (void)thread;
    for (int64_t t = begin; t < end; t++) {
        float *p = c->router + t * n, *w = c->route_weights + t * used, sum = 0.0f;
        int32_t *chosen = c->route_experts + t * used;
        c->kernels->softmax(p, n, n);
        for (int64_t i = 0; i < used; i++) {
            int64_t best = -1;
            for (int64_t e = 0; e < n; e++) {
                int taken = 0;
                for (int64_t j = 0; j < i; j++)
                    taken |= chosen[j] == e;
                if (!taken && (best < 0 || p[e] > p[best]))
                    best = e;
            }
            chosen[i] = (int32_t)best;
            w[i] = p[best];
            sum += w[i];
        }
        for (int64_t i = 0; i < used; i++) {
            if (m->expert_norm)
                w[i] /= sum;
            w[i] *= m->expert_scale;
        }
    }
}

/* Rows of c->h whose tokens chose the expert go to c->gathered; returns their number. */
static int64_t gather(bl_context *c, int64_t expert, int64_t n) {
    const bitlm_model *m = c->model;
    int64_t used = m->n_experts_used, width = m->hidden_size, count = 0;
    for (int64_t t = 0; t < n; t++) {
        for (int64_t i = 0; i < used; i++) {
            if (c->route_experts[t * used + i] != expert)
                continue;
            c->members[count] = (int32_t)t;
            c->member_weights[count] = c->route_weights[t * used + i];
            memcpy(c->gathered + count * width, c->h + t * width, (size_t)width * sizeof(float));
            count++;
        }
    }
    return count;
}

/* c->y = expert(x) for n rows of hidden_size. */
static bitlm_status run_expert(bl_context *c, const bl_linear *gate, const bl_linear *up, const bl_linear *down,
                               const float *x, int64_t n) {
    const bl_linear *both[] = {gate, up};
    float *out[] = {c->gate, c->up};
    int64_t ld[] = {gate->n, up->n};
    bitlm_status status = bl_linear_run(c, both, 2, x, gate->k, n, out, ld, NULL);
    int op = bl_profile_switch(&c->profile, BL_OP_DOWN);
    if (!status)
        status = bl_act_down(c, down, n, NULL, c->y);
    bl_profile_switch(&c->profile, op);
    return status;
}

/* x[member] += weight * y. */
static void add_members(bl_context *c, int64_t count) {
    int64_t width = c->model->hidden_size;
    for (int64_t i = 0; i < count; i++) {
        float *y = c->y + i * width;
        for (int64_t d = 0; d < width; d++)
            y[d] *= c->member_weights[i];
        c->kernels->add(c->x + c->members[i] * width, y, width);
    }
}

static bitlm_status run_shared(bl_context *c, const bl_layer *l, int64_t n) {
    bitlm_status status = BITLM_OK;
    if (l->shared_router.data)
        status = bl_linear_one(c, &l->shared_router, c->h, n, c->member_weights, NULL);
    for (int64_t t = 0; t < n; t++) {
        c->members[t] = (int32_t)t;
        c->member_weights[t] = l->shared_router.data ? 1.0f / (1.0f + bl_expf(-c->member_weights[t])) : 1.0f;
    }
    if (!status)
        status = run_expert(c, &l->gate, &l->up, &l->down, c->h, n);
    if (!status)
        add_members(c, n);
    return status;
}

bitlm_status bl_moe_run(bl_context *c, const bl_layer *l, int64_t n, const bl_before *before) {
    route_job job = {c, l};
    bitlm_status status = bl_linear_one(c, &l->router, c->h, n, c->router, before);
    if (!status)
        status = bl_parallel(c, route_range, &job, n, 16);
    for (int64_t e = 0; e < c->model->n_experts && !status; e++) {
        int64_t count = gather(c, e, n);
        const bl_linear *expert = l->experts + e * 3;
        if (count == 0)
            continue;
        status = run_expert(c, &expert[0], &expert[1], &expert[2], c->gathered, count);
        if (!status)
            add_members(c, count);
    }
    return status || !l->gate.data ? status : run_shared(c, l, n);
}
