/* watch_registry.c - bitlm_watch, bitlm_unwatch, bitlm_watch_retry.
 *
 * A watch is a row of bitlm_watches and three triggers on the table, made by its owner (or
 * who has that role's rights).  The triggers are made with the caller's rights; what the
 * rows hold is then read with the owner's, as a worker does later. */
#include "watch.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/catalog.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#define ROWS_AT_ONCE 1000

typedef struct wanted
{
	blpg_call	call;
	Relation	relation;
	Oid			schema;
	AttrNumber	body,
				code;
	blpg_key	key;
	text	   *model_id;
} wanted;

static void
check_owner(Oid relation, const char *function)
{
	if (!blpg_owns_relation(relation, GetUserId()))
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("%s: only the owner of a table may do that", function)));
}

static Relation
open_table(Oid oid)
{
	Relation	relation;
	char		kind = get_rel_relkind(oid);

	if (kind == 0)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE), errmsg("bitlm_watch: there is no table with OID %u", oid)));
	check_owner(oid, "bitlm_watch");
	if (kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE)
		ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
						errmsg("bitlm_watch: %s is not a table whose rows it can update", get_rel_name(oid))));
	/* The lock of CREATE TRIGGER: no row changes between the triggers and the first keys. */
	relation = table_open(oid, ShareRowExclusiveLock);
	if (IsSystemRelation(relation))
		ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
						errmsg("bitlm_watch: %s is a table of the system", RelationGetRelationName(relation))));
	if (relation->rd_rel->relpersistence == RELPERSISTENCE_TEMP)
		ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
						errmsg("bitlm_watch: %s is a temporary table, which no other process can read",
							   RelationGetRelationName(relation))));
	return relation;
}

static AttrNumber
column(Relation relation, Name name)
{
	AttrNumber	number = get_attnum(RelationGetRelid(relation), NameStr(*name));

	if (number <= 0)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN), errmsg("bitlm_watch: table %s has no column \"%s\"",
																  RelationGetRelationName(relation), NameStr(*name))));
	return number;
}

static void
check_columns(wanted *w, int bits)
{
	Form_pg_attribute body = TupleDescAttr(RelationGetDescr(w->relation), w->body - 1);
	Form_pg_attribute code = TupleDescAttr(RelationGetDescr(w->relation), w->code - 1);
	char		category;
	bool		preferred;

	get_type_category_preferred(getBaseType(body->atttypid), &category, &preferred);
	if (category != TYPCATEGORY_STRING)
		ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH), errmsg("bitlm_watch: column \"%s\" has type %s, but must be a text",
																   NameStr(body->attname), format_type_be(body->atttypid))));
	if (code->atttypid != BITOID && code->atttypid != VARBITOID)
		ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH), errmsg("bitlm_watch: column \"%s\" has type %s, but must be bit(%d)",
																   NameStr(code->attname), format_type_be(code->atttypid), bits)));
	if (code->atttypid == BITOID && code->atttypmod >= 0 && code->atttypmod != bits)
		ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH),
						errmsg("bitlm_watch: column \"%s\" is bit(%d), but the model gives %d bits", NameStr(code->attname),
							   code->atttypmod, bits)));
	if (code->attgenerated)
		ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
						errmsg("bitlm_watch: column \"%s\" is generated: the server itself keeps it fresh",
							   NameStr(code->attname))));
}

