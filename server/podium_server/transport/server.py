"""The server itself: sockets, services, health, and the way down.

On SIGTERM: health says NOT_SERVING, new calls get UNAVAILABLE, running ones go on to their end (for at most
`limits.drain_s`), and then the sockets close. A second signal closes them at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import grpc
from google.protobuf.descriptor import ServiceDescriptor

from podium.v1 import catalog_service_pb2, index_service_pb2, rerank_service_pb2, search_service_pb2
from podium_server.access.listening import Exposure
from podium_server.access.tls import Certificates
from podium_server.errors import ConfigInvalid
from podium_server.limits import Limits
from podium_server.transport import calls, health, reflection, sturdy
from podium_server.transport.catalog_service import CatalogService
from podium_server.transport.credentials import server_credentials
from podium_server.transport.door import Door, Guard
from podium_server.transport.guarded import Guarded
from podium_server.transport.health import Health
from podium_server.transport.index_service import IndexService
from podium_server.transport.ports import check_free, shown
from podium_server.transport.rerank_service import RerankService
from podium_server.transport.search_service import SearchService
from podium_server.transport.served import NO_STORE, ONE_OF_SEVERAL, Podium

log = logging.getLogger(__name__)

RERANK = rerank_service_pb2.DESCRIPTOR.services_by_name["RerankService"]
SEARCH = search_service_pb2.DESCRIPTOR.services_by_name["SearchService"]
INDEX = index_service_pb2.DESCRIPTOR.services_by_name["IndexService"]
CATALOG = catalog_service_pb2.DESCRIPTOR.services_by_name["CatalogService"]
SERVICES = (RERANK, SEARCH, INDEX, CATALOG)

# For the last bytes of answers that are on their way when no call runs any more.
_LAST_BYTES_S = 1.0
_LAST_TURN_S = 0.05


class Server:
    """One listening server over one Podium.

    Args:
        podium: what to serve.
        shared: the port is one that several processes listen on, held by whoever started them (`ports.reserved`). A
            store is one process's, so such a server has none, and says so.
        guards: stand around every call, the outermost first.

    """

    def __init__(self, podium: Podium, *, shared: bool = False, guards: Sequence[Guard] = ()) -> None:
        self.podium = podium
        self.shared = shared
        config = podium.config
        if config.access.keys and not guards:
            raise ConfigInvalid("access.keys is set, and nobody stands at the door to ask for them")
        self.certificates = Certificates(config.tls) if config.tls.on else None
        """For all that listens beside gRPC, too; None where nothing is encrypted."""
        self.exposure = Exposure.of(config.tls, config.access, config.server.insecure)
        self.door = Door(guards, mutual=self.certificates is not None and self.certificates.mutual)
        ready = {
            RERANK.full_name: lambda: podium.rerank_ready,
            SEARCH.full_name: lambda: podium.rerank_ready and podium.index_ready,
            INDEX.full_name: lambda: podium.index_ready,
            CATALOG.full_name: lambda: True,
        }
        # What a server does not offer is no reason to send its callers away.
        self.health = Health(ready, optional={SEARCH.full_name, INDEX.full_name} if shared else ())
        no_store = ONE_OF_SEVERAL if shared else NO_STORE
        self._grpc = sturdy.Server(_options(podium.limits, shared=shared))
        servicers: dict[Any, object] = {
            RERANK: RerankService(podium.reranker, podium.limits),
            SEARCH: SearchService(podium.searcher, podium.collections, podium.limits, no_store),
            INDEX: IndexService(
                podium.collections, podium.searcher, podium.limits, podium.config.server.default_encoder, no_store
            ),
            CATALOG: CatalogService(podium),
        }
        self._grpc.offer(
            (
                calls.handler(self.door, service.full_name, self.door.offer(service, servicer))
                for service, servicer in servicers.items()
            ),
            servicers,
        )
        names = [*(service.full_name for service in SERVICES), health.SERVICE.full_name]
        unset = "off" if config.access.keys else "open"
        self._offer(reflection.handlers(names), reflection.services(), config.access.reflection or unset)
        self._offer((health.handler(self.health.servicer),), (health.SERVICE,), config.access.health)
        self._watch: asyncio.Task[None] | None = None

    def _offer(
        self, handlers: Iterable[grpc.GenericRpcHandler], services: Iterable[ServiceDescriptor], access: str
    ) -> None:
        """Offer what is not of our contract: to all (`open`), to whom the guards let in, or not at all (`off`)."""
        if access != "off":
            offered = tuple(Guarded(one, self.door, open_to_all=access == "open") for one in handlers)
            self._grpc.offer(offered, services)

    async def start(self, host: str, port: int) -> str:
        """Listen, and return the address that clients can use.

        Raises:
            ConfigInvalid: nobody can listen there, or ought to (`access.listening`).

        """
        self.exposure.check(host, port)
        if not self.shared:
            check_free(host, port)
        try:
            if self.certificates is None:
                bound = self._grpc.add_insecure_port(f"{shown(host)}:{port}")
            else:
                bound = self._grpc.add_secure_port(f"{shown(host)}:{port}", server_credentials(self.certificates))
        except RuntimeError as error:
            raise ConfigInvalid(f"cannot listen on {shown(host)}:{port}: {error}") from error
        await self.health.look()
        _spare_the_collector()
        await self._grpc.start()
        self._watch = asyncio.create_task(self.health.follow(), name="health")
        return f"{shown(host)}:{bound}"

    async def drain(self, timeout_s: float) -> None:
        """Take no new calls, and wait for the running ones, but not for ever."""
        self.door.close()
        if self._watch is not None:
            self._watch.cancel()
        await self.health.drain()
        if not await self.door.emptied(timeout_s):
            log.warning("calls still run after limits.drain_s and are cancelled", extra={"running": self.door.running})

    async def stop(self) -> None:
        """Close the sockets. Calls that still run are cancelled after a moment."""
        self.door.close()
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
        await self._grpc.stop(None if self.door.running else _LAST_BYTES_S)
        # grpc.aio cancels handlers and does not wait for them; what they spent has yet to be entered. Streams of health
        # are not counted at the door, and a loop that closes under them would print their cancellation.
        await self.door.emptied(_LAST_BYTES_S)
        await asyncio.sleep(_LAST_TURN_S)


class Beside(Protocol):
    """Another port of the same process, over the same door."""

    async def start(self, server: Server) -> str:
        """Listen, and return the address that clients can use."""

    async def stop(self) -> None:
        """Close what was opened. The door is closed already, and calls had their time."""


async def serve(
    podium: Podium,
    host: str,
    port: int,
    ready: Callable[[str], None],
    *,
    shared: bool = False,
    guards: Sequence[Guard] = (),
    beside: Sequence[Beside] = (),
) -> None:
    """Serve until SIGTERM or SIGINT, then drain.

    Args:
        podium: what to serve.
        host: name or address to listen on.
        port: 0 takes any free one.
        ready: is told `host:port` once calls are answered, and then the address of each that listens beside.
        shared: see `Server`.
        guards: likewise.
        beside: what else listens, and drains with the server.

    Raises:
        ConfigInvalid: nobody can listen there.

    """
    server = Server(podium, shared=shared, guards=guards)
    first, second = asyncio.Event(), asyncio.Event()
    with _signals(lambda: second.set() if first.is_set() else first.set()):
        address = await server.start(host, port)
        try:
            addresses = [address, *[await one.start(server) for one in beside]]
            for each in addresses:
                ready(each)
            await first.wait()
            log.info("stopping: running calls end, new ones are refused", extra={"running": server.door.running})
            draining = asyncio.create_task(server.drain(podium.limits.drain_s))
            hurrying = asyncio.create_task(second.wait())
            await asyncio.wait({draining, hurrying}, return_when=asyncio.FIRST_COMPLETED)
            draining.cancel()
            hurrying.cancel()
        finally:
            server.door.close()
            for one in beside:
                await one.stop()
            await server.stop()


@contextlib.contextmanager
def _signals(on_signal: Callable[[], None]) -> Iterator[None]:
    """Call `on_signal` for every SIGTERM and SIGINT within."""
    loop = asyncio.get_running_loop()
    wanted = (signal.SIGTERM, signal.SIGINT)
    for number in wanted:
        loop.add_signal_handler(number, on_signal)
    try:
        yield
    finally:
        for number in wanted:
            loop.remove_signal_handler(number)


def _options(limits: Limits, *, shared: bool) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", limits.message_bytes),
        ("grpc.max_send_message_length", limits.message_bytes),
        # Two servers on one port would each get half of the calls, and neither would say so, unless that is wanted.
        ("grpc.so_reuseport", int(shared)),
        # A client whose machine has vanished is noticed in a minute and a half; its calls stop then.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 30_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # Clients behind proxies that forget idle connections may ping every ten seconds without being sent away.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ]


def _spare_the_collector() -> None:
    """Let Python look for cycles less often: a call makes hundreds of objects, and leaves five, of gRPC's, in a cycle.

    Whatever is there at the start stays for good and need not be looked at again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
