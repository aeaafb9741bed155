"""The edge: what a request must be before anything else sees it. Every door (gRPC, jobs, command line) comes through.

A mistake is refused with the path of its field; what can be mended without a loss is mended and warned of.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import repeat
from operator import contains
from typing import NamedTuple

from podium_server.errors import InvalidRequest
from podium_server.judges.case import Candidate
from podium_server.limits import Limits
from podium_server.ranking.request import Warned


class GivenDocument(NamedTuple):
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
        raise InvalidRequest(
            field,
            f"has {size:,} bytes; limits.query_bytes is {limits.query_bytes:,}",
            metadata={"limit": "query_bytes"},
        )
    cleaned = _clean(text)
    if not cleaned.strip():
        raise InvalidRequest(field, "is empty; say what is looked for")
    return cleaned


def instruction(text: str, limits: Limits) -> str:
    """Return an instruction as models may see it; an empty one is none."""
    return query(text, limits, field="instruction") if text.strip() else ""


def documents(given: Sequence[GivenDocument], limits: Limits) -> tuple[tuple[Candidate, ...], tuple[Warned, ...]]:
    """Return the candidates of a request, and what was mended on the way; see `columns`."""
    ids, texts, prior_scores = zip(*given, strict=True) if given else ((), (), ())
    return columns(ids, texts, prior_scores, limits)


def columns(
    ids: Sequence[str], texts: Sequence[str], prior_scores: Sequence[float | None], limits: Limits
) -> tuple[tuple[Candidate, ...], tuple[Warned, ...]]:
    """Return the candidates of a request, and what was mended on the way.

    The documents come as columns because most of them are as they should be: one look at all ids, and one at all
    texts, says so in a tenth of the time that a look at each would take.

    Args:
        ids: of the documents, in first-stage order; empty for those known by their place alone.
        texts: likewise.
        prior_scores: likewise; None for those that have none.
        limits: of a request.

    Raises:
        InvalidRequest: none, too many, an id twice, a text too long, a score that is no number.

    """
    if not ids:
        raise InvalidRequest("documents", "are none; give at least 1")
    if len(ids) > limits.documents:
        raise InvalidRequest(
            "documents",
            f"are {len(ids):,}; limits.documents is {limits.documents:,}. Recall fewer, or split the list",
            metadata={"limit": "documents"},
        )
    if not _plain(ids) or max(map(len, ids)) > limits.id_bytes:
        for place, name in enumerate(ids):
            identify(name, limits, field=f"documents[{place}].id", required=False)
    _check_repeats(ids)
    # No text has more bytes than four times its characters.
    if max(map(len, texts)) * 4 > limits.document_bytes:
        for place, text in enumerate(texts):
            _check_size(text, limits, field=f"documents[{place}].text")
    for place, score in enumerate(prior_scores):
        if score is not None and not math.isfinite(score):
            raise InvalidRequest(f"documents[{place}].prior_score", f"is {score}; a finite number is needed")
    warnings = []
    # Texts that differ do so early, as a rule, and a hash of their beginnings costs a tenth.
    if len({text[:32] for text in texts}) < len(texts) and len(set(texts)) < len(texts):
        warnings.append(_twins(texts))
    if not _plain(texts):
        cleaned = [_clean(text) for text in texts]
        mended = tuple(place for place, text in enumerate(texts) if cleaned[place] is not text)
        texts = cleaned
        if mended:
            message = f"{len(mended)} texts had NUL characters or lone surrogates, which were replaced"
            warnings.append(Warned("TEXT_CLEANED", message, mended))
    if not all(map(str.strip, texts)):
        empty = tuple(place for place, text in enumerate(texts) if not text.strip())
        warnings.append(Warned("EMPTY_TEXT", f"{len(empty)} documents have no text", empty))
    # Made without a call of Python's for each, which halves the time.
    candidates = map(partial(tuple.__new__, Candidate), zip(ids, texts, prior_scores, repeat(None), strict=False))
    return tuple(candidates), tuple(warnings)


def _plain(texts: Sequence[str]) -> bool:
    """Tell whether there is nothing in any of them that would have to be cleaned."""
    return not any(map(contains, texts, repeat("\0"))) and (
        all(map(str.isascii, texts)) or not any(map(_has_surrogates, texts))
    )


def _check_size(text: str, limits: Limits, *, field: str) -> None:
    size = _size(text)
    if size > limits.document_bytes:
        raise InvalidRequest(
            field,
            f"has {size:,} bytes; limits.document_bytes is {limits.document_bytes:,}. Split it into passages",
            metadata={"limit": "document_bytes"},
        )


def _twins(texts: Sequence[str]) -> Warned:
    first_place: dict[str, int] = {}
    places = tuple(place for place, text in enumerate(texts) if first_place.setdefault(text, place) != place)
    return Warned("EQUAL_TEXTS", f"{len(places)} documents repeat the text of another; each has its own place", places)


def _check_repeats(names: Sequence[str]) -> None:
    """Refuse ids that are there twice, and name every one that repeats."""
    given = [name for name in names if name]
    if len(set(given)) == len(given):
        return
    first_place: dict[str, int] = {}
    first, *also = (
        (
            f"documents[{place}].id",
            f"{_shown(name)} is the id of documents[{first_place[name]}] too; every document needs its own",
        )
        for place, name in enumerate(names)
        if name and first_place.setdefault(name, place) != place
    )
    raise InvalidRequest(*first, also=also)


def _shown(name: str) -> str:
    return repr(name if len(name) <= 40 else f"{name[:40]}…")


def identify(name: str, limits: Limits, *, field: str, required: bool = True) -> str:
    """Return an id.

    Raises:
        InvalidRequest: it is empty, too long, or has a character that no id may have.

    """
    if required and not name:
        raise InvalidRequest(field, "is empty; an id is needed")
    if len(name) > limits.id_bytes or _size(name) > limits.id_bytes:
        raise InvalidRequest(
            field,
            f"has {_size(name):,} bytes; limits.id_bytes is {limits.id_bytes:,}",
            metadata={"limit": "id_bytes"},
        )
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


def _clean(text: str) -> str:
    """Replace what no tokenizer and no database can take: NUL by a space, half of a character by U+FFFD."""
    if "\0" in text:
        text = text.replace("\0", " ")
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if _has_surrogates(text) else text


def _has_surrogates(text: str) -> bool:
    if text.isascii():
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _size(text: str) -> int:
    """Return the number of UTF-8 bytes, lone surrogates at the three that each would take."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
