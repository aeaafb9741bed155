"""A server's parts as its callers see them, one at a time: what transport is given where callers are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from podium_server.access.views import OwnCollections, OwnSearcher, visible_models
from podium_server.compose.models import ModelCard
from podium_server.config import Config
from podium_server.limits import Limits
from podium_server.ranking.reranker import Reranker

if TYPE_CHECKING:
    from podium_server.access.access import Access
    from podium_server.compose.podium import Podium


class GuardedPodium:
    """Shows of a Podium what the caller of the moment may see (`transport.served.Podium`).

    The reranker is the same one: its pipelines are a view already.

    Args:
        podium: all of it.
        access: who may see what.

    """

    def __init__(self, podium: Podium, access: Access) -> None:
        self._podium = podium
        self.collections = (
            None
            if podium.collections is None
            else OwnCollections(
                podium.collections,
                podium.config.access.shared_collections,
                access.refusals,
                access.meter,
                podium.encoder_of,
                lambda: [card.name for card in self.models],
            )
        )
        self.searcher = (
            None
            if podium.searcher is None or self.collections is None
            else OwnSearcher(podium.searcher, self.collections)
        )

    @property
    def config(self) -> Config:
        """Of the server."""
        return self._podium.config

    @property
    def limits(self) -> Limits:
        """Of the server."""
        return self._podium.limits

    @property
    def reranker(self) -> Reranker:
        """Of the server."""
        return self._podium.reranker

    @property
    def models(self) -> Sequence[ModelCard]:
        """That the caller can come to use."""
        podium = self._podium
        return visible_models(podium.models, podium.reranker.pipelines, podium.config.server.default_encoder)

    @property
    def rerank_ready(self) -> bool:
        """Whether every model of the pipelines can answer."""
        return self._podium.rerank_ready

    @property
    def index_ready(self) -> bool:
        """Whether the store is open and its collections are loaded."""
        return self._podium.index_ready
