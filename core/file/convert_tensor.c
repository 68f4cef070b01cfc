/* convert_tensor.c - streams the tensors of a plan into a GGUF file, a few rows at a time, so that memory does not
 * grow with the model.
 *
 * Each source gives rows of float32; where its weights are trits with one scale (packed BitNet, I2_S, most TQ files)
 * the trits are read back from those rows exactly.  A ternary target takes trits: those, or, from float weights,
 * absmean over each matrix, row or block: m = max(mean|w|, 1e-5), the mean summed in double; trit = clamp(rne(w *
 * (1/m)), -1, 1) in float32, scale = 1 / (1/m), as transformers' WeightQuant computes it; or TWN's threshold.  Called
 * by convert.c, and by core/run to weigh types against each other. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "file/convert.h"
#include "kernels/kernels.h"
#include "quant/quant.h"

typedef unsigned long long ull; /* for messages */

#define CHUNK ((uint64_t)2 << 20) /* weights of a chunk */

bl_planned *bl_plan_add(bl_plan *plan) {
    if (plan->n == plan->capacity) {
        size_t grown = plan->capacity ? (size_t)plan->capacity * 2 : 256;
        void *p = bl_regrow(&plan->alloc, plan->tensors, (size_t)plan->n * sizeof *plan->tensors,
                            grown * sizeof *plan->tensors);
        if (!p) {
            bl_error_nomem(plan->error, grown * sizeof *plan->tensors, "the list of tensors");
            return NULL;
        }
        plan->tensors = p;
        plan->capacity = grown;
    }
    bl_planned *p = &plan->tensors[plan->n++];
    memset(p, 0, sizeof *p);
    for (int i = 0; i < 4; i++)
        p->dims[i] = 1;
    return p;
}

static uint64_t n_rows(const bl_planned *p) { return p->dims[1] * p->dims[2] * p->dims[3]; }

int bl_is_ternary_target(int32_t type) {
    return type == BL_TYPE_TQ1_0 || type == BL_TYPE_TQ2_0 || type == BL_TYPE_I2_S || type == BL_TYPE_Q2_0;
}

int bl_plan_fits(const bl_plan *plan, int32_t type, const bl_planned *p) {
    int ok;
    bl_tensor_bytes(bl_tensor_type_find(type), p->dims[0], n_rows(p), &ok);
    /* I2_S rows begin with a block, and a tensor has one scale: no experts. */
    return ok && (type != BL_TYPE_I2_S ||
                  (p->dims[0] % 128 == 0 && p->dims[2] * p->dims[3] == 1 && !plan->options->scale_per));
}

/* The type that options->choices have for p, or -1. */
static bitlm_status find_choice(bl_plan *plan, const bl_planned *p, int32_t *type) {
    *type = -1;
    for (size_t i = 0; i < plan->options->n_choices; i++) {
        const bitlm_tensor_choice *c = &plan->options->choices[i];
        if (c->name.length != strlen(p->name) || memcmp(c->name.data, p->name, c->name.length) != 0)
            continue;
        plan->n_chosen++;
        return bl_plan_find_type(plan, c->type, p->name, type);
    }
    return BITLM_OK;
}

bitlm_status bl_plan_choose(bl_plan *plan, bl_planned *p, int32_t otherwise) {
    static const int32_t ternary[] = {BL_TYPE_I2_S, BL_TYPE_Q2_0}, numbers[] = {BL_TYPE_Q8_0, BL_TYPE_F16};
    int32_t asked;
    bitlm_status status = find_choice(plan, p, &asked);
    if (status)
        return status;
    if (asked < 0)
        asked = p->role == BL_ROLE_LAYER ? plan->type : p->role == BL_ROLE_EMBEDDING ? plan->embedding_type : -1;
    p->type = asked < 0 ? otherwise : asked;
    if (asked < 0 && p->from == BL_FROM_GGUF)
        return BITLM_OK; /* as it is, a type that bitlm only reads too */
    asked = p->type;
    if (bl_plan_fits(plan, asked, p))
        return BITLM_OK;
    const int32_t *next = bl_is_ternary_target(asked) ? ternary : numbers;
    for (int i = 0; i < 2 && asked != BL_TYPE_Q1_0; i++)
        if (bl_plan_fits(plan, next[i], p)) {
            p->type = next[i];
            return BITLM_OK;
        }
    return BL_PLAN_FAIL(plan, BITLM_ARG, "tensor '%s' has %llu rows of %llu weights, which do not fit %s", p->name,
                        (ull)n_rows(p), (ull)p->dims[0], bl_tensor_type_find(asked)->name);
}

