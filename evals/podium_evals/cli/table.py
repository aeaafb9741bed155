"""An evaluation in a terminal: what each system is worth, what it took, and what should be known of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from podium_evals.results import RUN_FILE, Difference, Evaluation, Results, Summary
from podium_evals.statistics import SAME
from podium_server.cli.display import console as look

BESIDE_MAX = 8
"""Measures beside the main one: more do not stand in a line."""
WIDE = 120
"""Columns of a paper that nobody looks at (a file, a pipe, a log of CI)."""
SURE = 0.05


def paper() -> Console:
    """Return standard output, wide enough for the tables where nobody says how wide it is."""
    console = look.stdout()
    if not sys.stdout.isatty():
        console.width = WIDE
    return console


def show(results: Results, paper: Console) -> None:
    """Print every suite's tables, the warnings, and what is missing."""
    for evaluation in results.evaluations:
        show_evaluation(evaluation, results.main, paper)
    for missing in results.missing:
        paper.print(f"[yellow]missing[/] {escape(missing.what)}: {escape(missing.why)}", soft_wrap=True)


def show_evaluation(evaluation: Evaluation, main: str, paper: Console) -> None:
    """Print one suite's tables and warnings."""
    suite = evaluation.suite
    judged = f"{len(evaluation.qids):,} judged queries, differences from {escape(evaluation.baseline)}"
    paper.print(f"\n[bold]{escape(suite.name)}[/]  {judged}")
    paper.print(quality(evaluation, main))
    if len(evaluation.measures) > 1:
        paper.print(means(evaluation, main))
    if any(system.kind != RUN_FILE for system in evaluation.systems):
        paper.print(price(evaluation))
    for line in remarks(evaluation):
        paper.print(f"[yellow]·[/] {escape(line)}", soft_wrap=True)


def quality(evaluation: Evaluation, main: str) -> Table:
    """Return what each system is worth by the main measure, and how it differs from the baseline."""
    table = _table("system", main, "95 %", "Δ", "95 % of Δ", "p (Holm)", "won–lost–same")
    for system in evaluation.systems:
        mean = evaluation.summaries[system.name].means[main]
        table.add_row(
            escape(system.name),
            figure(mean.value),
            f"{figure(mean.low)}–{figure(mean.high)}",
            *compared(evaluation.differences.get(system.name, {}).get(main)),
        )
    for reference in evaluation.references:
        if reference.measure == main:
            name = escape(f"{reference.name} ({reference.source})" if reference.source else reference.name)
            table.add_row(f"[not bold dim]{name}[/]", f"[dim]{figure(reference.value).rstrip('0')}[/]", *[""] * 5)
    return table


def means(evaluation: Evaluation, main: str) -> Table:
    """Return the means of the measures beside the main one."""
    beside = [name for name in evaluation.measures if name != main][:BESIDE_MAX]
    table = _table("system", *beside)
    for system in evaluation.systems:
        summary = evaluation.summaries[system.name]
        table.add_row(escape(system.name), *(figure(summary.means[name].value) for name in beside))
    return table


def price(evaluation: Evaluation) -> Table:
    """Return what each system took, a query."""
    table = _table(
        "a query", "calls", "rounds", "tok in", "tok out", "cost", "p50", "p95", "path p50", "same", "mended", "lost"
    )
    for system in evaluation.systems:
        if system.kind == RUN_FILE:
            continue
        table.add_row(escape(system.name), *taken(evaluation.summaries[system.name]))
    return table


def taken(summary: Summary) -> tuple[str, ...]:
    """Return a system's figures of price, a cell each; what is not known is a dash."""
    cost = None if summary.cost_usd is None else round(summary.cost_usd * 1e9)
    return (
        amount(summary.calls),
        amount(summary.rounds),
        amount(summary.prompt_tokens),
        amount(summary.output_tokens),
        look.money(cost),
        *(
            "–" if seconds is None else look.seconds(seconds)
            for seconds in (summary.latency_p50_s, summary.latency_p95_s, summary.critical_path_p50_s)
        ),
        share(summary.unchanged),
        share(summary.malformed),
        share(summary.unreadable),
    )


