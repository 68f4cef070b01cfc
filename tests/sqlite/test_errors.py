"""Bad input gets a result code and a sentence that names the value."""

import sqlite3
import struct
import time

import pytest

from conftest import SLACK, connect, one

ERROR, TOOBIG, CANTOPEN = sqlite3.SQLITE_ERROR, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_CANTOPEN


def refused(db, sql, *parameters):
    with pytest.raises(sqlite3.Error) as caught:
        db.execute(sql, parameters).fetchall()
    # Python says this of its own errors, which would hide that ours is missing.
    assert hasattr(caught.value, "sqlite_errorcode"), caught.value
    return caught.value.sqlite_errorcode, str(caught.value)


CASES = [
    # options
    ("SELECT bitlm_generate('x', 'story')", ERROR, ["bitlm_generate: ", '{"model":"', "'story'"]),
    ("SELECT bitlm_embed('x', '\"m\"')", ERROR, ["bitlm_embed: ", '{"model":"']),
    ("SELECT bitlm_embed('x', 'nonsense')", ERROR, ['{"model":"', "'nonsense'"]),
    ("SELECT bitlm_embed('x', '[1]')", ERROR, ['{"model":"', "'[1]'"]),
    ("SELECT bitlm_embed('x', 7)", ERROR, ["an INTEGER", '{"model":"']),
    ("SELECT bitlm_embed('x', 7.5)", ERROR, ["a REAL"]),
    ("SELECT bitlm_embed('x', x'7b7d')", ERROR, ["a BLOB"]),
    ("SELECT bitlm_embed('x', '{')", ERROR, ["bitlm_embed: "]),
    ("SELECT bitlm_generate('x', '{\"max_token\":3}')", ERROR, ["max_token"]),
    ("SELECT bitlm_generate('x', '{\"max_tokens\":\"3\"}')", ERROR, ["max_tokens", "number"]),
    ("SELECT bitlm_generate('x', '{\"max_tokens\":-1}')", ERROR, ["max_tokens", "-1"]),
    ("SELECT bitlm_generate('x', '{\"max_tokens\":9999999999}')", ERROR, ["max_tokens", "9999999999"]),
    ("SELECT bitlm_generate('x', '{\"max_tokens\":1.5}')", ERROR, ["max_tokens", "1.5"]),
    ("SELECT bitlm_generate('x', '{\"temperature\":-0.5}')", ERROR, ["temperature", "-0.5"]),
    ("SELECT bitlm_generate('x', '{\"top_p\":0}')", ERROR, ["top_p", "0"]),
    ("SELECT bitlm_generate('x', '{\"top_p\":1.01}')", ERROR, ["top_p", "1.01"]),
    ("SELECT bitlm_generate('x', '{\"kv_type\":\"q4\"}')", ERROR, ["kv_type", "q4", "f16"]),
    ("SELECT bitlm_generate('x', '{\"n_ctx\":-5}')", ERROR, ["n_ctx", "-5"]),
    ("SELECT bitlm_generate('x', '{\"threads\":1000}')", ERROR, ["threads", "1000"]),
    ("SELECT bitlm_generate('x', '{\"stop\":\"\"}')", ERROR, ["stop"]),
    ("SELECT bitlm_generate('x', '{\"model\":3}')", ERROR, ["model"]),
    ("SELECT bitlm_generate('x', '{\"model\":\"\"}')", ERROR, ["no model is named ''", "story, embed"]),
    ("SELECT bitlm_generate('x', '{\"model\":\"gpt\"}')", ERROR,
     ["no model is named 'gpt'", "story, embed", "bitlm_load"]),
    ("SELECT bitlm_generate('x', '{\"model\":\"/etc/passwd\"}')", ERROR, ["no model is named '/etc/passwd'"]),
    # models that cannot
    ("SELECT bitlm_generate('x', '{\"model\":\"embed\"}')", ERROR, ["bitlm_generate: ", "embed"]),
    ("SELECT bitlm_embed('x', '{\"model\":\"story\"}')", ERROR, ["bitlm_embed: ", "'story'", "'embed'"]),
    ("SELECT bitlm_embed_f32('x', '{\"model\":\"story\"}')", ERROR, ["bitlm_embed_f32: ", "'story'"]),
    ("SELECT bitlm_chat('[{\"role\":\"user\",\"content\":\"hi\"}]')", ERROR,
     ["bitlm_chat: ", "no chat template", "bitlm_load"]),
    ("SELECT bitlm_chat('[]', '{\"model\":\"story\"}')", ERROR, ["'story'", "no chat template"]),
    ("SELECT bitlm_stream.piece FROM bitlm_stream('x', '{\"model\":\"embed\"}')", ERROR, ["bitlm_stream: "]),
    # texts
    ("SELECT bitlm_generate(x'0102')", ERROR, ["the prompt", "BLOB of 2 bytes", "CAST"]),
    ("SELECT bitlm_embed(zeroblob(48))", ERROR, ["the text", "BLOB of 48 bytes"]),
    ("SELECT bitlm_token_count(x'00')", ERROR, ["bitlm_token_count: ", "BLOB of 1 bytes"]),
    # ids
    ("SELECT bitlm_detokenize('')", ERROR, ["JSON array of integers"]),
    ("SELECT bitlm_detokenize('1,2')", ERROR, ["JSON array of integers"]),
    ("SELECT bitlm_detokenize('[1,2')", ERROR, ["after entry 1"]),
    ("SELECT bitlm_detokenize('[1,]')", ERROR, ["entry 1 is not one"]),
    ("SELECT bitlm_detokenize('[1,,2]')", ERROR, ["entry 1 is not one"]),
    ("SELECT bitlm_detokenize('[-]')", ERROR, ["entry 0 is not one"]),
    ("SELECT bitlm_detokenize('[1.5]')", ERROR, ["after entry 0"]),
    ("SELECT bitlm_detokenize('[\"1\"]')", ERROR, ["entry 0 is not one"]),
    ("SELECT bitlm_detokenize('[1] x')", ERROR, ["more after"]),
    ("SELECT bitlm_detokenize('[5000000000]')", ERROR, ["id number 0", "2147483647"]),
    ("SELECT bitlm_detokenize('[1,99999999999999999999999999]')", ERROR, ["id number 1"]),
    ("SELECT bitlm_detokenize('[2147483647]')", ERROR, ["2147483647", "outside the vocabulary"]),
    ("SELECT bitlm_detokenize('[-1]')", ERROR, ["-1", "outside the vocabulary"]),
    # codes and vectors
    ("SELECT bitlm_hamming(x'0102', x'01')", ERROR, ["bitlm_hamming: ", "2 and 1 bytes", "same length"]),
    ("SELECT bitlm_hamming('ab', x'01')", ERROR, ["the first argument is text", "BLOB"]),
    ("SELECT bitlm_hamming(x'01', 5)", ERROR, ["the second argument is a number", "BLOB"]),
    ("SELECT bitlm_similarity(x'', x'01')", ERROR, ["bitlm_similarity: ", "0 and 1 bytes"]),
    ("SELECT bitlm_cosine(zeroblob(8), zeroblob(4))", ERROR, ["8 and 4 bytes"]),
    ("SELECT bitlm_cosine(zeroblob(7), zeroblob(7))", ERROR, ["7 bytes", "float32"]),
    ("SELECT bitlm_binarize(zeroblob(3))", ERROR, ["bitlm_binarize: ", "3 bytes", "float32"]),
    ("SELECT bitlm_binarize('abcd')", ERROR, ["the vector is text"]),
    ("SELECT bitlm_binarize(zeroblob(4), '{\"threshold\":\"x\"}')", ERROR, ["threshold"]),
    ("SELECT bitlm_binarize(zeroblob(4), '{\"threshold\":1e300}')", ERROR, ["threshold"]),
    # chunks
    ("SELECT * FROM bitlm_chunk('x')", ERROR, ["bitlm_chunk: ", "missing"]),
    ("SELECT * FROM bitlm_chunk", ERROR, ["missing"]),
    ("SELECT * FROM bitlm_chunk('x', 0)", ERROR, ["the size is 0", "1 to 1048576"]),
    ("SELECT * FROM bitlm_chunk('x', -3)", ERROR, ["the size is -3"]),
    ("SELECT * FROM bitlm_chunk('x', 9223372036854775807)", ERROR, ["the size is 9223372036854775807"]),
    ("SELECT * FROM bitlm_chunk('x', 1e300)", ERROR, ["the size is", "integer"]),
    ("SELECT * FROM bitlm_chunk('x', 2.5)", ERROR, ["the size is '2.5'", "integer"]),
    ("SELECT * FROM bitlm_chunk('x', 'ten')", ERROR, ["the size is 'ten'", "integer"]),
    ("SELECT * FROM bitlm_chunk('x', 10, 10)", ERROR, ["the overlap is 10", "0 to 9"]),
    ("SELECT * FROM bitlm_chunk('x', 10, -1)", ERROR, ["the overlap is -1"]),
    ("SELECT * FROM bitlm_chunk(x'00', 10)", ERROR, ["the text", "BLOB"]),
    ("SELECT * FROM bitlm_chunk('x', 10, 0, '{\"model\":\"m\"}')", ERROR, ["no model is named 'm'"]),
    # stream
    ("SELECT * FROM bitlm_stream", ERROR, ["the prompt is missing", "bitlm_stream('"]),
    ("SELECT * FROM bitlm_stream('x', 'story')", ERROR, ["bitlm_stream: ", '{"model":"']),
    ("SELECT * FROM bitlm_stream(x'00')", ERROR, ["the prompt", "BLOB"]),
    # models
    ("SELECT bitlm_load('', 'x')", ERROR, ["bitlm_load: ", "0 bytes", "1 to 64"]),
    ("SELECT bitlm_load(printf('%065d', 1), 'x')", ERROR, ["65 bytes"]),
    ("SELECT bitlm_load('a b', 'x')", ERROR, ["byte 2", "0x20"]),
    ("SELECT bitlm_load('a' || char(0), 'x')", ERROR, ["byte 2", "0x00"]),
    ("SELECT bitlm_load('ä', 'x')", ERROR, ["byte 1", "0xc3"]),
    ("SELECT bitlm_load('story', 'x')", ERROR, ["'story'", "built-in"]),
    ("SELECT bitlm_load('m', 'embed')", ERROR, ["'embed'", "not a path"]),
    ("SELECT bitlm_load('m', '')", ERROR, ["path is empty"]),
    ("SELECT bitlm_load('m', 'a' || char(0) || 'b')", ERROR, ["zero byte"]),
    ("SELECT bitlm_load('m', '/nowhere/at/all.gguf')", CANTOPEN, ["/nowhere/at/all.gguf", "No such file"]),
    ("SELECT bitlm_load('m', '/')", CANTOPEN, ["'/'"]),
    ("SELECT bitlm_load('m', '/nowhere', '{\"load\":\"quick\"}')", ERROR, ["load", "quick"]),
    ("SELECT bitlm_unload('m')", ERROR, ["bitlm_unload: ", "no model is named 'm'", "story, embed"]),
    ("SELECT bitlm_unload('story')", ERROR, ["'story'", "built-in"]),
    ("SELECT bitlm_model_id('m')", ERROR, ["bitlm_model_id: ", "no model is named 'm'"]),
    ("SELECT bitlm_model_id(x'00')", ERROR, ["BLOB"]),
]


