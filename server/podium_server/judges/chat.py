"""The judge that asks a chat model: a prompt's words, a backend's calls, and the repair of what comes back.

A reply is read down a ladder. What it says plainly is taken; labels that it repeats or invents are dropped; labels
that it lacks are asked for once more, and only those (`reask_missing`); a backend that can hold a model to a form does
so (`constrained`); and what is still missing stands as it was shown. Every call counts, in `usage.repairs`, as what
its reply was (`podium_strategies.prompts.prompt.Repair`), and beside that:

- `surplus`: a whole answer with labels in it that were said twice or do not exist;
- `missing_label`: the endpoint did not report the log-probability of a label, so that its bound stands for it;
- `reask_failed`: a second call for missing labels failed, and the first reply stands as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from math import isfinite
from time import perf_counter
from typing import Any, Literal, Protocol, TypeAlias

from podium_server.accounting.prices import Prices
from podium_server.accounting.usage import Usage
from podium_server.backends.chat.backend import Capability, ChatBackend, ChatCall, ChatFailure, ChatReply, Message
from podium_server.errors import FailedPrecondition, PodiumError, UnreadableReply
from podium_server.judges.case import Case
from podium_server.judges.chat_documents import Documents
from podium_server.judges.judge import JudgeFacts, Ruling, ScoreKind, Sink
from podium_strategies.plan import Grade, Order, Pick, Prefer, Question
from podium_strategies.prompts.prompt import Need, Prompt, Reading, Reads, Repair, Sheet
from podium_strategies.prompts.prompt import UnreadableReply as NoAnswer

Kind: TypeAlias = type[Question[Any]]

IN_FLIGHT_MAX = 256
"""Questions of one round that are rendered and under way at once; the backend's own limit is lower or much lower."""
NOTE_CHARS_MAX = 400


@dataclass(frozen=True, slots=True)
class ChatSettings:
    """How a judge asks and how it repairs.

    The defaults ask once, at temperature 0, and keep the shown order of what a reply lacks, which is how the results
    of trained rankers were published.

    Args:
        on_unreadable: what a reply without any answer leads to: `keep-order` (the shown order, the first shown, an
            even preference, the grade 0), counted; or `fail`, the error `UnreadableReply`.
        reask_missing: how many more calls a question may take for labels that the reply lacks.
        constrained: whether the backend holds the model to the form of an answer. `auto`: where it can, in a second
            call, and for prompts of ours in the first call, too; `always`: in every call, or not at all; `never`.
        temperature: 0 takes the likeliest token.
        max_output_tokens: instead of the prompt's own bound on replies that are read as text; for models that think.

    """

    on_unreadable: Literal["keep-order", "fail"] = "keep-order"
    reask_missing: int = 0
    constrained: Literal["auto", "never", "always"] = "auto"
    temperature: float = 0.0
    max_output_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.on_unreadable not in ("keep-order", "fail"):
            raise ValueError(f"on_unreadable is {self.on_unreadable!r}, and must be 'keep-order' or 'fail'")
        if not 0 <= self.reask_missing <= 5:
            raise ValueError(f"reask_missing is {self.reask_missing}: 0 to 5")
        if self.constrained not in ("auto", "never", "always"):
            raise ValueError(f"constrained is {self.constrained!r}, and must be 'auto', 'never' or 'always'")
        if not 0 <= self.temperature <= 2:
            raise ValueError(f"temperature is {self.temperature}: 0 to 2")
        if self.max_output_tokens is not None and self.max_output_tokens < 1:
            raise ValueError(f"max_output_tokens is {self.max_output_tokens}: at least 1")


class VerdictCache(Protocol):
    """Remembers what a model answered. Neither method waits for a disk's writing."""

    def get(self, key: bytes) -> tuple[Any, str] | None:
        """Return the answer and its note; None where there is none."""

    def put(self, key: bytes, answer: Any, note: str) -> None:
        """Remember an answer (numbers, and sequences of them)."""


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
            if not _held(prompt, Sheet("", ("",) * n), able):
                yield _cannot_hold(self._backend, prompt)

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

    async def _asking(self, case: Case, questions: Sequence[Question[Any]], sink: Sink) -> _Asking:
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
        return _Asking(self._backend, self._prompts, self._documents, self._settings, self._cache, case, sink, able)

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
            if _settled(question) is not None:
                continue
            top = _top(question)
            calls += 1
            bound = _output_bound(prompt, n, top, self._settings)
            prompt_tokens += self._documents[prompt.kind].tokens(case, question.items, top, bound)
            output_tokens += min(bound, prompt.usual_output_tokens(n, top))
            pairs += isinstance(question, Grade)
        usage = Usage(calls=calls, prompt_tokens=prompt_tokens, output_tokens=output_tokens, pairs=pairs)
        return self._prices.charge(usage)


