"""bitlm_quantize, bitlm_dequantize, bitlm_quantize_error against formulas written out here in float64."""

import array
import json
import math
import pathlib
import random
import sqlite3
import struct
import threading

import pytest

from conftest import one

SCALAR = ["int8", "int8_asymmetric", "int4", "ternary", "twn", "binary", "binary_mean", "threshold"]


def f32(values):
    return array.array("f", values).tobytes()


def floats(blob):
    return list(array.array("f", blob))


def normal(n, seed=1):
    draw = random.Random(seed)
    return floats(f32(draw.gauss(0.1, 1.0) for _ in range(n)))


def sign(x):
    return (x > 0) - (x < 0)


def clip(x, low, high):
    return max(low, min(high, x))


def expected(scheme, x, threshold=0.0):
    mean = sum(map(abs, x)) / len(x)
    if scheme == "int8":
        s = max(map(abs, x)) / 127
        return [s * clip(round(v / s), -127, 127) for v in x]
    if scheme == "int8_asymmetric":
        low, high = min(0, *x), max(0, *x)
        s = (high - low) / 255
        z = clip(round(-128 - low / s), -128, 127)
        return [s * (clip(round(v / s) + z, -128, 127) - z) for v in x]
    if scheme == "int4":
        s = (mean + 1e-5) / math.sqrt(7)
        return [s * clip(round(v / s), -8, 7) for v in x]
    if scheme == "ternary":
        s = max(mean, 1e-5)
        return [s * clip(round(v / s), -1, 1) for v in x]
    if scheme == "twn":
        kept = [abs(v) for v in x if abs(v) > 0.7 * mean]
        return [sum(kept) / len(kept) * sign(v) if abs(v) > 0.7 * mean else 0.0 for v in x]
    if scheme == "binary":
        return [mean if v > 0 else -mean for v in x]
    if scheme == "binary_mean":
        middle = sum(x) / len(x)
        return [mean if v > middle else -mean for v in x]
    return [1.0 if v > threshold else 0.0 for v in x]


def dequantized(db, blob, scheme, options="{}"):
    return floats(one(db, "SELECT bitlm_dequantize(bitlm_quantize(?, ?, ?))", blob, scheme, options))


