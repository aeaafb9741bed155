"""What the disk may do to us, and who else may."""

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from podium_server.errors import AlreadyExists, FailedPrecondition, InvalidRequest, NotFound, StoreError, StoreFull
from podium_server.recall.collections import Collections
from podium_server.recall.document import Document
from podium_server.recall.limits import RecallLimits
from podium_server.recall.retriever import RecallQuery
from podium_server.recall.settings import CollectionSettings
from podium_server.recall.store.reader import Reader
from podium_server.recall.store.rows import CollectionRow, LoadedRows
from podium_server.recall.store.store import FILE_NAME, Store
from podium_server.recall.vectors import VectorSettings
from tests.recall.conftest import SETTINGS, put
from tests.recall.toy import ToyEncoder

Opener = Callable[..., Collections]
SMALL = VectorSettings(plain_rows=8, exact_up_to=1_000)


def documents(n: int, start: int = 0) -> list[Document]:
    return [Document(f"d{i}", f"document number {i} of many") for i in range(start, start + n)]


async def found(collections: Collections, text: str, k: int = 10, **weights: float) -> list[str]:
    recalled = await collections.retrieve(RecallQuery("books", text, k, weights or {"bm25": 1.0, "vector": 1.0}))
    return [hit.id for hit in recalled.hits]


async def test_a_second_server_is_refused_and_told_who_holds_it(collections: Collections, opened: Opener) -> None:
    with pytest.raises(StoreError, match=f"in use by process {os.getpid()}; stop that server"):
        opened()


async def test_the_store_is_free_again_after_close(tmp_path: Path, opened: Opener) -> None:
    first = opened(tmp_path / "other")
    await first.aclose()
    second = opened(tmp_path / "other")
    assert await second.list() == ()


async def test_another_version_is_refused_with_what_to_do(tmp_path: Path, opened: Opener) -> None:
    await opened(tmp_path / "s").aclose()
    with sqlite3.connect(tmp_path / "s" / FILE_NAME) as database:
        database.execute("PRAGMA user_version = 7")
    with pytest.raises(StoreError, match=r"store version 7.* reads version 1.*Run the Podium that wrote it"):
        opened(tmp_path / "s")


async def test_a_database_of_others_is_left_alone(tmp_path: Path, opened: Opener) -> None:
    (tmp_path / "s").mkdir()
    with sqlite3.connect(tmp_path / "s" / FILE_NAME) as database:
        database.execute("CREATE TABLE theirs (x)")
    with pytest.raises(StoreError, match="a database of another program"):
        opened(tmp_path / "s")


async def test_a_damaged_store_is_refused(tmp_path: Path, opened: Opener) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / FILE_NAME).write_bytes(b"no database at all" * 1000)
    with pytest.raises(StoreError, match=r"is damaged.*backup"):
        opened(tmp_path / "s")


async def test_a_data_directory_that_is_a_file(tmp_path: Path, opened: Opener) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be used"):
        opened(tmp_path / "file")


async def test_a_full_disk_loses_nothing_that_was_acknowledged(opened: Opener, tmp_path: Path) -> None:
    limits = RecallLimits(store_bytes=400 * 1024, batch_documents=8)
    collections = opened(limits=limits)
    await collections.create("books", SETTINGS)
    acknowledged: list[str] = []

    async def many() -> None:
        async def stream() -> AsyncIterator[Document]:
            for i in range(10_000):
                yield Document(f"d{i}", f"document number {i} " + "padding " * 40)

        async for one in collections.upsert("books", stream()):
            acknowledged.extend(one.ids)

    with pytest.raises(StoreFull, match="Nothing that was acknowledged is lost"):
        await many()
    assert acknowledged
    kept, missing = await collections.get_documents("books", acknowledged)
    assert not missing
    assert len(kept) == len(acknowledged)
    assert (await found(collections, "number 3", bm25=1.0))[0] == "d3"
    # Room is made by deleting, and used again.
    await collections.delete_documents("books", acknowledged[:20])
    await put(collections, [Document("after", "there is room again")])
    assert (await collections.get_documents("books", ["after"]))[1] == ()
    await collections.aclose()
    again = opened(limits=limits)
    assert (await again.get("books")).documents == len(acknowledged) - 20 + 1
    assert set(await found(again, "document", 500, vector=1.0)) == {*acknowledged[20:], "after"}


async def test_a_batch_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    store = Store.open(tmp_path, RecallLimits())
    row = store.create("books", SETTINGS, revision="1", dim=2)
    with pytest.raises(AttributeError):
        store.write(row.id, [object()], stream=b"")  # type: ignore[list-item]
    with store.reading() as reader:
        assert reader.collection("books").generation == 0
    store.close()


