"""Spans as everybody here sees them: opened inside the one that is open, closed on every way out, or nothing at all.

Nobody here knows who collects them. Whoever lets a call in opens the first span (`telemetry.tracing`); where nobody
does, nothing is made, and asking costs one look at a context variable.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from typing import Literal, Protocol, TypeAlias

Kind: TypeAlias = Literal["server", "internal", "client"]
Value: TypeAlias = str | bool | int | float | Sequence[str]


class Span(Protocol):
    """Something that is done, from now until `end`."""

    @property
    def texts(self) -> bool:
        """Whether queries, documents and what models say may be written into it."""

    @property
    def headers(self) -> Mapping[str, str]:
        """What tells another server of it (W3C Trace Context)."""

    def child(self, name: str, kind: Kind, attributes: Mapping[str, Value]) -> Span:
        """Begin something that is a part of it."""

    def note(self, attributes: Mapping[str, Value]) -> None:
        """Add what is known now."""

    def failed(self, error: BaseException) -> None:
        """Say that it did not work."""

    def end(self, *, after_s: float | None = None) -> None:
        """End it: now, or so many seconds after it began."""


current: ContextVar[Span | None] = ContextVar("span", default=None)
"""The span inside of which the running task works; None where nobody collects any."""

_NOTHING: Mapping[str, str] = {}


@contextmanager
def opened(name: str, kind: Kind = "internal", **attributes: Value) -> Iterator[Span | None]:
    """Open a span inside the current one for as long as the `with` lasts; None where there is none.

    Args:
        name: of what is done; few different ones.
        kind: "client" where another server does it.
        attributes: known beforehand; `__` stands for a dot.

    """
    outer = current.get()
    if outer is None:
        yield None
        return
    span = outer.child(name, kind, {key.replace("__", "."): value for key, value in attributes.items()})
    token = current.set(span)
    try:
        yield span
    except BaseException as error:
        span.failed(error)
        raise
    finally:
        current.reset(token)
        span.end()


def headers() -> Mapping[str, str]:
    """Return what goes beside a request to another server, so that it can go on with the trace."""
    span = current.get()
    return _NOTHING if span is None else span.headers


def inside(span: Span) -> Context:
    """Return a context for a task that works inside of a span."""
    context = copy_context()
    context.run(current.set, span)
    return context
