"""`podium health`, and the ports of workers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from podium_server.cli.serving.workers import numbered
from podium_server.config import load
from podium_server.transport.server import Server
from tests.wire.serving import standing


def asked(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "podium_server", "health", *arguments], capture_output=True, text=True, check=False
    )


async def test_the_exit_code_says_whether_it_serves() -> None:
    import asyncio

    podium = standing()
    server = Server(podium)
    address = await server.start("127.0.0.1", 0)
    try:
        serving = await asyncio.to_thread(asked, address, "--timeout-s", "20")
        assert (serving.returncode, serving.stdout) == (0, "SERVING\n")
        podium.rerank_ready = False
        await server.health.look()
        loading = await asyncio.to_thread(asked, address, "--timeout-s", "20")
        assert (loading.returncode, loading.stdout) == (1, "NOT_SERVING\n")
        of_one = await asyncio.to_thread(asked, address, "--service", "no.such.Service", "--timeout-s", "20")
        assert of_one.returncode == 1
        assert "NOT_FOUND" in of_one.stderr
    finally:
        await server.stop()


def test_nobody_there_is_a_failure_with_a_sentence() -> None:
    gone = asked("127.0.0.1:1", "--timeout-s", "0.5")
    assert gone.returncode == 1
    assert gone.stderr.startswith("podium: 127.0.0.1:1: ")


def test_a_certificate_without_its_key_is_a_mistake(tmp_path: Path) -> None:
    file = tmp_path / "x.pem"
    file.write_text("")
    assert asked("--ca", str(file), "--certificate", str(file)).returncode == 2
    assert asked("--key", str(file)).returncode == 2


@pytest.mark.parametrize(("port", "third"), [(9464, 9466), (0, 0), (None, None)])
def test_ports_that_cannot_be_shared_follow_one_another(port: int | None, third: int | None) -> None:
    config = load(None)
    config = config.model_copy(
        update={
            "telemetry": config.telemetry.model_copy(update={"metrics_port": port}),
            "admin": config.admin.model_copy(update={"port": port}),
        }
    )
    assert numbered(config, 1) == config
    third_config = numbered(config, 3)
    assert (third_config.telemetry.metrics_port, third_config.admin.port) == (third, third)
