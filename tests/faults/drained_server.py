"""A server with one slow pipeline, for tests that send it signals: `python -m tests.faults.drained_server [PORT]`."""

from __future__ import annotations

import asyncio
import sys

from podium_server.errors import ConfigInvalid
from podium_server.limits import Limits
from podium_server.transport.server import serve
from podium_strategies.oracle import Oracle
from tests.ranking.scripted import ScriptedJudge
from tests.wire.serving import standing


def main() -> None:
    """Serve until a signal comes. A question takes a second; running calls may end within three."""
    judge = ScriptedJudge(Oracle.seeded(16, 1), delay_s=lambda _: 1.0)
    podium = standing(judge, Limits(drain_s=3.0))
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    try:
        asyncio.run(serve(podium, "127.0.0.1", port, lambda address: print(address, flush=True)))
    except ConfigInvalid as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    print("stopped", flush=True)


if __name__ == "__main__":
    main()
