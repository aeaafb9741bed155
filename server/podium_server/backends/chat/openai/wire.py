"""The words of OpenAI's chat protocol and of its dialects: fields of a request, and the reading of a reply. No I/O.

Every server of the kind takes the same few fields, and each says the rest (structured output, log-probabilities of
given tokens, a begun reply) in its own way, or takes it silently and does nothing about it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

from podium_server.backends.chat.backend import Capability, ChatCall

TOP_LOGPROBS_MAX = 20
"""The most of the likeliest tokens that OpenAI, and most others, report."""

LOGPROB_TOKEN_IDS_MAX = 128
"""The most tokens whose log-probability one call to vLLM may name."""

LOGPROB_MIN = -1e4
"""What stands for a probability of nothing: JSON knows no infinity, and vLLM sends -9999."""


@dataclass(frozen=True, slots=True)
class Forms:
    """How one endpoint is asked for what is beyond the common protocol; empty where it cannot be.

    Args:
        json: of a JSON schema: `structured_outputs` (vLLM), `json_schema` (OpenAI, SGLang, Ollama, TGI, llama.cpp's own
            server) or `json_object` (llama-cpp-python).
        choice: of a list of replies: `structured_outputs`, `regex` (SGLang) or `grammar` (llama.cpp).
        regex: of a pattern: `structured_outputs` or `regex`.
        prefill: of a reply's beginning: `continue_final_message` (vLLM, SGLang) or `as_is` (llama.cpp's own server
            and Ollama continue a last assistant's turn without being told to).

    """

    json: str = ""
    choice: str = ""
    regex: str = ""
    prefill: str = ""


@dataclass(frozen=True, slots=True)
class Dialect:
    """What is worth trying with one kind of server: the forms in the order of preference."""

    json: tuple[str, ...] = ()
    choice: tuple[str, ...] = ()
    regex: tuple[str, ...] = ()
    prefill: tuple[str, ...] = ()
    vllm_fields: bool = False
    """Whether `logprob_token_ids`, `prompt_logprobs` and `/tokenize` are worth trying."""
    output_bound: str = "max_tokens"
    """The field that bounds the reply: OpenAI's newer models refuse `max_tokens`, most others know nothing else."""

    def declared(self, capabilities: frozenset[Capability]) -> Forms:
        """Return the forms of capabilities that the configuration vouches for."""
        mine = {Capability.CHOICE, Capability.REGEX, Capability.LABEL_LOGPROBS, Capability.PROMPT_LOGPROBS}
        # Where the dialect is not named, OpenAI's form of a schema is the one that most servers know, unless something
        # else is declared that vLLM alone has.
        by_vllm = self.vllm_fields and bool(mine & capabilities)
        json_form = next(iter(self.json), "")
        if json_form == "structured_outputs" and "json_schema" in self.json and not by_vllm:
            json_form = "json_schema"
        return Forms(
            json=json_form if Capability.JSON_SCHEMA in capabilities else "",
            choice=next(iter(self.choice), "") if Capability.CHOICE in capabilities else "",
            regex=next(iter(self.regex), "") if Capability.REGEX in capabilities else "",
            prefill=next(iter(self.prefill), "") if Capability.PREFILL in capabilities else "",
        )


DIALECTS: Mapping[str, Dialect] = {
    "auto": Dialect(
        json=("structured_outputs", "json_schema", "json_object"),
        choice=("structured_outputs", "regex", "grammar"),
        regex=("structured_outputs", "regex"),
        prefill=("continue_final_message", "as_is"),
        vllm_fields=True,
    ),
    "openai": Dialect(json=("json_schema",), output_bound="max_completion_tokens"),
    "vllm": Dialect(
        json=("structured_outputs",),
        choice=("structured_outputs",),
        regex=("structured_outputs",),
        prefill=("continue_final_message",),
        vllm_fields=True,
    ),
    "sglang": Dialect(
        json=("json_schema",), choice=("regex",), regex=("regex",), prefill=("continue_final_message", "as_is")
    ),
    "llama.cpp": Dialect(json=("json_object", "json_schema"), choice=("grammar",), prefill=("as_is",)),
    "ollama": Dialect(json=("json_schema",), prefill=("as_is",)),
    "tgi": Dialect(json=("json_schema",)),
}


