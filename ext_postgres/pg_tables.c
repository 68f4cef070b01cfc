/* pg_tables.c - functions that return rows.
 *
 *     bitlm_stream(prompt, ...)            (n, token, piece, logprob), a row per token
 *     bitlm_generate_each(text[], ...)     (idx, text), decoded together
 *     bitlm_chunk(text, size, overlap)     (seq, chunk, start, length)
 *     bitlm_embed_each(text[] [, model])   (idx, code), embedded together
 *
 * They give a row for each call, so SELECT bitlm_stream(…) LIMIT 5 in the select list
 * computes five tokens; in FROM the server keeps all rows before the first is seen.
 * What a running call holds is released by a callback of its memory context, whether it
 * ran to its end or not. */
#include "pg_adapter.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "utils/builtins.h"

#define EACH_BATCH 64			/* texts embedded in one pass */

static void
end_callback(void *argument)
{
	blpg_end(argument);
}

/* Everything a set-returning function keeps begins with its call. */
static void *
first_call(FuncCallContext *context, FunctionCallInfo fcinfo, Size size)
{
	MemoryContext memory = context->multi_call_memory_ctx;
	MemoryContextCallback *callback;
	TupleDesc	desc;
	void	   *state;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "bitlm: the function does not return a row");
	context->tuple_desc = BlessTupleDesc(CreateTupleDescCopy(desc));
	state = MemoryContextAllocZero(memory, size);
	callback = MemoryContextAllocZero(memory, sizeof *callback);
	callback->func = end_callback;
	callback->arg = state;
	MemoryContextRegisterResetCallback(memory, callback);
	blpg_free_rows_at_end(fcinfo->flinfo);
	context->user_fctx = state;
	return state;
}

static Datum
row(FuncCallContext *context, Datum *values, bool *nulls)
{
	return HeapTupleGetDatum(heap_form_tuple(context->tuple_desc, values, nulls));
}

static bitlm_text
keep_text(bitlm_text text)
{
	char	   *copy = palloc(text.length + 1);

	if (text.length > 0)
		memcpy(copy, text.data, text.length);
	text.data = copy;
	return text;
}

/* ---- bitlm_stream ---- */

typedef struct stream_state
{
	blpg_call	call;
	int32		n;
	bool		ended;
} stream_state;

static void
stream_begin(FuncCallContext *context, FunctionCallInfo fcinfo)
{
	MemoryContext old = MemoryContextSwitchTo(context->multi_call_memory_ctx);
	stream_state *state = first_call(context, fcinfo, sizeof *state);
	blpg_call  *call = &state->call;
	bitlm_text	prompt;
	bitlm_status status;

	call->error.size = sizeof call->error;
	state->ended = PG_ARGISNULL(0);
	if (!state->ended)
	{
		blpg_begin(call, "bitlm_stream", fcinfo, 1, blpg_generate_options, blpg_n_generate_options);
		call->options.logprobs = 1;
		blpg_model(call, blpg_generator());
		blpg_borrow(call);
		prompt = keep_text(blpg_utf8_text(PG_GETARG_TEXT_PP(0)));
		status = bitlm_generate_start(blpg_core(call), &prompt, 1, 0, &call->options, &call->error);
		state->ended = blpg_forgiven(call, status);
		if (!state->ended)
			blpg_check(call, status);
	}
	MemoryContextSwitchTo(old);
}

PG_FUNCTION_INFO_V1(blpg_stream);

Datum
blpg_stream(PG_FUNCTION_ARGS)
{
	FuncCallContext *context;
	stream_state *state;
	bitlm_piece piece = {.size = sizeof piece};
	bitlm_status status;
	Datum		values[4];
	bool		nulls[4] = {false};

	if (SRF_IS_FIRSTCALL())
		stream_begin(SRF_FIRSTCALL_INIT(), fcinfo);
	context = SRF_PERCALL_SETUP();
	state = context->user_fctx;
	if (state->ended)
		SRF_RETURN_DONE(context);
	do							/* a last piece without token and text is no row */
		status = bitlm_generate_next(blpg_core(&state->call), &piece, &state->call.error);
	while (status == BITLM_OK && piece.token < 0 && piece.text_length == 0);
	if (status == BITLM_DONE || blpg_forgiven(&state->call, status))
		SRF_RETURN_DONE(context);
	blpg_check(&state->call, status);
	values[0] = Int32GetDatum(++state->n);
	values[1] = Int32GetDatum(piece.token);
	values[2] = PointerGetDatum(blpg_server_text(piece.text, piece.text_length));
	values[3] = Float4GetDatum(piece.logprob);
	nulls[1] = piece.token < 0;
	nulls[3] = piece.token < 0 || isnan(piece.logprob);
	SRF_RETURN_NEXT(context, row(context, values, nulls));
}

/* ---- bitlm_generate_each ---- */

