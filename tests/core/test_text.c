/* test_text.c - tokenizers, detokenizer, chunks, chat templates and UTF-8 against golden
 * values, properties, hostile texts and vocabularies, and failing allocations. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/utf8.h"
#include "builtin/builtin.h"
#include "test_support.h"
#include "text/chat.h"
#include "text/chunk.h"
#include "text/tokenizer.h"

static bl_alloc plain;
static bl_gguf *story_file, *embed_file;
static bl_tokenizer *spm, *wordpiece;

static bl_tokenizer *open_builtin(const char *name, int32_t vocab_size, bl_gguf **file)
{
    const bl_builtin *b = bl_builtin_find(name, strlen(name));
    bitlm_error e = {.size = sizeof(e)};
    bl_tokenizer *t = NULL;

    ck_assert_ptr_nonnull(b);
    ck_assert_msg(bl_gguf_open(b->data, b->size, &plain, file, &e) == BITLM_OK, "%s", e.text);
    ck_assert_msg(bl_tokenizer_open(*file, vocab_size, &plain, &t, &e) == BITLM_OK, "%s", e.text);
    return t;
}

static void set_up(void)
{
    plain = bl_alloc_from_host(NULL);
    spm = open_builtin("story", 4096, &story_file);
    wordpiece = open_builtin("embed", 30522, &embed_file);
}

static void tear_down(void)
{
    bl_tokenizer_free(spm);
    bl_tokenizer_free(wordpiece);
    bl_gguf_free(story_file);
    bl_gguf_free(embed_file);
}

static bl_ids tokens(const bl_tokenizer *t, const void *text, size_t length, uint32_t flags)
{
    bl_ids ids = {.alloc = &plain};
    bitlm_error e = {.size = sizeof(e)};

    ck_assert_msg(bl_tokenize(t, text, length, flags, 0, NULL, &ids, &e) == BITLM_OK, "%s", e.text);
    return ids;
}

/* Detokenizes a token at a time; every part must be valid UTF-8.  malloc'ed, NUL-terminated. */
static char *text_of(const bl_tokenizer *t, const int32_t *ids, size_t n, int special,
                     size_t *length)
{
    size_t cap = BL_DETOK_CAP(bl_tokenizer_max_bytes(t)), used = 0, i;
    char *out = malloc((n + 1) * cap + 1);
    bl_detok state = {0};

    for (i = 0; i <= n; i++) {
        size_t k = i < n ? bl_detok_next(t, &state, ids[i], special, out + used)
                         : bl_detok_end(t, &state, out + used);
        ck_assert_uint_le(k, cap);
        ck_assert_msg(bl_utf8_valid(out + used, k), "token %zu of %zu is not UTF-8", i, n);
        used += k;
    }
    out[used] = '\0';
    *length = used;
    return out;
}

static void check_ids(const bl_tokenizer *t, const char *text, const int32_t *want, size_t n,
                      uint32_t flags)
{
    bl_ids got = tokens(t, text, strlen(text), flags);
    size_t i;

    ck_assert_msg(got.n == n, "'%s' has %zu tokens, not %zu", text, got.n, n);
    for (i = 0; i < n; i++)
        ck_assert_msg(got.data[i] == want[i], "'%s': token %zu is %d, not %d", text, i, got.data[i],
                      want[i]);
    bl_ids_free(&got);
}
#define CHECK_IDS(t, text, flags, ...)                                                             \
    do {                                                                                           \
        static const int32_t want_[] = {__VA_ARGS__};                                              \
        check_ids(t, text, want_, BL_COUNT(want_), flags);                                         \
    } while (0)

static uint64_t next_random(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return *state >> 33;
}

/* A random character of a script that matters. */
static uint32_t random_char(uint64_t *state)
{
    static const uint32_t first[] = {0x20, 0x41, 0x61, 0xC0,   0x300,   0x370,  0x400,
                                     0x900, 0x3040, 0x4E00, 0xAC00, 0x1F600, 0x2000};
    size_t i = next_random(state) % (BL_COUNT(first) + 2);

    if (i >= BL_COUNT(first))
        return ' ';
    return first[i] + (uint32_t)(next_random(state) % 64);
}

static size_t random_text(uint64_t *state, char *out, size_t chars)
{
    size_t n = 0;

    while (chars--)
        n += bl_utf8_encode(random_char(state), (uint8_t *)out + n);
    return n;
}

/* ---- golden ids ----------------------------------------------------------------------------- */

static size_t check_case(const bl_tokenizer *t, const char *text, size_t length, json_t *want)
{
    bl_ids got = tokens(t, text, length, 0);
    size_t i, n = json_is_array(want) ? json_array_size(want)
                                      : (size_t)json_integer_value(json_object_get(want, "count"));

    ck_assert_msg(got.n == n, "'%.60s' has %zu tokens, not %zu", text, got.n, n);
    for (i = 0; i < n; i++) {
        json_int_t id = json_is_array(want)
                            ? json_integer_value(json_array_get(want, i))
                            : json_integer_value(json_object_get(want, i ? "then" : "first"));
        ck_assert_msg(got.data[i] == id, "'%.60s': token %zu is %d, not %d", text, i, got.data[i],
                      (int)id);
    }
    bl_ids_free(&got);
    return n;
}

static void check_decode(const bl_tokenizer *t, json_t *ids, json_t *want)
{
    size_t n = json_array_size(ids), i, length;
    int32_t *list = calloc(n + 1, sizeof(*list));
    char *got;

    for (i = 0; i < n; i++)
        list[i] = (int32_t)json_integer_value(json_array_get(ids, i));
    got = text_of(t, list, n, 0, &length);
    ck_assert_uint_eq(length, json_string_length(want));
    ck_assert_mem_eq(got, json_string_value(want), length);
    free(got);
    free(list);
}

