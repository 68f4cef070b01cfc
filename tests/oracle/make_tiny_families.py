#!/usr/bin/env python3
"""Tiny random models of the float families with the logits of PyPI's transformers, for parity tests.

Needs PyPI's torch, transformers and gguf (exit status 77 with a message where they are missing).
usage: make_tiny_families.py OUTDIR    writes tiny-{llama,qwen2,qwen3}.gguf.xz and .logits.f32
Weights are rounded to float16 before the logits are computed, so both sides hold the same numbers.
"""
import lzma
import os
import sys

try:
    import gguf
    import numpy as np
    import torch
    import transformers as hf
except ImportError as why:
    print("skipped: %s (pip install torch transformers gguf)" % why, file=sys.stderr)
    sys.exit(77)

IDS = [3, 17, 250, 9, 9, 128, 77, 1, 201, 64, 33, 5, 254, 100, 42, 8, 19]
SHAPE = dict(vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=128, rms_norm_eps=1e-6, attention_bias=False)
FAMILIES = {  # tied and separate heads, biases, head_dim other than hidden / heads
    "llama": hf.LlamaConfig(**SHAPE, rope_theta=10000.0, tie_word_embeddings=False),
    "qwen2": hf.Qwen2Config(**SHAPE, rope_theta=1e6, tie_word_embeddings=True),
    "qwen3": hf.Qwen3Config(**SHAPE, rope_theta=1e6, head_dim=32, tie_word_embeddings=True),
}
NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
         "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}


def gguf_name(name):
    if name.startswith("model.layers."):
        _, _, layer, rest = name.split(".", 3)
        part, kind = rest.rsplit(".", 1)
        return "blk.%s.%s.%s" % (layer, NAMES[part], kind)
    return {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
            "lm_head.weight": "output.weight"}[name]


def permute(w, heads):
    """Rows of a llama q or k from halves to adjacent pairs, as GGUF stores them."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def main(out):
    for arch, config in FAMILIES.items():
        torch.manual_seed(7)
        model = hf.AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():
            for name, p in model.named_parameters():
                noise = torch.randn_like(p) * (0.3 if p.dim() == 1 else p.shape[-1] ** -0.5 * 1.5)
                p.copy_(((1.0 if "norm" in name else 0.0) + noise).half().float())
            logits = model.double()(torch.tensor([IDS])).logits[0].float().numpy()
        path = os.path.join(out, "tiny-%s.gguf" % arch)
        w = gguf.GGUFWriter(path, arch)
        w.add_name("random-%s" % arch)
        w.add_context_length(128)
        w.add_embedding_length(64)
        w.add_block_count(2)
        w.add_feed_forward_length(128)
        w.add_head_count(4)
        w.add_head_count_kv(2)
        w.add_layer_norm_rms_eps(1e-6)
        w.add_rope_freq_base(10000.0 if arch == "llama" else 1e6)
        if arch == "qwen3":
            w.add_key_length(32)
            w.add_value_length(32)
        for name, p in model.named_parameters():
            a = p.detach().float().numpy()
            if arch == "llama" and "q_proj" in name:
                a = permute(a, 4)
            if arch == "llama" and "k_proj" in name:
                a = permute(a, 2)
            w.add_tensor(gguf_name(name), a.astype(np.float32 if a.ndim == 1 else np.float16))
        w.write_header_to_file()
        w.write_kv_data_to_file()
        w.write_tensors_to_file()
        w.close()
        with open(path, "rb") as f, lzma.open(path + ".xz", "wb", preset=9) as z:
            z.write(f.read())
        os.remove(path)
        logits.astype("<f4").tofile(os.path.join(out, "tiny-%s.logits.f32" % arch))
        print(arch, logits.shape, "rms %.3f" % np.sqrt((logits**2).mean()))


if len(sys.argv) != 2:
    sys.exit(__doc__)
main(sys.argv[1])
