/* watch_drain.c - a batch of the queue becomes codes in the watched table.
 *
 * One transaction: claim entries of the queue (FOR UPDATE SKIP LOCKED, so that workers and
 * bitlm_watch_run share the work), read their rows' texts, embed them in one call, lock each
 * row without waiting and write its code if its text is still the one that was embedded,
 * delete the entries.  Whatever ends the transaction leaves the entries as they were.  A row
 * whose text has changed meanwhile has a newer entry.
 *
 * What a row's own types, triggers or policies raise concerns that row alone: the steps run
 * over the whole batch in a subtransaction, and row by row when that fails.  A row that
 * fails is tried again later, at growing intervals, and parked with its error after `tries`.
 * What concerns the table as a whole (no model, no key) is kept with the watch, and the
 * queue waits. */
#include "watch.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/syscache.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"
#include "pgstat.h"

#define DEFAULT_TRIES 5
#define LONGEST_PAUSE_S 300

typedef enum
{
	WAITING,					/* to be handled, or without an outcome yet */
	DONE,						/* the entry can go */
	LATER,						/* someone holds the row */
	FAILED
} outcome;

typedef struct item
{
	ItemPointerData tid;		/* of the entry */
	Datum		key;			/* text[] */
	int			tries;
	int			twin;			/* an earlier item with the same key, or -1 */
	outcome		state;
	text	   *body;			/* NULL: the row's text is NULL */
	VarBit	   *code;			/* NULL: to be set to NULL */
	char	   *error;
	bool		transient;		/* not the row's fault: never parked */
	bool		final;			/* parked at once */
} item;

typedef struct work
{
	const blpg_round *round;
	blpg_call  *call;
	Relation	table;
	Oid			owner;
	AttrNumber	body,
				code;
	blpg_key	key;
	Oid			types[INDEX_MAX_KEYS + 1];
	int32		typmods[INDEX_MAX_KEYS];
	FmgrInfo	input[INDEX_MAX_KEYS];
	Oid			io_param[INDEX_MAX_KEYS];
	SPIPlanPtr	read,
				lock,
				write;
	text	   *model,
			   *model_id,
			   *truncate;
	int			tries,
				failures;		/* of the watch, in a row */
	int			limit;
	item	   *items;
	int			n;
	int			current;		/* the item that a step is at */
	bool		hung;			/* the owner's code was stopped by the time limit */
	char	   *error;			/* the first of this batch */
} work;

typedef void (*step) (work *w, item *one);

/* ---- errors ---- */

static bool
is_transient(int sqlstate)
{
	int			category = ERRCODE_TO_CATEGORY(sqlstate);

	return category == ERRCODE_TO_CATEGORY(ERRCODE_T_R_SERIALIZATION_FAILURE) ||
		category == ERRCODE_TO_CATEGORY(ERRCODE_INSUFFICIENT_RESOURCES) ||
		category == ERRCODE_TO_CATEGORY(ERRCODE_OPERATOR_INTERVENTION) ||
		category == ERRCODE_TO_CATEGORY(ERRCODE_IO_ERROR) || sqlstate == ERRCODE_LOCK_NOT_AVAILABLE;
}

static TimestampTz
later_than(int tries)
{
	int			seconds = tries < 8 ? 1 << tries : LONGEST_PAUSE_S;

	return TimestampTzPlusMilliseconds(GetCurrentTimestamp(), 1000L * Min(seconds, LONGEST_PAUSE_S));
}

static void
fail(work *w, item *one, const char *error, bool transient)
{
	one->state = FAILED;
	one->error = pstrdup(error);
	one->transient = transient;
	if (!w->error)
		w->error = one->error;
}

/* The time limit of the owner's code, in a worker: true if it has passed. */
static bool
end_time_limit(const work *w)
{
	bool		passed;

	if (w->round->timeout_ms == 0)
		return false;
	disable_timeout(STATEMENT_TIMEOUT, true);
	passed = get_timeout_indicator(STATEMENT_TIMEOUT, true);
	if (passed)
		QueryCancelPending = false;
	return passed;
}

