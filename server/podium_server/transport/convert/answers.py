"""What the ranking found, as messages of the contract.

The loop over documents is written for speed: a hundred documents go in well under half a millisecond.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from podium.v1 import ranking_pb2, rerank_service_pb2, strategy_pb2
from podium_server.judges.case import Candidate
from podium_server.judges.judge import ScoreKind
from podium_server.ranking.request import (
    Completion,
    Explain,
    Outcome,
    Provenance,
    RankRequest,
    Snapshot,
    TracedQuestion,
    TracedRound,
    Warned,
)
from podium_server.transport.convert import reasons
from podium_server.transport.convert.ledgers import ledger, replies, usage
from podium_server.transport.convert.values import duration
from podium_strategies.plan import Grade, Liken, Order, Pick, Prefer, Question

_WARNED_DOCUMENTS_MAX = 100
_TRACED_QUESTIONS_MAX = 10_000

SCORE_KINDS: dict[ScoreKind, ranking_pb2.ScoreKind.ValueType] = {
    ScoreKind.NONE: ranking_pb2.SCORE_KIND_NONE,
    ScoreKind.COSINE: ranking_pb2.SCORE_KIND_COSINE,
    ScoreKind.MAXSIM: ranking_pb2.SCORE_KIND_MAXSIM,
    ScoreKind.LOGIT: ranking_pb2.SCORE_KIND_LOGIT,
    ScoreKind.PROBABILITY: ranking_pb2.SCORE_KIND_PROBABILITY,
    # What a model says of itself, on an open scale, as a logit is.
    ScoreKind.LOG_LIKELIHOOD: ranking_pb2.SCORE_KIND_LOGIT,
    ScoreKind.GRADE: ranking_pb2.SCORE_KIND_GRADE,
    ScoreKind.FUSED: ranking_pb2.SCORE_KIND_FUSED,
    ScoreKind.POINTS: ranking_pb2.SCORE_KIND_POINTS,
    ScoreKind.PRIOR: ranking_pb2.SCORE_KIND_PRIOR,
    ScoreKind.MARGINAL: ranking_pb2.SCORE_KIND_MARGINAL,
}
PROVENANCES: dict[Provenance, ranking_pb2.Provenance.ValueType] = {
    Provenance.SCORED: ranking_pb2.PROVENANCE_SCORED,
    Provenance.CARRIED_OVER: ranking_pb2.PROVENANCE_CARRIED_OVER,
    Provenance.REPAIRED: ranking_pb2.PROVENANCE_REPAIRED,
}
COMPLETIONS: dict[Completion, ranking_pb2.Completion.ValueType] = {
    Completion.COMPLETE: ranking_pb2.COMPLETION_COMPLETE,
    Completion.PARTIAL_DEADLINE: ranking_pb2.COMPLETION_PARTIAL_DEADLINE,
    Completion.PARTIAL_BUDGET: ranking_pb2.COMPLETION_PARTIAL_BUDGET,
    Completion.PARTIAL_BACKEND: ranking_pb2.COMPLETION_PARTIAL_BACKEND,
}
QUESTION_KINDS: dict[type[Question[Any]], strategy_pb2.QuestionKind.ValueType] = {
    Grade: strategy_pb2.QUESTION_KIND_GRADE,
    Prefer: strategy_pb2.QUESTION_KIND_PREFER,
    Pick: strategy_pb2.QUESTION_KIND_PICK,
    Order: strategy_pb2.QUESTION_KIND_ORDER,
    Liken: strategy_pb2.QUESTION_KIND_LIKEN,
}
WARNING_CODES: dict[str, ranking_pb2.WarningCode.ValueType] = {
    name.removeprefix("WARNING_CODE_"): number for name, number in ranking_pb2.WarningCode.items()
}


def rerank_response(outcome: Outcome, request: RankRequest, top: int | None) -> rerank_service_pb2.RerankResponse:
    """Return the answer to a rerank."""
    response = rerank_service_pb2.RerankResponse(
        completion=COMPLETIONS[outcome.completion],
        ledger=ledger(outcome.ledger),
        warnings=warnings(outcome.warnings, request.candidates) if outcome.warnings else None,
        pipeline=outcome.pipeline,
        partial_reason=reasons.of_partial(outcome.cause_reason),
    )
    rank_into(response.ranking.add, outcome, request.candidates, top)
    if request.explain is not Explain.NONE:
        response.trace.CopyFrom(trace(outcome.trace))
    return response


def rank_into(add: Any, outcome: Outcome, candidates: Sequence[Candidate], top: int | None) -> None:
    """Write the best of an order, one `RankedDocument` each."""
    scores = outcome.scores
    scored, unscored = SCORE_KINDS[outcome.score_kind], ranking_pb2.SCORE_KIND_NONE
    came = _provenances(outcome.provenance)
    # Setting fields of a message that is there is twice as fast as giving them to a new one.
    for rank, place in enumerate(outcome.order[:top], start=1):
        ranked = add()
        ranked.document_id = candidates[place].id
        ranked.input_index = place
        ranked.rank = rank
        score = scores[place]
        if score is None:
            ranked.score_kind = unscored
        else:
            ranked.score = score
            ranked.score_kind = scored
        ranked.provenance = came[place]


def _provenances(given: Sequence[Provenance]) -> list[ranking_pb2.Provenance.ValueType]:
    # Members of an enum are slow keys: Python computes their hash anew each time.
    carried_over = ranking_pb2.PROVENANCE_CARRIED_OVER
    return [carried_over if kind is Provenance.CARRIED_OVER else PROVENANCES[kind] for kind in given]


def snapshot(given: Snapshot) -> rerank_service_pb2.RankingSnapshot:
    """Return an order on the way."""
    return rerank_service_pb2.RankingSnapshot(
        order=given.order,
        stage=given.stage,
        round=given.round,
        usage=usage(given.usage),
        elapsed=duration(given.elapsed_s),
    )


def warnings(given: Iterable[Warned], candidates: Sequence[Candidate]) -> list[ranking_pb2.Warning]:
    """Return warnings, one of each code."""
    by_code: dict[str, list[Warned]] = {}
    for warned in given:
        by_code.setdefault(warned.code, []).append(warned)
    return [_warning(code, same, candidates) for code, same in by_code.items()]


def _warning(code: str, same: Sequence[Warned], candidates: Sequence[Candidate]) -> ranking_pb2.Warning:
    places = [place for warned in same for place in warned.places]
    shown = places[:_WARNED_DOCUMENTS_MAX]
    return ranking_pb2.Warning(
        code=WARNING_CODES.get(code, ranking_pb2.WARNING_CODE_UNSPECIFIED),
        message="; ".join(warned.message for warned in same),
        documents=len(places),
        document_ids=[candidates[place].id for place in shown if candidates[place].id],
        input_indexes=shown,
    )


def trace(rounds: Sequence[TracedRound]) -> ranking_pb2.Trace:
    """Return the way to an order, in the order in which its rounds ended."""
    message = ranking_pb2.Trace()
    left = _TRACED_QUESTIONS_MAX
    for traced in sorted(rounds, key=lambda one: one.elapsed_s or float("inf")):
        shown = traced.questions[:left]
        left -= len(shown)
        message.dropped_questions += len(traced.questions) - len(shown)
        message.rounds.add(
            stage=traced.stage,
            round=traced.round,
            question_count=traced.question_count,
            questions=[_traced_question(question) for question in shown],
            so_far=traced.so_far,
            elapsed=duration(traced.elapsed_s),
        )
    return message


def _traced_question(traced: TracedQuestion) -> ranking_pb2.TraceQuestion:
    question = traced.question
    message = ranking_pb2.TraceQuestion(
        kind=QUESTION_KINDS[type(question)], items=question.items, role=question.role, model=traced.model
    )
    if traced.ruling is None:
        return message
    answer = traced.ruling.answer
    match question:
        case Grade():
            message.grade = answer
        case Prefer():
            message.preference = answer
        case Pick():
            message.pick = answer
        case Order():
            message.order.items.extend(answer)
        case Liken():
            message.similarities.values.extend(answer)
    if traced.ruling.usage.repairs:
        message.replies.CopyFrom(replies(traced.ruling.usage.repairs))
    return message
