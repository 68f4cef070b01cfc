-- bitlm--0.1.0.sql: what CREATE EXTENSION bitlm makes.
--
-- A NULL option takes the default of the core's table of options (docs/POSTGRES.md), which
-- is why those functions are not STRICT.  COST is in units of cpu_operator_cost: an
-- embedding is worth an index and parallel workers.
\echo Use "CREATE EXTENSION bitlm" to load this file. \quit

CREATE FUNCTION bitlm_version() RETURNS text
	AS 'MODULE_PATHNAME', 'blpg_version' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

-- text -------------------------------------------------------------------------

CREATE FUNCTION bitlm_generate(prompt text,
	max_tokens integer DEFAULT NULL, temperature double precision DEFAULT NULL,
	top_p double precision DEFAULT NULL, top_k integer DEFAULT NULL, min_p double precision DEFAULT NULL,
	repeat_penalty double precision DEFAULT NULL, seed bigint DEFAULT NULL, stop text[] DEFAULT NULL,
	choices text[] DEFAULT NULL, json_schema jsonb DEFAULT NULL,
	model text DEFAULT NULL, ignore_eos boolean DEFAULT NULL, n_ctx integer DEFAULT NULL,
	kv_type text DEFAULT NULL, threads integer DEFAULT NULL, timeout_ms integer DEFAULT NULL,
	truncate text DEFAULT NULL, on_error text DEFAULT NULL,
	rows integer DEFAULT NULL, lookup integer DEFAULT NULL, activations text DEFAULT NULL) RETURNS text
	AS 'MODULE_PATHNAME', 'blpg_generate' LANGUAGE C STABLE PARALLEL SAFE COST 10000000;

CREATE FUNCTION bitlm_chat(messages jsonb,
	max_tokens integer DEFAULT NULL, temperature double precision DEFAULT NULL,
	top_p double precision DEFAULT NULL, top_k integer DEFAULT NULL, min_p double precision DEFAULT NULL,
	repeat_penalty double precision DEFAULT NULL, seed bigint DEFAULT NULL, stop text[] DEFAULT NULL,
	choices text[] DEFAULT NULL, json_schema jsonb DEFAULT NULL,
	model text DEFAULT NULL, ignore_eos boolean DEFAULT NULL, n_ctx integer DEFAULT NULL,
	kv_type text DEFAULT NULL, threads integer DEFAULT NULL, timeout_ms integer DEFAULT NULL,
	truncate text DEFAULT NULL, on_error text DEFAULT NULL,
	rows integer DEFAULT NULL, lookup integer DEFAULT NULL, activations text DEFAULT NULL,
	chat_template text DEFAULT NULL) RETURNS text
	AS 'MODULE_PATHNAME', 'blpg_chat' LANGUAGE C STABLE PARALLEL SAFE COST 10000000;

CREATE FUNCTION bitlm_stream(prompt text,
	max_tokens integer DEFAULT NULL, temperature double precision DEFAULT NULL,
	top_p double precision DEFAULT NULL, top_k integer DEFAULT NULL, min_p double precision DEFAULT NULL,
	repeat_penalty double precision DEFAULT NULL, seed bigint DEFAULT NULL, stop text[] DEFAULT NULL,
	choices text[] DEFAULT NULL, json_schema jsonb DEFAULT NULL,
	model text DEFAULT NULL, ignore_eos boolean DEFAULT NULL, n_ctx integer DEFAULT NULL,
	kv_type text DEFAULT NULL, threads integer DEFAULT NULL, timeout_ms integer DEFAULT NULL,
	truncate text DEFAULT NULL, on_error text DEFAULT NULL,
	rows integer DEFAULT NULL, lookup integer DEFAULT NULL, activations text DEFAULT NULL,
	OUT n integer, OUT token integer, OUT piece text, OUT logprob real) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'blpg_stream' LANGUAGE C STABLE PARALLEL SAFE COST 10000000 ROWS 128;

