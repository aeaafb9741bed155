"""Certificates from the `openssl` of this machine, and a Podium of two tenants on a real socket."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from podium_server import config
from podium_server.access.access import key_file
from podium_server.compose import Podium
from podium_server.config import Config
from podium_server.transport.server import Server
from tests.wire.serving import Stubs

IDENTITY = {"stages": [{"strategy": "first-stage"}]}


class Authority:
    """Signs certificates in a folder."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("there is no openssl on this machine to make certificates with")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.ca = folder / "ca.pem"
        self._key = folder / "ca.key"
        subject = ("-subj", "/CN=Authority of a test", "-days", "2")
        _openssl("req", "-x509", *_NEW_KEY, "-keyout", self._key, "-out", self.ca, *subject)

    def sign(self, name: str, *alternatives: str) -> tuple[Path, Path]:
        """Return a certificate for a common name, and its key."""
        certificate, key, request = (self.folder / f"{name}.{end}" for end in ("pem", "key", "csr"))
        _openssl("req", *_NEW_KEY, "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        extensions = self.folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={','.join(alternatives or ('DNS:localhost', 'IP:127.0.0.1'))}\n")
        by = ("-CA", self.ca, "-CAkey", self._key, "-CAcreateserial", "-days", "2", "-extfile", extensions)
        _openssl("x509", "-req", "-in", request, "-out", certificate, *by)
        return certificate, key


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def configured(data_dir: Path, **more: Any) -> Config:
    """Return a configuration with keys, two tenants and pipelines that ask no model, one of which is acme's alone."""
    given: dict[str, Any] = {
        "server": {"data_dir": str(data_dir), "default_pipeline": "plain"},
        "models": {"minilm": {"backend": "openvino", "model": "all-minilm-l6-v2"}},
        "pipelines": {"plain": IDENTITY, "acme-own": IDENTITY | {"description": "the-mark-of-acme"}},
        "access": {"keys": True},
        "tenants": {"acme": {}, "rival": {"pipelines": ["plain"]}},
    }
    for name, section in more.items():
        given[name] = {**given.get(name, {}), **section} if isinstance(section, Mapping) else section
    return config.parse(given, where="a test")


@dataclass
class Standing:
    """A Podium that serves, and what is needed to call it."""

    podium: Podium
    server: Server
    address: str
    config: Config
    data_dir: Path
    channels: list[grpc.aio.Channel] = field(default_factory=list)

    def key(self, tenant: str, **restrictions: Any) -> str:
        """Return a new key, which the server knows at once."""
        whole, _ = key_file(self.config, self.data_dir).create(tenant, **restrictions)
        self.look()
        return whole

    def revoke(self, key_id: str) -> None:
        key_file(self.config, self.data_dir).revoke(key_id)

    def look(self) -> None:
        """Let the server see the keys as they are now; it does so by itself four times a second."""
        assert self.podium.access is not None
        self.podium.access.ring._look()

    def stubs(self, key: str | None = None, credentials: grpc.ChannelCredentials | None = None) -> Stubs:
        """Return stubs that send a key with each call."""
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.ssl_target_name_override", "localhost")]
        interceptors = [] if key is None else _sending(key)
        if credentials is None:
            channel = grpc.aio.insecure_channel(self.address, options=options, interceptors=interceptors)
        else:
            channel = grpc.aio.secure_channel(self.address, credentials, options=options, interceptors=interceptors)
        self.channels.append(channel)
        return Stubs(channel, self.server, self.address)


@asynccontextmanager
async def standing(data_dir: Path, *, store: bool = False, **more: Any) -> AsyncIterator[Standing]:
    """Serve within. Models are loaded, and there is a store, only where `store` asks for it."""
    configuration = configured(data_dir, **more)
    podium = Podium(configuration, data_dir=data_dir, collections=store, serving=True)
    try:
        if store:
            await podium.start()
        elif podium.access is not None:
            await podium.access.start()
        server = Server(podium.served, guards=podium.call_guards)
        address = await server.start("127.0.0.1", 0)
        made = Standing(podium, server, address, configuration, data_dir)
        try:
            yield made
        finally:
            for channel in made.channels:
                await channel.close()
            await server.stop()
    finally:
        await podium.aclose()


def _sending(key: str) -> list[Any]:
    def with_key(details: grpc.aio.ClientCallDetails) -> grpc.aio.ClientCallDetails:
        metadata = grpc.aio.Metadata(*(details.metadata or ()), ("authorization", f"Bearer {key}"))
        return details._replace(metadata=metadata)

    class UnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, go_on: Any, details: Any, request: Any) -> Any:
            return await go_on(with_key(details), request)

    class UnaryStream(grpc.aio.UnaryStreamClientInterceptor):
        async def intercept_unary_stream(self, go_on: Any, details: Any, request: Any) -> Any:
            return await go_on(with_key(details), request)

    class StreamUnary(grpc.aio.StreamUnaryClientInterceptor):
        async def intercept_stream_unary(self, go_on: Any, details: Any, requests: Any) -> Any:
            return await go_on(with_key(details), requests)

    class StreamStream(grpc.aio.StreamStreamClientInterceptor):
        async def intercept_stream_stream(self, go_on: Any, details: Any, requests: Any) -> Any:
            return await go_on(with_key(details), requests)

    return [UnaryUnary(), UnaryStream(), StreamUnary(), StreamStream()]
