"""The OpenAPI 3.1 document, generated: dialects from their types, the contract from its descriptors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.rpc.status_pb2 import Status
from pydantic import TypeAdapter

from podium_server.rest.endpoints import Endpoint
from podium_server.rest.native import EVENTS, NDJSON

_REF = "#/components/schemas/{model}"
_JSON = "application/json"

# Protobuf's own mapping to JSON: 64 bits are a string, because JavaScript's numbers have 53.
_CPP = FieldDescriptor
_SCALARS: Mapping[int, dict[str, Any]] = {
    _CPP.CPPTYPE_INT32: {"type": "integer", "format": "int32"},
    _CPP.CPPTYPE_UINT32: {"type": "integer", "minimum": 0},
    _CPP.CPPTYPE_INT64: {"type": ["string", "integer"], "format": "int64"},
    _CPP.CPPTYPE_UINT64: {"type": ["string", "integer"], "format": "int64"},
    _CPP.CPPTYPE_DOUBLE: {"anyOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}]},
    _CPP.CPPTYPE_FLOAT: {"anyOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}]},
    _CPP.CPPTYPE_BOOL: {"type": "boolean"},
    _CPP.CPPTYPE_STRING: {"type": "string"},
}
_WELL_KNOWN: Mapping[str, dict[str, Any]] = {
    "google.protobuf.Duration": {"type": "string", "pattern": r"^-?\d+(\.\d{1,9})?s$", "examples": ["0.25s"]},
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Struct": {"type": "object"},
    "google.protobuf.Value": {},
    "google.protobuf.ListValue": {"type": "array", "items": {}},
    "google.protobuf.Any": {
        "type": "object",
        "properties": {"@type": {"type": "string"}},
        "required": ["@type"],
        "description": "A message, with its type.",
    },
}


def document(endpoints: Sequence[Endpoint], version: str) -> dict[str, Any]:
    """Return the document."""
    types = dict.fromkeys(kind for one in endpoints for kind in (*one.bodies, *one.answers, *one.errors))
    refs, schemas = _of_types(types)
    native = _Native(schemas)
    paths: dict[str, Any] = {}
    for one in endpoints:
        operation = native.operation(one) if one.method is not None else _operation(one, refs)
        paths.setdefault(one.path, {})[one.verb.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Podium",
            "version": version,
            "summary": "Reranking: the dialects that clients speak already, and Podium's own contract as JSON.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(one.tag for one in endpoints)],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        # A server without keys takes requests without them.
        "security": [{}, {"key": []}],
    }


# --- dialects ---------------------------------------------------------------------------------------------------


def _of_types(types: Iterable[Any]) -> tuple[dict[Any, dict[str, Any]], dict[str, Any]]:
    """Return a schema for each type, and those that they refer to."""
    adapters = [(kind, "validation", TypeAdapter(kind)) for kind in types]
    made, whole = TypeAdapter.json_schemas(adapters, ref_template=_REF)  # type: ignore[arg-type]  # "validation"
    schemas = dict(whole.get("$defs", {}))
    names = {name: _short(name) for name in schemas}
    renamed = {names[name]: _rename(schema, names) for name, schema in schemas.items()}
    return {kind: _rename(schema, names) for (kind, _), schema in made.items()}, renamed


def _short(name: str) -> str:
    """Return `tei.Refused` for `podium_server__rest__dialects__tei__Refused`."""
    parts = name.split("__")
    return ".".join(parts[-2:]) if len(parts) > 1 else name


def _rename(schema: Any, names: Mapping[str, str]) -> Any:
    if isinstance(schema, dict):
        return {
            key: f"#/components/schemas/{names[value.rsplit('/', 1)[1]]}" if key == "$ref" else _rename(value, names)
            for key, value in schema.items()
        }
    return [_rename(each, names) for each in schema] if isinstance(schema, list) else schema


def _operation(one: Endpoint, refs: Mapping[Any, dict[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {
        "tags": [one.tag],
        "summary": one.summary,
        "operationId": _operation_id(one),
        "responses": {"200": {"description": "The answer.", **_content([refs[kind] for kind in one.answers])}},
    }
    if one.errors:
        made["responses"]["default"] = {"description": "An error.", **_content([refs[kind] for kind in one.errors])}
    if one.bodies:
        made["requestBody"] = {"required": True, **_content([refs[kind] for kind in one.bodies])}
        made["responses"]["200"]["headers"] = _HEADERS
        made["parameters"] = _PARAMETERS
    if "{model}" in one.path:
        parameter = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
        made["parameters"] = [parameter, *made.get("parameters", [])]
    return made


def _content(schemas: Sequence[dict[str, Any]], kind: str = _JSON) -> dict[str, Any]:
    if not schemas:
        return {}
    return {"content": {kind: {"schema": schemas[0] if len(schemas) == 1 else {"anyOf": list(schemas)}}}}


def _operation_id(one: Endpoint) -> str:
    return f"{one.verb.lower()}{re.sub(r'[^a-zA-Z0-9]+', '_', one.path)}".rstrip("_")


def _header(text: str) -> dict[str, Any]:
    return {"description": text, "schema": {"type": "string"}}


_HEADERS = {
    "x-request-id": _header("The caller's, or made up."),
    "x-podium-pipeline": _header("Who ranked."),
    "x-podium-completion": _header("complete, or what cut the order short."),
    "x-podium-partial-reason": _header("Why the order is partial: backend_down, budget_exhausted, …; see ErrorReason."),
    "x-podium-scores": _header("What the scores are made of: the kind of the models' own, or `place`."),
    "x-podium-warnings": _header("Codes of what else to know."),
    "x-podium-ignored": _header("Fields of the body that were not read."),
    "x-podium-ledger": _header("What was spent, as JSON."),
}
_PARAMETERS = [
    {"name": name, "in": "header", "required": False, "description": text, "schema": {"type": "string"}}
    for name, text in {
        "x-request-id": "Comes back, and stands in the log.",
        "x-podium-timeout-ms": "After which no answer is wanted. What is done by then is the answer.",
        "traceparent": "Of W3C.",
    }.items()
]


# --- the contract -----------------------------------------------------------------------------------------------


class _Native:
    """Schemas of messages, by their full names, made as they are met."""

    def __init__(self, schemas: dict[str, Any]) -> None:
        self.schemas = schemas

    def operation(self, one: Endpoint) -> dict[str, Any]:
        """Return the operation of a method."""
        assert one.method is not None  # for mypy: the caller looked
        descriptor = one.method.descriptor
        request, response = self.of(descriptor.input_type), self.of(descriptor.output_type)
        taken = _content([request])
        if descriptor.client_streaming:
            taken = {"content": {NDJSON: {"schema": request}, _JSON: {"schema": {"type": "array", "items": request}}}}
        given = _content([response])
        if descriptor.server_streaming:
            given = {"content": {NDJSON: {"schema": response}, EVENTS: {"schema": {"type": "string"}}}}
        return {
            "tags": [one.tag],
            "summary": one.summary,
            "operationId": _operation_id(one),
            "parameters": _PARAMETERS,
            "requestBody": {"required": False, **taken},
            "responses": {
                "200": {"description": "The answer.", **given},
                "default": {"description": "An error.", **_content([self.of(Status.DESCRIPTOR)])},
            },
        }

    def of(self, descriptor: Any) -> dict[str, Any]:
        """Return a reference to the schema of a message."""
        if descriptor.full_name in _WELL_KNOWN:
            return _WELL_KNOWN[descriptor.full_name]
        if descriptor.full_name not in self.schemas:
            schema: dict[str, Any] = {"type": "object", "additionalProperties": False}
            self.schemas[descriptor.full_name] = schema  # before its fields: messages may hold their own kind
            schema["properties"] = {field.json_name: self._field(field) for field in descriptor.fields}
        return {"$ref": _REF.format(model=descriptor.full_name)}

    def _field(self, field: FieldDescriptor) -> dict[str, Any]:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            return {"type": "object", "additionalProperties": self._one(field.message_type.fields_by_name["value"])}
        one = self._one(field)
        return {"type": "array", "items": one} if field.is_repeated else one

    def _one(self, field: FieldDescriptor) -> dict[str, Any]:
        if field.message_type is not None:
            return self.of(field.message_type)
        if field.enum_type is not None:
            return self._enum(field.enum_type)
        return _SCALARS[field.cpp_type]

    def _enum(self, descriptor: EnumDescriptor) -> dict[str, Any]:
        self.schemas.setdefault(
            descriptor.full_name, {"type": "string", "enum": [value.name for value in descriptor.values]}
        )
        return {"$ref": _REF.format(model=descriptor.full_name)}
