"""Laws of the breaker, for any order of rounds, failures and pauses."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from podium_server.backends.breaker import Breaker, BreakerSettings, Phase, Refused, admit, ended
from podium_server.errors import BackendDown, BackendRefused, DeadlineExceeded, Overloaded, Unavailable
from podium_server.judges.case import Case
from podium_server.judges.watched import Watch, WatchedJudge
from podium_strategies.oracle import Oracle
from podium_strategies.plan import Grade
from tests.ranking.scripted import ScriptedJudge

SETTINGS = BreakerSettings(failures=3, rate=0.5, rounds=8, window_s=10.0, open_s=2.0, open_s_max=16.0)


class Rounds(RuleBasedStateMachine):
    """Rounds come, end and are given up, and time passes, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(SETTINGS)
        self.now = 0.0
        self.out: list[tuple[int, Phase]] = []
        self.rest_s = 0.0

    @rule()
    def ask(self) -> None:
        before = self.breaker
        admitted, self.breaker = admit(before, self.now)
        if isinstance(admitted, Refused):
            assert before.phase is not Phase.CLOSED
            assert admitted.retry_after_s > 0
            if before.phase is Phase.OPEN:
                assert admitted.retry_after_s == before.until - self.now
                # Never earlier than it was told, and then at once.
                again, _ = admit(before, before.until)
                assert not isinstance(again, Refused)
        else:
            assert before.phase is Phase.CLOSED or not before.probing
            assert before.phase is not Phase.OPEN or self.now >= before.until
            self.out.append((admitted, self.breaker.phase))

    @precondition(lambda self: self.out)
    @rule(place=st.integers(0, 1_000), well=st.sampled_from([True, False, None]))
    def end(self, place: int, well: bool | None) -> None:
        generation, phase = self.out.pop(place % len(self.out))
        before = self.breaker
        self.breaker = ended(before, generation, well, self.now)
        if generation != before.generation:
            assert self.breaker is before  # let through in another phase: it says nothing of this one
        elif phase is Phase.HALF_OPEN:
            expected = {True: Phase.CLOSED, False: Phase.OPEN, None: Phase.HALF_OPEN}[well]
            assert self.breaker.phase is expected
            assert not self.breaker.probing
        elif well is None:
            assert self.breaker is before
        elif well:
            assert self.breaker.in_a_row == 0
            assert self.breaker.phase is Phase.CLOSED

    @rule(s=st.floats(0.01, 30.0))
    def pause(self, s: float) -> None:
        self.now += s

    @invariant()
    def closed_ones_have_not_failed_too_often(self) -> None:
        if self.breaker.phase is Phase.CLOSED:
            assert self.breaker.in_a_row < SETTINGS.failures

    @invariant()
    def rests_are_bounded(self) -> None:
        if self.breaker.phase is Phase.OPEN:
            assert self.breaker.until - self.now <= SETTINGS.open_s_max

    @invariant()
    def it_does_not_grow(self) -> None:
        assert len(self.breaker.slots) <= 11


TestRounds = Rounds.TestCase
TestRounds.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


def after(outcomes: list[bool | None], breaker: Breaker | None = None, *, at: float = 0.0) -> Breaker:
    breaker = breaker or Breaker(SETTINGS)
    for well in outcomes:
        admitted, breaker = admit(breaker, at)
        assert not isinstance(admitted, Refused)
        breaker = ended(breaker, admitted, well, at)
    return breaker


def test_it_opens_after_failures_in_a_row_and_not_before() -> None:
    assert after([False, False]).phase is Phase.CLOSED
    assert after([False, False, True, False, False]).phase is Phase.CLOSED
    assert after([False, False, None, False]).phase is Phase.OPEN


def test_it_opens_at_a_rate() -> None:
    mixed: list[bool | None] = [True, False, True, False, True, False, True]
    assert after(mixed).phase is Phase.CLOSED
    assert after([*mixed, False]).phase is Phase.OPEN
    # The same failures, spread over more than the window.
    breaker = Breaker(SETTINGS)
    for number, well in enumerate([*mixed, False]):
        breaker = after([well], breaker, at=number * 9.0)
    assert breaker.phase is Phase.CLOSED


