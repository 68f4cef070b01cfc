"""The same bytes in every host: Python, SQLite, the command, ctypes and C# (mono)."""

import array
import json
import os
import pathlib
import random
import shutil
import sqlite3
import subprocess
import sys

import pytest
from conftest import COMMAND, ROOT, SLACK

import bitlm

LIBRARY = pathlib.Path(COMMAND).parent
SAMPLES = ROOT / "docs" / "samples"
SEED = 4711


def texts():
    rng = random.Random(SEED)
    words = "tax letter river the a of fox king Zürich naïve 東京 🙂 42 3.14 don't e-mail x=y".split()
    return [" ".join(rng.choice(words) for _ in range(rng.randrange(1, 25))) for _ in range(200)]


def test_200_texts_give_the_same_codes_and_texts_everywhere(model):
    ours = model.embed(texts())
    command = subprocess.run([COMMAND, "embed", "--format", "hex", "-"], input="\n".join(texts()) + "\n", text=True,
                             capture_output=True, check=True).stdout.split()
    assert [row.hex() for row in ours] == command
    prompts = texts()[:20]
    generated = model.generate(prompts, max_tokens=8, seed=3)
    assert generated == [subprocess.run([COMMAND, "generate", "--max-tokens", "8", "--seed", "3", "--", p], text=True,
                                        capture_output=True, check=True).stdout.removesuffix("\n") for p in prompts]
    db = sqlite3.connect(":memory:")
    if not hasattr(db, "enable_load_extension"):
        pytest.skip("Python and the command agree; this Python's sqlite3 cannot load extensions")
    bitlm.load_sqlite(db)
    sql = [db.execute("SELECT bitlm_embed(?), bitlm_embed_f32(?), bitlm_tokenize(?)", (t,) * 3).fetchone()
           for t in texts()]
    assert [row[0] for row in sql] == list(ours)
    assert b"".join(row[1] for row in sql) == model.embed_f32(texts()).tobytes()
    assert [json.loads(row[2]) for row in sql] == [model.tokenize(t) for t in texts()]
    assert generated == [db.execute("""SELECT bitlm_generate(?, '{"max_tokens":8,"seed":3}')""", (p,)).fetchone()[0]
                         for p in prompts]


def expected(model):
    blocks = bitlm.quantize(array.array("f", [i % 3 - 1 for i in range(256)]), "TQ2_0")
    codes = model.embed(["a tax letter", "a love letter"]).tobytes()
    text = model.generate("Once upon a time", max_tokens=12, temperature=0)
    return f"quantized {blocks.hex()}\ncodes {codes.hex()}\ntext{text}\n"


def library_env():
    return dict(os.environ, LD_LIBRARY_PATH=str(LIBRARY))


def test_ctypes(model):
    done = subprocess.run([sys.executable, SAMPLES / "ctypes_sample.py"], env=library_env(), capture_output=True,
                          text=True, timeout=60 * SLACK)
    assert (done.stdout, done.stderr) == (expected(model), "")


def test_csharp(model, tmp_path):
    if not shutil.which("mcs") or not shutil.which("mono"):
        pytest.skip("no mono here: apt-get install mono-mcs mono-runtime")
    subprocess.run(["mcs", "-nologo", f"-out:{tmp_path}/Bitlm.exe", SAMPLES / "Bitlm.cs"], check=True)
    done = subprocess.run(["mono", tmp_path / "Bitlm.exe"], env=library_env(), capture_output=True, text=True,
                          timeout=60 * SLACK)
    assert (done.stdout, done.stderr) == (expected(model), "")


def test_pkg_config(tmp_path):
    """The installed library is enough to compile and run a program."""
    build = LIBRARY / "meson"
    meson = "/usr/bin/meson" if os.path.exists("/usr/bin/meson") else shutil.which("meson")
    if not build.exists() or not meson:
        pytest.skip("no meson build folder beside the command")
    subprocess.run([meson, "install", "-C", build, "--no-rebuild", "--quiet"], check=True, capture_output=True,
                   env=dict(os.environ, DESTDIR=str(tmp_path)))
    config = next(tmp_path.rglob("bitlm.pc"))
    env = dict(os.environ, PKG_CONFIG_PATH=str(config.parent), PKG_CONFIG_SYSROOT_DIR=str(tmp_path))
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "bitlm"], env=env, check=True, capture_output=True,
                           text=True).stdout.split()
    (tmp_path / "a.c").write_text('#include <bitlm.h>\n#include <stdio.h>\nint main(void) { puts(bitlm_version()); }\n')
    subprocess.run(["cc", tmp_path / "a.c", "-o", tmp_path / "a", *flags], check=True)
    library = next(tmp_path.rglob("libbitlm.so.0")).parent
    out = subprocess.run([tmp_path / "a"], env=dict(os.environ, LD_LIBRARY_PATH=str(library)), check=True,
                         capture_output=True, text=True).stdout
    assert out == bitlm.__version__ + "\n"
