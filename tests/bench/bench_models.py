#!/usr/bin/env python3
"""bench_models.py: whole models of known shapes, measured beside the machine's limits.

    bench_models.py [BITLM [BENCH_MODEL]]       (build/bitlm build/meson/tests/bench_model; make bench runs it)

Makes random models with `bitlm synth` in build/bench, runs bench_model on them part by part, keeps every figure
in build/bench.json (a later run of a part replaces its figures), and lets bench_report.py print the tables, the
targets and the chart.  Standard library only.  Environment:

    BENCH_PARTS    of decode prefill rows masks open memory pair embed types float profile   (all)
    BENCH_SHAPES   of 100m 700m bitnet-2b4t 7b     (all whose files fit the memory and the disk)
    BENCH_TYPES    of the part types               (tq2_0 tq1_0)
    BENCH_TRIES    of each figure                  (5)
    BENCH_FAST=1   100m and 700m, 3 tries, the documents left as they are
    BENCH_DOCS=0   the documents left as they are
    BENCH_KEEP=1   model files stay in build/bench
"""
import datetime
import json
import os
import shutil
import subprocess
import sys

import bench_report

SHAPES = {"100m": 1.1e8, "700m": 7.5e8, "bitnet-2b4t": 2.42e9, "7b": 6.7e9}  # parameters, the embedding included
MAIN = "i2_s"  # the type of the tables, with a head of 6 bits
BYTES = {"i2_s": 0.26, "tq2_0": 0.27, "tq1_0": 0.23, "q4_k": 0.6, "f16": 2.0}  # a parameter, a little too many
CONTEXT = 4608  # so that a token can stand behind 4,096 others
PARTS = "decode prefill rows masks open memory pair embed types float profile".split()


def words(name, default):
    return os.environ.get(name, "").replace(",", " ").split() or list(default)


FAST = os.environ.get("BENCH_FAST") == "1"
TRIES = os.environ.get("BENCH_TRIES") or ("3" if FAST else "5")


def available_memory():
    with open("/proc/meminfo") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith("MemAvailable"))


def cpu():
    """Name, and what tells processors of one name apart."""
    fields = {}
    with open("/proc/cpuinfo") as f:
        for line in f:
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    name = fields.get("model name", "unknown processor")
    return f"{name} (family {fields.get('cpu family', '?')}, model {fields.get('model', '?')}), {os.cpu_count()} cores"


