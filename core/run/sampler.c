/* sampler.c - the next token from logits: repeat penalty, then greedy, or top-k, top-p, min-p,
 * temperature and a draw.
 *
 * The filters keep a prefix of the tokens in order of logit (ties: lower id first), so a heap is
 * popped only as far as they reach.  Probabilities that decide anything are our own exp in
 * double, summed in that order: the same draw on every CPU.  The random number depends on (seed,
 * number of the token) alone: a text is the same whichever others are made beside it.  Called by generate.c. */
#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "run/run.h"

static int before(bl_candidate a, bl_candidate b) {
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

static void sift_down(bl_candidate *heap, int64_t n, int64_t i) {
    bl_candidate moving = heap[i];
    for (int64_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && before(heap[child + 1], heap[child]))
            child++;
        if (!before(heap[child], moving))
            break;
        heap[i] = heap[child];
    }
    heap[i] = moving;
}

/* Each distinct token of the window once: HF's and llama.cpp's form (Keskar et al. 2019). */
static void penalize(float *logits, const int32_t *history, int64_t n, float penalty) {
    for (int64_t i = 0; i < n; i++) {
        int seen = 0;
        for (int64_t j = 0; j < i && !seen; j++)
            seen = history[j] == history[i];
        if (!seen) {
            float *l = &logits[history[i]];
            *l = bl_penalized(*l, penalty);
        }
    }
}

static double weight(float logit, float max, double temperature) {
    double x = ((double)logit - (double)max) / temperature;
    return x < -700.0 ? 0.0 : bl_exp(x);
}

/* Moves the candidates that pass the filters to the front, in order; returns their number. */
static int64_t filter(bl_candidate *c, int64_t n, float max, double total, const bitlm_options *o) {
    int64_t limit = o->top_k > 0 ? BL_MIN((int64_t)o->top_k, n) : n, kept = 0, left = n;
    double mass = 0.0, floor_p = (double)o->min_p;
    for (int64_t i = n / 2 - 1; i >= 0; i--)
        sift_down(c, n, i);
    /* The heap shrinks from its end, where the popped ones collect in reverse. */
    while (kept < limit) {
        bl_candidate top = c[0];
        if (kept && floor_p > 0.0 && weight(top.logit, max, 1.0) < floor_p)
            break;
        c[0] = c[--left];
        c[left] = top;
        if (left)
            sift_down(c, left, 0);
        kept++;
        if (o->top_k <= 0 && o->top_p < 1.0f) {
            mass += weight(top.logit, max, 1.0);
            if (mass >= (double)o->top_p * total)
                break;
        }
    }
    for (int64_t i = 0; i < kept / 2; i++) {
        bl_candidate t = c[n - 1 - i];
        c[n - 1 - i] = c[n - kept + i];
        c[n - kept + i] = t;
    }
    memmove(c, c + (n - kept), (size_t)kept * sizeof *c);
    if (o->top_k > 0 && o->top_p < 1.0f) { /* top-p of what top-k left */
        double sum = 0.0;
        mass = 0.0;
        for (int64_t i = 0; i < kept; i++)
            sum += weight(c[i].logit, max, 1.0);
        for (int64_t i = 0; i < kept; i++) {
            mass += weight(c[i].logit, max, 1.0);
            if (mass >= (double)o->top_p * sum)
                return i + 1;
        }
    }
    return kept;
}

/* Logits are looked at in blocks, which the compiler turns into vectors: one by one a large vocabulary takes as long as a
 * small layer. */
#define BLOCK 64

int64_t bl_first_overflow(const float *l, int64_t n) {
    for (int64_t at = 0; at < n; at += BLOCK) {
        uint32_t bits[BLOCK] = {0}, any = 0;
        memcpy(bits, l + at, (size_t)BL_MIN(n - at, BLOCK) * sizeof *bits);
        for (int i = 0; i < BLOCK; i++)
            any |= (bits[i] & 0x7fffffffu) + 0x00800000u; /* an exponent of ones carries into bit 31 */
        for (int64_t i = at; any >> 31 && i < n; i++)
            if (!isfinite(l[i]))
                return i;
    }
    return n;
}

