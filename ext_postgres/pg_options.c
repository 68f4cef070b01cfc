/* pg_options.c - named arguments of SQL functions to options of the core.
 *
 * The core has one table of options with names, defaults and ranges and reads it from
 * JSON; so the arguments that are not NULL become a JSON object, and a name or a range
 * is never written down a second time.  The functions are not STRICT for that reason:
 * NULL says "the default". */
#include "pg_adapter.h"

#include <math.h>

#include "access/parallel.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/jsonb.h"

/* In the order of the SQL functions' arguments. */
const blpg_option blpg_generate_options[] = {
	{"max_tokens", 'i'},
	{"temperature", 'f'},
	{"top_p", 'f'},
	{"top_k", 'i'},
	{"min_p", 'f'},
	{"repeat_penalty", 'f'},
	{"seed", 'l'},
	{"stop", 'a'},
	{"choices", 'a'},
	{"json_schema", 'j'},
	{"model", 't'},
	{"ignore_eos", 'b'},
	{"n_ctx", 'i'},
	{"kv_type", 't'},
	{"threads", 'i'},
	{"timeout_ms", 'i'},
	{"truncate", 't'},
	{"on_error", 't'},
	{"rows", 'i'},
	{"lookup", 'i'},
	{"activations", 't'},
	{"chat_template", 't'},		/* bitlm_chat alone has it */
};
const int	blpg_n_chat_options = lengthof(blpg_generate_options);
const int	blpg_n_generate_options = lengthof(blpg_generate_options) - 1;

static void
add_string(StringInfo json, const text *value)
{
	bitlm_text	utf8 = blpg_utf8_text(value);

	escape_json(json, pnstrdup(utf8.data, utf8.length));
}

static void
add_array(StringInfo json, ArrayType *array, const char *function, const char *name)
{
	Datum	   *values;
	bool	   *nulls;
	int			n;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &values, &nulls, &n);
	appendStringInfoChar(json, '[');
	for (int i = 0; i < n; i++)
	{
		if (nulls[i])
			ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
							errmsg("%s: element %d of %s is null", function, i + 1, name)));
		if (i > 0)
			appendStringInfoChar(json, ',');
		add_string(json, DatumGetTextPP(values[i]));
	}
	appendStringInfoChar(json, ']');
}

static void
add_option(StringInfo json, const blpg_option *option, Datum value, const char *function)
{
	double		number;
	Jsonb	   *schema;

	appendStringInfo(json, "%c\"%s\":", json->len == 0 ? '{' : ',', option->name);
	switch (option->kind)
	{
		case 'i':
			appendStringInfo(json, "%d", DatumGetInt32(value));
			break;
		case 'l':
			appendStringInfo(json, INT64_FORMAT, DatumGetInt64(value));
			break;
		case 'f':
			number = DatumGetFloat8(value);
			if (!isfinite(number))
				ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
								errmsg("%s: option %s is %s, but must be a number", function, option->name,
									   isnan(number) ? "NaN" : "infinite")));
			appendStringInfo(json, "%.17g", number);
			break;
		case 'b':
			appendStringInfoString(json, DatumGetBool(value) ? "true" : "false");
			break;
		case 'j':
			schema = DatumGetJsonbP(value);
			JsonbToCString(json, &schema->root, VARSIZE(schema));
			break;
		case 't':
			add_string(json, DatumGetTextPP(value));
			break;
		default:
			add_array(json, DatumGetArrayTypeP(value), function, option->name);
			break;
	}
}

void
blpg_begin_texts(blpg_call *call, const char *name, const char *const *options, text *const *values, int n)
{
	StringInfoData json;
	bitlm_status status;

	memset(call, 0, sizeof *call);
	call->name = name;
	call->error.size = sizeof call->error;
	bitlm_options_init(&call->options);
	initStringInfo(&json);
	for (int i = 0; i < n; i++)
	{
		blpg_option option = {options[i], 't'};

		if (values[i])
			add_option(&json, &option, PointerGetDatum(values[i]), name);
	}
	if (json.len > 0)
	{
		appendStringInfoChar(&json, '}');
		status = bitlm_options_json(&call->options, json.data, json.len, &call->error);
		if (status != BITLM_OK)
			blpg_check(call, status);
	}
	pfree(json.data);
	call->options.threads = blpg_threads;
}

void
blpg_begin(blpg_call *call, const char *name, FunctionCallInfo fcinfo, int first,
		   const blpg_option *options, int n_options)
{
	StringInfoData json = {0};
	bitlm_status status;

	memset(call, 0, sizeof *call);
	call->name = name;
	call->error.size = sizeof call->error;
	bitlm_options_init(&call->options);
	call->options.max_tokens = blpg_max_tokens;
	for (int i = 0; i < n_options; i++)
	{
		if (PG_ARGISNULL(first + i))
			continue;
		if (!json.data)
			initStringInfo(&json);
		add_option(&json, &options[i], PG_GETARG_DATUM(first + i), name);
	}
	if (json.data)
	{
		appendStringInfoChar(&json, '}');
		status = bitlm_options_json(&call->options, json.data, json.len, &call->error);
		pfree(json.data);
		if (status != BITLM_OK)
			blpg_check(call, status);
	}
	if (call->options.threads == 0)
		call->options.threads = blpg_threads;
	if (IsParallelWorker())
		call->options.threads = 1;
}
