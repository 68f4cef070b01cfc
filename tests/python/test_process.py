"""The module in a process: signals, fork, sub-interpreters, the command, SQLite."""

import glob
import os
import pathlib
import pty
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import sysconfig
import time

import pytest
from conftest import COMMAND, PACKAGE, SLACK, python, sigint_as_usual

import bitlm


def test_ctrl_c_raises_keyboard_interrupt(big):
    out = python("""
import os, signal, sys, threading, time, bitlm
m = bitlm.Model(sys.argv[1], threads=1)
for call in (lambda: m.generate("word " * 900), lambda: list(m.stream("word " * 900))):
    began = time.monotonic()
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        call()
    except KeyboardInterrupt:
        print(time.monotonic() - began)
print(len(m.generate("a", max_tokens=2)) >= 0)  # the model still works
""", big)
    first, second, works = out.split()
    assert float(first) < 0.7 * SLACK and float(second) < 0.7 * SLACK and works == "True"


def test_a_signal_handler_that_raises_nothing_stops_nothing(big):
    assert python("""
import signal, sys, bitlm
hits = []
signal.signal(signal.SIGALRM, lambda *a: hits.append(1))
signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
m = bitlm.Model(sys.argv[1], threads=1)
m.generate("word " * 300, max_tokens=2)
signal.setitimer(signal.ITIMER_REAL, 0)
print(len(hits) > 2)
""", big) == "True\n"


def test_fork():
    assert python("""
import os, bitlm
m = bitlm.Model(threads=2)
stream = m.stream("Once upon a time", max_tokens=20, temperature=0, ignore_eos=True)
first = next(stream)
code, text = m.embed("x"), m.generate("The fox", max_tokens=5)
pid = os.fork()
if pid == 0:
    ok = m.embed("x") == code and m.generate("The fox", max_tokens=5) == text
    rest = "".join(stream)
    os._exit(0 if ok and len(rest) > 10 else 1)
rest = "".join(stream)
print(os.waitpid(pid, 0)[1] == 0 and m.embed("x") == code and len(rest) > 10)
""") == "True\n"


def test_fork_while_another_thread_works(big):
    """The child has none of the threads, but all of the models."""
    assert python("""
import os, sys, threading, bitlm
slow, m = bitlm.Model(sys.argv[1], threads=2), bitlm.Model(threads=2)
code = m.embed("x")
event = threading.Event()
def work():
    try:
        slow.generate("word " * 900, cancel=event)
    except bitlm.Canceled:
        pass
thread = threading.Thread(target=work)
thread.start()
good = 0
for _ in range(5):
    pid = os.fork()
    if pid == 0:
        with bitlm.Model(threads=2) as own:
            os._exit(0 if m.embed("x") == code == own.embed("x") and len(slow.generate("a", max_tokens=1)) >= 0 else 1)
    good += os.waitpid(pid, 0)[1] == 0
event.set()
thread.join()
print(good)
""", big) == "5\n"


def test_multiprocessing_fork_pool():
    assert python("""
import multiprocessing, bitlm
m = bitlm.Model(threads=2)
code = m.embed("text 3")
def work(i):
    return m.embed(f"text {i}")
with multiprocessing.get_context("fork").Pool(2) as pool:
    print(pool.map(work, range(6))[3] == code)
""") == "True\n"


SUB = """
import sys
try:
    import _interpreters as sub, json
    run = lambda i, s: sub.exec(i, s)
except ImportError:
    try:
        import _xxsubinterpreters as sub
    except ImportError:
        sub = None
    run = lambda i, s: sub.run_string(i, s)
import bitlm
code = bitlm.Model(threads=1).embed("x")[0].hex()
ids = [sub.create() for _ in range(3)]
import threading
errors = []
def work(i, times):
    for _ in range(times):
        errors.append(run(i, "import sys; sys.path[:] = %r; import bitlm; m = bitlm.Model(threads=1); "
                             "assert m.embed('x')[0].hex() == %r; assert m.generate('a', max_tokens=3); "
                             "index = bitlm.Index(); index.add(m.embed(['a', 'b'])); assert len(index.search(m.embed('a'))) == 2"
                          % (sys.path, code)))
for i in ids:
    work(i, 1)
threads = [threading.Thread(target=work, args=(i, 3)) for i in ids]  # from 3.12 on each with a GIL of its own
for t in threads: t.start()
for t in threads: t.join()
assert errors == [None] * 12, errors
for i in ids:
    sub.destroy(i)
print(bitlm.Model(threads=1).embed("x")[0].hex() == code)
"""


