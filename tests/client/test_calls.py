"""What both clients do, over a real socket."""

from __future__ import annotations

import itertools
import pickle
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

import podium_client as pc
from podium.v1 import rerank_service_pb2
from tests.client.toy_podium import FAILURES, Toy

DOCUMENTS = ["alpha", {"id": "b", "text": "beta"}, pc.Document(id="c", fields={"title": "gamma", "body": "delta"})]


def test_rerank_gives_places_and_ledger(podium: Any, toy: Toy) -> None:
    result = podium.rerank("q", DOCUMENTS, pipeline="best", request_id="mine")
    assert result.order == (2, 1, 0)
    assert [document.document_id for document in result.ranking] == ["c", "b", ""]
    assert [document.rank for document in result.ranking] == [1, 2, 3]
    assert [document.score for document in result.ranking] == [2.0, 1.0, None]
    assert result.ranking[2].score_kind == "none"
    assert result.ranking[2].provenance == "carried_over"
    assert result.complete
    assert result.pipeline == "best"
    assert result.request_id == "mine"
    total = result.ledger.total
    assert (total.calls, total.cost_nano_usd, total.cost_usd) == (9, 3_000_000, 0.003)
    assert (total.wall_time_s, total.queue_time_s, total.cost_basis) == (1.25, 0.0, "price_table")
    assert total.replies.missing == 1
    assert result.ledger.stages[0].usage == total
    assert result.warnings[0].code == "truncated"
    assert isinstance(result.raw, rerank_service_pb2.RerankResponse)
    assert toy.metadata[0]["x-request-id"] == "mine"


def test_every_option_is_sent(podium: Any, toy: Toy) -> None:
    podium.rerank(
        "q",
        DOCUMENTS,
        inline=[pc.Stage("sliding-window", model="judge", options={"size": 20, "roles": ["a"]}, keep=10)],
        top_n=2,
        budget=pc.Budget(soft_deadline_s=0.25, max_cost_nano_usd=pc.usd(0.02), max_calls=0, on_exhausted="fail"),
        truncation=pc.Truncation(256, side="start"),
        seed=-7,
        explain="questions",
        instruction="primary sources",
        metadata={"Traceparent": "00-ab"},
    )
    (request,) = toy.requests
    stage = request.inline.stages[0]
    assert (stage.strategy, stage.model, stage.options["size"], stage.keep) == ("sliding-window", "judge", 20, 10)
    assert (request.top_n, request.seed, request.explain) == (2, -7, 3)
    assert request.budget.soft_deadline.ToMilliseconds() == 250
    assert request.budget.max_cost_nano_usd == 20_000_000
    assert request.budget.HasField("max_calls")
    assert not request.budget.HasField("max_tokens")
    assert request.budget.on_exhausted == 2
    assert (request.truncation.max_tokens_per_document, request.truncation.side) == (256, 2)
    assert [part.name for part in request.documents[2].fields.fields] == ["title", "body"]
    assert toy.metadata[0]["traceparent"] == "00-ab"


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"documents": ["a", {"txt": "b"}]}, "documents[1]"),
        ({"documents": ["a", "b\ud800"]}, "documents[1].text"),
        ({"documents": [3]}, "documents[0]"),
        ({"documents": [pc.Document(id="\udfff")]}, "documents[0].id"),
        ({"documents": [{"id": "a", "metadata": {"x": object()}}]}, "documents[0].metadata"),
        ({"budget": pc.Budget(max_calls=1 << 70)}, "budget.max_calls"),
        ({"query": "\ud800"}, "query"),
        ({"top_n": "two"}, "top_n"),
        ({"top_n": 1 << 40}, "top_n"),
        ({"explain": "everything"}, "explain"),
        ({"pipeline": "a", "inline": []}, "inline"),
        ({"documents": [pc.Document(text="a", fields={})]}, "documents[0].fields"),
        ({"inline": [pc.Stage("a", options={"x": object()})]}, "inline.stages[0].options"),
    ],
)
def test_what_cannot_be_sent_is_an_invalid_request_with_its_path(podium: Any, wrong: Any, field: str) -> None:
    with pytest.raises(pc.InvalidRequest) as caught:
        podium.rerank(**{"query": "q", "documents": ["a"], **wrong})
    assert caught.value.field_violations[0].field == field


def test_an_option_that_does_not_exist_is_a_type_error(podium: Any) -> None:
    with pytest.raises(TypeError, match="top_k"):
        podium.rerank("q", ["a"], top_k=3)


def test_a_request_id_that_no_header_carries_is_refused(podium: Any) -> None:
    with pytest.raises(ValueError, match="printable"):
        podium.rerank("q", ["a"], request_id="a\nb")


