"""bench_report.py: tables, targets and the chart from what bench_models.py and bench_peers.py measured.

report(figures) prints them; with write_documents it puts the tables between the marker lines of docs/BENCHMARKS.md
and, where matplotlib is installed, draws docs/bench_models.svg and .png.  By itself it reports the kept
build/bench.json again:  python3 tests/bench/bench_report.py [--documents]
"""
import json
import sys

DOCUMENT = "docs/BENCHMARKS.md"
BEGIN, END = "<!-- make bench: begin -->", "<!-- make bench: end -->"
CHART = "docs/bench_models"
MAIN = "i2_s"
MB = 1e6


class Figures:
    """The runs of build/bench.json, asked by part, shape, type and mask; what was not measured is None."""

    def __init__(self, figures):
        self.runs, self.cpu = figures.get("runs", {}), figures.get("cpu", "?")

    def entry(self, part, shape, kind=MAIN, mask=""):
        return self.runs.get("/".join((part, shape, kind, mask)))

    def all(self, part):
        return [run for run in self.runs.values() if run["part"] == part]

    def get(self, part, shape, measure, of, kind=MAIN, mask="", value="median"):
        entry = self.entry(part, shape, kind, mask)
        try:
            return entry["figures"][measure][of][value]
        except (TypeError, KeyError):
            return None

    def shapes(self, part):
        order = ["100m", "700m", "bitnet-2b4t", "7b"]
        return sorted({run["shape"] for run in self.all(part)}, key=lambda s: order.index(s) if s in order else 9)


def bandwidth(f, part, shape, threads, kind=MAIN, mask=""):
    """GB/s: the greater of the two, the model's own pages and anonymous memory."""
    values = [f.get(part, shape, "limits", f"{of} GB/s {threads}", kind, mask) for of in ("mapped", "anonymous")]
    values = [value for value in values if value]
    return max(values) if values else None


def peak(f, part, shape, threads, names, kind=MAIN, mask=""):
    """GOP/s of the fastest of the named instructions."""
    values = [f.get(part, shape, "limits", f"{name} GOP/s {threads}", kind, mask) for name in names]
    values = [value for value in values if value]
    return max(values) if values else None


def divide(a, b):
    return a / b if a is not None and b else None


def decode_limit(f, part, shape, threads, depth=0, kv="kv_f16", kind=MAIN):
    """Tokens a second if nothing but reading the weights, the head and the cache took time."""
    entry, rate = f.entry(part, shape, kind), bandwidth(f, part, shape, threads, kind)
    if not entry or not rate:
        return None
    model = entry["model"]
    return rate * 1e9 / (model["token_bytes"] + depth * model[kv])


def prefill_rate(f, part, shape, measure, kind=MAIN, mask=""):
    """GOP/s of the layers' matrices."""
    entry, rate = f.entry(part, shape, kind, mask), f.get(part, shape, measure, "tokens/s", kind, mask)
    return rate * entry["model"]["token_ops"] * 1e-9 if rate else None


# ---- targets --------------------------------------------------------------------------------


