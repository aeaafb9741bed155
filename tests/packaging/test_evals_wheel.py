"""That the evals' wheel has what it needs, and adds `podium eval`."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # Without isolation, so that no index is needed: the dev environment has hatchling.
    options = ["--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", folder, ROOT / "evals"]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (found,) = folder.glob("podium_evals-*.whl")
    return found


def test_what_is_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        requires = archive.read(metadata).decode()
        entries = archive.read(metadata.replace("METADATA", "entry_points.txt")).decode()
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {"podium_evals"}
    sources = {str(path.relative_to(ROOT / "evals")) for path in (ROOT / "evals" / "podium_evals").rglob("*.py")}
    assert sources <= names
    assert any(name.startswith("podium_evals/report/assets/") for name in names)
    assert "Requires-Dist: podium==" in requires
    assert "Requires-Dist: ir-measures" in requires.replace("_", "-")
    assert "eval = podium_evals.cli:command" in entries
    assert wheel.stat().st_size < 1_000_000


def test_it_is_installed_beside_podium() -> None:
    (entry,) = entry_points(group="podium.commands", name="eval")
    assert entry.load().name == "eval"


def test_its_version_is_podiums() -> None:
    versions = [
        tomllib.loads((ROOT / each / "pyproject.toml").read_text("utf-8"))["project"]["version"]
        for each in (".", "evals")
    ]
    assert len(set(versions)) == 1
    evals = tomllib.loads((ROOT / "evals" / "pyproject.toml").read_text("utf-8"))["project"]
    assert f"podium=={versions[0]}" in evals["dependencies"]
