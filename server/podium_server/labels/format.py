"""The line of a label file, `podium-labels/1`: one JSON object a query, its writing and its reading.

```
{"format": "podium-labels/1",
 "qid": "q1", "query": "how long is the life cycle of a flea",
 "candidates": [{"docid": "d1", "text": "…", "score": 12.5}, …],      in first-stage order; `text` may be left out
 "ranking": ["d7", "d1", …],                                           every candidate, best first
 "scores": [0.93, 0.41, …], "score_kind": "probability",               by rank, null for none; where the teacher scores
 "agreement": {"runs": [[6, 0, …], …], "kendall_tau": 0.91, "kendall_tau_min": 0.88,
               "top": 10, "top_overlap": 0.95, "rank_variance": [0.2, …]},
 "pairs": [{"first": "d7", "second": "d1", "first_wins": 0.98}, …],    a verdict as it was shown; both orders are two
 "asked": {"questions": 9, "rounds": 9, "repaired": 0},
 "teacher": {"pipeline": "best", "stages": [{"stage", "strategy", "options", "model", "model_id", "revision",
             "prompt", "prompt_hash", "settings"}, …], "seed": 0, "shuffles": 0, "aggregate": "", "podium": "0.1.0"}}
```

`runs` holds orders as places in `candidates`, the run over the order as given first; `rank_variance` is by place, too.
A list that the teacher could not label has `{"format", "qid", "error": {"reason", "message"}}` in its place.

A line holds what the list, the teacher and the seed determine, and nothing else: two runs of one job, however often
they were killed, write the same bytes. What differs between runs (time, cache hits, tokens that were sent, money that
was paid) stands in the job's ledger beside the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from podium_server.errors import InvalidRequest
from podium_server.jobs.json_lines import numbered, where

FORMAT = "podium-labels/1"
FAMILY, _, VERSION = FORMAT.partition("/")

Docid: TypeAlias = str | int
Order: TypeAlias = tuple[int, ...]
"""Places in `Label.documents`, best first."""


@dataclass(frozen=True, slots=True)
class LabelledDocument:
    """A candidate.

    Args:
        docid: as the list has it.
        text: that the teacher saw before its prompt cut it; None in a file that was written without texts.
        prior_score: of the first stage; None where it gave none.

    """

    docid: Docid
    text: str | None = None
    prior_score: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the teacher said of two candidates, in the order in which they were shown.

    Args:
        first: the place of the one that was shown first.
        second: of the other.
        first_wins: the probability that the first is better, 0 to 1.

    """

    first: int
    second: int
    first_wins: float

    def __post_init__(self) -> None:
        if self.first == self.second:
            raise ValueError(f"a verdict on the candidates {self.first} and {self.second}: two different ones")
        if not 0 <= self.first_wins <= 1:
            raise ValueError(f"first_wins is {self.first_wins}: 0 to 1")


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far several runs of the teacher over one list agree (see `labels.agreement`).

    Args:
        runs: the order of each, the run over the list as given first.
        kendall_tau: mean over all pairs of runs, -1 to 1.
        kendall_tau_min: of the two runs that agree least.
        top: the k of `top_overlap`, or all candidates where there are fewer.
        top_overlap: the mean share of their first `top` that two runs have in common, 0 to 1.
        rank_variance: by place, over the runs, in ranks squared.

    """

    runs: tuple[Order, ...]
    kendall_tau: float
    kendall_tau_min: float
    top: int
    top_overlap: float
    rank_variance: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class TeacherStage:
    """One strategy of the teacher's pipeline, and who answered it.

    Args:
        stage: its name in the pipeline.
        strategy: registered name.
        options: of the strategy, those that were not left to their defaults.
        model: the configured name; empty where nobody is asked.
        model_id: what is behind the name: a hub name, an endpoint's model, a folder.
        revision: of the weights, or what the endpoint says that it serves.
        prompt: id with version; empty where there is none.
        prompt_hash: of everything that a model sees of the prompt.
        settings: of the asking: temperature, repair, weight, scoring, keep.

    """

    stage: str
    strategy: str
    options: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""
    model_id: str = ""
    revision: str = ""
    prompt: str = ""
    prompt_hash: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Teacher:
    """Who labelled, and how: what a label depends on beside the list.

    Args:
        pipeline: the configured name.
        stages: every strategy of it that stands in the ledger.
        seed: of shuffles and of models that sample.
        shuffles: runs beside the one over the list as given.
        aggregate: how the runs became one ranking: `mean-score`, `kemeny`, or empty where there was one run.
        podium: the version that asked.

    """

    pipeline: str
    stages: tuple[TeacherStage, ...] = ()
    seed: int = 0
    shuffles: int = 0
    aggregate: str = ""
    podium: str = ""


@dataclass(frozen=True, slots=True)
class Label:
    """One query with what the teacher says of its candidates.

    Args:
        qid: as the list has it.
        query: the query's text.
        documents: the candidates, in first-stage order. A place is an index into it.
        order: all places, best first.
        scores: by place; None for a candidate without one, empty where the teacher gives none.
        score_kind: what the scores are (`ScoreKind`): `logit`, `probability`, `fused`, …; empty without scores.
        agreement: over several runs; None where there was one.
        verdicts: on pairs, sorted by place.
        teacher: who said it.
        questions: asked for it, of all runs.
        rounds: the longest chain of them.
        repaired: questions whose reply lacked something, so that it had to be mended.

    """

    qid: Docid
    query: str
    documents: tuple[LabelledDocument, ...]
    order: Order
    scores: tuple[float | None, ...] = ()
    score_kind: str = ""
    agreement: Agreement | None = None
    verdicts: tuple[Verdict, ...] = ()
    teacher: Teacher = field(default_factory=lambda: Teacher(""))
    questions: int = 0
    rounds: int = 0
    repaired: int = 0

    def __post_init__(self) -> None:
        n = len(self.documents)
        if sorted(self.order) != list(range(n)):
            raise ValueError(f"the order of {len(self.order)} places is no permutation of {n} candidates")
        if self.scores and len(self.scores) != n:
            raise ValueError(f"{len(self.scores)} scores for {n} candidates")

    @property
    def ranking(self) -> tuple[LabelledDocument, ...]:
        """The candidates, best first."""
        return tuple(self.documents[place] for place in self.order)

    @property
    def ranks(self) -> tuple[int, ...]:
        """By place, counted from 1."""
        found = [0] * len(self.order)
        for rank, place in enumerate(self.order, start=1):
            found[place] = rank
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Unlabelled:
    """A list that the teacher could not label."""

    qid: Docid | None
    reason: str
    message: str


# --- writing ------------------------------------------------------------------------------------------------------


def record(label: Label, *, texts: bool = True) -> dict[str, Any]:
    """Return the line of a label, as data."""
    documents = label.documents
    line: dict[str, Any] = {
        "format": FORMAT,
        "qid": label.qid,
        "query": label.query,
        "candidates": [_document_record(document, texts=texts) for document in documents],
        "ranking": [documents[place].docid for place in label.order],
    }
    if label.scores:
        line["scores"] = [label.scores[place] for place in label.order]
        line["score_kind"] = label.score_kind
    if label.agreement is not None:
        line["agreement"] = _agreement_record(label.agreement)
    if label.verdicts:
        line["pairs"] = [
            {"first": documents[one.first].docid, "second": documents[one.second].docid, "first_wins": one.first_wins}
            for one in label.verdicts
        ]
    line["asked"] = {"questions": label.questions, "rounds": label.rounds, "repaired": label.repaired}
    line["teacher"] = teacher_record(label.teacher)
    return line


def error_record(unlabelled: Unlabelled) -> dict[str, Any]:
    """Return the line of a list that has no label, as data."""
    error = {"reason": unlabelled.reason, "message": unlabelled.message}
    return {"format": FORMAT, "qid": unlabelled.qid, "error": error}


def written(line: Mapping[str, Any]) -> str:
    """Return a line as it stands in the file."""
    return json.dumps(line, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def teacher_record(teacher: Teacher) -> dict[str, Any]:
    """Return a teacher, as data."""
    return {
        "pipeline": teacher.pipeline,
        "stages": [
            {
                "stage": stage.stage,
                "strategy": stage.strategy,
                "options": dict(stage.options),
                "model": stage.model,
                "model_id": stage.model_id,
                "revision": stage.revision,
                "prompt": stage.prompt,
                "prompt_hash": stage.prompt_hash,
                "settings": dict(stage.settings),
            }
            for stage in teacher.stages
        ],
        "seed": teacher.seed,
        "shuffles": teacher.shuffles,
        "aggregate": teacher.aggregate,
        "podium": teacher.podium,
    }


def _document_record(document: LabelledDocument, *, texts: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"docid": document.docid}
    if texts and document.text is not None:
        row["text"] = document.text
    if document.prior_score is not None:
        row["score"] = document.prior_score
    return row


def _agreement_record(agreement: Agreement) -> dict[str, Any]:
    return {
        "runs": [list(run) for run in agreement.runs],
        "kendall_tau": agreement.kendall_tau,
        "kendall_tau_min": agreement.kendall_tau_min,
        "top": agreement.top,
        "top_overlap": agreement.top_overlap,
        "rank_variance": list(agreement.rank_variance),
    }


# --- reading ------------------------------------------------------------------------------------------------------


def parsed(line: bytes | str | Mapping[str, Any], where: str = "label") -> Label | Unlabelled:
    """Return what a line holds. Keys that this version does not know are left alone.

    Raises:
        InvalidRequest: it is no line of a label file that this version reads; `where` is in the message.

    """
    try:
        row = line if isinstance(line, Mapping) else json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(where, f"is no JSON: {error}") from error
    known = row.get("format") if isinstance(row, Mapping) else None
    if known != FORMAT:
        family, _, version = known.partition("/") if isinstance(known, str) else ("", "", "")
        if family == FAMILY:
            raise InvalidRequest(where, f"has format {FAMILY}/{version}, and this version of Podium reads {FORMAT}")
        raise InvalidRequest(where, f'is no label: its "format" is {known!r}, and {FORMAT!r} is needed (podium label)')
    try:
        if "error" in row:
            return Unlabelled(row.get("qid"), str(row["error"]["reason"]), str(row["error"]["message"]))
        return _label(row)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise InvalidRequest(where, f"is no whole label: {what}") from error


def _label(row: Mapping[str, Any]) -> Label:
    documents = tuple(
        LabelledDocument(given["docid"], given.get("text"), given.get("score")) for given in row["candidates"]
    )
    places = {document.docid: place for place, document in enumerate(documents)}
    if len(places) < len(documents):
        raise ValueError("a docid stands twice among the candidates")
    order = tuple(_place(places, docid) for docid in row["ranking"])
    label = Label(row["qid"], row["query"], documents, order)
    scores: tuple[float | None, ...] = ()
    if (by_rank := row.get("scores")) is not None:
        by_place = dict(zip(order, by_rank, strict=True))
        scores = tuple(by_place[place] for place in range(len(documents)))
    asked = row.get("asked", {})
    return replace(
        label,
        scores=scores,
        score_kind=row.get("score_kind", ""),
        agreement=_agreement(row["agreement"]) if "agreement" in row else None,
        verdicts=tuple(
            Verdict(_place(places, one["first"]), _place(places, one["second"]), one["first_wins"])
            for one in row.get("pairs", ())
        ),
        teacher=_teacher(row.get("teacher", {"pipeline": ""})),
        questions=asked.get("questions", 0),
        rounds=asked.get("rounds", 0),
        repaired=asked.get("repaired", 0),
    )


def _place(places: Mapping[Docid, int], docid: Docid) -> int:
    if docid not in places:
        raise ValueError(f"{docid!r} is no docid of the candidates")
    return places[docid]


def _agreement(row: Mapping[str, Any]) -> Agreement:
    return Agreement(
        tuple(tuple(run) for run in row["runs"]),
        row["kendall_tau"],
        row["kendall_tau_min"],
        row["top"],
        row["top_overlap"],
        tuple(row["rank_variance"]),
    )


def _teacher(row: Mapping[str, Any]) -> Teacher:
    stages = tuple(
        TeacherStage(**{name: stage[name] for name in TeacherStage.__dataclass_fields__ if name in stage})
        for stage in row.get("stages", ())
    )
    given = {name: row[name] for name in Teacher.__dataclass_fields__ if name in row}
    return Teacher(**{**given, "stages": stages})


def read_lines(path: str | Path) -> Iterator[Label | Unlabelled]:
    """Yield what every line of a label file holds, one at a time; plain or gzip, known by its first bytes.

    Raises:
        OSError: the file cannot be opened.
        InvalidRequest: a line is no label, or the file breaks off; with the file and the line's number.

    """
    for number, line in numbered(path):
        yield parsed(line, where(path, number))


def read_labels(path: str | Path) -> Iterator[Label]:
    """Yield the labels of a file, one at a time. Lists that the teacher could not label are left out.

    Raises:
        OSError: the file cannot be opened.
        InvalidRequest: a line is no label, or the file breaks off; with the file and the line's number.

    """
    return (line for line in read_lines(path) if isinstance(line, Label))
