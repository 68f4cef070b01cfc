/* chunk.c - cuts a long text into overlapping windows of tokens.
 *
 * A chunk's token count is its own: the tokens of the piece of text by itself.  So every
 * candidate is measured by tokenizing it, with a limit just above the wanted size; a search
 * over word ends (interpolating: counts are nearly proportional to bytes) needs a handful of
 * measurements for each cut.  A chunk ends after the last sentence in its second half, else
 * after a word, else (a word longer than a chunk) after a character.  White space belongs to
 * the word before it.  Called by core/run. */
#include "text/chunk.h"

#include <string.h>

#include "base/utf8.h"

#define MAX_SIZE ((size_t)1 << 20) /* tokens */
#define MAX_TEXT ((size_t)1 << 30) /* bytes, as bl_tokenize has it */

typedef struct cutter {
    const bl_tokenizer *t;
    const char *text;
    size_t length;
    bl_poll *poll;
    bl_ids ids;            /* scratch of count() */
    double bytes_per_token; /* of the last measurement */
    size_t gap_start, gap_end; /* no word ends strictly between: a long word is scanned once */
    bitlm_error *error;
} cutter;

/* Tokens of text[start .. end), or *n = limit + 1 where there are more than limit. */
static bitlm_status count(cutter *c, size_t start, size_t end, size_t limit, size_t *n)
{
    bitlm_status status;

    c->ids.n = 0;
    status = bl_tokenize(c->t, c->text + start, end - start, 0, limit, c->poll, &c->ids,
                         c->error);
    if (status == BITLM_LIMIT) {
        bl_error_clear(c->error);
        *n = limit + 1;
        return BITLM_OK;
    }
    *n = c->ids.n;
    if (!status && *n > 4)
        c->bytes_per_token = (double)(end - start) / (double)*n;
    return status;
}

/* ---- boundaries ----------------------------------------------------------------------- */

/* Bytes of a white-space character at p, 0 if there is none. */
static size_t space_at(const char *p, size_t n)
{
    const uint8_t *b = (const uint8_t *)p;

    if (n == 0)
        return 0;
    if (b[0] == ' ' || (b[0] >= 9 && b[0] <= 13))
        return 1;
    if (n >= 2 && b[0] == 0xC2 && (b[1] == 0x85 || b[1] == 0xA0))
        return 2;
    if (n >= 3 && b[0] == 0xE2 && b[1] == 0x80 && (b[2] <= 0x8A || b[2] == 0xA8 || b[2] == 0xA9))
        return 3;
    if (n >= 3 && b[0] == 0xE3 && b[1] == 0x80 && b[2] == 0x80)
        return 3;
    return 0;
}

static int space_before(const char *text, size_t at)
{
    return (at >= 1 && space_at(text + at - 1, 1) == 1) ||
           (at >= 2 && space_at(text + at - 2, 2) == 2) ||
           (at >= 3 && space_at(text + at - 3, 3) == 3);
}

/* A word begins at `at`, or the text ends there. */
static int is_word_end(const cutter *c, size_t at)
{
    return at == c->length ||
           (!space_at(c->text + at, c->length - at) && space_before(c->text, at));
}

/* First word end > at; the text's end is one. */
static bitlm_status word_end_after(cutter *c, size_t at, size_t *end)
{
    size_t i;

    if (at >= c->gap_start && at < c->gap_end) {
        *end = c->gap_end;
        return BITLM_OK;
    }
    for (i = at + 1; i < c->length && !is_word_end(c, i); i++)
        if (i % 65536 == 0 && bl_poll_check(c->poll))
            return bl_poll_error(c->poll, c->error);
    *end = BL_MIN(i, c->length);
    if (*end - at > c->gap_end - c->gap_start || at >= c->gap_end) {
        c->gap_start = at;
        c->gap_end = *end;
    }
    return BITLM_OK;
}

/* First character boundary > at (a boundary). */
static size_t char_after(const cutter *c, size_t at)
{
    size_t used;
    int valid;

    bl_utf8_decode((const uint8_t *)c->text + at, c->length - at, &used, &valid);
    return at + used;
}

