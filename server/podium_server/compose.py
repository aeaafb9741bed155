"""The composition root: the one module that knows everyone, and puts a configuration's parts together.

Nothing heavy is loaded before it is needed: composing a server opens no model and no connection, so that an estimate or
a catalogue costs nothing.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from podium_server.accounting.prices import Prices
from podium_server.config import (
    CollectionSection,
    Config,
    OpenAIEmbeddingsModel,
    OpenAIModel,
    OpenVinoModel,
    SentenceTransformersModel,
    StageSection,
    VllmModel,
    key_variable,
)
from podium_server.errors import ConfigInvalid, FailedPrecondition, NotFound, PodiumError, known_names
from podium_server.judges.judge import Judge
from podium_server.ranking.pipeline import Pipeline, build
from podium_server.ranking.reranker import Reranker
from podium_server.ranking.searcher import EncoderOf, Searcher
from podium_strategies.plan import Grade, Liken, Order, Pick, Prefer, Question
from podium_strategies.prompts.file import InvalidPromptFile

if TYPE_CHECKING:
    from podium_server.backends.chat.backend import Capability, ChatBackend
    from podium_server.backends.encoders.encoder import Encoder
    from podium_server.judges.encoder import EncoderSeat, StoredVectors
    from podium_server.judges.verdict_cache import SqliteVerdictCache
    from podium_server.recall.collections import Collections
    from podium_server.recall.store import CollectionSettings
    from podium_strategies.prompts.prompt import Prompt

EncoderSection = OpenVinoModel | SentenceTransformersModel | OpenAIEmbeddingsModel
ChatSection = OpenAIModel | VllmModel
Kinds = frozenset[type[Question[Any]]]


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

    """

    def __init__(
        self, config: Config, *, stored: StoredVectors | None = None, verdicts: SqliteVerdictCache | None = None
    ) -> None:
        self.config = config
        self.stored = stored
        self.verdicts = verdicts
        self.encoders: dict[str, EncoderSeat] = {}
        self.chats: dict[str, ChatBackend] = {}

    def judge(self, section: StageSection, model: str, asks: Kinds) -> Judge:
        """Return the judge of `model` for a stage (a `ranking.pipeline.JudgeMaker`)."""
        match self.section(model):
            case OpenAIModel() | VllmModel() as chat:
                return self._chat_judge(section, model, chat, asks)
            case encoder:
                return self._encoder_judge(section, model, encoder, asks)

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
            backend = self.chats[model] = _chat_backend(model, self.section(model))
        return backend

    def _encoder_judge(self, section: StageSection, model: str, configured: EncoderSection, asks: Kinds) -> Judge:
        from podium_server.judges.encoder import EncoderJudge

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

    def _chat_judge(self, section: StageSection, model: str, configured: ChatSection, asks: Kinds) -> Judge:
        from podium_server.judges.chat import ChatJudge
        from podium_server.judges.chat import ChatSettings as JudgeSettings

        if section.scoring is not None:
            raise FailedPrecondition(
                f"scoring is {section.scoring!r}, and the model {model!r} is no encoder; use prompt"
            )
        prompts = _prompts(section, asks)
        if not prompts:
            asked = ", ".join(sorted(kind.__name__.lower() for kind in asks))
            raise FailedPrecondition(
                f"{section.strategy} asks {asked}, which no prompt asks a chat model like {model!r}"
            )
        return ChatJudge(
            self.chat(model),
            prompts,
            configured.prices.prices(),
            JudgeSettings(
                on_unreadable=section.on_unreadable,
                reask_missing=section.reask_missing,
                constrained=section.constrained,
                temperature=configured.temperature,
                max_output_tokens=section.max_output_tokens,
            ),
            self.verdicts,
        )

    async def aclose(self) -> None:
        """Stop all threads and close all connections."""
        for seat in self.encoders.values():
            await asyncio.to_thread(seat.close)
        for backend in self.chats.values():
            await backend.aclose()


