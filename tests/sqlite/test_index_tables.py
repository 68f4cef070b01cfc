"""bitlm_index with tables of pieces: built after enough queries that they would have answered faster, dropped after
enough writes; answers as those of a plain scan whatever was written meanwhile, in every connection.

BITLM_SEED  seed of the random work (printed by pytest where a test fails)
"""

import ctypes
import os
import random

from conftest import connect

SEED = int(os.environ.get("BITLM_SEED", "20261128"))
ROWS = 40000
BYTES = 16
LITTLE = 200000  # bytes: less than one table of a piece
PIECE = (2**15 + 1 + ROWS) * 4


def make(db, rng, name="v", options=""):
    """ROWS codes, half of them near one of 100, and the plain list they are checked with."""
    db.execute(f"CREATE VIRTUAL TABLE {name} USING bitlm_index(bits={BYTES * 8}, n INTEGER{options})")
    plain, centers = {}, [rng.getrandbits(8 * BYTES) for _ in range(100)]
    for i in range(1, ROWS + 1):
        plain[i] = (near(rng, centers[i % 100], 4) if i % 2 else rng.getrandbits(8 * BYTES), i % 7)
    db.execute("BEGIN")
    db.executemany(f"INSERT INTO {name}(rowid, code, n) VALUES (?, ?, ?)", ((i, c.to_bytes(BYTES, "big"), n) for i, (c, n) in plain.items()))
    db.execute("COMMIT")
    return plain, centers


def near(rng, code, flips):
    for _ in range(rng.randrange(flips + 1)):
        code ^= 1 << rng.randrange(8 * BYTES)
    return code


def check(db, plain, query, rng):
    """The same three questions to both: within a radius, the nearest k, the nearest k of some."""
    ranked = sorted(((c ^ query).bit_count(), i, n) for i, (c, n) in plain.items())
    code, r, k = query.to_bytes(BYTES, "big"), rng.randrange(2, 9), rng.randrange(1, 12)
    ask = lambda where, *args: db.execute("SELECT rowid, distance FROM v WHERE code MATCH ? AND " + where, (code, *args)).fetchall()
    assert ask("distance < ?", r) == [(i, d) for d, i, n in ranked if d < r]
    assert ask("k = ?", k) == [(i, d) for d, i, n in ranked[:k]]
    assert ask("k = ? AND n IN (2, 5)", k) == [(i, d) for d, i, n in ranked if n in (2, 5)][:k]
    assert ask("distance <= ? AND rowid > 20000", r) == [(i, d) for d, i, n in ranked if d <= r and i > 20000]


def memory(*connections):
    """Of SQLite in this process: blocks and tables are in it, the connections' pages are not."""
    for c in connections:
        c.execute("PRAGMA shrink_memory")
    library = ctypes.CDLL("libsqlite3.so.0")
    library.sqlite3_memory_used.restype = ctypes.c_int64
    return library.sqlite3_memory_used()


def ask_often(db, plain, times=150, where=""):
    """Near-duplicate questions, as someone puts them who inserts only what is new."""
    for i in range(1, times + 1):
        db.execute("SELECT count(*) FROM v WHERE code MATCH ? AND distance < 9" + where, (plain[i][0].to_bytes(BYTES, "big"),)).fetchone()


def test_answers_are_those_of_a_plain_scan(tmp_path):
    rng, start = random.Random(SEED), memory()
    db = connect(tmp_path / "t.db")
    plain, centers = make(db, rng)
    other = connect(tmp_path / "t.db")
    check(db, plain, centers[0], rng)
    check(other, plain, centers[0], rng)
    before = memory(db, other)
    ask_often(db, plain)
    assert memory(db, other) > before + 500000  # there are tables
    for step in range(30):
        kind = rng.randrange(6)
        base = list(plain)
        if kind == 0:  # new rows, in the last block and among the others
            for _ in range(rng.randrange(1, 50)):
                i, c = max(plain) + 1, near(rng, rng.choice(centers), 3)
                db.execute("INSERT INTO v(rowid, code, n) VALUES (?, ?, ?)", (i, c.to_bytes(BYTES, "big"), i % 7))
                plain[i] = (c, i % 7)
        elif kind == 1:
            for i in rng.sample(base, 20):
                db.execute("DELETE FROM v WHERE rowid = ?", (i,))
                del plain[i]
        elif kind == 2:
            for i in rng.sample(base, 5):
                c = near(rng, rng.choice(centers), 3)
                db.execute("UPDATE v SET code = ?, n = 2 WHERE rowid = ?", (c.to_bytes(BYTES, "big"), i))
                plain[i] = (c, 2)
        elif kind == 3:  # undone: nothing of it may be found
            db.execute("BEGIN")
            db.execute("DELETE FROM v WHERE rowid % 3 = 0")
            db.execute("SELECT count(*) FROM v WHERE code MATCH ? AND distance < 9", (centers[1].to_bytes(BYTES, "big"),)).fetchone()
            db.execute("ROLLBACK")
        check(other if step % 2 else db, plain, near(rng, rng.choice(centers), 2) if step % 3 else rng.getrandbits(8 * BYTES), rng)
    # Most rows go: so do the tables; and answers stay.
    db.execute("DELETE FROM v WHERE rowid % 2 = 0")
    plain = {i: p for i, p in plain.items() if i % 2}
    check(db, plain, centers[3], rng)
    check(other, plain, centers[3], rng)
    assert memory(db, other) < before + LITTLE
    db.close()
    check(other, plain, centers[4], rng)
    other.close()
    assert memory() < start + LITTLE


