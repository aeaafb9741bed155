"""How many processors this process may use, which in a container is not how many the machine has."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


def usable_processors(*, cgroups: Path = _CGROUPS, own_cgroup: Path = _OWN_CGROUP) -> int:
    """Return the processors of the affinity mask, cut to the cgroup's quota of time; at least 1.

    More threads than that do not compute faster: the kernel stops all of them when the quota of a period is used up.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = quota_of_time(cgroups=cgroups, own_cgroup=own_cgroup)
    return max(1, allowed if quota is None else min(allowed, int(quota + 0.5)))


def quota_of_time(*, cgroups: Path = _CGROUPS, own_cgroup: Path = _OWN_CGROUP) -> float | None:
    """Return the smallest quota, in processors, of this process's cgroup and those above; None where there is none."""
    quotas = []
    for folder in _own_folders(cgroups, own_cgroup):
        # Version 2: "max 100000" or "150000 100000". Version 1: two files, and -1 for no quota.
        allowed = _numbers(folder / "cpu.max") or [
            *_numbers(folder / "cpu.cfs_quota_us"),
            *_numbers(folder / "cpu.cfs_period_us"),
        ]
        if len(allowed) == 2 and min(allowed) > 0:
            quotas.append(allowed[0] / allowed[1])
    return min(quotas, default=None)


def _own_folders(cgroups: Path, own_cgroup: Path) -> list[Path]:
    folders = []
    for line in _lines(own_cgroup):
        controllers, _, path = line.partition(":")[2].partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        for root in (cgroups, cgroups / "cpu", cgroups / controllers) if controllers else (cgroups,):
            own = root / path.lstrip("/")
            folders += [own, *(p for p in own.parents if p == root or root in p.parents)]
    return folders or [cgroups]


def _numbers(file: Path) -> list[int]:
    words = " ".join(_lines(file)).split()
    return [-1 if word == "max" else int(word) for word in words if word == "max" or word.lstrip("-").isdigit()]


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:  # not Linux, not mounted, or not ours to read
        return []
