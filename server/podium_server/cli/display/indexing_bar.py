"""The progress bar of documents that go into a collection."""

from __future__ import annotations

import sys

from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from podium_server.cli.display import console as look


class _DocumentRate(ProgressColumn):
    """Documents a second, over the whole of the way."""

    def render(self, task: Task) -> Text:
        elapsed_s = task.finished_time if task.finished else task.elapsed
        documents = task.fields["documents"]
        return Text(f"{documents / elapsed_s:,.0f}/s" if elapsed_s and documents else "", style="green")


def indexing_bar() -> Progress:
    """Return a bar whose tasks have a field `documents`; quiet where nobody looks on."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=32),
        TextColumn("{task.fields[documents]:,} documents"),
        _DocumentRate(),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        console=look.stderr(),
        disable=not sys.stderr.isatty(),
    )
