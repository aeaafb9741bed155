"""What broke a law: the smallest input that still does, in a file of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TRIES_MAX = 300
FINDINGS_MAX = 40
"""Kept. More are counted: the first ones say enough."""

Breaks = Callable[[bytes], Awaitable[bool]]
"""Tells whether an input still breaks the law."""


@dataclass
class Findings:
    """What was found, one of a kind.

    Args:
        folder: of the files; None keeps none.

    """

    folder: Path | None = None
    kept: list[dict[str, Any]] = field(default_factory=list)
    count: int = 0
    _known: set[str] = field(default_factory=set)

    async def add(
        self, kind: str, seed: int, number: int, target: str, wrong: str, data: bytes, breaks: Breaks | None = None
    ) -> None:
        """Keep a finding; what is like one that is kept is only counted.

        Args:
            kind: of the input.
            seed: of the run.
            number: of the input; with the other two it can be made again.
            target: method, or path.
            wrong: which law it broke.
            data: the input.
            breaks: tells whether another input does, too; None: it cannot be told.

        """
        self.count += 1
        alike = re.sub(r"\d+|'[^']*'|\"[^\"]*\"", "#", f"{kind} {target} {wrong}")[:160]
        if alike in self._known or len(self.kept) >= FINDINGS_MAX:
            return
        self._known.add(alike)
        alone = breaks is not None and await breaks(data)
        smallest = await shrunk(data, breaks) if breaks is not None and alone else data
        made = {"kind": kind, "seed": seed, "number": number, "target": target, "wrong": wrong}
        made |= {"alone": alone, "bytes": len(smallest), "input": smallest[:400].decode("latin-1")}
        self.kept.append(made)
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            stem = f"{kind}-{seed}-{number}"
            (self.folder / f"{stem}.bin").write_bytes(smallest)
            (self.folder / f"{stem}.json").write_text(json.dumps(made, indent=1) + "\n", "utf-8")


async def shrunk(data: bytes, breaks: Breaks) -> bytes:
    """Return the smallest input that greed finds: pieces are left out, large ones first, while the law stays broken."""
    tries, size = 0, max(1, len(data) // 2)
    while size and tries < TRIES_MAX:
        at = 0
        while at < len(data) and tries < TRIES_MAX:
            shorter = data[:at] + data[at + size :]
            tries += 1
            if shorter != data and await breaks(shorter):
                data = shorter
            else:
                at += size
        size //= 2
    return data
