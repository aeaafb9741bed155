"""A server that knows nothing, for the clients to talk to over a real socket.

What it does follows from the query: `fail:NAME` fails as `FAILURES[NAME]` says, `flaky:N` is unavailable N times,
`slow` takes a second; every other one gets its documents back in reverse.
"""

# ruff: noqa: N802  # methods have the names of the contract

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import struct_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from podium.v1 import catalog_service_pb2 as catalog_pb
from podium.v1 import (
    catalog_service_pb2_grpc,
    document_pb2,
    index_service_pb2_grpc,
    ledger_pb2,
    ranking_pb2,
    rerank_service_pb2_grpc,
    search_service_pb2_grpc,
)
from podium.v1 import index_service_pb2 as index_pb
from podium.v1 import rerank_service_pb2 as rerank_pb
from podium.v1 import search_service_pb2 as search_pb


def info(reason: str, **metadata: str) -> error_details_pb2.ErrorInfo:
    return error_details_pb2.ErrorInfo(reason=reason, domain="podium", metadata=metadata)


def status(code: int, message: str, *details: Message) -> status_pb2.Status:
    answer = status_pb2.Status(code=code, message=message)
    for detail in details:
        answer.details.add().Pack(detail)
    return answer


def retry(seconds: int) -> error_details_pb2.RetryInfo:
    answer = error_details_pb2.RetryInfo()
    answer.retry_delay.seconds = seconds
    return answer


BAD = error_details_pb2.BadRequest(
    field_violations=[
        error_details_pb2.BadRequest.FieldViolation(field="documents[1].id", description="'a' is documents[0].id, too")
    ]
)
LACKING = error_details_pb2.PreconditionFailure(
    violations=[error_details_pb2.PreconditionFailure.Violation(subject="minilm", description="no log-probabilities")]
)
SPENT = ledger_pb2.Ledger(total=ledger_pb2.Usage(calls=3, cost_nano_usd=1500))
NOBODY = error_details_pb2.ResourceInfo(resource_type="pipeline", resource_name="fsat")
FAILURES = {
    "invalid": status(code_pb2.INVALID_ARGUMENT, "two ids", info("INVALID_REQUEST", request_id="of-server"), BAD),
    "unknown": status(code_pb2.NOT_FOUND, "no such", info("NOT_FOUND", known="fast,recall"), NOBODY),
    "exists": status(code_pb2.ALREADY_EXISTS, "is there", info("ALREADY_EXISTS")),
    "lacking": status(code_pb2.FAILED_PRECONDITION, "cannot", info("FAILED_PRECONDITION"), LACKING),
    "full": status(code_pb2.RESOURCE_EXHAUSTED, "too much", info("OVERLOADED"), retry(2)),
    "quota": status(code_pb2.RESOURCE_EXHAUSTED, "spent", info("QUOTA_EXCEEDED")),
    "budget": status(code_pb2.RESOURCE_EXHAUSTED, "spent", info("BUDGET_EXHAUSTED"), SPENT),
    "disk": status(code_pb2.RESOURCE_EXHAUSTED, "no room", info("STORE_FULL")),
    "down": status(code_pb2.UNAVAILABLE, "down", info("BACKEND_DOWN"), retry(1)),
    "late": status(code_pb2.DEADLINE_EXCEEDED, "late", info("DEADLINE_EXCEEDED"), SPENT),
    "who": status(code_pb2.UNAUTHENTICATED, "who", info("UNAUTHENTICATED")),
    "no": status(code_pb2.PERMISSION_DENIED, "no", info("PERMISSION_DENIED")),
    "fault": status(code_pb2.INTERNAL, "oh", info("INTERNAL")),
    "gone": status(code_pb2.CANCELLED, "gone", info("CANCELLED")),
    "odd": status(code_pb2.OUT_OF_RANGE, "odd"),
}


