"""What `podium rerank` writes of each list: a JSON line, a line of a TREC run for each candidate, and what it used.

The first two depend on the input and the pipeline alone, so that a job that was interrupted ends with the same bytes.
What differs between two runs (times, money, cache hits, warnings about replies) goes into a third file, the ledger,
with a line for each list that used or has to tell anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from podium_server.jobs.ledgers import stage_records, usage_record
from podium_server.jobs.outputs import Outputs
from podium_server.jobs.ranking import Answer, Failed, Ranked, seal_of
from podium_server.jobs.tally import Tally

OUT, RUN, LEDGER = "out", "run", "ledger"

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def record(answer: Answer) -> dict[str, Any]:
    """Return the output line of a list, as data."""
    if isinstance(answer, Failed):
        return {"qid": answer.qid, "error": {"reason": answer.reason, "message": answer.message}}
    given = answer.list
    docids, scores = given.docids, answer.scores
    line: dict[str, Any] = {"qid": given.qid, "ranking": [docids[place] for place in answer.order]}
    if scores.count(None) < len(scores):
        line["scores"] = scores
    line["completion"] = answer.completion
    return line


def ledger_record(answer: Answer) -> dict[str, Any] | None:
    """Return the line of the ledger, as data; None where there is nothing to tell."""
    told = () if isinstance(answer, Failed) else answer.warnings
    if not answer.ledger.accounts and not told:
        return None
    qid = answer.qid if isinstance(answer, Failed) else answer.list.qid
    line: dict[str, Any] = {"qid": qid}
    if answer.ledger.accounts:
        line["usage"] = usage_record(answer.ledger)
    if len(answer.ledger.accounts) > 1:
        line["stages"] = stage_records(answer.ledger)
    if told:
        line["warnings"] = [{"code": warned.code, "message": warned.message} for warned in told]
    return line


@dataclass(slots=True)
class Results:
    """Writes answers to the files of a job, and enters them in its tally.

    Args:
        outputs: the files; `run` and `ledger` where they are wanted.
        tally: of the job.
        tag: the last column of the run.

    """

    outputs: Outputs
    tally: Tally
    tag: str = "podium"
    seal: int = 0
    """Of the input up to the last list that was written."""

    def write(self, answer: Answer) -> None:
        """Write one answer. A line that is no list, and has no name, is in no file: nobody could ask for it."""
        outputs = self.outputs
        self.tally.add(answer)
        if isinstance(answer, Ranked) or answer.qid is not None:
            outputs.write(OUT, _encode(record(answer)))
            if RUN in outputs.paths and isinstance(answer, Ranked):
                self._write_run(answer)
            if LEDGER in outputs.paths and (line := ledger_record(answer)) is not None:
                outputs.write(LEDGER, _encode(line))
        self.seal = seal_of(answer)
        outputs.done()

    def kept(self) -> Mapping[str, Any]:
        """Return what a later run has to know again, beside the tally and the seal."""
        return {}

    def go_on(self, kept: Mapping[str, Any]) -> None:
        """Take what an earlier run has `kept`."""

    def told(self) -> Mapping[str, Any]:
        """Return what the summary tells besides."""
        return {}

    def _write_run(self, answer: Ranked) -> None:
        docids = answer.list.docids
        names = [str(answer.list.qid), *(str(docids[place]) for place in answer.order)]
        if any(len(name.split()) != 1 for name in names):
            self.tally.unfit(answer.list.line)
            return
        qid, *ranked = names
        # Whole numbers, one less a rank: trec_eval sorts by them, and breaks ties by docid, so there must be none.
        for rank, docid in enumerate(ranked, start=1):
            self.outputs.write(RUN, f"{qid} Q0 {docid} {rank} {len(ranked) - rank + 1} {self.tag}")