/* Runs the step over items [first, first + n) with the owner's rights, in a subtransaction.
 * NULL, or the error that undid all of it. */
static ErrorData *
attempt(work *w, step run, int first, int n)
{
	MemoryContext memory = CurrentMemoryContext;
	ResourceOwner resources = CurrentResourceOwner;
	TimestampTz began = GetCurrentTimestamp();
	ErrorData  *volatile error = NULL;
	volatile bool passed = false;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(memory);
	PG_TRY();
	{
		blpg_rights saved;

		blpg_act_as_owner(w->owner, &saved);
		if (w->round->timeout_ms > 0)
			enable_timeout_after(STATEMENT_TIMEOUT, w->round->timeout_ms);
		for (w->current = first; w->current < first + n; w->current++)
			if (w->items[w->current].state == WAITING && w->items[w->current].twin < 0)
				run(w, &w->items[w->current]);
		end_time_limit(w);
		blpg_act_no_more(&saved);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(memory);
		error = CopyErrorData();
		FlushErrorState();
		/* Who took the signal has also taken the indicator: ask the clock. */
		end_time_limit(w);
		passed = w->round->timeout_ms > 0 && error->sqlerrcode == ERRCODE_QUERY_CANCELED &&
			TimestampDifferenceExceeds(began, GetCurrentTimestamp(), w->round->timeout_ms);
		blpg_watch_writing(InvalidOid, (Datum) 0);
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(memory);
	CurrentResourceOwner = resources;
	if (error && error->sqlerrcode == ERRCODE_QUERY_CANCELED && !passed)
		ReThrowError(error);
	w->hung |= passed;
	return error;
}

/* The step for all items; when one of them fails, each by itself. */
static void
for_all(work *w, step run)
{
	outcome    *before = palloc(w->n * sizeof *before);
	ErrorData  *error;

	for (int i = 0; i < w->n; i++)
		before[i] = w->items[i].state;
	if (attempt(w, run, 0, w->n) == NULL)
		return;
	for (int i = 0; i < w->n; i++)
		w->items[i].state = before[i];
	for (int i = 0; i < w->n && !w->hung; i++)
	{
		if (w->items[i].state != WAITING || w->items[i].twin >= 0)
			continue;
		error = attempt(w, run, i, 1);
		if (error && !w->hung)
			fail(w, &w->items[i], error->message, is_transient(error->sqlerrcode));
	}
	if (!w->hung)
		return;
	/* One row a turn may take that long; then the other tables have theirs. */
	for (int i = 0; i < w->n; i++)
		if (w->items[i].state == WAITING)
			w->items[i].state = LATER;
	fail(w, &w->items[w->current], "the row was left alone: the table's own triggers, types, policies or indexes took "
		 "longer than bitlm.worker_timeout", false);
	w->items[w->current].final = true;
}

/* ---- the table ---- */

/* The watch's row; false if there is none. */
static bool
load_watch(work *w, Oid relation)
{
	Oid			types[1] = {REGCLASSOID};
	Datum		values[1] = {ObjectIdGetDatum(relation)};
	HeapTuple	row;
	TupleDesc	desc;
	Datum		texts[3];
	text	  **const into[3] = {&w->model, &w->model_id, &w->truncate};
	bool		is_null;
	int			batch;

	if (blpg_own_sql(w->round->schema, "SELECT model, model_id, truncate, batch, tries, failures FROM %s.bitlm_watches "
					 "WHERE relation OPERATOR(pg_catalog.=) $1", 1, types, values, NULL) == 0)
		return false;
	row = SPI_tuptable->vals[0];
	desc = SPI_tuptable->tupdesc;
	for (int i = 0; i < 3; i++)
	{
		texts[i] = SPI_getbinval(row, desc, i + 1, &is_null);
		*into[i] = is_null ? NULL : DatumGetTextPCopy(texts[i]);
	}
	batch = DatumGetInt32(SPI_getbinval(row, desc, 4, &is_null));
	if (is_null)
		batch = w->round->batch;
	w->limit = Min(w->limit, batch);
	w->tries = DatumGetInt32(SPI_getbinval(row, desc, 5, &is_null));
	if (is_null)
		w->tries = DEFAULT_TRIES;
	w->failures = DatumGetInt32(SPI_getbinval(row, desc, 6, &is_null));
	SPI_freetuptable(SPI_tuptable);
	return true;
}

static SPIPlanPtr
prepare(work *w, const char *sql)
{
	SPIPlanPtr	plan = SPI_prepare(sql, w->key.n + 1, w->types);

	if (!plan)
		elog(ERROR, "bitlm: %s: %s", SPI_result_code_string(SPI_result), sql);
	return plan;
}

/* $1 … $n are the key, $n+1 is the code. */
static void
load_table(work *w)
{
	const char *name = blpg_watch_name(w->table),
			   *body,
			   *code;
	StringInfoData where;
	blpg_rights saved;

	w->owner = w->table->rd_rel->relowner;
	blpg_watch_key(w->table, &w->key);
	if (!blpg_watch_columns(w->table, &w->body, &w->code))
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("the triggers of bitlm_watch on table %s are gone: call bitlm_watch or bitlm_unwatch",
							   RelationGetRelationName(w->table))));
	body = blpg_column(w->table, w->body);
	code = blpg_column(w->table, w->code);
	initStringInfo(&where);
	for (int i = 0; i < w->key.n; i++)
	{
		Form_pg_attribute column = TupleDescAttr(RelationGetDescr(w->table), w->key.columns[i] - 1);
		Oid			input;
		char		parameter[16];

		w->types[i] = column->atttypid;
		w->typmods[i] = column->atttypmod;
		getTypeInputInfo(column->atttypid, &input, &w->io_param[i]);
		fmgr_info(input, &w->input[i]);
		snprintf(parameter, sizeof parameter, "$%d", i + 1);
		appendStringInfoString(&where, i > 0 ? " AND " : " WHERE ");
		generate_operator_clause(&where, blpg_column(w->table, w->key.columns[i]), column->atttypid, w->key.equal[i],
								 parameter, column->atttypid);
	}
	w->types[w->key.n] = TupleDescAttr(RelationGetDescr(w->table), w->code - 1)->atttypid;
	/* bitlm_watch has looked, but the owner may have made another trigger since. */
	if (w->types[w->key.n] != BITOID && w->types[w->key.n] != VARBITOID)
		ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH), errmsg("column %s of table %s does not have type bit", code,
																   RelationGetRelationName(w->table))));
	blpg_act_as_owner(w->owner, &saved);
	w->read = prepare(w, psprintf("SELECT %s::pg_catalog.text FROM %s%s", body, name, where.data));
	w->lock = prepare(w, psprintf("SELECT %s::pg_catalog.text, %s FROM %s%s FOR NO KEY UPDATE SKIP LOCKED", body, code, name,
								  where.data));
	w->write = prepare(w, psprintf("UPDATE %s SET %s = $%d%s", name, code, w->key.n + 1, where.data));
	blpg_act_no_more(&saved);
}

