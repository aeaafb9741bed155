"""Every bound of recall, in one place."""

from __future__ import annotations

from dataclasses import dataclass, fields

MIB = 1 << 20
CHUNK_TOKENS_MIN = 16
"""Of a passage; a shorter one says nothing."""
OVERLAP_TOKENS = 32
"""Of neighbouring passages, where nobody says otherwise; a small encoder takes less."""


@dataclass(frozen=True, slots=True)
class RecallLimits:
    """Bounds with their defaults. Beyond one: InvalidRequest with the field's path, unless its text says otherwise.

    Args:
        collections: of one store; beyond it QuotaExceeded.
        documents_per_collection: beyond it QuotaExceeded, for each document that would be one too many.
        document_bytes: UTF-8 bytes of one document's text, all fields together.
        metadata_bytes: of one document's metadata, as JSON.
        id_bytes: UTF-8 bytes of a document's id.
        fields: named parts of one document.
        field_name_bytes: UTF-8 bytes of a field's name.
        chunks_per_document: passages of one document.
        ids: of one get or delete.
        query_bytes: UTF-8 bytes of a query.
        depth: documents that one search may ask for.
        filter_nodes: of one filter, all levels together.
        filter_depth: levels of one filter.
        membership_values: of one membership condition.
        batch_documents: put into one transaction.
        batch_bytes: UTF-8 bytes of the documents in one transaction; a single larger one has its own.
        waiting: calls that wait for a thread; beyond it Overloaded.
        store_bytes: of the store's main file; beyond it StoreFull. None leaves it to the disk.

    """

    collections: int = 1_000
    documents_per_collection: int = 5_000_000
    document_bytes: int = 5 * MIB
    metadata_bytes: int = 64 * 1024
    id_bytes: int = 512
    fields: int = 32
    field_name_bytes: int = 64
    chunks_per_document: int = 20_000
    ids: int = 10_000
    query_bytes: int = 32 * 1024
    depth: int = 1_000
    filter_nodes: int = 256
    filter_depth: int = 16
    membership_values: int = 1_000
    batch_documents: int = 256
    batch_bytes: int = 4 * MIB
    waiting: int = 512
    store_bytes: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and value < 1:
                raise ValueError(f"{field.name} is {value}; at least 1 is needed")
