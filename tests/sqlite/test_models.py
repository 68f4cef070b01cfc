"""Loading, replacing and unloading models, and what keeps them alive."""

import gc
import json
import os
import shutil
import sqlite3
import threading

import pytest

from conftest import EXTENSION, connect, one

OPTIONS = '{"model":"tiny","temperature":0,"max_tokens":6,"ignore_eos":true}'


def generate(db, options=OPTIONS):
    return one(db, "SELECT bitlm_generate('x', ?)", options)


def test_load_use_unload(db, tiny_path):
    assert one(db, "SELECT bitlm_load('tiny', ?)", tiny_path) == "tiny"
    assert generate(db) == generate(db)
    assert one(db, "SELECT bitlm_unload('tiny')") == "tiny"
    with pytest.raises(sqlite3.OperationalError, match="no model is named 'tiny'"):
        generate(db)
    with pytest.raises(sqlite3.OperationalError, match="no model is named 'tiny'"):
        one(db, "SELECT bitlm_unload('tiny')")
    assert one(db, "SELECT bitlm_load('tiny', ?)", tiny_path) == "tiny"
    generate(db)


def test_each_way_of_loading_gives_the_same(db, tiny_path):
    texts, ids = set(), set()
    for load in ("auto", "mmap", "copy"):
        one(db, "SELECT bitlm_load('tiny', ?, json_object('load', ?))", tiny_path, load)
        texts.add(generate(db))
        ids.add(one(db, "SELECT bitlm_model_id('tiny')"))
    assert len(texts) == 1 and len(ids) == 1


def test_a_name_may_change_its_model(db, tiny_path):
    one(db, "SELECT bitlm_load('m', ?)", tiny_path)
    first = one(db, "SELECT bitlm_model_id('m')")
    one(db, "SELECT bitlm_load('m', ?, '{\"hidden_act\":\"silu\"}')", tiny_path)
    assert one(db, "SELECT count(*) FROM bitlm_models WHERE name='m'") == 1
    assert one(db, "SELECT bitlm_model_id('m')") != first


def test_a_failed_load_keeps_the_old_model(tiny, tmp_path):
    before = generate(tiny)
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF nonsense")
    with pytest.raises(sqlite3.OperationalError):
        one(tiny, "SELECT bitlm_load('tiny', ?)", str(bad))
    assert generate(tiny) == before


def test_unload_while_a_stream_runs(tiny):
    want = generate(tiny)
    cursor = tiny.execute("SELECT piece FROM bitlm_stream('x', ?)", (OPTIONS,))
    text = cursor.fetchone()[0]
    one(tiny, "SELECT bitlm_unload('tiny')")
    assert text + "".join(r[0] for r in cursor) == want


def test_unload_inside_the_stream_that_uses_it(tiny):
    want = generate(tiny)
    rows = tiny.execute("""SELECT piece, CASE n WHEN 2 THEN bitlm_unload('tiny') END
                           FROM bitlm_stream('x', ?)""", (OPTIONS,)).fetchall()
    assert "".join(r[0] for r in rows) == want
    assert one(tiny, "SELECT count(*) FROM bitlm_models") == 2


def test_a_kept_embedding_does_not_outlive_its_model(db, tiny_path):
    """The name is bound again in the middle of a statement."""
    sql = """SELECT bitlm_token_count('a b', '{"model":"m"}'), CASE n WHEN 2 THEN bitlm_unload('m') END
             FROM (SELECT 1 AS n UNION ALL SELECT 2 UNION ALL SELECT 3)"""
    one(db, "SELECT bitlm_load('m', ?)", tiny_path)
    with pytest.raises(sqlite3.OperationalError, match="no model is named 'm'"):
        db.execute(sql).fetchall()


def test_names_belong_to_their_connection(tiny, tiny_path):
    other = connect()
    with pytest.raises(sqlite3.OperationalError, match="no model is named 'tiny'"):
        generate(other)
    one(other, "SELECT bitlm_load('tiny', ?)", tiny_path)
    assert generate(other) == generate(tiny)
    tiny.execute("SELECT bitlm_unload('tiny')").fetchall()
    generate(other)
    other.close()


def test_a_shared_model_outlives_the_connection_that_opened_it(tiny_path):
    first, second = connect(), connect()
    one(first, "SELECT bitlm_load('tiny', ?)", tiny_path)
    one(second, "SELECT bitlm_load('tiny', ?)", tiny_path)
    want = generate(first)
    first.close()
    del first
    gc.collect()
    assert generate(second) == want
    assert one(second, "SELECT bitlm_model_id('tiny')")
    second.close()


