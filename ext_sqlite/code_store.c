/* code_store.c - the directory of blocks, drafts, and their way to and from the database.
 *
 * The directory is an array in order of `first`.  Each entry may have an image (what
 * readers see) and a draft (what writers change); a change throws the image away and a
 * reader has it made again, unless it was flushed meanwhile.  Flushing seals every
 * changed draft, joins small neighbours, writes the rows and one new random stamp.  The draft
 * written to last is kept, so that one-row transactions do not unpack it again.
 *
 * Validity: `stamp` is the database's state that the directory stands for.  begin()
 * compares it, because data_version would miss a rollback and a counter has the ABA
 * problem.  While there are unflushed drafts no other connection can have written (this one
 * holds the write lock), so nothing is compared then.
 *
 * Called by the virtual tables (sqlite_index.c). */
#include "code_store.h"

#include <string.h>

#include "code_multi.h"
#include "sqlite_table.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#define BLOCK_BYTES 49152u          /* codes of a full block */
#define MOST_DRAFT_BYTES 67108864u  /* then a flush */
#define FULL_DRAFT_BYTES 786432u    /* a draft with so much text is full */

enum { SELECT_STAMP, SELECT_DIRECTORY, WRITE_BLOCK, DELETE_BLOCK, WRITE_STAMP, N_STATEMENTS };

static const char *const statement_sql[N_STATEMENTS] = {
    "SELECT v FROM \"%w\".\"%w_config\" WHERE k='stamp'",
    "SELECT first, n, stamp FROM \"%w\".\"%w_blocks\" ORDER BY first",
    "REPLACE INTO \"%w\".\"%w_blocks\"(first, n, stamp, data) VALUES(?1, ?2, ?3, ?4)",
    "DELETE FROM \"%w\".\"%w_blocks\" WHERE first=?1",
    "REPLACE INTO \"%w\".\"%w_config\"(k, v) VALUES('stamp', ?1)",
};

typedef struct entry {
    int64_t first;    /* no rowid of the block is smaller */
    int64_t stored;   /* the key of its row, if on_disk */
    uint64_t stamp;   /* of that row */
    bls_image *image; /* NULL: not in memory, or out of date */
    bls_draft *draft; /* NULL: no changes */
    uint32_t n;
    uint8_t on_disk;
    uint8_t dirty;    /* the draft is newer than the row */
} entry;

struct bls_store {
    sqlite3 *db;
    char *schema, *name;
    bls_store_shape shape;
    uint32_t capacity;       /* rows of a full block */
    uint64_t identity[2];
    sqlite3_stmt *statements[N_STATEMENTS];
    sqlite3_blob *blob;      /* open between loads of one read */
    entry *entries;
    size_t n_entries, n_allocated;
    size_t n_dirty, dirty_bytes;
    size_t hot;              /* the entry written to last */
    int failed_savepoint;
    uint8_t keep;            /* a flush failed: the drafts are the state of that savepoint */
    uint64_t rows, version;
    int64_t stamp;
    bls_cover *cover;
    uint8_t known;           /* the directory stands for `stamp` */
    char message[200];
};

static int fail(bls_store *store, int rc, const char *sentence)
{
    sqlite3_snprintf((int)sizeof store->message, store->message, "%s", sentence);
    return rc;
}

static int corrupt(bls_store *store, int64_t first, const char *what)
{
    sqlite3_snprintf((int)sizeof store->message, store->message,
                     "block %lld of %s is damaged: %s", (sqlite3_int64)first, store->name, what);
    return SQLITE_CORRUPT_VTAB;
}

/* ---- shadow tables ------------------------------------------------------------------ */

static int64_t random_stamp(void)
{
    int64_t stamp;

    do
        sqlite3_randomness(sizeof stamp, &stamp);
    while (stamp == 0);
    return stamp;
}

int bls_store_create(sqlite3 *db, const char *schema, const char *name, char **message)
{
    return bls_execute(db, message,
                   "CREATE TABLE \"%w\".\"%w_config\"(k PRIMARY KEY, v) WITHOUT ROWID;"
                   "CREATE TABLE \"%w\".\"%w_blocks\"(first INTEGER PRIMARY KEY, n INTEGER, stamp INTEGER, data BLOB);"
                   "INSERT INTO \"%w\".\"%w_config\"(k, v) VALUES('stamp', %lld)",
                   schema, name, schema, name, schema, name, (sqlite3_int64)random_stamp());
}

