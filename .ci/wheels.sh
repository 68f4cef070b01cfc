#!/bin/bash
# wheels.sh [PYTHON...]: the sdist, a wheel from it for each Python given (or found: 3.11 and later, on PATH, of
# pyenv, of build/pythons), auditwheel's verdict, and the tests of the package against each wheel, installed in a
# virtual environment of its own without this tree: with the real llm, langchain-core, mypy, matplotlib and apsw.
#
# Needs PyPI (exit 77 without), a C compiler and the libraries that deps.sh names; takes some minutes for each
# Python.  Works in build/wheels.  BITLM_WHEEL_TESTS: what pytest runs (tests/python).
cd "$(dirname "$0")/.." || exit 1
. .ci/runners.sh
began=$SECONDS
root=$PWD
dir=$root/build/wheels
base=$(command -v /usr/bin/python3 || command -v python3)
packages="pytest numpy llm langchain-core langchain-tests pytest-asyncio mypy matplotlib apsw typing_extensions"
command -v ccache >/dev/null && export CC="ccache cc"

pythons=("$@")
if [ ${#pythons[@]} = 0 ]; then
    for program in /usr/bin/python3.1[1-9] /usr/bin/python3 "$HOME"/.pyenv/versions/3.1[1-9]*/bin/python3 build/pythons/*/bin/python3; do
        [ -x "$program" ] && "$program" -c 'import sys, os, sysconfig
sys.exit(sys.version_info < (3, 11) or not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' &&
            pythons+=("$program")
    done
fi

rm -rf "$dir"
mkdir -p "$dir"
"$base" -m venv "$dir/tools" && "$dir/tools/bin/pip" install -q --upgrade pip build auditwheel 2>"$dir/pip.log" ||
    { echo "wheels skipped: PyPI cannot be reached"; exit 77; }
step "sdist" "$dir/tools/bin/python" -m build --sdist --outdir "$dir" .

seen=
for program in "${pythons[@]}"; do
    tag=$("$program" -c 'import sys, sysconfig; print("cp%d%d%s" % (*sys.version_info[:2], "t" * bool(sysconfig.get_config_var("Py_GIL_DISABLED"))))')
    case " $seen " in *" $tag "*) continue ;; esac
    seen="$seen $tag"
    venv=$dir/$tag
    step "$tag: a virtual environment" "$program" -m venv --without-pip "$venv"
    pip="$dir/tools/bin/pip --python $venv/bin/python"
    # From the sdist, in a folder that is not the source tree.
    step "$tag: wheel" env -C / $pip wheel -q --no-deps -w "$dir" "$dir"/bitlm-*.tar.gz
    wheel=$(ls "$dir"/bitlm-*-"$tag"-*.whl) || continue
    step "$tag: auditwheel" "$dir/tools/bin/auditwheel" show "$wheel"
    step "$tag: install" $pip install -q "$wheel"
    # No library but libc's, no source tree, no other package.
    step "$tag: the wheel alone" env -i -C / PATH=/usr/bin:/bin "$venv/bin/python" -I -c '
import bitlm, os, subprocess, sys
assert os.path.dirname(bitlm.__file__).startswith(sys.prefix), bitlm.__file__
with bitlm.Model() as m:
    print(m.generate("Once upon a time", max_tokens=12), m.embed("x"), os.path.exists(bitlm.sqlite_path() + ".so"))
subprocess.run([sys.executable, "-m", "bitlm", "version"], check=True)
subprocess.run([os.path.join(sys.prefix, "bin", "bitlm"), "version"], check=True)'
    # What a free-threaded or new Python has no wheels of is left out; its tests skip aloud.
    for package in $packages; do
        $pip install -q --only-binary :all: "$package" >>"$dir/pip.log" 2>&1 || echo "$tag: no $package"
    done
    step "$tag: tests" env BITLM_PYTHON= "$venv/bin/python" -m pytest -q -rs -p no:cacheprovider ${BITLM_WHEEL_TESTS:-tests/python}
done
finish "wheels" $((SECONDS - began))
