"""The gate: a guard of calls (`transport.door`) that lets in those who are known, as often as their tenant may call."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from types import TracebackType
from typing import Protocol

from podium_server.access.identity import Identity, Tenant, Visit, current_visit
from podium_server.access.keys import Key, KeyRing
from podium_server.access.meter import Meter
from podium_server.access.refusals import Refusal, Refusals
from podium_server.errors import Unauthenticated

log = logging.getLogger(__name__)

AUTHORIZATION = "authorization"
API_KEY = "x-api-key"

_NOTHING_SHOWN = (
    "no credentials were shown; send an API key as `authorization: Bearer KEY` (or `x-api-key: KEY`), or a certificate "
    "that this server knows"
)
_NOT_OURS = "these credentials are not valid here"


class Call(Protocol):
    """What a gate sees of a call; see `transport.door.Call`."""

    @property
    def method(self) -> str: ...
    @property
    def metadata(self) -> Mapping[str, str]: ...
    @property
    def peer(self) -> str: ...
    @property
    def subjects(self) -> Sequence[str]:
        """Names in the certificate that the other end has proved to be its own."""


class Gate:
    """Stands around every call.

    Args:
        ring: of keys; None where certificates alone are shown.
        tenants: by name.
        subjects: tenants' names, by the names in certificates.
        meter: of requests; None where nobody has a quota.
        refusals: to count in.
        clock: Unix time in seconds.

    """

    def __init__(
        self,
        ring: KeyRing | None,
        tenants: Mapping[str, Tenant],
        subjects: Mapping[str, str],
        meter: Meter | None,
        refusals: Refusals,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ring = ring
        self._tenants = tenants
        self._by_subject = {subject: Identity.of(tenants[name]) for subject, name in subjects.items()}
        self._meter = meter
        self._refusals = refusals
        self._clock = clock
        self._identities: dict[str, tuple[Key, Identity]] = {}

    def __call__(self, call: Call) -> _Passage:
        return _Passage(self, call)

    def identify(self, call: Call) -> Identity:
        """Return who calls. Credentials are taken out of the call: nobody behind the gate can log them or pass them on.

        A key counts before a certificate, which may be that of a proxy.

        Raises:
            Unauthenticated: nobody that we know.

        """
        given = _shown(call.metadata)
        if given is not None:
            return self._by_key(given, call)
        for subject in call.subjects:
            identity = self._by_subject.get(subject)
            if identity is not None:
                return identity
        raise self._refused(Refusal.MISSING, _NOTHING_SHOWN, call)

    def _by_key(self, given: str, call: Call) -> Identity:
        key = None if self._ring is None else self._ring.find(given)
        if key is None:
            raise self._refused(Refusal.UNKNOWN, _NOT_OURS, call)
        # Whoever comes here has the whole key, and may be told what is the matter with it.
        if key.revoked_s is not None:
            raise self._refused(Refusal.REVOKED, f"the key {key.id} is revoked", call, key)
        if key.expires_s is not None and self._clock() >= key.expires_s:
            raise self._refused(Refusal.EXPIRED, f"the key {key.id} has expired", call, key)
        # A ring that was read again has other objects, also for keys that are as they were.
        made = self._identities.get(key.id)
        if made is None or made[0] is not key:
            tenant = self._tenants.get(key.tenant)
            if tenant is None:
                raise self._refused(Refusal.NO_TENANT, f"the tenant of the key {key.id} is not served here", call, key)
            made = self._identities[key.id] = (
                key,
                Identity.of(tenant, key.id, pipelines=key.pipelines, inline=key.inline, collections=key.collections),
            )
        return made[1]

    def _refused(self, reason: Refusal, message: str, call: Call, key: Key | None = None) -> Unauthenticated:
        # A tenant that is not configured any more is no label.
        self._refusals.note(reason, key.tenant if key is not None and key.tenant in self._tenants else "")
        facts = {"reason": reason.value, "peer": call.peer, "method": call.method, "key": "" if key is None else key.id}
        log.info("refused at the gate", extra=facts)
        return Unauthenticated(message)

    async def enter(self, call: Call) -> None:
        """Let a call in, as one of the tenant's requests.

        Raises:
            Unauthenticated: nobody that we know.
            QuotaExceeded: the tenant has called as often as it may.

        """
        identity = self.identify(call)
        current_visit.set(Visit(identity))
        if self._meter is not None and identity.requests and not self._meter.take_at_once(identity.requests):
            await self._meter.take(identity.requests)


class _Passage:
    """A context manager written out: a generator's would take as long as the check."""

    __slots__ = ("_call", "_gate")

    def __init__(self, gate: Gate, call: Call) -> None:
        self._gate = gate
        self._call = call

    async def __aenter__(self) -> None:
        # Before all else: whatever stands in the context was somebody else's.
        current_visit.set(None)
        await self._gate.enter(self._call)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        pass


def _shown(metadata: Mapping[str, str]) -> str | None:
    """Take the credentials out of what came with a call; None where there are none."""
    bearer: str | None
    plain: str | None
    if isinstance(metadata, MutableMapping):
        bearer, plain = metadata.pop(AUTHORIZATION, None), metadata.pop(API_KEY, None)
    else:
        bearer, plain = metadata.get(AUTHORIZATION), metadata.get(API_KEY)
    if bearer is None:
        return plain
    scheme, _, credentials = bearer.partition(" ")
    # A scheme that we do not know is a credential that we do not know, and no reason to look for another.
    return credentials.strip() if scheme.lower() == "bearer" else ""
