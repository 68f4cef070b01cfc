/* pg_vectors.c - vectors of numbers: quantized, to bits, compared.
 *
 *     bitlm_quantize(vector, scheme, ...)        bytea that knows its scheme, length and scales
 *     bitlm_dequantize(bytea)                    back to real[]
 *     bitlm_quantize_error(vector, scheme, ...)  jsonb: what a scheme loses, and what it costs
 *     bitlm_binarize(real[], threshold)          bit(n): bit i is value i > threshold
 *     bitlm_cosine(real[], real[])
 *
 * A vector is a real[], or the bytes of float32 in little-endian order as SQLite's functions
 * take them; the quantized bytes are SQLite's (schemes and formulas: bitlm.h, "quantized
 * vectors").  Nothing here depends on a setting, so all are IMMUTABLE. */
#include "pg_adapter.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

ArrayType *
blpg_reals(int n)
{
	Size		bytes = ARR_OVERHEAD_NONULLS(1) + (Size) n * sizeof(float4);
	ArrayType  *array = palloc0(bytes);

	SET_VARSIZE(array, bytes);
	array->ndim = 1;
	array->elemtype = FLOAT4OID;
	ARR_DIMS(array)[0] = n;
	ARR_LBOUND(array)[0] = 1;
	return array;
}

/* The values of a real[] of one dimension without NULLs. */
static const float4 *
values_of(ArrayType *array, const char *function, int *n)
{
	if (ARR_NDIM(array) > 1)
		ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
						errmsg("%s: an array of %d dimensions is not a vector", function, ARR_NDIM(array))));
	if (array_contains_nulls(array))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("%s: a value of the vector is null", function)));
	*n = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
	return (const float4 *) ARR_DATA_PTR(array);
}

PG_FUNCTION_INFO_V1(blpg_binarize);

Datum
blpg_binarize(PG_FUNCTION_ARGS)
{
	float4		threshold = PG_GETARG_FLOAT4(1);
	const float4 *values;
	VarBit	   *code;
	int			n;

	values = values_of(PG_GETARG_ARRAYTYPE_P(0), "bitlm_binarize", &n);
	code = blpg_bits(n);
	bitlm_binarize(values, (size_t) n, threshold, VARBITS(code));
	PG_RETURN_VARBIT_P(code);
}

PG_FUNCTION_INFO_V1(blpg_cosine);

Datum
blpg_cosine(PG_FUNCTION_ARGS)
{
	const float4 *a,
			   *b;
	int			n,
				m;

	a = values_of(PG_GETARG_ARRAYTYPE_P(0), "bitlm_cosine", &n);
	b = values_of(PG_GETARG_ARRAYTYPE_P(1), "bitlm_cosine", &m);
	if (n != m)
		ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
						errmsg("bitlm_cosine: the vectors have %d and %d values, but must have the same number", n, m)));
	PG_RETURN_FLOAT8(bitlm_cosine(a, b, (size_t) n));
}

/* ---- quantized vectors ---- */

/* In the order of the SQL functions' arguments, behind the vector and the scheme. */
static const blpg_option quantize_options[] = {{"group", 'i'}, {"threshold", 'f'}, {"rounding", 't'}, {"seed", 'l'},
{"on_error", 't'}, {"hadamard", 'i'}};

typedef struct quantized
{
	const float4 *values;		/* (n) */
	size_t		n;
	bytea	   *data;
} quantized;

/* The first argument: real[] or the bytes of float32. */
static bitlm_status
take_vector(blpg_call *call, FunctionCallInfo fcinfo, bool packed, quantized *q)
{
	bytea	   *bytes;
	float4	   *copy;
	int			n;

	if (!packed)
	{
		q->values = values_of(PG_GETARG_ARRAYTYPE_P(0), call->name, &n);
		q->n = (size_t) n;
		return BITLM_OK;
	}
	bytes = PG_GETARG_BYTEA_PP(0);
	if (VARSIZE_ANY_EXHDR(bytes) % sizeof(float4) != 0)
		return blpg_error(call, BITLM_ARG, "the vector has %d bytes, but float32 values take 4 each",
						  (int) VARSIZE_ANY_EXHDR(bytes));
	q->n = VARSIZE_ANY_EXHDR(bytes) / sizeof(float4);
	copy = palloc(q->n * sizeof(float4) + 1);	/* aligned */
	memcpy(copy, VARDATA_ANY(bytes), q->n * sizeof(float4));
	q->values = copy;
	return BITLM_OK;
}

