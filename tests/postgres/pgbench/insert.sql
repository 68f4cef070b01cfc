-- One row, committed.
\set seed random(1, 1000000000)
INSERT INTO bench_codes(owner, code)
SELECT :seed % 100, ('x' || md5(:seed::text) || md5(:seed || 'b') || md5(:seed || 'c'))::bit(384);
