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
