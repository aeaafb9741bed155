"""What can go wrong in one attempt at an endpoint: five kinds, each of which says what follows from it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from importlib.util import find_spec

import httpx2
import openai

from podium_server.errors import BackendRefused

CONNECTION_ERRORS: tuple[type[Exception], ...] = (openai.APIConnectionError, httpx2.HTTPError, OSError)
if find_spec("aiohttp") is not None:
    import aiohttp

    # openai's transport lets a few of them through, such as a reply that is no HTTP.
    CONNECTION_ERRORS = (*CONNECTION_ERRORS, aiohttp.ClientError)


class Fault(Exception):
    """One attempt failed. The text goes after the endpoint's name."""

    used = False
    """Whether the endpoint is likely to have worked on it, and so to bill it."""
    unwell = False
    """Whether it speaks against the endpoint, not only against this call."""


class Unreachable(Fault):
    """No connection came about: nothing was sent."""

    unwell = True


class Lost(Fault):
    """It was sent, and nothing came back that can be read."""

    used = True
    unwell = True


class Taught(Fault):
    """The endpoint refuses a field that most take. That is remembered, and the next attempt goes without it."""


class Declined(Fault):
    """The endpoint answered that it does not work now: too busy, or broken."""

    def __init__(self, text: str, *, status: int, final: bool, retry_after_s: float | None) -> None:
        super().__init__(text)
        self.status = status
        self.unwell = status >= 500
        self.final = final
        """Whether the endpoint asks not to be asked again."""
        self.retry_after_s = retry_after_s


class Refused(Fault):
    """The endpoint will never take the call: `error` is what ends it."""

    def __init__(self, error: BackendRefused) -> None:
        super().__init__(str(error))
        self.error = error


def is_unknown_field(fault: Fault, attempt: int) -> bool:
    """Whether an endpoint may answer so to a field that it does not know; a 500 is believed the second time."""
    return isinstance(fault, Refused) or (isinstance(fault, Declined) and fault.status == 500 and attempt > 1)


def connection_fault(error: Exception) -> Fault:
    """Say what a failed connection means: who could not even connect has sent nothing."""
    root: BaseException = error
    while (deeper := root.__cause__ or (root.__context__ if root.__cause__ is None else None)) is not None:
        root = deeper
    text = " ".join(str(root).split())[:200] or type(root).__name__
    name = type(root).__name__
    refused = isinstance(root, ConnectionRefusedError) or "ConnectorError" in name or "connect" in name.lower()
    if refused and not isinstance(root, ConnectionResetError) and "Disconnected" not in name:
        return Unreachable(f"cannot be reached: {text}")
    return Lost(f"broke the connection off: {text}")


def retry_after_s(headers: Mapping[str, str], now: Callable[[], float] = time.time) -> float | None:
    """Return the seconds that an endpoint asks to be left alone for; None where it does not say."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        try:
            asked_s = float(value) * unit_s
        except ValueError:
            continue
        if math.isfinite(asked_s) and asked_s >= 0.0:
            return asked_s
    try:
        at = parsedate_to_datetime(headers.get("retry-after", ""))
    except (TypeError, ValueError):
        return None
    return max(0.0, at.timestamp() - now())
