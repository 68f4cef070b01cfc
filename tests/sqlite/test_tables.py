"""bitlm_stream, bitlm_chunk and bitlm_models as tables."""

import json
import math
import sqlite3
import time

import pytest

from conftest import SLACK, one

GREEDY = '{"temperature":0,"max_tokens":10}'


# ---- bitlm_stream -----------------------------------------------------------------------


def test_stream_is_generate_in_pieces(db):
    for options in (GREEDY, '{"max_tokens":10,"seed":4}', '{"temperature":0,"max_tokens":10,"stop":" a"}'):
        text = one(db, "SELECT bitlm_generate('Once upon a time', ?)", options)
        rows = db.execute("SELECT n, token, piece FROM bitlm_stream('Once upon a time', ?)", (options,)).fetchall()
        assert "".join(r[2] for r in rows) == text
        assert [r[0] for r in rows] == list(range(1, len(rows) + 1))
        assert all(isinstance(r[1], int) for r in rows[:-1])
    assert db.execute("""SELECT * FROM bitlm_stream('x', '{"max_tokens":0}')""").fetchall() == []


def test_stream_columns(db):
    cursor = db.execute("SELECT * FROM bitlm_stream('Once upon a time', ?)", (GREEDY,))
    assert [d[0] for d in cursor.description] == ["n", "token", "piece", "logprob"]
    for n, token, piece, logprob in cursor:
        assert logprob <= 0 and math.isfinite(logprob)


def test_logprob_is_the_greedy_tokens(db):
    rows = db.execute("""SELECT logprob FROM bitlm_stream('Once upon a',
                         '{"temperature":0,"max_tokens":3,"repeat_penalty":1}')""").fetchall()
    print([r[0] for r in rows])
    assert rows[0][0] > math.log(0.5)  # " time"


def test_the_logprob_column_changes_no_token(db):
    with_it = db.execute("SELECT token, logprob FROM bitlm_stream('The cat', ?)", (GREEDY,)).fetchall()
    without = db.execute("SELECT token FROM bitlm_stream('The cat', ?)", (GREEDY,)).fetchall()
    assert [r[:1] for r in with_it] == without


def test_limit_pays_for_what_it_reads(slow):
    """Decoding the slow model takes tens of milliseconds a token."""
    began = time.perf_counter()
    all_rows = slow.execute("""SELECT piece FROM bitlm_stream('x',
                          '{"model":"slow","max_tokens":16,"ignore_eos":true}')""").fetchall()
    full = time.perf_counter() - began
    began = time.perf_counter()
    first = slow.execute("""SELECT piece FROM bitlm_stream('x',
                       '{"model":"slow","max_tokens":100000,"n_ctx":512,"ignore_eos":true}') LIMIT 2""").fetchall()
    few = time.perf_counter() - began
    print("16 tokens %.0f ms, LIMIT 2 of 100,000 %.0f ms" % (full * 1e3, few * 1e3))
    assert len(all_rows) == 16 and first == all_rows[:2]
    assert few < full


def test_rows_come_while_the_model_works(slow):
    cursor = slow.execute("""SELECT piece FROM bitlm_stream('x',
                             '{"model":"slow","max_tokens":12,"ignore_eos":true}')""")
    began = time.perf_counter()
    times = []
    for _ in cursor:
        times.append(time.perf_counter() - began)
    print("rows at", ["%.0f" % (t * 1e3) for t in times], "ms")
    assert times[2] < times[-1] / 2


def test_null_prompt_gives_no_row(db):
    assert db.execute("SELECT * FROM bitlm_stream(NULL)").fetchall() == []
    assert len(db.execute("SELECT * FROM bitlm_stream('x', NULL) LIMIT 2").fetchall()) == 2


