"""What a dialect is: fields in, fields out, and errors of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from typing_extensions import TypedDict

from podium_server.errors import InvalidRequest
from podium_server.rest.asked import Answer, Asked, Body, Text, as_text
from podium_server.rest.faults import Fault

B = TypeVar("B", bound=Body)


class TextDocument(TypedDict):
    """A document that is given back."""

    text: str


class Dialect(Generic[B]):
    """One way to ask for a ranking. Its methods keep nothing: one object answers all requests.

    Subclasses name themselves, their bodies, and the types of their answers, of which the OpenAPI page is made.
    """

    name: ClassVar[str]
    """In `Call.via`, in metrics and on the page."""
    summary: ClassVar[str]
    body: type[B]
    answer: ClassVar[Any]
    error: ClassVar[Any]
    names: ClassVar[Mapping[str, str]] = {}
    """What it calls fields of the contract: errors name its own."""

    def ask(self, body: B) -> Asked:
        """Return what a body asks for.

        Raises:
            InvalidRequest: this dialect does not take it.

        """
        raise NotImplementedError

    def write(self, answer: Answer) -> Any:
        """Return the body of an answer."""
        raise NotImplementedError

    def headers(self, answer: Answer) -> Mapping[str, str]:
        """Return headers of its own."""
        return {}

    def refuse(self, fault: Fault, request_id: str) -> tuple[int, Any]:
        """Return the status and the body of an error."""
        raise NotImplementedError


def texts(documents: Sequence[Any], rank_fields: Sequence[str] | None = None) -> list[Text]:
    """Return documents that are strings, or objects.

    An object is its `text`, or the fields that `rank_fields` names, in that order; where it has none of them, its text
    is empty (and the answer warns of that).

    Raises:
        InvalidRequest: an object without text, and nothing says what to read of it; or an image.

    """
    if all(isinstance(each, str) for each in documents):
        return list(documents)
    return [_text(document, place, rank_fields) for place, document in enumerate(documents)]


def _text(document: Any, place: int, rank_fields: Sequence[str] | None) -> Text:
    if isinstance(document, str):
        return document
    if rank_fields:
        return tuple((name, as_text(document[name])) for name in rank_fields if document.get(name) is not None)
    if "text" in document:
        return as_text(document["text"])
    if "image" in document or "image_url" in document:
        raise InvalidRequest(f"documents[{place}]", "is an image, which no pipeline reads; send text")
    raise InvalidRequest(f"documents[{place}]", "has no field 'text'; name the fields to read in rank_fields")


def plain(text: Text) -> str:
    """Return a document as one text."""
    return text if isinstance(text, str) else "\n".join(part for _, part in text)


def shown(asked: Asked, index: int) -> Any:
    """Return a document as it came."""
    assert asked.given is not None
    return asked.given[index]


def shown_text(asked: Asked, index: int) -> TextDocument:
    """Return a document as an object with its text."""
    return TextDocument(text=plain(asked.texts[index]))
