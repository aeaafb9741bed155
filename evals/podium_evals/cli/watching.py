"""The progress of a session on standard error: a bar where a person looks on, else a line for each system."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from podium_server.cli.display import console as look


class Bars:
    """Shows how far a session is (a `session.Watcher`)."""

    def __init__(self) -> None:
        self._paper = look.stderr()
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=self._paper,
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        self._task = self._progress.add_task("", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.stop()

    def begin(self, suite: str, system: str, queries: int) -> None:
        """Show what begins."""
        self._progress.reset(self._task, description=escape(f"{suite} × {system}"), total=queries)

    def advance(self, done: int, of: int) -> None:
        """Show how many queries are done."""
        self._progress.update(self._task, completed=done, total=of)

    def end(self, suite: str, system: str, seconds: float) -> None:
        """Tell how long it took."""
        self._paper.print(f"{escape(suite)} × {escape(system)}: {look.seconds(seconds)}", soft_wrap=True)

    def say(self, sentence: str) -> None:
        """Print a sentence above the bar."""
        self._paper.print(escape(sentence), soft_wrap=True)
