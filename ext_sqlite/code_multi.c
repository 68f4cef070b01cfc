/* code_multi.c - the process's tables of pieces, one set for each table, and what a connection knows of them.
 *
 * Sets hang in a list behind one mutex, by the store's identity; each holds references to the images it was
 * made over.  Their memory counts as images' does (cache_mb).  A piece is added by one thread at a time while others
 * search those that are complete.
 *
 * Called by code_search.c and code_store.c. */
#include "code_multi.h"

#include <pthread.h>
#include <string.h>

#include "search/multi_index.h"

#define PAYS 0.25        /* of the flat scan's time: a query that cheap speaks for the tables */
#define PAYS_MORE 0.5    /* of the time with the pieces there are: it speaks for more */
#define MOST_SKIPPED 256 /* searches for k without asking the tables, after they gave up again and again */

typedef struct multi {
    struct multi *next;
    uint64_t identity[2];
    int references, growing; /* under the mutex */
    bl_multi *core;
    bls_image **images; /* (n) ascending by base, a segment each */
    size_t n;
    uint64_t reserved;
} multi;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static multi *sets;

struct bls_cover {
    multi *set;
    uint64_t version;   /* of the store, for the two maps */
    int64_t *block_of;  /* (set->n) -1: not the store's any more */
    uint8_t *has;       /* (n_blocks) */
    size_t n_blocks;
    double credit;      /* flat scans that tables would have spared */
    uint32_t gave_up, skip;
};

/* ---- sets -------------------------------------------------------------------------------------- */

static void *take_memory(void *context, size_t size)
{
    (void)context;
    return sqlite3_malloc64(size ? size : 1);
}

static void give_memory(void *context, void *memory)
{
    (void)context;
    sqlite3_free(memory);
}

static int32_t poll_state(void *context)
{
    return bls_poll(context);
}

static void free_set(multi *set)
{
    size_t i;

    bl_multi_free(set->core);
    if (set->reserved)
        bls_cache_unreserve(set->reserved);
    for (i = 0; i < set->n; i++)
        bls_image_release(set->images[i]);
    sqlite3_free(set->images);
    sqlite3_free(set);
}

static void release_set(multi *set)
{
    multi **link;
    int last;

    pthread_mutex_lock(&mutex);
    last = --set->references == 0;
    for (link = &sets; last && *link; link = &(*link)->next) {
        if (*link == set) {
            *link = set->next;
            break;
        }
    }
    pthread_mutex_unlock(&mutex);
    if (last)
        free_set(set);
}

static multi *find_set(const uint64_t identity[2])
{
    multi *set;

    pthread_mutex_lock(&mutex);
    for (set = sets; set && (set->identity[0] != identity[0] || set->identity[1] != identity[1]);)
        set = set->next;
    if (set)
        set->references++;
    pthread_mutex_unlock(&mutex);
    return set;
}

static int is_same(const multi *a, const multi *b)
{
    return a->n == b->n && memcmp(a->identity, b->identity, sizeof a->identity) == 0 &&
           memcmp(a->images, b->images, a->n * sizeof(bls_image *)) == 0;
}

/* Over all blocks that are shared images; NULL without memory or if those are few. */
static multi *make_set(bls_store *store)
{
    bitlm_host host = {.size = sizeof host, .alloc = take_memory, .release = give_memory};
    bl_alloc alloc = bl_alloc_from_host(&host);
    size_t n_blocks = bls_store_blocks(store), i;
    bl_segment *segments = sqlite3_malloc64((n_blocks + 1) * sizeof *segments);
    multi *set = sqlite3_malloc64(sizeof *set), *same;
    bls_image *image;
    int pinned;

    if (set)
        memset(set, 0, sizeof *set);
    if (!set || !segments || !(set->images = sqlite3_malloc64((n_blocks + 1) * sizeof *set->images)))
        goto fail;
    for (i = 0; i < n_blocks; i++) {
        if (bls_store_peek(store, i, &image, &pinned) != SQLITE_OK)
            goto fail;
        if (image && image->shared) {
            segments[set->n] = (bl_segment){image->codes, image->n};
            set->images[set->n++] = bls_image_retain(image);
        }
        if (pinned)
            bls_image_release(image);
    }
    if (bl_multi_new(segments, set->n, bls_store_shape_of(store)->code_bytes, &alloc, &set->core, NULL) != BITLM_OK)
        goto fail;
    sqlite3_free(segments);
    memcpy(set->identity, bls_store_identity(store), sizeof set->identity);
    set->references = 1;
    pthread_mutex_lock(&mutex);
    for (same = sets; same && !is_same(same, set);)
        same = same->next;
    if (same) { /* another thread was as quick */
        same->references++;
    } else {
        set->next = sets; /* found before older ones of that name */
        sets = set;
    }
    pthread_mutex_unlock(&mutex);
    if (same)
        free_set(set);
    return same ? same : set;
fail:
    sqlite3_free(segments);
    if (set)
        free_set(set);
    return NULL;
}

