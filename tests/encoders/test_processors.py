from __future__ import annotations

import os
from pathlib import Path

import pytest

from podium_server.backends.processors import usable_processors


@pytest.fixture(autouse=True)
def eight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


@pytest.mark.parametrize(
    ("own", "files", "want"),
    [
        ("0::/pod/one", {"pod/one/cpu.max": "max 100000", "pod/cpu.max": "200000 100000"}, 2),
        ("0::/pod/one", {"pod/one/cpu.max": "50000 100000"}, 1),
        ("0::/pod/one", {"pod/one/cpu.max": "900000 100000"}, 8),
        ("0::/pod/one", {"cpu.max": "350000 100000"}, 4),
        (
            "4:cpu,cpuacct:/a",
            {"cpu,cpuacct/a/cpu.cfs_quota_us": "300000", "cpu,cpuacct/a/cpu.cfs_period_us": "100000"},
            3,
        ),
        ("4:cpu:/a", {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"}, 8),
        ("0::/", {"cpu.max": "100000 100000"}, 1),
        ("0::/", {"cpu.max": "nonsense"}, 8),
        ("", {}, 8),
    ],
)
def test_a_quota_bounds_the_threads(tmp_path: Path, own: str, files: dict[str, str], want: int) -> None:
    for name, text in files.items():
        (tmp_path / "sys" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "sys" / name).write_text(text + "\n")
    (tmp_path / "own").write_text(own + "\n")
    assert usable_processors(cgroups=tmp_path / "sys", own_cgroup=tmp_path / "own") == want


def test_a_machine_without_cgroups(tmp_path: Path) -> None:
    assert usable_processors(cgroups=tmp_path / "none", own_cgroup=tmp_path / "neither") == 8
