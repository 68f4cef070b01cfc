/* test_run.c - the public API's behaviour: options, finish reasons, stop texts, cancelling at every
 * poll, every allocation failing in turn, hostile prompts, sharing of models. */
#include <check.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "run/run.h"
#include "test_support.h"

/* ---- warnings ----------------------------------------------------------------------------------- */

static void count_warning(void *context, int32_t level, const char *text, size_t length) {
    ck_assert_int_eq(level, BITLM_LOG_WARNING);
    ck_assert_msg(length == strlen(text) && strstr(text, "plain C"), "%s", text);
    ++*(int *)context;
}

/* A mask of another architecture's instructions leaves none, as a processor does that has none. */
START_TEST(plain_kernels_are_warned_of) {
#if defined(__aarch64__)
    static const char *const masks[] = {"ref", "avx2"};
#else
    static const char *const masks[] = {"ref", "neon"};
#endif
    for (int i = 0; i < 2; i++) {
        int warnings = 0;
        bitlm_host host = {.size = sizeof host, .context = &warnings, .log = count_warning};
        bitlm_model *m;
        setenv("BITLM_CPU", masks[i], 1);
        ck_assert_int_eq(bitlm_model_open("story", 5, 0, NULL, &host, &m, NULL), BITLM_OK);
        ck_assert_int_eq(warnings, i);
        ck_assert_ptr_eq(m->kernels, &bl_kernels_ref);
        bitlm_model_free(m);
    }
}
END_TEST

/* ---- options ------------------------------------------------------------------------------- */

static void refuse(const char *json, const char *sentence) {
    bitlm_options o;
    bitlm_error e = {.size = sizeof e};
    bitlm_options_init(&o);
    ck_assert_int_eq(bitlm_options_json(&o, "{\"seed\":5,\"stop\":[\"a\",\"b\"]}", 27, NULL), BITLM_OK);
    bitlm_status s = bitlm_options_json(&o, json, strlen(json), &e);
    ck_assert_msg(s == BITLM_ARG && strstr(e.text, sentence), "%s gave %d '%s', not '%s'", json, s, e.text, sentence);
    ck_assert_uint_eq(o.seed, 5); /* nothing changed */
    ck_assert_uint_eq(o.n_stop, 2);
    ck_assert_str_eq(o.stop[1].data, "b");
    bitlm_options_clear(&o);
    ck_assert_uint_eq(o.n_stop, 0);
}

START_TEST(options_refuse_what_they_do_not_know) {
    refuse("{\"temprature\":1}", "unknown option 'temprature'; the options are model, max_tokens");
    refuse("{\"temperature\":\"hot\"}", "option temperature must be a number, not a text");
    refuse("{\"temperature\":-0.1}", "option temperature is -0.1, but must be 0 to 100");
    refuse("{\"temperature\":1e300}", "option temperature is 1e+300");
    refuse("{\"top_p\":0}", "option top_p is 0, but must be above 0 to 1");
    refuse("{\"max_tokens\":1.5}", "option max_tokens must be a whole number, not 1.5");
    refuse("{\"max_tokens\":-1}", "option max_tokens is -1, but must be 0 to 2147483647");
    refuse("{\"max_tokens\":99999999999}", "option max_tokens is 99999999999");
    refuse("{\"seed\":-1}", "option seed");
    refuse("{\"kv_type\":\"int3\"}", "option kv_type is 'int3', but must be one of f16|f32");
    refuse("{\"stop\":[\"a\",\"\"]}", "a stop text has 0 bytes");
    refuse("{\"stop\":7}", "option stop must be a text or an array of texts, not a number");
    refuse("{\"seed\":1,\"stop\":[1]}", "option stop must be");
    refuse("{\"model\":3}", "option model must be a text, not a number");
    refuse("{\"ignore_eos\":2}", "option ignore_eos is 2");
    refuse("{\"threads\":257}", "option threads is 257, but must be 0 to 256");
    refuse("\"story\"", "must be a JSON object such as {\"model\":\"story\"}");
    refuse("[1]", "must be a JSON object, not an array");
    refuse("{\"seed\":1", "not valid JSON");
    refuse("{\"seed\":1,\"seed\":2}", "not valid JSON");
    refuse("\xff\xfe", "not valid JSON");
}
END_TEST

