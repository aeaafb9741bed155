"""What an endpoint of OpenAI's chat protocol answered with 200, read. No I/O."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from podium_server.backends.json_errors import error_body, start, what
from podium_strategies.prompts.text import split_thought

LOGPROB_MIN = -1e4
"""What stands for a probability of nothing: JSON knows no infinity, and vLLM sends -9999."""


class MalformedReply(Exception):
    """An endpoint answered with 200 and something that is no chat completion. The text says what it is."""


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """What the endpoint says that a call used."""

    prompt_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int | None = None
    cached_told: bool = False
    """Whether it says how many prompt tokens its cache served, be it 0."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A chat completion, read.

    Args:
        text: of the reply, reasoning left out.
        thought: the reasoning, as far as it was told.
        finish_reason: `stop`, `length`, `content_filter`, `refusal`, or what else the endpoint says.
        model: that answered, as it says.
        usage: None where it does not say.
        first_token: the likeliest first tokens of the reply with their log-probabilities, after any reasoning; None
            where there are none.
        prompt: the prompt's own tokens with their log-probabilities, where they were asked for.
        prompt_ids: the prompt's tokens, likewise.

    """

    text: str
    thought: str = ""
    finish_reason: str = "stop"
    model: str = ""
    usage: TokenUsage | None = None
    first_token: tuple[tuple[str, float], ...] | None = None
    prompt: tuple[tuple[int, float] | None, ...] | None = None
    prompt_ids: tuple[int, ...] | None = None


def read_answer(raw: bytes) -> Answer:
    """Read the body of a reply with 200.

    Raises:
        MalformedReply: it is no chat completion.

    """
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise MalformedReply(what(raw)) from error
    if not isinstance(body, dict):
        raise MalformedReply(f"JSON that is no object: {start(raw)}")
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices:
        said = error_body(raw).message if "error" in body else ""
        raise MalformedReply(f"an error with status 200: {said}" if said else "no choices")
    choice = choices[0]
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        raise MalformedReply("a choice without a message")
    usage = read_usage(body.get("usage"))
    finish_reason = choice.get("finish_reason")
    finish_reason = finish_reason if isinstance(finish_reason, str) and finish_reason else "stop"
    positions = _positions(choice.get("logprobs"))
    content = message.get("content")
    if isinstance(content, list):  # the parts of a multimodal reply
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    told = message.get("reasoning_content") or message.get("reasoning")
    thought = told if isinstance(told, str) else ""
    refusal = message.get("refusal")
    if isinstance(refusal, str) and refusal and not content:
        finish_reason = "refusal"
        content = ""
    if not isinstance(content, str):
        if finish_reason not in ("length", "content_filter") and positions is None:
            raise MalformedReply("no content")
        content = ""
    text, inline = split_thought(content)
    model = body.get("model")
    return Answer(
        text=text,
        thought=thought or inline,
        finish_reason=finish_reason,
        model=model if isinstance(model, str) else "",
        usage=usage,
        first_token=None if positions is None else _first_token(positions),
        prompt=_prompt_positions(body.get("prompt_logprobs")),
        prompt_ids=_ids(body.get("prompt_token_ids")),
    )


def read_usage(usage: object) -> TokenUsage | None:
    """Read the usage of a reply; None where it lacks one of the two counts that make a bill."""
    if not isinstance(usage, dict):
        return None
    prompt, output = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    if prompt is None or output is None:
        return None
    details = usage.get("prompt_tokens_details")
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else None
    details = usage.get("completion_tokens_details")
    reasoning = _count(details.get("reasoning_tokens")) if isinstance(details, dict) else None
    if reasoning and _count(usage.get("total_tokens")) == prompt + output + reasoning:
        output += reasoning  # xAI counts them beside the completion, everyone else within it
    return TokenUsage(
        prompt_tokens=prompt,
        output_tokens=output,
        cached_tokens=min(cached or 0, prompt),
        reasoning_tokens=None if reasoning is None else min(reasoning, output),
        cached_told=cached is not None,
    )


def label_logprobs(
    first_token: Sequence[tuple[str, float]],
    labels: Sequence[str],
    ids: Mapping[str, Sequence[int]] | None,
) -> tuple[dict[str, float], float | None]:
    """Return the log-probability of each label that is told, and the bound on those that are not.

    A label's probability is that of all tokens that read as it, blanks aside: some vocabularies begin a reply with
    `A`, some with `▁A`.

    Args:
        first_token: tokens and log-probabilities at the reply's first place.
        labels: what is looked for.
        ids: the tokens of each label, where the call named them by number.

    """
    owner: dict[str, str] = {}
    if ids is None:
        owner = {label.strip(): label for label in labels}
    else:
        for label, numbers in ids.items():
            for number in numbers:
                owner[f"token_id:{number}"] = label
    found: dict[str, float] = {}
    seen: set[str] = set()
    told = 0.0
    lowest = 0.0
    for token, logprob in first_token:
        if token in seen:
            continue  # the sampled token is listed twice by some
        seen.add(token)
        told += math.exp(logprob)
        lowest = min(lowest, logprob)
        name = owner.get(token if ids is not None else token.replace("▁", " ").strip())
        if name is not None:
            found[name] = _log_sum(found[name], logprob) if name in found else logprob
    if len(found) == len(set(labels)):
        return found, None
    if ids is not None:
        # The named tokens are no longer the likeliest, so that the lowest of them bounds nothing: the rest does.
        lowest = 0.0
    # What is told was rounded: what is left of 1 is known to a millionth and not better.
    return found, min(lowest, math.log(max(1.0 - told, 0.0) + 1e-6))


def _log_sum(one: float, other: float) -> float:
    high, low = max(one, other), min(one, other)
    return min(0.0, high + math.log1p(math.exp(low - high)))


def _positions(logprobs: object) -> list[tuple[tuple[str, float], ...]] | None:
    """Return tokens and log-probabilities by place, in either of the two shapes that are about."""
    if not isinstance(logprobs, dict):
        return None
    content = logprobs.get("content")
    if isinstance(content, list):
        places = []
        for place in content:
            if not isinstance(place, dict):
                return None
            likeliest = place.get("top_logprobs")
            pairs = [_pair(one) for one in likeliest if isinstance(one, dict)] if isinstance(likeliest, list) else []
            own = _pair(place)
            if own is not None and own not in pairs:
                pairs.insert(0, own)  # first, since reasoning is recognised by the tokens that were said
            elif own is not None:
                pairs.remove(own)
                pairs.insert(0, own)
            places.append(tuple(pair for pair in pairs if pair is not None))
        return places or None
    likeliest = logprobs.get("top_logprobs")  # the shape of the older completions, which some send for chats too
    if isinstance(likeliest, list) and likeliest:
        return [
            tuple((str(token), _logprob(value)) for token, value in place.items() if _is_number(value))
            for place in likeliest
            if isinstance(place, dict)
        ] or None
    return None


def _first_token(positions: Sequence[tuple[tuple[str, float], ...]]) -> tuple[tuple[str, float], ...]:
    """Return the first place after the reasoning."""
    said = [place[0][0] if place else "" for place in positions]
    if "</think>" in said:
        after = len(said) - said[::-1].index("</think>")  # the last one, as in `split_thought`
        while after < len(said) and not said[after].strip():
            after += 1
        return positions[after] if after < len(positions) else ()
    return positions[0]


def _pair(one: Mapping[str, Any]) -> tuple[str, float] | None:
    token, logprob = one.get("token"), one.get("logprob")
    if not isinstance(token, str) or not _is_number(logprob):
        return None
    return token, _logprob(logprob)


def _is_number(value: object) -> TypeGuard[float]:
    # Compared, not asked by `isnan`: that fails on a whole number beyond a float's range. No order holds for a NaN.
    return isinstance(value, int | float) and not isinstance(value, bool) and (value <= 0 or value > 0)


def _logprob(value: float) -> float:
    return float(min(0.0, max(LOGPROB_MIN, value)))


_TOKEN_ID = re.compile(r"[0-9]{1,9}")


def _prompt_positions(positions: object) -> tuple[tuple[int, float] | None, ...] | None:
    """Read vLLM's `prompt_logprobs`: the prompt's own token comes first at every place, the first place has none."""
    if not isinstance(positions, list):
        return None
    read: list[tuple[int, float] | None] = []
    for place in positions:
        own = next(iter(place.items()), None) if isinstance(place, dict) else None
        if own is None or not _TOKEN_ID.fullmatch(str(own[0])) or not isinstance(own[1], dict):
            read.append(None)
            continue
        logprob = own[1].get("logprob")
        read.append((int(own[0]), _logprob(logprob)) if _is_number(logprob) else None)
    return tuple(read)


def _ids(value: object) -> tuple[int, ...] | None:
    if isinstance(value, list) and all(isinstance(one, int) for one in value):
        return tuple(value)
    return None


def _count(value: object) -> int | None:
    # Beyond what any model holds it is no count, and no ledger's field has room for it.
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 40 else None
