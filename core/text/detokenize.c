/* detokenize.c - ids back to text, a token at a time, always valid UTF-8.
 *
 * A token renders as bytes; the bytes pass through a small machine that lets whole
 * characters out and holds back at most three bytes of one that is not complete.  Only
 * bytes that can no longer become a character come out as U+FFFD.  Called by core/run. */
#include <string.h>

#include "base/utf8.h"
#include "text/token_table.h"
#include "text/tokenizer_private.h"

static const uint8_t replacement[3] = {0xEF, 0xBF, 0xBD};

/* Takes one byte; returns the bytes written to out (at most 3 + 4). */
static size_t feed(bl_detok *state, uint8_t byte, uint8_t *out)
{
    size_t n = 0;

    state->held[state->n_held++] = byte;
    while (state->n_held) {
        size_t used, held = (size_t)state->n_held;
        int valid;

        bl_utf8_decode(state->held, held, &used, &valid);
        if (valid) {
            memcpy(out + n, state->held, used);
            n += used;
        } else if (used == held && state->held[0] >= 0xC2 && state->held[0] <= 0xF4) {
            break; /* more may come */
        } else {
            memcpy(out + n, replacement, sizeof(replacement));
            n += sizeof(replacement);
        }
        state->n_held -= (int32_t)used;
        memmove(state->held, state->held + used, (size_t)state->n_held);
    }
    return n;
}

static size_t feed_all(bl_detok *state, const uint8_t *bytes, size_t length, uint8_t *out)
{
    size_t i, n = 0;

    for (i = 0; i < length; i++)
        n += feed(state, bytes[i], out + n);
    return n;
}

static int is_space_mark(const uint8_t *text, size_t length)
{
    return length >= BL_SPACE_MARK_BYTES && !memcmp(text, BL_SPACE_MARK, BL_SPACE_MARK_BYTES);
}

/* gpt2 vocabularies spell each byte as a printable character: those that print in Latin-1
 * as themselves, the other 68 as U+0100 and up in their order.  -1: not such a character. */
