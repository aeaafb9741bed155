"""The simulated judge as an OpenAI-compatible endpoint: a real server over real sockets.

`POST /v1/chat/completions` with `logprobs`, `top_logprobs`, `stream`, `continue_final_message`, and `usage` with cached
tokens; `GET /v1/models`; `GET /stats`, what was asked so far. A prompt that it does not know gets 400 with the reason.
A `model` named after a noise level is that judge; any other name is the one that the server was started with.

Temperature and seed of a call are read and change nothing: the same prompt gets the same answer.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from podium_evals.simulate.chat import bounded
from podium_evals.simulate.endpoint import Endpoint, Latency, measured
from podium_evals.simulate.judge import Judge
from podium_evals.simulate.knowledge import Knowledge, Unknown
from podium_evals.simulate.noise import LEVELS, Noise
from podium_evals.simulate.recognise import Said, UnknownPrompt
from podium_evals.simulate.replies import Reply
from podium_server.accounting.prices import Prices
from podium_server.accounting.usage import Usage
from podium_server.backends.chat.openai.fields import TOP_LOGPROBS_MAX

BODY_BYTES_MAX = 16 << 20
"""Of one request; ten thousand passages are less."""


class BadCall(ValueError):
    """A request that is no chat completion as this endpoint knows them."""


@dataclass(frozen=True, slots=True)
class _Call:
    """A request, read."""

    model: str
    messages: tuple[Said, ...]
    max_tokens: int
    logprobs: int | None
    stream: bool
    stream_usage: bool

    @classmethod
    def of(cls, body: Any) -> _Call:
        """Read a request's JSON.

        Raises:
            BadCall: with the field.

        """
        if not isinstance(body, dict):
            raise BadCall("the body is no JSON object")
        turns = body.get("messages")
        if not isinstance(turns, list) or not turns:
            raise BadCall("messages is needed: a list of turns")
        if body.get("n", 1) != 1:
            raise BadCall(f"n is {body['n']!r}: one reply a call")
        bound = body.get("max_completion_tokens") or body.get("max_tokens") or 4096
        top = body.get("top_logprobs") or 0
        for name, value, most in (("max_tokens", bound, 1 << 20), ("top_logprobs", top, TOP_LOGPROBS_MAX)):
            if not isinstance(value, int) or not 0 <= value <= most:
                raise BadCall(f"{name} is {value!r}: 0 to {most}")
        options = body.get("stream_options") or {}
        return cls(
            model=str(body.get("model") or ""),
            messages=tuple(_said(turn) for turn in turns),
            max_tokens=max(bound, 1),
            logprobs=top if body.get("logprobs") else None,
            stream=bool(body.get("stream")),
            stream_usage=isinstance(options, dict) and bool(options.get("include_usage")),
        )


def _said(turn: Any) -> Said:
    if not isinstance(turn, dict):
        raise BadCall("a turn is no JSON object")
    content = turn.get("content")
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    if not isinstance(content, str):
        raise BadCall("a turn has no text as its content")
    return Said(str(turn.get("role") or "user"), content)


@dataclass(slots=True)
class Service:
    """The judge with its queue, its cache and its counts.

    Args:
        knowledge: the suite.
        noise: of the judge that answers where `model` names no level.
        seed: of it.
        latency: None answers at once.
        prices: for the money in `/stats`.

    """

    knowledge: Knowledge
    noise: Noise
    seed: int = 0
    latency: Latency | None = None
    prices: Prices = field(default_factory=Prices)
    asked: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    usage: Usage = field(default_factory=Usage)
    _endpoint: Endpoint = field(init=False)

    def __post_init__(self) -> None:
        self._endpoint = Endpoint(self.latency)

    def application(self) -> web.Application:
        """Return the endpoint's routes."""
        application = web.Application(client_max_size=BODY_BYTES_MAX)
        application.router.add_get("/v1/models", self._models)
        application.router.add_get("/stats", self._stats)
        application.router.add_post("/v1/chat/completions", self._complete)
        return application

    def stats(self) -> dict[str, Any]:
        """Return what was asked so far."""
        cost = self.prices.charge(self.usage).cost_nano_usd
        return {
            "calls": self.usage.calls,
            "refused": self.refused,
            "prompts": dict(self.asked),
            "malformed": dict(self.faults),
            "prompt_tokens": self.usage.prompt_tokens,
            "cached_tokens": self.usage.cached_tokens,
            "completion_tokens": self.usage.output_tokens,
            "usd": None if cost is None else cost / 1e9,
        }

    async def _models(self, request: web.Request) -> web.Response:
        models = [{"id": name, "object": "model", "owned_by": "podium"} for name in ("simulated", *LEVELS)]
        return web.json_response({"object": "list", "data": models})

    async def _stats(self, request: web.Request) -> web.Response:
        return web.json_response(self.stats())

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        try:
            call = _Call.of(await request.json())
            judge = Judge(self.knowledge, LEVELS.get(call.model, self.noise), self.seed)
            reply, seen = judge.reply(call.messages)
        except (UnknownPrompt, Unknown, BadCall, json.JSONDecodeError, UnicodeDecodeError) as error:
            self.refused += 1
            return _refusal(error)
        self.asked["probe" if seen is None else seen.prompt] += 1
        if reply.malformed:
            self.faults[reply.malformed] += 1
        text, finish_reason, output_tokens = bounded(reply, call.max_tokens)
        prompt = measured(call.messages, continues=call.messages[-1].role == "assistant")
        now = asyncio.get_running_loop().time()
        served = self._endpoint.serve(now, prompt, output_tokens)
        usage = Usage(
            calls=1,
            prompt_tokens=prompt.tokens,
            cached_tokens=served.cached_tokens,
            output_tokens=output_tokens,
        )
        self.usage = self.usage + usage
        if served.finished_at > now:
            await asyncio.sleep(served.finished_at - now)
        told = _told(call, reply, text, finish_reason, usage, number=self.usage.calls)
        return await _streamed(request, call, told) if call.stream else web.json_response(told)


