/* am_build.c - CREATE INDEX and REINDEX, in one process or several.
 *
 * Nothing is sorted: whoever scans the table fills pages in local memory and appends them,
 * BATCH pages under one lock of the relation's end, past the buffers, and writes them to the
 * WAL.  So parallel workers need nothing of each other but the scan of the table, which the
 * server shares out, and the number of bits of a code.
 *
 * A page goes to its file, which the checkpointer is told of, before its image goes to the
 * WAL: a checkpoint that starts between has the page, one that starts before replays it.
 *
 * How many workers: what the server plans for an index build, by the table's size; but
 * where an expression is costly, as bitlm_embed is, all that may be had for few pages too. */
#include "am_index.h"

#include "access/parallel.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "access/xloginsert.h"
#include "catalog/index.h"
#include "catalog/pg_proc.h"
#include "commands/progress.h"
#include "executor/instrument.h"
#include "nodes/execnodes.h"
#include "optimizer/clauses.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "optimizer/planner.h"
#include "optimizer/plancat.h"
#include "pgstat.h"
#include "storage/bufmgr.h"
#include "storage/freespace.h"
#include "storage/indexfsm.h"
#include "storage/lmgr.h"
#include "storage/smgr.h"
#include "storage/spin.h"
#include "tcop/tcopprot.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#define BATCH 32
#define PHASE_SCAN (PROGRESS_CREATEIDX_SUBPHASE_INITIALIZE + 1)

#define KEY_SHARED UINT64CONST(0xB100000000000001)
#define KEY_QUERY UINT64CONST(0xB100000000000002)
#define KEY_WAL UINT64CONST(0xB100000000000003)
#define KEY_BUFFERS UINT64CONST(0xB100000000000004)

/* What all processes of a build see; the parallel scan of the table lies behind it. */
typedef struct build_shared
{
	Oid			heap,
				index;
	bool		concurrent;
	int			n_participants;
	slock_t		mutex;			/* of what follows */
	uint32		bits;
	double		n,
				heap_tuples;
	int			n_partial;		/* pages of codes that are not full */
	struct
	{
		BlockNumber block;
		uint32		room;
	}			partial[FLEXIBLE_ARRAY_MEMBER];
} build_shared;

typedef struct build_state
{
	Relation	index;
	blpg_shape	shape;			/* a copy: the relation's goes with an invalidation */
	build_shared *shared;
	uint32		bits;
	double		n,
				n_told;			/* of n, in shared->n */
	BlockNumber last[2];		/* the last page of codes and of NULLs */
	uint32		room;			/* of the last page of codes */
	Page		current[2];		/* being filled */
	Page		full[BATCH];
	int			which[BATCH];
	int			n_full;
	Page		spare[BATCH];
	int			n_spare;
	bool		reports;		/* the leader: tells pg_stat_progress_create_index */
} build_state;

static Size
shared_bytes(int n_participants)
{
	return BUFFERALIGN(offsetof(build_shared, partial) + n_participants * sizeof(((build_shared *) NULL)->partial[0]));
}

static ParallelTableScanDesc
shared_scan(build_shared *shared)
{
	return (ParallelTableScanDesc) ((char *) shared + shared_bytes(shared->n_participants));
}

/* ---- pages ---- */

static void
log_pages(Relation index, int n, BlockNumber *blocks, Page *pages)
{
#if PG_VERSION_NUM >= 150000
	log_newpages(BLPG_LOCATOR(index), MAIN_FORKNUM, n, blocks, (char **) pages, true);
#else
	for (int i = 0; i < n; i++)
		log_newpage(BLPG_LOCATOR(index), MAIN_FORKNUM, blocks[i], (char *) pages[i], true);
#endif
}

static void
flush_pages(build_state *state)
{
	Relation	index = state->index;
	bool		alone = RELATION_IS_LOCAL(index) && !state->shared;
	SMgrRelation file = blpg_smgr(index);
	BlockNumber blocks[BATCH],
				first;

	if (state->n_full == 0)
		return;
	if (!alone)
		LockRelationForExtension(index, ExclusiveLock);
	first = smgrnblocks(file, MAIN_FORKNUM);
	for (int i = 0; i < state->n_full; i++)
	{
		blocks[i] = first + (BlockNumber) i;
		PageSetChecksumInplace(state->full[i], blocks[i]);
		smgrextend(file, MAIN_FORKNUM, blocks[i], (char *) state->full[i], false);
		if (state->which[i] >= 0)
			state->last[state->which[i]] = blocks[i];
	}
	if (!alone)
		UnlockRelationForExtension(index, ExclusiveLock);
	if (RelationNeedsWAL(index))
		log_pages(index, state->n_full, blocks, state->full);
	while (state->n_full > 0)
		state->spare[state->n_spare++] = state->full[--state->n_full];
	if (state->shared)
	{
		double		n = state->n;

		SpinLockAcquire(&state->shared->mutex);
		state->shared->n += n - state->n_told;
		state->n_told = n;
		n = state->shared->n;
		SpinLockRelease(&state->shared->mutex);
		if (state->reports)
			pgstat_progress_update_param(PROGRESS_CREATEIDX_TUPLES_DONE, (int64) n);
	}
	else if (state->reports)
		pgstat_progress_update_param(PROGRESS_CREATEIDX_TUPLES_DONE, (int64) state->n);
}

