"""Which prompt was asked, by its fixed wording, and what stands in it: the query, the documents, and what is wanted.

Known are all prompts of Podium whose reply is text or the log-probabilities of labels, and the wording of rank_llm,
llm-rankers and rerankers (RankGPT's conversation and its descendants, LRL, setwise, pairwise). What none of them is
gets `UnknownPrompt`: a judge that guessed would look like a bad strategy.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from re import Pattern
from typing import NamedTuple

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

PROBE = "This is a test of what an endpoint can do"
"""How Podium's own probe of an endpoint begins; it has no documents, and any reply will do."""


class UnknownPrompt(ValueError):
    """A conversation that is none of the prompts known here. The message says what was looked for."""


class Said(NamedTuple):
    """One turn of a conversation."""

    role: str
    content: str


class Kind(Enum):
    """What is wanted."""

    ORDER = "order"
    PICK = "pick"
    PREFER = "prefer"
    GRADE = "grade"


class Form(Enum):
    """How the answer is written."""

    NUMBERS = "[2] > [1]"
    LETTERS = "[B] > [A]"
    RANKING = '{"ranking": [2, 1]}'
    BEST = '{"best": [2, 1]}'
    PASSAGES = "[PASSAGE2, PASSAGE1]"
    PASSAGE = "Passage B"
    LETTER = "B"
    WORDS = "one of some words"
    SCORE = '{"score": 50}'
    FINAL = "##final score: 2"


@dataclass(frozen=True, slots=True)
class Seen:
    """A prompt, recognised.

    Args:
        prompt: Podium's name of it where the wording is one of Podium's; else what it is like.
        kind: of the question.
        form: of the answer.
        query: its text; where the prompt has none on a line of its own, the whole text.
        documents: their texts, in the order shown.
        top: how many are wanted.
        words: the labels of a grade or a preference in words, the best first.
        begun: the beginning of the answer that the prompt gives, and that the reply goes on with.

    """

    prompt: str
    kind: Kind
    form: Form
    query: str
    documents: tuple[str, ...]
    top: int
    words: tuple[str, ...] = ()
    begun: str = ""


@dataclass(frozen=True, slots=True)
class Shape:
    """One wording: what it always holds, and where its parts stand."""

    prompt: str
    kind: Kind
    form: Form
    holds: tuple[str, ...]
    documents: Parts
    query: Pattern[str] | None = None
    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Parts:
    """Where documents stand: each from behind a match of `start` to the next one, or to what ends it."""

    start: Pattern[str]
    end: Pattern[str]
    quoted: bool = False

    def of(self, text: str) -> tuple[str, ...]:
        """Return the documents of a prompt."""
        found = list(self.start.finditer(text))
        if not found:
            return ()
        last = self.end.search(text, found[-1].end())
        ends = [match.start() for match in found[1:]] + [len(text) if last is None else last.start()]
        pieces = []
        for match, end in zip(found, ends, strict=True):
            piece = text[match.end() : end]
            if not self.quoted:
                # RankGPT's conversation acknowledges every passage behind it, and fences are closed.
                piece = piece.partition("\nReceived passage [")[0].partition("\n</document>")[0]
            piece = piece.strip()
            pieces.append(piece[: piece.rfind('"')] if self.quoted and '"' in piece else piece)
        return tuple(pieces)


def _parts(start: str, end: str, *, quoted: bool = False) -> Parts:
    return Parts(re.compile(start, re.MULTILINE), re.compile(end, re.MULTILINE), quoted)


_LABELLED = _parts(
    r"^\[(?:\d{1,3}|[A-Z])\]\s", r"\n(?:\s*Search Query: |The search query is|Given the query: |Received passage \[)"
)
_FENCED = _parts(r'^<document(?: id="\w+")?>\n', r"\n</document>")
_QUOTED = _parts(r'^Passage [A-Z]: "', r"\n\s*Output (?:Passage A or|only the passage label)", quoted=True)
_LRL = _parts(r'^PASSAGE\d+ = "', r"\n\s*QUESTION: ", quoted=True)

_OURS = re.compile(r"^Query: (.*)$", re.MULTILINE)
_SEARCH = re.compile(r"^\s*Search Query: (.*?)\. ?$", re.MULTILINE)
_GIVEN = re.compile(r'Given a query "(.*?)", which of the following')
_FIRST_LINE = re.compile(r"relevance to query: (.*?)\.?$", re.MULTILINE)

