"""The bridges to packages of PyPI, against the packages themselves; skipped where they are missing.

    python3 -m venv v && v/bin/pip install . pytest numpy llm langchain-core langchain-tests mypy matplotlib
    BITLM_PYTHON= v/bin/python -m pytest tests/python/test_ecosystem.py -rs
"""

import importlib.metadata
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from conftest import PACKAGE

import bitlm


def test_chat_completion_has_openais_shape():
    messages = [{"role": "system", "content": "Tell a story."}, {"role": "user", "content": "A fox"}]
    with bitlm.Model("story") as m:
        with pytest.raises((ValueError, NotImplementedError), match="template"):
            m.create_chat_completion(messages)
        options = {"chat_template": "chatml", "max_tokens": 6}
        text = m.chat(messages, **options)
        done = m.create_chat_completion(messages, **options)
        assert done["object"] == "chat.completion" and done["model"] == "story" and done["id"].startswith("chatcmpl-")
        assert done["choices"][0] == {"index": 0, "message": {"role": "assistant", "content": text},
                                      "finish_reason": "length"}
        prompt = m.token_count("Tell a story.") + m.token_count("A fox")
        assert done["usage"] == {"prompt_tokens": prompt, "completion_tokens": 6, "total_tokens": prompt + 6}
        chunks = list(m.create_chat_completion(messages, stream=True, **options))
        assert "".join(c["choices"][0]["delta"]["content"] for c in chunks) == text == "".join(m.stream_chat(messages, **options))
        assert {c["object"] for c in chunks} == {"chat.completion.chunk"} and len({c["id"] for c in chunks}) == 1
        assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
        assert chunks[-1]["choices"][0]["finish_reason"] == "length"
        json.dumps(done), json.dumps(chunks)
        with bitlm.Model("story", chat_template="chatml") as given:
            assert given.chat(messages, max_tokens=6) == text


def test_llm(model):
    llm = pytest.importorskip("llm", reason="the package llm is not installed (PyPI)")
    if PACKAGE:
        pytest.skip("bitlm is not installed, so llm cannot find its plugin")
    assert any(e.value == "bitlm.llm_plugin" for e in importlib.metadata.entry_points(group="llm"))
    answer = llm.get_model("bitlm").prompt("Once upon a time", max_tokens=8, seed=2)
    assert answer.text() == model.generate("Once upon a time", max_tokens=8, seed=2)
    assert "".join(llm.get_model("bitlm").prompt("The fox", max_tokens=8)) == model.generate("The fox", max_tokens=8)
    vectors = llm.get_embedding_model("bitlm-f32").embed_multi(["a", "b"])
    assert list(vectors) == model.embed_f32(["a", "b"]).tolist()
    bits = llm.get_embedding_model("bitlm-bits").embed("a")
    assert "".join("1" if x > 0 else "0" for x in bits) == "".join(f"{b:08b}" for b in model.embed("a")[0])


def test_langchain(model):
    pytest.importorskip("langchain_core", reason="the package langchain-core is not installed (PyPI)")
    from langchain_core.vectorstores import InMemoryVectorStore

    from bitlm.langchain import BitlmEmbeddings

    store = InMemoryVectorStore(BitlmEmbeddings())
    store.add_texts(["a letter from the tax office", "a love letter", "rain tomorrow"])
    assert store.similarity_search("taxes", k=1)[0].page_content == "a letter from the tax office"
    assert BitlmEmbeddings().embed_documents(["a", "b"]) == model.embed_f32(["a", "b"]).tolist()


def test_langchains_own_tests(tmp_path):
    pytest.importorskip("langchain_tests", reason="the package langchain-tests is not installed (PyPI)")
    (tmp_path / "test_standard.py").write_text("""
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from bitlm.langchain import BitlmEmbeddings
class TestBitlm(EmbeddingsIntegrationTests):
    @property
    def embeddings_class(self): return BitlmEmbeddings
    @property
    def embedding_model_params(self): return {}
""")
    env = dict(os.environ, PYTHONPATH=PACKAGE) if PACKAGE else None
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o",
                           "asyncio_mode=auto", tmp_path], env=env,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_plots(model, tmp_path):
    matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    matplotlib.use("Agg")
    import bitlm.plot

    codes = model.embed([f"text {i}" for i in range(40)])
    ax = bitlm.plot.distances(codes)
    assert sum(p.get_height() for p in ax.patches) == 40 * 39 // 2
    assert len(bitlm.plot.latency(codes, [10, 40], repeat=3).lines[0].get_xdata()) == 2
    with pytest.raises(ValueError, match="0 codes"):
        bitlm.plot.latency(codes[:0])
    ax.figure.savefig(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5000


def test_stubs_agree_with_the_module():
    pytest.importorskip("mypy", reason="mypy is not installed (PyPI)")
    if PACKAGE:
        pytest.skip("stubtest looks at an installed package")
    done = subprocess.run([sys.executable, "-m", "mypy.stubtest", "bitlm._bitlm", "--ignore-missing-stub"],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_package_passes_mypy(tmp_path):
    """All but the plugins, whose base classes llm and langchain-core type as they please."""
    pytest.importorskip("mypy", reason="mypy is not installed (PyPI)")
    shutil.copytree(pathlib.Path(bitlm.__file__).parent, tmp_path / "bitlm", ignore=shutil.ignore_patterns(
        "*.so", "lib", "__pycache__", "llm_plugin.py", "langchain.py", "plot.py"))
    done = subprocess.run([sys.executable, "-m", "mypy", "--strict", "-p", "bitlm"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
