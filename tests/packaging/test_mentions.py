"""That docstrings, comments and documents name only what is there: modules, what they hold, and files."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "podium_server": ROOT / "server" / "podium_server",
    "podium_strategies": ROOT / "strategies" / "podium_strategies",
    "podium_client": ROOT / "clients" / "python" / "podium_client",
    "podium_evals": ROOT / "evals" / "podium_evals",
}
DOTTED = re.compile(r"`([a-z_]\w*(?:\.\w+)+)(?:\(\))?`|\b(podium_(?:server|strategies|client|evals)(?:\.\w+)+)")
FILE = re.compile(r"(?<![\w./*-])((?:[\w-]+/)*[\w-]+\.py)\b")
# Sections and files of a user's are written as modules are.
SECTIONS = frozenset({"access", "limits", "rest", "telemetry"})
ENDINGS = frozenset({"json", "jsonl", "md", "py", "sqlite", "toml", "trec"})


@cache
def tracked() -> frozenset[str]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("no git checkout")
    return frozenset(path for path in listed.stdout.splitlines() if (ROOT / path).is_file())


def prose(path: Path) -> Iterator[str]:
    """Yield what is meant for people: a document, or a module's docstrings and comments."""
    text = path.read_text("utf-8")
    if path.suffix == ".md":
        yield text
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT or (
            token.type == tokenize.STRING and token.string.lstrip("r").startswith('"""')
        ):
            yield token.string


@cache
def names(path: Path) -> frozenset[str]:
    """Return every name that a module binds anywhere; whose it is does not matter here."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()) | ast.arg(arg=name):
                found.add(name)
            case ast.alias(name=name, asname=asname):
                found.add((asname or name).partition(".")[0])
    return frozenset(found)


def is_there(folder: Path, parts: list[str]) -> bool:
    """Return whether a dotted name leads from a folder to a module, or to what one binds."""
    for place, part in enumerate(parts):
        if (folder / part).is_dir():
            folder /= part
            continue
        module = folder / f"{part}.py"
        rest = parts[place + 1 :]
        if not module.is_file():
            module, rest = folder / "__init__.py", parts[place:]
        return module.is_file() and (not rest or rest[0] in names(module))
    return True


def unknown(path: Path, text: str) -> Iterator[str]:
    for match in DOTTED.finditer(text):
        parts = (match[1] or match[2]).split(".")
        if parts[-1] in ENDINGS or parts[-1].startswith("__"):
            continue
        if parts[0] in PACKAGES:
            known = is_there(PACKAGES[parts[0]], parts[1:])
        else:
            # As people shorten it: from the package, or from where the module stands. Other words are no module's.
            froms = [*PACKAGES.values(), *(each for each in path.parents if ROOT in each.parents)]
            rooms = [each for each in froms if (each / parts[0]).is_dir() or (each / f"{parts[0]}.py").is_file()]
            known = parts[0] in SECTIONS or not rooms or any(is_there(each, parts) for each in rooms)
        if not known:
            yield ".".join(parts)
    for match in FILE.finditer(text):
        if match[1] not in tracked() and not any(each.endswith(f"/{match[1]}") for each in tracked()):
            yield match[1]


def test_what_is_named_is_there() -> None:
    wrong = [
        f"{path}: {name}"
        for path in sorted(tracked())
        if path.endswith((".py", ".md")) and not path.startswith("bench/results/") and path != "CHANGELOG.md"
        for text in prose(ROOT / path)
        for name in unknown(ROOT / path, text)
    ]
    assert not wrong


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("see podium_server.recall.store.rows", []),
        ("see `recall.store.rows.Delta` and `podium_strategies.plan.Order.candidates`", []),
        ("see `recall.stores.rows`", ["recall.stores.rows"]),
        ("see podium_server.recall.store.rows.Epsilon", ["podium_server.recall.store.rows.Epsilon"]),
        ("`limits.documents`, `document.text`, server/podium_server/recall/engine.py, engine.py", []),
        ("bench/motor.py", ["bench/motor.py"]),
    ],
)
def test_a_name_of_nothing_is_found(text: str, found: list[str]) -> None:
    assert list(unknown(ROOT / "README.md", text)) == found
