/* pg_main.c - what PostgreSQL looks for in bitlm.so, and the settings.
 *
 *     bitlm.model_dir      where model files live; empty: only the built-in models
 *     bitlm.default_model  which model bitlm_generate, bitlm_chat and bitlm_stream use
 *                          when none is named; empty: story
 *     bitlm.threads        threads of one call, always 1 in a parallel worker
 *     bitlm.max_tokens     tokens of an answer when a call does not say
 *     bitlm.worker_...     of automatic embedding: watch_worker.c
 *
 * No setting changes what bitlm_embed(text) returns: it is IMMUTABLE. */
#include "watch.h"

#include "utils/builtins.h"
#include "utils/guc.h"

PG_MODULE_MAGIC;

char	   *blpg_model_dir;
char	   *blpg_default_model;
int			blpg_threads;
int			blpg_max_tokens;

extern PGDLLEXPORT void _PG_init(void);

static bool
check_model_dir(char **value, void **extra, GucSource source)
{
	if (*value && **value && !is_absolute_path(*value))
	{
		GUC_check_errdetail("\"%s\" is not an absolute path.", *value);
		return false;
	}
	return true;
}

void
_PG_init(void)
{
	DefineCustomStringVariable("bitlm.model_dir",
							   "Directory of the model files that may be named.",
							   "A model NAME is the file NAME.gguf there.  Empty: only the built-in models.",
							   &blpg_model_dir, "", PGC_SUSET, 0, check_model_dir, NULL, NULL);
	DefineCustomStringVariable("bitlm.default_model",
							   "Model of bitlm_generate, bitlm_chat and bitlm_stream when none is named.",
							   "Empty: the built-in model story.",
							   &blpg_default_model, "", PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("bitlm.threads", "Threads of one call.",
							"Parallel workers always use one.",
							&blpg_threads, 1, 1, 256, PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("bitlm.max_tokens", "Tokens of an answer when a call does not say.", NULL,
							&blpg_max_tokens, 128, 0, INT_MAX, PGC_USERSET, 0, NULL, NULL, NULL);
	blpg_init_worker();
	blpg_reserve_prefix("bitlm");
	blpg_init_state();
	blpg_init_trigger();
	blpg_init_am();
}

PG_FUNCTION_INFO_V1(blpg_version);

Datum
blpg_version(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(bitlm_version()));
}