int bls_store_drop(sqlite3 *db, const char *schema, const char *name)
{
    return bls_execute(db, NULL,
                   "DROP TABLE IF EXISTS \"%w\".\"%w_config\"; DROP TABLE IF EXISTS \"%w\".\"%w_blocks\"",
                   schema, name, schema, name);
}

int bls_store_shadow(const char *suffix)
{
    return sqlite3_stricmp(suffix, "config") == 0 || sqlite3_stricmp(suffix, "blocks") == 0;
}

int bls_store_get(sqlite3 *db, const char *schema, const char *name, const char *key, char **text)
{
    sqlite3_stmt *statement = NULL;
    const char *value;
    char *sql = sqlite3_mprintf("SELECT v FROM \"%w\".\"%w_config\" WHERE k=?1", schema, name);
    int rc = SQLITE_NOMEM, closed;

    *text = NULL;
    if (sql)
        rc = sqlite3_prepare_v2(db, sql, -1, &statement, NULL);
    sqlite3_free(sql);
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_text(statement, 1, key, -1, SQLITE_STATIC);
    if (rc == SQLITE_OK && sqlite3_step(statement) == SQLITE_ROW) {
        value = (const char *)sqlite3_column_text(statement, 0);
        if (value)
            *text = sqlite3_mprintf("%s", value);
        if (!*text && sqlite3_column_type(statement, 0) != SQLITE_NULL)
            rc = SQLITE_NOMEM;
    }
    closed = sqlite3_finalize(statement);
    if (rc == SQLITE_OK)
        rc = closed;
    if (rc != SQLITE_OK) {
        sqlite3_free(*text);
        *text = NULL;
    }
    return rc;
}

int bls_store_set(sqlite3 *db, const char *schema, const char *name, const char *key, const char *text)
{
    return bls_execute(db, NULL, "REPLACE INTO \"%w\".\"%w_config\"(k, v) VALUES(%Q, %Q)", schema, name, key, text);
}

/* ---- a store ------------------------------------------------------------------------ */

/* What tells this table's blocks from others in the process: the file, or for a database
 * without one this very connection, and the table's name. */
static void identify(bls_store *store)
{
    const char *path = sqlite3_db_filename(store->db, store->schema);
    XXH3_state_t state;
    XXH128_hash_t hash;

    XXH3_128bits_reset(&state);
    if (path && path[0])
        XXH3_128bits_update(&state, path, strlen(path));
    else
        XXH3_128bits_update(&state, &store->db, sizeof store->db);
    XXH3_128bits_update(&state, "", 1);
    XXH3_128bits_update(&state, store->name, strlen(store->name));
    hash = XXH3_128bits_digest(&state);
    store->identity[0] = hash.low64;
    store->identity[1] = hash.high64;
}

int bls_store_open(sqlite3 *db, const char *schema, const char *name, const bls_store_shape *shape,
                   bls_store **result)
{
    bls_store *store = sqlite3_malloc64(sizeof *store);

    if (!store)
        return SQLITE_NOMEM;
    memset(store, 0, sizeof *store);
    store->db = db;
    store->shape = *shape;
    store->capacity = BLOCK_BYTES / shape->code_bytes;
    if (store->capacity > 4096)
        store->capacity = 4096;
    if (store->capacity < 64)
        store->capacity = 64;
    store->schema = sqlite3_mprintf("%s", schema);
    store->name = sqlite3_mprintf("%s", name);
    if (!store->schema || !store->name) {
        bls_store_close(store);
        return SQLITE_NOMEM;
    }
    identify(store);
    *result = store;
    return SQLITE_OK;
}

/* Closing may roll back (no memory, no disk), and then bls_store_rollback comes here in the midst of it. */
static void close_blob(bls_store *store)
{
    sqlite3_blob *blob = store->blob;

    store->blob = NULL;
    sqlite3_blob_close(blob);
}

static void finalize(bls_store *store)
{
    close_blob(store);
    bls_finalize(store->statements, N_STATEMENTS);
}

void bls_store_release(bls_store *store)
{
    finalize(store);
}

static void forget(entry *e)
{
    bls_image_release(e->image);
    bls_draft_free(e->draft);
    e->image = NULL;
    e->draft = NULL;
}

static void forget_all(bls_store *store)
{
    size_t i;

    for (i = 0; i < store->n_entries; i++)
        forget(&store->entries[i]);
    sqlite3_free(store->entries);
    store->entries = NULL;
    store->n_entries = store->n_allocated = store->n_dirty = store->dirty_bytes = 0;
    store->rows = 0;
    store->known = 0;
    store->version++;
}

