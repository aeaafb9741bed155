"""How every request of HTTP ends: with a body, with an error in the words of its dialect, or with nobody to tell."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from podium_server.limits import Limits
from podium_server.rest import faults
from podium_server.rest.bodies import Bodies
from podium_server.rest.calls import Faulted, Gone, shown_ledger
from podium_server.rest.faults import Fault, HttpError
from podium_server.transport.door import REQUEST_ID_KEY, Call, Door

log = logging.getLogger(__name__)

LEDGER_KEY = "x-podium-ledger"

Refuse = Callable[[Fault, str], tuple[int, Any]]
"""Makes the status and the body of an error, of the fault and the request id."""


@dataclass(frozen=True, slots=True)
class Rest:
    """What the endpoints share.

    Args:
        door: that every call goes through.
        bodies: reads them.
        pipelines: what names that clients send stand for; other names are pipelines' own.
        ready: tells whether pipelines can answer now.
        limits: of requests.
        version: of this server.

    """

    door: Door
    bodies: Bodies
    pipelines: Mapping[str, str]
    ready: Callable[[], bool]
    limits: Limits
    version: str


def body(value: Any) -> bytes:
    """Return a body of JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def json_response(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return an answer of JSON."""
    return Response(body(value), status, headers, "application/json")


def fault_response(fault: Fault, refuse: Refuse, request_id: str) -> Response:
    """Return the answer that an error is."""
    status, value = refuse(fault, request_id)
    headers = {REQUEST_ID_KEY: request_id, **fault.all_headers}
    if fault.spent is not None:
        headers[LEDGER_KEY] = shown_ledger(fault.spent)
    return json_response(value, status=status, headers=headers)


async def answered(
    scope: Scope,
    receive: Receive,
    send: Send,
    call: Call,
    work: Callable[[], Awaitable[Response]],
    refuse: Callable[[], Refuse],
) -> None:
    """Do the work of a request, and send what comes of it.

    Args:
        scope: of ASGI.
        receive: of ASGI.
        send: of ASGI.
        call: whose request id an error carries.
        work: returns the answer.
        refuse: returns who writes an error; it may be known only once the body was read.

    """
    try:
        response = await work()
    except (Gone, ClientDisconnect):
        return
    except HttpError as error:
        response = fault_response(error.fault, refuse(), call.request_id)
    except Faulted as error:
        response = fault_response(error.fault, refuse(), call.request_id)
    except asyncio.CancelledError:
        # The server closes its sockets, and waited long enough before.
        fault = faults.of_http(503, "this server is stopping; another one will answer", {"connection": "close"})
        response = fault_response(fault, refuse(), call.request_id)
    except Exception:
        log.exception("an error of ours, in a request", extra={"request_id": call.request_id})
        message = f"an internal error; the log of the server has it under the request id {call.request_id}"
        response = fault_response(faults.of_http(500, message, {}), refuse(), call.request_id)
    await response(scope, receive, send)
