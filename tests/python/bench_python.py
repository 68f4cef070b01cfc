"""What the Python package adds to the C calls, and what batches and threads bring.

    make python && PYTHONPATH=build/python python3 tests/python/bench_python.py [texts]

Prints one line a figure with its target; run it on an idle machine.
"""

import ctypes
import pathlib
import statistics
import sys
import threading
import time

import bitlm

ROOT = pathlib.Path(__file__).resolve().parents[2]
SESSIONS = 8
lib = ctypes.CDLL(str(ROOT / "build" / "libbitlm.so"))
texts = [f"note {i}: the {w} letter came late" for i, w in zip(range(int(sys.argv[1]) if len(sys.argv) > 1 else 1000),
                                                               ["tax", "love", "long", "old"] * 100_000)]


def best(call, repeat=7):
    """CPU time of this thread, which does all the work: other programs count less."""
    times = []
    for _ in range(repeat):
        began = time.thread_time()
        call()
        times.append(time.thread_time() - began)
    return min(times)


def by_turns(calls, repeat=9, clock=time.thread_time):
    """The times of each of some calls, made by turns, so that what disturbs disturbs all."""
    times = [[] for _ in calls]
    for _ in range(repeat):
        for call, seen in zip(calls, times):
            began = clock()
            call()
            seen.append(clock() - began)
    return times


def ratio(a, b):
    """The median of a / b, turn by turn."""
    return statistics.median(x / y for x, y in zip(a, b))


def per_call(call, n=20_000):
    return best(lambda: [call() for _ in range(n)]) / n


def in_c():
    """A call of bitlm_embed_batch with the same texts through ctypes, whose one call costs microseconds."""
    class Text(ctypes.Structure):
        _fields_ = [("data", ctypes.c_char_p), ("length", ctypes.c_size_t)]

    raw = [t.encode() for t in texts]
    rows = (Text * len(raw))(*[Text(t, len(t)) for t in raw])
    model, session = ctypes.c_void_p(), ctypes.c_void_p()
    options = ctypes.create_string_buffer(1024)
    lib.bitlm_options_init(options)
    lib.bitlm_options_json(options, b'{"threads":1}', ctypes.c_size_t(13), None)
    assert lib.bitlm_model_open(b"embed", ctypes.c_size_t(5), 0, None, None, ctypes.byref(model), None) == 0
    assert lib.bitlm_session_open(model, options, None, ctypes.byref(session), None) == 0
    out = ctypes.create_string_buffer(48 * len(raw))
    keep = raw, rows, out
    return lambda: keep and lib.bitlm_embed_batch(session, rows, ctypes.c_size_t(len(raw)), 0, None, out, ctypes.c_size_t(48), None, None)


with bitlm.Model(threads=1) as m:
    codes = m.embed(texts[:100])
    a, b = codes[0], codes[1]
    loop = per_call(lambda: None)
    print(f"hamming            {1e6 * (per_call(lambda: bitlm.hamming(a, b)) - loop):8.2f} µs a call, C call included (< 5)")
    print(f"topk of 1 code     {1e6 * (per_call(lambda: bitlm.topk(a, codes[:1], 1)) - loop):8.2f} µs a call, C call included (< 5)")
    # Where a session's memory lies moves its time by some percent: several of each, and their sum.
    models = [bitlm.Model(threads=1) for _ in range(SESSIONS)]
    times = by_turns([f for x in models for f in (in_c(), lambda x=x: x.embed(texts))], 5)
    c, python = (sum(min(t) for t in times[i::2]) / SESSIONS for i in (0, 1))
    print(f"embed {len(texts)} texts   {1e3 * c:8.1f} ms in C, {1e3 * python:.1f} ms in Python, overhead {100 * (python / c - 1):+.2f} % (< 2)")
    python, single = by_turns([lambda: m.embed(texts), lambda: [m.embed(t) for t in texts]])
    tokens = sum(len(m.tokenize(t, frame=True)) for t in texts)
    print(f"one by one         {1e3 * min(single):8.1f} ms on one thread: the batch has {ratio(single, python):.2f} times the rate (>= 3); "
          f"{1e6 * min(python) / tokens:.1f} and {1e6 * min(single) / tokens:.1f} µs a token")

with bitlm.Model() as m:
    m.embed(texts[:4])
    batch, single = by_turns([lambda: m.embed(texts), lambda: [m.embed(t) for t in texts]], 5, time.perf_counter)
    print(f"                   {1e3 * min(single):8.1f} ms on all cores: {ratio(single, batch):.2f} times")


def work(model, done, stop):
    n = 0
    while not stop.is_set():
        model.embed(texts[:50])
        n += 50
    done.append(n)


def rate(threads, seconds=3.0):
    models, done, stop = [bitlm.Model(threads=1) for _ in range(threads)], [], threading.Event()
    for x in models:
        x.embed("x")
    running = [threading.Thread(target=work, args=(x, done, stop)) for x in models]
    began = time.perf_counter()
    for t in running:
        t.start()
    time.sleep(seconds)
    stop.set()
    for t in running:
        t.join()
    return sum(done) / (time.perf_counter() - began)


one, two = rate(1), rate(2)
print(f"two threads        {two / one:8.2f} times the throughput of one ({one:.0f} and {two:.0f} texts/s) (>= 1.7)")
