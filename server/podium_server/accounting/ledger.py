"""The ledger of one request: append-only, an account a stage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from podium_server.accounting.usage import Usage


@dataclass(slots=True)
class Account:
    """What one stage of one request did and used.

    Args:
        stage: its name in the pipeline; every question of the stage carries it as its role.
        strategy: the strategy's registered name, or `recall`.
        model: the configured model's name; empty where none is asked.
        revision: of the model, as the backend or its content tells.
        prompt_id: of the prompt, with its version; empty where there is none.
        price_table_version: of the prices applied.
        candidates_in: how many the stage was given.
        candidates_out: how many it passed on.

    """

    stage: str
    strategy: str
    model: str = ""
    revision: str = ""
    prompt_id: str = ""
    price_table_version: str = ""
    candidates_in: int = 0
    candidates_out: int = 0
    questions: int = 0
    rounds: int = 0
    wall_s: float = 0.0
    critical_path_s: float = 0.0
    usage: Usage = field(default_factory=Usage)

    def add(self, usage: Usage) -> None:
        """Enter usage. Nothing is ever taken out."""
        self.usage = self.usage + usage


@dataclass(slots=True)
class Ledger:
    """The accounts of one request, in the order in which its stages stand in the pipeline."""

    accounts: dict[str, Account] = field(default_factory=dict)
    rounds: int = 0
    """Length of the longest chain of rounds: what latency follows."""
    critical_path_s: float = 0.0
    """The longest chain of answers, in seconds of the backends that gave them."""
    wall_s: float = 0.0

    def open(self, account: Account) -> Account:
        """Add an account, or return the one of that stage that is open already."""
        return self.accounts.setdefault(account.stage, account)

    def __iter__(self) -> Iterator[Account]:
        return iter(self.accounts.values())

    @property
    def questions(self) -> int:
        """Questions answered or under way, all stages."""
        return sum(account.questions for account in self)

    @property
    def known_nano_usd(self) -> int:
        """What is known of the cost, which as a whole is unknown where one stage's is."""
        return sum(account.usage.cost_nano_usd or 0 for account in self)

    def total(self) -> Usage:
        """Return the sum over all stages."""
        total = Usage()
        for account in self:
            total = total + account.usage
        return total
