"""What Ray raises when a worker, its answer or its machine is lost: the list goes to another one, and comes back once.

make test-ray
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

ray = pytest.importorskip("ray", reason="the extra `ray` is not installed here; make test-ray installs it")

from podium_server import config  # noqa: E402
from podium_server.errors import Unavailable  # noqa: E402
from podium_server.jobs import seats  # noqa: E402
from podium_server.jobs.lists import CandidateList  # noqa: E402
from podium_server.jobs.ranking import Failed, Ranked  # noqa: E402
from podium_server.jobs.ray_engine import RayRanker, _Seat  # noqa: E402
from podium_server.ranking.request import Budget  # noqa: E402

LIST = CandidateList(1, "q", "a query", ("d",), ("d",), ("a text",), (None,))
ANSWER = {"order": (0,), "scores": (None,), "completion": "complete", "ledger": {}, "warnings": [], "cause": ""}
LOST: dict[str, Callable[[], Exception]] = {
    "the worker": lambda: ray.exceptions.ActorDiedError(),
    "the way to it": lambda: ray.exceptions.ActorUnavailableError("restarting", None),
    "its answer": lambda: ray.exceptions.ObjectLostError("ab" * 28, None, "here"),
    "who owned it": lambda: ray.exceptions.OwnerDiedError("ab" * 28, None, "here"),
    "its machine": lambda: ray.exceptions.NodeDiedError("gone"),
    "its memory": lambda: ray.exceptions.OutOfMemoryError("gone"),
}


class Scripted:
    """A handle of an actor whose method raises what it is told, and then answers."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.asked = 0
        self.rank = self.ready = self

    async def remote(self, *_: Any) -> Any:
        self.asked += 1
        if self.errors:
            raise self.errors.pop(0)
        return ANSWER


def ranker(*actors: Scripted) -> RayRanker:
    made = RayRanker(config.load(None), "recall", Budget())
    made._seats = [_Seat(actor) for actor in actors]
    return made


@pytest.fixture(autouse=True)
def short_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seats, "REST_S", 0.001)


@pytest.mark.parametrize("what", LOST)
async def test_what_is_lost_is_asked_for_again(what: str) -> None:
    dies, lives = Scripted(LOST[what]()), Scripted()
    ranking = ranker(dies, lives)
    answer = await ranking.rank(LIST)
    assert isinstance(answer, Ranked)
    assert (dies.asked, lives.asked, ranking.resent) == (1, 1, 1)
    assert [seat.at_work for seat in ranking._seats] == [0, 0]


async def test_a_list_that_nobody_survives_is_an_error_of_an_outage() -> None:
    dies = Scripted(*(LOST["the worker"]() for _ in range(seats.SENT_MAX)))
    ranking = ranker(dies)
    answer = await ranking.rank(LIST)
    assert isinstance(answer, Failed)
    assert answer.reason == "UNAVAILABLE"
    assert (dies.asked, ranking.resent) == (seats.SENT_MAX, seats.SENT_MAX - 1)


async def test_a_defect_of_the_worker_s_code_is_no_lost_worker() -> None:
    with pytest.raises(ZeroDivisionError):
        await ranker(Scripted(ZeroDivisionError()), Scripted()).rank(LIST)


async def test_a_worker_that_has_no_place_yet_gets_no_list() -> None:
    """Ray keeps what it is asked until it has one, so that a list would wait for as long as the cluster is full."""

    class Waiting(Scripted):
        async def remote(self, *_: Any) -> Any:
            self.asked += 1
            await asyncio.Event().wait()

    waits, lives = Waiting(), Scripted()
    ranking = ranker(waits, lives)
    await ranking._wait_for_one(ray)
    answers = [await ranking.rank(LIST) for _ in range(5)]
    for task in ranking._starting:
        task.cancel()
    assert all(isinstance(answer, Ranked) for answer in answers)
    assert waits.asked == 1, "whether it is ready"


async def test_one_worker_that_starts_is_enough() -> None:
    await ranker(Scripted(LOST["the worker"]()), Scripted())._wait_for_one(ray)
    with pytest.raises(Unavailable, match="do not start"):
        await ranker(Scripted(LOST["the worker"]()), Scripted(LOST["its machine"]()))._wait_for_one(ray)
