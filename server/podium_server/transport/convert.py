"""Between the messages of the contract and what the server works with. Values are judged in `validate`, not here.

The loops over documents are written for speed: a hundred documents come and go in well under half a millisecond.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import ListValue, Struct, Value

from podium.v1 import (
    budget_pb2,
    document_pb2,
    ledger_pb2,
    ranking_pb2,
    rerank_service_pb2,
    strategy_pb2,
)
from podium_server import validate
from podium_server.accounting.ledger import Account, Ledger
from podium_server.accounting.usage import CostBasis, Usage
from podium_server.errors import InvalidRequest, NotFound
from podium_server.judges.case import Candidate, Side, Truncation
from podium_server.judges.judge import ScoreKind
from podium_server.limits import Limits
from podium_server.ranking.request import (
    Budget,
    Caller,
    Completion,
    Explain,
    OnExhausted,
    Outcome,
    Provenance,
    RankRequest,
    Snapshot,
    TracedQuestion,
    TracedRound,
    Warned,
)
from podium_strategies import prompts
from podium_strategies.plan import Grade, Liken, Order, Pick, Prefer, Question

if TYPE_CHECKING:
    from podium_server.transport.door import Call

_NANOS = 1_000_000_000
_WARNED_DOCUMENTS_MAX = 100
_TRACED_QUESTIONS_MAX = 10_000
_FIELDS_MAX = 32
_FIELD_NAME_BYTES_MAX = 64
_STAGES_MAX = 16
# What a person writes for a pipeline has a kilobyte or two.
_INLINE_BYTES_MAX = 64 * 1024

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
COST_BASES: dict[CostBasis, ledger_pb2.CostBasis.ValueType] = {
    CostBasis.NONE: ledger_pb2.COST_BASIS_FREE,
    CostBasis.PRICE_TABLE: ledger_pb2.COST_BASIS_PRICE_TABLE,
    CostBasis.PROVIDER: ledger_pb2.COST_BASIS_PROVIDER,
    CostBasis.COMPUTE_TIME: ledger_pb2.COST_BASIS_COMPUTE_TIME,
    CostBasis.MIXED: ledger_pb2.COST_BASIS_MIXED,
    CostBasis.UNKNOWN: ledger_pb2.COST_BASIS_UNKNOWN,
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
_ON_EXHAUSTED = {0: OnExhausted.PARTIAL, 1: OnExhausted.PARTIAL, 2: OnExhausted.FAIL}
_SIDES = {0: Side.END, 1: Side.END, 2: Side.START}
_EXPLAIN = {0: Explain.NONE, 1: Explain.NONE, 2: Explain.ROUNDS, 3: Explain.QUESTIONS}
_REPLY_COUNTS = tuple(field.name for field in ledger_pb2.ReplyCounts.DESCRIPTOR.fields)


# --- requests ---------------------------------------------------------------------------------------------------


class Ranked(Protocol):
    """What a rerank and a search have in common: all but where the candidates come from."""

    @property
    def pipeline(self) -> str: ...
    @property
    def inline(self) -> strategy_pb2.InlinePipeline: ...
    @property
    def instruction(self) -> str: ...
    @property
    def budget(self) -> budget_pb2.Budget: ...
    @property
    def truncation(self) -> strategy_pb2.Truncation: ...
    @property
    def seed(self) -> int: ...
    @property
    def explain(self) -> strategy_pb2.ExplainLevel.ValueType: ...


def rank_request(
    message: rerank_service_pb2.RerankRequest, limits: Limits
) -> tuple[RankRequest, tuple[Warned, ...], int | None]:
    """Return a request as the server works with it, what was mended in it, and how many of the best to answer with.

    Raises:
        InvalidRequest: with the path of the field.

    """
    query = validate.query(message.query, limits)
    top = top_n(message)
    candidates, warnings = validate.columns(*_columns(message.documents), limits)
    return ranked_request(message, query, candidates, limits), warnings, top


def ranked_request(
    message: rerank_service_pb2.RerankRequest | Any, query: str, candidates: tuple[Candidate, ...], limits: Limits
) -> RankRequest:
    """Return the request over candidates that are known already (or are not known yet, in a search)."""
    return RankRequest(
        query=query,
        candidates=candidates,
        pipeline=name(message.pipeline, limits),
        inline=inline(message.inline) if message.HasField("inline") else None,
        instruction=validate.instruction(message.instruction, limits) if message.instruction else "",
        budget=budget(message.budget) if message.HasField("budget") else _UNBOUNDED,
        truncation=truncation(message.truncation) if message.HasField("truncation") else _UNCUT,
        seed=message.seed,
        explain=explained(message),
    )


def explained(message: Ranked) -> Explain:
    """Return how much an answer shall tell."""
    explain: Explain = _known("explain", _EXPLAIN, message.explain)
    return explain


def live(request: RankRequest, call: Call, item_id: str = "") -> RankRequest:
    """Return the request as one that a caller waits for, so that it takes part in experiments."""
    name = f"{call.request_id}/{item_id}" if item_id else call.request_id
    return replace(request, caller=Caller(name, call.metadata))


def within_collection(request: RankRequest, collection: str) -> RankRequest:
    """Return the request over whatever a collection will bring."""
    return replace(request, collection=collection)


_UNBOUNDED = Budget()
_UNCUT = Truncation()


def top_n(message: Any) -> int | None:
    """Return how many of the best a request wants; None for all."""
    return validate.top_n(message.top_n) if message.HasField("top_n") else None


def name(given: str, limits: Limits) -> str:
    """Return the name of something of ours. Nothing has one that is longer than an id, so the rest is left out."""
    return given if len(given) <= limits.id_bytes else f"{given[:64]}…"


def _columns(messages: Sequence[document_pb2.Document]) -> tuple[list[str], list[str], list[float | None]]:
    """Return the ids, the texts (fields joined) and the prior scores of documents."""
    # Every look at the list makes a new object of each message that nobody holds.
    held = list(messages)
    ids = [message.id for message in held]
    texts = [message.text for message in held]
    prior_scores = [message.prior_score if message.HasField("prior_score") else None for message in held]
    if not all(texts):
        texts = [text(message, f"documents[{place}]") for place, message in enumerate(held)]
    return ids, texts, prior_scores


def text(message: document_pb2.Document, where: str) -> str:
    """Return the text of a document: its own, or its fields joined by a line feed each."""
    return "\n".join(part for _, part in fields(message, where)) if message.HasField("fields") else message.text


def fields(message: document_pb2.Document, where: str) -> tuple[tuple[str, str], ...]:
    """Return the fields of a document in their order, as name and text.

    Raises:
        InvalidRequest: too many, a name that is empty, too long or there twice.

    """
    parts = tuple((part.name, part.text) for part in message.fields.fields)
    if len(parts) > _FIELDS_MAX:
        raise InvalidRequest(f"{where}.fields", f"are {len(parts)}; at most {_FIELDS_MAX}. Join some of them")
    seen: set[str] = set()
    for place, (part, _) in enumerate(parts):
        path = f"{where}.fields.fields[{place}].name"
        size = len(part.encode())
        if not 1 <= size <= _FIELD_NAME_BYTES_MAX:
            raise InvalidRequest(path, f"has {size} bytes; 1 to {_FIELD_NAME_BYTES_MAX}")
        if part in seen:
            raise InvalidRequest(path, f"{part!r} is there twice; each name once a document")
        seen.add(part)
    return parts


def budget(message: budget_pb2.Budget, where: str = "budget") -> Budget:
    """Return what a request may spend."""

    def bound(field: str) -> int | None:
        given = getattr(message, field) if message.HasField(field) else None  # type: ignore[arg-type]  # our own names
        return validate.amount(given, field=f"{where}.{field}")

    soft_deadline_s = seconds(message.soft_deadline) if message.HasField("soft_deadline") else None
    return Budget(
        soft_deadline_s=validate.duration(soft_deadline_s, field=f"{where}.soft_deadline"),
        max_cost_nano_usd=bound("max_cost_nano_usd"),
        max_calls=bound("max_calls"),
        max_tokens=bound("max_tokens"),
        on_exhausted=_known(f"{where}.on_exhausted", _ON_EXHAUSTED, message.on_exhausted),
    )


def truncation(message: strategy_pb2.Truncation) -> Truncation:
    """Return how documents are cut."""
    tokens = message.max_tokens_per_document if message.HasField("max_tokens_per_document") else None
    if tokens is not None and tokens < 1:
        raise InvalidRequest(
            "truncation.max_tokens_per_document", f"is {tokens}; at least 1, or unset for what the model reads"
        )
    return Truncation(tokens, _known("truncation.side", _SIDES, message.side))


def inline(message: strategy_pb2.InlinePipeline, where: str = "inline") -> tuple[Mapping[str, Any], ...]:
    """Return the stages of an inline pipeline as a configuration file writes them."""
    if not 1 <= len(message.stages) <= _STAGES_MAX:
        raise InvalidRequest(f"{where}.stages", f"are {len(message.stages)}; 1 to {_STAGES_MAX}")
    if message.ByteSize() > _INLINE_BYTES_MAX:
        raise InvalidRequest(where, f"has {message.ByteSize():,} bytes; at most {_INLINE_BYTES_MAX:,}")
    return tuple(_inline_stage(stage, f"{where}.stages[{place}]") for place, stage in enumerate(message.stages))


def _inline_stage(message: strategy_pb2.InlineStrategy, where: str) -> dict[str, Any]:
    if not message.strategy:
        raise InvalidRequest(f"{where}.strategy", "is empty; CatalogService.ListStrategies names those there are")
    stage: dict[str, Any] = {"strategy": message.strategy}
    if message.model:
        stage["model"] = message.model
    if message.prompt:
        stage["prompt"] = message.prompt
    if message.HasField("keep"):
        if message.keep < 1:
            raise InvalidRequest(f"{where}.keep", f"is {message.keep}; at least 1, or unset for all")
        stage["keep"] = message.keep
    for key, value in struct(message.options).items():
        if key in ("strategy", "model", "prompt", "keep"):
            raise InvalidRequest(f"{where}.options.{key}", f"is no option of a strategy; set {where}.{key}")
        stage[key] = value
    _refuse_files(stage)
    return stage


def _refuse_files(given: Any) -> None:
    """Refuse prompts by path, at any depth: a configuration may name files of the server, a caller may not."""
    match given:
        case dict():
            prompt = given.get("prompt")
            if isinstance(prompt, str) and prompt.endswith(".toml"):
                raise NotFound("prompt", prompt, prompts.names())
            for entry in given.values():
                _refuse_files(entry)
        case list():
            for entry in given:
                _refuse_files(entry)


def struct(message: Struct) -> dict[str, Any]:
    """Return a structure as Python has it. Numbers without a fraction come as whole ones: JSON knows no others."""
    return {key: value(entry) for key, entry in message.fields.items()}


def value(message: Value) -> Any:
    """Return one value of a structure; see `struct`."""
    match message.WhichOneof("kind"):
        case "number_value":
            number = message.number_value
            return int(number) if number.is_integer() else number
        case "string_value":
            return message.string_value
        case "bool_value":
            return message.bool_value
        case "struct_value":
            return struct(message.struct_value)
        case "list_value":
            return [value(entry) for entry in message.list_value.values]
        case _:
            return None


def to_value(given: Any) -> Value:
    """Return a value of JSON's kinds as a message; whatever else there is, as its text."""
    match given:
        case None:
            return Value(null_value=0)  # type: ignore[arg-type]  # NULL_VALUE, the only one
        case bool():
            return Value(bool_value=given)
        case int() | float():
            return Value(number_value=given)
        case str():
            return Value(string_value=given)
        case Mapping():
            return Value(struct_value=to_struct(given))
        case Sequence() | set() | frozenset():
            return Value(list_value=ListValue(values=[to_value(entry) for entry in given]))
        case _:
            return Value(string_value=str(given))


