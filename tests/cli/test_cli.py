"""The command: every subcommand, its options, its errors, and Ctrl-C.

Run by `make check` after the build: /usr/bin/python3 -m pytest tests/cli.  BITLM names another binary.
"""
import json
import os
import pathlib
import platform
import signal
import struct
import subprocess
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BITLM = os.environ.get("BITLM", str(ROOT / "build" / "bitlm"))


def run(*args, stdin=b"", timeout=120, **kwargs):
    done = subprocess.run([BITLM, *args], input=stdin, capture_output=True, timeout=timeout, **kwargs)
    return done.returncode, done.stdout, done.stderr.decode("utf-8", "replace")


def ok(*args, **kwargs):
    status, out, err = run(*args, **kwargs)
    assert status == 0, err
    return out


def refused(*args, status=2, **kwargs):
    """One sentence on stderr, nothing on stdout."""
    got, out, err = run(*args, **kwargs)
    assert got == status, (got, out, err)
    assert out == b""
    assert err.startswith("bitlm: ") and err.count("\n") == 1 and len(err) > 15, err
    return err


# ---- the front --------------------------------------------------------------------------

def test_help_and_version():
    text = ok("help").decode()
    for command in ("generate", "embed", "info", "synth", "perplexity", "version"):
        assert command in text
        if command != "version":
            assert b"usage: bitlm " + command.encode() in ok(command, "--help")
    assert ok("--help") == ok("help")
    assert ok("version").startswith(b"bitlm 0.")
    assert ok("--version") == ok("version")


def test_kernels_are_named_and_plain_ones_warned_of():
    """BITLM_CPU=neon on x86-64 and avx2 on ARM leave no instructions, as on a processor that has none."""
    foreign = "neon" if platform.machine() == "x86_64" else "avx2"
    def cpu(name):
        return {**os.environ, "BITLM_CPU": name}
    assert ok("version", env=cpu("ref")).endswith(b", kernels ref\n")
    assert ok("version", env=cpu(foreign)).endswith(b", kernels ref\n")
    texts = []
    for name, warned in (("ref", False), (foreign, True), ("", False)):
        status, out, err = run("generate", "--max-tokens", "3", "Once", env=cpu(name))
        assert status == 0
        assert (err == "") != warned, (name, err)
        if warned:
            assert err.startswith("bitlm: warning: this processor has none of the instructions") and err.count("\n") == 1
        texts.append(out)
    assert texts[0] == texts[1] == texts[2]


def test_info_memory():
    lines = ok("info", "story", "--memory", "--n-ctx", "256", "--kv-type", "int4").decode()
    assert "n_ctx 256" in lines and f"{2 * 6 * 256 * (128 + 16):,}" in lines and "total" in lines
    status, _, err = run("info", "story", "--memory", "--n-ctx", "9999")
    assert status == 1 and "512 tokens" in err


def test_no_command_shows_the_help_and_fails():
    status, out, err = run()
    assert status == 2 and out == b"" and "generate" in err


def test_each_gives_what_single_prompts_give():
    prompts = ["Once upon a time", "The fox", "", "A “quoted” word\t"]
    options = ["--max-tokens", "9", "--seed", "4"]
    want = [json.dumps(ok("generate", *options, p).decode().rstrip("\n")) for p in prompts]

    def texts(out):
        return [json.dumps(json.loads(line).rstrip("\n")) for line in out.decode().splitlines()]
    assert texts(ok("generate", "--each", *options, *prompts)) == want
    assert texts(ok("generate", "--each", *options, "--rows", "1", "--lookup", "5", *prompts)) == want
    lines = "".join(p + "\r\n" for p in prompts).encode()
    assert texts(ok("generate", "--each", *options, "-", stdin=lines)) == want
    assert texts(ok("generate", "--each", *options, "-", stdin=lines[:-2])) == want
    assert ok("generate", "--each", "-", stdin=b"") == b""
    assert "logprobs" in refused("generate", "--each", "--logprobs", "a")
    assert "needs --chat" in refused("generate", "--each", "--system", "s", "a")
    assert "rows is 17" in refused("generate", "--each", "--rows", "17", "a")
    assert "prompt 1: the prompt of 9000 bytes" in refused("generate", "--each", "a", "b" * 9000, status=1)


def test_unknown_command_is_named():
    assert "frobnicate" in refused("frobnicate")
    assert "\x1b" not in refused("evil\x1b[2J")


# ---- generate -----------------------------------------------------------------------------

def test_generate_repeats_itself_and_the_seed_changes_it():
    first = ok("generate", "--max-tokens", "24", "Once upon a time")
    assert len(first.split()) > 5 and first.endswith(b"\n")
    first.decode("utf-8")
    assert ok("generate", "--max_tokens=24", "Once upon a time") == first
    assert ok("generate", "--max-tokens", "24", "--threads", "1", "Once upon a time") == first
    assert ok("generate", "--max-tokens", "24", "--seed", "9", "Once upon a time") != first


def test_generate_reads_stdin_without_its_last_line_end():
    expected = ok("generate", "--max-tokens", "8", "The king")
    assert ok("generate", "--max-tokens", "8", "-", stdin=b"The king\n") == expected
    assert ok("generate", "--max-tokens", "8", "-", stdin=b"The king") == expected
    assert ok("generate", "--max-tokens", "8", "-", stdin=b"The king\r\n") == expected


def test_generate_stops_before_a_stop_text():
    text = ok("generate", "--max-tokens", "60", "--temperature", "0", "Once upon a time")
    word = text.decode().split()[6]
    cut = ok("generate", "--max-tokens", "60", "--temperature", "0", "--stop", word, "--stop", "\x01",
             "Once upon a time")
    assert word not in cut.decode() and text.startswith(cut.rstrip(b"\n"))


def test_generate_zero_tokens():
    assert ok("generate", "--max-tokens", "0", "Once upon a time").strip() == b""


def test_generate_a_prompt_that_begins_with_a_hyphen():
    assert "there is no option -x" in refused("generate", "-x")
    ok("generate", "--max-tokens", "3", "--", "-x")


def test_generate_odd_prompts():
    for prompt in (b"", b"\xff\xfe broken \xc3", "日本語 🐢".encode(), b"nul \0 inside"):
        ok("generate", "--max-tokens", "4", "-", stdin=prompt).decode("utf-8")


def test_generate_logprobs_are_lines():
    lines = ok("generate", "--logprobs", "--max-tokens", "6", "Once upon a time").decode().splitlines()
    assert len(lines) == 6
    plain = ok("generate", "--max-tokens", "6", "Once upon a time").decode()
    text = ""
    for i, line in enumerate(lines):
        n, token, logprob, piece = line.split("\t")
        assert int(n) == i and int(token) >= 0 and float(logprob) <= 0
        text += json.loads(piece)
    assert text.strip() == plain.strip()


def test_generate_stats_go_to_stderr():
    status, out, err = run("generate", "--stats", "--max-tokens", "5", "Once upon a time")
    assert status == 0 and "prefill:" in err and "decode:" in err and "tokens/s" in err
    assert "ended by: length" in err
    assert out == ok("generate", "--max-tokens", "5", "Once upon a time")


@pytest.mark.parametrize("how", [("--temperature", "0"), ("--top-k", "20"), ("--top-p", "1", "--each"), ("--logprobs",)])
def test_generate_shortlist(how):
    """The same bytes with the head's shortlist, which says how much it read."""
    common = ("--max-tokens", "12", *how)
    want = ok("generate", *common, "Once upon a time")
    status, out, err = run("generate", "--head", "shortlist", "--stats", *common, "Once upon a time") if "--each" not in how else \
        run("generate", "--head", "shortlist", *common, "Once upon a time")
    assert status == 0 and out == want
    if "--each" not in how:
        assert ("every token's probability" if "--logprobs" in how else "12 tokens from the shortlist") in err
    assert "full|shortlist" in refused("generate", "--head", "half", "x")


