/* test_rows.c - many texts at once, shared beginnings and lookup: each gives the same tokens, log
 * probabilities and text as one prompt alone in a fresh session. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "test_support.h"

#define MOST 24   /* prompts of a case */
#define ROOM 200  /* tokens of an answer */

typedef struct answer {
    int32_t ids[ROOM], n, finish;
    float logprobs[ROOM];
    char text[4096];
    size_t length;
} answer;

static bitlm_options options_of(const char *json) {
    bitlm_options o;
    bitlm_error e = {.size = sizeof e};
    bitlm_options_init(&o);
    ck_assert_msg(bitlm_options_json(&o, json, strlen(json), &e) == BITLM_OK, "%s", e.text);
    o.logprobs = 1;
    o.truncate = BITLM_TRUNCATE_END; /* where a letter is a token */
    return o;
}

static bitlm_status run(bitlm_session *s, const bitlm_text *prompts, size_t n, uint32_t flags,
                        const bitlm_options *o, answer *out, bitlm_error *why) {
    bitlm_piece piece = {.size = sizeof piece};
    memset(out, 0, n * sizeof *out);
    bitlm_status status = bitlm_generate_start(s, prompts, n, flags, o, why);
    while (!status && (status = bitlm_generate_next(s, &piece, why)) == BITLM_OK) {
        ck_assert(piece.row >= 0 && piece.row < (int32_t)n);
        answer *a = &out[piece.row];
        ck_assert_int_eq(a->finish, 0);
        if (piece.token >= 0) {
            ck_assert_int_eq(piece.n, a->n);
            ck_assert_int_lt(a->n, ROOM);
            a->logprobs[a->n] = piece.logprob;
            a->ids[a->n++] = piece.token;
        }
        ck_assert_uint_lt(a->length + piece.text_length, sizeof a->text);
        if (piece.text_length)
            memcpy(a->text + a->length, piece.text, piece.text_length);
        a->length += piece.text_length;
        a->finish = piece.finish;
    }
    return status;
}

static void must_run(bitlm_session *s, const bitlm_text *prompts, size_t n, const bitlm_options *o, answer *out) {
    bitlm_error why = {.size = sizeof why};
    bitlm_status status = run(s, prompts, n, 0, o, out, &why);
    ck_assert_msg(status == BITLM_DONE, "%s", why.text);
    for (size_t i = 0; i < n; i++)
        ck_assert_int_ne(out[i].finish, 0);
}

static void same(const answer *a, const answer *b, const char *what, size_t row) {
    ck_assert_msg(a->n == b->n && a->finish == b->finish && a->length == b->length &&
                      memcmp(a->ids, b->ids, (size_t)a->n * sizeof *a->ids) == 0 &&
                      memcmp(a->logprobs, b->logprobs, (size_t)a->n * sizeof *a->logprobs) == 0 &&
                      memcmp(a->text, b->text, a->length) == 0,
                  "%s: row %zu differs: %d and %d tokens, finish %d and %d,\n%.*s\n---\n%.*s", what, row, a->n, b->n,
                  a->finish, b->finish, (int)a->length, a->text, (int)b->length, b->text);
}

static const char *const prompts_of_all_kinds[] = {
    "Once upon a time",
    "Once upon a time there was a little fox who lived in the wood, and the fox had a friend",
    "Once upon a time there was a little fox who lived in the wood, and the hare had a friend",
    "",
    "The king said to the queen: Where is the ring? The queen said to the king: Where is the ring? The king said",
    "One, two, three, four. One, two, three, four. One, two,",
    "Long ago",
    "Long ago",
    "a\nb\n\xff",
    "The mouse and the mouse and the mouse and the mouse and the",
    "Once upon a time there was a little fox",
    "x",
};
#define KINDS (sizeof prompts_of_all_kinds / sizeof *prompts_of_all_kinds)

static size_t all_kinds(bitlm_text *out) {
    for (size_t i = 0; i < 2 * KINDS; i++) {
        const char *text = prompts_of_all_kinds[i % KINDS];
        out[i] = (bitlm_text){text, strlen(text)};
    }
    return 2 * KINDS;
}

static const char *const samplings[] = {
    "{\"max_tokens\":24,\"temperature\":0,\"repeat_penalty\":1}",
    "{\"max_tokens\":40,\"temperature\":0.9,\"seed\":3}",
    "{\"max_tokens\":17,\"temperature\":1.5,\"top_p\":1,\"min_p\":0,\"top_k\":5,\"repeat_penalty\":1.5,\"ignore_eos\":true}",
    "{\"max_tokens\":30,\"temperature\":0.4,\"stop\":[\"the \",\"ing\"],\"repeat_penalty\":1}",
    "{\"max_tokens\":12,\"choices\":[\"the fox\",\"the hare\",\"the\"],\"temperature\":1}",
    "{\"max_tokens\":1}",
    "{\"max_tokens\":0}",
};
#define SAMPLINGS (sizeof samplings / sizeof *samplings)

