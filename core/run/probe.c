/* probe.c - a view of a model with exchangeable matrices, and the divergence of its answers from the model's.
 *
 * The view shares everything with the model but the descriptions of its linear layers.  Each window of the text is one
 * batch, so a layer needs nothing of the layers before it but their output: that is kept for every layer, and a change
 * in layer 20 runs from layer 20 on.  Called by quantize.c. */
#include "run/probe.h"

#include <stdio.h>
#include <string.h>

#define ROWS 16 /* positions whose logits are held at once */
#define LAYER_PARTS 7

typedef struct window {
    int64_t first, n;   /* of ids, and of positions before it */
} window;

struct bl_probe {
    bl_alloc alloc;
    bitlm_model *model;     /* retained */
    bitlm_model view;
    bl_tensor embedding;    /* of the view */
    bitlm_session *session; /* over the view; entered */
    int32_t *ids;
    int64_t n, n_windows, scored;
    window *windows;
    float *p;               /* (n, vocab_size) probabilities */
    float *x;               /* (n_layers + 1, n, hidden_size): what each layer begins with, and the head; or NULL */
    double *entropy;        /* (n) */
    float *logits;          /* (ROWS, vocab_size) */
    int32_t *positions, *bases;
};

/* ---- the view ------------------------------------------------------------------------------------------ */

static bl_linear *part(bl_layer *l, int i) {
    bl_linear *parts[LAYER_PARTS] = {&l->q, &l->k, &l->v, &l->o, &l->gate, &l->up, &l->down};
    return parts[i];
}

static const char *const part_names[LAYER_PARTS] = {"attn_q", "attn_k", "attn_v", "attn_output",
                                                    "ffn_gate", "ffn_up", "ffn_down"};
static const char *const shared_names[3] = {"ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp"};
static const char *const expert_names[3] = {"ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"};

/* What a tensor's name stands for. */
typedef struct place {
    int64_t layer;      /* n_layers: the head */
    bl_linear *linear;  /* NULL: experts, or the embedding */
    int expert_part;    /* >= 0: that matrix of each expert */
    int embedding;
} place;

static int is_weight(const char *rest, const char *name) {
    size_t n = strlen(name);
    return strncmp(rest, name, n) == 0 && strcmp(rest + n, ".weight") == 0;
}

static int find_place(const bl_probe *probe, const char *name, place *out) {
    const bitlm_model *m = &probe->view;
    long long layer;
    int length = 0;
    *out = (place){.layer = 0, .expert_part = -1};
    if (strcmp(name, "token_embd.weight") == 0)
        return out->embedding = 1;
    if (strcmp(name, "output.weight") == 0) {
        out->layer = m->n_layers;
        out->linear = (bl_linear *)(uintptr_t)&m->head;
        return 1;
    }
    if (sscanf(name, "blk.%lld.%n", &layer, &length) != 1 || !length || layer < 0 || layer >= m->n_layers)
        return 0;
    out->layer = layer;
    for (int i = 0; i < LAYER_PARTS && !out->linear; i++)
        if (!(m->n_experts && i >= 4) && is_weight(name + length, part_names[i]))
            out->linear = part(&m->layers[layer], i);
    for (int i = 0; m->n_experts && i < 3; i++) {
        if (is_weight(name + length, shared_names[i]))
            out->linear = part(&m->layers[layer], 4 + i);
        if (is_weight(name + length, expert_names[i]))
            out->expert_part = i;
    }
    return out->linear || out->expert_part >= 0;
}

int64_t bl_probe_layer(const bl_probe *probe, const char *name) {
    char scale[80];
    place where;
    size_t n = strlen(name);
    /* A scale in a tensor of its own would have to follow the weights. */
    if (n > 7 && n < sizeof scale) {
        snprintf(scale, sizeof scale, "%.*s.scale", (int)(n - 7), name);
        if (bl_gguf_tensor(probe->model->gguf, scale))
            return -1;
    }
    return find_place(probe, name, &where) ? where.layer : -1;
}

