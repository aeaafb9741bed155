"""What a doctor says of cross-encoders: one that loads, and one that is not there."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from podium_server import config
from podium_server.cli.commands.doctor import Health, examine
from tests.backends.rerankers import endpoint
from tests.cross_encoders import numpy_models

SAID = """
[models.well]
backend = "cross-encoder"
model = "{folder}"
precision = "f32"
[models.ill]
backend = "cross-encoder"
model = "{folder}-that-is-not-there"
engine = "openvino"
"""


def test_cross_encoders_are_loaded_and_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PODIUM_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "podium.toml"
    path.write_text(SAID.format(folder=numpy_models.cross_encoder(tmp_path / "model")), "utf-8")
    assert config.load(path).models["well"].backend == "cross-encoder"
    found = {finding.what: finding for finding in examine(path, tmp_path / "store")}
    well, ill = found["model well"], found["model ill"]
    assert well.health is Health.OK
    assert "tokens/s" in well.told
    assert well.told.endswith("gives a logit")
    assert ill.health is Health.FAIL
    assert "model-that-is-not-there" in ill.told


RERANKERS = """
[models.well]
backend = "rerank-api"
dialect = "jina"
base_url = "{url}"
model = "a-model"
[models.ill]
backend = "rerank-api"
dialect = "tei"
base_url = "http://127.0.0.1:1"
attempts = 1
"""


async def test_rerank_endpoints_are_asked_once(tmp_path: Path) -> None:
    path = tmp_path / "podium.toml"
    async with endpoint("jina") as server:
        path.write_text(RERANKERS.format(url=server.url), "utf-8")
        findings = await asyncio.to_thread(lambda: list(examine(path, tmp_path / "store")))
    found = {finding.what: finding for finding in findings}
    assert found["model well"].health is Health.OK
    assert "speaks jina, and gave a probability of 0." in found["model well"].told
    assert len(server.calls) == 1
    assert found["model ill"].health is Health.FAIL
    assert "cannot be reached" in found["model ill"].told
