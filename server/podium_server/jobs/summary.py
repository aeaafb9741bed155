"""The summary of a job as data, over all runs that it took: `OUT.summary.json`."""

from __future__ import annotations

import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

from podium_server.accounting.ledger import Ledger
from podium_server.jobs.ledgers import joined, stage_records, usage_record
from podium_server.jobs.tally import Tally


def summary(tally: Tally, *, ended: str, unfinished: Ledger, more: dict[str, Any]) -> dict[str, Any]:
    """Return what was done, what it cost and what went wrong.

    Args:
        tally: of the job.
        ended: `whole`, `interrupted`, `budget`, `outage`, `failed`.
        unfinished: what this run spent on lists that have no answer.
        more: of the command: its name, pipeline, files.

    """
    lost = joined((tally.lost, unfinished))
    told: dict[str, Any] = {
        **more,
        "podium": version("podium"),
        "ended": ended,
        "runs": tally.runs,
        "elapsed_s": round(tally.elapsed_s, 3),
        "lists": tally.lists,
        "candidates": tally.candidates,
        "completions": dict(sorted(tally.completions.items())),
        "failures": dict(sorted(tally.reasons.items())),
        "warnings": dict(sorted(tally.warnings.items())),
        "not_in_run": tally.unwritable_count,
        "usage": usage_record(joined((tally.ledger, lost))),
        "stages": stage_records(tally.ledger),
    }
    if lost.accounts:
        # Paid for, and in no list's ledger: the verdict cache served it to the run that went on.
        told["spent_on_interrupted_lists"] = stage_records(lost)
    return told


def beside(out: str, suffix: str) -> str:
    """Return the name of a file that belongs to an output: `ranked.jsonl.gz` → `ranked.ledger.jsonl`."""
    stem = out
    for known in (".gz", ".jsonl", ".json", ".parquet"):
        stem = stem.removesuffix(known)
    return f"{stem or out}{suffix}"


def write(path: str, told: dict[str, Any]) -> None:
    """Write a summary; whoever reads it finds a whole one."""
    part = Path(f"{path}.part")
    with part.open("w", encoding="utf-8") as stream:
        stream.write(json.dumps(told, indent=2, ensure_ascii=False) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(path)
