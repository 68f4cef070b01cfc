/* bitlm.h - 1-bit language models: the only public header of libbitlm.
 *
 * The ABI is meant to be called from any language: opaque types, structs that
 * begin with their own size, fixed-width integers, text as pointer + length,
 * no bool, enum, long, bit-field, varargs or struct passed by value.
 *
 * Order of use:  bitlm_model_open -> bitlm_session_open -> bitlm_generate_start
 * / bitlm_generate_next, or bitlm_embed_batch -> bitlm_session_free ->
 * bitlm_model_free.  Every fallible function returns a bitlm_status; its last
 * argument may be NULL or a bitlm_error that receives one English sentence.
 * Outputs are written only on success, but where said otherwise.
 *
 * Threads: a model may be used from any number of threads at once.  A session
 * has one user at a time (a second one gets BITLM_BUSY).  Callbacks of
 * bitlm_host run only on the thread that made the call.
 *
 * Results are the same bits on every CPU and for every number of threads
 * (docs/ARCHITECTURE.md, "The numeric contract"); BITLM_NUMERICS changes when
 * they do. */
#ifndef BITLM_H
#define BITLM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define BITLM_API __attribute__((visibility("default")))
#else
#define BITLM_API
#endif

#define BITLM_VERSION "0.1.0"
/* Rises with any change of arithmetic order, polynomial, rounding or frozen
 * table, that is whenever the same model and text may give other bits. */
#define BITLM_NUMERICS 2

/* ---- status ------------------------------------------------------------ */

typedef int32_t bitlm_status;
#define BITLM_OK 0
#define BITLM_ARG 1          /* an argument is wrong */
#define BITLM_NOMEM 2        /* the allocator returned NULL */
#define BITLM_IO 3           /* the operating system refused; sys_errno says why */
#define BITLM_FORMAT 4       /* a model file is malformed */
#define BITLM_CORRUPT 5      /* an index is malformed */
#define BITLM_UNSUPPORTED 6  /* well-formed, but not something bitlm can do */
#define BITLM_LIMIT 7        /* too long or too large for a limit that is named */
#define BITLM_BUSY 8         /* the session is in use by another caller */
#define BITLM_TIMEOUT 9      /* timeout_ms has passed */
#define BITLM_CANCELED 10    /* host.poll returned non-zero */
#define BITLM_INTERNAL 11    /* a defect of bitlm */
#define BITLM_DONE 100       /* not an error: an iteration has no more rows */

typedef struct bitlm_error {
    uint32_t size;      /* sizeof(bitlm_error), set by the caller */
    int32_t status;     /* the status returned */
    int32_t sys_errno;  /* errno of a BITLM_IO, else 0 */
    char text[500];     /* NUL-terminated UTF-8 sentence, "" on success */
} bitlm_error;

/* Static name of a status, "ARG" for BITLM_ARG; "?" for an unknown number. */
BITLM_API const char *bitlm_status_name(bitlm_status status);

/* ---- what the host lends ------------------------------------------------ */

#define BITLM_LOG_WARNING 1
#define BITLM_LOG_INFO 2

/* Every pointer may be NULL.  The struct is copied; `context` must outlive the
 * object that was opened with it.  Callbacks must return (no longjmp, no C++
 * exception).  The host's floating-point environment is in force while they
 * run. */
typedef struct bitlm_host {
    uint32_t size;    /* sizeof(bitlm_host) */
    uint32_t flags;   /* 0 */
    void *context;    /* passed to every callback */
    /* Called at most about 10 ms apart while a call computes; non-zero stops
     * the call with BITLM_CANCELED. */
    int32_t (*poll)(void *context);
    /* malloc and free in shape: 16-byte alignment or better, NULL on failure.
     * Called only on a thread that is inside a call on the object. */
    void *(*alloc)(void *context, size_t size);
    void (*release)(void *context, void *memory);
    void (*log)(void *context, int32_t level, const char *text, size_t length);
} bitlm_host;

typedef struct bitlm_text {
    const char *data;  /* UTF-8, not NUL-terminated; may be NULL if length is 0 */
    size_t length;     /* bytes */
} bitlm_text;

/* ---- options -------------------------------------------------------------
 * One struct, one parser, one table of defaults for SQL, Python and the
 * command.  bitlm_options_init sets the defaults; bitlm_options_json lays a
 * JSON object over them and refuses an unknown name, a wrong type and a value
 * out of range with BITLM_ARG, naming it.  Texts are owned by the struct. */

#define BITLM_KV_F16 0
#define BITLM_KV_F32 1
#define BITLM_KV_INT8 2  /* a scale per token and head; needs a head size that is a multiple of 8 */
#define BITLM_KV_INT4 3
/* What quantized layers make of their inputs; a model trained with int8 loses by the others (docs/BENCHMARKS.md). */
#define BITLM_ACTIVATIONS_INT8 0
#define BITLM_ACTIVATIONS_A4_8 1    /* BitNet a4.8: int4 before attention and feed-forward, int8 of the larger half before o */
#define BITLM_ACTIVATIONS_BINARY 2  /* signs times their mean magnitude, in every layer of the blocks */
#define BITLM_TRUNCATE_NONE 0
#define BITLM_TRUNCATE_START 1  /* drop the start */
#define BITLM_TRUNCATE_END 2    /* drop the end */
#define BITLM_ON_ERROR_RAISE 0
#define BITLM_ON_ERROR_NULL 1
#define BITLM_LOAD_AUTO 0  /* mmap, but copy where others may write the file */
#define BITLM_LOAD_MMAP 1
#define BITLM_LOAD_COPY 2
#define BITLM_ORDER_MSB 0
#define BITLM_ORDER_LSB 1
#define BITLM_ROUND_NEAREST 0
#define BITLM_ROUND_STOCHASTIC 1
#define BITLM_ROUND_FEEDBACK 2
#define BITLM_ACT_AUTO 0
#define BITLM_ACT_RELU2 1
#define BITLM_ACT_SILU 2

