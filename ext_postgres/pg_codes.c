/* pg_codes.c - distances of codes, on the bytes of bit(n) in place.
 *
 *     a <^> b, bitlm_distance(a, b)   differing bits, as double precision: ORDER BY needs
 *                                     a type with btree order that an index may return
 *     bitlm_hamming(a, b)             the same as an integer
 *     bitlm_similarity(a, b)          equal bits / bits
 *     bitlm_jaccard(a, b)             bits set in both / bits set in either
 *     a <|> b                         1 - bitlm_jaccard(a, b)
 *     bitlm_reverse_bits(code)        the bits of each byte the other way round
 *     bitlm_within(code, q, r)        code <^> q <= r.  Its support function gives the
 *                                     planner the index condition code <@ bitlm_sphere(q, r)
 *
 * Two lengths never meet: 22026, as PostgreSQL's own & and # say it. */
#include "pg_adapter.h"

#include "access/htup_details.h"
#include "catalog/pg_am.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "funcapi.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/supportnodes.h"
#include "optimizer/optimizer.h"
#include "parser/parse_func.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "am_index.h"

void
blpg_same_length(const VarBit *a, const VarBit *b, const char *what)
{
	if (VARBITLEN(a) != VARBITLEN(b))
		ereport(ERROR, (errcode(ERRCODE_STRING_DATA_LENGTH_MISMATCH),
						errmsg("%s: the codes have %d and %d bits, but must have the same length", what, VARBITLEN(a),
							   VARBITLEN(b))));
}

static uint64_t
hamming(FunctionCallInfo fcinfo, const char *what, int *bits)
{
	VarBit	   *a = PG_GETARG_VARBIT_P(0),
			   *b = PG_GETARG_VARBIT_P(1);
	uint64_t	distance;

	blpg_same_length(a, b, what);
	*bits = VARBITLEN(a);
	distance = bitlm_hamming(VARBITS(a), VARBITS(b), VARBITBYTES(a));
	PG_FREE_IF_COPY(a, 0);
	PG_FREE_IF_COPY(b, 1);
	return distance;
}

PG_FUNCTION_INFO_V1(blpg_hamming);
PG_FUNCTION_INFO_V1(blpg_distance);
PG_FUNCTION_INFO_V1(blpg_similarity);

Datum
blpg_hamming(PG_FUNCTION_ARGS)
{
	int			bits;

	PG_RETURN_INT32((int32) hamming(fcinfo, "bitlm_hamming", &bits));
}

Datum
blpg_distance(PG_FUNCTION_ARGS)
{
	int			bits;

	PG_RETURN_FLOAT8((float8) hamming(fcinfo, "operator <^>", &bits));
}

Datum
blpg_similarity(PG_FUNCTION_ARGS)
{
	int			bits;
	uint64_t	distance = hamming(fcinfo, "bitlm_similarity", &bits);

	PG_RETURN_FLOAT8(bits == 0 ? 1.0 : ((double) bits - (double) distance) / (double) bits);
}

static double
jaccard(FunctionCallInfo fcinfo, const char *what)
{
	VarBit	   *a = PG_GETARG_VARBIT_P(0),
			   *b = PG_GETARG_VARBIT_P(1);
	double		result;

	blpg_same_length(a, b, what);
	result = bitlm_jaccard(VARBITS(a), VARBITS(b), VARBITBYTES(a));
	PG_FREE_IF_COPY(a, 0);
	PG_FREE_IF_COPY(b, 1);
	return result;
}

PG_FUNCTION_INFO_V1(blpg_jaccard);
PG_FUNCTION_INFO_V1(blpg_jaccard_distance);
PG_FUNCTION_INFO_V1(blpg_reverse_bits);

Datum
blpg_jaccard(PG_FUNCTION_ARGS)
{
	PG_RETURN_FLOAT8(jaccard(fcinfo, "bitlm_jaccard"));
}

Datum
blpg_jaccard_distance(PG_FUNCTION_ARGS)
{
	PG_RETURN_FLOAT8(1.0 - jaccard(fcinfo, "operator <|>"));
}

Datum
blpg_reverse_bits(PG_FUNCTION_ARGS)
{
	VarBit	   *code = PG_GETARG_VARBIT_P(0),
			   *result;

	if (VARBITLEN(code) % 8 != 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("bitlm_reverse_bits: the code has %d bits, but must have a multiple of 8", VARBITLEN(code))));
	result = blpg_bits(VARBITLEN(code));
	bitlm_reverse_bits(VARBITS(code), VARBITBYTES(code), VARBITS(result));
	PG_RETURN_VARBIT_P(result);
}

