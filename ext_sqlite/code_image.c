/* code_image.c - packed blocks: checking, reading, drafts, sealing.
 *
 * An image is believed only after bls_image_check: sizes against the BLOB's
 * length with 64-bit sums, rowids ascending, dictionaries strictly ascending, every number
 * of a row inside its dictionary, and a checksum over all of it.  After that, readers
 * index without tests.
 *
 * A dictionary for each column and block makes every filter a question about
 * entries first (a binary search) and about small integers then, whatever the
 * column's type; a column of few values takes one byte a row or none.
 *
 * Called by code_store.c, code_cache.c, code_filter.c. */
#include "code_image.h"

#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define VERSION 1
static const uint8_t magic[4] = {'B', 'L', 'C', 'B'};

/* Where the header's fields are. */
enum {
    AT_MAGIC = 0,
    AT_VERSION = 4,     /* u8 */
    AT_ROWID_WIDTH = 5, /* u8 */
    AT_COLUMNS = 6,     /* u16 */
    AT_CODE_BYTES = 8,  /* u32 */
    AT_ROWS = 12,       /* u32 */
    AT_BASE = 16,       /* i64 */
    AT_LENGTH = 24,     /* u64 */
    AT_ZERO = 32,       /* 16 bytes */
    AT_STAMP = 48,      /* u64 */
    AT_CHECKSUM = 56    /* u64: over [64, length), seeded with that over [0, 56) */
};

static uint16_t get16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint64_t get64(const uint8_t *p)
{
    return (uint64_t)get32(p) | (uint64_t)get32(p + 4) << 32;
}

static void put32(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
    p[2] = (uint8_t)(v >> 16);
    p[3] = (uint8_t)(v >> 24);
}

static void put64(uint8_t *p, uint64_t v)
{
    put32(p, (uint32_t)v);
    put32(p + 4, (uint32_t)(v >> 32));
}

static uint64_t pad8(uint64_t n)
{
    return (n + 7) & ~(uint64_t)7;
}

/* ---- cells ------------------------------------------------------------------------ */

/* -1, 0, 1: an integer against a real, exactly. */
static int compare_mixed(int64_t i, double r)
{
    int64_t whole;

    if (r < -9223372036854775808.0)
        return 1;
    if (r >= 9223372036854775808.0)
        return -1;
    whole = (int64_t)r; /* toward zero */
    if (i != whole)
        return i < whole ? -1 : 1;
    return r > (double)whole ? -1 : r < (double)whole ? 1 : 0;
}

static int rank_of(uint32_t tag)
{
    return tag == BLS_CELL_REAL ? BLS_CELL_INTEGER : (int)tag;
}

int bls_cell_compare(const bls_cell *a, const bls_cell *b)
{
    uint32_t n;
    int order;

    if (rank_of(a->tag) != rank_of(b->tag))
        return rank_of(a->tag) - rank_of(b->tag);
    switch (a->tag) {
    case BLS_CELL_NULL: return 0;
    case BLS_CELL_INTEGER:
        if (b->tag == BLS_CELL_REAL)
            return compare_mixed(a->as.integer, b->as.real);
        return (a->as.integer > b->as.integer) - (a->as.integer < b->as.integer);
    case BLS_CELL_REAL:
        if (b->tag == BLS_CELL_INTEGER)
            return -compare_mixed(b->as.integer, a->as.real);
        return (a->as.real > b->as.real) - (a->as.real < b->as.real);
    default:
        n = a->length < b->length ? a->length : b->length;
        order = n ? memcmp(a->as.bytes, b->as.bytes, n) : 0;
        return order ? order : (a->length > b->length) - (a->length < b->length);
    }
}

/* The order of a dictionary: 1 before 1.0, so that each keeps its type. */
static int compare_stored(const bls_cell *a, const bls_cell *b)
{
    int order = bls_cell_compare(a, b);

    return order ? order : (int)a->tag - (int)b->tag;
}

