/* code_filter.c - conditions to bits, block by block.
 *
 * Each condition ends as one test on a row's dictionary number: "first <= number <
 * end" or a lookup in a small table; 64 rows make a word.  The words of several
 * conditions are and-ed.  A condition that all or no entries of a dictionary fulfil
 * does not look at the rows.
 *
 * Called by sqlite_index_cursor.c. */
#include "code_filter.h"

#include <stdlib.h>
#include <string.h>

#include "search/codes.h"

void bls_filter_init(bls_filter *filter)
{
    memset(filter, 0, sizeof *filter);
    filter->low = INT64_MIN;
    filter->high = INT64_MAX;
}

void bls_filter_clear(bls_filter *filter)
{
    size_t i;

    for (i = 0; i < filter->n_terms; i++)
        sqlite3_free(filter->terms[i].cells);
    sqlite3_free(filter->terms);
    sqlite3_free(filter->rowids);
    bls_filter_init(filter);
}

static int compare_cells(const void *a, const void *b)
{
    return bls_cell_compare(a, b);
}

int bls_filter_add(bls_filter *filter, uint32_t column, uint32_t op, const bls_cell *cells, size_t n)
{
    bls_filter_term *terms, *term;
    size_t i, to = 0, bytes = n * sizeof *cells;
    uint8_t *text;

    if (filter->n_terms == filter->n_allocated) {
        size_t more = filter->n_allocated ? filter->n_allocated * 2 : 4;
        terms = sqlite3_realloc64(filter->terms, more * sizeof *terms);
        if (!terms)
            return SQLITE_NOMEM;
        filter->terms = terms;
        filter->n_allocated = more;
    }
    for (i = 0; i < n; i++)
        bytes += cells[i].tag >= BLS_CELL_TEXT ? cells[i].length : 0;
    term = &filter->terms[filter->n_terms];
    term->column = column;
    term->op = op;
    term->cells = sqlite3_malloc64(bytes ? bytes : 1);
    if (!term->cells)
        return SQLITE_NOMEM;
    text = (uint8_t *)(term->cells + n);
    for (i = 0; i < n; i++) {
        if (cells[i].tag == BLS_CELL_NULL && op != BLS_FILTER_IS && op != BLS_FILTER_IS_NOT)
            continue; /* nothing compares with NULL */
        term->cells[to] = cells[i];
        if (cells[i].tag >= BLS_CELL_TEXT) {
            term->cells[to].as.bytes = text;
            if (cells[i].length)
                memcpy(text, cells[i].as.bytes, cells[i].length);
            text += cells[i].length;
        }
        to++;
    }
    term->n_cells = (uint32_t)to;
    filter->n_terms++;
    if (to == 0)
        filter->nothing = 1;
    if (op == BLS_FILTER_IN && to > 1)
        qsort(term->cells, to, sizeof *term->cells, compare_cells);
    return SQLITE_OK;
}

void bls_filter_range(bls_filter *filter, int64_t low, int64_t high)
{
    if (low > filter->low)
        filter->low = low;
    if (high < filter->high)
        filter->high = high;
    if (filter->low > filter->high)
        filter->nothing = 1;
}