void bls_store_close(bls_store *store)
{
    if (!store)
        return;
    finalize(store);
    bls_cover_free(store->cover);
    forget_all(store);
    sqlite3_free(store->schema);
    sqlite3_free(store->name);
    sqlite3_free(store);
}

const char *bls_store_message(const bls_store *store)
{
    return store->message;
}

static int statement(bls_store *store, int which, sqlite3_stmt **result)
{
    int rc;

    if (!store->statements[which]) {
        rc = bls_prepare(store->db, sqlite3_mprintf(statement_sql[which], store->schema, store->name),
                         &store->statements[which]);
        if (rc != SQLITE_OK) {
            if (rc == SQLITE_ERROR) /* the shadow table is gone or another */
                return fail(store, SQLITE_CORRUPT_VTAB, "a shadow table is missing or malformed");
            return rc;
        }
    }
    *result = store->statements[which];
    return SQLITE_OK;
}

int bls_store_rename(bls_store *store, const char *name)
{
    char *copy = sqlite3_mprintf("%s", name);
    int rc;

    if (!copy)
        return SQLITE_NOMEM;
    finalize(store);
    rc = bls_execute(store->db, NULL,
                 "ALTER TABLE \"%w\".\"%w_config\" RENAME TO \"%w_config\";"
                 "ALTER TABLE \"%w\".\"%w_blocks\" RENAME TO \"%w_blocks\"",
                 store->schema, store->name, name, store->schema, store->name, name);
    if (rc != SQLITE_OK) {
        sqlite3_free(copy);
        return rc;
    }
    sqlite3_free(store->name);
    store->name = copy;
    identify(store);
    return SQLITE_OK;
}

/* ---- the directory ------------------------------------------------------------------ */

static int make_room(bls_store *store)
{
    size_t n = store->n_allocated ? store->n_allocated * 2 : 64;
    entry *entries;

    if (store->n_entries < store->n_allocated)
        return SQLITE_OK;
    entries = sqlite3_realloc64(store->entries, n * sizeof *entries);
    if (!entries)
        return SQLITE_NOMEM;
    store->entries = entries;
    store->n_allocated = n;
    return SQLITE_OK;
}

/* Reads first, n and stamp of every block; what is in memory and did not change moves over. */
static int read_directory(bls_store *store, int64_t stamp)
{
    entry *old = store->entries, *e;
    size_t n_old = store->n_entries, at = 0, i;
    sqlite3_stmt *select;
    int64_t first, n;
    int rc, end;

    rc = statement(store, SELECT_DIRECTORY, &select);
    if (rc != SQLITE_OK)
        return rc;
    store->entries = NULL;
    store->n_entries = store->n_allocated = store->n_dirty = store->dirty_bytes = store->hot = 0;
    store->rows = 0;
    store->version++;
    while (rc == SQLITE_OK && (end = sqlite3_step(select)) == SQLITE_ROW) {
        first = sqlite3_column_int64(select, 0);
        n = sqlite3_column_int64(select, 1);
        if (n < 1 || n > BLS_IMAGE_MOST_ROWS) {
            rc = corrupt(store, first, "its number of rows is impossible");
            break;
        }
        rc = make_room(store);
        if (rc != SQLITE_OK)
            break;
        e = &store->entries[store->n_entries++];
        memset(e, 0, sizeof *e);
        e->first = e->stored = first;
        e->stamp = (uint64_t)sqlite3_column_int64(select, 2);
        e->n = (uint32_t)n;
        e->on_disk = 1;
        store->rows += e->n;
        while (at < n_old && old[at].first < first)
            at++;
        if (at < n_old && old[at].first == first && old[at].on_disk && !old[at].dirty &&
            old[at].stamp == e->stamp && old[at].n == e->n) {
            e->image = old[at].image;
            e->draft = old[at].draft;
            if (e->draft) {
                store->hot = store->n_entries - 1;
            }
            old[at].image = NULL;
            old[at].draft = NULL;
        }
    }
    end = sqlite3_reset(select);
    if (rc == SQLITE_OK)
        rc = end;
    for (i = 0; i < n_old; i++)
        forget(&old[i]);
    sqlite3_free(old);
    if (rc != SQLITE_OK) {
        forget_all(store);
        return rc;
    }
    store->stamp = stamp;
    store->known = 1;
    return SQLITE_OK;
}

