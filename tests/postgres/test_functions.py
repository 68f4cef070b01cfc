"""The functions of the PostgreSQL extension, and that they give SQLite's bytes."""

import json
import os
import subprocess
import threading
import time

import pytest

from conftest import SLACK, Database

TEXTS = ["", "a", "How do I get my money back?", "Größe, 大きさ, 🙂", "x" * 400, "tab\tand\nline"]


def test_same_codes_as_sqlite(db, lite):
    for text in TEXTS:
        blob = lite.execute("SELECT bitlm_embed(?)", (text,)).fetchone()[0]
        bits = db.one("SELECT bitlm_embed(%s)::text", text)
        assert bits == "".join(f"{byte:08b}" for byte in blob), text
        sent = bytes(db.one("SELECT bit_send(bitlm_embed(%s))", text))
        assert sent[4:] == blob
        floats = lite.execute("SELECT bitlm_embed_f32(?)", (text,)).fetchone()[0]
        assert db.one("SELECT array_to_string(array_agg(float4send(v)), '') FROM "
                      "unnest(bitlm_embed_f32(%s)) v", text).replace("\\x", "") == b"".join(
            floats[i:i + 4][::-1] for i in range(0, len(floats), 4)).hex()


@pytest.mark.parametrize("options", [
    {"max_tokens": 20}, {"max_tokens": 20, "seed": 7}, {"max_tokens": 15, "temperature": 0},
    {"max_tokens": 20, "temperature": 1.5, "top_k": 10, "top_p": 0.5, "min_p": 0, "repeat_penalty": 1},
    {"max_tokens": 40, "stop": [".", "the"]}, {"max_tokens": 8, "kv_type": "int8", "n_ctx": 256}])
def test_same_texts_as_sqlite(db, lite, options):
    expected = lite.execute("SELECT bitlm_generate(?, ?)", ("Once upon a time", json.dumps(options))).fetchone()[0]
    names = ", ".join(f"{name} => %s" for name in options)
    assert db.one(f"SELECT bitlm_generate('Once upon a time', {names})", *options.values()) == expected
    pieces = db.rows(f"SELECT n, token, piece, logprob FROM bitlm_stream('Once upon a time', {names})",
                     *options.values())
    assert "".join(piece for _, _, piece, _ in pieces) == expected
    assert [n for n, *_ in pieces] == list(range(1, len(pieces) + 1))
    assert all(logprob <= 0 for _, token, _, logprob in pieces if token is not None)


def test_same_tokens_and_chunks_as_sqlite(db, lite):
    for text in TEXTS:
        ids = json.loads(lite.execute("SELECT bitlm_tokenize(?)", (text,)).fetchone()[0])
        assert db.one("SELECT bitlm_tokenize(%s)", text) == ids
        assert db.one("SELECT bitlm_token_count(%s)", text) == len(ids)
        assert db.one("SELECT bitlm_detokenize(%s::int[])", ids) == text
        rows = lite.execute("SELECT * FROM bitlm_chunk(?, 20, 5)", (text,)).fetchall()
        assert db.rows("SELECT * FROM bitlm_chunk(%s, 20, 5)", text) == rows
        for _, chunk, start, length in rows:
            assert db.one("SELECT substr(%s, %s, %s)", text, start, length) == chunk


def test_same_model_id_as_sqlite(db, lite):
    for name in ("story", "embed"):
        expected = lite.execute("SELECT bitlm_model_id(?)", (name,)).fetchone()[0]
        assert db.one("SELECT bitlm_model_id(%s)", name) == expected
    assert db.one("SELECT bitlm_model_id()") == expected
    assert db.one("SELECT bitlm_embed_pinned('a', %s) = bitlm_embed('a')", expected)
    assert db.state("SELECT bitlm_embed_pinned('a', repeat('0', 32))")[0] == "42704"
    assert db.state("SELECT bitlm_embed_pinned('a', 'xyz')")[0] == "22023"


