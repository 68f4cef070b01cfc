#!/bin/bash
# run.sh: search, insert and mixed work by pgbench with 1, 2, 4 and 8 clients.
#
#     make pg && BITLM_PG_OPTIONS="shared_buffers = 1GB" tests/postgres/cluster.sh tests/postgres/pgbench/run.sh
#
# BENCH_N rows (100,000), BENCH_SECONDS for each (5), BENCH_CLIENTS.  A transaction that fails, an index that is
# damaged or has lost a row, and a server without pgbench, end it with an error.
set -eu
cd "$(dirname "$0")"
n=${BENCH_N:-100000} seconds=${BENCH_SECONDS:-5}
for script in search insert mixed; do
    psql -qX -v ON_ERROR_STOP=1 -v rows="$n" -f setup.sql >/dev/null
    [ $script != mixed ] || psql -qX -c "CREATE UNIQUE INDEX ON bench_codes(id)"
    for clients in ${BENCH_CLIENTS:-1 2 4 8}; do
        out=$(PGOPTIONS="-c jit=off" pgbench -n -f $script.sql -c "$clients" -j "$clients" -T "$seconds" 2>&1) || { echo "$out" >&2; exit 1; }
        echo "$out" | awk -v s=$script -v c="$clients" '/^latency average/ {l = $4} /^tps/ {t = $3} /number of failed/ && $5 != "0" {bad = $0} /aborted/ {bad = $0}
            END {printf "%s, %d clients: %.0f transactions/s, %.2f ms%s\n", s, c, t, l, bad == "" ? "" : ", " bad; exit bad != ""}' || exit 1
    done
    psql -qtX -v ON_ERROR_STOP=1 -c "VACUUM bench_codes"
    psql -qtX -v ON_ERROR_STOP=1 -c "SELECT CASE WHEN bitlm_index_check('bench_codes_code') = count(*) THEN 'the index has each of the ' || count(*) || ' rows'
        ELSE (1 / (count(*) - count(*)))::text END FROM bench_codes"
done
psql -qX -c "DROP TABLE bench_codes; DROP SEQUENCE bench_id"
