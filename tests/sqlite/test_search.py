"""bitlm_search with its own content: rows, chunks, ranks, transactions, savepoints, batches, refusals.

The oracle is a plain table and bitlm_embed over bitlm_chunk: the rank of a row is the least distance of its chunks.
"""

import json
import random
import shutil
import sqlite3
import subprocess

import pytest

from conftest import COMMAND, EXTENSION, ROOT, connect, one

TOPICS = ["a letter from the tax office", "mend a flat tyre", "carrot soup with salt", "the dog sleeps", "rain all day",
          "a train to the sea", "toothache at night", "birthday cake", "water the plants", "a quiet library"]
LONG = " ".join("Paragraph %d tells of %s and of %s." % (i, TOPICS[i % 10], TOPICS[i * 7 % 10]) for i in range(60))


def info(db, name="s"):
    return json.loads(one(db, "SELECT bitlm_search_info(?)", name))


def expected(db, texts, query, size=256, overlap=0):
    """[(rowid, rank)] of {rowid: text} in the order of bitlm_search."""
    ranks = []
    for rowid, text in texts.items():
        if text:
            ranks.append((one(db, "SELECT min(bitlm_hamming(bitlm_embed(chunk), bitlm_embed(?))) FROM bitlm_chunk(?, ?, ?, "
                              "'{\"model\":\"embed\"}')", query, text, size, overlap), rowid))
    return [(rowid, rank) for rank, rowid in sorted(ranks)]


def check(db, name="s"):
    db.execute(f"INSERT INTO {name}({name}) VALUES('integrity-check')")


@pytest.fixture
def s(db):
    db.execute("CREATE VIRTUAL TABLE s USING bitlm_search(title, body, lang UNINDEXED)")
    return db


def fill(db, n=40):
    db.execute("BEGIN")
    for i in range(n):
        db.execute("INSERT INTO s(title, body, lang) VALUES (?,?,?)", ("Note %d" % i, TOPICS[i % 10] + " %d" % i, "de" if i % 4 else "en"))
    db.execute("COMMIT")


def test_ranks_are_those_of_the_functions(s):
    fill(s)
    texts = {r: t + "\n" + b for r, t, b in s.execute("SELECT rowid, title, body FROM s").fetchall()}
    for query in ("my wheel lost its air", "money for the state", ""):
        want = expected(s, texts, query)
        assert s.execute("SELECT rowid, rank FROM s WHERE s MATCH ? ORDER BY rank, rowid", (query,)).fetchall() == want
        assert s.execute("SELECT rowid, rank FROM s(?) ORDER BY rank LIMIT 7", (query,)).fetchall() == want[:7]
        assert s.execute("SELECT rowid, rank FROM s(?, 5)", (query,)).fetchall() == want[:5]
        assert s.execute("SELECT rowid, rank FROM s WHERE s = ? AND k = 5", (query,)).fetchall() == want[:5]
        assert s.execute("SELECT rowid, rank FROM s(?) ORDER BY rank LIMIT 4 OFFSET 3", (query,)).fetchall() == want[3:7]
        some = [w for w in want if w[0] in (3, 5, 31)]
        assert s.execute("SELECT rowid, rank FROM s(?, 2) WHERE rowid IN (3, 5, 31, 'x', NULL, 999)", (query,)).fetchall() == some[:2]
        assert s.execute("SELECT rowid, rank FROM s(?, 3) WHERE rowid > 10 AND rowid <= 20", (query,)).fetchall() == [
            w for w in want if 10 < w[0] <= 20][:3]
        middle = want[9][1]
        assert s.execute("SELECT rowid, rank FROM s(?) WHERE rank <= ?", (query, middle)).fetchall() == [w for w in want if w[1] <= middle]
        assert s.execute("SELECT rowid, rank FROM s(?) WHERE rank < ?", (query, middle)).fetchall() == [w for w in want if w[1] < middle]
        # A condition that the search does not know: SQLite checks, and rows go on coming.
        en = [w for w in want if (w[0] - 1) % 4 == 0]
        assert s.execute("SELECT rowid, rank FROM s(?) WHERE lang = 'en' ORDER BY rank LIMIT 6", (query,)).fetchall() == en[:6]
    assert s.execute("SELECT rowid FROM s(NULL)").fetchall() == []
    assert s.execute("SELECT count(*) FROM s('x', 0)").fetchall() == [(0,)]
    code = one(s, "SELECT bitlm_embed('the dog')")
    assert s.execute("SELECT rowid, rank FROM s(?, 3)", (code,)).fetchall() == s.execute("SELECT rowid, rank FROM s('the dog', 3)").fetchall()


