"""Model: text, tokens, embeddings, options and errors."""

import array
import asyncio
import contextlib
import math
import pickle
import subprocess
import threading
import time

import pytest
from conftest import CODE_BITS, COMMAND, SLACK

import bitlm

GREEDY = {"temperature": 0, "max_tokens": 12}


def test_generate_a_str_or_a_list(model):
    text = model.generate("Once upon a time", **GREEDY)
    assert isinstance(text, str) and text and not text.startswith("Once upon a time")
    prompts = ["Once upon a time", "The fox said", "A king had three sons"]
    assert model.generate(prompts, **GREEDY) == [model.generate(p, **GREEDY) for p in prompts]
    assert model.generate(iter(prompts[:1]), **GREEDY) == [text]
    assert model.generate([]) == []


def test_stream_gives_the_text_of_generate_piece_by_piece(model):
    pieces = list(model.stream("Once upon a time", logprobs=True, **GREEDY))
    assert "".join(pieces) == model.generate("Once upon a time", **GREEDY)
    assert [p.n for p in pieces] == list(range(12))
    assert all(p.finish is None for p in pieces[:-1]) and pieces[-1].finish == "length"
    assert all(p.logprob <= 0 for p in pieces)
    assert all(math.isnan(p.logprob) for p in model.stream("x", **GREEDY))
    again = pickle.loads(pickle.dumps(pieces[-1]))
    assert (again, again.n, again.token, again.finish) == (pieces[-1], 11, pieces[-1].token, "length")


def test_threads_change_no_bit():
    with bitlm.Model(threads=2) as two, bitlm.Model(threads=1) as one:
        assert two.generate("The fox", seed=3) == one.generate("The fox", seed=3)
        assert two.embed(["a", "b"]) == one.embed(["a", "b"])


