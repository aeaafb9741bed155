"""That the wheel has what it must have, and nothing that is only ours."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

NEEDED = {
    "podium/v1/rerank_service_pb2.py",
    "podium/v1/rerank_service_pb2_grpc.py",
    "podium/v1/rerank_service.proto",
    "podium_client/service_config.json",
    "podium_client/py.typed",
    "podium_server/builtin.toml",
    "podium_server/__main__.py",
    "podium_server/cli/commands/demo.py",
    "podium_strategies/listwise.py",
}
PACKAGES = {"podium", "podium_client", "podium_server", "podium_strategies"}
MODEL = {"openvino_model.bin", "openvino_model.xml", "tokenizer.json", "model.toml", "NOTICE"}
BYTES_MAX = 90 << 20


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # Without isolation, so that no index is needed: the dev environment has hatchling.
    options = ["--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", folder, ROOT]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (found,) = folder.glob("podium-*.whl")
    return found


def test_what_is_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert sorted(NEEDED - names) == []
    models: dict[str, set[str]] = {}
    for name in names:
        if name.startswith("podium_server/models/") and name.count("/") == 3:
            models.setdefault(name.split("/")[2], set()).add(name.split("/")[3])
    assert models
    assert all(files >= MODEL for files in models.values()), models
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == PACKAGES
    assert not [name for name in names if name.endswith(".pyc") or "/tests/" in name]
    assert wheel.stat().st_size < BYTES_MAX


def test_every_entry_point_leads_somewhere(wheel: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    points = [*project["scripts"].values(), *project["entry-points"]["podium.strategies"].values()]
    for point in points:
        module = point.partition(":")[0].replace(".", "/")
        assert f"{module}.py" in names or f"{module}/__init__.py" in names, point


def test_the_wheel_runs_without_the_sources(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)  # which is what installing a pure wheel is
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import podium_server;"
        f"assert podium_server.__file__.startswith({str(tmp_path)!r}), podium_server.__file__;"
        "from podium_server.cli.app import run; sys.exit(run(['estimate', '--pipeline', 'fast', '--json']))"
    )
    # -P and -E: neither this folder nor the environment lends it anything of ours.
    ended = subprocess.run([sys.executable, "-P", "-E", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert '"pairs": 200' in ended.stdout