bitlm_status bl_probe_set(bl_probe *probe, const bl_tensor *t, bitlm_error *error) {
    bitlm_model *m = &probe->view;
    place where;
    bitlm_status status = BITLM_OK;
    if (!find_place(probe, t->name, &where))
        return bl_error(error, BITLM_INTERNAL, "tensor %.60s cannot be exchanged", t->name);
    if (where.embedding) {
        probe->embedding = *t;
        if (!bl_gguf_tensor(m->gguf, "output.weight"))
            status = bl_linear_set(m, t, 0, &m->head, error);
    } else if (where.linear) {
        status = bl_linear_set(m, t, 0, where.linear, error);
    }
    for (int64_t e = 0; where.expert_part >= 0 && e < m->n_experts && !status; e++) {
        bl_tensor one = bl_expert_matrix(t, e);
        status = bl_linear_set(m, &one, 0, &m->layers[where.layer].experts[e * 3 + where.expert_part], error);
    }
    return status;
}

/* Layers and experts of the view's own.  widest: as if each took the most memory that a type can ask of a session. */
static void copy_layers(bl_probe *probe, int widest) {
    bitlm_model *m = &probe->view;
    const bl_layer *from = probe->model->layers;
    bl_linear *experts = (bl_linear *)(m->layers + m->n_layers);
    m->head = probe->model->head;
    for (int64_t i = 0; i < m->n_layers; i++, experts += 3 * m->n_experts) {
        m->layers[i] = from[i];
        if (m->n_experts) {
            memcpy(experts, from[i].experts, (size_t)m->n_experts * 3 * sizeof *experts);
            m->layers[i].experts = experts;
        }
    }
    for (int64_t i = 0; widest && i <= m->n_layers; i++) {
        for (int j = 0; j < LAYER_PARTS + 3 * (int)m->n_experts; j++) {
            bl_linear *l = i == m->n_layers   ? &m->head
                           : j < LAYER_PARTS ? part(&m->layers[i], j)
                                              : &m->layers[i].experts[j - LAYER_PARTS];
            l->kind = BL_LINEAR_GROUP;
            l->group = 16;
            l->n_terms = 2;
        }
    }
}

/* ---- running ---------------------------------------------------------------------------------------- */

static bl_batch batch_of(const bl_probe *probe, const window *w) {
    return (bl_batch){w->n, probe->ids + w->first, probe->positions, probe->bases};
}

/* Sum of p[i] * l[i], in an order that does not depend on the CPU. */
static double product(const float *p, const float *l, int64_t n) {
    double lane[8] = {0};
    for (int64_t i = 0; i < n; i++)
        lane[i & 7] += (double)p[i] * (double)l[i];
    return ((lane[0] + lane[1]) + (lane[2] + lane[3])) + ((lane[4] + lane[5]) + (lane[6] + lane[7]));
}

/* One position: keeps the distribution (base), or adds its divergence from the kept one. */
static void take_logits(bl_probe *probe, const window *w, int64_t i, const float *l, int base, double *divergence,
                        double *nll) {
    const bitlm_model *m = &probe->view;
    int64_t vocab = m->vocab_size, at = w->first + i;
    float *p = probe->p + at * vocab;
    float max, sum = m->kernels->exp_sum(l, vocab, &max);
    double log_sum = (double)max + bl_log((double)sum);
    if (base) {
        double total = 0;
        for (int64_t j = 0; j < vocab; j++) {
            double lp = (double)l[j] - log_sum, q = lp > -80 ? bl_exp(lp) : 0;
            p[j] = (float)q;
            total += (double)p[j] * lp;
        }
        probe->entropy[at] = total;
    } else {
        *divergence += BL_MAX(0.0, probe->entropy[at] - product(p, l, vocab) + log_sum);
    }
    if (i + 1 < w->n)
        *nll += log_sum - (double)l[probe->ids[at + 1]];
}

