"""How a question is asked of a chat model: a prompt's words, a backend's calls, and the repair of what comes back.

A reply is read down a ladder. What it says plainly is taken; labels that it repeats or invents are dropped; labels
that it lacks are asked for once more, and only those (`reask_missing`); a backend that can hold a model to a form does
so (`constrained`); and what is still missing stands as it was shown. Every call counts, in `usage.repairs`, as what
its reply was (`podium_strategies.prompts.prompt.Repair`), and beside that:

- `surplus`: a whole answer with labels in it that were said twice or do not exist;
- `missing_label`: the endpoint did not report the log-probability of a label, so that its bound stands for it;
- `reask_failed`: a second call for missing labels failed, and the first reply stands as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from math import isfinite
from time import perf_counter
from typing import Any, TypeAlias

from podium_server.accounting.usage import Usage
from podium_server.backends.chat.backend import Capability, ChatBackend, ChatCall, ChatFailure, ChatReply, Message
from podium_server.errors import FailedPrecondition, PodiumError, UnreadableReply
from podium_server.judges.case import Case
from podium_server.judges.chat.documents import Documents
from podium_server.judges.chat.settings import ChatSettings
from podium_server.judges.judge import Ruling, Sink
from podium_server.judges.verdict_cache import VerdictCache
from podium_strategies.plan import Grade, Order, Pick, Prefer, Question
from podium_strategies.prompts.prompt import Prompt, Reading, Reads, Repair, Sheet
from podium_strategies.prompts.prompt import UnreadableReply as NoAnswer

Kind: TypeAlias = type[Question[Any]]

NOTE_CHARS_MAX = 400


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
class Asking:
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
        known = settled(question)
        if known is not None:
            self.sink.ruled(index, Ruling(known), elapsed_s=perf_counter() - started)
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
        call, sheet, truncated = self._call(prompt, items, top_of(question), held=self._first_held(prompt))
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
        bound = output_bound(prompt, len(items), top, self.settings)
        filled = self.documents[prompt.kind].fill(self.case, items, top, bound)
        sheet = filled.sheet
        form: dict[str, Any] = {}
        if held and prompt.reads is Reads.TEXT:
            form = held_to_form(prompt, sheet, self.able)
            if not form and self.settings.constrained == "always":
                raise FailedPrecondition(cannot_hold(self.backend, prompt))
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
        return not held and self.settings.constrained != "never" and bool(held_to_form(prompt, sheet, self.able))

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


_FALLBACK: Mapping[Kind, Any] = {
    Order: lambda n: tuple(range(n)),
    Pick: lambda n: 0,
    Prefer: lambda n: 0.5,
    Grade: lambda n: 0.0,
}
"""What stands where a reply said nothing: what was shown, as it was shown."""


def held_to_form(prompt: Prompt, sheet: Sheet, able: frozenset[Capability]) -> dict[str, Any]:
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


def cannot_hold(backend: ChatBackend, prompt: Prompt) -> str:
    """Return the sentence for a form that is always wanted, of an endpoint that knows no such form."""
    return f"constrained is 'always', and the model {backend.name} cannot be held to the form of {prompt.id}"


def settled(question: Question[Any]) -> Any:
    """Return the answer that needs no model: the order, or the best, of one; None where there is a question."""
    match question:
        case Order(candidates) if len(candidates) < 2:
            return candidates
        case Pick((only,)):
            return only
    return None


def top_of(question: Question[Any]) -> int | None:
    """Return how many of the best an order needs; None for all."""
    return question.top if isinstance(question, Order) else None


def output_bound(prompt: Prompt, n: int, top: int | None, settings: ChatSettings) -> int:
    """Return the most tokens that a reply about n documents may have."""
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
