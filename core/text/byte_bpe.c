/* byte_bpe.c - byte-level BPE (tokenizer.ggml.model "gpt2").
 *
 * The text is cut into words (pretokenizers.c); a word begins as its bytes, a token each, and
 * over and over the adjacent pair whose merge has the lowest rank (the leftmost of equal
 * ones) becomes one token.  A byte without a token is dropped before, as PyPI's
 * `tokenizers` does it.  Short words are merged in place, long ones with a heap: n log n.
 * Words repeat, so a small cache of them, made anew for each call, does most of the work.
 *
 * Merges lie sorted by their two tokens, not hashed: a hostile vocabulary cannot make
 * look-ups collide.  Called by tokenizer.c. */
#include <string.h>

#include "base/utf8.h"
#include "text/tokenizer_private.h"

#define NO_SYMBOL UINT32_MAX
#define NO_RANK UINT32_MAX
#define POLL_EVERY 4096 /* symbols, merges or words between polls */
#define SHORT 48        /* bytes of a word that is merged in place */
#define CACHED_BYTES 16
#define CACHED_IDS 5
#define MAX_CACHE 4096  /* entries */

typedef struct cached {
    uint64_t key[2];
    uint8_t length, n; /* length 0: free */
    int32_t ids[CACHED_IDS];
} cached;

typedef struct symbol {
    int32_t id; /* -1: merged into its left neighbour */
    uint32_t prev, next;
} symbol;

typedef struct candidate {
    uint32_t rank, left;
    int32_t left_id, right_id, id; /* stale when the two are no longer these */
} candidate;

/* One call; the buffers grow and are used again. */
typedef struct pass {
    const bl_tokenizer *t;
    bl_sink *sink;
    int ignore_merges;
    cached *cache;
    uint32_t cache_mask;
    uint8_t *spelled;
    size_t cap_spelled;
    symbol *symbols;
    size_t cap_symbols;
    candidate *heap;
    size_t n_heap, cap_heap;
    uint32_t steps;
} pass;

/* ---- bytes as printable characters ------------------------------------------------------ */

/* The character that stands for a byte: itself where Latin-1 prints it, the other 68 as
 * U+0100 and up in their order. */
static uint32_t spelling(unsigned byte)
{
    if (byte < 33)
        return 256 + byte;
    if (byte >= 127 && byte <= 160)
        return 256 + 33 + byte - 127;
    return byte == 173 ? 256 + 67 : byte;
}

/* The token of exactly this spelled text, control tokens excepted; or -1. */
static int32_t token_of(const bl_tokenizer *t, const uint8_t *text, size_t length)
{
    int64_t at = bl_piece_index_find(&t->all, text, length);
    int32_t id = at < 0 ? -1 : t->all.entries[at].id;

    return id >= 0 && t->types[id] != BL_TOKEN_CONTROL && t->types[id] != BL_TOKEN_UNKNOWN ? id : -1;
}

/* ---- loading ------------------------------------------------------------------------------- */

typedef struct raw_merge {
    int32_t left;
    bl_merge merge;
} raw_merge;

/* Stable counting sort by left or by right token; `count` has n_tokens + 1 zeroes. */
static void sort_by(const raw_merge *in, raw_merge *out, size_t n, int by_left, uint32_t *count,
                    int32_t n_tokens)
{
    uint32_t sum = 0, here;
    int32_t id;
    size_t i;

    memset(count, 0, ((size_t)n_tokens + 1) * sizeof(*count));
    for (i = 0; i < n; i++)
        count[by_left ? in[i].left : in[i].merge.right]++;
    for (id = 0; id <= n_tokens; id++) {
        here = count[id];
        count[id] = sum;
        sum += here;
    }
    for (i = 0; i < n; i++)
        out[count[by_left ? in[i].left : in[i].merge.right]++] = in[i];
}

/* "left right" as a merge; 1, 0 where one of the three is no token (it can never apply), or
 * -1 where there are no two parts. */
