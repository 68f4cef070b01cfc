/* nfc.c - a text made valid and, where a model's own tokenizer does so, put in NFC.
 *
 * Canonical decomposition, marks in canonical order, composition: a starter and its
 * marks at a time, from the frozen tables of unicode.h.  A long run of marks is sorted by
 * counting, so that time stays linear.  Called by byte_bpe.c. */
#include <string.h>

#include "base/unicode.h"
#include "base/utf8.h"
#include "text/tokenizer_private.h"

#define POLL_EVERY 4096
#define FIRST_CHANGE 0xCC /* the first byte of U+0300; below it nothing changes */
#define NO_STARTER UINT32_MAX
#define CLASSES 256

typedef struct pass {
    bl_sink *sink;
    uint8_t *out;
    size_t n_out, cap_out;
    uint32_t starter; /* not yet written, or NO_STARTER */
    uint32_t *marks;  /* after it: code point, class in bits 24.. */
    uint32_t *sorted;
    size_t n_marks, cap_marks, cap_sorted;
} pass;

static bitlm_status grow(pass *p, void **array, size_t *capacity, size_t need, size_t item)
{
    size_t wanted = *capacity ? *capacity : 64, bytes;
    void *grown;

    while (wanted < need)
        if (!bl_mul_size(wanted, 2, &wanted))
            return bl_error_nomem(p->sink->error, need, "normalizing a text");
    if (!bl_mul_size(wanted, item, &bytes))
        return bl_error_nomem(p->sink->error, need, "normalizing a text");
    grown = bl_regrow(p->sink->ids->alloc, *array, *capacity * item, bytes);
    if (!grown)
        return bl_error_nomem(p->sink->error, bytes, "normalizing a text");
    *array = grown;
    *capacity = wanted;
    return BITLM_OK;
}

static bitlm_status write_char(pass *p, uint32_t c)
{
    bitlm_status status;

    if (p->cap_out - p->n_out < 4 &&
        (status = grow(p, (void **)&p->out, &p->cap_out, p->n_out + 4, 1)))
        return status;
    p->n_out += bl_utf8_encode(c, p->out + p->n_out);
    return BITLM_OK;
}

/* What two characters compose to, or 0. */
static uint32_t composed(uint32_t first, uint32_t second)
{
    uint32_t low = 0, high = bl_unicode_n_pairs;

    if (first - 0x1100 < 19 && second - 0x1161 < 21) /* Hangul: L + V, LV + T */
        return 0xAC00 + ((first - 0x1100) * 21 + second - 0x1161) * 28;
    if (first - 0xAC00 < 11172 && (first - 0xAC00) % 28 == 0 && second - 0x11A8 < 27)
        return first + second - 0x11A7;
    if (!(bl_cp_split(second) & BL_CP_SECOND))
        return 0;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const uint32_t *pair = bl_unicode_pairs + 3 * (size_t)middle;

        if (pair[0] == first && pair[1] == second)
            return pair[2];
        if (pair[0] < first || (pair[0] == first && pair[1] < second))
            low = middle + 1;
        else
            high = middle;
    }
    return 0;
}

/* Orders the marks by class, those of one class as they stand. */
static bitlm_status sort_marks(pass *p)
{
    size_t i, j, count[CLASSES + 1] = {0};
    uint32_t *swap;
    bitlm_status status;

    if (p->n_marks <= 16) {
        for (i = 1; i < p->n_marks; i++) {
            uint32_t mark = p->marks[i];
            for (j = i; j > 0 && p->marks[j - 1] >> 24 > mark >> 24; j--)
                p->marks[j] = p->marks[j - 1];
            p->marks[j] = mark;
        }
        return BITLM_OK;
    }
    if (p->cap_sorted < p->cap_marks && (status = grow(p, (void **)&p->sorted, &p->cap_sorted,
                                                       p->cap_marks, sizeof(*p->sorted))))
        return status;
    for (i = 0; i < p->n_marks; i++)
        count[(p->marks[i] >> 24) + 1]++;
    for (i = 1; i <= CLASSES; i++)
        count[i] += count[i - 1];
    for (i = 0; i < p->n_marks; i++)
        p->sorted[count[p->marks[i] >> 24]++] = p->marks[i];
    swap = p->sorted;
    p->sorted = p->marks;
    p->marks = swap;
    i = p->cap_sorted;
    p->cap_sorted = p->cap_marks;
    p->cap_marks = i;
    return BITLM_OK;
}

