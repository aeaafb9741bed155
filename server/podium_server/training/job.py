"""A training as it is asked for: the order, who is told, and what comes of it. torch stands behind `distil` alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from podium_server.errors import FailedPrecondition
from podium_server.training.measures import Comparison
from podium_server.training.recipe import Fusing
from podium_server.training.recipe_file import load

_NEEDED = ("torch", "transformers", "safetensors")


class Watcher(Protocol):
    """Who is told of what happens."""

    def remark(self, sentence: str) -> None:
        """Something worth knowing, once."""

    def preparing(self, what: str, done: int, total: int | None) -> None:
        """How far the work before or after the training is."""

    def step(self, step: int, steps: int, losses: Mapping[str, float], share: float, elapsed_s: float) -> None:
        """A step is done."""

    def measured(self, step: int, values: Mapping[str, float], *, best: bool) -> None:
        """The sets were measured: nDCG@10 of each, by the voice that decides."""


@dataclass(frozen=True, slots=True)
class Order:
    """What was asked for.

    Args:
        recipe: the file.
        out: the student's folder.
        data: where relative paths are looked for beside the recipe's own folder.
        cache: of mined negatives; None for the user's.
        resume: go on from the last checkpoint.
        steps: in place of the recipe's, to try it.
        command: as it was typed, for the card.

    """

    recipe: Path
    out: Path
    data: Path | None = None
    cache: Path | None = None
    resume: bool = False
    steps: int | None = None
    command: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it: set → (as given, voice → comparison), and where the student lies."""

    folder: Path
    results: Mapping[str, tuple[float, Mapping[str, Comparison]]]
    kept_step: int
    steps: int
    remarks: tuple[str, ...]


def distil(order: Order, watcher: Watcher) -> Result:
    """Train a student.

    Raises:
        ConfigInvalid: of the recipe, the data or the start, with what to change.
        FailedPrecondition: the extra is missing.
        PodiumError: the loss is no number.

    """
    recipe = load(order.recipe, steps=order.steps)
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise FailedPrecondition(
            f"podium distil needs the extra train: pip install 'podium[train]' ({', '.join(missing)} not installed)"
        )
    if isinstance(recipe, Fusing):
        from podium_server.training.torch_fusion import fuse

        return fuse(order, recipe, watcher)
    from podium_server.training.torch_job import Job

    return Job(order, recipe, watcher).run()
