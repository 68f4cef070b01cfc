"""The index after kill -9, on a standby that replays the WAL, and after pg_dump.

BITLM_KILLS is how often the server is killed (2 in `make check`)."""

import os
import random
import subprocess
import threading
import time

import psycopg2
import pytest

from clusters import Cluster, bindir

SEED = 20250211
KILLS = int(os.environ.get("BITLM_KILLS", "2"))
CODE = "('x' || md5({0}::text))::bit(128)"
TABLE = "CREATE TABLE points(id int, part int, code bit(128)); CREATE INDEX points_code ON points USING bitlm (code, part)"


def fill(first, last):
    return f"INSERT INTO points SELECT g, g % 10, {CODE.format('g')} FROM generate_series({first}, {last}) g"


def same(db, limit=3000):
    """Index and sequential scan give the same rows."""
    for where in ("true", "part = 3"):
        answers = []
        for on, off in (("enable_seqscan", "enable_indexscan"), ("enable_indexscan", "enable_seqscan")):
            db.rows(f"SET enable_bitmapscan = off; SET {on} = on; SET {off} = off")
            sql = f"SELECT code <^> B'{'01' * 64}' AS d FROM points WHERE {where} ORDER BY d LIMIT {limit}"
            plan = "\n".join(row[0] for row in db.rows("EXPLAIN " + sql))
            assert ("points_code" in plan) == (on == "enable_indexscan"), plan
            answers.append(db.rows(sql))
        assert answers[0] == answers[1]
    db.rows("RESET ALL")


@pytest.fixture
def cluster(extension):
    one = Cluster("wal_level = replica", "max_wal_senders = 4", "max_parallel_maintenance_workers = 2",
                  "min_parallel_table_scan_size = 0", "wal_consistency_checking = 'generic'")
    yield one
    one.close()


def test_killed_while_rows_go_in(cluster):
    db = cluster.connect()
    db.rows("CREATE EXTENSION bitlm; " + TABLE)
    rng, committed = random.Random(SEED), 0
    print("seed", SEED)
    for round_ in range(KILLS):
        threading.Timer(0.2 + rng.random(), cluster.kill).start()
        try:
            while True:
                db.rows(fill(committed + 1, committed + 50))
                committed += 50
                if rng.random() < 0.05:
                    db.rows("CHECKPOINT")
                if rng.random() < 0.05:
                    db.rows("VACUUM points")
        except psycopg2.Error:
            pass
        time.sleep(0.5)
        cluster.start()
        db = cluster.connect()
        # The last batch may be committed though its answer was lost.
        assert db.one("SELECT count(*) FROM points") in (committed, committed + 50)
        committed = db.one("SELECT count(*) FROM points")
        assert committed > 0, round_
        same(db)
        assert db.one("SELECT bitlm_index_check('points_code')") >= committed
        db.rows("VACUUM points")
        assert db.one("SELECT bitlm_index_check('points_code')") == committed


def test_killed_while_the_index_is_built(cluster):
    db = cluster.connect()
    db.rows("CREATE EXTENSION bitlm; CREATE TABLE points(id int, part int, code bit(128)); " + fill(1, 60000))
    db.rows("CREATE FUNCTION slowly(code bit) RETURNS bit LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS "
            "$$BEGIN PERFORM pg_sleep(0.0001); RETURN code; END$$")
    rng = random.Random(SEED + 1)
    for _ in range(KILLS):
        threading.Timer(0.3 + rng.random() / 2, cluster.kill).start()
        with pytest.raises(psycopg2.Error):
            db.rows("CREATE INDEX half ON points USING bitlm (slowly(code))")
        time.sleep(0.5)
        cluster.start()
        db = cluster.connect()
        assert db.one("SELECT count(*) FROM pg_class WHERE relname = 'half'") == 0
        assert db.one("SELECT count(*) FROM points") == 60000
    db.rows("CREATE INDEX points_code ON points USING bitlm (code, part)")
    # A crash right behind the build: what recovery makes of it comes from the WAL alone.
    cluster.kill()
    cluster.start()
    db = cluster.connect()
    assert db.one("SELECT bitlm_index_check('points_code')") == 60000
    same(db)


def test_standby(cluster):
    db = cluster.connect()
    db.rows("CREATE EXTENSION bitlm; " + TABLE + "; " + fill(1, 5000))
    standby = Cluster(copy_of=cluster)
    try:
        replica = standby.connect()
        assert replica.one("SELECT pg_is_in_recovery()")

        def catch_up():
            until = db.one("SELECT pg_current_wal_insert_lsn()")
            for _ in range(200):
                if replica.one("SELECT pg_last_wal_replay_lsn() >= %s", until):
                    return
                time.sleep(0.05)
            raise AssertionError("the standby does not follow")

        for step in (fill(5001, 9000), "DELETE FROM points WHERE id % 7 = 2", "VACUUM points",
                     "UPDATE points SET part = 3 WHERE id % 5 = 1", fill(9001, 12000), "REINDEX INDEX points_code",
                     "INSERT INTO points VALUES (0, 3, NULL)", "REINDEX INDEX CONCURRENTLY points_code", "VACUUM points"):
            db.rows(step)
            catch_up()
            same(replica)
        assert replica.one("SELECT bitlm_index_check('points_code')") == db.one("SELECT count(*) FROM points")
        cluster.stop()
        standby.run("pg_ctl", "-D", standby.data, "-w", "promote")
        replica = standby.connect()
        replica.rows(fill(20001, 21000))
        same(replica)
    finally:
        standby.close()
        cluster.start()


def test_dump_and_restore(cluster):
    db = cluster.connect()
    db.rows("CREATE EXTENSION bitlm; " + TABLE + "; " + fill(1, 2000))
    db.rows("CREATE TABLE notes(body text, code bit(384) GENERATED ALWAYS AS (bitlm_embed(body)) STORED);"
            "CREATE INDEX ON notes USING bitlm (code); INSERT INTO notes SELECT 'note ' || g FROM generate_series(1, 40) g")
    db.rows("CREATE DATABASE again")
    dump = subprocess.run([f"{bindir()}/pg_dump", "-h", cluster.dir, "-U", "bitlm", "postgres"], check=True, capture_output=True)
    assert b"CREATE INDEX points_code ON public.points USING bitlm (code, part)" in dump.stdout
    subprocess.run([f"{bindir()}/psql", "-q", "-v", "ON_ERROR_STOP=1", "-h", cluster.dir, "-U", "bitlm", "again"], check=True,
                   input=dump.stdout, stdout=subprocess.DEVNULL)
    again = cluster.connect("again")
    same(again)
    assert again.rows("SELECT body, code::text FROM notes ORDER BY 1") == db.rows("SELECT body, code::text FROM notes ORDER BY 1")
    assert again.one("SELECT body FROM notes ORDER BY code <^> bitlm_embed('note 17') LIMIT 1") == "note 17"
