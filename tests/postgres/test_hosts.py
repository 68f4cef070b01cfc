"""The same 200 texts through PostgreSQL, Python, SQLite and the command give the same bytes.

The package comes from `make python` (build/python); tests/python/test_hosts.py has the same without PostgreSQL.
"""

import json
import random
import subprocess
import sys

import pytest
from conftest import ROOT

SEED = 4711


def texts():
    rng = random.Random(SEED)
    words = "tax letter river the a of fox king Zürich naïve 東京 🙂 42 3.14 don't e-mail x=y".split()
    return [" ".join(rng.choice(words) for _ in range(rng.randrange(1, 25))) for _ in range(200)]


@pytest.fixture(scope="module")
def package():
    if not (ROOT / "build" / "python" / "bitlm").exists():
        pytest.skip("no Python package here: make python")
    sys.path.insert(0, str(ROOT / "build" / "python"))
    import bitlm

    with bitlm.Model() as model:
        yield model


def test_200_texts(db, lite, package):
    given = texts()
    prompts = given[:20]
    model_id = package.model_id
    python = (package.embed(given).tobytes(), package.embed_f32(given).tobytes(), [package.tokenize(t) for t in given],
              package.generate(prompts, max_tokens=8, seed=3))

    sql = [lite.execute("SELECT bitlm_embed(?), bitlm_embed_f32(?), bitlm_tokenize(?)", (t,) * 3).fetchone() for t in given]
    sqlite = (b"".join(r[0] for r in sql), b"".join(r[1] for r in sql), [json.loads(r[2]) for r in sql],
              [lite.execute("""SELECT bitlm_generate(?, '{"max_tokens":8,"seed":3}')""", (p,)).fetchone()[0] for p in prompts])

    rows = db.rows("""SELECT bitlm_embed(t)::text, array_to_string(array(SELECT encode(float4send(x), 'hex')
            FROM unnest(bitlm_embed_f32(t)) WITH ORDINALITY AS u(x, i) ORDER BY i), ''), bitlm_tokenize(t)
        FROM unnest(%s::text[]) WITH ORDINALITY AS g(t, i) ORDER BY i""", given)
    # float4send gives the most significant byte first
    floats = b"".join(bytes.fromhex(r[1]) for r in rows)
    postgres = (b"".join(int(r[0], 2).to_bytes(len(r[0]) // 8, "big") for r in rows),
                b"".join(floats[i:i + 4][::-1] for i in range(0, len(floats), 4)), [list(r[2]) for r in rows],
                [db.one("SELECT bitlm_generate(%s, max_tokens => 8, seed => 3)", p) for p in prompts])

    def command(*arguments, **keywords):
        return subprocess.run([ROOT / "build" / "bitlm", *arguments], capture_output=True, text=True, check=True, **keywords).stdout

    lines = "\n".join(given) + "\n"
    codes = b"".join(map(bytes.fromhex, command("embed", "--format", "hex", "-", input=lines).split()))
    generated = [command("generate", "--max-tokens", "8", "--seed", "3", "--", p).removesuffix("\n") for p in prompts]

    assert len(python[0]) == 200 * 48 and len(set(python[3])) > 10
    for host in (sqlite, postgres):
        assert host[0] == python[0]
        assert host[1] == python[1]
        assert host[2] == python[2]
        assert host[3] == python[3]
    assert (codes, generated) == (python[0], python[3])
    assert model_id == lite.execute("SELECT bitlm_model_id('embed')").fetchone()[0] == db.one("SELECT bitlm_model_id('embed')")
