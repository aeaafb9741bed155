"""`podium mine`: hard negatives for queries with positives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from podium_server.cli import options
from podium_server.cli.app import Command


@click.command(
    "mine",
    cls=Command,
    epilog=options.example(
        """
podium mine pairs.jsonl --corpus corpus.jsonl.gz --pipeline fast --out lists.jsonl
podium mine pairs.jsonl --collection manuals --data-dir ./data --ranks 10:60 --unchecked --out lists.jsonl"""
    ),
)
@click.argument("source", metavar="QUERIES")
@click.option("--collection", metavar="NAME", help="Where to look: a collection of the store in --data-dir.")
@click.option(
    "--corpus",
    type=click.Path(path_type=Path, exists=True),
    multiple=True,
    metavar="FILE",
    help="Where to look: documents as `podium index` takes them, put into a store for as long as the job lasts.",
)
@options.data_dir
@options.of_a_job
@click.option("--ranks", default="1:100", metavar="A:B", help="Ranks of recall that negatives are taken from.")
@click.option(
    "--negatives", type=click.IntRange(min=1), default=10, metavar="N", help="Of a query at most; the first ones."
)
@click.option("--retrievers", type=click.Choice(["both", "bm25", "vector"]), default="both", help="Who recalls.")
@click.option("--pipeline", metavar="NAME", help="The teacher that checks them.  [default: the default pipeline]")
@click.option("--unchecked", is_flag=True, help="Believe every negative, and ask no teacher.")
@click.option(
    "--margin",
    type=float,
    default=0.0,
    metavar="M",
    help="Drop a negative that scores as high as the lowest positive less M, in the unit of the pipeline's scores.",
)
def command(**given: Any) -> int:
    r"""Find hard negatives in a collection, and drop those that a teacher thinks relevant.

    QUERIES has one query a line: {"qid", "query", "positives": [{"docid", "text"?}, …]}, or one pair a line: {"query",
    "positive": text, "docid"?}; what `podium synthesize` writes is of the second kind. A positive of which only the
    docid is given is looked up in the collection.

    OUT gets one list a query: {"qid", "query", "candidates": [{"docid", "text", "rel", "rank"?, "teacher_score"?}]},
    positives with rel 1 and negatives with rel 0, in the order of recall. Known positives, by their id or their text,
    are never negatives. A negative that scores at least as high as the lowest positive less the margin is dropped, and
    counted. Whatever ends the job, the same command goes on with it.
    """
    import asyncio

    from podium_server.cli.job_runs.mine import MineJob

    if bool(given["corpus"]) == (given["collection"] is not None):
        raise click.UsageError("--collection names where to look, or --corpus brings it: give one of them.")
    if given["corpus"] and given["data_dir"] is not None:
        raise click.UsageError("--data-dir is of --collection; a --corpus has a store of its own.")
    if given["unchecked"] and (given["pipeline"] is not None or given["margin"]):
        raise click.UsageError("--unchecked asks no teacher, so that --pipeline and --margin mean nothing beside it.")
    return asyncio.run(MineJob.prepared(given).run())
