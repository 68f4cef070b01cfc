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
#include "access/tableam.h"
#include "access/xact.h"
#include "access/xloginsert.h"
#include "catalog/index.h"
#include "commands/progress.h"
#include "executor/instrument.h"
#include "nodes/execnodes.h"
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
	const blpg_shape *shape;
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

static ParallelTableScanDesc
shared_scan(build_shared *shared, int n_participants)
{
	return (ParallelTableScanDesc) ((char *) shared +
									BUFFERALIGN(offsetof(build_shared, partial) +
												n_participants * sizeof(shared->partial[0])));
}

/* ---- pages ---- */

static void
flush_pages(build_state *state)
{
	Relation	index = state->index;
	bool		alone = RELATION_IS_LOCAL(index) && !state->shared;
	SMgrRelation file = RelationGetSmgr(index);
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
		blpg_log_pages(index, state->n_full, blocks, state->full);
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
	const blpg_shape *shape = state->shape;
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
	state->shape = blpg_shape_of(index);
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

static void
run_participant(build_shared *shared, int n_participants, Relation heap, Relation index, IndexInfo *info,
				bool leader, build_state **out)
{
	build_state *state = begin_state(index, shared, shared->bits);
	TableScanDesc scan;
	double		heap_tuples;

	state->reports = leader;
	info->ii_Concurrent = shared->concurrent;
	scan = table_beginscan_parallel(heap, shared_scan(shared, n_participants));
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
	*out = state;
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
	build_state *state;

	debug_query_string = query;
	pgstat_report_activity(STATE_RUNNING, debug_query_string);
	heap = table_open(shared->heap, heap_lock);
	index = index_open(shared->index, index_lock);
	InstrStartParallelQuery();
	/* The participants' number only says where the scan lies: the leader left it in n_partial. */
	run_participant(shared, (int) *(int64 *) shm_toc_lookup(toc, KEY_SHARED + 0x100, false), heap, index,
					BuildIndexInfo(index), false, &state);
	InstrEndParallelQuery(&buffers[ParallelWorkerNumber], &wal[ParallelWorkerNumber]);
	index_close(index, index_lock);
	table_close(heap, heap_lock);
}
