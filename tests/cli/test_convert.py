"""`bitlm convert`: Hugging Face folders and GGUF files to GGUF, compared with what transformers computes.

tests/oracle/make_convert_models.py made tests/data/convert.
"""
import ctypes as c
import json
import os
import pathlib
import signal
import struct
import subprocess
import tarfile
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BITLM = os.environ.get("BITLM", str(ROOT / "build" / "bitlm"))
DATA = ROOT / "tests" / "data" / "convert"
FORMS = ["bitnet-packed", "llama-packed", "bitnet-master", "llama-float", "qwen3-float"]


def run(*args, **kwargs):
    done = subprocess.run([BITLM, "convert", *map(str, args)], capture_output=True, timeout=120, **kwargs)
    return done.returncode, done.stderr.decode("utf-8", "replace")


def convert(*args):
    status, err = run(*args)
    assert status == 0 and err == "", err


def refused(out, *args, status=1, **kwargs):
    """One sentence, and nothing where the output or a temporary would be."""
    before = sorted(os.listdir(pathlib.Path(out).parent))
    got, err = run(*args, out, **kwargs)
    assert got == status, (got, err)
    assert err.startswith("bitlm: ") and err.count("\n") == 1 and len(err) > 15, err
    assert sorted(os.listdir(pathlib.Path(out).parent)) == before
    return err


# ---- the library, for ids and logits -----------------------------------------------------------

class Error(c.Structure):
    _fields_ = [("size", c.c_uint32), ("status", c.c_int32), ("sys_errno", c.c_int32), ("text", c.c_char * 500)]


@pytest.fixture(scope="session")
def lib():
    path = ROOT / "build" / "libbitlm.so"
    if not path.exists():
        pytest.skip("no build/libbitlm.so")
    return c.CDLL(str(path))


class Model:
    def __init__(self, lib, path):
        self.lib, self.error = lib, Error(size=c.sizeof(Error))
        self.model, self.session = c.c_void_p(), c.c_void_p()
        name = str(path).encode()
        self.call("bitlm_model_open", name, c.c_size_t(len(name)), c.c_uint32(0), None, None, c.byref(self.model))
        options, json_text = c.create_string_buffer(4096), b'{"kv_type":"f32"}'
        lib.bitlm_options_init(options)
        self.call("bitlm_options_json", options, json_text, c.c_size_t(len(json_text)))
        self.call("bitlm_session_open", self.model, options, None, c.byref(self.session))
        lib.bitlm_options_clear(options)

    def call(self, name, *arguments):
        status = getattr(self.lib, name)(*arguments, c.byref(self.error))
        assert status in (0, 100), self.error.text.decode()

    def logits(self, ids, vocab):
        array, out = (c.c_int32 * len(ids))(*ids), (c.c_float * (len(ids) * vocab))()
        self.call("bitlm_logits", self.session, array, c.c_size_t(len(ids)), out)
        return [out[i * vocab:(i + 1) * vocab] for i in range(len(ids))]

    def tokenize(self, text):
        text, ids, n = text.encode(), (c.c_int32 * 512)(), c.c_size_t()
        self.call("bitlm_tokenize", self.model, text, c.c_size_t(len(text)), c.c_uint32(2), None, ids, c.c_size_t(512),
                  c.byref(n))
        return ids[:n.value]

    def close(self):
        self.lib.bitlm_session_free(self.session)
        self.lib.bitlm_model_free(self.model)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    where = tmp_path_factory.mktemp("folders")
    for form in FORMS:
        with tarfile.open(DATA / (form + ".tar.xz")) as tar:
            tar.extractall(where)
    return where


def disagreements(lib, path, form):
    """Steps led by 0.05 or more at which the model chooses another token than transformers; all of them."""
    golden, wrong, n = json.loads((DATA / (form + ".json")).read_text()), 0, 0
    model = Model(lib, path)
    for p in golden["prompts"]:
        logits = model.logits(p["ids"] + p["tokens"], 384)
        for i, (token, margin) in enumerate(zip(p["tokens"], p["margins"])):
            row = logits[len(p["ids"]) - 1 + i]
            n += margin >= 0.05
            wrong += margin >= 0.05 and row.index(max(row)) != token
    model.close()
    assert n > 60
    return wrong, n


