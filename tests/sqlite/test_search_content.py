"""bitlm_search over another table and without content, its commands, damage, and words beside meaning."""

import json
import pathlib
import random
import re
import sqlite3

import pytest

from conftest import ROOT, connect, one

TOPICS = ["a letter from the tax office", "mend a flat tyre", "carrot soup with salt", "the dog sleeps", "rain all day",
          "a train to the sea", "toothache at night", "birthday cake", "water the plants", "a quiet library"]


def info(db, name="s"):
    return json.loads(one(db, "SELECT bitlm_search_info(?)", name))


def check(db, name="s", rank=None):
    db.execute(f"INSERT INTO {name}({name}, rank) VALUES('integrity-check', ?)", (rank,))


def triggers(table, delete):
    """The recipe of docs/SQL.md; delete: how FTS5's recipe does it."""
    gone = (f"INSERT INTO s(s, rowid, body) VALUES ('delete', old.id, old.body)" if delete else "DELETE FROM s WHERE rowid = old.id")
    return [f"CREATE TRIGGER t1 AFTER INSERT ON {table} BEGIN INSERT INTO s(rowid, body) VALUES (new.id, new.body); END",
            f"CREATE TRIGGER t2 AFTER DELETE ON {table} BEGIN {gone}; END",
            f"CREATE TRIGGER t3 AFTER UPDATE OF body ON {table} BEGIN UPDATE s SET body = new.body WHERE rowid = old.id; END"]


@pytest.mark.parametrize("delete", [False, True])
def test_external_content_and_triggers(db, delete):
    db.execute("CREATE TABLE notes(id INTEGER PRIMARY KEY, x, body)")
    db.execute("CREATE VIRTUAL TABLE s USING bitlm_search(body, content='notes', content_rowid=id)")
    for trigger in triggers("notes", delete):
        db.execute(trigger)
    db.execute("BEGIN")
    db.executemany("INSERT INTO notes(id, body) VALUES (?,?)", [(i * 10, t) for i, t in enumerate(TOPICS, 1)])
    db.execute("COMMIT")
    assert (info(db)["embedded"], info(db)["batches"]) == (10, 1)  # statements of triggers have savepoints, yet one batch
    assert db.execute("SELECT rowid, body, chunk FROM s('a dog', 1)").fetchall() == [(40, "the dog sleeps", "the dog sleeps")]
    db.execute("UPDATE notes SET x = 1")
    assert info(db)["embedded"] == 10
    db.execute("UPDATE notes SET body = 'a ship at sea' WHERE id = 40")
    db.execute("DELETE FROM notes WHERE id = 10")
    db.execute("INSERT OR REPLACE INTO notes(id, body) VALUES (50, 'a ship in a bottle')")
    assert db.execute("SELECT rowid FROM s('ship', 2)").fetchall() in ([(40,), (50,)], [(50,), (40,)])
    check(db, rank=1)
    before = db.execute("SELECT rowid, rank, body FROM s('ship')").fetchall()
    db.execute("INSERT INTO s(s) VALUES ('rebuild')")
    assert db.execute("SELECT rowid, rank, body FROM s('ship')").fetchall() == before
    db.execute("BEGIN")
    db.execute("INSERT INTO notes(id, body) VALUES (1000, 'gone soon')")
    db.execute("SAVEPOINT a")
    db.execute("DELETE FROM notes WHERE id = 1000")
    assert db.execute("SELECT rowid FROM s('gone soon', 1)").fetchall() != [(1000,)]
    db.execute("ROLLBACK TO a")
    assert db.execute("SELECT rowid FROM s('gone soon', 1)").fetchall() == [(1000,)]
    db.execute("COMMIT")
    check(db, rank=1)
    db.execute("DROP TRIGGER t2")
    db.execute("DELETE FROM notes WHERE id = 1000")
    assert db.execute("SELECT rowid, body, chunk, chunk_length FROM s('gone soon', 1)").fetchall() == [(1000, None, None, 9)]
    check(db)
    with pytest.raises(sqlite3.DatabaseError, match="1 rows are only in notes or only in the index"):
        check(db, rank=1)
    db.execute("INSERT INTO s(s) VALUES ('delete-all')")
    assert db.execute("SELECT rowid FROM s('x')").fetchall() == []
    check(db)
    db.execute("INSERT INTO s(s) VALUES ('rebuild')")
    check(db, rank=1)


