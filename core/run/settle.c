/* settle.c - which logits of the head's int8 copy have to be computed from the head itself, so that the sampler's choice is that
 * of the full head, bit for bit (option head = shortlist; core/model/shortlist.h has the copy and its bound).
 *
 * Each logit lies between low and high, the copy's value minus and plus its bound.  Tokens that are certain to fail what the
 * sampler asks for keep the copy's value; all others get the head's:
 *   greedy    a token whose high is below the greatest low loses to that one, whose own logit is at least its low;
 *   top_k     at least k tokens are no worse than the k-th greatest low, and all of them are computed;
 *   min_p     what lies log(min_p) below the greatest low lies as far below the greatest logit.
 * A token's value of the copy lies below the same line as its high, so the sampler drops it wherever it would drop the true
 * value.  Tokens under repeat_penalty are computed first, and their penalized values enter the lines.  Under choices or a
 * schema only the tokens that may come count.  Where the total of all probabilities matters (log probabilities, temperature
 * without a filter or with top_p alone, a choice that may end against others that go on) or more than 5 % of the vocabulary
 * stays, the full head runs.  Called by rows.c and sampler.c. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "run/run.h"

#define LONGEST_WAIT 5 /* 2^5 steps */

/* The sampler needs no more than the tokens above some line. */
static int has_line(const bitlm_options *o) {
    return o->temperature <= 0.0f || o->top_k > 0 || (o->min_p > 0.0f && o->top_p >= 1.0f);
}

void bl_short_layout(bitlm_session *s, bl_arena *arena) {
    bl_short_head *h = &s->head;
    size_t hidden = (size_t)s->model->hidden_size;
    h->limit = s->model->vocab_size / 20;
    h->inputs = bl_arena_take(arena, BL_LOGIT_ROWS, hidden * sizeof(float));
    h->codes = bl_arena_take(arena, 2 * BL_LOGIT_ROWS, hidden);
    h->kept = bl_arena_take(arena, (size_t)h->limit + BL_REPEAT_WINDOW + 1, sizeof *h->kept);
    h->lows = bl_arena_take(arena, (size_t)h->limit + 1, sizeof *h->lows);
}

void bl_short_begin(bitlm_session *s, const bitlm_options *o) {
    bl_short_head *h = &s->head;
    int constrained = o->n_choices > 0 || o->json_schema.data;
    h->on = h->list && !o->logprobs && (has_line(o) || constrained) && o->top_k <= h->limit;
    h->misses = h->wait = 0;
    h->n_settled = h->n_kept = h->n_whole = 0;
    memset(h->rough, 0, sizeof h->rough);
}

bitlm_status bl_short_logits(bitlm_session *s, const int32_t *rows, int64_t n_rows, int64_t at) {
    bl_short_head *h = &s->head;
    const bitlm_model *m = s->model;
    float *logits = s->logits + at * m->vocab_size;
    int rough = h->on && h->wait == 0;
    for (int64_t i = 0; i < n_rows; i++)
        h->rough[at + i] = (uint8_t)rough;
    if (rough)
        return bl_shortlist_logits(&s->context, h->list, rows, n_rows, h->inputs + at * m->hidden_size, h->codes, logits,
                                   h->bounds + at);
    if (h->wait > 0)
        h->wait--;
    return bl_forward_logits(&s->context, rows, n_rows, logits);
}

/* ---- one row ----------------------------------------------------------------------------------- */

typedef struct view {
    const bl_shortlist *list;
    bl_head_bound bound;
    const float *l;
    const bl_candidate *c;  /* the tokens that may come, or NULL: all */
    int64_t n;
} view;

static inline int64_t id_of(const view *v, int64_t i) { return v->c ? v->c[i].id : i; }

static inline double slack(const view *v, int64_t id) {
    return v->bound.a * (double)v->list->error[id] + v->bound.b * (double)v->list->norm[id] + BL_HEAD_TINY;
}

/* The k greatest values seen, the least of them in front. */
typedef struct best {
    double *heap;
    int64_t k, n;
} best;

static void see(best *b, double low) {
    double *h = b->heap;
    int64_t i;
    if (b->n < b->k) {
        for (i = b->n++; i > 0 && h[(i - 1) / 2] > low; i = (i - 1) / 2)
            h[i] = h[(i - 1) / 2];
        h[i] = low;
        return;
    }
    if (!(low > h[0]))
        return;
    i = 0;
    for (int64_t child; (child = 2 * i + 1) < b->n; i = child) {
        if (child + 1 < b->n && h[child + 1] < h[child])
            child++;
        if (h[child] >= low)
            break;
        h[i] = h[child];
    }
    h[i] = low;
}

