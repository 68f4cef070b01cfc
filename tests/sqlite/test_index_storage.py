"""bitlm_index as a citizen of the database: transactions, files, other connections, damage.

BITLM_STEPS   steps of the random workload (2000; 100000 for the long proof)
BITLM_KILLS   times a writer is killed (4; 200 for the long proof)
BITLM_FUZZ    damaged blocks tried (150)
"""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from conftest import EXTENSION, SLACK, connect, one

STEPS = int(os.environ.get("BITLM_STEPS", "2000"))
KILLS = int(os.environ.get("BITLM_KILLS", "4"))
FUZZ = int(os.environ.get("BITLM_FUZZ", "150"))
SHAPE = "bits=64, n INTEGER, s TEXT"


def code_of(number):
    return (number & (2**64 - 1)).to_bytes(8, "big")


def fill(db, rows=3000, table="v"):
    db.execute("CREATE VIRTUAL TABLE %s USING bitlm_index(%s)" % (table, SHAPE))
    with_transaction(db, lambda: db.executemany(
        "INSERT INTO %s(code, n, s) VALUES (?,?,?)" % table,
        [(code_of(i * 0x9E3779B97F4A7C15), i, "s%d" % (i % 10)) for i in range(rows)]))


def with_transaction(db, work):
    db.execute("BEGIN")
    work()
    db.execute("COMMIT")


def rows_of(db, table="v"):
    return db.execute("SELECT rowid, code, n, s FROM %s" % table).fetchall()


def check(db, table="v"):
    assert one(db, "SELECT bitlm_index_check(?)", table) == "ok"


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "t.db")


# ---- transactions ------------------------------------------------------------------------


def test_rollback_and_savepoints(path):
    db = connect(path)
    fill(db)
    before = rows_of(db)
    db.execute("BEGIN")
    db.execute("DELETE FROM v WHERE n < 100")
    assert len(rows_of(db)) == len(before) - 100
    db.execute("SAVEPOINT a")
    db.execute("UPDATE v SET s = 'x' WHERE n >= 2000")
    db.execute("INSERT INTO v(code, n) VALUES (zeroblob(8), -1)")
    inner = rows_of(db)
    db.execute("SAVEPOINT b")
    db.execute("DELETE FROM v")
    assert rows_of(db) == []
    db.execute("ROLLBACK TO b")
    assert rows_of(db) == inner
    db.execute("INSERT INTO v(code, n) VALUES (zeroblob(8), -2)")
    db.execute("RELEASE b")
    db.execute("ROLLBACK TO a")
    assert rows_of(db) == before[100:]
    db.execute("ROLLBACK")
    assert rows_of(db) == before
    check(db)


def test_a_failed_statement_takes_its_rows_back(path):
    db = connect(path)
    fill(db)
    before = rows_of(db)
    db.execute("BEGIN")
    db.execute("INSERT INTO v(rowid, code) VALUES (10000, zeroblob(8))")
    with pytest.raises(sqlite3.IntegrityError):
        db.execute("INSERT INTO v(rowid, code) SELECT 20000 - value * 10000, zeroblob(8) FROM json_each('[0, 1]')")
    with pytest.raises(sqlite3.OperationalError):
        db.execute("UPDATE v SET code = CASE WHEN n = 2500 THEN x'00' ELSE zeroblob(8) END")
    db.execute("COMMIT")
    assert rows_of(db) == before + [(10000, bytes(8), None, None)]
    check(db)


