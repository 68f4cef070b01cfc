-- Ten nearest; every other time those of one owner.
\set seed random(1, 1000000000)
\set owner random(0, 99)
\set filtered random(0, 1)
\if :filtered
SELECT id FROM bench_codes WHERE owner = :owner
	ORDER BY code <^> ('x' || md5(:seed::text) || md5(:seed || 'b') || md5(:seed || 'c'))::bit(384) LIMIT 10;
\else
SELECT id FROM bench_codes
	ORDER BY code <^> ('x' || md5(:seed::text) || md5(:seed || 'b') || md5(:seed || 'c'))::bit(384) LIMIT 10;
\endif
