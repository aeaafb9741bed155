"""`podium distil`: trains a small model from labels, judgments and teachers, and writes a folder that Podium serves."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich import box
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table

from podium_server.cli import options
from podium_server.cli.app import Command
from podium_server.cli.display import console as look

if TYPE_CHECKING:
    from podium_server.training.job import Result

_PLAIN_EVERY_S = 30.0
"""Where nobody looks on, a line of progress that often."""


@click.command(
    "distil",
    cls=Command,
    epilog=options.example(
        """
podium distil recipe.toml --out students/mine
podium distil recipe.toml --out students/mine --resume
podium distil recipe.toml --out /tmp/try --steps 5"""
    ),
)
@click.argument("recipe", type=click.Path(path_type=Path, dir_okay=False), metavar="RECIPE.toml")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="The student's folder.  [default: the recipe's name]",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="DIR",
    help="Where the recipe's paths are looked for, if not beside it.  [default: $PODIUM_DATA]",
)
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where mined negatives are kept.  [default: ~/.cache/podium]",
)
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in the folder.")
@click.option(
    "--steps", type=click.IntRange(min=1), metavar="N", help="So many steps instead of the recipe's, to try it."
)
def command(
    recipe: Path, out: Path | None, data: Path | None, cache: Path | None, resume: bool, steps: int | None
) -> None:
    """Train a small ranking model, as a recipe says (extra `train`).

    The recipe names what is trained, what it learns from and what it is measured on. Writes weights, tokenizer, an
    OpenVINO model, a model card with what was measured before and after, and the learning curve.
    """
    from podium_server.training.job import Order, distil

    folder = out or Path(recipe.stem)
    order = Order(recipe, folder, data, cache, resume, steps, shlex.join(["podium", *sys.argv[1:]]))
    with _Bar() as bar:
        result = distil(order, bar)
    _report(result)


class _Bar:
    """Shows how far a training is."""

    def __init__(self) -> None:
        self._paper = look.stderr()
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[said]}"),
            console=self._paper,
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task("", total=None, said="")
        self._told_at = 0.0
        self._loss: float | None = None

    def __enter__(self) -> _Bar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def remark(self, sentence: str) -> None:
        self._paper.print(f"[dim]{escape(sentence)}[/]", soft_wrap=True)

    def preparing(self, what: str, done: int, total: int | None) -> None:
        said = f"{done:,} of {total:,}" if total else ""
        self._bar.update(self._task, description=what, completed=done, total=total, said=said)
        self._plainly(f"{what} {said}")

    def step(self, step: int, steps: int, losses: Mapping[str, float], share: float, elapsed_s: float) -> None:
        loss = losses["loss"]
        self._loss = loss if self._loss is None else 0.9 * self._loss + 0.1 * loss
        left_s = elapsed_s * (1 - share) / share if share else 0.0
        rate = f"{elapsed_s / step:.2f} s/step · {look.seconds(left_s)} left"
        said = f"step {step:,}/{steps:,} · loss {self._loss:.4f} · {rate}"
        self._bar.update(self._task, description="training", completed=share, total=1.0, said=said)
        self._plainly(f"training: {said}")

    def measured(self, step: int, values: Mapping[str, float], *, best: bool) -> None:
        shown = " · ".join(f"{name} {value:.4f}" for name, value in values.items())
        mark = " [green]best[/]" if best else ""
        self._paper.print(f"step {step:,}: nDCG@10 {escape(shown)}{mark}", soft_wrap=True)

    def _plainly(self, sentence: str) -> None:
        now = time.monotonic()
        if self._bar.disable and now - self._told_at >= _PLAIN_EVERY_S:
            self._told_at = now
            self._paper.print(escape(sentence), soft_wrap=True)


def _report(result: Result) -> None:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("nDCG@10", max_width=28, overflow="ellipsis", no_wrap=True)
    table.add_column("score", no_wrap=True)
    for title in ("queries", "as given", "before", "after", "gain", "▲ / ▼", "p"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, (given, voices) in result.results.items():
        voice, each = next(iter(voices.items()))  # the one that decides; the card has the others
        table.add_row(
            name,
            voice,
            f"{each.queries:,}",
            f"{given:.4f}",
            f"{each.before:.4f}",
            f"{each.after:.4f}",
            f"{each.after - each.before:+.4f}",
            f"{each.better} / {each.worse}",
            f"{each.p:.4f}",
        )
    paper = look.stdout()
    paper.print(table)
    kept = f"step {result.kept_step:,} of {result.steps:,} kept; " if result.steps else ""
    paper.print(f"{result.folder}: {kept}README.md says the rest", soft_wrap=True)
