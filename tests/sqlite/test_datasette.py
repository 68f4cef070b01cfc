"""Datasette with the extension: a semantic search over a table, asked for as its pages ask.

DATASETTE  the command (datasette); skipped where it is not installed
"""

import json
import os
import shutil
import subprocess
import urllib.parse

import pytest

from conftest import EXTENSION, connect

DATASETTE = shutil.which(os.environ.get("DATASETTE", "datasette"))
pytestmark = pytest.mark.skipif(not DATASETTE, reason="datasette (PyPI) is not installed")
INDEXED = ("SELECT distance, body FROM near JOIN notes ON notes.id = near.rowid "
           "WHERE near.code MATCH bitlm_embed(:q) AND k = 2")  # as docs/SQL.md shows it
SEARCH = "SELECT body FROM notes ORDER BY bitlm_hamming(code, bitlm_embed(:q)) LIMIT 1"


@pytest.fixture
def notes(tmp_path):
    path = str(tmp_path / "notes.db")
    db = connect(path)
    db.execute("CREATE TABLE notes(id INTEGER PRIMARY KEY, body TEXT, code BLOB)")
    for body in ("The dentist moved my appointment to Friday.", "Fix the leaking tap in the kitchen.",
                 "The tax return is due at the end of May."):
        db.execute("INSERT INTO notes(body, code) VALUES(?, bitlm_embed(?))", (body, body))
    db.execute("CREATE VIRTUAL TABLE near USING bitlm_index(bits=384)")
    db.execute("INSERT INTO near(rowid, code) SELECT id, code FROM notes")
    db.close()
    return path


def get(path, page, *settings, **parameters):
    url = "/notes%s?%s" % (page, urllib.parse.urlencode(parameters))
    done = subprocess.run([DATASETTE, path, "--load-extension", EXTENSION + ".so:sqlite3_bitlm_noload_init", *settings,
                           "--get", url], capture_output=True, text=True, timeout=60)
    return done.stdout


def test_search(notes):
    rows = json.loads(get(notes, ".json", sql=SEARCH, q="a letter from the tax office", _shape="array"))
    assert rows == [{"body": "The tax return is due at the end of May."}]
    page = get(notes, "", sql=SEARCH, q="plumbing")
    assert "Fix the leaking tap" in page and 'name="q"' in page


def test_search_of_an_index(notes):
    db = connect(notes)
    wanted = db.execute(INDEXED, {"q": "plumbing"}).fetchall()
    db.close()
    assert wanted[0][1] == "Fix the leaking tap in the kitchen."
    rows = json.loads(get(notes, ".json", sql=INDEXED, q="plumbing", _shape="array"))
    assert [(row["distance"], row["body"]) for row in rows] == wanted


def test_no_file_is_opened_and_time_is_limited(notes):
    assert "no such function: bitlm_load" in get(notes, ".json", sql="SELECT bitlm_load('m', '/etc/passwd')")
    slow = get(notes, ".json", "--setting", "sql_time_limit_ms", "20",
               sql="SELECT bitlm_generate('x', '{\"max_tokens\":256,\"ignore_eos\":true}')")
    assert "interrupted" in slow.lower()
