/* sqlite_index_plan.c - xBestIndex of bitlm_index: which conditions the scan takes over.
 *
 * With MATCH the scan answers in order of (distance, rowid): the k nearest of the rows that
 * fulfil all conditions it was given, or without k all of them, a few at a time.  So it
 * takes every condition on metadata, keys and rowids that it can evaluate exactly as SQLite
 * would, and leaves the rest to SQLite, which with k can only drop rows.
 *
 * Joins: a condition `v.rowid = t.id` with MATCH is left to SQLite, because taken
 * over it would mean "the nearest of this one row", once for each row of t.  A
 * condition of metadata is taken where the other table's row is known first.  The cost says that
 * a search is dear, so that SQLite runs it once and looks up t after it.
 *
 * Called by SQLite through the module in sqlite_index.c. */
#include "sqlite_index.h"

#include <string.h>

#define MOST_ITEMS 200

/* A comparison as a filter's, -1 if it is none.  *is_null: IS NULL and IS NOT NULL, which
 * bring NULL as argument. */
static int comparison(unsigned char op)
{
    switch (op) {
    case SQLITE_INDEX_CONSTRAINT_EQ: return BLS_FILTER_EQ;
    case SQLITE_INDEX_CONSTRAINT_NE: return BLS_FILTER_NE;
    case SQLITE_INDEX_CONSTRAINT_LT: return BLS_FILTER_LT;
    case SQLITE_INDEX_CONSTRAINT_LE: return BLS_FILTER_LE;
    case SQLITE_INDEX_CONSTRAINT_GT: return BLS_FILTER_GT;
    case SQLITE_INDEX_CONSTRAINT_GE: return BLS_FILTER_GE;
    case SQLITE_INDEX_CONSTRAINT_IS:
    case SQLITE_INDEX_CONSTRAINT_ISNULL: return BLS_FILTER_IS;
    case SQLITE_INDEX_CONSTRAINT_ISNOT:
    case SQLITE_INDEX_CONSTRAINT_ISNOTNULL: return BLS_FILTER_IS_NOT;
    default: return -1;
    }
}

typedef struct plan {
    sqlite3_index_info *info;
    char items[MOST_ITEMS * ITEM_BYTES + 1];
    int n;
} plan;

static void take(plan *p, int constraint, char kind, int column, int op, int omit)
{
    static const char digits[] = "0123456789abcdef";
    char *item = p->items + p->n * ITEM_BYTES;

    item[0] = kind;
    item[1] = digits[column >> 4 & 15];
    item[2] = digits[column & 15];
    item[3] = (char)('a' + op);
    p->n++;
    p->info->aConstraintUsage[constraint].argvIndex = p->n;
    p->info->aConstraintUsage[constraint].omit = (unsigned char)omit;
}

/* 1 if text is compared byte by byte, as dictionaries are ordered. */
static int is_binary(sqlite3_index_info *info, int constraint)
{
    const char *collation = sqlite3_vtab_collation(info, constraint);

    return !collation || sqlite3_stricmp(collation, "BINARY") == 0;
}

/* How the rows come: 1 if that is what ORDER BY wants. */
static int order_is_ours(const index_table *table, const sqlite3_index_info *info, int search)
{
    int i, column;

    for (i = 0; i < info->nOrderBy; i++) {
        column = info->aOrderBy[i].iColumn;
        if (info->aOrderBy[i].desc)
            return 0;
        if (column < 0 || column == table->rowid)
            return !search || i > 0; /* rowids differ: what follows does not matter */
        if (!(search && i == 0 && column == table->distance))
            return 0;
    }
    return 1;
}

