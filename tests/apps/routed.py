"""routed: the same routes by several frameworks. Each answer names the route that has served it, by the framework's own word.

`uvicorn routed:app` is FastAPI, `flask --app 'routed:flask_app()' run` Flask, `python routed.py PORT` aiohttp.
"""

import sys


def fastapi_app():
    from fastapi import APIRouter, FastAPI, HTTPException, Request
    from fastapi.responses import PlainTextResponse
    from starlette.applications import Starlette
    from starlette.middleware.base import BaseHTTPMiddleware
    from starlette.routing import Mount, Route

    def answer(request: Request):
        return PlainTextResponse(request.scope["route"].path)

    app = FastAPI()
    app.get("/health")(answer)

    @app.middleware("http")
    async def around(request, call_next):
        return await call_next(request)

    app.get("/games/latest")(answer)
    app.get("/games/{game_id:int}")(answer)
    app.get("/games/{name}")(answer)
    app.post("/games/{other}")(answer)
    app.get("/files/{path:path}")(answer)

    @app.get("/broken/{reason}")
    def broken(reason: str):
        raise HTTPException(404, "no such reason")

    router = APIRouter(prefix="/players")
    router.get("/{player_id}/games/{game_id}")(answer)
    app.include_router(router)

    inner = FastAPI()

    @inner.get("/items/{item_id}")
    def item(request: Request):
        return PlainTextResponse("/shop" + request.scope["route"].path)

    app.mount("/shop", inner)

    async def plain(request):
        return PlainTextResponse("/plain/deep/{word}")

    starlette = Starlette(routes=[Mount("/deep", routes=[Route("/{word}", plain)])])
    starlette.add_middleware(BaseHTTPMiddleware, dispatch=around)
    app.mount("/plain", starlette)
    return app


def flask_app():
    from flask import Flask, request

    app = Flask(__name__)

    def answer(**arguments):
        return request.url_rule.rule

    for rule in ["/health", "/<path:rest>", "/games/<name>", "/games/<int:game_id>", "/games/latest", "/files/<path:path>"]:
        app.add_url_rule(rule, rule, answer)
    app.add_url_rule("/games/<other>", "post", answer, methods=["POST"])
    return app


def run_aiohttp(port):
    from aiohttp import web

    async def answer(request):
        return web.Response(text=request.match_info.route.resource.canonical)

    async def inner_answer(request):
        return web.Response(text="/shop/items/{item_id}")

    app = web.Application()
    app.router.add_get("/health", answer)
    app.router.add_get("/{anything}/{more}", answer)
    app.router.add_get(r"/games/{game_id:\d+}", answer)
    app.router.add_get("/games/latest", answer)
    app.router.add_get("/games/{name}", answer)
    app.router.add_get("/files/{path:.*}", answer)
    inner = web.Application()
    inner.router.add_get("/items/{item_id}", inner_answer)
    app.add_subapp("/shop/", inner)
    web.run_app(app, host="127.0.0.1", port=port, print=None)


if __name__ == "__main__":
    run_aiohttp(int(sys.argv[1]))
else:
    app = fastapi_app()