@pytest.mark.parametrize("form", FORMS)
def test_converted_models_choose_the_tokens_of_transformers(lib, folders, tmp_path, form):
    out = tmp_path / "m.gguf"
    convert(folders / form, out)
    wrong, n = disagreements(lib, out, form)
    assert wrong == 0, f"{wrong} of {n}"
    model = Model(lib, out)
    for p in json.loads((DATA / (form + ".json")).read_text())["prompts"]:
        assert model.tokenize(p["text"]) == p["ids"]
    model.close()


# ---- GGUF to GGUF ----------------------------------------------------------------------------------

WRITABLE = ["f32", "f16", "bf16", "q8_0", "q6_k", "q4_k", "q4_1", "q4_0", "q2_0", "tq1_0", "tq2_0", "i2_s", "q1_0"]


def types_of(path):
    """{type: tensors} of `bitlm info`, and the whole text."""
    text = subprocess.run([BITLM, "info", path], capture_output=True, timeout=60, check=True).stdout.decode()
    lines = text.split("  type ")[1].splitlines()[1:]
    return {line.split()[0]: int(line.split()[1]) for line in lines[:4] if len(line.split()) > 3}, text


@pytest.mark.parametrize("kind", WRITABLE)
def test_every_writable_type(lib, folders, tmp_path, kind):
    """A float model in each type, from the folder and from a GGUF file of it: the same bytes; float types keep the tokens."""
    convert(folders / "llama-float", tmp_path / "f32.gguf", "--type", "f32", "--embedding-type", "f32")
    convert("--type", kind, "--embedding-type", "q8_0", folders / "llama-float", tmp_path / "a.gguf")
    convert("--type", kind, "--embedding-type", "q8_0", tmp_path / "f32.gguf", tmp_path / "b.gguf")
    size = (tmp_path / "a.gguf").stat().st_size
    assert size == (tmp_path / "b.gguf").stat().st_size
    a, b = (tmp_path / "a.gguf").read_bytes(), (tmp_path / "b.gguf").read_bytes()
    assert a[-size // 2:] == b[-size // 2:]
    if kind in ("f32", "f16", "bf16", "q8_0"):  # the embedding and the head are Q8_0 here
        wrong, n = disagreements(lib, tmp_path / "a.gguf", "llama-float")
        assert wrong < n / 4
    types, text = types_of(tmp_path / "a.gguf")
    layer = {"q6_k": "Q8_0", "q4_k": "Q8_0"}.get(kind, kind.upper())  # 128 is no multiple of 256
    if kind.startswith("tq"):
        layer = "I2_S"
    assert types.get(layer, 0) >= 12, text


@pytest.mark.parametrize("kind", ["i2_s", "tq2_0", "q2_0", "f16", "f32", "bf16"])
def test_ternary_weights_survive_every_exact_type(lib, folders, tmp_path, kind):
    """Trits with one scale are exact in all of these but for the rounding of the scale."""
    convert(folders / "bitnet-packed", tmp_path / "a.gguf")
    convert("--type", kind, tmp_path / "a.gguf", tmp_path / "b.gguf")
    convert("--type", "i2_s", tmp_path / "b.gguf" if kind in ("i2_s",) else tmp_path / "a.gguf", tmp_path / "c.gguf")
    assert (tmp_path / "c.gguf").read_bytes() == (tmp_path / "a.gguf").read_bytes()
    if kind in ("i2_s", "q2_0", "tq2_0"):
        assert disagreements(lib, tmp_path / "b.gguf", "bitnet-packed")[0] <= (0 if kind == "i2_s" else 2)


def test_no_options_copies_a_file(folders, tmp_path):
    """Everything but our own two keys is the same: tensors byte by byte, keys in their order."""
    convert(ROOT / "core" / "builtin" / "bitlm-story.gguf", tmp_path / "a.gguf")
    convert(tmp_path / "a.gguf", tmp_path / "b.gguf")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    said = [subprocess.run([BITLM, "generate", "--model", m, "--max-tokens", "12", "Once"], capture_output=True,
                           timeout=60, check=True).stdout for m in ("story", tmp_path / "a.gguf")]
    assert said[0] == said[1]


# ---- what is refused -------------------------------------------------------------------------------

def write_tensors(path, header, data):
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + data)


