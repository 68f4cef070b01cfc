#!/bin/sh
# python_tree.sh FROM TO: the package `bitlm` as an import finds it, from what meson built in
# FROM: PYTHONPATH=TO works.  Files are replaced by renaming.
set -eu
from=$1
to=$2
put() {
    if ! cmp -s "$1" "$to/$2"; then
        cp -p "$1" "$to/$2.new"
        mv -f "$to/$2.new" "$to/$2"
    fi
}
mkdir -p "$to/bitlm/lib"
for file in ext_python/bitlm/*; do
    [ -d "$file" ] || put "$file" "bitlm/$(basename "$file")"
done
for file in "$from"/ext_python/_bitlm.*.so; do
    put "$file" "bitlm/$(basename "$file")"
done
put "$from/ext_python/bitlm0.so" bitlm/lib/bitlm0.so