START_TEST(options_take_what_they_know) {
    const char *json = "{\"model\":\"m\",\"max_tokens\":3,\"temperature\":0,\"top_p\":0.5,\"top_k\":7,\"min_p\":0,"
                       "\"repeat_penalty\":1,\"seed\":9007199254740993,\"stop\":\"end\",\"ignore_eos\":true,"
                       "\"logprobs\":1,\"threads\":2,\"n_ctx\":64,\"kv_type\":\"f32\",\"timeout_ms\":10,"
                       "\"truncate\":\"start\",\"on_error\":\"null\",\"load\":\"copy\",\"hidden_act\":\"silu\"}";
    bitlm_options o;
    bitlm_options_init(&o);
    ck_assert_int_eq(o.max_tokens, 128);
    ck_assert_int_eq(bitlm_options_json(&o, json, strlen(json), NULL), BITLM_OK);
    ck_assert_str_eq(o.model.data, "m");
    ck_assert_uint_eq(o.seed, 9007199254740993u);
    ck_assert_str_eq(o.stop[0].data, "end");
    ck_assert_int_eq(o.top_k, 7);
    ck_assert_int_eq(o.hidden_act, BITLM_ACT_SILU);
    /* a later object keeps what it does not name */
    ck_assert_int_eq(bitlm_options_json(&o, "{\"model\":\"n\"}", 13, NULL), BITLM_OK);
    ck_assert_str_eq(o.model.data, "n");
    ck_assert_str_eq(o.stop[0].data, "end");
    ck_assert_int_eq(bitlm_options_json(&o, "", 0, NULL), BITLM_OK);
    ck_assert_int_eq(bitlm_options_json(&o, "null", 4, NULL), BITLM_OK);
    bitlm_options_clear(&o);
}
END_TEST

/* ---- generation ------------------------------------------------------------------------------ */

START_TEST(finish_reasons) {
    bitlm_model *m = open_model("story", NULL);
    bitlm_session *s = open_session(m, "{\"n_ctx\":32}");
    int32_t finish = -1, ids[64];
    size_t n;
    free(generate(s, "Once upon a time", "{\"max_tokens\":5,\"ignore_eos\":true}", ids, 64, &n, &finish));
    ck_assert_int_eq(finish, BITLM_FINISH_LENGTH);
    ck_assert_uint_eq(n, 5);
    free(generate(s, "Once upon a time", "{\"max_tokens\":0}", ids, 64, &n, &finish));
    ck_assert_int_eq(finish, BITLM_FINISH_LENGTH);
    ck_assert_uint_eq(n, 0);
    free(generate(s, "Once upon a time", "{\"max_tokens\":1000,\"ignore_eos\":true}", ids, 64, &n, &finish));
    ck_assert_int_eq(finish, BITLM_FINISH_CONTEXT);
    ck_assert_uint_eq(n, 32 - 5 + 1); /* the last token needs no place of its own */
    char *text = generate(s, "Once upon a time", "{\"temperature\":0,\"repeat_penalty\":1,\"stop\":[\" lived\",\"zz\"]}",
                          ids, 64, &n, &finish);
    ck_assert_int_eq(finish, BITLM_FINISH_STOP);
    ck_assert_str_eq(text, " there");
    free(text);
    /* a stop text that begins in one token and ends in the next */
    text = generate(s, "Once upon a time", "{\"temperature\":0,\"repeat_penalty\":1,\"stop\":\"re liv\"}", ids, 64, &n,
                    &finish);
    ck_assert_str_eq(text, " the");
    free(text);
    /* one that never comes holds back nothing at the end */
    text = generate(s, "Once upon a time", "{\"temperature\":0,\"repeat_penalty\":1,\"max_tokens\":4,"
                    "\"stop\":\"a king who was not\"}", ids, 64, &n, &finish);
    ck_assert_str_eq(text, " there lived a king");
    free(text);
    bitlm_session_free(s);
    bitlm_model_free(m);
}
END_TEST

START_TEST(seeds_and_logprobs) {
    bitlm_model *m = open_model("story", NULL);
    bitlm_session *s = open_session(m, NULL);
    char *a = generate(s, "The fox", "{\"seed\":1}", NULL, 0, NULL, NULL);
    char *b = generate(s, "The fox", "{\"seed\":2}", NULL, 0, NULL, NULL);
    char *c = generate(s, "The fox", "{\"seed\":1}", NULL, 0, NULL, NULL);
    ck_assert_str_eq(a, c);
    ck_assert_str_ne(a, b);
    bitlm_options o;
    bitlm_options_init(&o);
    o.logprobs = 1;
    o.max_tokens = 8;
    bitlm_text prompt = {"The fox", 7};
    bitlm_piece p = {.size = sizeof p};
    ck_assert_int_eq(bitlm_generate_start(s, &prompt, 1, 0, &o, NULL), BITLM_OK);
    while (bitlm_generate_next(s, &p, NULL) == BITLM_OK)
        if (p.token >= 0)
            ck_assert(p.logprob <= 0.0f && p.logprob > -30.0f);
    o.logprobs = 0;
    ck_assert_int_eq(bitlm_generate_start(s, &prompt, 1, 0, &o, NULL), BITLM_OK);
    ck_assert_int_eq(bitlm_generate_next(s, &p, NULL), BITLM_OK);
    ck_assert(isnan(p.logprob));
    free(a);
    free(b);
    free(c);
    bitlm_session_free(s);
    bitlm_model_free(m);
}
END_TEST

