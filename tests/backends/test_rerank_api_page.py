"""What docs/rerank-api.md shows is a configuration, and its table is the dialects' own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from podium_server.backends.rerank_api.dialects import DIALECTS
from podium_server.compose import Models, build_pipelines
from podium_server.config import load

PAGE = (Path(__file__).parents[2] / "docs" / "rerank-api.md").read_text("utf-8")


def test_the_example_is_a_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CO_API_KEY", "any")
    [shown] = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    path = tmp_path / "podium.toml"
    path.write_text(shown, "utf-8")
    config = load(path)
    models = Models(config)
    assert "careful" in build_pipelines(config, models)
    assert models.rerank_apis["cohere"].documents_max == 1_000


def test_the_table_is_that_of_the_dialects() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \|(.*)\|$", PAGE, re.MULTILINE)
    assert [name for name, _ in rows] == list(DIALECTS)
    for name, row in rows:
        home, path, key, documents, tokens, scores, raw, billed = (
            cell.strip(" `").replace("–", "") for cell in row.split("|")
        )
        one = DIALECTS[name]
        assert (home, path, key, scores) == (one.home, one.path, one.key_variable, one.scale)
        assert documents.replace(",", "") == str(one.documents_max)
        assert tokens.replace(",", "") == ("" if one.tokens_max is None else str(one.tokens_max))
        assert [raw] == ([*one.raw] or [""])
        assert (billed == "search units") is one.by_search_units
