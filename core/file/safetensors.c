/* safetensors.c - reads safetensors files: one in memory, or a folder of shards.
 *
 * The header is JSON and read by jansson, which refuses repeated keys, invalid UTF-8, NUL bytes and integers
 * beyond 63 bits.  Everything that is kept is copied; tensors lie in order of names, so that look-ups are binary
 * searches.  That the data is covered without gap or overlap is checked on the tensors in order of offset, as
 * the format demands it.  Called by convert.c and its kin, the tests and a fuzzer. */
#define _GNU_SOURCE
#include "file/safetensors.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/tensor_type.h"

typedef unsigned long long ull; /* for messages */

#define MAX_SHARDS 4096
#define MAX_INDEX ((size_t)64 << 20)

static const struct dtype {
    const char *name;
    int32_t dtype;
    unsigned bits;
} dtypes[] = {
    {"F32", BL_ST_F32, 32},   {"F16", BL_ST_F16, 16}, {"BF16", BL_ST_BF16, 16},   {"U8", BL_ST_U8, 8},
    {"I8", BL_ST_I8, 8},      {"F64", BL_ST_OTHER, 64}, {"I64", BL_ST_OTHER, 64}, {"U64", BL_ST_OTHER, 64},
    {"I32", BL_ST_OTHER, 32}, {"U32", BL_ST_OTHER, 32}, {"I16", BL_ST_OTHER, 16}, {"U16", BL_ST_OTHER, 16},
    {"BOOL", BL_ST_OTHER, 8}, {"F8_E4M3", BL_ST_OTHER, 8}, {"F8_E5M2", BL_ST_OTHER, 8},
};

struct bl_safetensors {
    bl_alloc alloc;
    bl_st_tensor *tensors;
    uint64_t n, capacity;
    bl_mapping *shards;
    uint32_t n_shards;
};

const char *bl_safetensors_dtype_name(int32_t dtype) {
    return dtype >= 0 && dtype < BL_ST_OTHER ? dtypes[dtype].name : "?";
}

unsigned bl_safetensors_dtype_bytes(int32_t dtype) {
    return dtype >= 0 && dtype < BL_ST_OTHER ? dtypes[dtype].bits / 8 : 0;
}

/* ---- one file ------------------------------------------------------------------------------------------ */

static bitlm_status add_tensor(bl_safetensors *st, const bl_st_tensor *t, bitlm_error *error) {
    size_t length = strlen(t->name) + 1;
    if (st->n == st->capacity) {
        size_t grown = st->capacity ? (size_t)st->capacity * 2 : 64;
        void *p = bl_regrow(&st->alloc, st->tensors, (size_t)st->n * sizeof *st->tensors, grown * sizeof *st->tensors);
        if (!p)
            return bl_error_nomem(error, grown * sizeof *st->tensors, "the list of tensors");
        st->tensors = p;
        st->capacity = grown;
    }
    char *name = bl_malloc(&st->alloc, length);
    if (!name)
        return bl_error_nomem(error, length, "the name of a tensor");
    memcpy(name, t->name, length);
    st->tensors[st->n] = *t;
    st->tensors[st->n++].name = name;
    return BITLM_OK;
}