def test_attach_vacuum_backup_rename_drop(path, tmp_path):
    db = connect(path)
    fill(db)
    expected = rows_of(db)
    db.execute("DELETE FROM v WHERE n >= 1000")
    expected = expected[:1000]
    size = os.path.getsize(path)
    db.execute("VACUUM")
    assert os.path.getsize(path) < size * 0.6  # DELETE gives its space back
    assert rows_of(db) == expected
    db.execute("VACUUM INTO ?", (str(tmp_path / "into.db"),))
    other = sqlite3.connect(str(tmp_path / "backup.db"))
    db.backup(other)
    other.close()
    db.execute("ATTACH ? AS more", (str(tmp_path / "backup.db"),))
    db.execute("ATTACH ? AS into_", (str(tmp_path / "into.db"),))
    for schema in ("more", "into_"):
        assert rows_of(db, schema + ".v") == expected
        check(db, schema + ".v")
    db.execute("DELETE FROM more.v WHERE n < 10")
    assert rows_of(db, "more.v") == expected[10:] and rows_of(db, "main.v") == expected
    got = db.execute("SELECT count(*) FROM bitlm_knn('more.v', zeroblob(8), 5)").fetchall()
    assert got == [(5,)]
    db.execute("CREATE VIRTUAL TABLE temp.v USING bitlm_index(bits=64)")
    db.execute("INSERT INTO temp.v(code) VALUES (zeroblob(8))")
    assert one(db, "SELECT count(*) FROM main.v") == 1000
    db.execute("DROP TABLE temp.v")
    db.execute("ALTER TABLE main.v RENAME TO renamed")
    assert rows_of(db, "renamed") == expected
    db.execute("INSERT INTO renamed(code) VALUES (zeroblob(8))")
    check(db, "renamed")
    db.execute("DROP TABLE renamed")
    assert one(db, "SELECT count(*) FROM main.sqlite_master") == 0


def test_rename_inside_a_transaction_and_back(path):
    db = connect(path)
    db.execute("CREATE VIRTUAL TABLE v USING bitlm_index(bits=64, id TEXT PRIMARY KEY, +a)")
    db.execute("INSERT INTO v(id, code, a) VALUES ('x', zeroblob(8), 1)")
    db.execute("BEGIN")
    db.execute("INSERT INTO v(id, code, a) VALUES ('y', zeroblob(8), 2)")
    db.execute("ALTER TABLE v RENAME TO \"odd \"\"name\"")
    assert db.execute("SELECT id, a FROM \"odd \"\"name\"").fetchall() == [("x", 1), ("y", 2)]
    db.execute("ROLLBACK")
    assert db.execute("SELECT id, a FROM v").fetchall() == [("x", 1)]
    db.execute("INSERT INTO v(id, code, a) VALUES ('z', zeroblob(8), 3)")
    assert db.execute("SELECT id, a FROM v").fetchall() == [("x", 1), ("z", 3)]
    check(db)


def test_dump_round_trip(path, tmp_path):
    db = connect(path)
    fill(db)
    db.execute("CREATE VIRTUAL TABLE w USING bitlm_index(bits=64, id TEXT PRIMARY KEY, +a)")
    db.execute("INSERT INTO w(id, code, a) VALUES ('x', zeroblob(8), 1)")
    expected = rows_of(db)
    db.close()
    shell = lambda file, script: subprocess.run(
        ["sqlite3", "-cmd", ".load " + EXTENSION, file], input=script, capture_output=True, text=True, check=True).stdout
    dump = shell(path, ".dump\n")
    copy = str(tmp_path / "copy.db")
    shell(copy, dump)
    db = connect(copy)
    assert rows_of(db) == expected
    assert db.execute("SELECT id, a FROM w").fetchall() == [("x", 1)]
    check(db)
    check(db, "w")


def test_read_only(path):
    db = connect(path)
    fill(db)
    expected = rows_of(db)
    db.close()
    os.chmod(path, 0o444)
    db = connect("file:%s?mode=ro&immutable=1" % path, uri=True)
    assert rows_of(db) == expected
    assert len(db.execute("SELECT rowid FROM v WHERE code MATCH zeroblob(8) AND k = 3").fetchall()) == 3
    check(db)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        db.execute("INSERT INTO v(code) VALUES (zeroblob(8))")
    assert rows_of(db) == expected


def test_shadow_tables_are_protected(path):
    shell = subprocess.run(["sqlite3", "-cmd", ".load " + EXTENSION, path],
                           input="CREATE VIRTUAL TABLE v USING bitlm_index(bits=64);\n.dbconfig defensive on\n"
                                 "DELETE FROM v_blocks;\n", capture_output=True, text=True)
    assert "may not be modified" in shell.stderr


