/* watch_worker.c - the processes of automatic embedding.
 *
 * With bitlm in shared_preload_libraries the postmaster starts the launcher, which keeps one
 * worker running for each database of bitlm.worker_databases.  A worker drains the queue of
 * its database (watch_drain.c), one batch of one table a transaction, the tables in turn.  It
 * sleeps until a transaction that queued rows commits (the slot in shared memory leads to its
 * latch), until something is due again, or bitlm.worker_naptime.  Both are started after
 * recovery has ended only, so a standby has neither.
 *
 * What needs a database without other sessions (DROP DATABASE, ALTER DATABASE RENAME or SET
 * TABLESPACE, CREATE DATABASE from it as a template) ends the worker first: a hook of utility
 * statements tells it to stop, and the launcher to wait a little before the next one. */
#include "watch.h"

#include "access/xact.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "executor/spi.h"
#include "libpq/pqsignal.h"
#include "nodes/parsenodes.h"
#include "nodes/value.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

#define MAX_DATABASES 64
#define FIRST_PAUSE_MS 1000
#define LONGEST_PAUSE_MS 60000
#define HOLD_MS 10000			/* how long a database is left alone for a DROP */
#define SHORTEST_NAP_MS 200

typedef struct slot
{
	char		database[NAMEDATALEN];	/* empty: free; only the launcher writes it */
	Oid			oid;			/* of the database, while a worker runs */
	pid_t		pid;			/* of that worker, or 0 */
	PGPROC	   *process;
	bool		connected;		/* a worker got there since the launcher last looked */
	bool		appeared;		/* a database got this name since the launcher last looked */
	TimestampTz held_until;
} slot;

typedef struct shared
{
	slock_t		lock;			/* of all that follows */
	PGPROC	   *launcher;
	slot		slots[MAX_DATABASES];
} shared;

int			blpg_worker_batch;
static char *worker_databases;
static int	worker_naptime;
static int	worker_timeout;

static shared *state;			/* NULL: not in shared_preload_libraries */
static slot *my_slot;
static bool wake_at_commit;

static ProcessUtility_hook_type previous_utility;
static shmem_startup_hook_type previous_startup;
#if BLPG_SHMEM_REQUEST_HOOK
static shmem_request_hook_type previous_request;
#endif

extern PGDLLEXPORT void blpg_launcher_main(Datum argument);
extern PGDLLEXPORT void blpg_worker_main(Datum argument);

/* ---- who wakes the worker ---- */

void
blpg_wake_worker(void)
{
	wake_at_commit = state != NULL;
}

/* After the transaction's locks and invalidation messages went out: a worker that looked sooner would find the table locked,
 * or its caches still without the extension (18 keeps its name in one). */
static void
release_callback(ResourceReleasePhase phase, bool commit, bool top_level, void *argument)
{
	PGPROC	   *process = NULL;

	if (!wake_at_commit || phase != RESOURCE_RELEASE_AFTER_LOCKS || !top_level)
		return;
	wake_at_commit = false;
	if (!commit)
		return;
	SpinLockAcquire(&state->lock);
	for (int i = 0; i < MAX_DATABASES; i++)
		if (state->slots[i].pid != 0 && state->slots[i].oid == MyDatabaseId)
			process = state->slots[i].process;
	SpinLockRelease(&state->lock);
	if (process)
		SetLatch(&process->procLatch);	/* in shared memory for ever: at worst another's nap is short */
}

