"""A collection to work with: one of a store, or one made of files for as long as a job lasts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import podium_client
from podium_server.cli.display import console as look
from podium_server.cli.documents.files import Corpus
from podium_server.compose import Podium
from podium_server.errors import InvalidRequest
from podium_server.recall.collections import Collections
from podium_server.recall.document import Document
from podium_server.recall.retriever import RETRIEVERS
from podium_server.recall.settings import CollectionSettings

OWN = "corpus"
"""The name of a collection that is made for a job."""


def store_of(podium: Podium) -> Collections:
    """Return the open store."""
    if podium.collections is None:
        raise ValueError("the job has no store")
    return podium.collections


async def ready(podium: Podium, collection: str | None, corpus: Sequence[Path]) -> str:
    """Return the name of a collection that can be searched; the files of `corpus` are in it where none is named.

    What is there already, letter by letter, costs nothing: a job that goes on finds its collection as it was.

    Raises:
        NotFound: no such collection, with those that there are.
        InvalidRequest: there is no document in the files.

    """
    store = store_of(podium)
    if collection is not None:
        await store.get(collection)
        await store.warm()
        return collection
    await store.create(OWN, CollectionSettings(podium.config.server.default_encoder))
    files = Corpus(tuple(corpus))
    taken = refused = 0
    async for acknowledged in store.upsert(OWN, _documents(files)):
        taken += len(acknowledged.ids)
        refused += len(acknowledged.refused)
    skipped = len(files.skipped) + refused
    look.stderr().print(
        f"{look.plural(taken, 'document')} to look among" + (f", [red]{skipped:,} not taken[/]" if skipped else "")
    )
    for sentence in files.skipped[:20]:
        look.stderr().print(sentence, markup=False, soft_wrap=True)
    if not taken:
        raise InvalidRequest("corpus", f"has no document: {', '.join(map(str, corpus))}")
    return OWN


def weights(retrievers: str) -> Mapping[str, float]:
    """Return the weights of the retrievers that an option names."""
    return {name: float(retrievers in ("both", name)) for name in RETRIEVERS}


async def _documents(files: Corpus) -> AsyncIterator[Document]:
    given = files.documents()
    while (document := await asyncio.to_thread(next, given, None)) is not None:
        yield _as_stored(document)


def _as_stored(document: podium_client.Document) -> Document:
    fields = tuple((document.fields or {}).items())
    text = "" if fields else (document.text or "")
    return Document(document.id, text, fields, document.metadata or {})
