"""Ranks the lists of a job on a Ray cluster (extra `ray`). Ray is imported here alone.

Each worker is an actor that holds a Podium of its own and ranks many lists side by side. The engine stays where it was:
this process reads, hands each list to the least busy worker, and writes in the order of the input, so that budgets, the
journal and resuming are those of every other job. A list whose worker dies goes to another one; an answer is written
once, however often its list was sent.

The workers import the same version of Podium, and read no file of ours; the configuration travels. Verdicts of chat
models are remembered on the workers' own disks, under the path that the job names.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from podium_server.accounting.ledger import Ledger
from podium_server.config import Config
from podium_server.errors import FailedPrecondition, Unavailable
from podium_server.jobs import ledgers
from podium_server.jobs.lists import CandidateList
from podium_server.jobs.ranking import Answer, Failed, Ranked
from podium_server.jobs.seats import SENT_MAX, Seat, free
from podium_server.ranking.request import Budget, Warned

# Lists are small and are handed on at once; Ray's own default is a third of the memory.
OBJECT_STORE_BYTES = 256 << 20
START_S_MAX = 300.0


class Worker:
    """What runs on the cluster: a Podium, and the lists that it is handed.

    Args:
        config: as the driver read it.
        pipeline: by name.
        budget: of each list.
        memory: the folder for chat models' verdicts, on this machine.

    """

    def __init__(self, config: Config, pipeline: str, budget: Budget, memory: str | None) -> None:
        from podium_server.compose import Podium
        from podium_server.jobs.ranking import local_ranker

        self._podium = Podium(config, data_dir=None if memory is None else Path(memory), collections=False)
        self._ranker = local_ranker(self._podium.reranker, pipeline, budget, config.limits)

    async def ready(self) -> int:
        """Return the process id, once everything is built."""
        return os.getpid()

    async def rank(self, given: tuple[Any, ...]) -> Mapping[str, Any]:
        """Return the answer to a list as data, without the list itself."""
        answer = await self._ranker.rank(CandidateList(*given))
        ledger = ledgers.as_data(answer.ledger)
        if isinstance(answer, Failed):
            return {"reason": answer.reason, "message": answer.message, "ledger": ledger, "cause": answer.cause}
        warnings = [(warned.code, warned.message, warned.places) for warned in answer.warnings]
        return {
            "order": answer.order,
            "scores": answer.scores,
            "completion": answer.completion,
            "ledger": ledger,
            "warnings": warnings,
            "cause": answer.cause,
        }


@dataclass(slots=True)
class _Seat(Seat):
    """One worker, as the driver knows it."""

    actor: Any


@dataclass(slots=True)
class RayRanker:
    """Hands lists to the workers of a cluster (a `jobs.ranking.Ranker`). As a context: connects, and disconnects.

    Args:
        config: of all workers.
        pipeline: by name.
        budget: of each list.
        address: of the cluster; None is `RAY_ADDRESS`, else a cluster of this machine's own, for this job.
        workers: their number; None is one for each machine of the cluster.
        worker_gpus: that Ray sets aside for each worker.
        memory: the folder for chat models' verdicts, on each machine.

    Raises:
        FailedPrecondition: Ray is not installed.
        Unavailable: the cluster cannot be reached, or starts no worker.

    """

    config: Config
    pipeline: str
    budget: Budget
    address: str | None = None
    workers: int | None = None
    worker_gpus: float = 0.0
    memory: Path | None = None
    resent: int = field(init=False, default=0)
    """Lists that were sent again, because their worker died, or its answer was lost with its machine."""
    _seats: list[_Seat] = field(init=False, default_factory=list)
    _starting: list[asyncio.Task[None]] = field(init=False, default_factory=list)

    async def __aenter__(self) -> Self:
        ray = _ray()
        await asyncio.to_thread(self._connect, ray)
        machines = sum(node["Alive"] and node["Resources"].get("CPU", 0) > 0 for node in ray.nodes())
        # Restarted by Ray where it dies; what it was asked is asked again by us, who know whom to ask.
        actor = ray.remote(Worker).options(
            num_cpus=1,
            num_gpus=self.worker_gpus or None,
            max_restarts=-1,
            max_task_retries=0,
            max_concurrency=1000,
            scheduling_strategy="SPREAD",
        )
        memory = None if self.memory is None else str(self.memory.absolute())
        for _ in range(self.workers or max(1, machines)):
            self._seats.append(_Seat(actor.remote(self.config, self.pipeline, self.budget, memory)))
        try:
            await self._wait_for_one(ray)
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    def _connect(self, ray: Any) -> None:
        # A job of ours calls nobody but its own cluster.
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        own: dict[str, Any] = {"object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
        given = self.address or os.environ.get("RAY_ADDRESS")
        try:
            ray.init(address=given, log_to_driver=False, logging_level="ERROR", **({} if given else own))
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise Unavailable(f"no Ray cluster can be used at {given or 'this machine'}: {error}") from error

    async def _wait_for_one(self, ray: Any) -> None:
        """Wait until one worker is ready; the others get lists when they are.

        What is asked of one that has no place on the cluster yet waits for the place, without an error.
        """
        self._starting = [asyncio.create_task(_started(seat, _gone(ray))) for seat in self._seats]
        waiting: set[asyncio.Task[None]] = set(self._starting)
        trouble: BaseException | None = None
        try:
            async with asyncio.timeout(START_S_MAX):
                while waiting:
                    done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                    for one in done:
                        if (trouble := one.exception()) is None:
                            return
                        if not isinstance(trouble, _gone(ray)):
                            raise trouble
        except TimeoutError:
            raise Unavailable(
                f"the Ray cluster has started no worker within {START_S_MAX:.0f} s; has it room?"
            ) from None
        raise Unavailable(f"the workers of the Ray cluster do not start: {trouble}") from trouble

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        for task in self._starting:
            task.cancel()
        await asyncio.gather(*self._starting, return_exceptions=True)
        await asyncio.to_thread(_ray().shutdown)

    async def rank(self, given: CandidateList) -> Answer:
        """Return the order of a list, or the error in its place."""
        gone = _gone(_ray())
        trouble: Exception | None = None
        for sent in range(SENT_MAX):
            self.resent += sent > 0
            seat = await free(self._seats)
            seat.at_work += 1
            try:
                answer = _answer(given, await _awaited(seat.actor.rank.remote(tuple(given))))
            except gone as error:
                trouble = error
                seat.failed()
            else:
                seat.answered()
                return answer
            finally:
                seat.at_work -= 1
        message = f"sent to workers {SENT_MAX} times, and no answer came back: {trouble}"
        return Failed(given.line, given.qid, "UNAVAILABLE", message, seal=given.seal)

    def unfinished(self) -> Ledger:
        """Return nothing: only a worker knows what it spends on lists that it has not answered."""
        return Ledger()


async def _started(seat: _Seat, gone: tuple[type[Exception], ...]) -> None:
    """Let a worker take lists once it is built. One that dies before is started again by Ray, and tried again by us."""
    seat.rests_until = inf
    try:
        await _awaited(seat.actor.ready.remote())
    except gone:
        seat.rests_until = 0.0
        seat.failed()
        raise
    seat.rests_until = 0.0


def _gone(ray: Any) -> tuple[type[Exception], ...]:
    """Return what tells that a worker, its answer or the way to it was lost, and not that its code is wrong.

    An answer of some size stays on the machine that gave it until it is fetched, and is lost with it although the
    worker had ended with the list. Where the machine of the driver itself has lost the cluster, nobody answers any
    more, and the job ends as it does in any outage.
    """
    errors = ray.exceptions
    return (
        errors.RayActorError,
        errors.ObjectLostError,
        errors.NodeDiedError,
        errors.WorkerCrashedError,
        errors.OutOfMemoryError,
        errors.LocalRayletDiedError,
        errors.RaySystemError,
    )


async def _awaited(reference: Any) -> Any:
    return await reference


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise FailedPrecondition(f"--engine ray needs Ray: pip install 'podium[ray]' ({error})") from error
    return ray


def _answer(given: CandidateList, said: Mapping[str, Any]) -> Answer:
    ledger = ledgers.from_data(said["ledger"])
    if "reason" in said:
        return Failed(given.line, given.qid, said["reason"], said["message"], ledger, given.seal, said["cause"])
    warnings = tuple(Warned(*warned) for warned in said["warnings"])
    order, scores = tuple(said["order"]), tuple(said["scores"])
    return Ranked(given, order, scores, said["completion"], ledger, warnings, said["cause"])
