#!/usr/bin/env python3
"""make_split_tables.py - writes core/base/unicode_split.c.

What byte-level BPE has to know of a code point: the classes that the split patterns name
(\\p{L}, \\p{N}, \\s, \\p{P}), as the regex engine of PyPI's `tokenizers` answers; what its
Digits pre-tokenizer takes for a digit (another library, another Unicode version); and
the pairs that its NFC composes.  Asked code point by code point, so that no Unicode
database stands between.

    python3 -m venv venv && venv/bin/pip install tokenizers
    venv/bin/python tests/oracle/make_split_tables.py > core/base/unicode_split.c

A changed table changes tokens: raise BITLM_NUMERICS with it.
"""
from make_unicode_tables import BLOCK, code_points, emit, pages, tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers

LETTER, NUMBER, WHITE, PUNCT, DIGIT, SECOND = 1, 2, 4, 8, 16, 32


def classes():
    flags = {}
    patterns = [(LETTER, r"\p{L}"), (NUMBER, r"\p{N}"), (WHITE, r"\s"), (PUNCT, r"\p{P}")]
    for bit, pattern in patterns:
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
        for c in code_points():
            if len(split.pre_tokenize_str(chr(c) + chr(c))) == 2:
                flags[c] = flags.get(c, 0) | bit
    digits = pre_tokenizers.Digits(individual_digits=True)
    for c in code_points():
        if len(digits.pre_tokenize_str(chr(c) + chr(c))) == 2:
            flags[c] = flags.get(c, 0) | DIGIT
    for c, f in flags.items():
        if bin(f & (LETTER | NUMBER | WHITE)).count("1") > 1:
            raise SystemExit(f"U+{c:04X} is of two classes: core/text relies on the contrary")
    return flags


def compositions():
    """(first, second) -> composite of every pair that NFC joins, Hangul excepted."""
    nfd, nfc, pairs = normalizers.NFD(), normalizers.NFC(), {}
    for c in code_points():
        parts = nfd.normalize_str(chr(c))
        if parts == chr(c) or 0xAC00 <= c <= 0xD7A3 or nfc.normalize_str(chr(c)) != chr(c):
            continue
        first, second = nfc.normalize_str(parts[:-1]), parts[-1]
        if len(first) != 1 or nfc.normalize_str(first + second) != chr(c):
            raise SystemExit(f"U+{c:04X} is not composed of two: not foreseen")
        pairs[ord(first), ord(second)] = c
    return pairs


def main():
    flags, pairs = classes(), compositions()
    count = {b: sum(1 for f in flags.values() if f & b) for b in (LETTER, NUMBER, WHITE, PUNCT, DIGIT)}
    for _, second in pairs:
        flags[second] = flags.get(second, 0) | SECOND
    index, blocks = pages(flags)
    print(f"""/* unicode_split.c - frozen Unicode tables: the classes that byte-level BPE splits by, and the
 * pairs that NFC composes.  Generated; do not edit.
 *
 * Written by tests/oracle/make_split_tables.py from PyPI's tokenizers {tokenizers.__version__}, which
 * was asked about every code point.  Read through unicode.h by core/text.  Generated
 * data, so longer than a file should be.
 *
 * letters {count[LETTER]}, numbers {count[NUMBER]}, white space {count[WHITE]}, punctuation {count[PUNCT]}, digits {count[DIGIT]}, composed
 * pairs {len(pairs)} (Hangul is computed). */
/* clang-format off */
#include "base/unicode.h"
""")
    print(emit("uint16_t", "bl_unicode_split_page", index))
    print(emit("uint8_t", "bl_unicode_split_block", [v for b in blocks for v in b]))
    print(f"const uint32_t bl_unicode_n_pairs = {len(pairs)};\n")
    print(emit("uint32_t", "bl_unicode_pairs", [v for k, c in sorted(pairs.items()) for v in (*k, c)]), end="")


if __name__ == "__main__":
    main()