int bls_store_begin(bls_store *store)
{
    sqlite3_stmt *select;
    int64_t stamp = 0;
    int rc, found, end;

    store->message[0] = 0;
    if (store->known && store->n_dirty)
        return SQLITE_OK;
    rc = statement(store, SELECT_STAMP, &select);
    if (rc != SQLITE_OK)
        return rc;
    found = sqlite3_step(select) == SQLITE_ROW;
    if (found)
        stamp = sqlite3_column_int64(select, 0);
    end = sqlite3_reset(select);
    if (end != SQLITE_OK)
        return end;
    if (!found || stamp == 0)
        return fail(store, SQLITE_CORRUPT_VTAB, "the table's stamp is missing");
    if (store->known && store->stamp == stamp)
        return SQLITE_OK;
    return read_directory(store, stamp);
}

void bls_store_end(bls_store *store)
{
    close_blob(store);
}

int bls_store_savepoint(bls_store *store, int savepoint)
{
    int rc = bls_store_flush(store);

    store->failed_savepoint = savepoint;
    return rc;
}

void bls_store_rollback_to(bls_store *store, int savepoint)
{
    if (store->keep && store->failed_savepoint == savepoint) {
        store->keep = 0;
        return;
    }
    bls_store_rollback(store);
}

void bls_store_rollback(bls_store *store)
{
    size_t i;

    close_blob(store);
    store->keep = 0;
    /* Images and drafts of rows that stay as they were are taken over by the next begin. */
    for (i = 0; i < store->n_entries && store->n_dirty; i++) {
        if (store->entries[i].dirty)
            forget(&store->entries[i]);
    }
    store->n_dirty = 0;
    store->dirty_bytes = 0;
    store->known = 0;
    store->version++;
}

size_t bls_store_blocks(const bls_store *store)
{
    return store->n_entries;
}

uint64_t bls_store_rows(const bls_store *store)
{
    return store->rows;
}

uint64_t bls_store_version(const bls_store *store)
{
    return store->version;
}

struct bls_cover **bls_store_cover(bls_store *store)
{
    return &store->cover;
}

const uint64_t *bls_store_identity(const bls_store *store)
{
    return store->identity;
}

const bls_store_shape *bls_store_shape_of(const bls_store *store)
{
    return &store->shape;
}

size_t bls_store_block_of(const bls_store *store, int64_t rowid)
{
    size_t low = 0, high = store->n_entries, middle;

    while (low + 1 < high) { /* entries[low].first <= rowid, or low is 0 */
        middle = low + (high - low) / 2;
        if (store->entries[middle].first <= rowid)
            low = middle;
        else
            high = middle;
    }
    return low;
}

void bls_store_range(const bls_store *store, size_t block, int64_t *first, int64_t *last)
{
    *first = store->entries[block].first;
    *last = block + 1 < store->n_entries ? store->entries[block + 1].first - 1 : INT64_MAX;
}

/* 1 if the last row lies before the next block. */
static int in_range(const bls_store *store, size_t block, const bls_image *image)
{
    return block + 1 >= store->n_entries ||
           bls_image_rowid(image, image->n - 1) < store->entries[block + 1].first;
}

/* Reads a block's row; fresh: not from memory. */
static int load(bls_store *store, size_t block, int fresh, bls_image **result)
{
    entry *e = &store->entries[block];
    const char *what;
    bls_image *image;
    sqlite3_blob *blob;
    char *table;
    int rc, length;

    if (!fresh) {
        image = bls_cache_find(store->identity, e->stored, e->stamp);
        /* What another connection found sound, with this shape. */
        if (image && image->code_bytes == store->shape.code_bytes &&
            image->n_columns == store->shape.n_columns && image->n == e->n &&
            in_range(store, block, image)) {
            *result = image;
            return SQLITE_OK;
        }
        bls_image_release(image);
    }
    /* Without memory SQLite may roll back in the midst of this, and then bls_store_rollback must find no
     * blob to close: the one in use is not the store's meanwhile. */
    blob = store->blob;
    store->blob = NULL;
    if (blob) {
        rc = sqlite3_blob_reopen(blob, e->stored);
    } else {
        table = sqlite3_mprintf("%s_blocks", store->name);
        if (!table)
            return SQLITE_NOMEM;
        rc = sqlite3_blob_open(store->db, store->schema, table, "data", e->stored, 0, &blob);
        sqlite3_free(table);
    }
    if (rc != SQLITE_OK) {
        sqlite3_blob_close(blob);
        if (rc == SQLITE_ERROR)
            return corrupt(store, e->stored, "its data is missing");
        return rc;
    }
    store->blob = blob;
    length = sqlite3_blob_bytes(blob);
    if (length < BLS_IMAGE_HEADER || (uint32_t)length > BLS_IMAGE_MOST_BYTES)
        return corrupt(store, e->stored, "its length is impossible");
    image = bls_image_new((size_t)length, store->shape.n_columns);
    if (!image)
        return SQLITE_NOMEM;
    rc = sqlite3_blob_read(store->blob, image->bytes, length, 0);
    if (rc != SQLITE_OK) {
        bls_image_free(image);
        close_blob(store);
        return rc;
    }
    rc = bls_image_check(image, store->shape.code_bytes, store->shape.n_columns, e->stored, e->stamp, &what);
    if (rc == SQLITE_OK && image->n != e->n)
        what = "its number of rows is not the one it states";
    else if (rc == SQLITE_OK && !in_range(store, block, image))
        what = "its rowids reach into the next block";
    if (what) {
        bls_image_free(image);
        return corrupt(store, e->stored, what);
    }
    *result = fresh ? image : bls_cache_share(store->identity, image, store->shape.cache_limit);
    return SQLITE_OK;
}