START_TEST(wrong_calls) {
    bitlm_model *story = open_model("story", NULL), *embed = open_model("embed", NULL);
    bitlm_session *s = open_session(story, NULL), *e = open_session(embed, NULL);
    bitlm_error why = {.size = sizeof why};
    bitlm_text text = {"hello", 5};
    bitlm_piece piece = {.size = sizeof piece};
    uint8_t code[48];
    ck_assert_int_eq(bitlm_generate_next(s, &piece, &why), BITLM_ARG);
    ck_assert(strstr(why.text, "no generation is running"));
    ck_assert_int_eq(bitlm_generate_start(e, &text, 1, 0, NULL, &why), BITLM_UNSUPPORTED);
    ck_assert(strstr(why.text, "is an encoder"));
    ck_assert_int_eq(bitlm_embed_batch(s, &text, 1, 0, NULL, code, 48, NULL, &why), BITLM_UNSUPPORTED);
    ck_assert(strstr(why.text, "is a decoder"));
    ck_assert_int_eq(bitlm_embed_batch(e, &text, 1, 0, NULL, code, 47, NULL, &why), BITLM_ARG);
    ck_assert_int_eq(bitlm_embed_batch(e, &text, 1, 9, NULL, code, 48, NULL, &why), BITLM_ARG);
    ck_assert_int_eq(bitlm_generate_start(s, &text, 1, BITLM_GENERATE_CHAT, NULL, &why), BITLM_UNSUPPORTED);
    ck_assert(strstr(why.text, "no chat template"));
    bitlm_options o;
    bitlm_options_init(&o);
    o.n_ctx = 5000;
    bitlm_session *none = NULL;
    ck_assert_int_eq(bitlm_session_open(story, &o, NULL, &none, &why), BITLM_LIMIT);
    ck_assert(strstr(why.text, "n_ctx is 5000"));
    o.n_ctx = 1;
    ck_assert_int_eq(bitlm_session_open(story, &o, NULL, &none, &why), BITLM_ARG);
    ck_assert_ptr_null(none);
    bitlm_model *m = NULL;
    ck_assert_int_eq(bitlm_model_open("/no/such/file.gguf", 18, 0, NULL, NULL, &m, &why), BITLM_IO);
    ck_assert_int_ne(why.sys_errno, 0);
    ck_assert_int_eq(bitlm_model_open("tale", 4, BITLM_OPEN_NAME_ONLY, NULL, NULL, &m, &why), BITLM_ARG);
    ck_assert_int_eq(bitlm_model_open("", 0, 0, NULL, NULL, &m, &why), BITLM_ARG);
    int32_t bad = 4096, ids[4];
    size_t n;
    char buffer[8];
    ck_assert_int_eq(bitlm_detokenize(story, &bad, 1, 0, buffer, 8, &n, &why), BITLM_ARG);
    ck_assert_int_eq(bitlm_logits(s, &bad, 1, NULL, &why), BITLM_ARG);
    ck_assert_int_eq(bitlm_tokenize(story, "one two three four five", 23, 0, NULL, ids, 4, &n, &why), BITLM_LIMIT);
    ck_assert_uint_gt(n, 4);
    bitlm_session_free(s);
    bitlm_session_free(e);
    bitlm_session_free(NULL);
    bitlm_model_free(story);
    bitlm_model_free(embed);
    bitlm_model_free(NULL);
}
END_TEST

/* bitlm_score against a log-softmax of bitlm_logits in double with libm, over more tokens than a batch of
 * the head or of the prefill holds. */
