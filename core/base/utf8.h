/* utf8.h - reading and checking UTF-8 that may be anything.
 *
 * An invalid sequence counts as one U+FFFD for each maximal bad part (Unicode 15, 3.9:
 * the longest prefix of a well-formed sequence, else one byte).  Called by core/text, the
 * adapters and the option parser. */
#ifndef BL_UTF8_H
#define BL_UTF8_H

#include "base/base.h"

#define BL_UTF8_BAD 0xFFFDu

/* Reads one character from p[0 .. n), n >= 1: its bytes (1 .. 4) in *used.  Returns the code
 * point, or BL_UTF8_BAD with *valid = 0 for a bad part (a U+FFFD in the text has *valid = 1). */
uint32_t bl_utf8_decode(const uint8_t *p, size_t n, size_t *used, int *valid);
/* Writes a code point below 0x110000 that is no surrogate; returns the bytes, 1 .. 4. */
size_t bl_utf8_encode(uint32_t c, uint8_t out[4]);
int bl_utf8_valid(const char *text, size_t length);
/* Characters, bad parts counting one each. */
size_t bl_utf8_count(const char *text, size_t length);
/* The last character boundary at or before offset (<= length), as left-to-right reading
 * of the whole text has it; looks back at most 3 bytes. */
size_t bl_utf8_boundary(const char *text, size_t length, size_t offset);

#endif