def _told(call: _Call, reply: Reply, text: str, finish_reason: str, usage: Usage, *, number: int) -> dict[str, Any]:
    choice: dict[str, Any] = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "logprobs": None,
        "finish_reason": finish_reason,
    }
    if call.logprobs is not None:
        likeliest = [_token(*one) for one in reply.first_token]
        choice["logprobs"] = {"content": [likeliest[0] | {"top_logprobs": likeliest[: call.logprobs]}]}
    return {
        "id": f"simulated-{number}",
        "object": "chat.completion",
        "created": 0,
        "model": call.model or "simulated",
        "choices": [choice],
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.output_tokens,
            "total_tokens": usage.tokens,
            "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        },
    }


def _token(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode())}


async def _streamed(request: web.Request, call: _Call, told: Mapping[str, Any]) -> web.StreamResponse:
    """Send the reply word by word, as events."""
    response = web.StreamResponse(headers={"content-type": "text/event-stream", "cache-control": "no-cache"})
    await response.prepare(request)
    (choice,) = told["choices"]
    head = {key: told[key] for key in ("id", "created", "model")} | {"object": "chat.completion.chunk"}

    async def send(choices: Sequence[Mapping[str, Any]], **more: Any) -> None:
        event = json.dumps(head | {"choices": list(choices)} | more)
        await response.write(f"data: {event}\n\n".encode())

    words = choice["message"]["content"].split(" ")
    for place, word in enumerate(words):
        delta = {"content": word if place == len(words) - 1 else f"{word} "} | ({} if place else {"role": "assistant"})
        logprobs = None if place else choice["logprobs"]
        await send([{"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": None}])
    await send([{"index": 0, "delta": {}, "logprobs": None, "finish_reason": choice["finish_reason"]}])
    if call.stream_usage:
        await send([], usage=told["usage"])
    await response.write(b"data: [DONE]\n\n")
    await response.write_eof()
    return response


def _refusal(error: Exception) -> web.Response:
    code = {UnknownPrompt: "unknown_prompt", Unknown: "unknown_text"}.get(type(error), "invalid_request")
    said = str(error) if not isinstance(error, json.JSONDecodeError) else f"the body is no JSON: {error}"
    body = {"error": {"message": said, "type": "invalid_request_error", "param": None, "code": code}}
    return web.json_response(body, status=400)


@asynccontextmanager
async def running(service: Service, *, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """Serve, and yield the base URL (`http://127.0.0.1:43210/v1`)."""
    runner = web.AppRunner(service.application(), access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        bound = runner.addresses[0]
        yield f"http://{host}:{bound[1]}/v1"
    finally:
        await runner.cleanup()
