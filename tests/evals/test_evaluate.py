"""Figures: the same queries for every system, and nothing that is not known is a 0."""

from __future__ import annotations

from dataclasses import replace

import pytest

from podium_evals.evaluate import evaluate
from podium_evals.results import FIRST_STAGE, RECORDED, RUN_FILE, UNANSWERED, Ranking, Spent, System, first_stage
from podium_evals.statistics import holm
from podium_evals.suite import Passage, Suite, SuiteError, Topic, checked

DOCIDS = tuple(f"d{place}" for place in range(12))


def suite(queries: int = 6, grade: int = 1) -> Suite:
    topics = tuple(
        Topic(str(q), f"query {q}", tuple(Passage(docid, docid) for docid in DOCIDS)) for q in range(queries)
    )
    # The best stands at the place of the query's number.
    return checked(Suite("small", topics, {topic.qid: {DOCIDS[q]: grade} for q, topic in enumerate(topics)}))


def system(name: str, of: Suite, *, spent: Spent | None = None, kind: str = "pipeline", best_first: int = 0) -> System:
    rankings = []
    for q, topic in enumerate(of.topics):
        best = DOCIDS[q]
        docids = (best, *(docid for docid in DOCIDS if docid != best)) if q < best_first else DOCIDS[::-1]
        rankings.append(Ranking(topic.qid, docids, spent=spent or Spent()))
    return System(name, "", (), tuple(rankings), kind=kind)


def test_a_query_without_an_answer_counts_as_0_for_that_system_alone() -> None:
    of = suite()
    whole = system("whole", of, best_first=6)
    broken = replace(whole, name="broken", rankings=(*whole.rankings[:3], *_failed(of, 3)))
    found = evaluate(of, [first_stage(of), whole, broken])
    assert len(found.qids) == len(found.values["broken"]["nDCG@10"]) == 6
    assert found.summaries["whole"].means["nDCG@10"].value == 1.0
    assert found.summaries["broken"].means["nDCG@10"].value == 0.5
    assert (found.summaries["broken"].failed, found.summaries["broken"].queries) == (3, 6)


def _failed(of: Suite, since: int) -> list[Ranking]:
    return [Ranking(topic.qid, (), completion="failed", error="it broke") for topic in of.topics[since:]]


def test_an_unknown_price_makes_the_mean_unknown() -> None:
    of = suite(2)
    one = system("one", of, spent=Spent(calls=1, cost_usd=0.5))
    unknown = replace(
        one, name="unknown", rankings=(one.rankings[0], replace(one.rankings[1], spent=Spent(cost_usd=None)))
    )
    found = evaluate(of, [first_stage(of), one, unknown])
    assert found.summaries["one"].cost_usd == 0.5
    assert found.summaries["unknown"].cost_usd is None


def test_rates_are_of_replies() -> None:
    of = suite(4)
    spent = Spent(calls=12, replies=10, malformed_replies=2, unreadable_replies=1)
    found = evaluate(of, [first_stage(of), system("chat", of, spent=spent), system("local", of, spent=Spent(calls=3))])
    chat, local = found.summaries["chat"], found.summaries["local"]
    assert (chat.malformed, chat.unreadable, chat.calls) == (0.2, 0.1, 12.0)
    assert (local.malformed, local.unreadable) == (None, None)


def test_what_is_not_known_of_a_kind_is_none() -> None:
    of = suite(3)
    spent = Spent(calls=9, wall_s=2.0, critical_path_s=1.0)
    kinds = {kind: system(kind, of, spent=spent, kind=kind) for kind in ("pipeline", RECORDED, RUN_FILE)}
    found = evaluate(of, [first_stage(of), *kinds.values()]).summaries
    assert (found["pipeline"].calls, found["pipeline"].latency_p95_s, found["pipeline"].critical_path_p50_s) == (
        9,
        2,
        1,
    )
    assert (found[RECORDED].calls, found[RECORDED].latency_p50_s) == (9, None)
    assert (found[RUN_FILE].calls, found[RUN_FILE].cost_usd) == (None, None)
    with pytest.raises(ValueError, match="'guess'"):
        system("odd", of, kind="guess")


def test_percentiles_and_means_are_of_queries() -> None:
    of = suite(5)
    plain = system("slow", of)
    slow = replace(
        plain,
        rankings=tuple(
            replace(ranking, spent=Spent(calls=place, wall_s=float(place)))
            for place, ranking in enumerate(plain.rankings)
        ),
    )
    found = evaluate(of, [first_stage(of), slow]).summaries["slow"]
    assert (found.calls, found.latency_p50_s, found.latency_p95_s) == (2.0, 2.0, pytest.approx(3.8))


def test_the_share_of_unchanged_orders() -> None:
    of = suite(4)
    first = first_stage(of)
    assert evaluate(of, [first]).summaries[FIRST_STAGE].unchanged == 1.0
    moved = replace(first, name="moved", rankings=(*first.rankings[:3], replace(first.rankings[3], unchanged=False)))
    assert evaluate(of, [first, moved]).summaries["moved"].unchanged == 0.75


def test_p_values_are_corrected_for_the_systems_that_were_compared() -> None:
    of = suite(12)
    systems = [first_stage(of), *(system(f"s{best}", of, best_first=best) for best in (3, 6, 12))]
    found = evaluate(of, systems)
    assert set(found.differences) == {"s3", "s6", "s12"}
    for measure in found.measures:
        plain = [found.differences[name][measure].p for name in ("s3", "s6", "s12")]
        assert [found.differences[name][measure].p_holm for name in ("s3", "s6", "s12")] == holm(plain)


def test_another_baseline() -> None:
    of = suite()
    found = evaluate(of, [first_stage(of), system("mine", of, best_first=6)], baseline="mine")
    assert set(found.differences) == {FIRST_STAGE}
    assert found.differences[FIRST_STAGE]["nDCG@10"].mean < 0
    with pytest.raises(SuiteError, match="no baseline 'nobody'; there are first-stage"):
        evaluate(of, [first_stage(of)], baseline="nobody")
    with pytest.raises(SuiteError, match="called the same"):
        evaluate(of, [first_stage(of), first_stage(of)])


def test_equal_seeds_give_equal_figures() -> None:
    of = suite()
    systems = [first_stage(of), system("mine", of, best_first=4)]
    assert evaluate(of, systems, seed=3).summaries == evaluate(of, systems, seed=3).summaries
    assert evaluate(of, systems, seed=3).summaries != evaluate(of, systems, seed=4).summaries


def test_a_system_that_shows_what_nobody_judged_is_warned_of() -> None:
    of = suite()
    found = evaluate(of, [first_stage(of), system("backwards", of)])
    assert "first 10 places" in " ".join(found.system("backwards").warnings)
    judged = replace(of, qrels={topic.qid: dict.fromkeys(DOCIDS, 1) for topic in of.topics})
    assert evaluate(judged, [first_stage(judged)]).system(FIRST_STAGE).warnings == ()


def test_a_system_over_other_queries_is_refused() -> None:
    of = suite(2)
    with pytest.raises(SuiteError, match="small, odd: the run answers none of the 2 judged"):
        evaluate(of, [first_stage(of), System("odd", "", (), (Ranking("99", DOCIDS),))])


def test_a_run_that_lacks_a_query_failed_on_it() -> None:
    of = suite(2)
    lacking = System("lacking", "", (), (Ranking("0", DOCIDS), Ranking("1", (), completion=UNANSWERED)), kind=RUN_FILE)
    assert evaluate(of, [first_stage(of), lacking]).summaries["lacking"].failed == 1
