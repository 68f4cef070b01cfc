/* tokenizer.h - text to token ids and back, as a model file defines it.
 *
 * One interface over the kinds of GGUF's tokenizer.ggml.model: `llama`
 * (SentencePiece BPE with byte fallback), `bert` (WordPiece, uncased) and `gpt2`
 * (byte-level BPE, cut into words as tokenizer.ggml.pre names it).  The tokenizer copies its vocabulary at load; it is immutable and thread-safe.
 * Time is linear (n log n at most) in the text on any input, and every loop over
 * the text polls.  Called by core/run. */
#ifndef BL_TOKENIZER_H
#define BL_TOKENIZER_H

#include "base/base.h"
#include "file/gguf.h"

#define BL_TOKENIZER_NONE 0  /* the file's kind is not supported: text is refused, ids work */
#define BL_TOKENIZER_SPM 1
#define BL_TOKENIZER_WORDPIECE 2
#define BL_TOKENIZER_BPE 3

typedef struct bl_tokenizer bl_tokenizer;

/* Reads tokenizer.ggml.*.  vocab_size: rows of token_embd; more tokens than that is FORMAT.
 * A missing or unsupported kind, or a tokenizer.ggml.pre that nobody here knows, loads as
 * NONE (ids still work); a broken vocabulary of a
 * supported kind (duplicate byte tokens, array lengths that differ, special ids out of
 * range, NaN scores) is FORMAT with a sentence. */
bitlm_status bl_tokenizer_open(const bl_gguf *gguf, int32_t vocab_size, const bl_alloc *alloc,
                               bl_tokenizer **tokenizer, bitlm_error *error);
void bl_tokenizer_free(bl_tokenizer *tokenizer);

int bl_tokenizer_kind(const bl_tokenizer *t);
int32_t bl_tokenizer_vocab_size(const bl_tokenizer *t);
int32_t bl_tokenizer_bos(const bl_tokenizer *t);  /* -1 if none; for bert [CLS] */
int32_t bl_tokenizer_eos(const bl_tokenizer *t);  /* -1 if none; for bert [SEP] */
/* Ends a generation: eos, eot, and tokens named as such (<|eot_id|>, <|im_end|>, …). */
int bl_tokenizer_is_end(const bl_tokenizer *t, int32_t id);
/* The id whose text is exactly this (special and normal ones), or -1. */
int32_t bl_tokenizer_find(const bl_tokenizer *t, const char *text, size_t length);

/* A growing list of ids. */
typedef struct bl_ids {
    int32_t *data;
    size_t n, capacity;
    const bl_alloc *alloc;
} bl_ids;
bitlm_status bl_ids_push(bl_ids *ids, int32_t id, bitlm_error *error);
void bl_ids_free(bl_ids *ids);

/* Appends the tokens of text.  flags: BITLM_TOKENS_SPECIAL, BITLM_TOKENS_FRAME.
 * limit: stop with LIMIT as soon as this call is certain to append more ids (0: no limit), so
 * that 10 MB of prompt cost no more than they must.  Invalid UTF-8 counts as U+FFFD, one
 * for each maximal bad part (Unicode 15, 3.9).  UNSUPPORTED if kind is NONE. */
bitlm_status bl_tokenize(const bl_tokenizer *t, const char *text, size_t length, uint32_t flags,
                         size_t limit, bl_poll *poll, bl_ids *ids, bitlm_error *error);

/* The same, with SPECIAL marks that touch one of the n_plain byte ranges plain[2i] ..
 * plain[2i+1] (ascending) read as text: a chat template's marks count, a user's do not. */
bitlm_status bl_tokenize_marked(const bl_tokenizer *t, const char *text, size_t length,
                                const size_t *plain, size_t n_plain, uint32_t flags, size_t limit,
                                bl_poll *poll, bl_ids *ids, bitlm_error *error);

/* ---- back to text, a token at a time ------------------------------------------------ */

/* Holds back the bytes of a UTF-8 character that is not complete.  Zero it to begin. */
typedef struct bl_detok {
    uint8_t held[4];
    int32_t n_held;
    int32_t started;   /* a piece has been seen: the first one loses its leading space */
    int32_t keep_space;/* set by the caller: continuation of a prompt, keep that space */
} bl_detok;

#define BL_DETOK_CAP(max_token_bytes) ((max_token_bytes) + 16)
/* Longest token text in bytes, for buffers. */
size_t bl_tokenizer_max_bytes(const bl_tokenizer *t);

/* Text that is final after this token, whole characters only; bytes that can no longer
 * become a character come out as U+FFFD.  `out` has BL_DETOK_CAP(max_bytes) room; returns the
 * number of bytes.  special: render control tokens.  WordPiece: pieces are joined by single
 * spaces, continuations without. */
size_t bl_detok_next(const bl_tokenizer *t, bl_detok *state, int32_t id, int special, char *out);
/* What is still held, as U+FFFD; resets the state. */
size_t bl_detok_end(const bl_tokenizer *t, bl_detok *state, char *out);

#endif
