/* shortlist.c - an int8 copy of a float output head, a scale a row, and the bound on its logits' error.
 *
 * Let w be a row of the head, v the same row of the copy, x the head's input, z = z1 + z2 the two int8 rows that stand for x
 * in an integer layer; u = 2^-24, g(m) = m u / (1 - m u), and |.| the Euclidean norm of vectors.
 *   The head's logit l is Σ w x in floats: 16 lanes of k/16 fused steps and 4 sums, so every product passes m1 = k/16 + 5
 *   roundings at most:                    |l - w.x|  <=  g(m1) Σ|w_i x_i|  <=  g(m1) |w| |x|          (Cauchy-Schwarz)
 *   The copy's logit c is c1 + c2, each an exact integer sum, rounded to a float, times the rounded product of two scales: 4
 *   roundings with the sum's.              |c - v.z|  <=  g(4) (|v.z1| + |v.z2|)  <=  g(4) |v| (|z1| + |z2|)
 *   And between the exact values:         |w.x - v.z|  =  |(w - v).x + v.(x - z)|  <=  |w - v| |x| + |v| |x - z|
 * Together, with error >= |w - v| and norm >= |w|, |v|:
 *   |l - c|  <=  error |x|  +  norm (|x - z| + g(m1) |x| + g(4) (|z1| + |z2|))  =  a error + b norm
 * Results below the normal floats lose at most 2^-150 a step, times an integer below 2^31: BL_HEAD_TINY is far more.
 * None of the sums overflows as long as no norm times |x| passes 1e37; else the bound is infinite.  All norms are enlarged by more
 * than the rounding of their own sums; |v| <= |w| + |w - v|.
 *
 * The copy lies as the keys of an int8 KV cache do, in tiles of 16 rows, so the kernel of attention's scores multiplies it: z1 and z2
 * are two queries, and several inputs more of them.  (As Q8_0 through group_i8 it was 6 % larger, and read at 84 % of the
 * memory's rate with AVX-512 and 36 % with AVX2.)
 *
 * Called by core/run/session.c and settle.c. */
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

#include "model/shortlist.h"
#include "quant/quant.h"

#define TILE 16             /* rows that lie together */
#define GROUP 32            /* values that the kernel `residual` takes with a scale */
#define MOST_INPUTS 32768   /* a sum of so many products of two int8 fits 32 bits, offsets of the kernels included */
#define QUERIES 8           /* that the kernel takes at once */
#define MOST_TILES 64       /* whose products fit a thread's scratch */
#define TILE_BYTES (1 << 17) /* of the copy that a thread reads in one go */
#define MOST_LOGIT 1e37     /* beyond, sums of floats may overflow */

static pthread_mutex_t building = PTHREAD_MUTEX_INITIALIZER; /* guards model->shortlist */

int bl_shortlist_fits(const bitlm_model *m) {
    const bl_linear *h = &m->head;
    return h->data && h->kind == BL_LINEAR_FLOAT && h->k % GROUP == 0 && h->k <= MOST_INPUTS && h->scale == 1.0f && !h->bias &&
           !h->norm_in;
}

static int64_t padded(int64_t n) { return (n + TILE - 1) / TILE * TILE; }

uint64_t bl_shortlist_bytes(const bitlm_model *m) {
    return (uint64_t)padded(m->head.n) * ((uint64_t)m->head.k + 3 * sizeof(float)) + sizeof(bl_shortlist) + 2 * 64;
}

/* ---- making it --------------------------------------------------------------------------------- */

/* No less than the length whose square the kernel dot_f32 has summed to x: (k/16 + 5) u is below 1e-3, and what is lost below the
 * normal floats is less than 1e-19. */
static float at_least(float x) { return sqrtf(x) * 1.001f + 1e-19f; }

/* w becomes what the copy lacks; d: room for k/GROUP. */
static void copy_row(const bl_kernels *kn, float *w, int64_t k, int8_t *q, float *d, bl_shortlist *list, int64_t r) {
    int32_t sum;
    float own = at_least(kn->dot_f32(w, w, k)), s = kn->quant_row(w, k, q, &sum), lost;
    float scale = 1.0f / s;
    if (s >= 127.0f / 1e-5f) /* the kernel's scales end there */
        scale = bl_quant_head(w, k, 8, q);
    if (!isfinite(scale)) /* of weights that are not finite; the codes are 0 */
        scale = 0.0f;
    bl_store_k_int(q, k, 8, r, list->rows);
    for (int64_t g = 0; g < k / GROUP; g++)
        d[g] = scale;
    kn->residual(w, k, GROUP, q, d, w);
    lost = at_least(kn->dot_f32(w, w, k)) * 1.001f; /* the residual itself is rounded */
    list->scale[r] = scale;
    list->error[r] = isfinite(own + lost) ? lost : INFINITY;
    list->norm[r] = isfinite(own + lost) ? own + lost : INFINITY;
}

typedef struct build_job {
    const bl_linear *head;
    bl_shortlist *list;
    float *scratch;   /* (n_threads) of k floats, their scales and codes: 2 k floats are enough */
    const bl_kernels *kernels;
} build_job;

