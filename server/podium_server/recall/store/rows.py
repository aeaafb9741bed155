"""What goes into the store and what comes out of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from podium_server.errors import PodiumError
from podium_server.recall.document import Document
from podium_server.recall.encoding import Codes, Floats
from podium_server.recall.settings import CollectionSettings


@dataclass(frozen=True, slots=True)
class CollectionRow:
    """A collection as the store knows it.

    Args:
        id: of this store, never used again.
        name: of the collection.
        settings: as it was made, nothing left open.
        revision: of the encoder.
        dim: of its vectors.
        created_s: seconds since the epoch.
        updated_s: of the last change; None where there was none.
        generation: one up with each change.
        documents: how many.
        chunks: passages.
        tokens: token vectors.
        bytes: about what it takes on the disk.
        token_loss: mean absolute error of a cosine with 8-bit token vectors; None where there are none.
        index_token: of the index file that belongs to it.

    """

    id: int
    name: str
    settings: CollectionSettings
    revision: str
    dim: int
    created_s: float
    updated_s: float | None
    generation: int
    documents: int
    chunks: int
    tokens: int
    bytes: int
    token_loss: float | None
    index_token: str | None


@dataclass(frozen=True, slots=True)
class PreparedChunk:
    """A passage with all that is stored of it."""

    start: int
    end: int
    text: str | None
    terms: NDArray[np.uint64]
    counts: NDArray[np.uint16]
    length: int
    vector: Floats
    codes: Codes | None = None
    scales: Floats | None = None
    loss: float = 0.0

    @property
    def tokens(self) -> int:
        """How many token vectors it has."""
        return 0 if self.codes is None else len(self.codes)


@dataclass(frozen=True, slots=True)
class PreparedDocument:
    """A document ready to be written.

    Args:
        index: its place in the stream.
        document: itself.
        digest: of it.
        chunks: its passages; None where the store had this very document when it was looked up.

    """

    index: int
    document: Document
    digest: bytes
    chunks: tuple[PreparedChunk, ...] | None


@dataclass(frozen=True, slots=True)
class Delta:
    """What a transaction changed, for the indexes in memory.

    Args:
        chunks: (n,) ids of new passages, ascending, all greater than any before.
        documents: (n,) whose they are.
        vectors: of each, (dim,).
        terms: of each.
        counts: of its terms.
        lengths: of each, in terms.
        removed: ids of passages that are gone.

    """

    chunks: Sequence[int] = ()
    documents: Sequence[int] = ()
    vectors: Sequence[Floats] = ()
    terms: Sequence[NDArray[np.uint64]] = ()
    counts: Sequence[NDArray[np.uint16]] = ()
    lengths: Sequence[int] = ()
    removed: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a batch.

    Args:
        generation: of the collection now.
        delta: for the indexes.
        inserted: ids that were not there before.
        replaced: ids that were there, with other content.
        unchanged: ids of documents that were there letter by letter.
        duplicates: documents whose id this very stream had written before; counted nowhere else.
        refused: documents that were not written, and why.
        overtaken: documents that were taken for unchanged and were changed by someone else meanwhile. Not written.

    """

    generation: int
    delta: Delta
    inserted: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    duplicates: int = 0
    refused: tuple[tuple[PreparedDocument, PodiumError], ...] = ()
    overtaken: tuple[PreparedDocument, ...] = ()


@dataclass(frozen=True, slots=True)
class ChunkRow:
    """A passage as a hit needs it."""

    chunk: int
    document: Document
    text: str
    ordinal: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class LoadedRows:
    """All that the indexes in memory are made of, in ascending order of passages.

    Args:
        chunks: (n,) ids.
        documents: (n,) whose they are.
        lengths: (n,) in terms.
        vectors: (n, dim) float32.
        terms: of each.
        counts: of its terms.

    """

    chunks: NDArray[np.int64]
    documents: NDArray[np.int64]
    lengths: NDArray[np.int32]
    vectors: Floats
    terms: list[NDArray[np.uint64]]
    counts: list[NDArray[np.uint16]]
