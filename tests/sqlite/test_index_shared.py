"""What connections of one process share (shared_index.c says how): packed blocks are copied out of the database once, and threads
search while tables of pieces are made."""

import os
import subprocess

import pytest

from conftest import ROOT

PROGRAM = os.environ.get("BITLM_SHARED_INDEX", str(ROOT / "build" / "meson" / "tests" / "shared_index"))


@pytest.mark.parametrize("what", ["copies", "threads"])
def test_shared(what, tmp_path):
    done = subprocess.run([PROGRAM, what, str(tmp_path / "shared.db")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
