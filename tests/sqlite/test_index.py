"""bitlm_index against brute force over a plain table, and all that a table must do."""

import os
import random
import shutil
import sqlite3
import struct
import subprocess

import pytest

from conftest import EXTENSION, connect, one

BITS = 64
BYTES = BITS // 8


def code_of(number):
    return (number & (2**BITS - 1)).to_bytes(BYTES, "big")


def distance(a, b):
    return bin(int.from_bytes(a, "big") ^ int.from_bytes(b, "big")).count("1")


def random_code(rng):
    return code_of(rng.getrandbits(BITS))


@pytest.fixture
def filled(db):
    """v with metadata over 5,000 rows, and the same rows as a list."""
    db.execute("CREATE VIRTUAL TABLE v USING bitlm_index(bits=64, lang TEXT, year INTEGER, score REAL)")
    rng = random.Random(11)
    rows = []
    db.execute("BEGIN")
    for i in range(5000):
        row = (i * 3 + 1, random_code(rng), rng.choice(["de", "en", "fr", None]),
               rng.randrange(1900, 2030), rng.choice([0.5, 1.0, 2.25, None]))
        rows.append(row)
        db.execute("INSERT INTO v(rowid, code, lang, year, score) VALUES (?,?,?,?,?)", row)
    db.execute("COMMIT")
    return db, rows


def brute(rows, query, k, keep=lambda row: True):
    hits = sorted((distance(query, row[1]), row[0]) for row in rows if keep(row))
    return [(rowid, d) for d, rowid in hits[:k]]


def test_nearest(filled):
    db, rows = filled
    rng = random.Random(5)
    for k in (0, 1, 10, 100, 5000, 6000):
        query = random_code(rng)
        got = db.execute("SELECT rowid, distance FROM v WHERE code MATCH ? AND k = ?", (query, k)).fetchall()
        assert got == brute(rows, query, k)


FILTERS = [
    ("lang = 'de'", lambda r: r[2] == "de"),
    ("lang != 'de'", lambda r: r[2] is not None and r[2] != "de"),
    ("lang IS NOT 'de'", lambda r: r[2] != "de"),
    ("lang IS NULL", lambda r: r[2] is None),
    ("lang IS NOT NULL", lambda r: r[2] is not None),
    ("lang > 'de'", lambda r: r[2] is not None and r[2] > "de"),
    ("lang IN ('de', 'fr', 'xx', NULL)", lambda r: r[2] in ("de", "fr")),
    ("lang IN (SELECT 'en')", lambda r: r[2] == "en"),
    ("lang = NULL", lambda r: False),
    ("year = 1999", lambda r: r[3] == 1999),
    ("year = '1999'", lambda r: r[3] == 1999),
    ("year < 1950", lambda r: r[3] < 1950),
    ("year <= 1950.5", lambda r: r[3] <= 1950.5),
    ("year >= 2020 AND year < 2025", lambda r: 2020 <= r[3] < 2025),
    ("year BETWEEN 1910 AND 1920", lambda r: 1910 <= r[3] <= 1920),
    ("year IN (1901, 1950, 2020, 2021, 5)", lambda r: r[3] in (1901, 1950, 2020, 2021)),
    ("year > 'x'", lambda r: False),
    ("score = 1", lambda r: r[4] == 1.0),
    ("score > 0.5", lambda r: r[4] is not None and r[4] > 0.5),
    ("score IS NULL AND lang = 'en'", lambda r: r[4] is None and r[2] == "en"),
    ("rowid IN (1, 4, 7, 100, 5000, 14998)", lambda r: r[0] in (1, 4, 7, 100, 14998)),
    ("rowid IN (SELECT value FROM generate_series_(1, 3000))", lambda r: r[0] < 3001),
    ("rowid = 4", lambda r: r[0] == 4),
    ("rowid > 10000", lambda r: r[0] > 10000),
    ("rowid >= 10000 AND rowid <= 10100.5", lambda r: 10000 <= r[0] <= 10100),
    ("rowid IN (SELECT value FROM generate_series_(1, 3000)) AND rowid IN (1, 4, 9000)", lambda r: r[0] in (1, 4)),
    ("distance < 20", None),
    ("distance <= 20 AND lang = 'de'", None),
    ("distance < 20.5", None),
    ("distance < 0", None),
    ("distance <= 1000", None),
]


