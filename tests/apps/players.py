"""players: the second service, called by the others over HTTP."""

import contextlib

import asyncpg
from common import PG_DSN, Rid, serve_truth
from fastapi import Depends, FastAPI


@contextlib.asynccontextmanager
async def lifespan(app):
    app.state.pg = await asyncpg.create_pool(PG_DSN, min_size=2, max_size=16)
    yield
    await app.state.pg.close()


app = FastAPI(title="players", lifespan=lifespan)
serve_truth(app)


@app.get("/echo")
async def echo(rid: str = ""):
    return {"rid": rid}


@app.get("/players/{game_id}")
async def players(game_id: int, request: Rid = Depends(Rid)):
    async with app.state.pg.acquire() as connection:
        rows = await connection.fetch(
            request.sql("SELECT id, name, score FROM players WHERE game_id = $1 ORDER BY score DESC"), game_id
        )
        best = await connection.fetchval(
            request.sql("SELECT max(score) FROM players WHERE game_id = $1"), game_id
        )
    return {"players": [dict(row) for row in rows], "best": best}