def test_close_with_an_open_statement(tiny_path):
    """Python closes with sqlite3_close_v2: the statement lives on for a while."""
    connection = connect()
    one(connection, "SELECT bitlm_load('tiny', ?)", tiny_path)
    cursor = connection.execute("SELECT piece FROM bitlm_stream('x', ?)", (OPTIONS,))
    cursor.fetchone()
    connection.close()
    del cursor, connection
    gc.collect()


def test_many_connections(tiny_path):
    for _ in range(30):
        connection = connect()
        one(connection, "SELECT bitlm_load('tiny', ?)", tiny_path)
        connection.execute("SELECT piece FROM bitlm_stream('x', ?)", (OPTIONS,)).fetchone()
        connection.close()
    gc.collect()
    maps = open("/proc/self/maps").read()
    assert maps.count("tiny.gguf") <= 2  # at most what this process keeps for others


def test_loading_the_extension_again_begins_anew(tiny):
    tiny.enable_load_extension(True)
    tiny.load_extension(EXTENSION)
    assert one(tiny, "SELECT count(*) FROM bitlm_models") == 2
    assert one(tiny, "SELECT bitlm_embed('x')")


def test_sessions_of_many_shapes(tiny):
    """More shapes than are kept idle, in turn."""
    texts = {generate(tiny, OPTIONS.replace("{", '{"n_ctx":%d,"kv_type":"%s",' % (64 + 16 * i, kv), 1))
             for i in range(8) for kv in ("f16", "f16")}
    assert len(texts) == 1
    generate(tiny, OPTIONS.replace("{", '{"kv_type":"f32",', 1))


@pytest.mark.parametrize("threads", [1, 2])
def test_connections_in_threads(tiny_path, threads):
    """Two connections, each in its own thread, at once; and the same text from both."""
    results, errors = {}, []
    options = OPTIONS.replace("{", '{"threads":%d,' % threads, 1)

    def run(key):
        try:
            connection = connect()
            one(connection, "SELECT bitlm_load('tiny', ?)", tiny_path)
            results[key] = [(generate(connection, options), one(connection, "SELECT bitlm_embed('x')"))
                            for _ in range(8)]
            connection.close()
        except Exception as error:  # noqa: BLE001, a thread's exception must reach the test
            errors.append(error)

    workers = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not errors
    assert len({r for result in results.values() for r in result}) == 1


def test_one_connection_passed_between_threads(tiny_path):
    connection = connect(check_same_thread=False)
    one(connection, "SELECT bitlm_load('tiny', ?)", tiny_path)
    want, got = generate(connection), []
    for _ in range(4):
        worker = threading.Thread(target=lambda: got.append(generate(connection)))
        worker.start()
        worker.join()
    assert got == [want] * 4
    connection.close()


def test_after_a_fork(tiny):
    want = generate(tiny)
    pid = os.fork()
    if pid == 0:
        try:
            child = connect()
            os._exit(0 if one(child, "SELECT length(bitlm_embed('x', '{\"threads\":2}'))") == 48 else 1)
        finally:
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
    assert generate(tiny) == want


def test_a_replaced_file_does_not_disturb(tiny, tiny_path, tmp_path):
    copy = str(tmp_path / "copy.gguf")
    shutil.copy(tiny_path, copy)
    one(tiny, "SELECT bitlm_load('copy', ?)", copy)
    want = generate(tiny)
    os.unlink(copy)
    assert generate(tiny, OPTIONS.replace("tiny", "copy")) == want


def shape(db, what, options="{}"):
    return json.loads(one(db, "SELECT bitlm_memory(?, ?)", what if isinstance(what, str) else json.dumps(what), options))


@pytest.mark.parametrize("what, expected", [
    ({"rows": 10000, "dims": 300}, {"float_bits": 96_000_000, "binary_bits": 3_000_000}),
    ({"parameters": 7e9}, {"float_bytes": 28_000_000_000, "binary_bytes": 875_000_000}),
    ({"parameters": 1_000_000_000}, {"float_bytes": 4_000_000_000, "binary_bytes": 125_000_000}),
    ({"parameters": 11}, {"int8_bytes": 11, "int4_bytes": 6, "ternary_bytes": 3, "binary_bytes": 2}),
])
def test_memory_of_numbers(db, what, expected):
    """What people write about 1-bit models."""
    got = shape(db, what)
    assert {k: got[k] for k in expected} == expected
    if what == {"parameters": 7e9}:
        assert round(got["float_bytes"] / 2 ** 30, 2) == 26.08 and round(got["binary_bytes"] / 2 ** 30, 3) == 0.815


