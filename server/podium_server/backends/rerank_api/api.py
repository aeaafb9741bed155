"""A model behind rerank endpoints: requests within their limits, attempts, and the bill of each.

The connections, the places, the waits and the limits are those of chat models (`backends.attempts`, `chat.openai`):
each attempt is one call on the bill, and nothing is retried behind our back.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import httpx2

from podium_server.accounting.usage import Usage
from podium_server.backends.attempts import Attempts, Bill, shown
from podium_server.backends.chat.endpoints import Endpoint, Endpoints
from podium_server.backends.chat.openai.faults import (
    CONNECTION_ERRORS,
    Declined,
    Fault,
    Lost,
    Refused,
    connection_fault,
    retry_after_s,
)
from podium_server.backends.chat.openai.http import encoded, http_client
from podium_server.backends.chat.openai.settings import ChatSettings
from podium_server.backends.chat.tokens import TokenCounter, load_tokens
from podium_server.backends.json_errors import error_body
from podium_server.backends.rerank_api.dialects import Dialect, Scale, Scored, Told, Unreadable, read, told_of
from podium_server.errors import BackendDown, BackendRefused, ConfigInvalid, DeadlineExceeded, UnreadableReply
from podium_server.telemetry import spans

LIMITS = ChatSettings(
    reply_wait_s_max=60.0,
    concurrency=8,
    queue_max=1_000,
    reply_bytes_max=64 * 1024 * 1024,  # vLLM repeats every document
)

_JSON = {"content-type": "application/json", "accept": "application/json", "accept-encoding": "identity"}
_TEXT_IF_EMPTY = " "
"""Endpoints refuse an empty text, and a blank is as empty as a text may be."""
_ESTIMATED: Mapping[str, int] = MappingProxyType({"usage_estimated": 1})
_UNREADABLE: Mapping[str, int] = MappingProxyType({"unreadable": 1})

# Wrong keys; Cohere has a status of its own for them. 402 is an account without money.
_KEY_STATUSES = frozenset({401, 403, 498})
# TEI says 424 where the model failed, and 429 where its queue is full.
_RETRIED_STATUSES = frozenset({408, 409, 424, 425, 429})

# A search unit: a query with up to 100 documents, of which each 500 tokens, the query's included, are one.
_UNIT_DOCUMENTS = 100
_UNIT_TOKENS = 500

# Slack for what a sigmoid in float16 rounds to.
_ROUNDING = 1e-3


@dataclass(frozen=True, slots=True)
class Sheet:
    """The texts of one request as they are sent.

    Args:
        query: of the request.
        texts: of the documents, cut where they have to be.
        tokens: of each, as far as they can be known here.
        cut: whether the model does not see all of it.
        query_tokens: of the query.
        max_tokens: of a document that the endpoint is told to read.

    """

    query: str
    texts: tuple[str, ...]
    tokens: tuple[int, ...]
    cut: tuple[bool, ...]
    query_tokens: int
    max_tokens: int | None = None

    def used(self, part: slice) -> int:
        """Return the tokens of a part as endpoints count them: the query once for each document."""
        tokens = self.tokens[part]
        return sum(tokens) + self.query_tokens * len(tokens)

    def search_units(self, part: slice) -> int:
        """Return the search units of a part as its documents' lengths make them."""
        documents = sum(max(1, -(-(tokens + self.query_tokens) // _UNIT_TOKENS)) for tokens in self.tokens[part])
        return -(-documents // _UNIT_DOCUMENTS)


class _Misread(Lost):
    """A reply came, and is not the scores of what was asked."""

    unwell = False


class RerankApi:
    """One model behind one or more rerank endpoints that serve it alike.

    Args:
        name: the configured model's name.
        spoken: the endpoints' dialect.
        model: as the endpoints call it; empty where the dialect names none.
        base_urls: of the endpoints; the dialect's path is added.
        key_env: the environment variable with the key; None where none is sent.
        settings: limits.
        documents_max: of one request; None takes the dialect's.
        tokens_max: of one request; None takes the dialect's.
        max_tokens: of a document that the model reads; None leaves it to the endpoint.
        scale: of the endpoint's scores; None takes the dialect's.
        tokenizer: the model's, to count and cut exactly; see `load_tokens`.
        clock, sleep, random_s: see `Attempts`; for tests.

    Raises:
        ConfigInvalid: the variable of the key is not set, or the tokenizer cannot be loaded.

    """

    def __init__(
        self,
        name: str,
        *,
        spoken: Dialect,
        model: str,
        base_urls: Sequence[str],
        key_env: str | None = None,
        settings: ChatSettings = LIMITS,
        documents_max: int | None = None,
        tokens_max: int | None = None,
        max_tokens: int | None = None,
        scale: Scale | None = None,
        tokenizer: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random_s: Callable[[float], float] = lambda most_s: random.uniform(0.0, most_s),
    ) -> None:
        self.name = name
        self.spoken = spoken
        self.scale: Scale = scale or spoken.scale
        self.max_tokens = max_tokens
        self.documents_max = documents_max or spoken.documents_max
        self.tokens_max = tokens_max or spoken.tokens_max
        self.revision = model
        """What the endpoints say that they serve; the configured model until they have said so."""
        self._model = model
        self._key_env = key_env
        self._key = _key(name, key_env)
        self._settings = settings
        self._counter: TokenCounter = load_tokens(tokenizer)
        self._clock = clock
        self._sleep = sleep
        urls = tuple(spoken.address(url) for url in base_urls)
        self._endpoints = Endpoints(urls, settings.endpoint_limits, clock=clock, sleep=sleep)
        self._tries = Attempts(name, self._endpoints, settings, clock, random_s)
        self._http = http_client(
            settings.concurrency * len(urls) + 8,
            connect_wait_s_max=settings.connect_wait_s_max,
            reply_bytes_max=settings.reply_bytes_max,
        )
        self._headers = {**_JSON, **({"authorization": f"Bearer {self._key}"} if self._key else {})}

    async def aclose(self) -> None:
        """Close connections; whoever waits for a place is cancelled."""
        self._endpoints.close()
        await self._http.aclose()

    @property
    def endpoints(self) -> Endpoints:
        """The endpoints and the queue in front of them, for metrics."""
        return self._endpoints

    # --- what is sent ---------------------------------------------------------------------------------------------

    @property
    def counts_exactly(self) -> bool:
        """Whether the model's own tokenizer counts, which takes its time."""
        return self._counter.exact

    def sheet(
        self, query: str, texts: Sequence[str], *, max_tokens: int | None = None, from_start: bool = False
    ) -> Sheet:
        """Cut and count the texts of a request.

        Where the endpoint can be told how much of a document to read, and we could only estimate, it cuts: its count
        is the right one. What it cuts is then counted by our estimate.

        Args:
            query: any string.
            texts: of the documents.
            max_tokens: of a document, beside the model's own bound.
            from_start: cut the beginning instead of the end.

        """
        bounds = [bound for bound in (max_tokens, self.max_tokens) if bound is not None]
        most = min(bounds, default=None)
        told = bool(self.spoken.max_tokens) and not self._counter.exact and not from_start
        counted = [self._counter.count(text) for text in texts]
        cut = [most is not None and tokens > most for tokens in counted]
        kept = list(texts)
        if most is not None and not told:
            kept = [
                self._counter.shorten(text, most, from_start=from_start)[0] if long else text
                for text, long in zip(texts, cut, strict=True)
            ]
        return Sheet(
            query=query or _TEXT_IF_EMPTY,
            texts=tuple(text or _TEXT_IF_EMPTY for text in kept),
            tokens=tuple(counted if most is None else (min(tokens, most) for tokens in counted)),
            cut=tuple(cut),
            query_tokens=self._counter.count(query),
            max_tokens=most,
        )

    def parts(self, sheet: Sheet) -> Iterator[slice]:
        """Yield the requests that a sheet is split into: as many documents, and tokens, as one may have."""
        start = held = 0
        for i, tokens in enumerate(sheet.tokens):
            more = tokens + sheet.query_tokens
            full = i - start == self.documents_max
            if i > start and (full or (self.tokens_max is not None and held + more > self.tokens_max)):
                yield slice(start, i)
                start, held = i, 0
            held += more
        if start < len(sheet.tokens):
            yield slice(start, len(sheet.tokens))

    def expected(self, sheet: Sheet, part: slice) -> Usage:
        """Return the amounts of one request before it is sent; unpriced."""
        return Usage(
            prompt_tokens=sheet.used(part),
            search_units=sheet.search_units(part) if self.spoken.by_search_units else 0,
        )

    # --- calls ----------------------------------------------------------------------------------------------------

    async def score(
        self,
        sheet: Sheet,
        part: slice,
        bill: Bill,
        *,
        raw: bool = False,
        instruction: str = "",
        deadline_at: float | None = None,
    ) -> tuple[float, ...]:
        """Have one part of a sheet scored, with bounded retries, each charged.

        Args:
            sheet: the texts.
            part: of them; see `parts`.
            bill: takes every attempt and every wait, whatever becomes of the call.
            raw: ask for scores before their sigmoid.
            instruction: what counts as relevant, for endpoints that take it.
            deadline_at: `time.monotonic()` seconds; no attempt starts or lasts beyond it.

        Raises:
            BackendRefused, BackendDown, Overloaded, DeadlineExceeded: as for chat models.
            UnreadableReply: no reply was the scores of what was asked; each is counted in the bill's `repairs`.

        """
        fields = self.spoken.body(
            sheet.query,
            sheet.texts[part],
            model=self._model,
            raw=raw,
            max_tokens=sheet.max_tokens,
            instruction=instruction,
        )
        # The semantic conventions of generative AI name no operation of rerankers yet.
        with spans.opened(
            f"rerank {self._model}".rstrip(),
            "client",
            gen_ai__operation__name="rerank",
            gen_ai__provider__name=self.spoken.name,
            gen_ai__request__model=self._model,
            podium__documents=part.stop - part.start,
        ) as span:
            scored = await self._score(encoded(fields), sheet, part, bill, deadline_at, raw=raw)
            if span is not None:
                span.note({"gen_ai.usage.input_tokens": bill.usage.prompt_tokens, "podium.calls": bill.calls})
            return scored.scores

    async def _score(
        self, body: bytes, sheet: Sheet, part: slice, bill: Bill, deadline_at: float | None, *, raw: bool
    ) -> Scored:
        """Make attempts until one succeeds or the call has failed for good."""
        reserved = sheet.used(part) if self._settings.tokens_per_minute is not None else 0
        tried: list[Endpoint] = []
        attempt = 0
        while True:
            attempt += 1
            endpoint = await self._tries.place(reserved, tried, bill, deadline_at)
            unused = 0
            try:
                scored = await self._attempt(endpoint, body, sheet, part, bill, deadline_at, raw=raw)
                unused = reserved - bill.last_tokens if reserved else 0
            except Fault as fault:
                unused = 0 if fault.used else reserved
                try:
                    wait_s = self._tries.after(fault, endpoint, attempt, tried, deadline_at, bill)
                except BackendDown as down:
                    if isinstance(fault, _Misread):
                        raise UnreadableReply(down.message, metadata=down.metadata) from fault
                    raise
            else:
                self._endpoints.well(endpoint)
                return scored
            finally:
                self._endpoints.leave(endpoint, unused_tokens=unused)
            if wait_s > 0.0:
                bill.waited(wait_s)
                await self._sleep(wait_s)

    async def _attempt(
        self,
        endpoint: Endpoint,
        body: bytes,
        sheet: Sheet,
        part: slice,
        bill: Bill,
        deadline_at: float | None,
        *,
        raw: bool,
    ) -> Scored:
        """Make one attempt, and enter it in the bill whatever becomes of it.

        Raises:
            Fault: what went wrong.

        """
        left_s = self._tries.left_s(deadline_at)
        if left_s is not None and left_s <= 0.0:
            raise DeadlineExceeded(f"model {self.name!r}: the deadline passed before the call was sent")
        wait_s = self._settings.reply_wait_s_max if left_s is None else min(self._settings.reply_wait_s_max, left_s)
        began_s = self._clock()
        # Until something better is known: sent, and read.
        used = self._used(sheet, part, Told())
        try:
            try:
                async with asyncio.timeout(wait_s):
                    headers = {**self._headers, **spans.headers()}
                    response = await self._http.post(endpoint.url, content=body, headers=headers)
            except TimeoutError:
                if left_s is not None and wait_s == left_s:
                    raise DeadlineExceeded(
                        f"model {self.name!r}: {shown(endpoint.url)} gave no answer before the deadline"
                    ) from None
                raise Lost(f"gave no answer within {wait_s:g} s") from None
            except CONNECTION_ERRORS as error:
                # Nothing tells how far it went; who could not even connect has sent nothing.
                fault = connection_fault(error)
                if not fault.used:
                    used = Usage()
                try:
                    raise fault from error
                finally:
                    del fault  # it holds this frame, and so the documents
            if response.status_code != 200:
                used = Usage()  # a refusal bills nothing but itself
                raise self._status_fault(endpoint, response)
            try:
                scored = read(self.spoken, response.content, part.stop - part.start, response.headers)
            except Unreadable as error:
                told = told_of(self.spoken, response.content, response.headers)
                used = self._used(sheet, part, told) + Usage(repairs=_UNREADABLE)
                raise _Misread(self._discreet(f"sent {error}")) from error
            used = self._used(sheet, part, scored.told)
            if not raw and self.scale == "probability" and not all(_is_probability(one) for one in scored.scores):
                used = used + Usage(repairs={"out_of_scale": 1})
        finally:
            bill.attempted(used, self._clock() - began_s)
        if scored.told.model:
            self.revision = scored.told.model
        return scored

    def _used(self, sheet: Sheet, part: slice, told: Told) -> Usage:
        """Return what one request used: as told, else as it was expected, and marked as that."""
        expected = self.expected(sheet, part)
        units = told.search_units if self.spoken.by_search_units else 0
        # Where searches are billed, a reply that tells them tells enough.
        estimated = units is None if self.spoken.by_search_units else told.prompt_tokens is None
        return Usage(
            prompt_tokens=expected.prompt_tokens if told.prompt_tokens is None else told.prompt_tokens,
            cached_tokens=told.cached_tokens or 0,
            search_units=expected.search_units if units is None else units,
            repairs=_ESTIMATED if estimated else {},
        )

    def _status_fault(self, endpoint: Endpoint, response: httpx2.Response) -> Fault:
        """Say what a status other than 200 means."""
        status = response.status_code
        said = f"answered {status}: {self._discreet(error_body(response.content).message)}"
        if status in _KEY_STATUSES:
            cure = (
                f"put a key that is good for it into the environment variable {self._key_env}"
                if self._key_env is not None
                else "it wants a key: name the environment variable that holds it (api_key_env)"
            )
            return self._refusal(endpoint, f"{said}; {cure}")
        if status == 402:
            return self._refusal(endpoint, f"{said}; the account has nothing left to spend")
        if status == 404:
            return self._refusal(
                endpoint, f"{said}; is {self._model!r} the model's name there, and {self.spoken.name!r} its dialect?"
            )
        if status == 413:
            return self._refusal(endpoint, f"{said}; models.{self.name}.documents is {self.documents_max}, lower it")
        if status in _RETRIED_STATUSES or status >= 500:
            return Declined(said, status=status, final=False, retry_after_s=retry_after_s(response.headers))
        return self._refusal(endpoint, said)

    def _refusal(self, endpoint: Endpoint, text: str) -> Refused:
        named = f" ({self._model})" if self._model else ""
        message = f"model {self.name!r}{named}: {shown(endpoint.url)} {text}"
        return Refused(BackendRefused(message, metadata={"model": self.name}))

    def _discreet(self, text: str) -> str:
        """Return a message of the endpoint's without the key that it may repeat."""
        return text.replace(self._key, "…") if len(self._key) >= 4 else text


def _is_probability(score: float) -> bool:
    return -_ROUNDING <= score <= 1 + _ROUNDING


def _key(name: str, variable: str | None) -> str:
    """Return the key from the environment; it is never printed and never logged."""
    if variable is None:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigInvalid(
            f"models.{name}: the environment variable {variable} is not set; put the endpoint's key there"
        )
    return key