int bls_cell_of(sqlite3_value *value, bls_cell *cell)
{
    memset(cell, 0, sizeof *cell);
    switch (sqlite3_value_type(value)) {
    case SQLITE_INTEGER:
        cell->tag = BLS_CELL_INTEGER;
        cell->as.integer = sqlite3_value_int64(value);
        break;
    case SQLITE_FLOAT:
        cell->tag = BLS_CELL_REAL;
        cell->as.real = sqlite3_value_double(value);
        break;
    case SQLITE_TEXT:
        cell->tag = BLS_CELL_TEXT;
        cell->as.bytes = sqlite3_value_text(value);
        if (!cell->as.bytes)
            return SQLITE_NOMEM;
        cell->length = (uint32_t)sqlite3_value_bytes(value);
        break;
    case SQLITE_BLOB:
        cell->tag = BLS_CELL_BLOB;
        cell->as.bytes = sqlite3_value_blob(value);
        cell->length = (uint32_t)sqlite3_value_bytes(value);
        if (!cell->as.bytes && cell->length)
            return SQLITE_NOMEM;
        break;
    default: break;
    }
    return SQLITE_OK;
}

void bls_cell_result(sqlite3_context *context, const bls_cell *cell)
{
    switch (cell->tag) {
    case BLS_CELL_INTEGER: sqlite3_result_int64(context, cell->as.integer); break;
    case BLS_CELL_REAL: sqlite3_result_double(context, cell->as.real); break;
    case BLS_CELL_TEXT:
        sqlite3_result_text64(context, cell->length ? (const char *)cell->as.bytes : "",
                              cell->length, SQLITE_TRANSIENT, SQLITE_UTF8);
        break;
    case BLS_CELL_BLOB:
        if (cell->length)
            sqlite3_result_blob64(context, cell->as.bytes, cell->length, SQLITE_TRANSIENT);
        else
            sqlite3_result_zeroblob(context, 0);
        break;
    default: sqlite3_result_null(context); break;
    }
}

/* ---- image ------------------------------------------------------------------------ */

bls_image *bls_image_new(size_t length, uint32_t n_columns)
{
    size_t head = sizeof(bls_image) + n_columns * sizeof(bls_image_column);
    bls_image *image = sqlite3_malloc64(head + 63 + length);

    if (!image)
        return NULL;
    memset(image, 0, head);
    image->references = 1;
    image->n_columns = n_columns;
    image->length = length;
    image->bytes = (uint8_t *)(((uintptr_t)image + head + 63) & ~(uintptr_t)63);
    return image;
}

void bls_image_free(bls_image *image)
{
    sqlite3_free(image);
}

static uint64_t checksum(const bls_image *image)
{
    return XXH3_64bits_withSeed(image->bytes + BLS_IMAGE_HEADER, image->length - BLS_IMAGE_HEADER,
                                XXH3_64bits(image->bytes, AT_CHECKSUM));
}

void bls_image_finish(bls_image *image, uint64_t stamp)
{
    image->stamp = stamp;
    put64(image->bytes + AT_STAMP, stamp);
    put64(image->bytes + AT_CHECKSUM, checksum(image));
}

/* Sets the pointers of columns; 0 if they do not fit the length. */
static int place(bls_image *image)
{
    uint64_t at = BLS_IMAGE_HEADER, end = image->length, heap;
    const uint8_t *bytes = image->bytes;
    bls_image_column *column;
    uint32_t i;

    image->codes = bytes + at;
    at += pad8((uint64_t)image->n * image->code_bytes);
    if (at > end)
        return 0;
    image->rowids = bytes + at;
    at += pad8((uint64_t)image->n * image->rowid_width);
    for (i = 0; i < image->n_columns; i++) {
        column = &image->columns[i];
        if (at > end || end - at < 16)
            return 0;
        column->n_entries = get32(bytes + at);
        column->width = get32(bytes + at + 4);
        heap = get64(bytes + at + 8);
        at += 16;
        if (column->n_entries < 1 || column->n_entries > image->n || heap > BLS_IMAGE_MOST_BYTES)
            return 0;
        if (column->width > 4 || column->width == 3)
            return 0;
        column->tags = bytes + at;
        column->integers = 0;
        at += pad8(column->n_entries);
        column->slots = bytes + at;
        at += (uint64_t)column->n_entries * 8;
        column->heap = bytes + at;
        at += pad8(heap);
        column->numbers = bytes + at;
        at += pad8((uint64_t)image->n * column->width);
        if (at > end)
            return 0;
    }
    return at == end;
}

