#!/usr/bin/env python3
"""Tiny random models of the 1-bit families and file layouts with the logits of a NumPy float64 evaluation.

Needs NumPy alone: files are packed here and logits computed here, with no code of bitlm.  Linear layers take int8
inputs as docs/FORMATS.md says (one scale a token for BitNet's; one a group of weights for the others, in two rows for
Q1_0), sums are exact, everything else is float64.
usage: make_tiny_layouts.py OUTDIR [NAME …]    writes tiny-NAME.gguf.xz and tiny-NAME.logits.f32
       make_tiny_layouts.py --keep OUTDIR      writes tiny-NAME.gguf as well (for tests/oracle/compare_logits.py)
"""
import lzma
import struct
import sys

import numpy as np

IDS = [3, 17, 250, 9, 9, 128, 77, 1, 201, 64, 33, 5, 254, 100, 42, 8, 19]
HIDDEN, FFN, LAYERS, VOCAB, EPS = 256, 256, 2, 256, 1e-5
F32, F16, TQ1_0, TQ2_0, I2_S, Q1_0, Q2_0 = 0, 1, 34, 35, 36, 41, 42
GROUP = {TQ2_0: 256, TQ1_0: 256, Q1_0: 128, Q2_0: 64}  # weights, and so inputs, that share a scale

# per_token: how inputs are quantized.  blocks: every block has a scale of its own.  seed: where a model of seed 11
# has an input so near to a rounding's tie that float32 takes the other side, after which all later ones differ a bit.
MODELS = {
    "falcon3-i2_s": dict(arch="llama", kind=I2_S, heads=4, kv=1, dim=128, act="silu", per_token=True, base=1000042.0),
    "falcon3-tq1_0": dict(arch="llama", kind=TQ1_0, heads=4, kv=1, dim=128, act="silu", per_token=True, base=1000042.0,
                          separate=True),
    "trilm": dict(arch="llama", kind=TQ2_0, heads=4, kv=4, dim=64, act="silu", per_token=False, base=1e4, separate=True,
                  blocks=True, name="TriLM_99M", seed=12),
    "bonsai-q1_0": dict(arch="qwen3", kind=Q1_0, heads=4, kv=2, dim=128, act="silu", per_token=False, base=1e6,
                        blocks=True, embedding=True),
    "bonsai-q2_0": dict(arch="qwen3", kind=Q2_0, heads=4, kv=2, dim=128, act="silu", per_token=False, base=1e6,
                        blocks=True, embedding=True, separate=True),
    "bitnet-scale": dict(arch="bitnet", kind=TQ2_0, heads=4, kv=2, dim=64, act="silu", per_token=True, base=1e4,
                         scales=True),
    "bitnet-key": dict(arch="bitnet", kind=TQ2_0, heads=4, kv=4, dim=64, act="relu2", per_token=True, base=5e5,
                       scales=True, separate=True, keys={"hidden_activation": "relu2"}),
}


# ---- packing: codes are weights / scale + 1, except for Q1_0, where they are bits -----------------------------------

def halves(d):
    return d.astype("<f2").view(np.uint8).reshape(-1, 2)


