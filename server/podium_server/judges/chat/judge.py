"""The judge that asks a chat model: whom it can answer, what is in the way, and what it would cost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from podium_server.accounting.prices import Prices
from podium_server.accounting.usage import Usage
from podium_server.backends.chat.backend import Capability, ChatBackend
from podium_server.errors import FailedPrecondition
from podium_server.judges.case import Case
from podium_server.judges.chat.documents import Documents
from podium_server.judges.chat.ladder import Asking, Kind, cannot_hold, held_to_form, output_bound, settled, top_of
from podium_server.judges.chat.settings import ChatSettings
from podium_server.judges.judge import JudgeFacts, ScoreKind, Sink
from podium_server.judges.verdict_cache import VerdictCache
from podium_strategies.plan import Grade, Question
from podium_strategies.prompts.prompt import Need, Prompt, Reads, Sheet

IN_FLIGHT_MAX = 256
"""Questions of one round that are rendered and under way at once; the backend's own limit is lower or much lower."""

_CAPABILITIES: Mapping[Need, frozenset[Capability]] = {
    Need.LABELS: frozenset({Capability.LOGPROBS, Capability.LABEL_LOGPROBS}),
    Need.CONTINUATION: frozenset({Capability.PROMPT_LOGPROBS}),
    Need.PREFILL: frozenset({Capability.PREFILL}),
}
"""Any of these will do."""


class ChatJudge:
    """Answers questions by asking a chat model.

    Args:
        backend: that reaches the model.
        prompt: the words for one kind of question, or several prompts for different kinds.
        prices: of the model, for estimates; what calls cost, the backend says.
        settings: how to ask and to repair.
        cache: of verdicts; None asks every time.

    """

    def __init__(
        self,
        backend: ChatBackend,
        prompt: Prompt | Sequence[Prompt],
        prices: Prices | None = None,
        settings: ChatSettings | None = None,
        cache: VerdictCache | None = None,
    ) -> None:
        several = (prompt,) if isinstance(prompt, Prompt) else tuple(prompt)
        self._prompts: dict[Kind, Prompt] = {one.kind: one for one in several}
        if not several or len(self._prompts) < len(several):
            raise ValueError(f"one prompt a kind of question, not {', '.join(one.id for one in several) or 'none'}")
        self._backend = backend
        self._documents = {one.kind: Documents(one, backend) for one in several}
        self._prices = prices or Prices()
        self._settings = settings or ChatSettings()
        self._cache = cache

    @property
    def facts(self) -> JudgeFacts:
        """Who this judge is."""
        grades = self._prompts.get(Grade)
        return JudgeFacts(
            model=self._backend.name,
            revision=self._backend.revision,
            answers=frozenset(self._prompts),
            score_kind=ScoreKind.NONE if grades is None else ScoreKind(grades.score),
            prompt_id="+".join(one.id for one in self._prompts.values()),
            prices=self._prices,
        )

    async def lacking(self, kinds: Iterable[Kind] | None = None) -> tuple[str, ...]:
        """Return, a sentence each, what stands in the way of questions of these kinds (all that it serves: None)."""
        kinds = tuple(self._prompts if kinds is None else kinds)
        able = await self._backend.capabilities()
        return tuple(sentence for kind in kinds for sentence in self._lacking_for(kind, able))

    def _lacking_for(self, kind: Kind, able: frozenset[Capability]) -> Iterable[str]:
        prompt = self._prompts.get(kind)
        if prompt is None:
            served = ", ".join(sorted(one.__name__ for one in self._prompts))
            yield f"the prompt {self.facts.prompt_id} answers {served}, not {kind.__name__}"
            return
        model = self._backend.name
        for need in sorted(prompt.needs, key=lambda need: need.value):
            wanted = _CAPABILITIES.get(need, frozenset())
            if wanted and not wanted & able:
                listed = " or ".join(sorted(one.value for one in wanted))
                yield f"the prompt {prompt.id} needs {listed} of the model {model}, whose endpoint gives none"
        if self._settings.constrained == "always" and prompt.reads is Reads.TEXT:
            n = 1 if kind is Grade else 2
            if not held_to_form(prompt, Sheet("", ("",) * n), able):
                yield cannot_hold(self._backend, prompt)

    # --- answering --------------------------------------------------------------------------------------------

    async def rule(self, case: Case, questions: Sequence[Question[Any]], sink: Sink) -> None:
        """Answer every question, side by side; see `Judge.rule`."""
        asking = await self._asking(case, questions, sink)
        if len(questions) == 1:
            await asking.rule(0, questions[0])
            return
        waiting = iter(enumerate(questions))

        async def work() -> None:
            for index, question in waiting:
                await asking.rule(index, question)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(len(questions), IN_FLIGHT_MAX)):
                    group.create_task(work())
        except BaseExceptionGroup as failures:
            # The first failure ended the others; it is the one to tell.
            raise _first(failures) from None

    async def _asking(self, case: Case, questions: Sequence[Question[Any]], sink: Sink) -> Asking:
        kinds = {type(question) for question in questions}
        for kind in kinds:
            if kind not in self._prompts:
                raise FailedPrecondition("; ".join(self._lacking_for(kind, frozenset())))
        # The probe is remembered by the backend, and made only where its result matters: for a form to hold the
        # model to, and for the revision, which is part of a verdict's key.
        read = any(self._prompts[kind].reads is Reads.TEXT for kind in kinds)
        needs = any(self._prompts[kind].needs for kind in kinds)
        matters = self._cache is not None or needs or (read and self._may_hold(kinds))
        able = await self._backend.capabilities() if matters else frozenset()
        if needs and (lacking := [sentence for kind in kinds for sentence in self._lacking_for(kind, able)]):
            raise FailedPrecondition("; ".join(lacking))
        return Asking(self._backend, self._prompts, self._documents, self._settings, self._cache, case, sink, able)

    def _may_hold(self, kinds: Iterable[Kind]) -> bool:
        match self._settings.constrained:
            case "never":
                return False
            case "always":
                return True
        return self._settings.reask_missing > 0 or any(not self._prompts[kind].trained for kind in kinds)

    # --- quoting ----------------------------------------------------------------------------------------------

    def estimate(self, case: Case, questions: Sequence[Question[Any]]) -> Usage:
        """Return the priced usage of asking each question once, at the usual length of replies."""
        calls = prompt_tokens = output_tokens = pairs = 0
        for question in questions:
            prompt = self._prompts.get(type(question))
            if prompt is None:
                raise FailedPrecondition("; ".join(self._lacking_for(type(question), frozenset())))
            n = len(question.items)
            if settled(question) is not None:
                continue
            top = top_of(question)
            calls += 1
            bound = output_bound(prompt, n, top, self._settings)
            prompt_tokens += self._documents[prompt.kind].tokens(case, question.items, top, bound)
            output_tokens += min(bound, prompt.usual_output_tokens(n, top))
            pairs += isinstance(question, Grade)
        usage = Usage(calls=calls, prompt_tokens=prompt_tokens, output_tokens=output_tokens, pairs=pairs)
        return self._prices.charge(usage)


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    first: BaseException = failures
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first
