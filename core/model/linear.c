/* linear.c - y = W x for a batch of tokens: quantizes the input once for all layers that share
 * it, cuts the rows into tiles and lets the pool run them through the kernel table.
 *
 * The three kinds of bl_linear differ only in how the input is quantized and which kernel a
 * tile calls; option `activations` replaces the quantizer of the blocks' inputs.  Called by forward.c for every projection, and for the head. */
#include "model/forward.h"

/* Largest number of layers that share one input (gate and up, or q, k and v). */
#define MAX_SHARED 3
/* Bytes of weights that a tile of few tokens reads at least. */
#define FEW_TOKENS_TILE (1 << 17)

typedef struct quant_job {
    bl_context *c;
    const bl_linear *layer;
    const float *x;
    int64_t ldx;
    const bl_before *before;  /* or NULL */
} quant_job;

int64_t bl_linear_groups(const bl_linear *l) {
    if (!l->data)
        return 0;
    return l->kind == BL_LINEAR_GROUP ? l->k / l->group * l->n_terms : 1;
}

enum input_form { INT8, INT4, INT8_HALF, SIGNS };

/* What the inputs of the layer become. */
static enum input_form form_of(const bl_context *c, const bl_linear *l) {
    if (c->activations == BITLM_ACTIVATIONS_A4_8)
        return l->input == BL_INPUT_BLOCK ? INT4 : l->input == BL_INPUT_MIXED ? INT8_HALF : INT8;
    if (c->activations == BITLM_ACTIVATIONS_BINARY && l->input != BL_INPUT_PLAIN)
        return SIGNS;
    return INT8;
}

static int n_terms_of(const bl_context *c, const bl_linear *l) { return form_of(c, l) == INT8 ? l->n_terms : 1; }

/* Binary weights meet signs as bits. */
static int as_bits(const bl_context *c, const bl_linear *l) {
    return l->kind == BL_LINEAR_GROUP && l->type == BL_TYPE_Q1_0 && form_of(c, l) == SIGNS;
}

/* A token with one scale; returns it. */
static float quant_token(const bl_context *c, const bl_linear *l, const float *x, int8_t *q, int32_t *sum) {
    enum input_form form = form_of(c, l);
    if (form == INT4)
        return bl_quant_row_int4(x, l->k, q, sum);
    if (form == SIGNS)
        return bl_quant_row_sign(x, l->k, q, sum);
    float s = c->kernels->quant_row(x, l->k, q, sum);
    if (form == INT8_HALF)
        bl_keep_larger_half(x, l->k, q, sum);
    return s;
}

/* One scale a token for a GROUP layer, repeated, and the sums of each group. */
static void quant_token_grouped(const quant_job *job, const float *x, int64_t t) {
    bl_context *c = job->c;
    const bl_linear *l = job->layer;
    int64_t n_groups = l->k / l->group;
    int8_t *q = c->xq + t * l->k;
    float *d = c->xs + t * n_groups;
    int32_t *sums = c->xsum + t * n_groups;
    int32_t total;
    float step = 1.0f / quant_token(c, l, x, q, &total);
    if (as_bits(c, l)) {
        bl_pack_signs(q, l->k, (uint8_t *)q); /* in place: a byte lies before the eight that it comes from */
        c->xs[t] = step;
        return;
    }
    for (int64_t g = 0; g < n_groups; g++) {
        int32_t sum = 0;
        for (int64_t i = g * l->group; i < (g + 1) * l->group; i++)
            sum += q[i];
        d[g] = step;
        sums[g] = sum;
    }
}

static void quant_range(void *arg, int64_t begin, int64_t end, int thread) {
    const quant_job *job = arg;
    bl_context *c = job->c;
    const bl_linear *l = job->layer;
    if (job->before)
        job->before->fn(job->before->arg, begin, end, thread);
    for (int64_t t = begin; t < end; t++) {
        const float *x = job->x + t * job->ldx;
        if (l->kind == BL_LINEAR_TERNARY) {
            c->xs[t] = quant_token(c, l, x, c->xq + t * l->k, &c->xsum[t]);
        } else if (l->per_token || form_of(c, l) != INT8) {
            quant_token_grouped(job, x, t);
        } else {
            int64_t n_groups = l->k / l->group;
            float *left = (float *)(void *)(c->scratch + (size_t)thread * c->scratch_bytes);
            for (int64_t j = t * l->n_terms; j < (t + 1) * l->n_terms; j++) {
                int8_t *q = c->xq + j * l->k;
                float *d = c->xs + j * n_groups;
                c->kernels->quant_groups(x, l->k, l->group, q, d, c->xsum + j * n_groups);
                if (j + 1 < (t + 1) * l->n_terms)
                    c->kernels->residual(x, l->k, l->group, q, d, left);
                x = left;
            }
        }
    }
}

