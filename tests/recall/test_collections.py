"""What is put in is found, as it should be, by everyone and at once."""

import asyncio
from collections.abc import AsyncIterator, Callable

import numpy as np
import pytest

from podium_server.errors import FailedPrecondition, InvalidRequest, NotFound, Overloaded, QuotaExceeded, StoreFull
from podium_server.recall import filters
from podium_server.recall.collections import Collections, _Stage
from podium_server.recall.document import Document
from podium_server.recall.encoding import usage_of
from podium_server.recall.limits import RecallLimits
from podium_server.recall.retriever import Recalled, RecallQuery
from podium_server.recall.settings import CollectionSettings
from podium_server.recall.vectors import VectorSettings
from tests.recall.conftest import SETTINGS, put, stream
from tests.recall.toy import DIM, ToyEncoded, ToyEncoder

Opener = Callable[..., Collections]


async def recall(collections: Collections, text: str, k: int = 10, **options: object) -> Recalled:
    return await collections.retrieve(RecallQuery("books", text, k, **options))  # type: ignore[arg-type]


async def ids(collections: Collections, text: str, k: int = 10, **options: object) -> list[str]:
    return [hit.id for hit in (await recall(collections, text, k, **options)).hits]


# --- putting in -------------------------------------------------------------------------------------------------


async def test_documents_come_back_as_they_were(collections: Collections) -> None:
    given = [
        Document("plain", "just a text", metadata={"a": 1, "b": [None, True, {"c": 0.5}], "é": "\"quoted\" 'x'"}),
        Document("fields", fields=(("title", "A title"), ("body", "and a body"), ("empty", ""))),
        Document("ид/42 \t🦊", "an id may be anything"),
        Document("x" * 512, "long id"),
    ]
    (acknowledged,) = await put(collections, given)
    assert acknowledged.inserted == tuple(document.id for document in given)
    back, missing = await collections.get_documents("books", [*acknowledged.ids, "nope", "plain"])
    assert list(back) == given
    assert missing == ("nope",)


async def test_bad_documents_are_refused_one_by_one(collections: Collections) -> None:
    bad = {
        "documents[0].id": Document("", "no id"),
        "documents[1].id": Document("nul\0", "x"),
        "documents[2].id": Document("\ud800", "x"),
        "documents[3].id": Document("x" * 513, "x"),
        "documents[4].text": Document("a", "  \n"),
        "documents[5].text": Document("b", "lone \udfff"),
        "documents[6].text": Document("c", "x" * (5 * 1024 * 1024 + 1)),
        "documents[7].fields": Document("d", fields=tuple((str(i), "x") for i in range(33))),
        "documents[8].fields[1].name": Document("e", fields=(("same", "x"), ("same", "y"))),
        "documents[9].metadata.n": Document("f", "x", metadata={"n": float("inf")}),
        "documents[10].metadata": Document("g", "x", metadata={"n": "x" * 70_000}),
        "documents[11]": Document("h", "both", fields=(("a", "x"),)),
        "documents[12].metadata.o.p[1]": Document("i", "x", metadata={"o": {"p": [1, object()]}}),
    }
    acknowledged = await put(collections, [*bad.values(), Document("good", "a good one")])
    refused = [one for each in acknowledged for one in each.refused]
    assert [one.error.field for one in refused if isinstance(one.error, InvalidRequest)] == list(bad)
    assert [one.index for one in refused] == list(range(len(bad)))
    assert [key for each in acknowledged for key in each.ids] == ["good"]


async def test_the_last_of_twins_counts(opened: Opener) -> None:
    collections = opened(limits=RecallLimits(batch_documents=3))
    await collections.create("books", SETTINGS)
    texts = ["one", "two", "three", "four", "five"]
    acknowledged = await put(collections, [Document("same", text) for text in texts])
    assert sum(each.duplicates for each in acknowledged) == 4
    # Counted once, wherever the batches ended.
    assert [key for each in acknowledged for key in each.ids] == ["same"]
    assert (await collections.get_documents("books", ["same"]))[0][0].text == "five"
    assert await ids(collections, "three", weights={"bm25": 1.0}) == []
    assert (await collections.get("books")).documents == 1


