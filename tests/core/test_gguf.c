/* test_gguf.c - model files: the GGUF reader over good and crafted bad files, and the writer.
 *
 * Files are built byte by byte here; what a hostile one may hold is in the table `bad`.  Every file is
 * read from a heap block of exactly its size, so that a sanitizer sees a read past its end, and
 * through an allocator that counts, so that leaks and unbounded memory are seen without one.
 * The file is long because its list of hostile files is: they share one small builder of bytes.  Mappings: test_mapping.c. */
#define _GNU_SOURCE
#include <check.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/rng.h"
#include "builtin/builtin.h"
#include "file/mapping.h"
#include "temporary_files.h"
#include "test_support.h"

#define FUZZ_NO_MAIN
#include "../fuzz/fuzz_gguf.c"

#define SEED 20261123

/* ---- building files ---------------------------------------- */

typedef struct builder {
    uint8_t bytes[1 << 20];
    size_t n;
} builder;

static void raw(builder *b, const void *data, size_t n) {
    ck_assert_uint_le(b->n + n, sizeof b->bytes);
    memcpy(b->bytes + b->n, data, n);
    b->n += n;
}

static void number(builder *b, uint64_t value, size_t n) {
    raw(b, &value, n);
} /* little-endian host */
static void u8(builder *b, uint8_t v) {
    number(b, v, 1);
}
static void u32(builder *b, uint32_t v) {
    number(b, v, 4);
}
static void u64(builder *b, uint64_t v) {
    number(b, v, 8);
}

static void text_n(builder *b, const char *text, size_t n) {
    u64(b, n);
    raw(b, text, n);
}

static void text(builder *b, const char *t) {
    text_n(b, t, strlen(t));
}

static void header(builder *b, uint32_t version, uint64_t tensors, uint64_t keys) {
    b->n = 0;
    raw(b, "GGUF", 4);
    u32(b, version);
    u64(b, tensors);
    u64(b, keys);
}

static void key(builder *b, const char *name, uint32_t type) {
    text(b, name);
    u32(b, type);
}

static void key_u32(builder *b, const char *name, uint32_t v) {
    key(b, name, BL_GGUF_U32);
    u32(b, v);
}

static void info(builder *b, const char *name, uint32_t type, uint64_t k, uint64_t rows, uint64_t offset) {
    text(b, name);
    u32(b, rows == 1 ? 1 : 2);
    u64(b, k);
    if (rows != 1)
        u64(b, rows);
    u32(b, type);
    u64(b, offset);
}

static void pad_to(builder *b, size_t alignment) {
    while (b->n % alignment != 0)
        u8(b, 0);
}

static void data(builder *b, size_t n) {
    for (size_t i = 0; i < n; i++)
        u8(b, (uint8_t)(i % 59)); /* half floats of it are finite */
}

/* Every value type, every array type, tensors of five types. */
#define GOOD_KEYS 28
#define GOOD_TENSORS 5

static void good_file(builder *b, uint32_t version) {
    header(b, version, GOOD_TENSORS, GOOD_KEYS);
    key(b, "general.architecture", BL_GGUF_STRING);
    text(b, "test");
    key(b, "u8", BL_GGUF_U8), u8(b, 200);
    key(b, "i8", BL_GGUF_I8), u8(b, 0x80);
    key(b, "u16", BL_GGUF_U16), number(b, 65535, 2);
    key(b, "i16", BL_GGUF_I16), number(b, 0x8000, 2);
    key(b, "u32", BL_GGUF_U32), u32(b, 4000000000u);
    key(b, "i32", BL_GGUF_I32), u32(b, 0x80000000u);
    float f = 0.1f;
    double d = 0.1;
    key(b, "f32", BL_GGUF_F32), raw(b, &f, 4);
    key(b, "true", BL_GGUF_BOOL), u8(b, 1);
    key(b, "false", BL_GGUF_BOOL), u8(b, 0);
    key(b, "u64", BL_GGUF_U64), u64(b, (uint64_t)1 << 40);
    key(b, "u64 huge", BL_GGUF_U64), u64(b, UINT64_MAX);
    key(b, "i64", BL_GGUF_I64), u64(b, (uint64_t)INT64_MIN);
    key(b, "f64", BL_GGUF_F64), raw(b, &d, 8);
    key(b, "empty string", BL_GGUF_STRING), text(b, "");
    key(b, "odd string", BL_GGUF_STRING), text_n(b, "a\0\xff\xfe", 4);
    key(b, "strings", BL_GGUF_ARRAY), u32(b, BL_GGUF_STRING), u64(b, 3);
    text(b, "<unk>"), text(b, ""), text(b, "\xe2\x96\x81");
    key(b, "floats", BL_GGUF_ARRAY), u32(b, BL_GGUF_F32), u64(b, 2), raw(b, &f, 4), u32(b, 0);
    key(b, "doubles", BL_GGUF_ARRAY), u32(b, BL_GGUF_F64), u64(b, 1), raw(b, &d, 8);
    key(b, "bools", BL_GGUF_ARRAY), u32(b, BL_GGUF_BOOL), u64(b, 3), u8(b, 1), u8(b, 0), u8(b, 1);
    key(b, "i8s", BL_GGUF_ARRAY), u32(b, BL_GGUF_I8), u64(b, 2), u8(b, 0xff), u8(b, 127);
    key(b, "u16s", BL_GGUF_ARRAY), u32(b, BL_GGUF_U16), u64(b, 1), number(b, 65535, 2);
    key(b, "i32s", BL_GGUF_ARRAY), u32(b, BL_GGUF_I32), u64(b, 3), u32(b, 1), u32(b, 0xffffffffu), u32(b, 5);
    key(b, "u32s", BL_GGUF_ARRAY), u32(b, BL_GGUF_U32), u64(b, 2), u32(b, 7), u32(b, 4000000000u);
    key(b, "i64s", BL_GGUF_ARRAY), u32(b, BL_GGUF_I64), u64(b, 3), u64(b, 9), u64(b, (uint64_t)-2), u64(b, 3);
    key(b, "u64s", BL_GGUF_ARRAY), u32(b, BL_GGUF_U64), u64(b, 1), u64(b, UINT64_MAX);
    key(b, "none", BL_GGUF_ARRAY), u32(b, BL_GGUF_STRING), u64(b, 0);
    key_u32(b, "general.alignment", 64);
    info(b, "norm", BL_TYPE_F32, 4, 1, 0);      /* 16 bytes */
    info(b, "half", BL_TYPE_F16, 8, 2, 64);     /* 32 */
    info(b, "tern", BL_TYPE_I2_S, 64, 4, 320);  /* 96: rows start inside blocks */
    info(b, "tq2", BL_TYPE_TQ2_0, 256, 2, 128); /* 132, in front of tern */
    text(b, "four"), u32(b, 4), u64(b, 32), u64(b, 1), u64(b, 2), u64(b, 1), u32(b, BL_TYPE_Q4_0),
        u64(b, 448);
    pad_to(b, 64);
    data(b, 448 + 36);
}

