/* wordpiece.c - WordPiece as in uncased BERT (tokenizer.ggml.model "bert").
 *
 * One pass, a character at a time: drop controls, spaces around ideographs, canonical
 * decomposition with the marks of one base put in canonical order, nonspacing marks
 * stripped, lower case, then words: split at spaces, punctuation by itself.  A word is cut
 * greedily into the longest pieces; if some part has none, the whole word is [UNK], as is a
 * word of more than 100 characters.  Only one word is ever held, so time is linear and
 * memory constant on any input.  Called by tokenizer.c. */
#include <string.h>

#include "base/unicode.h"
#include "base/utf8.h"
#include "text/tokenizer_private.h"

#define MAX_WORD 100  /* characters, after normalisation */
#define MAX_RUN 128   /* > MAX_WORD: a longer run of marks makes its word [UNK] in any order */
#define POLL_EVERY 4096

typedef struct pass {
    const bl_tokenizer *t;
    bl_sink *sink;
    uint8_t word[(MAX_WORD + 1) * 4]; /* UTF-8 of the word's first MAX_WORD characters */
    size_t n_word, n_chars;           /* bytes held; characters there are */
    uint32_t run[MAX_RUN];            /* non-starters after the last starter, class in bits 24.. */
    size_t n_run;                     /* may exceed MAX_RUN: counted, not held */
} pass;

static bitlm_status put_pieces(pass *p, const uint8_t *word, size_t length)
{
    int32_t ids[(MAX_WORD + 1) * 4];
    size_t n = 0, i, at = 0;
    bitlm_status status;

    while (at < length) {
        const bl_piece_index *index = at ? &p->t->continuations : &p->t->pieces;
        int64_t e = bl_piece_index_prefix(index, word + at, length - at);

        if (e < 0)
            return bl_sink_put(p->sink, p->t->unk);
        ids[n++] = index->entries[e].id;
        at += index->entries[e].length;
    }
    for (i = 0; i < n; i++)
        if ((status = bl_sink_put(p->sink, ids[i])))
            return status;
    return BITLM_OK;
}

static bitlm_status end_word(pass *p)
{
    bitlm_status status = BITLM_OK;

    if (p->n_chars > MAX_WORD)
        status = bl_sink_put(p->sink, p->t->unk);
    else if (p->n_chars)
        status = put_pieces(p, p->word, p->n_word);
    p->n_word = p->n_chars = 0;
    return status;
}

static bitlm_status put_char(pass *p, uint32_t c)
{
    const uint32_t *lower;
    uint32_t i, n = bl_cp_lower(c, &lower);
    bitlm_status status;

    if (!n) {
        lower = &c;
        n = 1;
    }
    for (i = 0; i < n; i++) {
        if (lower[i] == ' ') {
            if ((status = end_word(p)))
                return status;
        } else if (bl_cp_flags(lower[i]) & BL_CP_PUNCT) {
            uint8_t mark[4];
            if ((status = end_word(p)) ||
                (status = put_pieces(p, mark, bl_utf8_encode(lower[i], mark))))
                return status;
        } else if (p->n_chars++ < MAX_WORD) {
            p->n_word += bl_utf8_encode(lower[i], p->word + p->n_word);
        }
    }
    return BITLM_OK;
}

static bitlm_status end_run(pass *p)
{
    size_t held = BL_MIN(p->n_run, (size_t)MAX_RUN), i, j;
    bitlm_status status;

    for (i = 1; i < held; i++) { /* stable: marks of one class keep their order */
        uint32_t mark = p->run[i];
        for (j = i; j > 0 && p->run[j - 1] >> 24 > mark >> 24; j--)
            p->run[j] = p->run[j - 1];
        p->run[j] = mark;
    }
    for (i = 0; i < held; i++)
        if ((status = put_char(p, p->run[i] & 0xFFFFFF)))
            return status;
    p->n_chars += p->n_run - held;
    p->n_run = 0;
    return BITLM_OK;
}

/* One character of the decomposed text. */
static bitlm_status put_decomposed(pass *p, uint32_t c)
{
    uint32_t mark_class = bl_cp_class(c);
    bitlm_status status;

    if (mark_class) {
        if (bl_cp_flags(c) & BL_CP_MARK)
            return BITLM_OK; /* stripped; a non-starter holds no other mark back */
        if (p->n_run++ < MAX_RUN)
            p->run[p->n_run - 1] = mark_class << 24 | c;
        return BITLM_OK;
    }
    if (p->n_run && (status = end_run(p)))
        return status;
    return bl_cp_flags(c) & BL_CP_MARK ? BITLM_OK : put_char(p, c);
}

static bitlm_status decompose(pass *p, uint32_t c)
{
    const uint32_t *parts;
    uint32_t i, n;
    bitlm_status status;

    if (c - 0xAC00u < 11172u) { /* Hangul syllable: leading, vowel, trailing Jamo */
        uint32_t s = c - 0xAC00u;
        if ((status = put_decomposed(p, 0x1100 + s / 588)) ||
            (status = put_decomposed(p, 0x1161 + s % 588 / 28)))
            return status;
        return s % 28 ? put_decomposed(p, 0x11A7 + s % 28) : BITLM_OK;
    }
    n = bl_cp_nfd(c, &parts);
    if (!n)
        return put_decomposed(p, c);
    for (i = 0; i < n; i++)
        if ((status = put_decomposed(p, parts[i])))
            return status;
    return BITLM_OK;
}

bitlm_status bl_wordpiece_encode(const bl_tokenizer *t, const uint8_t *text, size_t length,
                                 bl_sink *sink)
{
    pass p;
    size_t i, used, steps = 0;
    bitlm_status status;
    int valid;

    p.t = t;
    p.sink = sink;
    p.n_word = p.n_chars = p.n_run = 0;
    for (i = 0; i < length; i += used) {
        uint32_t c = bl_utf8_decode(text + i, length - i, &used, &valid);
        uint32_t flags = bl_cp_flags(c);

        if (++steps % POLL_EVERY == 0 && (status = bl_sink_poll(sink)))
            return status;
        if (flags & BL_CP_DROP)
            continue;
        if (flags & BL_CP_SPACE) {
            status = put_decomposed(&p, ' ');
        } else if (flags & BL_CP_CJK) {
            status = put_decomposed(&p, ' ');
            if (!status)
                status = decompose(&p, c);
            if (!status)
                status = put_decomposed(&p, ' ');
        } else {
            status = decompose(&p, c);
        }
        if (status)
            return status;
    }
    if ((status = end_run(&p)))
        return status;
    return end_word(&p);
}
