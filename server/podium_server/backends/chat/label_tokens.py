"""Labels as tokens: which single tokens a label can be, at the beginning of a reply."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from podium_server.backends.chat.backend import ChatCall
from podium_server.backends.chat.openai.fields import LOGPROB_TOKEN_IDS_MAX, is_prefilled


class LabelTokens:
    """Remembers the tokens of each label.

    Args:
        ids: returns the tokens of a text, special ones left out; none where they are not known.

    """

    def __init__(self, ids: Callable[[str], Awaitable[list[int]]]) -> None:
        self._ids = ids
        self._known: dict[tuple[str, str], tuple[int, ...]] = {}

    async def of(self, call: ChatCall) -> dict[str, tuple[int, ...]] | None:
        """Return the tokens that each label can begin with; None where they cannot be told apart or are too many."""
        # After a begun reply a label's token may be another one than at the start of a text.
        before = call.messages[-1].content[-16:] if is_prefilled(call) else ""
        ids: dict[str, tuple[int, ...]] = {}
        for label in call.labels or ():
            known = self._known.get((before, label))
            if known is None:
                known = self._known[before, label] = await self._tokens(before, label)
            ids[label] = known
        numbers = [number for own in ids.values() for number in own]
        if len(numbers) > LOGPROB_TOKEN_IDS_MAX:
            ids = {label: own[:1] for label, own in ids.items()}
            numbers = [number for own in ids.values() for number in own]
        if not all(ids.values()) or len(set(numbers)) < len(numbers) or len(numbers) > LOGPROB_TOKEN_IDS_MAX:
            return None
        return ids

    async def _tokens(self, before: str, label: str) -> tuple[int, ...]:
        """Return the single tokens that read as `label` at the start of a reply; none where it takes several."""
        variants: list[int] = []
        if before:
            begun, whole = await self._ids(before), await self._ids(before + label)
            if len(whole) == len(begun) + 1 and whole[:-1] == begun:
                variants.append(whole[-1])
        for text in (label, f" {label.strip()}"):
            numbers = await self._ids(text)
            if len(numbers) == 1:
                variants.append(numbers[0])
        return tuple(dict.fromkeys(variants))
