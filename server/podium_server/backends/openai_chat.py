"""A chat model behind one or more OpenAI-compatible endpoints: OpenAI, vLLM serve, SGLang, llama.cpp, Ollama, TGI, …

The connections are those of openai's client, whose own retries are off: each attempt is one call on the bill, and every
wait is bounded by the call's deadline.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx2
import openai

from podium_server.accounting.prices import Prices
from podium_server.accounting.usage import Usage
from podium_server.backends.chat import Capability, ChatCall, ChatFailure, ChatReply
from podium_server.backends.chat_probe import Found, probe
from podium_server.backends.endpoints import Endpoint, EndpointLimits, Endpoints
from podium_server.backends.openai_wire import (
    DIALECTS,
    LOGPROB_TOKEN_IDS_MAX,
    Answer,
    Forms,
    MalformedReply,
    Quirks,
    can_constrain,
    chat_fields,
    error_body,
    is_constrained,
    is_context_error,
    is_prefilled,
    label_logprobs,
    read_answer,
)
from podium_server.backends.tokens import BYTES_PER_TOKEN, TokenCounter, load_tokens
from podium_server.errors import BackendDown, BackendRefused, ConfigInvalid, DeadlineExceeded, PodiumError

_CONNECTION_ERRORS: tuple[type[Exception], ...] = (openai.APIConnectionError, httpx2.HTTPError, OSError)
if find_spec("aiohttp") is not None:
    import aiohttp

    # openai's transport lets a few of them through, such as a reply that is no HTTP.
    _CONNECTION_ERRORS = (*_CONNECTION_ERRORS, aiohttp.ClientError)

_JSON = {"content-type": "application/json", "accept": "application/json", "accept-encoding": "identity"}


@dataclass(frozen=True, slots=True)
class ChatSettings:
    """The limits of one model's calls.

    Args:
        attempts_max: of one call, the first included.
        reply_wait_s_max: of one attempt, from sending to the last byte. Longer than the worst cold prefill of a window
            of passages and a reasoning model's usual thought; a request's deadline shortens it.
        connect_wait_s_max: for a connection.
        backoff_s: the longest wait before the second attempt; doubled for each further one. The wait itself is drawn
            evenly between 0 and that (full jitter), so that calls that failed together do not return together.
        backoff_s_max: the longest wait that we choose.
        retry_after_s_max: the longest wait that an endpoint may ask for; beyond it the call fails at once.
        concurrency: calls under way at one endpoint.
        requests_per_minute: at one endpoint; None is unbounded.
        tokens_per_minute: at one endpoint, prompt and reply; None is unbounded.
        queue_max: calls that wait for a place, all requests together; one more is `Overloaded`. Each holds its prompt:
            20,000 are two round robins over 100 candidates, some 100 MB.
        put_aside_s: how long an endpoint that failed rests where another one can take its calls; doubled each time.
        put_aside_s_max: the longest rest.
        reply_bytes_max: of one reply; a longer one is cut off and counts as a failure.

    """

    attempts_max: int = 4
    reply_wait_s_max: float = 120.0
    connect_wait_s_max: float = 5.0
    backoff_s: float = 0.5
    backoff_s_max: float = 8.0
    retry_after_s_max: float = 60.0
    concurrency: int = 64
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    queue_max: int = 20_000
    put_aside_s: float = 1.0
    put_aside_s_max: float = 30.0
    reply_bytes_max: int = 8 * 1024 * 1024

    def __post_init__(self) -> None:
        for name in ("attempts_max", "concurrency", "queue_max", "reply_bytes_max"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} is {value}: it must be 1 or more")
        for name in ("reply_wait_s_max", "connect_wait_s_max", "put_aside_s", "put_aside_s_max"):
            if not (value := getattr(self, name)) > 0:
                raise ValueError(f"{name} is {value}: it must be above 0")
        for name in ("backoff_s", "backoff_s_max", "retry_after_s_max"):
            if not (value := getattr(self, name)) >= 0:
                raise ValueError(f"{name} is {value}: it must be 0 or more")
        for name in ("requests_per_minute", "tokens_per_minute"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise ValueError(f"{name} is {value}: it must be above 0, or left out where there is no limit")

    @property
    def endpoint_limits(self) -> EndpointLimits:
        """The part that the endpoints keep."""
        return EndpointLimits(
            concurrency=self.concurrency,
            requests_per_minute=self.requests_per_minute,
            tokens_per_minute=self.tokens_per_minute,
            queue_max=self.queue_max,
            put_aside_s=self.put_aside_s,
            put_aside_s_max=self.put_aside_s_max,
        )


class OpenAIChat:
    """A `ChatBackend` over endpoints that speak OpenAI's chat protocol.

    Args:
        name: the configured model's name.
        model: what the endpoints call it.
        base_urls: of endpoints that all serve this model, such as `http://127.0.0.1:8000/v1`.
        api_key_env: the environment variable that holds the key; None where none is needed.
        settings: limits.
        dialect: how the endpoints are asked for what is beyond the protocol: `openai`, `vllm`, `sglang`, `llama.cpp`,
            `ollama`, `tgi`, or `auto`, which tries all.
        capabilities: what the endpoints can do, where the configuration vouches for it; None finds it out by trying,
            at the first need.
        tokenizer: of the model: a tokenizer.json, its folder, or a name on the hub; None estimates.
        context_tokens: the most that the model can hold; None is what the endpoint says, where it does.
        drop_prefill: where the endpoints cannot continue a begun reply, send the call without its beginning and count
            it, instead of refusing the call.
        extra_body: fields added to every call, such as `{"chat_template_kwargs": {"enable_thinking": False}}`.
        headers: added to every call.
        prices: of the calls.
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
        api_key_env: str | None = None,
        settings: ChatSettings | None = None,
        dialect: str = "auto",
        capabilities: Iterable[Capability] | None = None,
        tokenizer: str | TokenCounter | None = None,
        context_tokens: int | None = None,
        drop_prefill: bool = False,
        extra_body: Mapping[str, Any] = MappingProxyType({}),
        headers: Mapping[str, str] = MappingProxyType({}),
        prices: Prices | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random_s: Callable[[float], float] = lambda most_s: random.uniform(0.0, most_s),
    ) -> None:
        if not base_urls:
            raise ConfigInvalid(f"model {name!r}: base_urls is empty; name at least one endpoint")
        for url in base_urls:
            if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
                raise ConfigInvalid(f"model {name!r}: {url!r} is no http or https address")
        if dialect not in DIALECTS:
            raise ConfigInvalid(f"model {name!r}: dialect {dialect!r} is none of {', '.join(DIALECTS)}")
        key = os.environ.get(api_key_env, "").strip() if api_key_env is not None else ""
        if api_key_env is not None and not key:
            raise ConfigInvalid(
                f"model {name!r}: the environment variable {api_key_env} is not set; put the endpoint's key there"
            )
        self._name = name
        self._model = model
        self._key = key
        self._key_env = api_key_env
        self.settings = settings if settings is not None else ChatSettings()
        self._dialect = DIALECTS[dialect]
        self._quirks = Quirks(output_bound=self._dialect.output_bound)
        self._tokens = load_tokens(tokenizer) if tokenizer is None or isinstance(tokenizer, str) else tokenizer
        self._context_tokens = context_tokens
        self._drop_prefill = drop_prefill
        self._extra_body = dict(extra_body)
        self._prices = prices if prices is not None else Prices()
        self._clock = clock
        self._sleep = sleep
        self._random_s = random_s
        self._revision = model
        self._found: Found | None = None
        if capabilities is not None:
            declared = frozenset(capabilities) | {Capability.TEXT}
            self._found = Found(declared, self._dialect.declared(declared))
        self._probing: asyncio.Task[Found] | None = None
        self._probe_usage = Usage()
        self._label_ids: dict[tuple[str, str], tuple[int, ...]] = {}
        self._under_way: set[asyncio.Task[Any]] = set()
        self._endpoints = Endpoints(
            tuple(url.rstrip("/") for url in base_urls), self.settings.endpoint_limits, clock=clock, sleep=sleep
        )
        self._http = self._http_client()
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
            for endpoint in self._endpoints.all
        }

    def _http_client(self) -> httpx2.AsyncClient:
        connections = self.settings.concurrency * len(self._endpoints.all) + 8
        options: dict[str, Any] = {
            "limits": httpx2.Limits(
                max_connections=connections,
                max_keepalive_connections=connections,
                # Shorter than the 5 s after which uvicorn, and so vLLM, closes an idle connection: a call must not be
                # sent into one that is being closed.
                keepalive_expiry=4.0,
            ),
            # The whole attempt is bounded where it is made; the client's own bounds are for each read.
            "timeout": httpx2.Timeout(None, connect=self.settings.connect_wait_s_max),
            # A redirected call would be one more call that nobody counted.
            "follow_redirects": False,
            "event_hooks": {"response": [self._bound_reply]},
        }
        # aiohttp's transport takes half the processor time of httpx's own (bench/chat_client.py).
        if find_spec("aiohttp") is not None:
            return openai.DefaultAioHttpClient(**options)
        return openai.DefaultAsyncHttpxClient(**options)

    async def _bound_reply(self, response: httpx2.Response) -> None:
        length = response.headers.get("content-length", "")
        if length.isdigit() and "content-encoding" not in response.headers:
            if int(length) > self.settings.reply_bytes_max:
                raise httpx2.ReadError(f"a reply of {length} bytes, {self.settings.reply_bytes_max} are allowed")
            return
        if isinstance(response.stream, httpx2.AsyncByteStream):
            response.stream = _BoundedStream(response.stream, self.settings.reply_bytes_max)

    # --- who it is ----------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The configured model's name."""
        return self._name

    @property
    def revision(self) -> str:
        """What the endpoint says that it serves; the configured model id until it has said so."""
        return self._revision

    @property
    def variant(self) -> str:
        """The fields that every call carries, and whether a begun reply may go without its beginning."""
        return json.dumps([self._model, self._extra_body, self._drop_prefill], sort_keys=True, default=str)

    @property
    def prices(self) -> Prices:
        """What the calls cost."""
        return self._prices

    @property
    def context_tokens(self) -> int | None:
        """The most tokens, prompt and reply together, that the model can hold; None where unknown."""
        return self._context_tokens

    @property
    def probe_usage(self) -> Usage:
        """What finding out the capabilities has used, priced. It is on no request's bill."""
        return self._probe_usage

    @property
    def token_counts_exact(self) -> bool:
        """Whether `count_tokens` is the model's own count, not an estimate."""
        return self._tokens.exact

    @property
    def endpoints(self) -> Endpoints:
        """The endpoints and the queue in front of them, for metrics."""
        return self._endpoints

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of `text`: exact with the configured tokenizer, else an upper estimate."""
        return self._tokens.count(text)

    def shorten(self, text: str, max_tokens: int, *, from_start: bool = False) -> tuple[str, bool]:
        """Cut `text` to at most `max_tokens` tokens at its end (or start); return it and whether it was cut."""
        return self._tokens.shorten(text, max_tokens, from_start=from_start)

    # --- what it can do -----------------------------------------------------------------------------------------

    async def capabilities(self) -> frozenset[Capability]:
        """Return what the endpoint can do, by trying once; remembered for the life of the backend.

        Raises:
            PodiumError: the endpoint answers nothing at all (`BackendDown`, `BackendRefused`). The next call tries
                again.

        """
        found = (await self._find()).capabilities
        # Whoever accepts that a beginning is dropped gets by without the ability.
        return found | {Capability.PREFILL} if self._drop_prefill else found

    async def _find(self) -> Found:
        if self._found is not None:
            return self._found
        if self._probing is None or self._probing.done():
            self._probing = asyncio.create_task(probe(_ProbeSeat(self), self._dialect))
            # Those who wait for it may all be cancelled; its error is theirs, and nobody else's.
            self._probing.add_done_callback(lambda task: task.cancelled() or task.exception())
        # Shielded: one caller who is cancelled must not take the answer from the others who wait for it.
        found = await asyncio.shield(self._probing)
        self._found = found
        if self._context_tokens is None:
            self._context_tokens = found.context_tokens
        return found

    # --- calls --------------------------------------------------------------------------------------------------

    async def complete(
        self,
        call: ChatCall,
        *,
        deadline_at: float | None = None,
        on_cancel: Callable[[Usage], None] | None = None,
    ) -> ChatReply:
        """Make one call, with bounded retries, each charged. See `ChatBackend.complete`."""
        bill = _Bill()
        task = asyncio.current_task()
        if task is not None:
            self._under_way.add(task)
        try:
            try:
                request = await self._request(call, deadline_at)
                answer = await self._attempts(request, bill, deadline_at)
                reply = await self._reply(request, answer)
            except PodiumError as error:
                raise ChatFailure(error, self._prices.charge(bill.usage)) from error
            usage = bill.usage
            if counted := _repairs(request.notes, answer):
                usage = usage + Usage(repairs=counted)
            return replace(reply, usage=self._prices.charge(usage))
        except asyncio.CancelledError:
            if on_cancel is not None:
                on_cancel(self._prices.charge(bill.usage))
            raise
        finally:
            if task is not None:
                self._under_way.discard(task)

    async def aclose(self) -> None:
        """Close connections. Calls under way are cancelled."""
        mine = asyncio.current_task()
        others = [task for task in (*self._under_way, self._probing) if task is not None and task is not mine]
        for task in others:
            task.cancel()
        self._endpoints.close()
        await asyncio.gather(*others, return_exceptions=True)
        await self._http.aclose()

    async def _request(self, call: ChatCall, deadline_at: float | None) -> _Request:
        """Put a call into the endpoint's words."""
        if sum(one is not None for one in (call.schema, call.choice, call.regex)) > 1:
            raise ValueError("a call takes one of schema, choice and regex")
        special = call.labels is not None or call.score_continuation is not None
        if not (special or is_constrained(call) or is_prefilled(call)):
            return _Request(call, Forms())
        try:
            async with asyncio.timeout(self._left_s(deadline_at)):
                found = await self._find()
        except TimeoutError:
            raise DeadlineExceeded(f"the deadline passed while {self._name!r} was tried for what it can do") from None
        return await self._special_request(call, found)

    async def _special_request(self, call: ChatCall, found: Found) -> _Request:
        notes: list[str] = []
        if is_prefilled(call) and not found.forms.prefill:
            if not self._drop_prefill:
                raise self._lacks("continue a begun reply (prefill)")
            call = replace(call, messages=call.messages[:-1])
            notes.append("prefill_dropped")
        if is_constrained(call) and not can_constrain(call, found.forms):
            notes.append("unconstrained")
        if call.score_continuation is not None:
            if Capability.PROMPT_LOGPROBS not in found.capabilities:
                raise self._lacks("tell the log-probability of a given continuation (prompt_logprobs)")
            return await self._continuation_request(call, found, tuple(notes))
        if call.labels is None:
            return _Request(call, found.forms, notes=tuple(notes))
        if Capability.LABEL_LOGPROBS in found.capabilities:
            ids = await self._ids_of_labels(call)
            if ids is not None:
                return _Request(call, found.forms, label_ids=ids, notes=tuple(notes))
        if Capability.LOGPROBS not in found.capabilities:
            raise self._lacks("tell log-probabilities")
        return _Request(call, found.forms, notes=tuple(notes))

    def _lacks(self, what: str) -> BackendRefused:
        return BackendRefused(
            f"model {self._name!r} ({self._model} at {self._where()}) cannot {what}; use a strategy that does not need"
            " it, or an endpoint that can"
        )

    def _where(self) -> str:
        return ", ".join(_shown(endpoint.url) for endpoint in self._endpoints.all)

    def _body(self, request: _Request) -> bytes:
        token_ids = None
        if request.label_ids is not None:
            token_ids = [number for numbers in request.label_ids.values() for number in numbers]
        fields = chat_fields(request.call, request.forms, self._quirks, token_ids=token_ids)
        fields |= request.extra
        return encoded({"model": self._model, **fields, **self._extra_body})

    async def _attempts(
        self, request: _Request, bill: _Bill, deadline_at: float | None, *, optional: bool = False
    ) -> Answer:
        """Make attempts until one succeeds or the call has failed for good.

        Args:
            request: what to send.
            bill: takes every attempt, and every wait before it.
            deadline_at: of the call.
            optional: the endpoint may say that it does not know a field (`_Unsupported`).

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
            endpoint = await self._place(reserved, tried, bill, deadline_at)
            unused = 0
            try:
                answer = await self._attempt(endpoint, body, request, bill, deadline_at, quirks)
                unused = reserved - bill.last_tokens if reserved else 0
            except _Fault as fault:
                unused = 0 if fault.used else reserved
                if fault.answer is not None:
                    return fault.answer
                if optional and fault.optional_refusal and (fault.refused is not None or attempt > 1):
                    raise _Unsupported from fault
                if quirks != self._quirks and fault.refused is None and lessons < _LESSONS_MAX:
                    # The endpoint has taught us which field it refuses: that is no failure of this call.
                    lessons += 1
                    quirks, body = self._quirks, self._body(request)
                    attempt -= 1
                    continue
                wait_s = self._after(fault, endpoint, attempt, tried, deadline_at, bill)
            else:
                return answer
            finally:
                self._endpoints.leave(endpoint, unused_tokens=unused)
            if wait_s > 0.0:
                bill.waited(wait_s)
                await self._sleep(wait_s)

    def _after(
        self,
        fault: _Fault,
        endpoint: Endpoint,
        attempt: int,
        tried: list[Endpoint],
        deadline_at: float | None,
        bill: _Bill,
    ) -> float:
        """Return how long to wait before the next attempt, or raise what ends the call."""
        settings = self.settings
        if fault.unwell:
            self._endpoints.failed(endpoint)
        if fault.retry_after_s is not None:
            self._endpoints.hold(endpoint, min(fault.retry_after_s, settings.retry_after_s_max))
        if fault.refused is not None:
            raise fault.refused from fault
        if endpoint not in tried:
            tried.append(endpoint)
        elsewhere = self._endpoints.others_well(tried)
        asked_s = 0.0 if elsewhere else (fault.retry_after_s or 0.0)
        after = f"after {bill.calls} of at most {settings.attempts_max} attempts"
        if attempt >= settings.attempts_max or fault.final or asked_s > settings.retry_after_s_max:
            raise BackendDown(
                f"model {self._name!r}: {_shown(endpoint.url)} {fault} ({after})",
                retry_after_s=max(1.0, fault.retry_after_s or 0.0),
                metadata={"model": self._name, "attempts": str(bill.calls)},
            ) from fault
        if elsewhere:
            wait_s = 0.0
        else:
            most_s = min(settings.backoff_s * 2.0 ** (attempt - 1), settings.backoff_s_max)
            wait_s = asked_s + self._random_s(most_s)
        left_s = self._left_s(deadline_at)
        if left_s is not None and wait_s >= left_s:
            raise DeadlineExceeded(
                f"model {self._name!r}: {_shown(endpoint.url)} {fault}, and the next attempt would begin after the"
                f" deadline ({after})"
            ) from fault
        return wait_s

    async def _place(self, tokens: int, tried: list[Endpoint], bill: _Bill, deadline_at: float | None) -> Endpoint:
        began_s = self._clock()
        try:
            async with asyncio.timeout(self._left_s(deadline_at)):
                return await self._endpoints.place(tokens, tried=tried)
        except TimeoutError:
            raise DeadlineExceeded(
                f"model {self._name!r}: the deadline passed while the call waited for a place"
                f" ({self._endpoints.outstanding} under way, {self._endpoints.waiting} waiting)"
            ) from None
        finally:
            bill.waited(self._clock() - began_s)

    async def _attempt(
        self,
        endpoint: Endpoint,
        body: bytes,
        request: _Request,
        bill: _Bill,
        deadline_at: float | None,
        quirks: Quirks,
    ) -> Answer:
        """Make one attempt, and enter it in the bill whatever becomes of it.

        Raises:
            _Fault: what went wrong.

        """
        left_s = self._left_s(deadline_at)
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
                        options=self._options,
                    )
            except TimeoutError:
                if left_s is not None and wait_s == left_s:
                    raise DeadlineExceeded(
                        f"model {self._name!r}: {_shown(endpoint.url)} gave no answer before the deadline"
                    ) from None
                raise _Fault(f"gave no answer within {wait_s:g} s", used=True, unwell=True) from None
            except openai.APIStatusError as error:
                used = Usage()  # a refusal bills no tokens
                raise await self._status_fault(endpoint, error.response, quirks) from error
            except _CONNECTION_ERRORS as error:
                # Nothing tells how far it went; who could not even connect has sent nothing.
                fault = _connection_fault(error)
                used = None if fault.used else Usage()
                raise fault from error
            try:
                answer = read_answer(response.content)
            except MalformedReply as error:
                message = f"answered with {error}"
                if "html" in response.headers.get("content-type", ""):
                    message += "; does its address end as it should, in /v1?"
                raise _Fault(self._discreet(message), used=True, unwell=True) from error
            used = self._used(request, answer)
        finally:
            bill.attempted(self._used(request, None) if used is None else used, self._clock() - began_s)
        self._endpoints.well(endpoint)
        if answer.model:
            self._revision = answer.model
        return answer

    async def _status_fault(self, endpoint: Endpoint, response: httpx2.Response, sent: Quirks) -> _Fault:
        """Say what an error status means."""
        status = response.status_code
        body = error_body(response.content)
        body = replace(body, message=self._discreet(body.message))
        said = f"answered {status}: {body.message}"
        asked_s = retry_after_s(response.headers)
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
        if body.code == "content_filter":
            return _Fault(said, answer=Answer(text="", finish_reason="content_filter", model=self._revision))
        if status in (400, 422) and sent.after(body) != sent:
            # From what is known by now: another call may have learned the same, or another thing, meanwhile.
            self._quirks = self._quirks.after(body)
            return _Fault(said)
        if status in (400, 413, 422, 500) and is_context_error(body):
            return self._refusal(endpoint, f"{said}; the prompt is too long for the model: shorten the documents")
        should = response.headers.get("x-should-retry", "").lower()
        retry = should == "true" or (should != "false" and (status in (408, 409, 425, 429) or status >= 500))
        if not retry and status < 500 and status != 429:
            return self._refusal(endpoint, said)
        return _Fault(
            said, retry_after_s=asked_s, unwell=status >= 500, final=not retry, optional_refusal=status == 500
        )

    def _refusal(self, endpoint: Endpoint, text: str) -> _Fault:
        message = f"model {self._name!r} ({self._model}): {_shown(endpoint.url)} {text}"
        return _Fault(message, refused=BackendRefused(message, metadata={"model": self._name}), optional_refusal=True)

    async def _models_there(self, endpoint: Endpoint) -> str:
        """Return the tail of a message about a model that an endpoint does not know."""
        names = [str(one.get("id")) for one in await self._models(endpoint)]
        if not names:
            return f"; is {self._model!r} the model's name there, and does the address end in /v1?"
        shown = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
        return f"; it serves {shown}, and not {self._model!r}" if self._model not in names else f"; it serves {shown}"

    async def _models(self, endpoint: Endpoint) -> list[dict[str, Any]]:
        """Return what the endpoint says that it serves; nothing where it does not say."""
        with suppress(TimeoutError, openai.APIStatusError, ValueError, *_CONNECTION_ERRORS):
            async with asyncio.timeout(self.settings.connect_wait_s_max):
                response = await self._clients[endpoint.url].get(
                    "/models", cast_to=httpx2.Response, options=self._options
                )
            body = json.loads(response.content)
            listed = body.get("data") if isinstance(body, dict) else None
            return [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
        return []

    def _used(self, request: _Request, answer: Answer | None) -> Usage:
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

    async def _reply(self, request: _Request, answer: Answer) -> ChatReply:
        call = request.call
        found: dict[str, float] | None = None
        unseen: float | None = None
        if call.labels is not None:
            if answer.first_token is None:
                # It could when it was tried; a proxy that has changed its mind, or a reply that never got to speak.
                if answer.finish_reason not in ("length", "content_filter", "refusal"):
                    raise BackendRefused(
                        f"model {self._name!r} ({self._model} at {self._where()}) left out the log-probabilities that"
                        " it was asked for"
                    )
                found, unseen = {}, 0.0
            else:
                found, unseen = label_logprobs(answer.first_token, call.labels, request.label_ids)
        continuation = None
        if call.score_continuation is not None:
            continuation = _continuation_logprob(answer, request.prefix_ids)
            if continuation is None:
                raise BackendRefused(
                    f"model {self._name!r} ({self._model} at {self._where()}) left out the log-probabilities of the"
                    " prompt that it was asked for"
                )
        return ChatReply(
            text=answer.text,
            finish_reason=answer.finish_reason,
            label_logprobs=found,
            unseen_logprob=unseen,
            continuation_logprob=continuation,
            model=answer.model or self._model,
        )

    def _left_s(self, deadline_at: float | None) -> float | None:
        return None if deadline_at is None else max(0.0, deadline_at - self._clock())

    def _discreet(self, text: str) -> str:
        """Return a message of the endpoint's without the key that it may repeat."""
        return text.replace(self._key, "…") if len(self._key) >= 4 else text

    # --- tokens by number, where the endpoint takes them (vLLM) ----------------------------------------------------

    async def _ids_of_labels(self, call: ChatCall) -> dict[str, tuple[int, ...]] | None:
        """Return the tokens that each label can begin with; None where they cannot be told apart or are too many."""
        assert call.labels is not None
        # After a begun reply a label's token may be another one than at the start of a text.
        before = call.messages[-1].content[-16:] if is_prefilled(call) else ""
        ids: dict[str, tuple[int, ...]] = {}
        for label in call.labels:
            known = self._label_ids.get((before, label))
            if known is None:
                known = self._label_ids[before, label] = await self._label_tokens(before, label)
            ids[label] = known
        numbers = [number for own in ids.values() for number in own]
        if len(numbers) > LOGPROB_TOKEN_IDS_MAX:
            ids = {label: own[:1] for label, own in ids.items()}
            numbers = [number for own in ids.values() for number in own]
        if not all(ids.values()) or len(set(numbers)) < len(numbers) or len(numbers) > LOGPROB_TOKEN_IDS_MAX:
            return None
        return ids

    async def _label_tokens(self, before: str, label: str) -> tuple[int, ...]:
        """Return the single tokens that read as `label` at the start of a reply; none where it takes several."""
        variants: list[int] = []
        if before:
            begun, whole = await self._ids(before), await self._ids(before + label)
            if len(whole) == len(begun) + 1 and whole[:-1] == begun:
                variants.append(whole[-1])
        for text in (label, f" {label.strip()}"):
            numbers = await self._ids(text)
            if len(numbers) == 1:
                variants.append(numbers[0])
        return tuple(dict.fromkeys(variants))

    async def _ids(self, text: str) -> list[int]:
        local = self._tokens.ids(text)
        if local is not None:
            return local
        return await self._tokenize({"prompt": text, "add_special_tokens": False})

    async def _tokenize(self, fields: Mapping[str, Any]) -> list[int]:
        """Ask vLLM's `/tokenize`, which stands beside `/v1` and costs no model call; empty where there is none."""
        endpoint = min(self._endpoints.all, key=lambda one: (one.aside_until_s, one.outstanding))
        url = endpoint.url.removesuffix("/v1") + "/tokenize"
        with suppress(TimeoutError, openai.APIStatusError, ValueError, *_CONNECTION_ERRORS):
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

    async def _continuation_request(self, call: ChatCall, found: Found, notes: tuple[str, ...]) -> _Request:
        """Put the text to be scored behind the messages as a begun reply, and ask for its log-probabilities."""
        begun = call.messages[-1].content if is_prefilled(call) else ""
        asked = call.messages[:-1] if is_prefilled(call) else call.messages
        turns = [{"role": turn.role, "content": turn.content} for turn in asked]
        if begun:
            turns.append({"role": "assistant", "content": begun})
        prefix = await self._tokenize(
            {"messages": turns, "add_generation_prompt": not begun, "continue_final_message": bool(begun)}
        )
        if not prefix:
            raise self._lacks(
                "tell the tokens of a prompt (/tokenize), without which a continuation is not found in it"
            )
        last = type(call.messages[-1])("assistant", begun + (call.score_continuation or ""))
        return _Request(
            replace(call, messages=(*asked, last), max_output_tokens=1, labels=None),
            replace(found.forms, prefill="continue_final_message"),
            extra={"prompt_logprobs": 0, "return_token_ids": True},
            prefix_ids=tuple(prefix),
            notes=notes,
        )


