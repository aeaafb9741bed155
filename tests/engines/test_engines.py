"""Every strategy through real servers: llama.cpp's and vLLM's, each with a tiny random model.

The models know nothing, so that the orders are worth nothing; that they are permutations, that the endpoints do what
they are asked and that the bill is the server's own count is what counts here.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from podium_server.accounting.prices import Prices
from podium_server.backends.chat.backend import Capability, ChatCall, ChatFailure, Message
from podium_server.backends.chat.openai.chat import ChatSettings, OpenAIChat
from podium_server.errors import BackendRefused
from podium_server.judges.case import Candidate
from podium_server.judges.chat.judge import ChatJudge
from podium_server.ranking.request import Completion, RankRequest
from podium_strategies import prompts, registry
from tests.engines.conftest import HERE, ROOT, VLLM_ENVIRONMENT, python_of
from tests.ranking.scripted import pipeline, reranker

pytestmark = [pytest.mark.engines, pytest.mark.timeout(600)]

PRICES = Prices(prompt_usd_per_mtok=1.0, cached_usd_per_mtok=0.25, output_usd_per_mtok=4.0, version="test")
N = 9
# What is asked of 9 candidates, so that every strategy has more than one round to go.
OPTIONS: dict[str, dict[str, Any]] = {
    "first": {"size": 4, "stride": 2},
    "sliding-window": {"size": 4, "stride": 2, "passes": 2},
    "tdpart": {"size": 4, "cutoff": 2},
    "jointrank": {"size": 4},
    "tourrank": {"size": 4},
    "acurank": {"size": 4, "k": 3},
    "pairwise-heapsort": {"k": 3},
    "pairwise-bubble": {"k": 2},
    "setwise-heapsort": {"k": 3},
    "setwise-bubble": {"k": 2},
    "self-consistency": {"m": 2},
}
OWN = {"first-stage", "cascade", "fusion", "mmr"}  # these ask no chat model, or only through others
STRATEGIES = [name for name in registry.names() if name not in OWN]
TEXT = ("score-text", "pairwise", "setwise", "listwise-json")
LOGPROBS = ("yes-no", "pairwise-logprobs", "setwise-logprobs", "rank-zephyr")

USER = Message("user", "Rank these.\n" + "\n".join(f"[{n}] passage {n}: yes and no" for n in range(1, 21)))


def backend(url: str, **options: Any) -> OpenAIChat:
    options.setdefault("prices", PRICES)
    return OpenAIChat("tiny", model="tiny", base_urls=[url], settings=ChatSettings(concurrency=16), **options)


@pytest.fixture
async def llama(llama_url: str) -> AsyncIterator[OpenAIChat]:
    one = backend(llama_url)
    yield one
    await one.aclose()


@pytest.fixture
async def vllm(vllm_url: str) -> AsyncIterator[OpenAIChat]:
    one = backend(vllm_url)
    yield one
    await one.aclose()


@pytest.fixture(params=["llama", "vllm"])
async def chat(request: pytest.FixtureRequest) -> AsyncIterator[OpenAIChat]:
    one = backend(request.getfixturevalue(f"{request.param}_url"))
    yield one
    await one.aclose()


# --- what the engines can do, found by trying ----------------------------------------------------------------------


async def test_what_llama_cpp_can_do(llama: OpenAIChat) -> None:
    able = await llama.capabilities()
    assert able == {Capability.TEXT, Capability.LOGPROBS, Capability.JSON_SCHEMA, Capability.CHOICE}
    assert 0 < llama.probe_usage.calls <= 20


async def test_what_vllm_can_do(vllm: OpenAIChat) -> None:
    assert await vllm.capabilities() == frozenset(Capability)
    assert vllm.context_tokens == 4096
    assert vllm.probe_usage.calls < 20


async def test_structured_output(chat: OpenAIChat) -> None:
    reply = await chat.complete(ChatCall((USER,), 16, choice=("[1] > [2]", "[2] > [1]")))
    assert reply.text in ("[1] > [2]", "[2] > [1]")
    schema = {"type": "object", "properties": {"best": {"enum": [1, 2]}}, "required": ["best"]}
    reply = await chat.complete(ChatCall((USER,), 400, schema={**schema, "additionalProperties": False}))
    # Blanks without end are JSON too; the bound ends them.
    assert reply.finish_reason == "length" or json.loads(reply.text)["best"] in (1, 2)


async def test_a_pattern(vllm: OpenAIChat) -> None:
    assert re.fullmatch("kf[0-9]{3}", (await vllm.complete(ChatCall((USER,), 16, regex="kf[0-9]{3}"))).text)


async def test_log_probabilities(chat: OpenAIChat) -> None:
    labels = ("A", "B", "C", "yes", "no")
    reply = await chat.complete(ChatCall((USER,), 1, labels=labels))
    assert reply.label_logprobs is not None
    assert set(reply.label_logprobs) <= set(labels)
    assert all(-100.0 < value <= 0.0 for value in reply.label_logprobs.values())
    if Capability.LABEL_LOGPROBS in await chat.capabilities():
        assert set(reply.label_logprobs) == set(labels)
        assert reply.unseen_logprob is None
    elif len(reply.label_logprobs) < len(labels):
        assert reply.unseen_logprob is not None
        assert reply.unseen_logprob < 0.0


async def test_a_begun_reply_is_continued(vllm: OpenAIChat, llama: OpenAIChat) -> None:
    begun = ChatCall((USER, Message("assistant", "[")), 1, labels=("A", "B"))
    plain = await vllm.complete(ChatCall((USER,), 1, labels=("A", "B")))
    reply = await vllm.complete(begun)
    assert reply.usage.prompt_tokens == plain.usage.prompt_tokens + 1
    assert reply.label_logprobs != plain.label_logprobs
    with pytest.raises(ChatFailure, match="prefill"):
        await llama.complete(begun)


async def test_the_likelihood_of_a_continuation(vllm: OpenAIChat) -> None:
    reply = await vllm.complete(ChatCall((USER,), 1, score_continuation="yes"))
    label = await vllm.complete(ChatCall((USER,), 1, labels=("yes",)))
    assert reply.continuation_logprob is not None
    assert label.label_logprobs is not None
    # " yes" counts as the label too, and not as the continuation.
    assert reply.continuation_logprob <= label.label_logprobs["yes"] + 0.05
    longer = await vllm.complete(ChatCall((USER,), 1, score_continuation="yes no"))
    assert longer.continuation_logprob is not None
    assert longer.continuation_logprob < reply.continuation_logprob


async def test_the_prefix_cache_is_told(vllm: OpenAIChat) -> None:
    call = ChatCall((USER, Message("user", "and be quick")), 1)
    await vllm.complete(call)
    usage = (await vllm.complete(call)).usage
    assert 0 < usage.cached_tokens <= usage.prompt_tokens
    fresh = usage.prompt_tokens - usage.cached_tokens
    assert usage.cost_nano_usd == fresh * 1000 + usage.cached_tokens * 250 + usage.output_tokens * 4000


async def test_refusals_of_real_servers(chat: OpenAIChat) -> None:
    with pytest.raises(ChatFailure) as caught:
        await chat.complete(ChatCall((Message("user", "yes no " * 6000),), 8))
    assert isinstance(caught.value.cause, BackendRefused)
    assert "too long" in str(caught.value)
    assert caught.value.usage.calls == 1


async def test_an_unknown_model_on_vllm(vllm_url: str) -> None:
    other = OpenAIChat("other", model="huge", base_urls=[vllm_url], capabilities=[])
    with pytest.raises(ChatFailure, match="it serves tiny, and not 'huge'") as caught:
        await other.complete(ChatCall((USER,), 1))
    assert isinstance(caught.value.cause, BackendRefused)
    await other.aclose()


# --- strategies -----------------------------------------------------------------------------------------------------


async def rank(chat: OpenAIChat, strategy: str, names: tuple[str, ...]) -> Any:
    judge = ChatJudge(chat, [prompts.load(name) for name in names], PRICES)
    assert await judge.lacking() == ()
    stage = {"strategy": strategy, "model": "m", **OPTIONS.get(strategy, {})}
    candidates = tuple(Candidate(f"d{n}", f"passage {n}: yes, no and {n * n}", prior_score=-n) for n in range(N))
    outcome = await reranker(pipeline({"m": judge}, stage)).rerank(RankRequest("which passage says yes", candidates))
    assert sorted(outcome.order) == list(range(N))
    assert outcome.completion is Completion.COMPLETE
    total = outcome.ledger.total()
    assert total.calls >= outcome.ledger.questions > 0
    assert total.prompt_tokens > 0
    assert total.output_tokens > 0
    assert "usage_estimated" not in total.repairs
    fresh = total.prompt_tokens - total.cached_tokens
    assert total.cost_nano_usd == fresh * 1000 + total.cached_tokens * 250 + total.output_tokens * 4000
    return outcome


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("names", [TEXT, LOGPROBS], ids=["text", "logprobs"])
async def test_every_strategy(chat: OpenAIChat, strategy: str, names: tuple[str, ...]) -> None:
    await rank(chat, strategy, names)


@pytest.mark.parametrize("name", ["first", "qwen3-reranker", "query-likelihood"])
async def test_prompts_that_begin_or_score_a_reply(vllm: OpenAIChat, llama: OpenAIChat, name: str) -> None:
    strategy = "first" if name == "first" else "pointwise"
    await rank(vllm, strategy, (name,))
    judge = ChatJudge(llama, prompts.load(name), PRICES)
    if not await judge.lacking():
        # Found at the first call then, and said; never worked around.
        stage = {"strategy": strategy, "model": "m", **OPTIONS.get(strategy, {})}
        candidates = tuple(Candidate(f"d{n}", f"passage {n}") for n in range(N))
        with pytest.raises(BackendRefused, match="prefill"):
            await reranker(pipeline({"m": judge}, stage)).rerank(RankRequest("yes", candidates))


# --- the server's own count -----------------------------------------------------------------------------------------


def metric(url: str, name: str, **labels: str) -> float:
    with urlopen(url.removesuffix("/v1") + "/metrics", timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in lines
        if line.startswith((f"{name}{{", f"{name} ")) and all(one in line for one in wanted)
    )


async def test_the_bill_is_what_vllm_counts(vllm_url: str, vllm: OpenAIChat) -> None:
    await vllm.capabilities()
    names = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total")
    before = [metric(vllm_url, name) for name in names]
    outcome = await rank(vllm, "sliding-window", TEXT)
    total = outcome.ledger.total()
    after = [metric(vllm_url, name) for name in names]
    assert [total.prompt_tokens, total.output_tokens] == [b - a for a, b in zip(before, after, strict=True)]


async def test_a_cancelled_call_stops_vllm(vllm_url: str, vllm: OpenAIChat) -> None:
    await vllm.capabilities()
    endless = ChatCall((USER,), 3500, regex="(yes no ){1000}")
    tasks = [asyncio.create_task(vllm.complete(endless)) for _ in range(3)]
    for _ in range(400):
        if metric(vllm_url, "vllm:num_requests_running") == 3:
            break
        await asyncio.sleep(0.05)
    generated = metric(vllm_url, "vllm:generation_tokens_total")
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for _ in range(200):
        if metric(vllm_url, "vllm:num_requests_running") == 0:
            break
        await asyncio.sleep(0.05)
    assert metric(vllm_url, "vllm:num_requests_running") == 0
    # Far fewer than the 3 x 3,000 tokens and more that they were about to say.
    assert metric(vllm_url, "vllm:generation_tokens_total") - generated < 1500


# --- in the process -------------------------------------------------------------------------------------------------


def test_vllm_in_the_process(tiny_model: Path) -> None:
    """In vLLM's own environment, which has a Python of its own."""
    result = subprocess.run(
        [python_of("vllm"), str(HERE / "vllm_in_process.py"), str(tiny_model)],
        env={**os.environ, **VLLM_ENVIRONMENT, "PYTHONPATH": f"{ROOT}/server:{ROOT}/strategies"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-6000:]
    assert "well" in result.stdout
