/* test_shortlist.c - option head = shortlist gives the full head's tokens and logits, bit for bit, and reads few rows.
 *
 * Models: the built-in story with heads of F16, BF16 and F32, random ones, and heads made to be hard: equal rows, rows of great
 * and of tiny norm, zeros, weights of one group far above the others.  Checked: the bound of every row, the choice under every
 * way of sampling with penalties, masks of answers, rows together and guesses, that the shortlist is really used, the full
 * head where too much stays, and what happens when memory or the caller's patience runs out. */
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/rng.h"
#include "builtin/builtin.h"
#include "cli/synth.h"
#include "run/run.h"
#include "test_support.h"

#define MOST 6   /* texts together */
#define ROOM 64  /* tokens of each */

static const int32_t head_types[] = {BL_TYPE_F16, BL_TYPE_BF16, BL_TYPE_F32};

/* ---- a host that counts, fails and stops ------------------------------------------------------ */

typedef struct host_state {
    int n, fail_at, polls, stop_at;
    size_t bytes, live;
} host_state;

static void *host_alloc(void *context, size_t size) {
    host_state *h = context;
    if (++h->n == h->fail_at)
        return NULL;
    size_t *p = aligned_alloc(64, (size + 64 + 63) / 64 * 64);
    p[0] = size;
    h->bytes += size;
    h->live++;
    return p + 8;
}

static void host_release(void *context, void *memory) {
    host_state *h = context;
    size_t *p = (size_t *)memory - 8;
    h->bytes -= p[0];
    h->live--;
    free(p);
}

static int32_t host_poll(void *context) {
    host_state *h = context;
    return ++h->polls == h->stop_at;
}

static bitlm_host host_of(host_state *h) {
    return (bitlm_host){.size = sizeof(bitlm_host), .context = h, .alloc = host_alloc, .release = host_release, .poll = host_poll};
}

/* ---- models ------------------------------------------------------------------------------------- */

/* story, or a random model of a shape, with a head of a type; private, so that its head may be exchanged. */
static bitlm_model *open_private(const char *shape, int32_t head_type, host_state *h) {
    char path[] = "/tmp/bitlm_test_XXXXXX.gguf";
    bitlm_error why = {.size = sizeof why};
    bitlm_host host = host_of(h);
    bitlm_model *m;
    int fd = mkstemps(path, 5);
    ck_assert_int_ge(fd, 0);
    close(fd);
    bl_alloc alloc = bl_alloc_from_host(NULL);
    bl_synth_spec spec = {.shape = shape, .type = BL_TYPE_I2_S, .embd_type = head_type, .seed = 5, .context = 512};
    if (strcmp(shape, "story") == 0) {
        bitlm_convert_options o;
        char source[] = "/tmp/bitlm_test_XXXXXX.gguf";
        const bl_builtin *story = bl_builtin_find("story", 5);
        int from = mkstemps(source, 5);
        ck_assert_int_eq(write(from, story->data, story->size), (ssize_t)story->size);
        close(from);
        bitlm_convert_options_init(&o);
        const char *name = bl_tensor_type_find(head_type)->name;
        o.embedding_type = (bitlm_text){name, strlen(name)};
        ck_assert_msg(bitlm_convert(source, strlen(source), path, strlen(path), &o, NULL, &why) == BITLM_OK, "%s", why.text);
        unlink(source);
    } else {
        ck_assert_msg(bl_synth(&spec, path, &alloc, NULL, NULL, NULL, &why) == BITLM_OK, "%s", why.text);
    }
    bitlm_options options;
    bitlm_options_init(&options);
    options.load = BITLM_LOAD_COPY;
    ck_assert_msg(bitlm_model_open(path, strlen(path), 0, &options, &host, &m, &why) == BITLM_OK, "%s", why.text);
    unlink(path);
    ck_assert_int_eq(m->head.type, head_type);
    return m;
}