def read_tensors(path):
    raw = path.read_bytes()
    n = struct.unpack("<Q", raw[:8])[0]
    return json.loads(raw[8:8 + n]), raw[8 + n:]


@pytest.fixture
def folder(folders, tmp_path):
    """A copy of bitnet-packed that a test may spoil, in a folder of its own."""
    target = tmp_path / "model"
    target.mkdir()
    for file in (folders / "bitnet-packed").iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    for key, value in changes.items():
        config.pop(key, None)
        if value is not None:
            config[key] = value
    (folder / "config.json").write_text(json.dumps(config))


def spoil_header(change):
    def spoil(folder):
        header, data = read_tensors(folder / "model.safetensors")
        data = change(header, bytearray(data)) or data
        write_tensors(folder / "model.safetensors", header, data)
    return spoil


def set_entry(name, **values):
    return spoil_header(lambda h, d: h[name].update(values))


Q0 = "model.layers.0.self_attn.q_proj.weight"


def overlap(h, d):
    h[Q0]["data_offsets"] = [0, h[Q0]["data_offsets"][1] - h[Q0]["data_offsets"][0]]


def put_nan(h, d):
    at = h["model.norm.weight"]["data_offsets"][0]
    d[at + 6:at + 8] = struct.pack("<H", 0x7fc0)
    return d


def put_inf_scale(h, d):
    at = h[Q0 + "_scale"]["data_offsets"][0]
    d[at:at + 2] = struct.pack("<H", 0x7f80)
    return d


def put_code_3(h, d):
    d[h[Q0]["data_offsets"][0] + 5] = 0xff
    return d


def drop(name):
    def change(h, d):
        begin, end = h.pop(name)["data_offsets"]
        for entry in h.values():
            if "data_offsets" in entry and entry["data_offsets"][0] >= end:
                entry["data_offsets"] = [o - (end - begin) for o in entry["data_offsets"]]
        return d[:begin] + d[end:]
    return spoil_header(change)


def raw(data):
    return lambda folder: (folder / "model.safetensors").write_bytes(data)


def index(mapping):
    def spoil(folder):
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": mapping}))
    return spoil


def truncate(folder):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-100])


