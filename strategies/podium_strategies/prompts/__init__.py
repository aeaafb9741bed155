"""Prompts: a template, its rendering, the reading of its replies, and an id. Pure text.

`load` finds a prompt by name, and imports nothing before it is asked for. A published prompt keeps its bytes for ever:
another wording is another version (`rank-zephyr/2`), and a bare name means the lowest.
"""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any

from podium_strategies.plan import Grade, Order, Pick, Prefer, Question

if TYPE_CHECKING:
    from podium_strategies.prompts.prompt import Prompt

_PROMPTS = {
    # Order
    "rank-gpt/1": "rank_gpt:RANK_GPT",
    "rank-gpt-vicuna/1": "rank_gpt:RANK_GPT_VICUNA",
    "rank-vicuna/1": "rank_vicuna:RANK_VICUNA",
    "rank-vicuna-early/1": "rank_vicuna:RANK_VICUNA_EARLY",
    "rank-zephyr/1": "rank_vicuna:RANK_ZEPHYR",
    "rank-zephyr/2": "rank_vicuna:RANK_ZEPHYR_2",
    "first/1": "rank_vicuna:FIRST",
    "listwise-json/1": "listwise_json:LISTWISE_JSON",
    "choose-best/1": "listwise_json:CHOOSE_BEST",
    # Grade
    "yes-no/1": "pointwise:YES_NO",
    "graded/1": "pointwise:GRADED",
    "graded-umbrela/1": "pointwise:GRADED_UMBRELA",
    "score-text/1": "pointwise:SCORE_TEXT",
    "umbrela/1": "umbrela:UMBRELA",
    "query-likelihood/1": "query_likelihood:QUERY_LIKELIHOOD",
    "qwen3-reranker/1": "rerankers:QWEN3_RERANKER",
    "bge-reranker-v2-gemma/1": "rerankers:BGE_RERANKER_V2_GEMMA",
    "mxbai-rerank-v2/1": "rerankers:MXBAI_RERANK_V2",
    "mono-t5/1": "rerankers:MONO_T5",
    # Prefer
    "pairwise/1": "choice:PAIRWISE",
    "pairwise-logprobs/1": "choice:PAIRWISE_LOGPROBS",
    "duo-t5/1": "rerankers:DUO_T5",
    # Pick
    "setwise/1": "choice:SETWISE",
    "setwise-logprobs/1": "choice:SETWISE_LOGPROBS",
}

USUAL: dict[type[Question[Any]], str] = {
    Grade: "score-text",
    Prefer: "pairwise",
    Pick: "setwise",
    Order: "listwise-json",
}
"""The prompt for a kind of question where nobody named one: each works on any endpoint that returns text."""


class UnknownPrompt(LookupError):
    """No prompt of that name exists. `name` and `known` say which was asked for and which there are."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        near = get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        super().__init__(f"no prompt is named {name!r}{hint} (known: {', '.join(known)}; or the path of a .toml file)")
        self.name = name
        self.known = known


def names() -> tuple[str, ...]:
    """Return the names of all prompts, without versions, sorted."""
    return tuple(sorted({known.partition("/")[0] for known in _PROMPTS}))


def ids() -> tuple[str, ...]:
    """Return names with versions, of all prompts there are."""
    return tuple(_PROMPTS)


def load(name: str) -> Prompt:
    """Return a prompt by name (`rank-zephyr`), by id (`rank-zephyr/2`), or from a user's file (`prompts/own.toml`).

    Raises:
        UnknownPrompt: there is none of that name.
        podium_strategies.prompts.file.InvalidPromptFile: the file cannot be used.

    """
    if name.endswith(".toml"):
        from podium_strategies.prompts.file import load_prompt_file

        return load_prompt_file(name)
    where = _PROMPTS.get(name) or _PROMPTS.get(f"{name}/1")
    if where is None:
        raise UnknownPrompt(name, ids() if "/" in name else names())
    module, _, constant = where.partition(":")
    prompt: Prompt = getattr(import_module(f"{__name__}.{module}"), constant)
    return prompt
