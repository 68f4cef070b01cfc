/* utf8.c - UTF-8 decoding with maximal bad parts, counting, boundaries.
 *
 * The second byte's range depends on the first (no overlong forms, no surrogates, nothing
 * past U+10FFFF); the others are plain continuation bytes.  Called by core/text and by
 * whoever takes text from a host. */
#include "base/utf8.h"

#include <string.h>

uint32_t bl_utf8_decode(const uint8_t *p, size_t n, size_t *used, int *valid)
{
    uint32_t b0 = p[0], c, low = 0x80, high = 0xBF;
    size_t need, i;

    *valid = 1;
    *used = 1;
    if (b0 < 0x80)
        return b0;
    if (b0 >= 0xC2 && b0 <= 0xDF) {
        need = 1;
        c = b0 & 0x1F;
    } else if (b0 >= 0xE0 && b0 <= 0xEF) {
        need = 2;
        c = b0 & 0x0F;
        if (b0 == 0xE0)
            low = 0xA0;
        else if (b0 == 0xED)
            high = 0x9F;
    } else if (b0 >= 0xF0 && b0 <= 0xF4) {
        need = 3;
        c = b0 & 0x07;
        if (b0 == 0xF0)
            low = 0x90;
        else if (b0 == 0xF4)
            high = 0x8F;
    } else {
        *valid = 0;
        return BL_UTF8_BAD;
    }
    for (i = 1; i <= need; i++) {
        if (i >= n || p[i] < low || p[i] > high) {
            *used = i;
            *valid = 0;
            return BL_UTF8_BAD;
        }
        c = c << 6 | (p[i] & 0x3Fu);
        low = 0x80;
        high = 0xBF;
    }
    *used = need + 1;
    return c;
}

size_t bl_utf8_encode(uint32_t c, uint8_t out[4])
{
    if (c < 0x80) {
        out[0] = (uint8_t)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (uint8_t)(0xC0 | c >> 6);
        out[1] = (uint8_t)(0x80 | (c & 0x3F));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (uint8_t)(0xE0 | c >> 12);
        out[1] = (uint8_t)(0x80 | (c >> 6 & 0x3F));
        out[2] = (uint8_t)(0x80 | (c & 0x3F));
        return 3;
    }
    out[0] = (uint8_t)(0xF0 | c >> 18);
    out[1] = (uint8_t)(0x80 | (c >> 12 & 0x3F));
    out[2] = (uint8_t)(0x80 | (c >> 6 & 0x3F));
    out[3] = (uint8_t)(0x80 | (c & 0x3F));
    return 4;
}

/* Bytes of pure ASCII at the start, eight at a time. */
static size_t ascii_run(const uint8_t *p, size_t n)
{
    size_t i = 0;

    for (; n - i >= 8; i += 8) {
        uint64_t word;
        memcpy(&word, p + i, 8);
        if (word & UINT64_C(0x8080808080808080))
            break;
    }
    while (i < n && p[i] < 0x80)
        i++;
    return i;
}

int bl_utf8_valid(const char *text, size_t length)
{
    const uint8_t *p = (const uint8_t *)text;
    size_t i = 0, used;
    int valid;

    while (i < length) {
        i += ascii_run(p + i, length - i);
        if (i == length)
            break;
        bl_utf8_decode(p + i, length - i, &used, &valid);
        if (!valid)
            return 0;
        i += used;
    }
    return 1;
}

size_t bl_utf8_count(const char *text, size_t length)
{
    const uint8_t *p = (const uint8_t *)text;
    size_t i = 0, n = 0, used;
    int valid;

    while (i < length) {
        size_t run = ascii_run(p + i, length - i);
        i += run;
        n += run;
        if (i == length)
            break;
        bl_utf8_decode(p + i, length - i, &used, &valid);
        i += used;
        n++;
    }
    return n;
}

size_t bl_utf8_boundary(const char *text, size_t length, size_t offset)
{
    const uint8_t *p = (const uint8_t *)text;
    size_t back, used;
    int valid;

    if (offset >= length)
        return length;
    for (back = 0; back <= 3 && back <= offset; back++) {
        size_t start = offset - back;
        if (p[start] < 0x80 || p[start] >= 0xC0) {
            bl_utf8_decode(p + start, length - start, &used, &valid);
            /* Bytes past this character are stray continuations, each a part of its own. */
            return start + used > offset ? start : offset;
        }
    }
    return offset;
}
