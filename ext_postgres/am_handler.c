/* am_handler.c - the access method `bitlm` as the server sees it: its table of functions,
 * options, costs, and vacuum. */
#include "am_index.h"

#include "access/amapi.h"
#include "access/generic_xlog.h"
#include "access/reloptions.h"
#include "catalog/pg_amop.h"
#include "catalog/pg_opclass.h"
#include "catalog/pg_type.h"
#include "commands/vacuum.h"
#include "funcapi.h"
#include "nodes/pathnodes.h"
#include "optimizer/optimizer.h"
#include "storage/bufmgr.h"
#include "storage/freespace.h"
#include "storage/indexfsm.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/selfuncs.h"
#include "utils/spccache.h"

typedef struct index_options
{
	int32		vl_len_;
	int			bits;
} index_options;

static relopt_kind options_kind;

void
blpg_init_am(void)
{
	options_kind = add_reloption_kind();
	add_int_reloption(options_kind, "bits", "Bits of every code of the index", 0, 0, BLPG_MAX_BITS, AccessExclusiveLock);
}

static bytea *
am_options(Datum reloptions, bool validate)
{
	static const relopt_parse_elt table[] = {{"bits", RELOPT_TYPE_INT, offsetof(index_options, bits)}};

	return (bytea *) build_reloptions(reloptions, validate, options_kind, sizeof(index_options), table, lengthof(table));
}

int
blpg_option_bits(Relation index)
{
	const index_options *options = (const index_options *) index->rd_options;
	Form_pg_attribute column;
	blpg_shape	shape;
	int			of_column = 0;

	blpg_shape_of(index, &shape);
	column = TupleDescAttr(RelationGetDescr(index), shape.code);
	if (column->atttypid == BITOID && column->atttypmod > 0)
		of_column = column->atttypmod;
	if (options && options->bits > 0)
	{
		if (of_column > 0 && options->bits != of_column)
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							errmsg("bits is %d, but the column of the codes has type bit(%d)", options->bits, of_column)));
		return options->bits;
	}
	return of_column <= BLPG_MAX_BITS ? of_column : 0;
}

/* ---- costs ----
 * Every scan reads the whole index, in order; a code costs far less than an operator's
 * call.  Without an order and a range there is nothing that the index can do. */

static void
am_cost(PlannerInfo *root, IndexPath *path, double loop_count, Cost *startup, Cost *total, Selectivity *selectivity,
		double *correlation, double *pages)
{
	IndexOptInfo *index = path->indexinfo;
	List	   *quals = get_quals_from_indexclauses(path->indexclauses);
	double		n_pages = Max(index->pages, 1.0),
				tuples = Max(index->tuples, 1.0),
				page_cost,
				passes,
				pass;

	if (path->indexorderbys == NIL && path->indexclauses == NIL)
	{
		*startup = *total = get_float8_infinity();
		*selectivity = 0;
		*correlation = 0;
		*pages = 0;
		blpg_never(&path->path);
		return;
	}
	*selectivity = clauselist_selectivity(root, quals, (int) index->rel->relid, JOIN_INNER, NULL);
	get_tablespace_page_costs(index->reltablespace, NULL, &page_cost);
	pass = n_pages * page_cost + tuples * cpu_operator_cost * 0.1;
	/* How often a scan to its end passes over the index (am_scan.c). */
	passes = 1.0;
	if (path->indexorderbys != NIL)
		for (double n = 64.0; n < tuples * *selectivity; n *= 8.0)
			passes++;
	*startup = pass;
	*total = pass * passes + tuples * *selectivity * cpu_index_tuple_cost;
	*correlation = 0;
	*pages = n_pages;
}

/* ---- vacuum ---- */

/* Removes entries from one page by moving the last ones into the gaps: inside the page
 * only, so a scan that runs meanwhile misses nothing. */
static int
vacuum_page(Relation index, Buffer buffer, int code_bytes, int entry_bytes, IndexBulkDeleteCallback dead,
			void *dead_state)
{
	Page		page = BufferGetPage(buffer);
	int			n = BLPG_OPAQUE(page)->n,
				before = n,
				bytes = BLPG_OPAQUE(page)->kind == BLPG_PAGE_CODES ? code_bytes : 0;
	GenericXLogState *state = NULL;

	for (int i = n - 1; i >= 0; i--)
	{
		if (!dead((ItemPointer) BLPG_ENTRY(page, i, entry_bytes), dead_state))
			continue;
		if (!state)
		{
			state = GenericXLogStart(index);
			page = GenericXLogRegisterBuffer(state, buffer, 0);
		}
		n--;
		if (i != n)
		{
			memcpy(BLPG_CODES(page) + (Size) i * bytes, BLPG_CODES(page) + (Size) n * bytes, bytes);
			memcpy(BLPG_ENTRY(page, i, entry_bytes), BLPG_ENTRY(page, n, entry_bytes), entry_bytes);
		}
	}
	if (state)
	{
		BLPG_OPAQUE(page)->n = (uint16) n;
		((PageHeader) page)->pd_lower = (LocationIndex) (BLPG_CODES(page) - (uint8_t *) page + (Size) n * bytes);
		((PageHeader) page)->pd_upper = (LocationIndex) (((PageHeader) page)->pd_special - (Size) n * entry_bytes);
		GenericXLogFinish(state);
	}
	return before - n;
}

