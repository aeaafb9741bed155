"""CatalogService: pipelines, strategies, models, limits."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio

from podium.v1 import catalog_service_pb2 as wire
from podium.v1 import strategy_pb2
from podium_server.accounting.prices import Prices
from podium_server.compose import ModelCard
from podium_server.limits import Limits
from podium_server.transport.paging import page
from podium_strategies import registry
from podium_strategies.oracle import Oracle
from podium_strategies.plan import Grade, Liken
from tests.ranking.scripted import ScriptedJudge
from tests.wire.serving import WINDOW, Stubs, refused, serving, standing

CARDS = (
    ModelCard(
        name="scripted", backend="openai", model_id="gpt", revision="r1", answers=frozenset({Grade}), ready=False,
        prices=Prices(prompt_usd_per_mtok=0.15, compute_usd_per_hour=3.6, version="2026-11-21"),
    ),
    ModelCard(
        name="encoder", backend="openvino", model_id="minilm", revision="", answers=frozenset({Grade, Liken}),
        ready=True, prices=Prices(), max_tokens=256, dim=384, embeds=True, token_vectors=True,
    ),
)  # fmt: skip


@pytest_asyncio.fixture
async def stubs() -> AsyncIterator[Stubs]:
    judge = ScriptedJudge(Oracle.seeded(4, 1), prices=Prices(usd_per_call=1.0, version="v7"))
    cascade = [{"strategy": "pointwise", "model": "m", "keep": 5}, WINDOW]
    podium = standing(judge, Limits(documents=77), cascade=cascade)
    podium.models = CARDS
    async with serving(podium) as served:
        yield served


async def test_pipelines(stubs: Stubs) -> None:
    answer = await stubs.catalog.ListPipelines(wire.ListPipelinesRequest())
    by_name = {one.name: one for one in answer.pipelines}
    assert list(by_name) == ["cascade", "identity", "points", "window"]
    assert [name for name, one in by_name.items() if one.is_default] == ["identity"]
    assert [name for name, one in by_name.items() if one.ready] == ["identity"]
    first, second = by_name["cascade"].stages
    assert (first.name, first.strategy, first.model, first.keep) == ("pointwise", "pointwise", "m", 5)
    assert (second.name, second.prompt_id, dict(second.options)) == (
        "sliding-window", "scripted/1", {"size": 4, "stride": 2},
    )  # fmt: skip
    assert not second.HasField("keep")
    assert by_name["cascade"].price_table_version == "v7"
    assert by_name["cascade"].recall_depth == 100
    assert dict(by_name["cascade"].retriever_weights) == {"bm25": 1.0, "vector": 1.0}


async def test_strategies(stubs: Stubs) -> None:
    answer = await stubs.catalog.ListStrategies(wire.ListStrategiesRequest())
    by_name = {one.name: one for one in answer.strategies}
    assert tuple(by_name) == registry.names()
    window = by_name["sliding-window"]
    assert "RankGPT" in window.description
    assert list(window.question_kinds) == [strategy_pb2.QUESTION_KIND_ORDER]
    size = next(option for option in window.options if option.name == "size")
    assert (size.type, size.default_value.number_value) == ("int", 20)
    assert window.provided_by.startswith("podium ")
    assert list(by_name["first-stage"].question_kinds) == []
    for one in answer.strategies:
        assert one.description
        assert not one.description.startswith("cannot be loaded")


async def test_models(stubs: Stubs) -> None:
    encoder, scripted = (await stubs.catalog.ListModels(wire.ListModelsRequest())).models
    assert (encoder.name, encoder.dimensions, encoder.max_input_tokens, encoder.ready) == ("encoder", 384, 256, True)
    assert {wire.ModelCapability.Name(one) for one in encoder.capabilities} == {
        "MODEL_CAPABILITY_EMBED", "MODEL_CAPABILITY_EMBED_TOKENS", "MODEL_CAPABILITY_GRADE", "MODEL_CAPABILITY_LIKEN",
    }  # fmt: skip
    assert not encoder.HasField("prices")
    assert not scripted.HasField("dimensions")
    assert not scripted.ready
    assert scripted.prices.prompt_nano_usd_per_mtok == 150_000_000
    assert scripted.prices.compute_nano_usd_per_second == 1_000_000
    assert not scripted.prices.HasField("output_nano_usd_per_mtok")


async def test_limits(stubs: Stubs) -> None:
    answer = await stubs.catalog.GetLimits(wire.GetLimitsRequest())
    assert (answer.max_documents, answer.max_message_bytes) == (77, 32 << 20)
    assert all(getattr(answer, field.name) for field in answer.DESCRIPTOR.fields)


async def test_pages(stubs: Stubs) -> None:
    names, token = [], ""
    for _ in range(10):
        answer = await stubs.catalog.ListPipelines(wire.ListPipelinesRequest(page_size=3, page_token=token))
        names += [one.name for one in answer.pipelines]
        token = answer.next_page_token
        if not token:
            break
    assert names == ["cascade", "identity", "points", "window"]
    token = (await stubs.catalog.ListPipelines(wire.ListPipelinesRequest(page_size=1))).next_page_token
    error = await refused(stubs.catalog.ListModels(wire.ListModelsRequest(page_token=token)))
    assert (error.code, error.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["page_token"])


@pytest.mark.parametrize(("size", "shown"), [(0, 100), (1, 1), (1_000, 1_000), (2_000, 1_000)])
def test_sizes_of_pages(size: int, shown: int) -> None:
    items, token = page([f"{i:05}" for i in range(1_500)], str, kind="k", size=size, token="")
    assert len(items) == shown
    rest, _ = page([f"{i:05}" for i in range(1_500)], str, kind="k", size=1, token=token)
    assert rest == [f"{shown:05}"]
