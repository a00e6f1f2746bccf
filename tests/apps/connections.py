"""psycopg2 connections for threads."""

import contextlib

import psycopg2
from common import PG_DSN


class SyncConnections:
    """As many psycopg2 connections as there are threads that ask for one at the same time."""

    def __init__(self):
        self.idle = []

    @contextlib.contextmanager
    def connection(self):
        try:
            connection = self.idle.pop()
        except IndexError:
            connection = psycopg2.connect(PG_DSN)
        with connection:
            yield connection
        self.idle.append(connection)

    def value(self, text, value):
        """The first column of the first row."""
        with self.connection() as connection, connection.cursor() as cursor:
            cursor.execute(text, (value,))
            return cursor.fetchone()[0]

    def close(self):
        while self.idle:
            self.idle.pop().close()
