-- Bad input: an SQLSTATE, and a sentence that names the value.
CREATE FUNCTION failing(sql text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE sql;
	RETURN 'no error';
EXCEPTION WHEN OTHERS OR QUERY_CANCELED THEN
	RETURN SQLSTATE || ' ' || SQLERRM;
END$$;
SELECT failing(sql) FROM (VALUES
	($$SELECT bitlm_generate('a', temperature => 101)$$),
	($$SELECT bitlm_generate('a', temperature => 'NaN')$$),
	($$SELECT bitlm_generate('a', max_tokens => -1)$$),
	($$SELECT bitlm_generate('a', kv_type => 'x')$$),
	($$SELECT bitlm_generate('a', activations => 'int4')$$),
	($$SELECT bitlm_embed('a', 'embed', activations => 'f32')$$),
	($$SELECT bitlm_generate('a', stop => ARRAY[NULL])$$),
	($$SELECT bitlm_generate('a', model => '../x')$$),
	($$SELECT bitlm_generate('a', model => '/etc/passwd')$$),
	($$SELECT bitlm_generate('a', model => 'none')$$),
	($$SELECT bitlm_generate('a', model => 'embed')$$),
	($$SELECT * FROM bitlm_stream('a', model => 'embed')$$),
	($$SELECT * FROM bitlm_generate_each(ARRAY['a'], model => 'embed')$$),
	($$SELECT bitlm_generate(repeat('word ', 3000), n_ctx => 64)$$),
	($$SELECT bitlm_generate('a', max_tokens => 100000, timeout_ms => 1, ignore_eos => true)$$),
	($$SELECT bitlm_chat('[{"role": "user", "content": "a"}]')$$),
	($$SELECT bitlm_chat('{"role": 1}', chat_template => 'chatml')$$),
	($$SELECT bitlm_embed('a', 'story')$$),
	($$SELECT * FROM bitlm_embed_each(ARRAY['a'], 'story')$$),
	($$SELECT bitlm_embed(repeat('word ', 5000))$$),
	($$SELECT bitlm_embed_pinned('a', repeat('0', 32))$$),
	($$SELECT bitlm_embed_pinned('a', 'xyz')$$),
	($$SELECT * FROM bitlm_chunk('a', 0)$$),
	($$SELECT * FROM bitlm_chunk('a', 4, 4)$$),
	($$SELECT bitlm_detokenize(ARRAY[-1])$$),
	($$SELECT bitlm_detokenize(ARRAY[NULL::int])$$),
	($$SELECT bitlm_classify('a', ARRAY[]::text[])$$),
	($$SELECT bitlm_classify('a', ARRAY['b', 'b'])$$),
	($$SELECT bitlm_memory('none')$$),
	($$SELECT bitlm_memory(n_ctx => -1)$$)) t(sql);
SELECT failing(sql) FROM (VALUES
	($$SELECT B'1' <^> B'11'$$),
	($$SELECT B'1' <|> B'11'$$),
	($$SELECT bitlm_within(B'1', B'11', 1)$$),
	($$SELECT B'1' <@ bitlm_sphere(B'11', 1)$$),
	($$SELECT bitlm_reverse_bits(B'101')$$),
	($$SELECT bitlm_cosine('{1,2}', '{1}')$$),
	($$SELECT bitlm_cosine('{1,NULL}', '{1,2}')$$),
	($$SELECT bitlm_cosine('{{1,2},{3,4}}', '{{1,2},{3,4}}')$$),
	($$SELECT bitlm_binarize('{{1},{2}}')$$),
	($$SELECT bitlm_quantize('{{1,2},{3,4}}'::real[], 'int8')$$),
	($$SELECT bitlm_quantize('{1,2}'::real[], 'int9')$$),
	($$SELECT bitlm_quantize('{1,2,3}'::real[], 'int8', hadamard => 2)$$),
	($$SELECT bitlm_quantize('{1,2}'::real[], 'q8_0')$$),
	($$SELECT bitlm_quantize('\x010203'::bytea, 'int8')$$),
	($$SELECT bitlm_dequantize('\x00')$$)) t(sql);
CREATE TABLE codes(id int, code bit(8), other text, free varbit);
SELECT failing(sql) FROM (VALUES
	($$CREATE INDEX ON codes USING bitlm (code) WITH (bits = 9)$$),
	($$CREATE INDEX ON codes USING bitlm (code) WITH (bits = -1)$$),
	($$CREATE INDEX ON codes USING bitlm (code) WITH (lists = 3)$$),
	($$CREATE INDEX ON codes USING bitlm (code, (code || B'1'))$$),
	($$CREATE INDEX ON codes USING bitlm (id)$$),
	($$CREATE INDEX ON codes USING bitlm (code, other)$$),
	($$CREATE UNIQUE INDEX ON codes USING bitlm (code)$$),
	($$CREATE INDEX ON codes USING bitlm (code) INCLUDE (id)$$),
	($$CREATE INDEX ON codes USING bitlm (code DESC)$$),
	($$SELECT bitlm_index_check('codes')$$),
	($$SELECT bitlm_watch('codes', 'other', 'code')$$),
	($$SELECT bitlm_watch('codes', 'none', 'code')$$)) t(sql);
CREATE INDEX eight ON codes USING bitlm (code) WITH (bits = 8);
ALTER INDEX eight SET (bits = 9);
\set VERBOSITY sqlstate
REINDEX INDEX eight;
CREATE INDEX ON codes USING bitlm (bitlm_reverse_bits(free));
INSERT INTO codes(free) VALUES (B'10101010');
INSERT INTO codes(free) VALUES (B'1010101010101010');
INSERT INTO codes(code) VALUES (B'101');
SET bitlm.model_dir = 'relative';
CREATE ROLE bitlm_regress;
SET ROLE bitlm_regress;
SELECT bitlm_index_check('eight');
SET bitlm.model_dir = '/etc';
SELECT * FROM bitlm_watches;
RESET ROLE;
DROP ROLE bitlm_regress;
\set VERBOSITY default
DROP TABLE codes;
