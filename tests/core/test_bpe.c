/* test_bpe.c - byte-level BPE under every split pattern: golden ids of PyPI's tokenizers, hostile texts in linear time, every byte string
 * back from its ids, canceling at many polls, every allocation failing in turn.
 *
 * Except for the golden ids the vocabulary is made here: the 256 bytes, and a token for each of a chain of merges, so that long runs of
 * one letter, of spaces, of digits and of newlines merge as deeply as a real vocabulary's do. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/utf8.h"
#include "test_support.h"
#include "text/tokenizer.h"

#define DEPTH 5 /* merges of one letter: 2, 4, … 32 of them */

static const char *const patterns[] = {"default", "gpt-2", "llama-bpe", "qwen2", "smollm"};
/* As the vocabulary spells them: U+0120 is a space, U+010A a newline. */
static const char *const letters[] = {"a", "\xC4\xA0", "\xC4\x8A", "7", "'", "\xC3\x8C\xC4\xA3"};

static bl_alloc plain;

typedef struct maker {
    uint8_t data[1 << 17];
    size_t n;
} maker;

static void raw(maker *m, const void *data, size_t size) {
    ck_assert_uint_le(m->n + size, sizeof m->data);
    memcpy(m->data + m->n, data, size);
    m->n += size;
}
static void u32(maker *m, uint32_t v) { raw(m, &v, 4); }
static void u64(maker *m, uint64_t v) { raw(m, &v, 8); }
static void str(maker *m, const char *s) {
    u64(m, strlen(s));
    raw(m, s, strlen(s));
}
static void string_key(maker *m, const char *name, const char *value) {
    str(m, name);
    u32(m, BL_GGUF_STRING);
    str(m, value);
}
static void array_key(maker *m, const char *name, size_t n) {
    str(m, name);
    u32(m, BL_GGUF_ARRAY);
    u32(m, BL_GGUF_STRING);
    u64(m, n);
}

static void repeat(char *out, const char *unit, int times) {
    for (*out = '\0'; times > 0; times--)
        out = stpcpy(out, unit);
}

/* The character that spells a byte in such vocabularies. */
static void spell(int byte, char out[5]) {
    uint32_t c = (uint32_t)byte, other = 256;
    for (int b = 0; b <= byte; b++) {
        int prints = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        if (b == byte && !prints)
            c = other;
        other += !prints;
    }
    out[c < 128 ? 1 : 2] = '\0';
    if (c < 128) {
        out[0] = (char)c;
    } else {
        out[0] = (char)(0xC0 | c >> 6);
        out[1] = (char)(0x80 | (c & 63));
    }
}

static bl_gguf *make_file(const char *pre, maker *m) {
    enum { LETTERS = sizeof letters / sizeof *letters };
    bitlm_error e = {.size = sizeof e};
    bl_gguf *file = NULL;
    char text[400], half[200];
    m->n = 0;
    raw(m, "GGUF", 4);
    u32(m, 3);
    u64(m, 0);
    u64(m, 4); /* keys */
    string_key(m, "tokenizer.ggml.model", "gpt2");
    string_key(m, "tokenizer.ggml.pre", pre);
    array_key(m, "tokenizer.ggml.tokens", 256 + LETTERS * DEPTH + 1);
    for (int b = 0; b < 256; b++) {
        spell(b, text);
        str(m, text);
    }
    /* The last letter, a combining acute, is itself two bytes. */
    str(m, letters[LETTERS - 1]);
    for (int i = 0; i < LETTERS; i++)
        for (int d = 1; d <= DEPTH; d++) {
            repeat(text, letters[i], 1 << d);
            str(m, text);
        }
    array_key(m, "tokenizer.ggml.merges", LETTERS * DEPTH + 1);
    str(m, "\xC3\x8C \xC4\xA3");
    for (int i = 0; i < LETTERS; i++)
        for (int d = 1; d <= DEPTH; d++) {
            repeat(half, letters[i], 1 << (d - 1));
            snprintf(text, sizeof text, "%s %s", half, half);
            str(m, text);
        }
    ck_assert_msg(bl_gguf_open(m->data, m->n, &plain, &file, &e) == BITLM_OK, "%s", e.text);
    return file;
}