static void
transaction_callback(XactEvent event, void *argument)
{
	if (event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		wake_at_commit = false;
}

/* ---- the names of bitlm.worker_databases ---- */

static List *
names_of(const char *value)
{
	char	   *copy = pstrdup(value);
	List	   *names;

	if (!SplitGUCList(copy, ',', &names))
		return NIL;
	return names;
}

static bool
check_databases(char **value, void **extra, GucSource source)
{
	char	   *copy = pstrdup(*value);
	List	   *names;
	ListCell   *cell;
	bool		good = SplitGUCList(copy, ',', &names);

	if (!good)
		GUC_check_errdetail("The list of names is not well formed.");
	else if (list_length(names) > MAX_DATABASES)
	{
		GUC_check_errdetail("At most %d databases can be named.", MAX_DATABASES);
		good = false;
	}
	if (good)
	{
		foreach(cell, names)
			if (strlen(lfirst(cell)) >= NAMEDATALEN)
				good = false;
		if (!good)
			GUC_check_errdetail("A name is longer than %d bytes.", NAMEDATALEN - 1);
	}
	list_free(names);
	pfree(copy);
	return good;
}

static bool
is_listed(const char *database)
{
	ListCell   *cell;

	foreach(cell, names_of(worker_databases))
		if (strcmp(lfirst(cell), database) == 0)
			return true;
	return false;
}

const char *
blpg_no_worker(void)
{
	if (!state)
		return "bitlm is not in shared_preload_libraries";
	if (!is_listed(get_database_name(MyDatabaseId)))
		return "this database is not in bitlm.worker_databases";
	return NULL;
}

PG_FUNCTION_INFO_V1(blpg_watch_worker);

/* bitlm_watch_worker() returns integer: process number of this database's worker, or NULL */
Datum
blpg_watch_worker(PG_FUNCTION_ARGS)
{
	pid_t		pid = 0;

	if (state)
	{
		SpinLockAcquire(&state->lock);
		for (int i = 0; i < MAX_DATABASES; i++)
			if (state->slots[i].pid != 0 && state->slots[i].oid == MyDatabaseId)
				pid = state->slots[i].pid;
		SpinLockRelease(&state->lock);
	}
	if (pid == 0)
		PG_RETURN_NULL();
	PG_RETURN_INT32((int32) pid);
}

/* ---- a worker ---- */

static void
leave_slot(int code, Datum argument)
{
	SpinLockAcquire(&state->lock);
	my_slot->pid = 0;
	my_slot->oid = InvalidOid;
	my_slot->process = NULL;
	SpinLockRelease(&state->lock);
}

static void
begin_transaction(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "bitlm: SPI_connect failed");
}

static void
end_transaction(void)
{
	SPI_finish();
	PopActiveSnapshot();
	CommitTransactionCommand();
	pgstat_report_stat(true);
	pgstat_report_activity(STATE_IDLE, NULL);
}

/* Milliseconds until something is due, at most the nap. */
static int
next_nap(const blpg_round *round)
{
	TimestampTz due;
	long		wait;
	bool		is_null;

	/* The later of what the row waits for and what its table waits for. */
	blpg_own_sql(round->schema, "SELECT pg_catalog.min(GREATEST(w.due, q.due)) FROM %s.bitlm_watches w, LATERAL (SELECT due "
				 "FROM %s.bitlm_watch_queue q WHERE q.relation OPERATOR(pg_catalog.=) w.relation AND NOT q.parked "
				 "ORDER BY q.due LIMIT 1) q", 0, NULL, NULL, NULL);
	due = DatumGetTimestampTz(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null));
	SPI_freetuptable(SPI_tuptable);
	if (is_null)
		return worker_naptime;
	wait = blpg_milliseconds(GetCurrentTimestamp(), due);
	return (int) Max(Min(wait, worker_naptime), SHORTEST_NAP_MS);
}

