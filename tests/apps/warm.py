"""warm-api: a service whose drivers have prepared all their statements before anybody looks.

The last part of each path is a number. Which statement is executed depends on it, and the statement's text says which it is.
"""

import asyncio
import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import asyncpg
import psycopg
from common import PG_DSN, serve_truth
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

STATEMENTS = 12
THREADS = 8
local = threading.local()
# Threads that stay: those of anyio end when they have had nothing to do for ten seconds, and their connections with them.
threads = ThreadPoolExecutor(THREADS)
everyone = threading.Barrier(THREADS)


def statement(number, mark):
    return f"SELECT {number % STATEMENTS} AS which, name FROM games WHERE id = {mark}"


class State:
    """Connections."""


state = State()


@contextlib.asynccontextmanager
async def lifespan(app):
    state.pg = await asyncpg.create_pool(PG_DSN, min_size=8, max_size=8)
    state.engine = create_async_engine(
        PG_DSN.replace("postgresql://", "postgresql+asyncpg://"), pool_size=8, max_overflow=0
    )
    state.psycopg = [await psycopg.AsyncConnection.connect(PG_DSN, autocommit=True) for _ in range(8)]
    for connection in state.psycopg:
        connection.prepare_threshold = 0
    yield
    for connection in state.psycopg:
        await connection.close()
    await state.engine.dispose()
    await state.pg.close()


app = FastAPI(lifespan=lifespan)
serve_truth(app)


async def fill():
    """Every connection prepares every statement."""
    connections = [await state.pg.acquire() for _ in range(8)]
    for connection in connections:
        for number in range(STATEMENTS):
            await connection.fetch(statement(number, "$1"), 1)
    for connection in connections:
        await state.pg.release(connection)
    opened = [await state.engine.connect() for _ in range(8)]
    for connection in opened:
        for number in range(STATEMENTS):
            await connection.execute(text(statement(number, ":id")), {"id": 1})
    for connection in opened:
        await connection.close()
    for connection in state.psycopg:
        for number in range(STATEMENTS):
            await connection.execute(statement(number, "%s"), [1])
    loop = asyncio.get_running_loop()
    await asyncio.gather(*[loop.run_in_executor(threads, fill_thread) for _ in range(THREADS)])


def fill_thread():
    everyone.wait()
    for number in range(STATEMENTS):
        execute_in_thread(number)


@app.get("/fill")
async def prepare_all():
    await fill()
    return {}


@app.get("/asyncpg/{number}")
async def by_asyncpg(number: int):
    rows = await state.pg.fetch(statement(number, "$1"), number)
    return len(rows)


@app.get("/alchemy/{number}")
async def by_alchemy(number: int):
    async with state.engine.connect() as connection:
        rows = await connection.execute(text(statement(number, ":id")), {"id": number})
        return len(rows.all())


@app.get("/psycopg/{number}")
async def by_psycopg(number: int):
    # Taken for as long as it is used.
    connection = state.psycopg.pop() if state.psycopg else None
    if connection is None:
        return 0
    try:
        rows = await connection.execute(statement(number, "%s"), [number])
        return len(await rows.fetchall())
    finally:
        state.psycopg.append(connection)


def execute_in_thread(number):
    if not hasattr(local, "psycopg"):
        local.psycopg = psycopg.connect(PG_DSN, autocommit=True)
        local.psycopg.prepare_threshold = 0
    return local.psycopg.execute(statement(number, "%s"), [number]).fetchall()


@app.get("/thread/{number}")
async def by_thread(number: int):
    rows = await asyncio.get_running_loop().run_in_executor(threads, execute_in_thread, number)
    return len(rows)