/* Bytes of the character that ends before `at`, and the character. */
static size_t char_before(const cutter *c, size_t start, size_t at, uint32_t *cp)
{
    size_t from = bl_utf8_boundary(c->text + start, c->length - start, at - start - 1) + start, used;
    int valid;

    *cp = bl_utf8_decode((const uint8_t *)c->text + from, c->length - from, &used, &valid);
    return at - from;
}

static int is_closing(uint32_t c)
{
    return c == '"' || c == '\'' || c == ')' || c == ']' || c == '}' || c == 0xBB || c == 0x2019 ||
           c == 0x201D || c == 0x203A || c == 0x300D || c == 0x300F || c == 0x3011 || c == 0xFF09;
}

/* Is the word end (or CJK position) `at` the end of a sentence? */
static int is_sentence_end(const cutter *c, size_t start, size_t at)
{
    int newlines = 0, spaces = 0, steps = 0;
    uint32_t cp;

    while (at > start && space_before(c->text, at) && steps++ < 64) {
        size_t n = char_before(c, start, at, &cp);
        newlines += cp == '\n' || cp == 0x2029;
        spaces++;
        at -= n;
    }
    if (newlines >= 2)
        return 1; /* a paragraph */
    for (steps = 0; at > start && steps < 8; steps++) {
        size_t n = char_before(c, start, at, &cp);
        if (cp == 0x3002 || cp == 0xFF01 || cp == 0xFF1F || cp == 0xFF61)
            return 1; /* ideographic full stops need no space after them */
        if (cp == '.' || cp == '!' || cp == '?' || cp == 0x2026 || cp == 0x061F || cp == 0x06D4 ||
            cp == 0x0964)
            return spaces > 0;
        if (!is_closing(cp))
            return 0;
        at -= n;
    }
    return 0;
}

/* The last boundary (of words or of characters) at or before `at`, else the first after it,
 * strictly between low and high; low if there is none. */
static bitlm_status snap(cutter *c, size_t low, size_t high, size_t at, int words, size_t *to)
{
    size_t i, end;
    bitlm_status status;

    *to = low;
    if (high - low < 2)
        return BITLM_OK;
    at = BL_MAX(BL_MIN(at, high - 1), low + 1);
    if (!words) {
        i = bl_utf8_boundary(c->text + low, c->length - low, at - low) + low;
        if (i <= low)
            i = char_after(c, low);
        if (i < high)
            *to = i;
        return BITLM_OK;
    }
    for (i = at; i > low; i--) {
        if (i > c->gap_start && i < c->gap_end)
            i = BL_MAX(c->gap_start, low);
        if (i <= low)
            break;
        if (is_word_end(c, i)) {
            *to = i;
            return BITLM_OK;
        }
        if (i % 65536 == 0 && bl_poll_check(c->poll))
            return bl_poll_error(c->poll, c->error);
    }
    if ((status = word_end_after(c, at, &end)))
        return status;
    if (end < high)
        *to = end;
    return BITLM_OK;
}

/* ---- searching a cut -------------------------------------------------------------------- */

/* The last boundary e in [low, high] with at most `size` tokens in [start, e).  low is
 * known to fit with n_low tokens; high is a boundary that may or may not. */
static bitlm_status last_fitting(cutter *c, size_t start, size_t low, size_t n_low, size_t high,
                                 size_t size, int words, size_t *cut, size_t *n_cut)
{
    bitlm_status status;
    size_t n, at;
    int steps = 0, fits_up_to_high = 0;

    /* Look no further than the size could possibly reach, doubling while all fits. */
    for (;;) {
        double reach = ((double)size * 1.05 + 8) * c->bytes_per_token * (double)(1 + steps);
        at = reach < (double)(high - start) ? start + (size_t)reach : high;
        if (at <= low)
            at = low + 1;
        if (at >= high)
            at = high;
        else if ((status = snap(c, low, high, at, words, &at)))
            return status;
        if (at <= low)
            at = high;
        if ((status = count(c, start, at, size, &n)))
            return status;
        if (n > size) {
            high = at;
            break;
        }
        low = at;
        n_low = n;
        if (at == high) {
            fits_up_to_high = 1;
            break;
        }
        steps = 2 * steps + 1;
    }
    for (steps = 0; !fits_up_to_high && high - low > 1; steps++) {
        double guess = (double)(size - n_low) * c->bytes_per_token;
        size_t middle = low + (high - low) / 2;

        at = steps < 4 && guess < (double)(high - low) ? low + (size_t)guess : middle;
        if ((status = snap(c, low, high, at, words, &at)))
            return status;
        if (at == low)
            break;
        if ((status = count(c, start, at, size, &n)))
            return status;
        if (n > size) {
            high = at;
        } else {
            low = at;
            n_low = n;
        }
    }
    *cut = low;
    *n_cut = n_low;
    return BITLM_OK;
}

