"""A judge whose model is watched: asked no more while it fails, and known to be at work while it is.

The breaker's decisions are in `backends.breaker`, which is pure; here are its clock and what counts as a failure. A
round is what is counted: the questions that a strategy asks one judge at once, all retries included.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from podium_server.accounting.usage import Usage
from podium_server.backends.breaker import Breaker, BreakerSettings, Phase, Refused, admit, ended
from podium_server.errors import BackendDown, DeadlineExceeded, Unavailable
from podium_server.judges.case import Case
from podium_server.judges.judge import Judge, JudgeFacts, Ruling, Sink
from podium_strategies.plan import Question

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Watch:
    """What is known of one model, shared by all judges that use it.

    Args:
        model: as configured.
        settings: of its breaker.
        hung_s: a round that the caller's deadline ended after so long, without any answer, is a failure.
        clock: seconds that only grow.

    """

    model: str
    settings: BreakerSettings = field(default_factory=BreakerSettings)
    hung_s: float = 10.0
    clock: Callable[[], float] = time.monotonic
    running: int = field(init=False, default=0)
    opened: int = field(init=False, default=0)
    refused: int = field(init=False, default=0)
    unloaded: bool = False
    """Whether it was taken out of service, and must be loaded by hand."""
    _breaker: Breaker = field(init=False)
    _idle: asyncio.Event = field(init=False, default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._breaker = Breaker(self.settings)

    @property
    def phase(self) -> Phase:
        """Where the breaker stands. An open one whose rest is over stands so until the next round comes."""
        return self._breaker.phase

    def admit(self) -> int:
        """Let a round through, and return what `ended` is told of it.

        Raises:
            BackendDown: the breaker is open; with the time to the next try.
            Unavailable: the model is unloaded.

        """
        if self.unloaded:
            raise Unavailable(
                f"the model {self.model!r} is unloaded; AdminService.LoadModel loads it again",
                metadata={"model": self.model},
            )
        admitted, self._breaker = admit(self._breaker, self.clock())
        if isinstance(admitted, Refused):
            self.refused += 1
            raise BackendDown(
                f"the model {self.model!r} has failed again and again and is not asked now; another try is made in "
                f"{admitted.retry_after_s:.1f} s",
                retry_after_s=max(0.1, admitted.retry_after_s),
                metadata={"model": self.model, "breaker": "open"},
            )
        self.running += 1
        return admitted

    def ended(self, generation: int, well: bool | None) -> None:
        """Note the end of a round: well, failed, or (None) ended for reasons that are not the model's."""
        self.running -= 1
        if not self.running:
            self._idle.set()
        before = self._breaker.phase
        self._breaker = ended(self._breaker, generation, well, self.clock())
        now = self._breaker.phase
        if now is before:
            return
        if now is Phase.OPEN:
            self.opened += 1
            rest_s = self._breaker.until - self.clock()
            log.warning("model fails and is not asked for a while", extra={"model": self.model, "rest_s": rest_s})
        elif now is Phase.CLOSED:
            log.warning("model answers again", extra={"model": self.model})

    async def idle(self) -> None:
        """Wait until no round is under way."""
        while self.running:
            self._idle.clear()
            await self._idle.wait()


@dataclass(frozen=True, slots=True)
class WatchedJudge:
    """A judge, and the watch over its model."""

    judge: Judge
    watch: Watch

    @property
    def facts(self) -> JudgeFacts:
        """The judge's own."""
        return self.judge.facts

    def estimate(self, case: Case, questions: Sequence[Question[Any]]) -> Usage:
        """Return the judge's own."""
        return self.judge.estimate(case, questions)

    async def rule(self, case: Case, questions: Sequence[Question[Any]], sink: Sink) -> None:
        """Let the judge rule, unless its breaker is open; see `Judge.rule`."""
        watch = self.watch
        admitted = watch.admit()
        began = watch.clock()
        hears = _Hears(sink)
        well: bool | None = None
        try:
            await self.judge.rule(case, questions, hears)
            well = True
        except BaseException as error:
            hung = not hears.heard and watch.clock() - began >= watch.hung_s
            match _first(error):
                case BackendDown():
                    well = False
                case DeadlineExceeded() | asyncio.CancelledError() if hung:
                    well = False
            raise
        finally:
            watch.ended(admitted, well)


@dataclass(slots=True)
class _Hears:
    """Passes on what a judge delivers, and knows whether it delivered."""

    sink: Sink
    heard: bool = False

    def ruled(self, index: int, ruling: Ruling, *, elapsed_s: float) -> None:
        self.heard = True
        self.sink.ruled(index, ruling, elapsed_s=elapsed_s)

    def spent(self, usage: Usage) -> None:
        self.sink.spent(usage)


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
