"""bitlm_search interrupted at each step until it succeeds: through a progress handler, which the core's polling fires
too, and through sqlite3_interrupt from another thread.  What was interrupted left nothing; what succeeded is whole."""

import sqlite3
import threading
import time

import pytest

from conftest import connect, SLACK

TEXTS = ["the quick brown fox number %d jumps over the lazy dog of the house by the sea" % i for i in range(300)]


def filled():
    db = connect()
    db.execute("CREATE TABLE notes(id INTEGER PRIMARY KEY, body)")
    db.execute("BEGIN")
    db.executemany("INSERT INTO notes(body) VALUES (?)", [(t,) for t in TEXTS])
    db.execute("COMMIT")
    db.execute("CREATE VIRTUAL TABLE s USING bitlm_search(body, chunk_size=32)")
    db.execute("INSERT INTO s(rowid, body) SELECT id, body FROM notes WHERE id <= 40")
    return db


def state(db):
    db.execute("INSERT INTO s(s) VALUES ('integrity-check')")
    return db.execute("SELECT rowid, rank FROM s('fox')").fetchall()


@pytest.mark.parametrize("sql, step", [
    ("INSERT INTO s(rowid, body) SELECT id, body FROM notes WHERE id BETWEEN 41 AND 60", 1),
    ("SELECT rowid, chunk FROM s('a lazy dog', 5)", 1),
    ("SELECT rowid, chunk FROM s('a lazy dog') WHERE rowid % 2", 3),
    ("UPDATE s SET body = body || ' again' WHERE rowid % 9 = 0", 2),
    ("DELETE FROM s WHERE rowid % 3 = 0", 1),
    ("INSERT INTO s(s) VALUES ('rebuild')", 3),
    ("INSERT INTO s(s) VALUES ('integrity-check')", 2),
])
def test_progress_handler_at_each_step(sql, step):
    db = filled()
    before = state(db)
    for n in range(1, 100000, step):
        left = [n]

        def handler():
            left[0] -= 1
            return left[0] <= 0

        db.set_progress_handler(handler, 40)
        try:
            db.execute(sql).fetchall()
            done = True
        except sqlite3.OperationalError as error:
            assert error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT, error
            done = False
        db.set_progress_handler(None, 0)
        assert not db.in_transaction
        if done:
            break
        if n % (7 * step) == 1 or n < 4:
            assert state(db) == before
    print(sql, "succeeds after", n)
    assert n > 3
    other = filled()
    other.execute(sql).fetchall()
    assert state(db) == state(other)
    db.close()
    other.close()


def test_interrupt_while_embedding(tmp_path):
    db = connect(check_same_thread=False)
    db.execute("CREATE VIRTUAL TABLE s USING bitlm_search(body)")
    db.execute("BEGIN")
    db.executemany("INSERT INTO s(body) VALUES (?)", [(t * 4,) for t in TEXTS * 3])
    timer = threading.Timer(0.1, db.interrupt)
    timer.start()
    start = time.monotonic()
    with pytest.raises(sqlite3.OperationalError) as error:
        db.execute("COMMIT")
    assert error.value.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT
    assert time.monotonic() - start < 0.1 + 0.5 * SLACK
    timer.join()
    assert db.execute("SELECT count(*) FROM s").fetchall() == [(0,)] and not db.in_transaction
    db.execute("INSERT INTO s(body) VALUES ('after')")
    assert db.execute("SELECT rowid FROM s('after')").fetchall() == [(1,)]
    db.close()
