"""Bytes and perplexity of a model in many types: the tables of docs/QUANTIZATION.md.

    make
    python3 tests/bench/quantization.py MODEL.gguf TEXT [--calibration TEXT2 --budgets 60000000,80000000]
    python3 tests/bench/quantization.py MODEL.gguf TEXT --calibration TEXT2 --equal q4_0,q4_1,q4_0+q8_0 [--types q4_0,q4_1,q8_0]
    python3 tests/bench/quantization.py core/builtin/bitlm-story.gguf TEXT --calibration TEXT2 --as-is --equal i2_s+q4_0

MODEL is written in each type by `bitlm quantize` into a temporary folder and scored by `bitlm perplexity` on the
first --max-tokens of TEXT; with --budgets also with a type for each tensor, chosen by errors measured on --tokens of
TEXT2.  --equal: for each type all layers, embedding and head in it (with LAYERS+EMBEDDING two types), and beside it the
types chosen for a file of the same size (1,024 bytes more, which the planner keeps for keys).  Float means F16: of a model
that is quantized already, its weights as the numbers they stand for; --as-is starts from MODEL itself instead.
"""
import argparse
import os
import pathlib
import re
import subprocess
import tempfile

BITLM = os.environ.get("BITLM", str(pathlib.Path(__file__).resolve().parents[2] / "build" / "bitlm"))

TYPES = [
    ("int8, Q8_0", ["--type", "q8_0", "--embedding-type", "q8_0"]),
    ("4-bit, Q4_1", ["--type", "q4_1", "--embedding-type", "q4_1"]),
    ("4-bit, Q4_0", ["--type", "q4_0", "--embedding-type", "q4_0"]),
    ("ternary, absmean a tensor", ["--type", "q2_0", "--embedding-type", "q8_0", "--scale", "tensor"]),
    ("ternary, absmean a row", ["--type", "q2_0", "--embedding-type", "q8_0", "--scale", "row"]),
    ("ternary, absmean a group of 64", ["--type", "q2_0", "--embedding-type", "q8_0", "--scale", "group"]),
    ("ternary, TWN a group of 64", ["--type", "q2_0", "--embedding-type", "q8_0", "--scale", "group", "--ternary", "twn"]),
]


def run(*args):
    done = subprocess.run([BITLM, *map(str, args)], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(done.returncode)
    return done.stdout


def row(name, path, args):
    out = run("perplexity", "--max-tokens", args.max_tokens, path, args.text)
    value, spread = re.search(r"perplexity +([\d.]+) \+/- ([\d.]+)", out).groups()
    weights = int(re.search(r"parameters +([\d,]+)", run("info", path)).group(1).replace(",", ""))
    size = os.path.getsize(path)
    print(f"| {name} | {size:,} | {8 * size / weights:.2f} | {float(value):.2f} ± {float(spread):.2f} |", flush=True)


def hybrid(budget, source, out, args):
    said = run("quantize", "--budget-bytes", budget, "--types", args.types, "--text", args.calibration, "--tokens", args.tokens,
               source, out)
    kinds = re.findall(r"^(\w+) +(\d+) tensors", said, re.M)
    row(f"hybrid, at most {budget:,}: " + ", ".join(f"{n} {t}" for t, n in sorted(kinds)), out, args)
    print("<!-- " + said.strip().splitlines()[-2] + " -->", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("--max-tokens", type=int, default=4096)
    parser.add_argument("--calibration")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--budgets", default="")
    parser.add_argument("--equal", default="")
    parser.add_argument("--as-is", action="store_true")
    parser.add_argument("--types", default="q2_0,q4_0,q8_0")
    args = parser.parse_args()
    print("| | bytes of the file | bits a weight | perplexity |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        out, source = os.path.join(folder, "out.gguf"), os.path.join(folder, "float.gguf")
        row("as it came", args.model, args)
        if args.as_is:
            source = args.model
        else:
            run("quantize", "--type", "f16", "--embedding-type", "f16", args.model, source)
            row("float, F16", source, args)
        for name, options in [] if args.equal else TYPES:
            run("quantize", *options, source, out)
            row(name, out, args)
        for budget in filter(None, args.budgets.split(",")):
            hybrid(int(budget), source, out, args)
        for kind in filter(None, args.equal.split(",")):
            layers, embedding = (kind.split("+") * 2)[:2]
            run("quantize", "--type", layers, "--embedding-type", embedding, source, out)
            row(f"all {layers.upper()}" + f", embedding {embedding.upper()}" * ("+" in kind), out, args)
            hybrid(os.path.getsize(out) + 1024, source, out, args)


main()
