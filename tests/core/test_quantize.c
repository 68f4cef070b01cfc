/* test_quantize.c - bitlm_quantize_model: what the probe measures is what a converted file gives; failures of memory and
 * cancellation leave nothing behind. */
#include <dirent.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "file/convert.h"
#include "run/probe.h"
#include "test_support.h"

#define N_IDS 16
#define STORY "../../core/builtin/bitlm-story.gguf"

static const int32_t ids[N_IDS] = {51, 12, 30, 77, 45, 40, 8, 25, 26, 30, 31, 32, 17, 59, 45, 3};

static char folder[64];

static char *in_folder(const char *name) {
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static int count_files(void) {
    int n = 0;
    DIR *d = opendir(folder);
    for (struct dirent *e = readdir(d); e; e = readdir(d))
        n += e->d_name[0] != '.' || strlen(e->d_name) > 2;
    closedir(d);
    return n;
}

static void make_folder(void) {
    strcpy(folder, "/tmp/bitlm-test-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
}

/* (N_IDS, vocab_size) logits, malloc'ed, of a file in the probe's session options. */
static float *logits_of(const char *path) {
    bitlm_error error = {.size = sizeof error};
    bitlm_model *m = open_model(path, NULL);
    bitlm_session *s = open_session(m, "{\"n_ctx\":64}");
    float *out = malloc(sizeof *out * N_IDS * (size_t)m->vocab_size);
    ck_assert_int_eq(bitlm_logits(s, ids, N_IDS, out, &error), BITLM_OK);
    bitlm_session_free(s);
    bitlm_model_free(m);
    return out;
}

static double divergence_of(const float *a, const float *b, int64_t n) {
    double sum_a = 0, sum_b = 0, total = 0;
    for (int64_t i = 0; i < n; i++) {
        sum_a += exp((double)a[i]);
        sum_b += exp((double)b[i]);
    }
    for (int64_t i = 0; i < n; i++) {
        double p = exp((double)a[i]) / sum_a, q = exp((double)b[i]) / sum_b;
        total += p * log(p / q);
    }
    return total;
}

static const char *const models[] = {"tiny/tiny-llama.gguf.xz", "tiny/tiny-qwen3.gguf.xz", "tiny/tiny-qwen2moe.gguf.xz",
                                     "tiny/tiny-qwen3moe.gguf.xz"};

/* Each tensor alone in Q8_0 and Q4_0: the probe's divergence is that of the logits of a file converted so. */
START_TEST(probe_agrees_with_a_converted_file) {
    static const int32_t types[] = {BL_TYPE_Q8_0, BL_TYPE_Q4_0};
    bitlm_error error = {.size = sizeof error};
    char *source = unpack(models[_i]);
    bitlm_model *m = open_model(source, NULL);
    bl_probe *probe;
    int checked = 0;
    double divergence, nll, most = 0;
    make_folder();
    ck_assert_int_eq(bl_probe_open(m, ids, N_IDS, 2, 1, NULL, &probe, &error), BITLM_OK);
    bitlm_convert_options options;
    bitlm_convert_options_init(&options);
    bl_plan plan = {.alloc = bl_alloc_from_host(NULL), .options = &options, .type = -1, .embedding_type = -1, .error = &error,
                    .pool = bl_probe_pool(probe), .poll = bl_probe_poll(probe), .gguf = m->gguf, .mapping = m->mapping};
    float *before = logits_of(source);
    for (uint64_t i = 0; i < bl_gguf_n_tensors(m->gguf); i++) {
        const bl_tensor *t = bl_gguf_tensor_at(m->gguf, i);
        bl_planned *p;
        ck_assert_int_eq(bl_plan_add_gguf(&plan, t, &p), BITLM_OK);
        int64_t layer = bl_probe_layer(probe, t->name);
        if (p->role == BL_ROLE_OTHER || !bl_plan_fits(&plan, types[i % 2], p))
            continue;
        ck_assert_int_ge(layer, 0);
        p->type = types[i % 2];
        const bl_tensor_type *type = bl_tensor_type_find(p->type);
        int ok;
        bl_tensor other = *t;
        other.type = p->type;
        other.bytes = bl_tensor_bytes(type, t->dims[0], t->dims[1] * t->dims[2], &ok);
        uint8_t *data = malloc((size_t)other.bytes);
        other.data = data;
        ck_assert_int_eq(bl_plan_encode(&plan, p, data), BITLM_OK);
        ck_assert_int_eq(bl_probe_set(probe, &other, &error), BITLM_OK);
        ck_assert_int_eq(bl_probe_run(probe, layer, &divergence, &nll, &error), BITLM_OK);
        ck_assert_int_eq(bl_probe_set(probe, t, &error), BITLM_OK);

        bitlm_tensor_choice choice = {{t->name, strlen(t->name)}, {type->name, strlen(type->name)}};
        bitlm_convert_options one = options;
        one.choices = &choice;
        one.n_choices = 1;
        const char *out = in_folder("one.gguf");
        ck_assert_int_eq(bitlm_convert(source, strlen(source), out, strlen(out), &one, NULL, &error), BITLM_OK);
        float *after = logits_of(out);
        double sum = 0;
        for (int64_t j = 0; j < N_IDS; j++)
            sum += divergence_of(before + j * m->vocab_size, after + j * m->vocab_size, m->vocab_size);
        ck_assert_double_eq_tol(divergence, sum / N_IDS, 1e-6 + 1e-4 * divergence);
        most = divergence > most ? divergence : most;
        checked++;
        free(after);
        free(data);
    }
    ck_assert_int_gt(checked, 10);
    ck_assert_double_gt(most, 1e-4); /* it does measure something */
    ck_assert_int_eq(bl_probe_run(probe, 0, &divergence, &nll, &error), BITLM_OK);
    ck_assert_double_lt(divergence, 1e-6); /* all is back */
    unlink(in_folder("one.gguf"));
    rmdir(folder);
    bl_free(&plan.alloc, plan.tensors);
    free(before);
    bl_probe_free(probe);
    bitlm_model_free(m);
    unlink(source);
    free(source);
}
END_TEST

START_TEST(choices_are_checked) {
    bitlm_error error = {.size = sizeof error};
    char *source = unpack(models[0]), *out;
    bitlm_tensor_choice choice = {{"blk.0.attn_norm.weight", 22}, {"q8_0", 4}};
    bitlm_convert_options options;
    make_folder();
    out = in_folder("a.gguf");
    bitlm_convert_options_init(&options);
    options.choices = &choice;
    options.n_choices = 1;
    ck_assert_int_eq(bitlm_convert(source, strlen(source), out, strlen(out), &options, NULL, &error), BITLM_ARG);
    ck_assert_ptr_nonnull(strstr(error.text, "blk.0.attn_norm.weight"));
    choice = (bitlm_tensor_choice){{"blk.0.attn_q.weight", 19}, {"q7", 2}};
    ck_assert_int_eq(bitlm_convert(source, strlen(source), out, strlen(out), &options, NULL, &error), BITLM_ARG);
    ck_assert_ptr_nonnull(strstr(error.text, "'q7'"));
    ck_assert_int_eq(count_files(), 0);
    rmdir(folder);
    unlink(source);
    free(source);
}
END_TEST

/* ---- the whole call ------------------------------------------------------------------------------------ */

typedef struct guard {
    long calls, fail_at, blocks, polls, cancel_at;
} guard;

static void *guard_alloc(void *context, size_t size) {
    guard *g = context;
    if (++g->calls == g->fail_at)
        return NULL;
    g->blocks++;
    return malloc(size);
}

static void guard_release(void *context, void *memory) {
    ((guard *)context)->blocks -= memory != NULL;
    free(memory);
}

static int32_t guard_poll(void *context) {
    guard *g = context;
    return ++g->polls == g->cancel_at;
}

static bitlm_status quantize(guard *g) {
    static const char text[] = "Once upon a time there was a fox who lived in a wood, and a crow who lived in a tall old tree.";
    bitlm_host host = {.size = sizeof host, .context = g, .poll = guard_poll, .alloc = guard_alloc, .release = guard_release};
    bitlm_error error = {.size = sizeof error};
    bitlm_quantize_options options;
    bitlm_quantize_result result = {.size = sizeof result};
    char source[300];
    const char *data = getenv("BITLM_TEST_DATA"), *out = in_folder("q.gguf");
    snprintf(source, sizeof source, "%s/" STORY, data ? data : "tests/data");
    bitlm_quantize_options_init(&options);
    options.budget_bytes = 2100000;
    options.tokens = 16;
    options.threads = 1;
    options.text = (bitlm_text){text, sizeof text - 1};
    bitlm_status s = bitlm_quantize_model(source, strlen(source), out, strlen(out), &options, &host, &result, &error);
    ck_assert_int_eq(s != BITLM_OK, error.text[0] != '\0');
    ck_assert_int_eq(g->blocks, 0);
    if (s == BITLM_OK) {
        ck_assert(result.bytes <= 2100000 && result.error > 0);
        unlink(out);
    }
    ck_assert_int_eq(count_files(), 0);
    return s;
}

START_TEST(each_allocation_fails) {
    make_folder();
    bitlm_status s = BITLM_NOMEM;
    long n;
    for (n = 1; s == BITLM_NOMEM; n++) {
        guard g = {.fail_at = n};
        s = quantize(&g);
    }
    printf("quantize: %ld allocations failed in turn\n", n - 2);
    ck_assert_int_eq(s, BITLM_OK);
    ck_assert_int_gt(n, 20);
    rmdir(folder);
}
END_TEST

/* Polls come by the clock, so their number differs from run to run: some of them, and until one run is through. */
START_TEST(canceled_at_polls) {
    make_folder();
    bitlm_status s = BITLM_CANCELED;
    long n, canceled = 0;
    for (n = 1; s == BITLM_CANCELED; n += 3) {
        guard g = {.cancel_at = n};
        s = quantize(&g);
        canceled += s == BITLM_CANCELED;
    }
    printf("quantize: canceled at %ld polls\n", canceled);
    ck_assert_int_eq(s, BITLM_OK);
    ck_assert_int_gt(canceled, 5);
    rmdir(folder);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("quantize");
    TCase *tests = tcase_create("quantize");
    tcase_set_timeout(tests, 240);
    tcase_add_loop_test(tests, probe_agrees_with_a_converted_file, 0, 4);
    tcase_add_test(tests, choices_are_checked);
    tcase_add_test(tests, each_allocation_fails);
    tcase_add_test(tests, canceled_at_polls);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
