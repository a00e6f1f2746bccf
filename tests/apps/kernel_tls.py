"""A server and its client whose TLS is the kernel's own: `kernel_tls.py PORT CERTIFICATE KEY AUTHORITY GATE`.

When there is a file `GATE`, the client asks ten times each over TLS 1.2 and 1.3, for `/planted-VERSION-NUMBER`; then it says `done`.
"""

import http.client
import http.server
import os
import ssl
import sys
import threading
import time

import plain_http

PORT, CERTIFICATE, KEY, AUTHORITY, GATE = int(sys.argv[1]), *sys.argv[2:]
#: `SSL_OP_ENABLE_KTLS` (`include/openssl/ssl.h`); its name is new in CPython 3.12.
KERNEL_TLS = 1 << 3


class Handler(plain_http.Handler):
    def do_GET(self):
        self.answer(b"x" * 3000)


def ask(version):
    context = ssl.create_default_context(cafile=AUTHORITY)
    context.options |= KERNEL_TLS
    context.minimum_version = context.maximum_version = version
    connection = http.client.HTTPSConnection("localhost", PORT, context=context)
    for number in range(10):
        connection.request("GET", f"/planted-{version.name[-1]}-{number}")
        connection.getresponse().read()
    connection.close()


def main():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE, KEY)
    context.options |= KERNEL_TLS
    server = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print("ready", flush=True)
    while not os.path.exists(GATE):
        time.sleep(0.1)
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        ask(version)
    print("done", flush=True)
    threading.Event().wait()


main()