/* The image of an entry, kept there where the limit allows; the caller's reference. */
static int image_of(bls_store *store, size_t block, bls_image **image)
{
    entry *e = &store->entries[block];
    int rc;

    *image = NULL;
    if (!e->image && e->draft) {
        if (e->n == 0)
            return SQLITE_OK;
        e->image = bls_draft_seal(e->draft, e->first);
        if (!e->image)
            return SQLITE_NOMEM;
    }
    if (e->image) {
        *image = bls_image_retain(e->image);
        return SQLITE_OK;
    }
    if (e->n == 0)
        return SQLITE_OK;
    rc = load(store, block, 0, image);
    if (rc == SQLITE_OK && (*image)->shared)
        e->image = bls_image_retain(*image);
    return rc;
}

int bls_store_block(bls_store *store, size_t block, bls_image **image)
{
    return image_of(store, block, image);
}

int bls_store_peek(bls_store *store, size_t block, bls_image **image, int *pinned)
{
    *image = store->entries[block].image;
    *pinned = *image == NULL;
    return *image ? SQLITE_OK : image_of(store, block, image);
}

int bls_store_find(bls_store *store, int64_t rowid, bls_image **image, uint32_t *row)
{
    int rc;

    *image = NULL;
    if (store->n_entries == 0)
        return SQLITE_OK;
    rc = image_of(store, bls_store_block_of(store, rowid), image);
    if (rc != SQLITE_OK || !*image)
        return rc;
    *row = bls_image_seek(*image, rowid);
    if (*row == (*image)->n || bls_image_rowid(*image, *row) != rowid) {
        bls_image_release(*image);
        *image = NULL;
    }
    return SQLITE_OK;
}

int bls_store_has(bls_store *store, int64_t rowid, int *found)
{
    bls_image *image;
    uint32_t row;
    entry *e;
    int rc;

    *found = 0;
    if (store->n_entries == 0)
        return SQLITE_OK;
    e = &store->entries[bls_store_block_of(store, rowid)];
    if (e->draft) {
        row = bls_draft_seek(e->draft, rowid);
        *found = row < bls_draft_count(e->draft) && bls_draft_rowid(e->draft, row) == rowid;
        return SQLITE_OK;
    }
    rc = bls_store_find(store, rowid, &image, &row);
    if (rc == SQLITE_OK && image) {
        *found = 1;
        bls_image_release(image);
    }
    return rc;
}

int bls_store_next_rowid(bls_store *store, int64_t *rowid)
{
    size_t i = store->n_entries;
    int64_t last;
    bls_image *image;
    entry *e;
    int rc;

    while (i > 0 && store->entries[i - 1].n == 0)
        i--;
    if (i == 0) {
        *rowid = 1;
        return SQLITE_OK;
    }
    e = &store->entries[i - 1];
    if (e->draft) {
        last = bls_draft_rowid(e->draft, e->n - 1);
    } else {
        rc = image_of(store, i - 1, &image);
        if (rc != SQLITE_OK)
            return rc;
        last = bls_image_rowid(image, image->n - 1);
        bls_image_release(image);
    }
    if (last == INT64_MAX)
        return fail(store, SQLITE_FULL, "the largest rowid is taken");
    *rowid = last < 0 ? 1 : last + 1;
    return SQLITE_OK;
}

