"""A 200 proves nothing: servers that do what they are asked, that refuse it, and that only seem to do it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest

from podium_server.backends.chat.backend import Capability, ChatCall, ChatFailure, Message
from podium_server.backends.chat.openai.chat import ChatSettings, OpenAIChat
from podium_server.errors import BackendDown, BackendRefused
from tests.backends.naughty import Behaviour, Naughty, Request, hang, reply, status


def chat(endpoint: Naughty, **options: Any) -> OpenAIChat:
    return OpenAIChat("ranker", model="tiny", base_urls=[endpoint.url], **options)


def prompt_tokens(body: Mapping[str, Any]) -> int:
    """A tokenizer of words, with two for each turn's frame and two for the turn that the model begins."""
    turns = body["messages"]
    total = sum(len(turn["content"].split()) + 2 for turn in turns)
    return total - 1 if body.get("continue_final_message") else total + 2


def likeliest(n: int) -> dict[str, Any]:
    pairs = [{"token": chr(65 + place), "logprob": -1.0 - place} for place in range(n)]
    return {"content": [{**pairs[0], "top_logprobs": pairs}]}


def deaf(request: Request) -> Behaviour:
    """Like `transformers serve`: takes everything, and does nothing about it."""
    return reply("Hello there", usage={"prompt_tokens": prompt_tokens(request.body), "completion_tokens": 2})


