/* piece_index.c - the vocabulary's texts in byte order, for exact and longest-prefix search.
 *
 * Binary search over the first eight bytes as one integer, then over the rest.  Each entry
 * knows the longest other entry that is a prefix of it, so the longest prefix of a text is
 * its predecessor in byte order or one of that entry's ancestors.  Called by tokenizer.c,
 * spm_bpe.c, wordpiece.c. */
#include <string.h>

#include "text/tokenizer_private.h"

static uint64_t key_of(const uint8_t *text, size_t length)
{
    uint64_t key = 0;
    size_t i;

    if (length >= 8) {
        for (i = 0; i < 8; i++)
            key = key << 8 | text[i];
        return key;
    }
    for (i = 0; i < length; i++)
        key |= (uint64_t)text[i] << (56 - 8 * i);
    return key;
}

/* Byte order of entry e and a text: < 0, 0, > 0. */
static int compare(const uint8_t *texts, const bl_piece_entry *e, uint64_t key, const uint8_t *text,
                   size_t length)
{
    size_t common = BL_MIN((size_t)e->length, length);
    int order;

    if (e->key != key)
        return e->key < key ? -1 : 1;
    if (common > 8 && (order = memcmp(texts + e->at + 8, text + 8, common - 8)) != 0)
        return order;
    /* Equal keys may hide NULs against the zero filling: lengths decide, as they must. */
    return e->length < length ? -1 : e->length > length;
}

static int in_order(const uint8_t *texts, const bl_piece_entry *a, const bl_piece_entry *b)
{
    return compare(texts, a, b->key, texts + b->at, b->length) <= 0;
}

static void merge_sort(const uint8_t *texts, bl_piece_entry *a, bl_piece_entry *tmp, size_t n)
{
    size_t width, at;

    for (width = 1; width < n; width *= 2) {
        for (at = 0; at + width < n; at += 2 * width) {
            size_t middle = at + width, end = BL_MIN(middle + width, n);
            size_t i = at, j = middle, k = at;

            if (in_order(texts, &a[middle - 1], &a[middle]))
                continue;
            while (i < middle && j < end)
                tmp[k++] = in_order(texts, &a[i], &a[j]) ? a[i++] : a[j++];
            while (i < middle)
                tmp[k++] = a[i++];
            memcpy(a + at, tmp + at, (k - at) * sizeof(*a));
        }
    }
}

bitlm_status bl_piece_index_build(bl_piece_index *index, const bl_alloc *alloc,
                                  bitlm_error *error)
{
    const uint8_t *texts = index->texts;
    bl_piece_entry *e = index->entries, *tmp;
    size_t i, n = 0;
    unsigned b = 0;

    memset(index->first, 0, sizeof(index->first));
    if (index->n == 0)
        return BITLM_OK;
    tmp = bl_malloc(alloc, index->n * sizeof(*tmp));
    if (!tmp)
        return bl_error_nomem(error, index->n * sizeof(*tmp), "sorting the vocabulary");
    for (i = 0; i < index->n; i++)
        e[i].key = key_of(texts + e[i].at, e[i].length);
    merge_sort(texts, e, tmp, index->n); /* stable: equal texts keep the order of their ids */
    bl_free(alloc, tmp);
    for (i = 0; i < index->n; i++) {
        if (n && in_order(texts, &e[i], &e[n - 1])) /* and not before it: equal */
            continue;
        e[n++] = e[i];
    }
    index->n = n;
    for (i = 0; i < n; i++) {
        int32_t p = (int32_t)i - 1;

        while (p >= 0 && (e[p].length > e[i].length || memcmp(texts + e[p].at, texts + e[i].at, e[p].length)))
            p = e[p].parent;
        e[i].parent = p;
        index->max_length = BL_MAX(index->max_length, (size_t)e[i].length);
        while (b <= texts[e[i].at])
            index->first[b++] = (uint32_t)i;
    }
    while (b <= 256)
        index->first[b++] = (uint32_t)n;
    return BITLM_OK;
}

/* Number of entries that are <= text in byte order. */
static size_t upper_bound(const bl_piece_index *index, const uint8_t *text, size_t length)
{
    uint64_t key = key_of(text, length);
    size_t low = index->first[text[0]], high = index->first[text[0] + 1u];

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (compare(index->texts, &index->entries[middle], key, text, length) <= 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

int64_t bl_piece_index_find(const bl_piece_index *index, const uint8_t *text, size_t length)
{
    size_t at;

    if (length == 0 || length > index->max_length)
        return -1;
    at = upper_bound(index, text, length);
    if (at == 0 || index->entries[at - 1].length != length ||
        memcmp(bl_piece_text(index, (int64_t)at - 1), text, length))
        return -1;
    return (int64_t)at - 1;
}

int64_t bl_piece_index_prefix(const bl_piece_index *index, const uint8_t *text, size_t length)
{
    const uint8_t *piece;
    size_t common, most;
    int64_t i;

    if (length == 0 || index->n == 0 || index->first[text[0]] == index->first[text[0] + 1u])
        return -1;
    length = BL_MIN(length, index->max_length);
    i = (int64_t)upper_bound(index, text, length) - 1;
    if (i < (int64_t)index->first[text[0]])
        return -1;
    piece = bl_piece_text(index, i);
    most = BL_MIN((size_t)index->entries[i].length, length);
    for (common = 0; common < most && piece[common] == text[common]; common++)
        ;
    /* An ancestor is a prefix of this piece: it is one of the text too if it fits in what is common. */
    while (i >= 0 && index->entries[i].length > common)
        i = index->entries[i].parent;
    return i;
}
