/* pg_text.c - the scalar functions over text.
 *
 *     bitlm_generate(prompt, ...)         the continuation
 *     bitlm_chat(messages jsonb, ...)     the answer to [{"role": …, "content": …}, …]
 *     bitlm_classify(text, labels)       how probable each label is, jsonb
 *     bitlm_tokenize(text, model)         integer[], bitlm_detokenize the way back
 *     bitlm_token_count(text, model)
 *
 * Arguments that are NULL take their default, but a NULL text gives NULL.  The core
 * speaks UTF-8: in a database of another encoding texts are converted on the way in and
 * out.  A character U+0000, which PostgreSQL's text cannot hold, becomes U+FFFD. */
#include "pg_adapter.h"

#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

/* ---- encodings ---- */

bitlm_text
blpg_utf8(const char *data, int length)
{
	bitlm_text	result = {data, (size_t) length};
	char	   *converted = pg_server_to_any(data, length, PG_UTF8);

	if (converted != data)
	{
		result.data = converted;
		result.length = strlen(converted);
	}
	return result;
}

bitlm_text
blpg_utf8_text(const text *value)
{
	return blpg_utf8(VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value));
}

text *
blpg_server_text(const char *data, size_t length)
{
	const char *zero;
	StringInfoData fixed;
	char	   *converted;

	if (length > 0 && memchr(data, 0, length))
	{
		initStringInfo(&fixed);
		while ((zero = memchr(data, 0, length)) != NULL)
		{
			appendBinaryStringInfo(&fixed, data, (int) (zero - data));
			appendBinaryStringInfo(&fixed, "\357\277\275", 3);
			length -= (size_t) (zero - data) + 1;
			data = zero + 1;
		}
		appendBinaryStringInfo(&fixed, data, (int) length);
		data = fixed.data;
		length = (size_t) fixed.len;
	}
	if (length == 0)
		return cstring_to_text("");
	converted = pg_any_to_server(data, (int) length, PG_UTF8);
	if (converted != data)
		return cstring_to_text(converted);
	return cstring_to_text_with_len(data, (int) length);
}

/* ---- generate and chat ---- */

static bitlm_status
generate_into(blpg_call *call, const bitlm_text *prompt, uint32_t flags, StringInfo out)
{
	bitlm_piece piece = {.size = sizeof piece};
	bitlm_status status = bitlm_generate_start(blpg_core(call), prompt, 1, flags, &call->options, &call->error);

	while (status == BITLM_OK)
	{
		status = bitlm_generate_next(blpg_core(call), &piece, &call->error);
		if (status == BITLM_OK && piece.text_length > 0)
			appendBinaryStringInfo(out, piece.text, (int) piece.text_length);
	}
	return status == BITLM_DONE ? BITLM_OK : status;
}

static Datum
generate(FunctionCallInfo fcinfo, const char *name, bitlm_text prompt, uint32_t flags)
{
	blpg_call	call;
	bitlm_model_info info;
	StringInfoData out;
	volatile bitlm_status status = BITLM_OK;
	volatile bool forgiven = false;

	blpg_begin(&call, name, fcinfo, 1, blpg_generate_options,
			   flags & BITLM_GENERATE_CHAT ? blpg_n_chat_options : blpg_n_generate_options);
	blpg_free_at_end(fcinfo->flinfo);
	initStringInfo(&out);
	PG_TRY();
	{
		blpg_model(&call, blpg_generator());
		if (flags & BITLM_GENERATE_CHAT)
		{
			blpg_describe(&call, &info);
			if (!info.can_chat && !call.options.chat_template)
				blpg_check(&call, blpg_error(&call, BITLM_UNSUPPORTED,
											 "the model has no chat template that bitlm renders; name a model that has, "
											 "choose one by chat_template, or use bitlm_generate"));
		}
		blpg_borrow(&call);
		status = generate_into(&call, &prompt, flags, &out);
		forgiven = blpg_forgiven(&call, status);
		if (!forgiven)
			blpg_check(&call, status);
	}
	PG_FINALLY();
	{
		blpg_end(&call);
	}
	PG_END_TRY();
	if (forgiven)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(blpg_server_text(out.data, (size_t) out.len));
}

PG_FUNCTION_INFO_V1(blpg_generate);

Datum
blpg_generate(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	return generate(fcinfo, "bitlm_generate", blpg_utf8_text(PG_GETARG_TEXT_PP(0)), 0);
}

PG_FUNCTION_INFO_V1(blpg_chat);

Datum
blpg_chat(PG_FUNCTION_ARGS)
{
	Jsonb	   *messages;
	char	   *json;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	messages = PG_GETARG_JSONB_P(0);
	json = JsonbToCString(NULL, &messages->root, VARSIZE(messages));
	return generate(fcinfo, "bitlm_chat", blpg_utf8(json, (int) strlen(json)), BITLM_GENERATE_CHAT);
}

/* ---- classify ---- */

PG_FUNCTION_INFO_V1(blpg_classify);

