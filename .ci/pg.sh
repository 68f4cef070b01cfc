#!/bin/sh
# pg.sh: builds ext_postgres by PGXS for the server of PG_CONFIG (the newest that
# Debian has here) and installs it, through sudo where the folders ask for it.
set -eu
cd "$(dirname "$0")/../ext_postgres"
config=${PG_CONFIG:-$(ls -d /usr/lib/postgresql/*/bin/pg_config 2>/dev/null | sort -V | tail -1)}
config=${config:-pg_config}
server=$("$config" --version --includedir-server)
if [ "$(cat ../build/pg-server 2>/dev/null)" != "$server" ]; then # objects of another server's headers
    make -s PG_CONFIG="$config" clean >/dev/null
    echo "$server" >../build/pg-server
fi
make -s PG_CONFIG="$config" >/dev/null
as_root=
[ -w "$("$config" --pkglibdir)" ] || as_root=sudo
$as_root make -s PG_CONFIG="$config" install >/dev/null
echo "bitlm $(sed -n "s/^default_version = '\(.*\)'/\1/p" bitlm.control) is installed for $("$config" --version): CREATE EXTENSION bitlm;"
