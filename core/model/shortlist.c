/* shortlist.c - an int8 copy of a float output head (Q8_0: a scale for each 32 weights) and the bound on its logits' error.
 *
 * Let w be a row of the head, v the same row of the copy, x the head's input, z = z1 + z2 the two int8 rows that stand for x
 * in an integer layer; u = 2^-24, g(m) = m u / (1 - m u), and |.| the Euclidean norm of vectors.
 *   The head's logit l is Σ w x in floats: 16 lanes of k/16 fused steps and 4 sums, so every product passes m1 = k/16 + 5
 *   roundings at most:                    |l - w.x|  <=  g(m1) Σ|w_i x_i|  <=  g(m1) |w| |x|          (Cauchy-Schwarz)
 *   The copy's logit c adds, for each group and each of the two rows, an exact integer times the rounded product of two scales,
 *   in one fused chain; the integers are below 2^24, so exact as floats. A term passes m2 = k/16 + 2 roundings at most:
 *                                         |c - v.z|  <=  g(m2) Σ|v_i| (|z1_i| + |z2_i|)  <=  g(m2) |v| (|z1| + |z2|)
 *   And between the exact values:         |w.x - v.z|  =  |(w - v).x + v.(x - z)|  <=  |w - v| |x| + |v| |x - z|
 * Together, with error >= |w - v| and norm >= |w|, |v|:
 *   |l - c|  <=  error |x|  +  norm (|x - z| + g(m1) |x| + g(m2) (|z1| + |z2|))  =  a error + b norm
 * Results below the normal floats lose at most 2^-150 a step, times an integer of 2^19 in a scale: BL_HEAD_TINY is far more.
 * None of the sums overflows as long as no norm times |x| passes 1e37; else the bound is infinite.  All norms are enlarged by more
 * than the rounding of their own sums; |v| <= |w| + |w - v|.
 *
 * Called by core/run/session.c and settle.c. */
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

#include "model/shortlist.h"
#include "quant/quant.h"

#define GROUP 32
#define GROUP_BYTES 34      /* of Q8_0: a half float, 32 codes */
#define ROWS_A_TILE 32
#define MOST_LOGIT 1e37     /* beyond, sums of floats may overflow */
#define LARGEST_HALF 0x7bffu

static pthread_mutex_t building = PTHREAD_MUTEX_INITIALIZER; /* guards model->shortlist */

int bl_shortlist_fits(const bitlm_model *m) {
    const bl_linear *h = &m->head;
    return h->data && h->kind == BL_LINEAR_FLOAT && h->k % GROUP == 0 && h->scale == 1.0f && !h->bias && !h->norm_in;
}

uint64_t bl_shortlist_bytes(const bitlm_model *m) {
    uint64_t n = (uint64_t)m->head.n, k = (uint64_t)m->head.k;
    return n * (k / GROUP * GROUP_BYTES + 2 * sizeof(float)) + sizeof(bl_shortlist) + 3 * 64;
}

bl_linear bl_shortlist_linear(const bitlm_model *m) {
    static const uint8_t nowhere[1];
    return (bl_linear){.data = nowhere, .type = BL_TYPE_Q8_0, .kind = BL_LINEAR_GROUP, .group = GROUP, .n_terms = 2,
                       .k = m->head.k, .n = m->head.n, .scale = 1.0f};
}

/* ---- making it --------------------------------------------------------------------------------- */

/* No less than the length whose square the kernel dot_f32 has summed to x: (k/16 + 5) u is below 1e-3, and what is lost below the
 * normal floats is less than 1e-19. */
static float at_least(float x) { return sqrtf(x) * 1.001f + 1e-19f; }

/* w becomes what the copy lacks. */
static void copy_row(const bl_kernels *kn, float *w, int64_t k, int8_t *q, float *d, int32_t *sums, uint8_t *out, float *error,
                     float *norm) {
    float own = at_least(kn->dot_f32(w, w, k));
    kn->quant_groups(w, k, GROUP, q, d, sums);
    for (int64_t g = 0; g < k / GROUP; g++, out += GROUP_BYTES) {
        uint16_t half = bl_f32_to_f16(d[g]);
        if (half > LARGEST_HALF) /* too large, or NaN for weights that are not finite */
            half = LARGEST_HALF;
        d[g] = bl_f16_to_f32(half);
        out[0] = (uint8_t)half;
        out[1] = (uint8_t)(half >> 8);
        memcpy(out + 2, q + g * GROUP, GROUP);
    }
    kn->residual(w, k, GROUP, q, d, w);
    *error = at_least(kn->dot_f32(w, w, k)) * 1.001f; /* the residual itself is rounded */
    *norm = own + *error;
    if (!isfinite(*norm))
        *error = *norm = INFINITY;
}

