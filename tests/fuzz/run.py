"""The phases of a run: each makes inputs of one kind by their numbers, sends them, and judges every answer."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from random import Random
from typing import Any

from podium.v1 import document_pb2, index_service_pb2
from podium_server.transport.door import Method
from tests.fuzz import laws, messages, metadata, protobufs, requests
from tests.fuzz.doorways import ADMINISTRATION, BESIDE, BY_NAME, CONTRACT, Doorway, Wire
from tests.fuzz.findings import Findings
from tests.fuzz.http import Connection, Unreadable, converse
from tests.fuzz.laws import Secrets, Seen
from tests.fuzz.metadata import MINE, Pairs
from tests.fuzz.page import Page
from tests.fuzz.victim import RIVAL_COLLECTION, RIVAL_ID, RIVAL_TEXT, Keys, Victim

IN_FLIGHT = 48
_TIMEOUT_S = 8.0
_DEAD_S = 30.0
_TIDY_EVERY = 10_000
"""Inputs, after which collections that inputs have made are removed."""
_PLANTED = 24


@dataclass
class Tally:
    """What one phase did.

    Args:
        kind: of its inputs.
        codes: answers, by code.

    """

    kind: str
    codes: Counter[str] = field(default_factory=Counter)
    inputs: int = 0
    seconds: float = 0.0
    findings: int = 0


@dataclass(frozen=True, slots=True)
class Input:
    """A call."""

    method: Method
    messages: tuple[bytes, ...]
    metadata: Pairs = MINE
    timeout_s: float = _TIMEOUT_S


async def pump(count: int, work: Callable[[int], Awaitable[None]], *, in_flight: int = IN_FLIGHT) -> None:
    """Do the work of every number, so many at the same time."""
    numbers = iter(range(count))

    async def some() -> None:
        for number in numbers:
            await work(number)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(in_flight, count)):
            group.create_task(some())


# --- inputs ---------------------------------------------------------------------------------------------------------

_WEIGHTS = [messages.WEIGHTS.get(method.descriptor.name, 3) for method in CONTRACT]


def protobuf(kind: str, seed: int, number: int) -> Input:
    """Return a call of the contract with damaged messages."""
    chance = Random(f"{kind}/{seed}/{number}")
    method = chance.choices(CONTRACT, _WEIGHTS)[0]
    return Input(method, _damaged(method, chance), _keys(chance))


def beside(kind: str, seed: int, number: int) -> Input:
    """Return a damaged call of health, reflection, or the admin service."""
    chance = Random(f"{kind}/{seed}/{number}")
    method = chance.choice(ADMINISTRATION if kind == "admin" else BESIDE)
    return Input(method, _damaged(method, chance), () if kind == "admin" else _keys(chance), 20.0)


def _damaged(method: Method, chance: Random) -> tuple[bytes, ...]:
    good = messages.good(method)
    many = chance.choice((1, 1, 2, 5)) if method.descriptor.client_streaming else 1
    return tuple(protobufs.damaged(chance.choice(good), chance, chance.choice(good)) for _ in range(many))


def _keys(chance: Random) -> Pairs:
    return chance.choice(((), (("authorization", "Bearer {held}"),))) if chance.random() < 0.03 else MINE


def hostile(kind: str, seed: int, number: int) -> Input:
    """Return a call with a good message, maybe about what is the rival's, and hostile metadata."""
    chance = Random(f"{kind}/{seed}/{number}")
    method = chance.choices(CONTRACT, _WEIGHTS)[0]
    data = chance.choice(messages.good(method))
    # Not by making them: a collection of that name would be the caller's own.
    if chance.random() < 0.2 and method.descriptor.name != "CreateCollection":
        data = _about_the_rival(data, chance)
    return Input(method, (data,), metadata.hostile(chance), chance.choice(metadata.TIMEOUTS_S))


def _about_the_rival(data: bytes, chance: Random) -> bytes:
    """Return a message whose names are the rival's."""
    fields = protobufs.read(data) or ()
    name = chance.choice((RIVAL_COLLECTION, f"rival.{RIVAL_COLLECTION}", RIVAL_ID)).encode()
    known = {b"books", b"scratch", b"chunked", b"plain", b"b0"}

    def renamed(field: protobufs.Field) -> protobufs.Field:
        if field.inner is not None:
            return protobufs.Field(field.number, field.kind, inner=tuple(map(renamed, field.inner)))
        return protobufs.Field(field.number, field.kind, name if field.value in known else field.value)

    return protobufs.written([renamed(field) for field in fields])