def test_equal_texts_come_by_rowid(s):
    s.execute("BEGIN")
    for rowid in random.Random(1).sample(range(1, 1000), 300):
        s.execute("INSERT INTO s(rowid, body) VALUES (?, 'the same text')", (rowid,))
    s.execute("COMMIT")
    rows = [r for r, in s.execute("SELECT rowid FROM s ORDER BY rowid")]
    assert [r for r, in s.execute("SELECT rowid FROM s('text', 10)")] == rows[:10]
    assert [r for r, in s.execute("SELECT rowid FROM s('text') ORDER BY rank LIMIT 100")] == rows[:100]


def test_long_rows_are_chunked(db):
    db.execute("CREATE VIRTUAL TABLE s USING bitlm_search(body, chunk_size=48, overlap=8)")
    texts = {1: LONG, 2: "ä€😀 " + LONG[::-1], 3: "a quiet library", 4: "", 5: None, 6: 12.5}
    db.execute("BEGIN")
    for rowid, text in texts.items():
        db.execute("INSERT INTO s(rowid, body) VALUES (?,?)", (rowid, text))
    db.execute("COMMIT")
    texts[6] = "12.5"
    assert info(db)["rows"] == 6 and info(db)["chunks"] > 30
    assert db.execute("SELECT rowid, rank FROM s('a train to the sea')").fetchall() == expected(db, texts, "a train to the sea", 48, 8)
    for rowid, rank, chunk, part in db.execute(
            "SELECT rowid, rank, chunk, substr(body, chunk_start, chunk_length) FROM s('toothache') WHERE rowid < 3"):
        assert chunk == part and chunk in texts[rowid]
        assert one(db, "SELECT bitlm_hamming(bitlm_embed(?), bitlm_embed('toothache'))", chunk) == rank
    check(db)
    db.execute("UPDATE s SET body = 'short now' WHERE rowid = 1")
    db.execute("DELETE FROM s WHERE rowid = 2")
    assert info(db)["chunks"] == 3
    check(db)


def test_rows_change_as_in_any_table(s):
    fill(s, 12)
    before = info(s)["embedded"]
    s.execute("UPDATE s SET lang = 'fr' WHERE rowid = 2")  # not searched, so not embedded
    assert info(s)["embedded"] == before
    assert s.execute("SELECT title, lang FROM s WHERE rowid = 2").fetchall() == [("Note 1", "fr")]
    s.execute("UPDATE s SET body = 'a ship at sea' WHERE rowid = 2")
    assert s.execute("SELECT rowid, title, lang FROM s('a ship at sea', 1)").fetchall() == [(2, "Note 1", "fr")]
    s.execute("UPDATE s SET rowid = 500 WHERE rowid = 2")
    assert s.execute("SELECT rowid, title, lang FROM s('a ship at sea', 1)").fetchall() == [(500, "Note 1", "fr")]
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE constraint failed: s.rowid"):
        s.execute("INSERT INTO s(rowid, body) VALUES (500, 'x')")
    s.execute("INSERT OR IGNORE INTO s(rowid, body) VALUES (500, 'x')")
    s.execute("INSERT OR REPLACE INTO s(rowid, title, body) VALUES (500, 'New', 'a plane')")
    assert s.execute("SELECT rowid, title, body FROM s('a plane', 1)").fetchall() == [(500, "New", "a plane")]
    s.execute("INSERT INTO s(body) VALUES ('behind the last')")
    assert one(s, "SELECT last_insert_rowid()") == 501
    s.execute("DELETE FROM s WHERE rowid > 5")
    assert [r for r, in s.execute("SELECT rowid FROM s ORDER BY rowid")] == [1, 3, 4, 5]
    assert s.execute("SELECT rowid FROM s WHERE rowid BETWEEN 3 AND 4 ORDER BY rowid DESC").fetchall() == [(4,), (3,)]
    s.execute("DELETE FROM s")
    assert s.execute("SELECT rowid FROM s('x')").fetchall() == []
    check(s)