/* ---- reading ------------------------------------------------------------------------------------------- */

static void read_floats(const bl_st_tensor *t, uint64_t at, uint64_t n, float *out) {
    int32_t type = t->dtype == BL_ST_F32 ? BL_TYPE_F32 : t->dtype == BL_ST_F16 ? BL_TYPE_F16 : BL_TYPE_BF16;
    bl_kernels_usual()->widen(type, t->data + at * bl_safetensors_dtype_bytes(t->dtype), (int64_t)n, out);
}

/* Row `row` of the unpacked matrix: quarter row / (rows / 4) of the bytes' bits. */
static bitlm_status read_packed(bl_plan *plan, const bl_planned *p, uint64_t row, float *out) {
    uint64_t k = p->dims[0], quarter = p->dims[1] / 4;
    const uint8_t *b = p->st->data + row % quarter * k;
    unsigned shift = 2 * (unsigned)(row / quarter);
    for (uint64_t i = 0; i < k; i++) {
        int code = b[i] >> shift & 3;
        if (code == 3)
            return BL_PLAN_FAIL(plan, BITLM_FORMAT, "weight %llu of row %llu of tensor '%s' has the code 3, but codes are "
                                "0 to 2", (ull)i, (ull)row, p->source_name);
        out[i] = p->scale * (float)(code - 1);
    }
    return BITLM_OK;
}

/* Where row `row` of what is written stands in the source. */
static uint64_t source_row(const bl_planned *p, uint64_t row) {
    if (!p->head_dim)
        return row;
    uint64_t in_head = row % p->head_dim;
    if (p->unpermute)
        return row - in_head + in_head % (p->head_dim / 2) * 2 + in_head / (p->head_dim / 2);
    return row - in_head + in_head % 2 * (p->head_dim / 2) + in_head / 2;
}

bitlm_status bl_planned_rows(bl_plan *plan, const bl_planned *p, uint64_t first, uint64_t n, float *out) {
    uint64_t k = p->dims[0], rows = n_rows(p);
    bitlm_status status = BITLM_OK;
    for (uint64_t r = 0; r < n && !status; r++) {
        float *row = out + r * k;
        uint64_t from = source_row(p, first + r);
        if (p->from == BL_FROM_PACKED)
            status = read_packed(plan, p, from, row);
        else if (p->from == BL_FROM_GGUF)
            bl_decode_row(p->gguf->type, p->gguf->data, rows, k, from, row);
        else if (p->from == BL_FROM_MEMORY)
            memcpy(row, p->memory + from * k, (size_t)k * sizeof *row);
        else
            read_floats(p->st, from * k, k, row);
        float odd = 0;
        for (uint64_t i = 0; i < k; i++)
            odd += row[i] - row[i]; /* NaN once anything is not finite */
        for (uint64_t i = 0; odd != 0 && i < k && !status; i++)
            if (!isfinite(row[i]))
                status = BL_PLAN_FAIL(plan, BITLM_FORMAT, "weight %llu of row %llu of tensor '%s' is %g, but weights must be "
                                      "finite", (ull)i, (ull)from, p->source_name, (double)row[i]);
    }
    return status;
}

int bl_planned_uniform(const bl_planned *p, float *scale) {
    if (p->from == BL_FROM_PACKED) {
        *scale = p->scale;
        return 1;
    }
    if (p->from != BL_FROM_GGUF)
        return 0;
    const bl_tensor *t = p->gguf;
    if (t->type == BL_TYPE_I2_S) {
        *scale = bl_read_f32(t->data + t->dims[0] * t->dims[1] / 4);
        return 1;
    }
    if (t->type != BL_TYPE_TQ1_0 && t->type != BL_TYPE_TQ2_0)
        return 0;
    const bl_tensor_type *type = bl_tensor_type_find(t->type);
    uint64_t blocks = t->bytes / (uint64_t)type->block_bytes, at = (uint64_t)type->block_bytes - 2;
    uint16_t d = bl_read_u16(t->data + at);
    for (uint64_t i = 1; i < blocks; i++)
        if (bl_read_u16(t->data + i * (uint64_t)type->block_bytes + at) != d)
            return 0;
    *scale = bl_f16_to_f32(d);
    return 1;
}

