"""infinity run for real behind `rerank-api`, beside the same model in this process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from podium_server.compose import Podium
from podium_server.config import load
from podium_server.judges.case import Candidate
from podium_server.judges.judge import ScoreKind
from podium_server.ranking.request import RankRequest
from tests.cross_encoders import numpy_models

ROOT = Path(__file__).resolve().parents[2]
INFINITY = ROOT / ".venv-client-infinity" / "bin" / "infinity_emb"
START_S_MAX = 100.0

pytestmark = pytest.mark.skipif(
    not INFINITY.exists(),
    reason="there is no .venv-client-infinity; python tests/clients/environments.py infinity builds it (1.5 GB)",
)

SAID = """
[limits]
cross_encoder_wait_s = 600.0
[models.here]
backend = "cross-encoder"
model = "{folder}"
engine = "openvino"
precision = "f32"
[models.there]
backend = "rerank-api"
dialect = "infinity"
base_url = "http://127.0.0.1:{port}"
model = "tiny"
documents = 16
prices = {{ usd_per_call = 0.001 }}
[pipelines.here]
stages = [{{ strategy = "pointwise", model = "here" }}]
[pipelines.there]
stages = [{{ strategy = "pointwise", model = "there", score = "logit" }}]
[pipelines.likely]
stages = [{{ strategy = "pointwise", model = "there" }}]
"""


@pytest.fixture(scope="module")
def infinity(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """infinity with a tiny cross-encoder: its folder, and the port."""
    home = tmp_path_factory.mktemp("infinity")
    folder = numpy_models.cross_encoder(home / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    said = ["--model-id", str(folder), "--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port)]
    how = ["--engine", "torch", "--device", "cpu", "--dtype", "float32", "--no-model-warmup", "--no-bettertransformer"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "HOME": str(home)}
    with (home / "log").open("wb") as log:
        server = subprocess.Popen(
            [INFINITY, "v2", *said, *how], stdout=log, stderr=log, env=environment, cwd=home, start_new_session=True
        )
        try:
            _wait(port, server, home / "log")
            yield folder, port
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _wait(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_S_MAX
    while time.monotonic() < until and server.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"infinity did not start: {log.read_text('utf-8', 'replace')[-2000:]}")


@pytest.mark.timeout(240)
async def test_infinity_grades_as_the_same_model_does_here(
    infinity: tuple[Path, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PODIUM_CACHE", str(tmp_path / "cache"))
    folder, port = infinity
    path = tmp_path / "podium.toml"
    path.write_text(SAID.format(folder=folder, port=port), "utf-8")
    words = numpy_models.WORDS
    texts = [" ".join(words[(i * j) % len(words)] for j in range(1, 3 + i * 7 % 40)) for i in range(40)]
    candidates = tuple(Candidate(str(i), text) for i, text in enumerate(texts))
    podium = Podium(load(path), data_dir=None)
    try:
        here, there, likely = [
            await podium.reranker.rerank(RankRequest("how long do fleas live", candidates, pipeline=name))
            for name in ("here", "there", "likely")
        ]
    finally:
        await podium.aclose()
    assert there.score_kind is here.score_kind is ScoreKind.LOGIT
    # Another library, other sums; the scores spread by far more.
    assert [float(score or 0) for score in there.scores] == pytest.approx(
        [float(s or 0) for s in here.scores], abs=2e-3
    )
    assert there.order == here.order
    assert likely.order == here.order
    assert likely.score_kind is ScoreKind.PROBABILITY
    assert all(0 <= float(score or 0) <= 1 for score in likely.scores)
    total = there.ledger.total()
    assert (total.calls, total.retries, total.pairs, total.cost_nano_usd) == (3, 0, 40, 3_000_000)
    assert dict(total.repairs) == {}, "infinity tells what it used"
    assert total.prompt_tokens > 0
    (account,) = there.ledger
    assert account.revision == "tiny"
