"""Servers as the command line sees them: their ledgers as ours."""

from __future__ import annotations

import podium_client
from podium_server.accounting.ledger import Account, Ledger
from podium_server.accounting.usage import CostBasis, Usage

_BASES = {basis.value: basis for basis in CostBasis}


def ledger_of(given: podium_client.Ledger | None) -> Ledger:
    """Return a server's ledger as the one that our tables and jobs know."""
    ledger = Ledger()
    if given is None:
        return ledger
    for stage in given.stages:
        ledger.open(
            Account(
                stage=stage.stage,
                strategy=stage.strategy,
                model=stage.model,
                revision=stage.revision,
                prompt_id=stage.prompt_id,
                price_table_version=stage.usage.price_table_version,
                candidates_in=stage.candidates_in,
                candidates_out=stage.candidates_out,
                questions=stage.usage.questions,
                rounds=stage.usage.rounds,
                wall_s=stage.usage.wall_time_s,
                critical_path_s=stage.usage.critical_path_s,
                usage=_usage_of(stage.usage),
            )
        )
    ledger.rounds = given.total.rounds
    ledger.critical_path_s = given.total.critical_path_s
    ledger.wall_s = given.total.wall_time_s
    return ledger


def _usage_of(usage: podium_client.Usage) -> Usage:
    replies = {
        name: amount
        for name in ("ok", "repetition", "missing", "wrong_format", "unreadable")
        if (amount := getattr(usage.replies, name))
    }
    return Usage(
        calls=usage.calls,
        retries=usage.retries,
        pairs=usage.pairs,
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_prompt_tokens,
        output_tokens=usage.output_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        cache_hits=usage.cache_hits,
        truncated_documents=usage.truncated_documents,
        queue_s=usage.queue_time_s,
        tokenize_s=usage.tokenize_time_s,
        backend_s=usage.backend_time_s,
        cost_nano_usd=usage.cost_nano_usd,
        cost_basis=_BASES.get(usage.cost_basis, CostBasis.UNKNOWN),
        repairs=replies,
    )
