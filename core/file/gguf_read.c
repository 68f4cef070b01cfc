/* gguf_read.c - a checked view of a GGUF file in memory.
 *
 *   "GGUF" version n_tensors n_keys | keys and values | tensor infos | pad | data
 *
 * One pass from front to back.  Every number is compared with what is left of
 * the file before it is used, so memory stays within a small multiple of the
 * file's size; every byte that is kept is copied as it is checked, so a file
 * that changes under a mapping can give wrong weights but no wild pointer.
 * Names are looked up by binary search in sorted indexes: heap sort needs no
 * memory and has no bad case that a hostile file could aim at.
 *
 * Called by core/model (opening a model) and the command. */
#include "file/gguf_private.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"

typedef unsigned long long ull; /* for messages */

typedef struct entry {
    const char *key;
    int32_t type;    /* as in the file */
    int32_t element; /* of an array, as in the file */
    int32_t stored;  /* of an array: I32 (any integers that fit), I64, U64, F32, F64, BOOL, STRING, or FORGOTTEN */
    uint64_t count;
    const uint8_t *raw; /* the value in the mapping: only for copying it */
    uint64_t raw_bytes;
    union {
        int64_t i;  /* integers but U64, BOOL */
        uint64_t u; /* U64 */
        double d;   /* F32, F64 */
        bitlm_text text;
        const void *array;
    } value;
} entry;

/* Small copies share chunks; what is large gets a chunk of its own. */
typedef struct chunk {
    struct chunk *next;
    size_t used, capacity;
    size_t alone; /* one large copy has it to itself (the memory behind is 16-byte aligned) */
} chunk;

#define FORGOTTEN (-1)
#define CHUNK_BYTES ((size_t)65536 - sizeof(chunk))

struct bl_gguf {
    bl_alloc alloc;
    chunk *chunks;
    uint32_t version;
    uint64_t n_keys, n_tensors;
    entry *entries;
    bl_tensor *tensors;
    uint32_t *keys_sorted, *tensors_sorted; /* by name */
};

typedef struct reader {
    const uint8_t *data;
    uint64_t size, pos;
    bl_gguf *gguf;
    bitlm_error *error;
    char where[96]; /* "key 12 'general.name'": for messages */
} reader;

/* ---- memory -------------------------------------------------------------- */

static void *take(bl_gguf *g, size_t bytes) {
    chunk *c = g->chunks;
    size_t rounded, whole;
    if (!bl_add_size(bytes, 15, &rounded))
        return NULL;
    rounded &= ~(size_t)15;
    if (c == NULL || c->capacity - c->used < rounded) {
        size_t capacity = BL_MAX(rounded, CHUNK_BYTES);
        if (!bl_add_size(capacity, sizeof *c, &whole))
            return NULL;
        c = bl_malloc(&g->alloc, whole);
        if (c == NULL)
            return NULL;
        c->used = 0;
        c->capacity = capacity;
        c->alone = rounded > CHUNK_BYTES / 4 && g->chunks != NULL;
        if (c->alone) { /* keep filling the open chunk */
            c->next = g->chunks->next;
            g->chunks->next = c;
        } else {
            c->next = g->chunks;
            g->chunks = c;
        }
    }
    void *p = (uint8_t *)(c + 1) + c->used;
    c->used += rounded;
    return p;
}

static bitlm_status take_array(reader *r, uint64_t count, size_t size, const char *what, void *result) {
    size_t bytes;
    void *p = NULL;
    if (count > SIZE_MAX || !bl_mul_size((size_t)count, size, &bytes))
        bytes = SIZE_MAX;
    else
        p = take(r->gguf, bytes);
    if (p == NULL)
        return bl_error_nomem(r->error, bytes, what);
    memcpy(result, &p, sizeof p);
    return BITLM_OK;
}

/* ---- reading ------------------------------------------------------------- */

static bitlm_status need(reader *r, uint64_t bytes) {
    uint64_t left = r->size - r->pos;
    if (bytes <= left)
        return BITLM_OK;
    return bl_error(r->error, BITLM_FORMAT,
                    "the GGUF file ends inside %s: %llu bytes are needed at offset %llu, %llu are left",
                    r->where, (ull)bytes, (ull)r->pos, (ull)left);
}

static bitlm_status read_u32(reader *r, uint32_t *value) {
    bitlm_status status = need(r, 4);
    if (status != BITLM_OK)
        return status;
    *value = bl_read_u32(r->data + r->pos);
    r->pos += 4;
    return BITLM_OK;
}

static bitlm_status read_u64(reader *r, uint64_t *value) {
    bitlm_status status = need(r, 8);
    if (status != BITLM_OK)
        return status;
    *value = bl_read_u64(r->data + r->pos);
    r->pos += 8;
    return BITLM_OK;
}

/* A string as a NUL-terminated copy. */
static bitlm_status read_string(reader *r, bitlm_text *text) {
    uint64_t length;
    char *copy = NULL;
    bitlm_status status = read_u64(r, &length);
    if (status == BITLM_OK)
        status = need(r, length);
    if (status == BITLM_OK)
        status = take_array(r, length + 1, 1, "a string of a GGUF file", &copy);
    if (status != BITLM_OK)
        return status;
    memcpy(copy, r->data + r->pos, (size_t)length);
    copy[length] = '\0';
    r->pos += length;
    text->data = copy;
    text->length = (size_t)length;
    return BITLM_OK;
}

