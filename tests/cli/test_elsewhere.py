"""Commands of other distributions: found by entry points, imported when they are called, named when they break."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from podium_server.cli import app

Install = Callable[..., None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Install:
    monkeypatch.syspath_prepend(str(tmp_path))

    def installed(**modules: str) -> None:
        for name, text in modules.items():
            (tmp_path / f"elsewhere_{name}.py").write_text(text)
        found = [EntryPoint(name, f"elsewhere_{name}:command", app.ELSEWHERE) for name in modules]
        monkeypatch.setattr(app, "entry_points", lambda group: found)

    return installed


GREETS = """
import click
@click.command("greet", short_help="Says hello.")
def command():
    click.echo("hello")
"""


def test_a_command_of_another_distribution(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install(greet=GREETS)
    assert app.run(["greet"]) == 0
    assert app.run(["--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("hello")
    assert "Says hello." in out


def test_what_is_not_installed_says_what_brings_it(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install()
    assert app.run(["eval", "run"]) == 2
    assert "pip install podium-evals" in capsys.readouterr().err
    assert app.run(["--help"]) == 0
    assert "(pip install podium-evals)" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("text", "said"), [("import nothing_of_that_name", "cannot be loaded"), ("command = 3", "no click")]
)
def test_a_broken_one_breaks_alone(install: Install, capsys: pytest.CaptureFixture[str], text: str, said: str) -> None:
    install(odd=text)
    assert app.run(["odd"]) == 1
    assert said in capsys.readouterr().err
    assert app.run(["--help"]) == 0
    assert said in " ".join(capsys.readouterr().out.split())


def test_nobody_takes_a_name_of_ours(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install(serve=GREETS)
    assert app.run(["serve", "--help"]) == 0
    assert "gRPC" in capsys.readouterr().out


def test_listing_does_not_import_the_evals(install: Install) -> None:
    sys.modules.pop("elsewhere_eval", None)
    install(eval="raise RuntimeError('imported')")
    assert app.run(["--help"]) == 0
    assert "elsewhere_eval" not in sys.modules