def series(sql):
    """generate_series is no part of the library."""
    return sql.replace("SELECT value FROM generate_series_(1, 3000)",
                       "WITH RECURSIVE g(value) AS (SELECT 1 UNION ALL SELECT value+1 FROM g WHERE value < 3000) "
                       "SELECT value FROM g")


def test_filters(filled):
    """Exactly min(k, matching) rows, and the same as brute force."""
    db, rows = filled
    rng = random.Random(6)
    for text, keep in FILTERS:
        query = random_code(rng)
        if keep is None:
            def keep(r, text=text, query=query):
                d = distance(query, r[1])
                return eval(text.replace("= 'de'", "== 'de'").replace("AND", "and"), {"distance": d, "lang": r[2]})
        for k in (1, 10, 400):
            sql = "SELECT rowid, distance FROM v WHERE code MATCH ? AND k = ? AND " + series(text)
            assert db.execute(sql, (query, k)).fetchall() == brute(rows, query, k, keep), (text, k)
        # Without k, streamed in order of distance.
        sql = "SELECT rowid, distance FROM v WHERE code MATCH ? AND " + series(text) + " ORDER BY distance LIMIT 30"
        assert db.execute(sql, (query,)).fetchall() == brute(rows, query, 30, keep), text
        sql = "SELECT rowid, distance FROM v WHERE code MATCH ? AND " + series(text)
        assert db.execute(sql, (query,)).fetchall() == brute(rows, query, 9999, keep), text
        # And without a search.
        if "distance" not in text:
            sql = "SELECT rowid, code, lang, year, score FROM v WHERE " + series(text)
            assert db.execute(sql).fetchall() == [r for r in rows if keep(r)], text


def test_plan_takes_filters_over(filled):
    db, _ = filled
    plan = db.execute("EXPLAIN QUERY PLAN SELECT rowid FROM v WHERE code MATCH x'00' AND k=10 AND lang='de' "
                      "ORDER BY distance").fetchall()
    assert len(plan) == 1, plan  # no sorter


def test_streams_stop_early_and_page(filled):
    db, rows = filled
    query = rows[77][1]
    expected = brute(rows, query, 5000)
    cursor = db.execute("SELECT rowid, distance FROM v WHERE code MATCH ?", (query,))
    assert [cursor.fetchone() for _ in range(1500)] == expected[:1500]
    cursor.close()
    got = db.execute("SELECT rowid, distance FROM v WHERE code MATCH ? ORDER BY distance LIMIT 7 OFFSET 20", (query,))
    assert got.fetchall() == expected[20:27]
    # A condition that only SQLite can see.
    got = db.execute("SELECT rowid, distance FROM v WHERE code MATCH ? AND year % 7 = 0 ORDER BY distance LIMIT 25",
                     (query,)).fetchall()
    assert got == brute(rows, query, 25, lambda r: r[3] % 7 == 0)


def test_order_and_limit_of_a_search(filled):
    """Only ORDER BY distance is the search's own order; limits as large as integers get are no limit."""
    db, rows = filled
    query = rows[77][1]
    near = brute(rows, query, 20)
    ask = lambda tail: db.execute("SELECT rowid, distance FROM v WHERE code MATCH ? AND k = 20 " + tail, (query,)).fetchall()
    assert ask("ORDER BY rowid") == sorted(near)
    assert ask("ORDER BY rowid DESC") == sorted(near, reverse=True)
    assert ask("ORDER BY distance, rowid") == ask("ORDER BY distance") == near
    assert ask("ORDER BY distance DESC, rowid") == sorted(near, key=lambda hit: (-hit[1], hit[0]))
    assert ask("ORDER BY year, rowid") == sorted(near, key=lambda hit: ([r for r in rows if r[0] == hit[0]][0][3], hit[0]))
    stream = "SELECT rowid, distance FROM v WHERE code MATCH ? "
    assert db.execute(stream + "ORDER BY rowid LIMIT 3", (query,)).fetchall() == sorted(brute(rows, query, 5000))[:3]
    for tail, want in (("LIMIT 9223372036854775807 OFFSET 4990", brute(rows, query, 5000)[4990:]), ("LIMIT -1 OFFSET 4999", brute(rows, query, 5000)[4999:]),
                       ("LIMIT 2 OFFSET 9223372036854775807", []), ("LIMIT 0", []), ("LIMIT 2 OFFSET -3", brute(rows, query, 2))):
        assert db.execute(stream + "ORDER BY distance " + tail, (query,)).fetchall() == want, tail