/* The value that a token must reach to matter; `known`: penalized values of tokens that are set aside. */
static double line_of(bitlm_session *s, const view *v, const float *known, int64_t n_known) {
    const bitlm_options *o = &s->gen.options;
    int sampled = o->temperature > 0.0f;
    best top = {s->head.lows, sampled && o->top_k > 0 ? o->top_k : 1, 0};
    double greatest = -INFINITY, line = -INFINITY;
    for (int64_t i = 0; i < n_known; i++) {
        greatest = (double)known[i] > greatest ? (double)known[i] : greatest;
        see(&top, (double)known[i]);
    }
    for (int64_t i = 0; i < v->n; i++) {
        int64_t id = id_of(v, i);
        double low = (double)v->l[id] - slack(v, id);
        if (low > greatest)
            greatest = low;
        if (top.n < top.k || low > top.heap[0])
            see(&top, low);
    }
    if (!sampled || o->top_k > 0)
        line = top.n == top.k ? top.heap[0] : -INFINITY;
    if (sampled && o->min_p > 0.0f && greatest + bl_log((double)o->min_p) - 1e-6 > line)
        line = greatest + bl_log((double)o->min_p) - 1e-6; /* the sampler's exp is within 2 ulp */
    return line;
}

/* The distinct tokens of the window that repeat_penalty looks back on. */
static int64_t window_ids(const bl_row *row, int32_t *ids) {
    int64_t window = BL_MIN(row->n_tokens, (int64_t)BL_REPEAT_WINDOW), n = 0;
    for (int64_t i = row->n_tokens - window; i < row->n_tokens; i++) {
        int64_t j = 0;
        while (j < n && ids[j] != row->tokens[i])
            j++;
        if (j == n)
            ids[n++] = row->tokens[i];
    }
    return n;
}

static bitlm_status whole(bitlm_session *s, const float *input, float *l) {
    s->head.n_whole++;
    return bl_head_all(&s->context, input, l);
}

/* Adds the tokens that reach the line behind the n that are kept; -1: too many. */
static int64_t keep(const bl_short_head *h, const view *v, double line, int64_t n) {
    int64_t most = n + h->limit;
    for (int64_t i = 0; i < v->n; i++) {
        int64_t id = id_of(v, i);
        if ((double)v->l[id] + slack(v, id) < line)
            continue;
        if (n == most)
            return -1;
        h->kept[n++] = (int32_t)id;
    }
    return n;
}

/* Finds and computes the logits that matter among those of v; *fits = 0: they are too many. */
static bitlm_status settle(bitlm_session *s, const bl_row *row, const view *v, const float *input, int *fits) {
    const bitlm_options *o = &s->gen.options;
    bl_short_head *h = &s->head;
    float *l = row->logits, raw[BL_REPEAT_WINDOW], known[BL_REPEAT_WINDOW];
    int64_t n_known = 0, n;
    bitlm_status status = BITLM_OK;
    *fits = 0;
    if (!isfinite(v->bound.a) || !isfinite(v->bound.b) || (!(v->c && v->n <= h->limit) && !has_line(o)))
        return BITLM_OK;
    if (v->c && v->n <= h->limit) {
        n = keep(h, v, -INFINITY, 0);
    } else {
        if (o->repeat_penalty != 1.0f && !row->constraint) {
            n_known = window_ids(row, h->kept);
            status = bl_head_some(&s->context, input, h->kept, n_known, l);
            if (status)
                return status;
        }
        for (int64_t i = 0; i < n_known; i++) { /* set aside: below every line */
            float *at = &l[h->kept[i]];
            raw[i] = *at;
            known[i] = bl_penalized(*at, o->repeat_penalty);
            *at = -FLT_MAX;
        }
        n = keep(h, v, line_of(s, v, known, n_known), n_known);
        for (int64_t i = 0; i < n_known; i++)
            l[h->kept[i]] = raw[i];
    }
    if (n < 0)
        return BITLM_OK;
    *fits = 1;
    h->n_settled++;
    h->n_kept += (uint64_t)n;
    return bl_head_some(&s->context, input, h->kept + n_known, n - n_known, l);
}

bitlm_status bl_short_settle(bitlm_session *s, const bl_row *row, int64_t budget, int64_t *n_allowed) {
    bl_short_head *h = &s->head;
    int64_t vocab = s->model->vocab_size, at = (row->logits - s->logits) / vocab;
    const float *input = h->inputs + at * s->model->hidden_size;
    bl_candidate *c = s->candidates + BL_REPEAT_WINDOW;
    view v = {h->list, h->bounds[at], row->logits, NULL, vocab};
    int fits;
    *n_allowed = -1;
    if (!h->rough[at])
        return BITLM_OK;
    h->rough[at] = 0;
    if (row->constraint) {
        v.c = c;
        v.n = bl_constraint_candidates(row->constraint, row->logits, vocab, budget, c);
        for (int64_t i = 0; i < v.n; i++)
            if (c[i].id == BL_STOP_HERE) /* its weight is that of all other tokens */
                return v.n > 1 ? whole(s, input, row->logits) : BITLM_OK;
    }
    bitlm_status status = settle(s, row, &v, input, &fits);
    if (status)
        return status;
    if (!fits) {
        h->misses = BL_MIN(h->misses + 1, LONGEST_WAIT);
        h->wait = 1 << h->misses;
        return whole(s, input, row->logits);
    }
    h->misses = 0;
    for (int64_t i = 0; v.c && i < v.n; i++)
        c[i].logit = row->logits[c[i].id];
    *n_allowed = v.c ? v.n : -1;
    return BITLM_OK;
}
