"""Listens: uvicorn inside the server's own event loop, which keeps its signals.

uvicorn bounds neither how long a client may take over the head of a request, nor how many connections there are; both
are done here, in its protocol. h11 reads HTTP: it is strict, and bounds the head.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from podium_server.access.tls import subjects_of
from podium_server.config import RestSection
from podium_server.errors import ConfigInvalid
from podium_server.rest.answers import Rest
from podium_server.rest.app import app
from podium_server.rest.bodies import Bodies
from podium_server.rest.calls import SUBJECTS_KEY
from podium_server.transport.ports import shown
from podium_server.transport.server import Server

log = logging.getLogger(__name__)

_BACKLOG = 1024
# uvicorn looks for its end ten times a second, and cancels what runs behind this.
_LAST_S = 1
_WRITING_MS = 60_000


class RestServer:
    """REST over a door.

    Args:
        section: of the configuration.
        tls: to listen with; None is the server's own certificates, and plain HTTP where it has none.

    """

    def __init__(self, section: RestSection, *, tls: ssl.SSLContext | None = None) -> None:
        self._section = section
        self._tls = tls
        self._serving: asyncio.Task[None] | None = None
        self._server: _Server | None = None

    async def start(self, server: Server) -> str:
        """Listen beside a server, through its door, and return the address as a URL.

        Raises:
            ConfigInvalid: nobody can listen there, or ought to (`access.listening`).

        """
        section, podium, door = self._section, server.podium, server.door
        server.exposure.check(section.host, section.port or 0)
        if self._tls is None and server.certificates is not None:
            self._tls = server.certificates.context()
        rest = Rest(
            door=door,
            bodies=Bodies(podium.limits.message_bytes, section.bodies_bytes, section.body_timeout_s),
            pipelines=section.models,
            ready=lambda: podium.rerank_ready and not door.closed,
            limits=podium.limits,
            version=version("podium"),
        )
        listening = _listen(section.host, section.port or 0, share=server.shared)
        config = uvicorn.Config(
            app(rest),
            http=_protocol(section),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            h11_max_incomplete_event_size=section.header_bytes,
            timeout_keep_alive=section.keep_alive_s,
            timeout_graceful_shutdown=_LAST_S,
            backlog=_BACKLOG,
            ssl_context_factory=None if self._tls is None else lambda *_: self._given_tls(),
        )
        # Whoever sends nonsense would fill the log, a line each.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        uvicorn_ = _Server(config)
        serving = asyncio.create_task(uvicorn_.serve([listening]), name="rest")
        # It may end without listening: of two sockets that are bound to a port, one may listen.
        serving.add_done_callback(lambda _: uvicorn_.listening.set())
        self._server, self._serving = uvicorn_, serving
        port = listening.getsockname()[1]
        await uvicorn_.listening.wait()
        if serving.done():
            self._server = self._serving = None
            listening.close()
            try:
                await serving
            except OSError as error:
                raise _port_taken(section.host, port, error) from error
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://{shown(section.host)}:{port}"

    async def stop(self) -> None:
        """Close the sockets; requests that still run are cancelled after a moment."""
        if self._server is None or self._serving is None:
            return
        self._server.should_exit = True
        with contextlib.suppress(asyncio.CancelledError):
            await self._serving

    def _given_tls(self) -> ssl.SSLContext:
        assert self._tls is not None  # for mypy: it is asked for where there is one
        return self._tls


class _Server(uvicorn.Server):
    """A server that leaves signals alone, and tells when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none: they are the whole server's."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await super().startup(sockets)
        self.listening.set()


def _protocol(section: RestSection) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol with a bound on the time of a head, and on connections."""

    class Bounded(H11Protocol):
        """One connection."""

        _head_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            """Take a connection, or close it at once where there are too many."""
            super().connection_made(transport)
            if len(self.connections) > section.connections:
                transport.abort()
                return
            _bound_writing(transport.get_extra_info("socket"))
            # Where callers show certificates; the handshake is over by now. uvicorn copies it into every scope.
            shown_by = subjects_of(transport.get_extra_info("peercert"))
            if shown_by:
                self.app_state = {**self.app_state, SUBJECTS_KEY: shown_by}
            self._watch_head()

        def data_received(self, data: bytes) -> None:
            """Read on."""
            super().data_received(data)
            self._watch_head()

        def connection_lost(self, exc: Exception | None) -> None:
            """Forget the connection."""
            self._forget_timer()
            super().connection_lost(exc)

        def send_400_response(self, msg: str) -> None:
            """Answer what is no HTTP. A request before it that is still at work is not answered beside it."""
            if self.cycle is not None and not self.cycle.response_complete:
                self.cycle.disconnected = True
                self.cycle.message_event.set()
                if self.cycle.response_started:
                    self.transport.close()
                    return
            super().send_400_response(msg)

        def timeout_keep_alive_handler(self) -> None:
            """Close an idle connection; at once where its client does not even read the last answer."""
            if self.transport.get_write_buffer_size():
                self.transport.abort()
            else:
                super().timeout_keep_alive_handler()

        def _watch_head(self) -> None:
            if self.conn.their_state is not h11.IDLE:
                self._forget_timer()
            elif self._head_timer is None:
                self._head_timer = self.loop.call_later(section.header_timeout_s, self.transport.abort)

        def _forget_timer(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

    return Bounded


def _bound_writing(connection: Any) -> None:
    """Have the kernel cut off a client that does not take what was sent: its answer would be kept for ever."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _WRITING_MS)


def _listen(host: str, port: int, *, share: bool) -> socket.socket:
    """Return a socket that is bound.

    Raises:
        ConfigInvalid: with the reason, and what to do.

    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        made = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigInvalid(f"cannot listen on {shown(host)}:{port}: {error.strerror} (rest.host)") from error
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT if share else socket.SO_REUSEADDR, 1)
        made.bind(address)
    except OSError as error:
        made.close()
        raise _port_taken(host, port, error) from error
    made.setblocking(False)
    return made


def _port_taken(host: str, port: int, error: OSError) -> ConfigInvalid:
    return ConfigInvalid(
        f"cannot listen on {shown(host)}:{port}: {error.strerror}. Stop what listens there, or choose another port "
        "(rest.port; 0 takes any free one)"
    )
