"""Automatic embedding without a worker: what bitlm_watch queues, and what bitlm_watch_run makes of it.

The workers are in test_watch_worker.py.  The server of cluster.sh does not preload bitlm, so nothing
runs here but what a test calls."""

import collections
import subprocess

import pytest

from conftest import Database

FRESH = "SELECT count(*) FROM {0} WHERE code IS DISTINCT FROM bitlm_embed({1})"


def stale(db, table="notes", body="body"):
    return db.one(FRESH.format(table, body))


def status(db, table="notes"):
    return db.rows("SELECT pending, parked FROM bitlm_watch_status WHERE relation = %s::regclass", table)[0]


@pytest.fixture
def notes(db):
    db.rows("DROP TABLE IF EXISTS notes; CREATE TABLE notes(id int PRIMARY KEY, body text, code bit(384), other int)")
    db.rows("INSERT INTO notes SELECT g, 'note ' || g FROM generate_series(1, 10) g")
    yield db
    db.rows("DROP TABLE IF EXISTS notes CASCADE; SELECT bitlm_watch_run()")


def test_without_preload(notes):
    notes.connection.notices = collections.deque()
    assert notes.one("SELECT bitlm_watch('notes', 'body', 'code')") == 10
    told = "".join(notes.connection.notices)
    assert "shared_preload_libraries" in told and "bitlm_watch_run" in told and "skipping" not in told
    assert status(notes) == (10, 0) and notes.one("SELECT worker_pid FROM bitlm_watch_status") is None
    assert notes.one("SELECT bitlm_watch_run(4)") == 4
    assert notes.one("SELECT count(code) FROM notes") == 4
    assert notes.one("SELECT bitlm_watch_run()") == 6
    assert stale(notes) == 0 and status(notes) == (0, 0)
    assert notes.one("SELECT bitlm_watch_run()") == 0
    assert notes.one("SELECT bitlm_watch_run(0)") == 0


def test_what_is_queued(notes):
    """Only changes of the text, of the key, or a missing code; not our own."""
    notes.rows("SELECT bitlm_watch('notes', 'body', 'code'); SELECT bitlm_watch_run()")
    for sql, queued in (("UPDATE notes SET other = 1", 0), ("UPDATE notes SET body = body", 0),
                        ("UPDATE notes SET body = 'Note 3' WHERE id = 3", 1), ("UPDATE notes SET code = NULL WHERE id < 3", 2),
                        ("UPDATE notes SET id = id + 100 WHERE id = 5", 1), ("DELETE FROM notes WHERE id = 7", 0),
                        ("UPDATE notes SET body = NULL WHERE id = 8", 1), ("INSERT INTO notes VALUES (20)", 0),
                        ("INSERT INTO notes VALUES (21, NULL, repeat('1', 384)::bit(384))", 1),
                        ("INSERT INTO notes VALUES (22, 'given', repeat('1', 384)::bit(384))", 1),
                        ("INSERT INTO notes VALUES (23, '')", 1),
                        ("INSERT INTO notes VALUES (24, 'gone'); DELETE FROM notes WHERE id = 24", 1),
                        ("BEGIN; INSERT INTO notes VALUES (25, 'never'); ROLLBACK", 0),
                        ("INSERT INTO notes VALUES (3, 'upsert') ON CONFLICT (id) DO UPDATE SET body = EXCLUDED.body", 1)):
        notes.rows(sql)
        assert status(notes) == (queued, 0), sql
        assert notes.one("SELECT bitlm_watch_run()") == queued, sql
        assert status(notes) == (0, 0), sql
        assert stale(notes) == 0, sql
    # A BEFORE trigger changes the text though the statement names another column.
    notes.rows("CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.body := 'n' || NEW.other; RETURN NEW; END$$;"
               "CREATE TRIGGER shout BEFORE UPDATE OF other ON notes FOR EACH ROW EXECUTE FUNCTION shout()")
    notes.rows("UPDATE notes SET other = 77 WHERE id = 1")
    assert notes.one("SELECT bitlm_watch_run()") == 1 and stale(notes) == 0
    # One that takes the code away again is not followed for ever.
    notes.rows("CREATE FUNCTION wipe() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.code := NULL; RETURN NEW; END$$;"
               "CREATE TRIGGER wipe BEFORE UPDATE ON notes FOR EACH ROW WHEN (NEW.id = 2) EXECUTE FUNCTION wipe()")
    notes.rows("UPDATE notes SET body = 'wiped' WHERE id = 2")
    assert notes.one("SELECT bitlm_watch_run()") == 1 and status(notes) == (0, 0)
    notes.rows("DROP TABLE notes; DROP FUNCTION shout(); DROP FUNCTION wipe()")


