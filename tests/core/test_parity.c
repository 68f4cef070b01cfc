/* test_parity.c - the runtime against independent implementations: the built-in models against a
 * float64 NumPy evaluation (tests/data/parity), tiny random models in ten tensor types against
 * llama.cpp and bitnet.cpp, and of other families against transformers (tests/data/tiny; tests/data/README.md says how they were made).
 * The figures are printed, not only asserted. */
#include <check.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "test_support.h"

#define MAX_IDS 1024

static size_t ids_of(json_t *array, int32_t *ids) {
    size_t n = json_array_size(array);
    ck_assert_uint_le(n, MAX_IDS);
    for (size_t i = 0; i < n; i++) {
        json_t *v = json_array_get(array, i);
        ids[i] = json_is_string(v) ? atoi(json_string_value(v)) : (int32_t)json_integer_value(v);
    }
    return n;
}

static float *logits_of(bitlm_model *m, const char *options, const int32_t *ids, size_t n) {
    bitlm_model_info info = {.size = sizeof info};
    bitlm_session *s = open_session(m, options);
    bitlm_error e = {.size = sizeof e};
    bitlm_model_describe(m, &info, NULL);
    float *out = malloc(n * (size_t)info.vocab_size * sizeof(float));
    ck_assert_msg(bitlm_logits(s, ids, n, out, &e) == BITLM_OK, "%s", e.text);
    bitlm_session_free(s);
    return out;
}

static double max_difference(const float *a, const float *b, size_t n) {
    double most = 0;
    for (size_t i = 0; i < n; i++)
        most = fmax(most, fabs((double)a[i] - (double)b[i]));
    return most;
}

static size_t argmax(const float *x, size_t n) {
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (x[i] > x[best])
            best = i;
    return best;
}

START_TEST(story_logits) {
    static const struct { const char *options; double limit; } kv[] = {
        {"{\"kv_type\":\"f32\"}", 0.02}, {"{\"kv_type\":\"f16\"}", 0.15}};
    json_t *golden = load_json("parity/story.json");
    int32_t ids[MAX_IDS];
    size_t n = ids_of(json_object_get(golden, "logits_ids"), ids), size;
    float *want = load_file("parity/story.logits.f32", &size);
    ck_assert_uint_eq(size, n * 4096 * sizeof(float));
    bitlm_model *m = open_model("story", NULL);
    for (size_t k = 0; k < 2; k++) {
        float *got = logits_of(m, kv[k].options, ids, n);
        double delta = max_difference(got, want, n * 4096);
        size_t same = 0;
        for (size_t i = 0; i < n; i++)
            same += argmax(got + i * 4096, 4096) == argmax(want + i * 4096, 4096);
        printf("story logits, %s: max |delta| %.6f over %zu x 4096 (limit %g), argmax equal %zu of %zu\n",
               kv[k].options, delta, n, kv[k].limit, same, n);
        ck_assert_double_le(delta, kv[k].limit);
        free(got);
    }
    bitlm_model_free(m);
    free(want);
    json_decref(golden);
}
END_TEST

/* Activations in fewer bits, against numpy_forward.py; two positions of each. */
START_TEST(story_activations) {
    static const char *const options[] = {"{\"kv_type\":\"f32\",\"activations\":\"a4.8\"}",
                                          "{\"kv_type\":\"f32\",\"activations\":\"binary\"}"};
    enum { ROWS = 2 };
    json_t *golden = load_json("parity/story.json");
    int32_t ids[MAX_IDS];
    size_t n = ids_of(json_object_get(golden, "logits_ids"), ids), size;
    float *want = load_file("parity/story.activations.f32", &size);
    ck_assert_uint_eq(size, 2 * ROWS * 4096 * sizeof(float));
    bitlm_model *m = open_model("story", NULL);
    for (size_t k = 0; k < 2; k++) {
        float *got = logits_of(m, options[k], ids, n);
        double delta = max_difference(got + (n - ROWS) * 4096, want + k * ROWS * 4096, ROWS * 4096);
        printf("story logits, %s: max |delta| %.6f over %d x 4096 (limit .02)\n", options[k], delta, ROWS);
        ck_assert_double_le(delta, 0.02);
        free(got);
    }
    bitlm_model_free(m);
    free(want);
    json_decref(golden);
}
END_TEST

/* Greedy ids equal the reference's as long as its top two logits differ by more than `tolerance`;
 * where a nearer tie goes the other way the texts part, and that is counted. */