Datum
blpg_classify(PG_FUNCTION_ARGS)
{
	static const blpg_option options[] = {{"choices", 'a'}, {"model", 't'}, {"n_ctx", 'i'}, {"threads", 'i'},
	{"timeout_ms", 'i'}, {"truncate", 't'}, {"activations", 't'}};
	blpg_call	call;
	bitlm_text	value;
	double	   *probabilities;
	char	   *json;
	size_t		length = 0;
	bitlm_status status;
	volatile Datum result = (Datum) 0;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		PG_RETURN_NULL();
	value = blpg_utf8_text(PG_GETARG_TEXT_PP(0));
	blpg_begin(&call, "bitlm_classify", fcinfo, 1, options, lengthof(options));
	blpg_free_at_end(fcinfo->flinfo);
	PG_TRY();
	{
		blpg_model(&call, "embed");
		blpg_borrow(&call);
		probabilities = palloc((call.options.n_choices + 1) * sizeof(double));
		blpg_check(&call, bitlm_classify(blpg_core(&call), value.data, value.length, &call.options, probabilities,
										 &call.error));
		status = bitlm_classification_json(&call.options, probabilities, NULL, 0, &length, &call.error);
		if (status != BITLM_LIMIT || length == 0)
			blpg_check(&call, status);
		json = palloc(length + 1);
		blpg_check(&call, bitlm_classification_json(&call.options, probabilities, json, length, &length, &call.error));
		json[length] = 0;
		result = DirectFunctionCall1(jsonb_in, CStringGetDatum(pg_any_to_server(json, (int) length, PG_UTF8)));
	}
	PG_FINALLY();
	{
		blpg_end(&call);
	}
	PG_END_TRY();
	PG_RETURN_DATUM(result);
}

/* ---- tokens ---- */

static const blpg_option model_option[] = {{"model", 't'}};

/* capacity 0 only counts. */
static bitlm_status
tokenize(blpg_call *call, bitlm_text text, int32_t *ids, size_t capacity, size_t *n_ids)
{
	bitlm_host	host;
	bitlm_status status;

	blpg_host(&host);
	*n_ids = 0;
	status = bitlm_tokenize(call->model, text.data, text.length, 0, &host, ids, capacity, n_ids, &call->error);
	if (status == BITLM_LIMIT && *n_ids > capacity)
		return BITLM_OK;
	return status;
}

PG_FUNCTION_INFO_V1(blpg_token_count);

Datum
blpg_token_count(PG_FUNCTION_ARGS)
{
	blpg_call	call;
	size_t		n = 0;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	blpg_begin(&call, "bitlm_token_count", fcinfo, 1, model_option, 1);
	PG_TRY();
	{
		blpg_model(&call, blpg_generator());
		blpg_check(&call, tokenize(&call, blpg_utf8_text(PG_GETARG_TEXT_PP(0)), NULL, 0, &n));
	}
	PG_FINALLY();
	{
		blpg_end(&call);
	}
	PG_END_TRY();
	PG_RETURN_INT32((int32) n);
}

PG_FUNCTION_INFO_V1(blpg_tokenize);

Datum
blpg_tokenize(PG_FUNCTION_ARGS)
{
	blpg_call	call;
	bitlm_text	value;
	size_t		n = 0,
				capacity;
	Size		bytes;
	ArrayType  *volatile result = NULL;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	value = blpg_utf8_text(PG_GETARG_TEXT_PP(0));
	blpg_begin(&call, "bitlm_tokenize", fcinfo, 1, model_option, 1);
	PG_TRY();
	{
		blpg_model(&call, blpg_generator());
		blpg_check(&call, tokenize(&call, value, NULL, 0, &n));
		capacity = n;
		if (capacity > (MaxAllocSize - ARR_OVERHEAD_NONULLS(1)) / sizeof(int32))
			blpg_check(&call, blpg_error(&call, BITLM_LIMIT, "the text has %zu tokens, too many for an array", n));
		if (n == 0)
			result = construct_empty_array(INT4OID);
		else
		{
			bytes = ARR_OVERHEAD_NONULLS(1) + capacity * sizeof(int32);
			result = palloc0(bytes);
			SET_VARSIZE(result, bytes);
			result->ndim = 1;
			result->elemtype = INT4OID;
			ARR_DIMS(result)[0] = (int) capacity;
			ARR_LBOUND(result)[0] = 1;
			blpg_check(&call, tokenize(&call, value, (int32_t *) ARR_DATA_PTR(result), capacity, &n));
		}
	}
	PG_FINALLY();
	{
		blpg_end(&call);
	}
	PG_END_TRY();
	PG_RETURN_ARRAYTYPE_P(result);
}

PG_FUNCTION_INFO_V1(blpg_detokenize);

Datum
blpg_detokenize(PG_FUNCTION_ARGS)
{
	blpg_call	call;
	ArrayType  *array;
	int			n;
	size_t		length = 0,
				capacity;
	char	   *out;
	text	   *volatile result = NULL;
	bitlm_status status;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	array = PG_GETARG_ARRAYTYPE_P(0);
	if (array_contains_nulls(array))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("bitlm_detokenize: a token's id is null")));
	n = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
	blpg_begin(&call, "bitlm_detokenize", fcinfo, 1, model_option, 1);
	PG_TRY();
	{
		blpg_model(&call, blpg_generator());
		capacity = (size_t) n * 4 + 64;
		for (;;)
		{
			out = palloc(capacity);
			status = bitlm_detokenize(call.model, (int32_t *) ARR_DATA_PTR(array), (size_t) n, 0, out, capacity,
									  &length, &call.error);
			if (status != BITLM_LIMIT || length <= capacity)
				break;
			capacity = length;
			pfree(out);
		}
		blpg_check(&call, status);
		result = blpg_server_text(out, length);
	}
	PG_FINALLY();
	{
		blpg_end(&call);
	}
	PG_END_TRY();
	PG_RETURN_TEXT_P(result);
}