@pytest.mark.parametrize("sql, code, fragments", CASES, ids=[c[0][7:60] for c in CASES])
def test_sentence(db, sql, code, fragments):
    got, text = refused(db, sql)
    print(text)
    for fragment in fragments:
        assert fragment in text
    assert got == code


def test_wrong_number_of_arguments(db):
    for call in ("bitlm_generate()", "bitlm_embed('a','{}','b')", "bitlm_hamming(x'00')", "bitlm_version(1)"):
        assert "wrong number of arguments" in refused(db, "SELECT " + call)[1]


def test_a_message_is_text_whatever_the_argument(db):
    for value in (b"\xff\xfe\x80", b"\x01\x02\x1b[31m", ("ü" * 200).encode(), b"x" * 100000):
        text = refused(db, "SELECT bitlm_embed('x', CAST(? AS TEXT))", value)[1]
        assert text.isprintable() and len(text) < 300
        text = refused(db, "SELECT bitlm_model_id(CAST(? AS TEXT))", value)[1]
        assert text.isprintable() and len(text) < 500


def test_the_names_in_the_message(tiny, tiny_path):
    assert "story, embed, tiny;" in refused(tiny, "SELECT bitlm_model_id('x')")[1]
    for i in range(40):
        one(tiny, "SELECT bitlm_load(?, ?)", "a_rather_long_name_for_a_model_%03d" % i, tiny_path)
    text = refused(tiny, "SELECT bitlm_model_id('x')")[1]
    assert "story, embed, tiny, a_rather" in text and "…" in text and len(text) < 500