static bitlm_status run_head(bl_probe *probe, const window *w, int base, double *divergence, double *nll) {
    bl_context *c = &probe->session->context;
    bitlm_status status = BITLM_OK;
    for (int64_t i = 0; i < w->n && !status; i += ROWS) {
        int32_t rows[ROWS];
        int64_t n_rows = BL_MIN(ROWS, w->n - i);
        for (int64_t j = 0; j < n_rows; j++)
            rows[j] = (int32_t)(i + j);
        status = bl_forward_logits(c, rows, n_rows, probe->logits);
        for (int64_t j = 0; j < n_rows && !status; j++) {
            take_logits(probe, w, i + j, probe->logits + j * probe->view.vocab_size, base, divergence, nll);
            status = bl_poll_check(c->poll);
        }
    }
    return status;
}

/* Keeps what each layer begins with: layer after layer, each from the kept beginning of its own. */
static bitlm_status run_base(bl_probe *probe, const window *w) {
    const bitlm_model *m = &probe->view;
    bl_context *c = &probe->session->context;
    bl_batch batch = batch_of(probe, w);
    int64_t width = m->hidden_size;
    double ignored = 0;
    bitlm_status status = BITLM_OK;
    if (!probe->x)
        status = bl_forward_layers(c, &batch, 0, m->n_layers, NULL);
    for (int64_t i = 0; probe->x && i <= m->n_layers && !status; i++) {
        float *kept = probe->x + (i * probe->n + w->first) * width;
        status = bl_forward_layers(c, &batch, BL_MAX(i - 1, 0), i, i ? kept - probe->n * width : NULL);
        memcpy(kept, c->x, (size_t)(w->n * width) * sizeof *kept);
    }
    return status ? status : run_head(probe, w, 1, &ignored, &ignored);
}

bitlm_status bl_probe_run(bl_probe *probe, int64_t first, double *divergence, double *nll, bitlm_error *error) {
    bl_context *c = &probe->session->context;
    bitlm_status status = BITLM_OK;
    *divergence = *nll = 0;
    for (int64_t i = 0; i < probe->n_windows && !status; i++) {
        const window *w = &probe->windows[i];
        bl_batch batch = batch_of(probe, w);
        /* Before layer 0 the embedding itself may be another one. */
        const float *x = first ? probe->x + (first * probe->n + w->first) * probe->view.hidden_size : NULL;
        status = bl_forward_layers(c, &batch, first, probe->view.n_layers, x);
        if (!status)
            status = run_head(probe, w, 0, divergence, nll);
    }
    *divergence /= (double)probe->n;
    *nll /= (double)probe->scored;
    return status ? bl_poll_error(c->poll, error) : BITLM_OK;
}

/* ---- opening ---------------------------------------------------------------------------------------- */

/* count * size bytes, or NULL with status. */
static void *take(bl_probe *probe, int64_t count, size_t size, bitlm_status *status, bitlm_error *error) {
    void *p = *status ? NULL : bl_calloc(&probe->alloc, (size_t)count, size);
    if (!p && !*status)
        *status = bl_error(error, BITLM_NOMEM, "there is no memory for the distributions of %lld tokens over %lld",
                           (long long)probe->n, (long long)probe->view.vocab_size);
    return p;
}

int64_t bl_probe_window(const bitlm_model *model) { return BL_MIN(256, model->context_length); }

static bitlm_status open_session(bl_probe *probe, int32_t threads, const bitlm_host *host, bitlm_error *error) {
    bitlm_options options;
    bitlm_options_init(&options);
    options.threads = threads;
    options.n_ctx = (int32_t)bl_probe_window(probe->model);
    copy_layers(probe, 1);
    bitlm_status status = bitlm_session_open(&probe->view, &options, host, &probe->session, error);
    copy_layers(probe, 0);
    if (!status)
        status = bl_session_enter(probe->session, 0, error);
    return status;
}

