#!/usr/bin/env python3
"""make_unicode_tables.py - writes core/base/unicode_tables.c.

The uncased WordPiece vocabularies were built with the Unicode tables of PyPI's
`tokenizers` (Rust crates that are older than any system library and disagree with
each other about the Unicode version).  So nothing here comes from a Unicode
database: every code point is put through that library's own normalizers, one step
of the pipeline at a time, and the answers become the tables.

    python3 -m venv venv && venv/bin/pip install tokenizers
    venv/bin/python tests/oracle/make_unicode_tables.py > core/base/unicode_tables.c

Python's own unicodedata only names one representative mark per combining class; the
classes of all other code points are found by watching which marks change places.
A changed table changes tokens: raise BITLM_NUMERICS with it.
"""
import sys
import unicodedata

try:
    import tokenizers
    from tokenizers import normalizers, pre_tokenizers
except ImportError:
    print("make_unicode_tables.py: PyPI's `tokenizers` is not installed", file=sys.stderr)
    sys.exit(77)

BLOCK = 64
N_PAGES = 0x110000 // BLOCK
DROP, SPACE, CJK, MARK, PUNCT = 1, 2, 4, 8, 16


def code_points():
    return (c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF)


def probe():
    """flags and mappings of every code point."""
    clean = normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=False,
                                       strip_accents=False, lowercase=False)
    chinese = normalizers.BertNormalizer(clean_text=False, handle_chinese_chars=True,
                                         strip_accents=False, lowercase=False)
    # Not normalizers.StripAccents: that one takes Mc and Me away too.
    strip = normalizers.BertNormalizer(clean_text=False, handle_chinese_chars=False,
                                       strip_accents=True, lowercase=False)
    nfd, lower = normalizers.NFD(), normalizers.Lowercase()
    bert = pre_tokenizers.BertPreTokenizer()
    flags, decomposed, lowered, stripped = {}, {}, {}, {}
    for c in code_points():
        s, f = chr(c), 0
        t = clean.normalize_str(s)
        if t == "":
            f |= DROP
        elif t == " ":
            f |= SPACE
        elif t != s:
            raise SystemExit(f"clean_text maps U+{c:04X} to {t!r}: not foreseen")
        t = chinese.normalize_str(s)
        if t == f" {s} ":
            f |= CJK
        elif t != s:
            raise SystemExit(f"handle_chinese_chars maps U+{c:04X} to {t!r}: not foreseen")
        t = nfd.normalize_str(s)
        stripped[c] = (t, strip.normalize_str(s))
        if stripped[c] == (s, ""):
            f |= MARK
        if t != s and not 0xAC00 <= c <= 0xD7A3:  # Hangul syllables are computed
            decomposed[c] = [ord(x) for x in t]
        t = lower.normalize_str(s)
        if t != s:
            lowered[c] = [ord(x) for x in t]
        pieces = [p for p, _ in bert.pre_tokenize_str(f"a{s}b")]
        if pieces == ["a", s, "b"]:
            f |= PUNCT
        elif pieces == ["a", "b"]:
            # White space.  After clean_text only U+0020 is left of it, unless it is dropped.
            if not f & (DROP | SPACE):
                raise SystemExit(f"U+{c:04X} splits words but is kept: not foreseen")
        elif pieces != [f"a{s}b"]:
            raise SystemExit(f"BertPreTokenizer splits U+{c:04X} as {pieces}: not foreseen")
        if f:
            flags[c] = f
    for c, (parts, kept) in stripped.items():
        if kept != "".join(x for x in parts if not flags.get(ord(x), 0) & MARK):
            raise SystemExit(f"strip_accents maps U+{c:04X} to {kept!r}: not foreseen")
    return flags, decomposed, lowered, nfd