START_TEST(scores_are_log_probabilities) {
    enum { N = 500, VOCAB = 4096 };
    bitlm_model *m = open_model("story", NULL), *em = open_model("embed", NULL);
    bitlm_session *s = open_session(m, "{\"threads\":2}"), *e = open_session(em, NULL);
    static int32_t ids[N];
    static float scores[N], one[1] = {9};
    float *logits = malloc(sizeof(float) * N * VOCAB);
    bitlm_error why = {.size = sizeof why};
    for (int i = 0; i < N; i++)
        ids[i] = 300 + (i * 7919) % 3000;
    ck_assert_int_eq(bitlm_score(s, ids, N, scores, NULL), BITLM_OK);
    ck_assert_int_eq(bitlm_logits(s, ids, N, logits, NULL), BITLM_OK);
    ck_assert_float_eq(scores[0], 0);
    for (int i = 1; i < N; i++) {
        const float *l = logits + (size_t)(i - 1) * VOCAB;
        double sum = 0, max = -INFINITY;
        for (int j = 0; j < VOCAB; j++)
            max = (double)l[j] > max ? (double)l[j] : max;
        for (int j = 0; j < VOCAB; j++)
            sum += exp((double)l[j] - max);
        ck_assert_double_eq_tol((double)scores[i], (double)l[ids[i]] - max - log(sum), 1e-4);
    }
    ck_assert_int_eq(bitlm_score(s, ids, 1, one, NULL), BITLM_OK);
    ck_assert_float_eq(one[0], 0);
    ck_assert_int_eq(bitlm_score(s, ids, 0, scores, &why), BITLM_LIMIT);
    ck_assert_int_eq(bitlm_score(s, ids, 1000000, scores, &why), BITLM_LIMIT);
    ck_assert(strstr(why.text, "1000000"));
    ids[3] = 4096;
    ck_assert_int_eq(bitlm_score(s, ids, 5, scores, &why), BITLM_ARG);
    ck_assert(strstr(why.text, "4096"));
    ck_assert_int_eq(bitlm_score(e, ids, 3, scores, &why), BITLM_ARG);
    ck_assert_int_eq(bitlm_score(NULL, ids, 3, scores, &why), BITLM_ARG);
    free(logits);
    bitlm_session_free(s);
    bitlm_session_free(e);
    bitlm_model_free(m);
    bitlm_model_free(em);
}
END_TEST

START_TEST(hostile_prompts) {
    bitlm_model *m = open_model("story", NULL), *em = open_model("embed", NULL);
    bitlm_session *s = open_session(m, NULL), *e = open_session(em, NULL);
    bitlm_error why = {.size = sizeof why};
    size_t big = 10u << 20;
    char *text = malloc(big);
    for (size_t i = 0; i < big; i++)
        text[i] = "one small word "[i % 15];
    bitlm_text huge = {text, big}, zeros = {"a\0b\0\0c", 6}, invalid = {"\xff\xc3(\xe2\x82\xf0\x9f\x98", 8};
    bitlm_options o;
    bitlm_piece piece = {.size = sizeof piece};
    uint8_t codes[3][48], none[48] = {0};
    bitlm_status rows[3];
    bitlm_options_init(&o);
    o.max_tokens = 3;
    ck_assert_int_eq(bitlm_generate_start(s, &huge, 1, 0, &o, &why), BITLM_LIMIT);
    ck_assert(strstr(why.text, "10485760 bytes"));
    for (o.truncate = BITLM_TRUNCATE_START; o.truncate <= BITLM_TRUNCATE_END; o.truncate++) {
        ck_assert_int_eq(bitlm_generate_start(s, &huge, 1, 0, &o, &why), BITLM_OK);
        ck_assert_int_eq(bitlm_generate_next(s, &piece, &why), BITLM_OK);
    }
    o.truncate = 0;
    bitlm_text odd[] = {zeros, invalid, {NULL, 0}};
    for (int i = 0; i < 3; i++) {
        ck_assert_msg(bitlm_generate_start(s, &odd[i], 1, 0, &o, &why) == BITLM_OK, "%d: %s", i, why.text);
        while (bitlm_generate_next(s, &piece, &why) == BITLM_OK)
            ;
    }
    bitlm_text mixed[] = {{"a", 1}, huge, invalid};
    ck_assert_int_eq(bitlm_embed_batch(e, mixed, 3, BITLM_EMBED_BITS, NULL, codes, 48, NULL, &why), BITLM_LIMIT);
    ck_assert(strstr(why.text, "text 1 of 10485760 bytes"));
    ck_assert_int_eq(bitlm_embed_batch(e, mixed, 3, BITLM_EMBED_BITS, NULL, codes, 48, rows, &why), BITLM_OK);
    ck_assert_int_eq(rows[0], BITLM_OK);
    ck_assert_int_eq(rows[1], BITLM_LIMIT);
    ck_assert_int_eq(rows[2], BITLM_OK);
    ck_assert_mem_eq(codes[1], none, 48);
    ck_assert_mem_ne(codes[2], none, 48);
    free(text);
    bitlm_session_free(s);
    bitlm_session_free(e);
    bitlm_model_free(m);
    bitlm_model_free(em);
}
END_TEST

/* ---- the host: poll and memory -------------------------------------------------------------------- */

typedef struct host_state {
    int polls, stop_at;          /* poll number stop_at answers non-zero; 0: never */
    int allocations, fail_at;    /* allocation number fail_at fails; 0: never */
    int live;
} host_state;