def openai_like(request: Request) -> Behaviour:
    body = request.body
    for field in ("structured_outputs", "regex", "grammar", "logprob_token_ids", "prompt_logprobs", "return_token_ids"):
        if field in body:
            return status(400, message=f"Unrecognized request argument supplied: {field}")
    if "continue_final_message" in body:
        return status(400, message="Unrecognized request argument supplied: continue_final_message")
    usage = {
        "prompt_tokens": prompt_tokens(body),
        "completion_tokens": 2,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    if body.get("response_format", {}).get("type") == "json_schema":
        return reply('{"podium": "kf3"}', usage=usage)
    if body.get("response_format"):
        return status(400, message="Invalid value: 'response_format.schema'")
    return reply("Hello", usage=usage, logprobs=likeliest(20) if body.get("logprobs") else None)


def llama_cpp_like(request: Request) -> Behaviour:
    form = request.body.get("response_format", {})
    if form.get("type") == "json_schema":
        return status(500, message="1 validation error: input should be 'text' or 'json_object'")
    if form.get("schema"):
        return reply('{ "podium":  \n\n', finish_reason="length")  # blanks without end, and held to the schema
    if "grammar" in request.body:
        return reply("zq9")
    return reply("Hello", logprobs=likeliest(20) if request.body.get("logprobs") else None)


async def able(behave: Any, **options: Any) -> tuple[OpenAIChat, frozenset[Capability], int]:
    async with Naughty(choose=behave) as endpoint:
        backend = chat(endpoint, settings=ChatSettings(backoff_s=0.01), **options)
        found = await backend.capabilities()
        calls = len(endpoint.calls)
        assert await backend.capabilities() == found
        assert len(endpoint.calls) == calls  # remembered
        assert backend.probe_usage.calls == calls
        await backend.aclose()
    return backend, found, calls


async def test_a_server_that_ignores_what_it_is_asked() -> None:
    _, found, calls = await able(deaf)
    assert found == {Capability.TEXT}
    assert calls <= 20


async def test_openai() -> None:
    expected = {Capability.TEXT, Capability.LOGPROBS, Capability.JSON_SCHEMA, Capability.CACHED_TOKENS}
    assert (await able(openai_like))[1] == expected
    # With its dialect named, little is tried in vain.
    _, found, calls = await able(openai_like, dialect="openai")
    assert found == expected
    assert calls == 3


async def test_llama_cpp() -> None:
    expected = {Capability.TEXT, Capability.LOGPROBS, Capability.JSON_SCHEMA, Capability.CHOICE}
    assert (await able(llama_cpp_like))[1] == expected


@pytest.mark.parametrize(
    ("continued", "told"), [(True, True), (False, True), (True, False)], ids=["continues", "closes the turn", "mum"]
)
async def test_prefill_is_seen_in_the_prompt_not_in_the_reply(continued: bool, told: bool) -> None:
    def behave(request: Request) -> Behaviour:
        body = dict(request.body)
        if body["messages"][-1]["role"] == "assistant" and continued:
            # Ends with what was begun: no end of the turn, no new turn.
            count = prompt_tokens({**body, "messages": body["messages"][:-1], "continue_final_message": False}) + 1
        else:
            count = prompt_tokens({**body, "continue_final_message": False})
        return reply("1] > [2]", usage={"prompt_tokens": count, "completion_tokens": 3} if told else None)

    found = (await able(behave))[1]
    assert (Capability.PREFILL in found) == (continued and told)


async def test_declared_capabilities_are_not_tried() -> None:
    async with Naughty(choose=deaf) as endpoint:
        backend = chat(endpoint, capabilities=[Capability.LOGPROBS])
        assert await backend.capabilities() == {Capability.TEXT, Capability.LOGPROBS}
        await backend.aclose()
    assert endpoint.requests == []


async def test_a_plain_call_needs_no_trial() -> None:
    async with Naughty() as endpoint:
        backend = chat(endpoint)
        await backend.complete(ChatCall((Message("user", "hi"),), 5))
        await backend.aclose()
    assert len(endpoint.requests) == 1


async def test_what_the_endpoint_says_of_its_context() -> None:
    backend, _, _ = await able(openai_like)
    assert backend.context_tokens == 4096
    backend, _, _ = await able(openai_like, context_tokens=1000)
    assert backend.context_tokens == 1000


async def test_an_endpoint_that_is_down_is_tried_again_at_the_next_need() -> None:
    answers = iter([status(503), reply("hi")])
    behaviour = next(answers)
    async with Naughty(choose=lambda request: behaviour) as endpoint:
        backend = chat(endpoint, settings=ChatSettings(attempts_max=2, backoff_s=0.001))
        with pytest.raises(BackendDown):
            await backend.capabilities()
        with pytest.raises(ChatFailure) as caught:
            await backend.complete(ChatCall((Message("user", "hi"),), 1, labels=("A",)))
        assert isinstance(caught.value.cause, BackendDown)
        assert caught.value.usage.calls == 0  # the trial is on nobody's bill
        behaviour = next(answers)
        assert await backend.capabilities() == {Capability.TEXT}
        await backend.aclose()


async def test_a_wrong_key_is_found_by_the_trial() -> None:
    async with Naughty(status(401)) as endpoint:
        backend = chat(endpoint)
        with pytest.raises(BackendRefused, match="api_key_env"):
            await backend.capabilities()
        await backend.aclose()


async def test_one_trial_serves_all_who_wait_and_outlives_one_who_goes() -> None:
    async with Naughty(choose=deaf, latency_s=0.02) as endpoint:
        backend = chat(endpoint)
        first = asyncio.create_task(backend.capabilities())
        others = [asyncio.create_task(backend.capabilities()) for _ in range(3)]
        await endpoint.someone_came.wait()
        first.cancel()
        assert await asyncio.gather(*others) == [frozenset({Capability.TEXT})] * 3
        sent = [json.dumps(request.body, sort_keys=True) for request in endpoint.calls]
        assert len(sent) == len(set(sent))  # each thing was tried once
        await backend.aclose()


async def test_closing_ends_a_trial() -> None:
    async with Naughty(hang) as endpoint:
        backend = chat(endpoint)
        waiting = asyncio.create_task(backend.capabilities())
        await endpoint.someone_came.wait()
        await backend.aclose()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await asyncio.wait_for(endpoint.someone_left.wait(), 5.0)