def test_joins(filled):
    db, rows = filled
    db.execute("CREATE TABLE docs(id INTEGER PRIMARY KEY, title TEXT)")
    db.executemany("INSERT INTO docs VALUES (?, 'title ' || ?)", [(r[0], r[0]) for r in rows])
    db.execute("CREATE TABLE queries(q INTEGER PRIMARY KEY, code BLOB)")
    queries = [rows[i][1] for i in (5, 50, 500)]
    db.executemany("INSERT INTO queries(code) VALUES (?)", [(q,) for q in queries])
    for sql in ("SELECT v.rowid, distance FROM v JOIN docs ON docs.id = v.rowid WHERE code MATCH ? AND k = 10 AND lang = 'de'",
                "SELECT v.rowid, distance FROM docs JOIN v ON docs.id = v.rowid WHERE code MATCH ? AND k = 10 AND lang = 'de'",
                "SELECT v.rowid, distance FROM v JOIN docs ON docs.id = v.rowid WHERE code MATCH ? AND lang = 'de' "
                "ORDER BY distance LIMIT 10"):
        got = db.execute(sql, (queries[0],)).fetchall()
        assert got == brute(rows, queries[0], 10, lambda r: r[2] == "de"), sql
    # A condition on the other table, without k: exactly as many as asked for.
    got = db.execute("SELECT v.rowid, distance FROM v JOIN docs ON docs.id = v.rowid WHERE code MATCH ? "
                     "AND docs.title LIKE '%77' ORDER BY distance LIMIT 10", (queries[1],)).fetchall()
    assert got == brute(rows, queries[1], 10, lambda r: str(r[0]).endswith("77"))
    # A search for each row of another table.
    got = db.execute("SELECT q, v.rowid, distance FROM queries, v WHERE v.code MATCH queries.code AND k = 4").fetchall()
    assert got == [(i + 1,) + hit for i, q in enumerate(queries) for hit in brute(rows, q, 4)]
    got = db.execute("SELECT query, id, distance FROM bitlm_knn('v', ?, 4)", (b"".join(queries),)).fetchall()
    assert got == [(i,) + hit for i, q in enumerate(queries) for hit in brute(rows, q, 4)]


def test_changes(filled):
    db, rows = filled
    table = {r[0]: r for r in rows}
    db.execute("DELETE FROM v WHERE lang = 'de'")
    table = {i: r for i, r in table.items() if r[2] != "de"}
    db.execute("UPDATE v SET year = year + 1000 WHERE lang = 'en'")
    table = {i: r[:3] + (r[3] + 1000,) + r[4:] if r[2] == "en" else r for i, r in table.items()}
    db.execute("UPDATE v SET code = ? WHERE rowid = ?", (code_of(1), next(iter(table))))
    first = next(iter(table))
    table[first] = (first, code_of(1)) + table[first][2:]
    db.execute("UPDATE v SET rowid = 100000 WHERE rowid = ?", (first,))
    table[100000] = (100000,) + table.pop(first)[1:]
    db.execute("INSERT OR REPLACE INTO v(rowid, code, lang, year) VALUES (100000, ?, 'xx', '12')", (code_of(2),))
    table[100000] = (100000, code_of(2), "xx", 12, None)
    expected = sorted(table.values())
    assert db.execute("SELECT rowid, code, lang, year, score FROM v").fetchall() == expected
    assert one(db, "SELECT count(*) FROM v") == len(expected)
    query = code_of(7)
    got = db.execute("SELECT rowid, distance FROM v WHERE code MATCH ? AND k = 50", (query,)).fetchall()
    assert got == brute(expected, query, 50)
    assert one(db, "SELECT bitlm_index_check('v')") == "ok"
    db.execute("INSERT INTO v(v) VALUES ('optimize')")
    db.execute("INSERT INTO v(v) VALUES ('integrity-check')")
    assert db.execute("SELECT rowid, code, lang, year, score FROM v").fetchall() == expected


