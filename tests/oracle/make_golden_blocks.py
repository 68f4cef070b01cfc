#!/usr/bin/env python3
"""Makes tests/data/blocks: blocks of every tensor type with their values, for test_quant.

Independent of bitlm: PyPI's `gguf` decodes and encodes the types it has, the rest is plain
NumPy written from docs/FORMATS.md.  Needs NumPy and gguf (made with gguf 0.19, NumPy 2.4).

    make_golden_blocks.py [tests/data/blocks]

TYPE.decode  u32 rows, u32 k, u32 n; n bytes of blocks (random, so that every bit pattern that
             readers meet occurs); rows * k float32: their values
TYPE.encode  u32 rows, u32 k, u32 n; rows * k float32; n bytes: what an encoder makes of them
"""
import os
import struct
import sys

import numpy as np
from gguf import GGMLQuantizationType as T, quants

ROWS, K = 2, 512
N = ROWS * K


def scales(g, n):
    """Half floats: usual ones, negative, subnormal, the largest, zero."""
    d = (g.standard_normal(n) * 0.1).astype("<f2")
    special = np.array([0.0, -0.0, 6e-8, -3e-6, 65504.0, 1.0], "<f2")
    d[: min(n, len(special)) // 2] = special[: min(n, len(special)) // 2]
    d[-1] = special[4]
    return d


def put_scales(blocks, at, g):
    blocks[:, at:at + 2] = scales(g, len(blocks)).view(np.uint8).reshape(-1, 2)


# ---- decoders from the text of FORMATS.md ------------------------------------------------

def half(blocks, at):
    return blocks[:, at:at + 2].copy().view("<f2").astype(np.float32)


def decode_q1_0(b):
    bits = np.unpackbits(b[:, 2:], axis=1, bitorder="little").astype(np.float32)
    return half(b, 0) * (2 * bits - 1)


def decode_q2(b):
    codes = np.stack([b[:, 2:] >> s & 3 for s in (0, 2, 4, 6)], -1).reshape(len(b), -1)
    return half(b, 0) * (codes.astype(np.float32) - 1)


def trits(run, count):
    """Weight n * len(run) + m is trit n of byte m, the first trit most significant."""
    out = []
    for n in range(count):
        q = run.astype(np.int64) * 3 ** n % 256
        out.append(q * 3 // 256)
    return np.concatenate(out, 1)


def decode_ptq1_0(b):
    codes = np.concatenate([trits(b[:, :16], 5), trits(b[:, 16:24], 5), trits(b[:, 24:26], 4)], 1)
    return half(b, 26) * (codes.astype(np.float32) - 1)


def decode_i2_s(raw):
    scale = np.frombuffer(raw[N // 4:N // 4 + 4].tobytes(), "<f4")[0]
    b = raw[:N // 4].reshape(-1, 32)
    codes = np.stack([b >> (6 - 2 * g) & 3 for g in range(4)], 1)
    return scale * (codes.astype(np.float32) - 1)


# ---- encoders ------------------------------------------------------------------------------

def encode_q1_0(x):
    b = x.reshape(-1, 128)
    total = np.add.accumulate(np.abs(b), axis=1, dtype=np.float32)[:, -1:]
    d = (total / np.float32(128)).astype("<f2").view(np.uint8)
    return np.concatenate([d, np.packbits(b >= 0, axis=1, bitorder="little")], 1)


def encode_i2_s(x):
    scale = np.abs(x).max()
    q = (np.clip(np.rint(x / scale), -1, 1) + 1).astype(np.uint8).reshape(-1, 4, 32)
    codes = q[:, 0] << 6 | q[:, 1] << 4 | q[:, 2] << 2 | q[:, 3]
    return np.frombuffer(codes.tobytes() + struct.pack("<f", scale) + bytes(28), np.uint8)


def weights(g, ternary):
    x = g.standard_normal(N).astype(np.float32)
    x = x * np.repeat(np.exp2(g.integers(-14, 12, N // 32)).astype(np.float32), 32)
    if ternary:  # one magnitude a block of 256, as after training
        s = np.repeat(np.abs(x[::256]), 256)
        return (g.integers(-1, 2, N) * s).astype(np.float32)
    x[:32] = 0
    x[32:64] = np.arange(32, dtype=np.float32) * 0.5 - 8  # ties
    x[63] = 127.0
    x[64:96:2] = -0.0
    return x


def main():
    out = sys.argv[1] if len(sys.argv) > 1 else os.path.join(
        os.path.dirname(os.path.abspath(__file__)), "..", "data", "blocks")
    os.makedirs(out, exist_ok=True)
    g = np.random.default_rng(20261123)

    def write(name, *parts):
        with open(os.path.join(out, name), "wb") as f:
            f.write(b"".join(parts))

    # name: weights a block, bytes a block, where half floats stand, decoder
    def by_gguf(t):
        return lambda b: quants.dequantize(b, t)
    types = {
        "Q4_0": (32, 18, [0], by_gguf(T.Q4_0)), "Q4_1": (32, 20, [0, 2], by_gguf(T.Q4_1)),
        "Q8_0": (32, 34, [0], by_gguf(T.Q8_0)), "Q4_K": (256, 144, [0, 2], by_gguf(T.Q4_K)),
        "Q6_K": (256, 210, [208], by_gguf(T.Q6_K)), "TQ1_0": (256, 54, [52], by_gguf(T.TQ1_0)),
        "TQ2_0": (256, 66, [64], by_gguf(T.TQ2_0)), "Q1_0": (128, 18, [0], decode_q1_0),
        "Q2_0": (64, 18, [0], decode_q2), "Q2_0_LEGACY": (128, 34, [0], decode_q2),
        "PQ2_0": (128, 34, [0], decode_q2), "PTQ1_0": (128, 28, [26], decode_ptq1_0),
    }
    for name, (block, size, halves, decode) in types.items():
        b = g.integers(0, 256, (N // block, size), np.uint8)
        for at in halves:
            put_scales(b, at, g)
        with np.errstate(over="ignore"):
            values = np.ascontiguousarray(decode(b), "<f4")
        assert values.size == N and np.isfinite(values).all(), name
        write(name + ".decode", struct.pack("<3I", ROWS, K, b.size), b.tobytes(), values.tobytes())

    b = np.concatenate([g.integers(0, 256, N // 4, np.uint8),
                        np.frombuffer(struct.pack("<f", 0.37) + bytes(28), np.uint8)])
    write("I2_S.decode", struct.pack("<3I", ROWS, K, b.size), b.tobytes(),
          decode_i2_s(b).astype("<f4").tobytes())
    h = g.integers(0, 65536, N).astype("<u2")
    h[:6] = [0, 0x8000, 1, 0x3ff, 0x7bff, 0xfbff]
    f = np.where((h & 0x7c00) == 0x7c00, 0x3c00, h).astype("<u2")
    write("F16.decode", struct.pack("<3I", ROWS, K, 2 * N), f.tobytes(),
          f.view("<f2").astype("<f4").tobytes())
    f = np.where((h & 0x7f80) == 0x7f80, 0x3f80, h).astype("<u2")
    write("BF16.decode", struct.pack("<3I", ROWS, K, 2 * N), f.tobytes(),
          quants.dequantize(f.view(np.uint8), T.BF16).astype("<f4").tobytes())
    x = weights(g, False)
    write("F32.decode", struct.pack("<3I", ROWS, K, 4 * N), x.tobytes(), x.tobytes())

    encoders = {
        "F16": lambda x: x.astype("<f2"), "BF16": lambda x: quants.quantize(x, T.BF16),
        "Q8_0": lambda x: quants.quantize(x, T.Q8_0), "TQ1_0": lambda x: quants.quantize(x, T.TQ1_0),
        "TQ2_0": lambda x: quants.quantize(x, T.TQ2_0), "Q1_0": encode_q1_0, "I2_S": encode_i2_s,
    }
    for name, encode in encoders.items():
        x = weights(g, name in ("TQ1_0", "TQ2_0", "I2_S"))
        if name in ("F16", "BF16"):  # through subnormal half floats, ties included
            x = (x * np.exp2(g.integers(-24, 1, N)).astype(np.float32)).astype(np.float32)
            x[:4] = [65519.0, 2.0 ** -25, 3 * 2.0 ** -25, 1 + 2.0 ** -11]
        b = encode(x).tobytes()
        write(name + ".encode", struct.pack("<3I", ROWS, K, len(b)), x.astype("<f4").tobytes(), b)
    # weights as they come, not ternarized: llama.cpp's rule for the ternary types
    for name in ("TQ1_0", "TQ2_0"):
        x = weights(g, False)
        b = encoders[name](x).tobytes()
        write(name + ".raw.encode", struct.pack("<3I", ROWS, K, len(b)), x.astype("<f4").tobytes(), b)

    def encode_q2_0(x):
        b = x.reshape(-1, 64)
        d = np.abs(b).max(1, keepdims=True)
        with np.errstate(divide="ignore"):
            inv = np.where(d == 0, np.float32(0), np.float32(1) / d).astype(np.float32)
        y = b * inv
        q = (np.sign(y) * np.floor(np.abs(y) + np.float32(0.5)) + 1).astype(np.uint8).reshape(-1, 16, 4)
        codes = q[..., 0] | q[..., 1] << 2 | q[..., 2] << 4 | q[..., 3] << 6
        return np.concatenate([d.astype("<f2").view(np.uint8), codes], 1)

    later = {"Q4_0": lambda x: quants.quantize(x, T.Q4_0), "Q4_1": lambda x: quants.quantize(x, T.Q4_1),
             "Q2_0": encode_q2_0, "Q2_0.raw": encode_q2_0}
    for name, encode in later.items():
        x = weights(g, name == "Q2_0")
        b = encode(x).tobytes()
        write(name + ".encode", struct.pack("<3I", ROWS, K, len(b)), x.astype("<f4").tobytes(), b)


main()
