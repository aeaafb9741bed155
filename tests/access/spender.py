"""Spends a quota as fast as it can, and says what it has spent: `python -m tests.access.spender FILE LIMIT`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from podium_server.access.meter import Meter
from podium_server.access.treasury import Treasury
from podium_server.access.windows import Quota
from podium_server.errors import QuotaExceeded


async def main() -> None:
    """One a line, after it was spent; `done` when the quota is used up."""
    meter = Meter(Treasury(Path(sys.argv[1])), clock=lambda: 1_800_000_000.0)
    quota = Quota("acme", "nano_usd", "month", int(sys.argv[2]))
    while True:
        try:
            (await meter.take([(quota, 7)])).settle(lambda _: 5)
        except QuotaExceeded:
            print("done", flush=True)
            return
        print(5, flush=True)


asyncio.run(main())