/* ---- ranges ---- */

PG_FUNCTION_INFO_V1(blpg_sphere);

Datum
blpg_sphere(PG_FUNCTION_ARGS)
{
	Datum		values[2] = {PG_GETARG_DATUM(0), PG_GETARG_DATUM(1)};
	bool		nulls[2] = {false};
	TupleDesc	desc;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "bitlm_sphere does not return a row");
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

void
blpg_sphere_parts(Datum sphere, VarBit **center, int32 *radius)
{
	HeapTupleHeader header = DatumGetHeapTupleHeader(sphere);
	bool		nulls[2];
	Datum		code = GetAttributeByNum(header, 1, &nulls[0]),
				limit = GetAttributeByNum(header, 2, &nulls[1]);

	*center = nulls[0] || nulls[1] ? NULL : DatumGetVarBitP(code);
	*radius = nulls[1] ? -1 : DatumGetInt32(limit);
}

PG_FUNCTION_INFO_V1(blpg_in_sphere);

Datum
blpg_in_sphere(PG_FUNCTION_ARGS)
{
	VarBit	   *code = PG_GETARG_VARBIT_P(0),
			   *center;
	int32		radius;

	blpg_sphere_parts(PG_GETARG_DATUM(1), &center, &radius);
	if (!center)
		PG_RETURN_NULL();
	blpg_same_length(code, center, "operator <@");
	PG_RETURN_BOOL((int64) bitlm_hamming(VARBITS(code), VARBITS(center), VARBITBYTES(code)) <= radius);
}

PG_FUNCTION_INFO_V1(blpg_within);

Datum
blpg_within(PG_FUNCTION_ARGS)
{
	int			bits;

	PG_RETURN_BOOL((int64) hamming(fcinfo, "bitlm_within", &bits) <= PG_GETARG_INT32(2));
}

/* code <@ bitlm_sphere(q, r) out of bitlm_within(code, q, r), where the index is of ours. */
static List *
index_condition(SupportRequestIndexCondition *request)
{
	FuncExpr   *call = (FuncExpr *) request->node;
	Oid			types[2] = {BITOID, INT4OID};
	Oid			namespace,
				type,
				function,
				operator;
	Expr	   *sphere;

	if (!IsA(call, FuncExpr) || list_length(call->args) != 3 || request->indexarg != 0)
		return NIL;
	if (!is_pseudo_constant_for_index(
#if PG_VERSION_NUM >= 140000
									  request->root,
#endif
									  lsecond(call->args), request->index) ||
		!is_pseudo_constant_for_index(
#if PG_VERSION_NUM >= 140000
									  request->root,
#endif
									  lthird(call->args), request->index))
		return NIL;
	namespace = get_func_namespace(call->funcid);
	type = GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid, CStringGetDatum("bitlm_sphere"), ObjectIdGetDatum(namespace));
	if (!OidIsValid(type))
		return NIL;
	operator = get_opfamily_member(request->opfamily, BITOID, type, BLPG_STRATEGY_WITHIN);
	function = LookupFuncName(list_make2(makeString(get_namespace_name(namespace)), makeString("bitlm_sphere")), 2,
							  types, true);
	if (!OidIsValid(operator) || !OidIsValid(function))
		return NIL;
	sphere = (Expr *) makeFuncExpr(function, type, list_make2(lsecond(call->args), lthird(call->args)), InvalidOid,
								   InvalidOid, COERCE_EXPLICIT_CALL);
	request->lossy = false;
	return list_make1(make_opclause(operator, BOOLOID, false, linitial(call->args), sphere, InvalidOid, InvalidOid));
}

PG_FUNCTION_INFO_V1(blpg_within_support);

Datum
blpg_within_support(PG_FUNCTION_ARGS)
{
	Node	   *request = (Node *) PG_GETARG_POINTER(0);

	if (IsA(request, SupportRequestIndexCondition))
		PG_RETURN_POINTER(index_condition((SupportRequestIndexCondition *) request));
	if (IsA(request, SupportRequestSelectivity))
	{
		/* Nobody keeps statistics of codes; few rows lie near a point. */
		((SupportRequestSelectivity *) request)->selectivity = BLPG_RANGE_SELECTIVITY;
		PG_RETURN_POINTER(request);
	}
	PG_RETURN_POINTER(NULL);
}
