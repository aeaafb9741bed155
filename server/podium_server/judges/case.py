"""What a judge may know of one request."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple


class Side(Enum):
    """Which end of a document is cut when it is too long."""

    END = "end"
    START = "start"


@dataclass(frozen=True, slots=True)
class Truncation:
    """How long documents are shortened before a model sees them. The prompt's frame never is.

    Args:
        max_tokens_per_document: by the model's own tokenizer where one is configured; None leaves it to the prompt
            and to what the model can hold.
        side: the end that is cut.

    """

    max_tokens_per_document: int | None = None
    side: Side = Side.END


class Candidate(NamedTuple):
    """One document under judgement. Its identity is its id, never its text.

    A tuple, because a request makes up to ten thousand of them, and a frozen dataclass takes three times as long.

    Args:
        id: unique in the request.
        text: what is judged, title included.
        prior_score: of the stage before, higher is better.
        chunk: the key of its stored vectors in the collection that it was recalled from; None for a given document.

    """

    id: str
    text: str
    prior_score: float | None = None
    chunk: int | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """One request, as judges see it. A question's items are places in `candidates`.

    Args:
        query: the query's text.
        candidates: in the order of the pool that the plan was made for.
        instruction: what counts as relevant, in a sentence, for prompts that have a place for it.
        truncation: of documents.
        deadline_at: `time.monotonic()` seconds after which no answer is of use; None is unbounded.
        seed: for models that sample.
        collection: where the candidates were recalled from; empty for given documents.
        shared: work that several judges of this request have in common (an encoded document, a shortened text), by
            a key of their own. It dies with the request.

    """

    query: str
    candidates: Sequence[Candidate]
    instruction: str = ""
    truncation: Truncation = field(default_factory=Truncation)
    deadline_at: float | None = None
    seed: int = 0
    collection: str = ""
    shared: dict[Hashable, Any] = field(default_factory=dict, compare=False, repr=False)
