"""sockets-api: WebSocket servers and clients that do something for each message, and who sends them.

    sockets.py PORT LOOP            an aiohttp server (`sockets:app` is the same for uvicorn)
    sockets.py load URL CONNECTIONS MESSAGES

With `FEED=URL` and `CLIENT=aiohttp|websockets` the first is a bot that keeps connections to that server, and with `MESSAGES=N` it is
such a server, which lets bots in when it is asked for `/open`.

Each message is the id of its own piece of work. On odd connections the client waits for the answer before it sends the next; on even
ones it sends two at a time. Some messages are long enough to be compressed.
"""

import asyncio
import contextlib
import os
import sys

import aiohttp
import asyncpg
import redis.asyncio
import websockets
from aiohttp import web
from common import PG_DSN, REDIS_URL, Rid, serve_truth, truth
from fastapi import FastAPI, WebSocket

NAME = "SELECT name FROM games WHERE id = 1"


class State:
    """Connections."""


state = State()


async def connected(_):
    state.redis = redis.asyncio.from_url(REDIS_URL)
    async with asyncpg.create_pool(PG_DSN, min_size=4, max_size=16) as state.pg:
        yield
    await state.redis.aclose()


async def serve(text):
    """What is done for a message: its answer."""
    rid = Rid(text.split()[0])
    await state.redis.get(rid.key("seen"))
    name = await state.pg.fetchval(rid.sql(NAME))
    await asyncio.gather(state.redis.set(rid.key("name"), name), state.pg.fetchval(rid.sql(NAME)))
    return f"{rid.rid} {name}"


app = FastAPI(lifespan=contextlib.asynccontextmanager(connected))
serve_truth(app)


@app.websocket("/live/{room}")
async def live(socket: WebSocket):
    await socket.accept()
    async for text in socket.iter_text():
        await socket.send_text(await serve(text))


async def aiohttp_live(request):
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        await socket.send_str(await serve(message.data))
    return socket


async def aiohttp_health(_):
    return web.json_response({"ok": True})


async def aiohttp_truth(_):
    return web.json_response(truth())


async def bot(number):
    """One connection of a bot, which it tries to get until it has it."""
    url = f"{os.environ['FEED']}/live/{number}"
    while True:
        with contextlib.suppress(aiohttp.ClientError, websockets.WebSocketException, OSError):
            if os.environ["CLIENT"] == "aiohttp":
                async with state.session.ws_connect(url, compress=15) as socket:
                    async for message in socket:
                        await socket.send_str(await serve(message.data))
            else:
                async with websockets.connect(url.replace("http", "ws", 1)) as socket:
                    async for message in socket:
                        await socket.send(await serve(message))
            return
        await asyncio.sleep(0.1)


async def bots(_):
    async with aiohttp.ClientSession() as state.session:
        running = [asyncio.create_task(bot(number)) for number in range(int(os.environ["CONNECTIONS"]))]
        yield
        for task in running:
            task.cancel()


def feed_app():
    """Sends to everybody who is let in."""
    made, state.open, state.done = web.Application(), False, 0

    async def live(request):
        if not state.open:
            raise web.HTTPServiceUnavailable
        socket = web.WebSocketResponse(compress=True)
        await socket.prepare(request)
        await send(socket, int(request.match_info["room"]), int(os.environ["MESSAGES"]))
        state.done += 1
        await socket.close()
        return socket

    async def let_in(_):
        state.open = True
        return web.json_response({})

    async def done(_):
        return web.json_response(state.done)

    made.add_routes(
        [
            web.get("/live/{room}", live),
            web.get("/open", let_in),
            web.get("/done", done),
            web.get("/health", aiohttp_health),
        ]
    )
    return made


def aiohttp_app():
    if "MESSAGES" in os.environ:
        return feed_app()
    made = web.Application()
    made.cleanup_ctx.append(connected)
    if "FEED" in os.environ:
        made.cleanup_ctx.append(bots)
    made.add_routes(
        [
            web.get("/live/{room}", aiohttp_live),
            web.get("/health", aiohttp_health),
            web.get("/truth", aiohttp_truth),
        ]
    )
    return made


async def send(socket, number, messages):
    at_once = 2 - number % 2
    for index in range(0, messages, at_once):
        rids = [f"ws{number}x{index + more}" for more in range(at_once)]
        for rid in rids:
            await socket.send_str(rid + " padding" * (index % 5 * 100))
        for rid in rids:
            answer = await socket.receive_str(timeout=30)
            assert answer.split()[0] == rid, (answer, rid)
        await asyncio.sleep(number % 7 * 0.002)


async def load(url, connections, messages):
    async def one(session, number):
        async with session.ws_connect(f"{url}/live/{number}", compress=15) as socket:
            await send(socket, number, messages)

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(one(session, number) for number in range(connections)))
    print("ready", flush=True)
    await asyncio.sleep(3600)


if __name__ == "__main__":
    if sys.argv[1] == "load":
        asyncio.run(load(sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
    else:
        if sys.argv[2] == "uvloop":
            import uvloop

            uvloop.install()
        web.run_app(aiohttp_app(), host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None)