def test_embed_forms(db):
    assert db.one("SELECT bitlm_embed('a', 'embed') = bitlm_embed('a')")
    assert db.rows("SELECT e.idx, e.code = bitlm_embed(t.x) FROM bitlm_embed_each(ARRAY['a', NULL, 'b']) e "
                   "JOIN unnest(ARRAY['a', NULL, 'b']) WITH ORDINALITY t(x, i) ON i = idx ORDER BY 1") == [
        (1, True), (2, None), (3, True)]
    texts = [f"sentence number {i}" for i in range(150)]  # more than two batches
    assert db.one("SELECT bool_and(code = bitlm_embed((%s::text[])[idx])) AND count(*) = 150 "
                  "FROM bitlm_embed_each(%s)", texts, texts)
    assert db.one("SELECT bitlm_binarize(bitlm_embed_f32('a')) = bitlm_embed('a')")
    assert db.one("SELECT length(bitlm_embed('a'))") == 384


def test_generate_each(db, lite):
    prompts = ["Once upon a time", None, "The fox said", ""]
    rows = db.rows("SELECT * FROM bitlm_generate_each(%s, max_tokens => 12, seed => 3)", prompts)
    expected = lite.execute("SELECT idx, text FROM bitlm_generate_each(?, '{\"max_tokens\":12,\"seed\":3}')",
                            (json.dumps(prompts),)).fetchall()
    assert [text for _, text in rows] == [text for _, text in expected]
    assert [idx for idx, _ in rows] == [1, 2, 3, 4]
    assert db.rows("SELECT * FROM bitlm_generate_each('{}')") == []


def test_choices_and_classify(db, lite):
    labels = ["sport", "money", "weather"]
    text = db.one("SELECT bitlm_generate('The weather is', choices => %s)", labels)
    assert text == lite.execute("SELECT bitlm_generate('The weather is', ?)",
                                (json.dumps({"choices": labels}),)).fetchone()[0]
    answer = db.one("SELECT bitlm_classify('It will rain tomorrow', %s)", labels)
    assert answer == json.loads(lite.execute("SELECT bitlm_classify('It will rain tomorrow', ?)",
                                             (json.dumps(labels),)).fetchone()[0])
    assert abs(sum(answer.values()) - 1) < 1e-5


def test_codes(db):
    assert db.one("SELECT bitlm_hamming(B'1100', B'1010')") == 2
    assert db.one("SELECT B'1100' <^> B'1010'") == 2.0
    assert db.one("SELECT bitlm_similarity(B'11001', B'10101')") == 0.6
    assert db.one("SELECT bitlm_within(B'1100', B'1010', 2) AND NOT bitlm_within(B'1100', B'1010', 1)")
    assert db.one("SELECT B'1100' <@ bitlm_sphere(B'1010', 2) AND NOT B'1100' <@ bitlm_sphere(B'1010', 1)")
    assert db.one("SELECT B'1100' <^> NULL") is None
    for sql in ("SELECT B'1' <^> B'11'", "SELECT bitlm_within(B'1', B'11', 1)",
                "SELECT B'1' <@ bitlm_sphere(B'11', 1)"):
        assert db.state(sql)[0] == "22026"
    count = "bit_count(a # b)" if db.connection.server_version >= 140000 else "length(replace((a # b)::text, '0', ''))"
    assert db.one("SELECT count(*) FROM generate_series(1, 200) g, LATERAL (SELECT bitlm_embed(g::text) a, "
                  f"bitlm_embed((g * 7)::text) b OFFSET 0) s WHERE a <^> b <> {count}") == 0


def test_jaccard_and_reverse(db, lite):
    assert db.one("SELECT bitlm_jaccard(B'1100', B'1010')") == 1 / 3
    assert db.one("SELECT B'1100' <|> B'1010'") == 1 - 1 / 3
    assert db.one("SELECT bitlm_jaccard(B'0000', B'0000')") == 1.0
    assert db.state("SELECT B'1' <|> B'11'")[0] == "22026"
    assert db.one("SELECT bitlm_reverse_bits(B'1100000010000001')") == "0000001110000001"
    assert db.state("SELECT bitlm_reverse_bits(B'101')")[0] == "22023"
    for a, b in (("a", "b"), ("one text", "another"), ("x", "x")):
        assert db.one("SELECT bitlm_jaccard(bitlm_embed(%s), bitlm_embed(%s))", a, b) == lite.execute(
            "SELECT bitlm_jaccard(bitlm_embed(?), bitlm_embed(?))", (a, b)).fetchone()[0]
    # The operator orders rows as the function does.
    assert db.one("SELECT array_agg(g ORDER BY bitlm_embed(g::text) <|> bitlm_embed('7')) = "
                  "array_agg(g ORDER BY 1 - bitlm_jaccard(bitlm_embed(g::text), bitlm_embed('7'))) "
                  "FROM generate_series(1, 40) g")


