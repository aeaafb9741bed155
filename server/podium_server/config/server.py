"""Sections about the process: where it listens, what it keeps, and what is seen of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field

from podium_server.config.section import Section
from podium_server.errors import ConfigInvalid
from podium_server.limits import MIB
from podium_server.recall.limits import CHUNK_TOKENS_MIN, OVERLAP_TOKENS


class CollectionSection(Section):
    """A collection that the server makes at start if it is not there."""

    encoder: str | None = None
    """A model's name; unset, the default encoder."""
    token_vectors: bool = False
    chunk_tokens: int | None = Field(None, ge=CHUNK_TOKENS_MIN)
    chunk_overlap_tokens: int = Field(OVERLAP_TOKENS, ge=0)


class ServerSection(Section):
    """Where the server listens and keeps its store."""

    host: str = "127.0.0.1"
    port: int = Field(50051, ge=0, le=65535)
    data_dir: Path = Path(".podium")
    default_pipeline: str = "fast"
    default_encoder: str = "minilm"
    """Of collections that name none."""
    verdict_cache: bool = True
    """Keep chat models' verdicts in the store, so that the same question is paid once."""
    verdict_cache_mib: int = Field(256, ge=1)
    workers: int = Field(1, ge=1, le=1024)
    """Processes that serve the port together. More than one have no collections."""
    worker_restarts: int = Field(10, ge=0)
    """Of workers that died, all together in ten minutes. One more ends the server."""
    insecure: str = ""
    """Beyond loopback Podium listens only with TLS and known callers, or with "I know that anyone can call this server"
    here."""


class TelemetrySection(Section):
    """What is seen from outside. All of it is off until it is asked for."""

    metrics_port: int | None = Field(None, ge=0, le=65535)
    """Where Prometheus finds `/metrics`; of several workers, the first one's, and the others' are the next ports."""
    metrics_host: str = "127.0.0.1"
    metrics_insecure: str = ""
    """Figures have no TLS and no keys: beyond loopback they are shown only with "I know that anyone can read these
    figures" here, or with the words of `server.insecure`."""
    tenants: int = Field(50, ge=0, le=1_000)
    """That have figures of their own; later ones share `other`."""
    logs: Literal["lines", "json"] = "lines"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "WARNING"
    """INFO has a line for every call."""
    traces_endpoint: str | None = None
    """Where spans are sent by OTLP over gRPC, such as `http://127.0.0.1:4317` (extra `otel`)."""
    traces_sample: float = Field(1.0, ge=0, le=1)
    """Of the calls whose caller has not decided."""
    traces_texts: bool = False
    """Whether spans carry queries, and what models were asked and said. Documents are among that."""


class AdminSection(Section):
    """The service that loads and unloads models, on a port of its own, without keys: for loopback."""

    port: int | None = Field(None, ge=0, le=65535)
    """Of several workers, the first one's, and the others' are the next ports."""
    host: Literal["127.0.0.1", "::1", "localhost"] = "127.0.0.1"
    unloaded: Literal["load", "refuse"] = "load"
    """What the next use of an unloaded model does: load it again, or fail with UNAVAILABLE until LoadModel."""


class RestSection(Section):
    """`[rest]`: JSON over HTTP beside gRPC (extra `rest`)."""

    host: str = "127.0.0.1"
    port: int | None = Field(None, ge=0, le=65535)
    """Unset: there is no REST. 0 takes any free one."""
    models: dict[str, str] = Field(default_factory=dict)
    """Names that clients send as `model`, and the pipeline that each stands for. Pipelines' own names need none."""
    connections: int = Field(1024, ge=1)
    """At the same time. More are closed at once."""
    header_bytes: int = Field(32 * 1024, ge=1024)
    """Of the head of a request. More: 400."""
    header_timeout_s: float = Field(10.0, gt=0)
    """For the head of a request to come. Later: the connection is closed."""
    body_timeout_s: float = Field(60.0, gt=0)
    """For a body to come. Later: 408."""
    bodies_bytes: int = Field(256 * MIB, ge=64 * 1024)
    """Of all bodies that are being read or answered. More: 503. limits.message_bytes bounds each of them (413)."""
    keep_alive_s: int = Field(75, ge=1)
    """Until an idle connection is closed."""


class RankingLogSection(Section):
    """`[ranking_log]`: who got which order, a JSON line a request; read by `podium eval ab` and `podium eval drift`."""

    path: Path | None = None
    """The newest file. Unset: nothing is written, and no pipeline can have a challenger."""
    share: float = Field(0.0, ge=0, le=1)
    """Of the requests outside experiments that are written."""
    places: int = Field(100, ge=1, le=10_000)
    """Of the best that a line has."""
    file_mib: int = Field(64, ge=1)
    """At which a file is put aside."""
    files: int = Field(8, ge=1, le=1000)
    """Kept, the newest included. Older ones are deleted."""
    queue: int = Field(2_000, ge=1)
    """Lines that wait for the disk; more are dropped, and counted."""
    texts: bool = False
    """Write queries as they are, not only their fingerprints. Documents are known by their ids alone."""
    secret_env: str | None = None
    """The environment variable with the secret of the fingerprints. Unset: who guesses a query can confirm it."""

    def secret(self) -> bytes:
        """Return the secret; empty where none is configured.

        Raises:
            ConfigInvalid: the variable is not set, or too long.

        """
        if self.secret_env is None:
            return b""
        given = os.environ.get(self.secret_env, "").encode()
        if not 1 <= len(given) <= 64:
            raise ConfigInvalid(f"ranking_log.secret_env: {self.secret_env} has {len(given)} bytes; 1 to 64 are needed")
        return given