@pytest.mark.parametrize("conflict", ["ABORT", "FAIL", "ROLLBACK", "IGNORE", "REPLACE"])
def test_conflicts(db, conflict):
    db.execute("CREATE VIRTUAL TABLE v USING bitlm_index(bits=64, id TEXT PRIMARY KEY, n INTEGER, +title TEXT)")
    db.execute("CREATE TABLE plain(code BLOB, id TEXT PRIMARY KEY, n INTEGER, title TEXT)")
    for sql in ("INSERT INTO {}(code, id, n, title) VALUES (x'0000000000000001', 'a', 1, 'A')",
                "INSERT INTO {}(code, id, n, title) VALUES (x'0000000000000002', 'b', 2, 'B')",
                "BEGIN",
                "INSERT INTO {}(code, id, n, title) VALUES (x'0000000000000003', 'c', 3, 'C')",
                "INSERT OR " + conflict + " INTO {}(code, id, n, title) VALUES (x'0000000000000004', 'd', 4, 'D'), "
                "(x'0000000000000005', 'a', 5, 'E'), (x'0000000000000006', 'f', 6, 'F')",
                "UPDATE OR " + conflict + " {} SET id = 'b' WHERE id = 'c'",
                "COMMIT"):
        outcome = []
        for name in ("v", "plain"):
            try:
                if "{}" in sql:
                    db.execute(sql.format(name))
                    outcome.append(None)
            except sqlite3.IntegrityError as e:
                outcome.append("constraint")
                assert "UNIQUE" in str(e)
            if sql == "BEGIN" or "{}" not in sql:
                break
        if "{}" in sql:
            assert outcome[0] == outcome[1] or conflict == "ROLLBACK", sql
        elif sql == "BEGIN" or db.in_transaction:
            db.execute(sql)
    if conflict != "ROLLBACK":
        assert (sorted(db.execute("SELECT id, n, title, code FROM v")) ==
                sorted(db.execute("SELECT id, n, title, code FROM plain")))
    else:
        assert sorted(db.execute("SELECT id, n FROM v")) == [("a", 1), ("b", 2)]
    assert one(db, "SELECT bitlm_index_check('v')") == "ok"


def test_keys_and_auxiliary_columns(db):
    db.execute("CREATE VIRTUAL TABLE v USING bitlm_index(bits=64, id TEXT PRIMARY KEY, +title TEXT, +any, n INTEGER)")
    db.executemany("INSERT INTO v(id, code, title, any, n) VALUES (?,?,?,?,?)",
                   [("key %d" % i, code_of(i), "title %d" % i, i if i % 2 else b"\0x", i) for i in range(3000)])
    assert db.execute("SELECT title, any, n FROM v WHERE id = 'key 77'").fetchall() == [("title 77", 77, 77)]
    got = db.execute("SELECT id, title, any FROM v WHERE code MATCH ? AND k = 2", (code_of(1024),)).fetchall()
    assert got == [("key 1024", "title 1024", b"\0x"), ("key 0", "title 0", b"\0x")]
    got = db.execute("SELECT id FROM v WHERE code MATCH ? AND k = 9 AND id IN ('key 3', 'key 5', 'key 3', 'no')",
                     (code_of(3),)).fetchall()
    assert got == [("key 3",), ("key 5",)]
    db.execute("UPDATE v SET title = 'new' WHERE id = 'key 5'")
    db.execute("UPDATE v SET id = 'other' WHERE id = 'key 5'")
    db.execute("UPDATE v SET rowid = 99999 WHERE id = 'other'")
    assert db.execute("SELECT rowid, id, title, any, n, code FROM v WHERE id = 'other'").fetchall() == [
        (99999, "other", "new", 5, 5, code_of(5))]
    db.execute("DELETE FROM v WHERE id = 'key 6'")
    assert db.execute("SELECT 1 FROM v WHERE id = 'key 6'").fetchall() == []
    assert one(db, "SELECT bitlm_index_check('v')") == "ok"
    for sql in ("INSERT INTO v(id, code) VALUES (NULL, x'0000000000000000')",
                "INSERT INTO v(id, code) VALUES ('n', NULL)"):
        with pytest.raises(sqlite3.IntegrityError, match="NULL"):
            db.execute(sql)


