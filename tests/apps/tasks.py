"""Tasks of Celery, on RabbitMQ or on Redis. `celery --app tasks worker` runs them."""

import os
import sys
import threading

import celery
import celery.signals
import psycopg2
import redis
from common import PG_DSN, REDIS_URL, Rid

BROKER_URL = os.environ.get("CELERY_BROKER_URL") or os.environ.get("AMQP_URL") or REDIS_URL

app = celery.Celery("tasks", broker=BROKER_URL)
app.conf.broker_connection_retry_on_startup = True
app.conf.worker_prefetch_multiplier = int(os.environ.get("PREFETCH", "4"))
app.conf.task_acks_late = os.environ.get("ACKS_LATE") == "1"
local = threading.local()


@app.task(ignore_result=True)
def work(rid):
    request = Rid(rid)
    if not hasattr(local, "pg"):
        local.pg = psycopg2.connect(PG_DSN)
        local.pg.autocommit = True
        local.redis = redis.from_url(REDIS_URL)
    with local.pg.cursor() as cursor:
        cursor.execute(request.sql("SELECT name FROM games WHERE id = 17"))
        cursor.execute(request.sql("SELECT count(*) FROM players WHERE game_id = 17"))
    local.redis.get(request.key("task"))


@celery.signals.worker_ready.connect
def ready(**_):
    # Celery takes sys.stdout for its log.
    print("ready", file=sys.__stdout__, flush=True)