def test_sub_interpreters():
    if sysconfig.get_config_var("Py_GIL_DISABLED") and sys.version_info < (3, 14):
        pytest.skip("free-threaded CPython 3.13 hangs by itself: 3.13.5 in `import json` inside a sub-interpreter (the lock over types)")
    assert python(SUB) == "True\n"


def test_without_a_gil_it_stays_off():
    if not sysconfig.get_config_var("Py_GIL_DISABLED"):
        pytest.skip("this Python has a GIL (python3.13t and later have none)")
    assert python("import sys, bitlm; print(sys._is_gil_enabled())") == "False\n"


def test_import_and_drop_many_times():
    assert python("""
import sys, importlib, gc
for _ in range(20):
    import bitlm
    bitlm.Model(threads=1).embed("x")
    for name in [n for n in sys.modules if n.startswith("bitlm")]:
        del sys.modules[name]
    del bitlm
    gc.collect()
print("ok")
""") == "ok\n"


# ---- the command ------------------------------------------------------------------------------


def command(*arguments, **keywords):
    env = dict(os.environ, PYTHONPATH=PACKAGE) if PACKAGE else None
    return subprocess.run([sys.executable, "-m", "bitlm", *arguments], capture_output=True, env=env,
                          timeout=60 * SLACK, **keywords)


def test_python_m_bitlm_is_the_command():
    for arguments in (["version"], ["generate", "--seed", "4", "The fox"], ["embed", "a", "b"], ["help"], ["nonsense"],
                      []):
        theirs = subprocess.run([COMMAND, *arguments], capture_output=True)
        ours = command(*arguments)
        assert (ours.returncode, ours.stdout, ours.stderr) == (theirs.returncode, theirs.stdout, theirs.stderr)
    assert command("embed", "-", input=b"a\nb\n").stdout == command("embed", "a", "b").stdout


