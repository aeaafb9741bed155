"""The span of a call to a chat model, by the semantic conventions of OpenTelemetry for generative AI."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from urllib.parse import urlsplit

from podium_server.backends.chat.backend import ChatCall, ChatReply
from podium_server.telemetry import spans
from podium_server.telemetry.spans import Span, Value


def opened(call: ChatCall, *, model: str, endpoint: str) -> AbstractContextManager[Span | None]:
    """Open the span of a call.

    Args:
        call: what is asked; its texts go into the span only where that is configured.
        model: as the endpoint calls it.
        endpoint: the first address that serves it.

    """
    outer = spans.current.get()
    if outer is None:
        return spans.opened("chat")
    address = urlsplit(endpoint)
    more: dict[str, Value] = {}
    if address.hostname:
        more["server__address"] = address.hostname
        more["server__port"] = address.port or (443 if address.scheme == "https" else 80)
    if call.seed is not None:
        more["gen_ai__request__seed"] = call.seed
    if outer.texts:
        more["gen_ai__input__messages"] = json.dumps(
            [{"role": turn.role, "parts": [{"type": "text", "content": turn.content}]} for turn in call.messages]
        )
    return spans.opened(
        f"chat {model}",
        "client",
        gen_ai__operation__name="chat",
        # Whoever speaks the protocol: which product answers is not ours to know.
        gen_ai__provider__name="openai",
        gen_ai__request__model=model,
        gen_ai__request__max_tokens=call.max_output_tokens,
        gen_ai__request__temperature=call.temperature,
        **more,
    )


def ended(span: Span | None, reply: ChatReply) -> None:
    """Enter what came back."""
    if span is None:
        return
    usage = reply.usage
    noted: dict[str, Value] = {
        "gen_ai.response.model": reply.model,
        "gen_ai.response.finish_reasons": [reply.finish_reason],
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
        "podium.calls": usage.calls,
    }
    if span.texts:
        part = {"type": "text", "content": reply.text}
        noted["gen_ai.output.messages"] = json.dumps(
            [{"role": "assistant", "parts": [part], "finish_reason": reply.finish_reason}]
        )
    span.note(noted)
