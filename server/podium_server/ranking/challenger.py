"""Experiments on live requests: a challenger for a share of them, served, in the shadow, or interleaved.

Whom a request belongs to follows from a hash of its key, so that a user stays on one side. What was ranked, and for
whom, goes to the log of rankings. The recall of a search is the incumbent's in every mode: both rank the same
candidates.

- `served`: the challenger's order is the answer for its share of the keys; the others are the control group.
- `shadow`: the caller gets the incumbent's answer, and is gone when the challenger begins. There are few places for
  work in the shadow; a request that finds none is dropped and counted. What it costs stands in an account of its own.
- `interleaved`: both rank side by side, and the answer is drafted from both orders. The caller's ledger has both. A
  challenger that fails, or is not done `patience_s` after the incumbent, is left out, with a warning.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextvars import Context
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

from podium_server.accounting.ledger import Ledger
from podium_server.accounting.usage import Usage
from podium_server.config import ChallengerSection
from podium_server.errors import PodiumError
from podium_server.judges.judge import ScoreKind
from podium_server.limits import Limits
from podium_server.ranking.assignment import Arm, assigned, fingerprint, team_draft, unit
from podium_server.ranking.guard import for_the_house
from podium_server.ranking.ranking_log import Entry, Ranked, RankingLog, ids_at
from podium_server.ranking.request import Caller, Completion, Outcome, RankRequest, Warned

log = logging.getLogger(__name__)

# The answer is on its way by then: what follows is nobody's wait.
_AFTER_THE_ANSWER_S = 0.02

Run = Callable[[RankRequest], Awaitable[Outcome]]
"""Ranks a request as its caller asked for it: with its deadline, its snapshots, its ledger."""


class RunBeside(Protocol):
    """Ranks a request beside the caller's own: with a ledger of its own, and no snapshots."""

    async def __call__(
        self, request: RankRequest, deadline_at: float | None, on_ledger: Callable[[Ledger], None]
    ) -> Outcome: ...


@dataclass(frozen=True, slots=True)
class Trial:
    """One request in an experiment.

    Args:
        experiment: its name.
        incumbent: the pipeline that was asked for.
        section: of the challenger.
        key: what the assignment follows from.
        arm: to which the key was assigned.

    """

    experiment: str
    incumbent: str
    section: ChallengerSection
    key: str
    arm: Arm


class Ranking(NamedTuple):
    """An outcome, and what the log says of it."""

    outcome: Outcome
    ranked: Ranked


@dataclass(slots=True)
class _Bill:
    """The ledger of a challenger at work, which somebody reads however the work ends."""

    ledger: Ledger = field(default_factory=Ledger)

    def opened(self, ledger: Ledger) -> None:
        self.ledger = ledger