/* ---- writing ------------------------------------------------------------------------ */

/* Makes sure the entry has a draft; nothing changes yet. */
static int open_draft(bls_store *store, size_t block)
{
    entry *e = &store->entries[block];
    bls_image *image;
    int rc;

    if (e->draft)
        return SQLITE_OK;
    rc = image_of(store, block, &image);
    if (rc != SQLITE_OK)
        return rc;
    e->draft = image ? bls_draft_of(image, store->capacity)
                     : bls_draft_new(store->shape.code_bytes, store->shape.n_columns, store->capacity);
    bls_image_release(image);
    return e->draft ? SQLITE_OK : SQLITE_NOMEM;
}

static void changed(bls_store *store, size_t block)
{
    entry *e = &store->entries[block];

    bls_image_release(e->image);
    e->image = NULL;
    e->n = bls_draft_count(e->draft);
    if (!e->dirty) {
        e->dirty = 1;
        store->n_dirty++;
        store->dirty_bytes += bls_draft_bytes(e->draft);
    }
    store->hot = block;
    store->version++;
}

/* An empty entry at `block`; there must be room. */
static entry *insert_entry(bls_store *store, size_t block, int64_t first, bls_draft *draft)
{
    entry *e = &store->entries[block];

    memmove(e + 1, e, (store->n_entries - block) * sizeof *e);
    store->n_entries++;
    memset(e, 0, sizeof *e);
    e->first = first;
    e->draft = draft;
    e->n = bls_draft_count(draft);
    if (store->hot >= block)
        store->hot++;
    return e;
}

int bls_store_insert(bls_store *store, int64_t rowid, const uint8_t *code, const bls_cell *cells)
{
    uint32_t row, count;
    bls_draft *draft;
    size_t block;
    entry *e;
    int rc;

    if (store->dirty_bytes > MOST_DRAFT_BYTES) {
        rc = bls_store_flush(store);
        if (rc != SQLITE_OK)
            return rc;
    }
    rc = make_room(store);
    if (rc != SQLITE_OK)
        return rc;
    if (store->n_entries == 0) {
        draft = bls_draft_new(store->shape.code_bytes, store->shape.n_columns, store->capacity);
        if (!draft)
            return SQLITE_NOMEM;
        insert_entry(store, 0, rowid, draft);
    }
    block = bls_store_block_of(store, rowid);
    rc = open_draft(store, block);
    if (rc != SQLITE_OK)
        return rc;
    e = &store->entries[block];
    row = bls_draft_seek(e->draft, rowid);
    count = bls_draft_count(e->draft);
    if (row < count && bls_draft_rowid(e->draft, row) == rowid)
        return SQLITE_CONSTRAINT;
    if (count >= store->capacity || (count >= 16 && bls_draft_text(e->draft) > FULL_DRAFT_BYTES)) {
        if (row == count) { /* behind a full block: begin another */
            draft = bls_draft_new(store->shape.code_bytes, store->shape.n_columns, store->capacity);
            if (!draft)
                return SQLITE_NOMEM;
            e = insert_entry(store, ++block, rowid, draft);
            row = 0;
        } else {
            draft = bls_draft_split(e->draft, count / 2);
            if (!draft)
                return SQLITE_NOMEM;
            insert_entry(store, block + 1, bls_draft_rowid(draft, 0), draft);
            changed(store, block);
            changed(store, block + 1);
            if (row >= count / 2 && rowid > bls_draft_rowid(draft, 0)) {
                block++;
                row -= count / 2;
            }
            e = &store->entries[block];
        }
    }
    rc = bls_draft_insert(e->draft, row, rowid, code, cells);
    if (rc != SQLITE_OK)
        return rc;
    if (rowid < e->first)
        e->first = rowid;
    store->rows++;
    changed(store, block);
    return SQLITE_OK;
}

/* The draft that holds rowid, or SQLITE_NOTFOUND. */
static int draft_with(bls_store *store, int64_t rowid, size_t *block, uint32_t *row)
{
    entry *e;
    int rc, found;

    rc = bls_store_has(store, rowid, &found);
    if (rc != SQLITE_OK)
        return rc;
    if (!found)
        return SQLITE_NOTFOUND;
    if (store->dirty_bytes > MOST_DRAFT_BYTES) {
        rc = bls_store_flush(store);
        if (rc != SQLITE_OK)
            return rc;
    }
    *block = bls_store_block_of(store, rowid);
    rc = open_draft(store, *block);
    if (rc != SQLITE_OK)
        return rc;
    e = &store->entries[*block];
    *row = bls_draft_seek(e->draft, rowid);
    return SQLITE_OK;
}

