"""A configuration that exists is valid; one that is not is refused with its key and the known ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from podium_server.compose import Models, build_pipelines
from podium_server.config import Config, OpenAIModel, load
from podium_server.errors import ConfigInvalid

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
