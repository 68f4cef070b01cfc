/* test_support.h - what the C tests of core share: data files, models, one generation. */
#ifndef TEST_SUPPORT_H
#define TEST_SUPPORT_H

#include <check.h>
#include <jansson.h>

#include "bitlm.h"

/* A file below BITLM_TEST_DATA (default tests/data), in malloc'ed memory. */
void *load_file(const char *name, size_t *size);
json_t *load_json(const char *name);
/* Unpacks NAME.xz to a temporary file; the path is malloc'ed, the caller removes the file. */
char *unpack(const char *name);

/* options: a JSON object or NULL.  A failure fails the test with the library's sentence. */
bitlm_model *open_model(const char *name_or_path, const char *options);
bitlm_session *open_session(bitlm_model *model, const char *options);

/* Generates to the end: the text (malloc'ed), up to `capacity` ids, the finish reason (may be NULL). */
char *generate(bitlm_session *session, const char *prompt, const char *options, int32_t *ids, size_t capacity,
               size_t *n_ids, int32_t *finish);

/* 64-bit FNV-1a, continued from `hash` (begin with 0). */
uint64_t hash_bytes(uint64_t hash, const void *data, size_t size);

/* Runs the suite, prints Check's closing line, returns the process's exit status. */
int run_suite(Suite *suite);

#endif
