#!/usr/bin/python3
"""An independent evaluation of the built-in models in NumPy float64, without any code of bitlm.

It reads a GGUF file by itself, runs linear layers as exact integer products (absmax int8 per token,
ternary weights) and everything else in float64, and

  check   compares the committed golden files with what it computes (max |difference| is printed)
  logits  writes float32 logits of given ids:  numpy_forward.py logits MODEL OUT.f32 ID ID ...
  activations  the same for the last positions, with activations a4.8, then binary
  embed   writes ids and vectors as JSON:      numpy_forward.py embed MODEL IDS.json OUT.json

The golden files parity/story.json, story.logits.f32 and embed.json were made by such an evaluation
of the training checkpoints; `check` proves that the committed GGUF files say the same.
usage: numpy_forward.py check [DATA_DIR [BUILTIN_DIR]]
"""
import json
import struct
import sys

import numpy as np

ACTIVATION_ROWS = 2  # positions kept for each of the other forms of activations
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


class Gguf:
    def __init__(self, path):
        self.b = open(path, "rb").read()
        self.o = 4
        _version, n_tensors, n_keys = self.take("<IQQ")
        self.keys, self.info = {}, {}
        for _ in range(n_keys):
            name = self.text()
            (kind,) = self.take("<I")
            self.keys[name] = self.value(kind)
        for _ in range(n_tensors):
            name = self.text()
            (n_dims,) = self.take("<I")
            dims = self.take("<%dQ" % n_dims)
            self.info[name] = (dims, *self.take("<IQ"))
        align = self.keys.get("general.alignment", 32)
        self.data = (self.o + align - 1) // align * align

    def take(self, fmt):
        v = struct.unpack_from(fmt, self.b, self.o)
        self.o += struct.calcsize(fmt)
        return v

    def text(self):
        (n,) = self.take("<Q")
        self.o += n
        return self.b[self.o - n : self.o].decode("utf-8", "replace")

    def value(self, kind):
        if kind == 8:
            return self.text()
        if kind == 9:
            element, n = self.take("<IQ")
            return [self.value(element) for _ in range(n)]
        return self.take("<" + SCALARS[kind])[0]

    def key(self, suffix, default=None):
        return self.keys.get(self.keys["general.architecture"] + "." + suffix, default)

    def tensor(self, name):
        """F32 or F16 as float64 (n, k); ternary as (int64 trits (n, k), float64 scales)."""
        dims, kind, offset = self.info[name]
        k, n = dims[0], (dims[1] if len(dims) > 1 else 1)
        at = self.data + offset
        if kind in (0, 1):
            v = np.frombuffer(self.b, "<f4" if kind == 0 else "<f2", k * n, at)
            return v.astype(np.float64).reshape(n, k)
        if kind == 36:  # I2_S: groups of 32 from the high bits down, one scale behind the codes
            raw = np.frombuffer(self.b, np.uint8, k * n // 4, at).reshape(-1, 32)
            codes = np.stack([(raw >> (6 - 2 * g)) & 3 for g in range(4)], 1)
            scale = np.frombuffer(self.b, "<f4", 1, at + k * n // 4)[0]
            return codes.reshape(n, k).astype(np.int64) - 1, float(scale)
        if kind == 35:  # TQ2_0: 64 bytes of codes from the low bits up, then d
            raw = np.frombuffer(self.b, np.uint8, k * n // 256 * 66, at).reshape(-1, 66)
            q = raw[:, :64].reshape(-1, 2, 1, 32)
            codes = (q >> np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)) & 3
            d = raw[:, 64:].copy().view("<f2").astype(np.float64)
            return codes.reshape(n, k).astype(np.int64) - 1, d.reshape(n, k // 256)
        raise SystemExit("tensor type %d is not one of the built-in models'" % kind)


def rms(x, w, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * w


def larger_half(x):
    """1 for the (n+1)/2 elements of largest |x| of each row, the first of equal ones."""
    order = np.argsort(-np.abs(x), axis=-1, kind="stable")
    mask = np.zeros(x.shape, np.int64)
    np.put_along_axis(mask, order[..., : (x.shape[-1] + 1) // 2], 1, -1)
    return mask


def quantize(x, form):
    """Integers and the factor that made them: int8 (absmax), int4 (absmean, BitNet a4.8), half (int8 of the larger
    half, BitNet a4.8), sign (XNOR-Net)."""
    mean = np.abs(x).mean(-1, keepdims=True)
    if form == "sign":
        return np.where(x > 0, 1, -1), 1 / np.maximum(mean, 1e-30)
    if form == "int4":
        s = np.sqrt(7.0) / (mean + 1e-5)
        return np.clip(np.rint(x * s), -8, 7).astype(np.int64), s
    s = 127.0 / np.maximum(np.abs(x).max(-1, keepdims=True), 1e-5)
    q = np.clip(np.rint(x * s), -128, 127).astype(np.int64)
    return (q * larger_half(x) if form == "half" else q), s


# Option activations: the form of the inputs of q, k, v, gate and up; of o; of down.
FORMS = {"int8": ("int8", "int8", "int8"), "a4.8": ("int4", "half", "int8"), "binary": ("sign", "sign", "sign")}


def bitlinear(x, weight, form="int8"):
    trits, scale = weight
    q, s = quantize(x, form)
    return (q @ trits.T).astype(np.float64) / s * scale


def rope(x, base):
    """x: (tokens, heads, dim), NeoX pairing."""
    half = x.shape[-1] // 2
    angle = np.arange(x.shape[0])[:, None] * base ** (-np.arange(half) / half)
    c, s = np.cos(angle)[:, None], np.sin(angle)[:, None]
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * c - b * s, a * s + b * c], -1)


class Model:
    def __init__(self, path, activations="int8"):
        self.g = g = Gguf(path)
        self.block, self.mixed, self.gated = FORMS[activations]
        self.causal = g.key("attention.causal", True)
        self.w = {name: g.tensor(name) for name in g.info}

    def blocks(self, ids):
        g, w = self.g, self.w
        eps, base = g.key("attention.layer_norm_rms_epsilon"), g.key("rope.freq_base")
        heads, n = g.key("attention.head_count"), len(ids)
        if isinstance(w["token_embd.weight"], tuple):
            trits, d = w["token_embd.weight"]
            x = trits[ids] * np.repeat(d[ids], trits.shape[1] // d.shape[1], 1)
        else:
            x = w["token_embd.weight"][ids]
        for i in range(g.key("block_count")):
            p = "blk.%d." % i
            h = rms(x, w[p + "attn_norm.weight"], eps)
            q, k, v = (bitlinear(h, w[p + "attn_%s.weight" % c], self.block).reshape(n, heads, -1) for c in "qkv")
            q, k = rope(q, base), rope(k, base)
            scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(q.shape[-1])
            if self.causal:
                scores = np.where(np.tril(np.ones((n, n), bool)), scores, -np.inf)
            e = np.exp(scores - scores.max(-1, keepdims=True))
            mix = np.einsum("hqk,khd->qhd", e / e.sum(-1, keepdims=True), v).reshape(n, -1)
            x = x + bitlinear(rms(mix, w[p + "attn_sub_norm.weight"], eps), w[p + "attn_output.weight"], self.mixed)
            h = rms(x, w[p + "ffn_norm.weight"], eps)
            gate, up = (bitlinear(h, w[p + "ffn_%s.weight" % c], self.block) for c in ("gate", "up"))
            h = rms(np.maximum(gate, 0) ** 2 * up, w[p + "ffn_sub_norm.weight"], eps)
            x = x + bitlinear(h, w[p + "ffn_down.weight"], self.gated)
        return x, eps

    def logits(self, ids):
        x, eps = self.blocks(np.asarray(ids))
        return rms(x, self.w["output_norm.weight"], eps) @ self.w["token_embd.weight"].T

    def embed(self, ids):
        x, eps = self.blocks(np.asarray(ids))
        v = bitlinear(rms(x.mean(0, keepdims=True), self.w["pool_norm.weight"], eps), self.w["pool_proj.weight"])[0]
        return v / np.sqrt((v * v).sum())


def check(data="tests/data", builtin="core/builtin"):
    story, golden = Model(builtin + "/bitlm-story.gguf"), json.load(open(data + "/parity/story.json"))
    ids = [int(i) for i in golden["logits_ids"]]
    want = np.fromfile(data + "/parity/story.logits.f32", "<f4").reshape(len(ids), -1)
    delta = np.abs(story.logits(ids) - want).max()
    print("story logits: max |difference| %.2g" % delta)
    wrong = delta > 1e-3
    wanted = np.fromfile(data + "/parity/story.activations.f32", "<f4").reshape(2, ACTIVATION_ROWS, -1)
    for mode, rows in zip(("a4.8", "binary"), wanted):
        delta = np.abs(Model(builtin + "/bitlm-story.gguf", mode).logits(ids)[-ACTIVATION_ROWS:] - rows).max()
        print("story logits, activations %s: max |difference| %.2g" % (mode, delta))
        wrong |= delta > 1e-3
    for g in golden["greedy"]:
        ids = list(g["ids"])
        for _ in g["greedy"]:
            ids.append(int(story.logits(ids)[-1].argmax()))
        same = ids[len(g["ids"]) :] == g["greedy"]
        print("greedy %-40r %s" % (g["prompt"][:36], "equal" if same else "DIFFERS"))
        wrong |= not same
    encoder, golden = Model(builtin + "/bitlm-embed.gguf"), json.load(open(data + "/parity/embed.json"))
    deltas = [np.abs(encoder.embed(t["ids"]) - t["embedding"]).max() for t in golden["texts"]]
    print("embeddings: max |difference| %.2g, median %.2g over %d texts"
          % (max(deltas), sorted(deltas)[len(deltas) // 2], len(deltas)))
    return int(wrong or max(deltas) > 4e-3)


def main(argv):
    if argv[:1] == ["check"]:
        return check(*argv[1:])
    if argv[:1] == ["logits"] and len(argv) > 3:
        Model(argv[1]).logits([int(i) for i in argv[3:]]).astype("<f4").tofile(argv[2])
        return 0
    if argv[:1] == ["activations"] and len(argv) > 3:
        ids = [int(i) for i in argv[3:]]
        np.concatenate([Model(argv[1], mode).logits(ids)[-ACTIVATION_ROWS:] for mode in ("a4.8", "binary")]).astype(
            "<f4").tofile(argv[2])
        return 0
    if argv[:1] == ["embed"] and len(argv) == 4:
        model = Model(argv[1])
        json.dump([{"ids": i, "embedding": [round(float(v), 6) for v in model.embed(i)]}
                   for i in json.load(open(argv[2]))], open(argv[3], "w"))
        return 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
