/* am_scan.c - ordered and range scans of the index.
 *
 * A scan is never told how many rows will be wanted.  So an ordered one collects the
 * `wanted` nearest entries of all pages, hands them out, and when more are asked for
 * reads all pages again for a larger batch of entries behind the last one.  What makes
 * "behind" total is a key of one number: distance, then TID.  Rows that the snapshot sees
 * are in the index at every pass (vacuum removes only what no snapshot sees, and moves
 * entries inside their page only), so none is missed and none comes twice.
 *
 * Conditions on the other columns of the index (=, IN, IS NULL, IS NOT NULL) are tested
 * before an entry counts as found, by the server's own functions of the operators; so a
 * batch is never filled with rows that they reject.
 *
 * Rows whose code is NULL come last, at a distance above all others; with a NULL query
 * every row is such a row.
 *
 * No page stays pinned between rows: a TID that vacuum freed and another row took since
 * is invisible to an MVCC snapshot. */
#include "am_index.h"

#include "access/relscan.h"
#include "nodes/tidbitmap.h"
#include "pgstat.h"
#include "search/codes.h"
#include "storage/bufmgr.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#define FIRST_BATCH 64
#define BATCH_GROWTH 8
#define LARGEST_BATCH (1 << 24)

typedef struct range
{
	VarBit	   *center;
	int32		radius;
} range;

/* A condition on a column other than the code, or on whether the code is NULL. */
typedef struct condition
{
	int			column;
	int			flags;			/* SK_SEARCHNULL, SK_SEARCHNOTNULL */
	FmgrInfo   *equal;
	Oid			collation;
	Datum	   *values;			/* any of them; none if all are NULL */
	int			n_values;
} condition;

typedef struct scan_state
{
	blpg_shape	shape;
	bool		began;
	bool		ordered;
	bool		impossible;		/* a condition that no row fulfils */
	bool		no_codes,		/* the code IS NULL, IS NOT NULL */
				no_nulls;
	bool		recheck;
	bool		exhausted;		/* there is nothing behind the last batch */
	VarBit	   *query;			/* of an ordered scan; NULL if it is NULL */
	range	   *ranges;
	int			n_ranges;
	condition  *conditions;
	int			n_conditions;
	uint64	   *found;			/* keys: distance << 48 | block << 16 | offset */
	int64		n_found,
				capacity,
				wanted,
				next;
	uint64		behind;			/* keys above this one are still to come */
	BufferAccessStrategy strategy;
	MemoryContext memory;		/* of query and ranges */
	uint32_t	rows[BLPG_MAX_ENTRIES];
	uint32_t	distances[BLPG_MAX_ENTRIES];
} scan_state;

static uint64
make_key(uint32 distance, const ItemPointerData *tid)
{
	return (uint64) distance << 48 | (uint64) ItemPointerGetBlockNumberNoCheck(tid) << 16 |
		ItemPointerGetOffsetNumberNoCheck(tid);
}

/* ---- the `wanted` smallest keys: a heap with the largest on top ---- */

static void
sift_down(uint64 *heap, int64 n)
{
	int64		at = 0,
				child;
	uint64		moved = heap[0];

	while ((child = 2 * at + 1) < n)
	{
		if (child + 1 < n && heap[child + 1] > heap[child])
			child++;
		if (heap[child] <= moved)
			break;
		heap[at] = heap[child];
		at = child;
	}
	heap[at] = moved;
}

static void
sift_up(uint64 *heap, int64 at)
{
	uint64		moved = heap[at];

	while (at > 0 && heap[(at - 1) / 2] < moved)
	{
		heap[at] = heap[(at - 1) / 2];
		at = (at - 1) / 2;
	}
	heap[at] = moved;
}