START_TEST(story_greedy) {
    static const struct { const char *kv; double tolerance; } modes[] = {{"f32", 0.02}, {"f16", 0.15}};
    json_t *golden = load_json("parity/story.json"), *g;
    size_t index;
    bitlm_model *m = open_model("story", NULL);
    for (size_t k = 0; k < 2; k++) {
        char options[200];
        size_t total = 0, same = 0, whole = 0;
        snprintf(options, sizeof options, "{\"temperature\":0,\"repeat_penalty\":1,\"max_tokens\":48,"
                 "\"ignore_eos\":true,\"kv_type\":\"%s\"}", modes[k].kv);
        bitlm_session *s = open_session(m, options);
        json_array_foreach(json_object_get(golden, "greedy"), index, g) {
            int32_t prompt[MAX_IDS], want[MAX_IDS], got[MAX_IDS];
            size_t n_prompt = ids_of(json_object_get(g, "ids"), prompt), n_got;
            size_t n_want = ids_of(json_object_get(g, "greedy"), want);
            const char *text = json_string_value(json_object_get(g, "prompt"));
            double margin = json_number_value(json_object_get(g, "min_margin"));
            ck_assert_int_eq(bitlm_tokenize(m, text, strlen(text), BITLM_TOKENS_FRAME, NULL, got, MAX_IDS, &n_got, NULL), 0);
            ck_assert_uint_eq(n_got, n_prompt);
            ck_assert_mem_eq(got, prompt, n_prompt * sizeof *got);
            char *answer = generate(s, text, options, got, MAX_IDS, &n_got, NULL);
            ck_assert_uint_eq(n_got, n_want);
            size_t equal = 0;
            while (equal < n_want && got[equal] == want[equal])
                equal++;
            total += n_want;
            same += equal;
            whole += equal == n_want;
            if (margin > modes[k].tolerance) {
                char *full = malloc(strlen(text) + strlen(answer) + 1);
                strcat(strcpy(full, text), answer);
                ck_assert_uint_eq(equal, n_want);
                ck_assert_str_eq(full, json_string_value(json_object_get(g, "text")));
                free(full);
            }
            free(answer);
        }
        printf("story greedy, kv %s: %zu of %zu ids equal before the first difference, %zu of %zu texts whole\n",
               modes[k].kv, same, total, whole, json_array_size(json_object_get(golden, "greedy")));
        ck_assert_uint_ge(same * 10, total * 9);
        bitlm_session_free(s);
    }
    bitlm_model_free(m);
    json_decref(golden);
}
END_TEST

static int hex_digit(char c) { return c <= '9' ? c - '0' : (c | 32) - 'a' + 10; }

START_TEST(embed_vectors_and_codes) {
    json_t *golden = load_json("parity/embed.json"), *t;
    json_t *texts = json_object_get(golden, "texts");
    size_t index, n = json_array_size(texts), dim = 384, near = 0, bits_equal = 0, bits_doubtful = 0;
    double worst = 0;
    bitlm_model *m = open_model("embed", NULL);
    bitlm_session *s = open_session(m, NULL);
    bitlm_text *rows = calloc(n, sizeof *rows);
    float *vectors = malloc(n * dim * sizeof(float));
    uint8_t *codes = malloc(n * dim / 8);
    json_array_foreach(texts, index, t) {
        json_t *text = json_object_get(t, "text");
        int32_t want[MAX_IDS], got[MAX_IDS];
        size_t n_want = ids_of(json_object_get(t, "ids"), want), n_got;
        rows[index] = (bitlm_text){json_string_value(text), json_string_length(text)};
        ck_assert_int_eq(bitlm_tokenize(m, rows[index].data, rows[index].length, BITLM_TOKENS_FRAME, NULL, got, MAX_IDS,
                                        &n_got, NULL), 0);
        ck_assert_uint_eq(n_got, n_want);
        ck_assert_mem_eq(got, want, n_got * sizeof *got);
    }
    ck_assert_int_eq(bitlm_embed_batch(s, rows, n, BITLM_EMBED_F32, NULL, vectors, dim * 4, NULL, NULL), 0);
    ck_assert_int_eq(bitlm_embed_batch(s, rows, n, BITLM_EMBED_BITS, NULL, codes, dim / 8, NULL, NULL), 0);
    json_array_foreach(texts, index, t) {
        json_t *e = json_object_get(t, "embedding");
        const char *hex = json_string_value(json_object_get(t, "code"));
        double delta = 0;
        for (size_t i = 0; i < dim; i++) {
            double want = json_number_value(json_array_get(e, i));
            int bit = hex_digit(hex[i / 4]) >> (3 - i % 4) & 1, ours = codes[index * dim / 8 + i / 8] >> (7 - i % 8) & 1;
            delta = fmax(delta, fabs(want - (double)vectors[index * dim + i]));
            ck_assert_int_eq(ours, vectors[index * dim + i] > 0);
            if (fabs(want) >= 0.004)
                ck_assert_int_eq(bit, ours);
            bits_equal += bit == ours;
            bits_doubtful += fabs(want) < 0.004;
        }
        worst = fmax(worst, delta);
        near += delta <= 1e-5;
        ck_assert_double_le(delta, 0.004);
    }
    printf("embed: max |delta| %.6f over %zu texts (limit 0.004), %zu of them within 1e-5, code bits equal %zu of %zu "
           "(%zu lie nearer zero than the tolerance)\n", worst, n, near, bits_equal, n * dim, bits_doubtful);
    ck_assert_uint_ge(near * 2, n);
    free(rows);
    free(vectors);
    free(codes);
    bitlm_session_free(s);
    bitlm_model_free(m);
    json_decref(golden);
}
END_TEST