KEYS = {
    "text": ("k text PRIMARY KEY", "'it''s \"{{,}}\\ é ' || g"), "two": ("k int, l text, PRIMARY KEY (l, k)", "g, 'b' || g"),
    "uuid": ("k uuid PRIMARY KEY", "md5(g::text)::uuid"), "time": ("k timestamptz PRIMARY KEY", "timestamptz '2024-02-03 04:05:06.789' + g * interval '25 hours'"),
    "date": ("k date PRIMARY KEY", "date '2024-01-02' + g"), "float": ("k float8 PRIMARY KEY", "g / 3.0::float8"),
    "interval": ("k interval PRIMARY KEY", "g * interval '1 month 2 days 3.5 seconds'"), "numeric": ("k numeric(9,3) PRIMARY KEY", "g / 7.0"),
    "char": ("k char(9) PRIMARY KEY", "'c' || g"), "bytea": ("k bytea PRIMARY KEY", "decode(md5(g::text), 'hex')"),
    "identity": ("k int NOT NULL", "g"), "odd": ("\"K \"\"é\" int PRIMARY KEY", "g"),
}


@pytest.mark.parametrize("kind", KEYS)
def test_key(db, kind):
    columns, value = KEYS[kind]
    db.rows("DROP TABLE IF EXISTS \"odd t\"; SET datestyle = 'SQL, DMY'; SET intervalstyle = 'sql_standard'; SET extra_float_digits = 0")
    db.rows(f"CREATE TABLE \"odd t\"({columns}, \"the Body\" text, code bit varying)")
    if kind == "identity":
        assert db.state("SELECT bitlm_watch('\"odd t\"', 'the Body', 'code')")[0] == "55000"
        db.rows('CREATE UNIQUE INDEX odd_key ON "odd t"(k); ALTER TABLE "odd t" REPLICA IDENTITY USING INDEX odd_key')
    fill = f"INSERT INTO \"odd t\" SELECT {value}, 'text ' || g FROM generate_series({{0}}, {{1}}) g"
    db.rows(fill.format(1, 5))
    assert db.one("SELECT bitlm_watch('\"odd t\"', 'the Body', 'code')") == 5
    db.rows(fill.format(6, 9))
    db.rows("RESET datestyle; RESET intervalstyle; SET extra_float_digits = 3")
    assert db.one("SELECT bitlm_watch_run()") == 9 and stale(db, '"odd t"', '"the Body"') == 0
    assert status(db, '"odd t"') == (0, 0)
    db.rows("DROP TABLE \"odd t\"; SELECT bitlm_watch_run()")


def test_refusals(notes):
    db = notes
    db.rows("DROP TABLE IF EXISTS bare; CREATE TABLE bare(body text, code bit(384), short bit(8), n int, "
            "made bit(384) GENERATED ALWAYS AS (bitlm_embed(body)) STORED); CREATE VIEW seen AS SELECT * FROM notes;"
            "CREATE TEMP TABLE passing(id int PRIMARY KEY, body text, code bit(384))")
    code, text = db.state("SELECT bitlm_watch('bare', 'body', 'code')")
    assert code == "55000" and "no primary key" in text
    db.rows("ALTER TABLE bare ADD id int PRIMARY KEY")
    for call, wanted, words in (
            ("'bare', 'body', 'short'", "42804", "384"), ("'bare', 'n', 'code'", "42804", "text"), ("'bare', 'body', 'n'", "42804", "bit"),
            ("'bare', 'body', 'made'", "42809", "generated"), ("'bare', 'nobody', 'code'", "42703", "nobody"),
            ("'seen', 'body', 'code'", "42809", "not a table"), ("'passing', 'body', 'code'", "42809", "temporary"),
            ("'pg_class', 'relname', 'code'", "42809", "system"), ("'bare', 'body', 'code', 'absent'", "42704", "absent"),
            ("'bare', 'body', 'code', '../x'", "42602", "name"), ("'bare', 'body', 'code', 'story'", "0A000", "embed"),
            ("'bare', 'body', 'code', batch => 0", "22023", "batch"), ("'bare', 'body', 'code', tries => 0", "22023", "tries"),
            ("'bare', 'body', 'code', truncate => 'middle'", "22023", "truncate"), ("NULL, 'body', 'code'", "22004", "relation")):
        state, text = db.state(f"SELECT bitlm_watch({call})")
        assert state == wanted and words in text, (call, state, text)
    assert db.one("SELECT count(*) FROM bitlm_watches") == 0
    assert db.one("SELECT bitlm_unwatch('bare')") is False
    db.rows("DROP TABLE bare; DROP VIEW seen; DROP TABLE passing")