static builder file; /* 1 MiB: too large for a stack */

static bl_gguf *open_good(builder *b) {
    bl_gguf *g = NULL;
    bitlm_error error = {sizeof error, 0, 0, ""};
    ck_assert_msg(bl_gguf_open(b->bytes, b->n, NULL, &g, &error) == BITLM_OK, "%s", error.text);
    return g;
}

/* Opens a copy in a block of exactly n bytes with a counting allocator; reads everything of a
 * file that opens.  Fails the test at a leak, and at memory out of proportion to the file. */
static bitlm_status open_copy(const uint8_t *bytes, size_t n, bitlm_error *error) {
    uint8_t *copy = malloc(n);
    bl_gguf *g = NULL;
    counter c = {0};
    bl_alloc a = counting(&c);
    ck_assert(n == 0 || copy != NULL);
    memcpy(copy, bytes, n);
    bitlm_status status = bl_gguf_open(copy, n, &a, &g, error);
    size_t peak = c.peak;
    bl_gguf_free(g);
    if ((g != NULL) != (status == BITLM_OK) || c.blocks != 0 || peak > 16 * n + (1 << 17))
        ck_abort_msg("status %d, %zu blocks left, %zu bytes for a file of %zu", status, c.blocks, peak, n);
    LLVMFuzzerTestOneInput(copy, n);
    free(copy);
    return status;
}

/* ---- good files ---------------------------------------- */

static void expect_i64(const bl_gguf *g, const char *name, int found, int64_t expected) {
    int64_t v = -77;
    ck_assert_int_eq(bl_gguf_i64(g, name, &v), found);
    ck_assert_int_eq(v, found == 1 ? expected : -77);
}

static void expect_f64(const bl_gguf *g, const char *name, int found, double expected) {
    double v = -77;
    ck_assert_int_eq(bl_gguf_f64(g, name, &v), found);
    ck_assert_double_eq(v, found == 1 ? expected : -77);
}

static void expect_shown(const bl_gguf *g, const char *name, const char *expected) {
    char shown[200];
    for (uint64_t i = 0; i < bl_gguf_n_keys(g); i++)
        if (strcmp(bl_gguf_key_at(g, i, NULL), name) == 0) {
            ck_assert_str_eq(bl_gguf_show(g, i, shown, sizeof shown), expected);
            for (size_t cap = 1; cap < 20; cap++) /* any room is enough */
                ck_assert_uint_lt(strlen(bl_gguf_show(g, i, shown, cap)), cap);
            return;
        }
    ck_abort_msg("no key %s", name);
}

START_TEST(reads_everything) {
    int32_t type;
    uint64_t count;
    int truth = -1;
    bitlm_text t;
    good_file(&file, _i ? 2 : 3);
    bl_gguf *g = open_good(&file);
    ck_assert_uint_eq(bl_gguf_version(g), _i ? 2 : 3);
    ck_assert_uint_eq(bl_gguf_n_keys(g), GOOD_KEYS);
    ck_assert_uint_eq(bl_gguf_n_tensors(g), GOOD_TENSORS);
    ck_assert_str_eq(bl_gguf_key_at(g, 1, &type), "u8");
    ck_assert_int_eq(type, BL_GGUF_U8);
    ck_assert_ptr_null(bl_gguf_key_at(g, GOOD_KEYS, &type));
    ck_assert_ptr_null(bl_gguf_tensor_at(g, GOOD_TENSORS));
    expect_i64(g, "u8", 1, 200);
    expect_i64(g, "i8", 1, -128);
    expect_i64(g, "u16", 1, 65535);
    expect_i64(g, "i16", 1, -32768);
    expect_i64(g, "u32", 1, 4000000000);
    expect_i64(g, "i32", 1, INT32_MIN);
    expect_i64(g, "u64", 1, (int64_t)1 << 40);
    expect_i64(g, "u64 huge", -1, 0);
    expect_i64(g, "i64", 1, INT64_MIN);
    expect_i64(g, "f32", -1, 0);
    expect_i64(g, "true", -1, 0);
    expect_i64(g, "strings", -1, 0);
    expect_i64(g, "absent", 0, 0);
    expect_f64(g, "f32", 1, (double)0.1f);
    expect_f64(g, "f64", 1, 0.1);
    expect_f64(g, "i8", 1, -128);
    expect_f64(g, "i64", -1, 0); /* not exact in 53 bits */
    expect_f64(g, "true", -1, 0);
    expect_f64(g, "absent", 0, 0);
    ck_assert_int_eq(bl_gguf_bool(g, "true", &truth), 1);
    ck_assert_int_eq(truth, 1);
    ck_assert_int_eq(bl_gguf_bool(g, "false", &truth), 1);
    ck_assert_int_eq(truth, 0);
    ck_assert_int_eq(bl_gguf_bool(g, "u8", &truth), -1);
    ck_assert_int_eq(bl_gguf_bool(g, "absent", &truth), 0);
    ck_assert_int_eq(bl_gguf_string(g, "general.architecture", &t), 1);
    ck_assert_str_eq(t.data, "test");
    ck_assert_int_eq(bl_gguf_string(g, "odd string", &t), 1);
    ck_assert_uint_eq(t.length, 4);
    ck_assert_mem_eq(t.data, "a\0\xff\xfe", 5);
    ck_assert_int_eq(bl_gguf_string(g, "empty string", &t), 1);
    ck_assert_uint_eq(t.length, 0);
    ck_assert_int_eq(bl_gguf_string(g, "u8", &t), -1);
    ck_assert_int_eq(bl_gguf_string(g, "absent", &t), 0);
    ck_assert_int_eq(bl_gguf_array(g, "strings", &type, &count), 1);
    ck_assert_int_eq(type, BL_GGUF_STRING);
    ck_assert_uint_eq(count, 3);
    ck_assert_int_eq(bl_gguf_array(g, "u8", &type, &count), -1);
    ck_assert_int_eq(bl_gguf_array(g, "absent", &type, &count), 0);
    ck_assert_str_eq(bl_gguf_array_string(g, "strings", 0).data, "<unk>");
    ck_assert_str_eq(bl_gguf_array_string(g, "strings", 2).data, "\xe2\x96\x81");
    ck_assert_uint_eq(bl_gguf_array_string(g, "strings", 3).length, 0);
    ck_assert_uint_eq(bl_gguf_strings(g, "strings", &count)[1].length, 0);
    ck_assert_ptr_nonnull(bl_gguf_strings(g, "none", &count));
    ck_assert_uint_eq(count, 0);
    ck_assert_ptr_null(bl_gguf_strings(g, "floats", &count));
    ck_assert_float_eq(bl_gguf_floats(g, "floats", &count)[0], 0.1f);
    ck_assert_uint_eq(count, 2);
    ck_assert_ptr_null(bl_gguf_floats(g, "doubles", &count));
    ck_assert_ptr_null(bl_gguf_floats(g, "absent", &count));
    ck_assert_int_eq(bl_gguf_ints(g, "i8s", &count)[0], -1);
    ck_assert_int_eq(bl_gguf_ints(g, "u16s", &count)[0], 65535);
    ck_assert_int_eq(bl_gguf_ints(g, "i32s", &count)[1], -1);
    const int32_t *narrowed = bl_gguf_ints(g, "i64s", &count);
    ck_assert_int_eq(narrowed[0], 9);
    ck_assert_int_eq(narrowed[1], -2);
    ck_assert_int_eq(narrowed[2], 3);
    ck_assert_ptr_null(bl_gguf_ints(g, "u32s", &count)); /* one does not fit */
    ck_assert_ptr_null(bl_gguf_ints(g, "u64s", &count));
    ck_assert_ptr_null(bl_gguf_ints(g, "bools", &count));
    expect_shown(g, "strings", "[\"<unk>\", \"\", \"\xe2\x96\x81\"]");
    expect_shown(g, "bools", "[true, false, true]");
    expect_shown(g, "u32s", "[7, 4000000000]");
    expect_shown(g, "u64s", "[18446744073709551615]");
    expect_shown(g, "doubles", "[0.1]");
    expect_shown(g, "i64", "-9223372036854775808");
    expect_shown(g, "odd string", "a???");

    const bl_tensor *tensor = bl_gguf_tensor(g, "tq2");
    ck_assert_ptr_eq(tensor, bl_gguf_tensor_at(g, 3));
    ck_assert_int_eq(tensor->type, BL_TYPE_TQ2_0);
    ck_assert_uint_eq(tensor->bytes, 132);
    ck_assert_uint_eq(tensor->dims[0], 256);
    ck_assert_uint_eq(tensor->dims[1], 2);
    ck_assert_uint_eq(tensor->dims[3], 1);
    ck_assert_uint_eq((uint64_t)(tensor->data - file.bytes) % 64, 0);
    ck_assert_uint_eq((uint64_t)(tensor->data - bl_gguf_tensor(g, "norm")->data), 128);
    ck_assert_int_eq(bl_gguf_tensor(g, "four")->n_dims, 4);
    ck_assert_ptr_null(bl_gguf_tensor(g, "nor"));
    ck_assert_ptr_null(bl_gguf_tensor(g, ""));
    bl_gguf_free(g);
    bl_gguf_free(NULL);
}
END_TEST