def pickle_only(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


REFUSED = [
    (raw(struct.pack("<Q", 1 << 63) + b"{}"), "9223372036854775808"),
    (raw(struct.pack("<Q", 50) + b"{}"), "50 bytes"),
    (raw(b"\0\0"), "too few"),
    (raw(struct.pack("<Q", 2) + b"[]"), "'{'"),
    (raw(struct.pack("<Q", 9) + b'{"a":1,,}'), "no JSON"),
    (raw(struct.pack("<Q", 15) + b'{"a":1,"a": 2 }'), "duplicate"),
    (set_entry(Q0, dtype="Q9"), "Q9"),
    (set_entry(Q0, shape=[-1, 128]), "whole number"),
    (set_entry(Q0, shape=[1 << 62, 1 << 62]), "2^64"),
    (set_entry(Q0, shape=[33, 128]), "bytes of data"),
    (set_entry(Q0, shape=[16, 256]), "(16, 256)"),
    (set_entry(Q0, data_offsets=[8, 4]), "8 to 4"),
    (set_entry(Q0, data_offsets=[0, 1 << 60]), "1152921504606846976"),
    (spoil_header(overlap), "overlap"),
    (spoil_header(put_nan), "weight 3 of row 0 of tensor 'model.norm.weight' is nan"),
    (spoil_header(put_inf_scale), "inf"),
    (spoil_header(put_code_3), "code 3"),
    (drop(Q0), Q0),
    (drop(Q0 + "_scale"), "weight_scale"),
    (drop("model.norm.weight"), "norm.weight"),
    (spoil_header(lambda h, d: h.update(extra=h.pop(Q0))), "'extra' is not part"),
    (truncate, "of the data"),
    (pickle_only, "runs the code"),
    (index({Q0: "../model.safetensors"}), "same folder"),
    (index({Q0: "/etc/passwd"}), "same folder"),
    (index({Q0: ".safetensors"}), "same folder"),
    (index({Q0: "model.safetensors"}), "index does not name"),
    (index({"other": "model.safetensors"}), "'other'"),
    (index({Q0: 3}), "same folder"),
    (index({}), "weight_map"),
    (lambda f: edit_config(f, model_type="gpt2"), "gpt2"),
    (lambda f: edit_config(f, hidden_act="gelu"), "gelu"),
    (lambda f: edit_config(f, hidden_size=256), "256"),
    (lambda f: edit_config(f, hidden_size=-5), "hidden_size"),
    (lambda f: edit_config(f, num_hidden_layers=3), "layers.2"),
    (lambda f: edit_config(f, num_hidden_layers=10 ** 9), "1024"),
    (lambda f: edit_config(f, num_hidden_layers=None), "lacks num_hidden_layers"),
    (lambda f: edit_config(f, num_key_value_heads=3), "multiple"),
    (lambda f: edit_config(f, tie_word_embeddings=False), "lm_head.weight"),
    (lambda f: edit_config(f, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4}), "dynamic"),
    (lambda f: edit_config(f, quantization_config={"quant_method": "gptq"}), "gptq"),
    (lambda f: edit_config(f, quantization_config={"quant_method": "bitnet", "linear_class": "x"}), "'x'"),
    (lambda f: (f / "config.json").write_text("[1"), "config.json"),
    (lambda f: (f / "config.json").unlink(), "no config.json"),
    (lambda f: (f / "tokenizer.json").unlink(), "tokenizer"),
    (lambda f: (f / "tokenizer.json").write_text("{"), "tokenizer.json"),
    (lambda f: (f / "tokenizer.json").write_text((f / "tokenizer.json").read_text().replace("p{L}", "p{N}")), "pre"),
    (lambda f: (f / "tokenizer.json").write_text((f / "tokenizer.json").read_text().replace('"!":0', '"!":-7').
                                                 replace('"!": 0', '"!": -7')), "-7"),
]


@pytest.mark.parametrize("i", range(len(REFUSED)))
def test_bad_folders_are_refused(folder, tmp_path, i):
    spoil, word = REFUSED[i]
    spoil(folder)
    err = refused(tmp_path / "out.gguf", folder)
    assert word in err, err


def test_bad_arguments_are_refused(folder, tmp_path):
    out = tmp_path / "out.gguf"
    assert "q5_1" in refused(out, "--type", "q5_1", folder)
    assert "safetensors" in refused(out, folder / "model.safetensors")
    (tmp_path / "x.pt").write_bytes(b"\x80\x02}q\0.")
    assert "runs the code" in refused(out, tmp_path / "x.pt")
    assert "gguf" in refused(tmp_path / "out", folder)
    assert "cannot" in refused(out, tmp_path / "nothing.gguf")
    assert run(folder)[0] == 2
    assert "cannot" in run(folder, tmp_path / "no" / "out.gguf")[1]


# ---- never in part -----------------------------------------------------------------------------------