def targets(f):
    """(name, value, target, met) for each that was measured; the issue of the kernels names them."""
    vnni = ("vnni256", "vnni512")
    rows = []

    def at_least(name, value, target):
        if value is not None:
            rows.append((name, value, f">= {target:g}", value >= target))

    def at_most(name, value, target, unit=""):
        if value is not None:
            rows.append((name, value, f"<= {target:g}{unit}", value <= target))

    for shape in f.shapes("decode"):
        for threads in (2, 1):
            rate = f.get("decode", shape, f"decode:{threads}:f16:0", "tokens/s")
            least = 0.8 if shape in ("bitnet-2b4t", "7b") else 0.6
            at_least(f"decode {shape} {threads}T / bandwidth", divide(rate, decode_limit(f, "decode", shape, threads)),
                     least)
        deep = f.get("decode", shape, "decode:2:int8:4096", "tokens/s")
        at_least(f"decode {shape} 2T depth 4096 int8 / bandwidth",
                 divide(deep, decode_limit(f, "decode", shape, 2, 4096, "kv_int8")), 0.7)
        one, two = (f.get("decode", shape, f"decode:{t}:f16:0", "tokens/s") for t in (1, 2))
        # At four fifths of the bandwidth, the target above, it is the limit.
        if one and two and 0.8 * decode_limit(f, "decode", shape, 2) > 1.7 * one:
            at_least(f"decode {shape} 2T / 1T, where bandwidth allows", two / one, 1.7)
    for shape in f.shapes("prefill"):
        amx = peak(f, "prefill", shape, 2, ("amx",))
        plain, integer = (prefill_rate(f, "prefill", shape, f"prefill:2:{kv}:512") for kv in ("f16", "int8"))
        at_least(f"prefill 512 {shape} int8 / AMX", divide(integer, amx), 0.45)
        at_least(f"prefill 512 {shape} f16 / AMX", divide(plain, amx), 0.30)
        for threads in (2, 1):
            at_least(f"prefill 512 {shape} {threads}T / VPDPBUSD",
                     divide(prefill_rate(f, "prefill", shape, f"prefill:{threads}:f16:512"),
                            peak(f, "prefill", shape, threads, vnni)), 0.65)
        one = f.get("prefill", shape, "prefill:1:f16:512", "tokens/s")
        at_least(f"prefill 512 {shape} 2T / 1T", divide(f.get("prefill", shape, "prefill:2:f16:512", "tokens/s"), one), 1.8)
    for shape in f.shapes("masks"):
        for threads in (2, 1):
            at_least(f"prefill 512 {shape} AVX2 {threads}T / maddubs",
                     divide(prefill_rate(f, "masks", shape, f"prefill:{threads}:f16:512", mask="avx2"),
                            peak(f, "masks", shape, threads, ("maddubs",), mask="avx2")), 0.60)
        one, eight = (f.get("masks", shape, f"rows:2:{n}", "tokens/s", mask="avx2") for n in (1, 8))
        at_least(f"8 rows {shape} AVX2 / one", divide(eight, one), 2.2)
    for shape in f.shapes("rows"):
        one, eight = (f.get("rows", shape, f"rows:2:{n}", "tokens/s") for n in (1, 8))
        at_least(f"8 rows {shape} / one", divide(eight, one), 3)
        at_most(f"200-token prefix {shape}, later / first", f.get("rows", shape, "prefix:2", "share of first"), 0.05)
    for shape in f.shapes("open"):
        at_most(f"open {shape}, model and session",
                sum(f.get("open", shape, "open", of) or 0 for of in ("model ms", "session ms", "id again ms")), 50, " ms")
    for run in f.all("memory"):
        second = run["figures"].get("memory:2")
        if second:
            at_most(f"private memory {run['shape']}, second process beyond KV", (second["private"] - second["kv"]) / MB, 40,
                    " MB")
    for shape in f.shapes("pair"):
        at_least(f"two processes of 2 threads {shape} / one", f.get("pair", shape, "pair", "two / one"), 0.8)
    for mask, names, title in (("", vnni, "VPDPBUSD"), ("avx2", ("maddubs",), "maddubs")):
        for threads in (1, 2):
            at_least(f"embed 20-token texts {threads}T / {title}",
                     divide(prefill_rate(f, "embed", "embed", f"embed:{threads}", "built-in", mask),
                            peak(f, "embed", "embed", threads, names, "built-in", mask)), 0.4)
    for shape in f.shapes("profile"):
        for n, title in ((0, "decode"), (512, "prefill")):
            for threads in (1, 2):
                at_least(f"operations of {title} {shape} {threads}T, % of wall time",
                         f.get("profile", shape, f"profile:{threads}:{n}", "sum"), 97)
    for run in f.all("peers"):
        for name, value in sorted(run["figures"].get("ratios", {}).items()):
            least = 1
            if name.startswith("decode"):  # twice the other, or ahead of it where memory forbids that
                sides = run["figures"][f"decode, {name.split()[1]}, tokens"]
                theirs = next(side["median"] for who, side in sides.items() if who not in ("bitlm", "limit"))
                least = 1 if "limit" in sides and sides["limit"]["median"] < 2 * theirs else 2
            at_least(f"{name}, {run['shape']} {run['kind']}", value["median"], least)
    return rows


