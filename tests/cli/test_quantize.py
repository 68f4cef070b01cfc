"""`bitlm quantize`: ternary types by their formulas, and a type for each tensor by a budget of bytes or error."""
import os
import pathlib
import re
import signal
import struct
import subprocess
import tarfile
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BITLM = os.environ.get("BITLM", str(ROOT / "build" / "bitlm"))
STORY = ROOT / "core" / "builtin" / "bitlm-story.gguf"


def run(*args, status=0, command="quantize", **kwargs):
    done = subprocess.run([BITLM, command, *map(str, args)], capture_output=True, timeout=300, **kwargs)
    out, err = done.stdout.decode(), done.stderr.decode("utf-8", "replace")
    assert done.returncode == status, (done.returncode, err)
    return out if status == 0 else err


@pytest.fixture(scope="session")
def where(tmp_path_factory):
    """m.gguf: a random LLaMA of two layers in F16; text."""
    folder = tmp_path_factory.mktemp("quantize")
    with tarfile.open(ROOT / "tests" / "data" / "convert" / "llama-float.tar.xz") as tar:
        tar.extractall(folder)
    run(folder / "llama-float", folder / "m.gguf", command="convert")
    (folder / "text").write_text("A fox and a crow met at the well one morning, and neither would drink first. " * 12)
    return folder


def read_gguf(path):
    """{name: (type, dims, data)}; only what files of bitlm hold."""
    data, at = path.read_bytes(), 24

    def take(form):
        nonlocal at
        value = struct.unpack_from("<" + form, data, at)
        at += struct.calcsize("<" + form)
        return value if len(value) > 1 else value[0]

    def text():
        nonlocal at
        n = take("Q")
        at += n
        return data[at - n:at].decode()

    def value(kind):
        if kind == 8:
            return text()
        if kind == 9:
            inner, n = take("IQ")
            return [value(inner) for _ in range(n)]
        return take({10: "Q", 11: "q", 12: "d"}.get(kind) or "BbHhIif?"[kind])

    n_tensors, n_keys = struct.unpack_from("<QQ", data, 8)
    for _ in range(n_keys):
        text()
        value(take("I"))
    infos = []
    for _ in range(n_tensors):
        name, n_dims = text(), take("I")
        dims = [take("Q") for _ in range(n_dims)]
        infos.append((name, dims, *take("IQ")))
    start = (at + 31) // 32 * 32
    ends = sorted(offset for *_, offset in infos) + [len(data) - start]
    return {name: (kind, dims, data[start + offset:start + min(e for e in ends if e > offset)])
            for name, dims, kind, offset in infos}


def halves(data):
    return [x for x in struct.unpack(f"<{len(data) // 2}e", data)]


