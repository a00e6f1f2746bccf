"""What the demo services share: settings, how a request id is planted, and what each request really did.

Every request carries `rid`, a unique id. It is planted in the text of each SQL statement, in each Redis key and in each
downstream URL, so that a trace can be checked without trusting whoever made it. With `plain=1` the SQL text stays
constant, as in most programs, and prepared statements are used again; then only the counts can be checked.
"""

import os
import threading
from collections import defaultdict

PG_DSN = os.environ.get("PG_DSN", "postgresql://games:secret@127.0.0.1:5432/games")
REDIS_URL = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")
PLAYERS_URL = os.environ.get("PLAYERS_URL", "http://127.0.0.1:8001")

_lock = threading.Lock()
_truth = defaultdict(lambda: {"sql": 0, "redis": 0, "http": 0, "publish": 0})


class Rid:
    """The id of one request; counts what is done in its name, in this process."""

    def __init__(self, rid: str = "", plain: bool = False):
        self.rid = rid
        self.plain = plain

    def routing_key(self, kind):
        """The key of a message of this kind."""
        return f"{kind}.rid:{self.rid}"

    def note(self, kind):
        with _lock:
            _truth[self.rid][kind] += 1

    def sql(self, text):
        """`text` with the id in a trailing comment."""
        self.note("sql")
        return text if self.plain or not self.rid else f"{text} {self.comment}"

    def statement(self):
        """Counts a statement whose text somebody else builds; returns the comment for it."""
        self.note("sql")
        return "" if self.plain or not self.rid else self.comment

    @property
    def comment(self):
        return f"/* rid={self.rid} */"

    def key(self, name):
        """The Redis key `name`, for one command."""
        self.note("redis")
        return f"rid:{self.rid}:{name}" if self.rid else name

    def url(self, path):
        """The URL of `path` at the players service."""
        self.note("http")
        joint = "&" if "?" in path else "?"
        query = f"{joint}rid={self.rid}" if self.rid else ""
        return f"{PLAYERS_URL}{path}{query}{'&plain=1' if self.plain and query else ''}"


def truth():
    """What each request did in this process: `{rid: {"sql": n, "redis": n, "http": n}}`."""
    with _lock:
        return {rid: dict(counts) for rid, counts in _truth.items()}


def serve_truth(app):
    """Adds to a FastAPI service what the rig asks of each: whether it is there, and what it did."""

    @app.get("/health")
    async def health():
        return {"ok": True}

    @app.get("/truth")
    async def read_truth():
        return truth()

    @app.delete("/truth")
    async def clear_truth():
        forget()
        return {}


def forget():
    """Empties the record."""
    with _lock:
        _truth.clear()
