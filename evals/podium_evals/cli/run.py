"""`podium eval run`: pipelines over suites."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from podium_evals.cli import common
from podium_server.cli import options
from podium_server.cli.app import DONE, FAILED, INTERRUPTED, say

if TYPE_CHECKING:
    from podium_evals.runner import Place
    from podium_evals.session import Session


@click.command(
    "run",
    cls=common.EvalCommand,
    epilog=options.example(
        """
podium eval run my-suite/ --pipeline recall --pipeline fast --out evaluation/
podium eval run dl19=lists.jsonl.gz --qrels dl19.txt --pipeline fast --pipeline best --baseline fast
podium eval run nfcorpus/ --pipeline best --target rank-1:50051 --measures nDCG@10,R@100"""
    ),
)
@click.argument("sources", metavar="SUITE…", nargs=-1, required=True)
@click.option("--pipeline", "pipelines", metavar="NAME", multiple=True, required=True, help="Again for each one.")
@options.config
@click.option("--target", metavar="HOST:PORT[,…]", help="Ask these servers instead of ranking in this process.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Folder of what is written."
)
@common.qrels
@common.measures
@common.baseline
@common.seed
@click.option("--depth", type=click.IntRange(1), default=100, metavar="N", help="Candidates taken of a corpus.")
@click.option(
    "--index",
    is_flag=True,
    help="Index the corpora, and let pipelines recall from them by both retrievers, as a server does.",
)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="The first N judged queries of each suite only.")
@click.option(
    "--concurrency",
    type=click.IntRange(1, 4096),
    default=1,
    metavar="N",
    help="Queries side by side. Above 1, latencies are those of a busy machine.",
)
@click.option("--max-cost-usd", type=click.FloatRange(min=0), metavar="USD", help="Of one query: money.")
def command(
    sources: tuple[str, ...],
    pipelines: tuple[str, ...],
    config_path: Path | None,
    target: str | None,
    out: Path | None,
    qrels: Path | None,
    measure_names: str | None,
    baseline: str | None,
    seed: int,
    depth: int,
    index: bool,
    limit: int | None,
    concurrency: int,
    max_cost_usd: float | None,
) -> int:
    r"""Run pipelines over suites: what each buys, and what it costs.

    SUITE is a file of lists ({"qid", "query", "candidates": [{"docid", "text", "score"?, "rel"?}]} a line), a folder
    (lists.jsonl; or BEIR's or TREC's corpus, queries and qrels, with a TREC run where there is one), or
    ir_datasets:NAME. A corpus without a run is asked by BM25 for its lists, which pipelines rank; with --index they
    rank what they recall from it themselves. NAME=SUITE gives a suite a name.

    Prints three tables a suite; with --out writes DIR/runs/SUITE/SYSTEM.trec, DIR/results.json and DIR/report.html, in
    place of those that an earlier run left there. The first stage, as it came, is always among the systems. Every
    judged query counts for every system: one without an answer counts as 0.

    \b
    Exit codes: 0 all ran; 1 a pipeline could not run, or queries failed (counted in the tables); 2 misused, or a suite
    that cannot be used; 130 interrupted: systems that were done are written, the one at work as NAME.partial.trec.
    """
    from podium_evals.cli import table
    from podium_evals.cli.watching import Bars
    from podium_evals.indexed import Indexed
    from podium_evals.results import FAILED as FAILED_QUERY
    from podium_evals.results import FIRST_STAGE
    from podium_evals.runner import Here, There
    from podium_evals.session import Session, save
    from podium_server import config
    from podium_server.ranking.request import Budget

    if target is not None and config_path is not None:
        raise click.UsageError("--config is of this process, --target is a server elsewhere: give one.")
    if target is not None and index:
        raise click.UsageError("--index is done in this process, --target is a server elsewhere: give one.")
    if qrels is not None and len(sources) > 1:
        raise click.UsageError(f"--qrels judges one suite, and {len(sources)} are named: put qrels into their folders.")
    pipelines = tuple(dict.fromkeys(pipelines))
    if FIRST_STAGE in pipelines:
        raise click.UsageError(f"--pipeline {FIRST_STAGE}: is the baseline, and among the systems already.")
    if baseline is not None and baseline not in (FIRST_STAGE, *pipelines):
        known = ", ".join((FIRST_STAGE, *pipelines))
        raise click.UsageError(f"--baseline {baseline}: is none of the systems of this run ({known}).")
    measures = common.parsed_measures(measure_names)
    budget = Budget(max_cost_nano_usd=None if max_cost_usd is None else round(max_cost_usd * 1e9))
    place: Place
    if target is None:
        place = Here(config.load(config_path), budget)
    else:
        place = There(tuple(part for part in target.split(",") if part), budget)
    asyncio.run(place.check(pipelines))  # before suites are read, which takes a while
    with Bars() as watcher, contextlib.ExitStack() as stack:
        suites = [common.read_source(source, qrels, depth=depth, limit=limit) for source in sources]
        if index:
            if not any(suite.corpus for suite in suites):
                raise click.UsageError("--index: none of the suites has a corpus; their lists are all that there is.")
            assert isinstance(place, Here)
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="podium-eval-"))
            place = Indexed(place, Path(folder), depth, watcher.say)
        session = Session(suites, watcher, out, baseline or FIRST_STAGE, measures, seed)
        asyncio.run(_to_its_end(session, place, pipelines, concurrency))
    results = session.results()
    table.show(results, table.paper())
    if out is not None:
        for path in save(results, out):
            click.echo(f"wrote {path}", err=True)
    if session.interrupted:
        say("interrupted: what was done is in the tables" + (f" and in {out}" if out else ""))
        return INTERRUPTED
    failed = any(
        ranking.completion == FAILED_QUERY
        for evaluation in results.evaluations
        for system in evaluation.systems
        for ranking in system.rankings
    )
    return FAILED if failed or results.missing else DONE


async def _to_its_end(session: Session, place: Place, pipelines: tuple[str, ...], concurrency: int) -> None:
    with terminable():
        await session.run(place, pipelines, concurrency=concurrency)


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Let what a scheduler sends before it kills be the same orderly end as Ctrl-C."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
