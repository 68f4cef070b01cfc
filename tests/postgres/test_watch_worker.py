"""Background workers that keep codes fresh, in clusters of their own that preload bitlm.

BITLM_KILLS is how often the server is killed in the midst of batches (2 in `make check`)."""

import os
import pathlib
import random
import signal
import threading
import time

import psycopg2
import pytest

from clusters import Cluster
from conftest import SLACK, Database

SEED = 20250301
KILLS = int(os.environ.get("BITLM_KILLS", "2"))
PRELOAD = ("shared_preload_libraries = 'bitlm'", "max_worker_processes = 12", "bitlm.worker_naptime = '60s'")
TABLE = "CREATE TABLE notes(id int PRIMARY KEY, body text, code bit(384))"


def until(true, seconds=15.0, what="it"):
    """The value, once it is true."""
    deadline = time.monotonic() + seconds * SLACK
    while time.monotonic() < deadline:
        value = true()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"{what} did not come within {seconds} s")


def stale(db, table="notes"):
    return db.one(f"SELECT count(*) FROM {table} WHERE code IS DISTINCT FROM bitlm_embed(body)")


def fresh(db, table="notes", seconds=15.0):
    until(lambda: db.one("SELECT count(*) FROM bitlm_watch_queue WHERE NOT parked AND relation = %s::regclass", table) == 0, seconds, "an empty queue")
    assert stale(db, table) == 0


def worker(db):
    return until(lambda: db.one("SELECT bitlm_watch_worker()"), what="a worker")


@pytest.fixture(scope="module")
def cluster(extension):
    one = Cluster(*PRELOAD, "bitlm.worker_databases = 'postgres, \"Other one\"'", "statement_timeout = 1", "max_prepared_transactions = 2",
                  "default_transaction_isolation = serializable", "default_transaction_read_only = on", "bitlm.worker_timeout = '1s'")
    yield one
    log = one.log.read_text()
    one.close()
    assert "terminated by signal" not in log and "PANIC" not in log, log[-3000:]


SETTINGS = "-c statement_timeout=0 -c default_transaction_read_only=off -c default_transaction_isolation=read\\ committed"


def session(cluster, **how):
    return Database(**{"host": str(cluster.dir), "user": "bitlm", "dbname": "postgres", "options": SETTINGS, **how})


@pytest.fixture
def db(cluster):
    database = until(lambda: session(cluster))
    database.rows("CREATE EXTENSION IF NOT EXISTS bitlm; DROP TABLE IF EXISTS notes; " + TABLE)
    yield database
    database.rows("DROP TABLE IF EXISTS notes CASCADE")
    database.connection.close()


def test_prompt(cluster, db):
    """Fresh within a second, though the worker's nap is a minute."""
    db.rows("INSERT INTO notes VALUES (1, 'before'); SELECT bitlm_watch('notes', 'body', 'code')")
    assert not [text for text in db.connection.notices if "embeds" in text]
    fresh(db)
    took = []
    for i in range(10):
        began = time.monotonic()
        db.rows(f"INSERT INTO notes VALUES ({10 + i}, 'prompt {i}')")
        until(lambda: db.one(f"SELECT code FROM notes WHERE id = {10 + i}"))
        took.append(time.monotonic() - began)
    print(f"fresh after {sorted(took)[5] * 1000:.0f} ms (median), {max(took) * 1000:.0f} ms (longest)")
    assert sorted(took)[5] < 1 * SLACK
    db.rows("UPDATE notes SET body = 'other ' || id; DELETE FROM notes WHERE id = 1")
    fresh(db)
    db.rows("TRUNCATE notes; INSERT INTO notes VALUES (1, 'anew')")
    fresh(db)
    db.rows("BEGIN; INSERT INTO notes VALUES (2, 'in two phases'); PREPARE TRANSACTION 'p'")
    db.rows("COMMIT PREPARED 'p'")
    db.rows("INSERT INTO notes VALUES (3, 'wakes the worker')")
    fresh(db)
    pid = worker(db)
    shown = db.rows("SELECT backend_type, datname, state FROM pg_stat_activity WHERE pid = %s", pid)
    assert shown == [("bitlm worker", "postgres", "idle")]


def test_extension_and_row_in_one_commit(cluster, db):
    """The worker that the commit wakes sees the extension, though it saw a moment ago that there is none."""
    try:
        for _ in range(12):
            db.rows("DROP EXTENSION bitlm CASCADE; DROP TABLE notes")
            db.rows("SELECT pg_reload_conf()")  # wakes it
            time.sleep(0.2)
            db.rows("CREATE EXTENSION bitlm; " + TABLE + "; SELECT bitlm_watch('notes', 'body', 'code'); INSERT INTO notes VALUES (1, 'first')")
            fresh(db)
    finally:
        db.rows("CREATE EXTENSION IF NOT EXISTS bitlm")


