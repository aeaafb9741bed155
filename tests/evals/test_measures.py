"""Measures and statistics: published figures to four digits, and the laws of a paired test."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podium_evals.measures import MAIN, measure
from podium_evals.replay import DATA
from podium_evals.statistics import compare, compare_all, holm, interval, sign_flip_p
from podium_evals.suite import read_suite

p_values = st.lists(st.floats(0, 1), max_size=12)


@pytest.mark.skipif(not (DATA / "eval").exists(), reason="needs ../shared/data")
def test_bm25_on_dl19_as_published() -> None:
    suite = read_suite(DATA / "eval" / "dl19_bm25_top100.jsonl.gz", qrels=DATA / "eval" / "qrels" / "dl19.txt")
    run = {topic.qid: [passage.docid for passage in topic.candidates] for topic in suite.topics}
    measured = measure(run, suite.qrels)
    assert len(measured.qids) == 43
    assert round(measured.mean(), 4) == 0.5058


def test_every_system_is_measured_over_the_same_queries() -> None:
    qrels = {"1": {"a": 1}, "2": {"a": 1}, "3": {"a": 0}}
    whole, half = measure({"1": ["a"], "2": ["a"], "3": ["a"]}, qrels), measure({"1": ["a"]}, qrels)
    assert whole.qids == half.qids == ("1", "2")
    assert (whole.mean(), half.mean(), half.missing) == (1.0, 0.5, ("2",))


def test_a_run_over_other_queries_is_refused() -> None:
    with pytest.raises(ValueError, match="none of the 1 judged"):
        measure({"9": ["a"]}, {"1": {"a": 1}})
    with pytest.raises(ValueError, match="relevant"):
        measure({"1": ["a"]}, {"1": {"a": 0}})


def test_a_longer_run_keeps_its_own_order() -> None:
    # trec_eval sorts by score: a run must not lose its order to ids.
    order = [str(number) for number in range(100)]
    assert measure({"1": order}, {"1": {"0": 1}}, [MAIN]).mean() == 1.0
    assert measure({"1": order[::-1]}, {"1": {"0": 1}}, [MAIN]).mean() == 0.0


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=20), st.integers(0, 5))
def test_a_system_does_not_differ_from_itself(values: list[float], seed: int) -> None:
    same = compare(np.array(values), np.array(values), seed=seed)
    assert (same.mean, same.p, same.wins, same.losses, same.ties) == (0.0, 1.0, 0, 0, len(values))


def test_the_test_is_symmetric_and_sees_a_difference() -> None:
    random = np.random.default_rng(3)
    baseline = random.random(60)
    better = baseline + 0.05 + random.normal(0, 0.02, 60)
    forth, back = compare(better, baseline), compare(baseline, better)
    assert forth.p == back.p < 0.001
    assert forth.low > 0 > back.high
    assert forth.wins == back.losses


def test_the_sign_flip_test_is_exact_in_the_long_run() -> None:
    # Of 2^5 sign patterns of five equal differences two are as extreme: p is 1/16.
    assert sign_flip_p(np.ones(5)) == pytest.approx(2 / 32, abs=0.01)


@given(p_values)
def test_holm_keeps_the_order_and_lowers_nothing(values: list[float]) -> None:
    corrected = holm(values)
    assert all(low <= high <= 1 for low, high in zip(values, corrected, strict=True))
    ranked = sorted(range(len(values)), key=lambda i: values[i])
    assert [corrected[i] for i in ranked] == sorted(corrected)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_many_pairs_are_tested_as_each_alone() -> None:
    differences = np.random.default_rng(1).normal(0.05, 0.3, (40, 5))
    together = compare_all(differences)
    for column, one in enumerate(together):
        alone = compare(differences[:, column], np.zeros(40))
        assert (one.wins, one.losses, one.ties) == (alone.wins, alone.losses, alone.ties)
        assert (one.mean, one.low, one.high, one.p) == pytest.approx((alone.mean, alone.low, alone.high, alone.p))


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    random = np.random.default_rng(7)
    drawn = [interval(random.random(60), resamples=1000, seed=trial) for trial in range(200)]
    covered = sum(low <= 0.5 <= high for low, high in drawn)
    assert 0.88 * 200 <= covered <= 0.99 * 200