def test_interrupt_leaves_nothing(tmp_path):
    source = tmp_path / "big.gguf"
    subprocess.run([BITLM, "synth", "--shape", "100m", "--type", "f16", source], check=True, timeout=120)
    out = tmp_path / "out" / "m.gguf"
    out.parent.mkdir()
    whole = time.monotonic()
    subprocess.run([BITLM, "convert", "--type", "q4_k", source, out], check=True, timeout=120)
    whole = time.monotonic() - whole
    undisturbed = out.read_bytes()
    out.unlink()

    def stopped_after(wait, number):
        child = subprocess.Popen([BITLM, "convert", "--type", "q4_k", source, out], stderr=subprocess.PIPE)
        time.sleep(wait)
        child.send_signal(number)
        _, err = child.communicate(timeout=20)
        if child.returncode == 0:  # it was done by then: the whole file stands there
            out.unlink()
            return False
        stopped = (130, -number) if number == signal.SIGINT else (-number,)  # -SIGINT: before it set its handler
        assert child.returncode in stopped and err == b"", (child.returncode, err)
        assert os.listdir(out.parent) == []
        return True

    for number in (signal.SIGINT, signal.SIGKILL):
        for part in (0.1, 0.3, 0.6):
            wait = part * whole
            while not stopped_after(wait, number):
                wait /= 2
                assert wait > 0.01, "no conversion was stopped in its midst"
    # Resuming is running again.
    subprocess.run([BITLM, "convert", "--type", "q4_k", source, out], check=True, timeout=120)
    assert os.listdir(out.parent) == ["m.gguf"] and out.read_bytes() == undisturbed


def test_full_disk_leaves_what_was_there(folders, tmp_path):
    """A limit on file sizes stands for a full disk: write() fails the same way."""
    out = tmp_path / "m.gguf"
    out.write_bytes(b"before")
    err = refused(out, folders / "llama-float", preexec_fn=lambda: limit_files(100000))
    assert "cannot write" in err
    assert out.read_bytes() == b"before"


def limit_files(size):
    import resource
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


# ---- back to a folder ----------------------------------------------------------------------------------

@pytest.mark.parametrize("form", ["bitnet-packed", "llama-packed", "bitnet-master", "qwen3-float"])
def test_a_folder_of_a_file_is_that_file_again(folders, tmp_path, form):
    """Rows unpermuted, trits packed, vocabulary, scales: converted again, the bytes are those before."""
    convert(folders / form, tmp_path / "a.gguf")
    (tmp_path / "out").mkdir()
    convert(tmp_path / "a.gguf", tmp_path / "out" / form)
    assert not [f for f in os.listdir(tmp_path / "out") if f != form]
    convert(tmp_path / "out" / form, tmp_path / "b.gguf")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    if form == "bitnet-packed":  # what transformers saved it with
        config = json.loads((tmp_path / "out" / form / "config.json").read_text())
        assert config["quantization_config"]["linear_class"] == "autobitlinear"
        ours, theirs = (read_tensors(d / form / "model.safetensors") for d in (tmp_path / "out", folders))
        for (header, data), other in ((ours, theirs[0]), (theirs, ours[0])):
            assert {k: v["shape"] for k, v in header.items() if k != "__metadata__"} == \
                   {k: v["shape"] for k, v in other.items() if k != "__metadata__"}
        for name, entry in theirs[0].items():
            if name.endswith("proj.weight"):
                a, b = ours[0][name]["data_offsets"], entry["data_offsets"]
                assert ours[1][a[0]:a[1]] == theirs[1][b[0]:b[1]], name


def test_the_story_model_as_a_folder(tmp_path):
    """SentencePiece and BitNet: tokenizer.model, packed layers; the text stays."""
    story = ROOT / "core" / "builtin" / "bitlm-story.gguf"
    convert(story, tmp_path / "folder")
    convert(tmp_path / "folder", tmp_path / "b.gguf")
    said = [subprocess.run([BITLM, "generate", "--model", m, "--max-tokens", "30", "Once upon a time"],
                           capture_output=True, timeout=60, check=True).stdout for m in ("story", tmp_path / "b.gguf")]
    assert said[0] == said[1]


