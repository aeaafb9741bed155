"""`podium rerank`: many lists, in this process or on a server."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from podium_server.cli import options
from podium_server.cli.app import DONE, FAILED, INTERRUPTED, Command

if TYPE_CHECKING:
    from podium_server.config import Config
    from podium_server.jobs.ranking import Ranker
    from podium_server.jobs.results import Results
    from podium_server.jobs.tally import Tally
    from podium_server.ranking.request import Budget


@click.command(
    "rerank",
    cls=Command,
    epilog=options.example(
        """
podium rerank --pipeline fast lists.jsonl.gz --out ranked.jsonl --run ranked.trec
podium rerank --config podium.toml --pipeline best - --out - < lists.jsonl
podium rerank --target podium.internal:50051 --pipeline best lists.jsonl --out ranked.jsonl"""
    ),
)
@click.argument("source", metavar="IN.jsonl[.gz]")
@click.option("--out", metavar="OUT.jsonl", required=True, help="Where the orders go; `-` is standard output.")
@click.option("--run", "run_path", metavar="OUT.trec", help="Write a TREC run, too.")
@options.pipeline
@options.config
@options.target
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Remember chat models' verdicts in the store there, so that a job that is run again pays once.",
)
@click.option("--limit", type=click.IntRange(min=0), metavar="N", help="Rank the first N lists only.")
@click.option(
    "--concurrency", type=click.IntRange(1, 4096), default=64, metavar="N", help="Lists at work side by side."
)
@click.option("--max-cost-usd", type=click.FloatRange(min=0), metavar="USD", help="Of one list: money.")
@click.option("--max-calls", type=click.IntRange(min=0), metavar="N", help="Of one list: calls to models.")
@click.option("--max-tokens", type=click.IntRange(min=0), metavar="N", help="Of one list: input and output tokens.")
@click.option("--strict", is_flag=True, help="Stop at the first list that fails, or line that is no list.")
def command(
    source: str,
    out: str,
    run_path: str | None,
    pipeline: str | None,
    config_path: Path | None,
    target: str | None,
    data_dir: Path | None,
    limit: int | None,
    concurrency: int,
    max_cost_usd: float | None,
    max_calls: int | None,
    max_tokens: int | None,
    strict: bool,
) -> int:
    """Put many lists of candidates in order.

    Reads one list a line: {"qid", "query", "candidates": [{"docid", "text", "score"?}]}; `-` is standard input. Writes
    one line a list, in the order of the input: {"qid", "ranking": [docid, …], "scores"?, "completion", "usage"}. A list
    that could not be ranked gets {"qid", "error": {"reason", "message"}, "usage"} instead, and none in the TREC run. A
    line that is no list is reported with its number. Either makes the exit code 1.

    OUT.jsonl is written as OUT.jsonl.part, and takes its name when it is whole. Ctrl-C keeps what is done, there.
    """
    from podium_server.ranking.request import Budget

    if out == run_path:
        raise click.UsageError("--out and --run name the same file.")
    if target is not None and (config_path is not None or data_dir is not None):
        raise click.UsageError("--config and --data-dir are of this process, --target is a server elsewhere: give one.")
    budget = Budget(
        max_cost_nano_usd=None if max_cost_usd is None else round(max_cost_usd * 1e9),
        max_calls=max_calls,
        max_tokens=max_tokens,
    )
    job = _Job(source, pipeline, limit, concurrency, strict, budget, data_dir)
    config = None if target is not None else job.configuration(config_path)
    return asyncio.run(job.run(config, target, out, run_path))


class _Job:
    """One run of the command."""

    def __init__(
        self,
        source: str,
        pipeline: str | None,
        limit: int | None,
        concurrency: int,
        strict: bool,
        budget: Budget,
        data_dir: Path | None,
    ) -> None:
        from podium_server.jobs.lists import Source

        self.source = Source.opened(source, limit=limit)
        self.pipeline = pipeline
        self.concurrency = concurrency
        self.strict = strict
        self.budget = budget
        self.data_dir = data_dir

    def configuration(self, path: Path | None) -> Config:
        """Return the configuration, with limits that do not refuse the job's own lists."""
        from podium_server import config

        loaded = config.load(path)
        # Limits of a server's queues keep strangers from each other. All of these lists are ours, and the number of
        # those at work is bounded by --concurrency already.
        roomy = loaded.limits.model_copy(
            update={
                "concurrent_requests": max(loaded.limits.concurrent_requests, self.concurrency),
                "encoder_queue": max(loaded.limits.encoder_queue, self.concurrency * loaded.limits.documents),
            }
        )
        return loaded.model_copy(update={"limits": roomy})

    async def run(self, config: Config | None, target: str | None, out: str, run_path: str | None) -> int:
        """Rank everything, and tell of it; return the exit code."""
        from podium_server.cli.progress import Progress
        from podium_server.jobs.engine import Engine, ListFailed
        from podium_server.jobs.ranking import Answer
        from podium_server.jobs.results import Output, Results
        from podium_server.jobs.tally import Tally

        tally = Tally()
        progress = Progress(self.source, tally)

        results: Results | None = None
        ended: BaseException | None = None
        task = asyncio.current_task()
        if task is not None:
            # What a scheduler sends before it kills: the same orderly end as Ctrl-C.
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        try:
            async with self._ranker(config, target) as ranker:
                # Not before it is sure that there is somebody to ask: a typo leaves no empty file behind.
                tag = f"podium-{self.pipeline or 'default'}"
                results = Results(Output(out), Output(run_path) if run_path else None, tag=tag)

                def write(answer: Answer) -> None:
                    results.write(answer)
                    tally.add(answer)
                    progress.show(answer)

                with results, progress:
                    await Engine(ranker, write, concurrency=self.concurrency, strict=self.strict).run(iter(self.source))
        except (ListFailed, asyncio.CancelledError) as error:
            ended = error
        if results is not None:
            _report(tally, results, ended)
        if isinstance(ended, asyncio.CancelledError):
            return INTERRUPTED
        return FAILED if ended is not None or tally.failed or (results and results.unwritable) else DONE

    @contextlib.asynccontextmanager
    async def _ranker(self, config: Config | None, target: str | None) -> AsyncIterator[Ranker]:
        if config is None:
            async with self._remote(target or "") as remote:
                yield remote
            return
        from podium_server.compose import Podium
        from podium_server.jobs.ranking import LocalRanker
        from podium_server.ranking.request import RankRequest

        # Not started: a model is loaded when the first list needs it, and what no list needs never is.
        podium = Podium(config, data_dir=self.data_dir, collections=False)
        try:
            name = self.pipeline or config.server.default_pipeline
            podium.reranker.pipeline(RankRequest("", (), pipeline=name))  # a typo is told once, not for every list
            yield LocalRanker(podium.reranker, name, self.budget, config.limits)
        finally:
            await podium.aclose()

    @contextlib.asynccontextmanager
    async def _remote(self, target: str) -> AsyncIterator[Ranker]:
        import podium_client
        from podium_server.cli.local_server import reaching
        from podium_server.cli.remote import RemoteRanker
        from podium_server.errors import NotFound

        wire_budget = podium_client.Budget(
            max_cost_nano_usd=self.budget.max_cost_nano_usd,
            max_calls=self.budget.max_calls,
            max_tokens=self.budget.max_tokens,
        )
        given: podium_client.RerankOptions = {"budget": wire_budget} if self.budget.counts else {}
        if self.pipeline is not None:
            given["pipeline"] = self.pipeline
        async with RemoteRanker(podium_client.AsyncClient(target), given, self.concurrency) as remote:
            with reaching(target):
                known = [pipeline.name for pipeline in await remote.client.list_pipelines()]
            if self.pipeline is not None and self.pipeline not in known:
                raise NotFound("pipeline", self.pipeline, known)
            yield remote


