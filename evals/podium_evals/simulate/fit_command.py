"""`podium eval simulate-fit`: the noise model fitted to recorded rankers."""

from __future__ import annotations

import json
from pathlib import Path

import click

from podium_evals.cli.common import EvalCommand


@click.command("simulate-fit", cls=EvalCommand, short_help="Fit the simulated judge's faults to recorded rankers.")
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), help="The data folder.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures as JSON, too.")
def command(data: Path | None, out: Path | None) -> None:
    r"""Fit the simulated judge's faults to recorded rankers, with standard errors.

    \b
    Example:
      podium eval simulate-fit --out fit.json
    """
    from podium_evals.replay import DATA
    from podium_evals.simulate.fitting import fitted, printed, section

    found = fitted(data or DATA)
    for line in printed(found):
        click.echo(line)
    if out is not None:
        out.write_text(json.dumps(section(found), indent=1) + "\n", encoding="utf-8")
