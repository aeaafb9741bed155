"""Hard negatives of pairs: what recall finds near a query among the other positives of the same source.

What a pair's source calls positive for other queries is mostly not for this one; the nearest neighbours are the hard
ones, and the very nearest are often right answers that nobody marked. So the first ranks are passed over, known
positives never count, and a neighbour that the encoder likes nearly as much as the positive itself is left out.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from podium_server.errors import ConfigInvalid
from podium_server.jobs.json_lines import BROKEN_OFF
from podium_server.training.examples import Document, Example, folded
from podium_server.training.recipe import Negatives

Progress = Callable[[str, int, int], None]
"""Told what is done, how much of it, and of how much."""

_SLICE = 256
"""Queries compared with the whole pool at a time: 20 MB of scores at 20,000 passages."""
_VERSION = 2
"""Counted up whenever the same pairs get other negatives, so that what is cached is mined anew."""
_BEGINNING = 80
"""Passages that begin alike are the same one cut differently."""


class VectorsOf(Protocol):
    """What of an encoder is used here (`backends.encoders.encoder.Encoder`)."""

    revision: str

    def encode_queries(self, texts: Sequence[str]) -> Any:
        """Return an object with `vectors` (texts, dim)."""

    def encode_documents(self, texts: Sequence[str]) -> Any:
        """Return an object with `vectors` (texts, dim)."""


@dataclass(frozen=True, slots=True)
class Mined:
    """What mining came to.

    Args:
        examples: the pairs, their negatives as `others`.
        suspected: neighbours that were left out because they look like unmarked positives.
        without: pairs for which nothing was left.
        cached: whether an earlier run had done it.

    """

    examples: list[Example]
    suspected: int = 0
    without: int = 0
    cached: bool = False


def default_cache() -> Path:
    """Return the folder in which mined negatives are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "podium" / "negatives"


def mine(
    pairs: Sequence[Example],
    asked: Sequence[Example],
    negatives: Negatives,
    encoder: VectorsOf | None,
    *,
    cache: Path,
    progress: Progress = lambda what, done, total: None,
) -> Mined:
    """Give each of some pairs its negatives.

    Args:
        pairs: all that are known, whose positives make the pools.
        asked: those that negatives are wanted for; each with one document.
        negatives: how.
        encoder: whose recall is mined; None where BM25's is.
        cache: a folder in which what was found is kept, by a hash of all that decides it.
        progress: told as passages and queries are done.

    """
    pairs, asked = ([cut(pair, negatives.characters) for pair in each] for each in (pairs, asked))
    key = _key(pairs, asked, negatives, encoder)
    file = cache / f"{key}.json.gz"
    if (kept := _kept(file, asked)) is not None:
        return kept
    positives: dict[str, set[str]] = defaultdict(set)
    pools: dict[str, dict[str, None]] = defaultdict(dict)
    for pair in pairs:
        positives[folded(pair.query)].add(pair.documents[0].text)
        if len(pools[pair.source]) < negatives.pool_max:
            pools[pair.source].setdefault(pair.documents[0].text)
    found: dict[int, list[str]] = {}
    suspected = done = 0
    for source, texts in pools.items():
        pool = list(texts)
        queries = [(at, pair) for at, pair in enumerate(asked) if pair.source == source]
        if not queries or len(pool) < 2:
            continue
        wanted = [pair for _, pair in queries]
        tell = partial(progress, f"passages of {source or 'the data'}")
        rows = _neighbours(pool, wanted, negatives, encoder, positives, tell)
        for (at, pair), (order, values, own) in zip(queries, rows, strict=True):
            chosen, left_out = _chosen(pool, order, values, own, positives[folded(pair.query)], pair, negatives)
            found[at] = chosen
            suspected += left_out
            done += 1
            if done % 500 == 0:
                progress("negatives", done, len(asked))
    result = [replace(pair, others=tuple(found.get(at, ()))) for at, pair in enumerate(asked)]
    without = sum(not pair.others for pair in result)
    _keep(file, {"others": [list(pair.others) for pair in result], "suspected": suspected})
    return Mined(result, suspected, without)


def cut(pair: Example, characters: int) -> Example:
    """Return a pair whose positive has so many characters at most."""
    positive = pair.documents[0]
    if len(positive.text) <= characters:
        return pair
    return replace(pair, documents=(Document(positive.text[:characters], label=positive.label),))


_Row = tuple[NDArray[np.int64], NDArray[np.float32], float]


