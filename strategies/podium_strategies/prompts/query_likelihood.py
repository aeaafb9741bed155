"""Query likelihood (arXiv 2204.07496): how likely is the query, as a question that the document gave rise to?"""

from __future__ import annotations

from dataclasses import dataclass

from podium_strategies.plan import Grade
from podium_strategies.prompts.prompt import Prompt, Reads, Sheet, Turn
from podium_strategies.prompts.text import PASSAGE_LABELS


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryLikelihood(Prompt):
    """The log-probability of the query as the model's reply."""

    def render(self, sheet: Sheet) -> tuple[Turn, ...]:
        content = f"Passage: {sheet.documents[0]}\nPlease write a question based on this passage."
        return (Turn("user", content),)

    def continuation(self, sheet: Sheet) -> str:
        return sheet.query


QUERY_LIKELIHOOD = QueryLikelihood(
    name="query-likelihood",
    kind=Grade,
    reads=Reads.CONTINUATION,
    score="log_likelihood",
    trained=True,
    marks=(PASSAGE_LABELS,),
)
