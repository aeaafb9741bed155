"""Suites: what a ranking is judged on. Queries, their candidates in first-stage order, and judgments.

A suite is read from
- one file of Podium's lists (`{"qid", "query", "candidates": [{"docid", "text", "score"?, "rel"?, "judged"?}]}`), with
  judgments from a qrels file, or from the candidates' own `rel` where there is none;
- a folder: `lists.jsonl[.gz]`, or a BEIR or TREC collection (`corpus.jsonl[.gz]`, `queries*.jsonl[.gz]` or `.tsv`,
  `qrels*` beside them or in `qrels/`, and a TREC run where there is one);
- an ir_datasets name, `ir_datasets:beir/nfcorpus/dev`, on a machine that has a network.

A collection without lists is a corpus: `podium_evals.first_stage` makes its lists.
"""

from __future__ import annotations

import gzip
import io
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TextIO

from podium_server.errors import InvalidRequest
from podium_server.jobs.json_lines import BROKEN_OFF
from podium_server.jobs.qrels import read_qrels as read_judgments

IRDS = "ir_datasets:"
NOTED = 3
"""Names that a warning shows of those that it counts."""


class SuiteError(Exception):
    """A suite that cannot be used; the message says which file, which line, and what would do."""


class Passage(NamedTuple):
    """A candidate as it was given; `score` is the first stage's, higher is better."""

    docid: str
    text: str
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Topic:
    """A query with its candidates in first-stage order."""

    qid: str
    query: str
    candidates: tuple[Passage, ...]


Qrels = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Suite:
    """Queries with candidates, and judgments.

    Args:
        name: for tables and file names.
        topics: in the order of the file.
        qrels: qid → docid → grade; what is not in it is not judged.
        corpus: docid → text, of a collection that came without lists; else empty.
        warnings: sentences, each with a count.

    """

    name: str
    topics: tuple[Topic, ...]
    qrels: Qrels
    corpus: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    warnings: tuple[str, ...] = ()

    @property
    def judged_topics(self) -> tuple[Topic, ...]:
        """The topics that can be measured: with judgments of which at least one is relevant."""
        return tuple(topic for topic in self.topics if any(grade > 0 for grade in self.qrels[topic.qid].values()))


def read_suite(source: str | Path, *, qrels: Path | None = None, name: str | None = None) -> Suite:
    """Read a suite.

    Args:
        source: a file of lists, a folder, or `ir_datasets:NAME`.
        qrels: judgments; None takes those beside or within the lists.
        name: unset, that of the file or folder.

    Raises:
        SuiteError: something is missing or contradicts itself.

    """
    text = str(source)
    if text.startswith(IRDS):
        suite = _from_ir_datasets(text.removeprefix(IRDS))
    else:
        path = Path(text)
        if path.is_dir():
            suite = _from_folder(path, qrels)
        elif path.is_file():
            suite = _from_lists(path, qrels)
        else:
            raise SuiteError(f"{path}: there is no such file or folder")
    return checked(replace(suite, name=name) if name else suite)