/* Every watched table has a batch.  Returns for how long to sleep. */
static int
work_round(MemoryContext memory)
{
	blpg_round	round = {.in_worker = true,.batch = blpg_worker_batch,.timeout_ms = worker_timeout};
	List	   *relations;
	ListCell   *cell;
	int			handled = 0,
				nap = worker_naptime,
				done;

	CHECK_FOR_INTERRUPTS();
	pgstat_report_activity(STATE_RUNNING, "bitlm: looking for changed rows");
	begin_transaction();
	round.schema = blpg_extension_schema();
	relations = OidIsValid(round.schema) ? blpg_watch_list(&round, memory) : NIL;
	end_transaction();
	foreach(cell, relations)
	{
		CHECK_FOR_INTERRUPTS();
		begin_transaction();
		if (blpg_extension_schema() == round.schema)
		{
			SPI_execute("SET CONSTRAINTS ALL IMMEDIATE", false, 0);
			handled += blpg_watch_batch(&round, lfirst_oid(cell), INT_MAX, &done);
		}
		end_transaction();
	}
	if (handled > 0)
		return 0;
	if (relations != NIL)
	{
		begin_transaction();
		if (blpg_extension_schema() == round.schema)
			nap = next_nap(&round);
		end_transaction();
	}
	return nap;
}

