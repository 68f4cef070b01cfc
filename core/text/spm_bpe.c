/* spm_bpe.c - SentencePiece's BPE with byte fallback (tokenizer.ggml.model "llama").
 *
 * The text is read with U+0020 as U+2581, one U+2581 in front of it.  User-defined pieces
 * are cut out first (longest match) and never merged.  Then, over and over, the adjacent
 * pair whose concatenation has the best score (the leftmost of equal ones) becomes one symbol.
 * What ends without a piece becomes its bytes.
 *
 * A merge can only cross between two characters that stand side by side inside some piece.
 * So the text falls apart exactly into segments at all other places, each merged by itself
 * with a heap: n log n, and memory only for the longest segment.  Called by tokenizer.c. */
#include <string.h>

#include "base/utf8.h"
#include "text/tokenizer_private.h"

#define NO_SYMBOL UINT32_MAX
#define POLL_EVERY 4096 /* symbols or merges between polls */

typedef struct symbol {
    uint32_t start, length; /* in segment.text; length 0: merged into its left neighbour */
    uint32_t prev, next;
} symbol;

typedef struct candidate {
    float score;
    uint32_t left, right, length; /* stale when the symbols no longer make up that length */
} candidate;

/* One segment; the buffers grow and are used again. */
typedef struct segment {
    const bl_tokenizer *t;
    bl_sink *sink;
    uint8_t *text;
    size_t n_text, cap_text;
    symbol *symbols;
    size_t n_symbols, cap_symbols;
    candidate *heap;
    size_t n_heap, cap_heap;
    int last_unknown; /* the last id put was <unk>: a run of unknown characters is one */
} segment;

static bitlm_status grow(segment *s, void **array, size_t *capacity, size_t need, size_t item)
{
    size_t wanted = *capacity ? *capacity : 256, bytes, old;
    void *grown;

    while (wanted < need)
        if (!bl_mul_size(wanted, 2, &wanted))
            return bl_error_nomem(s->sink->error, need, "tokenizing a text");
    if (!bl_mul_size(wanted, item, &bytes))
        return bl_error_nomem(s->sink->error, need, "tokenizing a text");
    old = *capacity * item;
    grown = bl_regrow(s->sink->ids->alloc, *array, old, bytes);
    if (!grown)
        return bl_error_nomem(s->sink->error, bytes, "tokenizing a text");
    *array = grown;
    *capacity = wanted;
    return BITLM_OK;
}

/* ---- the heap: best score first, then the leftmost ------------------------------------ */

static int better(const candidate *a, const candidate *b)
{
    return a->score > b->score || (a->score == b->score && a->left < b->left);
}