static void
offer(scan_state *state, uint64 key)
{
	if (key <= state->behind)
		return;
	if (state->n_found == state->wanted)
	{
		if (key >= state->found[0])
			return;
		state->found[0] = key;
		sift_down(state->found, state->n_found);
		return;
	}
	if (state->n_found == state->capacity)
	{
		state->capacity *= 2;
		state->found = repalloc_huge(state->found, (Size) state->capacity * sizeof(uint64));
	}
	state->found[state->n_found] = key;
	sift_up(state->found, state->n_found++);
}

static int
compare_keys(const void *a, const void *b)
{
	uint64		x = *(const uint64 *) a,
				y = *(const uint64 *) b;

	return x < y ? -1 : x > y;
}

/* ---- pages ---- */

static bool
in_ranges(const scan_state *state, int from, const uint8_t *code, int bytes)
{
	for (int i = from; i < state->n_ranges; i++)
		if ((int64) bitlm_hamming(code, VARBITS(state->ranges[i].center), (size_t) bytes) > state->ranges[i].radius)
			return false;
	return true;
}

static bool
fulfils(const scan_state *state, const char *entry)
{
	for (int i = 0; i < state->n_conditions; i++)
	{
		const condition *at = &state->conditions[i];
		union
		{
			char		bytes[BLPG_MAX_ENTRY];
			Datum		alignment;
		}			scratch;
		bool		is_null,
					equal = false;
		Datum		value = blpg_entry_value(&state->shape, entry, at->column, scratch.bytes, &is_null);

		if (at->flags & (SK_SEARCHNULL | SK_SEARCHNOTNULL))
		{
			if (is_null != ((at->flags & SK_SEARCHNULL) != 0))
				return false;
			continue;
		}
		for (int j = 0; j < at->n_values && !is_null && !equal; j++)
			equal = DatumGetBool(FunctionCall2Coll(at->equal, at->collation, value, at->values[j]));
		if (!equal)
			return false;
	}
	return true;
}

static void
offer_entry(scan_state *state, uint32 distance, Page page, int row)
{
	const char *entry = BLPG_ENTRY(page, row, state->shape.entry_bytes);
	uint64		key = make_key(distance, (const ItemPointerData *) entry);

	if (key > state->behind && fulfils(state, entry))
		offer(state, key);
}

static void
scan_codes(scan_state *state, Page page, int bytes)
{
	const uint8_t *codes = BLPG_CODES(page);
	const uint8_t *query;
	uint32		below = BLPG_NULL_DISTANCE;
	int			n = BLPG_OPAQUE(page)->n,
				first_range = 0;
	int64_t		near;

	if (state->ordered && state->query)
	{
		query = VARBITS(state->query);
		if (state->n_found == state->wanted)
			below = (uint32) (state->found[0] >> 48) + 1;
	}
	else if (state->n_ranges > 0)
	{
		query = VARBITS(state->ranges[0].center);
		if (state->ranges[0].radius < 0)
			return;
		below = (uint32) Min(state->ranges[0].radius, BLPG_MAX_BITS) + 1;
		first_range = 1;
	}
	else
	{
		for (int i = 0; i < n; i++)
			offer_entry(state, BLPG_NULL_DISTANCE, page, i);
		return;
	}
	near = bl_codes_below(query, codes, n, bytes, below, state->rows, state->distances);
	for (int64_t i = 0; i < near; i++)
	{
		uint32		row = state->rows[i];

		if (in_ranges(state, first_range, codes + (Size) row * bytes, bytes))
			offer_entry(state, first_range ? (state->ordered ? BLPG_NULL_DISTANCE : 0) : state->distances[i], page,
						(int) row);
	}
}

static void
check_query(Relation index, const VarBit *code, uint32 bits)
{
	if (code && bits != 0)
		blpg_code_check(index, VARBITLEN(code), bits);
}

