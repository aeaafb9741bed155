"""Reading replies. Whatever a model says is foreign data: a value with its repair, or `UnreadableReply`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import exp, fsum

from podium_strategies.prompts.prompt import Reading, Repair, UnreadableReply
from podium_strategies.prompts.text import without_thinking

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_DIGITS = re.compile(r"\d+")
_PLAIN_ORDER = re.compile(r"[\d\s\[\]<>=,.;]*")
_LONGEST_LABEL = 9
"""Digits. A longer run is no label of ours, and turning thousands of digits into a number is slow."""


def read_numbers(reply: str, n: int, wanted: int) -> Reading:
    """Read an order from every run of digits in a reply, as RankGPT's authors do: `[2] > [1]`, `2] > 1`, `2, 1`.

    Raises:
        UnreadableReply: no number from 1 to `n` is in it.

    """
    said = without_thinking(reply)
    numbers = [_number(match.group()) for match in _DIGITS.finditer(said)]
    return _order(numbers, n, wanted, plain=_PLAIN_ORDER.fullmatch(said) is not None, reply=reply)


def numbers_form(n: int) -> str:
    """Return the pattern of an order of `n` numbers as trained rankers write it."""
    number = r"\[[1-9][0-9]{0,2}\]"
    return f"{number}( > {number}){{{n - 1}}}"


def read_letters(reply: str, n: int, wanted: int) -> Reading:
    """Read an order from letters: bracketed ones, or the whole reply where it is nothing but letters and separators.

    Raises:
        UnreadableReply: no label is in it.

    """
    said = without_thinking(reply)
    found = _BRACKETED_LETTER.findall(said)
    plain = _PLAIN_LETTERS.fullmatch(said) is not None
    if not found and plain:
        found = _SINGLE_LETTER.findall(said)
    return _order([_place_of(letter) + 1 for letter in found], n, wanted, plain=plain, reply=reply)


_BRACKETED_LETTER = re.compile(r"\[([A-Za-z])\]")
_SINGLE_LETTER = re.compile(r"[A-Za-z]")
_PLAIN_LETTERS = re.compile(r"[\s\[\]>,.;]*+(?:[A-Za-z][\s\[\]>,.;]++)*+[A-Za-z]?")


def read_array(reply: str, n: int, wanted: int, *, key: str) -> Reading:
    """Read an order from JSON: alone, in a code fence, among prose, cut off; or from an order written without it.

    Arrays are looked for by their brackets and never parsed as JSON: a reply of a hundred thousand brackets is read
    as fast as any other.

    Raises:
        UnreadableReply: no array of numbers is in it, and no order either.

    """
    said = without_thinking(reply)
    arrays = [array for array in map(_numbers_in, _ARRAY.finditer(_from_key(said, key))) if array]
    if not arrays:
        # "3, 1, 2" and "3 > 1 > 2" say it as well, and so do objects that hold an id each; digits inside prose do not.
        identified = [_number(match.group(1)) for match in _ID.finditer(said)]
        if identified:
            return _order(identified, n, wanted, plain=False, reply=reply)
        if _PLAIN_ORDER.fullmatch(said) is None:
            raise UnreadableReply("array of document numbers", reply)
        return read_numbers(said, n, wanted)
    longest = max(arrays, key=len)
    numbers = longest if len(longest) > 1 else [array[0] for array in arrays]  # [3] > [1] > [2]
    return _order(numbers, n, wanted, plain=said.strip().startswith(("{", "[", "`")), reply=reply)


_ARRAY = re.compile(r"\[([^\[\]]*)(\]?)")
_ID = re.compile(r'"(?:id|document|doc|label)"\s{0,9}:\s{0,9}"?(\d+)')


def _from_key(said: str, key: str) -> str:
    """Return what follows the last use of the key that was asked for; all of it, where there is no array behind it."""
    at = said.rfind(f'"{key}"')
    return said[at:] if at >= 0 and "[" in said[at:] else said


def _numbers_in(array: re.Match[str]) -> list[int]:
    """Return the numbers of one array; none where something else stands in it."""
    items = array.group(1).split(",")
    if not array.group(2):
        # Cut off. The last number may have been longer: 1 of 12.
        items.pop()
    while items and not items[-1].strip():
        items.pop()
    digits = [item.strip().strip("\"'").strip() for item in items]
    return [_number(run) for run in digits] if all(run.isdecimal() for run in digits) else []


def read_letter(reply: str, n: int) -> Reading:
    """Read the one letter that a reply chooses: `B`, `Passage B`, `**B**`, `{"best": "B"}`, or the first one named.

    Raises:
        UnreadableReply: none of the first `n` letters is named.

    """
    said = without_thinking(reply).strip()
    alone = _ALONE.fullmatch(said) if len(said) <= _SHORT else None
    if alone is not None and _place_of(alone.group(1)) < n:
        return Reading(_place_of(alone.group(1)))
    for pattern in (_NAMED, _BRACKETED_LETTER, _CAPITAL_LINE):
        for match in pattern.finditer(said):
            if _place_of(match.group(1)) < n:
                return Reading(_place_of(match.group(1)), Repair.WRONG_FORMAT)
    raise UnreadableReply("label of a passage", reply)


_SHORT = 60
"""Characters. A longer reply is no bare answer, and is not matched against the patterns of one."""
_ALONE = re.compile(r"""\W*(?:(?i:best|answer|passage|document)\W+){0,3}([A-Za-z])\W*""")
_NAMED = re.compile(r"\b(?i:passage|document|answer|option|label|best)\b\W{0,6}(?:is\W{1,4})?([A-Z])\b")
_CAPITAL_LINE = re.compile(r"^[^\w\n]{0,4}([A-Z])[^\w\n]{0,4}$", re.MULTILINE)


def read_score(reply: str, low: int, high: int) -> Reading:
    """Read a number from `low` to `high`: `85`, `Score: 85`, `85/100`, `{"score": 85}`, or the last one in range.

    Raises:
        UnreadableReply: no such number is in it.

    """
    said = without_thinking(reply).strip()
    alone = _SCORE_ALONE.fullmatch(said) if len(said) <= _SHORT else None
    if alone is not None and low <= float(alone.group(1)) <= high:
        return Reading(float(alone.group(1)))
    named = [match for match in _SCORE_NAMED.finditer(said) if low <= float(match.group(1)) <= high]
    loose = [match for match in _SCORE.finditer(said) if low <= float(match.group(1)) <= high]
    for found in (named, loose):
        if found:
            return Reading(float(found[-1].group(1)), Repair.WRONG_FORMAT)
    raise UnreadableReply(f"number from {low} to {high}", reply)


_SCORE_ALONE = re.compile(r"""[^\w-]*(?:(?i:(?:final )?score)\W*)?(?<![-\d.])(\d+(?:\.\d+)?)(?:\s*/\s*\d+)?\W*""")
_SCORE_NAMED = re.compile(r"""\b(?i:score)\b["'*]{0,3}\s{0,3}(?:is|of|[:=])?[\s"'*]{0,4}(\d+(?:\.\d+)?)""")
_SCORE = re.compile(r"(?<![\d./-])(\d+(?:\.\d+)?)")


def softmax(logprobs: Sequence[float]) -> list[float]:
    """Return the probabilities of labels among themselves."""
    top = max(logprobs)
    weights = [exp(value - top) for value in logprobs]
    total = fsum(weights)
    return [weight / total for weight in weights]


def _number(digits: str) -> int:
    return int(digits) if len(digits) <= _LONGEST_LABEL else 0


def _place_of(letter: str) -> int:
    return LETTERS.index(letter.upper())


def _order(labels: Sequence[int], n: int, wanted: int, *, plain: bool, reply: str) -> Reading:
    """Make a reading of labels that count from 1, in the order in which a reply names them."""
    inside = [label - 1 for label in labels if 1 <= label <= n]
    places = tuple(dict.fromkeys(inside))
    if not places:
        raise UnreadableReply("label of a passage", reply)
    strange = len(inside) < len(labels)
    repeated = len(places) < len(inside)
    if len(places) >= wanted:
        repair = Repair.OK
    elif strange or not plain:
        repair = Repair.WRONG_FORMAT
    elif repeated:
        repair = Repair.REPETITION
    else:
        repair = Repair.MISSING
    return Reading(places, repair, surplus=strange or repeated)