class _ProbeSeat:
    """What `chat_probe` may do to the endpoints; its calls are on nobody's bill, and counted."""

    def __init__(self, chat: OpenAIChat) -> None:
        self._chat = chat

    async def ask(self, call: ChatCall) -> Answer:
        return await self._send(_Request(call, Forms()), optional=False)

    async def attempt(
        self,
        call: ChatCall,
        forms: Forms = Forms(),  # noqa: B008  a frozen value
        *,
        token_ids: Sequence[int] | None = None,
        extra: Mapping[str, Any] = MappingProxyType({}),
    ) -> Answer | None:
        label_ids = None if token_ids is None else {"": tuple(token_ids)}
        try:
            return await self._send(_Request(call, forms, label_ids=label_ids, extra=extra), optional=True)
        except _Unsupported:
            return None

    async def tokens(self, fields: Mapping[str, Any]) -> list[int]:
        return await self._chat._tokenize(fields)

    async def tokens_of(self, text: str) -> list[int]:
        return await self._chat._ids(text)

    async def context_tokens(self) -> int | None:
        listed = await self._chat._models(self._chat._endpoints.all[0])
        mine = [one for one in listed if one.get("id") == self._chat._model] or listed[:1]
        told = mine[0].get("max_model_len") if mine else None
        return told if isinstance(told, int) and told > 0 else None

    async def _send(self, request: _Request, *, optional: bool) -> Answer:
        bill = _Bill()
        try:
            return await self._chat._attempts(request, bill, None, optional=optional)
        finally:
            self._chat._probe_usage = self._chat._probe_usage + self._chat._prices.charge(bill.usage)


