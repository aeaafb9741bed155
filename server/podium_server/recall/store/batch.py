"""The changes of one transaction to one collection."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence

from podium_server.errors import PodiumError, QuotaExceeded
from podium_server.recall.document import content_json, metadata_json
from podium_server.recall.limits import RecallLimits
from podium_server.recall.store.rows import CollectionRow, Delta, PreparedChunk, PreparedDocument, Written


class Changes:
    """The changes of one transaction to one collection."""

    def __init__(self, writer: sqlite3.Connection, row: CollectionRow, stream: bytes, limits: RecallLimits) -> None:
        self.writer = writer
        self.row = row
        self.stream = stream
        self.limits = limits
        self.documents = row.documents
        self.bytes = self.tokens = self.loss_count = self.duplicates = 0
        self.loss_sum = 0.0
        self.added: list[tuple[int, int, PreparedChunk]] = []
        self.removed: list[int] = []
        self.inserted: list[str] = []
        self.replaced: list[str] = []
        self.unchanged: list[str] = []
        self.refused: list[tuple[PreparedDocument, PodiumError]] = []
        self.overtaken: list[PreparedDocument] = []

    def put(self, prepared: PreparedDocument) -> None:
        key = prepared.document.id
        existing = self.writer.execute(
            "SELECT digest, stream FROM documents WHERE collection = ? AND key = ?", (self.row.id, key)
        ).fetchone()
        # What this very stream wrote before is counted already: counts must not depend on where a batch ended.
        again = existing is not None and bool(self.stream) and existing[1] == self.stream
        if existing is not None and existing[0] == prepared.digest:
            if again:
                self.duplicates += 1
            else:
                self.unchanged.append(key)
            return
        if prepared.chunks is None:
            self.overtaken.append(prepared)
            return
        if existing is None and self.documents >= self.limits.documents_per_collection:
            full = QuotaExceeded(
                f"the collection {self.row.name!r} holds {self.documents:,} documents, which is its limit; "
                "delete some, or make another collection",
                metadata={"limit": "documents_per_collection", "max": str(self.limits.documents_per_collection)},
            )
            self.refused.append((prepared, full))
            return
        if existing is not None:
            self.take_out(key)
            if again:
                self.duplicates += 1
            else:
                self.replaced.append(key)
        else:
            self.inserted.append(key)
        self._insert(prepared, prepared.chunks)

    def _insert(self, prepared: PreparedDocument, chunks: Sequence[PreparedChunk]) -> None:
        document = prepared.document
        content, metadata = content_json(document), metadata_json(document.metadata)
        tokens = sum(chunk.tokens for chunk in chunks)
        size = len(content.encode()) + len(metadata.encode()) + len(document.id.encode())
        for chunk in chunks:
            size += chunk.vector.nbytes + chunk.terms.nbytes + chunk.counts.nbytes + len((chunk.text or "").encode())
            if chunk.codes is not None and chunk.scales is not None:
                size += chunk.codes.nbytes + chunk.scales.nbytes
        execute = self.writer.execute
        row_id = execute(
            "INSERT INTO documents (collection, key, digest, stream, chunks, tokens, bytes, metadata)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (self.row.id, document.id, prepared.digest, self.stream, len(chunks), tokens, size, metadata),
        ).lastrowid
        execute("INSERT INTO contents VALUES (?, ?)", (row_id, content))
        assert row_id is not None
        for ordinal, chunk in enumerate(chunks):
            chunk_id = execute(
                "INSERT INTO chunks (document, ordinal, start, stop, text) VALUES (?, ?, ?, ?, ?)",
                (row_id, ordinal, chunk.start, chunk.end, chunk.text),
            ).lastrowid
            assert chunk_id is not None
            execute(
                "INSERT INTO chunk_index VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    chunk_id, self.row.id, row_id, chunk.length, chunk.terms.astype("<u8").tobytes(),
                    chunk.counts.astype("<u2").tobytes(), chunk.vector.astype("<f4").tobytes(),
                ),
            )  # fmt: skip
            if chunk.codes is not None and chunk.scales is not None:
                execute(
                    "INSERT INTO chunk_tokens VALUES (?, ?, ?)",
                    (chunk_id, chunk.scales.astype("<f4").tobytes(), chunk.codes.tobytes()),
                )
                self.loss_sum += chunk.loss
                self.loss_count += 1
            self.added.append((chunk_id, row_id, chunk))
        self.documents += 1
        self.tokens += tokens
        self.bytes += size

    def take_out(self, key: str) -> bool:
        """Remove a document, and return whether it was there."""
        found = self.writer.execute(
            "SELECT id, tokens, bytes FROM documents WHERE collection = ? AND key = ?", (self.row.id, key)
        ).fetchone()
        if found is None:
            return False
        self.removed.extend(remove_document(self.writer, found[0]))
        self.documents -= 1
        self.tokens -= found[1]
        self.bytes -= found[2]
        return True

    def end(self) -> Written:
        changed = bool(self.added or self.removed)
        generation = self.row.generation + changed
        if changed:
            self.writer.execute(
                "UPDATE collections SET generation = ?, updated_s = ?, documents = ?, chunks = chunks + ?,"
                " tokens = tokens + ?, bytes = bytes + ?, loss_sum = loss_sum + ?, loss_count = loss_count + ?"
                " WHERE id = ?",
                (
                    generation, time.time(), self.documents, len(self.added) - len(self.removed), self.tokens,
                    self.bytes, self.loss_sum, self.loss_count, self.row.id,
                ),
            )  # fmt: skip
        chunks = [chunk for _, _, chunk in self.added]
        delta = Delta(
            chunks=[chunk_id for chunk_id, _, _ in self.added],
            documents=[document for _, document, _ in self.added],
            vectors=[chunk.vector for chunk in chunks],
            terms=[chunk.terms for chunk in chunks],
            counts=[chunk.counts for chunk in chunks],
            lengths=[chunk.length for chunk in chunks],
            removed=self.removed,
        )
        return Written(
            generation,
            delta,
            tuple(self.inserted),
            tuple(self.replaced),
            tuple(self.unchanged),
            self.duplicates,
            tuple(self.refused),
            tuple(self.overtaken),
        )


def remove_document(writer: sqlite3.Connection, document: int) -> list[int]:
    """Remove a document's rows, and return its passages."""
    chunks = [row[0] for row in writer.execute("SELECT id FROM chunks WHERE document = ?", (document,))]
    for chunk in chunks:
        writer.execute("DELETE FROM chunk_index WHERE chunk = ?", (chunk,))
        writer.execute("DELETE FROM chunk_tokens WHERE chunk = ?", (chunk,))
    writer.execute("DELETE FROM chunks WHERE document = ?", (document,))
    writer.execute("DELETE FROM contents WHERE document = ?", (document,))
    writer.execute("DELETE FROM documents WHERE id = ?", (document,))
    return chunks