def test_writes_while_a_cursor_is_open(path):
    db = connect(path)
    db.execute("PRAGMA synchronous=off")
    fill(db)
    seen = []
    for rowid, n in db.execute("SELECT rowid, n FROM v"):
        seen.append(rowid)
        if n % 3 == 0:
            db.execute("DELETE FROM v WHERE rowid = ?", (rowid,))
        if n % 500 == 0:
            db.execute("INSERT INTO v(rowid, code) VALUES (?, zeroblob(8))", (-n - 1,))
    assert seen == list(range(1, 3001))
    cursor = db.execute("SELECT rowid, n FROM v WHERE code MATCH zeroblob(8) AND k = 2000")
    cursor.fetchone()
    db.execute("DELETE FROM v WHERE n > 5")
    rest = cursor.fetchall()
    assert len(rest) == 1999 and any(n is None for _, n in rest)
    db.execute("INSERT INTO v(code, n) SELECT code, n FROM v")  # reads what it writes
    check(db)


# ---- several connections -------------------------------------------------------------------


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_readers_beside_a_writer(path, journal):
    """Every read sees a whole transaction: the writer keeps sum(n) = 0 in pairs of rows."""
    db = connect(path)
    one(db, "PRAGMA journal_mode=" + journal)
    db.execute("CREATE VIRTUAL TABLE v USING bitlm_index(%s)" % SHAPE)
    stop, failures, reads = threading.Event(), [], [0]

    def read():
        try:
            mine = connect(path, timeout=30)
            while not stop.is_set():
                rows = mine.execute("SELECT n, rowid FROM v WHERE code MATCH zeroblob(8) AND k = 100000").fetchall()
                if sum(n for n, _ in rows):
                    failures.append("half a transaction")
                if sorted(r for _, r in rows) != list(range(1, len(rows) + 1)):
                    failures.append("rows are missing")
                reads[0] += 1
            mine.close()
        except Exception as e:
            failures.append(repr(e))

    threads = [threading.Thread(target=read) for _ in range(3)]
    for t in threads:
        t.start()
    rng = random.Random(1)
    writer = connect(path, timeout=30)
    end = time.time() + 2
    i = 0
    while time.time() < end and not failures:
        i += 1
        writer.execute("BEGIN IMMEDIATE")
        for n in (i, -i):
            writer.execute("INSERT INTO v(code, n, s) VALUES (?, ?, 'x')", (code_of(rng.getrandbits(64)), n))
        writer.execute("ROLLBACK" if i % 5 == 0 else "COMMIT")
    stop.set()
    for t in threads:
        t.join()
    assert not failures, failures[:3]
    assert reads[0] > 3 and i > 3
    check(db)


def test_an_old_snapshot_stays_readable(path):
    db, reader = connect(path), connect(path)
    one(db, "PRAGMA journal_mode=wal")
    fill(db)
    expected = rows_of(db)
    reader.execute("BEGIN")
    assert rows_of(reader) == expected
    for i in range(3):
        db.execute("DELETE FROM v WHERE n < ?", (1000 * i + 500,))
        assert rows_of(reader) == expected
        got = reader.execute("SELECT n FROM v WHERE code MATCH ? AND k = 1", (expected[7][1],)).fetchall()
        assert got == [(7,)]
    reader.execute("COMMIT")
    assert rows_of(reader) == rows_of(db) == expected[2500:]


