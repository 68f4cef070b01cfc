#!/bin/sh
# deps.sh [python] [postgresql] [bridges] [valgrind] [fuzz] [arm] [x86]: installs what the build and the tests lack,
# after printing it.  Looks for the tools themselves, so it says nothing on a machine
# that has them from elsewhere.  Without apt or root it prints the list and stops.
set -eu

missing=
need() { # need PACKAGES COMMAND...: PACKAGES are missing if COMMAND fails
    packages=$1
    shift
    "$@" >/dev/null 2>&1 || missing="$missing $packages"
}
compiles() { printf '#include <%s>\nint main(void) { return 0; }\n' "$1" | ${CC:-cc} -x c - -o /dev/null; }
library() { pkg-config --exists "$1"; }
python() { "$(command -v /usr/bin/python3 || echo python3)" -c "import $1"; }
python_headers() {
    "$(command -v /usr/bin/python3 || echo python3)" -c 'import os, sysconfig
open(os.path.join(sysconfig.get_path("include"), "Python.h"))'
}
postgres_headers() {
    config=${PG_CONFIG:-$(ls -d /usr/lib/postgresql/*/bin/pg_config 2>/dev/null | sort -V | tail -1)}
    bin=$("${config:-pg_config}" --bindir) && [ -x "$bin/initdb" ] &&
        [ -e "$("${config:-pg_config}" --includedir-server)/postgres.h" ]
}
either() { [ -x "/usr/bin/$1" ] || "$1" --version; } # a shim on PATH may lead nowhere

need "gcc libc6-dev" compiles stdio.h
need make command -v make
need meson either meson
need ninja-build either ninja
need pkg-config command -v pkg-config
need libjansson-dev library jansson
need libxxhash-dev library libxxhash
need libsqlite3-dev library sqlite3
need sqlite3 command -v sqlite3
need check library check
need xz-utils command -v xz
need python3 either python3
need python3-pytest python pytest
need python3-numpy python numpy
need python3-jsonschema python jsonschema
for extra in "$@"; do
    case $extra in
    python) need python3-dev python_headers ;;
    postgresql)
        need "postgresql-15 postgresql-server-dev-15" postgres_headers
        need python3-psycopg2 python psycopg2
        ;;
    bridges) # C#'s compiler, and a Python that counts references
        need "mono-mcs mono-runtime" command -v mcs
        need python3-dbg command -v python3-dbg
        ;;
    valgrind) need valgrind command -v valgrind ;;
    fuzz) need "clang libclang-rt-14-dev" command -v clang ;;
    arm)
        need "gcc-aarch64-linux-gnu libc6-dev-arm64-cross" command -v aarch64-linux-gnu-gcc
        need qemu-user command -v qemu-aarch64
        ;;
    x86) need qemu-user command -v qemu-x86_64 ;;
    *)
        echo "deps.sh: '$extra' is not python, postgresql, bridges, valgrind, fuzz, arm or x86" >&2
        exit 2
        ;;
    esac
done

[ -n "$missing" ] || exit 0
echo "Missing Debian packages:$missing"
if ! command -v apt-get >/dev/null 2>&1; then
    echo "There is no apt-get here: install these, under the names your system gives them, and run this again." >&2
    exit 1
fi
if [ "$(id -u)" = 0 ]; then
    as_root=
elif command -v sudo >/dev/null 2>&1; then
    as_root=sudo
    [ -t 0 ] || as_root="sudo -n"
else
    echo "Neither root nor sudo: have an administrator run 'apt-get install$missing', then run this again." >&2
    exit 1
fi
echo "Installing them with apt-get ..."
run="$as_root env DEBIAN_FRONTEND=noninteractive apt-get -q"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# Stale or absent package lists: refresh, but let an offline mirror that has all be enough.
$run update >"$log" 2>&1 </dev/null || echo "apt-get update failed; trying with the lists there are." >&2
if ! $run install -y --no-install-recommends $missing >"$log" 2>&1 </dev/null; then
    cat "$log" >&2
    echo "apt-get could not install:$missing" >&2
    exit 1
fi
sed -n 's/^Setting up \([^ ]*\) (\(.*\)) \.\.\.$/  \1 \2/p' "$log"
