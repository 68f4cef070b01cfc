"""The extension in the sqlite3 shell, as README shows it."""

import subprocess

from conftest import EXTENSION, one


def shell(script, *arguments):
    return subprocess.run(["sqlite3", *arguments, ":memory:"], input=script, text=True, capture_output=True)


def test_load_needs_no_entry_point():
    done = shell(".load %s\nSELECT bitlm_version() <> '';\n" % EXTENSION)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


def test_the_main_job(db):
    done = shell(""".load %s
CREATE TABLE notes(body TEXT, code BLOB);
INSERT INTO notes(body) VALUES('The cat sleeps on the sofa.'), ('Interest rates rose again.');
UPDATE notes SET code = bitlm_embed(body);
SELECT body FROM notes ORDER BY bitlm_hamming(code, bitlm_embed('A cat is sleeping on a couch.')) LIMIT 1;
SELECT bitlm_generate('Once upon a time', '{"temperature":0,"max_tokens":8}');
""" % EXTENSION)
    text = one(db, """SELECT bitlm_generate('Once upon a time', '{"temperature":0,"max_tokens":8}')""")
    assert done.stderr == ""
    assert done.stdout == "The cat sleeps on the sofa.\n%s\n" % text


def test_errors_reach_the_shell():
    done = shell(".load %s\nSELECT bitlm_generate('x', 'story');\nSELECT 1;\n" % EXTENSION)
    assert '{"model":"story"}' in done.stderr and done.stdout == "1\n"


def test_dump_of_a_table_with_codes():
    done = shell(""".load %s
CREATE TABLE notes(body TEXT, code BLOB AS (bitlm_embed(body)) STORED);
CREATE INDEX by_code ON notes(bitlm_embed(body));
INSERT INTO notes(body) VALUES('the cat');
.dump
""" % EXTENSION)
    assert done.stderr == "" and "bitlm_embed(body)" in done.stdout
    again = shell(".load %s\n%s\nSELECT count(*), sum(code = bitlm_embed('the cat')) FROM notes;\n"
                  % (EXTENSION, done.stdout))
    assert again.stderr == "" and again.stdout.strip().endswith("1|1")


def test_only_the_entry_points_are_exported():
    symbols = subprocess.run(["nm", "-D", "--defined-only", EXTENSION + ".so"], text=True, capture_output=True)
    names = sorted(line.split()[-1] for line in symbols.stdout.splitlines())
    assert names == ["sqlite3_bitlm_init", "sqlite3_bitlm_noload_init"]


def test_the_host_brings_sqlite():
    """A second copy of SQLite in the process would not see the host's connections."""
    needed = subprocess.run(["objdump", "-p", EXTENSION + ".so"], text=True, capture_output=True).stdout
    libraries = {line.split()[1] for line in needed.splitlines() if "NEEDED" in line}
    print(sorted(libraries))
    assert "libc.so.6" in libraries and not any("sqlite" in l or "bitlm" in l for l in libraries)
