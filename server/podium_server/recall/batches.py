"""Documents on their way into a collection: cut, encoded, and what became of them. Nothing here knows the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from podium_server.accounting.usage import Usage
from podium_server.errors import InvalidRequest, PodiumError
from podium_server.recall.chunking import Chunker, Passage, estimated_spans
from podium_server.recall.document import Document
from podium_server.recall.encoding import Encoder, Floats, Quantize, usage_of
from podium_server.recall.limits import RecallLimits
from podium_server.recall.store.rows import CollectionRow, PreparedChunk, PreparedDocument
from podium_server.recall.text import document_terms

RESERVED_TOKENS = 8
"""Of what an encoder reads, kept free for special tokens and a prefix."""

_ENCODED_AT_A_TIME = 256
"""Passages handed to the encoder at once: sorted by length, many fill its batches with less padding."""
_ENCODED_WITH_TOKENS_AT_A_TIME = 64
"""A vector a token is 50 MB for 256 passages, so fewer then."""
_LOSS_SAMPLE = 8


@dataclass(frozen=True, slots=True)
class Refused:
    """A document that was not written.

    Args:
        index: its place in the stream, from 0.
        id: its id, as it was given.
        error: why.

    """

    index: int
    id: str
    error: PodiumError


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A batch of which every document not in `refused` is on the disk, and is seen by the next search.

    Args:
        inserted: ids that were not there before.
        replaced: ids that were there with other content.
        unchanged: ids of documents that were there letter by letter; nothing was done for them.
        duplicates: documents whose id came again later in the same stream; the last one counts.
        refused: documents that were not written.
        usage: of encoding, not priced.

    """

    inserted: tuple[str, ...]
    replaced: tuple[str, ...]
    unchanged: tuple[str, ...]
    duplicates: int
    refused: tuple[Refused, ...]
    usage: Usage

    @property
    def ids(self) -> tuple[str, ...]:
        """All ids that are kept."""
        return self.inserted + self.replaced + self.unchanged


@dataclass(frozen=True, slots=True)
class Batch:
    """Documents on their way into a collection, encoded."""

    row: CollectionRow
    encoder: Encoder
    documents: tuple[PreparedDocument, ...]
    refused: tuple[Refused, ...]
    duplicates: int
    usage: Usage


@dataclass(frozen=True, slots=True)
class Preparer:
    """Makes of documents what is written of them.

    Args:
        limits: bounds.
        quantize: token vectors to 8 bits; None where no collection keeps them.

    """

    limits: RecallLimits
    quantize: Quantize | None

    def encoded(
        self, row: CollectionRow, encoder: Encoder, documents: Sequence[tuple[int, Document, bytes]]
    ) -> tuple[tuple[PreparedDocument, ...], tuple[Refused, ...], Usage]:
        """Cut documents and encode their passages, a few at a time: token vectors of many would fill the memory."""
        chunker = Chunker(
            max(min(row.settings.chunk_tokens, encoder.max_tokens - RESERVED_TOKENS), 1),
            min(row.settings.overlap_tokens, max(row.settings.chunk_tokens - RESERVED_TOKENS - 1, 0) // 2),
            # Asked for by name: an encoder around another one has it only where the inner one does.
            getattr(encoder, "token_spans", estimated_spans),
        )
        refused = []
        cut: list[tuple[int, Document, bytes, list[Passage]]] = []
        for index, document, its in documents:
            passages = chunker.passages(document)
            if len(passages) > self.limits.chunks_per_document:
                many = InvalidRequest(
                    f"documents[{index}].text",
                    f"makes {len(passages):,} passages; the limit is {self.limits.chunks_per_document:,}. Split it",
                )
                refused.append(Refused(index, document.id, many))
                continue
            cut.append((index, document, its, passages))
        flat = [passage for *_, passages in cut for passage in passages]
        usage = Usage()
        chunks: list[PreparedChunk] = []
        wants_tokens = row.settings.token_vectors
        at_a_time = _ENCODED_WITH_TOKENS_AT_A_TIME if wants_tokens else _ENCODED_AT_A_TIME
        for start in range(0, len(flat), at_a_time):
            part = flat[start : start + at_a_time]
            encoded = encoder.encode_documents([passage.text for passage in part], token_vectors=wants_tokens)
            usage += usage_of(encoded, documents=True)
            tokens = encoded.token_vectors if wants_tokens else None
            chunks.extend(
                self._chunk(passage, encoded.vectors[place], tokens[place] if tokens is not None else None)
                for place, passage in enumerate(part)
            )
        prepared = []
        at = 0
        for index, document, its, passages in cut:
            prepared.append(PreparedDocument(index, document, its, tuple(chunks[at : at + len(passages)])))
            at += len(passages)
        return tuple(prepared), tuple(refused), usage

    def _chunk(self, passage: Passage, vector: Floats, tokens: Floats | None) -> PreparedChunk:
        terms, counts, length = document_terms(passage.text)
        chunk = PreparedChunk(
            passage.start,
            passage.end,
            None if passage.whole else passage.text,
            terms,
            counts,
            length,
            np.ascontiguousarray(vector, np.float32),
        )
        if tokens is None:
            return chunk
        assert self.quantize is not None
        codes, scales = self.quantize(tokens)
        scales = np.asarray(scales, np.float32).reshape(-1)
        # How far the cosines with some of its own tokens move.
        towards = tokens[:_LOSS_SAMPLE].T
        kept = codes.astype(np.float32) * scales[:, None]
        loss = float(np.abs(tokens @ towards - kept @ towards).mean()) if len(tokens) else 0.0
        return replace(chunk, codes=np.ascontiguousarray(codes, np.int8), scales=scales, loss=loss)
