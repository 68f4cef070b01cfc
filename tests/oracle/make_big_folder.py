"""Writes a Hugging Face folder of a large shape with arbitrary weights, to measure `bitlm convert` by.

    python make_big_folder.py 2b4t|7b FOLDER TOKENIZER_FOLDER      needs NumPy

2b4t: BitNet b1.58 2B-4T, packed uint8 and weight_scale, bf16 embedding.  7b: LLaMA in bf16, three shards.  The
vocabulary is that of TOKENIZER_FOLDER (a folder of tests/data/convert), filled up with unused tokens."""
import json
import pathlib
import shutil
import struct
import sys

import numpy as np

SHAPES = {
    "2b4t": dict(model_type="bitnet", hidden_size=2560, num_hidden_layers=30, intermediate_size=6912, vocab_size=128256,
                 num_attention_heads=20, num_key_value_heads=5, max_position_embeddings=4096, rms_norm_eps=1e-5,
                 hidden_act="relu2", rope_theta=500000.0, tie_word_embeddings=True,
                 quantization_config={"quant_method": "bitnet", "linear_class": "autobitlinear",
                                      "quantization_mode": "offline"}),
    "7b": dict(model_type="llama", hidden_size=4096, num_hidden_layers=32, intermediate_size=11008, vocab_size=32000,
               num_attention_heads=32, num_key_value_heads=32, max_position_embeddings=4096, rms_norm_eps=1e-5,
               hidden_act="silu", rope_theta=10000.0, tie_word_embeddings=False),
}


def tensors(c, packed):
    h, f = c["hidden_size"], c["intermediate_size"]
    d = h // c["num_attention_heads"]
    kv = d * c["num_key_value_heads"]
    yield "model.embed_tokens.weight", "BF16", [c["vocab_size"], h]
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        linear = [("self_attn.q_proj", h, h), ("self_attn.k_proj", kv, h), ("self_attn.v_proj", kv, h),
                  ("self_attn.o_proj", h, h), ("mlp.gate_proj", f, h), ("mlp.up_proj", f, h), ("mlp.down_proj", h, f)]
        norms = [("input_layernorm", h), ("post_attention_layernorm", h)]
        if packed:
            norms += [("self_attn.attn_sub_norm", h), ("mlp.ffn_sub_norm", f)]
        for name, n in norms:
            yield p + name + ".weight", "BF16", [n]
        for name, rows, k in linear:
            if packed:
                yield p + name + ".weight", "U8", [rows // 4, k]
                yield p + name + ".weight_scale", "BF16", [1]
            else:
                yield p + name + ".weight", "BF16", [rows, k]
    yield "model.norm.weight", "BF16", [h]
    if not c["tie_word_embeddings"]:
        yield "lm_head.weight", "BF16", [c["vocab_size"], h]


def bf16(x):
    return (x.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()


def main(shape, folder, tokenizer):
    c, g = SHAPES[shape], np.random.default_rng(1)
    packed, folder = shape == "2b4t", pathlib.Path(folder)
    folder.mkdir()
    for file in pathlib.Path(tokenizer).glob("tokenizer*"):
        shutil.copy(file, folder)
    (folder / "config.json").write_text(json.dumps(c))
    floats = bf16(g.standard_normal(1 << 24).astype(np.float32) * np.float32(0.02))
    t = g.integers(0, 3, (4, 1 << 24), dtype=np.uint8)
    codes = (t[0] | t[1] << 2 | t[2] << 4 | t[3] << 6).tobytes()
    listed = list(tensors(c, packed))
    shards = 1 if packed else 3
    weight_map = {}
    for s in range(shards):
        part = listed[s * len(listed) // shards:(s + 1) * len(listed) // shards]
        name = "model.safetensors" if shards == 1 else f"model-{s + 1:05d}-of-{shards:05d}.safetensors"
        header, at = {}, 0
        for n, dtype, dims in part:
            size = int(np.prod(dims)) * (1 if dtype == "U8" else 2)
            header[n] = {"dtype": dtype, "shape": dims, "data_offsets": [at, at + size]}
            weight_map[n] = name
            at += size
        head = json.dumps(header).encode()
        with open(folder / name, "wb") as out:
            out.write(struct.pack("<Q", len(head)) + head)
            for n, dtype, dims in part:
                left = header[n]["data_offsets"][1] - header[n]["data_offsets"][0]
                if len(dims) == 1:
                    out.write(bf16(np.full(dims[0], 1.0 if dims[0] > 1 else 0.02)))
                    continue
                source = codes if dtype == "U8" else floats
                while left:
                    out.write(source[:left])
                    left -= min(left, len(source))
    if shards > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


main(*sys.argv[1:])
