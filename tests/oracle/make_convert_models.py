"""Makes tests/data/convert: tiny random-weight Hugging Face folders in each form that `bitlm convert` reads, each with
what transformers computes from it, for tests/cli/test_convert.py.

    python make_convert_models.py OUT        needs torch, transformers, tokenizers, sentencepiece, safetensors

  bitnet-packed   BitNet (ReLU², sub-norms), uint8 with weight_scale, autobitlinear offline: trit * scale
  llama-packed    LLaMA, uint8 with weight_scale, bitlinear: trit / scale
  bitnet-master   BitNet, bf16 master weights, autobitlinear online; two shards
  llama-float     LLaMA, bf16, a head of its own, llama3 rope scaling, SentencePiece tokenizer.model
  qwen3-float     Qwen3, f16, norms of q and k, tied

NAME.tar.xz is the folder, NAME.json {"prompts": [{"text", "ids", "tokens", "margins"}]}: ids of the prompt by the
folder's own tokenizer, then transformers' greedy tokens in float32 and, for each, by how much its logit leads."""
import io
import json
import os
import pathlib
import shutil
import sys
import tarfile
import tempfile

os.environ["TORCHDYNAMO_DISABLE"] = "1"  # transformers' BitNet layers ask for a compiler
import sentencepiece
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import BitNetConfig, BitNetForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM
from transformers.integrations.bitnet import AutoBitLinear, BitLinear, pack_weights

STEPS = 24
PROMPTS = ["The river runs", "12345 apples, don't", "Über den Wolken\n\n", "x"]
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
          r"\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
TEXT = ("The river runs through the old town and under the bridge where children throw bread to the ducks. "
        "In winter the water is dark and slow; in spring it carries branches, boats and 1234 small things. "
        "Don't ask me where it goes, they'd say, it's only water. We'll see. ") * 4


def byte_level(vocab_size, pattern, bos, specials, nfc=False):
    t = Tokenizer(models.BPE(ignore_merges=not nfc))
    if nfc:
        from tokenizers import normalizers
        t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size - len(specials), show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    t.train_from_iterator([TEXT], trainer)
    t.add_special_tokens([AddedToken(s, special=True) for s in specials])
    if bos:
        t.post_processor = processors.TemplateProcessing(single=[bos, "$A"], pair=[bos, "$A", bos, "$B"],
                                                         special_tokens=[(bos, t.token_to_id(bos))])
    return t


def write_byte_level(folder, tokenizer, **config):
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def write_sentencepiece(folder, vocab_size):
    (folder / "text").write_text(TEXT)
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text"), model_prefix=str(folder / "tokenizer"), vocab_size=vocab_size, model_type="bpe",
        byte_fallback=True, character_coverage=1.0, normalization_rule_name="identity", remove_extra_whitespaces=False,
        minloglevel=2, num_threads=1)
    (folder / "text").unlink()
    (folder / "tokenizer.vocab").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True, "add_eos_token": False}))
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


def randomize(model, seed):
    g = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        if p.dim() == 1:
            p.data = 1 + 0.2 * torch.randn(p.shape, generator=g)
        elif "embed" in name or "lm_head" in name:
            # Where it is the head too, a large embedding would repeat the last token for ever.
            tied = model.config.tie_word_embeddings
            p.data = torch.randn(p.shape, generator=g) * (0.15 if tied or "lm_head" in name else 1)
        else:
            p.data = torch.randn(p.shape, generator=g) * 2 * p.shape[1] ** -0.5
        p.data = p.data.to(torch.bfloat16).float()  # what the file can hold


def linear_names(model):
    return [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"]


def replace(model, make):
    """Puts make(name, linear) in the place of each linear layer."""
    for name in linear_names(model):
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, make(name, model.get_submodule(name)))


def greedy(model, ids):
    tokens, margins = [], []
    with torch.no_grad():
        for _ in range(STEPS):
            logits = model(torch.tensor([ids + tokens])).logits[0, -1].float()
            best = torch.topk(logits, 2)
            tokens.append(int(best.indices[0]))
            margins.append(round(float(best.values[0] - best.values[1]), 4))
    return tokens, margins


def trits(weight):
    scale = weight.abs().mean().clamp(min=1e-5)
    return (weight / scale).round().clamp(-1, 1), scale


def save_shards(folder, tensors, parts):
    tensors = {k: v.contiguous() for k, v in tensors.items()}
    if parts == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names, index = sorted(tensors), {}
    for i in range(parts):
        file = f"model-{i + 1:05d}-of-{parts:05d}.safetensors"
        mine = names[i::parts]
        save_file({n: tensors[n] for n in mine}, folder / file, metadata={"format": "pt"})
        index.update({n: file for n in mine})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def state(model, dtype):
    return {n: p.data.to(dtype) for n, p in model.named_parameters()
            if not (n == "lm_head.weight" and model.config.tie_word_embeddings)}


def config_of(model, **more):
    c = json.loads(model.config.to_json_string(use_diff=False))
    keep = {k: c[k] for k in ("model_type", "hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size",
                              "num_attention_heads", "num_key_value_heads", "head_dim", "max_position_embeddings",
                              "rms_norm_eps", "hidden_act", "tie_word_embeddings", "rope_parameters") if k in c}
    return keep | more


