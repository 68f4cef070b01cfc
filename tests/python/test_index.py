"""Index and topk, against a plain sort in Python."""

import ctypes.util
import pickle
import random
import struct
import threading

import pytest

import bitlm

WIDTH = 48
SEED = 20251


def codes_of(n, seed=SEED, width=WIDTH):
    rng = random.Random(seed)
    return [rng.randbytes(width) for _ in range(n)]


def distance(a, b):
    return (int.from_bytes(a, "big") ^ int.from_bytes(b, "big")).bit_count()


def nearest(query, rows, k):
    """rows: {id: code}"""
    return sorted(((i, distance(query, c)) for i, c in rows.items()), key=lambda h: (h[1], h[0]))[:k]


def test_topk_is_a_sort():
    for n, width in ((0, 48), (1, 1), (7, 3), (500, 48), (3000, 8)):
        rows = codes_of(n, width=width)
        query = codes_of(1, seed=1, width=width)[0]
        codes = bitlm.Codes(b"".join(rows), width) if n else b""
        for k in (1, 5, 5000):
            assert bitlm.topk(query, codes, k) == nearest(query, dict(enumerate(rows)), k)
    rows = [b"\0"] * 50 + [b"\1"] * 50  # ties come out by row
    assert bitlm.topk(b"\1", b"".join(rows), 60) == [(i, 0) for i in range(50, 100)] + [(i, 1) for i in range(10)]


def test_topk_filter_and_many():
    rows = codes_of(400)
    codes = bitlm.Codes(b"".join(rows), WIDTH)
    queries = bitlm.Codes(b"".join(codes_of(3, seed=2)), WIDTH)
    only = range(0, 400, 7)
    few = {i: rows[i] for i in only}
    assert bitlm.topk(queries[0], codes, 9, only=only) == nearest(queries[0], few, 9)
    assert bitlm.topk_many(queries, codes, 9) == [nearest(q, dict(enumerate(rows)), 9) for q in queries]
    assert bitlm.topk(queries[0], codes, only=[]) == []
    for call, kind, words in (
        (lambda: bitlm.topk(queries, codes), ValueError, "3 queries"),
        (lambda: bitlm.topk(queries[0], codes, 0), ValueError, "k is 0"),
        (lambda: bitlm.topk(b"ab", codes), ValueError, "2 bytes"),
        (lambda: bitlm.topk(queries[0], codes, only=[400]), IndexError, "400"),
        (lambda: bitlm.topk(queries[0], "x"), TypeError, "str"),
        (lambda: bitlm.topk(queries[0], codes, only=["x"]), TypeError, "int"),
    ):
        with pytest.raises(kind, match=words):
            call()


def test_an_index_against_a_dict():
    rng = random.Random(SEED)
    index, rows = bitlm.Index(WIDTH * 8), {}
    for step in range(60):
        n = rng.randrange(1, 40)
        ids = rng.sample(range(450), n)
        if step % 3 == 2:
            assert index.remove(ids) == len(rows.keys() & set(ids))
            rows = {i: c for i, c in rows.items() if i not in set(ids)}
        else:
            new = codes_of(n, seed=step)
            if step % 5 == 0:
                ids = index.add(bitlm.Codes(b"".join(new), WIDTH))
                assert ids == list(range(max(rows, default=-1) + 1, max(rows, default=-1) + 1 + n))
            else:
                assert index.add(b"".join(new), ids) == ids
            rows.update(zip(ids, new))
        assert len(index) == len(rows) and list(index) == sorted(rows)
        query = codes_of(1, seed=1000 + step)[0]
        assert index.search(query, 7) == nearest(query, rows, 7)
    some = rng.sample(sorted(rows), 20)
    assert index.search(query, 5, only=some + [10**9]) == nearest(query, {i: rows[i] for i in some}, 5)
    even = {i: c for i, c in rows.items() if i % 2 == 0}
    assert index.search(query, 5, only=lambda i: i % 2 == 0) == nearest(query, even, 5)
    assert all(index[i] == c and i in index for i, c in rows.items())
    assert 10**9 not in index and index.codes().tobytes() == b"".join(rows[i] for i in sorted(rows))
    with pytest.raises(KeyError):
        index[10**9]