bl_candidate bl_best_token(const float *l, int64_t n) {
    bl_candidate best = {l[0], 0};
    for (int64_t at = 0; at < n; at += BLOCK) {
        const int64_t end = BL_MIN(at + BLOCK, n);
        int better = end - at < BLOCK;
        for (int i = 0; i < BLOCK && end - at == BLOCK; i++)
            better |= l[at + i] > best.logit;
        for (int64_t i = at; better && i < end; i++)
            if (l[i] > best.logit)
                best = (bl_candidate){l[i], (int32_t)i};
    }
    return best;
}

/* The best of n candidates, or of all n tokens where there are none. */
static bl_candidate best_of(const bl_candidate *c, const float *l, int64_t n) {
    if (!c)
        return bl_best_token(l, n);
    bl_candidate best = c[0];
    for (int64_t i = 1; i < n; i++)
        if (before(c[i], best))
            best = c[i];
    return best;
}

bitlm_status bl_sample(bitlm_session *s, const bl_row *row, int64_t budget, int32_t *token, float *logprob,
                       bitlm_error *error) {
    const bitlm_options *o = &s->gen.options;
    bl_constraint *constraint = row->constraint;
    const int32_t *history = row->tokens;
    int64_t n_history = row->n_tokens;
    bl_candidate *c = s->candidates + BL_REPEAT_WINDOW;
    int64_t n = s->model->vocab_size;
    int penalized = o->repeat_penalty != 1.0f && !constraint;
    float *l = row->logits, before_max;
    int64_t n_allowed;
    bitlm_status status = bl_short_settle(s, row, budget, &n_allowed);
    if (status)
        return status;
    int64_t overflow = bl_first_overflow(l, n);
    if (overflow < n)
        return bl_error(error, BITLM_FORMAT, "the model's arithmetic overflowed: the logit of token %lld is not finite",
                        (long long)overflow);
    float z = 0.0f;
    if (o->logprobs)
        z = s->context.kernels->exp_sum(l, n, &before_max);
    if (penalized) {
        int64_t window = BL_MIN(n_history, (int64_t)BL_REPEAT_WINDOW);
        /* The raw logit of the choice is needed afterwards for its log probability. */
        for (int64_t i = 0; i < window; i++)
            s->candidates[i] = (bl_candidate){l[history[n_history - window + i]], 0};
        penalize(l, history + n_history - window, window, o->repeat_penalty);
    }
    if (constraint)
        n = n_allowed >= 0 ? n_allowed : bl_constraint_candidates(constraint, l, n, budget, c);
    bl_candidate chosen = best_of(constraint ? c : NULL, l, n);
    if (o->temperature > 0.0f) {
        float max = chosen.logit, ignored;
        int64_t kept = n;
        int filters = o->top_k > 0 || o->top_p < 1.0f || o->min_p > 0.0f;
        double total = 0.0, sum = 0.0, u = bl_rng_unit(o->seed, 0, (uint64_t)row->n_generated);
        if (filters && o->top_k <= 0 && o->top_p < 1.0f) {
            if (!constraint)
                total = (double)s->context.kernels->exp_sum(l, n, &ignored);
            for (int64_t i = 0; constraint && i < n; i++)
                total += weight(c[i].logit, max, 1.0);
        }
        for (int64_t i = 0; !constraint && i < n; i++)
            c[i] = (bl_candidate){l[i], (int32_t)i};
        if (filters)
            kept = filter(c, n, max, total, o);
        for (int64_t i = 0; i < kept; i++)
            sum += weight(c[i].logit, max, (double)o->temperature);
        double target = u * sum, run = 0.0;
        chosen = c[kept - 1];
        for (int64_t i = 0; i < kept; i++) {
            run += weight(c[i].logit, max, (double)o->temperature);
            if (run > target) {
                chosen = c[i];
                break;
            }
        }
    }
    *logprob = NAN;
    if (o->logprobs) {
        float raw = chosen.logit;
        if (penalized) {
            int64_t window = BL_MIN(n_history, (int64_t)BL_REPEAT_WINDOW);
            for (int64_t i = 0; i < window; i++)
                if (history[n_history - window + i] == chosen.id)
                    raw = s->candidates[i].logit;
        }
        *logprob = (float)((double)raw - (double)before_max - bl_log((double)z));
    }
    *token = chosen.id;
    return BITLM_OK;
}
