"""Daemons that wake by themselves: `daemons.py WAY`, without end.

    sleep      a loop with `time.sleep`, psycopg2, redis
    select     psycopg2 that listens to `jobs` with a time-out, and works when it runs out or a notification comes
    event      a thread that waits with `Event.wait`, and `threading.Timer`
    scheduler  APScheduler's background scheduler, its jobs in a pool of threads
    sched      the standard library's `sched`
    schedule   the package `schedule`
    file       threads that wait at a pipe, in `select` before they read, at inotify, and for what a program says
    signal     a main thread that waits in `signal.pause`, and one that works in the handler while it sleeps
    asyncio    two periodic tasks, asyncpg and redis.asyncio
    uvloop     the same on uvloop
    handlers   handlers of signals on asyncio, which make a task, or wake one
    uvloop-handlers  the same on uvloop
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
import ctypes
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


def files():
    threads = Threads()
    libc = ctypes.CDLL(None, use_errno=True)

    def start(read, work, write=None):
        busy = threading.Semaphore(0)

        def loop():
            while True:
                read()
                work()
                busy.release()

        def feed():
            while True:
                time.sleep(PERIOD)
                write()
                busy.acquire()

        threading.Thread(target=loop, daemon=True).start()
        if write:
            threading.Thread(target=feed, daemon=True).start()

    def with_program():
        request = Rid(f"selectx{next(numbers)}")
        with threads.cursor as cursor:
            cursor.execute(request.sql(DUE))
        # What it says begins nothing.
        subprocess.run("echo 1; sleep 0.01; echo 2", shell=True, stdout=subprocess.PIPE, check=True)
        threads.redis.set(request.key("due"), "1")
        did(request, 1, 1)

    def read_selected():
        select.select([selected], [], [])
        os.read(selected, 16)

    pipe, end = os.pipe()
    lines = open(pipe)
    start(lines.readline, lambda: threads.work("line"), lambda: os.write(end, b"due\n"))
    selected, other = os.pipe()
    start(read_selected, with_program, lambda: os.write(other, b"due"))
    folder = os.path.dirname(os.readlink("/proc/self/fd/1"))
    name = os.path.join(folder, "watched")
    open(name, "w").close()
    notify = libc.inotify_init()
    libc.inotify_add_watch(notify, name.encode(), 4)  # IN_ATTRIB
    start(lambda: os.read(notify, 4096), lambda: threads.work("notify"), lambda: os.utime(name))
    says = f"while sleep {PERIOD}; do echo due; done"
    follow = subprocess.Popen(says, shell=True, stdout=subprocess.PIPE, text=True)
    start(follow.stdout.readline, lambda: threads.work("follow"))
    print("ready", flush=True)
    threading.Event().wait()


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


async def handlers():
    loop = asyncio.get_running_loop()
    pool = await asyncpg.create_pool(PG_DSN, min_size=4, max_size=8)
    client = redis.asyncio.from_url(REDIS_URL)
    event = asyncio.Event()
    running = set()

    async def job(name):
        request = Rid(f"{name}x{next(numbers)}")
        await pool.fetch(request.sql(DUE))
        await client.set(request.key("due"), "1")
        did(request, 1, 1)

    def make():
        task = loop.create_task(job("made"))
        running.add(task)
        task.add_done_callback(running.discard)

    async def wait():
        while True:
            await event.wait()
            event.clear()
            await job("woken")

    def signals():
        for number in itertools.cycle([signal.SIGUSR1, signal.SIGUSR2]):
            time.sleep(PERIOD)
            os.kill(os.getpid(), number)

    loop.add_signal_handler(signal.SIGUSR1, make)
    loop.add_signal_handler(signal.SIGUSR2, event.set)
    threading.Thread(target=signals, daemon=True).start()
    print("ready", flush=True)
    await wait()


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
    elif way == "handlers":
        asyncio.run(handlers())
    elif way == "uvloop-handlers":
        uvloop.install()
        asyncio.run(handlers())
    elif way == "launch":
        launch(sys.argv[2])
    else:
        ways = {
            "beat": beat,
            "event": event,
            "file": files,
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
