"""`podium eval drift`: is live traffic still like a reference?"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from podium_evals.cli import common
from podium_server.cli import options
from podium_server.cli.app import DONE, FAILED

if TYPE_CHECKING:
    from podium_evals.online.drift import Drift

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command(
    "drift",
    cls=common.EvalCommand,
    epilog=options.example("podium eval drift october.jsonl rankings.jsonl --pipeline best --max-psi 0.1"),
)
@click.argument("reference", metavar="REFERENCE", type=_FILE)
@click.argument("live", metavar="LIVE", type=_FILE)
@click.option("--pipeline", metavar="NAME", help="Whose rankings.  [default: the reference's most frequent]")
@click.option("--max-psi", type=click.FloatRange(min=0), default=0.25, help="Of any distribution.")
@click.option("--max-ks", type=click.FloatRange(min=0, max=1), default=0.15, help="Likewise.")
@click.option("--min-tau", type=click.FloatRange(-1, 1), help="Mean Kendall tau of the queries that both logs have.")
@common.seed
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(
    reference: Path,
    live: Path,
    pipeline: str | None,
    max_psi: float,
    max_ks: float,
    min_tau: float | None,
    seed: int,
    as_json: bool,
) -> int:
    r"""Compare live rankings with a reference: scores, and how far the pipeline moves documents.

    Both are logs of rankings ([ranking_log] of the configuration; share = 1.0 writes every request). A distance counts
    as exceeded when it passes its threshold and what chance makes of logs of this size.

    \b
    Exit codes: 0 alike; 1 a threshold is exceeded; 2 misused, or files that cannot be used.
    """
    from podium_evals.online.drift import drift
    from podium_evals.online.traffic import read_log

    logs = [read_log(path) for path in (reference, live)]
    for log in logs:
        if log.unreadable:
            click.echo(
                f"podium: {log.unreadable:,} lines of {log.files[-1]} cannot be read, and are left out", err=True
            )
    found = drift(
        logs[0].requests,
        logs[1].requests,
        pipeline=pipeline,
        psi_max=max_psi,
        ks_max=max_ks,
        tau_min=min_tau,
        seed=seed,
    )
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2))
    else:
        _show(found)
    return FAILED if found.exceeded else DONE


def _show(found: Drift) -> None:
    from rich import box
    from rich.table import Table

    from podium_evals.cli.table import paper

    out = paper()
    out.print(f"{found.pipeline}: {found.requests[0]:,} rankings in the reference, {found.requests[1]:,} live")
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0))
    for title in ("", "reference", "live", "PSI", "by chance", "KS", "by chance", ""):
        table.add_column(title, justify="right" if title else "left")
    for what, distance in found.distances.items():
        table.add_row(
            what,
            f"{distance.reference:.4f}",
            f"{distance.live:.4f}",
            f"{distance.psi:.4f}",
            f"{distance.psi_chance:.4f}",
            f"{distance.ks:.4f}",
            f"{distance.ks_chance:.4f}",
            "[bold red]exceeded[/]" if what in found.exceeded else "",
        )
    out.print(table)
    if found.same is not None:
        same = found.same
        out.print(
            f"{same.queries:,} queries are in both: mean Kendall tau {same.kendall_tau:.4f}, {same.changed:.1%} in "
            f"another order, {same.top_10_kept:.1%} of the first ten kept"
        )
    out.print("exceeded: " + ", ".join(found.exceeded) if found.exceeded else "nothing is exceeded")