#define BITLM_HEAD_FULL 0
#define BITLM_HEAD_SHORTLIST 1  /* an int8 copy of a float output head, made once a model and shared by its sessions, says which
                                 * few tokens are worth their row of the head; heads of other types: as FULL */

typedef struct bitlm_options {
    uint32_t size;           /* sizeof(bitlm_options) */
    int32_t max_tokens;      /* 128; 0 .. 2^31-1 */
    float temperature;       /* 0.7; 0 is greedy; 0 .. 100 */
    float top_p;             /* 0.95; (0, 1], 1 is off */
    int32_t top_k;           /* 0 is off */
    float min_p;             /* 0.05; [0, 1], 0 is off */
    float repeat_penalty;    /* 1.1; (0, 10], 1 is off; over the last 64 tokens */
    int32_t ignore_eos;      /* 0 or 1 */
    int32_t logprobs;        /* 0 or 1: pieces carry log probabilities */
    int32_t threads;         /* 0: the host's default; 1 .. 256 */
    int32_t n_ctx;           /* 0: the model's own, at most 4096 */
    int32_t kv_type;         /* BITLM_KV_*; json "f16", "f32", "int8", "int4" */
    int32_t truncate;        /* BITLM_TRUNCATE_*; json "none", "start", "end" */
    int32_t on_error;        /* BITLM_ON_ERROR_*; json "raise", "null" */
    int32_t load;            /* BITLM_LOAD_*; json "auto", "mmap", "copy" */
    int32_t hidden_act;      /* BITLM_ACT_*; json "auto", "relu2", "silu": overrides the file */
    int32_t rows;            /* 0 .. 16: the cache holds so many texts of n_ctx, up to 4096 tokens; 0: the call's own */
    int32_t activations;     /* BITLM_ACTIVATIONS_*; json "int8", "a4.8", "binary"; of the session */
    int32_t lookup;          /* 0 .. 15: tokens guessed from the text so far and checked in one step; 0: off */
    int32_t chat_template;   /* 0: the file's; else 1 .. by the names of option chat_template */
    int32_t timeout_ms;      /* 0: none */
    float threshold;         /* 0; finite; binarize: a bit is value > threshold, other calls ignore it */
    int32_t order;           /* BITLM_ORDER_*; json "msb", "lsb": which bit of a byte is the first; bitlm_binarize of SQL */
    int32_t group;           /* 0: all; values that share a scale; bitlm_vector_quantize */
    int32_t rounding;        /* BITLM_ROUND_*; json "nearest", "stochastic" (by seed), "feedback"; bitlm_vector_quantize */
    int32_t hadamard;        /* 0: not; 2 .. 32,768, a power of two: values of a block that is rotated; bitlm_vector_quantize */
    int32_t head;            /* BITLM_HEAD_*; json "full", "shortlist": the same results by less reading; of the session */
    uint64_t seed;           /* 0; the same seed gives the same text */
    bitlm_text model;        /* {NULL,0}: the built-in of the call */
    bitlm_text *stop;        /* n_stop strings, none empty; generation ends before one */
    size_t n_stop;           /* <= 64 */
    bitlm_text *choices;     /* n_choices texts, all different: the answer is one of them */
    size_t n_choices;        /* 0: any answer; <= 1024 */
    bitlm_text json_schema;  /* {NULL,0}: any answer; the schema of a flat object that the answer is */
    void *owned;             /* memory behind the texts; private */
} bitlm_options;

BITLM_API void bitlm_options_init(bitlm_options *options);
/* `json`: an object of options, length bytes; empty text or "null" changes
 * nothing.  On an error the options keep the values they had. */
BITLM_API bitlm_status bitlm_options_json(bitlm_options *options, const char *json, size_t length,
                                          bitlm_error *error);
/* Sets choices from a JSON array of texts. */
BITLM_API bitlm_status bitlm_options_choices(bitlm_options *options, const char *json, size_t length,
                                             bitlm_error *error);
/* Frees what the struct owns and sets the defaults again. */
BITLM_API void bitlm_options_clear(bitlm_options *options);

/* ---- models ---------------------------------------------------------------
 * Immutable and reference-counted; the mapping is shared by all opens of the
 * same file (device, inode, size, mtime) in the process. */

typedef struct bitlm_model bitlm_model;

#define BITLM_OPEN_NAME_ONLY 1u  /* only the built-ins "story" and "embed", never a path */

typedef struct bitlm_model_info {
    uint32_t size;           /* sizeof(bitlm_model_info) */
    int32_t can_generate;    /* 1: a decoder with a head */
    int32_t can_embed;       /* 1: has a pooling rule */
    int32_t can_chat;        /* 1: has a chat template that bitlm renders */
    int32_t vocab_size;
    int32_t context_length;  /* tokens, as the file says */
    int32_t hidden_size;
    int32_t n_layers;
    int32_t embedding_bits;  /* bits of a code = values of an f32 embedding; 0 if none */
    int32_t activation;      /* BITLM_ACT_RELU2 or BITLM_ACT_SILU */
    uint64_t file_bytes;
    uint64_t n_parameters;   /* weights in tensors, padding included */
    const char *architecture;   /* NUL-terminated, owned by the model */
    const char *name;           /* general.name or "" */
    const char *weight_type;    /* type of most linear weights, "I2_S" */
    const char *activation_why; /* a phrase: how the activation was chosen */
    const char *path;           /* as opened; the built-in's name for a built-in */
} bitlm_model_info;

