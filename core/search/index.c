/* index.c - a set of (id, code): in memory, saved to a file, searched where the file is mapped.
 *
 * Two arrays in order of id: ids (n) and codes (n, code_bytes).  A batch of changes is merged in
 * one pass; a removal closes the gaps in one.  An opened file is used as it lies and copied at
 * the first change.  The file (docs/FORMATS.md, "Index of codes"): a header of 64 bytes, the ids,
 * zeros up to a multiple of 64, the codes.  Its sizes are checked when it is opened, so a hostile one
 * can give wrong answers but reach no memory outside; bitlm_index_verify reads it all.
 *
 * state counts the readers inside, -1 is a writer.  Called by hosts through bitlm.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "file/mapping.h"

#define MAGIC "BITLMIDX"
#define VERSION 1u
#define BYTE_ORDER_MARK 0x01020304u
#define HEADER 64
#define MAX_CODES ((uint64_t)1 << 40)

typedef struct header {
    char magic[8];
    uint32_t byte_order, version, code_bytes, numerics;
    uint64_t n;
    uint8_t model_id[16];
    uint64_t content_hash; /* XXH3-64 of ids, then codes */
    uint64_t header_hash;  /* XXH3-64 of the 56 bytes before */
} header;
_Static_assert(sizeof(header) == HEADER, "the header is written as it lies");

struct bitlm_index {
    bl_alloc alloc;
    bl_mapping mapping;     /* data NULL without a file */
    int64_t *ids;           /* (n) ascending; in the mapping or ours */
    uint8_t *codes;         /* (n, code_bytes) */
    uint64_t n, room;       /* room: rows that our own memory holds; 0 for a mapping */
    uint64_t content_hash;  /* of the file */
    uint32_t code_bytes;
    int32_t numerics;
    uint8_t model_id[16];
    int32_t state;          /* atomic: readers, or -1 */
};

static bitlm_status enter(const bitlm_index *index, int writer, bitlm_error *error) {
    _Atomic int32_t *state = (_Atomic int32_t *)&((bitlm_index *)(uintptr_t)index)->state;
    int32_t seen = atomic_load(state);
    do {
        if (seen < 0 || (writer && seen > 0))
            return bl_error(error, BITLM_BUSY, "the index is %s by another caller", seen < 0 ? "being changed" : "in use");
    } while (!atomic_compare_exchange_weak(state, &seen, writer ? -1 : seen + 1));
    return BITLM_OK;
}

static void leave(const bitlm_index *index, int writer) {
    _Atomic int32_t *state = (_Atomic int32_t *)&((bitlm_index *)(uintptr_t)index)->state;
    if (writer)
        atomic_store(state, 0);
    else
        atomic_fetch_sub(state, 1);
}

static int has_model(const uint8_t id[16]) {
    static const uint8_t zeros[16];
    return memcmp(id, zeros, 16) != 0;
}

/* ---- life ---------------------------------------------------------------------------------- */

static bitlm_status new_index(size_t code_bytes, const bitlm_host *host, bitlm_index **out, bitlm_error *error) {
    bl_alloc alloc = bl_alloc_from_host(host);
    bl_error_clear(error);
    if (code_bytes == 0 || code_bytes > 65536)
        return bl_error(error, BITLM_ARG, "a code has %zu bytes, but must have 1 to 65536", code_bytes);
    bitlm_index *index = bl_calloc(&alloc, 1, sizeof *index);
    if (!index)
        return bl_error_nomem(error, sizeof *index, "the index");
    index->alloc = alloc;
    index->code_bytes = (uint32_t)code_bytes;
    index->numerics = BITLM_NUMERICS;
    *out = index;
    return BITLM_OK;
}

bitlm_status bitlm_index_create(size_t code_bytes, const uint8_t *model_id, const bitlm_host *host,
                                bitlm_index **index, bitlm_error *error) {
    bitlm_status status = new_index(code_bytes, host, index, error);
    if (!status && model_id)
        memcpy((*index)->model_id, model_id, 16);
    return status;
}

void bitlm_index_free(bitlm_index *index) {
    if (!index)
        return;
    if (index->room) {
        bl_free(&index->alloc, index->ids);
        bl_free(&index->alloc, index->codes);
    }
    bl_mapping_close(&index->mapping);
    bl_alloc alloc = index->alloc;
    bl_free(&alloc, index);
}

