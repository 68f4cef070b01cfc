"""Makes each call of the package many times and prints a list of those after which something is left.

    PYTHONPATH=build/python python3 tests/python/leaks.py 2000 [part of a name]

What counts: memory of the process, Python's blocks and, in a debug build of Python, references.
test_leaks.py runs this under Debian's python3 and under a debug build.
"""

import array
import asyncio
import gc
import os
import resource
import sqlite3
import sys
import tempfile
import threading

import bitlm
import bitlm._bitlm

n = int(sys.argv[1])
folder = tempfile.mkdtemp()
path, gguf = os.path.join(folder, "a.idx"), os.path.join(folder, "a.gguf")
m = bitlm.Model(threads=1)
event, done = threading.Event(), threading.Event()
done.set()
code, vector = m.embed("x"), m.embed_f32("x")
trits, floats = array.array("b", [1, 0, -1, 0] * 64), array.array("f", [1.0, 0.0, -1.0, 0.0] * 64)
blocks, blob = bitlm.pack(trits, "TQ2_0"), bitlm.quantize_vector(floats, "int8")
index = bitlm.Index()
index.add(bitlm.Codes(code[0] * 20, 48))
index.save(path)
nowhere = open(os.devnull, "w")
chat = [{"role": "user", "content": "a"}]


def stream():
    s = m.stream("a", max_tokens=2)
    next(s)
    s.close()


def cycle():
    """A stream that its own event refers to: only a collection finds it."""
    e = threading.Event()
    e.stream = m.stream("a", cancel=e, max_tokens=1)
    del e
    assert gc.collect() > 0


def astream():
    async def run():
        return [p async for p in m.astream("a", max_tokens=1)]
    asyncio.run(run())


def change():
    index.add(code, [99])
    index.remove(99)


def sql(prepare):
    db = sqlite3.connect(":memory:")
    prepare(db)
    db.execute("SELECT bitlm_hamming(x'00', x'01')").fetchone()
    db.close()


def command():
    kept = os.dup(2)
    os.dup2(nowhere.fileno(), 2)  # it says how it is used
    assert bitlm._bitlm.main(["bitlm"]) == 2
    os.dup2(kept, 2)
    os.close(kept)


def fails(f, *a, **k):
    try:
        f(*a, **k)
    except Exception:
        return
    raise AssertionError("no exception")


def raise_(*_):
    raise KeyError("x")