static bitlm_session *open_with(bitlm_model *m, const char *json, int32_t head) {
    bitlm_options o;
    bitlm_error why = {.size = sizeof why};
    bitlm_session *s;
    bitlm_options_init(&o);
    ck_assert_msg(bitlm_options_json(&o, json, strlen(json), &why) == BITLM_OK, "%s", why.text);
    o.head = head;
    ck_assert_msg(bitlm_session_open(m, &o, NULL, &s, &why) == BITLM_OK, "%s", why.text);
    return s;
}

/* ---- answers ------------------------------------------------------------------------------------ */

typedef struct answer {
    int32_t ids[ROOM], n, finish;
    float logits[ROOM]; /* of the chosen, after penalties, as the sampler saw them */
    char text[2000];
    size_t length;
} answer;

typedef struct count {
    uint64_t settled, kept, whole;
} count;

/* All rows to their end; the sampler's logits are read behind its back. */
static bitlm_status run(bitlm_session *s, const bitlm_text *prompts, size_t n, const char *json, answer *out, count *counted) {
    bitlm_options o;
    bitlm_error why = {.size = sizeof why};
    bitlm_piece piece = {.size = sizeof piece};
    memset(out, 0, n * sizeof *out);
    bitlm_options_init(&o);
    ck_assert_msg(bitlm_options_json(&o, json, strlen(json), &why) == BITLM_OK, "%s", why.text);
    bitlm_status status = bitlm_generate_start(s, prompts, n, 0, &o, &why);
    while (!status && (status = bitlm_generate_next(s, &piece, &why)) == BITLM_OK) {
        answer *a = &out[piece.row];
        if (piece.token >= 0) {
            ck_assert_int_lt(a->n, ROOM);
            for (int64_t i = 0; i < s->gen.n_rows; i++)
                if (s->gen.rows[i].number == piece.row && s->gen.rows[i].n_generated)
                    a->logits[a->n] = (s->gen.rows[i].logits - s->model->vocab_size)[piece.token];
            a->ids[a->n++] = piece.token;
        }
        if (piece.text_length)
            memcpy(a->text + a->length, piece.text, piece.text_length);
        a->length += piece.text_length;
        a->finish = piece.finish;
    }
    if (counted) {
        counted->settled += s->head.n_settled;
        counted->kept += s->head.n_kept;
        counted->whole += s->head.n_whole;
    }
    bitlm_options_clear(&o);
    if (status != BITLM_DONE)
        snprintf(out->text, sizeof out->text, "%s", why.text);
    return status;
}

static const char *const texts[MOST] = {"Once upon a time", "The little dog", "One day, a girl named Sue", "He said: \"",
                                        "Once upon a time", "Tom and Ann like to play in the park. They"};

static void must_agree(bitlm_session *full, bitlm_session *brief, size_t n, const char *json, count *counted) {
    static answer want[MOST], got[MOST];
    bitlm_text prompts[MOST];
    for (size_t i = 0; i < n; i++)
        prompts[i] = (bitlm_text){texts[i], strlen(texts[i])};
    bitlm_status a = run(full, prompts, n, json, want, NULL), b = run(brief, prompts, n, json, got, counted);
    ck_assert_msg(a == b, "%s: %s against %s", json, want->text, got->text);
    for (size_t i = 0; i < n; i++)
        ck_assert_msg(want[i].n == got[i].n && want[i].finish == got[i].finish && want[i].length == got[i].length &&
                          memcmp(want[i].ids, got[i].ids, (size_t)want[i].n * sizeof *want->ids) == 0 &&
                          memcmp(want[i].logits, got[i].logits, (size_t)want[i].n * sizeof *want->logits) == 0 &&
                          memcmp(want[i].text, got[i].text, want[i].length) == 0,
                      "%s, text %zu: '%.*s' against '%.*s'", json, i, (int)want[i].length, want[i].text, (int)got[i].length,
                      got[i].text);
}

/* Ways of sampling that a line settles. */
static const char *const lines[] = {
    "{\"temperature\":0,", "{\"temperature\":1.5,\"top_k\":1,", "{\"temperature\":0.7,\"top_k\":5,",
    "{\"temperature\":1.2,\"top_k\":40,", "{\"temperature\":1,\"top_k\":40,\"top_p\":0.9,\"min_p\":0.2,",
    "{\"temperature\":0.8,\"top_p\":1,", "{\"temperature\":1.3,\"top_p\":1,\"min_p\":0.3,", "{\"temperature\":1,\"top_p\":1,\"min_p\":1,"};