START_TEST(reads_reference_files) {
    static const char *const files[] = {"../../core/builtin/bitlm-story.gguf",
                                        "../../core/builtin/bitlm-embed.gguf"};
    for (size_t i = 0; i < BL_COUNT(files); i++) {
        size_t n;
        bitlm_error error = {sizeof error, 0, 0, ""};
        uint8_t *bytes = load_file(files[i], &n);
        ck_assert_msg(open_copy(bytes, n, &error) == BITLM_OK, "%s: %s", files[i], error.text);
        free(bytes);
    }
}
END_TEST

/* ---- damaged files ---------------------------------------- */

START_TEST(cut_anywhere) {
    bitlm_error error;
    good_file(&file, 3);
    for (size_t n = 0; n < file.n; n++) {
        error.size = sizeof error;
        if (open_copy(file.bytes, n, &error) != BITLM_FORMAT || error.text[0] == '\0')
            ck_abort_msg("cut at %zu: %d %s", n, error.status, error.text);
    }
    ck_assert_int_eq(open_copy(file.bytes, file.n, &error), BITLM_OK);
    printf("cut at each of %zu lengths: refused\n", file.n);
}
END_TEST

START_TEST(any_byte_damaged) {
    size_t by_status[16] = {0}, tried = 0;
    bitlm_error error = {sizeof error, 0, 0, ""};
    good_file(&file, 3);
    size_t n_header = file.n - 448 - 36;
    for (size_t i = 0; i < n_header; i++) {
        uint8_t before = file.bytes[i];
        const uint8_t variants[] = {before ^ 1, before ^ 0x80, before ^ 0xff, 0, (uint8_t)(before + 1), 0x7f,
                                    9};
        for (size_t v = 0; v < BL_COUNT(variants); v++, tried++) {
            file.bytes[i] = variants[v];
            by_status[open_copy(file.bytes, file.n, &error) & 15]++;
        }
        file.bytes[i] = before;
    }
    uint64_t state = 0;
    for (int round = 0; round < 5000; round++, tried++) { /* several bytes at once */
        static builder damaged;
        damaged.n = file.n;
        memcpy(damaged.bytes, file.bytes, file.n);
        for (int k = 0; k < 1 + round % 7; k++) {
            uint64_t r = bl_rng_u64(SEED, 2, state++);
            damaged.bytes[r % n_header] = (uint8_t)(r >> 32);
        }
        by_status[open_copy(damaged.bytes, damaged.n, &error) & 15]++;
    }
    printf("%zu damaged headers: %zu opened, %zu FORMAT, %zu UNSUPPORTED, %zu LIMIT\n", tried,
           by_status[BITLM_OK], by_status[BITLM_FORMAT], by_status[BITLM_UNSUPPORTED],
           by_status[BITLM_LIMIT]);
    ck_assert_uint_eq(tried, by_status[BITLM_OK] + by_status[BITLM_FORMAT] + by_status[BITLM_UNSUPPORTED] +
                                 by_status[BITLM_LIMIT]);
}
END_TEST

/* ---- hostile files ---------------------------------------- */