def test_info_memory_shortlist():
    def line(name, *args):
        return [l for l in ok("info", "story", "--memory", *args).decode().splitlines() if l.split()[:1] == [name]][0].split()[1]
    assert line("shortlist") == "0"
    size = int(line("shortlist", "--head", "shortlist").replace(",", "").replace("\u202f", ""))
    assert 0 <= size - 4096 * (256 + 12) < 1000


@pytest.mark.parametrize("args, words", [
    (("--bogus", "1"), ["bogus"]),
    (("--temperature", "abc"), ["temperature"]),
    (("--temperature", "-1"), ["temperature", "-1"]),
    (("--top-p", "0"), ["top_p"]),
    (("--top-p", "1e999"), ["top_p"]),
    (("--max-tokens", "-5"), ["max_tokens", "-5"]),
    (("--max-tokens", "99999999999"), ["max_tokens"]),
    (("--max-tokens", "1.5"), ["max_tokens"]),
    (("--seed", "-1"), ["seed"]),
    (("--kv-type", "f64"), ["kv_type", "f64"]),
    (("--stop", ""), ["stop"]),
    (("--threads", "1000"), ["threads", "1000"]),
    (("--truncate", "middle"), ["truncate", "middle"]),
    (("--stats=yes",), ["stats"]),
    (("--system", "You are a fox."), ["--chat"]),
])
def test_generate_bad_options_are_named(args, words):
    err = refused("generate", *args, "x")
    for word in words:
        assert word in err


def test_generate_needs_one_prompt():
    assert "0" in refused("generate")
    assert "2" in refused("generate", "one", "two")
    assert "needs a value" in refused("generate", "x", "--seed")


def test_generate_chat_without_a_template():
    assert "template" in refused("generate", "--chat", "hello", status=1)


def test_generate_chat(tmp_path):
    path = str(tmp_path / "t.gguf")
    ok("synth", "--shape", "tiny", path)
    args = ["generate", "--model", path, "--max-tokens", "6", "--ignore-eos", "--chat"]
    plain = ok(*args, "hello")
    assert ok(*args, "-", stdin=b"hello\n") == plain
    status, out, err = run(*args, "--stats", "hello")
    assert status == 0 and out == plain and "prefill:" in err
    # Random weights repeat themselves whatever the prompt: that the text went in shows by its length.
    assert "512" in refused(*args, "--system", "fox " * 600, "hello", status=1)
    assert ok(*args, "--system", "fox", "hello")
    assert "UTF-8" in refused(*args, "-", stdin=b"\xff", status=1)


def test_generate_too_long_a_prompt():
    err = refused("generate", "-", stdin=b"The wolf ran. " * 700, status=1)
    assert "512" in err
    ok("generate", "--truncate", "start", "--max-tokens", "4", "-", stdin=b"The wolf ran. " * 700)


def test_generate_missing_model():
    err = refused("generate", "--model", "/nowhere/m.gguf", "x", status=1)
    assert "/nowhere/m.gguf" in err
    assert "embed" in refused("generate", "--model", "embed", "x", status=1)
    for command in ("generate", "embed"):
        assert "empty" in refused(command, "--model", "", "x", status=1)


def interrupt(args, wait_for_output, stdin=subprocess.DEVNULL, env=None):
    process = subprocess.Popen([BITLM, *args], stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               env={**os.environ, **(env or {})})
    try:
        first = os.read(process.stdout.fileno(), 1) if wait_for_output else b""
        if not wait_for_output:
            time.sleep(0.5)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    return process.returncode, first + out, err.decode(), time.monotonic() - began


def test_ctrl_c_ends_a_generation_and_keeps_what_came(tmp_path):
    # A model large enough that the answer would take far longer than the signal.
    path = str(tmp_path / "m.gguf")
    ok("synth", "--shape", "100m", "--type", "i2_s", path)
    status, out, err, seconds = interrupt(
        ["generate", "--model", path, "--ignore-eos", "--threads", "1", "--max-tokens", "2000", "hello"], True)
    assert (status, err) == (130, "")
    assert len(out) > 1 and out.endswith(b"\n")
    assert seconds < 2