def info(path, *args):
    """Exit status, the model_id that is printed (or None) and standard error."""
    done = subprocess.run([BITLM, "info", *args, str(path)], capture_output=True, timeout=60)
    ids = [line.split()[1] for line in done.stdout.decode().splitlines() if line.startswith("model_id")]
    return done.returncode, ids[0] if ids else None, done.stderr.decode()


@pytest.mark.parametrize("kind", ["i2_s", "tq1_0", "tq2_0", "q4_0", "f16"])
def test_a_file_tells_its_id(folders, tmp_path, kind):
    """The id in the file is the one of its content; without the key, or with one that does not fit, it is computed."""
    convert("--type", kind, folders / "bitnet-packed", tmp_path / "a.gguf")
    data = (tmp_path / "a.gguf").read_bytes()
    at = data.index(b"bitlm.model_id") + len(b"bitlm.model_id") + 12
    told, rest = data[at:at + 32].decode(), data[at + 32:at + 48]
    version = subprocess.run([BITLM, "--version"], capture_output=True, text=True, timeout=60).stdout
    numerics = version.split("numerics ")[1].split(",")[0]
    assert rest.decode().split() in ([numerics, "relu2"], [numerics, "silu"])
    assert info(tmp_path / "a.gguf") == info(tmp_path / "a.gguf", "--verify") == (0, told, "")
    bad = tmp_path / "bad.gguf"
    for place, text in [(at, b"X"), (at, b"A"), (at + 33, b"0"), (at + 34, b"7"), (at + 35, b"x"), (at + 47, b".")]:
        bad.write_bytes(data[:place] + text + data[place + 1:])
        assert info(bad) == info(bad, "--verify") == (0, told, ""), (place, text)
    other = "silu" if b"relu2" in rest else "relu2"
    status, computed, err = info(tmp_path / "a.gguf", "--hidden-act", other)
    assert (status, err) == (0, "") and computed != told
    # A lie is believed, but found; so is a changed weight.
    bad.write_bytes(data[:at] + (b"1" if data[at:at + 1] != b"1" else b"2") + data[at + 1:])
    assert info(bad)[1] not in (None, told)
    status, _, err = info(bad, "--verify")
    assert status == 1 and told in err and err.count("\n") == 1
    place = data.index(b"blk.0.attn_q.weight") + len(b"blk.0.attn_q.weight")
    n_dims, = struct.unpack_from("<I", data, place)
    offset, = struct.unpack_from("<Q", data, place + 4 + 8 * n_dims + 4)
    start = len(data) - tensor_bytes(tmp_path / "a.gguf")
    weight = start + offset + 4
    bad.write_bytes(data[:weight] + bytes([data[weight] ^ 1]) + data[weight + 1:])
    assert info(bad) == (0, told, "")
    status, _, err = info(bad, "--verify")
    assert status == 1 and told in err and "bitlm.model_id" in err


