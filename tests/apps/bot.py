"""A Discord bot (discord.py) that does for each interaction what bots do: `bot.py URL`, with the token in `BOT_TOKEN`.

Each interaction carries an id, in an option's value or a custom id; it is planted in each statement, key and routing key.
It connects when there is a file `WAIT_FOR`, and asks for `ENCODING`. With `COMPRESS=zlib` the gateway's stream is zlib even where `zstandard` is
installed.
"""

import asyncio
import functools
import os
import sys
import time

if os.environ.get("COMPRESS") == "zlib":
    sys.modules["zstandard"] = None

import aio_pika
import asyncpg
import discord
import discord.app_commands
import discord.gateway
import discord.http
import redis.asyncio
import yarl
from common import PG_DSN, REDIS_URL, Rid

NAME = "SELECT name FROM games WHERE id = 11"
COUNT = "SELECT count(*) FROM players WHERE game_id = 11"
TEXT = "message-text-SECRET"


class Bot(discord.Client):
    def __init__(self):
        super().__init__(intents=discord.Intents.none())
        self.tree = discord.app_commands.CommandTree(self)

    async def setup_hook(self):
        self.pg = await asyncpg.create_pool(PG_DSN, min_size=2, max_size=16)
        self.redis = redis.asyncio.from_url(REDIS_URL, max_connections=256)
        connection = await aio_pika.connect_robust(os.environ["AMQP_URL"])
        channel = await connection.channel()
        self.jobs = await channel.declare_exchange("jobs", aio_pika.ExchangeType.TOPIC)

    async def on_interaction(self, interaction):
        """Components and modals; commands go through the tree."""
        if interaction.type in (discord.InteractionType.component, discord.InteractionType.modal_submit):
            await handle(interaction, Rid(interaction.data["custom_id"].partition(":")[2]))


bot = Bot()
game = discord.app_commands.Group(name="game", description="Games")
bot.tree.add_command(game)


async def handle(interaction, request):
    """Looks something up, answers, goes on, and follows up."""
    await bot.pg.fetchval(request.sql(NAME))
    await interaction.response.defer()
    await asyncio.gather(bot.pg.fetchval(request.sql(COUNT)), bot.redis.get(request.key("game")))
    await bot.jobs.publish(aio_pika.Message(b"{}"), request.routing_key("events"))
    await interaction.followup.send(TEXT)


@bot.tree.command(name="list-games", description="Lists games")
async def list_games(interaction: discord.Interaction, query: str):
    await handle(interaction, Rid(query.partition(" ")[0]))


@list_games.autocomplete("query")
async def suggest(interaction: discord.Interaction, current: str):
    name = await bot.pg.fetchval(Rid(current.partition(" ")[0]).sql(NAME))
    return [discord.app_commands.Choice(name=name, value=name)]


@game.command(name="create", description="Creates a game")
async def create(interaction: discord.Interaction, query: str):
    await handle(interaction, Rid(query.partition(" ")[0]))


def main():
    base = yarl.URL(sys.argv[1])
    discord.http.Route.BASE = str(base / "api/v10")
    discord.gateway.DiscordWebSocket.DEFAULT_GATEWAY = base.with_scheme("wss") / "gateway/"
    loop = os.environ.get("EVENT_LOOP", "asyncio")
    if loop == "uvloop":
        import uvloop

        uvloop.install()
    connect = functools.partial(
        discord.gateway.DiscordWebSocket.from_client, encoding=os.environ.get("ENCODING", "json")
    )
    discord.gateway.DiscordWebSocket.from_client = connect
    print("by discord.py", discord.__version__, flush=True)
    print("ready", flush=True)
    while not os.path.exists(os.environ["WAIT_FOR"]):
        time.sleep(0.05)
    bot.run(os.environ["BOT_TOKEN"], log_level=30)


main()
