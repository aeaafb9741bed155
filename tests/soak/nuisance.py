"""Clients that vanish in the middle of something, and clients that read slowly."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import struct
import sys
import time
from dataclasses import dataclass

import grpc

from podium.v1 import rerank_service_pb2
from tests.soak.account import Outcome, answered
from tests.soak.processes import child
from tests.soak.world import Client, World, check_ranking


@dataclass
class Vanishing(Client):
    """Begins something, and is gone: a call cancelled, a channel closed, a socket reset in mid-request."""

    async def once(self) -> None:
        """Vanish in one way; there is nobody to whom anything could be answered."""
        way = self.rng.choice((self._cancelled, self._closed, self._half_a_body, self._reset))
        await self.entered(10.0, self._gone, way)

    async def _gone(self, way: object) -> Outcome:
        # Whatever a client hears that leaves, it has left.
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.CancelledError, OSError):
            await way()  # type: ignore[operator]
        return Outcome("left", way.__name__.strip("_"))  # type: ignore[attr-defined]

    async def _cancelled(self) -> None:
        async with self.world.stubs() as stubs:
            request = rerank_service_pb2.StreamRerankRequest(request=self.request(12, "judged"))
            call = stubs.rerank.StreamRerank(request, timeout=8, metadata=self.world.metadata(self.tenant))
            await call.read()
            await asyncio.sleep(self.rng.uniform(0, 0.15))
            call.cancel()

    async def _closed(self) -> None:
        async with self.world.stubs() as stubs:
            calls = [
                stubs.rerank.Rerank(self.request(10, "judged"), timeout=8, metadata=self.world.metadata(self.tenant))
                for _ in range(3)
            ]
            await asyncio.sleep(self.rng.uniform(0.02, 0.2))
            await stubs.channel.close()
            await asyncio.gather(*calls, return_exceptions=True)

    async def _half_a_body(self) -> None:
        await self._raw(self.rng.uniform(0.1, 0.9))

    async def _reset(self) -> None:
        await self._raw(1.0)

    async def _raw(self, part: float) -> None:
        """Send a part of a request over HTTP, and break the connection off with a reset."""
        body = {"model": "judged", "query": self.question(), "documents": ["a"] * 9}
        sent = http_request(self.world, self.tenant, body)
        place = self.world.place
        _, writer = await asyncio.open_connection("127.0.0.1", place.rest_port, ssl=place.trust())
        try:
            writer.write(sent[: int(len(sent) * part)])
            await writer.drain()
            await asyncio.sleep(self.rng.uniform(0.02, 0.3))
        finally:
            plain = writer.get_extra_info("socket")
            if plain is not None:  # where the server was quicker
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


def http_request(world: World, tenant: str, body: object, path: str = "/cohere/v2/rerank") -> bytes:
    """Return a request of HTTP as bytes."""
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"authorization: {world.metadata(tenant)[0][1]}\r\ncontent-length: {len(data)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + data


async def killed_client(world: World, tenant: str, after_s: float) -> int:
    """Run a client in a process of its own that holds many calls open, and kill it in their middle."""
    process = await child(
        *(sys.executable, "-m", "tests.soak.victim", world.place.grpc, str(world.place.authority.ca)),
        log=asyncio.subprocess.DEVNULL,
        stdin=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(f"{world.keys[tenant]}\n".encode())
        await process.stdin.drain()
        await asyncio.wait_for(process.stdout.readline(), 20)  # its calls are under way
        await asyncio.sleep(after_s)
    finally:
        process.kill()
        await process.wait()
    return 1


@dataclass
class Slow(Client):
    """Takes its answers so slowly that they pile up at the server."""

    documents: int = 600
    items: int = 24

    async def streaming(self, until: asyncio.Event) -> None:
        """Read a batch of large answers, one in a while. It comes to its end, in its own time."""
        await self.entered(60.0, self._batch, until)

    async def _batch(self, until: asyncio.Event) -> Outcome:
        options = [("grpc.http2.lookahead_bytes", 1), ("grpc.http2.bdp_probe", 0)]
        credentials = grpc.ssl_channel_credentials(self.world.place.ca)
        options += [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.secure_channel(self.world.place.grpc, credentials, options=options) as channel:
            batch = channel.stream_stream(
                "/podium.v1.RerankService/BatchRerank",
                request_serializer=rerank_service_pb2.BatchRerankRequest.SerializeToString,
                response_deserializer=rerank_service_pb2.BatchRerankResponse.FromString,
            )(timeout=60, metadata=self.world.metadata(self.tenant))

            async def send() -> None:
                for i in range(self.items):
                    request = self.request(self.documents, "recall")
                    await batch.write(rerank_service_pb2.BatchRerankRequest(item_id=str(i), request=request))
                await batch.done_writing()

            sending = asyncio.create_task(send())
            seen = 0
            try:
                while (answer := await batch.read()) is not grpc.aio.EOF:
                    seen += 1
                    if answer.WhichOneof("outcome") == "error":
                        refusal = self.world.account.of_status(answer.error)
                        if refusal.kind == "broken":
                            return refusal
                    else:
                        check_ranking(answer.response.ranking, self.documents)
                        self.bill(answer.response.ledger)
                    with contextlib.suppress(TimeoutError):  # slow, until the fault is over
                        await asyncio.wait_for(until.wait(), 0.4)
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
            if await batch.code() is not grpc.StatusCode.OK:
                raise grpc.aio.AioRpcError(
                    await batch.code(), await batch.initial_metadata(), await batch.trailing_metadata(),
                    await batch.details(),
                )  # fmt: skip
            assert seen == self.items, f"{seen} of {self.items} items were answered, and the call ended well"
            return answered("slow batch")

    async def trickling(self, until: asyncio.Event) -> None:
        """Read a large answer of HTTP a few bytes at a time, and leave it at that when the fault is over."""
        await self.entered(60.0, self._trickle, until)

    async def _trickle(self, until: asyncio.Event) -> Outcome:
        documents = [{"id": f"d{i}", "text": self.text(3)} for i in range(4_000)]
        body = {"pipeline": "recall", "query": self.question(), "documents": documents}
        sent = http_request(self.world, self.tenant, body, "/podium/v1/rerank")
        took = await asyncio.to_thread(_trickled, self.world.place.rest_port, self.world.place.trust(), sent, until)
        assert took.startswith(b"HTTP/1.1 200 "), took[:100]
        return Outcome("left", "trickle")


def _trickled(port: int, trust: ssl.SSLContext, sent: bytes, until: asyncio.Event) -> bytes:
    with socket.socket() as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.settimeout(5.0)
        plain.connect(("127.0.0.1", port))
        with trust.wrap_socket(plain, server_hostname="localhost") as secure:
            secure.sendall(sent)
            took = b""
            while not until.is_set():
                more = secure.recv(256)
                if not more:
                    break
                took = (took + more)[:200]
                time.sleep(0.05)  # it is a thread of its own
            return took
