"""A share of the inputs without a socket: the same bytes to the same handlers, in processes of their own."""

from __future__ import annotations

import asyncio
import logging
import secrets
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from podium_server import config
from podium_server.compose import Podium
from podium_server.transport import logs
from podium_server.transport.server import Server
from tests.fuzz import run
from tests.fuzz.doorways import Inside
from tests.fuzz.findings import Findings
from tests.fuzz.laws import Secrets
from tests.fuzz.victim import Keys, make_keys, secrets_of, settings


@dataclass(frozen=True, slots=True)
class Standing:
    """A server's parts in this process, without a port."""

    doorway: Inside
    keys: Keys
    secrets: Secrets


@asynccontextmanager
async def standing(folder: Path, judge_url: str) -> AsyncIterator[Standing]:
    """Compose a server within, and plant what belongs to its tenants."""
    data_dir = folder / f"inside-{secrets.token_hex(4)}"
    data_dir.mkdir(parents=True)
    configuration = config.parse(settings(data_dir, judge_url, rest=False), where="the fuzz run")
    keys = make_keys(configuration, data_dir)
    podium = Podium(configuration, data_dir=data_dir, serving=True)
    try:
        await podium.start()
        server = Server(podium.served, guards=podium.call_guards)
        doorway = Inside(server.door)
        await run.plant(doorway, keys)
        yield Standing(doorway, keys, secrets_of(keys, data_dir))
        await server.stop()
    finally:
        await podium.aclose()
        shutil.rmtree(data_dir, ignore_errors=True)


def worker(folder: Path, judge_url: str, seed: int, first: int, count: int) -> dict[str, Any]:
    """Do the inputs of some numbers; the entry of a process. Two thirds are damaged messages, the rest metadata.

    Returns:
        The tallies and the findings, as plain values.

    """
    log = folder / f"inside-{first}.log"
    with log.open("w") as stream:
        logs.configure("INFO", stream, form="json")
        logging.captureWarnings(capture=True)
        return asyncio.run(_work(folder, judge_url, seed, first, count))


async def _work(folder: Path, judge_url: str, seed: int, first: int, count: int) -> dict[str, Any]:
    findings = Findings(folder / "findings")
    tallies = []
    async with standing(folder, judge_url) as made:
        damaged = count - count // 3
        for kind, make, numbers in (
            ("protobuf", run.protobuf, range(first, first + damaged)),
            ("metadata", run.hostile, range(first, first + count // 3)),
        ):
            given = (made.doorway, made.keys, made.secrets, findings)
            tally = await run.calls(f"{kind} inside", make, numbers, seed, *given, in_flight=8)
            tallies.append((tally.kind, dict(tally.codes), tally.inputs, tally.seconds, tally.findings))
    return {"tallies": tallies, "kept": findings.kept, "count": findings.count, "keys": made.keys}