@dataclass(slots=True)
class _Tab:
    """What one question has used so far."""

    usage: Usage = field(default_factory=Usage)
    malformed: bool = False
    note: str = ""

    def add(self, reply: ChatReply, truncated: int) -> None:
        self.usage = self.usage + reply.usage
        if truncated:
            self.usage = self.usage + Usage(truncated_documents=truncated)
        self.note = reply.text[:NOTE_CHARS_MAX]

    def count(self, *names: str) -> None:
        self.usage = self.usage + Usage(repairs=dict.fromkeys(names, 1))


@dataclass(frozen=True, slots=True)
class _Asking:
    """The questions of one call of `rule`, and what all of them share."""

    backend: ChatBackend
    prompts: Mapping[Kind, Prompt]
    documents: Mapping[Kind, Documents]
    settings: ChatSettings
    cache: VerdictCache | None
    case: Case
    sink: Sink
    able: frozenset[Capability]

    async def rule(self, index: int, question: Question[Any]) -> None:
        """Answer one question and deliver it; or report what was spent on it in vain."""
        started = perf_counter()
        settled = _settled(question)
        if settled is not None:
            self.sink.ruled(index, Ruling(settled), elapsed_s=perf_counter() - started)
            return
        tab = _Tab()
        answered = False
        try:
            answer = await self._answer(question, tab)
            answered = True
        finally:
            if not answered and tab.usage != Usage():
                self.sink.spent(tab.usage)
        ruling = Ruling(answer, tab.usage, tab.malformed, tab.note)
        self.sink.ruled(index, ruling, elapsed_s=perf_counter() - started)

    async def _answer(self, question: Question[Any], tab: _Tab) -> Any:
        """Return the answer in items of the pool."""
        items = question.items
        prompt = self.prompts[type(question)]
        call, sheet, truncated = self._call(prompt, items, _top(question), held=self._first_held(prompt))
        key = b"" if self.cache is None else self._key(prompt, call)
        if self.cache is not None:
            known = self.cache.get(key)
            if known is not None:
                tab.usage = Usage(cache_hits=1)
                (places, tab.malformed), tab.note = known
                return _in_items(question, places)
        try:
            places = await self._places(prompt, question, call, sheet, truncated, tab)
        except NoAnswer as error:
            tab.malformed = True
            if self.settings.on_unreadable == "fail":
                raise UnreadableReply(
                    f"the model {self.backend.name} was asked with {prompt.id}: {error}",
                    metadata={"model": self.backend.name, "prompt": prompt.id},
                ) from error
            # Not remembered: another try, or another version of the same model, may do better.
            return _in_items(question, _FALLBACK[type(question)](len(items)))
        if self.cache is not None:
            self.cache.put(key, (places, tab.malformed), tab.note)
        return _in_items(question, places)

    async def _places(
        self, prompt: Prompt, question: Question[Any], call: ChatCall, sheet: Sheet, truncated: int, tab: _Tab
    ) -> Any:
        """Return the answer in places of the sheet.

        Raises:
            podium_strategies.prompts.prompt.UnreadableReply: after every rung of the ladder.

        """
        if prompt.reads is Reads.TEXT:
            if isinstance(question, Order):
                return await self._order(prompt, question, call, sheet, truncated, tab)
            return await self._choice(prompt, question, call, sheet, truncated, tab)
        reply = await self._complete(call, truncated, tab)
        if prompt.reads is Reads.CONTINUATION:
            if reply.continuation_logprob is None:
                raise self._gives_no("log-probability of a continuation", prompt)
            tab.count(Repair.OK.value)
            return reply.continuation_logprob
        return prompt.weigh(self._weights(prompt, call.labels or (), reply, tab), sheet.n)

    async def _order(
        self, prompt: Prompt, question: Order, call: ChatCall, sheet: Sheet, truncated: int, tab: _Tab
    ) -> tuple[int, ...]:
        """Read an order; ask again for what is missing; put what is missing then behind, as it was shown."""
        left = list(range(sheet.n))
        named: list[int] = []
        unreadable: NoAnswer | None = None
        for more in range(self.settings.reask_missing, -1, -1):
            try:
                reply = await self._complete(call, truncated, tab)
            except PodiumError:
                if not named:
                    raise
                # An answer with a gap is there, and was paid for.
                tab.count("reask_failed")
                break
            try:
                reading = self._read(prompt, reply, sheet, tab)
            except NoAnswer as error:
                unreadable = error
                if not more or not self._other_than(call, prompt, sheet):
                    break
            else:
                named += [left[place] for place in reading.answer]
                known = set(named)
                left = [place for place in left if place not in known]
                enough = reading.repair is Repair.OK or (question.top is not None and len(named) >= question.top)
                if enough or len(left) < 2 or not more:
                    break
            # Only what is missing is shown again. One missing document needs no question.
            again = [question.candidates[place] for place in left]
            top = None if question.top is None else question.top - len(named)
            call, sheet, truncated = self._call(prompt, again, top, held=self.settings.constrained != "never")
        if not named and unreadable is not None:
            raise unreadable
        return (*named, *left)

    async def _choice(
        self, prompt: Prompt, question: Question[Any], call: ChatCall, sheet: Sheet, truncated: int, tab: _Tab
    ) -> Any:
        """Read one answer; where there is none, ask once more if the model can be held to the form now."""
        reply = await self._complete(call, truncated, tab)
        try:
            return self._read(prompt, reply, sheet, tab).answer
        except NoAnswer:
            if not self.settings.reask_missing or not self._other_than(call, prompt, sheet):
                raise
        call, sheet, truncated = self._call(prompt, question.items, None, held=True)
        reply = await self._complete(call, truncated, tab)
        return self._read(prompt, reply, sheet, tab).answer

    def _read(self, prompt: Prompt, reply: ChatReply, sheet: Sheet, tab: _Tab) -> Reading:
        try:
            reading = prompt.read(reply.text, sheet)
        except NoAnswer:
            tab.malformed = True
            tab.count(Repair.UNREADABLE.value)
            raise
        tab.malformed = tab.malformed or reading.repair is not Repair.OK
        if reading.surplus and reading.repair is Repair.OK:
            tab.count(reading.repair.value, "surplus")
        else:
            tab.count(reading.repair.value)
        return reading

    def _weights(self, prompt: Prompt, labels: Sequence[str], reply: ChatReply, tab: _Tab) -> list[float]:
        """Return a log-probability for every label; a bound stands for what the endpoint left out."""
        if reply.label_logprobs is None:
            raise self._gives_no("log-probabilities", prompt)
        seen = {label: value for label, value in reply.label_logprobs.items() if isfinite(value)}
        known = [seen[label] for label in labels if label in seen]
        if not known:
            tab.count(Repair.UNREADABLE.value)
            raise NoAnswer(f"label of {', '.join(labels)}", reply.text)
        if len(known) == len(labels):
            tab.count(Repair.OK.value)
            return known
        tab.count(Repair.OK.value, "missing_label")
        # An endpoint reports its likeliest tokens, so what it left out is no likelier than the least of what it told.
        bound = min(known) if reply.unseen_logprob is None else reply.unseen_logprob
        return [seen.get(label, bound) for label in labels]

    def _gives_no(self, what: str, prompt: Prompt) -> FailedPrecondition:
        return FailedPrecondition(f"the model {self.backend.name} gave no {what}, which the prompt {prompt.id} reads")

    # --- calling ----------------------------------------------------------------------------------------------

    async def _complete(self, call: ChatCall, truncated: int, tab: _Tab) -> ChatReply:
        """Make one call and enter what it used.

        Raises:
            PodiumError: the backend's.

        """
        try:
            reply = await self.backend.complete(call, deadline_at=self.case.deadline_at, on_cancel=self.sink.spent)
        except ChatFailure as failure:
            tab.usage = tab.usage + failure.usage
            raise failure.cause from failure
        tab.add(reply, truncated)
        return reply

    def _call(
        self, prompt: Prompt, items: Sequence[int], top: int | None, *, held: bool
    ) -> tuple[ChatCall, Sheet, int]:
        """Return the call that asks about `items`, the sheet that it shows, and how many documents were cut."""
        if prompt.max_documents is not None and len(items) > prompt.max_documents:
            raise FailedPrecondition(
                f"the prompt {prompt.id} tells {prompt.max_documents} documents apart, not {len(items)}"
            )
        bound = _output_bound(prompt, len(items), top, self.settings)
        filled = self.documents[prompt.kind].fill(self.case, items, top, bound)
        sheet = filled.sheet
        form: dict[str, Any] = {}
        if held and prompt.reads is Reads.TEXT:
            form = _held(prompt, sheet, self.able)
            if not form and self.settings.constrained == "always":
                raise FailedPrecondition(_cannot_hold(self.backend, prompt))
        call = ChatCall(
            messages=tuple(Message(turn.role, turn.content) for turn in prompt.render(sheet)),
            max_output_tokens=bound,
            temperature=self.settings.temperature,
            # Without sampling a seed changes nothing, and would only keep equal questions from being known as equal.
            seed=self.case.seed if self.settings.temperature > 0 else None,
            labels=prompt.labels(sheet.n) or None,
            score_continuation=prompt.continuation(sheet) or None,
            **form,
        )
        return call, sheet, filled.truncated

    def _first_held(self, prompt: Prompt) -> bool:
        """Tell whether the first call of a question is held to its form: a trained model writes it by itself."""
        constrained = self.settings.constrained
        return constrained == "always" or (constrained == "auto" and not prompt.trained)

    def _other_than(self, call: ChatCall, prompt: Prompt, sheet: Sheet) -> bool:
        """Tell whether asking the same again can bring another reply."""
        if self.settings.temperature > 0:
            return True
        held = call.schema is not None or call.regex is not None or call.choice is not None
        return not held and self.settings.constrained != "never" and bool(_held(prompt, sheet, self.able))

    def _key(self, prompt: Prompt, call: ChatCall) -> bytes:
        """Return a hash of everything that the answer depends on."""
        digest = blake2b(digest_size=32)
        parts: tuple[object, ...] = (
            self.backend.name,
            self.backend.revision,
            self.backend.variant,
            prompt.id,
            prompt.digest,
            self.settings.reask_missing,
            self.settings.constrained,
            call.max_output_tokens,
            call.temperature,
            call.seed,
            call.labels,
            call.schema,
            call.choice,
            call.regex,
            call.score_continuation,
        )
        for part in (repr(parts), *(text for message in call.messages for text in (message.role, message.content))):
            raw = part.encode("utf-8", "surrogatepass")
            digest.update(len(raw).to_bytes(8, "little"))
            digest.update(raw)
        return digest.digest()