def test_integer_primary_key(db):
    db.execute("CREATE VIRTUAL TABLE v USING bitlm_index(id INTEGER PRIMARY KEY, bits=64, u INTEGER PARTITION KEY)")
    db.execute("INSERT INTO v(id, code, u) VALUES (7, ?, 1), (NULL, ?, 2)", (code_of(1), code_of(2)))
    assert db.execute("SELECT id, rowid, u FROM v").fetchall() == [(7, 7, 1), (8, 8, 2)]
    assert db.execute("SELECT u FROM v WHERE id = 8").fetchall() == [(2,)]
    assert db.execute("SELECT id FROM v WHERE code MATCH ? AND k=5 AND u = 2", (code_of(1),)).fetchall() == [(8,)]
    with pytest.raises(sqlite3.IntegrityError):
        db.execute("INSERT INTO v(id, code) VALUES (7, ?)", (code_of(1),))
    db.execute("UPDATE v SET id = 70 WHERE id = 7")
    assert db.execute("SELECT id FROM v ORDER BY id").fetchall() == [(8,), (70,)]


def test_vectors_are_rescored(db):
    rng = random.Random(3)
    dim = 64
    db.execute("CREATE VIRTUAL TABLE v USING bitlm_index(vec FLOAT[64], rescore=20, lang TEXT)")
    vectors = [[rng.gauss(0, 1) for _ in range(dim)] for _ in range(1000)]
    pack = lambda x: struct.pack("<%df" % dim, *x)
    db.executemany("INSERT INTO v(vec, lang) VALUES (?, ?)", [(pack(x), "de" if i % 2 else "en")
                                                              for i, x in enumerate(vectors)])
    assert one(db, "SELECT count(*) FROM v WHERE code = bitlm_binarize(vec)") == 1000
    cosine = lambda a, b: sum(x * y for x, y in zip(a, b)) / (sum(x * x for x in a) * sum(y * y for y in b)) ** .5
    query = [x + rng.gauss(0, .3) for x in vectors[500]]
    got = db.execute("SELECT rowid, distance FROM v WHERE vec MATCH ? AND k = 10 AND lang = 'en'", (pack(query),)).fetchall()
    exact = sorted((1 - cosine(query, x), i + 1) for i, x in enumerate(vectors) if i % 2 == 0)[:10]
    assert got[0][0] == 501 and len({r for r, _ in got} & {i for _, i in exact}) >= 8
    scores = {i: d for d, i in exact}
    for rowid, d in got:
        assert abs(d - scores.get(rowid, d)) < 1e-5
    assert [d for _, d in got] == sorted(d for _, d in got)
    db.execute("UPDATE v SET vec = ? WHERE rowid = 3", (pack(query),))
    assert db.execute("SELECT rowid FROM v WHERE vec MATCH ? AND k = 1", (pack(query),)).fetchall() == [(3,)]
    assert db.execute("SELECT rowid FROM v WHERE vec MATCH ? AND k = 5 AND distance < 1e-6",
                      (pack(query),)).fetchall() == [(3,)]
    with pytest.raises(sqlite3.OperationalError, match="needs k"):
        db.execute("SELECT rowid FROM v WHERE vec MATCH ?", (pack(query),)).fetchall()


def test_duplicates(filled):
    db, rows = filled
    db.execute("DELETE FROM v WHERE rowid > 1200")
    rows = [r for r in rows if r[0] <= 1200]
    db.execute("INSERT INTO v(rowid, code) VALUES (2, ?)", (rows[0][1],))
    rows.append((2, rows[0][1]))
    for most in (0, 16):
        expected = sorted((min(a[0], b[0]), max(a[0], b[0]), distance(a[1], b[1])) for i, a in enumerate(rows)
                          for b in rows[:i] if distance(a[1], b[1]) <= most)
        assert sorted(db.execute("SELECT a, b, distance FROM bitlm_duplicates('v', ?)", (most,))) == expected