/* One entry of the header; t->name is set. */
static bitlm_status read_entry(const json_t *value, uint64_t data_bytes, const uint8_t *data, bl_st_tensor *t,
                               bitlm_error *error) {
    char shown[80], type_shown[24];
    const json_t *dtype = json_object_get(value, "dtype"), *shape = json_object_get(value, "shape"),
                 *offsets = json_object_get(value, "data_offsets");
    const struct dtype *d = NULL;
    uint64_t bits, elements = 1;
    bl_show(shown, sizeof shown, t->name, strlen(t->name));
    if (!json_is_string(dtype) || !json_is_array(shape) || !json_is_array(offsets) || json_array_size(offsets) != 2)
        return bl_error(error, BITLM_FORMAT, "tensor '%s' lacks its dtype, its shape or its two data_offsets", shown);
    for (size_t i = 0; i < BL_COUNT(dtypes) && !d; i++)
        if (strcmp(json_string_value(dtype), dtypes[i].name) == 0)
            d = &dtypes[i];
    if (!d)
        return bl_error(error, BITLM_UNSUPPORTED, "tensor '%s' has the dtype '%s', which bitlm does not know", shown,
                        bl_show(type_shown, sizeof type_shown, json_string_value(dtype), json_string_length(dtype)));
    if (json_array_size(shape) > BL_ST_MAX_DIMS)
        return bl_error(error, BITLM_FORMAT, "tensor '%s' has %zu dimensions, more than %d", shown,
                        json_array_size(shape), BL_ST_MAX_DIMS);
    t->dtype = d->dtype;
    t->dtype_name = d->name;
    t->n_dims = (int32_t)json_array_size(shape);
    for (int i = 0; i < t->n_dims; i++) {
        const json_t *dim = json_array_get(shape, (size_t)i);
        if (!json_is_integer(dim) || json_integer_value(dim) < 0)
            return bl_error(error, BITLM_FORMAT, "dimension %d of tensor '%s' is no whole number from 0 up", i, shown);
        t->dims[i] = (uint64_t)json_integer_value(dim);
        if (__builtin_mul_overflow(elements, t->dims[i], &elements))
            return bl_error(error, BITLM_FORMAT, "the shape of tensor '%s' has more than 2^64 elements", shown);
    }
    for (int i = 0; i < 2; i++)
        if (!json_is_integer(json_array_get(offsets, (size_t)i)) ||
            json_integer_value(json_array_get(offsets, (size_t)i)) < 0)
            return bl_error(error, BITLM_FORMAT, "data_offsets of tensor '%s' are no whole numbers from 0 up", shown);
    uint64_t begin = (uint64_t)json_integer_value(json_array_get(offsets, 0)),
             end = (uint64_t)json_integer_value(json_array_get(offsets, 1));
    if (begin > end || end > data_bytes)
        return bl_error(error, BITLM_FORMAT, "tensor '%s' lies at bytes %llu to %llu of the data, which has %llu bytes",
                        shown, (ull)begin, (ull)end, (ull)data_bytes);
    if (__builtin_mul_overflow(elements, (uint64_t)d->bits, &bits) || bits / 8 != end - begin)
        return bl_error(error, BITLM_FORMAT, "tensor '%s' has %llu bytes of data, but its shape takes %llu elements of %u "
                        "bits", shown, (ull)(end - begin), (ull)elements, d->bits);
    t->data = data + begin;
    t->bytes = end - begin;
    return BITLM_OK;
}

static int by_offset(const void *a, const void *b) {
    const bl_st_tensor *x = a, *y = b;
    if (x->data != y->data)
        return x->data < y->data ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes; /* an empty one before what begins there */
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const bl_st_tensor *)a)->name, ((const bl_st_tensor *)b)->name);
}

/* Adds the tensors of a file in memory. */
static bitlm_status read_file(bl_safetensors *st, const uint8_t *file, size_t size, uint32_t shard,
                              bitlm_error *error) {
    json_error_t why;
    json_t *root = NULL, *value;
    const char *name;
    bitlm_status status = BITLM_OK;
    uint64_t length, first = st->n;
    if (size < 8)
        return bl_error(error, BITLM_FORMAT, "the file has %zu bytes, too few for a safetensors file", size);
    length = bl_read_u64(file);
    if (length < 2 || length > BL_ST_MAX_HEADER || length > size - 8)
        return bl_error(error, BITLM_FORMAT, "the safetensors header says it has %llu bytes, but the file has %zu and a "
                        "header at most %llu", (ull)length, size, (ull)BL_ST_MAX_HEADER);
    const uint8_t *data = file + 8 + length;
    uint64_t data_bytes = size - 8 - length;
    if (file[8] != '{')
        return bl_error(error, BITLM_FORMAT, "the safetensors header does not begin with '{'");
    root = json_loadb((const char *)file + 8, (size_t)length, JSON_REJECT_DUPLICATES, &why);
    if (!json_is_object(root)) {
        status = bl_error(error, BITLM_FORMAT, "the safetensors header is no JSON object: %.100s", root ? "" : why.text);
        goto fail;
    }
    if (json_object_size(root) > BL_ST_MAX_TENSORS) {
        status = bl_error(error, BITLM_LIMIT, "the file holds %zu tensors, more than the limit of %d",
                          json_object_size(root), BL_ST_MAX_TENSORS);
        goto fail;
    }
    json_object_foreach(root, name, value) {
        bl_st_tensor t = {.name = name, .shard = shard};
        if (strcmp(name, "__metadata__") == 0)
            continue;
        status = name[0] ? read_entry(value, data_bytes, data, &t, error)
                         : bl_error(error, BITLM_FORMAT, "a tensor has an empty name");
        if (!status)
            status = add_tensor(st, &t, error);
        if (status)
            goto fail;
    }
    if (st->n > first)
        qsort(st->tensors + first, (size_t)(st->n - first), sizeof *st->tensors, by_offset);
    const uint8_t *expected = data;
    for (uint64_t i = first; i < st->n && !status; i++) {
        char shown[80];
        const bl_st_tensor *t = &st->tensors[i];
        if (t->data != expected)
            status = bl_error(error, BITLM_FORMAT, "tensor '%s' begins at byte %llu of the data, but the one before ends at "
                              "byte %llu: tensors may not overlap or leave gaps",
                              bl_show(shown, sizeof shown, t->name, strlen(t->name)), (ull)(t->data - data),
                              (ull)(expected - data));
        expected = t->data + t->bytes;
    }
    if (!status && (uint64_t)(expected - data) != data_bytes)
        status = bl_error(error, BITLM_FORMAT, "the tensors take %llu bytes of data, but the file has %llu",
                          (ull)(expected - data), (ull)data_bytes);

fail:
    json_decref(root);
    return status;
}

