"""Each scalar function does what its file's header says."""

import json
import sqlite3
import struct

import pytest

from conftest import CODE_BITS, ROOT, connect, one

GREEDY = '{"temperature":0,"max_tokens":12}'


def floats(blob):
    return struct.unpack("<%df" % (len(blob) // 4), blob)


def f32(*values):
    return struct.pack("<%df" % len(values), *values)


# ---- generate ---------------------------------------------------------------------------


def test_generate_gives_the_continuation_not_the_prompt(db):
    prompt = "Once upon a time"
    text = one(db, "SELECT bitlm_generate(?, ?)", prompt, GREEDY)
    assert text and not text.startswith(prompt)
    text.encode("utf-8")


def test_generate_without_options_is_the_same_each_time(db):
    first = one(db, "SELECT bitlm_generate('Lily had a dog.')")
    assert first == one(db, "SELECT bitlm_generate('Lily had a dog.')")
    assert first == one(db, "SELECT bitlm_generate('Lily had a dog.', NULL)")
    assert first == one(db, "SELECT bitlm_generate('Lily had a dog.', '{}')")
    assert first == one(db, "SELECT bitlm_generate('Lily had a dog.', '')")
    assert first == one(db, "SELECT bitlm_generate('Lily had a dog.', ' null')")
    assert first == one(db, """SELECT bitlm_generate('Lily had a dog.', '{"model":"story"}')""")


def test_a_seed_changes_the_text(db):
    texts = {one(db, "SELECT bitlm_generate('The cat', json_object('seed', ?, 'max_tokens', 20))", s)
             for s in range(4)}
    assert len(texts) > 1


def test_max_tokens(db):
    assert one(db, """SELECT bitlm_generate('The cat', '{"max_tokens":0}')""") == ""
    few = one(db, """SELECT bitlm_generate('The cat', '{"temperature":0,"max_tokens":3}')""")
    many = one(db, """SELECT bitlm_generate('The cat', '{"temperature":0,"max_tokens":9}')""")
    assert many.startswith(few) and len(many) > len(few)


def test_stop_ends_before_the_stop_text(db):
    text = one(db, "SELECT bitlm_generate('The cat', ?)", GREEDY)
    word = text.split()[2]
    options = json.dumps({"temperature": 0, "max_tokens": 12, "stop": [word]})
    assert one(db, "SELECT bitlm_generate('The cat', ?)", options) == text[: text.index(word)]


def test_a_number_is_taken_as_its_text(db):
    assert (one(db, "SELECT bitlm_generate(12, ?)", GREEDY) ==
            one(db, "SELECT bitlm_generate('12', ?)", GREEDY))
    assert one(db, "SELECT bitlm_embed(1.5)") == one(db, "SELECT bitlm_embed('1.5')")


@pytest.mark.parametrize("text", [b"", b"\x00", b"a\x00b", b"\xff\xfe\xfa", b"\xe2\x82", b"\xed\xa0\x80",
                                  b"\xf8\x88\x80\x80\x80", "🙂 é".encode()])
def test_any_bytes_may_stand_in_a_text(db, text):
    sql = "SELECT length(CAST({} AS BLOB)) FROM (SELECT CAST(? AS TEXT) AS t)"
    one(db, sql.format("bitlm_generate(t, '{\"max_tokens\":2}')"), text)
    assert one(db, sql.format("bitlm_embed(t)"), text) == CODE_BITS // 8
    assert one(db, "SELECT bitlm_token_count(CAST(? AS TEXT))", text) >= (len(text) > 0)
    ids = one(db, "SELECT bitlm_tokenize(CAST(? AS TEXT))", text)
    one(db, "SELECT bitlm_detokenize(?)", ids)


def test_a_zero_byte_does_not_end_the_text(db):
    assert (one(db, "SELECT bitlm_tokenize(?)", "cat\0dog") !=
            one(db, "SELECT bitlm_tokenize(?)", "cat"))
    assert one(db, "SELECT bitlm_embed(?)", "cat\0dog") != one(db, "SELECT bitlm_embed(?)", "cat")


def test_utf16_database(tmp_path):
    db = connect()
    utf8 = one(db, "SELECT bitlm_embed('Grüße, 世界')")
    ids = one(db, "SELECT bitlm_tokenize('Grüße, 世界')")
    db.close()
    db = connect(str(tmp_path / "utf16.db"))
    db.execute("PRAGMA encoding='UTF-16le'")
    db.execute("CREATE TABLE t(x)")
    db.execute("INSERT INTO t VALUES('Grüße, 世界')")
    assert one(db, "SELECT bitlm_embed(x) FROM t") == utf8
    assert one(db, "SELECT bitlm_tokenize(x) FROM t") == ids
    assert one(db, "SELECT group_concat(piece, '') FROM t, bitlm_stream(t.x, ?)", GREEDY) == one(
        db, "SELECT bitlm_generate(x, ?) FROM t", GREEDY)
    assert one(db, "SELECT group_concat(chunk, '') FROM t, bitlm_chunk(t.x, 2)") == "Grüße, 世界"
    db.close()


# ---- chat -------------------------------------------------------------------------------


def test_chat(tiny):
    options = '{"model":"tiny","temperature":0,"max_tokens":5,"ignore_eos":true}'
    chat = "SELECT bitlm_chat(?, ?)"
    hi = '[{"role":"user","content":"hi"}]'
    answer = one(tiny, chat, hi, options)
    assert isinstance(answer, str) and answer == one(tiny, chat, hi, options)
    more = json.dumps([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"},
                       {"role": "assistant", "content": "Hello!"}, {"role": "user", "content": "Grüße 🙂"}])
    assert isinstance(one(tiny, chat, more, options), str)
    assert one(tiny, "SELECT bitlm_chat(json_array(json_object('role','user','content','hi')), ?)", options) == answer
    assert one(tiny, "SELECT capabilities FROM bitlm_models WHERE name='tiny'") == "generate chat"


# ---- NULL -------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [
    "bitlm_generate(NULL)", "bitlm_generate(NULL, '{}')", "bitlm_chat(NULL)", "bitlm_chat(NULL, '{}')",
    "bitlm_embed(NULL)", "bitlm_embed(NULL, '{}')", "bitlm_embed_f32(NULL)", "bitlm_embed_f32(NULL, '{}')",
    "bitlm_tokenize(NULL)", "bitlm_detokenize(NULL)", "bitlm_token_count(NULL)",
    "bitlm_tokenize(NULL, '{}')", "bitlm_detokenize(NULL, '{}')", "bitlm_token_count(NULL, '{}')",
    "bitlm_hamming(NULL, x'00')", "bitlm_hamming(x'00', NULL)", "bitlm_similarity(NULL, NULL)",
    "bitlm_cosine(x'00', NULL)", "bitlm_binarize(NULL)", "bitlm_binarize(NULL, '{}')",
    "bitlm_model_id(NULL)", "bitlm_load(NULL, 'x')", "bitlm_load('x', NULL)", "bitlm_unload(NULL)",
])
def test_null_in_null_out(db, call):
    assert one(db, "SELECT " + call) is None