async def test_what_is_there_letter_by_letter_costs_nothing(collections: Collections, encoder: ToyEncoder) -> None:
    given = [Document("a", "first", metadata={"x": 1, "y": 2}), Document("b", "second")]
    await put(collections, given)
    encoder.encoded.clear()
    (acknowledged,) = await put(collections, [Document("a", "first", metadata={"y": 2, "x": 1}), given[1]])
    assert acknowledged.unchanged == ("a", "b")
    assert encoder.encoded == []
    (acknowledged,) = await put(collections, [Document("a", "first", metadata={"x": 2})])
    assert acknowledged.replaced == ("a",)


async def test_a_twin_that_goes_back_to_what_was_there_is_the_last_too(opened: Opener) -> None:
    collections = opened(limits=RecallLimits(batch_documents=1))
    await collections.create("books", SETTINGS)
    await put(collections, [Document("a", "old")])
    for _ in range(5):
        await put(collections, [Document("a", "new"), Document("a", "old")])
        assert (await collections.get_documents("books", ["a"]))[0][0].text == "old"


async def test_a_batch_does_not_wait_for_a_slow_stream(collections: Collections) -> None:
    """An acknowledgement comes although the stream neither ends nor fills a batch."""
    acknowledged = asyncio.Event()

    async def slow() -> AsyncIterator[Document]:
        yield Document("a", "first")
        await acknowledged.wait()
        yield Document("b", "second")

    seen: list[str] = []
    async for one in collections.upsert("books", slow()):
        seen.extend(one.ids)
        acknowledged.set()
    assert seen == ["a", "b"]


async def test_an_error_of_the_stream_comes_after_what_was_kept(collections: Collections) -> None:
    async def broken() -> AsyncIterator[Document]:
        for i in range(2 * batch + 10):
            yield Document(f"d{i}", f"text {i}")
        raise ConnectionResetError

    batch = collections.engine.limits.batch_documents

    kept: list[str] = []

    async def upsert() -> None:
        async for one in collections.upsert("books", broken()):
            kept.extend(one.ids)

    with pytest.raises(ConnectionResetError):
        await upsert()
    assert len(kept) >= 2 * batch
    assert (await collections.get_documents("books", kept))[1] == ()


async def test_a_stream_that_nobody_reads_to_the_end_stops(collections: Collections) -> None:
    taken = 0

    async def endless() -> AsyncIterator[Document]:
        nonlocal taken
        while True:
            taken += 1
            yield Document(f"d{taken}", f"text {taken}")

    upsert = collections.upsert("books", endless())
    await anext(upsert)
    await upsert.aclose()
    stopped_at = taken
    await asyncio.sleep(0.05)
    assert taken == stopped_at
    # Two stages, each with two results that wait, one that is made and one handed on.
    assert taken <= 8 * RecallLimits().batch_documents


async def test_who_is_cancelled_while_leaving_a_stage_hears_of_it() -> None:
    leaving, left = asyncio.Event(), asyncio.Event()

    async def slow_to_end() -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.sleep(60)
        finally:
            leaving.set()
            await left.wait()

    async def same(number: int) -> int:
        return number

    async def take_one() -> None:
        async with _Stage(slow_to_end(), same) as numbers:
            assert await anext(numbers) == 1
            await asyncio.sleep(0)

    taking = asyncio.create_task(take_one())
    await leaving.wait()
    taking.cancel()
    await asyncio.sleep(0)
    left.set()
    await asyncio.wait((taking,), timeout=10)
    assert taking.cancelled()


async def test_a_full_collection_refuses_each_that_is_too_many(opened: Opener) -> None:
    collections = opened(limits=RecallLimits(documents_per_collection=2))
    await collections.create("books", SETTINGS)
    (acknowledged,) = await put(collections, [Document(key, key) for key in "abc"])
    assert acknowledged.ids == ("a", "b")
    assert isinstance(acknowledged.refused[0].error, QuotaExceeded)
    (acknowledged,) = await put(collections, [Document("a", "again")])
    assert acknowledged.replaced == ("a",)