def test_save_and_load(tmp_path, model):
    path = tmp_path / "a.idx"
    index = bitlm.Index()
    assert len(index) == 0 and list(index) == [] and "empty" in repr(index)
    texts = ["tax letter", "love letter", "weather report"]
    assert index.add(model.embed(texts), [10, 30, 20]) == [10, 30, 20]
    assert index.model_id == model.model_id and index.bits == 384
    index.save(path)
    loaded = bitlm.Index.load(path)
    assert loaded.mapped and len(loaded) == 3 and loaded.model_id == model.model_id
    loaded.verify()
    query = model.embed("a letter about taxes")
    assert loaded.search(query) == index.search(query) and loaded.search(query, 1)[0][0] == 10
    assert loaded.search_many(model.embed(texts), 1) == [[(10, 0)], [(30, 0)], [(20, 0)]]
    loaded.remove(10)  # copied at the first change; the file stays
    assert not loaded.mapped and list(loaded) == [20, 30] and list(bitlm.Index.load(path)) == [10, 20, 30]
    again = tmp_path / "b.idx"
    loaded.add(model.embed(["tax letter"]), [10])
    loaded.save(again)
    assert again.read_bytes() == path.read_bytes()  # the same contents are the same bytes
    loaded.save(path)  # over a file that is open and mapped
    assert not bitlm.Index.load(path, load="copy").mapped
    assert sorted(tmp_path.glob("*")) == [path, again]


def test_codes_of_another_model_are_refused(model):
    index = bitlm.Index()
    index.add(model.embed("x"))
    other = bitlm.Codes(model.embed("x")[0], 48, "0" * 31 + "1")
    for call in (lambda: index.add(other), lambda: index.search(other)):
        with pytest.raises(ValueError, match="embed the texts again"):
            call()
    index.add(other[0])  # plain bytes carry no model


def test_damaged_and_foreign_files_are_refused(tmp_path, model):
    path = tmp_path / "a.idx"
    index = bitlm.Index()
    index.add(model.embed(["a", "b", "c"]))
    index.save(path)
    good = path.read_bytes()
    assert good[:8] == b"BITLMIDX" and len(good) == 64 + 64 + 3 * 48
    for at in list(range(0, 64, 3)) + [63]:  # the header is covered by its checksum
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1:])
        with pytest.raises((bitlm.FormatError, NotImplementedError)):
            bitlm.Index.load(path)
    for end in (0, 7, 63, 64, len(good) - 1):
        path.write_bytes(good[:end])
        with pytest.raises(bitlm.FormatError):
            bitlm.Index.load(path)
    path.write_bytes(good + b"x")
    with pytest.raises(bitlm.FormatError):
        bitlm.Index.load(path)
    for at in (64, 128, len(good) - 1):  # ids and codes: found by verify
        path.write_bytes(good[:at] + bytes([good[at] ^ 0x80]) + good[at + 1:])
        bad = bitlm.Index.load(path)
        assert len(bad.search(model.embed("a"), 3)) == 3
        with pytest.raises(bitlm.FormatError, match="damaged"):
            bad.verify()
    with pytest.raises(FileNotFoundError):
        bitlm.Index.load(tmp_path / "nothing")
    with pytest.raises(OSError):
        index.save(tmp_path / "no" / "such" / "folder")


def xxh3():
    """XXH3-64, as docs/FORMATS.md has it, from the library itself."""
    name = ctypes.util.find_library("xxhash")
    if not name:
        pytest.skip("no libxxhash here")
    function = ctypes.CDLL(name).XXH3_64bits
    function.restype, function.argtypes = ctypes.c_uint64, (ctypes.c_char_p, ctypes.c_size_t)
    return lambda data: function(data, len(data))