def test_shortlist(tiny):
    """The head's shortlist changes no text, and the plan counts it."""
    for options in ({"temperature": 0}, {"top_k": 5, "seed": 4}, {"temperature": 1, "top_p": 1}, {}):
        for model in ("tiny", "story"):
            texts = {one(tiny, "SELECT bitlm_generate('Once upon', ?)",
                         json.dumps({"model": model, "max_tokens": 10, "head": head, **options})) for head in ("full", "shortlist")}
            assert len(texts) == 1
    plan = [json.loads(one(tiny, "SELECT bitlm_memory(?)", json.dumps({"model": "tiny", "head": head}))) for head in ("full", "shortlist")]
    assert plan[0]["shortlist_bytes"] == 0 < plan[1]["shortlist_bytes"]
    assert plan[1]["total_bytes"] == sum(plan[1][p] for p in ("file_bytes", "kv_bytes", "scratch_bytes", "shortlist_bytes"))
    assert shape(tiny, "tiny", '{"head":"shortlist"}')["shortlist_bytes"] == plan[1]["shortlist_bytes"]


def test_memory_of_a_shape(tiny):
    """The plan of a shape is that of a file of the shape, part by part; sizes by hand."""
    options = '{"n_ctx":256,"kv_type":"int8","threads":2}'
    file = json.loads(one(tiny, "SELECT bitlm_memory(?)", options[:-1] + ',"model":"tiny"}'))
    plan = shape(tiny, "tiny", options)
    for part in ("n_parameters", "layer_bytes", "low_bit_bytes", "embedding_bytes", "head_bytes", "norm_bytes", "n_ctx",
                 "kv_positions", "kv_bytes", "scratch_bytes"):
        assert plan[part] == file[part], part
    assert plan["file_bytes"] < file["file_bytes"] < plan["file_bytes"] + 100_000  # its vocabulary and keys
    big = shape(tiny, {"shape": "7b", "tied": False, "sub_norms": False, "type": "q8_0", "embedding_type": "f32"})
    assert big["layer_bytes"] == 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 11008) // 32 * 34
    assert big["head_bytes"] == big["embedding_bytes"] == 4 * 4096 * 32000
    assert big["norm_bytes"] == 4 * 4096 * (2 * 32 + 1) and big["low_bit_bytes"] == 0
    assert big["total_bytes"] == big["file_bytes"] + big["kv_bytes"] + big["scratch_bytes"]


@pytest.mark.parametrize("what, words", [
    ("8b", "is no shape"), ("[1]", "is no shape"), ({"hidden": 0}, "hidden of a shape must be a whole number"),
    ({"hidden": 1.5}, "whole number"), ({"colour": 1}, "a shape has no 'colour'"), ({"hidden": 64}, "a shape needs"),
    ({"parameters": 1e300}, "whole number"), ({"rows": 2 ** 53, "dims": 2 ** 20}, "more than 2^53"), ({"rows": 5}, "rows and dims"),
    ({"parameters": 5, "hidden": 3}, "parameters alone"), ({"shape": "tiny", "type": "q9"}, "tensor type"),
    ({"shape": "tiny", "tied": 1}, "true or false"), ({"shape": "tiny", "hidden": 200, "heads": 4}, "do not fit I2_S"),
    ({"shape": "tiny", "heads": 3}, "a shape needs"), ("moe-tiny", "experts"),
])
def test_memory_refuses(db, what, words):
    with pytest.raises(sqlite3.Error, match=words.replace("^", "\\^")):
        shape(db, what)


def test_memory(tiny):
    parts = json.loads(one(tiny, "SELECT bitlm_memory()"))
    assert parts["kv_bytes"] == 2 * 6 * 512 * 256 * 2 and parts["n_ctx"] == 512
    assert parts["total_bytes"] == parts["file_bytes"] + parts["kv_bytes"] + parts["scratch_bytes"]
    named = one(tiny, "SELECT bitlm_memory('{\"model\":\"tiny\", \"n_ctx\":64}') ->> 'file_bytes'")
    assert named == one(tiny, "SELECT bytes FROM bitlm_models WHERE name = 'tiny'")
    assert one(tiny, "SELECT bitlm_memory(NULL)") is None
    with pytest.raises(sqlite3.DataError, match="context has 512 tokens"):
        one(tiny, "SELECT bitlm_memory('{\"n_ctx\":9999}')")
    with pytest.raises(sqlite3.OperationalError, match="unknown option 'kv'"):
        one(tiny, "SELECT bitlm_memory('{\"kv\":1}')")
