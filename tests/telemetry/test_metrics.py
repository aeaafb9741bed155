"""What `/metrics` says after calls over a real socket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from podium.v1 import rerank_service_pb2
from podium_server.accounting.ledger import Account, Ledger
from podium_server.accounting.prices import Prices
from podium_server.accounting.usage import Usage
from podium_server.config import parse
from podium_server.errors import BackendDown, ConfigInvalid
from podium_server.limits import Limits
from podium_server.ranking.guard import Work
from podium_server.ranking.request import RankRequest
from podium_server.telemetry import metrics
from podium_server.telemetry.metrics import Metric
from podium_server.telemetry.recorder import Bounded, Recorder
from podium_server.telemetry.registry import Registry
from podium_server.transport.server import Server
from podium_strategies.oracle import Oracle
from tests.ranking.scripted import ScriptedJudge
from tests.telemetry import scrape
from tests.wire.serving import OWN_CONNECTIONS, Standing, Stubs, refused, request, standing, until

PRICES = Prices(prompt_usd_per_mtok=1.0, output_usd_per_mtok=2.0)


@dataclass
class Counted:
    """A served Podium, and what it counts."""

    stubs: Stubs
    podium: Standing
    registry: Registry

    @property
    def now(self) -> scrape.Scrape:
        return scrape.of(self.registry)


@asynccontextmanager
async def counting(judge: Any = None, *, tenant: str = "", limits: Limits | None = None) -> AsyncIterator[Counted]:
    judge = judge or ScriptedJudge(Oracle.seeded(16, 1), prices=PRICES)
    podium = standing(judge, limits)
    registry = Registry()
    recorder = Recorder(
        registry, pipelines=podium.reranker.pipelines, limits=Limits.model_fields, tenant_of=lambda: tenant
    )
    podium.reranker.guards = [recorder.work]
    server = Server(podium, guards=[recorder.call])
    address = await server.start("127.0.0.1", 0)
    try:
        async with grpc.aio.insecure_channel(address, options=OWN_CONNECTIONS) as channel:
            yield Counted(Stubs(channel, server, address), podium, registry)
    finally:
        await server.stop()


RERANK = "/podium.v1.RerankService/Rerank"


async def test_a_request_is_counted_once_with_all_that_it_used() -> None:
    async with counting(tenant="acme") as counted:
        answer = await counted.stubs.rerank.Rerank(request(8, "points"))
        now = counted.now
    usage = answer.ledger.total
    of_stage = {"pipeline": "points", "stage": "pointwise", "model": "scripted"}
    assert now("podium_calls_total", method=RERANK, code="OK", via="grpc") == 1
    assert now("podium_calls_running") == 0
    assert now("podium_call_seconds_count", method=RERANK) == 1
    assert now("podium_requests_total", pipeline="points", outcome="complete") == 1
    assert now("podium_request_seconds_count", pipeline="points") == 1
    assert now("podium_stage_seconds_count", pipeline="points", stage="pointwise") == 1
    assert now("podium_questions_total", **of_stage) == 8
    assert now("podium_model_calls_total", **of_stage) == usage.calls == 8
    assert now("podium_tokens_total", kind="prompt", **of_stage) == usage.prompt_tokens
    assert now("podium_tokens_total", kind="output", **of_stage) == usage.output_tokens
    assert now("podium_cost_usd_total", **of_stage) == pytest.approx(usage.cost_nano_usd / 1e9)
    assert now("podium_rounds_sum", pipeline="points") == 1
    assert now("podium_candidates_sum", pipeline="points") == 8
    assert now("podium_score_count", pipeline="points") == 8
    assert now("podium_rank_change_places_count", pipeline="points") == 8
    moved = sum(abs(ranked.input_index - rank) for rank, ranked in enumerate(answer.ranking))
    assert now("podium_rank_change_places_sum", pipeline="points") == moved
    assert now("podium_tenant_calls_total", tenant="acme", code="OK") == 1
    assert now("podium_tenant_tokens_total", tenant="acme") == usage.prompt_tokens + usage.output_tokens


async def test_every_way_out_has_its_outcome() -> None:
    failing = ScriptedJudge(Oracle.seeded(16, 1), fail_at=dict.fromkeys(range(4), BackendDown("gone")))
    async with counting(failing) as counted:
        await refused(counted.stubs.rerank.Rerank(request(4, "points")))
        await refused(counted.stubs.rerank.Rerank(request(4, "nope")))
        await refused(counted.stubs.rerank.Rerank(rerank_service_pb2.RerankRequest()))
        now = counted.now
    assert now("podium_calls_total", code="UNAVAILABLE") == 1
    assert now("podium_calls_total", code="NOT_FOUND") == 1
    assert now("podium_calls_total", code="INVALID_ARGUMENT") == 1
    assert now("podium_requests_total", outcome="failed") == 1
    assert now("podium_refusals_total", reason="BACKEND_DOWN") == 1
    assert now("podium_refusals_total", reason="NOT_FOUND") == 1
    assert now("podium_refusals_total", reason="INVALID_REQUEST") == 1


async def test_a_caller_who_goes_away_is_counted_with_what_was_spent() -> None:
    slow = ScriptedJudge(Oracle.seeded(16, 1), prices=PRICES, delay_s=lambda number: 0.0 if number < 3 else 3600.0)
    async with counting(slow) as counted:
        call = counted.stubs.rerank.Rerank(request(8, "points"))
        await until(lambda: len(slow.asked) == 8)
        call.cancel()
        await until(lambda: not counted.stubs.server.door.running)
        now = counted.now
        spent = counted.podium.reranker.spent_on_cancelled
    assert now("podium_calls_total", code="CANCELLED") == 1
    assert now("podium_requests_total", outcome="cancelled") == 1
    assert spent.calls == now("podium_model_calls_total", pipeline="points") == 8


def test_what_is_known_of_a_tenants_cost_counts_beside_what_is_not() -> None:
    registry = Registry()
    recorder = Recorder(registry, pipelines=("p",), limits=(), tenant_of=lambda: "acme")
    ledger = Ledger()
    for stage, usage in (
        ("own", Usage(calls=1, cost_nano_usd=None)),
        ("dear", Usage(calls=1, cost_nano_usd=5 * 10**9)),
    ):
        ledger.open(Account(stage, stage, usage=usage))
    recorder.done(Work(RankRequest("q", ()), "p", ledger), "complete")
    assert scrape.of(registry)("podium_tenant_cost_usd_total", tenant="acme") == 5


async def test_items_of_a_batch_are_refused_one_by_one() -> None:
    async with counting() as counted:
        batch = counted.stubs.rerank.BatchRerank()
        for item, pipeline in enumerate(["points", "nope", "nope"]):
            await batch.write(rerank_service_pb2.BatchRerankRequest(item_id=f"i{item}", request=request(2, pipeline)))
        await batch.done_writing()
        assert len([answer async for answer in batch]) == 3
        await until(lambda: not counted.stubs.server.door.running)
        now = counted.now
    assert now("podium_refusals_total", reason="NOT_FOUND") == 2
    assert now("podium_calls_total", code="OK") == 1
    assert now("podium_requests_total", pipeline="points", outcome="complete") == 1


async def test_names_that_callers_choose_make_no_series() -> None:
    async with counting() as counted:
        for number in range(5):
            inline = rerank_service_pb2.RerankRequest(query="q", documents=request(3).documents)
            for _ in range(number + 1):  # pointwise, pointwise-2, …
                inline.inline.stages.add(strategy="pointwise", model="m")
            await counted.stubs.rerank.Rerank(inline)
        now = counted.now
    assert now("podium_requests_total", pipeline="inline") == 5
    assert now.labels("stage") <= {"pointwise", ""}


def test_a_label_keeps_a_bounded_number_of_names() -> None:
    bounded = Bounded(2, ("a",))
    assert [bounded(value) for value in ("a", "b", "c", "b", "d")] == ["a", "b", "other", "b", "other"]


LONG = rerank_service_pb2.RerankRequest(query="long", documents=request(1).documents)
LIMITS = {
    "documents": (Limits(documents=2), request(3)),
    "document_bytes": (Limits(document_bytes=4), request(1)),
    "id_bytes": (Limits(id_bytes=1), request(1)),
    "query_bytes": (Limits(query_bytes=2), LONG),
    "questions": (Limits(questions=100), request(300, "points")),
}


@pytest.mark.parametrize("limit", LIMITS)
async def test_a_limit_that_refuses_is_counted_by_name(limit: str) -> None:
    limits, asked = LIMITS[limit]
    async with counting(limits=limits) as counted:
        await refused(counted.stubs.rerank.Rerank(asked))
        now = counted.now
    assert now("podium_refusals_total", limit=limit) == 1


async def test_places_for_requests_that_are_taken_are_counted_by_name() -> None:
    slow = ScriptedJudge(Oracle.seeded(16, 1), delay_s=lambda _: 3600.0)
    async with counting(slow, limits=Limits(concurrent_requests=1)) as counted:
        first = counted.stubs.rerank.Rerank(request(2, "points"))
        await until(lambda: bool(slow.asked))
        await refused(counted.stubs.rerank.Rerank(request(2, "points")))
        assert counted.now("podium_refusals_total", limit="concurrent_requests", reason="OVERLOADED") == 1
        first.cancel()


# --- a whole server -------------------------------------------------------------------------------------------------


def serving_config(**telemetry: Any) -> Any:
    from podium_server.config import load

    config = load(None)
    return config.model_copy(update={"telemetry": config.telemetry.model_copy(update=telemetry)})


async def test_a_server_shows_its_models_at_its_own_port() -> None:
    from podium_server.compose import Podium

    podium = Podium(serving_config(metrics_port=0), data_dir=None, collections=False, serving=True)
    try:
        await podium.start()
        assert podium.telemetry is not None
        assert podium.telemetry.exposition is not None
        address = podium.telemetry.exposition.address
        assert address.startswith("127.0.0.1:")
        server = Server(podium, guards=podium.call_guards)
        async with grpc.aio.insecure_channel(await server.start("127.0.0.1", 0), options=OWN_CONNECTIONS) as channel:
            await Stubs(channel, server, "").rerank.Rerank(request(4))
            await Stubs(channel, server, "").rerank.Rerank(request(4))
        now = await asyncio.to_thread(scrape.at, address)
        await server.stop()
    finally:
        await podium.aclose()
    assert now("podium_requests_total", pipeline="fast", outcome="complete") == 2
    assert now("podium_model_loaded", model="minilm") == 1
    assert now("podium_cache_hits_total", cache="embedding", model="minilm") >= 4
    assert now("podium_breaker_state", model="minilm") == 0
    assert now("podium_build_info") == 1
    assert now("process_resident_memory_bytes") > 0
    declared = {name for metric in metrics.ALL for name in metric.series}
    ours = {name for name, _ in now.samples if name.startswith("podium_") and not name.endswith("_created")}
    assert ours <= declared


async def test_nothing_is_kept_and_no_port_is_open_unless_asked() -> None:
    from podium_server.compose import Podium

    podium = Podium(serving_config(), data_dir=None, collections=False, serving=True)
    try:
        await podium.start()
        assert podium.telemetry is not None
        assert podium.telemetry.exposition is None
        assert not podium.call_guards
        assert not podium.reranker.guards
    finally:
        await podium.aclose()


@pytest.mark.parametrize(
    ("telemetry", "server", "shown"),
    [
        ({}, {}, False),
        ({"metrics_insecure": "yes"}, {}, False),
        ({"metrics_insecure": "I know that anyone can read these figures"}, {}, True),
        ({}, {"insecure": "I know that anyone can call this server"}, True),
    ],
)
async def test_figures_are_shown_beyond_loopback_only_in_so_many_words(
    telemetry: dict[str, str], server: dict[str, str], shown: bool
) -> None:
    from podium_server.compose import Podium

    config = serving_config(metrics_port=0, metrics_host="0.0.0.0", **telemetry)
    config = config.model_copy(update={"server": config.server.model_copy(update=server)})
    podium = Podium(config, data_dir=None, collections=False, serving=True)
    assert podium.telemetry is not None
    try:
        with contextlib.nullcontext() if shown else pytest.raises(ConfigInvalid, match="metrics_insecure"):
            podium.telemetry.start()
        assert (podium.telemetry.exposition is not None) is shown
    finally:
        await podium.aclose()


async def test_a_port_that_is_taken_is_said_plainly() -> None:
    from podium_server.telemetry.exposition import Exposition

    taken = Exposition(Registry(), "127.0.0.1", 0)
    try:
        port = int(taken.address.rpartition(":")[2])
        with pytest.raises(ConfigInvalid, match=f"metrics_port: cannot listen on 127.0.0.1:{port}"):
            Exposition(Registry(), "127.0.0.1", port)
    finally:
        taken.close()


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "calls_total", "kind": "counter"},
        {"name": "podium_calls", "kind": "counter"},
        {"name": "podium_calls_total", "kind": "gauge"},
        {"name": "podium_seconds", "kind": "histogram"},
    ],
)
def test_a_metric_that_breaks_the_rules_of_names(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=wrong["name"]):
        Metric(**wrong, help="x")


def test_an_unknown_key_of_the_section_is_named() -> None:
    with pytest.raises(
        ConfigInvalid, match=r"telemetry.metrics: no such key; did you mean 'metrics_host'|metrics_port"
    ):
        parse({"telemetry": {"metrics": 1}, "pipelines": {}}, where="x.toml")
