"""schedule-api: a FastAPI service that publishes what is to be done: by aio-pika, by pika, by Redis, by Postgres.

The id of the request is in each routing key, which pika and brokers hand on as it is.
"""

import asyncio
import contextlib
import os
import socket
import threading

import aio_pika
import asyncpg
import kombu
import pika
import pika.adapters.asyncio_connection
import redis.asyncio
import tasks
from brokers import kombu_connection, pika_parameters
from common import PG_DSN, REDIS_URL, Rid, serve_truth
from fastapi import Depends, FastAPI

AMQP_URL = os.environ.get("AMQP_URL")
# How much the socket of aio-pika's connection takes at once, bytes: as towards a broker that is far away.
SEND_BUFFER = os.environ.get("SEND_BUFFER")


@contextlib.asynccontextmanager
async def lifespan(app):
    state.pg = await asyncpg.create_pool(PG_DSN, min_size=2, max_size=16)
    state.redis = redis.asyncio.from_url(REDIS_URL, max_connections=256)
    if AMQP_URL:
        state.connection = await aio_pika.connect_robust(AMQP_URL)
        if SEND_BUFFER:
            writer = state.connection.transport.connection._writer_task.get_coro().cr_frame.f_locals["writer"]
            connected = writer.get_extra_info("socket")
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, int(SEND_BUFFER))
        state.channel = await state.connection.channel()
        state.jobs = await state.channel.declare_exchange("jobs", aio_pika.ExchangeType.TOPIC)
        state.answers = {}
        queue = await state.channel.declare_queue("", exclusive=True)
        state.replies = queue.name
        await queue.consume(answered, no_ack=True)
        state.adapter = asyncio.get_running_loop().create_future()
        pika.adapters.asyncio_connection.AsyncioConnection(
            pika_parameters(AMQP_URL),
            on_open_callback=lambda connection: connection.channel(on_open_callback=state.adapter.set_result),
        )
    yield
    if AMQP_URL:
        await state.connection.close()
    await state.redis.aclose()
    await state.pg.close()


async def answered(message):
    """A reply: whoever waits for it goes on."""
    question = message.correlation_id
    await state.redis.get(Rid("" if question == "none" else question).key("answer"))
    state.answers.pop(question).set_result(message.body)


app = FastAPI(title="schedule", lifespan=lifespan)
serve_truth(app)
state = app.state
local = threading.local()


async def publish(request, kind, body=b"{}"):
    request.note("publish")
    await state.jobs.publish(aio_pika.Message(body), request.routing_key(kind))


@app.get("/publish/{kind}")
async def publish_one(kind: str, size: int = 2, request: Rid = Depends(Rid)):
    """A statement, then a message, then a statement."""
    await state.pg.fetchval(request.sql("SELECT name FROM games WHERE id = $1"), 3)
    await publish(request, kind, b"x" * size)
    await state.pg.fetchval(request.sql("SELECT genre FROM games WHERE id = $1"), 3)
    return {"published": 1}


@app.get("/publish-many/{kind}")
async def publish_many(kind: str, request: Rid = Depends(Rid)):
    """Three messages at once."""
    await asyncio.gather(*(publish(request, kind) for _ in range(3)))
    return {"published": 3}


@app.get("/publish-pika/{kind}")
def publish_pika(kind: str, size: int = 2, request: Rid = Depends(Rid)):
    """pika's blocking connection, one for each thread of the pool, with confirms."""
    if not hasattr(local, "channel"):
        local.channel = pika.BlockingConnection(pika_parameters(AMQP_URL)).channel()
        local.channel.confirm_delivery()
    request.note("publish")
    local.channel.basic_publish("jobs", request.routing_key(kind), b"x" * size)
    return {"published": 1}


@app.get("/publish-kombu/{kind}")
def publish_kombu(kind: str, size: int = 2, request: Rid = Depends(Rid)):
    """kombu on py-amqp, one connection for each thread of the pool."""
    if not hasattr(local, "kombu"):
        local.kombu = kombu_connection(AMQP_URL).Producer(
            exchange=kombu.Exchange("jobs", "topic", durable=False), auto_declare=False
        )
    request.note("publish")
    local.kombu.publish(b"x" * size, request.routing_key(kind))
    return {"published": 1}


@app.get("/publish-adapter/{kind}")
async def publish_adapter(kind: str, size: int = 2, request: Rid = Depends(Rid)):
    """pika's asyncio connection, one for all, between two statements."""
    await state.pg.fetchval(request.sql("SELECT name FROM games WHERE id = $1"), 3)
    request.note("publish")
    (await state.adapter).basic_publish("jobs", request.routing_key(kind), b"x" * size)
    await state.pg.fetchval(request.sql("SELECT genre FROM games WHERE id = $1"), 3)
    return {"published": 1}


@app.get("/call/{kind}")
async def call(kind: str, request: Rid = Depends(Rid)):
    """A question to a worker, and its answer."""
    request.note("publish")
    answer = asyncio.get_running_loop().create_future()
    question = request.rid or "none"
    state.answers[question] = answer
    message = aio_pika.Message(b"{}", reply_to=state.replies, correlation_id=question)
    await state.jobs.publish(message, request.routing_key(kind))
    return {"answer": (await answer).decode()}


@app.get("/task")
def task(request: Rid = Depends(Rid)):
    """A task of Celery."""
    request.note("publish" if tasks.BROKER_URL.startswith("amqp") else "redis")
    tasks.work.delay(request.rid)
    return {"tasks": 1}


@app.get("/redis-publish/{kind}")
async def redis_publish(kind: str, request: Rid = Depends(Rid)):
    """A message to a channel."""
    request.note("redis")
    return {"receivers": await state.redis.publish(kind, f"rid:{request.rid}")}


@app.get("/redis-push/{kind}")
async def redis_push(kind: str, request: Rid = Depends(Rid)):
    """An element of a list."""
    request.note("redis")
    return {"length": await state.redis.lpush(kind, f"rid:{request.rid}")}


@app.get("/notify/{kind}")
async def notify(kind: str, request: Rid = Depends(Rid)):
    """A notification."""
    await state.pg.execute(request.sql(f"SELECT pg_notify('{kind}', 'rid:{request.rid}')"))
    return {"notified": 1}


@app.get("/notify-later/{kind}")
async def notify_later(kind: str, request: Rid = Depends(Rid)):
    """A notification that leaves with the end of its transaction."""
    async with state.pg.acquire() as connection, connection.transaction():
        await connection.execute(request.sql(f"NOTIFY {kind}, 'rid:{request.rid}'"))
        await connection.fetchval(request.sql("SELECT name FROM games WHERE id = 2"))
    return {"notified": 1}