static uint64_t codes_at(uint64_t n) {
    return (HEADER + n * sizeof(int64_t) + 63) / 64 * 64;
}

static bitlm_status check_header(const header *h, size_t size, const char *shown, bitlm_error *error) {
    if (size < HEADER || memcmp(h->magic, MAGIC, 8) != 0)
        return bl_error(error, BITLM_CORRUPT, "%s is no index of codes: it does not begin with %s", shown, MAGIC);
    if (h->byte_order != BYTE_ORDER_MARK)
        return bl_error(error, BITLM_UNSUPPORTED, "%s was written on a machine of the other byte order", shown);
    if (h->version != VERSION)
        return bl_error(error, BITLM_UNSUPPORTED, "%s has version %u of the format, but this bitlm reads version %u",
                        shown, h->version, VERSION);
    if (h->header_hash != XXH3_64bits(h, HEADER - sizeof h->header_hash))
        return bl_error(error, BITLM_CORRUPT, "%s is damaged: its header does not match its checksum", shown);
    if (h->code_bytes == 0 || h->code_bytes > 65536 || h->n > MAX_CODES ||
        codes_at(h->n) + h->n * h->code_bytes != size)
        return bl_error(error, BITLM_CORRUPT, "%s has %zu bytes, which is not what its header says (%llu codes of %u "
                        "bytes)", shown, size, (unsigned long long)h->n, h->code_bytes);
    if (has_model(h->model_id) && h->numerics != BITLM_NUMERICS)
        return bl_error(error, BITLM_UNSUPPORTED, "%s holds codes of numerics %u, but this bitlm makes those of %d, which "
                        "differ: embed the texts again into a new index", shown, h->numerics, BITLM_NUMERICS);
    return BITLM_OK;
}

bitlm_status bitlm_index_open(const char *path, size_t length, int32_t load, const bitlm_host *host,
                              bitlm_index **out, bitlm_error *error) {
    bitlm_index *index = NULL;
    char shown[300];
    header h = {0};
    bl_float_env env;
    bl_poll poll;
    bitlm_status status = new_index(1, host, &index, error);
    if (status)
        return status;
    bl_show(shown, sizeof shown, path, length);
    bl_float_enter(&env);
    bl_poll_init(&poll, host, &env, 0);
    status = bl_mapping_open(path, length, load, &index->alloc, &poll, &index->mapping, error);
    bl_float_leave(&env);
    if (status)
        goto fail;
    memcpy(&h, index->mapping.data, BL_MIN(index->mapping.size, sizeof h)); /* read once, then trusted */
    status = check_header(&h, index->mapping.size, shown, error);
    if (status)
        goto fail;
    /* Not written to while room is 0. */
    index->ids = (int64_t *)(uintptr_t)(index->mapping.data + HEADER);
    index->codes = (uint8_t *)(uintptr_t)(index->mapping.data + codes_at(h.n));
    index->n = h.n;
    index->code_bytes = h.code_bytes;
    index->numerics = (int32_t)h.numerics;
    index->content_hash = h.content_hash;
    memcpy(index->model_id, h.model_id, 16);
    *out = index;
    return BITLM_OK;
fail:
    bitlm_index_free(index);
    return status;
}

bitlm_status bitlm_index_describe(const bitlm_index *index, bitlm_index_info *info, bitlm_error *error) {
    bl_error_clear(error);
    if (info->size < sizeof *info)
        return bl_error(error, BITLM_ARG, "bitlm_index_info.size is %u, but must be at least %zu", info->size,
                        sizeof *info);
    info->code_bytes = index->code_bytes;
    info->n = index->n;
    memcpy(info->model_id, index->model_id, 16);
    info->mapped = index->mapping.data && index->mapping.mapped && !index->room;
    info->numerics = index->numerics;
    return BITLM_OK;
}

/* ---- files ------------------------------------------------------------------------------------ */

static uint64_t content_hash(const bitlm_index *index) {
    XXH3_state_t state;
    XXH3_64bits_reset(&state);
    if (index->n) {
        XXH3_64bits_update(&state, index->ids, (size_t)index->n * sizeof *index->ids);
        XXH3_64bits_update(&state, index->codes, (size_t)index->n * index->code_bytes);
    }
    return XXH3_64bits_digest(&state);
}