def test_chat_template(db, lite):
    messages = '[{"role":"user","content":"Tell me about a fox"}]'
    for template in ("chatml", "llama3", "zephyr"):
        expected = lite.execute("SELECT bitlm_chat(?, ?)", (messages, json.dumps(
            {"max_tokens": 20, "chat_template": template}))).fetchone()[0]
        assert db.one("SELECT bitlm_chat(%s, max_tokens => 20, chat_template => %s)", messages, template) == expected
    code, message = db.state("SELECT bitlm_chat(%s, chat_template => 'none')", messages)
    assert code == "22023" and "chat_template" in message
    code, message = db.state("SELECT bitlm_chat(%s)", messages)
    assert code == "0A000" and "chat_template" in message


def test_errors_have_sqlstates(db):
    for sql, state, word in [
            ("SELECT bitlm_generate('a', temperature => 101)", "22023", "temperature"),
            ("SELECT bitlm_generate('a', temperature => 'NaN')", "22023", "temperature"),
            ("SELECT bitlm_generate('a', kv_type => 'x')", "22023", "kv_type"),
            ("SELECT bitlm_generate('a', stop => ARRAY[NULL])", "22004", "stop"),
            ("SELECT bitlm_generate('a', model => '../x')", "42602", "name"),
            ("SELECT bitlm_generate('a', model => '/etc/passwd')", "42602", "name"),
            ("SELECT bitlm_generate('a', model => 'none')", "42704", "none"),
            ("SELECT bitlm_generate('a', model => 'embed')", "0A000", "encoder"),
            ("SELECT bitlm_generate(repeat('word ', 3000), n_ctx => 64)", "54000", "64"),
            ("SELECT bitlm_chat('[{\"role\":\"user\",\"content\":\"a\"}]')", "0A000", "template"),
            ("SELECT bitlm_embed('a', 'story')", "0A000", "embed"),
            ("SELECT bitlm_embed(repeat('word ', 5000))", "54000", ""),
            ("SELECT bitlm_chunk('a', 0)", "22023", "size"),
            ("SELECT bitlm_detokenize(ARRAY[-1])", "22023", ""),
            ("SELECT bitlm_generate('a', max_tokens => 100000, timeout_ms => 1, ignore_eos => true)", "57014",
             "timeout_ms")]:
        code, message = db.state(sql)
        assert code == state and word in message, (sql, code, message)
    assert db.one("SELECT bitlm_generate(repeat('word ', 3000), n_ctx => 64, on_error => 'null')") is None
    assert db.one("SELECT bitlm_generate('Once', max_tokens => 3)")  # the backend is as before


def test_generated_column_and_parallel_workers(db):
    db.rows("CREATE TEMP TABLE notes(body text, code bit(384) GENERATED ALWAYS AS (bitlm_embed(body)) STORED)")
    db.rows("INSERT INTO notes SELECT 'note ' || g FROM generate_series(1, 50) g")
    assert db.one("SELECT body FROM notes ORDER BY code <^> bitlm_embed('note 17') LIMIT 1") == "note 17"
    db.rows("CREATE TABLE many AS SELECT 'note ' || g AS body FROM generate_series(1, 100) g")
    serial = db.rows("SELECT body, bitlm_embed(body)::text FROM many ORDER BY 1")
    db.rows("SET min_parallel_table_scan_size = 0")
    db.rows("SET parallel_setup_cost = 0")
    plan = "\n".join(r[0] for r in db.rows("EXPLAIN SELECT body, bitlm_embed(body)::text FROM many"))
    assert "Gather" in plan
    assert sorted(db.rows("SELECT body, bitlm_embed(body)::text FROM many")) == serial
    db.rows("DROP TABLE many")


def test_stream_stops_early_in_the_select_list(db):
    db.rows("SET statement_timeout = 20000")
    rows = db.rows("SELECT (bitlm_stream('Once', max_tokens => 2000000000, ignore_eos => true)).n LIMIT 5")
    assert rows == [(i,) for i in range(1, 6)]


