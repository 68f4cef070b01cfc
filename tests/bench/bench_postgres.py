#!/usr/bin/python3
"""Search in PostgreSQL against its limit, ratios in one run.

    make pg && tests/postgres/cluster.sh tests/bench/bench_postgres.py [index] [texts] [pgvector]

with BITLM_PG_OPTIONS="shared_buffers = 1GB", so that the codes lie in the server's buffers.  Without a name, all three:

    index     1,000,000 codes of 384 bits, k = 10: index scan, sequential scan with bit_count(a # b), build, inserts,
              two clients; the limit is tests/bench/bare_scan.c, popcounts over the same bytes, one thread
    texts     an index over bitlm_embed(body) built by one process and by two
    pgvector  1,000,000 codes in clusters (random ones have no neighbours to find), or those of the file BENCH_CODES, a
              code of 96 hexadecimal digits a line (`bitlm embed` writes them): our index and pgvector's HNSW on the same column,
              latency, recall, build time, size and insert rate together; left out aloud where pgvector is not installed

BENCH_N and BENCH_QUERIES change the numbers of codes and of queries; BENCH_WORKERS processes help to build in the last.
"""

import io
import os
import pathlib
import random
import statistics
import subprocess
import sys
import threading
import time

import psycopg2

ROOT = pathlib.Path(__file__).resolve().parents[2]
N = int(os.environ.get("BENCH_N", "1000000"))
QUERIES = int(os.environ.get("BENCH_QUERIES", "25"))
WORKERS = int(os.environ.get("BENCH_WORKERS", "0"))
BITS, K, SEED = 384, 10, 20250420
INDEX_SQL = "SELECT id FROM codes ORDER BY code <^> %s::bit(384) LIMIT 10"
SCAN_SQL = "SELECT id FROM codes ORDER BY bit_count(code # %s::bit(384)) LIMIT 10"


def connect():
    connection = psycopg2.connect("")
    connection.autocommit = True
    cursor = connection.cursor()
    cursor.execute("SET jit = off; SET max_parallel_workers_per_gather = 0; SET max_parallel_maintenance_workers = 0;"
                   "SET maintenance_work_mem = '512MB'")
    return cursor


def timed(cursor, sql, *parameters):
    began = time.perf_counter()
    cursor.execute(sql, parameters or None)
    rows = cursor.fetchall() if cursor.description else []
    return time.perf_counter() - began, rows


def uses(cursor, sql, name, query):
    cursor.execute("EXPLAIN " + sql, (query,))
    plan = "\n".join(row[0] for row in cursor.fetchall())
    assert (name in plan) if name else "Index" not in plan, plan


def random_code(rng):
    return f"{rng.getrandbits(BITS):0{BITS}b}"


def median_ms(cursor, sql, queries):
    return statistics.median(timed(cursor, sql, query)[0] for query in queries) * 1e3


def distances(cursor, order, query, limit=K):
    cursor.execute(f"SELECT {order} AS d FROM codes ORDER BY {order} LIMIT {limit}", (query, query))
    return [float(row[0]) for row in cursor.fetchall()]


def rate_of_clients(n, queries, seconds=4.0):
    """Queries a second of n clients together."""
    cursors, done = [connect() for _ in range(n)], [0] * n
    for cursor in cursors:
        timed(cursor, INDEX_SQL, queries[0])
    stop = time.perf_counter() + seconds

    def client(i):
        while time.perf_counter() < stop:
            timed(cursors[i], INDEX_SQL, queries[(i + done[i]) % len(queries)])
            done[i] += 1

    threads = [threading.Thread(target=client, args=(i,)) for i in range(n)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.perf_counter() - began)


def verdict(what, value, target, unit=""):
    print(f"{what}: {value:.2f}{unit} (target {'<=' if target < 0 else '>='} {abs(target)}{unit}) "
          f"{'ok' if (value <= -target if target < 0 else value >= target) else 'MISSED'}")


