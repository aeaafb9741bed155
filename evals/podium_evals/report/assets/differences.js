// A bar a query, sorted: how much better one system is than another, and on which queries. A bar leads to its query.

const BAR_MIN = 3; // A narrower bar cannot be pointed at; the picture scrolls instead.
const EXTREMES = 5;
const FOUND_MAX = 40;

function differencesOf(suite, index) {
  const { focus, against } = chosen[index];
  const [mine, theirs] = [suite.systems[focus].values, suite.systems[against].values];
  return suite.qids
    .map((qid, place) => ({ qid, place, gap: mine[place] - theirs[place], query: suite.queries[place] }))
    .sort((a, b) => b.gap - a.gap || a.place - b.place);
}

function drawDifferences(area, suite, index) {
  const sorted = differencesOf(suite, index);
  const readout = el("p", { class: "readout", "aria-live": "polite" }, summed(suite, index, sorted));
  const found = el("div", { class: "extremes" });
  const list = (query) => found.replaceChildren(...(query ? matching(suite, sorted, query) : extremes(suite, sorted)));
  const search = el("input", { type: "search", placeholder: "words of a query, or its id", "aria-label": "find a query", oninput: () => list(search.value.trim().toLowerCase()) });
  list("");
  area.replaceChildren(
    el("div", { class: "controls" }, picker(suite, index, "focus", "of"), picker(suite, index, "against", "against"), search),
    bars(suite, sorted, area.clientWidth, readout),
    readout,
    found,
  );
}

function picker(suite, index, role, word) {
  const options = suite.systems.map((system, place) => el("option", { value: place, selected: place === chosen[index][role] }, system.name));
  const select = el("select", { "data-role": role, onchange: () => choose(index, Number(select.value), role) }, options);
  return el("label", {}, word, select);
}

function summed(suite, index, sorted) {
  const [focus, against] = [suite.systems[chosen[index].focus], suite.systems[chosen[index].against]];
  const better = sorted.filter((entry) => entry.gap > 1e-6).length;
  const worse = sorted.filter((entry) => entry.gap < -1e-6).length;
  const even = sorted.length - better - worse;
  return el("span", {}, el("b", {}, focus.name), ` is better than ${against.name} on ${better}, worse on ${worse}, and equal on ${even} of ${sorted.length} queries; mean difference `, el("b", {}, signed(focus.mean - against.mean)), ".");
}

function bars(suite, sorted, room, readout) {
  const [left, height, top] = [40, room < 420 ? 190 : 230, 10];
  const step = Math.max(BAR_MIN, Math.min(44, (room - left - 2) / sorted.length));
  const width = Math.ceil(left + step * sorted.length + 2);
  const reach = Math.max(0.02, ...sorted.map((entry) => Math.abs(entry.gap)));
  const low = Math.min(0, ...sorted.map((entry) => entry.gap)) < -1e-6 ? Math.min(...sorted.map((entry) => entry.gap)) : -reach * 0.06;
  const high = Math.max(reach * 0.06, ...sorted.map((entry) => entry.gap));
  const y = linear(low, high, height - 10, top, 4);
  const drawn = canvas(width, height, "differences by query, the largest gain first; arrow keys go from bar to bar, Enter opens the query");
  drawn.append(
    svg(
      "g",
      { class: "axis", "aria-hidden": "true" },
      y.ticks.map((tick) => [
        svg("line", { x1: left, x2: width, y1: y(tick), y2: y(tick), class: tick === 0 ? "zero" : "" }),
        svg("text", { x: left - 8, y: y(tick) + 4, "text-anchor": "end" }, tick === 0 ? "0" : signed(tick, tick * 10 === Math.round(tick * 10) ? 1 : 2)),
      ]),
    ),
  );
  const links = sorted.map((entry, k) => {
    const at = left + k * step;
    const [from, to] = [Math.min(y(0), y(entry.gap)), Math.max(y(0), y(entry.gap))];
    const even = Math.abs(entry.gap) <= 1e-6;
    const tell = () => readout.replaceChildren(el("b", {}, signed(entry.gap)), ` ${entry.query}`);
    return svg(
      "a",
      { href: address(suite, entry.qid), class: "bar-link", tabindex: k ? -1 : 0, "aria-label": `${signed(entry.gap)} ${clipped(entry.query, 120)}`, onpointerenter: tell, onfocus: tell },
      svg("rect", { x: at, y: top, width: step, height: height - 10 - top, class: "hit" }),
      svg("rect", {
        x: at + (step > 20 ? 2 : step > 5 ? 1 : 0.4),
        y: even ? y(0) - 1 : from,
        width: step - (step > 20 ? 4 : step > 5 ? 2 : 0.8),
        height: even ? 2 : Math.max(1, to - from),
        rx: step > 8 ? 1.5 : 0,
        class: `bar${even ? " even" : entry.gap < 0 ? " down" : ""}`,
      }),
    );
  });
  drawn.append(...links);
  drawn.addEventListener("keydown", (event) => moveAmong(links, event));
  return el("div", { class: "scroll-x" }, drawn);
}

// One bar is in the order of the tab key; the arrows go on from there.
function moveAmong(links, event) {
  const here = links.indexOf(document.activeElement);
  const to = { ArrowRight: here + 1, ArrowLeft: here - 1, Home: 0, End: links.length - 1 }[event.key];
  if (here < 0 || to === undefined || !links[to]) return;
  event.preventDefault();
  links[here].setAttribute("tabindex", -1);
  links[to].setAttribute("tabindex", 0);
  links[to].focus();
}

function entries(suite, listed) {
  return el(
    "ol",
    {},
    listed.map((entry) =>
      el(
        "li",
        {},
        el("span", { class: entry.gap > 1e-6 ? "gain" : entry.gap < -1e-6 ? "loss" : "faint" }, signed(entry.gap)),
        el("a", { href: address(suite, entry.qid) }, clipped(entry.query, 110) || `query ${entry.qid}`),
      ),
    ),
  );
}

function extremes(suite, sorted) {
  const gains = sorted.filter((entry) => entry.gap > 1e-6).slice(0, EXTREMES);
  const losses = sorted.filter((entry) => entry.gap < -1e-6).slice(-EXTREMES).reverse();
  return [
    el("div", {}, el("h4", {}, "Gained most"), gains.length ? entries(suite, gains) : el("p", { class: "missing" }, "None gained.")),
    el("div", {}, el("h4", {}, "Lost most"), losses.length ? entries(suite, losses) : el("p", { class: "missing" }, "None lost.")),
  ];
}

function matching(suite, sorted, wanted) {
  const found = sorted.filter((entry) => entry.query.toLowerCase().includes(wanted) || entry.qid.toLowerCase() === wanted);
  const shown = found.slice(0, FOUND_MAX);
  const title = found.length > shown.length ? `${found.length} queries, of which the first ${shown.length}` : `${found.length} found`;
  return [el("div", {}, el("h4", {}, title), entries(suite, shown))];
}
