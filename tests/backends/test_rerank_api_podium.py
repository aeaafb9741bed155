"""Podium's own REST dialects as the endpoints of `rerank-api`: one server judges for another."""

from __future__ import annotations

import time

import pytest

from podium_server.backends.rerank_api.api import RerankApi
from podium_server.backends.rerank_api.dialects import DIALECTS
from podium_server.errors import BackendRefused, DeadlineExceeded
from podium_server.judges.judge import ScoreKind
from podium_server.judges.rerank_api import RerankApiJudge
from tests.backends.conftest import until
from tests.backends.test_rerank_api import Collected, case, ranked
from tests.ranking.scripted import ScriptedJudge
from tests.rest.serving import GRADES, Grading, resting, truth
from tests.wire.serving import standing

ORDER = (3, 0, 4, 1, 2)
TEXTS = [f"the text number {i}" for i in range(len(ORDER))]
# Behind a name of its own each dialect is answered as its provider does; at the root they are told apart.
PREFIXED = [(name, f"/{name.partition('-')[0]}") for name in DIALECTS if name != "infinity"]


def theirs(dialect: str, url: str, model: str = "points") -> RerankApi:
    return RerankApi("theirs", spoken=DIALECTS[dialect], model=model, base_urls=[url])


@pytest.mark.parametrize(("dialect", "prefix"), [*((name, "") for name in DIALECTS), *PREFIXED])
async def test_one_podium_grades_for_another(dialect: str, prefix: str) -> None:
    judge = Grading(truth(*ORDER), kind=ScoreKind.PROBABILITY)
    podium = standing(judge)
    podium.reranker.default_pipeline = "points"  # TEI names none
    async with resting(podium) as rest:
        api = theirs(dialect, rest.url + prefix)
        try:
            outcome = await ranked(RerankApiJudge(api), TEXTS)
        finally:
            await api.aclose()
    assert outcome.order == ORDER
    grade = GRADES[ScoreKind.PROBABILITY]
    assert list(outcome.scores) == [pytest.approx(grade(ORDER.index(i))) for i in range(len(ORDER))]
    total = outcome.ledger.total()
    assert (total.calls, total.pairs, total.retries) == (1, 5, 0)
    assert dict(total.repairs) == {}
    if dialect.startswith("cohere"):
        assert total.search_units == 1
    else:
        assert total.prompt_tokens == 50


@pytest.mark.parametrize("dialect", ["tei", "vllm"])
async def test_logits_come_through_as_they_are(dialect: str) -> None:
    judge = Grading(truth(*ORDER), kind=ScoreKind.LOGIT)
    podium = standing(judge)
    podium.reranker.default_pipeline = "points"
    async with resting(podium) as rest:
        api = theirs(dialect, rest.url)
        try:
            raw = await ranked(RerankApiJudge(api, "logit"), TEXTS)
        finally:
            await api.aclose()
    grade = GRADES[ScoreKind.LOGIT]
    assert list(raw.scores) == [pytest.approx(grade(ORDER.index(i))) for i in range(len(ORDER))]
    assert raw.score_kind is ScoreKind.LOGIT


@pytest.mark.parametrize("dialect", [name for name in DIALECTS if name != "tei"])
async def test_a_model_that_is_not_there_is_told_with_those_that_are(dialect: str) -> None:
    async with resting(standing()) as rest:
        api = theirs(dialect, rest.url, "nobody")
        try:
            with pytest.raises(BackendRefused, match=r"nobody.*points"):
                await ranked(RerankApiJudge(api), TEXTS)
        finally:
            await api.aclose()


async def test_a_deadline_reaches_the_judges_of_the_other_server() -> None:
    slow = ScriptedJudge(truth(*ORDER), delay_s=lambda _: 60.0)
    async with resting(standing(slow)) as rest:
        api = theirs("jina", rest.url)
        try:
            sink = Collected()
            with pytest.raises(DeadlineExceeded):
                await RerankApiJudge(api).rule(*case(TEXTS, deadline_at=time.monotonic() + 0.5), sink)
            await until(lambda: slow.cancelled == len(TEXTS))
        finally:
            await api.aclose()
    assert sink.in_vain.calls == 1
