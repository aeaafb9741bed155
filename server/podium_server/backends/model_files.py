"""What a model's files hold, as a hash: other weights under the same name are another model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

_DECIDE = frozenset({".json", ".safetensors", ".bin", ".xml", ".onnx", ".onnx_data", ".txt", ".toml", ".model"})
# Beside a student: checkpoints and logs of its training.
_ANOTHER_MATTER = frozenset({"training"})


def content_of(model: str) -> str:
    """Return a hash of the files that decide what a model answers; empty where they are not on this machine.

    Args:
        model: a shipped name or a folder; a hub's name is on another machine as long as nobody has fetched it.

    Raises:
        OSError: a file cannot be read.

    """
    shipped = Path(str(files("podium_server.models"))) / model
    folder = shipped if shipped.is_dir() else Path(model)
    if not folder.is_dir():
        return ""
    said = hashlib.sha256()
    for file in sorted(_deciding(folder)):
        said.update(f"\0{file.relative_to(folder)}\0".encode())
        with file.open("rb") as opened:
            said.update(hashlib.file_digest(opened, "sha256").digest())
    return said.hexdigest()[:16]


def _deciding(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder, and those of the modules and exports that lie in folders of their own in it."""
    for file in (*folder.glob("*"), *folder.glob("*/*")):
        if file.suffix in _DECIDE and file.is_file() and file.relative_to(folder).parts[0] not in _ANOTHER_MATTER:
            yield file