# --- phases of gRPC -------------------------------------------------------------------------------------------------


async def calls(
    kind: str,
    make: Callable[[str, int, int], Input],
    numbers: range,
    seed: int,
    doorway: Doorway,
    keys: Keys,
    secrets: Secrets,
    findings: Findings,
    *,
    in_flight: int = IN_FLIGHT,
    alive: Callable[[], bool] = lambda: True,
) -> Tally:
    """Send calls made by `make`, and return what came of them."""
    tally, began = Tally(kind), time.monotonic()
    before = findings.count

    async def send(one: Input) -> tuple[Seen, str]:
        beside = tuple((key, keys.said(value) if isinstance(value, str) else value) for key, value in one.metadata)
        seen = await doorway.call(one.method, one.messages, beside, one.timeout_s)
        said = b"\n".join(part if isinstance(part, bytes) else part.encode() for pair in beside for part in pair)
        if seen.code == "UNAVAILABLE_TO_CLIENT":
            return seen, secrets.leak(seen.everything, b"".join(one.messages) + said)
        return seen, laws.of_call(one.method, one.messages, seen, secrets, said=said)

    async def work(place: int) -> None:
        number = numbers[place]
        one = make(kind, seed, number)
        seen, wrong = await send(one)
        tally.inputs += 1
        tally.codes[seen.code] += 1
        if not alive():
            raise RuntimeError(f"the server died at {kind} {seed} {number} ({one.method.name}) or one beside it")
        if wrong:

            async def breaks(data: bytes) -> bool:
                return bool((await send(Input(one.method, (data,), one.metadata, one.timeout_s)))[1])

            data = one.messages[0] if len(one.messages) == 1 else b"".join(one.messages)
            shrinks = breaks if len(one.messages) == 1 else None
            await findings.add(kind, seed, number, one.method.name, wrong, data, shrinks)
        if place % _TIDY_EVERY == _TIDY_EVERY - 1:
            await tidy(doorway, keys)

    await pump(len(numbers), work, in_flight=in_flight)
    tally.seconds, tally.findings = time.monotonic() - began, findings.count - before
    return tally


# --- phases of REST -------------------------------------------------------------------------------------------------


async def rest_bodies(numbers: range, seed: int, victim: Victim, page: Page, findings: Findings) -> Tally:
    """Send requests in good form with damaged bodies, over connections that stay."""
    tally, began, before = Tally("rest bodies"), time.monotonic(), findings.count
    idle: list[Connection] = []

    async def send(verb: str, path: str, request: bytes) -> tuple[str, str]:
        connection = idle.pop() if idle else Connection(victim.url)
        try:
            answer = await connection.ask(request)
        except Unreadable as error:
            return "NONE", str(error)
        finally:
            idle.append(connection)
        return str(answer.status), page.wrong(answer, request, victim.secrets, verb, path)

    async def work(place: int) -> None:
        number = numbers[place]
        chance = Random(f"rest bodies/{seed}/{number}")
        verb, path, template = requests.with_body(chance, page.operations)
        request = _with_keys(template, victim.keys)
        code, wrong = await send(verb, path, request)
        tally.inputs += 1
        tally.codes[code] += 1
        if wrong:
            head, _, body = request.partition(b"\r\n\r\n")
            lines = [line for line in head.split(b"\r\n") if not line.startswith(b"content-length")]

            async def breaks(data: bytes) -> bool:
                length = b"content-length: %d" % len(data)
                return bool((await send(verb, path, b"\r\n".join([*lines, length]) + b"\r\n\r\n" + data))[1])

            await findings.add("rest bodies", seed, number, f"{verb} {path}", wrong, body, breaks)

    await pump(len(numbers), work)
    for connection in idle:
        connection.close()
    tally.seconds, tally.findings = time.monotonic() - began, findings.count - before
    return tally


async def rest_raw(numbers: range, seed: int, victim: Victim, page: Page, findings: Findings) -> Tally:
    """Send what is no good HTTP, each over a connection of its own."""
    tally, began, before = Tally("rest raw"), time.monotonic(), findings.count

    async def send(sent: bytes) -> tuple[list[str], str]:
        try:
            answers, came = await converse(victim.url, sent)
        except Unreadable as error:
            return ["NONE"], str(error)
        except OSError as error:
            return ["NONE"], f"cannot connect: {error}"
        wrong = victim.secrets.leak(came, sent) or next(
            filter(None, (page.wrong(answer, sent, victim.secrets) for answer in answers)), ""
        )
        return [str(answer.status) for answer in answers] or ["closed"], wrong

    async def work(place: int) -> None:
        number = numbers[place]
        chance = Random(f"rest raw/{seed}/{number}")
        sent = _with_keys(requests.formless(chance, page.operations), victim.keys)
        codes, wrong = await send(sent)
        tally.inputs += 1
        tally.codes.update(codes[:1])
        if wrong:

            async def breaks(data: bytes) -> bool:
                return bool((await send(data))[1])

            await findings.add("rest raw", seed, number, "", wrong, sent, breaks)

    await pump(len(numbers), work)
    tally.seconds, tally.findings = time.monotonic() - began, findings.count - before
    return tally


