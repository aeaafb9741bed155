import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

import pytest

from podium_server.recall.batches import Acknowledged
from podium_server.recall.collections import Collections
from podium_server.recall.document import Document
from podium_server.recall.limits import RecallLimits
from podium_server.recall.settings import CollectionSettings
from podium_server.recall.vectors import VectorSettings
from tests.recall.toy import ToyEncoder, quantize

SETTINGS = CollectionSettings("toy", overlap_tokens=8)


@pytest.fixture
def encoder() -> ToyEncoder:
    return ToyEncoder()


@pytest.fixture
async def opened(tmp_path: Path, encoder: ToyEncoder) -> AsyncIterator[Callable[..., Collections]]:
    """Opens collections in this test's directory, and closes what the test left open."""
    open_now: list[Collections] = []

    def open_(
        data_dir: Path = tmp_path / "data",
        *,
        limits: RecallLimits | None = None,
        vector_settings: VectorSettings | None = None,
        using: ToyEncoder = encoder,
    ) -> Collections:
        collections = Collections(data_dir, lambda _: using, limits, vector_settings=vector_settings, quantize=quantize)
        open_now.append(collections)
        return collections

    yield open_
    for collections in open_now:
        await collections.aclose()


@pytest.fixture
async def collections(opened: Callable[..., Collections]) -> Collections:
    made: Collections = opened()
    await made.create("books", SETTINGS)
    return made


async def stream(documents: Iterable[Document]) -> AsyncIterator[Document]:
    for document in documents:
        yield document
        await asyncio.sleep(0)


async def put(collections: Collections, documents: Iterable[Document], name: str = "books") -> list[Acknowledged]:
    return [one async for one in collections.upsert(name, stream(documents))]