def test_stream_joins_with_its_argument_from_a_table(db):
    db.execute("CREATE TABLE p(id INTEGER PRIMARY KEY, prompt)")
    prompts = ["The dog", None, "Once upon a time", "The dog"]
    db.executemany("INSERT INTO p(prompt) VALUES(?)", [(p,) for p in prompts])
    sql = "SELECT id, group_concat(piece, '') FROM {} WHERE 1 GROUP BY id ORDER BY id"
    want = [(i + 1, one(db, "SELECT bitlm_generate(?, ?)", p, GREEDY)) for i, p in enumerate(prompts) if p]
    for tables in ("p, bitlm_stream(p.prompt, ?)", "p CROSS JOIN bitlm_stream(p.prompt, ?)"):
        assert db.execute(sql.format(tables), (GREEDY,)).fetchall() == want
    left = db.execute("SELECT id FROM p LEFT JOIN bitlm_stream(p.prompt, ?) WHERE token IS NULL", (GREEDY,))
    assert left.fetchall() == [(2,)]


def test_two_streams_and_a_generate_at_once(db):
    """Each needs a session while the others hold theirs."""
    want = one(db, "SELECT bitlm_generate('The cat', ?)", GREEDY)
    other = one(db, "SELECT bitlm_generate('The dog', ?)", GREEDY)
    rows = db.execute("""SELECT a.piece, b.piece, bitlm_generate('The dog', ?1)
                         FROM bitlm_stream('The cat', ?1) a JOIN bitlm_stream('The dog', ?1) b USING (n)
                         ORDER BY n""", (GREEDY,)).fetchall()
    assert "".join(r[0] for r in rows) == want
    assert "".join(r[1] for r in rows) == other
    assert {r[2] for r in rows} == {other}
    cursors = [db.execute("SELECT piece FROM bitlm_stream(?, ?)", (p, GREEDY)) for p in ["The cat", "The dog"] * 4]
    texts = [""] * len(cursors)
    for _ in range(11):
        for i, cursor in enumerate(cursors):
            row = cursor.fetchone()
            texts[i] += row[0] if row else ""
    assert texts == [want, other] * 4


def test_order_by_n(db):
    ordered = db.execute("SELECT n FROM bitlm_stream('x', ?) ORDER BY n", (GREEDY,)).fetchall()
    assert ordered == sorted(ordered)
    plan = "EXPLAIN QUERY PLAN SELECT n FROM bitlm_stream('x', '{}') ORDER BY n"
    assert "B-TREE" not in str(db.execute(plan).fetchall())
    backwards = db.execute("SELECT n FROM bitlm_stream('x', ?) ORDER BY n DESC", (GREEDY,)).fetchall()
    assert backwards == ordered[::-1]


def test_the_hidden_columns_hold_the_arguments(db):
    assert db.execute("SELECT prompt, opts FROM bitlm_stream('x', '{\"seed\":1}') LIMIT 1").fetchone() == (
        "x", '{"seed":1}')
    assert db.execute("SELECT count(*) FROM bitlm_stream('x', '{\"max_tokens\":2}') WHERE prompt='y'").fetchone() == (0,)


def test_stream_is_read_only(db):
    for sql in ("INSERT INTO bitlm_stream(prompt) VALUES('x')", "DELETE FROM bitlm_models",
                "UPDATE bitlm_chunk SET seq=1"):
        with pytest.raises(sqlite3.OperationalError, match="may not be modified"):
            db.execute(sql)


def test_context_end_ends_the_rows(db):
    rows = db.execute("""SELECT n FROM bitlm_stream('Once upon a time',
                         '{"n_ctx":32,"max_tokens":100,"ignore_eos":true}')""").fetchall()
    assert 20 < len(rows) <= 32


# ---- bitlm_chunk ------------------------------------------------------------------------

TEXT = ("It was the best of times, it was the worst of times. It was the age of wisdom. "
        "Été à la plage: 世界 🙂 naïve café. ") * 20


@pytest.mark.parametrize("size, overlap", [(1, 0), (10, 0), (50, 10), (50, 49), (100000, 0)])
def test_chunks_are_what_substr_says(db, size, overlap):
    rows = db.execute("""SELECT seq, chunk, start, length, substr(?1, start, length)
                         FROM bitlm_chunk(?1, ?2, ?3)""", (TEXT, size, overlap)).fetchall()
    assert [r[0] for r in rows] == list(range(1, len(rows) + 1))
    end = 0
    for _, chunk, start, length, cut in rows:
        assert chunk == cut and len(chunk) == length
        assert TEXT[start - 1 : start - 1 + length] == chunk
        assert start - 1 <= end  # no character is lost
        end = start - 1 + length
        assert one(db, """SELECT bitlm_token_count(?, '{"model":"embed"}')""", chunk) <= size
    assert end == len(TEXT)