static bl_tokenizer *make(const char *pre) {
    static maker m;
    bitlm_error e = {.size = sizeof e};
    bl_tokenizer *t = NULL;
    bl_gguf *file = make_file(pre, &m);
    ck_assert_msg(bl_tokenizer_open(file, 512, &plain, &t, &e) == BITLM_OK, "%s", e.text);
    ck_assert_int_eq(bl_tokenizer_kind(t), BL_TOKENIZER_BPE);
    bl_gguf_free(file);
    return t;
}

static bl_ids tokens(const bl_tokenizer *t, const char *text, size_t length) {
    bl_ids ids = {.alloc = &plain};
    bitlm_error e = {.size = sizeof e};
    ck_assert_msg(bl_tokenize(t, text, length, 0, 0, NULL, &ids, &e) == BITLM_OK, "%s", e.text);
    return ids;
}

/* Best processor time of three. */
static double seconds(const bl_tokenizer *t, const char *text, size_t length) {
    double best = 1e9;
    for (int i = 0; i < 3; i++) {
        clock_t begin = clock();
        bl_ids ids = tokens(t, text, length);
        double took = (double)(clock() - begin) / CLOCKS_PER_SEC;
        bl_ids_free(&ids);
        best = BL_MIN(best, took);
    }
    return best;
}

START_TEST(time_grows_with_the_text) {
    static const char *const units[] = {"a", " ", "\xCC\x81", "7", "\n", "'", "\r\n ", "ab", "\xE4\xB8\xAD", "\xFF",
                                        "a\xCC\xA3\xCC\x81"};
    const size_t large = 1 << 18; /* tests/bench/bench_tokenize.c takes 1 MB */
    char *text = malloc(large + 16);
    double worst = 0;
    bl_tokenizer *t = make(patterns[_i]);
    for (size_t i = 0; i < BL_COUNT(units); i++) {
        size_t unit = strlen(units[i]);
        for (size_t n = 0; n < large; n += unit)
            memcpy(text + n, units[i], unit);
        double ratio = seconds(t, text, large) / (seconds(t, text, large / 4) + 1e-3);
        worst = BL_MAX(worst, ratio);
        /* 4 times the text: linear is 4, quadratic 16; caches cost a little. */
        ck_assert_msg(ratio < 12, "%s: '%s' took %.1f times as long for 4 times the text", patterns[_i], units[i],
                      ratio);
    }
    printf("bpe: %s: 4 times the hostile text takes at most %.1f times as long\n", patterns[_i], worst);
    bl_tokenizer_free(t);
    free(text);
}
END_TEST

/* How each pattern cuts runs: 100 letters are one word of 32 + 32 + 32 + 4; digits stand alone in smollm and qwen2 and
 * by threes in llama-bpe and default. */
START_TEST(runs_merge_within_words) {
    static const size_t digits[BL_COUNT(patterns)] = {34 + 33, 4, 33 * 2 + 1, 100, 100};
    bl_tokenizer *t = make(patterns[_i]);
    char text[101];
    bl_ids ids;
    memset(text, 'a', 100);
    ids = tokens(t, text, 100);
    ck_assert_uint_eq(ids.n, 4);
    bl_ids_free(&ids);
    memset(text, '7', 100);
    ids = tokens(t, text, 100);
    ck_assert_msg(ids.n == digits[_i], "%s: 100 digits are %zu tokens, not %zu", patterns[_i], ids.n, digits[_i]);
    bl_ids_free(&ids);
    bl_tokenizer_free(t);
}
END_TEST

