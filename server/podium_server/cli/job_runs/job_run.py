"""A run of a job as commands have them: its files, its way to the end, and what it says and returns then.

A command brings a source (`jobs.lists.Source`), somebody who answers (`jobs.ranking.Ranker`) and somebody who writes
(`jobs.results.Results`, or what is made like it); `JobRun` brings resuming, budgets, progress, the summary, the report
and the exit code::

    files = Files(source, out, run, named_ledger, with_ledger=True)
    async with ranker_of_the_command() as ranker:
        run = JobRun(files=files, identity={"command": "label", …}, source=lists.opened(source), ranker=ranker,
                     results=MyResults, concurrency=64, strict=False, job_budget=JobBudget(), restart=False)
        return await run.to_its_end()
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from podium_server.accounting.ledger import Ledger
from podium_server.accounting.usage import Usage
from podium_server.cli.app import BUDGET_SPENT, DONE, FAILED, INTERRUPTED
from podium_server.cli.display import job_report
from podium_server.cli.display.job_progress import Progress
from podium_server.jobs import lists, sinks
from podium_server.jobs.budget import BudgetSpent, JobBudget, Purse
from podium_server.jobs.engine import Engine, ListFailed, Outage
from podium_server.jobs.ledgers import joined
from podium_server.jobs.outputs import Outputs
from podium_server.jobs.ranking import Answer, Ranker
from podium_server.jobs.results import LEDGER, OUT, RUN, Results
from podium_server.jobs.summary import beside, summary, write
from podium_server.jobs.tally import Tally

VERDICTS = ".verdicts"


@dataclass(frozen=True, slots=True)
class Files:
    """The files of a job.

    Args:
        source: of the lists.
        out: of the orders.
        run: of the TREC run, if one is wanted.
        named_ledger: as the user named it.
        with_ledger: whether one is wanted.

    """

    source: str
    out: str
    run: str | None
    named_ledger: str | None
    with_ledger: bool

    @property
    def beside_out(self) -> bool:
        """Whether there is a place beside the orders: not where they go to a pipe."""
        return sinks.is_plain(self.out)

    @property
    def ledger(self) -> str | None:
        """Where each list's ledger goes."""
        if self.named_ledger is not None or not (self.with_ledger and self.beside_out):
            return self.named_ledger
        return beside(self.out, ".ledger.jsonl")

    @property
    def summary(self) -> str | None:
        """Where the summary goes."""
        return beside(self.out, ".summary.json") if self.beside_out else None

    @property
    def outputs(self) -> dict[str, str]:
        """The files that grow with every list, by name."""
        named = {OUT: self.out, RUN: self.run, LEDGER: self.ledger}
        return {name: path for name, path in named.items() if path is not None}

    @property
    def verdicts(self) -> str | None:
        """Where verdicts are kept while nobody says where: beside the orders, until they are whole."""
        return self.out + VERDICTS if self.beside_out else None

    @property
    def repeated(self) -> str:
        """A name that two files have; empty where none is. Standard input and standard output share theirs."""
        written = [*self.outputs.values(), *([self.summary] if self.summary else [])]
        named = written if self.source == lists.STDIN else [*written, self.source]
        return next((name for name in named if named.count(name) > 1), "")


