"""Inputs of the jobs of this package that are no lists of candidates, read as lists all the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from podium_server.jobs.lists import BadLine, Line, Parse, list_of

Shape = Callable[[Mapping[str, Any], int], Mapping[str, Any]]
"""From a row and the number of its line to a row of a list."""


def shaped(shape: Shape, name: str) -> Parse:
    """Return what reads a line of another form; in messages the candidates are called `name`."""

    def parse(raw: bytes, number: int, seal: int) -> Line:
        try:
            row = json.loads(raw)
        except (ValueError, RecursionError) as error:
            return BadLine(number, f"is no JSON: {error}", None, seal)
        if not isinstance(row, Mapping):
            return BadLine(number, "is no JSON object", None, seal)
        line = list_of(shape(row, number), number, seal)
        return line._replace(message=line.message.replace("candidates", name)) if isinstance(line, BadLine) else line

    return parse