def test_the_token_is_sent(connect: Callable[..., Any], toy: Toy) -> None:
    connect(token="secret").rerank("q", ["a"])
    assert toy.metadata[0]["authorization"] == "Bearer secret"


CLASSES = {
    "invalid": pc.InvalidRequest,
    "unknown": pc.NotFound,
    "exists": pc.AlreadyExists,
    "lacking": pc.FailedPrecondition,
    "full": pc.Overloaded,
    "quota": pc.QuotaExceeded,
    "budget": pc.BudgetExhausted,
    "disk": pc.ResourceExhausted,
    "down": pc.Unavailable,
    "late": pc.DeadlineExceeded,
    "who": pc.Unauthenticated,
    "no": pc.PermissionDenied,
    "fault": pc.Internal,
    "gone": pc.Cancelled,
    "odd": pc.PodiumError,
}


@pytest.mark.parametrize("name", FAILURES)
def test_every_failure_has_its_class_and_facts(podium: Any, name: str) -> None:
    with pytest.raises(pc.PodiumError) as caught:
        podium.rerank(f"fail:{name}", ["a"], request_id="mine")
    error = caught.value
    assert type(error) is CLASSES[name]
    assert error.message == FAILURES[name].message
    assert error.code.value[0] == FAILURES[name].code
    assert error.request_id == ("of-server" if name == "invalid" else "mine")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (type(error), str(error))
    match error:
        case pc.InvalidRequest():
            assert error.field_violations == (pc.Violation("documents[1].id", "'a' is documents[0].id, too"),)
            assert error.reason == "INVALID_REQUEST"
        case pc.NotFound():
            assert (error.kind, error.name, error.known) == ("pipeline", "fsat", ("fast", "recall"))
        case pc.FailedPrecondition():
            assert error.violations[0].field == "minilm"
        case pc.Overloaded():
            assert error.retry_after_s == 2.0
        case pc.Unavailable():
            assert error.retry_after_s == 1.0
        case pc.BudgetExhausted() | pc.DeadlineExceeded():
            assert error.ledger is not None
            assert error.ledger.total.calls == 3
        case _:
            pass


def test_garbled_details_leave_the_code(podium: Any) -> None:
    with pytest.raises(pc.Internal, match="what a proxy made of it"):
        podium.rerank("garbled", ["a"])


def test_unavailable_is_tried_again(podium: Any, toy: Toy) -> None:
    assert podium.rerank("flaky:2", ["a", "b"]).order == (1, 0)
    assert toy.tries["flaky:2"] == 3


def test_tries_end(podium: Any, toy: Toy) -> None:
    with pytest.raises(pc.Unavailable, match="not yet"):
        podium.rerank("flaky:99", ["a"])
    assert toy.tries["flaky:99"] == 4


def test_the_service_config_can_be_replaced(connect: Callable[..., Any], toy: Toy) -> None:
    with pytest.raises(pc.Unavailable):
        connect(service_config="{}").rerank("flaky:2", ["a"])
    assert toy.tries["flaky:2"] == 1


def test_a_timeout_ends_the_call(connect: Callable[..., Any]) -> None:
    began = time.monotonic()
    with pytest.raises(pc.DeadlineExceeded) as caught:
        connect(timeout_s=30).rerank("slow", ["a"], timeout_s=0.2, request_id="mine")
    assert time.monotonic() - began < 0.9
    assert caught.value.request_id == "mine"
    with pytest.raises(pc.DeadlineExceeded):
        connect(timeout_s=0.2).rerank("slow", ["a"])


def test_nobody_there_is_unavailable(connect: Callable[..., Any], podium: Any, toy: Toy) -> None:
    podium.wait_ready(5)
    toy.health.set("podium.v1.CatalogService", health_pb2.HealthCheckResponse.NOT_SERVING)
    time.sleep(0.2)
    with pytest.raises(pc.Unavailable):
        podium.rerank("q", ["a"])
    with pytest.raises(pc.Unavailable, match="no server was ready"):
        connect().wait_ready(0.3)
    toy.health.set("podium.v1.CatalogService", health_pb2.HealthCheckResponse.SERVING)
    podium.wait_ready(5)
    podium.rerank("q", ["a"])


def test_messages_of_32_mib_pass_and_larger_ones_do_not(podium: Any) -> None:
    megabyte = "x" * (1 << 20)
    assert len(podium.rerank("q", [megabyte] * 31).ranking) == 31
    with pytest.raises(pc.ResourceExhausted):
        podium.rerank("q", [megabyte] * 32)