int bls_store_replace(bls_store *store, int64_t rowid, const uint8_t *code, const bls_cell *cells)
{
    size_t block;
    uint32_t row;
    int rc = draft_with(store, rowid, &block, &row);

    if (rc == SQLITE_OK)
        rc = bls_draft_replace(store->entries[block].draft, row, code, cells);
    if (rc == SQLITE_OK)
        changed(store, block);
    return rc;
}

int bls_store_remove(bls_store *store, int64_t rowid)
{
    size_t block;
    uint32_t row;
    int rc = draft_with(store, rowid, &block, &row);

    if (rc != SQLITE_OK)
        return rc;
    bls_draft_remove(store->entries[block].draft, row);
    store->rows--;
    changed(store, block);
    return SQLITE_OK;
}

static int new_stamp(bls_store *store)
{
    int64_t stamp = random_stamp();
    sqlite3_stmt *write;
    int rc = statement(store, WRITE_STAMP, &write);

    if (rc != SQLITE_OK)
        return rc;
    sqlite3_bind_int64(write, 1, stamp);
    sqlite3_step(write);
    rc = sqlite3_reset(write);
    if (rc == SQLITE_OK)
        store->stamp = stamp;
    return rc;
}

int bls_store_clear(bls_store *store)
{
    int rc;

    close_blob(store);
    rc = bls_execute(store->db, NULL, "DELETE FROM \"%w\".\"%w_blocks\"", store->schema, store->name);
    if (rc == SQLITE_OK)
        rc = new_stamp(store);
    forget_all(store);
    store->known = rc == SQLITE_OK;
    return rc;
}

/* ---- flushing ----------------------------------------------------------------------- */

static int delete_row(bls_store *store, entry *e)
{
    sqlite3_stmt *delete;
    int rc = statement(store, DELETE_BLOCK, &delete);

    if (rc != SQLITE_OK)
        return rc;
    sqlite3_bind_int64(delete, 1, e->stored);
    sqlite3_step(delete);
    rc = sqlite3_reset(delete);
    if (rc == SQLITE_OK)
        e->on_disk = 0;
    return rc;
}

static int write_row(bls_store *store, entry *e)
{
    sqlite3_stmt *write;
    bls_image *image = e->image;
    uint64_t stamp = (uint64_t)random_stamp();
    int rc;

    if (!image) {
        image = bls_draft_seal(e->draft, e->first);
        if (!image)
            return SQLITE_NOMEM;
        e->image = image;
    }
    bls_image_finish(image, stamp);
    rc = statement(store, WRITE_BLOCK, &write);
    if (rc != SQLITE_OK)
        return rc;
    sqlite3_bind_int64(write, 1, e->first);
    sqlite3_bind_int64(write, 2, e->n);
    sqlite3_bind_int64(write, 3, (int64_t)stamp);
    rc = sqlite3_bind_blob64(write, 4, image->bytes, image->length, SQLITE_STATIC);
    if (rc == SQLITE_OK)
        sqlite3_step(write);
    sqlite3_clear_bindings(write);
    rc = sqlite3_reset(write);
    if (rc != SQLITE_OK)
        return rc;
    e->stored = e->first;
    e->stamp = stamp;
    e->on_disk = 1;
    e->image = bls_cache_share(store->identity, image, store->shape.cache_limit);
    if (!e->image->shared) { /* past the limit: reading loads it again */
        bls_image_release(e->image);
        e->image = NULL;
    }
    return SQLITE_OK;
}

/* Joins a changed small block with the one before it, so that deletions give space back. */
static int join_small(bls_store *store, size_t before, size_t block)
{
    entry *a = &store->entries[before], *b = &store->entries[block];
    bls_image *image = NULL;
    uint32_t i, j, at;
    bls_cell cells[BLS_IMAGE_MOST_COLUMNS];
    int rc;

    rc = image_of(store, block, &image);
    if (rc == SQLITE_OK)
        rc = open_draft(store, before);
    for (i = 0; rc == SQLITE_OK && i < image->n; i++) {
        at = bls_draft_count(a->draft);
        for (j = 0; j < image->n_columns; j++)
            bls_image_entry(&image->columns[j], bls_image_number(&image->columns[j], i), &cells[j]);
        rc = bls_draft_insert(a->draft, at, bls_image_rowid(image, i),
                              image->codes + (size_t)i * image->code_bytes, cells);
    }
    if (rc != SQLITE_OK) { /* undo: the rows are still in b */
        while (a->draft && bls_draft_count(a->draft) > a->n)
            bls_draft_remove(a->draft, bls_draft_count(a->draft) - 1);
        bls_image_release(image);
        return rc;
    }
    bls_image_release(image);
    changed(store, before);
    forget(b);
    b->n = 0;
    if (!b->dirty) {
        b->dirty = 1;
        store->n_dirty++;
    }
    return SQLITE_OK;
}

