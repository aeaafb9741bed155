"""What a request cost, as a message."""

from __future__ import annotations

from collections.abc import Mapping

from podium.v1 import ledger_pb2
from podium_server.accounting.ledger import Account, Ledger
from podium_server.accounting.usage import CostBasis, Usage
from podium_server.transport.convert.values import duration

COST_BASES: dict[CostBasis, ledger_pb2.CostBasis.ValueType] = {
    CostBasis.NONE: ledger_pb2.COST_BASIS_FREE,
    CostBasis.PRICE_TABLE: ledger_pb2.COST_BASIS_PRICE_TABLE,
    CostBasis.PROVIDER: ledger_pb2.COST_BASIS_PROVIDER,
    CostBasis.COMPUTE_TIME: ledger_pb2.COST_BASIS_COMPUTE_TIME,
    CostBasis.MIXED: ledger_pb2.COST_BASIS_MIXED,
    CostBasis.UNKNOWN: ledger_pb2.COST_BASIS_UNKNOWN,
}
_REPLY_COUNTS = tuple(field.name for field in ledger_pb2.ReplyCounts.DESCRIPTOR.fields)


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
