"""`podium calibrate`: sets the thresholds of `early-exit` and `selective` from labelled lists."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from podium_server.cli import options
from podium_server.cli.app import DONE, FAILED, Command
from podium_server.errors import InvalidRequest, PodiumError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from podium_server.config import Config
    from podium_server.jobs.calibrate import Graded, Reranked
    from podium_server.jobs.labelled import LabelledList
    from podium_server.jobs.observe import Observer, Seen, Target
    from podium_strategies.early_exit import EarlyExit

# Fewer say nothing of lists that are not among them.
LISTS_MIN = 10
_FAILURES_SHOWN = 5


@click.command(
    "calibrate",
    cls=Command,
    epilog=options.example(
        """
podium calibrate dev.jsonl.gz --config podium.toml --pipeline two-step
podium calibrate dev.jsonl.gz --qrels dev.qrels --config podium.toml --pipeline sure --loss 0.005"""
    ),
)
@click.argument("source", metavar="LISTS.jsonl[.gz]", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@options.pipeline
@options.config
@click.option(
    "--qrels",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Judgments of TREC's form, instead of the lists' own labels.",
)
@click.option("--loss", type=click.FloatRange(min=0), default=0.002, metavar="X", help="Permitted loss of nDCG@10.")
@click.option("--limit", type=click.IntRange(min=2), metavar="N", help="Look at the first N lists only.")
@click.option("--concurrency", type=click.IntRange(1, 256), default=8, metavar="N", help="Lists at work side by side.")
def command(
    source: Path,
    pipeline: str | None,
    config_path: Path | None,
    qrels: Path | None,
    loss: float,
    limit: int | None,
    concurrency: int,
) -> int:
    """Set the thresholds of early-exit and selective from labelled lists.

    Reads lists with labels: {"qid", "query", "candidates": [{"docid", "text", "score"?, "rel"}]}, in the order of the
    first stage that the pipeline will stand behind. Runs the judges of the pipeline's stages of these two strategies on
    all of them, prints what each threshold saves and what it loses, on lists that it was not chosen on, and the lines
    to paste into the stage.
    """
    from podium_server import config
    from podium_server.jobs.labelled import read_lists
    from podium_server.jobs.qrels import read_qrels

    loaded = config.load(config_path)
    # A list that a server's queue refused would be missing from the figures.
    loaded = loaded.model_copy(update={"limits": loaded.limits.for_one_user(concurrency)})
    lists = list(read_lists(source, read_qrels(qrels) if qrels is not None else {}, limit))
    return asyncio.run(_calibrate(loaded, pipeline, lists, loss, concurrency))


async def _calibrate(
    loaded: Config, pipeline: str | None, lists: list[LabelledList], loss: float, concurrency: int
) -> int:
    from podium_server.cli.display import console as look
    from podium_server.compose import Podium
    from podium_server.jobs.observe import Observer, targets
    from podium_server.ranking.request import RankRequest

    paper = look.stdout()
    useful = [one for one in lists if any(label > 0 for label in one.labels.ideal)]
    if len(useful) < len(lists):
        paper.print(f"{look.plural(len(lists) - len(useful), 'list')} left out: no document is relevant")
    _check_number(len(useful))
    podium = Podium(loaded, data_dir=None, collections=False)
    failed = 0
    try:
        name = pipeline or loaded.server.default_pipeline
        for target in targets(podium.reranker.pipeline(RankRequest("", (), pipeline=name))):
            observer = Observer(target, podium.models_by_name.judge, loaded.limits)
            seen, failures = await _look_at_all(observer, useful, concurrency)
            failed += len(failures)
            for message in failures[:_FAILURES_SHOWN]:
                look.stderr().print(f"[red]left out:[/] {message}")
            _check_number(len(seen))
            _report(paper, target, seen, loss)
    finally:
        await podium.aclose()
    return FAILED if failed else DONE


def _check_number(lists: int) -> None:
    if lists < LISTS_MIN:
        raise InvalidRequest("lists", f"are {lists} that can be used; at least {LISTS_MIN} are needed")


async def _look_at_all(observer: Observer, lists: list[LabelledList], concurrency: int) -> tuple[list[Seen], list[str]]:
    """Return what was seen of all lists, and of those that failed why."""
    from rich.progress import Progress

    from podium_server.cli.display import console as look

    places = asyncio.Semaphore(concurrency)
    paper = look.stderr()
    with Progress(console=paper, disable=not paper.is_terminal) as progress:
        task = progress.add_task(observer.target.stage.role, total=len(lists))

        async def one_list(one: LabelledList) -> Seen | str:
            async with places:
                try:
                    return await observer.look(one)
                except PodiumError as error:
                    return f"line {one.list.line}: {error.message}"
                finally:
                    progress.advance(task)

        seen = await asyncio.gather(*map(one_list, lists))
    return [one for one in seen if not isinstance(one, str)], [one for one in seen if isinstance(one, str)]


def _report(paper: Console, target: Target, seen: list[Seen], loss: float) -> None:
    """Print the tables of one stage, its lines, and what looking took."""
    from podium_server.cli.display import console as look
    from podium_server.jobs.ledgers import joined

    graded = [one.graded for one in seen if one.graded is not None]
    reranked = [one.reranked for one in seen if one.reranked is not None]
    if target.early_exit is not None:
        _report_exit(paper, target.early_exit, target.stage.role, graded, loss)
    if target.selective is not None:
        _report_skips(paper, target.stage.role, reranked, loss)
    paper.print(look.ledger_table(joined(one.ledger for one in seen)))


def _report_exit(paper: Console, usual: EarlyExit, stage: str, lists: list[Graded], loss: float) -> None:
    from podium_server.cli.display import console as look
    from podium_server.jobs.calibrate import chosen_exit, exit_rows

    try:
        rows = exit_rows(usual, lists)
    except ValueError as error:
        raise InvalidRequest("lists", f"early-exit cannot be calibrated on these: {error}") from error
    paper.print(f"[bold]{stage}[/]: early exit, the first {usual.k} of {look.plural(len(lists), 'list')}")
    table = _table("exact where set", "bound", "strong grades saved", "exact", f"top {usual.k} kept", "nDCG@10 lost")
    for row in rows:
        figures = (row.saved, row.exact, row.agreement)
        shown = [f"{figure:.1%}" for figure in figures]
        table.add_row(f"{row.quantile:.0%}", f"{row.strategy.bound:.6g}", *shown, f"{row.loss:+.4f}")
    paper.print(table)
    chosen = chosen_exit(rows, loss)
    if chosen is None:
        paper.print(f"No bound saves anything at a loss of {loss:g}: use pointwise with the strong model alone.\n")
        return
    exit_ = chosen.strategy
    paper.print(f"Saves most at a loss of at most {loss:g} ({chosen.quantile:.0%} exact where it was set):")
    lines = (f"slope = {exit_.slope!r}", f"intercept = {exit_.intercept!r}", f"bound = {exit_.bound!r}")
    paper.print("\n".join(f"  {line}" for line in lines) + "\n", markup=False)


def _report_skips(paper: Console, stage: str, lists: list[Reranked], loss: float) -> None:
    from podium_server.cli.display import console as look
    from podium_server.jobs.calibrate import cross_validated, skip_rows

    unsure = sum(one.margin is None for one in lists)
    before = sum(one.before for one in lists) / len(lists)
    paper.print(
        f"[bold]{stage}[/]: selective, {look.plural(len(lists), 'list')}; nDCG@10 of the order before {before:.4f}"
    )
    if unsure:
        paper.print(f"{look.plural(unsure, 'list')} without a margin (no scores, or too short) are never skipped")
    table = _table("threshold", "skipped", "nDCG@10", "lost")
    for row in skip_rows(lists):
        shown = "never" if row.threshold is None else f"{row.threshold:.4f}"
        table.add_row(shown, f"{row.skipped:.1%}", f"{row.ndcg:.4f}", f"{row.loss:+.4f}")
    paper.print(table)
    told = cross_validated(lists, loss)
    if told.threshold is None:
        paper.print(f"No threshold keeps the loss within {loss:g}: these margins do not tell where reranking helps.\n")
        return
    paper.print(
        f"Chosen at a permitted loss of {loss:g}. Chosen on one half and told of on the other: {told.skipped:.1%} "
        f"skipped, nDCG@10 {told.ndcg:.4f}, lost {told.loss:+.4f}"
    )
    if told.loss > loss:
        paper.print("[yellow]That is more than permitted:[/] the margin says less about other lists than about these.")
    paper.print(f"  threshold = {told.threshold!r}\n", markup=False)


def _table(*titles: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    return table