/* A round; an ERROR in it is logged, and the next round is a nap later. */
static int
careful_round(MemoryContext memory)
{
	volatile int nap = worker_naptime;

	PG_TRY();
	{
		nap = work_round(memory);
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		MemoryContextSwitchTo(memory);
		EmitErrorReport();
		AbortCurrentTransaction();
		FlushErrorState();
		pgstat_report_activity(STATE_IDLE, NULL);
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(memory);
	MemoryContextReset(memory);
	return nap;
}

void
blpg_worker_main(Datum argument)
{
	MemoryContext memory;
	TimestampTz held;
	int			nap;

	my_slot = &state->slots[DatumGetInt32(argument)];
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(MyBgworkerEntry->bgw_extra, NULL, 0);
	/* The database's settings must not make the batches read-only, or fail by other writers. */
	SetConfigOption("default_transaction_read_only", "off", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_isolation", "read committed", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_deferrable", "off", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("statement_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("idle_in_transaction_session_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
	SpinLockAcquire(&state->lock);
	my_slot->oid = MyDatabaseId;
	my_slot->process = MyProc;
	my_slot->connected = true;
	my_slot->pid = MyProcPid;
	held = my_slot->held_until;
	SpinLockRelease(&state->lock);
	before_shmem_exit(leave_slot, (Datum) 0);
	if (held > GetCurrentTimestamp())	/* who wants the database for itself has not seen us */
		proc_exit(1);
	memory = AllocSetContextCreate(TopMemoryContext, "bitlm worker", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(memory);
	for (;;)
	{
		ResetLatch(MyLatch);
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		nap = careful_round(memory);
		if (nap > 0)
			(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, nap, PG_WAIT_EXTENSION);
	}
}

/* ---- the launcher ---- */

typedef struct runner
{
	BackgroundWorkerHandle *handle; /* NULL: none runs */
	TimestampTz next;			/* not sooner */
	int			pause_ms;
	bool		listed;
} runner;

static runner runners[MAX_DATABASES];	/* as the slots */

/* Slots for names that are new; workers of others are told to stop. */
static void
read_names(void)
{
	List	   *names = names_of(worker_databases);
	ListCell   *cell;
	int			free_slot,
				found;

	for (int i = 0; i < MAX_DATABASES; i++)
		runners[i].listed = false;
	foreach(cell, names)
	{
		found = free_slot = -1;
		for (int i = 0; i < MAX_DATABASES; i++)
		{
			if (strcmp(state->slots[i].database, lfirst(cell)) == 0)
				found = i;
			else if (free_slot < 0 && state->slots[i].database[0] == 0)
				free_slot = i;
		}
		if (found < 0 && free_slot >= 0)
		{
			found = free_slot;
			runners[found] = (runner){.pause_ms = FIRST_PAUSE_MS};
			SpinLockAcquire(&state->lock);
			strlcpy(state->slots[found].database, lfirst(cell), NAMEDATALEN);
			SpinLockRelease(&state->lock);
		}
		if (found >= 0)
			runners[found].listed = true;
	}
	for (int i = 0; i < MAX_DATABASES; i++)
		if (!runners[i].listed && runners[i].handle)
			TerminateBackgroundWorker(runners[i].handle);
}

static void
start(int i, TimestampTz now)
{
	runner	   *one = &runners[i];
	BackgroundWorker worker = {0};
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;	/* the launcher does */
	worker.bgw_notify_pid = MyProcPid;
	worker.bgw_main_arg = Int32GetDatum(i);
	snprintf(worker.bgw_name, BGW_MAXLEN, "bitlm worker for %s", state->slots[i].database);
	strlcpy(worker.bgw_type, "bitlm worker", BGW_MAXLEN);
	strlcpy(worker.bgw_library_name, "bitlm", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "blpg_worker_main", BGW_MAXLEN);
	strlcpy(worker.bgw_extra, state->slots[i].database, BGW_EXTRALEN);
	if (!RegisterDynamicBackgroundWorker(&worker, &one->handle))
	{
		one->handle = NULL;
		one->next = TimestampTzPlusMilliseconds(now, LONGEST_PAUSE_MS);
		ereport(LOG, (errmsg("bitlm: no background worker is free for database \"%s\"", state->slots[i].database),
					  errhint("Raise max_worker_processes.")));
	}
	MemoryContextSwitchTo(old);
}

/* Starts what should run; returns the milliseconds until the next look. */
static long
look_after(int i, TimestampTz now)
{
	runner	   *one = &runners[i];
	slot	   *place = &state->slots[i];
	TimestampTz next,
				held;
	bool		connected,
				appeared;
	pid_t		pid;

	if (place->database[0] == 0)
		return LONGEST_PAUSE_MS;
	if (one->handle)
	{
		if (GetBackgroundWorkerPid(one->handle, &pid) != BGWH_STOPPED)
			return LONGEST_PAUSE_MS;
		/* Soon again if it had reached the database, else at growing intervals. */
		pfree(one->handle);
		one->handle = NULL;
		SpinLockAcquire(&state->lock);
		connected = place->connected;
		place->connected = false;
		SpinLockRelease(&state->lock);
		if (connected)
			one->pause_ms = FIRST_PAUSE_MS;
		one->next = TimestampTzPlusMilliseconds(now, one->pause_ms);
		one->pause_ms = Min(one->pause_ms * 2, LONGEST_PAUSE_MS);
	}
	SpinLockAcquire(&state->lock);
	if (!one->listed)
		place->database[0] = 0;
	held = place->held_until;
	appeared = place->appeared;
	place->appeared = false;
	SpinLockRelease(&state->lock);
	if (!one->listed)
		return LONGEST_PAUSE_MS;
	if (appeared)				/* forget how often it was not there; its transaction has yet to end */
	{
		one->pause_ms = FIRST_PAUSE_MS;
		one->next = Min(one->next, TimestampTzPlusMilliseconds(now, FIRST_PAUSE_MS));
	}
	next = Max(one->next, held);
	if (next <= now)
	{
		start(i, now);
		return one->handle ? LONGEST_PAUSE_MS : LONGEST_PAUSE_MS / 2;
	}
	return blpg_milliseconds(now, next);
}

/* The postmaster tells that a worker has started or ended. */
static void
worker_changed(SIGNAL_ARGS)
{
	int			error = errno;

	SetLatch(MyLatch);
	errno = error;
}

void
blpg_launcher_main(Datum argument)
{
	MemoryContext memory;
	long		wait;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	pqsignal(SIGUSR1, worker_changed);
	BackgroundWorkerUnblockSignals();
	memory = AllocSetContextCreate(TopMemoryContext, "bitlm launcher", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(memory);
	for (int i = 0; i < MAX_DATABASES; i++)
		runners[i].pause_ms = FIRST_PAUSE_MS;
	SpinLockAcquire(&state->lock);
	state->launcher = MyProc;
	SpinLockRelease(&state->lock);
	read_names();
	while (!ShutdownRequestPending)
	{
		ResetLatch(MyLatch);
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			read_names();
		}
		wait = LONGEST_PAUSE_MS;
		for (int i = 0; i < MAX_DATABASES; i++)
			wait = Min(wait, look_after(i, GetCurrentTimestamp()));
		MemoryContextReset(memory);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, Max(wait, 10), PG_WAIT_EXTENSION);
	}
	/* The postmaster stops the workers itself; a launcher that is told to end comes back. */
	proc_exit(1);
}

/* ---- statements that want a database for themselves ---- */

/* The database that the statement needs without sessions, or NULL. */
static const char *
emptied_database(Node *statement)
{
	ListCell   *cell;

	switch (nodeTag(statement))
	{
		case T_DropdbStmt:
			return ((DropdbStmt *) statement)->dbname;
		case T_RenameStmt:
			if (((RenameStmt *) statement)->renameType == OBJECT_DATABASE)
				return ((RenameStmt *) statement)->subname;
			return NULL;
		case T_AlterDatabaseStmt:
			foreach(cell, ((AlterDatabaseStmt *) statement)->options)
				if (strcmp(((DefElem *) lfirst(cell))->defname, "tablespace") == 0)
					return ((AlterDatabaseStmt *) statement)->dbname;
			return NULL;
		case T_CreatedbStmt:
			foreach(cell, ((CreatedbStmt *) statement)->options)
			{
				DefElem    *option = lfirst(cell);

				if (strcmp(option->defname, "template") == 0 && option->arg && IsA(option->arg, String))
					return strVal(option->arg);
			}
			return NULL;
		default:
			return NULL;
	}
}

/* The name that the statement gives to a database, or NULL. */
static const char *
named_database(Node *statement)
{
	if (IsA(statement, CreatedbStmt))
		return ((CreatedbStmt *) statement)->dbname;
	if (IsA(statement, RenameStmt) && ((RenameStmt *) statement)->renameType == OBJECT_DATABASE)
		return ((RenameStmt *) statement)->newname;
	return NULL;
}

static void
tell_launcher(const char *database)
{
	PGPROC	   *launcher;

	SpinLockAcquire(&state->lock);
	for (int i = 0; i < MAX_DATABASES; i++)
		if (strcmp(state->slots[i].database, database) == 0)
			state->slots[i].appeared = true;
	launcher = state->launcher;
	SpinLockRelease(&state->lock);
	if (launcher)
		SetLatch(&launcher->procLatch);
}

/* Until then no worker is started for the database.  Returns the number of one that runs. */
static pid_t
hold(const char *database, TimestampTz until)
{
	PGPROC	   *launcher;
	pid_t		pid = 0;

	SpinLockAcquire(&state->lock);
	for (int i = 0; i < MAX_DATABASES; i++)
	{
		if (strcmp(state->slots[i].database, database) != 0)
			continue;
		state->slots[i].held_until = until;
		pid = state->slots[i].pid;
	}
	launcher = state->launcher;
	SpinLockRelease(&state->lock);
	if (launcher)
		SetLatch(&launcher->procLatch);
	return pid;
}

static void
send_worker_away(const char *database)
{
	pid_t		pid,
				told = 0;

	for (int tries = 0; tries < 500; tries++)
	{
		pid = hold(database, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), HOLD_MS));
		if (pid == 0)
			return;
		if (pid != told)
			kill(pid, SIGTERM);
		told = pid;
		CHECK_FOR_INTERRUPTS();
		pg_usleep(10000);
	}
}

static void
utility(PlannedStmt *statement, const char *text, BLPG_READ_ONLY_TREE ProcessUtilityContext context, ParamListInfo parameters,
		QueryEnvironment *environment, DestReceiver *destination, QueryCompletion *completion)
{
	ProcessUtility_hook_type next = previous_utility ? previous_utility : standard_ProcessUtility;
	const char *emptied = emptied_database(statement->utilityStmt),
			   *named = named_database(statement->utilityStmt);
	char	   *const database = emptied ? pstrdup(emptied) : NULL,
			   *const later = named ? pstrdup(named) : NULL;
	Oid			oid = emptied ? get_database_oid(emptied, true) : InvalidOid;

	/* Who may not do it anyway disturbs nobody. */
	if (!OidIsValid(oid) || !blpg_owns_database(oid, GetUserId()))
	{
		next(statement, text, BLPG_PASS_READ_ONLY_TREE context, parameters, environment, destination, completion);
		if (later)
			tell_launcher(later);
		return;
	}
	PG_TRY();
	{
		send_worker_away(database);
		next(statement, text, BLPG_PASS_READ_ONLY_TREE context, parameters, environment, destination, completion);
		if (later)
			tell_launcher(later);
	}
	PG_FINALLY();
	{
		/* Not at once: the statement has yet to commit. */
		hold(database, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), FIRST_PAUSE_MS));
	}
	PG_END_TRY();
}