/* name_or_path: "story", "embed" or the path of a GGUF file.  options (may be
 * NULL) gives load and hidden_act.  ARG, NOMEM, IO, FORMAT, UNSUPPORTED,
 * LIMIT.  The caller owns one reference. */
BITLM_API bitlm_status bitlm_model_open(const char *name_or_path, size_t length, uint32_t flags,
                                        const bitlm_options *options, const bitlm_host *host,
                                        bitlm_model **model, bitlm_error *error);
BITLM_API void bitlm_model_retain(bitlm_model *model);
BITLM_API void bitlm_model_free(bitlm_model *model);  /* NULL is ignored */
BITLM_API bitlm_status bitlm_model_describe(const bitlm_model *model, bitlm_model_info *info,
                                            bitlm_error *error);
/* 128 bits that name (unpacked tensors, the metadata that matters,
 * BITLM_NUMERICS): equal ids give equal results.  Computed at the first call
 * (reads the whole file), then kept. */
BITLM_API bitlm_status bitlm_model_id(bitlm_model *model, const bitlm_host *host, uint8_t id[16],
                                      bitlm_error *error);

/* ---- memory ---------------------------------------------------------------- */

/* Bytes, before anything is loaded or a session opened.  The tensors lie in the file, which is mapped and shared by
 * all processes that use it (with load = copy a process has its own); a session's memory is its own. */
typedef struct bitlm_memory_parts {
    uint32_t size;        /* sizeof(bitlm_memory_parts) */
    int32_t n_ctx;        /* tokens a text may have in the session */
    uint64_t n_parameters;
    uint64_t float_bytes; /* what the parameters would take as float32 */
    uint64_t layer_bytes; /* matrices of the layers, of which low_bit_bytes are ternary or binary */
    uint64_t low_bit_bytes;
    uint64_t embedding_bytes; /* of tokens; the head too where they are tied */
    uint64_t head_bytes;      /* an output matrix of its own */
    uint64_t norm_bytes;      /* norms, biases and scales */
    uint64_t file_bytes;      /* the whole file: the tensors, the vocabulary, padding */
    uint64_t kv_positions;    /* tokens the cache holds: several texts share it */
    uint64_t kv_bytes;        /* keys and values, with the scales of int8 and int4 */
    uint64_t scratch_bytes;   /* activations, logits and the sampler's */
    uint64_t total_bytes;     /* file_bytes + kv_bytes + scratch_bytes + shortlist_bytes */
    uint64_t shortlist_bytes; /* with head = shortlist: the head's copy, once a process and model */
} bitlm_memory_parts;

/* options (may be NULL): n_ctx, kv_type, rows, threads, head, as for bitlm_session_open and with its errors. */
BITLM_API bitlm_status bitlm_memory(bitlm_model *model, const bitlm_options *options, bitlm_memory_parts *parts,
                                    bitlm_error *error);
/* The same as a JSON object of those names, NUL-terminated; LIMIT: capacity is too small (1,000 bytes are enough). */
BITLM_API bitlm_status bitlm_memory_json(bitlm_model *model, const bitlm_options *options, char *json,
                                         size_t capacity, bitlm_error *error);

/* The same for a model that is not there.  shape: a name (tiny, 100m, 700m, bitnet-2b4t, 7b) or a JSON object: hidden, layers, heads,
 * ffn, vocab; kv_heads (heads), head_dim (hidden / heads), context (4096), type ("i2_s") of the layers, embedding_type
 * ("f16"), tied (true) and sub_norms (true), or {"shape": name} with changes.  file_bytes are those of the tensors: no
 * vocabulary.  {"parameters": n} or {"rows": n, "dims": n}: what so many numbers take, as float_bytes, int8_bytes,
 * int4_bytes, ternary_bytes (five a byte) and binary_bytes, without scales.  ARG, UNSUPPORTED, LIMIT, NOMEM. */
BITLM_API bitlm_status bitlm_memory_shape_json(const char *shape, size_t length, const bitlm_options *options, char *json,
                                               size_t capacity, bitlm_error *error);

/* ---- text and tokens ------------------------------------------------------ */

#define BITLM_TOKENS_SPECIAL 1u  /* marks such as "<s>" in the text are tokens, not text */
#define BITLM_TOKENS_FRAME 2u    /* add what the model wants around a text: BOS, [CLS] … [SEP] */

/* ids: room for `capacity` tokens; *n_ids gets the number there are, which may
 * exceed capacity (then LIMIT, and nothing but *n_ids is written).  Invalid
 * UTF-8 is read as U+FFFD, one for each maximal bad part.  host (may be NULL)
 * lends poll and memory for the call. */
BITLM_API bitlm_status bitlm_tokenize(const bitlm_model *model, const char *text, size_t length,
                                      uint32_t flags, const bitlm_host *host, int32_t *ids,
                                      size_t capacity, size_t *n_ids, bitlm_error *error);
/* The text of tokens, always valid UTF-8.  With capacity too small LIMIT and
 * the needed bytes in *length.  flags: BITLM_TOKENS_SPECIAL renders control
 * tokens, which are left out otherwise.  ARG: an id outside the vocabulary. */