def print_targets(f):
    rows = targets(f)
    if rows:
        width = max(len(row[0]) for row in rows)
        print("\ntargets")
        for name, value, target, met in rows:
            print(f"{name:{width}}  {value:8.3g}  {target:10}  {'met' if met else 'missed'}")


# ---- tables -------------------------------------------------------------------------------------


def number(value, digits=3):
    if value is None:
        return "–"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def spread(f, part, shape, measure, of="tokens/s", **kwargs):
    middle = f.get(part, shape, measure, of, **kwargs)
    if middle is None:
        return "–"
    least, most = (f.get(part, shape, measure, of, value=v, **kwargs) for v in ("min", "max"))
    return f"{number(middle)} ({number(least)}–{number(most)})"


def table(title, head, rows):
    rows = [row for row in rows if any(cell != "–" for cell in row[1:])]
    if not rows:
        return []
    return [f"**{title}**", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head),
            *("| " + " | ".join(row) + " |" for row in rows), ""]


def limit_rows(f):
    for part in ("decode", "prefill", "embed"):
        for run in sorted(f.all(part), key=lambda run: run["model"]["file_bytes"]):
            if "limits" in run["figures"] and not run["mask"]:
                shape, kind = run["shape"], run["kind"]
                yield [f"{shape}, part {part}, {run['model']['file_bytes'] / MB:,.0f} MB"] + [
                    "/".join(number(f.get(part, shape, "limits", f"{of} {threads}", kind)) for threads in (1, 2))
                    for of in ("mapped GB/s", "anonymous GB/s", "maddubs GOP/s", "vnni256 GOP/s", "vnni512 GOP/s", "amx GOP/s")]