/* ---- what a connection knows --------------------------------------------------------------------- */

static void forget(bls_cover *cover)
{
    if (cover->set)
        release_set(cover->set);
    sqlite3_free(cover->block_of);
    sqlite3_free(cover->has);
    cover->set = NULL;
    cover->block_of = NULL;
    cover->has = NULL;
    cover->n_blocks = 0;
}

void bls_cover_free(bls_cover *cover)
{
    if (!cover)
        return;
    forget(cover);
    sqlite3_free(cover);
}

/* Both are in order of base: which images are still the store's?  Drops the set when too few are. */
static int map(bls_cover *cover, bls_store *store)
{
    multi *set = cover->set;
    size_t n_blocks = bls_store_blocks(store), block, at = 0;
    uint64_t rows = 0;
    bls_image *image;
    int pinned, rc;

    sqlite3_free(cover->has);
    cover->has = sqlite3_malloc64(n_blocks + 1);
    if (!cover->block_of)
        cover->block_of = sqlite3_malloc64((set->n + 1) * sizeof *cover->block_of);
    if (!cover->has || !cover->block_of) {
        forget(cover);
        return SQLITE_NOMEM;
    }
    memset(cover->has, 0, n_blocks + 1);
    memset(cover->block_of, 0xff, (set->n + 1) * sizeof *cover->block_of);
    for (block = 0; block < n_blocks; block++) {
        rc = bls_store_peek(store, block, &image, &pinned);
        if (rc != SQLITE_OK) {
            forget(cover);
            return rc;
        }
        while (image && at < set->n && set->images[at]->base < image->base)
            at++;
        if (image && at < set->n && set->images[at] == image) {
            cover->block_of[at] = (int64_t)block;
            cover->has[block] = 1;
            rows += image->n;
        }
        if (pinned)
            bls_image_release(image);
    }
    cover->n_blocks = n_blocks;
    cover->version = bls_store_version(store);
    if (rows < bls_store_rows(store) - bls_store_rows(store) / 4)
        forget(cover);
    return SQLITE_OK;
}

int bls_cover_find(bls_store *store, bls_cover **result)
{
    bls_cover *cover = *bls_store_cover(store);
    int rc;

    *result = NULL;
    if (bls_store_rows(store) < BL_MULTI_LEAST_ROWS) {
        if (cover)
            forget(cover); /* so many rows went */
        return SQLITE_OK;
    }
    if (!cover) {
        cover = sqlite3_malloc64(sizeof *cover);
        if (!cover)
            return SQLITE_NOMEM;
        memset(cover, 0, sizeof *cover);
        *bls_store_cover(store) = cover;
    }
    if (cover->set && cover->version != bls_store_version(store)) {
        rc = map(cover, store);
        if (rc != SQLITE_OK)
            return rc;
    } else if (!cover->set && cover->version != bls_store_version(store) + 1) {
        /* Another connection's, looked for once in each state of the store. */
        cover->version = bls_store_version(store) + 1;
        cover->set = find_set(bls_store_identity(store));
        if (cover->set) {
            rc = map(cover, store);
            if (rc != SQLITE_OK)
                return rc;
        }
    }
    if (cover->set && bl_multi_pieces(cover->set->core) > 0)
        *result = cover;
    return SQLITE_OK;
}

int bls_cover_has(const bls_cover *cover, size_t block)
{
    return block < cover->n_blocks && cover->has[block];
}

/* ---- searching -------------------------------------------------------------------------------------- */

typedef struct asked {
    const bls_cover *cover;
    bls_state *state;
    bls_near *near;
    void *context;
    uint32_t below;
} asked;

