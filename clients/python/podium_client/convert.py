"""Between messages and dataclasses. The two clients share all of this; they differ in their I/O alone.

Fields go by name, so a field that a dataclass has is read and written without a line here. The table `WELL_KNOWN` says
what becomes of messages that have a Python type of their own.
"""

from __future__ import annotations

import contextlib
import functools
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from datetime import UTC
from typing import Any, Generic, TypeVar

import grpc
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from podium.v1 import (
    document_pb2,
    index_service_pb2,
    ledger_pb2,
    rerank_service_pb2,
    search_service_pb2,
)
from podium_client.errors import Facts, InvalidRequest, PodiumError, Violation, error_of
from podium_client.types import (
    NANO,
    BatchItem,
    CallOptions,
    Collection,
    Contender,
    Document,
    DocumentError,
    Ledger,
    RerankOptions,
    RerankResult,
    SearchOptions,
    SharedOptions,
    Snapshot,
    Stage,
    Upserted,
)

T = TypeVar("T")
MessageT = TypeVar("MessageT", bound=Message)
DocumentLike = str | Mapping[str, Any] | Document
Read = Callable[[Any, str], Any]

# --- from messages ----------------------------------------------------------------------------------------------

WELL_KNOWN: dict[str, Read] = {
    "google.protobuf.Duration": lambda message, _: message.ToNanoseconds() / NANO,
    "google.protobuf.Struct": lambda message, _: json_format.MessageToDict(message),
    "google.protobuf.Value": lambda message, _: json_format.MessageToDict(message),
    "google.protobuf.Timestamp": lambda message, _: message.ToDatetime(tzinfo=UTC),
    "google.rpc.Status": lambda message, request_id: read_status(message, request_id),
    "podium.v1.Fields": lambda message, _: {part.name: part.text for part in message.fields},
}


def read(cls: type[T], message: Message, request_id: str = "") -> T:
    """Return `message` as a `cls`."""
    return cls(**{name: get(message, request_id) for name, get in _readers(typing.cast(Any, cls), message.DESCRIPTOR)})


def reader(cls: type[T]) -> Callable[[Message, str], T]:
    """Return `read` for `cls`."""
    return functools.partial(read, cls)


@functools.cache
def _readers(cls: type[Any], descriptor: Descriptor) -> tuple[tuple[str, Read], ...]:
    """Return how each field of a dataclass is read from a message of this kind."""
    hints = typing.get_type_hints(cls)
    return tuple((field.name, _reader(field.name, hints[field.name], descriptor)) for field in fields(cls))


def _reader(name: str, hint: Any, descriptor: Descriptor) -> Read:
    if name == "raw":
        return lambda message, _: message
    if name == "request_id":
        return lambda _, request_id: request_id
    if name in descriptor.oneofs_by_name:
        members = {field.name: _member(field, hint) for field in descriptor.oneofs_by_name[name].fields}

        def which(message: Any, request_id: str) -> Any:
            member = message.WhichOneof(name)
            return members[member](getattr(message, member), request_id) if member else None

        return which
    field = _field(descriptor, name)
    get, wire_name = _member(field, hint), field.name
    if _is_map(field):
        return lambda message, _: dict(getattr(message, wire_name))
    if field.is_repeated:
        return lambda message, request_id: tuple([get(item, request_id) for item in getattr(message, wire_name)])
    if field.has_presence and type(None) in _parts(hint):
        return lambda message, request_id: (
            get(getattr(message, wire_name), request_id) if message.HasField(wire_name) else None
        )
    return lambda message, request_id: get(getattr(message, wire_name), request_id)


def _member(field: FieldDescriptor, hint: Any) -> Read:
    """Return how one value of a field is read."""
    if field.enum_type is not None:
        names = _names(field.enum_type)
        return lambda value, _: names.get(value, str(value))  # a server newer than this client may have more
    if field.message_type is None or _is_map(field):
        return lambda value, _: value
    if known := WELL_KNOWN.get(field.message_type.full_name):
        return known
    cls = next(part for part in _parts(hint) if isinstance(part, type) and is_dataclass(part))
    return lambda message, request_id: read(cls, message, request_id)