/* Statements of the caller's, in which no name is looked up along a search_path. */
static void
ddl(const char *sql)
{
	int			nest = NewGUCNestLevel();

	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	(void) set_config_option("client_min_messages", "warning", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	if (SPI_execute(sql, false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "bitlm: not done: %s", sql);
	AtEOXact_GUC(true, nest);
}

static char *
table_name(Relation relation)
{
	return quote_qualified_identifier(get_namespace_name(RelationGetNamespace(relation)), RelationGetRelationName(relation));
}

static void
drop_triggers(Relation relation)
{
	static const char *const names[] = {"insert", "update", "truncate"};
	const char *table = table_name(relation);

	for (int i = 0; i < lengthof(names); i++)
		ddl(psprintf("DROP TRIGGER IF EXISTS bitlm_watch_%s ON %s", names[i], table));
}

static void
create_triggers(wanted *w)
{
	const char *schema = quote_identifier(get_namespace_name(w->schema));
	const char *table = table_name(w->relation);
	const char *body = blpg_column(w->relation, w->body);
	const char *code = blpg_column(w->relation, w->code);
	StringInfoData changed;

	/* blpg_watch_columns reads this condition. */
	ddl(psprintf("CREATE TRIGGER bitlm_watch_insert AFTER INSERT ON %s FOR EACH ROW "
				 "WHEN (NEW.%s IS NOT NULL OR NEW.%s IS NOT NULL) EXECUTE FUNCTION %s.bitlm_watch_changed()",
				 table, body, code, schema));
	/* As text in the C collation: what looks equal to a collation may have another code. */
	initStringInfo(&changed);
	appendStringInfo(&changed, "OLD.%s::text COLLATE \"C\" IS DISTINCT FROM NEW.%s::text COLLATE \"C\" "
					 "OR (NEW.%s IS NULL AND NEW.%s IS NOT NULL)", body, body, code, body);
	for (int i = 0; i < w->key.n; i++)
	{
		const char *name = blpg_column(w->relation, w->key.columns[i]);

		appendStringInfo(&changed, " OR OLD.%s::text COLLATE \"C\" IS DISTINCT FROM NEW.%s::text COLLATE \"C\"", name, name);
	}
	ddl(psprintf("CREATE TRIGGER bitlm_watch_update AFTER UPDATE ON %s FOR EACH ROW WHEN (%s) "
				 "EXECUTE FUNCTION %s.bitlm_watch_changed()", table, changed.data, schema));
	ddl(psprintf("CREATE TRIGGER bitlm_watch_truncate AFTER TRUNCATE ON %s "
				 "EXECUTE FUNCTION %s.bitlm_watch_truncated()", table, schema));
}

/* Queues rows that have no code, or all; returns how many. */
static int64
queue_rows(wanted *w, bool all)
{
	StringInfoData sql;
	blpg_rights saved;
	Portal		portal;
	int64		n = 0;
	int			nest;
	bool		is_null;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ARRAY[");
	for (int i = 0; i < w->key.n; i++)
		appendStringInfo(&sql, "%s%s::pg_catalog.text", i > 0 ? ", " : "", blpg_column(w->relation, w->key.columns[i]));
	appendStringInfo(&sql, "] FROM %s", blpg_watch_name(w->relation));
	if (!all)
		appendStringInfo(&sql, " WHERE %s IS NOT NULL AND %s IS NULL", blpg_column(w->relation, w->body),
						 blpg_column(w->relation, w->code));
	blpg_act_as_owner(w->relation->rd_rel->relowner, &saved);
	nest = blpg_plain_values_begin();
	portal = SPI_cursor_open_with_args(NULL, sql.data, 0, NULL, NULL, NULL, false, 0);
	for (;;)
	{
		SPITupleTable *rows;
		uint64		n_rows;

		SPI_cursor_fetch(portal, true, ROWS_AT_ONCE);
		rows = SPI_tuptable;
		n_rows = SPI_processed;
		if (n_rows == 0)
			break;
		for (uint64 i = 0; i < n_rows; i++)
			blpg_watch_enqueue(w->schema, RelationGetRelid(w->relation),
							   SPI_getbinval(rows->vals[i], rows->tupdesc, 1, &is_null));
		n += n_rows;
		SPI_freetuptable(rows);
	}
	SPI_cursor_close(portal);
	blpg_plain_values_end(nest);
	blpg_act_no_more(&saved);
	return n;
}

/* True if this watch replaces one with another model or other columns. */
static bool
is_other_watch(wanted *w)
{
	Oid			types[2] = {REGCLASSOID, TEXTOID};
	Datum		values[2] = {ObjectIdGetDatum(RelationGetRelid(w->relation)), PointerGetDatum(w->model_id)};
	AttrNumber	body,
				code;

	if (blpg_own_sql(w->schema, "SELECT 1 FROM %s.bitlm_watches WHERE relation OPERATOR(pg_catalog.=) $1", 1, types, values,
					 NULL) == 0)
		return false;
	return !blpg_watch_columns(w->relation, &body, &code) || body != w->body || code != w->code ||
		blpg_own_sql(w->schema, "SELECT 1 FROM %s.bitlm_watches WHERE relation OPERATOR(pg_catalog.=) $1 "
					 "AND model_id OPERATOR(pg_catalog.=) $2", 2, types, values, NULL) == 0;
}

static int64
watch(FunctionCallInfo fcinfo, wanted *w)
{
	Oid			types[6] = {REGCLASSOID, TEXTOID, TEXTOID, INT4OID, INT4OID, TEXTOID};
	Datum		values[6] = {ObjectIdGetDatum(RelationGetRelid(w->relation)), PG_ARGISNULL(3) ? (Datum) 0 : PG_GETARG_DATUM(3),
		PointerGetDatum(w->model_id), PG_ARGISNULL(4) ? (Datum) 0 : PG_GETARG_DATUM(4),
		PG_ARGISNULL(5) ? (Datum) 0 : PG_GETARG_DATUM(5), PG_ARGISNULL(6) ? (Datum) 0 : PG_GETARG_DATUM(6)};
	char		nulls[6] = {' ', ' ', ' ', ' ', ' ', ' '};
	bool		all = !PG_ARGISNULL(7) && PG_GETARG_BOOL(7);
	int64		n;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "bitlm: SPI_connect failed");
	for (int i = 3; i <= 6; i++)
		if (PG_ARGISNULL(i))
			nulls[i == 3 ? 1 : i - 1] = 'n';
	all |= is_other_watch(w);
	drop_triggers(w->relation);
	create_triggers(w);
	blpg_own_sql(w->schema, "INSERT INTO %s.bitlm_watches(relation, model, model_id, batch, tries, truncate) "
				 "VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (relation) DO UPDATE SET model = EXCLUDED.model, "
				 "model_id = EXCLUDED.model_id, batch = EXCLUDED.batch, tries = EXCLUDED.tries, truncate = EXCLUDED.truncate, "
				 "failures = 0, due = DEFAULT, last_error = NULL", 6, types, values, nulls);
	n = queue_rows(w, all);
	blpg_wake_worker();
	SPI_finish();
	return n;
}

PG_FUNCTION_INFO_V1(blpg_watch);

/* bitlm_watch(relation regclass, body name, code name, model text, batch integer, tries integer,
 * truncate text, refill boolean) returns bigint */
Datum
blpg_watch(PG_FUNCTION_ARGS)
{
	static const blpg_option model_option[] = {{"model", 't'}};
	static const blpg_option truncate_option[] = {{"truncate", 't'}};
	static const char *const names[] = {"relation", "body", "code"};
	wanted		w = {.schema = get_func_namespace(fcinfo->flinfo->fn_oid)};
	const char *no_worker;
	int64		n;
	volatile int bits = 0;

	for (int i = 0; i < lengthof(names); i++)
		if (PG_ARGISNULL(i))
			ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("bitlm_watch: %s is null", names[i])));
	if (!PG_ARGISNULL(4) && (PG_GETARG_INT32(4) < 1 || PG_GETARG_INT32(4) > 1024))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("bitlm_watch: batch is %d, but must be 1 to 1024",
																		 PG_GETARG_INT32(4))));
	if (!PG_ARGISNULL(5) && (PG_GETARG_INT32(5) < 1 || PG_GETARG_INT32(5) > 100))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("bitlm_watch: tries is %d, but must be 1 to 100",
																		 PG_GETARG_INT32(5))));
	w.relation = open_table(PG_GETARG_OID(0));
	w.body = column(w.relation, PG_GETARG_NAME(1));
	w.code = column(w.relation, PG_GETARG_NAME(2));
	blpg_watch_key(w.relation, &w.key);
	blpg_begin(&w.call, "bitlm_watch", fcinfo, 6, truncate_option, 1);	/* only to refuse a wrong one */
	blpg_end(&w.call);
	blpg_begin(&w.call, "bitlm_watch", fcinfo, 3, model_option, 1);
	PG_TRY();
	{
		blpg_model(&w.call, "embed");
		bits = blpg_embedding_bits(&w.call);
		w.model_id = cstring_to_text(blpg_model_id_hex(&w.call));
	}
	PG_FINALLY();
	{
		blpg_end(&w.call);
	}
	PG_END_TRY();
	check_columns(&w, bits);
	n = watch(fcinfo, &w);
	table_close(w.relation, NoLock);
	no_worker = blpg_no_worker();
	if (no_worker)
		ereport(WARNING, (errmsg("nothing embeds the changed rows by itself: %s", no_worker),
						  errhint("SELECT bitlm_watch_run() embeds what is queued; it may be called by a scheduler.")));
	PG_RETURN_INT64(n);
}

