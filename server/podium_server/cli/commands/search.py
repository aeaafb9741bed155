"""`podium search`: one question to a collection."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from podium_server.cli import options
from podium_server.cli.app import Command
from podium_server.cli.reaching import connecting

if TYPE_CHECKING:
    from podium_client import FoundDocument, SearchResult


@click.command(
    "search",
    cls=Command,
    epilog=options.example(
        """
podium search --collection manuals --data-dir ./data "how do I reset it"
podium search --collection manuals --target podium.internal:50051 --pipeline best --top 5 "how do I reset it\""""
    ),
)
@click.argument("query")
@click.option("--collection", required=True, metavar="NAME", help="Where to look.")
@options.pipeline
@options.target
@connecting.options
@options.data_dir
@options.config
@click.option("--top", type=click.IntRange(min=1), default=10, metavar="N", help="Documents to show.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    query: str,
    collection: str,
    pipeline: str | None,
    target: str | None,
    data_dir: Path | None,
    config_path: Path | None,
    top: int,
    as_json: bool,
) -> None:
    """Ask a collection: recall, then a pipeline. Prints the ranking and what it cost.

    Without --target a server is started here for as long as it takes.
    """
    import podium_client
    from podium_server.cli.reaching.ledgers import ledger_of
    from podium_server.cli.reaching.local_server import target_or_local
    from podium_server.jobs.ledgers import usage_record

    if target is not None and (data_dir is not None or config_path is not None):
        raise click.UsageError("--data-dir and --config are of a server that is started here; --target names another.")
    with (
        target_or_local(target, config=config_path, data_dir=data_dir) as place,
        podium_client.Client(place, **connecting.arguments(place)) as client,
    ):
        found = client.search(collection, query, pipeline=pipeline, top_n=top, include_content=True)
    if not as_json:
        _print(found)
        return
    data = {
        "query": query,
        "pipeline": found.pipeline,
        "completion": found.completion,
        "recalled": found.recalled,
        "results": [
            {"docid": hit.ranked.document_id, "score": hit.ranked.score, "text": text_of(hit)} for hit in found.results
        ],
        "usage": usage_record(ledger_of(found.ledger)),
    }
    click.echo(json.dumps(data, ensure_ascii=False))


def _print(found: SearchResult) -> None:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from podium_server.cli.display import console as look
    from podium_server.cli.reaching.ledgers import ledger_of

    paper = look.stdout()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", justify="right", style="dim")
    table.add_column("recall", justify="right")
    table.add_column("document", style="bold", overflow="ellipsis", no_wrap=True, max_width=36)
    table.add_column("score", justify="right")
    table.add_column("text", overflow="ellipsis", no_wrap=True, ratio=1)
    for hit in found.results:
        ranked = hit.ranked
        score = "" if ranked.score is None else f"{ranked.score:.3f}"
        moved = look.moved(ranked.input_index + 1, ranked.rank)
        table.add_row(str(ranked.rank), moved, escape(ranked.document_id), score, escape(look.gist(text_of(hit))))
    paper.print(f"[bold]{found.pipeline}[/] over {look.plural(found.recalled, 'recalled document')}")
    paper.print(table)
    for warning in found.warnings:
        paper.print(f"[yellow]{escape(warning.message)}[/]")
    if found.completion != "complete":
        paper.print(f"[yellow]not complete: {found.completion}[/]")
    paper.print(look.ledger_table(ledger_of(found.ledger)))


def text_of(hit: FoundDocument) -> str:
    """Return what a document says, its fields one after another."""
    document = hit.document
    if document is None:
        return ""
    return document.text if document.text is not None else "\n".join((document.fields or {}).values())
