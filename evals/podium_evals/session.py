"""Suites × pipelines: each system is written as it is done, so that whatever ends a session leaves what it has."""

from __future__ import annotations

import platform
import re
import shlex
import sys
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import ir_measures

from podium_evals.evaluate import evaluate
from podium_evals.measures import MEASURES
from podium_evals.results import FIRST_STAGE, Evaluation, Missing, Reference, Results, System, Timing, first_stage
from podium_evals.results_file import ResultsError, write, write_run
from podium_evals.runner import Interrupted, Place, run_pipeline
from podium_evals.suite import Suite, SuiteError
from podium_server.errors import PodiumError

RESULTS, REPORT, RUNS = "results.json", "report.html", "runs"


class Watcher(Protocol):
    """Is told how a session goes."""

    def begin(self, suite: str, system: str, queries: int) -> None:
        """Tell that a system begins."""

    def advance(self, done: int, of: int) -> None:
        """Tell how many of its queries are done."""

    def end(self, suite: str, system: str, seconds: float) -> None:
        """Tell that it is done."""

    def say(self, sentence: str) -> None:
        """Tell anything else."""


@dataclass(slots=True)
class Session:
    """What was found out so far. `results` may be asked for at any moment.

    Args:
        suites: with candidates, of different names.
        watcher: is told.
        out: folder of run files and results; None writes nothing.
        baseline: by name.
        measures: the first is the main one.
        seed: of resampling.
        references: published figures by suite.

    Raises:
        SuiteError: two suites of one name.

    """

    suites: Sequence[Suite]
    watcher: Watcher
    out: Path | None = None
    baseline: str = FIRST_STAGE
    measures: Sequence[ir_measures.Measure] = MEASURES
    seed: int = 0
    references: Mapping[str, Sequence[Reference]] = field(default_factory=dict)
    sections: dict[str, Any] = field(default_factory=dict)
    missing: list[Missing] = field(default_factory=list)
    timings: list[Timing] = field(default_factory=list)
    interrupted: bool = False
    _systems: dict[str, list[System]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        names = [suite.name for suite in self.suites]
        if len(set(names)) < len(names):
            raise SuiteError(f"two suites are called the same: {', '.join(names)}; give NAME=SOURCE")
        for suite in self.suites:
            self._systems[suite.name] = []
            self.add(suite, first_stage(suite))

    def add(self, suite: Suite, system: System) -> None:
        """Take in a system that is done, and write its run."""
        self._systems[suite.name].append(system)
        self._write(suite, system, f"{_safe(system.name)}.trec")

    def _write(self, suite: Suite, system: System, name: str) -> None:
        if self.out is None:
            return
        try:
            write_run(system, _file(self.out, suite.name, name))
        except ResultsError as error:
            self.missing.append(Missing(f"the run file {_safe(suite.name)}/{name}", str(error)))

    async def run(self, place: Place, pipelines: Sequence[str], *, concurrency: int = 1) -> None:
        """Run pipelines over all suites. One that nobody can run is missing afterwards, with the reason.

        Raises:
            NotFound: there is no pipeline of that name.

        """
        await place.check(pipelines)
        for suite in self.suites:
            for name in pipelines:
                await self.run_one(
                    suite, name, run_pipeline(suite, place, name, concurrency=concurrency, tell=self.watcher.advance)
                )

    async def run_one(self, suite: Suite, name: str, system_to_be: Coroutine[Any, Any, System]) -> None:
        """Run one system over one suite, unless the session has been interrupted."""
        what = f"{suite.name} × {name}"
        if self.interrupted:
            system_to_be.close()
            self.missing.append(Missing(what, "interrupted before it began"))
            return
        self.watcher.begin(suite.name, name, len(suite.topics))
        began = time.monotonic()
        try:
            system = await system_to_be
        except Interrupted as stopped:
            self.interrupted = True
            done = len(stopped.rankings)
            self.missing.append(
                Missing(what, f"interrupted after {done} of {len(suite.topics)} queries: not in the tables")
            )
            if done:
                self._write(suite, System(name, "", (), stopped.rankings), f"{_safe(name)}.partial.trec")
            return
        except PodiumError as error:
            self.missing.append(Missing(what, error.message))
            return
        seconds = time.monotonic() - began
        self.timings.append(Timing(what, seconds))
        self.watcher.end(suite.name, name, seconds)
        self.add(suite, system)

    def evaluation(self, suite: Suite) -> Evaluation:
        """Return the figures of one suite as far as they are known."""
        systems = self._systems[suite.name]
        # It may have failed on this suite alone; `results` says so.
        baseline = self.baseline if self._has_baseline(suite) else FIRST_STAGE
        return evaluate(
            suite,
            systems,
            baseline=baseline,
            measures=self.measures,
            references=self.references.get(suite.name, ()),
            seed=self.seed,
        )

    def _has_baseline(self, suite: Suite) -> bool:
        return any(system.name == self.baseline for system in self._systems[suite.name])

    def results(self) -> Results:
        """Return all that is known."""
        without = tuple(
            Missing(f"{suite.name}: the baseline {self.baseline}", f"systems are compared with {FIRST_STAGE} instead")
            for suite in self.suites
            if not self._has_baseline(suite)
        )
        return Results(
            evaluations=tuple(self.evaluation(suite) for suite in self.suites),
            main=str(self.measures[0]),
            made=made(seed=str(self.seed)),
            sections=dict(self.sections),
            missing=(*self.missing, *without),
            timings=tuple(self.timings),
        )


def save(results: Results, out: Path) -> tuple[Path, ...]:
    """Write results.json, and the report beside it; return what was written."""
    out.mkdir(parents=True, exist_ok=True)
    write(results, out / RESULTS)
    from podium_evals import report

    report.write(results, out / REPORT)
    return (out / RESULTS, out / REPORT)


def made(**more: str) -> dict[str, str]:
    """Return when, where and by which command."""
    name = Path(sys.argv[0]).name
    words = ["podium" if name == "__main__.py" else name, *sys.argv[1:]]
    told = {
        "at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "command": shlex.join(words),
        "podium": _version("podium"),
        "ir_measures": _version("ir_measures"),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
    }
    return {**told, **more}


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "unknown"


def _safe(name: str) -> str:
    """Return a name that may stand in a path."""
    return re.sub(r"[^\w.+-]+", "-", name).strip(".") or "system"


def _file(out: Path, suite: str, name: str) -> Path:
    folder = out / RUNS / _safe(suite)
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name
