"""One table over several servers by postgres_fdw: each shard answers from its own index."""

import re

import psycopg2
import pytest

from clusters import Cluster

CODE = "('x' || md5({0}::text))::bit(128)"
QUERY = f"B'{'0011' * 32}'"
SHARDS = 2  # beside the server that people ask


@pytest.fixture
def clusters(extension):
    made = []
    try:
        made.append(Cluster())
        for _ in range(SHARDS):
            made.append(Cluster("session_preload_libraries = 'auto_explain'", "auto_explain.log_min_duration = 0"))
        yield made
    finally:
        for one in made:
            one.close()


def test_shards(clusters):
    front, shards = clusters[0].connect(), clusters[1:]
    if not front.one("SELECT count(*) FROM pg_available_extensions WHERE name = 'postgres_fdw'"):
        pytest.skip("this server has no postgres_fdw")
    front.rows("CREATE EXTENSION bitlm; CREATE EXTENSION postgres_fdw;"
               "CREATE TABLE points(id int, code bit(128)) PARTITION BY HASH (id)")
    for i, shard in enumerate(shards):
        db = shard.connect()
        db.rows("CREATE EXTENSION bitlm; CREATE TABLE points(id int, code bit(128)); CREATE INDEX points_code ON points USING bitlm (code)")
        db.connection.close()
        batch = "batch_size '500', " if front.connection.server_version >= 140000 else ""
        front.rows(f"CREATE SERVER shard{i} FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '{shard.dir}', dbname 'postgres', "
                   f"extensions 'bitlm', fetch_size '10', {batch}options '-c cursor_tuple_fraction=0.0001');"
                   f"CREATE USER MAPPING FOR bitlm SERVER shard{i} OPTIONS (user 'bitlm');"
                   f"CREATE FOREIGN TABLE points{i} PARTITION OF points FOR VALUES WITH (MODULUS {SHARDS}, REMAINDER {i}) "
                   f"SERVER shard{i} OPTIONS (table_name 'points')")
    rows = f"SELECT g AS id, {CODE.format('g')} AS code FROM generate_series(1, 8000) g"
    front.rows(f"CREATE TABLE whole AS {rows}; INSERT INTO points SELECT * FROM whole")  # routed
    for shard in shards:
        db = shard.connect()
        assert 3000 < db.one("SELECT count(*) FROM points") < 5000
        db.rows("ANALYZE points")
        db.connection.close()
    front.rows("ANALYZE points, points0, points1, whole")

    def nearest(table, limit):
        return front.rows(f"SELECT code <^> {QUERY} AS d FROM {table} ORDER BY code <^> {QUERY} LIMIT {limit}")

    sql = f"SELECT id, code <^> {QUERY} FROM points ORDER BY code <^> {QUERY} LIMIT 10"
    plan = "\n".join(row[0] for row in front.rows("EXPLAIN (VERBOSE, COSTS OFF) " + sql))
    assert "Merge Append" in plan and len(re.findall(r"Remote SQL: .*ORDER BY", plan)) == SHARDS, plan
    marks = [len(shard.log.read_text()) for shard in shards]
    for limit in (1, 10, 200):
        assert nearest("points", limit) == nearest("whole", limit)
    front.connection.close()  # the shards' cursors end here, and auto_explain writes
    front = clusters[0].connect()
    for shard, mark in zip(shards, marks):
        text = shard.log.read_text()[mark:]
        assert "Index Scan using points_code on public.points" in text or "Index Scan using points_code on points" in text, text[-3000:]
    # UNION ALL of a LIMIT a shard sends as few rows as can be.
    union = " UNION ALL ".join(f"(SELECT code <^> {QUERY} AS d FROM points{i} ORDER BY code <^> {QUERY} LIMIT 10)" for i in range(SHARDS))
    assert front.rows(f"SELECT d FROM ({union}) n ORDER BY d LIMIT 10") == nearest("whole", 10)

    shards[1].kill()
    with pytest.raises(psycopg2.Error) as caught:
        nearest("points", 10)
    assert "could not connect to server" in str(caught.value) or "server closed the connection" in str(caught.value) or \
        "terminating connection" in str(caught.value), caught.value
    assert caught.value.pgcode.startswith("08") or caught.value.pgcode == "57P01", caught.value.pgcode
    shards[1].start()
    shards[1].connect().connection.close()
    assert nearest("points", 10000) == nearest("whole", 10000)  # none is lost