@dataclass(frozen=True, slots=True)
class Quirks:
    """What an endpoint was found to refuse, although most take it."""

    output_bound: str = "max_tokens"
    temperature: bool = True
    seed: bool = True

    def after(self, error: ErrorBody) -> Quirks:
        """Return what is known after a refusal; the same where it teaches nothing."""
        if error.code not in ("unsupported_parameter", "unsupported_value") and not _REFUSAL.search(error.message):
            return self
        # The message may name the field to use instead as well: the one that is refused comes first.
        quoted = re.search(r"[`'\"]([a-z_]+)[`'\"]", error.message)
        field = error.param or (quoted[1] if quoted else "")
        if field == self.output_bound:
            other = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
            return replace(self, output_bound=other[field])
        if field == "temperature":
            return replace(self, temperature=False)
        if field == "seed":
            return replace(self, seed=False)
        return self


_REFUSAL = re.compile(r"unsupported|not support|unrecognized|extra inputs|not permitted|unexpected", re.IGNORECASE)


def chat_fields(call: ChatCall, forms: Forms, quirks: Quirks, *, token_ids: Sequence[int] | None) -> dict[str, Any]:
    """Return the fields of one call beside `model`.

    Args:
        call: what to ask.
        forms: how this endpoint is asked.
        quirks: what it refuses.
        token_ids: whose log-probabilities are wanted, where the endpoint takes them by number; None where it reports
            the likeliest only.

    """
    fields: dict[str, Any] = {"messages": [{"role": turn.role, "content": turn.content} for turn in call.messages]}
    fields[quirks.output_bound] = call.max_output_tokens
    if quirks.temperature:
        fields["temperature"] = call.temperature
    if call.seed is not None and quirks.seed:
        fields["seed"] = call.seed
    if call.stop:
        fields["stop"] = list(call.stop)
    if call.labels is not None:
        fields["logprobs"] = True
        if token_ids is not None:
            fields["logprob_token_ids"] = list(token_ids)
            fields["return_tokens_as_token_ids"] = True
        else:
            fields["top_logprobs"] = TOP_LOGPROBS_MAX
    if is_prefilled(call) and forms.prefill == "continue_final_message":
        fields["continue_final_message"] = True
        fields["add_generation_prompt"] = False
    if call.schema is not None and forms.json:
        fields.update(_json_fields(forms.json, call.schema))
    elif call.choice is not None and forms.choice:
        fields.update(_choice_fields(forms.choice, call.choice))
    elif call.choice is not None and forms.regex:
        fields.update(_regex_fields(forms.regex, "|".join(re.escape(one) for one in call.choice)))
    elif call.regex is not None and forms.regex:
        fields.update(_regex_fields(forms.regex, call.regex))
    return fields


def is_prefilled(call: ChatCall) -> bool:
    """Whether the model is to continue a reply that the call begins."""
    return bool(call.messages) and call.messages[-1].role == "assistant"


def is_constrained(call: ChatCall) -> bool:
    """Whether the call wants the reply held to a form."""
    return call.schema is not None or call.choice is not None or call.regex is not None


def can_constrain(call: ChatCall, forms: Forms) -> bool:
    """Whether this endpoint can hold the reply to the form that the call wants."""
    if call.schema is not None:
        return bool(forms.json)
    if call.choice is not None:
        return bool(forms.choice or forms.regex)
    return bool(forms.regex)


