#!/usr/bin/env python3
"""Tiny random models of the float families with the logits of PyPI's transformers, for parity tests.

Needs PyPI's torch, transformers and gguf (exit status 77 with a message where they are missing).
usage: make_tiny_families.py OUTDIR [NAME …]    writes tiny-NAME.gguf.xz and .logits.f32 of each family
Weights are rounded to float16 before the logits are computed, so both sides hold the same numbers.  `embed` has an
RMSNorm on the input of every linear layer (hooks here, *_norm_in tensors there) and gives a unit vector, that of the
last token after the final norm, for the text "a letter about tax".
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

TEXT_IDS = [*b"a letter about", 255, *b"ax", 0]  # "a letter about tax" and EOS
IDS = [3, 17, 250, 9, 9, 128, 77, 1, 201, 64, 33, 5, 254, 100, 42, 8, 19]
SHAPE = dict(vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=128, rms_norm_eps=1e-6, attention_bias=False)
MOE = dict(SHAPE, moe_intermediate_size=32, num_experts=8, num_experts_per_tok=3, rope_theta=1e6, max_window_layers=0)
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 16}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}
FAMILIES = {  # tied and separate heads, biases, head_dim other than hidden / heads, every way to scale RoPE
    "llama": ("llama", hf.LlamaConfig(**SHAPE, rope_theta=10000.0, tie_word_embeddings=False)),
    "qwen2": ("qwen2", hf.Qwen2Config(**SHAPE, rope_theta=1e6, tie_word_embeddings=True)),
    "qwen3": ("qwen3", hf.Qwen3Config(**SHAPE, rope_theta=1e6, head_dim=32, tie_word_embeddings=True)),
    "llama3": ("llama", hf.LlamaConfig(**SHAPE, head_dim=32, rope_parameters=LLAMA3, tie_word_embeddings=True)),
    "yarn": ("qwen2", hf.Qwen2Config(**SHAPE, rope_parameters=YARN, tie_word_embeddings=True)),
    "linear": ("llama", hf.LlamaConfig(**SHAPE, rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.5},
                                       tie_word_embeddings=True)),
    "qwen3moe": ("qwen3moe", hf.Qwen3MoeConfig(**MOE, head_dim=32, norm_topk_prob=True, tie_word_embeddings=True)),
    "qwen2moe": ("qwen2moe", hf.Qwen2MoeConfig(**MOE, shared_expert_intermediate_size=48, norm_topk_prob=False,
                                               tie_word_embeddings=False)),
    "embed": ("qwen3", hf.Qwen3Config(**SHAPE, rope_theta=1e6, head_dim=32, tie_word_embeddings=True)),
}
NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "mlp.gate": "ffn_gate_inp",
         "mlp.shared_expert.gate_proj": "ffn_gate_shexp", "mlp.shared_expert.up_proj": "ffn_up_shexp",
         "mlp.shared_expert.down_proj": "ffn_down_shexp", "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
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


def randomize(model):
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn_like(p) * (0.3 if p.dim() == 1 else p.shape[-1] ** -0.5 * 1.5)
            p.copy_(((1.0 if "norm" in name else 0.0) + noise).half().float())


def norm_inputs(model):
    """An RMSNorm with weights of its own before each linear layer of the blocks; {name: weights}."""
    norms = {}

    def hook(module, args):
        x = args[0]
        w = norms[module.label]
        return (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + SHAPE["rms_norm_eps"]) * w.to(x.dtype),)

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and "layers" in name:
            module.label = gguf_name(name + ".weight").replace(".weight", "_norm_in.weight")
            norms[module.label] = (1 + 0.3 * torch.randn(module.in_features)).float()
            module.register_forward_pre_hook(hook)
    return norms


def llama3_factors(model, config):
    """What rope_freqs.weight holds: the plain frequencies divided by those that the model uses."""
    plain = config.rope_parameters["rope_theta"] ** (-np.arange(0, config.head_dim, 2) / config.head_dim)
    return (plain / model.model.rotary_emb.inv_freq.double().numpy()).astype(np.float32)


def tensors(name, p, config, arch):
    a = p.detach().float().numpy()
    if arch == "llama" and "q_proj" in name:
        a = permute(a, config.num_attention_heads)
    if arch == "llama" and "k_proj" in name:
        a = permute(a, config.num_key_value_heads)
    a = a.astype(np.float32 if a.ndim == 1 or "mlp.gate." in name else np.float16)
    if name.endswith("experts.gate_up_proj"):
        half, layer = a.shape[1] // 2, name.split(".")[2]
        return {"blk.%s.ffn_gate_exps.weight" % layer: a[:, :half], "blk.%s.ffn_up_exps.weight" % layer: a[:, half:]}
    if name.endswith("experts.down_proj"):
        return {"blk.%s.ffn_down_exps.weight" % name.split(".")[2]: a}
    if name.endswith("shared_expert_gate.weight"):
        a = a[0].astype(np.float32)
    return {gguf_name(name): a}


def write_keys(w, name, arch, config):
    rope = config.rope_parameters
    w.add_name("random-%s" % name)
    w.add_context_length(128)
    w.add_embedding_length(64)
    w.add_block_count(2)
    w.add_feed_forward_length(128)
    w.add_head_count(4)
    w.add_head_count_kv(2)
    w.add_layer_norm_rms_eps(1e-6)
    w.add_rope_freq_base(float(rope["rope_theta"]))
    if getattr(config, "head_dim", None):
        w.add_key_length(config.head_dim)
        w.add_value_length(config.head_dim)
    if rope["rope_type"] == "yarn":
        w.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        w.add_rope_scaling_factor(rope["factor"])
        w.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if rope["rope_type"] == "linear":
        w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        w.add_rope_scaling_factor(rope["factor"])
    if arch.endswith("moe"):
        w.add_expert_count(8)
        w.add_expert_used_count(3)
        w.add_expert_feed_forward_length(32)
        w.add_expert_weights_norm(config.norm_topk_prob)
    if arch == "qwen2moe":
        w.add_expert_shared_feed_forward_length(48)
    if name == "embed":
        w.add_pooling_type(gguf.PoolingType.LAST)
        write_vocabulary(w)


def write_vocabulary(w):
    """Byte-level BPE with a token for each byte but the last, whose place " t" has, and one merge."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    tokens = [chr(b) if b in printable else chr(256 + others.index(b)) for b in range(255)] + ["\u0120t"]
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list(tokens)
    w.add_token_types([3] + [1] * 255)
    w.add_token_merges(["\u0120 t"])
    w.add_eos_token_id(0)
    w.add_add_bos_token(False)
    w.add_add_eos_token(True)


def main(out, chosen):
    for name, (arch, config) in FAMILIES.items():
        if chosen and name not in chosen:
            continue
        torch.manual_seed(7)
        model = hf.AutoModelForCausalLM.from_config(config, experts_implementation="eager").eval()
        randomize(model)
        norms = norm_inputs(model) if name == "embed" else {}
        with torch.no_grad():
            model = model.double()
            if name == "embed":
                v = model.model(torch.tensor([TEXT_IDS])).last_hidden_state[0, -1]
                logits = (v / v.norm()).float().numpy()
            else:
                logits = model(torch.tensor([IDS])).logits[0].float().numpy()
        path = os.path.join(out, "tiny-%s.gguf" % name)
        w = gguf.GGUFWriter(path, arch)
        write_keys(w, name, arch, config)
        for key, p in model.named_parameters():
            for tensor, a in tensors(key, p, config, arch).items():
                w.add_tensor(tensor, np.ascontiguousarray(a))
        for key, weights in norms.items():
            w.add_tensor(key, weights.numpy())
        if config.rope_parameters["rope_type"] == "llama3":
            w.add_tensor("rope_freqs.weight", llama3_factors(model, config))
        w.write_header_to_file()
        w.write_kv_data_to_file()
        w.write_tensors_to_file()
        w.close()
        with open(path, "rb") as f, lzma.open(path + ".xz", "wb", preset=9) as z:
            z.write(f.read())
        os.remove(path)
        logits.astype("<f4").tofile(os.path.join(out, "tiny-%s.logits.f32" % name))
        print(name, logits.shape, "rms %.3f" % np.sqrt((logits**2).mean()))


if len(sys.argv) < 2:
    sys.exit(__doc__)
main(sys.argv[1], sys.argv[2:])