def test_duplicates_by_pieces_are_those_of_all_comparisons(db):
    """Distances small beside the bits take another way; both find the same pairs, in order."""
    rng = random.Random(8)
    print("seed 8")
    db.execute("CREATE VIRTUAL TABLE v USING bitlm_index(bits=384)")
    codes = {}
    db.execute("BEGIN")
    for rowid in range(1, 1501):
        code = rng.getrandbits(384)
        if rng.random() < 0.3 and codes:  # near one that is there
            code = rng.choice(list(codes.values()))
            for _ in range(rng.randrange(30)):
                code ^= 1 << rng.randrange(384)
        codes[3 * rowid] = code
        db.execute("INSERT INTO v(rowid, code) VALUES (?, ?)", (3 * rowid, code.to_bytes(48, "big")))
    rows = list(codes.items())
    near = sorted((a, b, bin(x ^ y).count("1")) for i, (a, x) in enumerate(rows) for b, y in rows[i + 1:] if bin(x ^ y).count("1") <= 60)
    for most in (0, 1, 12, 47, 60):  # in the transaction: drafts count too
        got = db.execute("SELECT a, b, distance FROM bitlm_duplicates('v', ?)", (most,)).fetchall()
        assert sorted(got) == [p for p in near if p[2] <= most]
    db.execute("COMMIT")
    assert len(near) > 200
    got = db.execute("SELECT a, b, distance FROM bitlm_duplicates('v', 12)").fetchall()
    assert got == [p for p in near if p[2] <= 12]


@pytest.mark.parametrize("arguments, sentence", [
    ("", "bits is missing"),
    ("bits=12", "multiple of 8 from 8 to 16384"),
    ("bits=16392", "multiple of 8"),
    ("bits=x", "must be an integer"),
    ("bit=64", "no option 'bit'"),
    ("bits=64, a TEXT, A INTEGER", "two columns 'A'"),
    ("bits=64, distance TEXT", "cannot be named 'distance'"),
    ("bits=64, code BLOB", "two columns 'code'"),
    ("bits=64, a TEXT PRIMARY KEY, b INTEGER PRIMARY KEY", "two PRIMARY KEY"),
    ("bits=64, a BLOB PRIMARY KEY", "INTEGER or TEXT"),
    ("bits=64, vec FLOAT[128]", "bits is 64"),
    ("bits=64, cache_mb=-1", "cache_mb is -1"),
    ("bits=64, 'x'", "neither a column nor an option"),
    ("bits=64, bits=72", "two options bits"),
    ("bits=64, n INTEGER NOT NULL", "NOT NULL of column 'n' would not be kept"),
    ("bits=64, +a TEXT DEFAULT 'x'", "DEFAULT of column 'a' would not be kept"),
    ("bits=64, " + ", ".join("c%d INTEGER" % i for i in range(65)), "more than 64 metadata"),
])
def test_declarations(db, arguments, sentence):
    with pytest.raises(sqlite3.OperationalError, match=sentence):
        db.execute("CREATE VIRTUAL TABLE v USING bitlm_index(%s)" % arguments)
    assert one(db, "SELECT count(*) FROM sqlite_master") == 0


