"""Recorded rankers as systems: their own replies, read by our parser, through our strategy."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from podium_evals.replay import Recording, serve
from podium_evals.results import RECORDED, System
from podium_evals.runner import Here, Tell, run_pipeline
from podium_evals.suite import Suite
from podium_server import config


@dataclass(frozen=True, slots=True)
class Recorded:
    """A ranker whose replies over the lists of DL19 were kept.

    Args:
        name: of the system.
        file: of the recording, without `.jsonl.gz`.
        prompt: that it was asked with.
        ndcg: nDCG@10 as it was published or stored with the recording.

    """

    name: str
    file: str
    prompt: str
    ndcg: float


RECORDINGS = (
    Recorded("rank-vicuna-7b (recorded)", "rank_vicuna_7b_dl19_bm25", "rank-vicuna", 0.6682),
    Recorded("rank-vicuna-7b, early (recorded)", "rank_vicuna_7b_early_dl19_bm25", "rank-vicuna", 0.6665),
    Recorded("vicuna-7b, untrained (recorded)", "vicuna_7b_untrained_dl19_bm25", "rank-gpt-vicuna", 0.5058),
)


async def replayed(suite: Suite, recorded: Recorded, data: Path, lists: Path, tell: Tell) -> System:
    """Run a sliding window of 20 and 10 over a recorded ranker.

    Args:
        suite: of `lists`.
        recorded: who answers.
        data: the folder of `recordings/`.
        lists: that the recording was made on.
        tell: is told after every query.

    """
    recording = Recording.load(data / "recordings" / f"{recorded.file}.jsonl.gz", lists)
    server = serve(recording)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    model = {
        "backend": "openai",
        "base_url": f"http://127.0.0.1:{server.server_address[1]}/v1",
        "model": recorded.file,
    }
    stage = {"strategy": "sliding-window", "model": "judge", "prompt": recorded.prompt, "size": 20, "stride": 10}
    description = f"The replies of {recorded.file}, as they were recorded; it was called once, and times are not known."
    given = {
        "server": {"default_pipeline": recorded.name},
        "models": {"judge": model},
        "pipelines": {recorded.name: {"description": description, "stages": [stage]}},
    }
    try:
        here = Here(config.parse(given, where=recorded.file))
        return await run_pipeline(suite, here, recorded.name, concurrency=4, kind=RECORDED, tell=tell)
    finally:
        server.shutdown()
        server.server_close()