/* ---- loading ---- */

static void
request_memory(void)
{
#if BLPG_SHMEM_REQUEST_HOOK
	if (previous_request)
		previous_request();
#endif
	RequestAddinShmemSpace(sizeof(shared));
}

static void
startup(void)
{
	bool		found;

	if (previous_startup)
		previous_startup();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	state = ShmemInitStruct("bitlm workers", sizeof(shared), &found);
	if (!found)
	{
		memset(state, 0, sizeof *state);
		SpinLockInit(&state->lock);
	}
	LWLockRelease(AddinShmemInitLock);
}

static void
register_launcher(void)
{
	BackgroundWorker launcher = {0};

	launcher.bgw_flags = BGWORKER_SHMEM_ACCESS;
	launcher.bgw_start_time = BgWorkerStart_RecoveryFinished;
	launcher.bgw_restart_time = 1;
	strlcpy(launcher.bgw_name, "bitlm launcher", BGW_MAXLEN);
	strlcpy(launcher.bgw_type, "bitlm launcher", BGW_MAXLEN);
	strlcpy(launcher.bgw_library_name, "bitlm", BGW_MAXLEN);
	strlcpy(launcher.bgw_function_name, "blpg_launcher_main", BGW_MAXLEN);
	RegisterBackgroundWorker(&launcher);
}

