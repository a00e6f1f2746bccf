"""unlucky: a FastAPI service whose broker fails it. It publishes by aio-pika and by pika, each with confirms, and says what
came of it; it takes the messages `held.#` of the exchange `lasting`, does a statement for each, and keeps what is delivered for
the first time until the broker is gone; only what begins with `first` it acknowledges at once.
"""

import asyncio
import contextlib
import os
import queue

import aio_pika
import asyncpg
import pika
from common import PG_DSN, Rid, serve_truth
from fastapi import Depends, FastAPI

AMQP_URL = os.environ["AMQP_URL"]
HELD = "SELECT name FROM games WHERE id = 11"
AGAIN = "SELECT genre FROM games WHERE id = 11"
PERSISTENT = aio_pika.DeliveryMode.PERSISTENT


@contextlib.asynccontextmanager
async def lifespan(app):
    state.pg = await asyncpg.create_pool(PG_DSN, min_size=2, max_size=16)
    state.held = state.done = 0
    state.connection = await aio_pika.connect_robust(AMQP_URL, reconnect_interval=1)
    state.channel = await state.connection.channel()
    state.lasting = await state.channel.declare_exchange("lasting", aio_pika.ExchangeType.TOPIC, durable=True)
    taking = await state.connection.channel()
    held = await taking.declare_queue("held", durable=True)
    await held.bind(state.lasting, "held.#")
    await held.consume(take)
    for _ in range(8):
        channels.put(await asyncio.to_thread(connect))
    yield
    await state.connection.close()
    await state.pg.close()


async def take(message):
    request = Rid(message.routing_key.rpartition("rid:")[2])
    if request.rid.startswith("first"):
        await state.pg.fetchval(request.sql(AGAIN))
        await message.ack()
    elif not message.redelivered:
        await state.pg.fetchval(request.sql(HELD))
        state.held += 1
    else:
        await state.pg.fetchval(request.sql(AGAIN))
        await message.ack()
        state.done += 1


app = FastAPI(title="unlucky", lifespan=lifespan)
serve_truth(app)
state = app.state
channels = queue.Queue()


def connect():
    channel = pika.BlockingConnection(pika.URLParameters(AMQP_URL)).channel()
    channel.confirm_delivery()
    return channel


def said(error):
    return {"said": type(error).__name__ if error else "taken"}


@app.get("/held")
async def held():
    """How many messages are held, and how many were taken when they came again."""
    return {"held": state.held, "done": state.done}


@app.get("/publish/{kind}")
async def publish(kind: str, exchange: str = "lasting", request: Rid = Depends(Rid)):
    """By aio-pika; to another exchange on a channel of its own."""
    request.note("publish")
    message = aio_pika.Message(b"{}", delivery_mode=PERSISTENT)
    try:
        if exchange == "lasting":
            await state.lasting.publish(message, request.routing_key(kind), mandatory=False)
            return said(None)
        channel = await state.connection.channel()
        missing = await channel.get_exchange(exchange, ensure=False)
        await missing.publish(message, request.routing_key(kind), mandatory=False)
    except (asyncio.CancelledError, Exception) as error:  # aio-pika cancels what waits for a confirm
        return said(error)
    return said(None)


@app.get("/publish-pika/{kind}")
def publish_pika(kind: str, exchange: str = "lasting", request: Rid = Depends(Rid)):
    """By pika, a channel of a connection of its own for one thread at a time."""
    request.note("publish")
    channel = channels.get()
    try:
        if not channel.is_open:
            channel = connect()
        properties = pika.BasicProperties(delivery_mode=2)
        channel.basic_publish(exchange, request.routing_key(kind), b"{}", properties)
    except Exception as error:
        return said(error)
    finally:
        channels.put(channel)
    return said(None)