BITLM_API bitlm_status bitlm_detokenize(const bitlm_model *model, const int32_t *ids, size_t n_ids,
                                        uint32_t flags, char *text, size_t capacity, size_t *length,
                                        bitlm_error *error);

typedef struct bitlm_chunk {
    size_t byte_start, byte_length;  /* in the text */
    size_t char_start, char_length;  /* code points; char_start counts from 0 */
    size_t n_tokens;                 /* tokens of the chunk by itself, <= size */
} bitlm_chunk;

/* Cuts a text into chunks of at most `size` tokens (1 .. 2^20) that share about
 * `overlap` tokens (0 .. size-1) with the chunk before, at sentence or word
 * ends where there are any.  Every character is in some chunk; an empty text
 * has one empty chunk.  host, *n_chunks and capacity work as in bitlm_tokenize. */
BITLM_API bitlm_status bitlm_chunks(const bitlm_model *model, const char *text, size_t length,
                                    size_t size, size_t overlap, const bitlm_host *host,
                                    bitlm_chunk *chunks, size_t capacity, size_t *n_chunks,
                                    bitlm_error *error);

/* ---- sessions -------------------------------------------------------------- */

typedef struct bitlm_session bitlm_session;

/* A KV cache, a sampler and scratch memory over a model.  One arena, sized
 * here; stepping allocates nothing.  options: threads, n_ctx, kv_type, rows, activations, head. */
BITLM_API bitlm_status bitlm_session_open(bitlm_model *model, const bitlm_options *options,
                                          const bitlm_host *host, bitlm_session **session,
                                          bitlm_error *error);
BITLM_API void bitlm_session_free(bitlm_session *session);  /* NULL is ignored */

#define BITLM_FINISH_NONE 0
#define BITLM_FINISH_STOP 1     /* end-of-text token or a stop string */
#define BITLM_FINISH_LENGTH 2   /* max_tokens */
#define BITLM_FINISH_CONTEXT 3  /* n_ctx is full */
#define BITLM_FINISH_REFUSED 4  /* with BITLM_GENERATE_SKIP: the prompt cannot be used */

typedef struct bitlm_piece {
    uint32_t size;      /* sizeof(bitlm_piece), set by the caller */
    int32_t row;        /* which prompt, from 0 */
    int32_t n;          /* which token of the row, from 0 */
    int32_t token;      /* its id; -1 in a last piece that only ends the row */
    int32_t finish;     /* BITLM_FINISH_*; non-zero in the row's last piece */
    float logprob;      /* natural log of its probability before penalties and temperature; NaN unless logprobs */
    const char *text;   /* bytes that became final: whole UTF-8 characters, perhaps none yet */
    size_t text_length; /* text is valid until the next call on the session */
} bitlm_piece;

#define BITLM_GENERATE_CHAT 1u  /* each prompt is a JSON array of {"role","content"} messages */

#define BITLM_GENERATE_SKIP 2u  /* a prompt that is too long or malformed ends its own row, not the call */

/* Tokenizes n prompts and begins; they are copied.  The prompt of n_ctx tokens or more is
 * LIMIT unless options->truncate.  options: all that shape sampling; threads, n_ctx, kv_type and
 * rows are the session's.
 *
 * Many prompts step together, up to 16 at a time as far as the session's cache has room (option
 * rows) and the rest as places become free, so that the weights are read once for all of them;
 * tokens that a prompt begins with like one before it are not computed again.  Each row's tokens,
 * log probabilities and text are what a call with that prompt alone gives. */
BITLM_API bitlm_status bitlm_generate_start(bitlm_session *session, const bitlm_text *prompts,
                                            size_t n, uint32_t flags, const bitlm_options *options,
                                            bitlm_error *error);
/* The next token of some row: pieces of one row come in order, those of others between them.  BITLM_DONE after every row has finished.  After CANCELED,
 * TIMEOUT or any error the generation is over; start again. */
BITLM_API bitlm_status bitlm_generate_next(bitlm_session *session, bitlm_piece *piece,
                                           bitlm_error *error);

#define BITLM_EMBED_BITS 0  /* packed bits, MSB first, bit = value > 0 */
#define BITLM_EMBED_F32 1   /* little-endian float32, unit length */

/* Embeds n texts in one batched pass.  out: n rows, `stride` bytes apart, each
 * embedding_bits/8 or embedding_bits*4 bytes.  row_status (n, may be NULL):
 * the status of each row; with it a row too long is marked LIMIT and left
 * zero, without it the call fails.  options: truncate, timeout_ms. */
BITLM_API bitlm_status bitlm_embed_batch(bitlm_session *session, const bitlm_text *texts, size_t n,
                                         int32_t format, const bitlm_options *options, void *out,
                                         size_t stride, bitlm_status *row_status,
                                         bitlm_error *error);

/* How probable each of options->choices is as the label of a text: probabilities (n_choices) sum to 1.  A decoder is
 * asked (through its chat template if it has one) and held to the labels' tokens; an encoder compares
 * embeddings, softmax of cosine / 0.05.  ARG, LIMIT (too long for n_ctx), NOMEM, BUSY, CANCELED, TIMEOUT. */
BITLM_API bitlm_status bitlm_classify(bitlm_session *session, const char *text, size_t length,
                                      const bitlm_options *options, double *probabilities, bitlm_error *error);
/* {"label":probability,…}, the most probable first; json, capacity and *length as in bitlm_detokenize. */
BITLM_API bitlm_status bitlm_classification_json(const bitlm_options *options, const double *probabilities,
                                                 char *json, size_t capacity, size_t *length, bitlm_error *error);

