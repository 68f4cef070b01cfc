"""The demo's table and its 20 queries, through SQL: the best answer is the one a reader would choose.

Run by `make check`: /usr/bin/python3 -m pytest tests/demo.  As a program it prints docs/DEMO_QUERIES.md.
"""
import os
import pathlib
import re
import sqlite3
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data" / "demo"
EXTENSION = os.environ.get("BITLM_EXTENSION", str(ROOT / "build" / "bitlm0"))
SEARCH = """SELECT id, bitlm_hamming(code, bitlm_embed(?1)) AS bits, body FROM notes
            ORDER BY bits, id LIMIT 3"""


def rows(name):
    text = (DATA / name).read_text(encoding="utf-8")
    return [line.split("\t") for line in text.splitlines()]


def connect():
    db = sqlite3.connect(":memory:")
    db.enable_load_extension(True)
    db.load_extension(EXTENSION)
    return db


def filled():
    db = connect()
    db.execute("CREATE TABLE notes(id INTEGER PRIMARY KEY, source TEXT, body TEXT, code BLOB)")
    db.executemany("INSERT INTO notes(id, source, body) VALUES (?, ?, ?)", rows("notes.tsv"))
    db.execute("UPDATE notes SET code = bitlm_embed(body)")
    return db


def test_the_notes_are_what_the_documents_say():
    notes = rows("notes.tsv")
    assert 300 <= len(notes) <= 1000
    assert [int(note[0]) for note in notes] == list(range(1, len(notes) + 1))
    sources = {row[0] for row in rows("sources.tsv")[1:]}
    assert {note[1] for note in notes} == sources
    assert len({note[2] for note in notes}) == len(notes)


def test_each_query_finds_its_note_first():
    db = filled()
    queries = rows("queries.tsv")
    assert len(queries) == 20
    missed = []
    margins = []
    for wanted, query in queries:
        found = db.execute(SEARCH, (query,)).fetchall()
        margins.append(found[1][1] - found[0][1])
        if found[0][0] != int(wanted):
            missed.append((query, wanted, found))
    print("20 queries, bits between the first answer and the second: least %d, median %d"
          % (min(margins), sorted(margins)[10]))
    assert not missed


def test_the_demo_runs_and_shows_it():
    done = subprocess.run([str(ROOT / "tests" / "demo" / "demo.sh")], stdin=subprocess.DEVNULL,
                          capture_output=True, timeout=110, cwd="/")
    out = done.stdout.decode("utf-8")
    assert done.returncode == 0 and done.stderr == b"", done.stderr.decode()
    for text in ("SELECT piece FROM bitlm_stream(", "The app includes an audible siren", "Run Time"):
        assert text in out
    assert re.search(r"^[0-9A-F]{96}$", out, re.M)


def test_the_examples_of_the_documents_run():
    db = connect()
    text = (ROOT / "docs" / "SQL.md").read_text(encoding="utf-8")
    examples = re.findall(r"```sql\n(.*?)```", text, re.S)
    assert len(examples) > 10
    for example in examples:
        for statement in re.split(r";\n", example):
            if statement.strip():
                for row in db.execute(statement).fetchall():
                    assert None not in row[:1], statement


def print_document():
    db = filled()
    print("""# The demo's queries

`tests/data/demo/notes.tsv` holds %d short texts in the public domain (`sources.tsv` names each
source and its licence). For each of these 20 queries the best answer is the one that a reader
would choose; `tests/demo/test_demo_queries.py` checks it, and as a program prints this page. The
number is how many of 384 bits differ.
""" % len(rows("notes.tsv")))
    for _, query in rows("queries.tsv"):
        print("**%s**\n" % query)
        for _, bits, body in db.execute(SEARCH, (query,)):
            print("- %d: %s" % (bits, body))
        print()
    print("""## Where it misses

The encoder is small, and a code has 384 bits. Queries that ask for an inference, or whose words lead
elsewhere, miss; the table has a better answer to each of these:
""")
    for query in ("somebody stole my work laptop", "how much of the world's water is drinkable?",
                  "how to make pickled cabbage"):
        _, bits, body = db.execute(SEARCH, (query,)).fetchone()
        print("- **%s** finds (%d) %s" % (query, bits, body))


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")
    print_document()
