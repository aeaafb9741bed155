"""How a server is reached: the target, the limits, the service config, and the metadata of every call."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import grpc

from podium_client.types import CallOptions

VERSION = "0.1.0"
MESSAGE_BYTES_MAX = 32 << 20
REQUEST_ID = "x-request-id"
REQUEST_ID_LENGTH_MAX = 128

# Longer than any pipeline that is meant to answer a person, shorter than their patience with a hung one.
TIMEOUT_S = 60.0


def default_service_config() -> str:
    """Return the service config that the clients use, as JSON.

    It spreads calls over all addresses of the target, leaves out servers that are not serving, and tries again where
    one is UNAVAILABLE, until a tenth of all calls are retries. The health that it follows is that of the catalogue,
    which is SERVING as long as the server is: one pipeline whose model is down must not take the others away.
    """
    return (files("podium_client") / "service_config.json").read_text("utf-8")


def channel_options(service_config: str | None, options: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Return the options of a channel; those given stand over ours."""
    ours = {
        "grpc.max_send_message_length": MESSAGE_BYTES_MAX,
        "grpc.max_receive_message_length": MESSAGE_BYTES_MAX,
        "grpc.service_config": default_service_config() if service_config is None else service_config,
        "grpc.primary_user_agent": f"podium-client/{VERSION}",
        # A client's connections are its own. Shared ones, as gRPC has them, carry the back-off of whoever failed there
        # before: a server that has come up again would be called dead.
        "grpc.use_local_subchannel_pool": 1,
    }
    return list((ours | dict(options)).items())


def tls_credentials(
    ca: bytes | None = None, certificate: bytes | None = None, key: bytes | None = None
) -> grpc.ChannelCredentials:
    """Return credentials of a channel that is encrypted. All arguments are PEM.

    Args:
        ca: of the authorities that the server's certificate has to come from; None trusts those of gRPC's own list.
        certificate: of the caller, where the server asks for one (mutual TLS).
        key: of that certificate.

    """
    return grpc.ssl_channel_credentials(ca, key, certificate)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """What goes along with one call."""

    timeout_s: float | None
    request_id: str
    metadata: tuple[tuple[str, str], ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Settings:
    """What goes along with every call of a client.

    Args:
        timeout_s: of calls that do not name their own; None for none.
        token: sent as a bearer token.

    """

    timeout_s: float | None = TIMEOUT_S
    token: str | None = field(default=None, repr=False)

    def outgoing(self, options: CallOptions, *, endless: bool = False) -> Outgoing:
        """Return what goes along with a call that has these options; an `endless` one has no timeout but its own."""
        request_id = options.get("request_id") or uuid.uuid4().hex
        if len(request_id) > REQUEST_ID_LENGTH_MAX or not (request_id.isascii() and request_id.isprintable()):
            raise ValueError(f"request_id is {request_id!r:.150}: at most 128 printable ASCII characters")
        metadata = {key.lower(): value for key, value in options.get("metadata", {}).items()}
        metadata[REQUEST_ID] = request_id
        if self.token is not None:
            metadata.setdefault("authorization", f"Bearer {self.token}")
        timeout_s = options.get("timeout_s", None if endless else self.timeout_s)
        return Outgoing(timeout_s, request_id, tuple(metadata.items()))