def _field(descriptor: Descriptor, name: str) -> FieldDescriptor:
    """Return the field of the wire that `name` stands for: its own, or a duration, in seconds."""
    found = descriptor.fields_by_name.get(name) or descriptor.fields_by_name.get(name.removesuffix("_s"))
    if found is None:
        raise TypeError(f"{descriptor.name} has no option {name!r}")
    return found


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _parts(hint: Any) -> list[Any]:
    """Return the types that a type is made of: `tuple[Stage, ...] | None` has Stage and None in it."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is not None:
        return [part for argument in typing.get_args(hint) for part in _parts(argument)]
    return [hint]


@functools.cache
def _names(enum: EnumDescriptor) -> dict[int, str]:
    prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return {value.number: value.name.removeprefix(prefix).lower() for value in enum.values}


def read_collection(response: Any, request_id: str) -> Collection:
    """Return the collection that a response holds."""
    return read(Collection, response.collection, request_id)


def read_nothing(response: Message, request_id: str) -> None:
    """Return nothing: that there is a response is all that it says."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a list."""

    items: tuple[T, ...]
    next_page_token: str


def read_page(items: str, cls: type[T]) -> Callable[[Any, str], Page[T]]:
    """Return how a page is read whose field `items` holds a `cls` each."""
    return lambda response, request_id: Page(
        tuple(read(cls, item, request_id) for item in getattr(response, items)), response.next_page_token
    )


def read_event(event: rerank_service_pb2.StreamRerankResponse, request_id: str) -> Snapshot | RerankResult:
    """Return an event of a streamed rerank."""
    if event.WhichOneof("event") == "snapshot":
        return read(Snapshot, event.snapshot, request_id)
    return read(RerankResult, event.response, request_id)


def read_upserted(response: index_service_pb2.UpsertDocumentsResponse, before: Upserted, request_id: str) -> Upserted:
    """Return what was upserted before, and what this call has added."""
    errors = tuple(read(DocumentError, error, request_id) for error in response.errors)
    return Upserted(
        inserted=before.inserted + response.inserted,
        replaced=before.replaced + response.replaced,
        unchanged=before.unchanged + response.unchanged,
        refused=before.refused + response.refused,
        errors=before.errors + tuple(replace(error, index=before.documents + error.index) for error in errors),
        ledgers=(*before.ledgers, read(Ledger, response.ledger, request_id)),
    )


# --- errors -----------------------------------------------------------------------------------------------------

_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def read_status(status: status_pb2.Status, request_id: str) -> PodiumError:
    """Return a status, with its details, as an exception."""
    facts = Facts(_CODES.get(status.code, grpc.StatusCode.UNKNOWN), status.message, request_id=request_id)
    info = error_details_pb2.ErrorInfo()
    bad, lacking = error_details_pb2.BadRequest(), error_details_pb2.PreconditionFailure()
    resource, retry = error_details_pb2.ResourceInfo(), error_details_pb2.RetryInfo()
    ledger = ledger_pb2.Ledger()
    for detail in status.details:
        if detail.Unpack(info):
            metadata = dict(info.metadata)
            request_id = metadata.get("request_id", request_id)
            facts = replace(facts, reason=info.reason, metadata=metadata, request_id=request_id)
        elif detail.Unpack(bad):
            facts = replace(facts, violations=tuple(Violation(v.field, v.description) for v in bad.field_violations))
        elif detail.Unpack(lacking):
            facts = replace(facts, violations=tuple(Violation(v.subject, v.description) for v in lacking.violations))
        elif detail.Unpack(resource):
            facts = replace(facts, resource_kind=resource.resource_type, resource_name=resource.resource_name)
        elif detail.Unpack(retry):
            facts = replace(facts, retry_after_s=retry.retry_delay.ToNanoseconds() / NANO)
        elif detail.Unpack(ledger):
            facts = replace(facts, ledger=read(Ledger, ledger))
    return error_of(facts)


def read_rpc_error(error: grpc.RpcError, request_id: str) -> PodiumError:
    """Return what gRPC raises, in either client, as an exception of ours."""
    call = typing.cast(grpc.Call, error)  # which it is, though its type does not say so
    for key, value in call.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            try:
                status = status_pb2.Status.FromString(typing.cast(bytes, value))
            except DecodeError:
                break  # a proxy's invention: the plain code and message are all there is
            return read_status(status, request_id)
    return error_of(Facts(call.code(), call.details() or "", request_id=request_id))


