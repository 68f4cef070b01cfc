/* token_table.h - the bytes of every token of a vocabulary in sorted order, for answers that must
 * match something: which tokens continue a text byte by byte.  Used by json_schema.c and core/run. */
#ifndef BL_TOKEN_TABLE_H
#define BL_TOKEN_TABLE_H

#include "text/tokenizer.h"

/* Row i: token ids[i] renders in the middle of a text as bytes[offsets[i] .. offsets[i+1]), of which the
 * first common[i] are those of row i - 1.  Tokens that render as nothing (control, unknown, unused,
 * padding) are left out.  Immutable; owned by the tokenizer. */
typedef struct bl_token_table {
    int32_t n;
    int32_t *ids;
    uint32_t *offsets;  /* (n + 1) */
    uint32_t *common;   /* (n) */
    uint8_t *bytes;
    size_t max_bytes;   /* of a token */
    int whole_utf8;     /* every byte 80 .. BF is a token: any character can be ended byte by byte */
} bl_token_table;

/* Made at the first call, then kept; safe from several threads.  NOMEM, UNSUPPORTED (no vocabulary). */
bitlm_status bl_token_table_get(const bl_tokenizer *t, const bl_token_table **table, bitlm_error *error);
void bl_token_table_free(const bl_alloc *alloc, bl_token_table *table);
/* Whether some token is exactly these bytes. */
int bl_token_table_has(const bl_token_table *table, const void *bytes, size_t length);

/* The bytes that a token adds in the middle of a text; room for the tokenizer's max_bytes. */
size_t bl_token_bytes(const bl_tokenizer *t, int32_t id, uint8_t *out);
/* Appends the tokens of a text that stands inside another one, directly or after a space: no frame, no
 * special tokens, no space mark that the text does not have. */
bitlm_status bl_tokenize_inner(const bl_tokenizer *t, const char *text, size_t length, int after_space,
                               bl_poll *poll, bl_ids *ids, bitlm_error *error);

#endif
