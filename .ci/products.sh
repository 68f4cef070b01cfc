#!/bin/sh
# products.sh FROM TO: copies what meson built in FROM to where `make` promises it.
# A file is replaced by renaming: a process that has the old one mapped keeps it.
set -eu
from=$1
to=$2
put() {
    if [ -e "$from/$1" ] && ! cmp -s "$from/$1" "$to/$2"; then
        cp -p "$from/$1" "$to/.$2.new"
        mv -f "$to/.$2.new" "$to/$2"
    fi
}
put core/bitlm bitlm
put core/libbitlm.a libbitlm.a
put core/libbitlm.so.0 libbitlm.so
put ext_sqlite/bitlm0.so bitlm0.so
ln -sf libbitlm.so "$to/libbitlm.so.0" # the name that programs linked with it ask for
