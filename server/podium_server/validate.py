"""The edge: what a request must be before anything else sees it. Every door (gRPC, jobs, command line) comes through.

A mistake is refused with the path of its field; what can be mended without a loss is mended and warned of.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from podium_server.errors import InvalidRequest
from podium_server.judges.case import Candidate
from podium_server.limits import Limits
from podium_server.ranking.request import Warned


@dataclass(frozen=True, slots=True)
class GivenDocument:
    """A document as a caller gave it. An empty id makes it known by its place alone."""

    id: str
    text: str
    prior_score: float | None = None


def query(text: str, limits: Limits, *, field: str = "query") -> str:
    """Return a query as models may see it.

    Raises:
        InvalidRequest: it is empty, only spaces, or too long.

    """
    size = _size(text)
    if size > limits.query_bytes:
        raise InvalidRequest(field, f"has {size:,} bytes; limits.query_bytes is {limits.query_bytes:,}")
    cleaned = _clean(text)
    if not cleaned.strip():
        raise InvalidRequest(field, "is empty; say what is looked for")
    return cleaned


def instruction(text: str, limits: Limits) -> str:
    """Return an instruction as models may see it; an empty one is none."""
    return query(text, limits, field="instruction") if text.strip() else ""


def documents(given: Sequence[GivenDocument], limits: Limits) -> tuple[tuple[Candidate, ...], tuple[Warned, ...]]:
    """Return the candidates of a request, and what was mended on the way.

    Raises:
        InvalidRequest: none, too many, an id twice, a text too long, a score that is no number.

    """
    if not given:
        raise InvalidRequest("documents", "are none; give at least 1")
    if len(given) > limits.documents:
        raise InvalidRequest(
            "documents",
            f"are {len(given):,}; limits.documents is {limits.documents:,}. Recall fewer, or split the list",
        )
    first_place: dict[str, int] = {}
    candidates = []
    mended: list[str] = []
    empty: list[str] = []
    for place, document in enumerate(given):
        where = f"documents[{place}]"
        identify(document.id, limits, field=f"{where}.id", required=False)
        if document.id and first_place.setdefault(document.id, place) != place:
            raise InvalidRequest(
                f"{where}.id",
                f"{document.id!r} is the id of documents[{first_place[document.id]}] too; every document needs its own",
            )
        size = _size(document.text)
        if size > limits.document_bytes:
            raise InvalidRequest(
                f"{where}.text",
                f"has {size:,} bytes; limits.document_bytes is {limits.document_bytes:,}. Split it into passages",
            )
        if document.prior_score is not None and not math.isfinite(document.prior_score):
            raise InvalidRequest(f"{where}.prior_score", f"is {document.prior_score}; a finite number is needed")
        text = _clean(document.text)
        if text != document.text:
            mended.append(document.id or str(place))
        if not text.strip():
            empty.append(document.id or str(place))
        candidates.append(Candidate(document.id, text, document.prior_score))
    return tuple(candidates), _warnings(candidates, mended, empty)


def identify(name: str, limits: Limits, *, field: str, required: bool = True) -> str:
    """Return an id.

    Raises:
        InvalidRequest: it is empty, too long, or has a character that no id may have.

    """
    if required and not name:
        raise InvalidRequest(field, "is empty; an id is needed")
    if len(name) > limits.id_bytes or _size(name) > limits.id_bytes:
        raise InvalidRequest(field, f"has {_size(name):,} bytes; limits.id_bytes is {limits.id_bytes:,}")
    if "\0" in name or _has_surrogates(name):
        raise InvalidRequest(field, f"{name!r} has a NUL character or a lone surrogate, which no id may have")
    return name


def top_n(value: int | None) -> int | None:
    """Return how many to answer with.

    Raises:
        InvalidRequest: less than 1.

    """
    if value is not None and value < 1:
        raise InvalidRequest("top_n", f"is {value}; at least 1, or unset for all")
    return value


def amount(value: int | None, *, field: str) -> int | None:
    """Return a bound of a budget.

    Raises:
        InvalidRequest: less than 0.

    """
    if value is not None and value < 0:
        raise InvalidRequest(field, f"is {value}; at least 0, or unset for no bound")
    return value


def duration(value_s: float | None, *, field: str) -> float | None:
    """Return a bound in seconds.

    Raises:
        InvalidRequest: not above 0.

    """
    if value_s is not None and not 0 < value_s < float("inf"):
        raise InvalidRequest(field, f"is {value_s} s; above 0, or unset for no bound")
    return value_s


def _warnings(candidates: list[Candidate], mended: list[str], empty: list[str]) -> tuple[Warned, ...]:
    warnings = []
    twins = len(candidates) - len({candidate.text for candidate in candidates})
    if twins:
        warnings.append(
            Warned("EQUAL_TEXTS", f"{twins} documents repeat the text of another; each has its own place")
        )
    if mended:
        warnings.append(
            Warned(
                "TEXT_CLEANED",
                f"{len(mended)} texts had NUL characters or lone surrogates, which were replaced",
                tuple(mended),
            )
        )
    if empty:
        warnings.append(Warned("EMPTY_TEXT", f"{len(empty)} documents have no text", tuple(empty)))
    return tuple(warnings)


def _clean(text: str) -> str:
    """Replace what no tokenizer and no database can take: NUL by a space, half of a character by U+FFFD."""
    if "\0" in text:
        text = text.replace("\0", " ")
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if _has_surrogates(text) else text


def _has_surrogates(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _size(text: str) -> int:
    """Return the number of UTF-8 bytes, lone surrogates at the three that each would take."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
