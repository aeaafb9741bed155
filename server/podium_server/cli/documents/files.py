"""Documents from files, for `podium index`: JSON lines, or texts, one a file."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from podium_client import Document
from podium_server.jobs.json_lines import BROKEN_OFF

LINES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")
TEXTS = (".txt", ".md", ".rst")

_ID_KEYS = ("id", "docid", "_id")


@dataclass(slots=True)
class Corpus:
    """Files, and what was wrong in them.

    Args:
        paths: files and folders; of a folder, all files that are known by their ending.
        on_bytes: is told how many bytes of the files were read, now and then.

    """

    paths: tuple[Path, ...]
    on_bytes: Callable[[int], object] = lambda size: None
    skipped: list[str] = field(default_factory=list)
    """A sentence for each line or file that holds no document."""

    def files(self) -> list[Path]:
        """Return all files, in order."""
        found: list[Path] = []
        for path in self.paths:
            if path.is_dir():
                found += sorted(inner for inner in path.rglob("*") if inner.is_file() and _known(inner))
            else:
                path.stat()  # a file that is not there is told of now, and not in the middle
                found.append(path)
        return found

    def size_bytes(self) -> int:
        """Return the size of all files."""
        return sum(path.stat().st_size for path in self.files())

    def documents(self) -> Iterator[Document]:
        """Yield every document."""
        for path in self.files():
            if path.name.endswith(LINES):
                yield from self._lines(path)
            else:
                yield from self._text(path)

    def _lines(self, path: Path) -> Iterator[Document]:
        before = 0
        with path.open("rb") as raw:
            stream = gzip.open(raw) if path.name.endswith(".gz") else raw  # noqa: SIM115  # closed with `raw`
            try:
                for number, line in enumerate(cast(BinaryIO, stream), start=1):
                    if not line.strip():
                        continue
                    try:
                        yield _document(json.loads(line))
                    except (ValueError, TypeError) as error:
                        self.skipped.append(f"{path}, line {number}: {error}")
                    at = raw.tell()
                    self.on_bytes(at - before)
                    before = at
            except BROKEN_OFF as error:
                self.skipped.append(f"{path}: cannot be read on: {error}")

    def _text(self, path: Path) -> Iterator[Document]:
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError as error:
            self.skipped.append(f"{path}: is no UTF-8 at byte {error.start}")
            return
        self.on_bytes(path.stat().st_size)
        if text.strip():
            yield Document(id=str(path), text=text, metadata={"path": str(path)})
        else:
            self.skipped.append(f"{path}: is empty")


def _known(path: Path) -> bool:
    return path.name.endswith(LINES + TEXTS)


def _document(row: Any) -> Document:
    """Return the document of a JSON line.

    Raises:
        ValueError: it has no id, or no text, or what is no text at all.

    """
    if not isinstance(row, dict):
        raise ValueError('is no object; {"id", "text"} is needed')
    name = next((row[key] for key in _ID_KEYS if row.get(key) not in (None, "")), None)
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise ValueError(f"has no id (one of {', '.join(_ID_KEYS)})")
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("has a lone surrogate, which is no text") from None
    metadata = row.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        raise ValueError("metadata is no object")
    if isinstance(row.get("fields"), dict):
        return Document(id=str(name), fields={k: str(v) for k, v in row["fields"].items()}, metadata=metadata)
    if not isinstance(row.get("text"), str):
        raise ValueError("has no text")
    if isinstance(row.get("title"), str) and row["title"]:
        return Document(id=str(name), fields={"title": row["title"], "text": row["text"]}, metadata=metadata)
    return Document(id=str(name), text=row["text"], metadata=metadata)
