/* test_safetensors.c - the safetensors reader and writer, and bitlm_convert with each allocation failing and each poll
 * canceling in turn.  What hostile folders are refused with is in tests/cli/test_convert.py. */
#define _GNU_SOURCE
#include <check.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/rng.h"
#include "test_support.h"

#define FUZZ_NO_MAIN
#include "../fuzz/fuzz_safetensors.c"

#define SEED 20261124

static char folder[64];

static const char *in_folder(const char *name) {
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void make_folder(void) {
    strcpy(folder, "/tmp/bitlm-test-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
}

/* Files of the folder, hidden ones too. */
static int count_files(void) {
    int n = 0;
    DIR *d = opendir(folder);
    for (struct dirent *e = readdir(d); e; e = readdir(d))
        n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    closedir(d);
    return n;
}

/* A file of three tensors, one of them empty, by our writer. */
static size_t make_file(uint8_t *out, size_t capacity) {
    bl_alloc alloc = bl_alloc_from_host(NULL);
    bitlm_error error = {.size = sizeof error};
    bl_st_writer *w;
    uint64_t matrix[2] = {3, 5}, vector[1] = {7};
    uint8_t data[60 + 14];
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i * 7);
    ck_assert_int_eq(bl_st_writer_begin(in_folder("a.safetensors"), &alloc, &w, &error), BITLM_OK);
    ck_assert_int_eq(bl_st_write_tensor(w, "b.weight", BL_ST_F32, 2, matrix), BITLM_OK);
    ck_assert_int_eq(bl_st_write_tensor(w, "a \"quoted\" \xc3\xa9", BL_ST_BF16, 1, vector), BITLM_OK);
    ck_assert_int_eq(bl_st_write_data(w, data, 11), BITLM_OK);
    ck_assert_int_eq(bl_st_write_data(w, data + 11, sizeof data - 11), BITLM_OK);
    ck_assert_int_eq(bl_st_writer_finish(w, &error), BITLM_OK);
    FILE *f = fopen(in_folder("a.safetensors"), "rb");
    size_t n = fread(out, 1, capacity, f);
    fclose(f);
    unlink(in_folder("a.safetensors"));
    return n;
}

START_TEST(round_trip) {
    uint8_t file[4096];
    bl_alloc alloc = bl_alloc_from_host(NULL);
    bitlm_error error = {.size = sizeof error};
    bl_safetensors *st;
    make_folder();
    size_t n = make_file(file, sizeof file);
    ck_assert_int_eq(bl_safetensors_open(file, n, &alloc, &st, &error), BITLM_OK);
    ck_assert_uint_eq(bl_safetensors_count(st), 2);
    const bl_st_tensor *t = bl_safetensors_find(st, "b.weight");
    ck_assert_ptr_nonnull(t);
    ck_assert_int_eq(t->dtype, BL_ST_F32);
    ck_assert_int_eq(t->n_dims, 2);
    ck_assert_uint_eq(t->dims[0], 3);
    ck_assert_uint_eq(t->dims[1], 5);
    ck_assert_uint_eq(t->bytes, 60);
    ck_assert_uint_eq(t->data[59], (uint8_t)(59 * 7));
    ck_assert_ptr_eq(bl_safetensors_at(st, 0), bl_safetensors_find(st, "a \"quoted\" \xc3\xa9"));
    ck_assert_ptr_null(bl_safetensors_find(st, "b"));
    bl_safetensors_free(st);
    rmdir(folder);
}
END_TEST

/* Every cut of a file, every byte changed to a few values, and random changes: read whole or refused with a sentence. */
START_TEST(hostile) {
    uint8_t file[4096], one[4096];
    make_folder();
    size_t n = make_file(file, sizeof file);
    rmdir(folder);
    for (size_t cut = 0; cut < n; cut++) {
        uint8_t *exact = malloc(cut + 1);
        memcpy(exact, file, cut);
        LLVMFuzzerTestOneInput(exact, cut);
        free(exact);
    }
    static const uint8_t values[] = {0, '"', '}', '9', 0xff};
    for (size_t at = 0; at < n; at++)
        for (size_t v = 0; v < sizeof values; v++) {
            memcpy(one, file, n);
            one[at] = values[v];
            LLVMFuzzerTestOneInput(one, n);
        }
    for (uint64_t i = 0; i < 20000; i++) {
        memcpy(one, file, n);
        for (int k = 0; k < 3; k++) {
            uint64_t r = bl_rng_u64(SEED, i, (uint64_t)k);
            one[r % n] = (uint8_t)(r >> 32);
        }
        LLVMFuzzerTestOneInput(one, n);
    }
}
END_TEST

START_TEST(writer_refuses) {
    bl_alloc alloc = bl_alloc_from_host(NULL);
    bitlm_error error = {.size = sizeof error};
    bl_st_writer *w;
    uint64_t huge[2] = {UINT64_MAX, 4}, one = 1;
    make_folder();
    ck_assert_int_eq(bl_st_writer_begin(in_folder("w"), &alloc, &w, &error), BITLM_OK);
    ck_assert_int_eq(bl_st_write_tensor(w, "t", BL_ST_F32, 2, huge), BITLM_ARG);
    ck_assert_int_eq(bl_st_write_tensor(w, "t", BL_ST_F32, 1, &one), BITLM_ARG); /* sticks */
    ck_assert_int_eq(bl_st_writer_finish(w, &error), BITLM_ARG);
    ck_assert_int_eq(count_files(), 0);
    ck_assert_int_eq(bl_st_writer_begin(in_folder("w"), &alloc, &w, &error), BITLM_OK);
    ck_assert_int_eq(bl_st_write_tensor(w, "t", BL_ST_F32, 1, &one), BITLM_OK);
    ck_assert_int_eq(bl_st_write_data(w, "12", 2), BITLM_OK);
    ck_assert_int_eq(bl_st_writer_finish(w, &error), BITLM_INTERNAL); /* two bytes are missing */
    ck_assert_int_eq(count_files(), 0);
    rmdir(folder);
}
END_TEST

/* ---- bitlm_convert ------------------------------------------------------------------------------- */

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
    ((guard *)context)->blocks--;
    free(memory);
}

