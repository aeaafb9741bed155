"""Where a fault run happens: a folder, a small disk, certificates, a configuration, keys."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.access.made import Authority

DISK_MIB = 64
"""Of the file system that the server keeps its data on: twice what the run writes."""
DRAIN_S = 8.0
TENANTS = ("acme", "rival", "poor")

_CONFIG = """
[server]
port = {grpc}
data_dir = "{data}"
default_pipeline = "fast"
verdict_cache_mib = 1

[rest]
port = {rest}

[telemetry]
metrics_port = {metrics}

[admin]
port = {admin}

[limits]
concurrent_requests = 24
drain_s = {drain_s}

[tls]
certificate = "{certificate}"
key = "{key}"

[access]
keys = true
queue = 8
wait_s = 0.5

[tenants.acme]
weight = 2.0
quotas = [{{ per = "month", usd = 50.0, tokens = 2_000_000_000 }}]

[tenants.rival]
concurrency = 12
quotas = [{{ per = "month", usd = 20.0 }}]

[tenants.poor]
quotas = [{{ per = "minute", requests = 30 }}, {{ per = "month", usd = 0.05 }}]

[models.minilm]
backend = "openvino"
model = "minilm-late"
threads = 1
cache_mib = 2
prices = {{ compute_usd_per_hour = 0.2 }}

[models.minilm-cross]
backend = "cross-encoder"
model = "minilm-cross"
threads = 1
cache_mib = 2
prices = {{ compute_usd_per_hour = 0.2 }}

[models.judge]
backend = "openai"
model = "tiny"
base_url = "http://127.0.0.1:{endpoint}/v1"
attempts = 2
reply_wait_s = 3.0
concurrency = 16
prices = {{ prompt_usd_per_mtok = 1.0, output_usd_per_mtok = 4.0 }}
breaker = {{ failures = 5, open_s = 1.0, open_s_max = 4.0, hung_s = 2.0 }}

[pipelines.judged]
stages = [{{ strategy = "sliding-window", model = "judge", size = 4, stride = 2 }}]

[pipelines.fallback]
stages = [
  {{ strategy = "pointwise", model = "minilm", scoring = "cosine", keep = 8 }},
  {{ strategy = "sliding-window", model = "judge", size = 4, stride = 2, on_failure = "skip" }},
]
"""


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


@dataclass(slots=True)
class Place:
    """Everything that outlives one process of the server."""

    folder: Path
    data: Path
    disk_is_small: bool
    grpc_port: int = 0
    rest_port: int = 0
    metrics_port: int = 0
    admin_port: int = 0
    endpoint_port: int = 0
    keys: dict[str, str] = field(default_factory=dict)
    rotations: int = 0
    authority: Authority = field(init=False)

    def __post_init__(self) -> None:
        ports = free_ports(5)
        self.grpc_port, self.rest_port, self.metrics_port, self.admin_port, self.endpoint_port = ports
        self.authority = Authority(self.folder / "tls")
        for made in self.sign():
            self.install(made)
        self.config.write_text(
            _CONFIG.format(
                grpc=self.grpc_port,
                rest=self.rest_port,
                metrics=self.metrics_port,
                admin=self.admin_port,
                endpoint=self.endpoint_port,
                data=self.data,
                drain_s=DRAIN_S,
                certificate=self.certificate,
                key=self.certificate_key,
            )
        )

    @property
    def config(self) -> Path:
        return self.folder / "podium.toml"

    @property
    def certificate(self) -> Path:
        return self.folder / "live.pem"

    @property
    def certificate_key(self) -> Path:
        return self.folder / "live.key"

    @property
    def ca(self) -> bytes:
        return self.authority.ca.read_bytes()

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def rest(self) -> str:
        return f"https://127.0.0.1:{self.rest_port}"

    def trust(self) -> ssl.SSLContext:
        """Return a context of a client that trusts our authority."""
        return ssl.create_default_context(cafile=str(self.authority.ca))

    # --- certificates ----------------------------------------------------------------------------------------------

    def sign(self) -> tuple[Path, Path]:
        """Return a new certificate of the server, and its key. They are not served yet."""
        self.rotations += 1
        return self.authority.sign(f"podium-{self.rotations}")

    def install(self, made: Path) -> None:
        """Put a certificate, or a key, where the server finds it."""
        live = self.certificate_key if made.suffix == ".key" else self.certificate
        beside = live.with_suffix(".new")
        shutil.copyfile(made, beside)
        os.replace(beside, live)

    def served_certificate(self, port: int) -> bytes:
        """Return the certificate that a new connection gets, in DER."""
        with (
            socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
            self.trust().wrap_socket(plain, server_hostname="localhost") as secure,
        ):
            return secure.getpeercert(binary_form=True) or b""

    def live_certificate(self) -> bytes:
        """Return the certificate that lies in the file, in DER."""
        return ssl.PEM_cert_to_DER_cert(self.certificate.read_text())

    # --- keys ------------------------------------------------------------------------------------------------------

    async def podium(self, *arguments: str) -> str:
        """Run the command line, and return its standard output.

        Raises:
            RuntimeError: it failed, with what it said.

        """
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "podium_server", *arguments, "--config", str(self.config)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 60)
        if process.returncode:
            raise RuntimeError(f"podium {' '.join(arguments[:2])}: {err.decode()}")
        return out.decode().strip()

    async def new_key(self, tenant: str) -> str:
        return await self.podium("keys", "create", "--tenant", tenant)

    async def revoke(self, key: str) -> None:
        await self.podium("keys", "revoke", key.split("_")[1])


@contextlib.contextmanager
def place() -> Iterator[Place]:
    """Make a place; all of it is gone at the end. The small disk is a tmpfs, where this user may mount one."""
    folder = Path(tempfile.mkdtemp(prefix="podium-soak-"))
    data = folder / "data"
    data.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(data)]
    mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield Place(folder, data, mounted)
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(data)], check=False)
        shutil.rmtree(folder, ignore_errors=True)