@given(st.integers(0, 12))
def test_each_rest_that_did_not_help_is_twice_as_long(times: int) -> None:
    breaker = after([False] * 3)
    for _ in range(times):
        breaker = after([False], breaker, at=breaker.until)
    now = breaker.until
    opened = after([False], breaker, at=now)
    assert opened.until - now == min(2.0 * 2 ** (times + 1), 16.0)
    closed = after([True], opened, at=opened.until)
    assert after([False] * 3, closed).until == 2.0


@pytest.mark.parametrize("wrong", [{"failures": 0}, {"rate": 0.0}, {"rate": 1.1}, {"open_s": 0}, {"open_s_max": 1.0}])
def test_settings_that_cannot_work(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\d"):
        BreakerSettings(**wrong)


# --- the shell ------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Deaf:
    def ruled(self, *_: Any, **__: Any) -> None: ...

    def spent(self, *_: Any) -> None: ...


def watched(failing: Exception | None, clock: Clock | None = None) -> WatchedJudge:
    fail_at = {} if failing is None else dict.fromkeys(range(100), failing)
    judge = ScriptedJudge(Oracle.seeded(4, 1), fail_at=fail_at)
    return WatchedJudge(judge, Watch("m", SETTINGS, hung_s=10.0, clock=clock or Clock()))


async def rule_once(judge: WatchedJudge) -> Exception | None:
    try:
        await judge.rule(Case("q", ()), [Grade(0)], Deaf())
    except Exception as error:  # noqa: BLE001
        return error
    return None


async def test_an_open_breaker_says_when_to_come_again() -> None:
    clock = Clock()
    judge = watched(BackendDown("gone"), clock)
    for _ in range(3):
        await rule_once(judge)
    asked = len(judge.judge.asked)  # type: ignore[attr-defined]
    clock.now += 0.5
    refused = await rule_once(judge)
    assert isinstance(refused, BackendDown)
    assert refused.retry_after_s == pytest.approx(1.5)
    assert len(judge.judge.asked) == asked  # type: ignore[attr-defined]
    assert (judge.watch.phase, judge.watch.opened, judge.watch.refused) == (Phase.OPEN, 1, 1)
    judge.judge.fail_at = {}  # type: ignore[attr-defined]
    clock.now += 1.5
    assert await rule_once(judge) is None
    assert judge.watch.phase is Phase.CLOSED


@pytest.mark.parametrize("error", [BackendRefused("no"), Overloaded("full", retry_after_s=1), DeadlineExceeded("late")])
async def test_what_is_not_the_backends_failure_opens_nothing(error: Exception) -> None:
    judge = watched(error)
    for _ in range(10):
        await rule_once(judge)
    assert judge.watch.phase is Phase.CLOSED
    assert judge.watch.running == 0


async def test_a_backend_that_hangs_is_found_by_the_deadlines_of_its_callers() -> None:
    clock = Clock()
    judge = watched(None, clock)
    judge.judge.delay_s = lambda _: 3600.0  # type: ignore[attr-defined]
    for _ in range(3):
        ruling = asyncio.create_task(judge.rule(Case("q", ()), [Grade(0)], Deaf()))
        while not judge.watch.running:  # noqa: ASYNC110
            await asyncio.sleep(0)
        clock.now += 11.0
        ruling.cancel()
        await asyncio.gather(ruling, return_exceptions=True)
    assert judge.watch.phase is Phase.OPEN


async def test_callers_who_go_away_early_open_nothing() -> None:
    judge = watched(None)
    judge.judge.delay_s = lambda _: 3600.0  # type: ignore[attr-defined]
    for _ in range(10):
        ruling = asyncio.create_task(judge.rule(Case("q", ()), [Grade(0)], Deaf()))
        while not judge.watch.running:  # noqa: ASYNC110
            await asyncio.sleep(0)
        ruling.cancel()
        await asyncio.gather(ruling, return_exceptions=True)
    assert judge.watch.phase is Phase.CLOSED


async def test_an_unloaded_model_refuses() -> None:
    judge = watched(None)
    judge.watch.unloaded = True
    assert isinstance(await rule_once(judge), Unavailable)
