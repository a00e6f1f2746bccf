"""A server of one thread, in a process whose other threads open and close files all the time: the number of a
descriptor that one of them has closed is the next connection's before the call that closed it has returned.

    churn.py PORT asyncio
"""

import os
import socket
import sys
import threading

THREADS = 3
FILES = 4
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


def churn():
    while True:
        for descriptor in [os.open(os.devnull, os.O_RDONLY) for _ in range(FILES)]:
            os.close(descriptor)


def main():
    server = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=128)
    for _ in range(THREADS):
        threading.Thread(target=churn, daemon=True).start()
    while True:
        connection, _ = server.accept()
        with connection:
            if connection.recv(4096):
                connection.sendall(ANSWER)


main()