# ---- embed ------------------------------------------------------------------------------


def test_embed_has_the_models_bits(db):
    code = one(db, "SELECT bitlm_embed('a letter about taxes')")
    vector = one(db, "SELECT bitlm_embed_f32('a letter about taxes')")
    assert isinstance(code, bytes) and len(code) == CODE_BITS // 8
    assert len(vector) == CODE_BITS * 4
    assert abs(sum(x * x for x in floats(vector)) - 1) < 1e-5


def test_the_code_is_the_signs_of_the_vector(db):
    for text in ("a letter about taxes", "", "x", "How do I fix a flat tyre? " * 5):
        assert one(db, "SELECT bitlm_embed(?1) = bitlm_binarize(bitlm_embed_f32(?1))", text) == 1


def test_options_do_not_change_the_embedding(db):
    assert one(db, """SELECT bitlm_embed('x') = bitlm_embed('x', '{"model":"embed"}')""") == 1
    assert one(db, """SELECT bitlm_embed('x') = bitlm_embed('x', '{"threads":2}')""") == 1
    assert one(db, "SELECT bitlm_embed_f32('x') = bitlm_embed_f32('x', NULL)") == 1


def test_near_texts_are_nearer(db):
    near, far = db.execute("""SELECT bitlm_hamming(bitlm_embed('The cat sleeps on the sofa.'),
                                                   bitlm_embed('A cat is sleeping on a couch.')),
                                     bitlm_hamming(bitlm_embed('The cat sleeps on the sofa.'),
                                                   bitlm_embed('Interest rates rose again.'))""").fetchone()
    print("hamming near", near, "far", far)
    assert near < far


