"""quantize, dequantize, pack, unpack: against the layouts as docs/FORMATS.md gives them, written out here."""

import array
import random
import struct

import pytest

import bitlm

SEED = 99


def test_tq2_0_by_hand():
    rng = random.Random(SEED)
    trits = [rng.choice((-1, 0, 1)) for _ in range(256)]
    expected = bytearray()
    for half in (0, 128):
        for m in range(32):
            expected.append(sum((trits[half + lane * 32 + m] + 1) << 2 * lane for lane in range(4)))
    expected += struct.pack("<e", 0.5)
    packed = bitlm.pack(array.array("b", trits), "TQ2_0", 0.5)
    assert packed == bytes(expected)
    assert list(memoryview(bitlm.unpack(packed, "tq2_0", 1, 256)).cast("b")) == trits
    values = bitlm.dequantize(packed, "TQ2_0", 1, 256)
    assert values.tolist()[0] == [t * 0.5 for t in trits]
    assert bitlm.quantize(values, "TQ2_0") == packed


@pytest.mark.parametrize("scheme", ["TQ1_0", "TQ2_0", "I2_S"])
def test_trits_come_back(scheme):
    rng = random.Random(SEED)
    trits = array.array("b", [rng.choice((-1, 0, 1)) for _ in range(4 * 512)])
    packed = bitlm.pack(memoryview(trits).cast("B").cast("B", (4, 512)), scheme, 2.0)
    assert bitlm.unpack(packed, scheme, 4, 512) == trits.tobytes()
    assert bitlm.dequantize(packed, scheme, 4, 512).tolist() == [
        [2.0 * t for t in trits[r * 512:(r + 1) * 512]] for r in range(4)]


def test_floats():
    values = array.array("f", [1.5, -2.25, 0.0, 1e-3] * 64)
    for scheme, code in (("F32", "f"), ("F16", "e")):
        data = bitlm.quantize(values, scheme)
        assert data == struct.pack(f"<256{code}", *values)
        assert bitlm.dequantize(data, scheme, 1, 256).tolist()[0] == list(struct.unpack(f"<256{code}", data))
    back = bitlm.dequantize(bitlm.quantize(values, "Q8_0"), "Q8_0", 1, 256).tolist()[0]
    assert max(abs(a - b) for a, b in zip(back, values)) <= 2.25 / 127 * 0.51


@pytest.mark.parametrize("call, kind, words", [
    (lambda: bitlm.quantize(array.array("f", [1] * 8), "nope"), ValueError, "nope"),
    (lambda: bitlm.quantize(array.array("f", [1] * 256), "PTQ1_0"), NotImplementedError, "PTQ1_0"),
    (lambda: bitlm.quantize(array.array("f", [1] * 100), "TQ2_0"), ValueError, "100"),
    (lambda: bitlm.quantize(array.array("f", [float("nan")] * 256), "TQ2_0"), ValueError, "finite"),
    (lambda: bitlm.quantize(array.array("d", [1] * 256), "TQ2_0"), TypeError, "'d'"),
    (lambda: bitlm.pack(bytes([2] * 256), "TQ2_0"), ValueError, "2, but a trit"),
    (lambda: bitlm.pack(bytes(256), "Q8_0"), NotImplementedError, "Q8_0"),
    (lambda: bitlm.unpack(bytes(65), "TQ2_0", 1, 256), ValueError, "65 bytes"),
    (lambda: bitlm.unpack(bytes(1024), "F32", 1, 256), NotImplementedError, "F32"),
    (lambda: bitlm.dequantize(b"", "TQ2_0", 1, 2**62), ValueError, "not possible"),
    (lambda: bitlm.dequantize(b"", "TQ2_0", 0, 256), ValueError, "not possible"),
])
def test_bad_input(call, kind, words):
    with pytest.raises(kind, match=words):
        call()
