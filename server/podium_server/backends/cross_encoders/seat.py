"""A configured cross-encoder and what it needs to serve: its queue, the thread that makes its tokens, its memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from podium_server.backends.cross_encoders.batcher import Batcher
from podium_server.backends.cross_encoders.cross_encoder import CrossEncoder
from podium_server.backends.cross_encoders.score_cache import ScoreCache
from podium_server.backends.worker import Worker


@dataclass(slots=True)
class CrossEncoderSeat:
    """One cross-encoder, shared by all judges that use it.

    Args:
        name: of the configured model.
        load: builds the cross-encoder; it is called once, in the tokenizer's thread, when it is first needed.
        tokenizer: the thread that makes tokens, apart from the event loop and from the model.
        wait_s_max: see `Batcher`.
        pairs_max: see `Batcher`.
        cache: of scores.
        max_tokens: of a pair, as configured; for estimates before the model is loaded.

    """

    name: str
    load: Callable[[], CrossEncoder]
    tokenizer: Worker
    wait_s_max: float
    pairs_max: int
    cache: ScoreCache
    max_tokens: int | None = None
    loaded: Batcher | None = None
    unloaded_tokens_per_s: float | None = None
    """Of a model that was unloaded: an estimate of what its time will cost is needed before it is loaded again."""
    _loading: threading.Lock = field(default_factory=threading.Lock)

    @property
    def tokens_per_s(self) -> float | None:
        """As measured last; None where the model was never loaded."""
        loaded = self.loaded
        return self.unloaded_tokens_per_s if loaded is None else loaded.tokens_per_s

    async def batcher(self) -> Batcher:
        """Return the queue in front of the model, loading the model in its thread if nobody has yet."""
        if self.loaded is None:
            await self.tokenizer.run(self.batcher_now)
        return self.batcher_now()

    def batcher_now(self) -> Batcher:
        """Return the queue in front of the model, loading the model in the calling thread if nobody has yet."""
        with self._loading:
            if self.loaded is None:
                self.loaded = Batcher(self.load(), wait_s_max=self.wait_s_max, pairs_max=self.pairs_max)
            return self.loaded

    def unload(self) -> None:
        """Free the model; the next use loads it again. Blocks. Nobody may wait for it. Its scores stay remembered."""
        with self._loading:
            self.unloaded_tokens_per_s = self.tokens_per_s
            loaded, self.loaded = self.loaded, None
        if loaded is not None:
            loaded.close()

    def close(self) -> None:
        """Stop the threads and free the model. Blocks."""
        self.tokenizer.close()
        if self.loaded is not None:
            self.loaded.close()
