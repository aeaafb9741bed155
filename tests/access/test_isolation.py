"""What a tenant is told never depends on what belongs to another: every RPC of the contract, by its description."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from podium.v1 import document_pb2, index_service_pb2, rerank_service_pb2, search_service_pb2
from podium_server.transport.server import SERVICES
from tests.access.made import Standing, standing
from tests.wire.serving import Refused, Stubs, request, taken_apart

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

METHODS = [method for service in SERVICES for method in service.methods]
NUMBERS = itertools.count()
NEVER = "zz-never"  # as long as each name of acme's below, so that messages are as long
# Acme's, by kind; none of these words is ever sent by the other tenant but for the name that is asked about.
OWN = {"collection": "aa-vault", "pipeline": "acme-own"}
MARKS = ("the-mark-of-acme", "text-of-acme", "doc-of-acme", "aa-other")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Standing]:
    async with standing(tmp_path_factory.mktemp("data"), store=True) as made:
        index = made.stubs(made.key("acme")).index
        for name in (OWN["collection"], "aa-other"):
            await index.CreateCollection(
                index_service_pb2.CreateCollectionRequest(collection=index_service_pb2.Collection(name=name))
            )
        documents = [document_pb2.Document(id="doc-of-acme", text="text-of-acme")]
        upsert = index_service_pb2.UpsertDocumentsRequest(collection=OWN["collection"], documents=documents)
        await index.UpsertDocuments(iter([upsert]))
        yield made


def filled(kind: type[Message], names: dict[str, str]) -> Message:
    """Return a message with whatever names something, and with what it needs to be good besides."""
    message = kind()
    for field in message.DESCRIPTOR.fields:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            continue
        if field.message_type is not None and field.message_type.full_name.startswith("podium."):
            if field.message_type.name in ("InlinePipeline", "Filter", "Budget", "Truncation", "CandidateSketch"):
                continue
            inner = filled(GetMessageClass(field.message_type), names)
            if field.is_repeated:
                getattr(message, field.name).append(inner)
            else:
                getattr(message, field.name).CopyFrom(inner)
        elif field.cpp_type == field.CPPTYPE_STRING:
            # A text that nobody sent before is in no cache.
            text = f"text {next(NUMBERS):06}"
            value = {"query": "q", "item_id": "i", "id": "d", "text": text, "ids": "doc"}.get(field.name)
            for kind_of, name in names.items():
                if field.name == kind_of or (field.name == "name" and kind_of == "collection"):
                    value = name
            if value is not None and field.is_repeated:
                getattr(message, field.name).append(value)
            elif value is not None:
                setattr(message, field.name, value)
    return message


async def answers(channel: grpc.aio.Channel, method: MethodDescriptor, message: Message) -> list[Message] | Refused:
    path = f"/{method.containing_service.full_name}/{method.name}"
    kind = ("stream" if method.client_streaming else "unary") + "_" + ("stream" if method.server_streaming else "unary")
    call = getattr(channel, kind)(
        path,
        request_serializer=lambda given: given.SerializeToString(),
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    metadata = (("x-request-id", "r"),)
    while True:
        given = iter([message]) if method.client_streaming else message
        try:
            if method.server_streaming:
                return [answer async for answer in call(given, metadata=metadata, timeout=60)]
            return [await call(given, metadata=metadata, timeout=60)]
        except grpc.aio.AioRpcError as error:
            # A stream that is refused while its client still writes may end with an error of grpc.aio's own there.
            if error.details() != "Internal error from Core":
                return taken_apart(error)


def texts(value: Any) -> Iterator[str]:
    """Yield all strings of an answer but times, durations and counts (JSON writes those of 64 bits as strings)."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if not key.lower().endswith("time"):
                yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)
    elif isinstance(value, str) and not value.isdigit():
        yield value


def said(answer: list[Message] | Refused) -> list[str]:
    """Return all that an answer says, whatever its shape."""
    if isinstance(answer, Refused):
        return [answer.code.name, answer.message, *texts(MessageToDict(answer.status))]
    return [text for message in answer for text in texts(MessageToDict(message))]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.full_name.removeprefix("podium.v1."))
async def test_nobody_comes_in_without_a_key(server: Standing, method: MethodDescriptor) -> None:
    message = filled(GetMessageClass(method.input_type), OWN)
    for key in (None, "podium_0123456789abcdef_" + "A" * 43, "", "nothing of ours"):
        answer = await answers(server.stubs(key).channel, method, message)
        assert isinstance(answer, Refused)
        assert answer.code is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("kind", ["collection", "pipeline"])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.full_name.removeprefix("podium.v1."))