@dataclass(slots=True)
class Experiments:
    """Carries requests through experiments, and writes the log of rankings. `aclose` at the end.

    Args:
        challengers: by the incumbent's name.
        log: of rankings.
        limits: of work in the shadow.
        places: of the best that an entry has.
        share: of the requests outside experiments that are written, by their id.
        secret: of fingerprints; see `fingerprint`.
        texts: whether entries have the query's text.

    """

    challengers: Mapping[str, ChallengerSection]
    log: RankingLog
    limits: Limits
    places: int = 100
    share: float = 0.0
    secret: bytes = b""
    texts: bool = False
    counts: Counter[str] = field(init=False, default_factory=Counter)
    """Of requests: by mode and arm (`served.challenger`), and `no_key`, `budget`, `shadow_busy`, `late`, `failed`."""
    shadow_spent: Usage = field(init=False, default_factory=Usage)
    """What all work in the shadow has used. No caller is charged for it."""
    _shadows: set[asyncio.Task[None]] = field(init=False, default_factory=set)
    _closed: bool = field(init=False, default=False)

    async def rank(
        self,
        name: str,
        request: RankRequest,
        caller: Caller,
        run: Run,
        beside: RunBeside,
        *,
        deadline_at: float | None = None,
    ) -> Outcome:
        """Rank a live request.

        Args:
            name: of the pipeline that it asks for; empty for an inline one.
            request: valid.
            caller: whose it is.
            run: ranks a request for this caller.
            beside: ranks a request on the side.
            deadline_at: of the call, in `time.monotonic()` seconds; None where it has none.

        Raises:
            PodiumError: as `run` does for the pipeline whose order the caller would have got.

        """
        trial = self.trial(name, request, caller)
        if trial is None:
            return await self._plain(request, caller, run)
        self.counts[f"{trial.section.mode}.{trial.arm.value}"] += 1
        if trial.section.mode == "served":
            return await self._served(trial, request, caller, run)
        if trial.arm is Arm.INCUMBENT:
            return await self._plain(request, caller, run)
        if trial.section.mode == "shadow":
            return await self._shadowed(trial, request, caller, run, beside, deadline_at)
        return await self._interleaved(trial, request, caller, run, beside, deadline_at)

    def trial(self, name: str, request: RankRequest, caller: Caller) -> Trial | None:
        """Return the experiment that a request takes part in, and its arm; None where it takes part in none."""
        section = self.challengers.get(name)
        if section is None:
            return None
        key = _key(section.key, request, caller)
        if not key:
            self.counts["no_key"] += 1
            return None
        if section.mode == "interleaved" and request.budget.counts:
            # A budget holds for the request, and two who share one would not be who they are alone.
            self.counts["budget"] += 1
            return None
        experiment = section.experiment or f"{name}:{section.pipeline}"
        challenged = assigned(experiment, key, section.share)
        return Trial(experiment, name, section, key, Arm.CHALLENGER if challenged else Arm.INCUMBENT)

    # --- the modes ----------------------------------------------------------------------------------------------

    async def _plain(self, request: RankRequest, caller: Caller, run: Run) -> Outcome:
        began = time.monotonic()
        outcome = await run(request)
        if self.share and unit("log", caller.request_id) < self.share:
            self._write(None, request, caller, {Arm.INCUMBENT: self._ranked(outcome, request, began)}, "incumbent")
        return outcome

    async def _served(self, trial: Trial, request: RankRequest, caller: Caller, run: Run) -> Outcome:
        began = time.monotonic()
        challenged = trial.arm is Arm.CHALLENGER
        try:
            outcome = await run(replace(request, pipeline=trial.section.pipeline) if challenged else request)
        except (PodiumError, asyncio.CancelledError) as error:
            # Whoever gave up waiting belongs to the arm that let them wait.
            self._write(trial, request, caller, {}, trial.arm.value, {trial.arm: _reason(error)})
            raise
        self._write(trial, request, caller, {trial.arm: self._ranked(outcome, request, began)}, trial.arm.value)
        return outcome

    async def _shadowed(
        self,
        trial: Trial,
        request: RankRequest,
        caller: Caller,
        run: Run,
        beside: RunBeside,
        deadline_at: float | None,
    ) -> Outcome:
        began = time.monotonic()
        outcome = await run(request)
        incumbent = self._ranked(outcome, request, began)
        if self._closed or len(self._shadows) >= self.limits.shadow_requests:
            self.counts["shadow_busy"] += 1
            self._write(trial, request, caller, {Arm.INCUMBENT: incumbent}, "incumbent", {Arm.CHALLENGER: "busy"})
            return outcome
        # As long as the caller would have waited for it, so that its order is the one that they would have got.
        patience_s = self.limits.shadow_s if deadline_at is None else min(self.limits.shadow_s, deadline_at - began)
        work = self._in_the_shadow(trial, request, caller, incumbent, beside, patience_s)
        # In a context of its own: the work is not the caller's, nor is its bill, nor are its log records.
        context = Context()
        context.run(for_the_house.set, True)
        shadow = asyncio.create_task(work, name="shadow", context=context)
        self._shadows.add(shadow)
        shadow.add_done_callback(self._shadows.discard)
        return outcome

    async def _in_the_shadow(
        self,
        trial: Trial,
        request: RankRequest,
        caller: Caller,
        incumbent: Ranked,
        beside: RunBeside,
        patience_s: float,
    ) -> None:
        bill = _Bill()
        rankings, missing = {Arm.INCUMBENT: incumbent}, {}
        try:
            await asyncio.sleep(_AFTER_THE_ANSWER_S)
            began = time.monotonic()
            outcome = await beside(_for(trial, request), began + patience_s, bill.opened)
            rankings[Arm.CHALLENGER] = self._ranked(outcome, request, began)
        except asyncio.CancelledError as error:
            missing[Arm.CHALLENGER] = _reason(error)
            raise
        except Exception as error:  # noqa: BLE001  # nobody waits for this work, and nobody may be hurt by it
            missing[Arm.CHALLENGER] = self._failed(trial, error)
        finally:
            self.shadow_spent = self.shadow_spent + bill.ledger.total()
            self._write(trial, request, caller, rankings, "incumbent", missing)

    async def _interleaved(
        self,
        trial: Trial,
        request: RankRequest,
        caller: Caller,
        run: Run,
        beside: RunBeside,
        deadline_at: float | None,
    ) -> Outcome:
        began, bill, name = time.monotonic(), _Bill(), trial.section.pipeline

        async def work() -> Ranking:
            outcome = await beside(_for(trial, request), deadline_at, bill.opened)
            return Ranking(outcome, self._ranked(outcome, request, began))

        other = asyncio.create_task(work(), name="challenger")
        try:
            outcome = await run(request)
            incumbent = self._ranked(outcome, request, began)
            missing = await self._awaited(trial, other)
        except BaseException as error:
            await _stopped(other)
            if isinstance(error, PodiumError):
                error.spent = _joined_ledgers(error.spent, bill.ledger, name)
            raise
        if missing:
            rankings = {Arm.INCUMBENT: incumbent}
            self._write(trial, request, caller, rankings, "incumbent", {Arm.CHALLENGER: missing})
            return _left_out(outcome, bill.ledger, name, missing)
        theirs = other.result()
        order, teams = team_draft(outcome.order, theirs.outcome.order, trial.experiment, caller.request_id)
        self._write(
            trial,
            request,
            caller,
            {Arm.INCUMBENT: incumbent, Arm.CHALLENGER: theirs.ranked},
            "interleaved",
            interleaved=ids_at(request, order[: self.places]),
            teams="".join("C" if team is Arm.CHALLENGER else "I" for team in teams[: self.places]),
        )
        return _drafted(outcome, theirs.outcome, order, teams, name)

    async def _awaited(self, trial: Trial, other: asyncio.Task[Ranking]) -> str:
        """Wait for a challenger as long as its patience says; return why it is left out, or nothing."""
        await asyncio.wait({other}, timeout=trial.section.patience_s)
        if not other.done():
            await _stopped(other)
            self.counts["late"] += 1
            return "late"
        error = other.exception()
        return "" if error is None else self._failed(trial, error)

    # --- what is told of it -------------------------------------------------------------------------------------

    def _failed(self, trial: Trial, error: BaseException) -> str:
        self.counts["failed"] += 1
        facts = {"experiment": trial.experiment, "error": str(error)}
        if isinstance(error, PodiumError):
            log.warning("a challenger failed", extra=facts)
        else:
            log.error("a challenger failed by a defect of ours", extra=facts, exc_info=error)
        return _reason(error)

    def _ranked(self, outcome: Outcome, request: RankRequest, began: float) -> Ranked:
        return Ranked.of(outcome, request, time.monotonic() - began, self.places)

    def _write(
        self,
        trial: Trial | None,
        request: RankRequest,
        caller: Caller,
        rankings: Mapping[Arm, Ranked],
        shown: str,
        missing: Mapping[Arm, str] | None = None,
        *,
        interleaved: tuple[str, ...] = (),
        teams: str = "",
    ) -> None:
        self.log.put(
            Entry(
                time_s=time.time(),
                request_id=caller.request_id,
                query=fingerprint(request.query, self.secret),
                candidates=len(request.candidates),
                rankings={arm.value: ranked for arm, ranked in rankings.items()},
                shown=shown,
                experiment=trial.experiment if trial else "",
                mode=trial.section.mode if trial else "",
                arm=trial.arm.value if trial else "",
                key=fingerprint(trial.key, self.secret) if trial else "",
                share=trial.section.share if trial else 0.0,
                missing={arm.value: why for arm, why in (missing or {}).items()},
                interleaved=interleaved,
                teams=teams,
                text=request.query if self.texts else None,
            )
        )

    async def aclose(self) -> None:
        """Stop what works in the shadow, and write what the log still holds."""
        self._closed = True
        shadows = list(self._shadows)
        for shadow in shadows:
            shadow.cancel()
        await asyncio.gather(*shadows, return_exceptions=True)
        await asyncio.to_thread(self.log.close)