/* Random characters come back; the NFC pattern is given text that is normal already. */
START_TEST(text_comes_back) {
    static const char *const units[] = {"a", "B", " ", "  ", "\n", "\r", "7", "'s", "'RE", ".", "\t", "$", "\xC3\xA9",
                                        "\xE4\xB8\xAD", "\xF0\x9F\x98\x80", "\xE3\x80\x80", "\xD9\xA3", "_"};
    bl_tokenizer *t = make(patterns[_i]);
    uint64_t state = 11;
    for (int round = 0; round < 2000; round++) {
        char text[200], back[600];
        size_t n = 0, m = 0;
        bl_detok detok = {0};
        for (int i = 0; i < 30; i++) {
            state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
            const char *unit = units[(state >> 33) % BL_COUNT(units)];
            n = (size_t)(stpcpy(text + n, unit) - text);
        }
        bl_ids ids = tokens(t, text, n);
        for (size_t i = 0; i < ids.n; i++) {
            ck_assert_uint_le(m + BL_DETOK_CAP(bl_tokenizer_max_bytes(t)), sizeof back);
            m += bl_detok_next(t, &detok, ids.data[i], 0, back + m);
        }
        m += bl_detok_end(t, &detok, back + m);
        ck_assert_msg(m == n && !memcmp(text, back, n), "%s: '%.*s' came back as '%.*s'", patterns[_i], (int)n, text,
                      (int)m, back);
        bl_ids_free(&ids);
    }
    bl_tokenizer_free(t);
}
END_TEST

static int32_t polls, stop_at;
static int32_t stop_there(void *context) {
    (void)context;
    return ++polls == stop_at;
}

START_TEST(cancel_leaves_no_ids) {
    const size_t length = 1 << 18;
    char *text = malloc(length);
    bl_tokenizer *t = make(patterns[_i]);
    bitlm_host host = {.size = sizeof host, .poll = stop_there};
    bitlm_status status = BITLM_CANCELED;
    memset(text, 'a', length);
    for (stop_at = 1; status == BITLM_CANCELED; stop_at *= 2) {
        bl_ids ids = {.alloc = &plain};
        bitlm_error e = {.size = sizeof e};
        bl_poll poll;
        ck_assert_int_lt(stop_at, 1 << 20);
        polls = 0;
        bl_poll_init(&poll, &host, NULL, 0);
        status = bl_tokenize(t, text, length, 0, 0, &poll, &ids, &e);
        ck_assert_msg(status == BITLM_OK || status == BITLM_CANCELED, "%s", e.text);
        ck_assert(status == BITLM_OK || ids.n == 0);
        bl_ids_free(&ids);
    }
    ck_assert_int_ge(stop_at, 3); /* it did ask */
    bl_tokenizer_free(t);
    free(text);
}
END_TEST

typedef struct meter {
    int64_t left, live;
} meter;
static void *metered_alloc(void *context, size_t size) {
    meter *m = context;
    void *p = m->left-- > 0 ? malloc(size) : NULL;
    m->live += p != NULL;
    return p;
}
static void metered_release(void *context, void *memory) {
    ((meter *)context)->live--;
    free(memory);
}

START_TEST(every_allocation_may_fail) {
    static const char text[] = "Hello there, cafe\xCC\x81! 1234 aaaaaaaa   \n\n don't";
    static maker m;
    bl_gguf *file = make_file(patterns[_i], &m);
    bitlm_status status = BITLM_NOMEM;
    int64_t at;
    for (at = 0; status == BITLM_NOMEM; at++) {
        meter count = {at, 0};
        bl_alloc a = {&count, metered_alloc, metered_release};
        bitlm_error e = {.size = sizeof e};
        bl_tokenizer *t = NULL;
        bl_ids ids = {.alloc = &a};
        ck_assert_int_lt(at, 200);
        status = bl_tokenizer_open(file, 512, &a, &t, &e);
        if (!status)
            status = bl_tokenize(t, text, strlen(text), 0, 0, NULL, &ids, &e);
        ck_assert(!status || ids.n == 0);
        bl_ids_free(&ids);
        bl_tokenizer_free(t);
        ck_assert_msg(status == BITLM_OK || status == BITLM_NOMEM, "%s", e.text);
        ck_assert_int_eq(count.live, 0);
    }
    ck_assert_int_ge(at, 4);
    bl_gguf_free(file);
}
END_TEST

