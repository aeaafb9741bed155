"""What a log of rankings says, read back: requests, who was shown what, clicks on it, labels for it."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from podium_evals.suite import SuiteError
from podium_server.jobs.json_lines import BROKEN_OFF
from podium_server.ranking.ranking_log import FORMAT

INCUMBENT, CHALLENGER = "incumbent", "challenger"
ARMS = (INCUMBENT, CHALLENGER)


@dataclass(frozen=True, slots=True)
class Ranking:
    """What one pipeline made of a request, as far as the log has it.

    Args:
        pipeline: its name.
        ids: best first.
        places: in the first-stage order, from 0.
        scores: by rank; empty where the pipeline gives none.
        score_kind: of all scores.
        completion: `complete`, or why not.
        wall_s: of the ranking alone.
        calls: of models.
        tokens: read and written.
        cost_nano_usd: None where a price is not known.

    """

    pipeline: str
    ids: tuple[str, ...]
    places: tuple[int, ...]
    scores: tuple[float | None, ...]
    score_kind: str
    completion: str
    wall_s: float
    calls: int
    tokens: int
    cost_nano_usd: int | None


@dataclass(frozen=True, slots=True)
class Request:
    """One line of the log; see `podium_server.ranking.ranking_log.Entry`."""

    time_s: float
    request_id: str
    experiment: str
    mode: str
    arm: str
    share: float
    key: str
    query: str
    candidates: int
    shown: str
    rankings: Mapping[str, Ranking]
    missing: Mapping[str, str] = field(default_factory=dict)
    interleaved: tuple[str, ...] = ()
    teams: str = ""

    @property
    def shown_ids(self) -> tuple[str, ...]:
        """What the caller saw, best first, as far as the log has it; empty where they saw an error."""
        if self.interleaved:
            return self.interleaved
        ranking = self.rankings.get(self.shown)
        return ranking.ids if ranking else ()


@dataclass(frozen=True, slots=True)
class Traffic:
    """A log.

    Args:
        requests: in the order in which they were written.
        files: read, the oldest first.
        unreadable: lines that are no entries.

    """

    requests: tuple[Request, ...]
    files: tuple[str, ...]
    unreadable: int = 0


def read_log(path: Path) -> Traffic:
    """Read a log: the file, and before it those that were put aside (`<name>.1`, `<name>.2`, …).

    Raises:
        SuiteError: it cannot be read, has no entries, or is of another format.

    """
    files = [*_put_aside(path), path]
    requests: list[Request] = []
    unreadable = 0
    for file in files:
        for number, line in lines_of(file):
            try:
                row = json.loads(line)
                if row["format"] != FORMAT:
                    raise SuiteError(
                        f"{file}, line {number}: is of format {row['format']}; this version reads {FORMAT}"
                    )
                requests.append(_request(row))
            except (ValueError, KeyError, TypeError, AttributeError):
                unreadable += 1
    if not requests:
        raise SuiteError(f"{path}: has no entries of a log of rankings ({unreadable:,} lines cannot be read)")
    return Traffic(tuple(requests), tuple(map(str, files)), unreadable)


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a file, plain or gzipped, that are not empty, with their numbers from 1.

    Raises:
        SuiteError: it cannot be read.

    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line
    except (*BROKEN_OFF, UnicodeDecodeError) as error:
        raise SuiteError(f"{path}: cannot be read: {error}") from error


def _put_aside(path: Path) -> list[Path]:
    """Return the older files of a log, the oldest first."""
    found = {
        int(match[1]): each
        for each in path.parent.glob(f"{path.name}.*")
        if (match := re.fullmatch(rf"{re.escape(path.name)}\.(\d+)", each.name))
    }
    return [found[number] for number in sorted(found, reverse=True)]


def _request(row: Mapping[str, Any]) -> Request:
    return Request(
        time_s=float(row["time"]),
        request_id=str(row["request_id"]),
        experiment=str(row["experiment"]),
        mode=str(row["mode"]),
        arm=str(row["arm"]),
        share=float(row["share"]),
        key=str(row["key"]),
        query=str(row["query"]),
        candidates=int(row["candidates"]),
        shown=str(row["shown"]),
        rankings={str(arm): _ranking(given) for arm, given in row["rankings"].items()},
        missing={str(arm): str(why) for arm, why in row.get("missing", {}).items()},
        interleaved=tuple(row.get("interleaved", ())),
        teams=str(row.get("teams", "")),
    )


def _ranking(row: Mapping[str, Any]) -> Ranking:
    return Ranking(
        pipeline=str(row["pipeline"]),
        ids=tuple(row["ids"]),
        places=tuple(row["places"]),
        scores=tuple(row["scores"] or ()),
        score_kind=str(row["score_kind"]),
        completion=str(row["completion"]),
        wall_s=float(row["wall_s"]),
        calls=int(row["calls"]),
        tokens=int(row["prompt_tokens"]) + int(row["output_tokens"]),
        cost_nano_usd=row["cost_nano_usd"],
    )


@dataclass(frozen=True, slots=True)
class Clicks:
    """Clicks on what was shown.

    Args:
        ranks: request id → ranks clicked, from 1, each once, ascending.
        counts: of clicks: `counted`, `repeated` (the same document again), `of other requests`, `not shown` (a
            document that the log does not have among those shown), `too late`.

    """

    ranks: Mapping[str, tuple[int, ...]]
    counts: Mapping[str, int]


def read_clicks(path: Path, requests: Sequence[Request], *, within_s: float | None = None) -> Clicks:
    """Read clicks: `{"request_id", "doc_id" (or "docid"), "ts"}` a line; `ts` in seconds since 1970.

    Args:
        path: of JSON lines, plain or gzipped.
        requests: that they are clicks on.
        within_s: later ones do not count; None counts all, and needs no `ts`.

    Raises:
        SuiteError: with the line; or none of them is of these requests.

    """
    shown = {request.request_id: request for request in requests}
    ranks: dict[str, set[int]] = {}
    counts: Counter[str] = Counter()
    for row, where in _click_rows(path):
        request = shown.get(str(row["request_id"]))
        if request is None:
            counts["of other requests"] += 1
            continue
        if within_s is not None:
            if not isinstance(row.get("ts"), int | float):
                raise SuiteError(f"{where}: has no ts (seconds since 1970), and clicks are to come within {within_s} s")
            if row["ts"] - request.time_s > within_s:
                counts["too late"] += 1
                continue
        docid = str(row.get("doc_id", row.get("docid")))
        if docid not in request.shown_ids:
            counts["not shown"] += 1
            continue
        rank = request.shown_ids.index(docid) + 1
        of_request = ranks.setdefault(request.request_id, set())
        counts["repeated" if rank in of_request else "counted"] += 1
        of_request.add(rank)
    if not counts["counted"]:
        listed = ", ".join(f"{count:,} {what}" for what, count in counts.items()) or "it is empty"
        raise SuiteError(f"{path}: has no click on what the log shows ({listed})")
    return Clicks({name: tuple(sorted(found)) for name, found in ranks.items()}, dict(counts))


def _click_rows(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    for number, line in lines_of(path):
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise SuiteError(f"{where}: is not JSON: {error}") from None
        if not isinstance(row, dict) or "request_id" not in row or not ("doc_id" in row or "docid" in row):
            raise SuiteError(f"{where}: a click has request_id and doc_id (and ts)")
        yield row, where
