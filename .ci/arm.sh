#!/bin/bash
# arm.sh [short]: cross-builds the core for 64-bit ARM in build/arm and runs its tests under qemu-user,
# once for each set of instructions that the NEON kernels know (QEMU_CPU); short leaves out what takes
# minutes.  `make arm`, and a step of check.sh.
#
# The compiler and the emulator come from deps.sh.  The libraries for ARM are fetched into build/arm/sysroot
# by an apt that keeps its lists there too, so that the system's architectures stay as they are.  Where
# either cannot be had the exit status is 77.
cd "$(dirname "$0")/.." || exit 1
. .ci/runners.sh
began=$SECONDS
meson=$(command -v /usr/bin/meson || command -v meson)
ninja=$(command -v /usr/bin/ninja || command -v ninja)
export NINJA=$ninja
dir=$PWD/build/arm
root=$dir/sysroot
mkdir -p "$dir"

skip() {
    printf 'ARM tests skipped: %s\n' "$1"
    exit 77
}

.ci/deps.sh arm || skip "the cross compiler or qemu-user could not be installed"

# fetch PACKAGE...: unpacks Debian's arm64 packages into $root.
fetch() {
    local apt=$dir/apt
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$root"
    : >"$apt/status"
    local options=(-q -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o "Dir::State=$apt"
        -o "Dir::State::status=$apt/status" -o "Dir::State::lists=$apt/lists" -o "Dir::Cache=$apt/cache"
        -o Debug::NoLocking=1 -o APT::Sandbox::User= -o Acquire::Languages=none)
    command -v apt-get >/dev/null || return 1
    (cd "$apt" && apt-get "${options[@]}" update && apt-get "${options[@]}" download "$@") >"$dir/fetch.log" 2>&1 ||
        { tail -3 "$dir/fetch.log"; return 1; }
    for package in "$apt"/*.deb; do
        dpkg-deb -x "$package" "$root" || return 1
    done
    rm -rf "$apt"
}
lib=$root/usr/lib/aarch64-linux-gnu
if [ ! -e "$lib/libcheck.a" ]; then
    fetch libjansson-dev libxxhash-dev check libsubunit-dev libsqlite3-dev ||
        skip "the libraries for ARM could not be fetched"
fi

if [ ! -e "$dir/meson/build.ninja" ]; then
    cat >"$dir/sysroot.ini" <<END
[properties]
pkg_config_libdir = '$lib/pkgconfig'
[built-in options]
c_args = ['-isystem', '$root/usr/include']
c_link_args = ['-L$lib']
END
    "$meson" setup "$dir/meson" --cross-file .ci/aarch64.ini --cross-file "$dir/sysroot.ini" \
        -Dpython=disabled >"$dir/setup.log" 2>&1 || { cat "$dir/setup.log"; exit 1; }
fi
tests=(checkkernels test_base test_hash)
[ "$1" = short ] || tests+=(test_bpe test_gguf test_parity test_quant test_safetensors test_search test_text)
"$ninja" -C "$dir/meson" --quiet "${tests[@]/#/tests/}" || exit 1
export CK_TIMEOUT_MULTIPLIER=10

# emulated PROCESSOR PROGRAM...: max has DOTPROD and I8MM, cortex-a76 only the former, cortex-a72 neither.
emulated() { QEMU_CPU=$1 timeout 900 qemu-aarch64 -L /usr/aarch64-linux-gnu "$dir/meson/tests/$2"; }

# The longest beside the others.
CK_RUN_CASE="numeric contract" emulated max test_hash >"$dir/test_hash.log" 2>&1 </dev/null &
hash=$!
for cpu in max cortex-a76 cortex-a72; do
    step "checkkernels, $cpu" emulated $cpu checkkernels
done
CK_RUN_CASE="float environment" step "test_base, max" emulated max test_base
hashed() {
    wait $hash
    local status=$?
    cat "$dir/test_hash.log"
    return $status
}
step "test_hash, max" hashed
if [ "$1" != short ]; then
    for cpu in cortex-a76 cortex-a72; do
        CK_RUN_CASE="numeric contract" step "test_hash, $cpu" emulated $cpu test_hash
    done
    for name in "${tests[@]:3}"; do
        step "$name, max" emulated max "$name"
    done
fi
finish "ARM" $((SECONDS - began))