static int column_is_sound(const bls_image *image, const bls_image_column *column)
{
    uint64_t heap = (uint64_t)(column->numbers - column->heap), most = 0;
    uint32_t i, offset, length;
    bls_cell cell, before;

    for (i = 0; i < column->n_entries; i++) {
        if (column->tags[i] > BLS_CELL_BLOB)
            return 0;
        if (column->tags[i] >= BLS_CELL_TEXT) {
            offset = get32(column->slots + 8 * (size_t)i);
            length = get32(column->slots + 8 * (size_t)i + 4);
            if (offset > heap || length > heap - offset)
                return 0;
        }
        bls_image_entry(column, i, &cell);
        if (cell.tag == BLS_CELL_REAL && cell.as.real != cell.as.real)
            return 0;
        if (i > 0 && compare_stored(&before, &cell) >= 0)
            return 0;
        before = cell;
    }
    if (column->width == 0)
        return column->n_entries == 1;
    switch (column->width) {
    case 1:
        for (i = 0; i < image->n; i++)
            most = column->numbers[i] > most ? column->numbers[i] : most;
        break;
    default:
        for (i = 0; i < image->n; i++) {
            uint32_t number = bls_image_number(column, i);
            most = number > most ? number : most;
        }
    }
    return most < column->n_entries;
}

static int rowids_ascend(const bls_image *image)
{
    int64_t before, rowid;
    uint32_t i;

    if (image->rowid_width == 0)
        return image->base <= INT64_MAX - (int64_t)(image->n - 1);
    for (i = 0, before = 0; i < image->n; i++) {
        uint64_t difference = image->rowid_width == 2   ? get16(image->rowids + 2 * (size_t)i)
                              : image->rowid_width == 4 ? get32(image->rowids + 4 * (size_t)i)
                                                        : get64(image->rowids + 8 * (size_t)i);
        if (difference > (uint64_t)INT64_MAX - (uint64_t)image->base)
            return 0; /* unsigned: right for a negative base too */
        rowid = (int64_t)((uint64_t)image->base + difference);
        if (i > 0 && rowid <= before)
            return 0;
        before = rowid;
    }
    return 1;
}

/* After place and, for strange bytes, after every tag was checked. */
static void note_integers(bls_image *image)
{
    uint32_t i, j, others;

    for (i = 0; i < image->n_columns; i++) {
        bls_image_column *column = &image->columns[i];
        for (j = 0, others = 0; j < column->n_entries; j++)
            others |= column->tags[j] ^ BLS_CELL_INTEGER;
        column->integers = others == 0;
    }
}

