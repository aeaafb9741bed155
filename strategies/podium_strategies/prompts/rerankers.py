"""Models trained to rerank by the probability of one word: Qwen3-Reranker, bge-reranker-v2-gemma, mxbai-rerank-v2, T5s.

Without its own template the scores of such a model are near random, so the bytes are the authors'.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp

from podium_strategies.plan import Grade, Prefer
from podium_strategies.prompts.prompt import Prompt, Reads, Sheet, Turn
from podium_strategies.prompts.reading import softmax


@dataclass(frozen=True, slots=True, kw_only=True)
class OneWord(Prompt):
    """The probability of the first of some words.

    Args:
        words: whose log-probabilities are read.
        among_all: the probability is the word's among all tokens; else among `words`.

    """

    words: tuple[str, ...]
    among_all: bool = False

    def labels(self, n: int) -> tuple[str, ...]:
        return self.words

    def weigh(self, logprobs: Sequence[float], n: int) -> float:
        return exp(logprobs[0]) if self.among_all else softmax(logprobs)[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Qwen3Reranker(OneWord):
    """Qwen3-Reranker (arXiv 2506.05176): the assistant's turn begins with an empty think block."""

    default_instruction: str = "Given a web search query, retrieve relevant passages that answer the query"

    def render(self, sheet: Sheet) -> tuple[Turn, ...]:
        return (
            Turn(
                "system",
                "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
                'Note that the answer can only be "yes" or "no".',
            ),
            Turn(
                "user",
                f"<Instruct>: {sheet.instruction or self.default_instruction}\n"
                f"<Query>: {sheet.query}\n"
                f"<Document>: {sheet.documents[0]}",
            ),
            Turn("assistant", "<think>\n\n</think>\n\n"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BgeRerankerGemma(OneWord):
    """bge-reranker-v2-gemma (arXiv 2402.03216).

    The model's score is the logit of `Yes`; what an endpoint gives is its log-probability, which is that less a
    constant of the prompt. No chat template belongs around this text: serve the model with one that passes it through.
    """

    def render(self, sheet: Sheet) -> tuple[Turn, ...]:
        content = (
            f"A: {sheet.query}\nB: {sheet.documents[0]}\n"
            "Given a query A and a passage B, determine whether the passage contains an answer to the query by "
            "providing a prediction of either 'Yes' or 'No'."
        )
        return (Turn("user", content),)


@dataclass(frozen=True, slots=True, kw_only=True)
class MxbaiRerankV2(OneWord):
    """mxbai-rerank-base-v2 and -large-v2 (package `mxbai-rerank` 0.1.6): Qwen2.5, asked for a 1 or a 0."""

    def render(self, sheet: Sheet) -> tuple[Turn, ...]:
        instruction = f"instruction: {sheet.instruction}\n" if sheet.instruction else ""
        return (
            Turn("system", "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."),
            Turn(
                "user",
                f"{instruction}query: {sheet.query}\n"
                f"document: {sheet.documents[0]}\n"
                "You are a search relevance expert who evaluates how well documents match search queries. For each "
                "query-document pair, carefully analyze the semantic relationship between them, then provide your "
                "binary relevance judgment (0 for not relevant, 1 for relevant).\nRelevance:",
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MonoT5(OneWord):
    """monoT5 (arXiv 2003.06713)."""

    def render(self, sheet: Sheet) -> tuple[Turn, ...]:
        return (Turn("user", f"Query: {sheet.query} Document: {sheet.documents[0]} Relevant:"),)


@dataclass(frozen=True, slots=True, kw_only=True)
class DuoT5(OneWord):
    """duoT5 (arXiv 2101.05667): the probability that Document0 is the more relevant one."""

    def render(self, sheet: Sheet) -> tuple[Turn, ...]:
        first, second = sheet.documents
        return (Turn("user", f"Query: {sheet.query} Document0: {first} Document1: {second} Relevant:"),)


T5_LABELS = (re.compile(r"\b(Query|Document[01]?|Relevant):"), r"\1")

QWEN3_RERANKER = Qwen3Reranker(
    name="qwen3-reranker",
    kind=Grade,
    reads=Reads.LABELS,
    score="probability",
    trained=True,
    takes_instruction=True,
    flat=False,
    marks=((re.compile(r"<(Instruct|Query|Document)>:"), r"(\1):"),),
    words=("yes", "no"),
)
BGE_RERANKER_V2_GEMMA = BgeRerankerGemma(
    name="bge-reranker-v2-gemma",
    kind=Grade,
    reads=Reads.LABELS,
    score="probability",
    trained=True,
    flat=False,
    marks=((re.compile(r"^([AB]):", re.MULTILINE), r"(\1)"),),
    words=("Yes",),
    among_all=True,
)
MXBAI_RERANK_V2 = MxbaiRerankV2(
    name="mxbai-rerank-v2",
    kind=Grade,
    reads=Reads.LABELS,
    score="probability",
    trained=True,
    takes_instruction=True,
    flat=False,
    marks=((re.compile(r"^(instruction|query|document):", re.MULTILINE), r"(\1):"),),
    words=("1", "0"),
)
MONO_T5 = MonoT5(
    name="mono-t5",
    kind=Grade,
    reads=Reads.LABELS,
    score="probability",
    trained=True,
    marks=(T5_LABELS,),
    words=("true", "false"),
)
DUO_T5 = DuoT5(
    name="duo-t5", kind=Prefer, reads=Reads.LABELS, trained=True, marks=(T5_LABELS,), words=("true", "false")
)
