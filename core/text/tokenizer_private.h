/* tokenizer_private.h - the tokenizer's inside, shared by the files of core/text that read
 * it: tokenizer.c (load, special tokens, frame), spm_bpe.c, wordpiece.c, byte_bpe.c,
 * pretokenizers.c, nfc.c, detokenize.c, piece_index.c. */
#ifndef BL_TOKENIZER_PRIVATE_H
#define BL_TOKENIZER_PRIVATE_H

#include "text/tokenizer.h"

/* tokenizer.ggml.token_type */
#define BL_TOKEN_NORMAL 1
#define BL_TOKEN_UNKNOWN 2
#define BL_TOKEN_CONTROL 3
#define BL_TOKEN_USER 4
#define BL_TOKEN_UNUSED 5
#define BL_TOKEN_BYTE 6

/* U+2581, the mark that SentencePiece writes for a space. */
#define BL_SPACE_MARK "\xE2\x96\x81"
#define BL_SPACE_MARK_BYTES 3
/* Bytes of a user-defined piece of an SPM vocabulary, at most. */
#define BL_MAX_USER_PIECE 512

/* ---- sorted texts: exact and longest-prefix search ----------------------------------
 * Sorted by bytes, not hashed: a hostile vocabulary cannot make lookups collide. */
typedef struct bl_piece_entry {
    uint64_t key;        /* first 8 bytes, big-endian, zero-filled: most comparisons end here */
    uint32_t at;         /* where the text begins in the index's texts */
    uint32_t length;
    int32_t id;
    int32_t parent;      /* entry whose text is the longest proper prefix of this, or -1 */
} bl_piece_entry;

typedef struct bl_piece_index {
    const uint8_t *texts;        /* of all entries */
    bl_piece_entry *entries;     /* (n) */
    size_t n;
    uint32_t first[257];         /* entries with first byte b: first[b] .. first[b+1] */
    size_t max_length;
} bl_piece_index;

/* Entries are filled by the caller (at, length >= 1, id), then sorted here; of equal texts
 * the lowest id stays. */
bitlm_status bl_piece_index_build(bl_piece_index *index, const bl_alloc *alloc,
                                  bitlm_error *error);
static inline const uint8_t *bl_piece_text(const bl_piece_index *index, int64_t i)
{
    return index->texts + index->entries[i].at;
}

/* Position of the entry with exactly this text, or -1. */
int64_t bl_piece_index_find(const bl_piece_index *index, const uint8_t *text, size_t length);
/* Position of the longest entry that is a prefix of the text, or -1. */
int64_t bl_piece_index_prefix(const bl_piece_index *index, const uint8_t *text, size_t length);

/* ---- how byte-level BPE cuts a text (pretokenizers.c) -------------------------------- */
#define BL_MAX_STAGES 4
typedef struct bl_pretokenizer bl_pretokenizer;

/* The row for a tokenizer.ggml.pre, or NULL; and all their names. */
const bl_pretokenizer *bl_pretokenizer_find(const char *name, size_t length);
const char *bl_pretokenizer_names(void);
int bl_pretokenizer_ignore_merges(const bl_pretokenizer *p);
int bl_pretokenizer_add_bos(const bl_pretokenizer *p);
int bl_pretokenizer_nfc(const bl_pretokenizer *p);

/* Walks over the words of a text. */
typedef struct bl_words {
    const bl_pretokenizer *pretokenizer;
    bl_poll *poll;
    const uint8_t *at[BL_MAX_STAGES], *end[BL_MAX_STAGES]; /* what each stage has left */
    int depth;
    int stopped; /* the poll says so */
    uint32_t steps;
} bl_words;

/* text: valid UTF-8. */
void bl_words_begin(bl_words *w, const bl_pretokenizer *p, const uint8_t *text, size_t length,
                    bl_poll *poll);
/* 1 and the next word; 0 at the end, or when stopped. */
int bl_words_next(bl_words *w, const uint8_t **word, size_t *length);

/* One of byte-level BPE's merges; those of one left token stand together. */
typedef struct bl_merge {
    int32_t right, id; /* the token on the right, what both become */
    uint32_t rank;     /* lower ones first */
} bl_merge;

