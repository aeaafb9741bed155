"""RankVicuna (arXiv 2309.15088), RankZephyr (arXiv 2312.02724) and FIRST (arXiv 2406.15657): one user turn.

They share a frame and differ in a few words, and a model knows only the words that it was trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from podium_strategies.plan import Order
from podium_strategies.prompts.prompt import Constraint, Prompt, Reading, Reads, Sheet, Turn
from podium_strategies.prompts.reading import LETTERS, numbers_form, read_numbers
from podium_strategies.prompts.text import BRACKETED_LETTERS, BRACKETED_NUMBERS

FASTCHAT_VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
RANK_LLM = "You are RankLLM, an intelligent assistant that can rank passages based on their relevancy to the query."
ONLY_RESPOND = "Only respond with the ranking results, do not say any word or explain."
CONCISELY = "Answer concisely and directly and only respond with the ranking results, do not say any word or explain."


@dataclass(frozen=True, slots=True, kw_only=True)
class RankVicuna(Prompt):
    """The single-turn prompt.

    Args:
        system: who the model is told to be.
        identifier: what a passage is told to be indicated by.
        example: of the form of an answer.
        ending: what the answer must be.
        prefill: the beginning of the answer.

    """

    system: str
    identifier: str = "a numerical identifier"
    example: str
    ending: str
    prefill: str = ""

    def words_per_document(self, n: int) -> int | None:
        # Fewer passages share the room that twenty of 300 words would take.
        return int(300 * 20 / max(1, n))

    def names(self, n: int) -> Sequence[str | int]:
        """Return the identifiers of `n` passages."""
        return LETTERS[:n] if self.reads is Reads.LABELS else range(1, n + 1)

    def render(self, sheet: Sheet) -> tuple[Turn, ...]:
        passages = "".join(
            f"[{name}] {text}\n" for name, text in zip(self.names(sheet.n), sheet.documents, strict=True)
        )
        content = (
            f"I will provide you with {sheet.n} passages, each indicated by {self.identifier} []. "
            f"Rank the passages based on their relevance to the search query: {sheet.query}.\n\n"
            f"{passages}"
            f"Search Query: {sheet.query}.\n"
            f"Rank the {sheet.n} passages above based on their relevance to the search query. All the passages should "
            "be included and listed using identifiers, in descending order of relevance. The output format should be "
            f"[] > [], e.g., {self.example}, {self.ending}"
        )
        turns = (Turn("system", self.system), Turn("user", content))
        return (*turns, Turn("assistant", self.prefill)) if self.prefill else turns

    def labels(self, n: int) -> tuple[str, ...]:
        return tuple(LETTERS[:n]) if self.reads is Reads.LABELS else ()

    def constraint(self, sheet: Sheet) -> Constraint | None:
        return None if self.reads is Reads.LABELS else Constraint(regex=numbers_form(sheet.n))

    def max_output_tokens(self, n: int, top: int | None = None) -> int:
        return 1 if self.reads is Reads.LABELS else 6 * n + 32

    def usual_output_tokens(self, n: int, top: int | None = None) -> int:
        return 1 if self.reads is Reads.LABELS else max(1, 5 * n - 2)

    def read(self, reply: str, sheet: Sheet) -> Reading:
        return read_numbers(reply, sheet.n, sheet.n)

    def weigh(self, logprobs: Sequence[float], n: int) -> tuple[int, ...]:
        # A stable sort: labels that the endpoint did not report share one bound, and stay as they were shown.
        return tuple(sorted(range(n), key=lambda place: -logprobs[place]))


RANK_VICUNA = RankVicuna(
    name="rank-vicuna",
    kind=Order,
    trained=True,
    clean="ftfy",
    drop="Title: Content: ",
    marks=(BRACKETED_NUMBERS,),
    system=FASTCHAT_VICUNA,
    example="[4] > [2]",
    # The blank at the end was there in training, before the one that the Vicuna template puts between turns.
    ending=ONLY_RESPOND + " ",
)
RANK_VICUNA_EARLY = RankVicuna(
    name="rank-vicuna-early",
    kind=Order,
    trained=True,
    drop="Title: Content: ",
    marks=(BRACKETED_NUMBERS,),
    system="You are RankVicuna, an intelligent assistant that can rank passages based on their relevancy to the query.",
    example="[4] > [2]",
    ending=ONLY_RESPOND,
)
"""An earlier checkpoint's: another system text, passages not cleaned."""
RANK_ZEPHYR = RankVicuna(
    name="rank-zephyr",
    kind=Order,
    trained=True,
    clean="ftfy",
    drop="Title: Content: ",
    marks=(BRACKETED_NUMBERS,),
    system=RANK_LLM,
    example="[2] > [1]",
    ending=ONLY_RESPOND,
)
RANK_ZEPHYR_2 = RankVicuna(
    name="rank-zephyr",
    version=2,
    kind=Order,
    trained=True,
    clean="ftfy",
    drop="Title: Content: ",
    marks=(BRACKETED_NUMBERS,),
    system=RANK_LLM,
    example="[2] > [1]",
    ending=CONCISELY,
)
"""The wording into which rank_llm drifted later."""
FIRST = RankVicuna(
    name="first",
    kind=Order,
    reads=Reads.LABELS,
    trained=True,
    clean="ftfy",
    drop="Title: Content: ",
    marks=(BRACKETED_LETTERS,),
    max_documents=len(LETTERS),
    system=RANK_LLM,
    # The article is the authors'.
    identifier="a alphabetical identifier",
    example="[B] > [A]",
    ending=ONLY_RESPOND,
    prefill="[",
)
