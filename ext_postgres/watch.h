/* watch.h - what the files of automatic embedding share.
 *
 *     watch_registry.c  bitlm_watch, bitlm_unwatch, bitlm_watch_retry
 *     watch_trigger.c   the triggers on a watched table: keys of changed rows to the queue
 *     watch_drain.c     a batch of the queue to codes in the table; bitlm_watch_run
 *     watch_worker.c    the launcher, a worker for each database, who wakes it
 *     watch_table.c     what all of them ask about a watched table, and whose rights count
 *
 * Three kinds of SQL run here, and each says whose rights it has.  (1) Over the extension's
 * own tables, as their owner: every name and operator is qualified, since search_path may be
 * hostile, and nothing a user wrote is called.  (2) Over a watched table, as that table's
 * owner in a security-restricted operation: types, operators, triggers, policies and index
 * expressions there are the users' own.  (3) DDL of bitlm_watch, as its caller. */
#ifndef BLPG_WATCH_H
#define BLPG_WATCH_H

#include "pg_adapter.h"

#include "access/attnum.h"
#include "utils/relcache.h"

/* ---- watch_table.c ---- */

typedef struct blpg_key
{
	int			n;
	AttrNumber	columns[INDEX_MAX_KEYS];
	Oid			equal[INDEX_MAX_KEYS];	/* operators of the key's index */
} blpg_key;

/* The columns of the primary key, or of the replica identity.  ERROR if there is neither. */
extern void blpg_watch_key(Relation relation, blpg_key *key);
/* The columns that the table's trigger names; false if there is no trigger of bitlm_watch.
 * That trigger is the only place where they are kept: the server renames, dumps and restores
 * them there. */
extern bool blpg_watch_columns(Relation relation, AttrNumber *body, AttrNumber *code);
/* The table that is watched, for a trigger cloned from a partitioned table to a partition. */
extern Oid	blpg_watch_root(Oid trigger);
/* [ONLY] schema.table, quoted */
extern char *blpg_watch_name(Relation relation);
extern const char *blpg_column(Relation relation, AttrNumber column);	/* quoted */

/* Values of columns as text do not depend on the session's settings between these. */
extern int	blpg_plain_values_begin(void);
extern void blpg_plain_values_end(int nest);

typedef struct blpg_rights
{
	Oid			user;
	int			context,
				nest;
} blpg_rights;

/* Kind (2); settings that the owner's code changes are undone at the end.  An ERROR undoes
 * both with the (sub)transaction. */
extern void blpg_act_as_owner(Oid owner, blpg_rights *saved);
/* Kind (1), for the tables in the extension's schema. */
extern void blpg_act_for_extension(Oid schema, blpg_rights *saved);
extern void blpg_act_no_more(const blpg_rights *saved);

/* The extension's schema, or InvalidOid. */
extern Oid	blpg_extension_schema(void);
/* SPI_execute_with_args of kind (1); %s in the statement is the schema, several times if
 * need be; `nulls` as SPI has it. */
extern uint64 blpg_own_sql(Oid schema, const char *statement, int n, Oid *types, Datum *values, const char *nulls);

/* ---- watch_trigger.c ---- */

/* Queues a row; `key` is a text[].  Inside SPI_connect. */
extern void blpg_watch_enqueue(Oid schema, Oid relation, Datum key);
/* Changes of this row of this table are our own until the next call (InvalidOid: none). */
extern void blpg_watch_writing(Oid relation, Datum key);
extern void blpg_init_trigger(void);

/* ---- watch_drain.c ---- */

typedef struct blpg_round
{
	Oid			schema;
	bool		in_worker;
	int			batch;			/* rows where the watch does not say */
	int			timeout_ms;		/* of the owner's code, in a worker; 0: none */
} blpg_round;

/* Claims at most `limit` entries of one table's queue and returns how many; *done: those
 * that are done with.  0: none is due, or someone has locked the table.  Inside SPI_connect. */
extern int	blpg_watch_batch(const blpg_round *round, Oid relation, int limit, int *done);
/* Forgets tables that are gone; the others whose turn it is, in `memory`. */
extern List *blpg_watch_list(const blpg_round *round, MemoryContext memory);

/* ---- watch_worker.c ---- */

extern void blpg_init_worker(void);
/* The worker of this database looks at the queue once this transaction has committed. */
extern void blpg_wake_worker(void);
/* Why no worker serves this database, as a sentence, or NULL. */
extern const char *blpg_no_worker(void);
extern int	blpg_worker_batch;

#endif
