"""Finding out what an OpenAI-compatible endpoint can do, by asking for it and reading what comes back.

A 200 proves nothing: several servers take fields that they do not know and answer as if they had not been there.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from podium_server.backends.chat.backend import Capability, ChatCall, Message
from podium_server.backends.chat.openai.dialects import Dialect, Forms
from podium_server.backends.chat.openai.replies import Answer


@dataclass(frozen=True, slots=True)
class Found:
    """What an endpoint can do, and how it is asked for it."""

    capabilities: frozenset[Capability]
    forms: Forms
    context_tokens: int | None = None


class Seat(Protocol):
    """What the probe may do to an endpoint."""

    async def ask(self, call: ChatCall) -> Answer:
        """Make a call as plain as can be; whatever ends it is raised."""

    async def attempt(
        self,
        call: ChatCall,
        forms: Forms = ...,
        *,
        token_ids: Sequence[int] | None = None,
        extra: Mapping[str, Any] = ...,
    ) -> Answer | None:
        """Make a call that the endpoint may refuse; None where it does."""

    async def tokens(self, fields: Mapping[str, Any]) -> list[int]:
        """Return the tokens that the endpoint makes of a prompt; empty where it does not tell."""

    async def tokens_of(self, text: str) -> list[int]:
        """Return the tokens of a text, from the endpoint or from the configured tokenizer; empty where unknown."""

    async def context_tokens(self) -> int | None:
        """Return what the endpoint says that its model can hold."""


# Long enough to fill a block of any prefix cache (vLLM's blocks are 16 tokens, 128 on a processor), so that a second
# call with it can be seen to be served from there.
_TEXT = "This is a test of what an endpoint can do, and any reply to it is good. Count: " + ", ".join(
    str(n) for n in range(1, 81)
)
_USER = (Message("user", _TEXT),)
_BEGUN = "["
_UNLIKELY = "kf3"
"""A reply that no model comes to by itself: it was made to."""
_SCHEMA = {
    "type": "object",
    "properties": {"podium": {"enum": [_UNLIKELY]}},
    "required": ["podium"],
    "additionalProperties": False,
}
_SCHEMA_REPLY = f'{{"podium":"{_UNLIKELY}"}}'
_TOKEN_IDS = tuple(range(40, 64))
"""More than the 20 likeliest that come anyhow: if all of these come, they came because they were named."""


async def probe(seat: Seat, dialect: Dialect) -> Found:
    """Try everything once.

    Raises:
        PodiumError: the endpoint does not answer a plain call.

    """
    plain = await seat.ask(ChatCall(_USER, max_output_tokens=16))
    cached_told: list[bool] = [plain.usage is not None and plain.usage.cached_told]

    async def attempt(*args: Any, **options: Any) -> Answer | None:
        answer = await seat.attempt(*args, **options)
        cached_told.append(answer is not None and answer.usage is not None and answer.usage.cached_told)
        return answer

    trial = _Trial(attempt, seat, dialect, plain)
    logprobs, label_logprobs, json_form, choice, regex, prefill, context_tokens = await _all(
        trial.logprobs(),
        trial.label_logprobs(),
        trial.json_form(),
        trial.choice_form(),
        trial.regex_form(),
        trial.prefill_form(),
        seat.context_tokens(),
    )
    forms = Forms(json=json_form, choice=choice, regex=regex, prefill=prefill)
    prompt_logprobs = prefill == "continue_final_message" and await trial.prompt_logprobs(forms)
    had = {
        Capability.TEXT: True,
        Capability.LOGPROBS: logprobs,
        Capability.LABEL_LOGPROBS: label_logprobs,
        Capability.PROMPT_LOGPROBS: prompt_logprobs,
        Capability.JSON_SCHEMA: json_form,
        # A list of replies can be asked for as a pattern too.
        Capability.CHOICE: choice or regex,
        Capability.REGEX: regex,
        Capability.PREFILL: prefill,
        Capability.CACHED_TOKENS: any(cached_told),
    }
    return Found(frozenset(one for one, has in had.items() if has), forms, context_tokens)


@dataclass(frozen=True, slots=True)
class _Trial:
    attempt: Any
    seat: Seat
    dialect: Dialect
    plain: Answer

    async def logprobs(self) -> bool:
        answer = await self.attempt(ChatCall(_USER, max_output_tokens=1, labels=("A",)))
        return answer is not None and answer.first_token is not None and len(set(answer.first_token)) >= 2

    async def label_logprobs(self) -> bool:
        if not self.dialect.vllm_fields or not await self.seat.tokens_of("A"):
            return False
        answer = await self.attempt(ChatCall(_USER, max_output_tokens=1, labels=("A",)), token_ids=_TOKEN_IDS)
        if answer is None or answer.first_token is None:
            return False
        return {f"token_id:{number}" for number in _TOKEN_IDS} <= {token for token, _ in answer.first_token}

    async def json_form(self) -> str:
        call = ChatCall(_USER, max_output_tokens=48, schema=_SCHEMA)
        for form in self.dialect.json:
            answer = await self.attempt(call, Forms(json=form))
            if answer is not None and _holds_schema(answer):
                return form
        return ""

    async def choice_form(self) -> str:
        call = ChatCall(_USER, max_output_tokens=16, choice=(_UNLIKELY, "zq9"))
        for form in self.dialect.choice:
            answer = await self.attempt(call, Forms(choice=form))
            if answer is not None and answer.text in (_UNLIKELY, "zq9"):
                return form
        return ""

    async def regex_form(self) -> str:
        call = ChatCall(_USER, max_output_tokens=16, regex="kf[0-9]{3}")
        for form in self.dialect.regex:
            answer = await self.attempt(call, Forms(regex=form))
            if answer is not None and re.fullmatch("kf[0-9]{3}", answer.text):
                return form
        return ""

    async def prefill_form(self) -> str:
        """Try whether a begun reply is continued.

        What the model says next proves nothing, so the prompt is looked at instead. A server that continues a reply
        ends its prompt with it; one that does not closes the turn and opens another, which takes more tokens than the
        beginning itself.
        """
        call = ChatCall((*_USER, Message("assistant", _BEGUN)), max_output_tokens=1)
        for form in self.dialect.prefill:
            extra = {"return_token_ids": True} if form == "continue_final_message" and self.dialect.vllm_fields else {}
            answer = await self.attempt(call, Forms(prefill=form), extra=extra)
            if answer is None:
                continue
            if answer.prompt_ids is not None:
                if answer.prompt_ids[-1:] == tuple((await self.seat.tokens_of(_BEGUN))[-1:]):
                    return form
                continue
            if answer.usage is None or self.plain.usage is None:
                continue
            # One token: that is what "[" takes in every vocabulary that is about.
            if answer.usage.prompt_tokens - self.plain.usage.prompt_tokens == 1:
                return form
        return ""

    async def prompt_logprobs(self, forms: Forms) -> bool:
        if not self.dialect.vllm_fields:
            return False
        turns = [{"role": "user", "content": _TEXT}]
        if not await self.seat.tokens({"messages": turns, "add_generation_prompt": True}):
            return False
        call = ChatCall((*_USER, Message("assistant", _BEGUN)), max_output_tokens=1)
        extra = {"prompt_logprobs": 0, "return_token_ids": True}
        answer = await self.attempt(call, replace(forms, json="", choice="", regex=""), extra=extra)
        if answer is None or answer.prompt is None or answer.prompt_ids is None:
            return False
        return len(answer.prompt) == len(answer.prompt_ids) > 1 and None not in answer.prompt[1:]


def _holds_schema(answer: Answer) -> bool:
    try:
        return bool(json.loads(answer.text) == json.loads(_SCHEMA_REPLY))
    except ValueError:
        # Blanks are allowed between the parts of JSON, and a weak model may go on with them till the bound: then what
        # there is must be a beginning of the only reply that is allowed.
        squeezed = "".join(answer.text.split())
        return answer.finish_reason == "length" and bool(squeezed) and _SCHEMA_REPLY.startswith(squeezed)


async def _all(*trials: Awaitable[Any]) -> list[Any]:
    """Run trials side by side; the first that fails ends the others."""
    tasks = [asyncio.ensure_future(one) for one in trials]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        # Awaited, so that no place at the endpoint is left taken.
        await asyncio.gather(*tasks, return_exceptions=True)