/* One pass over the index: the `wanted` smallest keys behind the last batch, ascending. */
static void
collect(IndexScanDesc scan)
{
	scan_state *state = scan->opaque;
	Relation	index = scan->indexRelation;
	BlockNumber n_blocks;
	blpg_meta	meta;
	int			bytes;

	blpg_meta_read(index, &meta);
	check_query(index, state->query, meta.bits);
	for (int i = 0; i < state->n_ranges; i++)
		check_query(index, state->ranges[i].center, meta.bits);
	bytes = (int) (meta.bits + 7) / 8;
	state->n_found = state->next = 0;
	n_blocks = RelationGetNumberOfBlocks(index);
	for (BlockNumber block = 1; block < n_blocks; block++)
	{
		Buffer		buffer;
		Page		page;

		CHECK_FOR_INTERRUPTS();
		buffer = ReadBufferExtended(index, MAIN_FORKNUM, block, RBM_NORMAL, state->strategy);
		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		page = BufferGetPage(buffer);
		if (!PageIsNew(page))
		{
			blpg_page_check(index, block, page, bytes, state->shape.entry_bytes);
			if (BLPG_OPAQUE(page)->kind == BLPG_PAGE_CODES)
			{
				if (!state->no_codes)
					scan_codes(state, page, bytes);
			}
			else if (state->n_ranges == 0 && !state->no_nulls)
			{
				for (int i = 0; i < BLPG_OPAQUE(page)->n; i++)
					offer_entry(state, BLPG_NULL_DISTANCE, page, i);
			}
		}
		UnlockReleaseBuffer(buffer);
	}
	state->exhausted = state->n_found < state->wanted;
	qsort(state->found, (size_t) state->n_found, sizeof(uint64), compare_keys);
	if (state->n_found > 0)
		state->behind = state->found[state->n_found - 1];
}

/* ---- what the executor calls ---- */

IndexScanDesc
blpg_begin_scan(Relation index, int n_keys, int n_orders)
{
	IndexScanDesc scan = RelationGetIndexScan(index, n_keys, n_orders);
	scan_state *state = palloc0(sizeof *state);

	state->memory = AllocSetContextCreate(CurrentMemoryContext, "bitlm index scan", ALLOCSET_SMALL_SIZES);
	blpg_shape_of(index, &state->shape);
	state->capacity = FIRST_BATCH;
	state->found = palloc(state->capacity * sizeof(uint64));
	/* A large index must not push everything else out of the buffers. */
	if (RelationGetNumberOfBlocks(index) > (BlockNumber) NBuffers / 4)
		state->strategy = GetAccessStrategy(BAS_BULKREAD);
	scan->opaque = state;
	return scan;
}

/* The values of `column = value` or `column IN (...)`, without those that are NULL. */
static void
add_values(condition *to, ScanKey key)
{
	ArrayType  *array;
	int16		length;
	bool		by_value,
			   *nulls;
	char		alignment;
	int			n;

	to->values = palloc(sizeof(Datum));
	to->n_values = 0;
	if (key->sk_flags & SK_ISNULL)
		return;
	if (!(key->sk_flags & SK_SEARCHARRAY))
	{
		/* The executor keeps the argument until the next rescan. */
		to->values[to->n_values++] = key->sk_argument;
		return;
	}
	array = DatumGetArrayTypePCopy(key->sk_argument);
	get_typlenbyvalalign(ARR_ELEMTYPE(array), &length, &by_value, &alignment);
	deconstruct_array(array, ARR_ELEMTYPE(array), length, by_value, alignment, &to->values, &nulls, &n);
	for (int i = 0; i < n; i++)
		if (!nulls[i])
			to->values[to->n_values++] = to->values[i];
}

