"""Everything that can go wrong in Podium, by whose fault it is.

Each class is one row of the table of conditions in the contract (`transport/status.py` translates it, and a test
proves that no class is missing there). A message says what is wrong, with the value, and what to do about it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches


class PodiumError(Exception):
    """Base of every error of ours.

    Args:
        message: one or two sentences for a person: what is wrong, and what to do.
        metadata: short facts for a program, sent as `google.rpc.ErrorInfo.metadata`. Where a limit of the configuration
            was passed, `limit` is its name.

    """

    reason = "INTERNAL"
    """Upper-case identifier, stable over versions: `google.rpc.ErrorInfo.reason`."""

    def __init__(self, message: str, *, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = dict(metadata or {})
        self.spent: object | None = None
        """The `accounting.ledger.Ledger` of what the request had used by then; None where it had not begun."""


class ConfigInvalid(PodiumError):
    """The configuration file cannot be used. Raised at start, never while serving."""

    reason = "CONFIG_INVALID"


# --- the caller's fault -----------------------------------------------------------------------------------------


class InvalidRequest(PodiumError):
    """A field of the request is out of its documented bounds.

    Args:
        field: path of the offending field as the caller wrote it, such as `documents[3].id`.
        also: other fields with a mistake of the same kind, each with its sentence.

    """

    reason = "INVALID_REQUEST"

    def __init__(
        self,
        field: str,
        message: str,
        *,
        also: Sequence[tuple[str, str]] = (),
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        more = f" (and {len(also)} more)" if also else ""
        super().__init__(f"{field}: {message}{more}", metadata=metadata)
        self.field = field
        self.description = message
        self.violations = ((field, message), *also)


class NotFound(PodiumError):
    """A pipeline, strategy, model, collection or document of that name does not exist here.

    Args:
        kind: what was looked for: `pipeline`, `strategy`, `model`, `collection`, `document`.
        name: the name that was given.
        known: the names that exist, for the message.

    """

    reason = "NOT_FOUND"

    def __init__(self, kind: str, name: str, known: Sequence[str] = ()) -> None:
        super().__init__(f"no {kind} is named {name!r}{known_names(name, known)}")
        self.kind = kind
        self.name = name
        self.known = tuple(known)


class AlreadyExists(PodiumError):
    """A collection of that name exists with other settings."""

    reason = "ALREADY_EXISTS"


class FailedPrecondition(PodiumError):
    """The request is well formed, but what it names lacks something (log-probabilities, token vectors, ...)."""

    reason = "FAILED_PRECONDITION"


class Unauthenticated(PodiumError):
    """No credentials, or wrong ones."""

    reason = "UNAUTHENTICATED"


class PermissionDenied(PodiumError):
    """The credentials are good and do not allow this."""

    reason = "PERMISSION_DENIED"


# --- a limit was reached ----------------------------------------------------------------------------------------


class Overloaded(PodiumError):
    """A queue is full. The request cost nothing; it may be sent again.

    Args:
        retry_after_s: seconds after which a place is likely to be free.

    """

    reason = "OVERLOADED"

    def __init__(self, message: str, *, retry_after_s: float, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message, metadata=metadata)
        self.retry_after_s = retry_after_s


class QuotaExceeded(PodiumError):
    """The tenant's quota is used up. Sending the request again does not help before the window ends.

    Args:
        retry_after_s: seconds until it ends; None where it is no matter of time.

    """

    reason = "QUOTA_EXCEEDED"

    def __init__(
        self, message: str, *, retry_after_s: float | None = None, metadata: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message, metadata=metadata)
        self.retry_after_s = retry_after_s


class BudgetExhausted(PodiumError):
    """The request's own budget ended before its pipeline, and the request asked for an error then (FAIL mode)."""

    reason = "BUDGET_EXHAUSTED"


class DeadlineExceeded(PodiumError):
    """The soft deadline passed before the pipeline ended, and the request asked for an error then (FAIL mode)."""

    reason = "DEADLINE_EXCEEDED"


# --- a machine's fault ------------------------------------------------------------------------------------------


class Unavailable(PodiumError):
    """Podium is draining or starting. Another server, or the same one later, will answer.

    Args:
        retry_after_s: seconds after which another try is worth while.

    """

    reason = "UNAVAILABLE"

    def __init__(self, message: str, *, retry_after_s: float = 1.0, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message, metadata=metadata)
        self.retry_after_s = retry_after_s


class BackendDown(Unavailable):
    """A model's backend cannot be reached, or refuses, after all retries."""

    reason = "BACKEND_DOWN"


class BackendRefused(PodiumError):
    """A backend understood a call and will not do it (wrong key, unknown model, context too long, content policy)."""

    reason = "BACKEND_REFUSED"


class UnreadableReply(PodiumError):
    """A model answered, and nothing in its reply could be read as the answer asked for."""

    reason = "UNREADABLE_REPLY"


class StoreError(PodiumError):
    """The store on disk cannot be used: another server holds it, another version wrote it, or the disk is full."""

    reason = "STORE_UNUSABLE"


class StoreFull(StoreError):
    """The disk is full. Nothing that was acknowledged is lost; what was being written was not acknowledged."""

    reason = "STORE_FULL"


def known_names(name: str, known: Sequence[str], *, at_most: int = 20) -> str:
    """Return the tail of a message about an unknown name: the nearest known one and the list of all."""
    if not known:
        return "; there are none"
    near = get_close_matches(name, known, n=1)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    shown = ", ".join(sorted(known)[:at_most]) + (", …" if len(known) > at_most else "")
    return f"{meant} (known: {shown})" if meant else f" (known: {shown})"