/* Composes the starter with its marks; those that are left stay. */
static bitlm_status compose_marks(pass *p)
{
    size_t i, kept = 0;
    uint32_t last = 0, whole;
    bitlm_status status = sort_marks(p);

    if (status || p->starter == NO_STARTER)
        return status;
    for (i = 0; i < p->n_marks; i++) {
        uint32_t mark = p->marks[i];

        if (last < mark >> 24 && (whole = composed(p->starter, mark & 0xFFFFFF)) != 0) {
            p->starter = whole;
            continue;
        }
        last = mark >> 24;
        p->marks[kept++] = mark;
    }
    p->n_marks = kept;
    return BITLM_OK;
}

static bitlm_status flush(pass *p)
{
    bitlm_status status = BITLM_OK;
    size_t i;

    if (p->starter != NO_STARTER)
        status = write_char(p, p->starter);
    for (i = 0; i < p->n_marks && !status; i++)
        status = write_char(p, p->marks[i] & 0xFFFFFF);
    p->starter = NO_STARTER;
    p->n_marks = 0;
    return status;
}

/* One character of the decomposed text. */
static bitlm_status put_decomposed(pass *p, uint32_t c)
{
    uint32_t class = bl_cp_class(c), whole;
    bitlm_status status;

    if (class) {
        if (p->n_marks == p->cap_marks && (status = grow(p, (void **)&p->marks, &p->cap_marks,
                                                         p->n_marks + 1, sizeof(*p->marks))))
            return status;
        p->marks[p->n_marks++] = class << 24 | c;
        return BITLM_OK;
    }
    if ((status = compose_marks(p)))
        return status;
    if (p->starter != NO_STARTER && p->n_marks == 0 && (whole = composed(p->starter, c)) != 0) {
        p->starter = whole;
        return BITLM_OK;
    }
    if ((status = flush(p)))
        return status;
    p->starter = c;
    return BITLM_OK;
}

static bitlm_status put_char(pass *p, uint32_t c)
{
    const uint32_t *parts;
    uint32_t n = bl_cp_nfd(c, &parts), i, t;
    bitlm_status status;

    if (c - 0xAC00 < 11172) {
        t = (c - 0xAC00) % 28;
        if ((status = put_decomposed(p, 0x1100 + (c - 0xAC00) / 588)) ||
            (status = put_decomposed(p, 0x1161 + (c - 0xAC00) % 588 / 28)))
            return status;
        return t ? put_decomposed(p, 0x11A7 + t) : BITLM_OK;
    }
    if (!n)
        return put_decomposed(p, c);
    for (i = 0; i < n; i++)
        if ((status = put_decomposed(p, parts[i])))
            return status;
    return BITLM_OK;
}

bitlm_status bl_nfc(const uint8_t *text, size_t length, int compose, bl_sink *sink, uint8_t **out,
                    size_t *n_out)
{
    pass p;
    size_t i, used, steps = 0;
    bitlm_status status = BITLM_OK;

    *out = NULL;
    *n_out = 0;
    for (i = 0; compose && i < length && text[i] < FIRST_CHANGE; i++)
        ;
    if ((!compose || i == length) && bl_utf8_valid((const char *)text, length))
        return BITLM_OK;
    memset(&p, 0, sizeof(p));
    p.sink = sink;
    p.starter = NO_STARTER;
    for (i = 0; i < length && !status; i += used) {
        int valid;
        uint32_t c = bl_utf8_decode(text + i, length - i, &used, &valid);

        if (++steps % POLL_EVERY == 0 && (status = bl_sink_poll(sink)))
            break;
        status = compose ? put_char(&p, c) : write_char(&p, c);
    }
    if (!status && !(status = compose_marks(&p)))
        status = flush(&p);
    bl_free(sink->ids->alloc, p.sorted);
    bl_free(sink->ids->alloc, p.marks);
    if (status) {
        bl_free(sink->ids->alloc, p.out);
        return status;
    }
    *out = p.out;
    *n_out = p.n_out;
    return BITLM_OK;
}
