"""`podium serve --workers`: real processes on one port, looked at from outside."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from podium.v1 import (
    index_service_pb2,
    index_service_pb2_grpc,
    rerank_service_pb2,
    rerank_service_pb2_grpc,
    search_service_pb2,
    search_service_pb2_grpc,
)
from podium_server import config
from podium_server.cli.serving.workers import share
from podium_server.config import Config, OpenAIModel
from podium_server.errors import ConfigInvalid
from podium_server.transport.ports import reserved
from tests.cli.conftest import Endpoint
from tests.wire.serving import request

pytestmark = pytest.mark.timeout(180)

# On a busy machine a process takes its time.
STARTS_WITHIN_S = 90.0

# No pipeline that needs a model: which of them a worker loads is the same code as without workers, and takes seconds.
PLAIN = """
[pipelines.fast]
stages = [{ strategy = "first-stage" }]
[pipelines.diverse]
stages = [{ strategy = "first-stage" }]
"""


@dataclass
class Running:
    """A server of several workers, and what it printed to standard error."""

    process: subprocess.Popen[str]
    address: str
    said: list[str] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    @property
    def workers(self) -> list[int]:
        return children(self.process.pid)

    def until(self, condition: Callable[[], bool], within_s: float = STARTS_WITHIN_S) -> None:
        """Wait until something holds that the server does in its own time."""
        end = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < end, self.said
            time.sleep(0.05)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextlib.contextmanager
def serving(folder: Path, configured: str = "", workers: int = 2) -> Iterator[Running]:
    path = folder / "podium.toml"
    path.write_text(configured + PLAIN)
    command = [sys.executable, "-m", "podium_server", "serve", "--workers", workers, "--port", 0, "--config", path]
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder
    )
    mine: list[int] = []
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        assert line.startswith("listening on "), line or process.stderr.read()
        running = Running(process, line.removeprefix("listening on ").strip())
        mine = running.workers
        threading.Thread(target=lambda: running.said.extend(process.stderr or ()), daemon=True).start()
        yield running
    finally:
        mine += children(process.pid) if process.poll() is None else []
        process.kill()
        process.wait()
        for pid in filter(alive, mine):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(tmp_path_factory.mktemp("workers")) as running:
        yield running


def connections(pid: int, port: int) -> int:
    """Return how many connections to the port a process holds at its end."""
    inodes = set()
    # gRPC listens by IPv6 to both kinds of address, where there are both.
    for line in [line for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]:
        columns = line.split()
        if int(columns[1].rpartition(":")[2], 16) == port and columns[3] == "01":
            inodes.add(f"socket:[{columns[9]}]")
    held = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            held += os.readlink(link) in inodes
    return held


def connected(address: str) -> grpc.Channel:
    """Return a channel with a connection of its own, which is there."""
    channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
    grpc.channel_ready_future(channel).result(timeout=30)
    return channel


def rerank(channel: grpc.Channel, pipeline: str = "recall", n: int = 3) -> rerank_service_pb2.RerankResponse:
    return rerank_service_pb2_grpc.RerankServiceStub(channel).Rerank(request(n, pipeline), timeout=60)


# --- one port, several processes --------------------------------------------------------------------------------------


def test_all_workers_answer(server: Running) -> None:
    """Twenty connections: that one of two workers gets none of them has a chance of two in a million."""
    with contextlib.ExitStack() as stack:
        channels = [stack.enter_context(connected(server.address)) for _ in range(20)]
        for channel in channels:
            assert len(rerank(channel).ranking) == 3
        shares = [connections(pid, server.port) for pid in server.workers]
    assert len(shares) == 2
    assert min(shares) >= 1
    assert sum(shares) == 20


def test_collections_are_refused_with_a_sentence(server: Running) -> None:
    with connected(server.address) as channel:
        for call, message in (
            (search_service_pb2_grpc.SearchServiceStub(channel).Search, search_service_pb2.SearchRequest(query="q")),
            (
                index_service_pb2_grpc.IndexServiceStub(channel).ListCollections,
                index_service_pb2.ListCollectionsRequest(),
            ),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                call(message, timeout=30)
            assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION  # type: ignore[attr-defined]
            assert "--workers 1" in caught.value.details()  # type: ignore[attr-defined]


def test_health_tells_what_is_not_offered_and_that_the_rest_is_well(server: Running) -> None:
    with connected(server.address) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        told = {
            name: check(health_pb2.HealthCheckRequest(service=name)).status
            for name in ("", "podium.v1.RerankService", "podium.v1.SearchService", "podium.v1.IndexService")
        }
    serving_, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    assert list(told.values()) == [serving_, serving_, not_serving, not_serving]


def test_another_server_is_refused_the_port(server: Running) -> None:
    with pytest.raises(ConfigInvalid, match="already in use"), reserved("127.0.0.1", server.port):
        pass


# --- death and restart ------------------------------------------------------------------------------------------------


def test_a_killed_worker_is_told_of_and_comes_back_while_the_other_serves(server: Running) -> None:
    victim, other = server.workers
    os.kill(victim, signal.SIGKILL)
    server.until(lambda: victim not in server.workers)
    with connected(server.address) as channel:
        assert len(rerank(channel).ranking) == 3
        assert connections(other, server.port) >= 1
    server.until(lambda: any(str(victim) in line and "SIGKILL" in line for line in server.said))
    server.until(lambda: len(server.workers) == 2)
    [new] = set(server.workers) - {other}

    def it_answers() -> bool:
        with contextlib.ExitStack() as stack:
            for _ in range(8):
                stack.enter_context(connected(server.address))
            return connections(new, server.port) > 0

    server.until(it_answers)


def test_too_many_deaths_end_the_server_with_an_error(tmp_path: Path) -> None:
    with serving(tmp_path, "[server]\nworker_restarts = 0\n") as running:
        workers = running.workers
        os.kill(workers[1], signal.SIGKILL)
        assert running.process.wait(60) == 1
        assert not any(map(alive, workers))
        running.until(lambda: any("server.worker_restarts is 0" in line for line in running.said), 5)


def test_a_worker_that_cannot_start_is_told_of_once(tmp_path: Path) -> None:
    (tmp_path / "podium.toml").write_text('[models.minilm]\nbackend = "openvino"\nmodel = "/no/such/folder"\n')
    command = ["serve", "--workers", "3", "--port", "0", "--config", "podium.toml"]
    ended = subprocess.run(
        [sys.executable, "-m", "podium_server", *command], capture_output=True, text=True, cwd=tmp_path, timeout=60
    )
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.count("/no/such/folder") == 1
    assert "worker 1 could not start" in ended.stderr
    assert "Traceback" not in ended.stderr


# --- the end ----------------------------------------------------------------------------------------------------------


def test_sigterm_lets_running_calls_of_all_workers_end(tmp_path: Path, endpoint: Callable[[float], Endpoint]) -> None:
    slow = endpoint(1.5)
    with serving(tmp_path, slow.config(tmp_path / "slow.toml").read_text()) as running, contextlib.ExitStack() as stack:
        workers = running.workers
        channels: list[grpc.Channel] = []
        while len(channels) < 4 or not all(connections(pid, running.port) for pid in workers):
            assert len(channels) < 40
            channels.append(stack.enter_context(connected(running.address)))
        calls = [
            rerank_service_pb2_grpc.RerankServiceStub(channel).Rerank.future(request(3, "judged"), timeout=60)
            for channel in channels
        ]
        running.until(lambda: slow.at_once >= 1)
        time.sleep(0.5)  # so that those of both workers are inside
        running.process.send_signal(signal.SIGTERM)
        assert [len(call.result().ranking) for call in calls] == [3] * len(calls)
        assert running.process.wait(30) == 0
        assert not any(map(alive, workers))


def test_no_orphan_remains_when_the_parent_is_killed(tmp_path: Path) -> None:
    with serving(tmp_path) as running:
        workers = running.workers
        assert len(workers) == 2
        running.process.kill()
        running.process.wait()
        running.until(lambda: not any(map(alive, workers)), 30)
        with socket.socket() as free:
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            free.bind(("127.0.0.1", running.port))


# --- what each worker gets --------------------------------------------------------------------------------------------


def given(workers: int, **tables: object) -> Config:
    builtin = config.load(None)
    models = {name: section.model_dump() for name, section in builtin.models.items()}
    pipelines = {name: section.model_dump(exclude_unset=True) for name, section in builtin.pipelines.items()}
    more = tables.pop("models", {})
    assert isinstance(more, dict)
    return config.parse(
        {"server": {"workers": workers}, "models": models | more, "pipelines": pipelines, **tables}, where="here"
    )


@pytest.mark.parametrize(("workers", "processors", "threads"), [(2, 8, 4), (3, 8, 2), (4, 2, 1)])
def test_processors_are_divided_and_no_worker_has_none(workers: int, processors: int, threads: int) -> None:
    own = {"backend": "openvino", "threads": 3}
    shared = share(given(workers, models={"own": own}), processors)
    assert getattr(shared.models["minilm"], "threads", None) == threads
    assert getattr(shared.models["own"], "threads", None) == 3


def test_rates_promised_to_an_endpoint_hold_for_all_workers_together() -> None:
    chat = {"backend": "openai", "model": "m", "base_url": "http://localhost:1/v1"}
    shared = share(given(4, models={"bounded": chat | {"requests_per_minute": 100}, "free": chat}), 4)
    bounded, free = shared.models["bounded"], shared.models["free"]
    assert isinstance(bounded, OpenAIModel)
    assert isinstance(free, OpenAIModel)
    assert (bounded.requests_per_minute, free.requests_per_minute) == (25, None)


@pytest.mark.parametrize(
    ("tables", "named"),
    [
        ({"collections": {"notes": {}}}, "notes"),
        ({"models": {"big": {"backend": "vllm", "model": "m"}}}, "models.big"),
    ],
)
def test_what_cannot_be_had_several_times_is_refused(tables: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigInvalid, match=named):
        share(given(2, **tables), 2)