def test_poison(notes):
    """A row that cannot be embedded, and one that its table refuses, do not hold up the others."""
    notes.rows("ALTER TABLE notes ADD CHECK (id <> 4 OR code IS NULL)")
    notes.rows("UPDATE notes SET body = repeat('long ', 5000) WHERE id = 6")
    notes.rows("SELECT bitlm_watch('notes', 'body', 'code', tries => 2)")
    assert notes.one("SELECT bitlm_watch_run()") == 8
    assert status(notes) == (2, 0)
    notes.rows("UPDATE bitlm_watch_queue SET due = now()")
    assert notes.one("SELECT bitlm_watch_run()") == 0 and status(notes) == (0, 2)
    parked = dict(notes.rows("SELECT key[1], error FROM bitlm_watch_parked WHERE relation = 'notes'::regclass"))
    assert "check constraint" in parked["4"] and "n_ctx" in parked["6"], parked
    assert notes.one("SELECT last_error FROM bitlm_watch_status") in parked.values()
    assert notes.one("SELECT bitlm_watch_retry('notes', ARRAY['4'])") == 1
    notes.rows("ALTER TABLE notes DROP CONSTRAINT notes_check")
    assert notes.one("SELECT bitlm_watch_run()") == 1 and status(notes) == (0, 1)
    # A change queues it once more; truncate lets it through.
    notes.rows("SELECT bitlm_watch('notes', 'body', 'code', truncate => 'end')")
    assert notes.one("SELECT bitlm_watch_retry('notes')") == 1
    notes.rows("SELECT bitlm_watch_run()")
    assert notes.one("SELECT count(code) FROM notes") == 10 and status(notes) == (0, 0)


def test_backoff(notes):
    notes.rows("ALTER TABLE notes ADD CHECK (code IS NULL); SELECT bitlm_watch('notes', 'body', 'code')")
    waits = []
    for _ in range(5):
        assert notes.one("SELECT bitlm_watch_run()") == 0
        waits += notes.rows("SELECT extract(epoch FROM max(due) - clock_timestamp())::float8 FROM bitlm_watch_queue WHERE NOT parked")[0]
        notes.rows("UPDATE bitlm_watch_queue SET due = now()")
    assert waits[4] is None and status(notes) == (0, 10)
    assert all(2 ** i - 0.7 < wait <= 2 ** i for i, wait in enumerate(waits[:4])), waits


def test_renamed_altered_dropped(notes):
    db = notes
    db.rows("DROP SCHEMA IF EXISTS elsewhere CASCADE; CREATE SCHEMA elsewhere; SELECT bitlm_watch('notes', 'body', 'code')")
    db.rows("ALTER TABLE notes DROP COLUMN other; ALTER TABLE notes RENAME body TO words; ALTER TABLE notes RENAME code TO bits;"
            "ALTER TABLE notes RENAME id TO number; ALTER TABLE notes RENAME TO letters; ALTER TABLE letters SET SCHEMA elsewhere")
    assert db.rows("SELECT relation::text, body, code, pending FROM bitlm_watch_status") == [("elsewhere.letters", "words", "bits", 10)]
    assert db.one("SELECT bitlm_watch_run()") == 10
    assert db.one("SELECT count(*) FROM elsewhere.letters WHERE bits = bitlm_embed(words)") == 10
    assert "bitlm_watch" in db.state("ALTER TABLE elsewhere.letters DROP COLUMN words")[1]
    db.rows("UPDATE elsewhere.letters SET words = 'new'")
    db.rows("TRUNCATE elsewhere.letters")
    assert status(db, "elsewhere.letters") == (0, 0)
    db.rows("INSERT INTO elsewhere.letters VALUES (1, 'one'); DROP TABLE elsewhere.letters")
    assert db.one("SELECT count(*) FROM bitlm_watch_status") == 0
    assert db.one("SELECT bitlm_watch_run()") == 0
    assert db.one("SELECT count(*) FROM bitlm_watches") == 0 == db.one("SELECT count(*) FROM bitlm_watch_queue")
    db.rows("DROP SCHEMA elsewhere")


