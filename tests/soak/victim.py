"""A client that holds many calls open until it is killed: `python -m tests.soak.victim ADDRESS CA`.

It reads its key as a line of the standard input.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc

from podium.v1 import document_pb2, index_service_pb2, rerank_service_pb2
from tests.soak.world import CHANNEL, Stubs


async def main(address: str, ca: bytes) -> None:
    metadata = (("authorization", f"Bearer {sys.stdin.readline().strip()}"),)
    documents = [document_pb2.Document(id=f"d{i}", text=f"text {i}") for i in range(12)]
    asked = rerank_service_pb2.RerankRequest(query="of a victim", documents=documents, pipeline="judged")

    async def half_a_stream() -> AsyncIterator[index_service_pb2.UpsertDocumentsRequest]:
        sent = [document_pb2.Document(id=f"victim-{i}", text=f"version 1 of victim-{i}: x") for i in range(4)]
        yield index_service_pb2.UpsertDocumentsRequest(collection="notes", documents=sent)
        await asyncio.Event().wait()

    credentials = grpc.ssl_channel_credentials(ca)
    async with grpc.aio.secure_channel(address, credentials, options=CHANNEL) as channel:
        stubs = Stubs(channel)
        streamed = rerank_service_pb2.StreamRerankRequest(request=asked)
        streams = [stubs.rerank.StreamRerank(streamed, timeout=30, metadata=metadata) for _ in range(4)]
        batch = stubs.rerank.BatchRerank(timeout=30, metadata=metadata)
        for i in range(4):
            await batch.write(rerank_service_pb2.BatchRerankRequest(item_id=str(i), request=asked))
        upsert = stubs.index.UpsertDocuments(half_a_stream(), timeout=30, metadata=metadata)
        unary = stubs.rerank.Rerank(asked, timeout=30, metadata=metadata)
        await asyncio.sleep(0.05)
        print("under way", flush=True)
        await asyncio.gather(*(each.code() for each in (*streams, batch, upsert, unary)))
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]).read_bytes()))
