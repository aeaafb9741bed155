r"""A user's own prompt: a TOML file.

```toml
name = "legal"                 # of the prompt; the file's name without its suffix where it is missing
version = 1
kind = "listwise"              # listwise, setwise, pairwise or pointwise
reads = "text"                 # text, or labels: the log-probability of a letter (or of `labels`) as the first token
identifiers = "numbers"        # numbers or letters
system = "You rank court rulings."
user = '''
Question: {query}
{documents}
Rank the {n} rulings above, best first, like this: [2] > [1]'''
document = "[{id}] {text}"     # each document; joined by `separator`
separator = "\n"
instruction = "What matters: {instruction}\n"   # stands for {instruction} where a request has one; else nothing does
prefill = ""                   # the beginning of the model's answer
labels = ["yes", "no"]         # pointwise, reads = "labels"
values = [1.0, 0.0]            # of the labels; the score is the expected one
scale = [0, 100]               # pointwise, reads = "text"
words_per_document = 300
max_output_tokens = 200
ftfy = true                    # mend documents that were decoded wrongly
```
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from math import fsum, isfinite
from pathlib import Path
from typing import Any, NoReturn

from podium_strategies.plan import Grade, Order, Pick, Prefer, Question
from podium_strategies.prompts.prompt import Prompt, Reading, Reads, Sheet, Turn, UnreadableReply
from podium_strategies.prompts.reading import (
    LETTERS,
    read_array,
    read_letter,
    read_letters,
    read_numbers,
    read_score,
    softmax,
)
from podium_strategies.prompts.text import FENCE, PLACEHOLDER, filled

FILE_BYTES_MAX = 256 * 1024
"""Longer is no prompt: it would fill most models' context by itself."""

KINDS: Mapping[str, type[Question[Any]]] = {"listwise": Order, "setwise": Pick, "pairwise": Prefer, "pointwise": Grade}
PLACEHOLDERS: Mapping[str, tuple[str, ...]] = {
    "system": ("query", "instruction", "n", "top"),
    "user": ("query", "instruction", "documents", "n", "top"),
    "document": ("id", "text"),
    "instruction": ("instruction",),
}
_ANY_IDENTIFIER = (re.compile(r"\[(\d+|[A-Za-z])\]"), r"(\1)")


class InvalidPromptFile(ValueError):
    """A prompt file that cannot be used. The message names the file, the key, and what could stand there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePrompt(Prompt):
    """A prompt that was read from a file. Its fields are the file's keys."""

    letters: bool
    system: str
    user: str
    document: str
    separator: str
    instruction: str
    prefill: str
    degrees: tuple[tuple[str, float], ...]
    scale: tuple[int, int]
    words: int | None
    output_tokens: int | None

    def words_per_document(self, n: int) -> int | None:
        return self.words

    def render(self, sheet: Sheet) -> tuple[Turn, ...]:
        names = LETTERS if self.letters else [str(label) for label in range(1, sheet.n + 1)]
        shown = self.separator.join(
            filled(self.document, {"id": name, "text": text})
            for name, text in zip(names, sheet.documents, strict=False)
        )
        values = {
            "query": sheet.query,
            "instruction": filled(self.instruction, {"instruction": sheet.instruction}) if sheet.instruction else "",
            "documents": shown,
            "n": str(sheet.n),
            "top": str(sheet.wanted),
        }
        turns = [Turn("user", filled(self.user, values))]
        if self.system:
            turns.insert(0, Turn("system", filled(self.system, values)))
        if self.prefill:
            turns.append(Turn("assistant", self.prefill))
        return tuple(turns)

    def labels(self, n: int) -> tuple[str, ...]:
        if self.reads is not Reads.LABELS:
            return ()
        return tuple(label for label, _ in self.degrees) if self.kind is Grade else tuple(LETTERS[:n])

    def max_output_tokens(self, n: int, top: int | None = None) -> int:
        if self.reads is Reads.LABELS:
            return 1
        return self.output_tokens or (6 * n + 48 if self.kind is Order else 32)

    def usual_output_tokens(self, n: int, top: int | None = None) -> int:
        if self.reads is Reads.LABELS:
            return 1
        return 5 * n if self.kind is Order else 4

    def read(self, reply: str, sheet: Sheet) -> Reading:
        if self.kind is Grade:
            return read_score(reply, *self.scale)
        if self.kind is Order:
            return self._read_order(reply, sheet)
        chosen = read_letter(reply, sheet.n) if self.letters else _read_number(reply, sheet.n)
        return chosen if self.kind is Pick else Reading(1.0 - chosen.answer, chosen.repair, chosen.surplus)

    def _read_order(self, reply: str, sheet: Sheet) -> Reading:
        if self.letters:
            return read_letters(reply, sheet.n, sheet.wanted)
        try:
            return read_array(reply, sheet.n, sheet.wanted, key="ranking")
        except UnreadableReply:
            return read_numbers(reply, sheet.n, sheet.wanted)

    def weigh(self, logprobs: Sequence[float], n: int) -> Any:
        if self.kind is Grade:
            values = (value for _, value in self.degrees)
            return fsum(weight * value for weight, value in zip(softmax(logprobs), values, strict=True))
        if self.kind is Prefer:
            return softmax(logprobs)[0]
        order = tuple(sorted(range(n), key=lambda place: -logprobs[place]))
        return order if self.kind is Order else order[0]