static int32_t poll_host(void *context) {
    host_state *h = context;
    return ++h->polls == h->stop_at;
}

static void *alloc_host(void *context, size_t size) {
    host_state *h = context;
    if (++h->allocations == h->fail_at)
        return NULL;
    h->live++;
    return malloc(size ? size : 1);
}

static void release_host(void *context, void *memory) {
    host_state *h = context;
    h->live--;
    free(memory);
}

static bitlm_host host_of(host_state *h, int own_memory) {
    return (bitlm_host){.size = sizeof(bitlm_host), .context = h, .poll = poll_host,
                        .alloc = own_memory ? alloc_host : NULL, .release = own_memory ? release_host : NULL};
}

/* Opens, generates a few tokens and embeds a text; the first failure, with everything freed. */
static bitlm_status whole_job(const bitlm_host *host, bitlm_error *why, char *text, size_t cap, uint8_t *code) {
    bitlm_model *m = NULL, *em = NULL;
    bitlm_session *s = NULL, *e = NULL;
    bitlm_options o;
    bitlm_piece piece = {.size = sizeof piece};
    bitlm_text prompt = {"Long ago a fisherman lived by the sea", 37};
    size_t used = 0;
    bitlm_options_init(&o);
    o.threads = 2;
    o.n_ctx = 64;
    o.max_tokens = 4;
    bitlm_status status = bitlm_model_open("story", 5, 0, &o, host, &m, why);
    if (!status)
        status = bitlm_session_open(m, &o, host, &s, why);
    if (!status)
        status = bitlm_generate_start(s, &prompt, 1, 0, &o, why);
    while (!status) {
        status = bitlm_generate_next(s, &piece, why);
        if (!status && used + piece.text_length < cap) {
            memcpy(text + used, piece.text, piece.text_length);
            used += piece.text_length;
        }
    }
    text[used] = 0;
    if (status == BITLM_DONE) {
        int32_t ids[40] = {1, 2311, 680};
        float scores[40];
        status = bitlm_score(s, ids, 40, scores, why);
    }
    if (!status)
        status = bitlm_model_open("embed", 5, 0, &o, host, &em, why);
    if (!status)
        status = bitlm_session_open(em, &o, host, &e, why);
    if (!status)
        status = bitlm_embed_batch(e, &prompt, 1, BITLM_EMBED_BITS, NULL, code, 48, NULL, why);
    bitlm_session_free(s);
    bitlm_session_free(e);
    bitlm_model_free(m);
    bitlm_model_free(em);
    return status;
}

START_TEST(cancel_at_every_poll) {
    bitlm_error why = {.size = sizeof why};
    char want[200], text[200];
    uint8_t code[48];
    int canceled = 0;
    host_state quiet = {0};
    bitlm_host host = host_of(&quiet, 0);
    ck_assert_int_eq(whole_job(&host, &why, want, sizeof want, code), BITLM_OK);
    ck_assert_int_ge(quiet.polls, 5); /* four tokens and a text: each call asks when it begins */
    for (int stop = 1;; stop++) {
        host_state h = {.stop_at = stop};
        host = host_of(&h, 0);
        bitlm_status status = whole_job(&host, &why, text, sizeof text, code);
        if (status == BITLM_OK) {
            ck_assert_str_eq(text, want);
            break;
        }
        ck_assert_msg(status == BITLM_CANCELED, "%s", why.text);
        canceled++;
    }
    printf("canceled at each of %d polls\n", canceled);
}
END_TEST

START_TEST(a_canceled_session_goes_on) {
    bitlm_error why = {.size = sizeof why};
    bitlm_model *m = open_model("story", NULL);
    host_state h = {0};
    bitlm_host host = host_of(&h, 0);
    bitlm_session *s = NULL;
    bitlm_text prompt = {"The fox", 7};
    bitlm_piece piece = {.size = sizeof piece};
    ck_assert_int_eq(bitlm_session_open(m, NULL, &host, &s, &why), BITLM_OK);
    char *want = generate(s, "The fox", NULL, NULL, 0, NULL, NULL);
    ck_assert_int_eq(bitlm_generate_start(s, &prompt, 1, 0, NULL, &why), BITLM_OK);
    h.stop_at = h.polls + 2;
    bitlm_status status;
    while ((status = bitlm_generate_next(s, &piece, &why)) == BITLM_OK)
        ;
    ck_assert_int_eq(status, BITLM_CANCELED);
    ck_assert_int_eq(bitlm_generate_next(s, &piece, &why), BITLM_ARG);
    char *again = generate(s, "The fox", NULL, NULL, 0, NULL, NULL);
    ck_assert_str_eq(want, again);
    free(want);
    free(again);
    bitlm_options o;
    bitlm_options_init(&o);
    o.timeout_ms = 1;
    o.max_tokens = 100000;
    o.ignore_eos = 1;
    ck_assert_int_eq(bitlm_generate_start(s, &prompt, 1, 0, &o, &why), BITLM_OK);
    while ((status = bitlm_generate_next(s, &piece, &why)) == BITLM_OK)
        ;
    ck_assert_int_eq(status, BITLM_TIMEOUT);
    bitlm_session_free(s);
    bitlm_model_free(m);
}
END_TEST

