"""Real prompts and real replies of real rankers."""

from collections import Counter
from functools import cache

import pytest

from podium_server.judges.chat.documents import mended
from podium_strategies.prompts import load
from podium_strategies.prompts.prompt import MALFORMED, Sheet, UnreadableReply
from tests.data import rows
from tests.prompts.recorded import RECORDINGS, flatten_vicuna


@cache
def texts() -> dict[str, str]:
    return {
        candidate["docid"]: candidate["text"]
        for row in rows("eval/dl19_bm25_top100.jsonl.gz")
        for candidate in row["candidates"]
    }


@pytest.mark.parametrize("recording", RECORDINGS)
def test_recorded_prompts_are_reproduced_byte_for_byte(recording: str) -> None:
    prompt = load(RECORDINGS[recording][0])
    compared = 0
    for row in rows(f"recordings/{recording}_dl19_bm25.jsonl.gz"):
        if "prompt" not in row:
            continue
        documents = []
        for docid in row["docids"]:
            text, _ = prompt.prepare(texts()[docid], len(row["docids"]))
            documents.append(mended(text) if prompt.clean == "ftfy" else text)
        flat = flatten_vicuna(prompt.render(Sheet(row["query"], tuple(documents))))
        # One of the three recorders put the name of the next speaker behind.
        assert row["prompt"] in (flat, flat + "ASSISTANT:")
        compared += 1
    assert compared >= 2


@pytest.mark.parametrize("recording", RECORDINGS)
def test_recorded_replies_are_read_and_counted(recording: str) -> None:
    name, malformed, _ = RECORDINGS[recording]
    prompt = load(name)
    counts: Counter[str] = Counter()
    for row in rows(f"recordings/{recording}_dl19_bm25.jsonl.gz"):
        try:
            counts[prompt.read(row["reply"], Sheet("", ("",) * len(row["docids"]))).repair.value] += 1
        except UnreadableReply:
            counts["unreadable"] += 1
    assert sum(counts.values()) == 387
    assert sum(counts[repair.value] for repair in MALFORMED) == malformed