START_TEST(golden_ids_and_texts)
{
    json_t *root = load_json("text/tokenizers.json"), *cases = json_object_get(root, "cases"), *item;
    size_t i, n_ids = 0, n_decoded = 0;

    json_array_foreach(cases, i, item) {
        json_t *text = json_object_get(item, "text"), *decode = json_object_get(item, "decode");
        json_t *repeat = json_object_get(text, "repeat");
        char *made = NULL;
        const char *s = json_string_value(text);
        size_t length = json_string_length(text);

        if (repeat) {
            length = (size_t)json_integer_value(json_array_get(repeat, 1));
            s = made = malloc(length + 1);
            memset(made, json_string_value(json_array_get(repeat, 0))[0], length);
            made[length] = '\0';
        }
        n_ids += check_case(spm, s, length, json_object_get(item, "spm"));
        n_ids += check_case(wordpiece, s, length, json_object_get(item, "wordpiece"));
        if (decode) {
            check_decode(spm, json_object_get(item, "spm"), json_object_get(decode, "spm"));
            check_decode(wordpiece, json_object_get(item, "wordpiece"),
                         json_object_get(decode, "wordpiece"));
            n_decoded += 2;
        }
        free(made);
    }
    ck_assert_uint_eq(i, 152);
    ck_assert_uint_eq(n_decoded, 90);
    printf("text: %zu texts in 2 vocabularies, %zu ids equal; %zu decoded texts equal\n", i, n_ids,
           n_decoded);
    json_decref(root);
}
END_TEST

START_TEST(frame_and_special_tokens)
{
    CHECK_IDS(spm, "a", BITLM_TOKENS_FRAME, 1, 262);
    CHECK_IDS(wordpiece, "hello", BITLM_TOKENS_FRAME, 101, 7592, 102);
    CHECK_IDS(wordpiece, "", BITLM_TOKENS_FRAME, 101, 102);
    CHECK_IDS(wordpiece, "[MASK] hello[SEP]", BITLM_TOKENS_SPECIAL, 103, 7592, 102);
    CHECK_IDS(spm, "</s>a\n<s>a", BITLM_TOKENS_SPECIAL, 2, 262, 3, 1, 262);
    /* Without the flag they are text. */
    CHECK_IDS(wordpiece, "[SEP]", 0, 1031, 19802, 1033);
    ck_assert_int_eq(bl_tokenizer_bos(spm), 1);
    ck_assert_int_eq(bl_tokenizer_eos(spm), 2);
    ck_assert_int_eq(bl_tokenizer_bos(wordpiece), 101);
    ck_assert_int_eq(bl_tokenizer_eos(wordpiece), 102);
    ck_assert_int_eq(bl_tokenizer_is_end(spm, 2), 1);
    ck_assert_int_eq(bl_tokenizer_is_end(spm, 262), 0);
    ck_assert_int_eq(bl_tokenizer_is_end(spm, -1), 0);
    ck_assert_int_eq(bl_tokenizer_is_end(spm, INT32_MAX), 0);
    ck_assert_int_eq(bl_tokenizer_find(spm, "</s>", 4), 2);
    ck_assert_int_eq(bl_tokenizer_find(spm, "</s> ", 5), -1);
    ck_assert_int_eq(bl_tokenizer_find(spm, "", 0), -1);
    ck_assert_int_eq(bl_tokenizer_vocab_size(wordpiece), 30522);
}
END_TEST

START_TEST(typed_marks_stay_text)
{
    static const char text[] = "<s>ab</s>cd</s>";
    static const size_t segments[] = {3, 9};
    bl_ids ids = {.alloc = &plain}, inner = tokens(spm, "ab</s>cd", 8, 0);
    bitlm_error e = {.size = sizeof(e)};
    size_t i;

    ck_assert_int_eq(bl_tokenize_marked(spm, text, 15, segments, 1, 0, 0, NULL, &ids, &e), BITLM_OK);
    ck_assert_uint_eq(ids.n, inner.n + 2);
    ck_assert_int_eq(ids.data[0], 1);
    for (i = 0; i < inner.n; i++)
        ck_assert_int_eq(ids.data[i + 1], inner.data[i]);
    ck_assert_int_eq(ids.data[ids.n - 1], 2);
    bl_ids_free(&ids);
    bl_ids_free(&inner);
}
END_TEST

/* ---- hostile text ------------------------------------------------------------------------- */

/* Best CPU seconds of three. */
static double seconds(const bl_tokenizer *t, const char *text, size_t length)
{
    double best = 1e9;
    int i;

    for (i = 0; i < 3; i++) {
        clock_t begin = clock();
        bl_ids ids = tokens(t, text, length, 0);
        double s = (double)(clock() - begin) / CLOCKS_PER_SEC;
        bl_ids_free(&ids);
        best = BL_MIN(best, s);
    }
    return best;
}

START_TEST(time_grows_with_the_text)
{
    static const char *const units[] = {"a", " ", "\n", "\xCC\x81", "\xE3\x80\xAE", "\xFF",
                                        "\xE2\x96", "the cat ", ". ", "ab\xCC\xA3\xCC\x81"};
    const size_t small = 1 << 16, large = 8 * small;
    char *text = malloc(large + 16);
    size_t i, n;
    double worst = 0;

    for (i = 0; i < BL_COUNT(units); i++) {
        size_t unit = strlen(units[i]);
        const bl_tokenizer *both[2] = {spm, wordpiece};

        for (n = 0; n < large; n += unit)
            memcpy(text + n, units[i], unit);
        for (n = 0; n < 2; n++) {
            double ratio = seconds(both[n], text, large) / (seconds(both[n], text, small) + 1e-4);
            worst = BL_MAX(worst, ratio);
            /* 8 times the text: linear is 8, quadratic 64; caches cost a little. */
            ck_assert_msg(ratio < 30, "'%s' took %.1f times as long for 8 times the text", units[i],
                          ratio);
        }
    }
    printf("text: 8 times the hostile text takes at most %.1f times as long\n", worst);
    free(text);
}
END_TEST

static int32_t n_polls;
static int32_t stop_at_poll(void *context)
{
    n_polls++;
    return *(int32_t *)context;
}

