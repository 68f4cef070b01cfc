"""bitlm.quantize_vector and its kin: the bytes of SQL, and of the golden cases that NumPy made."""
import array
import json
import pathlib
import sqlite3

import pytest

import bitlm

CASES = json.loads((pathlib.Path(__file__).parents[1] / "data" / "quant" / "vectors.json").read_text())


def test_golden_bytes():
    for case in CASES:
        blob = bitlm.quantize_vector(bytes.fromhex(case["values"]), case["scheme"], **case["options"])
        assert blob.hex() == case["blob"], (case["scheme"], case["options"])


def test_the_same_as_sql():
    db = sqlite3.connect(":memory:")
    bitlm.load_sqlite(db)
    values = array.array("f", [0.5, -1.25, 3.0, 0.0] * 64)
    for scheme, options in [("int8", {}), ("twn", {"group": 32}), ("q4_k", {}), ("ternary", {"rounding": "stochastic", "seed": 9}),
                            ("int4", {"hadamard": 64, "rounding": "feedback"}), ("threshold", {"threshold": 0.25})]:
        blob = bitlm.quantize_vector(values, scheme, **options)
        said = db.execute("SELECT bitlm_quantize(?1, ?2, ?3), bitlm_quantize_error(?1, ?2, ?3)",
                          (values.tobytes(), scheme, json.dumps(options))).fetchone()
        assert said == (blob, said[1]) and json.loads(said[1]) == bitlm.quantize_error(values, scheme, **options)
        back = bitlm.dequantize_vector(blob)
        assert back.shape == (1, 256)
        assert bytes(back) == db.execute("SELECT bitlm_dequantize(?)", (blob,)).fetchone()[0]


@pytest.mark.parametrize("call, words", [
    (lambda: bitlm.quantize_vector(array.array("f", [1.0]), "int3"), "no scheme 'int3'"),
    (lambda: bitlm.quantize_vector(array.array("f", [float("nan")]), "int8"), "not finite"),
    (lambda: bitlm.quantize_vector(array.array("f", [1.0]), "int8", groups=3), "unknown option 'groups'"),
    (lambda: bitlm.quantize_vector(array.array("f", [1.0] * 3), "int8", hadamard=2), "no multiple of hadamard"),
    (lambda: bitlm.quantize_vector(b"", "int8"), "0 values"),
    (lambda: bitlm.dequantize_vector(b"bLqv"), "no quantized vector"),
])
def test_refusals(call, words):
    with pytest.raises(ValueError, match=words):
        call()