/* Counts, and with `dead` also removes; tells the free space map what has room. */
static IndexBulkDeleteResult *
vacuum_pages(IndexVacuumInfo *info, IndexBulkDeleteResult *stats, IndexBulkDeleteCallback dead, void *dead_state)
{
	Relation	index = info->index;
	BlockNumber n_blocks = RelationGetNumberOfBlocks(index);
	blpg_meta	meta;
	int			bytes,
				entry_bytes;

	if (!stats)
		stats = palloc0(sizeof *stats);
	blpg_meta_read(index, &meta);
	bytes = (int) (meta.bits + 7) / 8;
	entry_bytes = (int) meta.entry_bytes;
	stats->num_index_tuples = 0;
	stats->pages_free = 0;
	for (BlockNumber block = 1; block < n_blocks; block++)
	{
		Buffer		buffer;
		Page		page;
		Size		room = 0;
		bool		changed = false;

		vacuum_delay_point(
#if PG_VERSION_NUM >= 180000
						   false
#endif
			);
		buffer = ReadBufferExtended(index, MAIN_FORKNUM, block, RBM_NORMAL, info->strategy);
		LockBuffer(buffer, dead ? BUFFER_LOCK_EXCLUSIVE : BUFFER_LOCK_SHARE);
		page = BufferGetPage(buffer);
		if (!PageIsNew(page))
		{
			blpg_page_check(index, block, page, bytes, entry_bytes);
			if (dead)
			{
				int			removed = vacuum_page(index, buffer, bytes, entry_bytes, dead, dead_state);

				stats->tuples_removed += removed;
				changed = removed > 0;
			}
			page = BufferGetPage(buffer);
			stats->num_index_tuples += BLPG_OPAQUE(page)->n;
			if (BLPG_OPAQUE(page)->n == 0)
				stats->pages_free++;
			if (BLPG_OPAQUE(page)->kind == BLPG_PAGE_CODES || BLPG_OPAQUE(page)->n == 0)
				room = (Size) (((PageHeader) page)->pd_upper - ((PageHeader) page)->pd_lower);
		}
		UnlockReleaseBuffer(buffer);
		if (changed)
			RecordPageWithFreeSpace(index, block, room);
	}
	stats->num_pages = n_blocks;
	return stats;
}

static IndexBulkDeleteResult *
am_bulk_delete(IndexVacuumInfo *info, IndexBulkDeleteResult *stats, IndexBulkDeleteCallback dead, void *dead_state)
{
	return vacuum_pages(info, stats, dead, dead_state);
}

static IndexBulkDeleteResult *
am_vacuum_cleanup(IndexVacuumInfo *info, IndexBulkDeleteResult *stats)
{
	if (info->analyze_only)
		return stats;
	if (!stats)
		stats = vacuum_pages(info, NULL, NULL, NULL);
	IndexFreeSpaceMapVacuum(info->index);
	return stats;
}

static bool
am_validate(Oid opclass)
{
	return true;				/* the operator classes are the extension's own */
}

PG_FUNCTION_INFO_V1(blpg_handler);

Datum
blpg_handler(PG_FUNCTION_ARGS)
{
	IndexAmRoutine *am = makeNode(IndexAmRoutine);

	am->amstrategies = 3;
	am->amsupport = 0;
	am->amcanorderbyop = true;
	am->amcanmulticol = true;
	am->amoptionalkey = true;
	am->amsearcharray = true;
	am->amsearchnulls = true;
#if BLPG_SERVER_PLANS_WORKERS
	am->amcanbuildparallel = true;
#endif
	am->amparallelvacuumoptions = VACUUM_OPTION_PARALLEL_BULKDEL | VACUUM_OPTION_PARALLEL_COND_CLEANUP;
	am->amkeytype = InvalidOid;
	am->ambuild = blpg_build;
	am->ambuildempty = blpg_build_empty;
	am->aminsert = blpg_insert;
	am->ambulkdelete = am_bulk_delete;
	am->amvacuumcleanup = am_vacuum_cleanup;
	am->amcostestimate = am_cost;
	am->amoptions = am_options;
	am->ambuildphasename = blpg_build_phase;
	am->amvalidate = am_validate;
	am->ambeginscan = blpg_begin_scan;
	am->amrescan = blpg_rescan;
	am->amgettuple = blpg_get_tuple;
	am->amgetbitmap = blpg_get_bitmap;
	am->amendscan = blpg_end_scan;
	PG_RETURN_POINTER(am);
}

/* ---- bitlm_index_check ---- */

PG_FUNCTION_INFO_V1(blpg_index_check);

/* Reads every page; ERROR (XX002) names the first that is damaged.  Returns the entries. */
Datum
blpg_index_check(PG_FUNCTION_ARGS)
{
	Relation	index = index_open(PG_GETARG_OID(0), AccessShareLock);
	IndexVacuumInfo info = {.index = index};
	IndexBulkDeleteResult *stats;

	if (index->rd_indam->ambuild != blpg_build)
		ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
						errmsg("\"%s\" is not an index of bitlm", RelationGetRelationName(index))));
	stats = vacuum_pages(&info, NULL, NULL, NULL);
	index_close(index, AccessShareLock);
	PG_RETURN_INT64((int64) stats->num_index_tuples);
}
