"""Ports: whether one is free, and how several processes come to share one. Knows sockets, and no gRPC."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from podium_server.errors import ConfigInvalid


def check_free(host: str, port: int) -> None:
    """Say plainly why nobody can listen there; gRPC would print a page, and raise without the reason.

    Raises:
        ConfigInvalid: with the reason, and what to do.

    """
    with _bound(host, port, share=False):
        pass


@contextlib.contextmanager
def reserved(host: str, port: int) -> Iterator[int]:
    """Hold a port for servers of this user that listen with SO_REUSEPORT, and yield its number.

    The kernel gives each new connection to one of those that listen. Who only holds the port, as here, gets none; but
    no other program can have it while the servers come and go, and a port that the system chose (0) stays the same.

    Raises:
        ConfigInvalid: somebody listens there already, or this system cannot share a port.

    """
    if not hasattr(socket, "SO_REUSEPORT"):
        raise ConfigInvalid("several workers share a port by SO_REUSEPORT, which this system has not; use one worker")
    # Without this look, two servers of several workers would each get half of the calls, and neither would say so.
    check_free(host, port)
    with _bound(host, port, share=True) as held:
        yield held.getsockname()[1]


@contextlib.contextmanager
def _bound(host: str, port: int, *, share: bool) -> Iterator[socket.socket]:
    with contextlib.ExitStack() as stack:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            family, kind, protocol, _, address = found[0]
            probe = stack.enter_context(socket.socket(family, kind, protocol))
            # As gRPC does: a port whose last owner is gone is free, even while its old connections time out.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT if share else socket.SO_REUSEADDR, 1)
            probe.bind(address)
        except OSError as error:
            raise ConfigInvalid(
                f"cannot listen on {host}:{port}: {error.strerror}. Stop what listens there, or choose another port "
                "(server.port; 0 takes any free one)"
            ) from error
        yield probe


def shown(host: str) -> str:
    """Return a host as it stands before a port: an address of IPv6 has colons of its own."""
    return f"[{host}]" if ":" in host else host
