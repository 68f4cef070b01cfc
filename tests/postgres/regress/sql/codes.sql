-- Distances of bit(n), quantized vectors.
SELECT B'1100' <^> B'1010' AS hamming, bitlm_hamming(B'1100', B'1010'), bitlm_distance(B'1100', B'1010'),
       bitlm_similarity(B'11001', B'10101');
SELECT (B'1100' <|> B'1010') AS jaccard_distance, bitlm_jaccard(B'1100', B'1010'), bitlm_jaccard(B'00', B'00');
SELECT B'1100' <^> NULL AS "null";
SELECT bitlm_within(B'1100', B'1010', 2) AS two, bitlm_within(B'1100', B'1010', 1) AS one,
       B'1100' <@ bitlm_sphere(B'1010', 2) AS two, B'1100' <@ bitlm_sphere(B'1010', 1) AS one;
SELECT bitlm_reverse_bits(B'1100000010000001');
-- Every length up to 200 bits, against the server's own count.
SELECT count(*) FILTER (WHERE (a <^> b) = length(replace((a # b)::text, '0', ''))) AS equal, count(*) AS "all"
FROM generate_series(1, 200) n,
LATERAL (SELECT ('x' || md5(n::text) || md5(n || 'b'))::bit(256) x, ('x' || md5(n || 'c') || md5(n || 'd'))::bit(256) y) r,
LATERAL (SELECT substring(x FROM 1 FOR n) a, substring(y FROM 1 FOR n) b) t;
SELECT bitlm_cosine('{1,0}', '{1,1}'), bitlm_cosine('{}', '{}');
SELECT bitlm_binarize('{-1,0,0.5,2}'), bitlm_binarize('{-1,0,0.5,2}', 0.5), length(bitlm_binarize('{}'));
SELECT scheme, length(bitlm_quantize('{-1.5,0,0.25,1.5}'::real[], scheme)) AS bytes,
       bitlm_dequantize(bitlm_quantize('{-1.5,0,0.25,1.5}'::real[], scheme)) AS back
FROM unnest(ARRAY['int8', 'int4', 'ternary', 'twn', 'binary', 'threshold']) scheme;
SELECT bitlm_dequantize(bitlm_quantize('{1,1,1,1}'::real[], 'int8', hadamard => 4));
SELECT bitlm_quantize('{1,2}'::real[], 'int8') = bitlm_quantize('\x0000803f00000040'::bytea, 'int8') AS packed;
SELECT bitlm_quantize('{1,NaN}'::real[], 'int8', on_error => 'null') IS NULL AS on_error;
SELECT key FROM jsonb_object_keys(bitlm_quantize_error('{1,2,3}'::real[], 'int4')) key ORDER BY key COLLATE "C";
SELECT bitlm_quantize_error('{1,2,3}'::real[], 'ternary', "group" => 1) ->> 'mse' AS mse;
