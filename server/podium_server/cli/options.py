"""Options that several commands have in common, and the configuration that they name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

config = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Configuration (TOML), laid over the built-in one.",
)
target = click.option("--target", metavar="HOST:PORT", help="Ask this server instead of starting one here.")
data_dir = click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where the store is.  [default: what the configuration says, else .podium]",
)
pipeline = click.option("--pipeline", metavar="NAME", help="Pipeline.  [default: the server's default]")


_OF_A_JOB = (
    click.option("--out", metavar="OUT", required=True, help="Where the lines go; `-` is standard output."),
    click.option("--no-ledger", is_flag=True, help="Write no ledger of each line; the summary has the sums."),
    config,
    click.option("--limit", type=click.IntRange(min=0), metavar="N", help="Read the first N lines of the input only."),
    click.option(
        "--concurrency", type=click.IntRange(1, 4096), default=64, metavar="N", help="Lines at work side by side."
    ),
    click.option("--job-max-cost-usd", type=click.FloatRange(min=0), metavar="USD", help="Of the whole job: money."),
    click.option("--job-max-calls", type=click.IntRange(min=0), metavar="N", help="Of the whole job: calls to models."),
    click.option("--job-max-tokens", type=click.IntRange(min=0), metavar="N", help="Of the whole job: tokens."),
    click.option("--job-max-hours", type=click.FloatRange(min=0), metavar="H", help="Of the whole job: hours at work."),
    click.option("--strict", is_flag=True, help="Stop at the first line that fails."),
    click.option(
        "--patience",
        type=click.IntRange(min=0),
        default=20,
        metavar="N",
        help="Stop when N lines in a row found nobody to answer, and ask them again in the next run; 0 goes on.",
    ),
    click.option("--restart", is_flag=True, help="Begin anew, and throw away what an interrupted run has left."),
)


def of_a_job(function: FunctionT) -> FunctionT:
    """Add the options that every job has which makes lines of lines."""
    for option in reversed(_OF_A_JOB):
        function = option(function)
    return function


def example(text: str) -> str:
    """Return an example for the end of a command's help, as it is written."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in text.strip().splitlines())
