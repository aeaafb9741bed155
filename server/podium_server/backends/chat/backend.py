"""The contract of a model that continues text: one call in, one reply out, and what it used.

Prompts, labels and the reading of replies belong to judges; connections, retries, limits and tokens belong here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from podium_server.accounting.usage import Usage


class Capability(Enum):
    """What an endpoint can really do, found by trying: a 200 proves nothing."""

    TEXT = "text"
    LOGPROBS = "logprobs"
    """Log-probabilities of the likeliest tokens of the reply."""
    LABEL_LOGPROBS = "label_logprobs"
    """Log-probabilities of tokens that the call names, however unlikely (vLLM's `logprob_token_ids`)."""
    PROMPT_LOGPROBS = "prompt_logprobs"
    JSON_SCHEMA = "json_schema"
    CHOICE = "choice"
    REGEX = "regex"
    PREFILL = "prefill"
    """The model continues a reply that the call begins (a last turn of the assistant's)."""
    CACHED_TOKENS = "cached_tokens"
    """The usage tells how many prompt tokens the prefix cache served."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. `role` is `system`, `user` or `assistant`."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class ChatCall:
    """One call to a model.

    Args:
        messages: the conversation. Where the last is an assistant's, the model continues it (a prefill).
        max_output_tokens: a bound on the reply, reasoning included.
        temperature: 0 takes the likeliest token.
        seed: for endpoints that sample.
        labels: where set, the log-probability of each label as the reply's first token is wanted.
        schema: a JSON schema that the reply must satisfy, for endpoints that can hold a model to one.
        choice: the only replies allowed, likewise.
        regex: a pattern that the reply must match, likewise.
        stop: strings that end the reply.
        score_continuation: where set, no reply is wanted, but the log-probability of this text after the messages.

    """

    messages: tuple[Message, ...]
    max_output_tokens: int
    temperature: float = 0.0
    seed: int | None = None
    labels: tuple[str, ...] | None = None
    schema: Mapping[str, Any] | None = None
    choice: tuple[str, ...] | None = None
    regex: str | None = None
    stop: tuple[str, ...] = ()
    score_continuation: str | None = None


@dataclass(frozen=True, slots=True)
class ChatReply:
    """What came back.

    Args:
        text: of the reply, reasoning left out.
        finish_reason: as the endpoint says: `stop`, `length`, `content_filter`, …
        label_logprobs: natural logarithms, by label, of those that the endpoint reported; None where not asked for.
        unseen_logprob: no label that is missing there can be likelier than this; None where none is missing.
        continuation_logprob: of `score_continuation`, summed over its tokens; None where not asked for.
        usage: of all attempts, priced.
        model: what the endpoint says answered.

    """

    text: str
    finish_reason: str = "stop"
    label_logprobs: Mapping[str, float] | None = None
    unseen_logprob: float | None = None
    continuation_logprob: float | None = None
    usage: Usage = field(default_factory=Usage)
    model: str = ""


class ChatFailure(Exception):
    """A call failed for good, and had used something by then. `cause` is the typed error to raise further up."""

    def __init__(self, cause: Exception, usage: Usage) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.usage = usage


class ChatBackend(Protocol):
    """One model behind one or more endpoints, or in the process."""

    @property
    def name(self) -> str:
        """The configured model's name."""

    @property
    def revision(self) -> str:
        """What the backend says that it serves; the configured model id until it has said so."""

    @property
    def variant(self) -> str:
        """Whatever else the configuration says that changes replies: with `name` and `revision`, who was asked."""

    async def capabilities(self) -> frozenset[Capability]:
        """Return what the endpoint can do, by trying once; remembered for the life of the backend."""

    async def complete(
        self,
        call: ChatCall,
        *,
        deadline_at: float | None = None,
        on_cancel: Callable[[Usage], None] | None = None,
    ) -> ChatReply:
        """Make one call, with bounded retries, each charged.

        Args:
            call: what to ask.
            deadline_at: `time.monotonic()` seconds; no attempt starts or lasts beyond it.
            on_cancel: is given the usage of a cancelled call: attempts made, and the prompt tokens sent.

        Raises:
            ChatFailure: with the typed cause (`BackendDown`, `BackendRefused`, `Overloaded`, `DeadlineExceeded`)
                and the usage of all attempts.
            asyncio.CancelledError: the stream is closed; what the attempts are known to have used has been
                given to `on_cancel` first.

        """

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of `text`: exact with the configured tokenizer, else an upper estimate."""

    def shorten(self, text: str, max_tokens: int, *, from_start: bool = False) -> tuple[str, bool]:
        """Cut `text` to at most `max_tokens` tokens at its end (or start); return it and whether it was cut."""

    @property
    def context_tokens(self) -> int | None:
        """The most tokens, prompt and reply together, that the model can hold; None where unknown."""

    async def aclose(self) -> None:
        """Close connections. Calls under way are cancelled."""
