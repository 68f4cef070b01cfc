/* test_support.c - see test_support.h. */
#include "test_support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void data_path(char *out, size_t cap, const char *name) {
    const char *dir = getenv("BITLM_TEST_DATA");
    snprintf(out, cap, "%s/%s", dir ? dir : "tests/data", name);
}

void *load_file(const char *name, size_t *size) {
    char path[4096];
    data_path(path, sizeof path, name);
    FILE *f = fopen(path, "rb");
    ck_assert_msg(f != NULL, "cannot open %s: set BITLM_TEST_DATA", path);
    fseek(f, 0, SEEK_END);
    *size = (size_t)ftell(f);
    rewind(f);
    void *data = malloc(*size + 1);
    ck_assert_uint_eq(fread(data, 1, *size, f), *size);
    fclose(f);
    return data;
}

json_t *load_json(const char *name) {
    size_t size;
    char *data = load_file(name, &size);
    json_error_t why;
    json_t *root = json_loadb(data, size, JSON_ALLOW_NUL, &why);
    ck_assert_msg(root != NULL, "%s: %s", name, why.text);
    free(data);
    return root;
}

char *unpack(const char *name) {
    char path[4096], command[4400], temporary[] = "/tmp/bitlm-test-XXXXXX";
    data_path(path, sizeof path, name);
    int fd = mkstemp(temporary);
    ck_assert_int_ge(fd, 0);
    close(fd);
    snprintf(command, sizeof command, "xz -dc '%s' > '%s'", path, temporary);
    ck_assert_int_eq(system(command), 0);
    return strdup(temporary);
}

static void parse(bitlm_options *o, const char *json) {
    bitlm_error e = {.size = sizeof e};
    bitlm_options_init(o);
    if (json)
        ck_assert_msg(bitlm_options_json(o, json, strlen(json), &e) == BITLM_OK, "%s", e.text);
}

bitlm_model *open_model(const char *name_or_path, const char *options) {
    bitlm_options o;
    bitlm_model *m = NULL;
    bitlm_error e = {.size = sizeof e};
    parse(&o, options);
    ck_assert_msg(bitlm_model_open(name_or_path, strlen(name_or_path), 0, &o, NULL, &m, &e) == BITLM_OK, "%s",
                  e.text);
    bitlm_options_clear(&o);
    return m;
}

bitlm_session *open_session(bitlm_model *model, const char *options) {
    bitlm_options o;
    bitlm_session *s = NULL;
    bitlm_error e = {.size = sizeof e};
    parse(&o, options);
    ck_assert_msg(bitlm_session_open(model, &o, NULL, &s, &e) == BITLM_OK, "%s", e.text);
    bitlm_options_clear(&o);
    return s;
}

char *generate(bitlm_session *session, const char *prompt, const char *options, int32_t *ids, size_t capacity,
               size_t *n_ids, int32_t *finish) {
    bitlm_options o;
    bitlm_error e = {.size = sizeof e};
    bitlm_text text = {prompt, strlen(prompt)};
    bitlm_piece piece = {.size = sizeof piece};
    bitlm_status status;
    char *out = calloc(1, 1);
    size_t length = 0, n = 0;
    parse(&o, options);
    ck_assert_msg(bitlm_generate_start(session, &text, 1, 0, &o, &e) == BITLM_OK, "%s", e.text);
    bitlm_options_clear(&o);
    while ((status = bitlm_generate_next(session, &piece, &e)) == BITLM_OK) {
        out = realloc(out, length + piece.text_length + 1);
        if (piece.text_length)
            memcpy(out + length, piece.text, piece.text_length);
        length += piece.text_length;
        out[length] = 0;
        if (piece.token >= 0) {
            ck_assert_int_eq(piece.n, (int32_t)n);
            if (n < capacity)
                ids[n] = piece.token;
            n++;
        }
        if (finish)
            *finish = piece.finish;
    }
    ck_assert_msg(status == BITLM_DONE, "%s", e.text);
    if (n_ids)
        *n_ids = n;
    return out;
}

uint64_t hash_bytes(uint64_t hash, const void *data, size_t size) {
    const unsigned char *p = data;
    hash = hash ? hash : 0xcbf29ce484222325u;
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ p[i]) * 0x100000001b3u;
    return hash;
}

int run_suite(Suite *suite) {
    SRunner *runner = srunner_create(suite);
    setvbuf(stdout, NULL, _IOLBF, 0);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
