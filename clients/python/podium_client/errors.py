"""Errors as exceptions: one class for each thing that a caller can do something about.

Every error has `code` (of gRPC), `reason` (stable, for programs: `podium.v1.ErrorReason`), `message` (for people),
`metadata`, `request_id` (what to look for in the server's log), and `ledger` where something was spent before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

if TYPE_CHECKING:
    from podium_client.types import Ledger


@dataclass(frozen=True, slots=True)
class Violation:
    """What is wrong with one thing.

    Args:
        field: path of a field, such as `documents[3].id`; for a precondition, its subject.
        description: what is wrong, and what to do.

    """

    field: str
    description: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What a status tells, whatever its class makes of it."""

    code: grpc.StatusCode
    message: str
    reason: str = ""
    metadata: Mapping[str, str] | None = None
    request_id: str = ""
    ledger: Ledger | None = None
    violations: tuple[Violation, ...] = ()
    resource_kind: str = ""
    resource_name: str = ""
    retry_after_s: float | None = None


class PodiumError(Exception):
    """Base of all; itself raised for codes that have no class of their own."""

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts.message)
        self.facts = facts
        self.code = facts.code
        self.message = facts.message
        self.reason = facts.reason
        self.metadata = dict(facts.metadata or {})
        self.request_id = facts.request_id
        self.ledger = facts.ledger

    def __reduce__(self) -> tuple[type[PodiumError], tuple[Facts]]:
        return type(self), (self.facts,)  # so that it comes through a process pool

    def __str__(self) -> str:
        named = f"{self.code.name}/{self.reason}" if self.reason and self.reason != self.code.name else self.code.name
        return f"{self.message} [{named}{f', request {self.request_id}' if self.request_id else ''}]"


class InvalidRequest(PodiumError):
    """Fields of the request are out of their documented bounds: `field_violations` names them."""

    @property
    def field_violations(self) -> tuple[Violation, ...]:
        """One for each field that is wrong."""
        return self.facts.violations


class NotFound(PodiumError):
    """There is no `kind` named `name`; `known` has the names that there are."""

    @property
    def kind(self) -> str:
        """What was looked for, such as "pipeline"."""
        return self.facts.resource_kind

    @property
    def name(self) -> str:
        """What was asked for."""
        return self.facts.resource_name

    @property
    def known(self) -> tuple[str, ...]:
        """The names that there are, or the first hundred of them."""
        return tuple(name for name in self.metadata.get("known", "").split(",") if name)


class AlreadyExists(PodiumError):
    """A collection of that name exists with other settings."""


class FailedPrecondition(PodiumError):
    """The request is well formed, but something that it names lacks what it needs."""

    @property
    def violations(self) -> tuple[Violation, ...]:
        """What is lacking."""
        return self.facts.violations


class ResourceExhausted(PodiumError):
    """A limit is reached: a message is too large, a disk is full, or one of the classes below."""


class Overloaded(ResourceExhausted):
    """The server has as much work as it takes on. The call cost nothing."""

    @property
    def retry_after_s(self) -> float | None:
        """When a place is likely to be free."""
        return self.facts.retry_after_s


class QuotaExceeded(ResourceExhausted):
    """What the caller may spend is spent. Trying again soon does not help."""


class BudgetExhausted(ResourceExhausted):
    """The budget was gone before the order was complete, and `on_exhausted="fail"` was asked for."""


class Unavailable(PodiumError):
    """No server answers, it is starting or stopping, or a model behind it is down; retries did not help."""

    @property
    def retry_after_s(self) -> float | None:
        """When another try is worth while."""
        return self.facts.retry_after_s


class DeadlineExceeded(PodiumError):
    """The timeout of the call passed, or its soft deadline where `on_exhausted="fail"` was asked for."""


class Cancelled(PodiumError):
    """The call was cancelled."""


class Unauthenticated(PodiumError):
    """No credentials, or wrong ones."""


class PermissionDenied(PodiumError):
    """The credentials are good, and do not allow this."""


class Internal(PodiumError):
    """A fault of the server. Its log has more, under `request_id`."""


_BY_REASON: dict[str, type[PodiumError]] = {
    "OVERLOADED": Overloaded,
    "QUOTA_EXCEEDED": QuotaExceeded,
    "BUDGET_EXHAUSTED": BudgetExhausted,
}
_BY_CODE: dict[grpc.StatusCode, type[PodiumError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.INTERNAL: Internal,
    grpc.StatusCode.UNKNOWN: Internal,
    grpc.StatusCode.DATA_LOSS: Internal,
}


def error_of(facts: Facts) -> PodiumError:
    """Return the exception for what a status tells."""
    return (_BY_REASON.get(facts.reason) or _BY_CODE.get(facts.code) or PodiumError)(facts)
