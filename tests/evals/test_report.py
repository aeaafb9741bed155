"""The report as a file: nothing in the data can become markup, nothing is fetched, and the figures are the results'."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from urllib.parse import unquote

import ir_measures
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from podium_evals import report, results_file
from podium_evals.evaluate import evaluate
from podium_evals.given_runs import judgments_alone, run_system
from podium_evals.measures import measure
from podium_evals.report import words
from podium_evals.report.command import command
from podium_evals.report.details import details
from podium_evals.report.figures import ndcg_by_depth
from podium_evals.report.mistakes import classify
from podium_evals.report.page import render
from podium_evals.results import Missing, Ranking, Reference, Results, Spent, System, first_stage
from podium_evals.suite import Passage, Suite, Topic, checked
from podium_server.errors import FailedPrecondition

HOSTILE = """</script><script>window.owned = 1</script><img src=x onerror="owned=1"><!-- ]]> & ' " \u2028 \ud800"""

MEASURED = (ir_measures.nDCG @ 10, ir_measures.Judged @ 10)

docids = st.lists(st.text("abcdef", min_size=1, max_size=2), unique=True, max_size=14)


def small(*, hostile: str = "", name: str = "small", queries: int = 3) -> Results:
    """Return results of three systems over a few lists of six, one of them without a price."""
    named = hostile.encode("utf-8", "replace").decode().replace("\x00", "")  # trec_eval is written in C, and reads ids
    topics = tuple(
        Topic(
            f"q{number}{named}",
            f"question {number} {hostile}",
            tuple(Passage(f"d{place}{named}", f"passage {place} of {number} {hostile}", -place) for place in range(6)),
        )
        for number in range(queries)
    )
    qrels = {topic.qid: {topic.candidates[4].docid: 2, topic.candidates[0].docid: 0} for topic in topics}
    suite = checked(Suite(name + hostile, topics, qrels))

    def system(title: str, order: tuple[int, ...], spent: Spent) -> System:
        rankings = tuple(
            Ranking(t.qid, tuple(t.candidates[place].docid for place in order), spent=spent) for t in topics
        )
        return System(title + hostile, f"turns lists {hostile}", (f"stage {hostile}",), rankings, (f"1 × {hostile}",))

    systems = (
        first_stage(suite),
        system("turned", (5, 4, 3, 2, 1, 0), Spent(calls=2, rounds=2, cost_usd=0.001, wall_s=0.5)),
        system(
            "unpriced", (4, 0, 1, 2, 3, 5), Spent(calls=1, rounds=1, cost_usd=None, wall_s=0.1, malformed_replies=1)
        ),
    )
    evaluation = evaluate(
        suite, systems, measures=MEASURED, references=(Reference("a paper" + hostile, "nDCG@10", 0.7, hostile),)
    )
    return Results((evaluation,), made={"command": f"podium {hostile}", "seed": "0"}, missing=(Missing("x", hostile),))


