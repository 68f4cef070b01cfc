/* test_hash.c - the numeric contract: tokens, logits, vectors and codes are the same bits for every
 * CPU mask that this machine runs, 1 to 3 threads, any cut of the prompt and a poisoned host float
 * environment, and equal the golden hashes in tests/data/golden_hashes.txt.
 *
 * The golden file holds the hashes of BITLM_NUMERICS' current number; BITLM_GOLDEN_WRITE=1 prints
 * the lines for a new one. */
#include <check.h>
#include <fenv.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"
#include "run/run.h"
#include "test_support.h"

#if defined(AMX_SOFTWARE) /* test_hash_amx: the AMX kernels over tiles in software; plain C is run beside it anyway */
static const char *const masks[] = {"amx"};
#else
static const char *const masks[] = {"ref", "avx2", "avxvnni", "avx512", "amx", "neon"};
#endif

/* Masks that choose a table of their own on this machine. */
static int runs_here(const char *mask) {
    int ok;
    setenv("BITLM_CPU", mask, 1);
    const bl_kernels *k = bl_kernels_get(bl_cpu_env_mask(&ok));
    unsetenv("BITLM_CPU");
    return ok && strncmp(k->name, mask, strlen(mask)) == 0; /* "neon" has three tables */
}

static void expect_golden(const char *what, uint64_t hash) {
    size_t size;
    char line[120], *golden = load_file("golden_hashes.txt", &size);
    golden[size] = 0;
    snprintf(line, sizeof line, "%d %s %016llx\n", BITLM_NUMERICS, what, (unsigned long long)hash);
    if (getenv("BITLM_GOLDEN_WRITE"))
        fputs(line, stdout);
    else
        ck_assert_msg(strstr(golden, line) != NULL, "no golden line: %s", line);
    free(golden);
}

static const int32_t story_ids[] = {1, 2311, 680, 262, 547, 456, 313, 262, 440, 1679, 441, 1257, 300, 264,
                                    1388, 348, 335, 752, 4049, 3, 4069, 532, 552, 264, 881, 313, 262};
#define N_IDS (sizeof story_ids / sizeof *story_ids)

static uint64_t hash_logits(bitlm_model *m, const char *options, const int32_t *ids, size_t n, uint64_t hash) {
    bitlm_model_info info = {.size = sizeof info};
    bitlm_session *s = open_session(m, options);
    bitlm_model_describe(m, &info, NULL);
    float *out = malloc(n * (size_t)info.vocab_size * sizeof(float));
    ck_assert_int_eq(bitlm_logits(s, ids, n, out, NULL), BITLM_OK);
    hash = hash_bytes(hash, out, n * (size_t)info.vocab_size * sizeof(float));
    free(out);
    bitlm_session_free(s);
    return hash;
}

static uint64_t hash_story(const char *mask, int threads) {
    static const char *const sampling[] = {
        "{\"temperature\":0,\"max_tokens\":40}",
        "{\"temperature\":0.9,\"top_p\":1,\"min_p\":0,\"seed\":7,\"max_tokens\":40,\"logprobs\":true}",
        "{\"temperature\":0.7,\"top_k\":40,\"seed\":8,\"max_tokens\":40}"};
    uint64_t hash = 0;
    char options[80];
    setenv("BITLM_CPU", mask, 1);
    bitlm_model *m = open_model("story", NULL);
    for (int kv = 0; kv < 4; kv++) {
        static const char *const kv_types[] = {"f16", "f32", "int8", "int4"};
        snprintf(options, sizeof options, "{\"threads\":%d,\"kv_type\":\"%s\"}", threads, kv_types[kv]);
        hash = hash_logits(m, options, story_ids, N_IDS, hash);
        bitlm_session *s = open_session(m, options);
        for (size_t i = 0; i < 3; i++) {
            int32_t ids[64];
            size_t n;
            char *text = generate(s, "The king and his daughter", sampling[i], ids, 64, &n, NULL);
            hash = hash_bytes(hash, ids, n * sizeof *ids);
            hash = hash_bytes(hash, text, strlen(text));
            free(text);
        }
        bitlm_session_free(s);
    }
    bitlm_model_free(m);
    unsetenv("BITLM_CPU");
    return hash;
}

