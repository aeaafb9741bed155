"""The log of a training: what was written is read again; whoever is killed while it is replaced finds the old one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from podium_server.training.history import History

LINES = [
    {"step": 0, "measured": {"dev": 0.5}},
    {"step": 1, "losses": {"loss": 2.0}},
    {"step": 2, "losses": {"loss": 1}},
]


def test_what_was_written_is_read_again_up_to_the_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "training.jsonl"
    History(LINES).write(file)
    assert History.read(file, until=2).lines == LINES
    assert History.read(file, until=1).lines == LINES[:2]


def test_a_run_that_is_killed_while_it_replaces_the_log_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "training.jsonl"
    History(LINES).write(file)

    def killed(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        History(LINES[:1]).write(file)
    assert History.read(file, until=2).lines == LINES