def test_embed(model):
    texts = ["a tax letter", "a love letter", ""]
    codes = model.embed(texts)
    assert codes.shape == (3, CODE_BITS // 8) and codes.bits == CODE_BITS and len(codes) == 3
    for i, text in enumerate(texts):
        assert model.embed(text).tobytes() == codes[i]
    vectors = model.embed_f32(texts)
    assert vectors.shape == (3, CODE_BITS) and vectors.dim == CODE_BITS
    assert vectors.binarize() == codes
    for row in vectors.tolist():
        assert abs(sum(x * x for x in row) - 1) < 1e-5
    assert model.embed([]).shape == (0, CODE_BITS // 8)
    assert codes.model_id == model.model_id and len(codes.model_id) == 32


def test_encode_is_embed_under_another_name(model, capsys):
    texts = [f"text {i}" for i in range(7)]
    assert model.encode(texts) == model.embed_f32(texts)
    assert model.encode("x", precision="ubinary") == model.embed("x")
    assert model.encode(texts, batch_size=3, show_progress_bar=True, precision="ubinary") == model.embed(texts)
    assert model.encode([], show_progress_bar=True).shape == (0, CODE_BITS)
    assert capsys.readouterr().err == ""  # a bar is for terminals
    with pytest.raises(ValueError, match="int8"):
        model.encode("x", precision="int8")


def test_tokens(model):
    ids = model.tokenize("Once upon a time")
    assert model.detokenize(ids) == "Once upon a time" and model.token_count("Once upon a time") == len(ids)
    assert model.tokenize("Once upon a time", frame=True)[-len(ids):] == ids
    assert model.tokenize("") == [] and model.detokenize([]) == ""
    long = "é🙂 word " * 3000
    assert model.detokenize(model.tokenize(long)) == long
    text = "One fish. Two fish. Red fish. Blue fish."
    chunks = model.chunk(text, 8, 2)
    assert len(chunks) > 1 and all(n <= 8 for _, _, n in chunks)
    assert chunks[-1][0] + chunks[-1][1] == len(text)
    with pytest.raises(ValueError, match="-1"):
        model.detokenize([-1])
    with pytest.raises(ValueError, match="99999999999"):
        model.detokenize([99999999999])


def test_score_and_logits_agree(model):
    ids = model.tokenize("Once upon a time there was a king", frame=True)
    scores = model.score(ids)
    assert scores == model.score("Once upon a time there was a king")
    assert scores[0] == 0 and all(s < 0 for s in scores[1:])
    rows = model.logits(ids).tolist()
    assert len(rows) == len(ids)
    for i in range(1, len(ids)):
        top = max(rows[i - 1])
        expected = rows[i - 1][ids[i]] - top - math.log(sum(math.exp(x - top) for x in rows[i - 1]))
        assert abs(scores[i] - expected) < 1e-4


def test_classify(model):
    labels = ["taxes", "love", "weather"]
    found = model.classify("The tax office wants its money", labels)
    assert list(found) == sorted(labels, key=lambda x: -found[x]) and next(iter(found)) == "taxes"
    assert abs(sum(found.values()) - 1) < 1e-9
    with bitlm.Model("story") as story:
        assert abs(sum(story.classify("Once upon a time", labels).values()) - 1) < 1e-9


def test_an_answer_of_a_given_form(model):
    assert model.generate("The fox is", choices=["red", "blue"]) in ("red", "blue")
    answers = model.generate(["The fox is", "The sky is"], choices=["red", "blue"])
    assert set(answers) <= {"red", "blue"}


def test_perplexity(model):
    text = "Once upon a time there was a king"
    scores = model.score(text)
    assert abs(model.perplexity(text) - math.exp(-sum(scores[1:]) / (len(scores) - 1))) < 1e-6


BAD = [
    (lambda m: m.classify("x", []), ValueError, "choices"),
    (lambda m: m.classify("x", ["a", "a"]), ValueError, "a"),
    (lambda m: m.perplexity(""), ValueError, "tokens"),

    (lambda m: m.generate("x", max_token=3), ValueError, "max_token"),
    (lambda m: m.generate("x", top_p=0), ValueError, "top_p"),
    (lambda m: m.generate("x", model="story"), TypeError, "model"),
    (lambda m: m.embed("x", on_error="null"), TypeError, "on_error"),
    (lambda m: m.generate(3), TypeError, "int"),
    (lambda m: m.generate(["a", 3]), TypeError, "int"),
    (lambda m: m.embed(["a", b"b"]), TypeError, "text 1 is bytes"),
    (lambda m: m.embed("word " * 5000), ValueError, "n_ctx"),
    (lambda m: m.generate("word " * 5000), ValueError, "n_ctx"),
    (lambda m: m.chat([{"role": "user", "content": "hi"}]), (ValueError, NotImplementedError), "template"),
    (lambda m: m.embed("\ud800"), UnicodeEncodeError, "surrogates"),
    (lambda m: m.logits([]), ValueError, "0 tokens"),
    (lambda m: m.score([10**6]), ValueError, "1000000"),
    (lambda m: m.chunk("x", 0), ValueError, "size"),
    (lambda m: bitlm.Model("/nowhere.gguf"), FileNotFoundError, "/nowhere.gguf"),
    (lambda m: bitlm.Model(__file__), bitlm.FormatError, "GGUF"),
    (lambda m: bitlm.Model("embed").generate("x"), NotImplementedError, "embed"),
    (lambda m: bitlm.Model("story").embed("x"), NotImplementedError, "story"),
    (lambda m: bitlm.Model(threads=1000), ValueError, "1000"),
    (lambda m: bitlm.Model(n_ctx=3).generate("x"), ValueError, "n_ctx is 3"),
    (lambda m: pickle.dumps(m), TypeError, "cannot be pickled: it is a mapped file"),
    (lambda m: pickle.dumps(m.stream("x")._core), TypeError, "running generation"),
]


@pytest.mark.parametrize("number", range(len(BAD)))
def test_bad_input_gets_an_exception_that_names_it(model, number):
    call, kind, words = BAD[number]
    with pytest.raises(kind, match=words):
        call(model)


def test_truncate(model):
    long = "word " * 5000
    assert model.embed(long, truncate="end").shape == (1, CODE_BITS // 8)


def test_close():
    m = bitlm.Model()
    stream = m.stream("x", max_tokens=5, ignore_eos=True)
    next(stream)
    m.close()
    m.close()
    assert len(list(stream)) == 4  # a running stream keeps the model
    for call in (lambda: m.generate("x"), lambda: m.embed("x"), lambda: m.info, lambda: m.tokenize("x")):
        with pytest.raises(ValueError, match="closed"):
            call()
    assert "closed" in repr(m)


def test_info_and_reprs(model):
    assert model.info["can_generate"] and model.info["context_length"] > 100
    with bitlm.Model("embed") as m:
        assert "embeds" in repr(m) and m.model_id == model.model_id
        assert m.info["embedding_bits"] == CODE_BITS
        assert "<table>" in m._repr_html_()
    codes = model.embed([str(i) for i in range(9)])
    assert repr(codes) == f"<bitlm.Codes: 9 of {CODE_BITS} bits>"
    assert "4 more" in codes._repr_html_() and codes[0].hex() in codes._repr_html_()
    assert "float32" in model.embed_f32("x")._repr_html_()


# ---- stopping -------------------------------------------------------------------------------


def test_a_stream_ends_when_it_is_closed(model):
    with model.stream("Once", max_tokens=100, ignore_eos=True) as stream:
        next(stream)
        stream.close()
        assert list(stream) == []
        stream.close()
    assert list(stream) == []


def test_an_event_ends_a_stream_and_a_call(model, big):
    event = threading.Event()
    stream = model.stream("Once", cancel=event, max_tokens=100, ignore_eos=True)
    next(stream)
    event.set()
    assert list(stream) == []
    with pytest.raises(bitlm.Canceled):
        model.generate("x", cancel=event)
    with bitlm.Model(big, threads=1) as slow:
        event.clear()
        threading.Timer(0.3, event.set).start()
        began = time.monotonic()
        with pytest.raises(bitlm.Canceled, match="event"):
            slow.generate("word " * 900, cancel=event)
        assert time.monotonic() - began < 0.6 * SLACK + 0.4


def test_close_from_another_thread_stops_the_work(big):
    with bitlm.Model(big, threads=1) as slow:
        stream = slow.stream("word " * 900)
        threading.Timer(0.3, stream.close).start()
        began = time.monotonic()
        assert list(stream) == []  # the prompt was not through
        assert time.monotonic() - began < 0.6 * SLACK + 0.4


def test_timeout(big):
    with bitlm.Model(big, threads=1) as slow, pytest.raises(TimeoutError, match="50"):
        slow.generate("word " * 900, timeout_ms=50)


def test_a_bad_event_is_an_exception_not_a_crash(model, big):
    with pytest.raises(AttributeError):
        model.generate("x", cancel=object())

    class Late:
        calls = 0

        def is_set(self):
            self.calls += 1
            if self.calls > 2:
                raise ZeroDivisionError("late")
            return False

    with bitlm.Model(big, threads=1) as slow, pytest.raises(ZeroDivisionError):
        slow.generate("word " * 900, cancel=Late())


# ---- asyncio, threads -----------------------------------------------------------------------


def test_astream(model):
    async def run():
        return [p async for p in model.astream("Once upon a time", **GREEDY)]

    assert "".join(asyncio.run(run())) == model.generate("Once upon a time", **GREEDY)


def test_astream_stops_when_left_and_lets_the_loop_run(model):
    async def run():
        ticks = 0

        async def ticker():
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        task = asyncio.ensure_future(ticker())
        got = []
        async with contextlib.aclosing(model.astream("Once", max_tokens=500, ignore_eos=True)) as pieces:
            async for piece in pieces:
                got.append(piece)
                if len(got) == 5:
                    break
        task.cancel()
        return got, ticks

    got, ticks = asyncio.run(run())
    assert len(got) == 5 and ticks > 5


def test_a_cancelled_task_stops_the_work(big):
    """Also while the prompt is read: the executor's thread is free again."""
    async def run(slow):
        async def consume():
            async for _ in slow.astream("word " * 900):
                raise AssertionError("the prompt was through")

        task = asyncio.ensure_future(consume())
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with bitlm.Model(big, threads=1) as slow:
        began = time.monotonic()
        asyncio.run(run(slow))  # waits for the threads of its executor
        assert time.monotonic() - began < 0.8 * SLACK + 0.6


def test_one_model_in_many_threads(model):
    expected = [model.generate("The fox", seed=s, max_tokens=10) for s in range(4)]
    code = model.embed("the fox")
    wrong = []

    def work(seed):
        for _ in range(5):
            if model.generate("The fox", seed=seed, max_tokens=10) != expected[seed] or model.embed("the fox") != code:
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(s,)) for s in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_two_threads_cannot_step_one_stream(big):
    with bitlm.Model(big, threads=1) as slow:
        stream = slow.stream("word " * 900)
        first = threading.Thread(target=lambda: list(stream))
        first.start()
        time.sleep(0.2)
        with pytest.raises(RuntimeError, match="another thread"):
            next(stream)
        stream.close()
        first.join(5 * SLACK)
        assert not first.is_alive()


# ---- arrays ------------------------------------------------------------------------------------


def test_codes_are_buffers(model):
    codes = model.embed(["a", "b", "c", "d"])
    view = memoryview(codes)
    assert view.shape == (4, 48) and view.format == "B" and view.readonly and view.tobytes() == codes.tobytes()
    assert bytes(codes) == codes.tobytes() and codes.nbytes == 192
    assert isinstance(codes[0], bytes) and codes[-1] == codes[3] and list(codes) == [codes[i] for i in range(4)]
    assert codes[1:3].shape == (2, 48) and codes[1:3][0] == codes[1] and codes[::-1][0] == codes[3]
    assert codes[::2].tobytes() == codes[0] + codes[2] and codes[9:].shape == (0, 48)
    assert bitlm.Codes(codes.tobytes(), 48) == codes and bitlm.Codes(codes) == codes
    assert bitlm.Codes(codes[0]).shape == (1, 48)
    assert pickle.loads(pickle.dumps(codes)) == codes
    assert pickle.loads(pickle.dumps(codes)).model_id == codes.model_id
    assert codes != codes[:2] and not codes == 3
    with pytest.raises(TypeError):
        hash(codes)
    for wrong in (4, -5):
        with pytest.raises(IndexError):
            codes[wrong]
    with pytest.raises(TypeError):
        codes["x"]
    with pytest.raises((BufferError, TypeError)):
        memoryview(codes)[0, 0] = 1


def test_vectors_are_buffers(model):
    vectors = model.embed_f32(["a", "b"])
    view = memoryview(vectors)
    assert view.shape == (2, CODE_BITS) and view.format == "f"
    assert vectors[1].shape == (1, CODE_BITS) and vectors[1].tolist()[0] == view.tolist()[1]
    again = bitlm.Vectors(vectors.tobytes(), CODE_BITS)
    assert again == vectors and again.model_id is None
    odd = bitlm.Vectors(memoryview(b"x" + vectors.tobytes())[1:], CODE_BITS)  # not aligned
    assert odd == vectors


@pytest.mark.parametrize("make, words", [
    (lambda: bitlm.Codes(b"abc", 2), "3 bytes are no rows of 2"),
    (lambda: bitlm.Codes(b"abc", 0), "rows of 0"),
    (lambda: bitlm.Codes(b""), "rows of 0"),
    (lambda: bitlm.Vectors(b"abcde", 1), "5 bytes"),
    (lambda: bitlm.Codes(b"ab", model_id="x"), "32 hex"),
])
def test_rows_must_come_out_even(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_codes_refuse_wide_elements():
    with pytest.raises(TypeError, match="8 bytes"):
        bitlm.Codes(array.array("d", [1.0]))


def test_numpy(model):
    numpy = pytest.importorskip("numpy")
    codes = model.embed(["a", "b"])
    a = codes.numpy()
    assert a.shape == (2, 48) and a.dtype == numpy.uint8 and a.tobytes() == codes.tobytes()
    v = model.embed_f32(["a", "b"]).numpy()
    assert v.dtype == numpy.float32 and v.shape == (2, CODE_BITS)
    assert (numpy.packbits(v > 0, axis=1) == a).all()
    assert bitlm.Codes(a) == codes


def test_distances(model):
    a, b = b"\xff\x00\x01", b"\x00\x00\x00"
    assert bitlm.hamming(a, b) == 9 and bitlm.similarity(a, b) == 15 / 24
    assert bitlm.hamming(bytearray(a), memoryview(b)) == 9
    x = array.array("f", [1, 0, 2])
    y = array.array("f", [0, 1, 0])
    assert bitlm.cosine(x, x) == 1 and bitlm.cosine(x, y) == 0
    assert bitlm.binarize(x) == b"\xa0" and bitlm.binarize(x, threshold=1) == b"\x20"
    codes = model.embed(["a", "b"])
    assert bitlm.hamming(codes[:1], codes[1:]) == bin(int.from_bytes(codes[0], "big")
                                                      ^ int.from_bytes(codes[1], "big")).count("1")
    with pytest.raises(ValueError, match="3 and 2 bytes"):
        bitlm.hamming(a, b"ab")
    with pytest.raises(TypeError, match="the first code is str"):
        bitlm.hamming("a", b)
    with pytest.raises(TypeError, match="takes 2"):
        bitlm.hamming(a)
    with pytest.raises(TypeError, match="format 'd'"):
        bitlm.cosine(array.array("d", [1]), x)
    with pytest.raises(ValueError, match="different models"):
        bitlm.hamming(codes[:1], bitlm.Codes(codes[0], 48, "0" * 32))


def test_shortlist():
    with bitlm.Model("story", head="shortlist") as brief, bitlm.Model("story") as full:
        for options in ({"temperature": 0}, {"top_k": 10, "seed": 3}, {"choices": ["dog", "cat"]}):
            assert brief.generate(["Once upon", "A cat"], max_tokens=8, **options) == full.generate(["Once upon", "A cat"], max_tokens=8, **options)
        assert full.generate("One day", temperature=0, max_tokens=8, head="shortlist") == full.generate("One day", temperature=0, max_tokens=8)
        assert brief.memory()["shortlist_bytes"] > full.memory()["shortlist_bytes"] == 0
    with pytest.raises(ValueError, match="full|shortlist"):
        bitlm.Model("story", head=1)


def test_memory():
    parts = bitlm.memory(n_ctx=256, kv_type="int8")
    assert parts["kv_bytes"] == 2 * 6 * 256 * (256 + 16) and parts["n_ctx"] == 256
    with bitlm.Model("embed") as m:
        assert m.memory() == bitlm.memory("embed")
        assert m.memory()["low_bit_bytes"] > 0
    with pytest.raises(ValueError, match="512"):
        bitlm.memory("story", n_ctx=100000)


def test_memory_of_a_shape(tmp_path):
    """Planned without a file, part by part as with it; numbers alone; sentences."""
    parts = bitlm.memory(shape={"rows": 10000, "dims": 300})
    assert parts["float_bits"] == 96_000_000 and parts["binary_bits"] == 3_000_000
    assert bitlm.memory(shape={"parameters": 7e9})["float_bytes"] == 28_000_000_000
    subprocess.run([COMMAND, "synth", tmp_path / "tiny.gguf"], check=True, timeout=60)
    options = {"n_ctx": 256, "kv_type": "int8", "threads": 2}
    file, plan = bitlm.memory(str(tmp_path / "tiny.gguf"), **options), bitlm.memory(shape="tiny", **options)
    assert plan.keys() == file.keys()
    assert {k: v for k, v in plan.items() if k not in ("file_bytes", "total_bytes")} == \
        {k: v for k, v in file.items() if k not in ("file_bytes", "total_bytes")}
    assert bitlm.memory(shape={"shape": "7b", "type": "q8_0"})["layer_bytes"] == \
        32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 11008) // 32 * 34
    for bad, words in [("8b", "is no shape"), ({"colour": 1}, "a shape has no 'colour'"), ({"hidden": 64}, "a shape needs")]:
        with pytest.raises(ValueError, match=words):
            bitlm.memory(shape=bad)
    with pytest.raises(NotImplementedError, match="experts"):
        bitlm.memory(shape="moe-tiny")
    with pytest.raises(TypeError, match="not both"):
        bitlm.memory("story", shape="7b")
    with pytest.raises(ValueError, match="unknown option 'colour'"):
        bitlm.memory(shape="7b", colour=1)
    with pytest.raises(OSError):
        bitlm.memory("/nowhere.gguf")