def checked(suite: Suite) -> Suite:
    """Return the suite with what is odd about it counted.

    Raises:
        SuiteError: nothing can be measured with it: two topics of one id, no topic, no judgment for any of them.

    """
    twice = [qid for qid, count in Counter(topic.qid for topic in suite.topics).items() if count > 1]
    if twice:
        raise SuiteError(f"{suite.name}: {listed(twice, 'query id')} more than once; each query needs an id of its own")
    if not suite.topics:
        raise SuiteError(f"{suite.name}: has no queries")
    # The measures are computed by C code, which ends the process at an id that is no UTF-8, and the id at a NUL.
    for topic in suite.topics:
        unfit = [name for name in (topic.qid, *(p.docid for p in topic.candidates)) if not _fit(name)]
        if unfit:
            raise SuiteError(
                f"{suite.name}: query {topic.qid!r}: the id {unfit[0]!r} is no text of Unicode without NUL"
            )
    if not any(suite.qrels.get(topic.qid) for topic in suite.topics):
        others = f", which are of other queries ({', '.join(list(suite.qrels)[:NOTED])}, …)" if suite.qrels else ""
        raise SuiteError(f"{suite.name}: none of its {len(suite.topics)} queries has a judgment in the qrels{others}")
    warnings = list(suite.warnings)

    def warn(topics: Sequence[str], what: str) -> None:
        # Lists that were made of a corpus are looked at a second time.
        if topics and (told := f"{listed(topics, 'query', 'queries')} {what}") not in warnings:
            warnings.append(told)

    judged = [topic for topic in suite.topics if suite.qrels.get(topic.qid)]
    warn(
        [topic.qid for topic in suite.topics if not suite.qrels.get(topic.qid)], "without judgments: left out of means"
    )
    barren = [topic.qid for topic in judged if not any(grade > 0 for grade in suite.qrels[topic.qid].values())]
    warn(barren, "without a relevant document: left out of means")
    if not suite.corpus or any(topic.candidates for topic in suite.topics):
        warn([topic.qid for topic in suite.topics if not topic.candidates], "without candidates: they count as 0")
        missed = [
            topic.qid
            for topic in judged
            if topic.candidates and not any(passage.docid in suite.qrels[topic.qid] for passage in topic.candidates)
        ]
        warn(missed, "of whose candidates none is judged")
    odd = [
        topic.qid
        for topic in suite.topics
        if any(passage.score is not None and not math.isfinite(passage.score) for passage in topic.candidates)
    ]
    if odd:
        raise SuiteError(f"{suite.name}: {listed(odd, 'query', 'queries')} with a first-stage score that is no number")
    for topic in suite.topics:
        doubled = [docid for docid, count in Counter(p.docid for p in topic.candidates).items() if count > 1]
        if doubled:
            raise SuiteError(f"{suite.name}: query {topic.qid}: {listed(doubled, 'candidate')} more than once")
    known = {topic.qid: suite.qrels.get(topic.qid, {}) for topic in suite.topics}
    return replace(suite, qrels=MappingProxyType(known), warnings=tuple(warnings))


def _fit(name: str) -> bool:
    return "\0" not in name and not any("\ud800" <= letter <= "\udfff" for letter in name)


def limited(suite: Suite, queries: int | None) -> Suite:
    """Return the suite with its first so many queries that have judgments, and says so; None leaves it whole."""
    judged = suite.judged_topics
    if queries is None or len(judged) <= queries:
        return suite
    kept = judged[:queries]
    note = f"the first {queries:,} of {len(judged):,} judged queries"
    graded = {topic.qid: suite.qrels[topic.qid] for topic in kept}
    return replace(suite, topics=kept, qrels=MappingProxyType(graded), warnings=(*suite.warnings, note))


# --- files ----------------------------------------------------------------------------------------------------------


def read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """Read judgments, TREC's or BEIR's (`podium_server.jobs.qrels`), with whole grades.

    Raises:
        SuiteError: with the line.

    """
    try:
        found = read_judgments(path)
    except (OSError, InvalidRequest) as error:
        raise SuiteError(str(error)) from error
    return {
        qid: {docid: _whole(grade, f"{path}: query {qid}, document {docid}") for docid, grade in judged.items()}
        for qid, judged in found.items()
    }


def _whole(grade: Any, where: str) -> int:
    """Return a grade. A half, cut off, would be irrelevant, and nobody would be told."""
    try:
        if float(grade).is_integer():
            return int(float(grade))
    except (TypeError, ValueError):
        pass
    raise SuiteError(f"{where}: the grade is {grade!r}, and a whole number is needed")


