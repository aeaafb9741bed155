"""The simulated judge over real sockets: under a real Podium server, and as any client of the protocol sees it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from podium_client import AsyncClient, Document
from podium_evals.simulate.chat import CAPABILITIES, SimulatedChat
from podium_evals.simulate.clock import run
from podium_evals.simulate.endpoint import Endpoint
from podium_evals.simulate.judge import Judge
from podium_evals.simulate.noise import LEVELS
from podium_evals.simulate.server import Service, running
from podium_server import config
from podium_server.compose.podium import Podium
from podium_server.judges.case import Candidate, Case
from podium_server.judges.chat.judge import ChatJudge
from podium_strategies import prompts, registry
from podium_strategies.prompts.prompt import Sheet
from tests.evals.simulated import knowledge, suite
from tests.wire.serving import serving

SUITE = suite()
KNOWN = knowledge()
SEED = 3
PIPELINES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "sliding": ("sliding-window", "listwise-json", {"size": 10, "stride": 5}),
    "vicuna": ("sliding-window", "rank-vicuna", {}),
    "gpt": ("sliding-window", "rank-gpt", {"size": 8, "stride": 4}),
    "first": ("first", "first", {}),
    "tdpart": ("tdpart", "listwise-json", {"size": 8, "cutoff": 4}),
    "jointrank": ("jointrank", "listwise-json", {"size": 8}),
    "tourrank": ("tourrank", "choose-best", {"size": 10}),
    "acurank": ("acurank", "listwise-json", {"size": 8}),
    "heapsort": ("pairwise-heapsort", "pairwise", {"k": 4}),
    "setwise": ("setwise-heapsort", "setwise", {"k": 4}),
    "letters": ("setwise-heapsort", "setwise-logprobs", {"k": 4}),
    "yes-no": ("pointwise", "yes-no", {}),
    "graded": ("pointwise", "graded", {}),
    "score": ("pointwise", "score-text", {}),
}


@pytest.fixture
async def service() -> AsyncIterator[tuple[Service, str]]:
    service = Service(KNOWN, LEVELS["high"], SEED)
    async with running(service) as url:
        yield service, url


def configured(url: str) -> config.Config:
    model = {"backend": "openai", "model": "simulated", "base_url": url}
    stages = {
        name: [{"strategy": strategy, "model": "judge", "prompt": prompt, **options}]
        for name, (strategy, prompt, options) in PIPELINES.items()
    }
    pipelines = {name: {"stages": stage} for name, stage in stages.items()}
    server = {"default_pipeline": "sliding"}
    return config.parse({"server": server, "models": {"judge": model}, "pipelines": pipelines}, where="test")


async def test_podium_orders_over_sockets_as_it_does_in_this_process(service: tuple[Service, str]) -> None:
    _, url = service
    podium = Podium(configured(url), data_dir=None)
    topic = SUITE.topics[0]
    case = Case(topic.query, tuple(Candidate(*passage) for passage in topic.candidates))
    documents = [Document(passage.docid, passage.text, prior_score=passage.score) for passage in topic.candidates]
    try:
        await podium.start()
        async with serving(podium) as stubs, AsyncClient(stubs.address) as client:
            for name, (strategy, prompt, options) in PIPELINES.items():
                chat = SimulatedChat(Judge(KNOWN, LEVELS["high"], SEED), Endpoint())
                here = run(registry.build(strategy, options), case, ChatJudge(chat, prompts.load(prompt)), chat)
                there = await client.rerank(topic.query, documents, pipeline=name)

                assert there.order == here.order, name
                assert there.ledger.total.calls == here.usage.calls, name
                assert there.ledger.total.prompt_tokens == here.usage.prompt_tokens, name
                assert there.ledger.total.output_tokens == here.usage.output_tokens, name
    finally:
        await podium.aclose()


async def test_the_probe_finds_what_the_judge_can_do(service: tuple[Service, str]) -> None:
    _, url = service
    podium = Podium(configured(url), data_dir=None)
    try:
        backend = podium.models_by_name.chat("judge")
        assert await backend.capabilities() == CAPABILITIES
    finally:
        await podium.aclose()


async def ask(url: str, **fields: Any) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.post(f"{url}/chat/completions", json=fields) as response:
        raw = await response.text()
        return response.status, json.loads(raw) if response.content_type == "application/json" else raw


def window(n: int = 4) -> list[dict[str, str]]:
    topic = SUITE.topics[1]
    prompt = prompts.load("rank-zephyr")
    sheet = Sheet(topic.query, tuple(passage.text for passage in topic.candidates[:n]))
    return [{"role": turn.role, "content": turn.content} for turn in prompt.render(sheet)]


async def test_a_stream_says_what_a_whole_reply_says(service: tuple[Service, str]) -> None:
    _, url = service
    _, whole = await ask(url, model="none", messages=window())
    status, raw = await ask(url, model="none", messages=window(), stream=True, stream_options={"include_usage": True})
    events = [line.removeprefix("data: ") for line in raw.split("\n\n") if line]
    chunks = [json.loads(event) for event in events[:-1]]
    said = "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])

    assert status == 200
    assert events[-1] == "[DONE]"
    assert said == whole["choices"][0]["message"]["content"]
    assert chunks[-1]["usage"]["prompt_tokens"] == whole["usage"]["prompt_tokens"]


async def test_the_same_prompt_is_cached_and_gets_the_same_answer(service: tuple[Service, str]) -> None:
    served, url = service
    replies = [(await ask(url, model="high", messages=window(), temperature=1.0, seed=i))[1] for i in range(3)]
    cached = [reply["usage"]["prompt_tokens_details"]["cached_tokens"] for reply in replies]

    assert len({reply["choices"][0]["message"]["content"] for reply in replies}) == 1
    assert cached[0] == 0
    assert 0 < cached[1] == cached[2] < replies[0]["usage"]["prompt_tokens"]
    assert served.stats()["prompts"] == {"rank-zephyr": 3}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"messages": [{"role": "user", "content": "Write a poem."}]}, "no prompt that the simulated judge knows"),
        ({"messages": []}, "messages is needed"),
        ({"messages": [{"role": "user", "content": None}]}, "no text"),
        ({"messages": window(), "n": 3}, "one reply a call"),
        ({"messages": window(), "top_logprobs": 21}, "0 to 20"),
        ({"messages": [{"role": "user", "content": "[1] a\n[2] b\nrank these for the moon"}]}, "no query of the suite"),
    ],
)
async def test_what_it_cannot_answer_is_a_400_with_the_reason(
    service: tuple[Service, str], fields: dict[str, Any], reason: str
) -> None:
    served, url = service
    status, body = await ask(url, **fields)

    assert status == 400
    assert reason in body["error"]["message"]
    assert served.refused == 1


async def test_any_model_name_is_served_and_levels_are_models_of_their_own(service: tuple[Service, str]) -> None:
    _, url = service
    said = {}
    for model in ("gpt-4", "simulated", "none"):
        _, reply = await ask(url, model=model, messages=window(12), max_tokens=300)
        said[model] = reply["choices"][0]["message"]["content"]
    assert said["gpt-4"] == said["simulated"] != said["none"]
