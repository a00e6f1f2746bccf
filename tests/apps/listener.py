"""Handlers of messages that nobody acknowledges: `listener.py WAY KIND`. Listens to `KIND` in one of eight ways, and does two
statements and a Redis command for each message, whose body is the id of the request that sent it.

    channel           redis.asyncio, a subscription, one message after the other
    channel-tasks     redis.asyncio, a task for each message
    channel-thread    redis, a subscription in a thread without a loop
    list              redis.asyncio, eight tasks that wait at a list (BLPOP)
    list-thread       redis, waits at a list (BRPOP)
    notify            psycopg2, `select` and `poll`
    notify-psycopg    psycopg 3, `notifies()`
    notify-asyncpg    asyncpg, a listener that is a coroutine
"""

import asyncio
import os
import select
import sys

import asyncpg
import psycopg
import psycopg2
import redis
import redis.asyncio
import uvloop
from common import PG_DSN, REDIS_URL, Rid

FIRST = "SELECT name FROM games WHERE id = 13"
SECOND = "SELECT count(*) FROM players WHERE game_id = 13"


def rid_of(body):
    text = body.decode() if isinstance(body, bytes) else body
    return Rid(text.removeprefix("rid:"))


class Loop:
    async def start(self):
        self.pg = await asyncpg.create_pool(PG_DSN, min_size=2, max_size=16)
        self.redis = redis.asyncio.from_url(REDIS_URL, max_connections=1024)

    async def work(self, body):
        request = rid_of(body)
        await asyncio.gather(self.pg.fetchval(request.sql(FIRST)), self.redis.get(request.key("job")))
        await self.pg.fetchval(request.sql(SECOND))

    async def channel(self, kind, tasks):
        running = set()
        async with self.redis.pubsub() as channel:
            await channel.subscribe(kind)
            print("ready", flush=True)
            async for message in channel.listen():
                if message["type"] != "message":
                    continue
                if tasks:
                    task = asyncio.create_task(self.work(message["data"]))
                    running.add(task)
                    task.add_done_callback(running.discard)
                else:
                    await self.work(message["data"])

    async def take(self, kind):
        while True:
            taken = await self.redis.blpop(kind, timeout=2)
            if taken is not None:
                await self.work(taken[1])

    async def list(self, kind):
        print("ready", flush=True)
        await asyncio.gather(*(self.take(kind) for _ in range(8)))

    async def notify(self, kind):
        async def told(connection, pid, channel, payload):
            await self.work(payload)

        connection = await asyncpg.connect(PG_DSN)
        await connection.add_listener(kind, told)
        print("ready", flush=True)
        await asyncio.Event().wait()


class Thread:
    def __init__(self):
        self.redis = redis.from_url(REDIS_URL)
        self.pg = psycopg2.connect(PG_DSN)
        self.pg.autocommit = True

    def work(self, body):
        request = rid_of(body)
        with self.pg.cursor() as cursor:
            cursor.execute(request.sql(FIRST))
            cursor.execute(request.sql(SECOND))
        self.redis.get(request.key("job"))

    def channel(self, kind):
        with self.redis.pubsub() as channel:
            channel.subscribe(kind)
            print("ready", flush=True)
            for message in channel.listen():
                if message["type"] == "message":
                    self.work(message["data"])

    def list(self, kind):
        print("ready", flush=True)
        while True:
            taken = self.redis.brpop(kind, timeout=2)
            if taken is not None:
                self.work(taken[1])

    def notify(self, kind):
        connection = psycopg2.connect(PG_DSN)
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"LISTEN {kind}")
        print("ready", flush=True)
        while True:
            if select.select([connection], [], [], 2)[0]:
                connection.poll()
                while connection.notifies:
                    self.work(connection.notifies.pop(0).payload)

    def notify_psycopg(self, kind):
        with psycopg.connect(PG_DSN, autocommit=True) as connection:
            connection.execute(f"LISTEN {kind}")
            print("ready", flush=True)
            for notification in connection.notifies():
                self.work(notification.payload)


async def with_loop(way, kind):
    loop = Loop()
    await loop.start()
    if way == "list":
        await loop.list(kind)
    elif way == "notify-asyncpg":
        await loop.notify(kind)
    else:
        await loop.channel(kind, way == "channel-tasks")


if __name__ == "__main__":
    way, kind = sys.argv[1:3]
    threads = {
        "channel-thread": Thread.channel,
        "list-thread": Thread.list,
        "notify": Thread.notify,
        "notify-psycopg": Thread.notify_psycopg,
    }
    if way in threads:
        threads[way](Thread(), kind)
    else:
        if os.environ["EVENT_LOOP"] == "uvloop":
            uvloop.install()
        asyncio.run(with_loop(way, kind))
