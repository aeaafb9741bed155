"""What stands around every request that is ranked: alone, of a batch, after a recall, or compared."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeAlias

from podium_server.accounting.ledger import Ledger
from podium_server.ranking.request import Outcome, RankRequest


@dataclass(slots=True)
class Work:
    """One request at work.

    Args:
        request: as it was read.
        pipeline: the name of the one that ranks it; empty for one that came with the request.
        ledger: grows while the request runs, and is whole on the way out, whatever the way was.
        outcome: None until there is one.

    """

    request: RankRequest
    pipeline: str
    ledger: Ledger
    outcome: Outcome | None = None


for_the_house: ContextVar[bool] = ContextVar("for_the_house", default=False)
"""Set where the server ranks on its own account, as in the shadow: nobody's rights and nobody's quota count there."""

Guard: TypeAlias = Callable[[Work], AbstractAsyncContextManager[object]]
"""Stands around a request. It refuses by raising one of our errors on the way in, and sees every error on the way out;
nothing was asked of a model before it has let the request in."""
