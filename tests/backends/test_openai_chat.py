"""The chat backend against real sockets: what it sends, what it makes of misbehaviour, and what it charges."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import math
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from podium_server.accounting.prices import Prices
from podium_server.accounting.usage import CostBasis, Usage
from podium_server.backends.chat.backend import Capability, ChatCall, ChatFailure, ChatReply, Message
from podium_server.backends.chat.openai.chat import ChatSettings, OpenAIChat
from podium_server.errors import (
    BackendDown,
    BackendRefused,
    ConfigInvalid,
    DeadlineExceeded,
    Overloaded,
    PodiumError,
)
from tests.backends.conftest import VirtualTime, until
from tests.backends.naughty import (
    Behaviour,
    Naughty,
    Request,
    body,
    close_without_a_word,
    completion,
    empty_choices,
    endless,
    half_then_hang,
    hang,
    html,
    no_http,
    reply,
    reset_in_mid_body,
    status,
    top_logprobs,
    truncated_json,
)

HELLO = ChatCall((Message("system", "You rank."), Message("user", "Rank these.")), max_output_tokens=50)
PRICES = Prices(prompt_usd_per_mtok=1.0, cached_usd_per_mtok=0.5, output_usd_per_mtok=10.0)
TEXT_ONLY = frozenset({Capability.TEXT})


def chat(*endpoints: Naughty | str, virtual: VirtualTime | None = None, **options: Any) -> OpenAIChat:
    options.setdefault("capabilities", TEXT_ONLY)
    if virtual is not None:
        options |= {"clock": virtual.clock, "sleep": virtual.sleep, "random_s": lambda most_s: most_s}
    urls = [one if isinstance(one, str) else one.url for one in endpoints]
    return OpenAIChat("ranker", model="tiny", base_urls=urls, **options)


async def failure(backend: OpenAIChat, call: ChatCall = HELLO, **options: Any) -> tuple[Exception, Usage]:
    with pytest.raises(ChatFailure) as caught:
        await backend.complete(call, **options)
    return caught.value.cause, caught.value.usage


# --- a plain call -----------------------------------------------------------------------------------------------------


async def test_a_plain_call_and_its_bill() -> None:
    told = {
        "prompt_tokens": 1000,
        "completion_tokens": 50,
        "prompt_tokens_details": {"cached_tokens": 400},
        "completion_tokens_details": {"reasoning_tokens": 20},
    }
    async with Naughty(reply("[2] > [1]", usage=told, model="tiny-2026-11-01")) as endpoint:
        backend = chat(endpoint, prices=PRICES)
        assert backend.revision == "tiny"
        answer = await backend.complete(HELLO)
        await backend.aclose()
    assert (answer.text, answer.finish_reason, answer.model) == ("[2] > [1]", "stop", "tiny-2026-11-01")
    assert backend.revision == "tiny-2026-11-01"
    usage = answer.usage
    assert (usage.calls, usage.retries, usage.prompt_tokens, usage.cached_tokens) == (1, 0, 1000, 400)
    assert (usage.output_tokens, usage.reasoning_tokens) == (50, 20)
    assert usage.cost_nano_usd == 600 * 1000 + 400 * 500 + 50 * 10_000
    assert usage.cost_basis is CostBasis.PRICE_TABLE
    assert not usage.repairs
    (sent,) = endpoint.calls
    assert sent.path == "/v1/chat/completions"
    assert sent.body == {
        "model": "tiny",
        "messages": [{"role": "system", "content": "You rank."}, {"role": "user", "content": "Rank these."}],
        "max_tokens": 50,
        "temperature": 0.0,
    }
    assert "authorization" not in sent.headers


async def test_a_price_that_nobody_configured_is_unknown() -> None:
    async with Naughty() as endpoint:
        backend = chat(endpoint)
        usage = (await backend.complete(HELLO)).usage
        await backend.aclose()
    assert (usage.cost_nano_usd, usage.cost_basis) == (None, CostBasis.UNKNOWN)


async def test_seed_stop_extra_body_and_headers_are_sent() -> None:
    async with Naughty() as endpoint:
        backend = chat(endpoint, extra_body={"chat_template_kwargs": {"enable_thinking": False}}, headers={"x-a": "b"})
        await backend.complete(ChatCall(HELLO.messages, 5, temperature=0.3, seed=7, stop=("\n",)))
        await backend.aclose()
    (sent,) = endpoint.calls
    assert sent.body["seed"] == 7
    assert sent.body["stop"] == ["\n"]
    assert sent.body["temperature"] == 0.3
    assert sent.body["chat_template_kwargs"] == {"enable_thinking": False}
    assert sent.headers["x-a"] == "b"


async def test_texts_that_are_no_unicode_are_sent_all_the_same() -> None:
    async with Naughty() as endpoint:
        backend = chat(endpoint)
        await backend.complete(ChatCall((Message("user", "a\ud800b é 漢"),), 5))
        await backend.aclose()
    assert endpoint.calls[0].body["messages"][0]["content"] == "a?b é 漢"


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": 3}, {"prompt_tokens": "3", "completion_tokens": None}])
async def test_missing_usage_is_counted_here_and_said_to_be(usage: Mapping[str, Any] | None) -> None:
    async with Naughty(reply("[1] > [2] > [3]", usage=usage)) as endpoint:
        backend = chat(endpoint, prices=PRICES)
        used = (await backend.complete(HELLO)).usage
        await backend.aclose()
    assert used.repairs == {"usage_estimated": 1}
    assert used.prompt_tokens == backend.count_tokens("You rank.") + backend.count_tokens("Rank these.")
    assert used.output_tokens == backend.count_tokens("[1] > [2] > [3]")
    assert used.cost_nano_usd


# --- reasoning --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "extra", "text"),
    [
        ("<think>\n[2] > [1]?\n</think>\n\n[1] > [2]", {}, "[1] > [2]"),
        ("the template has opened it\n</think>\n[1] > [2]", {}, "[1] > [2]"),
        ("[1] > [2]", {"reasoning_content": "[2] > [1]?"}, "[1] > [2]"),
        ("[1] > [2]", {"reasoning": "[2] > [1]?"}, "[1] > [2]"),
        ("Use <think> tags", {}, "Use <think> tags"),
    ],
)
async def test_reasoning_is_no_part_of_the_reply(content: str, extra: dict[str, str], text: str) -> None:
    async with Naughty(reply(content, message=extra)) as endpoint:
        backend = chat(endpoint)
        answer = await backend.complete(HELLO)
        await backend.aclose()
    assert answer.text == text
    assert bool(answer.usage.reasoning_tokens) == (text != content or bool(extra))


async def test_reasoning_that_the_bound_cuts_off_leaves_no_reply() -> None:
    async with Naughty(reply("<think>[2] > [1]", finish_reason="length")) as endpoint:
        backend = chat(endpoint)
        answer = await backend.complete(HELLO)
        await backend.aclose()
    assert (answer.text, answer.finish_reason) == ("", "length")


async def test_reasoning_beside_the_completion_is_output_too() -> None:
    told = {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": 115,
        "completion_tokens_details": {"reasoning_tokens": 100},
    }
    async with Naughty(reply(usage=told)) as endpoint:
        backend = chat(endpoint)
        usage = (await backend.complete(HELLO)).usage
        await backend.aclose()
    assert (usage.output_tokens, usage.reasoning_tokens) == (105, 100)


# --- ways to fail -----------------------------------------------------------------------------------------------------

TRANSIENT: dict[str, Behaviour] = {
    "429": status(429),
    "500": status(500),
    "502 html": html(502),
    "503": status(503),
    "529": status(529, type="overloaded_error"),
    "408": status(408),
    "truncated json": truncated_json(),
    "empty choices": empty_choices(),
    "null content": reply(None),
    "html with 200": html(),
    "empty body": body(b""),
    "a list": body(b"[]"),
    "a message that is none": body(json.dumps({"choices": [{"message": "hi"}]}).encode()),
    "an error with 200": body(json.dumps({"error": {"message": "worker died"}}).encode()),
    "deep json": body(b"[" * 100_000),
    "reset in mid body": reset_in_mid_body,
    "close without a word": close_without_a_word,
    "no http": no_http,
    "endless": endless,
    "hang": hang,
    "half then hang": half_then_hang,
}
SETTINGS = ChatSettings(reply_bytes_max=100_000, attempts_max=3)
# Only where nothing comes: a busy machine's real replies must not be taken for late ones.
IMPATIENT = replace(SETTINGS, reply_wait_s_max=0.4)


def settings_for(name: str) -> ChatSettings:
    return IMPATIENT if "hang" in name else SETTINGS


@pytest.mark.parametrize("name", TRANSIENT)
async def test_a_passing_failure_is_tried_again_and_charged(name: str, virtual: VirtualTime) -> None:
    async with Naughty(TRANSIENT[name], reply("[2] > [1]")) as endpoint:
        backend = chat(endpoint, virtual=virtual, settings=settings_for(name), prices=PRICES)
        answer = await backend.complete(HELLO)
        await backend.aclose()
    assert answer.text == "[2] > [1]"
    assert (answer.usage.calls, answer.usage.retries) == (2, 1)
    assert len(endpoint.calls) == 2
    assert answer.usage.prompt_tokens >= 100
    # Where the endpoint may have worked before it failed, the tokens of the failed attempt are on the bill too.
    refused = name.split()[0].isdigit()
    assert ("usage_estimated" in answer.usage.repairs) != refused


@pytest.mark.parametrize("name", TRANSIENT)
async def test_a_lasting_failure_is_bounded_typed_and_charged(name: str, virtual: VirtualTime) -> None:
    async with Naughty(TRANSIENT[name]) as endpoint:
        backend = chat(endpoint, virtual=virtual, settings=settings_for(name), prices=PRICES)
        cause, usage = await failure(backend)
        await backend.aclose()
    assert isinstance(cause, BackendDown)
    assert "3 of at most 3 attempts" in cause.message
    assert "ranker" in cause.message
    assert (usage.calls, usage.retries, len(endpoint.calls)) == (3, 2, 3)
    assert usage.cost_nano_usd is not None


async def test_what_the_messages_say(virtual: VirtualTime) -> None:
    for behaviour, words in [
        (html(), ["an HTML page (502 Bad Gateway)", "/v1"]),
        (truncated_json(), ["JSON that breaks off"]),
        (empty_choices(), ["no choices"]),
        (reset_in_mid_body, ["broke the connection off"]),
        (hang, ["no answer within 0.4 s"]),
        (status(503, message="model is loading"), ["503: model is loading"]),
        (body(b"upstream connect error", code=503), ["503: no JSON: upstream connect error"]),
    ]:
        async with Naughty(behaviour) as endpoint:
            backend = chat(endpoint, virtual=virtual, settings=settings_for("hang" if behaviour is hang else ""))
            cause, _ = await failure(backend)
            await backend.aclose()
        for word in words:
            assert word in str(cause), str(cause)


async def test_nobody_there(virtual: VirtualTime) -> None:
    async with Naughty() as endpoint:
        url = endpoint.url
    backend = chat(url, virtual=virtual)
    cause, usage = await failure(backend)
    await backend.aclose()
    assert isinstance(cause, BackendDown)
    assert "cannot be reached" in cause.message
    assert (usage.calls, usage.prompt_tokens) == (4, 0)


@pytest.mark.parametrize("code", [401, 403])
async def test_a_wrong_key_is_refused_by_name_and_never_shown(
    code: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RANKER_KEY", "sk-very-secret")
    caplog.set_level(logging.DEBUG)
    async with Naughty(status(code, message="Incorrect API key provided: sk-very-secret")) as endpoint:
        backend = chat(endpoint, api_key_env="RANKER_KEY")
        cause, usage = await failure(backend)
        await backend.aclose()
    assert isinstance(cause, BackendRefused)
    assert "RANKER_KEY" in cause.message
    assert "secret" not in str(cause) + repr(cause) + repr(cause.metadata) + repr(backend) + caplog.text
    assert usage.calls == 1
    assert endpoint.calls[0].headers["authorization"] == "Bearer sk-very-secret"


async def test_a_key_that_is_wanted_and_not_configured() -> None:
    async with Naughty(status(401, message="who are you?")) as endpoint:
        backend = chat(endpoint)
        cause, _ = await failure(backend)
        await backend.aclose()
    assert "api_key_env" in str(cause)


def test_a_key_variable_that_is_not_set_is_found_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANKER_KEY", raising=False)
    with pytest.raises(ConfigInvalid, match="RANKER_KEY is not set"):
        chat("http://127.0.0.1:1/v1", api_key_env="RANKER_KEY")


async def test_an_unknown_model_is_refused_with_those_that_are_there() -> None:
    async with Naughty(status(404, message="The model `tiny` does not exist."), models=("qwen3", "gemma")) as endpoint:
        backend = chat(endpoint)
        cause, usage = await failure(backend)
        await backend.aclose()
    assert isinstance(cause, BackendRefused)
    assert "it serves qwen3, gemma, and not 'tiny'" in cause.message
    assert usage.calls == 1


@pytest.mark.parametrize(
    ("code", "message", "error"),
    [
        (400, "This model's maximum context length is 4096 tokens. However, you requested 5000", {}),
        (400, "too much", {"code": "context_length_exceeded"}),
        (413, "Prompt is too long", {}),
        (500, "Requested tokens (9000) exceed context window of 8192", {}),
    ],
)
async def test_a_prompt_too_long_is_refused_at_once(code: int, message: str, error: dict[str, str]) -> None:
    async with Naughty(status(code, message=message, **error)) as endpoint:
        backend = chat(endpoint)
        cause, usage = await failure(backend)
        await backend.aclose()
    assert isinstance(cause, BackendRefused)
    assert "too long" in cause.message
    assert usage.calls == 1


@pytest.mark.parametrize(
    "behaviour",
    [
        status(400, message="bad"),
        status(402, message="pay"),
        status(422, message="what?"),
        status(429, message="You exceeded your current quota", code="insufficient_quota"),
        body(b"", code=307, headers={"location": "http://127.0.0.1:1/"}),
        body(json.dumps({"detail": [{"loc": ["body", "messages"], "msg": "Field required"}]}).encode(), code=422),
    ],
)
async def test_other_refusals_are_not_tried_again(behaviour: Behaviour) -> None:
    async with Naughty(behaviour) as endpoint:
        backend = chat(endpoint)
        cause, usage = await failure(backend)
        await backend.aclose()
    assert isinstance(cause, BackendRefused)
    assert (usage.calls, usage.prompt_tokens, len(endpoint.calls)) == (1, 0, 1)


@pytest.mark.parametrize(
    ("behaviour", "finish_reason"),
    [
        (reply(None, message={"refusal": "I cannot help with that."}), "refusal"),
        (reply(None, finish_reason="content_filter"), "content_filter"),
        (reply("[1] >", finish_reason="content_filter"), "content_filter"),
        (status(400, code="content_filter", message="policy"), "content_filter"),
    ],
)
async def test_refusals_of_the_model_are_replies_that_say_so(behaviour: Behaviour, finish_reason: str) -> None:
    async with Naughty(behaviour) as endpoint:
        backend = chat(endpoint)
        answer = await backend.complete(HELLO)
        await backend.aclose()
    assert answer.finish_reason == finish_reason
    assert "cannot" not in answer.text
    assert answer.usage.repairs == {"refused": 1}
    assert answer.usage.calls == 1


async def test_a_reply_that_was_cut_says_so() -> None:
    async with Naughty(reply("[1] > [", finish_reason="length")) as endpoint:
        backend = chat(endpoint)
        answer = await backend.complete(HELLO)
        await backend.aclose()
    assert (answer.text, answer.finish_reason) == ("[1] > [", "length")


# --- waits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after-ms": "1500", "retry-after": "2"}, 1.5),
        ({"retry-after": "nonsense"}, 0.0),
        ({"retry-after": "-3"}, 0.0),
    ],
)
async def test_retry_after_is_honoured(headers: dict[str, str], wait_s: float, virtual: VirtualTime) -> None:
    async with Naughty(status(429, headers), reply()) as endpoint:
        backend = chat(endpoint, virtual=virtual)
        usage = (await backend.complete(HELLO)).usage
        await backend.aclose()
    # The jitter, here at its most, comes on top: those who were sent away together do not come back together.
    assert virtual.now_s - 1000.0 == pytest.approx(wait_s + 0.5)
    assert usage.queue_s == pytest.approx(wait_s + 0.5)


async def test_retry_after_as_a_date(virtual: VirtualTime) -> None:
    from podium_server.backends.chat.openai.chat import retry_after_s

    headers = {"retry-after": "Sat, 21 Nov 2026 00:00:10 GMT"}
    assert retry_after_s(headers, now=lambda: 1795219200.0) == pytest.approx(10.0)


async def test_retry_after_holds_the_other_calls_too(virtual: VirtualTime) -> None:
    virtual.frozen = True
    async with Naughty(status(429, {"retry-after": "30"}), reply()) as endpoint:
        backend = chat(endpoint, virtual=virtual)
        first = asyncio.create_task(backend.complete(HELLO))
        await until(lambda: bool(virtual.slept))
        second = asyncio.create_task(backend.complete(HELLO))
        await until(lambda: backend.endpoints.waiting == 1)
        virtual.frozen = False
        replies = await asyncio.gather(first, second)
        await backend.aclose()
    assert replies[1].usage.queue_s >= 29.0
    assert replies[1].usage.calls == 1


async def test_a_wait_longer_than_allowed_ends_the_call(virtual: VirtualTime) -> None:
    async with Naughty(status(429, {"retry-after": "3600"})) as endpoint:
        backend = chat(endpoint, virtual=virtual)
        cause, usage = await failure(backend)
        await backend.aclose()
    assert isinstance(cause, BackendDown)
    assert cause.retry_after_s == 3600.0
    assert usage.calls == 1
    assert virtual.slept == []


async def test_backoff_is_drawn_below_a_bound_that_doubles() -> None:
    virtual = VirtualTime()
    drawn: list[float] = []

    def draw(most_s: float) -> float:
        drawn.append(most_s)
        return most_s / 2

    async with Naughty(status(500)) as endpoint:
        settings = ChatSettings(attempts_max=6, backoff_s=1.0, backoff_s_max=5.0)
        backend = OpenAIChat(
            "ranker",
            model="tiny",
            base_urls=[endpoint.url],
            capabilities=TEXT_ONLY,
            settings=settings,
            clock=virtual.clock,
            sleep=virtual.sleep,
            random_s=draw,
        )
        await failure(backend)
        await backend.aclose()
    assert drawn == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert virtual.slept == [0.5, 1.0, 2.0, 2.5, 2.5]


@pytest.mark.parametrize(("word", "attempts"), [("false", 1), ("true", 4)])
async def test_the_endpoints_own_word_on_trying_again(word: str, attempts: int, virtual: VirtualTime) -> None:
    behaviour = status(503 if word == "false" else 418, {"x-should-retry": word})
    async with Naughty(behaviour) as endpoint:
        backend = chat(endpoint, virtual=virtual)
        _, usage = await failure(backend)
        await backend.aclose()
    assert usage.calls == attempts


async def test_no_attempt_begins_after_the_deadline(virtual: VirtualTime) -> None:
    async with Naughty(status(503, {"retry-after": "20"})) as endpoint:
        backend = chat(endpoint, virtual=virtual)
        cause, usage = await failure(backend, deadline_at=virtual.now_s + 10.0)
        assert isinstance(cause, DeadlineExceeded)
        assert "503" in cause.message
        assert usage.calls == 1
        # It is known that waiting is in vain: nobody waits.
        assert virtual.slept == []
        cause, usage = await failure(backend, deadline_at=virtual.now_s - 1.0)
        assert isinstance(cause, DeadlineExceeded)
        assert (usage.calls, len(endpoint.calls)) == (0, 1)
        await backend.aclose()


async def test_no_attempt_lasts_beyond_the_deadline() -> None:
    async with Naughty(hang) as endpoint:
        backend = chat(endpoint)
        cause, usage = await failure(backend, deadline_at=time.monotonic() + 0.1)
        await asyncio.wait_for(endpoint.someone_left.wait(), 5.0)
        await backend.aclose()
    assert isinstance(cause, DeadlineExceeded)
    assert (usage.calls, usage.prompt_tokens > 0) == (1, True)


async def test_the_deadline_holds_in_the_queue_too() -> None:
    async with Naughty(hang) as endpoint:
        backend = chat(endpoint, settings=ChatSettings(concurrency=1))
        first = asyncio.create_task(backend.complete(HELLO))
        await endpoint.someone_came.wait()
        cause, usage = await failure(backend, deadline_at=time.monotonic() + 0.1)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await backend.aclose()
    assert isinstance(cause, DeadlineExceeded)
    assert "waited for a place" in cause.message
    assert usage.calls == 0
    assert usage.queue_s > 0


# --- cancelling -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("behaviour", [hang, half_then_hang])
async def test_a_cancelled_call_closes_its_connection_and_says_what_it_used(behaviour: Behaviour) -> None:
    spent: list[Usage] = []
    async with Naughty(behaviour) as endpoint:
        backend = chat(endpoint, prices=PRICES)
        task = asyncio.create_task(backend.complete(HELLO, on_cancel=spent.append))
        await endpoint.someone_came.wait()
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # The server sees it: this is what stops a vLLM.
        await asyncio.wait_for(endpoint.someone_left.wait(), 5.0)
        assert (endpoint.left, endpoint.under_way) == (1, 0)
        assert backend.endpoints.outstanding == 0
        await backend.aclose()
    (usage,) = spent
    assert (usage.calls, usage.retries) == (1, 0)
    assert usage.prompt_tokens == sum(backend.count_tokens(turn.content) for turn in HELLO.messages)
    assert usage.cost_nano_usd == usage.prompt_tokens * 1000
    assert usage.repairs == {"usage_estimated": 1}


async def test_a_call_cancelled_between_attempts_has_the_first_on_its_bill(virtual: VirtualTime) -> None:
    spent: list[Usage] = []
    async with Naughty(status(503, {"retry-after": "50"})) as endpoint:
        backend = chat(endpoint, virtual=virtual)
        task = asyncio.create_task(backend.complete(HELLO, on_cancel=spent.append))
        await until(lambda: bool(virtual.slept))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await backend.aclose()
    assert [usage.calls for usage in spent] == [1]


async def test_a_call_cancelled_in_the_queue_costs_nothing_and_leaves_it() -> None:
    spent: list[Usage] = []
    async with Naughty(hang) as endpoint:
        backend = chat(endpoint, settings=ChatSettings(concurrency=1))
        first = asyncio.create_task(backend.complete(HELLO))
        await endpoint.someone_came.wait()
        second = asyncio.create_task(backend.complete(HELLO, on_cancel=spent.append))
        await until(lambda: backend.endpoints.waiting == 1)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        assert backend.endpoints.waiting == 0
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await backend.aclose()
    assert [usage.calls for usage in spent] == [0]


async def test_closing_cancels_what_is_under_way() -> None:
    async with Naughty(hang) as endpoint:
        backend = chat(endpoint)
        task = asyncio.create_task(backend.complete(HELLO))
        await endpoint.someone_came.wait()
        await backend.aclose()
        with pytest.raises(asyncio.CancelledError):
            await task


# --- limits -----------------------------------------------------------------------------------------------------------


async def test_concurrency_is_bounded_for_all_calls_together() -> None:
    async with Naughty(reply(wait_s=0.02)) as endpoint:
        backend = chat(endpoint, settings=ChatSettings(concurrency=3))
        await asyncio.gather(*(backend.complete(HELLO) for _ in range(15)))
        await backend.aclose()
    assert endpoint.under_way_most == 3
    assert len(endpoint.calls) == 15


async def test_a_full_queue_is_overloaded_and_costs_nothing() -> None:
    async with Naughty(hang) as endpoint:
        backend = chat(endpoint, settings=ChatSettings(concurrency=1, queue_max=2))
        tasks = [asyncio.create_task(backend.complete(HELLO)) for _ in range(3)]
        await until(lambda: backend.endpoints.waiting == 2)
        cause, usage = await failure(backend)
        assert isinstance(cause, Overloaded)
        assert "queue_max" in cause.message
        assert usage.calls == 0
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await backend.aclose()


async def test_requests_a_minute(virtual: VirtualTime) -> None:
    async with Naughty() as endpoint:
        backend = chat(endpoint, virtual=virtual, settings=ChatSettings(requests_per_minute=10))
        replies = await asyncio.gather(*(backend.complete(HELLO) for _ in range(15)))
        await backend.aclose()
    # A full minute's worth at once, and then one every six seconds.
    assert virtual.now_s - 1000.0 == pytest.approx(30.0)
    assert sorted(round(one.usage.queue_s) for one in replies) == [0] * 10 + [6, 12, 18, 24, 30]


async def test_tokens_a_minute_are_set_right_by_what_was_used(virtual: VirtualTime) -> None:
    async with Naughty(reply(usage={"prompt_tokens": 300, "completion_tokens": 300})) as endpoint:
        backend = chat(endpoint, virtual=virtual, settings=ChatSettings(tokens_per_minute=600))
        await backend.complete(HELLO)
        assert virtual.now_s == 1000.0
        await backend.complete(HELLO)
        await backend.aclose()
    reserved = len(json.dumps(endpoint.calls[0].body, separators=(",", ":"))) // 3 + 50
    assert virtual.now_s - 1000.0 == pytest.approx(reserved / 10.0, rel=0.05)


# --- several endpoints ------------------------------------------------------------------------------------------------


async def test_calls_go_where_the_least_is_under_way() -> None:
    async with Naughty(reply(wait_s=0.05)) as one, Naughty(reply(wait_s=0.05)) as other:
        backend = chat(one, other)
        await asyncio.gather(*(backend.complete(HELLO) for _ in range(20)))
        await backend.aclose()
    assert (len(one.calls), len(other.calls)) == (10, 10)


async def test_a_failed_endpoint_is_left_at_once_put_aside_and_tried_again(virtual: VirtualTime) -> None:
    answers = itertools.chain([status(503)], itertools.repeat(reply("one")))
    async with Naughty(choose=lambda _: next(answers)) as one, Naughty(reply("other")) as other:
        backend = chat(one, other, virtual=virtual)
        first = await backend.complete(HELLO)
        # No wait: the other one is well.
        assert (first.text, first.usage.calls, virtual.slept) == ("other", 2, [])
        for _ in range(5):
            assert (await backend.complete(HELLO)).text == "other"
        assert len(one.calls) == 1
        virtual.now_s += 1.01
        texts = [(await backend.complete(HELLO)).text for _ in range(4)]
        await backend.aclose()
    assert texts.count("one") == 2


async def test_an_endpoint_that_goes_down_loses_no_call(virtual: VirtualTime) -> None:
    async with Naughty(reply("other", wait_s=0.01)) as other:
        one = Naughty(reply("one", wait_s=0.01))
        await one.start()
        backend = chat(one, other, settings=ChatSettings(concurrency=2))
        tasks = [asyncio.create_task(backend.complete(HELLO)) for _ in range(40)]
        await until(lambda: len(one.calls) >= 5)
        await one.stop()
        replies = await asyncio.gather(*tasks)
        await backend.aclose()
    assert len(replies) == 40
    # Each failed attempt is on somebody's bill.
    assert sum(one.usage.calls for one in replies) > 40


async def test_all_endpoints_down_is_bounded(virtual: VirtualTime) -> None:
    async with Naughty(status(500)) as one, Naughty(status(502)) as other:
        backend = chat(one, other, virtual=virtual)
        cause, usage = await failure(backend)
        await backend.aclose()
    assert isinstance(cause, BackendDown)
    assert usage.calls == 4
    assert (len(one.calls), len(other.calls)) == (2, 2)


async def test_an_endpoint_at_its_rate_limit_leaves_the_call_to_the_other(virtual: VirtualTime) -> None:
    async with Naughty(status(429, {"retry-after": "40"})) as one, Naughty(reply("other")) as other:
        backend = chat(one, other, virtual=virtual)
        texts = [(await backend.complete(HELLO)).text for _ in range(4)]
        await backend.aclose()
    assert texts == ["other"] * 4
    assert len(one.calls) == 1
    assert virtual.slept == []


# --- fields that some endpoints refuse --------------------------------------------------------------------------------


async def test_fields_that_the_endpoint_refuses_are_learned_once() -> None:
    def choose(request: Request) -> Behaviour:
        if "max_tokens" in request.body:
            message = "Unsupported parameter: 'max_tokens' is not supported with this model."
            return status(400, message=message, param="max_tokens", code="unsupported_parameter")
        if "temperature" in request.body:
            message = "Unsupported value: 'temperature' does not support 0 with this model."
            return status(400, message=message, param="temperature", code="unsupported_value")
        return reply()

    async with Naughty(choose=choose) as endpoint:
        backend = chat(endpoint)
        first = await backend.complete(HELLO)
        second = await backend.complete(HELLO)
        await backend.aclose()
    assert first.usage.calls == 3  # each of them was a call
    assert second.usage.calls == 1
    assert endpoint.calls[-1].body["max_completion_tokens"] == 50
    assert "temperature" not in endpoint.calls[-1].body


# --- log-probabilities ------------------------------------------------------------------------------------------------


async def test_labels_among_the_likeliest_tokens() -> None:
    place = top_logprobs(**{"A": -0.5, " A": -2.0, "▁B": -1.5, "x": -3.0})
    async with Naughty(reply("A", logprobs=place)) as endpoint:
        backend = chat(endpoint, capabilities=[Capability.LOGPROBS])
        answer = await backend.complete(ChatCall(HELLO.messages, 1, labels=("A", "B", "C")))
        await backend.aclose()
    sent = endpoint.calls[0].body
    assert (sent["logprobs"], sent["top_logprobs"]) == (True, 20)
    assert answer.label_logprobs == {
        "A": pytest.approx(math.log(math.exp(-0.5) + math.exp(-2.0))),
        "B": -1.5,
    }
    # C is not likelier than the last that is told, nor than all that is left.
    left = 1.0 - sum(math.exp(one) for one in (-0.5, -2.0, -1.5, -3.0))
    assert answer.unseen_logprob == pytest.approx(min(-3.0, math.log(max(left, 0.0) + 1e-6)), abs=1e-3)


async def test_all_labels_seen_leaves_nothing_to_bound() -> None:
    async with Naughty(reply("A", logprobs=top_logprobs(A=-0.5, B=-1.5))) as endpoint:
        backend = chat(endpoint, capabilities=[Capability.LOGPROBS])
        answer = await backend.complete(ChatCall(HELLO.messages, 1, labels=("A", "B")))
        await backend.aclose()
    assert answer.unseen_logprob is None


async def test_the_older_shape_of_log_probabilities() -> None:
    place = {"tokens": ["A"], "token_logprobs": [-0.5], "top_logprobs": [{"A": -0.5, "B": -1.0}]}
    async with Naughty(reply("A", logprobs=place)) as endpoint:
        backend = chat(endpoint, capabilities=[Capability.LOGPROBS])
        answer = await backend.complete(ChatCall(HELLO.messages, 1, labels=("A", "B")))
        await backend.aclose()
    assert answer.label_logprobs == {"A": -0.5, "B": -1.0}


async def test_labels_are_looked_for_behind_the_reasoning() -> None:
    def place(token: str, **others: float) -> dict[str, Any]:
        pairs = [{"token": token, "logprob": -0.1}, *({"token": k, "logprob": v} for k, v in others.items())]
        return {**pairs[0], "top_logprobs": pairs}

    said = [place("<think>"), place("A", B=-2.0), place("</think>"), place("\n\n"), place("B", A=-3.0)]
    async with Naughty(reply("<think>A</think>\n\nB", logprobs={"content": said})) as endpoint:
        backend = chat(endpoint, capabilities=[Capability.LOGPROBS])
        answer = await backend.complete(ChatCall(HELLO.messages, 9, labels=("A", "B")))
        await backend.aclose()
    assert answer.label_logprobs == {"B": -0.1, "A": -3.0}


async def test_labels_by_number() -> None:
    def choose(request: Request) -> Behaviour:
        named = [request.body["logprob_token_ids"]] if "logprob_token_ids" in request.body else []
        pairs = [{"token": f"token_id:{n}", "logprob": -float(n)} for n in (named[0] if named else [1])]
        return reply("A", logprobs={"content": [{**pairs[0], "top_logprobs": pairs}]})

    vocabulary = {"A": [10], " A": [11], "B": [12], " B": [13, 14], "long": [1, 2], " long": [3, 4]}
    vocabulary |= {"[": [20], "[A": [20, 30], "[B": [21]}
    async with Naughty(choose=choose, tokens=lambda fields: vocabulary[fields["prompt"]]) as endpoint:
        backend = chat(endpoint, capabilities=[Capability.LABEL_LOGPROBS, Capability.LOGPROBS, Capability.PREFILL])
        answer = await backend.complete(ChatCall(HELLO.messages, 1, labels=("A", "B")))
        assert endpoint.calls[-1].body["logprob_token_ids"] == [10, 11, 12]
        assert answer.label_logprobs == {"A": pytest.approx(math.log(math.exp(-10) + math.exp(-11))), "B": -12.0}
        begun = (*HELLO.messages, Message("assistant", "["))
        await backend.complete(ChatCall(begun, 1, labels=("A", "B")))
        assert endpoint.calls[-1].body["logprob_token_ids"] == [30, 10, 11, 12]
        # A label of several tokens cannot be named by number: the likeliest tokens are asked for instead.
        await backend.complete(ChatCall(HELLO.messages, 1, labels=("A", "long")))
        assert "logprob_token_ids" not in endpoint.calls[-1].body
        asked = len([one for one in endpoint.requests if one.path == "/tokenize"])
        await backend.complete(ChatCall(begun, 1, labels=("A", "B")))
        assert len([one for one in endpoint.requests if one.path == "/tokenize"]) == asked  # remembered
        await backend.aclose()


async def test_what_an_endpoint_cannot_do_is_refused_and_named() -> None:
    async with Naughty() as endpoint:
        backend = chat(endpoint)
        for call, words in [
            (ChatCall(HELLO.messages, 1, labels=("A",)), "log-probabilities"),
            (ChatCall((*HELLO.messages, Message("assistant", "[")), 1), "prefill"),
            (ChatCall(HELLO.messages, 1, score_continuation="q"), "prompt_logprobs"),
        ]:
            cause, usage = await failure(backend, call)
            assert isinstance(cause, BackendRefused)
            assert words in cause.message
            assert usage.calls == 0
        await backend.aclose()
    assert endpoint.calls == []


async def test_log_probabilities_left_out_are_refused_not_made_up() -> None:
    async with Naughty(reply("A")) as endpoint:
        backend = chat(endpoint, capabilities=[Capability.LOGPROBS])
        cause, usage = await failure(backend, ChatCall(HELLO.messages, 1, labels=("A",)))
        await backend.aclose()
    assert isinstance(cause, BackendRefused)
    assert usage.calls == 1


# --- structured output and prefill ------------------------------------------------------------------------------------

SCHEMA = {"type": "object"}


@pytest.mark.parametrize(
    ("dialect", "call", "fields"),
    [
        ("vllm", {"schema": SCHEMA}, {"structured_outputs": {"json": SCHEMA}}),
        ("vllm", {"choice": ("A", "B")}, {"structured_outputs": {"choice": ["A", "B"]}}),
        ("vllm", {"regex": "a+"}, {"structured_outputs": {"regex": "a+"}}),
        (
            "openai",
            {"schema": SCHEMA},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "reply", "schema": SCHEMA, "strict": True},
                }
            },
        ),
        ("llama.cpp", {"schema": SCHEMA}, {"response_format": {"type": "json_object", "schema": SCHEMA}}),
        ("llama.cpp", {"choice": ("A", 'B"')}, {"grammar": 'root ::= "A" | "B\\""'}),
        ("sglang", {"choice": ("A.", "B")}, {"regex": "A\\.|B"}),
    ],
)
async def test_structured_output_in_each_dialect(dialect: str, call: dict[str, Any], fields: dict[str, Any]) -> None:
    async with Naughty() as endpoint:
        declared = [Capability.JSON_SCHEMA, Capability.CHOICE, Capability.REGEX]
        backend = chat(endpoint, dialect=dialect, capabilities=declared)
        usage = (await backend.complete(ChatCall(HELLO.messages, 9, **call))).usage
        await backend.aclose()
    assert fields.items() <= endpoint.calls[0].body.items()
    assert "unconstrained" not in usage.repairs


async def test_a_form_that_the_endpoint_cannot_hold_is_counted() -> None:
    async with Naughty() as endpoint:
        backend = chat(endpoint, dialect="openai", capabilities=[Capability.JSON_SCHEMA])
        usage = (await backend.complete(ChatCall(HELLO.messages, 9, choice=("A", "B")))).usage
        await backend.aclose()
    assert usage.repairs == {"unconstrained": 1}
    assert endpoint.calls[0].body["max_completion_tokens"] == 9


async def test_prefill_is_continued_or_dropped_and_counted() -> None:
    begun = ChatCall((*HELLO.messages, Message("assistant", "[")), 1)
    async with Naughty() as endpoint:
        backend = chat(endpoint, dialect="vllm", capabilities=[Capability.PREFILL])
        await backend.complete(begun)
        await backend.aclose()
        body_sent = endpoint.calls[-1].body
        assert (body_sent["continue_final_message"], body_sent["add_generation_prompt"]) == (True, False)
        assert body_sent["messages"][-1] == {"role": "assistant", "content": "["}
        backend = chat(endpoint, dialect="openai", drop_prefill=True)
        usage = (await backend.complete(begun)).usage
        await backend.aclose()
        assert usage.repairs == {"prefill_dropped": 1}
        assert endpoint.calls[-1].body["messages"][-1]["role"] == "user"


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"attempts_max": 0},
        {"concurrency": 0},
        {"reply_wait_s_max": 0},
        {"backoff_s": -1},
        {"tokens_per_minute": 0},
        {"requests_per_minute": float("nan")},
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        ChatSettings(**options)


@pytest.mark.parametrize(
    "options", [{"base_urls": []}, {"base_urls": ["127.0.0.1:8000"]}, {"dialect": "klingon"}, {"tokenizer": "/no/such"}]
)
def test_configuration_that_cannot_work_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigInvalid):
        OpenAIChat("ranker", **{"model": "tiny", "base_urls": ["http://127.0.0.1:1/v1"], **options})


async def test_no_reply_at_all_makes_anything_but_a_reply_or_a_typed_failure(virtual: VirtualTime) -> None:
    """Foreign data: whatever stands in the fields."""
    oddities: list[Any] = [None, 0, -1, True, "x", [], {}, [None], {"content": None}, float("nan")]
    bodies = [
        {**completion(), field: odd}
        for field in ("choices", "usage", "model", "prompt_logprobs", "prompt_token_ids")
        for odd in oddities
    ]
    for field in ("message", "finish_reason", "logprobs"):
        for odd in oddities:
            whole = completion()
            whole["choices"][0][field] = odd
            bodies.append(whole)
    for odd in oddities:
        bodies.append(completion(logprobs={"content": odd}))
        bodies.append(completion(logprobs={"content": [{"token": odd, "logprob": odd, "top_logprobs": odd}]}))
        bodies.append(completion(logprobs={"content": [{"token": "A", "logprob": -1, "top_logprobs": [odd]}]}))
        bodies.append(completion(odd))
        bodies.append(completion(usage={"prompt_tokens": odd, "completion_tokens": 1, "prompt_tokens_details": odd}))
    answers = iter(bodies)
    async with Naughty(choose=lambda _: body(json.dumps(next(answers)).encode())) as endpoint:
        backend = chat(endpoint, capabilities=[Capability.LOGPROBS], settings=ChatSettings(attempts_max=1))
        for _ in bodies:
            try:
                answer = await backend.complete(ChatCall(HELLO.messages, 5, labels=("A", "B")))
            except ChatFailure as error:
                assert isinstance(error.cause, PodiumError)  # noqa: PT017
                assert error.usage.calls == 1  # noqa: PT017
            else:
                assert isinstance(answer, ChatReply)
                assert answer.usage.calls == 1
        await backend.aclose()


def test_podium_help_does_not_load_the_client() -> None:
    # The module is named in no package's __init__: it is imported by whoever builds a configured model.
    import subprocess
    import sys

    code = "import podium_server.backends.chat.backend, sys; assert 'openai' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ})