def test_truncate(db):
    long = "word " * 5000
    for how in ("start", "end"):
        options = '{"truncate":"%s"}' % how
        assert len(one(db, "SELECT bitlm_embed(?, ?)", long, options)) == CODE_BITS // 8


# ---- codes ------------------------------------------------------------------------------


@pytest.mark.parametrize("a, b, distance", [
    (b"", b"", 0), (b"\x00", b"\xff", 8), (b"\x0f\xf0", b"\x0f\xf0", 0), (b"\x80" * 48, b"\x00" * 48, 48),
    (b"\x55" * 1001, b"\xaa" * 1001, 8008),
])
def test_hamming_and_similarity(db, a, b, distance):
    assert one(db, "SELECT bitlm_hamming(?, ?)", a, b) == distance
    same = 1.0 if not a else 1 - distance / (8 * len(a))
    assert one(db, "SELECT bitlm_similarity(?, ?)", a, b) == pytest.approx(same, abs=1e-15)


def test_cosine(db):
    cosine = "SELECT bitlm_cosine(?, ?)"
    assert one(db, cosine, f32(1, 2, 3), f32(1, 2, 3)) == pytest.approx(1)
    assert one(db, cosine, f32(1, 0), f32(0, 5)) == 0
    assert one(db, cosine, f32(1, 1), f32(-2, -2)) == pytest.approx(-1)
    assert one(db, cosine, f32(0, 0), f32(1, 1)) == 0
    assert one(db, cosine, b"", b"") == 0


def test_cosine_of_unaligned_blobs(db):
    """Columns of a record lie at any address."""
    db.execute("CREATE TABLE t(pad, a, b)")
    for n in range(5):
        db.execute("INSERT INTO t VALUES(zeroblob(?), ?, ?)", (n, f32(3, 4), f32(4, 3)))
    for row in db.execute("SELECT bitlm_cosine(a, b), bitlm_binarize(a) FROM t"):
        assert row == (pytest.approx(24 / 25), b"\xc0")


def test_binarize(db):
    assert one(db, "SELECT bitlm_binarize(?)", f32(1, -1, 0, 2, -0.0, 1e-45, 5, -5)) == b"\x96"
    assert one(db, "SELECT bitlm_binarize(?)", f32(1, 1, 1)) == b"\xe0"
    assert one(db, "SELECT bitlm_binarize(?)", f32(*[1] * 9)) == b"\xff\x80"
    assert one(db, "SELECT bitlm_binarize(?)", b"") == b""
    assert one(db, "SELECT bitlm_binarize(?)", f32(float("nan"), float("inf"), float("-inf"))) == b"\x40"
    assert one(db, """SELECT bitlm_binarize(?, '{"threshold":1.5}')""", f32(1, 2, 1.5, 3)) == b"\x50"
    assert one(db, """SELECT bitlm_binarize(?, '{"threshold":-1}')""", f32(0, -2)) == b"\x80"


# ---- tokens -----------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["Once upon a time, there was a cat.", "x", "", "Größe 世界 🙂", "a  b\n\nc"])
def test_tokens_of_the_story_model_come_back(db, text):
    ids = json.loads(one(db, "SELECT bitlm_tokenize(?)", text))
    assert all(isinstance(i, int) for i in ids)
    assert one(db, "SELECT bitlm_token_count(?)", text) == len(ids)
    assert one(db, "SELECT bitlm_detokenize(bitlm_tokenize(?))", text) == text


def test_marks_in_a_text_are_text(db):
    assert one(db, "SELECT bitlm_detokenize(bitlm_tokenize('a<s>b</s>'))") == "a<s>b</s>"


def test_tokens_of_a_named_model(tiny):
    story = one(tiny, "SELECT bitlm_tokenize('the cat')")
    embed = one(tiny, """SELECT bitlm_tokenize('the cat', '{"model":"embed"}')""")
    assert story != embed
    assert one(tiny, """SELECT bitlm_detokenize(?, '{"model":"embed"}')""", embed) == "the cat"
    count = one(tiny, """SELECT bitlm_token_count('the cat', '{"model":"tiny"}')""")
    assert count == len(json.loads(one(tiny, """SELECT bitlm_tokenize('the cat', '{"model":"tiny"}')""")))


