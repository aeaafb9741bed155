"""RankGPT's conversation (arXiv 2304.09542): the passages come one a turn, and each is acknowledged.

The wording is that of the authors' code, mistakes included; published results and trained descendants depend on it.
"""

from __future__ import annotations

from dataclasses import dataclass

from podium_strategies.plan import Order
from podium_strategies.prompts.prompt import Constraint, Prompt, Reading, Sheet, Turn
from podium_strategies.prompts.reading import numbers_form, read_numbers
from podium_strategies.prompts.text import BRACKETED_NUMBERS

WORDS_PER_DOCUMENT = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class RankGpt(Prompt):
    """The multi-turn prompt.

    Args:
        assistant: who the model is told to be.
        example: of the form of an answer.

    """

    assistant: str = "RankGPT"
    example: str = "[1] > [2]"

    def words_per_document(self, n: int) -> int | None:
        return WORDS_PER_DOCUMENT

    def render(self, sheet: Sheet) -> tuple[Turn, ...]:
        n, query = sheet.n, sheet.query
        turns = [
            Turn(
                "system",
                f"You are {self.assistant}, an intelligent assistant that can rank passages based on their relevancy "
                "to the query.",
            ),
            Turn(
                "user",
                f"I will provide you with {n} passages, each indicated by number identifier []. \n"
                f"Rank the passages based on their relevance to query: {query}.",
            ),
            Turn("assistant", "Okay, please provide the passages."),
        ]
        for label, text in enumerate(sheet.documents, 1):
            turns.append(Turn("user", f"[{label}] {text}"))
            turns.append(Turn("assistant", f"Received passage [{label}]."))
        ending = (
            f"Search Query: {query}. \n"
            f"Rank the {n} passages above based on their relevance to the search query. The passages should be listed "
            "in descending order using identifiers. The most relevant passages should be listed first. The output "
            f"format should be [] > [], e.g., {self.example}. Only response the ranking results, do not say any word "
            "or explain."
        )
        turns.append(Turn("user", ending))
        return tuple(turns)

    def constraint(self, sheet: Sheet) -> Constraint | None:
        return Constraint(regex=numbers_form(sheet.n))

    def max_output_tokens(self, n: int, top: int | None = None) -> int:
        return 6 * n + 32

    def usual_output_tokens(self, n: int, top: int | None = None) -> int:
        return max(1, 5 * n - 2)

    def read(self, reply: str, sheet: Sheet) -> Reading:
        return read_numbers(reply, sheet.n, sheet.n)


RANK_GPT = RankGpt(name="rank-gpt", kind=Order, trained=True, drop="Title: Content: ", marks=(BRACKETED_NUMBERS,))
RANK_GPT_VICUNA = RankGpt(
    name="rank-gpt-vicuna",
    kind=Order,
    trained=True,
    drop="Title: Content: ",
    marks=(BRACKETED_NUMBERS,),
    assistant="Vicuna",
)
"""As an untrained Vicuna was asked for the comparison in RankVicuna's paper."""
