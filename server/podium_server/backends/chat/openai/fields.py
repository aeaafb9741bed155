"""The fields of a call, in the words of an endpoint. No I/O."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from podium_server.backends.chat.backend import ChatCall
from podium_server.backends.chat.openai.dialects import Forms, Quirks

TOP_LOGPROBS_MAX = 20
"""The most of the likeliest tokens that OpenAI, and most others, report."""

LOGPROB_TOKEN_IDS_MAX = 128
"""The most tokens whose log-probability one call to vLLM may name."""


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