async def test_an_empty_stream(collections: Collections) -> None:
    assert await put(collections, []) == []
    with pytest.raises(NotFound):
        await put(collections, [], name="nope")


# --- finding ----------------------------------------------------------------------------------------------------


async def test_upsert_and_delete_are_seen_by_the_next_search(collections: Collections) -> None:
    for weights in ({"bm25": 1.0}, {"vector": 1.0}):
        await put(collections, [Document("a", "red fox"), Document("b", "blue whale")])
        assert (await ids(collections, "red fox", weights=weights))[0] == "a"
        await put(collections, [Document("a", "green frog")])
        assert (await ids(collections, "green frog", weights=weights))[0] == "a"
        assert "a" not in (await ids(collections, "red fox", 1, weights={"bm25": 1.0}))
        assert await collections.delete_documents("books", ["a", "zzz", "a"]) == (1, ("zzz",))
        assert "a" not in await ids(collections, "green frog", weights=weights)


async def test_each_document_once_by_its_best_passage(collections: Collections) -> None:
    sentences = [f"Filler sentence {i} says nothing at all." for i in range(60)]
    sentences[40] = "The aardvark digs burrows."
    await collections.delete("books")
    await collections.create("books", CollectionSettings("toy", chunk_tokens=16, overlap_tokens=2))
    await put(
        collections,
        [
            Document("long", fields=(("title", "Animals"), ("body", " ".join(sentences)))),
            Document("short", "Filler sentence says nothing."),
        ],
    )
    row = await collections.get("books")
    assert row.documents == 2
    assert row.chunks > 5
    for weights in ({"bm25": 1.0}, {"vector": 1.0}, {"bm25": 1.0, "vector": 0.5}):
        recalled = await recall(collections, "aardvark digs burrows", weights=weights)
        assert len({hit.id for hit in recalled.hits}) == len(recalled.hits)
        best = recalled.hits[0]
        assert best.id == "long"
        assert best.text.startswith("Animals\n")
        assert "aardvark" in best.text
        full = (await collections.get_documents("books", ["long"]))[0][0].full_text
        assert "aardvark" in full[best.start : best.end]
    # A title is found with every passage.
    assert (await recall(collections, "animals", weights={"bm25": 1.0})).hits[0].id == "long"


async def test_chinese_is_found_by_any_two_letters(collections: Collections) -> None:
    await put(
        collections,
        [
            Document("pku", "北京大学是中国的一所综合性大学。"),
            Document("thu", "清华大学位于北京市海淀区。"),
            Document("dog", "我家有一只狗。"),
            Document("th", "กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย"),
            Document("ja", "東京タワーは日本の電波塔である。"),
        ],
    )
    bm25 = {"bm25": 1.0}
    assert (await ids(collections, "北京大学在哪里", weights=bm25))[0] == "pku"
    assert (await ids(collections, "清华", weights=bm25)) == ["thu"]
    assert (await ids(collections, "狗", weights=bm25)) == ["dog"]
    assert (await ids(collections, "เมืองหลวง", weights=bm25)) == ["th"]
    assert (await ids(collections, "ﾀﾜｰ", weights=bm25)) == ["ja"]


@pytest.mark.parametrize(
    "text",
    [
        '"', "'", '" OR 1=1 --', "NEAR(a b)", "a AND b OR NOT c", "body:x", "x*", "^x", "(", "{a b}: c", "a\0b", "%_",
        "'; DROP TABLE documents; --", "-fox", "+fox", "\\", "[", "?", ":1", "🦊", "\u202e",
    ],
)  # fmt: skip
async def test_no_query_is_syntax(collections: Collections, text: str) -> None:
    await put(collections, [Document("a", f"a fox {text}".replace("\0", " "))])
    for weights in ({"bm25": 1.0}, {"vector": 1.0}, {"bm25": 1.0, "vector": 1.0}):
        await recall(collections, text, weights=weights)
    assert await ids(collections, f"fox {text}", weights={"bm25": 1.0}) == ["a"]


