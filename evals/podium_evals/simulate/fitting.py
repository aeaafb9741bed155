"""The recorded rankers of the data folder, fitted; and what the simulated judge says of the same windows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from podium_evals.catalogue import DL19
from podium_evals.replay import rows
from podium_evals.simulate.fit import Facts, Fitted, Reply, agreement, fit
from podium_evals.simulate.judge import Judge
from podium_evals.simulate.knowledge import Knowledge
from podium_evals.simulate.noise import LEVELS
from podium_evals.simulate.recognise import Form, Kind, Seen
from podium_evals.suite import Suite, read_suite

RECORDINGS = ("rank_vicuna_7b_dl19_bm25", "rank_vicuna_7b_early_dl19_bm25", "vicuna_7b_untrained_dl19_bm25")

MEANINGS = {
    "grade_1": "utility of grade 1 over grade 0",
    "grade_2": "utility of grade 2",
    "grade_3": "utility of grade 3",
    "length": "for e times the median's words",
    "first_stage": "for one deviation of BM25 score, at equal grades",
    "position_slope": "shown first against shown last",
    "position_edges": "the ends against the middle",
    "ln_persistent": "logarithm of the deviation of lasting opinions",
}
"""All in the unit of one call's Gumbel noise: a difference of 1 is odds of e in a pair."""


@dataclass(frozen=True, slots=True)
class Check:
    """How often a pair of two grades stands right, recorded and simulated, over the same windows."""

    recording: str
    difference: int
    pairs: int
    recorded: float
    simulated: float


def lists(data: Path) -> Suite:
    """Return the suite that the recordings were made on.

    Raises:
        SuiteError: it is not there.

    """
    return read_suite(data / "eval" / DL19.source, qrels=data / "eval" / "qrels" / "dl19.txt")


def facts_of(suite: Suite) -> dict[str, dict[str, Facts]]:
    """Return what the fit may know: qid → docid → grade, words, first-stage score."""
    return {
        topic.qid: {
            passage.docid: Facts(
                suite.qrels[topic.qid].get(passage.docid), len(passage.text.split()), passage.score or 0.0
            )
            for passage in topic.candidates
        }
        for topic in suite.topics
    }


def replies_of(path: Path) -> list[Reply]:
    """Read a recording."""
    return [Reply(row["qid"], tuple(row["docids"]), row["reply"]) for row in rows(path)]


def fitted(data: Path, names: Sequence[str] = RECORDINGS) -> tuple[list[Fitted], list[Check]]:
    """Fit every recording, and let the simulated judge (level medium) answer the windows of those that have opinions.

    Raises:
        SuiteError: the lists are not there.

    """
    suite = lists(data)
    facts = facts_of(suite)
    knowledge = Knowledge(suite)
    found: list[Fitted] = []
    checks: list[Check] = []
    for name in names:
        replies = replies_of(data / "recordings" / f"{name}.jsonl.gz")
        one = fit(name, replies, facts)
        found.append(one)
        if one.estimates:
            checks += check(one, resimulated(replies, suite, knowledge), facts)
    return found, checks


def resimulated(replies: Sequence[Reply], suite: Suite, knowledge: Knowledge, level: str = "medium") -> list[Reply]:
    """Return what the simulated judge says to the windows of a recording."""
    judge = Judge(knowledge, LEVELS[level])
    texts = {topic.qid: {passage.docid: passage.text for passage in topic.candidates} for topic in suite.topics}
    said = []
    for reply in replies:
        shown = tuple(texts[reply.qid][docid] for docid in reply.shown)
        seen = Seen("rank-vicuna", Kind.ORDER, Form.NUMBERS, knowledge.queries[reply.qid], shown, len(shown))
        said.append(Reply(reply.qid, reply.shown, judge.answer(seen).text))
    return said


def check(one: Fitted, simulated: Sequence[Reply], facts: Mapping[str, Mapping[str, Facts]]) -> Iterator[Check]:
    """Yield the agreement with the judgments by difference of grades, recorded and simulated."""
    other = agreement(simulated, facts)
    for difference, (right, pairs) in one.agreement.items():
        there, of = other[difference]
        yield Check(one.name, difference, pairs, right / pairs, there / of)


def section(found: tuple[Sequence[Fitted], Sequence[Check]]) -> dict[str, Any]:
    """Return the fit as a section of the report."""
    fits, checks = found
    return {
        "title": "The fit to recorded rankers",
        "about": (
            "Plackett–Luce over the recorded replies, with an opinion of each document that lasts; the unit is the "
            "Gumbel noise of one call. Standard errors are sandwiches over the 43 queries."
        ),
        "recordings": [
            {
                "recording": one.name,
                "replies": one.replies,
                "repeat the order shown": one.echoed,
                "malformed": sum(one.malformed.values()),
                **one.malformed,
                "in the likelihood": one.used,
                "nats a reply": one.log_likelihood / max(one.used, 1),
                "nats a reply, guessing": one.guessing / max(one.used, 1),
            }
            for one in fits
        ],
        "parameters": [
            {
                "recording": one.name,
                "parameter": name,
                "estimate": estimate.value,
                "standard error": estimate.error,
                "is": MEANINGS[name],
            }
            for one in fits
            for name, estimate in one.estimates.items()
        ],
        "pairs that stand as the judgments say": [
            {
                "recording": one.recording,
                "grades apart": one.difference,
                "pairs": one.pairs,
                "recorded": one.recorded,
                "simulated, medium": one.simulated,
            }
            for one in checks
        ],
        "levels": [{"level": name, **_flat(noise.as_dict())} for name, noise in LEVELS.items()],
    }


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != "kinds"}


def printed(found: tuple[Sequence[Fitted], Sequence[Check]]) -> Iterator[str]:
    """Yield the fit as lines of text."""
    fits, checks = found
    for one in fits:
        faults = ", ".join(f"{count} {name}" for name, count in one.malformed.items()) or "none"
        yield f"{one.name}: {one.replies} replies, {one.echoed} repeat the order shown, malformed: {faults}"
        if not one.estimates:
            yield f"  {one.used} replies carry an opinion: too few to fit"
            continue
        per = one.log_likelihood / one.used, one.guessing / one.used
        yield f"  log-likelihood {per[0]:.2f} a reply ({per[1]:.2f} by guessing), {one.used} replies"
        for name, estimate in one.estimates.items():
            yield f"  {name:16} {estimate.value:7.3f} ± {estimate.error:.3f}   {MEANINGS[name]}"
        yield f"  {'persistent':16} {one.persistent.value:7.3f} ± {one.persistent.error:.3f}   the deviation itself"
        for pair in (pair for pair in checks if pair.recording == one.name):
            yield (
                f"  grades {pair.difference} apart: {pair.recorded:.3f} of {pair.pairs:,} pairs stand right, "
                f"simulated (medium) {pair.simulated:.3f}"
            )