/* Names of tokenizer.ggml.pre that mean the same, but for NFC, in which the golden texts of gpt-2 may differ. */
static const char *const aliases[][2] = {{"default", "default"},     {"gpt-2", "gpt-2"},     {"gpt2", "gpt-2"},
                                         {"phi-2", "gpt-2"},         {"llama-bpe", "llama-bpe"}, {"llama3", "llama-bpe"},
                                         {"falcon3", "llama-bpe"},   {"falcon_e", "llama-bpe"},  {"qwen2", "qwen2"},
                                         {"deepseek-r1-qwen", "qwen2"}, {"smollm", "smollm"}};

/* tests/oracle/make_bbpe_cases.py made the vocabulary, the texts and their ids. */
START_TEST(golden_ids) {
    static maker m;
    json_t *golden = load_json("text/bbpe.json"), *g;
    const json_t *lists[] = {json_object_get(golden, "tokens"), json_object_get(golden, "merges")};
    bitlm_error e = {.size = sizeof e};
    bl_tokenizer *t = NULL;
    bl_gguf *file = NULL;
    size_t index;
    m.n = 0;
    raw(&m, "GGUF", 4);
    u32(&m, 3);
    u64(&m, 0);
    u64(&m, 4); /* keys */
    string_key(&m, "tokenizer.ggml.model", "gpt2");
    string_key(&m, "tokenizer.ggml.pre", aliases[_i][0]);
    for (int i = 0; i < 2; i++) {
        array_key(&m, i ? "tokenizer.ggml.merges" : "tokenizer.ggml.tokens", json_array_size(lists[i]));
        for (size_t j = 0; j < json_array_size(lists[i]); j++)
            str(&m, json_string_value(json_array_get(lists[i], j)));
    }
    ck_assert_msg(bl_gguf_open(m.data, m.n, &plain, &file, &e) == BITLM_OK, "%s", e.text);
    ck_assert_msg(bl_tokenizer_open(file, 1156, &plain, &t, &e) == BITLM_OK, "%s", e.text);
    json_array_foreach(json_object_get(golden, "cases"), index, g) {
        const json_t *text = json_object_get(g, "text"), *all = json_object_get(g, "ids");
        const json_t *want = json_object_get(all, "*") ? json_object_get(all, "*") : json_object_get(all, aliases[_i][1]);
        bl_ids got = tokens(t, json_string_value(text), json_string_length(text));
        ck_assert_msg(got.n == json_array_size(want), "%s, case %zu: %zu ids, not %zu", aliases[_i][0], index, got.n,
                      json_array_size(want));
        for (size_t i = 0; i < got.n; i++)
            ck_assert_msg(got.data[i] == json_integer_value(json_array_get(want, i)), "%s, case %zu, id %zu",
                          aliases[_i][0], index, i);
        bl_ids_free(&got);
    }
    ck_assert_uint_ge(index, 390);
    bl_tokenizer_free(t);
    bl_gguf_free(file);
    json_decref(golden);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("bpe");
    TCase *all = tcase_create("patterns");
    plain = bl_alloc_from_host(NULL);
    printf("bpe: random texts come from the fixed seed 11\n");
    fflush(stdout);
    tcase_set_timeout(all, 120);
    tcase_add_loop_test(all, golden_ids, 0, BL_COUNT(aliases));
    tcase_add_loop_test(all, time_grows_with_the_text, 0, BL_COUNT(patterns));
    tcase_add_loop_test(all, runs_merge_within_words, 0, BL_COUNT(patterns));
    tcase_add_loop_test(all, text_comes_back, 0, BL_COUNT(patterns));
    tcase_add_loop_test(all, cancel_leaves_no_ids, 0, BL_COUNT(patterns));
    tcase_add_loop_test(all, every_allocation_may_fail, 0, BL_COUNT(patterns));
    suite_add_tcase(suite, all);
    return run_suite(suite);
}
