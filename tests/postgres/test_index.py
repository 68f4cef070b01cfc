"""The access method `bitlm`: every answer is compared with the sequential scan's.

Ties may come in any order, so what is compared is the list of distances, and that the
rows are distinct and have the distance that is claimed.
"""

import random
import threading

import pytest

from conftest import Database

SEED = 20240811
BITS = 64


def code(rng):
    return f"{rng.getrandbits(BITS):0{BITS}b}"


def distances(db, table, query, limit, use_index, where="true"):
    db.rows(f"SET enable_bitmapscan = off; SET enable_seqscan = {'off' if use_index else 'on'}")
    db.rows(f"SET enable_indexscan = {'on' if use_index else 'off'}")
    sql = f"SELECT id, code <^> %s::bit({BITS}) FROM {table} WHERE {where} ORDER BY code <^> %s::bit({BITS}) LIMIT {limit}"
    if use_index:
        plan = "\n".join(row[0] for row in db.rows("EXPLAIN " + sql, query, query))
        assert "Index Scan" in plan and "Order By" in plan, plan
    rows = db.rows(sql, query, query)
    db.rows("RESET enable_seqscan; RESET enable_indexscan; RESET enable_bitmapscan")
    assert len({row[0] for row in rows}) == len(rows)
    return [row[1] for row in rows]


def same(db, table, query, limit, where="true"):
    by_index = distances(db, table, query, limit, True, where)
    assert by_index == distances(db, table, query, limit, False, where)
    return by_index


@pytest.fixture
def table(db):
    db.rows("DROP TABLE IF EXISTS points")
    db.rows(f"CREATE TABLE points(id serial, code bit({BITS}), part int)")
    rng = random.Random(SEED)
    db.rows("INSERT INTO points(code, part) SELECT c::bit(64), i FROM unnest(%s) WITH ORDINALITY t(c, i)",
            [code(rng) for _ in range(6000)] + [None] * 40)
    db.rows("CREATE INDEX points_code ON points USING bitlm (code)")
    yield db
    db.rows("DROP TABLE points")


def test_order_limit_filter_nulls(table):
    db, rng = table, random.Random(SEED + 1)
    for limit in (1, 10, 64, 65, 700, 5000):
        assert len(same(db, "points", code(rng), limit)) == limit
    rows = same(db, "points", code(rng), 100000)
    assert len(rows) == 6040 and rows[-40:] == [None] * 40 and None not in rows[:-40]
    assert len(same(db, "points", code(rng), 50, "part %% 100 = 7")) == 50  # 1 % of the rows
    sql = "SELECT id FROM points ORDER BY code <^> (SELECT code FROM points WHERE code IS NULL LIMIT 1)"
    db.rows("SET enable_seqscan = off; SET enable_bitmapscan = off")
    assert "Order By" in "\n".join(row[0] for row in db.rows("EXPLAIN " + sql))
    assert len(set(db.rows(sql))) == 6040  # every distance is NULL
    assert db.one("SELECT bitlm_index_check('points_code')") == 6040


def test_range(table):
    db, rng = table, random.Random(SEED + 2)
    query = code(rng)
    for radius in (-1, 0, 15, 22, 64):
        sql = "SELECT id FROM points WHERE bitlm_within(code, %s, %s) ORDER BY id"
        db.rows("SET enable_seqscan = off")
        plan = "\n".join(row[0] for row in db.rows("EXPLAIN " + sql, query, radius))
        assert "Index Cond" in plan, plan
        found = db.rows(sql, query, radius)
        db.rows("SET enable_bitmapscan = off")
        assert found == db.rows(sql, query, radius)
        db.rows("SET enable_seqscan = on; SET enable_indexscan = off")
        assert found == db.rows(sql, query, radius)
        db.rows("RESET enable_indexscan; RESET enable_bitmapscan")
    both = f"bitlm_within(code, B'{code(rng)}', 28)"
    assert same(db, "points", query, 200, both)


def test_wrong_lengths(table):
    db = table
    assert db.state("SET enable_seqscan = off; SELECT id FROM points ORDER BY code <^> B'101' LIMIT 1")[0] == "22026"
    db.rows("CREATE TABLE free(code varbit); CREATE INDEX ON free USING bitlm (bitlm_reverse_bits(code)) WITH (bits = 8)")
    assert db.state("INSERT INTO free VALUES (B'1010101010101010')")[0] == "22026"
    db.rows("INSERT INTO free VALUES (B'10101010')")
    db.rows("DROP TABLE free")


def test_expression_index_and_empty_one(db):
    db.rows("DROP TABLE IF EXISTS said; CREATE TABLE said(id serial, body text)")
    db.rows("CREATE INDEX said_code ON said USING bitlm (bitlm_embed(body))")
    db.rows("INSERT INTO said(body) SELECT 'note ' || g FROM generate_series(1, 60) g")
    db.rows("INSERT INTO said(body) VALUES (NULL)")
    db.rows("SET enable_seqscan = off")
    sql = "SELECT body FROM said ORDER BY bitlm_embed(body) <^> bitlm_embed('note 17') LIMIT 1"
    assert "said_code" in "\n".join(row[0] for row in db.rows("EXPLAIN " + sql))
    assert db.one(sql) == "note 17"
    db.rows("REINDEX INDEX said_code")
    assert db.one(sql) == "note 17"
    assert db.one("SELECT bitlm_index_check('said_code')") == 61
    db.rows("DROP TABLE said")