def test_texts_of_a_transaction_are_embedded_together(s):
    s.execute("BEGIN")
    s.executemany("INSERT INTO s(body) VALUES (?)", [("note number %d" % i,) for i in range(2500)])
    assert info(s)["waiting"] == 500
    s.execute("COMMIT")
    assert (info(s)["waiting"], info(s)["embedded"], info(s)["batches"]) == (0, 2500, 3)
    s.execute("INSERT INTO s(body) SELECT body || ' again' FROM s WHERE rowid <= 300")
    assert (info(s)["embedded"], info(s)["batches"]) == (2800, 4)
    check(s)


def test_a_search_sees_what_the_transaction_wrote(s):
    s.execute("BEGIN")
    for i, topic in enumerate(TOPICS, 1):
        s.execute("INSERT INTO s(body) VALUES (?)", (topic,))
        assert s.execute("SELECT rowid FROM s(?, 1)", (topic,)).fetchall() == [(i,)]
    s.execute("ROLLBACK")
    assert s.execute("SELECT count(*) FROM s").fetchall() == [(0,)]
    assert s.execute("SELECT * FROM s('x')").fetchall() == []
    check(s)


def test_rolling_back_behind_a_flush(s):
    """A row came before a savepoint, its codes after it."""
    s.execute("BEGIN")
    s.execute("INSERT INTO s(body) VALUES ('the first')")
    s.execute("SAVEPOINT a")
    s.execute("INSERT INTO s(body) VALUES ('the second')")
    assert len(s.execute("SELECT rowid FROM s('first')").fetchall()) == 2
    s.execute("ROLLBACK TO a")
    assert s.execute("SELECT rowid FROM s('first')").fetchall() == [(1,)]
    s.execute("SAVEPOINT b")
    s.execute("DELETE FROM s WHERE rowid = 1")
    assert s.execute("SELECT rowid FROM s('first')").fetchall() == []
    s.execute("ROLLBACK TO b")
    s.execute("RELEASE b")
    s.execute("COMMIT")
    assert s.execute("SELECT rowid, body FROM s('first')").fetchall() == [(1, "the first")]
    assert info(s)["embedded"] == 2  # never twice
    check(s)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_work_against_a_plain_table(db, seed):
    print("seed", seed)
    rng = random.Random(seed)
    db.execute("CREATE VIRTUAL TABLE s USING bitlm_search(body, chunk_size=32)")
    db.execute("CREATE TABLE o(id INTEGER PRIMARY KEY, body)")
    depth, open_transaction = 0, False
    for _ in range(400):
        rowid, text = rng.randrange(1, 40), rng.choice([rng.choice(TOPICS), rng.choice(TOPICS) * 9, None])
        act = rng.random()
        if act < 0.30:
            db.execute("INSERT OR REPLACE INTO s(rowid, body) VALUES (?,?)", (rowid, text))
            db.execute("INSERT OR REPLACE INTO o VALUES (?,?)", (rowid, text))
        elif act < 0.42:
            db.execute("UPDATE s SET body = ? WHERE rowid = ?", (text, rowid))
            db.execute("UPDATE o SET body = ? WHERE id = ?", (text, rowid))
        elif act < 0.52:
            db.execute("DELETE FROM s WHERE rowid = ?", (rowid,))
            db.execute("DELETE FROM o WHERE id = ?", (rowid,))
        elif act < 0.60:
            db.execute("INSERT OR REPLACE INTO s(rowid, body) SELECT id + 3, body FROM o WHERE id % 5 = 0")
            db.execute("INSERT OR REPLACE INTO o SELECT id + 3, body FROM o WHERE id % 5 = 0 ORDER BY id")
        elif act < 0.70:
            if not open_transaction:
                db.execute("BEGIN")
            else:
                db.execute(rng.choice(["COMMIT", "ROLLBACK"]))
            open_transaction, depth = not open_transaction, 0
        elif act < 0.80 and open_transaction:
            db.execute("SAVEPOINT s%d" % depth)
            depth += 1
        elif act < 0.90 and depth:
            depth = rng.randrange(depth)
            db.execute("ROLLBACK TO s%d" % depth)
            if rng.random() < 0.5:
                db.execute("RELEASE s%d" % depth)
            else:
                depth += 1
        elif act < 0.93 and depth:
            depth = rng.randrange(depth)
            db.execute("RELEASE s%d" % depth)
        elif act < 0.97:
            want = dict(db.execute("SELECT id, body FROM o"))
            got = [r for r, in db.execute("SELECT rowid FROM s('a train')")]
            assert sorted(got) == sorted(r for r, b in want.items() if b)
        else:
            check(db)
        assert db.execute("SELECT rowid, body FROM s").fetchall() == db.execute("SELECT id, body FROM o").fetchall()
    if open_transaction:
        db.execute("COMMIT")
    check(db)
    want = expected(db, dict(db.execute("SELECT id, body FROM o")), "a train", 32)
    assert db.execute("SELECT rowid, rank FROM s('a train')").fetchall() == want


