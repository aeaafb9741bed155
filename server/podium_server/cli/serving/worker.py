"""One of several processes that serve a port: `python -m podium_server.cli.serving.worker`.

`serving.workers` alone starts it. Standard input brings the configuration (eight bytes of length, then a pickle), and
its end means that the parent is gone. Standard output gets one line, when calls are answered.
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
    from podium_server.cli.serving.process import served

    try:
        asyncio.run(served(config, _tell, shared=True))
    except PodiumError as error:
        say(error.message)
        sys.exit(FAILED)


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
