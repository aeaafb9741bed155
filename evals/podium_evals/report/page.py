"""The page: the parts in their order, one style, one script, and a policy that lets nothing else run or load."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

from podium_evals.report import tables
from podium_evals.report.details import TEXT_BYTES_MAX, details
from podium_evals.report.figures import priced, suite_figures
from podium_evals.report.findings import findings
from podium_evals.report.markup import Child, Html, clean, join, script_data, tag
from podium_evals.report.sections import chart, made, sections
from podium_evals.results import SHOWN, Evaluation, Results

SCRIPTS = ("base.js", "axes.js", "scatter.js", "depth.js", "differences.js", "query.js", "main.js")
"""In the order in which they need each other; they share one scope."""

TITLE = "What each strategy buys, and what it costs"

ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Cpath fill='%231f5fa8' "
    "d='M1 9h4v6H1zM6 3h4v12H6zM11 11h4v4h-4z'/%3E%3C/svg%3E"
)


def write(results: Results, path: Path) -> None:
    """Write the report; the file takes its name when it is whole.

    Args:
        results: of `podium eval run`, or read from its `results.json`.
        path: of the HTML file.

    Raises:
        ValueError: the results have no evaluation.
        OSError: the file cannot be written.

    """
    text = render(results)
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def render(results: Results, *, text_bytes_max: int = TEXT_BYTES_MAX) -> str:
    """Return the report.

    Args:
        results: what is drawn.
        text_bytes_max: of passages; above it each is cut shorter.

    Raises:
        ValueError: the results have no evaluation.

    """
    if not results.evaluations:
        raise ValueError("the results have no evaluation: nothing can be drawn")
    evaluations = results.evaluations
    slugs = _slugs(evaluations)
    blocks, characters = details(evaluations, bytes_max=text_bytes_max)
    figures = [suite_figures(e, results.main) | {"slug": slug} for e, slug in zip(evaluations, slugs, strict=True)]
    plots: list[Any] = []
    style = _asset("report.css")
    # Strict, and in a function: nothing of ours becomes a global name.
    script = '"use strict";(() => {\n' + "\n".join(map(_asset, SCRIPTS)) + "\n})();"
    body = [
        _header(results),
        tag(
            "main", _overview(results, figures, plots, characters), tag("div", id="query-page", hidden=True), id="main"
        ),
        tag("footer", tag("p", "Made by Podium. This file needs no network and sends nothing.")),
        script_data("figures", {"suites": figures, "shown": SHOWN, "main": results.main, "plots": plots}),
        [script_data(f"details-{index}", block) for index, block in enumerate(blocks)],
    ]
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_policy(style, script)),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", f"Podium: {', '.join(e.suite.name for e in evaluations)}"),
        tag("link", rel="icon", href=ICON),
        Html(f"<style>{style}</style>"),
    ]
    last = Html(f"<script>{script}</script>")
    return "<!doctype html>\n" + tag("html", tag("head", head), tag("body", body, last), lang="en") + "\n"


def _header(results: Results) -> Html:
    at = results.made.get("at", "")
    mark = Html('<svg viewBox="0 0 16 16" width="18" height="18" aria-hidden="true">')
    mark = Html(mark + '<path d="M1 9h4v6H1zM6 3h4v12H6zM11 11h4v4h-4z"/></svg>')
    return join(
        [
            tag("a", "Skip to the results", href="#main", class_="skip"),
            tag(
                "header",
                tag("a", mark, tag("span", "Podium"), href="#/", class_="brand"),
                tag("span", at[:10], class_="date"),
                tag("button", "Dark", type="button", id="theme", aria_pressed="false", hidden=True),
                class_="top",
            ),
        ]
    )


def _overview(results: Results, figures: Sequence[dict[str, Any]], plots: list[Any], characters: int) -> Html:
    evaluations = results.evaluations
    total = sum(len(evaluation.qids) for evaluation in evaluations)
    systems = len({system.name for evaluation in evaluations for system in evaluation.systems})
    counted = [
        f"{systems} {'system' if systems == 1 else 'systems'}",
        f"{len(evaluations)} {'suite' if len(evaluations) == 1 else 'suites'}",
        f"{total:,} judged queries",
    ]
    parts = [
        tag("div", tag("h1", TITLE), tag("p", " · ".join(counted), class_="standfirst"), class_="title"),
        _tabs(figures) if len(evaluations) > 1 else None,
        [_suite(evaluation, index, results.main, figures[index]) for index, evaluation in enumerate(evaluations)],
    ]
    further: list[tuple[str, str, Html]] = []
    if len(evaluations) > 1:
        further.append(("across", "Across suites", _across(evaluations, results.main)))
    further += sections(results, plots)
    further.append(("made", "How it was made", made(results, _remarks(characters, results))))
    parts += [
        tag("section", tag("h2", title), body, id=name, aria_label=title, class_="further")
        for name, title, body in further
    ]
    return tag("div", parts, id="overview")


def _tabs(figures: Sequence[dict[str, Any]]) -> Html:
    links = [
        tag("a", figure["name"], tag("span", f"{len(figure['qids']):,}", class_="faint"), href=_href(figure["slug"]))
        for figure in figures
    ]
    return tag("nav", links, class_="tabs", aria_label="suites")


def _suite(evaluation: Evaluation, index: int, main: str, figure: dict[str, Any]) -> Html:
    said = findings(evaluation, main)
    body: list[Child] = [
        tag("h2", evaluation.suite.name, tag("span", f"{len(evaluation.qids):,} judged queries", class_="faint")),
        tag("ul", (tag("li", sentence) for sentence in said), class_="findings"),
        tables.headline(evaluation, main),
        _fold("All measures", tables.measures(evaluation)),
        _fold("Replies, pairs, critical path", tables.replies(evaluation)),
        _fold("What each system is", tables.makings(evaluation)),
    ]
    if evaluation.references:
        body.append(_fold("Published figures on these lists", tables.references(evaluation)))
    if evaluation.suite.warnings:
        body.append(tag("ul", (tag("li", warning) for warning in evaluation.suite.warnings), class_="warn"))
    body += [
        tag(
            "div",
            _against_price(evaluation, main),
            chart(f"{main} against latency", "median wall time of a query", data_chart="latency"),
            class_="pair",
        ),
        tag(
            "div",
            chart("Quality by depth", "mean nDCG of the first 1 to 20", data_chart="depth"),
            tag("section", tag("h3", "Mistakes"), _mistakes_about(), tables.mistakes(evaluation)),
            class_="pair",
        ),
        chart(
            "Query by query", f"difference in {main}, sorted; choose a bar to see its lists", data_chart="differences"
        ),
    ]
    return tag(
        "section", body, class_="suite", id=f"suite-{index}", data_slug=figure["slug"], aria_label=figure["name"]
    )


def _against_price(evaluation: Evaluation, main: str) -> Html:
    if priced(evaluation):
        return chart(f"{main} against cost", "US dollars per 1,000 queries", data_chart="cost")
    about = "prompt tokens a query; no price is configured"
    return chart(f"{main} against tokens", about, data_chart="tokens")


def _mistakes_about() -> Html:
    return tag(
        "p", "In how many queries, at least once, beside the order in which the candidates came.", class_="about"
    )


def _across(evaluations: Sequence[Evaluation], main: str) -> Html:
    about = f"{main}; the tone is the distance from each suite's baseline, one step per .04: blue above, orange below."
    return tag("div", tag("p", about, class_="about"), tables.heat_map(evaluations, main))


def _remarks(characters: int, results: Results) -> list[str]:
    intervals = (
        "Intervals are 95 % percentile bootstraps over queries; p is a two-sided sign-flip test, Holm-corrected."
    )
    remarks = [
        intervals,
        "Means are over the same judged queries for every system; a query without an answer counts as 0.",
        f"The pages of queries show the first {SHOWN} of every list and every relevant candidate.",
    ]
    texts = (passage.text for e in results.evaluations for topic in e.suite.topics for passage in topic.candidates)
    longest = max(map(len, texts), default=0)
    if longest > characters:
        remarks.append(
            f"Passages are cut to {characters} characters, so that those of this file stay below"
            f" {TEXT_BYTES_MAX / 1e6:.0f} MB."
        )
    return remarks


def _fold(title: str, body: Html | None) -> Html:
    return tag("details", tag("summary", title), body)


def _slugs(evaluations: Sequence[Evaluation]) -> list[str]:
    """Return a name for the address of each suite, each its own."""
    slugs: list[str] = []
    for evaluation in evaluations:
        name = clean(evaluation.suite.name)
        slugs.append(name if name and name not in slugs else f"{name}~{len(slugs)}")
    return slugs


def _href(slug: str) -> str:
    return f"#/{quote(slug, safe='')}"


def _policy(style: str, script: str) -> str:
    """Return what the browser may do: our style, our script, the icon; no network, no frames, no forms."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    return (
        f"default-src 'none'; script-src 'sha256-{hashes[1]}'; style-src 'sha256-{hashes[0]}';"
        " img-src data:; base-uri 'none'; form-action 'none'"
    )


def _asset(name: str) -> str:
    return resources.files("podium_evals.report").joinpath("assets", name).read_text(encoding="utf-8")