@pytest.mark.parametrize("sql, sentence", [
    ("SELECT * FROM v WHERE code MATCH x'00' AND k = 1", "has 1 bytes, but must have 8"),
    ("SELECT * FROM v WHERE code MATCH 'text' AND k = 1", "is a TEXT, but must be a BLOB"),
    ("SELECT * FROM v WHERE code MATCH zeroblob(8) AND k = -1", "k is -1"),
    ("SELECT * FROM v WHERE code MATCH zeroblob(8) AND k = 'x'", "k is a TEXT"),
    ("SELECT * FROM v WHERE code MATCH zeroblob(8) AND k = 2000000", "0 to 1000000"),
    ("SELECT * FROM v WHERE code MATCH zeroblob(8) AND k < 3", "by = alone"),
    ("SELECT * FROM v WHERE k < 3", "k needs a search"),
    ("SELECT * FROM v WHERE k = 10", "k needs a search"),
    ("SELECT * FROM v WHERE code MATCH zeroblob(8) AND code MATCH zeroblob(8)", "two MATCH"),
    ("INSERT INTO v(code) VALUES (x'00')", "code has 1 bytes"),
    ("INSERT INTO v(v) VALUES ('nonsense')", "no command 'nonsense'"),
    ("INSERT INTO v(rowid, code) VALUES (1, zeroblob(8)) ON CONFLICT(rowid) DO NOTHING", "UPSERT"),
    ("SELECT * FROM bitlm_knn('v', x'00', 1)", "no multiple of the 8 bytes"),
    ("SELECT * FROM bitlm_knn('nothing', zeroblob(8), 1)", "no bitlm_index table"),
    ("SELECT * FROM bitlm_knn('v')", "write bitlm_knn"),
    ("SELECT bitlm_index_check('nothing')", "no bitlm_index table"),
])
def test_sentences(db, sql, sentence):
    db.execute("CREATE VIRTUAL TABLE v USING bitlm_index(bits=64)")
    db.execute("INSERT INTO v(code) VALUES (zeroblob(8))")
    with pytest.raises(sqlite3.OperationalError, match=sentence):
        db.execute(sql).fetchall()


@pytest.mark.parametrize("columns", ["n INTEGER", "n INTEGER, id TEXT PRIMARY KEY, +a", "n INTEGER, i INTEGER PRIMARY KEY"])
@pytest.mark.parametrize("rowid", [None, "x", 1.5, b"1", 1e300])
def test_rowids_that_are_none(db, columns, rowid):
    """As in any table: refused where INSERT does not choose one for NULL."""
    db.execute("CREATE VIRTUAL TABLE v USING bitlm_index(bits=64, %s)" % columns)
    key = ("id", "'x'") if "id" in columns else ("n", "1")
    db.execute("INSERT INTO v(code, n, %s) VALUES (zeroblob(8), 5, %s)" % key if key[0] == "id" else "INSERT INTO v(code, n) VALUES (zeroblob(8), 5)")
    before = db.execute("SELECT rowid, * FROM v").fetchall()
    names = ["rowid"] + ["i"] * ("i INTEGER" in columns)
    for name in names:
        with pytest.raises(sqlite3.IntegrityError, match="mismatch|must be an integer|must not be NULL"):
            db.execute("UPDATE v SET %s = ? WHERE rowid = 1" % name, (rowid,))
    if rowid is not None:
        with pytest.raises(sqlite3.IntegrityError, match="mismatch|must be an integer"):
            db.execute("INSERT INTO v(rowid, code, %s) VALUES (?, zeroblob(8), %s)" % key, (rowid,))
    assert db.execute("SELECT rowid, * FROM v").fetchall() == before
    db.execute("UPDATE v SET rowid = '7' WHERE rowid = 1.0")
    assert [r[1:] for r in db.execute("SELECT rowid, code, n FROM v")] == [(bytes(8), 5)] and one(db, "SELECT rowid FROM v") == 7
    assert one(db, "SELECT bitlm_index_check('v')") == "ok"


def test_returning(db):
    """INSERT … RETURNING gives columns (rowid is -1 there, SQLite's habit for virtual tables:
    last_insert_rowid() knows it); on UPDATE and DELETE SQLite itself refuses it."""
    db.execute("CREATE VIRTUAL TABLE v USING bitlm_index(bits=64, n INTEGER)")
    assert db.execute("INSERT INTO v(code, n) VALUES (zeroblob(8), 5) RETURNING n").fetchall() == [(5,)]
    assert one(db, "SELECT last_insert_rowid()") == 1
    for sql in ("UPDATE v SET n = 6 RETURNING n", "DELETE FROM v RETURNING n"):
        with pytest.raises(sqlite3.OperationalError, match="RETURNING is not available"):
            db.execute(sql).fetchall()


