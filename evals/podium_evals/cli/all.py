"""`podium eval all`: everything, on the data folder."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from podium_evals.cli import common
from podium_server.cli import options
from podium_server.cli.app import DONE, FAILED, INTERRUPTED, say

if TYPE_CHECKING:
    from podium_evals.everything import Everything
    from podium_evals.session import Session, Watcher

DATA = Path("..") / "shared" / "data"
PARTS = ("suites", "recordings", "simulated", "peers")
"""As `everything.PARTS`, which is not imported for `--help`."""


@click.command(
    "all",
    cls=common.EvalCommand,
    epilog=options.example(
        """
podium eval all --data ../shared/data --out out/evals
podium eval all --queries 3 --part suites --out /tmp/look"""
    ),
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    default=DATA,
    envvar="PODIUM_DATA",
    show_envvar=True,
    metavar="DIR",
    help="The folder with eval/ and recordings/.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="DIR",
    help="Folder of what is written.",
)
@options.config
@click.option("--part", "parts", type=click.Choice(PARTS), multiple=True, help="Only these.  [default: all]")
@click.option("--queries", type=click.IntRange(1), metavar="N", help="Of each suite at most, for a look.")
@click.option("--whole", is_flag=True, help="All queries of all suites, however long that takes.")
@click.option(
    "--peers",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    default=Path("bench/results/peers.json"),
    help="The table of peers, which a benchmark of its own makes.",
)
@common.seed
def command(
    data: Path,
    out: Path,
    config_path: Path | None,
    parts: tuple[str, ...],
    queries: int | None,
    whole: bool,
    peers: Path | None,
    seed: int,
) -> int:
    r"""Everything on the data folder: suites × pipelines, recorded rankers, the simulated judge, the peers.

    Without --config the built-in pipelines are run, at a stated rate for the processors (podium_evals/shipped.toml).
    Writes OUT/runs, OUT/results.json and OUT/report.html, and prints the tables. What cannot be had (a suite that is
    not there, a pipeline that asks an endpoint) is named as missing, with the reason.

    \b
    Exit codes: 0 done; 1 a suite, a recording or the simulated table is missing, or a published figure is not met; 2
    misused; 130 interrupted: what was done is written. Pipelines that ask an endpoint and the peers may be missing.
    """
    from podium_evals.cli import table
    from podium_evals.cli.watching import Bars
    from podium_evals.everything import SHIPPED, Everything
    from podium_evals.session import save
    from podium_server import config

    everything = Everything(data, config.load(config_path or SHIPPED), out, parts or PARTS, queries, whole, peers, seed)
    with Bars() as watcher:
        session = asyncio.run(_to_its_end(everything, watcher))
    results = session.results()
    table.show(results, table.paper())
    met = table.published(results.sections["published"], table.paper())
    for path in save(results, out):
        click.echo(f"wrote {path}", err=True)
    if session.interrupted:
        say(f"interrupted: what was done is in {out}")
        return INTERRUPTED
    # These are not there by somebody's choice; the report names them all the same.
    chosen = {"peers", *(part for part in PARTS if part not in everything.parts)}
    lacking = [one for one in results.missing if one.what not in chosen and not one.what.startswith("pipeline ")]
    return FAILED if lacking or not met else DONE


async def _to_its_end(everything: Everything, watcher: Watcher) -> Session:
    from podium_evals.cli.run import terminable

    with terminable():
        return await everything.run(watcher)