# --- the index files --------------------------------------------------------------------------------------------


async def indexed(opened: Opener, n: int = 40) -> Path:
    """Fill a collection, close it, and return its index file."""
    collections = opened(vector_settings=SMALL)
    await collections.create("books", SETTINGS)
    await put(collections, documents(n))
    collections.engine.settle("books")
    await collections.aclose()
    (file,) = (collections.engine._shards._indexes).glob("*.faiss")
    return file


async def test_an_index_file_is_used_again(opened: Opener) -> None:
    await indexed(opened)
    collections = opened(vector_settings=SMALL)
    stats = await collections.stats("books")
    assert (stats.counts.files_loaded, stats.counts.files_refused, stats.indexed) == (1, 0, 40)
    assert (await found(collections, "document number 7 of many", vector=1.0))[0] == "d7"


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "foreign", "header"])
async def test_a_damaged_index_file_is_made_again(
    opened: Opener, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = await indexed(opened)
    content = bytearray(file.read_bytes())
    match damage:
        case "flip":
            content[-100] ^= 1
        case "cut":
            del content[len(content) // 2 :]
        case "empty":
            content.clear()
        case "foreign":
            content[:] = b"IHNs" + bytes(1000)
        case "header":
            content[60] ^= 0xFF
    file.write_bytes(content)
    collections = opened(vector_settings=SMALL)
    assert (await found(collections, "document number 7 of many", vector=1.0))[0] == "d7"
    collections.engine.settle("books")
    stats = await collections.stats("books")
    assert (stats.counts.files_refused, stats.counts.files_loaded, stats.indexed) == (1, 0, 40)
    assert "the index is made again" in caplog.text
    assert len(await found(collections, "document", 40, vector=1.0)) == 40


async def test_an_index_file_of_another_time_is_not_trusted(opened: Opener) -> None:
    file = await indexed(opened)
    old = file.read_bytes()
    collections = opened(vector_settings=SMALL)
    await put(collections, documents(60, start=100))
    collections.engine.settle("books")
    await collections.aclose()
    assert file.read_bytes() != old
    file.write_bytes(old)
    collections = opened(vector_settings=SMALL)
    assert (await collections.stats("books")).counts.files_refused == 1
    assert len(await found(collections, "document", 100, vector=1.0)) == 100


async def test_an_index_file_follows_what_was_written_after_it(opened: Opener, tmp_path: Path) -> None:
    """As after kill -9: the file is older than the store, and the store knows it."""
    file = await indexed(opened)
    content = file.read_bytes()
    wide = VectorSettings(plain_rows=500, exact_up_to=1_000)
    collections = opened(vector_settings=wide)
    with collections.engine._store.reading() as reader:
        token = reader.collection("books").index_token
    assert token is not None
    await collections.delete_documents("books", ["d3", "d4"])
    await put(collections, [Document("d5", "entirely other words"), Document("new", "document number new of many")])
    collections.engine._store.mark_index(1, token)
    await collections.aclose()
    file.write_bytes(content)
    with sqlite3.connect(tmp_path / "data" / FILE_NAME) as database:
        database.execute("UPDATE collections SET index_token = ?", (token,))
    collections = opened(vector_settings=SMALL)
    stats = await collections.stats("books")
    assert (stats.counts.files_loaded, stats.counts.files_refused, stats.dead) == (1, 0, 3)
    everything = await found(collections, "document", 100, vector=1.0)
    assert set(everything) == {f"d{i}" for i in range(40)} - {"d3", "d4"} | {"new"}
    assert (await found(collections, "document number new of many", vector=1.0))[0] == "new"


# --- collections ------------------------------------------------------------------------------------------------


async def test_a_collection_that_is_deleted_while_it_is_loaded_is_not_kept(
    opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = opened()
    await first.create("books", SETTINGS)
    await put(first, documents(3))
    await first.aclose()
    collections = opened()
    engine = collections.engine
    load = Reader.load

    def load_beside_a_delete(reader: Reader, row: CollectionRow) -> LoadedRows:
        deleting = threading.Thread(target=engine.delete, args=(row.name,))
        loaded = load(reader, row)
        deleting.start()
        deleting.join()
        return loaded

    monkeypatch.setattr(Reader, "load", load_beside_a_delete)
    with pytest.raises(NotFound):
        await found(collections, "text")
    assert not engine._shards._loaded
    assert not engine._shards._loading


async def test_collections_come_and_go(collections: Collections) -> None:
    again = await collections.create("books", SETTINGS)
    assert [row.name for row in await collections.list()] == ["books"]
    with pytest.raises(AlreadyExists, match=r"exists with .* delete it first"):
        await collections.create("books", CollectionSettings("toy", overlap_tokens=4))
    await put(collections, documents(20))
    await collections.delete("books")
    with pytest.raises(NotFound, match="no collection is named 'books'; there are none"):
        await collections.get("books")
    anew = await collections.create("books", SETTINGS)
    assert anew.id != again.id
    assert await found(collections, "document") == []
    assert collections._purging is not None
    await collections._purging
    with collections.engine._store.reading() as reader:
        left = [
            reader.connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("documents", "contents", "chunks", "chunk_index", "chunk_tokens")
        ]
    assert left == [0, 0, 0, 0, 0]


@pytest.mark.parametrize("name", ["", "-a", "A", "a b", "a/b", "a" * 64, "ä", "a\n"])
async def test_names_that_are_none(collections: Collections, name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"collection\.name"):
        await collections.create(name, SETTINGS)


async def test_another_encoder_is_refused_with_what_to_do(
    collections: Collections, opened: Opener, encoder: ToyEncoder
) -> None:
    await put(collections, documents(3))
    encoder.revision = "2"
    for attempt in (found(collections, "document"), put(collections, documents(1))):
        with pytest.raises(FailedPrecondition, match=r"revision '1'.*now is '2'.*index it anew"):
            await attempt
    # What needs no encoder goes on.
    assert await found(collections, "document number 2", bm25=1.0)
    assert (await collections.get_documents("books", ["d1"]))[0][0].text == "document number 1 of many"
    assert (await collections.delete_documents("books", ["d1"])) == (1, ())


async def test_settings_out_of_bounds(collections: Collections, encoder: ToyEncoder) -> None:
    for settings in (
        CollectionSettings("toy", chunk_tokens=65),
        CollectionSettings("toy", chunk_tokens=15),
        CollectionSettings("toy", chunk_tokens=20, overlap_tokens=10),
    ):
        with pytest.raises(InvalidRequest, match=r"collection\.chunking"):
            await collections.create("other", settings)
    encoder.has_token_vectors = False
    with pytest.raises(FailedPrecondition, match="has no token vectors"):
        await collections.create("other", CollectionSettings("toy", overlap_tokens=8, token_vectors=True))


# --- the process is lost ----------------------------------------------------------------------------------------

WRITER = """
import asyncio, sys
from pathlib import Path
from podium_server.recall.collections import Collections
from podium_server.recall.document import Document
from podium_server.recall.vectors import VectorSettings
from tests.recall.conftest import SETTINGS
from tests.recall.toy import ToyEncoder

async def main(data_dir, start):
    collections = Collections(
        Path(data_dir), lambda _: ToyEncoder(), vector_settings=VectorSettings(plain_rows=64, exact_up_to=1000)
    )
    await collections.create("books", SETTINGS)
    async def stream():
        for i in range(start, start + 1_000_000):
            yield Document(f"k{i}", f"durable record {i}")
            await asyncio.sleep(0)
    async for one in collections.upsert("books", stream()):
        print(" ".join(one.ids), flush=True)

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


async def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path, opened: Opener) -> None:
    acknowledged: list[str] = []
    chance = random.Random(11)
    data_dir = tmp_path / "killed"
    for attempt in range(3):
        process = subprocess.Popen(  # noqa: ASYNC220 – the test has nothing else to do meanwhile
            [sys.executable, "-c", WRITER, str(data_dir), str(attempt * 1_000_000)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert process.stdout is not None
        batches = chance.randint(1, 12)
        for line in process.stdout:
            acknowledged.extend(line.split())
            batches -= 1
            if not batches:
                break
        # Anywhere between two batches, within one, or while the index is saved.
        await asyncio.sleep(chance.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        # What was printed before the end counts as acknowledged too; a line that was cut off does not.
        rest = process.stdout.read()
        acknowledged.extend(rest[: rest.rfind("\n") + 1].split())
        process.wait()
        collections = opened(data_dir)
        missing: list[str] = []
        for start in range(0, len(acknowledged), 1000):
            missing.extend((await collections.get_documents("books", acknowledged[start : start + 1000]))[1])
        assert missing == []
        for key in chance.sample(acknowledged, 20):
            assert await found(collections, f"durable record {key[1:]}", 1, bm25=1.0) == [key]
            assert await found(collections, f"durable record {key[1:]}", 1, vector=1.0) == [key]
        row = await collections.get("books")
        stats = await collections.stats("books")
        assert row.documents == row.chunks == stats.documents >= len(acknowledged)
        await collections.aclose()
    assert len(acknowledged) == len(set(acknowledged))
