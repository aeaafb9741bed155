"""Log records as JSON, a line each, with the request that they belong to."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from podium_server.transport import logs
from podium_server.transport.door import Call, current_call


@contextmanager
def logging_to(form: logs.Form) -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    logs.configure("INFO", stream, form=form)
    token = current_call.set(Call("/m", "r-1", traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"))
    try:
        yield stream
    finally:
        current_call.reset(token)
        root.handlers[:] = handlers
        root.setLevel(level)


def records(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_record_is_an_object_a_line_with_its_request_and_trace() -> None:
    with logging_to("json") as stream:
        logging.getLogger("podium.x").info("call", extra={"method": "/m", "took_ms": 1.5})
    [record] = records(stream)
    assert record["time"].endswith("+00:00")
    del record["time"]
    assert record == {
        "level": "INFO",
        "logger": "podium.x",
        "message": "call",
        "method": "/m",
        "took_ms": 1.5,
        "request_id": "r-1",
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
    }


def test_what_a_record_carries_breaks_no_line_and_takes_nobodys_place() -> None:
    with logging_to("json") as stream:
        logging.getLogger("x").warning("a\nb %s", "\x00\ud800", extra={"level": "no", "odd": object(), "time": "no"})
        try:
            raise ValueError("two\nlines")
        except ValueError:
            logging.getLogger("x").exception("failed")
    first, second = records(stream)
    assert (first["level"], first["message"]) == ("WARNING", "a\nb \x00\ud800")
    assert first["time"] != "no"
    assert first["odd"].startswith("<object")
    assert "ValueError: two\nlines" in second["error"]


def test_lines_stay_as_they_were() -> None:
    with logging_to("lines") as stream:
        logging.getLogger("x").info("call", extra={"code": "OK"})
    assert (
        stream.getvalue()
        .rstrip()
        .endswith("INFO x call code=OK request_id=r-1 trace_id=0af7651916cd43dd8448eb211c80319c")
    )
