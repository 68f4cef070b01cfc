/* test_answers.c - answers that are held to choices or to a JSON schema, and the probabilities of labels. */
#include <check.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "test_support.h"

#define SCHEMA                                                                                                   \
    "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\",\"maxLength\":20},"                      \
    "\"n\":{\"type\":\"integer\",\"minimum\":-12,\"maximum\":340},\"x\":{\"type\":[\"number\",\"null\"]},"       \
    "\"b\":{\"type\":\"boolean\"},\"e\":{\"enum\":[\"a\",\"ab\",1,12,null]}},\"required\":[\"n\",\"e\"]}"

static bitlm_status answer(bitlm_session *s, const char *prompt, const char *options, char *out, size_t cap,
                           int *n_tokens, bitlm_error *why) {
    bitlm_options o;
    bitlm_piece piece = {.size = sizeof piece};
    bitlm_text text = {prompt, strlen(prompt)};
    size_t used = 0;
    int finish = 0;
    bitlm_options_init(&o);
    *n_tokens = 0;
    bitlm_status status = bitlm_options_json(&o, options, strlen(options), why);
    if (!status)
        status = bitlm_generate_start(s, &text, 1, 0, &o, why);
    while (!status) {
        status = bitlm_generate_next(s, &piece, why);
        if (status)
            break;
        ck_assert_uint_lt(used + piece.text_length, cap);
        memcpy(out + used, piece.text, piece.text_length);
        used += piece.text_length;
        *n_tokens += piece.token >= 0;
        finish = piece.finish;
    }
    out[used] = 0;
    bitlm_options_clear(&o);
    if (status == BITLM_DONE) {
        ck_assert_int_eq(finish, BITLM_FINISH_STOP);
        status = BITLM_OK;
    }
    return status;
}

START_TEST(the_answer_is_a_choice) {
    static const char *const choices[] = {"yes", "no", "Yes, of course", "yes please", "\xE6\x97\xA5\xE6\x9C\xAC", " two words", "a\nb"};
    bitlm_model *m = open_model("story", NULL);
    bitlm_session *s = open_session(m, "{\"n_ctx\":128}");
    bitlm_error why = {.size = sizeof why};
    int seen[7] = {0}, n, kinds = 0;
    for (int seed = 0; seed < 200; seed++) {
        char options[300], text[100];
        snprintf(options, sizeof options,
                 "{\"choices\":[\"yes\",\"no\",\"Yes, of course\",\"yes please\",\"\xE6\x97\xA5\xE6\x9C\xAC\",\" two words\",\"a\\nb\"],"
                 "\"temperature\":%d,\"top_p\":1,\"min_p\":0,\"seed\":%d}", seed % 2 ? 20 : 2, seed);
        ck_assert_msg(answer(s, "He asked, and she said:", options, text, sizeof text, &n, &why) == BITLM_OK, "%s", why.text);
        size_t i = 0;
        while (i < 7 && strcmp(choices[i], text) != 0)
            i++;
        ck_assert_msg(i < 7, "'%s' is no choice", text);
        seen[i]++;
    }
    for (int i = 0; i < 7; i++)
        kinds += seen[i] > 0;
    printf("choices seen: %d of 7\n", kinds);
    ck_assert_int_ge(kinds, 6);
    bitlm_session_free(s);
    bitlm_model_free(m);
}
END_TEST

START_TEST(choices_fit_max_tokens_or_are_refused) {
    bitlm_model *m = open_model("story", NULL);
    bitlm_session *s = open_session(m, "{\"n_ctx\":64}");
    bitlm_error why = {.size = sizeof why};
    char text[200], options[200];
    int n;
    for (int seed = 0; seed < 50; seed++) { /* only the short one fits */
        snprintf(options, sizeof options, "{\"choices\":[\"yes\",\"a very long answer that takes many tokens\"],"
                 "\"max_tokens\":2,\"temperature\":50,\"top_p\":1,\"min_p\":0,\"seed\":%d}", seed);
        ck_assert_int_eq(answer(s, "Well?", options, text, sizeof text, &n, &why), BITLM_OK);
        ck_assert_str_eq(text, "yes");
    }
    ck_assert_int_eq(answer(s, "Well?", "{\"choices\":[\"a very long answer\"],\"max_tokens\":1}", text, sizeof text, &n, &why), BITLM_LIMIT);
    ck_assert(strstr(why.text, "max_tokens"));
    ck_assert_int_eq(answer(s, "Well?", "{\"choices\":[\"a\",\"a\"]}", text, sizeof text, &n, &why), BITLM_ARG);
    ck_assert(strstr(why.text, "twice"));
    ck_assert_int_eq(answer(s, "Well?", "{\"choices\":[]}", text, sizeof text, &n, &why), BITLM_ARG);
    ck_assert_int_eq(answer(s, "Well?", "{\"choices\":[\"\"]}", text, sizeof text, &n, &why), BITLM_ARG);
    ck_assert_int_eq(answer(s, "Well?", "{\"choices\":\"a\"}", text, sizeof text, &n, &why), BITLM_ARG);
    ck_assert_int_eq(answer(s, "Well?", "{\"choices\":[1]}", text, sizeof text, &n, &why), BITLM_ARG);
    ck_assert_int_eq(answer(s, "Well?", "{\"choices\":[\"a\"],\"stop\":\"x\"}", text, sizeof text, &n, &why), BITLM_ARG);
    ck_assert_int_eq(answer(s, "Well?", "{\"choices\":[\"a\"],\"json_schema\":{}}", text, sizeof text, &n, &why), BITLM_ARG);
    bitlm_session_free(s);
    bitlm_model_free(m);
}
END_TEST

/* Checked again by jsonschema in tests/sqlite/test_answers.py, over random schemas. */
START_TEST(an_object_of_the_schema_in_any_room) {
    bitlm_model *m = open_model("story", NULL);
    bitlm_session *s = open_session(m, "{\"n_ctx\":160}");
    bitlm_error why = {.size = sizeof why};
    int n, least = 0;
    for (int room = 1; room < 60; room++) {
        for (int seed = 0; seed < 6; seed++) {
            char options[700], text[600];
            snprintf(options, sizeof options, "{\"json_schema\":%s,\"max_tokens\":%d,\"temperature\":%d,\"top_p\":1,\"min_p\":0,"
                     "\"seed\":%d,\"ignore_eos\":%s}", SCHEMA, room, seed % 3 * 3, seed, seed % 2 ? "true" : "false");
            bitlm_status status = answer(s, "The girl said:", options, text, sizeof text, &n, &why);
            if (status == BITLM_LIMIT) {
                ck_assert_int_eq(least, 0);
                continue;
            }
            ck_assert_msg(status == BITLM_OK, "%s", why.text);
            least = least ? least : room;
            ck_assert_int_le(n, room);
            json_error_t e;
            json_t *v = json_loads(text, JSON_REJECT_DUPLICATES, &e);
            ck_assert_msg(v != NULL, "%s: %s", text, e.text);
            ck_assert(json_is_integer(json_object_get(v, "n")));
            ck_assert_int_ge(json_integer_value(json_object_get(v, "n")), -12);
            ck_assert_int_le(json_integer_value(json_object_get(v, "n")), 340);
            ck_assert_ptr_nonnull(json_object_get(v, "e"));
            json_decref(v);
        }
    }
    printf("the object takes at least %d tokens\n", least);
    ck_assert_int_gt(least, 5);
    bitlm_session_free(s);
    bitlm_model_free(m);
}
END_TEST

START_TEST(schemas_that_are_refused) {
    static const struct {
        const char *schema;
        bitlm_status status;
        const char *says;
    } cases[] = {
        {"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"object\"}}}", BITLM_UNSUPPORTED, "object in a"},
        {"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\",\"pattern\":\"x\"}}}", BITLM_UNSUPPORTED, "pattern"},
        {"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"number\",\"minimum\":1}}}", BITLM_UNSUPPORTED, "minimum"},
        {"{\"type\":\"object\",\"properties\":{\"a\":{\"enum\":[[1]]}}}", BITLM_UNSUPPORTED, "enum"},
        {"{\"type\":\"array\"}", BITLM_UNSUPPORTED, "other than object"},
        {"{\"oneOf\":[]}", BITLM_UNSUPPORTED, "oneOf"},
        {"{\"type\":\"object\"}", BITLM_ARG, "properties"},
        {"{\"type\":\"object\",\"properties\":{\"a\":{}}}", BITLM_ARG, "no type"},
        {"{\"type\":\"object\",\"properties\":{\"a\":{\"enum\":[]}}}", BITLM_ARG, "at least one"},
        {"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\",\"minimum\":5,\"maximum\":4}}}", BITLM_ARG, "above"},
        {"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"null\"}},\"required\":[\"b\"]}", BITLM_ARG, "required names b"},
        {"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\",\"minLength\":200}}}", BITLM_LIMIT, "max_tokens"},
        {"\"{]\"", BITLM_ARG, "not valid JSON"},
    };
    bitlm_model *m = open_model("story", NULL);
    bitlm_session *s = open_session(m, "{\"n_ctx\":160}");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bitlm_error why = {.size = sizeof why};
        char options[400], text[600];
        int n;
        snprintf(options, sizeof options, "{\"json_schema\":%s}", cases[i].schema);
        bitlm_status status = answer(s, "x", options, text, sizeof text, &n, &why);
        ck_assert_msg(status == cases[i].status && strstr(why.text, cases[i].says), "%s: %d %s", cases[i].schema, status, why.text);
    }
    bitlm_session_free(s);
    bitlm_model_free(m);
}
END_TEST

/* Sampling under choices and bitlm_classify reach the same distribution by different ways. */
START_TEST(labels_have_the_probability_with_which_they_are_drawn) {
    enum { N = 1500 };
    static const char labels[] = "[\"sad\",\"sadder\",\"happy\",\"the end\"]";
    static const char *const names[] = {"sad", "sadder", "happy", "the end"};
    bitlm_model *m = open_model("story", NULL);
    bitlm_session *s = open_session(m, "{\"n_ctx\":64}");
    bitlm_error why = {.size = sizeof why};
    bitlm_options o;
    double p[4], sum = 0;
    int drawn[4] = {0}, n;
    bitlm_options_init(&o);
    ck_assert_int_eq(bitlm_options_choices(&o, labels, strlen(labels), &why), BITLM_OK);
    ck_assert_int_eq(bitlm_classify(s, "The king rode away", 18, &o, p, &why), BITLM_OK);
    for (int seed = 0; seed < N; seed++) {
        char options[200], text[60];
        snprintf(options, sizeof options, "{\"choices\":%s,\"temperature\":1,\"top_p\":1,\"min_p\":0,\"seed\":%d}", labels, seed);
        ck_assert_int_eq(answer(s, "The king rode away\nLabel (sad, sadder, happy, the end):", options, text, sizeof text, &n, &why), BITLM_OK);
        for (int i = 0; i < 4; i++)
            drawn[i] += strcmp(text, names[i]) == 0;
    }
    for (int i = 0; i < 4; i++) {
        double deviation = sqrt(p[i] * (1 - p[i]) / N);
        printf("%-8s probability %.4f, drawn %.4f\n", names[i], p[i], (double)drawn[i] / N);
        ck_assert_double_le(fabs((double)drawn[i] / N - p[i]), 4 * deviation + 1e-9);
        ck_assert(p[i] > 0);
        sum += p[i];
    }
    ck_assert_double_eq_tol(sum, 1, 1e-12);
    char json[200];
    size_t length;
    ck_assert_int_eq(bitlm_classification_json(&o, p, json, 5, &length, &why), BITLM_LIMIT);
    ck_assert_int_eq(bitlm_classification_json(&o, p, json, sizeof json, &length, &why), BITLM_OK);
    bitlm_options_clear(&o);
    ck_assert_int_eq(bitlm_classify(s, "x", 1, &o, p, &why), BITLM_ARG);
    bitlm_session_free(s);
    bitlm_model_free(m);
}
END_TEST