static void b_empty(builder *b) {
    b->n = 0;
}
static void b_magic(builder *b) {
    header(b, 3, 0, 0), memcpy(b->bytes, "GGML", 4);
}
static void b_version_1(builder *b) {
    header(b, 1, 0, 0);
}
static void b_version_4(builder *b) {
    header(b, 4, 0, 0);
}
static void b_big_endian(builder *b) {
    header(b, 0x03000000, 0, 0);
}
static void b_many_keys(builder *b) {
    header(b, 3, 0, UINT64_MAX);
}
static void b_some_keys(builder *b) {
    header(b, 3, 0, 10), data(b, 100);
}
static void b_many_tensors(builder *b) {
    header(b, 3, (uint64_t)1 << 63, 0);
}
static void b_key_length(builder *b) {
    header(b, 3, 0, 1);
    u64(b, UINT64_MAX - 7);
    data(b, 30);
}
static void b_key_long(builder *b) {
    header(b, 3, 0, 1);
    u64(b, 65536);
    for (int i = 0; i < 65536; i++)
        u8(b, 'k');
    u32(b, BL_GGUF_U8), u8(b, 0);
}
static void b_key_empty(builder *b) {
    header(b, 3, 0, 1), key_u32(b, "", 1), data(b, 30);
}
static void b_key_nul(builder *b) {
    header(b, 3, 0, 1), text_n(b, "a\0b", 3), u32(b, 4), u32(b, 1);
}
static void b_key_utf8(builder *b) {
    header(b, 3, 0, 1), text(b, "a\xc3("), u32(b, 4), u32(b, 1);
}
static void b_key_twice(builder *b) {
    header(b, 3, 0, 3);
    key_u32(b, "same", 1), key_u32(b, "other", 1), key_u32(b, "same", 1);
}
static void b_value_type(builder *b) {
    header(b, 3, 0, 1), key(b, "typ", 13), data(b, 20);
}
static void b_bool(builder *b) {
    header(b, 3, 0, 1), key(b, "boo", BL_GGUF_BOOL), u8(b, 2);
}
static void b_bools(builder *b) {
    header(b, 3, 0, 1), key(b, "boo", BL_GGUF_ARRAY), u32(b, BL_GGUF_BOOL), u64(b, 2), u8(b, 1), u8(b, 255);
}
static void b_string_length(builder *b) {
    header(b, 3, 0, 1), key(b, "str", BL_GGUF_STRING), u64(b, UINT64_MAX), data(b, 20);
}
static void b_array_count(builder *b) {
    header(b, 3, 0, 1), key(b, "arr", BL_GGUF_ARRAY), u32(b, BL_GGUF_U64), u64(b, ((uint64_t)1 << 61) + 1),
        data(b, 20);
}
static void b_array_strings(builder *b) {
    header(b, 3, 0, 1), key(b, "arr", BL_GGUF_ARRAY), u32(b, BL_GGUF_STRING), u64(b, 1 << 24), data(b, 20);
}
static void b_array_nested(builder *b) {
    header(b, 3, 0, 1), key(b, "arr", BL_GGUF_ARRAY), u32(b, BL_GGUF_ARRAY), u64(b, 1);
    u32(b, BL_GGUF_U8), u64(b, 1), u8(b, 1);
}
static void b_array_type(builder *b) {
    header(b, 3, 0, 1), key(b, "arr", BL_GGUF_ARRAY), u32(b, 77), u64(b, 1), data(b, 20);
}
static void one_tensor(builder *b, uint32_t type, uint64_t k, uint64_t rows, uint64_t offset, size_t bytes) {
    header(b, 3, 1, 0);
    info(b, "ten", type, k, rows, offset);
    pad_to(b, 32);
    data(b, bytes);
}
static void alignment(builder *b, uint32_t a) {
    header(b, 3, 1, 1);
    key_u32(b, "general.alignment", a);
    info(b, "ten", BL_TYPE_F32, 1, 1, 0);
    data(b, 200);
}
static void b_alignment_0(builder *b) {
    alignment(b, 0);
}
static void b_alignment_48(builder *b) {
    alignment(b, 48);
}
static void b_alignment_4(builder *b) {
    alignment(b, 4);
}
static void b_alignment_huge(builder *b) {
    alignment(b, 0x80000000u);
}
static void b_alignment_text(builder *b) {
    header(b, 3, 0, 1), key(b, "general.alignment", BL_GGUF_STRING), text(b, "32");
}
static void b_name_long(builder *b) {
    char name[300];
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    header(b, 3, 1, 0), info(b, name, BL_TYPE_F32, 1, 1, 0), pad_to(b, 32), data(b, 32);
}
static void b_name_nul(builder *b) {
    header(b, 3, 1, 0), text_n(b, "n\0m", 3), u32(b, 1), u64(b, 1), u32(b, 0), u64(b, 0), pad_to(b, 32),
        data(b, 32);
}
static void b_tensor_twice(builder *b) {
    header(b, 3, 2, 0), info(b, "ten", 0, 1, 1, 0), info(b, "ten", 0, 1, 1, 32), pad_to(b, 32), data(b, 64);
}
static void b_no_dims(builder *b) {
    header(b, 3, 1, 0), text(b, "ten"), u32(b, 0), u32(b, 0), u64(b, 0), pad_to(b, 32), data(b, 32);
}
static void b_five_dims(builder *b) {
    header(b, 3, 1, 0), text(b, "ten"), u32(b, 5);
    for (int i = 0; i < 5; i++)
        u64(b, 1);
    u32(b, 0), u64(b, 0), pad_to(b, 32), data(b, 32);
}
static void b_dim_0(builder *b) {
    one_tensor(b, BL_TYPE_F32, 0, 1, 0, 32);
}
static void b_dim_negative(builder *b) {
    one_tensor(b, BL_TYPE_F32, UINT64_MAX, 1, 0, 32);
}
static void b_dims_overflow(builder *b) {
    header(b, 3, 1, 0), text(b, "ten"), u32(b, 4);
    u64(b, 4), u64(b, (uint64_t)1 << 40), u64(b, (uint64_t)1 << 40), u64(b, 1);
    u32(b, 0), u64(b, 0), pad_to(b, 32), data(b, 32);
}
static void b_bytes_overflow(builder *b) {
    one_tensor(b, BL_TYPE_F32, (uint64_t)1 << 62, 2, 0, 32);
}
static void b_block(builder *b) {
    one_tensor(b, BL_TYPE_TQ2_0, 128, 2, 0, 128);
}
static void b_i2_s_block(builder *b) {
    one_tensor(b, BL_TYPE_I2_S, 96, 1, 0, 128);
}
static void b_offset_odd(builder *b) {
    one_tensor(b, BL_TYPE_F32, 1, 1, 8, 32);
}
static void b_offset_far(builder *b) {
    one_tensor(b, BL_TYPE_F32, 1, 1, 1024, 32);
}
static void b_offset_wraps(builder *b) {
    one_tensor(b, BL_TYPE_F32, 8, 1, UINT64_MAX - 31, 64);
}
static void b_too_long(builder *b) {
    one_tensor(b, BL_TYPE_F32, 9, 1, 0, 35);
}
static void b_no_data(builder *b) {
    header(b, 3, 1, 0), info(b, "ten", BL_TYPE_F32, 1, 1, 0);
}
static void b_overlap(builder *b) {
    header(b, 3, 2, 0), info(b, "first", 0, 9, 1, 0), info(b, "second", 0, 1, 1, 32), pad_to(b, 32),
        data(b, 64);
}
static void b_same_place(builder *b) {
    header(b, 3, 2, 0), info(b, "first", 0, 1, 1, 32), info(b, "second", 0, 1, 1, 32), pad_to(b, 32),
        data(b, 64);
}
static void b_type_unknown(builder *b) {
    one_tensor(b, 99, 256, 1, 0, 256);
}
static void b_type_negative(builder *b) {
    one_tensor(b, 0xffffffffu, 256, 1, 0, 256);
}
static void b_type_own(builder *b) {
    one_tensor(b, BL_TYPE_Q2_0_LEGACY, 256, 1, 0, 256);
}
static void b_type_q5_k(builder *b) {
    one_tensor(b, 13, 256, 1, 0, 256);
}
static void b_type_tl1(builder *b) {
    one_tensor(b, 38, 256, 1, 0, 256);
}
static void b_type_mxfp4(builder *b) {
    one_tensor(b, 39, 256, 4, 0, 256 * 4 / 32 * 17);
}
static void b_type_nvfp4(builder *b) {
    one_tensor(b, 40, 256, 4, 0, 256 * 4 / 64 * 36);
}
/* TL2, 512 x 3: 256 * 3 / 3 * 5 / 8 + 256 * 3 / 2 * 4 / 8 = 160 + 192, then the scale */
static void b_type_tl2_39(builder *b) {
    one_tensor(b, 39, 512, 3, 0, 160 + 192 + 32);
}
static void b_type_tl2_42(builder *b) {
    one_tensor(b, 42, 512, 3, 0, 160 + 192 + 32);
}
static void b_type_42_neither(builder *b) {
    header(b, 3, 2, 0), info(b, "ten", 42, 512, 3, 0), info(b, "last", 0, 1, 1, 1024), pad_to(b, 32),
        data(b, 1056);
}

