"""The fault run's own measures: each of them has to find what it is there for."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from tests.soak.account import ENTERED_S, GRACE_S, RECONNECT_S, TYPED, Absence, Account, Bills, Outcome, answered
from tests.soak.watching import SAMPLES_MIN, Sample, flatness
from tests.soak.writing import Known


def rpc_error(code: grpc.StatusCode, status: Status | None = None) -> grpc.aio.AioRpcError:
    trailers: Any = () if status is None else (("grpc-status-details-bin", status.SerializeToString()),)
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailers), "said")


def told(code: grpc.StatusCode, reason: str) -> Status:
    made = Status(code=code.value[0], message="said")
    made.details.add().Pack(ErrorInfo(reason=reason, domain="podium"))
    return made


def test_an_answer_behind_its_deadline_is_broken() -> None:
    account = Account()
    account.enter("client", "steady", 0.0, 1.0 + GRACE_S, 1.0, answered())
    assert account.of_kind("broken") == 0
    account.enter("client", "steady", 0.0, 1.1 + GRACE_S, 1.0, answered())
    assert account.of_kind("broken") == 1


@pytest.mark.parametrize(
    ("absence", "began", "ended", "excused"),
    [
        (Absence(10.0, drain=False, ended=20.0), 5.0, 9.9, False),
        (Absence(10.0, drain=False, ended=20.0), 5.0, 10.1, True),
        (Absence(10.0, drain=True, ended=20.0), 5.0, 10.1, False),
        (Absence(10.0, drain=True, ended=20.0), 10.1, 10.2, True),
        (Absence(10.0, drain=False), 99.0, 99.1, True),
        (Absence(10.0, drain=False, ended=20.0), 20.1 + RECONNECT_S, 23.0, False),
    ],
)
def test_an_error_of_the_transport_is_excused_by_our_own_deeds_alone(
    absence: Absence, began: float, ended: float, excused: bool
) -> None:
    account = Account(absences=[absence])
    outcome = account.of_rpc(rpc_error(grpc.StatusCode.UNAVAILABLE), began, ended)
    assert outcome.kind == ("no server" if excused else "broken")


def test_errors_are_typed_by_code_and_reason_together() -> None:
    account = Account()

    def kind(code: grpc.StatusCode, reason: str) -> str:
        return account.of_rpc(rpc_error(code, told(code, reason)), 0.0, 1.0).kind

    assert kind(grpc.StatusCode.UNAVAILABLE, "BACKEND_DOWN") == "typed"
    assert kind(grpc.StatusCode.UNAVAILABLE, "") == "broken"
    assert kind(grpc.StatusCode.INTERNAL, "INTERNAL") == "broken"
    assert kind(grpc.StatusCode.INTERNAL, "STORE_UNUSABLE") == "broken"
    assert not any(code == "INTERNAL" for code, _ in TYPED)
    assert account.of_http(500, {"message": "said"}, "").kind == "broken"
    assert account.of_http(503, {}, "").kind == "broken"
    assert account.of_http(503, {"detail": "said"}, "") == Outcome("typed", "HTTP 503")


def test_bills_that_a_crash_may_lose_are_those_of_the_last_moment() -> None:
    bills = Bills()
    bills.enter(100, 10, now=50.0)
    bills.enter(7, 1, now=50.0, after=True)
    assert bills.certain(50.0 + ENTERED_S / 2) == (100, 10)
    assert bills.certain(50.1 + ENTERED_S) == (107, 11)


def test_an_older_version_than_the_acknowledged_one_is_lost() -> None:
    known = Known()
    known.doubt({"a": 1})
    assert known.allowed("a") == {None, 1}
    known.acknowledge({"a": 1})
    known.doubt({"a": 2})
    assert known.allowed("a") == {1, 2}
    known.acknowledge({"a": 2})
    assert known.allowed("a") == {2}
    known.acknowledge({"a": None})
    assert known.allowed("a") == {None}


@pytest.mark.parametrize(("growth_mib", "flat"), [(0.0, True), (0.05, True), (1.0, False)])
def test_memory_that_grows_is_not_flat(growth_mib: float, flat: bool) -> None:
    def at(second: int, phase: str = "steady") -> Sample:
        rss_mib = 300.0 + growth_mib * second
        return Sample(float(second), 1, phase, rss_mib, rss_mib, 60, 30)

    (found,) = flatness([at(second) for second in range(4 * SAMPLES_MIN)], "rss_mib", 8.0)
    assert found.flat is flat
    assert not flatness([at(second) for second in range(SAMPLES_MIN - 1)], "rss_mib", 8.0)
    assert not flatness([at(second, "backend hung") for second in range(4 * SAMPLES_MIN)], "rss_mib", 8.0)
