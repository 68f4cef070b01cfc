"""Golden blobs of bitlm_quantize, computed with NumPy from the formulas in docs/SQL.md and the layout in docs/FORMATS.md.

    pip install numpy
    python tests/oracle/make_vector_cases.py > tests/data/quant/vectors.json

Nothing of bitlm is called.  Arithmetic is in float32 where the formulas are, sums in float64.
"""
import json
import struct

import numpy as np

f32 = np.float32
M = (1 << 64) - 1
SCHEMES = ["int8", "int8_asymmetric", "int4", "ternary", "twn", "binary", "binary_mean", "threshold"]


def mix(z):
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & M
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & M
    return z ^ z >> 31


def unit(seed, i):
    """Output i of SplitMix64 (Steele, Lea, Flood 2014) that starts at seed, as a number in [0, 1)."""
    return (mix((seed + (i + 1) * 0x9E3779B97F4A7C15) & M) >> 11) * 2.0 ** -53


def group_rule(scheme, x, stochastic):
    mean = f32(np.abs(x.astype(np.float64)).sum() / len(x))
    most = f32(np.abs(x).max())
    zero, limit = 0, f32(0)
    if scheme == "int8":
        scale = most / f32(127)
    elif scheme == "int8_asymmetric":
        low, high = min(f32(0), x.min()), max(f32(0), x.max())
        scale = f32(high / f32(255)) - f32(low / f32(255))
        scale = scale if scale else f32(1)
        zero = int(np.clip(np.rint(f32(f32(-128) - f32(low / scale))), -128, 127))
    elif scheme == "int4":
        scale = f32(mean + f32(1e-5)) / np.sqrt(f32(7))
    elif scheme == "ternary":
        scale = max(mean, f32(1e-5))
    elif scheme == "twn":
        limit = f32(0.7) * mean
        kept = np.abs(x[np.abs(x) > limit]).astype(np.float64)
        scale = f32(kept.sum() / len(kept)) if len(kept) else f32(0)
    elif scheme == "binary":
        scale = most if stochastic else mean
    elif scheme == "binary_mean":
        scale, limit = mean, f32(x.astype(np.float64).sum() / len(x))
    else:
        scale = f32(1)
    return f32(scale), zero, limit


def code(scheme, scale, zero, limit, x, u):
    y = f32(x * (f32(1) / scale if scale > 0 else f32(0)))
    whole = np.rint(y) if u is None else np.floor(y) + (u < float(f32(y - np.floor(y))))
    if scheme == "int8":
        return int(np.clip(whole, -127, 127))
    if scheme == "int8_asymmetric":
        return int(np.clip(whole + zero, -128, 127))
    if scheme == "int4":
        return int(np.clip(whole, -8, 7))
    if scheme == "ternary":
        return int(np.clip(whole, -1, 1)) if u is None else (int(np.sign(x)) if u < float(abs(y)) else 0)
    if scheme == "twn":
        return int(x > limit) - int(x < -limit)
    if scheme == "binary" and u is not None:
        return int(u < (float(y) + 1) / 2)
    return int(x > limit)


def dequantized(scheme, scale, zero, q):
    return f32(f32((2 * q - 1 if scheme.startswith("binary") else q) - zero) * scale)


def rotated(x, block):
    x = x.copy().reshape(-1, block)
    half = 1
    while half < block:
        pairs = x.reshape(len(x), -1, 2, half)
        a, b = pairs[:, :, 0].copy(), pairs[:, :, 1].copy()
        pairs[:, :, 0], pairs[:, :, 1] = a + b, a - b
        half *= 2
    return (x * (f32(1) / np.sqrt(f32(block)))).reshape(-1)


def pack(scheme, codes):
    if scheme.startswith("int8"):
        return bytes(q & 255 for q in codes)
    if scheme == "int4":
        codes = codes + [0] * (len(codes) % 2)
        return bytes((a & 15) | (b & 15) << 4 for a, b in zip(codes[::2], codes[1::2]))
    if scheme in ("ternary", "twn"):
        return bytes(sum((q + 1) * 3 ** j for j, q in enumerate(codes[i:i + 5])) for i in range(0, len(codes), 5))
    return np.packbits(np.array(codes, np.uint8)).tobytes()


def blob(scheme, values, options):
    group = options.get("group") or len(values)
    block = options.get("hadamard", 0)
    rounding, seed = options.get("rounding", "nearest"), options.get("seed", 0)
    x = rotated(values, block) if block else values
    scales, zeros, codes, e = [], [], [], 0.0
    for first in range(0, len(x), group):
        part = x[first:first + group]
        scale, zero, limit = group_rule(scheme, part, rounding == "stochastic")
        if scheme == "threshold":
            limit = f32(options.get("threshold", 0))
        scales.append(scale)
        zeros.append(zero)
        for i, v in enumerate(part, first):
            u = unit(seed, i) if rounding == "stochastic" else None
            wanted = float(v) + e
            q = code(scheme, scale, zero, limit, f32(wanted), u)
            if rounding == "feedback":
                e = wanted - float(dequantized(scheme, scale, zero, q))
            codes.append(q)
    out = b"bLqv" + bytes([2 if block else 1, SCHEMES.index(scheme), block.bit_length() - 1 if block else 0, 0])
    out += struct.pack("<II", group, len(x)) + np.array(scales, "<f4").tobytes()
    if scheme == "int8_asymmetric":
        out += np.array(zeros, "<i4").tobytes()
    return out + pack(scheme, codes)


def main():
    draw = np.random.default_rng(20)
    cases = []
    for scheme in SCHEMES:
        choices = [{}, {"group": 32}, {"group": 10}, {"hadamard": 64}, {"hadamard": 16, "group": 48}, {"threshold": 0.25}]
        if scheme not in ("binary_mean", "threshold"):
            choices += [{"rounding": "feedback"}, {"rounding": "feedback", "group": 32, "hadamard": 32}]
        if scheme not in ("twn", "binary_mean", "threshold"):
            choices += [{"rounding": "stochastic", "seed": 7}, {"rounding": "stochastic", "seed": 2 ** 40 + 1, "group": 24}]
        for options in choices:
            n = 64 if "hadamard" in options else 61
            kinds = [draw.normal(0.1, 1, n), draw.standard_cauchy(n) * 1e3, np.zeros(n), draw.normal(0, 1e-12, n)]
            for values in kinds[:2] if options else kinds:
                values = values.astype(f32)
                cases.append({"scheme": scheme, "options": options, "values": values.tobytes().hex(),
                              "blob": blob(scheme, values, options).hex()})
    print("[" + ",\n".join(json.dumps(c) for c in cases) + "]")


main()