def combining_classes(nfd):
    """A class for each non-starter, found by swaps with known marks."""
    def swaps(a, b):
        """Do the marks a, b (in that order) change places?"""
        t = nfd.normalize_str("a" + chr(a) + chr(b))
        return a != b and len(t) == 3 and ord(t[1]) == b and ord(t[2]) == a

    low, high = 0x334, 0x345  # classes 1 and 240
    known = {}
    for c in code_points():
        k = unicodedata.combining(chr(c))
        # The first mark of each class that the library (older than Python) knows.
        if k and k not in known and (k == 1 or swaps(c, low)) and (k == 240 or swaps(high, c)):
            if nfd.normalize_str(chr(c)) == chr(c):
                known[k] = c
    order = sorted(known)
    first, last = known[order[0]], known[order[-1]]

    for a, b in zip(order, order[1:]):
        if not swaps(known[b], known[a]) or swaps(known[a], known[b]):
            raise SystemExit(f"classes {a} and {b} are not ordered as expected")
    classes = {}
    for c in code_points():
        if nfd.normalize_str(chr(c)) != chr(c):
            continue  # its parts are what gets ordered
        if not swaps(c, first) and not swaps(last, c) and c not in (first, last):
            continue  # a starter
        # The class is the largest k whose mark stays in front of c.
        below = [k for k in order if swaps(known[k], c)]  # classes above c's
        stays = [k for k in order if k not in below]
        k = stays[-1]
        if c != known[k] and swaps(c, known[k]):
            raise SystemExit(f"U+{c:04X} lies between classes: no representative for it ({k}: U+{known[k]:04X})")
        classes[c] = k
    return classes


def pages(values):
    """Two stages: page number of each block, and the distinct blocks."""
    index, blocks, seen = [], [], {}
    for p in range(N_PAGES):
        block = tuple(values.get(c, 0) for c in range(p * BLOCK, (p + 1) * BLOCK))
        if block not in seen:
            seen[block] = len(blocks)
            blocks.append(block)
        index.append(seen[block])
    return index, blocks


def emit(ctype, name, values):
    out, line = [f"const {ctype} {name}[{len(values)}] = {{"], "   "
    for v in values:
        item = f" {v},"
        if len(line) + len(item) > 140:
            out.append(line)
            line = "   "
        line += item
    out += [line, "};", ""]
    return "\n".join(out)


def main():
    flags, decomposed, lowered, nfd = probe()
    classes = combining_classes(nfd)
    for c in classes:
        if flags.get(c, 0) & (SPACE | PUNCT | CJK):
            raise SystemExit(f"U+{c:04X} is a mark and splits words: core/text relies on the contrary")
    kinds, kind_of = [(0, 0)], {}
    for c in sorted(set(flags) | set(classes)):
        kind = (flags.get(c, 0), classes.get(c, 0))
        if kind not in kinds:
            kinds.append(kind)
        kind_of[c] = kinds.index(kind)
    assert len(kinds) < 256
    pool, at = [0], {}  # entry 0: no mapping

    def place(mapping):
        key = tuple(mapping)
        if key not in at:
            at[key] = len(pool)
            pool.append(len(key))
            pool.extend(key)
        return at[key]

    nfd_at = {c: place(m) for c, m in sorted(decomposed.items())}
    lower_at = {c: place(m) for c, m in sorted(lowered.items())}
    assert len(pool) < 65536
    longest = max(map(len, decomposed.values()))
    assert longest <= 4 and max(map(len, lowered.values())) <= 4
    count = {f: sum(1 for v in flags.values() if v & f) for f in (DROP, SPACE, CJK, MARK, PUNCT)}
    print(f"""/* unicode_tables.c - frozen Unicode tables: what each code point does in the uncased
 * WordPiece pipeline.  Generated; do not edit.
 *
 * Written by tests/oracle/make_unicode_tables.py from PyPI's tokenizers {tokenizers.__version__}, whose
 * normalizers were asked about every code point.  Two stages of {BLOCK}-entry blocks; read
 * through unicode.h by core/text.  Generated data, so longer than a file should be.
 *
 * dropped {count[DROP]}, spaces {count[SPACE]}, CJK {count[CJK]}, stripped marks {count[MARK]}, punctuation {count[PUNCT]},
 * non-starters {len(classes)}, decompositions {len(decomposed)} (Hangul is computed), lower case {len(lowered)}. */
/* clang-format off */
#include "base/unicode.h"
""")
    print(emit("uint8_t", "bl_unicode_kind_flags", [k[0] for k in kinds]))
    print(emit("uint8_t", "bl_unicode_kind_class", [k[1] for k in kinds]))
    for name, ctype, values in (("kind", "uint8_t", kind_of), ("nfd", "uint16_t", nfd_at),
                                ("lower", "uint16_t", lower_at)):
        index, blocks = pages(values)
        last = max(i for i, v in enumerate(index) if v) if any(index) else 0
        assert len(blocks) < 256
        assert index[-1] == blocks.index((0,) * BLOCK) or True
        print(emit("uint8_t", f"bl_unicode_{name}_page", index))
        print(emit(ctype, f"bl_unicode_{name}_block", [v for b in blocks for v in b]))
    print(emit("uint32_t", "bl_unicode_pool", pool), end="")


if __name__ == "__main__":
    main()