void
blpg_init_worker(void)
{
	DefineCustomStringVariable("bitlm.worker_databases",
							   "Databases whose watched tables a background worker keeps fresh.",
							   "Names, separated by commas; needs bitlm in shared_preload_libraries.",
							   &worker_databases, "", PGC_SIGHUP, 0, check_databases, NULL, NULL);
	DefineCustomIntVariable("bitlm.worker_naptime", "How long a worker sleeps at most.",
							"It is woken by the commit of a change.",
							&worker_naptime, 5000, 100, 3600000, PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("bitlm.worker_batch", "Rows that are embedded together.", NULL,
							&blpg_worker_batch, 64, 1, 1024, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("bitlm.worker_timeout", "How long the triggers of a watched table may take in a worker.",
							"Also its types, policies and index expressions, for one batch.",
							&worker_timeout, 60000, 100, 3600000, PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	RegisterXactCallback(transaction_callback, NULL);
	RegisterResourceReleaseCallback(release_callback, NULL);
	if (!process_shared_preload_libraries_in_progress)
		return;
#if BLPG_SHMEM_REQUEST_HOOK
	previous_request = shmem_request_hook;
	shmem_request_hook = request_memory;
#else
	request_memory();
#endif
	previous_startup = shmem_startup_hook;
	shmem_startup_hook = startup;
	previous_utility = ProcessUtility_hook;
	ProcessUtility_hook = utility;
	register_launcher();
}
