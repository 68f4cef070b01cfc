"""The suites of the server's own drivers: SQL scripts in regress/, specs of several sessions in isolation/.

Each goes into a database of its own on the cluster of cluster.sh.  To take over new answers once they were read:

    BITLM_ACCEPT=1 tests/postgres/cluster.sh /usr/bin/python3 -m pytest tests/postgres/test_regress.py
"""

import os
import pathlib
import shutil
import subprocess

import pytest

FOLDER = pathlib.Path(__file__).resolve().parent
SUITES = {"regress": ("sql", "*.sql"), "isolation": ("specs", "*.spec")}


def driver(suite):
    config = os.environ.get("PG_CONFIG", "pg_config")
    pgxs = subprocess.run([config, "--pgxs"], check=True, capture_output=True, text=True).stdout.strip()
    test = pathlib.Path(pgxs).parents[1] / "test"
    return test / suite / {"regress": "pg_regress", "isolation": "pg_isolation_regress"}[suite]


@pytest.mark.parametrize("suite", SUITES)
def test_suite(extension, tmp_path, suite):
    program = driver(suite)
    if not program.exists():
        pytest.skip(f"{program} is not there: the package of the server's headers has it")
    sources, pattern = SUITES[suite]
    names = sorted(path.stem for path in (FOLDER / suite / sources).glob(pattern))
    assert len(names) >= 6
    bindir = subprocess.run([os.environ.get("PG_CONFIG", "pg_config"), "--bindir"], check=True, capture_output=True, text=True)
    done = subprocess.run([program, f"--bindir={bindir.stdout.strip()}", f"--inputdir={FOLDER / suite}", f"--outputdir={tmp_path}",
                           f"--dbname=bitlm_{suite}", "--load-extension=bitlm", f"--host={os.environ['PGHOST']}",
                           f"--user={os.environ['PGUSER']}", *names], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
                          env={**os.environ, "PGOPTIONS": "-c jit=off"})
    print(done.stdout)
    if os.environ.get("BITLM_ACCEPT"):
        for name in names:
            shutil.copyfile(tmp_path / "results" / f"{name}.out", FOLDER / suite / "expected" / f"{name}.out")
    differences = tmp_path / "regression.diffs"
    assert done.returncode == 0, differences.read_text(encoding="utf-8") if differences.exists() else done.stdout