/* Logits of every position for given ids (no frame added): out (n, vocab_size)
 * float32.  The session's cache is overwritten.  For parity checks and
 * perplexity. */
BITLM_API bitlm_status bitlm_logits(bitlm_session *session, const int32_t *ids, size_t n, float *out,
                                    bitlm_error *error);

/* Log probabilities of a given text (no frame added): logprobs[i], i > 0, is the natural log of
 * the probability of ids[i] after ids[0 .. i); logprobs[0] = 0, since nothing stands before it.
 * n: 1 .. n_ctx.  The session's cache is overwritten.  exp of minus their mean is the perplexity.
 * ARG, LIMIT, NOMEM, BUSY, CANCELED; then logprobs holds nothing of use. */
BITLM_API bitlm_status bitlm_score(bitlm_session *session, const int32_t *ids, size_t n, float *logprobs,
                                   bitlm_error *error);

/* ---- codes ------------------------------------------------------------------ */

/* Differing bits of two codes of n bytes. */
BITLM_API uint64_t bitlm_hamming(const void *a, const void *b, size_t n);
/* Equal bits / bits, in [0, 1]; 1 for n = 0. */
BITLM_API double bitlm_similarity(const void *a, const void *b, size_t n);
/* Bits set in both / bits set in either, in [0, 1]; 1 if no bit is set. */
BITLM_API double bitlm_jaccard(const void *a, const void *b, size_t n);
/* Cosine of two float32 vectors of n values, in [-1, 1]; 0 if either is zero. */
BITLM_API double bitlm_cosine(const float *a, const float *b, size_t n);
/* Sign binarization: bit i = values[i] > threshold, MSB first, the last byte
 * padded with zero bits; out: (n+7)/8 bytes. */
BITLM_API void bitlm_binarize(const float *values, size_t n, float threshold, uint8_t *out);

/* Reverses the bits within each of n bytes: codes with the first bit lowest become codes with it highest, and
 * back.  out may be code. */
BITLM_API void bitlm_reverse_bits(const void *code, size_t n, uint8_t *out);

/* The k nearest of n codes (n, code_bytes) to each query (n_queries, code_bytes), by Hamming distance, equal distances
 * by row.  filter: bit r % 8 of byte r / 8 admits row r; NULL: all.  rows and distances: (n_queries, k), the nearest
 * first; where there are fewer than k rows, row -1 and distance 2^32-1 follow.  host (may be NULL) lends poll and
 * memory.  ARG, LIMIT, NOMEM, CANCELED; then the outputs are undefined. */
BITLM_API bitlm_status bitlm_codes_topk(const void *codes, size_t n, size_t code_bytes, const void *queries,
                                        size_t n_queries, const uint8_t *filter, size_t k, const bitlm_host *host,
                                        int64_t *rows, uint32_t *distances, bitlm_error *error);

/* The same and more.  In these, codes have 1 .. 2048 bytes; filter and host are as above, threads is 1 .. 256, or
 * 0 for the physical cores, and does not change the result.  ARG, LIMIT, NOMEM, CANCELED. */

#define BITLM_METRIC_HAMMING 0     /* differing bits; the order of bitlm_similarity too */
#define BITLM_METRIC_JACCARD 1     /* 1 - bitlm_jaccard */
#define BITLM_METRIC_ASYMMETRIC 2  /* queries of 4 bits a value, from bitlm_query_planes; least is nearest */

/* queries (n_queries <= 2^20, code_bytes), or (n_queries, 4, code_bytes) if ASYMMETRIC.  rows, distances: (n_queries,
 * k), nearest first; *n_found of each query's k are written: the lesser of k and the rows admitted.  Up to 128
 * queries read memory once.  After an error rows and distances are undefined. */
BITLM_API bitlm_status bitlm_codes_search(const void *codes, size_t n, size_t code_bytes, const void *queries,
                                          size_t n_queries, const uint8_t *filter, size_t k, int32_t metric,
                                          int32_t threads, const bitlm_host *host, int64_t *rows,
                                          double *distances, size_t *n_found, bitlm_error *error);
/* All codes at most `radius` from one query, nearest first.  LIMIT if there are more than capacity. */
BITLM_API bitlm_status bitlm_codes_within(const void *codes, size_t n, size_t code_bytes, const void *query,
                                          const uint8_t *filter, double radius, int32_t metric, int32_t threads,
                                          const bitlm_host *host, int64_t *rows, double *distances,
                                          size_t capacity, size_t *n_found, bitlm_error *error);
/* All pairs a < b of codes (n < 2^32) that differ in at most `distance` bits, in order of (a, b).  LIMIT if there are
 * more than capacity.  Far fewer than n * n / 2 codes are compared where distance is small beside the bits. */
BITLM_API bitlm_status bitlm_codes_pairs(const void *codes, size_t n, size_t code_bytes, uint32_t distance,
                                         const bitlm_host *host, int64_t *a, int64_t *b, uint32_t *distances,
                                         size_t capacity, size_t *n_found, bitlm_error *error);
/* A float query of n values (n a multiple of 8) in 4 bits a value, as planes of n / 8 bytes, the least significant
 * first: out (4, n / 8), for BITLM_METRIC_ASYMMETRIC. */
BITLM_API void bitlm_query_planes(const float *values, size_t n, uint8_t *out);

#define BITLM_VECTOR_BITS 0  /* packed codes: a bit counts as +1 or -1 */
#define BITLM_VECTOR_INT8 1
#define BITLM_VECTOR_F32 2   /* any alignment */