def test_files_connections_and_reading_only(tmp_path):
    path = str(tmp_path / "s.db")
    a, b = connect(path), connect(path)
    a.execute("CREATE VIRTUAL TABLE s USING bitlm_search(body)")
    a.executemany("INSERT INTO s(body) VALUES (?)", [(t,) for t in TOPICS])
    query = "SELECT rowid, rank, chunk FROM s('rain', 4)"
    rows = a.execute(query).fetchall()
    assert b.execute(query).fetchall() == rows
    a.execute("DELETE FROM s WHERE rowid = ?", (rows[0][0],))
    assert b.execute(query).fetchall()[:3] == rows[1:]
    a.execute("INSERT INTO s(s) VALUES('rebuild')")
    assert b.execute(query).fetchall()[:3] == rows[1:]
    a.execute("VACUUM")
    dump = "\n".join(l for l in a.iterdump())
    a.close()
    b.close()
    reader = connect("file:%s?mode=ro" % path, uri=True)
    assert reader.execute(query).fetchall()[:3] == rows[1:]
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.execute("INSERT INTO s(body) VALUES ('x')")
    reader.close()
    assert "bitlm_search" in dump
    other = connect()
    other.execute("ATTACH ? AS x", (path,))
    assert other.execute(query.replace("s(", "x.s(")).fetchall()[:3] == rows[1:]
    assert json.loads(one(other, "SELECT bitlm_search_info('x.s')"))["rows"] == 9


