#!/usr/bin/env python3
"""How fast bitlm_index is, as ratios to the machine's limit and to sqlite-vec, in one run.

    make && /usr/bin/python3 tests/bench/bench_index.py [--rows 1000000] [--bits 384] [--vec0 PATH] [--dir DIR]

The limit is tests/bench/bare_scan.c: popcounts over the same number of bytes, one thread.  sqlite-vec is
compared if --vec0 names its library or Python can import sqlite_vec.  The last column says whether the
target is met."""

import argparse
import os
import pathlib
import random
import sqlite3
import statistics
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--rows", type=int, default=1000000)
parser.add_argument("--bits", type=int, default=384)
parser.add_argument("--repeats", type=int, default=31)
parser.add_argument("--vec0", help="path of sqlite-vec's library, without suffix")
parser.add_argument("--cpu", action="store_true", help="CPU time instead of wall time: for a machine that does other work, too")
parser.add_argument("--dir", help="where the databases go (a temporary folder)")
parser.add_argument("--extension", default=str(ROOT / "build" / "bitlm0"))
arguments = parser.parse_args()
N, BITS, BYTES, REPEATS = arguments.rows, arguments.bits, arguments.bits // 8, arguments.repeats
now = time.process_time if arguments.cpu else time.perf_counter
folder = tempfile.TemporaryDirectory(dir=arguments.dir)


def connect(name, extension=arguments.extension):
    db = sqlite3.connect(os.path.join(folder.name, name), isolation_level=None)
    db.enable_load_extension(True)
    db.load_extension(extension)
    db.execute("PRAGMA mmap_size=4000000000").fetchall()
    return db


def limit():
    done = subprocess.run([ROOT / "build/meson/tests/bare_scan", str(N), str(BYTES), str(REPEATS)] +
                          ["cpu"] * arguments.cpu,
                          capture_output=True, text=True, check=True)
    return float(done.stdout.split()[0])


def median(work, repeats=REPEATS):
    times = []
    for i in range(repeats):
        began = now()
        work(i)
        times.append((now() - began) * 1e3)
    return statistics.median(times)


def paired(work, base, repeats):
    """Medians of both, in turn, so that other load meets both alike."""
    times = [[], []]
    for i in range(repeats):
        for which, f in enumerate((work, base)):
            began = now()
            f(i)
            times[which].append((now() - began) * 1e3)
    return statistics.median(times[0]), statistics.median(times[1])


def report(what, value, unit="", ratio=None, of="", target=None, most=True):
    line = "%-46s %10.2f %-7s" % (what, value, unit)
    if ratio is not None:
        line += " %7.2f x %-16s" % (ratio, of)
        if target is not None:
            line += " %s %.2f: %s" % ("at most" if most else "at least", target,
                                      "yes" if (ratio <= target if most else ratio >= target) else "NO")
    print(line, flush=True)


rng = random.Random(1)
blob = rng.randbytes(N * BYTES)
codes = [blob[i * BYTES:(i + 1) * BYTES] for i in range(N)]
queries = [codes[rng.randrange(N)] for _ in range(256)]
print("%d codes of %d bits, k = 10, medians of %d, SQLite %s" % (N, BITS, REPEATS, sqlite3.sqlite_version))

# ---- insert and size
db = connect("a.db")
db.execute("CREATE VIRTUAL TABLE v USING bitlm_index(bits=%d)" % BITS)
began = now()
db.execute("BEGIN")
db.executemany("INSERT INTO v(code) VALUES (?)", ((code,) for code in codes))
db.execute("COMMIT")
rate = N / (now() - began)
report("insert, one transaction", rate / 1e3, "krows/s", rate / 200000, "200,000 rows/s", 1, False)
size = os.path.getsize(os.path.join(folder.name, "a.db"))
report("database", size / 1e6, "MB", size / (N * (BYTES + 8)), "codes + rowids", 1.2)

# ---- unfiltered
SQL = "SELECT rowid, distance FROM v WHERE code MATCH ? AND k = 10"
search = lambda i: db.execute(SQL, (queries[i % 256],)).fetchall()
search(0)
rounds = [(limit(), median(search)) for _ in range(5)]  # in turn: the best of each is that of a quiet moment
bare, warm = min(b for b, _ in rounds), min(w for _, w in rounds)
report("bare popcount loop, 1 thread", bare, "ms")
report("warm query", warm, "ms", warm / bare, "bare loop", 2)
batch = b"".join(queries[:16])
each = median(lambda i: db.execute("SELECT * FROM bitlm_knn('v', ?, 10)", (batch,)).fetchall(), 5) / 16
report("16 queries in one call, each", each, "ms", each / bare, "bare loop")
db.execute("PRAGMA synchronous=off")


def alternate(i):
    db.execute("INSERT INTO v(code) VALUES (?)", (queries[i % 256],))
    search(i)


pair, beside = paired(alternate, search, REPEATS)
report("one-row INSERT and query", pair, "ms", pair / beside, "warm query", 1.3)
db.close()


def first(i):
    other = connect("a.db")
    other.execute(SQL, (queries[i % 256],)).fetchall()
    other.close()


cold = median(first, 7)
keep = connect("a.db")
keep.execute(SQL, (queries[0],)).fetchall()
beside = median(first, 7)
keep.close()
report("first query, connection opened and closed", cold, "ms", cold / bare, "bare loop")
report("the same beside another connection", beside, "ms", beside / bare, "bare loop")

