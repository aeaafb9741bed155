"""`podium eval score`: run files that are there already."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from podium_evals.cli import common
from podium_server.cli import options
from podium_server.cli.app import DONE

if TYPE_CHECKING:
    from podium_evals.results import System
    from podium_evals.suite import Suite


@click.command(
    "score",
    cls=common.EvalCommand,
    epilog=options.example(
        """
podium eval score bm25.trec mine.trec --qrels qrels.txt
podium eval score mine=ranked.trec --suite my-suite/ --out evaluation/"""
    ),
)
@click.argument("runs", metavar="RUN…", nargs=-1, required=True)
@common.qrels
@click.option(
    "--suite",
    "source",
    metavar="SUITE",
    help="As for `run`: its first stage is the baseline, its texts go into the report.",
)
@common.measures
@common.baseline
@common.seed
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Folder of what is written."
)
def command(
    runs: tuple[str, ...],
    qrels: Path | None,
    source: str | None,
    measure_names: str | None,
    baseline: str | None,
    seed: int,
    out: Path | None,
) -> int:
    r"""Measure TREC run files: the same table as of `run`, without what nobody knows of a file.

    RUN has lines `qid Q0 docid rank score tag`, plain or gzipped. Documents stand by their score, ties by their id,
    both descending, as trec_eval has them; the rank is not read. NAME=RUN gives it a name. Every judged query counts:
    one that a run lacks counts as 0, and is warned of. With --out writes DIR/results.json and DIR/report.html.

    \b
    Exit codes: 0 measured; 2 misused, or a run or judgments that cannot be used.
    """
    from podium_evals.cli import table
    from podium_evals.evaluate import evaluate
    from podium_evals.results import Results
    from podium_evals.session import made, save

    measures = common.parsed_measures(measure_names)
    suite, systems = read_systems(runs, qrels, source)
    if baseline is not None and baseline not in {system.name for system in systems}:
        raise click.UsageError(f"--baseline {baseline}: is none of {', '.join(system.name for system in systems)}.")
    evaluation = evaluate(suite, systems, baseline=baseline or systems[0].name, measures=measures, seed=seed)
    results = Results((evaluation,), str(measures[0]), made(seed=str(seed)))
    table.show(results, table.paper())
    for path in save(results, out) if out is not None else ():
        click.echo(f"wrote {path}", err=True)
    return DONE


def read_systems(runs: tuple[str, ...], qrels: Path | None, source: str | None) -> tuple[Suite, list[System]]:
    """Return the suite, and the runs as systems over it; with its first stage as the first where it has one.

    Raises:
        click.UsageError: nothing says what they are judged by.
        SuiteError: see `given_runs.run_system`.

    """
    from podium_evals.given_runs import judgments_alone, run_system
    from podium_evals.results import first_stage

    if source is not None:
        suite = common.read_source(source, qrels)
        systems = [first_stage(suite)]
    elif qrels is not None:
        suite, systems = judgments_alone(qrels), []
    else:
        raise click.UsageError("what are they judged by? Give --qrels FILE, or --suite SUITE.")
    for run in runs:
        name, equals, rest = run.partition("=")
        named = bool(equals) and not Path(run).exists()
        systems.append(run_system(Path(rest if named else run), suite, name if named else None))
    return suite, systems