def test_ctrl_c_in_the_prefill(tmp_path):
    path = str(tmp_path / "m.gguf")
    ok("synth", "--shape", "100m", "--type", "i2_s", path)
    prompt = tmp_path / "prompt"
    prompt.write_bytes(b"a " * 900)
    with open(prompt, "rb") as stdin:
        status, out, err, seconds = interrupt(
            ["generate", "--model", path, "--threads", "1", "-"], False, stdin=stdin,
            env={"BITLM_CPU": "ref"})
    assert (status, out, err) == (130, b"", "")
    assert seconds < 2


def test_ctrl_c_while_waiting_for_stdin():
    read_end, write_end = os.pipe()
    try:
        for command in ("generate", "embed"):
            status, out, err, seconds = interrupt([command, "-"], False, stdin=read_end)
            assert (status, out, err) == (130, b"", "") and seconds < 2, (command, status, err)
    finally:
        os.close(read_end)
        os.close(write_end)


def test_full_disk_is_an_error():
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    with open("/dev/full", "wb") as full:
        for args in (["generate", "--max-tokens", "4", "x"], ["embed", "x"], ["version"]):
            done = subprocess.run([BITLM, *args], stdout=full, stderr=subprocess.PIPE, timeout=60)
            assert done.returncode == 1 and b"cannot write" in done.stderr, args


# ---- embed ---------------------------------------------------------------------------------

def test_embed_formats_agree():
    texts = ["a cat sat on the mat", "The price of oil rose.", ""]
    codes = ok("embed", *texts).decode().splitlines()
    assert [len(code) for code in codes] == [96, 96, 96]
    raw = ok("embed", "--format", "f32", *texts)
    assert len(raw) == 3 * 384 * 4
    rows = [json.loads(line) for line in ok("embed", "--format", "json", *texts).decode().splitlines()]
    for i, row in enumerate(rows):
        values = struct.unpack_from("<384f", raw, i * 1536)
        assert abs(sum(v * v for v in values) - 1) < 1e-4
        assert row["vector"] == pytest.approx(values, abs=1e-7)
        bits = "".join("1" if v > 0 else "0" for v in values)
        assert row["code"] == codes[i] == "%096x" % int(bits, 2)


def test_embed_lines_of_stdin_in_any_batch():
    texts = ["text number %d about %s" % (i, ["cats", "taxes", "rain"][i % 3]) for i in range(75)]
    lines = ok("embed", "-", stdin="\n".join(texts).encode() + b"\n").decode().splitlines()
    assert len(lines) == 75
    for i in (0, 31, 32, 74):
        assert lines[i] == ok("embed", texts[i]).decode().strip()
    assert ok("embed", "-", stdin=b"") == b""
    assert len(ok("embed", "-", stdin=b"one\n\nthree").splitlines()) == 3
    assert ok("embed", "-", stdin=b"one\r\n") == ok("embed", "one")


def test_embed_a_text_that_is_too_long():
    long = b"word " * 2000
    status, out, err = run("embed", "-", stdin=b"first\n" + long + b"\nlast\n")
    assert status == 1 and out == ok("embed", "first") and "text 2 " in err
    lines = ok("embed", "--on-error", "null", "-", stdin=b"first\n" + long + b"\nlast\n").splitlines()
    assert len(lines) == 3 and lines[1] == b"" and lines[2] == ok("embed", "last").strip()
    lines = ok("embed", "--on-error", "null", "--format", "json", "-", stdin=long).splitlines()
    assert lines == [b"null"]
    assert len(ok("embed", "--truncate", "end", "-", stdin=long).strip()) == 96


def test_embed_refusals():
    assert "--format" in refused("embed", "--format", "xml", "x")
    refused("embed")
    assert "cannot embed" in refused("embed", "--model", "story", "x", status=1)
    assert "/nowhere" in refused("embed", "--model", "/nowhere", "x", status=1)