static const char *const penalties[] = {"1", "1.1", "2.5", "0.8"};

static void sweep(bitlm_model *m, const char *session, int quick, count *counted) {
    bitlm_session *full = open_with(m, session, BITLM_HEAD_FULL), *brief = open_with(m, session, BITLM_HEAD_SHORTLIST);
    char json[300];
    ck_assert_ptr_nonnull(brief->head.list);
    for (size_t l = 0; l < BL_COUNT(lines); l++)
        for (size_t p = 0; p < BL_COUNT(penalties); p++) {
            if (quick && (l + p) % 3)
                continue;
            snprintf(json, sizeof json, "%s\"repeat_penalty\":%s,\"seed\":%zu,\"max_tokens\":%d,\"ignore_eos\":true}", lines[l],
                     penalties[p], l + p, quick ? 8 : 16);
            must_agree(full, brief, 1, json, counted);
        }
    bitlm_session_free(full);
    bitlm_session_free(brief);
}

START_TEST(same_choices) {
    for (size_t i = 0; i < BL_COUNT(head_types); i++) {
        host_state h = {0};
        count c = {0};
        bitlm_model *m = open_private("story", head_types[i], &h);
        sweep(m, i ? "{\"threads\":1}" : "{\"threads\":3}", i > 0, &c);
        printf("story, %s: %.1f of %lld rows of the head computed a token, all at %llu of %llu tokens\n",
               bl_tensor_type_find(head_types[i])->name, (double)c.kept / (double)c.settled, (long long)m->vocab_size,
               (unsigned long long)c.whole, (unsigned long long)(c.whole + c.settled));
        ck_assert_uint_gt(c.settled, 50);
        ck_assert_uint_lt(c.kept, c.settled * 150); /* of 4,096 */
        ck_assert_uint_lt(c.whole, c.settled / 4);
        bitlm_model_free(m);
        ck_assert_uint_eq(h.live, 0);
    }
}
END_TEST

START_TEST(same_choices_on_every_processor) {
    static const char *const masks[] = {"ref", "avx2", "avx512", "neon"};
    const char *before = getenv("BITLM_CPU");
    char *kept = before ? strdup(before) : NULL;
    uint64_t first = 0;
    for (size_t i = 0; i < BL_COUNT(masks); i++) {
        host_state h = {0};
        count c = {0};
        setenv("BITLM_CPU", masks[i], 1);
        bitlm_model *m = open_private("tiny", BL_TYPE_F16, &h);
        sweep(m, "{\"threads\":2}", 1, &c);
        const bl_shortlist *list = m->shortlist;
        size_t n = (size_t)m->head.n;
        uint64_t hash = hash_bytes(hash_bytes(0, list->rows, n * (size_t)m->head.k), list->scale, n * 4);
        hash = hash_bytes(hash_bytes(hash, list->error, n * 4), list->norm, n * 4);
        first = i ? first : hash;
        ck_assert_uint_eq(hash, first);
        bitlm_model_free(m);
    }
    if (kept)
        setenv("BITLM_CPU", kept, 1);
    else
        unsetenv("BITLM_CPU");
    free(kept);
}
END_TEST