def test_workload_against_an_oracle(path):
    """Two connections, random statements, savepoints and rollbacks: the index holds what a plain table holds."""
    seed = int(os.environ.get("BITLM_SEED", "20"))
    print("seed", seed, "steps", STEPS)
    rng = random.Random(seed)
    databases = [connect(path, timeout=0), connect(path, timeout=0)]
    databases[0].execute("PRAGMA journal_mode=wal").fetchall()
    for db in databases:
        db.execute("PRAGMA synchronous=off")
    databases[0].execute("CREATE VIRTUAL TABLE v USING bitlm_index(bits=1024, k1 TEXT PRIMARY KEY, n INTEGER, s TEXT, +a)")
    databases[0].execute("CREATE TABLE o(rowid_ INTEGER PRIMARY KEY, code BLOB, k1 TEXT UNIQUE, n INTEGER, s TEXT, a)")
    code = lambda: rng.getrandbits(1024).to_bytes(128, "big")
    depth = [0, 0]
    counts = {}
    for step in range(STEPS):
        which = rng.randrange(2)
        db = databases[which]
        kind = rng.choices(["insert", "many", "replace", "update", "rekey", "delete", "range", "begin", "commit", "rollback",
                            "savepoint", "to", "release", "compare", "search", "optimize"],
                           [20, 3, 8, 10, 4, 10, 2, 4, 3, 1, 4, 3, 2, 2, 6, 1])[0]
        counts[kind] = counts.get(kind, 0) + 1
        try:
            if kind in ("insert", "replace"):
                rowid = rng.choice([None, rng.randrange(2000), rng.randrange(2**40)])
                if rowid is None:  # the same for both
                    rowid = one(db, "SELECT coalesce(max(rowid_), 0) + 1 FROM o")
                row = (rowid, code(), "k%d" % rng.randrange(3000), rng.randrange(50), rng.choice(["a", "b", None]), step)
                both(db, "INSERT%s INTO {}({rowid}, code, k1, n, s, a) VALUES (?,?,?,?,?,?)" %
                     (" OR REPLACE" if kind == "replace" else rng.choice(["", " OR IGNORE"])), row)
            elif kind == "many":
                base = one(db, "SELECT coalesce(max(rowid_), 0) FROM o")
                db.execute("CREATE TEMP TABLE IF NOT EXISTS batch(r, code, k1, n, s, a)")
                db.execute("DELETE FROM temp.batch")
                db.executemany("INSERT INTO temp.batch VALUES (?,?,?,?,?,?)",
                               [(base + 1 + i, code(), "m%d-%d" % (step, i), i % 50, "c", None)
                                for i in range(rng.randrange(400))])
                both(db, "INSERT INTO {}({rowid}, code, k1, n, s, a) SELECT * FROM temp.batch", ())
            elif kind == "update":
                both(db, "UPDATE {} SET n = n + 1, s = ? WHERE n = ?", (rng.choice(["d", None]), rng.randrange(60)))
            elif kind == "rekey":
                target = db.execute("SELECT rowid_ FROM o ORDER BY rowid_ LIMIT 1 OFFSET ?", (rng.randrange(500),)).fetchone()
                if target:
                    both(db, "UPDATE OR %s {} SET {rowid} = ?, k1 = ? WHERE {rowid} = ?" % rng.choice(["REPLACE", "IGNORE", "ABORT"]),
                         (rng.randrange(3000), "k%d" % rng.randrange(3000), target[0]))
            elif kind == "delete":
                both(db, "DELETE FROM {} WHERE k1 IN (SELECT 'k' || value FROM json_each(?))",
                     (str([rng.randrange(3000) for _ in range(5)]),))
            elif kind == "range":
                # Up to 1,000 rows, more than come in meanwhile: the table stays small enough to be compared whole.
                start = rng.randrange(one(db, "SELECT count(*) FROM o") + 1)
                edges = db.execute("SELECT rowid_ FROM o ORDER BY rowid_ LIMIT ? OFFSET ?",
                                   (1 + rng.randrange(1000), start)).fetchall() or [(0,)]
                both(db, "DELETE FROM {} WHERE {rowid} BETWEEN ? AND ?", (edges[0][0], edges[-1][0]))
            elif kind == "begin" and not db.in_transaction:
                db.execute("BEGIN")
            elif kind in ("commit", "rollback") and db.in_transaction:
                db.execute(kind)
                depth[which] = 0
            elif kind == "savepoint" and db.in_transaction and depth[which] < 4:
                depth[which] += 1
                db.execute("SAVEPOINT s%d" % depth[which])
            elif kind == "to" and depth[which]:
                depth[which] = rng.randrange(depth[which]) + 1
                db.execute("ROLLBACK TO s%d" % depth[which])
            elif kind == "release" and depth[which]:
                depth[which] = rng.randrange(depth[which]) + 1
                db.execute("RELEASE s%d" % depth[which])
                depth[which] -= 1
            elif kind == "compare":
                assert (db.execute("SELECT rowid, code, k1, n, s, a FROM v").fetchall() ==
                        db.execute("SELECT * FROM o ORDER BY rowid_").fetchall()), step
            elif kind == "search":
                query, n = code(), rng.randrange(50)
                assert (db.execute("SELECT rowid, distance FROM v WHERE code MATCH ? AND k = 5 AND n = ?", (query, n)).fetchall() ==
                        db.execute("SELECT rowid_, bitlm_hamming(code, ?) AS d FROM o WHERE n = ? ORDER BY d, rowid_ LIMIT 5",
                                   (query, n)).fetchall()), step
            elif kind == "optimize":
                db.execute("INSERT INTO v(v) VALUES ('optimize')")
        except sqlite3.OperationalError as e:
            if "locked" not in str(e):
                raise
            if db.in_transaction:  # two readers that both want to write: one must give up
                db.execute("ROLLBACK")
                depth[which] = 0
    print(counts)
    for db in databases:
        if db.in_transaction:
            db.execute("COMMIT" if databases[0].in_transaction != databases[1].in_transaction else "ROLLBACK")
    for db in databases:
        assert db.execute("SELECT rowid, code, k1, n, s, a FROM v").fetchall() == db.execute("SELECT * FROM o").fetchall()
        check(db)


