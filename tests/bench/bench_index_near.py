#!/usr/bin/env python3
"""How fast bitlm_index answers questions for near-duplicates before and after it made tables of pieces.

    make && /usr/bin/python3 tests/bench/bench_index_near.py [ROWS]        (1,000,000 codes of 384 bits)

The codes are in clusters of 100 whose codes differ from their center's in one bit of 64; each question is a
code of the table.  Prints how long the first (flat) and the last of 400 take, the longest (a piece is made), and the same with a row
inserted before each; and, before there are tables and with all of them, k = 10 for random codes, whose answers lie too far for tables: the
mean, since now and then one asks them in vain."""

import random
import statistics
import sys
import time
import pathlib
import sqlite3

ROWS = int(sys.argv[1]) if len(sys.argv) > 1 else 1000000
db = sqlite3.connect(":memory:", isolation_level=None)
db.enable_load_extension(True)
db.load_extension(str(pathlib.Path(__file__).resolve().parents[2] / "build" / "bitlm0"))
rng = random.Random(1)
centers = [rng.getrandbits(384) for _ in range(ROWS // 100)]


def code():
    c = rng.choice(centers)
    for _ in range(6):
        c ^= 1 << rng.randrange(384)
    return c.to_bytes(48, "big")


db.execute("CREATE VIRTUAL TABLE v USING bitlm_index(bits=384)")
db.execute("BEGIN")
db.executemany("INSERT INTO v(code) VALUES (?)", ((code(),) for _ in range(ROWS)))
db.execute("COMMIT")
def far(when):
    times = []
    for _ in range(400):
        query = rng.randbytes(48)
        began = time.perf_counter()
        db.execute("SELECT rowid, distance FROM v WHERE code MATCH ? AND k = 10", (query,)).fetchall()
        times.append((time.perf_counter() - began) * 1e3)
    print(f"k = 10 far away, {when}: mean {statistics.mean(times):.3f} ms, median {statistics.median(times):.3f} ms, longest {max(times[1:]):.1f} ms")


far("no tables")
for what, where in (("distance < 20", "distance < 20"), ("k = 10", "k = 10"), ("INSERT, then distance < 20", "distance < 20")):
    if what == "k = 10":
        db.execute("INSERT INTO v(v) VALUES ('optimize')")
    times = []
    for _ in range(400):
        query = code()
        began = time.perf_counter()
        if what.startswith("INSERT"):
            db.execute("INSERT INTO v(code) VALUES (?)", (code(),))
        db.execute("SELECT rowid, distance FROM v WHERE code MATCH ? AND " + where, (query,)).fetchall()
        times.append((time.perf_counter() - began) * 1e3)
    print(f"{what}: first ten {statistics.median(times[:10]):.3f} ms, last hundred {statistics.median(times[-100:]):.3f} ms "
          f"({min(times[-100:]):.3f} to {max(times[-100:]):.3f}), longest {max(times[1:]):.1f} ms")
far("tables")
