"""Log records with the request that they belong to, as lines of `key=value`. Queries and documents are never logged."""

from __future__ import annotations

import logging
import sys
from typing import TextIO

from podium_server.transport.door import current_call

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


class Lines(logging.Formatter):
    """`2026-01-02 03:04:05,678 INFO podium_server.transport.door call method=/… code=OK took_ms=1.2 request_id=…`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # the name is the standard library's
        """Return the line, with what the record carries beside its message behind it."""
        facts = {key: value for key, value in vars(record).items() if key not in _USUAL}
        facts |= {key: getattr(record, key) for key in ("request_id", "trace_id") if hasattr(record, key)}
        return super().formatMessage(record) + "".join(f" {key}={value}" for key, value in facts.items())


def configure(level: str = "INFO", stream: TextIO | None = None) -> None:
    """Log to `stream` (the standard error). For programs; a library leaves the root logger alone."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(Lines())
    handler.addFilter(Correlated())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
