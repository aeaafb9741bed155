"""A span for each stage of a request, inside of which its judges work."""

from __future__ import annotations

from contextvars import Context
from dataclasses import dataclass, field

from podium_server.accounting.ledger import Account
from podium_server.telemetry import spans
from podium_server.telemetry.spans import Span, Value

_NANO = 1_000_000_000


@dataclass(slots=True)
class StageSpans:
    """The spans of one drive. Where nobody collects any, nothing is made."""

    outer: Span | None = field(default_factory=spans.current.get)
    _open: dict[str, tuple[Account, Span]] = field(default_factory=dict)

    def context(self, account: Account) -> Context | None:
        """Return the context in which a judge works for a stage; None is the present one."""
        if self.outer is None:
            return None
        found = self._open.get(account.stage)
        if found is None:
            begun = self.outer.child(
                f"stage {account.strategy}",
                "internal",
                {
                    "podium.stage": account.stage,
                    "podium.strategy": account.strategy,
                    "podium.model": account.model,
                    "podium.candidates": account.candidates_in,
                },
            )
            found = self._open[account.stage] = account, begun
        # Not the context of the moment: a round is often asked inside of the task that answered the one before.
        return spans.inside(found[1])

    def end(self) -> None:
        """End all, each at its last answer."""
        for account, span in self._open.values():
            usage = account.usage
            noted: dict[str, Value] = {
                "podium.questions": account.questions,
                "podium.rounds": account.rounds,
                "podium.calls": usage.calls,
                "podium.tokens": usage.tokens,
                "podium.cache_hits": usage.cache_hits,
            }
            if usage.cost_nano_usd is not None:
                noted["podium.cost_usd"] = usage.cost_nano_usd / _NANO
            span.note(noted)
            span.end(after_s=account.wall_s or None)
        self._open.clear()
