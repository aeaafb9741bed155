"""`podium eval simulate-table`: every strategy with the simulated judge."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from podium_evals.cli.common import EvalCommand, qrels, read_source

if TYPE_CHECKING:
    from podium_evals.simulate.strategies import Row
    from podium_evals.suite import Suite

QUICK_LEVELS = ("low", "medium", "high")


@click.command("simulate-table", cls=EvalCommand, short_help="Every strategy with the simulated judge.")
@click.option("--suite", "source", default="DL19", metavar="[NAME=]SOURCE", help="DL19 is the data folder's.")
@qrels
@click.option("--queries", type=click.IntRange(min=1), help="The first so many. [default: all]")
@click.option("--level", "levels", multiple=True, type=click.Choice(QUICK_LEVELS), help="Of noise. [default: all]")
@click.option("--strategy", "only", multiple=True, metavar="NAME", help="Rows of the table. [default: all]")
@click.option("--light", is_flag=True, help="Without the strategies that ask hundreds of questions a query.")
@click.option("--seeds", type=click.IntRange(min=1), default=2, help="Judges of each level.")
@click.option("--heavy-seeds", type=click.IntRange(min=1), default=1, help="Of these, for hundreds of calls a query.")
@click.option("--processes", type=click.IntRange(min=0), default=0, help="Side by side; 0 is one a processor.")
@click.option("--fit/--no-fit", default=True, help="Put the fit to the recorded rankers into the file, too.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the section of the report (JSON).")
def command(
    source: str,
    qrels: Path | None,
    queries: int | None,
    levels: tuple[str, ...],
    only: tuple[str, ...],
    light: bool,
    seeds: int,
    heavy_seeds: int,
    processes: int,
    fit: bool,
    out: Path | None,
) -> None:
    r"""Run every strategy with the simulated judge: quality, calls, rounds, tokens, money, latency, malformed replies.

    \b
    Example:
      podium eval simulate-table --suite DL19 --light --out simulated.json
    """
    from podium_evals.simulate.findings import printed, section
    from podium_evals.simulate.table import SIMULATED_LEVELS, Setting, local_answers, table

    began = time.monotonic()
    suite = _suite(source, qrels, queries)
    rows = _rows(only, light=light)
    click.echo(f"{suite.name}: {len(suite.topics)} queries, {len(rows)} strategies; the local stage first", err=True)
    setting = Setting(suite, local_answers(suite), seeds, min(seeds, heavy_seeds), processes=processes)

    def tell(what: str, done: int, of: int) -> None:
        if sys.stderr.isatty():
            click.echo(f"\r{done}/{of} {time.monotonic() - began:,.0f} s  {what:40}", nl=done == of, err=True)

    wanted = levels or SIMULATED_LEVELS
    data = section(setting, table(setting, rows, wanted, tell))
    for level in wanted:
        click.echo("\n".join(printed(data, level)) + "\n")
    for sentence in data["half the tokens"]:
        click.echo(sentence)
    if out is not None:
        _write(out, data | (_fit() if fit else {}))


def _fit() -> dict[str, Any]:
    """Return the section of the fit; where the recordings are not here, a sentence that says so."""
    from podium_evals.replay import DATA
    from podium_evals.simulate.fitting import fitted, section

    if not (DATA / "recordings").is_dir():
        return {"fit": f"There are no recordings at {DATA}, so that nothing was fitted here."}
    click.echo("fitting the noise model to the recorded rankers", err=True)
    return {"fit": section(fitted(DATA))}


def _suite(source: str, qrels: Path | None, queries: int | None) -> Suite:
    from podium_evals.replay import DATA
    from podium_evals.simulate.fitting import lists
    from podium_evals.suite import limited

    if source == "DL19" and qrels is None:
        return limited(replace(lists(DATA), name="dl19"), queries)
    return read_source(source, qrels, limit=queries)


def _rows(only: Sequence[str], *, light: bool) -> list[Row]:
    from podium_evals.simulate.strategies import BASELINE, ROWS

    names = {row.name for row in ROWS}
    for name in only:
        if name not in names:
            raise click.BadParameter(
                f"{name!r} is no row (there are {', '.join(sorted(names))})", param_hint="--strategy"
            )
    wanted = {*only, BASELINE} if only else names
    return [row for row in ROWS if row.name in wanted and not (light and row.heavy)]


def _write(out: Path, data: dict[str, Any]) -> None:
    out.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    click.echo(f"{out}: {out.stat().st_size / 1e3:.0f} kB")