/* Weights that are trits, but perhaps with a scale for each block. */
static int ternary_blocks(const bl_planned *p) {
    return p->from == BL_FROM_GGUF && bl_tensor_type_find(p->gguf->type)->cls == BL_CLASS_TERNARY;
}

void bl_planned_drop(const bl_plan *plan, const bl_planned *p, uint64_t first, uint64_t n) {
    uint64_t rows = n_rows(p);
    if (p->from == BL_FROM_FLOATS && !p->head_dim)
        bl_safetensors_drop(plan->st, p->st, p->st->bytes / rows * first, p->st->bytes / rows * n);
    else if (p->from == BL_FROM_GGUF && p->gguf->type != BL_TYPE_I2_S && !p->head_dim)
        bl_mapping_drop(&plan->mapping, p->gguf->data + p->gguf->bytes / rows * first, (size_t)(p->gguf->bytes / rows * n));
    else if (first + n == rows && p->st)
        bl_safetensors_drop(plan->st, p->st, 0, p->st->bytes);
    else if (first + n == rows && p->from == BL_FROM_GGUF)
        bl_mapping_drop(&plan->mapping, p->gguf->data, (size_t)p->gguf->bytes);
}

/* ---- writing ------------------------------------------------------------------------------------------- */

bitlm_status bl_plan_step(bl_plan *plan, uint64_t weights) {
    plan->done += weights;
    if (plan->options->progress && plan->total)
        plan->options->progress(plan->options->progress_context, (double)plan->done / (double)plan->total);
    return bl_poll_check(plan->poll) ? bl_poll_error(plan->poll, plan->error) : BITLM_OK;
}

typedef struct work {
    float *x;        /* rows of a chunk */
    int8_t *trits;
    uint8_t *out;
    double *sums;    /* (2, rows) of each row: the magnitudes beyond a limit, and how many there are */
    uint64_t rows;   /* of a full chunk */
} work;

/* trit = sign of w where |w * inverse| > limit. */
typedef struct trit_rule {
    float inverse, limit;
} trit_rule;

/* How the weights of a matrix become what is written. */
typedef struct recipe {
    int trits;       /* trits with `scale`, else the numbers themselves */
    int rounded;     /* trits by `rule`, else by sign */
    int sums;        /* no output: the sums that a rule for the matrix needs, of what is beyond `limit` */
    uint64_t span;   /* > 0: weights that have a rule of their own, within a row */
    float limit;
    trit_rule rule;
    float scale;
} recipe;

/* A chunk of rows, cut into tiles for threads. */
typedef struct chunk {
    bl_plan *plan;
    const bl_planned *p;
    work *w;
    const recipe *c;
    uint64_t first, rows, tile_rows;
    int failed;      /* by some tile; which one does not matter */
} chunk;

static bitlm_status named(bl_plan *plan, const bl_planned *p, bitlm_status status, const bitlm_error *inner) {
    return status ? BL_PLAN_FAIL(plan, status, "tensor '%s': %s", p->source_name, inner->text) : BITLM_OK;
}

/* Half to even: of absmean only |w * inverse| > 1/2 leaves zero. */
static void round_trits(const float *x, uint64_t n, trit_rule rule, int8_t *trits) {
    for (uint64_t i = 0; i < n; i++) {
        float y = x[i] * rule.inverse;
        trits[i] = (int8_t)((y > rule.limit) - (y < -rule.limit));
    }
}

/* Sum and number of the magnitudes beyond limit; limit < 0: of all. */
static void add_magnitudes(const float *x, uint64_t n, float limit, double *sum, double *count) {
    double s = 0, c = 0;
    for (uint64_t i = 0; i < n; i++)
        if (fabsf(x[i]) > limit) {
            s += fabsf(x[i]);
            c++;
        }
    *sum = s;
    *count = c;
}

/* Rule and scale by a method, from the mean magnitude; TWN's scale comes from what its limit keeps. */
static trit_rule make_rule(int32_t method, double mean, float *scale) {
    if (method == BITLM_TERNARY_TWN) {
        *scale = 0;
        return (trit_rule){1.0f, 0.7f * (float)mean};
    }
    float inverse = 1.0f / BL_MAX((float)mean, 1e-5f);
    *scale = 1.0f / inverse;
    return (trit_rule){inverse, 0.5f};
}

