/* unicode.h - the frozen Unicode tables: per code point, what the uncased WordPiece
 * pipeline does with it, and the classes by which byte-level BPE splits.
 *
 * The tables are generated (tests/oracle/make_unicode_tables.py, make_split_tables.py) and
 * never follow the system's Unicode version: tokens must stay the same on every machine.  Each lookup is two
 * loads: page of 64 code points, entry in the page.  Called by core/text. */
#ifndef BL_UNICODE_H
#define BL_UNICODE_H

#include "base/base.h"

#define BL_CP_DROP 1u   /* control and format characters, U+0000, U+FFFD: removed */
#define BL_CP_SPACE 2u  /* becomes U+0020 */
#define BL_CP_CJK 4u    /* ideograph: stands by itself */
#define BL_CP_MARK 8u   /* nonspacing mark: stripped after decomposition */
#define BL_CP_PUNCT 16u /* punctuation: stands by itself */

/* By the regex engine behind PyPI's `tokenizers`; the first three exclude each other. */
#define BL_CP_LETTER 1u /* \p{L} */
#define BL_CP_NUMBER 2u /* \p{N} */
#define BL_CP_WHITE 4u  /* \s */
#define BL_CP_P 8u      /* \p{P} */
#define BL_CP_DIGIT 16u /* \p{N} as its Digits pre-tokenizer has it, a Unicode version apart */
#define BL_CP_SECOND 32u /* composes with some character in front of it */

#define BL_UNICODE_PAGES 17408 /* 0x110000 / 64 */

extern const uint8_t bl_unicode_kind_flags[], bl_unicode_kind_class[];
extern const uint8_t bl_unicode_kind_page[], bl_unicode_kind_block[];
extern const uint8_t bl_unicode_nfd_page[], bl_unicode_lower_page[];
extern const uint16_t bl_unicode_nfd_block[], bl_unicode_lower_block[];
extern const uint32_t bl_unicode_pool[]; /* length, then that many code points */
extern const uint16_t bl_unicode_split_page[];
extern const uint8_t bl_unicode_split_block[];
extern const uint32_t bl_unicode_pairs[]; /* first, second, what NFC makes of them; ascending */
extern const uint32_t bl_unicode_n_pairs;

/* Arguments must be code points: below 0x110000. */
static inline uint32_t bl_cp_kind(uint32_t c)
{
    return bl_unicode_kind_block[(uint32_t)bl_unicode_kind_page[c >> 6] * 64 + (c & 63)];
}
static inline uint32_t bl_cp_flags(uint32_t c)
{
    return bl_unicode_kind_flags[bl_cp_kind(c)];
}
/* BL_CP_LETTER to BL_CP_SECOND. */
static inline uint32_t bl_cp_split(uint32_t c)
{
    return bl_unicode_split_block[(uint32_t)bl_unicode_split_page[c >> 6] * 64 + (c & 63)];
}
/* Canonical combining class, 0 for a starter. */
static inline uint32_t bl_cp_class(uint32_t c)
{
    return bl_unicode_kind_class[bl_cp_kind(c)];
}
/* Full canonical decomposition (Hangul syllables excepted: they are arithmetic) or lower
 * case; the result is `c` itself (n = 1) where there is none. */
static inline uint32_t bl_cp_nfd(uint32_t c, const uint32_t **to)
{
    uint32_t at = bl_unicode_nfd_block[(uint32_t)bl_unicode_nfd_page[c >> 6] * 64 + (c & 63)];
    *to = bl_unicode_pool + at + 1;
    return bl_unicode_pool[at];
}
static inline uint32_t bl_cp_lower(uint32_t c, const uint32_t **to)
{
    uint32_t at = bl_unicode_lower_block[(uint32_t)bl_unicode_lower_page[c >> 6] * 64 + (c & 63)];
    *to = bl_unicode_pool + at + 1;
    return bl_unicode_pool[at];
}

#endif
