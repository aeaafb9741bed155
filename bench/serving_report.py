"""What bench/serving.py tells of what it measured: tables, and the aims with what was found."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

WAIT_S_MAX = 2.0
"""`limits.cross_encoder_wait_s`, as it is by default."""
GOODPUT_KEPT, REFUSED_MS, TIMES_ALONE, GROWTH = 0.95, 20.0, 3.0, 1.05
LATER = 1.25
"""An answer may come that much later than the limit on waiting and its own work promise."""


class Memory(NamedTuple):
    """The server at one moment."""

    at: float
    rss_mb: float
    files: int
    threads: int


@dataclass(frozen=True)
class Step:
    """One rate: what was offered and what came of it. Rates are documents/s, times ms."""

    kind: str
    documents: int
    factor: float
    offered: float
    goodput: float
    requests_per_s: float
    sent: int
    refused: int
    others: dict[str, int]
    p50_ms: float
    p99_ms: float
    refused_ms: tuple[float, ...]
    hint_s: float
    rss_mb: float
    late_ms: float
    """p99 of how late the client itself was."""


class Aim(NamedTuple):
    """What was wanted, what was found, and whether that is enough."""

    what: str
    found: str
    reached: bool

    def __str__(self) -> str:
        return f"{self.what}: {self.found}"


def quantile(values: Sequence[float], part: float) -> float:
    """Return the smallest value that at least this part of all is not above; not a number where there are none."""
    ordered = sorted(values)
    return ordered[max(0, -int(-part * len(ordered) // 1) - 1)] if ordered else float("nan")


def aims(can: dict[str, float], steps: Sequence[Step], mixed: dict[str, Any], memory: Sequence[Memory]) -> list[Aim]:
    told = []
    for kind, rate in can.items():
        told += _of_one_size(rate, [step for step in steps if step.kind == kind])
    return [*told, _memory(memory), _mix(mixed)]


def _of_one_size(can: float, mine: Sequence[Step]) -> list[Aim]:
    documents, past = mine[0].documents, [step for step in mine if step.factor > 1]
    peak = max(step.goodput for step in mine)
    kept = min(step.goodput for step in past) / peak if peak else 0.0
    bound_s = LATER * (WAIT_S_MAX + documents / can)
    p99_s = max(step.p99_ms for step in past) / 1e3
    refused = [took for step in past for took in step.refused_ms]
    p99_ms, p50_ms = quantile(refused, 0.99), quantile(refused, 0.5)
    return [
        Aim(
            f"{documents} documents: least goodput past saturation ≥ {GOODPUT_KEPT:.0%} of the peak",
            f"{kept:.1%}",
            kept >= GOODPUT_KEPT,
        ),
        Aim(
            f"{documents} documents: p99 of admitted past saturation ≤ {LATER:g} × ({WAIT_S_MAX:g} s + own work)",
            f"{p99_s:.2f} s of {bound_s:.2f} s",
            p99_s <= bound_s,
        ),
        Aim(
            f"{documents} documents: p99 of refusals ≤ {REFUSED_MS:g} ms",
            f"{p99_ms:.1f} ms of {len(refused)} (p50 {p50_ms:.1f} ms)" if refused else "none was refused",
            not refused or p99_ms <= REFUSED_MS,
        ),
    ]


def _memory(memory: Sequence[Memory]) -> Aim:
    part = max(1, len(memory) // 10)
    first, last = memory[:part], memory[-part:]
    before, after = (statistics.median(one.rss_mb for one in some) for some in (first, last))
    files = [statistics.median(one.files for one in some) for some in (first, last)]
    most = max(one.rss_mb for one in memory)
    found = (
        f"{before:.0f} → {after:.0f} MB (most {most:.0f} MB; open files {files[0]:.0f} → {files[1]:.0f}; "
        f"threads {first[0].threads} → {last[-1].threads})"
    )
    return Aim(f"memory at the end ≤ {GROWTH:g} × that after the closed loops", found, after <= GROWTH * before)


def _mix(mixed: dict[str, Any]) -> Aim:
    alone, beside = quantile(mixed["alone_ms"], 0.99), quantile(mixed["mixed_ms"], 0.99)
    failed = mixed["mixed_failed"] + mixed["alone_failed"]
    found = f"{beside / alone:.2f} × ({alone:.0f} → {beside:.0f} ms), {failed} not answered"
    reached = beside <= TIMES_ALONE * alone and not failed
    return Aim(f"the mix: small ones' p99 ≤ {TIMES_ALONE:g} × alone, and all answered", found, reached)


def report(
    model: str,
    can: dict[str, float],
    steps: Sequence[Step],
    mixed: dict[str, Any],
    memory: Sequence[Memory],
    paper: Console,
) -> list[str]:
    """Print the tables and the aims, and return them as Markdown."""
    titles = ["× capacity", "offered", "goodput", "requests/s", "of peak", "p50 ms", "p99 ms", "refused"]
    titles += ["p50, p99 ms", "hint s", "others", "RSS MB"]
    measured_on = f"{os.cpu_count()} cores of {processor()}, load {os.getloadavg()[0]:.1f} at the end"
    said = [f"{measured_on}. What is what stands in bench/serving.py.", ""]
    said += [f"The model: {model}. Rates are documents/s unless they say otherwise."]
    paper.print("\n" + "\n".join(said))
    for kind, rate in can.items():
        mine = [step for step in steps if step.kind == kind]
        peak = max(step.goodput for step in mine)
        heading = f"{mine[0].documents} documents a request; {rate:.1f} documents/s in a closed loop"
        said += _table(heading, titles, [_row(step, peak) for step in mine], paper)
    heading = (
        f"The mix: {mixed['requests']} requests in {mixed['seconds']:.0f} s, {mixed['huge']} of them huge: "
        f"{mixed['huge_work']:.0%} of the work, at {mixed['load']:.0%} of the capacity"
    )
    said += _table(heading, ["", "answered", "p50 ms", "p90 ms", "p99 ms", "not answered"], _mix_rows(mixed), paper)
    found = aims(can, steps, mixed, memory)
    for aim in found:
        paper.print(f"  {aim} [{'green' if aim.reached else 'red'}]{'reached' if aim.reached else 'missed'}[/]")
    late = f"the client itself was at most {max(step.late_ms for step in steps):.1f} ms late (p99 of a rate)"
    paper.print(f"  {late}", style="dim")
    aimed = [f"- {aim}, {'reached' if aim.reached else 'missed'}" for aim in found]
    return ["# Serving under load: `make bench-serving`\n", *said, "", *aimed, f"- {late}"]


def processor() -> str:
    """Return the name of this machine's processor."""
    told = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in told if line.startswith("model name")), "unknown processor")