/* Trits and blocks of rows whose spans have rules of their own: ternary types with a scale for each block. */
static bitlm_status pack_spans(const bl_plan *plan, const bl_planned *p, uint64_t span, const float *x, int8_t *trits,
                               uint64_t weights, uint8_t *out, bitlm_error *error) {
    int ok;
    uint64_t bytes = bl_tensor_bytes(bl_tensor_type_find(p->type), span, 1, &ok);
    bitlm_status status = BITLM_OK;
    for (uint64_t at = 0; at < weights && !status; at += span, out += bytes) {
        double sum, n;
        float scale;
        add_magnitudes(x + at, span, -1.0f, &sum, &n);
        trit_rule rule = make_rule(plan->options->ternary, sum / (double)span, &scale);
        if (plan->options->ternary == BITLM_TERNARY_TWN) {
            add_magnitudes(x + at, span, rule.limit, &sum, &n);
            scale = n > 0 ? (float)(sum / n) : 0.0f;
        }
        round_trits(x + at, span, rule, trits + at);
        status = bl_pack_trits(p->type, trits + at, 1, span, scale, out, error);
    }
    return status;
}

static void sign_trits(const float *x, uint64_t n, int8_t *trits) {
    for (uint64_t i = 0; i < n; i++)
        trits[i] = (int8_t)((x[i] > 0) - (x[i] < 0));
}

/* Rows [at, at + n) of the chunk: read, made trits, encoded.  I2_S is packed afterwards, since each piece of it ends with
 * the scale. */
static bitlm_status do_rows(bl_plan *plan, const chunk *ch, uint64_t at, uint64_t n) {
    const bl_planned *p = ch->p;
    const recipe *c = ch->c;
    uint64_t k = p->dims[0], row_bytes;
    int ok, ternary = bl_is_ternary_target(p->type);
    float *x = ch->w->x + at * k;
    int8_t *trits = ch->w->trits + at * k;
    bitlm_error inner = {.size = sizeof inner};
    bitlm_status status = bl_planned_rows(plan, p, ch->first + at, n, x);
    if (status)
        return status;
    for (uint64_t r = 0; c->sums && r < n; r++)
        add_magnitudes(x + r * k, k, c->limit, &ch->w->sums[at + r], &ch->w->sums[ch->w->rows + at + r]);
    if (c->sums)
        return BITLM_OK;
    if (c->span) {
        row_bytes = bl_tensor_bytes(bl_tensor_type_find(p->type), k, 1, &ok);
        return named(plan, p, pack_spans(plan, p, c->span, x, trits, n * k, ch->w->out + at * row_bytes, &inner), &inner);
    }
    if (c->trits && c->rounded)
        round_trits(x, n * k, c->rule, trits);
    else if (c->trits)
        sign_trits(x, n * k, trits);
    if (p->type == BL_TYPE_I2_S)
        return BITLM_OK;
    row_bytes = bl_tensor_bytes(bl_tensor_type_find(p->type), k, 1, &ok);
    if (c->trits && !ternary && c->rounded)
        for (uint64_t i = 0; i < n * k; i++)
            x[i] = c->scale * (float)trits[i];
    if (c->trits && ternary)
        status = bl_pack_trits(p->type, trits, n, k, c->scale, ch->w->out + at * row_bytes, &inner);
    else
        status = bl_encode(p->type, x, n, k, 0, ch->w->out + at * row_bytes, &inner);
    return named(plan, p, status, &inner);
}

static void run_tile(void *arg, int64_t tile, int thread) {
    chunk *ch = arg;
    bitlm_error ignored = {.size = sizeof ignored};
    bl_plan own = *ch->plan; /* for an error of its own */
    uint64_t at = (uint64_t)tile * ch->tile_rows;
    (void)thread;
    own.error = &ignored;
    if (do_rows(&own, ch, at, BL_MIN(ch->tile_rows, ch->rows - at)))
        __atomic_store_n(&ch->failed, 1, __ATOMIC_RELAXED);
}

