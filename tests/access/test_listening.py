"""A server that nobody said anything about is reached from its own machine alone."""

from __future__ import annotations

import ipaddress
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium_server.access.listening import Exposure, loopback_only
from podium_server.access.sections import IN_SO_MANY_WORDS, AccessSection, TlsSection
from podium_server.errors import ConfigInvalid
from podium_server.transport.server import Server
from tests.access.made import standing
from tests.wire import serving

CONFIG = """
[server]
default_pipeline = "plain"
[pipelines.plain]
stages = [{ strategy = "first-stage" }]
"""


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.9.9.9"])
def test_loopback_needs_nothing(host: str) -> None:
    assert loopback_only(host)
    Exposure().check(host, 1)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", ""])
def test_elsewhere_needs_tls_and_known_callers(host: str) -> None:
    for exposure in (Exposure(), Exposure(encrypted=True), Exposure(known=True)):
        with pytest.raises(ConfigInvalid, match="can be reached from other machines"):
            exposure.check(host, 1)
    Exposure(encrypted=True, known=True).check(host, 1)
    Exposure(accepted=True).check(host, 1)


@given(st.text())
def test_only_the_very_words_will_do(words: str) -> None:
    assert Exposure.of(TlsSection(), AccessSection(), words).accepted is (words == IN_SO_MANY_WORDS)


async def test_the_server_itself_refuses() -> None:
    with pytest.raises(ConfigInvalid, match="no TLS"):
        await Server(serving.standing()).start("0.0.0.0", 0)


async def test_keys_that_nobody_asks_for_are_no_keys(tmp_path: Path) -> None:
    async with standing(tmp_path) as server:
        with pytest.raises(ConfigInvalid, match="nobody stands at the door"):
            Server(server.podium)


def test_a_default_start_listens_on_loopback_alone(tmp_path: Path) -> None:
    """All listening sockets of the process, as the kernel lists them, rather than those that we know of."""
    (tmp_path / "podium.toml").write_text(CONFIG)
    command = [sys.executable, "-m", "podium_server", "serve", "--config", "podium.toml", "--port", "0"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("listening on 127.0.0.1:")
        found = listening(process.pid)
        assert found
        assert all(address.is_loopback for address in found), found
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def listening(pid: int) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Return where a process listens, by TCP or UDP."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if match := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(entry)):
                inodes.add(match[1])
        except FileNotFoundError:
            continue
    found = []
    for table, states in (("tcp", {"0A"}), ("tcp6", {"0A"}), ("udp", {"07"}), ("udp6", {"07"})):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] in states and fields[9] in inodes:
                raw = bytes.fromhex(fields[1].partition(":")[0])
                words = b"".join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4))
                address = ipaddress.ip_address(words)
                found.append(getattr(address, "ipv4_mapped", None) or address)
    return found


@pytest.mark.parametrize("arguments", [["--host", "0.0.0.0"], ["--host", "0.0.0.0", "--workers", "2"]])
def test_the_command_refuses_before_it_loads_anything(tmp_path: Path, arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "podium_server", "serve", "--port", "0", *arguments],
        cwd=tmp_path, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 2
    assert IN_SO_MANY_WORDS in done.stderr
    assert "--insecure-listen" in done.stderr


async def test_health_and_reflection_as_configured(tmp_path: Path) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    async def codes(server: object, key: str | None) -> tuple[str, str]:
        channel = server.stubs(key).channel  # type: ignore[attr-defined]
        told = []
        try:
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            told.append("OK")
        except grpc.aio.AioRpcError as error:
            told.append(error.code().name)
        while len(told) < 2:
            try:
                asked = reflection_pb2.ServerReflectionRequest(list_services="")
                answers = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([asked]))
                told.append("OK" if [answer async for answer in answers] else "nothing")
            except grpc.aio.AioRpcError as error:
                # A stream that is refused while its client still writes may end with an error of grpc.aio's own there.
                if error.details() != "Internal error from Core":
                    told.append(error.code().name)
        return told[0], told[1]

    async with standing(tmp_path / "usual") as server:
        assert await codes(server, None) == ("OK", "UNIMPLEMENTED")
    guarded = {"keys": True, "health": "guarded", "reflection": "guarded"}
    async with standing(tmp_path / "guarded", access=guarded) as server:
        assert await codes(server, None) == ("UNAUTHENTICATED", "UNAUTHENTICATED")
        assert await codes(server, server.key("acme")) == ("OK", "OK")
    async with standing(tmp_path / "open", access={"keys": True, "reflection": "open"}) as server:
        assert await codes(server, None) == ("OK", "OK")