async def test_what_is_anothers_is_as_if_it_were_not(server: Standing, method: MethodDescriptor, kind: str) -> None:
    plain = {"collection": "mine", "pipeline": "plain"}
    heard = []
    for name in (OWN[kind], NEVER):
        rival = server.stubs(server.key("rival"))
        await _begin_anew(rival)
        message = filled(GetMessageClass(method.input_type), plain | {kind: name})
        answer = await answers(rival.channel, method, message)
        everything = said(answer)
        for mark in (*MARKS, *(OWN.values() if name == NEVER else ())):
            assert not any(mark in text for text in everything), f"{method.full_name} tells of {mark}"
        heard.append([text.replace(name, "NAME") for text in everything])
    assert heard[0] == heard[1]


async def _begin_anew(stubs: Stubs) -> None:
    """Let a tenant have one collection, `mine`, whatever it had before."""
    for one in (await stubs.index.ListCollections(index_service_pb2.ListCollectionsRequest())).collections:
        await stubs.index.DeleteCollection(index_service_pb2.DeleteCollectionRequest(name=one.name))
    mine = index_service_pb2.Collection(name="mine")
    await stubs.index.CreateCollection(index_service_pb2.CreateCollectionRequest(collection=mine))


async def test_each_has_collections_of_its_own_by_the_same_names(server: Standing) -> None:
    acme, rival = (server.stubs(server.key(tenant)).index for tenant in ("acme", "rival"))
    make = index_service_pb2.CreateCollectionRequest(collection=index_service_pb2.Collection(name="same"))
    assert (await acme.CreateCollection(make)).collection.name == "same"
    assert (await rival.CreateCollection(make)).collection.name == "same"
    for stub, word in ((acme, "oranges"), (rival, "lemons")):
        documents = [document_pb2.Document(id="d", text=word)]
        await stub.UpsertDocuments(
            iter([index_service_pb2.UpsertDocumentsRequest(collection="same", documents=documents)])
        )
    await rival.DeleteCollection(index_service_pb2.DeleteCollectionRequest(name="same"))
    found = await acme.GetDocuments(index_service_pb2.GetDocumentsRequest(collection="same", ids=["d"]))
    assert [document.text for document in found.documents] == ["oranges"]
    search = server.stubs(server.key("acme")).search
    hits = await search.Search(search_service_pb2.SearchRequest(collection="same", query="fruit", pipeline="plain"))
    assert [hit.ranked.document_id for hit in hits.results] == ["d"]


async def test_a_key_is_held_to_its_pipelines_and_collections(server: Standing) -> None:
    key = server.key("acme", pipelines=frozenset({"plain"}), collections=frozenset({OWN["collection"]}))
    stubs = server.stubs(key)
    assert len((await stubs.rerank.Rerank(request(2, "plain"))).ranking) == 2
    inline = rerank_service_pb2.RerankRequest(query="q", documents=request(2).documents)
    inline.inline.stages.add(strategy="first-stage")
    for forbidden in (request(2, "acme-own"), request(2, NEVER), inline):
        answer = await answers(stubs.channel, _method("Rerank"), forbidden)
        assert isinstance(answer, Refused)
        assert answer.code is grpc.StatusCode.PERMISSION_DENIED
    listed = await stubs.index.ListCollections(index_service_pb2.ListCollectionsRequest())
    assert [one.name for one in listed.collections] == [OWN["collection"]]
    # A comparison tells of each by itself.
    compare = rerank_service_pb2.CompareRequest(request=rerank_service_pb2.RerankRequest(query="q"))
    compare.request.documents.extend(request(2).documents)
    compare.contenders.add(pipeline="plain")
    compare.contenders.add(pipeline="acme-own")
    rankings = (await stubs.rerank.Compare(compare)).rankings
    assert [ranking.HasField("error") for ranking in rankings] == [False, True]


def _method(name: str) -> MethodDescriptor:
    return next(method for method in METHODS if method.name == name)


async def test_callers_side_by_side_stay_apart(server: Standing) -> None:
    """The caller is known by the task that works for it; many tasks of several callers are under way at once."""
    stubs = {tenant: server.stubs(server.key(tenant)) for tenant in ("acme", "rival")}

    async def ask(tenant: str, n: int) -> None:
        answer = await answers(stubs[tenant].channel, _method("Rerank"), request(1 + n % 5, "acme-own"))
        if tenant == "acme":
            assert not isinstance(answer, Refused)
        else:
            assert isinstance(answer, Refused)

    await asyncio.gather(*(ask(tenant, n) for n in range(100) for tenant in stubs))
