"""Drift on simulated traffic whose truth is known."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium_evals.online.drift import drift, kendall_tau
from podium_evals.online.traffic import Ranking, Request
from podium_evals.suite import SuiteError
from podium_server.accounting.usage import Usage
from podium_server.cli.app import run as podium
from podium_server.ranking.ranking_log import Entry, Ranked, RankingLog

N = 20


def rankings(seed: int, n: int = 300, shift: float = 0.0, noise: float = 1.0, kind: str = "logit") -> list[Request]:
    """Return requests whose scores follow the first stage and some noise of the model's own."""
    random = np.random.default_rng(seed)
    made = []
    for number in range(n):
        scores = np.linspace(1, -1, N) + random.normal(0, noise, N) + random.normal(0, 0.5) + shift
        order = np.argsort(-scores)
        ranking = Ranking(
            "best",
            tuple(f"d{place}" for place in order),
            tuple(int(place) for place in order),
            tuple(float(scores[place]) for place in order),
            kind,
            "complete",
            0.1,
            1,
            10,
            None,
        )
        name = f"{number}"
        made.append(Request(0.0, name, "", "", "", 0.0, "", f"q{name}", N, "incumbent", {"incumbent": ranking}))
    return made


@given(st.permutations(range(12)))
def test_kendall_tau_is_what_its_definition_says(order: list[int]) -> None:
    signs = [1 if one < other else -1 for one, other in itertools.combinations(order, 2)]
    assert kendall_tau(order) == pytest.approx(sum(signs) / len(signs))


def test_traffic_like_the_reference_passes() -> None:
    false_alarms = sum(bool(drift(rankings(seed), rankings(1000 + seed), seed=seed).exceeded) for seed in range(4))
    assert false_alarms == 0


@pytest.mark.parametrize(
    ("changed", "what"),
    [({"shift": 1.0}, "best score"), ({"noise": 0.1}, "Kendall tau with the first stage")],
)
def test_a_change_is_found_where_it_is(changed: dict[str, float], what: str) -> None:
    found = drift(rankings(1), rankings(2, **changed))
    assert what in found.exceeded
    distance = found.distances[what]
    assert distance.psi > 0.25
    assert distance.ks > distance.ks_chance
    if "shift" in changed:  # scores went up alike, and nothing moved
        assert "Kendall tau with the first stage" not in found.exceeded


def test_a_threshold_is_not_passed_by_chance_alone() -> None:
    few = drift(rankings(1, n=30), rankings(2, n=30), psi_max=0.0, ks_max=0.0)
    assert any(distance.psi > 0.1 for distance in few.distances.values())  # chance makes that of thirty
    assert not few.exceeded


def test_the_same_queries_are_compared_one_by_one() -> None:
    before = rankings(1)
    assert drift(before, before).same.kendall_tau == 1.0  # type: ignore[union-attr]
    found = drift(before, rankings(2), tau_min=0.9)
    assert found.same is not None
    assert found.same.queries == 300
    assert found.same.changed == 1.0
    assert "order of the same queries" in found.exceeded


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(SuiteError, match="at least 30"):
        drift(rankings(1), rankings(2, n=5))
    with pytest.raises(SuiteError, match="cosine, logit"):
        drift(rankings(1), rankings(2, kind="cosine"))
    with pytest.raises(SuiteError, match="0 rankings by 'other'"):
        drift(rankings(1), rankings(2), pipeline="other")


def written(path: Path, requests: Sequence[Request]) -> Path:
    log = RankingLog(path, file_bytes=1 << 30, files=2, queue_entries=10_000)
    for request in requests:
        [ranking] = request.rankings.values()
        ranked = Ranked(
            ranking.pipeline, ranking.ids, ranking.places, ranking.scores, ranking.score_kind, "complete", 0.1, Usage()
        )
        log.put(Entry(0.0, request.request_id, request.query, N, {"incumbent": ranked}, "incumbent"))
    log.close()
    return path


def test_the_exit_code_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs = [
        written(tmp_path / name, rankings(seed, shift=shift))
        for name, seed, shift in (("before", 1, 0.0), ("alike", 2, 0.0), ("changed", 3, 1.0))
    ]
    before, alike, changed = map(str, logs)
    assert podium(["eval", "drift", before, alike]) == 0
    assert "nothing is exceeded" in capsys.readouterr().out
    assert podium(["eval", "drift", before, changed]) == 1
    assert "exceeded: best score" in capsys.readouterr().out
    assert podium(["eval", "drift", before, changed, "--pipeline", "other"]) == 2