def test_ids_are_json(db):
    assert one(db, "SELECT json_type(json_array(bitlm_tokenize('the cat')), '$[0]')") == "array"
    n = one(db, "SELECT count(*) FROM json_each(bitlm_tokenize('the cat sat'))")
    assert n == one(db, "SELECT bitlm_token_count('the cat sat')")
    assert one(db, "SELECT bitlm_detokenize(' [ ] ')") == ""
    ids = one(db, "SELECT bitlm_tokenize('the cat')")
    spaced = ids.replace(",", " ,\n\t").replace("[", " [ ").replace("]", " ] \r\n")
    assert one(db, "SELECT bitlm_detokenize(?)", spaced) == "the cat"


# ---- the rest ---------------------------------------------------------------------------


def test_version_and_model_id(tiny):
    assert one(tiny, "SELECT bitlm_version()").count(".") == 2
    ids = [one(tiny, "SELECT bitlm_model_id(?)", name) for name in ("story", "embed", "tiny")]
    assert len(set(ids)) == 3
    for i in ids:
        assert len(i) == 32 and int(i, 16) >= 0
    assert one(tiny, "SELECT bitlm_model_id()") == ids[1]
    assert ids == [r[0] for r in tiny.execute("SELECT model_id FROM bitlm_models")]


def test_the_file_of_a_built_in_is_the_built_in(db):
    path = str(ROOT / "core" / "builtin" / "bitlm-story.gguf")
    one(db, "SELECT bitlm_load('file', ?)", path)
    assert one(db, "SELECT bitlm_model_id('file') = bitlm_model_id('story')") == 1
    assert one(db, """SELECT bitlm_generate('The cat', '{"model":"file"}') = bitlm_generate('The cat')""") == 1


def test_on_error_null_gives_null_for_the_row_only(db):
    long = "word " * 5000
    assert one(db, """SELECT bitlm_embed(?, '{"on_error":"null"}')""", long) is None
    assert one(db, """SELECT bitlm_generate(?, '{"on_error":"null"}')""", long) is None
    assert one(db, """SELECT bitlm_detokenize('[1,', '{"on_error":"null"}')""") is None
    assert one(db, """SELECT bitlm_detokenize('[99999]', '{"on_error":"null"}')""") is None
    assert one(db, """SELECT bitlm_token_count(x'00', '{"on_error":"null"}')""") is None
    assert one(db, """SELECT bitlm_binarize(x'00', '{"on_error":"null"}')""") is None
    assert db.execute("""SELECT * FROM bitlm_stream(?, '{"on_error":"null"}')""", (long,)).fetchall() == []
    with pytest.raises(sqlite3.DatabaseError, match="no model is named 'none'"):
        one(db, """SELECT bitlm_embed('x', '{"on_error":"null","model":"none"}')""")


def test_one_embedding_for_a_thousand_rows(db):
    """With options the function is not deterministic for SQLite; it must still embed once."""
    import time

    db.execute("CREATE TABLE notes AS WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c "
               "WHERE n<1000) SELECT n, randomblob(%d) AS code FROM c" % (CODE_BITS // 8))
    text = "how to mend a flat tyre on an old bicycle, and what to buy for it; " * 6
    embed_one = "SELECT length(bitlm_embed(?1, '{\"threads\":1}'))"
    one(db, embed_one, text)  # opens the model
    single = min(timed(time, one, db, embed_one, text) for _ in range(5))
    rows = timed(time, one, db, "SELECT count(*) FROM (SELECT n FROM notes ORDER BY "
                 "bitlm_hamming(code, bitlm_embed(?1, '{\"threads\":1}')))", text)
    print("one embedding %.2f ms, 1,000 rows with it %.2f ms" % (single * 1e3, rows * 1e3))
    assert rows < 20 * single + 0.02


def timed(time, function, *arguments):
    began = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - began


def test_the_kept_embedding_follows_text_and_options(db):
    texts = ["a cat", "a dog", "a cat", "", "a dog"]
    options = ["{}", '{"threads":1}', None]
    db.execute("CREATE TABLE t(x, o)")
    for text in texts:
        for o in options:
            db.execute("INSERT INTO t VALUES(?, ?)", (text, o))
    for text, code in db.execute("SELECT x, bitlm_embed(x, o) FROM t"):
        assert code == one(db, "SELECT bitlm_embed(?)", text)