START_TEST(limit_and_cancel_leave_no_ids)
{
    size_t length = 10u << 20, i;
    char *text = malloc(length);
    bitlm_error e = {.size = sizeof(e)};
    bl_ids ids = {.alloc = &plain};
    int32_t answer = 1;
    bitlm_host host = {.size = sizeof(host), .context = &answer, .poll = stop_at_poll};
    bl_poll poll;

    for (i = 0; i < length; i++)
        text[i] = "a b"[i % 3];
    ck_assert_int_eq(bl_ids_push(&ids, 77, &e), BITLM_OK);
    ck_assert_int_eq(bl_tokenize(spm, text, length, 0, 512, NULL, &ids, &e), BITLM_LIMIT);
    ck_assert_uint_eq(ids.n, 1);
    ck_assert_msg(strstr(e.text, "512") != NULL, "%s", e.text);
    memset(text, 'a', length);
    ck_assert_int_eq(bl_tokenize(spm, text, length, 0, 512, NULL, &ids, &e), BITLM_LIMIT);
    /* A limit that is just enough. */
    ck_assert_int_eq(bl_tokenize(wordpiece, "hello world", 11, 0, 2, NULL, &ids, &e), BITLM_OK);
    ck_assert_uint_eq(ids.n, 3);
    ck_assert_int_eq(bl_tokenize(wordpiece, "hello world", 11, 0, 1, NULL, &ids, &e), BITLM_LIMIT);
    ck_assert_uint_eq(ids.n, 3);
    for (i = 0; i < 2; i++) {
        bl_poll_init(&poll, &host, NULL, 0);
        ck_assert_int_eq(bl_tokenize(i ? spm : wordpiece, text, length, 0, 0, &poll, &ids, &e),
                         BITLM_CANCELED);
        ck_assert_uint_eq(ids.n, 3);
        ck_assert_str_ne(e.text, "");
    }
    answer = 0;
    n_polls = 0;
    bl_poll_init(&poll, &host, NULL, 0);
    ck_assert_int_eq(bl_tokenize(spm, text, length / 8, 0, 0, &poll, &ids, &e), BITLM_OK);
    ck_assert_int_ge(n_polls, 5);
    bl_ids_free(&ids);
    free(text);
}
END_TEST

/* ---- UTF-8 ---------------------------------------------------------------------------------- */

/* Replaces bad parts by U+FFFD; `out` has room for 3 bytes each. */
static size_t repair(const uint8_t *in, size_t length, char *out)
{
    size_t i, used, n = 0;
    int valid;

    for (i = 0; i < length; i += used)
        n += bl_utf8_encode(bl_utf8_decode(in + i, length - i, &used, &valid), (uint8_t *)out + n);
    return n;
}

START_TEST(bad_parts_are_maximal)
{
    /* Unicode 15, tables 3-8 to 3-11; '?' stands for U+FFFD. */
    static const struct {
        const char *bytes, *want;
    } rows[] = {
        {"\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41", "????????A"},
        {"\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41", "????????A"},
        {"\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42", "?????A??B"},
        {"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", "????A"},
        {"\x61\xF1\x80\x80\xE1\x80\xC2\x62\x80\x63\x80\xBF\x64", "a???b?c??d"},
        {"\xF0\x9F\x98", "?"},
        {"\xE2\x82", "?"},
        {"\xC2", "?"},
        {"\xF8\x88\x80\x80\x80", "?????"},
    };
    size_t i, k, at, used;

    for (i = 0; i < BL_COUNT(rows); i++) {
        const uint8_t *b = (const uint8_t *)rows[i].bytes;
        size_t n = strlen(rows[i].bytes);

        ck_assert_uint_eq(bl_utf8_count(rows[i].bytes, n), strlen(rows[i].want));
        ck_assert_int_eq(bl_utf8_valid(rows[i].bytes, n), 0);
        for (k = at = 0; at < n; k++, at += used) {
            int valid;
            uint32_t c = bl_utf8_decode(b + at, n - at, &used, &valid);
            size_t inside;

            ck_assert_uint_eq(c, rows[i].want[k] == '?' ? 0xFFFD : (uint32_t)rows[i].want[k]);
            for (inside = 0; inside < used; inside++)
                ck_assert_uint_eq(bl_utf8_boundary(rows[i].bytes, n, at + inside), at);
        }
    }
    ck_assert_int_eq(bl_utf8_valid("\xEF\xBF\xBD\xF4\x8F\xBF\xBF", 7), 1);
    ck_assert_uint_eq(bl_utf8_count("", 0), 0);
}
END_TEST

START_TEST(every_code_point_survives_utf8)
{
    uint32_t c;

    for (c = 0; c < 0x110000; c++) {
        uint8_t b[4];
        size_t n, used;
        int valid;

        if (c >= 0xD800 && c < 0xE000)
            continue;
        n = bl_utf8_encode(c, b);
        ck_assert_uint_eq(bl_utf8_decode(b, n, &used, &valid), c);
        ck_assert(used == n && valid);
    }
}
END_TEST

START_TEST(invalid_utf8_is_read_as_fffd)
{
    uint64_t state = 7;
    int round;

    for (round = 0; round < 4000; round++) {
        uint8_t bad[24];
        char good[80];
        size_t n = next_random(&state) % sizeof(bad), m, i, which;

        for (i = 0; i < n; i++)
            bad[i] = (uint8_t)(next_random(&state) % 3 ? next_random(&state) : next_random(&state) % 96 + 32);
        m = repair(bad, n, good);
        ck_assert_int_eq(bl_utf8_valid(good, m), 1);
        for (which = 0; which < 2; which++) {
            bl_ids a = tokens(which ? spm : wordpiece, bad, n, 0);
            bl_ids b = tokens(which ? spm : wordpiece, good, m, 0);
            ck_assert_uint_eq(a.n, b.n);
            if (a.n)
                ck_assert_mem_eq(a.data, b.data, a.n * sizeof(*a.data));
            bl_ids_free(&a);
            bl_ids_free(&b);
        }
    }
}
END_TEST

START_TEST(nul_bytes_are_characters)
{
    bl_ids a = tokens(spm, "a\0b", 3, 0), b = tokens(wordpiece, "he\0llo", 6, 0);
    size_t length;
    char *back = text_of(spm, a.data, a.n, 0, &length);

    ck_assert_uint_eq(length, 3);
    ck_assert_mem_eq(back, "a\0b", 3);
    ck_assert_uint_eq(b.n, 1); /* dropped, as BERT's cleaning does */
    ck_assert_int_eq(b.data[0], 7592);
    free(back);
    bl_ids_free(&a);
    bl_ids_free(&b);
}
END_TEST

/* ---- streaming ------------------------------------------------------------------------------- */

START_TEST(spm_text_comes_back)
{
    uint64_t state = 11;
    int round;
    size_t total = 0;

    for (round = 0; round < 3000; round++) {
        char text[200];
        size_t n = random_text(&state, text, next_random(&state) % 40), length;
        bl_ids ids = tokens(spm, text, n, 0);
        char *back = text_of(spm, ids.data, ids.n, 0, &length);

        ck_assert_uint_eq(length, n);
        ck_assert_mem_eq(back, text, n);
        total += n;
        free(back);
        bl_ids_free(&ids);
    }
    printf("text: %zu bytes of random text came back the same\n", total);
}
END_TEST