bitlm_status bl_probe_open(bitlm_model *model, const int32_t *ids, int64_t n, int32_t threads, int keep_layers,
                           const bitlm_host *host, bl_probe **out, bitlm_error *error) {
    bl_alloc alloc = bl_alloc_from_host(host);
    bl_probe *probe = bl_calloc(&alloc, 1, sizeof *probe);
    bitlm_status status = BITLM_OK;
    if (!probe)
        return bl_error_nomem(error, sizeof *probe, "the probe");
    probe->alloc = alloc;
    probe->model = model;
    bitlm_model_retain(model);
    probe->view = *model;
    probe->view.references = 1; /* the probe's: sessions add theirs, and it never falls to 0 */
    probe->view.listed = 0;
    probe->view.layers = NULL;
    probe->n = n;
    int64_t size = bl_probe_window(model), width = model->hidden_size;
    probe->n_windows = (n + size - 1) / size;
    probe->scored = n - probe->n_windows;
    bitlm_model *m = &probe->view;
    size_t layer_bytes = sizeof *m->layers + 3 * (size_t)m->n_experts * sizeof(bl_linear);
    m->layers = take(probe, m->n_layers, layer_bytes, &status, error);
    probe->ids = take(probe, n, sizeof *probe->ids, &status, error);
    probe->windows = take(probe, probe->n_windows, sizeof *probe->windows, &status, error);
    probe->p = take(probe, n, (size_t)m->vocab_size * sizeof *probe->p, &status, error);
    if (keep_layers)
        probe->x = take(probe, n * (m->n_layers + 1), (size_t)width * sizeof *probe->x, &status, error);
    probe->entropy = take(probe, n, sizeof *probe->entropy, &status, error);
    probe->logits = take(probe, ROWS, (size_t)m->vocab_size * sizeof *probe->logits, &status, error);
    probe->positions = take(probe, size, sizeof *probe->positions, &status, error);
    probe->bases = take(probe, size, sizeof *probe->bases, &status, error);
    if (status)
        goto fail;
    memcpy(probe->ids, ids, (size_t)n * sizeof *ids);
    for (int64_t i = 0; i < size; i++)
        probe->positions[i] = (int32_t)i;
    for (int64_t i = 0; i < probe->n_windows; i++)
        probe->windows[i] = (window){.first = i * size, .n = BL_MIN(size, n - i * size)};
    probe->embedding = *model->token_embd;
    m->token_embd = &probe->embedding;
    status = open_session(probe, threads, host, error);
    for (int64_t i = 0; i < probe->n_windows && !status; i++) {
        status = run_base(probe, &probe->windows[i]);
        if (status)
            bl_poll_error(&probe->session->poll, error);
    }
    if (status)
        goto fail;
    *out = probe;
    return BITLM_OK;
fail:
    bl_probe_free(probe);
    return status;
}

void bl_probe_free(bl_probe *probe) {
    if (!probe)
        return;
    bl_alloc alloc = probe->alloc;
    if (probe->session && probe->session->busy)
        bl_session_leave(probe->session, BITLM_OK, NULL);
    bitlm_session_free(probe->session);
    void *blocks[] = {probe->view.layers, probe->ids,       probe->windows, probe->p,    probe->x,
                      probe->entropy,     probe->logits,    probe->positions, probe->bases};
    for (size_t i = 0; i < BL_COUNT(blocks); i++)
        bl_free(&alloc, blocks[i]);
    bitlm_model_free(probe->model);
    bl_free(&alloc, probe);
}

int64_t bl_probe_scored(const bl_probe *probe) { return probe->scored; }
bl_pool *bl_probe_pool(bl_probe *probe) { return probe->session->pool; }
bl_poll *bl_probe_poll(bl_probe *probe) { return &probe->session->poll; }
