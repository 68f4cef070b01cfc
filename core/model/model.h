/* model.h - a loaded model: architecture row, shape, weights in place.
 *
 * Immutable after load; a read-only mapping plus one allocation.  Called by
 * core/run; forward.h computes with it. */
#ifndef BL_MODEL_H
#define BL_MODEL_H

#include "file/gguf.h"
#include "file/mapping.h"
#include "kernels/kernels.h"
#include "text/chat.h"
#include "text/tokenizer.h"

/* ---- architecture as data ------------------------------------------------------------ */
#define BL_ROPE_NEOX 1      /* pairs (i, i + d/2) */
#define BL_ROPE_ADJACENT 2  /* pairs (2i, 2i+1) */

#define BL_POOL_NONE 0
#define BL_POOL_MEAN 1  /* GGUF's numbers of pooling_type */
#define BL_POOL_CLS 2   /* the first token */
#define BL_POOL_LAST 3  /* the last token */

typedef struct bl_arch {
    const char *name;          /* general.architecture */
    int32_t activation;        /* default: BITLM_ACT_* */
    int32_t rope;              /* BL_ROPE_* */
    uint8_t causal;            /* default of attention.causal */
    uint8_t sub_norms;         /* attn_sub_norm and ffn_sub_norm are required */
    uint8_t qk_norm;           /* attn_q_norm and attn_k_norm (head_dim) before the rotation */
    uint8_t output_norm;       /* output_norm before the head is required */
    uint8_t head;              /* logits: output.weight or the tied embedding */
    uint8_t per_token;         /* ternary layers take per-token int8: trained as BitNet.  Else int8
                                * per group of weights, but for I2_S, which is BitNet's own type */
    uint8_t ask_activation;    /* files of this name disagree: decide from what the file says */
    int32_t pool;              /* default of pooling_type: BL_POOL_* */
    uint8_t pool_proj;         /* pool_norm and pool_proj follow the pooling */
    uint8_t pool_key;          /* pooling_type makes a decoder of this name an embedder as well */
    uint8_t experts;           /* the feed-forward blocks are experts behind a router */
    uint8_t expert_norm;       /* default of expert_weights_norm: the chosen weights sum to 1 */
} bl_arch;

const bl_arch *bl_arch_find(const char *name, size_t length);
const bl_arch *bl_arch_at(int i);  /* NULL past the end */
/* UNSUPPORTED, naming the architecture and, where it is known, why it cannot run. */
bitlm_status bl_arch_refuse(bitlm_text arch, bitlm_error *error);
/* UNSUPPORTED for a key that changes what a file computes and that bitlm does not compute. */
bitlm_status bl_arch_refuse_keys(const bl_arch *arch, const bl_gguf *gguf, bitlm_error *error);
const char *bl_arch_names(char *out, size_t cap);  /* "bitnet, bitnet-b1.58, …", NUL-terminated */

#define BL_MAX_HEAD_DIM 1024

/* ---- a linear layer --------------------------------------------------------------------- */
#define BL_LINEAR_TERNARY 1  /* one scale for the tensor, per-token int8 */
#define BL_LINEAR_GROUP 2    /* a scale per group of weights */
#define BL_LINEAR_FLOAT 3

/* Whose output a layer's input is: what option `activations` may do to it.  Sums over many layers, routers and the
 * head keep int8. */
#define BL_INPUT_PLAIN 0
#define BL_INPUT_BLOCK 1   /* the norm before attention or feed-forward: q, k, v, gate, up */
#define BL_INPUT_MIXED 2   /* attention: o */
#define BL_INPUT_GATED 3   /* the gated product: down */

typedef struct bl_linear {
    const uint8_t *data;
    int32_t type;        /* BL_TYPE_* */
    int32_t kind;        /* BL_LINEAR_* */
    int32_t group;       /* weights per scale (GROUP) */
    int32_t per_token;   /* GROUP: one activation scale for the whole token */
    int32_t input;       /* BL_INPUT_* */
    int32_t n_terms;     /* GROUP: int8 rows that make up an input, 1 or 2 */
    int64_t k, n;        /* inputs, outputs */
    float scale;         /* TERNARY: the tensor's scale (times .scale if present) */
    const float *bias;   /* (n) or NULL */
    const float *norm_in; /* (k) RMSNorm of the input, or NULL */
} bl_linear;