bitlm_status bitlm_index_verify(const bitlm_index *index, const bitlm_host *host, bitlm_error *error) {
    bl_poll poll;
    bl_error_clear(error);
    bitlm_status status = enter(index, 0, error);
    if (status)
        return status;
    bl_poll_init(&poll, host, NULL, 0);
    for (uint64_t i = 1; i < index->n && !status; i++) {
        if (index->ids[i - 1] >= index->ids[i])
            status = bl_error(error, BITLM_CORRUPT, "the index is damaged: id %lld stands before id %lld",
                              (long long)index->ids[i - 1], (long long)index->ids[i]);
        else if (i % 65536 == 0 && bl_poll_check(&poll))
            status = bl_poll_error(&poll, error);
    }
    if (!status && index->mapping.data && !index->room && content_hash(index) != index->content_hash)
        status = bl_error(error, BITLM_CORRUPT, "the index is damaged: its codes do not match their checksum");
    leave(index, 0);
    return status;
}

static int write_all(int fd, const void *data, uint64_t bytes) {
    const char *p = data;
    while (bytes) {
        ssize_t n = write(fd, p, (size_t)BL_MIN(bytes, (uint64_t)1 << 30));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return -1;
        p += n;
        bytes -= (uint64_t)n;
    }
    return 0;
}

static void sync_directory(const char *path) {
    char directory[PATH_MAX];
    const char *slash = strrchr(path, '/');
    if (!slash)
        snprintf(directory, sizeof directory, ".");
    else
        snprintf(directory, sizeof directory, "%.*s", slash == path ? 1 : (int)(slash - path), path);
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
}

bitlm_status bitlm_index_save(const bitlm_index *index, const char *path, size_t length, bitlm_error *error) {
    static const char zeros[64];
    char name[PATH_MAX], temporary[PATH_MAX], shown[300];
    bl_error_clear(error);
    if (length == 0 || length >= sizeof name - 24 || memchr(path, 0, length))
        return bl_error(error, BITLM_ARG, "the path has %zu bytes or a NUL among them", length);
    memcpy(name, path, length);
    name[length] = 0;
    bl_show(shown, sizeof shown, path, length);
    struct stat st;
    if (stat(name, &st) == 0 && !S_ISREG(st.st_mode)) /* renaming would put a file in its place */
        return bl_error_io(error, S_ISDIR(st.st_mode) ? EISDIR : EEXIST, "cannot write '%s', which is no regular file", shown);
    bitlm_status status = enter(index, 0, error);
    if (status)
        return status;
    header h = {.byte_order = BYTE_ORDER_MARK, .version = VERSION, .code_bytes = index->code_bytes,
                .numerics = (uint32_t)index->numerics, .n = index->n, .content_hash = content_hash(index)};
    memcpy(h.magic, MAGIC, 8);
    memcpy(h.model_id, index->model_id, 16);
    h.header_hash = XXH3_64bits(&h, HEADER - sizeof h.header_hash);
    uint64_t id_bytes = index->n * sizeof *index->ids;
    int fd = -1;
    for (uint64_t i = 0, salt = bl_now_ns() ^ (uint64_t)getpid() << 40; fd < 0 && i < 100; i++) {
        snprintf(temporary, sizeof temporary, "%.*s.%016llx", (int)length, name, (unsigned long long)(salt + i));
        fd = open(temporary, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0666);
        if (fd < 0 && errno != EEXIST)
            break;
    }
    if (fd < 0) {
        status = bl_error_io(error, errno, "cannot write beside %s", shown);
        goto fail;
    }
    if (write_all(fd, &h, sizeof h) < 0 || write_all(fd, index->ids, id_bytes) < 0 ||
        write_all(fd, zeros, codes_at(index->n) - HEADER - id_bytes) < 0 ||
        write_all(fd, index->codes, index->n * index->code_bytes) < 0 || fsync(fd) < 0) {
        status = bl_error_io(error, errno, "cannot write %s", shown);
        close(fd);
        unlink(temporary);
        goto fail;
    }
    if (close(fd) < 0 || rename(temporary, name) < 0) {
        status = bl_error_io(error, errno, "cannot write %s", shown);
        unlink(temporary);
        goto fail;
    }
    sync_directory(name);
fail:
    leave(index, 0);
    return status;
}

/* ---- changes ------------------------------------------------------------------------------------- */

