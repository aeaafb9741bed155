"""`podium.v1.CatalogService`: what this server can do."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, entry_points, version
from inspect import cleandoc
from typing import Any

from podium.v1 import catalog_service_pb2 as wire
from podium_server.accounting.prices import Prices
from podium_server.config import StageSection
from podium_server.ranking.pipeline import Pipeline, Voice
from podium_server.transport.convert import answers, values
from podium_server.transport.door import Call
from podium_server.transport.paging import page
from podium_server.transport.served import ModelCard, Podium
from podium_strategies import registry
from podium_strategies.plan import Grade, Liken, Order, Pick, Prefer, Question, Strategy

log = logging.getLogger(__name__)

_CAPABILITIES: dict[type[Question[Any]], wire.ModelCapability.ValueType] = {
    Grade: wire.MODEL_CAPABILITY_GRADE,
    Prefer: wire.MODEL_CAPABILITY_PREFER,
    Pick: wire.MODEL_CAPABILITY_PICK,
    Order: wire.MODEL_CAPABILITY_ORDER,
    Liken: wire.MODEL_CAPABILITY_LIKEN,
}
_NANO = 1_000_000_000


@dataclass(frozen=True, slots=True)
class CatalogService:
    """The methods of the contract, over a server's parts."""

    podium: Podium

    async def list_pipelines(self, message: wire.ListPipelinesRequest, _call: Call) -> wire.ListPipelinesResponse:
        """Tell of the pipelines."""
        reranker = self.podium.reranker
        ready = {card.name: card.ready for card in self.podium.models}
        shown, token = page(
            list(reranker.pipelines.values()),
            lambda pipeline: pipeline.name,
            kind="pipelines",
            size=message.page_size,
            token=message.page_token,
        )
        return wire.ListPipelinesResponse(
            pipelines=[_pipeline(one, reranker.default_pipeline, ready) for one in shown], next_page_token=token
        )

    async def list_strategies(self, message: wire.ListStrategiesRequest, _call: Call) -> wire.ListStrategiesResponse:
        """Tell of the strategies that are installed."""
        shown, token = page(registry.names(), str, kind="strategies", size=message.page_size, token=message.page_token)
        return wire.ListStrategiesResponse(strategies=[_strategy(name) for name in shown], next_page_token=token)

    async def list_models(self, message: wire.ListModelsRequest, _call: Call) -> wire.ListModelsResponse:
        """Tell of the models."""
        shown, token = page(
            self.podium.models,
            lambda card: card.name,
            kind="models",
            size=message.page_size,
            token=message.page_token,
        )
        return wire.ListModelsResponse(models=[_model(card) for card in shown], next_page_token=token)

    async def get_limits(self, _message: wire.GetLimitsRequest, _call: Call) -> wire.GetLimitsResponse:
        """Tell how much of everything a request may have."""
        limits = self.podium.limits
        return wire.GetLimitsResponse(
            max_message_bytes=limits.message_bytes,
            max_documents=limits.documents,
            max_document_bytes=limits.document_bytes,
            max_metadata_bytes=limits.metadata_bytes,
            max_id_bytes=limits.id_bytes,
            max_query_bytes=limits.query_bytes,
            max_recall_depth=limits.recall_depth,
            max_contenders=limits.contenders,
            max_batch_in_flight=limits.batch_in_flight,
            max_ids=limits.ids,
            max_concurrent_requests=limits.concurrent_requests,
            server_version=_version("podium"),
        )


# --- pipelines --------------------------------------------------------------------------------------------------


def _pipeline(pipeline: Pipeline, default: str, ready: Mapping[str, bool]) -> wire.Pipeline:
    judges = [voice.judge.facts for voice in pipeline.voices if voice.judge is not None]
    return wire.Pipeline(
        name=pipeline.name,
        description=pipeline.section.description,
        is_default=pipeline.name == default,
        stages=[
            _stage(section, stage.role, pipeline.voices)
            for section, stage in zip(pipeline.section.stages, pipeline.stages, strict=True)
        ],
        recall_depth=pipeline.section.recall_depth,
        retriever_weights=pipeline.section.retrievers,
        ready=all(ready.get(facts.model, True) for facts in judges),
        price_table_version=",".join(sorted({facts.prices.version for facts in judges if facts.prices.version})),
    )


