"""Writers, which remember what was acknowledged, and the reading back of all of it.

A document that an unanswered call may or may not have written is in doubt until it is read; an acknowledgement ends
the doubt. What is read has to be what was acknowledged last, or one of those in doubt since.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from podium.v1 import document_pb2, index_service_pb2
from tests.soak.account import GRACE_S, Outcome, answered, broken
from tests.soak.rest_clients import _json
from tests.soak.world import Client, Stubs, World

COLLECTION = "notes"
IDS = 120
"""Of each writer: collections are written again and again, and do not grow."""

SETTLED_S = 1.0
"""After a writer was told DEADLINE_EXCEEDED, until a commit that was under way has ended."""

Version = int | None
"""Of a document; None is a document that is not there."""


@dataclass(slots=True)
class Known:
    """What one writer knows of its documents."""

    acknowledged: dict[str, Version] = field(default_factory=dict)
    doubts: dict[str, set[Version]] = field(default_factory=dict)
    upserts: int = 0
    deletes: int = 0

    def allowed(self, name: str) -> set[Version]:
        return {self.acknowledged.get(name), *self.doubts.get(name, ())}

    def doubt(self, versions: dict[str, Version]) -> None:
        for name, version in versions.items():
            self.doubts.setdefault(name, set()).add(version)

    def acknowledge(self, versions: dict[str, Version]) -> None:
        for name, version in versions.items():
            self.acknowledged[name] = version
            self.doubts.pop(name, None)
            if version is None:
                self.deletes += 1
            else:
                self.upserts += 1


@dataclass
class Writer(Client):
    """Upserts and deletes documents of its own in its tenant's collection, over gRPC or REST."""

    via: str = "grpc"
    known: Known = field(default_factory=Known)
    version: int = 0
    busy: bool = False

    async def run(self) -> None:
        async with self.world.stubs() as stubs, self.world.http() as http:
            while not self.world.stop.is_set():
                await self.world.write.wait()
                names = [f"{self.name}-{i}" for i in self.rng.sample(range(IDS), self.rng.randint(1, 8))]
                removes = self.rng.random() < 0.25
                self.version += 1
                versions: dict[str, Version] = dict.fromkeys(names, None if removes else self.version)
                # It may land however the call ends, and from this moment on.
                self.known.doubt(versions)
                change = self._delete if removes else self._upsert
                self.busy = True
                outcome = await self.entered(5.0, change, stubs, http, names)
                if outcome.kind == "answered":
                    self.known.acknowledge(versions)
                    if self.rng.random() < 0.2:
                        await self.entered(5.0, self._read_own, stubs, names)
                self.busy = False
                await self.pause()

    async def _upsert(self, stubs: Stubs, http: Any, names: Sequence[str]) -> Outcome:
        texts = [f"version {self.version} of {name}: {self.text()}" for name in names]
        if self.via == "rest":
            documents = [{"id": name, "text": text} for name, text in zip(names, texts, strict=True)]
            return await self._post(http, "upsertDocuments", [{"collection": COLLECTION, "documents": documents}])
        sent = [document_pb2.Document(id=name, text=text) for name, text in zip(names, texts, strict=True)]

        async def messages() -> AsyncIterator[index_service_pb2.UpsertDocumentsRequest]:
            half = len(sent) // 2
            yield index_service_pb2.UpsertDocumentsRequest(collection=COLLECTION, documents=sent[:half])
            yield index_service_pb2.UpsertDocumentsRequest(documents=sent[half:])

        answer = await stubs.index.UpsertDocuments(messages(), timeout=5.0, metadata=self.world.metadata(self.tenant))
        self.bill(answer.ledger, after=True)
        if answer.refused:
            return self.world.account.of_status(answer.errors[0].error)
        return answered("upsert")

    async def _delete(self, stubs: Stubs, http: Any, names: Sequence[str]) -> Outcome:
        if self.via == "rest":
            return await self._post(http, "deleteDocuments", {"collection": COLLECTION, "ids": list(names)})
        request = index_service_pb2.DeleteDocumentsRequest(collection=COLLECTION, ids=names)
        await stubs.index.DeleteDocuments(request, timeout=5.0, metadata=self.world.metadata(self.tenant))
        return answered("delete")

    async def _post(self, http: Any, method: str, body: Any) -> Outcome:
        headers = dict(self.world.metadata(self.tenant)) | {"x-podium-timeout-ms": "5000"}
        answer = await http.post(f"/podium/v1/{method}", json=body, headers=headers, timeout=5.0 + GRACE_S)
        said = _json(answer)
        if answer.status_code != 200:
            return self.world.account.of_http(answer.status_code, said, answer.text[:500])
        if "ledger" in said:
            total = said["ledger"]["total"]
            tokens = int(total.get("promptTokens", 0)) + int(total.get("outputTokens", 0))
            cost = int(total.get("costNanoUsd", 0))
            self.world.account.bill(self.tenant).enter(cost, tokens, time.monotonic(), after=True)
        if int(said.get("refused", 0)):
            return broken("REFUSED", str(said["errors"])[:500])
        return answered("upsert" if method == "upsertDocuments" else "delete")

    async def _read_own(self, stubs: Stubs, names: Iterable[str]) -> Outcome:
        """Read what was just acknowledged."""
        found = await self.read(stubs, names)
        wrong = [f"{name}: {found[name]}, not {self.known.acknowledged[name]}" for name in names
                 if found[name] not in self.known.allowed(name)]  # fmt: skip
        assert not wrong, f"acknowledged, and not there: {'; '.join(wrong[:3])}"
        return answered("read back")

    async def read(self, stubs: Stubs, names: Iterable[str]) -> dict[str, Version]:
        """Return the versions that the store has."""
        wanted = list(names)
        request = index_service_pb2.GetDocumentsRequest(collection=COLLECTION, ids=wanted)
        answer = await stubs.index.GetDocuments(request, timeout=10.0, metadata=self.world.metadata(self.tenant))
        found: dict[str, Version] = dict.fromkeys(wanted)
        for document in answer.documents:
            version, _, rest = document.text.removeprefix("version ").partition(" of ")
            assert rest.startswith(f"{document.id}: "), f"{document.id} has the text {document.text!r}"
            found[document.id] = int(version)
        assert sorted([*(each.id for each in answer.documents), *answer.missing_ids]) == sorted(wanted)
        return found