static const char *const shapes[] = {
    "{\"n_ctx\":64}", "{\"n_ctx\":512,\"threads\":2}", "{\"n_ctx\":64,\"rows\":8,\"threads\":3}",
    "{\"n_ctx\":64,\"rows\":16,\"kv_type\":\"int8\"}", "{\"n_ctx\":100,\"rows\":3,\"kv_type\":\"int4\"}",
};
static const char *const alone[] = {"{\"n_ctx\":64}", "{\"n_ctx\":512}", "{\"n_ctx\":64}",
                                    "{\"n_ctx\":64,\"kv_type\":\"int8\"}", "{\"n_ctx\":100,\"kv_type\":\"int4\"}"};
static const int lookups[] = {0, 3, 15};

/* Each sampling and shape: prompts alone in fresh sessions, then together, then one after the other in one
 * session, with and without lookup. */
static void check_model(const char *name, size_t step) {
    static answer want[MOST], got[MOST];
    bitlm_text prompts[MOST];
    bitlm_model *m = open_model(name, NULL);
    size_t n = all_kinds(prompts), cases = 0;
    for (size_t shape = 0; shape < sizeof shapes / sizeof *shapes; shape++)
        for (size_t i = shape % step; i < SAMPLINGS; i += step) {
            bitlm_options o = options_of(samplings[i]);
            char what[300];
            for (size_t row = 0; row < KINDS; row++) {
                bitlm_session *s = open_session(m, alone[shape]);
                must_run(s, &prompts[row], 1, &o, &want[row]);
                bitlm_session_free(s);
            }
            bitlm_session *s = open_session(m, shapes[shape]), *one = open_session(m, alone[shape]);
            for (size_t k = 0; k < sizeof lookups / sizeof *lookups; k++) {
                o.lookup = lookups[k];
                snprintf(what, sizeof what, "%s %s %s lookup %d", name, shapes[shape], samplings[i], o.lookup);
                must_run(s, prompts, n, &o, got);
                for (size_t row = 0; row < n; row++)
                    same(&want[row % KINDS], &got[row], what, row);
                /* few rows leave more logits to a guess */
                must_run(s, prompts + 3, 3, &o, got);
                for (size_t row = 0; row < 3; row++)
                    same(&want[row + 3], &got[row], what, row);
                for (size_t row = 0; row < KINDS; row++) {
                    must_run(one, &prompts[row], 1, &o, got);
                    same(&want[row], got, what, row);
                }
                cases++;
            }
            bitlm_session_free(s);
            bitlm_session_free(one);
            bitlm_options_clear(&o);
        }
    printf("%s: %zu cases\n", name, cases);
    bitlm_model_free(m);
}

/* Set where each case costs ten times as much: fewer of them. */
static int is_short(void) { return getenv("BITLM_SHORT") != NULL; }

START_TEST(story_rows) { check_model("story", is_short() ? 7 : 3); }
END_TEST

START_TEST(tiny_rows) {
    static const char *const files[] = {"tiny/tiny-i2_s-f16.gguf.xz", "tiny/tiny-Q4_K_M.gguf.xz",
                                        "tiny/tiny-Q8_0.gguf.xz"};
    for (size_t i = 0; i < sizeof files / sizeof *files && !(i && is_short()); i++) {
        char *path = unpack(files[i]);
        check_model(path, 7);
        remove(path);
        free(path);
    }
}
END_TEST

/* After a long prompt a session computes only what is new, and forgets when the cache is overwritten. */
START_TEST(beginnings_are_kept) {
    static answer want, got;
    bitlm_model *m = open_model("story", NULL);
    bitlm_session *s = open_session(m, NULL), *fresh = open_session(m, NULL);
    bitlm_options o = options_of("{\"max_tokens\":8}");
    char long_text[1200], other[1200];
    int32_t ids[300] = {1};
    float scores[300];
    for (size_t i = 0; i + 12 < sizeof long_text; i += 12)
        memcpy(long_text + i, "the old fox ", 13);
    strcpy(other, long_text);
    strcpy(other + 1150, "and a hare");
    bitlm_text a = {long_text, strlen(long_text)}, b = {other, strlen(other)};
    must_run(fresh, &b, 1, &o, &want);
    must_run(s, &a, 1, &o, &got);
    must_run(s, &b, 1, &o, &got);
    same(&want, &got, "second", 0);
    ck_assert_int_eq(bitlm_score(s, ids, 300, scores, NULL), BITLM_OK);
    must_run(s, &b, 1, &o, &got);
    same(&want, &got, "after score", 0);
    bitlm_session_free(s);
    bitlm_session_free(fresh);
    bitlm_model_free(m);
}
END_TEST

