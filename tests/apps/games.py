"""games-api: a FastAPI service that does, in one endpoint each, what Python services do with Postgres, Redis and HTTP."""

import asyncio
import contextlib
import contextvars
import functools
import json
import logging
import os
import random

import aiohttp
import asyncpg
import httpx
import psycopg
import redis
import redis.asyncio
from common import PG_DSN, REDIS_URL, Rid, serve_truth
from connections import SyncConnections
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException
from fastapi.responses import Response, StreamingResponse
from sqlalchemy import Integer, Numeric, Text, func, insert, select, text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# Prior knowledge: without TLS nobody can agree on it.
HTTP2 = bool(os.environ.get("HTTP2"))
GAME = "SELECT id, name, genre, rating::float8 AS rating FROM games WHERE id = $1"
PLAYERS = "SELECT id, name, score FROM players WHERE game_id = $1 ORDER BY score DESC LIMIT 5"
AVERAGE = "SELECT avg(score)::float8 AS average FROM players WHERE game_id = $1"


log = logging.getLogger("games")
handler = logging.StreamHandler()
handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
log.addHandler(handler)
log.setLevel(logging.INFO)


class Base(DeclarativeBase):
    pass


class Game(Base):
    __tablename__ = "games"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    genre: Mapped[str] = mapped_column(Text)
    rating: Mapped[float] = mapped_column(Numeric(3, 1))


class Play(Base):
    __tablename__ = "plays"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    game_id: Mapped[int] = mapped_column(Integer)
    note: Mapped[str] = mapped_column(Text)


@contextlib.asynccontextmanager
async def lifespan(app):
    state.pg = await asyncpg.create_pool(PG_DSN, min_size=4, max_size=24)
    state.redis = redis.asyncio.from_url(REDIS_URL, max_connections=512)
    state.redis_sync = redis.from_url(REDIS_URL, max_connections=512)
    state.sync = SyncConnections()
    state.engine = create_async_engine(
        PG_DSN.replace("postgresql://", "postgresql+asyncpg://").replace("sslmode=", "ssl="),
        pool_size=16,
        max_overflow=0,
    )
    state.session = async_sessionmaker(state.engine, expire_on_commit=False)
    state.httpx = httpx.AsyncClient(timeout=30, http1=not HTTP2, http2=HTTP2)
    state.httpx_of_threads = httpx.Client(timeout=30, http1=not HTTP2, http2=HTTP2)
    state.aiohttp = aiohttp.ClientSession()
    state.psycopg3 = asyncio.LifoQueue()
    for _ in range(4):
        state.psycopg3.put_nowait(await psycopg.AsyncConnection.connect(PG_DSN, autocommit=True))
    yield
    if state.tasks:
        await asyncio.wait(state.tasks, timeout=5)
    while not state.psycopg3.empty():
        await state.psycopg3.get_nowait().close()
    await state.aiohttp.close()
    await state.httpx.aclose()
    state.httpx_of_threads.close()
    await state.engine.dispose()
    state.sync.close()
    state.redis_sync.close()
    await (state.redis.aclose() if hasattr(state.redis, "aclose") else state.redis.close())
    await state.pg.close()


class State:
    """The connections of this process."""

    def __init__(self):
        self.tasks = set()


state = State()
app = FastAPI(title="games-api", lifespan=lifespan)
serve_truth(app)


@app.get("/hit/{id}")
async def hit(id: int, request: Rid = Depends(Rid)):
    """A cached answer: one Redis command, nothing else. With an id it reads its own, absent key along."""
    if request.rid:
        _, cached = await state.redis.mget(request.key("hit"), f"hit:{id}")
    else:
        cached = await state.redis.get(request.key(f"hit:{id}"))
    if cached is None:
        cached = json.dumps({"id": id, "name": f"Game {id}"})
        await state.redis.mset({request.key("fill"): 1, f"hit:{id}": cached})
    return json.loads(cached)


@app.get("/logged/{id}")
async def logged(id: int):
    """A cached answer, and two lines in the log."""
    log.info("game %d is asked for", id)
    cached = await state.redis.get(f"hit:{id}")
    log.info("game %d is %s", id, "cached" if cached else "not cached")
    return {"id": id}


@app.get("/bytes/{size}")
async def size_of(size: int):
    """So many bytes, and nothing else."""
    return Response(b"x" * size)


