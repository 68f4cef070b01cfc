-- A search and an insert, an update of another row's code and a delete, in one transaction.
\set seed random(1, 1000000000)
\set id random(1, 20000)
BEGIN;
INSERT INTO bench_codes(owner, code)
SELECT :seed % 100, ('x' || md5(:seed::text) || md5(:seed || 'b') || md5(:seed || 'c'))::bit(384);
SELECT count(*) FROM (SELECT id FROM bench_codes
	ORDER BY code <^> ('x' || md5(:seed::text) || md5(:seed || 'b') || md5(:seed || 'c'))::bit(384) LIMIT 10) s;
UPDATE bench_codes SET code = ~code WHERE id = :id;
DELETE FROM bench_codes WHERE id = :id + 20000 AND :seed % 2 = 0;
COMMIT;
