"""bitlm_generate_each: many prompts at once give what each gives alone."""

import json
import sqlite3

import pytest

from conftest import one

PROMPTS = ["Once upon a time", "", "The fox", "Once upon a time there was a king", "The fox", "She said: “No”\n",
           "x", "The cat and the dog", "One, two, three, one, two, three, one,", "Long ago a fisherman lived"]


def each(db, prompts, options=None):
    return db.execute("SELECT idx, text FROM bitlm_generate_each(?, ?)",
                      (json.dumps(prompts), options and json.dumps(options))).fetchall()


@pytest.mark.parametrize("options", [
    {"temperature": 0, "max_tokens": 12}, {"seed": 5, "max_tokens": 20}, {"seed": 5, "max_tokens": 9, "rows": 1},
    {"max_tokens": 15, "lookup": 6, "repeat_penalty": 1}, {"max_tokens": 30, "stop": [".", " the"], "rows": 16},
    {"max_tokens": 8, "choices": ["yes", "no", "not yet"], "temperature": 1}, {"max_tokens": 0},
    {"max_tokens": 10, "kv_type": "int8", "n_ctx": 64, "rows": 3}])
def test_rows_are_what_generate_gives(db, options):
    want = [(i, one(db, "SELECT bitlm_generate(?, ?)", p, json.dumps(options))) for i, p in enumerate(PROMPTS)]
    assert each(db, PROMPTS, options) == want
    assert each(db, list(reversed(PROMPTS)), options) == [(i, w[1]) for i, w in enumerate(reversed(want))]


def test_null_and_empty(db):
    assert db.execute("SELECT * FROM bitlm_generate_each(NULL)").fetchall() == []
    assert each(db, []) == []
    rows = each(db, [None, "The fox", None], {"max_tokens": 3})
    assert [r[0] for r in rows] == [0, 1, 2]
    assert rows[0][1] is None and rows[2][1] is None and rows[1][1]


def test_joins_with_a_table(db):
    db.execute("CREATE TABLE p(id INTEGER PRIMARY KEY, prompt)")
    db.executemany("INSERT INTO p(prompt) VALUES(?)", [(p,) for p in PROMPTS[:4]])
    options = '{"max_tokens":6}'
    rows = db.execute("SELECT idx + 1, text FROM bitlm_generate_each((SELECT json_group_array(prompt) FROM p), ?)",
                      (options,)).fetchall()
    assert rows == db.execute("SELECT id, bitlm_generate(prompt, ?) FROM p", (options,)).fetchall()
    assert db.execute("SELECT idx FROM bitlm_generate_each(?, ?) ORDER BY idx DESC LIMIT 1",
                      (json.dumps(PROMPTS), options)).fetchall() == [(len(PROMPTS) - 1,)]


def test_a_limit_leaves_the_session_usable(db):
    for _ in range(3):
        first = db.execute("SELECT text FROM bitlm_generate_each(?, ?) LIMIT 1",
                           (json.dumps(PROMPTS), '{"max_tokens":6}')).fetchall()
        assert first == [(one(db, "SELECT bitlm_generate(?, ?)", PROMPTS[0], '{"max_tokens":6}'),)]


@pytest.mark.parametrize("sql, words", [
    ("SELECT * FROM bitlm_generate_each", ["the prompts are missing"]),
    ("SELECT * FROM bitlm_generate_each('x')", ["not valid JSON", "json_group_array"]),
    ("SELECT * FROM bitlm_generate_each('[\"a\"')", ["not valid JSON at byte"]),
    ("SELECT * FROM bitlm_generate_each('{\"a\":1}')", ["must be a JSON array"]),
    ("SELECT * FROM bitlm_generate_each('[\"a\", 7]')", ["element 1", "no text"]),
    ("SELECT * FROM bitlm_generate_each(x'5b5d')", ["BLOB"]),
    ("SELECT * FROM bitlm_generate_each('[]', '{\"rows\":17}')", ["rows is 17"]),
    ("SELECT * FROM bitlm_generate_each('[\"a\"]', '{\"lookup\":16}')", ["lookup is 16"]),
    ("SELECT * FROM bitlm_generate_each('[\"a\"]', '{\"model\":\"embed\"}')", ["is an encoder"]),
    ("SELECT * FROM bitlm_generate_each('[\"a\"]', '{\"model\":\"none\"}')", ["no model is named 'none'"]),
    ("SELECT * FROM bitlm_generate_each('[\"a\"]', 'story')", ["a JSON object"]),
])
def test_errors_name_what_is_wrong(db, sql, words):
    with pytest.raises(sqlite3.OperationalError) as error:
        db.execute(sql).fetchall()
    assert str(error.value).startswith("bitlm_generate_each: ")
    for word in words:
        assert word in str(error.value)


def test_on_error_null_is_about_one_row(db):
    prompts = ["The fox", "a" * 9000, "The dog"]
    with pytest.raises(Exception) as error:
        each(db, prompts, {"max_tokens": 4})
    assert "prompt 1: the prompt of 9000 bytes" in str(error.value)
    rows = each(db, prompts, {"max_tokens": 4, "on_error": "null"})
    assert rows[1] == (1, None)
    assert rows[0][1] == one(db, "SELECT bitlm_generate('The fox', '{\"max_tokens\":4}')")
    assert rows[2][1] == one(db, "SELECT bitlm_generate('The dog', '{\"max_tokens\":4}')")
    assert len(each(db, prompts, {"max_tokens": 4, "truncate": "end"})) == 3


def test_common_beginnings_give_the_same_text(db):
    """What an earlier call left in a session's cache serves the next one: the text does not change."""
    body = "The old king had three sons and a garden with a golden tree in it. " * 4
    options = '{"max_tokens":8,"threads":2}'
    want = {}
    for tail in ("Once", "The fox", "Once more", ""):
        fresh = '{"max_tokens":8,"threads":%d}' % (2 + len(want) + 1)  # another shape: another session
        want[tail] = one(db, "SELECT bitlm_generate(?, ?)", body + tail, fresh)
    for _ in range(2):
        for tail, text in want.items():
            assert one(db, "SELECT bitlm_generate(?, ?)", body + tail, options) == text
