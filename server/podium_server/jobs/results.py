"""What a job writes: a JSON line for every list, and a TREC run. A file under its own name is always a whole one."""

from __future__ import annotations

import gzip
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, cast

from podium_server.accounting.ledger import Ledger
from podium_server.jobs.ranking import Answer, Failed, Ranked
from podium_server.jobs.tally import malformed
from podium_strategies.prompts.prompt import Repair

STDOUT = "-"
PART = ".part"


def record(answer: Answer) -> dict[str, Any]:
    """Return the output line of a list, as data."""
    if isinstance(answer, Failed):
        return {
            "qid": answer.qid,
            "error": {"reason": answer.reason, "message": answer.message},
            "usage": usage_record(answer.ledger),
        }
    line: dict[str, Any] = {"qid": answer.list.qid, "ranking": [answer.list.docids[place] for place in answer.order]}
    if any(score is not None for score in answer.scores):
        line["scores"] = list(answer.scores)
    line["completion"] = answer.completion
    line["usage"] = usage_record(answer.ledger)
    if answer.warnings:
        line["warnings"] = list(answer.warnings)
    return line


def usage_record(ledger: Ledger) -> dict[str, Any]:
    """Return what a list used, as data. An unknown cost is left out, never 0; so are the counts of what never came."""
    total = ledger.total()
    repairs = {kind: count for kind, count in total.repairs.items() if kind != Repair.OK.value and count}
    usage: dict[str, Any] = {
        "calls": total.calls,
        "rounds": ledger.rounds,
        "questions": ledger.questions,
        "prompt_tokens": total.prompt_tokens,
        "cached_tokens": total.cached_tokens,
        "output_tokens": total.output_tokens,
    }
    if total.cost_nano_usd is not None:
        usage["cost_usd"] = total.cost_nano_usd / 1e9
    usage |= {
        name: count
        for name, count in {
            "reasoning_tokens": total.reasoning_tokens,
            "pairs": total.pairs,
            "retries": total.retries,
            "cache_hits": total.cache_hits,
            "truncated_documents": total.truncated_documents,
            "malformed_replies": malformed(total),
        }.items()
        if count
    }
    if repairs:
        usage["repairs"] = repairs
    usage["backend_s"] = round(total.backend_s, 6)
    usage["wall_s"] = round(ledger.wall_s, 6)
    return usage


@dataclass(slots=True)
class Output:
    """A file that is written beside its name and takes it when it is whole; `-` is standard output.

    Names that end in `.gz` are compressed. What is no plain file (a pipe, a device) is written directly.
    """

    path: str
    _stream: BinaryIO = field(init=False)
    _raw: BinaryIO | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.path == STDOUT:
            self._stream = sys.stdout.buffer
            return
        self._raw = Path(self.written_to).open("wb")  # noqa: SIM115  # closed by `finish` or `leave`
        self._stream = self._raw
        if self.path.endswith(".gz"):
            self._stream = cast(BinaryIO, gzip.open(self._raw, "wb"))  # noqa: SIM115

    @property
    def written_to(self) -> str:
        """Where the lines are until the file is whole."""
        special = self.path == STDOUT or (Path(self.path).exists() and not Path(self.path).is_file())
        return self.path if special else self.path + PART

    def write(self, line: str) -> None:
        """Write one line."""
        self._stream.write(line.encode("utf-8", "backslashreplace") + b"\n")
        if self.path == STDOUT:
            self._stream.flush()

    def finish(self) -> None:
        """Give the file its name: all that it should hold is in it, and on the disk."""
        target = self.written_to
        self._close(sync=target.endswith(PART))
        if target != self.path:
            Path(target).replace(self.path)

    def leave(self) -> None:
        """Close the file as it is, under the name of a part."""
        self._close(sync=False)

    def _close(self, *, sync: bool) -> None:
        if self.path == STDOUT:
            self._stream.flush()
            return
        if self._stream is not self._raw:
            self._stream.close()
        if self._raw is not None:
            self._raw.flush()
            if sync:
                os.fsync(self._raw.fileno())
            self._raw.close()


@dataclass(slots=True)
class Results:
    """The files of a job. As a context: left in peace they get their names, else they stay parts.

    Args:
        out: the JSON lines.
        run: the TREC run, if one is wanted.
        tag: the last column of the run.

    """

    out: Output
    run: Output | None = None
    tag: str = "podium"
    unwritable: list[int] = field(init=False, default_factory=list)
    """Lines of the input whose ids a TREC run cannot carry. They are in the JSON lines."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for output in (self.out, self.run):
            if output is None:
                continue
            if kind is None:
                output.finish()
            else:
                output.leave()

    def write(self, answer: Answer) -> None:
        """Write one answer. A line that is no list, and has no name, is in no file: nobody could ask for it."""
        if isinstance(answer, Failed) and answer.qid is None:
            return
        self.out.write(json.dumps(record(answer), ensure_ascii=False, separators=(",", ":"), allow_nan=False))
        if self.run is not None and isinstance(answer, Ranked):
            self._write_run(self.run, answer)

    def _write_run(self, run: Output, answer: Ranked) -> None:
        docids = answer.list.docids
        names = [str(answer.list.qid), *(str(docids[place]) for place in answer.order)]
        if any(len(name.split()) != 1 for name in names):
            self.unwritable.append(answer.list.line)
            return
        qid, *ranked = names
        # Whole numbers, one less a rank: trec_eval sorts by them, and breaks ties by docid, so there must be none.
        for rank, docid in enumerate(ranked, start=1):
            run.write(f"{qid} Q0 {docid} {rank} {len(ranked) - rank + 1} {self.tag}")