/* ---- the steps on rows, with the owner's rights ---- */

static uint64
execute(work *w, item *one, SPIPlanPtr plan, VarBit *code)
{
	Datum		values[INDEX_MAX_KEYS + 1],
			   *texts;
	char		nulls[INDEX_MAX_KEYS + 2];
	int			n;

	deconstruct_array(DatumGetArrayTypeP(one->key), TEXTOID, -1, false, TYPALIGN_INT, &texts, NULL, &n);
	if (n != w->key.n)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("the key of the table has %d columns now, but had %d: call bitlm_watch again", w->key.n, n)));
	for (int i = 0; i < n; i++)
		values[i] = InputFunctionCall(&w->input[i], TextDatumGetCString(texts[i]), w->io_param[i], w->typmods[i]);
	values[n] = code ? VarBitPGetDatum(code) : (Datum) 0;
	memset(nulls, ' ', n);
	nulls[n] = code ? ' ' : 'n';
	nulls[n + 1] = 0;
	if (SPI_execute_plan(plan, values, nulls, false, 0) < 0)
		elog(ERROR, "bitlm: %s", SPI_result_code_string(SPI_result));
	return SPI_processed;
}

static void
read_row(work *w, item *one)
{
	Datum		body;
	bool		is_null;

	if (execute(w, one, w->read, NULL) == 0)
	{
		one->state = DONE;		/* deleted, or its key was changed, which queued it again */
		return;
	}
	body = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null);
	one->body = is_null ? NULL : DatumGetTextPCopy(body);
	SPI_freetuptable(SPI_tuptable);
}