@app.get("/games/{game_id}")
async def game(game_id: int, request: Rid = Depends(Rid)):
    """Read-through cache: on a miss three queries on one connection, then the answer is stored."""
    cached = await state.redis.get(request.key(f"game:{game_id}"))
    if cached is not None:
        return json.loads(cached)
    async with state.pg.acquire() as connection:
        found = await connection.fetchrow(request.sql(GAME), game_id)
        if found is None:
            raise HTTPException(404, "no such game")
        players = await connection.fetch(request.sql(PLAYERS), game_id)
        average = await connection.fetchval(request.sql(AVERAGE), game_id)
    answer = {**dict(found), "players": [dict(row) for row in players], "average": average}
    await state.redis.set(request.key(f"game:{game_id}"), json.dumps(answer), ex=60)
    return answer


@app.get("/gather")
async def gather(request: Rid = Depends(Rid)):
    """Four things at once, on four connections."""
    found, players, average, seen = await asyncio.gather(
        state.pg.fetchrow(request.sql(GAME), 1),
        state.pg.fetch(request.sql(PLAYERS), 2),
        state.pg.fetchval(request.sql(AVERAGE), 3),
        state.redis.get(request.key("gather")),
    )
    return {"game": found["name"], "players": len(players), "average": average, "seen": seen}


@app.get("/alchemy")
async def alchemy(request: Rid = Depends(Rid)):
    """SQLAlchemy's asyncio side (greenlets over asyncpg): ORM, core and a write, in one transaction."""
    async with state.session() as session, session.begin():
        query = select(Game).where(Game.id == 7)
        comment = request.statement()
        games = (await session.scalars(query.suffix_with(comment) if comment else query)).all()
        count = (await session.execute(text(request.sql("SELECT count(*) FROM games")))).scalar_one()
        write = insert(Play)
        comment = request.statement()
        await session.execute(
            (write.prefix_with(comment) if comment else write).values(game_id=7, note=func.upper("alchemy"))
        )
    return {"games": [found.name for found in games], "count": count}


def blocking(request):
    """Two statements through psycopg2 and one Redis command, on whatever thread this runs."""
    with state.sync.connection() as connection, connection.cursor() as cursor:
        cursor.execute(request.sql("SELECT name FROM games WHERE id = %s"), (11,))
        name = cursor.fetchone()[0]
        cursor.execute(request.sql("SELECT count(*) FROM players WHERE game_id = %s"), (11,))
        players = cursor.fetchone()[0]
    state.redis_sync.get(request.key("blocking"))
    return {"name": name, "players": players}


@app.get("/sync")
def sync(request: Rid = Depends(Rid)):
    """A plain function: the framework runs it in its thread pool."""
    return blocking(request)


@app.get("/tothread")
async def tothread(request: Rid = Depends(Rid)):
    if hasattr(asyncio, "to_thread"):
        return await asyncio.to_thread(blocking, request)
    # What Python 3.9's `asyncio.to_thread` does.
    call = functools.partial(contextvars.copy_context().run, blocking, request)
    return await asyncio.get_running_loop().run_in_executor(None, call)


@app.get("/executor")
async def executor(request: Rid = Depends(Rid)):
    """A bare executor: no context travels to its thread."""
    return await asyncio.get_running_loop().run_in_executor(None, blocking, request)


async def record(request, note):
    await state.pg.execute(request.sql("INSERT INTO plays (game_id, note) VALUES ($1, $2)"), 5, note)
    await state.redis.incr(request.key("plays"))


@app.get("/background")
async def background(tasks: BackgroundTasks, request: Rid = Depends(Rid)):
    """Work after the response, in the request's own task."""
    tasks.add_task(record, request, "background")
    return {"queued": True}


@app.get("/task")
async def task(request: Rid = Depends(Rid)):
    """Work after the response, in a task of its own."""

    async def later():
        await asyncio.sleep(0.02)
        await record(request, "task")

    running = asyncio.create_task(later())
    state.tasks.add(running)
    running.add_done_callback(state.tasks.discard)
    return {"queued": True}


@app.get("/stream")
async def stream(request: Rid = Depends(Rid)):
    """A query before each chunk of the response."""

    async def rows():
        for game_id in range(1, 4):
            yield await state.pg.fetchval(request.sql("SELECT name FROM games WHERE id = $1"), game_id) + "\n"
            await asyncio.sleep(0.002)

    return StreamingResponse(rows(), media_type="text/plain")


@app.get("/proxy")
async def proxy(request: Rid = Depends(Rid)):
    """httpx to the second service, which does nothing."""
    answer = await state.httpx.get(request.url("/echo"))
    answer.raise_for_status()
    return answer.json()


@app.get("/nested")
async def nested(request: Rid = Depends(Rid)):
    """A query, a call to the second service, which queries too, and a query."""
    first = await state.pg.fetchval(request.sql("SELECT name FROM games WHERE id = $1"), 21)
    answer = await state.httpx.get(request.url("/players/21"))
    answer.raise_for_status()
    last = await state.pg.fetchval(request.sql("SELECT genre FROM games WHERE id = $1"), 21)
    return {"name": first, "genre": last, "players": answer.json()}


@app.get("/hasty")
async def hasty(request: Rid = Depends(Rid)):
    """A query, and a call to the second service that is given up after a moment, however far it is."""
    name = await state.pg.fetchval(request.sql("SELECT name FROM games WHERE id = $1"), 24)
    call = state.httpx.get(request.url("/players/24"))
    with contextlib.suppress(asyncio.TimeoutError, httpx.HTTPError):
        await asyncio.wait_for(call, random.uniform(0, 0.1))
    return {"name": name}


@app.get("/threaded")
def threaded(request: Rid = Depends(Rid)):
    """httpx from a thread of a pool, to the second service. All threads have one client."""
    answer = state.httpx_of_threads.get(request.url("/players/25"))
    answer.raise_for_status()
    return answer.json()


@app.get("/aiohttp")
async def through_aiohttp(request: Rid = Depends(Rid)):
    """aiohttp's client to the second service, twice at once."""

    async def one(path):
        async with state.aiohttp.get(request.url(path)) as answer:
            answer.raise_for_status()
            return await answer.json()

    echo, players = await asyncio.gather(one("/echo"), one("/players/22"))
    return {"echo": echo, "players": players}


@app.get("/pipeline")
async def pipeline(request: Rid = Depends(Rid)):
    """A Redis pipeline, then a transaction."""
    async with state.redis.pipeline(transaction=False) as pipe:
        pipe.set(request.key("p1"), "x" * 100, ex=60)
        pipe.get(request.key("p1"))
        pipe.get(request.key("absent"))
        first = await pipe.execute()
    async with state.redis.pipeline(transaction=True) as pipe:
        pipe.incr(request.key("n"))
        pipe.expire(request.key("n"), 60)
        second = await pipe.execute()
    return {"first": len(first), "second": len(second)}


@app.get("/redis-lists")
async def redis_lists(request: Rid = Depends(Rid)):
    """Lists, hashes and sorted sets: replies of every shape."""
    client = state.redis
    await client.rpush(request.key("list"), "a", "b", "c" * 2000)
    items = await client.lrange(request.key("list"), 0, -1)
    await client.hset(request.key("hash"), mapping={"name": "x", "score": 3})
    fields = await client.hgetall(request.key("hash"))
    await client.zadd(request.key("set"), {"one": 1, "two": 2.5})
    scores = await client.zrange(request.key("set"), 0, -1, withscores=True)
    await client.delete(request.key("list"))
    await client.delete(request.key("hash"))
    await client.delete(request.key("set"))
    return {"items": len(items), "fields": len(fields), "scores": len(scores)}


@app.get("/error")
async def error(request: Rid = Depends(Rid)):
    """SQLSTATE 42P01 and a 500, and the connection is used again."""
    try:
        await state.pg.fetch(request.sql("SELECT * FROM no_such_table"))
    except asyncpg.PostgresError as failure:
        raise HTTPException(500, failure.sqlstate) from failure


@app.get("/psycopg3")
async def psycopg3(request: Rid = Depends(Rid)):
    """psycopg 3: a statement, a transaction, and a pipeline of two."""
    connection = await state.psycopg3.get()
    try:
        cursor = await connection.execute(request.sql("SELECT name FROM games WHERE id = %s"), (31,))
        name = (await cursor.fetchone())[0]
        async with connection.transaction():
            await connection.execute(request.sql("INSERT INTO plays (game_id, note) VALUES (%s, %s)"), (31, "p3"))
        async with connection.pipeline():
            first = await connection.execute(request.sql("SELECT genre FROM games WHERE id = %s"), (31,))
            second = await connection.execute(request.sql("SELECT count(*) FROM players WHERE game_id = %s"), (31,))
        return {"name": name, "genre": (await first.fetchone())[0], "players": (await second.fetchone())[0]}
    finally:
        state.psycopg3.put_nowait(connection)
