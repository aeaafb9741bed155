"""Challengers and the log of rankings, as a configuration file has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from podium_server import config
from podium_server.compose.podium import build_experiments
from podium_server.errors import ConfigInvalid

LOG = {"ranking_log": {"path": "rankings.jsonl"}}
IDENTITY = {"stages": [{"strategy": "first-stage"}]}


def parsed(challenger: dict[str, Any], **more: Any) -> config.Config:
    pipelines = {"fast": {**IDENTITY, "challenger": challenger}, "best": IDENTITY}
    return config.parse({"pipelines": pipelines, **(LOG | more)}, where="a.toml")


def test_a_challenger_is_read_with_its_defaults() -> None:
    section = parsed({"pipeline": "best"}).pipelines["fast"].challenger
    assert section is not None
    assert (section.mode, section.share, section.key, section.experiment) == ("shadow", 0.1, "query", "")


@pytest.mark.parametrize(
    ("challenger", "said"),
    [
        ({"pipeline": "bset"}, "pipelines.fast.challenger.pipeline: no pipeline is named 'bset'; did you mean 'best'"),
        ({"pipeline": "best", "share": 0.0}, "pipelines.fast.challenger.share"),
        ({"pipeline": "best", "share": 1.5}, "pipelines.fast.challenger.share"),
        ({"pipeline": "best", "mode": "a/b"}, "pipelines.fast.challenger.mode"),
        ({"pipeline": "best", "key": "user"}, "is no key: query, request, or metadata:NAME"),
        ({"pipeline": "best", "key": "metadata:X-User"}, "is no key"),
        ({"pipeline": "best", "key": "metadata:user-bin"}, "is no key"),
        ({"pipeline": "best", "shares": 0.5}, "no such key; did you mean 'share'"),
        ({}, "pipelines.fast.challenger.pipeline: is needed"),
    ],
)
def test_a_mistake_is_told_with_its_key(challenger: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigInvalid, match=said.replace(".", r"\.")):
        parsed(challenger)


def test_a_challenger_needs_a_log() -> None:
    with pytest.raises(ConfigInvalid, match=r"ranking_log\.path is not set"):
        parsed({"pipeline": "best"}, ranking_log={})


def test_a_pipeline_may_challenge_itself() -> None:
    """A test of A against A shows whether the experiment itself can be trusted."""
    assert parsed({"pipeline": "fast", "mode": "served", "share": 0.5}).pipelines["fast"].challenger is not None


def test_experiments_are_built_where_there_is_something_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert build_experiments(config.load(None)) is None
    quiet = config.parse({"pipelines": {"fast": IDENTITY}, **LOG}, where="a.toml")
    assert build_experiments(quiet) is None
    assert build_experiments(parsed({"pipeline": "best"})) is not None
    keyed = {"path": str(tmp_path / "log"), "secret_env": "A_SECRET", "share": 0.5}
    given = parsed({"pipeline": "best"}, ranking_log=keyed)
    with pytest.raises(ConfigInvalid, match="A_SECRET has 0 bytes"):
        build_experiments(given)
    monkeypatch.setenv("A_SECRET", "s")
    made = build_experiments(given)
    assert made is not None
    assert (made.secret, made.share) == (b"s", 0.5)
