CREATE EXTENSION IF NOT EXISTS bitlm;
SELECT k, n, bitlm_generate(repeat('Once upon a time ', n), max_tokens => 5, n_ctx => 64, kv_type => k, seed => 3) FROM unnest(ARRAY['int8', 'int4']) k, unnest(ARRAY[1, 4, 9]) n;
SELECT k, g.* FROM unnest(ARRAY['int8', 'int4']) k, bitlm_generate_each(ARRAY['Once', NULL, 'Once upon a time there was', 'b'], max_tokens => 4, n_ctx => 64, rows => 2, kv_type => k) g;
SELECT k, bitlm_generate('the cat and the dog and the cat and the', max_tokens => 6, n_ctx => 64, temperature => 0, lookup => 4, kv_type => k) FROM unnest(ARRAY['int8', 'int4']) k;
SELECT k, bitlm_generate('Once', max_tokens => 40, n_ctx => 33, ignore_eos => true, kv_type => k) FROM unnest(ARRAY['int8', 'int4']) k;
SELECT k, bitlm_generate('Is rain wet?', choices => ARRAY['yes', 'no'], n_ctx => 64, kv_type => k) FROM unnest(ARRAY['int8', 'int4']) k;