def both(db, sql, parameters):
    """The same statement on v and on o, with the same outcome; one that is refused on one leaves both alone."""
    outcome = []
    db.execute("SAVEPOINT both")
    try:
        for table, rowid in (("v", "rowid"), ("o", "rowid_")):
            try:
                db.execute(sql.replace("{}", table).replace("{rowid}", rowid), parameters)
                outcome.append("ok")
            except sqlite3.IntegrityError:
                outcome.append("constraint")
        assert outcome[0] == outcome[1], (sql, parameters, outcome)
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK TO both")
            db.execute("RELEASE both")
        raise
    db.execute("RELEASE both")


# ---- interrupts ------------------------------------------------------------------------------


@pytest.mark.parametrize("sql", [
    "INSERT INTO v(code, n) SELECT code, n FROM v",
    "UPDATE v SET s = 'changed' WHERE n % 2",
    "DELETE FROM v WHERE n % 3",
    "SELECT count(*) FROM (SELECT rowid, n FROM v WHERE code MATCH zeroblob(8) AND n > 10)",
    "SELECT count(*) FROM bitlm_duplicates('v', 10)",
    "SELECT bitlm_index_check('v')",
])
def test_progress_handler_at_every_step(path, sql):
    """Stopped after n callbacks for growing n until it succeeds; what was stopped left nothing behind."""
    db = connect(path)
    fill(db, 400)
    before = rows_of(db)
    stopped, n = 0, 0
    while True:
        n += 1
        left = [n]

        def handler():
            left[0] -= 1
            return left[0] < 0

        db.execute("BEGIN")
        db.execute("INSERT INTO v(rowid, code, n) VALUES (999999, zeroblob(8), 999999)")
        db.set_progress_handler(handler, 1)
        try:
            db.execute(sql).fetchall()
            done = True
        except sqlite3.OperationalError as e:
            assert "interrupt" in str(e)
            done = False
        db.set_progress_handler(None, 0)
        if db.in_transaction:
            if done and not sql.startswith("SELECT"):
                assert rows_of(db) != before
            db.execute("ROLLBACK")
        assert rows_of(db) == before
        if done:
            break
        stopped += 1
        n += n // 4
    assert stopped > 0
    check(db)


@pytest.mark.parametrize("sql", [
    "SELECT count(*) FROM bitlm_duplicates('v', 16) a, bitlm_duplicates('v', 16) b",  # every pair, a row at a time
    "WITH n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n CROSS JOIN bitlm_duplicates('v', 1)",
])
def test_interrupt_from_another_thread(path, sql):
    db = connect(path, check_same_thread=False)
    fill(db, 20000)
    timer = threading.Timer(0.1, db.interrupt)
    timer.start()
    began = time.time()
    with pytest.raises(sqlite3.OperationalError, match="interrupted"):
        db.execute(sql).fetchall()
    assert time.time() - began < 2 * SLACK
    check(db)


# ---- damage -----------------------------------------------------------------------------------


EVERYTHING = ["SELECT rowid, code, n, s FROM v", "SELECT rowid, n FROM v WHERE code MATCH zeroblob(8) AND k = 10 AND s = 's3'",
              "SELECT n FROM v WHERE rowid = 1000", "INSERT INTO v(code, n) VALUES (zeroblob(8), 1)",
              "DELETE FROM v WHERE rowid = 1500", "UPDATE v SET n = 5 WHERE rowid = 3",
              "SELECT * FROM bitlm_knn('v', zeroblob(16), 3)", "SELECT bitlm_index_check('v')", "DROP TABLE v"]


