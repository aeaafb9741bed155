"""`podium index`: files into a collection."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from podium_server.cli import options
from podium_server.cli.app import DONE, FAILED, Command
from podium_server.cli.reaching import connecting
from podium_server.recall.limits import CHUNK_TOKENS_MIN, OVERLAP_TOKENS

# What is told one by one; of the rest only the number.
_SHOWN = 20


@click.command(
    "index",
    cls=Command,
    epilog=options.example(
        """
podium index --collection manuals --data-dir ./data manuals.jsonl.gz
podium index --collection notes --target podium.internal:50051 ~/notes"""
    ),
)
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILES…")
@click.option("--collection", required=True, metavar="NAME", help="Made if it is not there.")
@options.target
@connecting.options
@options.data_dir
@options.config
@click.option("--encoder", default="", metavar="MODEL", help="Of a collection that is made.")
@click.option("--token-vectors/--no-token-vectors", default=False, help="Of a collection that is made.")
@click.option(
    "--chunk-tokens", type=click.IntRange(min=CHUNK_TOKENS_MIN), metavar="N", help="Of a collection that is made."
)
@click.option(
    "--chunk-overlap-tokens",
    type=click.IntRange(min=0),
    metavar="N",
    help=f"Likewise.  [default: {OVERLAP_TOKENS}, or less than half of --chunk-tokens]",
)
def command(
    paths: tuple[Path, ...],
    collection: str,
    target: str | None,
    data_dir: Path | None,
    config_path: Path | None,
    encoder: str,
    token_vectors: bool,
    chunk_tokens: int | None,
    chunk_overlap_tokens: int | None,
) -> int:
    """Put documents into a collection.

    FILES are JSON lines, plain or gzipped ({"id", "text", "title"?, "fields"?, "metadata"?}), texts (.txt, .md, .rst: a
    document each, its path is its id), or folders of such. A document that is there already, letter by letter, costs
    nothing; doing it all again does no harm. What was acknowledged is on the disk.

    Without --target a server is started here for as long as it takes.
    """
    import podium_client
    from podium_server.cli.display import console as look
    from podium_server.cli.display.indexing_bar import indexing_bar
    from podium_server.cli.documents.files import Corpus
    from podium_server.cli.reaching.ledgers import ledger_of
    from podium_server.cli.reaching.local_server import target_or_local
    from podium_server.jobs.tally import joined

    if target is not None and (data_dir is not None or config_path is not None):
        raise click.UsageError("--data-dir and --config are of a server that is started here; --target names another.")
    corpus = Corpus(paths)
    if not corpus.files():
        raise click.UsageError("there is no file of a known kind (.jsonl, .jsonl.gz, .txt, .md, .rst) in these folders")
    paper = look.stderr()
    with (
        target_or_local(target, config=config_path, data_dir=data_dir) as place,
        podium_client.Client(place, **connecting.arguments(place)) as client,
        indexing_bar() as bar,
    ):
        names = {known.name for known in client.list_collections()}
        if collection not in names:
            chunking = None
            if chunk_tokens is not None or chunk_overlap_tokens is not None:
                # As the server would choose, where passages are long enough.
                usual = min(OVERLAP_TOKENS, (chunk_tokens - 1) // 2) if chunk_tokens is not None else OVERLAP_TOKENS
                overlap = usual if chunk_overlap_tokens is None else chunk_overlap_tokens
                chunking = podium_client.Chunking(chunk_tokens or 0, overlap)
            client.create_collection(collection, encoder=encoder, token_vectors=token_vectors, chunking=chunking)
        task = bar.add_task(collection, total=corpus.size_bytes(), documents=0)
        corpus.on_bytes = lambda size: bar.advance(task, size)
        done = client.upsert(
            collection,
            corpus.documents(),
            call_documents=1024,
            on_acknowledged=lambda upserted: bar.update(task, documents=upserted.acknowledged),
        )
        bar.update(task, completed=corpus.size_bytes())
        elapsed_s = bar.tasks[0].elapsed or 0.0
    for sentence in corpus.skipped[:_SHOWN]:
        paper.print(sentence, markup=False, soft_wrap=True)
    for refused in done.errors[:_SHOWN]:
        paper.print(f"{refused.document_id!r}: {refused.error.message}", markup=False, soft_wrap=True)
    more = len(corpus.skipped) + done.refused - min(len(corpus.skipped), _SHOWN) - min(len(done.errors), _SHOWN)
    if more > 0:
        paper.print(f"… and {more:,} more")
    skipped = len(corpus.skipped) + done.refused
    paper.print(
        f"{look.plural(done.acknowledged, 'document')} in [bold]{collection}[/]: {done.inserted:,} new, "
        f"{done.replaced:,} replaced, {done.unchanged:,} unchanged"
        + (f", [red]{skipped:,} not taken[/]" if skipped else "")
        + f"; {look.seconds(elapsed_s)} ({done.documents / max(elapsed_s, 1e-6):,.0f}/s)"
    )
    paper.print(look.ledger_table(joined(ledger_of(ledger) for ledger in done.ledgers)))
    sys.stderr.flush()
    return FAILED if skipped else DONE
