"""What the tests of the SQLite extension share.

They load the built extension into Debian's sqlite3 module:

    make && /usr/bin/python3 -m pytest tests/sqlite

BITLM_EXT    the extension without its suffix (build/bitlm0)
BITLM_CLI    the command, which makes models with random weights (build/bitlm)
BITLM_SLACK  factor on every time limit, for sanitizers and slow machines (1)
"""

import os
import pathlib
import sqlite3
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXTENSION = os.path.abspath(os.environ.get("BITLM_EXT", ROOT / "build" / "bitlm0"))
COMMAND = os.path.abspath(os.environ.get("BITLM_CLI", ROOT / "build" / "bitlm"))
SLACK = float(os.environ.get("BITLM_SLACK", "1"))

CODE_BITS = 384  # of the built-in encoder


def connect(path=":memory:", entry=None, **arguments):
    """A connection with the extension; loading is switched off again."""
    arguments.setdefault("isolation_level", None)
    connection = sqlite3.connect(path, **arguments)
    connection.enable_load_extension(True)
    if entry:  # Python 3.11 gives no way to name an entry point, SQL does
        connection.execute("SELECT load_extension(?, ?)", (EXTENSION, entry)).fetchall()
    else:
        connection.load_extension(EXTENSION)
    connection.enable_load_extension(False)
    return connection


def one(connection, sql, *parameters):
    """The only value of the only row."""
    rows = connection.execute(sql, parameters).fetchall()
    assert len(rows) == 1 and len(rows[0]) == 1, rows
    return rows[0][0]


@pytest.fixture
def db():
    connection = connect()
    yield connection
    connection.close()


def synth(shape, path):
    subprocess.run([COMMAND, "synth", "--shape", shape, "--type", "i2_s", path], check=True,
                   stdout=subprocess.DEVNULL)
    return path


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory):
    """A decoder with random weights that takes no time."""
    return synth("tiny", str(tmp_path_factory.mktemp("tiny") / "tiny.gguf"))


@pytest.fixture
def tiny(db, tiny_path):
    """`db` with the model 'tiny' loaded."""
    db.execute("SELECT bitlm_load('tiny', ?)", (tiny_path,)).fetchall()
    return db


@pytest.fixture(scope="session")
def slow_path(tmp_path_factory):
    """A decoder whose prefill takes seconds."""
    return synth("100m", str(tmp_path_factory.mktemp("slow") / "slow.gguf"))


@pytest.fixture
def slow(db, slow_path):
    db.execute("SELECT bitlm_load('slow', ?)", (slow_path,)).fetchall()
    return db