int bls_image_check(bls_image *image, uint32_t code_bytes, uint32_t n_columns, int64_t base,
                    uint64_t stamp, const char **what)
{
    const uint8_t *bytes = image->bytes;
    uint32_t i;

    *what = NULL;
    if (image->length < BLS_IMAGE_HEADER || image->length > BLS_IMAGE_MOST_BYTES)
        *what = "its length is impossible";
    else if (memcmp(bytes + AT_MAGIC, magic, 4) != 0)
        *what = "it does not begin as a block";
    else if (bytes[AT_VERSION] != VERSION)
        *what = "its version is not 1";
    else if (get64(bytes + AT_CHECKSUM) != checksum(image))
        *what = "its checksum is wrong";
    else if (get64(bytes + AT_LENGTH) != image->length)
        *what = "its length is not the one it states";
    else if (get64(bytes + AT_STAMP) != stamp || (int64_t)get64(bytes + AT_BASE) != base)
        *what = "it belongs to another row";
    else if (get32(bytes + AT_CODE_BYTES) != code_bytes || get16(bytes + AT_COLUMNS) != n_columns)
        *what = "it belongs to another table";
    if (*what)
        return SQLITE_CORRUPT_VTAB;
    image->n = get32(bytes + AT_ROWS);
    image->code_bytes = code_bytes;
    image->n_columns = n_columns;
    image->rowid_width = bytes[AT_ROWID_WIDTH];
    image->base = base;
    image->stamp = stamp;
    if (image->n < 1 || image->n > BLS_IMAGE_MOST_ROWS)
        *what = "its number of rows is impossible";
    else if (image->rowid_width != 0 && image->rowid_width != 2 && image->rowid_width != 4 &&
             image->rowid_width != 8)
        *what = "its rowids have an unknown width";
    else if (!place(image))
        *what = "its parts do not fit its length";
    else if (!rowids_ascend(image))
        *what = "its rowids are not in order";
    for (i = 0; i < n_columns && !*what; i++) {
        if (!column_is_sound(image, &image->columns[i]))
            *what = "a column's dictionary is malformed";
    }
    if (*what)
        return SQLITE_CORRUPT_VTAB;
    note_integers(image);
    return SQLITE_OK;
}

int64_t bls_image_rowid(const bls_image *image, uint32_t row)
{
    const uint8_t *p = image->rowids;
    uint64_t base = (uint64_t)image->base;

    switch (image->rowid_width) {
    case 0: return (int64_t)(base + row);
    case 2: return (int64_t)(base + get16(p + 2 * (size_t)row));
    case 4: return (int64_t)(base + get32(p + 4 * (size_t)row));
    default: return (int64_t)(base + get64(p + 8 * (size_t)row));
    }
}

