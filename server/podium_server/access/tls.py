"""Certificates that are read again when their files change, without a restart and without losing a connection.

Files are looked at when a handshake begins: three calls of `stat`, and nothing is read while nothing has changed. What
cannot be used (a key that belongs to another certificate, half a file) changes nothing: the last good ones go on, which
is said in the log once for each change, and counted.
"""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from podium_server.access.sections import TlsSection
from podium_server.errors import ConfigInvalid

log = logging.getLogger(__name__)

_Looks = tuple[tuple[int, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Material:
    """What one look at the files gave: PEM. `client_ca` is empty where callers show no certificate."""

    certificate: bytes
    key: bytes = field(repr=False)
    client_ca: bytes = b""

    @property
    def digest(self) -> str:
        """Of all of it."""
        return sha256(b"\0".join((self.certificate, self.key, self.client_ca))).hexdigest()


class Certificates:
    """The server's certificates, for gRPC and HTTP alike. May be used by many threads.

    Args:
        section: with a certificate and a key.

    Raises:
        ConfigInvalid: they cannot be used. Only here: what changes later and cannot be used is left out.

    """

    def __init__(self, section: TlsSection) -> None:
        if section.certificate is None or section.key is None:
            raise ConfigInvalid("tls.certificate and tls.key are needed, and are not set")
        self._paths = (section.certificate, section.key, *((section.client_ca,) if section.client_ca else ()))
        self._lock = threading.Lock()
        self._contexts: list[ssl.SSLContext] = []
        self.reloads = 0
        """Times that other certificates came into use."""
        self.failures = 0
        """Times that changed files could not be used."""
        self._looked = self._look()
        self.material = self._load()
        self.expires_s = _expiry(section.certificate)
        """When the certificate in use expires, in seconds of Unix time."""

    @property
    def mutual(self) -> bool:
        """Whether callers have to show a certificate."""
        return len(self._paths) > 2

    def changed(self) -> Material | None:
        """Look at the files, and return what is new in them; None where nothing is, or nothing that can be used."""
        with self._lock:
            try:
                looked = self._look()
                if looked == self._looked:
                    return None
                self._looked = looked
                material = self._load()
                changed = material.digest != self.material.digest
                # Files may change again while contexts are filled, which read them by themselves.
                for context in self._contexts if changed else ():
                    self._fill(context)
            except ConfigInvalid as error:
                self.failures += 1
                self._looked = ()  # so that it is tried again: a rotation writes one file after the other
                if error.message != self._told:
                    self._told = error.message
                    log.error("new certificates cannot be used, and the old ones go on: %s", error.message)
                return None
            self._told = ""
            if not changed:
                return None
            self.material = material
            self.expires_s = _expiry(self._paths[0])
            self.reloads += 1
            log.info("new certificates are in use", extra={"certificate": str(self._paths[0])})
            return material

    _told = ""

    def context(self) -> ssl.SSLContext:
        """Return a context for a server of HTTP/1.1. It follows the files: new connections see what is new.

        Its trust of callers' authorities grows by those that are new; one that is taken away is trusted by this context
        until a restart, which OpenSSL offers no way around.
        """
        context = _Following(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        context.certificates = self
        with self._lock:
            self._fill(context)
            self._contexts.append(context)
        return context

    def _look(self) -> _Looks:
        try:
            stats = [path.stat() for path in self._paths]
        except OSError as error:
            raise ConfigInvalid(f"{error.filename}: cannot be read: {error.strerror}") from error
        return tuple((each.st_ino, each.st_dev, each.st_size, each.st_mtime_ns) for each in stats)

    def _load(self) -> Material:
        """Read the files, and try whether they can be used together."""
        try:
            material = Material(*(path.read_bytes() for path in self._paths))
            self._fill(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
            again = Material(*(path.read_bytes() for path in self._paths))
        except OSError as error:
            raise ConfigInvalid(f"{error.filename}: cannot be read: {error.strerror}") from error
        # Between the two, a file may have changed; what was tried is what is used.
        if material.digest != again.digest:
            raise ConfigInvalid(f"{self._paths[0]}: changes while it is read")
        return material

    def _fill(self, context: ssl.SSLContext) -> None:
        certificate, key, *authorities = self._paths
        try:
            # The passphrase is empty, for otherwise OpenSSL would ask for one at the terminal.
            context.load_cert_chain(certificate, key, password="")
        except (ssl.SSLError, OSError) as error:
            why = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
            raise ConfigInvalid(f"{certificate} and {key} cannot be used as certificate and key: {why}") from error
        for authority in authorities:
            try:
                context.load_verify_locations(authority)
            except (ssl.SSLError, OSError) as error:
                why = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
                raise ConfigInvalid(f"{authority}: cannot be used as certificates of authorities: {why}") from error
            context.verify_mode = ssl.CERT_REQUIRED


class _Following(ssl.SSLContext):
    """A context that looks for new certificates before it begins a connection."""

    certificates: Certificates

    def wrap_bio(self, *arguments: Any, **named: Any) -> ssl.SSLObject:
        """As the base class; servers on asyncio call it for each connection."""
        self.certificates.changed()
        return super().wrap_bio(*arguments, **named)

    def wrap_socket(self, *arguments: Any, **named: Any) -> ssl.SSLSocket:
        """As the base class; servers on threads call it for each connection."""
        self.certificates.changed()
        return super().wrap_socket(*arguments, **named)


def subjects_of(certificate: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Return the names in a certificate that the other end has proved to own, as `SSLSocket.getpeercert` gives it."""
    if not certificate:
        return ()
    found = [value for kind, value in certificate.get("subjectAltName", ()) if kind in ("DNS", "URI", "email")]
    found += [value for part in certificate.get("subject", ()) for kind, value in part if kind == "commonName"]
    return tuple(dict.fromkeys(found))


def subjects_in(context: Mapping[str, Iterable[bytes]]) -> tuple[str, ...]:
    """Return the same of what gRPC knows of the other end (`auth_context`)."""
    found = [
        value.decode("utf-8", "replace")
        for key in ("x509_subject_alternative_name", "x509_common_name")
        for value in context.get(key, ())
    ]
    return tuple(dict.fromkeys(found))


def _expiry(certificate: Path) -> float:
    """Return when the first certificate of a file expires."""
    try:
        decoded: dict[str, Any] = ssl._ssl._test_decode_cert(str(certificate))  # type: ignore[attr-defined]
        return float(ssl.cert_time_to_seconds(decoded["notAfter"]))
    except (ssl.SSLError, OSError, KeyError, ValueError, AttributeError):
        return float("nan")


def expires_in_s(certificates: Certificates, now_s: float | None = None) -> float:
    """Return for how long the certificate in use is valid; negative where it is not any more."""
    return certificates.expires_s - (time.time() if now_s is None else now_s)
