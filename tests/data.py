"""Where the shared data lies, for tests that read real text. None of it is part of the repository."""

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


def data_dir() -> Path:
    """Return the folder of the data, or skip the test that asked."""
    path = Path(os.environ.get("PODIUM_DATA") or REPOSITORY.parent / "shared" / "data")
    if not path.is_dir():
        pytest.skip(f"no data at {path}; PODIUM_DATA names the folder")
    return path


def rows(name: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a `.jsonl.gz` file of the data."""
    with gzip.open(data_dir() / name, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)