def remarks(evaluation: Evaluation) -> Iterator[str]:
    """Yield what should be known: of the suite, and of each system."""
    yield from evaluation.suite.warnings
    for system in evaluation.systems:
        summary = evaluation.summaries[system.name]
        if summary.failed:
            why = next((ranking.error for ranking in system.rankings if ranking.error), "")
            of = f"{summary.failed:,} of {summary.queries:,} queries"
            yield f"{system.name}: {of} without an answer, which count as 0{f' ({why})' if why else ''}"
        if summary.partial:
            yield f"{system.name}: {summary.partial:,} of {summary.queries:,} queries ended by a budget or a deadline"
        for warning in system.warnings:
            yield f"{system.name}: {warning}"


def compared(difference: Difference | None) -> Sequence[str]:
    """Return the cells of a difference; empty ones for the baseline itself."""
    if difference is None:
        return ("", "", "", "")
    p = difference.p if difference.p_holm is None else difference.p_holm
    colour = "" if p >= SURE else "green" if difference.mean > 0 else "red"
    mean = f"{difference.mean:+.4f}"
    return (
        f"[{colour}]{mean}[/]" if colour else mean,
        f"{difference.low:+.3f} {difference.high:+.3f}",
        "<.0001" if p < 0.0001 else figure(p),
        f"{difference.wins}–{difference.losses}–{difference.ties}",
    )


def figure(value: float) -> str:
    """Return a measure to four digits, as the literature writes it: `.5058`."""
    return f"{value:.4f}".removeprefix("0") if 0 <= value < 1 else f"{value:.4f}"


def amount(value: float | None) -> str:
    """Return a mean amount in a few characters; a dash where it is not known."""
    if value is None:
        return "–"
    return look.short(round(value)) if value >= 100 or float(value).is_integer() else f"{value:.1f}"


def share(value: float | None) -> str:
    """Return a share as per cent; a dash where there is none."""
    return "–" if value is None else f"{100 * value:.1f} %"


def _table(*titles: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(titles[0], style="bold", overflow="fold", min_width=12)
    for title in titles[1:]:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def versus(evaluation: Evaluation) -> Table:
    """Return two systems measure by measure: A, the baseline, B, and the difference."""
    table = _table("measure", "A", "B", "Δ", "95 % of Δ", "p", "won–lost–same")
    first, second = evaluation.systems
    for name in evaluation.measures:
        before, after = (evaluation.summaries[system.name].means[name].value for system in (first, second))
        table.add_row(name, figure(before), figure(after), *compared(evaluation.differences[second.name][name]))
    return table


def extremes(evaluation: Evaluation, main: str, count: int) -> Table:
    """Return the queries that B wins and loses by most; those on which both are equal are left out."""
    first, second = (evaluation.values[system.name][main] for system in evaluation.systems)
    words = {topic.qid: topic.query for topic in evaluation.suite.topics}
    differences = [float(b - a) for a, b in zip(first, second, strict=True)]
    ordered = sorted(range(len(differences)), key=lambda place: -differences[place])
    won = [place for place in ordered if differences[place] > SAME][:count]
    lost = [place for place in ordered if differences[place] < -SAME][-count:]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("query", style="bold", no_wrap=True)
    for title in ("A", "B", f"Δ {main}"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("", overflow="ellipsis", no_wrap=True)
    for part in (won, lost):
        for place in part:
            change = differences[place]
            colour = "green" if change > 0 else "red"
            cells = (figure(first[place]), figure(second[place]), f"[{colour}]{change:+.4f}[/]")
            qid = evaluation.qids[place]
            table.add_row(escape(qid), *cells, escape(look.gist(words.get(qid, ""), 80)))
        table.add_section()
    return table


def published(rows: Sequence[Mapping[str, Any]], paper: Console) -> bool:
    """Print published figures beside those that were found; return whether none that was found is another."""
    table = _table("figure", "published", "found", "")
    for row in rows:
        found = "–" if row["found"] is None else figure(row["found"])
        word = {None: "not run", True: "[green]same[/]", False: "[red]another[/]"}[row["same"]]
        table.add_row(escape(row["what"]), figure(row["published"]), found, word)
    paper.print(table)
    return not any(row["same"] is False for row in rows)