/* The row of an id, or where it would stand. */
static uint64_t lower_bound(const bitlm_index *index, int64_t id) {
    uint64_t low = 0, high = index->n;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        if (index->ids[middle] < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Memory of our own for `rows` rows, with the present ones in it. */
static bitlm_status reserve(bitlm_index *index, uint64_t rows, bitlm_error *error) {
    if (index->room >= rows)
        return BITLM_OK;
    uint64_t room = BL_MAX(BL_MAX(rows, index->n + index->n / 2), 64);
    size_t bytes = 0;
    if (rows > MAX_CODES || !bl_mul_size((size_t)room, BL_MAX(index->code_bytes, 8u), &bytes))
        return bl_error(error, BITLM_LIMIT, "an index holds at most %llu codes", (unsigned long long)MAX_CODES);
    int64_t *ids = bl_malloc(&index->alloc, (size_t)room * sizeof *ids);
    uint8_t *codes = bl_malloc(&index->alloc, (size_t)room * index->code_bytes);
    if (!ids || !codes) {
        bl_free(&index->alloc, ids);
        bl_free(&index->alloc, codes);
        return bl_error_nomem(error, bytes, "the index");
    }
    if (index->n) {
        memcpy(ids, index->ids, (size_t)index->n * sizeof *ids);
        memcpy(codes, index->codes, (size_t)index->n * index->code_bytes);
    }
    if (index->room) {
        bl_free(&index->alloc, index->ids);
        bl_free(&index->alloc, index->codes);
    }
    index->ids = ids;
    index->codes = codes;
    index->room = room;
    bl_mapping_close(&index->mapping);
    memset(&index->mapping, 0, sizeof index->mapping);
    return BITLM_OK;
}

typedef struct entry {
    int64_t id;
    size_t from; /* in the caller's batch */
} entry;

static int by_id(const void *a, const void *b) {
    const entry *x = a, *y = b;
    return x->id < y->id ? -1 : x->id > y->id;
}

static void put_row(bitlm_index *index, uint64_t row, int64_t id, const uint8_t *code) {
    index->ids[row] = id;
    memcpy(index->codes + row * index->code_bytes, code, index->code_bytes);
}

static void move_row(bitlm_index *index, uint64_t to, uint64_t from) {
    index->ids[to] = index->ids[from];
    memcpy(index->codes + to * index->code_bytes, index->codes + from * index->code_bytes, index->code_bytes);
}

static bitlm_status add_sorted(bitlm_index *index, const entry *batch, const uint8_t *codes, size_t n,
                               bitlm_error *error) {
    uint64_t fresh = 0;
    if (batch[0].id < 0)
        return bl_error(error, BITLM_ARG, "id %lld is negative, but ids count from 0", (long long)batch[0].id);
    for (size_t i = 0; i < n; i++) {
        if (i > 0 && batch[i].id == batch[i - 1].id)
            return bl_error(error, BITLM_ARG, "id %lld is given twice", (long long)batch[i].id);
        uint64_t row = lower_bound(index, batch[i].id);
        fresh += row == index->n || index->ids[row] != batch[i].id;
    }
    bitlm_status status = reserve(index, index->n + fresh, error);
    if (status)
        return status;
    /* From the back, so that nothing is overwritten before it has moved. */
    uint64_t to = index->n + fresh, from = index->n;
    for (size_t i = n; i-- > 0;) {
        const uint8_t *code = codes + batch[i].from * index->code_bytes;
        while (from > 0 && index->ids[from - 1] > batch[i].id) {
            to--, from--;
            if (to != from)
                move_row(index, to, from);
        }
        from -= from > 0 && index->ids[from - 1] == batch[i].id;
        put_row(index, --to, batch[i].id, code);
    }
    index->n += fresh;
    return BITLM_OK;
}

bitlm_status bitlm_index_add(bitlm_index *index, const int64_t *ids, const void *codes, size_t n, int64_t *out_ids,
                             bitlm_error *error) {
    entry *batch = NULL;
    size_t bytes;
    bl_error_clear(error);
    bitlm_status status = enter(index, 1, error);
    if (status)
        return status;
    if (n == 0)
        goto end;
    if (!bl_mul_size(n, sizeof *batch, &bytes) || n > MAX_CODES) {
        status = bl_error(error, BITLM_LIMIT, "%zu codes are more than an index holds", n);
        goto end;
    }
    int64_t next = index->n ? index->ids[index->n - 1] : -1;
    if (!ids && next > INT64_MAX - (int64_t)n) {
        status = bl_error(error, BITLM_LIMIT, "there are no %zu ids behind %lld", n, (long long)next);
        goto end;
    }
    batch = bl_malloc(&index->alloc, bytes);
    if (!batch) {
        status = bl_error_nomem(error, bytes, "the batch");
        goto end;
    }
    for (size_t i = 0; i < n; i++)
        batch[i] = (entry){ids ? ids[i] : next + 1 + (int64_t)i, i};
    if (ids)
        qsort(batch, n, sizeof *batch, by_id);
    status = add_sorted(index, batch, codes, n, error);
    for (size_t i = 0; out_ids && !status && i < n; i++)
        out_ids[batch[i].from] = batch[i].id;
end:
    bl_free(&index->alloc, batch);
    leave(index, 1);
    return status;
}

bitlm_status bitlm_index_remove(bitlm_index *index, const int64_t *ids, size_t n, size_t *removed,
                                bitlm_error *error) {
    uint8_t *gone = NULL;
    size_t count = 0;
    bl_error_clear(error);
    bitlm_status status = enter(index, 1, error);
    if (status)
        return status;
    if (n == 0 || index->n == 0)
        goto end;
    status = reserve(index, index->n, error);
    if (status)
        goto end;
    gone = bl_calloc(&index->alloc, (size_t)index->n, 1);
    if (!gone) {
        status = bl_error_nomem(error, (size_t)index->n, "the removal");
        goto end;
    }
    for (size_t i = 0; i < n; i++) {
        uint64_t row = lower_bound(index, ids[i]);
        if (row < index->n && index->ids[row] == ids[i] && !gone[row]) {
            gone[row] = 1;
            count++;
        }
    }
    uint64_t to = 0;
    for (uint64_t row = 0; row < index->n; row++) {
        if (gone[row])
            continue;
        if (to != row)
            move_row(index, to, row);
        to++;
    }
    index->n = to;
end:
    if (!status && removed)
        *removed = count;
    bl_free(&index->alloc, gone);
    leave(index, 1);
    return status;
}

/* ---- reading ---------------------------------------------------------------------------------------- */

bitlm_status bitlm_index_get(bitlm_index *index, int64_t id, void *code, bitlm_error *error) {
    bl_error_clear(error);
    bitlm_status status = enter(index, 0, error);
    if (status)
        return status;
    uint64_t row = lower_bound(index, id);
    if (row == index->n || index->ids[row] != id)
        status = bl_error(error, BITLM_ARG, "there is no id %lld in the index", (long long)id);
    else
        memcpy(code, index->codes + row * index->code_bytes, index->code_bytes);
    leave(index, 0);
    return status;
}

bitlm_status bitlm_index_ids(bitlm_index *index, uint64_t first, int64_t *ids, size_t n, size_t *n_ids,
                             bitlm_error *error) {
    bl_error_clear(error);
    bitlm_status status = enter(index, 0, error);
    if (status)
        return status;
    *n_ids = first < index->n ? (size_t)BL_MIN((uint64_t)n, index->n - first) : 0;
    if (*n_ids)
        memcpy(ids, index->ids + first, *n_ids * sizeof *ids);
    leave(index, 0);
    return BITLM_OK;
}

bitlm_status bitlm_index_search(bitlm_index *index, const void *queries, size_t n_queries, size_t k,
                                const int64_t *only, size_t n_only, const bitlm_host *host, int64_t *ids,
                                uint32_t *distances, bitlm_error *error) {
    bl_alloc alloc = bl_alloc_from_host(host);
    uint8_t *filter = NULL;
    bl_error_clear(error);
    bitlm_status status = enter(index, 0, error);
    if (status)
        return status;
    if (only) {
        filter = bl_calloc(&alloc, (size_t)(index->n / 8 + 1), 1);
        if (!filter) {
            status = bl_error_nomem(error, (size_t)(index->n / 8 + 1), "the filter");
            goto end;
        }
        for (size_t i = 0; i < n_only; i++) {
            uint64_t row = lower_bound(index, only[i]);
            if (row < index->n && index->ids[row] == only[i])
                filter[row / 8] |= (uint8_t)(1 << (row % 8));
        }
    }
    status = bitlm_codes_topk(index->codes, (size_t)index->n, index->code_bytes, queries, n_queries, filter, k, host,
                              ids, distances, error);
    for (size_t i = 0; !status && i < n_queries * k; i++)
        if (ids[i] >= 0)
            ids[i] = index->ids[ids[i]];
end:
    bl_free(&alloc, filter);
    leave(index, 0);
    return status;
}