def read_run(path: Path) -> dict[str, list[tuple[str, float]]]:
    """Read a TREC run: qid → (docid, score), sorted as trec_eval does: by score, ties by docid, both descending.

    Raises:
        SuiteError: with the line: columns, a score that is no number, a document twice.

    """
    found: dict[str, dict[str, float]] = {}
    for number, line in _lines(path):
        words = line.split()
        if len(words) != 6:
            raise SuiteError(
                f"{path}, line {number}: {len(words)} columns; a TREC run has 6: qid Q0 docid rank score tag"
            )
        qid, _, docid, _, score, _ = words
        try:
            value = float(score)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise SuiteError(f"{path}, line {number}: the score is {score!r}, which is no number")
        documents = found.setdefault(qid, {})
        if docid in documents:
            raise SuiteError(f"{path}, line {number}: query {qid} has document {docid} twice")
        documents[docid] = value
    return {
        qid: sorted(documents.items(), key=lambda item: (item[1], item[0]), reverse=True)
        for qid, documents in found.items()
    }


def _from_lists(path: Path, qrels: Path | None) -> Suite:
    topics = []
    own: dict[str, dict[str, int]] = {}
    for number, row in _rows(path):
        try:
            qid = str(row["qid"])
            given = row["candidates"]
            topics.append(Topic(qid, str(row["query"]), tuple(_passage(candidate) for candidate in given)))
        except (KeyError, TypeError, ValueError) as error:
            raise SuiteError(f"{path}, line {number}: is no list of candidates: {error!r}") from None
        judged = own.setdefault(qid, {})
        for candidate in given:
            if candidate.get("judged", True) and candidate.get("rel") is not None:
                docid = str(candidate["docid"])
                judged[docid] = _whole(candidate["rel"], f"{path}, line {number}: document {docid}")
    name = path.name.split(".")[0]
    if qrels is not None:
        return Suite(name, tuple(topics), read_qrels(qrels))
    if not any(own.values()):
        raise SuiteError(f"{path}: its candidates have no `rel`, and no qrels were given (--qrels FILE)")
    note = "judgments are the lists' own, so that what the first stage did not find is not missed"
    return Suite(name, tuple(topics), own, warnings=(note,))


def _passage(candidate: Mapping[str, Any]) -> Passage:
    score = candidate.get("score")
    title, text = candidate.get("title") or "", str(candidate["text"])
    return Passage(
        str(candidate["docid"]), f"{title}. {text}" if title else text, None if score is None else float(score)
    )


def _from_folder(folder: Path, qrels: Path | None) -> Suite:
    lists = _only(folder, ("lists.jsonl", "lists.jsonl.gz"))
    judgments = qrels or _only(
        folder, ("qrels.txt", "qrels.tsv", "qrels*.txt", "qrels*.tsv", "qrels/*.txt", "qrels/*.tsv", "*.qrels")
    )
    if lists is not None:
        return replace(_from_lists(lists, judgments), name=folder.name)
    corpus_file = _only(folder, ("corpus.jsonl", "corpus.jsonl.gz", "collection.tsv", "collection.tsv.gz"))
    queries_file = _only(folder, ("queries*.jsonl", "queries*.jsonl.gz", "queries*.tsv", "topics*.tsv"))
    missing = [
        what
        for what, file in (
            ("a corpus (corpus.jsonl or collection.tsv)", corpus_file),
            ("queries (queries.jsonl or queries.tsv)", queries_file),
            ("judgments (qrels.txt, or qrels/NAME.tsv; or give --qrels FILE)", judgments),
        )
        if file is None
    ]
    if corpus_file is None or queries_file is None or judgments is None:
        raise SuiteError(f"{folder}: has neither lists.jsonl nor a whole collection: it lacks {', and '.join(missing)}")
    corpus = dict(_texts(corpus_file, ("text", "contents")))
    graded = read_qrels(judgments)
    queries = {qid: text for qid, text in _texts(queries_file, ("query", "text")) if qid in graded}
    run_file = _only(folder, ("run.trec", "*.run", "*.trec"))
    if run_file is None:
        topics = tuple(Topic(qid, text, ()) for qid, text in queries.items())
        return Suite(folder.name, topics, graded, corpus=MappingProxyType(corpus))
    return _with_run(folder.name, queries, corpus, graded, run_file)


