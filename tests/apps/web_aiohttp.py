"""An aiohttp.web server: its connection task lives longer than a request. `python web_aiohttp.py PORT`."""

import asyncio
import json
import sys

import aiohttp
import asyncpg
import redis.asyncio
from aiohttp import web
from common import PG_DSN, REDIS_URL, Rid, forget, truth

routes = web.RouteTableDef()
PG = web.AppKey("pg", asyncpg.Pool)
REDIS = web.AppKey("redis", redis.asyncio.Redis)
CLIENT = web.AppKey("client", aiohttp.ClientSession)
NAME = "SELECT name FROM games WHERE id = $1"
SCORES = "SELECT id, score FROM players WHERE game_id = $1"


def rid_of(request):
    return Rid(request.query.get("rid", ""), request.query.get("plain", "") == "1")


@routes.get("/health")
async def health(_):
    return web.json_response({"ok": True})


@routes.get("/truth")
async def read_truth(_):
    return web.json_response(truth())


@routes.delete("/truth")
async def clear_truth(_):
    forget()
    return web.json_response({})


@routes.get("/games/{game_id}")
async def game(request):
    rid, game_id = rid_of(request), int(request.match_info["game_id"])
    cached = await request.app[REDIS].get(rid.key(f"web:{game_id}"))
    if cached is not None:
        return web.json_response(json.loads(cached))
    async with request.app[PG].acquire() as connection:
        name = await connection.fetchval(rid.sql(NAME), game_id)
        players = await connection.fetch(rid.sql(SCORES), game_id)
    answer = {"name": name, "players": [dict(row) for row in players]}
    await request.app[REDIS].set(rid.key(f"web:{game_id}"), json.dumps(answer), ex=60)
    return web.json_response(answer)


@routes.get("/gather")
async def gather(request):
    rid = rid_of(request)
    name, players, seen = await asyncio.gather(
        request.app[PG].fetchval(rid.sql(NAME), 1),
        request.app[PG].fetch(rid.sql(SCORES), 2),
        request.app[REDIS].get(rid.key("gather")),
    )
    return web.json_response({"name": name, "players": len(players), "seen": seen is not None})


@routes.get("/proxy")
async def proxy(request):
    async with request.app[CLIENT].get(rid_of(request).url("/players/3")) as answer:
        answer.raise_for_status()
        return web.json_response(await answer.json())


@routes.get("/stream")
async def stream(request):
    rid = rid_of(request)
    response = web.StreamResponse()
    await response.prepare(request)
    for game_id in range(1, 4):
        name = await request.app[PG].fetchval(rid.sql(NAME), game_id)
        await response.write(f"{name}\n".encode())
    await response.write_eof()
    return response


@routes.get("/error")
async def error(request):
    try:
        await request.app[PG].fetch(rid_of(request).sql("SELECT * FROM no_such_table"))
    except asyncpg.PostgresError as failure:
        return web.json_response({"sqlstate": failure.sqlstate}, status=500)
    return web.json_response({})


async def connections(app):
    app[PG] = await asyncpg.create_pool(PG_DSN, min_size=2, max_size=24)
    app[REDIS] = redis.asyncio.from_url(REDIS_URL, max_connections=512)
    app[CLIENT] = aiohttp.ClientSession()
    yield
    await app[CLIENT].close()
    await (app[REDIS].aclose() if hasattr(app[REDIS], "aclose") else app[REDIS].close())
    await app[PG].close()


def main():
    if "uvloop" in sys.argv[2:]:
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    app = web.Application()
    app.add_routes(routes)
    app.cleanup_ctx.append(connections)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None)


if __name__ == "__main__":
    main()
