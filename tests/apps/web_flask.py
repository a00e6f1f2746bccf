"""A Flask application for gunicorn's sync and gthread workers: psycopg2, redis and requests, all blocking."""

import json
import threading

import psycopg2
import redis
import requests
from common import PG_DSN, REDIS_URL, Rid, forget, truth
from flask import Flask, Response, jsonify, request

app = Flask(__name__)
local = threading.local()


def pg():
    """This thread's Postgres connection."""
    if not hasattr(local, "pg"):
        local.pg = psycopg2.connect(PG_DSN)
    return local.pg


def cache():
    """This thread's Redis client."""
    if not hasattr(local, "redis"):
        local.redis = redis.from_url(REDIS_URL)
    return local.redis


def http():
    """This thread's HTTP session."""
    if not hasattr(local, "http"):
        local.http = requests.Session()
    return local.http


def rid_of():
    return Rid(request.args.get("rid", ""), request.args.get("plain") == "1")


@app.get("/health")
def health():
    return jsonify(ok=True)


@app.get("/truth")
def read_truth():
    return jsonify(truth())


@app.delete("/truth")
def clear_truth():
    forget()
    return jsonify({})


@app.get("/games/<int:game_id>")
def game(game_id):
    rid = rid_of()
    cached = cache().get(rid.key(f"flask:{game_id}"))
    if cached is not None:
        return jsonify(json.loads(cached))
    with pg() as connection, connection.cursor() as cursor:
        cursor.execute(rid.sql("SELECT name, genre FROM games WHERE id = %s"), (game_id,))
        name, genre = cursor.fetchone()
        cursor.execute(rid.sql("SELECT id, score FROM players WHERE game_id = %s"), (game_id,))
        players = cursor.fetchall()
    answer = {"name": name, "genre": genre, "players": players}
    cache().set(rid.key(f"flask:{game_id}"), json.dumps(answer), ex=60)
    return jsonify(answer)


@app.get("/proxy")
def proxy():
    answer = http().get(rid_of().url("/players/4"), timeout=30)
    answer.raise_for_status()
    return jsonify(answer.json())


@app.get("/stream")
def stream():
    rid = rid_of()

    def rows():
        for game_id in range(1, 4):
            with pg() as connection, connection.cursor() as cursor:
                cursor.execute(rid.sql("SELECT name FROM games WHERE id = %s"), (game_id,))
                yield cursor.fetchone()[0] + "\n"

    return Response(rows(), mimetype="text/plain")


@app.get("/pipeline")
def pipeline():
    rid = rid_of()
    with cache().pipeline(transaction=True) as pipe:
        pipe.incr(rid.key("n"))
        pipe.expire(rid.key("n"), 60)
        return jsonify(results=len(pipe.execute()))


@app.get("/error")
def error():
    try:
        with pg() as connection, connection.cursor() as cursor:
            cursor.execute(rid_of().sql("SELECT * FROM no_such_table"))
    except psycopg2.Error as failure:
        return jsonify(sqlstate=failure.pgcode), 500
    return jsonify({})
