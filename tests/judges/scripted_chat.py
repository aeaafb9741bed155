"""A chat model that says what a test tells it to say. A token is a word with the blanks behind it."""

import asyncio
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from podium_server.accounting.prices import Prices
from podium_server.accounting.usage import Usage
from podium_server.backends.chat.backend import Capability, ChatCall, ChatReply
from podium_server.judges.judge import Ruling

TOKENS = re.compile(r"\s*\S+\s*?(?=\s|$)|\s+")
PRICES = Prices(prompt_usd_per_mtok=1.0, output_usd_per_mtok=2.0)


@dataclass
class ScriptedChat:
    """Answers a call with what `script` returns for it: a text, a reply, an error to raise, or an event to wait for."""

    script: Callable[[ChatCall], str | ChatReply | Exception | asyncio.Event]
    can: frozenset[Capability] = frozenset(
        {Capability.TEXT, Capability.LOGPROBS, Capability.PROMPT_LOGPROBS, Capability.PREFILL}
    )
    context_tokens: int | None = None
    name: str = "scripted"
    revision: str = "scripted-1"
    variant: str = ""
    calls: list[ChatCall] = field(default_factory=list)
    counted: int = 0

    async def capabilities(self) -> frozenset[Capability]:
        return self.can

    async def complete(
        self,
        call: ChatCall,
        *,
        deadline_at: float | None = None,
        on_cancel: Callable[[Usage], None] | None = None,
    ) -> ChatReply:
        self.calls.append(call)
        said = self.script(call)
        prompt = Usage(calls=1, prompt_tokens=self.prompt_tokens(call))
        if isinstance(said, asyncio.Event):
            try:
                await said.wait()
            except asyncio.CancelledError:
                assert on_cancel is not None
                on_cancel(PRICES.charge(prompt))
                raise
            said = "[1]"
        if isinstance(said, Exception):
            raise said
        reply = ChatReply(said) if isinstance(said, str) else said
        usage = replace(prompt, output_tokens=self.count_tokens(reply.text))
        return replace(reply, usage=PRICES.charge(usage))

    def prompt_tokens(self, call: ChatCall) -> int:
        """Return what a template with 5 tokens a turn would make of it."""
        return sum(self._count(message.content) + 5 for message in call.messages)

    def count_tokens(self, text: str) -> int:
        self.counted += 1
        return self._count(text)

    def _count(self, text: str) -> int:
        return len(TOKENS.findall(text))

    def shorten(self, text: str, max_tokens: int, *, from_start: bool = False) -> tuple[str, bool]:
        tokens = TOKENS.findall(text)
        if len(tokens) <= max_tokens:
            return text, False
        kept = tokens[len(tokens) - max_tokens :] if from_start else tokens[:max_tokens]
        return "".join(kept), True

    async def aclose(self) -> None:
        pass


@dataclass
class Collected:
    """A sink that keeps what it is given."""

    rulings: dict[int, Ruling] = field(default_factory=dict)
    in_vain: list[Usage] = field(default_factory=list)
    elapsed: list[float] = field(default_factory=list)

    def ruled(self, index: int, ruling: Ruling, *, elapsed_s: float) -> None:
        assert index not in self.rulings
        self.rulings[index] = ruling
        self.elapsed.append(elapsed_s)

    def spent(self, usage: Usage) -> None:
        self.in_vain.append(usage)

    @property
    def answers(self) -> list[object]:
        return [self.rulings[index].answer for index in sorted(self.rulings)]

    @property
    def usage(self) -> Usage:
        return sum((ruling.usage for ruling in self.rulings.values()), sum(self.in_vain, Usage()))


def saying(*replies: str | ChatReply | Exception) -> Callable[[ChatCall], str | ChatReply | Exception]:
    """Return a script that says these, one a call."""
    left: Iterable[str | ChatReply | Exception] = iter(replies)
    return lambda call: next(left)  # type: ignore[call-overload]
