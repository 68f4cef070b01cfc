"""PARTITION KEY of bitlm_index: a metadata column that most searches ask for, of any type, NULL too.

BITLM_STEPS  steps of the random work (600)
BITLM_SEED   its seed
"""

import os
import random

import pytest

from conftest import connect, one

STEPS = int(os.environ.get("BITLM_STEPS", "600"))
SEED = int(os.environ.get("BITLM_SEED", "20261128"))


def distance(a, b):
    return (int.from_bytes(a, "big") ^ int.from_bytes(b, "big")).bit_count()


def check(db, plain, rng, keys):
    """Searches in one partition, in some, in none of them, and in all, against the list; plain: rowid -> (code, user, n)."""
    query = rng.randbytes(8)
    ranked = sorted((distance(query, c), i) for i, (c, _, _) in plain.items())

    def ask(where, values, keep, k):
        got = db.execute("SELECT rowid, distance, user FROM v WHERE code MATCH ? AND k = ? AND " + where, (query, k, *values)).fetchall()
        assert got == [(i, d, plain[i][1]) for d, i in ranked if keep(plain[i][1])][:k], (where, values, k)

    a, b = rng.choice(keys), rng.choice(keys)
    ask("user = ?", (a,), lambda u: a is not None and u == a, 5)
    ask("user IS ?", (a,), lambda u: u == a, 5)
    ask("user IN (?, ?)", (a, b), lambda u: u is not None and u in (a, b), 9)
    ask("user IS NOT ? AND user IS NOT NULL", (a,), lambda u: u is not None and u != a, 7)
    ask("user > ? AND user <= ?", (min(a, b), max(a, b)) if a is not None and b is not None else (a, b),
        lambda u: a is not None and b is not None and u is not None and min(a, b) < u <= max(a, b), 6)
    ask("user < ?", (a,), lambda u: a is not None and u is not None and u < a, 6)
    ask("user IS NULL", (), lambda u: u is None, 3)
    ask("user = 'nobody'", (), lambda u: False, 3)
    ask("1", (), lambda u: True, 4)
    assert one(db, "SELECT count(*) FROM v WHERE user IS ?", a) == sum(u == a for _, u, _ in plain.values())


@pytest.mark.parametrize("kind, keys", [
    ("INTEGER", [None, 0, -1, 2**62, *range(10, 60)]),
    ("TEXT", [None, "", "a", "A", "ab", "ä", "user 9", *("user %d" % i for i in range(10, 50))]),
    ("REAL", [None, 0.5, -2.0, 1e300, *(i / 4 for i in range(20))]),
])
def test_random_work(tmp_path, kind, keys):
    """Inserts, updates that move rows between partitions, deletes of rows and of whole partitions, rollbacks; blocks are small."""
    rng = random.Random(SEED)
    db = connect(tmp_path / "p.db")
    db.execute("PRAGMA synchronous = off")
    db.execute("CREATE VIRTUAL TABLE v USING bitlm_index(bits=64, user %s PARTITION KEY, n INTEGER)" % kind)
    plain, kept = {}, None
    for step in range(STEPS):
        what = rng.random()
        if what < 0.5 or not plain:
            for _ in range(rng.randrange(1, 30)):
                i = rng.randrange(1, 5000)
                plain[i] = (rng.randbytes(8), rng.choice(keys), step)
                db.execute("INSERT OR REPLACE INTO v(rowid, code, user, n) VALUES (?, ?, ?, ?)", (i, *plain[i]))
        elif what < 0.7:
            i, user = rng.choice(list(plain)), rng.choice(keys)
            db.execute("UPDATE v SET user = ? WHERE rowid = ?", (user, i))
            plain[i] = (plain[i][0], user, plain[i][2])
        elif what < 0.78:  # a partition becomes part of another
            a, b = rng.choice(keys), rng.choice(keys)
            db.execute("UPDATE v SET user = ?, n = -1 WHERE user IS ?", (b, a))
            plain = {i: (c, b, -1) if u == a else (c, u, n) for i, (c, u, n) in plain.items()}
        elif what < 0.84:
            a = rng.choice(keys)
            db.execute("DELETE FROM v WHERE user IS ?", (a,))
            plain = {i: p for i, p in plain.items() if p[1] != a}
        elif what < 0.92:
            if kept is None:
                db.execute("BEGIN")
                kept = dict(plain)
            else:
                undo = rng.random() < 0.5
                db.execute("ROLLBACK" if undo else "COMMIT")
                plain = kept if undo else plain
                kept = None
        if step % 10 == 0:
            check(db, plain, rng, keys)
    if kept is not None:
        db.execute("COMMIT")
    assert {r[0]: tuple(r[1:]) for r in db.execute("SELECT rowid, code, user, n FROM v")} == plain
    assert one(db, "SELECT bitlm_index_check('v')") == "ok"
    check(db, plain, rng, keys)


@pytest.mark.parametrize("kind, key", [("INTEGER", lambda u: u), ("TEXT", lambda u: "user %d" % u)])
def test_ten_rows_a_partition(tmp_path, kind, key):
    """They come in any order, so most rows of a block are of different partitions: at most 100 bytes a row of 384 bits."""
    rows, path = 20000, tmp_path / "s.db"
    rng = random.Random(SEED)
    db = connect(path)
    users = [u for u in range(rows // 10) for _ in range(10)]
    rng.shuffle(users)
    db.execute("CREATE VIRTUAL TABLE v USING bitlm_index(bits=384, user %s PARTITION KEY)" % kind)
    db.execute("BEGIN")
    db.executemany("INSERT INTO v(code, user) VALUES (?, ?)", ((rng.randbytes(48), key(u)) for u in users))
    db.execute("COMMIT")
    bytes_a_row = os.path.getsize(path) / rows
    print(kind, bytes_a_row)
    assert bytes_a_row <= 100
    for u in (0, 7, rows // 10 - 1):
        got = db.execute("SELECT rowid FROM v WHERE code MATCH zeroblob(48) AND k = 50 AND user = ?", (key(u),)).fetchall()
        assert sorted(r for r, in got) == [i + 1 for i, x in enumerate(users) if x == u]
    assert one(db, "SELECT bitlm_index_check('v')") == "ok"


def test_two_partition_keys_and_a_text_key(tmp_path):
    db = connect(tmp_path / "t.db")
    db.execute("PRAGMA synchronous = off")
    db.execute("CREATE VIRTUAL TABLE v USING bitlm_index(bits=64, id TEXT PRIMARY KEY, tenant TEXT PARTITION KEY, year INTEGER PARTITION KEY)")
    for i in range(300):
        db.execute("INSERT INTO v(id, code, tenant, year) VALUES (?, ?, ?, ?)", ("r%d" % i, i.to_bytes(8, "big"), "t%d" % (i % 3), 2000 + i % 5))
    got = db.execute("SELECT id FROM v WHERE code MATCH zeroblob(8) AND k = 3 AND tenant = 't1' AND year = 2002").fetchall()
    want = sorted((i.bit_count(), i) for i in range(300) if i % 3 == 1 and i % 5 == 2)[:3]
    assert got == [("r%d" % i,) for _, i in want]
    db.execute("UPDATE v SET tenant = 't2' WHERE id = ?", got[0])
    assert got[0] not in db.execute("SELECT id FROM v WHERE code MATCH zeroblob(8) AND k = 99 AND tenant = 't1'").fetchall()
    assert got[0] in db.execute("SELECT id FROM v WHERE code MATCH zeroblob(8) AND k = 99 AND tenant = 't2' AND year = 2002").fetchall()
    assert one(db, "SELECT bitlm_index_check('v')") == "ok"
