"""`podium demo`: a server, a corpus that everybody has, a few questions, and what the answers cost."""

from __future__ import annotations

import itertools
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from podium_server.cli import options
from podium_server.cli.app import Command

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from podium_client import Client, Pipeline, SearchResult

COLLECTION = "python"
BASELINE = "recall"
QUESTIONS = (
    "run a subprocess and stop it after a timeout",
    "parse a date string into a datetime",
    "compress a file with gzip",
    "find the difference between two texts, line by line",
)

# More do not fit beside each other on a page of a hundred columns.
_PIPELINES_SHOWN = 2
_RANKS_SHOWN = 6
_COLUMN_WIDTH = 25
_STEP_DOCUMENTS = 1024

# So that the ledger has something to add up. What two cores cost by the hour where machines are let, about.
CONFIG = """
[models.minilm]
backend = "openvino"
model = "minilm-late"
prices = { compute_usd_per_hour = 0.05, version = "demo" }

[models.minilm-cross]
backend = "cross-encoder"
model = "minilm-cross"
prices = { compute_usd_per_hour = 0.05, version = "demo" }
"""


@click.command("demo", cls=Command, epilog=options.example('podium demo\npodium demo "open a file and read its lines"'))
@click.argument("questions", nargs=-1, metavar="[QUESTIONS…]")
def command(questions: tuple[str, ...]) -> None:
    """Show what Podium does, on this machine, in about a minute.

    Starts a server on a free port with a temporary store, indexes the documentation of this machine's own Python
    library, asks it a few questions (or yours) over gRPC, prints the rankings beside the order of recall, and what each
    cost. Leaves nothing behind.
    """
    import podium_client
    from podium_server.cli.display import console as look
    from podium_server.cli.reaching.local_server import local_server

    paper = look.stdout()
    paper.print("[bold]Podium[/] · in which order should these stand, and what did it cost to find out?\n")
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="podium-demo-") as folder,
        local_server(config=_config(Path(folder)), data_dir=Path(folder) / "store") as target,
        podium_client.Client(target) as client,
    ):
        client.wait_ready()
        paper.print(f"[green]✓[/] a server on {target}, ready after {look.seconds(time.monotonic() - began)}")
        _index(paper, client)
        pipelines = _pipelines(client)
        for question in questions or QUESTIONS:
            _ask(paper, client, question, pipelines)
        paper.print("Cost: this machine at $0.05 an hour, as the demo configures it; 1 n$ is a billionth of a dollar.")
    paper.print(
        f"That was {look.seconds(time.monotonic() - began)}; the store is gone again. To keep one:\n"
        "  podium serve --data-dir ./data                          a server\n"
        "  podium index --collection notes --data-dir ./data DIR   your own texts\n"
        "  podium strategies                                       other ways to put them in order"
    )


def _config(folder: Path) -> Path:
    path = folder / "podium.toml"
    path.write_text(CONFIG, "utf-8")
    return path


def _index(paper: Console, client: Client) -> None:
    """Put the library into a collection, and tell how fast."""
    import podium_client
    from podium_server.cli.display import console as look
    from podium_server.cli.display.indexing_bar import indexing_bar
    from podium_server.cli.documents import stdlib_docs

    client.create_collection(COLLECTION, token_vectors=True)
    began = time.monotonic()
    with indexing_bar() as bar:
        modules = len(stdlib_docs.sources()) + len(stdlib_docs.compiled())
        task = bar.add_task("indexing", total=modules, documents=0)
        milestones = itertools.count(1000, 1000)
        milestone = next(milestones)

        def acknowledged(upserted: podium_client.Upserted) -> None:
            nonlocal milestone
            bar.update(task, documents=upserted.acknowledged)
            if bar.disable and upserted.acknowledged >= milestone:
                rate = upserted.acknowledged / (time.monotonic() - began)
                paper.print(f"  … {upserted.acknowledged:,} documents, {rate:,.0f}/s", style="dim")
                while milestone <= upserted.acknowledged:
                    milestone = next(milestones)

        documents = (
            podium_client.Document(
                id=found.name,
                fields={"name": f"{found.name}  {found.signature}".strip(), "documentation": found.text},
                metadata={"kind": found.kind},
            )
            for found in stdlib_docs.library(lambda: bar.advance(task))
        )
        done = client.upsert(COLLECTION, documents, call_documents=_STEP_DOCUMENTS, on_acknowledged=acknowledged)
    elapsed_s = time.monotonic() - began
    rate = done.acknowledged / elapsed_s
    for refused in done.errors:
        paper.print(f"  {refused.document_id}: {refused.error.message}", style="yellow", markup=False)
    paper.print(
        f"[green]✓[/] {done.acknowledged:,} documents, the documentation of Python {platform.python_version()}'s "
        f"library, embedded and on disk\n  in {look.seconds(elapsed_s)}: {rate:,.0f} a second\n"
    )