def _row(step: Step, peak: float) -> list[str]:
    took = step.refused_ms
    return [
        f"{step.factor:g}",
        f"{step.offered:.1f}",
        f"{step.goodput:.1f}",
        f"{step.requests_per_s:.2f}",
        f"{step.goodput / peak:.0%}" if peak else "",
        f"{step.p50_ms:.0f}",
        f"{step.p99_ms:.0f}",
        f"{step.refused / step.sent:.0%}",
        f"{quantile(took, 0.5):.1f}, {quantile(took, 0.99):.1f}" if took else "",
        f"{step.hint_s:.1f}" if took else "",
        ", ".join(f"{count} {code}" for code, count in step.others.items()),
        f"{step.rss_mb:.0f}",
    ]


def _mix_rows(mixed: dict[str, Any]) -> list[list[str]]:
    rows = (
        ("small, alone", mixed["alone_ms"], mixed["alone_failed"]),
        ("small, mixed", mixed["mixed_ms"], mixed["mixed_failed"]),
        ("huge", mixed["huge_ms"], mixed["huge"] - len(mixed["huge_ms"])),
    )
    return [
        [name, str(len(took)), *(f"{quantile(took, part):.0f}" for part in (0.5, 0.9, 0.99)), str(failed)]
        for name, took, failed in rows
    ]


def _table(heading: str, titles: Sequence[str], rows: Sequence[Sequence[str]], paper: Console) -> list[str]:
    shown = Table(*titles, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for row in rows:
        shown.add_row(*row)
    paper.print(f"\n{heading}")
    paper.print(shown)
    body = [f"| {' | '.join(row)} |" for row in rows]
    return ["", f"## {heading}\n", f"| {' | '.join(titles)} |", f"|{' --- |' * len(titles)}", *body]
