"""What came of every request: an answer that was checked, an error of the contract's table, or a broken law."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import grpc
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from podium_server.transport.status import TABLE

Kind: TypeAlias = Literal["answered", "typed", "own clock", "no server", "left", "broken"]

TYPED = {(row.code.name, kind.reason) for kind, row in TABLE.items() if row.code is not grpc.StatusCode.INTERNAL}
"""Codes and reasons of the table that a caller may be told. INTERNAL is in it, too, and is a fault of the server's."""
HTTP_TYPED = (400, 401, 403, 404, 408, 409, 413, 422, 424, 429, 503, 504)
KEPT_DETAILS = 40
"""Details of broken requests that are kept; all are counted."""
GRACE_S = 2.0
"""That a request may be answered behind its own deadline, on a machine that has other things to do, too."""
RECONNECT_S = 2.0
"""After a server listens again, until every client has noticed (their backoff is half a second at most)."""
ENTERED_S = 1.5
"""What a batch of documents used is entered within a second (docs/security.md, what a crash can lose)."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one request.

    Args:
        kind: `answered`; `typed`, an error of the table; `own clock`, DEADLINE_EXCEEDED that the client's own library
            said; `no server`, a transport's error while there was none; `left`, the client went away; `broken`.
        code: for the table: COMPLETE, PARTIAL_BACKEND, UNAVAILABLE/BACKEND_DOWN, 429 …
        detail: of what is broken.

    """

    kind: Kind
    code: str
    detail: str = ""


def answered(code: str = "COMPLETE") -> Outcome:
    return Outcome("answered", code)


def broken(code: str, detail: str) -> Outcome:
    return Outcome("broken", code, detail[:500])


@dataclass(slots=True)
class Absence:
    """A time without a server, of our making. A drain lets those end that had begun before it; a kill does not."""

    began: float
    drain: bool
    ended: float | None = None


@dataclass(slots=True)
class Bills:
    """What a tenant's answers said that they cost."""

    nano_usd: int = 0
    tokens: int = 0
    requests: int = 0
    late: deque[tuple[float, int, int]] = field(default_factory=lambda: deque(maxlen=4096))
    """When, and how much, of what the server did not take before it spent it: batches of documents."""

    def add(self, total: Any, now: float, *, after: bool = False) -> None:
        """Add a `ledger.total`, of protobuf."""
        self.enter(total.cost_nano_usd, total.prompt_tokens + total.output_tokens, now, after=after)

    def enter(self, nano_usd: int, tokens: int, now: float, *, after: bool = False) -> None:
        self.nano_usd += nano_usd
        self.tokens += tokens
        self.requests += 1
        if after:
            self.late.append((now, nano_usd, tokens))

    def certain(self, at: float) -> tuple[int, int]:
        """Return the money and the tokens that have to be on the disk at a time."""
        fresh = [(nano_usd, tokens) for when, nano_usd, tokens in self.late if when > at - ENTERED_S]
        return self.nano_usd - sum(each for each, _ in fresh), self.tokens - sum(each for _, each in fresh)


@dataclass(slots=True)
class Account:
    """Of one run. Times are `time.monotonic()` seconds."""

    phase: str = "start"
    by_phase: dict[str, Counter[tuple[Kind, str]]] = field(default_factory=dict)
    by_client: dict[str, Counter[Kind]] = field(default_factory=dict)
    details: list[str] = field(default_factory=list)
    absences: list[Absence] = field(default_factory=list)
    bills: dict[str, Bills] = field(default_factory=dict)
    latencies_s: dict[str, list[float]] = field(default_factory=dict)
    began_at: float = 0.0

    def enter(self, client: str, phase: str, began: float, ended: float, deadline_s: float, outcome: Outcome) -> None:
        """Enter a request; one that is answered behind its deadline and the grace is broken, whatever the answer."""
        if ended - began > deadline_s + GRACE_S and outcome.kind not in ("no server", "broken", "left"):
            said = f"{outcome.kind} {outcome.code} after {ended - began:.2f} s, with a deadline of {deadline_s:.2f} s"
            outcome = broken("LATE", said)
        self.by_phase.setdefault(phase, Counter())[outcome.kind, outcome.code] += 1
        self.by_client.setdefault(client, Counter())[outcome.kind] += 1
        if outcome.kind == "answered":
            kept = self.latencies_s.setdefault(phase, [])
            if len(kept) < 20_000:
                kept.append(ended - began)
        elif outcome.kind == "broken" and len(self.details) < KEPT_DETAILS:
            self.details.append(f"{began - self.began_at:.1f} s, {phase}, {client}: {outcome.code}: {outcome.detail}")

    def bill(self, tenant: str) -> Bills:
        return self.bills.setdefault(tenant, Bills())

    def of_kind(self, kind: Kind) -> int:
        return sum(count for counts in self.by_phase.values() for (each, _), count in counts.items() if each == kind)

    @property
    def requests(self) -> int:
        return sum(sum(counts.values()) for counts in self.by_phase.values())

    def without_server(self, began: float, ended: float) -> bool:
        """Tell whether a transport's error of a request is one that we have caused.

        A drain lets what had begun before it go on to its end, so that an error of such a request is none of those.
        """
        return any(
            absence.began <= ended
            and (absence.ended is None or absence.ended + RECONNECT_S >= began)
            and not (absence.drain and began < absence.began)
            for absence in self.absences
        )

    # --- errors, read ----------------------------------------------------------------------------------------------

    def of_rpc(self, error: grpc.aio.AioRpcError, began: float, ended: float) -> Outcome:
        """Return what an error of gRPC is."""
        code = error.code().name
        found = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
        if isinstance(found, bytes):
            return self.of_status(Status.FromString(found), code)
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return Outcome("own clock", code)
        if self.without_server(began, ended):
            return Outcome("no server", code)
        return broken(code, f"no details: {error.details()}")

    def of_status(self, status: Status, code: str | None = None) -> Outcome:
        """Return what a `google.rpc.Status` is."""
        code = code or next((each.name for each in grpc.StatusCode if each.value[0] == status.code), str(status.code))
        info = ErrorInfo()
        reason = info.reason if any(detail.Unpack(info) for detail in status.details) else ""
        if (code, reason) in TYPED:
            return Outcome("typed", f"{code}/{reason}")
        return broken(f"{code}/{reason}", status.message)

    def of_http(self, status: int, body: Any, text: str) -> Outcome:
        """Return what an answer of HTTP is that is no success."""
        if status not in HTTP_TYPED:
            return broken(str(status), text)
        said = body.get("message") or body.get("detail") or body.get("error") if isinstance(body, Mapping) else None
        if not said:
            return broken(str(status), f"without a sentence: {text}")
        return Outcome("typed", f"HTTP {status}")
