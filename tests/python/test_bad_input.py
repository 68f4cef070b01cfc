"""Arguments that nobody should give: an exception that says what is wrong, of the kind that docs/PYTHON.md names, and no crash.

More of them stand beside the calls they are about (test_model.py, test_index.py, test_quant.py, test_convert.py).
"""

import array
import os
import random
import threading

import pytest

import bitlm

SEED = 5
CODE = bytes(48)
F32 = array.array("f", [1.0, -2.0, 3.0] * 128)
STRIDED = memoryview(bytes(96))[::2]
SURROGATE = "\ud800"
CHATML = {"chat_template": "chatml", "max_tokens": 1}


def numbers(shape, kind="B"):
    """Zeros as a memoryview of two dimensions, without NumPy."""
    rows, columns = shape
    return memoryview(bytes(rows * columns * array.array(kind).itemsize)).cast("B").cast(kind, shape)


class Long:
    """Says that it is longer than memory."""

    def __len__(self):
        return 10**18

    def __getitem__(self, i):
        raise IndexError


def raising():
    yield "a"
    raise KeyError("evil")


BAD = [
    # texts
    (lambda m: m.embed(None), TypeError, "the texts are NoneType"),
    (lambda m: m.embed(3), TypeError, "the texts are int"),
    (lambda m: m.embed(b"abc"), TypeError, "the texts are bytes"),
    (lambda m: m.embed([["a"]]), TypeError, "text 0 is list"),
    (lambda m: m.embed(Long()), MemoryError, None),
    (lambda m: m.embed(raising()), KeyError, "evil"),
    (lambda m: m.embed(["ok", "\udfff"]), UnicodeEncodeError, "surrogates"),
    (lambda m: m.generate(SURROGATE), UnicodeEncodeError, "surrogates"),
    (lambda m: m.stream(None), TypeError, "NoneType"),
    (lambda m: m.tokenize(None), TypeError, "the text is NoneType"),
    (lambda m: m.tokenize(b"abc"), TypeError, "the text is bytes"),
    (lambda m: m.tokenize(SURROGATE), UnicodeEncodeError, "surrogates"),
    (lambda m: m.token_count(None), TypeError, "the text is NoneType"),
    (lambda m: m.chunk(None, 4), TypeError, "the text is NoneType"),
    (lambda m: m.classify(None, ["a", "b"]), TypeError, "the text is NoneType"),
    (lambda m: m.classify("x", "abc"), TypeError, "labels are str"),
    (lambda m: m.classify("x", [1, 2]), ValueError, "not a number"),
    (lambda m: m.classify("x", [SURROGATE, "b"]), ValueError, "Unicode"),
    (lambda m: m.detokenize("abc"), TypeError, "str"),
    (lambda m: m.detokenize([2**70]), ValueError, "64 bits"),
    (lambda m: m.detokenize([1.5]), TypeError, "float"),
    (lambda m: m.score(["a"]), TypeError, "str"),
    (lambda m: m.score([5] * 100000), ValueError, "n_ctx"),
    (lambda m: m.chunk("abc", 2**70), ValueError, "9223372036854775807"),
    (lambda m: m.chunk("abc", 5, 5), ValueError, "less than the chunk"),
    # options
    (lambda m: m.generate("a", max_tokens=-1), ValueError, "max_tokens is -1"),
    (lambda m: m.generate("a", max_tokens=10**30), ValueError, "too big"),
    (lambda m: m.generate("a", max_tokens=1.5), ValueError, "whole number"),
    (lambda m: m.generate("a", max_tokens=True), ValueError, "true or false"),
    (lambda m: m.generate("a", temperature=float("nan")), ValueError, "NaN"),
    (lambda m: m.generate("a", seed=-1), ValueError, "seed"),
    (lambda m: m.generate("a", stop=[SURROGATE]), ValueError, "Unicode"),
    (lambda m: m.generate("a", stop=["x"] * 10000), ValueError, "64"),
    (lambda m: m.generate("a", stop=b"x"), TypeError, "bytes"),
    (lambda m: m.generate("a", choices="red"), ValueError, "array"),
    (lambda m: m.generate("a", json_schema="x"), ValueError, "JSON"),
    (lambda m: m.generate("a", n_ctx=10**9), ValueError, "n_ctx"),
    (lambda m: m.generate("a", **{"max\0tokens": 1}), ValueError, "NUL"),
    (lambda m: m.embed("a", threads=-1), ValueError, "threads is -1"),
    (lambda m: m.embed("a", truncate="middle"), ValueError, "middle"),
    (lambda m: m.embed("a", cancel=3), AttributeError, "is_set"),
    (lambda m: m.encode(["a"], batch_size=0), ValueError, "batch_size is 0"),
    (lambda m: m.encode(["a"], batch_size=-3, show_progress_bar=True), ValueError, "batch_size is -3"),
    (lambda m: m.encode("a", normalize_embeddings=False), NotImplementedError, "length 1"),
    # chats
    (lambda m: m.chat("hi", **CHATML), ValueError, "message 1 is not an object"),
    (lambda m: m.chat([{"role": "user"}], **CHATML), ValueError, "no content"),
    (lambda m: m.chat([{"role": "user", "content": 3}], **CHATML), ValueError, "not a string"),
    (lambda m: m.chat([{"role": "nobody", "content": "x"}], **CHATML), ValueError, "nobody"),
    (lambda m: m.chat([{"role": "user", "content": SURROGATE}], **CHATML), ValueError, "Unicode"),
    (lambda m: m.create_chat_completion([{"role": "user"}], **CHATML), ValueError, "no content"),
    # models
    (lambda m: bitlm.Model(3), TypeError, "int"),
    (lambda m: bitlm.Model(""), ValueError, "empty"),
    (lambda m: bitlm.Model("a\0b"), ValueError, "NUL"),
    (lambda m: bitlm.Model(SURROGATE), UnicodeEncodeError, "surrogates"),
    (lambda m: bitlm.Model("/"), IsADirectoryError, "'/'"),
    (lambda m: bitlm.Model("/dev/null"), OSError, "device"),
    (lambda m: bitlm.Model("story", load="x"), ValueError, "auto"),
    # buffers
    (lambda m: bitlm.Codes("abcd"), TypeError, "str"),
    (lambda m: bitlm.Codes([1, 2]), TypeError, "list"),
    (lambda m: bitlm.Codes(STRIDED), BufferError, "contiguous"),
    (lambda m: bitlm.Codes(CODE, -2), ValueError, "rows of -2"),
    (lambda m: bitlm.Codes(CODE, 2**70), ValueError, "no rows of"),
    (lambda m: bitlm.Codes(CODE, 1.0), TypeError, "float"),
    (lambda m: bitlm.Codes(CODE, model_id="z" * 32), ValueError, "32 hex"),
    (lambda m: bitlm.Codes(CODE, model_id="0" * 31 + "\0"), ValueError, "32 hex"),
    (lambda m: bitlm.Codes(CODE, model_id=b"0" * 32), ValueError, "32 hex"),
    (lambda m: bitlm.Vectors(array.array("i", [1, 2])), TypeError, "format 'i'"),
    (lambda m: bitlm.Vectors(array.array("d", [1, 2])), TypeError, "format 'd'"),
    (lambda m: bitlm.Codes(CODE)[10**30], IndexError, None),
    (lambda m: bitlm.Codes(CODE)[::0], ValueError, "zero"),
    (lambda m: bitlm.hamming(STRIDED, CODE), BufferError, "contiguous"),
    (lambda m: bitlm.hamming(None, CODE), TypeError, "the first code is NoneType"),
    (lambda m: bitlm.cosine(F32[:2], array.array("i", [1, 2])), TypeError, "format 'i'"),
    (lambda m: bitlm.binarize(b"abc"), ValueError, "3 bytes"),
    # searching
    (lambda m: bitlm.topk(CODE, bitlm.Codes(CODE), -1), ValueError, "k is -1"),
    (lambda m: bitlm.topk(CODE, bitlm.Codes(CODE), 1.5), TypeError, "float"),
    (lambda m: bitlm.topk(CODE, STRIDED), BufferError, "contiguous"),
    (lambda m: bitlm.topk(STRIDED, CODE), BufferError, "contiguous"),
    (lambda m: bitlm.topk(b"", b""), ValueError, "0 bytes"),
    (lambda m: bitlm.topk(CODE, bitlm.Codes(CODE), only=[2**70]), ValueError, "64 bits"),
    (lambda m: bitlm.topk(CODE, bitlm.Codes(CODE), only=[-1]), IndexError, "row -1"),
    (lambda m: bitlm.topk(CODE, bitlm.Codes(CODE), only=5), TypeError, "int"),
    (lambda m: bitlm.Index(2**70), ValueError, "524288"),
    (lambda m: bitlm.Index(8.0), TypeError, "float"),
    (lambda m: bitlm.Index().add(b""), ValueError, "0 bytes"),
    (lambda m: bitlm.Index().add("x"), TypeError, "str"),
    (lambda m: bitlm.Index().add(STRIDED), BufferError, "contiguous"),
    (lambda m: bitlm.Index(384).add(CODE, [1.5]), TypeError, "float"),
    (lambda m: bitlm.Index(384).remove(None), TypeError, "None"),
    (lambda m: bitlm.Index(384).remove(2**70), ValueError, "64 bits"),
    (lambda m: bitlm.Index(384)[2**70], KeyError, "no id"),
    (lambda m: bitlm.Index.load("/dev/null"), OSError, "device"),
    (lambda m: bitlm.Index.load("a\0b"), ValueError, "null"),
    # blocks and vectors
    (lambda m: bitlm.pack(array.array("i", [0] * 256), "TQ2_0"), TypeError, "elements of 4 bytes"),
    (lambda m: bitlm.quantize(numbers((2, 256), "d"), "TQ2_0"), TypeError, "format 'd'"),
    (lambda m: bitlm.quantize(F32[::-1][:256], "nope\0"), ValueError, "no scheme"),
    (lambda m: bitlm.dequantize(b"", "TQ2_0", 2**62, 2**62), ValueError, "not possible"),
    (lambda m: bitlm.quantize_vector(None, "int8"), TypeError, "NoneType"),
    (lambda m: bitlm.dequantize_vector(bytes(100)), ValueError, "no quantized vector"),
    (lambda m: bitlm.load_sqlite(None), NotImplementedError, "register"),
]