START_TEST(refused_prompts) {
    static answer got[5], want;
    char *big = malloc(20000);
    bitlm_error why = {.size = sizeof why};
    bitlm_model *m = open_model("story", NULL);
    bitlm_session *s = open_session(m, "{\"n_ctx\":64,\"rows\":2}");
    bitlm_options o = options_of("{\"max_tokens\":5}");
    o.truncate = BITLM_TRUNCATE_NONE;
    memset(big, 'a', 20000);
    bitlm_text prompts[] = {{big, 20000}, {"The fox", 7}, {big, 20000}, {"The fox", 7}, {big, 20000}};
    ck_assert_int_eq(run(s, prompts, 5, 0, &o, got, &why), BITLM_LIMIT);
    ck_assert_msg(strstr(why.text, "prompt 0: the prompt of 20000 bytes"), "%s", why.text);
    ck_assert_int_eq(run(s, prompts, 5, BITLM_GENERATE_SKIP, &o, got, &why), BITLM_DONE);
    must_run(s, prompts + 1, 1, &o, &want);
    for (size_t i = 0; i < 5; i++)
        if (i % 2)
            same(&want, &got[i], "not refused", i);
        else
            ck_assert_int_eq(got[i].finish, BITLM_FINISH_REFUSED);
    ck_assert_int_eq(run(s, NULL, 0, 0, &o, got, &why), BITLM_DONE);
    o.lookup = 16;
    ck_assert_int_eq(run(s, prompts + 1, 1, 0, &o, got, &why), BITLM_ARG);
    ck_assert(strstr(why.text, "lookup is 16"));
    free(big);
    bitlm_session_free(s);
    bitlm_model_free(m);
}
END_TEST

/* ---- polls and memory ------------------------------------------------------------------------------- */

typedef struct host_state {
    int polls, stop_at, allocations, fail_at, live;
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

static bitlm_status many(const bitlm_host *host, answer *got, bitlm_error *why, int *steps_allocate) {
    host_state *h = host->context;
    bitlm_text prompts[MOST];
    bitlm_model *m = open_model("story", NULL);
    bitlm_session *s = NULL;
    bitlm_options o = options_of("{\"max_tokens\":6,\"n_ctx\":64,\"rows\":4,\"lookup\":3,\"threads\":2}");
    all_kinds(prompts);
    bitlm_status status = bitlm_session_open(m, &o, host, &s, why);
    if (!status) {
        status = bitlm_generate_start(s, prompts, KINDS, 0, &o, why);
        int before = h->allocations;
        bitlm_piece piece = {.size = sizeof piece};
        while (!status)
            status = bitlm_generate_next(s, &piece, why);
        *steps_allocate = h->allocations != before;
    }
    if (status == BITLM_DONE)
        status = run(s, prompts, KINDS, 0, &o, got, why);
    if (s && status == BITLM_CANCELED) /* the session goes on */
        ck_assert_int_eq(run(s, prompts, KINDS, 0, &o, got, why), BITLM_DONE);
    bitlm_session_free(s);
    bitlm_model_free(m);
    return status;
}

START_TEST(stopped_at_every_poll) {
    static answer want[MOST], got[MOST];
    bitlm_error why = {.size = sizeof why};
    host_state quiet = {0};
    bitlm_host host = {.size = sizeof host, .context = &quiet, .poll = poll_host};
    int allocates, stop;
    ck_assert_int_eq(many(&host, want, &why, &allocates), BITLM_DONE);
    for (stop = 1;; stop++) {
        host_state h = {.stop_at = stop};
        host.context = &h;
        bitlm_status status = many(&host, got, &why, &allocates);
        if (status == BITLM_DONE) /* a quick run has fewer polls */
            break;
        ck_assert_msg(status == BITLM_CANCELED, "%s", why.text);
        for (size_t i = 0; i < KINDS; i++)
            same(&want[i], &got[i], "after a stop", i);
    }
    printf("stopped at each of %d polls\n", stop - 1);
    ck_assert_int_gt(stop, 10);
}
END_TEST

START_TEST(every_allocation_fails) {
    static answer got[MOST];
    bitlm_error why = {.size = sizeof why};
    int fail, allocates = 1;
    for (fail = 1;; fail++) {
        host_state h = {.fail_at = fail};
        bitlm_host host = {.size = sizeof host, .context = &h, .alloc = alloc_host, .release = release_host};
        bitlm_status status = many(&host, got, &why, &allocates);
        ck_assert_int_eq(h.live, 0);
        if (status == BITLM_DONE)
            break;
        ck_assert_msg(status == BITLM_NOMEM, "allocation %d: %s", fail, why.text);
    }
    ck_assert_int_eq(allocates, 0);
    printf("each of %d allocations failed in turn\n", fail - 1);
    ck_assert_int_gt(fail, 10);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("rows");
    TCase *c = tcase_create("rows");
    tcase_set_timeout(c, 240);
    tcase_add_test(c, story_rows);
    tcase_add_test(c, tiny_rows);
    tcase_add_test(c, beginnings_are_kept);
    tcase_add_test(c, refused_prompts);
    tcase_add_test(c, stopped_at_every_poll);
    tcase_add_test(c, every_allocation_fails);
    suite_add_tcase(suite, c);
    return run_suite(suite);
}