static bool
same_bytes(const void *a, const void *b)
{
	if (!a || !b)
		return a == b;
	return VARSIZE_ANY_EXHDR(a) == VARSIZE_ANY_EXHDR(b) && memcmp(VARDATA_ANY(a), VARDATA_ANY(b), VARSIZE_ANY_EXHDR(a)) == 0;
}

static void
write_row(work *w, item *one)
{
	Datum		value;
	text	   *body;
	VarBit	   *code;
	bool		is_null,
				is_same;

	if (execute(w, one, w->lock, NULL) == 0)
	{
		one->state = LATER;		/* locked; or deleted, as the next reading will show */
		return;
	}
	value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null);
	body = is_null ? NULL : DatumGetTextPP(value);
	value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &is_null);
	code = is_null ? NULL : DatumGetVarBitP(value);
	is_same = same_bytes(body, one->body);
	if (is_same && !same_bytes(code, one->code))
	{
		blpg_watch_writing(RelationGetRelid(w->table), one->key);
		execute(w, one, w->write, one->code);
		blpg_watch_writing(InvalidOid, (Datum) 0);
	}
	else
		SPI_freetuptable(SPI_tuptable);
	one->state = DONE;
}

/* ---- embedding ---- */

/* The texts' codes.  A text that the model refuses fails by itself. */
static void
embed(work *w)
{
	blpg_call  *call = w->call;
	int			bits = blpg_embedding_bits(call),
				stride = (bits + 7) / 8,
				n = 0;
	bitlm_text *texts = palloc(w->n * sizeof *texts);
	item	  **rows = palloc(w->n * sizeof *rows);
	bitlm_status *states = palloc0(w->n * sizeof *states),
				status;
	uint8_t    *codes;

	for (int i = 0; i < w->n; i++)
	{
		item	   *one = &w->items[i];

		if (one->state != WAITING || one->twin >= 0 || !one->body)
			continue;
		texts[n] = blpg_utf8_text(one->body);
		rows[n++] = one;
	}
	if (n == 0)
		return;
	codes = palloc((Size) n * stride);
	status = bitlm_embed_batch(blpg_core(call), texts, n, BITLM_EMBED_BITS, &call->options, codes, stride, states, &call->error);
	for (int i = 0; i < n; i++)
	{
		uint8_t    *code = codes + (Size) i * stride;

		/* By itself, for its sentence, or because another one spoilt the batch. */
		if (status == BITLM_CANCELED)
			blpg_check(call, status);
		if (status != BITLM_OK || states[i] != BITLM_OK)
			states[i] = bitlm_embed_batch(blpg_core(call), &texts[i], 1, BITLM_EMBED_BITS, &call->options, code, stride, NULL,
										  &call->error);
		if (states[i] == BITLM_CANCELED)
			blpg_check(call, states[i]);
		if (states[i] != BITLM_OK)
		{
			fail(w, rows[i], call->error.text, states[i] == BITLM_NOMEM || states[i] == BITLM_IO);
			continue;
		}
		rows[i]->code = blpg_bits(bits);
		memcpy(VARBITS(rows[i]->code), code, stride);
	}
}

/* ---- the queue ---- */

