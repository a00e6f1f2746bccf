"""Daemons that wake by themselves: `daemons.py WAY`, without end.

    sleep      a loop with `time.sleep`, psycopg2, redis
    select     psycopg2 that listens to `jobs` with a time-out, and works when it runs out or a notification comes
    event      a thread that waits with `Event.wait`, and `threading.Timer`
    scheduler  APScheduler's background scheduler, its jobs in a pool of threads
    sched      the standard library's `sched`
    schedule   the package `schedule`
    signal     a main thread that waits in `signal.pause`, and one that works in the handler while it sleeps
    asyncio    two periodic tasks, asyncpg and redis.asyncio
    uvloop     the same on uvloop
    timeouts   asyncio's `wait_for` that runs out
    coroutines APScheduler's asyncio scheduler, its jobs coroutines
    beat       Celery beat, which publishes over RabbitMQ
    notifier   sends a notification to `select` now and then
    launch     starts `daemons.py WAY` a while later

Each piece of work has an id of its own, which is in its statements and keys. When it is done its id and what it has done are
written to standard output: `did ID SQL REDIS`. Every third time there is nothing to do. With IDLE in the environment there never is,
but it is looked for: a statement without rows, a key that does not exist.
"""

import asyncio
import datetime
import itertools
import os
import sched
import select
import signal
import subprocess
import sys
import threading
import time

import asyncpg
import psycopg2
import redis
import redis.asyncio
import schedule
import uvloop
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.schedulers.background import BackgroundScheduler
from common import PG_DSN, REDIS_URL, Rid

DUE = "SELECT id, name FROM games WHERE id = 13"
COUNT = "SELECT count(*) FROM players WHERE game_id = 13"
NOTHING = "SELECT id FROM games WHERE id < 0"
PERIOD = 0.15
IDLE = "IDLE" in os.environ
numbers = itertools.count(1)


def did(request, sql, commands):
    print(f"did {request.rid} {sql} {commands}", flush=True)


class Threads:
    """Work of threads, each with a connection of its own."""

    def __init__(self):
        self.local = threading.local()
        self.redis = redis.from_url(REDIS_URL)

    @property
    def cursor(self):
        if not hasattr(self.local, "connection"):
            self.local.connection = psycopg2.connect(PG_DSN)
            self.local.connection.autocommit = True
        return self.local.connection.cursor()

    def work(self, name):
        number = next(numbers)
        request = Rid(f"{name}x{number}")
        if IDLE:
            with self.cursor as cursor:
                cursor.execute(request.sql(NOTHING))
                self.redis.get(request.key("none"))
            return
        if number % 3 == 0:
            return
        with self.cursor as cursor:
            cursor.execute(request.sql(DUE))
            self.redis.set(request.key("due"), "1")
            # No wait: the thread thinks.
            until = time.monotonic() + 0.01
            while time.monotonic() < until:
                pass
            cursor.execute(request.sql(COUNT))
        did(request, 2, 1)


def sleep():
    threads = Threads()
    threads.work("first")
    print("ready", flush=True)
    while True:
        time.sleep(PERIOD)
        threads.work("sleep")


def listen():
    threads = Threads()
    connection = psycopg2.connect(PG_DSN)
    connection.autocommit = True
    connection.cursor().execute("LISTEN jobs")
    threads.work("first")
    print("ready", flush=True)
    while True:
        readable, _, _ = select.select([connection], [], [], PERIOD)
        if not readable:
            threads.work("select")
            continue
        connection.poll()
        while connection.notifies:
            request = Rid(connection.notifies.pop(0).payload.removeprefix("rid:"))
            with threads.cursor as cursor:
                cursor.execute(request.sql(DUE))
            did(request, 1, 0)


def notifier():
    connection = psycopg2.connect(PG_DSN)
    connection.autocommit = True
    print("ready", flush=True)
    for number in itertools.count(1):
        time.sleep(PERIOD * 2.3)
        connection.cursor().execute(f"NOTIFY jobs, 'rid:notex{number}'")


def event():
    threads = Threads()
    stop = threading.Event()

    def loop():
        while not stop.wait(PERIOD):
            threads.work("event")

    def again():
        threads.work("timer")
        threading.Timer(PERIOD, again).start()

    threading.Thread(target=loop, daemon=True).start()
    again()
    print("ready", flush=True)
    stop.wait()


def scheduler():
    threads = Threads()
    background = BackgroundScheduler()
    background.add_job(threads.work, "interval", args=["one"], seconds=PERIOD * 2, max_instances=4)
    background.add_job(threads.work, "interval", args=["two"], seconds=PERIOD * 3, max_instances=4)
    background.start()
    print("ready", flush=True)
    threading.Event().wait()


def sched_events():
    threads = Threads()
    events = sched.scheduler()

    def again():
        threads.work("sched")
        events.enter(PERIOD, 1, again)

    events.enter(PERIOD, 1, again)
    print("ready", flush=True)
    events.run()


def schedule_jobs():
    threads = Threads()
    for name in ("one", "two", "three"):
        schedule.every(1).seconds.do(threads.work, name)
        # Those that are due together are one piece of work.
        time.sleep(0.33)
    print("ready", flush=True)
    while True:
        schedule.run_pending()
        time.sleep(0.05)


