"""What the tests of the Python package share.

They import the package that `make python` builds:

    make python && /usr/bin/python3 -m pytest tests/python

BITLM_PYTHON  a folder that holds the package (build/python); empty: an installed one
BITLM_CLI     the command (build/bitlm)
BITLM_SLACK   factor on every time limit, for sanitizers and slow machines (1)
"""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = os.environ.get("BITLM_PYTHON", str(ROOT / "build" / "python"))
COMMAND = os.path.abspath(os.environ.get("BITLM_CLI", ROOT / "build" / "bitlm"))
SLACK = float(os.environ.get("BITLM_SLACK", "1"))
if PACKAGE:
    sys.path.insert(0, PACKAGE)

import bitlm  # noqa: E402

CODE_BITS = 384  # of the built-in encoder


def sigint_as_usual():
    """In a child: a shell's background job begins with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def python(code, *arguments, **keywords):
    """Runs code in a process of its own; its standard output."""
    env = dict(os.environ, **keywords.pop("env", {}))
    if PACKAGE:
        env["PYTHONPATH"] = PACKAGE + os.pathsep + env.get("PYTHONPATH", "")
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=env,
                          timeout=120 * SLACK, preexec_fn=sigint_as_usual, **keywords)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def model():
    with bitlm.Model(threads=1) as m:
        yield m


@pytest.fixture(scope="session")
def big(tmp_path_factory):
    """A slow decoder of random weights: there is time to interrupt it."""
    path = str(tmp_path_factory.mktemp("models") / "slow.gguf")
    subprocess.run([COMMAND, "synth", "--shape", "100m", "--type", "i2_s", path], check=True,
                   stdout=subprocess.DEVNULL)
    return path
