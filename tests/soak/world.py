"""What everyone in a fault run shares, and how a request is sent, timed and entered."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import httpx2

from podium.v1 import (
    catalog_service_pb2_grpc,
    document_pb2,
    index_service_pb2_grpc,
    ranking_pb2,
    rerank_service_pb2,
    rerank_service_pb2_grpc,
    search_service_pb2_grpc,
)
from tests.soak.account import GRACE_S, Account, Outcome, answered, broken
from tests.wire.serving import OWN_CONNECTIONS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.soak.place import Place

WORDS = (  # noqa: SIM905  # a list of thirty strings would be a page
    "river stone bread window winter letter garden engine harbour music copper forest candle bridge market "
    "thunder velvet orchard silver lantern meadow saddle pepper marble anchor cotton falcon violet timber ribbon"
).split()
CHANNEL = [
    *OWN_CONNECTIONS,
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_retries", 0),
]


@dataclass
class World:
    """One run.

    Args:
        place: where it happens.
        account: of what came of it.
        seed: of everything that is drawn.

    """

    place: Place
    account: Account
    seed: int
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    keys: dict[str, str] = field(default_factory=dict)
    write: asyncio.Event = field(default_factory=asyncio.Event)
    """Cleared, writers rest after what they are at."""
    load: asyncio.Event = field(default_factory=asyncio.Event)
    """Cleared, everybody does."""
    at_work: int = 0

    def metadata(self, tenant: str) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.keys[tenant]}"),)

    def channel(self) -> grpc.aio.Channel:
        """Return a channel with connections of its own."""
        return grpc.aio.secure_channel(self.place.grpc, grpc.ssl_channel_credentials(self.place.ca), options=CHANNEL)

    def http(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(base_url=self.place.rest, verify=self.place.trust(), timeout=10.0)

    @asynccontextmanager
    async def stubs(self) -> AsyncIterator[Stubs]:
        async with self.channel() as channel:
            yield Stubs(channel)


class Stubs:
    """Generated stubs over one channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.rerank: Any = rerank_service_pb2_grpc.RerankServiceStub(channel)
        self.search: Any = search_service_pb2_grpc.SearchServiceStub(channel)
        self.index: Any = index_service_pb2_grpc.IndexServiceStub(channel)
        self.catalog: Any = catalog_service_pb2_grpc.CatalogServiceStub(channel)


@dataclass
class Client:
    """Asks one request after the other, each under a deadline.

    Args:
        world: of the run.
        name: in the tables.
        tenant: whose key it has.
        think_s: between two requests, on average.

    """

    world: World
    name: str
    tenant: str
    think_s: float
    rng: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.rng = random.Random(f"{self.world.seed} {self.name}")

    async def pause(self) -> None:
        """Think; and rest for as long as nobody shall ask."""
        await asyncio.sleep(self.rng.uniform(0.5, 1.5) * self.think_s)
        await self.world.load.wait()

    async def entered(self, deadline_s: float, ask: Callable[..., Awaitable[Outcome]], *given: Any) -> Outcome:
        """Ask, and enter what comes of it; an error of any kind is an outcome, too."""
        world, account = self.world, self.world.account
        phase, began = account.phase, time.monotonic()
        world.at_work += 1
        try:
            outcome = await self._outcome(ask(*given), began)
        finally:
            world.at_work -= 1
        account.enter(self.name, phase, began, time.monotonic(), deadline_s, outcome)
        return outcome

    async def _outcome(self, asking: Awaitable[Outcome], began: float) -> Outcome:
        account = self.world.account
        try:
            return await asking
        except grpc.aio.AioRpcError as error:
            return account.of_rpc(error, began, time.monotonic())
        except httpx2.TimeoutException as error:
            return broken("HUNG", f"{type(error).__name__}, {GRACE_S:g} s behind the deadline")
        except (httpx2.HTTPError, OSError) as error:
            if account.without_server(began, time.monotonic()):
                return Outcome("no server", type(error).__name__)
            return broken(type(error).__name__, str(error))
        except AssertionError as error:
            return broken("WRONG ANSWER", str(error))

    # --- requests ------------------------------------------------------------------------------------------------

    def text(self, words: int = 12) -> str:
        return " ".join(self.rng.choices(WORDS, k=words))

    def question(self) -> str:
        """Return a query that nobody has asked before, so that no cache answers it."""
        return f"{self.text(4)} {self.rng.randrange(1 << 40)}"

    def request(self, n: int, pipeline: str, **more: Any) -> rerank_service_pb2.RerankRequest:
        documents = [document_pb2.Document(id=f"d{i}", text=self.text()) for i in range(n)]
        return rerank_service_pb2.RerankRequest(query=self.question(), documents=documents, pipeline=pipeline, **more)

    def bill(self, ledger: Any, *, after: bool = False) -> None:
        self.world.account.bill(self.tenant).add(ledger.total, time.monotonic(), after=after)


def check_ranking(ranking: Sequence[Any], n: int) -> None:
    """Check that a ranking has every document once.

    Raises:
        AssertionError: it has not.

    """
    ids = [each.document_id for each in ranking]
    assert sorted(ids) == sorted(f"d{i}" for i in range(n)), f"{len(ids)} of {n} documents came back: {ids}"
    assert [each.rank for each in ranking] == list(range(1, n + 1)), "ranks are not 1 … n"
    assert all(each.document_id == f"d{each.input_index}" for each in ranking), "an id and its input_index differ"


def completion(value: int) -> Outcome:
    return answered(ranking_pb2.Completion.Name(value).removeprefix("COMPLETION_"))
