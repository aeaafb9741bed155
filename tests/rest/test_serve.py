"""`podium serve --rest-port`: real processes, looked at from outside."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from podium_server import config
from podium_server.errors import ConfigInvalid

pytestmark = pytest.mark.timeout(180)

# No pipeline that needs a model, so that it starts at once.
PLAIN = """
[pipelines.fast]
stages = [{ strategy = "first-stage" }]
[pipelines.diverse]
stages = [{ strategy = "first-stage" }]
[rest.models]
"rerank-v3.5" = "fast"
"""


@contextmanager
def served(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Serve within, and say where REST listens."""
    (folder / "podium.toml").write_text(PLAIN)
    command = ["serve", "--config", "podium.toml", "--port", "0", "--rest-port", "0", *arguments]
    process = subprocess.Popen(
        [sys.executable, "-m", "podium_server", *command], cwd=folder, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("listening on 127.0.0.1:")
        yield process, process.stdout.readline().removeprefix("listening on ").strip()
    finally:
        process.kill()
        process.wait()


def post(url: str, body: Any) -> Any:
    sent = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(sent, timeout=30) as answer:
        return json.load(answer)


@pytest.mark.parametrize("workers", [["--data-dir", "data"], ["--workers", "2"]], ids=["one", "two workers"])
def test_it_listens_beside_grpc_and_drains_with_it(tmp_path: Path, workers: list[str]) -> None:
    with served(tmp_path, *workers) as (process, url):
        assert url.startswith("http://127.0.0.1:")
        for _ in range(4):
            given = post(f"{url}/v2/rerank", {"model": "rerank-v3.5", "query": "q", "documents": ["a", "b"]})
            assert [result["index"] for result in given["results"]] == [0, 1]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_it_is_off_unless_it_is_asked_for() -> None:
    assert config.load(None).rest.port is None
    assert config.load(None).rest.host == "127.0.0.1"


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"models": {"x": "nobody"}}, "no pipeline is named 'nobody'"),
        ({"models": {"fast": "diverse"}}, "is a pipeline too"),
        ({"port": 70_000}, "rest.port"),
        ({"prot": 1}, "did you mean 'port'"),
    ],
)
def test_a_configuration_that_cannot_be_meant_is_refused(section: dict[str, Any], said: str) -> None:
    pipelines = {name: {"stages": [{"strategy": "first-stage"}]} for name in ("fast", "diverse")}
    with pytest.raises(ConfigInvalid, match=said):
        config.parse({"pipelines": pipelines, "rest": section}, where="test")