/* Sorts rows (n_rows) of vectors (n, dim) by their product with a float query (dim), greatest first and then by row;
 * scores (n_rows) gets the products.  For what a search by codes has found.  dim: 8 .. 16,384, of BITS a multiple
 * of 8. */
BITLM_API bitlm_status bitlm_rescore(int32_t type, const void *vectors, size_t n, size_t dim, const float *query,
                                     const bitlm_host *host, int64_t *rows, float *scores, size_t n_rows,
                                     bitlm_error *error);

/* ---- an index of codes: a set of (id, code) in memory or in a file (docs/FORMATS.md) -----------
 * Sorted by id, so that the same contents are the same bytes and equal distances come out by id.
 * Searches may run in many threads at once; a change needs the index alone (else BUSY). */

typedef struct bitlm_index bitlm_index;

typedef struct bitlm_index_info {
    uint32_t size;        /* sizeof(bitlm_index_info) */
    uint32_t code_bytes;
    uint64_t n;           /* codes */
    uint8_t model_id[16]; /* of the model that made the codes; zeros: not said */
    int32_t mapped;       /* 1: the codes lie in the file */
    int32_t numerics;     /* BITLM_NUMERICS of who made it */
} bitlm_index_info;

/* An empty index.  model_id (16 bytes) may be NULL.  host (may be NULL) lends memory for the index's life. */
BITLM_API bitlm_status bitlm_index_create(size_t code_bytes, const uint8_t *model_id, const bitlm_host *host,
                                          bitlm_index **index, bitlm_error *error);
/* Opens a saved index; load as in bitlm_options.  A mapped one costs milliseconds at any size and is copied at the
 * first change.  IO, CORRUPT, NOMEM; UNSUPPORTED: a newer format, or codes of another BITLM_NUMERICS (only for an
 * index that names its model: make the codes again). */
BITLM_API bitlm_status bitlm_index_open(const char *path, size_t length, int32_t load, const bitlm_host *host,
                                        bitlm_index **index, bitlm_error *error);
BITLM_API void bitlm_index_free(bitlm_index *index); /* NULL is ignored */
BITLM_API bitlm_status bitlm_index_describe(const bitlm_index *index, bitlm_index_info *info, bitlm_error *error);
/* Reads everything: ids in order, the checksum of a file.  CORRUPT. */
BITLM_API bitlm_status bitlm_index_verify(const bitlm_index *index, const bitlm_host *host, bitlm_error *error);
/* Writes a file whole or not at all (temporary name, fsync, rename). */
BITLM_API bitlm_status bitlm_index_save(const bitlm_index *index, const char *path, size_t length,
                                        bitlm_error *error);
/* Adds n codes (n, code_bytes) under ids (n, all different, from 0 on); an id that is there gets the new code.  ids NULL: the
 * numbers from the largest id + 1 on (from 0 if empty); out_ids (n, may be NULL) tells them. */
BITLM_API bitlm_status bitlm_index_add(bitlm_index *index, const int64_t *ids, const void *codes, size_t n,
                                       int64_t *out_ids, bitlm_error *error);
/* Removes ids; those that are not there are ignored.  *removed (may be NULL): how many there were. */
BITLM_API bitlm_status bitlm_index_remove(bitlm_index *index, const int64_t *ids, size_t n, size_t *removed,
                                          bitlm_error *error);
/* The code of an id (code_bytes), copied.  ARG: it is not there. */
BITLM_API bitlm_status bitlm_index_get(bitlm_index *index, int64_t id, void *code, bitlm_error *error);
/* ids (n of them, info.n is enough) in ascending order, from the first-th on; *n_ids: how many were written. */
BITLM_API bitlm_status bitlm_index_ids(bitlm_index *index, uint64_t first, int64_t *ids, size_t n, size_t *n_ids,
                                       bitlm_error *error);
/* As bitlm_codes_topk, with ids instead of rows.  only (n_only ids, in any order, NULL: all) is the filter; where
 * there are fewer than k codes, id -1 and distance 2^32-1 follow. */
BITLM_API bitlm_status bitlm_index_search(bitlm_index *index, const void *queries, size_t n_queries, size_t k,
                                          const int64_t *only, size_t n_only, const bitlm_host *host, int64_t *ids,
                                          uint32_t *distances, bitlm_error *error);

/* ---- weights ------------------------------------------------------------------
 * Blocks of weights by the name of their tensor type in GGUF files (docs/FORMATS.md), any case.  A matrix has n_rows
 * rows of k values, row after row.  ARG: an unknown scheme, a shape that it cannot hold, another number of bytes;
 * UNSUPPORTED: a scheme that is read only. */

/* Bytes of a matrix. */
BITLM_API bitlm_status bitlm_scheme_bytes(const char *scheme, size_t length, size_t n_rows, size_t k, size_t *bytes,
                                          bitlm_error *error);
/* float32 to F32, F16, BF16, Q8_0, Q6_K, Q4_K, Q4_1, Q4_0, Q2_0, Q1_0, TQ1_0, TQ2_0, I2_S.  scale: of I2_S; 0: the largest magnitude.  ARG: a value
 * that is not finite. */
BITLM_API bitlm_status bitlm_quantize(const char *scheme, size_t length, const float *values, size_t n_rows, size_t k,
                                      float scale, void *out, size_t out_bytes, bitlm_error *error);
/* Any scheme to float32 (n_rows, k). */
BITLM_API bitlm_status bitlm_dequantize(const char *scheme, size_t length, const void *data, size_t data_bytes,
                                        size_t n_rows, size_t k, float *out, bitlm_error *error);