def test_random_work_in_two_sessions(table):
    """Inserts, deletes, updates and VACUUM beside queries that compare with the sequential scan."""
    stop, failures = threading.Event(), []

    def work(seed):
        rng, session = random.Random(seed), Database()
        try:
            while not stop.is_set():
                what = rng.random()
                if what < 0.4:
                    session.rows("INSERT INTO points(code) SELECT c::bit(64) FROM unnest(%s) c",
                                 [code(rng) for _ in range(rng.randrange(1, 40))])
                elif what < 0.6:
                    session.rows("DELETE FROM points WHERE id %% 97 = %s", rng.randrange(97))
                elif what < 0.9:
                    session.rows("UPDATE points SET code = %s WHERE id %% 211 = %s", code(rng), rng.randrange(211))
                else:
                    session.rows("VACUUM points")
        except Exception as error:  # pylint: disable=broad-except
            failures.append(error)
        session.connection.close()

    threads = [threading.Thread(target=work, args=(SEED + i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    db, rng = table, random.Random(SEED + 9)
    for _ in range(12):
        db.rows("BEGIN ISOLATION LEVEL REPEATABLE READ")
        query = code(rng)
        db.rows(f"SET LOCAL enable_seqscan = off; DECLARE near NO SCROLL CURSOR FOR "
                f"SELECT code <^> '{query}'::bit(64) FROM points ORDER BY code <^> '{query}'::bit(64)")
        fetched = db.rows("FETCH 100 FROM near")
        expected = distances(db, "points", query, 10**9, False)
        fetched += db.rows("FETCH ALL FROM near")  # while others delete and vacuum
        assert [row[0] for row in fetched] == expected
        db.rows("COMMIT")
        # The same rows again, in one statement each.
        db.rows("BEGIN ISOLATION LEVEL REPEATABLE READ")
        same(db, "points", code(rng), 5000)
        db.rows("COMMIT")
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures, failures
    db.rows("VACUUM points")
    assert db.one("SELECT bitlm_index_check('points_code')") == db.one("SELECT count(*) FROM points")


def test_room_is_used_again(table):
    db = table
    for _ in range(6):
        db.rows("DELETE FROM points WHERE id <= (SELECT max(id) - 3000 FROM points)")
        db.rows("VACUUM points")
        db.rows("INSERT INTO points(code) SELECT c::bit(64) FROM unnest(%s) c",
                [code(random.Random(SEED)) for _ in range(3000)])
    assert db.one("SELECT pg_relation_size('points_code')") < 400_000


def test_concurrently_partitions_unlogged(table):
    db = table
    db.rows("CREATE INDEX CONCURRENTLY points_again ON points USING bitlm (code) WHERE part % 2 = 0")
    assert db.one("SELECT bitlm_index_check('points_again')") == 3020
    db.rows("REINDEX INDEX CONCURRENTLY points_code")
    same(db, "points", code(random.Random(1)), 100)
    db.rows(f"CREATE TABLE parts(id int, code bit({BITS})) PARTITION BY RANGE (id);"
            "CREATE TABLE parts1 PARTITION OF parts FOR VALUES FROM (0) TO (3000);"
            "CREATE TABLE parts2 PARTITION OF parts FOR VALUES FROM (3000) TO (100000);"
            "CREATE INDEX ON parts USING bitlm (code);"
            "INSERT INTO parts SELECT id, code FROM points")
    plan_free = same(db, "parts", code(random.Random(2)), 300)
    assert len(plan_free) == 300
    db.rows(f"CREATE UNLOGGED TABLE fast(id int, code bit({BITS})); CREATE INDEX ON fast USING bitlm (code);"
            "INSERT INTO fast SELECT id, code FROM points")
    same(db, "fast", code(random.Random(3)), 300)
    db.rows("DROP TABLE parts; DROP TABLE fast; DROP INDEX points_again")


def test_planner_chooses_it(db):
    db.rows("DROP TABLE IF EXISTS big; CREATE TABLE big(id int, code bit(384));"
            "INSERT INTO big SELECT g, bitlm_binarize(ARRAY(SELECT random() - 0.5 + g * 0 FROM generate_series(1, 384))::real[]) "
            "FROM generate_series(1, 3000) g;"
            "CREATE INDEX big_code ON big USING bitlm (code); ANALYZE big")
    plan = "\n".join(row[0] for row in db.rows(
        "EXPLAIN SELECT id FROM big ORDER BY code <^> (SELECT code FROM big LIMIT 1) LIMIT 10"))
    assert "big_code" in plan, plan
    assert "big_code" not in "\n".join(row[0] for row in db.rows("EXPLAIN SELECT count(*) FROM big"))
    db.rows("DROP TABLE big")
