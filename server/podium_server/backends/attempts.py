"""What any call to an endpoint over HTTP has in common: places, attempts, waits between them, and the bill.

Nothing here knows what is asked: whoever makes the attempts raises a `Fault` that says what followed from one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol
from urllib.parse import urlsplit, urlunsplit

from podium_server.accounting.usage import Usage
from podium_server.backends.chat.endpoints import Endpoint, Endpoints
from podium_server.backends.chat.openai.faults import Declined, Fault, Refused
from podium_server.errors import BackendDown, DeadlineExceeded


class Bill:
    """What one call has used so far, over its attempts; kept outside of them so that a cancelled call has it too."""

    __slots__ = ("_attempts", "_queue_s", "last_tokens")

    def __init__(self) -> None:
        self._attempts: Usage | None = None
        self._queue_s = 0.0
        self.last_tokens = 0

    def waited(self, queue_s: float) -> None:
        """Enter time in which nothing was under way."""
        self._queue_s += queue_s

    def attempted(self, usage: Usage, backend_s: float) -> None:
        """Enter one attempt, whatever became of it."""
        self.last_tokens = usage.tokens
        if self._attempts is None:
            self._attempts = replace(usage, calls=1, backend_s=backend_s)
        else:
            self._attempts = self._attempts + replace(usage, calls=1, retries=1, backend_s=backend_s)

    @property
    def calls(self) -> int:
        """The attempts so far."""
        return 0 if self._attempts is None else self._attempts.calls

    @property
    def usage(self) -> Usage:
        """All of it; unpriced."""
        return replace(_NOTHING if self._attempts is None else self._attempts, queue_s=self._queue_s)


class Patience(Protocol):
    """How long a call is tried. Each number is explained where it is set (`ChatSettings`)."""

    @property
    def attempts_max(self) -> int:
        """Of one call, the first included."""

    @property
    def backoff_s(self) -> float:
        """The longest wait before the second attempt."""

    @property
    def backoff_s_max(self) -> float:
        """The longest wait that we choose."""

    @property
    def retry_after_s_max(self) -> float:
        """The longest wait that an endpoint may ask for."""


@dataclass(frozen=True, slots=True)
class Attempts:
    """Where the attempts at one model's calls are made, and what follows from one that failed.

    Args:
        name: the configured model's name.
        endpoints: that serve it.
        patience: how long a call is tried.
        clock: seconds that only grow; a deadline is a time of this clock.
        random_s: a number between 0 and its argument.

    """

    name: str
    endpoints: Endpoints
    patience: Patience
    clock: Callable[[], float]
    random_s: Callable[[float], float]

    def left_s(self, deadline_at: float | None) -> float | None:
        """Return the seconds before a deadline; None where there is none."""
        return None if deadline_at is None else max(0.0, deadline_at - self.clock())

    async def place(self, tokens: int, tried: list[Endpoint], bill: Bill, deadline_at: float | None) -> Endpoint:
        """Wait for a place and take it; see `Endpoints.place`.

        Raises:
            DeadlineExceeded: none was free in time.
            Overloaded: the queue is full.

        """
        began_s = self.clock()
        try:
            async with asyncio.timeout(self.left_s(deadline_at)):
                return await self.endpoints.place(tokens, tried=tried)
        except TimeoutError:
            raise DeadlineExceeded(
                f"model {self.name!r}: the deadline passed while the call waited for a place"
                f" ({self.endpoints.outstanding} under way, {self.endpoints.waiting} waiting)"
            ) from None
        finally:
            bill.waited(self.clock() - began_s)

    def after(
        self,
        fault: Fault,
        endpoint: Endpoint,
        attempt: int,
        tried: list[Endpoint],
        deadline_at: float | None,
        bill: Bill,
    ) -> float:
        """Return how long to wait before the next attempt, or raise what ends the call.

        Raises:
            BackendRefused: the endpoint will never take it.
            BackendDown: after all attempts, or the endpoint asks for a longer wait than we allow.
            DeadlineExceeded: the next attempt would begin too late.

        """
        patience = self.patience
        if fault.unwell:
            self.endpoints.failed(endpoint)
        if isinstance(fault, Refused):
            raise fault.error from fault
        told_s = fault.retry_after_s if isinstance(fault, Declined) else None
        if told_s is not None:
            self.endpoints.hold(endpoint, min(told_s, patience.retry_after_s_max))
        if endpoint not in tried:
            tried.append(endpoint)
        elsewhere = self.endpoints.others_well(tried)
        final = isinstance(fault, Declined) and fault.final
        asked_s = 0.0 if elsewhere else (told_s or 0.0)
        after = f"after {bill.calls} of at most {patience.attempts_max} attempts"
        if attempt >= patience.attempts_max or final or asked_s > patience.retry_after_s_max:
            raise BackendDown(
                f"model {self.name!r}: {shown(endpoint.url)} {fault} ({after})",
                retry_after_s=max(1.0, told_s or 0.0),
                metadata={"model": self.name, "attempts": str(bill.calls)},
            ) from fault
        if elsewhere:
            wait_s = 0.0
        else:
            most_s = min(patience.backoff_s * 2.0 ** (attempt - 1), patience.backoff_s_max)
            wait_s = asked_s + self.random_s(most_s)
        left_s = self.left_s(deadline_at)
        if left_s is not None and wait_s >= left_s:
            raise DeadlineExceeded(
                f"model {self.name!r}: {shown(endpoint.url)} {fault}, and the next attempt would begin after the"
                f" deadline ({after})"
            ) from fault
        return wait_s


def shown(url: str) -> str:
    """Return an address without the password that it may carry."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc="…@" + parts.netloc.rpartition("@")[2]))


_NOTHING = Usage()
