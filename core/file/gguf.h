/* gguf.h - GGUF v3: a checked view of a file in memory, and a writer.
 *
 * The reader trusts nothing: counts, lengths, types, offsets and alignments are
 * checked against the file's size before anything is allocated in proportion to
 * them; keys, strings and tensor descriptions are copied, never read twice.  After
 * bl_gguf_open every tensor's data lies inside the mapping, aligned and not
 * overlapping another, with exactly the bytes its type and shape need. */
#ifndef BL_GGUF_H
#define BL_GGUF_H

#include "base/tensor_type.h"

/* Value types of the format. */
#define BL_GGUF_U8 0
#define BL_GGUF_I8 1
#define BL_GGUF_U16 2
#define BL_GGUF_I16 3
#define BL_GGUF_U32 4
#define BL_GGUF_I32 5
#define BL_GGUF_F32 6
#define BL_GGUF_BOOL 7
#define BL_GGUF_STRING 8
#define BL_GGUF_ARRAY 9
#define BL_GGUF_U64 10
#define BL_GGUF_I64 11
#define BL_GGUF_F64 12

/* The key of a converted file that tells the model's id: the id in hexadecimal digits, BITLM_NUMERICS, and the activation
 * that entered, padded with spaces to BL_ID_KEY_BYTES (model_hash.c). */
#define BL_ID_KEY "bitlm.model_id"
#define BL_ID_KEY_BYTES 48

typedef struct bl_gguf bl_gguf;

typedef struct bl_tensor {
    const char *name;        /* NUL-terminated copy, no NUL inside */
    int32_t type;            /* BL_TYPE_*; id 42 already told apart */
    int32_t n_dims;          /* 1 .. 4 */
    uint64_t dims[4];        /* fastest first: dims[0] = k (weights a row); unused ones are 1 */
    const uint8_t *data;     /* inside the mapping */
    uint64_t bytes;
} bl_tensor;

/* `data` must outlive the result (tensor data is not copied).  FORMAT, UNSUPPORTED
 * (a tensor type that is refused, by name), NOMEM. */
bitlm_status bl_gguf_open(const uint8_t *data, size_t size, const bl_alloc *alloc, bl_gguf **gguf,
                          bitlm_error *error);
void bl_gguf_free(bl_gguf *gguf);
/* Gives back the memory of the large arrays, which are as if absent afterwards: a vocabulary lies in its tokenizer. */
void bl_gguf_forget_arrays(bl_gguf *gguf);

uint32_t bl_gguf_version(const bl_gguf *gguf);
uint64_t bl_gguf_n_tensors(const bl_gguf *gguf);
const bl_tensor *bl_gguf_tensor_at(const bl_gguf *gguf, uint64_t i);
const bl_tensor *bl_gguf_tensor(const bl_gguf *gguf, const char *name);  /* NULL if absent */

uint64_t bl_gguf_n_keys(const bl_gguf *gguf);
const char *bl_gguf_key_at(const bl_gguf *gguf, uint64_t i, int32_t *type);
/* The value of key i < n_keys as its bytes stand in the mapping, for a writer that copies it. */
const uint8_t *bl_gguf_raw(const bl_gguf *gguf, uint64_t i, uint64_t *bytes);
int bl_gguf_has(const bl_gguf *gguf, const char *key);

/* Typed reads: 1 if the key is present with a type that converts without loss (any
 * integer type that fits; F32 or F64 for floats, integers too; BOOL), 0 if absent, -1 if
 * present with another type.  *value is untouched unless 1. */
int bl_gguf_i64(const bl_gguf *gguf, const char *key, int64_t *value);
int bl_gguf_f64(const bl_gguf *gguf, const char *key, double *value);
int bl_gguf_bool(const bl_gguf *gguf, const char *key, int *value);
int bl_gguf_string(const bl_gguf *gguf, const char *key, bitlm_text *value); /* owned by gguf */

/* Arrays: number of elements and their type; 1, 0 or -1 as above. */
int bl_gguf_array(const bl_gguf *gguf, const char *key, int32_t *element_type, uint64_t *count);
/* Element i of an array checked by bl_gguf_array; i is the caller's duty. */
bitlm_text bl_gguf_array_string(const bl_gguf *gguf, const char *key, uint64_t i);
/* Whole arrays, owned by gguf, NULL if absent or of another type: strings (count texts),
 * float32 scores, integers as int32 (any integer type whose values fit). */
const bitlm_text *bl_gguf_strings(const bl_gguf *gguf, const char *key, uint64_t *count);
const float *bl_gguf_floats(const bl_gguf *gguf, const char *key, uint64_t *count);
const int32_t *bl_gguf_ints(const bl_gguf *gguf, const char *key, uint64_t *count);
/* Key i's value as text for `bitlm info`, arrays cut after a few elements. */
const char *bl_gguf_show(const bl_gguf *gguf, uint64_t i, char *out, size_t cap);

/* ---- writer: whole or not at all (no name or a temporary one, fsync, rename) -------------------
 * begin, then every key, then every tensor's description, then each tensor's data in the
 * same order in any number of pieces, then finish.  The first error sticks and is
 * returned by all later calls; abort (or finish after an error) removes the temporary. */
typedef struct bl_gguf_writer bl_gguf_writer;

bitlm_status bl_gguf_writer_begin(const char *path, const bl_alloc *alloc, bl_gguf_writer **writer,
                                  bitlm_error *error);
bitlm_status bl_gguf_write_u32(bl_gguf_writer *w, const char *key, uint32_t value);
bitlm_status bl_gguf_write_f32(bl_gguf_writer *w, const char *key, float value);
bitlm_status bl_gguf_write_bool(bl_gguf_writer *w, const char *key, int value);
bitlm_status bl_gguf_write_string(bl_gguf_writer *w, const char *key, const char *text,
                                  size_t length);
bitlm_status bl_gguf_write_strings(bl_gguf_writer *w, const char *key, const bitlm_text *texts,
                                   uint64_t count);
bitlm_status bl_gguf_write_f32s(bl_gguf_writer *w, const char *key, const float *values,
                                uint64_t count);
bitlm_status bl_gguf_write_i32s(bl_gguf_writer *w, const char *key, const int32_t *values,
                                uint64_t count);
/* A value of any type, as bl_gguf_raw gives it. */
bitlm_status bl_gguf_write_raw(bl_gguf_writer *w, const char *key, int32_t type, const void *value, uint64_t bytes);
/* A text of `length` bytes that is not known before the data is: spaces, until bl_gguf_write_late.  One for a file. */
bitlm_status bl_gguf_reserve_string(bl_gguf_writer *w, const char *key, size_t length);
bitlm_status bl_gguf_write_tensor(bl_gguf_writer *w, const char *name, int32_t type, int n_dims,
                                  const uint64_t *dims);
bitlm_status bl_gguf_write_data(bl_gguf_writer *w, const void *data, size_t size);
/* Behind the last tensor's data: a path (PATH_MAX bytes) under which this process reads what will be the file. */
bitlm_status bl_gguf_writer_path(bl_gguf_writer *w, char *path);
/* The reserved text, of the length that was said; after bl_gguf_writer_path. */
bitlm_status bl_gguf_write_late(bl_gguf_writer *w, const char *text);
/* Closes, syncs, renames; frees the writer in every case. */
bitlm_status bl_gguf_writer_finish(bl_gguf_writer *w, bitlm_error *error);
void bl_gguf_writer_abort(bl_gguf_writer *w);  /* NULL is ignored */

#endif
