/* am_build.c - CREATE INDEX and REINDEX.
 *
 * Entries fill a page in local memory, full pages are appended, and one pass at the end
 * writes them to the WAL (log_newpage_range).  Nothing is sorted. */
#include "am_index.h"

#include "access/tableam.h"
#include "access/xloginsert.h"
#include "commands/progress.h"
#include "nodes/execnodes.h"
#include "pgstat.h"
#include "storage/bufmgr.h"
#include "utils/memutils.h"

typedef struct build_state
{
	Relation	index;
	uint32		bits;
	double		n;
	BlockNumber last[2];		/* the last page of codes and of NULLs */
	PGAlignedBlock pages[2];
	MemoryContext memory;		/* for one row */
} build_state;

static void
append_page(build_state *state, int which)
{
	Page		page = (Page) state->pages[which].data;
	Buffer		buffer;

	if (BLPG_OPAQUE(page)->n == 0)
		return;
	buffer = ReadBufferExtended(state->index, MAIN_FORKNUM, P_NEW, RBM_NORMAL, NULL);
	LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
	memcpy(BufferGetPage(buffer), page, BLCKSZ);
	MarkBufferDirty(buffer);
	state->last[which] = BufferGetBlockNumber(buffer);
	UnlockReleaseBuffer(buffer);
	blpg_page_init(page, which == 0 ? BLPG_PAGE_CODES : BLPG_PAGE_NULLS);
}

static void
build_row(Relation index, ItemPointer tid, Datum *values, bool *nulls, bool alive, void *argument)
{
	build_state *state = argument;
	int			which = nulls[0] ? 1 : 0;
	VarBit	   *code = NULL;
	const uint8_t *bytes = (const uint8_t *) "";
	int			n_bytes = 0;
	MemoryContext old = MemoryContextSwitchTo(state->memory);

	if (!nulls[0])
	{
		code = DatumGetVarBitP(values[0]);
		blpg_code_check(index, code, state->bits);
		state->bits = (uint32) VARBITLEN(code);
		bytes = VARBITS(code);
		n_bytes = (int) VARBITBYTES(code);
	}
	if (!blpg_page_add((Page) state->pages[which].data, bytes, n_bytes, tid))
	{
		append_page(state, which);
		blpg_page_add((Page) state->pages[which].data, bytes, n_bytes, tid);
	}
	state->n++;
	MemoryContextSwitchTo(old);
	if (code && (Pointer) code != DatumGetPointer(values[0]))
		MemoryContextReset(state->memory);
}

IndexBuildResult *
blpg_build(Relation heap, Relation index, IndexInfo *info)
{
	IndexBuildResult *result = palloc0(sizeof *result);
	build_state *state = palloc0(sizeof *state);
	Buffer		buffer;
	blpg_meta  *meta;

	if (RelationGetNumberOfBlocks(index) != 0)
		elog(ERROR, "index \"%s\" already contains data", RelationGetRelationName(index));
	state->index = index;
	state->memory = AllocSetContextCreate(CurrentMemoryContext, "bitlm index build", ALLOCSET_DEFAULT_SIZES);
	state->last[0] = state->last[1] = InvalidBlockNumber;
	blpg_page_init((Page) state->pages[0].data, BLPG_PAGE_CODES);
	blpg_page_init((Page) state->pages[1].data, BLPG_PAGE_NULLS);
	buffer = ReadBuffer(index, P_NEW);
	LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
	blpg_meta_init(index, BufferGetPage(buffer));
	state->bits = BLPG_META(BufferGetPage(buffer))->bits;
	MarkBufferDirty(buffer);
	UnlockReleaseBuffer(buffer);

	result->heap_tuples = table_index_build_scan(heap, index, info, true, true, build_row, state, NULL);
	append_page(state, 0);
	append_page(state, 1);

	buffer = ReadBuffer(index, 0);
	LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
	meta = BLPG_META(BufferGetPage(buffer));
	meta->bits = state->bits;
	meta->insert_codes = state->last[0];
	meta->insert_nulls = state->last[1];
	MarkBufferDirty(buffer);
	UnlockReleaseBuffer(buffer);
	if (RelationNeedsWAL(index))
		log_newpage_range(index, MAIN_FORKNUM, 0, RelationGetNumberOfBlocks(index), true);
	result->index_tuples = state->n;
	MemoryContextDelete(state->memory);
	pfree(state);
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
