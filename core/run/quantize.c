/* quantize.c - bitlm_quantize_model: a type for each tensor of its own, by what each costs in bytes and in answers.
 *
 *   measure   every linear layer, the embedding and the head alone in every type: the divergence of the model's answers
 *             (probe.c)
 *   choose    the types with the least sum of these errors within a budget: by dynamic programming over sizes in a unit
 *             that depends on the model and the types alone, so that a greater budget never has a greater sum: a divisor
 *             of all sizes where it is not too small, else what they are rounded up to
 *   check     the divergence of all chosen changes together; for a greatest error the budget is bisected on it; within
 *             a budget the choice is one of several candidates, which are measured on tokens that no choice was made by
 *   write     bitlm_convert, with the choices
 *
 * The sum is a model of the truth: good where errors are small, too low where most of a model is ternary.  Both are
 * reported.  Called through bitlm.h. */
#include <math.h>
#include <string.h>

#include "file/convert.h"
#include "run/probe.h"

#define MAX_TYPES 8
#define UNITS 131072            /* of size, that all tensors as they are take */
#define KEY_BYTES 1024          /* more than the keys that a converted file gains */
#define ALIGNMENT 32            /* of tensors in a written file */
#define CHECK_TOKENS 1024       /* that candidates for a budget are measured on, or more */
#define CHECK_LEAST 256         /* with fewer left in the text, the tokens that errors were measured on serve again */

typedef unsigned long long ull; /* for messages */

typedef struct candidate {
    int32_t type;
    uint64_t bytes, units;
    double error;
} candidate;

typedef struct item {
    const bl_tensor *tensor;
    uint64_t planned;           /* index of plan.tensors */
    int64_t layer;
    int n;                      /* candidates; the last is the tensor as it is */
    candidate c[MAX_TYPES + 1];
    int chosen;
    uint8_t *data;              /* encoded, while all changes are measured together */
} item;

typedef struct job {
    const bitlm_quantize_options *options;
    const bitlm_host *host;
    bitlm_error *error;
    bl_alloc alloc;
    bitlm_model *model;
    bl_probe *probe;
    bl_plan plan;
    bitlm_convert_options convert; /* of the plan, then of the output */
    int32_t types[MAX_TYPES];
    int n_types;
    unsigned left_out;          /* bits of types that choose() does without */
    item *items;
    uint64_t n, unit;
    uint64_t fixed;             /* bytes of the file that are not the items' */
    uint64_t least, most;       /* units of all items in their smallest type, and as they are */
    double done, total;         /* of the measuring, in layers that are run */
} job;

#define FAIL(j, status, ...) bl_error((j)->error, status, __VA_ARGS__)

void bitlm_quantize_options_init(bitlm_quantize_options *options) {
    memset(options, 0, sizeof *options);
    options->size = sizeof *options;
}