@contextlib.contextmanager
def translated(request_id: str) -> Iterator[None]:
    """Raise what gRPC raises within as an exception of ours."""
    try:
        yield
    except grpc.RpcError as error:
        raise read_rpc_error(error, request_id) from error


def _refused(field: str, description: str) -> InvalidRequest:
    facts = Facts(
        grpc.StatusCode.INVALID_ARGUMENT,
        f"{field}: {description}",
        reason="INVALID_REQUEST",
        violations=(Violation(field, description),),
    )
    return InvalidRequest(facts)


def not_ready(timeout_s: float) -> PodiumError:
    """Return the error for a server that cannot be reached, or does not serve."""
    return error_of(Facts(grpc.StatusCode.UNAVAILABLE, f"no server was ready within {timeout_s:g} s"))


_UNSENDABLE = (InvalidRequest, TypeError, ValueError, json_format.ParseError)


def _refused_at(path: str, error: Exception) -> InvalidRequest:
    """Return what it means that the value of this field cannot be sent."""
    match error:
        case InvalidRequest(field_violations=(Violation(field, description),)):
            return _refused(f"{path}.{field}", description)
        case UnicodeEncodeError():
            return _refused(path, f"has a lone surrogate at {error.start}, which UTF-8 cannot carry")
    return _refused(path, f"cannot be sent: {error}")


# --- to messages ------------------------------------------------------------------------------------------------


def fill(message: Message, values: Mapping[str, Any]) -> None:
    """Set the fields of a message that have a value; None leaves one unset."""
    for name, value in values.items():
        if value is None:
            continue
        field = _field(typing.cast(Descriptor, message.DESCRIPTOR), name)
        if (oneof := field.containing_oneof) and (other := message.WhichOneof(oneof.name)):
            raise _refused(name, f"give {other} or {name}, not both")
        try:
            _write(message, field, value)
        except _UNSENDABLE as error:
            raise _refused_at(name, error) from error


def _write(message: Any, field: FieldDescriptor, value: Any) -> None:
    part = getattr(message, field.name)
    if _is_map(field):
        part.update(value)
    elif field.enum_type is not None:
        numbers = {name: number for number, name in _names(field.enum_type).items() if number}
        if value not in numbers:
            raise TypeError(f"known: {', '.join(numbers)}")
        setattr(message, field.name, numbers[value])
    elif field.message_type is None:
        setattr(message, field.name, value)
    elif field.message_type.full_name == "google.protobuf.Duration":
        part.FromNanoseconds(round(value * NANO))
    elif field.message_type.full_name == "google.protobuf.Struct":
        json_format.ParseDict(value, part)
    elif field.message_type.full_name == "google.protobuf.Timestamp":
        part.FromDatetime(value)
    elif field.message_type.full_name == "podium.v1.Filter":
        part.CopyFrom(value.message)
    elif field.message_type.full_name == "podium.v1.Fields":
        part.SetInParent()
        for name, text in value.items():
            part.fields.add(name=name, text=text)
    elif field.message_type.full_name == "podium.v1.InlinePipeline":
        part.SetInParent()
        for index, stage in enumerate(value):
            try:
                write(stage, part.stages.add())
            except InvalidRequest as error:
                raise _refused_at(f"stages[{index}]", error) from error
    else:
        part.SetInParent()
        write(value, part)


def write(value: Any, message: Message) -> None:
    """Write a dataclass into a message of its kind."""
    fill(message, {field.name: getattr(value, field.name) for field in fields(value)})


def write_document(document: DocumentLike, message: document_pb2.Document, path: str) -> None:
    """Write a document into a message; `path` is its name in an error."""
    try:
        match document:
            case str():
                fill(message, {"text": document})
            case Document():
                write(document, message)
            case Mapping():
                fill(message, document)
            case _:
                raise TypeError(f"a document is a string, a mapping or a Document, not {type(document).__name__}")
    except _UNSENDABLE as error:
        raise _refused_at(path, error) from error


