"""A labelling job that is killed at any moment ends with the bytes of one that nobody disturbed."""

from __future__ import annotations

from pathlib import Path

import pytest

from podium_evals.replay import DATA

pytestmark = [
    pytest.mark.skipif(not (DATA / "recordings").is_dir(), reason="needs ../shared/data"),
    pytest.mark.timeout(300),
]


def test_killed_three_times_and_the_same_to_the_byte(tmp_path: Path) -> None:
    from tests.labels import killed

    outcome = killed.run(tmp_path, limit=5, kills=3, latency_s=0.1, concurrency=2)

    assert outcome.queries == 5
    assert outcome.calls == 45
    assert len(outcome.killed_after_calls) == 3
    assert outcome.identical
    # What was under way at a kill, or answered and not yet on the disk (0.2 s of two calls of 0.1 s each, and what a
    # slow disk adds), is asked again; nothing else is.
    assert 0 <= outcome.paid_twice <= 3 * 2 * 4
    left = {one.name for one in (tmp_path / "killed").iterdir()}
    assert left == {"podium.toml", "labels.jsonl", "labels.ledger.jsonl", "labels.summary.json"}