SHAPE = dict(hidden_size=128, num_hidden_layers=2, intermediate_size=256, num_attention_heads=4, num_key_value_heads=2,
             vocab_size=384, max_position_embeddings=256, rms_norm_eps=1e-5)


def make_bitnet_packed(folder):
    model = BitNetForCausalLM(BitNetConfig(**SHAPE, hidden_act="relu2", tie_word_embeddings=True,
                                           rope_theta=500000.0)).eval()
    randomize(model, 1)
    tensors = state(model, torch.bfloat16)

    def make(name, linear):
        q, scale = trits(linear.weight.data)
        scale = scale.to(torch.bfloat16)
        tensors[name + ".weight"] = pack_weights(q.clone())
        tensors[name + ".weight_scale"] = scale.reshape(1)
        new = AutoBitLinear(linear.in_features, linear.out_features, bias=False, online_quant=False)
        new.weight.data = q
        new.weight_scale = scale.float().reshape(1)
        return new

    replace(model, make)
    save_shards(folder, tensors, 1)
    t = byte_level(384, LLAMA3, "<|begin_of_text|>", ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"])
    write_byte_level(folder, t, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")
    return model, t.encode, dict(quantization_config={
        "quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"})


def make_llama_packed(folder):
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=False)).eval()
    randomize(model, 2)
    tensors = state(model, torch.float16)

    def make(name, linear):
        q, scale = trits(linear.weight.data)
        inverse = (1 / scale).to(torch.float16)
        tensors[name + ".weight"] = pack_weights(q.clone())
        tensors[name + ".weight_scale"] = inverse.reshape(1)
        new = BitLinear(linear.in_features, linear.out_features, bias=False, dtype=torch.float32)
        new.weight = tensors[name + ".weight"]
        new.weight_scale = inverse.float().reshape(1)
        return new

    replace(model, make)
    save_shards(folder, tensors, 1)
    t = byte_level(384, LLAMA3, "<|begin_of_text|>", ["<|begin_of_text|>", "<|end_of_text|>"])
    write_byte_level(folder, t, bos_token="<|begin_of_text|>", eos_token={"content": "<|end_of_text|>"})
    return model, t.encode, dict(quantization_config={"quant_method": "bitnet"})


def make_bitnet_master(folder):
    model = BitNetForCausalLM(BitNetConfig(**SHAPE, hidden_act="relu2", tie_word_embeddings=True)).eval()
    randomize(model, 3)
    tensors = state(model, torch.bfloat16)

    def make(name, linear):
        new = AutoBitLinear(linear.in_features, linear.out_features, bias=False, online_quant=True)
        new.weight.data = linear.weight.data
        return new

    replace(model, make)
    save_shards(folder, tensors, 2)
    t = byte_level(384, LLAMA3, "<|begin_of_text|>", ["<|begin_of_text|>", "<|end_of_text|>"])
    write_byte_level(folder, t, bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>",
                     chat_template="{% for m in messages %}{{ m['content'] }}{% endfor %}")
    return model, t.encode, dict(quantization_config={
        "quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"})


def make_llama_float(folder):
    rope = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=False, rope_parameters=rope)).eval()
    randomize(model, 4)
    save_shards(folder, state(model, torch.bfloat16), 1)
    sp = write_sentencepiece(folder, 384)

    class Encoding:
        def __init__(self, text):
            self.ids = [sp.bos_id()] + sp.encode(text)
    return model, Encoding, {}


def make_qwen3_float(folder):
    model = Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=32, tie_word_embeddings=True)).eval()
    randomize(model, 5)
    save_shards(folder, state(model, torch.float16), 1)
    for p in model.parameters():
        p.data = p.data.half().float()
    t = byte_level(384, QWEN2, None, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], nfc=True)
    write_byte_level(folder, t, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    return model, t.encode, {}


def main(out):
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    for name, make in [("bitnet-packed", make_bitnet_packed), ("llama-packed", make_llama_packed),
                       ("bitnet-master", make_bitnet_master), ("llama-float", make_llama_float),
                       ("qwen3-float", make_qwen3_float)]:
        with tempfile.TemporaryDirectory() as tmp:
            folder = pathlib.Path(tmp) / name
            folder.mkdir()
            model, encode, more = make(folder)
            (folder / "config.json").write_text(json.dumps(config_of(model, **more), indent=1))
            prompts = []
            for text in PROMPTS:
                ids = encode(text).ids
                tokens, margins = greedy(model, ids)
                prompts.append({"text": text, "ids": ids, "tokens": tokens, "margins": margins})
            (out / (name + ".json")).write_text(json.dumps({"prompts": prompts}))
            with tarfile.open(out / (name + ".tar.xz"), "w:xz") as tar:
                for file in sorted(folder.iterdir()):
                    info = tarfile.TarInfo(f"{name}/{file.name}")
                    data = file.read_bytes()
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        certain = sum(m >= 0.05 for p in prompts for m in p["margins"])
        print(f"{name}: {certain} of {len(prompts) * STEPS} steps lead by 0.05")


if __name__ == "__main__":
    main(sys.argv[1])