@dataclass(slots=True)
class ReadBack:
    """What one reading of everything has found."""

    when: str
    documents: int = 0
    in_doubt: int = 0
    lost: list[str] = field(default_factory=list)


async def read_back(world: World, writers: Sequence[Writer], when: str) -> ReadBack:
    """Let the writers rest, and read all that they were told is kept."""
    result = ReadBack(when)
    world.write.clear()
    try:
        while any(writer.busy for writer in writers):  # noqa: ASYNC110  # bounded by their deadlines
            await asyncio.sleep(0.05)
        await asyncio.sleep(SETTLED_S)
        async with world.stubs() as stubs:
            for writer in writers:
                names = [f"{writer.name}-{i}" for i in range(IDS)]
                found = await _patiently(writer, stubs, names)
                for name, version in found.items():
                    result.documents += 1
                    result.in_doubt += name in writer.known.doubts
                    if version not in writer.known.allowed(name):
                        result.lost.append(f"{name}: {version}, not one of {writer.known.allowed(name)}")
                    writer.known.acknowledged[name] = version
                    writer.known.doubts.pop(name, None)
    finally:
        world.write.set()
    return result


async def _patiently(writer: Writer, stubs: Stubs, names: Sequence[str]) -> dict[str, Version]:
    """Read as often as is necessary: a channel needs a moment to find a new server."""
    for _ in range(20):
        try:
            return await writer.read(stubs, names)
        except grpc.aio.AioRpcError:
            await asyncio.sleep(0.5)
    return await writer.read(stubs, names)