typedef struct rows_state
{
	blpg_call	call;
	Datum	   *values;			/* (n) texts; NULL where there is none */
	bool	   *nulls;
	int			n;
} rows_state;

/* The prompts step together, so all answers are made at the first call. */
static void
rows_begin(FuncCallContext *context, FunctionCallInfo fcinfo)
{
	MemoryContext old = MemoryContextSwitchTo(context->multi_call_memory_ctx);
	rows_state *state = first_call(context, fcinfo, sizeof *state);
	blpg_call  *call = &state->call;
	bitlm_piece piece = {.size = sizeof piece};
	bitlm_text *prompts;
	StringInfo	answers;
	int		   *which;
	int			n = 0;
	bitlm_status status;

	call->error.size = sizeof call->error;
	if (!PG_ARGISNULL(0))
	{
		blpg_begin(call, "bitlm_generate_each", fcinfo, 1, blpg_generate_options, blpg_n_generate_options);
		if (call->options.rows == 0)
			call->options.rows = 16;
		deconstruct_array(PG_GETARG_ARRAYTYPE_P_COPY(0), TEXTOID, -1, false, TYPALIGN_INT, &state->values,
						  &state->nulls, &state->n);
		prompts = palloc((state->n + 1) * sizeof *prompts);
		answers = palloc((state->n + 1) * sizeof *answers);
		which = palloc((state->n + 1) * sizeof *which);
		for (int i = 0; i < state->n; i++)
		{
			if (state->nulls[i])
				continue;
			prompts[n] = blpg_utf8_text(DatumGetTextPP(state->values[i]));
			initStringInfo(&answers[n]);
			which[n++] = i;
		}
		blpg_model(call, blpg_generator());
		blpg_borrow(call);
		status = n > 0 ? bitlm_generate_start(blpg_core(call), prompts, (size_t) n, 0, &call->options, &call->error)
			: BITLM_DONE;
		while (status == BITLM_OK)
		{
			status = bitlm_generate_next(blpg_core(call), &piece, &call->error);
			if (status == BITLM_OK && piece.text_length > 0)
				appendBinaryStringInfo(&answers[piece.row], piece.text, (int) piece.text_length);
		}
		blpg_check(call, status);
		for (int i = 0; i < n; i++)
			state->values[which[i]] = PointerGetDatum(blpg_server_text(answers[i].data, (size_t) answers[i].len));
		blpg_end(call);
	}
	MemoryContextSwitchTo(old);
}

PG_FUNCTION_INFO_V1(blpg_generate_each);

Datum
blpg_generate_each(PG_FUNCTION_ARGS)
{
	FuncCallContext *context;
	rows_state *state;
	Datum		values[2];
	bool		nulls[2] = {false};

	if (SRF_IS_FIRSTCALL())
		rows_begin(SRF_FIRSTCALL_INIT(), fcinfo);
	context = SRF_PERCALL_SETUP();
	state = context->user_fctx;
	if (context->call_cntr >= (uint64) state->n)
		SRF_RETURN_DONE(context);
	values[0] = Int32GetDatum((int32) context->call_cntr + 1);
	values[1] = state->values[context->call_cntr];
	nulls[1] = state->nulls[context->call_cntr];
	SRF_RETURN_NEXT(context, row(context, values, nulls));
}

/* ---- bitlm_chunk ---- */

typedef struct chunk_state
{
	blpg_call	call;
	bitlm_text	text;
	bitlm_chunk *chunks;
	size_t		n_chunks;
} chunk_state;

static void
chunk_begin(FuncCallContext *context, FunctionCallInfo fcinfo)
{
	static const blpg_option options[] = {{"model", 't'}};
	MemoryContext old = MemoryContextSwitchTo(context->multi_call_memory_ctx);
	chunk_state *state = first_call(context, fcinfo, sizeof *state);
	blpg_call  *call = &state->call;
	size_t		capacity = 16;
	bitlm_host	host;
	bitlm_status status;

	call->error.size = sizeof call->error;
	if (!PG_ARGISNULL(0) && !PG_ARGISNULL(1) && !PG_ARGISNULL(2))
	{
		blpg_begin(call, "bitlm_chunk", fcinfo, 3, options, 1);
		if (PG_GETARG_INT32(1) < 1 || PG_GETARG_INT32(2) < 0)
			blpg_check(call, blpg_error(call, BITLM_ARG,
										"size is %d and overlap %d, but size must be 1 or more and overlap 0 to size-1",
										PG_GETARG_INT32(1), PG_GETARG_INT32(2)));
		blpg_model(call, "embed");
		state->text = keep_text(blpg_utf8_text(PG_GETARG_TEXT_PP(0)));
		blpg_host(&host);
		for (;;)
		{
			state->chunks = MemoryContextAllocHuge(CurrentMemoryContext, capacity * sizeof(bitlm_chunk));
			state->n_chunks = 0;
			status = bitlm_chunks(call->model, state->text.data, state->text.length, (size_t) PG_GETARG_INT32(1),
								  (size_t) PG_GETARG_INT32(2), &host, state->chunks, capacity, &state->n_chunks,
								  &call->error);
			if (status != BITLM_LIMIT || state->n_chunks <= capacity)
				break;
			capacity = state->n_chunks;
			pfree(state->chunks);
		}
		blpg_check(call, status);
	}
	MemoryContextSwitchTo(old);
}

