"""The limits of calls to a model behind OpenAI-compatible endpoints."""

from __future__ import annotations

from dataclasses import dataclass

from podium_server.backends.chat.endpoints import EndpointLimits


@dataclass(frozen=True, slots=True)
class ChatSettings:
    """The limits of one model's calls.

    Args:
        attempts_max: of one call, the first included.
        reply_wait_s_max: of one attempt, from sending to the last byte. Longer than the worst cold prefill of a window
            of passages and a reasoning model's usual thought; a request's deadline shortens it.
        connect_wait_s_max: for a connection.
        backoff_s: the longest wait before the second attempt; doubled for each further one. The wait itself is drawn
            evenly between 0 and that (full jitter), so that calls that failed together do not return together.
        backoff_s_max: the longest wait that we choose.
        retry_after_s_max: the longest wait that an endpoint may ask for; beyond it the call fails at once.
        concurrency: calls under way at one endpoint.
        requests_per_minute: at one endpoint; None is unbounded.
        tokens_per_minute: at one endpoint, prompt and reply; None is unbounded.
        queue_max: calls that wait for a place, all requests together; one more is `Overloaded`. Each holds its prompt:
            20,000 are two round robins over 100 candidates, some 100 MB.
        put_aside_s: how long an endpoint that failed rests where another one can take its calls; doubled each time.
        put_aside_s_max: the longest rest.
        reply_bytes_max: of one reply; a longer one is cut off and counts as a failure.

    """

    attempts_max: int = 4
    reply_wait_s_max: float = 120.0
    connect_wait_s_max: float = 5.0
    backoff_s: float = 0.5
    backoff_s_max: float = 8.0
    retry_after_s_max: float = 60.0
    concurrency: int = 64
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    queue_max: int = 20_000
    put_aside_s: float = 1.0
    put_aside_s_max: float = 30.0
    reply_bytes_max: int = 8 * 1024 * 1024

    def __post_init__(self) -> None:
        for name in ("attempts_max", "concurrency", "queue_max", "reply_bytes_max"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} is {value}: it must be 1 or more")
        for name in ("reply_wait_s_max", "connect_wait_s_max", "put_aside_s", "put_aside_s_max"):
            if not (value := getattr(self, name)) > 0:
                raise ValueError(f"{name} is {value}: it must be above 0")
        for name in ("backoff_s", "backoff_s_max", "retry_after_s_max"):
            if not (value := getattr(self, name)) >= 0:
                raise ValueError(f"{name} is {value}: it must be 0 or more")
        for name in ("requests_per_minute", "tokens_per_minute"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise ValueError(f"{name} is {value}: it must be above 0, or left out where there is no limit")

    @property
    def endpoint_limits(self) -> EndpointLimits:
        """The part that the endpoints keep."""
        return EndpointLimits(
            concurrency=self.concurrency,
            requests_per_minute=self.requests_per_minute,
            tokens_per_minute=self.tokens_per_minute,
            queue_max=self.queue_max,
            put_aside_s=self.put_aside_s,
            put_aside_s_max=self.put_aside_s_max,
        )
