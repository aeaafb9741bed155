"""Writes training examples: JSON lines always, Parquet where pyarrow is there, TREC as text.

An export is quick and asks nobody, so it is not gone on with: a file under its own name is a whole one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from podium_server.errors import InvalidRequest
from podium_server.jobs.outputs import Outputs
from podium_server.labels import examples
from podium_server.labels.conversations import Style, Windows, conversations
from podium_server.labels.examples import GRADE_RANKS, Selection, Skipped, Valuation
from podium_server.labels.format import Label, Unlabelled, read_lines, written
from podium_strategies.prompts.prompt import Prompt

Target: TypeAlias = Literal["listwise", "pointwise", "triplets", "pairs", "conversations", "qrels"]
TARGETS: tuple[Target, ...] = ("listwise", "pointwise", "triplets", "pairs", "conversations", "qrels")

OUT = "out"


@dataclass(frozen=True, slots=True)
class Recipe:
    """What labels are turned into, and how.

    Args:
        target: `listwise`, `pointwise` and `triplets` are tables for sentence-transformers, `pairs` triplets of the
            pairs that the teacher judged, `conversations` for a listwise language model, `qrels` for trec_eval.
        selection: of labels.
        values: of ranks, for the tables.
        positives: of a ranking, for triplets.
        negatives: of each positive, for triplets.
        prompt: of conversations.
        windows: of conversations.
        style: of conversations.
        thresholds: of scores, for qrels; None grades by rank.

    """

    target: Target
    selection: Selection = field(default_factory=Selection)
    values: Valuation = field(default_factory=Valuation)
    positives: int = 1
    negatives: int = 8
    prompt: Prompt | None = None
    windows: Windows = field(default_factory=Windows)
    style: Style = "messages"
    thresholds: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise ValueError(f"target is {self.target!r}: one of {', '.join(TARGETS)}")
        if self.target == "conversations" and self.prompt is None:
            raise ValueError("conversations need a prompt")

    def lines(self, labels: Iterable[Label], skipped: Skipped) -> Iterator[str]:
        """Yield the lines of the export."""
        chosen, values = self.selection, self.values
        match self.target:
            case "qrels":
                ranks = values.grade_ranks
                yield from examples.qrels(labels, chosen, skipped, grade_ranks=ranks, thresholds=self.thresholds)
                return
            case "listwise":
                rows = examples.listwise(labels, chosen, values, skipped)
            case "pointwise":
                rows = examples.pointwise(labels, chosen, values, skipped)
            case "triplets":
                rows = examples.triplets(
                    labels, chosen, values, skipped, positives=self.positives, negatives=self.negatives
                )
            case "pairs":
                rows = examples.verdict_triplets(labels, chosen, skipped)
            case _:
                assert self.prompt is not None
                rows = conversations(labels, chosen, self.prompt, self.windows, skipped, style=self.style)
        for row in rows:
            yield written(row)


@dataclass(slots=True)
class Exported:
    """What an export wrote.

    Args:
        labels: read.
        examples: written.
        skipped: what was left out.

    """

    labels: int = 0
    examples: int = 0
    skipped: Skipped = field(default_factory=Skipped)


def export(source: str | Path, out: str, recipe: Recipe) -> Exported:
    """Turn a label file into examples, one label at a time.

    Args:
        source: of labels.
        out: `.jsonl`, `.jsonl.gz` or `.parquet` (not for qrels); `-` is standard output.
        recipe: of the examples.

    Raises:
        InvalidRequest: a line is no label; qrels as Parquet.
        FailedPrecondition: the labels have no texts; Parquet without pyarrow.
        OSError: a file cannot be read or written.

    """
    if recipe.target == "qrels" and out.endswith(".parquet"):
        raise InvalidRequest("out", "is Parquet, and qrels are lines of text")
    done = Exported()
    with Outputs({OUT: out}, {"command": "export-labels"}, dict, restart=True) as outputs:
        for line in recipe.lines(_labels(source, done), done.skipped):
            outputs.write(OUT, line)
            outputs.done()
            done.examples += 1
    return done


def _labels(source: str | Path, done: Exported) -> Iterator[Label]:
    for line in read_lines(source):
        done.labels += 1
        if isinstance(line, Unlabelled):
            done.skipped.add("lists that the teacher could not label")
        else:
            yield line


__all__ = ["GRADE_RANKS", "TARGETS", "Exported", "Recipe", "Target", "export"]
