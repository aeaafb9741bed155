"""The table of errors: whole, and small enough for a trailer."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo

from podium.v1 import error_reason_pb2, ledger_pb2
from podium_server import errors
from podium_server.accounting.ledger import Account, Ledger
from podium_server.accounting.usage import Usage
from podium_server.transport import status


def subclasses(kind: type[errors.PodiumError]) -> Iterator[type[errors.PodiumError]]:
    yield kind
    for inner in kind.__subclasses__():
        yield from subclasses(inner)


OURS = sorted(
    {
        kind
        for kind in subclasses(errors.PodiumError)
        # What goes wrong before there is a server meets no request.
        if kind.__module__.startswith("podium_server") and not kind.__module__.startswith("podium_server.cli")
    },
    key=lambda kind: kind.__name__,
)


def example(kind: type[errors.PodiumError], text: str = "what is wrong") -> errors.PodiumError:
    if issubclass(kind, errors.InvalidRequest):
        return kind("documents[3].id", text)
    if issubclass(kind, errors.NotFound):
        return kind("pipeline", text, tuple(f"name-{i}" for i in range(200)))
    if issubclass(kind, errors.Overloaded):
        return kind(text, retry_after_s=0.5)
    return kind(text)


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)
def test_every_error_is_in_the_table_with_a_reason_of_the_contract(kind: type[errors.PodiumError]) -> None:
    assert kind in status.TABLE
    failure = status.failure(example(kind), "r-1")
    info = ErrorInfo()
    assert failure.status.details[0].Unpack(info)
    assert info.domain == "podium"
    assert info.metadata["request_id"] == "r-1"
    assert f"ERROR_REASON_{info.reason}" in dict(error_reason_pb2.ErrorReason.items())
    assert failure.status.code == failure.code.value[0] != grpc.StatusCode.UNKNOWN.value[0]


def test_nothing_is_in_the_table_that_is_not_there() -> None:
    assert set(status.TABLE) == set(OURS)


@pytest.mark.parametrize("text", ["x" * 1_000_000, "答" * 100_000, "\0\n%" * 10_000, "\ud800" * 5_000])
@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)
def test_trailers_fit_into_what_clients_accept(kind: type[errors.PodiumError], text: str) -> None:
    error = example(kind, text)
    ledger = Ledger()
    for i in range(100):
        ledger.open(Account(stage=f"stage-{i}", strategy="s", model="m" * 50)).add(Usage(calls=1))
    error.spent = ledger
    failure = status.failure(error, "r" * 128)
    # As HTTP/2 counts: a binary trailer goes as base64, a message percent-encoded, 32 bytes are added to each.
    size = sum(len(key) + 32 + len(value) * (4 / 3 if key.endswith("-bin") else 1) for key, value in failure.trailers)
    assert size + 3 * len(failure.status.message.encode()) < 8 * 1024
    total = ledger_pb2.Ledger()
    assert any(detail.Unpack(total) for detail in failure.status.details)
    assert total.total.calls == 100


def test_a_stranger_is_told_of_by_request_id_alone(caplog: pytest.LogCaptureFixture) -> None:
    failure = status.failure(KeyError("sk-secret"), "r-7")
    assert failure.code is grpc.StatusCode.INTERNAL
    assert "r-7" in failure.status.message
    assert "sk-secret" not in str(failure.status)
    assert caplog.records[0].exc_info is not None


def test_a_class_of_a_third_party_has_the_line_of_the_nearest_of_ours() -> None:
    third = type("TheirsIsDown", (errors.BackendDown,), {})
    failure = status.failure(third("down"), "r-1")
    assert failure.code is grpc.StatusCode.UNAVAILABLE
    assert any(detail.Is(RetryInfo.DESCRIPTOR) for detail in failure.status.details)
    assert third not in status.TABLE


def test_an_overloaded_server_says_when_to_come_back() -> None:
    failure = status.failure(errors.Overloaded("full", retry_after_s=0.25), "r-1")
    assert ("grpc-retry-pushback-ms", "250") in failure.trailers