/* Choices, a schema, rows together, guesses; and what needs the full head. */
START_TEST(same_answers) {
    static const char *const ways[] = {
        "{\"choices\":[\"dog\",\"cat\",\"a small bird\"],\"temperature\":0}",
        "{\"choices\":[\"dog\",\"dog and cat\",\"bird\"],\"temperature\":1,\"top_k\":3}",
        "{\"choices\":[\"yes\",\"no\"]}",
        "{\"json_schema\":{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\",\"maxLength\":12},\"age\":{\"type\":\"integer\"}}},"
        "\"temperature\":0,\"max_tokens\":60}",
        "{\"json_schema\":{\"type\":\"object\",\"properties\":{\"ok\":{\"type\":\"boolean\"}}},\"temperature\":1,\"top_p\":1,\"max_tokens\":40}",
        "{\"json_schema\":{\"type\":\"object\",\"properties\":{\"s\":{\"type\":\"string\",\"maxLength\":6}}},\"max_tokens\":40}",
        "{\"lookup\":6,\"temperature\":0,\"max_tokens\":30}",
        "{\"lookup\":3,\"temperature\":1,\"top_k\":10,\"max_tokens\":20,\"repeat_penalty\":0.7}",
        "{\"temperature\":0,\"max_tokens\":12}",
        "{\"temperature\":1,\"top_p\":1,\"max_tokens\":12,\"stop\":[\".\"]}",
        "{\"max_tokens\":10}", "{\"temperature\":1,\"top_p\":1,\"min_p\":0,\"max_tokens\":10}",
        "{\"logprobs\":true,\"temperature\":0,\"max_tokens\":6}", "{\"temperature\":1,\"top_k\":4000,\"max_tokens\":6}"};
    for (size_t i = 0; i < 2; i++) {
        host_state h = {0};
        bitlm_model *m = open_private("story", head_types[i], &h);
        for (size_t rows = 1; rows <= MOST; rows += MOST - 1) {
            const char *session = rows == 1 ? "{\"threads\":2,\"n_ctx\":128}" : "{\"threads\":2,\"n_ctx\":128,\"rows\":6}";
            bitlm_session *full = open_with(m, session, BITLM_HEAD_FULL), *brief = open_with(m, session, BITLM_HEAD_SHORTLIST);
            for (size_t w = 0; w < BL_COUNT(ways); w++) {
                count c = {0};
                must_agree(full, brief, rows, ways[w], &c);
                int plain = strstr(ways[w], "logprobs") || strstr(ways[w], "4000") || strstr(ways[w], "\"min_p\":0,") || strcmp(ways[w], "{\"max_tokens\":10}") == 0;
                ck_assert_msg(plain ? !brief->head.on && c.settled + c.whole == 0 : c.settled > 0, "%s: %llu settled, %llu not",
                              ways[w], (unsigned long long)c.settled, (unsigned long long)c.whole);
            }
            bitlm_session_free(full);
            bitlm_session_free(brief);
        }
        bitlm_model_free(m);
    }
}
END_TEST

/* ---- the bound ---------------------------------------------------------------------------------- */

static float uniform(uint64_t seed, uint64_t i) { return (float)(2.0 * bl_rng_unit(seed, 1, i) - 1.0); }

enum hard { EQUAL, HUGE_ROWS, TINY, ZEROS, SPIKES, ALTERNATING, SUBNORMAL, HARD_KINDS };

static float hard_weight(enum hard kind, uint64_t r, uint64_t i) {
    float x = uniform(r * 131071 + 7, i);
    switch (kind) {
    case EQUAL: return uniform(3, i);                          /* ties everywhere */
    case HUGE_ROWS: return r % 50 ? 0.02f * x : 3e4f * x;
    case TINY: return r % 3 ? 1e-6f * x : 3e-8f * x;           /* scales below half floats' normal numbers */
    case ZEROS: return r % 4 ? 0.0f : r % 8 ? 0.05f * x : uniform(3, i); /* zeros and duplicates */
    case SPIKES: return i % 32 == r % 32 ? 2.0f : 0.0039f * x; /* a scale far too coarse for the rest of its group */
    case ALTERNATING: return (i + r) % 2 ? 0.4999f / 127 + 1e-4f * x : 1.0f - 1e-4f * x; /* halfway between codes */
    default: return i % 2 ? 6e-8f : -1.2e-7f * (float)(r % 5);
    }
}

static uint8_t *hard_head(const bitlm_model *m, enum hard kind) {
    const bl_linear *h = &m->head;
    size_t width = h->type == BL_TYPE_F32 ? 4 : 2, k = (size_t)h->k;
    uint8_t *data = malloc((size_t)h->n * k * width);
    for (size_t r = 0; r < (size_t)h->n; r++)
        for (size_t i = 0; i < k; i++) {
            float w = hard_weight(kind, r, i);
            uint16_t half = h->type == BL_TYPE_F16 ? bl_f32_to_f16(w) : bl_f32_to_bf16(w);
            if (width == 4)
                memcpy(data + (r * k + i) * 4, &w, 4);
            else
                memcpy(data + (r * k + i) * 2, &half, 2);
        }
    return data;
}