int index_best(sqlite3_vtab *base, sqlite3_index_info *info)
{
    index_table *table = (index_table *)base;
    plan p = {.info = info};
    int i, column, op, match = -1, search, by_rowid = 0, n_filters = 0, has_k = 0, has_limit = 0, in;
    double rows = 1e6, cost;
    const struct sqlite3_index_constraint *c;

    for (i = 0; i < info->nConstraint; i++) {
        c = &info->aConstraint[i];
        if (c->op == SQLITE_INDEX_CONSTRAINT_MATCH &&
            (c->iColumn == table->code || c->iColumn == table->vector || c->iColumn == table->command)) {
            /* Its argument comes from a table that this plan would read later. */
            if (!c->usable)
                return SQLITE_CONSTRAINT;
            if (match >= 0)
                return index_fail(table, SQLITE_ERROR, "there are two MATCH conditions");
            match = i;
        }
    }
    search = match >= 0;
    if (search)
        take(&p, match, table->vector >= 0 && info->aConstraint[match].iColumn == table->vector ? ITEM_VECTOR : ITEM_CODE,
             0, BLS_FILTER_EQ, 1);
    for (i = 0; i < info->nConstraint; i++) {
        c = &info->aConstraint[i];
        column = c->iColumn;
        if (i == match || p.n >= MOST_ITEMS)
            continue;
        if (c->op == SQLITE_INDEX_CONSTRAINT_LIMIT || c->op == SQLITE_INDEX_CONSTRAINT_OFFSET) {
            if (c->usable && search) { /* only a hint: SQLite counts too */
                take(&p, i, c->op == SQLITE_INDEX_CONSTRAINT_LIMIT ? ITEM_LIMIT : ITEM_OFFSET, 0, BLS_FILTER_EQ, 0);
                has_limit |= c->op == SQLITE_INDEX_CONSTRAINT_LIMIT;
            }
            continue;
        }
        op = comparison(c->op);
        if (op < 0)
            continue;
        if (column == table->k && op == BLS_FILTER_EQ && search) {
            if (!c->usable)
                return SQLITE_CONSTRAINT;
            if (has_k)
                return index_fail(table, SQLITE_ERROR, "there are two conditions on k");
            take(&p, i, ITEM_K, 0, op, 1);
            has_k = 1;
            continue;
        }
        if (column == table->k && search)
            return index_fail(table, SQLITE_ERROR, "k says how many rows are wanted, by = alone: code MATCH ? AND k = 10");
        if (column == table->k)
            return index_fail(table, SQLITE_ERROR, "k needs a search: WHERE code MATCH ? AND k = 10");
        if (!c->usable)
            continue;
        if (column == table->distance) {
            if (search && (op == BLS_FILTER_LT || op == BLS_FILTER_LE))
                take(&p, i, ITEM_DISTANCE, 0, op, 1);
            continue;
        }
        in = op == BLS_FILTER_EQ && bls_vtab_in(info, i, -1);
        if (column < 0 || column == table->rowid) {
            if (op == BLS_FILTER_NE || op == BLS_FILTER_IS_NOT)
                continue;
            if (search && !in && (op == BLS_FILTER_EQ || op == BLS_FILTER_IS) && !bls_vtab_is_constant(info, i))
                continue;
            if (in)
                bls_vtab_in(info, i, 1);
            take(&p, i, ITEM_ROWID, 0, in ? BLS_FILTER_IN : op, 1);
            by_rowid |= op == BLS_FILTER_EQ && !in;
            rows /= op == BLS_FILTER_EQ ? 1e5 : 2;
            n_filters++;
        } else if (column == table->key) {
            if ((op != BLS_FILTER_EQ) || !is_binary(info, i))
                continue;
            if (search && !in && !bls_vtab_is_constant(info, i))
                continue;
            if (in)
                bls_vtab_in(info, i, 1);
            take(&p, i, ITEM_KEY, 0, in ? BLS_FILTER_IN : op, 1);
            by_rowid |= !in;
            rows /= 1e5;
            n_filters++;
        } else if (column < table->n_columns && table->columns[column].role == ROLE_META && is_binary(info, i)) {
            if (in)
                bls_vtab_in(info, i, 1);
            take(&p, i, ITEM_META, table->columns[column].number, in ? BLS_FILTER_IN : op, 1);
            rows /= op == BLS_FILTER_EQ ? 10 : 2;
            n_filters++;
        }
    }
    if (rows < 1)
        rows = 1;
    info->orderByConsumed = info->nOrderBy > 0 && order_is_ours(table, info, search);
    if (search) {
        info->idxNum = PLAN_KNN | (p.n == info->nConstraint && info->orderByConsumed == (info->nOrderBy > 0) ? PLAN_ALL : 0);
        cost = 1e6 + rows / 10;
        rows = has_k || has_limit ? 10 : rows < 100 ? rows : 100;
    } else if (by_rowid) {
        cost = 10;
        rows = 1;
    } else {
        /* Dearer than a search: else `MATCH … AND (a OR b)` would become a search for each of a and b. */
        cost = (n_filters ? 2e6 : 3e6) + rows;
    }
    /* Not SCAN_UNIQUE: one-pass updates would change what the cursor stands on. */
    info->idxFlags = 0;
    info->estimatedCost = cost;
    info->estimatedRows = (sqlite3_int64)rows;
    info->idxStr = sqlite3_mprintf("%s", p.items);
    if (!info->idxStr)
        return SQLITE_NOMEM;
    info->needToFreeIdxStr = 1;
    return SQLITE_OK;
}
