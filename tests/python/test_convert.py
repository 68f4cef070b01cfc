"""bitlm.convert: the same files as the command, progress, exceptions."""
import pathlib
import subprocess
import tarfile

import bitlm
import pytest

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
