"""Parts that others make, drawn as they are: tables of rows, facts, sentences, charts. And how the report was made.

A section is JSON: a mapping whose text is a paragraph, whose numbers are facts, whose lists of mappings are tables, and
whose mappings are drawn the same way one level down. `title` and `about` are taken for what they say. A key that ends
in `_s` has seconds, in `_usd` dollars. A list under `plots` is charts of quality against what it took, with the front
drawn, side by side (x is null where it is not known; `low` and `high` are optional):

    {"title": "medium noise", "about": "prompt tokens a query", "measure": "nDCG@10", "unit": "" or "usd" or "s",
     "points": [{"name": "tdpart", "x": 9800, "y": 0.713}]}
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from podium_evals.report import words
from podium_evals.report.markup import Child, Html, tag
from podium_evals.report.tables import listed
from podium_evals.results import Results

KNOWN = {
    "published": ("Published figures, measured again", "What others printed, and what came out here, to four digits."),
    "simulated": (
        "Simulated judge",
        "What every strategy does with a judge whose noise was fitted to recorded rankers.",
    ),
    "peers": (
        "Peers",
        "Other rerankers on the same lists, the same endpoint and, where they allow it, the same prompts.",
    ),
}
"""Sections that are known, in the order in which they are drawn."""

EXPECTED = ("simulated", "peers")
"""Sections that a whole report has; what is not there is named."""

FOLDED = 24
"""Rows from which on a table of a section is folded: it is looked up, not read."""

LINE = 36
"""Characters of a cell that stay on one line."""

LEVELS_MAX = 4
"""Mappings within mappings that are drawn; what lies deeper is written as JSON has it."""


def sections(results: Results, plots: list[Mapping[str, Any]]) -> list[tuple[str, str, Html]]:
    """Return (id, title, markup) of all sections, those that are not there with a line that says so.

    Args:
        results: whose sections.
        plots: takes the data of the charts that the sections bring.

    """
    reasons = {missing.what: missing.why for missing in results.missing}
    drawn = []
    for name in (*KNOWN, *(name for name in results.sections if name not in KNOWN)):
        title, about = KNOWN.get(name, (words.titled(name), ""))
        if name in results.sections:
            body: Child = [
                tag("p", about, class_="about") if about else None,
                value(_plotted(results.sections[name]), plots),
            ]
        elif name not in EXPECTED:
            continue
        else:
            why = reasons.get(name, "it was not part of the command that made these results")
            body = tag("p", f"Not in this report: {why.rstrip('.')}.", class_="missing")
        drawn.append((f"section-{name}", title, tag("div", body)))
    return drawn


def _plotted(section: Any) -> Any:
    """Return the simulated judge's section with a chart of each of its tables of strategies."""
    what, cost, measure = "strategy", "prompt tokens", "nDCG@10"
    if not isinstance(section, Mapping) or "plots" in section:
        return section
    plots = []
    for title, rows in section.items():
        if (
            _listed(rows)
            and rows
            and all(isinstance(row, Mapping) and {what, cost, measure, "calls"} <= row.keys() for row in rows)
        ):
            points = [{"name": row[what], "x": row[cost], "y": row[measure]} for row in rows]
            about = f"{measure} against {cost} a query"
            plots.append({"title": words.titled(title), "about": about, "measure": measure, "points": points})
    return {**section, "plots": plots} if plots else section


def made(results: Results, remarks: Sequence[str]) -> Html:
    """Return how the report was made: versions, commands, seeds, machine, date, what is missing, how long it took."""
    facts: list[tuple[str, Child]] = [(key, _code(key, text)) for key, text in results.made.items()]
    body: list[Child] = [listed(facts) if facts else tag("p", "Nothing was recorded.", class_="missing")]
    others = [missing for missing in results.missing if missing.what not in EXPECTED]
    if others:
        body.append(tag("h3", "Missing"))
        body.append(tag("ul", (tag("li", f"{missing.what}: {missing.why}") for missing in others)))
    body.append(tag("ul", (tag("li", remark) for remark in remarks), class_="remarks"))
    if results.timings:
        body.append(tag("h3", "Time that each part took"))
        body.append(listed([(timing.what, words.seconds(timing.seconds)) for timing in results.timings]))
    return tag("div", body)


def value(data: Any, plots: list[Mapping[str, Any]], level: int = 0) -> Html:
    """Return any JSON as markup; the data of its charts goes into `plots`."""
    match data:
        case Mapping() if level < LEVELS_MAX:
            return _mapping(data, plots, level)
        case list() | tuple() if data and all(isinstance(row, Mapping) for row in data):
            drawn = table(data)
            return tag("details", tag("summary", f"{len(data)} rows"), drawn) if len(data) >= FOLDED else drawn
        case list() | tuple():
            return tag("ul", (tag("li", cell(entry)) for entry in data))
        case _:
            return tag("p", cell(data))


