"""What a model would say: the answer in the form that the prompt asks for, and what goes wrong with it now and then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp, fsum, log

from podium_evals.simulate.noise import Draws, Noise
from podium_evals.simulate.recognise import LETTERS, Form, Kind, Seen

REFUSAL = "Sorry, but I cannot help with that."
LABELS_MASS = 0.999
"""What the labels have of the first token's probability; some other token has the rest."""
SPREAD = 1.0
"""How far a score may be from the utility of a degree that is still said now and then; in units of one call's noise."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What is said.

    Args:
        text: of the reply, what the prompt began left out.
        first_token: the likeliest first tokens with their log-probabilities, falling.
        finish_reason: `stop`, or `length` where it was cut off.
        malformed: the kind of fault; empty where there is none.

    """

    text: str
    first_token: tuple[tuple[str, float], ...]
    finish_reason: str = "stop"
    malformed: str = ""


def reply(seen: Seen, scores: Sequence[float], noise: Noise, draws: Draws) -> Reply:
    """Return the reply of a judge that scores the documents so.

    Args:
        seen: what was asked.
        scores: of the documents shown, in that order.
        noise: of the judge.
        draws: for what goes wrong.

    """
    match seen.kind:
        case Kind.ORDER:
            return _order(seen, scores, noise, draws)
        case Kind.GRADE:
            return _short(seen, *_grade(seen, scores[0], noise), noise, draws)
        case _:
            return _short(seen, *_choice(seen, scores), noise, draws)


# --- orders -----------------------------------------------------------------------------------------------------------


def _order(seen: Seen, scores: Sequence[float], noise: Noise, draws: Draws) -> Reply:
    n = len(scores)
    fault, echoes = _fault(noise, draws, tuple(noise.kinds)), draws.uniform() < noise.echo
    by_score = sorted(range(n), key=lambda place: -scores[place])
    order = list(range(n)) if echoes and seen.form is not Form.LETTERS else by_score
    if seen.form is Form.LETTERS and seen.begun == "[":
        # Read by its first token's probabilities: what can go wrong with that is another first token.
        if fault == "refusal":
            return _refusal()
        text = _written(order, seen.form)[1:]
        return Reply(text, _among(LETTERS[:n], scores))
    if fault == "refusal":
        return _refusal()
    order = order[: seen.top]
    text = _written(_faulty(order, fault, draws), seen.form)
    if fault == "prose":
        text = f"Here is how I rank the passages, 100% of them:\n{text}"
    if fault == "truncated":
        text = text[: int(len(text) * (0.3 + 0.6 * draws.uniform()))]
    said = Reply(text, _certain(text), "length" if fault == "truncated" else "stop", fault)
    if seen.begun and text.startswith(seen.begun):
        return replace(said, text=text[len(seen.begun) :], first_token=_certain(text[len(seen.begun) :]))
    return said


def _faulty(order: list[int], fault: str, draws: Draws) -> list[int]:
    if len(order) < 2:
        return order
    if fault == "missing":
        return order[: len(order) - 1 - draws.below(max(1, len(order) // 2))]
    if fault == "repetition":
        round_trip = order[: 1 + draws.below(len(order) - 1)]
        return (round_trip * len(order))[: len(order)]
    if fault == "prose":
        return order[: max(1, len(order) - 1 - draws.below(2))]
    return order


def _written(order: Sequence[int], form: Form) -> str:
    numbers = [str(place + 1) for place in order]
    match form:
        case Form.RANKING:
            return f'{{"ranking": [{", ".join(numbers)}]}}'
        case Form.BEST:
            return f'{{"best": [{", ".join(numbers)}]}}'
        case Form.PASSAGES:
            return f"[{', '.join(f'PASSAGE{number}' for number in numbers)}]"
        case Form.LETTERS:
            return " > ".join(f"[{LETTERS[place]}]" for place in order)
    return " > ".join(f"[{number}]" for number in numbers)


# --- short answers ----------------------------------------------------------------------------------------------------


def _choice(seen: Seen, scores: Sequence[float]) -> tuple[str, tuple[tuple[str, float], ...]]:
    best = max(range(len(scores)), key=lambda place: scores[place])
    if seen.form is Form.WORDS:
        return seen.words[best], _among(seen.words, scores)
    likeliest = _among(LETTERS[: len(scores)], scores)
    if seen.form is Form.PASSAGE:
        return f"Passage {LETTERS[best]}", _certain("Passage")
    return LETTERS[best], likeliest


def _grade(seen: Seen, score: float, noise: Noise) -> tuple[str, tuple[tuple[str, float], ...]]:
    """Return a degree. Expected degrees rise with the score without end, so that no two scores become one."""
    highest = noise.utility[-1]
    middle = (noise.utility[0] + highest) / 2
    if seen.form is Form.SCORE:
        text = f'{{"score": {round(100 / (1 + exp(-(score - middle) / SPREAD)))}}}'
        return text, _certain(text)
    words = seen.words or ("3", "2", "1", "0")
    if len(words) == 2:
        weights = [score - middle, 0.0]
    else:
        degrees = [noise.worth(len(words) - 1 - place, len(words) - 1) for place in range(len(words))]
        weights = [-((score - degree) ** 2) / (2 * SPREAD**2) for degree in degrees]
    likeliest = _among(words, weights)
    best = words[max(range(len(words)), key=lambda place: weights[place])]
    if seen.form is Form.FINAL:
        return f"##final score: {best}", _certain("##")
    return best, likeliest


def _short(seen: Seen, text: str, first_token: tuple[tuple[str, float], ...], noise: Noise, draws: Draws) -> Reply:
    fault = _fault(noise, draws, ("prose", "refusal"))
    if fault == "refusal":
        return _refusal()
    # A first token that is read by its probability is none that prose could stand before.
    if fault == "prose" and seen.form not in (Form.WORDS, Form.LETTER):
        said = f"It is a close call, but I would say this: {text}"
        return Reply(said, _certain(said), malformed=fault)
    return Reply(text, first_token)


# --- both -------------------------------------------------------------------------------------------------------------


def _fault(noise: Noise, draws: Draws, possible: Sequence[str]) -> str:
    """Return the kind of fault that this reply has, of those that its form can have; empty for none."""
    has, kind = draws.uniform() < noise.malformed, draws.choice(noise.kinds)
    return kind if has and kind in possible else ""


def _refusal() -> Reply:
    return Reply(REFUSAL, _certain("Sorry"), malformed="refusal")


def _certain(text: str) -> tuple[tuple[str, float], ...]:
    first = next(iter(text.split(maxsplit=1)), "")[:8] or "\n"
    other = "The" if first != "The" else "A"
    return (first, log(LABELS_MASS)), (other, log((1 - LABELS_MASS) / 2))


def _among(labels: Sequence[str], scores: Sequence[float]) -> tuple[tuple[str, float], ...]:
    """Return labels with the log-probabilities that their scores give, falling, and a token that is none of them."""
    top = max(scores)
    total = top + log(fsum(exp(score - top) for score in scores)) - log(LABELS_MASS)
    found = [(label, score - total) for label, score in zip(labels, scores, strict=True)]
    return tuple(sorted([*found, ("\n", log((1 - LABELS_MASS) / 2))], key=lambda one: -one[1]))
