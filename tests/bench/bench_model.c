/* bench_model.c - the whole model's speed and memory, beside the machine's limits in the same run.
 *
 *     bench_model [--tries N] [--tokens N] MODEL MEASURE...
 *
 * MODEL is a file or a built-in; each MEASURE one of
 *     limits                    bandwidth over the model's bytes and over as much anonymous memory, int8 peaks
 *     decode:T:KV:DEPTH         one token after the other, behind DEPTH tokens; T threads, KV f16, f32, int8 or int4
 *     sample:T:KV:DEPTH         the same with the default sampling in place of the likeliest token
 *     prefill:T:KV:N            a prompt of N tokens and the first token of the answer
 *     rows:T:N                  N texts together
 *     prefix:T                  a prompt that begins with the 200 tokens of the one before
 *     profile:T:N               the share of each operation in the wall time of a prompt of N tokens; 0: of decoding
 *     shares:T:N                the same of N texts together, in milliseconds a step
 *     embed:T                   256 sentences of 20 tokens in one call (an encoder)
 *     open                      model, session and id
 * The measures take turns, N tries (5) of each.  A line of JSON describes the model; then one a figure gives
 * median, least and greatest.
 *
 * By itself: `memory` prints what this process and a second one on the same model hold; `turns:T` answers each
 * line of standard input, "decode SECONDS" or "prefill N", with tokens a second, and "limit" with those that decoding
 * would reach if only reading the weights took time; `texts:T` embeds the lines up to an empty one and answers with
 * texts a second.
 *
 * What lies in the cache before a depth is the keys and values of 256 tokens over and over: as fast as any, and
 * there at once.  Called by tests/bench/bench_models.py and bench_peers.py,
 * which make the files and the tables. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "kernels/kernels.h"
#include "kernels/limits.h"
#include "run/run.h"

#define MOST_MEASURES 64
#define MOST_SERIES 16
#define MOST_TRIES 31
#define MOST_LATENCIES (MOST_TRIES * 512)
#define FILL 256
#define ROW_CONTEXT 256
#define PREFIX 200
#define SENTENCES 256
#define SENTENCE_TOKENS 20
#define ANON_MOST ((size_t)2 << 30)

typedef struct series {
    const char *name; /* of what, with its unit */
    double *values;
    int n, room;
} series;

typedef struct measure {
    const char *text; /* as given */
    char kind[12];
    int threads, n;   /* n: depth, tokens or rows */
    int kv;
    bitlm_session *session;
    int filled;       /* positions of the session's cache that hold something */
    series series[MOST_SERIES];
} measure;

static bitlm_model *model;
static const char *model_path;
static int n_tries = 5, n_tokens = 64;
static measure measures[MOST_MEASURES];
static int n_measures;

static void die(const char *what, const char *why) {
    fprintf(stderr, "bench_model: %s: %s\n", what, why);
    exit(1);
}

