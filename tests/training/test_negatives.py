"""Mining: within the source, within the ranks, never a known positive, and once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from podium_server.training.examples import Document, Example
from podium_server.training.negatives import mine
from podium_server.training.recipe import Negatives


@dataclass
class Letters:
    """An encoder whose vectors count the letters of a text."""

    revision: str = "letters"
    encoded: list[str] = field(default_factory=list)

    def encode_queries(self, texts: Sequence[str]) -> Any:
        return self._encode(texts)

    def encode_documents(self, texts: Sequence[str]) -> Any:
        self.encoded += texts
        return self._encode(texts)

    def _encode(self, texts: Sequence[str]) -> Any:
        rows = np.array([[text.count(chr(97 + i)) + 1e-3 for i in range(26)] for text in texts], np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return type("Encoded", (), {"vectors": rows})()


def pair(query: str, positive: str, source: str = "s") -> Example:
    return Example(query, (Document(positive, label=1.0),), source=source)


words = st.text("abcdef", min_size=1, max_size=8)


@given(
    st.lists(st.tuples(words, words, st.sampled_from("st")), min_size=2, max_size=25), st.booleans(), st.integers(1, 4)
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_negative_is_of_the_source_and_nobody_s_known_positive(
    tmp_path: Path, given_pairs: list[tuple[str, str, str]], by_encoder: bool, first: int
) -> None:
    pairs = [pair(*each) for each in given_pairs]
    negatives = Negatives(by="encoder" if by_encoder else "bm25", ranks=(first, first + 5), keep=3)
    mined = mine(pairs, pairs, negatives, Letters() if by_encoder else None, cache=tmp_path)
    pools = {source: {p for _, p, s in given_pairs if s == source} for source in "st"}
    positives: dict[str, set[str]] = {}
    for query, positive, _ in given_pairs:
        positives.setdefault(query, set()).add(positive)
    assert len(mined.examples) == len(pairs)
    for example in mined.examples:
        assert len(example.others) <= 3
        assert len(set(example.others)) == len(example.others)
        assert set(example.others) <= pools[example.source] - positives[example.query]


def test_the_nearest_are_passed_over_and_the_ranks_kept(tmp_path: Path) -> None:
    pool = ["a" * (10 - i) + "b" * i for i in range(10)]
    pairs = [pair("a", "aaaaaaaaaa c"), *(pair(f"q{i}", text) for i, text in enumerate(pool))]
    mined = mine(pairs, pairs[:1], Negatives(ranks=(3, 5), keep=8, margin=10.0), Letters(), cache=tmp_path)
    assert list(mined.examples[0].others) == pool[2:5]


def test_a_neighbour_as_near_as_the_positive_is_suspected(tmp_path: Path) -> None:
    pairs = [pair("ab", "ab ab"), pair("x", "ab ab ab"), pair("y", "zzz a")]
    negatives = Negatives(ranks=(1, 5), margin=0.95)
    mined = mine(pairs, pairs[:1], negatives, Letters(), cache=tmp_path)
    assert mined.examples[0].others == ("zzz a",)
    assert mined.suspected == 1


def test_what_was_mined_is_kept_until_something_changes(tmp_path: Path) -> None:
    pairs = [pair(f"a{c}", f"a {c} {c}") for c in "bcdefgh"]
    encoder = Letters()
    first = mine(pairs, pairs, Negatives(ranks=(1, 9)), encoder, cache=tmp_path)
    encoder.encoded.clear()
    again = mine(pairs, pairs, Negatives(ranks=(1, 9)), encoder, cache=tmp_path)
    assert again.cached
    assert again.examples == first.examples
    assert not encoder.encoded
    assert not mine(pairs, pairs, Negatives(ranks=(1, 8)), encoder, cache=tmp_path).cached
    assert not mine(pairs[:-1], pairs[:-1], Negatives(ranks=(1, 9)), encoder, cache=tmp_path).cached
    assert not mine(pairs, pairs, Negatives(ranks=(1, 9)), Letters("others"), cache=tmp_path).cached
    # How many of them a step draws is no matter of mining.
    assert mine(pairs, pairs, Negatives(ranks=(1, 9), documents=4), encoder, cache=tmp_path).cached


def test_a_broken_cache_is_mined_again(tmp_path: Path) -> None:
    pairs = [pair(f"a{c}", f"a {c} {c}") for c in "bcdefgh"]
    first = mine(pairs, pairs, Negatives(by="bm25"), None, cache=tmp_path)
    for end in (b"", b"\xff" * 20):  # cut off, and a kind of block that there is not
        for file in tmp_path.glob("*.gz"):
            file.write_bytes(file.read_bytes()[:10] + end)
        again = mine(pairs, pairs, Negatives(by="bm25"), None, cache=tmp_path)
        assert not again.cached
        assert again.examples == first.examples


def test_long_positives_are_cut_for_pool_and_pair_alike(tmp_path: Path) -> None:
    pairs = [pair("a", "a" * 300), pair("b", "b" * 300)]
    mined = mine(pairs, pairs, Negatives(ranks=(1, 5), characters=100, margin=100.0), Letters(), cache=tmp_path)
    assert [example.documents[0].text for example in mined.examples] == ["a" * 100, "b" * 100]
    assert mined.examples[0].others == ("b" * 100,)