START_TEST(every_allocation_fails_once) {
    bitlm_error why = {.size = sizeof why};
    char text[200];
    uint8_t code[48];
    int fail = 1;
    for (;; fail++) {
        host_state h = {.fail_at = fail};
        bitlm_host host = host_of(&h, 1);
        bitlm_status status = whole_job(&host, &why, text, sizeof text, code);
        ck_assert_msg(h.live == 0, "allocation %d: %d blocks left", fail, h.live);
        if (status == BITLM_OK)
            break;
        ck_assert_msg(status == BITLM_NOMEM, "allocation %d: %s", fail, why.text);
        ck_assert(strlen(why.text) > 0);
    }
    printf("each of %d allocations failed in turn\n", fail - 1);
    ck_assert_int_gt(fail, 20);
}
END_TEST

static void *sum_alloc(void *context, size_t size) {
    *(size_t *)context += size;
    return malloc(size);
}

static void sum_release(void *context, void *memory) {
    (void)context;
    free(memory);
}

/* What the planner says is what a session takes from its host, to 2 %, and the parts of a file are the file. */
START_TEST(memory_is_planned) {
    static const char *const names[] = {"story", "embed"};
    static const char *const asked[] = {"{}", "{\"n_ctx\":64}", "{\"n_ctx\":500,\"kv_type\":\"int8\"}",
                                        "{\"n_ctx\":256,\"kv_type\":\"int4\",\"rows\":8}",
                                        "{\"n_ctx\":128,\"kv_type\":\"f32\",\"threads\":3}"};
    for (size_t m = 0; m < 2; m++) {
        bitlm_model *model = open_model(names[m], NULL);
        for (size_t i = 0; i < sizeof asked / sizeof asked[0]; i++) {
            size_t taken = 0;
            bitlm_host host = {.size = sizeof host, .context = &taken, .alloc = sum_alloc, .release = sum_release};
            bitlm_options options;
            bitlm_session *session;
            bitlm_memory_parts p = {.size = sizeof p};
            bitlm_options_init(&options);
            ck_assert_int_eq(bitlm_options_json(&options, asked[i], strlen(asked[i]), NULL), BITLM_OK);
            ck_assert_int_eq(bitlm_memory(model, &options, &p, NULL), BITLM_OK);
            ck_assert_int_eq(bitlm_session_open(model, &options, &host, &session, NULL), BITLM_OK);
            double said = (double)(p.kv_bytes + p.scratch_bytes);
            ck_assert_msg(fabs(said - (double)taken) < 0.02 * (double)taken, "%s %s: %.0f said, %zu taken", names[m],
                          asked[i], said, taken);
            ck_assert_uint_eq(p.total_bytes, p.file_bytes + p.kv_bytes + p.scratch_bytes);
            uint64_t tensors = p.layer_bytes + p.embedding_bytes + p.head_bytes + p.norm_bytes;
            ck_assert_msg(tensors <= p.file_bytes && tensors > p.file_bytes / 2, "%s: tensors", names[m]);
            ck_assert_uint_eq(p.float_bytes, 4 * p.n_parameters);
            bitlm_session_free(session);
        }
        bitlm_model_free(model);
    }
}
END_TEST

/* 6 layers, 4 KV heads of 64: two sides of 512 tokens, 2 bytes a value; int8 has a float a token and head too. */
START_TEST(memory_of_the_cache) {
    bitlm_model *model = open_model("story", NULL);
    bitlm_memory_parts p = {.size = sizeof p};
    bitlm_options options;
    bitlm_error why = {.size = sizeof why};
    char json[1000];
    bitlm_options_init(&options);
    ck_assert_int_eq(bitlm_memory(model, NULL, &p, NULL), BITLM_OK);
    ck_assert_uint_eq(p.kv_bytes, 2 * 6 * 512 * 256 * 2);
    options.kv_type = BITLM_KV_INT8;
    ck_assert_int_eq(bitlm_memory(model, &options, &p, NULL), BITLM_OK);
    ck_assert_uint_eq(p.kv_bytes, 2 * 6 * 512 * (256 + 4 * 4));
    ck_assert_int_eq(bitlm_memory_json(model, &options, json, sizeof json, NULL), BITLM_OK);
    ck_assert_ptr_nonnull(strstr(json, "\"kv_bytes\":1671168"));
    ck_assert_int_eq(bitlm_memory_json(model, &options, json, 100, &why), BITLM_LIMIT);
    options.n_ctx = 5000;
    ck_assert_int_eq(bitlm_memory(model, &options, &p, &why), BITLM_LIMIT);
    bitlm_model_free(model);
}
END_TEST

