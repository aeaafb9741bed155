"""`podium distil` as people use it, as far as it goes without torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.cli.conftest import Podium


def test_help_shows_an_example_and_loads_no_torch(podium: Podium) -> None:
    ended = podium("distil", "--help")
    assert ended.returncode == 0
    assert "podium distil recipe.toml --out" in ended.stdout


def test_a_recipe_with_a_mistake_is_refused_before_anything_is_loaded(podium: Podium, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text('[student]\nkinds = "bi-encoder"\n[[data]]\npath = "a"\n')
    ended = podium("distil", "r.toml")
    assert ended.returncode == 2
    assert "r.toml: student.kinds: no such key; did you mean 'kind'?" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_recipe_without_development_says_which_lines_to_add(podium: Podium, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text('[[data]]\npath = "pairs.jsonl"\n')
    ended = podium("distil", "r.toml")
    assert ended.returncode == 2
    assert 'add [[development]] with path = "pairs.jsonl" and queries = 100' in ended.stderr


def test_without_the_extra_it_says_what_to_install(podium: Podium, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text('[[data]]\npath = "a"\n[[development]]\npath = "a"\n')
    # A torch that is no torch: what there is without the extra, wherever the tests run.
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u; real = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'torch' else real(name, *rest)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-m", "podium_server", "distil", "r.toml"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])},
        check=False,
    )
    assert ended.returncode == 2
    assert "pip install 'podium[train]'" in ended.stderr
    assert "torch" in ended.stderr