CREATE FUNCTION bitlm_generate_each(prompts text[],
	max_tokens integer DEFAULT NULL, temperature double precision DEFAULT NULL,
	top_p double precision DEFAULT NULL, top_k integer DEFAULT NULL, min_p double precision DEFAULT NULL,
	repeat_penalty double precision DEFAULT NULL, seed bigint DEFAULT NULL, stop text[] DEFAULT NULL,
	choices text[] DEFAULT NULL, json_schema jsonb DEFAULT NULL,
	model text DEFAULT NULL, ignore_eos boolean DEFAULT NULL, n_ctx integer DEFAULT NULL,
	kv_type text DEFAULT NULL, threads integer DEFAULT NULL, timeout_ms integer DEFAULT NULL,
	truncate text DEFAULT NULL, on_error text DEFAULT NULL,
	rows integer DEFAULT NULL, lookup integer DEFAULT NULL, activations text DEFAULT NULL,
	OUT idx integer, OUT text text) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'blpg_generate_each' LANGUAGE C STABLE PARALLEL SAFE COST 100000000 ROWS 100;

CREATE FUNCTION bitlm_classify(value text, labels text[], model text DEFAULT NULL, n_ctx integer DEFAULT NULL,
	threads integer DEFAULT NULL, timeout_ms integer DEFAULT NULL, truncate text DEFAULT NULL,
	activations text DEFAULT NULL) RETURNS jsonb
	AS 'MODULE_PATHNAME', 'blpg_classify' LANGUAGE C STABLE PARALLEL SAFE COST 1000000;

CREATE FUNCTION bitlm_tokenize(value text, model text DEFAULT NULL) RETURNS integer[]
	AS 'MODULE_PATHNAME', 'blpg_tokenize' LANGUAGE C STABLE PARALLEL SAFE COST 1000;
CREATE FUNCTION bitlm_detokenize(ids integer[], model text DEFAULT NULL) RETURNS text
	AS 'MODULE_PATHNAME', 'blpg_detokenize' LANGUAGE C STABLE PARALLEL SAFE COST 1000;
CREATE FUNCTION bitlm_token_count(value text, model text DEFAULT NULL) RETURNS integer
	AS 'MODULE_PATHNAME', 'blpg_token_count' LANGUAGE C STABLE PARALLEL SAFE COST 1000;

CREATE FUNCTION bitlm_chunk(value text, size integer, overlap integer DEFAULT 0, model text DEFAULT NULL,
	OUT seq integer, OUT chunk text, OUT start integer, OUT length integer) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'blpg_chunk' LANGUAGE C STABLE PARALLEL SAFE COST 10000 ROWS 20;

-- embedding ----------------------------------------------------------------------

CREATE FUNCTION bitlm_embed(value text) RETURNS bit
	AS 'MODULE_PATHNAME', 'blpg_embed' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 100000;
CREATE FUNCTION bitlm_embed(value text, model text, activations text DEFAULT NULL) RETURNS bit
	AS 'MODULE_PATHNAME', 'blpg_embed_model' LANGUAGE C STABLE PARALLEL SAFE COST 100000;
CREATE FUNCTION bitlm_embed_pinned(value text, model_id text) RETURNS bit
	AS 'MODULE_PATHNAME', 'blpg_embed_pinned' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 100000;
CREATE FUNCTION bitlm_embed_f32(value text) RETURNS real[]
	AS 'MODULE_PATHNAME', 'blpg_embed_f32' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 100000;
CREATE FUNCTION bitlm_embed_f32(value text, model text, activations text DEFAULT NULL) RETURNS real[]
	AS 'MODULE_PATHNAME', 'blpg_embed_f32_model' LANGUAGE C STABLE PARALLEL SAFE COST 100000;
CREATE FUNCTION bitlm_embed_each(texts text[], model text DEFAULT NULL, activations text DEFAULT NULL,
	OUT idx integer, OUT code bit)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'blpg_embed_each' LANGUAGE C STABLE PARALLEL SAFE COST 1000000 ROWS 100;

-- codes and vectors ----------------------------------------------------------------

CREATE FUNCTION bitlm_hamming(a bit, b bit) RETURNS integer
	AS 'MODULE_PATHNAME', 'blpg_hamming' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION bitlm_distance(a bit, b bit) RETURNS double precision
	AS 'MODULE_PATHNAME', 'blpg_distance' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION bitlm_similarity(a bit, b bit) RETURNS double precision
	AS 'MODULE_PATHNAME', 'blpg_similarity' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION bitlm_jaccard(a bit, b bit) RETURNS double precision
	AS 'MODULE_PATHNAME', 'blpg_jaccard' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION bitlm_jaccard_distance(a bit, b bit) RETURNS double precision
	AS 'MODULE_PATHNAME', 'blpg_jaccard_distance' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION bitlm_reverse_bits(code bit) RETURNS bit
	AS 'MODULE_PATHNAME', 'blpg_reverse_bits' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION bitlm_cosine(a real[], b real[]) RETURNS double precision
	AS 'MODULE_PATHNAME', 'blpg_cosine' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION bitlm_binarize(vector real[], threshold real DEFAULT 0) RETURNS bit
	AS 'MODULE_PATHNAME', 'blpg_binarize' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