static const struct {
    void (*build)(builder *b);
    bitlm_status status;
    const char *sentence; /* a part of it */
} bad[] = {
    {b_empty, BITLM_FORMAT, "ends inside its header"},
    {b_magic, BITLM_FORMAT, "starts with 'GGML'"},
    {b_version_1, BITLM_UNSUPPORTED, "GGUF version 1, but bitlm reads 2 and 3"},
    {b_version_4, BITLM_UNSUPPORTED, "GGUF version 4"},
    {b_big_endian, BITLM_UNSUPPORTED, "big-endian"},
    {b_many_keys, BITLM_FORMAT, "claims 18446744073709551615 keys"},
    {b_some_keys, BITLM_FORMAT, "claims 10 keys, but a file of 124 bytes holds at most 7"},
    {b_many_tensors, BITLM_FORMAT, "claims 9223372036854775808 tensors"},
    {b_key_length, BITLM_FORMAT, "18446744073709551608 bytes, but must have 1 to 65535"},
    {b_key_long, BITLM_FORMAT, "the name of key 0 has 65536 bytes"},
    {b_key_empty, BITLM_FORMAT, "the name of key 0 has 0 bytes"},
    {b_key_nul, BITLM_FORMAT, "NUL byte"},
    {b_key_utf8, BITLM_FORMAT, "invalid UTF-8"},
    {b_key_twice, BITLM_FORMAT, "the key 'same' occurs twice"},
    {b_value_type, BITLM_FORMAT, "key 'typ' has the unknown type 13"},
    {b_bool, BITLM_FORMAT, "key 'boo' holds the truth value 2"},
    {b_bools, BITLM_FORMAT, "key 'boo' holds the truth value 255"},
    {b_string_length, BITLM_FORMAT, "ends inside key 'str': 18446744073709551615 bytes"},
    {b_array_count, BITLM_LIMIT, "2305843009213693953 elements"},
    {b_array_strings, BITLM_FORMAT, "ends inside key 'arr': 134217728 bytes"},
    {b_array_nested, BITLM_UNSUPPORTED, "array of arrays"},
    {b_array_type, BITLM_FORMAT, "unknown type 77"},
    {b_alignment_0, BITLM_FORMAT, "general.alignment is 0"},
    {b_alignment_48, BITLM_FORMAT, "general.alignment is 48"},
    {b_alignment_4, BITLM_FORMAT, "general.alignment is 4"},
    {b_alignment_huge, BITLM_FORMAT, "general.alignment is 2147483648"},
    {b_alignment_text, BITLM_FORMAT, "general.alignment is no integer"},
    {b_name_long, BITLM_FORMAT, "the name of tensor 0 has 299 bytes"},
    {b_name_nul, BITLM_FORMAT, "the name of tensor 0 holds a NUL"},
    {b_tensor_twice, BITLM_FORMAT, "the tensor 'ten' occurs twice"},
    {b_no_dims, BITLM_FORMAT, "tensor 'ten' has 0 dimensions"},
    {b_five_dims, BITLM_FORMAT, "tensor 'ten' has 5 dimensions"},
    {b_dim_0, BITLM_FORMAT, "dimension 0 of tensor 'ten' is 0"},
    {b_dim_negative, BITLM_FORMAT, "dimension 0 of tensor 'ten' is -1"},
    {b_dims_overflow, BITLM_FORMAT, "overflow"},
    {b_bytes_overflow, BITLM_FORMAT, "must fit 64 bits"},
    {b_block, BITLM_FORMAT, "2 rows of 128 weights, but TQ2_0 takes blocks of 256"},
    {b_i2_s_block, BITLM_FORMAT, "1 rows of 96 weights, but I2_S takes them 128 at a time"},
    {b_offset_odd, BITLM_FORMAT, "offset 8, which is no multiple of the alignment 32"},
    {b_offset_far, BITLM_FORMAT, "needs 4 bytes at offset 1024, but the file has 32"},
    {b_offset_wraps, BITLM_FORMAT, "at offset 18446744073709551584"},
    {b_too_long, BITLM_FORMAT, "needs 36 bytes at offset 0, but the file has 35"},
    {b_no_data, BITLM_FORMAT, "ends inside the padding"},
    {b_overlap, BITLM_FORMAT, "tensor 'first' needs 36 bytes, but the next tensor starts 32"},
    {b_same_place, BITLM_FORMAT, "tensor 'first' needs 4 bytes, but the next tensor starts 0"},
    {b_type_unknown, BITLM_UNSUPPORTED, "type 99, which bitlm does not know"},
    {b_type_negative, BITLM_UNSUPPORTED, "type -1"},
    {b_type_own, BITLM_UNSUPPORTED, "type 1042, which bitlm does not know"},
    {b_type_q5_k, BITLM_UNSUPPORTED, "Q5_K is not a type that bitlm reads"},
    {b_type_tl1, BITLM_UNSUPPORTED, "TL1: the byte order depends on a generated kernel; convert to I2_S"},
    {b_type_mxfp4, BITLM_UNSUPPORTED, "type 39: MXFP4"},
    {b_type_nvfp4, BITLM_UNSUPPORTED, "type 40: NVFP4"},
    {b_type_tl2_39, BITLM_UNSUPPORTED, "type 39: TL2"},
    {b_type_tl2_42, BITLM_UNSUPPORTED, "type 42: TL2"},
    {b_type_42_neither, BITLM_FORMAT,
     "takes 1024 bytes, which fits neither Q2_0 (432) nor its older layout (408)"},
};

START_TEST(hostile_files) {
    bitlm_error error = {sizeof error, 0, 0, ""};
    bad[_i].build(&file);
    bitlm_status status = open_copy(file.bytes, file.n, &error);
    ck_assert_msg(status == bad[_i].status && strstr(error.text, bad[_i].sentence) != NULL,
                  "case %d: %d '%s', expected %d '%s'", _i, status, error.text, bad[_i].status,
                  bad[_i].sentence);
    ck_assert_int_eq(error.status, status);
}
END_TEST

