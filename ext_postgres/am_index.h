/* am_index.h - the index's pages and what the files of the access method share.
 *
 *     block 0           metapage: blpg_meta
 *     data page         codes packed from the front, entries from the back:
 *
 *         header | code 0 | code 1 | … > pd_lower   pd_upper < … | entry 1 | entry 0 | blpg_opaque
 *
 *     page of NULLs     the same with codes of no bytes
 *
 * An entry is the row's TID and, where the index has more columns than the code, a bit for
 * each that is NULL and the values, as wide as their types and unaligned (blpg_shape).
 * pd_lower and pd_upper bound what is in use, so the WAL leaves the hole out.  Rows stand
 * in no order; every ordered scan reads every page. */
#ifndef BLPG_AM_INDEX_H
#define BLPG_AM_INDEX_H

#include "pg_adapter.h"

#include "storage/bufpage.h"
#include "storage/itemptr.h"
#include "utils/rel.h"

/* Strategies of the operator class bit_ops. */
#define BLPG_STRATEGY_DISTANCE 1	/* ORDER BY code <^> q */
#define BLPG_STRATEGY_WITHIN 2	/* code <@ bitlm_sphere(q, r) */
#define BLPG_STRATEGY_EQUAL 3	/* column = value, of the other operator classes */

#define BLPG_RANGE_SELECTIVITY 0.001

#define BLPG_MAGIC 0x626c6978	/* "blix" */
#define BLPG_LAYOUT 1
#define BLPG_MAX_BITS 32000
#define BLPG_NULL_DISTANCE 0x7fff	/* above every distance */

#define BLPG_PAGE_META 1
#define BLPG_PAGE_CODES 2
#define BLPG_PAGE_NULLS 3

typedef struct blpg_meta
{
	uint32		magic;
	uint32		layout;
	uint32		bits;			/* of a code; 0 until the first is known */
	uint32		has_model;		/* 1: the codes are bitlm_embed's, of this model and arithmetic */
	uint32		numerics;
	BlockNumber insert_codes;	/* page that had room last, or InvalidBlockNumber */
	BlockNumber insert_nulls;
	uint8		model_id[16];
	uint32		entry_bytes;	/* of blpg_shape; 0, of the first versions: a TID */
} blpg_meta;

typedef struct blpg_opaque
{
	uint32		magic;
	uint16		kind;			/* BLPG_PAGE_* */
	uint16		n;				/* entries */
} blpg_opaque;

#define BLPG_OPAQUE(page) ((blpg_opaque *) PageGetSpecialPointer(page))
#define BLPG_META(page) ((blpg_meta *) PageGetContents(page))
#define BLPG_CODES(page) ((uint8_t *) PageGetContents(page))
#define BLPG_ENTRY(page, i, entry_bytes) (PageGetSpecialPointer(page) - ((i) + 1) * (Size) (entry_bytes))
/* Entries of a page at most: codes of one byte. */
#define BLPG_MAX_ENTRIES (BLCKSZ / (1 + sizeof(ItemPointerData)))

#define BLPG_MAX_ENTRY 1024

/* Which of the index's columns is the code, and where the others lie in an entry. */
typedef struct blpg_column
{
	int16		length;
	bool		by_value;
	int			offset;
} blpg_column;

typedef struct blpg_shape
{
	int			n_columns;		/* of the index */
	int			code;			/* which of them, from 0 */
	int			n_null_bytes;
	int			entry_bytes;	/* even, so that TIDs stay aligned */
	blpg_column columns[INDEX_MAX_KEYS];	/* that of the code is not used */
} blpg_shape;

/* A code as it lies in a tuple: long or short header, perhaps compressed or elsewhere. */
typedef struct blpg_code
{
	int			bits;
	int			n_bytes;
	const uint8_t *bytes;
	void	   *copy;			/* to be freed, or NULL */
} blpg_code;

/* ---- am_shape.c ---- */
extern void blpg_shape_of(Relation index, blpg_shape *out);
extern void blpg_entry_form(const blpg_shape *shape, const ItemPointerData *tid, const Datum *values,
							const bool *nulls, char *entry);
/* The value of a column; scratch has room for BLPG_MAX_ENTRY, aligned. */
extern Datum blpg_entry_value(const blpg_shape *shape, const char *entry, int column, char *scratch, bool *is_null);
extern void blpg_code_open(Datum value, blpg_code *code);
extern void blpg_code_check(Relation index, int bits, uint32 wanted);

/* ---- am_page.c ---- */
extern void blpg_page_init(Page page, int kind);
extern void blpg_meta_init(Relation index, Page page);
extern void blpg_page_check(Relation index, BlockNumber block, Page page, int code_bytes, int entry_bytes);
extern bool blpg_page_add(Page page, const uint8_t *code, int code_bytes, const char *entry, int entry_bytes);
/* The metapage's contents; ERROR if it is not ours or another model's. */
extern void blpg_meta_read(Relation index, blpg_meta *meta);
extern bool blpg_insert(Relation index, Datum *values, bool *nulls, ItemPointer tid, Relation heap,
						IndexUniqueCheck unique, BLPG_INDEX_UNCHANGED struct IndexInfo *info);

/* ---- am_build.c ---- */
extern IndexBuildResult *blpg_build(Relation heap, Relation index, struct IndexInfo *info);
extern void blpg_build_empty(Relation index);
extern char *blpg_build_phase(int64 phase);

/* ---- am_scan.c ---- */
extern IndexScanDesc blpg_begin_scan(Relation index, int n_keys, int n_orders);
extern void blpg_rescan(IndexScanDesc scan, ScanKey keys, int n_keys, ScanKey orders, int n_orders);
extern bool blpg_get_tuple(IndexScanDesc scan, ScanDirection direction);
extern int64 blpg_get_bitmap(IndexScanDesc scan, struct TIDBitmap *bitmap);
extern void blpg_end_scan(IndexScanDesc scan);

/* ---- am_handler.c ---- */
extern int	blpg_option_bits(Relation index);	/* WITH (bits = …), else the column's bit(n), else 0 */

/* pg_codes.c: *center is NULL if either part is. */
extern void blpg_sphere_parts(Datum sphere, VarBit **center, int32 *radius);

#endif