/* The first boundary s in (low, end] such that [s, end) has at most `size` tokens. */
static bitlm_status first_fitting(cutter *c, size_t low, size_t end, size_t stop, size_t size,
                                  int words, size_t *start)
{
    double reach = (double)size * c->bytes_per_token;
    size_t high = stop, at, n;
    bitlm_status status;
    int steps;

    for (steps = 0; high - low > 1; steps++) {
        size_t middle = low + (high - low) / 2;

        if (steps < 4 && reach < (double)(end - low))
            at = BL_MAX(end - (size_t)reach, low + 1);
        else
            at = middle;
        if ((status = snap(c, low, high, at, words, &at)))
            return status;
        if (at == low)
            break;
        if ((status = count(c, at, end, size, &n)))
            return status;
        if (n > size) {
            low = at;
            reach *= 0.9;
        } else {
            high = at;
            reach *= 1.1;
        }
    }
    *start = high;
    return BITLM_OK;
}

/* ---- the loop ------------------------------------------------------------------------------ */

/* The end of the chunk that begins at start; it must lie past `past`. */
static bitlm_status choose_end(cutter *c, size_t start, size_t past, size_t size, size_t *cut,
                               size_t *n_cut)
{
    size_t word, n, end, n_end, at;
    bitlm_status status;

    if ((status = word_end_after(c, past, &word)) || (status = count(c, start, word, size, &n)))
        return status;
    if (n > size) { /* not even a word: cut inside it */
        size_t next = char_after(c, past);

        if ((status = count(c, start, next, size, &n)))
            return status;
        if (n > size)
            return bl_error(c->error, BITLM_LIMIT,
                            "the character at byte %zu alone has more tokens than a chunk may: %zu",
                            past, size);
        return last_fitting(c, start, next, n, word, size, 0, cut, n_cut);
    }
    if (word == c->length) {
        *cut = word;
        *n_cut = n;
        return BITLM_OK;
    }
    if ((status = last_fitting(c, start, word, n, c->length, size, 1, &end, &n_end)))
        return status;
    if (end < c->length) {
        size_t floor = BL_MAX(past, start + (end - start) / 2);

        for (at = end; at > floor; at = bl_utf8_boundary(c->text + start, c->length - start,
                                                         at - start - 1) + start) {
            if ((end - at) % 65536 == 65535 && bl_poll_check(c->poll))
                return bl_poll_error(c->poll, c->error);
            if (!is_sentence_end(c, start, at) || space_at(c->text + at, c->length - at))
                continue;
            if ((status = count(c, start, at, size, &n)))
                return status;
            if (n <= size) {
                end = at;
                n_end = n;
            }
            break;
        }
    }
    *cut = end;
    *n_cut = n_end;
    return BITLM_OK;
}

/* Where the next chunk begins: about `overlap` tokens before `end`, but late enough for the
 * next word to fit. */