def tables(f):
    lines = []
    lines += table("Limits, 1 / 2 threads: GB/s read from the model's own pages and from as much anonymous memory; int8 GOP/s",
                   ["beside", "mapped", "anonymous", "maddubs", "VPDPBUSD 256", "VPDPBUSD 512", "AMX"], limit_rows(f))
    decode = [("depth 0, 1 thread", "decode:1:f16:0"), ("depth 0", "decode:2:f16:0"), ("default sampling", "sample:2:f16:0"),
              ("depth 2048, f16", "decode:2:f16:2048"), ("depth 2048, int8", "decode:2:int8:2048"),
              ("depth 4096, f16", "decode:2:f16:4096"), ("depth 4096, int8", "decode:2:int8:4096")]
    shapes = f.shapes("decode")
    lines += table("Decode, I2_S with a 6-bit head: tokens/s, median (least–greatest); 2 threads but where said",
                   ["", *shapes], [[title] + [spread(f, "decode", shape, m) for shape in shapes] for title, m in decode]
                   + [["ms a token at depth 0, median / p99"] + ["/".join(number(f.get("decode", s, "decode:2:f16:0", "token ms",
                                                                                      value=v)) for v in ("median", "p99"))
                                                                for s in shapes]]
                   + [[f"of the bandwidth limit, {t} thread{'s'[:t - 1]}"] +
                      [number(divide(f.get("decode", s, f"decode:{t}:f16:0", "tokens/s"), decode_limit(f, "decode", s, t)), 2)
                       for s in shapes] for t in (1, 2)])
    shapes = f.shapes("prefill")
    prefill = [("128 tokens", "prefill:2:f16:128"), ("512", "prefill:2:f16:512"), ("512, 1 thread", "prefill:1:f16:512"),
               ("512, int8 KV", "prefill:2:int8:512"), ("2048", "prefill:2:f16:2048")]
    lines += table("Prefill, the first token of the answer included: tokens/s", ["", *shapes],
                   [[title] + [spread(f, "prefill", s, m) for s in shapes] for title, m in prefill]
                   + [["ms to the first token, 512"] + [spread(f, "prefill", s, "prefill:2:f16:512", "first token ms") for s in shapes]]
                   + [["GOP/s, 512"] + [number(prefill_rate(f, "prefill", s, "prefill:2:f16:512")) for s in shapes]])
    types = sorted({(run["shape"], run["kind"]) for run in f.all("types")})
    lines += table("Other types, 6-bit head: tokens/s", ["", "MB a token", "decode, 1 thread", "decode", "prefill 512"],
                   [[f"{s}, {k.upper()}", number(f.entry("types", s, k)["model"]["token_bytes"] / MB)] +
                    [spread(f, "types", s, m, kind=k) for m in ("decode:1:f16:0", "decode:2:f16:0", "prefill:2:f16:512")]
                    for s, k in types])
    lines += table("Rows together: tokens/s of all, 2 threads", ["", "1 row", "8 rows"],
                   [[f"{s}, {title}"] + [spread(f, part, s, f"rows:2:{n}", mask=mask) for n in (1, 8)]
                    for part, mask, title in (("rows", "", "best kernels"), ("masks", "avx2", "AVX2")) for s in f.shapes(part)])
    lines += table("Embedding, built-in encoder, 256 texts of 20 tokens in a call", ["", "texts/s, 1 thread", "texts/s, 2 threads"],
                   [[title] + [spread(f, "embed", "embed", f"embed:{t}", "texts/s", kind="built-in", mask=mask) for t in (1, 2)]
                    for mask, title in (("", "best kernels"), ("avx2", "AVX2"))])
    lines += operation_table(f)
    lines += float_table(f)
    lines += peer_table(f)
    return lines


def operation_table(f):
    lines = []
    for shape in f.shapes("profile"):
        figures = f.entry("profile", shape)["figures"]
        names = [of for of in next(iter(figures.values())) if of not in ("sum", "other")]
        names.sort(key=lambda of: -(f.get("profile", shape, "profile:2:0", of) or 0))
        columns = [("decode, 1 thread", "profile:1:0"), ("decode, 2", "profile:2:0"), ("prefill 512, 1", "profile:1:512"),
                   ("prefill 512, 2", "profile:2:512")]
        lines += table(f"Where the wall time of {shape} goes, %", ["", *(c[0] for c in columns)],
                       [[of] + [number(f.get("profile", shape, m, of), 3) for _, m in columns] for of in [*names, "sum"]])
    return lines


def float_rows(f):
    """(shape, type, file bytes, ms a token, ms of the first of 128, peak memory) of what part float measured."""
    for shape in f.shapes("float"):
        for kind in (MAIN, "f16"):
            entry = f.entry("float", shape, kind)
            if entry:
                memory = f.entry("float-memory", shape, kind)
                yield (shape, kind, entry["model"]["file_bytes"],
                       f.get("float", shape, "decode:2:f16:0", "token ms", kind),
                       f.get("float", shape, "prefill:2:f16:128", "first token ms", kind),
                       memory["figures"]["memory:1"]["peak_rss"] if memory else None)


def float_table(f):
    return table("Beside the float16 model of the same shape, 2 threads",
                 ["", "file, MB", "ms a token", "ms to the first of 128 tokens", "peak memory, MB"],
                 [[f"{shape}, {'I2_S + Q6_K' if kind == MAIN else 'F16'}", number(size / MB), number(token), number(first),
                   number(memory / MB if memory else None)] for shape, kind, size, token, first, memory in float_rows(f)])


