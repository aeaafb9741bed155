"""A configuration that exists is valid; one that is not is refused with its key and the known ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from podium_server.compose import Models, build_pipelines
from podium_server.config import Config, OpenAIModel, load
from podium_server.errors import ConfigInvalid, FailedPrecondition
from podium_server.judges.judge import ScoreKind
from podium_server.ranking.pipeline import estimate, sketched_case
from podium_strategies.plan import Grade

FROM_THE_README = """
[models.judge]
backend = "openai"
base_url = "http://127.0.0.1:8000/v1"
model = "some-model"
prices = { prompt_usd_per_mtok = 0.15, cached_usd_per_mtok = 0.075, output_usd_per_mtok = 0.60 }
[pipelines.best]
stages = [{ strategy = "pointwise", model = "minilm", keep = 50 },
          { strategy = "sliding-window", model = "judge", prompt = "rank-vicuna", size = 20, stride = 10, keep = 10 }]
"""


def read(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "podium.toml"
    path.write_text(text, "utf-8")
    return load(path)


def test_the_built_in_one_is_valid() -> None:
    config = load(None)
    assert {"recall", "fast"} <= set(config.pipelines)
    assert config.server.host == "127.0.0.1"


def test_a_file_is_laid_over_the_built_in_one(tmp_path: Path) -> None:
    config = read(tmp_path, FROM_THE_README)
    judge = config.models["judge"]
    assert isinstance(judge, OpenAIModel)
    assert judge.prices.cached_usd_per_mtok == 0.075
    assert config.pipelines["best"].stages[1].options == {"size": 20, "stride": 10}
    assert "fast" in config.pipelines
    assert "minilm" in config.models


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '[models.j]\nbackend="openai"\nmodel="x"\nbas_url="y"',
            "models.j.bas_url: no such key; did you mean 'base_url'",
        ),
        ('[models.j]\nbackend="opnai"', "models.j.backend: is 'opnai', and must be one of openvino"),
        ('[models.j]\nmodel="x"', "models.j.backend"),
        ('[models.j]\nbackend="cross-encoder"\nmodel="x"\nenigne="auto"', "did you mean 'engine'"),
        ('[models.j]\nbackend="cross-encoder"\nmodel="x"\nengine="onnx"', "models.j.engine"),
        (
            '[models.j]\nbackend="cross-encoder"\nmodel="x"\nengine="openvino"\ndevice="cuda"',
            "device is 'cuda', which the engine 'torch' has, and engine is 'openvino'",
        ),
        (
            '[models.j]\nbackend="cross-encoder"\nmodel="x"\nprecision="f16"\nthreads=2',
            "threads is 2, which the engine 'openvino' has, and precision is 'f16'",
        ),
        ('[models.j]\nbackend="openai"', "models.j.model: is needed and missing"),
        ("[limits]\ndocumnts = 3", "limits.documnts: no such key; did you mean 'documents'"),
        ("[limits]\ndocuments = 0", "limits.documents"),
        ('[server]\nport = "x"', "server.port"),
        ("[pipeline.a]\nx = 1", "pipeline: no such key; did you mean 'pipelines'"),
        ("[pipelines.a]\nstages = []", "pipelines.a.stages"),
        ('[pipelines.a]\nstages = [{ strategy = "pointwise", keep = 0 }]', "pipelines.a.stages.0.keep"),
        ('[pipelines.a]\nrecal_depth = 3\nstages = [{ strategy = "x" }]', "did you mean 'recall_depth'"),
        ('[server]\ndefault_pipeline = "fsat"', "did you mean 'fast'"),
        ("[models.j]\nbackend = 'openai'\nmodel = 'x'\nprices = { prompt_usd_per_mtok = -1 }", "prompt_usd_per_mtok"),
        ("models = 3", "models"),
        ("= 3", "is no valid TOML"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        read(tmp_path, text)
    assert said in caught.value.message
    assert str(tmp_path) in caught.value.message


def test_every_mistake_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        read(tmp_path, '[limits]\ndocumnts = 3\n[server]\nport = "x"')
    assert caught.value.message.count("\n") == 1


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="no such file"):
        load(tmp_path / "nothing.toml")


CHAT = """
[models.judge]
backend = "openai"
base_url = "http://127.0.0.1:1/v1"
model = "some-model"
"""


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ('{ strategy = "sliding-window", model = "judge", prompt = "pairwise" }', "pairwise/1 answers prefer"),
        ('{ strategy = "mmr", model = "judge", prompt = "yes-no" }', "liken"),
        ('{ strategy = "first-stage", model = "judge" }', "asks nobody"),
    ],
)
def test_a_model_or_prompt_that_cannot_serve_is_refused_at_start(tmp_path: Path, stage: str, said: str) -> None:
    config = read(tmp_path, f"{CHAT}[pipelines.p]\nstages = [{stage}]\n")
    with pytest.raises(ConfigInvalid, match=said):
        build_pipelines(config, Models(config))


def test_a_capability_that_nobody_knows_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    config = read(tmp_path, f'{CHAT}capabilities = ["logprob"]\n')
    with pytest.raises(ConfigInvalid, match="did you mean 'logprobs'"):
        Models(config).chat("judge")


CROSS = """
[models.cross]
backend = "cross-encoder"
model = "nowhere/nothing"
max_tokens = 256
prices = { compute_usd_per_hour = 0.10 }
"""


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ('{ strategy = "pointwise", model = "cross", prompt = "yes-no" }', "prompt is set"),
        ('{ strategy = "pointwise", model = "cross", scoring = "cosine" }', "scoring is set"),
        ('{ strategy = "mmr", model = "cross" }', "liken"),
        ('{ strategy = "pointwise", model = "minilm", score = "probability" }', "is no cross-encoder"),
        ('{ strategy = "pointwise", model = "minilm", long_documents = "cut" }', "is no cross-encoder"),
        ('{ strategy = "first-stage", score = "logit" }', "asks nobody"),
        (
            '{ strategy = "pointwise", model = "cross", long_documents = { read = "best-passage", passages = 17 } }',
            "passages is 17, and limits.passages of this server is 16",
        ),
        (
            '{ strategy="pointwise", model="cross", long_documents={ passage_tokens = 50, overlap_tokens = 26 } }',
            "overlap_tokens is 26, which is more than half of passage_tokens, 50",
        ),
    ],
)
def test_a_stage_says_nothing_that_counts_for_nothing(tmp_path: Path, stage: str, said: str) -> None:
    def made() -> None:
        config = read(tmp_path, f"{CROSS}[pipelines.p]\nstages = [{stage}]\n")
        build_pipelines(config, Models(config))

    with pytest.raises(ConfigInvalid, match=said):
        made()


async def test_a_cross_encoder_is_told_of_and_estimated_before_it_is_loaded(tmp_path: Path) -> None:
    stages = """stages = [{ strategy = "fusion", of = [
        { strategy = "pointwise", model = "minilm" },
        { strategy = "pointwise", model = "cross", long_documents = "best-passage", score = "probability" }]}]"""
    config = read(tmp_path, f"{CROSS}[pipelines.p]\n{stages}\n")
    models = Models(config)
    built = build_pipelines(config, models)["p"]
    (voice,) = [voice for voice in built.voices if voice.section.model == "cross"]
    assert voice.judge is not None
    assert voice.judge.facts.score_kind is ScoreKind.PROBABILITY
    (card,) = [card for card in models.cards() if card.name == "cross"]
    assert (card.backend, card.model_id, card.ready, card.max_tokens) == (
        "cross-encoder",
        "nowhere/nothing",
        False,
        256,
    )
    assert card.answers == {Grade}
    quote = estimate(built, sketched_case("q", 10, 100))
    assert quote.usage.pairs == 20
    with pytest.raises(FailedPrecondition, match="does not embed"):
        models.encoder("cross")
    with pytest.raises(FailedPrecondition, match="is no cross-encoder"):
        models.cross_encoder("minilm")
    with pytest.raises(ConfigInvalid, match="nothing"):
        await models.cross_encoder("cross").batcher()
    await models.aclose()
