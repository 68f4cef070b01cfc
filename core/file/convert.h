/* convert.h - what the parts of `bitlm convert` share: a plan (keys written, tensors listed with where each comes
 * from), and the one loop that streams a plan's tensors into a GGUF file.
 *
 *   folder of safetensors  -> convert_hf.c, convert_tokenizer.c  \
 *   GGUF file              -> convert_gguf.c                      > plan -> convert_tensor.c -> GGUF
 *   GGUF file              -> convert_export.c -> folder of safetensors
 *
 * Public entry: bitlm_convert (bitlm.h) in run/convert.c. */
#ifndef BL_CONVERT_H
#define BL_CONVERT_H

#include "base/pool.h"
#include "file/gguf.h"
#include "file/safetensors.h"

#define BL_ROLE_OTHER 0      /* norms, biases: float32 from a folder, as it is from a GGUF file */
#define BL_ROLE_LAYER 1      /* a linear layer: option type */
#define BL_ROLE_EMBEDDING 2  /* embedding and head: option embedding_type */

#define BL_FROM_FLOATS 0     /* safetensors F32, F16, BF16 */
#define BL_FROM_PACKED 1     /* safetensors U8: four ternary rows in a byte, one scale */
#define BL_FROM_GGUF 2
#define BL_FROM_MEMORY 3     /* float32 of the plan's own */

typedef struct bl_planned {
    char name[64];           /* in the GGUF file */
    const char *source_name; /* for messages */
    int32_t role, from;
    int32_t type;            /* BL_TYPE_* to write */
    int32_t n_dims;
    uint64_t dims[4];        /* fastest first */
    const bl_st_tensor *st;
    const bl_tensor *gguf;
    float *memory;           /* freed with the plan */
    uint64_t head_dim;       /* > 0: rows of each head go from halves (i, i + d/2) to pairs (2i, 2i + 1) */
    int32_t unpermute;       /* of head_dim: from pairs back to halves */
    int32_t master;          /* BitNet master weights: absmean before anything else */
    float scale;             /* of PACKED: weight = scale * trit */
} bl_planned;

typedef struct bl_plan {
    bl_alloc alloc;
    bl_poll *poll;
    bl_pool *pool;
    const bitlm_convert_options *options;
    int32_t type, embedding_type; /* of the options; -1: not said */
    uint64_t n_chosen;       /* options->choices that some tensor took */
    uint8_t *sink;           /* not NULL: tensor data goes here in place of the writer */
    bitlm_error *error;
    bl_gguf_writer *writer;
    bl_safetensors *st;
    bl_gguf *gguf;
    bl_mapping mapping;      /* of the GGUF source */
    bl_planned *tensors;
    uint64_t n, capacity;
    uint64_t done, total;    /* weights */
} bl_plan;

#define BL_PLAN_FAIL(plan, status, ...) bl_error((plan)->error, status, __VA_ARGS__)

/* *type of a name of a tensor type that bitlm writes, -1 for an empty one; option: for the sentence. */
bitlm_status bl_plan_find_type(bl_plan *plan, bitlm_text name, const char *option, int32_t *type);
/* 1 if text ends with end. */
int bl_ends_with(const char *text, const char *end);
/* A new planned tensor, zeroed, or NULL (NOMEM, in plan->error). */
bl_planned *bl_plan_add(bl_plan *plan);
/* The type to write for p, by its role, its shape and what was asked: where a shape does not fit the type that was
 * asked for, the nearest that holds it (docs/CONVERT.md).  `otherwise` if nothing was asked. */
bitlm_status bl_plan_choose(bl_plan *plan, bl_planned *p, int32_t otherwise);
/* 1 for types whose weights are trits with a scale that are packed exactly. */
int bl_is_ternary_target(int32_t type);
/* The tensor t of a GGUF file as a new planned one of the same type and its role. */
bitlm_status bl_plan_add_gguf(bl_plan *plan, const bl_tensor *t, bl_planned **out);
/* ARG unless every name of options->choices is a tensor that can have a type of its own. */
bitlm_status bl_plan_check_choices(bl_plan *plan);
/* The keys that tell what llama.cpp calls a file of these types. */
bitlm_status bl_plan_write_file_type(bl_plan *plan);
/* Describes all tensors to the writer, then streams them. */
bitlm_status bl_plan_write(bl_plan *plan);
/* The data of p, of p->type, into memory of bl_tensor_bytes(). */
bitlm_status bl_plan_encode(bl_plan *plan, const bl_planned *p, uint8_t *out);
/* 1 if p's shape can be of the type. */
int bl_plan_fits(const bl_plan *plan, int32_t type, const bl_planned *p);
/* Rows [first, first + n) of p as float32 (n, dims[0]): permuted, scaled, checked to be finite; master weights as they
 * stand. */
bitlm_status bl_planned_rows(bl_plan *plan, const bl_planned *p, uint64_t first, uint64_t n, float *out);
/* If p's weights are trits times one scale: 1 and *scale. */
int bl_planned_uniform(const bl_planned *p, float *scale);
/* Poll and progress after `weights` more. */
bitlm_status bl_plan_step(bl_plan *plan, uint64_t weights);
/* What a source's pages cost is given back. */
void bl_planned_drop(const bl_plan *plan, const bl_planned *p, uint64_t first, uint64_t n);

/* Tensors of a layer under both names, "X" of "X.weight".  rows and k are sizes by letter: Hidden, Attention (heads *
 * head_dim), Key-value, Ffn, head Dimension; rows '1': a vector of k. */
typedef struct bl_hf_row {
    const char *hf, *gguf;
    char rows, k;
    char need;               /* a: always, s: of a BitNet architecture, q: of qwen3 */
    char kind;               /* n: norm, l: linear layer */
} bl_hf_row;
extern const bl_hf_row bl_hf_rows[]; /* of two names of one tensor the first is transformers' */
extern const size_t bl_hf_n_rows;
/* Split patterns as tokenizer.json has them. */
extern const char bl_pattern_llama3[], bl_pattern_qwen2[];

bitlm_status bl_convert_hf(bl_plan *plan, const char *folder);                           /* keys and tensors */
bitlm_status bl_convert_gguf(bl_plan *plan);                                             /* keys and tensors */
bitlm_status bl_convert_tokenizer(bl_plan *plan, const char *folder, uint64_t vocab_size, const void *config);
bitlm_status bl_convert_export(bl_plan *plan, const char *output);                       /* whole */
/* tokenizer.json or tokenizer.model, and tokenizer_config.json, of plan->gguf into a folder. */
bitlm_status bl_export_tokenizer(bl_plan *plan, const char *folder);
/* Writes and syncs a new file of the folder. */
bitlm_status bl_export_file(bl_plan *plan, const char *folder, const char *name, const void *data, size_t size);
/* Takes json (NULL: no memory). */
bitlm_status bl_export_json(bl_plan *plan, const char *folder, const char *name, void *json);

#endif