# name: (call, how many times fewer than n)
calls = {
    "hamming": (lambda: bitlm.hamming(code, code), 1), "similarity": (lambda: bitlm.similarity(code, code), 1),
    "cosine": (lambda: bitlm.cosine(vector, vector), 1), "binarize": (lambda: bitlm.binarize(vector), 1),
    "codes": (lambda: (bitlm.Codes(code)[0], code[:1], code[::-1], memoryview(code), code == code, repr(code), list(code)), 1),
    "vectors": (lambda: (bitlm.Vectors(vector)[0], vector.binarize(), vector.tobytes(), vector.shape, vector.tolist()), 1),
    "attributes": (lambda: (code.shape, code.nbytes, code.bits, code.model_id, vector.dim, code._repr_html_()), 1),
    "pickle": (lambda: code.__reduce__(), 1),
    "topk": (lambda: (bitlm.topk(code, code, 1), bitlm.topk(code, code, 1, only=[0])), 1),
    "quantize": (lambda: (bitlm.quantize(floats, "TQ2_0"), bitlm.dequantize(blocks, "TQ2_0", 1, 256)), 1),
    "pack": (lambda: (bitlm.pack(trits, "TQ2_0"), bitlm.unpack(blocks, "TQ2_0", 1, 256)), 1),
    "quantize_vector": (lambda: (bitlm.quantize_vector(floats, "int8"), bitlm.dequantize_vector(blob), bitlm.quantize_error(floats, "int8")), 1),
    "tokenize": (lambda: m.tokenize("Once upon"), 1), "detokenize": (lambda: m.detokenize([300, 301]), 1),
    "token_count": (lambda: m.token_count("Once"), 1),
    "chunk": (lambda: m.chunk("One. Two. Three.", 4), 1), "info": (lambda: (m.info, m.model_id, repr(m)), 1),
    "memory": (lambda: (m.memory(), bitlm.memory(shape="7b")), 1),
    "embed": (lambda: m.embed(["a"]), 1), "embed_f32": (lambda: m.embed_f32("a"), 1),
    "encode": (lambda: m.encode(["a", "b"]), 1),
    "generate": (lambda: m.generate("a", max_tokens=1, stop=["x"]), 1),
    "generate a list": (lambda: m.generate(["a", "b"], max_tokens=1), 2),
    "choices": (lambda: m.generate("a", choices=["x", "y"]), 2),
    "stream": (stream, 1), "stream in a cycle": (cycle, 10), "astream": (astream, 5),
    "chat": (lambda: m.chat(chat, chat_template="chatml", max_tokens=1), 2),
    "chat completion": (lambda: m.create_chat_completion(chat, chat_template="chatml", max_tokens=1), 2),
    "classify": (lambda: m.classify("a", ["x", "y"]), 1), "perplexity": (lambda: m.perplexity("a b"), 2),
    "score": (lambda: m.score([5, 6]), 1), "logits": (lambda: m.logits([5]), 1),
    "event": (lambda: m.generate("a", cancel=event, max_tokens=1), 1),
    "event that is set": (lambda: fails(m.generate, "a", cancel=done), 1),
    "model": (lambda: bitlm.Model("story", threads=1).close(), 2),
    "index": (lambda: (bitlm.Index(384, "0" * 32), bitlm.Index.load(path)), 1),
    "index changes": (change, 1),
    "index reads": (lambda: (index[0], 5 in index, list(index), len(index), index.bits, repr(index), index.codes()), 1),
    "index search": (lambda: (index.search(code, 3), index.search(code, 3, only=[1, 2]), index.search_many(code, 1)), 1),
    "index save": (lambda: (index.save(path), index.verify()), 10),
    "convert": (lambda: fails(bitlm.convert, path, gguf, progress=raise_), 1),
    "load_sqlite": (lambda: sql(bitlm.load_sqlite) if hasattr(sqlite3.Connection, "enable_load_extension") else None, 10),
    "register": (lambda: sql(bitlm.register), 10),
    "command": (command, 1),
    "bad option": (lambda: fails(m.generate, "a", x=1), 1), "bad text": (lambda: fails(m.embed, [1]), 1),
    "bad texts": (lambda: fails(m.embed, None), 1), "surrogate": (lambda: fails(m.tokenize, "\ud800"), 1),
    "bad code": (lambda: fails(bitlm.hamming, code, b""), 1), "bad ids": (lambda: fails(m.detokenize, [-1]), 1),
    "bad model": (lambda: fails(bitlm.Model, "/nowhere"), 1), "bad rows": (lambda: fails(bitlm.Codes, b"abc", 2), 1),
    "bad elements": (lambda: fails(bitlm.Vectors, array.array("i", [1])), 1),
    "bad model_id": (lambda: fails(bitlm.Codes, b"a", 1, "z"), 1),
    "bad only": (lambda: fails(bitlm.topk, code, code, only=[5]), 1),
    "bad scheme": (lambda: fails(bitlm.quantize, floats, "x"), 1), "bad trits": (lambda: fails(bitlm.pack, floats, "TQ2_0"), 1),
    "bad index id": (lambda: (fails(index.__getitem__, 10**9), fails(index.__getitem__, 2**70)), 1),
    "bad index ids": (lambda: fails(index.add, code, [-1]), 1), "bad index file": (lambda: fails(bitlm.Index.load, "/nowhere"), 1),
    "no pickle": (lambda: (fails(m.__reduce__), fails(index.__reduce__)), 1),
}


def kib():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() // 1024


references = getattr(sys, "gettotalrefcount", lambda: 0)
bad = []
for name, (call, fewer) in calls.items():
    if len(sys.argv) > 2 and sys.argv[2] not in name:
        continue
    turns = n // fewer
    # Caches fill, pools grow; those behind the collector for some hundred rounds.
    for _ in range(turns // 4 + (600 if "cycle" in name else 20)):
        call()
    gc.collect()
    before = kib(), sys.getallocatedblocks(), references()
    for _ in range(turns):
        call()
    gc.collect()
    grown = kib() - before[0], sys.getallocatedblocks() - before[1], references() - before[2]
    if grown[0] > 256 + turns // 50 or grown[1] > turns // 10 + 100 or grown[2] > turns // 10 + 100:
        bad.append((name, turns, grown))
print(f"{len(calls)} calls{', references counted' if references() else ''}:", bad)
