#!/bin/sh
# demo-pg.sh: generate, embed, search and watch as SQL typed into psql.  `make demo-pg` runs it
# inside tests/postgres/cluster.sh, which lends it a cluster with a background worker.
set -e
cd "$(dirname "$0")/../.."
psql -X -q -v ON_ERROR_STOP=1 --echo-queries <<'END'
CREATE EXTENSION bitlm;
SELECT bitlm_generate('The fox said to the crow,', max_tokens => 30, seed => 4);
SELECT bitlm_hamming(bitlm_embed('How do I get my money back?'), bitlm_embed('I want a refund.')) AS alike,
       bitlm_hamming(bitlm_embed('How do I get my money back?'), bitlm_embed('The king of Sweden.')) AS unlike;
CREATE TABLE notes(id integer PRIMARY KEY, source text, body text,
                   code bit(384) GENERATED ALWAYS AS (bitlm_embed(body)) STORED);
CREATE TEMP TABLE input(id integer, source text, body text);
\copy input FROM 'tests/data/demo/notes.tsv' WITH (FORMAT csv, DELIMITER E'\t', QUOTE E'\b')
\timing on
INSERT INTO notes(id, source, body) SELECT * FROM input;
\timing off
SELECT id, code <^> bitlm_embed('the big statue in Rio de Janeiro') AS bits, left(body, 70) AS body
  FROM notes ORDER BY bits LIMIT 3;
CREATE TABLE letters(id integer PRIMARY KEY, body text, code bit(384));
SELECT bitlm_watch('letters', 'body', 'code');
INSERT INTO letters(id, body) VALUES (1, 'Your tax return is due in May.'), (2, 'The cat has had kittens.');
SELECT pg_sleep(1);
SELECT id, code IS NOT NULL AS embedded, code <^> bitlm_embed('a letter from the tax office') AS bits FROM letters ORDER BY bits;
SELECT relation, pending, parked, last_error FROM bitlm_watch_status;
END