@pytest.mark.parametrize("scheme", SCALAR)
@pytest.mark.parametrize("n, group", [(1, 0), (7, 0), (1000, 0), (1000, 64), (384, 1)])
def test_values(db, scheme, n, group):
    x = normal(n)
    got = dequantized(db, f32(x), scheme, json.dumps({"group": group, "threshold": 0.25}))
    size = group or n
    want = [v for i in range(0, n, size) for v in expected(scheme, x[i:i + size], 0.25)]
    assert got == pytest.approx(want, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("scheme", SCALAR)
def test_extremes(db, scheme):
    for x in ([0.0] * 9, [3e38, -3e38, 1.0], [1e-45, -1e-45], [5.0] * 4, [-5.0] * 4):
        got = dequantized(db, f32(x), scheme)
        assert len(got) == len(x) and all(map(math.isfinite, got))
    if scheme not in ("threshold", "binary_mean"):
        assert [sign(v) for v in dequantized(db, f32([-2.0, 2.0]), scheme)] == [-1, 1]


def test_bytes(db):
    blob = one(db, "SELECT bitlm_quantize(?, 'ternary')", f32([1, -1, 0, 1, 1, -1]))
    assert blob == b"bLqv\x01\x03\0\0" + struct.pack("<IIf", 6, 6, floats(f32([5 / 6]))[0]) + bytes(
        [2 + 0 + 9 * 1 + 27 * 2 + 81 * 2, 0])
    blob = one(db, "SELECT bitlm_quantize(?, 'binary')", f32([1, -1, -1, 1, 1, 1, 1, 1, 1]))
    assert blob[20:] == bytes([0b10011111, 0b10000000])
    blob = one(db, "SELECT bitlm_quantize(?, 'int8_asymmetric')", f32([0, 255]))
    assert blob[16:] == struct.pack("<fi", 1.0, -128) + bytes([0x80, 0x7f])
    for scheme, size in (("int8", 100), ("int4", 50), ("twn", 20), ("binary", 13)):
        assert len(one(db, "SELECT bitlm_quantize(?, ?)", f32(normal(100)), scheme)) == 20 + size


@pytest.mark.parametrize("scheme, most", [("q8_0", 0.01), ("q4_0", 0.2), ("q6_k", 0.05), ("f16", 0.001), ("f32", 0.0)])
def test_tensor_types(db, scheme, most):
    x = normal(512)
    got = dequantized(db, f32(x), scheme)
    assert math.sqrt(sum((a - b) ** 2 for a, b in zip(got, x)) / sum(a * a for a in x)) <= most


@pytest.mark.parametrize("scheme", ["int8", "int8_asymmetric", "int4", "ternary", "binary"])
def test_stochastic_rounding(db, scheme):
    """The mean over seeds is x (inside the range), and a seed gives the same bytes again."""
    x = [0.013, -0.3, 0.21, 0.5, -0.5]
    options = [json.dumps({"rounding": "stochastic", "seed": seed}) for seed in range(2000)]
    rows = [dequantized(db, f32(x), scheme, o) for o in options]
    limit = sum(map(abs, x)) / len(x) if scheme == "ternary" else 1e9
    for i, v in enumerate(x):
        values = [row[i] for row in rows]
        mean = sum(values) / len(values)
        spread = math.sqrt(sum((a - mean) ** 2 for a in values) / len(values) / len(values))
        edge = 1 / 255 if scheme == "int8_asymmetric" else 0  # its zero point is a whole number: the ends are cut by up to s
        assert abs(mean - clip(v, -limit, limit)) < 5 * spread + edge + 1e-6, (scheme, v)
    assert rows[7] == dequantized(db, f32(x), scheme, options[7])
    assert len({tuple(row) for row in rows}) > 1
    # a value's chance is its place's, not the length's
    assert dequantized(db, f32(x[:3] + [0.5]), "int8", options[3])[:3] == dequantized(db, f32(x), "int8", options[3])[:3]


@pytest.mark.parametrize("scheme", ["int8", "int8_asymmetric", "int4", "ternary", "twn", "binary"])
@pytest.mark.parametrize("group", [0, 64])
def test_error_feedback(db, scheme, group):
    """Value by value as the formula says, and the sum of what comes back, plus the last e, is the sum of the values."""
    x = normal(1000)
    options = {"rounding": "feedback", "group": group}
    got = dequantized(db, f32(x), scheme, json.dumps(options))
    report = json.loads(one(db, "SELECT bitlm_quantize_error(?, ?, ?)", f32(x), scheme, json.dumps(options)))
    e, odd = 0.0, 0
    for first in range(0, len(x), group or len(x)):
        part = x[first:first + (group or len(x))]
        mean, low, high = sum(map(abs, part)) / len(part), min(0, *part), max(0, *part)
        kept = [abs(v) for v in part if abs(v) > 0.7 * mean]
        s = {"int8": max(map(abs, part)) / 127, "int8_asymmetric": (high - low) / 255, "int4": (mean + 1e-5) / math.sqrt(7),
             "ternary": max(mean, 1e-5), "twn": sum(kept) / len(kept), "binary": mean}[scheme]
        z = clip(round(-128 - low / s), -128, 127)
        for i, v in enumerate(part, first):
            w = v + e
            wanted = {"int8": lambda: s * clip(round(w / s), -127, 127),
                      "int8_asymmetric": lambda: s * (clip(round(w / s) + z, -128, 127) - z),
                      "int4": lambda: s * clip(round(w / s), -8, 7), "ternary": lambda: s * clip(round(w / s), -1, 1),
                      "twn": lambda: s * sign(w) if abs(w) > 0.7 * mean else 0.0,
                      "binary": lambda: s if w > 0 else -s}[scheme]()
            odd += abs(got[i] - wanted) > 1e-4 * s
            e = w - got[i]
    assert odd <= 2  # a tie may round the other way in float32
    assert sum(x) - sum(got) == pytest.approx(e, abs=1e-9)  # the invariant
    assert report["residual"] == pytest.approx(e, abs=1e-6)
    plain = dequantized(db, f32(x), scheme, json.dumps({"group": group}))
    if scheme not in ("int8", "int8_asymmetric"):  # there both are next to nothing
        assert abs(e) < abs(sum(x) - sum(plain)) / 3


def hadamard(x, block):
    """By the matrix: entry (i, j) has the sign of the parity of i & j."""
    out = []
    for at in range(0, len(x), block):
        for i in range(block):
            out.append(sum(-v if bin(i & j).count("1") % 2 else v for j, v in enumerate(x[at:at + block])) / math.sqrt(block))
    return out


@pytest.mark.parametrize("scheme", SCALAR + ["q8_0"])
@pytest.mark.parametrize("block", [2, 32, 128])
def test_hadamard(db, scheme, block):
    """A quantization of H x, turned back by H."""
    x = normal(256)
    x[17] = 40.0  # an outlier
    got = dequantized(db, f32(x), scheme, json.dumps({"hadamard": block, "group": 0}))
    rotated = hadamard(x, block)
    plain = dequantized(db, f32(rotated), scheme)
    back = hadamard(plain, block)
    worst = max(abs(a - b) for a, b in zip(got, back))
    assert worst < 2e-5 * max(map(abs, x)) or scheme in ("int8", "q8_0") and worst < 0.4  # a tie may round the other way
    blob = one(db, "SELECT bitlm_quantize(?, ?, ?)", f32(x), scheme, json.dumps({"hadamard": block}))
    assert blob[4] == 2 and 1 << blob[6] == block
    assert one(db, "SELECT bitlm_quantize(?, ?, '{\"hadamard\":0}')", f32(x), scheme)[4] == 1


def test_hadamard_spreads_an_outlier(db):
    x = normal(256)
    x[17] = 40.0
    snr = [json.loads(one(db, "SELECT bitlm_quantize_error(?, 'int4', ?)", f32(x), json.dumps({"hadamard": b})))["snr_db"]
           for b in (0, 256)]
    assert snr[1] > snr[0] + 3


def test_golden_bytes(db):
    """Blobs that tests/oracle/make_vector_cases.py computed with NumPy."""
    cases = json.loads((pathlib.Path(__file__).parents[1] / "data" / "quant" / "vectors.json").read_text())
    assert len(cases) > 60
    for case in cases:
        blob = one(db, "SELECT bitlm_quantize(?, ?, ?)", bytes.fromhex(case["values"]), case["scheme"], json.dumps(case["options"]))
        assert blob.hex() == case["blob"], (case["scheme"], case["options"])


def test_interrupt(db):
    """A long vector is given up (the core asks every 32,768 values)."""
    values = bytes(4 * 20_000_000)
    for sql in ("bitlm_quantize(?, 'ternary')", "bitlm_quantize(?, 'q4_k', '{\"hadamard\":256}')",
                "bitlm_dequantize(bitlm_quantize(?, 'int8', '{\"group\":32}'))"):
        over = threading.Event()

        def stop():
            while not over.wait(0.005):  # an interrupt before the statement runs is none
                db.interrupt()

        thread = threading.Thread(target=stop)
        thread.start()
        with pytest.raises(sqlite3.OperationalError, match="interrupted"):
            one(db, "SELECT length(" + sql + ")", values)
        over.set()
        thread.join()
    with pytest.raises(sqlite3.OperationalError, match="timeout_ms"):
        one(db, "SELECT length(bitlm_quantize(?, 'int4', '{\"timeout_ms\":20}'))", values)


def test_report(db):
    x = normal(1000)
    for scheme in ("int8", "ternary", "binary", "q8_0"):
        vector = x[:992]
        got = dequantized(db, f32(vector), scheme)
        report = json.loads(one(db, "SELECT bitlm_quantize_error(?, ?)", f32(vector), scheme))
        errors = [(a - b) ** 2 for a, b in zip(vector, got)]
        squares = sum(a * a for a in vector)
        assert report["n"] == 992 and report["bits_per_value"] == pytest.approx(8 * report["bytes"] / 992, rel=1e-5)
        assert report["mse"] == pytest.approx(sum(errors) / 992, rel=1e-6)
        assert report["max_error"] == pytest.approx(math.sqrt(max(errors)), rel=1e-6)
        assert report["snr_db"] == pytest.approx(10 * math.log10(squares / sum(errors)), abs=1e-3)
        assert report["zeros"] == pytest.approx(got.count(0.0) / 992, abs=1e-5)
        dot = sum(a * b for a, b in zip(vector, got))
        assert report["cosine"] == pytest.approx(dot / math.sqrt(squares * sum(b * b for b in got)), rel=1e-6)
        if scheme == "q8_0":
            assert report["entropy"] is None
        else:
            shares = [got.count(v) / 992 for v in set(got)]
            assert report["entropy"] == pytest.approx(-sum(p * math.log2(p) for p in shares), rel=1e-4)
    exact = json.loads(one(db, "SELECT bitlm_quantize_error(?, 'f32')", f32([1, 2])))
    assert exact["snr_db"] is None and exact["mse"] == 0


@pytest.mark.parametrize("sql, words", [
    ("bitlm_quantize(x'00000000', 'int3')", "no scheme 'int3'"),
    ("bitlm_quantize(x'0000c07f', 'int8')", "value 0 is not finite"),
    ("bitlm_quantize(x'000000', 'int8')", "3 bytes is no list of float32"),
    ("bitlm_quantize(x'', 'int8')", "0 values"),
    ("bitlm_quantize(x'00000000', 'q8_0')", "multiple of its block"),
    ("bitlm_quantize(zeroblob(128), 'q8_0', '{\"group\":4}')", "groups of its own"),
    ("bitlm_quantize(zeroblob(128), 'twn', '{\"rounding\":\"stochastic\"}')", "does not round stochastically"),
    ("bitlm_quantize(zeroblob(4), 'int8', '{\"group\":-1}')", "option group is -1"),
    ("bitlm_quantize(zeroblob(128), 'binary_mean', '{\"rounding\":\"feedback\"}')", "does not feed errors back"),
    ("bitlm_quantize(zeroblob(128), 'q8_0', '{\"rounding\":\"feedback\"}')", "does not feed errors back"),
    ("bitlm_quantize(zeroblob(128), 'int8', '{\"hadamard\":3}')", "power of two"),
    ("bitlm_quantize(zeroblob(128), 'int8', '{\"hadamard\":1}')", "power of two"),
    ("bitlm_quantize(zeroblob(128), 'int8', '{\"hadamard\":64}')", "no multiple of hadamard"),
    ("bitlm_quantize(x'ffff7f7fffff7f7f', 'int8', '{\"hadamard\":2}')", "too large to be rotated"),
    ("bitlm_quantize('text', 'int8')", "must be a BLOB"),
    ("bitlm_dequantize(zeroblob(40))", "no quantized vector"),
    ("bitlm_dequantize(x'')", "no quantized vector"),
])
def test_refusals(db, sql, words):
    with pytest.raises(sqlite3.OperationalError, match=words):
        one(db, "SELECT " + sql)


def test_null(db):
    assert db.execute("SELECT bitlm_quantize(NULL, 'int8'), bitlm_quantize(zeroblob(4), NULL), bitlm_dequantize(NULL),"
                      " bitlm_quantize_error(NULL, 'int8')").fetchone() == (None,) * 4


def test_damaged(db):
    """Every cut and random changes: a sentence or a list of the length that the header names."""
    draw = random.Random(3)
    for scheme in SCALAR + ["q8_0"]:
        blob = one(db, "SELECT bitlm_quantize(?, ?, ?)", f32(normal(64)), scheme, draw.choice(["{}", '{"hadamard":32}']))
        for cut in range(len(blob)):
            with pytest.raises(sqlite3.OperationalError):
                one(db, "SELECT bitlm_dequantize(?)", blob[:cut])
        for _ in range(300):
            bad = bytearray(blob)
            for _ in range(draw.randint(1, 3)):
                bad[draw.randrange(len(bad))] = draw.randrange(256)
            try:
                out = one(db, "SELECT bitlm_dequantize(?)", bytes(bad))
                assert len(out) == 4 * struct.unpack_from("<I", bad, 12)[0]
            except sqlite3.OperationalError as error:
                assert "quantized vector" in str(error)