def test_backlog(cluster, db):
    """2,000 rows; writers go on; pg_stat_activity and the view show the work."""
    db.rows("INSERT INTO notes SELECT g, 'note number ' || g || repeat(' and so on', g % 7) FROM generate_series(1, 2000) g")
    assert db.one("SELECT bitlm_watch('notes', 'body', 'code')") == 2000
    seen, stop, failures = set(), threading.Event(), []

    def write():
        other, rng = session(cluster), random.Random(SEED)
        try:
            while not stop.is_set():
                other.rows("UPDATE notes SET body = body || '!' WHERE id = %s", rng.randrange(2000))
                other.rows("DELETE FROM notes WHERE id = %s", rng.randrange(2000))
                time.sleep(0.01)
        except psycopg2.Error as error:
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    began = time.monotonic()
    try:
        while db.one("SELECT count(*) FROM notes WHERE code IS NULL"):
            seen.update(row[0] for row in db.rows("SELECT query FROM pg_stat_activity WHERE backend_type = 'bitlm worker'"))
            assert time.monotonic() - began < 60 * SLACK
            time.sleep(0.02)
    finally:
        stop.set()
        writer.join()
    print(f"2000 rows in {time.monotonic() - began:.1f} s beside a writer")
    assert not failures, failures
    assert any("embedding" in query and "notes" in query for query in seen), seen
    fresh(db)
    db.rows("ANALYZE notes")
    assert db.rows("SELECT pending, parked, last_error FROM bitlm_watch_status") == [(0, 0, None)]


def test_poison_and_locks(cluster, db):
    db.rows("ALTER TABLE notes ADD CHECK (id <> 4 OR code IS NULL); INSERT INTO notes SELECT g, 'n' || g FROM generate_series(1, 9) g;"
            "SELECT bitlm_watch('notes', 'body', 'code', tries => 2)")
    until(lambda: db.rows("SELECT pending, parked FROM bitlm_watch_status") == [(0, 1)])
    assert db.one("SELECT count(code) FROM notes") == 8 and "check" in db.one("SELECT error FROM bitlm_watch_parked")
    other = session(cluster)
    other.rows("BEGIN; UPDATE notes SET code = code WHERE id = 1; UPDATE notes SET body = 'later' WHERE id = 2")
    db.rows("INSERT INTO notes VALUES (20, 'not behind the locked ones')")
    until(lambda: db.one("SELECT code FROM notes WHERE id = 20"))
    other.rows("COMMIT; BEGIN; LOCK TABLE notes")
    time.sleep(0.3)
    other.rows("ROLLBACK")
    other.connection.close()
    db.rows("ALTER TABLE notes DROP CONSTRAINT notes_check")
    db.rows("SELECT bitlm_watch_retry('notes')")
    fresh(db)


def test_hanging_trigger(cluster, db):
    """A trigger that does not end holds up its row, not the others' tables."""
    db.rows("DROP TABLE IF EXISTS slow; CREATE TABLE slow(id int PRIMARY KEY, body text, code bit(384));"
            "CREATE FUNCTION hang() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN IF NEW.id = 2 THEN PERFORM pg_sleep(1000); END IF; RETURN NEW; END$$;"
            "CREATE TRIGGER hang BEFORE UPDATE ON slow FOR EACH ROW EXECUTE FUNCTION hang();"
            "INSERT INTO slow SELECT g, 's' || g FROM generate_series(1, 3) g; SELECT bitlm_watch('slow', 'body', 'code'), bitlm_watch('notes', 'body', 'code')")
    until(lambda: db.rows("SELECT parked FROM bitlm_watch_status WHERE relation = 'slow'::regclass") == [(1,)])
    db.rows("INSERT INTO notes VALUES (1, 'meanwhile')")
    fresh(db)
    assert "worker_timeout" in db.one("SELECT error FROM bitlm_watch_parked")
    until(lambda: db.one("SELECT count(code) FROM slow") == 2)
    db.rows("DROP TABLE slow; DROP FUNCTION hang")


