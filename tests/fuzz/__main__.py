"""`python -m tests.fuzz`: the run, and its table."""

from __future__ import annotations

import argparse
import asyncio
import shlex
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

from tests.fuzz import by_schema, http2, inside, report, run
from tests.fuzz.doorways import Wire
from tests.fuzz.findings import Findings
from tests.fuzz.run import Tally
from tests.fuzz.victim import MARK, RIVAL_TEXT, Victim, judge, log_faults, victim

SHARES = (
    ("protobuf", 12.0),
    ("metadata", 4.0),
    ("beside", 1.5),
    ("admin", 0.2),
    ("http2", 1.0),
    ("rest bodies", 5.0),
    ("rest raw", 1.5),
    ("schemathesis", 0.8),
    ("inside", 74.0),
)
"""Of the inputs, by kind."""
_PARTS = 10
"""In which each kind is sent, one after the other, so that all of them meet a server that has gone through some."""
_MIB = 1 << 20
GROWTH_MAX = 300 * _MIB
"""Of the server's memory, from the end of the first part to the end of the last."""
FILES_MAX = 64
"""Likewise, of its open files."""


@dataclass
class Whole:
    """A run."""

    tallies: list[Tally] = field(default_factory=list)
    memory: list[tuple[int, int]] = field(default_factory=list)
    """Resident bytes and open files of the server, after each part."""
    log_lines: int = 0
    left_out: dict[str, str] = field(default_factory=dict)
    """Kinds that were not run, with the reason."""

    def add(self, tally: Tally) -> None:
        """Add what a phase did to what it did before."""
        known = next((each for each in self.tallies if each.kind == tally.kind), None)
        if known is None:
            self.tallies.append(tally)
            return
        known.codes.update(tally.codes)
        known.inputs += tally.inputs
        known.seconds += tally.seconds
        known.findings += tally.findings

    @property
    def inputs(self) -> int:
        """All of them."""
        return sum(tally.inputs for tally in self.tallies)


async def fuzz(
    total: int,
    seed: int,
    folder: Path,
    findings: Findings,
    *,
    left_out: frozenset[str] = frozenset(),
    parts: int = _PARTS,
    workers: int = 2,
) -> Whole:
    """Run all of it, and return what was done. Inputs are numbered, so that parts are a matter of order alone."""
    whole = Whole()
    wanted = run.shares(total, [(kind, 0.0 if kind in left_out else share) for kind, share in SHARES])
    whole.left_out = dict.fromkeys(sorted(left_out), "by the command line")
    if wanted["schemathesis"] and not by_schema.is_there():
        whole.left_out["schemathesis"] = "its environment is not built (make fuzz builds it)"
        wanted["schemathesis"] = 0
    within = asyncio.create_task(_inside(wanted["inside"], seed, folder, findings, whole, workers))
    async with victim(folder) as server, _wire(server.address) as wire, _wire(server.admin) as admin:
        await run.plant(wire, server.keys)
        page = await run.page_of(server)
        for part in range(parts):
            at = {kind: _slice(count, part, parts) for kind, count in wanted.items() if kind != "inside"}
            await _part(server, wire, admin, page, at, seed, findings, whole)
            await run.tidy(wire, server.keys)
            whole.memory.append(server.look())
            _say(f"part {part + 1} of {parts}: {whole.inputs:,} inputs, {findings.count} findings, {whole.memory[-1]}")
        await _judged_as_a_whole(server, wire, seed, findings, whole)
    await within
    return whole


async def _part(
    server: Victim,
    wire: Wire,
    admin: Wire,
    page: run.Page,
    at: dict[str, range],
    seed: int,
    findings: Findings,
    whole: Whole,
) -> None:
    """Send one part of every kind."""
    given = (server.keys, server.secrets, findings)
    alive = lambda: server.alive  # noqa: E731
    for kind, make, way in (
        ("protobuf", run.protobuf, wire),
        ("metadata", run.hostile, wire),
        ("beside", run.beside, wire),
        ("admin", run.beside, admin),
    ):
        whole.add(await run.calls(kind, make, at[kind], seed, way, *given, alive=alive))
    whole.add(await http2.phase(at["http2"], seed, server, findings))
    whole.add(await run.rest_bodies(at["rest bodies"], seed, server, page, findings))
    whole.add(await run.rest_raw(at["rest raw"], seed, server, page, findings))
    if at.get("schemathesis"):
        whole.add(await by_schema.phase(at["schemathesis"], seed, server, page, findings))


async def _judged_as_a_whole(server: Victim, wire: Wire, seed: int, findings: Findings, whole: Whole) -> None:
    """Look at what no single answer shows: whether it lives and answers, its memory, its files, its log."""
    faults: list[str] = []
    if not server.alive or not await run.is_well(server, wire):
        faults.append("the server does not answer any more")
    whole.log_lines = log_faults(server, faults.append)
    (first, first_files), (last, last_files) = whole.memory[0], whole.memory[-1]
    if last - first > GROWTH_MAX:
        faults.append(f"its memory grew by {(last - first) / _MIB:.0f} MiB; {GROWTH_MAX / _MIB:.0f} are allowed")
    if last_files - first_files > FILES_MAX:
        faults.append(f"it has {last_files} open files, and had {first_files}")
    for fault in faults:
        await findings.add("server", seed, 0, "", fault, b"")


async def _inside(count: int, seed: int, folder: Path, findings: Findings, whole: Whole, workers: int) -> None:
    """Do the share without a socket, in processes of its own; one that dies is a finding."""
    if not count:
        return
    shares = [_slice(count, place, workers) for place in range(workers)]
    async with judge() as asked:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            loop = asyncio.get_running_loop()
            works = [
                loop.run_in_executor(pool, inside.worker, folder, asked.url, seed, one.start, len(one))
                for one in shares
            ]
            for one, outcome in zip(shares, await asyncio.gather(*works, return_exceptions=True), strict=True):
                if isinstance(outcome, BaseException):
                    await findings.add("inside", seed, one.start, "", f"a process ended: {outcome!r}", b"")
                    continue
                for kind, codes, inputs, seconds, found in outcome["tallies"]:
                    whole.add(Tally(kind, Counter(codes), inputs, seconds / workers, found))
                for kept in outcome["kept"]:
                    findings.kept.append(kept)
                findings.count += outcome["count"]
    for one in shares:
        await _log_of_inside(folder / f"inside-{one.start}.log", seed, findings)


async def _log_of_inside(path: Path, seed: int, findings: Findings) -> None:
    with path.open("rb") as log:
        for line in log:
            private = MARK.encode() in line or RIVAL_TEXT.encode() in line
            if private or b'"level": "ERROR"' in line:
                await findings.add("inside", seed, 0, path.name, f"the log: {line[:600]!r}", b"")


def _slice(count: int, part: int, parts: int) -> range:
    """Return the numbers of one part."""
    return range(count * part // parts, count * (part + 1) // parts)


@asynccontextmanager
async def _wire(address: str) -> AsyncIterator[Wire]:
    made = Wire(address)
    try:
        yield made
    finally:
        await made.close()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Run, write the table, and end with 1 where a law was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000, metavar="N", help="In all, about. [1000000]")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="All inputs follow from it. [0]")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="The table. [the standard output]")
    parser.add_argument("--findings", type=Path, default=Path("out/fuzz"), metavar="DIR", help="[out/fuzz]")
    parser.add_argument("--leave-out", default="", metavar="KINDS", help="With commas, such as schemathesis,inside.")
    given = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):  # the second is ignored by what a shell put into the background
        signal.signal(number, signal.default_int_handler)
    findings = Findings(given.findings)
    with tempfile.TemporaryDirectory(prefix="podium-fuzz-") as folder:
        left_out = frozenset(filter(None, given.leave_out.split(",")))
        whole = asyncio.run(fuzz(given.inputs, given.seed, Path(folder), findings, left_out=left_out))
    command = shlex.join(["python", "-m", "tests.fuzz", *sys.argv[1:]])
    text = report.table(whole, findings, command)
    if given.out is None:
        print(text)
    else:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(text, "utf-8")
    sys.exit(1 if findings.count else 0)


if __name__ == "__main__":
    main()