def on_a_terminal(*arguments):
    """What a program writes on a terminal that is its stderr; its exit status."""
    ours, theirs = pty.openpty()
    env = dict(os.environ, PYTHONPATH=PACKAGE) if PACKAGE else None
    p = subprocess.Popen([sys.executable, *arguments], env=env, stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    seen = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux: the other end is closed
            break
        if not part:
            break
        seen += part
    os.close(ours)
    return seen.decode(), p.wait(60 * SLACK)


def test_progress_on_a_terminal(tmp_path):
    seen, status = on_a_terminal("-m", "bitlm", "synth", "--shape", "tiny", str(tmp_path / "a.gguf"))
    assert status == 0 and "100%" in seen.replace(" ", "")
    seen, status = on_a_terminal("-m", "bitlm", "convert", "--type", "q8_0", str(tmp_path / "a.gguf"), str(tmp_path / "b.gguf"))
    assert status == 0 and "%" in seen
    seen, status = on_a_terminal("-c", "import bitlm; bitlm.Model(threads=1).encode(['a'] * 40, batch_size=4, show_progress_bar=True)")
    assert status == 0 and "40/40 texts" in seen and "####" in seen and seen.endswith("\r")


def test_the_command_runs_once_at_a_time(tmp_path):
    """In one process, since it owns SIGINT and the standard streams."""
    assert python("""
import os, threading, time
from bitlm._bitlm import main
read, write = os.pipe()
os.dup2(read, 0)
first = []
thread = threading.Thread(target=lambda: first.append(main(["bitlm", "embed", "-"])))
thread.start()
time.sleep(0.5)
second = main(["bitlm", "version"])
os.write(write, b"x\\n")
os.close(write)
thread.join()
print(first, second, main(["bitlm", "version"]))
""").splitlines()[-1] == "[0] 1 0"


def test_ctrl_c_ends_the_command(big):
    env = dict(os.environ, PYTHONPATH=PACKAGE) if PACKAGE else None
    p = subprocess.Popen([sys.executable, "-m", "bitlm", "generate", "--model", big, "word " * 900], env=env,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=sigint_as_usual)
    time.sleep(1.0)
    p.send_signal(signal.SIGINT)
    p.communicate(timeout=10 * SLACK)
    assert p.returncode == 130


# ---- SQLite --------------------------------------------------------------------------------------


def test_load_sqlite(model):
    db = sqlite3.connect(":memory:")
    if not hasattr(db, "enable_load_extension"):
        pytest.skip("this Python's sqlite3 cannot load extensions")
    bitlm.load_sqlite(db)
    assert db.execute("SELECT bitlm_embed('x'), bitlm_model_id('embed')").fetchone() == (
        model.embed("x").tobytes(), model.model_id)
    with pytest.raises(sqlite3.OperationalError, match="not authorized"):  # loading is off again
        db.execute("SELECT load_extension('x')")


def test_a_python_that_cannot_load_extensions_is_told_what_to_do():
    class Connection:
        pass

    with pytest.raises(NotImplementedError, match="bitlm.register"):
        bitlm.load_sqlite(Connection())


def test_register_gives_the_same_results(model):
    db = sqlite3.connect(":memory:")
    bitlm.register(db)
    row = db.execute("""SELECT bitlm_embed('x'), bitlm_embed_f32('x'), bitlm_generate('The fox', '{"max_tokens":5}'),
        bitlm_hamming(bitlm_embed('x'), bitlm_embed('y')), bitlm_tokenize('The fox'), bitlm_token_count('The fox'),
        bitlm_detokenize(bitlm_tokenize('The fox')), bitlm_embed(NULL), bitlm_hamming(NULL, x'00')""").fetchone()
    codes = model.embed(["x", "y"])
    assert row[0] == codes[0] and row[1] == model.embed_f32("x").tobytes()
    assert row[2] == model.generate("The fox", max_tokens=5) and row[3] == bitlm.hamming(codes[0], codes[1])
    assert row[5] == model.token_count("The fox") and row[6:] == ("The fox", None, None)
    with pytest.raises(TypeError):
        bitlm.register(3)
    other = sqlite3.connect(":memory:")
    if hasattr(other, "enable_load_extension"):
        bitlm.load_sqlite(other)
        assert other.execute("""SELECT bitlm_embed('x'), bitlm_embed_f32('x'),
            bitlm_generate('The fox', '{"max_tokens":5}'), bitlm_hamming(bitlm_embed('x'), bitlm_embed('y')),
            bitlm_tokenize('The fox'), bitlm_token_count('The fox'), bitlm_detokenize(bitlm_tokenize('The fox')),
            bitlm_embed(NULL), bitlm_hamming(NULL, x'00')""").fetchone() == row


def test_apsw(model):
    apsw = pytest.importorskip("apsw", reason="apsw is not installed")
    for prepare in (bitlm.load_sqlite, bitlm.register):
        db = apsw.Connection(":memory:")
        prepare(db)
        assert next(db.execute("SELECT bitlm_embed('x')"))[0] == model.embed("x").tobytes()


def test_exports_are_the_entry_points_only():
    import bitlm._bitlm

    for path, names in ((bitlm._bitlm.__file__, {"PyInit__bitlm"}),
                        (bitlm.sqlite_path() + ".so", {"sqlite3_bitlm_init", "sqlite3_bitlm_noload_init"})):
        out = subprocess.run(["nm", "-D", "--defined-only", path], capture_output=True, text=True, check=True).stdout
        assert {line.split()[-1] for line in out.splitlines()} == names


def test_nothing_but_libc_is_needed():
    """Wheels go to machines that have no jansson."""
    import bitlm._bitlm

    if not shutil.which("objcopy") or not glob.glob("/usr/lib/*/libjansson.a"):
        pytest.skip("no static jansson here")
    for path in (bitlm._bitlm.__file__, bitlm.sqlite_path() + ".so"):
        out = subprocess.run(["readelf", "-d", path], capture_output=True, text=True, check=True).stdout
        needed = {line.split("[")[1].rstrip("]") for line in out.splitlines() if "(NEEDED)" in line}
        assert needed <= {"libc.so.6", "libm.so.6", "libpthread.so.0", "ld-linux-x86-64.so.2"}


def test_no_state_is_static():
    """What interpreters share is written to by nobody: only tables that Python's API does not take as const."""
    objects = sorted((pathlib.Path(COMMAND).parent / "meson" / "ext_python").rglob("*.c.o"))
    if not objects:
        pytest.skip("no meson build folder beside the command")
    tables = 0
    for o in objects:
        out = subprocess.run(["objdump", "-t", o], capture_output=True, text=True, check=True).stdout
        for line in out.splitlines():
            found = re.search(r" O (\S+)\s+\S+ (?:\.hidden )?(\S+)$", line)  # an object: its section and name
            if found and not found[1].startswith((".rodata", ".data.rel.ro")):
                assert re.fullmatch(r"(names|slots|\w+_(slots|spec|methods|getset)|blpy_module)(\.\d+)?", found[2]), line
                tables += 1
    assert tables > 10