typedef struct build_job {
    const bl_linear *head;
    bl_shortlist *list;
    uint8_t *rows;
    float *scratch;   /* (n_threads) of k floats, their scales, sums and codes: 3 k floats are enough */
    const bl_kernels *kernels;
} build_job;

static void build_tile(void *arg, int64_t tile, int thread) {
    static const float one = 1.0f;
    const build_job *job = arg;
    const bl_linear *h = job->head;
    float *w = job->scratch + (int64_t)thread * 3 * h->k, *d = w + h->k;
    int32_t *sums = (int32_t *)(void *)(d + h->k / GROUP);
    int8_t *q = (int8_t *)(sums + h->k / GROUP);
    int64_t bytes = h->k / GROUP * GROUP_BYTES, end = BL_MIN((tile + 1) * ROWS_A_TILE, h->n);
    for (int64_t r = tile * ROWS_A_TILE; r < end; r++) {
        if (h->type == BL_TYPE_F16) /* one position of probability 1: the fast way to floats */
            job->kernels->mix_f16(&one, 1, 1, (const uint16_t *)(const void *)h->data + r * h->k, h->k, 1, h->k, w, h->k);
        else
            bl_decode_row(h->type, h->data, (uint64_t)h->n, (uint64_t)h->k, (uint64_t)r, w);
        copy_row(job->kernels, w, h->k, q, d, sums, job->rows + r * bytes, &job->list->error[r], &job->list->norm[r]);
    }
}

static bitlm_status build(bitlm_model *m, bl_pool *pool, bl_poll *poll, bl_shortlist **out, bitlm_error *error) {
    const bl_linear *h = &m->head;
    size_t n = (size_t)h->n, row = (size_t)(h->k / GROUP * GROUP_BYTES), whole = (size_t)bl_shortlist_bytes(m);
    size_t scratch = (size_t)bl_pool_threads(pool) * 3 * (size_t)h->k * sizeof(float);
    build_job job = {.head = h, .kernels = m->kernels};
    bitlm_status status = BITLM_OK;
    uint8_t *memory = bl_malloc(&m->alloc, whole);
    job.scratch = bl_malloc(&m->alloc, scratch);
    if (!memory || !job.scratch) {
        status = bl_error_nomem(error, memory ? scratch : whole, "the shortlist of the output head");
        goto fail;
    }
    uint8_t *at = (uint8_t *)(((uintptr_t)memory + sizeof(bl_shortlist) + 63) & ~(uintptr_t)63);
    job.list = (bl_shortlist *)(void *)memory; /* as aligned as any allocation */
    job.rows = at;
    at = (uint8_t *)(((uintptr_t)at + n * row + 63) & ~(uintptr_t)63);
    *job.list = (bl_shortlist){.linear = bl_shortlist_linear(m), .error = (float *)(void *)at,
                               .norm = (float *)(void *)at + n, .memory = memory};
    job.list->linear.data = job.rows;
    status = bl_pool_run(pool, build_tile, &job, (h->n + ROWS_A_TILE - 1) / ROWS_A_TILE, poll);
    if (status) {
        bl_poll_error(poll, error);
        goto fail;
    }
    for (size_t r = 0; r < n; r++)
        job.list->most = BL_MAX(job.list->most, job.list->norm[r]);
    bl_free(&m->alloc, job.scratch);
    *out = job.list;
    return BITLM_OK;
fail:
    bl_free(&m->alloc, job.scratch);
    bl_free(&m->alloc, memory);
    return status;
}

