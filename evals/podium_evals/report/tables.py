"""The tables of a suite, written whole: they can be read, printed and copied without a script."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from podium_evals.report import words
from podium_evals.report.figures import errors
from podium_evals.report.markup import Child, Html, join, tag
from podium_evals.results import PIPELINE, RECORDED, Difference, Evaluation, Mean, Summary, System

SIGNIFICANT = 0.05
WHISKER = 112  # pixels of the picture of an interval

ERRORS = {
    "demoted": (
        "relevant demoted",
        "a relevant document left the first ten although one of a lower grade stands there",
    ),
    "promoted": (
        "irrelevant promoted",
        "one judged irrelevant came into the first ten, and a relevant one is left out",
    ),
    "unjudged": ("unjudged promoted", "one that nobody judged came into the first ten; it counts as irrelevant"),
    "nothing_there": ("first stage had none", "no candidate is relevant, so that no order could be better"),
    "repaired": ("reply repaired", "at least one reply was malformed, and was repaired"),
    "unreadable": ("reply unreadable", "at least one reply could not be read, and its part kept the order it had"),
    "failed": ("failed", "no answer; the query counts as 0"),
}


@dataclass(frozen=True, slots=True)
class Column:
    """A column of figures.

    Args:
        title: of the column.
        about: what it is, for who points at it.
        value: by which it is sorted; None sorts last.
        written: the figure as text.

    """

    title: str
    about: str
    value: Callable[[Summary], float | None]
    written: Callable[[float | None], str]


COLUMNS = (
    Column("calls", "calls of models a query", lambda s: s.calls, words.count),
    Column("rounds", "the longest chain of calls that wait for each other, a query", lambda s: s.rounds, words.count),
    Column("tokens", "prompt tokens a query", lambda s: s.prompt_tokens, words.count),
    Column(
        "$ / 1,000",
        "US dollars per 1,000 queries; a dash where no price is configured",
        lambda s: None if s.cost_usd is None else 1000 * s.cost_usd,
        words.dollars,
    ),
    Column("p50", "median wall time of a query", lambda s: s.latency_p50_s, words.seconds),
    Column("p95", "95th percentile of the wall time of a query", lambda s: s.latency_p95_s, words.seconds),
)


def headline(evaluation: Evaluation, main: str) -> Html:
    """Return the table of all systems: quality with its interval, the difference, what it took."""
    means = {system.name: evaluation.summaries[system.name].means[main] for system in evaluation.systems}
    scale = _Scale.over(list(means.values()), means[evaluation.baseline].value)
    heads = [
        _head("system", "the pipeline; its name shows what it is made of", first=True),
        _head(main, f"mean {main} over {len(evaluation.qids):,} judged queries"),
        tag(
            "th", "95 % interval", scope="col", class_="plot", title="bootstrap over queries; the line is the baseline"
        ),
        _head("Δ", f"difference from {evaluation.baseline}"),
        _head("p", "two-sided sign-flip test over queries, corrected by Holm for all systems of the table"),
        _head("w / t / l", f"queries on which it is better than, equal to and worse than {evaluation.baseline}"),
        *(_head(column.title, column.about) for column in COLUMNS),
    ]
    rows = [_row(evaluation, system, main, scale) for system in evaluation.systems]
    caption = tag("caption", f"{evaluation.suite.name}: {len(evaluation.qids):,} judged queries. ", class_="sr")
    table = tag("table", caption, tag("thead", tag("tr", heads)), tag("tbody", rows), class_="sortable headline")
    return tag("div", table, class_="wide", tabindex="0", role="region", aria_label="table of all systems")


def _row(evaluation: Evaluation, system: System, main: str, scale: _Scale) -> Html:
    summary = evaluation.summaries[system.name]
    mean = summary.means[main]
    difference = evaluation.differences.get(system.name, {}).get(main)
    cells = [
        tag("th", tag("button", system.name, type="button", class_="pick", data_system=system.name), scope="row"),
        _cell(words.quality(mean.value), mean.value, "strong"),
        tag(
            "td", _whisker(mean, scale), class_="plot", title=f"{words.quality(mean.low)} to {words.quality(mean.high)}"
        ),
        *_difference_cells(difference),
        *(_cell(column.written(column.value(summary)), column.value(summary)) for column in COLUMNS),
    ]
    return tag("tr", cells, data_system=system.name, class_="base" if system.name == evaluation.baseline else None)


def _difference_cells(difference: Difference | None) -> list[Html]:
    if difference is None:
        return [_cell("baseline", 0.0, "faint"), _cell(words.NONE, None), _cell(words.NONE, None)]
    p = difference.p if difference.p_holm is None else difference.p_holm
    tone = ("gain" if difference.mean > 0 else "loss") if p < SIGNIFICANT else "faint"
    interval = f"95 % interval {words.signed(difference.low)} to {words.signed(difference.high)}"
    record = f"{difference.wins} / {difference.ties} / {difference.losses}"
    return [
        _cell(words.signed(difference.mean), difference.mean, tone, interval),
        _cell(words.p_value(p), p, None if p < SIGNIFICANT else "faint", f"{words.p_value(difference.p)} uncorrected"),
        _cell(record, difference.wins - difference.losses),
    ]


def measures(evaluation: Evaluation) -> Html:
    """Return the means of all measures."""
    heads = [_head("system", "", first=True), *(_head(name, f"mean {name}") for name in evaluation.measures)]
    rows = []
    for system in evaluation.systems:
        means = evaluation.summaries[system.name].means
        cells = [_cell(words.quality(means[name].value), means[name].value) for name in evaluation.measures]
        rows.append(tag("tr", tag("th", system.name, scope="row"), cells))
    return _plain(heads, rows, "all measures")


def mistakes(evaluation: Evaluation) -> Html:
    """Return in how many queries each system made which mistake; what nobody did is named below."""
    found = {system.name: asdict(errors(system, evaluation)) for system in evaluation.systems}
    made = [kind for kind in ERRORS if any(counts[kind] for counts in found.values())]
    heads = [_head("system", "", first=True), *(_head(*ERRORS[kind]) for kind in made)]
    rows = [
        tag(
            "tr",
            tag("th", name, scope="row"),
            (_cell(f"{counts[kind]:,}", counts[kind], None if counts[kind] else "faint") for kind in made),
        )
        for name, counts in found.items()
    ]
    never = ", ".join(ERRORS[kind][0] for kind in ERRORS if kind not in made)
    return join(
        [
            _plain(heads, rows, "mistakes", kind="compact"),
            tag("p", f"Never: {never}.", class_="about") if never else None,
        ]
    )


def replies(evaluation: Evaluation) -> Html:
    """Return how often orders stayed as they were and replies could not be used, and the longest chains."""
    columns = (
        Column("unchanged", "share of queries left in the order they came", lambda s: s.unchanged, words.share),
        Column("malformed", "share of replies that had to be repaired", lambda s: s.malformed, words.share),
        Column("unreadable", "share of replies of which nothing could be read", lambda s: s.unreadable, words.share),
        Column("partial", "queries that a budget or a deadline ended", lambda s: s.partial, words.count),
        Column("failed", "queries without an answer", lambda s: s.failed, words.count),
        Column("retries", "of all queries", lambda s: s.retries, words.count),
        Column("pairs", "query-document pairs a query", lambda s: s.pairs, words.count),
        Column("cached", "tokens a query that the endpoint had cached", lambda s: s.cached_tokens, words.count),
        Column("output", "output tokens a query", lambda s: s.output_tokens, words.count),
        Column("path p50", "median of the longest chain of answers", lambda s: s.critical_path_p50_s, words.seconds),
        Column("path p95", "its 95th percentile", lambda s: s.critical_path_p95_s, words.seconds),
    )
    heads = [_head("system", "", first=True), *(_head(column.title, column.about) for column in columns)]
    rows = [
        tag(
            "tr",
            tag("th", system.name, scope="row"),
            (_cell(c.written(c.value(s)), c.value(s)) for c in columns for s in (evaluation.summaries[system.name],)),
        )
        for system in evaluation.systems
    ]
    return _plain(heads, rows, "replies and what else it took")


def makings(evaluation: Evaluation) -> Html:
    """Return what each system is made of."""
    kinds = {PIPELINE: None, RECORDED: "a recorded model, so that times say nothing", "run": "a run file"}
    entries = []
    for system in evaluation.systems:
        stages = tag("ol", (tag("li", stage) for stage in system.stages)) if system.stages else None
        warnings = tag("ul", (tag("li", warning) for warning in system.warnings), class_="warn")
        entries.append(tag("dt", system.name))
        said: list[Child] = [tag("p", system.description or "No description."), stages]
        said += [tag("p", "Read from ", kinds[system.kind], ".", class_="faint")] if kinds[system.kind] else []
        said += [warnings] if system.warnings else []
        entries.append(tag("dd", said))
    return tag("dl", entries, class_="makings")


def references(evaluation: Evaluation) -> Html | None:
    """Return published figures on the same lists."""
    if not evaluation.references:
        return None
    heads = [
        _head("published", "", first=True),
        _head("measure", ""),
        _head("value", ""),
        _head("source", "", text=True),
    ]
    rows = [
        tag(
            "tr",
            tag("th", reference.name, scope="row"),
            _cell(reference.measure, None),
            _cell(words.quality(reference.value), reference.value),
            tag("td", reference.source, class_="text long"),
        )
        for reference in evaluation.references
    ]
    return _plain(heads, rows, "published figures on the same lists")


def heat_map(evaluations: Sequence[Evaluation], main: str) -> Html:
    """Return systems × suites, each cell toned by how far it lies from its suite's baseline."""
    names = list(dict.fromkeys(system.name for evaluation in evaluations for system in evaluation.systems))
    heads = [_head("system", "", first=True), *(_head(e.suite.name, f"{len(e.qids):,} queries") for e in evaluations)]
    heads.append(_head("mean Δ", "mean difference from the baseline over the suites that it was run on"))
    rows = []
    for name in names:
        means = [e.summaries[name].means[main].value if name in e.summaries else None for e in evaluations]
        bases = [e.summaries[e.baseline].means[main].value for e in evaluations]
        gaps = [None if mean is None else mean - base for mean, base in zip(means, bases, strict=True)]
        known = [gap for gap in gaps if gap is not None]
        cells = [
            _cell(words.quality(mean), mean, f"heat {_tone(gap)}", "not run" if gap is None else words.signed(gap))
            for mean, gap in zip(means, gaps, strict=True)
        ]
        average = sum(known) / len(known) if known else None
        rows.append(tag("tr", tag("th", name, scope="row"), cells, _cell(words.signed(average), average)))
    return _plain(heads, rows, "systems by suites", kind="heatmap")