static void
claim(work *w)
{
	Oid			types[3] = {REGCLASSOID, TIMESTAMPTZOID, INT4OID};
	Datum		values[3] = {ObjectIdGetDatum(RelationGetRelid(w->table)), TimestampTzGetDatum(GetCurrentTimestamp()),
		Int32GetDatum(w->limit)};
	bool		is_null;

	w->n = (int) blpg_own_sql(w->round->schema, "SELECT ctid, key, tries FROM %s.bitlm_watch_queue "
							  "WHERE relation OPERATOR(pg_catalog.=) $1 AND NOT parked AND due OPERATOR(pg_catalog.<=) $2 "
							  "ORDER BY due LIMIT $3 FOR UPDATE SKIP LOCKED", 3, types, values, NULL);
	w->items = palloc0((w->n + 1) * sizeof *w->items);
	for (int i = 0; i < w->n; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		item	   *one = &w->items[i];

		one->tid = *(ItemPointer) DatumGetPointer(SPI_getbinval(row, desc, 1, &is_null));
		one->key = PointerGetDatum(DatumGetArrayTypePCopy(SPI_getbinval(row, desc, 2, &is_null)));
		one->tries = DatumGetInt32(SPI_getbinval(row, desc, 3, &is_null));
		one->twin = -1;
		for (int j = 0; j < i && one->twin < 0; j++)
			if (w->items[j].twin < 0 && same_bytes(DatumGetPointer(one->key), DatumGetPointer(w->items[j].key)))
				one->twin = j;
	}
	SPI_freetuptable(SPI_tuptable);
}

/* What became of the entries.  Returns how many are done. */
static int
settle(work *w)
{
	Oid			types[5] = {TIDOID, INT4OID, TIMESTAMPTZOID, BOOLOID, TEXTOID};
	Oid			array_type = get_array_type(TIDOID);
	Datum	   *done = palloc((w->n + 1) * sizeof *done);
	Datum		array;
	int			n_done = 0;

	for (int i = 0; i < w->n; i++)
	{
		item	   *one = &w->items[i];
		const item *as = one->twin >= 0 ? &w->items[one->twin] : one;
		bool		parked = as->state == FAILED && !as->transient && (as->final || one->tries + 1 >= w->tries);
		Datum		values[5] = {PointerGetDatum(&one->tid), Int32GetDatum(one->tries + 1),
			TimestampTzGetDatum(later_than(one->tries)), BoolGetDatum(parked), (Datum) 0};
		char		nulls[6] = "     ";

		if (as->state == DONE)
		{
			done[n_done++] = PointerGetDatum(&one->tid);
			continue;
		}
		if (as->error)
			values[4] = CStringGetTextDatum(as->error);
		else
			nulls[4] = 'n';
		blpg_own_sql(w->round->schema, "UPDATE %s.bitlm_watch_queue SET tries = $2, due = $3, parked = $4, error = $5 "
					 "WHERE ctid OPERATOR(pg_catalog.=) $1", 5, types, values, nulls);
	}
	if (n_done > 0)
	{
		array = PointerGetDatum(construct_array(done, n_done, TIDOID, sizeof(ItemPointerData), false, TYPALIGN_SHORT));
		blpg_own_sql(w->round->schema, "DELETE FROM %s.bitlm_watch_queue WHERE ctid OPERATOR(pg_catalog.=) ANY ($1)", 1,
					 &array_type, &array, NULL);
	}
	return n_done;
}

