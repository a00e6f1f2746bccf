"""Workers on RabbitMQ: `worker.py WAY KIND`. Takes the messages `KIND.#` of the exchange `jobs` in one of five ways, does
two statements and a Redis command for each, and publishes an event that another worker (`bot`) takes.

    callbacks  aio-pika, a task for each message, side by side
    iterator   aio-pika, one message after the other
    pika       pika's blocking connection, one after the other
    early      pika, one after the other, acknowledged before the work
    threads    pika, each message in a thread of its own, acknowledged through `add_callback_threadsafe`
    bot        aio-pika, takes `events.#`, asks the players service over HTTP
"""

import asyncio
import functools
import os
import sys
import threading

import aio_pika
import asyncpg
import httpx
import pika
import psycopg2
import redis
import redis.asyncio
from common import PG_DSN, REDIS_URL, Rid

AMQP_URL = os.environ["AMQP_URL"]
PREFETCH = int(os.environ.get("PREFETCH", "50"))
FIRST = "SELECT name FROM games WHERE id = 11"
SECOND = "SELECT count(*) FROM players WHERE game_id = 11"


def rid_of(routing_key):
    return Rid(routing_key.rpartition("rid:")[2])


class AioPika:
    async def start(self):
        self.pg = await asyncpg.create_pool(PG_DSN, min_size=2, max_size=16)
        self.redis = redis.asyncio.from_url(REDIS_URL, max_connections=256)
        self.httpx = httpx.AsyncClient(timeout=30)
        self.connection = await aio_pika.connect_robust(AMQP_URL)
        self.channel = await self.connection.channel()
        await self.channel.set_qos(prefetch_count=PREFETCH)
        self.jobs = await self.channel.declare_exchange("jobs", aio_pika.ExchangeType.TOPIC)

    async def queue(self, kind):
        queue = await self.channel.declare_queue(kind)
        await queue.bind(self.jobs, f"{kind}.#")
        return queue

    async def work(self, message):
        request = rid_of(message.routing_key)
        async with message.process():
            first, _ = await asyncio.gather(
                self.pg.fetchval(request.sql(FIRST)), self.redis.get(request.key("job"))
            )
            await self.pg.fetchval(request.sql(SECOND))
            await self.jobs.publish(aio_pika.Message(first.encode()), request.routing_key("events"))

    async def answer(self, message):
        request = rid_of(message.routing_key)
        async with message.process():
            response = await self.httpx.get(request.url("/players/7"))
            response.raise_for_status()

    async def callbacks(self, kind, work):
        queue = await self.queue(kind)
        await queue.consume(work)
        print("ready", flush=True)
        await asyncio.Event().wait()

    async def iterator(self, kind):
        queue = await self.queue(kind)
        async with queue.iterator() as messages:
            print("ready", flush=True)
            async for message in messages:
                await self.work(message)


async def with_aio_pika(way, kind):
    worker = AioPika()
    await worker.start()
    if way == "iterator":
        await worker.iterator(kind)
    else:
        await worker.callbacks(kind, worker.answer if way == "bot" else worker.work)


class Pika:
    def __init__(self):
        self.connection = pika.BlockingConnection(pika.URLParameters(AMQP_URL))
        self.channel = self.connection.channel()
        self.channel.basic_qos(prefetch_count=PREFETCH)
        self.channel.exchange_declare("jobs", "topic")
        self.redis = redis.from_url(REDIS_URL, max_connections=256)
        self.local = threading.local()

    def work(self, request):
        if not hasattr(self.local, "pg"):
            self.local.pg = psycopg2.connect(PG_DSN)
            self.local.pg.autocommit = True
        with self.local.pg.cursor() as cursor:
            cursor.execute(request.sql(FIRST))
            cursor.execute(request.sql(SECOND))
        self.redis.get(request.key("job"))

    def inline(self, channel, method, properties, body):
        request = rid_of(method.routing_key)
        self.work(request)
        channel.basic_publish("jobs", request.routing_key("events"), b"{}")
        channel.basic_ack(method.delivery_tag)

    def early(self, channel, method, properties, body):
        channel.basic_ack(method.delivery_tag)
        request = rid_of(method.routing_key)
        self.work(request)
        channel.basic_publish("jobs", request.routing_key("events"), b"{}")

    def threads(self, channel, method, properties, body):
        def run():
            self.work(rid_of(method.routing_key))
            acknowledge = functools.partial(channel.basic_ack, method.delivery_tag)
            self.connection.add_callback_threadsafe(acknowledge)

        threading.Thread(target=run).start()

    def consume(self, kind, way):
        self.channel.queue_declare(kind)
        self.channel.queue_bind(kind, "jobs", f"{kind}.#")
        handlers = {"pika": self.inline, "early": self.early, "threads": self.threads}
        self.channel.basic_consume(kind, handlers[way])
        print("ready", flush=True)
        self.channel.start_consuming()


if __name__ == "__main__":
    way, kind = sys.argv[1:3]
    if way in ("pika", "early", "threads"):
        Pika().consume(kind, way)
    else:
        asyncio.run(with_aio_pika(way, kind))