def summary(values):
    values = sorted(values)
    return {"median": values[len(values) // 2], "min": values[0], "max": values[-1], "n": len(values)}


class Bench:
    def __init__(self, bitlm, program, folder="build/bench", result="build/bench.json"):
        self.bitlm, self.program, self.folder, self.result = bitlm, program, folder, result
        os.makedirs(folder, exist_ok=True)
        try:
            with open(result) as f:
                self.figures = json.load(f)
        except (OSError, ValueError):
            self.figures = {}
        if self.figures.get("cpu") != cpu():
            self.figures = {"cpu": cpu(), "runs": {}}

    def model(self, shape, kind):
        """The file of a shape and type; None where memory or disk do not have room for it."""
        path = os.path.join(self.folder, f"{shape}-{kind}.gguf")
        size = SHAPES[shape] * BYTES[kind] + 4e8
        if os.path.exists(path):
            return path
        for room, what in ((available_memory(), "memory"), (shutil.disk_usage(self.folder).free, "disk")):
            if size * 1.3 > room:
                print(f"{shape} {kind}: left out, its {size / 1e9:.1f} GB do not fit the free {what} of "
                      f"{room / 1e9:.1f} GB", flush=True)
                return None
        embedding = "f16" if kind == "f16" else "q6_k"
        subprocess.run([self.bitlm, "synth", "--shape", shape, "--type", kind, "--embedding-type", embedding, "--context",
                        str(CONTEXT), "--architecture", "bitnet", "--seed", "1", path], check=True)
        return path

    def run(self, part, shape, kind, path, measures, mask=None, tries=TRIES, tokens="64"):
        """Runs bench_model and keeps what it says under part/shape/kind/kernels."""
        environment = dict(os.environ)
        if mask:
            environment["BITLM_CPU"] = mask
        print(f"{part}: {shape} {kind} {mask or ''}", flush=True)
        command = [self.program, "--tries", str(tries), "--tokens", tokens, path, *measures]
        out = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
        lines = [json.loads(line) for line in out.splitlines()]
        about = {} if "measure" in lines[0] else lines.pop(0)
        values = {}
        for line in lines:
            if line["measure"] == "memory":
                values[f"memory:{line['process']}"] = line
            else:
                values.setdefault(line["measure"], {})[line["of"]] = line
        self.keep(part, shape, kind, mask or "", {"model": about, "figures": values})
        return values

    def keep(self, part, shape, kind, mask, entry):
        entry.update(part=part, shape=shape, kind=kind, mask=mask, date=datetime.date.today().isoformat())
        self.figures["runs"]["/".join((part, shape, kind, mask))] = entry
        with open(self.result + ".new", "w") as f:
            json.dump(self.figures, f, indent=1, sort_keys=True)
        os.replace(self.result + ".new", self.result)

    # ---- parts ------------------------------------------------------------------------------

    def decode(self, shape, path):
        measures = ["limits", "decode:1:f16:0", "decode:2:f16:0", "sample:2:f16:0", "decode:2:f16:2048",
                    "decode:2:int8:2048", "decode:2:f16:4096", "decode:2:int8:4096", "decode:1:int8:4096"]
        self.run("decode", shape, MAIN, path, measures)

    def prefill(self, shape, path):
        measures = ["limits", "prefill:2:f16:128", "prefill:2:f16:512", "prefill:2:int8:512", "prefill:1:f16:512",
                    "prefill:2:f16:2048"]
        self.run("prefill", shape, MAIN, path, measures)

    def rows(self, shape, path):
        self.run("rows", shape, MAIN, path, ["rows:2:1", "rows:2:8", "rows:1:1", "rows:1:8", "prefix:2"], tokens="32")

    def masks(self, shape, path):
        measures = ["limits", "prefill:2:f16:512", "prefill:1:f16:512", "rows:2:1", "rows:2:8", "decode:2:f16:0"]
        self.run("masks", shape, MAIN, path, measures, mask="avx2", tokens="32")

    def profile(self, shape, path):
        self.run("profile", shape, MAIN, path, ["profile:1:0", "profile:2:0", "profile:1:512", "profile:2:512"])

    def open(self, shape, path):
        self.run("open", shape, MAIN, path, ["open"])

    def memory(self, shape, path):
        self.run("memory", shape, MAIN, path, ["memory"])

    def pair(self, shape, path):
        """Two processes of two threads each against one, in turns."""
        print(f"pair: {shape} {MAIN}", flush=True)
        servers = [subprocess.Popen([self.program, path, "turns:2"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                    text=True) for _ in range(2)]
        for server in servers:
            assert server.stdout.readline() == "ready\n", "bench_model turns does not run"
        one, two = [], []
        for _ in range(int(TRIES)):
            for group, results in ((servers[:1], one), (servers, two)):
                for server in group:
                    server.stdin.write("decode 2\n")
                    server.stdin.flush()
                results.append(sum(float(server.stdout.readline()) for server in group))
        for server in servers:
            server.stdin.close()
            server.wait()
        self.keep("pair", shape, MAIN, "", {"model": {}, "figures": {
            "pair": {"one tokens/s": summary(one), "two tokens/s": summary(two), "two / one": summary([b / a for a, b in zip(one, two)])}}})

    def embed(self):
        for mask in (None, "avx2"):
            self.run("embed", "embed", "built-in", "embed", ["limits", "embed:1", "embed:2"], mask=mask)

    def types(self, shape, kinds):
        for kind in kinds:
            path = self.model(shape, kind)
            if path:
                self.run("types", shape, kind, path, ["limits", "decode:1:f16:0", "decode:2:f16:0", "prefill:2:f16:512"])
                self.drop(path)

    def float(self, shape, path):
        """The same shape in float16, beside it in the same run of turns where memory allows."""
        other = self.model(shape, "f16")
        if not other:
            return
        tokens = "16" if shape in ("bitnet-2b4t", "7b") else "32"
        for kind, file in ((MAIN, path), ("f16", other)):
            self.run("float", shape, kind, file, ["decode:2:f16:0", "prefill:2:f16:128"], tokens=tokens)
            self.run("float-memory", shape, kind, file, ["memory"])
        self.drop(other)

    def drop(self, path):
        if os.environ.get("BENCH_KEEP") != "1":
            os.remove(path)


def main(argv):
    bitlm = argv[1] if len(argv) > 1 else "build/bitlm"
    program = argv[2] if len(argv) > 2 else "build/meson/tests/bench_model"
    parts, shapes = words("BENCH_PARTS", PARTS), words("BENCH_SHAPES", ["100m", "700m"] if FAST else SHAPES)
    for name, given, known in (("BENCH_PARTS", parts, PARTS), ("BENCH_SHAPES", shapes, SHAPES),
                               ("BENCH_TYPES", words("BENCH_TYPES", ()), BYTES)):
        unknown = [x for x in given if x not in known]
        if unknown:
            sys.exit(f"bench_models.py: {name} names {unknown[0]}, but there are {' '.join(known)}")
    bench = Bench(bitlm, program)
    if "embed" in parts:
        bench.embed()
    for shape in shapes:
        path = bench.model(shape, MAIN)
        if not path:
            continue
        # Rows, masks and what is a property of the process are measured on the shape that the targets name.
        named = shape == ("bitnet-2b4t" if "bitnet-2b4t" in shapes else shapes[-1])
        for part in parts:
            if part in ("decode", "prefill", "float"):
                getattr(bench, part)(shape, path)
            elif part == "types":
                bench.types(shape, words("BENCH_TYPES", ("tq2_0", "tq1_0")))
            elif part != "embed" and named:
                getattr(bench, part)(shape, path)
        bench.drop(path)
    bench_report.report(bench.figures, write_documents=not FAST and os.environ.get("BENCH_DOCS") != "0")


if __name__ == "__main__":
    main(sys.argv)