typedef struct linear_job {
    bl_context *c;
    const bl_linear *layers[MAX_SHARED];
    float *y[MAX_SHARED];
    int64_t ldy[MAX_SHARED];
    int64_t first_tile[MAX_SHARED + 1];
    int64_t rows_per_tile;
    int n_layers;
    const float *x;
    int64_t ldx, n_tok;
} linear_job;

static void linear_tile(void *arg, int64_t tile, int thread) {
    linear_job *job = arg;
    bl_context *c = job->c;
    const bl_kernels *kn = c->kernels;
    int i = 0;
    while (tile >= job->first_tile[i + 1])
        i++;
    const bl_linear *l = job->layers[i];
    int64_t r0 = (tile - job->first_tile[i]) * job->rows_per_tile;
    int64_t r1 = BL_MIN(r0 + job->rows_per_tile, l->n);
    float *y = job->y[i];
    int64_t ldy = job->ldy[i], n_tok = job->n_tok;
    void *scratch = c->scratch + (size_t)thread * c->scratch_bytes;

    if (l->kind == BL_LINEAR_TERNARY)
        kn->ternary_i8(l->type, l->data, l->k, r0, r1, c->xq, l->k, c->xsum, c->factor + i * c->max_batch,
                       n_tok, y, ldy, scratch);
    else if (as_bits(c, l))
        kn->binary_rows(l->data, l->k, r0, r1, (const uint8_t *)c->xq, l->k, c->xs, n_tok, y, ldy);
    else if (l->kind == BL_LINEAR_GROUP)
        kn->group_i8(l->type, l->data, l->k, r0, r1, c->xq, l->k, c->xs, c->xsum, n_tok, n_terms_of(c, l), y,
                     ldy, scratch);
    else
        kn->float_rows(l->type, l->data, l->k, r0, r1, job->x, job->ldx, n_tok, y, ldy);

    if (l->kind != BL_LINEAR_TERNARY && l->scale != 1.0f)
        for (int64_t t = 0; t < n_tok; t++)
            for (int64_t r = r0; r < r1; r++)
                y[t * ldy + r] *= l->scale;
    if (l->bias)
        for (int64_t t = 0; t < n_tok; t++)
            for (int64_t r = r0; r < r1; r++)
                y[t * ldy + r] += l->bias[r];
}

/* Rows of a tile: enough work to outweigh claiming it, little enough that the poll between two
 * tiles comes within about 2 ms: few tokens are bound by reading the weights, many by arithmetic,
 * and plain C is slow at both, slowest at floats. */
static int64_t tile_rows(const bl_context *c, const bl_linear *l, int64_t n_tok) {
    int64_t budget = n_tok < 8 ? 1 << 22 : 1 << 25; /* multiply-adds */
    int64_t unit = 16;
    if (n_tok >= 8 && c->kernels->cpu & BL_CPU_AVX512) { /* faster, and in panels of 64 rows */
        budget = 1 << 27;
        unit = 64;
    }
    if (c->kernels->cpu == BL_CPU_REF)
        budget = l->kind == BL_LINEAR_FLOAT ? 1 << 19 : 1 << 21;
    int64_t rows = budget / (l->k * n_tok);
    rows = rows / unit * unit;
    if (rows < unit)
        rows = c->kernels->cpu == BL_CPU_REF ? 4 : unit;
    /* at least four tiles a thread, so that one slow thread does not hold up the rest; but a tile that
     * only reads is long, since what is fetched ahead at its end comes for another thread */
    int64_t threads = bl_pool_threads(c->pool), share = l->n / (4 * threads) / unit * unit;
    if (share < unit && l->n >= unit * threads) /* a small matrix: one tile would leave the others idle, and asleep */
        share = unit;
    if (n_tok < 8) {
        int64_t read = FEW_TOKENS_TILE / BL_MAX(bl_row_bytes(l->type, l->k), 1);
        share = BL_MAX(share, (BL_MIN(read, l->n / threads) + 15) / 16 * 16);
    }
    if (share >= unit && rows > share)
        rows = share;
    return BL_MIN(rows, l->n);
}

