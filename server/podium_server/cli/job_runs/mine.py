"""The job behind `podium mine`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from podium_server.cli.job_runs import job_collection
from podium_server.cli.job_runs.workshop import Workshop, configured, files_of, run, teacher_identity, tell
from podium_server.compose import Podium
from podium_server.jobs import lists
from podium_server.labels.made import MadeResults
from podium_server.labels.mining import Miner, MiningSettings, positives_of
from podium_server.labels.shapes import shaped
from podium_server.labels.teacher import podium_version
from podium_server.ranking.request import RankRequest


@dataclass(slots=True)
class MineJob:
    """One run of the command.

    Args:
        workshop: what it works with.
        source: of the queries.
        settings: of the mining; the collection's name is known when it is ready.
        given: the command's options.

    """

    workshop: Workshop
    source: lists.Source
    settings: MiningSettings
    given: Mapping[str, Any]

    @classmethod
    def prepared(cls, given: Mapping[str, Any]) -> MineJob:
        """Open the input and read the configuration."""
        files = files_of(given, given["source"])
        source = lists.opened(given["source"], limit=given["limit"], parse=shaped(positives_of, "positives"))
        config = configured(given["config_path"], given["concurrency"])
        data_dir = None if given["corpus"] else (given["data_dir"] or config.server.data_dir)
        pipeline = None if given["unchecked"] else (given["pipeline"] or config.server.default_pipeline)
        first, last = ranks(given["ranks"])
        if last > config.limits.recall_depth:
            raise click.UsageError(f"--ranks up to {last}, and limits.recall_depth is {config.limits.recall_depth}")
        settings = MiningSettings(
            collection=given["collection"] or job_collection.OWN,
            first=first,
            last=last,
            negatives=given["negatives"],
            pipeline=pipeline,
            margin=given["margin"],
            weights=job_collection.weights(given["retrievers"]),
        )
        return cls(Workshop(config, data_dir, files, collections=True), source, settings, given)

    @property
    def identity(self) -> Mapping[str, Any]:
        """What the lists depend on, beside the queries and what the collection holds."""
        settings = self.settings
        return {
            "command": "mine",
            **teacher_identity(self.workshop.config, settings.pipeline),
            "collection": self.given["collection"],
            "corpus": [str(path) for path in self.given["corpus"]],
            "ranks": [settings.first, settings.last],
            "negatives": settings.negatives,
            "retrievers": self.given["retrievers"],
            "margin": settings.margin,
            "podium": podium_version(),
        }

    async def run(self) -> int:
        """Mine for every query, and tell of it; return the exit code."""
        workshop, settings = self.workshop, self.settings
        async with workshop.opened() as podium:
            miner = await self._miner(podium)
            code, results = await run(
                self.given,
                workshop.files,
                self.identity,
                self.source,
                miner,
                MadeResults,
                workshop,
                noun="list",
                did="mined",
            )
        tell(told_of(results.counts, checked=settings.pipeline is not None))
        return code

    async def _miner(self, podium: Podium) -> Miner:
        if self.settings.pipeline is not None:
            podium.reranker.pipeline(RankRequest("", (), pipeline=self.settings.pipeline))  # a typo is told once
        await job_collection.ready(podium, self.given["collection"], self.given["corpus"])
        return Miner(job_collection.store_of(podium), podium.reranker, self.settings, self.workshop.config.limits)


def ranks(text: str) -> tuple[int, int]:
    """Return the two ends of `10:60`.

    Raises:
        click.UsageError: it is something else.

    """
    first, colon, last = text.partition(":")
    if not (colon and first.isdigit() and last.isdigit() and 1 <= int(first) <= int(last)):
        raise click.UsageError(f"--ranks is {text!r}: two ranks from 1 on, like 10:60")
    return int(first), int(last)


def told_of(counts: Mapping[str, float], *, checked: bool) -> Sequence[str]:
    """Return what the summary tells of mining."""
    number = {name: int(value) for name, value in counts.items()}
    recalled, known = number.get("recalled", 0), number.get("known as positive", 0)
    told = [
        f"{number.get('negatives', 0):,} negatives for {number.get('positives', 0):,} positives; of {recalled:,} "
        f"recalled, {known:,} were known as positive"
        + (f" and {number.get('dropped as false negatives', 0):,} dropped as false negatives" if checked else "")
    ]
    remarks = ("positives that are not in the collection", "queries without a negative")
    return told + [f"{name}: {number[name]:,}" for name in remarks if number.get(name)]
