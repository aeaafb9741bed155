"""Words for BM25, in every script.

Spaced scripts are cut into words by Unicode category and stemmed where they are English. Scripts that are written
without spaces (Chinese, Japanese, Thai, Khmer, Lao, Myanmar), and Korean, whose words carry their particles, become
overlapping pairs of letters: no dictionary is needed, and any two letters of a query that stand together are found
together. Single letters are indexed beside the pairs, so that a query of one letter finds something too.

A term is known by 64 bits of its hash. There is no dictionary to keep, to load or to outgrow; among ten million terms
the odds that any two meet are 3 in a million.
"""

from __future__ import annotations

import hashlib
import re
import sys
import threading
import unicodedata
from collections.abc import Iterator
from functools import cache, lru_cache
from itertools import pairwise

import numpy as np
import snowballstemmer
from numpy.typing import NDArray

QUERY_TERMS_MAX = 256
"""Distinct terms of a query that count; a longer one is a document."""

_COUNT_MAX = np.iinfo(np.uint16).max

_UNSPACED = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f"  # Myanmar
    "\u1100-\u11ff\ua960-\ua97f\uac00-\ud7ff"  # Hangul
    "\u1780-\u17ff"  # Khmer
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3031-\u3035"  # radicals, iteration marks
    "\u3041-\u30ff\u31f0-\u31ff"  # kana
    "\u3105-\u312f\u31a0-\u31bf"  # Bopomofo
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # Han
    "\ua000-\ua4cf"  # Yi
    "\U00016fe0-\U00018dff\U0001aff0-\U0001b16f"  # Tangut, Khitan, more kana
    "\U00020000-\U0003ffff"  # more Han
)
_ASCII_WORDS = re.compile(r"[a-z0-9]+")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")


@cache
def _marks() -> str:
    """Return all combining marks as the inside of a character class. They belong to the letter before them."""
    ranges: list[list[int]] = []
    for code in range(0x300, sys.maxunicode + 1):
        # Above the third plane there are but tags and variation selectors: read only where marks can be.
        if 0x1FFFF < code < 0xE0000:
            continue
        if code > 0xE01EF:
            break
        if unicodedata.category(chr(code))[0] == "M":
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)


@cache
def _runs() -> re.Pattern[str]:
    marks = _marks()
    unspaced = f"(?:(?=\\w)[{_UNSPACED}][{marks}]*)"
    spaced = f"(?:(?=[^\\W_])[^{_UNSPACED}][{marks}]*)"
    return re.compile(f"(?P<unspaced>{unspaced}+)|(?P<spaced>{spaced}+)")


@cache
def _letters() -> re.Pattern[str]:
    return re.compile(f".[{_marks()}]*", re.DOTALL)


@cache
def _accents() -> re.Pattern[str]:
    # Latin and Greek letters with accents taken off. In other scripts a mark is a vowel, or another letter.
    return re.compile("([A-Za-z\u00c0-\u024f\u0370-\u03ff\u1e00-\u1fff])[\u0300-\u036f]+")


def normalized(text: str) -> str:
    """Return `text` as it is compared: NFKC, case folded, Latin and Greek without accents."""
    if text.isascii():
        return text.lower()
    folded = unicodedata.normalize("NFKC", text).casefold()
    return unicodedata.normalize("NFKC", _accents().sub(r"\1", unicodedata.normalize("NFD", folded)))


def words(text: str, *, query: bool = False) -> Iterator[str]:
    """Yield the terms of `text`, in order, not stemmed.

    Args:
        text: anything.
        query: leave out the single letters of unspaced scripts where their pairs say it better.

    """
    text = normalized(text)
    if not _NOT_ASCII.search(text):
        yield from _ASCII_WORDS.findall(text)
        return
    for run in _runs().finditer(text):
        if run.lastgroup == "spaced":
            yield run.group()
            continue
        letters = _letters().findall(run.group())
        if not query or len(letters) == 1:
            yield from letters
        for one, other in pairwise(letters):
            yield one + other


_stemmers = threading.local()  # a stemmer keeps the word that it is at work on


def stem(word: str) -> str:
    """Return the stem of an English word (Porter, Program 14(3), 1980); anything else as it is.

    "relational", "relate" and "relating" become one term, which lifts BM25's nDCG@10 on NFCorpus (dev) from .268 to
    .291 (whole documents; .289 by best passage, `python bench/recall.py quality`).
    """
    if len(word) < 3 or not (word.isascii() and word.isalpha()):
        return word
    if not hasattr(_stemmers, "porter"):
        _stemmers.porter = snowballstemmer.stemmer("porter")
    stemmed: str = _stemmers.porter.stemWord(word)
    return stemmed


@lru_cache(maxsize=1 << 17)
def term(word: str) -> int:
    """Return the 64 bits that stand for a word and its inflections."""
    return int.from_bytes(hashlib.blake2b(stem(word).encode(), digest_size=8).digest(), "little")


def document_terms(text: str) -> tuple[NDArray[np.uint64], NDArray[np.uint16], int]:
    """Return the distinct terms of a passage, ascending, how often each occurs, and its length in terms."""
    terms = np.fromiter((term(word) for word in words(text)), np.uint64)
    distinct, counts = np.unique(terms, return_counts=True)
    return distinct, np.minimum(counts, _COUNT_MAX).astype(np.uint16), len(terms)


def query_terms(text: str) -> NDArray[np.uint64]:
    """Return the distinct terms of a query in the order in which they first stand there, at most `QUERY_TERMS_MAX`."""
    distinct: dict[int, None] = {}
    for word in words(text, query=True):
        distinct.setdefault(term(word))
        if len(distinct) == QUERY_TERMS_MAX:
            break
    return np.fromiter(distinct, np.uint64)