_JSON = "as JSON and with nothing else"
SHAPES = (
    # Podium's own.
    Shape(
        "choose-best",
        Kind.ORDER,
        Form.BEST,
        ("Choose the ", _JSON, "documents of the", '{"best": ['),
        _FENCED,
        _OURS,
    ),
    Shape(
        "listwise-json", Kind.ORDER, Form.RANKING, ("You rank search results.", _JSON, '{"ranking": ['), _FENCED, _OURS
    ),
    # With two documents the setwise wording is the pairwise one, and the answer the same.
    Shape("pairwise-logprobs", Kind.PREFER, Form.LETTER, ("Answer with one letter, A or B.",), _FENCED, _OURS),
    Shape("setwise-logprobs", Kind.PICK, Form.LETTER, ("Which document serves the query best?",), _FENCED, _OURS),
    Shape(
        "yes-no",
        Kind.GRADE,
        Form.WORDS,
        ("You judge search results.", "Answer with one word, Yes or No."),
        _FENCED,
        _OURS,
        ("Yes", "No"),
    ),
    Shape(
        "graded",
        Kind.GRADE,
        Form.WORDS,
        ("You judge search results.", "Answer with one digit, 0 to 4."),
        _FENCED,
        _OURS,
        ("4", "3", "2", "1", "0"),
    ),
    Shape(
        "graded-umbrela",
        Kind.GRADE,
        Form.WORDS,
        ("You judge search results.", "Answer with one digit, 0 to 3."),
        _FENCED,
        _OURS,
        ("3", "2", "1", "0"),
    ),
    Shape("score-text", Kind.GRADE, Form.SCORE, ("You judge search results.", '{"score": 50}'), _FENCED, _OURS),
    # Published ones: the same in Podium, rank_llm, llm-rankers and rerankers.
    Shape(
        "umbrela",
        Kind.GRADE,
        Form.FINAL,
        ("##final score: score", "decide on a final score (O)"),
        _parts(r"^Passage: ", r"\n\s*Split this problem into steps:"),
        _OURS,
    ),
    Shape(
        "qwen3-reranker",
        Kind.GRADE,
        Form.WORDS,
        ("<Instruct>: ", "<Document>: ", 'can only be "yes" or "no"'),
        _parts(r"^<Document>: ", r"\n<think>"),
        re.compile(r"^<Query>: (.*)$", re.MULTILINE),
        ("yes", "no"),
    ),
    Shape(
        "bge-reranker-v2-gemma",
        Kind.GRADE,
        Form.WORDS,
        ("determine whether the passage contains an answer to the query", "'Yes' or 'No'"),
        _parts(r"^B: ", r"\nGiven a query A and a passage B"),
        re.compile(r"^A: (.*)$", re.MULTILINE),
        ("Yes", "No"),
    ),
    Shape(
        "mxbai-rerank-v2",
        Kind.GRADE,
        Form.WORDS,
        ("You are a search relevance expert", "Relevance:"),
        _parts(r"^document: ", r"\nYou are a search relevance expert"),
        re.compile(r"^query: (.*)$", re.MULTILINE),
        ("1", "0"),
    ),
    Shape(
        "duo-t5",
        Kind.PREFER,
        Form.WORDS,
        ("Query: ", " Document0: ", " Document1: ", " Relevant:"),
        _parts(r" Document[01]: ", r" Relevant:"),
        re.compile(r"Query: (.*?) Document0: ", re.DOTALL),
        ("true", "false"),
    ),
    Shape(
        "mono-t5",
        Kind.GRADE,
        Form.WORDS,
        ("Query: ", " Document: ", " Relevant:"),
        _parts(r" Document: ", r" Relevant:"),
        re.compile(r"Query: (.*?) Document: ", re.DOTALL),
        ("true", "false"),
    ),
    Shape(
        "pairwise",
        Kind.PREFER,
        Form.PASSAGE,
        ("which of the following two passages is more relevant to the query?", "Output Passage A or Passage B"),
        _QUOTED,
        _GIVEN,
    ),
    Shape(
        "setwise",
        Kind.PICK,
        Form.LETTER,
        ("is the most relevant one to the query?", "Output only the passage label of the most relevant passage"),
        _QUOTED,
        _GIVEN,
    ),
    Shape("first", Kind.ORDER, Form.LETTERS, ("a alphabetical identifier []", "[B] > [A]"), _LABELLED, _SEARCH),
    Shape(
        "rank-gpt-vicuna",
        Kind.ORDER,
        Form.NUMBERS,
        ("You are Vicuna, an intelligent assistant", "each indicated by number identifier []"),
        _LABELLED,
        _SEARCH,
    ),
    Shape("rank-gpt", Kind.ORDER, Form.NUMBERS, ("each indicated by number identifier []",), _LABELLED, _FIRST_LINE),
    Shape(
        "rank-vicuna-early",
        Kind.ORDER,
        Form.NUMBERS,
        ("You are RankVicuna, an intelligent assistant", "a numerical identifier []"),
        _LABELLED,
        _SEARCH,
    ),
    Shape(
        "rank-vicuna",
        Kind.ORDER,
        Form.NUMBERS,
        ("a numerical identifier []", "[4] > [2]"),
        _LABELLED,
        _SEARCH,
    ),
    Shape("rank-zephyr", Kind.ORDER, Form.NUMBERS, ("a numerical identifier []",), _LABELLED, _SEARCH),
    # Others' alone.
    Shape("rank_llm: first", Kind.ORDER, Form.LETTERS, ("alphabetical identifier []", "[B] > [A]"), _LABELLED, _SEARCH),
    Shape("rank_llm: lrl", Kind.ORDER, Form.PASSAGES, ("Sort the list PASSAGES by how good", "QUESTION: "), _LRL),
    Shape("rank_llm: apeer", Kind.ORDER, Form.NUMBERS, ("[querystart]", "[rankstart]", "identifiers"), _LABELLED),
    Shape(
        "llm-rankers: yes-no",
        Kind.GRADE,
        Form.WORDS,
        ("Does the passage answer the query?",),
        _parts(r"Passage: ", r"\s*Query: "),
        re.compile(r"Query: (.*?)\s*Does the passage answer", re.DOTALL),
        ("Yes", "No"),
    ),
    Shape("listwise, numbers", Kind.ORDER, Form.NUMBERS, ("[1] ", "[2] ", "rank"), _LABELLED),
    Shape("listwise, letters", Kind.ORDER, Form.LETTERS, ("[A] ", "[B] ", "rank"), _LABELLED),
)

