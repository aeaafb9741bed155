"""`podium eval ab`: which pipeline won."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from podium_evals.cli import common
from podium_server.cli import options
from podium_server.cli.app import DONE

if TYPE_CHECKING:
    from podium_evals.online.ab import Report
    from podium_evals.online.estimates import Effect
    from podium_evals.online.traffic import Request

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command(
    "ab",
    cls=common.EvalCommand,
    epilog=options.example(
        "podium eval ab rankings.jsonl --clicks clicks.jsonl\n"
        "podium eval ab rankings.jsonl --qrels qrels.txt --queries queries.jsonl"
    ),
)
@click.argument("log", metavar="LOG", type=_FILE)
@click.option("--clicks", type=_FILE, metavar="FILE", help="JSON lines: request_id, doc_id, ts.")
@common.qrels
@click.option(
    "--queries", type=_FILE, metavar="FILE", help='With --qrels: JSON lines {"qid", "query"}, to know queries by text.'
)
@click.option("--secret-env", metavar="NAME", help="Variable with the secret of the fingerprints (as the server's).")
@click.option("--experiment", metavar="NAME", help="Which, where the log has several.")
@click.option(
    "--within", "within_s", type=click.FloatRange(min=0), metavar="S", help="Clicks later than that are left."
)
@click.option("-k", "depth", type=click.IntRange(1), default=10, help="Of nDCG@k.")
@common.seed
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(
    log: Path,
    clicks: Path | None,
    qrels: Path | None,
    queries: Path | None,
    secret_env: str | None,
    experiment: str | None,
    within_s: float | None,
    depth: int,
    seed: int,
    as_json: bool,
) -> int:
    r"""Read a log of rankings: which pipeline won, by how much, and whether the traffic can say so.

    LOG is what [ranking_log] of the configuration names; files that were put aside (LOG.1, …) are read with it. Judged
    by clicks (served and interleaved challengers), or by labels, whose qid is the id of a request, the fingerprint of
    a query, or stands for a query of --queries.

    Differences are the challenger's minus the incumbent's, a mean over requests, with the 95 % interval of a bootstrap
    that draws keys, since requests of one user depend on each other. `detectable` is the least true difference that
    this traffic finds in four of five cases.

    \b
    Exit codes: 0 measured; 2 misused, or files that cannot be used.
    """
    from podium_evals.online.ab import by_clicks, by_labels, select
    from podium_evals.online.traffic import read_clicks, read_log

    if (clicks is None) == (qrels is None):
        raise click.UsageError("judged by what? Give either --clicks FILE or --qrels FILE.")
    traffic = read_log(log)
    requests = select(traffic.requests, experiment)
    if clicks is not None:
        report = by_clicks(requests, read_clicks(clicks, requests, within_s=within_s), seed=seed)
    else:
        assert qrels is not None
        report = by_labels(requests, _labels(qrels, queries, secret_env), k=depth, seed=seed)
    if traffic.unreadable:
        click.echo(f"podium: {traffic.unreadable:,} lines of the log cannot be read, and are left out", err=True)
    if as_json:
        click.echo(json.dumps(asdict(report), indent=2))
    else:
        _show(report)
    return DONE


def _labels(
    qrels: Path, queries: Path | None, secret_env: str | None
) -> Callable[[Request], Mapping[str, float] | None]:
    """Return who knows a request's labels: by its id, by its query's fingerprint, by its query's text."""
    from podium_evals.online.traffic import lines_of
    from podium_evals.suite import SuiteError, read_qrels
    from podium_server.ranking.assignment import fingerprint

    secret = os.environ.get(secret_env, "").encode() if secret_env else b""
    if secret_env and not 1 <= len(secret) <= 64:
        raise click.BadParameter(f"{secret_env} has {len(secret)} bytes; 1 to 64 are needed", param_hint="--secret-env")
    judged: dict[str, dict[str, int]] = read_qrels(qrels)
    by_query = dict(judged)
    for number, line in lines_of(queries) if queries is not None else ():
        try:
            row = json.loads(line)
            qid, text = str(row.get("qid", row.get("_id"))), str(row.get("query", row.get("text")))
        except (ValueError, AttributeError):
            raise SuiteError(f'{queries}, line {number}: a query is {{"qid", "query"}}') from None
        if qid in judged:
            by_query[fingerprint(text, secret)] = judged[qid]
    return lambda request: judged.get(request.request_id) or by_query.get(request.query)


# --- the table --------------------------------------------------------------------------------------------------


def _show(report: Report) -> None:
    from rich import box
    from rich.table import Table

    from podium_evals.cli.table import paper
    from podium_evals.online.traffic import ARMS

    out = paper()
    out.print(f"{report.experiment}: {report.mode}, {report.requests:,} requests of {report.keys:,} keys")
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0))
    for title in ("", "pipeline", "rankings", "calls", "tokens", "USD", "p50 ms", "p95 ms", "missing"):
        table.add_column(title, justify="left" if title in ("", "pipeline", "missing") else "right")
    for arm in ARMS:
        cost = report.arms[arm]
        table.add_row(
            arm,
            cost.pipeline,
            f"{cost.rankings:,}",
            f"{cost.calls:.2f}",
            f"{cost.tokens:,.0f}",
            "unknown" if cost.usd is None else f"{cost.usd:.6f}",
            f"{cost.wall_p50_s * 1e3:.1f}",
            f"{cost.wall_p95_s * 1e3:.1f}",
            ", ".join(f"{count:,} {why}" for why, count in cost.missing.items()),
        )
    out.print(table)
    if report.effects:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0))
        for title in ("", "incumbent", "challenger", "difference", "95 %", "p", "detectable"):
            table.add_column(title, justify="left" if not title else "right")
        for name, effect in report.effects.items():
            table.add_row(name, *_effect(effect))
        out.print(table)
    if report.preference is not None:
        preferred, share = report.preference, report.preference.share
        out.print(
            f"clicked answers: {preferred.wins:,} for the challenger, {preferred.losses:,} against, "
            f"{preferred.ties:,} ties; keys: {preferred.key_wins:,} for, {preferred.key_losses:,} against, "
            f"p = {preferred.p:.3g} (sign test)\n"
            f"its share of them is {share.challenger:.3f} (95 %: {0.5 + share.low:.3f} to {0.5 + share.high:.3f}); "
            f"detectable: a share of {0.5 + share.detectable:.3f}"
        )
    for note in report.notes:
        out.print(note, style="dim")
    if report.mismatch is not None:
        out.print(f"sample ratio: p = {report.mismatch:.3g}", style="dim")
    for warning in report.warnings:
        out.print(f"warning: {warning}", style="bold red", soft_wrap=True)


def _effect(effect: Effect) -> tuple[str, ...]:
    return (
        f"{effect.incumbent:.4f}",
        f"{effect.challenger:.4f}",
        f"{effect.difference:+.4f}" + (" *" if effect.found else ""),
        f"{effect.low:+.4f} to {effect.high:+.4f}",
        f"{effect.p:.3g}",
        f"{effect.detectable:.4f}",
    )
