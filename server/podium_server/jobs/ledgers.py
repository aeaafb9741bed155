"""Ledgers as data: what a job keeps of them, writes of them, and adds up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from podium_server.accounting.ledger import Account, Ledger
from podium_server.accounting.usage import CostBasis, Usage
from podium_strategies.prompts.prompt import Repair

_MALFORMED = frozenset(kind.value for kind in Repair) - {Repair.OK.value}


def malformed(usage: Usage) -> int:
    """Return how many replies lacked something that was asked for, or could not be read at all."""
    return sum(number for kind, number in usage.repairs.items() if kind in _MALFORMED)


def enter(whole: Ledger, part: Ledger) -> None:
    """Add one ledger to another, stage by stage. Depths do not add up: the deepest stands."""
    whole.rounds = max(whole.rounds, part.rounds)
    whole.wall_s += part.wall_s
    for account in part:
        sum_ = whole.open(
            Account(
                account.stage,
                account.strategy,
                account.model,
                account.revision,
                account.prompt_id,
                account.price_table_version,
            )
        )
        sum_.add(account.usage)
        sum_.questions += account.questions
        sum_.rounds = max(sum_.rounds, account.rounds)
        sum_.candidates_in += account.candidates_in
        sum_.candidates_out += account.candidates_out


def joined(parts: Iterable[Ledger]) -> Ledger:
    """Return the sum of many ledgers."""
    whole = Ledger()
    for part in parts:
        enter(whole, part)
    return whole


def usage_record(ledger: Ledger) -> dict[str, Any]:
    """Return what was used, for people: an unknown cost is left out, never 0; so are the counts of what never came."""
    return {
        "rounds": ledger.rounds,
        "questions": ledger.questions,
        **_amounts(ledger.total()),
        "wall_s": round(ledger.wall_s, 6),
    }


def stage_records(ledger: Ledger) -> list[dict[str, Any]]:
    """Return what each stage used, for people."""
    return [
        {
            "stage": account.stage,
            "strategy": account.strategy,
            **{
                name: value
                for name in ("model", "revision", "prompt_id", "price_table_version")
                if (value := getattr(account, name))
            },
            "candidates_in": account.candidates_in,
            "candidates_out": account.candidates_out,
            "rounds": account.rounds,
            "questions": account.questions,
            **_amounts(account.usage),
        }
        for account in ledger
    ]


def _amounts(usage: Usage) -> dict[str, Any]:
    repairs = {kind: count for kind, count in usage.repairs.items() if kind != Repair.OK.value and count}
    amounts: dict[str, Any] = {
        "calls": usage.calls,
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
        "output_tokens": usage.output_tokens,
    }
    if usage.cost_nano_usd is not None:
        amounts["cost_usd"] = usage.cost_nano_usd / 1e9
    counted = {
        "reasoning_tokens": usage.reasoning_tokens,
        "pairs": usage.pairs,
        "search_units": usage.search_units,
        "retries": usage.retries,
        "cache_hits": usage.cache_hits,
        "truncated_documents": usage.truncated_documents,
        "malformed_replies": malformed(usage),
    }
    amounts |= {name: count for name, count in counted.items() if count}
    if repairs:
        amounts["repairs"] = repairs
    amounts["backend_s"] = round(usage.backend_s, 6)
    return amounts


def as_data(ledger: Ledger) -> dict[str, Any]:
    """Return a ledger as JSON can keep it, to the last digit; `from_data` is its inverse."""
    return {
        "rounds": ledger.rounds,
        "critical_path_s": ledger.critical_path_s,
        "wall_s": ledger.wall_s,
        "accounts": [_account_data(account) for account in ledger],
    }


def _account_data(account: Account) -> dict[str, Any]:
    usage = account.usage
    plain = {name: getattr(account, name) for name in Account.__slots__ if name != "usage"}
    fields = {name: getattr(usage, name) for name in Usage.__slots__}
    return {**plain, "usage": {**fields, "cost_basis": usage.cost_basis.value, "repairs": dict(usage.repairs)}}


def from_data(data: Mapping[str, Any]) -> Ledger:
    """Return the ledger that `as_data` was given; an empty one of nothing."""
    ledger = Ledger(
        rounds=data.get("rounds", 0), critical_path_s=data.get("critical_path_s", 0.0), wall_s=data.get("wall_s", 0.0)
    )
    for account in data.get("accounts", ()):
        usage = Usage(**{**account["usage"], "cost_basis": CostBasis(account["usage"]["cost_basis"])})
        ledger.open(Account(**{**account, "usage": usage}))
    return ledger
