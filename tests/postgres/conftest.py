"""What the tests of the PostgreSQL extension share.

    make pg && tests/postgres/cluster.sh /usr/bin/python3 -m pytest tests/postgres

cluster.sh starts a cluster of its own and says by PGHOST where it is.  BITLM_SLACK is a
factor on every time limit, for slow machines (1).
"""

import os
import pathlib
import sqlite3

import psycopg2
import psycopg2.errors
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SLACK = float(os.environ.get("BITLM_SLACK", "1"))


def connect(**arguments):
    connection = psycopg2.connect(**arguments)
    connection.autocommit = True
    return connection


class Database:
    """A connection with the two calls the tests need."""

    def __init__(self, **arguments):
        self.connection = connect(**arguments)

    def rows(self, sql, *parameters):
        with self.connection.cursor() as cursor:
            cursor.execute(sql, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def one(self, sql, *parameters):
        rows = self.rows(sql, *parameters)
        assert len(rows) == 1 and len(rows[0]) == 1, rows
        return rows[0][0]

    def state(self, sql, *parameters):
        """The SQLSTATE and message of the error that the statement gives."""
        with pytest.raises(psycopg2.Error) as caught:
            self.rows(sql, *parameters)
        return caught.value.pgcode, str(caught.value)


@pytest.fixture(scope="session")
def extension():
    if "PGHOST" not in os.environ:
        pytest.skip("there is no PGHOST: run tests/postgres/cluster.sh pytest tests/postgres")
    db = Database()
    db.rows("CREATE EXTENSION IF NOT EXISTS bitlm")
    db.connection.close()


@pytest.fixture
def db(extension):
    database = Database()
    yield database
    database.connection.close()


@pytest.fixture(scope="session")
def lite():
    connection = sqlite3.connect(":memory:")
    connection.enable_load_extension(True)
    connection.load_extension(str(ROOT / "build" / "bitlm0"))
    yield connection
    connection.close()