# --- streams ----------------------------------------------------------------------------------------------------


def test_a_stream_ends_with_the_result(podium: Any, toy: Toy) -> None:
    *snapshots, last = podium.stream_rerank("q", ["a", "b", "c"], min_interval_s=0.5, top_n=1)
    assert [snapshot.order for snapshot in snapshots] == [(0, 1, 2), (1, 2, 0), (2, 0, 1)]
    assert [snapshot.round for snapshot in snapshots] == [1, 2, 3]
    assert isinstance(last, pc.RerankResult)
    assert last.order == (2,)
    assert toy.requests[0].min_interval.ToMilliseconds() == 500


def test_leaving_a_stream_stops_the_work(podium: Any, toy: Toy) -> None:
    events = podium.stream_rerank("endless", ["a", "b"])
    next(events)
    events.close()
    assert toy.cancelled.wait(5)


def test_a_stream_that_fails_says_so(podium: Any) -> None:
    with pytest.raises(pc.NotFound):
        list(podium.stream_rerank("fail:unknown", ["a"]))


def items(n: int, queries: dict[int, str] | None = None) -> Iterator[pc.BatchItem]:
    for i in range(n):
        yield pc.BatchItem(str(i), (queries or {}).get(i, "q"), ["a", "b"])


def test_a_batch_answers_every_item_and_keeps_going_when_one_fails(podium: Any) -> None:
    answers = {answer.item_id: answer for answer in podium.batch_rerank(items(100, {7: "fail:unknown"}), window=5)}
    assert sorted(answers, key=int) == [str(i) for i in range(100)]
    assert answers["3"].result.order == (1, 0)
    assert isinstance(answers["7"].outcome, pc.NotFound)
    with pytest.raises(pc.NotFound):
        _ = answers["7"].result


def test_a_batch_reads_no_further_than_its_window(podium: Any) -> None:
    read = 0

    def endless() -> Iterator[pc.BatchItem]:
        nonlocal read
        for i in itertools.count():
            read += 1
            yield pc.BatchItem(str(i), "q", ["a"])

    answers = podium.batch_rerank(endless(), window=6)
    for _ in range(10):
        next(answers)
    time.sleep(0.1)
    assert read <= 10 + 6
    answers.close()


def test_options_of_an_item_stand_over_those_of_the_batch(podium: Any, toy: Toy) -> None:
    batch = [pc.BatchItem("1", "q", ["a", "b"]), pc.BatchItem("2", "q", ["a", "b"], {"top_n": 2, "pipeline": "other"})]
    answers = {answer.item_id: answer.result for answer in podium.batch_rerank(batch, top_n=1, pipeline="best")}
    assert [len(answers[item].ranking) for item in "12"] == [1, 2]
    assert [answers[item].pipeline for item in "12"] == ["best", "other"]


def test_an_error_of_the_callers_items_is_raised_behind_the_answers(podium: Any) -> None:
    def broken() -> Iterator[pc.BatchItem]:
        yield from items(4)
        raise LookupError("no more lists")

    answers = podium.batch_rerank(broken())
    assert sorted(next(answers).item_id for _ in range(4)) == ["0", "1", "2", "3"]
    with pytest.raises(LookupError, match="no more lists"):
        next(answers)


def test_a_batch_that_breaks_says_so(podium: Any) -> None:
    with pytest.raises(pc.Internal):
        list(podium.batch_rerank(items(10, {5: "break:fault"})))


def test_an_empty_batch_has_no_answers(podium: Any) -> None:
    assert list(podium.batch_rerank([])) == []
    with pytest.raises(ValueError, match="window is 0"):
        list(podium.batch_rerank([], window=0))


# --- the others -------------------------------------------------------------------------------------------------


def test_estimate(podium: Any) -> None:
    quote = podium.estimate(candidates=100, tokens_per_document=80, pipeline="best")
    assert (quote.total.questions, quote.total.questions_max, quote.total.rounds_max) == (100, 200, None)
    assert (quote.total.cost_usd, quote.total.time_s) == (None, None)
    assert quote.stages[0].strategy == "toy"
    assert podium.estimate("q", ["a", "b"]).total.questions == 2


def test_compare(podium: Any, toy: Toy) -> None:
    contenders = ["best", [pc.Stage("first-stage")], pc.Contender("fsat", label="wrong")]
    compared = podium.compare("q", ["a", "b"], contenders, overlap_at=[1, 2], top_n=1)
    assert [ranking.label for ranking in compared.rankings] == ["best", "inline", "wrong"]
    assert compared.rankings[0].result.order == (1,)
    assert isinstance(compared.rankings[2].outcome, pc.NotFound)
    assert compared.agreements[0].kendall_tau == -1.0
    assert [overlap.k for overlap in compared.agreements[0].overlaps] == [1, 2]