def _key(source: str, request: RankRequest, caller: Caller) -> str:
    """Return what the assignment of a request follows from; empty where the request does not bring it."""
    if source == "query":
        return request.query
    if source == "request":
        return caller.request_id
    return caller.metadata.get(source.removeprefix("metadata:"), "")


def _for(trial: Trial, request: RankRequest) -> RankRequest:
    """Return the request as the challenger gets it."""
    return replace(request, pipeline=trial.section.pipeline, caller=None)


async def _stopped(task: asyncio.Task[Any]) -> None:
    """Cancel a task, and wait until it has stopped and entered what it spent."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _reason(error: BaseException) -> str:
    if isinstance(error, asyncio.CancelledError):
        return "cancelled"
    return error.reason if isinstance(error, PodiumError) else "INTERNAL"


def _joined_ledgers(ours: object, theirs: Ledger, challenger: str) -> Ledger:
    """Return one ledger: the challenger's stages stand behind, named `pipeline:stage`."""
    joined = Ledger()
    if isinstance(ours, Ledger):
        joined = replace(ours, accounts=dict(ours.accounts))
    for account in theirs:
        joined.open(replace(account, stage=f"{challenger}:{account.stage}"))
    joined.rounds = max(joined.rounds, theirs.rounds)
    joined.critical_path_s = max(joined.critical_path_s, theirs.critical_path_s)
    joined.wall_s = max(joined.wall_s, theirs.wall_s)
    return joined


