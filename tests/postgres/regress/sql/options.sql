-- Named arguments: each that a text can show is obeyed, NULL is the default.
SELECT bitlm_generate('Once', max_tokens => NULL, temperature => NULL, kv_type => NULL, activations => NULL, seed => NULL)
       = bitlm_generate('Once') AS nulls_are_defaults;
SELECT bitlm_token_count(bitlm_generate('Once', max_tokens => 5, ignore_eos => true)) BETWEEN 4 AND 6 AS max_tokens;
SELECT count(DISTINCT bitlm_generate('Once', max_tokens => 24, seed => s)) > 1 AS seed FROM generate_series(1, 6) s;
SELECT count(DISTINCT bitlm_generate('Once', max_tokens => 24, seed => s, temperature => 0)) AS temperature_0 FROM generate_series(1, 6) s;
SELECT count(DISTINCT bitlm_generate('Once', max_tokens => 24, seed => s, top_k => 1)) AS top_k_1 FROM generate_series(1, 6) s;
SELECT position('.' IN bitlm_generate('Once upon a time', max_tokens => 60, stop => ARRAY['.'])) AS stop;
SELECT bitlm_generate('Once upon a time', max_tokens => 24, seed => 3, kv_type => k) IS NOT NULL AS kv_type FROM unnest(ARRAY['f32', 'int8']) k;
SELECT count(DISTINCT bitlm_generate('Once upon a time', max_tokens => 24, temperature => 0, activations => a)) > 1 AS activations
FROM unnest(ARRAY['int8', 'a4.8', 'binary']) a;
SELECT bitlm_generate('Once upon a time', max_tokens => 24, activations => 'int8') = bitlm_generate('Once upon a time', max_tokens => 24) AS int8;
SELECT bitlm_embed('tax', 'embed', activations => 'int8') = bitlm_embed('tax') AS int8,
       bitlm_embed('tax', 'embed', activations => 'binary') = bitlm_embed('tax') AS binary;
SELECT e.code = bitlm_embed('tax', 'embed', 'binary') AS each FROM bitlm_embed_each(ARRAY['tax'], activations => 'binary') e;
SELECT bitlm_embed_f32('tax', NULL, 'a4.8') = bitlm_embed_f32('tax') AS a4_8;
SELECT bitlm_generate('Once upon a time', max_tokens => 24, lookup => 4) = bitlm_generate('Once upon a time', max_tokens => 24) AS lookup;
SELECT bitlm_generate('Once upon a time', max_tokens => 24, threads => 2) = bitlm_generate('Once upon a time', max_tokens => 24) AS threads;
SELECT bitlm_generate(repeat('word ', 500), n_ctx => 64, max_tokens => 2, truncate => 'start') IS NOT NULL AS truncate;
SELECT bitlm_generate(repeat('word ', 500), n_ctx => 64, on_error => 'null') IS NULL AS on_error;
SELECT jsonb_typeof(bitlm_generate('An animal:', json_schema => '{"type": "object", "properties": {"big": {"type": "boolean"}}}')::jsonb -> 'big') AS json_schema;

-- settings
SET bitlm.max_tokens = 5;
SELECT bitlm_generate('Once upon a time', temperature => 0) = bitlm_generate('Once upon a time', max_tokens => 5, temperature => 0) AS of_the_setting;
RESET bitlm.max_tokens;
SHOW bitlm.max_tokens;
SHOW bitlm.threads;
SET bitlm.threads = -1;