def test_search(podium: Any, toy: Toy) -> None:
    recent = pc.between("year", gte=2020) & ~pc.one_of("language", ["en", None]) | pc.exists("author.name")
    found = podium.search(
        "docs", "q", filter=recent, recall_depth=200, retriever_weights={"bm25": 2}, include_content=True
    )
    assert found.ids == ("a",)
    assert not found.complete
    assert found.completion == "partial_deadline"
    assert found.recalled == 100
    (first,) = found.results
    assert first.document == pc.Document(id="a", text="alpha", metadata={"year": 2020, "tags": ["x", None]})
    assert first.passage is not None
    assert first.passage.end == 5
    assert first.hits[0].retriever == "bm25"
    (request,) = toy.requests
    conjunction, existence = request.filter.any_of.filters
    assert conjunction.all_of.filters[0].range.gte.number_value == 2020
    assert conjunction.all_of.filters[1].negation.membership.values[1].HasField("null_value")
    assert existence.existence.key == "author.name"
    assert (request.recall_depth, dict(request.retriever_weights)) == (200, {"bm25": 2.0})
    (bare,) = podium.search("docs", "q").results
    assert bare.document is None


def test_collections(podium: Any) -> None:
    made = podium.create_collection("docs", token_vectors=True, chunking=pc.Chunking(256, 32))
    assert made.create_time is not None
    assert made.create_time.year == 2023
    assert made.chunking == pc.Chunking(256, 32)
    assert podium.get_collection("docs").encoder == "minilm"
    assert [collection.name for collection in podium.list_collections()] == ["c0", "c1", "c2"]
    assert podium.delete_collection("docs") is None
    with pytest.raises(pc.NotFound):
        podium.get_collection("fail:unknown")


def test_upsert_in_several_calls(podium: Any, toy: Toy) -> None:
    documents = [{"id": str(i), "text": f"text {i}", "metadata": {"n": i}} for i in range(2500)]
    documents[2000]["id"] = ""
    steps: list[int] = []
    done = podium.upsert("docs", iter(documents), on_acknowledged=lambda so_far: steps.append(so_far.documents))
    assert steps == [1024, 2048, 2500]
    assert (done.inserted, done.refused, done.acknowledged, done.documents) == (2499, 1, 2499, 2500)
    assert [error.index for error in done.errors] == [2000]
    assert isinstance(done.errors[0].error, pc.InvalidRequest)
    assert len(done.ledgers) == 3
    assert max(len(request.documents) for request in toy.requests) <= 256
    assert podium.upsert("docs", [{"id": "1", "text": "other"}]).replaced == 1
    assert podium.stats("docs").documents == 2499
    assert podium.stats("docs").index_kind == "exact"
    got = podium.get("docs", ["1", "nobody"])
    assert got.documents[0].text == "other"
    assert got.missing_ids == ("nobody",)
    assert podium.delete("docs", ["1", "nobody"]).deleted == 1
    with pytest.raises(pc.ResourceExhausted):
        podium.upsert("full", documents)
    assert podium.upsert("docs", []).documents == 0


def test_catalogue(podium: Any) -> None:
    (pipeline,) = podium.list_pipelines()
    assert (pipeline.name, pipeline.is_default, pipeline.retriever_weights) == ("best", True, {"bm25": 1.0})
    assert pipeline.stages[0].options == {"size": 20}
    (strategy,) = podium.list_strategies()
    assert strategy.question_kinds == ("order",)
    assert [(option.default_value, option.required) for option in strategy.options] == [(20.0, False), (None, True)]
    (model,) = podium.list_models()
    assert model.capabilities == ("embed", "embed_tokens", "99")  # a server may be newer than its client
    assert model.prices is not None
    assert model.prices.compute_nano_usd_per_second == 12
    assert model.prices.output_nano_usd_per_mtok is None
    assert podium.limits().max_documents == 10_000


def test_both_clients_have_the_same_methods() -> None:
    def methods(cls: type) -> set[str]:
        return {name for name in vars(cls) if not name.startswith("_")}

    assert methods(pc.Client) == methods(pc.AsyncClient)


def test_a_code_without_details_still_has_its_class(connect: Callable[..., Any]) -> None:
    with pytest.raises(pc.Unavailable) as caught:
        connect(service_config="{}").rerank("flaky:1", ["a"])
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    assert caught.value.reason == ""
