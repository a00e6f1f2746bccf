"""How pika and kombu reach a broker by the URL that aio-pika understands."""

import ssl

import kombu
import pika


def pika_parameters(url):
    """What pika needs to connect there. The authority of an encrypted broker is in aio-pika's `cafile`."""
    plain, _, query = url.partition("?")
    parameters = pika.URLParameters(plain)
    if query:
        context = ssl.create_default_context(cafile=query.removeprefix("cafile="))
        parameters.ssl_options = pika.SSLOptions(context, "localhost")
    return parameters


def kombu_connection(url):
    """The same for kombu."""
    plain, _, query = url.partition("?")
    if not query:
        return kombu.Connection(plain)
    settings = {"ca_certs": query.removeprefix("cafile="), "server_hostname": "localhost"}
    return kombu.Connection(plain.replace("amqps:", "amqp:"), ssl=settings)