static int read_merge(const bl_tokenizer *t, bitlm_text text, uint8_t *joined, raw_merge *m)
{
    const uint8_t *p = (const uint8_t *)text.data, *space;
    size_t left, right;

    space = text.length > 2 ? memchr(p + 1, ' ', text.length - 1) : NULL;
    if (!space || space == p + text.length - 1)
        return -1;
    left = (size_t)(space - p);
    right = text.length - left - 1;
    if (left + right > t->all.max_length)
        return 0;
    memcpy(joined, p, left);
    memcpy(joined + left, space + 1, right);
    m->left = token_of(t, p, left);
    m->merge.right = token_of(t, space + 1, right);
    m->merge.id = token_of(t, joined, left + right);
    return m->left >= 0 && m->merge.right >= 0 && m->merge.id >= 0;
}

bitlm_status bl_bpe_load(bl_tokenizer *t, const bl_gguf *gguf, bitlm_error *error)
{
    const char *key = "tokenizer.ggml.merges";
    uint64_t count = 0, i;
    const bitlm_text *texts = bl_gguf_strings(gguf, key, &count);
    size_t n = 0, kept = 0, size = (size_t)t->n_tokens + 1, bytes;
    raw_merge *raw = NULL, *sorted = NULL;
    uint8_t *joined = NULL;
    bitlm_status status = BITLM_OK;
    int32_t left = 0;
    unsigned byte;

    if (!texts && bl_gguf_has(gguf, key))
        return bl_error(error, BITLM_FORMAT, "%s is not an array of strings", key);
    if (!texts)
        count = 0;
    if (count > INT32_MAX)
        return bl_error(error, BITLM_FORMAT, "%s has %llu entries, but at most %d are possible", key,
                        (unsigned long long)count, INT32_MAX);
    for (byte = 0; byte < 256; byte++) {
        uint8_t text[4];
        t->byte_ids[byte] = token_of(t, text, bl_utf8_encode(spelling(byte), text));
    }
    bytes = ((size_t)count + 1) * sizeof(*raw);
    raw = bl_malloc(&t->alloc, bytes);
    sorted = bl_malloc(&t->alloc, bytes);
    joined = bl_malloc(&t->alloc, t->all.max_length + 1);
    t->merge_first = bl_calloc(&t->alloc, size + 1, sizeof(*t->merge_first));
    if (!raw || !sorted || !joined || !t->merge_first) {
        status = bl_error_nomem(error, bytes, "the vocabulary's merges");
        goto fail;
    }
    for (i = 0; i < count; i++) {
        int made = read_merge(t, texts[i], joined, &raw[n]);
        char shown[40];

        if (made < 0) {
            status = bl_error(error, BITLM_FORMAT,
                              "merge %llu is '%s', but must be two texts with a space between",
                              (unsigned long long)i,
                              bl_show(shown, sizeof(shown), texts[i].data, texts[i].length));
            goto fail;
        }
        raw[n].merge.rank = (uint32_t)i;
        n += made > 0;
    }
    sort_by(raw, sorted, n, 0, t->merge_first, t->n_tokens);
    sort_by(sorted, raw, n, 1, t->merge_first, t->n_tokens);
    t->merges = bl_malloc(&t->alloc, (n + 1) * sizeof(*t->merges));
    if (!t->merges) {
        status = bl_error_nomem(error, (n + 1) * sizeof(*t->merges), "the vocabulary's merges");
        goto fail;
    }
    memset(t->merge_first, 0, size * sizeof(*t->merge_first));
    for (i = 0; i < n; i++) {
        if (i && raw[i].left == raw[i - 1].left && raw[i].merge.right == raw[i - 1].merge.right)
            continue; /* the first of two equal ones counts */
        while (left < raw[i].left)
            t->merge_first[++left] = (uint32_t)kept;
        t->merges[kept++] = raw[i].merge;
    }
    while (left < t->n_tokens)
        t->merge_first[++left] = (uint32_t)kept;
fail:
    bl_free(&t->alloc, joined);
    bl_free(&t->alloc, sorted);
    bl_free(&t->alloc, raw);
    return status;
}

