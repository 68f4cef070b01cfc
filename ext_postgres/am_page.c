/* am_page.c - pages of the index: made, checked, and one entry put in.
 *
 * A page is checked when it is read: what it says of itself must fit into it.  An insert
 * first tries the page that the metapage names, then what the free space map knows
 * (vacuum tells it), and at last a new page; the metapage's lock orders those who extend.
 * All changes after the build go through GenericXLog. */
#include "am_index.h"

#include "access/generic_xlog.h"
#include "catalog/pg_type.h"
#include "nodes/execnodes.h"
#include "nodes/nodeFuncs.h"
#include "storage/bufmgr.h"
#include "storage/freespace.h"
#include "storage/indexfsm.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"

void
blpg_page_init(Page page, int kind)
{
	PageInit(page, BLCKSZ, sizeof(blpg_opaque));
	BLPG_OPAQUE(page)->magic = BLPG_MAGIC;
	BLPG_OPAQUE(page)->kind = kind;
	BLPG_OPAQUE(page)->n = 0;
	((PageHeader) page)->pd_lower = (LocationIndex) (BLPG_CODES(page) - (uint8_t *) page);
}

/* Does an expression call the built-in bitlm_embed(text)? */
static bool
calls_embed(Node *node, void *context)
{
	char	   *name;

	if (!node)
		return false;
	if (IsA(node, FuncExpr) && list_length(((FuncExpr *) node)->args) == 1)
	{
		name = get_func_name(((FuncExpr *) node)->funcid);
		if (name && strcmp(name, "bitlm_embed") == 0)
			return true;
	}
	return expression_tree_walker(node, calls_embed, context);
}

void
blpg_meta_init(Relation index, Page page)
{
	blpg_meta  *meta;
	blpg_shape	shape;

	blpg_shape_of(index, &shape);
	blpg_page_init(page, BLPG_PAGE_META);
	meta = BLPG_META(page);
	memset(meta, 0, sizeof *meta);
	meta->magic = BLPG_MAGIC;
	meta->layout = BLPG_LAYOUT;
	meta->bits = (uint32) blpg_option_bits(index);
	meta->insert_codes = meta->insert_nulls = InvalidBlockNumber;
	meta->numerics = BITLM_NUMERICS;
	meta->entry_bytes = (uint32) shape.entry_bytes;
	if (calls_embed((Node *) RelationGetIndexExpressions(index), NULL))
	{
		meta->has_model = 1;
		memcpy(meta->model_id, blpg_builtin_id(), 16);
	}
	((PageHeader) page)->pd_lower = (LocationIndex) ((char *) (meta + 1) - (char *) page);
}

static void
corrupt(Relation index, BlockNumber block, const char *what)
{
	ereport(ERROR, (errcode(ERRCODE_INDEX_CORRUPTED),
					errmsg("index \"%s\" is damaged at block %u: %s", RelationGetRelationName(index), block, what),
					errhint("REINDEX INDEX \"%s\" builds it anew.", RelationGetRelationName(index))));
}

void
blpg_page_check(Relation index, BlockNumber block, Page page, int code_bytes, int entry_bytes)
{
	const blpg_opaque *opaque;
	PageHeader	header = (PageHeader) page;
	int			bytes;

	if (PageGetSpecialSize(page) != MAXALIGN(sizeof(blpg_opaque)))
		corrupt(index, block, "the page is of another kind");
	opaque = BLPG_OPAQUE(page);
	if (opaque->magic != BLPG_MAGIC || (opaque->kind != BLPG_PAGE_CODES && opaque->kind != BLPG_PAGE_NULLS))
		corrupt(index, block, "the page is of another kind");
	bytes = opaque->kind == BLPG_PAGE_CODES ? code_bytes : 0;
	if (header->pd_lower != BLPG_CODES(page) - (uint8_t *) page + (Size) opaque->n * bytes ||
		header->pd_upper != header->pd_special - (Size) opaque->n * (Size) entry_bytes ||
		header->pd_lower > header->pd_upper)
		corrupt(index, block, "the number of entries does not fit the page");
}

