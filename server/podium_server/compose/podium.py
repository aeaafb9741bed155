"""A server's parts, put together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from podium_server.access.access import Access
from podium_server.access.identity import tenant_name
from podium_server.compose.administration import Administration
from podium_server.compose.guarded import GuardedPodium
from podium_server.compose.models import ModelCard, Models
from podium_server.compose.telemetry import Telemetry
from podium_server.config import CollectionSection, Config, OpenAIModel, VllmModel
from podium_server.errors import ConfigInvalid, PodiumError
from podium_server.ranking.challenger import Experiments
from podium_server.ranking.pipeline import Pipeline, build
from podium_server.ranking.ranking_log import RankingLog
from podium_server.ranking.reranker import Reranker
from podium_server.ranking.searcher import EncoderOf, Searcher

if TYPE_CHECKING:
    from podium_server.access.metering import Quoted
    from podium_server.judges.verdict_cache import SqliteVerdictCache
    from podium_server.ranking.request import RankRequest
    from podium_server.recall.collections import Collections
    from podium_server.recall.settings import CollectionSettings
    from podium_server.transport import served
    from podium_server.transport.door import Guard as CallGuard


def build_experiments(config: Config) -> Experiments | None:
    """Return the experiments on live requests, and the log of rankings; None where neither is configured.

    Raises:
        ConfigInvalid: the log's secret is not there.

    """
    section = config.ranking_log
    challengers = {name: given.challenger for name, given in config.pipelines.items() if given.challenger}
    if section.path is None or not (challengers or section.share):
        return None
    return Experiments(
        challengers,
        RankingLog(section.path, file_bytes=section.file_mib << 20, files=section.files, queue_entries=section.queue),
        config.limits,
        places=section.places,
        share=section.share,
        secret=section.secret(),
        texts=section.texts,
    )


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
        serving: whether others call it: it shows then what it does (`[telemetry]`), spares models that fail, and knows
            its callers (`[access]`).

    Raises:
        ConfigInvalid: a pipeline cannot be built.
        StoreError: the store cannot be used.

    """

    def __init__(
        self, config: Config, *, data_dir: Path | None, collections: bool = True, serving: bool = False
    ) -> None:
        self.config = config
        self.limits = config.limits
        self.verdicts = _verdict_cache(config, data_dir)
        self.models_by_name = Models(config, verdicts=self.verdicts, watched=serving)
        self.collections = _collections(config, data_dir, self.models_by_name) if collections else None
        self.models_by_name.stored = self.collections
        self.pipelines = build_pipelines(config, self.models_by_name)
        self.access = _access(config, data_dir) if serving else None
        self.telemetry = Telemetry(self, tenant_of=tenant_name) if serving else None
        self.reranker = Reranker(
            self.pipelines if self.access is None else self.access.pipelines(self.pipelines),
            config.server.default_pipeline,
            self.models_by_name.judge,
            config.limits,
            guards=self.telemetry.work_guards if self.telemetry is not None else (),
            experiments=build_experiments(config),
            may=None if self.access is None else self.access.may,
            place=None if self.access is None else self.access.place,
        )
        if self.access is not None:
            # Last, so that whoever keeps figures sees what is refused.
            metering = self.access.metering(self._quote)
            self.reranker.guards = (*self.reranker.guards, *metering)
        self.searcher = None if self.collections is None else Searcher(self.collections, self.reranker, self.encoder_of)
        self.served: served.Podium = self if self.access is None else GuardedPodium(self, self.access)
        """What transport is given: all of it, or what the caller of the moment may see."""
        self._warm = False

    @property
    def models(self) -> tuple[ModelCard, ...]:
        """What the catalogue tells of every configured model."""
        return self.models_by_name.cards()

    def _quote(self, request: RankRequest) -> Quoted | None:
        """Return what a request would use; None for nothing, which is told without trying the plan."""
        pipeline = self.reranker.pipeline(request)
        if all(voice.judge is None for voice in pipeline.voices):
            return None
        return self.reranker.estimate(request)[1]

    async def encoder_of(self, collection: str) -> EncoderOf:
        """Tell of a collection's encoder, by the collection's name in the store."""
        assert self.collections is not None
        row = await self.collections.get(collection)
        return self.models_by_name.encoder_card(row.settings.encoder)

    async def start(self) -> None:
        """Load every model of our own that a pipeline or a collection uses, and make the configured collections.

        Raises:
            PodiumError: a model cannot be loaded, or a collection is there with other settings.

        """
        models = self.models_by_name
        if self.telemetry is not None:
            self.telemetry.start()
        if self.access is not None:
            await self.access.start()
        await asyncio.gather(
            *(seat.encoder() for seat in models.encoders.values()),
            *(seat.batcher() for seat in models.cross_encoders.values()),
        )
        if self.collections is not None:
            for name, section in self.config.collections.items():
                await self.collections.create(name, self._settings(section))
            await self.collections.warm()
        self._warm = True

    def _settings(self, section: CollectionSection) -> CollectionSettings:
        from podium_server.recall.settings import CollectionSettings

        return CollectionSettings(
            encoder=section.encoder or self.config.server.default_encoder,
            chunk_tokens=section.chunk_tokens or 0,
            overlap_tokens=section.chunk_overlap_tokens,
            token_vectors=section.token_vectors,
        )

    async def aclose(self) -> None:
        """Close models, connections and the store. What works in the shadow is stopped first."""
        if self.reranker.experiments is not None:
            await self.reranker.experiments.aclose()
        if self.access is not None:
            await self.access.aclose()
        await self.models_by_name.aclose()
        if self.collections is not None:
            await self.collections.aclose()
        if self.verdicts is not None:
            await asyncio.to_thread(self.verdicts.close)
        if self.telemetry is not None:
            await asyncio.to_thread(self.telemetry.close)

    @property
    def administration(self) -> Administration:
        """What an operator may do to it."""
        return Administration(self, refuse=self.config.admin.unloaded == "refuse")

    @property
    def call_guards(self) -> Sequence[CallGuard]:
        """What stands around every call, the outermost first."""
        guards = list(self.telemetry.call_guards) if self.telemetry is not None else []
        return guards if self.access is None else [*guards, self.access.gate]

    @property
    def rerank_ready(self) -> bool:
        """Whether every model of the pipelines can answer."""
        return self._warm

    @property
    def index_ready(self) -> bool:
        """Whether the store is open and its collections are loaded."""
        return self._warm and self.collections is not None


def _access(config: Config, data_dir: Path | None) -> Access | None:
    """Return who may call, where that is asked."""
    if not config.access.keys:
        return None
    if data_dir is None:
        raise ConfigInvalid("access.keys is set, and there is no data directory (server.data_dir) to keep them in")
    return Access(config, data_dir)


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
