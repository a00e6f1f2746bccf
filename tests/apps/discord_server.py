"""What a bot needs of Discord, on loopback: a gateway with transport compression, and the REST interface of interactions.

`discord_server.py PORT CERTIFICATE KEY`. `GET /fire?count=N&parallel=P` lets N interactions of every kind happen, P of them
at a time: the next begins when a bot has finished with one, by its last follow-up. It answers with what it was told: for each
interaction its kind, the id planted in it, and the requests that named it.
"""

import asyncio
import json
import ssl
import sys
import zlib

from aiohttp import WSMsgType, web

try:
    import zstandard
except ImportError:
    zstandard = None

APPLICATION = "900000000000000001"
GUILD = "700000000000000001"
CHANNEL = "700000000000000002"
USER = "800000000000000003"
CHANNEL_OBJECT = {
    "id": CHANNEL,
    "type": 0,
    "guild_id": GUILD,
    "name": "games",
    "position": 0,
    "permission_overwrites": [],
    "nsfw": False,
    "parent_id": None,
    "topic": None,
    "permissions": "0",
}
#: No byte of these may leave the agent.
SECRETS = {"token": "interaction-token-SECRET", "content": "message-text-SECRET", "option": "option-value-SECRET"}


def answer(content):
    """JSON as Discord sends it: without a charset, by which discord.py knows it."""
    return web.Response(body=json.dumps(content).encode(), content_type="application/json")


class Stream:
    """One compressed stream over all messages of a connection."""

    def __init__(self, how):
        self.how = how
        if how == "zlib-stream":
            self.compress = zlib.compressobj()
        elif how == "zstd-stream":
            self.compress = zstandard.ZstdCompressor().compressobj()

    def pack(self, payload):
        text = json.dumps(payload)
        if self.how == "zlib-stream":
            return self.compress.compress(text.encode()) + self.compress.flush(zlib.Z_SYNC_FLUSH)
        if self.how == "zstd-stream":
            return self.compress.compress(text.encode()) + self.compress.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
        return text


class Gateway:
    def __init__(self, socket, stream):
        self.socket = socket
        self.stream = stream
        self.sequence = 0

    async def send(self, op, data=None, event=None):
        if event:
            self.sequence += 1
        packed = self.stream.pack({"op": op, "d": data, "s": self.sequence if event else None, "t": event})
        await (self.socket.send_bytes(packed) if isinstance(packed, bytes) else self.socket.send_str(packed))


class State:
    def __init__(self):
        self.gateway = None
        self.ready = asyncio.Event()
        self.pending = {}
        self.told = {}


state = State()
routes = web.RouteTableDef()


@routes.get("/health")
async def health(request):
    return answer({"ready": state.ready.is_set()})


@routes.get("/api/v10/users/@me")
async def me(request):
    return answer({"id": APPLICATION, "username": "bot", "discriminator": "0", "avatar": None, "bot": True})


@routes.get("/api/v10/oauth2/applications/@me")
async def application(request):
    owner = {"id": USER, "username": "owner", "discriminator": "0", "avatar": None}
    return answer(
        {
            "id": APPLICATION,
            "name": "bot",
            "icon": None,
            "description": "",
            "bot_public": True,
            "bot_require_code_grant": False,
            "verify_key": "00",
            "owner": owner,
            "flags": 0,
        }
    )


@routes.get("/gateway/")
async def gateway(request):
    socket = web.WebSocketResponse(compress=request.query.get("compress") is None)
    await socket.prepare(request)
    link = Gateway(socket, Stream(request.query.get("compress")))
    await link.send(10, {"heartbeat_interval": 41250})
    async for message in socket:
        if message.type is not WSMsgType.TEXT:
            continue
        payload = json.loads(message.data)
        if payload["op"] == 1:
            await link.send(11)
        elif payload["op"] == 2:
            user = {"id": APPLICATION, "username": "bot", "discriminator": "0", "avatar": None, "bot": True}
            ready = {
                "v": 10,
                "user": user,
                "guilds": [],
                "session_id": "session-SECRET",
                "resume_gateway_url": str(request.url.with_query(None)),
                "shard": payload["d"].get("shard", [0, 1]),
                "application": {"id": APPLICATION, "flags": 0},
            }
            await link.send(0, ready, "READY")
            state.gateway = link
            state.ready.set()
    return socket


def told(interaction, what):
    if interaction in state.told:
        state.told[interaction]["requests"].append(what)