bool
blpg_page_add(Page page, const uint8_t *code, int code_bytes, const char *entry, int entry_bytes)
{
	PageHeader	header = (PageHeader) page;

	if (header->pd_upper - header->pd_lower < code_bytes + entry_bytes)
		return false;
	memcpy((char *) page + header->pd_lower, code, code_bytes);
	header->pd_lower += code_bytes;
	header->pd_upper -= entry_bytes;
	memcpy((char *) page + header->pd_upper, entry, entry_bytes);
	BLPG_OPAQUE(page)->n++;
	return true;
}

static void
meta_check(Relation index, Page page, blpg_meta *meta)
{
	blpg_shape	shape;

	if (PageIsNew(page) || PageGetSpecialSize(page) != MAXALIGN(sizeof(blpg_opaque)) ||
		BLPG_OPAQUE(page)->magic != BLPG_MAGIC || BLPG_OPAQUE(page)->kind != BLPG_PAGE_META)
		corrupt(index, 0, "there is no metapage");
	memcpy(meta, BLPG_META(page), sizeof *meta);
	if (meta->magic != BLPG_MAGIC || meta->layout != BLPG_LAYOUT || meta->bits > BLPG_MAX_BITS)
		corrupt(index, 0, "the metapage is of another version");
	if (meta->entry_bytes == 0)
		meta->entry_bytes = sizeof(ItemPointerData);
	blpg_shape_of(index, &shape);
	if (meta->entry_bytes != (uint32) shape.entry_bytes)
		corrupt(index, 0, "its columns are not those of the metapage");
	if (meta->has_model &&
		(meta->numerics != BITLM_NUMERICS || memcmp(meta->model_id, blpg_builtin_id(), 16) != 0))
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("index \"%s\" holds codes of another version of the built-in model",
							   RelationGetRelationName(index)),
						errhint("REINDEX INDEX \"%s\" embeds its texts again.", RelationGetRelationName(index))));
}

void
blpg_meta_read(Relation index, blpg_meta *meta)
{
	Buffer		buffer = ReadBuffer(index, 0);

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	meta_check(index, BufferGetPage(buffer), meta);
	UnlockReleaseBuffer(buffer);
}

/* A row on its way into the index. */
typedef struct new_row
{
	int			kind;			/* BLPG_PAGE_* */
	int			bits;
	const uint8_t *code;
	int			code_bytes;
	const char *entry;
	int			entry_bytes;
} new_row;

/* Puts the entry into a page that exists; false if it is full or of another kind. */
static bool
try_page(Relation index, BlockNumber block, const new_row *row, int page_bytes)
{
	Buffer		buffer;
	Page		page;
	GenericXLogState *state;
	bool		added = false;

	if (block == InvalidBlockNumber || block == 0 || block >= RelationGetNumberOfBlocks(index))
		return false;
	buffer = ReadBuffer(index, block);
	LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
	page = BufferGetPage(buffer);
	if (!PageIsNew(page))
	{
		blpg_page_check(index, block, page, page_bytes, row->entry_bytes);
		if (BLPG_OPAQUE(page)->kind == row->kind || BLPG_OPAQUE(page)->n == 0)
		{
			state = GenericXLogStart(index);
			page = GenericXLogRegisterBuffer(state, buffer, 0);
			if (BLPG_OPAQUE(page)->kind != row->kind)
				blpg_page_init(page, row->kind);
			added = blpg_page_add(page, row->code, row->code_bytes, row->entry, row->entry_bytes);
			if (added)
				GenericXLogFinish(state);
			else
				GenericXLogAbort(state);
		}
	}
	UnlockReleaseBuffer(buffer);
	return added;
}

