"""A corpus that is indexed: pipelines recall for themselves, and what they show has its text in the report."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from podium_evals.first_stage import with_lists
from podium_evals.indexed import Indexed
from podium_evals.report import write
from podium_evals.results import COMPLETE, FAILED
from podium_evals.results_file import as_data, read
from podium_evals.runner import Here, run_pipeline
from podium_evals.session import Session, save
from podium_evals.suite import Suite, Topic, checked
from podium_server import config
from podium_server.errors import Unavailable
from podium_server.recall.document import Document
from tests.evals.test_runner import Quiet, suite

CORPUS = {
    "cats": "Cats turn in the air and land on their feet.",
    "felines": "A feline that falls rights itself before it touches the ground.",
    "bread": "Bread is baked from flour and water.",
    "empty": "",
}
QUERY = "how do cats land"


def collection() -> Suite:
    """Two queries over four documents: one shares words with a document, and one has nothing but stop words."""
    topics = (Topic("1", QUERY, ()), Topic("2", "felines falling", ()))
    return with_lists(checked(Suite("animals", topics, {"1": {"cats": 1}, "2": {"felines": 1}}, CORPUS)))


def indexed(tmp_path: Path, said: list[str]) -> Indexed:
    return Indexed(Here(config.load(None)), tmp_path, 3, said.append)


def names_in(folder: Path) -> list[str]:
    return [each.name for each in folder.iterdir()]


async def test_pipelines_find_what_shares_no_word_with_the_query(tmp_path: Path) -> None:
    said: list[str] = []
    place, whole = indexed(tmp_path, said), collection()
    assert "felines" not in {passage.docid for passage in whole.topics[0].candidates}
    for name in ("recall", "fast"):
        system = await run_pipeline(whole, place, name)
        assert [set(ranking.docids) for ranking in system.rankings] == [{"cats", "felines", "bread"}] * 2
        assert [ranking.docids[0] for ranking in system.rankings] == ["cats", "felines"]
        assert {ranking.completion for ranking in system.rankings} == {COMPLETE}
        assert system.stages[0] == "recalls 3 of 4 indexed documents by itself, without 1 that the index refused"
        assert [ranking.unchanged for ranking in system.rankings] == [True, True]
    # Once for both pipelines.
    assert [line for line in said if "indexing" in line] == ["animals: indexing 4 documents"]
    assert [line for line in said if "cannot" in line] == [said[1]]
    assert "empty" in said[1]


async def test_an_index_that_broke_off_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pipelines after the first would be measured over half of a corpus, and nobody would know."""
    place, whole = indexed(tmp_path, []), replace(collection(), name="../animals")

    async def half(of: Suite) -> AsyncIterator[Document]:
        yield Document("cats", of.corpus["cats"])
        raise Unavailable("the encoder is gone")

    with monkeypatch.context() as broken:
        broken.setattr("podium_evals.indexed._documents", half)
        with pytest.raises(Unavailable):
            await run_pipeline(whole, place, "recall")
    system = await run_pipeline(whole, place, "recall")
    assert set(system.rankings[0].docids) == {"cats", "felines", "bread"}
    assert names_in(tmp_path) == ["suite-..%2Fanimals"]


async def test_lists_are_ranked_as_they_are(tmp_path: Path) -> None:
    said: list[str] = []
    place = indexed(tmp_path, said)
    system = await run_pipeline(suite(), place, "fast")
    plain = await run_pipeline(suite(), place.here, "fast")
    assert [ranking.docids for ranking in system.rankings] == [ranking.docids for ranking in plain.rankings]
    assert system.stages == plain.stages
    assert said == []


async def test_a_query_that_is_refused_fails_alone(tmp_path: Path) -> None:
    topics = (Topic("1", QUERY, ()), Topic("2", "x" * 2_000_000, ()))
    whole = with_lists(checked(Suite("animals", topics, {"1": {"cats": 1}, "2": {"cats": 1}}, CORPUS)))
    system = await run_pipeline(whole, indexed(tmp_path, []), "recall")
    assert [ranking.completion for ranking in system.rankings] == [COMPLETE, FAILED]


def test_the_report_shows_texts_that_no_list_has(tmp_path: Path) -> None:
    session = Session([collection()], Quiet(), tmp_path / "out")
    asyncio.run(session.run(indexed(tmp_path / "index", []), ["recall"]))
    results = session.results()
    save(results, tmp_path / "out")
    again = read(tmp_path / "out" / "results.json")
    assert json.dumps(as_data(again)) == json.dumps(as_data(results))
    assert set(again.evaluations[0].suite.corpus) == {"cats", "felines", "bread"}
    write(again, tmp_path / "again.html")
    drawn = (tmp_path / "again.html").read_text(encoding="utf-8")
    assert drawn == (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "rights itself before it touches" in drawn
