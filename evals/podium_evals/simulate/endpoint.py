"""The endpoint around the judge: what a conversation is in tokens, what its prefix cache holds, and how long it takes.

Time is whatever clock the caller has: a server's, or a simulated one. The model of latency is stated, not measured:
prompts are worked on one after another at `prefill_tokens_per_s` (an accelerator that is kept busy by one prompt), less
what the prefix cache holds; replies are written side by side at `decode_tokens_per_s` each, at most `slots` of them;
and every call takes `overhead_s` beside.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from heapq import heappop, heappush
from importlib.resources import files

from podium_evals.simulate.recognise import Said
from podium_server.backends.chat.tokens import TokenCounter, load_tokens
from podium_server.judges.chat.documents import TOKENS_PER_CALL, TOKENS_PER_TURN

BLOCK = 16
"""Tokens of a block of the prefix cache (vLLM's); only whole blocks are served from it."""
PREFIXES_MAX = 200_000
"""Lines of prompts that the prefix cache remembers; the oldest give way."""


@lru_cache(maxsize=1)
def _counter() -> TokenCounter:
    """Return the tokens of the embedded encoder: a real vocabulary (30,522 word pieces) that every machine has."""
    return load_tokens(str(files("podium_server") / "models" / "all-minilm-l6-v2"))


@lru_cache(maxsize=1 << 17)
def tokens_of(line: str) -> int:
    """Return the tokens of a text without line ends."""
    return _counter().count(line)


@dataclass(frozen=True, slots=True)
class Measured:
    """A conversation in tokens.

    Args:
        lines: a hash for the beginning of the prompt that ends with each line, and the tokens until there.
        tokens: of the whole prompt.

    """

    lines: tuple[tuple[int, int], ...]
    tokens: int


def measured(messages: Sequence[Said], *, continues: bool = False) -> Measured:
    """Count a conversation: its lines, one token a line end, and what chat templates put around turns.

    Args:
        messages: of it.
        continues: the last turn is the beginning of the reply, and is not closed.

    """
    lines = []
    state, total = 0, 0
    for place, (role, content) in enumerate(messages):
        around = 0 if continues and place == len(messages) - 1 else TOKENS_PER_TURN
        for number, line in enumerate(content.split("\n")):
            total += tokens_of(line) + (1 if number else around)
            state = hash((state, role if not number else "", line))
            lines.append((state, total))
    return Measured(tuple(lines), total + TOKENS_PER_CALL)


@dataclass(frozen=True, slots=True)
class Latency:
    """How long a call takes. The defaults are the order of magnitude of a 7B model on one accelerator.

    Args:
        prefill_tokens_per_s: of prompts, one after another.
        decode_tokens_per_s: of each reply.
        overhead_s: of each call.
        slots: replies written at the same time.

    """

    prefill_tokens_per_s: float = 15_000.0
    decode_tokens_per_s: float = 50.0
    overhead_s: float = 0.02
    slots: int = 64

    def __post_init__(self) -> None:
        for name in ("prefill_tokens_per_s", "decode_tokens_per_s", "slots"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}: above 0")
        if self.overhead_s < 0:
            raise ValueError(f"overhead_s is {self.overhead_s}: 0 or more")

    @classmethod
    def parse(cls, text: str) -> Latency | None:
        """Read `none`, `model` (the defaults), or `prefill_tokens_per_s=20000,slots=16`.

        Raises:
            ValueError: with the names that there are.

        """
        if text == "none":
            return None
        known = {item.name: item for item in fields(cls)}
        given: dict[str, float] = {}
        for part in text.split(",") if text != "model" else ():
            name, _, value = part.partition("=")
            if name not in known:
                raise ValueError(f"{part!r}: none, model, or NAME=NUMBER with {', '.join(known)}")
            given[name] = float(value)
        slots = int(given.pop("slots", cls().slots))
        return cls(**given, slots=slots)


@dataclass(frozen=True, slots=True)
class Served:
    """What became of one call.

    Args:
        cached_tokens: of the prompt, from the prefix cache.
        prefilled_at: when the first token was out.
        finished_at: when the reply was.

    """

    cached_tokens: int
    prefilled_at: float
    finished_at: float


@dataclass(slots=True)
class Endpoint:
    """One server with its cache and its queue.

    Args:
        latency: None answers at once.

    """

    latency: Latency | None = None
    _known: OrderedDict[int, float] = field(default_factory=OrderedDict)
    _free_at: float = 0.0
    _writing: list[float] = field(default_factory=list)

    def serve(self, now: float, prompt: Measured, output_tokens: int) -> Served:
        """Take a call at `now` (calls come in the order of time) and return when it is done."""
        start = now
        if self.latency is not None:
            start = max(now + self.latency.overhead_s, self._free_at)
            while self._writing and self._writing[0] <= start:
                heappop(self._writing)
            if len(self._writing) >= self.latency.slots:
                start = heappop(self._writing)
        cached = self._cached(prompt)
        prefilled = finished = start
        if self.latency is not None:
            prefilled = start + (prompt.tokens - cached) / self.latency.prefill_tokens_per_s
            finished = prefilled + output_tokens / self.latency.decode_tokens_per_s
            self._free_at = prefilled
            heappush(self._writing, finished)
        for state, _ in prompt.lines:
            self._known[state] = prefilled
            self._known.move_to_end(state)
        while len(self._known) > PREFIXES_MAX:
            self._known.popitem(last=False)
        return Served(cached, prefilled, finished)

    def _cached(self, prompt: Measured) -> int:
        """Return the tokens of the longest beginning that a call before had, in whole blocks, all but one at most."""
        known = 0
        for state, tokens in prompt.lines:
            if state not in self._known:
                break
            known = tokens
        return min(known, prompt.tokens - 1) // BLOCK * BLOCK
