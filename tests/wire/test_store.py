"""IndexService and SearchService over a real store, with an encoder that needs no model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.struct_pb2 import Value
from google.rpc.error_details_pb2 import ResourceInfo

from podium.v1 import document_pb2, filter_pb2, ledger_pb2, ranking_pb2, strategy_pb2
from podium.v1 import index_service_pb2 as index
from podium.v1 import search_service_pb2 as search
from podium_server.accounting.prices import Prices
from podium_server.errors import NotFound
from podium_server.limits import Limits
from podium_server.ranking.searcher import EncoderOf, Searcher
from podium_server.recall.collections import Collections
from podium_strategies.oracle import Oracle
from tests.ranking.scripted import ScriptedJudge
from tests.recall.toy import ToyEncoder, quantize
from tests.wire.serving import Stubs, refused, serving, standing, until

INVALID = grpc.StatusCode.INVALID_ARGUMENT
PRICES = Prices(prompt_usd_per_mtok=1.0, output_usd_per_mtok=0.0, version="2026-11-21")


@asynccontextmanager
async def stored(tmp_path: Path, limits: Limits | None = None) -> AsyncIterator[Stubs]:
    encoder = ToyEncoder(name="minilm", max_tokens=256)

    def encoder_of(name: str) -> Any:
        if name != "minilm":
            raise NotFound("model", name, ("minilm",))
        return encoder

    async def card(_collection: str) -> EncoderOf:
        return EncoderOf("minilm", "1", PRICES, True)

    podium = standing(ScriptedJudge(Oracle.seeded(16, 3)), limits)
    podium.collections = Collections(tmp_path / "data", encoder_of, quantize=quantize)
    podium.searcher = Searcher(podium.collections, podium.reranker, card)
    try:
        async with serving(podium) as served:
            yield served
    finally:
        await podium.collections.aclose()


@pytest_asyncio.fixture
async def stubs(tmp_path: Path) -> AsyncIterator[Stubs]:
    async with stored(tmp_path) as served:
        yield served


async def made(stubs: Stubs, name: str = "books", **more: Any) -> index.Collection:
    collection = index.Collection(name=name, **more)
    return (await stubs.index.CreateCollection(index.CreateCollectionRequest(collection=collection))).collection


def document(number: int, text: str = "", **metadata: Any) -> document_pb2.Document:
    message = document_pb2.Document(id=f"d{number}", text=text or f"document number {number} about foxes")
    if metadata:
        message.metadata.update(metadata)
    return message


async def upserted(
    stubs: Stubs, *parts: Iterable[document_pb2.Document], name: str = "books"
) -> index.UpsertDocumentsResponse:
    async def messages() -> AsyncIterator[index.UpsertDocumentsRequest]:
        for place, part in enumerate(parts):
            yield index.UpsertDocumentsRequest(collection=name if place == 0 else "", documents=part)

    return await stubs.index.UpsertDocuments(messages())


def equals(key: str, value: Any) -> filter_pb2.Filter:
    kinds = {str: "string_value", bool: "bool_value", int: "number_value", float: "number_value"}
    given = Value(**{kinds[type(value)]: value})  # type: ignore[arg-type]  # by kind
    return filter_pb2.Filter(equality=filter_pb2.Equality(key=key, value=given))


# --- collections ------------------------------------------------------------------------------------------------


async def test_a_collection_is_made_told_of_and_removed(stubs: Stubs) -> None:
    first = await made(stubs, token_vectors=True)
    assert (first.name, first.encoder, first.token_vectors) == ("books", "minilm", True)
    assert (first.chunking.max_tokens, first.chunking.overlap_tokens) == (256, 32)
    assert first.create_time.ToSeconds() > 0
    assert await made(stubs, token_vectors=True) == first
    got = await stubs.index.GetCollection(index.GetCollectionRequest(name="books"))
    assert got.collection == first
    error = await refused(stubs.index.CreateCollection(index.CreateCollectionRequest(collection={"name": "books"})))
    assert error.code is grpc.StatusCode.ALREADY_EXISTS
    assert error.detail(ResourceInfo).resource_type == "collection"
    await stubs.index.DeleteCollection(index.DeleteCollectionRequest(name="books"))
    error = await refused(stubs.index.GetCollection(index.GetCollectionRequest(name="books")))
    assert error.code is grpc.StatusCode.NOT_FOUND
    assert error.detail(ResourceInfo).resource_name == "books"


@pytest.mark.parametrize(
    ("collection", "field"),
    [
        (index.Collection(), "collection.name"),
        (index.Collection(name="Upper"), "collection.name"),
        (index.Collection(name="x" * 64), "collection.name"),
        (index.Collection(name="a", chunking=index.Chunking(max_tokens=8)), "collection.chunking.max_tokens"),
        (index.Collection(name="a", chunking=index.Chunking(max_tokens=-1)), "collection.chunking.max_tokens"),
        (index.Collection(name="a", chunking=index.Chunking(overlap_tokens=128)), "collection.chunking.overlap_tokens"),
    ],
)
async def test_a_collection_that_cannot_be(stubs: Stubs, collection: index.Collection, field: str) -> None:
    error = await refused(stubs.index.CreateCollection(index.CreateCollectionRequest(collection=collection)))
    assert (error.code, error.fields) == (INVALID, [field])


async def test_an_unknown_encoder(stubs: Stubs) -> None:
    message = index.CreateCollectionRequest(collection=index.Collection(name="a", encoder="mini"))
    error = await refused(stubs.index.CreateCollection(message))
    assert error.code is grpc.StatusCode.NOT_FOUND
    assert error.info.metadata["known"] == "minilm"


async def test_collections_come_page_by_page(stubs: Stubs) -> None:
    for name in ("c", "a", "b"):
        await made(stubs, name)
    first = await stubs.index.ListCollections(index.ListCollectionsRequest(page_size=2))
    assert [one.name for one in first.collections] == ["a", "b"]
    second = await stubs.index.ListCollections(
        index.ListCollectionsRequest(page_size=2, page_token=first.next_page_token)
    )
    assert [one.name for one in second.collections] == ["c"]
    assert second.next_page_token == ""
    for bad in ({"page_size": -1}, {"page_token": "x"}, {"page_token": "é"}):
        error = await refused(stubs.index.ListCollections(index.ListCollectionsRequest(**bad)))
        assert (error.code, error.fields) == (INVALID, list(bad))


# --- documents --------------------------------------------------------------------------------------------------


async def test_documents_come_back_as_they_went_in(stubs: Stubs) -> None:
    await made(stubs)
    fields = document_pb2.Fields(
        fields=[document_pb2.Field(name="title", text="T"), document_pb2.Field(name="body", text="B")]
    )
    given = [
        document(1, "plain", year=2020, tags=["a", {"deep": None}], ratio=0.5, old=False),
        document_pb2.Document(id="d2", fields=fields),
    ]
    answer = await upserted(stubs, given[:1], given[1:])
    assert (answer.inserted, answer.replaced, answer.unchanged, answer.refused) == (2, 0, 0, 0)
    assert answer.ledger.total.prompt_tokens > 0
    assert [(one.stage, one.strategy, one.model) for one in answer.ledger.stages] == [("upsert", "upsert", "minilm")]
    got = await stubs.index.GetDocuments(index.GetDocumentsRequest(collection="books", ids=["d2", "no", "d1", "d2"]))
    assert list(got.documents) == [given[1], given[0]]
    assert list(got.missing_ids) == ["no"]
    again = await upserted(stubs, [*given, document(3)])
    assert (again.inserted, again.unchanged) == (1, 2)
    changed = await upserted(stubs, [document(3, "something else")])
    assert changed.replaced == 1
    stats = await stubs.index.GetCollectionStats(index.GetCollectionStatsRequest(name="books"))
    assert (stats.documents, stats.passages, stats.token_vectors, stats.dimensions) == (3, 3, 0, 48)
    assert stats.index_kind == index.VECTOR_INDEX_KIND_EXACT
    assert stats.update_time.ToSeconds() > 0
    gone = await stubs.index.DeleteDocuments(index.DeleteDocumentsRequest(collection="books", ids=["d1", "no"]))
    assert (gone.deleted, list(gone.missing_ids)) == (1, ["no"])


async def test_a_refused_document_does_not_stop_the_others(stubs: Stubs) -> None:
    await made(stubs)
    bad = [document_pb2.Document(text="no id"), document(2, "x" * (6 << 20)), document_pb2.Document(id="empty")]
    answer = await upserted(stubs, [document(0), bad[0]], bad[1:], [document(4)])
    assert (answer.inserted, answer.refused) == (2, 3)
    assert [(one.index, one.document_id) for one in answer.errors] == [(1, ""), (2, "d2"), (3, "empty")]
    assert {one.error.code for one in answer.errors} == {INVALID.value[0]}


async def test_nul_characters_become_spaces(stubs: Stubs) -> None:
    await made(stubs)
    await upserted(stubs, [document(1, "a\0b")])
    got = await stubs.index.GetDocuments(index.GetDocumentsRequest(collection="books", ids=["d1"]))
    assert got.documents[0].text == "a b"


async def test_a_stream_that_begins_or_goes_on_wrongly(stubs: Stubs) -> None:
    await made(stubs)

    async def messages(*given: str) -> AsyncIterator[index.UpsertDocumentsRequest]:
        for name in given:
            yield index.UpsertDocumentsRequest(collection=name, documents=[document(1)])

    for given in ((), ("",), ("books", "others")):
        error = await refused(stubs.index.UpsertDocuments(messages(*given)))
        assert (error.code, error.fields) == (INVALID, ["collection"])
    error = await refused(stubs.index.UpsertDocuments(messages("nothing")))
    assert error.code is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("ids", [[], [""], ["x" * 513], ["d"] * 10_001])
async def test_ids_that_cannot_be(stubs: Stubs, ids: list[str]) -> None:
    await made(stubs)
    for call in (
        stubs.index.GetDocuments(index.GetDocumentsRequest(collection="books", ids=ids)),
        stubs.index.DeleteDocuments(index.DeleteDocumentsRequest(collection="books", ids=ids)),
    ):
        error = await refused(call)
        assert error.code is INVALID
        assert error.fields[0].startswith("ids")


async def test_documents_that_do_not_fit_into_an_answer(tmp_path: Path) -> None:
    async with stored(tmp_path, Limits(message_bytes=64 * 1024)) as stubs:
        await made(stubs)
        big = [document(i, "x" * 10_000) for i in range(8)]
        assert (await upserted(stubs, big[:4], big[4:])).inserted == 8
        ids = [one.id for one in big]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stubs.index.GetDocuments(index.GetDocumentsRequest(collection="books", ids=ids))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        fewer = await stubs.index.GetDocuments(index.GetDocumentsRequest(collection="books", ids=ids[:4]))
        assert len(fewer.documents) == 4


# --- search -----------------------------------------------------------------------------------------------------


@pytest_asyncio.fixture
async def books(stubs: Stubs) -> Stubs:
    await made(stubs)
    texts = ["red fox", "red wine", "blue whale", "green fox and red fox", "white wine"]
    await upserted(stubs, [document(i, text, year=2000 + i, kind=text.split()[-1]) for i, text in enumerate(texts)])
    return stubs


async def test_documents_are_found_ranked_and_charged(books: Stubs) -> None:
    message = search.SearchRequest(collection="books", query="red fox", include_content=True, include_metadata=True)
    answer = await books.search.Search(message)
    assert answer.recalled == len(answer.results)
    assert [one.ranked.rank for one in answer.results] == list(range(1, answer.recalled + 1))
    best = answer.results[0]
    assert best.ranked.document_id == "d0"
    assert best.ranked.score_kind == ranking_pb2.SCORE_KIND_PRIOR
    assert best.document.text == "red fox"
    assert dict(best.document.metadata) == {"year": 2000, "kind": "fox"}
    assert (best.passage.index, best.passage.start, best.passage.end) == (0, 0, 7)
    assert {hit.retriever: hit.rank for hit in best.hits} == {"bm25": 2, "vector": 1}
    assert answer.pipeline == "identity"
    assert answer.completion == ranking_pb2.COMPLETION_COMPLETE
    stage = answer.ledger.stages[0]
    assert (stage.stage, stage.strategy, stage.model, stage.candidates_out) == ("recall", "recall", "minilm", 5)
    assert stage.usage.cost_basis in (ledger_pb2.COST_BASIS_PRICE_TABLE, ledger_pb2.COST_BASIS_FREE)
    assert not answer.HasField("trace")


async def test_a_strategy_puts_them_in_another_order(books: Stubs) -> None:
    plain = await books.search.Search(search.SearchRequest(collection="books", query="red fox"))
    answer = await books.search.Search(
        search.SearchRequest(
            collection="books", query="red fox", pipeline="points", top_n=2, explain=strategy_pb2.EXPLAIN_LEVEL_ROUNDS
        )
    )
    recalled = [one.ranked.document_id for one in plain.results]
    order = Oracle.seeded(16, 3).truth
    expected = [recalled[place] for place in order if place < len(recalled)][:2]
    assert [one.ranked.document_id for one in answer.results] == expected
    assert [recalled[one.ranked.input_index] for one in answer.results] == expected
    assert not answer.results[0].HasField("document")
    assert answer.trace.rounds[0].question_count == len(recalled)
    assert [stage.stage for stage in answer.ledger.stages] == ["recall", "pointwise"]


async def test_filters(books: Stubs) -> None:
    def number(value: float) -> Value:
        return Value(number_value=value)

    cases = [
        (equals("kind", "fox"), {"d0", "d3"}),
        (equals("year", 2001), {"d1"}),
        (filter_pb2.Filter(range=filter_pb2.Range(key="year", gte=number(2003))), {"d3", "d4"}),
        (filter_pb2.Filter(range=filter_pb2.Range(key="year", gt=number(2000), lt=number(2002))), {"d1"}),
        (
            filter_pb2.Filter(membership=filter_pb2.Membership(key="kind", values=[Value(string_value="whale")])),
            {"d2"},
        ),
        (filter_pb2.Filter(negation=equals("kind", "wine")), {"d0", "d2", "d3"}),
        (filter_pb2.Filter(existence=filter_pb2.Existence(key="nothing")), set()),
        (
            filter_pb2.Filter(
                all_of=filter_pb2.FilterList(
                    filters=[
                        equals("kind", "fox"),
                        filter_pb2.Filter(any_of=filter_pb2.FilterList(filters=[equals("year", 2003)])),
                    ]
                )
            ),
            {"d3"},
        ),
    ]
    for condition, expected in cases:
        answer = await books.search.Search(search.SearchRequest(collection="books", query="red fox", filter=condition))
        assert {one.ranked.document_id for one in answer.results} == expected


def nested(depth: int) -> filter_pb2.Filter:
    condition = equals("kind", "fox")
    for _ in range(depth):
        condition = filter_pb2.Filter(negation=condition)
    return condition


def wide(count: int) -> filter_pb2.Filter:
    return filter_pb2.Filter(all_of=filter_pb2.FilterList(filters=[equals("kind", "fox")] * count))


BAD_SEARCHES: dict[str, tuple[dict[str, Any], str]] = {
    "empty query": ({"query": ""}, "query"),
    "top_n of 0": ({"top_n": 0}, "top_n"),
    "depth of 0": ({"recall_depth": 0}, "recall_depth"),
    "depth beyond": ({"recall_depth": 1_001}, "recall_depth"),
    "unknown retriever": ({"retriever_weights": {"vectors": 1.0}}, "retriever_weights[vectors]"),
    "negative weight": ({"retriever_weights": {"bm25": -1.0}}, "retriever_weights[bm25]"),
    "weight that is no number": ({"retriever_weights": {"bm25": float("nan")}}, "retriever_weights[bm25]"),
    "no weight": ({"retriever_weights": {"bm25": 0.0}}, "retriever_weights"),
    "empty filter": ({"filter": filter_pb2.Filter()}, "filter"),
    "filter without a value": (
        {"filter": filter_pb2.Filter(equality=filter_pb2.Equality(key="a"))},
        "filter.equality.value",
    ),
    "filter by a bool's order": (
        {"filter": filter_pb2.Filter(range=filter_pb2.Range(key="a", gt=Value(bool_value=True)))},
        "filter.range.gt",
    ),
    "wide filter": ({"filter": wide(300)}, "filter"),
}


@pytest.mark.parametrize("name", BAD_SEARCHES)
async def test_a_search_that_cannot_be(books: Stubs, name: str) -> None:
    given, field = BAD_SEARCHES[name]
    error = await refused(books.search.Search(search.SearchRequest(**{"collection": "books", "query": "q", **given})))
    assert (error.code, error.fields) == (INVALID, [field])


async def test_a_deep_filter_is_refused(books: Stubs) -> None:
    error = await refused(books.search.Search(search.SearchRequest(collection="books", query="q", filter=nested(20))))
    assert error.code is INVALID


async def test_unknown_collections_and_pipelines(books: Stubs) -> None:
    for given, kind, known in (
        ({"collection": "book"}, "collection", "books"),
        ({"pipeline": "x"}, "pipeline", "window"),
    ):
        message = search.SearchRequest(**{"collection": "books", "query": "q", **given})
        error = await refused(books.search.Search(message))
        assert error.code is grpc.StatusCode.NOT_FOUND
        assert error.detail(ResourceInfo).resource_type == kind
        assert known in error.info.metadata["known"]


async def test_nothing_found_is_no_error(stubs: Stubs) -> None:
    await made(stubs)
    answer = await stubs.search.Search(search.SearchRequest(collection="books", query="q", include_content=True))
    assert (len(answer.results), answer.recalled) == (0, 0)


async def test_a_deleted_document_is_found_no_more_and_a_new_one_at_once(books: Stubs) -> None:
    await books.index.DeleteDocuments(index.DeleteDocumentsRequest(collection="books", ids=["d0"]))
    await upserted(books, [document(9, "red fox again")])
    answer = await books.search.Search(search.SearchRequest(collection="books", query="red fox"))
    found = {one.ranked.document_id for one in answer.results}
    assert "d0" not in found
    assert "d9" in found


async def test_without_a_store() -> None:
    async with serving(standing()) as stubs:
        for call in (
            stubs.search.Search(search.SearchRequest(collection="books", query="q")),
            stubs.index.ListCollections(index.ListCollectionsRequest()),
        ):
            assert (await refused(call)).code is grpc.StatusCode.FAILED_PRECONDITION


async def test_a_cancelled_upsert_ends(books: Stubs) -> None:
    call = books.index.UpsertDocuments()
    await call.write(index.UpsertDocumentsRequest(collection="books", documents=[document(7)]))
    await asyncio.sleep(0.1)
    call.cancel()
    await until(lambda: not books.server.door.running)