_WANTED = re.compile(r"Answer with (\d+) different document numbers")
_COUNTED = re.compile(r"I will provide you with (\d+) passages")
_CONTINUES = "Please write a question based on this passage."


def is_probe(messages: Sequence[Said]) -> bool:
    """Tell whether this is Podium trying what an endpoint can do."""
    return bool(messages) and messages[0].content.startswith(PROBE)


def recognise(messages: Sequence[Said]) -> Seen:
    """Return what a conversation asks.

    Raises:
        UnknownPrompt: it is none of the prompts known here, or lacks a part of one.

    """
    begun = messages[-1].content if messages and messages[-1].role == "assistant" else ""
    text = "\n".join(message.content for message in (messages[:-1] if begun else messages))
    if _CONTINUES in text:
        raise UnknownPrompt("query likelihood is read from log-probabilities of the prompt, which this endpoint lacks")
    for shape in SHAPES:
        if all(part in text for part in shape.holds):
            return _filled(shape, text, begun)
    known = ", ".join(dict.fromkeys(shape.prompt for shape in SHAPES))
    raise UnknownPrompt(f"this is no prompt that the simulated judge knows; it knows {known}")


def _filled(shape: Shape, text: str, begun: str) -> Seen:
    documents = shape.documents.of(text)
    counted = _COUNTED.search(text) if shape.kind is Kind.ORDER else None
    expected = {Kind.PREFER: 2, Kind.GRADE: 1}.get(shape.kind, int(counted[1]) if counted else len(documents))
    if not documents or len(documents) != expected:
        raise UnknownPrompt(f"the prompt is like {shape.prompt} and shows {len(documents)} documents, not {expected}")
    asked = shape.query.search(text) if shape.query is not None else None
    wanted = _WANTED.search(text)
    top = min(int(wanted[1]), len(documents)) if wanted else len(documents)
    query = text if asked is None else asked[1]
    return Seen(shape.prompt, shape.kind, shape.form, query, documents, top, shape.words, begun)
