/* am_shape.c - columns of the index: which is the code, and how the others lie in an entry.
 *
 * Beside the code an index may have columns of fixed width, which scans filter by before a
 * row is handed out (am_scan.c).  The order of columns is free. */
#include "am_index.h"

#include "access/tupmacs.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

static void
shape_init(Relation index, blpg_shape *shape)
{
	TupleDesc	desc = RelationGetDescr(index);
	int			offset = sizeof(ItemPointerData);

	memset(shape, 0, sizeof *shape);
	shape->n_columns = desc->natts;
	shape->code = -1;
	for (int i = 0; i < desc->natts; i++)
	{
		Oid			type = TupleDescAttr(desc, i)->atttypid;

		if (type != BITOID && type != VARBITOID)
			continue;
		if (shape->code >= 0)
			ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
							errmsg("an index of bitlm has one column of codes, but columns %d and %d are",
								   shape->code + 1, i + 1)));
		shape->code = i;
	}
	if (shape->code < 0)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("an index of bitlm needs a column of codes, of type bit")));
	shape->n_null_bytes = desc->natts > 1 ? (desc->natts + 7) / 8 : 0;
	offset += shape->n_null_bytes;
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, i);

		if (i == shape->code)
			continue;
		if (attribute->attlen <= 0)
			ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
							errmsg("column %d of the index has type %s, but columns beside the code must have a fixed width",
								   i + 1, format_type_be(attribute->atttypid))));
		shape->columns[i].length = attribute->attlen;
		shape->columns[i].by_value = attribute->attbyval;
		shape->columns[i].offset = offset;
		offset += attribute->attlen;
		if (offset > BLPG_MAX_ENTRY)
			ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
							errmsg("the columns beside the code take more than %d bytes", BLPG_MAX_ENTRY)));
	}
	shape->entry_bytes = (offset + 1) & ~1;
}

/* Kept with the relation's descriptor; a copy, since an invalidation may free that any time. */
void
blpg_shape_of(Relation index, blpg_shape *out)
{
	if (!index->rd_amcache)
	{
		blpg_shape	shape;

		shape_init(index, &shape);
		index->rd_amcache = MemoryContextAlloc(index->rd_indexcxt, sizeof shape);
		memcpy(index->rd_amcache, &shape, sizeof shape);
	}
	memcpy(out, index->rd_amcache, sizeof *out);
}

void
blpg_entry_form(const blpg_shape *shape, const ItemPointerData *tid, const Datum *values, const bool *nulls, char *entry)
{
	memset(entry, 0, shape->entry_bytes);
	memcpy(entry, tid, sizeof *tid);
	if (shape->n_null_bytes == 0)
		return;
	for (int i = 0; i < shape->n_columns; i++)
	{
		const blpg_column *column = &shape->columns[i];
		Datum		aligned;

		if (i == shape->code)
			continue;
		if (nulls[i])
			entry[sizeof *tid + i / 8] |= (char) (1 << i % 8);
		else if (column->by_value)
		{
			store_att_byval(&aligned, values[i], column->length);
			memcpy(entry + column->offset, &aligned, column->length);
		}
		else
			memcpy(entry + column->offset, DatumGetPointer(values[i]), column->length);
	}
}

Datum
blpg_entry_value(const blpg_shape *shape, const char *entry, int column, char *scratch, bool *is_null)
{
	const blpg_column *at = &shape->columns[column];

	*is_null = (entry[sizeof(ItemPointerData) + column / 8] >> column % 8 & 1) != 0;
	if (*is_null)
		return (Datum) 0;
	memcpy(scratch, entry + at->offset, at->length);
	return fetch_att(scratch, at->by_value, at->length);
}

void
blpg_code_open(Datum value, blpg_code *code)
{
	struct varlena *packed = PG_DETOAST_DATUM_PACKED(value);
	int32		bits;

	/* Behind a short header the number of bits is not aligned. */
	memcpy(&bits, VARDATA_ANY(packed), sizeof bits);
	code->bits = bits;
	code->n_bytes = (int) (VARSIZE_ANY_EXHDR(packed) - sizeof bits);
	code->bytes = (const uint8_t *) VARDATA_ANY(packed) + sizeof bits;
	code->copy = (Pointer) packed != DatumGetPointer(value) ? packed : NULL;
}

void
blpg_code_check(Relation index, int bits, uint32 wanted)
{
	if (bits < 1 || bits > BLPG_MAX_BITS)
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						errmsg("a code of %d bits cannot be indexed: 1 to %d can", bits, BLPG_MAX_BITS)));
	if (wanted != 0 && (uint32) bits != wanted)
		ereport(ERROR, (errcode(ERRCODE_STRING_DATA_LENGTH_MISMATCH),
						errmsg("a code has %d bits, but index \"%s\" holds codes of %u", bits,
							   RelationGetRelationName(index), wanted)));
}