/* ---- merging --------------------------------------------------------------------------------- */

static const bl_merge *find_merge(const bl_tokenizer *t, int32_t left, int32_t right)
{
    uint32_t low = t->merge_first[left], high = t->merge_first[left + 1];

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (t->merges[middle].right < right)
            low = middle + 1;
        else
            high = middle;
    }
    return low < t->merge_first[left + 1] && t->merges[low].right == right ? &t->merges[low] : NULL;
}

static bitlm_status grow(pass *p, void **array, size_t *capacity, size_t need, size_t item)
{
    size_t wanted = *capacity ? *capacity : 256, bytes;
    void *grown;

    while (wanted < need)
        if (!bl_mul_size(wanted, 2, &wanted))
            return bl_error_nomem(p->sink->error, need, "tokenizing a text");
    if (!bl_mul_size(wanted, item, &bytes))
        return bl_error_nomem(p->sink->error, need, "tokenizing a text");
    grown = bl_regrow(p->sink->ids->alloc, *array, *capacity * item, bytes);
    if (!grown)
        return bl_error_nomem(p->sink->error, bytes, "tokenizing a text");
    *array = grown;
    *capacity = wanted;
    return BITLM_OK;
}

/* Merges n <= SHORT tokens in place; returns how many are left. */
static size_t merge_short(const bl_tokenizer *t, int32_t *ids, size_t n)
{
    uint32_t ranks[SHORT];
    int32_t made[SHORT];
    size_t i, best, again;

    for (i = 0; i + 1 < n; i++) {
        const bl_merge *m = find_merge(t, ids[i], ids[i + 1]);
        ranks[i] = m ? m->rank : NO_RANK;
        made[i] = m ? m->id : -1;
    }
    while (n > 1) {
        for (i = best = 0; i + 1 < n; i++)
            if (ranks[i] < ranks[best])
                best = i;
        if (ranks[best] == NO_RANK)
            break;
        ids[best] = made[best];
        n--;
        for (i = best + 1; i < n; i++)
            ids[i] = ids[i + 1];
        for (i = best; i + 1 < n; i++) {
            ranks[i] = ranks[i + 1];
            made[i] = made[i + 1];
        }
        for (again = best ? best - 1 : 0; again <= best && again + 1 < n; again++) {
            const bl_merge *m = find_merge(t, ids[again], ids[again + 1]);
            ranks[again] = m ? m->rank : NO_RANK;
            made[again] = m ? m->id : -1;
        }
    }
    return n;
}

/* Lowest rank first, then the leftmost. */
static int before(const candidate *a, const candidate *b)
{
    return a->rank < b->rank || (a->rank == b->rank && a->left < b->left);
}