/* A key or a tensor's name: what C strings can hold and messages can show. */
static bitlm_status read_name(reader *r, uint64_t limit, const char **name) {
    bitlm_text text = {NULL, 0};
    char shown[64];
    uint64_t length;
    bitlm_status status = need(r, 8);
    if (status != BITLM_OK)
        return status;
    length = bl_read_u64(r->data + r->pos);
    if (length == 0 || length > limit)
        return bl_error(r->error, BITLM_FORMAT, "the name of %s has %llu bytes, but must have 1 to %llu",
                        r->where, (ull)length, (ull)limit);
    status = read_string(r, &text);
    if (status != BITLM_OK)
        return status;
    if (text.length > limit || memchr(text.data, 0, text.length) != NULL ||
        !bl_utf8_valid(text.data, text.length))
        return bl_error(r->error, BITLM_FORMAT, "the name of %s holds a NUL byte or invalid UTF-8: '%s'",
                        r->where, bl_show(shown, sizeof shown, text.data, text.length));
    *name = text.data;
    return BITLM_OK;
}

static int64_t signed_at(const uint8_t *p, int32_t type) {
    switch (type) {
    case BL_GGUF_U8:
    case BL_GGUF_BOOL:
        return p[0];
    case BL_GGUF_I8:
        return (int8_t)p[0];
    case BL_GGUF_U16:
        return bl_read_u16(p);
    case BL_GGUF_I16:
        return (int16_t)bl_read_u16(p);
    case BL_GGUF_U32:
        return bl_read_u32(p);
    case BL_GGUF_I32:
        return (int32_t)bl_read_u32(p);
    default:
        return (int64_t)bl_read_u64(p);
    }
}

static double double_at(const uint8_t *p, int32_t type) {
    double d;
    uint64_t bits;
    if (type == BL_GGUF_F32)
        return bl_read_f32(p);
    bits = bl_read_u64(p);
    memcpy(&d, &bits, sizeof d);
    return d;
}

static bitlm_status bad_bool(reader *r, int value) {
    return bl_error(r->error, BITLM_FORMAT, "%s holds the truth value %d, but must hold 0 or 1", r->where,
                    value);
}

static bitlm_status read_scalar(reader *r, entry *e) {
    unsigned bytes = bl_gguf_scalar_bytes(e->type);
    bitlm_status status = need(r, bytes);
    if (status != BITLM_OK)
        return status;
    const uint8_t *p = r->data + r->pos;
    r->pos += bytes;
    if (e->type == BL_GGUF_F32 || e->type == BL_GGUF_F64)
        e->value.d = double_at(p, e->type);
    else if (e->type == BL_GGUF_U64)
        e->value.u = bl_read_u64(p);
    else
        e->value.i = signed_at(p, e->type);
    if (e->type == BL_GGUF_BOOL && e->value.i > 1)
        return bad_bool(r, (int)e->value.i);
    return BITLM_OK;
}

/* Integers are kept as int32 if all fit, as token types and ids do, else in 64 bits.  Types
 * that may not fit are first read into 64 bits, so that the file is read once. */
static bitlm_status copy_integers(reader *r, entry *e, const uint8_t *p, unsigned bytes) {
    int64_t *wide = NULL;
    int32_t *narrow = NULL;
    uint64_t i;
    bitlm_status status;
    if (bytes < 4 || e->element == BL_GGUF_I32) {
        status = take_array(r, e->count, sizeof *narrow, "an array of a GGUF file", &narrow);
        for (i = 0; status == BITLM_OK && i < e->count; i++)
            narrow[i] = (int32_t)signed_at(p + (uint64_t)bytes * i, e->element);
        e->stored = BL_GGUF_I32;
        e->value.array = narrow;
        return status;
    }
    status = take_array(r, e->count, sizeof *wide, "an array of a GGUF file", &wide);
    if (status != BITLM_OK)
        return status;
    for (i = 0; i < e->count; i++)
        wide[i] = signed_at(p + (uint64_t)bytes * i, e->element);
    /* A U64 past INT64_MAX looks negative here, so it counts as one that does not fit. */
    int64_t lowest = e->element == BL_GGUF_U64 ? 0 : INT32_MIN;
    for (i = 0; i < e->count; i++)
        if (wide[i] < lowest || wide[i] > INT32_MAX)
            break;
    if (i < e->count) {
        e->stored = e->element == BL_GGUF_U64 ? BL_GGUF_U64 : BL_GGUF_I64;
        e->value.array = wide;
        return BITLM_OK;
    }
    /* In place: int32 number i lies at or before int64 number i. */
    uint8_t *to = (uint8_t *)wide;
    for (i = 0; i < e->count; i++) {
        int64_t v;
        memcpy(&v, to + 8 * i, sizeof v);
        int32_t n = (int32_t)v;
        memcpy(to + 4 * i, &n, sizeof n);
    }
    e->stored = BL_GGUF_I32;
    e->value.array = wide;
    return BITLM_OK;
}

/* The texts lie in one block behind their descriptions, as the file has them, each with its length in front.  The lengths
 * that count are those of the copy: another program may write the file meanwhile. */
