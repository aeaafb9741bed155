"""The job behind `podium rerank`: what its orders depend on, and who ranks."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from podium_server.cli.display import console as look
from podium_server.cli.job_runs.identity import models_of, prompts_of, stages_of
from podium_server.cli.job_runs.job_run import Files, JobRun
from podium_server.jobs import lists
from podium_server.jobs.budget import JobBudget
from podium_server.jobs.ranking import Ranker
from podium_server.jobs.results import Results
from podium_server.labels.teacher import podium_version
from podium_server.ranking.request import Budget

if TYPE_CHECKING:
    from podium_server.config import Config

DEFAULT_PIPELINE = "default"


@dataclass(frozen=True, slots=True)
class RayCluster:
    """Where a job runs on Ray.

    Args:
        address: of the cluster; None is one of this machine's own.
        workers: their number; None is one for each machine.
        worker_gpus: of each.

    """

    address: str | None
    workers: int | None
    worker_gpus: float


@dataclass(slots=True)
class RerankJob:
    """One run of the command. `prepare` finds mistakes that need no model; `run` is called once.

    Args: as the command's options.

    """

    files: Files
    pipeline: str | None
    config_path: Path | None
    servers: tuple[str, ...]
    ray: RayCluster | None
    data_dir: Path | None
    limit: int | None
    concurrency: int
    budget: Budget
    job_budget: JobBudget
    strict: bool
    patience: int
    restart: bool
    config: Config | None = field(init=False, default=None)
    source: lists.Source = field(init=False)

    def prepare(self) -> None:
        """Open the input and read the configuration."""
        self.source = lists.opened(self.files.source, limit=self.limit)
        if not self.servers:
            from podium_server.cli.job_runs.workshop import configured

            self.config = configured(self.config_path, self.concurrency)

    async def run(self) -> int:
        """Rank everything, and tell of it; return the exit code."""
        async with self._ranker() as ranker:
            # Not before it is sure that there is somebody to ask: a typo leaves no empty file behind.
            run = JobRun(
                files=self.files,
                identity=self.identity,
                source=self.source,
                ranker=ranker,
                results=lambda outputs, tally: Results(outputs, tally, tag=f"podium-{self.name}"),
                concurrency=self.concurrency,
                strict=self.strict,
                patience=self.patience,
                job_budget=self.job_budget,
                restart=self.restart,
            )
            code = await run.to_its_end()
        if run.outputs.whole and self._memory is not None:
            shutil.rmtree(self._memory, ignore_errors=True)
        return code

    @property
    def name(self) -> str:
        """Of the pipeline."""
        return self.pipeline or (self.config.server.default_pipeline if self.config else DEFAULT_PIPELINE)

    @property
    def identity(self) -> Mapping[str, Any]:
        """What the orders depend on, beside the input."""
        bounds = {
            name: value
            for name in ("max_cost_nano_usd", "max_calls", "max_tokens")
            if (value := getattr(self.budget, name)) is not None
        }
        told = {"command": "rerank", "pipeline": self.name, "budget of each list": bounds}
        if self.config is None:
            return {**told, "ranked by": "servers"}
        stages = stages_of(self.config, self.name)
        return {
            **told,
            "ranked by": "this process",
            "its stages": stages,
            "its prompts": prompts_of(stages),
            "its models": models_of(self.config, self.name),
            "podium": podium_version(),
        }

    @property
    def _memory(self) -> Path | None:
        """Where verdicts are kept while nobody says where."""
        return Path(self.files.verdicts) if self.data_dir is None and self.files.verdicts else None

    def _verdicts_on_workers(self, config: Config) -> Path | None:
        return (self.data_dir or self._memory) if config.server.verdict_cache else None

    # --- who ranks ----------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _ranker(self) -> AsyncIterator[Ranker]:
        if self.config is None:
            from podium_server.cli.reaching.ranking_servers import ranking_servers

            async with ranking_servers(self.servers, self.pipeline, self.budget, self.concurrency) as servers:
                yield servers
        elif self.ray is not None:
            from podium_server.jobs.ray_engine import RayRanker

            async with RayRanker(
                self.config,
                self.name,
                self.budget,
                address=self.ray.address,
                workers=self.ray.workers,
                worker_gpus=self.ray.worker_gpus,
                memory=self._verdicts_on_workers(self.config),
            ) as workers:
                yield workers
                if workers.resent:
                    look.stderr().print(f"{look.plural(workers.resent, 'list')} were sent again, as a worker died")
        else:
            async with self._here(self.config) as here:
                yield here

    @contextlib.asynccontextmanager
    async def _here(self, config: Config) -> AsyncIterator[Ranker]:
        from podium_server.cli.job_runs.workshop import Workshop
        from podium_server.jobs.ranking import local_ranker

        # Not started: a model is loaded when the first list needs it, and what no list needs never is.
        async with Workshop(config, self.data_dir, self.files).opened() as podium:
            yield local_ranker(podium.reranker, self.name, self.budget, config.limits)  # a typo is told once