def tensor_bytes(path):
    """Of the data section: each tensor's bytes to a multiple of 32."""
    out = subprocess.run([BITLM, "info", "--tensors", str(path)], capture_output=True, check=True).stdout.decode()
    lines = out[out.index("  tensor  "):].splitlines()[1:]
    return sum(-(-int(line.split()[-1].replace(",", "")) // 32) * 32 for line in lines if line.strip())


def test_ids_of_copies(tmp_path):
    """A copy of a model has its id, though it is the built-in one, which has no key; another's key is not copied."""
    story = ROOT / "core" / "builtin" / "bitlm-story.gguf"
    convert(story, tmp_path / "a.gguf")
    convert("--type", "q8_0", tmp_path / "a.gguf", tmp_path / "b.gguf")
    assert info("story")[1] == info(story)[1] == info(tmp_path / "a.gguf", "--verify")[1]
    assert b"bitlm.model_id" not in story.read_bytes()
    status, told, err = info(tmp_path / "b.gguf", "--verify")
    assert (status, err) == (0, "") and told != info("story")[1]


def test_what_no_folder_can_say_is_refused(folders, tmp_path):
    convert(folders / "llama-float", tmp_path / "a.gguf")
    assert "rope_freqs" in refused(tmp_path / "out", tmp_path / "a.gguf")
    convert("--type", "q8_0", folders / "bitnet-packed", tmp_path / "b.gguf")
    assert "i2_s" in refused(tmp_path / "out", tmp_path / "b.gguf")
    assert "bitnet-encoder" in refused(tmp_path / "out", ROOT / "core" / "builtin" / "bitlm-embed.gguf")
    (tmp_path / "there").mkdir()
    convert(folders / "bitnet-packed", tmp_path / "c.gguf")
    assert "there" in refused(tmp_path / "there", tmp_path / "c.gguf")
    assert "cannot write" in refused(tmp_path / "full", tmp_path / "c.gguf", preexec_fn=lambda: limit_files(50000))


# ---- SentencePiece as tokenizer.json -------------------------------------------------------------------

def fields(data):
    """(number, value) of a protobuf message: ints, 4-byte values and byte strings."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
    while at < len(data):
        tag = varint()
        if tag & 7 == 0:
            yield tag >> 3, varint()
        else:
            size = 4 if tag & 7 == 5 else varint()
            yield tag >> 3, data[at:at + size]
            at += size


def test_sentencepiece_from_tokenizer_json(lib, folders, tmp_path):
    """Hugging Face's own form of such a vocabulary has merges and no scores; the ids must be those of tokenizer.model."""
    target = tmp_path / "model"
    target.mkdir()
    for file in (folders / "llama-float").iterdir():
        if file.name != "tokenizer.model":
            (target / file.name).write_bytes(file.read_bytes())
    pieces = []
    for number, value in fields((folders / "llama-float" / "tokenizer.model").read_bytes()):
        if number == 1:
            piece = dict(fields(value))
            pieces.append((piece[1].decode(), struct.unpack("<f", piece[2])[0], piece.get(3, 1)))
    vocab = {text: i for i, (text, _, _) in enumerate(pieces)}
    merges = []
    for text, score, _ in pieces:
        splits = [(text[:i], text[i:]) for i in range(1, len(text)) if text[:i] in vocab and text[i:] in vocab]
        merges += [(score, vocab[a], vocab[b], a, b) for a, b in splits]
    merges.sort(key=lambda m: (-m[0], m[1], m[2]))
    (target / "tokenizer.json").write_text(json.dumps({
        "version": "1.0",
        "added_tokens": [{"id": i, "content": t, "special": True} for i, (t, _, kind) in enumerate(pieces) if kind in (2, 3)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": None,
        "post_processor": {"type": "TemplateProcessing", "single": [
            {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]},
        "model": {"type": "BPE", "byte_fallback": True, "unk_token": "<unk>", "vocab": vocab,
                  "merges": [f"{a} {b}" for _, _, _, a, b in merges]}}))
    convert(target, tmp_path / "m.gguf")
    convert(folders / "llama-float", tmp_path / "n.gguf")
    ours, theirs = Model(lib, tmp_path / "m.gguf"), Model(lib, tmp_path / "n.gguf")
    for p in json.loads((DATA / "llama-float.json").read_text())["prompts"]:
        assert ours.tokenize(p["text"]) == p["ids"]
    for i in range(0, len(__doc__) + 2000, 37):
        text = (pathlib.Path(__file__).read_text())[i:i + 200]
        assert ours.tokenize(text) == theirs.tokenize(text)
    ours.close()
    theirs.close()


@pytest.mark.parametrize("kind", ["i2_s", "q4_k", "q1_0", "f16"])
def test_threads_change_nothing(folders, tmp_path, kind):
    for form in ("llama-float", "bitnet-packed"):
        for threads in ("1", "2", "5"):
            convert("--type", kind, "--threads", threads, folders / form, tmp_path / f"{threads}.gguf")
        assert len({(tmp_path / f"{t}.gguf").read_bytes() for t in "125"}) == 1
