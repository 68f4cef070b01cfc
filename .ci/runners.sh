# runners.sh: what check.sh and sanitize.sh share.  Sourced by bash.
export BITLM_TEST_DATA=${BITLM_TEST_DATA:-$PWD/tests/data}
failures=()
skipped=()
steps=0

# The names of the C tests: each tests/core/test_*.c is one program, so that a
# source which the build does not know fails here.
c_tests() {
    for source in tests/core/test_*.c; do
        [ "$source" = tests/core/test_support.c ] || basename "$source" .c
    done
}

# step TITLE COMMAND...: runs it with its output in sight and notes a failure, or that it was skipped (77).
step() {
    local title=$1 status
    shift
    steps=$((steps + 1))
    printf '\n== %s\n' "$title"
    "$@" </dev/null
    status=$?
    if [ $status -eq 77 ]; then
        skipped+=("$title")
    elif [ $status -ne 0 ]; then
        failures+=("$title (exit status $status)")
    fi
}

# finish NAME SECONDS: the summary, and the exit status.
finish() {
    printf '\n'
    if [ ${#skipped[@]} -gt 0 ]; then
        printf 'SKIPPED: %s\n' "${skipped[@]}"
    fi
    if [ ${#failures[@]} -gt 0 ]; then
        printf 'FAILED: %s\n' "${failures[@]}"
        printf '%s: %d of %d steps failed, %d s\n' "$1" ${#failures[@]} $steps "$2"
        exit 1
    fi
    printf '%s: all %d steps passed, %d s\n' "$1" $((steps - ${#skipped[@]})) "$2"
    exit 0
}
