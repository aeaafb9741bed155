"""One of several processes that serve a port: `python -m podium_server.cli.worker`, started by `cli.workers` alone.

Standard input brings the configuration (eight bytes of length, then a pickle), and its end means that the parent is
gone. Standard output gets one line, when calls are answered.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import sys
import threading
from typing import TYPE_CHECKING

from podium_server.cli.app import FAILED, say
from podium_server.errors import PodiumError

if TYPE_CHECKING:
    from podium_server.config import Config

_STDIN = 0


def main() -> None:
    """Serve until SIGTERM, or until the parent is gone."""
    config: Config = pickle.loads(_read(int.from_bytes(_read(8), "big")))
    # Raw reads in a thread of its own: a daemon that holds Python's lock of stdin would break the interpreter's end.
    threading.Thread(target=_end_with_the_parent, name="parent", daemon=True).start()
    try:
        asyncio.run(_serve(config))
    except PodiumError as error:
        say(error.message)
        sys.exit(FAILED)


async def _serve(config: Config) -> None:
    from podium_server.cli.serve import beside
    from podium_server.compose import Podium
    from podium_server.transport import logs
    from podium_server.transport.admin_service import administered
    from podium_server.transport.server import serve

    logs.configure(config.telemetry.log_level, form=config.telemetry.logs)
    podium = Podium(config, data_dir=config.server.data_dir, collections=False, serving=True)
    try:
        await podium.start()
        server = config.server
        guards, others = podium.call_guards, beside(config)
        async with administered(podium.administration, config.admin.host, config.admin.port):
            await serve(podium.served, server.host, server.port, _tell, shared=True, guards=guards, beside=others)
    finally:
        await podium.aclose()


def _tell(address: str) -> None:
    sys.stdout.write(f"{address}\n")
    sys.stdout.flush()


def _read(size: int) -> bytes:
    """Read exactly that much from the parent."""
    read = b""
    while len(read) < size:
        part = os.read(_STDIN, size - len(read))
        if not part:
            sys.exit(FAILED)
        read += part
    return read


def _end_with_the_parent() -> None:
    while os.read(_STDIN, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
