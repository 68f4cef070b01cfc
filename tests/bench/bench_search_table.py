#!/usr/bin/env python3
"""How fast bitlm_search indexes short notes, beside the core's own batch embedding of the same texts.

    make && /usr/bin/python3 tests/bench/bench_search_table.py [--rows 10000] [--repeats 5]

The core's rate is bitlm_embed_batch of libbitlm over all texts in one call, one thread, as the extension uses.  The table's is
BEGIN, one INSERT a row, COMMIT into a file; chunking, NAME_content and the codes' blocks included.  Both run in turn,
best of the repeats; the target is 0.9 of the core's rate.  CPU time, so that other work on the machine counts less."""

import argparse
import ctypes
import json
import os
import pathlib
import random
import sqlite3
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--rows", type=int, default=10000)
parser.add_argument("--repeats", type=int, default=5)
parser.add_argument("--wall", action="store_true", help="wall time instead of CPU time")
parser.add_argument("--library", default=str(ROOT / "build" / "libbitlm.so"))
parser.add_argument("--extension", default=str(ROOT / "build" / "bitlm0"))
arguments = parser.parse_args()
now = time.perf_counter if arguments.wall else time.process_time

# Notes of some 20 words, from the sentences of the demo, cut and joined anew.
rng = random.Random(1)
print("seed 1")
WORDS = [line.split("\t")[-1].split() for line in
         (ROOT / "tests" / "data" / "demo" / "notes.tsv").read_text(encoding="utf-8").splitlines()]
NOTES = [" ".join(rng.choice(WORDS)[:rng.randrange(8, 16)] + rng.choice(WORDS)[:rng.randrange(2, 12)])
         for _ in range(arguments.rows)]


class Text(ctypes.Structure):
    _fields_ = [("data", ctypes.c_char_p), ("length", ctypes.c_size_t)]


def core():
    """A function that embeds all notes, and the codes it gives."""
    library = ctypes.CDLL(arguments.library)
    pointer = ctypes.c_void_p
    library.bitlm_model_open.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint32] + [pointer] * 4
    library.bitlm_session_open.argtypes = [pointer] * 5
    library.bitlm_embed_batch.argtypes = [pointer, pointer, ctypes.c_size_t, ctypes.c_int32, pointer, pointer, ctypes.c_size_t,
                                          pointer, pointer]
    options, model, session = ctypes.create_string_buffer(1024), pointer(), pointer()
    library.bitlm_options_init(options)
    assert library.bitlm_options_json(options, b'{"threads":1}', ctypes.c_size_t(13), None) == 0
    assert library.bitlm_model_open(b"embed", 5, 1, None, None, ctypes.byref(model), None) == 0
    assert library.bitlm_session_open(model, options, None, ctypes.byref(session), None) == 0
    raw = [note.encode() for note in NOTES]
    texts = (Text * len(raw))(*[Text(r, len(r)) for r in raw])
    codes = ctypes.create_string_buffer(48 * len(raw))

    def run():
        assert library.bitlm_embed_batch(session, texts, len(raw), 0, options, codes, 48, None, None) == 0
        return codes.raw

    return run


def table(folder):
    path = os.path.join(folder, "notes.db")
    if os.path.exists(path):
        os.unlink(path)
    db = sqlite3.connect(path, isolation_level=None)
    db.enable_load_extension(True)
    db.load_extension(arguments.extension)
    db.execute("CREATE VIRTUAL TABLE s USING bitlm_search(body)")
    db.execute("SELECT bitlm_embed('x')").fetchall()  # the model is open, as the core's is
    began = now()
    db.execute("BEGIN")
    for note in NOTES:
        db.execute("INSERT INTO s(body) VALUES (?)", (note,))
    db.execute("COMMIT")
    took = now() - began
    info = json.loads(db.execute("SELECT bitlm_search_info('s')").fetchone()[0])
    best = db.execute("SELECT rowid, rank FROM s(?, 1)", (NOTES[-1],)).fetchone()
    assert best[1] == 0 and info["chunks"] == len(NOTES), (best, info)
    db.close()
    return took, info


embed = core()
embed()
batch, indexing = [], []
with tempfile.TemporaryDirectory() as folder:
    for _ in range(arguments.repeats):
        began = now()
        embed()
        batch.append(now() - began)
        took, info = table(folder)
        indexing.append(took)
rate, core_rate = len(NOTES) / min(indexing), len(NOTES) / min(batch)
print("notes                         %10d   of %.1f words" % (len(NOTES), sum(len(n.split()) for n in NOTES) / len(NOTES)))
print("core, bitlm_embed_batch       %10.0f / s" % core_rate)
print("bitlm_search, indexing        %10.0f / s   in %d calls of the core" % (rate, info["batches"]))
print("ratio                         %10.3f       target 0.9: %s" % (rate / core_rate, "met" if rate >= 0.9 * core_rate else "MISSED"))