static bitlm_status choose_start(cutter *c, size_t start, size_t end, size_t size, size_t overlap,
                                 size_t *next)
{
    size_t word, n, s = end;
    bitlm_status status;

    if (overlap) {
        if ((status = first_fitting(c, start, end, end, overlap, 1, &s)))
            return status;
        /* No word begins there: one long word, or a script without spaces. */
        if (s == end && (status = first_fitting(c, start, end, end, overlap, 0, &s)))
            return status;
    }
    if (s < end) {
        if ((status = word_end_after(c, end, &word)) || (status = count(c, s, word, size, &n)))
            return status;
        if (n > size) {
            size_t later = end;

            if ((status = first_fitting(c, s, word, end, size, 1, &later)))
                return status;
            if ((status = count(c, later, word, size, &n)))
                return status;
            if (n <= size) {
                s = later;
            } else { /* the next word is longer than a chunk: room for a character is enough */
                size_t one = char_after(c, end);

                if ((status = count(c, s, one, size, &n)))
                    return status;
                if (n > size)
                    s = end;
            }
        }
    }
    *next = s;
    return BITLM_OK;
}

static bitlm_status append(const bl_alloc *alloc, bitlm_chunk **chunks, size_t *n, size_t *capacity,
                           const bitlm_chunk *chunk, bitlm_error *error)
{
    if (*n == *capacity) {
        size_t wanted = *capacity ? *capacity * 2 : 16, bytes;
        void *grown = NULL;

        if (bl_mul_size(wanted, sizeof(**chunks), &bytes))
            grown = bl_regrow(alloc, *chunks, *n * sizeof(**chunks), bytes);
        if (!grown)
            return bl_error_nomem(error, wanted * sizeof(**chunks), "a list of chunks");
        *chunks = grown;
        *capacity = wanted;
    }
    (*chunks)[(*n)++] = *chunk;
    return BITLM_OK;
}

bitlm_status bl_chunk_text(const bl_tokenizer *t, const char *text, size_t length, size_t size,
                           size_t overlap, const bl_alloc *alloc, bl_poll *poll,
                           bitlm_chunk **chunks, size_t *n_chunks, bitlm_error *error)
{
    bitlm_chunk *list = NULL, chunk;
    size_t n = 0, capacity = 0, past = 0, next;
    bitlm_status status;
    cutter c;

    if (size < 1 || size > MAX_SIZE)
        return bl_error(error, BITLM_ARG, "size is %zu tokens, but must be 1 to %zu", size,
                        MAX_SIZE);
    if (overlap >= size)
        return bl_error(error, BITLM_ARG, "overlap is %zu tokens, but must be less than size, %zu",
                        overlap, size);
    if (bl_tokenizer_kind(t) == BL_TOKENIZER_NONE)
        return bl_error(error, BITLM_UNSUPPORTED,
                        "this model's tokenizer is not supported: it takes token ids, not text");
    if (length > MAX_TEXT)
        return bl_error(error, BITLM_LIMIT, "the text has %zu bytes, but at most %zu are possible",
                        length, MAX_TEXT);
    memset(&c, 0, sizeof(c));
    c.t = t;
    c.text = text;
    c.length = length;
    c.poll = poll;
    c.ids.alloc = alloc;
    c.bytes_per_token = 4;
    c.error = error;
    memset(&chunk, 0, sizeof(chunk));
    if (length == 0) {
        status = append(alloc, &list, &n, &capacity, &chunk, error);
        if (status)
            goto fail;
    }
    while (past < length) {
        size_t end;

        if (bl_poll_check(poll)) {
            status = bl_poll_error(poll, error);
            goto fail;
        }
        if ((status = choose_end(&c, chunk.byte_start, past, size, &end, &chunk.n_tokens)))
            goto fail;
        chunk.byte_length = end - chunk.byte_start;
        chunk.char_length = bl_utf8_count(text + chunk.byte_start, chunk.byte_length);
        if ((status = append(alloc, &list, &n, &capacity, &chunk, error)))
            goto fail;
        past = end;
        if (past < length) {
            if ((status = choose_start(&c, chunk.byte_start, end, size, overlap, &next)))
                goto fail;
            chunk.char_start += bl_utf8_count(text + chunk.byte_start, next - chunk.byte_start);
            chunk.byte_start = next;
        }
    }
    bl_ids_free(&c.ids);
    *chunks = list;
    *n_chunks = n;
    return BITLM_OK;
fail:
    bl_ids_free(&c.ids);
    bl_free(alloc, list);
    return status;
}
