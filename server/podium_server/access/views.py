"""What a caller sees of a server: the pipelines, models and collections that it may use, as if there were no others."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from podium_server.access.identity import Identity, caller
from podium_server.access.meter import Meter
from podium_server.access.refusals import Refusal, Refusals
from podium_server.accounting.usage import Usage
from podium_server.errors import FailedPrecondition, NotFound, PermissionDenied, PodiumError
from podium_server.ranking.request import RankRequest, Warned

if TYPE_CHECKING:
    from podium_server.ranking.pipeline import Pipeline
    from podium_server.ranking.searcher import EncoderOf, Found, Searcher, SearchRequest
    from podium_server.recall.batches import Acknowledged
    from podium_server.recall.collections import Collections
    from podium_server.recall.document import Document
    from podium_server.recall.engine import CollectionStats
    from podium_server.recall.settings import CollectionSettings
    from podium_server.recall.store.rows import CollectionRow

PipelineT = TypeVar("PipelineT")

_ONE_CALL = Usage(calls=1, prompt_tokens=1)


class AllowedPipelines(Mapping[str, PipelineT]):
    """The pipelines that the caller may use.

    One that it may not use is refused whether it exists or not, so that nobody learns of another tenant's.

    Args:
        everything: by name.
        refusals: to count in.
        beside: pipelines that come along with one, by its name (challengers in experiments).

    """

    def __init__(
        self, everything: Mapping[str, PipelineT], refusals: Refusals, beside: Mapping[str, str] | None = None
    ) -> None:
        self._all = everything
        self._refusals = refusals
        self._beside = dict(beside or {})

    def __getitem__(self, name: str) -> PipelineT:
        identity = caller()
        if not self._allowed(identity, name):
            self._refusals.note(Refusal.PIPELINE, identity.tenant.name)
            listed = ", ".join(sorted(self)) or "none"
            raise PermissionDenied(f"these credentials do not allow the pipeline {name!r:.150} (allowed: {listed})")
        return self._all[name]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._all and self._allowed(caller(), name)

    def __iter__(self) -> Iterator[str]:
        identity = caller()
        return (name for name in self._all if self._allowed(identity, name))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _allowed(self, identity: Identity, name: str) -> bool:
        allowed = identity.pipelines
        if allowed is None or name in allowed:
            return True
        return any(beside == name and own in allowed for own, beside in self._beside.items())


def inline_allowed(refusals: Refusals) -> Callable[[RankRequest], None]:
    """Return what refuses stages that came with a request, where the caller may not bring any."""

    def check(request: RankRequest) -> None:
        identity = caller()
        if request.inline is not None and not identity.inline:
            refusals.note(Refusal.INLINE, identity.tenant.name)
            raise PermissionDenied("these credentials allow named pipelines only, and the request brings stages")

    return check


class Card(Protocol):
    """What is known of a model; see `transport.served.ModelCard`."""

    @property
    def name(self) -> str: ...


CardT = TypeVar("CardT", bound=Card)


def visible_models(cards: Sequence[CardT], pipelines: Mapping[str, Pipeline], encoder: str) -> tuple[CardT, ...]:
    """Return the models that the caller can come to use: all, or those of its pipelines and the default encoder."""
    if caller().inline:
        return tuple(cards)
    used = {encoder}
    for pipeline in pipelines.values():
        used |= {voice.judge.facts.model for voice in pipeline.voices if voice.judge is not None}
    return tuple(card for card in cards if card.name in used)


class OwnCollections:
    """The collections of the caller, under the names that it gave them, and those that are shared.

    In the store a tenant's collection is `NAMESPACE.NAME`, and a name of the caller's has no dot: no name that can be
    given leads out of the namespace, and two tenants may have collections of the same name. A collection that the key
    is not for is not found, as one that does not exist.

    Args:
        inner: all collections.
        shared: those of everybody, which nobody here may change.
        refusals: to count in.
        meter: is charged for what filling a collection uses; None where nobody has a quota.
        encoder_of: tells what encoding costs, by the name in the store.
        models: names of those that the caller may see.

    """

    def __init__(
        self,
        inner: Collections,
        shared: Sequence[str],
        refusals: Refusals,
        meter: Meter | None,
        encoder_of: Callable[[str], Awaitable[EncoderOf]],
        models: Callable[[], Sequence[str]],
    ) -> None:
        self._inner = inner
        self._shared = frozenset(shared)
        self._refusals = refusals
        self._meter = meter
        self._encoder_of = encoder_of
        self._models = models

    # --- names --------------------------------------------------------------------------------------------------

    def stored(self, name: str) -> str:
        """Return the name in the store of a collection that the caller may read.

        Raises:
            NotFound: there can be none of that name, for this caller.

        """
        identity = caller()
        if name in self._shared:
            return name
        if "." in name or not _allowed(identity, name):
            self._refusals.note(Refusal.COLLECTION, identity.tenant.name)
            raise NotFound("collection", name, tuple(sorted((identity.collections or frozenset()) | self._shared)))
        namespace = identity.tenant.namespace
        return f"{namespace}.{name}" if namespace else name

    def _changed(self, name: str) -> str:
        """Return the name in the store of a collection that the caller is about to change."""
        if name in self._shared and caller().tenant.namespace:
            self._refusals.note(Refusal.COLLECTION, caller().tenant.name)
            raise PermissionDenied(f"the collection {name!r} is shared by all, and can be read only")
        return self.stored(name)

    def _shown(self, stored: str) -> str | None:
        """Return what the caller calls a collection of the store; None where it is not the caller's to see."""
        if stored in self._shared:
            return stored
        identity = caller()
        namespace, dot, name = stored.rpartition(".")
        mine = namespace == identity.tenant.namespace if dot else not identity.tenant.namespace
        return name if mine and _allowed(identity, name) else None

    def _row(self, row: CollectionRow) -> CollectionRow:
        return replace(row, name=self._shown(row.name) or row.name)

    @contextmanager
    def translated(self, name: str, stored: str) -> Iterator[None]:
        """Tell of errors within by the names that the caller knows."""
        try:
            yield
        except NotFound as error:
            if error.kind == "collection":
                known = tuple(shown for one in error.known if (shown := self._shown(one)) is not None)
                raise NotFound("collection", name, known) from error
            if error.kind == "model":
                visible = set(self._models())
                raise NotFound("model", error.name, tuple(one for one in error.known if one in visible)) from error
            raise
        except PodiumError as error:
            if stored != name:
                error.message = error.message.replace(stored, name)
                error.args = (error.message,)
                error.metadata = {key: value.replace(stored, name) for key, value in error.metadata.items()}
            raise

    # --- collections --------------------------------------------------------------------------------------------

    async def create(self, name: str, settings: CollectionSettings) -> CollectionRow:
        """Make a collection of the caller's."""
        identity = caller()
        if not _allowed(identity, name):
            self._refusals.note(Refusal.COLLECTION, identity.tenant.name)
            raise PermissionDenied(f"these credentials do not allow a collection named {name!r:.150}")
        if name in self._shared:
            self._changed(name)
        namespace = identity.tenant.namespace
        with self.translated(name, f"{namespace}.{name}" if namespace else name):
            return self._row(await self._inner.create(name, settings, namespace=namespace))

    async def get(self, name: str) -> CollectionRow:
        """Return a collection."""
        with self.translated(name, stored := self.stored(name)):
            return self._row(await self._inner.get(stored))

    async def list(self) -> tuple[CollectionRow, ...]:
        """Return all collections that the caller may read, by name."""
        rows = [replace(row, name=name) for row in await self._inner.list() if (name := self._shown(row.name))]
        return tuple(sorted(rows, key=lambda row: row.name))

    async def delete(self, name: str) -> None:
        """Remove a collection."""
        with self.translated(name, stored := self._changed(name)):
            await self._inner.delete(stored)

    async def stats(self, name: str) -> CollectionStats:
        """Count what is in a collection."""
        with self.translated(name, stored := self.stored(name)):
            return await self._inner.stats(stored)

    # --- documents ----------------------------------------------------------------------------------------------

    async def upsert(self, collection: str, documents: AsyncIterator[Document]) -> AsyncGenerator[Acknowledged, None]:
        """Put documents into a collection. A quota of tokens or money that is used up ends it after a batch.

        Raises:
            FailedPrecondition: there is a quota of money, and no price of the encoder.

        """
        with self.translated(collection, stored := self._changed(collection)):
            await self._check_price(stored)
            await self._check_quota(stored)
            coming: Any = self._inner.upsert(stored, documents)
            async with aclosing(coming) as batches:
                async for batch in batches:
                    await self._charge(stored, batch)
                    yield batch
                    await self._check_quota(stored)

    async def get_documents(self, collection: str, ids: Sequence[str]) -> tuple[tuple[Document, ...], tuple[str, ...]]:
        """Give documents back."""
        with self.translated(collection, stored := self.stored(collection)):
            return await self._inner.get_documents(stored, ids)

    async def delete_documents(self, collection: str, ids: Sequence[str]) -> tuple[int, tuple[str, ...]]:
        """Remove documents."""
        with self.translated(collection, stored := self._changed(collection)):
            return await self._inner.delete_documents(stored, ids)

    async def _charge(self, stored: str, batch: Acknowledged) -> None:
        quotas = caller().tenant.quotas
        if self._meter is None or not quotas:
            return
        used = (await self._encoder_of(stored)).prices.charge(batch.usage)
        amounts = {"pairs": used.pairs, "tokens": used.tokens, "nano_usd": used.cost_nano_usd}
        self._meter.charge([(quota, amount) for quota in quotas if (amount := amounts.get(quota.unit))])

    async def _check_price(self, stored: str) -> None:
        """Refuse what would be filled for nothing: money is bounded, and what encoding costs nobody knows."""
        if self._meter is None or all(quota.unit != "nano_usd" for quota in caller().tenant.quotas):
            return
        encoder = await self._encoder_of(stored)
        if encoder.prices.charge(_ONE_CALL).cost_nano_usd is None:
            raise FailedPrecondition(
                f"this tenant has a quota of money, and no price is configured for the encoder ({encoder.model}), so "
                "that what filling a collection costs cannot be bounded; configure models.<name>.prices"
            )

    async def _check_quota(self, stored: str) -> None:
        """Refuse to go on where nothing is left: what a batch uses is known after it, so that one may pass the end."""
        if self._meter is None:
            return
        wants = [(quota, 1) for quota in caller().tenant.quotas if quota.unit in ("tokens", "nano_usd")]
        if wants:
            taken = self._meter.take_at_once(wants) or await self._meter.take(wants)
            taken.settle(lambda _: 0)


class OwnSearcher:
    """Searches the collections of the caller."""

    def __init__(self, inner: Searcher, collections: OwnCollections) -> None:
        self._inner = inner
        self._collections = collections

    @property
    def encoder_of(self) -> Callable[[str], Awaitable[EncoderOf]]:
        """Tells of a collection's encoder."""
        return self._encoder_of

    async def _encoder_of(self, collection: str) -> EncoderOf:
        with self._collections.translated(collection, stored := self._collections.stored(collection)):
            return await self._inner.encoder_of(stored)

    async def search(
        self, request: SearchRequest, *, deadline_at: float | None = None, warnings: tuple[Warned, ...] = ()
    ) -> Found:
        """Recall candidates and rank them."""
        name = request.ranked.collection
        with self._collections.translated(name, stored := self._collections.stored(name)):
            ranked = replace(request.ranked, collection=stored)
            return await self._inner.search(replace(request, ranked=ranked), deadline_at=deadline_at, warnings=warnings)


def _allowed(identity: Identity, name: str) -> bool:
    return identity.collections is None or name in identity.collections