def _report(tally: Tally, results: Results, ended: BaseException | None) -> None:
    """Print what was done, what failed and what it cost."""
    from podium_server.cli import console as look
    from podium_server.jobs.engine import ListFailed
    from podium_server.jobs.results import STDOUT

    paper = look.stderr()
    rate = tally.lists / tally.elapsed_s if tally.elapsed_s > 0 else 0.0
    paper.print(
        f"{look.plural(tally.lists, 'list')} ranked, {look.plural(tally.candidates, 'candidate')}, "
        f"in {look.seconds(tally.elapsed_s)} ({rate:,.1f} lists/s)"
    )
    if tally.partial:
        kinds = ", ".join(f"{n:,} {kind}" for kind, n in sorted(tally.completions.items()) if kind != "complete")
        paper.print(f"[yellow]not complete:[/] {kinds}")
    if tally.failed:
        kinds = ", ".join(f"{n:,} {reason}" for reason, n in sorted(tally.reasons.items()))
        paper.print(f"[red]failed:[/] {kinds}")
    if results.unwritable:
        listed = ", ".join(map(str, results.unwritable[:10]))
        paper.print(f"[red]not in the TREC run[/], because an id of theirs has a space: the lists of lines {listed}")
    if ended is not None:
        why = f"stopped at line {ended.answer.line}" if isinstance(ended, ListFailed) else "interrupted"
        kept = "" if results.out.path == STDOUT else f"; what is done is in {results.out.written_to}"
        paper.print(f"[red]{why}[/] after {look.plural(tally.answered, 'list')}{kept}")
    if tally.ledger.accounts:
        paper.print(look.ledger_table(tally.ledger))
    sys.stderr.flush()