static uint64_t hash_embed(const char *mask, int threads, int one_by_one) {
    static const char *const texts[] = {"", "A man is playing a guitar.", "tax letter", "The quick brown fox jumps over "
        "the lazy dog while the committee reconsiders the budget of the municipal library for the coming year.",
        "東京 is the capital of Japan", "x"};
    enum { N = sizeof texts / sizeof *texts };
    bitlm_text rows[N * 20];
    static float out[N * 20][384];
    char options[40];
    setenv("BITLM_CPU", mask, 1);
    bitlm_model *m = open_model("embed", NULL);
    snprintf(options, sizeof options, "{\"threads\":%d}", threads);
    bitlm_session *s = open_session(m, options);
    for (size_t i = 0; i < N * 20; i++)
        rows[i] = (bitlm_text){texts[i % N], strlen(texts[i % N])};
    size_t step = one_by_one ? 1 : N * 20;
    for (size_t i = 0; i < N * 20; i += step)
        ck_assert_int_eq(bitlm_embed_batch(s, rows + i, step, BITLM_EMBED_F32, NULL, out[i], sizeof out[0], NULL, NULL),
                         BITLM_OK);
    bitlm_session_free(s);
    bitlm_model_free(m);
    unsetenv("BITLM_CPU");
    return hash_bytes(0, out, sizeof out);
}

static const char *const tiny_types[] = {"f16-f16", "Q8_0", "Q4_0", "Q4_1", "Q4_K_M", "Q6_K",
                                         "tq1_0-f16", "tq2_0-f16", "q2_0-f16", "i2_s-f16", "llama3", "yarn",
                                         "qwen3moe", "qwen2moe", "embed", "falcon3-tq1_0", "trilm", "bonsai-q1_0",
                                         "bonsai-q2_0", "bitnet-scale"};

/* Option activations over a ternary model in one scale, in blocks, and a binary one, whose signs meet signs. */
static const char *const activation_models[] = {"i2_s-f16", "falcon3-tq1_0", "bonsai-q1_0", "qwen3moe", "Q4_K_M"};

static uint64_t hash_activations(const char *mask, int threads, const char *path) {
    uint64_t hash = 0;
    char options[80];
    static const char *const modes[] = {"a4.8", "binary"};
    int32_t ids[24];
    setenv("BITLM_CPU", mask, 1);
    bitlm_model *m = open_model(path, NULL);
    for (size_t i = 0; i < 24; i++)
        ids[i] = (int32_t)((int64_t)story_ids[i] % m->vocab_size);
    for (size_t i = 0; i < 2; i++) {
        snprintf(options, sizeof options, "{\"threads\":%d,\"activations\":\"%s\"}", threads, modes[i]);
        uint64_t together = hash_logits(m, options, ids, 24, hash);
        bitlm_session *s = open_session(m, options); /* the same a token at a time */
        float *logits = malloc((size_t)m->vocab_size * 24 * sizeof(float));
        ck_assert_int_eq(bl_session_enter(s, 0, NULL), BITLM_OK);
        for (int64_t at = 0; at < 24; at++) {
            int32_t row = 0;
            ck_assert_int_eq(bl_session_prefill(s, ids + at, 1, at), BITLM_OK);
            ck_assert_int_eq(bl_forward_logits(&s->context, &row, 1, logits + at * m->vocab_size), BITLM_OK);
        }
        bl_session_leave(s, BITLM_OK, NULL);
        hash = hash_bytes(hash, logits, (size_t)m->vocab_size * 24 * sizeof(float));
        ck_assert_uint_eq(hash, together);
        free(logits);
        bitlm_session_free(s);
    }
    bitlm_model_free(m);
    unsetenv("BITLM_CPU");
    return hash;
}

static uint64_t hash_tiny(const char *mask, int threads, const char *path) {
    int32_t ids[16] = {510, 12, 301, 77, 45, 400, 8, 255, 256, 300, 301, 302, 17, 99, 450, 3};
    bitlm_model_info info = {.size = sizeof info};
    char options[40];
    setenv("BITLM_CPU", mask, 1);
    bitlm_model *relu2 = open_model(path, "{\"hidden_act\":\"relu2\"}");
    bitlm_model *silu = open_model(path, "{\"hidden_act\":\"silu\"}");
    bitlm_model_describe(silu, &info, NULL);
    for (size_t i = 0; i < 16; i++)
        ids[i] %= info.vocab_size;
    snprintf(options, sizeof options, "{\"threads\":%d}", threads);
    uint64_t hash = hash_logits(silu, options, ids, 16, hash_logits(relu2, options, ids, 16, 0));
    bitlm_model_free(relu2);
    bitlm_model_free(silu);
    unsetenv("BITLM_CPU");
    return hash;
}