def test_unwatch_and_again(notes):
    db = notes
    db.rows("SELECT bitlm_watch('notes', 'body', 'code'); SELECT bitlm_watch_run()")
    assert db.one("SELECT bitlm_watch('notes', 'body', 'code', batch => 3)") == 0
    db.rows("ALTER TABLE notes ADD second bit(384)")
    assert db.one("SELECT bitlm_watch('notes', 'body', 'second')") == 10  # another column: all rows
    assert db.one("SELECT bitlm_watch_run()") == 10
    assert db.one("SELECT count(*) FROM notes WHERE second = bitlm_embed(body)") == 10
    assert db.one("SELECT bitlm_watch('notes', 'body', 'second', refill => true)") == 10
    assert db.one("SELECT bitlm_unwatch('notes')") is True
    assert db.one("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'notes'::regclass") == 0
    assert db.one("SELECT count(*) FROM bitlm_watch_queue") == 0
    # Codes of another model are not mixed in silence.
    db.rows("SELECT bitlm_watch('notes', 'body', 'code'); UPDATE bitlm_watches SET model_id = repeat('0', 32); UPDATE notes SET body = 'x'")
    db.connection.notices = collections.deque()
    assert db.one("SELECT bitlm_watch_run()") == 0
    assert "call bitlm_watch again" in "".join(db.connection.notices)
    assert "call bitlm_watch again" in db.one("SELECT last_error FROM bitlm_watch_status") and status(db) == (10, 0)
    assert db.one("SELECT bitlm_watch('notes', 'body', 'code')") == 10
    assert db.one("SELECT bitlm_watch_run()") == 20 and stale(db) == 0
    # So is a trigger that is gone.
    db.rows("DROP TRIGGER bitlm_watch_insert ON notes; UPDATE notes SET body = 'y'")
    assert db.one("SELECT bitlm_watch_run(relation => 'notes')") == 0
    assert "triggers" in db.one("SELECT last_error FROM bitlm_watch_status")


def test_partitioned(db):
    db.rows("DROP TABLE IF EXISTS split; CREATE TABLE split(part int, id int, body text, code bit(384), PRIMARY KEY (id, part)) PARTITION BY LIST (part);"
            "CREATE TABLE split1 PARTITION OF split FOR VALUES IN (1); CREATE TABLE split2(code bit(384), junk int, body text, id int NOT NULL, part int NOT NULL);"
            "ALTER TABLE split2 DROP junk; ALTER TABLE split ATTACH PARTITION split2 FOR VALUES IN (2)")
    db.rows("INSERT INTO split SELECT 1 + g % 2, g, 'part ' || g FROM generate_series(1, 6) g")
    assert db.one("SELECT bitlm_watch('split', 'body', 'code')") == 6
    db.rows("CREATE TABLE split3 PARTITION OF split FOR VALUES IN (3)")
    db.rows("INSERT INTO split SELECT 1 + g % 3, g, 'part ' || g FROM generate_series(7, 12) g; INSERT INTO split2(part, id, body) VALUES (2, 13, 'straight in')")
    assert db.one("SELECT bitlm_watch_run()") == 13 and stale(db, "split") == 0
    db.rows("UPDATE split SET part = 3, body = 'moved' WHERE id = 1; TRUNCATE split1")
    db.rows("SELECT bitlm_watch_run()")
    assert stale(db, "split") == 0 and db.rows("SELECT DISTINCT relation::text FROM bitlm_watch_queue") == []
    db.rows("UPDATE split SET body = 'x'; TRUNCATE split")
    assert status(db, "split") == (0, 0)
    db.rows("DROP TABLE split; SELECT bitlm_watch_run()")


