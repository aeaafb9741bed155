"""Memory and file descriptors of a process, each second, and whether they stay as they are."""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

GROWTH = 1.05
MEMORY_SLACK_MIB = 8.0
FDS_SLACK = 4
SAMPLES_MIN = 60
"""Of like states; fewer say nothing about growth."""

RULE = (
    f"Flat: of the samples of one process in the steady phases between faults ({SAMPLES_MIN} at least, one a second), "
    f"the median of the last quarter is at most {GROWTH:g} × that of the second quarter (the first is its warm-up) + "
    f"{MEMORY_SLACK_MIB:g} MiB, or + {FDS_SLACK} file descriptors"
)


@dataclass(frozen=True, slots=True)
class Sample:
    at: float
    life: int
    phase: str
    rss_mib: float
    anonymous_mib: float
    fds: int
    threads: int


@dataclass(frozen=True, slots=True)
class Flatness:
    """Of one life of the server."""

    life: int
    samples: int
    warm: float
    last: float
    most: float
    slack: float

    @property
    def flat(self) -> bool:
        return self.last <= self.warm * GROWTH + self.slack


def sample(pid: int, life: int, phase: str) -> Sample:
    """Look at a process.

    Raises:
        OSError: it is gone.

    """
    facts = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    if "VmRSS" not in facts:
        raise ProcessLookupError(pid)

    def mib(name: str) -> float:
        return int(facts[name].split()[0]) / 1024

    fds = len(os.listdir(f"/proc/{pid}/fd"))
    return Sample(time.monotonic(), life, phase, mib("VmRSS"), mib("RssAnon"), fds, int(facts["Threads"]))


async def watch(pid_of: Callable[[], int | None], state: Callable[[], tuple[int, str]], into: list[Sample]) -> None:
    """Sample for ever, each second."""
    while True:
        pid = pid_of()
        if pid is not None:
            with contextlib.suppress(OSError):
                into.append(sample(pid, *state()))
        await asyncio.sleep(1.0)


def flatness(samples: Sequence[Sample], field: str, slack: float) -> list[Flatness]:
    """Return how each life has gone that has samples enough."""
    found = []
    for life in sorted({each.life for each in samples}):
        alike = [getattr(each, field) for each in samples if each.life == life and each.phase == "steady"]
        if len(alike) < SAMPLES_MIN:
            continue
        quarter = len(alike) // 4
        warm, last = statistics.median(alike[quarter : 2 * quarter]), statistics.median(alike[-quarter:])
        most = max(getattr(each, field) for each in samples if each.life == life)
        found.append(Flatness(life, len(alike), warm, last, most, slack))
    return found