PG_FUNCTION_INFO_V1(blpg_chunk);

Datum
blpg_chunk(PG_FUNCTION_ARGS)
{
	FuncCallContext *context;
	chunk_state *state;
	const bitlm_chunk *chunk;
	Datum		values[4];
	bool		nulls[4] = {false};

	if (SRF_IS_FIRSTCALL())
		chunk_begin(SRF_FIRSTCALL_INIT(), fcinfo);
	context = SRF_PERCALL_SETUP();
	state = context->user_fctx;
	if (context->call_cntr >= state->n_chunks)
		SRF_RETURN_DONE(context);
	chunk = &state->chunks[context->call_cntr];
	values[0] = Int32GetDatum((int32) context->call_cntr + 1);
	values[1] = PointerGetDatum(blpg_server_text(state->text.data + chunk->byte_start, chunk->byte_length));
	values[2] = Int32GetDatum((int32) chunk->char_start + 1);
	values[3] = Int32GetDatum((int32) chunk->char_length);
	SRF_RETURN_NEXT(context, row(context, values, nulls));
}

/* ---- bitlm_embed_each ---- */

typedef struct each_state
{
	blpg_call	call;
	Datum	   *texts;
	bool	   *nulls;
	int			n;
	int			bits;
	int			batch_start,
				batch_n;		/* texts whose codes are in `codes` */
	uint8_t    *codes;			/* (EACH_BATCH, bytes of a code) */
} each_state;

static void
each_begin(FuncCallContext *context, FunctionCallInfo fcinfo)
{
	static const blpg_option options[] = {{"model", 't'}, {"activations", 't'}};
	MemoryContext old = MemoryContextSwitchTo(context->multi_call_memory_ctx);
	each_state *state = first_call(context, fcinfo, sizeof *state);
	blpg_call  *call = &state->call;

	call->error.size = sizeof call->error;
	if (!PG_ARGISNULL(0))
	{
		blpg_begin(call, "bitlm_embed_each", fcinfo, 1, options, lengthof(options));
		blpg_model(call, "embed");
		state->bits = blpg_embedding_bits(call);
		blpg_borrow(call);
		deconstruct_array(PG_GETARG_ARRAYTYPE_P_COPY(0), TEXTOID, -1, false, TYPALIGN_INT, &state->texts,
						  &state->nulls, &state->n);
		state->codes = palloc((Size) EACH_BATCH * ((state->bits + 7) / 8));
	}
	MemoryContextSwitchTo(old);
}

static void
each_batch(each_state *state, int start)
{
	bitlm_text	texts[EACH_BATCH];
	int			n = Min(EACH_BATCH, state->n - start);
	bitlm_text	none = {NULL, 0};

	for (int i = 0; i < n; i++)
		texts[i] = state->nulls[start + i] ? none : blpg_utf8_text(DatumGetTextPP(state->texts[start + i]));
	blpg_check(&state->call, bitlm_embed_batch(blpg_core(&state->call), texts, (size_t) n, BITLM_EMBED_BITS,
											   &state->call.options, state->codes, (state->bits + 7) / 8, NULL,
											   &state->call.error));
	state->batch_start = start;
	state->batch_n = n;
}

PG_FUNCTION_INFO_V1(blpg_embed_each);

Datum
blpg_embed_each(PG_FUNCTION_ARGS)
{
	FuncCallContext *context;
	each_state *state;
	VarBit	   *code;
	int			i;
	Datum		values[2] = {0};
	bool		nulls[2] = {false};

	if (SRF_IS_FIRSTCALL())
		each_begin(SRF_FIRSTCALL_INIT(), fcinfo);
	context = SRF_PERCALL_SETUP();
	state = context->user_fctx;
	i = (int) context->call_cntr;
	if (i >= state->n)
		SRF_RETURN_DONE(context);
	if (i >= state->batch_start + state->batch_n)
		each_batch(state, i);
	values[0] = Int32GetDatum(i + 1);
	nulls[1] = state->nulls[i];
	if (!nulls[1])
	{
		code = blpg_bits(state->bits);
		memcpy(VARBITS(code), state->codes + (Size) (i - state->batch_start) * VARBITBYTES(code), VARBITBYTES(code));
		values[1] = VarBitPGetDatum(code);
	}
	SRF_RETURN_NEXT(context, row(context, values, nulls));
}
