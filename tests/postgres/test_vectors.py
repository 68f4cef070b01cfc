"""Quantized vectors and the memory planner in PostgreSQL: SQLite's bytes and numbers for the same input."""

import array
import json
import random
import struct

import pytest

SEED = 20250301
SCHEMES = ["int8", "int8_asymmetric", "int4", "ternary", "twn", "binary", "binary_mean", "threshold"]
TENSOR_TYPES = ["f16", "bf16", "q8_0", "q4_0", "q4_1", "q4_k", "q6_k", "tq1_0", "tq2_0", "q1_0", "q2_0"]
OPTIONS = [{}, {"group": 32}, {"group": 5}, {"rounding": "stochastic", "seed": 7}, {"threshold": 0.25},
           {"group": 64, "rounding": "stochastic", "seed": -1}, {"hadamard": 64}, {"rounding": "feedback"}]


def vector(rng, n):
    return array.array("f", [rng.gauss(0, 1) * rng.choice([0, 1e-3, 1, 40]) for _ in range(n)])


def literal(values):
    """As a real[]: ARRAY[-0.0] would be numeric and lose the sign."""
    return "{" + ",".join(map(repr, values)) + "}"


def named(options):
    return "".join(f', "{name}" => %s' for name in options)


@pytest.mark.parametrize("scheme", SCHEMES + TENSOR_TYPES)
def test_same_bytes_as_sqlite(db, lite, scheme):
    rng = random.Random(SEED)
    lengths = [256, 1024] if scheme in TENSOR_TYPES else [1, 7, 384, 1000]
    for n in lengths:
        values = vector(rng, n)
        for options in OPTIONS if scheme in SCHEMES else [{}]:
            both = (values.tobytes(), scheme, json.dumps(options))
            try:
                expected = lite.execute("SELECT bitlm_quantize(?, ?, ?)", both).fetchone()[0]
            except Exception as error:  # pylint: disable=broad-except
                # What SQLite refuses (stochastic rounding of some schemes) is refused here, in the same words.
                code, message = db.state(f"SELECT bitlm_quantize(%s::bytea, %s{named(options)})", values.tobytes(), scheme,
                                         *options.values())
                assert code == "22023" and str(error).split(": ", 1)[1] in message, (error, message)
                continue
            arguments = [literal(values), scheme, *options.values()]
            packed = [values.tobytes(), *arguments[1:]]
            assert bytes(db.one(f"SELECT bitlm_quantize(%s::real[], %s{named(options)})", *arguments)) == expected
            assert bytes(db.one(f"SELECT bitlm_quantize(%s::bytea, %s{named(options)})", *packed)) == expected
            back = lite.execute("SELECT bitlm_dequantize(?)", (expected,)).fetchone()[0]
            assert struct.pack(f"<{n}f", *db.one("SELECT bitlm_dequantize(%s)", expected)) == back
            report = json.loads(lite.execute("SELECT bitlm_quantize_error(?, ?, ?)", both).fetchone()[0])
            assert db.one(f"SELECT bitlm_quantize_error(%s::real[], %s{named(options)})", *arguments) == report
            assert db.one(f"SELECT bitlm_quantize_error(%s::bytea, %s{named(options)})", *packed) == report


def test_arguments(db):
    assert db.one("SELECT bitlm_quantize(NULL::real[], 'int8')") is None
    assert db.one("SELECT bitlm_quantize('{1,2}'::real[], NULL)") is None
    assert db.one("SELECT bitlm_dequantize(NULL)") is None
    assert db.one("SELECT bitlm_dequantize(bitlm_quantize(ARRAY[-1.5, 0, 1.5], 'int8'))") == [-1.5, 0, 1.5]
    for sql, state, word in [
            ("SELECT bitlm_quantize('{1,2}'::real[], 'int9')", "22023", "int9"),
            ("SELECT bitlm_quantize('{}'::real[], 'int8')", "22023", ""),
            ("SELECT bitlm_quantize('{1,NULL}'::real[], 'int8')", "22004", "null"),
            ("SELECT bitlm_quantize('{1,NaN}'::real[], 'int8')", "22023", ""),
            ("SELECT bitlm_quantize('{1,2}'::real[], 'q8_0')", "22023", ""),
            ("SELECT bitlm_quantize('\\x010203'::bytea, 'int8')", "22023", "3 bytes"),
            ("SELECT bitlm_quantize('{1,2}'::real[], 'int8', \"group\" => -1)", "22023", "group"),
            ("SELECT bitlm_quantize('{1,2}'::real[], 'int8', rounding => 'up')", "22023", "rounding"),
            ("SELECT bitlm_dequantize('\\x00'::bytea)", "22023", ""),
            ("SELECT bitlm_quantize_error('{1,2}'::real[], 'none')", "22023", "none")]:
        code, message = db.state(sql)
        assert code == state and word in message, (sql, code, message)
    assert db.one("SELECT bitlm_quantize('{1,NaN}'::real[], 'int8', on_error => 'null')") is None


