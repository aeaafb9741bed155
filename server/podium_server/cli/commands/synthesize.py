"""`podium synthesize`: queries for a corpus that has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from podium_server.cli import options
from podium_server.cli.app import Command


@click.command(
    "synthesize",
    cls=Command,
    epilog=options.example(
        """
podium synthesize corpus.jsonl.gz --config podium.toml --model writer --out pairs.jsonl
podium synthesize corpus.jsonl --config podium.toml --model writer --queries 5 --examples own.jsonl --out pairs.jsonl"""
    ),
)
@click.argument("source", metavar="CORPUS.jsonl[.gz]")
@click.option("--model", required=True, metavar="NAME", help="A chat model of the configuration, which writes.")
@click.option(
    "--collection",
    metavar="NAME",
    help="The collection of the store in --data-dir that holds the corpus.  [default: one is made for the job]",
)
@options.data_dir
@options.of_a_job
@click.option("--queries", type=click.IntRange(1, 20), default=3, metavar="N", help="Written for each document.")
@click.option(
    "--within", type=click.IntRange(min=1), default=10, metavar="K", help="Keep those that recall the document so high."
)
@click.option("--retrievers", type=click.Choice(["both", "bm25", "vector"]), default="both", help="Who recalls.")
@click.option(
    "--examples",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help='Show some of these before each document: {"query", "positive" or "text"} a line.',
)
@click.option(
    "--examples-shown", type=click.IntRange(min=1), default=3, metavar="N", help="Of the examples, to each document."
)
@click.option("--temperature", type=click.FloatRange(0, 2), default=0.7, metavar="T", help="Of the writing.")
@click.option("--seed", type=int, default=0, metavar="N", help="Of the writing and the choice of examples.")
@click.option(
    "--min-words", type=click.IntRange(min=1), default=8, metavar="N", help="Pass over documents that are shorter."
)
def command(**given: Any) -> int:
    r"""Have a model write queries for documents, and keep those that lead back to them.

    CORPUS has one document a line: {"id", "text", "title"?}, as `podium index` reads them. OUT gets one pair a line:
    {"qid", "query", "positive": the document's text, "docid", "rank", "provenance"}. A query whose own document recall
    does not find within the first K ranks is dropped, and so is one that was written before; both are counted, like
    replies that could not be read as they should be. `podium mine` reads the pairs.

    Whatever ends the job, the same command goes on, and pays for no reply twice.
    """
    import asyncio

    from podium_server.cli.documents.files import LINES
    from podium_server.cli.job_runs.synthesize import SynthesisJob

    if given["collection"] is None and given["data_dir"] is not None:
        raise click.UsageError("--data-dir is of --collection; without one a store is made for the job.")
    if given["collection"] is None and not given["source"].endswith(LINES):
        # By another name the whole file would be searched as one document, and every query paid for in vain.
        raise click.UsageError(f"{given['source']} must be called {', '.join(LINES)}; or give a --collection.")
    if given["out"].endswith(".gz"):
        raise click.UsageError("--out is .gz, and written queries have to be read again: name a .jsonl or .parquet")
    return asyncio.run(SynthesisJob.prepared(given).run())
