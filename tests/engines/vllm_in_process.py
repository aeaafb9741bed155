"""Runs `VllmChat` for real. Started by test_engines.py in vLLM's own environment: `vllm_in_process.py MODEL_FOLDER`."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from typing import Any

from podium_server.accounting.prices import Prices
from podium_server.accounting.usage import Usage
from podium_server.backends.chat.backend import Capability, ChatCall, ChatFailure, Message
from podium_server.backends.chat.vllm import VllmChat
from podium_server.errors import BackendRefused, DeadlineExceeded

PASSAGES = "\n".join(f"[{n}] passage {n} about the yes and the no" for n in range(1, 21))
USER = Message("user", f"Rank these.\n{PASSAGES}")


async def failure(backend: VllmChat, call: ChatCall, **options: Any) -> ChatFailure:
    try:
        await backend.complete(call, **options)
    except ChatFailure as error:
        return error
    raise AssertionError(f"{call} was answered")


async def main(folder: str) -> None:
    backend = VllmChat(
        "tiny",
        model=folder,
        engine_args={"max_model_len": 4096, "enforce_eager": True, "max_num_seqs": 32},
        prices=Prices(prompt_usd_per_mtok=1.0, cached_usd_per_mtok=0.1, output_usd_per_mtok=2.0),
    )
    assert backend.count_tokens("[1] > [2]") > 0  # before the engine runs
    await backend.start()
    assert backend.context_tokens == 4096
    assert await backend.capabilities() == frozenset(Capability)

    # A round at a time, as a judge asks it.
    calls = [ChatCall((USER, Message("user", f"query {n}")), max_output_tokens=24) for n in range(24)]
    began_s = time.monotonic()
    replies = await asyncio.gather(*(backend.complete(call) for call in calls))
    print(f"24 calls in one round: {time.monotonic() - began_s:.2f} s")
    for reply in replies:
        usage = reply.usage
        assert (usage.calls, usage.retries) == (1, 0)
        assert usage.prompt_tokens > 128
        assert 0 < usage.output_tokens <= 24
        assert reply.finish_reason in ("stop", "length")
        fresh = usage.prompt_tokens - usage.cached_tokens
        assert usage.cost_nano_usd == fresh * 1000 + usage.cached_tokens * 100 + usage.output_tokens * 2000
    again = await backend.complete(calls[0])
    assert again.text == replies[0].text
    assert again.usage.cached_tokens >= 128, again.usage  # the prefix cache

    # Labels, all of them, however unlikely; the same after a begun reply.
    labels = ("A", "B", "C", "yes", "no")
    reply = await backend.complete(ChatCall((USER,), 1, labels=labels))
    assert reply.label_logprobs is not None
    assert set(reply.label_logprobs) == set(labels)
    assert reply.unseen_logprob is None
    assert all(-50 < value <= 0 for value in reply.label_logprobs.values())
    begun = await backend.complete(ChatCall((USER, Message("assistant", "[")), 1, labels=labels))
    assert begun.label_logprobs is not None
    assert begun.label_logprobs != reply.label_logprobs
    several = await backend.complete(ChatCall((USER,), 1, labels=("A", "supercalifragilistic")))
    assert several.unseen_logprob is not None

    # Held to a form.
    reply = await backend.complete(ChatCall((USER,), 16, choice=("[1] > [2]", "[2] > [1]")))
    assert reply.text in ("[1] > [2]", "[2] > [1]")
    reply = await backend.complete(ChatCall((USER,), 16, regex="kf[0-9]{3}"))
    assert re.fullmatch("kf[0-9]{3}", reply.text)
    schema = {"type": "object", "properties": {"best": {"enum": [1, 2]}}, "required": ["best"]}
    reply = await backend.complete(ChatCall((USER,), 200, schema={**schema, "additionalProperties": False}))
    assert reply.finish_reason == "length" or json.loads(reply.text)["best"] in (1, 2)

    # The likelihood of a text is that of its parts, and its first token's that of the label.
    whole = await backend.complete(ChatCall((USER,), 1, score_continuation="yes"))
    assert whole.continuation_logprob is not None
    assert whole.continuation_logprob < 0

    # Refused, late, cancelled.
    refused = await failure(backend, ChatCall((Message("user", "yes no " * 5000),), 1))
    assert isinstance(refused.cause, BackendRefused), refused.cause
    endless = ChatCall((USER,), 3000, regex="(yes no ){900}")
    late = await failure(backend, endless, deadline_at=time.monotonic() + 0.3)
    assert isinstance(late.cause, DeadlineExceeded), late.cause
    assert late.usage.calls == 1
    spent: list[Usage] = []
    tasks = [asyncio.create_task(backend.complete(endless, on_cancel=spent.append)) for _ in range(4)]
    await asyncio.sleep(0.5)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert [usage.calls for usage in spent] == [1] * 4
    assert all(usage.prompt_tokens > 0 for usage in spent)
    await asyncio.sleep(0.5)
    assert backend._engine.get_num_unfinished_requests() == 0  # they have left the engine
    await backend.aclose()
    print("well")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