START_TEST(story_is_the_same_everywhere) {
    uint64_t first = hash_story("ref", 1);
    expect_golden("story", first);
    for (size_t i = 0; i < sizeof masks / sizeof *masks; i++)
        for (int threads = 1; threads <= 3 && runs_here(masks[i]); threads++) {
            uint64_t hash = hash_story(masks[i], threads);
            printf("story, mask %s, %d threads: %016llx\n", masks[i], threads, (unsigned long long)hash);
            ck_assert_uint_eq(hash, first);
        }
}
END_TEST

START_TEST(embed_is_the_same_everywhere) {
    uint64_t first = hash_embed("ref", 1, 1);
    expect_golden("embed", first);
    for (size_t i = 0; i < sizeof masks / sizeof *masks; i++)
        for (int threads = 1; threads <= 3 && runs_here(masks[i]); threads++)
            for (int single = 0; single < 2; single++) {
                uint64_t hash = hash_embed(masks[i], threads, single);
                printf("embed, mask %s, %d threads, %s: %016llx\n", masks[i], threads,
                       single ? "one by one" : "one batch", (unsigned long long)hash);
                ck_assert_uint_eq(hash, first);
            }
}
END_TEST

START_TEST(tiny_is_the_same_everywhere) {
    char name[80];
    snprintf(name, sizeof name, "tiny/tiny-%s.gguf.xz", tiny_types[_i]);
    char *path = unpack(name);
    uint64_t first = hash_tiny("ref", 1, path);
    printf("tiny %s: %016llx\n", tiny_types[_i], (unsigned long long)first);
    for (size_t i = 0; i < sizeof masks / sizeof *masks; i++)
        for (int threads = 1; threads <= 3 && runs_here(masks[i]); threads++)
            ck_assert_uint_eq(hash_tiny(masks[i], threads, path), first);
    snprintf(name, sizeof name, "tiny-%s", tiny_types[_i]);
    remove(path);
    free(path);
    expect_golden(name, first);
}
END_TEST

START_TEST(activations_are_the_same_everywhere) {
    char name[80];
    snprintf(name, sizeof name, "tiny/tiny-%s.gguf.xz", activation_models[_i]);
    char *path = unpack(name);
    uint64_t first = hash_activations("ref", 1, path);
    printf("activations of tiny %s: %016llx\n", activation_models[_i], (unsigned long long)first);
    for (size_t i = 0; i < sizeof masks / sizeof *masks; i++)
        for (int threads = 1; threads <= 3 && runs_here(masks[i]); threads++)
            ck_assert_uint_eq(hash_activations(masks[i], threads, path), first);
    snprintf(name, sizeof name, "activations-%s", activation_models[_i]);
    remove(path);
    free(path);
    expect_golden(name, first);
}
END_TEST

/* The second model routes tokens to experts, which see other tokens with each cut. */
START_TEST(prompt_cuts_change_nothing) {
    static const int64_t cuts[] = {1, 7, 16, 64, 512};
    char *path = _i ? unpack("tiny/tiny-qwen3moe.gguf.xz") : strdup("story");
    bitlm_model *m = open_model(path, NULL);
    int64_t vocab = m->vocab_size, total = _i ? 120 : 300;
    int32_t ids[300];
    uint64_t first = 0;
    for (size_t i = 0; i < 300; i++)
        ids[i] = (int32_t)(story_ids[i % N_IDS] % vocab);
    for (size_t c = 0; c < sizeof cuts / sizeof *cuts; c++) {
        bitlm_session *s = open_session(m, "{\"threads\":2}");
        ck_assert_int_eq(bl_session_enter(s, 0, NULL), BITLM_OK);
        int64_t last = 0;
        for (int64_t at = 0; at < total; at += cuts[c]) {
            int64_t n = BL_MIN(cuts[c], total - at);
            ck_assert_int_eq(bl_session_prefill(s, ids + at, n, at), BITLM_OK);
            last = (n - 1) % s->context.max_batch;
        }
        int32_t row = (int32_t)last;
        ck_assert_int_eq(bl_forward_logits(&s->context, &row, 1, s->logits), BITLM_OK);
        uint64_t hash = hash_bytes(0, s->logits, (size_t)vocab * sizeof(float));
        bl_session_leave(s, BITLM_OK, NULL);
        bitlm_session_free(s);
        printf("%lld tokens in cuts of %lld: %016llx\n", (long long)total, (long long)cuts[c], (unsigned long long)hash);
        if (c == 0)
            first = hash;
        ck_assert_uint_eq(hash, first);
    }
    bitlm_model_free(m);
    if (_i)
        remove(path);
    free(path);
}
END_TEST

