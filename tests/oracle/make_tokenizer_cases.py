#!/usr/bin/env python3
"""make_tokenizer_cases.py - makes tests/data/text/tokenizers.json from the golden file that
PyPI's `tokenizers` 0.22.2 and `sentencepiece` 0.2.3 wrote.

    python3 tests/oracle/make_tokenizer_cases.py GOLDEN.json > tests/data/text/tokenizers.json

GOLDEN.json holds 152 texts (or {"repeat": [text, times]}) with ids in three vocabularies:
wordpiece (no [CLS], [SEP]), spm (no BOS), bbpe, and for some the decoded text.  The tests
need the first two, one case a line.
"""
import json
import sys

if len(sys.argv) != 2:
    sys.exit(__doc__)
with open(sys.argv[1], encoding="utf-8") as f:
    golden = json.load(f)
print('{"versions": ' + json.dumps(golden["versions"]) + ', "cases": [')
lines = []
for case in golden["cases"]:
    kept = {k: case[k] for k in ("text", "wordpiece", "spm")}
    if "repeat" in case["text"] and not isinstance(case["text"], str):
        text, times = case["text"]["repeat"]
        for k in ("wordpiece", "spm"):
            ids = kept[k]
            if len(ids) > 10:  # [first, the same id again and again]
                assert len(set(ids[1:])) == 1
                kept[k] = {"first": ids[0], "then": ids[1], "count": len(ids)}
    if "decode" in case:
        kept["decode"] = {k: case["decode"][k] for k in ("wordpiece", "spm")}
    lines.append(json.dumps(kept, ensure_ascii=True, separators=(",", ":")))
print(",\n".join(lines))
print("]}")