def to_struct(given: Mapping[str, Any]) -> Struct:
    """Return a mapping as a message."""
    return Struct(fields={str(key): to_value(entry) for key, entry in given.items()})


def seconds(message: Duration) -> float:
    """Return a duration in seconds."""
    return message.seconds + message.nanos / _NANOS


def duration(time_s: float) -> Duration:
    """Return seconds as a duration."""
    whole, nanos = divmod(round(time_s * _NANOS), _NANOS)
    return Duration(seconds=whole, nanos=nanos)


def _known(field: str, table: Mapping[int, Any], number: int) -> Any:
    try:
        return table[number]
    except KeyError:
        raise InvalidRequest(field, f"is {number}, which stands for nothing") from None


# --- answers ----------------------------------------------------------------------------------------------------


def rerank_response(outcome: Outcome, request: RankRequest, top: int | None) -> rerank_service_pb2.RerankResponse:
    """Return the answer to a rerank."""
    response = rerank_service_pb2.RerankResponse(
        completion=COMPLETIONS[outcome.completion],
        ledger=ledger(outcome.ledger),
        warnings=warnings(outcome.warnings, request.candidates) if outcome.warnings else None,
        pipeline=outcome.pipeline,
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


def ledger(given: Ledger) -> ledger_pb2.Ledger:
    """Return what a request cost. The depth of the whole plan is known to the ledger alone: stages may overlap."""
    accounts = list(given)
    total = usage(
        given.total() if len(accounts) != 1 else accounts[0].usage,
        questions=given.questions,
        rounds=given.rounds,
        critical_path_s=given.critical_path_s,
        wall_s=given.wall_s,
        version=",".join(sorted({a.price_table_version for a in accounts if a.price_table_version and a.usage.calls})),
    )
    return ledger_pb2.Ledger(total=total, stages=[_stage(account) for account in accounts])


def _stage(account: Account) -> ledger_pb2.StageUsage:
    return ledger_pb2.StageUsage(
        stage=account.stage,
        strategy=account.strategy,
        model=account.model,
        revision=account.revision,
        prompt_id=account.prompt_id,
        candidates_in=account.candidates_in,
        candidates_out=account.candidates_out,
        usage=usage(
            account.usage,
            questions=account.questions,
            rounds=account.rounds,
            critical_path_s=account.critical_path_s,
            wall_s=account.wall_s,
            version=account.price_table_version if account.usage.calls else "",
        ),
    )


_COUNTS = (
    ("calls", "calls"),
    ("retries", "retries"),
    ("prompt_tokens", "prompt_tokens"),
    ("cached_prompt_tokens", "cached_tokens"),
    ("output_tokens", "output_tokens"),
    ("reasoning_tokens", "reasoning_tokens"),
    ("pairs", "pairs"),
    ("cache_hits", "cache_hits"),
    ("truncated_documents", "truncated_documents"),
)


def usage(
    given: Usage,
    *,
    questions: int = 0,
    rounds: int = 0,
    critical_path_s: float = 0.0,
    wall_s: float = 0.0,
    version: str = "",
) -> ledger_pb2.Usage:
    """Return an amount of work, time and money."""
    message = ledger_pb2.Usage(
        questions=questions,
        rounds=rounds,
        cost_nano_usd=given.cost_nano_usd,
        cost_basis=COST_BASES[given.cost_basis] if given.cost_nano_usd is not None else ledger_pb2.COST_BASIS_UNKNOWN,
        price_table_version=version,
    )
    for wire, ours in _COUNTS:
        if amount := getattr(given, ours):
            setattr(message, wire, amount)
    for target, time_s in (
        ("queue_time", given.queue_s),
        ("tokenize_time", given.tokenize_s),
        ("backend_time", given.backend_s),
        ("critical_path", critical_path_s),
        ("wall_time", wall_s),
    ):
        if time_s:
            getattr(message, target).CopyFrom(duration(time_s))
    if given.repairs:
        message.replies.CopyFrom(replies(given.repairs))
    return message


def replies(repairs: Mapping[str, int]) -> ledger_pb2.ReplyCounts:
    """Return what replies looked like. What the contract does not count is told of otherwise, by a warning."""
    return ledger_pb2.ReplyCounts(**{kind: repairs[kind] for kind in _REPLY_COUNTS if kind in repairs})


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