/* Without waiting for another process that notes the same. */
static void
note(const blpg_round *round, Oid relation, const char *error, int failures)
{
	Oid			types[4] = {REGCLASSOID, TEXTOID, INT4OID, TIMESTAMPTZOID};
	Datum		values[4] = {ObjectIdGetDatum(relation), error ? CStringGetTextDatum(error) : (Datum) 0, Int32GetDatum(failures),
		TimestampTzGetDatum(failures > 0 ? later_than(failures) : GetCurrentTimestamp())};
	char		nulls[5] = {' ', error ? ' ' : 'n', ' ', ' ', 0};

	blpg_own_sql(round->schema, "UPDATE %s.bitlm_watches SET last_run = pg_catalog.clock_timestamp(), "
				 "last_error = COALESCE($2, last_error), failures = $3, due = $4, last_error_at = "
				 "CASE WHEN $2 IS NULL THEN last_error_at ELSE pg_catalog.clock_timestamp() END "
				 "WHERE ctid OPERATOR(pg_catalog.=) ANY (ARRAY(SELECT ctid FROM %s.bitlm_watches "
				 "WHERE relation OPERATOR(pg_catalog.=) $1 FOR UPDATE SKIP LOCKED))", 4, types, values, nulls);
}

/* ---- a batch ---- */

static int
run_batch(work *w, int *done)
{
	char		activity[NAMEDATALEN * 2 + 64];
	const char *hex;

	load_table(w);
	hex = blpg_model_id_hex(w->call);
	if (strcmp(hex, text_to_cstring(w->model_id)) != 0)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("the model or the arithmetic is not that of the codes in table %s: call bitlm_watch again, "
							   "which queues all rows", RelationGetRelationName(w->table))));
	claim(w);
	if (w->n > 0 && w->round->in_worker)
	{
		snprintf(activity, sizeof activity, "bitlm: embedding %d rows of %s", w->n, RelationGetRelationName(w->table));
		pgstat_report_activity(STATE_RUNNING, activity);
	}
	if (w->n > 0)
	{
		for_all(w, read_row);
		embed(w);
		for_all(w, write_row);
		*done = settle(w);
		note(w->round, RelationGetRelid(w->table), w->error, w->hung ? w->failures + 1 : 0);
	}
	SPI_freeplan(w->read);
	SPI_freeplan(w->lock);
	SPI_freeplan(w->write);
	return w->n;
}

static int
batch_of(const blpg_round *round, Oid relation, int limit, int *done, int *failures)
{
	static const char *const options[] = {"model", "truncate"};
	work		w = {.round = round,.limit = limit};
	blpg_call	call;
	text	   *values[2];
	volatile int n = 0;

	/* Who alters the table has it alone: then it has its turn later. */
	if (!ConditionalLockRelationOid(relation, RowExclusiveLock))
		return 0;
	if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relation)) || !load_watch(&w, relation))
		return 0;
	*failures = w.failures;
	values[0] = w.model;
	values[1] = w.truncate;
	blpg_begin_texts(&call, "bitlm_watch", options, values, 2);
	w.call = &call;
	w.table = table_open(relation, NoLock);
	PG_TRY();
	{
		blpg_model(&call, "embed");
		blpg_borrow(&call);
		n = run_batch(&w, done);
	}
	PG_FINALLY();
	{
		blpg_end(&call);
	}
	PG_END_TRY();
	table_close(w.table, NoLock);
	return n;
}

