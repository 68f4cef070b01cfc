"""No call leaves memory or references behind: leaks.py under this Python, and under a debug build of it.

A debug build (Debian's python3-dbg) counts all references.  Its objects have another size, so the module is
compiled against its headers here, which also runs Python's own assertions over it.  And test_bad_input.py once more
with the module under the address and undefined-behaviour sanitizers.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig

import pytest
from conftest import COMMAND, PACKAGE, ROOT, SLACK

import bitlm

SCRIPT = pathlib.Path(__file__).with_name("leaks.py")
TURNS = os.environ.get("BITLM_LEAK_CALLS", "2000")


def run(program, package, turns=TURNS):
    env = dict(os.environ, PYTHONPATH=str(package)) if package else None
    done = subprocess.run([program, SCRIPT, turns], capture_output=True, text=True, env=env, timeout=600 * SLACK)
    assert done.returncode == 0, done.stderr
    return done.stdout


def compile_module(folder, headers, suffix, *flags):
    """The package in a folder, its C part compiled against these headers and linked with the core that is built."""
    build, package = pathlib.Path(COMMAND).parent, folder / "bitlm"
    if not (build / "meson" / "core" / "libbitlm_cli.a").exists():
        pytest.skip("no meson build folder beside the command")
    shutil.copytree(pathlib.Path(bitlm.__file__).parent, package, ignore=shutil.ignore_patterns("_bitlm.*.so", "__pycache__"))
    copy = build / "meson" / "libjansson_pic.a"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-g", *flags, "-I", ROOT / "core", "-I", headers,
                    *sorted((ROOT / "ext_python").glob("*.c")), "-o", package / f"_bitlm{suffix}",
                    f"-Wl,--version-script={ROOT / 'ext_python' / '_bitlm.map'}",
                    "-Wl,--start-group", build / "meson" / "core" / "libbitlm_cli.a", build / "libbitlm.a",
                    copy if copy.exists() else "-ljansson", "-Wl,--end-group", "-lpthread", "-lm"], check=True, timeout=300 * SLACK)


def test_calls_leak_nothing():
    assert run(sys.executable, PACKAGE).endswith("calls: []\n")


def debug_python():
    """(program, headers, suffix of modules) of a debug build of this version, or None."""
    version = "{}.{}".format(*sys.version_info)
    for name in (f"python{version}-dbg", f"python{version}d", "python3-dbg"):
        program = shutil.which(name)
        if program:
            said = subprocess.run([program, "-c", """import sys, sysconfig
print(sys.version_info[:2] == tuple(map(int, sys.argv[1].split("."))) and hasattr(sys, "gettotalrefcount"))
print(sysconfig.get_path("include")); print(sysconfig.get_config_var("EXT_SUFFIX"))""", version], capture_output=True,
                                  text=True).stdout.split("\n")
            if said[0] == "True" and os.path.exists(os.path.join(said[1], "Python.h")):
                return program, said[1], said[2]
    return None


def test_a_debug_build_counts_no_reference_more(tmp_path):
    found = debug_python()
    if not found:
        pytest.skip("no debug build of this Python: apt-get install python3-dbg")
    program, headers, suffix = found
    compile_module(tmp_path, headers, suffix)
    assert run(program, tmp_path).endswith("calls, references counted: []\n")


def test_bad_input_under_sanitizers(tmp_path):
    headers = sysconfig.get_path("include")
    libraries = [subprocess.run(["cc", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
                 for name in ("libasan.so", "libubsan.so")]
    if not all(os.path.isabs(x) for x in libraries) or not os.path.exists(os.path.join(headers, "Python.h")):
        pytest.skip("no sanitizers, or no headers of this Python")
    compile_module(tmp_path, headers, sysconfig.get_config_var("EXT_SUFFIX"), "-fsanitize=address,undefined",
                   "-fno-sanitize-recover=undefined", "-w")
    env = dict(os.environ, BITLM_PYTHON=str(tmp_path), LD_PRELOAD=" ".join(libraries),
               ASAN_OPTIONS="detect_leaks=0:allocator_may_return_null=1")
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider",
                           pathlib.Path(__file__).with_name("test_bad_input.py")], env=env, capture_output=True, text=True,
                          timeout=600 * SLACK)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]