def _tone(gap: float | None) -> str:
    """Return the class of a difference from the baseline: five steps of .04 either way."""
    if gap is None:
        return "none"
    step = min(5, int(abs(gap) / 0.04 + 0.5))
    return "same" if step == 0 else f"{'up' if gap > 0 else 'down'}-{step}"


@dataclass(frozen=True, slots=True)
class _Scale:
    low: float
    high: float
    base: float

    @classmethod
    def over(cls, means: Sequence[Mean], base: float) -> _Scale:
        low, high = min(mean.low for mean in means), max(mean.high for mean in means)
        return cls(low, high if high > low else low + 1e-9, base)

    def x(self, value: float) -> float:
        return round(4 + (value - self.low) / (self.high - self.low) * (WHISKER - 8), 1)


def _whisker(mean: Mean, scale: _Scale) -> Html:
    base = scale.x(scale.base)
    return tag(
        "svg",
        tag("line", x1=base, x2=base, y1=0, y2=18, class_="baseline"),
        tag("line", x1=scale.x(mean.low), x2=scale.x(mean.high), y1=9, y2=9, class_="range"),
        tag("rect", x=scale.x(mean.value) - 3, y=6, width=6, height=6, rx=3, class_="dot"),
        width=WHISKER,
        height=18,
        viewBox=f"0 0 {WHISKER} 18",
        role="img",
        aria_label=f"{words.quality(mean.low)} to {words.quality(mean.high)}",
    )


def _plain(heads: Sequence[Html], rows: Sequence[Html], label: str, kind: str = "") -> Html:
    table = tag("table", tag("thead", tag("tr", heads)), tag("tbody", rows), class_=f"sortable {kind}".strip())
    return tag("div", table, class_="wide", tabindex="0", role="region", aria_label=label)


def _head(title: str, about: str, *, first: bool = False, text: bool = False) -> Html:
    kind = "text" if first or text else None
    return tag("th", tag("button", title, type="button", class_="sort", title=about or None), scope="col", class_=kind)


def _cell(text: str, value: float | None, kind: str | None = None, title: str | None = None) -> Html:
    return tag("td", text, data_v="" if value is None else repr(float(value)), class_=kind, title=title)


def listed(entries: Sequence[tuple[str, Child]]) -> Html:
    """Return names with what they are."""
    return tag("dl", (join((tag("dt", name), tag("dd", value))) for name, value in entries), class_="facts")
