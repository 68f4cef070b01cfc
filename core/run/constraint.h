/* constraint.h - answers that must be one of several texts, or a JSON object of a schema: which tokens may
 * come next.
 *
 * choices: a trie over the tokens of each choice as it continues the prompt, with and without a space in
 * front.  Where a choice ends and another goes on, stopping competes with the weight of all tokens that do not
 * go on.  json_schema: the vocabulary's sorted bytes are walked once a token through the schema's machine.
 * Either way only tokens from which the answer can still end within max_tokens are allowed.
 *
 * Called by generate.c, sampler.c and classify.c. */
#ifndef BL_CONSTRAINT_H
#define BL_CONSTRAINT_H

#include "base/base.h"
#include "text/json_schema.h"
#include "text/tokenizer.h"

#define BL_MAX_CHOICES 1024
#define BL_MAX_CHOICE_BYTES 4096
#define BL_STOP_HERE (-1) /* in place of a token: the answer ends, as one that is whole */

/* A node of the trie of choices; node 0 is the root. */
typedef struct bl_choice_node {
    int32_t token;               /* that leads here */
    int32_t child, sibling;      /* -1: none */
    int32_t choice;              /* which choice ends here, or -1 */
    int32_t to_end;              /* fewest tokens from here to the end of a choice */
} bl_choice_node;

typedef struct bl_trie {
    bl_choice_node *nodes;
    int32_t n, room;
} bl_trie;

typedef struct bl_constraint {
    bl_alloc alloc;
    bl_trie trie;                /* choices */
    int32_t node;
    bitlm_text *choices;         /* copies of the texts, in one block with them */
    bl_schema *schema;           /* json_schema */
    const bl_token_table *table;
    bl_schema_state state;
    int32_t started;             /* the object has begun: no space before it any more */
    bl_schema_state *path;       /* (table->max_bytes + 1) the machine along a token */
    uint8_t *path_started;
} bl_constraint;

/* 1 .. BL_MAX_CHOICES texts of 1 .. BL_MAX_CHOICE_BYTES bytes, all different: else ARG. */
bitlm_status bl_check_choices(const bitlm_text *choices, size_t n, bitlm_error *error);
/* Builds the trie of n choices; duplicates and texts that the vocabulary cannot spell are ARG. */
bitlm_status bl_trie_build(const bl_tokenizer *t, const bitlm_text *choices, size_t n, const bl_alloc *alloc,
                           bl_poll *poll, bl_trie *trie, bitlm_error *error);
void bl_trie_free(bl_trie *trie, const bl_alloc *alloc);
int32_t bl_trie_child(const bl_trie *trie, int32_t node, int32_t token); /* -1: none */

/* What options asks for; *constraint stays NULL where it asks for nothing.  budget: tokens the answer may
 * have.  ARG, LIMIT (budget too small), UNSUPPORTED, NOMEM. */
bitlm_status bl_constraint_open(const bl_tokenizer *t, const bitlm_options *options, int64_t budget,
                                const bl_alloc *alloc, bl_poll *poll, bl_constraint **constraint,
                                bitlm_error *error);
void bl_constraint_restart(bl_constraint *constraint); /* for another answer */
void bl_constraint_free(bl_constraint *constraint);

typedef struct bl_candidate {
    float logit;
    int32_t id;
} bl_candidate;

/* The tokens that may come next, BL_STOP_HERE among them, if `budget` (>= 1) tokens are left, with their
 * logits of `logits` (n_vocab); out has room for n_vocab + 1.  Returns their number, at least 1. */
int64_t bl_constraint_candidates(bl_constraint *c, const float *logits, int64_t n_vocab, int64_t budget,
                                 bl_candidate *out);
/* The same for a node of a trie. */
int64_t bl_trie_candidates(const bl_trie *trie, int32_t at, const float *logits, int64_t n_vocab, int64_t budget,
                           bl_candidate *out);
/* Takes a token that was among the candidates.  1: the answer is whole and over. */
int bl_constraint_accept(bl_constraint *c, const bl_tokenizer *t, int32_t token);
/* The whole answer where choices decide it, else NULL. */
const bitlm_text *bl_constraint_answer(const bl_constraint *c);

#endif