def peer_table(f):
    rows = []
    for run in sorted(f.all("peers"), key=lambda run: (run["shape"], run["kind"])):
        for measure, sides in run["figures"].items():
            if measure == "ratios":
                continue
            for who in sides:
                rows.append([f"{run['shape']}, {run['kind'].upper()}, {measure}", who,
                             spread(f, "peers", run["shape"], measure, who, kind=run["kind"], mask=run["mask"]), run["date"]])
    return table("Beside other programs, in turns in one run: per second", ["", "program", "median", "date"], rows)


# ---- documents -----------------------------------------------------------------------------------


def write_document(lines, cpu):
    with open(DOCUMENT) as f:
        text = f.read()
    before, found, rest = text.partition(BEGIN + "\n")
    middle, closed, after = rest.partition(END + "\n")
    if not found or not closed:
        print(f"{DOCUMENT} lacks its marker lines, so it is left as it is")
        return
    body = "\n".join([f"Measured on {cpu}.", "", *lines])
    with open(DOCUMENT, "w") as f:
        f.write(before + found + body + closed + after)
    print(f"wrote the tables of {DOCUMENT}")


def draw(f):
    """Latency and memory against the number of weights, beside float16."""
    rows = list(float_rows(f))
    try:
        import matplotlib
        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        print("matplotlib is not installed (Debian's package python3-matplotlib), so the chart is left as it is")
        return
    matplotlib.rcParams.update({"font.size": 11, "svg.hashsalt": "bitlm", "svg.fonttype": "none"})
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4.2))
    for axis, of, unit, title in ((axes[0], 3, 1, "Time of a token, 2 threads"), (axes[1], 5, MB, "Peak memory")):
        for kind, name, colour in (("f16", "float16", "#8a8f98"), (MAIN, "1.58 bits (I2_S, 6-bit head)", "#0b6e99")):
            points = [(f.entry("float", row[0], kind)["model"]["parameters"] / 1e9, row[of] / unit, row[0]) for row in rows
                      if row[1] == kind and row[of]]
            if not points:
                continue
            axis.plot([p[0] for p in points], [p[1] for p in points], "o-", color=colour, label=name)
            for x, y, shape in points:
                axis.annotate(f"{y:,.3g}" if y < 1000 else f"{y:,.0f}", (x, y), textcoords="offset points",
                              xytext=(0, 8) if kind == "f16" else (0, -16), ha="center", color=colour, fontsize=10)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.margins(0.12, 0.2)
        ticks = sorted({f.entry("float", row[0], row[1])["model"]["parameters"] / 1e9: row[0] for row in rows}.items())
        axis.set_xticks([t[0] for t in ticks], [f"{name}\n{x:.2g} B" for x, name in ticks])
        axis.minorticks_off()
        axis.set_title(f"{title}, {'ms' if of == 3 else 'MB'}")
        axis.grid(True, which="major", alpha=0.25)
        axis.legend(frameon=False, loc="upper left")
    figure.suptitle(f.cpu, fontsize=10, color="#555555")
    figure.tight_layout()
    figure.savefig(CHART + ".svg", metadata={"Date": None})
    figure.savefig(CHART + ".png", dpi=110)
    print(f"drew {CHART}.svg and {CHART}.png")


def report(figures, write_documents):
    f = Figures(figures)
    lines = tables(f)
    print("\n" + f.cpu + "\n")
    print("\n".join(lines))
    print_targets(f)
    if write_documents:
        target_lines = table("Targets", ["", "value", "target", ""],
                             [[name, number(value), target, "met" if met else "**missed**"] for name, value, target, met in targets(f)])
        write_document(lines + target_lines, f.cpu)
        if any(run["kind"] == "f16" for run in f.all("float")):
            draw(f)


if __name__ == "__main__":
    with open("build/bench.json") as file:
        report(json.load(file), "--documents" in sys.argv)
