"""What no answer may be, and what every answer must be. Each law returns a sentence where it is broken, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError, Message
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from podium.v1 import error_reason_pb2, rerank_service_pb2, search_service_pb2
from podium_server.transport.door import Method

TYPED = frozenset(
    {
        *("OK", "INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED"),
        *("DEADLINE_EXCEEDED", "UNAUTHENTICATED", "PERMISSION_DENIED", "UNAVAILABLE"),
    }
)
"""Codes of `transport.status.TABLE`, without those that are our fault. UNKNOWN, INTERNAL and the rest break a law."""
# gRPC itself ends calls so: a message or metadata that is too long, a deadline, a method that is not there.
BY_GRPC = frozenset({"RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "CANCELLED", "UNIMPLEMENTED"})
TRACES = (b"Traceback (most recent call last)", b'File "/', b"site-packages")

_REASONS = frozenset(
    value.name.removeprefix("ERROR_REASON_") for value in error_reason_pb2.ErrorReason.DESCRIPTOR.values
)
_OUR_FAULT = frozenset({"INTERNAL", "UNSPECIFIED", "STORE_UNUSABLE", "UNAVAILABLE", "UNREADABLE_REPLY"})


@dataclass(frozen=True, slots=True)
class Seen:
    """What came back for one input.

    Args:
        code: gRPC's, or HTTP's status.
        answers: messages, or bodies.
        beside: metadata, trailers, headers: every other byte that came.
        details: of `grpc-status-details-bin`.
        wrong: what the connection itself noticed, such as no answer at all.

    """

    code: str
    answers: tuple[bytes, ...] = ()
    beside: bytes = b""
    details: bytes = b""
    wrong: str = ""

    @property
    def everything(self) -> bytes:
        """All bytes that came."""
        return b"\n".join((*self.answers, self.beside, self.details))


@dataclass(frozen=True, slots=True)
class Secrets:
    """What belongs to the rival, or to nobody who calls.

    Args:
        texts: never to be seen by anybody else, unless they said it themselves.
        paths: of the server's own files.

    """

    texts: tuple[bytes, ...]
    paths: tuple[bytes, ...] = ()

    def leak(self, came: bytes, sent: bytes) -> str:
        """Return which of it came though it was not sent."""
        for secret in (*self.texts, *self.paths):
            if secret in came and secret not in sent:
                return f"leaks {secret.decode(errors='replace')!r}"
        for trace in TRACES:
            if trace in came and trace not in sent:
                return f"has a stack trace ({trace.decode()!r})"
        return ""


def of_call(method: Method, sent: Sequence[bytes], seen: Seen, secrets: Secrets, *, said: bytes = b"") -> str:
    """Return what is wrong with the answer to a call of gRPC.

    Args:
        method: that was called.
        sent: messages.
        seen: what came.
        secrets: of others.
        said: whatever else the caller sent.

    """
    leak = secrets.leak(seen.everything, b"".join((*sent, said)))
    if seen.wrong or leak:
        return seen.wrong or leak
    if seen.code != "OK":
        # Health says NOT_FOUND as its own contract has it.
        bare = seen.code == "NOT_FOUND" and not method.name.startswith("/podium.")
        return _of_error(seen, bare=bare)
    request = _parsed(method.request, sent[0]) if sent else None
    for data in seen.answers:
        answer = _parsed(method.response, data)
        if answer is None:
            return f"answers with what is no {method.response.DESCRIPTOR.full_name}"
        wrong = _of_answer(answer, request)
        if wrong:
            return wrong
    return ""


def _of_error(seen: Seen, *, bare: bool) -> str:
    if not seen.details:
        return "" if seen.code in BY_GRPC or bare else f"{seen.code} without details"
    if seen.code not in TYPED:
        return f"{seen.code} is our fault: {_message(seen.details)}"
    return of_status(seen.details, seen.code)


def of_status(details: bytes | Status, code: str) -> str:
    """Return what is wrong with a `google.rpc.Status`."""
    status = Status.FromString(details) if isinstance(details, bytes) else details
    info = ErrorInfo()
    if not any(detail.Unpack(info) for detail in status.details):
        return f"{code} without ErrorInfo"
    if info.domain != "podium" or info.reason not in _REASONS or info.reason in _OUR_FAULT:
        return f"{code} with the reason {info.reason!r}: {status.message}"
    return ""


def _message(details: bytes) -> str:
    try:
        return Status.FromString(details).message
    except DecodeError:
        return "details that cannot be read"


def _parsed(kind: type[Message], data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError:
        return None


def _of_answer(answer: Any, request: Any) -> str:
    """Return what is wrong with an answer by itself, and beside its request."""
    if isinstance(answer, rerank_service_pb2.RerankResponse):
        n = len(request.documents) if isinstance(request, rerank_service_pb2.RerankRequest) else None
        whole = request is None or n is None or not request.HasField("top_n")
        return _of_places([(one.input_index, one.rank) for one in answer.ranking], n, whole=whole)
    if isinstance(answer, rerank_service_pb2.StreamRerankResponse):
        if answer.HasField("snapshot"):
            order = list(answer.snapshot.order)
            return "" if sorted(order) == list(range(len(order))) else "a snapshot is no permutation"
        return _of_answer(answer.response, request.request if request is not None else None)
    if isinstance(answer, rerank_service_pb2.BatchRerankResponse):
        if answer.HasField("error"):
            return of_status(answer.error, "an item's error")
        return _of_answer(answer.response, None)
    if isinstance(answer, rerank_service_pb2.CompareResponse):
        bad = (_of_answer(each.response, None) for each in answer.rankings if each.HasField("response"))
        return next(filter(None, bad), "")
    if isinstance(answer, search_service_pb2.SearchResponse):
        return _of_places([(i, one.ranked.rank) for i, one in enumerate(answer.results)], None, whole=False)
    return ""


def _of_places(places: Sequence[tuple[int, int]], n: int | None, *, whole: bool) -> str:
    indices = [index for index, _ in places]
    if len(set(indices)) != len(indices) or (n is not None and any(not 0 <= index < n for index in indices)):
        return "the ranking has a document twice, or one that nobody sent"
    if whole and n is not None and len(indices) != n:
        return f"the ranking has {len(indices)} of {n} documents"
    ranks = [rank for _, rank in places]
    return "" if ranks == list(range(1, len(ranks) + 1)) else f"ranks are {ranks[:5]}"