@dataclass(frozen=True, slots=True)
class _Request:
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


class _Bill:
    """What one call has used so far, over its attempts; kept outside of them so that a cancelled call has it too."""

    __slots__ = ("_attempts", "_queue_s", "last_tokens")

    def __init__(self) -> None:
        self._attempts: Usage | None = None
        self._queue_s = 0.0
        self.last_tokens = 0

    def waited(self, queue_s: float) -> None:
        self._queue_s += queue_s

    def attempted(self, usage: Usage, backend_s: float) -> None:
        self.last_tokens = usage.tokens
        if self._attempts is None:
            self._attempts = replace(usage, calls=1, backend_s=backend_s)
        else:
            self._attempts = self._attempts + replace(usage, calls=1, retries=1, backend_s=backend_s)

    @property
    def calls(self) -> int:
        return 0 if self._attempts is None else self._attempts.calls

    @property
    def usage(self) -> Usage:
        return replace(_NOTHING if self._attempts is None else self._attempts, queue_s=self._queue_s)


class _Unsupported(Exception):
    """The endpoint refuses a call that it was free to refuse."""


class _Fault(Exception):
    """One attempt failed. The text goes after the endpoint's name."""

    def __init__(
        self,
        text: str,
        *,
        used: bool = False,
        unwell: bool = False,
        final: bool = False,
        retry_after_s: float | None = None,
        refused: BackendRefused | None = None,
        answer: Answer | None = None,
        optional_refusal: bool = False,
    ) -> None:
        super().__init__(text)
        self.used = used
        """Whether the endpoint is likely to have worked on it, and so to bill it."""
        self.unwell = unwell
        """Whether it speaks against the endpoint, not only against this call."""
        self.final = final
        """Whether the endpoint asks not to be asked again."""
        self.retry_after_s = retry_after_s
        self.refused = refused
        self.answer = answer
        self.optional_refusal = optional_refusal
        """Whether it is how an endpoint may answer to a field that it does not know."""


