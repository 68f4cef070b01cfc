"""Constrained answers in SQL: choices, json_schema and bitlm_classify.

Every object is validated by Debian's jsonschema, an independent reading of the schema.
"""
import json
import random
import sqlite3

import jsonschema
import pytest

from conftest import one

WORDS = ["name", "age", "größe", "a \"b\"", "x\\y", "日本", "price", "ok", "kind", "note"]


def random_property(r):
    kind = r.randrange(8)
    if kind == 0:
        least = r.randrange(4)
        return {"type": "string", "minLength": least, "maxLength": least + r.randrange(12)}
    if kind == 1:
        return {"type": "string", "description": "free text"}
    if kind == 2:
        least = r.choice([-10 ** 9, -120, -1, 0, 1, 7, 95, 1000])
        return {"type": "integer", "minimum": least, "maximum": least + r.choice([0, 1, 9, 250, 10 ** 7])}
    if kind == 3:
        return {"type": r.choice(["integer", "number"])}
    if kind == 4:
        return {"type": "boolean"}
    if kind == 5:
        return {"enum": r.sample(["red", "reddish", "blau", 1, 12, 1.5, None, True, "é\n"], r.randrange(1, 6))}
    if kind == 6:
        return {"const": r.choice(["fixed", 42, False])}
    return {"type": r.sample(["string", "number", "boolean", "null"], r.randrange(1, 4))}


def random_schema(r):
    names = r.sample(WORDS, r.randrange(0, 6))
    schema = {"type": "object", "properties": {name: random_property(r) for name in names}}
    if r.random() < 0.5:
        schema["required"] = r.sample(names, r.randrange(len(names) + 1))
    if r.random() < 0.3:
        schema["additionalProperties"] = False
    return schema


def test_any_schema_any_seed_is_an_object_of_the_schema(db):
    shortened = 0
    for seed in range(150):
        r = random.Random(seed)
        schema = random_schema(r)
        options = {"json_schema": schema, "seed": seed, "temperature": r.choice([0, 0.7, 2, 8]), "top_p": 1,
                   "max_tokens": r.choice([90, 140, 300])}
        text = one(db, "SELECT bitlm_generate(?, ?)", r.choice(["The girl said:", "Once", ""]), json.dumps(options))
        value = json.loads(text)
        jsonschema.validate(value, schema)
        expected = set(schema.get("required", schema["properties"]))
        assert expected <= set(value) <= set(schema["properties"])
        assert list(value) == [name for name in schema["properties"] if name in value]
        shortened += len(value) < len(schema["properties"])
    assert shortened > 10


def test_a_random_model_obeys_too(tiny):
    schema = {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer"}, "c": {"enum": ["x", "y"]}}}
    for seed in range(40):
        options = {"model": "tiny", "json_schema": schema, "seed": seed, "max_tokens": 60, "ignore_eos": True}
        try:
            text = one(tiny, "SELECT bitlm_generate('x', ?)", json.dumps(options))
        except sqlite3.OperationalError as error:
            assert "vocabulary" in str(error)  # a file without a vocabulary cannot spell anything
            return
        jsonschema.validate(json.loads(text), schema)


def test_the_schema_may_be_text_and_json_functions_read_the_answer(db):
    schema = '{"type":"object","properties":{"n":{"type":"integer","minimum":1,"maximum":3}}}'
    for form in (schema, json.loads(schema)):
        options = json.dumps({"json_schema": form})
        assert one(db, "SELECT json_extract(bitlm_generate('He had', ?), '$.n') BETWEEN 1 AND 3", options) == 1


def test_choices_in_every_way_to_generate(db):
    options = json.dumps({"choices": ["red", "green"], "temperature": 3})
    assert one(db, "SELECT bitlm_generate('The apple is', ?)", options) in ("red", "green")
    pieces = db.execute("SELECT piece FROM bitlm_stream('The apple is', ?)", (options,)).fetchall()
    assert "".join(p for p, in pieces) in ("red", "green")


def test_classify_by_likeness_and_by_words(db):
    labels = json.dumps(["sport", "politics", "cooking"])
    for text, best in (("The striker scored twice in the second half", "sport"),
                       ("Add two eggs and a cup of flour, then stir", "cooking"),
                       ("The parliament passed the new tax law", "politics")):
        result = json.loads(one(db, "SELECT bitlm_classify(?, ?)", text, labels))
        assert list(result)[0] == best and set(result) == {"sport", "politics", "cooking"}
        assert abs(sum(result.values()) - 1) < 1e-4
        assert list(result.values()) == sorted(result.values(), reverse=True)
        assert one(db, "SELECT key FROM json_each(bitlm_classify(?, ?)) LIMIT 1", text, labels) == best
    result = json.loads(one(db, "SELECT bitlm_classify('The king rode away', ?, '{\"model\":\"story\"}')", labels))
    assert abs(sum(result.values()) - 1) < 1e-4 and len(result) == 3
    assert one(db, "SELECT bitlm_classify('x', '[\"only\"]')") == '{"only":1.0}'


def test_classify_null_and_bad_input(db):
    assert one(db, "SELECT bitlm_classify(NULL, '[\"a\"]')") is None
    assert one(db, "SELECT bitlm_classify('a', NULL)") is None
    for labels, says in (("[]", "at least one"), ("{}", "array"), ("[1]", "text"), ("a", "not valid JSON"),
                         ('["a","a"]', "twice"), ('[""]', "0 bytes")):
        with pytest.raises(sqlite3.OperationalError, match=says):
            db.execute("SELECT bitlm_classify('text', ?)", (labels,)).fetchall()
    with pytest.raises(sqlite3.OperationalError, match="unknown option"):
        db.execute("SELECT bitlm_classify('text', '[\"a\"]', '{\"colour\":1}')").fetchall()
    long = "word " * 5000
    with pytest.raises(sqlite3.DatabaseError):
        db.execute("SELECT bitlm_classify(?, '[\"a\"]')", (long,)).fetchall()
    assert one(db, "SELECT bitlm_classify(?, '[\"a\"]', '{\"on_error\":\"null\"}')", long) is None
    assert one(db, "SELECT bitlm_classify(?, '[\"a\",\"b\"]', '{\"truncate\":\"end\"}')", long) is not None


def test_a_chat_template_may_be_chosen(db):
    chat = '[{"role":"user","content":"Tell me of a king"}]'
    texts = {one(db, "SELECT bitlm_chat(?, ?)", chat, json.dumps({"chat_template": name, "max_tokens": 20}))
             for name in ("llama3", "chatml", "bitnet-2b4t", "phi3", "falcon3", "zephyr", "llama2")}
    assert len(texts) > 3 and all(texts)
    with pytest.raises(sqlite3.OperationalError, match="must be one of auto"):
        db.execute("SELECT bitlm_chat(?, '{\"chat_template\":\"jinja\"}')", (chat,)).fetchall()
    with pytest.raises(sqlite3.OperationalError, match="no chat template"):
        db.execute("SELECT bitlm_chat(?)", (chat,)).fetchall()
