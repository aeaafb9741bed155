"""Documents from files: what cannot be read is told, and the rest goes on."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from podium_server.cli.documents.files import Corpus


@pytest.mark.parametrize("end", [b"", b"\xff" * 20])  # cut off, and a kind of block that there is not
def test_a_damaged_file_is_told_and_the_next_is_read(tmp_path: Path, end: bytes) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"id": "a", "text": "cats"}\n' * 9)[:10] + end)
    (tmp_path / "b.jsonl").write_text('{"id": "b", "text": "dogs"}\n')
    corpus = Corpus((tmp_path,))
    assert [document.id for document in corpus.documents()] == ["b"]
    assert ["cannot be read on" in told for told in corpus.skipped] == [True]