static float hard_input(int kind, uint64_t i) {
    float x = uniform(11, i);
    switch (kind) {
    case 0: return x;
    case 1: return i % 64 ? 1e-3f * x : 300.0f * x;
    case 2: return 1.0f;
    case 3: return 1e-33f * x;
    case 4: return 1e15f * x;
    case 5: return i % 2 ? 127.5f / 254 : 1.0f;
    default: return 0.0f;
    }
}

/* Every row's error stays within its bound, and what is computed from the head is the head's. */
static double check_bound(bitlm_session *s, const char *what) {
    const bitlm_model *m = s->model;
    size_t n = (size_t)m->head.n, k = (size_t)m->head.k;
    float *own = malloc(n * sizeof *own), *rough = malloc(n * sizeof *rough), *inputs = malloc(k * sizeof *inputs);
    int8_t *codes = malloc(2 * k);
    int32_t row = 0, ids[3] = {0, (int32_t)n / 2, (int32_t)n - 1};
    bl_head_bound bound;
    double nearest = 0;
    bitlm_error why = {.size = sizeof why};
    ck_assert_int_eq(bl_session_enter(s, 0, &why), BITLM_OK);
    ck_assert_int_eq(bl_forward_logits(&s->context, &row, 1, own), BITLM_OK);
    ck_assert_int_eq(bl_shortlist_logits(&s->context, s->head.list, &row, 1, inputs, codes, rough, &bound), BITLM_OK);
    ck_assert(isfinite(bound.a) && isfinite(bound.b));
    for (size_t i = 0; i < n; i++) {
        double most = bound.a * (double)s->head.list->error[i] + bound.b * (double)s->head.list->norm[i] + BL_HEAD_TINY;
        double error = fabs((double)own[i] - (double)rough[i]);
        nearest = BL_MAX(nearest, error / most);
        ck_assert_msg(error <= most, "%s, row %zu: %g is off by %g, but %g was the bound", what, i, (double)own[i], error, most);
    }
    ck_assert_int_eq(bl_head_some(&s->context, inputs, ids, 3, rough), BITLM_OK);
    for (int i = 0; i < 3; i++)
        ck_assert_mem_eq(&rough[ids[i]], &own[ids[i]], sizeof(float));
    bl_session_leave(s, BITLM_OK, &why);
    free(own), free(rough), free(inputs), free(codes);
    return nearest;
}

START_TEST(bound_holds) {
    for (size_t type = 0; type < BL_COUNT(head_types); type++) {
        host_state h = {0};
        bitlm_model *m = open_private("tiny", head_types[type], &h);
        const uint8_t *given = m->head.data;
        const float *norm = m->output_norm;
        double nearest = 0;
        for (int kind = -1; kind < HARD_KINDS; kind++) {
            uint8_t *data = kind < 0 ? NULL : hard_head(m, (enum hard)kind);
            m->head.data = data ? data : given;
            m->output_norm = NULL; /* the input is what stands in x */
            bitlm_session *s = open_with(m, "{\"threads\":2,\"n_ctx\":64}", BITLM_HEAD_SHORTLIST);
            for (int in = 0; in < 7; in++) {
                char what[80];
                for (int64_t i = 0; i < m->hidden_size; i++)
                    s->context.x[i] = hard_input(in, (uint64_t)i);
                snprintf(what, sizeof what, "%s head %d, input %d", bl_tensor_type_find(head_types[type])->name, kind, in);
                nearest = BL_MAX(nearest, check_bound(s, what));
            }
            bitlm_session_free(s);
            bl_shortlist_free(m);
            m->output_norm = norm;
            free(data);
        }
        printf("%s: errors up to %.2f of their bound\n", bl_tensor_type_find(head_types[type])->name, nearest);
        m->head.data = given;
        bitlm_model_free(m);
    }
}
END_TEST

