"""Documents as the store keeps them, and what a document must be to be kept."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from podium_server.errors import InvalidRequest
from podium_server.recall.limits import RecallLimits

Json: TypeAlias = Any
"""None, bool, int, float, str, or lists and string-keyed mappings of these."""

TITLE = "title"
"""The field that is read together with each passage of a document."""

METADATA_DEPTH = 32
"""Levels of lists and mappings within metadata."""

_INT64 = 1 << 63


@dataclass(frozen=True, slots=True)
class Document:
    """A text with an id.

    Args:
        id: any string of 1 to 512 bytes; its identity within a collection.
        text: what it says; or, instead of it,
        fields: its named parts, in the order in which they are read. One named `title` is put before each passage.
        metadata: what else is known of it: a JSON object, to filter by and to be given back.

    """

    id: str
    text: str = ""
    fields: tuple[tuple[str, str], ...] = ()
    metadata: Mapping[str, Json] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The field `title`, or an empty string."""
        return next((text for name, text in self.fields if name == TITLE), "")

    @property
    def full_text(self) -> str:
        """All that it says: the text, or the fields' texts joined by a line feed each. Passages are parts of it."""
        return "\n".join(text for _, text in self.fields) if self.fields else self.text


def check_id(value: str, limits: RecallLimits, *, field: str) -> None:
    """Refuse what cannot be an id.

    Raises:
        InvalidRequest: it is empty, too long, or has a NUL character or a lone surrogate.

    """
    if not value:
        raise InvalidRequest(field, "is empty; an id is needed")
    _check_text(value, limits.id_bytes, "id_bytes", field=field)


def check_document(document: Document, limits: RecallLimits, *, field: str) -> None:
    """Refuse what cannot be kept.

    Args:
        document: it.
        limits: its bounds.
        field: its path in the request, such as `documents[3]`.

    Raises:
        InvalidRequest: with the path of what is wrong.

    """
    check_id(document.id, limits, field=f"{field}.id")
    if document.text and document.fields:
        raise InvalidRequest(field, "has both text and fields; give one of them")
    if len(document.fields) > limits.fields:
        raise InvalidRequest(f"{field}.fields", f"are {len(document.fields)}; the limit is {limits.fields}")
    seen: set[str] = set()
    for place, (name, _) in enumerate(document.fields):
        where = f"{field}.fields[{place}].name"
        if not name:
            raise InvalidRequest(where, "is empty; a name is needed")
        _check_text(name, limits.field_name_bytes, "field_name_bytes", field=where)
        if name in seen:
            raise InvalidRequest(where, f"{name!r} comes twice; join the texts, or name one of them otherwise")
        seen.add(name)
    _check_text(document.full_text, limits.document_bytes, "document_bytes", field=f"{field}.text")
    if not document.full_text.strip():
        raise InvalidRequest(f"{field}.text", "is empty; a document without a text can never be found")
    _check_metadata(document.metadata, field=f"{field}.metadata", depth=0)
    if (size := len(metadata_json(document.metadata).encode())) > limits.metadata_bytes:
        raise InvalidRequest(
            f"{field}.metadata",
            f"has {size:,} bytes; the limit is {limits.metadata_bytes:,}",
            metadata={"limit": "metadata_bytes"},
        )


def metadata_json(metadata: Mapping[str, Json]) -> str:
    """Return metadata as SQLite reads it. Not escaped beyond need: paths of filters are compared letter by letter."""
    return json.dumps(metadata, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def content_json(document: Document) -> str:
    """Return the text or the fields as stored."""
    content = {"fields": document.fields} if document.fields else {"text": document.text}
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def read_document(key: str, content: str, metadata: str) -> Document:
    """Return a document from its stored parts."""
    read = json.loads(content)
    fields = tuple((name, text) for name, text in read.get("fields", ()))
    return Document(key, read.get("text", ""), fields, json.loads(metadata) if metadata != "{}" else {})


def digest(document: Document) -> bytes:
    """Return 16 bytes that are equal for documents that are equal, letter by letter."""
    metadata = json.dumps(document.metadata, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(f"{content_json(document)}\0{metadata}".encode(), digest_size=16).digest()


def _check_text(text: str, limit: int, limit_name: str, *, field: str) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidRequest(field, "has a lone surrogate, which is no text; send valid Unicode") from None
    if "\0" in text:
        raise InvalidRequest(field, "has a NUL character; remove it")
    if size > limit:
        raise InvalidRequest(
            field, f"has {size:,} bytes; the limit is {limit:,}", metadata={"limit": limit_name, "max": str(limit)}
        )


def _check_metadata(value: Json, *, field: str, depth: int) -> None:
    if depth > METADATA_DEPTH:
        raise InvalidRequest(field, f"is more than {METADATA_DEPTH} levels deep")
    match value:
        case None | bool():
            return
        case str():
            _check_text(value, 1 << 62, "metadata_bytes", field=field)
        case int():
            if not -_INT64 <= value < _INT64:
                raise InvalidRequest(field, f"is {value}, beyond 64 bits; write it as a string")
        case float():
            if not math.isfinite(value):
                raise InvalidRequest(field, f"is {value}; a finite number is needed")
        case Mapping():
            for key, entry in value.items():
                if not isinstance(key, str):
                    raise InvalidRequest(field, f"has the key {key!r}; keys are strings")
                _check_text(key, 1 << 62, "metadata_bytes", field=field)
                _check_metadata(entry, field=f"{field}.{key}", depth=depth + 1)
        case list() | tuple():
            for place, entry in enumerate(value):
                _check_metadata(entry, field=f"{field}[{place}]", depth=depth + 1)
        case _:
            raise InvalidRequest(field, f"is a {type(value).__name__}, which JSON does not have")
