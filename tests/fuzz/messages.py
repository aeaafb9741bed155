"""A few good messages of every method, to damage: what the contract allows, said by somebody who owns `books`."""

from __future__ import annotations

from functools import cache

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from podium.v1 import document_pb2, filter_pb2, index_service_pb2, rerank_service_pb2, search_service_pb2, strategy_pb2
from podium_server.transport.door import Method
from tests.fuzz.victim import MARK

PIPELINES = ("", "plain", "plain", "vectors", "judged", "two")


def document(number: int, **more: object) -> document_pb2.Document:
    """Return a document."""
    return document_pb2.Document(id=f"d{number}", text=f"{MARK} text {number}", **more)  # type: ignore[arg-type]


def rerank(n: int = 4, pipeline: str = "plain") -> rerank_service_pb2.RerankRequest:
    """Return a request."""
    documents = [document(i) for i in range(n)]
    return rerank_service_pb2.RerankRequest(query=f"{MARK} query", documents=documents, pipeline=pipeline)


def _full() -> rerank_service_pb2.RerankRequest:
    """Return a request with every field that there is."""
    made = rerank(3)
    made.instruction, made.top_n, made.seed, made.explain = f"{MARK} instruction", 2, 7, 3
    made.budget.soft_deadline.FromMilliseconds(800)
    made.budget.max_cost_nano_usd, made.budget.max_calls, made.budget.max_tokens = 10**9, 20, 10_000
    made.budget.on_exhausted = 1
    made.truncation.max_tokens_per_document, made.truncation.side = 64, 2
    fields = made.documents.add(id="with fields", prior_score=1.5).fields.fields
    fields.add(name="title", text=f"{MARK} title")
    fields.add(name="body", text=f"{MARK} body")
    made.documents[0].metadata.update({"year": 1999, "tags": ["a", {"b": None}]})
    return made


def _inline(strategy: str, model: str = "", **options: object) -> rerank_service_pb2.RerankRequest:
    made = rerank(4, "")
    stage = made.inline.stages.add(strategy=strategy, model=model, keep=3)
    stage.options.update(options)
    return made


def _filter() -> filter_pb2.Filter:
    made = filter_pb2.Filter()
    made.all_of.filters.add().equality.key = "kind"
    made.all_of.filters[0].equality.value.string_value = "a"
    made.all_of.filters.add().range.key = "year"
    made.all_of.filters[1].range.gte.number_value = 1990
    made.all_of.filters.add().negation.existence.key = "gone"
    membership = made.all_of.filters.add().membership
    membership.key = "kind"
    membership.values.add().string_value = "a"
    return made


def _reranks() -> list[rerank_service_pb2.RerankRequest]:
    made = [rerank(1 + i % 6, name) for i, name in enumerate(PIPELINES)]
    made += [_full(), rerank(0), rerank(30), rerank(12, "two")]
    made += [
        _inline("pointwise", "minilm", scoring="cosine"),
        _inline("sliding-window", "sim", size=4, stride=2),
        _inline("mmr", "minilm", scoring="cosine", balance=0.5),
        _inline("fusion", of=[{"strategy": "pointwise", "model": "minilm", "scoring": "cosine"}], method="rrf"),
        _inline("first-stage"),
        _inline("tourrank", "sim"),
        _inline("setwise-heapsort", "sim", k=2),
    ]
    return made


def _searches() -> list[search_service_pb2.SearchRequest]:
    plain = search_service_pb2.SearchRequest(collection="books", query=f"{MARK} query", pipeline="plain")
    made = [plain]
    full = search_service_pb2.SearchRequest()
    full.CopyFrom(plain)
    full.top_n, full.recall_depth, full.seed, full.explain = 3, 10, 1, 2
    full.include_content = full.include_metadata = True
    full.retriever_weights.update({"lexical": 1.0, "vector": 0.5})
    full.filter.CopyFrom(_filter())
    made.append(full)
    made.append(search_service_pb2.SearchRequest(collection="books", query="text", pipeline="vectors", top_n=2))
    return made


def _index() -> dict[str, list[Message]]:
    wire = index_service_pb2
    scratch = wire.Collection(name="scratch", encoder="minilm")
    chunked = wire.Collection(name="chunked", chunking=wire.Chunking(max_tokens=32, overlap_tokens=4))
    documents = [document(i) for i in range(3)]
    return {
        "CreateCollection": [wire.CreateCollectionRequest(collection=each) for each in (scratch, chunked)],
        "GetCollection": [wire.GetCollectionRequest(name="books")],
        "ListCollections": [wire.ListCollectionsRequest(page_size=2), wire.ListCollectionsRequest(page_token="YQ==")],
        "DeleteCollection": [wire.DeleteCollectionRequest(name="chunked")],
        "GetCollectionStats": [wire.GetCollectionStatsRequest(name="books")],
        "UpsertDocuments": [wire.UpsertDocumentsRequest(collection="scratch", documents=documents)],
        "GetDocuments": [wire.GetDocumentsRequest(collection="books", ids=["b0", "b1", "nothing"])],
        "DeleteDocuments": [wire.DeleteDocumentsRequest(collection="scratch", ids=["d0", "d9"])],
    }


@cache
def good(method: Method) -> tuple[bytes, ...]:
    """Return serialized messages of a method, each a call by itself."""
    return tuple(message.SerializeToString() for message in _good(method))


def _good(method: Method) -> list[Message]:
    name, wire = method.descriptor.name, rerank_service_pb2
    if name in (found := _index()):
        return found[name]
    match name:
        case "Rerank":
            return list(_reranks())
        case "StreamRerank":
            return [wire.StreamRerankRequest(request=each) for each in _reranks()]
        case "BatchRerank":
            return [wire.BatchRerankRequest(item_id=f"i{i}", request=each) for i, each in enumerate(_reranks())]
        case "Estimate":
            sketch = wire.CandidateSketch(candidates=50, tokens_per_document=100, query_tokens=9)
            sketched = [wire.EstimateRequest(request=rerank(0, name), sketch=sketch) for name in PIPELINES]
            return [*sketched, *(wire.EstimateRequest(request=each) for each in _reranks())]
        case "Compare":
            contenders = [wire.Contender(label="a", pipeline="plain"), wire.Contender(label="b", pipeline="vectors")]
            inline = strategy_pb2.InlinePipeline(stages=[strategy_pb2.InlineStrategy(strategy="first-stage")])
            both = [*contenders, wire.Contender(inline=inline)]
            return [
                wire.CompareRequest(request=rerank(4, ""), contenders=each, overlap_at=[1, 3])
                for each in (contenders, both)
            ]
        case "Search":
            return list(_searches())
        case _:
            # Lists of the catalogue, and what takes nothing.
            kind = GetMessageClass(method.descriptor.input_type)
            made = [kind()]
            if "page_size" in kind.DESCRIPTOR.fields_by_name:
                made.append(kind(page_size=1, page_token="cGxhaW4="))
            if "model" in kind.DESCRIPTOR.fields_by_name:
                made.append(kind(model="none-such"))
            if "level" in kind.DESCRIPTOR.fields_by_name:
                made.append(kind(level="INFO", logger="podium_server.transport.door"))
            return made


WEIGHTS = {
    "Rerank": 30,
    "StreamRerank": 10,
    "BatchRerank": 8,
    "Estimate": 12,
    "Compare": 6,
    "Search": 6,
    "UpsertDocuments": 2,
    "CreateCollection": 2,
    "DeleteCollection": 2,
    "LoadModel": 0,
    "UnloadModel": 0,
}
"""How often a method is drawn beside the others, which count 3."""
