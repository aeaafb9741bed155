"""The report in a real browser: what a reader sees, clicks and presses. Skipped where there is no Chromium.

On Debian: `apt-get install chromium`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from podium_evals import report
from podium_evals.report.browser import Page, browse, find
from tests.evals.test_report import HOSTILE, small

pytestmark = [
    pytest.mark.skipif(find() is None, reason="no Chromium on this machine (apt-get install chromium)"),
    pytest.mark.timeout(300),
]

PHONE, DESK = 360, 1280


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    path = find()
    assert path is not None
    with browse(path) as page:
        yield page


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(tmp_path_factory.mktemp("plain") / "report.html")


def written(path: Path, hostile: str = "") -> str:
    report.write(small(hostile=hostile, queries=5), path)
    return path.as_uri()


def texts(page: Page, selector: str) -> list[str]:
    found: list[str] = page.evaluate(f"[...document.querySelectorAll({selector!r})].map(one => one.textContent)")
    return found


def shown(page: Page, selector: str) -> bool:
    return bool(page.evaluate(f"!!document.querySelector({selector!r})?.checkVisibility()"))


@pytest.mark.parametrize("hostile", ["", HOSTILE])
def test_it_opens_alone_and_without_complaint(browser: Page, tmp_path: Path, hostile: str) -> None:
    browser.asked.clear()
    browser.complaints.clear()
    url = written(tmp_path / "report.html", hostile)
    browser.open(url)
    slug = browser.evaluate("JSON.parse(document.getElementById('figures').textContent).suites[0].slug")
    qid = browser.evaluate("JSON.parse(document.getElementById('figures').textContent).suites[0].qids[1]")
    for address in browser.evaluate("[...document.querySelectorAll('.bar-link')].map(one => one.getAttribute('href'))"):
        browser.go(address)
        assert shown(browser, ".passage")
    assert browser.evaluate("typeof window.owned") == "undefined"
    assert browser.evaluate("document.querySelectorAll('img').length") == 0
    assert browser.complaints == []
    assert [address for address in browser.asked if address.split("#")[0] != url and address[:5] != "data:"] == []
    assert slug.startswith("small")
    assert qid.startswith("q1")


def test_every_chart_is_drawn(browser: Page, plain: str) -> None:
    browser.open(plain)
    for kind in ("cost", "latency", "depth", "differences"):
        assert shown(browser, f"figure[data-chart={kind}] svg"), kind
    cost = "figure[data-chart=cost]"
    assert len(texts(browser, f"{cost} .point")) == 2
    assert "No price configured: unpriced." in " ".join(texts(browser, f"{cost} p"))
    assert any("unpriced" in said for said in texts(browser, "figure[data-chart=latency] .point title"))
    # turned costs more than first-stage; whether it is on the front depends on its quality alone.
    data = "JSON.parse(document.getElementById('figures').textContent)"
    better = browser.evaluate(f"(([base, turned]) => turned.mean > base.mean)({data}.suites[0].systems)")
    assert len(texts(browser, f"{cost} .point.best")) == 1 + better
    assert len(texts(browser, "figure[data-chart=depth] .series")) == 3
    assert len(texts(browser, "figure[data-chart=differences] .bar")) == 5


def test_a_section_brings_charts(browser: Page, tmp_path: Path) -> None:
    points = [{"name": f"<i>{k}", "x": 10**k, "y": k / 10} for k in range(5)] + [{"name": "dear", "x": None, "y": 0.9}]
    sections = {"simulated": {"plots": [{"title": "noise", "measure": "nDCG@10", "points": points}]}}
    report.write(replace(small(), sections=sections), tmp_path / "report.html")
    browser.complaints.clear()
    browser.open((tmp_path / "report.html").as_uri())
    assert len(texts(browser, "figure[data-plot] .point.best")) == 5
    assert "Not known: dear." in " ".join(texts(browser, "figure[data-plot] p"))
    assert texts(browser, "figure[data-plot] .label")[0].startswith("<i>")
    assert browser.complaints == []


def test_a_column_sorts_the_table_either_way_by_keyboard(browser: Page, plain: str) -> None:
    browser.open(plain)
    heads = texts(browser, ".headline thead th")
    column = heads.index("$ / 1,000")
    browser.evaluate(f"document.querySelector('.headline thead tr').cells[{column}].querySelector('button').focus()")
    sense = f"document.querySelector('.headline thead tr').cells[{column}].getAttribute('aria-sort')"
    browser.press("Enter")
    assert browser.evaluate(sense) == "descending"
    assert texts(browser, ".headline tbody th") == ["turned", "first-stage", "unpriced"]
    browser.press(" ")
    assert browser.evaluate(sense) == "ascending"
    # What is not known stands last either way.
    assert texts(browser, ".headline tbody th") == ["first-stage", "turned", "unpriced"]


def test_a_query_is_reached_read_and_left_by_keyboard(browser: Page, plain: str) -> None:
    browser.open(plain)
    browser.evaluate("document.querySelector('.bar-link').focus()")
    browser.press("ArrowRight")
    browser.press("End")
    address = browser.evaluate("document.activeElement.getAttribute('href')")
    browser.press("Enter")
    assert browser.evaluate("location.hash") == address
    assert not shown(browser, "#overview")
    assert texts(browser, "#query-page h1")[0].startswith("question")
    browser.evaluate("document.querySelector('.lists .passage').focus()")
    browser.press("Enter")
    assert shown(browser, ".sheet")
    assert len(texts(browser, ".passage[aria-pressed=true]")) >= 2  # the same passage in every list
    browser.evaluate("history.back(); new Promise(done => setTimeout(done, 150))")
    assert shown(browser, "#overview")
    assert browser.evaluate("document.activeElement.getAttribute('href')") == address


def test_moves_grades_and_mistakes_are_marked(browser: Page, plain: str) -> None:
    browser.open(plain + "#/small/q/q0")
    lists = "document.querySelectorAll('.lists section')"
    for number in range(browser.evaluate(f"{lists}.length")):
        title, ranks, grades, moves = browser.evaluate(
            "(section => [section.querySelector('h3').textContent, ...['.rank', '.grade', '.move'].map("
            f"one => [...section.querySelectorAll('li ' + one)].map(node => node.textContent))])({lists}[{number}])"
        )
        assert ranks == [str(rank) for rank in range(1, 7)]
        if title == "turned":
            assert grades == ["?", "2", "?", "?", "?", "0"]
            assert moves == ["▲5", "▲3", "▲1", "▼1", "▼3", "▼5"]
        if title == "first-stage":
            assert moves == [""] * 6
    rows = texts(browser, "#query-page tbody tr")
    assert any("1 reply repaired" in row for row in rows if row.startswith("unpriced"))


def test_a_query_of_which_the_first_stage_had_none_says_so(browser: Page, tmp_path: Path) -> None:
    results = small(queries=2)
    (evaluation,) = results.evaluations
    suite = replace(evaluation.suite, qrels={**evaluation.suite.qrels, "q1": {"elsewhere": 3}})
    report.write(replace(results, evaluations=(replace(evaluation, suite=suite),)), tmp_path / "report.html")
    browser.open((tmp_path / "report.html").as_uri() + "#/small/q/q1")
    assert "The first stage had none" in " ".join(texts(browser, ".banner"))
    assert "1 more that the first stage did not find" in " ".join(texts(browser, ".standfirst"))
    browser.go("#/small/q/q0")
    assert texts(browser, ".banner") == []


def test_another_system_is_looked_at_when_it_is_chosen(browser: Page, plain: str) -> None:
    browser.open(plain)
    browser.evaluate("[...document.querySelectorAll('.pick')].find(one => one.textContent === 'turned').click()")
    assert texts(browser, ".readout b")[0] == "turned"
    assert texts(browser, ".headline tr.focus th") == ["turned"]
    browser.evaluate(
        "(select => { select.value = '1'; select.dispatchEvent(new Event('change')); })"
        "(document.querySelector('select[data-role=against]'))"
    )
    assert "equal on 5 of 5" in texts(browser, ".readout")[0]


def test_an_address_that_nobody_wrote_shows_the_first_suite(browser: Page, plain: str) -> None:
    for address in ("#/nowhere", "#/small/q/nothing", "#/%E0%A4%A", "#garbage/////"):
        browser.complaints.clear()
        browser.open(plain + address)
        assert shown(browser, "#suite-0"), address
        assert browser.complaints == []


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [PHONE, 768, DESK])
def test_nothing_sticks_out_and_everything_can_be_read(browser: Page, plain: str, width: int, dark: bool) -> None:
    for address in ("#/small", "#/small/q/q0"):
        browser.open(plain + address, width=width, dark=dark)
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        # WCAG's contrast of every text with what lies behind it; 4.5 is AA.
        worst = browser.evaluate(CONTRAST)
        assert worst[0] >= 4.5, worst


CONTRAST = """(() => {
  const canvas = document.createElement('canvas'); canvas.width = canvas.height = 1;
  const context = canvas.getContext('2d', {willReadFrequently: true});
  const over = (colours) => { context.clearRect(0, 0, 1, 1);
    for (const colour of colours) { context.fillStyle = colour; context.fillRect(0, 0, 1, 1); }
    return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3); };
  const light = (rgb) => rgb.map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
  let worst = [99, ''];
  for (const node of document.querySelectorAll('main *, header *, footer *')) {
    if (!node.checkVisibility() || node.disabled) continue;
    if (![...node.childNodes].some(child => child.nodeType === 3 && child.textContent.trim())) continue;
    const behind = [];
    for (let at = node; at; at = at.parentElement) {
      if (!(at instanceof SVGElement)) behind.unshift(getComputedStyle(at).backgroundColor);
    }
    if (node instanceof SVGElement && node.classList.contains('digit')) continue;
    const style = getComputedStyle(node);
    const ink = node instanceof SVGElement ? style.fill : style.color;
    const [a, b] = [light(over(behind)), light(over([...behind, ink]))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < worst[0]) worst = [ratio, node.outerHTML.slice(0, 160), ink, behind.at(-1)];
  }
  return worst;
})()"""


def test_the_theme_follows_the_reader_and_the_button(browser: Page, plain: str) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    browser.open(plain)
    light = browser.evaluate(paper)
    browser.media("screen", dark=True)
    dark = browser.evaluate(paper)
    assert light != dark
    browser.evaluate("document.getElementById('theme').click()")
    assert browser.evaluate(paper) == light
    assert texts(browser, "#theme") == ["Dark"]
    browser.media("screen")


def test_paper_shows_no_buttons(browser: Page, plain: str) -> None:
    browser.open(plain, width=794)  # A4
    browser.media("print", dark=True)
    try:
        assert browser.evaluate("document.documentElement.scrollWidth") <= 794
        assert browser.evaluate("matchMedia('print').matches")
        assert not shown(browser, "#theme")
        assert not shown(browser, ".controls")
        assert shown(browser, ".headline")
        assert shown(browser, "figure[data-chart=cost] svg")
    finally:
        browser.media("screen")


def test_the_tab_key_reaches_everything_once(browser: Page, plain: str) -> None:
    browser.open(plain)
    # One stop for all bars, however many queries there are.
    stops = "[...document.querySelectorAll('.bar-link')].filter(one => one.getAttribute('tabindex') === '0').length"
    assert browser.evaluate(stops) == 1
    browser.press("Tab")
    assert browser.evaluate("document.activeElement.className") == "skip"
    named = "[...document.querySelectorAll('button, a, select, input')].filter(one => one.checkVisibility())"
    nameless = f"{named}.filter(one => !(one.textContent.trim() || one.ariaLabel)).map(one => one.outerHTML)"
    assert browser.evaluate(nameless) == []
