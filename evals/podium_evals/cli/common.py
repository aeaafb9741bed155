"""What the commands of `podium eval` have in common."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from podium_server.cli.app import Command
from podium_server.errors import FailedPrecondition

if TYPE_CHECKING:
    import ir_measures

    from podium_evals.suite import Suite


class EvalCommand(Command):
    """A command whose bad suites and bad files are the caller's mistakes: exit code 2, one sentence."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run it."""
        from podium_evals.results_file import ResultsError
        from podium_evals.suite import SuiteError

        try:
            return super().invoke(ctx)
        except (SuiteError, ResultsError) as error:
            raise FailedPrecondition(str(error)) from error


measures = click.option(
    "--measures",
    "measure_names",
    metavar="NAME,…",
    help="As ir_measures names them (nDCG@10,AP,RR@10,P@10,R@100,Judged@10,Success@1); the first is the main one. "
    "[default: a dozen, nDCG@10 first]",
)
baseline = click.option("--baseline", metavar="NAME", help="The system that all others are compared with.")
seed = click.option("--seed", type=int, default=0, help="Of flips and resamples: equal seeds, equal figures.")
qrels = click.option(
    "--qrels",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Judgments: qid iteration docid grade, or BEIR's TSV.",
)


def parsed_measures(names: str | None) -> tuple[ir_measures.Measure, ...]:
    """Return measures by name; the usual ones where none are named.

    Raises:
        click.BadParameter: ir_measures knows none of that name.

    """
    import ir_measures

    from podium_evals.measures import MEASURES

    if names is None:
        return MEASURES
    found = []
    for name in (part.strip() for part in names.split(",") if part.strip()):
        try:
            measure = ir_measures.parse_measure(name)
            if not ir_measures.DefaultPipeline.supports(measure):  # type: ignore[no-untyped-call]
                raise ValueError(name)
        except (NameError, ValueError, SyntaxError, TypeError) as error:
            raise click.BadParameter(
                f"{name!r} is no measure that ir_measures can compute", param_hint="--measures"
            ) from error
        if measure not in found:
            found.append(measure)
    if not found:
        raise click.BadParameter("names no measure", param_hint="--measures")
    return tuple(found)


def read_source(source: str, qrels: Path | None = None, *, depth: int | None = None, limit: int | None = None) -> Suite:
    """Read a suite as `[NAME=]SOURCE`, make lists of its corpus, and keep the first `limit` queries.

    Raises:
        SuiteError: it cannot be used.

    """
    from podium_evals.first_stage import DEPTH, with_lists
    from podium_evals.suite import limited, read_suite

    name, equals, rest = source.partition("=")
    named = bool(equals) and not Path(source).exists()
    suite = read_suite(rest if named else source, qrels=qrels, name=name if named else None)
    return with_lists(limited(suite, limit), depth=depth or DEPTH)