def test_optimize_joins_blocks_and_changes_no_answer(s):
    fill(s, 600)
    s.execute("DELETE FROM s WHERE rowid % 3 > 0")
    for i in range(3):  # between the others: blocks of their own or split ones
        s.execute("INSERT INTO s(rowid, body) VALUES (?, ?)", (30 * i + 2, "a quiet library %d" % i))
    ask = lambda: [s.execute("SELECT rowid, rank FROM s(?)", (query,)).fetchall() for query in ("rain", "my wheel lost its air")]
    blocks = lambda: s.execute("SELECT count(*), sum(n) FROM s_blocks").fetchone()
    want, before = ask(), blocks()
    s.execute("INSERT INTO s(s) VALUES ('optimize')")
    assert ask() == want and len(want[0]) == 203
    after = blocks()
    assert after[0] <= before[0] and after[1] == before[1]
    check(s)
    s.execute("BEGIN")
    s.execute("INSERT INTO s(s) VALUES ('optimize')")
    s.execute("ROLLBACK")
    assert ask() == want
    check(s)


def test_dump_and_backup_are_the_same_table(tmp_path):
    path, copy = str(tmp_path / "s.db"), str(tmp_path / "copy.db")
    db = connect(path)
    db.execute("CREATE VIRTUAL TABLE s USING bitlm_search(title, body, lang UNINDEXED)")
    fill(db, 12)
    db.execute("CREATE TABLE notes(id INTEGER PRIMARY KEY, body)")
    db.execute("INSERT INTO notes VALUES (7, 'the cat purrs')")
    db.execute("CREATE VIRTUAL TABLE n USING bitlm_search(body, content='notes', content_rowid='id')")
    db.execute("INSERT INTO n(n) VALUES ('rebuild')")
    ask = lambda db: [db.execute("SELECT rowid, rank, title, chunk, lang FROM s('rain')").fetchall(),
                      db.execute("SELECT rowid, rank, body FROM n('a pet')").fetchall()]
    want = ask(db)
    other = sqlite3.connect(str(tmp_path / "backup.db"))
    db.backup(other)
    other.close()
    db.close()
    shell = lambda file, script: subprocess.run(["sqlite3", "-cmd", ".load " + EXTENSION, file], input=script,
                                                capture_output=True, text=True, check=True).stdout
    shell(copy, shell(path, ".dump\n"))
    for file in (copy, str(tmp_path / "backup.db")):
        db = connect(file)
        assert ask(db) == want
        check(db)
        check(db, "n")
        db.execute("INSERT INTO s(body) VALUES ('rain again')")
        assert info(db)["rows"] == 13 and info(db)["embedded"] == 1
        db.close()


def test_rename_and_drop_leave_nothing(s):
    fill(s, 5)
    s.execute("ALTER TABLE s RENAME TO \"t t\"")
    assert len(s.execute('SELECT * FROM "t t"(\'rain\')').fetchall()) == 5
    s.execute('INSERT INTO "t t"(body) VALUES (\'more\')')
    check(s, '"t t"')
    s.execute('DROP TABLE "t t"')
    assert s.execute("SELECT name FROM sqlite_master").fetchall() == []
    s.execute("BEGIN")
    s.execute("CREATE VIRTUAL TABLE u USING bitlm_search(x)")
    s.execute("INSERT INTO u VALUES ('y')")
    s.execute("ROLLBACK")
    assert s.execute("SELECT name FROM sqlite_master").fetchall() == []


@pytest.mark.parametrize("arguments, sentence", [
    ("", "there is no column to search"),
    ("a UNINDEXED", "there is no column to search"),
    ("a TEXT", "'TEXT' behind column a"),
    ("a, A", "two columns 'A'"),
    ("rank", "cannot be named 'rank'"),
    ("bad", "cannot be named 'bad'"),
    ("a, colour=1", "no option 'colour'"),
    ("a, chunk_size=31", "chunk_size is '31', but must be an integer from 32"),
    ("a, chunk_size=64, overlap=64", "overlap is 64 tokens, but must be less than chunk_size, 64"),
    ("a, bits=12", "multiple of 8"),
    ("a, bits=1024", "bits is 1024, but the model's codes have 384"),
    ("a, model='nobody'", "no model is named 'nobody'"),
    ("a, model='story'", "has no embedding"),
    ("a, content_rowid='id'", "needs content='table'"),
    ("a, model=", "must be a number or a text in quotes"),
])
def test_declarations_are_refused(db, arguments, sentence):
    with pytest.raises(sqlite3.OperationalError) as error:
        db.execute(f"CREATE VIRTUAL TABLE bad USING bitlm_search({arguments})")
    assert sentence in str(error.value)
    assert db.execute("SELECT name FROM sqlite_master").fetchall() == []