static int32_t guard_poll(void *context) {
    guard *g = context;
    return ++g->polls == g->cancel_at;
}

static bitlm_status convert(guard *g, const char *source, const char *output, const char *type) {
    bitlm_host host = {.size = sizeof host, .context = g, .poll = guard_poll, .alloc = guard_alloc, .release = guard_release};
    bitlm_error error = {.size = sizeof error};
    bitlm_convert_options options;
    bitlm_convert_options_init(&options);
    if (type)
        options.type = (bitlm_text){type, strlen(type)};
    bitlm_status s = bitlm_convert(source, strlen(source), output, strlen(output), &options, &host, &error);
    ck_assert_int_eq(s != BITLM_OK, error.text[0] != '\0');
    ck_assert_int_eq(g->blocks, 0);
    return s;
}

static void remove_output(const char *output) {
    static const char *const names[] = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer.model",
                                        "tokenizer_config.json"};
    char path[200];
    for (size_t i = 0; i < BL_COUNT(names); i++) {
        snprintf(path, sizeof path, "%s/%s", output, names[i]);
        unlink(path);
    }
    unlink(output);
    rmdir(output);
}

/* To a GGUF file, and to a folder. */
START_TEST(each_allocation_fails) {
    char *source = unpack("tiny/tiny-qwen3.gguf.xz"), output[128];
    make_folder();
    snprintf(output, sizeof output, "%s", in_folder(_i ? "out" : "out.gguf"));
    long n = 0;
    bitlm_status s = BITLM_NOMEM;
    for (n = 1; s == BITLM_NOMEM; n++) {
        guard g = {.fail_at = n};
        s = convert(&g, source, output, _i ? NULL : "q8_0");
        if (s == BITLM_NOMEM)
            ck_assert_int_eq(count_files(), 0);
    }
    printf("convert to %s: %ld allocations failed in turn\n", _i ? "a folder" : "GGUF", n - 2);
    ck_assert(n > 20);
    ck_assert_int_eq(s, _i ? BITLM_UNSUPPORTED : BITLM_OK); /* this model has no vocabulary */
    remove_output(output);
    ck_assert_int_eq(rmdir(folder), 0);
    unlink(source);
    free(source);
}
END_TEST

START_TEST(canceled_at_each_poll) {
    char *source = unpack("tiny/tiny-qwen3moe.gguf.xz"), output[128];
    make_folder();
    snprintf(output, sizeof output, "%s", in_folder("out.gguf"));
    bitlm_status s = BITLM_CANCELED;
    long n;
    for (n = 1; s == BITLM_CANCELED; n++) {
        guard g = {.cancel_at = n};
        s = convert(&g, source, output, "q4_k");
        if (s == BITLM_CANCELED)
            ck_assert_int_eq(count_files(), 0);
    }
    printf("convert: canceled at %ld polls\n", n - 2);
    ck_assert_int_eq(s, BITLM_OK);
    remove_output(output);
    ck_assert_int_eq(rmdir(folder), 0);
    unlink(source);
    free(source);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("safetensors");
    TCase *tests = tcase_create("safetensors");
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, round_trip);
    tcase_add_test(tests, hostile);
    tcase_add_test(tests, writer_refuses);
    tcase_add_loop_test(tests, each_allocation_fails, 0, 2);
    tcase_add_test(tests, canceled_at_each_poll);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
