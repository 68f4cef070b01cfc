#!/bin/bash
# old_x86.sh: the built command and checkkernels on emulated x86-64 processors without AVX2 and without AVX-512,
# where an instruction that slipped past the check of the CPU ends the program.  A step of check.sh; exit
# status 77 where there is no qemu-x86_64.
cd "$(dirname "$0")/.." || exit 1
.ci/deps.sh x86 && command -v qemu-x86_64 >/dev/null || { echo "skipped: qemu-user could not be installed"; exit 77; }
text="The king and his daughter"
native=$(build/meson/core/bitlm generate --max-tokens 8 "$text") || exit 1
for cpu in Nehalem Haswell; do
    kernels=$([ $cpu = Nehalem ] && echo ref || echo avx2)
    version=$(qemu-x86_64 -cpu $cpu build/meson/core/bitlm version 2>/dev/null) || exit 1
    echo "$cpu: $version"
    case $version in *", kernels $kernels") ;; *) echo "the kernels are not $kernels"; exit 1 ;; esac
    got=$(qemu-x86_64 -cpu $cpu build/meson/core/bitlm generate --max-tokens 8 "$text" 2>build/old_x86.log) || exit 1
    grep -v "TCG doesn.t support" build/old_x86.log
    [ "$got" = "$native" ] || { echo "$cpu: '$got', natively '$native'"; exit 1; }
    if grep -q "plain C" build/old_x86.log; then warned=ref; else warned=avx2; fi
    [ $warned = $kernels ] || { echo "$cpu: the warning is not as the kernels are"; exit 1; }
done
qemu-x86_64 -cpu Haswell build/meson/tests/checkkernels --only ternary_i8 2> >(grep -v "TCG doesn.t support" >&2)
