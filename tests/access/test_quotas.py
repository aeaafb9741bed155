"""What was let in is never more than the quota, in any order of events, in several processes, and after a crash."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from podium_server.access.meter import Meter, Purse, Taken
from podium_server.access.refusals import Refusal
from podium_server.access.sections import QuotaSection
from podium_server.access.treasury import Advance, Place, Treasury
from podium_server.access.windows import Quota, quotas_of, window
from podium_server.errors import QuotaExceeded, StoreError

NOON = 1_800_000_000.0


class Notes:
    """A treasury without a disk, which answers when it is told to: after none, one or several turns of the loop."""

    def __init__(self, delays: list[int]) -> None:
        self.used: dict[Place, int] = {}
        self.delays = delays
        self.broken = False

    async def _wait(self) -> None:
        for _ in range(self.delays.pop() if self.delays else 0):
            await asyncio.sleep(0)
        if self.broken:
            raise StoreError("broken")

    async def advance(self, place: Place, need: int) -> Advance:
        await self._wait()
        left = place.quota.limit - self.used.get(place, 0)
        if left < need:
            return Advance(0, max(left, 0))
        granted = min(left, need + (left - need) // 16)
        self.used[place] = self.used.get(place, 0) + granted
        return Advance(granted, left - granted)

    async def give_back(self, place: Place, amount: int) -> None:
        await self._wait()
        self.used[place] = self.used.get(place, 0) - amount


QUOTAS = [Quota("acme", "tokens", "hour", 300), Quota("acme", "requests", "minute", 60)]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(0, 60) | st.integers(1, 4), st.integers(0, 2)),
        st.tuples(st.just("settle"), st.integers(0, 60), st.integers(0, 9)),
        st.tuples(st.just("cancel"), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("tick"), st.just(0), st.integers(0, 1)),
        st.tuples(st.just("break"), st.integers(0, 1), st.just(0)),
        st.tuples(st.just("yield"), st.integers(1, 5), st.just(0)),
    ),
    max_size=50,
)


@given(STEPS, st.lists(st.integers(0, 4), max_size=60))
@settings(deadline=None, max_examples=300)
def test_a_quota_is_never_exceeded(steps: list[tuple[str, int, int]], delays: list[int]) -> None:
    """Two processes; requests take, are cancelled, and settle for at most what they took; the disk may fail."""

    async def run() -> None:
        notes = Notes(delays)
        meters = [Meter(notes, clock=lambda: NOON) for _ in range(2)]
        taking: list[tuple[asyncio.Task[Taken], tuple[int, int]]] = []
        open_: list[tuple[Taken, tuple[int, int]]] = []
        spent = [0, 0]

        def let_in() -> None:
            nonlocal taking
            for task, amounts in taking:
                if task.done() and not task.cancelled() and task.exception() is None:
                    open_.append((task.result(), amounts))
            taking = [each for each in taking if not each[0].done()]
            for i, quota in enumerate(QUOTAS):
                inside = spent[i] + sum(amounts[i] for _, amounts in open_)
                assert inside <= quota.limit
                # And nobody has been let in by what is not entered as used.
                entered = sum(used for place, used in notes.used.items() if place.quota == quota)
                kept = sum(m.purses[quota].left for m in meters if quota in m.purses)
                assert inside + kept <= entered <= quota.limit

        for what, one, other in steps:
            if what == "take":
                amounts = (one, other)
                wants = list(zip(QUOTAS, amounts, strict=True))
                taking.append((asyncio.create_task(meters[one % 2].take(wants)), amounts))
            elif what == "settle" and open_:
                taken, amounts = open_.pop(other % len(open_))
                used = (min(one, amounts[0]), amounts[1])
                taken.settle(lambda unit, used=used: used[0] if unit == "tokens" else used[1])
                spent[0] += used[0]
                spent[1] += used[1]
            elif what == "cancel" and taking:
                taking[one % len(taking)][0].cancel()
            elif what == "tick":
                await meters[other].tick()
            elif what == "break":
                notes.broken = bool(one)
            elif what == "yield":
                for _ in range(one):
                    await asyncio.sleep(0)
            let_in()
        notes.broken = False
        await asyncio.gather(*(task for task, _ in taking), return_exceptions=True)
        let_in()

    asyncio.run(run())


async def test_what_is_left_over_can_be_had_to_the_last_one() -> None:
    quota = Quota("acme", "requests", "hour", 50)
    meter = Meter(Notes([]), clock=lambda: NOON)
    for _ in range(50):
        await meter.take([(quota, 1)])
    with pytest.raises(QuotaExceeded) as caught:
        await meter.take([(quota, 1)])
    start, end = window("hour", NOON)
    assert caught.value.retry_after_s == end - NOON
    assert caught.value.metadata == {"subject": "tenant:acme", "quota": "requests/hour"}
    assert meter.refusals == {(Refusal.QUOTA, "acme"): 1}
    assert start <= NOON < end


async def test_a_refusal_takes_nothing_of_the_other_quotas() -> None:
    many, few = Quota("acme", "tokens", "day", 1000), Quota("acme", "requests", "minute", 1)
    meter = Meter(Notes([]), clock=lambda: NOON)
    await meter.take([(many, 10), (few, 1)])
    for _ in range(200):
        with pytest.raises(QuotaExceeded, match="1 requests a minute"):
            await meter.take([(many, 10), (few, 1)])
    await meter.take([(many, 990)])


async def test_a_new_window_begins_with_all_of_it() -> None:
    now = NOON
    quota = Quota("acme", "requests", "minute", 1)
    meter = Meter(Notes([]), clock=lambda: now)
    await meter.take([(quota, 1)])
    with pytest.raises(QuotaExceeded):
        await meter.take([(quota, 1)])
    now += 60
    await meter.take([(quota, 1)])


async def test_what_was_used_beyond_what_was_taken_is_owed() -> None:
    quota = Quota("acme", "nano_usd", "day", 100)
    notes = Notes([])
    meter = Meter(notes, clock=lambda: NOON)
    (await meter.take([(quota, 10)])).settle(lambda _: 95)
    with pytest.raises(QuotaExceeded):
        await meter.take([(quota, 10)])
    await meter.tick()
    assert next(iter(notes.used.values())) >= 95
    await meter.take([(quota, 5)])


async def test_an_idle_process_gives_its_advance_back() -> None:
    quota = Quota("acme", "tokens", "day", 1600)
    notes = Notes([])
    idle, busy = Meter(notes, clock=lambda: NOON), Meter(notes, clock=lambda: NOON)
    (await idle.take([(quota, 1)])).settle(lambda _: 1)
    with pytest.raises(QuotaExceeded):
        await busy.take([(quota, 1599)])
    await idle.tick()  # it was touched
    await idle.tick()
    await busy.take([(quota, 1599)])


# --- on the disk ------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(1, 40), st.booleans()), max_size=25))
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_crash_never_makes_room(tmp_path: Path, steps: list[tuple[int, bool]]) -> None:
    """A process that dies at any moment forgets its purse; the next one finds all that was spent entered."""
    path = tmp_path / f"{time.monotonic_ns()}.sqlite"
    quota = Quota("acme", "nano_usd", "month", 200)

    async def run() -> None:
        treasury = Treasury(path)
        meter = Meter(treasury, clock=lambda: NOON)
        spent = 0
        for amount, dies in steps:
            try:
                (await meter.take([(quota, amount)])).settle(lambda _, amount=amount: amount)
                spent += amount
            except QuotaExceeded:
                pass
            assert spent <= quota.limit
            if dies:
                await treasury.aclose()  # and nothing is given back
                treasury = Treasury(path)
                meter = Meter(treasury, clock=lambda: NOON)
                assert spent <= await treasury.used(Place(quota, *window("month", NOON))) <= quota.limit
        await treasury.aclose()

    asyncio.run(run())


async def test_a_restart_does_not_forget(tmp_path: Path) -> None:
    quota = Quota("acme", "nano_usd", "month", 1_000_000)
    place = Place(quota, *window("month", NOON))
    for _ in range(3):
        treasury = Treasury(tmp_path / "quotas.sqlite")
        meter = Meter(treasury, clock=lambda: NOON)
        (await meter.take([(quota, 1000)])).settle(lambda _: 700)
        await meter.aclose()
        await treasury.aclose()
    treasury = Treasury(tmp_path / "quotas.sqlite")
    assert await treasury.used(place) == 2100
    await treasury.aclose()


async def test_processes_share_a_quota(tmp_path: Path) -> None:
    quota = Quota("acme", "requests", "day", 300)
    meters = [Meter(Treasury(tmp_path / "quotas.sqlite"), clock=lambda: NOON) for _ in range(3)]
    answers = await asyncio.gather(
        *(meters[i % 3].take([(quota, 1)]) for i in range(450)),
        return_exceptions=True,
    )
    let_in = [one for one in answers if isinstance(one, Taken)]
    # Idle parts of others' advances are all that may be missing.
    assert 300 - 3 * 300 // 16 <= len(let_in) <= 300
    assert all(isinstance(one, Taken | QuotaExceeded) for one in answers)
    for meter in meters:
        assert isinstance(meter.book, Treasury)
        await meter.aclose()
        await meter.book.aclose()


async def test_requests_do_not_wait_for_the_disk_one_by_one(tmp_path: Path) -> None:
    treasury = Treasury(tmp_path / "quotas.sqlite")
    meter = Meter(treasury, clock=lambda: NOON)
    quota = Quota("acme", "requests", "day", 100_000)
    for _ in range(5000):
        if meter.take_at_once([(quota, 1)]) is None:
            await meter.take([(quota, 1)])
    assert treasury.commits <= 2
    await treasury.aclose()


async def test_a_full_disk_refuses_by_name(tmp_path: Path) -> None:
    treasury = Treasury(tmp_path / "quotas.sqlite")
    treasury._connection.execute("PRAGMA max_page_count=1")
    treasury._connection.execute("DROP TABLE used")  # so that it has to grow
    meter = Meter(treasury, clock=lambda: NOON)
    with pytest.raises(StoreError):
        await meter.take([(Quota("acme", "requests", "day", 10), 1)])
    assert all(purse.left == 0 for purse in meter.purses.values())
    await treasury.aclose()


async def test_an_amount_that_the_store_cannot_hold_ends_nobody_else(tmp_path: Path) -> None:
    treasury = Treasury(tmp_path / "quotas.sqlite")
    async with asyncio.timeout(10):
        with pytest.raises(StoreError):
            await treasury.give_back(Place(Quota("acme", "tokens", "day", 1), 0, 1), -(10**21))
        assert (await treasury.advance(Place(Quota("acme", "tokens", "day", 16), 0, 1), 1)).granted == 1
    await treasury.aclose()


@pytest.mark.parametrize("unit", ["requests", "pairs", "tokens", "usd"])
def test_a_quota_beyond_what_the_store_holds_is_refused(unit: str) -> None:
    with pytest.raises(ValidationError, match="less than or equal to"):
        QuotaSection.model_validate({"per": "day", unit: 10**21})


# --- windows ----------------------------------------------------------------------------------------------------


@given(st.sampled_from(["minute", "hour", "day", "month"]), st.floats(0, 4e9))
def test_windows_follow_one_another(per: str, now_s: float) -> None:
    start, end = window(per, now_s)
    assert start <= now_s < end
    assert window(per, end)[0] == end
    assert window(per, start) == (start, end)


def test_money_is_the_decimal_that_was_written_and_the_smaller_of_two_counts() -> None:
    sections = [QuotaSection(per="day", usd=0.1, tokens=5), QuotaSection(per="day", tokens=3)]
    found = {quota.name: quota.limit for quota in quotas_of("acme", sections)}
    assert found == {"nano_usd/day": 100_000_000, "tokens/day": 3}


def test_a_purse_is_itself_alone() -> None:
    place = Place(Quota("a", "tokens", "day", 1), 0, 1)
    assert Purse(place) != Purse(place)


def test_processes_that_are_killed_forget_nothing(tmp_path: Path) -> None:
    path, quota = tmp_path / "quotas.sqlite", Quota("acme", "nano_usd", "month", 3000)
    spent = 0
    for lines in (3, 40, 10_000):  # the last one goes on to the end
        command = [sys.executable, "-m", "tests.access.spender", str(path), str(quota.limit)]
        pair = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        for process in pair:
            assert process.stdout is not None
            for _ in range(lines):
                line = process.stdout.readline().strip()
                if line == "done":
                    break
                spent += int(line)
            process.kill()
            # What was said before the blow, and not read yet.
            spent += sum(int(each) for each in process.stdout.read().split() if each != "done")
            process.wait()
        assert spent <= asyncio.run(_entered(path, quota)) <= quota.limit
    assert spent > quota.limit / 2, "what a blow leaves entered is bounded"


async def _entered(path: Path, quota: Quota) -> int:
    treasury = Treasury(path)
    try:
        return await treasury.used(Place(quota, *window(quota.per, NOON)))
    finally:
        await treasury.aclose()
