"""log-api: a FastAPI service that writes lines in every usual way while many requests are under way.

Each line carries `rid=<request>.<number>`, so that whose it is can be checked without trusting whoever collects it.
Each answer tells how many marks were handed out.
"""

import asyncio
import logging
import logging.handlers
import queue
import subprocess
import sys
import traceback

import loguru
import structlog
from common import serve_truth
from fastapi import FastAPI, HTTPException
from pythonjsonlogger.json import JsonFormatter


def stream_logger(name, formatter, stream):
    logger = logging.getLogger(name)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    return logger


TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
plain = stream_logger("log.plain", logging.Formatter(TEXT), sys.stderr)
out = stream_logger("log.out", logging.Formatter("%(levelname)s:%(name)s:%(message)s"), sys.stdout)
as_json = stream_logger(
    "log.json", JsonFormatter("%(levelname)s %(name)s %(message)s %(lineno)d %(funcName)s"), sys.stderr
)
structured = structlog.wrap_logger(
    structlog.WriteLogger(sys.stdout),
    processors=[structlog.processors.add_log_level, structlog.processors.JSONRenderer()],
)
loguru.logger.remove()
loguru.logger.add(sys.stderr, backtrace=False, diagnose=False)

queued = logging.getLogger("log.queued")
queued.propagate = False
queued.setLevel(logging.INFO)
waiting = queue.SimpleQueue()
queued.addHandler(logging.handlers.QueueHandler(waiting))
to_stderr = logging.StreamHandler(sys.stderr)
to_stderr.setFormatter(logging.Formatter("%(asctime)s - %(name)s - %(levelname)s - %(message)s"))
logging.handlers.QueueListener(waiting, to_stderr).start()

app = FastAPI()
serve_truth(app)


class Lines:
    """Hands out the marks of one request's lines."""

    def __init__(self, rid):
        self.rid = rid
        self.count = 0

    def mark(self):
        self.count += 1
        return f"rid={self.rid}.{self.count}"


def fail(mark):
    raise LookupError(f"no such game: {mark}")


def failing(lines):
    """A traceback by a logger, and one written frame by frame."""
    try:
        fail(lines.mark())
    except LookupError:
        plain.exception("caught %s", lines.mark())
    try:
        try:
            fail(lines.mark())
        except LookupError as error:
            raise ValueError(f"chained {lines.mark()}") from error
    except ValueError:
        traceback.print_exc()


def words(lines):
    plain.info("plain %s", lines.mark())
    out.warning("on stdout %s", lines.mark())
    as_json.error("json %s", lines.mark(), extra={"game": 5})
    structured.info(f"structured {lines.mark()}", user={"id": 7})
    print("printed", lines.mark())
    loguru.logger.debug("loguru {}", lines.mark())


async def tasks(lines):
    words(lines)
    await asyncio.sleep(0)
    plain.info("of several lines %s\n  second %s\nthird %s", lines.mark(), lines.mark(), lines.mark())
    await asyncio.gather(child(lines), child(lines))
    failing(lines)


async def child(lines):
    await asyncio.sleep(0)
    as_json.info("child %s", lines.mark())
    await asyncio.sleep(0.0005)
    plain.critical("child %s", lines.mark())


@app.get("/work")
async def in_tasks_and_threads(rid: str = ""):
    lines = Lines(rid)
    await tasks(lines)
    # Python puts pieces together itself where it buffers: the line would be torn before it is written.
    print(f"before {lines.mark()}", end=" ")
    await asyncio.sleep(0.001)
    print(f"after {lines.mark()}")
    await asyncio.to_thread(words, lines)
    return {"lines": lines.count}


@app.get("/tasks")
async def in_tasks(rid: str = ""):
    lines = Lines(rid)
    await tasks(lines)
    return {"lines": lines.count}


@app.get("/thread")
def in_a_thread(rid: str = ""):
    lines = Lines(rid)
    words(lines)
    failing(lines)
    return {"lines": lines.count}


@app.get("/queued")
async def by_a_queue(rid: str = ""):
    lines = Lines(rid)
    queued.info("queued %s", lines.mark())
    await asyncio.sleep(0.002)
    queued.error("queued %s", lines.mark())
    return {"lines": lines.count}


@app.get("/fails")
async def fails(rid: str = ""):
    fail(f"rid={rid}.1")


@app.get("/refuses")
async def refuses(rid: str = ""):
    raise HTTPException(status_code=404, detail=rid)


@app.get("/secrets")
async def secrets(secret: str = ""):
    plain.info("connecting to postgresql://games:%s@db/games", secret)
    plain.info("Authorization: Bearer %s", secret)
    plain.info("headers: %s", {"cookie": f"session={secret}; other={secret}"})
    structured.info("login", password=secret, url=f"redis://:{secret}@cache/0")
    as_json.warning("api_key=%s", secret, extra={"access_token": secret})
    try:
        raise RuntimeError(f"token={secret}")
    except RuntimeError:
        plain.exception("refused")
    return {}


@app.get("/child")
def child_process(rid: str = ""):
    """What another program writes is no log of this one: `cat` writes much to a pipe, `echo` to this one's output."""
    found = subprocess.run(["cat", __file__], stdout=subprocess.PIPE, check=True)
    subprocess.run(["echo", "of another program"], check=True)
    plain.info("a child has written %s bytes", len(found.stdout))
    return {}


@app.get("/flush")
async def flush():
    print("flushed", flush=True)


@app.get("/flood")
async def flood(count: int = 5000):
    # In a second of its own.
    await asyncio.sleep(1.1)
    for number in range(count):
        sys.stderr.write(f"flood {number}\n")
    return {}
