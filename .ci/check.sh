#!/bin/bash
# check.sh: installs what is missing, builds, runs every test, goes on after a
# failure, and ends with one line per failed step.  `make check` and .ci/run.
#
# The tests named in `masked` run once more for each level of instructions
# (BITLM_CPU); test_hash goes through the levels by itself.
cd "$(dirname "$0")/.." || exit 1
. .ci/runners.sh
export PYTHON=${PYTHON:-$(command -v /usr/bin/python3 || echo python3)}
began=$SECONDS
masked="test_parity test_run"

.ci/deps.sh python postgresql || exit 1
.ci/deps.sh bridges || echo "without mono and python3-dbg some tests of Python are skipped"
make --no-print-directory python || exit 1

if [ -e tests/kernels/checkkernels.c ]; then
    step "checkkernels" timeout 600 build/meson/tests/checkkernels
fi
for name in $(c_tests); do
    step "$name" timeout 300 build/meson/tests/"$name"
done
if [ -e build/meson/tests/test_hash_amx ]; then
    step "test_hash, AMX in software" timeout 300 build/meson/tests/test_hash_amx
fi
for mask in ref avx2 avx512; do
    for name in $masked; do
        BITLM_CPU=$mask step "$name, BITLM_CPU=$mask" timeout 300 build/meson/tests/"$name"
    done
done
for dir in tests/sqlite tests/cli tests/python tests/demo tests/build; do
    if ls $dir/test_*.py >/dev/null 2>&1; then
        step "pytest $dir" timeout 900 "$PYTHON" -m pytest -q -p no:cacheprovider $dir
    fi
done
step "make pg" make --no-print-directory pg
step "pytest tests/postgres" timeout 600 tests/postgres/cluster.sh "$PYTHON" -m pytest -q -p no:cacheprovider tests/postgres
step "address and undefined-behaviour sanitizers" .ci/sanitize.sh asan short
step "x86-64 without AVX2 and without AVX-512, emulated" .ci/old_x86.sh
step "64-bit ARM under an emulator" .ci/arm.sh short
finish "make check" $((SECONDS - began))
