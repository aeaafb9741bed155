"""The port that Prometheus asks: `/metrics`, in a thread of its own, so that a busy event loop answers too."""

from __future__ import annotations

from threading import Thread
from wsgiref.simple_server import WSGIServer

from prometheus_client import start_http_server

from podium_server.errors import ConfigInvalid
from podium_server.telemetry.registry import Registry


class Exposition:
    """Answers until it is closed.

    Args:
        registry: what there is to tell.
        host: name or address to listen on.
        port: 0 takes any free one.

    Raises:
        ConfigInvalid: nobody can listen there.

    """

    def __init__(self, registry: Registry, host: str, port: int) -> None:
        self._server: WSGIServer
        self._thread: Thread
        try:
            self._server, self._thread = start_http_server(port, host, registry.prometheus)
        except OSError as error:
            raise ConfigInvalid(f"telemetry.metrics_port: cannot listen on {host}:{port}: {error}") from error
        shown = f"[{host}]" if ":" in host else host
        self.address = f"{shown}:{self._server.server_port}"

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
