"""Errors as HTTP knows them: the status of each gRPC code, and what a dialect needs for a body of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import grpc
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from podium.v1 import ledger_pb2
from podium_server.errors import PodiumError
from podium_server.transport.door import Failed
from podium_server.transport.status import failure

# The table of google.rpc.Code, as gateways apply it.
HTTP_STATUS: Mapping[grpc.StatusCode, int] = {
    grpc.StatusCode.OK: 200,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.UNKNOWN: 500,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DATA_LOSS: 500,
}
_CODES: Mapping[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
_GRPC_CODE = {413: grpc.StatusCode.RESOURCE_EXHAUSTED, 415: grpc.StatusCode.INVALID_ARGUMENT} | {
    status: code
    for code, status in HTTP_STATUS.items()
    if code not in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.ABORTED)
    and code not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.DATA_LOSS)
}


@dataclass(frozen=True, slots=True)
class Fault:
    """An error on its way to a caller.

    Args:
        http: the status, before a dialect has its say.
        code: what gRPC would have answered.
        message: for a person.
        reason: of `ErrorInfo`: which of our errors it is; empty where HTTP itself is at fault.
        violations: paths of fields with a sentence each.
        retry_after_s: seconds after which another try is worth while; None where nobody knows.
        spent: what the request had used by then.
        status: the whole, as gRPC would have sent it.
        headers: beside those that every error has.

    """

    http: int
    code: grpc.StatusCode
    message: str
    reason: str = ""
    violations: tuple[tuple[str, str], ...] = ()
    retry_after_s: float | None = None
    spent: ledger_pb2.Ledger | None = None
    status: Status = field(default_factory=Status)
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields at fault."""
        return tuple(path for path, _ in self.violations)

    @property
    def all_headers(self) -> dict[str, str]:
        """What goes into the head of the answer."""
        made = dict(self.headers)
        if self.retry_after_s is not None and self.http in (429, 503):
            # A whole number of seconds, and never 0: clients would be back at once.
            made["retry-after"] = str(max(1, math.ceil(self.retry_after_s)))
        if self.reason == "UNAVAILABLE":
            # It stops: whoever balances loads shall open the next connection elsewhere.
            made["connection"] = "close"
        if self.http == 401:
            made["www-authenticate"] = "Bearer"
        return made

    def renamed(self, names: Mapping[str, str]) -> Fault:
        """Return it with the first part of each path as the dialect calls it; the message follows."""
        if not names or not self.violations:
            return self
        said = tuple((_renamed(path, names), sentence) for path, sentence in self.violations)
        if said == self.violations:
            return self
        path, sentence = said[0]
        more = f" (and {len(said) - 1} more)" if len(said) > 1 else ""
        return replace(self, violations=said, message=f"{path}: {sentence}{more}")


class HttpError(Exception):
    """What is refused before it is a call: a body that cannot be read, a path or a method that is not there."""

    def __init__(self, http: int, message: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.fault = of_http(http, message, headers or {})


def of_http(http: int, message: str, headers: Mapping[str, str]) -> Fault:
    """Return the fault of a status alone."""
    code = _GRPC_CODE.get(http, grpc.StatusCode.INVALID_ARGUMENT if http < 500 else grpc.StatusCode.INTERNAL)
    retry_after_s = 1.0 if http == 503 else None
    return Fault(
        http,
        code,
        message,
        retry_after_s=retry_after_s,
        status=Status(code=code.value[0], message=message),
        headers=tuple(headers.items()),
    )


def of_call(failed: Failed) -> Fault:
    """Return the fault of a call that the door ended."""
    return of_status(failed.failure.status)


def of_status(status: Status) -> Fault:
    """Return the fault of a `google.rpc.Status`."""
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    info, retry, bad, spent = ErrorInfo(), RetryInfo(), BadRequest(), ledger_pb2.Ledger()
    _unpack(status, info)
    _unpack(status, bad)
    return Fault(
        http=HTTP_STATUS[code],
        code=code,
        message=status.message,
        reason=info.reason,
        violations=tuple((each.field, each.description) for each in bad.field_violations),
        retry_after_s=retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9 if _unpack(status, retry) else None,
        spent=spent if _unpack(status, spent) else None,
        status=status,
    )


def of_error(error: PodiumError, request_id: str) -> Fault:
    """Return the fault of an error of ours that was found before the door."""
    return of_status(failure(error, request_id).status)


def too_late() -> Fault:
    """Return the fault of a call whose deadline came."""
    message = "the deadline of the request passed; what was spent until then is charged"
    return of_http(504, message, {})


def _unpack(status: Status, into: Message) -> bool:
    return any(detail.Unpack(into) for detail in status.details)


def _renamed(path: str, names: Mapping[str, str]) -> str:
    end = next((place for place, letter in enumerate(path) if letter in ".["), len(path))
    return names.get(path[:end], path[:end]) + path[end:]