def _pipelines(client: Client) -> list[Pipeline]:
    """Return the pipelines to show beside recall, the default one first."""
    ready = [pipeline for pipeline in client.list_pipelines() if pipeline.ready and pipeline.name != BASELINE]
    return sorted(ready, key=lambda pipeline: not pipeline.is_default)[:_PIPELINES_SHOWN]


def _side_by_side(found: dict[str, SearchResult]) -> Table:
    """Return the orders as columns, recall first; each shows how far its documents have come from there."""
    from rich import box
    from rich.table import Table

    from podium_server.cli.display import console as look

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=False)
    table.add_column("", justify="right", style="dim")
    for name in found:
        table.add_column(f"{name}, as it came" if name == BASELINE else name, no_wrap=True)
    before = {hit.ranked.document_id: hit.ranked.rank for hit in found[BASELINE].results}
    room = _COLUMN_WIDTH if len(found) > 2 else 2 * _COLUMN_WIDTH
    for place in range(min(_RANKS_SHOWN, max(len(result.results) for result in found.values()))):
        cells = []
        for name, result in found.items():
            if place >= len(result.results):
                cells.append("")
                continue
            document_id = result.results[place].ranked.document_id
            shown = _tail(document_id, room)
            if name == BASELINE:
                cells.append(shown)
            else:
                move = look.moved(before.get(document_id, place + 1), place + 1, width=4)
                cells.append(f"{move} [bold]{shown}[/]" if place == 0 else f"{move} {shown}")
        table.add_row(str(place + 1), *cells)
    return table


def _tail(name: str, room: int) -> str:
    """Return as many of the last parts of a dotted name as fit: they say more than the first."""
    if len(name) <= room:
        return name
    parts = name.split(".")
    while len(parts) > 2 and len(".".join(parts)) + 1 > room:
        parts.pop(0)
    return "…" + ".".join(parts)[1 - room :]


def _ask(paper: Console, client: Client, question: str, pipelines: Sequence[Pipeline]) -> None:
    """Ask one question of every pipeline, and print the orders side by side, and what each cost."""
    from rich.markup import escape
    from rich.text import Text

    from podium_server.cli.display import console as look
    from podium_server.cli.reaching.ledgers import ledger_of

    found: dict[str, SearchResult] = {}
    for name in (BASELINE, *(pipeline.name for pipeline in pipelines)):
        found[name] = client.search(COLLECTION, question, pipeline=name, include_content=True)
    paper.rule(f"[bold]{escape(question)}[/]", align="left", style="dim")
    paper.print(_side_by_side(found))
    for name, result in found.items():
        if name != BASELINE and result.results:
            best = result.results[0]
            said = look.gist((best.document.fields or {}).get("documentation", "") if best.document else "")
            line = Text.assemble((f" first by {name}  ", "dim"), (best.ranked.document_id, "bold"), f"  {said}")
            line.truncate(paper.width, overflow="ellipsis")
            paper.print(line, no_wrap=True)
            break
    paper.print(look.ledgers_table({name: ledger_of(result.ledger) for name, result in found.items()}))
    paper.print()
    sys.stdout.flush()