@pytest.mark.parametrize("rowid, what", [(None, "NULL"), ("x", "a TEXT"), (1.5, "a REAL"), (b"1", "a BLOB")])
def test_rowids_that_are_none(s, rowid, what):
    s.execute("INSERT INTO s(title) VALUES ('rain')")
    with pytest.raises(sqlite3.Error, match="a rowid is %s, but must be an integer" % what):
        s.execute("UPDATE s SET rowid = ?", (rowid,))
    s.execute("UPDATE s SET rowid = '7'")
    assert s.execute("SELECT rowid, title FROM s('snow')").fetchall() == [(7, "rain")]


@pytest.mark.parametrize("sql, sentence", [
    ("SELECT * FROM s WHERE title MATCH 'x'", "MATCH asks the table"),
    ("SELECT * FROM s WHERE k = 3", "k needs a search"),
    ("SELECT * FROM s('x', -1)", "k is -1"),
    ("SELECT * FROM s('x') WHERE k < 3", "by = alone"),
    ("SELECT * FROM s('x', 'many')", "k must be an integer"),
    ("SELECT * FROM s(x'00')", "BLOB of 1 bytes"),
    ("INSERT INTO s(body) VALUES (x'00')", "body of row 1 is a BLOB"),
    ("INSERT INTO s(rowid, body) VALUES ('one', 'x')", "datatype mismatch"),
    ("INSERT INTO s(s) VALUES ('tidy')", "no command 'tidy'"),
    ("INSERT INTO s(s) VALUES ('delete-all')", "is for tables with content="),
    ("SELECT bitlm_search_info('nothing')", "no bitlm_search table"),
])
def test_statements_are_refused(s, sql, sentence):
    with pytest.raises(sqlite3.Error) as error:
        s.execute(sql).fetchall()
    assert sentence in str(error.value)
    assert s.execute("SELECT count(*) FROM s").fetchall() == [(0,)]


def test_fewer_bits(db):
    db.execute("CREATE VIRTUAL TABLE s USING bitlm_search(body, bits=128)")
    db.executemany("INSERT INTO s VALUES (?)", [(t,) for t in TOPICS])
    want = sorted((one(db, "SELECT bitlm_hamming(substr(bitlm_embed(?), 1, 16), substr(bitlm_embed('rain'), 1, 16))", t), i)
                  for i, t in enumerate(TOPICS, 1))
    assert db.execute("SELECT rank, rowid FROM s('rain')").fetchall() == want


def test_another_model_is_refused_and_rebuild_helps(s):
    fill(s, 5)
    before = s.execute("SELECT rowid, rank FROM s('rain')").fetchall()
    s.execute("UPDATE s_config SET v = replace(v, substr(v, 1, 4), '0000') WHERE k = 'model_id'")
    for sql in ("SELECT * FROM s('rain')", "INSERT INTO s(body) VALUES ('x')"):
        with pytest.raises(sqlite3.OperationalError, match=r"model_id 0000.*INSERT INTO s\(s\) VALUES\('rebuild'\)"):
            s.execute(sql).fetchall()
    assert len(s.execute("SELECT * FROM s").fetchall()) == 5  # reading needs no model
    s.execute("INSERT INTO s(s) VALUES('rebuild')")
    assert s.execute("SELECT rowid, rank FROM s('rain')").fetchall() == before
    check(s)


