-- The table of the scripts beside this: `rows` codes of 384 bits and the index.
CREATE EXTENSION IF NOT EXISTS bitlm;
DROP TABLE IF EXISTS bench_codes;
DROP SEQUENCE IF EXISTS bench_id;
CREATE SEQUENCE bench_id;
CREATE TABLE bench_codes(id bigint DEFAULT nextval('bench_id'), owner smallint, code bit(384));
CREATE INDEX bench_codes_code ON bench_codes USING bitlm (code, owner);
INSERT INTO bench_codes(owner, code)
SELECT g % 100, ('x' || md5(g::text) || md5(g || 'b') || md5(g || 'c'))::bit(384) FROM generate_series(1, :rows) g;
ANALYZE bench_codes;