def test_damaged_vectors(db):
    """Every cut and many changes: an error that names the function, or a vector; the backend lives."""
    rng = random.Random(SEED + 1)
    whole = bytes(db.one("SELECT bitlm_quantize(%s::real[], 'ternary', \"group\" => 16)", literal(vector(rng, 100))))
    damaged = [whole[:n] for n in range(len(whole))]
    for _ in range(400):
        other = bytearray(whole)
        other[rng.randrange(len(other))] = rng.randrange(256)
        damaged.append(bytes(other))
    db.rows("CREATE FUNCTION pg_temp.attempt(data bytea) RETURNS text LANGUAGE plpgsql AS "
            "$$BEGIN RETURN array_length(bitlm_dequantize(data), 1); EXCEPTION WHEN OTHERS THEN RETURN SQLSTATE; END$$")
    answers = {text for (text,) in db.rows("SELECT pg_temp.attempt(d) FROM unnest(%s::bytea[]) d", damaged)}
    assert answers == {"22023", "0A000", "100"}  # 0A000: of another version


def test_columns_of_quantized_vectors(db):
    """IMMUTABLE: a generated column keeps the small form beside nothing else."""
    db.rows("CREATE TEMP TABLE small(body text, v real[] GENERATED ALWAYS AS (bitlm_embed_f32(body)) STORED,"
            "q bytea GENERATED ALWAYS AS (bitlm_quantize(bitlm_embed_f32(body), 'int8', \"group\" => 64)) STORED)")
    db.rows("INSERT INTO small SELECT 'note ' || g FROM generate_series(1, 20) g")
    assert db.one("SELECT min(bitlm_cosine(v, bitlm_dequantize(q))) FROM small") > 0.999
    assert db.one("SELECT count(*) FROM small WHERE v <> bitlm_embed_f32(body, 'embed')") == 0


@pytest.mark.parametrize("options", [{}, {"model": "embed"}, {"n_ctx": 128}, {"n_ctx": 256, "kv_type": "int8"},
                                     {"model": "story", "kv_type": "int4", "rows": 4, "threads": 2}])
def test_same_memory_as_sqlite(db, lite, options):
    expected = json.loads(lite.execute("SELECT bitlm_memory(?)", (json.dumps({"threads": 1, **options}),)).fetchone()[0])
    assert db.one(f"SELECT bitlm_memory({named(options)[2:]})", *options.values()) == expected
    assert expected["kv_bytes"] > 0


@pytest.mark.parametrize("shape", ["7b", '{"shape":"tiny","type":"q8_0"}', '{"parameters":7e9}', '{"rows":10000,"dims":300}'])
def test_same_memory_of_a_shape_as_sqlite(db, lite, shape):
    expected = json.loads(lite.execute("SELECT bitlm_memory(?, ?)", (shape, '{"threads":1,"n_ctx":256}')).fetchone()[0])
    assert db.one("SELECT bitlm_memory(shape => %s, n_ctx => 256, threads => 1)", shape) == expected


@pytest.mark.parametrize("arguments, words", [("shape => '8b'", "is no shape"), ("'embed', shape => '7b'", "not both")])
def test_memory_of_a_shape_refuses(db, arguments, words):
    with pytest.raises(Exception, match=words):
        db.one(f"SELECT bitlm_memory({arguments})")