# ---- info -----------------------------------------------------------------------------------

def test_info_of_the_built_in_models():
    story = ok("info", "story").decode()
    for word in ("bitnet-b1.58", "hidden 256", "6 layers", "context 512", "ReLU2", "I2_S", "F16",
                 "general.architecture", "SentencePiece", "model_id"):
        assert word in story, word
    embed = ok("info", "embed").decode()
    for word in ("bitnet-encoder", "384 bits", "WordPiece", "TQ2_0", "30522"):
        assert word in embed, word
    both = ok("info").decode()
    assert story in both and embed in both


def test_info_of_a_file_is_that_of_the_built_in():
    path = ROOT / "core" / "builtin" / "bitlm-story.gguf"
    text = ok("info", "--tensors", "--verify", str(path)).decode()
    assert "blk.5.ffn_down.weight" in text and "all finite" in text and str(path) in text
    ids = [line for line in text.splitlines() if line.startswith("model_id")]
    assert ids and ids[0] in ok("info", "story").decode()


def test_info_of_bad_files(tmp_path):
    story = (ROOT / "core" / "builtin" / "bitlm-story.gguf").read_bytes()
    cases = {
        "empty": b"",
        "text": b"this is no model\n" * 10,
        "magic": b"GGUF",
        "cut": story[:100_000],
        "counts": b"GGUF" + struct.pack("<IQQ", 3, 2**62, 2**62),
        "version": b"GGUF" + struct.pack("<IQQ", 9, 0, 0) + b"\0" * 64,
        "noise": story[:5000] + bytes(255 - b for b in story[5000:60000]) + story[60000:],
    }
    for name, data in cases.items():
        path = tmp_path / (name + ".gguf")
        path.write_bytes(data)
        status, out, err = run("info", str(path), timeout=20)
        assert status == 1 and err.startswith("bitlm: ") and err.count("\n") == 1, (name, status, err)
    refused("info", str(tmp_path), status=1)
    refused("info", str(tmp_path / "absent.gguf"), status=1)
    refused("info", "a", "b")


def test_info_shows_a_file_that_it_cannot_run(tmp_path):
    story = (ROOT / "core" / "builtin" / "bitlm-story.gguf").read_bytes()
    assert story.count(b"bitnet-b1.58") > 5
    path = tmp_path / "other.gguf"
    path.write_bytes(story.replace(b"bitnet-b1.58", b"mamba-b1.580"))
    status, out, err = run("info", str(path))
    assert status == 1 and "mamba-b1.580" in err
    assert b"I2_S" in out and b"mamba-b1.580" in out


def test_info_verify_finds_a_weight_that_is_not_finite(tmp_path):
    path = tmp_path / "nan.gguf"
    ok("synth", "--shape", "tiny", "--type", "f32", "--embedding-type", "f32", str(path))
    assert b"all finite" in ok("info", "--verify", str(path))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2 // 32 * 32
    data[middle:middle + 4] = struct.pack("<f", float("nan"))
    path.write_bytes(data)
    status, out, err = run("info", "--verify", str(path))
    assert status == 1 and "not finite" in err and "row" in err


# ---- synth ----------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", ["i2_s", "tq2_0", "tq1_0", "q8_0", "f16"])
def test_synth_round_trip(tmp_path, kind):
    path = tmp_path / "t.gguf"
    ok("synth", "--shape", "tiny", "--type", kind, str(path))
    text = ok("info", "--verify", str(path)).decode()
    assert kind.upper() in text and "all finite" in text
    first = ok("generate", "--model", str(path), "--max-tokens", "8", "hello there")
    assert ok("generate", "--model", str(path), "--max-tokens", "8", "--threads", "2", "hello there") == first


def test_synth_is_the_same_for_a_seed(tmp_path):
    files = [tmp_path / name for name in ("a", "b", "c")]
    for path, seed in zip(files, ("3", "3", "4")):
        ok("synth", "--seed", seed, str(path))
    a, b, c = (path.read_bytes() for path in files)
    assert a == b and a != c


