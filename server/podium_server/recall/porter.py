"""The Porter stemmer (M. F. Porter, *An algorithm for suffix stripping*, Program 14(3), 1980), as published.

"relational", "relate" and "relating" become one term. On NFCorpus (dev) it lifts BM25's nDCG@10 from .268 to .291
(whole documents; .289 by best passage, `python bench/recall.py quality`).
"""

from __future__ import annotations

import re

_CONSONANT = "[^aeiou]"
_VOWEL = "[aeiouy]"
_CONSONANTS = f"{_CONSONANT}[^aeiouy]*"
_VOWELS = f"{_VOWEL}[aeiou]*"
_MEASURE_1_UP = re.compile(f"^(?:{_CONSONANTS})?{_VOWELS}{_CONSONANTS}")
_MEASURE_1 = re.compile(f"^(?:{_CONSONANTS})?{_VOWELS}{_CONSONANTS}(?:{_VOWELS})?$")
_MEASURE_2_UP = re.compile(f"^(?:{_CONSONANTS})?{_VOWELS}{_CONSONANTS}{_VOWELS}{_CONSONANTS}")
_HAS_VOWEL = re.compile(f"^(?:{_CONSONANTS})?{_VOWEL}")
_CVC = re.compile(f"^{_CONSONANTS}{_VOWEL}[^aeiouwxy]$")
_DOUBLED = re.compile(r"([^aeiouylsz])\1$")

_STEP_2 = {
    "ational": "ate", "tional": "tion", "enci": "ence", "anci": "ance", "izer": "ize", "bli": "ble", "alli": "al",
    "entli": "ent", "eli": "e", "ousli": "ous", "ization": "ize", "ation": "ate", "ator": "ate", "alism": "al",
    "iveness": "ive", "fulness": "ful", "ousness": "ous", "aliti": "al", "iviti": "ive", "biliti": "ble", "logi": "log",
}  # fmt: skip
_STEP_3 = {"icate": "ic", "ative": "", "alize": "al", "iciti": "ic", "ical": "ic", "ful": "", "ness": ""}
_STEP_4 = (
    "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ou", "ism", "ate", "iti", "ous",
    "ive", "ize",
)  # fmt: skip
_ENDS_2 = re.compile(f"^(.+?)({'|'.join(sorted(_STEP_2, key=len, reverse=True))})$")
_ENDS_3 = re.compile(f"^(.+?)({'|'.join(sorted(_STEP_3, key=len, reverse=True))})$")
_ENDS_4 = re.compile(f"^(.+?)({'|'.join(sorted(_STEP_4, key=len, reverse=True))})$")
_WORD = re.compile("^[a-z]{3,}$")


def stem(word: str) -> str:
    """Return the stem of a lower-case English word; whatever is no such word comes back as it is."""
    if not _WORD.match(word):
        return word
    # A first y is a consonant; upper case keeps it from the vowels.
    first_y = word[0] == "y"
    if first_y:
        word = "Y" + word[1:]
    word = _plural(word)
    word = _past(word)
    if word.endswith("y") and _HAS_VOWEL.match(word[:-1]):
        word = word[:-1] + "i"
    for ends, replacements in ((_ENDS_2, _STEP_2), (_ENDS_3, _STEP_3)):
        if (found := ends.match(word)) and _MEASURE_1_UP.match(found[1]):
            word = found[1] + replacements[found[2]]
    word = _residue(word)
    return "y" + word[1:] if first_y else word


def _plural(word: str) -> str:
    if word.endswith(("sses", "ies")):
        return word[:-2]
    if word.endswith("s") and not word.endswith("ss"):
        return word[:-1]
    return word


def _past(word: str) -> str:
    if word.endswith("eed"):
        return word[:-1] if _MEASURE_1_UP.match(word[:-3]) else word
    for suffix in ("ed", "ing"):
        if word.endswith(suffix) and _HAS_VOWEL.match(word[: -len(suffix)]):
            word = word[: -len(suffix)]
            if word.endswith(("at", "bl", "iz")):
                return word + "e"
            if _DOUBLED.search(word):
                return word[:-1]
            return word + "e" if _CVC.match(word) else word
    return word


def _residue(word: str) -> str:
    if found := _ENDS_4.match(word):
        if _MEASURE_2_UP.match(found[1]):
            word = found[1]
    elif word.endswith("ion") and word[-4:-3] in ("s", "t") and _MEASURE_2_UP.match(word[:-3]):
        word = word[:-3]
    if word.endswith("e"):
        head = word[:-1]
        if _MEASURE_2_UP.match(head) or (_MEASURE_1.match(head) and not _CVC.match(head)):
            word = head
    if word.endswith("ll") and _MEASURE_2_UP.match(word):
        word = word[:-1]
    return word