static void heap_push(segment *s, candidate c)
{
    size_t i = s->n_heap++;

    while (i > 0 && better(&c, &s->heap[(i - 1) / 2])) {
        s->heap[i] = s->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    s->heap[i] = c;
}

static candidate heap_pop(segment *s)
{
    candidate top = s->heap[0], last = s->heap[--s->n_heap];
    size_t i = 0, child;

    while ((child = 2 * i + 1) < s->n_heap) {
        if (child + 1 < s->n_heap && better(&s->heap[child + 1], &s->heap[child]))
            child++;
        if (!better(&s->heap[child], &last))
            break;
        s->heap[i] = s->heap[child];
        i = child;
    }
    s->heap[i] = last;
    return top;
}

static bitlm_status consider(segment *s, uint32_t left, uint32_t right)
{
    const symbol *l, *r;
    candidate c;
    int64_t at;
    bitlm_status status;

    if (left == NO_SYMBOL || right == NO_SYMBOL)
        return BITLM_OK;
    l = &s->symbols[left];
    r = &s->symbols[right];
    at = bl_piece_index_find(&s->t->pieces, s->text + l->start, (size_t)l->length + r->length);
    if (at < 0)
        return BITLM_OK;
    if (s->n_heap == s->cap_heap &&
        (status = grow(s, (void **)&s->heap, &s->cap_heap, s->n_heap + 1, sizeof(*s->heap))))
        return status;
    c.score = s->t->scores[s->t->pieces.entries[at].id];
    c.left = left;
    c.right = right;
    c.length = l->length + r->length;
    heap_push(s, c);
    return BITLM_OK;
}

/* ---- output ------------------------------------------------------------------------------ */

static bitlm_status put_symbol(segment *s, const uint8_t *text, size_t length)
{
    const bl_tokenizer *t = s->t;
    int64_t at = bl_piece_index_find(&t->pieces, text, length);
    bitlm_status status;
    size_t i;

    if (at >= 0) {
        s->last_unknown = 0;
        return bl_sink_put(s->sink, t->pieces.entries[at].id);
    }
    for (i = 0; i < length; i++) {
        int32_t id = t->byte_ids[text[i]];

        if (id < 0) {
            if (s->last_unknown)
                continue;
            id = t->unk;
            s->last_unknown = 1;
        } else {
            s->last_unknown = 0;
        }
        if ((status = bl_sink_put(s->sink, id)))
            return status;
    }
    return BITLM_OK;
}

/* Merges the symbols gathered, puts their ids, empties the segment. */
static bitlm_status finish_segment(segment *s)
{
    bitlm_status status;
    size_t i, steps = 0;

    for (i = 0; i + 1 < s->n_symbols; i++) {
        if (i % POLL_EVERY == POLL_EVERY - 1 && (status = bl_sink_poll(s->sink)))
            return status;
        if ((status = consider(s, (uint32_t)i, (uint32_t)i + 1)))
            return status;
    }
    while (s->n_heap) {
        candidate c = heap_pop(s);
        symbol *l = &s->symbols[c.left], *r = &s->symbols[c.right];

        if (++steps % POLL_EVERY == 0 && (status = bl_sink_poll(s->sink)))
            return status;
        if (!l->length || !r->length || l->length + r->length != c.length)
            continue;
        l->length = c.length;
        r->length = 0;
        l->next = r->next;
        if (r->next != NO_SYMBOL)
            s->symbols[r->next].prev = c.left;
        if ((status = consider(s, l->prev, c.left)) || (status = consider(s, c.left, l->next)))
            return status;
    }
    for (i = 0; i < s->n_symbols; i++) {
        if (i % POLL_EVERY == POLL_EVERY - 1 && (status = bl_sink_poll(s->sink)))
            return status;
        if (s->symbols[i].length &&
            (status = put_symbol(s, s->text + s->symbols[i].start, s->symbols[i].length)))
            return status;
    }
    s->n_symbols = s->n_text = 0;
    return BITLM_OK;
}

static bitlm_status add_symbol(segment *s, const uint8_t *text, size_t length)
{
    bitlm_status status;
    symbol *sym;

    if (s->n_symbols == s->cap_symbols &&
        (status = grow(s, (void **)&s->symbols, &s->cap_symbols, s->n_symbols + 1,
                       sizeof(*s->symbols))))
        return status;
    if (s->cap_text - s->n_text < length &&
        (status = grow(s, (void **)&s->text, &s->cap_text, s->n_text + length, 1)))
        return status;
    sym = &s->symbols[s->n_symbols];
    sym->start = (uint32_t)s->n_text;
    sym->length = (uint32_t)length;
    sym->prev = s->n_symbols ? (uint32_t)s->n_symbols - 1 : NO_SYMBOL;
    sym->next = NO_SYMBOL;
    if (s->n_symbols)
        s->symbols[s->n_symbols - 1].next = (uint32_t)s->n_symbols;
    memcpy(s->text + s->n_text, text, length);
    s->n_text += length;
    s->n_symbols++;
    return BITLM_OK;
}

static int may_join(const bl_tokenizer *t, uint32_t a, uint32_t b)
{
    uint32_t bit = bl_pair_hash(a, b) & t->pair_mask;
    return (int)(t->pairs[bit >> 6] >> (bit & 63) & 1);
}

/* A user-defined piece that begins here, in a text whose spaces stand for U+2581; with
 * `prefix` one more stands in front.  *bytes: what it takes of the text. */
static int64_t user_piece(const bl_tokenizer *t, const uint8_t *text, size_t length, int prefix,
                          size_t *bytes)
{
    uint8_t window[BL_MAX_USER_PIECE + 8], begins;
    size_t n = 0, i = 0, most = t->user.max_length;
    int64_t at;

    if (t->user.n == 0)
        return -1;
    begins = prefix || text[0] == ' ' ? (uint8_t)BL_SPACE_MARK[0] : text[0];
    if (t->user.first[begins] == t->user.first[begins + 1u])
        return -1;
    if (prefix) {
        memcpy(window, BL_SPACE_MARK, BL_SPACE_MARK_BYTES);
        n = BL_SPACE_MARK_BYTES;
    }
    while (i < length && n < most) {
        if (text[i] == ' ') {
            memcpy(window + n, BL_SPACE_MARK, BL_SPACE_MARK_BYTES);
            n += BL_SPACE_MARK_BYTES;
        } else {
            window[n++] = text[i];
        }
        i++;
    }
    at = bl_piece_index_prefix(&t->user, window, n);
    if (at < 0)
        return -1;
    n = prefix ? BL_SPACE_MARK_BYTES : 0;
    for (i = 0; n < t->user.entries[at].length; i++)
        n += text[i] == ' ' ? BL_SPACE_MARK_BYTES : 1;
    *bytes = i;
    return at;
}

bitlm_status bl_spm_encode(const bl_tokenizer *t, const uint8_t *text, size_t length, int prefix,
                           bl_sink *sink)
{
    segment s;
    uint32_t last = 0;
    size_t i = 0, steps = 0;
    bitlm_status status = BITLM_OK;

    if (length == 0)
        return BITLM_OK;
    memset(&s, 0, sizeof(s));
    s.t = t;
    s.sink = sink;
    while (i < length || prefix) {
        static const uint8_t bad[3] = {0xEF, 0xBF, 0xBD};
        const uint8_t *out = (const uint8_t *)BL_SPACE_MARK;
        size_t used = 0, n_out = BL_SPACE_MARK_BYTES;
        uint32_t c = 0x2581;
        int64_t user;
        int valid;

        if (++steps % POLL_EVERY == 0 && (status = bl_sink_poll(sink)))
            goto fail;
        if ((user = user_piece(t, text + i, length - i, prefix, &used)) >= 0) {
            prefix = 0;
            if ((status = finish_segment(&s)))
                goto fail;
            s.last_unknown = 0;
            if ((status = bl_sink_put(sink, t->user.entries[user].id)))
                goto fail;
            i += used;
            continue;
        }
        if (prefix) {
            prefix = 0;
        } else {
            c = bl_utf8_decode(text + i, length - i, &used, &valid);
            if (c == ' ') {
                c = 0x2581;
            } else {
                out = valid ? text + i : bad;
                n_out = valid ? used : sizeof(bad);
            }
        }
        if (s.n_symbols && !may_join(t, last, c) && (status = finish_segment(&s)))
            goto fail;
        if ((status = add_symbol(&s, out, n_out)))
            goto fail;
        /* So many characters cannot become fewer tokens than this. */
        if (sink->limit && s.n_symbols > t->max_piece_chars * 2 &&
            s.n_symbols / t->max_piece_chars > sink->limit - (sink->ids->n - sink->start)) {
            status = bl_sink_over(sink);
            goto fail;
        }
        last = c;
        i += used;
    }
    status = finish_segment(&s);
fail:
    bl_free(sink->ids->alloc, s.heap);
    bl_free(sink->ids->alloc, s.symbols);
    bl_free(sink->ids->alloc, s.text);
    return status;
}