static bitlm_status
quantize(blpg_call *call, FunctionCallInfo fcinfo, bool packed, quantized *q)
{
	bitlm_text	scheme = blpg_utf8_text(PG_GETARG_TEXT_PP(1));
	size_t		bytes;
	bitlm_status status = take_vector(call, fcinfo, packed, q);

	if (status == BITLM_OK)
		status = bitlm_vector_bytes(scheme.data, scheme.length, q->n, &call->options, &bytes, &call->error);
	if (status != BITLM_OK)
		return status;
	if (bytes > MaxAllocSize - VARHDRSZ)
		return blpg_error(call, BITLM_LIMIT, "the quantized vector has %zu bytes, more than a value may have", bytes);
	q->data = palloc(bytes + VARHDRSZ);
	SET_VARSIZE(q->data, bytes + VARHDRSZ);
	return bitlm_vector_quantize(scheme.data, scheme.length, q->values, q->n, &call->options, VARDATA(q->data), bytes,
								 &call->error);
}

static bitlm_status
report(blpg_call *call, const quantized *q, char *json, size_t capacity)
{
	size_t		bytes = VARSIZE(q->data) - VARHDRSZ;
	float	   *approximate = MemoryContextAllocHuge(CurrentMemoryContext, q->n * sizeof(float));
	bitlm_status status = bitlm_vector_dequantize(VARDATA(q->data), bytes, approximate, q->n, &call->error);

	if (status == BITLM_OK)
		status = bitlm_vector_report(q->values, VARDATA(q->data), bytes, approximate, q->n, json, capacity, &call->error);
	pfree(approximate);
	return status;
}

static Datum
quantize_call(FunctionCallInfo fcinfo, const char *name, bool packed, bool only_report)
{
	blpg_call	call;
	quantized	q = {0};
	char		json[400];
	bitlm_status status;
	volatile bool none = false;
	volatile Datum result = (Datum) 0;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		PG_RETURN_NULL();
	blpg_begin(&call, name, fcinfo, 2, quantize_options, lengthof(quantize_options));
	PG_TRY();
	{
		status = quantize(&call, fcinfo, packed, &q);
		if (status == BITLM_OK && only_report)
			status = report(&call, &q, json, sizeof json);
		none = blpg_forgiven(&call, status);
		if (!none)
			blpg_check(&call, status);
		if (!none && only_report)
			result = DirectFunctionCall1(jsonb_in, CStringGetDatum(json));
		else if (!none)
			result = PointerGetDatum(q.data);
	}
	PG_FINALLY();
	{
		blpg_end(&call);
	}
	PG_END_TRY();
	if (none)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(result);
}

PG_FUNCTION_INFO_V1(blpg_quantize);
PG_FUNCTION_INFO_V1(blpg_quantize_packed);
PG_FUNCTION_INFO_V1(blpg_quantize_error);
PG_FUNCTION_INFO_V1(blpg_quantize_error_packed);

Datum
blpg_quantize(PG_FUNCTION_ARGS)
{
	return quantize_call(fcinfo, "bitlm_quantize", false, false);
}

Datum
blpg_quantize_packed(PG_FUNCTION_ARGS)
{
	return quantize_call(fcinfo, "bitlm_quantize", true, false);
}

Datum
blpg_quantize_error(PG_FUNCTION_ARGS)
{
	return quantize_call(fcinfo, "bitlm_quantize_error", false, true);
}

Datum
blpg_quantize_error_packed(PG_FUNCTION_ARGS)
{
	return quantize_call(fcinfo, "bitlm_quantize_error", true, true);
}

PG_FUNCTION_INFO_V1(blpg_dequantize);

Datum
blpg_dequantize(PG_FUNCTION_ARGS)
{
	blpg_call	call = {.name = "bitlm_dequantize",.error = {.size = sizeof call.error}};
	bytea	   *data = PG_GETARG_BYTEA_PP(0);
	size_t		bytes = VARSIZE_ANY_EXHDR(data),
				n;
	ArrayType  *result;

	blpg_check(&call, bitlm_vector_length(VARDATA_ANY(data), bytes, &n, &call.error));
	if (n > (MaxAllocSize - ARR_OVERHEAD_NONULLS(1)) / sizeof(float4))
		blpg_check(&call, blpg_error(&call, BITLM_LIMIT, "the vector has %zu values, too many for an array", n));
	result = blpg_reals((int) n);
	blpg_check(&call, bitlm_vector_dequantize(VARDATA_ANY(data), bytes, (float *) ARR_DATA_PTR(result), n, &call.error));
	PG_RETURN_ARRAYTYPE_P(result);
}
