"""What a job depends on: a model that was trained further under its name, and a prompt whose text was changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium_server import config
from podium_server.cli.job_runs.identity import models_of, prompts_of, stages_of
from podium_server.config import Config
from podium_server.jobs.journal import differences
from tests.cli.conftest import Endpoint, Podium, a_list
from tests.jobs.test_resuming import interrupted

PROMPT = """
kind = "listwise"
name = "own"
version = 1
user = '''
Put these {n} passages in order for the query {query}:
{documents}
Answer like [2] > [1].'''
"""


def with_a_local_model(folder: Path) -> Config:
    """Return a configuration whose pipeline asks a cross-encoder in a folder."""
    path = folder / "podium.toml"
    path.write_text(
        f"""
[models.own]
backend = "cross-encoder"
model = "{folder / "student"}"
[models.shipped]
backend = "openvino"
[models.far]
backend = "cross-encoder"
model = "somebody/on-the-hub"
[pipelines.p]
stages = [
  {{ strategy = "pointwise", model = "shipped" }},
  {{ strategy = "pointwise", name = "two", model = "own" }},
  {{ strategy = "pointwise", name = "three", model = "far" }},
]
"""
    )
    return config.load(path)


def test_other_weights_under_the_same_name_are_another_model(tmp_path: Path) -> None:
    student = tmp_path / "student"
    (student / "1_Dense").mkdir(parents=True)
    (student / "training").mkdir()
    for name in ("model.safetensors", "1_Dense/model.safetensors", "config.json", "README.md", "training/log.json"):
        (student / name).write_text("before")
    loaded = with_a_local_model(tmp_path)
    before = models_of(loaded, "p")

    assert before["shipped"]["content"] != before["own"]["content"]
    assert "content" not in before["far"]
    for name in ("README.md", "training/log.json"):
        (student / name).write_text("after")
    assert models_of(loaded, "p") == before
    for name in ("model.safetensors", "1_Dense/model.safetensors", "config.json"):
        (student / name).write_text("after")
        changed = models_of(loaded, "p")
        assert changed != before
        told = differences({"its models": before}, {"its models": changed})
        assert told == (
            f'its models.own.content was "{before["own"]["content"]}" and is "{changed["own"]["content"]}"'
        ), name
        before = changed


def test_a_prompt_file_whose_text_was_changed_is_another_prompt(
    podium: Podium, tmp_path: Path, endpoint: Callable[[float], Endpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = endpoint(0.0)
    (tmp_path / "own.toml").write_text(PROMPT)

    class WithOwnPrompt:
        def config(self, path: Path) -> Path:
            toy.config(path)
            path.write_text(path.read_text().replace('"rank-vicuna"', '"own.toml"'))
            return path

    command = interrupted(podium, tmp_path, WithOwnPrompt(), [a_list(f"q{i}", 3) for i in range(10)])  # type: ignore[arg-type]
    (tmp_path / "own.toml").write_text(PROMPT.replace("Put these", "Sort these"))
    refused = podium("rerank", *command)
    (tmp_path / "own.toml").write_text(PROMPT)
    ended = podium("rerank", *command)

    assert refused.returncode == 2
    assert "its prompts.own.toml was" in " ".join(refused.stderr.split())
    assert ended.returncode == 0, ended.stderr
    monkeypatch.chdir(tmp_path)
    stages = stages_of(config.load(tmp_path / "podium.toml"), "judged")
    assert prompts_of(stages).keys() == {"own.toml"}
    assert prompts_of(stages, "duo-t5", None).keys() == {"own.toml", "duo-t5"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.text("ab", max_size=1),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("xy", min_size=1, max_size=2), inner),
    max_leaves=6,
)


@given(st.dictionaries(st.text("xyz", min_size=1, max_size=2), JSON), st.data())
def test_what_differs_is_told_and_nothing_else(was: dict[str, Any], data: st.DataObject) -> None:
    assert differences(was, was) == ""
    now = data.draw(st.dictionaries(st.text("xyz", min_size=1, max_size=2), JSON))
    if without_nothing(was) != without_nothing(now):
        assert " was " in differences(was, now)


def without_nothing(value: Any) -> Any:
    """Return a value without what is None: a name that is missing and one that is unset are the same."""
    if isinstance(value, dict):
        return {name: without_nothing(inner) for name, inner in value.items() if inner is not None}
    return [without_nothing(inner) for inner in value] if isinstance(value, list) else value
