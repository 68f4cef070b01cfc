#!/usr/bin/env python3
"""How long bitlm_duplicates takes in SQL, beside comparing every pair and beside a plain self join.

    make && /usr/bin/python3 tests/bench/bench_duplicates.py [--rows 1000000] [--bits 384] [--distance 20] [--cpu]

Two sets of codes: random ones, and clusters of a thousand whose bits differ from their centre's with a
chance of 5 in 32.  In both, every hundredth code is another one with up to `distance` bits turned.  Every pair
is compared, of --all rows, by a distance of a quarter of the bits; its pairs up to `distance` must be those
that the small distance finds in these rows.  Exits with 1 if they are not."""

import argparse
import pathlib
import random
import sqlite3
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--rows", type=int, default=1000000)
parser.add_argument("--all", type=int, default=50000, help="rows of which every pair is compared")
parser.add_argument("--join", type=int, default=3000, help="rows of the self join")
parser.add_argument("--bits", type=int, default=384)
parser.add_argument("--distance", type=int, default=20)
parser.add_argument("--cpu", action="store_true", help="CPU time instead of wall time: for a machine that does other work, too")
parser.add_argument("--extension", default=str(ROOT / "build" / "bitlm0"))
arguments = parser.parse_args()
BITS, MOST = arguments.bits, arguments.distance
now = time.process_time if arguments.cpu else time.perf_counter
FOUND = "SELECT a, b, distance FROM bitlm_duplicates('v', ?)"


def flips(rng):
    """Bits that are set with a chance of 5 in 32."""
    a, b, c, d, e = (rng.getrandbits(BITS) for _ in range(5))
    return a & b & (c | d & e)


def make(rng, n, clustered):
    codes = []
    for i in range(n):
        if i % 100 == 99:
            code = codes[rng.randrange(i)]
            for bit in rng.sample(range(BITS), rng.randrange(MOST + 1)):
                code ^= 1 << bit
        elif clustered:
            if i % 1000 == 0:
                centre = rng.getrandbits(BITS)
            code = centre ^ flips(rng)
        else:
            code = rng.getrandbits(BITS)
        codes.append(code)
    return [code.to_bytes(BITS // 8, "big") for code in codes]


def table(codes):
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.enable_load_extension(True)
    db.load_extension(arguments.extension)
    db.execute("CREATE VIRTUAL TABLE v USING bitlm_index(bits=%d)" % BITS)
    db.execute("BEGIN")
    db.executemany("INSERT INTO v(code) VALUES (?)", ((code,) for code in codes))
    db.execute("COMMIT")
    db.execute("SELECT rowid FROM v WHERE code MATCH ? AND k = 1", (codes[0],)).fetchall()
    return db


def timed(db, sql, *parameters):
    """Least seconds of three runs, and the rows."""
    times = []
    for _ in range(3):
        began = now()
        rows = db.execute(sql, parameters).fetchall()
        times.append(now() - began)
    return min(times), rows


def report(what, rows, seconds, pairs):
    print("%-38s %9d rows %9.3f s %8d pairs found %12.1f million pairs/s" %
          (what, rows, seconds, pairs, rows * (rows - 1) / 2e6 / seconds), flush=True)


print("%d bits, distance %d, %s time, least of 3" % (BITS, MOST, "CPU" if arguments.cpu else "wall"))
same = True
for kind in ("random", "clustered"):
    codes = make(random.Random(1), arguments.rows, kind == "clustered")
    db = table(codes)
    took, rows = timed(db, FOUND, MOST)
    report(kind + ", small distance", arguments.rows, took, len(rows))
    db.close()
    db = table(codes[:arguments.all])
    took, few = timed(db, FOUND, MOST)
    report(kind + ", the same", arguments.all, took, len(few))
    took, every = timed(db, FOUND, BITS // 4)
    report(kind + ", every pair (distance %d)" % (BITS // 4), arguments.all, took, len(every))
    same = same and sorted(few) == sorted(pair for pair in every if pair[2] <= MOST)
    db.execute("CREATE TABLE t AS SELECT rowid AS id, code FROM v WHERE rowid <= ?", (arguments.join,))
    took, joined = timed(db, "SELECT a.id, b.id, bitlm_hamming(a.code, b.code) AS d FROM t a JOIN t b ON b.id > a.id "
                             "WHERE d <= ?", MOST)
    report(kind + ", self join with bitlm_hamming", arguments.join, took, len(joined))
    same = same and sorted(joined) == sorted(pair for pair in few if pair[1] <= arguments.join)
    db.close()
print("the ways find the same pairs" if same else "WRONG: the ways find different pairs")
sys.exit(not same)