bitlm_status bl_shortlist_get(bitlm_model *m, bl_pool *pool, bl_poll *poll, const bl_shortlist **list, bitlm_error *error) {
    bitlm_status status = BITLM_OK;
    struct timespec until;
    do { /* another session may be making it; who waits can still be canceled */
        if (bl_poll_check(poll))
            return bl_poll_error(poll, error);
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += 10000000;
        if (until.tv_nsec >= 1000000000) {
            until.tv_nsec -= 1000000000;
            until.tv_sec++;
        }
    } while (pthread_mutex_timedlock(&building, &until) == ETIMEDOUT);
    if (!m->shortlist)
        status = build(m, pool, poll, &m->shortlist, error);
    *list = m->shortlist;
    pthread_mutex_unlock(&building);
    return status;
}

void bl_shortlist_free(bitlm_model *m) {
    if (m->shortlist)
        bl_free(&m->alloc, m->shortlist->memory);
    m->shortlist = NULL;
}

/* ---- using it ---------------------------------------------------------------------------------- */

/* a and b for input number t, which c holds as two int8 rows. */
static bl_head_bound bound_of(const bl_context *c, const bl_shortlist *list, const float *x, int64_t t) {
    int64_t k = list->linear.k, groups = k / GROUP;
    const int8_t *q1 = c->xq + 2 * t * k, *q2 = q1 + k;
    const float *d1 = c->xs + 2 * t * groups, *d2 = d1 + groups;
    double own = 0.0, lost = 0.0, first = 0.0, second = 0.0, u = 1.0 / 16777216.0;
    for (int64_t i = 0; i < k; i++) {
        double z1 = (double)q1[i] * (double)d1[i / GROUP], z2 = (double)q2[i] * (double)d2[i / GROUP];
        double r = (double)x[i] - z1 - z2;
        own += (double)x[i] * (double)x[i];
        lost += r * r;
        first += z1 * z1;
        second += z2 * z2;
    }
    double length = sqrt(own) * (1.0 + 1e-9);
    double m1 = (double)(k / 16 + 5) * u, m2 = (double)(k / 16 + 2) * u;
    double b = sqrt(lost) + 4e-15 * length + m1 / (1.0 - m1) * length + m2 / (1.0 - m2) * (sqrt(first) + sqrt(second));
    if (!((double)list->most * (length + sqrt(first) + sqrt(second)) < MOST_LOGIT))
        return (bl_head_bound){INFINITY, INFINITY};
    return (bl_head_bound){length, b * (1.0 + 1e-9)};
}

bitlm_status bl_shortlist_logits(bl_context *c, const bl_shortlist *list, const int32_t *rows, int64_t n_rows, float *inputs,
                                 float *logits, bl_head_bound *bounds) {
    int op = bl_profile_switch(&c->profile, BL_OP_HEAD);
    bl_head_inputs(c, rows, n_rows, inputs);
    bitlm_status status = bl_linear_one(c, &list->linear, inputs, n_rows, logits, NULL);
    for (int64_t t = 0; t < n_rows && !status; t++)
        bounds[t] = bound_of(c, list, inputs + t * list->linear.k, t);
    bl_profile_switch(&c->profile, op);
    return status;
}

typedef struct some_job {
    bl_context *c;
    const float *input;
    const int32_t *ids;
    float *logits;
} some_job;

static void some_range(void *arg, int64_t begin, int64_t end, int thread) {
    const some_job *job = arg;
    const bl_linear *h = &job->c->model->head;
    (void)thread;
    for (int64_t i = begin; i < end; i++)
        job->c->kernels->float_rows(h->type, h->data, h->k, job->ids[i], job->ids[i] + 1, job->input, h->k, 1, job->logits, h->n);
}

bitlm_status bl_head_some(bl_context *c, const float *input, const int32_t *ids, int64_t n, float *logits) {
    some_job job = {c, input, ids, logits};
    int op = bl_profile_switch(&c->profile, BL_OP_HEAD);
    bitlm_status status = bl_parallel(c, some_range, &job, n, 16);
    bl_profile_switch(&c->profile, op);
    return status;
}

bitlm_status bl_head_all(bl_context *c, const float *input, float *logits) {
    int op = bl_profile_switch(&c->profile, BL_OP_HEAD);
    bitlm_status status = bl_linear_one(c, &c->model->head, input, 1, logits, NULL);
    bl_profile_switch(&c->profile, op);
    return status;
}
