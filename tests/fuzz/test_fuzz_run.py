"""A few hundred inputs of each kind against a real server, and whether the laws notice what they are there for."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from google.rpc.status_pb2 import Status

from tests.fuzz import laws, messages, protobufs, run
from tests.fuzz.__main__ import fuzz
from tests.fuzz.doorways import BY_NAME, CONTRACT
from tests.fuzz.findings import Findings, shrunk
from tests.fuzz.laws import Secrets, Seen

RERANK = BY_NAME["/podium.v1.RerankService/Rerank"]
NOBODY = Secrets((b"canary",))


@pytest.mark.timeout(300)
async def test_no_input_breaks_a_law(tmp_path: Path) -> None:
    findings = Findings()
    # schemathesis has an environment of its own, and processes beside the server take their time to begin.
    left_out = frozenset({"schemathesis", "inside"})
    whole = await fuzz(1_200, 1, tmp_path, findings, left_out=left_out, parts=1)
    assert not findings.kept
    assert whole.inputs >= 1_000
    assert {tally.kind for tally in whole.tallies if tally.inputs} >= {"protobuf", "metadata", "http2", "rest bodies"}
    for tally in whole.tallies:
        assert len(tally.codes) > 1, f"all {tally.kind} were answered alike, so that they try one thing"


def test_inputs_follow_from_their_numbers() -> None:
    for make in (run.protobuf, run.hostile, run.beside):
        assert make("k", 0, 5) == make("k", 0, 5)
        assert len({repr(make("k", 0, number)) for number in range(20)}) > 15


@pytest.mark.parametrize("method", CONTRACT, ids=lambda method: method.descriptor.name)
def test_good_messages_are_read_as_they_are(method: laws.Method) -> None:
    for data in messages.good(method):
        fields = protobufs.read(data)
        assert fields is not None
        assert protobufs.written(fields) == data
        assert protobufs.damaged(data, Random(0), data) == protobufs.damaged(data, Random(0), data)


def of(seen: Seen) -> str:
    return laws.of_call(RERANK, [messages.rerank(2).SerializeToString()], seen, NOBODY)


def test_the_laws_see_what_they_are_there_for() -> None:
    right = RERANK.response()
    for place in range(2):
        right.ranking.add(input_index=place, rank=place + 1)
    assert of(Seen("OK", (right.SerializeToString(),))) == ""
    twice = RERANK.response()
    twice.CopyFrom(right)
    twice.ranking[1].input_index = 0
    assert "twice" in of(Seen("OK", (twice.SerializeToString(),)))
    del right.ranking[1]
    assert "1 of 2" in of(Seen("OK", (right.SerializeToString(),)))
    assert "no podium" in of(Seen("OK", (b"\xff",)))
    assert "our fault" in of(Seen("INTERNAL", details=Status(code=13, message="m").SerializeToString()))
    assert "without details" in of(Seen("UNKNOWN"))
    assert "without details" in of(Seen("INVALID_ARGUMENT"))
    assert "without ErrorInfo" in of(Seen("NOT_FOUND", details=Status(code=5).SerializeToString()))
    assert "leaks 'canary'" in of(Seen("DEADLINE_EXCEEDED", beside=b"a canary"))
    assert "stack trace" in of(Seen("DEADLINE_EXCEEDED", beside=b"Traceback (most recent call last)"))
    assert of(Seen("NONE", wrong="no answer")) == "no answer"


async def test_a_finding_is_kept_once_and_small(tmp_path: Path) -> None:
    async def breaks(data: bytes) -> bool:
        return b"a" in data and b"z" in data

    assert sorted(await shrunk(b"-" * 100 + b"a" + b"-" * 50 + b"z", breaks)) == sorted(b"az")
    findings = Findings(tmp_path)
    for number in range(3):
        await findings.add("kind", 0, number, "target", f"broke number {number}", b"xaxzx", breaks)
    assert findings.count == 3
    assert [one["input"] for one in findings.kept] == ["az"]
    assert (tmp_path / "kind-0-0.bin").read_bytes() == b"az"
