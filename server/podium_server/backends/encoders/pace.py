"""How long an encoder of this process takes, measured once, for estimates of what its time will cost."""

from __future__ import annotations

from dataclasses import dataclass

from podium_server.backends.encoders.encoder import Encoded, Encoder

_TEXTS = 16
_WORDS = 24
_LEAST_S = 1e-6
"""Below it a clock has measured nothing."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What a pass takes: so much by itself, and more for each token.

    Args:
        call_s: of a pass over one word.
        tokens_per_s: of a pass over many texts.

    """

    call_s: float
    tokens_per_s: float

    def __post_init__(self) -> None:
        if not (self.call_s >= 0 and self.tokens_per_s > 0):
            raise ValueError(f"call_s is {self.call_s} and tokens_per_s {self.tokens_per_s}: 0 or more, and above 0")

    def seconds(self, calls: int, tokens: int) -> float:
        """Return what so many passes over so many tokens together take, where nothing else is at work."""
        return calls * self.call_s + tokens / self.tokens_per_s


def measured(encoder: Encoder) -> Pace:
    """Run three passes, of which the first pays for what is prepared once. Blocks, for some 20 ms of a small model."""
    texts = [" ".join(f"{place + word}" for word in range(_WORDS)) for place in range(_TEXTS)]
    encoder.encode_documents([f"{text} once" for text in texts])
    one, many = encoder.encode_queries(["word"]), encoder.encode_documents(texts)
    return Pace(_seconds(one), max(many.prompt_tokens, 1) / max(_seconds(many), _LEAST_S))


def _seconds(encoded: Encoded) -> float:
    return encoded.tokenize_s + encoded.infer_s
