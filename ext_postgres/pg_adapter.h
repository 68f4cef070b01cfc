/* pg_adapter.h - what the files of ext_postgres share: a call into the core.
 *
 * A function begins with blpg_begin (options), finds its model with blpg_model,
 * borrows a session with blpg_borrow, and ends with blpg_end, also after an error:
 * PG_TRY { ... } PG_FINALLY { blpg_end(&call); }, or a callback of a memory context
 * where the call outlives one entry (set-returning functions).  The core answers with
 * a status; blpg_check turns it into an ERROR outside of the core. */
#ifndef BLPG_ADAPTER_H
#define BLPG_ADAPTER_H

#include "pg_compat.h"

#include "bitlm.h"
#include "lib/stringinfo.h"
#include "nodes/pg_list.h"
#include "utils/array.h"

typedef struct blpg_session blpg_session;

typedef struct blpg_call
{
	const char *name;			/* of the SQL function, for messages */
	bitlm_options options;
	bitlm_error error;
	bitlm_model *model;			/* a reference of the call's, or NULL */
	blpg_session *session;		/* borrowed, or NULL */
} blpg_call;

/* ---- pg_main.c: settings ---- */
extern char *blpg_model_dir;
extern char *blpg_default_model;
extern int	blpg_threads;
extern int	blpg_max_tokens;

/* ---- pg_state.c: host, errors, sessions ---- */
extern void blpg_init_state(void);
extern void blpg_host(bitlm_host *host);	/* poll and log, memory by malloc */
extern void blpg_check(blpg_call *call, bitlm_status status);	/* ERROR unless OK or DONE */
extern bool blpg_forgiven(const blpg_call *call, bitlm_status status);	/* on_error => 'null' */
extern bitlm_status blpg_error(blpg_call *call, bitlm_status status, const char *format,...) pg_attribute_printf(3, 4);
extern void blpg_borrow(blpg_call *call);	/* sets call->session; ERROR */
extern bitlm_session *blpg_core(const blpg_call *call);
extern void blpg_end(blpg_call *call);
/* Large idle sessions are freed when the statement of this call ends. */
extern void blpg_free_at_end(FmgrInfo *flinfo);
/* The same for a set-returning function, whose fn_extra is taken. */
extern void blpg_free_rows_at_end(FmgrInfo *flinfo);

/* ---- pg_options.c ---- */
typedef struct blpg_option
{
	const char *name;			/* as in bitlm.h */
	char		kind;			/* 'i'nteger, 'l' bigint, 'f' double precision, 'b'oolean, 't'ext, 'a' text[], 'j'sonb */
} blpg_option;

extern const blpg_option blpg_generate_options[];
extern const int blpg_n_generate_options;
extern const int blpg_n_chat_options;
/* Options from the arguments first, first+1, ... as the table names them; NULL leaves
 * the default.  ERROR for what the core refuses. */
extern void blpg_begin(blpg_call *call, const char *name, FunctionCallInfo fcinfo, int first,
					   const blpg_option *options, int n_options);
/* The same outside of an SQL call: options that are texts; a value that is NULL is left out. */
extern void blpg_begin_texts(blpg_call *call, const char *name, const char *const *options, text *const *values, int n);

/* ---- pg_models.c ---- */
/* The model of options.model, else `fallback`; sets call->model. */
extern void blpg_model(blpg_call *call, const char *fallback);
/* The model of bitlm_generate and its like where a call names none. */
extern const char *blpg_generator(void);
extern void blpg_model_pinned(blpg_call *call, const char *hex, size_t length);
extern void blpg_describe(blpg_call *call, bitlm_model_info *info);
extern char *blpg_model_id_hex(blpg_call *call);	/* 32 digits, palloc */
/* The id of the built-in `embed`, kept for the life of the backend. */
extern const uint8_t *blpg_builtin_id(void);

/* ---- pg_text.c: texts in the server's encoding to UTF-8 and back ---- */
extern bitlm_text blpg_utf8(const char *data, int length);
extern bitlm_text blpg_utf8_text(const text *value);
extern text *blpg_server_text(const char *data, size_t length);

/* ---- pg_embed.c ---- */
extern VarBit *blpg_bits(int n_bits);	/* zeroed */
/* Bits of a code of this call's model, after a check that it embeds. */
extern int	blpg_embedding_bits(blpg_call *call);

/* ---- pg_vectors.c ---- */
extern ArrayType *blpg_reals(int n);	/* real[] of n zeros */

/* ---- pg_codes.c ---- */
extern void blpg_same_length(const VarBit *a, const VarBit *b, const char *what);


/* ---- am_handler.c ---- */
extern void blpg_init_am(void);

#endif