-- A vector is real[], or float32 values in little-endian order as SQLite's functions take them.
CREATE FUNCTION bitlm_quantize(vector real[], scheme text, "group" integer DEFAULT NULL,
	threshold double precision DEFAULT NULL, rounding text DEFAULT NULL, seed bigint DEFAULT NULL,
	on_error text DEFAULT NULL, hadamard integer DEFAULT NULL) RETURNS bytea
	AS 'MODULE_PATHNAME', 'blpg_quantize' LANGUAGE C IMMUTABLE PARALLEL SAFE COST 100;
CREATE FUNCTION bitlm_quantize(vector bytea, scheme text, "group" integer DEFAULT NULL,
	threshold double precision DEFAULT NULL, rounding text DEFAULT NULL, seed bigint DEFAULT NULL,
	on_error text DEFAULT NULL, hadamard integer DEFAULT NULL) RETURNS bytea
	AS 'MODULE_PATHNAME', 'blpg_quantize_packed' LANGUAGE C IMMUTABLE PARALLEL SAFE COST 100;
CREATE FUNCTION bitlm_dequantize(vector bytea) RETURNS real[]
	AS 'MODULE_PATHNAME', 'blpg_dequantize' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 100;
CREATE FUNCTION bitlm_quantize_error(vector real[], scheme text, "group" integer DEFAULT NULL,
	threshold double precision DEFAULT NULL, rounding text DEFAULT NULL, seed bigint DEFAULT NULL,
	on_error text DEFAULT NULL, hadamard integer DEFAULT NULL) RETURNS jsonb
	AS 'MODULE_PATHNAME', 'blpg_quantize_error' LANGUAGE C IMMUTABLE PARALLEL SAFE COST 200;
CREATE FUNCTION bitlm_quantize_error(vector bytea, scheme text, "group" integer DEFAULT NULL,
	threshold double precision DEFAULT NULL, rounding text DEFAULT NULL, seed bigint DEFAULT NULL,
	on_error text DEFAULT NULL, hadamard integer DEFAULT NULL) RETURNS jsonb
	AS 'MODULE_PATHNAME', 'blpg_quantize_error_packed' LANGUAGE C IMMUTABLE PARALLEL SAFE COST 200;

CREATE OPERATOR <^> (LEFTARG = bit, RIGHTARG = bit, FUNCTION = bitlm_distance, COMMUTATOR = '<^>');
CREATE OPERATOR <|> (LEFTARG = bit, RIGHTARG = bit, FUNCTION = bitlm_jaccard_distance, COMMUTATOR = '<|>');

CREATE TYPE bitlm_sphere AS (center bit varying, radius integer);
CREATE FUNCTION bitlm_sphere(center bit, radius integer) RETURNS bitlm_sphere
	AS 'MODULE_PATHNAME', 'blpg_sphere' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION bitlm_in_sphere(code bit, sphere bitlm_sphere) RETURNS boolean
	AS 'MODULE_PATHNAME', 'blpg_in_sphere' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE OPERATOR <@ (LEFTARG = bit, RIGHTARG = bitlm_sphere, FUNCTION = bitlm_in_sphere, RESTRICT = contsel);
CREATE FUNCTION bitlm_within_support(internal) RETURNS internal
	AS 'MODULE_PATHNAME', 'blpg_within_support' LANGUAGE C STRICT;
CREATE FUNCTION bitlm_within(code bit, q bit, r integer) RETURNS boolean
	AS 'MODULE_PATHNAME', 'blpg_within' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE SUPPORT bitlm_within_support;

-- models ---------------------------------------------------------------------------

CREATE FUNCTION bitlm_models(OUT name text, OUT file text, OUT architecture text, OUT weight_type text,
	OUT parameters bigint, OUT bytes bigint, OUT context_length integer, OUT bits integer,
	OUT can_generate boolean, OUT can_chat boolean, OUT can_embed boolean, OUT error text) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'blpg_models' LANGUAGE C VOLATILE ROWS 5;