def test_a_view_as_content(db):
    db.execute("CREATE TABLE a(id INTEGER PRIMARY KEY, body)")
    db.execute("CREATE VIEW v AS SELECT id + 100 AS n, upper(body) AS body FROM a")
    db.executemany("INSERT INTO a(body) VALUES (?)", [(t,) for t in TOPICS])
    db.execute("CREATE VIRTUAL TABLE s USING bitlm_search(body, content='v', content_rowid='n')")
    db.execute("INSERT INTO s(s) VALUES ('rebuild')")
    assert db.execute("SELECT rowid, body FROM s('the dog', 1)").fetchall() == [(104, "THE DOG SLEEPS")]
    db.execute("DROP VIEW v")
    with pytest.raises(sqlite3.OperationalError, match="the content table: no such table: main.v"):
        db.execute("INSERT INTO s(s) VALUES ('rebuild')")


def test_a_rebuild_that_fails_is_told(db):
    db.execute("CREATE TABLE notes(id INTEGER PRIMARY KEY, body)")
    db.executemany("INSERT INTO notes(body) VALUES (?)", [("x",), ("y",), (b"z",)])
    db.execute("CREATE VIRTUAL TABLE s USING bitlm_search(body, content='notes', content_rowid='id')")
    with pytest.raises(sqlite3.IntegrityError, match="body of row 3 is a BLOB"):
        db.execute("INSERT INTO s(s) VALUES ('rebuild')")
    db.execute("BEGIN")  # nothing rolls the statement back by itself here
    with pytest.raises(sqlite3.IntegrityError):
        db.execute("INSERT INTO s(s) VALUES ('rebuild')")
    db.execute("COMMIT")
    with pytest.raises(sqlite3.OperationalError, match="is not complete.*'rebuild'"):
        db.execute("SELECT * FROM s('x')").fetchall()
    db.execute("UPDATE notes SET body = 'z' WHERE id = 3")
    db.execute("INSERT INTO s(s) VALUES ('rebuild')")
    assert len(db.execute("SELECT * FROM s('x')").fetchall()) == 3
    check(db, rank=1)


def test_contentless(db):
    db.execute("CREATE VIRTUAL TABLE s USING bitlm_search(title, body, content='')")
    db.executemany("INSERT INTO s(rowid, title, body) VALUES (?,?,?)", [(i, "n", t) for i, t in enumerate(TOPICS)])
    assert db.execute("SELECT rowid, title, body, chunk, chunk_start, chunk_length FROM s('the dog', 1)").fetchall() == [
        (3, None, None, None, 1, 16)]
    db.execute("UPDATE s SET title = 'n', body = 'a ship' WHERE rowid = 3")
    with pytest.raises(sqlite3.OperationalError, match="must set all its columns: title"):
        db.execute("UPDATE s SET body = 'a ship' WHERE rowid = 4")
    assert db.execute("SELECT rowid FROM s('ship', 1)").fetchall() == [(3,)]
    db.execute("DELETE FROM s WHERE rowid = 3")
    db.execute("INSERT INTO s(s, rowid) VALUES ('delete', 4)")
    assert [r for r, in db.execute("SELECT rowid FROM s")] == [0, 1, 2, 5, 6, 7, 8, 9]
    check(db)
    with pytest.raises(sqlite3.OperationalError, match="keeps no texts"):
        db.execute("INSERT INTO s(s) VALUES ('rebuild')")
    db.execute("UPDATE s_config SET v = replace(v, substr(v, 1, 4), '0000') WHERE k = 'model_id'")
    with pytest.raises(sqlite3.OperationalError, match="keeps no texts to 'rebuild' from"):
        db.execute("SELECT * FROM s('x')").fetchall()


def fuse(lists):
    score = {}
    for found in lists:
        for place, rowid in enumerate(found, 1):
            score[rowid] = score.get(rowid, 0) + 1.0 / (60 + place)
    return sorted(score.items(), key=lambda x: (-x[1], x[0]))


QUERIES = ["how do I fix a \"flat\" tyre?", "water (clean) - for drinking: 100%", "  a*  ^letter\t ", "NEAR(cat dog) AND", "", "!?", "größe"]