def test_rights_of_a_worker(cluster, db):
    """Triggers, index expressions and policies run as the table's owner; nothing they set stays."""
    from test_watch import plant  # pylint: disable=import-outside-toplevel
    db.rows("CREATE ROLE mallory LOGIN; CREATE SCHEMA mallory AUTHORIZATION mallory")
    mallory = session(cluster, user="mallory")
    mallory.rows("CREATE TABLE heard(who text, was text); CREATE TABLE mine(id int PRIMARY KEY, body text, code bit(384));"
                 "INSERT INTO mine SELECT g, 'mine ' || g FROM generate_series(1, 3) g")
    plant(mallory)
    mallory.rows("SELECT bitlm_watch('mine', 'body', 'code')")
    for i in range(3):
        until(lambda: mallory.one("SELECT count(code) FROM mine") == 3 and mallory.one("SELECT pending FROM bitlm_watch_status") == 0)
        mallory.rows(f"UPDATE mine SET body = 'again {i}', code = NULL; RESET search_path")
    fresh(db, "mallory.mine")
    # Its session search_path was set by the trigger; the worker's own statements go on.
    assert db.rows("SELECT DISTINCT who FROM mallory.heard") == [("mallory",)]
    assert db.one("SELECT count(*) FROM mallory.heard WHERE was = 'after'") > 6
    assert db.one("SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'") is False
    mallory.connection.close()
    db.rows("DROP OWNED BY mallory CASCADE; DROP ROLE mallory")


def test_second_database(cluster, db):
    """A database that is made later has its worker; DROP DATABASE, RENAME and templates need not wait for one."""
    time.sleep(max(0, 8 - (time.time() - (cluster.data / "postmaster.pid").stat().st_mtime)))  # the launcher's pauses have grown
    db.rows('CREATE DATABASE "Other one"')
    began = time.monotonic()
    other = session(cluster, dbname="Other one")
    other.rows("CREATE EXTENSION bitlm; " + TABLE + "; INSERT INTO notes VALUES (1, 'there'); SELECT bitlm_watch('notes', 'body', 'code')")
    db.rows("INSERT INTO notes VALUES (1, 'here'); SELECT bitlm_watch('notes', 'body', 'code')")
    fresh(other)
    assert time.monotonic() - began < 5 * SLACK  # 2 s as a rule
    fresh(db)
    assert worker(other) != worker(db)
    db.rows("CREATE ROLE nobody_in_particular LOGIN")
    guest, pid = session(cluster, user="nobody_in_particular"), worker(other)
    other.connection.close()
    assert guest.state('DROP DATABASE "Other one"')[0] == "42501"
    guest.connection.close()
    assert db.one("SELECT count(*) FROM pg_stat_activity WHERE pid = %s", pid) == 1
    for sql in ('CREATE DATABASE copy TEMPLATE "Other one"', 'ALTER DATABASE "Other one" RENAME TO another', 'ALTER DATABASE another RENAME TO "Other one"'):
        db.rows(sql)
    other = session(cluster, dbname="Other one")
    worker(other)
    other.connection.close()
    began = time.monotonic()
    db.rows('DROP DATABASE "Other one"')
    assert time.monotonic() - began < 3 * SLACK
    db.rows("DROP DATABASE copy")
    db.rows("DROP ROLE nobody_in_particular")
    worker(db)


def test_ended_and_restarted(cluster, db):
    db.rows("SELECT bitlm_watch('notes', 'body', 'code')")
    pid = worker(db)
    db.rows("INSERT INTO notes SELECT g, repeat('long row ', 100) || g FROM generate_series(1, 3000) g")
    until(lambda: "embedding" in db.one("SELECT query FROM pg_stat_activity WHERE pid = %s", pid))
    began = time.monotonic()
    db.rows("SELECT pg_terminate_backend(%s)", pid)
    until(lambda: db.one("SELECT count(*) FROM pg_stat_activity WHERE pid = %s", pid) == 0)
    took = time.monotonic() - began
    print(f"ended within {took * 1000:.0f} ms")
    assert took < 1 * SLACK
    assert worker(db) != pid
    pid = worker(db)
    for wait in (0, 0.3):
        time.sleep(wait)
        db.rows("SELECT pg_cancel_backend(%s)", pid)  # ends a batch, not the worker
    time.sleep(0.3)
    assert worker(db) == pid
    db.rows("DELETE FROM notes WHERE id > 100; INSERT INTO notes VALUES (0, 'wakes it')")
    fresh(db, seconds=70)
    db.rows("INSERT INTO notes SELECT g, repeat('long row ', 100) || g FROM generate_series(1000, 3000) g")
    db.connection.close()
    began = time.monotonic()
    cluster.stop()  # fast, in the midst of the work
    assert time.monotonic() - began < 5 * SLACK
    cluster.start()
    db.connection = session(cluster).connection
    assert db.one("SELECT count(*) FROM notes WHERE code IS NULL") > 0
    worker(db)


def test_extension_and_table_dropped(cluster, db):
    db.rows("SELECT bitlm_watch('notes', 'body', 'code'); INSERT INTO notes SELECT g, 'n' || g FROM generate_series(1, 500) g; DROP TABLE notes")
    db.rows("DROP EXTENSION bitlm CASCADE; CREATE EXTENSION bitlm; " + TABLE + "; SELECT bitlm_watch('notes', 'body', 'code')")
    pid = worker(db)
    db.rows("INSERT INTO notes VALUES (1, 'once more'); ALTER TABLE notes RENAME TO letters; ALTER TABLE letters RENAME body TO words")
    until(lambda: db.one("SELECT count(*) FROM letters WHERE code = bitlm_embed(words)") == 1)
    db.rows("DROP TABLE letters")
    assert worker(db) == pid