typedef struct bl_layer {
    const float *attn_norm, *ffn_norm;           /* (hidden_size) */
    const float *attn_sub_norm;                  /* (n_heads*head_dim) or NULL */
    const float *ffn_sub_norm;                   /* (ffn_size) or NULL */
    const float *q_norm, *k_norm;                /* (head_dim) or NULL */
    bl_linear q, k, v, o, gate, up, down;        /* with experts: gate, up, down of the shared one, if any */
    bl_linear router, shared_router;             /* (hidden) -> n_experts; -> 1 */
    bl_linear *experts;                          /* (n_experts, 3): gate, up, down */
} bl_layer;

struct bitlm_model {
    int64_t references;            /* atomic; owned by core/run/registry.c */
    bl_alloc alloc;
    bl_mapping mapping;
    bl_gguf *gguf;
    bl_tokenizer *tokenizer;
    const bl_chat_template *chat;  /* NULL: no template, or one we do not know */
    bitlm_text chat_system;        /* what the template says where nobody gives a system message */
    const bl_kernels *kernels;
    const bl_arch *arch;
    char *path;                    /* NUL-terminated */
    int32_t load, hidden_act;      /* as asked for at open: part of the sharing key */
    int32_t activation;            /* BITLM_ACT_RELU2 or BITLM_ACT_SILU */
    char activation_why[120];
    char weight_type[16];
    int64_t vocab_size, context_length, hidden_size, n_layers, n_heads, n_kv_heads, head_dim,
        ffn_size, n_rot, embedding_size;   /* embedding_size: values of a pooled embedding, 0: none */
    int64_t n_experts, n_experts_used;  /* 0: none */
    int32_t expert_norm;           /* the weights of the chosen experts sum to expert_scale */
    float expert_scale;
    float norm_eps;
    double rope_base;
    double *rope_freq;             /* (n_rot/2) radians per position */
    double rope_scale;             /* of cosines and sines (yarn), else 1 */
    int32_t causal, pool, per_token;
    uint64_t n_parameters;
    const bl_tensor *token_embd;
    const float *output_norm;      /* (hidden_size) or NULL */
    bl_linear head;                /* data NULL: no head */
    const float *pool_norm;        /* (hidden_size) or NULL */
    bl_linear pool_proj;
    bl_layer *layers;              /* (n_layers) */
    void *memory;                  /* norms, scales, layers, rope_freq */
    uint8_t id[16];
    int32_t id_known;              /* guarded by the registry's lock */
    int32_t builtin;               /* the mapping is linked in */
    int32_t passing;               /* opened to be hashed: pages that were read are given back */
    int32_t listed;                /* stands in the registry's list */
    struct bl_shortlist *shortlist; /* made when first asked for, guarded by a lock of shortlist.c */
    struct bitlm_model *next;      /* registry's list */
};

/* Fills a zeroed model from model->mapping; on failure the caller frees it with
 * bl_model_unload.  FORMAT, UNSUPPORTED, NOMEM, ARG (BITLM_CPU is unknown). */
bitlm_status bl_model_load(bitlm_model *model, bitlm_error *error);
void bl_model_unload(bitlm_model *model);
/* How l runs in the model with the matrix t as its weights: all of l but bias and norm_in; a scale that the file keeps in a
 * tensor of its own is not in l->scale.  measuring: whether all blocks share a scale is not looked at. */
bitlm_status bl_linear_set(const bitlm_model *model, const bl_tensor *t, int measuring, bl_linear *l, bitlm_error *error);
/* Matrix `expert` of a tensor that stacks them. */
bl_tensor bl_expert_matrix(const bl_tensor *t, int64_t expert);
/* Hash of unpacked tensors, metadata that matters and BITLM_NUMERICS; polls. */
bitlm_status bl_model_hash(const bitlm_model *model, bl_poll *poll, uint8_t id[16],
                           bitlm_error *error);
/* The value of BL_ID_KEY. */
void bl_model_id_text(const bitlm_model *model, const uint8_t id[16], char text[BL_ID_KEY_BYTES + 1]);
/* 1 and the id that the model's file tells for these numerics and this activation; 0: it tells none. */
int bl_model_stored_id(const bitlm_model *model, uint8_t id[16]);
/* The value of BL_ID_KEY for the file at path, which is read with little memory.  What bl_model_load and bl_model_hash fail
 * with. */
bitlm_status bl_model_file_id(const char *path, const bl_alloc *alloc, bl_poll *poll, char text[BL_ID_KEY_BYTES + 1],
                              bitlm_error *error);

#endif