@pytest.mark.parametrize("sql", ["SELECT bitlm_generate(?)", "SELECT piece FROM bitlm_stream(?)"])
@pytest.mark.parametrize("unit", ["word ", "x", "\0", "世", " "])
def test_ten_megabytes_are_refused_at_once(db, sql, unit):
    text = unit * (10_000_000 // len(unit.encode()))
    began = time.perf_counter()
    code, message = refused(db, sql, text)
    seconds = time.perf_counter() - began
    print("%r: %.0f ms: %s" % (unit, seconds * 1e3, message))
    assert code == TOOBIG and "n_ctx" in message and str(len(text.encode())) in message
    assert seconds < 1 * SLACK


@pytest.mark.parametrize("unit, few_tokens", [("word ", False), ("世", False), ("x", True), ("\0", True), (" ", True)])
def test_ten_megabytes_to_embed(db, unit, few_tokens):
    """WordPiece takes a word that long for one unknown token and drops zero bytes and spaces."""
    text = unit * (10_000_000 // len(unit.encode()))
    began = time.perf_counter()
    if few_tokens:
        assert len(one(db, "SELECT bitlm_embed(?)", text)) == 48
    else:
        code, message = refused(db, "SELECT bitlm_embed(?)", text)
        assert code == TOOBIG and "n_ctx" in message and str(len(text.encode())) in message
    seconds = time.perf_counter() - began
    print("%r: %.0f ms" % (unit, seconds * 1e3))
    assert seconds < 2 * SLACK


@pytest.mark.parametrize("sql, unit", [
    ("SELECT bitlm_token_count(?)", "word "), ("SELECT length(bitlm_tokenize(?))", "x"),
    ("SELECT count(*) FROM bitlm_chunk(?, 200, 20)", "word "), ("SELECT count(*) FROM bitlm_chunk(?, 200, 20)", "世"),
])
def test_ten_megabytes_of_tokens(db, sql, unit):
    text = unit * (10_000_000 // len(unit.encode()))
    began = time.perf_counter()
    n = one(db, sql, text)
    seconds = time.perf_counter() - began
    print("%r %s: %d in %.0f ms" % (unit, sql, n, seconds * 1e3))
    assert n > 0 and seconds < 10 * SLACK


def test_timeout_is_an_error_of_the_statement_not_an_interrupt(slow):
    slow.execute("CREATE TABLE t(x)")
    slow.execute("BEGIN")
    slow.execute("INSERT INTO t VALUES(1)")
    began = time.perf_counter()
    code, text = refused(slow, """INSERT INTO t SELECT bitlm_generate(?, '{"model":"slow","timeout_ms":100}')""",
                         "word " * 190)
    seconds = time.perf_counter() - began
    print("timeout after %.0f ms: %s" % (seconds * 1e3, text))
    assert code == ERROR and "timeout_ms" in text and "100" in text
    assert 0.09 < seconds < (0.1 + 0.05) * SLACK + 0.3
    assert slow.in_transaction
    assert one(slow, "SELECT count(*) FROM t") == 1
    assert one(slow, """SELECT bitlm_generate('x ' || ?,
                        '{"model":"slow","timeout_ms":100,"on_error":"null"}')""", "word " * 190) is None


def test_huge_context_does_not_crash(tiny):
    for n_ctx in (1, 16, 1 << 20, 16777216):
        try:
            one(tiny, "SELECT bitlm_generate('x', json_object('n_ctx', ?, 'max_tokens', 1))", n_ctx)
        except (sqlite3.Error, MemoryError) as error:
            print(n_ctx, error)


def test_a_file_that_is_no_model(db, tmp_path, tiny_path):
    good = open(tiny_path, "rb").read()
    for name, data in [("empty", b""), ("magic", b"GGUF"), ("text", b"hello world" * 1000),
                       ("half", good[: len(good) // 2]), ("head", good[:200]),
                       ("counts", good[:8] + struct.pack("<QQ", 2**63, 2**63) + good[24:])]:
        path = tmp_path / name
        path.write_bytes(data)
        code, text = refused(db, "SELECT bitlm_load('m', ?)", str(path))
        print(text)
        assert code == ERROR and text.startswith("bitlm_load: ")
    assert one(db, "SELECT count(*) FROM bitlm_models") == 2


@pytest.mark.parametrize("messages", ["", "hello", "{}", "[]", "[1]", "[null]", '["hi"]', '[{"role":"user"}]',
                                      '[{"content":"hi"}]', '[{"role":"robot","content":"hi"}]',
                                      '[{"role":"user","content":5}]', '[{"role":"user","content":"hi"}',
                                      '[{"role":"user","content":"hi"},{}]', "[" * 100000])
def test_chat_messages_of_the_wrong_shape(tiny, messages):
    code, text = refused(tiny, "SELECT bitlm_chat(?, '{\"model\":\"tiny\"}')", messages)
    print(text)
    assert code == ERROR and text.startswith("bitlm_chat: ") and "message" in text


def test_result_over_the_hosts_limit(db):
    db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 40)
    code, text = refused(db, "SELECT bitlm_embed_f32('x')")
    assert code == TOOBIG
    code, text = refused(db, "SELECT bitlm_generate('Once upon a time')")
    assert code == TOOBIG


def test_little_memory():
    """Each step has less heap; calls succeed or say MemoryError, and nothing leaks or crashes."""
    import subprocess
    import sys

    script = """
import sqlite3, sys
sys.path.insert(0, {here!r})
from conftest import connect
seen = {{True: 0, False: 0}}
for limit in [64000000, 16000000, 8000000, 4000000, 2000000, 1500000, 1000000, 700000] + \\
        list(range(600000, 150000, -7000)):
    try:
        db = connect()
        db.execute("PRAGMA hard_heap_limit=%d" % limit).fetchall()
    except (MemoryError, sqlite3.Error):
        break
    for sql in ("SELECT bitlm_generate('Once', '{{\\"max_tokens\\":3}}')", "SELECT bitlm_embed('x', '{{}}')",
                "SELECT bitlm_embed_f32('x')", "SELECT bitlm_tokenize('a b c')", "SELECT bitlm_detokenize('[5,6]')",
                "SELECT * FROM bitlm_models", "SELECT piece FROM bitlm_stream('x') LIMIT 2",
                "SELECT text FROM bitlm_generate_each('[\\"x\\", null, \\"y\\"]', '{{\\"max_tokens\\":2}}')",
                "SELECT chunk FROM bitlm_chunk('a b c d e', 2, 1)", "SELECT bitlm_model_id()",
                "SELECT bitlm_binarize(zeroblob(400))", "SELECT bitlm_hamming(x'00', x'11')"):
        try:
            db.execute(sql).fetchall()
            seen[True] += 1
        except MemoryError:
            seen[False] += 1
        except sqlite3.Error as error:
            # Python turns a message it has no memory for into another error.
            assert 'memory' in str(error) or error.sqlite_errorcode in (7, 1), (sql, limit, error)
            seen[False] += 1
    try:
        db.close()
    except MemoryError:
        pass
print(seen[True], seen[False])
""".format(here=str(__import__("pathlib").Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    succeeded, failed = map(int, done.stdout.split())
    print("with ever less heap: %d calls succeeded, %d said out of memory" % (succeeded, failed))
    assert succeeded > 10 and failed > 10


def test_the_other_connection_is_well_after_an_error(db):
    other = connect()
    refused(db, "SELECT bitlm_generate('x', 'bad')")
    assert len(one(other, "SELECT bitlm_embed('x')")) == 48
    other.close()