START_TEST(steps_allocate_nothing) {
    host_state h = {0};
    bitlm_host host = host_of(&h, 1);
    bitlm_error why = {.size = sizeof why};
    bitlm_model *m = open_model("story", NULL);
    bitlm_session *s = NULL;
    bitlm_text prompt = {"The fox", 7};
    bitlm_piece piece = {.size = sizeof piece};
    ck_assert_int_eq(bitlm_session_open(m, NULL, &host, &s, &why), BITLM_OK);
    ck_assert_int_eq(bitlm_generate_start(s, &prompt, 1, 0, NULL, &why), BITLM_OK);
    int before = h.allocations;
    while (bitlm_generate_next(s, &piece, &why) == BITLM_OK)
        ;
    ck_assert_int_eq(h.allocations, before);
    bitlm_session_free(s);
    bitlm_model_free(m);
    ck_assert_int_eq(h.live, 0);
}
END_TEST

/* ---- sharing and threads ----------------------------------------------------------------------------- */

START_TEST(models_are_shared) {
    bitlm_model *a = open_model("story", NULL), *b = open_model("story", NULL);
    ck_assert_ptr_eq(a, b);
    bitlm_model_free(a);
    char *path = unpack("tiny/tiny-i2_s-f16.gguf.xz");
    bitlm_model *c = open_model(path, NULL), *d = open_model(path, NULL);
    bitlm_model *other = open_model(path, "{\"hidden_act\":\"silu\"}");
    ck_assert_ptr_eq(c, d);
    ck_assert_ptr_ne(c, other);
    bitlm_model_free(c);
    bitlm_model_free(d);
    bitlm_model_free(other);
    bitlm_model_free(b);
    remove(path);
    free(path);
}
END_TEST

static void *use_model(void *arg) {
    bitlm_model *m = open_model("story", NULL);
    bitlm_session *s = open_session(m, "{\"threads\":2}");
    char *text = generate(s, "The fox", "{\"max_tokens\":20}", NULL, 0, NULL, NULL);
    bitlm_session_free(s);
    bitlm_model_free(m);
    (void)arg;
    return text;
}

START_TEST(threads_share_a_model) {
    pthread_t threads[4];
    char *texts[4];
    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, use_model, NULL), 0);
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], (void **)&texts[i]);
        ck_assert_str_eq(texts[i], texts[0]);
    }
    for (int i = 0; i < 4; i++)
        free(texts[i]);
}
END_TEST

/* ---- where the time goes --------------------------------------------------------------------------------- */

/* The blockwise search against the plain loops, for lengths around blocks: ties, zeros of both signs, what is not finite. */
START_TEST(logits_in_blocks) {
    enum { MOST = 300 };
    static const float odd[] = {INFINITY, -INFINITY, NAN, -NAN};
    static const float even[] = {3.4028234e38f, -3.4028234e38f, 0.0f, -0.0f, 1e-45f};
    float l[MOST];
    for (int64_t n = 1; n <= MOST; n++)
        for (int round = 0; round < 24; round++) {
            const uint64_t at = (uint64_t)(n * 24 + round);
            int64_t best = 0, wrong = n;
            for (int64_t i = 0; i < n; i++) { /* few values, so that the greatest comes often; or all of one size */
                const double u = bl_rng_unit(11, at, (uint64_t)i);
                l[i] = round % 3 == 0 ? (float)(int)(u * 5.0) - 4.0f : round % 3 == 1 ? (float)u - 2.0f : even[(int)(u * 5.0)];
            }
            for (int64_t i = 1; i < n; i++)
                best = l[i] > l[best] ? i : best;
            bl_candidate found = bl_best_token(l, n);
            ck_assert_msg(found.id == best && memcmp(&found.logit, &l[best], sizeof *l) == 0, "%d logits, round %d: %d, not %d",
                          (int)n, round, (int)found.id, (int)best);
            for (int i = 0; i < round % 4; i++) {
                const int64_t place = (int64_t)(bl_rng_unit(12, at, (uint64_t)i) * (double)n);
                l[place] = odd[(round + i) % 4];
                wrong = BL_MIN(wrong, place);
            }
            ck_assert_int_eq(bl_first_overflow(l, n), wrong);
        }
}
END_TEST

