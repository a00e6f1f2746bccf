"""Workers on RabbitMQ: `worker.py WAY KIND`. Takes the messages `KIND.#` of the exchange `jobs` in one of many ways, does
two statements and a Redis command for each, and publishes an event that another worker (`bot`) takes.

    callbacks  aio-pika, a task for each message, side by side
    iterator   aio-pika, one message after the other
    pika       pika's blocking connection, one after the other
    early      pika, one after the other, acknowledged before the work
    threads    pika, each message in a thread of its own, acknowledged through `add_callback_threadsafe`
    adapter    pika's asyncio connection, a task for each message
    kombu      kombu's consumer on py-amqp, one after the other
    again      aio-pika, refuses each message once before it takes it
    refuse     aio-pika, dead-letters each message to the exchange `dead`
    dead       aio-pika, takes the dead letters
    answer     aio-pika, replies to each message
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
import kombu
import kombu.mixins
import pika
import pika.adapters.asyncio_connection
import psycopg2
import redis
import redis.asyncio
from brokers import kombu_connection, pika_parameters
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
        dead = await self.channel.declare_exchange("dead", aio_pika.ExchangeType.TOPIC)
        if kind == "dead":
            queue = await self.channel.declare_queue("dead")
            await queue.bind(dead, "#")
            return queue
        queue = await self.channel.declare_queue(kind, arguments={"x-dead-letter-exchange": "dead"})
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

    async def ask(self, message):
        request = rid_of(message.routing_key)
        async with message.process():
            response = await self.httpx.get(request.url("/players/7"))
            response.raise_for_status()

    async def again(self, message):
        if message.redelivered:
            await self.work(message)
        else:
            await message.nack(requeue=True)

    async def refuse(self, message):
        request = rid_of(message.routing_key)
        await self.pg.fetchval(request.sql(FIRST))
        await message.reject(requeue=False)

    async def answer(self, message):
        request = rid_of(message.routing_key)
        async with message.process():
            name = await self.pg.fetchval(request.sql(FIRST))
            reply = aio_pika.Message(name.encode(), correlation_id=message.correlation_id)
            await self.channel.default_exchange.publish(reply, message.reply_to)

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
        works = {"bot": worker.ask, "again": worker.again, "refuse": worker.refuse, "answer": worker.answer}
        await worker.callbacks(kind, works.get(way, worker.work))


class Pika:
    def __init__(self):
        self.connection = pika.BlockingConnection(pika_parameters(AMQP_URL))
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
        self.channel.queue_declare(kind, arguments={"x-dead-letter-exchange": "dead"})
        self.channel.queue_bind(kind, "jobs", f"{kind}.#")
        handlers = {"pika": self.inline, "early": self.early, "threads": self.threads}
        self.channel.basic_consume(kind, handlers[way])
        print("ready", flush=True)
        self.channel.start_consuming()


class Adapter:
    """pika's asyncio connection: callbacks of the loop, here with a task for each message."""

    async def run(self, kind):
        self.pg = await asyncpg.create_pool(PG_DSN, min_size=2, max_size=16)
        self.redis = redis.asyncio.from_url(REDIS_URL, max_connections=256)
        self.kind = kind
        self.tasks = set()
        pika.adapters.asyncio_connection.AsyncioConnection(
            pika_parameters(AMQP_URL),
            on_open_callback=lambda connection: connection.channel(on_open_callback=self.opened),
        )
        await asyncio.Event().wait()

    def opened(self, channel):
        self.channel = channel
        channel.basic_qos(prefetch_count=PREFETCH)
        channel.exchange_declare("jobs", "topic")
        channel.queue_declare(self.kind, arguments={"x-dead-letter-exchange": "dead"})
        channel.queue_bind(self.kind, "jobs", f"{self.kind}.#")
        channel.basic_consume(self.kind, self.told, callback=lambda _: print("ready", flush=True))

    def told(self, channel, method, properties, body):
        task = asyncio.create_task(self.work(method))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def work(self, method):
        request = rid_of(method.routing_key)
        await asyncio.gather(self.pg.fetchval(request.sql(FIRST)), self.redis.get(request.key("job")))
        await self.pg.fetchval(request.sql(SECOND))
        self.channel.basic_publish("jobs", request.routing_key("events"), b"{}")
        self.channel.basic_ack(method.delivery_tag)


class Kombu(kombu.mixins.ConsumerMixin):
    def __init__(self, kind):
        self.connection = kombu_connection(AMQP_URL)
        self.jobs = kombu.Exchange("jobs", "topic", durable=False)
        arguments = {"x-dead-letter-exchange": "dead"}
        self.queue = kombu.Queue(
            kind, self.jobs, f"{kind}.#", durable=False, queue_arguments=arguments
        )
        self.producer = kombu_connection(AMQP_URL).Producer(exchange=self.jobs, auto_declare=False)
        self.pg = psycopg2.connect(PG_DSN)
        self.pg.autocommit = True
        self.redis = redis.from_url(REDIS_URL)

    def get_consumers(self, consumer, channel):
        return [consumer([self.queue], callbacks=[self.work], prefetch_count=PREFETCH)]

    def on_consume_ready(self, connection, channel, consumers, **_):
        print("ready", flush=True)

    def work(self, body, message):
        request = rid_of(message.delivery_info["routing_key"])
        with self.pg.cursor() as cursor:
            cursor.execute(request.sql(FIRST))
            cursor.execute(request.sql(SECOND))
        self.redis.get(request.key("job"))
        self.producer.publish({}, request.routing_key("events"))
        message.ack()


if __name__ == "__main__":
    way, kind = sys.argv[1:3]
    if way in ("pika", "early", "threads"):
        Pika().consume(kind, way)
    elif way == "adapter":
        asyncio.run(Adapter().run(kind))
    elif way == "kombu":
        Kombu(kind).run()
    else:
        asyncio.run(with_aio_pika(way, kind))