def test_settings(cluster, db):
    """SIGHUP: a database leaves the list and comes back."""
    db.rows("SELECT bitlm_watch('notes', 'body', 'code')")
    worker(db)
    db.rows("ALTER SYSTEM SET bitlm.worker_databases = ''")
    db.rows("SELECT pg_reload_conf()")
    until(lambda: db.one("SELECT bitlm_watch_worker()") is None)
    db.connection.notices.clear()
    db.rows("INSERT INTO notes VALUES (1, 'waits'); SELECT bitlm_watch('notes', 'body', 'code')")
    assert "bitlm.worker_databases" in "".join(db.connection.notices)
    assert db.one("SELECT bitlm_watch_run()") > 0
    db.rows("ALTER SYSTEM RESET bitlm.worker_databases")
    db.rows("SELECT pg_reload_conf()")
    worker(db)
    assert db.state("ALTER SYSTEM SET bitlm.worker_databases = 'a b c'")[0] == "22023"


def test_killed(extension):
    """kill -9 of the server, then of the worker alone, at random moments of a batch: no change is lost."""
    rng = random.Random(SEED)
    print("seed", SEED)
    one = Cluster(*PRELOAD, "bitlm.worker_databases = postgres", "bitlm.worker_batch = 20")
    try:
        db = one.connect()
        db.rows("CREATE EXTENSION bitlm; " + TABLE + "; SELECT bitlm_watch('notes', 'body', 'code')")
        for round_ in range(2 * KILLS):
            db.rows("INSERT INTO notes SELECT g + %s, 'note ' || g || repeat(' word', g %% 10) FROM generate_series(1, 200) g", round_ * 1000)
            db.rows("UPDATE notes SET body = body || ' once more' WHERE id % 7 = 3")
            pid = worker(db)
            time.sleep(rng.random() * 0.3)
            if round_ % 2:
                os.kill(pid, signal.SIGKILL)
                time.sleep(0.5)
            else:
                one.kill()
                time.sleep(0.3)
                one.start()
            db = one.connect()
            left = db.one("SELECT count(*) FROM bitlm_watch_queue")
            print(f"round {round_}: {left} in the queue after the kill")
            fresh(db, seconds=40)
        assert db.one("SELECT count(*) FROM notes") == 400 * KILLS
    finally:
        one.close()


def test_standby(extension):
    """On a standby nothing runs; after its promotion the worker does."""
    one = Cluster(*PRELOAD, "bitlm.worker_databases = postgres", "wal_level = replica", "max_wal_senders = 4")
    standby = None
    try:
        db = one.connect()
        db.rows("CREATE EXTENSION bitlm; " + TABLE + "; SELECT bitlm_watch('notes', 'body', 'code'); INSERT INTO notes VALUES (1, 'first')")
        fresh(db)
        standby = Cluster(copy_of=one)
        replica = standby.connect()
        db.rows("INSERT INTO notes VALUES (2, 'second')")
        fresh(db)
        until(lambda: replica.one("SELECT count(code) FROM notes") == 2)
        assert replica.rows("SELECT pending, worker_pid FROM bitlm_watch_status") == [(0, None)]
        assert replica.state("SELECT bitlm_watch_run()")[0] == "25006"
        one.stop()
        standby.run("pg_ctl", "-D", standby.data, "-w", "promote")
        replica = standby.connect()
        replica.rows("INSERT INTO notes VALUES (3, 'third')")
        fresh(replica)
    finally:
        if standby:
            standby.close()
        one.close()


def private_kb(pid):
    return int(next(line for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("RssAnon")).split()[1])


def test_memory(cluster, db):
    """A worker's private memory is modest and does not grow with the batches (BITLM_BATCHES, 300)."""
    batches = int(os.environ.get("BITLM_BATCHES", "300"))
    db.rows("INSERT INTO notes SELECT g, 'n' || g FROM generate_series(1, 200) g; SELECT bitlm_watch('notes', 'body', 'code', batch => 1)")
    fresh(db, seconds=60)
    pid, before = worker(db), private_kb(worker(db))
    for done in range(0, batches, 200):
        db.rows("UPDATE notes SET body = %s || id", f"again {done} ")
        fresh(db, seconds=60)
    after = private_kb(pid)
    assert worker(db) == pid
    print(f"private memory {before} kB, after {batches} batches {after} kB")
    assert before < 60_000 and after < before + 2_000