CREATE VIEW bitlm_models AS SELECT * FROM @extschema@.bitlm_models();
GRANT SELECT ON bitlm_models TO PUBLIC;
CREATE FUNCTION bitlm_model_id(model text DEFAULT 'embed') RETURNS text
	AS 'MODULE_PATHNAME', 'blpg_model_id' LANGUAGE C STABLE PARALLEL SAFE COST 1000;

CREATE FUNCTION bitlm_memory(model text DEFAULT NULL, n_ctx integer DEFAULT NULL, kv_type text DEFAULT NULL,
	rows integer DEFAULT NULL, threads integer DEFAULT NULL, shape text DEFAULT NULL) RETURNS jsonb
	AS 'MODULE_PATHNAME', 'blpg_memory' LANGUAGE C STABLE PARALLEL SAFE COST 1000;

-- the index ------------------------------------------------------------------------

CREATE FUNCTION bitlm_handler(internal) RETURNS index_am_handler
	AS 'MODULE_PATHNAME', 'blpg_handler' LANGUAGE C;
CREATE ACCESS METHOD bitlm TYPE INDEX HANDLER bitlm_handler;
CREATE OPERATOR CLASS bit_ops DEFAULT FOR TYPE bit USING bitlm AS
	OPERATOR 1 <^> (bit, bit) FOR ORDER BY float_ops,
	OPERATOR 2 <@ (bit, bitlm_sphere);

-- Columns beside the code, filtered by = and IN inside the scan.
CREATE OPERATOR FAMILY integer_ops USING bitlm;
CREATE OPERATOR CLASS int2_ops DEFAULT FOR TYPE smallint USING bitlm FAMILY integer_ops AS OPERATOR 3 =;
CREATE OPERATOR CLASS int4_ops DEFAULT FOR TYPE integer USING bitlm FAMILY integer_ops AS OPERATOR 3 =;
CREATE OPERATOR CLASS int8_ops DEFAULT FOR TYPE bigint USING bitlm FAMILY integer_ops AS OPERATOR 3 =;
ALTER OPERATOR FAMILY integer_ops USING bitlm ADD
	OPERATOR 3 = (smallint, integer), OPERATOR 3 = (smallint, bigint), OPERATOR 3 = (integer, smallint),
	OPERATOR 3 = (integer, bigint), OPERATOR 3 = (bigint, smallint), OPERATOR 3 = (bigint, integer);
CREATE OPERATOR CLASS bool_ops DEFAULT FOR TYPE boolean USING bitlm AS OPERATOR 3 =;
CREATE OPERATOR CLASS oid_ops DEFAULT FOR TYPE oid USING bitlm AS OPERATOR 3 =;
CREATE OPERATOR CLASS char_ops DEFAULT FOR TYPE "char" USING bitlm AS OPERATOR 3 =;
CREATE OPERATOR CLASS float4_ops DEFAULT FOR TYPE real USING bitlm AS OPERATOR 3 =;
CREATE OPERATOR CLASS float8_ops DEFAULT FOR TYPE double precision USING bitlm AS OPERATOR 3 =;
CREATE OPERATOR CLASS date_ops DEFAULT FOR TYPE date USING bitlm AS OPERATOR 3 =;
CREATE OPERATOR CLASS time_ops DEFAULT FOR TYPE time USING bitlm AS OPERATOR 3 =;
CREATE OPERATOR CLASS timestamp_ops DEFAULT FOR TYPE timestamp USING bitlm AS OPERATOR 3 =;
CREATE OPERATOR CLASS timestamptz_ops DEFAULT FOR TYPE timestamptz USING bitlm AS OPERATOR 3 =;
CREATE OPERATOR CLASS uuid_ops DEFAULT FOR TYPE uuid USING bitlm AS OPERATOR 3 =;
CREATE OPERATOR CLASS enum_ops DEFAULT FOR TYPE anyenum USING bitlm AS OPERATOR 3 =;

CREATE FUNCTION bitlm_index_check(index regclass) RETURNS bigint
	AS 'MODULE_PATHNAME', 'blpg_index_check' LANGUAGE C STRICT;
REVOKE ALL ON FUNCTION bitlm_index_check(regclass) FROM PUBLIC;

-- automatic embedding ----------------------------------------------------------------

CREATE TABLE bitlm_watches(
	relation regclass PRIMARY KEY,
	model text,					-- NULL: the built-in one
	model_id text NOT NULL,
	batch integer,				-- NULL: bitlm.worker_batch
	tries integer,				-- NULL: 5
	truncate text,
	due timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),	-- not before, after a failure
	failures integer NOT NULL DEFAULT 0,	-- in a row
	last_run timestamptz,
	last_error text,
	last_error_at timestamptz);