static bitlm_status sort_names(bl_safetensors *st, bitlm_error *error) {
    char shown[80];
    if (st->n > 1)
        qsort(st->tensors, (size_t)st->n, sizeof *st->tensors, by_name);
    for (uint64_t i = 1; i < st->n; i++)
        if (strcmp(st->tensors[i - 1].name, st->tensors[i].name) == 0)
            return bl_error(error, BITLM_FORMAT, "there are two tensors '%s'",
                            bl_show(shown, sizeof shown, st->tensors[i].name, strlen(st->tensors[i].name)));
    return BITLM_OK;
}

static bl_safetensors *new_view(const bl_alloc *alloc, bitlm_error *error) {
    bl_safetensors *st = bl_calloc(alloc, 1, sizeof *st);
    if (st)
        st->alloc = *alloc;
    else
        bl_error_nomem(error, sizeof *st, "a safetensors file");
    return st;
}

bitlm_status bl_safetensors_open(const uint8_t *data, size_t size, const bl_alloc *alloc, bl_safetensors **out,
                                 bitlm_error *error) {
    bl_safetensors *st = new_view(alloc, error);
    if (!st)
        return BITLM_NOMEM;
    bitlm_status status = read_file(st, data, size, 0, error);
    if (!status)
        status = sort_names(st, error);
    if (status)
        bl_safetensors_free(st);
    else
        *out = st;
    return status;
}

/* ---- a folder ------------------------------------------------------------------------------------------- */

static bitlm_status join(const char *folder, const char *name, char *path, bitlm_error *error) {
    int n = snprintf(path, PATH_MAX, "%s/%s", folder, name);
    if (n < 0 || n >= PATH_MAX)
        return bl_error_io(error, ENAMETOOLONG, "cannot open a path of %d bytes", n);
    return BITLM_OK;
}

bitlm_status bl_read_small_file(const char *folder, const char *name, size_t limit, const bl_alloc *alloc, char **text,
                                size_t *length, bitlm_error *error) {
    char path[PATH_MAX], shown[160];
    bl_mapping m = {0};
    *text = NULL;
    *length = 0;
    bitlm_status status = join(folder, name, path, error);
    if (status)
        return status;
    if (access(path, F_OK) != 0 && errno == ENOENT)
        return BITLM_OK;
    status = bl_mapping_open(path, strlen(path), BITLM_LOAD_MMAP, alloc, NULL, &m, error);
    if (status)
        return status;
    if (m.size > limit) {
        status = bl_error(error, BITLM_LIMIT, "'%s' has %zu bytes, more than the limit of %zu",
                          bl_show(shown, sizeof shown, path, strlen(path)), m.size, limit);
    } else if (!(*text = bl_malloc(alloc, m.size + 1))) {
        status = bl_error_nomem(error, m.size + 1, "a file of the model's folder");
    } else {
        memcpy(*text, m.data, m.size);
        (*text)[m.size] = '\0';
        *length = m.size;
    }
    bl_mapping_close(&m);
    return status;
}

