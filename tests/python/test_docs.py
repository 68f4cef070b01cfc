"""docs/PYTHON.md runs as it stands, and every public name explains itself."""

import inspect
import os
import re
import sqlite3
import subprocess
import sys

import pytest
from conftest import COMMAND, PACKAGE, ROOT, SLACK, sigint_as_usual

import bitlm


def snippets(page):
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)


def run(page, folder):
    """All snippets of a page, one after the other in one program, in a folder with a model."""
    subprocess.run([COMMAND, "synth", "--shape", "tiny", "model.gguf"], cwd=folder, check=True, capture_output=True)
    code = "\n".join(snippets(page))
    if not hasattr(sqlite3.Connection, "enable_load_extension"):
        code = code.replace("bitlm.load_sqlite(db)", "pass")
    try:
        import numpy  # noqa: F401
    except ImportError:
        code = code.replace("codes.numpy()", "pass")
    env = dict(os.environ, PYTHONPATH=PACKAGE) if PACKAGE else None
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=folder, env=env, capture_output=True, text=True,
                          timeout=120 * SLACK, preexec_fn=sigint_as_usual)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_snippets_of_python_md(tmp_path):
    page = ROOT / "docs" / "PYTHON.md"
    assert len(snippets(page)) >= 5
    out = run(page, tmp_path)
    assert out.startswith(bitlm.Model(threads=1).generate("Once upon a time")) and "1.0" in out
    assert (tmp_path / "notes.idx").exists() and (tmp_path / "smaller.gguf").exists()


def test_the_snippets_of_the_readme(tmp_path):
    blocks = [b for b in snippets(ROOT / "README.md") if "import bitlm" in b]
    assert blocks
    page = tmp_path / "README.md"
    page.write_text("".join(f"```python\n{b}```\n" for b in blocks))
    run(page, tmp_path)


def public():
    for name in bitlm.__all__:
        thing = getattr(bitlm, name)
        if callable(thing):
            yield name, thing
        if inspect.isclass(thing) and not issubclass(thing, BaseException):
            for member in dir(thing):
                if not member.startswith("_") and not (thing is bitlm.Piece and hasattr(str, member)):
                    yield f"{name}.{member}", inspect.getattr_static(thing, member)


@pytest.mark.parametrize("name, thing", [(n, t) for n, t in public() if not inspect.ismemberdescriptor(t)])
def test_every_public_name_has_a_docstring(name, thing):
    assert inspect.getdoc(thing) and len(inspect.getdoc(thing)) >= 15, name


def test_functions_in_c_tell_their_arguments():
    for name in ("hamming", "similarity", "cosine", "binarize", "quantize", "dequantize", "pack", "unpack", "convert", "quantize_model"):
        assert len(inspect.signature(getattr(bitlm, name)).parameters) >= 2, name
    assert list(inspect.signature(bitlm.Codes).parameters) == ["data", "width", "model_id"]


def test_the_pages_name_what_there_is():
    """No call in the pages of a name that the package lacks."""
    for page in ("PYTHON.md", "BRIDGES.md"):
        for name in re.findall(r"\bbitlm\.([A-Za-z_]\w*)", (ROOT / "docs" / page).read_text()):
            if name in ("h", "pc", "map", "langchain", "plot"):
                continue
            assert hasattr(bitlm, name), f"{name} in {page}"