static bitlm_status run_chunk(bl_plan *plan, chunk *ch) {
    uint64_t tiles = (ch->rows + ch->tile_rows - 1) / ch->tile_rows;
    ch->failed = 0;
    if (bl_pool_run(plan->pool, run_tile, ch, (int64_t)tiles, plan->poll))
        return bl_poll_error(plan->poll, plan->error);
    return ch->failed ? do_rows(plan, ch, 0, ch->rows) : BITLM_OK; /* again, for the sentence of the first bad weight */
}

/* About 1 ms of the slowest encoder. */
static uint64_t tile_rows(const bl_planned *p) { return BL_MAX((uint64_t)1, 16384 / p->dims[0]); }

/* Sum and number of the magnitudes beyond limit of a matrix, rows [first, first + n).  Each row is summed by itself, so
 * that threads change nothing. */
static bitlm_status sum_matrix(bl_plan *plan, const bl_planned *p, work *w, uint64_t first, uint64_t n, float limit,
                               double *sum, double *count) {
    recipe c = {.sums = 1, .limit = limit};
    chunk ch = {.plan = plan, .p = p, .w = w, .c = &c, .tile_rows = tile_rows(p)};
    *sum = *count = 0;
    for (uint64_t r = 0; r < n; r += w->rows) {
        ch.first = first + r;
        ch.rows = BL_MIN(w->rows, n - r);
        bitlm_status status = run_chunk(plan, &ch);
        if (!status)
            status = bl_plan_step(plan, 0);
        if (status)
            return status;
        for (uint64_t i = 0; i < ch.rows; i++) {
            *sum += w->sums[i];
            *count += w->sums[w->rows + i];
        }
        bl_planned_drop(plan, p, first + r, ch.rows);
    }
    return BITLM_OK;
}

/* One rule for a matrix.  Master weights were trained with absmean. */
static bitlm_status matrix_rule(bl_plan *plan, const bl_planned *p, work *w, uint64_t first, uint64_t n, recipe *c) {
    int32_t method = p->master ? BITLM_TERNARY_ABSMEAN : plan->options->ternary;
    double sum, count;
    bitlm_status status = sum_matrix(plan, p, w, first, n, -1.0f, &sum, &count);
    if (status)
        return status;
    c->trits = c->rounded = 1;
    c->rule = make_rule(method, sum / ((double)n * (double)p->dims[0]), &c->scale);
    if (method == BITLM_TERNARY_TWN) {
        status = sum_matrix(plan, p, w, first, n, c->rule.limit, &sum, &count);
        c->scale = count > 0 ? (float)(sum / count) : 0.0f;
    }
    return status;
}

static bitlm_status find_recipe(bl_plan *plan, const bl_planned *p, work *w, uint64_t first, uint64_t n, recipe *c) {
    int ternary = bl_is_ternary_target(p->type);
    memset(c, 0, sizeof *c);
    if (bl_planned_uniform(p, &c->scale)) {
        c->trits = 1;
        if (!isfinite(c->scale) || c->scale < 0)
            return BL_PLAN_FAIL(plan, BITLM_FORMAT, "the scale of tensor '%s' is %g, but must be finite and not negative",
                                p->source_name, (double)c->scale);
        return BITLM_OK;
    }
    if (ternary_blocks(p) && p->type == BL_TYPE_I2_S)
        return BL_PLAN_FAIL(plan, BITLM_UNSUPPORTED, "the blocks of tensor '%s' have different scales, but I2_S has one for a "
                            "tensor; tq1_0 and tq2_0 hold it", p->source_name);
    if (ternary && !ternary_blocks(p) && !p->master && plan->options->scale_per != BITLM_SCALE_TENSOR) {
        c->span = plan->options->scale_per == BITLM_SCALE_ROW ? p->dims[0]
                                                              : (uint64_t)bl_tensor_type_find(p->type)->block;
        return BITLM_OK;
    }
    return (ternary && !ternary_blocks(p)) || p->master ? matrix_rule(plan, p, w, first, n, c) : BITLM_OK;
}

static bitlm_status emit(bl_plan *plan, const uint8_t *data, size_t bytes) {
    if (!plan->sink)
        return bl_gguf_write_data(plan->writer, data, bytes);
    memcpy(plan->sink, data, bytes);
    plan->sink += bytes;
    return BITLM_OK;
}

