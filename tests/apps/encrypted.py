"""A service of what can happen with TLS: `encrypted:app`, by uvicorn.

Connections that come and go, and a TLS library that is loaded late.
"""

import contextlib
import ssl

import asyncpg
import httpx
from common import PG_DSN, Rid, serve_truth
from fastapi import Depends, FastAPI


@contextlib.asynccontextmanager
async def lifespan(app):
    app.state.context = ssl.create_default_context()
    yield


app = FastAPI(title="encrypted", lifespan=lifespan)
serve_truth(app)


@app.get("/reuse")
async def reuse(port: int, request: Rid = Depends(Rid)):
    """New connections, each closed at once: their objects stand at the same few addresses."""
    request.note("http")
    async with httpx.AsyncClient(verify=app.state.context) as client:
        answer = await client.get(f"https://localhost:{port}/health?rid={request.rid}")
        answer.raise_for_status()
    connection = await asyncpg.connect(PG_DSN)
    try:
        await connection.fetchval(request.sql("SELECT name FROM games WHERE id = 3"))
    finally:
        await connection.close()
    return {}


def with_psycopg2(request):
    import psycopg2

    connection = psycopg2.connect(PG_DSN)
    with contextlib.closing(connection), connection.cursor() as cursor:
        cursor.execute(request.sql("SELECT count(*) FROM games"))
        return cursor.fetchone()[0]


@app.get("/library")
def library(request: Rid = Depends(Rid)):
    """psycopg2 brings a libssl of its own, which is loaded by the first of these."""
    return {"games": with_psycopg2(request)}