def _mapping(data: Mapping[str, Any], plots: list[Mapping[str, Any]], level: int) -> Html:
    parts: list[Child] = []
    if isinstance(data.get("title"), str):
        parts.append(tag("h3", data["title"]))
    said = [key for key in ("about", "description") if data.get(key) and isinstance(data[key], str)]
    parts += [tag("p", data[key], class_="about") for key in said]
    charts = (
        [_plot(plot, plots) for plot in data.get("plots") or () if _is_plot(plot)] if _listed(data.get("plots")) else []
    )
    parts += [tag("div", charts, class_="pair three" if len(charts) == 3 else "pair")] if charts else []
    rest = {k: v for k, v in data.items() if k not in ("title", "format", *said, *(["plots"] if charts else []))}
    scalars = {k: v for k, v in rest.items() if not isinstance(v, Mapping | list | tuple)}
    if scalars:
        parts.append(listed([(words.spelled(k), cell(v, k)) for k, v in scalars.items()]))
    for key, inner in rest.items():
        if key not in scalars and (inner or inner == 0):
            parts += [tag(f"h{min(6, 3 + level)}", words.titled(key)), value(inner, plots, level + 1)]
    return tag("div", parts)


def _listed(data: Any) -> bool:
    return isinstance(data, list | tuple)


def _is_plot(data: Any) -> bool:
    if not isinstance(data, Mapping) or not _listed(data.get("points")):
        return False
    return all(
        isinstance(point, Mapping) and _number(point.get("y")) and (point.get("x") is None or _number(point["x"]))
        for point in data["points"]
    )


def _plot(data: Mapping[str, Any], plots: list[Mapping[str, Any]]) -> Html:
    kept = ("x", "y", "low", "high")
    points = [
        {"name": str(point.get("name", "")), **{key: point.get(key) for key in kept if key in point}}
        for point in data["points"]
    ]
    said = {key: str(data.get(key) or "") for key in ("title", "about", "measure", "unit")}
    plots.append({**said, "points": points})
    return chart(said["title"], said["about"], data_plot=len(plots) - 1)


def chart(title: str, about: str, **attributes: str | int) -> Html:
    """Return the place of a chart, which a script draws."""
    without = tag("noscript", "This chart is drawn by a script of this file.")
    heading = tag("figcaption", tag("h3", title), tag("p", about, class_="about"))
    return tag("figure", heading, tag("div", without, class_="plot-area"), **attributes)


def table(rows: Sequence[Mapping[str, Any]]) -> Html:
    """Return rows as a table whose columns are all keys that say something, in the order in which they first come."""
    keys = [
        key
        for key in dict.fromkeys(key for row in rows for key in row)
        if any(row.get(key) not in (None, "", {}, []) for row in rows)
    ]
    heads = [
        tag("th", tag("button", words.spelled(key), type="button", class_="sort"), scope="col", class_=_kind(rows, key))
        for key in keys
    ]
    body = [tag("tr", (_cell(rows, row, key) for key in keys)) for row in rows]
    drawn = tag("table", tag("thead", tag("tr", heads)), tag("tbody", body), class_="sortable")
    return tag("div", drawn, class_="wide", tabindex="0", role="region", aria_label="table")


def cell(data: Any, key: str = "") -> str:
    """Return a value as text; what its key says of its unit is heeded."""
    match data:
        case None:
            return words.NONE
        case bool():
            return "yes" if data else "no"
        case int() | float() if key.endswith("_s"):
            return words.seconds(data) if data >= 0 else f"{data:,.4g} s"
        case int() | float() if key.endswith("usd"):
            return words.dollars(data) if data >= 0 else f"{data:,.4g}"
        case float() if "ndcg" in key.lower():
            return words.quality(data)
        case int():
            return f"{data:,}"
        case float():
            return f"{data:,.0f}" if abs(data) >= 1000 else f"{data:.4g}" if abs(data) >= 1 else f"{data:.4f}"
        case Mapping():
            return ", ".join(f"{words.spelled(str(name))} {cell(inner, str(name))}" for name, inner in data.items())
        case list() | tuple():
            return ", ".join(cell(inner, key) for inner in data)
        case _:
            return str(data)


def _number(data: Any) -> TypeGuard[int | float]:
    return isinstance(data, int | float) and not isinstance(data, bool) and math.isfinite(data)


def _kind(rows: Sequence[Mapping[str, Any]], key: str) -> str | None:
    known = [row[key] for row in rows if row.get(key) is not None]
    if known and all(map(_number, known)):
        return None
    return "text long" if any(len(cell(value, key)) > LINE for value in known) else "text"


def _cell(rows: Sequence[Mapping[str, Any]], row: Mapping[str, Any], key: str) -> Html:
    data = row.get(key)
    value = repr(float(data)) if _number(data) else None
    return tag("td", cell(data, key), class_=_kind(rows, key), data_v=value)


def _code(key: str, text: str) -> Child:
    return tag("code", text) if "command" in key else text
