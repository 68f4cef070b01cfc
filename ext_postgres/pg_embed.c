/* pg_embed.c - texts to codes.
 *
 *     bitlm_embed(text)                  bit(384), the built-in model; IMMUTABLE
 *     bitlm_embed(text, model, ...)      STABLE
 *     bitlm_embed_pinned(text, model_id) IMMUTABLE: the model is named by its content
 *     bitlm_embed_f32(text [, model])    real[], unit length; IMMUTABLE without a model
 *
 * A code is PostgreSQL's own bit(n): the first bit of the value is the first of the
 * string, which is the order of the core's bytes, so the bytes of bit_send behind its
 * length are those of SQLite's BLOB. */
#include "pg_adapter.h"

#include "utils/builtins.h"

VarBit *
blpg_bits(int n_bits)
{
	Size		bytes = VARBITTOTALLEN(n_bits);
	VarBit	   *result = palloc0(bytes);

	SET_VARSIZE(result, bytes);
	VARBITLEN(result) = n_bits;
	return result;
}

int
blpg_embedding_bits(blpg_call *call)
{
	bitlm_model_info info;

	blpg_describe(call, &info);
	if (!info.can_embed || info.embedding_bits <= 0)
		blpg_check(call, blpg_error(call, BITLM_UNSUPPORTED,
									"the model has no rule for pooling, so it cannot embed; the built-in 'embed' can"));
	return info.embedding_bits;
}

/* The second argument, if there is one, names a model, or is its id if pinned. */
static Datum
embed(FunctionCallInfo fcinfo, const char *name, int32_t format, bool pinned)
{
	static const blpg_option options[] = {{"model", 't'}, {"activations", 't'}};
	blpg_call	call;
	bitlm_text	value,
				id;
	int			bits;
	size_t		stride;
	void	   *out;
	volatile Datum result = (Datum) 0;

	if (PG_ARGISNULL(0) || (pinned && PG_ARGISNULL(1)))
		PG_RETURN_NULL();
	value = blpg_utf8_text(PG_GETARG_TEXT_PP(0));
	blpg_begin(&call, name, fcinfo, 1, options, pinned ? 0 : PG_NARGS() - 1);
	blpg_free_at_end(fcinfo->flinfo);
	PG_TRY();
	{
		if (pinned)
		{
			id = blpg_utf8_text(PG_GETARG_TEXT_PP(1));
			blpg_model_pinned(&call, id.data, id.length);
		}
		else
			blpg_model(&call, "embed");
		bits = blpg_embedding_bits(&call);
		blpg_borrow(&call);
		if (format == BITLM_EMBED_BITS)
		{
			VarBit	   *code = blpg_bits(bits);

			result = VarBitPGetDatum(code);
			out = VARBITS(code);
			stride = VARBITBYTES(code);
		}
		else
		{
			ArrayType  *array = blpg_reals(bits);

			result = PointerGetDatum(array);
			out = ARR_DATA_PTR(array);
			stride = (size_t) bits * sizeof(float4);
		}
		blpg_check(&call, bitlm_embed_batch(blpg_core(&call), &value, 1, format, &call.options, out, stride, NULL,
											&call.error));
	}
	PG_FINALLY();
	{
		blpg_end(&call);
	}
	PG_END_TRY();
	PG_RETURN_DATUM(result);
}

PG_FUNCTION_INFO_V1(blpg_embed);
PG_FUNCTION_INFO_V1(blpg_embed_model);
PG_FUNCTION_INFO_V1(blpg_embed_pinned);
PG_FUNCTION_INFO_V1(blpg_embed_f32);
PG_FUNCTION_INFO_V1(blpg_embed_f32_model);

Datum
blpg_embed(PG_FUNCTION_ARGS)
{
	return embed(fcinfo, "bitlm_embed", BITLM_EMBED_BITS, false);
}

Datum
blpg_embed_model(PG_FUNCTION_ARGS)
{
	return embed(fcinfo, "bitlm_embed", BITLM_EMBED_BITS, false);
}

Datum
blpg_embed_pinned(PG_FUNCTION_ARGS)
{
	return embed(fcinfo, "bitlm_embed_pinned", BITLM_EMBED_BITS, true);
}

Datum
blpg_embed_f32(PG_FUNCTION_ARGS)
{
	return embed(fcinfo, "bitlm_embed_f32", BITLM_EMBED_F32, false);
}

Datum
blpg_embed_f32_model(PG_FUNCTION_ARGS)
{
	return embed(fcinfo, "bitlm_embed_f32", BITLM_EMBED_F32, false);
}