static bitlm_status copy_strings(reader *r, entry *e) {
    uint64_t begin = r->pos, length = 0, at = 0, i;
    bitlm_text *texts = NULL;
    uint8_t *copy;
    size_t bytes;
    bitlm_status status = BITLM_OK;
    for (i = 0; status == BITLM_OK && i < e->count; i++) {
        status = read_u64(r, &length);
        if (status == BITLM_OK)
            status = need(r, length);
        if (status == BITLM_OK)
            r->pos += length;
    }
    if (status != BITLM_OK)
        return status;
    bytes = (size_t)(r->pos - begin);
    texts = take(r->gguf, (size_t)e->count * sizeof *texts + bytes + 1); /* both are less than the file's size, thrice */
    if (texts == NULL)
        return bl_error_nomem(r->error, bytes, "an array of strings of a GGUF file");
    copy = (uint8_t *)(texts + e->count);
    memcpy(copy, r->data + begin, bytes);
    for (i = 0; i < e->count; i++) {
        if (bytes - at < 8 || (length = bl_read_u64(copy + at)) > bytes - at - 8)
            return bl_error(r->error, BITLM_FORMAT, "the GGUF file changed while %s was read", r->where);
        copy[at] = '\0'; /* of the text before */
        texts[i] = (bitlm_text){(const char *)copy + at + 8, (size_t)length};
        at += 8 + length;
    }
    copy[at] = '\0';
    e->stored = BL_GGUF_STRING;
    e->value.array = texts;
    return BITLM_OK;
}

static bitlm_status read_array(reader *r, entry *e) {
    uint32_t element = 0;
    uint64_t least;
    bitlm_status status = read_u32(r, &element);
    if (status == BITLM_OK)
        status = read_u64(r, &e->count);
    if (status != BITLM_OK)
        return status;
    e->element = (int32_t)element;
    if (element == BL_GGUF_ARRAY)
        return bl_error(r->error, BITLM_UNSUPPORTED, "%s is an array of arrays, which bitlm does not read",
                        r->where);
    if (element > BL_GGUF_F64)
        return bl_error(r->error, BITLM_FORMAT,
                        "%s is an array of the unknown type %" PRIu32 ", but types go from 0 to 12", r->where,
                        element);
    if (e->count > BL_GGUF_MAX_ELEMENTS)
        return bl_error(r->error, BITLM_LIMIT, "%s is an array of %llu elements, more than the limit of %d",
                        r->where, (ull)e->count, BL_GGUF_MAX_ELEMENTS);
    least = element == BL_GGUF_STRING ? 8 : bl_gguf_scalar_bytes(e->element);
    status = need(r, e->count * least); /* at most 2^27 */
    if (status != BITLM_OK)
        return status;

    const uint8_t *p = r->data + r->pos;
    if (element == BL_GGUF_STRING)
        return copy_strings(r, e);
    r->pos += e->count * least;
    if (element != BL_GGUF_F32 && element != BL_GGUF_F64 && element != BL_GGUF_BOOL)
        return copy_integers(r, e, p, (unsigned)least);

    uint8_t *copy = NULL;
    status = take_array(r, e->count, (size_t)least, "an array of a GGUF file", &copy);
    if (status != BITLM_OK)
        return status;
    for (uint64_t i = 0; i < e->count; i++) {
        if (element == BL_GGUF_BOOL) {
            copy[i] = p[i];
            if (copy[i] > 1)
                return bad_bool(r, copy[i]);
        } else if (element == BL_GGUF_F32) {
            float f = bl_read_f32(p + 4 * i);
            memcpy(copy + 4 * i, &f, sizeof f);
        } else {
            double d = double_at(p + 8 * i, BL_GGUF_F64);
            memcpy(copy + 8 * i, &d, sizeof d);
        }
    }
    e->stored = e->element;
    e->value.array = copy;
    return BITLM_OK;
}

static bitlm_status read_entry(reader *r, uint64_t i, entry *e) {
    uint32_t type = 0;
    char shown[64];
    snprintf(r->where, sizeof r->where, "key %llu", (ull)i);
    bitlm_status status = read_name(r, BL_GGUF_MAX_KEY, &e->key);
    if (status != BITLM_OK)
        return status;
    snprintf(r->where, sizeof r->where, "key '%s'", bl_show(shown, sizeof shown, e->key, strlen(e->key)));
    status = read_u32(r, &type);
    if (status != BITLM_OK)
        return status;
    if (type > BL_GGUF_F64)
        return bl_error(r->error, BITLM_FORMAT,
                        "%s has the unknown type %" PRIu32 ", but types go from 0 to 12", r->where, type);
    e->type = (int32_t)type;
    e->raw = r->data + r->pos;
    if (type == BL_GGUF_STRING)
        status = read_string(r, &e->value.text);
    else if (type == BL_GGUF_ARRAY)
        status = read_array(r, e);
    else
        status = read_scalar(r, e);
    e->raw_bytes = (uint64_t)(r->data + r->pos - e->raw);
    return status;
}

/* data holds the tensor's offset until the data section is known: see place_tensors. */
static bitlm_status read_tensor(reader *r, uint64_t i, bl_tensor *t, uint64_t *offset) {
    uint32_t n_dims = 0, type = 0;
    char shown[64];
    snprintf(r->where, sizeof r->where, "tensor %llu", (ull)i);
    bitlm_status status = read_name(r, BL_GGUF_MAX_NAME, &t->name);
    if (status != BITLM_OK)
        return status;
    snprintf(r->where, sizeof r->where, "tensor '%s'",
             bl_show(shown, sizeof shown, t->name, strlen(t->name)));
    status = read_u32(r, &n_dims);
    if (status != BITLM_OK)
        return status;
    if (n_dims < 1 || n_dims > BL_GGUF_MAX_DIMS)
        return bl_error(r->error, BITLM_FORMAT, "%s has %" PRIu32 " dimensions, but must have 1 to %d",
                        r->where, n_dims, BL_GGUF_MAX_DIMS);
    t->n_dims = (int32_t)n_dims;
    for (unsigned d = 0; d < BL_GGUF_MAX_DIMS; d++) {
        t->dims[d] = 1;
        if (d < n_dims)
            status = read_u64(r, &t->dims[d]);
        if (status != BITLM_OK)
            return status;
        if (t->dims[d] == 0 || t->dims[d] > INT64_MAX)
            return bl_error(r->error, BITLM_FORMAT, "dimension %u of %s is %lld, but must be at least 1", d,
                            r->where, (long long)t->dims[d]);
    }
    status = read_u32(r, &type);
    if (status == BITLM_OK)
        status = read_u64(r, offset);
    t->type = (int32_t)type;
    return status;
}

