// What is shown: a suite with its charts, or a query. The address says which, so that both can be sent to somebody.

const overview = document.getElementById("overview");
const queryPage = document.getElementById("query-page");
const sections = SUITES.map((_, index) => document.getElementById(`suite-${index}`));
const pages = [...document.querySelectorAll(".tabs a")];
let current = { suite: 0, query: null };

const CHARTS = {
  cost: (area, suite, index) =>
    drawScatter(area, suite, index, { key: "cost", factor: 1000, write: dollars, none: "No price configured", what: "cost", less: "cheaper" }),
  tokens: (area, suite, index) =>
    drawScatter(area, suite, index, { key: "tokens", factor: 1, write: counted, none: "Tokens not known", what: "prompt tokens", less: "with fewer tokens", remark: "A small model's token is cheaper than a large one's." }),
  latency: (area, suite, index) =>
    drawScatter(area, suite, index, { key: "latency", factor: 1, write: seconds, none: "No time that means anything", what: "latency", less: "faster" }),
  depth: drawDepth,
  differences: drawDifferences,
};

function drawPlots() {
  for (const figure of document.querySelectorAll("figure[data-plot]")) {
    drawPlot(figure.querySelector(".plot-area"), DATA.plots[Number(figure.dataset.plot)]);
  }
}

function drawSuite(index) {
  for (const figure of sections[index].querySelectorAll("figure[data-chart]")) {
    CHARTS[figure.dataset.chart](figure.querySelector(".plot-area"), SUITES[index], index);
  }
  const name = SUITES[index].systems[chosen[index].focus].name;
  for (const row of sections[index].querySelectorAll("tr[data-system]")) {
    row.classList.toggle("focus", row.dataset.system === name);
    row.querySelector(".pick").setAttribute("aria-pressed", String(row.dataset.system === name));
  }
}

function choose(index, system, role = "focus") {
  const { className, dataset } = document.activeElement || {};
  chosen[index][role] = system;
  drawSuite(index);
  // What was drawn anew has lost the focus of the keyboard; its successor gets it.
  if (dataset?.role) sections[index].querySelector(`select[data-role="${dataset.role}"]`)?.focus();
  else if (className?.baseVal?.match(/point|series/)) {
    sections[index].querySelector(`.${className.baseVal.split(" ")[0]}.chosen`)?.focus();
  }
}

function parted(hash) {
  const [, slug, kind, qid] = hash.replace(/^#/, "").split("/").map((part) => {
    try {
      return decodeURIComponent(part);
    } catch {
      return part; // A per cent sign that somebody typed.
    }
  });
  const suite = Math.max(0, SUITES.findIndex((entry) => entry.slug === slug));
  const place = kind === "q" ? SUITES[suite].qids.indexOf(qid) : -1;
  return { suite, query: place < 0 ? null : place, unknown: kind === "q" && place < 0 };
}

function show() {
  const before = current;
  current = parted(location.hash);
  const asked = current.query !== null;
  overview.hidden = asked;
  queryPage.hidden = !asked;
  if (asked) {
    drawQuery(queryPage, current.suite, current.query);
    document.title = `${clipped(SUITES[current.suite].queries[current.query], 60)} · Podium`;
    scrollTo({ top: 0, behavior: "instant" });
    queryPage.querySelector("h1").focus({ preventScroll: true });
    return;
  }
  sections.forEach((section, index) => (section.hidden = index !== current.suite));
  pages.forEach((link, index) => (index === current.suite ? link.setAttribute("aria-current", "page") : link.removeAttribute("aria-current")));
  document.title = `Podium: ${SUITES[current.suite].name}`;
  drawSuite(current.suite);
  drawPlots();
  if (before.query !== null) {
    const link = [...sections[current.suite].querySelectorAll(".bar-link")].find((entry) => entry.getAttribute("href") === address(SUITES[before.suite], SUITES[before.suite].qids[before.query]));
    link?.scrollIntoView({ block: "center", behavior: "instant" });
    link?.focus({ preventScroll: true });
  }
}

function sortBy(button) {
  const head = button.closest("th");
  const table = head.closest("table");
  const column = [...head.parentNode.children].indexOf(head);
  const was = head.getAttribute("aria-sort");
  for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
  const rows = [...table.tBodies[0].rows].map((row) => ({ row, cell: row.cells[column] }));
  const words = rows.every(({ cell }) => !cell.hasAttribute("data-v"));
  // Figures begin with the highest, names with A; the second click turns them round.
  const sense = was === "descending" || (words && was !== "ascending") ? "ascending" : "descending";
  const sign = sense === "ascending" ? 1 : -1;
  head.setAttribute("aria-sort", sense);
  const value = ({ cell }) => (words ? cell.textContent : cell.dataset.v ? Number(cell.dataset.v) : null);
  rows.sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === null || y === null) return (x === null) - (y === null); // What is not known stands last either way.
    return sign * (words ? x.localeCompare(y, "en", { numeric: true }) : x - y);
  });
  table.tBodies[0].append(...rows.map(({ row }) => row));
}

function theme() {
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (document.documentElement.dataset.theme || (system.matches ? "dark" : "light")) === "dark";
  const tell = () => {
    button.textContent = dark() ? "Light" : "Dark";
    button.setAttribute("aria-label", dark() ? "use light colours" : "use dark colours");
  };
  button.removeAttribute("aria-pressed");
  button.hidden = false;
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = dark() ? "light" : "dark";
    tell();
  });
  system.addEventListener("change", tell);
  tell();
}

document.addEventListener("click", (event) => {
  const sort = event.target.closest("button.sort");
  if (sort) sortBy(sort);
  const pick = event.target.closest("button.pick");
  if (pick) choose(current.suite, SUITES[current.suite].systems.findIndex((system) => system.name === pick.dataset.system));
});

let width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === width) return; // A phone's bars come and go as one scrolls.
  width = innerWidth;
  requestAnimationFrame(show);
});
addEventListener("hashchange", show);
theme();
show();
