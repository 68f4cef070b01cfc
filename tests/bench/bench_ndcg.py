#!/usr/bin/env python3
"""How well search by codes ranks on a test collection: nDCG@10 of each way to search, beside FTS5 alone.

    make && /usr/bin/python3 tests/bench/bench_ndcg.py FOLDER [FOLDER ...] [--chunk 256] [--candidates 200]

A FOLDER holds one collection, in one of two forms:

    SMART   Cranfield, CISI and their kin: documents in *.all* or *.ALL, queries in *.qry or *.QRY, judgements in
            *qrel* or *.REL (query document [grade …]).  Queries are counted in their order where their own numbers
            skip, as Cranfield's do.  A judgement is relevant unless its grade is negative.
    BEIR    corpus.jsonl, queries.jsonl, qrels/test.tsv

Titles and texts are cut into chunks and embedded by the built-in model; a document's score is that of its best chunk.
All ways run inside SQLite with the extension, but for rescoring by the float query and by int8 vectors, which are the
core's bitlm_rescore.  The figure behind +- is the standard error over queries; "won" counts queries with a greater nDCG
than FTS5's and "lost" those with a smaller one.  The collections are not part of the repository: they are public, each with
terms of its own."""

import argparse
import array
import ctypes
import json
import math
import pathlib
import re
import sqlite3
import statistics

ROOT = pathlib.Path(__file__).resolve().parents[2]
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folders", nargs="+", type=pathlib.Path)
parser.add_argument("--chunk", type=int, default=256, help="tokens of a chunk")
parser.add_argument("--candidates", type=int, default=200, help="chunks that are rescored")
parser.add_argument("--library", default=str(ROOT / "build" / "libbitlm.so"))
parser.add_argument("--extension", default=str(ROOT / "build" / "bitlm0"))
BITS, INT8 = 0, 1


# ---- collections ------------------------------------------------------------------------------


def smart_records(path):
    """(number, {field: text}) of each .I record."""
    number, fields, field = None, {}, None
    for line in path.read_text(encoding="latin-1").splitlines():
        mark = re.match(r"\.([A-Z])(?:\s+(\d+))?\s*$", line)
        if mark and mark.group(1) == "I":
            if number is not None:
                yield number, fields
            number, fields, field = int(mark.group(2)), {}, None
        elif mark:
            field = mark.group(1)
            fields[field] = ""
        elif field:
            fields[field] += line + "\n"
    if number is not None:
        yield number, fields


def squeeze(text):
    return " ".join(text.split())


def one(folder, *patterns):
    found = sorted({f for p in patterns for f in folder.glob(p)})
    if len(found) != 1:
        raise SystemExit("%s: %d files match %s, but one is needed" % (folder, len(found), " or ".join(patterns)))
    return found[0]


def smart(folder):
    documents, queries, judgements = {}, {}, {}
    for number, fields in smart_records(one(folder, "*.all*", "*.ALL")):
        title, text = squeeze(fields.get("T", "")), squeeze(fields.get("W", ""))
        documents[number] = text if text.startswith(title) else title + "\n" + text
    records = list(smart_records(one(folder, "*.qry", "*.QRY")))
    own = [number for number, _ in records] == list(range(1, len(records) + 1))
    for place, (number, fields) in enumerate(records, 1):
        queries[number if own else place] = squeeze(fields.get("W", ""))
    for line in one(folder, "*qrel*", "*.REL").read_text(encoding="latin-1").splitlines():
        parts = line.split()
        if len(parts) >= 2 and not (len(parts) > 2 and float(parts[2]) < 0):
            judgements.setdefault(int(parts[0]), {})[int(parts[1])] = 1
    return documents, queries, judgements