def _prompts(section: StageSection, asks: Kinds) -> tuple[Prompt, ...]:
    """Return the prompts of a stage: the one that it names, and the usual one for every other kind of question."""
    from podium_strategies import prompts

    wanted = {}
    for kind in asks:
        usual = "first" if section.strategy == "first" else prompts.USUAL.get(kind)
        if usual is not None:
            wanted[kind] = usual
    try:
        chosen = {kind: prompts.load(name) for kind, name in wanted.items()}
        if section.prompt is not None:
            named = prompts.load(section.prompt)
            if named.kind not in asks:
                asked = ", ".join(sorted(kind.__name__.lower() for kind in asks))
                raise FailedPrecondition(
                    f"the prompt {named.id} answers {named.kind.__name__.lower()}, and {section.strategy} asks {asked}"
                )
            chosen[named.kind] = named
    except prompts.UnknownPrompt as error:
        raise NotFound("prompt", error.name, error.known) from error
    except InvalidPromptFile as error:
        raise ConfigInvalid(str(error)) from error
    return tuple(chosen.values())


def _encoder_loader(model: str, section: EncoderSection) -> Callable[[], Encoder]:
    """Return what builds an encoder. The module of its backend is imported there and then."""

    def load() -> Encoder:
        encoder: Encoder
        match section:
            case OpenVinoModel():
                from podium_server.backends.encoders.openvino import OpenVinoEncoder

                encoder = OpenVinoEncoder(
                    section.model,
                    name=model,
                    query_prefix=section.query_prefix,
                    document_prefix=section.document_prefix,
                    max_tokens=section.max_tokens,
                    threads=section.threads,
                )
            case SentenceTransformersModel():
                from podium_server.backends.encoders.sentence_transformers import SentenceTransformersEncoder

                encoder = SentenceTransformersEncoder(
                    section.model,
                    name=model,
                    query_prefix=section.query_prefix,
                    document_prefix=section.document_prefix,
                    max_tokens=section.max_tokens,
                    device=section.device,
                )
            case OpenAIEmbeddingsModel():
                from podium_server.backends.encoders.openai import OpenAIEncoder

                encoder = OpenAIEncoder(
                    section.model,
                    name=model,
                    base_url=section.base_url,
                    api_key=_key(model, key_variable(section.api_key_env, (section.base_url,))),
                    query_prefix=section.query_prefix,
                    document_prefix=section.document_prefix,
                    dimensions=section.dimensions,
                    batch=section.batch,
                )
        if section.cache_mib == 0:
            return encoder
        from podium_server.backends.encoders.embedding_cache import CachedEncoder, EmbeddingCache

        return CachedEncoder(encoder, EmbeddingCache(section.cache_mib << 20))

    return load


def _key(model: str, variable: str | None) -> str | None:
    """Return an endpoint's key from the environment; it is never printed and never logged."""
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigInvalid(
            f"models.{model}: the environment variable {variable} is not set; put the endpoint's key there"
        )
    return key


def _capabilities(model: str, names: tuple[str, ...] | None) -> list[Capability] | None:
    """Return what the configuration vouches for; None where it leaves that to be tried."""
    from podium_server.backends.chat.backend import Capability

    known = {capability.value: capability for capability in Capability}
    for name in names or ():
        if name not in known:
            raise ConfigInvalid(f"models.{model}.capabilities: none is named {name!r}{known_names(name, tuple(known))}")
    return None if names is None else [known[name] for name in names]


def _chat_backend(model: str, section: EncoderSection | ChatSection) -> ChatBackend:
    """Build a chat backend. The module of its kind is imported here and now; no connection is opened."""
    match section:
        case OpenAIModel():
            from podium_server.backends.chat.openai.chat import ChatSettings, OpenAIChat

            urls = (section.base_url,) if isinstance(section.base_url, str) else section.base_url
            return OpenAIChat(
                model,
                model=section.model,
                base_urls=urls,
                api_key_env=key_variable(section.api_key_env, urls),
                settings=ChatSettings(
                    attempts_max=section.attempts,
                    reply_wait_s_max=section.reply_wait_s,
                    concurrency=section.concurrency,
                    requests_per_minute=section.requests_per_minute,
                    tokens_per_minute=section.tokens_per_minute,
                    queue_max=section.queue,
                ),
                capabilities=_capabilities(model, section.capabilities),
                tokenizer=section.tokenizer,
                context_tokens=section.context_tokens,
                extra_body=section.extra_body,
                dialect=section.dialect,
                drop_prefill=section.drop_prefill,
                prices=section.prices.prices(),
            )
        case VllmModel():
            from podium_server.backends.chat.vllm import VllmChat

            return VllmChat(model, model=section.model, engine_args=section.engine, prices=section.prices.prices())
    raise FailedPrecondition(f"the model {model!r} (backend {section.backend!r}) does not answer in text")


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


