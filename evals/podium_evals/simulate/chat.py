"""The simulated judge as a backend of Podium in this process, on a simulated clock: no socket, no waiting.

Its calls carry no price: what a run used is charged once, at its end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from podium_evals.simulate.endpoint import Endpoint, measured, tokens_of
from podium_evals.simulate.judge import Judge
from podium_evals.simulate.recognise import Said
from podium_evals.simulate.replies import Reply
from podium_server.accounting.usage import Usage
from podium_server.backends.chat.backend import Capability, ChatCall, ChatReply
from podium_server.backends.chat.openai.fields import TOP_LOGPROBS_MAX
from podium_server.backends.chat.openai.replies import label_logprobs

CAPABILITIES = frozenset({Capability.TEXT, Capability.LOGPROBS, Capability.PREFILL, Capability.CACHED_TOKENS})
"""What the server has, too: what Podium's probe finds out about it."""


@dataclass(slots=True)
class SimulatedChat:
    """A `ChatBackend` that asks the judge directly.

    Args:
        judge: who answers.
        endpoint: with its cache and its queue.
        now: of the simulated clock, in seconds; every call moves it to its end.

    """

    judge: Judge
    endpoint: Endpoint
    name: str = "simulated"
    revision: str = "simulated"
    variant: str = ""
    context_tokens: int | None = None
    now: float = field(default=0.0)

    async def capabilities(self) -> frozenset[Capability]:
        """Return what the endpoint can do."""
        return CAPABILITIES

    async def complete(
        self,
        call: ChatCall,
        *,
        deadline_at: float | None = None,
        on_cancel: Callable[[Usage], None] | None = None,
    ) -> ChatReply:
        """Make one call. It never waits, so that it cannot be cancelled."""
        messages = [Said(turn.role, turn.content) for turn in call.messages]
        reply, _ = self.judge.reply(messages)
        text, finish_reason, output_tokens = bounded(reply, call.max_output_tokens)
        prompt = measured(messages, continues=messages[-1].role == "assistant")
        served = self.endpoint.serve(self.now, prompt, output_tokens)
        usage = Usage(
            calls=1,
            prompt_tokens=prompt.tokens,
            cached_tokens=served.cached_tokens,
            output_tokens=output_tokens,
            backend_s=served.finished_at - self.now,
        )
        self.now = served.finished_at
        told = reply.first_token[:TOP_LOGPROBS_MAX]
        found, unseen = label_logprobs(told, call.labels, None) if call.labels else (None, None)
        return ChatReply(text, finish_reason, found, unseen, usage=usage, model=self.name)

    def count_tokens(self, text: str) -> int:
        """Return the tokens of a text, one a line end."""
        return sum(tokens_of(line) for line in text.split("\n")) + text.count("\n")

    def shorten(self, text: str, max_tokens: int, *, from_start: bool = False) -> tuple[str, bool]:
        """Refuse: nothing here is too long for a model without a bound."""
        raise NotImplementedError("the simulated model holds prompts of any length")

    async def aclose(self) -> None:
        """Do nothing: there is no connection."""


def bounded(reply: Reply, max_tokens: int) -> tuple[str, str, int]:
    """Return text, finish reason and tokens of a reply that may have `max_tokens` at most.

    Words are kept whole: a cut falls before the first one that would pass the bound; of a single token asked for, the
    likeliest one is given.
    """
    words = reply.text.split(" ")
    counts = [max(1, tokens_of(word)) for word in words]
    total = sum(counts)
    if total <= max_tokens:
        return reply.text, reply.finish_reason, total
    if max_tokens == 1:
        return reply.first_token[0][0], "length", 1
    kept = 0
    used = 0
    while kept < len(words) and used + counts[kept] <= max_tokens:
        used += counts[kept]
        kept += 1
    return " ".join(words[:kept]), "length", max(used, 1)
