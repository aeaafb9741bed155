"""The progress of a job on standard error: a bar where a person looks on, else failures as they come."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from rich.markup import escape
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from podium_server.cli import console as look
from podium_server.jobs.lists import Source
from podium_server.jobs.ranking import Answer, Failed
from podium_server.jobs.tally import SHOWN, Tally


class Progress:
    """Shows how far a job is: lists a second, what was spent, the time that is left."""

    def __init__(self, source: Source, tally: Tally) -> None:
        self._source = source
        self._tally = tally
        self._paper = look.stderr()
        self._bar = Bar(
            SpinnerColumn(),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[done]}"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=self._paper,
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task("", total=None, done="")
        self._failures = 0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()
        if self._failures > SHOWN:
            self._paper.print(f"… and {self._failures - SHOWN:,} more")

    def show(self, answer: Answer) -> None:
        """Tell of one more answer."""
        if isinstance(answer, Failed):
            self._failures += 1
            if self._failures <= SHOWN:
                self._paper.print(f"[red]{escape(self._name(answer))}[/] {escape(answer.message)}", soft_wrap=True)
        if self._bar.disable:
            return
        tally = self._tally
        total = tally.ledger.total()
        spent = "" if not total.cost_nano_usd else f" · {look.money(total.cost_nano_usd)}"
        rate = tally.answered / max(tally.elapsed_s, 1e-6)
        done = f"{tally.answered:,} lists · {rate:,.1f}/s · {look.short(total.tokens)} tokens{spent}"
        # Of what was read, this much is done; of the file, this much was read.
        share = self._source.share_read * tally.answered / max(1, self._source.lists_read)
        self._bar.update(self._task, total=1.0 if share else None, completed=share, done=done)

    def _name(self, failure: Failed) -> str:
        qid = "" if failure.qid is None else f", qid {failure.qid}"
        return f"line {failure.line}{qid}: {failure.reason}:"
