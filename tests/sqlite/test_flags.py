"""DETERMINISTIC, INNOCUOUS and DIRECTONLY: where each function may stand."""

import sqlite3
import subprocess

import pytest

from conftest import EXTENSION, connect, one

PURE = ["bitlm_embed(b)", "bitlm_embed_f32(b)", "bitlm_tokenize(b)", "bitlm_token_count(b)", "bitlm_generate(b)",
        "bitlm_hamming(b, b)", "bitlm_similarity(b, b)", "bitlm_cosine(b, b)", "bitlm_binarize(b)", "bitlm_jaccard(b, b)", "bitlm_reverse_bits(b)",
        "bitlm_binarize(b, '{}')", "bitlm_detokenize(b)", "bitlm_chat(b)"]
WITH_OPTIONS = ["bitlm_embed(b, '{}')", "bitlm_embed_f32(b, NULL)", "bitlm_tokenize(b, '{}')",
                "bitlm_token_count(b, '{}')", "bitlm_generate(b, '{}')", "bitlm_detokenize(b, '{}')",
                "bitlm_chat(b, '{}')", "bitlm_model_id(b)", "bitlm_load(b, b)", "bitlm_unload(b)"]


@pytest.mark.parametrize("call", PURE)
def test_one_argument_functions_work_in_an_index(db, call):
    db.execute("CREATE TABLE t(b)")
    db.execute("CREATE INDEX i ON t(%s)" % call)
    db.execute("INSERT INTO t VALUES(NULL)")
    assert one(db, "PRAGMA integrity_check") == "ok"


@pytest.mark.parametrize("call", WITH_OPTIONS)
def test_functions_that_may_name_a_model_do_not(db, call):
    db.execute("CREATE TABLE t(b)")
    with pytest.raises(sqlite3.OperationalError, match="non-deterministic"):
        db.execute("CREATE INDEX i ON t(%s)" % call)
    with pytest.raises(sqlite3.OperationalError, match="non-deterministic"):
        db.execute("CREATE TABLE g(b, c AS (%s))" % call)


def test_generated_column_and_index_of_codes(db):
    db.execute("CREATE TABLE notes(body TEXT, code BLOB AS (bitlm_embed(body)) STORED)")
    db.executemany("INSERT INTO notes(body) VALUES(?)",
                   [("The cat sleeps on the sofa.",), ("Interest rates rose again.",), (None,)])
    assert one(db, "SELECT body FROM notes ORDER BY code IS NULL, bitlm_hamming(code, "
                   "bitlm_embed('A cat is sleeping on a couch.')) LIMIT 1").startswith("The cat")
    db.execute("CREATE INDEX by_code ON notes(bitlm_embed(body))")
    assert one(db, "SELECT count(*) FROM notes INDEXED BY by_code "
                   "WHERE bitlm_embed(body) = bitlm_embed('Interest rates rose again.')") == 1
    db.execute("UPDATE notes SET body = 'x' WHERE body LIKE 'Int%'")
    assert one(db, "SELECT code = bitlm_embed('x') FROM notes WHERE body = 'x'") == 1
    assert one(db, "PRAGMA integrity_check") == "ok"


def test_an_untrusted_schema_may_use_the_built_ins_only(db, tmp_path):
    db.execute("CREATE TABLE t(b)")
    db.execute("INSERT INTO t VALUES('the cat')")
    db.execute("CREATE VIEW pure AS SELECT bitlm_embed(b), bitlm_token_count(b), bitlm_hamming(x'00', x'01') FROM t")
    db.execute("CREATE VIEW named AS SELECT bitlm_embed(b, '{}') FROM t")
    db.execute("CREATE VIEW tables AS SELECT piece FROM bitlm_stream('x', '{\"max_tokens\":1}')")
    db.execute("CREATE VIEW chunks AS SELECT chunk FROM bitlm_chunk('a b c', 1)")
    db.execute("CREATE VIEW models AS SELECT name FROM bitlm_models")
    db.execute("PRAGMA trusted_schema=OFF")
    for view in ("pure", "tables", "chunks", "models"):
        assert db.execute("SELECT * FROM %s" % view).fetchall()
    with pytest.raises(sqlite3.OperationalError, match="unsafe use of bitlm_embed"):
        db.execute("SELECT * FROM named").fetchall()
    db.execute("PRAGMA trusted_schema=ON")
    assert db.execute("SELECT * FROM named").fetchall()


@pytest.mark.parametrize("call", ["bitlm_load('m', '/etc/passwd')", "bitlm_load('m', '/etc/passwd', '{}')",
                                  "bitlm_unload('m')"])
