"""What every script here does: the same questions by one client, and a line of JSON that tells what came of each.

Only the standard library is imported: this runs in the environment of whichever client is tried.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

Ranked = Iterable[tuple[int, float]]


@dataclass(frozen=True)
class Task:
    """What is asked.

    Args:
        url: of the server; the client adds what it adds.
        key: that is good.
        query: to rank for.
        documents: to rank.
        model: a name that the server knows.
        top_n: fewer than there are documents.
        variant: which of several ways of one client is tried.

    """

    url: str
    key: str
    query: str
    documents: list[str]
    model: str
    top_n: int
    variant: str = ""


Rank = Callable[[Task], Any]
"""Ranks all documents of a task, or the best `top_n`: pairs of a place and a score, the best first."""


def main(package: str, rank: Rank, *, top: Rank | None = None) -> None:
    """Ask everything, and print what came of it."""
    task = Task(**json.loads(sys.stdin.read()))
    wrong = {**vars(task)}
    told = {
        "package": package,
        "version": version(package),
        "rank": _tried(rank, task),
        "again": _tried(rank, task),
        "top": _tried(top or rank, task),
        "bad_key": _tried(rank, Task(**{**wrong, "key": "podium-is-not-a-key"})),
        "unknown_model": _tried(rank, Task(**{**wrong, "model": "no-such-model"})),
        "no_documents": _tried(rank, Task(**{**wrong, "documents": []})),
        "hostile": _tried(rank, Task(**{**wrong, "documents": ["", 'a "quoted" \\ text\u0000', "𝔘nicode 日本語 🛰"]})),
    }
    print("RESULT " + json.dumps(told), flush=True)


def _tried(rank: Rank, task: Task) -> dict[str, Any]:
    try:
        result = rank(task)
        if inspect.isawaitable(result):
            result = asyncio.run(_awaited(result))
        return {"ranked": [(int(place), float(score)) for place, score in result]}
    except Exception as error:  # noqa: BLE001  # whatever a client raises is what is asked for
        kind = type(error)
        return {
            "error": f"{kind.__module__.split('.')[0]}.{kind.__qualname__}"
            if kind.__module__ != "builtins"
            else kind.__name__,
            "message": " ".join(str(error).split())[:300],
        }


async def _awaited(result: Any) -> Any:
    return await result


def places(task: Task, texts: Iterable[str]) -> list[int]:
    """Return the places of texts that a client gives back as texts."""
    return [task.documents.index(text) for text in texts]