def test_synth_says_what_it_was_told(tmp_path):
    path = tmp_path / "t.gguf"
    ok("synth", "--shape", "mini-2b4t", "--embedding-type", "q6_k", "--context", "2048", "--architecture", "bitnet",
       str(path))
    info = ok("info", str(path)).decode()
    assert "architecture  bitnet\n" in info and "context 2048" in info and "Q6_K" in info
    assert "6 heads (2 KV heads) of 128" in info


def test_synth_refusals(tmp_path):
    path = tmp_path / "t.gguf"
    assert "giant" in refused("synth", "--shape", "giant", str(path))
    assert "q9" in refused("synth", "--shape", "tiny", "--type", "q9", str(path))
    assert "mamba" in refused("synth", "--architecture", "mamba", str(path))
    assert "qwen3moe" in refused("synth", "--shape", "moe-tiny", "--architecture", "bitnet", str(path))
    for context in ("15", "-1", "12x"):
        assert context in refused("synth", "--context", context, str(path))
    refused("synth", "--shape", "tiny")
    refused("synth", "--shape", "tiny", "--type", "i2_s", str(tmp_path / "no" / "t.gguf"), status=1)
    assert list(tmp_path.iterdir()) == []


# ---- perplexity ------------------------------------------------------------------------------

STORY = ("Once upon a time there was a little girl who lived with her mother in a small house near the "
         "forest. One day the mother said to her, Go and take this cake to your grandmother, for she is "
         "ill. The little girl set out at once, and in the wood she met a wolf. ") * 3


def perplexity(*args, **kwargs):
    lines = ok("perplexity", *args, **kwargs).decode().splitlines()
    return {line[:14].strip(): line[14:] for line in lines}


def test_perplexity_tells_text_from_noise(tmp_path):
    words = STORY.split()
    (tmp_path / "story.txt").write_text(STORY)
    (tmp_path / "noise.txt").write_text(" ".join(words[::-1]))
    story = float(perplexity(str(tmp_path / "story.txt"))["perplexity"].split()[0])
    noise = float(perplexity("story", str(tmp_path / "noise.txt"))["perplexity"].split()[0])
    assert 2 < story < 40 and noise > 3 * story


def test_perplexity_scores_each_token_once_in_any_windows():
    whole = perplexity("--window", "512", "-", stdin=STORY.encode())
    for window, stride in (("64", "32"), ("64", "63"), ("100", "7")):
        part = perplexity("--window", window, "--stride", stride, "-", stdin=STORY.encode())
        scored, total = part["tokens"].split()[0], part["tokens"].split()[3].rstrip(",")
        assert scored == total == whole["tokens"].split()[0]  # the model begins with BOS: no token is left out
        assert float(part["nats a token"]) > float(whole["nats a token"]) - 0.3
    bits = float(whole["nats a token"]) / 0.6931471805599453 * int(scored) / len(STORY.encode())
    assert abs(float(whole["bits a byte"]) - bits) < 1e-3
    first = perplexity("--max-tokens", "10", "-", stdin=STORY.encode())
    assert first["tokens"].startswith("10 scored of 10, 1 windows")


def test_perplexity_refuses(tmp_path):
    (tmp_path / "empty.txt").write_text("")
    assert "0 tokens" in refused("perplexity", str(tmp_path / "empty.txt"), status=1)
    assert "no output head" in refused("perplexity", "embed", "-", stdin=b"some text", status=1)
    assert "missing.txt" in refused("perplexity", str(tmp_path / "missing.txt"), status=1)
    assert "cannot read" in refused("perplexity", str(tmp_path), status=1)
    assert "--stride is 64" in refused("perplexity", "--window", "64", "--stride", "64", "-", stdin=STORY.encode())
    assert "beside --model" in refused("perplexity", "--model", "story", "story", "-", stdin=b"x")
    refused("perplexity")
    refused("perplexity", "--window", "1", "-", stdin=b"x y")