def test_the_file_is_as_docs_formats_says(tmp_path, model):
    """Every field, and what a reader does with another version, byte order and BITLM_NUMERICS."""
    hash64, path = xxh3(), tmp_path / "a.idx"
    codes = model.embed(["a", "b", "c"])
    index = bitlm.Index()
    index.add(codes, [7, 3, 2**40])
    index.save(path)
    rows = sorted(zip([7, 3, 2**40], codes))
    ids, packed = struct.pack("<3q", *[i for i, _ in rows]), b"".join(c for _, c in rows)

    def file(version=1, numerics=bitlm.NUMERICS, mark=0x01020304, model_id=bytes.fromhex(model.model_id)):
        head = struct.pack("<8sIIIIQ16sQ", b"BITLMIDX", mark, version, 48, numerics, 3, model_id, hash64(ids + packed))
        return head + struct.pack("<Q", hash64(head)) + ids + bytes(-len(ids) % 64) + packed

    assert path.read_bytes() == file()
    for bytes_, kind, words in ((file(version=2), NotImplementedError, "version 2"),
                                (file(mark=0x04030201), (NotImplementedError, bitlm.FormatError), "byte order"),
                                (file(numerics=bitlm.NUMERICS + 1), NotImplementedError, "embed the texts again"),
                                (file(numerics=bitlm.NUMERICS - 1), NotImplementedError, "embed the texts again")):
        path.write_bytes(bytes_)
        with pytest.raises(kind, match=words):
            bitlm.Index.load(path)
    path.write_bytes(file(numerics=bitlm.NUMERICS + 1, model_id=bytes(16)))  # codes of nobody's arithmetic
    assert bitlm.Index.load(path).search(codes[0], 1) == [(7, 0)]


def test_bad_arguments(model):
    index = bitlm.Index(384)
    for call, kind, words in (
        (lambda: bitlm.Index(3), ValueError, "multiple of 8"),
        (lambda: bitlm.Index(8 * 65537), ValueError, "524296"),
        (lambda: bitlm.Index(8, "zz"), ValueError, "32 hex"),
        (lambda: bitlm.Index().search(b"x"), ValueError, "no code length"),
        (lambda: index.add(b"abc"), ValueError, "3 bytes"),
        (lambda: index.add(bytes(96), [1]), ValueError, "1 ids are given for 2"),
        (lambda: index.add(bytes(96), [1, 1]), ValueError, "given twice"),
        (lambda: index.add(bytes(48), [-1]), ValueError, "-1 is negative"),
        (lambda: index.add(bytes(48), [2**63]), ValueError, "id 9223372036854775808 needs more"),
        (lambda: index.search(bytes(48), 0), ValueError, "k is 0"),
        (lambda: index.search(bytes(96)), ValueError, "2 queries"),
        (lambda: bitlm.Index.load("x", load="y"), ValueError, "auto"),
        (lambda: pickle.dumps(index), TypeError, "save it"),
    ):
        with pytest.raises(kind, match=words):
            call()
    assert index.search(bytes(48)) == []
    index.add(bytes(48), [2**63 - 1])
    with pytest.raises(ValueError, match="no 1 ids"):
        index.add(bytes(48))


def test_many_threads_fill_a_new_index():
    for _ in range(20):
        index, codes = bitlm.Index(), bitlm.Codes(bytes(480), 48)
        threads = [threading.Thread(target=index.add, args=(codes,)) for _ in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert len(index) == 40


def test_reads_wait_while_it_changes():
    index, stop, wrong = bitlm.Index(384), threading.Event(), []
    index.add(b"".join(codes_of(20000)))

    def change():
        while not stop.is_set():
            index.add(bytes(48), [50_000])
            index.remove(50_000)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for i in range(300):
            assert len(index[i]) == 48 and i in index and len(list(index)) in (20000, 20001)
    finally:
        stop.set()
        thread.join()
    assert not wrong


def test_many_threads():
    index = bitlm.Index(384)
    index.add(b"".join(codes_of(2000)))
    query = codes_of(1, seed=5)[0]
    wrong = []

    def search():
        for _ in range(50):
            hits = index.search(query, 5)
            if len(hits) != 5 or hits != sorted(hits, key=lambda h: (h[1], h[0])):
                wrong.append(hits)

    def change():
        for i in range(50):
            index.add(bytes(48), [10_000 + i])
            index.remove(10_000 + i)

    threads = [threading.Thread(target=f) for f in (search, search, change, change)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong and len(index) == 2000
