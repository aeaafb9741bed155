"""`podium serve`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from podium_server.cli import options
from podium_server.cli.app import Command, say

if TYPE_CHECKING:
    from podium_server.config import Config


@click.command(
    "serve",
    cls=Command,
    epilog=options.example(
        "podium serve --port 50051 --data-dir ./data\npodium serve --config podium.toml --workers 4"
    ),
)
@options.config
@click.option("--host", metavar="HOST", help="Name or address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), metavar="PORT", help="0 takes a free one.  [default: 50051]")
@options.data_dir
@click.option(
    "--workers",
    type=click.IntRange(1, 1024),
    metavar="N",
    help="Processes that serve the port together; more than one have no collections.  [default: 1]",
)
def command(
    config_path: Path | None, host: str | None, port: int | None, data_dir: Path | None, workers: int | None
) -> None:
    """Serve over gRPC.

    Prints `listening on HOST:PORT` once it is ready. SIGTERM and Ctrl-C let running calls end, refuse new ones, and
    stop.

    With several workers, each has its share of the processors, its own queues, limits of requests and caches in memory.
    Rate limits of endpoints hold for all of them together. One that dies is told of and started again.
    """
    from podium_server import config

    loaded = config.load(config_path)
    given = {"host": host, "port": port, "data_dir": data_dir, "workers": workers}
    section = loaded.server.model_copy(update={key: value for key, value in given.items() if value is not None})
    loaded = loaded.model_copy(update={"server": section})
    if section.workers == 1:
        asyncio.run(_serve(loaded))
        return
    from podium_server.cli.workers import Workers

    asyncio.run(Workers(loaded, _announce, say).run())


async def _serve(config: Config) -> None:
    from podium_server.compose import Podium
    from podium_server.transport.server import serve

    podium = Podium(config, data_dir=config.server.data_dir)
    try:
        await podium.start()
        await serve(podium, config.server.host, config.server.port, _announce)
    finally:
        await podium.aclose()


def _announce(address: str) -> None:
    """Say where the server listens, in the one line that scripts wait for."""
    click.echo(f"listening on {address}")
    sys.stdout.flush()