def test_words_and_meaning(db):
    bodies = [line.split("\t")[-1] for line in
              (ROOT / "tests" / "data" / "demo" / "notes.tsv").read_text(encoding="utf-8").splitlines()]
    db.execute("CREATE TABLE notes(id INTEGER PRIMARY KEY, body)")
    db.executemany("INSERT INTO notes(body) VALUES (?)", [(b,) for b in bodies])
    db.execute("CREATE VIRTUAL TABLE words USING fts5(body, content='notes', content_rowid='id')")
    db.execute("INSERT INTO words(words) VALUES ('rebuild')")
    for name, more in (("notes_search", ""), ("s", ", fts='words'")):
        db.execute(f"CREATE VIRTUAL TABLE {name} USING bitlm_search(body, content='notes', content_rowid='id'{more})")
        db.execute(f"INSERT INTO {name}({name}) VALUES ('rebuild')")
    for text in QUERIES:
        match = " OR ".join('"%s"' % w.replace('"', '""') for w in text.split())
        words = [r for r, in db.execute("SELECT rowid FROM words WHERE words MATCH ? ORDER BY rank, rowid LIMIT 1000", (match,))] if match else []
        meaning = [r for r, in db.execute("SELECT rowid FROM notes_search(?, 1000)", (text,))]
        want = fuse([meaning, words])
        got = db.execute("SELECT rowid, rank, chunk FROM s(?)", (text,)).fetchall()
        assert [r for r, _, _ in got] == [r for r, _ in want]
        assert [rank for _, rank, _ in got] == pytest.approx([-score for _, score in want])
        assert all(chunk == bodies[r - 1] for r, _, chunk in got)
        assert db.execute("SELECT rowid FROM s(?, 3)", (text,)).fetchall() == [(r,) for r, _ in want[:3]]
        assert db.execute("SELECT rowid FROM s(?) WHERE rowid IN (1, 5, 9) ORDER BY rank", (text,)).fetchall() == [
            (r,) for r, _ in want if r in (1, 5, 9)]
    # The documented query is the same.
    section = (pathlib.Path(ROOT) / "docs" / "SQL.md").read_text(encoding="utf-8")
    query = next(q for q in re.findall(r"WITH q\(text\).*?LIMIT 10", section, re.S) if "notes_search" in q)
    for text in QUERIES[:2]:
        got = db.execute(query.replace("""'is there "tax" mail?'""", "?"), (text,)).fetchall()
        assert got == db.execute("SELECT rowid, rank FROM s(?, 10)", (text,)).fetchall()
    db.execute("DROP TABLE words")
    with pytest.raises(sqlite3.OperationalError, match="fts='words'.*no such table"):
        db.execute("SELECT * FROM s('x')").fetchall()


def test_words_alone_find_a_chunk(db):
    """A row that only the words have found: its chunk is looked up."""
    db.execute("CREATE VIRTUAL TABLE words USING fts5(body)")
    db.execute("CREATE VIRTUAL TABLE s USING bitlm_search(body, fts='words', chunk_size=32)")
    db.execute("BEGIN")
    for rowid in range(1, 1300):
        db.execute("INSERT INTO s(rowid, body) VALUES (?, 'mend a flat tyre')", (rowid,))
    far = "Zyzzyva. " * 30 + "The end of the word list is here, where a beetle sleeps."
    db.execute("INSERT INTO s(rowid, body) VALUES (5000, ?)", (far,))
    db.execute("INSERT INTO words(rowid, body) VALUES (5000, ?)", (far,))
    db.execute("COMMIT")
    rows = db.execute("SELECT rowid, chunk, substr(body, chunk_start, chunk_length) FROM s('mend a flat tyre zyzzyva')").fetchall()
    assert len(rows) == 1001
    row = next(r for r in rows if r[0] == 5000)
    assert row[1] and row[1] == row[2]