_CAPABILITIES: Mapping[Need, frozenset[Capability]] = {
    Need.LABELS: frozenset({Capability.LOGPROBS, Capability.LABEL_LOGPROBS}),
    Need.CONTINUATION: frozenset({Capability.PROMPT_LOGPROBS}),
    Need.PREFILL: frozenset({Capability.PREFILL}),
}
"""Any of these will do."""

_FALLBACK: Mapping[Kind, Any] = {
    Order: lambda n: tuple(range(n)),
    Pick: lambda n: 0,
    Prefer: lambda n: 0.5,
    Grade: lambda n: 0.0,
}
"""What stands where a reply said nothing: what was shown, as it was shown."""


def _held(prompt: Prompt, sheet: Sheet, able: frozenset[Capability]) -> dict[str, Any]:
    """Return the arguments of a call that hold the model to the prompt's form, in a way that the endpoint knows."""
    form = prompt.constraint(sheet)
    if form is None:
        return {}
    if form.choice is not None and Capability.CHOICE in able:
        return {"choice": form.choice}
    if form.schema is not None and Capability.JSON_SCHEMA in able:
        return {"schema": form.schema}
    if form.regex is not None and Capability.REGEX in able:
        return {"regex": form.regex}
    return {}


def _cannot_hold(backend: ChatBackend, prompt: Prompt) -> str:
    return f"constrained is 'always', and the model {backend.name} cannot be held to the form of {prompt.id}"


def _settled(question: Question[Any]) -> Any:
    """Return the answer that needs no model: the order, or the best, of one; None where there is a question."""
    match question:
        case Order(candidates) if len(candidates) < 2:
            return candidates
        case Pick((only,)):
            return only
    return None


def _top(question: Question[Any]) -> int | None:
    return question.top if isinstance(question, Order) else None


def _output_bound(prompt: Prompt, n: int, top: int | None, settings: ChatSettings) -> int:
    if prompt.reads is Reads.TEXT and settings.max_output_tokens is not None:
        return settings.max_output_tokens
    return prompt.max_output_tokens(n, top)


def _in_items(question: Question[Any], places: Any) -> Any:
    """Turn an answer in places of the sheet into one in items of the pool. Scores and probabilities name none."""
    match question:
        case Order(candidates):
            return tuple(candidates[place] for place in places)
        case Pick(candidates):
            return candidates[places]
    return places


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    first: BaseException = failures
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first