START_TEST(profile_adds_up) {
    bitlm_model *m = open_model("story", NULL);
    bitlm_session *s = open_session(m, "{\"n_ctx\":128}");
    bl_profile *p = bl_session_profile(s);
    double sum = 0;
    free(generate(s, "Once upon a time", "{\"max_tokens\":4}", NULL, 0, NULL, NULL));
    for (int i = 0; i < BL_OP_COUNT; i++)
        ck_assert_double_eq(p->seconds[i], 0); /* nobody asked */
    p->on = 1;
    double wall = 1.0;
    for (int tries = 0; tries < 10 && sum <= 0.9 * wall; tries++) { /* other programs can take the time between two operations */
        for (int i = 0; i < BL_OP_COUNT; i++)
            p->seconds[i] = 0;
        uint64_t start = bl_now_ns();
        free(generate(s, "Lily and Tom went to the park", "{\"max_tokens\":60}", NULL, 0, NULL, NULL));
        wall = (double)(bl_now_ns() - start) * 1e-9;
        sum = 0;
        for (int i = 0; i < BL_OP_COUNT; i++) {
            ck_assert_msg(p->seconds[i] > 0, "no time for %s", bl_op_name(i));
            sum += p->seconds[i];
        }
        ck_assert_msg(sum <= wall, "%g of %g seconds", sum, wall);
    }
    ck_assert_ptr_null(bl_op_name(-1));
    ck_assert_ptr_null(bl_op_name(BL_OP_COUNT));
    ck_assert_msg(sum > 0.9 * wall, "%g of %g seconds are accounted for", sum, wall);
    bitlm_session_free(s);
    bitlm_model_free(m);
}
END_TEST

/* ---- codes ---------------------------------------------------------------------------------------------- */

START_TEST(codes) {
    const uint8_t a[3] = {0xff, 0x00, 0x81}, b[3] = {0x0f, 0x00, 0x01};
    const float x[9] = {1, -1, 0, 0.5f, -0.0f, 2, -3, 1e-30f, 7}, y[2] = {0, 0}, z[2] = {3, 4}, w[2] = {-3, -4};
    uint8_t out[2];
    ck_assert_uint_eq(bitlm_hamming(a, b, 3), 5);
    ck_assert_double_eq(bitlm_similarity(a, b, 3), 19.0 / 24.0);
    ck_assert_uint_eq(bitlm_hamming(a, b, 0), 0);
    ck_assert_double_eq(bitlm_similarity(NULL, NULL, 0), 1.0);
    ck_assert_double_eq(bitlm_cosine(z, y, 2), 0.0);
    ck_assert_double_eq(bitlm_cosine(z, z, 2), 1.0);
    ck_assert_double_eq(bitlm_cosine(z, w, 2), -1.0);
    ck_assert_double_eq(bitlm_jaccard(a, b, 3), 5.0 / 10.0);
    ck_assert_double_eq(bitlm_jaccard(a, NULL, 0), 1.0);
    ck_assert_double_eq(bitlm_jaccard("\0", "\0", 1), 1.0);
    bitlm_binarize(x, 9, 0.0f, out);
    ck_assert_uint_eq(out[0], 0x95);
    ck_assert_uint_eq(out[1], 0x80);
    bitlm_binarize(x, 9, 1.5f, out);
    ck_assert_uint_eq(out[0], 0x04);
    ck_assert_str_eq(bitlm_status_name(BITLM_TIMEOUT), "TIMEOUT");
    ck_assert_str_eq(bitlm_status_name(-5), "?");
}
END_TEST

int main(void) {
    Suite *suite = suite_create("run");
    TCase *c = tcase_create("api");
    tcase_set_timeout(c, 240);
    tcase_add_test(c, plain_kernels_are_warned_of);
    tcase_add_test(c, options_refuse_what_they_do_not_know);
    tcase_add_test(c, options_take_what_they_know);
    tcase_add_test(c, finish_reasons);
    tcase_add_test(c, seeds_and_logprobs);
    tcase_add_test(c, wrong_calls);
    tcase_add_test(c, scores_are_log_probabilities);
    tcase_add_test(c, hostile_prompts);
    tcase_add_test(c, cancel_at_every_poll);
    tcase_add_test(c, a_canceled_session_goes_on);
    tcase_add_test(c, every_allocation_fails_once);
    tcase_add_test(c, steps_allocate_nothing);
    tcase_add_test(c, memory_is_planned);
    tcase_add_test(c, memory_of_the_cache);
    tcase_add_test(c, models_are_shared);
    tcase_add_test(c, threads_share_a_model);
    tcase_add_test(c, logits_in_blocks);
    tcase_add_test(c, profile_adds_up);
    tcase_add_test(c, codes);
    suite_add_tcase(suite, c);
    return run_suite(suite);
}