def _left_out(outcome: Outcome, theirs: Ledger, challenger: str, why: str) -> Outcome:
    """Return the incumbent's outcome, with what the challenger spent."""
    warned = Warned("STAGE_SKIPPED", f"the challenger {challenger!r} is left out of this answer ({why})")
    return replace(
        outcome,
        ledger=_joined_ledgers(outcome.ledger, theirs, challenger),
        warnings=(*outcome.warnings, warned),
    )


def _drafted(
    ours: Outcome, theirs: Outcome, order: tuple[int, ...], teams: tuple[Arm, ...], challenger: str
) -> Outcome:
    """Return the outcome of a draft. Scores of two pipelines cannot be compared, so that it has none."""
    provenance = list(ours.provenance)
    for place, team in zip(order, teams, strict=True):
        if team is Arm.CHALLENGER:
            provenance[place] = theirs.provenance[place]
    whole = ours.completion is Completion.COMPLETE
    return replace(
        ours,
        order=order,
        scores=(None,) * len(order),
        score_kind=ScoreKind.NONE,
        provenance=provenance,
        completion=theirs.completion if whole else ours.completion,
        cause=theirs.cause if whole else ours.cause,
        cause_reason=theirs.cause_reason if whole else ours.cause_reason,
        ledger=_joined_ledgers(ours.ledger, theirs.ledger, challenger),
        warnings=(*ours.warnings, *(warned for warned in theirs.warnings if warned not in ours.warnings)),
        trace=(*ours.trace, *theirs.trace),
        pipeline=f"{ours.pipeline}+{theirs.pipeline}",
    )
