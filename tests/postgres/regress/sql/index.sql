-- The access method: plans, orders, ranges, filters, maintenance.
CREATE TABLE points(id int, part smallint, day date, code bit(64));
INSERT INTO points SELECT g, g % 10, date '2024-01-01' + g % 30, ('x' || substr(md5(g::text), 1, 16))::bit(64) FROM generate_series(1, 2000) g;
INSERT INTO points SELECT 3000 + g, g FROM generate_series(1, 3) g;
CREATE INDEX points_code ON points USING bitlm (day, code, part);
ANALYZE points;
SET enable_seqscan = off;
SET enable_bitmapscan = off;
\set q 'B''1010101010101010101010101010101010101010101010101010101010101010'''

EXPLAIN (COSTS OFF) SELECT id FROM points ORDER BY code <^> :q LIMIT 5;
EXPLAIN (COSTS OFF) SELECT id FROM points WHERE bitlm_within(code, :q, 20);
EXPLAIN (COSTS OFF) SELECT id FROM points WHERE code <@ bitlm_sphere(:q, 20) ORDER BY code <^> :q;
EXPLAIN (COSTS OFF) SELECT id FROM points WHERE part = 3 AND day IN ('2024-01-02', '2024-01-05') ORDER BY code <^> :q LIMIT 5;
EXPLAIN (COSTS OFF) SELECT id FROM points WHERE part = 3 AND id > 7 ORDER BY code <^> :q LIMIT 5;
EXPLAIN (COSTS OFF) SELECT id FROM points WHERE part IS NULL ORDER BY code <^> :q LIMIT 5;
SET enable_bitmapscan = on;
SET enable_indexscan = off;
EXPLAIN (COSTS OFF) SELECT count(*) FROM points WHERE bitlm_within(code, :q, 20);
SELECT count(*) FROM points WHERE bitlm_within(code, :q, 24);
SET enable_bitmapscan = off;
SET enable_indexscan = on;

SELECT id, code <^> :q AS distance FROM points ORDER BY code <^> :q LIMIT 4;
SELECT count(*) FROM points WHERE bitlm_within(code, :q, 24);
SELECT id, part FROM points WHERE part = 3 AND day IN ('2024-01-04', '2024-01-14') ORDER BY code <^> :q LIMIT 3;

-- All rows, those without a code last; the same multiset of distances as without the index.
CREATE FUNCTION same(condition text, n int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	sql text := format('SELECT array_agg(d) FROM (SELECT code <^> B''%s'' AS d FROM points WHERE %s ORDER BY code <^> B''%s'' LIMIT %s) s',
		repeat('10', 32), condition, repeat('10', 32), n);
	by_index float8[];
	by_scan float8[];
BEGIN
	EXECUTE sql INTO by_index;
	SET LOCAL enable_seqscan = on; SET LOCAL enable_indexscan = off;
	EXECUTE sql INTO by_scan;
	SET LOCAL enable_seqscan = off; SET LOCAL enable_indexscan = on;
	RETURN format('%s rows, %s', coalesce(array_length(by_index, 1), 0), CASE WHEN by_index IS NOT DISTINCT FROM by_scan THEN 'equal' ELSE 'different' END);
END$$;
SELECT same('true', 10000), same('true', 100), same('part = 3', 100), same('id % 100 = 7', 15), same('part IS NULL', 5);
SELECT same('part = 11', 5);

DELETE FROM points WHERE id % 3 = 0;
SELECT same('true', 10000), bitlm_index_check('points_code');
VACUUM points;
SELECT same('true', 10000), bitlm_index_check('points_code');
UPDATE points SET code = ~code WHERE id % 5 = 0;
UPDATE points SET part = NULL WHERE id % 7 = 0;
SELECT same('true', 10000), same('part IS NULL', 50), same('part IS NOT NULL AND part = 4', 50);
-- Without order and condition the index has no part, also where sequential scans are off: this counts the table.
REINDEX INDEX points_code;
SELECT bitlm_index_check('points_code') = count(*) AS entries FROM points;
REINDEX INDEX CONCURRENTLY points_code;
SELECT same('true', 10000);
TRUNCATE points;
SELECT same('true', 10), bitlm_index_check('points_code');
DROP TABLE points;
DROP FUNCTION same;

-- expressions, partial indexes, partitions, unlogged tables, other lengths
CREATE TABLE notes(id int, body text);
INSERT INTO notes VALUES (1, 'a letter from the tax office'), (2, 'a cat on the roof'), (3, NULL), (4, 'rain tomorrow');
CREATE INDEX notes_code ON notes USING bitlm (bitlm_embed(body)) WHERE id > 1;
SET plan_cache_mode = force_generic_plan;
PREPARE nearest(bit) AS SELECT id FROM notes WHERE id > 1 ORDER BY bitlm_embed(body) <^> $1 LIMIT 1;
EXPLAIN (COSTS OFF) EXECUTE nearest(1::bit(384));
RESET plan_cache_mode;
DEALLOCATE nearest;
SELECT id FROM notes WHERE id > 1 ORDER BY bitlm_embed(body) <^> bitlm_embed('weather') LIMIT 1;
SELECT bitlm_index_check('notes_code');
DROP TABLE notes;
CREATE TABLE parts(id int, code bit(16)) PARTITION BY RANGE (id);
CREATE TABLE parts1 PARTITION OF parts FOR VALUES FROM (0) TO (50);
CREATE TABLE parts2 PARTITION OF parts FOR VALUES FROM (50) TO (1000);
CREATE INDEX parts_code ON parts USING bitlm (code);
INSERT INTO parts SELECT g, (g * 31)::bit(16) FROM generate_series(0, 99) g;
EXPLAIN (COSTS OFF) SELECT id FROM parts ORDER BY code <^> 93::bit(16) LIMIT 2;
SELECT id FROM parts ORDER BY code <^> 93::bit(16) LIMIT 1;
DROP TABLE parts;
CREATE UNLOGGED TABLE fast(code bit(12));
INSERT INTO fast SELECT g::bit(12) FROM generate_series(0, 4095) g;
CREATE INDEX fast_code ON fast USING bitlm (code) WITH (bits = 12);
SELECT count(*) FROM fast WHERE bitlm_within(code, B'000000000000', 2);
SELECT code FROM fast ORDER BY code <^> B'101010101010' LIMIT 1;
DROP TABLE fast;
CREATE TABLE column_of_one(code bit(1));
INSERT INTO column_of_one VALUES (B'0'), (B'1'), (NULL);
CREATE INDEX ON column_of_one USING bitlm (code);
SELECT code FROM column_of_one ORDER BY code <^> B'1';
DROP TABLE column_of_one;
