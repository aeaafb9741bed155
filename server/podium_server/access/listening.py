"""Whether a server may listen where it is told to: beyond this machine only with TLS and callers that are known."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass

from podium_server.access.sections import IN_SO_MANY_WORDS, AccessSection, TlsSection
from podium_server.errors import ConfigInvalid


@dataclass(frozen=True, slots=True)
class Exposure:
    """What stands between a listening port and whoever can reach it.

    Args:
        encrypted: TLS.
        known: callers need a key, or a certificate.
        accepted: somebody said in so many words that anyone may call.

    """

    encrypted: bool = False
    known: bool = False
    accepted: bool = False

    @classmethod
    def of(cls, tls: TlsSection, access: AccessSection, insecure: str) -> Exposure:
        """Return that of a configuration."""
        return cls(tls.on, access.keys or tls.client_ca is not None, insecure == IN_SO_MANY_WORDS)

    def check(self, host: str, port: int) -> None:
        """Refuse to listen where others could reach us.

        Raises:
            ConfigInvalid: with what is missing, and the words that would do instead.

        """
        if self.accepted or (self.encrypted and self.known) or loopback_only(host):
            return
        missing = [
            what
            for what, there in (
                ("TLS (tls.certificate, tls.key)", self.encrypted),
                ("API keys (access.keys) or certificates of callers (tls.client_ca)", self.known),
            )
            if not there
        ]
        raise ConfigInvalid(
            f"{host}:{port} can be reached from other machines, and there is no {' and no '.join(missing)}. Listen on "
            f"127.0.0.1, configure what is missing, or say `server.insecure = {IN_SO_MANY_WORDS!r}` "
            "(--insecure-listen)"
        )


FIGURES_IN_SO_MANY_WORDS = "I know that anyone can read these figures"


def check_figures(host: str, port: int, insecure: str, *, accepted: bool = False) -> None:
    """Refuse to show figures where others could reach them, for whoever reaches their port can read them.

    Args:
        host: to listen on.
        port: likewise.
        insecure: `telemetry.metrics_insecure`.
        accepted: whether anyone may call the server itself.

    Raises:
        ConfigInvalid: with the words that would do.

    """
    if accepted or insecure == FIGURES_IN_SO_MANY_WORDS or loopback_only(host):
        return
    raise ConfigInvalid(
        f"the figures at {host}:{port} could be read from other machines, and they have neither TLS nor keys. Set "
        "telemetry.metrics_host to 127.0.0.1, or say "
        f"`telemetry.metrics_insecure = {FIGURES_IN_SO_MANY_WORDS!r}`"
    )


def loopback_only(host: str) -> bool:
    """Return whether every address that a host stands for is this machine's own."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        return False  # whoever binds it has the better message
    return bool(host) and all(ipaddress.ip_address(str(each[4][0]).partition("%")[0]).is_loopback for each in found)