def test_no_view_trigger_or_default_opens_a_file(db, call):
    db.execute("CREATE TABLE t(b)")
    db.execute("CREATE VIEW v AS SELECT %s AS x" % call)
    with pytest.raises(sqlite3.OperationalError, match="unsafe use of bitlm_"):
        db.execute("SELECT * FROM v").fetchall()
    db.execute("CREATE TRIGGER r AFTER INSERT ON t BEGIN SELECT %s; END" % call)
    with pytest.raises(sqlite3.OperationalError, match="unsafe use of bitlm_"):
        db.execute("INSERT INTO t VALUES(1)")
    db.execute("DROP TRIGGER r")
    with pytest.raises(sqlite3.OperationalError):
        db.execute("CREATE TABLE d(x, CHECK (%s IS NULL))" % call)
        db.execute("INSERT INTO d VALUES(1)")


def test_triggers_may_embed(db):
    db.execute("CREATE TABLE t(b, code)")
    db.execute("CREATE TRIGGER r AFTER INSERT ON t BEGIN "
               "UPDATE t SET code = bitlm_embed(b) WHERE rowid = new.rowid; END")
    db.execute("INSERT INTO t(b) VALUES('the cat')")
    assert one(db, "SELECT code = bitlm_embed('the cat') FROM t") == 1


# ---- the entry point for strangers ------------------------------------------------------


@pytest.fixture
def strangers():
    connection = connect(entry="sqlite3_bitlm_noload_init")
    yield connection
    connection.close()


def test_noload_has_no_way_to_open_a_file(strangers):
    for call in ("bitlm_load('m', 'x')", "bitlm_load('m', 'x', '{}')", "bitlm_unload('m')"):
        with pytest.raises(sqlite3.OperationalError, match="no such function"):
            strangers.execute("SELECT " + call)
    assert one(strangers, "SELECT count(*) FROM bitlm_models") == 2
    with pytest.raises(sqlite3.OperationalError) as caught:
        one(strangers, "SELECT bitlm_model_id('m')")
    assert "bitlm_load" not in str(caught.value)


def test_noload_ceilings(strangers):
    for options, words in [('{"max_tokens":257}', ("max_tokens is 257", "at most 256")),
                           ('{"n_ctx":2049}', ("n_ctx is 2049", "at most 2048")),
                           ('{"timeout_ms":10001}', ("timeout_ms is 10001", "at most 10000")),
                           ('{"threads":2}', ("threads is 2", "at most 1"))]:
        for sql in ("SELECT bitlm_generate('x', ?)", "SELECT bitlm_embed('x', ?)",
                    "SELECT * FROM bitlm_stream('x', ?)", "SELECT * FROM bitlm_generate_each('[]', ?)"):
            with pytest.raises(sqlite3.DatabaseError) as caught:
                strangers.execute(sql, (options,)).fetchall()
            assert caught.value.sqlite_errorcode == sqlite3.SQLITE_TOOBIG
            for word in words:
                assert word in str(caught.value)
    long = "a" * (1 << 20) + "b"
    for sql in ("SELECT bitlm_embed(?)", "SELECT bitlm_token_count(?)", "SELECT * FROM bitlm_chunk(?, 10)"):
        with pytest.raises(sqlite3.DatabaseError, match="1048577 bytes"):
            strangers.execute(sql, (long,)).fetchall()


def test_noload_gives_the_same_results(strangers, db):
    for sql in ("SELECT bitlm_generate('The cat', '{\"max_tokens\":9}')", "SELECT hex(bitlm_embed('The cat'))",
                "SELECT group_concat(piece, '') FROM bitlm_stream('The cat', '{\"max_tokens\":9}')"):
        assert one(strangers, sql) == one(db, sql)


def test_noload_after_init_takes_the_loading_away(tiny_path):
    done = subprocess.run(["sqlite3", ":memory:"], text=True, capture_output=True, input=""".load {0}
SELECT bitlm_load('tiny', '{1}');
.load {0} sqlite3_bitlm_noload_init
SELECT name FROM bitlm_models;
SELECT bitlm_load('m', 'x');
SELECT bitlm_unload('tiny');
""".format(EXTENSION, tiny_path))
    assert done.stdout.split() == ["tiny", "story", "embed"]
    assert "no such function: bitlm_load" in done.stderr and "no such function: bitlm_unload" in done.stderr


def test_a_second_load_from_sql_is_refused_and_changes_nothing(tiny):
    """SQLite replaces no function while a statement runs, and that one does."""
    tiny.enable_load_extension(True)
    for entry in ("sqlite3_bitlm_init", "sqlite3_bitlm_noload_init"):
        with pytest.raises(sqlite3.OperationalError, match="active statements"):
            tiny.execute("SELECT load_extension(?, ?)", (EXTENSION, entry)).fetchall()
    assert one(tiny, "SELECT count(*) FROM bitlm_models") == 3
    assert one(tiny, "SELECT bitlm_unload('tiny')") == "tiny"