def everything(path):
    """Every statement; how many said the table is damaged.  Anything else than that is a failure."""
    complaints = 0
    for sql in EVERYTHING:
        db = connect(path)
        try:
            got = db.execute(sql).fetchall()
            complaints += sql == EVERYTHING[-2] and got != [("ok",)]
        except sqlite3.DatabaseError as e:
            assert "malformed" in str(e) or "damaged" in str(e) or "missing" in str(e) or "no such table" in str(e) or \
                "UNIQUE" in str(e), (sql, e)
            complaints += 1
        db.close()
    return complaints


def fix_checksum(data):
    """Damage that a checksum hides: an attacker knows how to make it, too."""
    import ctypes.util
    import ctypes
    lib = ctypes.CDLL(ctypes.util.find_library("xxhash") or "libxxhash.so.0")
    plain, seeded = lib.XXH3_64bits, lib.XXH3_64bits_withSeed
    plain.restype = seeded.restype = ctypes.c_uint64
    plain.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    seeded.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64]
    head = plain(data[:56], 56)
    value = seeded(data[64:], len(data) - 64, head)
    return data[:56] + value.to_bytes(8, "little") + data[64:]


def test_damaged_blocks(path, tmp_path):
    db = connect(path)
    fill(db, 2000)
    first, data = db.execute("SELECT first, data FROM v_blocks LIMIT 1").fetchone()
    db.close()
    assert fix_checksum(data) == data
    rng = random.Random(9)
    copy = str(tmp_path / "damaged.db")
    noticed = harmless = 0
    for i in range(FUZZ):
        bad = bytearray(data)
        how = rng.randrange(5)
        if how == 0:
            bad = bad[:rng.randrange(len(bad))]
        elif how == 1:
            bad += bytes(rng.randrange(1, 100))
        else:
            for _ in range(rng.randrange(1, 4)):
                # Headers and dictionaries more often than codes.
                at = rng.choice([rng.randrange(64), 64 + len(bad) - rng.randrange(1, 6000) - 64, rng.randrange(len(bad))])
                bad[at] = rng.choice([0, 1, 255, rng.randrange(256), bad[at] ^ 1 << rng.randrange(8)])
        bad = bytes(bad)
        fixed = i % 3 != 0 and len(bad) >= 64
        if fixed:
            bad = fix_checksum(bad)
        if bad == data:
            continue
        shutil.copy(path, copy)
        db = sqlite3.connect(copy)
        db.execute("UPDATE v_blocks SET data = ? WHERE first = ?", (bad, first))
        db.commit()
        db.close()
        if everything(copy):
            noticed += 1
        else:
            assert fixed, i
            harmless += 1
    print("noticed", noticed, "harmless", harmless)
    assert noticed > FUZZ / 2


@pytest.mark.parametrize("sql", [
    "UPDATE v_blocks SET data = NULL", "UPDATE v_blocks SET data = 'text'", "UPDATE v_blocks SET data = zeroblob(100000)",
    "UPDATE v_blocks SET n = n + 1", "UPDATE v_blocks SET n = -1", "UPDATE v_blocks SET n = 'x'",
    "UPDATE v_blocks SET stamp = stamp + 1", "UPDATE v_blocks SET first = first + 1",
    "INSERT INTO v_blocks SELECT first + 5, n, stamp, data FROM v_blocks LIMIT 1",
    "DELETE FROM v_config", "UPDATE v_config SET v = NULL", "DROP TABLE v_blocks", "DROP TABLE v_config",
    "DROP TABLE v_blocks; CREATE TABLE v_blocks(x)",
])
def test_damaged_shadow_tables(path, sql):
    db = connect(path)
    fill(db, 2000)
    db.close()
    db = sqlite3.connect(path)
    db.executescript(sql)
    db.close()
    assert everything(path) > 0


def test_damaged_rows_table(path):
    db = connect(path)
    db.execute("CREATE VIRTUAL TABLE v USING bitlm_index(bits=64, id TEXT PRIMARY KEY, +a)")
    db.execute("INSERT INTO v(id, code, a) VALUES ('x', zeroblob(8), 1), ('y', zeroblob(8), 2)")
    db.execute("DELETE FROM v_rows WHERE key = 'x'")
    assert "blocks have 2 rows" in one(db, "SELECT bitlm_index_check('v')")
    with pytest.raises(sqlite3.DatabaseError, match="blocks have 2 rows"):
        db.execute("INSERT INTO v(v) VALUES ('integrity-check')")
    db.execute("INSERT INTO v_rows VALUES (77, 'z', 1)")
    assert "row 77" in one(db, "SELECT bitlm_index_check('v')")


