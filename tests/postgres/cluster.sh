#!/bin/bash
# cluster.sh COMMAND...: runs COMMAND with a PostgreSQL cluster of its own.
#
# The cluster lives in a temporary folder and listens on a socket there, so nothing
# that runs on the machine is touched; PGHOST, PGUSER, PGDATABASE tell COMMAND where.
# A server refuses to run as root: then it runs as `nobody` (BITLM_PG_USER).
# PG_CONFIG chooses the server.  BITLM_PG_OPTIONS are more lines of postgresql.conf.
set -eu
config=${PG_CONFIG:-$(ls -d /usr/lib/postgresql/*/bin/pg_config 2>/dev/null | sort -V | tail -1)}
bin=$("${config:-pg_config}" --bindir)
dir=$(mktemp -d /tmp/bitlm-pg.XXXXXX)
if [ "$(id -u)" = 0 ]; then
    user=${BITLM_PG_USER:-nobody}
    chown "$user" "$dir"
    as() { setpriv --reuid="$user" --regid="$(id -g "$user")" --clear-groups env HOME="$dir" "$@"; }
else
    as() { "$@"; }
fi
chmod 755 "$dir"
stop() {
    as "$bin/pg_ctl" -D "$dir/data" -m immediate -w stop >/dev/null 2>&1 || true
    rm -rf "$dir"
}
trap stop EXIT
cd "$dir" # a folder that the server's user may enter
as "$bin/initdb" -D "$dir/data" -U bitlm -A trust --no-sync -E UTF8 --locale=C >"$dir/log" 2>&1 ||
    { cat "$dir/log" >&2; exit 1; }
as mkdir "$dir/models"
as tee -a "$dir/data/postgresql.conf" >/dev/null <<END
listen_addresses = ''
unix_socket_directories = '$dir'
fsync = off
shared_buffers = 128MB
max_wal_size = 2GB
bitlm.model_dir = '$dir/models'
${BITLM_PG_OPTIONS:-}
END
as "$bin/pg_ctl" -D "$dir/data" -l "$dir/server.log" -w start >/dev/null || { cat "$dir/server.log" >&2; exit 1; }
export PGHOST=$dir PGUSER=bitlm PGDATABASE=postgres BITLM_PG_DIR=$dir
export PATH=$bin:$PATH PG_CONFIG=$bin/pg_config
cd "$OLDPWD"
status=0
"$@" || status=$?
if grep -q "PANIC\|terminated by signal" "$dir/server.log"; then
    echo "cluster.sh: the server crashed" >&2
    tail -40 "$dir/server.log" >&2
    status=1
fi
exit $status
