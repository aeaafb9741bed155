"""Everything at once: what cannot be had is named, and the figures of recorded rankers are met."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from podium_evals.catalogue import DL19, SUITES
from podium_evals.everything import Everything, _endpoints, published
from podium_evals.first_stage import with_lists
from podium_evals.recorded import RECORDINGS, replayed
from podium_evals.replay import DATA
from podium_evals.results import first_stage
from podium_evals.session import Session
from podium_evals.suite import Suite, SuiteError, Topic, checked
from podium_server import config
from tests.evals.test_runner import Quiet

NEEDS_DATA = pytest.mark.skipif(not (DATA / "eval").exists(), reason="needs ../shared/data")


def little_data(tmp_path: Path) -> Path:
    """Make a data folder that has a little of DL19 and nothing else."""
    folder = tmp_path / "data"
    (folder / "eval" / "qrels").mkdir(parents=True)
    candidates = [{"docid": docid, "text": f"text {docid}"} for docid in ("a", "b")]
    rows = [{"qid": qid, "query": f"query {qid}", "candidates": candidates} for qid in "123"]
    with gzip.open(folder / "eval" / DL19.source, "wt") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "eval" / "qrels" / "dl19.txt").write_text("1 0 b 1\n2 0 a 1\n3 0 b 2\n")
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return little_data(tmp_path)


CONFIG = """
[models.far]
backend = "openai"
base_url = "http://127.0.0.1:9/v1"
model = "nobody"
[pipelines.far]
stages = [{ strategy = "sliding-window", model = "far", prompt = "rank-vicuna" }]
"""


async def test_what_cannot_be_had_is_named(data: Path, tmp_path: Path) -> None:
    (tmp_path / "podium.toml").write_text(CONFIG)
    loaded = config.load(tmp_path / "podium.toml")
    kept = {name: loaded.pipelines[name] for name in ("recall", "far")}
    some = loaded.model_copy(update={"pipelines": kept})
    session = await Everything(data, some, tmp_path / "out", parts=("suites", "recordings", "peers")).run(Quiet())
    results = session.results()
    (evaluation,) = results.evaluations
    assert [system.name for system in evaluation.systems] == [
        "first-stage",
        "recall",
        "untrained-cosine",
        "untrained-maxsim",
    ]
    assert {reference.name for reference in evaluation.references} == {reference.name for reference in DL19.references}
    missing = {one.what: one.why for one in results.missing}
    assert set(missing) == {
        *(known.name for known in SUITES if known is not DL19),
        *(recorded.name for recorded in RECORDINGS),
        "pipeline far",
        "simulated",
        "peers",
    }
    assert missing["pipeline far"].startswith("asks far")
    assert "not asked for" in missing["simulated"]
    assert [row["same"] for row in results.sections["published"]] == [False, None, None, None]


@pytest.mark.parametrize(
    ("section", "stage"),
    [
        ('backend = "openai-embeddings"\nmodel = "m"\nbase_url = "http://127.0.0.1:9/v1"', 'scoring = "cosine"'),
        ('backend = "rerank-api"\ndialect = "tei"\nmodel = "m"\nbase_url = "http://127.0.0.1:9"', ""),
    ],
)
def test_whatever_is_behind_a_network_is_left_out(tmp_path: Path, section: str, stage: str) -> None:
    stages = f'stages = [{{ strategy = "pointwise", model = "far"{", " + stage if stage else ""} }}]'
    (tmp_path / "podium.toml").write_text(f"[models.far]\n{section}\n[pipelines.far]\n{stages}\n")
    loaded = config.load(tmp_path / "podium.toml")
    assert _endpoints(loaded, "far") == ["far"]
    assert _endpoints(loaded, "balanced") == []


async def test_nothing_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match="has none of the suites"):
        await Everything(tmp_path, config.load(None), tmp_path / "out").run(Quiet())


async def test_a_table_of_peers_is_taken_in_or_refused_by_name(data: Path, tmp_path: Path) -> None:
    peers = tmp_path / "peers.json"
    for text, missing in (('{"rows": [1]}', set()), ("{", {"peers"})):
        peers.write_text(text)
        everything = Everything(data, config.load(None), tmp_path / "out", parts=("peers",), peers=peers)
        results = (await everything.run(Quiet())).results()
        assert {one.what for one in results.missing} & {"peers"} == missing
    assert results.sections.keys() == {"published"}


@pytest.mark.timeout(300)  # it reads 4,300 passages and answers 387 windows: 8 s of a processor, on a busy machine more
@NEEDS_DATA
async def test_a_recorded_ranker_is_a_system_whose_figures_are_met() -> None:
    (early,) = (recorded for recorded in RECORDINGS if recorded.ndcg == 0.6665)
    suite = DL19.read(DATA)
    session = Session([suite], Quiet())
    session.add(suite, await replayed(suite, early, DATA, DATA / "eval" / DL19.source, lambda done, of: None))
    summary = session.evaluation(suite).summaries[early.name]
    assert (summary.calls, summary.rounds, summary.latency_p50_s) == (9, 9, None)
    assert summary.malformed == pytest.approx(11 / 387)
    assert [row["same"] for row in published(session, suite)] == [True, None, True, None]


@NEEDS_DATA
def test_the_data_folder_has_every_suite() -> None:
    for known in SUITES:
        assert (DATA / "eval" / known.source).exists()


def test_the_lists_of_a_corpus_are_bm25s() -> None:
    corpus = {"long": "cats " * 3 + "and dogs " * 40, "cat": "cats purr", "dog": "dogs bark", "none": "bread"}
    suite = checked(
        Suite(
            "s",
            (Topic("1", "cats", ()), Topic("2", "dogs bark", ())),
            {"1": {"cat": 1}, "2": {"dog": 1}},
            corpus=corpus,
        )
    )
    listed = with_lists(suite, depth=3)
    assert [[passage.docid for passage in topic.candidates] for topic in listed.topics] == [
        ["cat", "long"],
        ["dog", "long"],
    ]
    assert "of a corpus of 4 documents" in " ".join(listed.warnings)
    assert with_lists(listed) is listed
    assert first_stage(listed).run["1"] == ("cat", "long")


@NEEDS_DATA
def test_published_figures_are_not_compared_with_parts() -> None:
    suite = DL19.read(DATA, 5)
    assert len(suite.topics) == len(suite.qrels) == 5
    assert {row["same"] for row in published(Session([suite], Quiet()), suite)} == {None}