# ---- kill -9 -----------------------------------------------------------------------------------


WRITER = """
import sys
sys.path.insert(0, sys.argv[1])
from conftest import connect
db = connect(sys.argv[2], timeout=30)
db.execute("PRAGMA synchronous=off")
last = db.execute("SELECT coalesce(max(n), 0) FROM v").fetchone()[0]
print("ready", flush=True)
i = last
while True:
    db.execute("BEGIN IMMEDIATE")
    for _ in range(1 + i % 40):
        i += 1
        db.execute("INSERT INTO v(code, n, s) VALUES (?, ?, 'x')", ((i * 0x9E3779B97F4A7C15 % 2**64).to_bytes(8, "big"), i))
        db.execute("INSERT INTO o VALUES (?)", (i,))
    if i % 7 == 0:
        db.execute("DELETE FROM v WHERE n = ?", (i - 3,))
        db.execute("DELETE FROM o WHERE n = ?", (i - 3,))
    db.execute("COMMIT")
    print(i, flush=True)
"""


def test_kill_9(path):
    db = connect(path)
    one(db, "PRAGMA journal_mode=" + os.environ.get("BITLM_JOURNAL", "wal"))
    db.execute("CREATE VIRTUAL TABLE v USING bitlm_index(%s)" % SHAPE)
    db.execute("CREATE TABLE o(n INTEGER PRIMARY KEY)")
    db.close()
    rng = random.Random(4)
    for _ in range(KILLS):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, os.path.dirname(os.path.abspath(__file__)), path],
                                  stdout=subprocess.PIPE, text=True)
        assert writer.stdout.readline() == "ready\n"
        time.sleep(rng.random() * 0.2)
        writer.send_signal(signal.SIGKILL)
        told = [int(line) for line in writer.stdout.read().split("\n")[:-1] if line]
        writer.wait()
        db = connect(path, timeout=30)
        have = {n for n, in db.execute("SELECT n FROM v")}
        assert have == {n for n, in db.execute("SELECT n FROM o")}
        assert not told or max(have) >= told[-1]  # what was committed is there
        check(db)
        db.close()


# ---- memory ------------------------------------------------------------------------------------


MEMORY = """
import re, sys
sys.path.insert(0, sys.argv[1])
from conftest import connect
def anonymous():  # KiB
    return int(re.search(r"RssAnon:\\s*(\\d+)", open("/proc/self/status").read()).group(1))
connections = [connect(sys.argv[2]) for _ in range(6)]
for c in connections:
    c.execute("PRAGMA cache_size = -100")
    c.execute("SELECT v FROM v_config").fetchall()
kib = [anonymous()]
for c in connections:
    assert c.execute("SELECT n FROM v WHERE code MATCH zeroblob(1024) AND k = 1").fetchall() == [(7,)]
    kib.append(anonymous())
print(*kib)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.skipif(SLACK > 1, reason="sanitizers keep freed memory")
@pytest.mark.parametrize("cache_mb", [4096, 1])
def test_connections_share_one_copy_of_the_blocks(path, cache_mb):
    """8 MiB of codes: the first connection that searches reads them, the others find them; under a limit they do not stay."""
    db = connect(path)
    db.execute("CREATE VIRTUAL TABLE v USING bitlm_index(bits=8192, n INTEGER, cache_mb=%d)" % cache_mb)
    with_transaction(db, lambda: db.execute(
        "WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < 8192) "
        "INSERT INTO v(code, n) SELECT iif(n = 7, zeroblob(1024), randomblob(1024)), n FROM i"))
    db.close()
    done = subprocess.run([sys.executable, "-c", MEMORY, os.path.dirname(os.path.abspath(__file__)), path],
                          stdout=subprocess.PIPE, text=True, check=True)
    before, first, *others = [int(k) / 1024 for k in done.stdout.split()]
    print("MiB", before, first, others)
    if cache_mb == 4096:
        assert first - before > 7
        assert max(others) - first < 4  # half a copy for five more connections
    else:
        assert max(first, *others) - before < 5
