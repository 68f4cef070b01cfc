"""The extension in hosts that bring an SQLite of their own, newer than the system's: PyPI's apsw and pysqlite3, and node:sqlite.

NODE  a Node with node:sqlite (22.13 or later) and loadExtension; else node on PATH.  Each test is skipped where its host is missing.

xIntegrity exists from SQLite 3.44 on: PRAGMA integrity_check then asks the virtual tables too, whatever header the extension was built with.
"""

import importlib
import json
import os
import shutil
import subprocess
import sys

import pytest

from conftest import EXTENSION

NODE = os.environ.get("NODE") or shutil.which("node")
TEXT = "The tax return is due at the end of May."


def fill(execute):
    """Rows of both tables, by a function that runs a statement and gives its rows."""
    execute("CREATE VIRTUAL TABLE v USING bitlm_index(bits=384, n INTEGER)")
    execute("CREATE VIRTUAL TABLE s USING bitlm_search(body)")
    execute("BEGIN")
    for n, body in enumerate(("The dentist moved my appointment to Friday.", "Fix the leaking tap in the kitchen.", TEXT)):
        execute("INSERT INTO v(code, n) VALUES (bitlm_embed('%s'), %d)" % (body, n))
        execute("INSERT INTO s(body) VALUES ('%s')" % body)
    execute("COMMIT")


def ask(execute):
    assert [tuple(r) for r in execute("SELECT n FROM v WHERE code MATCH bitlm_embed('a letter from the tax office') AND k = 1 AND n IN (0, 2)")] == [(2,)]
    assert [tuple(r) for r in execute("SELECT body FROM s('a letter from the tax office') LIMIT 1")] == [(TEXT,)]
    assert [tuple(r) for r in execute("SELECT bitlm_index_check('v')")] == [("ok",)]
    execute("INSERT INTO s(s) VALUES ('integrity-check')")


def damage_is_seen(execute, version):
    """Of each kind of table; where PRAGMA integrity_check asks them, it names the one that is damaged."""
    ask_all = lambda: [r[0] for r in execute("PRAGMA integrity_check")]
    assert ask_all() == ["ok"]
    execute("UPDATE v_config SET v = v + 1 WHERE k = 'stamp'")
    execute("UPDATE v_blocks SET data = zeroblob(length(data))")
    if version >= 3044000:
        found = ask_all()
        assert len(found) == 1 and "of v is damaged" in found[0], found
    assert [tuple(r) for r in execute("SELECT bitlm_index_check('v')")] != [("ok",)]
    execute("DROP TABLE v")
    assert ask_all() == ["ok"]
    execute("UPDATE s_config SET v = v + 1 WHERE k = 'stamp'")
    execute("UPDATE s_blocks SET data = zeroblob(length(data))")
    if version >= 3044000:
        found = ask_all()
        assert len(found) == 1 and "of s is damaged" in found[0], found


def limit_stands_for_k(execute):
    """In a search by vector, where SQLite hands LIMIT over and neither drops nor reorders rows behind it."""
    execute("CREATE VIRTUAL TABLE w USING bitlm_index(x FLOAT[384], n INTEGER)")
    for n, body in enumerate(("Snow fell.", "A dog barked.", "Rain again.", "My tax return.")):
        execute("INSERT INTO w(x, n) VALUES (bitlm_embed_f32('%s'), %d)" % (body, n))
    rows = lambda tail: [r[0] for r in execute("SELECT n FROM w WHERE x MATCH bitlm_embed_f32('weather') " + tail)]
    best = rows("AND k = 4")
    for tail, want in (("LIMIT 2", best[:2]), ("ORDER BY distance LIMIT 2 OFFSET 1", best[1:3]), ("AND n IN (0, 3) LIMIT 3", [n for n in best if n in (0, 3)]),
                       ("ORDER BY n LIMIT 2", None), ("AND n LIKE '1' LIMIT 1", None), ("LIMIT 9223372036854775807 OFFSET 1", None)):
        try:
            got = rows(tail)
        except Exception as e:
            assert "needs k" in str(e) or (want is None and "more than 1000000" in str(e)), (tail, e)
        else:
            assert got == want, tail


def test_apsw(tmp_path):
    apsw = pytest.importorskip("apsw", reason="apsw (PyPI) is not installed")
    db = apsw.Connection(str(tmp_path / "a.db"))
    db.enable_load_extension(True)
    db.load_extension(EXTENSION)
    execute = lambda sql: list(db.execute(sql))
    fill(execute)
    ask(execute)
    limit_stands_for_k(execute)
    damage_is_seen(execute, apsw.SQLITE_VERSION_NUMBER)
    db.close()


def test_pysqlite3(tmp_path):
    try:
        dbapi = importlib.import_module("pysqlite3.dbapi2")
    except ImportError:
        pytest.skip("pysqlite3 (PyPI pysqlite3-binary) is not installed")
    db = dbapi.connect(str(tmp_path / "p.db"), isolation_level=None)
    db.enable_load_extension(True)
    db.load_extension(EXTENSION)
    execute = lambda sql: db.execute(sql).fetchall()
    fill(execute)
    ask(execute)
    limit_stands_for_k(execute)
    damage_is_seen(execute, dbapi.sqlite_version_info[0] * 1000000 + dbapi.sqlite_version_info[1] * 1000)
    db.close()


SCRIPT = """
const { DatabaseSync } = require('node:sqlite');
const db = new DatabaseSync(process.argv[2], { allowExtension: true });
db.loadExtension(process.argv[3]);
db.enableLoadExtension(false);
db.exec(`CREATE TABLE notes(id INTEGER PRIMARY KEY, body TEXT);
  CREATE VIRTUAL TABLE v USING bitlm_index(bits=384);
  CREATE VIRTUAL TABLE s USING bitlm_search(body);`);
const add = db.prepare('INSERT INTO s(body) VALUES (?)'), code = db.prepare('INSERT INTO v(rowid, code) VALUES (?, bitlm_embed(?))');
db.exec('BEGIN');
['The dentist moved my appointment to Friday.', 'Fix the leaking tap in the kitchen.', 'The tax return is due at the end of May.']
  .forEach((body, i) => { add.run(body); code.run(i + 1, body); });
db.exec('COMMIT');
const q = 'a letter from the tax office';
console.log(JSON.stringify({
  search: db.prepare('SELECT rowid FROM s(?, 1)').get(q).rowid,
  index: db.prepare('SELECT rowid FROM v WHERE code MATCH bitlm_embed(?) AND k = 1').get(q).rowid,
  bytes: db.prepare('SELECT bitlm_embed(?) AS code').get(q).code.length,
  text: db.prepare('SELECT bitlm_generate(?, ?) AS t').get('Once upon a time', '{"max_tokens":4}').t,
  check: db.prepare("SELECT bitlm_index_check('v') AS c").get().c }));
db.close();
"""


def test_node_sqlite(tmp_path):
    if not NODE:
        pytest.skip("node is not installed")
    has = subprocess.run([NODE, "-e", "process.exit(typeof require('node:sqlite').DatabaseSync.prototype.loadExtension == 'function' ? 0 : 1)"],
                         capture_output=True)
    if has.returncode != 0:
        pytest.skip("this node has no node:sqlite with loadExtension")
    script = tmp_path / "try.js"
    script.write_text(SCRIPT)
    done = subprocess.run([NODE, str(script), str(tmp_path / "n.db"), EXTENSION + ".so"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    assert got["search"] == got["index"] == 3 and got["bytes"] == 48 and got["check"] == "ok" and got["text"], got
