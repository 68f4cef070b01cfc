"""A full disk: a tablespace of a few megabytes, where the index, its builds and a watched table find no room.

Always SQLSTATE 53100, nothing damaged, and once there is room again all goes on.  Needs a file system of its own: skipped
where one may not be mounted (only root may)."""

import os
import pathlib
import subprocess

import psycopg2
import pytest

SIZE_MB = 4
CODE = "('x' || md5({0}::text) || md5({0} || 'b') || md5({0} || 'c'))::bit(384)"


@pytest.fixture
def small(db):
    """The name of the tablespace, on a tmpfs of SIZE_MB."""
    folder = pathlib.Path(os.environ["BITLM_PG_DIR"]) / "small"
    folder.mkdir(exist_ok=True)
    owner = folder.parent.stat()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m,uid={owner.st_uid},gid={owner.st_gid},mode=700", "small",
                           folder], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a full disk was not tested: {done.stdout.strip()}")
    try:
        db.rows(f"CREATE TABLESPACE small LOCATION '{folder}'")
        db.rows("SET client_min_messages = error; SET jit = off")
        yield db
    finally:
        db.rows("DROP TABLE IF EXISTS points, notes, filler")
        db.rows("CHECKPOINT")
        db.rows("DROP TABLESPACE IF EXISTS small")
        subprocess.run(["umount", folder], check=False)


def fill(db):
    """Leaves not one block free."""
    db.rows("CREATE TABLE IF NOT EXISTS filler(t text) TABLESPACE small; ALTER TABLE filler ALTER t SET STORAGE plain")
    for n in (100, 1):
        while True:
            try:
                db.rows("INSERT INTO filler SELECT repeat('x', 7000) FROM generate_series(1, %s)", n)
            except psycopg2.Error as error:
                assert error.pgcode == "53100", error
                break


def same(db):
    answers = []
    for on, off in (("enable_indexscan", "enable_seqscan"), ("enable_seqscan", "enable_indexscan")):
        db.rows(f"SET enable_bitmapscan = off; SET {on} = on; SET {off} = off")
        sql = "SELECT code <^> 0::bit(384) AS d FROM points ORDER BY code <^> 0::bit(384) LIMIT 100000"
        assert ("points_code" in "\n".join(row[0] for row in db.rows("EXPLAIN " + sql))) == (on == "enable_indexscan")
        answers.append([row[0] for row in db.rows(sql)])
    db.rows("RESET enable_seqscan; RESET enable_indexscan; RESET enable_bitmapscan")
    assert answers[0] == answers[1]
    return len(answers[0])


def test_inserts(small):
    db = small
    db.rows("CREATE TABLE points(id int, code bit(384)) WITH (autovacuum_enabled = off);"
            "CREATE INDEX points_code ON points USING bitlm (code) TABLESPACE small;"
            "CREATE TABLE filler TABLESPACE small AS SELECT repeat('x', 100) FROM generate_series(1, 4000)")
    first = 1
    while True:
        code = None
        try:
            db.rows(f"INSERT INTO points SELECT g, {CODE.format('g')} FROM generate_series({first}, {first + 4999}) g")
            first += 5000
        except psycopg2.Error as error:
            code = error.pgcode
        if code:
            break
    assert code == "53100" and 10_000 < first < 100_000
    rows = first - 1
    assert same(db) == rows
    assert db.one("SELECT bitlm_index_check('points_code')") >= rows  # with dead ones of the statement that failed
    # Full still: the next says so too, and readers do not mind.
    assert db.state(f"INSERT INTO points SELECT g, {CODE.format('g')} FROM generate_series(1, 5000) g")[0] == "53100"
    assert same(db) == rows
    # VACUUM makes room inside, but for the free space map it needs a block itself.
    db.rows("DELETE FROM points WHERE id % 2 = 0")
    db.rows("DROP TABLE filler")
    db.rows("CHECKPOINT")
    db.rows("VACUUM points")
    assert db.one("SELECT bitlm_index_check('points_code')") == same(db) == rows // 2
    db.rows(f"INSERT INTO points SELECT g, {CODE.format('g')} FROM generate_series({first}, {first + rows // 4}) g")
    assert db.one("SELECT bitlm_index_check('points_code')") == same(db)


@pytest.mark.parametrize("workers", [0, 1])
def test_builds(small, workers):
    """A build that finds no room leaves no index and no file."""
    db = small
    db.rows(f"SET max_parallel_maintenance_workers = {workers}; CREATE TABLE points(id int, code bit(384)) WITH (parallel_workers = {workers});"
            f"INSERT INTO points SELECT g, {CODE.format('g')} FROM generate_series(1, 120000) g")
    folder = pathlib.Path(os.environ["BITLM_PG_DIR"]) / "small"
    for how in ("", "CONCURRENTLY "):
        code, message = db.state(f"CREATE INDEX {how}points_code ON points USING bitlm (code) TABLESPACE small")
        assert code == "53100", message
        if how:  # as with every access method
            assert db.one("SELECT indisvalid FROM pg_index WHERE indexrelid = 'points_code'::regclass") is False
            db.rows("DROP INDEX points_code")
        assert db.one("SELECT count(*) FROM pg_class WHERE relname = 'points_code'") == 0
        db.rows("CHECKPOINT")
        assert [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size] == []
    db.rows("DELETE FROM points WHERE id > 20000")
    db.rows("VACUUM points")
    db.rows("CREATE INDEX points_code ON points USING bitlm (code) TABLESPACE small")
    assert db.one("SELECT bitlm_index_check('points_code')") == 20000 == same(db)


def test_batches(small):
    """A run of the queue: nothing is parked or lost, the view says why it waits."""
    db = small
    db.rows("CREATE TABLE notes(id int PRIMARY KEY, body text, code bit(384)) TABLESPACE small;"
            "INSERT INTO notes SELECT g, 'note ' || g || repeat(' so', 8) FROM generate_series(1, 300) g;"
            "SELECT bitlm_watch('notes', 'body', 'code')")
    fill(db)
    db.rows("SELECT bitlm_watch_run(1000)")
    left = db.one("SELECT count(*) FROM notes WHERE code IS NULL")
    assert left > 0
    pending, parked, error = db.rows("SELECT pending, parked, last_error FROM bitlm_watch_status WHERE relation = 'notes'::regclass")[0]
    assert (pending, parked) == (left, 0) and "could not extend file" in error and "No space left" in error
    db.rows("DROP TABLE filler")
    db.rows("CHECKPOINT")
    db.rows("UPDATE bitlm_watch_queue SET due = now(); UPDATE bitlm_watches SET due = now()")
    while db.one("SELECT bitlm_watch_run(1000)"):
        pass
    assert db.one("SELECT count(*) FROM notes WHERE code = bitlm_embed(body)") == 300
    assert db.rows("SELECT pending, parked FROM bitlm_watch_status WHERE relation = 'notes'::regclass") == [(0, 0)]
    db.rows("SELECT bitlm_unwatch('notes')")
