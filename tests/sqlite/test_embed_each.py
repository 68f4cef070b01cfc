"""bitlm_embed_each: many texts in one pass have the codes that each has alone."""

import json
import sqlite3
import time

import pytest

from conftest import connect, one

TEXTS = ["a letter from the tax office", "", "x", "Grüße aus Köln 🦊", "x", "zero\0byte", "\u4e2d\u6587",
         "The dentist moved my appointment to Friday."]
LONG = "word " * 4000


def each(db, texts, *options):
    return db.execute("SELECT idx, code FROM bitlm_embed_each(%s)" % ("?, ?" if options else "?"),
                      (json.dumps(texts), *options)).fetchall()


def test_codes_are_those_of_embed(db):
    many = TEXTS * 9 + ["number %d" % i for i in range(50)]
    want = [(i, one(db, "SELECT bitlm_embed(?)", t)) for i, t in enumerate(many)]
    assert each(db, many) == want
    assert each(db, many, '{"model":"embed","threads":2}') == want


def test_null_and_empty(db):
    assert db.execute("SELECT * FROM bitlm_embed_each(NULL)").fetchall() == []
    assert each(db, []) == []
    assert each(db, [None, "x", None]) == [(0, None), (1, one(db, "SELECT bitlm_embed('x')")), (2, None)]


def test_joins_with_a_table(db):
    db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, body)")
    db.executemany("INSERT INTO t(body) VALUES(?)", [(t,) for t in TEXTS])
    assert db.execute("SELECT idx + 1, code FROM bitlm_embed_each((SELECT json_group_array(body) FROM t))").fetchall() \
        == db.execute("SELECT id, bitlm_embed(body) FROM t").fetchall()
    db.execute("CREATE TABLE g(a)")
    db.executemany("INSERT INTO g VALUES(?)", [('["x","a"]',), ("[]",), ('["b"]',)])
    assert db.execute("SELECT g.rowid, idx, code = bitlm_embed(json_extract(a, '$[' || idx || ']')) "
                      "FROM g, bitlm_embed_each(a)").fetchall() == [(1, 0, 1), (1, 1, 1), (3, 0, 1)]
    assert [r[0] for r in db.execute("SELECT idx FROM bitlm_embed_each(?) ORDER BY idx DESC", (json.dumps(TEXTS),))] \
        == list(range(len(TEXTS)))[::-1]


def test_a_text_that_is_too_long(db):
    with pytest.raises(Exception, match="bitlm_embed_each: text 1 of 20000 bytes has more than n_ctx"):
        each(db, ["a", LONG, "b"])
    rows = each(db, ["a", None, LONG, "b"], '{"on_error":"null"}')
    assert [r[1] is None for r in rows] == [False, True, True, False]
    assert rows[3][1] == one(db, "SELECT bitlm_embed('b')")
    options = '{"truncate":"end"}'
    assert each(db, [LONG], options) == [(0, one(db, "SELECT bitlm_embed(?, ?)", LONG, options))]


@pytest.mark.parametrize("sql, words", [
    ("SELECT * FROM bitlm_embed_each", ["the texts are missing"]),
    ("SELECT * FROM bitlm_embed_each('x')", ["not valid JSON", "json_group_array"]),
    ("SELECT * FROM bitlm_embed_each('{\"a\":1}')", ["must be a JSON array"]),
    ("SELECT * FROM bitlm_embed_each('[\"a\", 7]')", ["element 1", "no text"]),
    ("SELECT * FROM bitlm_embed_each(x'5b5d')", ["BLOB"]),
    ("SELECT * FROM bitlm_embed_each('[]', '{\"n_ctx\":-1}')", ["n_ctx is -1"]),
    ("SELECT * FROM bitlm_embed_each('[\"a\"]', '{\"model\":\"none\",\"on_error\":\"null\"}')", ["no model is named"]),
    ("SELECT * FROM bitlm_embed_each('[\"a\"]', '{\"model\":\"story\"}')", ["cannot embed"]),
])
def test_errors_name_what_is_wrong(db, sql, words):
    with pytest.raises(sqlite3.OperationalError) as error:
        db.execute(sql).fetchall()
    assert str(error.value).startswith("bitlm_embed_each: ")
    for word in words:
        assert word in str(error.value)


def test_interrupt_and_timeout(db):
    many = json.dumps(["number %d of a long list of texts" % i for i in range(20000)])
    with pytest.raises(sqlite3.OperationalError, match="timeout_ms"):
        db.execute("SELECT * FROM bitlm_embed_each(?, '{\"timeout_ms\":50}')", (many,)).fetchall()
    began = time.monotonic()
    db.set_progress_handler(lambda: time.monotonic() - began > 0.2, 1000)
    with pytest.raises(sqlite3.OperationalError, match="interrupted"):
        db.execute("SELECT * FROM bitlm_embed_each(?)", (many,)).fetchall()
    db.set_progress_handler(None, 0)
    assert each(db, ["x"]) == [(0, one(db, "SELECT bitlm_embed('x')"))]


def test_works_in_an_untrusted_schema_and_for_strangers(db):
    db.execute("CREATE VIEW v AS SELECT code FROM bitlm_embed_each('[\"x\"]')")
    db.execute("PRAGMA trusted_schema=OFF")
    assert db.execute("SELECT * FROM v").fetchall() == [(one(db, "SELECT bitlm_embed('x')"),)]
    strangers = connect(entry="sqlite3_bitlm_noload_init")
    assert each(strangers, ["x"]) == each(db, ["x"])
    with pytest.raises(Exception, match="at most 1048576"):
        each(strangers, ["x" * (1 << 20)])
    strangers.close()