static int spelled_byte(uint32_t c)
{
    uint32_t other, b;

    if ((c >= 33 && c <= 126) || (c >= 161 && c <= 172) || (c >= 174 && c <= 255))
        return (int)c;
    if (c < 256 || c >= 256 + 68)
        return -1;
    other = c - 256;
    for (b = 0; b < 256; b++) {
        if ((b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174)
            continue;
        if (other-- == 0)
            return (int)b;
    }
    return -1;
}

/* The value of <0xXX>. */
static uint8_t spm_byte(const uint8_t *text)
{
    int high = text[3] <= '9' ? text[3] - '0' : text[3] - 'A' + 10;
    int low = text[4] <= '9' ? text[4] - '0' : text[4] - 'A' + 10;

    return (uint8_t)(high * 16 + low);
}

static size_t byte_level(bl_detok *state, const uint8_t *text, size_t length, uint8_t *out)
{
    size_t i, used, n = 0;

    for (i = 0; i < length; i += used) {
        int valid, byte = spelled_byte(bl_utf8_decode(text + i, length - i, &used, &valid));

        if (valid && byte >= 0)
            n += feed(state, (uint8_t)byte, out + n);
        else
            n += feed_all(state, text + i, used, out + n);
    }
    return n;
}

static size_t sentencepiece(const bl_tokenizer *t, bl_detok *state, const uint8_t *text,
                            size_t length, uint8_t *out)
{
    size_t i = 0, n = 0;

    if (!state->started && !state->keep_space && t->add_space_prefix &&
        is_space_mark(text, length))
        i = BL_SPACE_MARK_BYTES;
    while (i < length) {
        if (is_space_mark(text + i, length - i)) {
            n += feed(state, ' ', out + n);
            i += BL_SPACE_MARK_BYTES;
        } else {
            n += feed(state, text[i++], out + n);
        }
    }
    return n;
}

static size_t wordpiece(bl_detok *state, int type, const uint8_t *text, size_t length,
                        uint8_t *out)
{
    size_t n = 0;
    int begins = type != BL_TOKEN_NORMAL;

    if (is_space_mark(text, length) && length > BL_SPACE_MARK_BYTES) {
        begins = 1;
        text += BL_SPACE_MARK_BYTES;
        length -= BL_SPACE_MARK_BYTES;
    }
    /* As PyPI's `tokenizers` decodes: no space in front of these four. */
    if (begins && (state->started || state->keep_space) && length && !memchr(".?!,", text[0], 4))
        n += feed(state, ' ', out);
    return n + feed_all(state, text, length, out + n);
}

size_t bl_detok_next(const bl_tokenizer *t, bl_detok *state, int32_t id, int special, char *out)
{
    uint8_t *to = (uint8_t *)out;
    const uint8_t *text;
    size_t length, n;
    int type;

    if (id < 0 || id >= t->n_tokens)
        return 0; /* a row that pads the embedding */
    type = t->types[id];
    text = bl_token_text(t, id, &length);
    if (type == BL_TOKEN_CONTROL && !special)
        return 0;
    if (t->kind == BL_TOKENIZER_WORDPIECE) {
        n = wordpiece(state, type, text, length, to);
    } else if (type == BL_TOKEN_CONTROL) {
        n = feed_all(state, text, length, to);
        state->started = 0; /* what follows a control token begins with a space of its own */
        return n;
    } else if (t->byte_level) {
        n = type == BL_TOKEN_USER ? feed_all(state, text, length, to)
                                  : byte_level(state, text, length, to);
    } else if (type == BL_TOKEN_BYTE && t->kind == BL_TOKENIZER_SPM) {
        n = feed(state, spm_byte(text), to);
    } else if (type == BL_TOKEN_UNKNOWN) {
        n = feed_all(state, (const uint8_t *)" \xE2\x81\x87 ", 5, to); /* as sentencepiece does */
    } else {
        n = sentencepiece(t, state, text, length, to);
    }
    state->started = 1;
    return n;
}

size_t bl_detok_end(const bl_tokenizer *t, bl_detok *state, char *out)
{
    size_t n = 0;

    (void)t;
    if (state->n_held) { /* the beginning of one character: one bad part */
        memcpy(out, replacement, sizeof(replacement));
        n = sizeof(replacement);
    }
    memset(state, 0, sizeof(*state));
    return n;
}

/* The plain bytes, which need not be whole characters. */
size_t bl_token_bytes(const bl_tokenizer *t, int32_t id, uint8_t *out)
{
    const uint8_t *text;
    size_t length, i, used, n = 0;
    int type;

    if (id < 0 || id >= t->n_tokens || t->kind == BL_TOKENIZER_WORDPIECE)
        return 0;
    type = t->types[id];
    text = bl_token_text(t, id, &length);
    if (type == BL_TOKEN_CONTROL || type == BL_TOKEN_UNKNOWN || type == BL_TOKEN_UNUSED)
        return 0;
    if (t->byte_level && type != BL_TOKEN_USER) {
        for (i = 0; i < length; i += used) {
            int valid, byte = spelled_byte(bl_utf8_decode(text + i, length - i, &used, &valid));

            if (valid && byte >= 0) {
                out[n++] = (uint8_t)byte;
            } else { /* spelled as it is */
                memcpy(out + n, text + i, used);
                n += used;
            }
        }
        return n;
    }
    if (type == BL_TOKEN_BYTE && t->kind == BL_TOKENIZER_SPM) {
        out[0] = spm_byte(text);
        return 1;
    }
    for (i = 0; i < length; i += used) {
        int mark = !t->byte_level && is_space_mark(text + i, length - i);

        used = mark ? BL_SPACE_MARK_BYTES : 1;
        out[n++] = mark ? ' ' : text[i];
    }
    return n;
}

size_t bl_detok_bound(const bl_tokenizer *t, int32_t id)
{
    size_t length;
    const uint8_t *text = bl_token_text(t, id, &length);

    if (!t->byte_level && bl_utf8_valid((const char *)text, length))
        return BL_MAX(length, (size_t)5);
    return BL_MAX(3 * length, (size_t)5); /* each byte may come out as U+FFFD */
}