static void
add_key(scan_state *state, ScanKey key)
{
	int			column = key->sk_attno - 1;

	if (column == state->shape.code && key->sk_flags & (SK_SEARCHNULL | SK_SEARCHNOTNULL))
	{
		if (key->sk_flags & SK_SEARCHNULL)
			state->no_codes = true;
		else
			state->no_nulls = true;
	}
	else if (column == state->shape.code)
	{
		range	   *to = &state->ranges[state->n_ranges];

		if (key->sk_flags & SK_SEARCHARRAY)
		{
			state->recheck = true;	/* one of several spheres: left to the executor */
			return;
		}
		if (!(key->sk_flags & SK_ISNULL))
			blpg_sphere_parts(key->sk_argument, &to->center, &to->radius);
		if (key->sk_flags & SK_ISNULL || !to->center)
			state->impossible = true;
		else
			state->n_ranges++;
	}
	else
	{
		condition  *to = &state->conditions[state->n_conditions++];

		to->column = column;
		to->flags = key->sk_flags;
		to->equal = &key->sk_func;
		to->collation = key->sk_collation;
		to->n_values = 0;
		if (key->sk_flags & (SK_SEARCHNULL | SK_SEARCHNOTNULL))
			return;
		add_values(to, key);
		if (to->n_values == 0)
			state->impossible = true;
	}
}

void
blpg_rescan(IndexScanDesc scan, ScanKey keys, int n_keys, ScanKey orders, int n_orders)
{
	scan_state *state = scan->opaque;
	MemoryContext old;

	if (keys && scan->numberOfKeys > 0)
		memmove(scan->keyData, keys, scan->numberOfKeys * sizeof(ScanKeyData));
	if (orders && scan->numberOfOrderBys > 0)
		memmove(scan->orderByData, orders, scan->numberOfOrderBys * sizeof(ScanKeyData));
	MemoryContextReset(state->memory);
	old = MemoryContextSwitchTo(state->memory);
	state->began = state->impossible = state->exhausted = false;
	state->ordered = scan->numberOfOrderBys > 0;
	state->query = NULL;
	if (state->ordered && !(scan->orderByData[0].sk_flags & SK_ISNULL))
		state->query = DatumGetVarBitPCopy(scan->orderByData[0].sk_argument);
	state->no_codes = state->no_nulls = state->recheck = false;
	state->n_ranges = state->n_conditions = 0;
	state->ranges = palloc((scan->numberOfKeys + 1) * sizeof(range));
	state->conditions = palloc((scan->numberOfKeys + 1) * sizeof(condition));
	for (int i = 0; i < scan->numberOfKeys; i++)
		add_key(state, &scan->keyData[i]);
	state->n_found = state->next = 0;
	state->behind = 0;
	state->wanted = state->ordered ? FIRST_BATCH : LARGEST_BATCH;
	MemoryContextSwitchTo(old);
}

bool
blpg_get_tuple(IndexScanDesc scan, ScanDirection direction)
{
	scan_state *state = scan->opaque;
	uint64		key;

	if (state->impossible)
		return false;
	if (!state->began)
	{
		pgstat_count_index_scan(scan->indexRelation);
		state->began = true;
		collect(scan);
	}
	else if (state->next == state->n_found && !state->exhausted)
	{
		state->wanted = Min(state->wanted * BATCH_GROWTH, LARGEST_BATCH);
		collect(scan);
	}
	if (state->next == state->n_found)
		return false;
	key = state->found[state->next++];
	ItemPointerSet(&scan->xs_heaptid, (BlockNumber) (key >> 16 & 0xffffffff), (OffsetNumber) (key & 0xffff));
	scan->xs_recheck = state->recheck;
	scan->xs_recheckorderby = false;
	return true;
}

int64
blpg_get_bitmap(IndexScanDesc scan, TIDBitmap *bitmap)
{
	scan_state *state = scan->opaque;
	int64		n = 0;

	while (blpg_get_tuple(scan, ForwardScanDirection))
	{
		tbm_add_tuples(bitmap, &scan->xs_heaptid, 1, state->recheck);
		n++;
	}
	state->began = false;
	return n;
}

void
blpg_end_scan(IndexScanDesc scan)
{
	scan_state *state = scan->opaque;

	if (state->strategy)
		FreeAccessStrategy(state->strategy);
	MemoryContextDelete(state->memory);
	pfree(state->found);
	pfree(state);
}
