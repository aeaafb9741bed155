"""What transport is given to serve: the shape of the composition, so that nothing here knows what it is made of."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from podium_server.limits import Limits
from podium_server.ranking.request import Warned
from podium_server.ranking.reranker import Reranker
from podium_strategies.plan import Question

if TYPE_CHECKING:
    from podium_server.accounting.prices import Prices
    from podium_server.config import Config
    from podium_server.ranking.searcher import EncoderOf, Found, SearchRequest
    from podium_server.recall.batches import Acknowledged
    from podium_server.recall.document import Document
    from podium_server.recall.engine import CollectionStats
    from podium_server.recall.settings import CollectionSettings
    from podium_server.recall.store.rows import CollectionRow


NO_STORE = "this server has no store; start it with a data directory (server.data_dir)"
ONE_OF_SEVERAL = (
    "this server has several workers, and collections live in one process; start it with --workers 1 (server.workers), "
    "or keep a server of its own for them"
)


class ModelCard(Protocol):
    """What the catalogue tells of a model."""

    @property
    def name(self) -> str: ...
    @property
    def backend(self) -> str: ...
    @property
    def model_id(self) -> str: ...
    @property
    def revision(self) -> str: ...
    @property
    def dim(self) -> int | None: ...
    @property
    def max_tokens(self) -> int | None: ...
    @property
    def embeds(self) -> bool: ...
    @property
    def token_vectors(self) -> bool: ...
    @property
    def answers(self) -> frozenset[type[Question[Any]]]: ...
    @property
    def ready(self) -> bool: ...
    @property
    def prices(self) -> Prices: ...


class Collections(Protocol):
    """The store, off the event loop (`recall.collections`)."""

    async def create(self, name: str, settings: CollectionSettings) -> CollectionRow: ...
    async def get(self, name: str) -> CollectionRow: ...
    async def list(self) -> tuple[CollectionRow, ...]: ...
    async def delete(self, name: str) -> None: ...
    async def stats(self, name: str) -> CollectionStats: ...
    def upsert(self, collection: str, documents: AsyncIterator[Document]) -> AsyncIterator[Acknowledged]: ...
    async def get_documents(
        self, collection: str, ids: Sequence[str]
    ) -> tuple[tuple[Document, ...], tuple[str, ...]]: ...
    async def delete_documents(self, collection: str, ids: Sequence[str]) -> tuple[int, tuple[str, ...]]: ...


class Searcher(Protocol):
    """Recall, then rerank (`ranking.searcher`)."""

    @property
    def encoder_of(self) -> Callable[[str], Awaitable[EncoderOf]]: ...
    async def search(
        self, request: SearchRequest, *, deadline_at: float | None = None, warnings: tuple[Warned, ...] = ()
    ) -> Found: ...


class Podium(Protocol):
    """A server's parts, put together (`compose`)."""

    @property
    def config(self) -> Config: ...
    @property
    def limits(self) -> Limits: ...
    @property
    def reranker(self) -> Reranker: ...
    @property
    def searcher(self) -> Searcher | None:
        """None where there is no store."""

    @property
    def collections(self) -> Collections | None:
        """None where there is no store."""

    @property
    def models(self) -> Sequence[ModelCard]:
        """By name, as they are now."""

    @property
    def rerank_ready(self) -> bool:
        """Whether every model of the pipelines can answer."""

    @property
    def index_ready(self) -> bool:
        """Whether the store is open and its collections are loaded."""
