/* watch_trigger.c - the triggers of a watched table.
 *
 * bitlm_watch_changed runs after a row was inserted or updated, where the trigger's own
 * condition has said that body, key, or an absent code ask for it, and appends the row's key
 * to the queue.  It only ever appends: a worker holds locks on what it has claimed, and no
 * writer waits for them.  bitlm_watch_truncated empties the queue of a truncated table.
 *
 * The worker's own UPDATE of a code would pass the condition where a BEFORE trigger of the
 * user's sets the code to NULL again, and so for ever: changes of the row that is being
 * written count as ours. */
#include "watch.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

/* What one trigger of one statement knows; kept in fn_extra. */
typedef struct source
{
	Oid			trigger;
	Oid			root;			/* the watched table */
	Oid			schema;			/* of the extension */
	blpg_key	key;
	FmgrInfo	output[INDEX_MAX_KEYS];
	bool		plain;			/* no setting changes how the key looks as text */
} source;

static Oid	writing_relation;
static Datum writing_key;

void
blpg_watch_writing(Oid relation, Datum key)
{
	writing_relation = relation;
	writing_key = key;
}

static void
transaction_callback(XactEvent event, void *argument)
{
	writing_relation = InvalidOid;
}

void
blpg_init_trigger(void)
{
	RegisterXactCallback(transaction_callback, NULL);
}

static bool
same_key(Datum a, Datum b)
{
	struct varlena *x = (struct varlena *) DatumGetPointer(a),
			   *y = (struct varlena *) DatumGetPointer(b);

	return VARSIZE_ANY(x) == VARSIZE_ANY(y) && memcmp(x, y, VARSIZE_ANY(x)) == 0;
}

void
blpg_watch_enqueue(Oid schema, Oid relation, Datum key)
{
	static SPIPlanPtr plan;
	static Oid	plan_queue;
	Oid			types[2] = {REGCLASSOID, TEXTARRAYOID};
	Datum		values[2] = {ObjectIdGetDatum(relation), key};
	Oid			queue = get_relname_relid("bitlm_watch_queue", schema);
	blpg_rights saved;
	char	   *sql;

	blpg_act_for_extension(schema, &saved);
	if (plan && plan_queue != queue)	/* the extension was made anew */
	{
		SPI_freeplan(plan);
		plan = NULL;
	}
	if (!plan)
	{
		sql = psprintf("INSERT INTO %s.bitlm_watch_queue(relation, key) VALUES ($1, $2)",
					   quote_identifier(get_namespace_name(schema)));
		plan = SPI_prepare(sql, 2, types);
		if (!plan || SPI_keepplan(plan) != 0)
			elog(ERROR, "bitlm: %s: %s", SPI_result_code_string(SPI_result), sql);
		plan_queue = queue;
	}
	if (SPI_execute_plan(plan, values, NULL, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "bitlm: the queue took no row");
	blpg_act_no_more(&saved);
	blpg_wake_worker();
}

static source *
source_of(FunctionCallInfo fcinfo, Trigger *trigger, Relation relation)
{
	source	   *from = fcinfo->flinfo->fn_extra;

	if (from && from->trigger == trigger->tgoid)
		return from;
	from = MemoryContextAllocZero(fcinfo->flinfo->fn_mcxt, sizeof *from);
	blpg_watch_key(relation, &from->key);
	from->root = blpg_watch_root(trigger->tgoid);
	from->schema = get_func_namespace(fcinfo->flinfo->fn_oid);
	from->plain = true;
	for (int i = 0; i < from->key.n; i++)
	{
		Oid			type = TupleDescAttr(RelationGetDescr(relation), from->key.columns[i] - 1)->atttypid;
		Oid			output;
		bool		is_varlena;

		getTypeOutputInfo(type, &output, &is_varlena);
		fmgr_info_cxt(output, &from->output[i], fcinfo->flinfo->fn_mcxt);
		from->plain &= type == INT4OID || type == INT8OID || type == INT2OID || type == TEXTOID || type == VARCHAROID ||
			type == UUIDOID;
	}
	from->trigger = trigger->tgoid;
	fcinfo->flinfo->fn_extra = from;
	return from;
}

static Datum
key_of(source *from, TupleTableSlot *slot)
{
	Datum		texts[INDEX_MAX_KEYS];
	int			nest = from->plain ? 0 : blpg_plain_values_begin();

	for (int i = 0; i < from->key.n; i++)
	{
		bool		is_null;
		Datum		value = slot_getattr(slot, from->key.columns[i], &is_null);

		if (is_null)
			ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("the key of a watched row is null")));
		texts[i] = CStringGetTextDatum(OutputFunctionCall(&from->output[i], value));
	}
	if (nest > 0)
		blpg_plain_values_end(nest);
	return PointerGetDatum(construct_array(texts, from->key.n, TEXTOID, -1, false, TYPALIGN_INT));
}

PG_FUNCTION_INFO_V1(blpg_watch_changed);

Datum
blpg_watch_changed(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	source	   *from;
	Datum		key;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_AFTER(data->tg_event) || !TRIGGER_FIRED_FOR_ROW(data->tg_event) ||
		TRIGGER_FIRED_BY_DELETE(data->tg_event))
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
						errmsg("bitlm_watch_changed is for the triggers that bitlm_watch makes")));
	from = source_of(fcinfo, data->tg_trigger, data->tg_relation);
	key = key_of(from, TRIGGER_FIRED_BY_UPDATE(data->tg_event) ? data->tg_newslot : data->tg_trigslot);
	if (from->root == writing_relation && same_key(key, writing_key))
		return PointerGetDatum(NULL);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "bitlm: SPI_connect failed");
	blpg_watch_enqueue(from->schema, from->root, key);
	SPI_finish();
	return PointerGetDatum(NULL);
}

PG_FUNCTION_INFO_V1(blpg_watch_truncated);

Datum
blpg_watch_truncated(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	Oid			types[1] = {REGCLASSOID};
	Datum		values[1];

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_BY_TRUNCATE(data->tg_event))
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
						errmsg("bitlm_watch_truncated is for the triggers that bitlm_watch makes")));
	values[0] = ObjectIdGetDatum(RelationGetRelid(data->tg_relation));
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "bitlm: SPI_connect failed");
	/* What a worker has claimed it will find without a row, and drop. */
	blpg_own_sql(get_func_namespace(fcinfo->flinfo->fn_oid),
				 "DELETE FROM %s.bitlm_watch_queue WHERE ctid OPERATOR(pg_catalog.=) ANY (ARRAY(SELECT ctid "
				 "FROM %s.bitlm_watch_queue WHERE relation OPERATOR(pg_catalog.=) $1 FOR UPDATE SKIP LOCKED))",
				 1, types, values, NULL);
	SPI_finish();
	return PointerGetDatum(NULL);
}