/* What overflows, or is not finite, has no bound: the full head runs and says what it says. */
START_TEST(no_bound) {
    host_state h = {0};
    bitlm_model *m = open_private("tiny", BL_TYPE_F32, &h);
    const uint8_t *given = m->head.data;
    size_t bytes = (size_t)(m->head.n * m->head.k) * 4;
    static const float odd[] = {1e30f, 3e38f, INFINITY, NAN};
    for (size_t i = 0; i < BL_COUNT(odd); i++) {
        uint8_t *data = malloc(bytes);
        memcpy(data, given, bytes);
        memcpy(data + bytes / 3 / 4 * 4, &odd[i], 4);
        m->head.data = data;
        bitlm_session *full = open_with(m, "{}", BITLM_HEAD_FULL), *brief = open_with(m, "{}", BITLM_HEAD_SHORTLIST);
        count c = {0};
        must_agree(full, brief, 1, "{\"temperature\":0,\"max_tokens\":8,\"ignore_eos\":true}", &c);
        ck_assert_uint_eq(c.settled, 0);
        ck_assert_uint_gt(c.whole, 0);
        bitlm_session_free(full);
        bitlm_session_free(brief);
        bl_shortlist_free(m);
        free(data);
    }
    m->head.data = given;
    bitlm_model_free(m);
}
END_TEST

START_TEST(hard_heads) {
    for (int kind = 0; kind < HARD_KINDS; kind++) {
        host_state h = {0};
        count c = {0};
        bitlm_model *m = open_private("tiny", head_types[kind % 3], &h);
        const uint8_t *given = m->head.data;
        uint8_t *data = hard_head(m, (enum hard)kind);
        m->head.data = data;
        sweep(m, "{\"threads\":2}", 1, &c);
        if (kind == EQUAL) { /* all stay: more than 5 % */
            bitlm_session *full = open_with(m, "{}", BITLM_HEAD_FULL), *brief = open_with(m, "{}", BITLM_HEAD_SHORTLIST);
            c = (count){0};
            must_agree(full, brief, 1, "{\"temperature\":0,\"repeat_penalty\":1,\"max_tokens\":8,\"ignore_eos\":true}", &c);
            ck_assert(c.settled == 0 && c.whole > 0);
            bitlm_session_free(full);
            bitlm_session_free(brief);
        }
        bl_shortlist_free(m);
        m->head.data = given;
        free(data);
        bitlm_model_free(m);
    }
}
END_TEST

/* ---- the copy's life ------------------------------------------------------------------------------ */

START_TEST(one_copy_a_model) {
    host_state h = {0};
    bitlm_memory_parts p = {.size = sizeof p}, without = {.size = sizeof without};
    bitlm_options o;
    bitlm_model *m = open_private("story", BL_TYPE_F16, &h);
    bitlm_options_init(&o);
    ck_assert_int_eq(bitlm_memory(m, &o, &without, NULL), BITLM_OK);
    ck_assert_uint_eq(without.shortlist_bytes, 0);
    o.head = BITLM_HEAD_SHORTLIST;
    ck_assert_int_eq(bitlm_memory(m, &o, &p, NULL), BITLM_OK);
    ck_assert_uint_eq(p.total_bytes, p.file_bytes + p.kv_bytes + p.scratch_bytes + p.shortlist_bytes);
    size_t before = h.bytes;
    bitlm_session *a = open_with(m, "{}", BITLM_HEAD_SHORTLIST), *b = open_with(m, "{}", BITLM_HEAD_SHORTLIST);
    size_t taken = h.bytes - before;
    ck_assert_ptr_eq(a->head.list, b->head.list);
    ck_assert_msg(fabs((double)taken - (double)p.shortlist_bytes) < 0.02 * (double)taken, "%zu taken, %llu said", taken,
                  (unsigned long long)p.shortlist_bytes);
    bitlm_session_free(a);
    bitlm_session_free(b);
    bitlm_model_free(m);
    ck_assert_uint_eq(h.live, 0);
    /* A head that is not float stays as it is. */
    m = open_private("tiny", BL_TYPE_Q6_K, &h);
    a = open_with(m, "{}", BITLM_HEAD_SHORTLIST);
    b = open_with(m, "{}", BITLM_HEAD_FULL);
    ck_assert_ptr_null(a->head.list);
    must_agree(b, a, 1, "{\"temperature\":0,\"max_tokens\":5}", NULL);
    ck_assert_int_eq(bitlm_memory(m, &o, &p, NULL), BITLM_OK);
    ck_assert_uint_eq(p.shortlist_bytes, 0);
    bitlm_session_free(a);
    bitlm_session_free(b);
    bitlm_model_free(m);
    o.head = 2;
    m = open_model("story", NULL);
    ck_assert_int_eq(bitlm_session_open(m, &o, NULL, &a, NULL), BITLM_ARG);
    bitlm_model_free(m);
}
END_TEST

