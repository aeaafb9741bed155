"""UMBRELA (arXiv 2406.06519): the open reproduction of Bing's assessor, grades 0 to 3 as text, in its own words."""

from __future__ import annotations

from dataclasses import dataclass

from podium_strategies.plan import Grade
from podium_strategies.prompts.prompt import Prompt, Reading, Sheet, Turn
from podium_strategies.prompts.reading import read_score
from podium_strategies.prompts.text import PASSAGE_LABELS


@dataclass(frozen=True, slots=True, kw_only=True)
class Umbrela(Prompt):
    """The zero-shot prompt with steps."""

    def render(self, sheet: Sheet) -> tuple[Turn, ...]:
        content = (
            "Given a query and a passage, you must provide a score on an integer scale of 0 to 3 with the following "
            "meanings:\n"
            "0 = represent that the passage has nothing to do with the query, \n"
            "1 = represents that the passage seems related to the query but does not answer it, \n"
            "2 = represents that the passage has some answer for the query, but the answer may be a bit unclear, or "
            "hidden amongst extraneous information and \n"
            "3 = represents that the passage is dedicated to the query and contains the exact answer.\n\n"
            "Important Instruction: Assign category 1 if the passage is somewhat related to the topic but not "
            "completely, category 2 if passage presents something very important related to the entire topic but also "
            "has some extra information and category 3 if the passage only and entirely refers to the topic. If none "
            "of the above satisfies give it category 0.\n\n"
            f"Query: {sheet.query}\n"
            f"Passage: {sheet.documents[0]}\n\n"
            "Split this problem into steps:\n"
            "Consider the underlying intent of the search.\n"
            "Measure how well the content matches a likely intent of the query (M).\n"
            "Measure how trustworthy the passage is (T).\n"
            "Consider the aspects above and the relative importance of each, and decide on a final score (O). Final "
            "score must be an integer value only.\n"
            "Do not provide any code in result. Provide each score in the format of: ##final score: score without "
            "providing any reasoning."
        )
        return (Turn("user", content),)

    def max_output_tokens(self, n: int, top: int | None = None) -> int:
        return 64

    def usual_output_tokens(self, n: int, top: int | None = None) -> int:
        return 7

    def read(self, reply: str, sheet: Sheet) -> Reading:
        return read_score(reply, 0, 3)


UMBRELA = Umbrela(name="umbrela", kind=Grade, score="grade", trained=True, marks=(PASSAGE_LABELS,))