uint32_t bls_image_seek(const bls_image *image, int64_t rowid)
{
    uint32_t low = 0, high = image->n, middle;

    while (low < high) {
        middle = low + (high - low) / 2;
        if (bls_image_rowid(image, middle) < rowid)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

void bls_image_entry(const bls_image_column *column, uint32_t number, bls_cell *cell)
{
    const uint8_t *slot = column->slots + 8 * (size_t)number;
    uint64_t bits;

    cell->tag = column->tags[number];
    cell->length = 0;
    cell->as.integer = 0;
    switch (cell->tag) {
    case BLS_CELL_INTEGER: cell->as.integer = (int64_t)get64(slot); break;
    case BLS_CELL_REAL:
        bits = get64(slot);
        memcpy(&cell->as.real, &bits, 8);
        break;
    case BLS_CELL_TEXT:
    case BLS_CELL_BLOB:
        cell->as.bytes = column->heap + get32(slot);
        cell->length = get32(slot + 4);
        break;
    default: break;
    }
}

uint32_t bls_image_number(const bls_image_column *column, uint32_t row)
{
    switch (column->width) {
    case 0: return 0;
    case 1: return column->numbers[row];
    case 2: return get16(column->numbers + 2 * (size_t)row);
    default: return get32(column->numbers + 4 * (size_t)row);
    }
}

uint32_t bls_image_bound(const bls_image_column *column, const bls_cell *cell, int after)
{
    uint32_t low = 0, high = column->n_entries, middle;
    bls_cell entry;
    int order;

    if (column->integers && cell->tag == BLS_CELL_INTEGER) { /* the usual one, several times as fast */
        while (low < high) {
            int64_t value;
            middle = low + (high - low) / 2;
            value = (int64_t)get64(column->slots + 8 * (size_t)middle);
            if (value < cell->as.integer || (after && value == cell->as.integer))
                low = middle + 1;
            else
                high = middle;
        }
        return low;
    }
    while (low < high) {
        middle = low + (high - low) / 2;
        bls_image_entry(column, middle, &entry);
        order = bls_cell_compare(&entry, cell);
        if (order < 0 || (after && order == 0))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* ---- draft ------------------------------------------------------------------------ */

/* A text or BLOB of a draft lives in its heap, which only grows: what is replaced
 * stays until the draft is sealed and thrown away. */
typedef struct draft_cell {
    uint32_t tag, length;
    uint64_t value; /* the integer, the real's bits, or the heap offset */
} draft_cell;

struct bls_draft {
    uint32_t n, capacity, code_bytes, n_columns;
    int64_t *rowids;   /* (capacity) */
    uint8_t *codes;    /* (capacity, code_bytes) */
    draft_cell *cells; /* (capacity, n_columns) */
    uint8_t *heap;
    size_t heap_used, heap_size;
};

bls_draft *bls_draft_new(uint32_t code_bytes, uint32_t n_columns, uint32_t capacity)
{
    size_t cells = (size_t)capacity * n_columns * sizeof(draft_cell);
    size_t rowids = (size_t)capacity * 8, head = (sizeof(bls_draft) + 15) & ~(size_t)15;
    bls_draft *draft = sqlite3_malloc64(head + cells + rowids + (size_t)capacity * code_bytes);

    if (!draft)
        return NULL;
    memset(draft, 0, sizeof *draft);
    draft->capacity = capacity;
    draft->code_bytes = code_bytes;
    draft->n_columns = n_columns;
    draft->cells = (draft_cell *)((uint8_t *)draft + head);
    draft->rowids = (int64_t *)((uint8_t *)draft->cells + cells);
    draft->codes = (uint8_t *)draft->rowids + rowids;
    return draft;
}

void bls_draft_free(bls_draft *draft)
{
    if (!draft)
        return;
    sqlite3_free(draft->heap);
    sqlite3_free(draft);
}

uint32_t bls_draft_count(const bls_draft *draft)
{
    return draft->n;
}

int64_t bls_draft_rowid(const bls_draft *draft, uint32_t row)
{
    return draft->rowids[row];
}

size_t bls_draft_bytes(const bls_draft *draft)
{
    return sizeof *draft + draft->heap_size +
           (size_t)draft->capacity * (8 + draft->code_bytes + draft->n_columns * sizeof(draft_cell));
}

size_t bls_draft_text(const bls_draft *draft)
{
    return draft->heap_used;
}

uint32_t bls_draft_seek(const bls_draft *draft, int64_t rowid)
{
    uint32_t low = 0, high = draft->n, middle;

    if (high && draft->rowids[high - 1] < rowid)
        return high; /* the most frequent: a row behind all others */
    while (low < high) {
        middle = low + (high - low) / 2;
        if (draft->rowids[middle] < rowid)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Room in the heap for the cells' texts, so that what follows cannot fail. */
static int reserve(bls_draft *draft, const bls_cell *cells)
{
    size_t need = draft->heap_used, size;
    uint8_t *heap;
    uint32_t i;

    for (i = 0; i < draft->n_columns; i++)
        if (cells[i].tag >= BLS_CELL_TEXT)
            need += cells[i].length;
    if (need <= draft->heap_size)
        return SQLITE_OK;
    if (need > BLS_IMAGE_MOST_BYTES / 4)
        return SQLITE_TOOBIG;
    size = need * 2 < 1024 ? 1024 : need * 2;
    heap = sqlite3_realloc64(draft->heap, size);
    if (!heap)
        return SQLITE_NOMEM;
    draft->heap = heap;
    draft->heap_size = size;
    return SQLITE_OK;
}

static void set_cells(bls_draft *draft, uint32_t row, const bls_cell *cells)
{
    draft_cell *to = draft->cells + (size_t)row * draft->n_columns;
    uint32_t i;

    for (i = 0; i < draft->n_columns; i++) {
        to[i].tag = cells[i].tag;
        to[i].length = cells[i].length;
        to[i].value = 0;
        if (cells[i].tag == BLS_CELL_INTEGER) {
            to[i].value = (uint64_t)cells[i].as.integer;
        } else if (cells[i].tag == BLS_CELL_REAL) {
            memcpy(&to[i].value, &cells[i].as.real, 8);
        } else if (cells[i].tag >= BLS_CELL_TEXT) {
            to[i].value = draft->heap_used;
            if (cells[i].length)
                memcpy(draft->heap + draft->heap_used, cells[i].as.bytes, cells[i].length);
            draft->heap_used += cells[i].length;
        }
    }
}

static void cell_at(const bls_draft *draft, uint32_t row, uint32_t column, bls_cell *cell)
{
    const draft_cell *from = draft->cells + (size_t)row * draft->n_columns + column;

    cell->tag = from->tag;
    cell->length = from->length;
    cell->as.integer = (int64_t)from->value;
    if (from->tag == BLS_CELL_REAL)
        memcpy(&cell->as.real, &from->value, 8);
    else if (from->tag >= BLS_CELL_TEXT)
        cell->as.bytes = draft->heap + from->value;
}

static void move(bls_draft *draft, uint32_t to, uint32_t from, uint32_t n)
{
    memmove(draft->rowids + to, draft->rowids + from, (size_t)n * 8);
    memmove(draft->codes + (size_t)to * draft->code_bytes,
            draft->codes + (size_t)from * draft->code_bytes, (size_t)n * draft->code_bytes);
    if (draft->n_columns)
        memmove(draft->cells + (size_t)to * draft->n_columns,
                draft->cells + (size_t)from * draft->n_columns,
                (size_t)n * draft->n_columns * sizeof(draft_cell));
}

int bls_draft_insert(bls_draft *draft, uint32_t row, int64_t rowid, const uint8_t *code,
                     const bls_cell *cells)
{
    int rc = draft->n_columns ? reserve(draft, cells) : SQLITE_OK;

    if (rc != SQLITE_OK)
        return rc;
    if (row < draft->n)
        move(draft, row + 1, row, draft->n - row);
    draft->rowids[row] = rowid;
    memcpy(draft->codes + (size_t)row * draft->code_bytes, code, draft->code_bytes);
    if (draft->n_columns)
        set_cells(draft, row, cells);
    draft->n++;
    return SQLITE_OK;
}

int bls_draft_replace(bls_draft *draft, uint32_t row, const uint8_t *code, const bls_cell *cells)
{
    int rc = cells && draft->n_columns ? reserve(draft, cells) : SQLITE_OK;

    if (rc != SQLITE_OK)
        return rc;
    if (code)
        memcpy(draft->codes + (size_t)row * draft->code_bytes, code, draft->code_bytes);
    if (cells && draft->n_columns)
        set_cells(draft, row, cells);
    return SQLITE_OK;
}

void bls_draft_remove(bls_draft *draft, uint32_t row)
{
    move(draft, row, row + 1, draft->n - row - 1);
    draft->n--;
}

bls_draft *bls_draft_split(bls_draft *draft, uint32_t row)
{
    uint32_t n = draft->n - row;
    bls_draft *upper = bls_draft_new(draft->code_bytes, draft->n_columns, draft->capacity);

    if (!upper)
        return NULL;
    if (draft->heap_used) {
        upper->heap = sqlite3_malloc64(draft->heap_used);
        if (!upper->heap) {
            bls_draft_free(upper);
            return NULL;
        }
        memcpy(upper->heap, draft->heap, draft->heap_used);
        upper->heap_used = upper->heap_size = draft->heap_used;
    }
    memcpy(upper->rowids, draft->rowids + row, (size_t)n * 8);
    memcpy(upper->codes, draft->codes + (size_t)row * draft->code_bytes,
           (size_t)n * draft->code_bytes);
    if (draft->n_columns)
        memcpy(upper->cells, draft->cells + (size_t)row * draft->n_columns,
               (size_t)n * draft->n_columns * sizeof(draft_cell));
    upper->n = n;
    draft->n = row;
    return upper;
}

bls_draft *bls_draft_of(const bls_image *image, uint32_t capacity)
{
    uint32_t needed = image->n + 1 > capacity ? image->n + 1 : capacity;
    bls_draft *draft = bls_draft_new(image->code_bytes, image->n_columns, needed);
    bls_cell cells[BLS_IMAGE_MOST_COLUMNS];
    uint32_t row, i;

    if (!draft)
        return NULL;
    memcpy(draft->codes, image->codes, (size_t)image->n * image->code_bytes);
    for (row = 0; row < image->n; row++)
        draft->rowids[row] = bls_image_rowid(image, row);
    for (row = 0; row < image->n && image->n_columns; row++) {
        for (i = 0; i < image->n_columns; i++)
            bls_image_entry(&image->columns[i], bls_image_number(&image->columns[i], row), &cells[i]);
        if (reserve(draft, cells) != SQLITE_OK) {
            bls_draft_free(draft);
            return NULL;
        }
        set_cells(draft, row, cells);
    }
    draft->n = image->n;
    return draft;
}

/* ---- sealing ---------------------------------------------------------------------- */

typedef struct sort_item {
    bls_cell cell;
    uint32_t row;
} sort_item;

static int compare_items(const void *a, const void *b)
{
    const sort_item *x = a, *y = b;
    int order = compare_stored(&x->cell, &y->cell);

    return order ? order : (x->row > y->row) - (x->row < y->row);
}

/* Sorts a column and numbers its distinct values; heap: bytes of their texts. */
static uint32_t make_dictionary(const bls_draft *draft, uint32_t column, sort_item *items,
                                uint32_t *numbers, uint64_t *heap)
{
    uint32_t i, n_entries = 0;

    for (i = 0; i < draft->n; i++) {
        cell_at(draft, i, column, &items[i].cell);
        items[i].row = i;
    }
    /* A column of one value, and one that ascends with the rowid, need no sort. */
    for (i = 1; i < draft->n; i++)
        if (compare_stored(&items[i - 1].cell, &items[i].cell) > 0)
            break;
    if (i < draft->n)
        qsort(items, draft->n, sizeof *items, compare_items);
    *heap = 0;
    for (i = 0; i < draft->n; i++) {
        if (i == 0 || compare_stored(&items[n_entries - 1].cell, &items[i].cell) != 0) {
            items[n_entries].cell = items[i].cell;
            if (items[i].cell.tag >= BLS_CELL_TEXT)
                *heap += items[i].cell.length;
            n_entries++;
        }
        numbers[items[i].row] = n_entries - 1;
    }
    return n_entries;
}

static uint32_t width_of(uint32_t n_entries)
{
    return n_entries == 1 ? 0 : n_entries <= 256 ? 1 : n_entries <= 65536 ? 2 : 4;
}

static uint8_t *write_column(uint8_t *to, const sort_item *entries, uint32_t n_entries,
                             uint64_t heap_length, const uint32_t *numbers, uint32_t n)
{
    uint32_t width = width_of(n_entries), i;
    uint8_t *tags = to + 16, *slots = tags + pad8(n_entries);
    uint8_t *heap = slots + 8 * (size_t)n_entries, *out = heap + pad8(heap_length);
    uint64_t offset = 0, bits;

    put32(to, n_entries);
    put32(to + 4, width);
    put64(to + 8, heap_length);
    for (i = 0; i < n_entries; i++) {
        const bls_cell *cell = &entries[i].cell;
        tags[i] = (uint8_t)cell->tag;
        if (cell->tag == BLS_CELL_INTEGER) {
            put64(slots + 8 * (size_t)i, (uint64_t)cell->as.integer);
        } else if (cell->tag == BLS_CELL_REAL) {
            memcpy(&bits, &cell->as.real, 8);
            put64(slots + 8 * (size_t)i, bits);
        } else if (cell->tag >= BLS_CELL_TEXT) {
            put32(slots + 8 * (size_t)i, (uint32_t)offset);
            put32(slots + 8 * (size_t)i + 4, cell->length);
            if (cell->length)
                memcpy(heap + offset, cell->as.bytes, cell->length);
            offset += cell->length;
        }
    }
    for (i = 0; i < n; i++) {
        if (width == 1) {
            out[i] = (uint8_t)numbers[i];
        } else if (width == 2) {
            out[2 * (size_t)i] = (uint8_t)numbers[i];
            out[2 * (size_t)i + 1] = (uint8_t)(numbers[i] >> 8);
        } else if (width == 4) {
            put32(out + 4 * (size_t)i, numbers[i]);
        }
    }
    return out + pad8((uint64_t)n * width);
}

bls_image *bls_draft_seal(bls_draft *draft, int64_t base)
{
    uint32_t n = draft->n, n_columns = draft->n_columns, i, width;
    uint64_t most = (uint64_t)draft->rowids[n - 1] - (uint64_t)base, length, heap[BLS_IMAGE_MOST_COLUMNS];
    uint32_t n_entries[BLS_IMAGE_MOST_COLUMNS];
    sort_item *items = NULL;
    uint32_t *numbers = NULL;
    bls_image *image = NULL;
    uint8_t *to;

    width = draft->rowids[0] == base && most == n - 1 ? 0 : most <= 0xffff ? 2 : most <= 0xffffffffu ? 4 : 8;
    length = BLS_IMAGE_HEADER + pad8((uint64_t)n * draft->code_bytes) + pad8((uint64_t)n * width);
    if (n_columns) {
        items = sqlite3_malloc64((uint64_t)n * n_columns * sizeof *items);
        numbers = sqlite3_malloc64((uint64_t)n * n_columns * sizeof *numbers);
        if (!items || !numbers)
            goto end;
    }
    for (i = 0; i < n_columns; i++) {
        n_entries[i] = make_dictionary(draft, i, items + (size_t)i * n, numbers + (size_t)i * n, &heap[i]);
        length += 16 + pad8(n_entries[i]) + 8 * (uint64_t)n_entries[i] + pad8(heap[i]) +
                  pad8((uint64_t)n * width_of(n_entries[i]));
    }
    if (length > BLS_IMAGE_MOST_BYTES)
        goto end;
    image = bls_image_new((size_t)length, n_columns);
    if (!image)
        goto end;
    /* Padding is zero, so that equal rows give equal bytes. */
    memset(image->bytes, 0, BLS_IMAGE_HEADER);
    memcpy(image->bytes + AT_MAGIC, magic, 4);
    image->bytes[AT_VERSION] = VERSION;
    image->bytes[AT_ROWID_WIDTH] = (uint8_t)width;
    image->bytes[AT_COLUMNS] = (uint8_t)n_columns;
    put32(image->bytes + AT_CODE_BYTES, draft->code_bytes);
    put32(image->bytes + AT_ROWS, n);
    put64(image->bytes + AT_BASE, (uint64_t)base);
    put64(image->bytes + AT_LENGTH, length);
    to = image->bytes + BLS_IMAGE_HEADER;
    memcpy(to, draft->codes, (size_t)n * draft->code_bytes);
    memset(to + (size_t)n * draft->code_bytes, 0,
           (size_t)(pad8((uint64_t)n * draft->code_bytes) - (uint64_t)n * draft->code_bytes));
    to += pad8((uint64_t)n * draft->code_bytes);
    memset(to, 0, (size_t)(image->bytes + length - to));
    for (i = 0; i < n && width; i++) {
        uint64_t difference = (uint64_t)draft->rowids[i] - (uint64_t)base;
        if (width == 2) {
            to[2 * (size_t)i] = (uint8_t)difference;
            to[2 * (size_t)i + 1] = (uint8_t)(difference >> 8);
        } else if (width == 4) {
            put32(to + 4 * (size_t)i, (uint32_t)difference);
        } else {
            put64(to + 8 * (size_t)i, difference);
        }
    }
    to += pad8((uint64_t)n * width);
    for (i = 0; i < n_columns; i++)
        to = write_column(to, items + (size_t)i * n, n_entries[i], heap[i], numbers + (size_t)i * n, n);
    image->n = n;
    image->code_bytes = draft->code_bytes;
    image->rowid_width = width;
    image->base = base;
    (void)place(image);
    note_integers(image);
end:
    sqlite3_free(items);
    sqlite3_free(numbers);
    return image;
}
