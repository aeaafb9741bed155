"""Reflection under both of its names, so that grpcurl and its like need no `.proto` file.

`grpcio-reflection` serves `grpc.reflection.v1alpha` alone. Version 1 is the same contract under another package name,
so the same servicer answers for it, and its description is made from that of v1alpha.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor
from grpc_reflection.v1alpha import reflection, reflection_pb2
from grpc_reflection.v1alpha._async import ReflectionServicer

V1 = "grpc.reflection.v1.ServerReflection"
V1ALPHA: str = reflection.SERVICE_NAME


def handlers(services: Iterable[str]) -> tuple[grpc.GenericRpcHandler, ...]:
    """Return the handlers of both versions, which tell of `services` and of themselves."""
    _describe_v1()
    servicer = ReflectionServicer([*services, V1, V1ALPHA])
    method: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    return tuple(grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": method}) for name in (V1, V1ALPHA))


def services() -> tuple[ServiceDescriptor, ...]:
    """Return the descriptions of both versions."""
    _describe_v1()
    return tuple(descriptor_pool.Default().FindServiceByName(name) for name in (V1, V1ALPHA))


def _describe_v1() -> None:
    """Put the description of v1 where the servicer looks for descriptions."""
    pool = descriptor_pool.Default()
    try:
        pool.FindServiceByName(V1)
    except KeyError:
        old, new = "grpc.reflection.v1alpha", "grpc.reflection.v1"
        file = descriptor_pb2.FileDescriptorProto()
        reflection_pb2.DESCRIPTOR.CopyToProto(file)
        file.name = "grpc/reflection/v1/reflection.proto"
        file.package = new
        for message in file.message_type:
            for field in message.field:
                # Plain fields have no type of a name, not even an empty one.
                if field.type_name:
                    field.type_name = field.type_name.replace(old, new)
        for method in file.service[0].method:
            method.input_type = method.input_type.replace(old, new)
            method.output_type = method.output_type.replace(old, new)
        pool.AddSerializedFile(file.SerializeToString())