static const char *const tiny_types[] = {"f16-f16", "Q8_0", "Q4_0", "Q4_1", "Q4_K_M", "Q6_K",
                                         "tq1_0-f16", "tq2_0-f16", "q2_0-f16", "i2_s-f16"};

START_TEST(tiny_models) {
    static const int32_t ids[16] = {510, 12, 301, 77, 45, 400, 8, 255, 256, 300, 301, 302, 17, 99, 450, 3};
    const char *type = tiny_types[_i];
    char name[80];
    size_t size, same = 0;
    double worst = 1;
    snprintf(name, sizeof name, "tiny/tiny-%s.logits.f32", type);
    float *want = load_file(name, &size);
    ck_assert_uint_eq(size, 16 * 512 * sizeof(float));
    snprintf(name, sizeof name, "tiny/tiny-%s.gguf.xz", type);
    char *path = unpack(name);
    bitlm_model *m = open_model(path, "{\"hidden_act\":\"relu2\"}");
    float *got = logits_of(m, "{\"kv_type\":\"f32\"}", ids, 16);
    for (size_t t = 0; t < 16; t++) {
        const float *a = got + t * 512, *b = want + t * 512;
        double ab = 0, aa = 0, bb = 0;
        for (size_t i = 0; i < 512; i++) {
            ab += (double)a[i] * (double)b[i];
            aa += (double)a[i] * (double)a[i];
            bb += (double)b[i] * (double)b[i];
        }
        worst = fmin(worst, ab / sqrt(aa * bb));
        same += argmax(a, 512) == argmax(b, 512);
    }
    printf("tiny %-9s: least cosine %.6f, argmax equal %zu of 16, max |delta| %.4f\n", type, worst, same,
           max_difference(got, want, 16 * 512));
    ck_assert_double_ge(worst, 0.999);
    ck_assert_uint_eq(same, 16);
    free(got);
    free(want);
    bitlm_model_free(m);
    remove(path);
    free(path);
}
END_TEST

static const char *const families[] = {"llama",  "qwen2", "qwen3",    "llama3",
                                       "linear", "yarn",  "qwen3moe", "qwen2moe"};

/* F16 weights and a float cache on our side, float64 on theirs: nothing is quantized. */
START_TEST(tiny_families) {
    static const int32_t ids[17] = {3, 17, 250, 9, 9, 128, 77, 1, 201, 64, 33, 5, 254, 100, 42, 8, 19};
    char name[80];
    size_t size;
    snprintf(name, sizeof name, "tiny/tiny-%s.logits.f32", families[_i]);
    float *want = load_file(name, &size);
    ck_assert_uint_eq(size, 17 * 256 * sizeof(float));
    snprintf(name, sizeof name, "tiny/tiny-%s.gguf.xz", families[_i]);
    char *path = unpack(name);
    bitlm_model *m = open_model(path, NULL);
    float *got = logits_of(m, "{\"kv_type\":\"f32\"}", ids, 17);
    double delta = max_difference(got, want, 17 * 256);
    printf("tiny %s against transformers: max |delta| %.2g\n", families[_i], delta);
    ck_assert_double_le(delta, 1e-4);
    free(got);
    free(want);
    bitlm_model_free(m);
    remove(path);
    free(path);
}
END_TEST

static const char *const layouts[] = {"falcon3-i2_s", "falcon3-tq1_0", "trilm",     "bonsai-q1_0",
                                      "bonsai-q2_0",  "bitnet-scale",  "bitnet-key"};

/* 1-bit files against a float64 evaluation that quantizes inputs as ours does: what is left is float32. */
START_TEST(tiny_layouts) {
    static const int32_t ids[17] = {3, 17, 250, 9, 9, 128, 77, 1, 201, 64, 33, 5, 254, 100, 42, 8, 19};
    char name[80];
    size_t size, same = 0;
    double square = 0;
    snprintf(name, sizeof name, "tiny/tiny-%s.logits.f32", layouts[_i]);
    float *want = load_file(name, &size);
    ck_assert_uint_eq(size, 17 * 256 * sizeof(float));
    snprintf(name, sizeof name, "tiny/tiny-%s.gguf.xz", layouts[_i]);
    char *path = unpack(name);
    bitlm_model *m = open_model(path, NULL);
    float *got = logits_of(m, "{\"kv_type\":\"f32\"}", ids, 17);
    for (size_t i = 0; i < 17 * 256; i++)
        square += (double)want[i] * (double)want[i];
    for (size_t t = 0; t < 17; t++)
        same += argmax(got + t * 256, 256) == argmax(want + t * 256, 256);
    double rms = sqrt(square / (17 * 256)), delta = max_difference(got, want, 17 * 256) / rms;
    printf("tiny %-13s: max |delta| %.2g of the logits' rms %.2f, argmax equal %zu of 17\n", layouts[_i], delta, rms,
           same);
    ck_assert_double_le(delta, 1e-3);
    ck_assert_uint_eq(same, 17);
    free(got);
    free(want);
    bitlm_model_free(m);
    remove(path);
    free(path);
}
END_TEST

/* Norms on the inputs of linear layers, the last token's vector: BitNet-embedding's graph. */
START_TEST(tiny_embedder) {
    static const bitlm_text text = {"a letter about tax", 18};
    size_t size;
    float *want = load_file("tiny/tiny-embed.logits.f32", &size), got[64];
    ck_assert_uint_eq(size, sizeof got);
    char *path = unpack("tiny/tiny-embed.gguf.xz");
    bitlm_model *m = open_model(path, NULL);
    bitlm_session *s = open_session(m, "{\"kv_type\":\"f32\",\"n_ctx\":64}");
    bitlm_error e = {.size = sizeof e};
    ck_assert_msg(bitlm_embed_batch(s, &text, 1, BITLM_EMBED_F32, NULL, got, sizeof got, NULL, &e) == BITLM_OK, "%s", e.text);
    double delta = max_difference(got, want, 64);
    printf("tiny embed against transformers: max |delta| %.2g\n", delta);
    ck_assert_double_le(delta, 1e-5);
    bitlm_text many[40];
    float *all = malloc(40 * sizeof got);
    for (int i = 0; i < 40; i++)
        many[i] = i % 2 ? text : (bitlm_text){"something else, long enough to matter", (size_t)i};
    ck_assert_int_eq(bitlm_embed_batch(s, many, 40, BITLM_EMBED_F32, NULL, all, sizeof got, NULL, &e), BITLM_OK);
    for (int i = 1; i < 40; i += 2)
        ck_assert_mem_eq(all + i * 64, got, sizeof got);
    free(all);
    free(want);
    bitlm_session_free(s);
    bitlm_model_free(m);
    remove(path);
    free(path);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("parity");
    TCase *c = tcase_create("reference");
    tcase_set_timeout(c, 240);
    tcase_add_test(c, story_logits);
    tcase_add_test(c, story_activations);
    tcase_add_test(c, story_greedy);
    tcase_add_test(c, embed_vectors_and_codes);
    tcase_add_loop_test(c, tiny_models, 0, (int)(sizeof tiny_types / sizeof *tiny_types));
    tcase_add_loop_test(c, tiny_families, 0, (int)(sizeof families / sizeof *families));
    tcase_add_loop_test(c, tiny_layouts, 0, (int)(sizeof layouts / sizeof *layouts));
    tcase_add_test(c, tiny_embedder);
    suite_add_tcase(suite, c);
    return run_suite(suite);
}
