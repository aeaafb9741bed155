"""`podium eval report`: results.json as one HTML file."""

from __future__ import annotations

from pathlib import Path

import click

from podium_evals.cli.common import EvalCommand
from podium_server.cli import options
from podium_server.cli.app import DONE

RESULTS = "results.json"


@click.command(
    "report",
    cls=EvalCommand,
    epilog=options.example(
        """
podium eval report evaluation/
podium eval report evaluation/ --out /tmp/report.html"""
    ),
)
@click.argument("source", metavar="RESULTS_DIR", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The report.  [default: report.html beside the results]",
)
def command(source: Path, out: Path | None) -> int:
    r"""Draw what an evaluation found as one HTML file: it needs no network, and opens from a disk or an e-mail.

    RESULTS_DIR is the folder that `podium eval run --out` wrote, or the results.json in it.

    \b
    Exit codes: 0 written; 2 there are no results, or the file cannot be written.
    """
    from podium_evals import report
    from podium_evals.results_file import ResultsError, read

    results = source / RESULTS if source.is_dir() else source
    if not results.is_file():
        raise ResultsError(f"{results}: there is no such file; podium eval run --out {source} makes it")
    target = out or results.with_name("report.html")
    found = read(results)
    try:
        report.write(found, target)
    except OSError as error:
        raise click.BadParameter(f"{target}: cannot be written: {error.strerror}", param_hint="--out") from error
    except ValueError as error:
        raise ResultsError(f"{results}: {error}") from error
    click.echo(f"wrote {target} ({target.stat().st_size / 1e6:.1f} MB)", err=True)
    return DONE
