"""Documents of the contract as the store knows them, and back."""

from __future__ import annotations

from podium.v1 import document_pb2
from podium_server.recall.document import Document
from podium_server.transport.convert.values import struct, to_struct


def read(message: document_pb2.Document) -> Document:
    """Return a document to keep. What it may be, the store judges; NUL characters become spaces, as in ranking."""
    structured = message.HasField("fields")
    return Document(
        id=message.id,
        text="" if structured else message.text.replace("\0", " "),
        fields=tuple((part.name, part.text.replace("\0", " ")) for part in message.fields.fields) if structured else (),
        metadata=struct(message.metadata) if message.HasField("metadata") else {},
    )


def write(document: Document) -> document_pb2.Document:
    """Return a document as it is stored."""
    message = document_pb2.Document(id=document.id)
    write_content(message, document)
    if document.metadata:
        message.metadata.CopyFrom(to_struct(document.metadata))
    return message


def write_content(message: document_pb2.Document, document: Document) -> None:
    """Write what a document says."""
    if document.fields:
        message.fields.fields.extend(document_pb2.Field(name=name, text=text) for name, text in document.fields)
    else:
        message.text = document.text