static uint32_t near_place(void *context, uint32_t place, uint32_t distance)
{
    asked *a = context;
    size_t segment = place >> 16;
    int64_t block = a->cover->block_of[segment];

    if (block >= 0)
        a->below = a->near(a->context, (size_t)block, a->cover->set->images[segment], place & 0xffff, distance);
    return a->below;
}

static int32_t stop(void *context)
{
    return bls_poll(((asked *)context)->state);
}

int bls_cover_search(bls_cover *cover, bls_state *state, const uint8_t *query, uint32_t below, uint64_t rows,
                     int shrinks, bls_near *near, void *context)
{
    asked a = {cover, state, near, context, below};
    bl_multi_sink sink = {near_place, stop, &a};
    int answer;

    if (shrinks && cover->skip > 0) {
        cover->skip--;
        return BL_MULTI_GAVE_UP;
    }
    answer = bl_multi_search(cover->set->core, query, below, rows, shrinks, &sink);
    if (answer == BL_MULTI_DONE)
        cover->gave_up = 0;
    else if (shrinks && answer == BL_MULTI_GAVE_UP) {
        cover->gave_up += cover->gave_up < MOST_SKIPPED;
        cover->skip = cover->gave_up < 8 ? 0 : cover->gave_up;
    }
    return answer;
}

/* The tables to grow: the connection's, another's of the process, new ones.  NULL without memory. */
static multi *take_set(bls_cover *cover, bls_store *store)
{
    if (!cover->set) {
        cover->set = find_set(bls_store_identity(store));
        if (cover->set && map(cover, store) != SQLITE_OK)
            return NULL;
    }
    if (!cover->set) {
        cover->set = make_set(store);
        if (cover->set && map(cover, store) != SQLITE_OK)
            return NULL;
    }
    return cover->set;
}

int bls_cover_learn(bls_store *store, bls_state *state, uint32_t distance, uint64_t compared)
{
    bls_cover *cover = *bls_store_cover(store);
    bitlm_host host = {.size = sizeof host, .context = state, .poll = poll_state};
    const bls_store_shape *shape = bls_store_shape_of(store);
    uint64_t limit = shape->cache_limit, rows = bls_store_rows(store);
    bitlm_status status = BITLM_OK;
    bl_poll poll;
    double share, spent;
    uint32_t pieces = 0;
    size_t bytes;
    int mine = 0;

    if (!cover || rows < BL_MULTI_LEAST_ROWS)
        return SQLITE_OK;
    if (!compared) {
        pieces = cover->set ? bl_multi_pieces(cover->set->core) : 0;
        if (pieces == 0 || pieces == bl_multi_most_pieces(cover->set->core))
            return SQLITE_OK;
    }
    share = bl_multi_cost(rows, shape->code_bytes, UINT32_MAX, distance);
    spent = compared ? (double)compared / (double)rows : bl_multi_cost(rows, shape->code_bytes, pieces, distance);
    if (share > (compared ? PAYS : PAYS_MORE) * spent)
        return SQLITE_OK;
    cover->credit += spent - share;
    if (cover->credit < BL_MULTI_BUILD_SCANS)
        return SQLITE_OK;
    cover->credit = 0.0;
    if (!take_set(cover, store)) { /* no memory, or too few blocks without changes */
        cover->credit = -10.0 * BL_MULTI_BUILD_SCANS;
        return SQLITE_OK;
    }
    pthread_mutex_lock(&mutex);
    if (!cover->set->growing && bl_multi_pieces(cover->set->core) < bl_multi_most_pieces(cover->set->core))
        mine = cover->set->growing = 1;
    pthread_mutex_unlock(&mutex);
    if (!mine)
        return SQLITE_OK;
    bytes = bl_multi_piece_bytes(cover->set->core);
    if (bls_cache_reserve(bytes, limit)) {
        bl_poll_init(&poll, &host, NULL, 0);
        status = bl_multi_grow(cover->set->core, &poll, NULL);
        if (status == BITLM_OK)
            cover->set->reserved += bytes;
        else
            bls_cache_unreserve(bytes);
    } else {
        cover->credit = -100.0 * BL_MULTI_BUILD_SCANS;
    }
    pthread_mutex_lock(&mutex);
    cover->set->growing = 0;
    pthread_mutex_unlock(&mutex);
    if (status != BITLM_OK)
        cover->credit = -10.0 * BL_MULTI_BUILD_SCANS; /* a host with little time is not asked for it again soon */
    return status == BITLM_CANCELED ? SQLITE_INTERRUPT : SQLITE_OK;
}