def _with_keys(template: bytes, keys: Keys) -> bytes:
    """Return a request with the keys in its head, and its length as it was said."""
    head, gap, body = template.partition(b"\r\n\r\n")
    return keys.said(head.decode("latin-1")).encode("latin-1") + gap + body


async def page_of(victim: Victim) -> Page:
    """Return what the server says of itself."""
    import json

    connection = Connection(victim.url)
    answer = await connection.ask(requests.written("GET", "/openapi.json", (), b""))
    connection.close()
    return Page(json.loads(answer.body))


# --- what is there, and what is not let grow ----------------------------------------------------------------------


async def plant(doorway: Doorway, keys: Keys) -> None:
    """Make acme's `books`, and the rival's vault, whose every part has a word that nobody else may see.

    Raises:
        RuntimeError: the server does not take them.

    """
    collection = document_pb2.Document
    books = [collection(id=f"b{i}", text=f"book number {i} about rivers and cities") for i in range(_PLANTED)]
    for i, book in enumerate(books):
        book.metadata.update({"kind": "ab"[i % 2], "year": 1980 + i})
    vault = [collection(id=f"{RIVAL_ID}{i}", text=f"{RIVAL_TEXT} number {i} about rivers") for i in range(_PLANTED)]
    for key, name, documents in (("{acme}", "books", books), ("{rival}", RIVAL_COLLECTION, vault)):
        made = index_service_pb2.Collection(name=name, encoder="minilm")
        await _ask(doorway, keys, key, "CreateCollection", index_service_pb2.CreateCollectionRequest(collection=made))
        upsert = index_service_pb2.UpsertDocumentsRequest(collection=name, documents=documents)
        await _ask(doorway, keys, key, "UpsertDocuments", upsert)


async def tidy(doorway: Doorway, keys: Keys) -> None:
    """Remove acme's collections but `books`, and put that back where an input has removed it."""
    wire = index_service_pb2
    data = await _ask(doorway, keys, "{acme}", "ListCollections", wire.ListCollectionsRequest(page_size=1000))
    names = [each.name for each in wire.ListCollectionsResponse.FromString(data).collections]
    for name in islice((name for name in names if name != "books"), 200):
        await _ask(doorway, keys, "{acme}", "DeleteCollection", wire.DeleteCollectionRequest(name=name), may_fail=True)
    if "books" not in names:
        made = wire.CreateCollectionRequest(collection=wire.Collection(name="books", encoder="minilm"))
        await _ask(doorway, keys, "{acme}", "CreateCollection", made, may_fail=True)


async def _ask(doorway: Doorway, keys: Keys, key: str, name: str, message: Any, *, may_fail: bool = False) -> bytes:
    method = BY_NAME[f"/podium.v1.IndexService/{name}"]
    beside = (("authorization", f"Bearer {keys.said(key)}"),)
    seen = await doorway.call(method, (message.SerializeToString(),), beside, 60.0)
    if seen.code != "OK" and not may_fail:
        raise RuntimeError(f"{name} of the fuzzer's own was answered {seen.code}: {seen.beside[:500]!r}")
    return seen.answers[0] if seen.answers else b""


async def is_well(victim: Victim, wire: Wire) -> bool:
    """Return whether the server answers a good request as it should."""
    method = BY_NAME["/podium.v1.RerankService/Rerank"]
    beside = (("authorization", f"Bearer {victim.keys.acme}"),)
    seen = await wire.call(method, (messages.rerank(3).SerializeToString(),), beside, _DEAD_S)
    return seen.code == "OK"


def shares(total: int, parts: Sequence[tuple[str, float]]) -> dict[str, int]:
    """Return how many inputs each kind gets: `total` together, or nearly so; each with a share at least one."""
    whole = sum(share for _, share in parts)
    return {name: max(1, round(total * share / whole)) if share else 0 for name, share in parts}
