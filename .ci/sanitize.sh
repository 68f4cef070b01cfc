#!/bin/bash
# sanitize.sh asan|ubsan|tsan|valgrind [short]: the C tests under a checker; short
# leaves out what takes minutes.
# asan has the undefined-behaviour sanitizer with it; ubsan is that one alone.
cd "$(dirname "$0")/.." || exit 1
. .ci/runners.sh
kind=$1
began=$SECONDS
meson=$(command -v /usr/bin/meson || command -v meson)
ninja=$(command -v /usr/bin/ninja || command -v ninja)
export NINJA=$ninja
export ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1:abort_on_error=0
export UBSAN_OPTIONS=print_stacktrace=1
# A forked child of a test starts threads of its own, which tsan asks about.
export TSAN_OPTIONS=die_after_fork=0:halt_on_error=1
prefix=

case $kind in
asan) sanitize=address,undefined ;;
ubsan) sanitize=undefined ;;
tsan) sanitize=thread ;;
valgrind)
    .ci/deps.sh valgrind || exit 1
    sanitize=none
    # Freed memory is fine to lose at exit; an invalid access or a real leak is not.
    prefix="valgrind -q --error-exitcode=99 --leak-check=full --errors-for-leak-kinds=definite --trace-children=yes"
    export CK_TIMEOUT_MULTIPLIER=20
    ;;
*)
    echo "sanitize.sh: '$kind' is not asan, ubsan, tsan or valgrind" >&2
    exit 2
    ;;
esac
dir=build/$kind
mkdir -p build
export CK_TIMEOUT_MULTIPLIER=${CK_TIMEOUT_MULTIPLIER:-5}

if [ ! -e $dir/build.ninja ]; then
    "$meson" setup $dir -Dbuildtype=debugoptimized -Doptimization=2 -Db_sanitize=$sanitize \
        -Db_lundef=false >build/$kind.log 2>&1 || { cat build/$kind.log; exit 1; }
fi
"$ninja" -C $dir --quiet || exit 1
if [ -e tests/kernels/checkkernels.c ]; then
    step "checkkernels, $kind" timeout 600 $prefix $dir/tests/checkkernels
fi
if [ "$2" = short ]; then
    export BITLM_SHORT=1 # test_rows
fi
for name in $(c_tests); do
    unset CK_RUN_CASE
    if [ "$2" = short ] && [ "$name" = test_hash ]; then
        export CK_RUN_CASE="numeric contract"
    fi
    brief=
    [ "$name" = test_shape_hash ] && brief="env BITLM_SHORT=1"
    step "$name, $kind" $brief timeout 600 $prefix $dir/tests/"$name"
done

# Connections in several threads search, write and make tables of pieces together.
if [ -e tests/sqlite/shared_index.c ]; then
    step "shared_index threads, $kind" timeout 600 $prefix $dir/tests/shared_index threads $dir/shared.db
fi

# Conversion and the choice of types over several threads: the command is built under the checker.
if [ "$kind" = tsan ]; then
    step "threaded conversion, tsan" env BITLM="$PWD/$dir/core/bitlm" BITLM_SLACK=20 timeout 900 \
        "$(command -v /usr/bin/python3 || command -v python3)" -m pytest -q -p no:cacheprovider -k threads \
        tests/cli/test_convert.py tests/cli/test_quantize.py
fi

# The adapters' own tests, in hosts that know nothing of the sanitizer.
if [ "$kind" = asan ] && ls tests/sqlite/test_*.py >/dev/null 2>&1; then
    python=$(command -v /usr/bin/python3 || command -v python3)
    export BITLM_SLACK=20
    export BITLM_EXT=$PWD/$dir/ext_sqlite/bitlm0 BITLM_CLI=$PWD/$dir/core/bitlm BITLM=$PWD/$dir/core/bitlm
    if [ "$2" = short ]; then
        files=tests/sqlite/test_errors.py
    else
        files=tests/sqlite
        step "pytest tests/cli, asan" timeout 900 "$python" -m pytest -q -p no:cacheprovider tests/cli
    fi
    # Hosts keep memory until they end: leaks are looked for in the C tests.
    step "pytest $files, asan" env ASAN_OPTIONS=detect_leaks=0 \
        LD_PRELOAD="$(cc -print-file-name=libasan.so) $(cc -print-file-name=libubsan.so)" \
        timeout 900 "$python" -m pytest -q -p no:cacheprovider $files
fi
finish "$kind" $((SECONDS - began))
