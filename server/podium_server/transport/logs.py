"""Log records with the request that they belong to, as lines of `key=value` or as JSON. No query is ever logged."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TextIO, TypeAlias

from podium_server.transport.door import current_call

Form: TypeAlias = Literal["lines", "json"]

_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "request_id", "trace_id", "taskName"}


class Correlated(logging.Filter):
    """Puts the request id, and the trace id where the caller sent one, on every record made on behalf of a call.

    It belongs on a handler: filters of a logger see only the records of that very logger.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add to the record; keep it."""
        call = current_call.get()
        if call is not None:
            if not hasattr(record, "request_id"):
                record.request_id = call.request_id
            if call.traceparent:
                record.trace_id = call.traceparent.split("-")[1]
        return True


class Hushed(logging.Filter):
    """Takes out of grpcio's own records what callers have sent, and makes no error of a caller that went away.

    It logs a header that is no UTF-8 as it came, be it a key, and a traceback for an answer that nobody took.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record; keep it."""
        said = str(record.msg)
        if said.startswith("Invalid encoding on"):
            record.msg, why = "a header of a call is no UTF-8", logging.WARNING
        elif said.startswith("ExecuteBatchError"):
            record.msg, why = "a caller was gone before its answer", logging.INFO
        else:
            return True
        record.args, record.exc_info, record.exc_text = (), None, None
        record.levelno, record.levelname = why, logging.getLevelName(why)
        return record.levelno >= logging.root.level


class Lines(logging.Formatter):
    """`2026-01-02 03:04:05,678 INFO podium_server.transport.door call method=/… code=OK took_ms=1.2 request_id=…`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # the name is the standard library's
        """Return the line, with what the record carries beside its message behind it."""
        return super().formatMessage(record) + "".join(f" {key}={value}" for key, value in _facts(record).items())


class Json(logging.Formatter):
    """A JSON object a line.

    `time` (RFC 3339, UTC), `level`, `logger`, `message`, what the record carries, and `error` with the traceback where
    there is one.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        # What a record carries cannot take the place of who says it, and when.
        fields = {**_facts(record), **fields}
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str, ensure_ascii=True)


def _facts(record: logging.LogRecord) -> Mapping[str, Any]:
    """Return what a record carries beside its message."""
    facts = {key: value for key, value in vars(record).items() if key not in _USUAL}
    return facts | {key: getattr(record, key) for key in ("request_id", "trace_id") if hasattr(record, key)}


def configure(level: str = "INFO", stream: TextIO | None = None, *, form: Form = "lines") -> None:
    """Log to `stream` (the standard error). For programs; a library leaves the root logger alone."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(Json() if form == "json" else Lines())
    handler.addFilter(Correlated())
    handler.addFilter(Hushed())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
