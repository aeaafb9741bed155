from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium_server.backends.encoders.embedding_cache import CachedEncoder, EmbeddingCache, Entry, key_of
from podium_server.backends.encoders.encoder import Encoded, unit
from podium_server.errors import ConfigInvalid


class Letters:
    """An encoder whose vectors follow from the text, and which writes down what it was asked."""

    name, dim, max_tokens, has_token_vectors = "letters", 8, 100, True

    def __init__(self, revision: str = "1") -> None:
        self.revision = revision
        self.asked: list[str] = []
        self.closed = False

    def encode_queries(self, texts: Sequence[str], *, token_vectors: bool = False) -> Encoded:
        return self.encode_documents(["?" + text for text in texts], token_vectors=token_vectors)

    def encode_documents(self, texts: Sequence[str], *, token_vectors: bool = False) -> Encoded:
        self.asked += texts
        each = [
            np.array([[ord(c) % 97 + i + 1 for i in range(8)] for c in t], np.float32).reshape(-1, 8) for t in texts
        ]
        vectors = [x.mean(0) if len(x) else np.ones(8, np.float32) for x in each]
        return Encoded(
            vectors=unit(np.array(vectors, np.float32).reshape(-1, 8)),
            token_vectors=tuple(unit(x) for x in each) if token_vectors else None,
            tokens=tuple(len(t) for t in texts),
            truncated=tuple(len(t) > 3 for t in texts),
            prompt_tokens=sum(len(t) for t in texts),
        )

    def close(self) -> None:
        self.closed = True


@given(
    batches=st.lists(st.tuples(st.lists(st.text(max_size=5), max_size=8), st.booleans()), max_size=6),
    bytes_max=st.sampled_from([0, 700, 3000, 1 << 20]),
)
def test_a_cached_encoder_answers_as_the_encoder_does_whatever_it_has_room_for(
    batches: list[tuple[list[str], bool]], bytes_max: int
) -> None:
    cached = CachedEncoder(Letters(), EmbeddingCache(bytes_max))
    for texts, token_vectors in batches:
        got = cached.encode_documents(texts, token_vectors=token_vectors)
        want = Letters().encode_documents(texts, token_vectors=token_vectors)
        np.testing.assert_array_equal(got.vectors, want.vectors)
        assert (got.tokens, got.truncated) == (want.tokens, want.truncated)
        assert (got.token_vectors is None) == (want.token_vectors is None)
        for mine, theirs in zip(got.token_vectors or (), want.token_vectors or (), strict=True):
            np.testing.assert_array_equal(mine, theirs.astype(np.float16).astype(np.float32))
        stats = cached.cache.stats()
        assert stats.size_bytes <= bytes_max


def test_a_text_is_asked_for_once_and_the_hits_are_counted() -> None:
    inner = Letters()
    cached = CachedEncoder(inner)
    first = cached.encode_documents(["a", "b", "a"])
    assert inner.asked == ["a", "b"]
    assert (first.cache_hits, first.prompt_tokens) == (1, 2)
    second = cached.encode_documents(["b", "c"])
    assert inner.asked == ["a", "b", "c"]
    assert (second.cache_hits, second.prompt_tokens) == (1, 1)
    third = cached.encode_documents(["c"])
    assert (third.cache_hits, third.prompt_tokens) == (1, 0)


def test_queries_documents_and_revisions_are_told_apart() -> None:
    cache = EmbeddingCache()
    one, other = CachedEncoder(Letters("1"), cache), CachedEncoder(Letters("2"), cache)
    one.encode_documents(["a"])
    assert one.encode_queries(["a"]).cache_hits == 0
    assert other.encode_documents(["a"]).cache_hits == 0
    assert (
        len({key_of("ab", "c", "d"), key_of("a", "bc", "d"), key_of("a", "b", "cd"), key_of("a", "b", "\ud800")}) == 4
    )


def test_token_vectors_that_are_missing_are_a_miss_and_those_that_are_there_stay() -> None:
    cached = CachedEncoder(Letters())
    cached.encode_documents(["a"])
    assert cached.encode_documents(["a"], token_vectors=True).cache_hits == 0
    assert cached.encode_documents(["a"]).cache_hits == 1
    assert cached.encode_documents(["a"], token_vectors=True).cache_hits == 1


def entry(dim: int = 4) -> Entry:
    return Entry(np.zeros(dim, np.float32), None, 1, False)


def test_what_was_used_last_stays() -> None:
    cache = EmbeddingCache(2 * entry().size_bytes)
    cache.put(b"a", entry())
    cache.put(b"b", entry())
    assert cache.get(b"a") is not None
    cache.put(b"c", entry())
    assert [cache.get(key) is not None for key in (b"a", b"b", b"c")] == [True, False, True]
    cache.put(b"huge", entry(10_000))
    assert cache.get(b"huge") is None
    stats = cache.stats()
    assert (stats.entries, stats.evictions) == (2, 1)
    with pytest.raises(ConfigInvalid, match="-1"):
        EmbeddingCache(-1)


def test_threads_side_by_side_keep_the_bound() -> None:
    cached = CachedEncoder(Letters(), EmbeddingCache(5000))
    failed: list[BaseException] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            for _ in range(200):
                texts = [str(i) for i in rng.integers(0, 30, 4)]
                np.testing.assert_array_equal(
                    cached.encode_documents(texts).vectors, Letters().encode_documents(texts).vectors
                )
        except BaseException as error:  # noqa: BLE001
            failed.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    stats = cached.cache.stats()
    assert stats.size_bytes == sum(e.size_bytes for e in cached.cache._entries.values()) <= 5000


def test_closing_closes_the_model() -> None:
    inner = Letters()
    CachedEncoder(inner).close()
    assert inner.closed
