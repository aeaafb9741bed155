"""That nothing of an answer is lost between message and dataclass, and nothing heavy is imported for it."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import typing
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor

from podium.v1 import (
    catalog_service_pb2,
    index_service_pb2,
    rerank_service_pb2,
    search_service_pb2,
)
from podium_client import convert, types

READ = {
    types.RerankResult: rerank_service_pb2.RerankResponse,
    types.Snapshot: rerank_service_pb2.RankingSnapshot,
    types.BatchAnswer: rerank_service_pb2.BatchRerankResponse,
    types.Estimate: rerank_service_pb2.EstimateResponse,
    types.Comparison: rerank_service_pb2.CompareResponse,
    types.SearchResult: search_service_pb2.SearchResponse,
    types.Collection: index_service_pb2.Collection,
    types.CollectionStats: index_service_pb2.GetCollectionStatsResponse,
    types.DocumentError: index_service_pb2.DocumentError,
    types.Fetched: index_service_pb2.GetDocumentsResponse,
    types.Deleted: index_service_pb2.DeleteDocumentsResponse,
    types.Pipeline: catalog_service_pb2.Pipeline,
    types.Strategy: catalog_service_pb2.Strategy,
    types.Model: catalog_service_pb2.Model,
    types.Limits: catalog_service_pb2.GetLimitsResponse,
}
# A trace is for looking at, and is left as it came.
LEFT_RAW = {"podium.v1.RerankResponse.trace", "podium.v1.SearchResponse.trace"}


def left_out(cls: Any, descriptor: Descriptor) -> set[str]:
    hints = typing.get_type_hints(cls)
    names = {field.name for field in dataclasses.fields(cls)}
    lost = set()
    for field in descriptor.fields:
        oneof = field.containing_oneof.name if field.containing_oneof else ""
        name = next((name for name in (field.name, f"{field.name}_s", oneof) if name in names), None)
        if name is None:
            lost.add(field.full_name)
            continue
        nested = field.message_type
        if nested and nested.full_name not in convert.WELL_KNOWN and not nested.GetOptions().map_entry:
            part = next(part for part in convert._parts(hints[name]) if dataclasses.is_dataclass(part))
            lost |= left_out(part, nested)
    return lost


@pytest.mark.parametrize("cls", READ, ids=lambda cls: cls.__name__)
def test_every_field_of_an_answer_is_read(cls: Any) -> None:
    assert left_out(cls, READ[cls].DESCRIPTOR) <= LEFT_RAW


@pytest.mark.parametrize("cls", READ, ids=lambda cls: cls.__name__)
def test_an_answer_with_nothing_in_it_can_be_read(cls: Any) -> None:
    assert dataclasses.is_dataclass(convert.read(cls, READ[cls]()))


def test_every_option_is_a_field_of_its_request() -> None:
    call = set(types.CallOptions.__annotations__)
    requests = {
        types.RerankOptions: rerank_service_pb2.RerankRequest,
        types.SearchOptions: search_service_pb2.SearchRequest,
    }
    for options, message in requests.items():
        given = set(typing.get_type_hints(options)) - call
        assert given | {"query", "documents", "collection"} >= set(message.DESCRIPTOR.fields_by_name)
        assert given <= set(message.DESCRIPTOR.fields_by_name)


def test_the_client_imports_nothing_of_the_server_and_nothing_heavy() -> None:
    script = (
        "import sys, podium_client; "
        "print(*sorted({name.partition('.')[0] for name in sys.modules} & set(sys.argv[1:])))"
    )
    heavy = ["podium_server", "podium_strategies", "numpy", "pydantic", "openvino", "grpc_status", "faiss", "torch"]
    ran = subprocess.run([sys.executable, "-c", script, *heavy], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []
