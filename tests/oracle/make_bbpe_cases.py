#!/usr/bin/env python3
"""Golden ids of byte-level BPE under every split pattern, by PyPI's tokenizers.

    pip install tokenizers sentencepiece protobuf
    python tests/oracle/make_bbpe_cases.py > tests/data/text/bbpe.json

The vocabulary is trained here, on the demo's notes: 256 bytes and 900 merges.  The texts are those of
tests/data/text/tokenizers.json and random strings of what the patterns treat in particular.  Each pattern's ids are
kept for each text; where all patterns agree, once (as "*").
"""
import json
import pathlib
import sys

import tokenizers
from tokenizers import models, pre_tokenizers, trainers

import compare_tokenizers as oracle

DATA = pathlib.Path(__file__).resolve().parents[1] / "data"


def train():
    notes = [line.split("\t")[2] for line in (DATA / "demo" / "notes.tsv").read_text().splitlines()]
    numbers = ["1999 was 12 345 678 times 0.5 or 10%", "don't we'll I'VE they're he's it'd I'm "]
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Sequence([oracle.split(oracle.LLAMA3), oracle.byte_level(False)])
    trainer = trainers.BpeTrainer(vocab_size=256 + 900, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  show_progress=False)
    trained.train_from_iterator(notes + numbers * 20, trainer)
    model = json.loads(trained.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    return {"tokens": tokens, "merges": [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]}


def main():
    meta = train()
    texts = [case["text"] for case in json.loads((DATA / "text" / "tokenizers.json").read_text())["cases"]
             if isinstance(case["text"], str)]
    texts += [t for t, _ in zip(oracle.bpe_strings(250, 5), range(250))]
    cases = [{"text": t, "ids": {}} for t in dict.fromkeys(texts) if len(t) < 400]
    for pre in oracle.PATTERNS:
        encoder = oracle.bpe_oracle(meta, pre)
        for case in cases:
            case["ids"][pre] = encoder.encode(case["text"], add_special_tokens=False).ids
    for case in cases:
        first = next(iter(case["ids"].values()))
        if all(ids == first for ids in case["ids"].values()):
            case["ids"] = {"*": first}
    meta["cases"] = cases
    json.dump(meta, sys.stdout, ensure_ascii=True, separators=(",", ":"))
    print()


main()
