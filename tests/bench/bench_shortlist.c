/* bench_shortlist.c - would a shortlist of few bits spare the output head?
 *
 *   bench_shortlist MODEL TEXT_FILE [TOKENS]
 *
 * The idea: keep the head once more in 4 (or 8) bits, compute all logits from it, and compute exactly only those rows
 * that can still matter, given a proven bound |l_i - l~_i| <= |w_i - w~_i| |x| (Cauchy-Schwarz; the input's own
 * quantization and rounding would only widen it).  This program measures what share of the vocabulary would stay, at
 * positions of a real text: for greedy choice, for min_p = 0.05 and for top_k = 40.  Where the share passes 5 % the
 * whole head has to run as well, and the shortlist was a loss.  docs/BENCHMARKS.md has the answer. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quant/quant.h"
#include "run/run.h"

#define FIRST 16 /* positions before this see too little text to be typical */

static void die(const char *what) {
    fprintf(stderr, "bench_shortlist: %s\n", what);
    exit(1);
}

static void *need(size_t n, size_t size) {
    void *p = calloc(n, size);
    if (!p)
        die("out of memory");
    return p;
}

/* The row in `bits` with a scale for each `group`, at bin centres; returns |row - result|. */
static double quantize(const float *row, int64_t k, int64_t group, int bits, float *out) {
    double error = 0;
    float half = (float)(1 << (bits - 1));
    for (int64_t g = 0; g < k; g += group) {
        int64_t end = BL_MIN(g + group, k);
        float most = 0;
        for (int64_t i = g; i < end; i++)
            most = fmaxf(most, fabsf(row[i]));
        float step = most / (half - 0.5f);
        for (int64_t i = g; i < end; i++) {
            float q = step > 0 ? floorf(row[i] / step) : 0;
            out[i] = step * (fminf(fmaxf(q, -half), half - 1) + 0.5f);
            error += ((double)row[i] - (double)out[i]) * ((double)row[i] - (double)out[i]);
        }
    }
    return sqrt(error);
}

static int descending(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

static int ascending(const void *a, const void *b) { return -descending(a, b); }

/* Share of tokens whose upper end passes the floor that the lower ends of the others set. */
static void shares(const float *approx, const double *residual, double norm, int64_t n, float *low, float out[3]) {
    for (int64_t i = 0; i < n; i++)
        low[i] = (float)((double)approx[i] - residual[i] * norm);
    qsort(low, (size_t)n, sizeof *low, descending);
    double floors[3] = {(double)low[0], (double)low[0] + log(0.05), (double)low[BL_MIN(39, n - 1)]};
    for (int f = 0; f < 3; f++) {
        int64_t pass = 0;
        for (int64_t i = 0; i < n; i++)
            pass += (double)approx[i] + residual[i] * norm >= floors[f];
        out[f] = (float)pass / (float)n;
    }
}

static void measure(const bitlm_model *m, const float *x, int64_t n, int bits, int64_t group) {
    static const char *const rules[] = {"greedy", "min_p 0.05", "top_k 40"};
    int64_t k = m->hidden_size, vocab = m->vocab_size;
    const bl_linear *h = &m->head;
    float *row = need((size_t)k, sizeof *row), *few = need((size_t)k, sizeof *few), *low = need((size_t)vocab, sizeof *low);
    float *approx = need((size_t)(n * vocab), sizeof *approx), *share[3];
    double *residual = need((size_t)vocab, sizeof *residual), relative = 0;
    for (int64_t r = 0; r < vocab; r++) {
        double norm = 0;
        bl_decode_row(h->type, h->data, (uint64_t)vocab, (uint64_t)k, (uint64_t)r, row);
        residual[r] = quantize(row, k, group, bits, few);
        for (int64_t i = 0; i < k; i++)
            norm += (double)row[i] * (double)row[i];
        relative += norm > 0 ? residual[r] / sqrt(norm) / (double)vocab : 0;
        for (int64_t t = 0; t < n; t++)
            approx[t * vocab + r] = m->kernels->dot_f32(few, x + t * k, k);
    }
    for (int f = 0; f < 3; f++)
        share[f] = need((size_t)n, sizeof *share[f]);
    for (int64_t t = 0; t < n; t++) {
        float s[3];
        double norm = sqrt((double)m->kernels->dot_f32(x + t * k, x + t * k, k));
        shares(approx + t * vocab, residual, norm, vocab, low, s);
        for (int f = 0; f < 3; f++)
            share[f][t] = s[f];
    }
    for (int f = 0; f < 3; f++) {
        int64_t over = 0;
        for (int64_t t = 0; t < n; t++)
            over += share[f][t] > 0.05f;
        qsort(share[f], (size_t)n, sizeof *share[f], ascending);
        printf("%d bits, a scale per %-6lld error %.3f of |w|   %-11s stay: median %6.2f %%, over 5 %% at %5.1f %% of positions\n",
               bits, (long long)group, relative, rules[f], 100.0 * (double)share[f][n / 2], 100.0 * (double)over / (double)n);
        free(share[f]);
    }
    free(row), free(few), free(low), free(approx), free(residual);
}

int main(int argc, char **argv) {
    bitlm_error e = {.size = sizeof e};
    bitlm_options o;
    bitlm_model *m;
    bitlm_session *s;
    if (argc < 3)
        die("usage: bench_shortlist MODEL TEXT_FILE [TOKENS]");
    int64_t want = argc > 3 ? atoll(argv[3]) : 64;
    bitlm_options_init(&o);
    o.n_ctx = 512;
    o.threads = 2;
    if (want < 1 || want > 400)
        die("TOKENS must be 1 to 400");
    if (bitlm_model_open(argv[1], strlen(argv[1]), 0, NULL, NULL, &m, &e) || bitlm_session_open(m, &o, NULL, &s, &e))
        die(e.text);
    if (!m->head.data)
        die("the model has no head");
    static char text[8000];
    FILE *f = fopen(argv[2], "rb");
    if (!f)
        die("the text cannot be read");
    size_t length = fread(text, 1, sizeof text, f);
    fclose(f);
    int32_t *ids = need(sizeof text, sizeof *ids);
    size_t n_ids;
    if (bitlm_tokenize(m, text, length, BITLM_TOKENS_FRAME, NULL, ids, sizeof text, &n_ids, &e))
        die(e.text);
    int64_t n = BL_MIN(BL_MIN((int64_t)n_ids, (int64_t)s->context.max_batch), FIRST + want);
    if (n <= FIRST)
        die("the text is too short");
    if (bl_session_enter(s, 0, &e) || bl_session_prefill(s, ids, n, 0))
        die("the forward pass failed");
    float *x = need((size_t)(n * m->hidden_size), sizeof *x);
    for (int64_t t = 0; t < n; t++) {
        const float *from = s->context.x + t * m->hidden_size;
        if (m->output_norm)
            m->kernels->rmsnorm(from, m->output_norm, m->hidden_size, m->norm_eps, x + t * m->hidden_size);
        else
            memcpy(x + t * m->hidden_size, from, (size_t)m->hidden_size * sizeof *x);
    }
    bl_session_leave(s, BITLM_OK, NULL);
    for (int bits = 4; bits <= 8; bits += 4) {
        measure(m, x + FIRST * m->hidden_size, n - FIRST, bits, 32);
        measure(m, x + FIRST * m->hidden_size, n - FIRST, bits, m->hidden_size);
    }
    free(x), free(ids);
    bitlm_session_free(s);
    bitlm_model_free(m);
    return 0;
}