START_TEST(stream_of_bytes_equals_the_whole)
{
    uint64_t state = 13;
    int round;

    for (round = 0; round < 60000; round++) {
        int32_t ids[6];
        uint8_t bytes[6];
        char want[20], *got;
        size_t n = 2 + next_random(&state) % 5, i, length, wanted;

        for (i = 0; i < n; i++) {
            /* Mostly bytes that begin or continue characters. */
            uint64_t r = next_random(&state);
            bytes[i] = (uint8_t)(r % 4 ? 0x80 + (r >> 2) % 0x80 : (r >> 2) % 256);
            ids[i] = 4 + bytes[i];
        }
        got = text_of(spm, ids, n, 0, &length);
        wanted = repair(bytes, n, want);
        ck_assert_uint_eq(length, wanted);
        ck_assert_mem_eq(got, want, wanted);
        free(got);
    }
}
END_TEST

START_TEST(any_ids_give_valid_utf8)
{
    const bl_tokenizer *both[2] = {spm, wordpiece};
    uint64_t state = 17;
    int32_t which, id, round;

    for (which = 0; which < 2; which++) {
        int32_t n_ids = bl_tokenizer_vocab_size(both[which]);

        for (id = -2; id < n_ids + 2; id++) {
            size_t length;
            free(text_of(both[which], &id, 1, 1, &length));
            if (id < 0 || id >= n_ids)
                ck_assert_uint_eq(length, 0);
        }
        for (round = 0; round < 5000; round++) {
            int32_t ids[12];
            size_t i, length;
            for (i = 0; i < BL_COUNT(ids); i++)
                ids[i] = (int32_t)(next_random(&state) % (round % 2 ? 300 : (uint64_t)n_ids));
            free(text_of(both[which], ids, BL_COUNT(ids), round % 3 == 0, &length));
        }
    }
}
END_TEST

static void check_text(const bl_tokenizer *t, const int32_t *ids, size_t n, int special,
                       const char *want)
{
    size_t length;
    char *got = text_of(t, ids, n, special, &length);

    ck_assert_str_eq(got, want);
    free(got);
}
#define CHECK_TEXT(t, special, want, ...)                                                          \
    do {                                                                                           \
        static const int32_t ids_[] = {__VA_ARGS__};                                               \
        check_text(t, ids_, BL_COUNT(ids_), special, want);                                        \
    } while (0)

START_TEST(control_tokens_show_only_if_asked)
{
    char out[64];
    bl_detok state = {.keep_space = 1};
    size_t n;

    CHECK_TEXT(spm, 0, "a", 1, 262, 2);
    CHECK_TEXT(spm, 1, "<s>a</s>", 1, 262, 2);
    CHECK_TEXT(wordpiece, 0, "hello", 101, 7592, 102);
    CHECK_TEXT(wordpiece, 1, "[CLS] hello [SEP]", 101, 7592, 102);
    CHECK_TEXT(spm, 0, "\xEF\xBF\xBD" "a", 4 + 0xE2, 4 + 'a');
    /* The continuation of a prompt keeps the space. */
    n = bl_detok_next(spm, &state, 262, 0, out);
    ck_assert_uint_eq(n, 2);
    ck_assert_mem_eq(out, " a", 2);
}
END_TEST

/* ---- chunks ----------------------------------------------------------------------------------- */

static size_t check_chunks(const bl_tokenizer *t, const char *text, size_t length, size_t size,
                           size_t overlap)
{
    bitlm_chunk *c = NULL;
    bitlm_error e = {.size = sizeof(e)};
    size_t n = 0, i, covered = 0, over = 0;
    bitlm_status status = bl_chunk_text(t, text, length, size, overlap, &plain, NULL, &c, &n, &e);

    ck_assert_msg(status == BITLM_OK, "%s", e.text);
    ck_assert_uint_ge(n, 1);
    for (i = 0; i < n; i++) {
        size_t end = c[i].byte_start + c[i].byte_length;
        bl_ids ids = tokens(t, text + c[i].byte_start, c[i].byte_length, 0);

        ck_assert_uint_le(c[i].byte_start, covered); /* no character is left out */
        ck_assert(end > covered || length == 0);     /* each chunk brings something new */
        ck_assert(i == 0 || c[i].byte_start > c[i - 1].byte_start);
        ck_assert_uint_eq(ids.n, c[i].n_tokens);
        ck_assert_uint_le(ids.n, size);
        /* What substr() would give. */
        ck_assert_uint_eq(bl_utf8_boundary(text, length, c[i].byte_start), c[i].byte_start);
        ck_assert_uint_eq(bl_utf8_count(text, c[i].byte_start), c[i].char_start);
        ck_assert_uint_eq(bl_utf8_count(text + c[i].byte_start, c[i].byte_length), c[i].char_length);
        ck_assert_uint_eq(bl_utf8_count(text, end), c[i].char_start + c[i].char_length);
        bl_ids_free(&ids);
        if (i && c[i].byte_start < covered) {
            ids = tokens(t, text + c[i].byte_start, covered - c[i].byte_start, 0);
            ck_assert_uint_le(ids.n, overlap);
            over += ids.n;
            bl_ids_free(&ids);
        }
        covered = end;
    }
    ck_assert_uint_eq(covered, length);
    bl_free(&plain, c);
    return n > 1 ? over / (n - 1) : overlap;
}

START_TEST(chunks_cover_and_fit)
{
    uint64_t state = 23;
    int round;

    for (round = 0; round < 400; round++) {
        char text[2000];
        size_t n = random_text(&state, text, next_random(&state) % 400), i;
        size_t size = 12 + next_random(&state) % 60, overlap = next_random(&state) % size;

        for (i = 0; round % 4 == 0 && i < n; i++) /* broken UTF-8 too */
            if (next_random(&state) % 20 == 0)
                text[i] = (char)next_random(&state);
        for (i = 0; round % 3 == 0 && i < n; i++) /* and one long word */
            if (text[i] == ' ' || text[i] == '\n')
                text[i] = 'x';
        check_chunks(round % 2 ? spm : wordpiece, text, n, size, overlap);
    }
    check_chunks(spm, "", 0, 1, 0);
    check_chunks(wordpiece, "", 0, 1, 0);
    check_chunks(wordpiece, "   ", 3, 1, 0);
}
END_TEST

