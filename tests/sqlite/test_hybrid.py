"""The documented query that joins FTS5 and bitlm_index: its order is that of reciprocal ranks computed here."""

import pathlib
import re

from conftest import ROOT

DATA = ROOT / "tests" / "data" / "demo"
QUERIES = ["how do I fix a \"flat\" tyre?", "water (clean) - for drinking: 100%", "  a*  ^letter  ", "NEAR(cat dog) AND"]


def documented():
    text = (pathlib.Path(ROOT) / "docs" / "SQL.md").read_text(encoding="utf-8")
    block = re.search(r"### Words and meaning together.*?```sql\n(.*?)```", text, re.S).group(1)
    return [s for s in re.split(r";\n", block) if s.strip()]


def test_order_is_that_of_reciprocal_ranks(db):
    statements = documented()
    query = next(s for s in statements if s.startswith("WITH q"))
    db.execute("CREATE TABLE notes(id INTEGER PRIMARY KEY, body TEXT, code BLOB AS (bitlm_embed(body)) STORED)")
    db.execute("CREATE VIRTUAL TABLE near USING bitlm_index(bits=384)")
    for statement in statements:
        if statement.startswith(("CREATE VIRTUAL", "CREATE TRIGGER")):
            db.execute(statement)
    bodies = [line.split("\t")[-1] for line in (DATA / "notes.tsv").read_text(encoding="utf-8").splitlines()]
    db.execute("BEGIN")
    db.executemany("INSERT INTO notes(body) VALUES(?)", [(b,) for b in bodies])
    db.execute("DELETE FROM notes WHERE id % 7 = 0")
    db.execute("COMMIT")
    assert db.execute("SELECT id FROM notes").fetchall() == db.execute("SELECT rowid FROM near ORDER BY 1").fetchall()
    for text in QUERIES:
        score = {}
        match = " OR ".join('"%s"' % w.replace('"', '""') for w in text.split(" "))
        words = db.execute("SELECT rowid FROM notes_fts WHERE notes_fts MATCH ? ORDER BY rank, rowid LIMIT 50", (match,))
        meaning = db.execute("SELECT id FROM notes ORDER BY bitlm_hamming(code, bitlm_embed(?)), id LIMIT 50", (text,))
        for found in (words.fetchall(), meaning.fetchall()):
            assert found
            for place, (row,) in enumerate(found, 1):
                score[row] = score.get(row, 0) + 1.0 / (60 + place)
        want = sorted(score, key=lambda r: (-score[r], r))[:10]
        got = db.execute(query.replace("""'is there "tax" mail?'""", "?"), (text,)).fetchall()
        assert [r[0] for r in got] == want
