"""Attempts at a call: where each is sent, what its failure means, how long to wait for the next, what it used."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import httpx2
import openai

from podium_server.accounting.usage import Usage
from podium_server.backends.attempts import Attempts, Bill, shown
from podium_server.backends.chat.backend import ChatCall
from podium_server.backends.chat.endpoints import Endpoint, Endpoints
from podium_server.backends.chat.openai.dialects import Forms, Quirks, is_context_error
from podium_server.backends.chat.openai.faults import (
    CONNECTION_ERRORS,
    Declined,
    Fault,
    Lost,
    Refused,
    Taught,
    connection_fault,
    is_unknown_field,
    retry_after_s,
)
from podium_server.backends.chat.openai.fields import chat_fields
from podium_server.backends.chat.openai.http import encoded, http_client
from podium_server.backends.chat.openai.replies import Answer, MalformedReply, read_answer
from podium_server.backends.chat.openai.settings import ChatSettings
from podium_server.backends.chat.tokens import BYTES_PER_TOKEN, TokenCounter
from podium_server.backends.json_errors import error_body
from podium_server.errors import BackendRefused, DeadlineExceeded
from podium_server.telemetry import spans

_JSON = {"content-type": "application/json", "accept": "application/json", "accept-encoding": "identity"}


@dataclass(frozen=True, slots=True)
class Request:
    """A call, and how it is put to the endpoints."""

    call: ChatCall
    forms: Forms
    label_ids: Mapping[str, tuple[int, ...]] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    prefix_ids: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


# One for each field that an endpoint may refuse, and one for an endpoint that refuses both names of the same.
_LESSONS_MAX = 4

_ESTIMATED: Mapping[str, int] = MappingProxyType({"usage_estimated": 1})


class Unsupported(Exception):
    """The endpoint refuses a call that it was free to refuse."""


class Caller:
    """Makes calls at the endpoints of one model: attempts, waits between them, and the bill of each.

    Args:
        name: the configured model's name.
        model: what the endpoints call it.
        base_urls: of the endpoints.
        key: of the endpoints; empty where none is needed.
        key_env: the environment variable that it came from.
        settings: limits.
        quirks: what the endpoints are taken to refuse before they have said so.
        tokens: counts what an endpoint does not tell.
        extra_body: fields added to every call.
        headers: added to every call.
        clock: seconds that only grow; a deadline is a time of this clock.
        sleep: waits so many seconds.
        random_s: a number between 0 and its argument.

    """

    def __init__(
        self,
        name: str,
        *,
        model: str,
        base_urls: Sequence[str],
        key: str,
        key_env: str | None,
        settings: ChatSettings,
        quirks: Quirks,
        tokens: TokenCounter,
        extra_body: Mapping[str, Any],
        headers: Mapping[str, str],
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        random_s: Callable[[float], float],
    ) -> None:
        self._name = name
        self._model = model
        self._key = key
        self._key_env = key_env
        self.settings = settings
        self._quirks = quirks
        self._tokens = tokens
        self._extra_body = extra_body
        self._clock = clock
        self._sleep = sleep
        self.revision = model
        """What the endpoints say that they serve; the configured model id until they have said so."""
        self.endpoints = Endpoints(tuple(base_urls), self.settings.endpoint_limits, clock=clock, sleep=sleep)
        self._tries = Attempts(name, self.endpoints, settings, clock, random_s)
        self._http = http_client(
            self.settings.concurrency * len(self.endpoints.all) + 8,
            connect_wait_s_max=self.settings.connect_wait_s_max,
            reply_bytes_max=self.settings.reply_bytes_max,
        )
        # A key that nobody configured is not sent, not even as "none".
        self._options: openai.RequestOptions = {} if key else {"headers": {"Authorization": openai.omit}}
        self._clients = {
            endpoint.url: openai.AsyncOpenAI(
                api_key=key or "none",
                base_url=endpoint.url,
                max_retries=0,  # ours are on the bill
                timeout=self._http.timeout,
                http_client=self._http,
                default_headers={**_JSON, **headers},
            )
            for endpoint in self.endpoints.all
        }

    async def aclose(self) -> None:
        """Close connections."""
        await self._http.aclose()

    def where(self) -> str:
        """Return the endpoints' addresses, as a message shows them."""
        return ", ".join(shown(endpoint.url) for endpoint in self.endpoints.all)

    def _body(self, request: Request) -> bytes:
        token_ids = None
        if request.label_ids is not None:
            token_ids = [number for numbers in request.label_ids.values() for number in numbers]
        fields = chat_fields(request.call, request.forms, self._quirks, token_ids=token_ids)
        fields |= request.extra
        return encoded({"model": self._model, **fields, **self._extra_body})

    async def answer(
        self, request: Request, bill: Bill, deadline_at: float | None, *, optional: bool = False
    ) -> Answer:
        """Make attempts until one succeeds or the call has failed for good.

        Args:
            request: what to send.
            bill: takes every attempt, and every wait before it.
            deadline_at: of the call.
            optional: the endpoint may say that it does not know a field (`Unsupported`).

        """
        settings = self.settings
        quirks = self._quirks
        body = self._body(request)
        tried: list[Endpoint] = []
        reserved = 0
        if settings.tokens_per_minute is not None:
            reserved = len(body) // BYTES_PER_TOKEN + request.call.max_output_tokens
        attempt = lessons = 0
        while True:
            attempt += 1
            endpoint = await self._tries.place(reserved, tried, bill, deadline_at)
            unused = 0
            try:
                answer = await self._attempt(endpoint, body, request, bill, deadline_at, quirks)
                unused = reserved - bill.last_tokens if reserved else 0
            except Fault as fault:
                unused = 0 if fault.used else reserved
                if optional and is_unknown_field(fault, attempt):
                    raise Unsupported from fault
                if quirks != self._quirks and not isinstance(fault, Refused) and lessons < _LESSONS_MAX:
                    # The endpoint has taught us (this call or another) which field it refuses: that is no failure.
                    lessons += 1
                    quirks, body = self._quirks, self._body(request)
                    attempt -= 1
                    continue
                wait_s = self._tries.after(fault, endpoint, attempt, tried, deadline_at, bill)
            else:
                return answer
            finally:
                self.endpoints.leave(endpoint, unused_tokens=unused)
            if wait_s > 0.0:
                bill.waited(wait_s)
                await self._sleep(wait_s)

    async def _attempt(
        self,
        endpoint: Endpoint,
        body: bytes,
        request: Request,
        bill: Bill,
        deadline_at: float | None,
        quirks: Quirks,
    ) -> Answer:
        """Make one attempt, and enter it in the bill whatever becomes of it.

        Raises:
            Fault: what went wrong.

        """
        left_s = self.left_s(deadline_at)
        if left_s is not None and left_s <= 0.0:
            raise DeadlineExceeded(f"model {self._name!r}: the deadline passed before the call was sent")
        wait_s = self.settings.reply_wait_s_max if left_s is None else min(self.settings.reply_wait_s_max, left_s)
        began_s = self._clock()
        # Until something better is known: sent, and its prompt read.
        used: Usage | None = None
        try:
            try:
                async with asyncio.timeout(wait_s):
                    response = await self._clients[endpoint.url].post(
                        # The whole address: the client joins a relative one to its base anew for each call.
                        f"{endpoint.url}/chat/completions",
                        content=body,
                        cast_to=httpx2.Response,
                        options=self._traced(),
                    )
            except TimeoutError:
                if left_s is not None and wait_s == left_s:
                    raise DeadlineExceeded(
                        f"model {self._name!r}: {shown(endpoint.url)} gave no answer before the deadline"
                    ) from None
                raise Lost(f"gave no answer within {wait_s:g} s") from None
            except openai.APIStatusError as error:
                used = Usage()  # a refusal bills no tokens
                about_us = error.response.status_code in (401, 402, 403, 404)
                if not about_us and error_body(error.response.content).code == "content_filter":
                    return Answer(text="", finish_reason="content_filter", model=self.revision)
                raise await self._status_fault(endpoint, error.response, quirks) from error
            except CONNECTION_ERRORS as error:
                # Nothing tells how far it went; who could not even connect has sent nothing.
                fault = connection_fault(error)
                used = None if fault.used else Usage()
                try:
                    raise fault from error
                finally:
                    del fault  # it holds this frame, and so the prompt
            try:
                answer = read_answer(response.content)
            except MalformedReply as error:
                message = f"answered with {error}"
                if "html" in response.headers.get("content-type", ""):
                    message += "; does its address end as it should, in /v1?"
                raise Lost(self._discreet(message)) from error
            used = self._used(request, answer)
        finally:
            bill.attempted(self._used(request, None) if used is None else used, self._clock() - began_s)
        self.endpoints.well(endpoint)
        if answer.model:
            self.revision = answer.model
        return answer

    def _traced(self) -> openai.RequestOptions:
        """Return the options of a request, with the trace that it belongs to, where there is one."""
        trace = spans.headers()
        if not trace:
            return self._options
        return {**self._options, "headers": {**(self._options.get("headers") or {}), **trace}}

    async def _status_fault(self, endpoint: Endpoint, response: httpx2.Response, sent: Quirks) -> Fault:
        """Say what an error status means."""
        status = response.status_code
        body = error_body(response.content)
        body = replace(body, message=self._discreet(body.message))
        said = f"answered {status}: {body.message}"
        if status in (401, 403):
            cure = (
                f"put a key that is good for it into the environment variable {self._key_env}"
                if self._key_env is not None
                else "it wants a key: name the environment variable that holds it (api_key_env)"
            )
            return self._refusal(endpoint, f"{said}; {cure}")
        if status == 402 or body.code == "insufficient_quota":
            paid = f" (the one whose key is in {self._key_env})" if self._key_env is not None else ""
            return self._refusal(endpoint, f"{said}; the account{paid} has nothing left to spend")
        if status == 404:
            return self._refusal(endpoint, f"{said}{await self._models_there(endpoint)}")
        if status in (400, 422) and sent.after(body) != sent:
            # From what is known by now: another call may have learned the same, or another thing, meanwhile.
            self._quirks = self._quirks.after(body)
            return Taught(said)
        if status in (400, 413, 422, 500) and is_context_error(body):
            return self._refusal(endpoint, f"{said}; the prompt is too long for the model: shorten the documents")
        should = response.headers.get("x-should-retry", "").lower()
        retry = should == "true" or (should != "false" and (status in (408, 409, 425, 429) or status >= 500))
        if not retry and status < 500 and status != 429:
            return self._refusal(endpoint, said)
        return Declined(said, status=status, final=not retry, retry_after_s=retry_after_s(response.headers))

    def _refusal(self, endpoint: Endpoint, text: str) -> Refused:
        message = f"model {self._name!r} ({self._model}): {shown(endpoint.url)} {text}"
        return Refused(BackendRefused(message, metadata={"model": self._name}))

    async def _models_there(self, endpoint: Endpoint) -> str:
        """Return the tail of a message about a model that an endpoint does not know."""
        names = [str(one.get("id")) for one in await self.models(endpoint)]
        if not names:
            return f"; is {self._model!r} the model's name there, and does the address end in /v1?"
        shown = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
        return f"; it serves {shown}, and not {self._model!r}" if self._model not in names else f"; it serves {shown}"

    async def models(self, endpoint: Endpoint) -> list[dict[str, Any]]:
        """Return what the endpoint says that it serves; nothing where it does not say."""
        with suppress(TimeoutError, openai.APIStatusError, ValueError, *CONNECTION_ERRORS):
            async with asyncio.timeout(self.settings.connect_wait_s_max):
                response = await self._clients[endpoint.url].get(
                    "/models", cast_to=httpx2.Response, options=self._options
                )
            body = json.loads(response.content)
            listed = body.get("data") if isinstance(body, dict) else None
            return [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
        return []

    def _used(self, request: Request, answer: Answer | None) -> Usage:
        """Return the tokens of one attempt: as told, else counted here and marked as that."""
        told = None if answer is None else answer.usage
        if told is None:
            began_s = self._clock()
            prompt = sum(self._tokens.count(turn.content) for turn in request.call.messages)
            output = 0 if answer is None else self._tokens.count(answer.text) + self._tokens.count(answer.thought)
            return Usage(
                prompt_tokens=prompt,
                output_tokens=output,
                reasoning_tokens=self._tokens.count(answer.thought) if answer is not None and answer.thought else 0,
                tokenize_s=self._clock() - began_s,
                repairs=_ESTIMATED,
            )
        reasoning = told.reasoning_tokens
        if reasoning is None:
            thought = answer.thought if answer is not None else ""
            reasoning = min(self._tokens.count(thought), told.output_tokens) if thought else 0
        return Usage(
            prompt_tokens=told.prompt_tokens,
            cached_tokens=told.cached_tokens,
            output_tokens=told.output_tokens,
            reasoning_tokens=reasoning,
        )

    async def tokenize(self, fields: Mapping[str, Any]) -> list[int]:
        """Ask vLLM's `/tokenize`, which stands beside `/v1` and costs no model call; empty where there is none."""
        endpoint = min(self.endpoints.all, key=lambda one: (one.aside_until_s, one.outstanding))
        url = endpoint.url.removesuffix("/v1") + "/tokenize"
        with suppress(TimeoutError, openai.APIStatusError, ValueError, *CONNECTION_ERRORS):
            async with asyncio.timeout(self.settings.connect_wait_s_max):
                response = await self._clients[endpoint.url].post(
                    url,
                    content=encoded({"model": self._model, **fields}),
                    cast_to=httpx2.Response,
                    options=self._options,
                )
            body = json.loads(response.content)
            tokens = body.get("tokens") if isinstance(body, dict) else None
            return [one for one in tokens if isinstance(one, int)] if isinstance(tokens, list) else []
        return []

    def left_s(self, deadline_at: float | None) -> float | None:
        """Return the seconds before a deadline; None where there is none."""
        return self._tries.left_s(deadline_at)

    def _discreet(self, text: str) -> str:
        """Return a message of the endpoint's without the key that it may repeat."""
        return text.replace(self._key, "…") if len(self._key) >= 4 else text