class Read(HTMLParser):
    """What a browser's parser would find."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.styles: list[str] = []
        self.text: list[str] = []
        self._within = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._within = tag

    def handle_endtag(self, tag: str) -> None:
        self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within == "script":
            self.scripts.append((self.tags[-1][1], data))
        elif self._within == "style":
            self.styles.append(data)
        else:
            self.text.append(data)

    def data(self, name: str) -> dict:
        """Return a block of data."""
        return next(json.loads(text) for attributes, text in self.scripts if attributes.get("id") == name)


def sha256(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_the_policy_names_our_script_and_our_style_and_nothing_else() -> None:
    page = Read(render(small()))
    (policy,) = [a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    (script,) = [text for attributes, text in page.scripts if "type" not in attributes]
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == sha256(script)
    assert rules["style-src"] == sha256(page.styles[0])
    assert len(page.styles) == 1
    # The policy would block these, and a reader's charts with them.
    assert not [tag for tag, attributes in page.tags for key in attributes if key.startswith("on") or key == "style"]


def test_nothing_is_fetched() -> None:
    page = Read(render(small()))
    for tag, attributes in page.tags:
        for key in ("src", "href", "action", "data", "poster", "srcset"):
            target = attributes.get(key)
            assert target is None or target.startswith(("#", "data:image/svg+xml,")), (tag, target)
    assert "@import" not in page.styles[0]
    assert "url(" not in page.styles[0]


def test_scripts_have_no_way_to_make_markup_of_text_or_to_reach_out() -> None:
    folder = resources.files("podium_evals.report").joinpath("assets")
    scripts = [file for file in folder.iterdir() if file.name.endswith(".js")]
    assert len(scripts) >= 5
    refused = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\b|new Function"
    refused += r"|fetch\(|XMLHttp|import\(|WebSocket|sendBeacon"
    for file in scripts:
        assert not re.search(refused, file.read_text(encoding="utf-8")), file.name


@pytest.mark.parametrize("hostile", [HOSTILE, "<b>", "]]>", "\x00\x1b[31m", "%2F#/?&", "🏅" * 3])
def test_hostile_text_stays_text(hostile: str) -> None:
    plain, page = Read(render(small())), Read(render(small(hostile=hostile)))
    # One tag more is markup that came out of the data. (The number of list entries follows the data alone.)
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in plain.tags]
    assert [sorted(a) for _, a in page.tags] == [sorted(a) for _, a in plain.tags]
    written = hostile.encode("utf-8", "replace").decode()
    suite = page.data("figures")["suites"][0]
    assert suite["queries"][0] == f"question 0 {written}"
    assert suite["systems"][1]["name"] == f"turned{written}"
    assert page.data("details-0")["docs"][0] == ["d0" + written.replace("\x00", ""), f"passage 0 of 0 {written}"]


@given(st.text(max_size=40))
@settings(max_examples=25, deadline=None)
def test_any_text_comes_through_unchanged(text: str) -> None:
    page = Read(render(small(hostile=text, queries=1)))
    assert page.data("details-0")["docs"][0][1] == f"passage 0 of 0 {text}".encode("utf-8", "replace").decode()
    assert len([1 for attributes, _ in page.scripts if "type" not in attributes]) == 1


def test_links_lead_somewhere() -> None:
    one, other = small(name="a/b c"), small(name="ü")
    page = Read(render(replace(one, evaluations=one.evaluations + other.evaluations)))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    slugs = [suite["slug"] for suite in page.data("figures")["suites"]]
    assert slugs == ["a/b c", "ü"]
    for tag, attributes in page.tags:
        href = attributes.get("href") or ""
        if tag == "a" and href.startswith("#/") and len(href) > 2:
            assert unquote(href[2:]) in slugs
        elif tag == "a" and href != "#/":
            assert href[1:] in ids


def test_two_suites_of_one_name_have_their_own_addresses() -> None:
    one = small()
    page = Read(render(replace(one, evaluations=one.evaluations * 2)))
    slugs = [suite["slug"] for suite in page.data("figures")["suites"]]
    assert len(set(slugs)) == 2


def test_the_figures_are_those_of_the_results() -> None:
    results = small()
    (evaluation,) = results.evaluations
    page = Read(render(results))
    suite = page.data("figures")["suites"][0]
    for drawn, system in zip(suite["systems"], evaluation.systems, strict=True):
        summary = evaluation.summaries[system.name]
        assert drawn["mean"] == summary.means["nDCG@10"].value
        assert drawn["cost"] == summary.cost_usd
        assert drawn["values"] == pytest.approx(evaluation.values[system.name]["nDCG@10"], abs=1e-5)
        # Depth is computed here and measures elsewhere: they must agree where they meet.
        assert drawn["depth"][9] == pytest.approx(summary.means["nDCG@10"].value, abs=1e-5)
        assert words.quality(summary.means["nDCG@10"].value) in page.text


def test_an_unknown_price_is_a_dash_and_never_nothing() -> None:
    page = Read(render(small()))
    costs = {system["name"]: system["cost"] for system in page.data("figures")["suites"][0]["systems"]}
    assert costs == {"first-stage": 0.0, "turned": 0.001, "unpriced": None}
    row = render(small()).split('<tr data-system="unpriced"')[1].split("</tr>")[0]
    assert "$" not in row
    assert words.dollars(None) == "–"


@given(docids, st.dictionaries(st.text("abcdef", min_size=1, max_size=2), st.integers(0, 3), min_size=1))
@settings(deadline=None)
def test_quality_by_depth_is_ir_measures(order: list[str], grades: dict[str, int]) -> None:
    curve = ndcg_by_depth(order, grades)
    if not order or not any(grades.values()):
        assert not curve.any()
        return
    for depth in (1, 3, 10, 20):
        found = measure({"q": order}, {"q": grades}, [ir_measures.nDCG @ depth]).values[f"nDCG@{depth}"][0]
        assert np.isclose(curve[depth - 1], found, atol=1e-4)


@given(docids, st.randoms(), st.dictionaries(st.text("abcdef", min_size=1, max_size=2), st.integers(0, 3)))
@settings(deadline=None)
def test_an_order_left_as_it_was_has_made_no_mistake(first: list[str], random, grades: dict[str, int]) -> None:
    same = classify(first, first, grades)
    assert (same.demoted, same.promoted, same.unjudged) == ((), (), ())
    best = sorted(first, key=lambda docid: -grades.get(docid, 0))
    perfect = classify(first, best, grades)
    assert (perfect.demoted, perfect.promoted) == ((), ())
    shuffled = random.sample(first, len(first))
    for docid in classify(first, shuffled, grades, depth=3).demoted:
        assert docid in first[:3]
        assert docid not in shuffled[:3]
        assert grades[docid] > 0
    assert same.nothing_there == (not any(grades.get(docid, 0) > 0 for docid in first))


def test_mistakes_are_told_apart() -> None:
    first, grades = ["r", "x", "n", "?", "s"], {"r": 2, "s": 1, "x": 0, "n": 0}
    found = classify(first, ["n", "?", "x", "r", "s"], grades, depth=2)
    assert found.demoted == ("r",)
    assert found.promoted == ("n",)
    assert found.unjudged == ("?",)
    # Pushed out by something better, which is no mistake; and nothing relevant is left to take n's place.
    assert classify(["s", "x", "r"], ["r", "x", "s"], {"r": 2, "s": 2}, depth=1).demoted == ()
    assert classify(["r", "x"], ["r", "x"][::-1], {"x": 0}, depth=1).promoted == ()
    assert classify(["x"], [], {"x": 1}).demoted == ()
    # Who recalls for itself has candidates that the first stage did not bring.
    own = classify(["x"], ["n", "r"], {"r": 1, "n": 0}, depth=1)
    assert (own.promoted, own.nothing_there) == (("n",), False)


@given(st.integers(0, 400))
@settings(max_examples=20, deadline=None)
def test_passages_keep_to_their_budget(bytes_max: int) -> None:
    results = small()
    blocks, characters = details(results.evaluations, bytes_max=bytes_max)
    texts = [text for block in blocks for _, text in block["docs"]]
    assert characters == 0 or sum(len(text[:characters].encode()) for text in texts) <= bytes_max
    assert all(len(text) <= max(1, characters) for text in texts)


def test_what_was_cut_is_said() -> None:
    results = small(hostile="long " * 200)
    assert "Passages are cut to 600 characters" in render(results)
    assert "Passages are cut to" not in render(small())


def test_what_is_missing_is_named_and_what_is_there_is_drawn() -> None:
    results = replace(
        small(),
        sections={"simulated": {"about": "A fit.", "fit": {"noise": 0.25}, "rows": [{"strategy": "s", "calls": 1234}]}},
        missing=(Missing("peers", "their environment was not built"), Missing("dl20", "there is no such file")),
    )
    text = " ".join(Read(render(results)).text)
    assert "Not in this report: their environment was not built." in text
    assert "dl20: there is no such file" in text
    assert "0.2500" in text
    assert "1,234" in text
    assert "it was not part of the command" in " ".join(Read(render(small())).text)


def test_charts_of_a_section_are_data_and_no_markup() -> None:
    point = {"name": HOSTILE, "x": 12, "y": 0.5}
    plot = {"title": "noise", "measure": "nDCG@10", "points": [point, {"name": "unknown", "x": None, "y": 0.4}]}
    page = Read(render(replace(small(), sections={"simulated": {"plots": [plot], "rows": []}})))
    assert len([1 for _, attributes in page.tags if attributes.get("data-plot") == "0"]) == 1
    (drawn,) = page.data("figures")["plots"]
    assert [(one["x"], one["y"]) for one in drawn["points"]] == [(12, 0.5), (None, 0.4)]
    # What is no chart is drawn as what it is.
    for odd in ({"points": [{"y": "high"}]}, {"points": [3]}, {}, 7):
        page = Read(render(replace(small(), sections={"simulated": {"plots": [odd]}})))
        assert page.data("figures")["plots"] == []


def test_without_any_price_tokens_are_drawn() -> None:
    results = small()
    (evaluation,) = results.evaluations
    free = {name: replace(summary, cost_usd=None) for name, summary in evaluation.summaries.items()}
    page = Read(render(replace(results, evaluations=(replace(evaluation, summaries=free),))))
    charts = [attributes["data-chart"] for _, attributes in page.tags if "data-chart" in attributes]
    assert charts == ["tokens", "latency", "depth", "differences"]
    assert "no price is configured" in " ".join(page.text)
    assert 'data-chart="cost"' in render(results)


@pytest.mark.parametrize("odd", [None, [], {}, 3, "x", [1, [2]], [{"a": {"b": {"c": {"d": {"e": [1]}}}}}, {}], [{}, 1]])
def test_a_section_may_hold_any_json(odd: object) -> None:
    Read(render(replace(small(), sections={"peers": odd, "another_one": {"deep": odd}})))


def test_results_without_an_evaluation_are_refused() -> None:
    with pytest.raises(ValueError, match="no evaluation"):
        render(Results(()))


def test_a_suite_with_a_single_system_is_drawn() -> None:
    suite = small().evaluations[0].suite
    alone = Results((evaluate(suite, (first_stage(suite),), measures=MEASURED),))
    assert "nothing to compare it with" in " ".join(Read(render(alone)).text)


def test_the_file_appears_whole(tmp_path: Path) -> None:
    results_file.write(small(), tmp_path / "results.json")
    ended = CliRunner().invoke(command, [str(tmp_path)])
    assert ended.exit_code == 0, ended.output
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == render(small())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "results.json"]
    report.write(small(), tmp_path / "again.html")
    assert (tmp_path / "again.html").stat().st_size == (tmp_path / "report.html").stat().st_size


def test_the_command_says_what_it_lacks(tmp_path: Path) -> None:
    ended = CliRunner().invoke(command, [str(tmp_path)])
    assert isinstance(ended.exception, FailedPrecondition)
    assert "results.json" in str(ended.exception)
    (tmp_path / "results.json").write_text('{"format": "another/1"}')
    ended = CliRunner().invoke(command, [str(tmp_path)])
    assert isinstance(ended.exception, FailedPrecondition)
    assert "another/1" in str(ended.exception)
    results_file.write(small(), tmp_path / "results.json")
    ended = CliRunner().invoke(command, [str(tmp_path), "--out", str(tmp_path / "nowhere" / "report.html")])
    assert ended.exit_code == 2
    assert "cannot be written" in ended.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.json"]


def test_run_files_alone_are_drawn(tmp_path: Path) -> None:
    (tmp_path / "qrels.txt").write_text("1 0 a 1\n1 0 b 0\n2 0 c 2\n")
    suite = judgments_alone(tmp_path / "qrels.txt")
    for name, order in (("one", "ab"), ("two", "ba")):
        lines = [f"{qid} Q0 {docid} 1 {2 - rank} x" for qid in "12" for rank, docid in enumerate(order)]
        (tmp_path / f"{name}.trec").write_text("\n".join(lines) + "\n")
    systems = [run_system(tmp_path / f"{name}.trec", suite) for name in ("one", "two")]
    results = Results((evaluate(suite, systems, baseline="one", measures=MEASURED),))
    page = Read(render(results))
    first = page.data("details-0")["queries"][0]
    assert (first["n"], first["found"]) == (2, 1)
    assert page.data("figures")["suites"][0]["systems"][1]["cost"] is None


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (words.quality(0.66824), ".6682"),
        (words.quality(1.0), "1.0000"),
        (words.quality(-0.0000001), ".0000"),
        (words.signed(-0.25, 2), "−.25"),
        (words.signed(0.0), ".0000"),
        (words.p_value(0.00005), "< .001"),
        (words.seconds(0.0000123), "12.3 µs"),
        (words.seconds(0.25), "250 ms"),
        (words.seconds(1.5), "1.50 s"),
        (words.seconds(600), "10.0 min"),
        (words.dollars(0.0006), "$0.00060"),
        (words.dollars(0), "$0"),
        (words.dollars(12345.6), "$12,346"),
        (words.count(9), "9"),
        (words.count(3.456), "3.46"),
        (words.share(0.5), "50 %"),
        (words.share(0.0123), "1.2 %"),
        (words.significant(9.999), "10.00"),
    ],
)
def test_numbers_are_written_for_people(said: str, wanted: str) -> None:
    assert said == wanted
