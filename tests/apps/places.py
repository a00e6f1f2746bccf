"""places-api: a service that writes into each statement where in its code it is, so that it can be checked who found that.

The last part of each path is the name of the function that handles it. Each statement carries
`at=<function>:<line>`, taken from the frame that makes the call.
"""

import asyncio
import contextlib
import logging
import sys
import threading

import asyncpg
import psycopg
import psycopg2
import redis
import redis.asyncio
from common import PG_DSN, REDIS_URL, serve_truth
from fastapi import APIRouter, Depends, FastAPI
from flask import Flask
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

COUNT = "SELECT count(*) FROM players WHERE game_id = 1"

log = logging.getLogger("places")
handler = logging.StreamHandler()
handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
log.addHandler(handler)
log.setLevel(logging.INFO)


def at(depth=1):
    """Where the caller is, or its caller."""
    frame = sys._getframe(depth)
    name = getattr(frame.f_code, "co_qualname", frame.f_code.co_name)
    return f"at={name}:{frame.f_lineno}"


def note():
    """The same, as the end of a statement."""
    return f" /* {at(2)} */"


class Middleware:
    """The application's own, between the server and the framework."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        await self.app(scope, receive, send)


class State:
    """Connections."""


state = State()
local = threading.local()


@contextlib.asynccontextmanager
async def lifespan(app):
    state.pg = await asyncpg.create_pool(PG_DSN, min_size=4, max_size=24)
    state.redis = redis.asyncio.from_url(REDIS_URL, max_connections=512)
    url = PG_DSN.replace("postgresql://", "postgresql+asyncpg://").replace("sslmode=", "ssl=")
    state.engine = create_async_engine(url, pool_size=16, max_overflow=0)
    yield
    await state.engine.dispose()
    await state.pg.close()


app = FastAPI(lifespan=lifespan)
app.add_middleware(Middleware)
serve_truth(app)
router = APIRouter()


class Games:
    """Calls below the handler, by methods."""

    async def count(self):
        # Two lines in one function.
        one = await state.pg.fetchval(COUNT + note())
        two = await state.pg.fetchval(COUNT + note())
        return one + two

    async def counts(self):
        async with state.pg.acquire() as connection:
            for _ in range(2):
                async with connection.transaction():
                    await connection.fetch(COUNT + note())
            return [row async for row in self.rows(connection)]

    async def rows(self, connection):
        yield await connection.fetchrow(COUNT + note())
        yield await connection.fetchrow(COUNT + note())


@app.get("/pool")
async def pool():
    await state.pg.execute(COUNT + note())
    return await Games().count()


@app.get("/methods")
async def methods():
    await Games().counts()
    return await state.redis.get("places:" + at())


@app.get("/gathered")
async def gathered():
    async def child():
        return await state.pg.fetchval(COUNT + note())

    await asyncio.gather(child(), child(), Games().count())
    return await state.pg.fetchval(COUNT + note())


@router.get("/sub/alchemy")
async def alchemy():
    async with state.engine.connect() as connection:
        await connection.execute(text(COUNT + note()))
        return len([row for row in (await connection.execute(text(COUNT + note()))).all()])


async def dependency():
    await state.pg.fetchval(COUNT + note())


@router.get("/sub/depends")
async def depends(_=Depends(dependency)):
    log.info("logged " + at())
    return await state.pg.fetchval(COUNT + note())


def cursor():
    if not hasattr(local, "connection"):
        local.connection = psycopg2.connect(PG_DSN)
        local.connection.autocommit = True
    return local.connection.cursor()


def commands():
    if not hasattr(local, "redis"):
        local.redis = redis.from_url(REDIS_URL)
    return local.redis


def threaded():
    with cursor() as found:
        found.execute(COUNT + note())
    return commands().get("places:" + at())


@app.get("/thread")
def thread():
    threaded()
    with cursor() as found:
        found.execute(COUNT + note())
        return found.fetchone()[0]


@app.get("/handed")
async def handed():
    await asyncio.get_running_loop().run_in_executor(None, threaded)
    return await state.pg.fetchval(COUNT + note())


def psycopg3():
    if not hasattr(local, "psycopg"):
        local.psycopg = psycopg.connect(PG_DSN, autocommit=True)
    local.psycopg.execute(COUNT + note())


@app.get("/newer")
def newer():
    psycopg3()
    return 1


app.include_router(router)

flask_app = Flask("places")


@flask_app.get("/health")
def health():
    return {"ok": True}


@flask_app.get("/view")
def view():
    threaded()
    with cursor() as found:
        found.execute(COUNT + note())
        return str(found.fetchone()[0])


@flask_app.get("/below")
def below():
    threaded()
    return "done"
