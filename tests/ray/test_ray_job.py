"""The same job on a Ray cluster of two workers, one of which is killed in the middle: nothing lost, nothing twice.

make test-ray
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Endpoint, a_list, endpoint, lines, write_lists

ray = pytest.importorskip("ray", reason="the extra `ray` is not installed here; make test-ray installs it")
pytestmark = pytest.mark.timeout(300)
__all__ = ["endpoint"]  # the fixture

STORE_BYTES = 100 << 20  # each machine's; the smallest that Ray takes is 75 MiB
LISTS = 400


class TwoMachines:
    """A cluster of one machine that only keeps the books and two that work, as processes of this one."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        books = {"num_cpus": 0, "object_store_memory": STORE_BYTES, "include_dashboard": False}
        self.cluster: Any = Cluster(initialize_head=True, head_node_args=books)
        self.workers = [self.cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES) for _ in range(2)]

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def kill_one(self) -> None:
        self.cluster.remove_node(self.workers.pop(), allow_graceful=False)


@pytest.fixture(scope="module")
def machines() -> Iterator[TwoMachines]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    running = TwoMachines()
    yield running
    running.cluster.shutdown()


def job(folder: Path, config: Path, out: str, *more: str) -> subprocess.Popen[str]:
    command = ["rerank", "--config", str(config), "--pipeline", "judged", "in.jsonl", "--out", out, *more]
    return subprocess.Popen(
        [sys.executable, "-m", "podium_server", *command],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip


def test_one_of_two_workers_is_killed(
    machines: TwoMachines, tmp_path: Path, endpoint: Callable[[float], Endpoint]
) -> None:
    slow = endpoint(0.05)
    config = slow.config(tmp_path / "podium.toml")
    write_lists(tmp_path / "in.jsonl", [a_list(f"q{i}", 5) for i in range(LISTS)])
    here = job(tmp_path, config, "here.jsonl", "--run", "here.trec", "--no-ledger")
    assert here.wait(120) == 0, here.communicate()[1]

    running = job(
        tmp_path, config, "there.jsonl", "--run", "there.trec", "--no-ledger",
        "--engine", "ray", "--ray-address", machines.address, "--concurrency", "8",
    )  # fmt: skip
    calls_before, ends_at = slow.calls, time.monotonic() + 120
    while slow.calls < calls_before + LISTS // 4 and running.poll() is None and time.monotonic() < ends_at:
        time.sleep(0.05)
    assert running.poll() is None, running.communicate()[1]
    machines.kill_one()
    _, told = running.communicate(timeout=180)

    assert running.returncode == 0, told
    assert [line["qid"] for line in lines(tmp_path / "there.jsonl")] == [f"q{i}" for i in range(LISTS)]
    assert (tmp_path / "there.jsonl").read_bytes() == (tmp_path / "here.jsonl").read_bytes()
    assert "sent again" in told
    assert json.loads((tmp_path / "there.summary.json").read_text())["lists"] == LISTS


def test_what_one_worker_has_left_is_gone_on_with(
    machines: TwoMachines, tmp_path: Path, endpoint: Callable[[float], Endpoint]
) -> None:
    """The driver is killed; the same command goes on, on what is left of the cluster."""
    slow = endpoint(0.05)
    config = slow.config(tmp_path / "podium.toml")
    write_lists(tmp_path / "in.jsonl", [a_list(f"q{i}", 5) for i in range(200)])
    here = job(tmp_path, config, "here.jsonl", "--no-ledger")
    assert here.wait(120) == 0, here.communicate()[1]
    on_ray = ("--no-ledger", "--engine", "ray", "--ray-address", machines.address, "--concurrency", "4")

    calls_before = slow.calls
    running = job(tmp_path, config, "there.jsonl", *on_ray)
    ends_at = time.monotonic() + 120
    while slow.calls < calls_before + 60 and running.poll() is None and time.monotonic() < ends_at:
        time.sleep(0.05)
    assert running.poll() is None, running.communicate()[1]
    running.kill()
    running.wait()
    again = job(tmp_path, config, "there.jsonl", *on_ray)
    _, told = again.communicate(timeout=180)

    assert again.returncode == 0, told
    assert "going on behind" in told
    assert (tmp_path / "there.jsonl").read_bytes() == (tmp_path / "here.jsonl").read_bytes()
