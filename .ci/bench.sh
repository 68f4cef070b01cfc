#!/bin/sh
# bench.sh: whole models of known shapes beside the machine's limits (tests/bench/bench_models.py has
# the variables that choose less), the speed of each kernel against the plain C one, what lookup and
# rows together gain, and search of codes beside its limit.
cd "$(dirname "$0")/.." || exit 1
"${PYTHON:-python3}" tests/bench/bench_models.py build/bitlm build/meson/tests/bench_model || exit 1
"${PYTHON:-python3}" tests/bench/bench_peers.py build/bitlm build/meson/tests/bench_model || exit 1
build/meson/tests/checkkernels --bench
build/meson/tests/bench_rows
build/meson/tests/bench_search
for model in story embed; do
    printf '\ntokenizer of %s on docs/SQL.md\n' "$model"
    build/meson/tests/bench_tokenize "$model" docs/SQL.md
done