def beir(folder):
    documents, queries, judgements = {}, {}, {}
    names = {}
    for line in (folder / "corpus.jsonl").open(encoding="utf-8"):
        record = json.loads(line)
        names[record["_id"]] = number = len(names) + 1
        documents[number] = (record.get("title", "") + "\n" + record["text"]).strip()
    for line in (folder / "queries.jsonl").open(encoding="utf-8"):
        record = json.loads(line)
        queries[record["_id"]] = record["text"]
    for line in (folder / "qrels" / "test.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        query, document, grade = line.split("\t")
        if int(grade) > 0 and document in names:
            judgements.setdefault(query, {})[names[document]] = int(grade)
    return documents, queries, judgements


def collection(folder):
    documents, queries, judgements = (beir if (folder / "corpus.jsonl").exists() else smart)(folder)
    judgements = {q: {d: g for d, g in of.items() if d in documents} for q, of in judgements.items() if q in queries}
    judged = sorted((q for q in judgements if judgements[q]), key=str)
    if not judged:
        raise SystemExit("%s: no judgement belongs to a query and a document" % folder)
    return documents, {q: queries[q] for q in judged}, judgements


def ndcg(ranking, of):
    """Gains are the grades: 2^grade - 1; for grades of 1 the common binary form."""
    got = sum((2 ** of.get(d, 0) - 1) / math.log2(i + 2) for i, d in enumerate(ranking[:10]))
    best = sum((2 ** g - 1) / math.log2(i + 2) for i, g in enumerate(sorted(of.values(), reverse=True)[:10]))
    return got / best


# ---- the core's rescoring, and the ways to search -----------------------------------------------


def rescorer(library):
    core = ctypes.CDLL(library)
    core.bitlm_rescore.argtypes = [ctypes.c_int32, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p,
                                   ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]

    def rescore(kind, vectors, n, dim, query, rows):
        """rows, best first."""
        room = (ctypes.c_int64 * len(rows))(*rows)
        scores = (ctypes.c_float * len(rows))()
        status = core.bitlm_rescore(kind, vectors, n, dim, query, None, room, scores, len(rows), None)
        assert status == 0, status
        return list(room)

    return rescore


def connect(extension):
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.enable_load_extension(True)
    db.load_extension(extension)
    return db


def fill(db, documents, chunk):
    db.execute("CREATE TABLE docs(id INTEGER PRIMARY KEY, body TEXT)")
    db.execute("BEGIN")
    db.executemany("INSERT INTO docs VALUES (?, ?)", documents.items())
    db.execute("COMMIT")
    for name, tokenizer in (("words", "unicode61"), ("stems", "porter")):
        db.execute("CREATE VIRTUAL TABLE %s USING fts5(body, content='docs', content_rowid='id', tokenize='%s')" % (name, tokenizer))
        db.execute("INSERT INTO %s(%s) VALUES ('rebuild')" % (name, name))
    for name, fts in (("meaning", ""), ("both", ", fts='words'"), ("both_stems", ", fts='stems'")):
        db.execute("CREATE VIRTUAL TABLE %s USING bitlm_search(body, content='docs', content_rowid='id', chunk_size=%d%s)"
                   % (name, chunk, fts))
        db.execute("INSERT INTO %s(%s) VALUES ('rebuild')" % (name, name))
    # The same chunks with their float vectors.
    db.execute("CREATE TABLE chunks(row INTEGER PRIMARY KEY, doc INTEGER, code BLOB, vector BLOB)")
    db.execute("INSERT INTO chunks(doc, vector) SELECT docs.id, bitlm_embed_f32(c.chunk) FROM docs, bitlm_chunk(docs.body, %d, 0) c"
               % (chunk - 2))
    db.execute("UPDATE chunks SET code = bitlm_binarize(vector)")
    db.execute("CREATE VIRTUAL TABLE fine USING bitlm_index(vector FLOAT[384], rescore=%d)" % max(1, arguments.candidates // 20))
    db.execute("INSERT INTO fine(rowid, vector) SELECT row, vector FROM chunks")


def ways(db, rescore):
    """{name: function of the query's text that gives documents, best first}"""
    rows = db.execute("SELECT doc, code, vector FROM chunks ORDER BY row").fetchall()
    doc = [r[0] for r in rows]
    n, dim = len(rows), 8 * len(rows[0][1])
    codes = b"".join(r[1] for r in rows)
    floats = array.array("f", b"".join(r[2] for r in rows))
    largest = max(map(abs, floats))
    small = array.array("b", (round(v * 127 / largest) for v in floats)).tobytes()

    def documents_of(chunks):
        return list(dict.fromkeys(doc[c] for c in chunks))[:10]

    def fts(name):
        def search(text):
            match = " OR ".join('"%s"' % w.replace('"', '""') for w in text.split())
            return [r for r, in db.execute("SELECT rowid FROM %s WHERE %s MATCH ? ORDER BY rank, rowid LIMIT 10" % (name, name), (match,))]
        return search

    def table(name):
        return lambda text: [r for r, in db.execute("SELECT rowid FROM %s WHERE %s MATCH ? ORDER BY rank LIMIT 10" % (name, name), (text,))]

    def near(text):
        code = db.execute("SELECT bitlm_embed(?)", (text,)).fetchone()[0]
        found = db.execute("SELECT row - 1 FROM chunks ORDER BY bitlm_hamming(code, ?), row LIMIT ?", (code, arguments.candidates))
        return [r for r, in found]

    def again(kind, vectors):
        def search(text):
            query = db.execute("SELECT bitlm_embed_f32(?)", (text,)).fetchone()[0]
            return documents_of(rescore(kind, vectors, n, dim, query, near(text)))
        return search

    def column(text):
        found = db.execute("SELECT rowid - 1 FROM fine WHERE vector MATCH bitlm_embed_f32(?) AND k = 20", (text,))
        return documents_of([r for r, in found])

    def exact(text):
        found = db.execute("SELECT row - 1 FROM chunks ORDER BY bitlm_cosine(vector, bitlm_embed_f32(?)) DESC, row LIMIT 100", (text,))
        return documents_of([r for r, in found])

    def fused(name):
        words = fts(name)

        def search(text):
            score = {}
            match = " OR ".join('"%s"' % w.replace('"', '""') for w in text.split())
            for sql, given in (("SELECT rowid FROM %s WHERE %s MATCH ? ORDER BY rank, rowid LIMIT 1000" % (name, name), match),
                               ("SELECT doc FROM chunks GROUP BY doc ORDER BY max(bitlm_cosine(vector, bitlm_embed_f32(?))) DESC, doc "
                                "LIMIT 1000", text)):
                for place, (d,) in enumerate(db.execute(sql, (given,)), 1):
                    score[d] = score.get(d, 0) + 1 / (60 + place)
            return sorted(score, key=lambda d: (-score[d], d))[:10]
        return search

    return {
        "FTS5 (unicode61)": fts("words"),
        "FTS5 (porter)": fts("stems"),
        "codes: bitlm_search": table("meaning"),
        "codes, rescored by the float query and bits": again(BITS, codes),
        "codes, rescored by int8 vectors": again(INT8, small),
        "codes, rescored by float vectors: bitlm_index": column,
        "float vectors, all": exact,
        "hybrid: bitlm_search with fts= (unicode61)": table("both"),
        "hybrid: bitlm_search with fts= (porter)": table("both_stems"),
        "hybrid of float vectors and FTS5 (porter)": fused("stems"),
    }


def measure(folder, rescore):
    documents, queries, judgements = collection(folder)
    db = connect(arguments.extension)
    fill(db, documents, arguments.chunk)
    print("\n%s: %d documents in %d chunks, %d queries, %.1f relevant documents a query" %
          (folder.name, len(documents), db.execute("SELECT count(*) FROM chunks").fetchone()[0], len(queries),
           statistics.mean(len(judgements[q]) for q in queries)))
    print("  %-48s nDCG@10            won lost, against FTS5 (porter)" % "")
    results = {name: [ndcg(search(text), judgements[q]) for q, text in queries.items()]
               for name, search in ways(db, rescore).items()}
    base = results["FTS5 (porter)"]
    for name, scores in results.items():
        print("  %-48s %.3f +- %.3f     %4d %4d" %
              (name, statistics.mean(scores), statistics.stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else 0.0,
               sum(a > b for a, b in zip(scores, base)), sum(a < b for a, b in zip(scores, base))), flush=True)


if __name__ == "__main__":
    arguments = parser.parse_args()
    core = rescorer(arguments.library)
    for one_folder in arguments.folders:
        measure(one_folder, core)