DAMAGE = [
    ("UPDATE s_blocks SET data = substr(data, 1, 40)", True),
    ("UPDATE s_blocks SET data = zeroblob(length(data))", True),
    ("UPDATE s_blocks SET n = n + 1", True),
    ("UPDATE s_blocks SET data = CAST('text' AS TEXT)", True),
    ("DELETE FROM s_blocks", False),
    ("UPDATE s_docs SET places = x'00' WHERE id = 2", False),
    ("UPDATE s_docs SET n = -1 WHERE id = 2", False),
    ("UPDATE s_docs SET n = 9223372036854775807 WHERE id = 2", False),
    ("UPDATE s_docs SET first = 9223372036854775807 WHERE id = 2", False),
    ("UPDATE s_docs SET first = first + 1 WHERE id = 2", False),
    ("UPDATE s_docs SET ticket = 1 WHERE id = 2", False),
    ("DELETE FROM s_docs WHERE id = 2", False),
    ("DELETE FROM s_content WHERE id = 2", False),
    ("DELETE FROM s_config WHERE k = 'stamp'", True),
    ("DELETE FROM s_config WHERE k = 'bits'", True),
    ("UPDATE s_config SET v = '-8' WHERE k = 'bits'", True),
    ("UPDATE s_config SET v = '16' WHERE k = 'bits'", True),
    ("DROP TABLE s_docs", False),
    ("DROP TABLE s_blocks", True),
]


def test_random_bytes_in_shadow_blobs(tmp_path):
    """Every answer is right, or SQLITE_CORRUPT."""
    rng = random.Random(7)
    print("seed 7")
    path = str(tmp_path / "s.db")
    db = connect(path)
    db.execute("CREATE VIRTUAL TABLE s USING bitlm_search(body, chunk_size=32)")
    db.execute("BEGIN")
    for i in range(60):
        db.execute("INSERT INTO s(body) VALUES (?)", (" ".join(rng.choices(TOPICS, k=8)),))
    db.execute("COMMIT")
    query = "SELECT rowid, rank, chunk FROM s('the dog')"
    right = db.execute(query).fetchall()
    db.close()
    seen = 0
    for _ in range(120):
        db = connect(path)
        db.execute("BEGIN")
        table, column, key = rng.choice([("s_blocks", "data", "first"), ("s_docs", "places", "id")])
        rowid, blob = rng.choice(db.execute(f"SELECT {key}, {column} FROM {table}").fetchall())
        blob = bytearray(blob)
        for _ in range(rng.choice([1, 1, 8])):
            blob[rng.randrange(len(blob))] ^= 1 << rng.randrange(8)
        if rng.random() < 0.2:
            del blob[rng.randrange(len(blob)):]
        db.execute(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", (bytes(blob), rowid))
        try:
            rows = db.execute(query).fetchall()
            # A place that is wrong but possible shows another part of the text.
            assert [r[:2] for r in rows] == [r[:2] for r in right]
        except sqlite3.DatabaseError as error:
            assert error.sqlite_errorcode & 0xff == sqlite3.SQLITE_CORRUPT
            seen += 1
        db.execute("ROLLBACK")
        db.close()
    assert seen > 30


@pytest.mark.parametrize("sql, search_fails", DAMAGE)
def test_damage_is_told(tmp_path, sql, search_fails):
    path = str(tmp_path / "s.db")
    db = connect(path)
    db.execute("CREATE VIRTUAL TABLE s USING bitlm_search(body)")
    db.executemany("INSERT INTO s(body) VALUES (?)", [(t,) for t in TOPICS])
    db.close()
    db = connect(path)
    db.execute(sql)
    with pytest.raises(sqlite3.DatabaseError) as error:
        check(db)
    assert error.value.sqlite_errorcode & 0xff == sqlite3.SQLITE_CORRUPT
    assert "bitlm_search s:" in str(error.value)
    for statement in ("SELECT rowid, rank, body, chunk FROM s('the dog')", "SELECT * FROM s", "DELETE FROM s WHERE rowid = 2",
                      "UPDATE s SET body = 'new' WHERE rowid = 2", "SELECT bitlm_search_info('s')"):
        try:
            db.execute(statement).fetchall()
            assert not (search_fails and "the dog" in statement)
        except sqlite3.DatabaseError as why:
            assert why.sqlite_errorcode & 0xff == sqlite3.SQLITE_CORRUPT, (statement, why)
    if not sql.startswith("DROP"):
        db.execute("INSERT INTO s(s) VALUES ('rebuild')")
        check(db)
    db.execute("DROP TABLE s")
    assert db.execute("SELECT name FROM sqlite_master").fetchall() == []
    db.close()