@pytest.mark.parametrize("number", range(len(BAD)))
def test_refused_with_a_reason(model, number):
    call, kind, words = BAD[number]
    with pytest.raises(kind, match=words):
        call(model)


def test_a_huge_k_means_all():
    rows = [bytes([i]) * 48 for i in range(5)]
    index = bitlm.Index(384)
    index.add(b"".join(rows))
    for k in (5, 2**31, 2**62, 2**64, 2**200):
        assert len(bitlm.topk(CODE, bitlm.Codes(b"".join(rows), 48), k)) == 5
        assert len(index.search(CODE, k)) == 5
    assert 2**70 not in index and "x" not in index


def test_a_code_of_wide_elements_keeps_its_bytes():
    wide = memoryview(bytes(range(96))).cast("Q", (2, 6))
    index = bitlm.Index()
    assert index.add(wide) == [0, 1] and index.bits == 384 and index[1] == bytes(range(48, 96))
    assert bitlm.topk(bytes(range(48, 96)), wide, 1) == [(1, 0)]


def test_a_refused_first_code_leaves_the_index_empty():
    index = bitlm.Index()
    with pytest.raises(ValueError):
        index.add(bitlm.Codes(bytes(65537), 65537, "0" * 32))
    assert index.model_id is None and "empty" in repr(index) and index.add(CODE) == [0]


