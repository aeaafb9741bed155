"""Stages that ask two judges, and stages that ask nobody: their seats, their scores, and what the outcome tells."""

from __future__ import annotations

from typing import Any

import pytest

from podium_server.config import StageSection
from podium_server.errors import ConfigInvalid
from podium_server.judges.case import Candidate
from podium_server.judges.judge import JudgeFacts, ScoreKind
from podium_server.ranking.request import Completion, Provenance, RankRequest
from podium_strategies.oracle import Oracle
from tests.ranking.scripted import ScriptedJudge, pipeline, request, reranker

EARLY = {"strategy": "early-exit", "k": 3, "bound": 2.0, "models": {"fast": "f", "strong": "s"}}
SURE = (9.0, 8.9, 8.8, 1.0, 0.9, 0.8, 0.7, 0.6)
UNSURE = tuple(float(8 - item) for item in range(8))


class Fast(ScriptedJudge):
    @property
    def facts(self) -> JudgeFacts:
        return JudgeFacts("fast", "r1", self.answers, ScoreKind.COSINE)


def scored(scores: tuple[float, ...]) -> RankRequest:
    return RankRequest("q", tuple(Candidate(f"d{i}", f"text {i}", score) for i, score in enumerate(scores)))


async def test_each_role_has_its_judge_and_its_account() -> None:
    oracle = Oracle.seeded(30, 1)
    fast, strong = Fast(oracle), ScriptedJudge(oracle)
    outcome = await reranker(pipeline({"f": fast, "s": strong}, EARLY)).rerank(request(30))
    assert outcome.order[:3] == oracle.truth[:3]
    asked = {account.stage: (account.questions, account.model) for account in outcome.ledger}
    assert asked == {"early-exit.fast": (30, "fast"), "early-exit.strong": (len(strong.asked), "scripted")}
    assert 3 <= len(strong.asked) < 30
    assert outcome.score_kind is ScoreKind.LOGIT
    assert sum(score is not None for score in outcome.scores) == len(strong.asked)
    assert outcome.warnings == ()


async def test_a_role_says_how_its_model_is_used() -> None:
    used: dict[str, Any] = {}

    def judge_of(section: StageSection, model: str, asks: Any) -> ScriptedJudge:
        used[model] = (section.scoring, section.prompt)
        return ScriptedJudge(Oracle.seeded(4, 1))

    from podium_server.config import PipelineSection
    from podium_server.ranking.pipeline import build

    models = {"fast": {"model": "f", "scoring": "cosine"}, "strong": "s"}
    stage = StageSection(strategy="early-exit", scoring="late-interaction", models=models)
    build("p", PipelineSection(stages=(stage,)), judge_of, where="here")
    assert used == {"f": ("cosine", None), "s": ("late-interaction", None)}


def test_a_mistake_in_a_role_is_told_by_its_key() -> None:
    from podium_server.config import parse

    stage = {"strategy": "early-exit", "models": {"fast": {"model": "minilm", "scorin": "cosine"}}}
    with pytest.raises(ConfigInvalid, match=r"models\.fast\.scorin: no such key; did you mean 'scoring'\?"):
        parse({"server": {"default_pipeline": "p"}, "pipelines": {"p": {"stages": [stage]}}}, where="here")


async def test_a_stage_that_was_left_out_is_told_from_one_that_was_asked() -> None:
    judge = ScriptedJudge(Oracle.seeded(8, 1))
    base = {"strategy": "pointwise", "model": "m"}
    ranks = reranker(pipeline({"m": judge}, {"strategy": "selective", "threshold": 0.9, "k": 3, "base": base}))
    skipped = await ranks.rerank(scored(SURE))
    assert skipped.order == tuple(range(8))
    assert skipped.completion is Completion.COMPLETE
    assert [account.questions for account in skipped.ledger] == [0]
    assert set(skipped.provenance) == {Provenance.CARRIED_OVER}
    assert set(skipped.scores) == {None}
    assert [(warned.code, warned.message.split()[0]) for warned in skipped.warnings] == [("STAGE_SKIPPED", "selective")]

    asked = await ranks.rerank(scored(UNSURE))
    assert [account.questions for account in asked.ledger] == [8]
    assert asked.warnings == ()
    assert (await ranks.rerank(request(1))).warnings == (), "one candidate is nothing to ask about"


async def test_a_stage_that_asks_only_one_of_its_judges_was_not_left_out() -> None:
    oracle = Oracle.seeded(3, 1)
    outcome = await reranker(pipeline({"f": Fast(oracle), "s": ScriptedJudge(oracle)}, EARLY)).rerank(request(3))
    assert {account.stage: account.questions for account in outcome.ledger}["early-exit.fast"] == 0
    assert outcome.warnings == ()


async def test_two_steps_inside_a_selective_stage() -> None:
    oracle = Oracle.seeded(8, 1)
    stage = {"strategy": "selective", "threshold": 0.9, "k": 3, "base": EARLY}
    ranks = reranker(pipeline({"f": Fast(oracle), "s": ScriptedJudge(oracle)}, stage))
    asked = await ranks.rerank(scored(UNSURE))
    assert {account.stage for account in asked.ledger} == {"selective.fast", "selective.strong"}
    assert asked.score_kind is ScoreKind.LOGIT
    [warned] = (await ranks.rerank(scored(SURE))).warnings
    assert warned.message.startswith("selective asked nothing")