def signals():
    threads = Threads()
    main = threading.main_thread().ident

    def send():
        while True:
            time.sleep(PERIOD)
            signal.pthread_kill(main, signal.SIGUSR1)
            time.sleep(PERIOD)
            signal.pthread_kill(main, signal.SIGUSR2)

    signal.signal(signal.SIGUSR1, lambda *_: None)
    signal.signal(signal.SIGUSR2, lambda *_: threads.work("handler"))
    threading.Thread(target=send, daemon=True).start()
    print("ready", flush=True)
    while True:
        signal.pause()
        threads.work("pause")
        # The handler of the other signal works in between.
        time.sleep(PERIOD * 1.5)


def beat():
    import celery
    import celery.beat

    class Beat(celery.beat.Scheduler):
        def apply_async(self, entry, *arguments, **named):
            request = Rid(f"beatx{next(numbers)}")
            entry.options["task_id"] = request.key("task")
            super().apply_async(entry, *arguments, **named)
            did(request, 1, 0)

    app = celery.Celery(broker=os.environ["AMQP_URL"])
    # Those that are due together, with no wait between, would be one piece of work: the second is due between two of the first.
    before = app.now() - datetime.timedelta(seconds=PERIOD * 2)
    app.conf.beat_schedule = {
        "one": {"task": "one", "schedule": PERIOD * 4},
        "two": {"task": "two", "schedule": PERIOD * 4, "last_run_at": before},
    }
    print("ready", flush=True)
    celery.beat.Service(app, scheduler_cls=Beat).start()


async def timeouts():
    pool = await asyncpg.create_pool(PG_DSN, min_size=4, max_size=8)

    async def periodic(name, period):
        never = asyncio.Event()
        while True:
            try:
                await asyncio.wait_for(never.wait(), period)
            except asyncio.TimeoutError:
                number = next(numbers)
                request = Rid(f"{name}x{number}")
                if IDLE:
                    await pool.fetch(request.sql(NOTHING))
                elif number % 3:
                    await pool.fetch(request.sql(DUE))
                    await pool.fetch(request.sql(COUNT))
                    did(request, 2, 0)

    both = [asyncio.create_task(periodic("one", PERIOD)), asyncio.create_task(periodic("two", PERIOD * 0.7))]
    print("ready", flush=True)
    await asyncio.gather(*both)


async def coroutines():
    pool = await asyncpg.create_pool(PG_DSN, min_size=4, max_size=8)
    client = redis.asyncio.from_url(REDIS_URL)

    async def job(name):
        number = next(numbers)
        request = Rid(f"{name}x{number}")
        if IDLE:
            await pool.fetch(request.sql(NOTHING))
            await client.get(request.key("none"))
        elif number % 3:
            await pool.fetch(request.sql(DUE))
            await client.set(request.key("due"), "1")
            did(request, 1, 1)

    scheduler = AsyncIOScheduler()
    scheduler.add_job(job, "interval", args=["one"], seconds=PERIOD * 2, max_instances=4)
    scheduler.add_job(job, "interval", args=["two"], seconds=PERIOD * 3, max_instances=4)
    scheduler.start()
    print("ready", flush=True)
    await asyncio.Event().wait()


def launch(way):
    print("ready", flush=True)
    time.sleep(7)
    sys.exit(subprocess.call([sys.executable, __file__, way]))


async def tasks():
    pool = await asyncpg.create_pool(PG_DSN, min_size=4, max_size=8)
    client = redis.asyncio.from_url(REDIS_URL)

    async def half(request):
        await pool.fetchval(request.sql(COUNT))

    async def periodic(name, period):
        while True:
            await asyncio.sleep(period)
            number = next(numbers)
            request = Rid(f"{name}x{number}")
            if IDLE:
                await pool.fetch(request.sql(NOTHING))
                await client.get(request.key("none"))
                continue
            if number % 3 == 0:
                continue
            await pool.fetch(request.sql(DUE))
            await client.set(request.key("due"), "1")
            await asyncio.gather(half(request), half(request))
            did(request, 3, 1)

    if not IDLE:
        request = Rid("firstx0")
        await pool.fetch(request.sql(DUE))
        await client.set(request.key("due"), "1")
        did(request, 1, 1)
    both = [asyncio.create_task(periodic("one", PERIOD)), asyncio.create_task(periodic("two", PERIOD * 0.7))]
    print("ready", flush=True)
    await asyncio.gather(*both)


def main():
    way = sys.argv[1]
    if way == "asyncio":
        asyncio.run(tasks())
    elif way == "uvloop":
        uvloop.install()
        asyncio.run(tasks())
    elif way == "coroutines":
        asyncio.run(coroutines())
    elif way == "timeouts":
        asyncio.run(timeouts())
    elif way == "launch":
        launch(sys.argv[2])
    else:
        ways = {
            "beat": beat,
            "event": event,
            "notifier": notifier,
            "sched": sched_events,
            "schedule": schedule_jobs,
            "scheduler": scheduler,
            "select": listen,
            "signal": signals,
            "sleep": sleep,
        }
        ways[way]()


main()
