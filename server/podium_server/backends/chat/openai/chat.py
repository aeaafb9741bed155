"""A chat model behind one or more OpenAI-compatible endpoints: OpenAI, vLLM serve, SGLang, llama.cpp, Ollama, TGI, …

The connections are those of openai's client, whose own retries are off: each attempt is one call on the bill, and every
wait is bounded by the call's deadline.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from podium_server.accounting.prices import Prices
from podium_server.accounting.usage import Usage
from podium_server.backends.attempts import Bill
from podium_server.backends.chat.backend import Capability, ChatCall, ChatFailure, ChatReply
from podium_server.backends.chat.endpoints import Endpoints
from podium_server.backends.chat.label_tokens import LabelTokens
from podium_server.backends.chat.openai.attempt import Caller, Request, Unsupported
from podium_server.backends.chat.openai.dialects import DIALECTS, Forms, Quirks
from podium_server.backends.chat.openai.faults import retry_after_s
from podium_server.backends.chat.openai.fields import can_constrain, is_constrained, is_prefilled
from podium_server.backends.chat.openai.replies import Answer, label_logprobs
from podium_server.backends.chat.openai.settings import ChatSettings
from podium_server.backends.chat.probe import Found, probe
from podium_server.backends.chat.spans import ended, opened
from podium_server.backends.chat.tokens import TokenCounter, load_tokens
from podium_server.errors import BackendRefused, ConfigInvalid, DeadlineExceeded, PodiumError

__all__ = ["ChatSettings", "OpenAIChat", "retry_after_s"]


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
        self.settings = settings if settings is not None else ChatSettings()
        self._dialect = DIALECTS[dialect]
        self._tokens = load_tokens(tokenizer) if tokenizer is None or isinstance(tokenizer, str) else tokenizer
        self._context_tokens = context_tokens
        self._drop_prefill = drop_prefill
        self._extra_body = dict(extra_body)
        self._prices = prices if prices is not None else Prices()
        self._found: Found | None = None
        if capabilities is not None:
            declared = frozenset(capabilities) | {Capability.TEXT}
            self._found = Found(declared, self._dialect.declared(declared))
        self._probing: asyncio.Task[Found] | None = None
        self._probe_usage = Usage()
        self._caller = Caller(
            name,
            model=model,
            base_urls=tuple(url.rstrip("/") for url in base_urls),
            key=key,
            key_env=api_key_env,
            settings=self.settings,
            quirks=Quirks(output_bound=self._dialect.output_bound),
            tokens=self._tokens,
            extra_body=self._extra_body,
            headers=headers,
            clock=clock,
            sleep=sleep,
            random_s=random_s,
        )
        self._labels = LabelTokens(self._ids)
        self._under_way: set[asyncio.Task[Any]] = set()

    # --- who it is ----------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The configured model's name."""
        return self._name

    @property
    def revision(self) -> str:
        """What the endpoint says that it serves; the configured model id until it has said so."""
        return self._caller.revision

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
        return self._caller.endpoints

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
        """Make one call, with bounded retries, each charged. See `ChatBackend.complete`.

        One span covers all of its attempts, as the semantic conventions of generative AI want it.
        """
        with opened(call, model=self._model, endpoint=self._caller.endpoints.all[0].url) as span:
            reply = await self._complete(call, deadline_at, on_cancel)
            ended(span, reply)
            return reply

    async def _complete(
        self, call: ChatCall, deadline_at: float | None, on_cancel: Callable[[Usage], None] | None
    ) -> ChatReply:
        bill = Bill()
        task = asyncio.current_task()
        if task is not None:
            self._under_way.add(task)
        try:
            try:
                request = await self._request(call, deadline_at)
                answer = await self._caller.answer(request, bill, deadline_at)
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
        self._caller.endpoints.close()
        await asyncio.gather(*others, return_exceptions=True)
        await self._caller.aclose()

    async def _request(self, call: ChatCall, deadline_at: float | None) -> Request:
        """Put a call into the endpoint's words."""
        if sum(one is not None for one in (call.schema, call.choice, call.regex)) > 1:
            raise ValueError("a call takes one of schema, choice and regex")
        special = call.labels is not None or call.score_continuation is not None
        if not (special or is_constrained(call) or is_prefilled(call)):
            return Request(call, Forms())
        try:
            async with asyncio.timeout(self._caller.left_s(deadline_at)):
                found = await self._find()
        except TimeoutError:
            raise DeadlineExceeded(f"the deadline passed while {self._name!r} was tried for what it can do") from None
        return await self._special_request(call, found)

    async def _special_request(self, call: ChatCall, found: Found) -> Request:
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
            return Request(call, found.forms, notes=tuple(notes))
        if Capability.LABEL_LOGPROBS in found.capabilities:
            ids = await self._labels.of(call)
            if ids is not None:
                return Request(call, found.forms, label_ids=ids, notes=tuple(notes))
        if Capability.LOGPROBS not in found.capabilities:
            raise self._lacks("tell log-probabilities")
        return Request(call, found.forms, notes=tuple(notes))

    def _lacks(self, what: str) -> BackendRefused:
        return BackendRefused(
            f"model {self._name!r} ({self._model} at {self._caller.where()}) cannot {what}; use a strategy that does"
            " not need it, or an endpoint that can"
        )

    async def _reply(self, request: Request, answer: Answer) -> ChatReply:
        call = request.call
        found: dict[str, float] | None = None
        unseen: float | None = None
        if call.labels is not None:
            if answer.first_token is None:
                # It could when it was tried; a proxy that has changed its mind, or a reply that never got to speak.
                if answer.finish_reason not in ("length", "content_filter", "refusal"):
                    raise BackendRefused(
                        f"model {self._name!r} ({self._model} at {self._caller.where()}) left out the log-probabilities"
                        " that it was asked for"
                    )
                found, unseen = {}, 0.0
            else:
                found, unseen = label_logprobs(answer.first_token, call.labels, request.label_ids)
        continuation = None
        if call.score_continuation is not None:
            continuation = _continuation_logprob(answer, request.prefix_ids)
            if continuation is None:
                raise BackendRefused(
                    f"model {self._name!r} ({self._model} at {self._caller.where()}) left out the log-probabilities of"
                    " the prompt that it was asked for"
                )
        return ChatReply(
            text=answer.text,
            finish_reason=answer.finish_reason,
            label_logprobs=found,
            unseen_logprob=unseen,
            continuation_logprob=continuation,
            model=answer.model or self._model,
        )

    # --- tokens by number, where the endpoint takes them (vLLM) ----------------------------------------------------

    async def _ids(self, text: str) -> list[int]:
        local = self._tokens.ids(text)
        if local is not None:
            return local
        return await self._caller.tokenize({"prompt": text, "add_special_tokens": False})

    async def _continuation_request(self, call: ChatCall, found: Found, notes: tuple[str, ...]) -> Request:
        """Put the text to be scored behind the messages as a begun reply, and ask for its log-probabilities."""
        begun = call.messages[-1].content if is_prefilled(call) else ""
        asked = call.messages[:-1] if is_prefilled(call) else call.messages
        turns = [{"role": turn.role, "content": turn.content} for turn in asked]
        if begun:
            turns.append({"role": "assistant", "content": begun})
        prefix = await self._caller.tokenize(
            {"messages": turns, "add_generation_prompt": not begun, "continue_final_message": bool(begun)}
        )
        if not prefix:
            raise self._lacks(
                "tell the tokens of a prompt (/tokenize), without which a continuation is not found in it"
            )
        last = type(call.messages[-1])("assistant", begun + (call.score_continuation or ""))
        return Request(
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
        return await self._send(Request(call, Forms()), optional=False)

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
            return await self._send(Request(call, forms, label_ids=label_ids, extra=extra), optional=True)
        except Unsupported:
            return None

    async def tokens(self, fields: Mapping[str, Any]) -> list[int]:
        return await self._chat._caller.tokenize(fields)

    async def tokens_of(self, text: str) -> list[int]:
        return await self._chat._ids(text)

    async def context_tokens(self) -> int | None:
        listed = await self._chat._caller.models(self._chat._caller.endpoints.all[0])
        mine = [one for one in listed if one.get("id") == self._chat._model] or listed[:1]
        told = mine[0].get("max_model_len") if mine else None
        return told if isinstance(told, int) and told > 0 else None

    async def _send(self, request: Request, *, optional: bool) -> Answer:
        bill = Bill()
        try:
            return await self._chat._caller.answer(request, bill, None, optional=optional)
        finally:
            self._chat._probe_usage = self._chat._probe_usage + self._chat._prices.charge(bill.usage)


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
