#!/bin/bash
# valgrind.sh: every function and the index in a backend under valgrind (tests/postgres/valgrind.sql).
#
#     make pg && .ci/deps.sh valgrind && tests/postgres/valgrind.sh
#
# A single-user backend, since valgrind slows what it runs some fifty times.  BITLM_CPU=avx2, because valgrind knows no
# AVX-512.  It fails at the first invalid access or use of memory that was never set; the server's own habits
# are in valgrind.supp.  What it cannot see: memory inside the server's own pools, of which this server tells it nothing.  With an
# int8 or int4 KV cache (valgrind_kv.sql) only accesses are checked, not what was never set: positions not yet written are
# multiplied by zero there, which valgrind takes for a use.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
config=${PG_CONFIG:-$(ls -d /usr/lib/postgresql/*/bin/pg_config 2>/dev/null | sort -V | tail -1)}
bin=$("${config:-pg_config}" --bindir)
dir=$(mktemp -d /tmp/bitlm-pg.XXXXXX)
trap 'rm -rf "$dir"' EXIT
as() { "$@"; }
if [ "$(id -u)" = 0 ]; then
    user=${BITLM_PG_USER:-nobody}
    chown "$user" "$dir"
    as() { setpriv --reuid="$user" --regid="$(id -g "$user")" --clear-groups env HOME="$dir" "$@"; }
fi
cp "$here"/valgrind*.sql "$here/valgrind.supp" "$dir"
chmod 755 "$dir"
cd "$dir"
as "$bin/initdb" -D "$dir/data" -U bitlm -A trust --no-sync -E UTF8 --locale=C >"$dir/log" 2>&1 || { cat "$dir/log" >&2; exit 1; }
failed=0
backend() { # SCRIPT [OPTION OF VALGRIND]
    local status=0 script=$1
    shift
    as env BITLM_CPU=avx2 valgrind -q --error-exitcode=99 --leak-check=no --suppressions="$dir/valgrind.supp" "$@" \
        "$bin/postgres" --single -F -c jit=off -c log_min_messages=warning -D "$dir/data" postgres <"$dir/$script" >"$dir/out" 2>"$dir/err" || status=$?
    grep -E "^==" "$dir/err" | head -60 || true
    grep -E "ERROR|PANIC|FATAL" "$dir/err" || true
    echo "$script: $(grep -c '' "$dir/$script") statements, exit status $status"
    [ $status = 0 ] || failed=$status
}
backend valgrind.sql
backend valgrind_kv.sql --undef-value-errors=no
exit $failed