/* Trits (-1, 0, +1) with one scale to TQ1_0, TQ2_0, Q2_0 or I2_S, exactly. */
BITLM_API bitlm_status bitlm_pack(const char *scheme, size_t length, const int8_t *trits, size_t n_rows, size_t k,
                                  float scale, void *out, size_t out_bytes, bitlm_error *error);
/* The trits of a ternary scheme; code 3 of some files is +2. */
BITLM_API bitlm_status bitlm_unpack(const char *scheme, size_t length, const void *data, size_t data_bytes,
                                    size_t n_rows, size_t k, int8_t *trits, bitlm_error *error);

/* ---- quantized vectors ----------------------------------------------------------------
 * A list of numbers in one piece that knows its scheme, its length and its scales (docs/FORMATS.md), for columns of a database.
 * Schemes, with the value that a code q stands for; a group of n values x has one scale s:
 *   int8             s = max|x| / 127, q = round(x/s), s*q
 *   int8_asymmetric  s = (max - min) / 255 over x and 0, z = round(-128 - min/s), q = round(x/s) + z, s*(q - z)
 *   int4             s = (mean|x| + 1e-5) / sqrt 7, q = round(x/s) in -8 .. 7, s*q     (BitNet a4.8)
 *   ternary          s = max(mean|x|, 1e-5), q = round(x/s) in -1 .. 1, s*q           (BitNet b1.58)
 *   twn              t = 0.7 mean|x|, q = sign of x where |x| > t, s = mean|x| of those, s*q
 *   binary           s = mean|x|, q = x > 0 ? 1 : -1, s*q
 *   binary_mean      s = mean|x|, q = x > mean x ? 1 : -1, s*q                        (BitNet)
 *   threshold        q = x > option threshold, 1 or 0
 * and the tensor types of bitlm_quantize by name, which have groups of their own.  round: half to even.  Options: group,
 * threshold, rounding and seed.  Stochastic rounding (int8, int8_asymmetric, int4: up with the probability of the
 * fraction; ternary: to the sign with probability |x|/s; binary: to +1 with probability (x/s + 1)/2, s = max|x|) takes value
 * i's random number from (seed, i) alone.  Error feedback (those and twn): value i is rounded with what is left of the ones
 * before it, x + e, and e becomes x + e - dequantized; so the sum of the dequantized plus the last e is the sum of the values.  Option
 * hadamard: x becomes H x / sqrt(block) first, block by block, and is turned back (BitNet v2).  ARG: an unknown scheme, a
 * value that is not finite, no values; a damaged vector. */

/* Bytes of n values (1 .. 2^31-1). */
BITLM_API bitlm_status bitlm_vector_bytes(const char *scheme, size_t length, size_t n, const bitlm_options *options,
                                          size_t *bytes, bitlm_error *error);
/* values (n) to out (out_bytes, those of bitlm_vector_bytes). */
BITLM_API bitlm_status bitlm_vector_quantize(const char *scheme, size_t length, const float *values, size_t n,
                                             const bitlm_options *options, void *out, size_t out_bytes,
                                             bitlm_error *error);
/* The same with a host, which lends poll and (for hadamard) memory; timeout_ms holds.  CANCELED, TIMEOUT, NOMEM. */
BITLM_API bitlm_status bitlm_vector_quantize_polled(const char *scheme, size_t length, const float *values, size_t n,
                                                    const bitlm_options *options, const bitlm_host *host, void *out,
                                                    size_t out_bytes, bitlm_error *error);
/* How many values a quantized vector has. */
BITLM_API bitlm_status bitlm_vector_length(const void *data, size_t bytes, size_t *n, bitlm_error *error);
BITLM_API bitlm_status bitlm_vector_dequantize(const void *data, size_t bytes, float *out, size_t n, bitlm_error *error);
BITLM_API bitlm_status bitlm_vector_dequantize_polled(const void *data, size_t bytes, const bitlm_host *host, float *out,
                                                      size_t n, bitlm_error *error);
/* What was lost, as a JSON object: n, bytes, bits_per_value, mse, max_error, cosine, snr_db (null if nothing was), zeros (the
 * share of values that became 0), entropy (bits of information in a code; null for a tensor type), residual (sum of the
 * values less that of the dequantized: the last e of error feedback).  approximate (n): the
 * dequantized values.  400 bytes are enough. */
BITLM_API bitlm_status bitlm_vector_report(const float *values, const void *data, size_t bytes, const float *approximate,
                                           size_t n, char *json, size_t capacity, bitlm_error *error);

/* ---- conversion of models (docs/CONVERT.md) ---------------------------------------------- */

/* How float weights become trits: limit and scale of each span of weights. */
#define BITLM_TERNARY_ABSMEAN 0 /* m = max(mean|w|, 1e-5): trit = round(w/m), half to even, within -1 .. 1; scale m */
#define BITLM_TERNARY_TWN 1     /* t = 0.7 mean|w|: trit = sign of w where |w| > t; scale = mean|w| of those */
#define BITLM_SCALE_TENSOR 0    /* the span is the matrix */
#define BITLM_SCALE_ROW 1       /* a row: an output of the layer */
#define BITLM_SCALE_GROUP 2     /* a block of the type: 256 weights of TQ1_0 and TQ2_0, 64 of Q2_0 */

/* The type of one tensor of the output: hybrid precision. */
typedef struct bitlm_tensor_choice {
    bitlm_text name;  /* in the GGUF file: "blk.0.ffn_down.weight" */
    bitlm_text type;  /* "q8_0" */
} bitlm_tensor_choice;