/* ---- sorting and finding --------------------------------------------------- */

typedef int (*order_fn)(const void *context, uint32_t a, uint32_t b);

static int by_key(const void *context, uint32_t a, uint32_t b) {
    const entry *e = context;
    return strcmp(e[a].key, e[b].key);
}

static int by_tensor_name(const void *context, uint32_t a, uint32_t b) {
    const bl_tensor *t = context;
    return strcmp(t[a].name, t[b].name);
}

static int by_offset(const void *context, uint32_t a, uint32_t b) {
    const uint64_t *offsets = context;
    if (offsets[a] != offsets[b])
        return offsets[a] < offsets[b] ? -1 : 1;
    return a < b ? -1 : a > b;
}

static void sift(uint32_t *index, size_t root, size_t n, order_fn order, const void *context) {
    for (;;) {
        size_t child = 2 * root + 1;
        if (child >= n)
            return;
        if (child + 1 < n && order(context, index[child], index[child + 1]) < 0)
            child++;
        if (order(context, index[root], index[child]) >= 0)
            return;
        uint32_t swap = index[root];
        index[root] = index[child];
        index[child] = swap;
        root = child;
    }
}

static void heap_sort(uint32_t *index, size_t n, order_fn order, const void *context) {
    for (size_t i = 0; i < n; i++)
        index[i] = (uint32_t)i;
    for (size_t i = n / 2; i-- > 0;)
        sift(index, i, n, order, context);
    for (size_t i = n; i-- > 1;) {
        uint32_t last = index[i];
        index[i] = index[0];
        index[0] = last;
        sift(index, 0, i, order, context);
    }
}

