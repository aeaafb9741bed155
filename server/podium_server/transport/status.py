"""The one table from our errors to what a gRPC caller sees: a code, a sentence, and `google.rpc` details.

Trailers have to fit into the 8 KiB of metadata that a client accepts by default (`grpc.max_metadata_size`); beyond it
the caller would see a fault of the transport instead of ours. So whatever a request can make long is cut here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import (
    BadRequest,
    ErrorInfo,
    PreconditionFailure,
    QuotaFailure,
    ResourceInfo,
    RetryInfo,
)
from google.rpc.status_pb2 import Status

from podium.v1 import ledger_pb2
from podium_server import errors
from podium_server.accounting.ledger import Ledger
from podium_server.transport.convert import ledgers, reasons, values

log = logging.getLogger(__name__)

DOMAIN = "podium"
DETAILS_KEY = "grpc-status-details-bin"
PUSHBACK_KEY = "grpc-retry-pushback-ms"

# Base64 makes a third more of the details, and percent-encoding up to three times as much of the message; both lie
# well below the 8 KiB then, with the details inside repeating the message.
_DETAILS_BYTES_MAX = 4_000
_MESSAGE_BYTES_MAX = 700
_NAME_BYTES_MAX = 128
_KNOWN_NAMES_MAX = 100

told: ContextVar[Callable[[BaseException], None] | None] = ContextVar("told", default=None)
"""Hears every error that is translated in a call, at its end or inside of an answer; set by whoever keeps figures."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as a caller sees it, at the end of a call or inside an answer."""

    code: grpc.StatusCode
    status: Status
    trailers: tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: the code, and the details beside `ErrorInfo`."""

    code: grpc.StatusCode
    details: Callable[[Any], Iterable[Message]] = lambda _: ()


def _bad_request(error: errors.InvalidRequest) -> Iterable[Message]:
    violations: list[BadRequest.FieldViolation] = []
    left = _DETAILS_BYTES_MAX // 2
    for field, description in error.violations:
        violation = BadRequest.FieldViolation(
            field=_cut(field, _NAME_BYTES_MAX), description=_cut(description, _MESSAGE_BYTES_MAX)
        )
        left -= violation.ByteSize()
        if violations and left < 0:
            break
        violations.append(violation)
    yield BadRequest(field_violations=violations)


def _resource(error: errors.NotFound) -> Iterable[Message]:
    yield ResourceInfo(resource_type=error.kind, resource_name=_cut(error.name, _NAME_BYTES_MAX))


def _existing(error: errors.AlreadyExists) -> Iterable[Message]:
    yield ResourceInfo(
        resource_type="collection",
        resource_name=_cut(error.metadata.get("name", ""), _NAME_BYTES_MAX),
        description=_cut(error.message, _MESSAGE_BYTES_MAX),
    )


def _precondition(error: errors.PodiumError) -> Iterable[Message]:
    violation = PreconditionFailure.Violation(
        type=error.reason,
        subject=_cut(error.metadata.get("subject", ""), _NAME_BYTES_MAX),
        description=_cut(error.message, _MESSAGE_BYTES_MAX),
    )
    yield PreconditionFailure(violations=[violation])


def _quota(error: errors.QuotaExceeded) -> Iterable[Message]:
    violation = QuotaFailure.Violation(
        subject=_cut(error.metadata.get("subject", ""), _NAME_BYTES_MAX),
        description=_cut(error.message, _MESSAGE_BYTES_MAX),
    )
    yield QuotaFailure(violations=[violation])
    if error.retry_after_s is not None:
        yield RetryInfo(retry_delay=values.duration(error.retry_after_s))


def _retry(error: errors.Overloaded | errors.Unavailable) -> Iterable[Message]:
    yield RetryInfo(retry_delay=values.duration(error.retry_after_s))


TABLE: dict[type[errors.PodiumError], Row] = {
    errors.PodiumError: Row(grpc.StatusCode.INTERNAL),
    errors.ConfigInvalid: Row(grpc.StatusCode.INTERNAL),
    errors.InvalidRequest: Row(grpc.StatusCode.INVALID_ARGUMENT, _bad_request),
    errors.NotFound: Row(grpc.StatusCode.NOT_FOUND, _resource),
    errors.AlreadyExists: Row(grpc.StatusCode.ALREADY_EXISTS, _existing),
    errors.FailedPrecondition: Row(grpc.StatusCode.FAILED_PRECONDITION, _precondition),
    errors.Unauthenticated: Row(grpc.StatusCode.UNAUTHENTICATED),
    errors.PermissionDenied: Row(grpc.StatusCode.PERMISSION_DENIED),
    errors.Overloaded: Row(grpc.StatusCode.RESOURCE_EXHAUSTED, _retry),
    errors.QuotaExceeded: Row(grpc.StatusCode.RESOURCE_EXHAUSTED, _quota),
    errors.BudgetExhausted: Row(grpc.StatusCode.RESOURCE_EXHAUSTED),
    errors.DeadlineExceeded: Row(grpc.StatusCode.DEADLINE_EXCEEDED),
    errors.Unavailable: Row(grpc.StatusCode.UNAVAILABLE, _retry),
    errors.BackendDown: Row(grpc.StatusCode.UNAVAILABLE, _retry),
    errors.BackendRefused: Row(grpc.StatusCode.FAILED_PRECONDITION, _precondition),
    errors.UnreadableReply: Row(grpc.StatusCode.INTERNAL),
    errors.StoreError: Row(grpc.StatusCode.INTERNAL),
    errors.StoreFull: Row(grpc.StatusCode.RESOURCE_EXHAUSTED),
}


def row_of(kind: type[errors.PodiumError]) -> Row:
    """Return the line of an error class; a class of a third party has that of the nearest one of ours."""
    return next(TABLE[base] for base in kind.__mro__ if base in TABLE)


def code_of(error: BaseException | None) -> str:
    """Return the name of the code that a call with this error, or none, ends with."""
    if error is None:
        return "OK"
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return "CANCELLED"
    return row_of(type(error) if isinstance(error, errors.PodiumError) else errors.PodiumError).code.name


def failure(error: BaseException, request_id: str) -> Failure:
    """Translate an error. One that is none of ours is logged with its traceback, and told of by request id alone."""
    hears = told.get()
    if hears is not None:
        hears(error)
    if not isinstance(error, errors.PodiumError):
        # The text of a stranger's error may hold anything, a key or a document; it stays in our log.
        log.error("an error of ours, in a call", exc_info=error, extra={"request_id": request_id})
        error = errors.PodiumError(f"an internal error; the log of the server has it under the request id {request_id}")
    row = row_of(type(error))
    message = _cut(error.message, _MESSAGE_BYTES_MAX)
    details: list[Message] = [_info(error, request_id), *row.details(error)]
    if isinstance(error.spent, Ledger):
        details.append(ledgers.ledger(error.spent))
    status = Status(code=row.code.value[0], message=message, details=_packed(details))
    trailers: list[tuple[str, str | bytes]] = [(DETAILS_KEY, status.SerializeToString())]
    if isinstance(error, errors.Overloaded):
        trailers.append((PUSHBACK_KEY, str(round(error.retry_after_s * 1000))))
    elif isinstance(error, errors.QuotaExceeded):
        trailers.append((PUSHBACK_KEY, "-1"))  # clients that try again by themselves do not
    return Failure(row.code, status, tuple(trailers))


def _info(error: errors.PodiumError, request_id: str) -> ErrorInfo:
    metadata = {key: _cut(value, _NAME_BYTES_MAX) for key, value in error.metadata.items()}
    if isinstance(error, errors.NotFound):
        metadata["known"] = _listed(error.known, _DETAILS_BYTES_MAX // 4)
    metadata["request_id"] = request_id
    return ErrorInfo(reason=reasons.named(error.reason), domain=DOMAIN, metadata=metadata)


def _listed(names: Sequence[str], bytes_max: int) -> str:
    """Return as many names as fit, separated by commas, none of them cut."""
    listed = ""
    for name in sorted(names)[:_KNOWN_NAMES_MAX]:
        longer = f"{listed},{name}" if listed else name
        if len(longer.encode()) > bytes_max:
            break
        listed = longer
    return listed


def _packed(details: Sequence[Message]) -> list[AnyMessage]:
    """Pack details up to the limit. A ledger that is too long keeps its total; what comes first matters most."""
    packed = []
    left = _DETAILS_BYTES_MAX
    for detail in details:
        if isinstance(detail, ledger_pb2.Ledger) and detail.ByteSize() > left:
            detail = ledger_pb2.Ledger(total=detail.total)  # the same detail, shorter
        one = AnyMessage()
        one.Pack(detail)
        left -= one.ByteSize()
        if left >= 0:
            packed.append(one)
    return packed


def _cut(text: str, bytes_max: int) -> str:
    """Return a text of at most so many bytes. Half a character at the end goes, and lone surrogates become '?'."""
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= bytes_max:
        return encoded.decode()
    return encoded[: bytes_max - 3].decode("utf-8", "ignore") + "…"
