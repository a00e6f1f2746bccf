"""blocking-api: handlers that keep the event loop from running, in every way there is, and some that do not.

Each says how long it has held the loop, in which function, and in which lines that is: `<milliseconds> <function> <first> <last>`.
"""

import asyncio
import contextlib
import inspect
import sys
import time

import psycopg2
from common import PG_DSN, serve_truth
from fastapi import FastAPI

LONG = 0.3
counts = {}
tasks = set()


def timed(function, *arguments):
    """Calls a function that blocks; what the service knows of it."""
    start = time.perf_counter()
    function(*arguments)
    return (time.perf_counter() - start) * 1000


def crunch(seconds):
    end = time.perf_counter() + seconds
    total = 0
    while time.perf_counter() < end:
        total += sum(range(200))
    return total


def here(depth=1):
    frame = sys._getframe(depth)
    name = getattr(frame.f_code, "co_qualname", frame.f_code.co_name)
    return f"{name} {frame.f_lineno} {frame.f_lineno}"


def held(milliseconds, function, place):
    counts[function] = counts.get(function, 0) + 1
    return f"{milliseconds:.1f} {place}"


def place_of(function):
    lines, first = inspect.getsourcelines(function)
    return f"{function.__name__} {first} {first + len(lines) - 1}"


async def ticking():
    """Nothing that shows outside, and nobody has asked for it."""
    while True:
        await asyncio.sleep(0.9)
        tick()


def tick():
    held(timed(time.sleep, 0.15), "timed", "")


@contextlib.asynccontextmanager
async def lifespan(app):
    app.state.connection = psycopg2.connect(PG_DSN)
    app.state.connection.autocommit = True
    yield
    app.state.connection.close()


app = FastAPI(lifespan=lifespan)
serve_truth(app)


@app.get("/start")
async def start():
    counts.clear()
    tasks.add(asyncio.create_task(ticking()))


@app.get("/stop")
async def stop():
    while tasks:
        tasks.pop().cancel()
    return counts


@app.get("/sleeps")
async def sleeps():
    started = time.perf_counter()
    time.sleep(LONG); place = here()  # noqa: E702 (on one line)
    return held((time.perf_counter() - started) * 1000, "sleeps", place)


@app.get("/computes")
async def computes():
    return held(timed(crunch, LONG), "crunch", place_of(crunch))


@app.get("/queries")
async def queries():
    started = time.perf_counter()
    with app.state.connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(%s)", (LONG,)); place = here()  # noqa: E702 (on one line)
    return held((time.perf_counter() - started) * 1000, "queries", place)


@app.get("/waits")
async def waits():
    await asyncio.sleep(LONG)


@app.get("/elsewhere")
async def elsewhere():
    await asyncio.get_running_loop().run_in_executor(None, time.sleep, LONG)


@app.get("/thread")
def thread():
    time.sleep(LONG)


@app.get("/pauses")
async def pauses():
    time.sleep(0.07)
    await asyncio.sleep(LONG)
    time.sleep(0.07)


@app.get("/briefly")
async def briefly():
    for _ in range(10):
        time.sleep(0.02)
        await asyncio.sleep(0.001)
