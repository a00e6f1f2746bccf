"""roster: a gRPC service, with a port for the rig's own questions beside it.

`GRPC=threads` is grpcio's server on a pool of threads (psycopg2 in the handlers), `GRPC=aio` that of `grpc.aio` (asyncpg).
The id of a request is in the method's name (`/roster.Roster/Find.rid:7`): it is the one thing of a call that spans show.
Messages are JSON: no generated code.
"""

import asyncio
import concurrent.futures
import contextlib
import json
import os
import time

import asyncpg
import grpc
import grpc.aio
from common import PG_DSN, Rid, serve_truth
from connections import SyncConnections
from fastapi import FastAPI

THREADS = 32
NAME = "SELECT name FROM players WHERE id = {}"
BEST = "SELECT max(score) FROM players WHERE game_id = {}"


def loads(data):
    return json.loads(data)


def dumps(message):
    return json.dumps(message).encode()


class Roster:
    """The handlers that run in threads."""

    def __init__(self):
        self.sync = SyncConnections()

    def query(self, request, text, value):
        return self.sync.value(request.sql(text.format("%s")), value)

    def find(self, request, message, context):
        return {"name": self.query(request, NAME, message["id"])}

    def watch(self, request, message, context):
        for number in range(message["count"]):
            yield {"best": self.query(request, BEST, number + 1)}

    def collect(self, request, messages, context):
        return {"names": [self.query(request, NAME, message["id"]) for message in messages]}

    def chat(self, request, messages, context):
        for message in messages:
            yield {"name": self.query(request, NAME, message["id"])}

    def refuse(self, request, message, context):
        self.query(request, NAME, 1)
        context.abort(grpc.StatusCode.NOT_FOUND, "no such player")

    def sleep(self, request, message, context):
        self.query(request, NAME, 2)
        time.sleep(message["seconds"])
        return {}


class AsyncRoster:
    """The handlers that run in tasks."""

    async def query(self, request, text, value):
        return await app.state.pg.fetchval(request.sql(text.format("$1")), value)

    async def find(self, request, message, context):
        return {"name": await self.query(request, NAME, message["id"])}

    async def watch(self, request, message, context):
        for number in range(message["count"]):
            yield {"best": await self.query(request, BEST, number + 1)}

    async def collect(self, request, messages, context):
        return {"names": [await self.query(request, NAME, message["id"]) async for message in messages]}

    async def chat(self, request, messages, context):
        async for message in messages:
            yield {"name": await self.query(request, NAME, message["id"])}

    async def refuse(self, request, message, context):
        await self.query(request, NAME, 1)
        await context.abort(grpc.StatusCode.NOT_FOUND, "no such player")

    async def sleep(self, request, message, context):
        await self.query(request, NAME, 2)
        await asyncio.sleep(message["seconds"])
        return {}


KINDS = {
    "Find": (grpc.unary_unary_rpc_method_handler, "find"),
    "Watch": (grpc.unary_stream_rpc_method_handler, "watch"),
    "Collect": (grpc.stream_unary_rpc_method_handler, "collect"),
    "Chat": (grpc.stream_stream_rpc_method_handler, "chat"),
    "Refuse": (grpc.unary_unary_rpc_method_handler, "refuse"),
    "Sleep": (grpc.unary_unary_rpc_method_handler, "sleep"),
}


class Handlers(grpc.GenericRpcHandler):
    """Finds the handler by the method's name, and gives it the id that is in it."""

    def __init__(self, roster):
        self.roster = roster

    def service(self, details):
        name, _, rid = details.method.rpartition("/")[2].partition(".rid:")
        if name not in KINDS:
            return None
        make, function = KINDS[name]
        handler, request = getattr(self.roster, function), Rid(rid)
        if isinstance(self.roster, Roster):
            behavior = lambda message, context: handler(request, message, context)
        elif name in ("Watch", "Chat"):

            async def behavior(message, context):
                async for answer in handler(request, message, context):
                    yield answer
        else:

            async def behavior(message, context):
                return await handler(request, message, context)

        return make(behavior, loads, dumps)


@contextlib.asynccontextmanager
async def lifespan(app):
    app.state.pg = await asyncpg.create_pool(PG_DSN, min_size=2, max_size=16)
    if os.environ.get("GRPC") == "aio":
        server = grpc.aio.server(handlers=[Handlers(AsyncRoster())])
        app.state.grpc = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        yield
        await server.stop(1)
    else:
        pool = concurrent.futures.ThreadPoolExecutor(THREADS)
        server = grpc.server(pool, handlers=[Handlers(Roster())])
        app.state.grpc = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield
        await asyncio.to_thread(server.stop(1).wait)
    await app.state.pg.close()


app = FastAPI(title="roster", lifespan=lifespan)
serve_truth(app)


@app.get("/grpc")
async def port():
    return app.state.grpc