/* Makes room in current[which]. */
static void
next_page(build_state *state, int which)
{
	if (state->current[which] && BLPG_OPAQUE(state->current[which])->n > 0)
	{
		if (which == 0)
			state->room = ((PageHeader) state->current[0])->pd_upper - ((PageHeader) state->current[0])->pd_lower;
		state->which[state->n_full] = which;
		state->full[state->n_full++] = state->current[which];
		state->current[which] = NULL;
		if (state->n_full == BATCH)
			flush_pages(state);
	}
	if (!state->current[which])
	{
		if (state->n_spare == 0)	/* the other page being filled has the last one */
			flush_pages(state);
		state->current[which] = state->spare[--state->n_spare];
	}
	blpg_page_init(state->current[which], which == 0 ? BLPG_PAGE_CODES : BLPG_PAGE_NULLS);
}

/* The first code of all processes decides, where neither column nor option says it. */
static void
learn_bits(build_state *state, int bits)
{
	if (state->bits != 0 || bits < 1 || bits > BLPG_MAX_BITS)
		return;
	state->bits = (uint32) bits;
	if (!state->shared)
		return;
	SpinLockAcquire(&state->shared->mutex);
	if (state->shared->bits == 0)
		state->shared->bits = (uint32) bits;
	state->bits = state->shared->bits;
	SpinLockRelease(&state->shared->mutex);
}

static void
build_row(Relation index, ItemPointer tid, Datum *values, bool *nulls, bool alive, void *argument)
{
	build_state *state = argument;
	const blpg_shape *shape = &state->shape;
	int			which = nulls[shape->code] ? 1 : 0;
	char		entry[BLPG_MAX_ENTRY];
	blpg_code	code = {.bytes = (const uint8_t *) ""};

	if (which == 0)
	{
		blpg_code_open(values[shape->code], &code);
		learn_bits(state, code.bits);
		blpg_code_check(index, code.bits, state->bits);
	}
	blpg_entry_form(shape, tid, values, nulls, entry);
	if (!blpg_page_add(state->current[which], code.bytes, code.n_bytes, entry, shape->entry_bytes))
	{
		next_page(state, which);
		if (!blpg_page_add(state->current[which], code.bytes, code.n_bytes, entry, shape->entry_bytes))
			elog(ERROR, "bitlm: a code of %d bytes does not fit a page", code.n_bytes);
	}
	state->n++;
	if (code.copy)
		pfree(code.copy);
}

static build_state *
begin_state(Relation index, build_shared *shared, uint32 bits)
{
	build_state *state = palloc0(sizeof *state);
	char	   *memory = palloc((BATCH + 1) * (Size) BLCKSZ);

	state->index = index;
	blpg_shape_of(index, &state->shape);
	state->shared = shared;
	state->bits = bits;
	state->last[0] = state->last[1] = InvalidBlockNumber;
	memory = (char *) TYPEALIGN(BLCKSZ, memory);
	for (int i = 0; i < BATCH; i++)
		state->spare[state->n_spare++] = (Page) (memory + i * (Size) BLCKSZ);
	return state;
}

/* Reads this process's part of the table; returns the table's rows in it. */
static double
scan_heap(build_state *state, Relation heap, IndexInfo *info, TableScanDesc scan)
{
	double		heap_tuples;

	next_page(state, 0);
	next_page(state, 1);
	heap_tuples = table_index_build_scan(heap, state->index, info, true, state->reports, build_row, state, scan);
	for (int which = 0; which < 2; which++)
		next_page(state, which);
	flush_pages(state);
	return heap_tuples;
}

/* ---- workers ---- */

