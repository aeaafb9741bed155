"""A server with REST and one slow pipeline, for tests that send it signals: `python -m tests.rest.drained_server`."""

from __future__ import annotations

import asyncio

from podium_server.limits import Limits
from podium_server.rest.server import RestServer
from podium_server.transport.server import serve
from podium_strategies.oracle import Oracle
from tests.ranking.scripted import ScriptedJudge
from tests.rest.serving import configured
from tests.wire.serving import standing


def main() -> None:
    """Serve until a signal comes. A question takes 1.5 seconds; running calls may end within five."""
    judge = ScriptedJudge(Oracle.seeded(16, 1), delay_s=lambda _: 1.5)
    podium = configured(standing(judge, Limits(drain_s=5.0)))
    rest = RestServer(podium.config.rest)
    asyncio.run(serve(podium, "127.0.0.1", 0, lambda address: print(address, flush=True), beside=[rest]))
    print("stopped", flush=True)


if __name__ == "__main__":
    main()