/* Drops entries without rows. */
static void sweep(bls_store *store)
{
    size_t i, to = 0;

    for (i = 0; i < store->n_entries; i++) {
        if (store->entries[i].n == 0 && !store->entries[i].on_disk) {
            forget(&store->entries[i]);
        } else {
            if (store->hot == i)
                store->hot = to;
            store->entries[to++] = store->entries[i];
        }
    }
    if (to != store->n_entries)
        store->version++;
    store->n_entries = to;
}

int bls_store_flush(bls_store *store)
{
    size_t i, before;
    entry *e;
    int rc = SQLITE_OK;

    store->message[0] = 0;
    if (store->n_dirty == 0)
        return SQLITE_OK;
    close_blob(store); /* writing its table would break it anyway */
    for (i = 1, before = 0; i < store->n_entries && rc == SQLITE_OK; i++) {
        const entry *a = &store->entries[before], *b = &store->entries[i];
        if (b->n && a->n && (a->dirty || b->dirty) && a->n + b->n <= store->capacity / 2)
            rc = join_small(store, before, i);
        else if (b->n)
            before = i;
    }
    close_blob(store);
    /* Keys first: a row may move to a key that another still has. */
    for (i = 0; i < store->n_entries && rc == SQLITE_OK; i++) {
        e = &store->entries[i];
        if (e->dirty && e->on_disk && (e->n == 0 || e->stored != e->first))
            rc = delete_row(store, e);
    }
    for (i = 0; i < store->n_entries && rc == SQLITE_OK; i++) {
        e = &store->entries[i];
        if (e->dirty && e->n)
            rc = write_row(store, e);
    }
    if (rc == SQLITE_OK)
        rc = new_stamp(store);
    if (rc != SQLITE_OK) {
        /* Every draft is still there and dirty, so another flush may follow; what was
         * written is what the drafts say.  Unless SQLite has rolled back meanwhile: then there are none. */
        store->keep = store->n_dirty > 0;
        return rc;
    }
    store->keep = 0;
    for (i = 0; i < store->n_entries; i++) {
        e = &store->entries[i];
        e->dirty = 0;
        if (e->draft && (i != store->hot || bls_draft_bytes(e->draft) > 4 * FULL_DRAFT_BYTES)) {
            bls_draft_free(e->draft);
            e->draft = NULL;
        }
    }
    store->n_dirty = 0;
    store->dirty_bytes = 0;
    sweep(store);
    return SQLITE_OK;
}

int bls_store_optimize(bls_store *store)
{
    size_t i, before;
    int rc = bls_store_flush(store);

    for (i = 1, before = 0; i < store->n_entries && rc == SQLITE_OK; i++) {
        if (store->entries[before].n + store->entries[i].n <= store->capacity)
            rc = join_small(store, before, i);
        else
            before = i;
        if (rc == SQLITE_OK && store->dirty_bytes > MOST_DRAFT_BYTES) {
            rc = bls_store_flush(store);
            i = before = 0; /* numbers have changed */
        }
    }
    return rc == SQLITE_OK ? bls_store_flush(store) : rc;
}

/* ---- checking ----------------------------------------------------------------------- */

int bls_store_check(bls_store *store, char **sentence)
{
    bls_image *image;
    size_t i;
    int rc;

    *sentence = NULL;
    rc = bls_store_flush(store);
    if (rc == SQLITE_OK) {
        store->known = 0;
        rc = bls_store_begin(store);
    }
    for (i = 0; i < store->n_entries && rc == SQLITE_OK; i++) {
        rc = load(store, i, 1, &image);
        if (rc == SQLITE_OK)
            bls_image_free(image);
    }
    close_blob(store);
    if ((rc & 0xff) == SQLITE_CORRUPT) {
        *sentence = sqlite3_mprintf("%s", store->message[0] ? store->message : "the database file is damaged");
        return *sentence ? SQLITE_OK : SQLITE_NOMEM;
    }
    return rc;
}