static bitlm_status write_matrix(bl_plan *plan, const bl_planned *p, work *w, uint64_t first, uint64_t n) {
    const bl_tensor_type *t = bl_tensor_type_find(p->type);
    uint64_t k = p->dims[0];
    int ok;
    recipe c;
    chunk ch = {.plan = plan, .p = p, .w = w, .c = &c, .tile_rows = tile_rows(p)};
    bitlm_error inner = {.size = sizeof inner};
    bitlm_status status = find_recipe(plan, p, w, first, n, &c);
    for (uint64_t r = 0; r < n && !status; r += w->rows) {
        uint64_t rows = BL_MIN(w->rows, n - r), bytes = bl_tensor_bytes(t, k, rows, &ok);
        ch.first = first + r;
        ch.rows = rows;
        status = run_chunk(plan, &ch);
        if (!status && p->type == BL_TYPE_I2_S)
            status = named(plan, p, bl_pack_trits(p->type, w->trits, rows, k, c.scale, w->out, &inner), &inner);
        if (status)
            break;
        if (p->type == BL_TYPE_I2_S && r + rows < n)
            bytes -= 32; /* the scale stands behind the last codes only */
        status = emit(plan, w->out, (size_t)bytes);
        bl_planned_drop(plan, p, first + r, rows);
        if (!status)
            status = bl_plan_step(plan, rows * k);
    }
    return status;
}

/* A tensor whose type stays: its bytes. */
static bitlm_status copy_bytes(bl_plan *plan, const bl_planned *p) {
    const bl_tensor *t = p->gguf;
    bitlm_status status = BITLM_OK;
    uint64_t step = (uint64_t)4 << 20;
    for (uint64_t at = 0; at < t->bytes && !status; at += step) {
        uint64_t n = BL_MIN(step, t->bytes - at);
        status = emit(plan, t->data + at, (size_t)n);
        bl_mapping_drop(&plan->mapping, t->data + at, (size_t)n);
        if (!status)
            status = bl_plan_step(plan, 0);
    }
    return status ? status : bl_plan_step(plan, n_rows(p) * p->dims[0]);
}

static bitlm_status write_tensor(bl_plan *plan, const bl_planned *p) {
    work w = {0};
    uint64_t k = p->dims[0], matrices = p->dims[2] * p->dims[3], n = p->dims[1];
    const bl_tensor_type *t = bl_tensor_type_find(p->type);
    bitlm_status status = BITLM_OK;
    int ok;
    if (p->from == BL_FROM_GGUF && p->gguf->type == p->type)
        return copy_bytes(plan, p);
    w.rows = BL_MAX((uint64_t)1, BL_MIN(n, CHUNK / k));
    /* I2_S counts blocks over the whole tensor; with rows of whole blocks any rows begin one. */
    size_t weights = (size_t)(w.rows * k), bytes = (size_t)bl_tensor_bytes(t, k, w.rows, &ok);
    w.x = bl_malloc(&plan->alloc, weights * sizeof *w.x);
    w.trits = bl_malloc(&plan->alloc, weights);
    w.out = bl_malloc(&plan->alloc, bytes + 32);
    w.sums = bl_calloc(&plan->alloc, (size_t)w.rows * 2, sizeof *w.sums);
    if (!w.x || !w.trits || !w.out || !w.sums)
        status = bl_error_nomem(plan->error, weights * 5 + bytes, "rows of weights");
    for (uint64_t m = 0; m < matrices && !status; m++)
        status = write_matrix(plan, p, &w, m * n, n);
    bl_free(&plan->alloc, w.x);
    bl_free(&plan->alloc, w.trits);
    bl_free(&plan->alloc, w.out);
    bl_free(&plan->alloc, w.sums);
    return status;
}

bitlm_status bl_plan_encode(bl_plan *plan, const bl_planned *p, uint8_t *out) {
    plan->sink = out;
    bitlm_status status = write_tensor(plan, p);
    plan->sink = NULL;
    return status;
}

bitlm_status bl_plan_write(bl_plan *plan) {
    bitlm_status status = BITLM_OK;
    plan->total = plan->done = 0;
    for (uint64_t i = 0; i < plan->n && !status; i++) {
        const bl_planned *p = &plan->tensors[i];
        plan->total += n_rows(p) * p->dims[0];
        status = bl_gguf_write_tensor(plan->writer, p->name, p->type, p->n_dims, p->dims);
    }
    for (uint64_t i = 0; i < plan->n && !status; i++)
        status = write_tensor(plan, &plan->tensors[i]);
    return status;
}
