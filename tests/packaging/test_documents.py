"""That what README and CONTRIBUTING show is true: their examples are run."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from google.protobuf import json_format

from podium.v1 import rerank_service_pb2
from podium_server import config
from podium_server.cli.app import BROUGHT_BY, COMMANDS
from podium_server.cli.reaching.local_server import local_server
from podium_server.compose import Models, build_pipelines
from podium_strategies.drive import run
from podium_strategies.forecast import forecast
from podium_strategies.oracle import Oracle
from podium_strategies.pool import Pool

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text("utf-8")


def shown(text: str, language: str) -> str:
    """Return the first block of a language."""
    block = re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)
    assert block is not None
    return block[1]


def test_the_client_example_runs(tmp_path: Path) -> None:
    with local_server(data_dir=tmp_path / "store") as target:
        code = shown(README, "python").replace("localhost:50051", target)
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    order, completion, *stages = ended.stdout.splitlines()
    assert (order, completion) == ("(1, 0)", "complete")
    assert len(stages) == 3


def test_the_grpcurl_example_is_a_request() -> None:
    body = re.search(r"grpcurl -plaintext -d '(.*?)'", README, re.DOTALL)
    assert body is not None
    request = json_format.Parse(body[1], rerank_service_pb2.RerankRequest())
    assert len(request.documents) == 2
    service, method = re.search(r"(podium\.v1\.\w+)/(\w+)", README[body.end() :]).groups()  # type: ignore[union-attr]
    assert service == rerank_service_pb2.DESCRIPTOR.services_by_name["RerankService"].full_name
    assert method in rerank_service_pb2.DESCRIPTOR.services_by_name["RerankService"].methods_by_name
    assert json.loads(body[1])["pipeline"] in config.load(None).pipelines


def test_the_configuration_example_is_one(tmp_path: Path) -> None:
    path = tmp_path / "podium.toml"
    path.write_text(shown(README, "toml"), "utf-8")
    loaded = config.load(path)
    assert {"recall", "fast", "balanced", "diverse", "best", "bulk"} == set(build_pipelines(loaded, Models(loaded)))


def test_every_command_that_is_shown_exists() -> None:
    for text in (README, CONTRIBUTING):
        assert set(re.findall(r"^podium (\w+)|`podium (\w+)", text, re.MULTILINE)) <= {
            pair for name in (*COMMANDS, *BROUGHT_BY) for pair in ((name, ""), ("", name))
        }
    targets = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"^make ([\w-]+)", README + CONTRIBUTING, re.MULTILINE):
        assert re.search(rf"^{target}:", targets, re.MULTILINE), target


def test_every_link_leads_somewhere() -> None:
    for text in (README, CONTRIBUTING):
        for link in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (ROOT / link).exists(), link


@pytest.fixture
def example(tmp_path: Path) -> ModuleType:
    path = tmp_path / "block_winners.py"
    path.write_text(shown(CONTRIBUTING, "python"), "utf-8")
    spec = importlib.util.spec_from_file_location("block_winners", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["block_winners"] = module
    spec.loader.exec_module(module)
    return module


def test_the_strategy_example_keeps_the_laws(example: ModuleType) -> None:
    strategy = example.BlockWinners(size=7)
    for n in range(41):
        oracle = Oracle.seeded(n, n)
        order = run(strategy.plan(Pool(n)), oracle, n).order
        assert sorted(order) == list(range(n))
        assert not order or oracle.truth[0] in order[: -(-n // 7)]
        assert forecast(strategy, Pool(n)).exact
