/* safetensors.h - Hugging Face's tensor files: a checked view of one file or of a folder of shards, and a
 * writer.
 *
 *   u64 length of the header | header: JSON | data
 *
 * The reader trusts nothing: the header's length, every shape, type and offset are checked against the file,
 * the data must be covered by the tensors without a gap or an overlap, and names may not repeat. */
#ifndef BL_SAFETENSORS_H
#define BL_SAFETENSORS_H

#include "file/mapping.h"

#define BL_ST_MAX_DIMS 8
#define BL_ST_MAX_HEADER ((uint64_t)100 << 20) /* the format's own limit */
#define BL_ST_MAX_TENSORS 1048576

/* Element types. */
#define BL_ST_F32 0
#define BL_ST_F16 1
#define BL_ST_BF16 2
#define BL_ST_U8 3
#define BL_ST_I8 4
#define BL_ST_OTHER 5 /* one that the format has and bitlm does not use */

typedef struct bl_st_tensor {
    const char *name;               /* NUL-terminated copy, valid UTF-8 */
    const char *dtype_name;         /* as the file has it: "BF16" */
    int32_t dtype;                  /* BL_ST_* */
    int32_t n_dims;
    uint64_t dims[BL_ST_MAX_DIMS];  /* slowest first: (rows, columns) */
    const uint8_t *data;            /* inside the mapping */
    uint64_t bytes;
    uint32_t shard;
} bl_st_tensor;

typedef struct bl_safetensors bl_safetensors;

/* One file in memory, which must outlive the result.  FORMAT, LIMIT, NOMEM. */
bitlm_status bl_safetensors_open(const uint8_t *data, size_t size, const bl_alloc *alloc, bl_safetensors **st,
                                 bitlm_error *error);
/* All weights of a folder, mapped: model.safetensors.index.json with its shards, or model.safetensors.  Refuses a
 * folder that has only pickled checkpoints, and says why.  Also IO. */
bitlm_status bl_safetensors_open_folder(const char *folder, const bl_alloc *alloc, bl_safetensors **st,
                                        bitlm_error *error);
void bl_safetensors_free(bl_safetensors *st); /* NULL is ignored; unmaps shards */

uint64_t bl_safetensors_count(const bl_safetensors *st);
const bl_st_tensor *bl_safetensors_at(const bl_safetensors *st, uint64_t i); /* in order of names */
const bl_st_tensor *bl_safetensors_find(const bl_safetensors *st, const char *name); /* NULL if absent */
/* The pages of [data, data + bytes) will not be needed soon: they stop counting as this process's memory. */
void bl_safetensors_drop(const bl_safetensors *st, const bl_st_tensor *t, uint64_t first, uint64_t bytes);
const char *bl_safetensors_dtype_name(int32_t dtype);
unsigned bl_safetensors_dtype_bytes(int32_t dtype);

/* Reads a small text file (JSON, a vocabulary) whole: malloc'd by `alloc`, NUL behind it.  *text is NULL and the status
 * OK if there is no such file. */
bitlm_status bl_read_small_file(const char *folder, const char *name, size_t limit, const bl_alloc *alloc, char **text,
                                size_t *length, bitlm_error *error);

/* ---- writer: describe every tensor, then each one's data in the same order in any number of pieces, then finish.
 * `path` must not exist; an abort removes it.  The first error sticks. */
typedef struct bl_st_writer bl_st_writer;
bitlm_status bl_st_writer_begin(const char *path, const bl_alloc *alloc, bl_st_writer **writer, bitlm_error *error);
bitlm_status bl_st_write_tensor(bl_st_writer *w, const char *name, int32_t dtype, int n_dims, const uint64_t *dims);
bitlm_status bl_st_write_data(bl_st_writer *w, const void *data, size_t size);
bitlm_status bl_st_writer_finish(bl_st_writer *w, bitlm_error *error); /* syncs; frees the writer in every case */
void bl_st_writer_abort(bl_st_writer *w);                              /* NULL is ignored */

#endif