def _json_fields(form: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    if form == "structured_outputs":
        return {"structured_outputs": {"json": dict(schema)}}
    if form == "json_schema":
        described = {"name": "reply", "schema": dict(schema), "strict": True}
        return {"response_format": {"type": "json_schema", "json_schema": described}}
    return {"response_format": {"type": "json_object", "schema": dict(schema)}}


def _choice_fields(form: str, choice: Sequence[str]) -> dict[str, Any]:
    if form == "structured_outputs":
        return {"structured_outputs": {"choice": list(choice)}}
    if form == "regex":
        return {"regex": "|".join(re.escape(one) for one in choice)}
    # llama.cpp's GBNF; its string literals are escaped as JSON's are.
    return {"grammar": "root ::= " + " | ".join(json.dumps(one) for one in choice)}


def _regex_fields(form: str, pattern: str) -> dict[str, Any]:
    return {"structured_outputs": {"regex": pattern}} if form == "structured_outputs" else {"regex": pattern}


# --- replies ------------------------------------------------------------------------------------------------------


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
        raise MalformedReply(_what(raw)) from error
    if not isinstance(body, dict):
        raise MalformedReply(f"JSON that is no object: {_start(raw)}")
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
    text, inline = split_thought(content, finish_reason)
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


def split_thought(content: str, finish_reason: str = "stop") -> tuple[str, str]:
    """Return the reply and the reasoning before it.

    A reasoning model thinks in a block of its own; some templates open it already in the prompt, so that only its end
    is seen. A block that the bound on the output cut off leaves no reply.
    """
    before, end, after = content.partition("</think>")
    opened = before.lstrip().startswith("<think>")
    if end and (opened or "<think>" not in before):
        return after.lstrip(), before.lstrip().removeprefix("<think>").strip()
    if opened and not end:
        return "", before.lstrip().removeprefix("<think>").strip()
    return content, ""


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
        after = said.index("</think>") + 1
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


# --- errors -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """What an error reply says."""

    message: str
    code: str = ""
    param: str = ""


def error_body(raw: bytes) -> ErrorBody:
    """Read the body of an error, in any of the shapes that are about."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        return ErrorBody(_what(raw))
    inner = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(inner, str):
        return ErrorBody(_line(inner))
    if not isinstance(inner, dict):
        return ErrorBody(_start(raw))
    said = inner.get("message") or inner.get("detail") or inner.get("msg")
    if isinstance(said, list):  # FastAPI's list of what is wrong, each with its place
        first = said[0] if said and isinstance(said[0], dict) else {}
        place = first.get("loc")
        where = ".".join(str(part) for part in place if part != "body") if isinstance(place, list) else ""
        return ErrorBody(_line(f"{where}: {first.get('msg', said)}"), param=where)
    code, param = inner.get("code") or inner.get("type"), inner.get("param")
    return ErrorBody(
        _line(said) if isinstance(said, str) else _start(raw),
        code=str(code or ""),
        param=param if isinstance(param, str) else "",
    )


_CONTEXT = re.compile(
    r"context.{0,12}(length|window|size)|too (long|many tokens)|(prompt|input).{0,40}exceed|exceed.{0,40}(token|len)",
    re.IGNORECASE,
)


def is_context_error(error: ErrorBody) -> bool:
    """Whether the call was refused because it is longer than the model can hold."""
    return error.code == "context_length_exceeded" or bool(_CONTEXT.search(error.message))


def _what(raw: bytes) -> str:
    """Say what a body is that should have been JSON."""
    start = raw[:256].lstrip().lower()
    if not raw:
        return "an empty body"
    if start.startswith((b"<!doctype html", b"<html", b"<head")):
        title = re.search(rb"<title>(.*?)</title>", raw[:4096], re.IGNORECASE | re.DOTALL)
        return f"an HTML page ({_line(title[1].decode('utf-8', 'replace')) if title else 'without a title'})"
    if start.startswith((b"{", b"[")):
        return f"JSON that breaks off or is wrong, {len(raw)} bytes"
    return f"no JSON: {_start(raw)}"


def _start(raw: bytes) -> str:
    return _line(raw[:200].decode("utf-8", "replace"))


def _line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 300 else text[:300] + "…"
