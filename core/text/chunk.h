/* chunk.h - cuts a long text into overlapping windows of tokens.
 * The contract is bitlm_chunks() in bitlm.h.  Called by core/run. */
#ifndef BL_CHUNK_H
#define BL_CHUNK_H

#include "text/tokenizer.h"

/* Appends to *chunks (allocated with alloc, freed by the caller).  size counts tokens
 * without the frame. */
bitlm_status bl_chunk_text(const bl_tokenizer *t, const char *text, size_t length, size_t size,
                           size_t overlap, const bl_alloc *alloc, bl_poll *poll,
                           bitlm_chunk **chunks, size_t *n_chunks, bitlm_error *error);

#endif