static int compare_rowids(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

int bls_filter_rowids(bls_filter *filter, int64_t *rowids, size_t n)
{
    size_t i, j, to = 0;

    for (i = 1; i < n && rowids[i - 1] < rowids[i]; i++)
        continue;
    if (i < n)
        qsort(rowids, n, sizeof *rowids, compare_rowids);
    for (i = 0; i < n; i++)
        if (i == 0 || rowids[i] != rowids[to - 1])
            rowids[to++] = rowids[i];
    n = to;
    if (filter->has_rowids) { /* both sets */
        for (i = j = to = 0; i < n; i++) {
            while (j < filter->n_rowids && filter->rowids[j] < rowids[i])
                j++;
            if (j < filter->n_rowids && filter->rowids[j] == rowids[i])
                rowids[to++] = rowids[i];
        }
        n = to;
        sqlite3_free(filter->rowids);
    }
    filter->rowids = rowids;
    filter->n_rowids = n;
    filter->has_rowids = 1;
    if (n == 0)
        filter->nothing = 1;
    else
        bls_filter_range(filter, rowids[0], rowids[n - 1]);
    return SQLITE_OK;
}

int bls_filter_is_open(const bls_filter *filter)
{
    return filter->n_terms == 0 && !filter->has_rowids && !filter->nothing &&
           filter->low == INT64_MIN && filter->high == INT64_MAX;
}

static size_t first_rowid(const bls_filter *filter, int64_t rowid)
{
    size_t low = 0, high = filter->n_rowids, middle;

    while (low < high) {
        middle = low + (high - low) / 2;
        if (filter->rowids[middle] < rowid)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

int bls_filter_may_touch(const bls_filter *filter, int64_t first, int64_t last)
{
    size_t at;

    if (filter->nothing || first > filter->high || last < filter->low)
        return 0;
    if (!filter->has_rowids)
        return 1;
    at = first_rowid(filter, first);
    return at < filter->n_rowids && filter->rowids[at] <= last;
}

/* ---- a block -------------------------------------------------------------------------- */

static void set_range(uint64_t *bits, uint32_t from, uint32_t to)
{
    uint32_t i;

    for (i = from; i < to && i % 64; i++)
        bits[i / 64] |= (uint64_t)1 << (i % 64);
    for (; i + 64 <= to; i += 64)
        bits[i / 64] = ~(uint64_t)0;
    for (; i < to; i++)
        bits[i / 64] |= (uint64_t)1 << (i % 64);
}

static void rowid_bits(const bls_filter *filter, const bls_image *image, uint64_t *bits)
{
    uint32_t from = 0, to = image->n, row;
    size_t at;

    memset(bits, 0, BLS_FILTER_WORDS(image->n) * sizeof *bits);
    if (filter->low > bls_image_rowid(image, 0))
        from = bls_image_seek(image, filter->low);
    if (filter->high < bls_image_rowid(image, image->n - 1))
        to = bls_image_seek(image, filter->high + 1);
    if (from >= to)
        return;
    if (!filter->has_rowids) {
        set_range(bits, from, to);
        return;
    }
    at = first_rowid(filter, bls_image_rowid(image, from));
    if (image->rowid_width == 0) { /* consecutive: the place follows from the rowid */
        for (; at < filter->n_rowids; at++) {
            uint64_t place = (uint64_t)filter->rowids[at] - (uint64_t)image->base;
            if (place >= to)
                break;
            bits[place / 64] |= (uint64_t)1 << (place % 64);
        }
        return;
    }
    for (row = from; row < to && at < filter->n_rowids;) {
        int64_t rowid = bls_image_rowid(image, row);
        if (rowid < filter->rowids[at]) {
            row++;
        } else {
            if (rowid == filter->rowids[at]) {
                bits[row / 64] |= (uint64_t)1 << (row % 64);
                row++;
            }
            at++;
        }
    }
}

/* 64 bytes of 0 or 1 to 64 bits: the multiplication gathers eight bytes' low bits in the top byte. */
static uint64_t pack(const uint8_t *flags)
{
    uint64_t word = 0, eight;
    int i;

    for (i = 0; i < 8; i++) {
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        int j;
        for (eight = 0, j = 0; j < 8; j++)
            eight |= (uint64_t)flags[8 * i + j] << (8 * j);
#else
        memcpy(&eight, flags + 8 * i, 8);
#endif
        word |= (eight * 0x0102040810204080u >> 56) << (8 * i);
    }
    return word;
}

/* Bits of 64 numbers inside [first, first + span).  A constant count lets the compiler use vectors. */
#define RANGE_WORD(type)                                                                           \
    static uint64_t range_word_##type(const uint8_t *numbers, type first, type span)              \
    {                                                                                              \
        type number[64];                                                                           \
        uint8_t flags[64];                                                                         \
        int i;                                                                                     \
        memcpy(number, numbers, sizeof number);                                                    \
        for (i = 0; i < 64; i++)                                                                   \
            flags[i] = (type)(number[i] - first) < span;                                           \
        return pack(flags);                                                                        \
    }
RANGE_WORD(uint8_t)
RANGE_WORD(uint16_t)
RANGE_WORD(uint32_t)

static uint64_t range_word(const bls_image *image, const bls_image_column *column, uint32_t row, uint32_t first,
                           uint32_t span)
{
    const uint8_t *numbers = column->numbers + (size_t)row * column->width;
    uint8_t tail[64 * 4];

    if (image->n - row < 64) { /* bits past the end are and-ed with 0 */
        memset(tail, 0, sizeof tail);
        memcpy(tail, numbers, (size_t)(image->n - row) * column->width);
        numbers = tail;
    }
    switch (column->width) {
    case 1: return range_word_uint8_t(numbers, (uint8_t)first, (uint8_t)span);
    case 2: return range_word_uint16_t(numbers, (uint16_t)first, (uint16_t)span);
    default: return range_word_uint32_t(numbers, first, span);
    }
}

/* Keeps the rows whose number is in [first, end), or is not if `invert`. */
static void keep_range(const bls_image *image, const bls_image_column *column, uint32_t first,
                       uint32_t end, int invert, uint64_t *bits)
{
    uint64_t flip = invert ? ~(uint64_t)0 : 0;
    uint32_t row;
    size_t words = BLS_FILTER_WORDS(image->n);

    if (first >= end || (first == 0 && end == column->n_entries)) {
        if ((first < end) == !!invert)
            memset(bits, 0, words * sizeof *bits);
        return;
    }
    for (row = 0; row < image->n; row += 64) {
        if (bits[row / 64])
            bits[row / 64] &= range_word(image, column, row, first, end - first) ^ flip;
    }
}

static void keep_set(const bls_image *image, const bls_image_column *column, const bls_filter_term *term,
                     uint64_t *bits)
{
    uint8_t wanted[BLS_IMAGE_MOST_ROWS]; /* by dictionary number */
    uint8_t flags[64];
    uint32_t i, row, n, from, n_wanted = 0, last = 0;
    bls_cell entry;

    memset(wanted, 0, column->n_entries);
    /* Walk the shorter list, search in the longer one. */
    if (term->n_cells <= column->n_entries) {
        for (i = 0; i < term->n_cells; i++) {
            from = bls_image_bound(column, &term->cells[i], 0);
            for (; from < column->n_entries; from++) {
                bls_image_entry(column, from, &entry);
                if (bls_cell_compare(&entry, &term->cells[i]) != 0)
                    break;
                n_wanted += !wanted[from];
                wanted[from] = 1;
                last = from;
            }
        }
    } else {
        for (i = 0; i < column->n_entries; i++) {
            bls_image_entry(column, i, &entry);
            if (bsearch(&entry, term->cells, term->n_cells, sizeof *term->cells, compare_cells)) {
                wanted[i] = 1;
                n_wanted++;
                last = i;
            }
        }
    }
    if (n_wanted <= 1 || n_wanted == column->n_entries) {
        keep_range(image, column, n_wanted == 1 ? last : 0, n_wanted == 1 ? last + 1 : n_wanted, 0, bits);
        return;
    }
    for (row = 0; row < image->n; row += 64) {
        if (!bits[row / 64])
            continue;
        n = image->n - row < 64 ? image->n - row : 64;
        memset(flags, 0, sizeof flags);
        if (column->width == 1) {
            for (i = 0; i < n; i++)
                flags[i] = wanted[column->numbers[row + i]];
        } else {
            for (i = 0; i < n; i++)
                flags[i] = wanted[bls_image_number(column, row + i)];
        }
        bits[row / 64] &= pack(flags);
    }
}

static void keep_term(const bls_image *image, const bls_filter_term *term, uint64_t *bits)
{
    const bls_image_column *column = &image->columns[term->column];
    const bls_cell *cell = &term->cells[0];
    uint32_t first = 0, end = column->n_entries;
    uint32_t start = column->tags[0] == BLS_CELL_NULL; /* behind NULL */

    switch (term->op) {
    case BLS_FILTER_IN: keep_set(image, column, term, bits); return;
    case BLS_FILTER_NE:
        keep_range(image, column, start, end, 0, bits);
        /* fall through */
    case BLS_FILTER_EQ:
    case BLS_FILTER_IS:
    case BLS_FILTER_IS_NOT:
        first = bls_image_bound(column, cell, 0);
        end = bls_image_bound(column, cell, 1);
        break;
    case BLS_FILTER_LT:
        first = start;
        end = bls_image_bound(column, cell, 0);
        break;
    case BLS_FILTER_LE:
        first = start;
        end = bls_image_bound(column, cell, 1);
        break;
    case BLS_FILTER_GT: first = bls_image_bound(column, cell, 1); break;
    case BLS_FILTER_GE: first = bls_image_bound(column, cell, 0); break;
    default: break;
    }
    keep_range(image, column, first, end, term->op == BLS_FILTER_NE || term->op == BLS_FILTER_IS_NOT, bits);
}

static int holds(const bls_filter_term *term, const bls_cell *cell)
{
    int order;

    if (term->op == BLS_FILTER_IN)
        return bsearch(cell, term->cells, term->n_cells, sizeof *term->cells, compare_cells) != NULL;
    order = bls_cell_compare(cell, &term->cells[0]);
    switch (term->op) {
    case BLS_FILTER_NE: return cell->tag != BLS_CELL_NULL && order != 0;
    case BLS_FILTER_IS_NOT: return order != 0;
    case BLS_FILTER_LT: return cell->tag != BLS_CELL_NULL && order < 0;
    case BLS_FILTER_LE: return cell->tag != BLS_CELL_NULL && order <= 0;
    case BLS_FILTER_GT: return order > 0;
    case BLS_FILTER_GE: return order >= 0;
    default: return order == 0;
    }
}

int bls_filter_row(const bls_filter *filter, const bls_image *image, uint32_t row)
{
    int64_t rowid = bls_image_rowid(image, row);
    bls_cell cell;
    size_t i;

    if (filter->nothing || rowid < filter->low || rowid > filter->high)
        return 0;
    if (filter->has_rowids) {
        i = first_rowid(filter, rowid);
        if (i == filter->n_rowids || filter->rowids[i] != rowid)
            return 0;
    }
    for (i = 0; i < filter->n_terms; i++) {
        const bls_image_column *column = &image->columns[filter->terms[i].column];
        bls_image_entry(column, bls_image_number(column, row), &cell);
        if (!holds(&filter->terms[i], &cell))
            return 0;
    }
    return 1;
}

uint32_t bls_filter_block(const bls_filter *filter, const bls_image *image, uint64_t *bits)
{
    size_t words = BLS_FILTER_WORDS(image->n), i;

    if (filter->nothing) {
        memset(bits, 0, words * sizeof *bits);
        return 0;
    }
    rowid_bits(filter, image, bits);
    for (i = 0; i < filter->n_terms; i++)
        keep_term(image, &filter->terms[i], bits);
    return (uint32_t)bl_bits_set((const uint8_t *)bits, (uint64_t)words * 64);
}