static void heap_push(pass *p, candidate c)
{
    size_t i = p->n_heap++;

    while (i > 0 && before(&c, &p->heap[(i - 1) / 2])) {
        p->heap[i] = p->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    p->heap[i] = c;
}

static candidate heap_pop(pass *p)
{
    candidate top = p->heap[0], last = p->heap[--p->n_heap];
    size_t i = 0, child;

    while ((child = 2 * i + 1) < p->n_heap) {
        if (child + 1 < p->n_heap && before(&p->heap[child + 1], &p->heap[child]))
            child++;
        if (!before(&p->heap[child], &last))
            break;
        p->heap[i] = p->heap[child];
        i = child;
    }
    p->heap[i] = last;
    return top;
}

static bitlm_status consider(pass *p, uint32_t left, uint32_t right)
{
    const bl_merge *m;
    candidate c;
    bitlm_status status;

    if (left == NO_SYMBOL || right == NO_SYMBOL)
        return BITLM_OK;
    c.left = left;
    c.left_id = p->symbols[left].id;
    c.right_id = p->symbols[right].id;
    m = find_merge(p->t, c.left_id, c.right_id);
    if (!m)
        return BITLM_OK;
    if (p->n_heap == p->cap_heap &&
        (status = grow(p, (void **)&p->heap, &p->cap_heap, p->n_heap + 1, sizeof(*p->heap))))
        return status;
    c.rank = m->rank;
    c.id = m->id;
    heap_push(p, c);
    return BITLM_OK;
}

/* A word of any length: merges, puts its ids. */
static bitlm_status merge_long(pass *p, const uint8_t *word, size_t length)
{
    const bl_tokenizer *t = p->t;
    size_t i, n = 0, steps = 0, left_over;
    bitlm_status status;

    if (length > p->cap_symbols && (status = grow(p, (void **)&p->symbols, &p->cap_symbols, length,
                                                  sizeof(*p->symbols))))
        return status;
    for (i = 0; i < length; i++) {
        if (t->byte_ids[word[i]] < 0)
            continue;
        p->symbols[n].id = t->byte_ids[word[i]];
        p->symbols[n].prev = n ? (uint32_t)n - 1 : NO_SYMBOL;
        p->symbols[n].next = (uint32_t)n + 1;
        n++;
    }
    if (n == 0)
        return BITLM_OK;
    p->symbols[n - 1].next = NO_SYMBOL;
    /* So many bytes cannot become fewer tokens than this. */
    left_over = p->sink->limit - (p->sink->ids->n - p->sink->start);
    if (p->sink->limit && (n + t->all.max_length - 1) / t->all.max_length > left_over)
        return bl_sink_over(p->sink);
    p->n_heap = 0;
    for (i = 0; i + 1 < n; i++) {
        if (++steps % POLL_EVERY == 0 && (status = bl_sink_poll(p->sink)))
            return status;
        if ((status = consider(p, (uint32_t)i, (uint32_t)i + 1)))
            return status;
    }
    while (p->n_heap) {
        candidate c = heap_pop(p);
        symbol *l = &p->symbols[c.left], *r = l->next == NO_SYMBOL ? NULL : &p->symbols[l->next];

        if (++steps % POLL_EVERY == 0 && (status = bl_sink_poll(p->sink)))
            return status;
        if (!r || l->id != c.left_id || r->id != c.right_id)
            continue;
        l->id = c.id;
        r->id = -1;
        l->next = r->next;
        if (r->next != NO_SYMBOL)
            p->symbols[r->next].prev = c.left;
        if ((status = consider(p, l->prev, c.left)) || (status = consider(p, c.left, l->next)))
            return status;
    }
    for (i = 0; i < n; i++) {
        if (++steps % POLL_EVERY == 0 && (status = bl_sink_poll(p->sink)))
            return status;
        if (p->symbols[i].id >= 0 && (status = bl_sink_put(p->sink, p->symbols[i].id)))
            return status;
    }
    return BITLM_OK;
}

/* ---- words --------------------------------------------------------------------------------- */

/* The token that is this whole word, or -1 in *id. */
static bitlm_status whole_word(pass *p, const uint8_t *word, size_t length, int32_t *id)
{
    size_t longest = p->t->all.max_length, i, n = 0;
    bitlm_status status;

    *id = -1;
    if (length > longest)
        return BITLM_OK;
    if (p->cap_spelled < 2 * length &&
        (status = grow(p, (void **)&p->spelled, &p->cap_spelled, 2 * length, 1)))
        return status;
    for (i = 0; i < length; i++)
        n += bl_utf8_encode(spelling(word[i]), p->spelled + n);
    *id = token_of(p->t, p->spelled, n);
    return BITLM_OK;
}

static bitlm_status put_all(pass *p, const int32_t *ids, size_t n)
{
    bitlm_status status;
    size_t i;

    for (i = 0; i < n; i++)
        if ((status = bl_sink_put(p->sink, ids[i])))
            return status;
    return BITLM_OK;
}

static cached *cache_slot(const pass *p, const uint8_t *word, size_t length, uint64_t key[2])
{
    uint64_t hash;

    key[0] = key[1] = 0;
    memcpy(key, word, length);
    hash = (key[0] ^ (key[1] * UINT64_C(0xC2B2AE3D27D4EB4F)) ^ length) * UINT64_C(0x9E3779B97F4A7C15);
    return &p->cache[(uint32_t)(hash >> 40) & p->cache_mask];
}

static bitlm_status put_word(pass *p, const uint8_t *word, size_t length)
{
    int32_t ids[SHORT];
    cached *slot = NULL;
    uint64_t key[2];
    bitlm_status status;
    size_t n = 0, i;

    if (p->cache && length <= CACHED_BYTES) {
        slot = cache_slot(p, word, length, key);
        if (slot->length == length && slot->key[0] == key[0] && slot->key[1] == key[1])
            return put_all(p, slot->ids, slot->n);
    }
    if (p->ignore_merges) {
        if ((status = whole_word(p, word, length, &ids[0])))
            return status;
        n = ids[0] >= 0;
    }
    if (n == 0) {
        if (length > SHORT)
            return merge_long(p, word, length);
        for (i = 0; i < length; i++)
            if (p->t->byte_ids[word[i]] >= 0)
                ids[n++] = p->t->byte_ids[word[i]];
        n = merge_short(p->t, ids, n);
    }
    if (slot && n <= CACHED_IDS) {
        slot->key[0] = key[0];
        slot->key[1] = key[1];
        slot->length = (uint8_t)length;
        slot->n = (uint8_t)n;
        memcpy(slot->ids, ids, n * sizeof(*ids));
    }
    return put_all(p, ids, n);
}

/* Text without user-defined tokens. */
static bitlm_status put_text(pass *p, const uint8_t *text, size_t length)
{
    const uint8_t *word = NULL;
    uint8_t *made = NULL;
    bl_words words;
    bitlm_status status;
    size_t n = 0;

    if (length == 0)
        return BITLM_OK;
    if ((status = bl_nfc(text, length, bl_pretokenizer_nfc(p->t->pretokenizer), p->sink, &made, &n)))
        return status;
    bl_words_begin(&words, p->t->pretokenizer, made ? made : text, made ? n : length, p->sink->poll);
    while (!status && bl_words_next(&words, &word, &n)) {
        if (++p->steps % POLL_EVERY == 0)
            status = bl_sink_poll(p->sink);
        if (!status)
            status = put_word(p, word, n);
    }
    if (!status && words.stopped)
        status = bl_sink_poll(p->sink);
    bl_free(p->sink->ids->alloc, made);
    return status;
}

bitlm_status bl_bpe_encode(const bl_tokenizer *t, const uint8_t *text, size_t length,
                           bl_sink *sink)
{
    pass p;
    size_t i = 0, start = 0, entries = 16;
    bitlm_status status = BITLM_OK;

    if (length == 0)
        return BITLM_OK;
    memset(&p, 0, sizeof(p));
    p.t = t;
    p.sink = sink;
    p.ignore_merges = bl_pretokenizer_ignore_merges(t->pretokenizer);
    if (length >= 256) { /* less has few words twice */
        while (entries < MAX_CACHE && entries < length / 8)
            entries *= 2;
        p.cache = bl_calloc(sink->ids->alloc, entries, sizeof(*p.cache));
        if (!p.cache)
            return bl_error_nomem(sink->error, entries * sizeof(*p.cache), "tokenizing a text");
        p.cache_mask = (uint32_t)entries - 1;
    }
    /* User-defined tokens are cut out first, the longest that fits, and never merged. */
    while (t->user.n && i < length) {
        int64_t at = bl_piece_index_prefix(&t->user, text + i, length - i);

        if (++p.steps % POLL_EVERY == 0 && (status = bl_sink_poll(sink)))
            goto fail;
        if (at < 0) {
            i++;
            continue;
        }
        if ((status = put_text(&p, text + start, i - start)) ||
            (status = bl_sink_put(sink, t->user.entries[at].id)))
            goto fail;
        i += t->user.entries[at].length;
        start = i;
    }
    status = put_text(&p, text + start, length - start);
fail:
    bl_free(sink->ids->alloc, p.heap);
    bl_free(sink->ids->alloc, p.symbols);
    bl_free(sink->ids->alloc, p.spelled);
    bl_free(sink->ids->alloc, p.cache);
    return status;
}