# ---- filtered
db = connect("b.db")
db.execute("CREATE VIRTUAL TABLE v USING bitlm_index(bits=%d, thousand INTEGER, hundred INTEGER, half INTEGER, lang TEXT)" % BITS)
db.execute("BEGIN")
meta = [(rng.randrange(1000), rng.randrange(100), rng.randrange(2), rng.choice(["de", "en", "fr", "it"])) for _ in range(N)]
db.executemany("INSERT INTO v(code, thousand, hundred, half, lang) VALUES (?,?,?,?,?)",
               ((code,) + m for code, m in zip(codes, meta)))
db.execute("COMMIT")
db.execute("CREATE TABLE docs(id INTEGER PRIMARY KEY, title TEXT)")
db.execute("BEGIN")
db.executemany("INSERT INTO docs VALUES (?, 'title')", ((i + 1,) for i in range(N)))
db.execute("COMMIT")
search(0)
warm = median(search)
report("unfiltered, with 4 metadata columns", warm, "ms", warm / bare, "bare loop")
import bisect
some = sorted(rng.sample(range(1, N + 1), max(1, N // 1000)))
for what, condition, keep in [
        ("0.1 %: thousand = 7", "thousand = 7", lambda i: meta[i][0] == 7),
        ("1 %: hundred = 7", "hundred = 7", lambda i: meta[i][1] == 7),
        ("1 %: thousand IN (10 values)", "thousand IN (1,2,3,5,8,13,21,34,55,89)",
         lambda i: meta[i][0] in (1, 2, 3, 5, 8, 13, 21, 34, 55, 89)),
        ("50 %: half = 1", "half = 1", lambda i: meta[i][2] == 1),
        ("50 %: lang IN ('de', 'en')", "lang IN ('de', 'en')", lambda i: meta[i][3] in ("de", "en")),
        ("50 %: thousand < 500", "thousand < 500", lambda i: meta[i][0] < 500),
        ("0.5 %: half = 1 AND hundred = 7", "half = 1 AND hundred = 7", lambda i: meta[i][2] == 1 and meta[i][1] == 7),
        ("50 %: rowid BETWEEN", "v.rowid <= %d" % (N // 2), lambda i: i < N // 2),
        ("0.1 %: rowid IN (1,000 values)", "v.rowid IN (%s)" % ",".join(map(str, some)),
         lambda i: some[min(bisect.bisect_left(some, i + 1), len(some) - 1)] == i + 1)]:
    for join in ("", " JOIN docs ON docs.id = v.rowid"):
        sql = "SELECT v.rowid, distance FROM v%s WHERE code MATCH ? AND k = 10 AND %s" % (join, condition)
        took, beside = paired(lambda i: db.execute(sql, (queries[i % 256],)).fetchall(), search, 15)
        q = int.from_bytes(queries[3], "big")
        expected = sorted((bin(int.from_bytes(codes[i], "big") ^ q).count("1"), i + 1) for i in range(N) if keep(i))[:10] \
            if N <= 200000 or not join else expected
        same = [(d, r) for r, d in db.execute(sql, (queries[3],))] == expected
        report(what + (", joined" if join else "") + ("" if same else " WRONG"), took, "ms", took / beside, "unfiltered", 1.5)
db.close()

# ---- many partitions
rows = min(N, 200000)
db = connect("c.db")
db.execute("CREATE VIRTUAL TABLE v USING bitlm_index(bits=%d, user INTEGER PARTITION KEY)" % BITS)
db.execute("BEGIN")
db.executemany("INSERT INTO v(code, user) VALUES (?, ?)", ((codes[i], i * 7919 % (rows // 10)) for i in range(rows)))
db.execute("COMMIT")
size = os.path.getsize(os.path.join(folder.name, "c.db"))
report("10 rows a partition (%d bits)" % BITS, size / rows, "B/row", size / rows / 100, "100 B", 1)
took = median(lambda i: db.execute("SELECT rowid FROM v WHERE code MATCH ? AND k = 10 AND user = ?",
                                   (queries[i % 256], i)).fetchall(), 11)
report("query of one partition among %d" % (rows // 10), took, "ms")
db.close()

# ---- sqlite-vec
vec0 = arguments.vec0
if not vec0:
    try:
        import sqlite_vec
        vec0 = sqlite_vec.loadable_path()
    except ImportError:
        print("sqlite-vec: not compared (pip install sqlite-vec, or --vec0 PATH)")
if vec0:
    db = connect("v.db", vec0)
    db.execute("CREATE VIRTUAL TABLE v USING vec0(code bit[%d])" % BITS)
    began = now()
    db.execute("BEGIN")
    db.executemany("INSERT INTO v(code) VALUES (vec_bit(?))", ((code,) for code in codes))
    db.execute("COMMIT")
    report("sqlite-vec %s: insert" % db.execute("SELECT vec_version()").fetchone()[0],
           N / (now() - began) / 1e3, "krows/s")
    VEC = "SELECT rowid, distance FROM v WHERE code MATCH vec_bit(?) AND k = 10"
    ask = lambda i: db.execute(VEC, (queries[i % 256],)).fetchall()
    ask(0)
    theirs = median(ask, 11)
    db.close()

    def first_of_theirs(i):
        other = connect("v.db", vec0)
        other.execute(VEC, (queries[i % 256],)).fetchall()
        other.close()

    theirs_first = median(first_of_theirs, 7)
    cold = min(cold, median(first, 7))
    db = connect("a.db")
    search(0)
    warm = median(search)
    db.close()
    report("sqlite-vec: query (mmap_size)", theirs, "ms", theirs / warm, "of ours", 6, False)
    report("sqlite-vec: first query", theirs_first, "ms")
    report("ours: first query", cold, "ms", cold / theirs_first, "of theirs", 1)
folder.cleanup()
