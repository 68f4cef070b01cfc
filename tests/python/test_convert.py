"""bitlm.convert and bitlm.quantize_model: the same files as the command, progress, exceptions."""
import pathlib
import signal
import subprocess
import tarfile
import threading
import time

import bitlm
import pytest
from conftest import SLACK

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("models")
    with tarfile.open(ROOT / "tests" / "data" / "convert" / "bitnet-packed.tar.xz") as tar:
        tar.extractall(where)
    return where / "bitnet-packed"


def test_convert_and_run(folder, tmp_path):
    seen = []
    bitlm.convert(folder, tmp_path / "m.gguf", type="tq1_0", embedding_type="q8_0", progress=seen.append)
    assert seen == sorted(seen) and seen[-1] == 1.0 and len(seen) > 5
    with bitlm.Model(tmp_path / "m.gguf") as m:
        assert m.generate("The river", max_tokens=3, ignore_eos=True)
    subprocess.run([ROOT / "build" / "bitlm", "convert", "--type", "tq1_0", "--embedding-type", "q8_0", folder,
                    tmp_path / "c.gguf"], check=True, timeout=60)
    assert (tmp_path / "m.gguf").read_bytes() == (tmp_path / "c.gguf").read_bytes()
    bitlm.convert(str(tmp_path / "m.gguf"), bytes(tmp_path / "n.gguf"), type="i2_s", threads=2)


def test_errors(folder, tmp_path):
    with pytest.raises(ValueError, match="q9"):
        bitlm.convert(folder, tmp_path / "m.gguf", type="q9")
    with pytest.raises(ValueError, match="threads is 257"):
        bitlm.convert(folder, tmp_path / "m.gguf", threads=257)
    with pytest.raises(OSError):
        bitlm.convert(tmp_path / "nothing", tmp_path / "m.gguf")
    (tmp_path / "bad.gguf").write_bytes(b"GGUF")
    with pytest.raises(bitlm.FormatError):
        bitlm.convert(tmp_path / "bad.gguf", tmp_path / "m.gguf")
    (tmp_path / "x.pth").write_bytes(b"")
    with pytest.raises(NotImplementedError, match="runs the code"):
        bitlm.convert(tmp_path / "x.pth", tmp_path / "m.gguf")

    assert not (tmp_path / "m.gguf").exists()

    def stop(fraction):
        raise KeyError("enough")
    with pytest.raises(KeyError, match="enough"):
        bitlm.convert(folder, tmp_path / "m.gguf", progress=stop)
    with pytest.raises(TypeError):
        bitlm.convert(folder)


TEXT = "A fox and a crow met at the well one morning, and neither would drink first. " * 12
STORY = ROOT / "core" / "builtin" / "bitlm-story.gguf"


def test_quantize_model(tmp_path):
    """The command's file and figures; a type for each tensor that was weighed."""
    seen = []
    made = bitlm.quantize_model(STORY, tmp_path / "p.gguf", TEXT, max_error=0.01, tokens=32, types=["q4_0", "q8_0"],
                                progress=seen.append, threads=2)
    done = subprocess.run([ROOT / "build" / "bitlm", "quantize", "--max-error", "0.01", "--tokens", "32", "--types", "q4_0,q8_0",
                           "--text", "-", STORY, tmp_path / "c.gguf"], check=True, timeout=60, input=TEXT, text=True,
                          capture_output=True)
    assert (tmp_path / "p.gguf").read_bytes() == (tmp_path / "c.gguf").read_bytes()
    said = dict(line.split(None, 1) for line in done.stdout.splitlines())
    assert f"{made['bytes']} of {made['source_bytes']}" == said["bytes"]
    assert made["bytes"] == (tmp_path / "p.gguf").stat().st_size < STORY.stat().st_size == made["source_bytes"]
    assert said["error"].startswith(f"{made['error']:.6f}") and 0 < made["error"] <= 0.01
    assert said["perplexity"].startswith(f"{made['perplexity']:.4f}, of the source {made['source_perplexity']:.4f}")
    assert seen == sorted(seen) and seen[-1] == 1.0 and len(seen) > 5
    changed = [t for t in made["tensors"] if t["type"] != t["source_type"]]
    assert changed and all(t["type"] in ("Q4_0", "Q8_0") and t["bytes"] < t["source_bytes"] for t in changed)
    assert abs(sum(t["error"] for t in made["tensors"]) - made["predicted_error"]) < 1e-12
    budget = made["bytes"]
    again = bitlm.quantize_model(str(STORY), bytes(tmp_path / "b.gguf"), TEXT, budget_bytes=budget, tokens=32, types="q4_0,q8_0")
    assert again["bytes"] <= budget
    with bitlm.Model(tmp_path / "b.gguf") as m:
        assert m.generate("The fox", max_tokens=3, ignore_eos=True)


@pytest.mark.parametrize("options, error, words", [
    ({}, ValueError, "one of budget_bytes and max_error"),
    ({"budget_bytes": 10 ** 7, "max_error": 0.1}, ValueError, "one of budget_bytes and max_error"),
    ({"budget_bytes": 100}, ValueError, "takes at least"),
    ({"budget_bytes": -1}, OverflowError, "negative|unsigned"),
    ({"max_error": float("nan")}, ValueError, "positive number"),
    ({"max_error": "much"}, TypeError, "number|float"),
    ({"max_error": 1, "tokens": 2}, ValueError, "tokens is 2"),
    ({"max_error": 1, "types": ["q9"]}, ValueError, "'q9'"),
    ({"max_error": 1, "types": [4]}, TypeError, "str"),
    ({"max_error": 1, "ternary": "x"}, ValueError, "ternary is 'x', but must be one of absmean, twn"),
    ({"max_error": 1, "scale": "x"}, ValueError, "scale is 'x', but must be one of tensor, row, group"),
    ({"max_error": 1, "threads": 257}, ValueError, "threads is 257"),
])
def test_quantize_model_refuses(tmp_path, options, error, words):
    with pytest.raises(error, match=words):
        bitlm.quantize_model(STORY, tmp_path / "m.gguf", TEXT, **{"tokens": 16, **options})
    assert list(tmp_path.iterdir()) == []


def test_quantize_model_is_stopped(tmp_path):
    """By Ctrl-C and by an exception of progress, within a moment; nothing is left."""
    def raise_(error):
        raise error

    with pytest.raises(KeyError, match="enough"):
        bitlm.quantize_model(STORY, tmp_path / "m.gguf", TEXT, max_error=0.01, progress=lambda f: raise_(KeyError("enough")))
    before = signal.signal(signal.SIGALRM, lambda *_: raise_(KeyboardInterrupt()))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            bitlm.quantize_model(STORY, tmp_path / "m.gguf", TEXT * 40, max_error=0.0001, tokens=8000, threads=1)
        assert time.monotonic() - began < 0.3 + 0.5 * SLACK
    finally:
        signal.signal(signal.SIGALRM, before)
    assert list(tmp_path.iterdir()) == []


def test_other_threads_run_meanwhile(tmp_path):
    """The GIL is free while the core measures."""
    turns, done = 0, threading.Event()

    def work():
        bitlm.quantize_model(STORY, tmp_path / "m.gguf", TEXT, max_error=0.01, tokens=64, threads=1)
        done.set()
    thread = threading.Thread(target=work)
    thread.start()
    while not done.wait(0.001):
        turns += 1
    thread.join()
    assert turns > 5
