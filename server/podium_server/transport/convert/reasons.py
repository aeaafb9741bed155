"""The reasons of our errors as the contract names them: `ErrorReason` without its prefix."""

from __future__ import annotations

from podium.v1 import error_reason_pb2, rerank_service_pb2

_PREFIX = "ERROR_REASON_"
_KNOWN = {value.name.removeprefix(_PREFIX) for value in error_reason_pb2.ErrorReason.DESCRIPTOR.values}


def named(reason: str) -> str:
    """Return the reason that a caller is told.

    One that the contract does not name (a bad configuration, a third party's) is a fault of ours to a caller.
    """
    return reason if reason in _KNOWN else "INTERNAL"


def of_partial(cause: str) -> error_reason_pb2.ErrorReason.ValueType | None:
    """Return why an order is partial, from the reason of the error behind it; None where there was none."""
    return error_reason_pb2.ErrorReason.Value(_PREFIX + named(cause)) if cause else None


def of_response(response: rerank_service_pb2.RerankResponse) -> str:
    """Return why an answer's order is partial, in lower case; empty where it is whole."""
    if not response.HasField("partial_reason"):
        return ""
    return error_reason_pb2.ErrorReason.Name(response.partial_reason).removeprefix(_PREFIX).lower()