async def test_filters_let_through_what_python_lets_through(opened: Opener) -> None:
    collections = opened(vector_settings=VectorSettings(plain_rows=16, exact_up_to=100_000))
    await collections.create("books", SETTINGS)
    given = [
        Document(
            f"d{i}", f"word{i % 5} common", metadata={"n": i, "tags": [f"t{i % 3}", "all"], "a": {"b": i % 2 == 0}}
        )
        for i in range(200)
    ]
    await put(collections, given)
    collections.engine.settle("books")
    for filter_ in (
        filters.Equals("n", 7),
        filters.Range("n", gte=10, lt=30),
        filters.In("tags", ("t1", "t9")),
        filters.Equals("a.b", True),
        filters.Not(filters.Equals("tags", "t0")),
        filters.And((filters.Range("n", lt=50), filters.Or((filters.Equals("tags", "t2"), filters.Equals("n", 3))))),
        filters.Equals("tags", "all"),
        filters.Equals("nothing", 1),
    ):
        expected = {document.id for document in given if filters.matches(filter_, document.metadata)}
        for weights in ({"bm25": 1.0}, {"vector": 1.0}, {"bm25": 1.0, "vector": 1.0}):
            for k in (5, 200):
                seen = await ids(collections, "word3 common", k, weights=weights, filter=filter_)
                assert len(seen) == min(k, len(expected))
                assert set(seen) <= expected
    # 1 and True are one key to Python's dictionaries, and two values here.
    assert await ids(collections, "common", filter=filters.Equals("n", 1)) == ["d1"]
    assert await ids(collections, "common", filter=filters.Equals("n", True)) == []


async def test_a_filter_sees_changed_metadata(collections: Collections) -> None:
    only = filters.Equals("state", "open")
    await put(collections, [Document("a", "ticket", metadata={"state": "open"})])
    assert await ids(collections, "ticket", filter=only) == ["a"]
    await put(collections, [Document("a", "ticket", metadata={"state": "closed"})])
    assert await ids(collections, "ticket", filter=only) == []


async def test_joining_by_rank(collections: Collections) -> None:
    await put(collections, [Document("a", "fox"), Document("b", "fox fox whale"), Document("c", "whale")])
    alone = await recall(collections, "fox", weights={"vector": 2.0, "bm25": 0.0})
    assert alone.hits[0].score == pytest.approx(1.0, abs=1e-5)
    assert [each.retriever for each in alone.hits[0].found] == ["vector"]
    both = await recall(collections, "fox", weights={"bm25": 2.0, "vector": 1.0})
    for hit in both.hits:
        weights = {"bm25": 2.0, "vector": 1.0}
        assert hit.score == pytest.approx(sum(weights[each.retriever] / (60 + each.rank) for each in hit.found))
    assert both.timings.total_s >= both.timings.encode_s >= 0
    assert both.usage.calls == 1
    assert both.query_vector is not None