typedef struct host_state {
    int allocations, fail_at, polls, stop_at;
} host_state;

static void *counted_alloc(void *context, size_t size) {
    host_state *h = context;
    return ++h->allocations == h->fail_at ? NULL : malloc(size ? size : 1);
}
static void counted_release(void *context, void *memory) {
    (void)context;
    free(memory);
}
static int32_t counted_poll(void *context) {
    host_state *h = context;
    return ++h->polls == h->stop_at;
}

static bitlm_status whole_job(bitlm_model *m, bitlm_model *em, host_state *h, bitlm_error *why) {
    bitlm_host host = {sizeof host, 0, h, counted_poll, counted_alloc, counted_release, NULL};
    bitlm_session *s = NULL, *e = NULL;
    bitlm_options o;
    char text[400];
    double p[3];
    int n;
    bitlm_options_init(&o);
    o.n_ctx = 96;
    bitlm_status status = bitlm_session_open(m, &o, &host, &s, why);
    if (!status)
        status = answer(s, "He", "{\"choices\":[\"yes\",\"no\",\"yes or no\"]}", text, sizeof text, &n, why);
    if (!status)
        status = answer(s, "He", "{\"max_tokens\":40,\"json_schema\":" SCHEMA "}", text, sizeof text, &n, why);
    if (!status)
        status = bitlm_options_choices(&o, "[\"one\",\"two\",\"two three\"]", 25, why);
    if (!status)
        status = bitlm_classify(s, "some text", 9, &o, p, why);
    if (!status)
        status = bitlm_session_open(em, &o, &host, &e, why);
    if (!status)
        status = bitlm_classify(e, "some text", 9, &o, p, why);
    bitlm_session_free(s);
    bitlm_session_free(e);
    bitlm_options_clear(&o);
    return status;
}

START_TEST(every_allocation_fails_and_every_poll_stops_once) {
    bitlm_model *m = open_model("story", NULL), *em = open_model("embed", NULL);
    for (int what = 0; what < 2; what++) {
        int failed = 0;
        for (int at = 1;; at++) {
            bitlm_error why = {.size = sizeof why};
            host_state h = {0};
            *(what ? &h.stop_at : &h.fail_at) = at;
            bitlm_status status = whole_job(m, em, &h, &why);
            if (status == BITLM_OK)
                break;
            ck_assert_msg(status == (what ? BITLM_CANCELED : BITLM_NOMEM), "%d: %s", status, why.text);
            failed++;
        }
        printf("%d %s in turn\n", failed, what ? "polls stopped" : "allocations failed");
        ck_assert_int_gt(failed, 20);
    }
    bitlm_model_free(m);
    bitlm_model_free(em);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("answers");
    TCase *c = tcase_create("answers");
    tcase_set_timeout(c, 300);
    tcase_add_test(c, the_answer_is_a_choice);
    tcase_add_test(c, choices_fit_max_tokens_or_are_refused);
    tcase_add_test(c, an_object_of_the_schema_in_any_room);
    tcase_add_test(c, schemas_that_are_refused);
    tcase_add_test(c, labels_have_the_probability_with_which_they_are_drawn);
    tcase_add_test(c, every_allocation_fails_and_every_poll_stops_once);
    suite_add_tcase(suite, c);
    return run_suite(suite);
}