def ledger() -> ledger_pb2.Ledger:
    usage = ledger_pb2.Usage(
        questions=9,
        calls=9,
        prompt_tokens=20_000,
        replies=ledger_pb2.ReplyCounts(ok=8, missing=1),
        cost_nano_usd=3_000_000,
        cost_basis=ledger_pb2.COST_BASIS_PRICE_TABLE,
        price_table_version="2026-11-01",
    )
    usage.wall_time.FromMilliseconds(1250)
    stage = ledger_pb2.StageUsage(stage="1-toy", strategy="toy", candidates_in=3, candidates_out=3, usage=usage)
    return ledger_pb2.Ledger(total=usage, stages=[stage])


def reverse(request: rerank_pb.RerankRequest) -> rerank_pb.RerankResponse:
    n = len(request.documents)
    ranking = [
        ranking_pb2.RankedDocument(
            document_id=request.documents[place].id,
            input_index=place,
            rank=n - place,
            score=float(place) if place else None,
            score_kind=ranking_pb2.SCORE_KIND_LOGIT if place else ranking_pb2.SCORE_KIND_NONE,
            provenance=ranking_pb2.PROVENANCE_SCORED if place else ranking_pb2.PROVENANCE_CARRIED_OVER,
        )
        for place in reversed(range(n))
    ]
    return rerank_pb.RerankResponse(
        ranking=ranking[: request.top_n] if request.HasField("top_n") else ranking,
        completion=ranking_pb2.COMPLETION_COMPLETE,
        ledger=ledger(),
        warnings=[ranking_pb2.Warning(code=ranking_pb2.WARNING_CODE_TRUNCATED, message="cut", documents=1)],
        pipeline=request.pipeline or "toy",
    )


