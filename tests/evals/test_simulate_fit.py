"""The fit finds the faults that a judge was given, and the findings of the table are what the table says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from podium_evals.replay import DATA
from podium_evals.simulate.findings import (
    PRESETS,
    agreements,
    concordance,
    difference,
    front,
    presets,
    savings,
    section,
)
from podium_evals.simulate.fit import PARAMETERS, Facts, Reply, agreement, fit
from podium_evals.simulate.fitting import facts_of, lists, replies_of, resimulated
from podium_evals.simulate.knowledge import Knowledge
from podium_evals.simulate.noise import Draws, Merits, Noise, scores
from podium_evals.simulate.strategies import BASELINE, PUBLISHED, ROWS
from podium_evals.simulate.table import Cell, Setting
from podium_server import config
from podium_strategies import registry
from tests.evals.simulated import suite

GIVEN = Noise(
    utility=(0.0, 1.0, 2.0, 3.0),
    length=0.5,
    first_stage=0.6,
    position_slope=1.5,
    position_edges=-0.5,
    persistent=1.0,
    call=1.0,
)


def recorded(queries: int, n: int, windows: int, size: int) -> tuple[list[Reply], dict[str, dict[str, Facts]]]:
    """Return replies of a judge with those faults to windows drawn at random, and what there is to the documents."""
    facts: dict[str, dict[str, Facts]] = {}
    replies = []
    for number in range(queries):
        qid = f"q{number}"
        draws = Draws("lists", number)
        known = {f"{qid}-{i}": Facts(draws.below(4), 20 + draws.below(60), draws.uniform()) for i in range(n)}
        facts[qid] = known
        median = float(np.median([fact.words for fact in known.values()]))
        score = np.array([fact.score for fact in known.values()])
        z = (score - score.mean()) / score.std()
        merits = [
            Merits(docid, fact.grade or 0, 3, 0, float(np.log(fact.words / median)), float(z[i]))
            for i, (docid, fact) in enumerate(known.items())
        ]
        for window in range(windows):
            places = sorted(range(n), key=lambda _, draws=draws: draws.uniform())[:size]  # type: ignore[misc]
            shown = [merits[place] for place in places]
            found = scores(GIVEN, 1, qid, shown, Draws("call", number, window))
            order = sorted(range(size), key=lambda place: -found[place])
            said = " > ".join(f"[{place + 1}]" for place in order)
            replies.append(Reply(qid, tuple(one.docid for one in shown), said))
    return replies, facts


def test_the_fit_finds_what_was_put_in() -> None:
    replies, facts = recorded(queries=24, n=12, windows=10, size=7)
    found = fit("made up", replies, facts)
    true = [*GIVEN.utility[1:], GIVEN.length, GIVEN.first_stage, GIVEN.position_slope, GIVEN.position_edges, 0.0]

    assert found.used + found.echoed == len(replies)
    assert found.log_likelihood > found.guessing
    for name, value in zip(PARAMETERS, true, strict=True):
        estimate = found.estimates[name]
        assert 0 < estimate.error < 0.5, name
        assert abs(estimate.value - value) < 4 * estimate.error, name


def test_replies_without_an_opinion_are_counted_and_left_out() -> None:
    shown = tuple(f"d{i}" for i in range(4))
    facts = {"q": {docid: Facts(i, 10, float(i)) for i, docid in enumerate(shown)}}
    said = ["[1] > [2] > [3] > [4]", "[4] > [3]", "I cannot.", "[4] > [3] > [2] > [1]"]
    found = fit("few", [Reply("q", shown, text) for text in said], facts)

    assert (found.replies, found.echoed, found.used) == (4, 1, 1)
    assert found.malformed == {"missing": 1, "unreadable": 1}
    assert found.estimates == {}
    assert found.agreement == {1: (3, 3), 2: (2, 2), 3: (1, 1)}


@pytest.mark.skipif(not (DATA / "recordings").exists(), reason="needs ../shared/data")
def test_the_judge_at_medium_agrees_with_the_judgments_as_the_recorded_ranker_does() -> None:
    known = lists(DATA)
    facts = facts_of(known)
    replies = replies_of(DATA / "recordings" / "rank_vicuna_7b_dl19_bm25.jsonl.gz")
    recorded_agreement = agreement(replies, facts)
    simulated = agreement(resimulated(replies, known, Knowledge(known)), facts)

    for apart, (right, pairs) in recorded_agreement.items():
        there, of = simulated[apart]
        assert there / of == pytest.approx(right / pairs, abs=0.05), f"grades {apart} apart"


# --- findings -----------------------------------------------------------------------------------------------------


def cell(row: str, ndcg: float, tokens: float, level: str = "low", calls: float = 1.0, seeds: int = 2) -> Cell:
    values = np.full((seeds, 8), ndcg) + np.linspace(-0.1, 0.1, 8)
    return Cell(row, level, values, calls, 1.0, tokens, 0.0, 5.0, tokens * 1e-7, 1.0, 0.0, 0.0)


CELLS = [
    cell("first-stage", 0.5, 0.0, calls=0.0, seeds=1),
    cell(BASELINE, 0.7, 20_000.0),
    cell("fast 20 > window", 0.72, 2_000.0),
    cell("tdpart", 0.696, 13_000.0),
    cell("first", 0.6, 9_000.0, seeds=1),
]


def test_the_cheapest_as_good_as_the_baseline_is_named_for_each_kind_of_row() -> None:
    found = {saving.among: saving for saving in savings(CELLS)}

    assert found["all rows"].row == "fast 20 > window"
    assert found["all rows"].share == pytest.approx(0.1)
    assert "at most half" in found["all rows"].sentence
    assert found["rows without the local stage"].row == "tdpart"
    assert "65.0% of 20,000: more than half" in found["rows without the local stage"].sentence
    (alone, *_) = savings([CELLS[0], CELLS[1]])
    assert alone.row == ""
    assert "none is within 0.005" in alone.sentence


def test_the_front_holds_whom_nobody_beats_in_both() -> None:
    assert [one.row for one in front(CELLS, "low")] == ["first-stage", "fast 20 > window"]


def test_differences_are_paired_by_judge_and_query() -> None:
    mean, low, high = difference(CELLS[4], CELLS[1])
    assert (mean, low, high) == pytest.approx((-0.1, -0.1, -0.1))
    assert difference(CELLS[0], CELLS[1])[0] == pytest.approx(-0.2)


def test_concordance_is_kendalls() -> None:
    assert concordance([1.0, 2.0, 3.0], [0.1, 0.2, 0.3]) == pytest.approx(1.0)
    assert concordance([1.0, 2.0, 3.0], [0.3, 0.2, 0.1]) == pytest.approx(-1.0)
    assert concordance([1.0, 1.0], [0.3, 0.2]) is None


def test_the_section_has_everything_that_the_report_draws() -> None:
    data = section(Setting(suite(), {}), CELLS)

    assert data["noise low"][0]["strategy"] == "fast 20 > window"
    assert len(data["published (nDCG@10, DL19, BM25 top 100)"]) == len(PUBLISHED)
    assert all(row["strategies"] <= 3 for row in agreements(CELLS))
    assert {row["preset"] for row in data["presets"]} == {preset.name for preset in PRESETS}


def test_presets_are_the_built_in_pipelines(tmp_path: Path) -> None:
    """The table's row of a preset is its pipeline: the same local stage, as many candidates kept, the same judge's."""
    file = tmp_path / "podium.toml"
    file.write_text("[models.judge]\nbackend = 'openai'\nbase_url = 'http://127.0.0.1:9/v1'\nmodel = 'any'\n")
    pipelines = config.load(file).pipelines
    rows = {row.name: row for row in ROWS}
    for preset in PRESETS:
        row, stages = rows[preset.row], pipelines[preset.name].stages
        local = pipelines[row.local].stages
        assert [stage.strategy for stage in stages[: len(local)]] == [stage.strategy for stage in local]
        assert stages[0] == local[0]
        behind = stages[len(local) :]
        assert [stage.strategy for stage in behind] == ([] if row.local == row.name else [behind[0].strategy])
        for stage in behind:
            assert (stages[len(local) - 1].keep, stage.model) == (row.keep, "judge")
            assert isinstance(row.strategy(), registry.load(stage.strategy))


def test_presets_are_rows_of_the_table_and_say_why() -> None:
    names = {row.name for row in ROWS}
    assert [preset.name for preset in PRESETS] == ["fast", "balanced", "best", "bulk"]
    assert all(preset.row in names and preset.why.endswith(".") for preset in PRESETS)
    assert len(presets(CELLS)) == len(PRESETS)


def test_every_published_figure_is_of_a_row_and_has_its_source() -> None:
    names = {row.name for row in ROWS}
    assert all(one.row in names and one.source[:4].isdecimal() for one in PUBLISHED)
