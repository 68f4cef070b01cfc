"""bitlm_jaccard, bitlm_reverse_bits and the order of bits: against Python, and against sqlite-vec where it is installed."""

import random
import sqlite3
import struct

import pytest

from conftest import connect, one


def test_jaccard_of_random_codes(db):
    rng = random.Random(11)
    for n in list(range(1, 20)) + [48, 127, 2048]:
        a, b = (rng.getrandbits(8 * n) & rng.getrandbits(8 * n) for _ in "ab")
        want = bin(a & b).count("1") / bin(a | b).count("1") if a | b else 1.0
        assert one(db, "SELECT bitlm_jaccard(?, ?)", a.to_bytes(n, "big"), b.to_bytes(n, "big")) == want
    assert one(db, "SELECT bitlm_jaccard(x'00', x'00')") == 1.0
    assert one(db, "SELECT bitlm_jaccard(NULL, x'00')") is None
    with pytest.raises(sqlite3.OperationalError, match="bitlm_jaccard: the arguments have 1 and 2 bytes"):
        db.execute("SELECT bitlm_jaccard(x'00', x'0000')").fetchall()


def test_reverse_bits(db):
    every = bytes(range(256))
    want = bytes(int(format(b, "08b")[::-1], 2) for b in every)
    assert one(db, "SELECT bitlm_reverse_bits(?)", every) == want
    assert one(db, "SELECT bitlm_reverse_bits(x'')") == b""
    assert one(db, "SELECT bitlm_reverse_bits(NULL)") is None
    with pytest.raises(sqlite3.OperationalError, match="bitlm_reverse_bits: the code is text"):
        db.execute("SELECT bitlm_reverse_bits('x')").fetchall()


def vectors():
    rng = random.Random(12)
    return [struct.pack("<%df" % n, *(rng.gauss(0, 1) for _ in range(n))) for n in (8, 64, 384, 1024)]


def test_order_of_binarize(db):
    for vector in vectors() + [struct.pack("<3f", 1, -1, 1)]:
        msb = one(db, "SELECT bitlm_binarize(?)", vector)
        assert one(db, "SELECT bitlm_binarize(?, '{\"order\":\"msb\"}')", vector) == msb
        assert one(db, "SELECT bitlm_binarize(?, '{\"order\":\"lsb\"}')", vector) == \
            one(db, "SELECT bitlm_reverse_bits(?)", msb)
    assert one(db, "SELECT bitlm_binarize(?, '{\"order\":\"lsb\"}')", struct.pack("<3f", 1, -1, 1)) == b"\x05"
    with pytest.raises(sqlite3.OperationalError, match="order"):
        db.execute("SELECT bitlm_binarize(x'00000000', '{\"order\":\"up\"}')").fetchall()


def test_beside_sqlite_vec():
    sqlite_vec = pytest.importorskip("sqlite_vec", reason="sqlite-vec (PyPI) is not installed")
    db = connect()
    db.enable_load_extension(True)
    sqlite_vec.load(db)
    for vector in vectors():
        theirs = one(db, "SELECT vec_quantize_binary(?)", vector)
        assert theirs == one(db, "SELECT bitlm_binarize(?, '{\"order\":\"lsb\"}')", vector)
        assert one(db, "SELECT bitlm_reverse_bits(?)", theirs) == one(db, "SELECT bitlm_binarize(?)", vector)
    db.close()