static void must(bitlm_status status, const bitlm_error *why) {
    if (status != BITLM_OK)
        die(bitlm_status_name(status), why->text);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* ---- figures ------------------------------------------------------------------------------ */

static void add(measure *m, const char *name, double value) {
    series *s = m->series;
    while (s->name && strcmp(s->name, name) != 0)
        s++;
    if (s - m->series >= MOST_SERIES)
        die(name, "too many series");
    s->name = name;
    if (s->n == s->room) {
        s->room = s->room ? 2 * s->room : 32;
        s->values = realloc(s->values, (size_t)s->room * sizeof *s->values);
        if (!s->values)
            die(name, "out of memory");
    }
    s->values[s->n++] = value;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_measure(const measure *m) {
    for (const series *s = m->series; s < m->series + MOST_SERIES && s->name; s++) {
        qsort(s->values, (size_t)s->n, sizeof *s->values, ascending);
        printf("{\"measure\":\"%s\",\"of\":\"%s\",\"median\":%.6g,\"min\":%.6g,\"max\":%.6g,\"p99\":%.6g,\"n\":%d}\n",
               m->text, s->name, s->values[s->n / 2], s->values[0], s->values[s->n - 1], s->values[(s->n * 99 - 1) / 100],
               s->n);
    }
}

/* ---- the model ------------------------------------------------------------------------------ */

static void open_model(void) {
    bitlm_error why = {.size = sizeof why};
    must(bitlm_model_open(model_path, strlen(model_path), 0, NULL, NULL, &model, &why), &why);
}

static bitlm_session *open_session(int threads, int kv, int n_ctx, int rows) {
    bitlm_error why = {.size = sizeof why};
    bitlm_options o;
    bitlm_session *s;
    bitlm_options_init(&o);
    o.threads = threads;
    o.kv_type = kv;
    o.n_ctx = n_ctx;
    o.rows = rows;
    must(bitlm_session_open(model, &o, NULL, &s, &why), &why);
    return s;
}

/* Multiplications and additions of the layers' matrices for a token, without attention and head. */
static double layer_ops(void) {
    double ops = 0;
    for (uint64_t i = 0; i < bl_gguf_n_tensors(model->gguf); i++) {
        const bl_tensor *t = bl_gguf_tensor_at(model->gguf, i);
        if (t->n_dims == 2 && (strncmp(t->name, "blk.", 4) == 0 || strncmp(t->name, "pool", 4) == 0))
            ops += 2.0 * (double)t->dims[0] * (double)t->dims[1];
    }
    return ops;
}

static double kv_per_token(int32_t type) {
    double cells = 2.0 * (double)(model->n_layers * model->n_kv_heads);
    int32_t bits = bl_kv_bits(type);
    return cells * ((double)model->head_dim * bits / 8 + (bits <= 8 ? 4 : 0));
}

static bitlm_memory_parts parts_of_model(void) {
    bitlm_memory_parts p = {.size = sizeof p};
    bitlm_error why = {.size = sizeof why};
    bitlm_options o;
    bitlm_options_init(&o);
    o.n_ctx = 16;
    must(bitlm_memory(model, &o, &p, &why), &why);
    return p;
}

static uint64_t head_bytes(const bitlm_memory_parts *p) { return p->head_bytes ? p->head_bytes : p->embedding_bytes; }

/* What a token has to read, without the cache. */
static uint64_t token_bytes(const bitlm_memory_parts *p) { return p->layer_bytes + p->norm_bytes + head_bytes(p); }

static void describe(void) {
    bitlm_memory_parts p = parts_of_model();
    printf("{\"file_bytes\":%llu,\"parameters\":%llu,\"token_bytes\":%llu,\"head_bytes\":%llu,\"token_ops\":%.0f,"
           "\"kv_f16\":%.0f,\"kv_int8\":%.0f,\"weight_type\":\"%s\",\"kernels\":\"%s\",\"context\":%lld}\n",
           (unsigned long long)p.file_bytes, (unsigned long long)p.n_parameters,
           (unsigned long long)token_bytes(&p), (unsigned long long)head_bytes(&p), layer_ops(), kv_per_token(BITLM_KV_F16),
           kv_per_token(BITLM_KV_INT8), model->weight_type, model->kernels->name, (long long)model->context_length);
}

/* ---- prompts ---------------------------------------------------------------------------------- */

static const char *const words[] = {"the", "of", "and", "to", "in", "is", "it", "you", "that", "he", "was", "for"};
#define N_WORDS ((int)(sizeof words / sizeof *words))

static size_t count_tokens(const char *text, size_t length) {
    size_t n = 0;
    bitlm_error why = {.size = sizeof why};
    bitlm_status status = bitlm_tokenize(model, text, length, BITLM_TOKENS_FRAME, NULL, NULL, 0, &n, &why);
    if (status != BITLM_LIMIT)
        must(status, &why);
    return n;
}

/* A text of n tokens, the frame's included, or of a few less where words do not come out even; the words begin with
 * number `first`.  The caller frees it. */
static char *make_prompt(int n, int first) {
    char *text = malloc((size_t)n * 5 + 32);
    size_t length = 0, fits = 0;
    int step = BL_MAX(n / 2, 1);
    if (!text)
        die("a prompt", "out of memory");
    for (int i = 0; step; step = step > 1 ? step / 2 : 0) /* halving the step tokenizes a text but a few times */
        for (;;) {
            for (int j = 0; j < step; j++)
                length += (size_t)sprintf(text + length, "%s%s", i + j ? " " : "", words[(first + i + j) % N_WORDS]);
            if (length > (size_t)n * 5 || count_tokens(text, length) > (size_t)n) {
                length = fits;
                break;
            }
            fits = length;
            i += step;
        }
    text[fits] = 0;
    return text;
}

/* ---- generating -------------------------------------------------------------------------------- */

typedef struct outcome {
    double first, all;   /* seconds to the first token, and in all */
    double together;     /* seconds from when every row had its first token */
    int made;            /* tokens after that */
} outcome;

/* latency_of (may be NULL) gets the milliseconds of each token after the first. */
static outcome generate(bitlm_session *s, const bitlm_text *prompts, int n, int tokens, int greedy, measure *latency_of) {
    bitlm_error why = {.size = sizeof why};
    bitlm_piece piece = {.size = sizeof piece};
    bitlm_options o;
    outcome out = {0};
    int started = 0, made = 0;
    double last = 0, ready = 0;
    bitlm_options_init(&o);
    o.max_tokens = tokens;
    o.ignore_eos = 1;
    if (greedy) {
        o.temperature = 0;
        o.repeat_penalty = 1;
    }
    double begin = now();
    bitlm_status status = bitlm_generate_start(s, prompts, (size_t)n, 0, &o, &why);
    must(status, &why);
    while ((status = bitlm_generate_next(s, &piece, &why)) == BITLM_OK) {
        double t = now() - begin;
        if (piece.token < 0)
            continue;
        if (++made == 1)
            out.first = t;
        else if (latency_of)
            add(latency_of, "token ms", (t - last) * 1e3);
        last = t;
        if (started == n)
            out.made++;
        else if (piece.n == 0 && ++started == n)
            ready = t;
    }
    if (status != BITLM_DONE)
        must(status, &why);
    out.all = last;
    out.together = last - ready;
    return out;
}

static bitlm_text text_of(const char *text) { return (bitlm_text){text, strlen(text)}; }

/* Puts something into the first n positions of the cache. */
static void fill_cache(measure *m, int n) {
    bitlm_session *s = m->session;
    bitlm_error why = {.size = sizeof why};
    int32_t ids[FILL];
    int count = BL_MIN(n, FILL);
    if (n <= m->filled)
        return;
    for (int i = 0; i < FILL; i++)
        ids[i] = (i * 37 + 300) % (int32_t)model->vocab_size;
    must(bl_session_enter(s, 0, &why), &why);
    bitlm_status status = bl_session_prefill(s, ids, count, 0);
    for (int at = FILL; at < n && !status; at += FILL)
        status = bl_kv_copy(&s->context, 0, at, BL_MIN(FILL, n - at));
    must(bl_session_leave(s, status, &why), &why);
    m->filled = n;
}

/* Makes the session believe that it has just run the prompt but for its last token. */
static void believe(bitlm_session *s, const char *prompt) {
    bitlm_error why = {.size = sizeof why};
    size_t n;
    must(bitlm_tokenize(model, prompt, strlen(prompt), BITLM_TOKENS_FRAME, NULL, s->tokens, (size_t)s->context.kv.capacity,
                        &n, &why), &why);
    s->n_cached = (int64_t)n - 1;
}

static void run_decode(measure *m) {
    char *prompt = make_prompt(BL_MAX(m->n, 4), 0);
    bitlm_text text = text_of(prompt);
    fill_cache(m, BL_MAX(m->n, 4));
    believe(m->session, prompt);
    outcome out = generate(m->session, &text, 1, n_tokens + 1, strcmp(m->kind, "decode") == 0, m);
    add(m, "tokens/s", out.made / out.together);
    free(prompt);
}

static void run_prefill(measure *m) {
    char *prompt = make_prompt(m->n, 0);
    bitlm_text text = text_of(prompt);
    m->session->n_cached = 0;
    outcome out = generate(m->session, &text, 1, 1, 1, NULL);
    add(m, "first token ms", out.first * 1e3);
    add(m, "tokens/s", (double)count_tokens(prompt, text.length) / out.first);
    free(prompt);
}

static void run_rows(measure *m) {
    char *prompts[BL_MAX_ROWS];
    bitlm_text texts[BL_MAX_ROWS];
    for (int i = 0; i < m->n; i++) {
        prompts[i] = make_prompt(8, i);
        texts[i] = text_of(prompts[i]);
    }
    m->session->n_cached = 0;
    outcome out = generate(m->session, texts, m->n, BL_MIN(n_tokens, ROW_CONTEXT - 16), 1, NULL);
    add(m, "tokens/s", out.made / out.together);
    for (int i = 0; i < m->n; i++)
        free(prompts[i]);
}

static void run_prefix(measure *m) {
    char *common = make_prompt(PREFIX, 0), *later[2], *alone = make_prompt(8, 5);
    double first[2];
    for (int i = 0; i < 2; i++)
        if (asprintf(&later[i], "%s %s %s", common, words[3 + i], alone) < 0)
            die("a prompt", "out of memory");
    m->session->n_cached = 0;
    for (int i = 0; i < 2; i++) {
        bitlm_text text = text_of(later[i]);
        first[i] = generate(m->session, &text, 1, 1, 1, NULL).first;
    }
    m->session->n_cached = 0;
    bitlm_text text = text_of(later[1] + strlen(common) + 1);
    double bare = generate(m->session, &text, 1, 1, 1, NULL).first;
    add(m, "first ms", first[0] * 1e3);
    add(m, "later ms", first[1] * 1e3);
    add(m, "without it ms", bare * 1e3);
    add(m, "later / first", first[1] / first[0]);
    /* What the common part costs, the part of its own taken off. */
    add(m, "share of first", BL_MAX(first[1] - bare, 0) / (first[0] - bare));
    free(common);
    free(later[0]);
    free(later[1]);
    free(alone);
}

static void run_profile(measure *m) {
    char *prompt = make_prompt(BL_MAX(m->n, 4), 0);
    bitlm_text text = text_of(prompt);
    bl_profile *profile = bl_session_profile(m->session);
    double sum = 0;
    m->session->n_cached = 0;
    memset(profile->seconds, 0, sizeof profile->seconds);
    profile->on = 1;
    double all = generate(m->session, &text, 1, m->n ? 1 : n_tokens, 1, NULL).all;
    profile->on = 0;
    for (int op = 0; op < BL_OP_COUNT; op++) {
        /* What is in no operation counts for itself, not for the sum. */
        sum += op == BL_OP_OTHER ? 0 : profile->seconds[op];
        add(m, bl_op_name(op), 100 * profile->seconds[op] / all);
    }
    add(m, "sum", 100 * sum / all);
    free(prompt);
}

static void run_shares(measure *m) {
    char *prompts[BL_MAX_ROWS];
    bitlm_text texts[BL_MAX_ROWS];
    bl_profile *profile = bl_session_profile(m->session);
    double shortest[BL_OP_COUNT], longest[BL_OP_COUNT];
    int steps = BL_MIN(n_tokens, ROW_CONTEXT - 16);
    for (int i = 0; i < m->n; i++) {
        prompts[i] = make_prompt(8, i);
        texts[i] = text_of(prompts[i]);
    }
    profile->on = 1;
    for (int turn = 0; turn < 2; turn++) { /* what two lengths of text differ by is free of the prompts */
        double *seconds = turn ? longest : shortest;
        m->session->n_cached = 0;
        memset(profile->seconds, 0, sizeof profile->seconds);
        generate(m->session, texts, m->n, turn ? steps : 2, 1, NULL);
        memcpy(seconds, profile->seconds, sizeof longest);
    }
    profile->on = 0;
    for (int op = 0; op < BL_OP_COUNT; op++)
        add(m, bl_op_name(op), (longest[op] - shortest[op]) * 1e3 / BL_MAX(steps - 2, 1));
    for (int i = 0; i < m->n; i++)
        free(prompts[i]);
}

static void run_embed(measure *m) {
    bitlm_error why = {.size = sizeof why};
    static char *sentences[SENTENCES];
    static bitlm_text texts[SENTENCES];
    size_t tokens = 0, stride = (size_t)model->embedding_size * sizeof(float);
    float *out = malloc(SENTENCES * stride);
    if (!out)
        die("embeddings", "out of memory");
    for (int i = 0; i < SENTENCES; i++) {
        if (!sentences[i])
            sentences[i] = make_prompt(SENTENCE_TOKENS, i);
        texts[i] = text_of(sentences[i]);
        tokens += count_tokens(texts[i].data, texts[i].length);
    }
    double begin = now();
    must(bitlm_embed_batch(m->session, texts, SENTENCES, BITLM_EMBED_F32, NULL, out, stride, NULL, &why), &why);
    double t = now() - begin;
    add(m, "texts/s", SENTENCES / t);
    add(m, "tokens/s", (double)tokens / t);
    free(out);
}

/* The one measure during which no session of another may hold the model, so it is run by itself. */
static void run_open(measure *m) {
    bitlm_error why = {.size = sizeof why};
    uint8_t id[16];
    double begin = now();
    open_model();
    double opened = now();
    bitlm_session *s = open_session(2, BITLM_KV_F16, 0, 0);
    double session = now();
    must(bitlm_model_id(model, NULL, id, &why), &why);
    double first_id = now();
    must(bitlm_model_id(model, NULL, id, &why), &why);
    double again = now();
    add(m, "model ms", (opened - begin) * 1e3);
    add(m, "session ms", (session - opened) * 1e3);
    add(m, "id ms", (first_id - session) * 1e3);
    add(m, "id again ms", (again - first_id) * 1e3);
    bitlm_session_free(s);
    bitlm_model_free(model);
    model = NULL;
}

/* As many bytes as the model's file has, up to ANON_MOST, and their number. */
static uint8_t *anonymous_memory(size_t *bytes) {
    static uint8_t *anonymous;
    *bytes = BL_MIN((size_t)model->mapping.size, ANON_MOST) / 4096 * 4096;
    if (!anonymous) {
        anonymous = mmap(NULL, *bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (anonymous == MAP_FAILED)
            die("the limits", "out of memory");
        memset(anonymous, 1, *bytes);
    }
    return anonymous;
}

static void run_limits(measure *m) {
    static const char *const names[2][2 + LIMIT_N_INT8] = {
        {"mapped GB/s 1", "anonymous GB/s 1", "maddubs GOP/s 1", "vnni256 GOP/s 1", "vnni512 GOP/s 1", "amx GOP/s 1"},
        {"mapped GB/s 2", "anonymous GB/s 2", "maddubs GOP/s 2", "vnni256 GOP/s 2", "vnni512 GOP/s 2", "amx GOP/s 2"}};
    size_t bytes;
    const uint8_t *anonymous = anonymous_memory(&bytes);
    for (int threads = 1; threads <= 2; threads++) {
        add(m, names[threads - 1][0], limit_read_threads(model->mapping.data, model->mapping.size, threads));
        add(m, names[threads - 1][1], limit_read_threads(anonymous, bytes, threads));
        for (int i = 0; i < LIMIT_N_INT8; i++) {
            double peak = limit_int8_threads(i, threads);
            if (peak > 0)
                add(m, names[threads - 1][2 + i], peak);
        }
    }
}

/* ---- by themselves ------------------------------------------------------------------------------ */

/* kB of a line of /proc/self/smaps_rollup. */
static double rollup(const char *name) {
    char line[200];
    double kb = 0;
    FILE *f = fopen("/proc/self/smaps_rollup", "r");
    if (!f)
        die("/proc/self/smaps_rollup", "cannot be read");
    while (fgets(line, sizeof line, f))
        if (strncmp(line, name, strlen(name)) == 0)
            kb = atof(line + strlen(name));
    fclose(f);
    return kb;
}

/* Uses the model with a full cache, prints what this process holds, and lets a second one do the same meanwhile. */
static int print_memory(int second) {
    bitlm_memory_parts p = {.size = sizeof p};
    bitlm_error why = {.size = sizeof why};
    bitlm_options o;
    struct rusage usage;
    bitlm_options_init(&o);
    o.n_ctx = 512;
    o.threads = 2;
    open_model();
    must(bitlm_memory(model, &o, &p, &why), &why);
    bitlm_session *s = open_session(o.threads, o.kv_type, o.n_ctx, 0);
    char *prompt = make_prompt(o.n_ctx - 16, 0);
    bitlm_text text = text_of(prompt);
    generate(s, &text, 1, 16, 1, NULL);
    getrusage(RUSAGE_SELF, &usage);
    double private_kb = rollup("Private_Clean:") + rollup("Private_Dirty:");
    if (!second) { /* its pages count as this process's own until the second one shares them */
        char command[4400], line[1000];
        snprintf(command, sizeof command, "/proc/%d/exe '%s' memory-second", (int)getpid(), model_path);
        FILE *f = popen(command, "r");
        if (!f || !fgets(line, sizeof line, f))
            die("a second process", "does not run");
        fputs(line, stdout);
        if (pclose(f) != 0)
            die("a second process", "failed");
    }
    printf("{\"measure\":\"memory\",\"process\":%d,\"peak_rss\":%.0f,\"rss\":%.0f,\"pss\":%.0f,\"private\":%.0f,\"kv\":%llu,"
           "\"planned_session\":%llu}\n", second ? 2 : 1, (double)usage.ru_maxrss * 1024, rollup("Rss:") * 1024,
           rollup("Pss:") * 1024, private_kb * 1024, (unsigned long long)p.kv_bytes,
           (unsigned long long)(p.kv_bytes + p.scratch_bytes));
    free(prompt);
    bitlm_session_free(s);
    bitlm_model_free(model);
    return 0;
}

/* Tokens a second if nothing but reading the weights and the head took time. */
static double decode_limit(int threads) {
    size_t bytes;
    const uint8_t *anonymous = anonymous_memory(&bytes);
    bitlm_memory_parts p = parts_of_model();
    double mapped = limit_read_threads(model->mapping.data, model->mapping.size, threads);
    double other = limit_read_threads(anonymous, bytes, threads);
    return BL_MAX(mapped, other) * 1e9 / (double)token_bytes(&p);
}

/* Does what each line of standard input says and answers with a rate, so that somebody can take turns. */
static int take_turns(int threads) {
    char line[100];
    measure m = {.text = "turns", .kind = "decode", .threads = threads};
    open_model();
    m.session = open_session(threads, BITLM_KV_F16, 640, 0);
    printf("ready\n");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        double seconds, rate;
        char *prompt;
        if (sscanf(line, "prefill %d", &m.n) == 1 && m.n > 0 && m.n < 640) {
            prompt = make_prompt(m.n, 0);
            bitlm_text text = text_of(prompt);
            m.session->n_cached = 0;
            rate = m.n / generate(m.session, &text, 1, 1, 1, NULL).first;
        } else if (strcmp(line, "limit\n") == 0) {
            prompt = NULL;
            rate = decode_limit(threads);
        } else {
            double begin = now(), spent = 0;
            int made = 0;
            if (sscanf(line, "decode %lf", &seconds) != 1)
                seconds = 0;
            prompt = make_prompt(4, 0);
            bitlm_text text = text_of(prompt);
            do {
                outcome out = generate(m.session, &text, 1, n_tokens + 1, 1, NULL);
                made += out.made;
                spent += out.together;
            } while (now() - begin < seconds);
            rate = made / spent;
        }
        free(prompt);
        printf("%.6g\n", rate);
        fflush(stdout);
    }
    bitlm_session_free(m.session);
    bitlm_model_free(model);
    return 0;
}

/* Embeds the lines up to an empty one in one call and answers with the texts a second. */
static int embed_texts(int threads) {
    bitlm_error why = {.size = sizeof why};
    static char lines[SENTENCES + 1][1000];
    static bitlm_text texts[SENTENCES + 1];
    open_model();
    size_t n = 0, stride = (size_t)model->embedding_size * sizeof(float);
    bitlm_session *s = open_session(threads, BITLM_KV_F16, 0, 0);
    float *out = malloc(SENTENCES * stride);
    if (!out)
        die("embeddings", "out of memory");
    while (fgets(lines[n], sizeof lines[n], stdin)) {
        size_t length = strcspn(lines[n], "\n");
        texts[n] = (bitlm_text){lines[n], length};
        if (length) {
            if (++n > SENTENCES)
                die("texts", "there are too many in one call");
            continue;
        }
        double begin = now();
        must(bitlm_embed_batch(s, texts, n, BITLM_EMBED_F32, NULL, out, stride, NULL, &why), &why);
        printf("%.6g\n", (double)n / (now() - begin));
        fflush(stdout);
        n = 0;
    }
    free(out);
    bitlm_session_free(s);
    bitlm_model_free(model);
    return 0;
}

/* ---- taking turns ------------------------------------------------------------------------------- */

static const struct {
    const char *kind;
    int numbers; /* threads and n: 0 none, 1 threads, 2 both */
    int kv;      /* a KV type stands between them */
    void (*run)(measure *m);
} kinds[] = {
    {"limits", 0, 0, run_limits}, {"decode", 2, 1, run_decode}, {"sample", 2, 1, run_decode}, {"prefill", 2, 1, run_prefill},
    {"rows", 2, 0, run_rows},     {"prefix", 1, 0, run_prefix}, {"profile", 2, 0, run_profile}, {"shares", 2, 0, run_shares}, {"embed", 1, 0, run_embed},   {"open", 0, 0, run_open},
};

static int kind_of(const measure *m) {
    for (int i = 0; i < (int)BL_COUNT(kinds); i++)
        if (strcmp(kinds[i].kind, m->kind) == 0)
            return i;
    die(m->text, "there is no such measure");
    return -1;
}

/* Several texts of ROW_CONTEXT tokens each. */
static int of_rows(const measure *m) { return strcmp(m->kind, "rows") == 0 || strcmp(m->kind, "shares") == 0; }

static measure parse(const char *text) {
    static const char *const kv_names[] = {"f16", "f32", "int8", "int4"};
    measure m = {.text = text};
    char kv[8] = "f16";
    sscanf(text, "%11[a-z]", m.kind);
    int kind = kind_of(&m), got = 1;
    if (kinds[kind].kv)
        got = sscanf(text, "%*[a-z]:%d:%7[a-z0-9]:%d", &m.threads, kv, &m.n) - 1;
    else if (kinds[kind].numbers)
        got = sscanf(text, "%*[a-z]:%d:%d", &m.threads, &m.n);
    else
        got = 0;
    for (m.kv = 0; m.kv < 4 && strcmp(kv, kv_names[m.kv]) != 0; m.kv++)
        ;
    if (got != kinds[kind].numbers || m.kv == 4 || (m.threads < 1 && kinds[kind].numbers) || m.threads > 64 || m.n < 0 ||
        (of_rows(&m) && (m.n < 1 || m.n > BL_MAX_ROWS)))
        die(text, "not written as this measure is");
    return m;
}

/* A session for each measure, but one for all that want the same. */
static void open_sessions(void) {
    int longest = 64;
    for (int i = 0; i < n_measures; i++)
        if (!of_rows(&measures[i]))
            longest = BL_MAX(longest, measures[i].n + n_tokens + 16);
    for (int i = 0; i < n_measures; i++) {
        measure *m = &measures[i];
        int alone = of_rows(m) || strcmp(m->kind, "prefix") == 0 || strcmp(m->kind, "embed") == 0;
        if (!kinds[kind_of(m)].numbers)
            continue;
        for (int j = 0; j < i && !alone; j++)
            if (measures[j].threads == m->threads && measures[j].kv == m->kv && measures[j].session &&
                measures[j].session->n_ctx == longest)
                m->session = measures[j].session;
        if (!m->session)
            m->session = open_session(m->threads, m->kv, of_rows(m)                       ? ROW_CONTEXT
                                                         : strcmp(m->kind, "prefix") == 0 ? 512
                                                         : strcmp(m->kind, "embed") == 0  ? 0
                                                                                          : longest,
                                      of_rows(m) ? BL_MAX_ROWS : 0);
    }
}

int main(int argc, char **argv) {
    int at = 1;
    while (at + 1 < argc && strncmp(argv[at], "--", 2) == 0) {
        int *what = strcmp(argv[at], "--tries") == 0 ? &n_tries : strcmp(argv[at], "--tokens") == 0 ? &n_tokens : NULL;
        if (!what)
            die(argv[at], "there is no such option");
        *what = atoi(argv[at + 1]);
        at += 2;
    }
    if (argc - at < 2 || argc - at - 1 > MOST_MEASURES || n_tries < 1 || n_tries > MOST_TRIES || n_tokens < 2) {
        fprintf(stderr, "usage: bench_model [--tries 1..%d] [--tokens N] MODEL MEASURE...\n", MOST_TRIES);
        return 2;
    }
    model_path = argv[at++];
    if (strncmp(argv[at], "memory", 6) == 0)
        return print_memory(strcmp(argv[at], "memory-second") == 0);
    if (strncmp(argv[at], "turns:", 6) == 0)
        return take_turns(BL_MAX(atoi(argv[at] + 6), 1));
    if (strncmp(argv[at], "texts:", 6) == 0)
        return embed_texts(BL_MAX(atoi(argv[at] + 6), 1));
    for (; at < argc; at++)
        measures[n_measures++] = parse(argv[at]);
    int opening = strcmp(measures[0].kind, "open") == 0;
    for (int i = 0; i < n_measures; i++)
        if ((strcmp(measures[i].kind, "open") == 0) != opening)
            die(measures[i].text, "open goes by itself");
    open_model();
    describe();
    fflush(stdout);
    if (opening)
        bitlm_model_free(model);
    else
        open_sessions();
    for (int try = 0; try < n_tries; try++)
        for (int i = 0; i < n_measures; i++)
            kinds[kind_of(&measures[i])].run(&measures[i]);
    for (int i = 0; i < n_measures; i++)
        print_measure(&measures[i]);
    return 0;
}