static void
new_page(Relation index, GenericXLogState *state, const new_row *row, Buffer *buffer)
{
	bool		alone = RELATION_IS_LOCAL(index);
	Page		page;

	if (!alone)
		LockRelationForExtension(index, ExclusiveLock);
	*buffer = ReadBuffer(index, P_NEW);
	LockBuffer(*buffer, BUFFER_LOCK_EXCLUSIVE);
	if (!alone)
		UnlockRelationForExtension(index, ExclusiveLock);
	page = GenericXLogRegisterBuffer(state, *buffer, GENERIC_XLOG_FULL_IMAGE);
	blpg_page_init(page, row->kind);
	if (!blpg_page_add(page, row->code, row->code_bytes, row->entry, row->entry_bytes))
		elog(ERROR, "bitlm: a code of %d bytes does not fit a page", row->code_bytes);
}

static void
insert_row(Relation index, const new_row *row)
{
	bool		has_code = row->kind == BLPG_PAGE_CODES;
	BlockNumber tried = InvalidBlockNumber,
				block,
			   *hint;
	Buffer		meta_buffer,
				buffer = InvalidBuffer;
	GenericXLogState *state;
	blpg_meta	meta,
			   *changed;

	blpg_meta_read(index, &meta);
	if (has_code)
		blpg_code_check(index, row->bits, meta.bits);
	for (;;)
	{
		hint = has_code ? &meta.insert_codes : &meta.insert_nulls;
		if ((!has_code || meta.bits != 0) && *hint != tried && try_page(index, *hint, row, (meta.bits + 7) / 8))
			return;
		tried = *hint;
		meta_buffer = ReadBuffer(index, 0);
		LockBuffer(meta_buffer, BUFFER_LOCK_EXCLUSIVE);
		meta_check(index, BufferGetPage(meta_buffer), &meta);
		if (*hint == tried)
			break;				/* nobody found another page meanwhile */
		UnlockReleaseBuffer(meta_buffer);
	}
	if (has_code)
		blpg_code_check(index, row->bits, meta.bits);
	/* With the metapage locked, so that one backend at a time looks for room. */
	block = meta.bits != 0 ? GetPageWithFreeSpace(index, row->code_bytes + row->entry_bytes) : InvalidBlockNumber;
	if (block != InvalidBlockNumber && block != tried && try_page(index, block, row, (meta.bits + 7) / 8))
	{
		state = GenericXLogStart(index);
		changed = BLPG_META(GenericXLogRegisterBuffer(state, meta_buffer, 0));
		if (has_code)
			changed->insert_codes = block;
		else
			changed->insert_nulls = block;
		GenericXLogFinish(state);
		RecordPageWithFreeSpace(index, block, 0);	/* the hint leads there now */
	}
	else
	{
		if (block != InvalidBlockNumber)
			RecordPageWithFreeSpace(index, block, 0);
		state = GenericXLogStart(index);
		changed = BLPG_META(GenericXLogRegisterBuffer(state, meta_buffer, 0));
		new_page(index, state, row, &buffer);
		if (has_code)
		{
			changed->bits = (uint32) row->bits;
			changed->insert_codes = BufferGetBlockNumber(buffer);
		}
		else
			changed->insert_nulls = BufferGetBlockNumber(buffer);
		GenericXLogFinish(state);
		UnlockReleaseBuffer(buffer);
	}
	UnlockReleaseBuffer(meta_buffer);
}

bool
blpg_insert(Relation index, Datum *values, bool *nulls, ItemPointer tid, Relation heap, IndexUniqueCheck unique,
			BLPG_INDEX_UNCHANGED struct IndexInfo *info)
{
	blpg_shape	shape;
	char		entry[BLPG_MAX_ENTRY];
	blpg_code	code = {.bytes = (const uint8_t *) ""};
	new_row		row = {.kind = BLPG_PAGE_NULLS,.entry = entry};

	blpg_shape_of(index, &shape);
	row.entry_bytes = shape.entry_bytes;
	if (!nulls[shape.code])
	{
		blpg_code_open(values[shape.code], &code);
		row.kind = BLPG_PAGE_CODES;
	}
	row.bits = code.bits;
	row.code = code.bytes;
	row.code_bytes = code.n_bytes;
	blpg_entry_form(&shape, tid, values, nulls, entry);
	insert_row(index, &row);
	if (code.copy)
		pfree(code.copy);
	return false;
}
