"""How things look: consoles, numbers, and the ledger as a table."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TextIO

from rich import box
from rich.console import Console
from rich.table import Table

from podium_server.accounting.ledger import Account, Ledger
from podium_server.accounting.usage import Usage
from podium_server.jobs.tally import malformed

# Where nobody says how wide the paper is (a file, a pipe, a log of CI).
PLAIN_WIDTH = 100
NANO_PER_USD = 1e9


def stdout() -> Console:
    """Return the console for results."""
    return _console(sys.stdout)


def stderr() -> Console:
    """Return the console for progress and remarks."""
    return _console(sys.stderr)


def _console(stream: TextIO) -> Console:
    return Console(file=stream, width=None if stream.isatty() else PLAIN_WIDTH, highlight=False, emoji=False)


def count(number: float) -> str:
    """Return a number with separators: `1,234`, or `12.5` where it is an average."""
    return f"{number:,.0f}" if float(number).is_integer() else f"{number:,.1f}"


def short(number: int) -> str:
    """Return a number in a few characters: `842`, `12.3k`, `4.5M`."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e4)):
        if number >= size:
            return f"{number / (1e3 if unit == 'k' else size):.1f}{unit}"
    return f"{number:,}"


def money(cost_nano_usd: int | None) -> str:
    """Return an amount of money; a small one in billionths of a dollar, an unknown one as a word."""
    if cost_nano_usd is None:
        return "unknown"
    if cost_nano_usd == 0:
        return "$0"
    if cost_nano_usd < NANO_PER_USD / 10_000:
        return f"{cost_nano_usd:,} n$"
    usd = cost_nano_usd / NANO_PER_USD
    return f"${usd:,.2f}" if usd >= 1 else f"${usd:.4f}"


def seconds(value: float) -> str:
    """Return a time in a few characters: `0.4 ms`, `42 ms`, `1.25 s`, `2 min 05 s`."""
    if value < 0.01:
        return f"{value * 1000:.1f} ms"
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 120:
        return f"{value:.2f} s"
    return f"{int(value // 60)} min {int(value % 60):02} s"


def plural(number: int, noun: str) -> str:
    """Return `1 list`, `2 lists`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def moved(before: int, now: int, *, width: int = 0) -> str:
    """Return how far something has come from where it stood: `▲ 7`, `▼ 2`, or `·` where it stayed. With colours."""
    if before == now:
        return f"[dim]{'·':<{width}}[/]"
    arrow, colour = ("▲", "green") if before > now else ("▼", "red")
    return f"[{colour}]{f'{arrow}{abs(before - now)}':<{width}}[/]"


def gist(text: str, length: int = 300) -> str:
    """Return the beginning of a text on one line."""
    return " ".join(text[: 2 * length].split())[:length]


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of a ledger: left out where it would say nothing, or nothing new."""

    title: str
    of_account: Callable[[Account], str]
    of_total: Callable[[Ledger, Usage], str]
    tells: Callable[[Ledger, Usage], bool] = lambda ledger, total: True


def _amount(name: str, title: str) -> _Column:
    return _Column(
        title,
        lambda account: short(getattr(account.usage, name)),
        lambda _, total: short(getattr(total, name)),
        lambda _, total: bool(getattr(total, name)),
    )


_COLUMNS = (
    _Column("asked", lambda a: short(a.questions), lambda ledger, _: short(ledger.questions)),
    _Column("rounds", lambda a: str(a.rounds), lambda ledger, _: str(ledger.rounds)),
    _amount("calls", "calls"),
    _amount("retries", "retries"),
    _amount("cache_hits", "cached"),
    _amount("prompt_tokens", "tok in"),
    _amount("cached_tokens", "in cache"),
    _amount("output_tokens", "tok out"),
    _Column(
        "malformed",
        lambda account: str(malformed(account.usage)),
        lambda _, total: str(malformed(total)),
        lambda _, total: malformed(total) > 0,
    ),
    _Column("in model", lambda a: seconds(a.usage.backend_s), lambda _, total: seconds(total.backend_s)),
    _Column("cost", lambda a: money(a.usage.cost_nano_usd), lambda _, total: money(total.cost_nano_usd)),
)


def ledger_table(ledger: Ledger) -> Table:
    """Return a ledger as a table: a line a stage, and the total where there are several."""
    return _table({"": ledger})


def ledgers_table(ledgers: Mapping[str, Ledger]) -> Table:
    """Return the ledgers of several pipelines as one table, each with its total and how long it took."""
    return _table(ledgers)


def _table(ledgers: Mapping[str, Ledger]) -> Table:
    totals = {name: ledger.total() for name, ledger in ledgers.items()}
    several = len(ledgers) > 1
    columns = [c for c in _COLUMNS if any(c.tells(ledger, totals[name]) for name, ledger in ledgers.items())]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    if several:
        table.add_column("pipeline", no_wrap=True, style="bold")
    table.add_column("stage", no_wrap=True)
    # Several pipelines stand side by side, and a terminal is 100 columns wide; their stages name what is theirs.
    if with_model := not several:
        table.add_column("model", style="dim", no_wrap=True, max_width=20)
    for title in [column.title for column in columns] + ["took"] * several:
        table.add_column(title, justify="right", no_wrap=True)
    for name, ledger in ledgers.items():
        accounts = [account for account in ledger if _worked(account)] or list(ledger)
        took = [seconds(ledger.wall_s)] if several else []
        for place, account in enumerate(accounts):
            head = [name if place == 0 else ""] if several else []
            head += [stage(account), account.model or "–"] if with_model else [_named(account)]
            cells = (column.of_account(account) for column in columns)
            table.add_row(*head, *cells, *(took if len(accounts) == 1 else [""] * len(took)))
        if len(accounts) > 1:
            if not several:
                table.add_section()
            head = [""] * several + (["total", ""] if with_model else ["total"])
            cells = (column.of_total(ledger, totals[name]) for column in columns)
            table.add_row(*head, *cells, *took, style="bold")
    return table


def _worked(account: Account) -> bool:
    """Return whether a stage did anything that can be counted; the order of recall, kept, is nothing."""
    usage = account.usage
    return bool(account.questions or usage.calls or usage.cache_hits or usage.tokens or usage.backend_s)


def _named(account: Account) -> str:
    """Return a stage's name where no column tells its model."""
    return account.model if account.stage.rpartition(".")[2] == "pointwise" else stage(account)


def stage(account: Account) -> str:
    """Return a stage's own name, and what it does where the name does not say so."""
    name = account.stage.rpartition(".")[2]
    known = account.strategy in ("pointwise", "") or account.strategy in name
    return name if known else f"{account.strategy} · {name}"