async def test_a_query_that_is_encoded_already(collections: Collections, encoder: ToyEncoder) -> None:
    await put(collections, [Document("a", "fox"), Document("b", "whale")])
    vector = encoder.encode_queries(["whale"]).vectors[0]
    recalled = await recall(collections, "fox", weights={"vector": 1.0}, vector=vector)
    assert recalled.hits[0].id == "b"
    assert recalled.usage.calls == 0
    with pytest.raises(InvalidRequest, match="shape"):
        await recall(collections, "fox", vector=vector[:3])


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("query", {"text": ""}),
        ("query", {"text": " \n"}),
        ("query", {"text": "\ud800"}),
        ("query", {"text": "x" * 40_000}),
        ("recall_depth", {"k": 0}),
        ("recall_depth", {"k": 1001}),
        ("retriever_weights", {"weights": {}}),
        ("retriever_weights", {"weights": {"bm25": 0.0}}),
        ("retriever_weights", {"weights": {"bm25": -1.0}}),
        ("retriever_weights", {"weights": {"bm25": float("nan")}}),
        ("retriever_weights", {"weights": {"colbert": 1.0}}),
        ("filter.key", {"filter": filters.Equals("", 1)}),
    ],
)
async def test_bad_queries(collections: Collections, field: str, options: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await collections.retrieve(RecallQuery(**({"collection": "books", "text": "x", "k": 5} | options)))  # type: ignore[arg-type]
    assert refused.value.field == field


async def test_unknown_collections(collections: Collections) -> None:
    for attempt in (
        collections.retrieve(RecallQuery("bokos", "x")),
        collections.get_documents("bokos", ["x"]),
        collections.delete_documents("bokos", ["x"]),
        collections.stats("bokos"),
        collections.vectors("bokos", [1]),
        collections.token_vectors("bokos", [1]),
        collections.delete("bokos"),
    ):
        with pytest.raises(NotFound, match="did you mean 'books'"):
            await attempt


async def test_too_many_calls_are_turned_away(opened: Opener) -> None:
    collections = opened(limits=RecallLimits(waiting=3))
    await collections.create("books", SETTINGS)
    results = await asyncio.gather(
        *(collections.retrieve(RecallQuery("books", "x")) for _ in range(10)), return_exceptions=True
    )
    assert sum(isinstance(result, Overloaded) for result in results) == 7


# --- vectors for judges -----------------------------------------------------------------------------------------


async def test_vectors_of_what_was_found(opened: Opener, encoder: ToyEncoder) -> None:
    collections = opened()
    await collections.create("books", CollectionSettings("toy", overlap_tokens=8, token_vectors=True))
    texts = {"a": "red fox", "b": "one blue whale"}
    await put(collections, [Document(key, text) for key, text in texts.items()])
    recalled = await recall(collections, "red whale", token_vectors=True)
    assert recalled.query_token_vectors is not None
    assert recalled.query_token_vectors.shape == (2, DIM)
    chunks = [hit.chunk for hit in recalled.hits]
    vectors = await collections.vectors("books", [*chunks, 10**9])
    tokens = await collections.token_vectors("books", [*chunks, 10**9])
    assert tokens is not None
    for place, hit in enumerate(recalled.hits):
        encoded = encoder.encode_queries([texts[hit.id]], token_vectors=True)
        assert encoded.token_vectors is not None
        np.testing.assert_array_equal(vectors[place], encoded.vectors[0])
        np.testing.assert_allclose(tokens[place], encoded.token_vectors[0], atol=0.01)
        assert tokens.codes.dtype == np.int8
    assert not vectors[2].any()
    assert tokens[2].shape == (0, DIM)
    stats = await collections.stats("books")
    assert stats.token_vectors == 5
    assert stats.token_vector_loss is not None
    assert 0 < stats.token_vector_loss < 0.01


async def test_a_collection_without_token_vectors_says_so(collections: Collections, encoder: ToyEncoder) -> None:
    await put(collections, [Document("a", "x")])
    assert await collections.token_vectors("books", [1]) is None
    encoder.has_token_vectors = False
    with pytest.raises(FailedPrecondition, match="no token vectors"):
        await recall(collections, "x", token_vectors=True)


# --- many at the same time --------------------------------------------------------------------------------------


async def test_searches_beside_a_writer_see_whole_states(opened: Opener) -> None:
    """Each document is always there, in one version or the next, and never twice; no search fails."""
    collections = opened(
        limits=RecallLimits(batch_documents=7),
        vector_settings=VectorSettings(plain_rows=8, exact_up_to=40, dead_share=0.3, build_effort=40),
    )
    await collections.create("books", SETTINGS)
    n = 60
    await put(collections, [Document(f"d{i}", f"number {i} version 0") for i in range(n)])
    done = False

    async def write() -> None:
        nonlocal done
        for version in range(1, 12):
            await put(collections, [Document(f"d{i}", f"number {i} version {version}") for i in range(n)])
        done = True

    async def search() -> int:
        count = 0
        while not done:
            for weights in ({"vector": 1.0}, {"bm25": 1.0}):
                seen = await ids(collections, "number version", 100, weights=weights)
                assert sorted(seen) == sorted(f"d{i}" for i in range(n))
                count += 1
        return count

    _, *counts = await asyncio.gather(write(), search(), search())
    assert all(counts)
    collections.engine.settle("books")
    stats = await collections.stats("books")
    assert stats.passages == n
    assert stats.counts.failed == 0
    assert stats.counts.built > 0


async def test_deleting_a_collection_beside_its_writer(collections: Collections) -> None:
    writing = asyncio.create_task(put(collections, [Document(f"d{i}", f"text {i}") for i in range(5_000)]))
    await asyncio.sleep(0.1)
    await collections.delete("books")
    with pytest.raises(NotFound):
        await writing


async def test_two_streams_at_once(collections: Collections) -> None:
    one, other = await asyncio.gather(
        put(collections, [Document(f"a{i}", "from one") for i in range(150)]),
        put(collections, [Document(f"b{i}", "from the other") for i in range(150)]),
    )
    assert sum(len(each.inserted) for each in (*one, *other)) == 300
    assert (await collections.get("books")).documents == 300
    assert len(await ids(collections, "from", 1000, weights={"vector": 1.0})) == 300


async def test_streams_are_helpers(collections: Collections) -> None:
    assert [document.id async for document in stream([Document("a", "x")])] == ["a"]


async def test_a_small_encoder_takes_the_usual_overlap_as_far_as_it_fits(opened: Opener) -> None:
    collections = opened(using=ToyEncoder(max_tokens=40))
    row = await collections.create("small", CollectionSettings("toy"))
    assert (row.settings.chunk_tokens, row.settings.overlap_tokens) == (40, 19)
    assert await collections.create("small", CollectionSettings("toy")) == row
    with pytest.raises(InvalidRequest, match="overlap_tokens"):
        await collections.create("own", CollectionSettings("toy", chunk_tokens=40, overlap_tokens=32))


async def test_a_purge_that_fails_keeps_nobody_from_closing(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    collections = opened()
    await collections.create("books", SETTINGS)

    def full() -> bool:
        raise StoreFull("no room")

    monkeypatch.setattr(collections.engine, "purge", full)
    await collections.delete("books")
    await asyncio.sleep(0.05)
    await collections.aclose()
    opened()  # the directory is free again


async def test_an_encoder_around_one_without_spans_has_its_places_estimated(opened: Opener) -> None:
    class Around(ToyEncoder):
        @property
        def token_spans(self) -> object:
            raise AttributeError("token_spans")

    collections = opened(using=Around())
    await collections.create("books", SETTINGS)
    (acknowledged,) = await put(collections, [Document("a", "word " * 500)])
    assert acknowledged.inserted == ("a",)


async def test_tokens_are_counted_by_the_encoder_and_each_passage_has_the_title(opened: Opener) -> None:
    asked: list[str] = []

    class Counting(ToyEncoder):
        def token_spans(self, text: str) -> list[tuple[int, int]]:
            asked.append(text)
            return [(at, at + 1) for at in range(len(text))]

    encoder = Counting()
    collections = opened(using=encoder)
    await collections.create("books", CollectionSettings("toy", chunk_tokens=24, overlap_tokens=2))
    await put(collections, [Document("a", fields=(("title", "Oak"), ("body", "letters and words " * 5)))])
    assert asked
    assert len(encoder.encoded) == 5  # two, by the estimate
    assert all(text.startswith("Oak\n") for text in encoder.encoded)


def test_what_a_cache_answered_whole_is_no_call() -> None:
    nothing = np.empty((1, 1), np.float32)
    assert usage_of(ToyEncoded(nothing, None, (0,), (False,), 0, cache_hits=1), documents=False).calls == 0
    assert usage_of(ToyEncoded(nothing, None, (3,), (False,), 3), documents=False).calls == 1
    assert usage_of(ToyEncoded(nothing, None, (3,), (False,), 3, calls=2), documents=False).calls == 2
