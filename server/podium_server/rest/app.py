"""The application: the endpoints, the page about them, and what is answered where nothing is."""

from __future__ import annotations

import asyncio

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from podium_server.rest import faults
from podium_server.rest.answers import Rest, fault_response, json_response
from podium_server.rest.calls import call as call_of
from podium_server.rest.dialects.shared import SHARED
from podium_server.rest.endpoints import endpoints
from podium_server.rest.openapi import document
from podium_server.rest.page import page


def app(rest: Rest) -> Starlette:
    """Return the application."""
    listed = endpoints(rest)
    described: list[dict[str, object]] = []

    async def openapi(_request: Request) -> Response:
        # Made when it is first asked for: it takes a tenth of a second, and few ask.
        if not described:
            described.append(await asyncio.to_thread(document, listed, rest.version))
        return json_response(described[0])

    async def docs(_request: Request) -> Response:
        policy = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"}
        return HTMLResponse(page(listed, rest.version), headers=policy)

    return Starlette(
        routes=[
            *(Route(one.path, one.app, methods=[one.verb]) for one in listed),
            Route("/openapi.json", openapi),
            Route("/docs", docs),
        ],
        exception_handlers={HTTPException: _not_there},
    )


async def _not_there(request: Request, error: Exception) -> Response:
    """Answer for a path or a method that is not there, so that clients of any dialect can read it."""
    assert isinstance(error, HTTPException)  # for mypy: it is registered for these
    if error.status_code == 405:
        message = f"{request.method} is not for {request.url.path}"
    else:
        message = f"nothing is at {request.url.path}; /openapi.json lists what there is"
    fault = faults.of_http(error.status_code, message[:300], dict(error.headers or {}))
    return fault_response(fault, SHARED.refuse, call_of(request, "", "").request_id)