def _with_run(name: str, queries: Mapping[str, str], corpus: Mapping[str, str], qrels: Qrels, run_file: Path) -> Suite:
    run = read_run(run_file)
    others = [qid for qid in run if qid not in queries]
    if len(others) == len(run):
        raise SuiteError(f"{run_file}: is a run over other queries: none of its {len(run)} is in the suite")
    warnings = [f"{listed(others, 'query', 'queries')} of the run are not in the suite: ignored"] if others else []
    unknown = [docid for qid in queries for docid, _ in run.get(qid, ()) if docid not in corpus]
    if unknown:
        raise SuiteError(f"{run_file}: {listed(unknown, 'document')} not in the corpus")
    topics = tuple(
        Topic(qid, text, tuple(Passage(docid, corpus[docid], score) for docid, score in run.get(qid, ())))
        for qid, text in queries.items()
    )
    return Suite(name, topics, qrels, warnings=tuple(warnings))


def _from_ir_datasets(name: str) -> Suite:
    try:
        import ir_datasets
    except ImportError:
        raise SuiteError(f"{IRDS}{name} needs ir_datasets: pip install ir_datasets") from None
    try:
        dataset = ir_datasets.load(name)
        qrels: dict[str, dict[str, int]] = {}
        for judgment in dataset.qrels_iter():
            qrels.setdefault(judgment.query_id, {})[judgment.doc_id] = judgment.relevance
        queries = {query.query_id: query.default_text() for query in dataset.queries_iter() if query.query_id in qrels}
        corpus = {document.doc_id: document.default_text() for document in dataset.docs_iter()}
    # It raises what its sources raise: no network, no such name, a set that wants a licence accepted first.
    except Exception as error:
        raise SuiteError(f"{IRDS}{name}: cannot be loaded: {error}") from error
    topics = tuple(Topic(qid, text, ()) for qid, text in queries.items())
    return Suite(name.replace("/", "-"), topics, qrels, corpus=MappingProxyType(corpus))


def _texts(path: Path, keys: Sequence[str]) -> Iterator[tuple[str, str]]:
    if ".tsv" in path.suffixes:
        for number, line in _lines(path):
            key, tab, text = line.partition("\t")
            if not tab:
                raise SuiteError(f"{path}, line {number}: has no tab between id and text")
            yield key, text
        return
    for number, row in _rows(path):
        ids = [row[key] for key in ("_id", "docid", "qid", "id") if key in row]
        texts = [row[key] for key in keys if key in row]
        if not ids or not texts:
            raise SuiteError(f"{path}, line {number}: needs an id (_id, docid, qid or id) and {' or '.join(keys)}")
        title = str(row.get("title") or "").strip()
        yield str(ids[0]), f"{title}. {texts[0]}" if title else str(texts[0])


def _only(folder: Path, patterns: Sequence[str]) -> Path | None:
    """Return the file of the first pattern that finds any.

    Raises:
        SuiteError: the pattern finds several, and which one is meant nobody said.

    """
    for pattern in patterns:
        files = sorted(folder.glob(pattern))
        if len(files) > 1:
            raise SuiteError(
                f"{folder}: {', '.join(file.name for file in files)}: several would do; keep one, or name it"
            )
        if files:
            return files[0]
    return None


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in _lines(path):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise SuiteError(f"{path}, line {number}: is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise SuiteError(f"{path}, line {number}: is no JSON object")
        yield number, row


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with _opened(path) as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield number, line.rstrip("\n")
    except (*BROKEN_OFF, UnicodeDecodeError) as error:
        raise SuiteError(f"{path}: cannot be read: {error}") from error


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    with path.open("rb") as raw, gzip.open(raw) if path.suffix == ".gz" else raw as stream:
        yield io.TextIOWrapper(stream, encoding="utf-8")


def listed(names: Sequence[str], one: str, several: str = "") -> str:
    """Return `3 queries (a, b, c)`, with the first few of the names."""
    shown = ", ".join(map(str, names[:NOTED])) + (", …" if len(names) > NOTED else "")
    return f"{len(names):,} {one if len(names) == 1 else several or one + 's'} ({shown})"
