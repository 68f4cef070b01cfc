#!/bin/sh
# bench.sh: the measured speed of each kernel against the plain C one, and what lookup and rows
# together gain.
cd "$(dirname "$0")/.." || exit 1
build/meson/tests/checkkernels --bench
build/meson/tests/bench_rows
for model in story embed; do
    printf '\ntokenizer of %s on docs/SQL.md\n' "$model"
    build/meson/tests/bench_tokenize "$model" docs/SQL.md
done
