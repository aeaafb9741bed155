"""The pipelines that are there without a file, and those that a judge brings."""

from __future__ import annotations

from pathlib import Path

from podium_server.config import load

LOCAL = {"recall", "fast", "balanced", "diverse"}


def test_without_a_judge_nothing_is_offered_that_needs_one() -> None:
    assert set(load(None).pipelines) == LOCAL


def test_a_judge_brings_best_and_bulk(tmp_path: Path) -> None:
    file = tmp_path / "podium.toml"
    file.write_text('[models.judge]\nbackend = "openai"\nbase_url = "http://127.0.0.1:1/v1"\nmodel = "m"\n')
    assert set(load(file).pipelines) == LOCAL | {"best", "bulk"}


def test_a_pipeline_of_one_s_own_stands_in_the_place_of_a_preset(tmp_path: Path) -> None:
    file = tmp_path / "podium.toml"
    file.write_text('[pipelines.best]\nstages = [{ strategy = "first-stage" }]\n')
    config = load(file)
    assert set(config.pipelines) == LOCAL | {"best"}
    assert len(config.pipelines["best"].stages) == 1


def test_every_preset_says_why() -> None:
    assert all(section.description for section in load(None).pipelines.values())
