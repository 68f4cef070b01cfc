#!/bin/sh
# bench.sh: the measured speed of each kernel against the plain C one.
cd "$(dirname "$0")/.." || exit 1
build/meson/tests/checkkernels --bench