START_TEST(chunks_end_with_sentences)
{
    static const char text[] = "The cat sat on the mat. The dog ran to the door! Was it late? "
                               "Nobody knew (or said so). The rain fell on the old house, and the "
                               "wind went round it.";
    const bl_tokenizer *both[2] = {wordpiece, spm};
    char story[6000];
    size_t i, k, n, used = 0;

    for (k = 0; k < 2; k++) {
        bitlm_chunk *c = NULL;
        bitlm_error e = {.size = sizeof(e)};

        ck_assert_int_eq(bl_chunk_text(both[k], text, strlen(text), 16, 0, &plain, NULL, &c, &n, &e),
                         BITLM_OK);
        ck_assert_uint_ge(n, 3);
        for (i = 0; i < n; i++) {
            const char *end = text + c[i].byte_start + c[i].byte_length;
            ck_assert(*end == '\0' || (end[-1] == ' ' && end[0] != ' '));
        }
        /* The first one has room for one sentence or for two, and more words than that. */
        ck_assert(c[0].byte_length == strlen("The cat sat on the mat. ") ||
                  c[0].byte_length == strlen("The cat sat on the mat. The dog ran to the door! "));
        bl_free(&plain, c);
    }
    while (used + sizeof(text) < sizeof(story)) {
        memcpy(story + used, text, sizeof(text) - 1);
        used += sizeof(text) - 1;
        story[used++] = ' ';
    }
    for (k = 0; k < 2; k++) {
        size_t over = check_chunks(both[k], story, used, 64, 16);
        printf("text: chunks of 64 share %zu tokens where 16 were asked for\n", over);
        ck_assert_uint_ge(over, 8);
    }
}
END_TEST

START_TEST(chunks_of_hostile_texts)
{
    static const char *const units[] = {"a", " ", "\n", "a ", "\xE4\xBD\xA0", "\xFF", "."};
    size_t length = 1 << 17, i, k, n, m;
    char *text = malloc(length + 8);

    for (i = 0; i < BL_COUNT(units); i++)
        for (k = 0; k < 2; k++) {
            bitlm_chunk *c = NULL;
            bitlm_error e = {.size = sizeof(e)};
            clock_t begin;

            for (n = 0; n < length; n += strlen(units[i]))
                memcpy(text + n, units[i], strlen(units[i]));
            text[0] = 'b';
            begin = clock();
            ck_assert_int_eq(bl_chunk_text(k ? spm : wordpiece, text, length, 256, 32, &plain, NULL,
                                           &c, &m, &e),
                             BITLM_OK);
            /* 0.3 s is usual; a search that begins anew at each chunk takes minutes. */
            ck_assert_msg(clock() - begin < 20 * CLOCKS_PER_SEC, "'%s'", units[i]);
            bl_free(&plain, c);
        }
    free(text);
}
END_TEST

START_TEST(chunks_refuse_nonsense)
{
    bitlm_chunk *c = NULL;
    bitlm_error e = {.size = sizeof(e)};
    size_t n = 99;

    ck_assert_int_eq(bl_chunk_text(spm, "a", 1, 0, 0, &plain, NULL, &c, &n, &e), BITLM_ARG);
    ck_assert_int_eq(bl_chunk_text(spm, "a", 1, (1u << 20) + 1, 0, &plain, NULL, &c, &n, &e), BITLM_ARG);
    ck_assert_int_eq(bl_chunk_text(spm, "a", 1, 5, 5, &plain, NULL, &c, &n, &e), BITLM_ARG);
    ck_assert_msg(strstr(e.text, "5") != NULL, "%s", e.text);
    /* A character of five tokens does not fit a chunk of two. */
    ck_assert_int_eq(bl_chunk_text(spm, "\xF0\x9F\x98\x80", 4, 2, 0, &plain, NULL, &c, &n, &e),
                     BITLM_LIMIT);
    ck_assert_ptr_null(c);
    ck_assert_uint_eq(n, 99);
}
END_TEST

/* ---- chat -------------------------------------------------------------------------------------- */

static void check_chat(const char *jinja, const char *name, const char *messages, const char *want)
{
    const bl_chat_template *t = bl_chat_find(jinja, strlen(jinja));
    bitlm_error e = {.size = sizeof(e)};
    char *text = NULL;
    size_t length = 0, *segments = NULL, n = 0, i, at = 0;
    bitlm_status status;

    ck_assert_ptr_nonnull(t);
    ck_assert_str_eq(bl_chat_name(t), name);
    ck_assert_ptr_nonnull(strstr(bl_chat_names(), name));
    status = bl_chat_render(t, (bitlm_text){"", 0}, messages, strlen(messages), &plain, &text, &length, &segments, &n, &e);
    ck_assert_msg(status == BITLM_OK, "%s", e.text);
    ck_assert_str_eq(text, want);
    ck_assert_uint_eq(length, strlen(want));
    for (i = 0; i < n; i++) {
        ck_assert_uint_ge(segments[2 * i], at);
        ck_assert_uint_le(segments[2 * i], segments[2 * i + 1]);
        at = segments[2 * i + 1];
        ck_assert_uint_le(at, length);
    }
    bl_free(&plain, text);
    bl_free(&plain, segments);
}

START_TEST(chat_templates)
{
    static const char talk[] = "[{\"role\":\"system\",\"content\":\"Be brief.\"},"
                               "{\"role\":\"user\",\"content\":\" Hi \"},"
                               "{\"role\":\"assistant\",\"content\":\"Hello.\"},"
                               "{\"content\":\"Bye\",\"role\":\"user\"}]";
    check_chat("{{'<|im_start|>' + message['role']}}<|im_end|>", "chatml", talk,
               "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n Hi <|im_end|>\n"
               "<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"
               "<|im_start|>assistant\n");
    check_chat("'<|start_header_id|>' + message['role'] <|eot_id|>", "llama3", talk,
               "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
               "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
               "<|start_header_id|>assistant<|end_header_id|>\n\nHello.<|eot_id|>"
               "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
               "<|start_header_id|>assistant<|end_header_id|>\n\n");
    check_chat("message['role'] | capitalize + ': ' + message['content'] | trim + '<|eot_id|>'",
               "bitnet-2b4t", talk,
               "System: Be brief.<|eot_id|>User: Hi<|eot_id|>Assistant: Hello.<|eot_id|>"
               "User: Bye<|eot_id|>Assistant: ");
    check_chat("Human: … BITNETAssistant: ", "bitnet-2b4t",
               "[{\"role\":\"user\",\"content\":\"x\"}]", "User: x<|eot_id|>Assistant: ");
    check_chat("<|user|>\n… + eos_token", "zephyr", talk,
               "<|system|>\nBe brief.</s>\n<|user|>\n Hi </s>\n<|assistant|>\nHello.</s>\n"
               "<|user|>\nBye</s>\n<|assistant|>\n");
    check_chat("<|user|>…<|end|><|assistant|>", "phi3", "[{\"role\":\"user\",\"content\":\"x\"}]",
               "<|user|>\nx<|end|>\n<|assistant|>\n");
    check_chat("[INST] <<SYS>>", "llama2", talk,
               "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST] Hello. </s><s>[INST] Bye [/INST]");
    check_chat("[INST] <<SYS>>", "llama2", "[{\"role\":\"user\",\"content\":\"x\"}]", "[INST] x [/INST]");
    ck_assert_ptr_null(bl_chat_find("{{ messages }}", 14));
    ck_assert_ptr_null(bl_chat_find("", 0));
}
END_TEST

