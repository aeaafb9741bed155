"""A request of HTTP into a call of the door: what it brings, its deadline, and its end when the client goes away."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from secrets import token_hex
from typing import Any, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from starlette.requests import Request
from starlette.types import Receive

from podium.v1 import ledger_pb2
from podium_server.errors import InvalidRequest
from podium_server.rest import faults
from podium_server.rest.faults import Fault
from podium_server.transport.door import REQUEST_ID_KEY, TRACEPARENT_KEY, Call, Door, Failed, Method

T = TypeVar("T")

TIMEOUT_KEY = "x-podium-timeout-ms"
TIMEOUT_S_KEY = "request-timeout"
SUBJECTS_KEY = "podium.subjects"
"""In the state of a scope: names in the certificate that the other end of the connection has proved to own."""

_REQUEST_ID = re.compile(r"[\x20-\x7e]{1,128}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_NUMBER = re.compile(r"\d{1,12}(\.\d{1,9})?")
# A header of more is cut off by common proxies and clients; the stages are left out then.
_LEDGER_BYTES_MAX = 2_000


class Gone(Exception):
    """The client went away. There is nobody to answer."""


class Faulted(Exception):
    """A call ended in a fault, which is ready to be written."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


def call(request: Request, method: str, via: str) -> Call:
    """Return the call that a request is. A deadline that cannot be read is refused later, by `deadline`."""
    metadata: dict[str, str] = {}
    for key, value in request.headers.items():
        metadata[key] = f"{metadata[key]}, {value}" if key in metadata else value
    request_id = metadata.get(REQUEST_ID_KEY, "")
    traceparent = metadata.get(TRACEPARENT_KEY, "")
    named = bool(_REQUEST_ID.fullmatch(request_id))
    began = time.monotonic()
    timeout_s = _timeout_s(metadata)
    return Call(
        method=method,
        request_id=request_id if named else token_hex(16),
        named=named,
        traceparent=traceparent if _TRACEPARENT.fullmatch(traceparent) else "",
        began=began,
        deadline_at=None if timeout_s is None else began + timeout_s,
        metadata=metadata,
        peer=_peer(request),
        via=via,
        subjects=request.scope.get("state", {}).get(SUBJECTS_KEY, ()),
    )


def check_timeout(call: Call) -> None:
    """Refuse a deadline that cannot be read.

    Raises:
        InvalidRequest: with the name of the header.

    """
    for key, unit in ((TIMEOUT_KEY, "milliseconds"), (TIMEOUT_S_KEY, "seconds")):
        given = call.metadata.get(key)
        if given is not None and not (_NUMBER.fullmatch(given) and float(given) > 0):
            raise InvalidRequest(key, f"is {given[:32]!r}; a number of {unit} above 0")


def _timeout_s(metadata: dict[str, str]) -> float | None:
    given = [
        float(metadata[key]) / per
        for key, per in ((TIMEOUT_KEY, 1000.0), (TIMEOUT_S_KEY, 1.0))
        if key in metadata and _NUMBER.fullmatch(metadata[key])
    ]
    return min(filter(None, given), default=None)


def _peer(request: Request) -> str:
    if request.client is None:
        return ""
    host, port = request.client.host, request.client.port
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"


async def one(door: Door, method: Method, read: Callable[[], Any], call: Call, receive: Receive) -> Message:
    """Answer a call, for as long as the client is there and its deadline is not past.

    Raises:
        Faulted: with what to tell the client.
        Gone: there is no client any more; what the call spent is charged.

    """

    def checked() -> Any:
        check_timeout(call)
        return read()

    try:
        async with asyncio.timeout_at(call.deadline_at):
            return await attended(door.one(method, checked, call), receive)
    except Failed as failed:
        raise Faulted(faults.of_call(failed)) from failed
    except TimeoutError:
        raise Faulted(faults.too_late()) from None


async def all_of(
    door: Door, method: Method, messages: Callable[[], AsyncIterator[Message]], call: Call, receive: Receive
) -> list[Message]:
    """Answer a call that streams both ways, whose requests are all here; as `one`."""

    def read() -> AsyncIterator[Message]:
        check_timeout(call)
        return messages()

    async def collect() -> list[Message]:
        async with aclosing(door.many(method, read, call)) as answers:
            return [answer async for answer in answers]

    try:
        async with asyncio.timeout_at(call.deadline_at):
            return await attended(collect(), receive)
    except Failed as failed:
        raise Faulted(faults.of_call(failed)) from failed
    except TimeoutError:
        raise Faulted(faults.too_late()) from None


async def attended(work: Coroutine[Any, Any, T], receive: Receive) -> T:
    """Return what a piece of work comes to; cancel it when the client goes, and wait until it has billed.

    Raises:
        Gone: the client went first.

    """
    working = asyncio.create_task(work)
    watching = asyncio.create_task(_until_gone(receive))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Gone
        return working.result()
    finally:
        await ended(working, watching)
        # Its error has this frame in its traceback: they would keep each other, and the message, until the collector
        # comes.
        del working


async def ended(*tasks: asyncio.Task[Any]) -> None:
    """Cancel what still runs, and wait until it has ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _until_gone(receive: Receive) -> None:
    """Wait for the client to go. Its body was read already."""
    while (await receive())["type"] != "http.disconnect":
        pass


# --- what an answer says beside its body ------------------------------------------------------------------------


def shown_ledger(ledger: ledger_pb2.Ledger) -> str:
    """Return what was spent as JSON of one line: everything together, and stage by stage where that fits."""
    total = _shown_usage(ledger.total)
    stages = [
        {"stage": stage.stage, "model": stage.model, "revision": stage.revision, **_shown_usage(stage.usage)}
        for stage in ledger.stages
    ]
    whole = json.dumps({"total": total, "stages": stages}, separators=(",", ":"))
    return whole if len(whole) <= _LEDGER_BYTES_MAX else json.dumps({"total": total}, separators=(",", ":"))


def _shown_usage(usage: ledger_pb2.Usage) -> dict[str, Any]:
    made: dict[str, Any] = {
        name: getattr(usage, name)
        for name in (
            *("questions", "calls", "retries", "pairs", "prompt_tokens", "cached_prompt_tokens", "output_tokens"),
            *("reasoning_tokens", "cache_hits", "truncated_documents"),
        )
        if getattr(usage, name)
    }
    made["wall_ms"] = round(milliseconds(usage.wall_time), 3)
    # As everywhere: what is not known is not 0.
    made["cost_nano_usd"] = usage.cost_nano_usd if usage.HasField("cost_nano_usd") else None
    made["cost_basis"] = ledger_pb2.CostBasis.Name(usage.cost_basis).removeprefix("COST_BASIS_").lower()
    return made


def milliseconds(duration: Duration) -> float:
    """Return a duration in milliseconds."""
    return duration.seconds * 1e3 + duration.nanos / 1e6
