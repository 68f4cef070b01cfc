"""Beside pgvector: both extensions on one column of one database.

Skipped where the server has no extension `vector` of 0.7 or newer; it is built from its own source:
`make && make install` there, with the same PG_CONFIG."""

import pytest

QUERY = "B'" + "0110" * 24 + "'"


@pytest.fixture
def both(db):
    version = db.rows("SELECT default_version FROM pg_available_extensions WHERE name = 'vector'")
    if not version or tuple(map(int, version[0][0].split(".")[:2])) < (0, 7):
        pytest.skip("pgvector 0.7 or newer is not installed here: that bitlm works beside it was not tested")
    db.rows("DROP EXTENSION IF EXISTS bitlm CASCADE; DROP EXTENSION IF EXISTS vector CASCADE")
    yield db
    db.rows("DROP TABLE IF EXISTS points; DROP EXTENSION IF EXISTS vector CASCADE; CREATE EXTENSION IF NOT EXISTS bitlm")


@pytest.mark.parametrize("order", [("vector", "bitlm"), ("bitlm", "vector")])
def test_beside_pgvector(both, order):
    """Either may be there first; each operator has its own index, both give the same distances; one may go, the other stays."""
    db = both
    for name in order:
        db.rows(f"CREATE EXTENSION {name}")
    assert db.rows(f"SELECT {QUERY} <~> B'{'1' * 96}', {QUERY} <^> B'{'1' * 96}', hamming_distance({QUERY}, B'{'1' * 96}')") == [
        (48.0, 48.0, 48.0)]
    assert db.one(f"SELECT jaccard_distance({QUERY}, B'{'1' * 96}')") == db.one(
        f"SELECT ({QUERY} <|> B'{'1' * 96}')")
    db.rows("CREATE TABLE points(id int, code bit(96)); INSERT INTO points "
            "SELECT g, ('x' || substr(md5(g::text) || md5(g || 'b'), 1, 24))::bit(96) FROM generate_series(1, 3000) g;"
            "CREATE INDEX points_bitlm ON points USING bitlm (code);"
            "CREATE INDEX points_hnsw ON points USING hnsw (code bit_hamming_ops);"
            "INSERT INTO points SELECT 5000 + id, ~code FROM points WHERE id <= 100; ANALYZE points")
    db.rows("SET enable_seqscan = off; SET enable_sort = off; SET hnsw.ef_search = 400")
    answers = {}
    for operator, index in (("<^>", "points_bitlm"), ("<~>", "points_hnsw")):
        sql = f"SELECT code {operator} {QUERY} FROM points ORDER BY code {operator} {QUERY} LIMIT 10"
        assert index in "\n".join(row[0] for row in db.rows("EXPLAIN " + sql))
        answers[operator] = [row[0] for row in db.rows(sql)]
    exact = [row[0] for row in db.rows(f"SELECT bitlm_hamming(code, {QUERY})::float FROM points ORDER BY 1 LIMIT 10")]
    assert answers["<^>"] == exact
    assert sum(d <= exact[-1] for d in answers["<~>"]) >= 9  # approximate
    db.rows("RESET enable_sort")
    # Codes and floats of one text in both types: pgvector rescores what the codes found.
    assert db.one("SELECT bitlm_embed('a') = binary_quantize(bitlm_embed_f32('a')::vector)")
    assert abs(db.one("SELECT 1 - (bitlm_embed_f32('a cat')::vector <=> bitlm_embed_f32('a dog')::vector)")
               - db.one("SELECT bitlm_cosine(bitlm_embed_f32('a cat'), bitlm_embed_f32('a dog'))")) < 1e-6
    db.rows("DROP EXTENSION vector CASCADE")
    assert [row[0] for row in db.rows(f"SELECT code <^> {QUERY} FROM points ORDER BY code <^> {QUERY} LIMIT 10")] == exact