def pack(kind, codes, d):
    """codes (n, k) uint8, d one float16 a block, in order."""
    if kind == I2_S:
        q = codes.reshape(-1, 4, 32)
        return (q[:, 0] << 6 | q[:, 1] << 4 | q[:, 2] << 2 | q[:, 3]).tobytes() + struct.pack("<f", d[0]) + bytes(28)
    if kind == TQ2_0:
        q = codes.reshape(-1, 2, 4, 32)
        b = q[:, :, 0] | q[:, :, 1] << 2 | q[:, :, 2] << 4 | q[:, :, 3] << 6
        return np.concatenate([b.reshape(-1, 64), halves(d)], 1).tobytes()
    if kind == TQ1_0:
        q, parts = codes.reshape(-1, 256).astype(int), []
        for begin, trits, width in ((0, 5, 32), (160, 5, 16), (240, 4, 4)):
            run = q[:, begin:begin + trits * width].reshape(-1, trits, width)
            value = sum(run[:, i] * 3 ** (4 - i) for i in range(trits))
            parts.append(((value * 256 + 242) // 243).astype(np.uint8))
        return np.concatenate(parts + [halves(d)], 1).tobytes()
    if kind == Q1_0:
        return np.concatenate([halves(d), np.packbits(codes.reshape(-1, 128), 1, "little")], 1).tobytes()
    q = codes.reshape(-1, 16, 4)
    return np.concatenate([halves(d), q[:, :, 0] | q[:, :, 1] << 2 | q[:, :, 2] << 4 | q[:, :, 3] << 6], 1).tobytes()


class Weights:
    """A packed matrix: whole numbers w (n, k), a scale for each block of a row, a scale for all."""

    def __init__(self, rng, model, n, k, whole=None):
        self.kind, self.n, self.k = model["kind"], n, k
        levels = {Q1_0: ([-1, 1], [0.5, 0.5]), Q2_0: ([-1, 0, 1, 2], [0.2, 0.59, 0.2, 0.01])}
        values, odds = levels.get(self.kind, ([-1, 0, 1], [0.15, 0.7, 0.15]))
        self.w = rng.choice(values, (n, k), p=odds)
        self.group = GROUP.get(self.kind, k)
        scale = np.float16(1.5 / np.sqrt((self.w**2).mean() * k))
        d = np.full((n, k // self.group), scale)
        if model.get("blocks"):
            d = (d * rng.uniform(0.5, 1.5, d.shape)).astype(np.float16)
        self.scale = whole
        if whole:  # as llama.cpp's converter leaves 2B-4T: bare trits and a tensor NAME.scale
            d[:] = 1
            self.scale = np.float32(scale)
        self.d = d.astype(float)
        codes = (self.w > 0 if self.kind == Q1_0 else self.w + 1).astype(np.uint8)
        self.bytes = pack(self.kind, codes, d.reshape(-1))
        self.per_token = model["per_token"]

    def rows(self, ids):
        return self.w[ids] * np.repeat(self.d[ids], self.group, 1)

    def __call__(self, x):
        total = 0
        for _ in range(2 if self.kind == Q1_0 else 1):
            g = x.shape[1] if self.per_token else self.group
            parts = x.reshape(len(x), -1, g)
            step = np.maximum(np.abs(parts).max(-1, keepdims=True), 1e-5) / 127
            q = np.rint(parts / step)
            spread = np.repeat(step[..., 0], g // self.group, 1)
            blocks = np.einsum("tbi,nbi->tnb", q.reshape(len(x), -1, self.group), self.w.reshape(self.n, -1, self.group))
            total = total + np.einsum("tnb,tb,nb->tn", blocks, spread, self.d)
            x = (parts - q * step).reshape(x.shape)
        return total * (self.scale or 1)


class Floats:
    def __init__(self, values):
        self.kind, (self.n, self.k) = F16, values.shape
        self.values, self.bytes = values.astype(np.float16).astype(float), values.astype("<f2").tobytes()

    def rows(self, ids):
        return self.values[ids]

    def __call__(self, x):
        return x @ self.values.T


def make(model):
    rng = np.random.default_rng(model.get("seed", 11))
    q, kv, w = model["heads"] * model["dim"], model["kv"] * model["dim"], {}

    def matrix(name, n, k):
        w[name + ".weight"] = m = Weights(rng, model, n, k, model.get("scales"))
        if model.get("scales"):
            w[name + ".scale"] = np.array([m.scale], np.float32)

    def norm(name, n):
        w[name + ".weight"] = (1 + 0.2 * rng.standard_normal(n)).astype(np.float32)

    def embedding(name):  # coarse, so that files stay small; norms are not, or inputs would fall on rounding's ties
        w[name] = Weights(rng, model, VOCAB, HIDDEN) if model.get("embedding") else \
            Floats(np.rint(rng.standard_normal((VOCAB, HIDDEN)) * 4) / (4 if name[0] == "t" else 64))

    embedding("token_embd.weight")
    norm("output_norm", HIDDEN)
    if model.get("separate"):
        embedding("output.weight")
    for i in range(LAYERS):
        p = "blk.%d." % i
        norm(p + "attn_norm", HIDDEN)
        norm(p + "ffn_norm", HIDDEN)
        if model["arch"] == "bitnet":
            norm(p + "attn_sub_norm", q)
            norm(p + "ffn_sub_norm", FFN)
        if model["arch"] == "qwen3":
            norm(p + "attn_q_norm", model["dim"])
            norm(p + "attn_k_norm", model["dim"])
        for name, n, k in (("attn_q", q, HIDDEN), ("attn_k", kv, HIDDEN), ("attn_v", kv, HIDDEN),
                           ("attn_output", HIDDEN, q), ("ffn_gate", FFN, HIDDEN), ("ffn_up", FFN, HIDDEN),
                           ("ffn_down", HIDDEN, FFN)):
            matrix(p + name, n, k)
    return w


# ---- evaluation --------------------------------------------------------------------------------------------------

def rms(x, weight):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * weight


def rope(x, model):
    dim = x.shape[-1]
    angle = np.arange(len(x))[:, None, None] * model["base"] ** (-np.arange(0, dim, 2) / dim)
    c, s, out = np.cos(angle), np.sin(angle), np.empty_like(x)
    first, second = ((slice(0, dim, 2), slice(1, dim, 2)) if model["arch"] == "llama" else
                     (slice(0, dim // 2), slice(dim // 2, dim)))
    a, b = x[..., first], x[..., second]
    out[..., first], out[..., second] = a * c - b * s, a * s + b * c
    return out


def logits(model, w):
    n, sub = len(IDS), model["arch"] == "bitnet"
    x = w["token_embd.weight"].rows(IDS)
    for i in range(LAYERS):
        def part(name, i=i):
            return w["blk.%d.%s.weight" % (i, name)]
        h = rms(x, part("attn_norm"))
        q, k, v = (part("attn_" + c)(h).reshape(n, -1, model["dim"]) for c in "qkv")
        if model["arch"] == "qwen3":
            q, k = rms(q, part("attn_q_norm")), rms(k, part("attn_k_norm"))
        times = model["heads"] // model["kv"]
        q, k, v = rope(q, model), np.repeat(rope(k, model), times, 1), np.repeat(v, times, 1)
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(model["dim"])
        scores = np.where(np.tril(np.ones((n, n), bool)), scores, -np.inf)
        e = np.exp(scores - scores.max(-1, keepdims=True))
        mix = np.einsum("hqk,khd->qhd", e / e.sum(-1, keepdims=True), v).reshape(n, -1)
        x = x + part("attn_output")(rms(mix, part("attn_sub_norm")) if sub else mix)
        h = rms(x, part("ffn_norm"))
        gate, up = part("ffn_gate")(h), part("ffn_up")(h)
        h = (np.maximum(gate, 0) ** 2 if model["act"] == "relu2" else gate / (1 + np.exp(-gate))) * up
        x = x + part("ffn_down")(rms(h, part("ffn_sub_norm")) if sub else h)
    return w.get("output.weight", w["token_embd.weight"])(rms(x, w["output_norm.weight"]))


# ---- the file ------------------------------------------------------------------------------------------------------

def text(s):
    return struct.pack("<Q", len(s.encode())) + s.encode()


def key(name, value):
    if isinstance(value, str):
        return text(name) + struct.pack("<I", 8) + text(value)
    if isinstance(value, float):
        return text(name) + struct.pack("<If", 6, value)
    if isinstance(value, int):
        return text(name) + struct.pack("<II", 4, value)
    head = text(name) + struct.pack("<IIQ", 9, 8 if isinstance(value[0], str) else 5, len(value))
    return head + b"".join(text(v) if isinstance(v, str) else struct.pack("<i", v) for v in value)


def gguf(name, model, w):
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    tokens = [chr(b) if b in printable else chr(256 + others.index(b)) for b in range(255)] + ["\u0120t"]
    shape = {"context_length": 128, "embedding_length": HIDDEN, "block_count": LAYERS, "feed_forward_length": FFN,
             "attention.head_count": model["heads"], "attention.head_count_kv": model["kv"],
             "attention.key_length": model["dim"], "attention.value_length": model["dim"], "vocab_size": VOCAB,
             "rope.dimension_count": model["dim"], "rope.freq_base": model["base"],
             "attention.layer_norm_rms_epsilon": EPS, **model.get("keys", {})}
    keys = [key("general.architecture", model["arch"]), key("general.name", model.get("name", name))]
    keys += [key(model["arch"] + "." + k, v) for k, v in shape.items()]
    keys += [key("tokenizer.ggml.model", "gpt2"), key("tokenizer.ggml.pre", "gpt-2"),
             key("tokenizer.ggml.tokens", tokens), key("tokenizer.ggml.token_type", [1] * 256),
             key("tokenizer.ggml.merges", ["\u0120 t"]), key("tokenizer.ggml.bos_token_id", 0),
             key("tokenizer.ggml.eos_token_id", 0)]
    info, data = b"", b""
    for tensor, t in w.items():
        dims, kind, raw = ([t.k, t.n], t.kind, t.bytes) if hasattr(t, "kind") else ([len(t)], F32, t.tobytes())
        data += bytes(-len(data) % 32)
        info += text(tensor) + struct.pack("<I%dQIQ" % len(dims), len(dims), *dims, kind, len(data))
        data += raw
    head = b"GGUF" + struct.pack("<IQQ", 3, len(w), len(keys)) + b"".join(keys) + info
    return head + bytes(-len(head) % 32) + data


def main(arguments):
    keep = arguments[:1] == ["--keep"]
    out, *chosen = arguments[keep:]
    for name, model in MODELS.items():
        if chosen and name not in chosen:
            continue
        w = make(model)
        content, result = gguf(name, model, w), logits(model, w)
        path = "%s/tiny-%s" % (out, name)
        if keep:
            with open(path + ".gguf", "wb") as f:
                f.write(content)
        with lzma.open(path + ".gguf.xz", "wb", preset=9) as f:
            f.write(content)
        result.astype("<f4").tofile(path + ".logits.f32")
        print("%-14s %7d bytes, logits rms %.3f" % (name, len(content), np.sqrt((result**2).mean())))


if len(sys.argv) < 2 + (sys.argv[1:2] == ["--keep"]):
    sys.exit(__doc__)
main(sys.argv[1:])
