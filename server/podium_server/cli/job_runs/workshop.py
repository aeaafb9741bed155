"""The jobs behind `podium label`, `mine` and `synthesize`: one way to run them, to go on with them, to tell of them."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from rich.markup import escape

from podium_server.cli.display import console as look
from podium_server.cli.job_runs.identity import models_of, prompts_of, stages_of
from podium_server.cli.job_runs.job_run import Files, JobRun
from podium_server.compose import Podium
from podium_server.config import Config, load
from podium_server.jobs.budget import JobBudget
from podium_server.jobs.lists import Source
from podium_server.jobs.outputs import Outputs
from podium_server.jobs.ranking import Ranker
from podium_server.jobs.sinks import PART
from podium_server.jobs.tally import Tally
from podium_server.labels.made import MadeResults


@dataclass(slots=True)
class Workshop:
    """What a job works with: the configuration's parts, and a store of its own where nobody names one.

    Args:
        config: read.
        data_dir: of the store; None takes a folder beside the output, which goes when the output is whole.
        files: of the job.
        collections: whether the store's collections are needed.

    """

    config: Config
    data_dir: Path | None
    files: Files
    collections: bool = False
    whole: bool = field(init=False, default=False)
    """The output is whole, so that nothing of the job's own is needed any more."""

    def __post_init__(self) -> None:
        if self.collections and self.data_dir is None and self.own_dir is None:
            raise click.UsageError("the documents go into a store beside --out, and there is no place beside a pipe")

    @property
    def own_dir(self) -> Path | None:
        """The folder that is the job's alone; None where a store is named, or there is no place for one."""
        return Path(self.files.verdicts) if self.data_dir is None and self.files.verdicts else None

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[Podium]:
        """Put the parts together, and close them at the end. A folder that nothing came of is removed."""
        own = self.own_dir
        fresh = own is not None and not _exists(own)
        podium = None
        try:
            podium = Podium(self.config, data_dir=self.data_dir or own, collections=self.collections)
            yield podium
        finally:
            if podium is not None:
                await podium.aclose()
            # Without a part nothing has begun: a typo leaves nothing behind.
            unused = fresh and not _exists(Path(self.files.out + PART))
            if own is not None and (self.whole or unused):
                shutil.rmtree(own, ignore_errors=True)


def _exists(path: Path) -> bool:
    return path.exists()


async def run(
    given: Mapping[str, Any],
    files: Files,
    identity: Mapping[str, Any],
    source: Source,
    ranker: Ranker,
    results: Callable[[Outputs, Tally], MadeResults],
    workshop: Workshop,
    *,
    noun: str,
    did: str,
) -> tuple[int, MadeResults]:
    """Make what is left of a job; return the exit code, and whoever wrote, with what was counted.

    Args:
        given: the command's options, those of `options.of_a_job` among them.
        files: of the job.
        identity: what the lines depend on, beside the input.
        source: of its items.
        ranker: makes lines of one.
        results: makes who writes them.
        workshop: whose own folder goes when the output is whole.
        noun: what the report calls an item.
        did: what it says was done with it.

    """
    usd = given["job_max_cost_usd"]
    budget = JobBudget(
        None if usd is None else round(usd * 1e9),
        given["job_max_calls"],
        given["job_max_tokens"],
        given["job_max_hours"],
    )
    writers: list[MadeResults] = []

    def writer(outputs: Outputs, tally: Tally) -> MadeResults:
        writers.append(results(outputs, tally))
        return writers[0]

    job = JobRun(
        files=files,
        identity=identity,
        source=source,
        ranker=ranker,
        results=writer,
        concurrency=given["concurrency"],
        strict=given["strict"],
        patience=given["patience"],
        job_budget=budget,
        restart=given["restart"],
        noun=noun,
        did=did,
    )
    code = await job.to_its_end()
    if job.outputs.whole:
        workshop.whole = True
    return code, writers[0]


def files_of(given: Mapping[str, Any], source: str) -> Files:
    """Return the files of a job.

    Raises:
        click.UsageError: a name is there twice.

    """
    files = Files(source, given["out"], None, None, with_ledger=not given["no_ledger"])
    if files.repeated:
        raise click.UsageError(f"{files.repeated} is named twice; each file needs its own name.")
    return files


def tell(sentences: Sequence[str]) -> None:
    """Print what was counted, after the report of the job."""
    paper = look.stderr()
    for sentence in sentences:
        paper.print(escape(sentence), soft_wrap=True)


def configured(path: Path | None, concurrency: int) -> Config:
    """Return the configuration, with limits that do not refuse the job's own items."""
    loaded = load(path)
    return loaded.model_copy(update={"limits": loaded.limits.for_one_user(concurrency)})


def teacher_identity(
    config: Config, pipeline: str | None, models: Sequence[str] = (), prompt: str | None = None
) -> dict[str, Any]:
    """Return what the lines depend on of the configuration.

    Args:
        config: read.
        pipeline: whose stages, prompts and models count.
        models: others that count.
        prompt: likewise.

    """
    stages = stages_of(config, pipeline)
    return {
        "pipeline": pipeline,
        "its stages": stages,
        "prompts": prompts_of(stages, prompt),
        "models": models_of(config, pipeline, *models),
    }