/* What looks odd and is allowed. */
START_TEST(unusual_but_good) {
    bitlm_error error = {sizeof error, 0, 0, ""};
    header(&file, 3, 0, 0);
    ck_assert_int_eq(open_copy(file.bytes, file.n, &error), BITLM_OK); /* nothing at all */
    header(&file, 3, 0, 1), key_u32(&file, "a", 1);
    ck_assert_int_eq(open_copy(file.bytes, file.n, &error), BITLM_OK); /* no tensors, no padding */
    one_tensor(&file, BL_TYPE_F32, 9, 1, 0, 36);
    ck_assert_int_eq(open_copy(file.bytes, file.n, &error), BITLM_OK); /* no padding at the end */
    one_tensor(&file, BL_TYPE_F32, 9, 1, 64, 200);
    ck_assert_int_eq(open_copy(file.bytes, file.n, &error), BITLM_OK); /* gaps and more behind */
    header(&file, 3, 1, 1), key(&file, "general.alignment", BL_GGUF_U64), u64(&file, 8);
    info(&file, "ten", BL_TYPE_F32, 1, 1, 8), pad_to(&file, 8), data(&file, 12);
    ck_assert_int_eq(open_copy(file.bytes, file.n, &error), BITLM_OK);
    one_tensor(&file, BL_TYPE_PTQ1_0, 128, 2, 0, 56); /* PTQ1_0 is read; the model layer refuses it */
    ck_assert_int_eq(open_copy(file.bytes, file.n, &error), BITLM_OK);
}
END_TEST

/* ---- id 42: Q2_0 of 64 or of 128 -------------------------------------------------------------------- */

static void two_of_42(builder *b, uint64_t k, uint64_t n, uint64_t second_at, size_t total) {
    header(b, 3, 2, 0);
    info(b, "one", 42, k, n, 0), info(b, "two", 42, k, n, second_at);
    pad_to(b, 32), data(b, total);
}

static int32_t type_of(builder *b, const char *name) {
    bl_gguf *g = open_good(b);
    int32_t type = bl_gguf_tensor(g, name)->type;
    bl_gguf_free(g);
    return type;
}

START_TEST(tells_id_42_by_size) {
    /* 512 x 4: 576 bytes in blocks of 64, 544 in blocks of 128 */
    two_of_42(&file, 512, 4, 576, 576 * 2);
    ck_assert_int_eq(type_of(&file, "one"), BL_TYPE_Q2_0);
    ck_assert_int_eq(type_of(&file, "two"), BL_TYPE_Q2_0);
    two_of_42(&file, 512, 4, 544, 544 * 2);
    ck_assert_int_eq(type_of(&file, "one"), BL_TYPE_Q2_0_LEGACY);
    ck_assert_int_eq(type_of(&file, "two"), BL_TYPE_Q2_0_LEGACY);
    two_of_42(&file, 512, 4, 544, 544 + 544 + 100); /* odd bytes at the end: as the first */
    ck_assert_int_eq(type_of(&file, "two"), BL_TYPE_Q2_0_LEGACY);
    /* 128 x 1: 36 and 34 bytes, 64 with padding: the file's others decide, else the newer */
    two_of_42(&file, 128, 1, 64, 64 + 36);
    ck_assert_int_eq(type_of(&file, "one"), BL_TYPE_Q2_0);
    two_of_42(&file, 128, 1, 64, 64 + 34);
    ck_assert_int_eq(type_of(&file, "one"), BL_TYPE_Q2_0_LEGACY);
    ck_assert_int_eq(type_of(&file, "two"), BL_TYPE_Q2_0_LEGACY);
    /* 64 weights are half a block of 128 */
    two_of_42(&file, 64, 3, 64, 64 + 54);
    ck_assert_int_eq(type_of(&file, "one"), BL_TYPE_Q2_0);
}
END_TEST

/* ---- many names ---------------------------------------- */

START_TEST(many_tensors) {
    enum { N = 10000 };
    char name[24];
    static builder big;
    header(&big, 3, N, 0);
    for (unsigned i = 0; i < N; i++) {
        snprintf(name, sizeof name, "blk.%u.w", i * 7919u % N); /* no order */
        info(&big, name, BL_TYPE_F32, 1, 1, 32 * (uint64_t)i);
    }
    pad_to(&big, 32);
    data(&big, 32 * N - 28);
    uint64_t start = bl_now_ns();
    bl_gguf *g = open_good(&big);
    uint64_t opened = bl_now_ns();
    for (unsigned round = 0; round < 10; round++)
        for (unsigned i = 0; i < N; i++) {
            snprintf(name, sizeof name, "blk.%u.w", i);
            const bl_tensor *t = bl_gguf_tensor(g, name);
            if (t == NULL || strcmp(t->name, name) != 0)
                ck_abort_msg("%s is not found", name);
        }
    uint64_t found = bl_now_ns();
    printf("%d tensors: opened in %.1f ms, found in %.2f us each\n", N, (double)(opened - start) * 1e-6,
           (double)(found - opened) * 1e-3 / (10 * N));
    ck_assert_uint_lt(found - opened, (uint64_t)5000000000); /* a scan takes 10^9 comparisons */
    bl_gguf_free(g);
}
END_TEST

/* ---- memory ---------------------------------------- */

START_TEST(reader_without_memory) {
    counter c = {0};
    bl_alloc a = counting(&c);
    bl_gguf *g = NULL;
    bitlm_error error = {sizeof error, 0, 0, ""};
    header(&file, 3, 0, 4); /* arrays too large for the first chunk, each by another way */
    key(&file, "strings", BL_GGUF_ARRAY), u32(&file, BL_GGUF_STRING), u64(&file, 9000);
    for (int i = 0; i < 9000; i++)
        text(&file, "piece");
    key(&file, "floats", BL_GGUF_ARRAY), u32(&file, BL_GGUF_F32), u64(&file, 30000), data(&file, 120000);
    key(&file, "i64s", BL_GGUF_ARRAY), u32(&file, BL_GGUF_I64), u64(&file, 30000), data(&file, 240000);
    key(&file, "u8s", BL_GGUF_ARRAY), u32(&file, BL_GGUF_U8), u64(&file, 30000), data(&file, 30000);
    ck_assert_int_eq(bl_gguf_open(file.bytes, file.n, &a, &g, &error), BITLM_OK);
    bl_gguf_free(g);
    ck_assert_uint_eq(c.blocks, 0);
    ck_assert_uint_le(c.peak, 3 * file.n);
    long calls = c.calls;
    ck_assert_int_ge(calls, 2);
    for (long i = 1; i <= calls; i++) {
        memset(&c, 0, sizeof c);
        c.fail_at = i;
        ck_assert_int_eq(bl_gguf_open(file.bytes, file.n, &a, &g, &error), BITLM_NOMEM);
        ck_assert_uint_eq(c.blocks, 0);
        ck_assert_ptr_nonnull(strstr(error.text, "GGUF file"));
    }
    printf("reader: %ld allocations failed in turn\n", calls);
}
END_TEST