def bench_index():
    db, rng = connect(), random.Random(SEED)
    queries = [random_code(rng) for _ in range(QUERIES)]
    db.execute("DROP TABLE IF EXISTS codes; CREATE TABLE codes(id int, code bit(384))")
    db.execute("INSERT INTO codes SELECT g, ('x' || md5(g::text) || md5(g::text || 'b') || md5(g::text || 'c'))::bit(384) "
               f"FROM generate_series(1, {N}) g")
    db.execute("VACUUM ANALYZE codes")
    build = min(timed(db, "DROP INDEX IF EXISTS codes_code; CREATE INDEX codes_code ON codes USING bitlm (code)")[0]
                for _ in range(3))
    uses(db, INDEX_SQL, "codes_code", queries[0])
    uses(db, SCAN_SQL, None, queries[0])
    timed(db, INDEX_SQL, queries[0])
    limits, ours = [], []
    for _ in range(3):  # side by side: what else the machine does meets both
        limits.append(float(subprocess.run([ROOT / "build/meson/tests/bare_scan", str(N), str(BITS // 8), "15"], check=True,
                                           capture_output=True, text=True).stdout.split()[0]))
        ours.append(median_ms(db, INDEX_SQL, queries))
    limit, index = min(limits), min(ours)
    scan = median_ms(db, SCAN_SQL, queries[:3])
    print(f"{N:,} codes of {BITS} bits, k = {K}: bare popcount loop {limit:.2f} ms, index scan {index:.2f} ms, "
          f"sequential scan with bit_count(a # b) {scan:.1f} ms")
    verdict("index scan / limit", index / limit, -5)
    verdict("sequential scan / index scan", scan / index, 15)
    same = sum(distances(db, "code <^> %s::bit(384)", q) == distances(db, "bit_count(code # %s::bit(384))", q) for q in queries[:5])
    verdict("share of queries with exactly the nearest distances", same / 5, 1)
    verdict("build", N / build / 1e6, 2, " M rows/s")
    one, two = rate_of_clients(1, queries), rate_of_clients(2, queries)
    print(f"one client {one:.0f} queries/s, two {two:.0f}")
    verdict("two clients / one", two / one, 1.7)
    took = timed(db, f"INSERT INTO codes SELECT id, ~code FROM codes LIMIT {N // 20}")[0]
    print(f"INSERT with the index: {N // 20 / took:,.0f} rows/s")
    db.execute("DROP TABLE codes")


def bench_texts():
    db = connect()
    db.execute("DROP TABLE IF EXISTS texts; CREATE TABLE texts(body text); INSERT INTO texts "
               "SELECT 'note ' || g || repeat(' and so on', g % 7) FROM generate_series(1, 3000) g; ANALYZE texts")
    took = [[], []]
    for _ in range(3):
        for workers in (0, 1):
            db.execute(f"SET max_parallel_maintenance_workers = {workers}")
            took[workers].append(timed(db, "CREATE INDEX texts_code ON texts USING bitlm (bitlm_embed(body))")[0])
            db.execute("DROP INDEX texts_code")
    print(f"index over bitlm_embed of 3,000 texts: {min(took[0]):.2f} s, with one worker {min(took[1]):.2f} s")
    verdict("speed-up by one worker", min(took[0]) / min(took[1]), 1.7)
    db.execute("DROP TABLE texts")


def clustered(rng, n, centers):
    """Codes around centers: each bit of the center turned over with probability 1/8."""
    for _ in range(n):
        noise = rng.getrandbits(BITS) & rng.getrandbits(BITS) & rng.getrandbits(BITS)
        yield f"{centers[rng.randrange(len(centers))] ^ noise:0{BITS}b}"


def codes_to_compare(rng):
    """(what they are, those in the table, those that are inserted later, queries)"""
    if os.environ.get("BENCH_CODES"):
        lines = pathlib.Path(os.environ["BENCH_CODES"]).read_text(encoding="ascii").split()
        lines = list(dict.fromkeys(f"{int(line, 16):0{BITS}b}" for line in lines))  # a text that is there twice has no nearest
        rng.shuffle(lines)
        n = len(lines) - QUERIES * 4 - len(lines) // 100
        return "embeddings of texts", lines[:n], lines[n:-QUERIES * 4], lines[-QUERIES * 4:]
    centers = [rng.getrandbits(BITS) for _ in range(N // 100)]
    lines = list(clustered(rng, N + N // 100 + QUERIES * 4, centers))
    return f"codes in {len(centers):,} clusters", lines[:N], lines[N:-QUERIES * 4], lines[-QUERIES * 4:]


def bench_pgvector():
    db, rng = connect(), random.Random(SEED)
    db.execute("SELECT default_version FROM pg_available_extensions WHERE name = 'vector'")
    version = db.fetchone()
    if not version or tuple(map(int, version[0].split(".")[:2])) < (0, 7):
        print("pgvector 0.7 or newer is not installed here: not compared")
        return
    db.execute(f"SET max_parallel_maintenance_workers = {WORKERS}; SET maintenance_work_mem = '2GB'")
    db.execute("CREATE EXTENSION IF NOT EXISTS vector; DROP TABLE IF EXISTS codes, more; "
               "CREATE TABLE codes(id serial, code bit(384)); CREATE TABLE more(code bit(384))")
    what, codes, more, queries = codes_to_compare(rng)
    n, n_more = len(codes), len(more)
    for table, rows in (("codes", codes), ("more", more)):
        db.copy_expert(f"COPY {table}(code) FROM STDIN", io.StringIO("\n".join(rows) + "\n"))
    db.execute("VACUUM ANALYZE codes")
    wanted = {query: distances(db, "bit_count(code # %s::bit(384))", query) for query in queries}
    print(f"{n:,} {what}, pgvector {version[0]}, {WORKERS + 1} processes build, one asks; the nearest is {statistics.median(w[0] for w in wanted.values()):.0f} "
          f"bits away, the {K}th {statistics.median(w[-1] for w in wanted.values()):.0f} (medians)", flush=True)

    def report(name, index, order, settings):
        took = timed(db, index)[0]
        for setting in settings:
            db.execute(setting)
            sql = f"SELECT id FROM codes ORDER BY {order} LIMIT {K}"
            uses(db, sql, "other_code", queries[0])
            timed(db, sql, queries[0])
            latency = median_ms(db, sql, queries)
            # A row counts as found if it is no further away than the k-th nearest.
            found = sum(sum(d <= wanted[q][-1] for d in distances(db, order, q)) for q in queries)
            print(f"{name}, {setting[4:]}: {latency:.2f} ms, recall {found / K / len(queries):.3f}")
        db.execute("SELECT pg_relation_size('other_code')")
        size = db.fetchone()[0]
        db.execute("BEGIN")
        rate = n_more / timed(db, "INSERT INTO codes(code) SELECT code FROM more")[0]
        db.execute("ROLLBACK")
        print(f"{name}: built in {took:.2f} s ({n / took:,.0f} rows/s), {size / 2**20:.0f} MB, inserts {rate:,.0f} rows/s", flush=True)
        db.execute("DROP INDEX other_code")
        db.execute("VACUUM codes")

    report("bitlm", "CREATE INDEX other_code ON codes USING bitlm (code)", "code <^> %s::bit(384)", ["SET enable_sort = on"])
    report("pgvector HNSW", "CREATE INDEX other_code ON codes USING hnsw (code bit_hamming_ops)", "code <~> %s::bit(384)",
           [f"SET hnsw.ef_search = {ef}" for ef in (40, 100, 400)])
    db.execute("DROP TABLE codes, more")


def main():
    chosen = sys.argv[1:] or ["index", "texts", "pgvector"]
    cursor = connect()
    cursor.execute("CREATE EXTENSION IF NOT EXISTS bitlm")
    for name in chosen:
        {"index": bench_index, "texts": bench_texts, "pgvector": bench_pgvector}[name]()


if __name__ == "__main__":
    main()
