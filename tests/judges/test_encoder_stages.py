"""Stages that ask one encoder for different things."""

from __future__ import annotations

import pytest

from podium_server import config
from podium_server.compose import Podium
from podium_server.judges.case import Candidate
from podium_server.ranking.request import Completion, RankRequest

CANDIDATES = tuple(Candidate(str(place), text) for place, text in enumerate(("bread is baked", "cats land", "rain")))
# No pipeline of it wants token vectors, so that nobody has them kept for the others.
CONFIG = {
    "server": {"default_pipeline": "plain"},
    "models": {"minilm": {"backend": "openvino", "model": "minilm-late"}},
    "pipelines": {"plain": {"stages": [{"strategy": "first-stage"}]}},
}
COSINE = {"strategy": "pointwise", "model": "minilm", "scoring": "cosine"}


@pytest.mark.parametrize("scoring", [{}, {"scoring": "late-interaction"}])
async def test_late_interaction_after_a_stage_that_had_no_use_for_token_vectors(scoring: dict[str, str]) -> None:
    """Found by `make fuzz`: the query's token vectors were taken for made."""
    late = {"strategy": "pointwise", "model": "minilm", **scoring}
    podium = Podium(config.parse(CONFIG, where="here"), data_dir=None, collections=False)
    try:
        await podium.start()
        both = await podium.reranker.rerank(RankRequest("how do cats land", CANDIDATES, inline=(COSINE, late)))
        alone = await podium.reranker.rerank(RankRequest("how do cats land", CANDIDATES, inline=(late,)))
    finally:
        await podium.aclose()
    assert both.completion is Completion.COMPLETE
    assert both.order == alone.order
    assert both.scores == pytest.approx(alone.scores, abs=0.02)