@routes.post("/api/v10/interactions/{id}/{token}/callback")
async def callback(request):
    told(request.match_info["id"], "callback")
    made = {"interaction": {"id": request.match_info["id"], "type": 2, "response_message_loading": False}}
    kind = state.told.get(request.match_info["id"], {}).get("kind")
    if kind == "autocomplete":
        finish(request.match_info["id"])
    return answer(made)


@routes.post("/api/v10/webhooks/{application}/{token}")
async def follow_up(request):
    interaction = request.match_info["token"].rpartition("-")[2]
    told(interaction, "follow-up")
    finish(interaction)
    return answer(message())


def message():
    return {
        "id": "600000000000000009",
        "channel_id": CHANNEL,
        "author": {"id": APPLICATION, "username": "bot", "discriminator": "0", "avatar": None},
        "content": SECRETS["content"],
        "timestamp": "2026-01-01T00:00:00+00:00",
        "edited_timestamp": None,
        "tts": False,
        "mention_everyone": False,
        "mentions": [],
        "mention_roles": [],
        "attachments": [],
        "embeds": [],
        "pinned": False,
        "type": 0,
        "flags": 0,
    }


def finish(interaction):
    future = state.pending.pop(interaction, None)
    if future is not None and not future.done():
        future.set_result(None)


def option(name, value, **more):
    return {"name": name, "type": 3, "value": value, **more}


def data(kind, rid):
    query = [option("query", f"{rid} {SECRETS['option']}")]
    if kind == "command":
        return 2, {"id": "1", "name": "list-games", "type": 1, "options": query}
    if kind == "sub-command":
        sub = {"name": "create", "type": 1, "options": query}
        return 2, {"id": "2", "name": "game", "type": 1, "options": [sub]}
    if kind == "autocomplete":
        focused = [option("query", f"{rid} {SECRETS['option']}", focused=True)]
        return 4, {"id": "1", "name": "list-games", "type": 1, "options": focused}
    if kind == "button":
        return 3, {"custom_id": f"join_game:{rid}", "component_type": 2}
    if kind == "select":
        return 3, {"custom_id": f"choose_game:{rid}", "component_type": 3, "values": [SECRETS["option"]]}
    field = {"type": 4, "custom_id": "name", "value": SECRETS["option"]}
    return 5, {"custom_id": f"edit_game:{rid}", "components": [{"type": 1, "components": [field]}]}


KINDS = ["command", "sub-command", "button", "select", "autocomplete", "modal"]


@routes.get("/fire")
async def fire(request):
    await state.ready.wait()
    count, parallel, rid = int(request.query["count"]), int(request.query["parallel"]), request.query["rid"]
    free = asyncio.Semaphore(parallel)
    first = 100000000000000000 + len(state.told)

    async def one(number):
        async with free:
            identity = str(first + number)
            kind = KINDS[number % len(KINDS)]
            planted = f"{rid}x{number}"
            interaction, content = data(kind, planted)
            state.told[identity] = {"kind": kind, "rid": planted, "requests": []}
            state.pending[identity] = asyncio.get_running_loop().create_future()
            user = {"id": USER, "username": "someone", "discriminator": "0", "avatar": None}
            member = {
                "user": user,
                "roles": [],
                "joined_at": "2026-01-01T00:00:00+00:00",
                "deaf": False,
                "mute": False,
                "permissions": "0",
                "flags": 0,
            }
            payload = {
                "id": identity,
                "application_id": APPLICATION,
                "type": interaction,
                "data": content,
                "guild_id": GUILD,
                "channel_id": CHANNEL,
                "channel": CHANNEL_OBJECT,
                "member": member,
                "token": f"{SECRETS['token']}-{identity}",
                "version": 1,
                "locale": "en-GB",
                "entitlements": [],
                "authorizing_integration_owners": {},
                "attachment_size_limit": 10000000,
            }
            if interaction == 3:
                payload["message"] = message()
            waiting = state.pending[identity]
            await state.gateway.send(0, payload, "INTERACTION_CREATE")
            # Events that start nothing come between.
            typing = {"guild_id": GUILD, "channel_id": CHANNEL, "user_id": USER, "timestamp": 1700000000}
            await state.gateway.send(0, typing, "TYPING_START")
            await asyncio.wait_for(waiting, 30)

    await asyncio.gather(*(one(number) for number in range(count)))
    return answer(state.told)


def main():
    port, certificate, key = sys.argv[1:]
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    app = web.Application()
    app.add_routes(routes)
    web.run_app(app, host="127.0.0.1", port=int(port), ssl_context=context, print=None)


main()