def test_locks(notes):
    """A run waits for nobody: rows and tables that are locked have their turn later."""
    notes.rows("SELECT bitlm_watch('notes', 'body', 'code'); SET lock_timeout = '2s'")
    other = Database()
    other.rows("BEGIN; SELECT * FROM notes WHERE id IN (2, 5) FOR UPDATE")
    assert notes.one("SELECT bitlm_watch_run()") == 8
    assert status(notes) == (2, 0)
    other.rows("COMMIT; BEGIN; LOCK TABLE notes")
    notes.rows("UPDATE bitlm_watch_queue SET due = now()")
    assert notes.one("SELECT bitlm_watch_run()") == 0
    other.rows("COMMIT")
    assert notes.one("SELECT bitlm_watch_run()") == 2 and stale(notes) == 0
    # What another run has claimed is left to it; writers wait for no claim; TRUNCATE neither.
    notes.rows("UPDATE notes SET body = 'two'")
    other.rows("BEGIN; SELECT * FROM bitlm_watch_queue FOR UPDATE")
    assert notes.one("SELECT bitlm_watch_run()") == 0
    notes.rows("UPDATE notes SET body = 'three'; TRUNCATE notes")
    other.rows("COMMIT")
    other.connection.close()
    assert notes.one("SELECT bitlm_watch_run()") == 10
    notes.rows("RESET lock_timeout")


def test_changed_while_embedding(notes):
    """The text that was embedded is no longer the row's: the code is not written."""
    notes.rows("SELECT bitlm_watch('notes', 'body', 'code'); CREATE FUNCTION nag() RETURNS trigger LANGUAGE plpgsql AS "
               "$$BEGIN UPDATE notes SET body = 'changed' WHERE id = 10 AND body <> 'changed'; RETURN NULL; END$$;"
               "CREATE TRIGGER nag AFTER UPDATE OF code ON notes FOR EACH ROW WHEN (NEW.id = 1) EXECUTE FUNCTION nag()")
    assert notes.one("SELECT bitlm_watch_run()") >= 10
    notes.rows("SELECT bitlm_watch_run()")
    assert stale(notes) == 0 and notes.one("SELECT body FROM notes WHERE id = 10") == "changed" and status(notes) == (0, 0)
    notes.rows("DROP TABLE notes; DROP FUNCTION nag()")


def test_deferred_trigger(notes):
    notes.rows("CREATE FUNCTION pass() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$; CREATE CONSTRAINT TRIGGER late "
               "AFTER UPDATE ON notes DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION pass(); SELECT bitlm_watch('notes', 'body', 'code')")
    assert notes.one("SELECT bitlm_watch_run()") == 10
    notes.rows("DROP TABLE notes; DROP FUNCTION pass()")


ROLES = "DROP OWNED BY mallory CASCADE; DROP ROLE mallory; "


@pytest.fixture
def mallory(db):
    if db.one("SELECT count(*) FROM pg_roles WHERE rolname = 'mallory'"):
        db.rows(ROLES)
    db.rows("CREATE ROLE mallory LOGIN; CREATE SCHEMA mallory AUTHORIZATION mallory")
    session = Database(user="mallory")
    session.rows("CREATE TABLE heard(who text, was text); CREATE TABLE mine(id int PRIMARY KEY, body text, code bit(384));"
                 "INSERT INTO mine SELECT g, 'mine ' || g FROM generate_series(1, 3) g")
    yield session
    session.connection.close()
    db.rows(ROLES + "SELECT bitlm_watch_run()")


def test_rights(db, mallory, notes):
    """Only its owner has a table watched; nobody reads another's queue."""
    for call in ("bitlm_watch('notes', 'body', 'code')", "bitlm_unwatch('notes')", "bitlm_watch_retry('notes')", "bitlm_watch_run(relation => 'notes')"):
        assert mallory.state(f"SELECT {call}")[0] == "42501", call
    for table in ("bitlm_watches", "bitlm_watch_queue"):
        assert mallory.state(f"SELECT * FROM {table}")[0] == "42501"
        assert mallory.state(f"DELETE FROM {table}")[0] == "42501"
    notes.rows("SELECT bitlm_watch('notes', 'body', 'code')")
    assert mallory.one("SELECT count(*) FROM bitlm_watch_status") == 0
    assert mallory.one("SELECT bitlm_watch('mine', 'body', 'code')") == 3
    assert mallory.rows("SELECT relation::text, pending FROM bitlm_watch_status") == [("mine", 3)]
    assert mallory.one("SELECT bitlm_watch_run()") == 3  # hers only
    assert status(notes) == (10, 0) and mallory.one("SELECT count(code) FROM mine") == 3
    # A role that may only write queues rows too.
    db.rows("GRANT INSERT ON notes TO mallory")
    mallory.rows("INSERT INTO public.notes VALUES (50, 'by a guest')")
    assert status(notes) == (11, 0)