def test_null_queries_and_empty_tables(db):
    db.execute("CREATE VIRTUAL TABLE v USING bitlm_index(bits=64, n INTEGER)")
    assert db.execute("SELECT * FROM v").fetchall() == []
    assert db.execute("SELECT * FROM v WHERE code MATCH zeroblob(8) AND k = 10").fetchall() == []
    assert db.execute("SELECT * FROM v WHERE code MATCH zeroblob(8)").fetchall() == []
    assert db.execute("SELECT * FROM v WHERE code MATCH NULL AND k = 10").fetchall() == []
    assert db.execute("SELECT * FROM bitlm_knn('v', zeroblob(8), 3)").fetchall() == []
    assert db.execute("SELECT * FROM bitlm_duplicates('v', 3)").fetchall() == []
    assert one(db, "SELECT bitlm_index_check('v')") == "ok"
    for rowid in (-2**63, -5, 0, 2**63 - 1):
        db.execute("INSERT INTO v(rowid, code) VALUES (?, zeroblob(8))", (rowid,))
    assert [r for r, in db.execute("SELECT rowid FROM v")] == [-2**63, -5, 0, 2**63 - 1]
    assert [r for r, in db.execute("SELECT rowid FROM v WHERE rowid > -6")] == [-5, 0, 2**63 - 1]
    with pytest.raises(sqlite3.OperationalError, match="full|largest rowid"):
        db.execute("INSERT INTO v(code) VALUES (zeroblob(8))")
    assert one(db, "SELECT bitlm_index_check('v')") == "ok"


def test_in_a_view_and_a_trigger_of_an_untrusted_schema(db):
    db.execute("CREATE VIRTUAL TABLE v USING bitlm_index(bits=64)")
    db.execute("CREATE TABLE notes(id INTEGER PRIMARY KEY, code BLOB)")
    db.execute("CREATE TRIGGER t AFTER INSERT ON notes BEGIN INSERT INTO v(rowid, code) VALUES (new.id, new.code); END")
    # SQLite counts MATCH itself as unsafe there, for FTS5 too; the table function does without.
    db.execute("CREATE VIEW near AS SELECT id, distance FROM bitlm_knn('v', zeroblob(8), 3)")
    db.execute("PRAGMA trusted_schema = OFF")
    db.execute("INSERT INTO notes VALUES (5, ?), (6, ?)", (code_of(1), code_of(0)))
    assert db.execute("SELECT * FROM near").fetchall() == [(6, 0), (5, 1)]


def test_or_is_checked_after_the_search(filled):
    """SQLite could make one search for each side; the k rows are those of one search."""
    db, rows = filled
    query = rows[3][1]
    got = db.execute("SELECT rowid, distance FROM v WHERE code MATCH ? AND k = 50 AND (lang = 'de' OR year = 2000)",
                     (query,)).fetchall()
    near = {r for r, _ in brute(rows, query, 50)}
    assert got == brute(rows, query, 50, lambda r: r[0] in near and (r[2] == "de" or r[3] == 2000))
    got = db.execute("SELECT rowid, distance FROM v WHERE code MATCH ? AND (lang = 'de' OR year = 2000) ORDER BY distance "
                     "LIMIT 50", (query,)).fetchall()
    assert got == brute(rows, query, 50, lambda r: r[2] == "de" or r[3] == 2000)


@pytest.mark.parametrize("bits", [8, 72, 384, 1000, 2048, 16384])
def test_lengths(db, bits):
    rng = random.Random(bits)
    db.execute("CREATE VIRTUAL TABLE v USING bitlm_index(bits=%d, cache_mb=0)" % bits)
    codes = [rng.randbytes(bits // 8) for _ in range(300)]
    db.executemany("INSERT INTO v(code) VALUES (?)", [(c,) for c in codes])
    query = rng.randbytes(bits // 8)
    expected = sorted((distance(query, c), i + 1) for i, c in enumerate(codes))[:20]
    got = db.execute("SELECT distance, rowid FROM v WHERE code MATCH ? AND k = 20", (query,)).fetchall()
    assert got == expected
    assert db.execute("SELECT code FROM v").fetchall() == [(c,) for c in codes]


def test_last_insert_rowid_is_the_row_of_the_index(db):
    db.execute("CREATE VIRTUAL TABLE v USING bitlm_index(bits=8)")
    for i in range(1, 4):
        db.execute("INSERT INTO v(code) VALUES (x'01')")
        assert db.execute("SELECT last_insert_rowid()").fetchall() == [(i,)]
