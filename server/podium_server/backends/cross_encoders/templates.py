"""The templates of rerankers that are language models: a prompt's words, cut where the authors' code cuts them.

The words are those of `podium_strategies.prompts.rerankers`, which a chat endpoint is sent, too. What is added here is
what an endpoint would add (the frame around turns), and the seams: the authors tokenize a template in pieces, and the
token ids are only theirs if the pieces are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from re import Pattern

from podium_strategies.prompts import load
from podium_strategies.prompts.prompt import Prompt, Sheet, Turn

_PASSAGE = "\ue000"
"""Stands for the passage while the words around it are looked for; the last of them is ours, whatever a query holds."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """A rendered template without its passage. Every string is tokenized by itself.

    Args:
        prefix: before what the user says; its special tokens are ones.
        query: the query with its label, then what stands between it and the passage.
        label: put before the passage, and tokenized together with it.
        rest: after the passage.
        suffix: after what the user says; its special tokens are ones.

    """

    prefix: str
    query: tuple[str, ...]
    label: str
    rest: tuple[str, ...]
    suffix: str


@dataclass(frozen=True, slots=True)
class Template:
    """How one family of rerankers is asked, and how its score is read off the last token.

    Args:
        prompt_name: of the prompt with the words.
        families: matches the last part of the names under which the authors published models.
        max_tokens: that the authors' code reads by default, of the template and the pair together.
        chatml: turns stand in the frame of ChatML; else the user's words stand alone, after the token that begins a
            text.
        newlines_apart: the authors tokenize the newlines beside the passage by themselves.

    """

    prompt_name: str
    families: Pattern[str]
    max_tokens: int
    chatml: bool
    newlines_apart: bool

    @property
    def prompt(self) -> Prompt:
        """The prompt with the words."""
        return load(self.prompt_name)

    @property
    def words(self) -> tuple[str, str | None]:
        """The word whose logit is the score, and the one whose logit is taken off it; None where none is."""
        first, *others = self.prompt.labels(1)
        return first, (others[0] if others else None)

    def pieces(self, query: str, instruction: str = "") -> Pieces:
        """Return the template around a query; the instruction is left out where the template has no place for one."""
        prompt = self.prompt
        said = prompt.query_text(instruction) if prompt.takes_instruction else ""
        turns = prompt.render(Sheet(prompt.query_text(query), (_PASSAGE,), said))
        prefix, content, suffix = _framed(turns) if self.chatml else ("", turns[0].content, "")
        before, _, rest = content.rpartition(_PASSAGE)
        query_text, _, label = before.rpartition("\n")
        if not self.newlines_apart:
            return Pieces(prefix, (f"{query_text}\n",), label, (rest,) if rest else (), suffix)
        return Pieces(prefix, (query_text, "\n"), label, ("\n", rest.removeprefix("\n")), suffix)

    def passage_text(self, text: str) -> str:
        """Return a passage as it may be shown: nothing in it looks like the template's own words."""
        return self.prompt.neutral(text)


def _of(name: str, published: str, max_tokens: int, *, chatml: bool, newlines_apart: bool) -> tuple[str, Template]:
    return name, Template(name, re.compile(published, re.IGNORECASE), max_tokens, chatml, newlines_apart)


TEMPLATES: dict[str, Template] = dict(
    [
        _of("qwen3-reranker", r"qwen3-reranker-[\d.]+b", 8192, chatml=True, newlines_apart=False),
        _of("bge-reranker-v2-gemma", r"bge-reranker-v2-gemma", 1024, chatml=False, newlines_apart=True),
        _of("mxbai-rerank-v2", r"mxbai-rerank-(base|large)-v2", 8192, chatml=True, newlines_apart=True),
    ]
)


def template_for(model: str) -> Template | None:
    """Return the template of the model that was published under that name (`Qwen/Qwen3-Reranker-0.6B`), if any."""
    last = re.split(r"[/\\]", model.rstrip("/\\"))[-1]
    return next((template for template in TEMPLATES.values() if template.families.fullmatch(last)), None)


def _framed(turns: Sequence[Turn]) -> tuple[str, str, str]:
    """Return ChatML up to the user's words, these, and what follows them up to where the model goes on."""
    before, user, after = "", "", ""
    for turn in turns:
        if turn.role == "user":
            before, user, after = f"{before}<|im_start|>user\n", turn.content, "<|im_end|>\n"
        elif turn.role == "assistant":  # a prefill: the model goes on with it
            return before, user, f"{after}<|im_start|>assistant\n{turn.content}"
        else:
            before += f"<|im_start|>{turn.role}\n{turn.content}<|im_end|>\n"
    return before, user, f"{after}<|im_start|>assistant\n"