/* ---- the writer ---------------------------------------- */

#define BIG_WEIGHTS 400000 /* larger than the writer's buffer */

/* Everything that a writer can write; returns what finish says. */
static bitlm_status write_all(const char *path, const bl_alloc *alloc, bitlm_error *error) {
    static float big[BIG_WEIGHTS];
    static const bitlm_text texts[] = {{"<unk>", 5}, {"", 0}, {"a\0b", 3}};
    static const float floats[] = {1.5f, -0.0f, 3e38f};
    static const int32_t ints[] = {INT32_MIN, 0, 7};
    const uint64_t dims[][2] = {{3, 1}, {256, 2}, {BIG_WEIGHTS, 1}, {512, 4}};
    uint8_t tern[132];
    bl_gguf_writer *w = NULL;
    for (int i = 0; i < BIG_WEIGHTS; i++)
        big[i] = (float)i;
    memset(tern, 0x55, sizeof tern);
    bitlm_status status = bl_gguf_writer_begin(path, alloc, &w, error);
    if (status != BITLM_OK)
        return status;
    bl_gguf_write_string(w, "general.architecture", "test", 4);
    bl_gguf_write_u32(w, "u32", 0xdeadbeef);
    bl_gguf_write_f32(w, "f32", 0.1f);
    bl_gguf_write_bool(w, "yes", 5);
    bl_gguf_write_bool(w, "no", 0);
    bl_gguf_write_strings(w, "strings", texts, 3);
    bl_gguf_write_f32s(w, "floats", floats, 3);
    bl_gguf_write_i32s(w, "ints", ints, 3);
    bl_gguf_write_i32s(w, "none", NULL, 0);
    bl_gguf_write_tensor(w, "three", BL_TYPE_F32, 1, dims[0]);
    bl_gguf_write_tensor(w, "tern", BL_TYPE_TQ2_0, 2, dims[1]);
    bl_gguf_write_tensor(w, "big", BL_TYPE_F32, 1, dims[2]);
    bl_gguf_write_tensor(w, "last", BL_TYPE_Q2_0_LEGACY, 2, dims[3]);
    bl_gguf_write_data(w, big, 5); /* pieces need not keep to tensors */
    bl_gguf_write_data(w, (char *)big + 5, 7);
    bl_gguf_write_data(w, tern, sizeof tern);
    bl_gguf_write_data(w, big, sizeof big);
    bl_gguf_write_data(w, big, 544);
    return bl_gguf_writer_finish(w, error);
}

START_TEST(writer_round_trip) {
    bitlm_error error = {sizeof error, 0, 0, ""};
    bl_mapping m;
    bl_gguf *g = NULL;
    int64_t integer;
    double real;
    int yes = 0, no = 1;
    uint64_t count;
    bitlm_text t;
    struct stat st;
    make_folder();
    for (int round = 0; round < 2; round++) { /* a new file, then over it */
        mode_t mask = umask(027);
        ck_assert_msg(write_all(in_folder("m.gguf"), NULL, &error) == BITLM_OK, "%s", error.text);
        umask(mask);
        ck_assert_int_eq(files_in_folder(), 1);
    }
    const char *path = in_folder("m.gguf");
    ck_assert_int_eq(stat(path, &st), 0);
    ck_assert_uint_eq(st.st_mode & 0777, 0640); /* the umask's doing, as for any file */
    ck_assert_int_eq(bl_mapping_open(path, strlen(path), BITLM_LOAD_AUTO, NULL, NULL, &m, &error), BITLM_OK);
    ck_assert_uint_eq(m.size % 32, 0);
    ck_assert_msg(bl_gguf_open(m.data, m.size, NULL, &g, &error) == BITLM_OK, "%s", error.text);
    ck_assert_uint_eq(bl_gguf_version(g), 3);
    ck_assert_uint_eq(bl_gguf_n_keys(g), 9);
    ck_assert_uint_eq(bl_gguf_n_tensors(g), 4);
    ck_assert_int_eq(bl_gguf_i64(g, "u32", &integer), 1);
    ck_assert_int_eq(integer, 0xdeadbeef);
    ck_assert_int_eq(bl_gguf_f64(g, "f32", &real), 1);
    ck_assert_double_eq(real, (double)0.1f);
    ck_assert_int_eq(bl_gguf_bool(g, "yes", &yes), 1);
    ck_assert_int_eq(bl_gguf_bool(g, "no", &no), 1);
    ck_assert(yes == 1 && no == 0);
    ck_assert_int_eq(bl_gguf_string(g, "general.architecture", &t), 1);
    ck_assert_str_eq(t.data, "test");
    t = bl_gguf_array_string(g, "strings", 2);
    ck_assert_uint_eq(t.length, 3);
    ck_assert_mem_eq(t.data, "a\0b", 3);
    ck_assert_float_eq(bl_gguf_floats(g, "floats", &count)[2], 3e38f);
    ck_assert_int_eq(bl_gguf_ints(g, "ints", &count)[0], INT32_MIN);
    ck_assert_uint_eq(count, 3);
    const bl_tensor *big = bl_gguf_tensor(g, "big");
    for (int i = 0; i < BIG_WEIGHTS; i++)
        if (bl_read_f32(big->data + 4 * i) != (float)i)
            ck_abort_msg("weight %d is lost", i);
    ck_assert_int_eq(bl_gguf_tensor(g, "tern")->data[131], 0x55);
    ck_assert_int_eq(bl_gguf_tensor(g, "last")->type, BL_TYPE_Q2_0_LEGACY); /* id 42, told by its size */
    bl_gguf_free(g);
    bl_mapping_close(&m);
    remove_folder();
}
END_TEST

START_TEST(writer_without_memory) {
    counter c = {0};
    bl_alloc a = counting(&c);
    bitlm_error error = {sizeof error, 0, 0, ""};
    make_folder();
    ck_assert_int_eq(write_all(in_folder("m"), &a, &error), BITLM_OK);
    ck_assert_uint_eq(c.blocks, 0);
    long calls = c.calls;
    for (long i = 1; i <= calls; i++) {
        memset(&c, 0, sizeof c);
        c.fail_at = i;
        ck_assert_int_eq(write_all(in_folder("n"), &a, &error), BITLM_NOMEM);
        ck_assert_uint_eq(c.blocks, 0);
        ck_assert_int_eq(files_in_folder(), 1);
    }
    printf("writer: %ld allocations failed in turn\n", calls);
    remove_folder();
}
END_TEST