/* ---- the tokenizer -------------------------------------------------------------------- */
struct bl_tokenizer {
    bl_alloc alloc;
    int32_t kind;
    int32_t vocab_size;          /* rows of the embedding; ids from n_tokens on have no text */
    int32_t n_tokens;
    int32_t byte_level;          /* gpt2: token texts spell bytes as printable characters */
    int32_t bos, eos, eot, unk;  /* -1: none */
    int32_t add_bos, add_eos, add_space_prefix;
    size_t max_bytes;            /* of what a token renders as */
    uint8_t *blob;               /* all token texts */
    uint32_t *offsets;           /* (n_tokens + 1) into blob */
    float *scores;               /* (n_tokens), SPM only */
    uint8_t *types;              /* (n_tokens) */
    uint8_t *is_end;             /* (n_tokens) */
    int32_t byte_ids[256];       /* SPM: id of <0xXX>; byte-level BPE: of the byte; -1 if absent */
    bl_piece_index all;          /* every token */
    bl_piece_index special;      /* control, unknown and user-defined: BITLM_TOKENS_SPECIAL */
    /* SPM: normal, user-defined and unused tokens, what a merge may make; and the
     * user-defined alone, which are cut out of the text before any merge.
     * WordPiece: word-initial pieces (U+2581 removed), continuation pieces (no ##). */
    bl_piece_index pieces, continuations, user;
    uint64_t *pairs;             /* SPM: which characters can stand side by side in a piece */
    uint32_t pair_mask;          /* bits of `pairs` - 1 */
    size_t max_piece_chars;      /* SPM: characters of the longest piece, >= 1 */
    /* Byte-level BPE: merges with the left token i are merges[merge_first[i] ..
     * merge_first[i + 1]), by their right token. */
    const bl_pretokenizer *pretokenizer;
    bl_merge *merges;
    uint32_t *merge_first;       /* (n_tokens + 1) */
    struct bl_token_table *table; /* made when first asked for (token_table.c); atomic */
    char refusal[256];           /* kind NONE: why text is refused */
};

static inline const uint8_t *bl_token_text(const bl_tokenizer *t, int32_t id, size_t *length)
{
    *length = t->offsets[id + 1] - t->offsets[id];
    return t->blob + t->offsets[id];
}

static inline uint32_t bl_pair_hash(uint32_t a, uint32_t b)
{
    uint64_t h = ((uint64_t)a << 32 | b) * UINT64_C(0x9E3779B97F4A7C15);
    return (uint32_t)(h >> 32);
}

/* Where the ids of one text go. */
typedef struct bl_sink {
    bl_ids *ids;
    size_t start;      /* ids->n at the beginning */
    size_t limit;      /* LIMIT when more than this many are put; 0: none */
    bl_poll *poll;
    bitlm_error *error;
} bl_sink;

bitlm_status bl_sink_put(bl_sink *sink, int32_t id);
bitlm_status bl_sink_over(const bl_sink *sink);
/* OK, or the poll's status with its sentence. */
bitlm_status bl_sink_poll(const bl_sink *sink);

/* The tokens of text without special tokens or frame.  `prefix`: SPM writes the space
 * mark in front. */
bitlm_status bl_spm_encode(const bl_tokenizer *t, const uint8_t *text, size_t length, int prefix,
                           bl_sink *sink);
bitlm_status bl_wordpiece_encode(const bl_tokenizer *t, const uint8_t *text, size_t length,
                                 bl_sink *sink);
bitlm_status bl_bpe_encode(const bl_tokenizer *t, const uint8_t *text, size_t length,
                           bl_sink *sink);
/* Reads the merges; t->pretokenizer and the tokens are there. */
bitlm_status bl_bpe_load(bl_tokenizer *t, const bl_gguf *gguf, bitlm_error *error);
/* The text in NFC, bad parts as U+FFFD, in new memory; *out NULL: it is so already. */
bitlm_status bl_nfc(const uint8_t *text, size_t length, int compose, bl_sink *sink, uint8_t **out,
                    size_t *n_out);
/* The most bytes that token id can render as. */
size_t bl_detok_bound(const bl_tokenizer *t, int32_t id);

#endif