/* tests/oracle/make_chat_cases.py had jinja2 render the models' own templates. */
START_TEST(chats_as_jinja_renders_them)
{
    json_t *golden = load_json("text/chats.json"), *g;
    size_t index, n_system = 0;

    json_array_foreach(golden, index, g) {
        const char *jinja = json_string_value(json_object_get(g, "template"));
        const char *want = json_string_value(json_object_get(g, "text"));
        const bl_chat_template *t = bl_chat_find(jinja, strlen(jinja));
        char *messages = json_dumps(json_object_get(g, "messages"), 0), *text = NULL;
        size_t length, *segments = NULL, n;
        bitlm_error e = {.size = sizeof(e)};
        bitlm_text system;

        ck_assert_msg(t != NULL, "no row for case %zu", index);
        ck_assert_str_eq(bl_chat_name(t), json_string_value(json_object_get(g, "row")));
        system = bl_chat_system(t, jinja, strlen(jinja));
        n_system += system.length > 0;
        ck_assert_msg(bl_chat_render(t, system, messages, strlen(messages), &plain, &text, &length,
                                     &segments, &n, &e) == BITLM_OK, "%s", e.text);
        ck_assert_msg(strcmp(text, want) == 0, "%s: got\n%s\nbut jinja2 has\n%s",
                      json_string_value(json_object_get(g, "name")), text, want);
        bl_free(&plain, text);
        bl_free(&plain, segments);
        free(messages);
    }
    ck_assert_uint_ge(index, 35);
    ck_assert_uint_ge(n_system, 5); /* templates that bring a system message of their own */
    json_decref(golden);
}
END_TEST

START_TEST(chat_names_the_bad_message)
{
    static const struct {
        const char *json, *says;
    } rows[] = {
        {"", "JSON"},
        {"[", "JSON"},
        {"{}", "array"},
        {"[]", "empty"},
        {"[1]", "message 1"},
        {"[{\"role\":\"user\"}]", "message 1 has no content"},
        {"[{\"content\":\"x\"}]", "message 1 has no role"},
        {"[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"bot\",\"content\":\"x\"}]",
         "message 2 is 'bot'"},
        {"[{\"role\":\"user\",\"content\":null}]", "message 1 is not a string"},
        {"[{\"role\":7,\"content\":\"x\"}]", "role of message 1"},
        {"[{\"role\":\"user\",\"content\":\"x\",\"name\":\"y\"}]", "'name'"},
        {"[{\"role\":\"user\",\"role\":\"user\",\"content\":\"x\"}]", "JSON"},
        {"[{\"role\":\"user\\u0000\",\"content\":\"x\"}]", "message 1"},
        {"[{\"role\":\"user\",\"content\":\"\xFF\"}]", "JSON"},
    };
    const bl_chat_template *t = bl_chat_find("<|im_start|><|im_end|>", 22), *llama2;
    bitlm_error e = {.size = sizeof(e)};
    char *text = NULL;
    size_t n = 0, *segments = NULL, k = 0, i;
    static const char twice[] = "[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"user\",\"content\":\"x\"}]";

    for (i = 0; i < BL_COUNT(rows); i++) {
        ck_assert_int_eq(bl_chat_render(t, (bitlm_text){"", 0}, rows[i].json, strlen(rows[i].json), &plain, &text, &n,
                                        &segments, &k, &e),
                         BITLM_ARG);
        ck_assert_msg(strstr(e.text, rows[i].says) != NULL, "'%s' does not say '%s'", e.text,
                      rows[i].says);
        ck_assert_ptr_null(text);
    }
    llama2 = bl_chat_find("[INST]<<SYS>>", 13);
    ck_assert_int_eq(bl_chat_render(llama2, (bitlm_text){"", 0}, twice, strlen(twice), &plain, &text, &n, &segments, &k, &e),
                     BITLM_ARG);
    ck_assert_msg(strstr(e.text, "message 2") != NULL, "%s", e.text);
}
END_TEST

/* ---- vocabularies made here ---------------------------------------------------------------------- */

typedef struct maker {
    uint8_t data[1 << 16];
    size_t n;
    uint64_t keys;
} maker;

static void raw(maker *m, const void *data, size_t size)
{
    ck_assert_uint_le(m->n + size, sizeof(m->data));
    memcpy(m->data + m->n, data, size);
    m->n += size;
}
static void u32(maker *m, uint32_t v)
{
    raw(m, &v, 4);
}
static void u64(maker *m, uint64_t v)
{
    raw(m, &v, 8);
}
static void str(maker *m, const char *s)
{
    u64(m, strlen(s));
    raw(m, s, strlen(s));
}
static void key(maker *m, const char *name, uint32_t type)
{
    str(m, name);
    u32(m, type);
    m->keys++;
}
static void begin(maker *m, const char *model)
{
    memset(m, 0, sizeof(*m));
    raw(m, "GGUF", 4);
    u32(m, 3);
    u64(m, 0);
    u64(m, 0);
    key(m, "tokenizer.ggml.model", BL_GGUF_STRING);
    str(m, model);
}
static void strings(maker *m, const char *const *list, size_t n)
{
    size_t i;
    key(m, "tokenizer.ggml.tokens", BL_GGUF_ARRAY);
    u32(m, BL_GGUF_STRING);
    u64(m, n);
    for (i = 0; i < n; i++)
        str(m, list[i]);
}
static void types(maker *m, const int32_t *list, size_t n)
{
    key(m, "tokenizer.ggml.token_type", BL_GGUF_ARRAY);
    u32(m, BL_GGUF_I32);
    u64(m, n);
    raw(m, list, 4 * n);
}
static void scores(maker *m, const float *list, size_t n)
{
    key(m, "tokenizer.ggml.scores", BL_GGUF_ARRAY);
    u32(m, BL_GGUF_F32);
    u64(m, n);
    raw(m, list, 4 * n);
}
static void number(maker *m, const char *name, uint32_t v)
{
    key(m, name, BL_GGUF_U32);
    u32(m, v);
}