def _read_number(reply: str, n: int) -> Reading:
    named = read_numbers(reply, n, 1)
    return Reading(named.answer[0], named.repair, named.surplus or len(named.answer) > 1)


def load_prompt_file(path: str | Path) -> Prompt:
    """Read a prompt file.

    Raises:
        InvalidPromptFile: it is not there, is no TOML, or says something that no prompt can mean.

    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise InvalidPromptFile(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(raw) > FILE_BYTES_MAX:
        raise InvalidPromptFile(f"{path}: longer than {FILE_BYTES_MAX} bytes, which is no prompt")
    try:
        given = tomllib.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InvalidPromptFile(f"{path}: is not UTF-8: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidPromptFile(f"{path}: is no valid TOML: {error}") from error
    return prompt_of(given, name=path.stem, where=str(path))


def prompt_of(given: Mapping[str, Any], *, name: str, where: str) -> Prompt:
    """Make a prompt of the keys of a file.

    Args:
        given: the keys.
        name: of the prompt where the file gives none.
        where: put before every complaint.

    Raises:
        InvalidPromptFile: naming the key, what it is and what it could be.

    """
    read = _Reader(given, where)
    kind = KINDS[read.one_of("kind", tuple(KINDS))]
    reads = Reads(read.one_of("reads", ("text", "labels"), "text"))
    letters = read.one_of("identifiers", ("numbers", "letters"), _usual_identifiers(kind, reads)) == "letters"
    if reads is Reads.LABELS and not letters and kind is not Grade:
        read.refuse("identifiers", "must be 'letters' where labels are read: a number is more than one token")
    degrees = read.degrees(needed=kind is Grade and reads is Reads.LABELS)
    single = kind is Grade
    prompt = FilePrompt(
        name=read.text("name", name),
        version=read.whole("version", 1) or 1,
        kind=kind,
        reads=reads,
        score="grade" if single else "none",
        takes_instruction="{instruction}" in str(given.get("user", "")) + str(given.get("system", "")),
        clean="ftfy" if read.flag("ftfy") else "",
        flat=False,
        marks=(_ANY_IDENTIFIER, FENCE),
        max_documents=len(LETTERS) if letters else None,
        letters=letters,
        system=read.template("system", ""),
        user=read.template("user", None, needs=("documents",)),
        document=read.template("document", "{text}" if single else "[{id}] {text}", needs=("text",)),
        separator=read.text("separator", "\n", may_be_empty=True),
        instruction=read.template("instruction", "{instruction}", needs=("instruction",)),
        prefill=read.text("prefill", "", may_be_empty=True),
        degrees=degrees,
        scale=read.scale(),
        words=read.whole("words_per_document", None),
        output_tokens=read.whole("max_output_tokens", None),
    )
    read.finish()
    if not single and "{id}" not in prompt.document:
        read.refuse("document", "needs {id}: the model has to name the documents")
    return prompt


def _usual_identifiers(kind: type[Question[Any]], reads: Reads) -> str:
    return "numbers" if kind is Grade or (kind is Order and reads is Reads.TEXT) else "letters"


class _Reader:
    """Takes keys out of a table, and complains about the ones that are wrong or left."""

    def __init__(self, given: Mapping[str, Any], where: str) -> None:
        self._given = given
        self._where = where
        self._known: list[str] = []

    def refuse(self, key: str, complaint: str) -> NoReturn:
        raise InvalidPromptFile(f"{self._where}: {key}: {complaint}")

    def _take(self, key: str, default: Any, kind: type, kind_name: str) -> Any:
        self._known.append(key)
        value = self._given.get(key, default)
        if value is default:
            return value
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            self.refuse(key, f"is {value!r}, and must be {kind_name}")
        return value

    def text(self, key: str, default: str, *, may_be_empty: bool = False) -> str:
        value: str = self._take(key, default, str, "a string")
        if not value and not may_be_empty:
            self.refuse(key, "is empty")
        return value

    def flag(self, key: str) -> bool:
        return bool(self._take(key, False, bool, "true or false"))

    def whole(self, key: str, default: int | None) -> int | None:
        value: int | None = self._take(key, default, int, "a whole number")
        if value is not None and value < 1:
            self.refuse(key, f"is {value}: at least 1")
        return value

    def one_of(self, key: str, choices: tuple[str, ...], default: str | None = None) -> str:
        value = self._take(key, default, str, "a string")
        if value is None:
            self.refuse(key, f"is needed: one of {', '.join(choices)}")
        if value not in choices:
            self.refuse(key, f"is {value!r}, and must be one of {', '.join(choices)}")
        return str(value)

    def template(self, key: str, default: str | None, *, needs: tuple[str, ...] = ()) -> str:
        value = self._take(key, default, str, "a string")
        if value is None:
            self.refuse(key, "is needed")
        known = PLACEHOLDERS[key]
        used = {match.group(1) for match in PLACEHOLDER.finditer(value) if match.group(1)}
        for placeholder in sorted(used - set(known)):
            near = get_close_matches(placeholder, known, n=1)
            hint = f"; did you mean {{{near[0]}}}?" if near else ""
            listed = ", ".join(f"{{{one}}}" for one in known)
            self.refuse(key, f"there is no {{{placeholder}}}{hint} (known: {listed}; {{{{ is a brace)")
        for placeholder in needs:
            if placeholder not in used:
                self.refuse(key, f"needs {{{placeholder}}}")
        return str(value)

    def degrees(self, *, needed: bool) -> tuple[tuple[str, float], ...]:
        labels = self._take("labels", None, list, "a list of strings")
        values = self._take("values", None, list, "a list of numbers")
        if labels is None and values is None and not needed:
            return ()
        if not needed:
            self.refuse("labels", "have a meaning where kind = 'pointwise' and reads = 'labels'")
        if labels is None or not all(isinstance(label, str) and label for label in labels) or len(labels) < 2:
            self.refuse("labels", f"is {labels!r}, and must be at least two strings")
        if len(set(labels)) < len(labels):
            self.refuse("labels", "has a label twice")
        if values is None:
            # The first label is the best, as in ["yes", "no"].
            values = list(range(len(labels) - 1, -1, -1))
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        if not numbers or len(values) != len(labels) or not all(isfinite(value) for value in values):
            self.refuse("values", f"is {values!r}, and must be {len(labels)} finite numbers, one a label")
        return tuple(zip(labels, map(float, values), strict=True))

    def scale(self) -> tuple[int, int]:
        value = self._take("scale", [0, 100], list, "two whole numbers")
        whole = all(isinstance(end, int) and not isinstance(end, bool) for end in value)
        if not whole or len(value) != 2 or not 0 <= value[0] < value[1]:
            self.refuse("scale", f"is {value!r}, and must be two whole numbers, 0 or more, the lower first")
        return value[0], value[1]

    def finish(self) -> None:
        """Complain about keys that nobody asked for."""
        for key in self._given:
            if key not in self._known:
                near = get_close_matches(key, self._known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                self.refuse(key, f"no such key{hint} (known: {', '.join(self._known)})")
