"""Usage adds; prices are exact; an unknown price is never 0."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium_server.accounting.ledger import Account, Ledger
from podium_server.accounting.prices import Prices
from podium_server.accounting.usage import CostBasis, Usage

usages = st.builds(
    Usage,
    calls=st.integers(0, 5),
    prompt_tokens=st.integers(0, 10**6),
    output_tokens=st.integers(0, 10**6),
    cost_nano_usd=st.none() | st.integers(0, 10**12),
    cost_basis=st.sampled_from(CostBasis),
    repairs=st.dictionaries(st.sampled_from(["ok", "missing"]), st.integers(1, 9)),
)


@given(usages, usages, usages)
def test_usage_adds_in_any_grouping_and_nothing_changes_nothing(a: Usage, b: Usage, c: Usage) -> None:
    assert (a + b) + c == a + (b + c)
    assert a + Usage() == a == Usage() + a
    assert a + b == b + a


@given(usages)
def test_an_unknown_cost_stays_unknown_whatever_is_added(usage: Usage) -> None:
    assert (Usage(cost_nano_usd=None) + usage).cost_nano_usd is None


def test_a_bill_is_exact() -> None:
    prices = Prices(prompt_usd_per_mtok=0.15, cached_usd_per_mtok=0.075, output_usd_per_mtok=0.60)
    bill = prices.charge(Usage(calls=1, prompt_tokens=1000, cached_tokens=400, output_tokens=50))
    assert bill.cost_nano_usd == 600 * 150 + 400 * 75 + 50 * 600
    assert bill.cost_basis is CostBasis.PRICE_TABLE


@given(st.decimals("0", "1000", places=4), st.integers(0, 10**9))
def test_a_price_is_what_was_written_not_its_nearest_binary_fraction(usd: Decimal, tokens: int) -> None:
    prices = Prices(prompt_usd_per_mtok=float(usd), output_usd_per_mtok=0.0)
    bill = prices.charge(Usage(calls=1, prompt_tokens=tokens))
    assert bill.cost_nano_usd == round(usd * 1000 * tokens)


def test_cached_tokens_cost_what_others_do_where_no_price_is_given_for_them() -> None:
    prices = Prices(prompt_usd_per_mtok=1.0, output_usd_per_mtok=1.0)
    assert prices.charge(Usage(calls=1, prompt_tokens=10, cached_tokens=9)).cost_nano_usd == 10_000


def test_no_price_is_no_cost_and_no_call_is_free() -> None:
    assert Prices().charge(Usage(calls=1)).cost_nano_usd is None
    assert Prices().charge(Usage(calls=1)).cost_basis is CostBasis.UNKNOWN
    assert Prices().charge(Usage(cache_hits=3)).cost_nano_usd == 0


@pytest.mark.parametrize("also", [{}, {"usd_per_call": 0.01}, {"compute_usd_per_hour": 1.0}])
def test_tokens_without_a_price_beside_tokens_with_one_make_the_cost_unknown(also: dict[str, float]) -> None:
    half = Prices(prompt_usd_per_mtok=1.0, **also)
    assert half.charge(Usage(calls=1, prompt_tokens=5, output_tokens=1)).cost_nano_usd is None
    assert Prices(output_usd_per_mtok=1.0, **also).charge(Usage(calls=1, prompt_tokens=5)).cost_nano_usd is None


def test_an_embedding_needs_no_price_for_output_that_it_never_has() -> None:
    assert Prices(prompt_usd_per_mtok=1.0).charge(Usage(calls=1, prompt_tokens=5)).cost_nano_usd == 5_000


def test_a_search_unit_has_a_price_of_its_own() -> None:
    prices = Prices(usd_per_search_unit=0.002)
    bill = prices.charge(Usage(calls=3, search_units=2, prompt_tokens=5_000))
    assert (bill.cost_nano_usd, bill.cost_basis) == (4_000_000, CostBasis.PRICE_TABLE)
    assert (Usage(search_units=2) + Usage(search_units=3)).search_units == 5


def test_tokens_and_processor_time_together_are_a_mixed_bill() -> None:
    prices = Prices(prompt_usd_per_mtok=1.0, output_usd_per_mtok=1.0, compute_usd_per_hour=3.6)
    assert prices.charge(Usage(calls=1, prompt_tokens=5, backend_s=1.0)).cost_basis is CostBasis.MIXED


def test_processor_time_is_priced_where_there_is_a_rate() -> None:
    bill = Prices(compute_usd_per_hour=3.6).charge(Usage(calls=1, backend_s=0.5))
    assert (bill.cost_nano_usd, bill.cost_basis) == (500_000, CostBasis.COMPUTE_TIME)


@pytest.mark.parametrize("bad", [-0.1, float("nan"), float("inf")])
def test_a_price_is_a_number_from_0_up(bad: float) -> None:
    with pytest.raises(ValueError, match="prompt_usd_per_mtok"):
        Prices(prompt_usd_per_mtok=bad)


def test_a_ledgers_total_is_the_sum_of_its_accounts() -> None:
    ledger = Ledger()
    for stage in ("a", "b"):
        account = ledger.open(Account(stage, "pointwise"))
        account.add(Usage(calls=2, cost_nano_usd=5, cost_basis=CostBasis.PRICE_TABLE))
        account.add(Usage(calls=1))
    assert ledger.total() == Usage(calls=6, cost_nano_usd=10, cost_basis=CostBasis.PRICE_TABLE)
    assert ledger.open(Account("a", "other")).strategy == "pointwise", "an account is opened once"