/* Workers for an expression that costs more than the scan: as many as may be. */
static int
choose_workers(Relation heap, Relation index, IndexInfo *info)
{
	int			planned,
				most;
	List	   *expressions = RelationGetIndexExpressions(index);
	PlannerInfo *root;
	QualCost	cost;
	double		rows,
				all_visible;
	BlockNumber pages;

	if (max_parallel_maintenance_workers == 0 || heap->rd_rel->relpersistence == RELPERSISTENCE_TEMP ||
		IsParallelWorker() || !IsNormalProcessingMode())
		return 0;
	planned = plan_create_index_workers(RelationGetRelid(heap), RelationGetRelid(index));
	most = RelationGetParallelWorkers(heap, -1);
	if (planned > 0 || most >= 0 || expressions == NIL)
		return planned;
	root = makeNode(PlannerInfo);
	root->parse = makeNode(Query);
	root->glob = makeNode(PlannerGlobal);
	root->glob->maxParallelHazard = PROPARALLEL_UNSAFE;
	if (!is_parallel_safe(root, (Node *) expressions) ||
		!is_parallel_safe(root, (Node *) RelationGetIndexPredicate(index)))
		return 0;
	estimate_rel_size(heap, NULL, &pages, &rows, &all_visible);
	cost_qual_eval(&cost, expressions, root);
	if (pages < 2 || cost.per_tuple * rows < 10 * parallel_setup_cost)
		return 0;
	return (int) Min((BlockNumber) max_parallel_maintenance_workers, pages - 1);
}

static build_state *
run_participant(build_shared *shared, Relation heap, Relation index, IndexInfo *info, bool leader)
{
	build_state *state = begin_state(index, shared, shared->bits);
	TableScanDesc scan;
	double		heap_tuples;

	state->reports = leader;
	info->ii_Concurrent = shared->concurrent;
	scan = table_beginscan_parallel(heap, shared_scan(shared));
	heap_tuples = scan_heap(state, heap, info, scan);
	SpinLockAcquire(&shared->mutex);
	shared->heap_tuples += heap_tuples;
	shared->n += state->n - state->n_told;
	if (!leader && state->last[0] != InvalidBlockNumber)
	{
		shared->partial[shared->n_partial].block = state->last[0];
		shared->partial[shared->n_partial++].room = state->room;
	}
	SpinLockRelease(&shared->mutex);
	return state;
}

extern PGDLLEXPORT void blpg_build_worker(dsm_segment *segment, shm_toc *toc);

void
blpg_build_worker(dsm_segment *segment, shm_toc *toc)
{
	build_shared *shared = shm_toc_lookup(toc, KEY_SHARED, false);
	WalUsage   *wal = shm_toc_lookup(toc, KEY_WAL, false);
	BufferUsage *buffers = shm_toc_lookup(toc, KEY_BUFFERS, false);
	char	   *query = shm_toc_lookup(toc, KEY_QUERY, true);
	LOCKMODE	heap_lock = shared->concurrent ? ShareUpdateExclusiveLock : ShareLock,
				index_lock = shared->concurrent ? RowExclusiveLock : AccessExclusiveLock;
	Relation	heap,
				index;

	debug_query_string = query;
	pgstat_report_activity(STATE_RUNNING, debug_query_string);
	heap = table_open(shared->heap, heap_lock);
	index = index_open(shared->index, index_lock);
	InstrStartParallelQuery();
	run_participant(shared, heap, index, BuildIndexInfo(index), false);
	InstrEndParallelQuery(&buffers[ParallelWorkerNumber], &wal[ParallelWorkerNumber]);
	index_close(index, index_lock);
	table_close(heap, heap_lock);
}