PG_FUNCTION_INFO_V1(blpg_unwatch);

/* bitlm_unwatch(relation regclass) returns boolean: was it watched? */
Datum
blpg_unwatch(PG_FUNCTION_ARGS)
{
	Oid			types[1] = {REGCLASSOID};
	Datum		values[1] = {PG_GETARG_DATUM(0)};
	Oid			schema = get_func_namespace(fcinfo->flinfo->fn_oid);
	Relation	relation;
	uint64		n;

	check_owner(PG_GETARG_OID(0), "bitlm_unwatch");
	relation = table_open(PG_GETARG_OID(0), AccessExclusiveLock);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "bitlm: SPI_connect failed");
	drop_triggers(relation);
	n = blpg_own_sql(schema, "DELETE FROM %s.bitlm_watches WHERE relation OPERATOR(pg_catalog.=) $1", 1, types, values, NULL);
	blpg_own_sql(schema, "DELETE FROM %s.bitlm_watch_queue WHERE relation OPERATOR(pg_catalog.=) $1", 1, types, values, NULL);
	SPI_finish();
	table_close(relation, NoLock);
	PG_RETURN_BOOL(n > 0);
}

PG_FUNCTION_INFO_V1(blpg_watch_retry);

/* bitlm_watch_retry(relation regclass, key text[]) returns bigint: parked rows queued again */
Datum
blpg_watch_retry(PG_FUNCTION_ARGS)
{
	Oid			types[2] = {REGCLASSOID, TEXTARRAYOID};
	Datum		values[2] = {PG_GETARG_DATUM(0), PG_ARGISNULL(1) ? (Datum) 0 : PG_GETARG_DATUM(1)};
	char		nulls[2] = {' ', PG_ARGISNULL(1) ? 'n' : ' '};
	Oid			schema = get_func_namespace(fcinfo->flinfo->fn_oid);
	uint64		n;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	check_owner(PG_GETARG_OID(0), "bitlm_watch_retry");
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "bitlm: SPI_connect failed");
	n = blpg_own_sql(schema, "UPDATE %s.bitlm_watch_queue SET parked = false, tries = 0, error = NULL, due = DEFAULT "
					 "WHERE relation OPERATOR(pg_catalog.=) $1 AND parked AND ($2 IS NULL OR key OPERATOR(pg_catalog.=) $2)",
					 2, types, values, nulls);
	blpg_own_sql(schema, "UPDATE %s.bitlm_watches SET failures = 0, due = DEFAULT WHERE relation OPERATOR(pg_catalog.=) $1",
				 1, types, values, NULL);
	SPI_finish();
	blpg_wake_worker();
	PG_RETURN_INT64((int64) n);
}

PG_FUNCTION_INFO_V1(blpg_watch_columns_of);

/* bitlm_watch_columns(relation regclass, OUT body name, OUT code name): of the view */
Datum
blpg_watch_columns_of(PG_FUNCTION_ARGS)
{
	Oid			oid = PG_GETARG_OID(0);
	Relation	relation;
	TupleDesc	desc;
	AttrNumber	body,
				code;
	Datum		values[2] = {0};
	bool		nulls[2] = {true, true};
	NameData	names[2];

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "bitlm: the function does not return a row");
	if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(oid)))
		PG_RETURN_NULL();
	relation = table_open(oid, AccessShareLock);
	if (blpg_watch_columns(relation, &body, &code))
	{
		names[0] = TupleDescAttr(RelationGetDescr(relation), body - 1)->attname;
		names[1] = TupleDescAttr(RelationGetDescr(relation), code - 1)->attname;
		for (int i = 0; i < 2; i++)
		{
			values[i] = NameGetDatum(&names[i]);
			nulls[i] = false;
		}
	}
	table_close(relation, AccessShareLock);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}