static const entry *find(const bl_gguf *g, const char *key) {
    size_t low = 0, high = (size_t)g->n_keys;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const entry *e = &g->entries[g->keys_sorted[middle]];
        int c = strcmp(key, e->key);
        if (c == 0)
            return e;
        if (c < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

/* ---- tensors --------------------------------------------------------------- */

static uint64_t pad(uint64_t n, uint64_t alignment) {
    return (n + alignment - 1) / alignment * alignment;
}

static uint64_t rows_of(const bl_tensor *t, int *ok) {
    uint64_t rows;
    *ok = !__builtin_mul_overflow(t->dims[1], t->dims[2], &rows) &&
          !__builtin_mul_overflow(rows, t->dims[3], &rows);
    return *ok ? rows : 0;
}

/* What bitnet.cpp's converter writes for TL2: five bits for three weights of the first
 * k - 256 of a row, four bits for two of the rest, padded, then a scale. */
static uint64_t tl2_bytes(uint64_t k, uint64_t rows) {
    if (k < 256 || k > UINT32_MAX || rows > UINT32_MAX / 8)
        return 0;
    return pad((k - 256) * rows / 3 * 5 / 8 + 256 * rows / 2 * 4 / 8, 32) + 32;
}

/* Ids 39, 40 and 42 name different types in files of different engines: only the room a
 * tensor takes tells.  room: bytes to the next tensor or the end of the data. */
typedef struct fit {
    uint64_t room, alignment;
    int last;
} fit;

static int fits(const fit *f, uint64_t bytes) {
    return bytes > 0 && bytes <= f->room && f->room - bytes < f->alignment;
}

static uint64_t blocks_bytes(uint64_t k, uint64_t rows, uint64_t block, uint64_t block_bytes) {
    uint64_t bytes;
    if (k % block != 0 || __builtin_mul_overflow(k / block, rows, &bytes) ||
        __builtin_mul_overflow(bytes, block_bytes, &bytes))
        return 0;
    return bytes;
}

#define Q2_NEITHER 0
#define Q2_NEW 1
#define Q2_LEGACY 2
#define Q2_EITHER 3

static int q2_fit(const bl_tensor *t, uint64_t rows, const fit *f) {
    uint64_t new_bytes = blocks_bytes(t->dims[0], rows, 64, 18);
    uint64_t old_bytes = blocks_bytes(t->dims[0], rows, 128, 34);
    int result = (fits(f, new_bytes) ? Q2_NEW : 0) | (fits(f, old_bytes) ? Q2_LEGACY : 0);
    if (result == Q2_EITHER && f->last) { /* a file may end without padding */
        if (f->room == new_bytes)
            return Q2_NEW;
        if (f->room == old_bytes)
            return Q2_LEGACY;
    }
    return result;
}

static bitlm_status refuse_type(reader *r, const bl_tensor *t, int32_t id) {
    char shown[64];
    const char *why = bl_tensor_type_refusal(id);
    bl_show(shown, sizeof shown, t->name, strlen(t->name));
    if (why != NULL)
        return bl_error(r->error, BITLM_UNSUPPORTED, "tensor '%s' has type %d: %s", shown, (int)t->type, why);
    return bl_error(r->error, BITLM_UNSUPPORTED, "tensor '%s' has type %d, which bitlm does not know", shown,
                    (int)t->type);
}

/* The type as bitlm names it.  votes: bits Q2_NEW, Q2_LEGACY of the tensors that fit one only. */
static bitlm_status resolve_type(reader *r, bl_tensor *t, uint64_t rows, const fit *f, int votes) {
    char shown[64];
    uint64_t k = t->dims[0];
    if (t->type == 39 || t->type == 40) {
        int own =
            t->type == 39 ? fits(f, blocks_bytes(k, rows, 32, 17)) : fits(f, blocks_bytes(k, rows, 64, 36));
        return refuse_type(r, t, !own && fits(f, tl2_bytes(k, rows)) ? BL_TYPE_TL2 : t->type);
    }
    if (t->type != BL_TYPE_Q2_0) {
        const bl_tensor_type *known = bl_tensor_type_find(t->type);
        if (known == NULL || t->type >= 1000) /* ids from 1000 on are our own, not the format's */
            return refuse_type(r, t, t->type >= 1000 ? -1 : t->type);
        return BITLM_OK;
    }
    int fit_of = q2_fit(t, rows, f);
    if (fit_of == Q2_NEITHER && fits(f, tl2_bytes(k, rows)))
        return refuse_type(r, t, BL_TYPE_TL2);
    if (fit_of == Q2_NEITHER && f->last) { /* bytes behind the last tensor: as the others */
        uint64_t new_bytes = blocks_bytes(k, rows, 64, 18);
        if (votes == Q2_LEGACY || votes == Q2_NEW)
            fit_of = votes;
        else if (new_bytes != 0 && new_bytes <= f->room)
            fit_of = Q2_NEW;
    }
    if (fit_of == Q2_NEITHER)
        return bl_error(r->error, BITLM_FORMAT,
                        "tensor '%s' of type 42 takes %llu bytes, which fits neither Q2_0 (%llu) nor its "
                        "older layout (%llu)",
                        bl_show(shown, sizeof shown, t->name, strlen(t->name)), (ull)f->room,
                        (ull)blocks_bytes(k, rows, 64, 18), (ull)blocks_bytes(k, rows, 128, 34));
    if (fit_of == Q2_LEGACY || (fit_of == Q2_EITHER && votes == Q2_LEGACY))
        t->type = BL_TYPE_Q2_0_LEGACY;
    return BITLM_OK;
}

static bitlm_status place_tensor(reader *r, bl_tensor *t, const uint64_t *offset, uint64_t data_start,
                                 const fit *f, int votes) {
    char shown[64];
    int ok;
    uint64_t data_size = r->size - data_start;
    uint64_t rows = rows_of(t, &ok);
    bitlm_status status;
    bl_show(shown, sizeof shown, t->name, strlen(t->name));
    if (!ok)
        return bl_error(r->error, BITLM_FORMAT,
                        "the dimensions of tensor '%s', %llu x %llu x %llu x %llu, overflow 64 bits", shown,
                        (ull)t->dims[0], (ull)t->dims[1], (ull)t->dims[2], (ull)t->dims[3]);
    status = resolve_type(r, t, rows, f, votes);
    if (status != BITLM_OK)
        return status;
    const bl_tensor_type *type = bl_tensor_type_find(t->type);
    t->bytes = bl_tensor_bytes(type, t->dims[0], rows, &ok);
    if (!ok && t->type == BL_TYPE_I2_S)
        return bl_error(r->error, BITLM_FORMAT,
                        "tensor '%s' has %llu rows of %llu weights, but I2_S takes them 128 at a time", shown,
                        (ull)rows, (ull)t->dims[0]);
    if (!ok)
        return bl_error(r->error, BITLM_FORMAT,
                        "tensor '%s' has %llu rows of %llu weights, but %s takes blocks of %d, and its size "
                        "must fit 64 bits",
                        shown, (ull)rows, (ull)t->dims[0], type->name, (int)type->block);
    if (*offset % f->alignment != 0)
        return bl_error(r->error, BITLM_FORMAT,
                        "tensor '%s' starts at offset %llu, which is no multiple of the alignment %llu",
                        shown, (ull)*offset, (ull)f->alignment);
    if (*offset > data_size || t->bytes > data_size - *offset)
        return bl_error(r->error, BITLM_FORMAT,
                        "tensor '%s' needs %llu bytes at offset %llu, but the file has %llu bytes of data",
                        shown, (ull)t->bytes, (ull)*offset, (ull)data_size);
    if (t->bytes > f->room)
        return bl_error(r->error, BITLM_FORMAT,
                        "tensor '%s' needs %llu bytes, but the next tensor starts %llu bytes after it", shown,
                        (ull)t->bytes, (ull)f->room);
    t->data = r->data + data_start + *offset;
    return BITLM_OK;
}

/* Bytes from tensor order[i] to the next one or the end of the data; offsets may lie anywhere. */
static fit room_of(const uint64_t *offsets, const uint32_t *order, uint64_t i, uint64_t n, uint64_t data_size,
                   uint64_t alignment) {
    fit f = {0, alignment, i + 1 == n};
    uint64_t start = offsets[order[i]], end = f.last ? data_size : offsets[order[i + 1]];
    if (end > start)
        f.room = end - start;
    return f;
}

static bitlm_status place_tensors(reader *r, const uint64_t *offsets, uint64_t alignment) {
    bl_gguf *g = r->gguf;
    uint32_t *order = NULL;
    int votes = 0, ok;
    uint64_t n = g->n_tensors;
    if (n == 0)
        return BITLM_OK; /* a vocabulary alone: there need not even be a data section */
    uint64_t data_start = pad(r->pos, alignment);
    snprintf(r->where, sizeof r->where, "the padding in front of the tensors");
    bitlm_status status = need(r, data_start - r->pos);
    if (status == BITLM_OK)
        status = take_array(r, n, sizeof *order, "the order of tensors", &order);
    if (status != BITLM_OK)
        return status;
    heap_sort(order, (size_t)n, by_offset, offsets);
    for (uint64_t i = 0; i < n; i++) {
        const bl_tensor *t = &g->tensors[order[i]];
        fit f = room_of(offsets, order, i, n, r->size - data_start, alignment);
        uint64_t rows = rows_of(t, &ok);
        int vote = ok && t->type == BL_TYPE_Q2_0 ? q2_fit(t, rows, &f) : 0;
        if (vote == Q2_NEW || vote == Q2_LEGACY)
            votes |= vote;
    }
    for (uint64_t i = 0; i < n; i++) {
        fit f = room_of(offsets, order, i, n, r->size - data_start, alignment);
        status = place_tensor(r, &g->tensors[order[i]], &offsets[order[i]], data_start, &f, votes);
        if (status != BITLM_OK)
            return status;
    }
    return BITLM_OK;
}

/* ---- opening ----------------------------------------------------------------- */

static bitlm_status read_header(reader *r) {
    char magic[16];
    uint32_t version = 0;
    bl_gguf *g = r->gguf;
    snprintf(r->where, sizeof r->where, "its header");
    bitlm_status status = need(r, 4);
    if (status != BITLM_OK)
        return status;
    if (bl_read_u32(r->data) != BL_GGUF_MAGIC)
        return bl_error(r->error, BITLM_FORMAT, "not a GGUF file: it starts with '%s' instead of 'GGUF'",
                        bl_show(magic, sizeof magic, (const char *)r->data, 4));
    r->pos = 4;
    status = read_u32(r, &version);
    if (status != BITLM_OK)
        return status;
    if (version != 0 && (version & 0xffff) == 0)
        return bl_error(r->error, BITLM_UNSUPPORTED,
                        "the GGUF file is big-endian (version 0x%08" PRIx32
                        "); bitlm reads little-endian files",
                        version);
    if (version < 2 || version > 3)
        return bl_error(r->error, BITLM_UNSUPPORTED, "GGUF version %" PRIu32 ", but bitlm reads 2 and 3",
                        version);
    g->version = version;
    status = read_u64(r, &g->n_tensors);
    if (status == BITLM_OK)
        status = read_u64(r, &g->n_keys);
    if (status != BITLM_OK)
        return status;
    /* The shortest key takes 14 bytes (length, one letter, type, one byte), the shortest
     * tensor info 33: counts that cannot be true never reach the allocator. */
    uint64_t left = r->size - r->pos;
    if (g->n_keys > BL_GGUF_MAX_KEYS || g->n_keys > left / 14)
        return bl_error(r->error, BITLM_FORMAT,
                        "the GGUF file claims %llu keys, but a file of %llu bytes holds at most %llu",
                        (ull)g->n_keys, (ull)r->size, (ull)BL_MIN(left / 14, (uint64_t)BL_GGUF_MAX_KEYS));
    if (g->n_tensors > BL_GGUF_MAX_TENSORS || g->n_tensors > left / 33)
        return bl_error(r->error, BITLM_FORMAT,
                        "the GGUF file claims %llu tensors, but a file of %llu bytes holds at most %llu",
                        (ull)g->n_tensors, (ull)r->size,
                        (ull)BL_MIN(left / 33, (uint64_t)BL_GGUF_MAX_TENSORS));
    return BITLM_OK;
}

static bitlm_status read_keys(reader *r) {
    bl_gguf *g = r->gguf;
    char shown[64];
    bitlm_status status =
        take_array(r, g->n_keys, sizeof *g->entries, "the keys of a GGUF file", &g->entries);
    if (status == BITLM_OK)
        status = take_array(r, g->n_keys, sizeof *g->keys_sorted, "the index of keys", &g->keys_sorted);
    if (status != BITLM_OK)
        return status;
    memset(g->entries, 0, (size_t)g->n_keys * sizeof *g->entries);
    for (uint64_t i = 0; i < g->n_keys && status == BITLM_OK; i++)
        status = read_entry(r, i, &g->entries[i]);
    if (status != BITLM_OK)
        return status;
    heap_sort(g->keys_sorted, (size_t)g->n_keys, by_key, g->entries);
    for (uint64_t i = 1; i < g->n_keys; i++) {
        const char *key = g->entries[g->keys_sorted[i]].key;
        if (strcmp(g->entries[g->keys_sorted[i - 1]].key, key) == 0)
            return bl_error(r->error, BITLM_FORMAT, "the key '%s' occurs twice",
                            bl_show(shown, sizeof shown, key, strlen(key)));
    }
    return BITLM_OK;
}

static bitlm_status read_tensors(reader *r, uint64_t **offsets) {
    bl_gguf *g = r->gguf;
    char shown[64];
    bitlm_status status =
        take_array(r, g->n_tensors, sizeof *g->tensors, "the tensors of a GGUF file", &g->tensors);
    if (status == BITLM_OK)
        status = take_array(r, g->n_tensors, sizeof *g->tensors_sorted, "the index of tensors",
                            &g->tensors_sorted);
    if (status == BITLM_OK)
        status = take_array(r, g->n_tensors, sizeof **offsets, "the offsets of tensors", offsets);
    if (status != BITLM_OK)
        return status;
    memset(g->tensors, 0, (size_t)g->n_tensors * sizeof *g->tensors);
    for (uint64_t i = 0; i < g->n_tensors && status == BITLM_OK; i++)
        status = read_tensor(r, i, &g->tensors[i], &(*offsets)[i]);
    if (status != BITLM_OK)
        return status;
    heap_sort(g->tensors_sorted, (size_t)g->n_tensors, by_tensor_name, g->tensors);
    for (uint64_t i = 1; i < g->n_tensors; i++) {
        const char *name = g->tensors[g->tensors_sorted[i]].name;
        if (strcmp(g->tensors[g->tensors_sorted[i - 1]].name, name) == 0)
            return bl_error(r->error, BITLM_FORMAT, "the tensor '%s' occurs twice",
                            bl_show(shown, sizeof shown, name, strlen(name)));
    }
    return BITLM_OK;
}

static bitlm_status read_alignment(reader *r, uint64_t *alignment) {
    int64_t value = BL_GGUF_ALIGNMENT;
    if (bl_gguf_i64(r->gguf, "general.alignment", &value) < 0)
        return bl_error(r->error, BITLM_FORMAT, "general.alignment is no integer");
    if (value < 8 || value > BL_GGUF_MAX_ALIGNMENT || (value & (value - 1)) != 0)
        return bl_error(r->error, BITLM_FORMAT,
                        "general.alignment is %lld, but must be a power of two from 8 to %d",
                        (long long)value, BL_GGUF_MAX_ALIGNMENT);
    *alignment = (uint64_t)value;
    return BITLM_OK;
}

bitlm_status bl_gguf_open(const uint8_t *data, size_t size, const bl_alloc *alloc, bl_gguf **gguf,
                          bitlm_error *error) {
    bl_alloc a = alloc != NULL ? *alloc : bl_alloc_from_host(NULL);
    reader r = {data, size, 0, NULL, error, ""};
    uint64_t *offsets = NULL, alignment = BL_GGUF_ALIGNMENT;
    r.gguf = bl_calloc(&a, 1, sizeof *r.gguf);
    if (r.gguf == NULL)
        return bl_error_nomem(error, sizeof *r.gguf, "a GGUF file");
    r.gguf->alloc = a;
    bitlm_status status = read_header(&r);
    if (status == BITLM_OK)
        status = read_keys(&r);
    if (status == BITLM_OK)
        status = read_alignment(&r, &alignment);
    if (status == BITLM_OK)
        status = read_tensors(&r, &offsets);
    if (status == BITLM_OK)
        status = place_tensors(&r, offsets, alignment);
    if (status != BITLM_OK)
        goto fail;
    *gguf = r.gguf;
    return BITLM_OK;

fail:
    bl_gguf_free(r.gguf);
    return status;
}

void bl_gguf_free(bl_gguf *gguf) {
    if (gguf == NULL)
        return;
    bl_alloc alloc = gguf->alloc;
    for (chunk *c = gguf->chunks; c != NULL;) {
        chunk *next = c->next;
        bl_free(&alloc, c);
        c = next;
    }
    bl_free(&alloc, gguf);
}

void bl_gguf_forget_arrays(bl_gguf *gguf) {
    for (uint64_t i = 0; i < gguf->n_keys; i++) {
        entry *e = &gguf->entries[i];
        if (e->type != BL_GGUF_ARRAY)
            continue;
        for (chunk **at = &gguf->chunks; *at != NULL; at = &(*at)->next) {
            chunk *c = *at;
            if (c->alone && (const void *)(c + 1) == e->value.array) {
                *at = c->next;
                bl_free(&gguf->alloc, c);
                e->value.array = NULL;
                e->stored = FORGOTTEN;
                break;
            }
        }
    }
}

/* ---- questions ----------------------------------------------------------------- */

uint32_t bl_gguf_version(const bl_gguf *gguf) {
    return gguf->version;
}
uint64_t bl_gguf_n_tensors(const bl_gguf *gguf) {
    return gguf->n_tensors;
}
uint64_t bl_gguf_n_keys(const bl_gguf *gguf) {
    return gguf->n_keys;
}

const bl_tensor *bl_gguf_tensor_at(const bl_gguf *gguf, uint64_t i) {
    return i < gguf->n_tensors ? &gguf->tensors[i] : NULL;
}

const bl_tensor *bl_gguf_tensor(const bl_gguf *gguf, const char *name) {
    size_t low = 0, high = (size_t)gguf->n_tensors;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const bl_tensor *t = &gguf->tensors[gguf->tensors_sorted[middle]];
        int c = strcmp(name, t->name);
        if (c == 0)
            return t;
        if (c < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

const char *bl_gguf_key_at(const bl_gguf *gguf, uint64_t i, int32_t *type) {
    if (i >= gguf->n_keys)
        return NULL;
    if (type != NULL)
        *type = gguf->entries[i].type;
    return gguf->entries[i].key;
}

const uint8_t *bl_gguf_raw(const bl_gguf *gguf, uint64_t i, uint64_t *bytes) {
    *bytes = gguf->entries[i].raw_bytes;
    return gguf->entries[i].raw;
}

int bl_gguf_has(const bl_gguf *gguf, const char *key) {
    return find(gguf, key) != NULL;
}

static int is_integer(int32_t type) {
    return type <= BL_GGUF_I32 || type == BL_GGUF_U64 || type == BL_GGUF_I64;
}

int bl_gguf_i64(const bl_gguf *gguf, const char *key, int64_t *value) {
    const entry *e = find(gguf, key);
    if (e == NULL)
        return 0;
    if (!is_integer(e->type) || (e->type == BL_GGUF_U64 && e->value.u > INT64_MAX))
        return -1;
    *value = e->type == BL_GGUF_U64 ? (int64_t)e->value.u : e->value.i;
    return 1;
}

int bl_gguf_f64(const bl_gguf *gguf, const char *key, double *value) {
    int64_t i;
    const int64_t exact = (int64_t)1 << 53;
    const entry *e = find(gguf, key);
    if (e == NULL)
        return 0;
    if (e->type == BL_GGUF_F32 || e->type == BL_GGUF_F64) {
        *value = e->value.d;
        return 1;
    }
    if (bl_gguf_i64(gguf, key, &i) != 1 || i > exact || i < -exact)
        return -1;
    *value = (double)i;
    return 1;
}

int bl_gguf_bool(const bl_gguf *gguf, const char *key, int *value) {
    const entry *e = find(gguf, key);
    if (e == NULL)
        return 0;
    if (e->type != BL_GGUF_BOOL)
        return -1;
    *value = (int)e->value.i;
    return 1;
}

int bl_gguf_string(const bl_gguf *gguf, const char *key, bitlm_text *value) {
    const entry *e = find(gguf, key);
    if (e == NULL)
        return 0;
    if (e->type != BL_GGUF_STRING)
        return -1;
    *value = e->value.text;
    return 1;
}

int bl_gguf_array(const bl_gguf *gguf, const char *key, int32_t *element_type, uint64_t *count) {
    const entry *e = find(gguf, key);
    if (e == NULL)
        return 0;
    if (e->type != BL_GGUF_ARRAY)
        return -1;
    *element_type = e->element;
    *count = e->count;
    return 1;
}

/* The elements of an array kept as `stored`, NULL if there is no such array. */
static const void *array_of(const bl_gguf *gguf, const char *key, int32_t stored, uint64_t *count) {
    const entry *e = find(gguf, key);
    if (e == NULL || e->type != BL_GGUF_ARRAY || e->stored != stored)
        return NULL;
    if (count != NULL)
        *count = e->count;
    return e->value.array;
}

bitlm_text bl_gguf_array_string(const bl_gguf *gguf, const char *key, uint64_t i) {
    static const bitlm_text none = {"", 0};
    uint64_t count = 0;
    const bitlm_text *texts = array_of(gguf, key, BL_GGUF_STRING, &count);
    return texts != NULL && i < count ? texts[i] : none;
}

const bitlm_text *bl_gguf_strings(const bl_gguf *gguf, const char *key, uint64_t *count) {
    return array_of(gguf, key, BL_GGUF_STRING, count);
}

const float *bl_gguf_floats(const bl_gguf *gguf, const char *key, uint64_t *count) {
    return array_of(gguf, key, BL_GGUF_F32, count);
}

const int32_t *bl_gguf_ints(const bl_gguf *gguf, const char *key, uint64_t *count) {
    return array_of(gguf, key, BL_GGUF_I32, count);
}

/* ---- showing --------------------------------------------------------------------- */

static void append(char *out, size_t cap, size_t *used, const char *text) {
    size_t n = strlen(text);
    if (*used + 1 >= cap)
        return;
    n = BL_MIN(n, cap - 1 - *used);
    memcpy(out + *used, text, n);
    *used += n;
    out[*used] = '\0';
}

/* Element i of an array as if it were a value of its own. */
static entry element_of(const entry *array, uint64_t i) {
    entry e = {.type = array->stored};
    const void *p = array->value.array;
    switch (array->stored) {
    case BL_GGUF_F32:
        e.value.d = ((const float *)p)[i];
        break;
    case BL_GGUF_F64:
        e.value.d = ((const double *)p)[i];
        break;
    case BL_GGUF_U64:
        e.value.u = ((const uint64_t *)p)[i];
        break;
    case BL_GGUF_I64:
        e.value.i = ((const int64_t *)p)[i];
        break;
    case BL_GGUF_BOOL:
        e.value.i = ((const uint8_t *)p)[i];
        break;
    default:
        e.value.i = ((const int32_t *)p)[i];
    }
    return e;
}

static void show_number(char *out, size_t cap, const entry *e) {
    if (e->type == BL_GGUF_F32 || e->type == BL_GGUF_F64)
        snprintf(out, cap, "%g", e->value.d);
    else if (e->type == BL_GGUF_U64)
        snprintf(out, cap, "%llu", (ull)e->value.u);
    else if (e->type == BL_GGUF_BOOL)
        snprintf(out, cap, "%s", e->value.i ? "true" : "false");
    else
        snprintf(out, cap, "%lld", (long long)e->value.i);
}

const char *bl_gguf_show(const bl_gguf *gguf, uint64_t i, char *out, size_t cap) {
    enum { SHOWN = 8 };
    char piece[64];
    size_t used = 0;
    if (cap == 0)
        return out;
    out[0] = '\0';
    if (i >= gguf->n_keys)
        return out;
    const entry *e = &gguf->entries[i];
    if (e->type == BL_GGUF_STRING)
        return bl_show(out, cap, e->value.text.data, e->value.text.length);
    if (e->type != BL_GGUF_ARRAY) {
        show_number(out, cap, e);
        return out;
    }
    append(out, cap, &used, "[");
    for (uint64_t j = 0; j < e->count && j < SHOWN && e->stored != FORGOTTEN; j++) {
        if (j > 0)
            append(out, cap, &used, ", ");
        if (e->stored == BL_GGUF_STRING) {
            const bitlm_text *t = (const bitlm_text *)e->value.array + j;
            append(out, cap, &used, "\"");
            append(out, cap, &used, bl_show(piece, 40, t->data, t->length));
            append(out, cap, &used, "\"");
        } else {
            entry one = element_of(e, j);
            show_number(piece, sizeof piece, &one);
            append(out, cap, &used, piece);
        }
    }
    if (e->count > SHOWN) {
        snprintf(piece, sizeof piece, "%s… %llu in all", e->stored == FORGOTTEN ? "" : ", ", (ull)e->count);
        append(out, cap, &used, piece);
    }
    append(out, cap, &used, "]");
    return out;
}
