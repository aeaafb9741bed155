"""What a job remembers of itself, and what its budget lets begin."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from podium_server.accounting.ledger import Account, Ledger
from podium_server.accounting.usage import CostBasis, Usage
from podium_server.jobs import ledgers
from podium_server.jobs.budget import JobBudget, Purse
from podium_server.jobs.tally import Tally

counts = st.integers(0, 2**53)
times = st.floats(0, 1e9)
usages = st.builds(
    Usage,
    calls=counts,
    prompt_tokens=counts,
    output_tokens=counts,
    cache_hits=counts,
    backend_s=times,
    cost_nano_usd=st.none() | st.integers(0, 10**18),
    cost_basis=st.sampled_from(list(CostBasis)),
    repairs=st.dictionaries(st.sampled_from(["ok", "missing", "unreadable"]), st.integers(1, 9)),
)


@st.composite
def a_ledger(draw: st.DrawFn) -> Ledger:
    ledger = Ledger(rounds=draw(counts), critical_path_s=draw(times), wall_s=draw(times))
    for stage in draw(st.lists(st.text(min_size=1), unique=True, max_size=3)):
        account = Account(stage, "pointwise", "model", "1", "prompt/1", "2026", questions=draw(counts))
        account.usage = draw(usages)
        ledger.open(account)
    return ledger


@given(a_ledger())
def test_a_ledger_comes_back_from_json_as_it_was(ledger: Ledger) -> None:
    assert ledgers.from_data(json.loads(json.dumps(ledgers.as_data(ledger)))) == ledger


@given(a_ledger(), a_ledger(), st.integers(0, 9))
def test_what_was_spent_in_vain_is_lost_and_not_forgotten(done: Ledger, unfinished: Ledger, lists: int) -> None:
    tally = Tally(ledger=done, lists=lists)
    again = Tally.from_data(json.loads(json.dumps(tally.as_data(unfinished))))
    third = Tally.from_data(json.loads(json.dumps(again.as_data(Ledger()))))

    for later in (again, third):
        assert later.ledger == done
        assert later.lists == later.answered_before == lists
        assert later.lost.total() == ledgers.joined([unfinished]).total()
    assert (again.runs, third.runs) == (2, 3)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(0, 400), st.integers(1, 8))
def test_a_budget_is_passed_at_most_by_how_much_dearer_lists_become(
    prices: list[int], budget: int, at_once: int
) -> None:
    """Lists begin as the purse lets them, and end in order; whatever they take, this much is the worst."""
    dearest: dict[str, int] = {}
    spent = 0
    ended = 0
    at_work: list[int] = []
    waiting = list(prices)
    purse = Purse(JobBudget(max_calls=budget), lambda: Usage(calls=spent), dearest, lambda: 0.0)
    passed_at_most = 0
    while True:
        while waiting and len(at_work) < at_once and not purse.refusal(len(at_work), known=ended > 0):
            at_work.append(waiting.pop(0))
        if not at_work:
            break
        passed_at_most = max(passed_at_most, sum(max(0, price - dearest.get("calls", 0)) for price in at_work))
        price = at_work.pop(0)
        spent += price
        ended += 1
        dearest["calls"] = max(price, dearest.get("calls", 0))

    assert spent <= budget + passed_at_most
    # And it is used: what is left would not have held one more list.
    assert not waiting or spent + dearest.get("calls", 0) > budget or spent >= budget