def test_order_of_numpy(model):
    numpy = pytest.importorskip("numpy")
    codes = model.embed(["a", "b", "c"])
    fortran = numpy.asfortranarray(codes.numpy())
    assert bitlm.Codes(numpy.ascontiguousarray(fortran)) == codes
    for call in (lambda: bitlm.Codes(fortran), lambda: bitlm.topk(codes[0], fortran), lambda: bitlm.hamming(fortran, codes),
                 lambda: bitlm.Index(384).add(fortran), lambda: bitlm.Vectors(numpy.zeros((3, 4), "f4").T),
                 lambda: bitlm.cosine(numpy.zeros(4, ">f4"), numpy.zeros(4, "f4"))):
        with pytest.raises((BufferError, ValueError, TypeError), match="contiguous|'>f'"):
            call()
    assert numpy.asarray(codes, order="F").tolist() == codes.tolist()


def test_saving_replaces_only_files(tmp_path):
    index = bitlm.Index(384)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    for name, kind in (("fifo", OSError), ("folder", IsADirectoryError)):
        with pytest.raises(kind, match="no regular file"):
            index.save(tmp_path / name)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fifo", "folder"]
    (tmp_path / "old").write_bytes(b"x")
    (tmp_path / "link").symlink_to("old")
    index.save(tmp_path / "link")
    assert len(bitlm.Index.load(tmp_path / "link")) == 0