@pytest.mark.parametrize("sql", [
    "SELECT bitlm_generate('Once', max_tokens => 1000000, ignore_eos => true) FROM generate_series(1, 100000)",
    "SELECT bitlm_generate(repeat('word ', 400), max_tokens => 1) FROM generate_series(1, 100000)",  # prefill
    "SELECT count(bitlm_embed(repeat('word ', 200) || g)) FROM generate_series(1, 1000000) g"])
def test_cancel(db, sql):
    """From the cancel request to the error: what a poll can add, with a generous allowance for the machine."""
    watch = Database()
    pid = db.one("SELECT pg_backend_pid()")
    db.rows("SET jit = off")  # the server's compiler cannot be stopped
    times = {}

    def cancel():
        time.sleep(0.5)
        times["asked"] = time.monotonic()
        watch.rows("SELECT pg_cancel_backend(%s)", pid)

    thread = threading.Thread(target=cancel)
    thread.start()
    code, _ = db.state(sql)
    took = time.monotonic() - times["asked"]
    thread.join()
    assert code == "57014"
    assert took < 0.15 * SLACK, took
    assert db.state("SET statement_timeout = 100; " + sql)[0] == "57014"
    db.rows("SET statement_timeout = 0")
    assert db.one("SELECT length(bitlm_embed('a'))") == 384
    watch.connection.close()


def test_terminate_while_generating(db):
    other = Database()
    pid = other.one("SELECT pg_backend_pid()")
    thread = threading.Timer(0.4, lambda: db.rows("SELECT pg_terminate_backend(%s)", pid))
    thread.start()
    code, message = other.state("SELECT bitlm_generate('Once', max_tokens => 1000000, ignore_eos => true, threads => 2) "
                                "FROM generate_series(1, 1000)")
    thread.join()
    assert code in (None, "57P01") and "closed" in message or "administrator" in message, message
    # A crash would have ended this connection too.
    assert db.one("SELECT length(bitlm_embed('a'))") == 384


def test_a_plain_user_reads_no_file(db):
    db.rows("DROP ROLE IF EXISTS bitlm_plain")
    db.rows("CREATE ROLE bitlm_plain LOGIN")
    plain = Database(user="bitlm_plain")
    plain.rows("SET bitlm.model_dir = '/etc'")  # nobody knows the setting yet: a placeholder,
    plain.one("SELECT bitlm_version()")  # which the library drops
    assert plain.one("SHOW bitlm.model_dir") != "/etc"
    assert plain.state("SET bitlm.model_dir = '/etc'")[0] == "42501"
    assert plain.one("SELECT count(*) FROM bitlm_models") >= 2
    assert plain.one("SELECT length(bitlm_generate('Once', max_tokens => 3)) > 0")
    db.one("SELECT bitlm_version()")
    assert db.state("SET bitlm.model_dir = 'relative'")[0] == "22023"
    plain.connection.close()


def test_memory_does_not_grow(db):
    if db.connection.server_version < 140000:
        pytest.skip("pg_backend_memory_contexts came with PostgreSQL 14")
    used = "SELECT sum(total_bytes)::bigint FROM pg_backend_memory_contexts"
    sql = "SELECT count(bitlm_embed(g::text)), count(bitlm_token_count(g::text)) FROM generate_series(1, %s) g"
    db.rows(sql, 100)
    before = db.one(used)
    db.rows(sql, 1000)
    db.rows("DO $$ BEGIN FOR i IN 1..200 LOOP BEGIN PERFORM bitlm_generate('a', temperature => -1); "
            "EXCEPTION WHEN OTHERS THEN NULL; END; END LOOP; END $$")
    assert db.one(used) - before < 200_000


def test_no_symbol_of_jansson_is_the_servers(db):
    """The executable's symbols come first: a call of json_object would end in PostgreSQL's function of that name."""
    def symbols(path, *flags):
        out = subprocess.run(["nm", "-D", *flags, path], check=True, capture_output=True, text=True).stdout
        return {line.split()[-1].split("@")[0] for line in out.splitlines()}

    config = os.environ.get("PG_CONFIG", "pg_config")
    directory, bindir = (subprocess.run([config, flag], check=True, capture_output=True, text=True).stdout.strip()
                         for flag in ("--pkglibdir", "--bindir"))
    wanted = {name for name in symbols(f"{directory}/bitlm.so", "-u") if name.startswith("json_")}
    assert len(wanted) > 10
    assert not wanted & symbols(f"{bindir}/postgres", "--defined-only")