HOSTILE = """
CREATE FUNCTION note(t text) RETURNS text LANGUAGE plpgsql AS $$BEGIN
  INSERT INTO mallory.heard VALUES (current_user, 'code');
  BEGIN ALTER ROLE mallory SUPERUSER; INSERT INTO mallory.heard VALUES ('bitlm', 'altered'); EXCEPTION WHEN OTHERS THEN NULL; END;
  BEGIN PERFORM set_config('role', 'bitlm', false); INSERT INTO mallory.heard VALUES ('bitlm', 'set role'); EXCEPTION WHEN OTHERS THEN NULL; END;
  BEGIN RESET ROLE; EXCEPTION WHEN OTHERS THEN NULL; END;
  BEGIN SET SESSION AUTHORIZATION DEFAULT; EXCEPTION WHEN OTHERS THEN NULL; END;
  INSERT INTO mallory.heard VALUES (current_user, 'after');
  PERFORM set_config('search_path', 'mallory, pg_catalog', false);
  RETURN t; END$$;
CREATE FUNCTION hook() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM mallory.note('x'); RETURN NEW; END$$;
CREATE TRIGGER hook BEFORE UPDATE ON mine FOR EACH ROW EXECUTE FUNCTION hook();
CREATE FUNCTION of_index(b bit) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$BEGIN RETURN mallory.note(b::text); END$$;
CREATE FUNCTION evil(a {0}, b {0}) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN PERFORM mallory.note('operator'); RETURN true; END$$;
"""


def plant(mallory):
    """Triggers, an index expression, a policy, and operators in front of the search_path."""
    mallory.rows(HOSTILE.format("text"))
    mallory.rows("CREATE INDEX mine_code ON mine(mallory.of_index(code))")
    for left in ("oid", "regclass", "timestamptz", "tid", "text"):
        mallory.rows(f"CREATE OR REPLACE FUNCTION evil(a {left}, b {left}) RETURNS boolean LANGUAGE plpgsql AS "
                     "$$BEGIN PERFORM mallory.note('operator'); RETURN true; END$$")
        for name in ("=", "<="):
            mallory.rows(f"CREATE OPERATOR mallory.{name} (LEFTARG = {left}, RIGHTARG = {left}, FUNCTION = mallory.evil)")
    mallory.rows("ALTER TABLE mine ENABLE ROW LEVEL SECURITY; CREATE POLICY peek ON mine USING (mallory.note('policy') IS NOT NULL)")
    mallory.rows("DELETE FROM heard")


def test_hostile_owner(db, mallory):
    """What the owner hangs on the table runs as the owner, in a run by a superuser too."""
    plant(mallory)
    db.rows("SET search_path = mallory, public, pg_catalog")
    try:
        mallory.rows("SELECT bitlm_watch('mine', 'body', 'code')")
        assert db.one("SELECT bitlm_watch_run()") == 3
        mallory.rows("SET search_path = mallory, public, pg_catalog; UPDATE mine SET body = 'again'")
        assert db.one("SELECT bitlm_watch_run()") == 3
    finally:
        db.rows("RESET search_path")
    assert mallory.one("SELECT count(*) FROM heard WHERE was = 'after'") > 6
    assert db.rows("SELECT DISTINCT who FROM mallory.heard") == [("mallory",)]
    assert db.one("SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'") is False
    assert db.one("SHOW search_path") == '"$user", public' and db.one("SELECT current_user") == "bitlm"


