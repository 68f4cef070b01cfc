/* watch_table.c - what automatic embedding asks about a watched table, and rights.
 *
 * A watched table has three triggers.  The one of INSERT has the condition
 *     NEW.body IS NOT NULL OR NEW.code IS NOT NULL
 * which is where the names of the two columns are kept: read back from the catalog they
 * follow RENAME, and come through pg_dump and pg_upgrade. */
#include "watch.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_index.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "nodes/primnodes.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

void
blpg_watch_key(Relation relation, blpg_key *key)
{
	Oid			index_oid = blpg_primary_key(relation);
	Relation	index;

	if (!OidIsValid(index_oid))
		index_oid = RelationGetReplicaIndex(relation);
	if (!OidIsValid(index_oid))
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("table %s has no primary key, by which bitlm_watch finds a changed row again",
							   RelationGetRelationName(relation)),
						errhint("Add a primary key, or a unique index over NOT NULL columns as REPLICA IDENTITY; "
								"or end the watch with bitlm_unwatch.")));
	index = RelationIdGetRelation(index_oid);
	if (!RelationIsValid(index))
		elog(ERROR, "bitlm: index %u is gone", index_oid);
	key->n = IndexRelationGetNumberOfKeyAttributes(index);
	for (int i = 0; i < key->n; i++)
	{
		key->columns[i] = index->rd_index->indkey.values[i];
		key->equal[i] = get_opfamily_member(index->rd_opfamily[i], index->rd_opcintype[i], index->rd_opcintype[i],
											BTEqualStrategyNumber);
		if (!OidIsValid(key->equal[i]))
			elog(ERROR, "bitlm: index %u has no operator of equality", index_oid);
	}
	RelationClose(index);
}

/* The column of `NEW.column IS NOT NULL`, or 0. */
static AttrNumber
column_of(Node *node)
{
	NullTest   *test = (NullTest *) node;

	if (!IsA(node, NullTest) || test->nulltesttype != IS_NOT_NULL || !IsA(test->arg, Var))
		return 0;
	return ((Var *) test->arg)->varattno;
}

bool
blpg_watch_columns(Relation relation, AttrNumber *body, AttrNumber *code)
{
	TriggerDesc *triggers = relation->trigdesc;
	BoolExpr   *condition;

	for (int i = 0; triggers && i < triggers->numtriggers; i++)
	{
		Trigger    *trigger = &triggers->triggers[i];

		if (strcmp(trigger->tgname, "bitlm_watch_insert") != 0 || !trigger->tgqual)
			continue;
		condition = stringToNode(trigger->tgqual);
		if (!IsA(condition, BoolExpr) || list_length(condition->args) != 2)
			continue;
		*body = column_of(linitial(condition->args));
		*code = column_of(lsecond(condition->args));
		if (*body > 0 && *code > 0)
			return true;
	}
	return false;
}

Oid
blpg_watch_root(Oid trigger)
{
	Relation	catalog = table_open(TriggerRelationId, AccessShareLock);
	Oid			relation = InvalidOid;

	while (OidIsValid(trigger))
	{
		ScanKeyData key;
		SysScanDesc scan;
		HeapTuple	tuple;

		ScanKeyInit(&key, Anum_pg_trigger_oid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(trigger));
		scan = systable_beginscan(catalog, TriggerOidIndexId, true, NULL, 1, &key);
		tuple = systable_getnext(scan);
		if (!HeapTupleIsValid(tuple))
			elog(ERROR, "bitlm: trigger %u is gone", trigger);
		relation = ((Form_pg_trigger) GETSTRUCT(tuple))->tgrelid;
		trigger = ((Form_pg_trigger) GETSTRUCT(tuple))->tgparentid;
		systable_endscan(scan);
	}
	table_close(catalog, AccessShareLock);
	return relation;
}

char *
blpg_watch_name(Relation relation)
{
	return psprintf("%s%s", relation->rd_rel->relkind == RELKIND_PARTITIONED_TABLE ? "" : "ONLY ",
					quote_qualified_identifier(get_namespace_name(RelationGetNamespace(relation)),
											   RelationGetRelationName(relation)));
}

const char *
blpg_column(Relation relation, AttrNumber column)
{
	return quote_identifier(NameStr(TupleDescAttr(RelationGetDescr(relation), column - 1)->attname));
}

/* As postgres_fdw does for values that travel. */
int
blpg_plain_values_begin(void)
{
	int			nest = NewGUCNestLevel();
	static const char *const settings[][2] = {
		{"datestyle", "ISO"}, {"intervalstyle", "postgres"}, {"extra_float_digits", "3"}};

	for (int i = 0; i < lengthof(settings); i++)
		(void) set_config_option(settings[i][0], settings[i][1], PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0,
								 false);
	return nest;
}

void
blpg_plain_values_end(int nest)
{
	AtEOXact_GUC(true, nest);
}

void
blpg_act_as_owner(Oid owner, blpg_rights *saved)
{
	GetUserIdAndSecContext(&saved->user, &saved->context);
	SetUserIdAndSecContext(owner, saved->context | SECURITY_RESTRICTED_OPERATION | SECURITY_NOFORCE_RLS);
	saved->nest = NewGUCNestLevel();
}

void
blpg_act_for_extension(Oid schema, blpg_rights *saved)
{
	Oid			queue = get_relname_relid("bitlm_watch_queue", schema);
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(queue));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE), errmsg("the table bitlm_watch_queue of extension bitlm is gone")));
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	GetUserIdAndSecContext(&saved->user, &saved->context);
	SetUserIdAndSecContext(owner, saved->context | SECURITY_LOCAL_USERID_CHANGE | SECURITY_NOFORCE_RLS);
	saved->nest = 0;
}

void
blpg_act_no_more(const blpg_rights *saved)
{
	if (saved->nest > 0)
		AtEOXact_GUC(false, saved->nest);
	SetUserIdAndSecContext(saved->user, saved->context);
}

Oid
blpg_extension_schema(void)
{
	Oid			extension = get_extension_oid("bitlm", true),
				schema = InvalidOid;
	Relation	catalog;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	if (!OidIsValid(extension))
		return InvalidOid;
	catalog = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyInit(&key, Anum_pg_extension_oid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(extension));
	scan = systable_beginscan(catalog, ExtensionOidIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		schema = ((Form_pg_extension) GETSTRUCT(tuple))->extnamespace;
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	return schema;
}

uint64
blpg_own_sql(Oid schema, const char *statement, int n, Oid *types, Datum *values, const char *nulls)
{
	const char *name = quote_identifier(get_namespace_name(schema));
	StringInfoData sql;
	blpg_rights saved;
	const char *at;
	int			result;

	initStringInfo(&sql);
	while ((at = strstr(statement, "%s")) != NULL)
	{
		appendBinaryStringInfo(&sql, statement, (int) (at - statement));
		appendStringInfoString(&sql, name);
		statement = at + 2;
	}
	appendStringInfoString(&sql, statement);
	blpg_act_for_extension(schema, &saved);
	result = SPI_execute_with_args(sql.data, n, types, values, nulls, false, 0);
	blpg_act_no_more(&saved);
	if (result < 0)
		elog(ERROR, "bitlm: %s: %s", SPI_result_code_string(result), sql.data);
	pfree(sql.data);
	return SPI_processed;
}
