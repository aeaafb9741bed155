"""What REST says of itself: every answer beside the OpenAPI document that the same server gives."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from jsonschema import Draft202012Validator

from tests.fuzz.http import Answer
from tests.fuzz.laws import Secrets

_PLAIN_400 = b"Invalid HTTP request received."
"""What uvicorn answers to what is no HTTP, before anything of ours."""
_TYPED_5XX = (503, 504)


class Page:
    """A document of OpenAPI.

    Args:
        document: as it was served.

    """

    def __init__(self, document: dict[str, Any]) -> None:
        self._paths = document["paths"]
        self._components = document["components"]
        self._validators: dict[tuple[str, str, str, str], Draft202012Validator | None] = {}

    @property
    def operations(self) -> list[tuple[str, str]]:
        """Verbs and paths."""
        return [(verb.upper(), path) for path, verbs in self._paths.items() for verb in verbs]

    def wrong(self, answer: Answer, sent: bytes, secrets: Secrets, verb: str = "", path: str = "") -> str:
        """Return what is wrong with an answer; without a path, all but what its schema says."""
        leak = secrets.leak(answer.head + answer.body, sent)
        if leak:
            return leak
        if answer.status >= 500 and answer.status not in _TYPED_5XX:
            return f"{answer.status}: {answer.body[:300].decode('utf-8', 'replace')}"
        if answer.status == 503 and not answer.header("retry-after"):
            return "503 without retry-after"
        kind = answer.header("content-type").partition(";")[0]
        if not answer.body or kind == "text/event-stream" or (answer.status == 400 and answer.body == _PLAIN_400):
            return ""
        if kind not in ("application/json", "application/x-ndjson"):
            return "" if kind == "text/html" and answer.status == 200 else f"{answer.status} with content-type {kind!r}"
        for value in _values(answer.body, lines=kind == "application/x-ndjson"):
            if isinstance(value, ValueError):
                return f"{answer.status} with a body that is no JSON: {value}"
            wrong = self._of_value(value, answer, verb, path, kind) if path else ""
            if wrong:
                return wrong
        return ""

    def _of_value(self, value: Any, answer: Answer, verb: str, path: str, kind: str) -> str:
        status = "200" if answer.status == 200 else "default"
        place = (path, verb.lower(), status, kind)
        if place not in self._validators:
            self._validators[place] = self._validator(*place)
        validator = self._validators[place]
        if validator is None:
            return "" if answer.status in (404, 405) else f"{answer.status} ({kind}) is not on the page"
        error = next(validator.iter_errors(value), None)
        return (
            "" if error is None else f"{answer.status} is not as the page says: {error.json_path}: {error.message:.200}"
        )

    def _validator(self, path: str, verb: str, status: str, kind: str) -> Draft202012Validator | None:
        operation = self._paths.get(path, {}).get(verb)
        response = operation and operation["responses"].get(status)
        schema = response and response.get("content", {}).get(kind, {}).get("schema")
        return None if schema is None else Draft202012Validator({**schema, "components": self._components})


def _values(body: bytes, *, lines: bool) -> Iterator[Any]:
    def no_number(name: str) -> Any:
        raise ValueError(f"{name} is no number of JSON")

    for text in body.splitlines() if lines else (body,):
        try:
            yield json.loads(text, parse_constant=no_number)
        except ValueError as error:
            yield error
