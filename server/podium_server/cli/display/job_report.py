"""What a job says at its beginning and its end, on standard error."""

from __future__ import annotations

import asyncio
import sys

from rich.markup import escape

from podium_server.accounting.ledger import Ledger
from podium_server.cli.display import console as look
from podium_server.jobs.budget import BudgetSpent
from podium_server.jobs.engine import ListFailed, Outage
from podium_server.jobs.ledgers import joined
from podium_server.jobs.ranking import COMPLETE
from podium_server.jobs.tally import Tally


def going_on(items: int, part: str) -> None:
    """Say that an earlier run is gone on with."""
    look.stderr().print(f"going on behind {look.plural(items, 'list')} in {part} (--restart begins anew)")


def told_already(tally: Tally, out: str, noun: str = "list", did: str = "ranked") -> None:
    """Say that there was nothing left to do."""
    look.stderr().print(f"{out} was whole already: {look.plural(tally.lists, noun)} {did}")


def told(
    tally: Tally, unfinished: Ledger, ended: BaseException | None, kept_in: str, noun: str = "list", did: str = "ranked"
) -> None:
    """Print what was done, what failed and what it cost."""
    paper = look.stderr()
    runs = "" if tally.runs == 1 else f", {tally.runs} runs"
    candidates = f" {look.plural(tally.candidates, 'candidate')}," if tally.candidates else ""
    paper.print(
        f"{look.plural(tally.lists, noun)} {did},{candidates} in {look.seconds(tally.elapsed_s)}{runs} "
        f"({tally.lists_per_s:,.1f} {noun}s/s)"
    )
    if tally.partial:
        kinds = ", ".join(f"{n:,} {kind}" for kind, n in sorted(tally.completions.items()) if kind != COMPLETE)
        paper.print(f"[yellow]not complete:[/] {kinds}")
    if tally.warnings:
        kinds = ", ".join(f"{n:,} {code}" for code, n in sorted(tally.warnings.items()))
        paper.print(f"[yellow]lists with warnings:[/] {kinds}")
    if tally.failed:
        kinds = ", ".join(f"{n:,} {reason}" for reason, n in sorted(tally.reasons.items()))
        paper.print(f"[red]failed:[/] {kinds}")
    if tally.unwritable_count:
        listed = ", ".join(map(str, tally.unwritable[:10]))
        more = f" and {tally.unwritable_count - 10:,} more" if tally.unwritable_count > 10 else ""
        paper.print(
            f"[red]not in the TREC run[/], because an id of theirs has a space: the lists of lines {listed}{more}"
        )
    if ended is not None:
        _tell_the_end(tally, ended, kept_in)
    if tally.ledger.accounts:
        paper.print(look.ledger_table(tally.ledger))
    lost = joined((tally.lost, unfinished)).total()
    if lost.calls:
        paper.print(
            f"besides, {look.plural(lost.calls, 'call')} ({look.money(lost.cost_nano_usd)}) for lists that were "
            "interrupted"
        )
    sys.stderr.flush()


def _tell_the_end(tally: Tally, ended: BaseException, kept_in: str) -> None:
    paper = look.stderr()
    kept = f"; what is done is in {kept_in}, and the same command goes on with it" if kept_in else ""
    match ended:
        case ListFailed(answer=answer):
            qid = "" if answer.qid is None else f", qid {answer.qid}"
            why = f"stopped at line {answer.line}{qid} ({answer.reason}: {answer.message})"
        case Outage(reason=reason, message=message, lists=lists):
            why = f"stopped: {lists} lists in a row found nobody to answer ({reason}: {message})"
        case BudgetSpent():
            why = f"the job's budget is spent ({ended})"
            kept = kept and f"{kept} if its budget is larger"
        case asyncio.CancelledError():
            why = "interrupted"
        case _:
            why = type(ended).__name__
    paper.print(f"[red]{escape(why)}[/] after {look.plural(tally.answered, 'list')}{kept}", soft_wrap=True)