/* The whole build by this process and n_workers others; NULL if there is no memory to share. */
static build_state *
build_parallel(Relation heap, Relation index, IndexInfo *info, uint32 bits, int n_workers, double *heap_tuples)
{
	ParallelContext *context;
	Snapshot	snapshot;
	build_shared *shared;
	build_state *state = NULL;
	WalUsage   *wal;
	BufferUsage *buffers;
	Size		bytes;
	int			query_bytes = debug_query_string ? (int) strlen(debug_query_string) + 1 : 0;

	EnterParallelMode();
	context = CreateParallelContext("$libdir/bitlm", "blpg_build_worker", n_workers);
	snapshot = info->ii_Concurrent ? RegisterSnapshot(GetTransactionSnapshot()) : SnapshotAny;
	bytes = add_size(shared_bytes(n_workers + 1), table_parallelscan_estimate(heap, snapshot));
	shm_toc_estimate_chunk(&context->estimator, bytes);
	shm_toc_estimate_chunk(&context->estimator, mul_size(sizeof(WalUsage), n_workers));
	shm_toc_estimate_chunk(&context->estimator, mul_size(sizeof(BufferUsage), n_workers));
	shm_toc_estimate_chunk(&context->estimator, (Size) query_bytes);
	shm_toc_estimate_keys(&context->estimator, 4);
	InitializeParallelDSM(context);
	if (context->seg)
	{
		shared = shm_toc_allocate(context->toc, bytes);
		memset(shared, 0, sizeof *shared);
		shared->heap = RelationGetRelid(heap);
		shared->index = RelationGetRelid(index);
		shared->concurrent = info->ii_Concurrent;
		shared->n_participants = n_workers + 1;
		shared->bits = bits;
		SpinLockInit(&shared->mutex);
		table_parallelscan_initialize(heap, shared_scan(shared), snapshot);
		wal = shm_toc_allocate(context->toc, mul_size(sizeof(WalUsage), n_workers));
		buffers = shm_toc_allocate(context->toc, mul_size(sizeof(BufferUsage), n_workers));
		shm_toc_insert(context->toc, KEY_SHARED, shared);
		shm_toc_insert(context->toc, KEY_WAL, wal);
		shm_toc_insert(context->toc, KEY_BUFFERS, buffers);
		if (query_bytes > 0)
			shm_toc_insert(context->toc, KEY_QUERY,
						   memcpy(shm_toc_allocate(context->toc, query_bytes), debug_query_string, query_bytes));
		LaunchParallelWorkers(context);
		/* Workers that could not be had leave the table to the others. */
		state = run_participant(shared, heap, index, info, true);
		WaitForParallelWorkersToFinish(context);
		for (int i = 0; i < context->nworkers_launched; i++)
			InstrAccumParallelQuery(&buffers[i], &wal[i]);
		for (int i = 0; i < shared->n_partial; i++)
			RecordPageWithFreeSpace(index, shared->partial[i].block, shared->partial[i].room);
		*heap_tuples = shared->heap_tuples;
		state->n = shared->n;
		state->bits = shared->bits;
	}
	if (IsMVCCSnapshot(snapshot))
		UnregisterSnapshot(snapshot);
	DestroyParallelContext(context);
	ExitParallelMode();
	return state;
}

/* ---- what the server calls ---- */

char *
blpg_build_phase(int64 phase)
{
	if (phase == PROGRESS_CREATEIDX_SUBPHASE_INITIALIZE)
		return "initializing";
	return phase == PHASE_SCAN ? "scanning table" : NULL;
}

IndexBuildResult *
blpg_build(Relation heap, Relation index, IndexInfo *info)
{
	IndexBuildResult *result = palloc0(sizeof *result);
	MemoryContext memory = AllocSetContextCreate(CurrentMemoryContext, "bitlm index build", ALLOCSET_DEFAULT_SIZES),
				old = MemoryContextSwitchTo(memory);
	build_state *state = NULL;
	Buffer		buffer;
	blpg_meta  *meta;
	uint32		bits;
	int			n_workers;

	if (RelationGetNumberOfBlocks(index) != 0)
		elog(ERROR, "index \"%s\" already contains data", RelationGetRelationName(index));
	pgstat_progress_update_param(PROGRESS_CREATEIDX_SUBPHASE, PHASE_SCAN);
	buffer = ReadBuffer(index, P_NEW);
	LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
	blpg_meta_init(index, BufferGetPage(buffer));
	bits = BLPG_META(BufferGetPage(buffer))->bits;
	MarkBufferDirty(buffer);
	UnlockReleaseBuffer(buffer);

	n_workers = choose_workers(heap, index, info);
	if (n_workers > 0)
		state = build_parallel(heap, index, info, bits, n_workers, &result->heap_tuples);
	if (!state)
	{
		state = begin_state(index, NULL, bits);
		state->reports = true;
		result->heap_tuples = scan_heap(state, heap, info, NULL);
	}

	buffer = ReadBuffer(index, 0);
	LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
	START_CRIT_SECTION();
	meta = BLPG_META(BufferGetPage(buffer));
	meta->bits = state->bits;
	meta->insert_codes = state->last[0];
	meta->insert_nulls = state->last[1];
	MarkBufferDirty(buffer);
	if (RelationNeedsWAL(index))
		log_newpage_buffer(buffer, true);
	END_CRIT_SECTION();
	UnlockReleaseBuffer(buffer);
	if (n_workers > 0)
		IndexFreeSpaceMapVacuum(index);
	result->index_tuples = state->n;
	MemoryContextSwitchTo(old);
	MemoryContextDelete(memory);
	return result;
}

/* The init fork of an unlogged table's index, which a crash copies over the main one. */
void
blpg_build_empty(Relation index)
{
	Buffer		buffer = ReadBufferExtended(index, INIT_FORKNUM, P_NEW, RBM_NORMAL, NULL);
	PGAlignedBlock page;

	blpg_meta_init(index, (Page) page.data);	/* may fail, so not in the critical section */
	LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
	START_CRIT_SECTION();
	memcpy(BufferGetPage(buffer), page.data, BLCKSZ);
	MarkBufferDirty(buffer);
	log_newpage_buffer(buffer, true);
	END_CRIT_SECTION();
	UnlockReleaseBuffer(buffer);
}
