"""The simulated judge: a conversation in, a reply out. The server and the simulations in this process both ask it.

What it answers depends on the seed, on the prompt's name, on the query, and on which documents are shown in which
order; not on the calls before, the time, or how a text was cleaned or cut. (A real model loses something with every
cut; nothing here says what, so a simulation must not be read as an argument for shorter passages.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from podium_evals.simulate.knowledge import Knowledge
from podium_evals.simulate.noise import Draws, Noise, scores
from podium_evals.simulate.recognise import Said, Seen, is_probe, recognise
from podium_evals.simulate.replies import Reply, reply


@dataclass(frozen=True, slots=True)
class Judge:
    """A judge with its faults.

    Args:
        knowledge: the suite.
        noise: its faults.
        seed: another seed is another judge of the same kind.

    """

    knowledge: Knowledge
    noise: Noise
    seed: int = 0

    def reply(self, messages: Sequence[Said]) -> tuple[Reply, Seen | None]:
        """Return the reply to a conversation, and what it was seen to ask (None for Podium's probe).

        Raises:
            UnknownPrompt: it asks nothing that is known here.
            Unknown: a query or a document is not in the suite.

        """
        if is_probe(messages):
            return Reply("OK", (("OK", -0.01), ("Sure", -5.0), ("Yes", -6.0))), None
        seen = recognise(messages)
        return self.answer(seen), seen

    def answer(self, seen: Seen) -> Reply:
        """Return the reply to a prompt that was recognised.

        Raises:
            Unknown: a query or a document is not in the suite.

        """
        qid = self.knowledge.query(seen.query)
        shown = self.knowledge.documents(qid, seen.documents)
        draws = Draws(self.seed, seen.prompt, qid, seen.top, *(merits.docid for merits in shown))
        return reply(seen, scores(self.noise, self.seed, qid, shown, draws), self.noise, draws)