class Podium:
    """A server's parts, put together. `start` before use, `aclose` at the end.

    Args:
        config: valid.
        data_dir: of the store; None goes without collections and without a memory for verdicts.
        collections: whether to open the store's collections, which one process at a time can; a job needs none.

    Raises:
        ConfigInvalid: a pipeline cannot be built.
        StoreError: the store cannot be used.

    """

    def __init__(self, config: Config, *, data_dir: Path | None, collections: bool = True) -> None:
        self.config = config
        self.limits = config.limits
        self.verdicts = _verdict_cache(config, data_dir)
        self.models_by_name = Models(config, verdicts=self.verdicts)
        self.collections = _collections(config, data_dir, self.models_by_name) if collections else None
        self.models_by_name.stored = self.collections
        self.pipelines = build_pipelines(config, self.models_by_name)
        self.reranker = Reranker(
            self.pipelines, config.server.default_pipeline, self.models_by_name.judge, config.limits
        )
        self.searcher = (
            None if self.collections is None else Searcher(self.collections, self.reranker, self._encoder_of)
        )
        self._warm = False

    @property
    def models(self) -> tuple[ModelCard, ...]:
        """What the catalogue tells of every configured model."""
        return self.models_by_name.cards()

    async def _encoder_of(self, collection: str) -> EncoderOf:
        assert self.collections is not None
        row = await self.collections.get(collection)
        return self.models_by_name.encoder_card(row.settings.encoder)

    async def start(self) -> None:
        """Load every encoder that a pipeline or a collection uses, and make the configured collections.

        Raises:
            PodiumError: a model cannot be loaded, or a collection is there with other settings.

        """
        await asyncio.gather(*(seat.encoder() for seat in self.models_by_name.encoders.values()))
        if self.collections is not None:
            for name, section in self.config.collections.items():
                await self.collections.create(name, self._settings(section))
            await self.collections.warm()
        self._warm = True

    def _settings(self, section: CollectionSection) -> CollectionSettings:
        from podium_server.recall.store import CollectionSettings

        return CollectionSettings(
            encoder=section.encoder or self.config.server.default_encoder,
            chunk_tokens=section.chunk_tokens or 0,
            overlap_tokens=section.chunk_overlap_tokens,
            token_vectors=section.token_vectors,
        )

    async def aclose(self) -> None:
        """Close models, connections and the store."""
        await self.models_by_name.aclose()
        if self.collections is not None:
            await self.collections.aclose()
        if self.verdicts is not None:
            await asyncio.to_thread(self.verdicts.close)

    @property
    def rerank_ready(self) -> bool:
        """Whether every model of the pipelines can answer."""
        return self._warm

    @property
    def index_ready(self) -> bool:
        """Whether the store is open and its collections are loaded."""
        return self._warm and self.collections is not None


def _verdict_cache(config: Config, data_dir: Path | None) -> SqliteVerdictCache | None:
    """Open the memory for verdicts, where there is a store and a chat model to remember."""
    talks = any(isinstance(section, OpenAIModel | VllmModel) for section in config.models.values())
    if data_dir is None or not config.server.verdict_cache or not talks:
        return None
    from podium_server.judges.verdict_cache import SqliteVerdictCache

    data_dir.mkdir(parents=True, exist_ok=True)
    return SqliteVerdictCache(data_dir / "verdicts.sqlite", bytes_max=config.server.verdict_cache_mib << 20)


def _collections(config: Config, data_dir: Path | None, models: Models) -> Collections | None:
    """Open the store, where there is one."""
    if data_dir is None:
        return None
    from podium_server.backends.encoders.maxsim import quantize_tokens
    from podium_server.recall.collections import Collections
    from podium_server.recall.limits import RecallLimits

    limits = config.limits
    return Collections(
        data_dir,
        models.loaded_encoder,
        quantize=quantize_tokens,
        limits=RecallLimits(
            document_bytes=limits.document_bytes,
            metadata_bytes=limits.metadata_bytes,
            id_bytes=limits.id_bytes,
            ids=limits.ids,
            query_bytes=limits.query_bytes,
            depth=limits.recall_depth,
        ),
    )
