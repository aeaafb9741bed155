"""`podium eval compare`: two systems, measure by measure and query by query."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from podium_evals.cli import common
from podium_server.cli import options
from podium_server.cli.app import DONE

if TYPE_CHECKING:
    import ir_measures

    from podium_evals.results import Evaluation, Results


@click.command(
    "compare",
    cls=common.EvalCommand,
    epilog=options.example(
        """
podium eval compare bm25.trec mine.trec --qrels qrels.txt
podium eval compare fast best --results evaluation/results.json"""
    ),
)
@click.argument("one", metavar="A")
@click.argument("other", metavar="B")
@common.qrels
@click.option("--suite", "source", metavar="SUITE", help="As for `run`; gives the queries' words.")
@click.option(
    "--results",
    "results_path",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="A results.json; A and B are names of its systems.",
)
@common.measures
@common.seed
@click.option(
    "--queries", type=click.IntRange(0), default=5, metavar="N", help="Won and lost queries to show, of each."
)
def command(
    one: str,
    other: str,
    qrels: Path | None,
    source: str | None,
    results_path: Path | None,
    measure_names: str | None,
    seed: int,
    queries: int,
) -> int:
    r"""Compare two systems over the same queries: B minus A.

    A and B are TREC run files with --qrels or --suite, or systems of a results.json, in which case every suite that
    has both is shown. p-values are of two-sided sign-flip tests, not corrected: one comparison was asked for.

    \b
    Exit codes: 0 compared; 2 misused, or files that cannot be used.
    """
    from rich.markup import escape

    from podium_evals.cli import table

    if results_path is not None and (qrels is not None or source is not None):
        raise click.UsageError(
            "--results brings its own judgments: give it alone, or run files with --qrels or --suite."
        )
    measures = common.parsed_measures(measure_names)
    if results_path is not None:
        found = _of_results(results_path, one, other, measures, seed)
    else:
        found = [_of_files((one, other), qrels, source, measures, seed)]
    paper = table.paper()
    for evaluation in found:
        first, second = (system.name for system in evaluation.systems)
        judged = f"{len(evaluation.qids):,} judged queries"
        paper.print(
            f"\n[bold]{escape(evaluation.suite.name)}[/]  {judged}, B = {escape(second)} minus A = {escape(first)}"
        )
        paper.print(table.versus(evaluation))
        if queries:
            paper.print(table.extremes(evaluation, str(measures[0]), queries))
        for line in table.remarks(evaluation):
            paper.print(f"[yellow]·[/] {escape(line)}", soft_wrap=True)
    return DONE


def _of_files(
    runs: tuple[str, str], qrels: Path | None, source: str | None, measures: tuple[ir_measures.Measure, ...], seed: int
) -> Evaluation:
    from podium_evals.cli.score import read_systems
    from podium_evals.evaluate import evaluate

    suite, systems = read_systems(runs, qrels, source)
    pair = systems[-2:]
    return evaluate(suite, pair, baseline=pair[0].name, measures=measures, seed=seed)


def _of_results(
    path: Path, one: str, other: str, measures: tuple[ir_measures.Measure, ...], seed: int
) -> list[Evaluation]:
    from podium_evals.evaluate import evaluate
    from podium_evals.results_file import read

    results: Results = read(path)
    found = []
    for evaluation in results.evaluations:
        names = {system.name for system in evaluation.systems}
        if {one, other} <= names:
            pair = (evaluation.system(one), evaluation.system(other))
            found.append(evaluate(evaluation.suite, pair, baseline=one, measures=measures, seed=seed))
    if not found:
        known = sorted({system.name for evaluation in results.evaluations for system in evaluation.systems})
        raise click.UsageError(f"no suite of {path} has both {one} and {other}; its systems are {', '.join(known)}.")
    return found