int
blpg_watch_batch(const blpg_round *round, Oid relation, int limit, int *done)
{
	MemoryContext memory = CurrentMemoryContext,
				batch = AllocSetContextCreate(memory, "bitlm batch", ALLOCSET_DEFAULT_SIZES);
	ResourceOwner resources = CurrentResourceOwner;
	ErrorData  *error = NULL;
	volatile int n = 0;
	int			failures = 0;

	*done = 0;
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(batch);
	PG_TRY();
	{
		n = batch_of(round, relation, limit, done, &failures);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(memory);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(memory);
	CurrentResourceOwner = resources;
	MemoryContextDelete(batch);
	if (!error)
		return n;
	if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
		ReThrowError(error);
	*done = 0;
	note(round, relation, error->message, failures + 1);
	if (!round->in_worker)
		ereport(WARNING, (errcode(error->sqlerrcode), errmsg("%s", error->message)));
	else
		ereport(LOG, (errcode(error->sqlerrcode), errmsg("bitlm: table %s waits: %s",
														 get_rel_name(relation) ? get_rel_name(relation) : "?", error->message)));
	FreeErrorData(error);
	return 0;
}

/* Removes the rows of tables that are gone; without waiting for a transaction that has done so and is still open. */
static void
forget_dropped(const blpg_round *round, const char *table)
{
	char	   *sql = psprintf("DELETE FROM %%s.%s WHERE ctid OPERATOR(pg_catalog.=) ANY (ARRAY(SELECT ctid FROM %%s.%s t "
							   "WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid OPERATOR(pg_catalog.=) t.relation) "
							   "FOR UPDATE SKIP LOCKED))", table, table);

	blpg_own_sql(round->schema, sql, 0, NULL, NULL, NULL);
	pfree(sql);
}

List *
blpg_watch_list(const blpg_round *round, MemoryContext memory)
{
	Oid			types[1] = {TIMESTAMPTZOID};
	Datum		values[1] = {TimestampTzGetDatum(GetCurrentTimestamp())};
	List	   *found = NIL;
	MemoryContext old;
	bool		is_null;

	/* No worker may have been there when a table was dropped; a table that is only not yet
	 * restored has its row here no sooner than it exists. */
	if (blpg_own_sql(round->schema, "SELECT relation FROM %s.bitlm_watches w WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c "
					 "WHERE c.oid OPERATOR(pg_catalog.=) w.relation)", 0, NULL, NULL, NULL) > 0)
	{
		forget_dropped(round, "bitlm_watch_queue");
		forget_dropped(round, "bitlm_watches");
	}
	blpg_own_sql(round->schema, "SELECT relation FROM %s.bitlm_watches WHERE due OPERATOR(pg_catalog.<=) $1 ORDER BY last_run "
				 "NULLS FIRST", 1, types, values, NULL);
	old = MemoryContextSwitchTo(memory);
	for (uint64 i = 0; i < SPI_processed; i++)
		found = lappend_oid(found, DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &is_null)));
	MemoryContextSwitchTo(old);
	SPI_freetuptable(SPI_tuptable);
	return found;
}

PG_FUNCTION_INFO_V1(blpg_watch_run);

/* bitlm_watch_run(max_rows integer, relation regclass) returns bigint: entries that are done */
Datum
blpg_watch_run(PG_FUNCTION_ARGS)
{
	int			max = PG_ARGISNULL(0) ? INT_MAX : PG_GETARG_INT32(0);
	Oid			only = PG_ARGISNULL(1) ? InvalidOid : PG_GETARG_OID(1);
	blpg_round	round = {.schema = get_func_namespace(fcinfo->flinfo->fn_oid),.batch = blpg_worker_batch};
	MemoryContext memory = CurrentMemoryContext;
	List	   *relations;
	ListCell   *cell;
	HeapTuple	tuple;
	Oid			owner;
	int64		total = 0;
	int			done,
				handled;

	if (max < 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("bitlm_watch_run: max_rows is %d, but must be 0 or more", max)));
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "bitlm: SPI_connect failed");
	/* A deferred trigger cannot be left to the end of the transaction, which has other rights. */
	SPI_execute("SET CONSTRAINTS ALL IMMEDIATE", false, 0);
	relations = blpg_watch_list(&round, memory);
	if (OidIsValid(only))
		relations = list_make1_oid(only);
	foreach(cell, relations)
	{
		Oid			relation = lfirst_oid(cell);

		tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relation));
		if (!HeapTupleIsValid(tuple))
			continue;
		owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
		ReleaseSysCache(tuple);
		if (!has_privs_of_role(GetUserId(), owner))
		{
			if (OidIsValid(only))
				ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
								errmsg("bitlm_watch_run: only the owner of a table may do that")));
			continue;
		}
		handled = 1;
		while (max > 0 && handled > 0)
		{
			CHECK_FOR_INTERRUPTS();
			handled = blpg_watch_batch(&round, relation, max, &done);
			total += done;
			max -= handled;
		}
	}
	SPI_finish();
	PG_RETURN_INT64(total);
}
