"""The progress of a job on standard error: a bar where a person looks on, else failures as they come."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.markup import escape
from rich.progress import BarColumn, SpinnerColumn, TextColumn
from rich.progress import Progress as Bar

from podium_server.cli.display import console as look
from podium_server.jobs.lists import Source
from podium_server.jobs.ranking import Answer, Failed
from podium_server.jobs.tally import SHOWN, Tally

# A person sees no more, and thirty thousand lists a second are too many to tell of each.
_TELL_EVERY_S = 0.1


class Progress:
    """Shows how far a job is: lists a second, what was spent, the time that is left."""

    def __init__(self, source: Source, tally: Tally) -> None:
        self._source = source
        self._tally = tally
        self._paper = look.stderr()
        self._looked_at = sys.stderr.isatty()
        self._bar = Bar(
            SpinnerColumn(),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[done]}"),
            console=self._paper,
            transient=True,
            disable=not self._looked_at,
        )
        self._task = self._bar.add_task("", total=None, done="")
        self._failures = 0
        self._tell_at = 0.0
        self._share_before = 0.0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()
        if self._failures > SHOWN:
            self._paper.print(f"… and {self._failures - SHOWN:,} more")

    def begin(self) -> None:
        """Remember what was done before: the time that is left is told by this run's pace."""
        self._share_before = self._source.share_read

    def show(self, answer: Answer) -> None:
        """Tell of one more answer."""
        if isinstance(answer, Failed):
            self._failures += 1
            if self._failures <= SHOWN:
                self._paper.print(f"[red]{escape(self._name(answer))}[/] {escape(answer.message)}", soft_wrap=True)
        if not self._looked_at or (now := time.monotonic()) < self._tell_at:
            return
        self._tell_at = now + _TELL_EVERY_S
        tally = self._tally
        total = tally.ledger.total() + tally.lost.total()
        spent = "" if total.cost_nano_usd == 0 else f" · {look.money(total.cost_nano_usd)}"
        # Of what was read, this much is done; of the file, this much was read.
        share = self._source.share_read * tally.answered / max(1, self._source.lists_read)
        done = (
            f"{tally.answered:,} lists · {tally.lists_per_s:,.1f}/s · {look.short(total.tokens)} tokens{spent}"
            f"{self._left(share)}"
        )
        self._bar.update(self._task, total=1.0 if share else None, completed=share, done=done)

    def _left(self, share: float) -> str:
        """Return the time that is left, if the rest goes as this run did so far."""
        gained = share - self._share_before
        if gained <= 0:
            return ""
        return f" · {look.seconds((1 - share) / gained * self._tally.elapsed_now_s)} left"

    def _name(self, failure: Failed) -> str:
        qid = "" if failure.qid is None else f", qid {failure.qid}"
        return f"line {failure.line}{qid}: {failure.reason}:"
