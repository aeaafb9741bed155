"""The composition root: the one module that knows everyone, and puts a configuration's parts together.

Nothing heavy is loaded before it is needed: composing a server opens no model and no connection, so that an estimate or
a catalogue costs nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from podium_server.config import (
    Config,
    OpenAIEmbeddingsModel,
    OpenAIModel,
    OpenVinoModel,
    SentenceTransformersModel,
    StageSection,
    VllmModel,
)
from podium_server.errors import ConfigInvalid, FailedPrecondition, NotFound, PodiumError
from podium_server.judges.judge import Judge
from podium_server.ranking.pipeline import Pipeline, build
from podium_server.ranking.reranker import Reranker
from podium_strategies.plan import Grade, Liken, Question

if TYPE_CHECKING:
    from podium_server.backends.chat import ChatBackend
    from podium_server.backends.encoder import Encoder
    from podium_server.judges.encoder import EncoderSeat, StoredVectors
    from podium_server.judges.verdict_cache import SqliteVerdictCache

EncoderSection = OpenVinoModel | SentenceTransformersModel | OpenAIEmbeddingsModel
ChatSection = OpenAIModel | VllmModel


class Models:
    """The configured models, each built when it is first asked for and shared by all who ask.

    Args:
        config: whose models they are.
        stored: where recalled documents' vectors are; None without a store.
        verdicts: where chat models' verdicts are kept; None without a store.

    """

    def __init__(
        self, config: Config, *, stored: StoredVectors | None = None, verdicts: SqliteVerdictCache | None = None
    ) -> None:
        self.config = config
        self.stored = stored
        self.verdicts = verdicts
        self.encoders: dict[str, EncoderSeat] = {}
        self.chats: dict[str, ChatBackend] = {}

    def judge(self, section: StageSection, model: str, asks: frozenset[type[Question[Any]]]) -> Judge:
        """Return the judge of `model` for a stage (a `ranking.pipeline.JudgeMaker`)."""
        match self.section(model):
            case OpenAIModel() | VllmModel():
                return self._chat_judge(section, model, asks)
            case _:
                return self._encoder_judge(section, model, asks)

    def section(self, model: str) -> EncoderSection | ChatSection:
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
            if isinstance(section, OpenAIModel | VllmModel):
                raise FailedPrecondition(f"the model {model!r} (backend {section.backend!r}) does not embed")
            waiting_max = self.config.limits.encoder_queue
            seat = self.encoders[model] = EncoderSeat(
                name=model,
                load=_encoder_loader(model, section),
                queries=Worker(f"{model}-queries", waiting_max=waiting_max),
                documents=Worker(model, waiting_max=waiting_max),
            )
        return seat

    def chat(self, model: str) -> ChatBackend:
        """Return the chat model of that name."""
        backend = self.chats.get(model)
        if backend is None:
            backend = self.chats[model] = _chat_backend(model, self.section(model))
        return backend

    def _encoder_judge(self, section: StageSection, model: str, asks: frozenset[type[Question[Any]]]) -> Judge:
        from podium_server.judges.encoder import EncoderJudge

        configured = self.section(model)
        embeds_tokens = not isinstance(configured, OpenAIEmbeddingsModel)
        if section.prompt is not None:
            raise FailedPrecondition(f"prompt is set, and the model {model!r} is an encoder, which takes none")
        if section.scoring == "late-interaction" and not embeds_tokens:
            raise FailedPrecondition(
                f"scoring is 'late-interaction', and the endpoint of {model!r} gives one vector a text; use 'cosine'"
            )
        # Where nothing is said: the better one of what the questions and the model allow.
        late = section.scoring == "late-interaction" or (
            section.scoring is None and embeds_tokens and Liken not in asks and Grade in asks
        )
        return EncoderJudge(
            seat=self.encoder(model),
            late_interaction=late,
            with_token_vectors=embeds_tokens and model in self._late_interacting,
            prices=configured.prices.prices(),
            stored=self.stored,
        )

    @property
    def _late_interacting(self) -> frozenset[str]:
        """The encoders of which some pipeline wants token vectors: whoever encodes keeps them for the others."""
        found: set[str] = set()

        def look(section: StageSection) -> None:
            if section.model is not None and section.scoring == "late-interaction":
                found.add(section.model)
            for voice in section.of:
                look(voice)

        for pipeline in self.config.pipelines.values():
            for stage in pipeline.stages:
                look(stage)
        return frozenset(found)

    def _chat_judge(self, section: StageSection, model: str, asks: frozenset[type[Question[Any]]]) -> Judge:
        raise NotImplementedError

    async def aclose(self) -> None:
        """Stop all threads and close all connections."""
        for seat in self.encoders.values():
            await asyncio.to_thread(seat.close)
        for backend in self.chats.values():
            await backend.aclose()


def _encoder_loader(model: str, section: EncoderSection) -> Callable[[], Encoder]:
    """Return what builds an encoder. The module of its backend is imported there and then."""

    def load() -> Encoder:
        raise NotImplementedError

    return load


def _chat_backend(model: str, section: EncoderSection | ChatSection) -> ChatBackend:
    raise NotImplementedError


def build_pipelines(config: Config, models: Models) -> dict[str, Pipeline]:
    """Build every pipeline of a configuration.

    Raises:
        ConfigInvalid: with the path of what is wrong.

    """
    pipelines = {}
    for name, section in config.pipelines.items():
        where = f"pipelines.{name}"
        try:
            pipelines[name] = build(name, section, models.judge, where=where)
        except PodiumError as error:
            place = "" if error.message.startswith(where) else f"{where}: "
            raise ConfigInvalid(f"{place}{error.message}") from error
    return pipelines
