/* sqlite_search_plan.c - xBestIndex of bitlm_search: what a search or a scan takes over.
 *
 * With `s MATCH text` (or s('text')) rows come in order of (rank, rowid): the k best of those whose rowid fulfils the
 * conditions, or without k all of them, a few at a time.  Other conditions SQLite checks afterwards.  With
 * fts= the search is of two lists, and conditions on rowid and rank are SQLite's too.
 *
 * Without MATCH rows come in order of rowid.
 *
 * Called by SQLite through the module in sqlite_search.c. */
#include "sqlite_search.h"

#define MOST_ITEMS 64

static int comparison(unsigned char op)
{
    switch (op) {
    case SQLITE_INDEX_CONSTRAINT_EQ: return BLS_FILTER_EQ;
    case SQLITE_INDEX_CONSTRAINT_LT: return BLS_FILTER_LT;
    case SQLITE_INDEX_CONSTRAINT_LE: return BLS_FILTER_LE;
    case SQLITE_INDEX_CONSTRAINT_GT: return BLS_FILTER_GT;
    case SQLITE_INDEX_CONSTRAINT_GE: return BLS_FILTER_GE;
    default: return -1;
    }
}

typedef struct plan {
    sqlite3_index_info *info;
    char items[2 * MOST_ITEMS + 1];
    int n;
} plan;

static void take(plan *p, int constraint, char kind, int op, int omit)
{
    p->items[2 * p->n] = kind;
    p->items[2 * p->n + 1] = (char)('a' + op);
    p->info->aConstraintUsage[constraint].argvIndex = ++p->n;
    p->info->aConstraintUsage[constraint].omit = (unsigned char)omit;
}

static int order_is_ours(const search_table *table, const sqlite3_index_info *info, int search)
{
    int i;

    for (i = 0; i < info->nOrderBy; i++) {
        if (info->aOrderBy[i].desc)
            return 0;
        if (info->aOrderBy[i].iColumn < 0)
            return !search || i > 0;
        if (!(search && i == 0 && info->aOrderBy[i].iColumn == table->n_columns + HIDDEN_RANK))
            return 0;
    }
    return 1;
}

int search_best(sqlite3_vtab *base, sqlite3_index_info *info)
{
    search_table *table = (search_table *)base;
    const int hidden = table->n_columns;
    plan p = {.info = info};
    int i, column, op, match = -1, in, has_k = 0, has_limit = 0, by_rowid = 0;
    const struct sqlite3_index_constraint *c;
    double rows = 1e6;

    for (i = 0; i < info->nConstraint; i++) {
        c = &info->aConstraint[i];
        if (c->op == SQLITE_INDEX_CONSTRAINT_MATCH && c->iColumn != hidden + HIDDEN_COMMAND)
            return search_fail(table, SQLITE_ERROR, "MATCH asks the table, not a column: WHERE %s MATCH 'text'", table->name);
        if (c->iColumn == hidden + HIDDEN_COMMAND &&
            (c->op == SQLITE_INDEX_CONSTRAINT_MATCH || c->op == SQLITE_INDEX_CONSTRAINT_EQ)) {
            /* Its argument comes from a table that this plan would read later. */
            if (!c->usable)
                return SQLITE_CONSTRAINT;
            if (match >= 0)
                return search_fail(table, SQLITE_ERROR, "there are two MATCH conditions");
            match = i;
            take(&p, i, SEARCH_ITEM_MATCH, 0, 1);
        }
    }
    for (i = 0; i < info->nConstraint && p.n < MOST_ITEMS; i++) {
        c = &info->aConstraint[i];
        column = c->iColumn;
        if (i == match)
            continue;
        if (c->op == SQLITE_INDEX_CONSTRAINT_LIMIT || c->op == SQLITE_INDEX_CONSTRAINT_OFFSET) {
            if (c->usable && match >= 0) { /* only a hint: SQLite counts too */
                take(&p, i, c->op == SQLITE_INDEX_CONSTRAINT_LIMIT ? SEARCH_ITEM_LIMIT : SEARCH_ITEM_OFFSET, 0, 0);
                has_limit |= c->op == SQLITE_INDEX_CONSTRAINT_LIMIT;
            }
            continue;
        }
        op = comparison(c->op);
        if (op < 0)
            continue;
        if (column == hidden + HIDDEN_K) {
            if (match < 0)
                return search_fail(table, SQLITE_ERROR, "k needs a search: WHERE %s MATCH 'text' AND k = 10", table->name);
            if (op != BLS_FILTER_EQ)
                return search_fail(table, SQLITE_ERROR, "k says how many rows are wanted, by = alone: %s MATCH 'text' AND k = 10",
                                   table->name);
            if (!c->usable)
                return SQLITE_CONSTRAINT;
            if (has_k)
                return search_fail(table, SQLITE_ERROR, "there are two conditions on k");
            take(&p, i, SEARCH_ITEM_K, op, 1);
            has_k = 1;
            continue;
        }
        if (!c->usable || (match >= 0 && table->fts))
            continue;
        if (column == hidden + HIDDEN_RANK && match >= 0 && (op == BLS_FILTER_LT || op == BLS_FILTER_LE)) {
            take(&p, i, SEARCH_ITEM_RANK, op, 0);
        } else if (column < 0 && match >= 0) {
            in = op == BLS_FILTER_EQ && bls_vtab_in(info, i, -1);
            /* A join's s.rowid = t.id would mean "the best of this one row", once for each row of t. */
            if (op == BLS_FILTER_EQ && !in && !bls_vtab_is_constant(info, i))
                continue;
            if (in)
                bls_vtab_in(info, i, 1);
            take(&p, i, SEARCH_ITEM_ROWID, in ? BLS_FILTER_IN : op, 1);
            rows /= 10;
        } else if (column < 0) {
            take(&p, i, SEARCH_ITEM_ROWID, op, 0);
            by_rowid |= op == BLS_FILTER_EQ;
            rows /= 2;
        }
    }
    p.items[2 * p.n] = 0;
    info->idxNum = match >= 0 ? SEARCH_PLAN_SEARCH : SEARCH_PLAN_SCAN;
    if (match >= 0) {
        info->estimatedCost = 1e6 + rows / 10;
        info->estimatedRows = has_k || has_limit ? 10 : 100;
    } else {
        info->estimatedCost = by_rowid ? 10 : 3e6 + rows;
        info->estimatedRows = by_rowid ? 1 : (sqlite3_int64)rows;
    }
    /* Not SCAN_UNIQUE: one-pass updates would change what the cursor stands on. */
    info->idxFlags = 0;
    info->orderByConsumed = info->nOrderBy > 0 && order_is_ours(table, info, match >= 0);
    info->idxStr = sqlite3_mprintf("%s", p.items);
    if (!info->idxStr)
        return SQLITE_NOMEM;
    info->needToFreeIdxStr = 1;
    return SQLITE_OK;
}