/* A shard's name stays inside the folder: one path component, no hidden file. */
static int plain_name(const char *name) {
    size_t n = strlen(name), suffix = strlen(".safetensors");
    return n > suffix && n < 256 && name[0] != '.' && !strchr(name, '/') && !strchr(name, '\\') &&
           strcmp(name + n - suffix, ".safetensors") == 0;
}

static bitlm_status add_shard(bl_safetensors *st, const char *folder, const char *name, bitlm_error *error) {
    char path[PATH_MAX], shown[80];
    bitlm_error inner = {.size = sizeof inner};
    bitlm_status status = join(folder, name, path, error);
    if (!status)
        status = bl_mapping_open(path, strlen(path), BITLM_LOAD_MMAP, &st->alloc, NULL, &st->shards[st->n_shards], error);
    if (status)
        return status;
    const bl_mapping *m = &st->shards[st->n_shards];
    status = read_file(st, m->data, m->size, st->n_shards++, &inner);
    return status ? bl_error(error, status, "%s: %s", bl_show(shown, sizeof shown, name, strlen(name)), inner.text)
                  : BITLM_OK;
}

static int name_order(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Each tensor of the map must lie in the shard it names, and no other may be there. */
static bitlm_status check_map(const bl_safetensors *st, json_t *map, const char *const *names, bitlm_error *error) {
    const char *name;
    char shown[80];
    json_t *value;
    json_object_foreach(map, name, value) {
        const bl_st_tensor *t = bl_safetensors_find(st, name);
        if (!t || strcmp(names[t->shard], json_string_value(value)) != 0)
            return bl_error(error, BITLM_FORMAT, "the index says tensor '%s' is in %.80s, but it is not",
                            bl_show(shown, sizeof shown, name, strlen(name)), json_string_value(value));
    }
    for (uint64_t i = 0; i < st->n; i++)
        if (!json_object_get(map, st->tensors[i].name))
            return bl_error(error, BITLM_FORMAT, "tensor '%s' is in %.80s, but the index does not name it",
                            bl_show(shown, sizeof shown, st->tensors[i].name, strlen(st->tensors[i].name)),
                            names[st->tensors[i].shard]);
    return BITLM_OK;
}

static bitlm_status open_shards(bl_safetensors *st, const char *folder, const char *text, size_t length,
                                bitlm_error *error) {
    static const char index_name[] = "model.safetensors.index.json";
    json_error_t why;
    const char **names = NULL, *name;
    char shown[80];
    size_t n = 0, unique = 0;
    bitlm_status status = BITLM_OK;
    json_t *value, *root = json_loadb(text, length, JSON_REJECT_DUPLICATES, &why);
    json_t *map = json_object_get(root, "weight_map");
    if (!json_is_object(map) || json_object_size(map) == 0 || json_object_size(map) > BL_ST_MAX_TENSORS) {
        status = bl_error(error, BITLM_FORMAT, "%s holds no weight_map of 1 to %d tensors%s%.100s", index_name,
                          BL_ST_MAX_TENSORS, root ? "" : ": ", root ? "" : why.text);
        goto fail;
    }
    names = bl_calloc(&st->alloc, json_object_size(map), sizeof *names);
    if (!names) {
        status = bl_error_nomem(error, json_object_size(map) * sizeof *names, "the list of shards");
        goto fail;
    }
    json_object_foreach(map, name, value) {
        if (!json_is_string(value) || !plain_name(json_string_value(value))) {
            const char *v = json_is_string(value) ? json_string_value(value) : "(no text)";
            status = bl_error(error, BITLM_FORMAT, "%s names the shard '%s', but a shard is a file NAME.safetensors in the "
                              "same folder", index_name, bl_show(shown, sizeof shown, v, strlen(v)));
            goto fail;
        }
        names[n++] = json_string_value(value);
    }
    qsort(names, n, sizeof *names, name_order);
    for (size_t i = 0; i < n; i++)
        if (i == 0 || strcmp(names[i], names[unique - 1]) != 0)
            names[unique++] = names[i];
    if (unique > MAX_SHARDS) {
        status = bl_error(error, BITLM_LIMIT, "%s names %zu shards, more than the limit of %d", index_name, unique,
                          MAX_SHARDS);
        goto fail;
    }
    st->shards = bl_calloc(&st->alloc, unique, sizeof *st->shards);
    if (!st->shards)
        status = bl_error_nomem(error, unique * sizeof *st->shards, "the list of shards");
    for (size_t i = 0; i < unique && !status; i++)
        status = add_shard(st, folder, names[i], error);
    if (!status)
        status = sort_names(st, error);
    if (!status)
        status = check_map(st, map, names, error);

fail:
    bl_free(&st->alloc, names);
    json_decref(root);
    return status;
}

/* Why a folder without safetensors cannot be read. */
static bitlm_status no_weights(const char *folder, bitlm_error *error) {
    static const char *const pickles[] = {"pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth",
                                          "model.pt", "pytorch_model.pt"};
    char path[PATH_MAX], shown[160];
    bl_show(shown, sizeof shown, folder, strlen(folder));
    for (size_t i = 0; i < BL_COUNT(pickles); i++)
        if (!join(folder, pickles[i], path, NULL) && access(path, F_OK) == 0)
            return bl_error(error, BITLM_UNSUPPORTED, "'%s' holds %s, a PyTorch pickle: reading one runs the code inside it, "
                            "so bitlm does not; save the model as safetensors", shown, pickles[i]);
    return bl_error(error, BITLM_IO, "'%s' holds neither model.safetensors nor model.safetensors.index.json", shown);
}

bitlm_status bl_safetensors_open_folder(const char *folder, const bl_alloc *alloc, bl_safetensors **out,
                                        bitlm_error *error) {
    char *text = NULL, path[PATH_MAX];
    size_t length;
    bl_safetensors *st = new_view(alloc, error);
    if (!st)
        return BITLM_NOMEM;
    bitlm_status status =
        bl_read_small_file(folder, "model.safetensors.index.json", MAX_INDEX, alloc, &text, &length, error);
    if (status)
        goto fail;
    if (text) {
        status = open_shards(st, folder, text, length, error);
        goto fail;
    }
    status = join(folder, "model.safetensors", path, error);
    if (!status && access(path, F_OK) != 0)
        status = no_weights(folder, error);
    if (status)
        goto fail;
    st->shards = bl_calloc(alloc, 1, sizeof *st->shards);
    if (!st->shards)
        status = bl_error_nomem(error, sizeof *st->shards, "the list of shards");
    else
        status = add_shard(st, folder, "model.safetensors", error);
    if (!status)
        status = sort_names(st, error);

fail:
    bl_free(alloc, text);
    if (status)
        bl_safetensors_free(st);
    else
        *out = st;
    return status;
}

void bl_safetensors_free(bl_safetensors *st) {
    if (!st)
        return;
    bl_alloc alloc = st->alloc;
    for (uint64_t i = 0; i < st->n; i++)
        bl_free(&alloc, (void *)(uintptr_t)st->tensors[i].name);
    for (uint32_t i = 0; i < st->n_shards; i++)
        bl_mapping_close(&st->shards[i]);
    bl_free(&alloc, st->shards);
    bl_free(&alloc, st->tensors);
    bl_free(&alloc, st);
}

uint64_t bl_safetensors_count(const bl_safetensors *st) { return st->n; }

const bl_st_tensor *bl_safetensors_at(const bl_safetensors *st, uint64_t i) {
    return i < st->n ? &st->tensors[i] : NULL;
}

const bl_st_tensor *bl_safetensors_find(const bl_safetensors *st, const char *name) {
    bl_st_tensor key = {.name = name};
    return st->n ? bsearch(&key, st->tensors, (size_t)st->n, sizeof *st->tensors, by_name) : NULL;
}

void bl_safetensors_drop(const bl_safetensors *st, const bl_st_tensor *t, uint64_t first, uint64_t bytes) {
    if (t->shard >= st->n_shards || !st->shards[t->shard].mapped || bytes == 0)
        return;
    bl_mapping_drop(&st->shards[t->shard], t->data + first, (size_t)bytes);
}