@dataclass(slots=True)
class JobRun:
    """One run of a job, from where the one before has left it. Made when it is sure that there is somebody to ask.

    Args:
        files: of the job.
        identity: what the lines depend on, beside the input (see `jobs.outputs`).
        source: of the lists.
        ranker: answers them.
        results: makes who writes the answers.
        concurrency: lists at work side by side.
        strict: stop at the first list that fails.
        patience: stop when so many lists in a row found nobody to answer; 0 is never.
        job_budget: of all lists together.
        restart: throw away what an earlier run has left.
        noun: what the report calls an item.
        did: what it says was done with it.

    Raises:
        FailedPrecondition: what is there was made by another job.

    """

    files: Files
    identity: Mapping[str, Any]
    source: lists.Source
    ranker: Ranker
    results: Callable[[Outputs, Tally], Results]
    concurrency: int
    strict: bool
    job_budget: JobBudget
    restart: bool
    patience: int = 0
    noun: str = "list"
    did: str = "ranked"
    outputs: Outputs = field(init=False)
    tally: Tally = field(init=False, default_factory=Tally)
    _writer: Results | None = field(init=False, default=None)
    _engine: Engine = field(init=False)
    _progress: Progress = field(init=False)

    def __post_init__(self) -> None:
        self.outputs = Outputs(self.files.outputs, self.identity, self._kept, restart=self.restart)
        state = self.outputs.state
        self.tally = Tally.from_data(state.get("tally", {}))
        self._writer = self.results(self.outputs, self.tally)
        self._writer.seal = state.get("seal", 0)
        self._writer.go_on(state.get("results", {}))
        self._progress = Progress(self.source, self.tally)
        purse = Purse(self.job_budget, self._spent, self.tally.dearest, lambda: self.tally.elapsed_s)
        bounded = self.job_budget.bounded
        self._engine = Engine(
            self.ranker,
            self._write,
            concurrency=self.concurrency,
            strict=self.strict,
            patience=self.patience,
            gate=(lambda at_work: purse.refusal(at_work, known=bool(self.tally.dearest))) if bounded else None,
        )

    async def to_its_end(self) -> int:
        """Rank what is left, and tell of all; return the exit code."""
        if self.outputs.whole:
            job_report.told_already(self.tally, self.files.out, self.noun, self.did)
            return self._code(None)
        _cancel_on_sigterm()
        ended: BaseException | None = None
        try:
            with self.outputs, self._progress:
                if self.outputs.resumed:
                    job_report.going_on(self.outputs.items, self.outputs.written_to(OUT))
                    self.source.skip(self.outputs.items, self._writer.seal if self._writer else 0)
                self._progress.begin()
                await self._engine.run(iter(self.source), from_file=self.source.is_file)
                self._summarize("whole")
        except (ListFailed, Outage, BudgetSpent, asyncio.CancelledError) as error:
            ended = error
            self._summarize(_ENDS[type(error)])
        kept_in = self.outputs.written_to(OUT) if self.files.beside_out else ""
        job_report.told(self.tally, self._unfinished(), ended, kept_in, self.noun, self.did)
        return self._code(ended)

    def _write(self, answer: Answer) -> None:
        assert self._writer is not None
        self._writer.write(answer)
        self._progress.show(answer)

    def _unfinished(self) -> Ledger:
        return joined((self.ranker.unfinished(), *(answer.ledger for answer in self._engine.unwritten())))

    def _spent(self) -> Usage:
        return self.tally.ledger.total() + self.tally.lost.total() + self._unfinished().total()

    def _kept(self) -> Mapping[str, Any]:
        assert self._writer is not None
        return {
            "tally": self.tally.as_data(self._unfinished()),
            "seal": self._writer.seal,
            "results": self._writer.kept(),
        }

    def _summarize(self, ended: str) -> None:
        path = self.files.summary
        if path is not None:
            identity = {name: self.identity[name] for name in ("command", "pipeline") if name in self.identity}
            told = {**identity, "outputs": self.files.outputs, **(self._writer.told() if self._writer else {})}
            write(path, summary(self.tally, ended=ended, unfinished=self._unfinished(), more=told))

    def _code(self, ended: BaseException | None) -> int:
        match ended:
            case asyncio.CancelledError():
                return INTERRUPTED
            case BudgetSpent():
                return BUDGET_SPENT
        return FAILED if ended is not None or self.tally.failed or self.tally.unwritable_count else DONE


_ENDS: Mapping[type[BaseException], str] = {
    ListFailed: "failed",
    Outage: "outage",
    BudgetSpent: "budget",
    asyncio.CancelledError: "interrupted",
}


def _cancel_on_sigterm() -> None:
    """Let what a scheduler sends before it kills be the same orderly end as Ctrl-C."""
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
