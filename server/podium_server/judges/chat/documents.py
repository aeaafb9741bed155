"""Documents on their way into a prompt: cleaned, made harmless and shortened, each once a request."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from importlib import import_module

from podium_server.backends.chat.backend import ChatBackend
from podium_server.errors import FailedPrecondition
from podium_server.judges.case import Candidate, Case, Side
from podium_strategies.prompts.prompt import Prompt, Sheet

TOKENS_PER_TURN = 5
"""What chat templates put around a turn (ChatML 5, Llama 3 5, Vicuna 4)."""
TOKENS_PER_CALL = 8
"""What they put before the first turn and behind the last."""


@dataclass(slots=True)
class Shown:
    """A document as a model will see it.

    Args:
        text: of it.
        cut: some of it was left out.
        tokens_max: it cannot be more tokens than this; known without counting.
        tokens: counted when they were first needed.

    """

    text: str
    cut: bool
    tokens_max: int
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Filled:
    """A prompt's sheet, and what filling it took.

    Args:
        sheet: to render.
        truncated: documents of which a part was left out.

    """

    sheet: Sheet
    truncated: int


class Documents:
    """Prepares documents for one prompt and one backend. What is done for a request is kept in that request."""

    def __init__(self, prompt: Prompt, backend: ChatBackend) -> None:
        self._prompt = prompt
        self._backend = backend
        self._key: Hashable = ("chat", prompt.digest, backend.name)

    def fill(self, case: Case, items: Sequence[int], top: int | None, max_output_tokens: int) -> Filled:
        """Return the sheet on which `items` are shown in this order, shortened until the model can hold everything.

        Raises:
            FailedPrecondition: the prompt's own words, the query and the reply leave the documents no room.

        """
        shown = self._shown(case, items)
        texts = [one.text for one in shown]
        truncated = sum(one.cut for one in shown)
        frame = self._frame(case, len(shown), top)
        room = self._room(shown, frame, max_output_tokens)
        if room is not None:
            cap = _cap([self._tokens(one) for one in shown], room)
            if cap < 1 or not self._prompt.may_shorten:
                raise self._no_room(shown, frame, max_output_tokens)
            from_start = case.truncation.side is Side.START
            for place, one in enumerate(shown):
                if self._tokens(one) > cap:
                    texts[place] = self._backend.shorten(one.text, cap, from_start=from_start)[0]
                    truncated += not one.cut
        return Filled(Sheet(frame.query, tuple(texts), frame.instruction, top), truncated)

    def tokens(self, case: Case, items: Sequence[int], top: int | None, max_output_tokens: int) -> int:
        """Return the tokens of the prompt that `fill` would make, without making it."""
        shown = self._shown(case, items)
        frame = self._frame(case, len(shown), top)
        counts = [self._tokens(one) for one in shown]
        room = self._room(shown, frame, max_output_tokens)
        if room is not None:
            cap = _cap(counts, room)
            counts = [min(count, cap) for count in counts]
        return self._frame_tokens(frame) + sum(counts)

    def _shown(self, case: Case, items: Sequence[int]) -> list[Shown]:
        cache: dict[Hashable, Shown] = case.shared.setdefault(self._key, {})
        words = self._prompt.words_per_document(len(items))
        mends = self._prompt.clean == "ftfy"
        # ftfy leaves entities alone behind the first line with an angle bracket: that line is HTML, they say. The
        # rankers that were trained on its output saw whole prompts cleaned at once, so a document depends on those
        # before it here as well.
        html = mends and "<" in case.query
        shown = []
        for item in items:
            candidate = case.candidates[item]
            entities = html and "&" in candidate.text
            key = (candidate.id, words, entities)
            one = cache.get(key)
            if one is None:
                one = cache[key] = self._prepared(case, candidate, len(items), keep_entities=entities)
            html = html or (mends and "<" in candidate.text)
            shown.append(one)
        return shown

    def _prepared(self, case: Case, candidate: Candidate, n: int, *, keep_entities: bool) -> Shown:
        prompt = self._prompt
        from_start = case.truncation.side is Side.START
        text, cut = prompt.prepare(candidate.text, n, from_start=from_start)
        if prompt.clean == "ftfy":
            # What ftfy puts right may look like the frame only then.
            text = prompt.neutral(mended(text, keep_entities=keep_entities))
        limit = case.truncation.max_tokens_per_document
        if limit is not None and _tokens_max(text) > limit:
            text, shortened = self._backend.shorten(text, limit, from_start=from_start)
            cut = cut or shortened
        return Shown(text, cut, _tokens_max(text))

    def _tokens(self, one: Shown) -> int:
        if one.tokens is None:
            one.tokens = self._backend.count_tokens(one.text)
        return one.tokens

    def _frame(self, case: Case, n: int, top: int | None) -> _Frame:
        """Return what a prompt for `n` documents holds beside them."""
        cache: dict[Hashable, _Frame] = case.shared.setdefault((self._key, "frame"), {})
        frame = cache.get((n, top))
        if frame is None:
            query, instruction = (self._words(text) for text in (case.query, case.instruction))
            turns = self._prompt.render(Sheet(query, ("",) * n, instruction, top))
            contents = [turn.content for turn in turns]
            asked = self._prompt.continuation(Sheet(query, ("",) * n))
            around = len(turns) * TOKENS_PER_TURN + TOKENS_PER_CALL
            # Joining a document to the frame may cut both into other tokens than they are alone.
            around += n
            frame = cache[n, top] = _Frame(query, instruction, (*contents, asked), around)
        return frame

    def _words(self, text: str) -> str:
        if not text:
            return ""
        return self._prompt.query_text(mended(text) if self._prompt.clean == "ftfy" else text)

    def _frame_tokens(self, frame: _Frame) -> int:
        if frame.tokens is None:
            frame.tokens = frame.around + sum(self._backend.count_tokens(content) for content in frame.contents)
        return frame.tokens

    def _room(self, shown: Sequence[Shown], frame: _Frame, max_output_tokens: int) -> int | None:
        """Return the tokens that are left for the documents; None where they are known to fit."""
        context = self._backend.context_tokens
        if context is None:
            return None
        # Counting costs more than all else here, so it is put off until the bytes say that it may matter.
        bound = sum(one.tokens_max for one in shown) + frame.tokens_max + max_output_tokens
        if bound <= context:
            return None
        room = context - max_output_tokens - self._frame_tokens(frame)
        return None if sum(self._tokens(one) for one in shown) <= room else room

    def _no_room(self, shown: Sequence[Shown], frame: _Frame, max_output_tokens: int) -> FailedPrecondition:
        documents = sum(self._tokens(one) for one in shown)
        return FailedPrecondition(
            f"the prompt {self._prompt.id} around {len(shown)} documents is {self._frame_tokens(frame)} tokens without "
            f"them, its reply may be {max_output_tokens}, and the documents are {documents}; the model "
            f"{self._backend.name} holds {self._backend.context_tokens}. Use a shorter query, a smaller window, or a "
            "model with a longer context."
        )


@dataclass(slots=True)
class _Frame:
    query: str
    instruction: str
    contents: tuple[str, ...]
    around: int
    tokens: int | None = None

    @property
    def tokens_max(self) -> int:
        return self.around + sum(_tokens_max(content) for content in self.contents)


def mended(text: str, *, keep_entities: bool = False) -> str:
    """Return `text` as ftfy puts it right."""
    # What ftfy could change in plain ASCII is entities and control characters. Most documents have neither, and ftfy
    # takes a hundred times as long to find that out.
    if text.isascii() and text.isprintable() and "&" not in text:
        return text
    # Imported here: few prompts ask for it, and it takes 60 ms.
    ftfy = import_module("ftfy")
    fixed: str = ftfy.fix_text(text, unescape_html=False) if keep_entities else ftfy.fix_text(text)
    return fixed


def _tokens_max(text: str) -> int:
    """Return a number of tokens that no tokenizer with a byte fallback exceeds: the bytes of UTF-8."""
    return len(text) + 1 if text.isascii() else 4 * len(text) + 1


def _cap(counts: Sequence[int], room: int) -> int:
    """Return the largest length to which all may be cut so that together they take at most `room`; short ones stay."""
    left = room
    for place, count in enumerate(sorted(counts)):
        share = left // (len(counts) - place)
        if count > share:
            return share
        left -= count
    return max(counts, default=0)
