"""What servers of the standard library's `http.server` share."""

import http.server


class Handler(http.server.BaseHTTPRequestHandler):
    """Keeps its connections, and says nothing of its requests."""

    protocol_version = "HTTP/1.1"

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass
