"""`podium serve`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click

from podium_server.cli import options
from podium_server.cli.app import Command, say


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
    "--rest-port",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="Serve JSON over HTTP, too; 0 takes a free one (extra rest).  [default: not]",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 1024),
    metavar="N",
    help="Processes that serve the port together; more than one have no collections.  [default: 1]",
)
@click.option(
    "--insecure-listen",
    is_flag=True,
    help="Listen beyond this machine without TLS or without keys: anyone can call this server then.",
)
def command(
    config_path: Path | None,
    host: str | None,
    port: int | None,
    data_dir: Path | None,
    rest_port: int | None,
    workers: int | None,
    insecure_listen: bool,
) -> None:
    """Serve over gRPC, and over REST where it is asked for.

    Prints `listening on HOST:PORT` once it is ready, and `listening on http://HOST:PORT` for REST. SIGTERM and Ctrl-C
    let running calls end, refuse new ones, and stop.

    With several workers, each has its share of the processors, its own queues, limits of requests and caches in memory.
    Rate limits of endpoints hold for all of them together. One that dies is told of and started again.
    """
    from podium_server import config

    loaded = config.load(config_path)
    from podium_server.access.listening import Exposure
    from podium_server.access.sections import IN_SO_MANY_WORDS

    insecure = IN_SO_MANY_WORDS if insecure_listen else None
    given = {"insecure": insecure, "host": host, "port": port, "data_dir": data_dir, "workers": workers}
    section = loaded.server.model_copy(update={key: value for key, value in given.items() if value is not None})
    rest = loaded.rest if rest_port is None else loaded.rest.model_copy(update={"port": rest_port})
    loaded = loaded.model_copy(update={"server": section, "rest": rest})
    # Here as well as where sockets are opened: before models are loaded, and before workers begin.
    Exposure.of(loaded.tls, loaded.access, section.insecure).check(section.host, section.port)
    if section.workers == 1:
        from podium_server.cli.serving.process import served

        asyncio.run(served(loaded, _announce))
        return
    from podium_server.cli.serving.workers import Workers

    asyncio.run(Workers(loaded, _announce, say).run())


def _announce(address: str) -> None:
    """Say where the server listens, in the one line that scripts wait for."""
    click.echo(f"listening on {address}")
    sys.stdout.flush()