def _stage(section: StageSection, role: str, voices: Iterable[Voice]) -> wire.PipelineStage:
    said = section.model_dump(mode="json", exclude_defaults=True)
    for own in ("strategy", "name", "model", "prompt", "keep"):
        said.pop(own, None)
    prompts = {voice.judge.facts.prompt_id for voice in voices if voice.role == role and voice.judge is not None}
    return wire.PipelineStage(
        name=role,
        strategy=section.strategy,
        model=section.model or "",
        prompt_id=prompts.pop() if len(prompts) == 1 else "",
        options=values.to_struct(said),
        keep=section.keep,
    )


# --- strategies -------------------------------------------------------------------------------------------------


@cache
def _strategy(name: str) -> wire.Strategy:
    """Return what there is to tell of a strategy. One that cannot be imported is told of all the same."""
    provided_by = _provider(name)
    try:
        loaded = registry.load(name)
    except Exception as error:  # a third party's module runs here, and must not hide the others
        log.exception("a strategy cannot be loaded", extra={"strategy": name})
        return wire.Strategy(name=name, description=f"cannot be loaded: {error}", provided_by=provided_by)
    text, arguments = _read_doc(loaded)
    return wire.Strategy(
        name=name,
        description=text,
        options=[
            wire.StrategyOption(
                name=option.name,
                type=option.type,
                default_value=None if option.required else values.to_value(option.default),
                description=arguments.get(option.name, ""),
            )
            for option in registry.options(loaded)
        ],
        question_kinds=[number for kind, number in answers.QUESTION_KINDS.items() if kind in _asks(loaded)],
        provided_by=provided_by,
    )


def _asks(strategy: type[Strategy]) -> frozenset[type[Question[Any]]]:
    """Return the kinds of question that a strategy asks itself; those of the strategies inside it are theirs."""
    try:
        return object.__new__(strategy).asks
    except AttributeError:
        # It depends on options that nobody has given: on the strategies that it is made of.
        return frozenset()


def _read_doc(strategy: type[Strategy]) -> tuple[str, dict[str, str]]:
    """Return what a strategy's documentation says of it, and of each of its options."""
    text, _, rest = cleandoc(strategy.__doc__ or "").partition("\nArgs:\n")
    arguments: dict[str, str] = {}
    name = ""
    for line in rest.splitlines():
        if begun := re.match(r"    (\w+): (.*)", line):
            name = begun[1]
            arguments[name] = begun[2]
        elif name and line.startswith("        "):
            arguments[name] += f" {line.strip()}"
        elif line and not line.startswith(" "):
            break
    return " ".join(text.split()), arguments


def _provider(name: str) -> str:
    for point in entry_points(group=registry.GROUP, name=name):
        if point.dist is not None:
            return f"{point.dist.name} {point.dist.version}"
    return ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


# --- models -----------------------------------------------------------------------------------------------------


def _model(card: ModelCard) -> wire.Model:
    capabilities = [_CAPABILITIES[kind] for kind in _CAPABILITIES if kind in card.answers]
    if card.token_vectors:
        capabilities.insert(0, wire.MODEL_CAPABILITY_EMBED_TOKENS)
    if card.embeds:
        capabilities.insert(0, wire.MODEL_CAPABILITY_EMBED)
    return wire.Model(
        name=card.name,
        backend=card.backend,
        model_id=card.model_id,
        revision=card.revision,
        capabilities=capabilities,
        max_input_tokens=card.max_tokens,
        dimensions=card.dim,
        ready=card.ready,
        prices=_prices(card.prices),
    )


def _prices(given: Prices) -> wire.Prices | None:
    def nano(usd: float | None, per: float = 1.0) -> int | None:
        return None if usd is None else round(usd * _NANO / per)

    if given == Prices():
        return None
    return wire.Prices(
        prompt_nano_usd_per_mtok=nano(given.prompt_usd_per_mtok),
        cached_prompt_nano_usd_per_mtok=nano(given.cached_usd_per_mtok),
        output_nano_usd_per_mtok=nano(given.output_usd_per_mtok),
        compute_nano_usd_per_second=nano(given.compute_usd_per_hour, 3600),
        price_table_version=given.version,
    )