/* A full disk, by the limit on a file's size: nothing is left behind, what was there stays. */
START_TEST(writer_on_a_full_disk) {
    bitlm_error error = {sizeof error, 0, 0, ""};
    make_folder();
    put_file(in_folder("m"), "old", 3);
    signal(SIGXFSZ, SIG_IGN);
    for (rlim_t limit = 0; limit <= 1600000; limit += 200000) {
        struct rlimit r = {limit, RLIM_INFINITY};
        setrlimit(RLIMIT_FSIZE, &r);
        bitlm_status status = write_all(in_folder("m"), NULL, &error);
        r.rlim_cur = RLIM_INFINITY;
        setrlimit(RLIMIT_FSIZE, &r);
        ck_assert_int_eq(status, BITLM_IO);
        ck_assert_int_eq(error.sys_errno, 27); /* EFBIG */
        ck_assert_ptr_nonnull(strstr(error.text, "cannot write"));
        ck_assert_int_eq(files_in_folder(), 1);
        size_t n;
        FILE *f = fopen(in_folder("m"), "rb");
        char old[8];
        n = fread(old, 1, sizeof old, f);
        fclose(f);
        ck_assert_uint_eq(n, 3);
    }
    remove_folder();
}
END_TEST

START_TEST(writer_refusals) {
    bitlm_error error = {sizeof error, 0, 0, ""};
    bl_gguf_writer *w = NULL;
    const uint64_t dims[] = {256, 2}, odd[] = {100}, zero[] = {0}, huge[] = {(uint64_t)1 << 62, 1 << 10};
    uint8_t bytes[64] = {0};
    char name[80];
    make_folder();
    ck_assert_int_eq(bl_gguf_writer_begin("", NULL, &w, &error), BITLM_ARG);
    ck_assert_int_eq(bl_gguf_writer_begin(folder, NULL, &w, &error), BITLM_IO);
    ck_assert_int_eq(error.sys_errno, 21); /* EISDIR */
    ck_assert_int_eq(bl_gguf_writer_begin(in_folder("no/such"), NULL, &w, &error), BITLM_IO);
    ck_assert_int_eq(error.sys_errno, 2); /* ENOENT */
    ck_assert_int_eq(bl_gguf_writer_begin("/dev/null", NULL, &w, &error), BITLM_IO);
    memset(name, 'n', sizeof name);
    name[64] = '\0';
    for (int i = 0; i < 12; i++) {
        static const char *const sentences[] = {"'a' is written twice",
                                                "must have 1 to",
                                                "must have 1 to",
                                                "'t' is written twice",
                                                "must have 1 to 63",
                                                "does not fit TQ2_0",
                                                "does not fit F32",
                                                "does not fit F32",
                                                "which GGUF has not",
                                                "after a tensor",
                                                "tensor 0 of 1 has 64 of its 132 bytes",
                                                "2 bytes more than"};
        ck_assert_int_eq(bl_gguf_writer_begin(in_folder("m"), NULL, &w, &error), BITLM_OK);
        bl_gguf_write_u32(w, "a", 1);
        if (i == 0)
            bl_gguf_write_u32(w, "a", 2);
        else if (i == 1)
            bl_gguf_write_u32(w, "", 2);
        else if (i == 2)
            bl_gguf_write_u32(w, "\xff", 2);
        if (i != 11)
            bl_gguf_write_tensor(w, "t", BL_TYPE_TQ2_0, 2, dims);
        if (i == 3)
            bl_gguf_write_tensor(w, "t", BL_TYPE_TQ2_0, 2, dims);
        else if (i == 4)
            bl_gguf_write_tensor(w, name, BL_TYPE_TQ2_0, 2, dims);
        else if (i == 5)
            bl_gguf_write_tensor(w, "o", BL_TYPE_TQ2_0, 1, odd);
        else if (i == 6)
            bl_gguf_write_tensor(w, "o", BL_TYPE_F32, 1, zero);
        else if (i == 7)
            bl_gguf_write_tensor(w, "o", BL_TYPE_F32, 2, huge);
        else if (i == 8)
            bl_gguf_write_tensor(w, "o", 38, 2, dims);
        else if (i == 9)
            bl_gguf_write_u32(w, "b", 1);
        bl_gguf_write_data(w, bytes, i == 11 ? 2 : sizeof bytes);
        bitlm_status status = bl_gguf_writer_finish(w, &error);
        ck_assert_msg(status == (i < 9 ? BITLM_ARG : BITLM_INTERNAL) && strstr(error.text, sentences[i]),
                      "case %d: %d %s", i, status, error.text);
        ck_assert_int_eq(files_in_folder(), 0);
    }
    ck_assert_int_eq(bl_gguf_writer_begin(in_folder("m"), NULL, &w, &error), BITLM_OK);
    bl_gguf_writer_abort(w);
    bl_gguf_writer_abort(NULL);
    ck_assert_int_eq(files_in_folder(), 0);
    remove_folder();
}
END_TEST

/* A model keeps its vocabulary in its tokenizer alone. */
START_TEST(arrays_are_forgotten) {
    counter c = {0};
    bl_alloc alloc = counting(&c);
    bl_gguf *g = NULL;
    bitlm_error error = {.size = sizeof error};
    uint64_t count = 0;
    char shown[200];
    const bl_builtin *story = bl_builtin_find("story", 5);
    ck_assert_msg(bl_gguf_open(story->data, story->size, &alloc, &g, &error) == BITLM_OK, "%s", error.text);
    const bitlm_text *texts = bl_gguf_strings(g, "tokenizer.ggml.tokens", &count);
    ck_assert_uint_eq(count, 4096);
    for (uint64_t i = 0; i < count; i++)
        ck_assert_int_eq(texts[i].data[texts[i].length], 0);
    size_t held = c.bytes;
    bl_gguf_forget_arrays(g);
    ck_assert_uint_lt(c.bytes + count * sizeof(bitlm_text), held);
    ck_assert_ptr_null(bl_gguf_strings(g, "tokenizer.ggml.tokens", &count));
    for (uint64_t i = 0; i < bl_gguf_n_keys(g); i++)
        if (strcmp(bl_gguf_key_at(g, i, &(int32_t){0}), "tokenizer.ggml.tokens") == 0)
            ck_assert_str_eq(bl_gguf_show(g, i, shown, sizeof shown), "[… 4096 in all]");
    bl_gguf_forget_arrays(g); /* nothing is left to forget */
    bl_gguf_free(g);
    ck_assert_uint_eq(c.blocks, 0);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("gguf");
    TCase *tests = tcase_create("gguf");
    printf("seed %d\n", SEED);
    tcase_set_timeout(tests, 120);
    tcase_add_loop_test(tests, reads_everything, 0, 2);
    tcase_add_test(tests, reads_reference_files);
    tcase_add_test(tests, cut_anywhere);
    tcase_add_test(tests, any_byte_damaged);
    tcase_add_loop_test(tests, hostile_files, 0, (int)BL_COUNT(bad));
    tcase_add_test(tests, unusual_but_good);
    tcase_add_test(tests, tells_id_42_by_size);
    tcase_add_test(tests, many_tensors);
    tcase_add_test(tests, reader_without_memory);
    tcase_add_test(tests, writer_round_trip);
    tcase_add_test(tests, writer_without_memory);
    tcase_add_test(tests, writer_on_a_full_disk);
    tcase_add_test(tests, writer_refusals);
    tcase_add_test(tests, arrays_are_forgotten);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