def test_a_loaded_model_belongs_to_its_connection(tmp_path):
    """model= names what bitlm_load opened; without it a table can be read, changed by rowid and dropped, not searched."""
    path, model = str(tmp_path / "s.db"), str(tmp_path / "same.gguf")
    shutil.copy(ROOT / "core" / "builtin" / "bitlm-embed.gguf", model)
    a = connect(path)
    a.execute("SELECT bitlm_load('mine', ?)", (model,)).fetchall()
    a.execute("CREATE VIRTUAL TABLE s USING bitlm_search(body, model='mine')")
    a.executemany("INSERT INTO s VALUES (?)", [(t,) for t in TOPICS])
    assert info(a)["model"] == "mine"
    b = connect(path)
    for sql in ("SELECT * FROM s('rain')", "INSERT INTO s VALUES ('x')", "INSERT INTO s(s) VALUES ('rebuild')"):
        with pytest.raises(sqlite3.OperationalError, match="no model is named 'mine' here"):
            b.execute(sql).fetchall()
    b.execute("DELETE FROM s WHERE rowid = 1")
    assert len(b.execute("SELECT * FROM s").fetchall()) == 9
    b.execute("SELECT bitlm_load('mine', ?)", (model,)).fetchall()
    assert b.execute("SELECT body FROM s('rain', 1)").fetchall() == [("rain all day",)]
    # The name now means another model: found out at the next search.
    other = str(tmp_path / "other.gguf")
    subprocess.run([COMMAND, "convert", model, other, "--type", "q8_0"], check=True, stdout=subprocess.DEVNULL)
    b.execute("SELECT bitlm_unload('mine')").fetchall()
    b.execute("SELECT bitlm_load('mine', ?)", (other,)).fetchall()
    with pytest.raises(sqlite3.OperationalError, match="'rebuild'"):
        b.execute("SELECT * FROM s('rain')").fetchall()
    b.execute("INSERT INTO s(s) VALUES ('rebuild')")
    assert b.execute("SELECT body FROM s('rain', 1)").fetchall() == [("rain all day",)]
    with pytest.raises(sqlite3.OperationalError, match="'rebuild'"):
        a.execute("SELECT * FROM s('rain')").fetchall()
    a.close()
    b.execute("DROP TABLE s")
    b.close()


def test_strangers_and_untrusted_schemas(tmp_path):
    db = connect(entry="sqlite3_bitlm_noload_init")
    db.execute("CREATE TABLE notes(id INTEGER PRIMARY KEY, body)")
    db.execute("CREATE VIRTUAL TABLE s USING bitlm_search(body, content='notes', content_rowid='id')")
    db.execute("CREATE TRIGGER t AFTER INSERT ON notes BEGIN INSERT INTO s(rowid, body) VALUES (new.id, new.body); END")
    db.execute("PRAGMA trusted_schema = OFF")
    db.executemany("INSERT INTO notes(body) VALUES (?)", [(t,) for t in TOPICS])
    assert db.execute("SELECT body FROM s('rain', 1)").fetchall() == [("rain all day",)]
    db.close()


def test_readers_beside_a_writer(tmp_path):
    path = str(tmp_path / "s.db")
    a, b = connect(path), connect(path)
    a.execute("PRAGMA journal_mode = WAL").fetchall()
    a.execute("CREATE VIRTUAL TABLE s USING bitlm_search(body)")
    a.execute("INSERT INTO s VALUES ('rain all day')")
    b.execute("BEGIN")
    assert len(b.execute("SELECT * FROM s('rain')").fetchall()) == 1
    a.execute("BEGIN")
    a.execute("INSERT INTO s VALUES ('rain at night')")
    assert len(a.execute("SELECT * FROM s('rain')").fetchall()) == 2
    assert len(b.execute("SELECT * FROM s('rain')").fetchall()) == 1
    a.execute("COMMIT")
    assert len(b.execute("SELECT * FROM s('rain')").fetchall()) == 1
    b.execute("COMMIT")
    assert len(b.execute("SELECT * FROM s('rain')").fetchall()) == 2
    a.close()
    b.close()
