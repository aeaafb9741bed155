"""The configured models, each built when it is first asked for."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from podium_server.accounting.prices import Prices
from podium_server.backends.breaker import BreakerSettings
from podium_server.compose.backends import (
    EncoderSection,
    Section,
    chat_backend,
    cross_encoder_loader,
    encoder_loader,
    rerank_api,
)
from podium_server.compose.judges import (
    Kinds,
    chat_judge,
    cross_encoder_judge,
    encoder_judge,
    late_interacting,
    rerank_api_judge,
)
from podium_server.config import Config, CrossEncoderModel, OpenAIModel, RerankApiModel, StageSection, VllmModel
from podium_server.errors import FailedPrecondition, NotFound
from podium_server.judges.judge import Judge
from podium_server.judges.watched import Watch, WatchedJudge
from podium_server.ranking.searcher import EncoderOf
from podium_strategies.plan import Grade, Liken, Order, Pick, Prefer

if TYPE_CHECKING:
    from podium_server.backends.chat.backend import ChatBackend
    from podium_server.backends.cross_encoders.seat import CrossEncoderSeat
    from podium_server.backends.encoders.encoder import Encoder
    from podium_server.backends.rerank_api.api import RerankApi
    from podium_server.judges.encoder import EncoderSeat, StoredVectors
    from podium_server.judges.verdict_cache import SqliteVerdictCache


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What the catalogue tells of a model. What only a loaded model knows is empty until it is."""

    name: str
    backend: str
    model_id: str
    revision: str
    answers: Kinds
    ready: bool
    prices: Prices
    max_tokens: int | None = None
    dim: int | None = None
    embeds: bool = False
    token_vectors: bool = False