static void build_tile(void *arg, int64_t tile, int thread) {
    static const float one = 1.0f;
    const build_job *job = arg;
    const bl_linear *h = job->head;
    float *w = job->scratch + (int64_t)thread * 2 * h->k, *d = w + h->k;
    int8_t *q = (int8_t *)(d + h->k / GROUP);
    int64_t begin = tile * TILE, end = BL_MIN(begin + TILE, h->n);
    if (end < begin + TILE) /* rows of nothing behind the last */
        memset(job->list->rows + begin * h->k, 0, (size_t)(TILE * h->k));
    for (int64_t r = end; r < begin + TILE; r++)
        job->list->scale[r] = 0.0f;
    for (int64_t r = begin; r < end; r++) {
        if (h->type == BL_TYPE_F16) /* one position of probability 1: the fast way to floats */
            job->kernels->mix_f16(&one, 1, 1, (const uint16_t *)(const void *)h->data + r * h->k, h->k, 1, h->k, w, h->k);
        else
            bl_decode_row(h->type, h->data, (uint64_t)h->n, (uint64_t)h->k, (uint64_t)r, w);
        copy_row(job->kernels, w, h->k, q, d, job->list, r);
    }
}

static bitlm_status build(bitlm_model *m, bl_pool *pool, bl_poll *poll, bl_shortlist **out, bitlm_error *error) {
    const bl_linear *h = &m->head;
    size_t n = (size_t)padded(h->n), whole = (size_t)bl_shortlist_bytes(m);
    size_t scratch = (size_t)bl_pool_threads(pool) * 2 * (size_t)h->k * sizeof(float);
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
    float *numbers = (float *)(void *)(at + n * (size_t)h->k);
    *job.list = (bl_shortlist){.k = h->k, .n = h->n, .rows = at, .scale = numbers, .error = numbers + n, .norm = numbers + 2 * n,
                               .memory = memory};
    status = bl_pool_run(pool, build_tile, &job, (h->n + TILE - 1) / TILE, poll);
    if (status) {
        bl_poll_error(poll, error);
        goto fail;
    }
    for (int64_t r = 0; r < h->n; r++)
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

/* x as two rows of int8, each with its scale; left: room for k floats. */
static bl_head_bound take_input(const bl_shortlist *list, const float *x, int8_t *z1, int8_t *z2, float *d, float *left) {
    int64_t k = list->k;
    double own = 0.0, lost = 0.0, first = 0.0, second = 0.0, u = 1.0 / 16777216.0;
    d[0] = bl_quant_head(x, k, 8, z1);
    for (int64_t i = 0; i < k; i++)
        left[i] = (float)((double)x[i] - (double)z1[i] * (double)d[0]);
    d[1] = bl_quant_head(left, k, 8, z2);
    for (int64_t i = 0; i < k; i++) {
        double a = (double)z1[i] * (double)d[0], b = (double)z2[i] * (double)d[1], r = (double)x[i] - a - b;
        own += (double)x[i] * (double)x[i];
        lost += r * r;
        first += a * a;
        second += b * b;
    }
    double length = sqrt(own) * (1.0 + 1e-9), m1 = (double)(k / 16 + 5) * u, m2 = 4.0 * u;
    double b = sqrt(lost) + 4e-15 * length + m1 / (1.0 - m1) * length + m2 / (1.0 - m2) * (sqrt(first) + sqrt(second));
    if (!((double)list->most * (length + sqrt(first) + sqrt(second)) < MOST_LOGIT))
        return (bl_head_bound){INFINITY, INFINITY};
    return (bl_head_bound){length, b * (1.0 + 1e-9)};
}

typedef struct copy_job {
    bl_context *c;
    const bl_shortlist *list;
    const int8_t *codes;   /* (n_queries, k) */
    float scales[2 * BL_SHORTLIST_INPUTS];
    int64_t n_queries, rows_a_tile;
    float *logits;
} copy_job;

static void copy_tile(void *arg, int64_t tile, int thread) {
    const copy_job *job = arg;
    const bl_shortlist *list = job->list;
    float *out = (float *)(void *)(job->c->scratch + (size_t)thread * job->c->scratch_bytes);
    int64_t begin = tile * job->rows_a_tile, ld = job->rows_a_tile, end = BL_MIN(begin + ld, padded(list->n));
    for (int64_t q = 0; q < job->n_queries; q += QUERIES) {
        int n = (int)BL_MIN(job->n_queries - q, (int64_t)QUERIES);
        job->c->kernels->scores_int(8, job->codes + q * list->k, list->k, job->scales + q, n, list->rows + begin * list->k,
                                    list->scale + begin, (end - begin) / TILE, list->k, 1.0f, out, ld);
        for (int j = 0; j < n; j += 2) {
            float *l = job->logits + (q + j) / 2 * list->n + begin;
            for (int64_t r = 0; r < BL_MIN(end, list->n) - begin; r++)
                l[r] = out[j * ld + r] + out[(j + 1) * ld + r];
        }
    }
}

bitlm_status bl_shortlist_logits(bl_context *c, const bl_shortlist *list, const int32_t *rows, int64_t n_rows, float *inputs,
                                 int8_t *codes, float *logits, bl_head_bound *bounds) {
    int op = bl_profile_switch(&c->profile, BL_OP_HEAD);
    copy_job job = {.c = c, .list = list, .codes = codes, .n_queries = 2 * n_rows, .logits = logits};
    bl_head_inputs(c, rows, n_rows, inputs);
    for (int64_t t = 0; t < n_rows; t++)
        bounds[t] = take_input(list, inputs + t * list->k, codes + 2 * t * list->k, codes + (2 * t + 1) * list->k, job.scales + 2 * t,
                               (float *)(void *)c->scratch);
    job.rows_a_tile = BL_MIN(BL_MAX(TILE_BYTES / list->k / TILE, 1), MOST_TILES) * TILE;
    bitlm_status status = bl_pool_run(c->pool, copy_tile, &job, (padded(list->n) + job.rows_a_tile - 1) / job.rows_a_tile, c->poll);
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
