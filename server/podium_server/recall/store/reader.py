"""One state of the store, read."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from podium_server.errors import NotFound, StoreError
from podium_server.recall.document import Document, read_document
from podium_server.recall.settings import CollectionSettings
from podium_server.recall.store.rows import ChunkRow, CollectionRow, LoadedRows

_PARAMETERS_MAX = 500

_COLLECTION = (
    "SELECT id, name, encoder, chunk_tokens, overlap_tokens, token_vectors, revision, dim, created_s, updated_s,"
    " generation, documents, chunks, tokens, bytes, loss_sum, loss_count, index_token FROM collections"
)


class Reader:
    """One state of the store, for as long as its transaction lasts."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def names(self) -> tuple[str, ...]:
        """Return the names of all collections, in order."""
        return tuple(
            row[0]
            for row in self.connection.execute("SELECT name FROM collections WHERE name IS NOT NULL ORDER BY name")
        )

    def collections(self) -> tuple[CollectionRow, ...]:
        """Return all collections, by name."""
        return tuple(map(_row, self.connection.execute(f"{_COLLECTION} WHERE name IS NOT NULL ORDER BY name")))

    def find(self, name: str) -> CollectionRow | None:
        """Return a collection, or None."""
        row = self.connection.execute(f"{_COLLECTION} WHERE name = ?", (name,)).fetchone()
        return None if row is None else _row(row)

    def collection(self, name: str) -> CollectionRow:
        """Return a collection.

        Raises:
            NotFound: with the names that there are.

        """
        row = self.find(name)
        if row is None:
            raise NotFound("collection", name, self.names())
        return row

    def by_id(self, collection: int) -> CollectionRow:
        """Return a collection that was there a moment ago.

        Raises:
            NotFound: it was deleted meanwhile.

        """
        row = self.connection.execute(f"{_COLLECTION} WHERE id = ? AND name IS NOT NULL", (collection,)).fetchone()
        if row is None:
            raise NotFound("collection", f"#{collection} (deleted meanwhile)", self.names())
        return _row(row)

    def load(self, row: CollectionRow) -> LoadedRows:
        """Return all rows of the indexes. 100,000 passages take about half a second."""
        n = row.chunks
        loaded = LoadedRows(
            np.empty(n, np.int64),
            np.empty(n, np.int64),
            np.empty(n, np.int32),
            np.empty((n, row.dim), np.float32),
            [],
            [],
        )
        rows = self.connection.execute(
            "SELECT chunk, document, length, vector, terms, counts FROM chunk_index WHERE collection = ?"
            " ORDER BY chunk",
            (row.id,),
        )
        seen = 0
        for place, (chunk, document, length, vector, terms, counts) in enumerate(rows):
            seen += 1
            if seen > n or len(vector) != 4 * row.dim or len(terms) != 4 * len(counts):
                break
            loaded.chunks[place] = chunk
            loaded.documents[place] = document
            loaded.lengths[place] = length
            loaded.vectors[place] = np.frombuffer(vector, "<f4")
            loaded.terms.append(np.frombuffer(terms, "<u8"))
            loaded.counts.append(np.frombuffer(counts, "<u2"))
        if len(loaded.terms) != n or seen != n:
            raise StoreError(
                f"the collection {row.name!r} is damaged: {n} passages are counted and row {seen} does not fit; "
                "restore the data directory from a backup, or delete the collection and index again"
            )
        return loaded

    def digests(self, collection: int, keys: Sequence[str]) -> dict[str, bytes]:
        """Return the digests of those documents that are there."""
        found: dict[str, bytes] = {}
        for part in _parts(keys):
            found.update(
                self.connection.execute(
                    f"SELECT key, digest FROM documents WHERE collection = ? AND key IN ({_marks(part)})",
                    (collection, *part),
                )
            )
        return found

    def documents(self, collection: int, keys: Sequence[str]) -> dict[str, Document]:
        """Return those documents that are there."""
        found: dict[str, Document] = {}
        for part in _parts(keys):
            for key, content, metadata in self.connection.execute(
                "SELECT d.key, c.content, d.metadata FROM documents d JOIN contents c ON c.document = d.id"
                f" WHERE d.collection = ? AND d.key IN ({_marks(part)})",
                (collection, *part),
            ):
                found[key] = read_document(key, content, metadata)
        return found

    def matching(self, collection: int, condition: str, parameters: Sequence[Any]) -> NDArray[np.int64]:
        """Return the ids (of the store) of documents whose metadata fulfils an SQL condition, ascending.

        Args:
            collection: its id.
            condition: of `filters.condition`, on the column `metadata`.
            parameters: of the condition.

        """
        rows = self.connection.execute(
            f"SELECT id FROM documents WHERE collection = ? AND {condition} ORDER BY id", (collection, *parameters)
        )
        return np.fromiter((row[0] for row in rows), np.int64)

    def chunks(self, chunks: Sequence[int]) -> dict[int, ChunkRow]:
        """Return passages with the ids and metadata of their documents; of the texts only what is needed."""
        found: dict[int, ChunkRow] = {}
        for part in _parts(chunks):
            for chunk, ordinal, start, stop, text, key, metadata, content in self.connection.execute(
                "SELECT c.id, c.ordinal, c.start, c.stop, c.text, d.key, d.metadata,"
                " CASE WHEN c.text IS NULL THEN (SELECT content FROM contents WHERE document = d.id) END"
                f" FROM chunks c JOIN documents d ON d.id = c.document WHERE c.id IN ({_marks(part)})",
                part,
            ):
                document = read_document(key, content or "{}", metadata)
                found[chunk] = ChunkRow(
                    chunk, document, document.full_text if text is None else text, ordinal, start, stop
                )
        return found

    def token_vectors(self, chunks: Sequence[int]) -> dict[int, tuple[bytes, bytes]]:
        """Return scales (float32) and codes (int8) of those passages that have token vectors."""
        found: dict[int, tuple[bytes, bytes]] = {}
        for part in _parts(chunks):
            for chunk, scales, codes in self.connection.execute(
                f"SELECT chunk, scales, codes FROM chunk_tokens WHERE chunk IN ({_marks(part)})", part
            ):
                found[chunk] = (scales, codes)
        return found


def _row(row: tuple[Any, ...]) -> CollectionRow:
    (id_, name, encoder, chunk_tokens, overlap_tokens, token_vectors, revision, dim, created_s, updated_s, generation,
     documents, chunks, tokens, size, loss_sum, loss_count, index_token) = row  # fmt: skip
    return CollectionRow(
        id=id_,
        name=name,
        settings=CollectionSettings(encoder, chunk_tokens, overlap_tokens, bool(token_vectors)),
        revision=revision,
        dim=dim,
        created_s=created_s,
        updated_s=updated_s,
        generation=generation,
        documents=documents,
        chunks=chunks,
        tokens=tokens,
        bytes=size,
        token_loss=loss_sum / loss_count if loss_count else None,
        index_token=index_token,
    )


def _parts(items: Sequence[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(items), _PARAMETERS_MAX):
        yield list(items[start : start + _PARAMETERS_MAX])


def _marks(items: Sequence[Any]) -> str:
    return ",".join("?" * len(items))