static void set_control(unsigned value) {
#if defined(__x86_64__)
    __builtin_ia32_ldmxcsr(value);
#else
    (void)value;
#endif
}

static unsigned get_control(void) {
#if defined(__x86_64__)
    return __builtin_ia32_stmxcsr();
#else
    return 0;
#endif
}

START_TEST(poisoned_float_environment) {
    uint64_t story = hash_story("ref", 2), embed = hash_embed("ref", 2, 0);
    unsigned clean = get_control();
    fesetround(FE_UPWARD);
    set_control(get_control() | 0x8040u); /* flush to zero, denormals are zero */
    unsigned poisoned = get_control();
    uint64_t story2 = hash_story("ref", 2), embed2 = hash_embed("ref", 2, 0);
    uint64_t fast = runs_here("avx2") ? hash_story("avx2", 2) : story;
    unsigned after = get_control();
    fesetround(FE_TONEAREST);
    set_control(clean);
    ck_assert_uint_eq(story, story2);
    ck_assert_uint_eq(embed, embed2);
    ck_assert_uint_eq(story, fast);
    ck_assert_msg((after & 0xFFC0u) == (poisoned & 0xFFC0u), "the host's control word came back as %x, was %x", after,
                  poisoned);
}
END_TEST

START_TEST(model_ids_are_golden) {
    static const char *const names[] = {"story", "embed"};
    for (int i = 0; i < 2; i++) {
        uint8_t id[16], again[16];
        uint64_t half;
        char what[40];
        bitlm_model *m = open_model(names[i], NULL);
        ck_assert_int_eq(bitlm_model_id(m, NULL, id, NULL), BITLM_OK);
        ck_assert_int_eq(bitlm_model_id(m, NULL, again, NULL), BITLM_OK);
        ck_assert_mem_eq(id, again, 16);
        memcpy(&half, id, 8);
        snprintf(what, sizeof what, "id-%s", names[i]);
        expect_golden(what, half);
        bitlm_model_free(m);
    }
}
END_TEST

/* The same trits in three layouts are the same model. */
START_TEST(layouts_share_an_id) {
    uint8_t id[2][16];
    static const char *const names[] = {"tiny/tiny-tq1_0-f16.gguf.xz", "tiny/tiny-tq2_0-f16.gguf.xz"};
    for (int i = 0; i < 2; i++) {
        char *path = unpack(names[i]);
        bitlm_model *m = open_model(path, "{\"hidden_act\":\"relu2\"}");
        ck_assert_int_eq(bitlm_model_id(m, NULL, id[i], NULL), BITLM_OK);
        bitlm_model_free(m);
        remove(path);
        free(path);
    }
    ck_assert_mem_eq(id[0], id[1], 16);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("hash");
    TCase *c = tcase_create("numeric contract");
    TCase *whole = tcase_create("whole models"); /* too slow for a sanitizer in each `make check` */
    tcase_set_timeout(c, 600);
    tcase_set_timeout(whole, 600);
    tcase_add_test(whole, story_is_the_same_everywhere);
    tcase_add_test(whole, embed_is_the_same_everywhere);
    tcase_add_test(whole, poisoned_float_environment);
    tcase_add_loop_test(c, tiny_is_the_same_everywhere, 0, (int)(sizeof tiny_types / sizeof *tiny_types));
    tcase_add_loop_test(c, activations_are_the_same_everywhere, 0,
                        (int)(sizeof activation_models / sizeof *activation_models));
    tcase_add_loop_test(c, prompt_cuts_change_nothing, 0, 2);
    tcase_add_test(c, model_ids_are_golden);
    tcase_add_test(c, layouts_share_an_id);
    suite_add_tcase(suite, whole);
    suite_add_tcase(suite, c);
    return run_suite(suite);
}