def test_chunk_columns_and_defaults(db):
    cursor = db.execute("SELECT * FROM bitlm_chunk(?, 30)", (TEXT,))
    assert [d[0] for d in cursor.description] == ["seq", "chunk", "start", "length"]
    plain = cursor.fetchall()
    assert "".join(r[1] for r in plain) == TEXT
    assert plain == db.execute("SELECT * FROM bitlm_chunk(?, 30, 0)", (TEXT,)).fetchall()
    assert plain == db.execute("SELECT * FROM bitlm_chunk(?, '30', 0.0, NULL)", (TEXT,)).fetchall()
    assert plain == db.execute("""SELECT * FROM bitlm_chunk(?, 30, 0, '{"model":"embed"}')""", (TEXT,)).fetchall()
    assert plain != db.execute("""SELECT * FROM bitlm_chunk(?, 30, 0, '{"model":"story"}')""", (TEXT,)).fetchall()


def test_empty_text_and_nulls(db):
    assert db.execute("SELECT * FROM bitlm_chunk('', 10)").fetchall() == [(1, "", 1, 0)]
    for arguments in ("NULL, 10", "'x', NULL", "'x', 10, NULL", "NULL, -1"):
        assert db.execute("SELECT * FROM bitlm_chunk(%s)" % arguments).fetchall() == []


def test_a_table_of_long_texts_becomes_a_table_of_codes(db):
    db.execute("CREATE TABLE doc(id INTEGER PRIMARY KEY, body)")
    db.executemany("INSERT INTO doc(body) VALUES(?)", [(TEXT,), ("",), (None,), ("short",)])
    db.execute("""CREATE TABLE part AS SELECT id, seq, start, length, bitlm_embed(chunk) AS code
                  FROM doc, bitlm_chunk(doc.body, 100, 20)""")
    assert one(db, "SELECT count(DISTINCT id) FROM part") == 3
    assert one(db, "SELECT count(*) FROM part WHERE length(code)=48") == one(db, "SELECT count(*) FROM part")


def test_chunks_of_a_megabyte(db):
    text = TEXT * (1_000_000 // len(TEXT.encode()) + 1)
    began = time.perf_counter()
    n, characters = db.execute("SELECT count(*), sum(length) FROM bitlm_chunk(?, 200)", (text,)).fetchone()
    seconds = time.perf_counter() - began
    print("%d chunks of 1 MB in %.0f ms" % (n, seconds * 1e3))
    assert characters == len(text) and seconds < 3 * SLACK


# ---- bitlm_models -----------------------------------------------------------------------


def test_models_lists_the_built_ins_and_the_loaded(tiny, tiny_path):
    tiny.row_factory = sqlite3.Row
    rows = {r["name"]: dict(r) for r in tiny.execute("SELECT * FROM bitlm_models")}
    print(json.dumps(rows, indent=1))
    assert list(rows) == ["story", "embed", "tiny"]
    assert rows["story"]["capabilities"] == "generate" and rows["story"]["bits"] is None
    assert rows["embed"]["capabilities"] == "embed" and rows["embed"]["bits"] == 384
    assert rows["tiny"]["path"] == tiny_path and rows["story"]["path"] == "story"
    assert rows["story"]["vocabulary"] == 4096 and rows["story"]["layers"] == 6
    assert rows["story"]["architecture"] == "bitnet-b1.58"
    assert rows["story"]["context"] == 512
    for row in rows.values():
        assert row["parameters"] > 0 and row["bytes"] > 0 and len(row["model_id"]) == 32
        assert row["weight_type"]


def test_models_may_change_while_they_are_listed(db, tiny_path):
    for name in "abc":
        one(db, "SELECT bitlm_load(?, ?)", name, tiny_path)
    gone = db.execute("SELECT bitlm_unload(name), architecture FROM bitlm_models WHERE path <> name").fetchall()
    assert [g[0] for g in gone] == ["a", "b", "c"] and all(g[1] for g in gone)
    assert one(db, "SELECT count(*) FROM bitlm_models") == 2