static int same_input(const bl_linear *a, const bl_linear *b) {
    return !a->norm_in && !b->norm_in && a->kind == b->kind && a->k == b->k && a->group == b->group && a->per_token == b->per_token &&
           a->n_terms == b->n_terms && a->input == b->input &&
           (a->type == BL_TYPE_Q1_0) == (b->type == BL_TYPE_Q1_0);
}

typedef struct norm_job {
    bl_context *c;
    const bl_linear *layer;
    const float *x;
    int64_t ldx;
} norm_job;

static void norm_input(void *arg, int64_t begin, int64_t end, int thread) {
    const norm_job *job = arg;
    const bl_linear *l = job->layer;
    (void)thread;
    for (int64_t t = begin; t < end; t++)
        job->c->kernels->rmsnorm(job->x + t * job->ldx, l->norm_in, l->k, job->c->model->norm_eps,
                                 job->c->normed + t * l->k);
}

static bitlm_status run_group(bl_context *c, const bl_linear *const *layers, int n_layers, const float *x,
                              int64_t ldx, int64_t n, float *const *y, const int64_t *ldy, const bl_before *before) {
    linear_job job = {.c = c, .x = x, .ldx = ldx, .n_tok = n, .n_layers = n_layers};
    int op = bl_profile_switch(&c->profile, before ? before->op : BL_OP_NORM);
    if (before && (layers[0]->norm_in || layers[0]->kind == BL_LINEAR_FLOAT)) {
        bitlm_status status = bl_parallel(c, before->fn, before->arg, n, 8);
        if (status)
            return status;
        before = NULL;
    }
    int64_t n_max = 0;
    int widest = 0;
    if (layers[0]->norm_in) { /* alone in its group */
        norm_job norm = {c, layers[0], x, ldx};
        bitlm_status status = bl_parallel(c, norm_input, &norm, n, 8);
        if (status)
            return status;
        job.x = x = c->normed;
        job.ldx = ldx = layers[0]->k;
    }
    if (layers[0]->kind != BL_LINEAR_FLOAT) {
        quant_job quant = {c, layers[0], x, ldx, before};
        bitlm_status status = bl_parallel(c, quant_range, &quant, n, 8);
        if (status)
            return status;
    }
    for (int i = 0; i < n_layers; i++) {
        if (layers[i]->n > n_max) {
            n_max = layers[i]->n;
            widest = i;
        }
        if (layers[i]->kind == BL_LINEAR_TERNARY)
            for (int64_t t = 0; t < n; t++)
                c->factor[i * c->max_batch + t] = layers[i]->scale / c->xs[t];
    }
    job.rows_per_tile = tile_rows(c, layers[widest], n);
    bl_profile_switch(&c->profile, op);
    for (int i = 0; i < n_layers; i++) {
        job.layers[i] = layers[i];
        job.y[i] = y[i];
        job.ldy[i] = ldy[i];
        job.first_tile[i + 1] = job.first_tile[i] + (layers[i]->n + job.rows_per_tile - 1) / job.rows_per_tile;
    }
    return bl_pool_run(c->pool, linear_tile, &job, job.first_tile[n_layers], c->poll);
}

bitlm_status bl_linear_run(bl_context *c, const bl_linear *const *layers, int n_layers, const float *x,
                           int64_t ldx, int64_t n, float *const *y, const int64_t *ldy, const bl_before *before) {
    for (int begin = 0, end; begin < n_layers; begin = end) {
        end = begin + 1;
        while (end < n_layers && end - begin < MAX_SHARED && same_input(layers[begin], layers[end]))
            end++;
        bitlm_status status = run_group(c, layers + begin, end - begin, x, ldx, n, y + begin, ldy + begin,
                                        begin == 0 ? before : NULL);
        if (status)
            return status;
    }
    return BITLM_OK;
}
