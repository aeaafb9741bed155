"""A server's parts, put together."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from podium_server.compose.models import ModelCard, Models
from podium_server.config import CollectionSection, Config, OpenAIModel, VllmModel
from podium_server.errors import ConfigInvalid, PodiumError
from podium_server.ranking.pipeline import Pipeline, build
from podium_server.ranking.reranker import Reranker
from podium_server.ranking.searcher import EncoderOf, Searcher

if TYPE_CHECKING:
    from podium_server.judges.verdict_cache import SqliteVerdictCache
    from podium_server.recall.collections import Collections
    from podium_server.recall.store import CollectionSettings


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
        """Load every model of our own that a pipeline or a collection uses, and make the configured collections.

        Raises:
            PodiumError: a model cannot be loaded, or a collection is there with other settings.

        """
        models = self.models_by_name
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
