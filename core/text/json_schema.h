/* json_schema.h - the schema of a flat JSON object as a machine over bytes: which byte may come next,
 * whether the object is whole, and how many tokens it takes to end it.
 *
 * The text that it accepts is the object in one form: properties in the schema's order, `{"a": 1, "b": "x"}`,
 * strings in UTF-8 with the short escapes only.  Used by core/run/constraint.c. */
#ifndef BL_JSON_SCHEMA_H
#define BL_JSON_SCHEMA_H

#include "base/base.h"
#include "text/token_table.h"

typedef struct bl_schema bl_schema;

/* Where the machine stands; copied by value.  Zero it to begin. */
typedef struct bl_schema_state {
    int32_t phase;       /* private from here on */
    int32_t prop, cand;  /* property; candidate literal */
    uint32_t pos;        /* bytes of the candidate, digits of a number's part */
    uint32_t count;      /* code points of the string */
    int64_t value;       /* of an integer so far */
    uint8_t negative, part, escape, need, low, high;
} bl_schema_state;

/* Reads type object with properties of type string (minLength, maxLength), integer (minimum, maximum),
 * number, boolean, null, arrays of these types, enum and const; required: what is not in it may be left
 * out (no such key: all are required).  title, description, default, examples, $schema, $id, $comment and
 * additionalProperties do not matter.  Anything else is UNSUPPORTED and named; a text that is no schema is
 * ARG; a vocabulary that cannot spell it UNSUPPORTED. */
bitlm_status bl_schema_compile(const char *text, size_t length, const bl_token_table *table, const bl_alloc *alloc,
                               bl_schema **schema, bitlm_error *error);
void bl_schema_free(bl_schema *schema);

/* Takes one byte: 1, or 0 if it cannot come here (the state is then worthless). */
int bl_schema_step(const bl_schema *schema, bl_schema_state *state, uint8_t byte);
/* The object is whole; nothing may follow. */
int bl_schema_done(const bl_schema_state *state);
/* Tokens that surely suffice to end the object from here; INT32_MAX if there is no way. */
int32_t bl_schema_cost(const bl_schema *schema, const bl_schema_state *state);

#endif