typedef struct bitlm_convert_options {
    uint32_t size;              /* sizeof(bitlm_convert_options) */
    uint32_t flags;             /* 0 */
    bitlm_text type;            /* of the linear layers: "i2_s", "q8_0", …; {NULL,0}: what the source suggests */
    bitlm_text embedding_type;  /* of the embedding and a head of its own; {NULL,0}: likewise */
    int32_t threads;            /* 0: the physical cores; results do not depend on it */
    int32_t reserved;           /* 0 */
    bitlm_text pre;             /* how the vocabulary splits text, where the tokenizer's pattern is not known */
    void (*progress)(void *context, double fraction); /* may be NULL; on the calling thread, fraction in [0, 1] */
    void *progress_context;
    int32_t ternary;            /* BITLM_TERNARY_*, for float weights that become a ternary type */
    int32_t scale_per;          /* BITLM_SCALE_*; I2_S holds one scale for a tensor */
    const bitlm_tensor_choice *choices; /* (n_choices) linear layers, embedding or head of their own type */
    size_t n_choices;
} bitlm_convert_options;

BITLM_API void bitlm_convert_options_init(bitlm_convert_options *options);
/* Converts a model: a Hugging Face folder (config.json, tokenizer.json or tokenizer.model, safetensors) or a GGUF file
 * to a GGUF file, if output is named *.gguf, or a GGUF file to a new folder of safetensors.  The output appears whole
 * or not at all; memory does not grow with the model.  The source is mapped: it must not be truncated meanwhile.
 * options (may be NULL) are not kept.  ARG, IO, FORMAT, UNSUPPORTED, LIMIT, NOMEM, CANCELED. */
BITLM_API bitlm_status bitlm_convert(const char *source, size_t source_length, const char *output,
                                     size_t output_length, const bitlm_convert_options *options,
                                     const bitlm_host *host, bitlm_error *error);

/* ---- hybrid precision (docs/QUANTIZATION.md) --------------------------------------------------- */

/* What became of one tensor. */
typedef struct bitlm_quantized_tensor {
    uint32_t size;           /* sizeof(bitlm_quantized_tensor) */
    uint32_t flags;          /* 0 */
    const char *name;        /* NUL-terminated, as the other texts; valid during the callback */
    const char *source_type; /* "F16" */
    const char *type;        /* "Q2_0"; equal to source_type: left as it was */
    uint64_t source_bytes, bytes;
    double error;            /* nats a token, of this tensor's change alone */
} bitlm_quantized_tensor;

typedef struct bitlm_quantize_options {
    uint32_t size;            /* sizeof(bitlm_quantize_options) */
    uint32_t flags;           /* 0 */
    uint64_t budget_bytes;    /* the file has at most so many; 0: none */
    double max_error;         /* nats a token, > 0; 0: none.  One of the two is given */
    bitlm_text text;          /* what the error is measured on, UTF-8 */
    int32_t tokens;           /* of the text's beginning; 0: 256; 16 .. 65,536; with a budget the candidates are
                               * measured on up to 1,024 (or as many as tokens) that follow, if there are 256 */
    int32_t threads;          /* 0: the physical cores; results do not depend on it */
    bitlm_text types;         /* to choose from, with commas; {NULL,0}: "q2_0,q4_0,q8_0" */
    int32_t ternary;          /* BITLM_TERNARY_* of the ternary ones */
    int32_t scale_per;        /* BITLM_SCALE_* of them */
    void (*progress)(void *context, double fraction); /* may be NULL; on the calling thread, as tensor() */
    void *progress_context;
    void (*tensor)(void *context, const bitlm_quantized_tensor *tensor); /* may be NULL; at the end, for each one weighed */
    void *tensor_context;
} bitlm_quantize_options;

typedef struct bitlm_quantize_result {
    uint32_t size;            /* sizeof(bitlm_quantize_result), set by the caller */
    int32_t tokens;           /* scored */
    uint64_t source_bytes, bytes; /* of the files */
    double predicted_error;   /* sum of the errors of each change alone */
    double error;             /* measured (of a budget on tokens that follow, as the perplexities): mean KL divergence of the next token's distribution from the source's */
    double source_perplexity, perplexity; /* of the text */
} bitlm_quantize_result;

BITLM_API void bitlm_quantize_options_init(bitlm_quantize_options *options);
/* Writes a GGUF model with a type for each tensor of its own: the error of every linear layer, the embedding and the head
 * in every type is measured alone, by running the model on the text; then the types are chosen that have the least sum of
 * errors within budget_bytes, or the smallest file found whose error, measured with all of them together, is at most
 * max_error.  For a budget these and other choices, each single type that fits among them, are measured together on
 * the tokens that follow, and the best is taken: no greater error there than any single type's, and where some tensors
 * are coarser than the best single type, no less likely text.  A tensor may stay as it is; none grows.  Output, progress
 * and polling are as in bitlm_convert; time is about that of running the text (0.6 n_tensors n_types) times.  ARG, IO, FORMAT, UNSUPPORTED (a model without a
 * head), LIMIT (the budget is below the least possible file, which the sentence names), NOMEM, CANCELED. */
BITLM_API bitlm_status bitlm_quantize_model(const char *source, size_t source_length, const char *output,
                                            size_t output_length, const bitlm_quantize_options *options,
                                            const bitlm_host *host, bitlm_quantize_result *result, bitlm_error *error);

BITLM_API const char *bitlm_version(void);

#ifdef __cplusplus
}
#endif
#endif