def test_forged_trigger(db, mallory):
    """The columns come from a trigger, which the owner can replace: by one that names a column of another type."""
    mallory.rows("ALTER TABLE mine ADD n int DEFAULT 12345678; SELECT bitlm_watch('mine', 'body', 'code')")
    for condition in ("NEW.body IS NOT NULL OR NEW.n IS NOT NULL", "NEW.n IS NOT NULL OR NEW.body IS NOT NULL", "NEW.body IS NOT NULL",
                      "NEW.body IS NOT NULL OR NEW.code IS NULL", "NEW.* IS NOT NULL OR NEW.code IS NOT NULL", "true OR false"):
        mallory.rows(f"DROP TRIGGER bitlm_watch_insert ON mine; CREATE TRIGGER bitlm_watch_insert AFTER INSERT ON mine FOR EACH ROW "
                     f"WHEN ({condition}) EXECUTE FUNCTION bitlm_watch_changed()")
        assert db.one("SELECT bitlm_watch_run(relation => 'mallory.mine')") == 0, condition
        assert mallory.one("SELECT last_error FROM bitlm_watch_status"), condition
    mallory.rows("DROP TRIGGER bitlm_watch_insert ON mine; CREATE TRIGGER bitlm_watch_insert AFTER INSERT ON mine FOR EACH ROW "
                 "WHEN (NEW.n IS NOT NULL OR NEW.code IS NOT NULL) EXECUTE FUNCTION bitlm_watch_changed()")
    assert db.one("SELECT bitlm_watch_run(relation => 'mallory.mine')") == 3
    assert db.one("SELECT count(*) FROM mallory.mine WHERE code = bitlm_embed(n::text)") == 3


def test_forced_row_security(db, mallory):
    mallory.rows("ALTER TABLE mine ENABLE ROW LEVEL SECURITY; ALTER TABLE mine FORCE ROW LEVEL SECURITY; SELECT bitlm_watch('mine', 'body', 'code')")
    assert mallory.one("SELECT count(*) FROM mine") == 0
    assert mallory.one("SELECT bitlm_watch_run()") == 3
    assert db.one("SELECT count(*) FROM mallory.mine WHERE code = bitlm_embed(body)") == 3
    db.rows("CREATE ROLE trent; ALTER TABLE mallory.mine OWNER TO trent; GRANT USAGE ON SCHEMA mallory TO trent; UPDATE mallory.mine SET body = 'theirs'")
    assert mallory.one("SELECT bitlm_watch_run()") == 0
    assert db.one("SELECT bitlm_watch_run()") == 3 and db.one("SELECT count(*) FROM mallory.mine WHERE code = bitlm_embed(body)") == 3
    db.rows("DROP TABLE mallory.mine; DROP OWNED BY trent; DROP ROLE trent")


def test_extension_dropped(db):
    db.rows("DROP DATABASE IF EXISTS passing")
    db.rows("CREATE DATABASE passing")
    session = Database(dbname="passing")
    for _ in range(2):
        session.rows("CREATE SCHEMA \"An Other\"; CREATE EXTENSION bitlm SCHEMA \"An Other\"; SET search_path = public, \"An Other\";"
                     "CREATE TABLE notes(id int PRIMARY KEY, body text, code bit(384)); SELECT bitlm_watch('notes', 'body', 'code');"
                     "INSERT INTO notes VALUES (1, 'one')")
        assert session.one("SELECT bitlm_watch_run()") == 1
        assert session.state("DROP EXTENSION bitlm")[0] == "2BP01"
        session.rows("DROP EXTENSION bitlm CASCADE; UPDATE notes SET body = 'two'; DROP TABLE notes; DROP SCHEMA \"An Other\"")
    session.connection.close()
    db.rows("DROP DATABASE passing")


def test_dump(notes):
    """Watch and queue come through a dump, also after columns were dropped and renamed."""
    notes.rows("ALTER TABLE notes DROP COLUMN other; SELECT bitlm_watch('notes', 'body', 'code', tries => 7); SELECT bitlm_watch_run(4);"
               "ALTER TABLE notes RENAME body TO words; UPDATE notes SET words = 'new' WHERE id = 1")
    notes.rows("DROP DATABASE IF EXISTS again")
    notes.rows("CREATE DATABASE again")
    # Before 14 pg_dump takes no extension beside tables: then the whole database.
    only = ["-t", "notes", "-t", "bitlm_watches", "-t", "bitlm_watch_queue", "-e", "bitlm"] if notes.connection.server_version >= 140000 else []
    dump = subprocess.run(["pg_dump", *only, "postgres"], check=True, capture_output=True)
    subprocess.run(["psql", "-q", "-v", "ON_ERROR_STOP=1", "again"], input=dump.stdout, check=True, stdout=subprocess.DEVNULL)
    again = Database(dbname="again")
    assert again.rows("SELECT body, code, pending FROM bitlm_watch_status") == [("words", "code", 7)]
    again.rows("INSERT INTO notes VALUES (99, 'after')")
    assert again.one("SELECT bitlm_watch_run()") == 8 and stale(again, "notes", "words") == 0
    assert again.one("SELECT tries FROM bitlm_watches") == 7
    again.connection.close()
    notes.rows("DROP DATABASE again")


