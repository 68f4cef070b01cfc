-- What each function answers.  The same bits on every machine, so the texts stand here.
SELECT bitlm_generate('Once upon a time', max_tokens => 12, temperature => 0);
SELECT bitlm_generate('Once upon a time', max_tokens => 12, seed => 4);
SELECT bitlm_generate(NULL) IS NULL AS "null";
SELECT bitlm_generate('The weather is', choices => ARRAY['warm', 'cold']) IN ('warm', 'cold') AS one_of_them;
SELECT n, piece, logprob <= 0 AS logprob FROM bitlm_stream('Once upon a time', max_tokens => 4, temperature => 0);
SELECT (bitlm_stream('Once', max_tokens => 1000000, ignore_eos => true)).n LIMIT 3;
SELECT * FROM bitlm_generate_each(ARRAY['Once', NULL, 'The fox'], max_tokens => 4, temperature => 0);
SELECT length(bitlm_chat('[{"role": "user", "content": "hello"}]', max_tokens => 4, chat_template => 'chatml')) > 0 AS answered;

SELECT bitlm_tokenize('How do I pay?');
SELECT bitlm_detokenize(bitlm_tokenize('How do I pay?'));
SELECT bitlm_token_count('How do I pay?'), bitlm_token_count('How do I pay?', 'embed'), bitlm_token_count('');

SELECT * FROM bitlm_chunk('one two three four five six seven eight nine ten', 4, 1);
SELECT count(*) FROM bitlm_chunk('', 4);
SELECT count(*) FROM bitlm_chunk(NULL, 4);
SELECT c.chunk = substr(t, c.start, c.length) AS same FROM (VALUES ('Größe und Maß, 大きさ')) v(t), bitlm_chunk(t, 3, 0) c;

SELECT key FROM jsonb_each_text(bitlm_classify('It will rain tomorrow', ARRAY['weather', 'money'])) ORDER BY value::float8 DESC LIMIT 1;
SELECT round(sum(value::numeric), 4) AS total FROM jsonb_each_text(bitlm_classify('It will rain', ARRAY['weather', 'money', 'sport']));

SELECT length(bitlm_embed('tax letter')), bitlm_embed('tax letter') = bitlm_embed('tax letter', 'embed') AS named,
       bitlm_embed('tax letter') = bitlm_embed_pinned('tax letter', bitlm_model_id()) AS pinned,
       bitlm_embed('tax letter') = bitlm_binarize(bitlm_embed_f32('tax letter')) AS from_floats;
SELECT substring(bitlm_embed('tax letter') FROM 1 FOR 64);
SELECT idx, length(code) FROM bitlm_embed_each(ARRAY['a', NULL, 'b']);
SELECT word FROM unnest(ARRAY['a cat sleeps', 'the bank sent an invoice', 'rain and wind']) word
ORDER BY bitlm_embed(word) <^> bitlm_embed('a bill to pay') LIMIT 1;

SELECT name, architecture, bits, can_generate, can_embed, error FROM bitlm_models WHERE name IN ('embed', 'story') ORDER BY name COLLATE "C";
SELECT length(bitlm_model_id()), bitlm_model_id() = bitlm_model_id('embed') AS embed, bitlm_model_id() = bitlm_model_id('story') AS story;
SELECT bitlm_version() ~ '^\d+\.\d+\.\d+' AS version;

-- memory: what is said before a session is opened
SELECT m ->> 'n_ctx' AS n_ctx, m ->> 'kv_bytes' AS kv_bytes FROM bitlm_memory('story', n_ctx => 128, kv_type => 'f32') m;
SELECT kv_type, (bitlm_memory('story', n_ctx => 128, kv_type => kv_type) ->> 'kv_bytes')::int AS kv_bytes
FROM unnest(ARRAY['f32', 'f16', 'int8', 'int4']) kv_type;
SELECT key FROM jsonb_object_keys(bitlm_memory()) key ORDER BY key COLLATE "C";