@dataclass
class Toy(
    rerank_service_pb2_grpc.RerankServiceServicer,
    search_service_pb2_grpc.SearchServiceServicer,
    index_service_pb2_grpc.IndexServiceServicer,
    catalog_service_pb2_grpc.CatalogServiceServicer,
):
    """Remembers what it was asked, so that tests can look."""

    requests: list[Any] = field(default_factory=list)
    metadata: list[dict[str, str]] = field(default_factory=list)
    tries: dict[str, int] = field(default_factory=dict)
    documents: dict[str, document_pb2.Document] = field(default_factory=dict)
    cancelled: threading.Event = field(default_factory=threading.Event)
    health: health.HealthServicer = field(default_factory=health.HealthServicer)

    def asked(self, request: Any, query: str, context: grpc.ServicerContext) -> None:
        self.requests.append(request)
        self.metadata.append({key: str(value) for key, value in context.invocation_metadata()})
        tries = self.tries[query] = self.tries.get(query, 0) + 1
        verb, _, what = query.partition(":")
        if verb == "fail":
            context.abort_with_status(rpc_status.to_status(FAILURES[what]))
        if verb == "flaky" and tries <= int(what):
            context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
        if verb == "garbled":
            context.set_trailing_metadata((("grpc-status-details-bin", b"\xff\xff\xff"),))
            context.abort(grpc.StatusCode.INTERNAL, "what a proxy made of it")
        if verb == "slow":
            time.sleep(1)

    def Rerank(self, request: Any, context: Any) -> rerank_pb.RerankResponse:
        self.asked(request, request.query, context)
        return reverse(request)

    def StreamRerank(self, request: Any, context: Any) -> Iterator[rerank_pb.StreamRerankResponse]:
        self.asked(request, request.request.query, context)
        context.add_callback(self.cancelled.set)
        n = len(request.request.documents)
        for turn in range(3):
            order = [(place + turn) % n for place in range(n)]
            snapshot = rerank_pb.RankingSnapshot(order=order, stage="1-toy", round=turn + 1)
            yield rerank_pb.StreamRerankResponse(snapshot=snapshot)
        if request.request.query == "endless":
            self.cancelled.wait(10)
        yield rerank_pb.StreamRerankResponse(response=reverse(request.request))

    def BatchRerank(self, requests: Any, context: Any) -> Iterator[rerank_pb.BatchRerankResponse]:
        # Answers every three together, in reverse, as a server with room for three would.
        waiting: list[rerank_pb.BatchRerankResponse] = []
        for item in requests:
            self.requests.append(item)
            verb, _, what = item.request.query.partition(":")
            if verb == "break":
                context.abort_with_status(rpc_status.to_status(FAILURES[what]))
            answer = rerank_pb.BatchRerankResponse(item_id=item.item_id)
            if verb == "fail":
                answer.error.CopyFrom(FAILURES[what])
            else:
                answer.response.CopyFrom(reverse(item.request))
            waiting.append(answer)
            if len(waiting) == 3:
                yield from reversed(waiting)
                waiting.clear()
        yield from waiting

    def Estimate(self, request: Any, context: Any) -> rerank_pb.EstimateResponse:
        self.asked(request, request.request.query, context)
        n = request.sketch.candidates if request.HasField("sketch") else len(request.request.documents)
        usage = rerank_pb.EstimatedUsage(questions=n, questions_max=2 * n, rounds=1)
        stage = rerank_pb.StageEstimate(stage="1-toy", strategy="toy", candidates_in=n, candidates_out=n, usage=usage)
        return rerank_pb.EstimateResponse(total=usage, stages=[stage], pipeline="toy")

    def Compare(self, request: Any, context: Any) -> rerank_pb.CompareResponse:
        self.asked(request, request.request.query, context)
        response = rerank_pb.CompareResponse()
        for contender in request.contenders:
            entry = response.rankings.add(label=contender.label or contender.pipeline or "inline")
            if contender.pipeline == "fsat":
                entry.error.CopyFrom(FAILURES["unknown"])
            else:
                entry.response.CopyFrom(reverse(request.request))
        overlaps = [rerank_pb.Overlap(k=k, share=1.0) for k in request.overlap_at]
        response.agreements.add(left="a", right="b", kendall_tau=-1.0, overlaps=overlaps)
        return response

    def Search(self, request: Any, context: Any) -> search_pb.SearchResponse:
        self.asked(request, request.query, context)
        document = document_pb2.Document(id="a", text="alpha", metadata={"year": 2020, "tags": ["x", None]})
        result = search_pb.SearchResult(
            ranked=ranking_pb2.RankedDocument(document_id="a", rank=1, score=0.5),
            document=document if request.include_content else None,
            passage=search_pb.Passage(index=0, start=0, end=5),
            hits=[search_pb.RetrieverHit(retriever="bm25", rank=1, score=7.5)],
        )
        return search_pb.SearchResponse(
            results=[result], completion=ranking_pb2.COMPLETION_PARTIAL_DEADLINE, ledger=ledger(), recalled=100
        )

    def CreateCollection(self, request: Any, context: Any) -> index_pb.CreateCollectionResponse:
        self.asked(request, "", context)
        answer = index_pb.CreateCollectionResponse(collection=request.collection)
        answer.collection.create_time.FromSeconds(1_700_000_000)
        return answer

    def GetCollection(self, request: Any, context: Any) -> index_pb.GetCollectionResponse:
        self.asked(request, request.name, context)
        return index_pb.GetCollectionResponse(collection=index_pb.Collection(name=request.name, encoder="minilm"))

    def ListCollections(self, request: Any, context: Any) -> index_pb.ListCollectionsResponse:
        page = int(request.page_token or 0)
        return index_pb.ListCollectionsResponse(
            collections=[index_pb.Collection(name=f"c{page}")], next_page_token=str(page + 1) if page < 2 else ""
        )

    def DeleteCollection(self, request: Any, context: Any) -> index_pb.DeleteCollectionResponse:
        self.asked(request, request.name, context)
        return index_pb.DeleteCollectionResponse()

    def GetCollectionStats(self, request: Any, context: Any) -> index_pb.GetCollectionStatsResponse:
        return index_pb.GetCollectionStatsResponse(
            documents=len(self.documents), index_kind=index_pb.VECTOR_INDEX_KIND_EXACT
        )

    def UpsertDocuments(self, requests: Any, context: Any) -> index_pb.UpsertDocumentsResponse:
        response = index_pb.UpsertDocumentsResponse(ledger=ledger())
        index = 0
        collection = ""
        for request in requests:
            collection = collection or request.collection
            if not collection:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "which collection?")
            if collection == "full":
                context.abort_with_status(rpc_status.to_status(FAILURES["disk"]))
            self.requests.append(request)
            for document in request.documents:
                if not document.id:
                    response.errors.add(index=index, error=FAILURES["invalid"])
                    response.refused += 1
                elif document.id in self.documents:
                    response.replaced += 1
                else:
                    response.inserted += 1
                if document.id:
                    self.documents[document.id] = document
                index += 1
        return response

    def GetDocuments(self, request: Any, context: Any) -> index_pb.GetDocumentsResponse:
        return index_pb.GetDocumentsResponse(
            documents=[self.documents[name] for name in request.ids if name in self.documents],
            missing_ids=[name for name in request.ids if name not in self.documents],
        )

    def DeleteDocuments(self, request: Any, context: Any) -> index_pb.DeleteDocumentsResponse:
        gone = [name for name in request.ids if self.documents.pop(name, None)]
        missing = [name for name in request.ids if name not in gone]
        return index_pb.DeleteDocumentsResponse(deleted=len(gone), missing_ids=missing)

    def ListPipelines(self, request: Any, context: Any) -> catalog_pb.ListPipelinesResponse:
        stage = catalog_pb.PipelineStage(name="1-sliding-window", strategy="sliding-window", options={"size": 20})
        pipeline = catalog_pb.Pipeline(
            name="best", is_default=True, stages=[stage], retriever_weights={"bm25": 1.0}, ready=True
        )
        return catalog_pb.ListPipelinesResponse(pipelines=[pipeline])

    def ListStrategies(self, request: Any, context: Any) -> catalog_pb.ListStrategiesResponse:
        strategy = catalog_pb.Strategy(name="sliding-window", question_kinds=[4])
        strategy.options.add(name="size", type="int", default_value=struct_pb2.Value(number_value=20))
        strategy.options.add(name="judge", type="str")
        return catalog_pb.ListStrategiesResponse(strategies=[strategy])

    def ListModels(self, request: Any, context: Any) -> catalog_pb.ListModelsResponse:
        model = catalog_pb.Model(name="minilm", capabilities=[1, 2, 99], dimensions=384, ready=True)
        model.prices.compute_nano_usd_per_second = 12
        return catalog_pb.ListModelsResponse(models=[model])

    def GetLimits(self, request: Any, context: Any) -> catalog_pb.GetLimitsResponse:
        return catalog_pb.GetLimitsResponse(max_documents=10_000, server_version="0.1.0")


@contextmanager
def serving(toy: Toy) -> Iterator[str]:
    """Serve on a free port, and yield where."""
    size = 32 << 20
    options = [("grpc.max_receive_message_length", size), ("grpc.max_send_message_length", size)]
    server = grpc.server(futures.ThreadPoolExecutor(8), options=options)
    rerank_service_pb2_grpc.add_RerankServiceServicer_to_server(toy, server)
    search_service_pb2_grpc.add_SearchServiceServicer_to_server(toy, server)
    index_service_pb2_grpc.add_IndexServiceServicer_to_server(toy, server)
    catalog_service_pb2_grpc.add_CatalogServiceServicer_to_server(toy, server)
    health_pb2_grpc.add_HealthServicer_to_server(toy.health, server)
    toy.health.set("podium.v1.CatalogService", health_pb2.HealthCheckResponse.SERVING)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(grace=0).wait()