def _ranking(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that are fields of a request: those of the call are not."""
    return {name: value for name, value in options.items() if name not in CallOptions.__annotations__}


def rerank_request(
    query: str, documents: Iterable[DocumentLike], options: RerankOptions | SharedOptions
) -> rerank_service_pb2.RerankRequest:
    """Return the message for a rerank."""
    request = rerank_service_pb2.RerankRequest()
    fill(request, {"query": query, **_ranking(options)})
    for index, document in enumerate(documents):
        write_document(document, request.documents.add(), f"documents[{index}]")
    return request


def stream_request(
    query: str, documents: Iterable[DocumentLike], min_interval_s: float | None, options: RerankOptions
) -> rerank_service_pb2.StreamRerankRequest:
    """Return the message for a streamed rerank."""
    request = rerank_service_pb2.StreamRerankRequest(request=rerank_request(query, documents, options))
    fill(request, {"min_interval_s": min_interval_s})
    return request


def batch_request(item: BatchItem, options: RerankOptions) -> rerank_service_pb2.BatchRerankRequest:
    """Return the message for one item of a batch."""
    own: RerankOptions = {**options, **item.options}
    return rerank_service_pb2.BatchRerankRequest(
        item_id=item.item_id, request=rerank_request(item.query, item.documents, own)
    )


def checked_window(window: int) -> int:
    """Return how many items of a batch may wait for their answers."""
    if window < 1:
        raise ValueError(f"window is {window}: at least 1")
    return window


def estimate_request(
    query: str,
    documents: Iterable[DocumentLike],
    candidates: int | None,
    tokens_per_document: int | None,
    query_tokens: int | None,
    options: RerankOptions,
) -> rerank_service_pb2.EstimateRequest:
    """Return the message for an estimate."""
    request = rerank_service_pb2.EstimateRequest(request=rerank_request(query, documents, options))
    if candidates is not None:
        sketch = {"candidates": candidates, "tokens_per_document": tokens_per_document, "query_tokens": query_tokens}
        fill(request.sketch, sketch)
    return request


def compare_request(
    query: str,
    documents: Iterable[DocumentLike],
    contenders: Sequence[str | Sequence[Stage] | Contender],
    overlap_at: Sequence[int],
    options: SharedOptions,
) -> rerank_service_pb2.CompareRequest:
    """Return the message for a comparison."""
    request = rerank_service_pb2.CompareRequest(
        request=rerank_request(query, documents, options), overlap_at=overlap_at
    )
    for contender in contenders:
        match contender:
            case str():
                write(Contender(pipeline=contender), request.contenders.add())
            case Contender():
                write(contender, request.contenders.add())
            case _:
                write(Contender(inline=contender), request.contenders.add())
    return request


def search_request(collection: str, query: str, options: SearchOptions) -> search_service_pb2.SearchRequest:
    """Return the message for a search."""
    request = search_service_pb2.SearchRequest()
    fill(request, {"collection": collection, "query": query, **_ranking(options)})
    return request


def create_request(collection: Collection) -> index_service_pb2.CreateCollectionRequest:
    """Return the message that makes a collection."""
    request = index_service_pb2.CreateCollectionRequest()
    write(collection, request.collection)
    return request


def next_page(request: MessageT, page_token: str) -> MessageT:
    """Return the request for the page after the one that `request` asked for."""
    following = type(request)()
    following.CopyFrom(request)
    fill(following, {"page_token": page_token})
    return following


# As much as keeps a message well below the limit whatever the documents are, and small enough to be sent while the
# server works on the one before.
_MESSAGE_DOCUMENTS = 256
_MESSAGE_BYTES = 1 << 20


def upsert_requests(
    collection: str, documents: Iterable[DocumentLike], first: int
) -> list[index_service_pb2.UpsertDocumentsRequest]:
    """Return the messages of one call; `first` is the place of its first document, for the names in errors."""
    requests = [index_service_pb2.UpsertDocumentsRequest(collection=collection)]
    size = 0
    for index, document in enumerate(documents, first):
        if size >= _MESSAGE_BYTES or len(requests[-1].documents) >= _MESSAGE_DOCUMENTS:
            requests.append(index_service_pb2.UpsertDocumentsRequest())
            size = 0
        message = requests[-1].documents.add()
        write_document(document, message, f"documents[{index}]")
        size += message.ByteSize()
    return requests
