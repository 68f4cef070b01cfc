"""The extension linked into an application with -DSQLITE_CORE (static_host.c): the same results as loaded."""

import os
import subprocess

import pytest

from conftest import ROOT, one

PROGRAM = os.environ.get("BITLM_STATIC_HOST", str(ROOT / "build" / "meson" / "tests" / "static_host"))
SCRIPT = ["SELECT hex(bitlm_embed('a letter'))", "SELECT bitlm_generate('Once upon', '{\"max_tokens\":9,\"seed\":3}')",
          "CREATE VIRTUAL TABLE v USING bitlm_index(bits=384)", "INSERT INTO v(rowid, code) SELECT idx, code FROM "
          "bitlm_embed_each('[\"a cat\",\"a letter\",\"the tax office\"]')",
          "SELECT rowid FROM v WHERE code MATCH bitlm_embed('a letter') AND k = 2"]


def run(*arguments):
    return subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("entry", [[], ["--noload"]])
def test_the_same_as_loaded(db, entry):
    done = run(*entry, *SCRIPT)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    want = [one(db, SCRIPT[0]), one(db, SCRIPT[1])]
    for statement in SCRIPT[2:4]:
        db.execute(statement)
    want += [str(row[0]) for row in db.execute(SCRIPT[4])]
    assert done.stdout == "\n".join(want) + "\n"


def test_which_entry_point_may_load(tiny_path):
    load = "SELECT bitlm_load('tiny', '%s') IS NULL" % tiny_path
    assert run(load).returncode == 0
    refused = run("--noload", load)
    assert refused.returncode == 1 and "no such function: bitlm_load" in refused.stderr