def test_cancelled(notes):
    notes.rows("INSERT INTO notes SELECT g, repeat('many words ', 20) || g FROM generate_series(100, 3000) g; SELECT bitlm_watch('notes', 'body', 'code')")
    notes.rows("SET statement_timeout = '300ms'")
    assert notes.state("SELECT bitlm_watch_run(100000)")[0] == "57014"
    notes.rows("RESET statement_timeout")
    assert status(notes) == (2911, 0) and notes.one("SELECT count(code) FROM notes") == 0
    assert notes.one("SELECT bitlm_watch_run(100)") == 100


# ---- the ways without bitlm_watch, as docs/POSTGRES.md has them ----


def test_generated_column(db):
    db.rows("DROP TABLE IF EXISTS made; CREATE TABLE made(id int PRIMARY KEY, body text, code bit(384) GENERATED ALWAYS AS (bitlm_embed(body)) STORED)")
    db.rows("INSERT INTO made VALUES (1, 'one'), (2, NULL); UPDATE made SET body = 'uno' WHERE id = 1")
    assert stale(db, "made") == 0
    dump = subprocess.run(["pg_dump", "-t", "made", "-a", "postgres"], check=True, capture_output=True, text=True).stdout
    assert "COPY public.made (id, body) FROM" in dump  # the codes are not in it
    db.rows("DROP TABLE made")


def test_added_column_rewrites(db):
    db.rows("DROP TABLE IF EXISTS grown; CREATE TABLE grown(body text); INSERT INTO grown SELECT 'g ' || g FROM generate_series(1, 20) g")
    before = db.one("SELECT pg_relation_filenode('grown')")
    db.rows("BEGIN; ALTER TABLE grown ADD code bit(384) GENERATED ALWAYS AS (bitlm_embed(body)) STORED")
    assert db.one("SELECT pg_relation_filenode('grown')") != before
    assert db.rows("SELECT DISTINCT mode FROM pg_locks WHERE relation = 'grown'::regclass AND mode = 'AccessExclusiveLock' AND granted")
    db.rows("COMMIT")
    assert stale(db, "grown") == 0
    db.rows("DROP TABLE grown")


def test_analyze_embeds(db):
    db.rows("DROP TABLE IF EXISTS told; CREATE TABLE told(body text); INSERT INTO told SELECT 'g ' || g FROM generate_series(1, 20) g;"
            "CREATE SEQUENCE calls; CREATE FUNCTION counted(t text) RETURNS bit IMMUTABLE LANGUAGE plpgsql AS $$BEGIN PERFORM nextval('public.calls'); RETURN public.bitlm_embed(t); END$$;"
            "CREATE INDEX ON told USING bitlm (counted(body)); SELECT setval('calls', 1); ANALYZE told")
    assert db.one("SELECT last_value FROM calls") == 21
    db.rows("DROP TABLE told; DROP FUNCTION counted; DROP SEQUENCE calls")


def test_trigger_recipe(db):
    db.rows("""DROP TABLE IF EXISTS memos; CREATE TABLE memos(id int PRIMARY KEY, title text, body text, code bit(384));
        CREATE FUNCTION memos_code() RETURNS trigger LANGUAGE plpgsql AS
            $$BEGIN NEW.code := bitlm_embed(NEW.title || ' ' || NEW.body); RETURN NEW; END$$;
        CREATE TRIGGER memos_code BEFORE INSERT OR UPDATE OF title, body ON memos
            FOR EACH ROW EXECUTE FUNCTION memos_code()""")
    db.rows("INSERT INTO memos VALUES (1, 'Tax', 'letter'); UPDATE memos SET title = 'New' WHERE id = 1")
    assert stale(db, "memos", "title || ' ' || body") == 0
    db.rows("DROP TABLE memos; DROP FUNCTION memos_code")