class Models:
    """The configured models, each built when it is first asked for and shared by all who ask.

    Args:
        config: whose models they are.
        stored: where recalled documents' vectors are; None without a store.
        verdicts: where chat models' verdicts are kept; None without a store.
        watched: whether models that fail are asked no more for a while, which a server wants, and a job does not: it
            has the time to try again, and would run through its lists instead.

    """

    def __init__(
        self,
        config: Config,
        *,
        stored: StoredVectors | None = None,
        verdicts: SqliteVerdictCache | None = None,
        watched: bool = False,
    ) -> None:
        self.config = config
        self.stored = stored
        self.verdicts = verdicts
        self.encoders: dict[str, EncoderSeat] = {}
        self.cross_encoders: dict[str, CrossEncoderSeat] = {}
        self.chats: dict[str, ChatBackend] = {}
        self.rerank_apis: dict[str, RerankApi] = {}
        self.watched = watched
        self.watches: dict[str, Watch] = {}

    def judge(self, section: StageSection, model: str, asks: Kinds) -> Judge:
        """Return the judge of `model` for a stage (a `ranking.pipeline.JudgeMaker`)."""
        judge = self._judge(section, model, asks)
        return WatchedJudge(judge, self.watch(model)) if self.watched else judge

    def watch(self, model: str) -> Watch:
        """Return the watch over a model.

        Raises:
            NotFound: no model of that name.

        """
        watch = self.watches.get(model)
        if watch is None:
            given = self.section(model).breaker.model_dump()
            hung_s = given.pop("hung_s")
            watch = self.watches[model] = Watch(model, BreakerSettings(**given), hung_s=hung_s)
        return watch

    def _judge(self, section: StageSection, model: str, asks: Kinds) -> Judge:
        match self.section(model):
            case OpenAIModel() | VllmModel() as configured:
                return chat_judge(section, configured, self.chat(model), asks, verdicts=self.verdicts)
            case CrossEncoderModel() as configured:
                seat = self.cross_encoder(model)
                return cross_encoder_judge(section, configured, seat, passages_max=self.config.limits.passages)
            case RerankApiModel() as configured:
                return rerank_api_judge(section, configured, self.rerank_api(model, configured))
            case configured:
                return encoder_judge(
                    section,
                    configured,
                    self.encoder(model),
                    asks,
                    late_interacting=model in late_interacting(self.config),
                    stored=self.stored,
                )

    def section(self, model: str) -> Section:
        """Return a model's configuration.

        Raises:
            NotFound: with the names that there are.

        """
        try:
            return self.config.models[model]
        except KeyError:
            raise NotFound("model", model, tuple(self.config.models)) from None

    def encoder(self, model: str) -> EncoderSeat:
        """Return the encoder of that name, not loaded yet if nobody has needed it.

        Raises:
            NotFound: no model of that name.
            FailedPrecondition: the model is no encoder.

        """
        seat = self.encoders.get(model)
        if seat is None:
            from podium_server.backends.worker import Worker
            from podium_server.judges.encoder import EncoderSeat

            section = self.section(model)
            if isinstance(section, OpenAIModel | VllmModel | CrossEncoderModel | RerankApiModel):
                raise FailedPrecondition(f"the model {model!r} (backend {section.backend!r}) does not embed")
            waiting_max = self.config.limits.encoder_queue
            seat = self.encoders[model] = EncoderSeat(
                name=model,
                load=encoder_loader(model, section),
                queries=Worker(f"{model}-queries", waiting_max=waiting_max),
                documents=Worker(model, waiting_max=waiting_max),
                priced_by_time=bool(section.prices.compute_usd_per_hour),
            )
        return seat

    def cross_encoder(self, model: str) -> CrossEncoderSeat:
        """Return the cross-encoder of that name, not loaded yet if nobody has needed it.

        Raises:
            NotFound: no model of that name.
            FailedPrecondition: the model is no cross-encoder.

        """
        seat = self.cross_encoders.get(model)
        if seat is None:
            from podium_server.backends.cross_encoders.score_cache import ScoreCache
            from podium_server.backends.cross_encoders.seat import CrossEncoderSeat
            from podium_server.backends.worker import Worker

            section = self.section(model)
            if not isinstance(section, CrossEncoderModel):
                raise FailedPrecondition(f"the model {model!r} (backend {section.backend!r}) is no cross-encoder")
            limits = self.config.limits
            seat = self.cross_encoders[model] = CrossEncoderSeat(
                name=model,
                load=cross_encoder_loader(model, section),
                tokenizer=Worker(f"{model}-tokens", waiting_max=limits.encoder_queue),
                wait_s_max=limits.cross_encoder_wait_s,
                pairs_max=limits.cross_encoder_pairs,
                cache=ScoreCache(section.cache_mib << 20),
                max_tokens=section.max_tokens,
            )
        return seat

    def loaded_encoder(self, model: str) -> Encoder:
        """Return the encoder of that name, loading it in the calling thread if nobody has yet."""
        return self.encoder(model).encoder_now()

    def encoder_card(self, model: str) -> EncoderOf:
        """Return what a ledger tells of an encoder; it has to be loaded."""
        encoder = self.loaded_encoder(model)
        prices = self.section(model).prices.prices()
        return EncoderOf(model, encoder.revision, prices, encoder.has_token_vectors)

    def cards(self) -> tuple[ModelCard, ...]:
        """Return what the catalogue tells of every configured model."""
        return tuple(self._card(name) for name in self.config.models)

    def _card(self, name: str) -> ModelCard:
        section = self.config.models[name]
        if isinstance(section, OpenAIModel | VllmModel):
            backend = self.chats.get(name)
            return ModelCard(
                name=name,
                backend=section.backend,
                model_id=section.model,
                revision=backend.revision if backend is not None else "",
                answers=frozenset({Grade, Prefer, Pick, Order}),
                ready=True,
                prices=section.prices.prices(),
                max_tokens=section.context_tokens if isinstance(section, OpenAIModel) else None,
            )
        if isinstance(section, CrossEncoderModel):
            return self._cross_encoder_card(name, section)
        if isinstance(section, RerankApiModel):
            return self._rerank_api_card(name, section)
        return self._encoder_card(name, section)

    def _cross_encoder_card(self, name: str, section: CrossEncoderModel) -> ModelCard:
        seat = self.cross_encoders.get(name)
        loaded = seat.loaded.encoder if seat is not None and seat.loaded is not None else None
        return ModelCard(
            name=name,
            backend=section.backend,
            model_id=section.model,
            revision=loaded.revision if loaded is not None else "",
            answers=frozenset({Grade}),
            ready=loaded is not None,
            prices=section.prices.prices(),
            max_tokens=loaded.max_tokens if loaded is not None else section.max_tokens,
        )

    def _rerank_api_card(self, name: str, section: RerankApiModel) -> ModelCard:
        api = self.rerank_apis.get(name)
        return ModelCard(
            name=name,
            backend=section.backend,
            model_id=section.model,
            revision=api.revision if api is not None else "",
            answers=frozenset({Grade}),
            ready=True,
            prices=section.prices.prices(),
            max_tokens=section.max_tokens,
        )

    def _encoder_card(self, name: str, section: EncoderSection) -> ModelCard:
        seat = self.encoders.get(name)
        loaded = seat.loaded if seat is not None else None
        return ModelCard(
            name=name,
            backend=section.backend,
            model_id=section.model,
            revision=loaded.revision if loaded is not None else "",
            answers=frozenset({Grade, Liken}),
            ready=loaded is not None,
            prices=section.prices.prices(),
            max_tokens=loaded.max_tokens if loaded is not None else None,
            dim=loaded.dim if loaded is not None else None,
            embeds=True,
            token_vectors=loaded.has_token_vectors if loaded is not None else False,
        )

    def chat(self, model: str) -> ChatBackend:
        """Return the chat model of that name."""
        backend = self.chats.get(model)
        if backend is None:
            backend = self.chats[model] = chat_backend(model, self.section(model))
        return backend

    def rerank_api(self, model: str, section: RerankApiModel) -> RerankApi:
        """Return the model of that name and section, which is behind rerank endpoints."""
        api = self.rerank_apis.get(model)
        if api is None:
            api = self.rerank_apis[model] = rerank_api(model, section)
        return api

    async def aclose(self) -> None:
        """Stop all threads and close all connections."""
        for scoring in self.cross_encoders.values():
            await asyncio.to_thread(scoring.close)
        for seat in self.encoders.values():
            await asyncio.to_thread(seat.close)
        for backend in self.chats.values():
            await backend.aclose()
        for api in self.rerank_apis.values():
            await api.aclose()
