"""A reply of an endpoint is foreign data: an answer, or `MalformedReply`, and never another error."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium_server.backends.chat.openai.replies import MalformedReply, read_answer
from podium_server.backends.json_errors import error_body

HUGE = 10**400
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(HUGE) | st.floats() | st.text(max_size=5) | st.just("²"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.just("²"), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ["choices", "usage", "prompt_logprobs", "prompt_token_ids", "model"]


@pytest.mark.parametrize(
    "odd",
    [
        {"prompt_logprobs": [None, {"²": {"logprob": -1.0}}]},
        {"prompt_logprobs": [None, {"1": {"logprob": HUGE}}]},
        {"usage": {"prompt_tokens": HUGE, "completion_tokens": 1}},
    ],
)
def test_odd_numbers_are_no_answer_and_no_crash(odd: dict[str, Any]) -> None:
    answer = read_answer(json.dumps({"choices": [{"message": {"content": "x"}}], **odd}).encode())
    assert answer.text == "x"
    assert answer.usage is None


def test_a_logprob_beyond_all_bounds_is_clamped() -> None:
    place = {"token": "a", "logprob": -HUGE, "top_logprobs": []}
    body = {"choices": [{"message": {"content": "a"}, "logprobs": {"content": [place]}}]}
    assert read_answer(json.dumps(body).encode()).first_token == (("a", -1e4),)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, json_values)), json_values, json_values)
def test_any_json_is_an_answer_or_malformed(body: dict[str, Any], message: Any, logprobs: Any) -> None:
    body.setdefault("choices", [{"message": {"content": message}, "logprobs": {"content": [logprobs]}}])
    with suppress(MalformedReply):
        read_answer(json.dumps(body).encode())


@given(json_values)
def test_any_error_can_be_told(said: Any) -> None:
    for body in (said, {"error": said}, {"detail": said}, {"detail": [{"loc": said, "msg": said}]}):
        assert len(error_body(json.dumps(body).encode()).message) <= 301
