"""How a chat model is asked, and how its replies are repaired."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


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