class _BoundedStream(httpx2.AsyncByteStream):
    """A reply without a length, cut off where it gets too long."""

    def __init__(self, stream: httpx2.AsyncByteStream, bytes_max: int) -> None:
        self._stream = stream
        self._bytes_max = bytes_max

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in self._stream:
            size += len(chunk)
            if size > self._bytes_max:
                raise httpx2.ReadError(f"a reply of more than the {self._bytes_max} bytes that are allowed")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


def encoded(fields: Mapping[str, Any]) -> bytes:
    """Return the JSON of a request. Lone surrogates, which UTF-8 has no place for, become question marks."""
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


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


def _connection_fault(error: Exception) -> _Fault:
    root: BaseException = error
    while (deeper := root.__cause__ or (root.__context__ if root.__cause__ is None else None)) is not None:
        root = deeper
    text = " ".join(str(root).split())[:200] or type(root).__name__
    name = type(root).__name__
    refused = isinstance(root, ConnectionRefusedError) or "ConnectorError" in name or "connect" in name.lower()
    refused = refused and not isinstance(root, ConnectionResetError) and "Disconnected" not in name
    if refused:
        return _Fault(f"cannot be reached: {text}", unwell=True)
    return _Fault(f"broke the connection off: {text}", used=True, unwell=True)


def _continuation_logprob(answer: Answer, prefix_ids: tuple[int, ...]) -> float | None:
    """Sum the log-probabilities of the prompt's tokens from the first that is not the prefix's."""
    if answer.prompt is None or answer.prompt_ids is None or len(answer.prompt) != len(answer.prompt_ids):
        return None
    start = 0
    for mine, theirs in zip(prefix_ids, answer.prompt_ids, strict=False):
        if mine != theirs:
            break  # the continuation has merged with the end of what stands before it: its first token is that one
        start += 1
    scored = answer.prompt[start:]
    if not scored or any(place is None for place in scored):
        return None
    return sum(place[1] for place in scored if place is not None)


def _repairs(notes: Sequence[str], answer: Answer) -> Mapping[str, int]:
    counted = dict.fromkeys(notes, 1)
    if answer.finish_reason in ("content_filter", "refusal"):
        counted["refused"] = 1
    return MappingProxyType(counted)


_NOTHING = Usage()


def _shown(url: str) -> str:
    """Return an address without the password that it may carry."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc="…@" + parts.netloc.rpartition("@")[2]))
