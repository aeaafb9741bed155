"""Making foreign text harmless and short, without changing what it says. Every pattern here runs in linear time."""

from __future__ import annotations

import re
from collections.abc import Iterable
from re import Pattern

CONTROL: tuple[tuple[Pattern[str], str], ...] = (
    # What a tokenizer may turn into a token of its chat template, wherever it stands: a document with one of these
    # would end its turn and begin another speaker's.
    (re.compile(r"<(?=[|｜]|/?s>|/?think>|(?:start|end)_of_turn>|(?:bos|eos|pad|unk)>|/?<?/?SYS>>|extra_id_)"), "< "),
    (re.compile(r"\[(/?INST)\]"), r"(\1)"),
)
BRACKETED_NUMBERS = (re.compile(r"\[(\d+)\]"), r"(\1)")
BRACKETED_LETTERS = (re.compile(r"\[([A-Za-z]{1,64})\]"), r"(\1)")
FENCE = (re.compile(r"<(?=\s*+/?\s*+(?:document|query)\b)", re.IGNORECASE), "‹")
PASSAGE_LABELS = (re.compile(r"\b(Passage|Query) ?([A-Z]?):", re.IGNORECASE), r"\1 \2")


def rewritten(text: str, marks: Iterable[tuple[Pattern[str], str]]) -> str:
    """Return `text` with every mark replaced."""
    for pattern, instead in marks:
        text = pattern.sub(instead, text)
    return text


def one_line(text: str, max_words: int | None, *, from_start: bool = False) -> tuple[str, bool]:
    """Join the words of `text` by single blanks, at most `max_words` of them; return it and whether some were cut."""
    words = text.split()
    if max_words is None or len(words) <= max_words:
        return " ".join(words), False
    return " ".join(words[-max_words:] if from_start else words[:max_words]), True


def cut_words(text: str, max_words: int | None, *, from_start: bool = False) -> tuple[str, bool]:
    """Keep at most `max_words` words of `text`, its white space included; return it and whether some were cut."""
    if max_words is None or len(text) <= max_words:
        return text, False
    words = list(re.finditer(r"\S+", text))
    if len(words) <= max_words:
        return text, False
    return text[words[-max_words].start() :] if from_start else text[: words[max_words - 1].end()], True


def split_thought(reply: str) -> tuple[str, str]:
    """Return what a reply says, and the reasoning before it; nothing is said where the reasoning never ends.

    A reasoning model thinks in a block of its own, which a chat template may have opened already, so that a reply holds
    its end only. What is said follows the last end of a block. A tag in the middle that nothing ends is a word.
    """
    thought, end, said = reply.rpartition("</think>")
    if said.lstrip().startswith("<think>"):
        thought, said = reply, ""
    return said.lstrip() if end else said, _THOUGHT_TAG.sub("", thought).strip()


def without_thinking(reply: str) -> str:
    """Return what a reply says after its reasoning; see `split_thought`."""
    return split_thought(reply)[0]


_THOUGHT_TAG = re.compile("</?think>")


def filled(template: str, values: dict[str, str]) -> str:
    """Put values into a template's {placeholders}, once: what a value holds is never a placeholder itself.

    `{{` and `}}` are braces.
    """

    def value(match: re.Match[str]) -> str:
        found = match.group()
        return found[0] if found in ("{{", "}}") else values[match.group(1)]

    return PLACEHOLDER.sub(value, template)


PLACEHOLDER = re.compile(r"\{\{|\}\}|\{(\w+)\}")
