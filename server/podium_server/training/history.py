"""What a training wrote down as it went: losses of each step, and what was measured."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

Values: TypeAlias = dict[str, dict[str, dict[str, float]]]
"""Set → voice → query → nDCG@10."""


@dataclass(slots=True)
class History:
    """The log, read.

    Args:
        lines: of it: `step` with `losses` and `lr`, or with `measured`.
        before: what the start was measured to be.

    """

    lines: list[dict[str, Any]] = field(default_factory=list)
    before: Values = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path, *, until: int) -> History:
        """Read what was logged up to a step; what a killed run logged beyond it is done again."""
        lines = []
        for raw in file.read_text("utf-8").splitlines() if file.is_file() else ():
            try:
                line = json.loads(raw)
            except ValueError:
                break  # the line at which it was killed
            if line.get("step", 0) <= until:
                lines.append(line)
        return cls(lines)

    def write(self, file: Path) -> None:
        """Replace the log: whoever is killed in the middle finds the one before, which a resumed run needs."""
        part = file.with_name(f"{file.name}.part")
        with part.open("w", encoding="utf-8") as stream:
            stream.writelines(json.dumps(line) + "\n" for line in self.lines)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(file)

    def measured(self) -> dict[str, list[tuple[float, float]]]:
        """Return of each set (step, nDCG@10)."""
        points: dict[str, list[tuple[float, float]]] = {}
        for line in self.lines:
            for name, value in line.get("measured", {}).items():
                points.setdefault(name, []).append((line["step"], value))
        return points

    def losses(self) -> list[tuple[float, float]]:
        """Return (step, loss)."""
        return [(line["step"], line["losses"]["loss"]) for line in self.lines if "losses" in line]
