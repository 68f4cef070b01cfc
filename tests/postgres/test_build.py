"""CREATE INDEX in several processes, its progress, and what an interrupt leaves.

BITLM_SPEED=1 also asks for the speed that docs/BENCHMARKS.md gives: for an idle machine."""

import collections
import os
import threading
import time

import pytest

from conftest import Database


@pytest.fixture
def table(db):
    db.rows("DROP TABLE IF EXISTS built; CREATE TABLE built(id int, code bit(128), body text)")
    db.rows("INSERT INTO built SELECT g, CASE WHEN g % 50 > 0 THEN ('x' || md5(g::text))::bit(128) END, 'row ' || g "
            "FROM generate_series(1, 120000) g")
    yield db
    db.rows("RESET ALL; DROP TABLE built")


def nearest(db, expression):
    return db.rows(f"SELECT {expression} FROM built ORDER BY 1 LIMIT 200")


def test_parallel(table):
    db = table
    wanted = nearest(db, "code <^> ('x' || md5('q'))::bit(128)")
    db.rows("SET max_parallel_maintenance_workers = 2; ALTER TABLE built SET (parallel_workers = 2)")
    for how in ("CREATE INDEX built_code ON built USING bitlm (code, id)", "REINDEX INDEX built_code",
                "REINDEX INDEX CONCURRENTLY built_code"):
        db.rows(how)
        db.rows("SET enable_seqscan = off")
        assert nearest(db, "code <^> ('x' || md5('q'))::bit(128)") == wanted
        assert db.one("SELECT bitlm_index_check('built_code')") == 120000
        db.rows("SET enable_seqscan = on")
    db.rows("INSERT INTO built SELECT id + 1000000, ~code FROM built WHERE id <= 10000")
    db.rows("VACUUM built")
    assert db.one("SELECT bitlm_index_check('built_code')") == 130000


def test_workers_work(table):
    """Each process tells its number now and then; the rows of all are there."""
    db = table
    db.rows("CREATE OR REPLACE FUNCTION telling(code bit) RETURNS bit LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS "
            "$$BEGIN IF substring(code FROM 1 FOR 9) = B'000000000' THEN RAISE NOTICE 'by %', pg_backend_pid(); END IF; "
            "RETURN code; END$$")
    db.rows("SET max_parallel_maintenance_workers = 2; ALTER TABLE built SET (parallel_workers = 2)")
    for how in ("", "CONCURRENTLY"):
        db.connection.notices = collections.deque()
        db.rows(f"CREATE INDEX {how} built_telling ON built USING bitlm (telling(code)) WHERE id % 3 > 0")
        told = {text for text in db.connection.notices if "by " in text}
        assert len(told) == 3, told
        assert db.one("SELECT bitlm_index_check('built_telling')") == 80000
        db.rows("DROP INDEX built_telling")
    db.rows("DROP FUNCTION telling")


def test_parallel_expression(db):
    """bitlm_embed is worth a worker for few pages."""
    db.rows("DROP TABLE IF EXISTS told; CREATE TABLE told(body text); ALTER TABLE told SET (autovacuum_enabled = off)")
    db.rows("INSERT INTO told SELECT 'note ' || g || repeat(' and so on', g % 5) FROM generate_series(1, 1500) g; ANALYZE told")
    took = [9e9, 9e9]
    for workers in (0, 1) * (4 if os.environ.get("BITLM_SPEED") else 1):
        db.rows(f"SET max_parallel_maintenance_workers = {workers}; DROP INDEX IF EXISTS told{workers}")
        began = time.monotonic()
        db.rows(f"CREATE INDEX told{workers} ON told USING bitlm (bitlm_embed(body))")
        took[workers] = min(took[workers], time.monotonic() - began)
        assert db.one(f"SELECT bitlm_index_check('told{workers}')") == 1500
    print(f"no worker {took[0]:.2f} s, one {took[1]:.2f} s: {took[0] / took[1]:.2f} times as fast")
    if os.environ.get("BITLM_SPEED"):
        assert took[0] / took[1] >= 1.7
    db.rows("SET enable_seqscan = off; SET enable_bitmapscan = off")
    answers = []
    for name in ("told0", "told1"):
        db.rows(f"BEGIN; DROP INDEX {'told1' if name == 'told0' else 'told0'}")
        answers.append(db.rows("SELECT bitlm_embed(body) <^> bitlm_embed('note 44') FROM told ORDER BY 1 LIMIT 300"))
        db.rows("ROLLBACK")
    assert answers[0] == answers[1]
    db.rows("RESET ALL; DROP TABLE told")


def test_progress_and_cancel(db):
    """The view counts rows as pages are written; a cancelled build leaves no index."""
    db.rows("DROP TABLE IF EXISTS slow; CREATE TABLE slow(code bit(8192))")
    db.rows("INSERT INTO slow SELECT g::bit(8192) FROM generate_series(1, 3000) g")
    db.rows("CREATE OR REPLACE FUNCTION slowly(code bit) RETURNS bit LANGUAGE plpgsql IMMUTABLE AS "
            "$$BEGIN PERFORM pg_sleep(0.0005); RETURN code; END$$")
    worker, failure = Database(), []

    def build():
        try:
            worker.rows("SET max_parallel_maintenance_workers = 0; CREATE INDEX slow_code ON slow USING bitlm (slowly(code))")
        except Exception as error:  # pylint: disable=broad-except
            failure.append(error)

    thread = threading.Thread(target=build)
    thread.start()
    seen = set()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and len({row[1] for row in seen}) < 3 and thread.is_alive():
        seen.update(db.rows("SELECT phase, tuples_done FROM pg_stat_progress_create_index"))
        time.sleep(0.02)
    began = time.monotonic()
    db.rows("SELECT pg_cancel_backend(pid) FROM pg_stat_progress_create_index")
    thread.join()
    assert time.monotonic() - began < 1
    worker.connection.close()
    assert any(phase == "building index: scanning table" for phase, _ in seen), seen
    assert len({done for _, done in seen if done > 0}) >= 2, seen
    assert failure and failure[0].pgcode == "57014"
    assert db.one("SELECT count(*) FROM pg_class WHERE relname = 'slow_code'") == 0
    db.rows("DROP TABLE slow; DROP FUNCTION slowly")


@pytest.mark.skipif(not os.environ.get("BITLM_SPEED"), reason="BITLM_SPEED=1 measures; for an idle machine")
def test_rate(db):
    db.rows("DROP TABLE IF EXISTS many; CREATE TABLE many(code bit(384))")
    db.rows("INSERT INTO many SELECT ('x' || md5(g::text) || md5(g::text || 'b') || md5(g::text || 'c'))::bit(384) "
            "FROM generate_series(1, 1000000) g")
    db.rows("VACUUM many")
    db.rows("SET max_parallel_maintenance_workers = 0")
    best = 1e9
    for _ in range(3):
        began = time.monotonic()
        db.rows("CREATE INDEX many_code ON many USING bitlm (code)")
        best = min(best, time.monotonic() - began)
        db.rows("DROP INDEX many_code")
    db.rows("DROP TABLE many")
    print(f"{1 / best:.2f} M rows/s")
    assert 1 / best >= 2.0