def test_tables_need_room_and_near_answers(tmp_path):
    rng = random.Random(SEED)
    db = connect(tmp_path / "t.db")
    plain, centers = make(db, rng, options=", cache_mb=1")
    db.execute("SELECT count(*) FROM v WHERE code MATCH zeroblob(16) AND distance < 9").fetchone()
    before = memory()
    ask_often(db, plain)
    assert memory() < before + LITTLE
    check(db, plain, centers[0], rng)
    db.close()
    db = connect(tmp_path / "u.db")
    plain, centers = make(db, rng)
    check(db, plain, centers[0], rng)
    before = memory()
    for _ in range(150):
        db.execute("SELECT count(*) FROM v WHERE code MATCH ? AND k = 30", (rng.getrandbits(8 * BYTES).to_bytes(BYTES, "big"),)).fetchone()
    assert memory() < before + LITTLE  # answers lie far from these questions: no table is made
    db.close()


def test_tables_grow_while_more_would_halve_the_work(tmp_path):
    """Four of eight pieces answer `distance < 9` without a flat scan, seven in a fifth of their time."""
    rng = random.Random(SEED)
    db = connect(tmp_path / "t.db")
    plain, centers = make(db, rng)
    check(db, plain, centers[0], rng)
    before = memory(db)
    for i in range(2, 1200, 2):  # codes of their own: what is found takes no time
        db.execute("SELECT count(*) FROM v WHERE code MATCH ? AND distance < 9", (plain[i][0].to_bytes(BYTES, "big"),)).fetchone()
    assert before + 6.5 * PIECE < memory(db) < before + 8.5 * PIECE
    for center in centers[:20]:
        check(db, plain, center, rng)


def test_filtered_questions_count(tmp_path):
    """By what they cost: where few rows pass, the scan is cheap and tables are not made for it."""
    rng = random.Random(SEED)
    db = connect(tmp_path / "t.db")
    plain, centers = make(db, rng)
    check(db, plain, centers[0], rng)
    before = memory(db)
    ask_often(db, plain, 150, " AND rowid IN (1, 2, 20000)")
    assert memory(db) < before + LITTLE
    ask_often(db, plain, 150, " AND n <> 3")
    assert memory(db) > before + 3 * PIECE
    for center in centers[:20]:
        check(db, plain, center, rng)


def test_a_connection_finds_what_another_made(tmp_path):
    """Also one that had begun to learn before."""
    rng = random.Random(SEED)
    db, other = connect(tmp_path / "t.db"), None
    plain, centers = make(db, rng)
    other = connect(tmp_path / "t.db")
    check(db, plain, centers[0], rng)
    ask_often(other, plain, 5)
    ask_often(db, plain, 150)
    with_tables = memory(db, other)
    ask_often(other, plain, 100)
    assert memory(db, other) < with_tables + 3 * PIECE  # they grew; a set of its own would have four at least
    check(other, plain, centers[1], rng)


CONDITIONS = [
    ("s = 'b'", lambda s, r: s == "b"), ("s <> 'b'", lambda s, r: s is not None and s != "b"), ("s IS NULL", lambda s, r: s is None),
    ("s IS NOT NULL", lambda s, r: s is not None), ("s IS NOT 'b'", lambda s, r: s != "b"), ("s < 'b'", lambda s, r: s is not None and s < "b"),
    ("s <= 'b'", lambda s, r: s is not None and s <= "b"), ("s > 'b'", lambda s, r: s is not None and s > "b"), ("s >= 'b'", lambda s, r: s is not None and s >= "b"),
    ("s IN ('a', 'd', NULL)", lambda s, r: s in ("a", "d")), ("s = NULL", lambda s, r: False), ("r = 1", lambda s, r: r == 1),
    ("r < 1", lambda s, r: r is not None and r < 1), ("r IN (0.5, 2, 'x')", lambda s, r: r in (0.5, 2)), ("r > 'x'", lambda s, r: False),
    ("r >= 1 AND s <> 'a'", lambda s, r: r is not None and r >= 1 and s is not None and s != "a"),
]


def test_conditions_on_what_tables_find(tmp_path):
    """Rows that tables of pieces find are looked at one by one: each kind of condition, and NULLs."""
    rng = random.Random(SEED)
    db = connect(tmp_path / "t.db")
    db.execute(f"CREATE VIRTUAL TABLE v USING bitlm_index(bits={BYTES * 8}, s TEXT, r REAL)")
    centers = [rng.getrandbits(8 * BYTES) for _ in range(ROWS // 20)]
    plain = {i: (near(rng, centers[i % len(centers)], 3), rng.choice([None, "", "a", "b", "c"]), rng.choice([None, 0.5, 1.0, 2.0, -3.0]))
             for i in range(1, ROWS + 1)}
    db.execute("BEGIN")
    db.executemany("INSERT INTO v(rowid, code, s, r) VALUES (?, ?, ?, ?)", ((i, c.to_bytes(BYTES, "big"), s, r) for i, (c, s, r) in plain.items()))
    db.execute("COMMIT")
    before = memory(db)
    ask_often(db, plain, 300)
    assert memory(db) > before + 4 * PIECE
    for text, keep in CONDITIONS:
        for at in rng.sample(range(len(centers)), 6):
            found = sorted(((plain[i][0] ^ centers[at]).bit_count(), i) for i in range(at or len(centers), ROWS + 1, len(centers)) if keep(*plain[i][1:]))
            got = db.execute("SELECT distance, rowid FROM v WHERE code MATCH ? AND distance < 9 AND " + text, (centers[at].to_bytes(BYTES, "big"),)).fetchall()
            assert got == found, text