CREATE TABLE bitlm_watch_queue(
	relation regclass NOT NULL,
	key text[] NOT NULL,
	due timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	tries integer NOT NULL DEFAULT 0,
	parked boolean NOT NULL DEFAULT false,
	error text);
CREATE INDEX bitlm_watch_queue_due ON bitlm_watch_queue(relation, due) WHERE NOT parked;
CREATE INDEX bitlm_watch_queue_parked ON bitlm_watch_queue(relation) WHERE parked;
-- A dump has both, so what is pending stays pending.
SELECT pg_catalog.pg_extension_config_dump('bitlm_watches', 'WHERE EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = relation)');
SELECT pg_catalog.pg_extension_config_dump('bitlm_watch_queue', 'WHERE EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = relation)');
-- The database's owner can dump it; PostgreSQL 13 has no name for that role.
DO $$BEGIN
	IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'pg_database_owner') THEN
		GRANT SELECT ON bitlm_watches, bitlm_watch_queue TO pg_database_owner;
	END IF;
END$$;

CREATE FUNCTION bitlm_watch(relation regclass, body name, code name, model text DEFAULT NULL, batch integer DEFAULT NULL,
	tries integer DEFAULT NULL, truncate text DEFAULT NULL, refill boolean DEFAULT false) RETURNS bigint
	AS 'MODULE_PATHNAME', 'blpg_watch' LANGUAGE C VOLATILE;
CREATE FUNCTION bitlm_unwatch(relation regclass) RETURNS boolean
	AS 'MODULE_PATHNAME', 'blpg_unwatch' LANGUAGE C VOLATILE STRICT;
CREATE FUNCTION bitlm_watch_retry(relation regclass, key text[] DEFAULT NULL) RETURNS bigint
	AS 'MODULE_PATHNAME', 'blpg_watch_retry' LANGUAGE C VOLATILE;
CREATE FUNCTION bitlm_watch_run(max_rows integer DEFAULT 1000, relation regclass DEFAULT NULL) RETURNS bigint
	AS 'MODULE_PATHNAME', 'blpg_watch_run' LANGUAGE C VOLATILE COST 10000000;
CREATE FUNCTION bitlm_watch_changed() RETURNS trigger
	AS 'MODULE_PATHNAME', 'blpg_watch_changed' LANGUAGE C;
CREATE FUNCTION bitlm_watch_truncated() RETURNS trigger
	AS 'MODULE_PATHNAME', 'blpg_watch_truncated' LANGUAGE C;
CREATE FUNCTION bitlm_watch_columns(relation regclass, OUT body name, OUT code name) RETURNS record
	AS 'MODULE_PATHNAME', 'blpg_watch_columns_of' LANGUAGE C STABLE STRICT;
CREATE FUNCTION bitlm_watch_worker() RETURNS integer
	AS 'MODULE_PATHNAME', 'blpg_watch_worker' LANGUAGE C VOLATILE;

-- Those that the asking role may read.
CREATE VIEW bitlm_watch_status WITH (security_barrier) AS
	SELECT w.relation, c.body, c.code, COALESCE(w.model, 'embed') AS model, q.pending, q.parked, q.oldest,
		w.last_run, w.last_error, w.last_error_at, @extschema@.bitlm_watch_worker() AS worker_pid
	FROM @extschema@.bitlm_watches w, LATERAL @extschema@.bitlm_watch_columns(w.relation) c,
		LATERAL (SELECT count(*) FILTER (WHERE NOT q.parked) AS pending, count(*) FILTER (WHERE q.parked) AS parked,
			min(q.due) FILTER (WHERE NOT q.parked) AS oldest
			FROM @extschema@.bitlm_watch_queue q WHERE q.relation = w.relation) q
	WHERE pg_catalog.has_table_privilege(w.relation, 'SELECT');
CREATE VIEW bitlm_watch_parked WITH (security_barrier) AS
	SELECT q.relation, q.key, q.tries, q.error FROM @extschema@.bitlm_watch_queue q
	WHERE q.parked AND pg_catalog.has_table_privilege(q.relation, 'SELECT');
GRANT SELECT ON bitlm_watch_status, bitlm_watch_parked TO PUBLIC;