static void *open_one(void *model) {
    bitlm_session *s = open_with(model, "{\"threads\":2}", BITLM_HEAD_SHORTLIST);
    const bl_shortlist *list = s->head.list;
    bitlm_session_free(s);
    return (void *)(uintptr_t)list;
}

START_TEST(threads_ask_for_it_at_once) {
    bitlm_model *m = open_model("story", NULL);
    pthread_t threads[4];
    void *got[4];
    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, open_one, m), 0);
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], &got[i]);
        ck_assert_ptr_nonnull(got[i]);
        ck_assert_ptr_eq(got[i], got[0]);
    }
    bitlm_model_free(m);
}
END_TEST

/* Memory fails at each allocation of the model's host in turn, or the caller stops: nothing stays behind, the next one works. */
START_TEST(making_it_fails) {
    host_state h = {0};
    bitlm_error why = {.size = sizeof why};
    bitlm_session *s;
    bitlm_options o;
    bitlm_options_init(&o);
    o.head = BITLM_HEAD_SHORTLIST;
    bitlm_model *m = open_private("story", BL_TYPE_F16, &h);
    bitlm_host host = host_of(&h);
    size_t live = h.live;
    int failed = 0, canceled = 0;
    for (int at = 1;; at++) {
        h.n = 0;
        h.fail_at = at;
        bitlm_status status = bitlm_session_open(m, &o, &host, &s, &why);
        h.fail_at = 0;
        if (status == BITLM_OK)
            break;
        ck_assert_msg(status == BITLM_NOMEM, "%s", why.text);
        ck_assert_uint_eq(h.live, live);
        failed++;
    }
    ck_assert_int_ge(failed, 4);
    bitlm_session_free(s);
    bl_shortlist_free(m);
    for (int stop = 1; stop < 3; stop++) { /* the first is asked before anything is made; one may come in the midst */
        h.polls = 0;
        h.stop_at = stop;
        bitlm_status status = bitlm_session_open(m, &o, &host, &s, &why);
        h.stop_at = 0;
        if (status == BITLM_OK) {
            bitlm_session_free(s);
            bl_shortlist_free(m);
            continue;
        }
        ck_assert_msg(status == BITLM_CANCELED, "%s", why.text);
        ck_assert_ptr_null(m->shortlist);
        ck_assert_uint_eq(h.live, live);
        canceled++;
    }
    ck_assert_int_ge(canceled, 1);
    ck_assert_int_eq(bitlm_session_open(m, &o, &host, &s, &why), BITLM_OK);
    ck_assert_ptr_nonnull(s->head.list);
    bitlm_session_free(s);
    bitlm_model_free(m);
    ck_assert_uint_eq(h.live, 0);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("shortlist");
    TCase *c = tcase_create("shortlist");
    tcase_set_timeout(c, 300);
    tcase_add_test(c, same_choices);
    tcase_add_test(c, same_choices_on_every_processor);
    tcase_add_test(c, same_answers);
    tcase_add_test(c, bound_holds);
    tcase_add_test(c, no_bound);
    tcase_add_test(c, hard_heads);
    tcase_add_test(c, one_copy_a_model);
    tcase_add_test(c, threads_ask_for_it_at_once);
    tcase_add_test(c, making_it_fails);
    suite_add_tcase(suite, c);
    return run_suite(suite);
}