def test_random_arguments_never_crash(model):
    """Any value where another is meant: an exception or a result."""
    rng = random.Random(SEED)
    values = [None, 0, -1, 2**31, 2**63, 2**64, -2**70, 1.5, float("nan"), True, "", "a", "\0", SURROGATE, b"", b"\xff" * 48, CODE, F32,
              STRIDED, [], [1], [None], ["a"], {"a": 1}, (), object(), bitlm.Codes(CODE), bitlm.Vectors(F32), bitlm.Codes(CODE)[:0],
              numbers((3, 16)), lambda *a: True, "TQ2_0", "int8", "story", bitlm.Index(384), threading.Event()]
    index = bitlm.Index(384)
    calls = [bitlm.hamming, bitlm.similarity, bitlm.cosine, bitlm.binarize, bitlm.topk, bitlm.topk_many, bitlm.Codes, bitlm.Vectors,
             bitlm.quantize, bitlm.dequantize, bitlm.pack, bitlm.unpack, bitlm.quantize_vector, bitlm.dequantize_vector,
             bitlm.quantize_error, bitlm.Index, index.add, index.remove, index.search, index.search_many, index.__getitem__,
             index.__contains__, bitlm.Index.load, model.tokenize, model.detokenize, model.token_count, model.chunk, model.embed,
             model.embed_f32, model.score, model.classify, model.chat, bitlm.memory, bitlm.Model]
    results = errors = 0
    for _ in range(6000):
        call = rng.choice(calls)
        arguments = [rng.choice(values) for _ in range(rng.randrange(1, 5))]
        try:
            call(*arguments)
            results += 1
        except (ArithmeticError, AttributeError, BufferError, LookupError, MemoryError, NotImplementedError, OSError, TypeError,
                ValueError):
            errors += 1
    assert results > 200 and errors > 2000


# ---- closed while used --------------------------------------------------------------------------------


def test_close_while_other_threads_work():
    """A call that runs keeps the model; later ones say that it is closed."""
    calls = [lambda m: m.embed("the fox"), lambda m: m.tokenize("the fox"), lambda m: m.detokenize([300, 301]), lambda m: m.info,
             lambda m: m.generate("a", max_tokens=2), lambda m: m.model_id, lambda m: m.memory(), lambda m: list(m.stream("a", max_tokens=2)),
             lambda m: m.score([5, 6]), lambda m: m.chunk("One. Two.", 4), lambda m: m.classify("x", ["a", "b"])]
    wrong = []

    def work(m, call, ready):
        ready.wait()
        try:
            while True:
                call(m)
        except ValueError as error:
            if "closed" not in str(error):
                wrong.append(error)
        except BaseException as error:
            wrong.append(error)

    for _ in range(3):
        m, ready = bitlm.Model(threads=1), threading.Barrier(len(calls) + 1)
        threads = [threading.Thread(target=work, args=(m, call, ready)) for call in calls]
        for t in threads:
            t.start()
        ready.wait()
        m.generate("b", max_tokens=3)
        m.close()
        for t in threads:
            t.join()
    assert not wrong


def test_many_threads_close_one_stream(model):
    for _ in range(50):
        stream = model.stream("Once", max_tokens=50, ignore_eos=True)
        threads = [threading.Thread(target=stream.close) for _ in range(4)]
        for t in threads:
            t.start()
        got = []
        try:
            got = list(stream)
        finally:
            for t in threads:
                t.join()
        assert len(got) <= 50 and list(stream) == []
