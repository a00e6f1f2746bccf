"""A service with two versions of OpenSSL in it: `versions.py PORT LOOP`.

It serves over the interpreter's own, with a thread for each connection, and asks Postgres over the 1.1 that psycopg2-binary 2.9.9
brings (`requirements-openssl11.txt`).
"""

import http.server
import json
import os
import ssl
import sys
import urllib.parse

import plain_http
import psycopg2
from common import PG_DSN, Rid, truth


class Handler(plain_http.Handler):
    def setup(self):
        super().setup()
        self.connection_to_postgres = None

    def finish(self):
        super().finish()
        if self.connection_to_postgres:
            self.connection_to_postgres.close()

    def query(self, request):
        if self.connection_to_postgres is None:
            self.connection_to_postgres = psycopg2.connect(PG_DSN)
        with self.connection_to_postgres as connection, connection.cursor() as cursor:
            cursor.execute(request.sql("SELECT name FROM games WHERE id = %s"), (17,))
            name = cursor.fetchone()[0]
            cursor.execute(request.sql("SELECT repeat('x', 30000)"))
            return {"name": name, "length": len(cursor.fetchone()[0])}

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        if url.path == "/games":
            answer = self.query(Rid(urllib.parse.parse_qs(url.query).get("rid", [""])[0]))
        elif url.path == "/truth":
            answer = truth()
        else:
            answer = {"python": ssl.OPENSSL_VERSION, "libraries": libraries()}
        self.answer(json.dumps(answer).encode())


def libraries():
    """The files of libssl that are mapped."""
    with open("/proc/self/maps") as maps:
        return sorted({os.path.basename(line.split()[-1]) for line in maps if "/libssl" in line})


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def finish_request(self, request, client_address):
        """The handshake belongs into the connection's thread."""
        with context.wrap_socket(request, server_side=True) as encrypted:
            super().finish_request(encrypted, client_address)


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(os.environ["TLS_CERTIFICATE"], os.environ["TLS_KEY"])
Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
