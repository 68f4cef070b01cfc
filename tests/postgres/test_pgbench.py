"""The pgbench scripts with several clients, for a moment: no transaction fails, the index has every row."""

import os
import shutil
import subprocess

import pytest

from conftest import ROOT


def test_pgbench(extension):
    if not shutil.which("pgbench"):
        pytest.skip("there is no pgbench here")
    done = subprocess.run([ROOT / "tests/postgres/pgbench/run.sh"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
                          env={**os.environ, "BENCH_N": "3000", "BENCH_SECONDS": "1", "BENCH_CLIENTS": "4"})
    print(done.stdout)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("the index has each of the") == 3 and done.stdout.count("4 clients") == 3
