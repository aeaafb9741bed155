"""Conversations that teach a language model to rank listwise, as RankVicuna and RankZephyr were taught.

A conversation is the very prompt that Podium would send, around a window of candidates in first-stage order, and the
reply that puts them in the teacher's order. The reply is read back before it is written: what the prompt itself cannot
read is no target.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from podium_server.backends.chat.backend import ChatBackend
from podium_server.errors import FailedPrecondition
from podium_server.judges.case import Candidate, Case
from podium_server.judges.chat.documents import Documents
from podium_server.labels.examples import Row, Selection, Skipped, text_of
from podium_server.labels.format import Label
from podium_server.labels.labeller import salt_of
from podium_strategies.permutation import shuffled
from podium_strategies.plan import Order
from podium_strategies.prompts.listwise_json import ListwiseJson
from podium_strategies.prompts.prompt import Prompt, Reads, Repair, UnreadableReply
from podium_strategies.prompts.reading import LETTERS
from podium_strategies.walks import windows_from_tail

Style = Literal["messages", "sharegpt"]
STYLES: tuple[Style, ...] = ("messages", "sharegpt")
_SHAREGPT_ROLES = {"system": "system", "user": "human", "assistant": "gpt"}


@dataclass(frozen=True, slots=True)
class Windows:
    """Which candidates are shown together.

    Args:
        size: candidates of a window.
        stride: places between the starts of neighbouring windows.
        shuffles: of each window, so many more with its candidates in another order, so that the student learns the
            texts and not the places (RankVicuna, arXiv 2309.15088).
        seed: of the shuffles.

    """

    size: int = 20
    stride: int = 10
    shuffles: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size < 2:
            raise ValueError(f"size is {self.size}: a window holds at least 2 candidates")
        if not 1 <= self.stride <= self.size:
            raise ValueError(f"stride is {self.stride} and size is {self.size}: from 1 to size, so that all are shown")
        if self.shuffles < 0:
            raise ValueError(f"shuffles is {self.shuffles}: 0 or more")

    def of(self, label: Label, places: Sequence[int]) -> Iterator[tuple[int, ...]]:
        """Yield the windows over `places`, from the tail to the head as a sliding window walks."""
        for number, window in enumerate(windows_from_tail(len(places), self.size, self.stride)):
            shown = tuple(places[window])
            if len(shown) < 2:
                continue
            yield shown
            for shuffle in range(1, self.shuffles + 1):
                yield shuffled(shown, self.seed, salt_of(label.qid), number, shuffle)


def conversations(
    labels: Iterable[Label],
    selection: Selection,
    prompt: Prompt,
    windows: Windows,
    skipped: Skipped,
    *,
    style: Style = "messages",
) -> Iterator[Row]:
    """Yield a conversation for each window of each label.

    `messages` is `{"messages": [{"role", "content"}, …]}` as chat templates read it, `sharegpt` is
    `{"conversations": [{"from", "value"}, …]}` as FastChat does.

    Raises:
        FailedPrecondition: the prompt does not answer with an order in text, or cannot read the order back.

    """
    check_teaches(prompt)
    for label in selection.of(labels, skipped):
        wanted = set(label.order[: selection.ranks(label)])
        places = [place for place in range(len(label.documents)) if place in wanted]
        if len(places) < 2:
            skipped.add("labels with fewer than 2 candidates")
            continue
        ranks = label.ranks
        sheet_of = _Sheets(label, prompt)
        for window in windows.of(label, places):
            order = sorted(range(len(window)), key=lambda shown, window=window: ranks[window[shown]])  # type: ignore[misc]
            yield _styled(sheet_of.turns(window, order), style)


def check_teaches(prompt: Prompt) -> None:
    """Refuse a prompt whose reply is no text that names an order.

    Raises:
        FailedPrecondition: with the prompt's id.

    """
    if prompt.kind is not Order or prompt.reads is not Reads.TEXT:
        raise FailedPrecondition(
            f"the prompt {prompt.id} is answered by {prompt.kind.__name__.lower()} in {prompt.reads.value}; a listwise "
            "model learns from one that is answered by an order in text (rank-zephyr, rank-gpt, listwise-json, …)"
        )


def target(prompt: Prompt, order: Sequence[int]) -> str:
    """Return the reply that names the places of a sheet in this order, in the prompt's own form."""
    if isinstance(prompt, ListwiseJson):
        return json.dumps({prompt.key: [place + 1 for place in order]})
    letters = bool(getattr(prompt, "letters", False))
    return " > ".join(f"[{LETTERS[place] if letters else place + 1}]" for place in order)


class _NoModel:
    """In place of a model: nobody counts tokens, so that documents are cut as the prompt alone cuts them."""

    name = ""
    context_tokens = None


@dataclass(frozen=True, slots=True)
class _Sheets:
    """Renders the windows of one label."""

    label: Label
    prompt: Prompt

    def turns(self, window: Sequence[int], order: Sequence[int]) -> list[tuple[str, str]]:
        case = Case(
            self.label.query,
            tuple(Candidate(str(one.docid), text_of(one), one.prior_score) for one in self.label.documents),
        )
        documents = Documents(self.prompt, cast(ChatBackend, _NoModel()))
        sheet = documents.fill(case, window, None, self.prompt.max_output_tokens(len(window))).sheet
        reply = target(self.prompt, order)
        try:
            reading = self.prompt.read(reply, sheet)
        except UnreadableReply as error:
            raise FailedPrecondition(f"the prompt {self.prompt.id} cannot read its own order: {error}") from error
        if tuple(reading.answer) != tuple(order) or reading.repair is not Repair.OK:
            raise FailedPrecondition(f"the prompt {self.prompt.id} reads {reply!r} as another order: {reading.answer}")
        turns = [(turn.role, turn.content) for turn in self.prompt.render(sheet)]
        if turns[-1][0] == "assistant":
            # The beginning of the reply stands in the prompt, and the model goes on behind it.
            role, begun = turns.pop()
            return [*turns, (role, begun + reply.removeprefix(begun))]
        return [*turns, ("assistant", reply)]


def _styled(turns: Sequence[tuple[str, str]], style: Style) -> Row:
    if style == "sharegpt":
        return {"conversations": [{"from": _SHAREGPT_ROLES[role], "value": content} for role, content in turns]}
    return {"messages": [{"role": role, "content": content} for role, content in turns]}
