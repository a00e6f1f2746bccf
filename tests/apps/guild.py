"""guild-api: a FastAPI service that calls the roster over gRPC, by threads (`GRPC=threads`) or by `grpc.aio` (`GRPC=aio`)."""

import contextlib
import os

import asyncpg
import grpc
import grpc.aio
from common import PG_DSN, Rid, serve_truth
from connections import SyncConnections
from fastapi import Depends, FastAPI
from roster import dumps, loads

AIO = os.environ.get("GRPC") == "aio"
ROSTER = os.environ.get("ROSTER", "127.0.0.1:50051")
GUILD = "SELECT name FROM games WHERE id = {}"
KINDS = {"Watch": "unary_stream", "Collect": "stream_unary", "Chat": "stream_stream"}


@contextlib.asynccontextmanager
async def lifespan(app):
    app.state.pg = await asyncpg.create_pool(PG_DSN, min_size=4, max_size=24)
    app.state.sync = SyncConnections()
    channel = grpc.aio.insecure_channel(ROSTER) if AIO else grpc.insecure_channel(ROSTER)
    app.state.channel = channel
    yield
    closed = channel.close()
    if AIO:
        await closed
    await app.state.pg.close()


app = FastAPI(title="guild", lifespan=lifespan)
serve_truth(app)


def method(request, name):
    """The stub of a method whose name carries the id."""
    request.note("http")
    path = f"/roster.Roster/{name}.rid:{request.rid}"
    return getattr(app.state.channel, KINDS.get(name, "unary_unary"))(path, dumps, loads)


def ids():
    return ({"id": number} for number in range(1, 4))


def query(request, value):
    return app.state.sync.value(request.sql(GUILD.format("%s")), value)


async def fetch(request, value):
    return await app.state.pg.fetchval(request.sql(GUILD.format("$1")), value)


def in_threads():
    """Handlers on the framework's threads, with grpcio's blocking stubs."""

    @app.get("/find")
    def find(request: Rid = Depends(Rid)):
        first = query(request, 1)
        found = method(request, "Find")({"id": 7})
        return {"guild": first, "player": found["name"], "last": query(request, 2)}

    @app.get("/watch")
    def watch(request: Rid = Depends(Rid)):
        return {"best": list(method(request, "Watch")({"count": 3})), "guild": query(request, 3)}

    @app.get("/collect")
    def collect(request: Rid = Depends(Rid)):
        return {"names": method(request, "Collect")(ids()), "guild": query(request, 4)}

    @app.get("/chat")
    def chat(request: Rid = Depends(Rid)):
        return {"names": list(method(request, "Chat")(ids())), "guild": query(request, 5)}

    def code(stub, message, **options):
        try:
            stub(message, **options)
        except grpc.RpcError as error:
            return {"code": error.code().name}

    @app.get("/refuse")
    def refuse(request: Rid = Depends(Rid)):
        return code(method(request, "Refuse"), {})

    @app.get("/unknown")
    def unknown(request: Rid = Depends(Rid)):
        return code(method(request, "NoSuch"), {})

    @app.get("/late")
    def late(request: Rid = Depends(Rid)):
        return code(method(request, "Sleep"), {"seconds": 0.5}, timeout=0.2)


def in_tasks():
    """Handlers on the event loop, with the stubs of `grpc.aio`."""

    @app.get("/find")
    async def find(request: Rid = Depends(Rid)):
        first = await fetch(request, 1)
        found = await method(request, "Find")({"id": 7})
        return {"guild": first, "player": found["name"], "last": await fetch(request, 2)}

    @app.get("/watch")
    async def watch(request: Rid = Depends(Rid)):
        best = [answer async for answer in method(request, "Watch")({"count": 3})]
        return {"best": best, "guild": await fetch(request, 3)}

    @app.get("/collect")
    async def collect(request: Rid = Depends(Rid)):
        return {"names": await method(request, "Collect")(ids()), "guild": await fetch(request, 4)}

    @app.get("/chat")
    async def chat(request: Rid = Depends(Rid)):
        names = [answer async for answer in method(request, "Chat")(ids())]
        return {"names": names, "guild": await fetch(request, 5)}

    async def code(stub, message, **options):
        try:
            await stub(message, **options)
        except grpc.RpcError as error:
            return {"code": error.code().name}

    @app.get("/refuse")
    async def refuse(request: Rid = Depends(Rid)):
        return await code(method(request, "Refuse"), {})

    @app.get("/unknown")
    async def unknown(request: Rid = Depends(Rid)):
        return await code(method(request, "NoSuch"), {})

    @app.get("/late")
    async def late(request: Rid = Depends(Rid)):
        return await code(method(request, "Sleep"), {"seconds": 0.5}, timeout=0.2)


if AIO:
    in_tasks()
else:
    in_threads()
