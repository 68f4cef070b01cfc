"""bitlm_index with failing memory and failing files (fault_index.c says how).

BITLM_FAULTS  places tried of each kind (8; 0: all of them, for the long proof)
"""

import os
import subprocess

import pytest

from conftest import EXTENSION, ROOT

PROGRAM = os.environ.get("BITLM_FAULT_INDEX", str(ROOT / "build" / "meson" / "tests" / "fault_index"))
FAULTS = int(os.environ.get("BITLM_FAULTS", "8")) or 10**9


def sweep(tmp_path, kind, scene, faults=FAULTS):
    done = subprocess.run([PROGRAM, EXTENSION, str(tmp_path / "fault.db"), kind, str(faults), "1", scene], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)


@pytest.mark.parametrize("kind", ["oom", "io"])
def test_faults(kind, tmp_path):
    sweep(tmp_path, kind, "index")


@pytest.mark.parametrize("scene", ["rename", "rename_search"])
@pytest.mark.parametrize("kind", ["oom", "io"])
def test_faults_while_renaming(kind, scene, tmp_path):
    sweep(tmp_path, kind, scene)


@pytest.mark.parametrize("kind", ["oom", "io"])
def test_faults_with_tables_of_pieces(kind, tmp_path):
    sweep(tmp_path, kind, "pieces")


@pytest.mark.parametrize("kind", ["oom", "io"])
def test_every_fault_while_blocks_are_read(kind, tmp_path):
    """Closing a BLOB may roll the transaction back, and the table's xRollback comes in the midst of it."""
    sweep(tmp_path, kind, "reread", 10**9)