def decode_q2_0(data, k, n):
    """[(scale, 64 trits)] in the order of the weights."""
    assert len(data) >= k * n // 64 * 18
    for at in range(0, k * n // 64 * 18, 18):
        scale = struct.unpack_from("<e", data, at)[0]
        yield scale, [(data[at + 2 + j // 4] >> 2 * (j % 4) & 3) - 1 for j in range(64)]


@pytest.mark.parametrize("method", ["absmean", "twn"])
@pytest.mark.parametrize("per", ["tensor", "row", "group"])
def test_ternary_by_its_formula(where, tmp_path, method, per):
    """Every trit and scale of every layer, from the F16 weights in Python's doubles."""
    run("--type", "q2_0", "--ternary", method, "--scale", per, where / "m.gguf", tmp_path / "t.gguf")
    before, after, checked, odd = read_gguf(where / "m.gguf"), read_gguf(tmp_path / "t.gguf"), 0, 0
    for name, (kind, dims, data) in after.items():
        if kind != 42:
            assert before[name][0] == kind and before[name][2] == data
            continue
        k, n = dims
        w = halves(before[name][2][:2 * k * n])
        span = {"tensor": k * n, "row": k, "group": 64}[per]
        blocks = list(decode_q2_0(data, k, n))
        for at in range(0, k * n, span):
            part = w[at:at + span]
            mean = sum(map(abs, part)) / span
            limit = 0.7 * mean if method == "twn" else max(mean, 1e-5) / 2
            kept = [abs(x) for x in part if abs(x) > limit]
            scale = max(mean, 1e-5) if method == "absmean" else sum(kept) / len(kept)
            for i, (got, trits) in enumerate(blocks[at // 64:(at + span) // 64]):
                assert abs(got - scale) <= scale * 2 ** -10
                for x, trit in zip(part[64 * i:64 * i + 64], trits):
                    wanted = (x > limit) - (x < -limit)
                    odd += trit != wanted
                    assert trit == wanted or abs(abs(x) - limit) < 1e-6 * limit
            checked += span
    assert checked > 200_000 and odd < 5


def test_i2_s_has_one_scale(where, tmp_path):
    run("--type", "i2_s", where / "m.gguf", tmp_path / "a.gguf")
    run("--type", "i2_s", where / "m.gguf", tmp_path / "b.gguf", command="convert")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    err = run("--type", "i2_s", "--scale", "row", where / "m.gguf", tmp_path / "c.gguf", status=1)
    assert "i2_s has one scale for a tensor" in err


# ---- a type for each tensor ---------------------------------------------------------------------------------

def figures(out):
    error, alone = map(float, re.search(r"error +([\d.]+) nats a token \(sum of each change alone: ([\d.]+)\)", out).groups())
    return error, alone, int(re.search(r"^bytes +(\d+) of", out, re.M).group(1))


bits = {"Q2_0": 2.25, "Q4_0": 4.5, "Q4_1": 5, "Q8_0": 8.5, "F16": 16}


def test_budget_is_held_and_more_never_hurts(where, tmp_path):
    before = (float("inf"), float("inf"))
    for budget in (140_000, 170_000, 210_000, 260_000, 330_000, 420_000, 600_000, 900_000):
        out = run("--budget-bytes", budget, "--text", where / "text", where / "m.gguf", tmp_path / "q.gguf")
        error, alone, size = figures(out)
        assert size == (tmp_path / "q.gguf").stat().st_size <= budget
        assert error <= before[0] and alone <= before[1], (budget, out)
        before = error, alone
        run("--max-tokens", "64", tmp_path / "q.gguf", where / "text", command="perplexity")
    assert before == (0, 0)  # there was room for everything as it is
    for name, tensor in read_gguf(where / "m.gguf").items():
        assert read_gguf(tmp_path / "q.gguf")[name] == tensor


@pytest.mark.parametrize("kind", ["q4_0", "q4_1", "q8_0"])
def test_not_worse_than_one_type(where, tmp_path, kind):
    """In a file of the size of one type throughout, the choice is that, or has less error on the text, and no greater perplexity
    where it pays by coarser tensors."""
    run("--type", kind, "--embedding-type", kind, where / "m.gguf", tmp_path / "u.gguf")
    budget = (tmp_path / "u.gguf").stat().st_size + 1024  # for keys
    texts = ["A fox and a crow met at the well one morning, and neither would drink first. ", "The king ate an egg. ",
             "Rain fell on seven mills; nobody ground a grain of it. ", "One, two, buckle my shoe! "]
    paid = 0
    for text in texts:
        (tmp_path / "text").write_text(text * 30)
        found = []
        for types in (kind, "q2_0,q4_0,q4_1,q8_0"):
            out = run("--budget-bytes", budget, "--tokens", 32, "--types", types, "--report", "--text", tmp_path / "text",
                      where / "m.gguf", tmp_path / "q.gguf")
            error, _, size = figures(out)
            assert size <= budget
            found.append((error, float(re.search(r"^perplexity +([\d.]+),", out, re.M).group(1)),
                          {bits[t] for t in re.findall(r"^\S+\.weight +\S+ +(\S+) ", out, re.M)}))
        (error, perplexity, _), (chosen_error, chosen_perplexity, chosen) = found
        coarser = min(chosen) < bits[kind.upper()]
        paid += coarser
        assert 0 < chosen_error <= error
        assert not coarser or chosen_perplexity <= perplexity
    print(paid, "choices pay by coarser tensors")


def test_candidates_are_measured_on_other_tokens(where, tmp_path):
    """Errors come from the text's first tokens, the choice among candidates from those after them, where there are enough."""
    def measured(text):
        (tmp_path / "text").write_text(text)
        return figures(run("--budget-bytes", 200_000, "--tokens", 64, "--text", tmp_path / "text", where / "m.gguf",
                           tmp_path / "q.gguf"))[:2]

    first = "A fox and a crow met at the well one morning, and neither would drink first. " * 4
    short = measured(first)
    assert measured(first + "Nobody.") == short
    (error, total), (other, same) = (measured(first + rest * 40) for rest in ("The king ate an egg. ", "Rain fell on seven mills. "))
    assert total == same == short[1] and error != other and error != short[0]


def test_error_is_held(where, tmp_path):
    sizes = []
    for limit in (2.0, 0.5, 0.05, 0.005, 0.0005):
        out = run("--max-error", limit, "--text", where / "text", where / "m.gguf", tmp_path / "q.gguf")
        error, _, size = figures(out)
        assert error <= limit
        sizes.append(size)
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1] / 2


def test_threads_and_report(where, tmp_path):
    outs = [run("--budget-bytes", 200_000, "--threads", n, "--report", "--text", where / "text", where / "m.gguf",
                tmp_path / f"{n}.gguf") for n in (1, 2, 3)]
    assert outs[0] == outs[1] == outs[2]
    assert (tmp_path / "1.gguf").read_bytes() == (tmp_path / "2.gguf").read_bytes() == (tmp_path / "3.gguf").read_bytes()
    rows = re.findall(r"^(\S+\.weight) +(\S+) +(\S+) +(\d+)  ([\d.]+)$", outs[0], re.M)
    kinds = {"F16": 1, "Q2_0": 42, "Q4_0": 2, "Q8_0": 8}
    file = read_gguf(tmp_path / "1.gguf")
    assert len(rows) == 16 and abs(sum(float(r[4]) for r in rows) - figures(outs[0])[1]) < 1e-4
    for name, source, kind, size, _ in rows:
        assert source == "F16" and file[name][0] == kinds[kind]


def test_types_to_choose_from(where, tmp_path):
    out = run("--budget-bytes", 700_000, "--types", "i2_s,q4_1", "--scale", "tensor", "--text", where / "text", where / "m.gguf",
              tmp_path / "q.gguf")
    assert set(re.findall(r"^(\S+) +\d+ tensors", out, re.M)) <= {"I2_S", "Q4_1", "F16"}


def test_a_ternary_model_keeps_its_layers(where, tmp_path):
    """Nothing is smaller than trits: only the embedding of the built-in can shrink."""
    out = run("--max-error", "0.01", "--tokens", "32", "--text", where / "text", "--report", STORY, tmp_path / "q.gguf")
    assert "I2_S" in out and figures(out)[2] < STORY.stat().st_size
    changed = [r for r in re.findall(r"^(\S+\.weight) +(\S+) +(\S+) ", out, re.M) if r[1] != r[2]]
    assert [c[0] for c in changed] == ["token_embd.weight"]


REFUSED = [
    ([], 2, "takes one of --type, --budget-bytes and --max-error"),
    (["--type", "q8_0", "--max-error", "1"], 2, "takes one of"),
    (["--type", "q8_0", "--text", "TEXT"], 2, "belong to"),
    (["--type", "q9"], 1, "bitlm writes f32"),
    (["--type", "q2_0", "--scale", "block"], 2, "must be one of tensor, row, group"),
    (["--type", "q2_0", "--ternary", "x"], 2, "must be one of absmean, twn"),
    (["--budget-bytes", "1000000"], 2, "need --text"),
    (["--budget-bytes", "0", "--text", "TEXT"], 2, "whole number"),
    (["--budget-bytes", "100", "--text", "TEXT"], 1, "with these types the model takes at least"),
    (["--max-error", "-1", "--text", "TEXT"], 2, "positive number"),
    (["--max-error", "nan", "--text", "TEXT"], 2, "positive number"),
    (["--max-error", "1", "--tokens", "2", "--text", "TEXT"], 2, "whole number"),
    (["--max-error", "1", "--types", "q4_0,,q8_0", "--text", "TEXT"], 1, "list of 1 to 8 names"),
    (["--max-error", "1", "--types", "q5_0", "--text", "TEXT"], 1, "q5_0"),
    (["--max-error", "1", "--text", "/nowhere"], 1, "cannot read /nowhere"),
    (["--max-error", "1", "--text", "SHORT"], 1, "at least 16"),
    (["--max-error", "1", "--embedding-type", "f16", "--text", "TEXT"], 2, "belongs to --type"),
]


@pytest.mark.parametrize("i", range(len(REFUSED)))
def test_refusals(where, tmp_path, i):
    args, status, sentence = REFUSED[i]
    (tmp_path / "short").write_text("a")
    names = {"TEXT": where / "text", "SHORT": tmp_path / "short"}
    err = run(*[names.get(a, a) for a in args], where / "m.gguf", tmp_path / "q.gguf", status=status)
    assert sentence in err and err.startswith("bitlm: ") and not (tmp_path / "q.gguf").exists(), err


def test_what_cannot_be_measured(where, tmp_path):
    budget = ["--max-error", "1", "--text", where / "text"]
    assert "nothing to measure errors by" in run(*budget, ROOT / "core" / "builtin" / "bitlm-embed.gguf", tmp_path / "q.gguf",
                                                 status=1)
    assert "must be named *.gguf" in run(*budget, where / "m.gguf", tmp_path / "folder", status=1)
    assert "No such file" in run(*budget, where / "m.gguf", tmp_path / "no" / "q.gguf", status=1)
    assert "No such file" in run(*budget, tmp_path / "none.gguf", tmp_path / "q.gguf", status=1)
    assert os.listdir(tmp_path) == []


def test_interrupt_leaves_nothing(where, tmp_path):
    run("--type", "f16", STORY, where / "story16.gguf")
    child = subprocess.Popen([BITLM, "quantize", "--max-error", "0.001", "--tokens", "4096", "--text", where / "text",
                              where / "story16.gguf", tmp_path / "q.gguf"], stderr=subprocess.PIPE)
    time.sleep(0.5)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=20)
    assert child.returncode == 130 and err == b"" and os.listdir(tmp_path) == []


def test_progress_on_a_terminal(where, tmp_path):
    controller, terminal = os.openpty()
    child = subprocess.Popen([BITLM, "quantize", "--budget-bytes", "200000", "--text", where / "text", where / "m.gguf",
                              tmp_path / "q.gguf"], stderr=terminal, stdout=subprocess.DEVNULL)
    os.close(terminal)
    shown = b""
    while True:
        try:
            piece = os.read(controller, 4096)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    assert child.wait() == 0
    percents = [int(p) for p in re.findall(rb"(\d+) %", shown)]
    assert percents == sorted(percents) and percents[-1] == 100 and len(percents) > 20
