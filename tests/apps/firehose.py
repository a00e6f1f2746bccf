"""Prints what RabbitMQ itself says of each message (`rabbitmqctl trace_on`): `publish KEY` and `deliver QUEUE KEY`."""

import os

import pika
from brokers import pika_parameters

connection = pika.BlockingConnection(pika_parameters(os.environ["AMQP_URL"]))
channel = connection.channel()
queue = channel.queue_declare("", exclusive=True).method.queue
channel.queue_bind(queue, "amq.rabbitmq.trace", "#")


def told(channel, method, properties, body):
    what, _, name = method.routing_key.partition(".")
    key = (properties.headers["routing_keys"] or [""])[0]
    print(what, key if what == "publish" else f"{name} {key}", flush=True)


channel.basic_consume(queue, told, auto_ack=True)
print("ready", flush=True)
channel.start_consuming()
