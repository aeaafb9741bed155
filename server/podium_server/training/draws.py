"""Which queries and documents a step sees: a function of the seed and the step, so that nothing is to be remembered."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import floor, log

from podium_server.training.examples import Document, Example
from podium_server.training.recipe import LISTS_PER_STEP, Data, Target


@dataclass(frozen=True, slots=True)
class Drawn:
    """A query with some of its documents.

    Args:
        query: its text.
        texts: of documents.
        targets: of each: what the student's scores should be like, as logits.
        to_teacher: how much of the teacher's own score is to be added to the targets.
        negatives: from here on texts are negatives of a pair (for in-batch losses): the place of the first.

    """

    query: str
    texts: tuple[str, ...]
    targets: tuple[float, ...]
    to_teacher: float = 0.0
    negatives: int = 0


RANKED = Target(rank=1.0)
LABELLED = Target(label=4.0)
PAIRED = Target(label=5.0)


def target_of(document: Document, target: Target) -> float:
    """Return what a document's score should be like, without the teacher's part."""
    value = 0.0
    if document.rank is not None:
        value -= target.rank * log(document.rank)
    if document.human is not None:
        value += target.human * (document.human - 1)
    if document.label is not None:
        value += target.label * (float(document.label > 0) if target.binary else document.label)
    if document.score is not None:
        value += target.score * document.score
    return value


@dataclass(frozen=True, slots=True)
class Stream:
    """An entry of the recipe under drawing: every query once before any comes again.

    Args:
        data: the entry.
        examples: of it; those of pairs carry their mined negatives as `others`.
        seed: of the run, and the entry's place, so that entries differ.

    """

    data: Data
    examples: Sequence[Example]
    seed: str

    def of_step(self, step: int) -> list[Drawn]:
        """Return the draws of a step, from 0."""
        each = LISTS_PER_STEP if self.data.queries is None else self.data.queries
        first, last = floor(step * each), floor((step + 1) * each)
        return [self.draw(k) for k in range(first, last)]

    def draw(self, k: int) -> Drawn:
        """Return the draw of number `k`, from 0."""
        epoch, place = divmod(k, len(self.examples))
        example = self.examples[_order(self.seed, len(self.examples), epoch)[place]]
        rng = random.Random(f"{self.seed}/{k}")
        if self._paired(example):
            return self._pair(example, rng)
        return self._list(example, rng)

    @property
    def teaches(self) -> bool:
        """Whether the targets of any query tell its documents apart, or a teacher is asked for them."""
        every = map(self.draw, range(len(self.examples)))
        return any(drawn.to_teacher or len(set(drawn.targets)) > 1 for drawn in every)

    def _paired(self, example: Example) -> bool:
        return len(example.documents) == 1

    def _pair(self, example: Example, rng: random.Random) -> Drawn:
        negatives = self.data.negatives
        documents, anywhere = (1, 0) if negatives is None else (negatives.documents, negatives.random)
        positive = example.documents[0].text
        texts = [positive, *rng.sample(example.others, min(documents, len(example.others)))]
        for _ in range(anywhere):
            other = self.examples[rng.randrange(len(self.examples))]
            if other.query != example.query and other.documents[0].text not in texts:
                texts.append(other.documents[0].text)
        target = self.data.target or PAIRED
        best = target_of(example.documents[0], target)
        return Drawn(example.query, tuple(texts), (best, *[0.0] * (len(texts) - 1)), target.teacher, 1)

    def _list(self, example: Example, rng: random.Random) -> Drawn:
        ranked = any(document.rank is not None for document in example.documents)
        target = self.data.target or (RANKED if ranked else LABELLED)
        unranked = min(self.data.unranked, len(example.others))
        room = self.data.documents - unranked
        documents = _drawn(example.documents, room, self.data, rng)
        texts = [document.text for document in documents] + rng.sample(example.others, unranked)
        left_out = -target.rank * log(target.unranked_rank) - target.human
        targets = [target_of(document, target) for document in documents] + [left_out] * unranked
        return Drawn(example.query, tuple(texts), tuple(targets), target.teacher)


@lru_cache(maxsize=256)
def _order(seed: str, n: int, epoch: int) -> Sequence[int]:
    return random.Random(f"{seed}/epoch {epoch}").sample(range(n), n)


def _drawn(documents: Sequence[Document], room: int, data: Data, rng: random.Random) -> list[Document]:
    """Return at most `room` documents: by strata, by label, or evenly."""
    if len(documents) <= room:
        return list(documents)
    if data.top:
        taken: list[Document] = []
        begin = 0
        for end, share in data.top:
            stratum = documents[begin:end]
            taken += rng.sample(stratum, min(len(stratum), round(room * share), room - len(taken)))
            begin = end
        rest = documents[begin:]
        taken += rng.sample(rest, min(len(rest), room - len(taken)))
        # A list that ends before the last stratum, or shares that round to nothing.
        left = [document for document in documents if document not in taken]
        return taken + rng.sample(left, min(len(left), room - len(taken)))
    if data.positives is not None:
        good = [document for document in documents if (document.label or 0) > 0]
        others = [document for document in documents if not (document.label or 0) > 0]
        taken = rng.sample(good, min(len(good), max(1, floor(room * data.positives))))
        return taken + rng.sample(others, min(len(others), room - len(taken)))
    return rng.sample(documents, room)