/* Opens what was made; a failure gives NULL and the sentence. */
static bl_tokenizer *finish(maker *m, int32_t vocab_size, bitlm_status want, const char *says)
{
    bitlm_error e = {.size = sizeof(e)};
    bl_gguf *file = NULL;
    bl_tokenizer *t = NULL;
    bitlm_status status;

    memcpy(m->data + 16, &m->keys, 8);
    status = bl_gguf_open(m->data, m->n, &plain, &file, &e);
    ck_assert_msg(status == BITLM_OK, "%s", e.text);
    status = bl_tokenizer_open(file, vocab_size, &plain, &t, &e);
    ck_assert_msg(status == want, "status %d, not %d: %s", status, want, e.text);
    if (want)
        ck_assert_msg(strstr(e.text, says) != NULL, "'%s' does not say '%s'", e.text, says);
    bl_gguf_free(file); /* the tokenizer must not need it */
    return t;
}

#define MARK "\xE2\x96\x81"

static maker made;

START_TEST(spm_priorities_and_unknowns)
{
    static const char *const list[] = {"<unk>", "a", "b", "ab", "ba", "bab", MARK, "<|x|>", MARK "a",
                                       "xx", "aa"};
    static const int32_t kinds[] = {2, 1, 1, 1, 1, 1, 1, 3, 1, 4, 1};
    static const float points[] = {0, -1, -1, -3, -2, -4, -1, 0, -5, 0, -3};
    bl_tokenizer *t;

    begin(&made, "llama");
    strings(&made, list, BL_COUNT(list));
    types(&made, kinds, BL_COUNT(list));
    scores(&made, points, BL_COUNT(list));
    number(&made, "tokenizer.ggml.eos_token_id", 7);
    t = finish(&made, 16, BITLM_OK, NULL);
    ck_assert_int_eq(bl_tokenizer_kind(t), BL_TOKENIZER_SPM);
    /* "ba" (-2) goes before "ab" (-3), then "ba"+"b" makes "bab". */
    CHECK_IDS(t, "bab", 0, 6, 5);
    /* Equal scores: the leftmost. */
    CHECK_IDS(t, "baaa", 0, 6, 4, 10);
    CHECK_IDS(t, "ba", 0, 6, 4);
    CHECK_IDS(t, "aab", 0, 6, 10, 2);
    /* No piece, no bytes: a run of unknown characters is one <unk>. */
    CHECK_IDS(t, "a\xC3\xA9zb", 0, 8, 0, 2);
    /* A user-defined piece is cut out first, and no merge crosses it. */
    CHECK_IDS(t, "axxb", 0, 8, 9, 2);
    CHECK_IDS(t, "xx", 0, 6, 9);
    CHECK_IDS(t, "<|x|>a", BITLM_TOKENS_SPECIAL, 7, 8);
    CHECK_IDS(t, "bab", BITLM_TOKENS_FRAME, 6, 5);
    CHECK_TEXT(t, 0, "bab \xE2\x81\x87 ", 6, 5, 0);
    bl_tokenizer_free(t);
}
END_TEST

START_TEST(byte_level_files_load_without_text)
{
    /* U+0120 is a space, U+010A a newline, the two next are the bytes of U+00E9. */
    static const char *const list[] = {"hi", "\xC4\xA0yo", "\xC4\x8A", "\xC3\x83", "\xC2\xA9", "<|eot_id|>"};
    static const int32_t kinds[] = {1, 1, 1, 1, 1, 3};
    bitlm_error e = {.size = sizeof(e)};
    bl_ids ids = {.alloc = &plain};
    bl_tokenizer *t;

    begin(&made, "gpt2");
    strings(&made, list, 6);
    types(&made, kinds, 6);
    number(&made, "tokenizer.ggml.eos_token_id", 2);
    t = finish(&made, 8, BITLM_OK, NULL);
    ck_assert_int_eq(bl_tokenizer_kind(t), BL_TOKENIZER_NONE);
    CHECK_TEXT(t, 0, "hi yo\n\xC3\xA9\xEF\xBF\xBD", 0, 1, 2, 3, 4, 5, 4);
    CHECK_TEXT(t, 1, "hi<|eot_id|>", 0, 5);
    ck_assert_int_eq(bl_tokenizer_is_end(t, 5), 1);
    ck_assert_int_eq(bl_tokenizer_is_end(t, 2), 1);
    ck_assert_int_eq(bl_tokenizer_eos(t), 2);
    ck_assert_int_eq(bl_tokenizer_bos(t), -1);
    ck_assert_int_eq(bl_tokenize(t, "hi", 2, 0, 0, NULL, &ids, &e), BITLM_UNSUPPORTED);
    bl_tokenizer_free(t);
    begin(&made, "no such kind");
    t = finish(&made, 8, BITLM_OK, NULL);
    ck_assert_int_eq(bl_tokenizer_kind(t), BL_TOKENIZER_NONE);
    CHECK_TEXT(t, 1, "", 0, 5);
    bl_tokenizer_free(t);
}
END_TEST