static uint64_t padded(uint64_t bytes) { return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

static void step(job *j, double work) {
    j->done += work;
    if (j->options->progress && j->total > 0)
        j->options->progress(j->options->progress_context, BL_MIN(0.9, 0.9 * j->done / j->total));
}

/* ---- what is asked ------------------------------------------------------------------------------------- */

static bitlm_status read_types(job *j) {
    static const bitlm_text usual = {"q2_0,q4_0,q8_0", 14};
    bitlm_text list = j->options->types.length ? j->options->types : usual;
    for (size_t at = 0; at < list.length;) {
        const char *comma = memchr(list.data + at, ',', list.length - at);
        size_t length = comma ? (size_t)(comma - list.data) - at : list.length - at;
        int32_t type;
        bitlm_status status = bl_plan_find_type(&j->plan, (bitlm_text){list.data + at, length}, "a type to choose from", &type);
        if (status)
            return status;
        if (type < 0 || j->n_types == MAX_TYPES)
            return FAIL(j, BITLM_ARG, "types is a list of 1 to %d names with commas between", MAX_TYPES);
        j->types[j->n_types++] = type;
        at += length + 1;
    }
    return BITLM_OK;
}

static bitlm_status check_options(job *j) {
    const bitlm_quantize_options *o = j->options;
    if (!(o->max_error >= 0) || isinf(o->max_error))
        return FAIL(j, BITLM_ARG, "max_error is %g, but must be a positive number", o->max_error);
    if ((o->budget_bytes == 0) == (o->max_error == 0))
        return FAIL(j, BITLM_ARG, "give one of budget_bytes and max_error");
    if (o->tokens && (o->tokens < 16 || o->tokens > 65536))
        return FAIL(j, BITLM_ARG, "tokens is %d, but must be 16 to 65536", (int)o->tokens);
    if (o->threads < 0 || o->threads > 256)
        return FAIL(j, BITLM_ARG, "threads is %d, but must be 0 to 256", (int)o->threads);
    if (o->ternary < BITLM_TERNARY_ABSMEAN || o->ternary > BITLM_TERNARY_TWN || o->scale_per < BITLM_SCALE_TENSOR ||
        o->scale_per > BITLM_SCALE_GROUP)
        return FAIL(j, BITLM_ARG, "ternary is %d and scale_per %d, but must be 0 or 1, and 0 to 2", (int)o->ternary,
                    (int)o->scale_per);
    if (o->text.length == 0)
        return FAIL(j, BITLM_ARG, "a text is needed to measure errors on");
    return read_types(j);
}

static int32_t tokens_wanted(const job *j) { return j->options->tokens ? j->options->tokens : 256; }

/* `wanted` tokens of the text after the first `skip`, or all that are left; the model's BOS before each window where its
 * texts begin with one. */
static bitlm_status read_text(job *j, int64_t skip, int64_t wanted, int32_t **out, int64_t *n_out) {
    bitlm_text text = j->options->text;
    int64_t window = bl_probe_window(j->model), n = 0;
    int32_t frame[8], bos = -1;
    size_t n_ids = 0, n_frame = 0;
    /* No token is longer than a few hundred bytes; so the beginning is enough, cut where a character ends. */
    text.length = BL_MIN(text.length, (size_t)(skip + wanted) * 256 + 64);
    while (text.length < j->options->text.length && text.length > 0 && ((uint8_t)text.data[text.length] & 0xc0) == 0x80)
        text.length--;
    if (bitlm_tokenize(j->model, "", 0, BITLM_TOKENS_FRAME, j->host, frame, BL_COUNT(frame), &n_frame, NULL) == BITLM_OK &&
        n_frame > 0 && frame[0] == bl_tokenizer_bos(j->model->tokenizer))
        bos = frame[0];
    bitlm_status status = bitlm_tokenize(j->model, text.data, text.length, 0, j->host, NULL, 0, &n_ids, j->error);
    if (status && status != BITLM_LIMIT)
        return status;
    if (n_ids < 16)
        return FAIL(j, BITLM_ARG, "the text has %zu tokens, but at least 16 are needed to measure errors on", n_ids);
    int32_t *ids = bl_malloc(&j->alloc, n_ids * sizeof *ids), *framed;
    framed = bl_malloc(&j->alloc, (n_ids + n_ids / 15 + 2) * sizeof *ids);
    status = ids && framed ? bitlm_tokenize(j->model, text.data, text.length, 0, j->host, ids, n_ids, &n_ids, j->error)
                           : bl_error_nomem(j->error, n_ids * 2 * sizeof *ids, "the text's tokens");
    for (int64_t i = skip; i < BL_MIN((int64_t)n_ids, skip + wanted) && !status; i++) {
        if (bos >= 0 && n % window == 0)
            framed[n++] = bos;
        framed[n++] = ids[i];
    }
    bl_free(&j->alloc, ids);
    if (status)
        bl_free(&j->alloc, framed);
    else
        *out = framed, *n_out = n;
    return status;
}

/* The probe of `wanted` tokens after the first `skip`, in place of the one that there is; with fewer than `least` nothing
 * changes. */
static bitlm_status open_probe(job *j, int64_t skip, int64_t wanted, int64_t least, int keep_layers) {
    int32_t *ids = NULL;
    int64_t n = 0;
    bitlm_status status = read_text(j, skip, wanted, &ids, &n);
    if (!status && n >= least) {
        bl_probe_free(j->probe);
        j->probe = NULL;
        status = bl_probe_open(j->model, ids, n, j->options->threads ? j->options->threads : bl_physical_cores(), keep_layers,
                               j->host, &j->probe, j->error);
    }
    bl_free(&j->alloc, ids);
    j->plan.pool = j->probe ? bl_probe_pool(j->probe) : NULL;
    j->plan.poll = j->probe ? bl_probe_poll(j->probe) : NULL;
    return status;
}

/* ---- the tensors and their candidates ------------------------------------------------------------------ */

static uint64_t common_divisor(uint64_t a, uint64_t b) {
    while (b) {
        uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* Of one candidate for a budget, in layers that are run over as many tokens as errors are measured on. */
static double check_work(const job *j) {
    int32_t tokens = tokens_wanted(j);
    return (double)(j->model->n_layers + 1) * BL_MAX(CHECK_TOKENS, tokens) / tokens;
}

static bitlm_status list_items(job *j) {
    bl_plan *plan = &j->plan;
    uint64_t n = bl_gguf_n_tensors(plan->gguf), first_data = plan->mapping.size, all = 0, common = 0;
    bitlm_status status = BITLM_OK;
    j->items = bl_calloc(&j->alloc, (size_t)n, sizeof *j->items);
    if (!j->items)
        return bl_error_nomem(j->error, (size_t)n * sizeof *j->items, "the list of tensors");
    j->fixed = KEY_BYTES;
    for (uint64_t i = 0; i < n && !status; i++) {
        const bl_tensor *t = bl_gguf_tensor_at(plan->gguf, i);
        bl_planned *p;
        first_data = BL_MIN(first_data, (uint64_t)(t->data - plan->mapping.data));
        status = bl_plan_add_gguf(plan, t, &p);
        int64_t layer = status || p->role == BL_ROLE_OTHER ? -1 : bl_probe_layer(j->probe, t->name);
        if (layer < 0) {
            j->fixed += padded(t->bytes);
            continue;
        }
        item *it = &j->items[j->n++];
        *it = (item){.tensor = t, .planned = plan->n - 1, .layer = layer};
        for (int k = 0; k < j->n_types; k++) {
            const bl_tensor_type *type = bl_tensor_type_find(j->types[k]);
            int ok;
            uint64_t bytes = bl_tensor_bytes(type, t->dims[0], t->dims[1] * t->dims[2] * t->dims[3], &ok);
            if (ok && bytes < t->bytes && bl_plan_fits(plan, type->id, p))
                it->c[it->n++] = (candidate){.type = type->id, .bytes = bytes};
        }
        it->c[it->n++] = (candidate){.type = t->type, .bytes = t->bytes};
        all += t->bytes;
    }
    j->fixed += first_data;
    for (uint64_t i = 0; i < j->n; i++)
        for (int k = 0; k < j->items[i].n; k++)
            common = common_divisor(padded(j->items[i].c[k].bytes), common);
    j->unit = BL_MAX((all + UNITS - 1) / UNITS, common); /* the latter is exact */
    for (uint64_t i = 0; i < j->n; i++) {
        item *it = &j->items[i];
        uint64_t least = UINT64_MAX;
        for (int k = 0; k < it->n; k++) {
            it->c[k].units = (padded(it->c[k].bytes) + j->unit - 1) / j->unit;
            least = BL_MIN(least, it->c[k].units);
            if (k + 1 < it->n)
                j->total += (double)(j->model->n_layers - it->layer + 1);
        }
        j->least += least;
        j->most += it->c[it->n - 1].units;
    }
    if (j->options->budget_bytes)
        j->total += check_work(j) * 2 * j->n_types;
    return status;
}

static bitlm_status encode(job *j, const item *it, int32_t type, uint8_t *out) {
    bl_planned *p = &j->plan.tensors[it->planned];
    p->type = type;
    return bl_plan_encode(&j->plan, p, out);
}

static bitlm_status exchange(job *j, const item *it, int32_t type, uint64_t bytes, const uint8_t *data) {
    bl_tensor t = *it->tensor;
    t.type = type;
    t.bytes = bytes;
    t.data = data;
    return bl_probe_set(j->probe, &t, j->error);
}

static bitlm_status put_back(job *j, const item *it) { return bl_probe_set(j->probe, it->tensor, j->error); }

static bitlm_status measure(job *j) {
    uint64_t room = 0;
    bitlm_status status = BITLM_OK;
    for (uint64_t i = 0; i < j->n; i++)
        for (int k = 0; k + 1 < j->items[i].n; k++)
            room = BL_MAX(room, j->items[i].c[k].bytes);
    uint8_t *data = bl_malloc(&j->alloc, (size_t)room + 64);
    if (!data)
        return bl_error_nomem(j->error, (size_t)room + 64, "a tensor in another type");
    for (uint64_t i = 0; i < j->n && !status; i++) {
        item *it = &j->items[i];
        double ignored;
        for (int k = 0; k + 1 < it->n && !status; k++) {
            candidate *c = &it->c[k];
            status = encode(j, it, c->type, data);
            if (!status)
                status = exchange(j, it, c->type, c->bytes, data);
            if (!status)
                status = bl_probe_run(j->probe, it->layer, &c->error, &ignored, j->error);
            if (!status)
                step(j, (double)(j->model->n_layers - it->layer + 1));
        }
        if (!status)
            status = put_back(j, it);
    }
    bl_free(&j->alloc, data);
    return status;
}

/* ---- choosing ------------------------------------------------------------------------------------------ */

static int is_left_out(const job *j, int32_t type) {
    for (int i = 0; i < j->n_types; i++)
        if (j->types[i] == type && j->left_out >> i & 1)
            return 1;
    return 0;
}

/* chosen of each item: the least sum of errors in at most `budget` units, of these the least size.  Without the types
 * that are left out there may be no choice: then the sum is infinite. */
static bitlm_status choose(job *j, uint64_t budget, double *sum) {
    uint64_t width = BL_MIN(budget, j->most) + 1;
    double *best = bl_malloc(&j->alloc, (size_t)width * sizeof *best), *next = bl_malloc(&j->alloc, (size_t)width * sizeof *next);
    uint8_t *taken = bl_malloc(&j->alloc, (size_t)(width * j->n) + 1); /* (n, width) */
    bitlm_status status = BITLM_OK;
    if (!best || !next || !taken) {
        status = bl_error_nomem(j->error, (size_t)(width * (j->n + 16)), "the choice of types");
        goto done;
    }
    /* best[u]: the least sum in exactly u units. */
    for (uint64_t u = 0; u < width; u++)
        best[u] = u ? INFINITY : 0.0;
    for (uint64_t i = 0; i < j->n; i++) {
        const item *it = &j->items[i];
        for (uint64_t u = 0; u < width; u++) {
            next[u] = INFINITY;
            taken[i * width + u] = 0;
            for (int k = 0; k < it->n; k++) {
                if (it->c[k].units > u || (k + 1 < it->n && is_left_out(j, it->c[k].type)))
                    continue;
                double error = best[u - it->c[k].units] + it->c[k].error;
                if (error < next[u]) {
                    next[u] = error;
                    taken[i * width + u] = (uint8_t)k;
                }
            }
        }
        double *other = best;
        best = next;
        next = other;
    }
    uint64_t at = 0;
    for (uint64_t u = 1; u < width; u++)
        if (best[u] < best[at])
            at = u;
    *sum = best[at];
    for (uint64_t i = j->n; i-- > 0 && *sum < INFINITY;) {
        j->items[i].chosen = taken[i * width + at];
        at -= j->items[i].c[j->items[i].chosen].units;
    }
done:
    bl_free(&j->alloc, best);
    bl_free(&j->alloc, next);
    bl_free(&j->alloc, taken);
    return status;
}

/* All chosen changes together. */
static bitlm_status measure_choice(job *j, double *divergence, double *nll) {
    bitlm_status status = BITLM_OK, back = BITLM_OK;
    for (uint64_t i = 0; i < j->n && !status; i++) {
        item *it = &j->items[i];
        const candidate *c = &it->c[it->chosen];
        if (it->chosen + 1 == it->n)
            continue;
        it->data = bl_malloc(&j->alloc, (size_t)c->bytes + 64);
        status = it->data ? encode(j, it, c->type, it->data)
                          : bl_error_nomem(j->error, (size_t)c->bytes + 64, "a tensor in another type");
        if (!status)
            status = exchange(j, it, c->type, c->bytes, it->data);
    }
    if (!status)
        status = bl_probe_run(j->probe, 0, divergence, nll, j->error);
    for (uint64_t i = 0; i < j->n; i++) {
        item *it = &j->items[i];
        if (it->data && !back)
            back = put_back(j, it);
        bl_free(&j->alloc, it->data);
        it->data = NULL;
    }
    return status ? status : back;
}

static double bits(int32_t id) {
    const bl_tensor_type *type = bl_tensor_type_find(id);
    return (double)type->block_bytes / type->block;
}

/* Whether some tensor that could be of `type` is chosen to be of fewer bits. */
static int has_coarser(const job *j, int32_t type) {
    for (uint64_t i = 0; i < j->n && type >= 0; i++) {
        const item *it = &j->items[i];
        if (bits(it->c[it->chosen].type) < bits(type) && it->chosen + 1 < it->n)
            for (int k = 0; k + 1 < it->n; k++)
                if (it->c[k].type == type)
                    return 1;
    }
    return 0;
}

/* The best of the candidates so far. */
typedef struct best {
    int *chosen;                /* (n), when found */
    int found;
    double error, sum, nll;
} best;

/* Where some tensor is coarser than `type`, a choice by which the text is less likely than most_nll is none. */
static bitlm_status try_choice(job *j, double sum, int32_t type, double most_nll, best *b) {
    double error, nll;
    int same = b->found;
    for (uint64_t i = 0; i < j->n && same; i++)
        same = j->items[i].chosen == b->chosen[i];
    if (same)
        return BITLM_OK;
    bitlm_status status = measure_choice(j, &error, &nll);
    if (!status && (!b->found || (error < b->error && (nll <= most_nll || !has_coarser(j, type))))) {
        b->found = 1;
        b->error = error;
        b->sum = sum;
        b->nll = nll;
        for (uint64_t i = 0; i < j->n; i++)
            b->chosen[i] = j->items[i].chosen;
    }
    return status;
}

/* One type throughout, where it fits. */
static bitlm_status try_one_type(job *j, int32_t type, best *b) {
    uint64_t bytes = j->fixed;
    double sum = 0;
    for (uint64_t i = 0; i < j->n; i++) {
        item *it = &j->items[i];
        for (it->chosen = 0; it->chosen + 1 < it->n && it->c[it->chosen].type != type;)
            it->chosen++;
        bytes += padded(it->c[it->chosen].bytes);
        sum += it->c[it->chosen].error;
    }
    return bytes <= j->options->budget_bytes ? try_choice(j, sum, -1, INFINITY, b) : BITLM_OK;
}

/* The sum of errors is only a model of the truth: too low where coarse types' errors add up, and the least of many noisy
 * sums.  So the choices without the coarsest type, without the two coarsest, … and one type throughout are candidates
 * too, and all are measured on other tokens.  A choice must have less divergence than the best single type, and if it pays
 * by coarser tensors no greater perplexity either: SmolLM2 at Q4_0's size has a choice with ternary tensors whose divergence
 * is 0.1 nats less than Q4_0's (eleven standard errors), but whose perplexity is greater, on that text and on another. */
static bitlm_status choose_by_budget(job *j, bitlm_quantize_result *r) {
    uint64_t budget = j->options->budget_bytes, lowest = j->fixed + j->least * j->unit;
    int64_t tokens = tokens_wanted(j);
    double ignored, nll, sum;
    best b = {0};
    int32_t single = -1;        /* the best type throughout */
    if (budget < lowest)
        return FAIL(j, BITLM_LIMIT, "budget_bytes is %llu, but with these types the model takes at least %llu bytes",
                    (ull)budget, (ull)lowest);
    b.chosen = bl_malloc(&j->alloc, (size_t)j->n * sizeof *b.chosen + 1);
    if (!b.chosen)
        return bl_error_nomem(j->error, (size_t)j->n * sizeof *b.chosen, "the choice of types");
    bitlm_status status = open_probe(j, tokens, BL_MAX(CHECK_TOKENS, tokens), CHECK_LEAST, 0);
    if (!status)
        status = bl_probe_run(j->probe, 0, &ignored, &nll, j->error);
    if (!status)
        r->source_perplexity = exp(nll);
    for (int i = 0; i < j->n_types && !status; i++) {
        double before = b.error;
        int had = b.found;
        status = try_one_type(j, j->types[i], &b);
        if (b.found && (!had || b.error < before))
            single = j->types[i];
        step(j, check_work(j));
    }
    double most_nll = b.nll;
    for (int i = 0; i < j->n_types && !status; i++) {
        status = choose(j, (budget - j->fixed) / j->unit, &sum);
        if (!status && sum < INFINITY)
            status = try_choice(j, sum, single, most_nll, &b);
        step(j, check_work(j));
        int coarsest = -1;
        for (int k = 0; k < j->n_types; k++)
            if (!(j->left_out >> k & 1) && (coarsest < 0 || bits(j->types[k]) < bits(j->types[coarsest])))
                coarsest = k;
        j->left_out |= 1u << coarsest;
    }
    for (uint64_t i = 0; i < j->n && !status; i++)
        j->items[i].chosen = b.chosen[i];
    r->error = b.error;
    r->predicted_error = b.sum;
    r->perplexity = status ? 0 : exp(b.nll);
    bl_free(&j->alloc, b.chosen);
    return status;
}

/* Bisects on the measured error; as it is, the model has none. */
static bitlm_status choose_by_error(job *j, bitlm_quantize_result *r) {
    uint64_t low = j->least, high = j->most; /* high always holds the limit, less than low never does */
    double divergence, nll = 0;
    bitlm_status status = BITLM_OK;
    while (low < high && (high - low) * j->unit > (j->fixed + high * j->unit) / 500 && !status) {
        uint64_t middle = low + (high - low) / 2;
        status = choose(j, middle, &r->predicted_error);
        if (!status)
            status = measure_choice(j, &divergence, &nll);
        if (!status && divergence <= j->options->max_error)
            high = middle;
        else
            low = middle + 1;
    }
    if (!status)
        status = choose(j, high, &r->predicted_error);
    if (!status)
        status = measure_choice(j, &r->error, &nll);
    r->perplexity = status ? 0 : exp(nll);
    return status;
}

/* ---- the output ---------------------------------------------------------------------------------------- */

static void on_write(void *context, double fraction) {
    const job *j = context;
    j->options->progress(j->options->progress_context, 0.9 + 0.1 * fraction);
}

static bitlm_status write_output(job *j, const char *source, size_t source_length, const char *output, size_t output_length) {
    bitlm_tensor_choice *choices = bl_calloc(&j->alloc, (size_t)j->n + 1, sizeof *choices);
    bl_file_id now;
    size_t n = 0;
    if (!choices)
        return bl_error_nomem(j->error, (size_t)j->n * sizeof *choices, "the choice of types");
    for (uint64_t i = 0; i < j->n; i++) {
        const item *it = &j->items[i];
        const char *type = bl_tensor_type_find(it->c[it->chosen].type)->name;
        if (it->chosen + 1 < it->n)
            choices[n++] = (bitlm_tensor_choice){{it->tensor->name, strlen(it->tensor->name)}, {type, strlen(type)}};
    }
    j->convert.choices = choices;
    j->convert.n_choices = n;
    j->convert.threads = j->options->threads;
    if (j->options->progress) {
        j->convert.progress = on_write;
        j->convert.progress_context = j;
    }
    bitlm_status status = bl_mapping_identify(source, source_length, &now, j->error);
    if (!status && memcmp(&now, &j->model->mapping.id, sizeof now) != 0)
        status = FAIL(j, BITLM_IO, "the source has changed while it was measured");
    if (!status)
        status = bitlm_convert(source, source_length, output, output_length, &j->convert, j->host, j->error);
    bl_free(&j->alloc, choices);
    return status;
}

static void report(const job *j) {
    for (uint64_t i = 0; i < j->n && j->options->tensor; i++) {
        const item *it = &j->items[i];
        const candidate *c = &it->c[it->chosen];
        bitlm_quantized_tensor t = {.size = sizeof t, .name = it->tensor->name,
                                    .source_type = bl_tensor_type_find(it->tensor->type)->name,
                                    .type = bl_tensor_type_find(c->type)->name,
                                    .source_bytes = it->tensor->bytes, .bytes = c->bytes, .error = c->error};
        j->options->tensor(j->options->tensor_context, &t);
    }
}

/* Whether the output can be written is better known before the measuring. */
static bitlm_status try_output(job *j, const char *output, size_t length) {
    char path[4096], shown[160];
    bl_gguf_writer *writer;
    bl_show(shown, sizeof shown, output, length);
    if (length < 5 || memcmp(output + length - 5, ".gguf", 5) != 0 || length >= sizeof path || memchr(output, 0, length))
        return FAIL(j, BITLM_ARG, "the output '%s' must be named *.gguf", shown);
    memcpy(path, output, length);
    path[length] = '\0';
    bitlm_status status = bl_gguf_writer_begin(path, &j->alloc, &writer, j->error);
    if (!status)
        bl_gguf_writer_abort(writer);
    return status;
}

static bitlm_status run(job *j, const char *source, size_t source_length, const char *output, size_t output_length,
                        bitlm_quantize_result *r) {
    bitlm_options open;
    double divergence, nll;
    bitlm_options_init(&open);
    bitlm_status status = check_options(j);
    if (!status)
        status = try_output(j, output, output_length);
    if (!status)
        status = bitlm_model_open(source, source_length, 0, &open, j->host, &j->model, j->error);
    if (status)
        return status;
    if (j->model->builtin || !j->model->head.data)
        return FAIL(j, BITLM_UNSUPPORTED, "%s is no file of a model that foretells text, so there is nothing to measure errors by",
                    j->model->path);
    j->plan.gguf = j->model->gguf;
    j->plan.mapping = j->model->mapping;
    status = open_probe(j, 0, tokens_wanted(j), 0, 1);
    if (status)
        return status;
    status = list_items(j);
    if (!status)
        status = bl_probe_run(j->probe, 0, &divergence, &nll, j->error);
    if (!status)
        r->source_perplexity = exp(nll);
    if (!status)
        status = measure(j);
    if (!status)
        status = j->options->budget_bytes ? choose_by_budget(j, r) : choose_by_error(j, r);
    r->tokens = (int32_t)bl_probe_scored(j->probe);
    r->source_bytes = j->model->mapping.size;
    return status;
}

bitlm_status bitlm_quantize_model(const char *source, size_t source_length, const char *output, size_t output_length,
                                  const bitlm_quantize_options *options, const bitlm_host *host,
                                  bitlm_quantize_result *result, bitlm_error *error) {
    bitlm_error inner = {.size = sizeof inner};
    bitlm_quantize_result r = {.size = sizeof r};
    bl_error_clear(error);
    if (!source || !output || !options || options->size != sizeof *options || (result && result->size < sizeof r))
        return bl_error(error, BITLM_ARG, "bitlm_quantize_model needs two paths, and options and a result whose sizes are set");
    job j = {.options = options, .host = host, .error = &inner, .alloc = bl_alloc_from_host(host)};
    bitlm_convert_options_init(&j.convert);
    j.convert.ternary = options->ternary;
    j.convert.scale_per = options->scale_per;
    j.plan = (bl_plan){.alloc = j.alloc, .options = &j.convert, .type = -1, .embedding_type = -1, .error = &inner};
    bitlm_status status = run(&j, source, source_length, output, output_length, &r);
    bl_probe_free(j.probe); /* the float environment is the caller's again */
    j.probe = NULL;
    if (!status)
        status = write_output(&j, source, source_length, output, output_length);
    if (!status)
        report(&j);
    bl_free(&j.alloc, j.plan.tensors);
    bl_free(&j.alloc, j.items);
    bitlm_model_free(j.model);
    if (!status && result) {
        bl_file_id id;
        status = bl_mapping_identify(output, output_length, &id, &inner);
        r.bytes = status ? 0 : id.size;
        memcpy(result, &r, sizeof r);
    }
    if (status) {
        bl_error(error, status, "%s", inner.text);
        if (error)
            error->sys_errno = inner.sys_errno;
    }
    return status;
}