def _neighbours(
    pool: Sequence[str],
    wanted: Sequence[Example],
    negatives: Negatives,
    encoder: VectorsOf | None,
    positives: Mapping[str, set[str]],
    progress: Callable[[int, int], None],
) -> Iterator[_Row]:
    """Yield for each query the nearest of the pool, their scores, and the score of its best known positive."""
    scorer = _by_bm25(pool) if encoder is None else _by_vectors(pool, encoder, progress)
    at = {text: place for place, text in enumerate(pool)}
    # Known positives and suspects are passed over, so look further than the last rank.
    depth = min(len(pool), negatives.ranks[1] + 50)
    for start in range(0, len(wanted), _SLICE):
        part = wanted[start : start + _SLICE]
        scores = scorer([pair.query for pair in part])
        for row, pair in zip(scores, part, strict=True):
            nearest = np.argpartition(-row, depth - 1)[:depth]
            order = nearest[np.lexsort((nearest, -row[nearest]))]
            known = [row[at[text]] for text in positives[folded(pair.query)] if text in at]
            yield order, row[order], float(max(known, default=np.inf))


def _by_vectors(
    pool: Sequence[str], encoder: VectorsOf, progress: Callable[[int, int], None]
) -> Callable[[Sequence[str]], NDArray[np.float32]]:
    parts = []
    for start in range(0, len(pool), _SLICE):
        parts.append(encoder.encode_documents(pool[start : start + _SLICE]).vectors)
        progress(min(start + _SLICE, len(pool)), len(pool))
    matrix = np.concatenate(parts)
    return lambda queries: encoder.encode_queries(queries).vectors @ matrix.T


def _by_bm25(pool: Sequence[str]) -> Callable[[Sequence[str]], NDArray[np.float32]]:
    from podium_server.recall.lexical import scores, transpose
    from podium_server.recall.text import document_terms, query_terms

    terms, counts, lengths = zip(*(document_terms(text) for text in pool), strict=True)
    postings = (transpose(0, terms, counts),)
    of_pool = np.array(lengths, np.int32)
    return lambda queries: np.stack([scores(postings, query_terms(query), of_pool) for query in queries])


def _chosen(
    pool: Sequence[str],
    order: NDArray[np.int64],
    values: NDArray[np.float32],
    own: float,
    positives: set[str],
    pair: Example,
    negatives: Negatives,
) -> tuple[list[str], int]:
    beginning = pair.documents[0].text[:_BEGINNING]
    left: list[str] = []
    suspected = 0
    rank = 0
    for place, value in zip(order, values, strict=True):
        text = pool[place]
        if text in positives or text[:_BEGINNING] == beginning:
            continue
        rank += 1
        if rank > negatives.ranks[1]:
            break
        if rank < negatives.ranks[0] or value <= 0:
            continue
        # Scores of BM25 have no scale to put a margin on.
        if negatives.by == "encoder" and value > negatives.margin * own:
            suspected += 1
            continue
        left.append(text)
    if len(left) > negatives.keep:
        left = [left[i * len(left) // negatives.keep] for i in range(negatives.keep)]
    return left, suspected


def _key(pairs: Sequence[Example], asked: Sequence[Example], negatives: Negatives, encoder: VectorsOf | None) -> str:
    said = hashlib.sha256()
    settings = negatives.model_dump(exclude={"documents", "random", "encoder"})
    said.update(
        json.dumps([_VERSION, settings, None if encoder is None else encoder.revision], sort_keys=True).encode()
    )
    for group in (pairs, asked):
        said.update(b"\0\0")
        for pair in group:
            for part in (pair.source, pair.query, pair.documents[0].text):
                said.update(part.encode() + b"\0")
    return said.hexdigest()[:24]


def _kept(file: Path, asked: Sequence[Example]) -> Mined | None:
    try:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            read = json.load(lines)
        others = read["others"]
        if len(others) != len(asked):
            return None
        result = [replace(pair, others=tuple(own)) for pair, own in zip(asked, others, strict=True)]
    except (*BROKEN_OFF, ValueError, KeyError, TypeError):
        return None  # nothing there, or not to be trusted: it is mined again
    return Mined(result, int(read["suspected"]), sum(not pair.others for pair in result), cached=True)


def _keep(file: Path, found: dict[str, Any]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}")
        with gzip.open(part, "wt", encoding="utf-8", compresslevel=3) as out:
            json.dump(found, out)
        part.replace(file)
    except OSError as error:
        raise ConfigInvalid(
            f"mined negatives cannot be kept in {file.parent}: {error}; --cache names a folder"
        ) from error