START_TEST(broken_vocabularies_are_refused)
{
    static const char *const list[] = {"<unk>", "<0x41>", "<0x41>", "b"};
    static const int32_t twice[] = {2, 6, 6, 1}, wrong[] = {2, 1, 1, 9}, misnamed[] = {2, 6, 1, 6},
                         fine[] = {2, 1, 1, 1}, no_unk[] = {1, 1, 1, 1};
    static const float points[] = {0, 0, 0, 0};
    float bad[] = {0, NAN, 0, 0};

    begin(&made, "llama");
    finish(&made, 4, BITLM_FORMAT, "tokens is missing");
    strings(&made, list, 4);
    finish(&made, 3, BITLM_FORMAT, "4 entries, but the embedding has 3");
    finish(&made, 4, BITLM_FORMAT, "scores");
    scores(&made, points, 3);
    finish(&made, 4, BITLM_FORMAT, "scores has 3 entries");
    begin(&made, "llama");
    strings(&made, list, 4);
    scores(&made, bad, 4);
    finish(&made, 4, BITLM_FORMAT, "score of token 1");
    begin(&made, "llama");
    strings(&made, list, 4);
    scores(&made, points, 4);
    types(&made, fine, 3);
    finish(&made, 4, BITLM_FORMAT, "token_type has 3 entries");
    begin(&made, "llama");
    strings(&made, list, 4);
    scores(&made, points, 4);
    types(&made, twice, 4);
    finish(&made, 4, BITLM_FORMAT, "tokens 1 and 2 both stand for byte 0x41");
    begin(&made, "llama");
    strings(&made, list, 4);
    scores(&made, points, 4);
    types(&made, wrong, 4);
    finish(&made, 4, BITLM_FORMAT, "token 3 has type 9");
    begin(&made, "llama");
    strings(&made, list, 4);
    scores(&made, points, 4);
    types(&made, misnamed, 4);
    finish(&made, 4, BITLM_FORMAT, "byte token 3 is named 'b'");
    begin(&made, "llama");
    strings(&made, list, 4);
    scores(&made, points, 4);
    types(&made, fine, 4);
    number(&made, "tokenizer.ggml.eos_token_id", 4);
    finish(&made, 4, BITLM_FORMAT, "eos_token_id is 4");
    begin(&made, "llama");
    strings(&made, list + 1, 3);
    scores(&made, points, 3);
    types(&made, no_unk, 3);
    finish(&made, 4, BITLM_FORMAT, "neither");
    begin(&made, "bert");
    strings(&made, list + 1, 3);
    finish(&made, 4, BITLM_FORMAT, "no unknown token");
    begin(&made, "bert");
    number(&made, "tokenizer.ggml.tokens", 4);
    finish(&made, 4, BITLM_FORMAT, "not an array of strings");
}
END_TEST

/* ---- each allocation failing in turn ------------------------------------------------------------- */

typedef struct meter {
    int64_t left, live;
} meter;

static void *metered_alloc(void *context, size_t size)
{
    meter *m = context;

    if (m->left-- <= 0)
        return NULL;
    m->live++;
    return malloc(size ? size : 1);
}

static void metered_release(void *context, void *memory)
{
    ((meter *)context)->live--;
    free(memory);
}

START_TEST(every_allocation_may_fail)
{
    static const char text[] = "Hello there, café! One sentence. Another sentence follows it. ";
    static const char chat[] = "[{\"role\":\"user\",\"content\":\"x\"}]";
    const bl_chat_template *template = bl_chat_find("<|im_start|><|im_end|>", 22);
    bl_gguf *files[2] = {story_file, embed_file};
    int32_t sizes[2] = {4096, 30522}, which;
    int64_t at, most = 0;

    for (which = 0; which < 4; which++) {
        bitlm_status status = BITLM_NOMEM;

        for (at = 0; status == BITLM_NOMEM; at++) {
            meter m = {at, 0};
            bl_alloc a = {&m, metered_alloc, metered_release};
            bitlm_error e = {.size = sizeof(e)};

            ck_assert_int_lt(at, 200);
            if (which < 2) {
                bl_tokenizer *t = NULL;
                bl_ids ids = {.alloc = &a};

                status = bl_tokenizer_open(files[which], sizes[which], &a, &t, &e);
                if (!status)
                    status = bl_tokenize(t, text, strlen(text), 0, 0, NULL, &ids, &e);
                ck_assert(!status || ids.n == 0);
                bl_ids_free(&ids);
                bl_tokenizer_free(t);
            } else if (which == 2) {
                bitlm_chunk *c = NULL;
                size_t n;

                status = bl_chunk_text(spm, text, strlen(text), 12, 3, &a, NULL, &c, &n, &e);
                bl_free(&a, c);
            } else {
                char *out = NULL;
                size_t length, *segments = NULL, n;

                status = bl_chat_render(template, (bitlm_text){"", 0}, chat, strlen(chat), &a, &out, &length, &segments,
                                        &n, &e);
                bl_free(&a, out);
                bl_free(&a, segments);
            }
            ck_assert_msg(status == BITLM_OK || status == BITLM_NOMEM, "%s", e.text);
            ck_assert_int_eq(m.live, 0);
        }
        ck_assert_int_ge(at, 3);
        most = BL_MAX(most, at);
    }
    printf("text: up to %lld allocations failed in turn\n", (long long)most - 1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("text");
    TCase *ids = tcase_create("ids"), *texts = tcase_create("texts"), *chunk = tcase_create("chunks"),
          *files = tcase_create("files");

    printf("text: random texts come from fixed seeds 7 to 23\n");
    fflush(stdout);
    tcase_add_unchecked_fixture(ids, set_up, tear_down);
    tcase_add_unchecked_fixture(texts, set_up, tear_down);
    tcase_add_unchecked_fixture(chunk, set_up, tear_down);
    tcase_add_unchecked_fixture(files, set_up, tear_down);
    tcase_set_timeout(ids, 120);
    tcase_set_timeout(texts, 60);
    tcase_set_timeout(chunk, 300);
    tcase_set_timeout(files, 60);
    tcase_add_test(ids, golden_ids_and_texts);
    tcase_add_test(ids, frame_and_special_tokens);
    tcase_add_test(ids, typed_marks_stay_text);
    tcase_add_test(ids, time_grows_with_the_text);
    tcase_add_test(ids, limit_and_cancel_leave_no_ids);
    tcase_add_test(texts, bad_parts_are_maximal);
    tcase_add_test(texts, every_code_point_survives_utf8);
    tcase_add_test(texts, invalid_utf8_is_read_as_fffd);
    tcase_add_test(texts, nul_bytes_are_characters);
    tcase_add_test(texts, spm_text_comes_back);
    tcase_add_test(texts, stream_of_bytes_equals_the_whole);
    tcase_add_test(texts, any_ids_give_valid_utf8);
    tcase_add_test(texts, control_tokens_show_only_if_asked);
    tcase_add_test(chunk, chunks_cover_and_fit);
    tcase_add_test(chunk, chunks_end_with_sentences);
    tcase_add_test(chunk, chunks_of_hostile_texts);
    tcase_add_test(chunk, chunks_refuse_nonsense);
    tcase_add_test(files, chats_as_jinja_renders_them);
    tcase_add_test(files, chat_templates);
    tcase_add_test(files, chat_names_the_bad_message);
    tcase_add_test(files, spm_priorities_and_unknowns);
    tcase_add_test(files, byte_level_files_load_without_text);
    tcase_add_test(files, broken_vocabularies_are_refused);
    tcase_add_test(files, every_allocation_may_fail);
    suite_add_tcase(suite, ids);
    suite_add_tcase(suite, texts);
    suite_add_tcase(suite, chunk);
    suite_add_tcase(suite, files);
    return run_suite(suite);
}
